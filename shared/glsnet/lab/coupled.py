"""A run of a coupling: pairs of distributions through Bob and K Alices, in this process or over gRPC, to one result.

    run_coupling   pairs, in batches -> parties -> items -> rates beside theory, messages, bits
    _direct        the sessions in this process, frame bytes handed over
    _over_grpc     the sessions in services, conducted over the control plane
"""

import asyncio
import hashlib
import math
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from glsnet import bounds
from glsnet.conversation import AliceSession, BobSession, Draw, Drawn, Exchange, terms_of
from glsnet.coupling import Scheme, draw_minhash, draw_x
from glsnet.errors import CallerError
from glsnet.frames import Terms, Traffic, Turn, carried
from glsnet.lab.feeding import WINDOW
from glsnet.lab.pairs import Pair
from glsnet.lab.plan import Parties
from glsnet.lab.processes import local_parties
from glsnet.lab.runner import conducted, per_sample
from glsnet.lab.settings import CouplingRun
from glsnet.lab.tally import Mean
from glsnet.race import FloatArray
from glsnet.randomness import MAX_ROUNDS, seed_from_integer, session_key
from glsnet.transport.control import Conductor
from glsnet.transport.exchange import Metered

DEFAULT_EPSILON = 0.1


@dataclass(frozen=True)
class Batch:
    """Consecutive rounds of one pair, and what Bob and the K Alices drew in them."""

    pair: int
    bob: Drawn
    alices: list[Drawn]


class Ended(NamedTuple):
    """The end of a run: each Alice's bytes; those of the network only over gRPC."""

    metered: list[Metered]
    on_network: bool


def scheme_of(settings: CouplingRun) -> Scheme:
    """The settings' scheme; raises CallerError if it does not go with K or epsilon."""
    default = DEFAULT_EPSILON if settings.scheme == "low-communication" else None
    return Scheme(settings.scheme, settings.decoders, default if settings.epsilon is None else settings.epsilon)


async def run_coupling(settings: CouplingRun, pairs: Sequence[Pair], parties: Parties | None,
                       progress: Callable[[int, Mean], None]) -> dict[str, Any]:
    """Draw `settings.rounds` coupled samples from every pair, and measure.

    Args:
        settings: the run's.
        pairs: all over alphabets of one size.
        parties: services to use over gRPC; None starts them on this machine and stops them again.
        progress: called after every batch with the samples so far and their match rate.

    Returns:
        the result, ready for JSON.

    Raises:
        CallerError: the settings or the pairs do not go together.
        GlsnetError: a party cannot be reached, refuses, or is lost.
    """
    scheme, seed = scheme_of(settings), seed_from_integer(settings.seed)
    for pair in pairs:
        if pair.p.size != pairs[0].p.size:
            raise CallerError(f"pair {pair.name}: expected {pairs[0].p.size} items, as in pair {pairs[0].name}, got "
                              f"{pair.p.size}; give all pairs over one alphabet, zeros included")
    if len(pairs) * settings.rounds > MAX_ROUNDS:
        raise CallerError(f"rounds: expected at most {MAX_ROUNDS // len(pairs)} for each of {len(pairs)} pairs, got "
                          f"{settings.rounds}")
    terms = terms_of(scheme, pairs[0].p.size, seed)
    tally = Tally(scheme, pairs)
    ended = None
    async with AsyncExitStack() as stack:
        if settings.transport == "direct":
            batches = _direct(settings, scheme, seed, terms, pairs)
        else:
            if parties is None:
                _compile_once(scheme)
                encoder, alices = await stack.enter_async_context(local_parties(scheme.decoders))
                parties = Parties(encoder.address, [each.address for each in alices])
            batches = _over_grpc(settings, seed, terms, pairs, parties)
        since = math.nan
        async for item in await stack.enter_async_context(aclosing(batches)):
            match item:
                case None:
                    since = time.perf_counter()
                case Batch():
                    tally.add(item)
                    seconds = time.perf_counter() - since
                    progress(tally.samples, tally.match)
                case Ended():
                    ended = item
    assert ended is not None
    return tally.result(settings, ended) | {"samples_per_second": tally.samples / seconds}


def _draws(settings: CouplingRun, pairs: Sequence[Pair]) -> Iterator[tuple[int, Draw, Draw]]:
    """Batch by batch: which pair, what an Alice draws from, what Bob draws from."""
    for at, (_, p, q) in enumerate(pairs):
        for start in range(0, settings.rounds, settings.frame):
            rounds = min(settings.frame, settings.rounds - start)
            yield at, Draw(rounds, p), Draw(rounds, q)


async def _direct(settings: CouplingRun, scheme: Scheme, seed: bytes, terms: Terms, pairs: Sequence[Pair]
                  ) -> AsyncGenerator[Batch | Ended | None]:
    bob = BobSession("direct", seed, scheme, pairs[0].p.size)
    alices = [AliceSession("direct", seed, terms, k) for k in range(scheme.decoders)]
    down, up = [[0, 0] for _ in alices], [[0, 0] for _ in alices]  # packed, protobuf

    for k, alice in enumerate(alices):
        agreed = alice.agree(carried(bob.join(carried(alice.join())[0]))[0])
        ack, size = carried(agreed)
        bob.receive(k, ack)
        up[k][1] += size
    yield None
    for at, hers, his in _draws(settings, pairs):
        exchange, others = bob.begin(his), [alice.begin(hers) for alice in alices]
        _talk(exchange, others, down, up)
        drawn, drawn_by = exchange.drawn, [other.drawn for other in others]
        assert drawn is not None
        bob.finish(drawn)
        batch = Batch(at, drawn, [each for each in drawn_by if each is not None])
        for alice, each in zip(alices, batch.alices, strict=True):
            alice.finish(each)
        yield batch
        await asyncio.sleep(0)  # lets Ctrl-C in
    for k, alice in enumerate(alices):
        end, size = carried(bob.end())
        down[k][1] += size
        last, size = carried(alice.end(end))
        up[k][1] += size
        bob.receive(k, last)
    none = Traffic(0, 0, 0, None)
    yield Ended([Metered(none, none, Traffic(d[0], d[1], 0, None), Traffic(u[0], u[1], 0, None))
                 for d, u in zip(down, up, strict=True)], on_network=False)


def _talk(bob: Exchange, alices: Sequence[Exchange], down: list[list[int]], up: list[list[int]]) -> None:
    """One batch: every turn to the other side, as bytes, until nobody has anything to say."""
    to_bob: deque[Turn] = deque()
    to_alice: deque[Turn] = deque()

    def say(turns: Iterator[Turn], to: deque[Turn], counts: Sequence[list[int]]) -> None:
        for turn in turns:
            arrived, size = carried(turn)
            to.append(arrived)
            for count in counts:
                count[0] += len(turn.packed)
                count[1] += size
            if to is to_bob:  # he takes each as it comes: a whole distribution is large
                say(bob.take(to_bob.popleft()), to_alice, down)

    say(bob.take(None), to_alice, down)
    for k, alice in enumerate(alices):
        say(alice.take(None), to_bob, [up[k]])
    while to_alice:  # only one Alice talks
        say(alices[0].take(to_alice.popleft()), to_bob, up)


async def _over_grpc(settings: CouplingRun, seed: bytes, terms: Terms, pairs: Sequence[Pair], parties: Parties
                     ) -> AsyncGenerator[Batch | Ended | None]:
    async with conducted(parties, seed, terms, [None] * len(parties.decoders)) as (bob, alices):
        yield None
        under_way: deque[int] = deque()

        async def collect() -> Batch:
            drawn = await asyncio.gather(bob.drawn(), *(alice.drawn() for alice in alices))
            return Batch(under_way.popleft(), drawn[0], list(drawn[1:]))

        for at, hers, his in _draws(settings, pairs):
            await asyncio.gather(bob.draw(his), *(alice.draw(hers) for alice in alices))
            under_way.append(at)
            if len(under_way) >= WINDOW:
                yield await collect()
        everyone: list[Conductor] = [bob, *alices]
        await asyncio.gather(*(party.end() for party in everyone))
        while under_way:
            yield await collect()
        closed = await asyncio.gather(*(party.closed() for party in everyone))
        yield Ended([each.metered for each in closed if each.metered], on_network=True)


def _compile_once(scheme: Scheme) -> None:
    """Fill the cache of compiled kernels, which the parties' processes then share, instead of compiling in each."""
    key = session_key(bytes(32), "compile")
    draw_minhash(key, 0, 1, [1.0]) if scheme.name == "minhash" else draw_x(key, 0, 1, [1.0], 0)


def promised(scheme: Scheme, p: FloatArray, q: FloatArray) -> tuple[float, float]:
    """What theory says of Pr[match], at least and at most; the same number twice where it is exact."""
    optimum = bounds.optimal_match(p, q)
    match scheme.name:
        case "gumbel":
            return (exact := bounds.gumbel_match(p, q)), exact
        case "minhash":
            return (exact := bounds.minhash_match(p, q)), exact
        case "gls":
            return bounds.list_matching_lemma(p, q, scheme.decoders), bounds.optimal_list_match(p, q, scheme.decoders)
        case "equality-check":
            return (exact := bounds.equality_check_match(p, q, scheme.decoders)), exact
        case "low-communication":
            assert scheme.epsilon is not None
            return max(optimum - scheme.epsilon, 0.0), optimum
    return optimum, optimum


class Tally:
    """Matches, messages and items of a run that is going on."""

    def __init__(self, scheme: Scheme, pairs: Sequence[Pair]) -> None:
        self._scheme, self._pairs = scheme, pairs
        self.samples = 0
        self.match = Mean()
        self._match_of = [Mean() for _ in pairs]
        self._messages = self._squares = 0  # of rounds: how many messages with an index
        self._trips = 0  # of rounds: how many one-way trips until both have their items
        self._turns: list[int] = []  # of batches: how many frames
        self._bits = {"down": 0.0, "up": 0.0}
        self._digest = hashlib.sha256()

    def add(self, batch: Batch) -> None:
        """One batch."""
        match = np.any([alice.items == batch.bob.items for alice in batch.alices], axis=0).astype(np.float64)
        self.samples += match.size
        self.match.add(match)
        self._match_of[batch.pair].add(match)
        for drawn in (batch.bob, *batch.alices):
            self._digest.update(drawn.items.astype("<i8").tobytes())
        self._bits["down"] += batch.bob.bits_sent
        self._bits["up"] += sum(alice.bits_sent for alice in batch.alices) / len(batch.alices)
        indices = batch.bob.indices
        self._turns.append(len(indices))
        if self._scheme.name == "whole-distribution":  # one round each
            self._messages += len(indices)
            self._squares += len(indices)
            self._trips += len(indices)
        elif indices:  # the n-th one with indices has them for the rounds that take n messages or more
            held = [count for count in indices if count]
            self._messages += sum(held)
            self._squares += sum((2 * n + 1) * count for n, count in enumerate(held))
            rejected = held[1] if len(held) > 1 else 0
            self._trips += 2 * (held[0] - rejected) + rejected + 2 * sum(held[1:])  # a dart rejects what was before it

    def result(self, settings: CouplingRun, ended: Ended) -> dict[str, Any]:
        """What was measured, beside what theory promises; numbers as `glsnet run --json` prints them."""
        promises = [promised(self._scheme, p, q) for _, p, q in self._pairs]
        mean, square = self._messages / self.samples, self._squares / self.samples
        down, up = ([getattr(each, way) for each in ended.metered] for way in ("rounds_down", "rounds_up"))
        of_each = [
            {"pair": name, "total_variation": bounds.total_variation(p, q), "match_rate": match.value,
             "match_rate_error": match.error, "match_at_least": low, "match_at_most": high}
            for (name, p, q), match, (low, high) in zip(self._pairs, self._match_of, promises, strict=True)
        ]
        return {
            "samples": self.samples,
            "pairs": len(self._pairs),
            "items": self._pairs[0].p.size,
            "scheme": self._scheme.name,
            "decoders": self._scheme.decoders,
            "epsilon": self._scheme.epsilon,
            "seed": settings.seed,
            "transport": settings.transport,
            "frame": settings.frame,
            "total_variation": float(np.mean([each["total_variation"] for each in of_each])),
            "match_rate": self.match.value,
            "match_rate_error": self.match.error,
            "match_at_least": float(np.mean([low for low, _ in promises])),
            "match_at_most": float(np.mean([high for _, high in promises])),
            "messages_per_sample": mean,
            "messages_per_sample_error": math.sqrt(max(square - mean**2, 0.0) / self.samples),
            "trips_per_sample": self._trips / self.samples,
            "frames_per_batch": float(np.mean(self._turns)),
            "bits_per_sample": {
                way: {"information": self._bits[way] / self.samples}
                | per_sample(traffic, self.samples, ended.on_network)
                for way, traffic in (("down", down), ("up", up))
            },
            "setup_bytes": {way: [getattr(each, f"setup_{way}").stream for each in ended.metered]
                            if ended.on_network else None for way in ("down", "up")},
            "items_digest": self._digest.hexdigest(),
            "per_pair": of_each,
        }
