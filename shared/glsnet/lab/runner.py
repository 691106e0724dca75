"""A run: Nature's samples through an encoder and K decoders, in this process or over gRPC, to one result.

    run            frames of samples -> parties -> tally -> result
    play           the same for any code: what the parties drew, frame by frame
    _direct        the sessions in this process, frame bytes handed over
    _over_grpc     the sessions in services, conducted over the control plane
"""

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from glsnet.codes import decoding
from glsnet.compression import (
    DecoderCode,
    DecoderSession,
    EncoderCode,
    EncoderSession,
    Outcomes,
    Samples,
    terms_of,
)
from glsnet.errors import FrameError
from glsnet.frames import Terms, Traffic, carried
from glsnet.lab.nature import Nature
from glsnet.lab.processes import local_parties
from glsnet.lab.settings import GaussianRun
from glsnet.lab.tally import Tally
from glsnet.lab.tuning import code_of
from glsnet.randomness import seed_from_integer
from glsnet.sources.gaussian import Gaussian, SideInformation
from glsnet.transport.control import Closed, Conductor, DecoderOrder, conducting
from glsnet.transport.exchange import Metered

WINDOW = 8  # frames under way


@dataclass(frozen=True)
class Parties:
    """Addresses, HOST:PORT, of services that run already."""

    encoder: str
    decoders: list[str]


@dataclass(frozen=True)
class Drawn:
    """One frame's samples, R and [R, K] of them, and what the parties drew for them."""

    a: Samples
    t: Samples
    y: Outcomes
    x: list[Outcomes]


@dataclass(frozen=True)
class Ended:
    """The end of a run: the digest of all indices, and each decoder's bytes; those of the network only over gRPC.

    `seconds` says, over gRPC, on what each party has spent them, the encoder first; `elapsed` is the lab's.
    """

    digest: bytes
    metered: list[Metered]
    on_network: bool
    seconds: list[dict[str, float]] = field(default_factory=list)
    elapsed: float = math.nan


async def run(settings: GaussianRun, nature: Nature, parties: Parties | None, progress: Callable[[Tally], None],
              sink: Callable[[Drawn], None]) -> dict[str, Any]:
    """Code all of Nature's samples and measure.

    Args:
        settings: the run's.
        nature: the samples and their model.
        parties: services to use over gRPC; None starts them on this machine and stops them again.
        progress: called after every frame.
        sink: takes every frame's outcomes.

    Returns:
        the result, ready for JSON.

    Raises:
        GlsnetError: a party cannot be reached, refuses, or is lost.
    """
    code = code_of(settings, nature.source, nature.sides)
    tally = Tally(nature, code)

    def take(drawn: Drawn) -> None:
        tally.add(drawn.a, drawn.t, drawn.y, drawn.x)
        sink(drawn)
        progress(tally)

    decodings = [decoding(partial(_given, side)) for side in nature.sides]
    plan = Plan(settings.transport, seed_from_integer(settings.seed), code, decodings, nature.sides, nature.frames)
    ended = await play(plan, parties, take)
    speed = {"samples_per_second": tally.samples / ended.elapsed}
    return tally.result(settings) | speed | bits_of(ended, tally.samples, code.l_max)


def _given(side: SideInformation, source: Gaussian) -> SideInformation:
    return side


@dataclass(frozen=True)
class Plan:
    """What is to be coded, and by which halves of a code.

    `decoders` makes each decoder's half where all runs in this process; services make it from the terms and, of a
    Gaussian source, `sides`. `frames()` gives a and t, R and [R, K] samples, frame by frame. `options` are those of
    parties that are started here.
    """

    transport: str
    seed: bytes
    code: EncoderCode
    decoders: Sequence[Callable[[Terms], DecoderCode]]
    sides: Sequence[SideInformation | None]
    frames: Callable[[], Iterator[tuple[Samples, Samples]]]
    options: tuple[str, ...] = ()


async def play(plan: Plan, parties: Parties | None, take: Callable[[Drawn], None]) -> Ended:
    """Have all samples coded, give every frame's outcomes to `take`, and the end; see `run`."""
    async with AsyncExitStack() as stack:
        if plan.transport == "direct":
            outcomes = _direct(plan)
        else:
            if parties is None:
                compile_once(plan)
                local = await stack.enter_async_context(local_parties(len(plan.decoders), *plan.options))
                parties = Parties(*local)
            outcomes = _over_grpc(plan, parties)
        since = elapsed = math.nan
        async for item in await stack.enter_async_context(aclosing(outcomes)):
            match item:
                case None:
                    since = time.perf_counter()
                case Drawn():
                    take(item)
                    elapsed = time.perf_counter() - since
                case Ended():
                    return replace(item, elapsed=elapsed)
    raise AssertionError("a run ends with Ended")


async def _direct(plan: Plan) -> AsyncGenerator[Drawn | Ended | None]:
    encoder, terms = EncoderSession("direct", plan.code, plan.seed), terms_of(plan.code, plan.seed)
    decoders = [DecoderSession("direct", code_of, plan.seed, terms, k) for k, code_of in enumerate(plan.decoders)]
    packed = protobuf = 0
    acks = [0] * len(decoders)
    for k, decoder in enumerate(decoders):
        join, _ = carried(decoder.join())
        terms_given, _ = carried(encoder.join(join))
        agreed, acks[k] = carried(decoder.agree(terms_given))
        encoder.receive(k, agreed)
    yield None
    for a, t in plan.frames():
        frame, y = encoder.encode(a)
        arrived, size = carried(frame)
        packed, protobuf = packed + len(frame.packed), protobuf + size
        x = []
        for k, decoder in enumerate(decoders):
            drawn, ack = decoder.decode(arrived, np.ascontiguousarray(t[:, k]))
            if ack is not None:
                ack, size = carried(ack)
                acks[k] += size
                encoder.receive(k, ack)
            x.append(drawn)
        yield Drawn(a, t, y, x)
        await asyncio.sleep(0)  # lets Ctrl-C in
    end, size = carried(encoder.end())
    protobuf += size
    for k, decoder in enumerate(decoders):
        if (last := decoder.end(end)) is not None:
            last, size = carried(last)
            acks[k] += size
            encoder.receive(k, last)
    none = Traffic(0, 0, 0, None)
    metered = [Metered(none, none, Traffic(packed, protobuf, 0, None), Traffic(0, up, 0, None)) for up in acks]
    yield Ended(encoder.digest, metered, on_network=False)


async def _over_grpc(plan: Plan, parties: Parties) -> AsyncGenerator[Drawn | Ended | None]:
    terms = terms_of(plan.code, plan.seed)
    async with conducted(parties, os.urandom(8).hex(), plan.seed, terms, plan.sides) as (encoder, decoders):
        yield None
        under_way: deque[tuple[Samples, Samples]] = deque()

        async def collect() -> Drawn:
            y, *x = await asyncio.gather(encoder.outcomes(), *(decoder.outcomes() for decoder in decoders))
            for drawn in x:
                if not np.array_equal(drawn.message, y.message):
                    raise FrameError(f"round {y.first_round}: a decoder took other indices than the encoder sent")
            return Drawn(*under_way.popleft(), y, x)

        for a, t in plan.frames():
            if len(under_way) == WINDOW:
                yield await collect()
            under_way.append((a, t))
            await asyncio.gather(encoder.send(a), *(
                decoder.send(np.ascontiguousarray(t[:, k])) for k, decoder in enumerate(decoders)
            ))
        while under_way:
            yield await collect()
        await encoder.end()
        digest, metered, seconds = await closings(encoder, decoders)
        yield Ended(digest, metered, on_network=True, seconds=seconds)


@asynccontextmanager
async def conducted(parties: Parties, session: str, seed: bytes, terms: Terms, sides: Sequence[SideInformation | None]
                    ) -> AsyncIterator[tuple[Conductor, list[Conductor]]]:
    """Open a session at an encoder and its decoders; give them once all have agreed."""
    async with AsyncExitStack() as stack:
        encoder = await stack.enter_async_context(
            conducting(parties.encoder, f"encoder {parties.encoder}", session, seed, terms, None)
        )
        await encoder.opened()
        decoders = [
            await stack.enter_async_context(conducting(
                address, f"decoder {k} at {address}", session, seed, terms, DecoderOrder(parties.encoder, k, side)
            ))
            for k, (address, side) in enumerate(zip(parties.decoders, sides, strict=True))
        ]
        await asyncio.gather(*(decoder.opened() for decoder in decoders))
        yield encoder, decoders


async def closings(encoder: Conductor, decoders: Sequence[Conductor]
                   ) -> tuple[bytes, list[Metered], list[dict[str, float]]]:
    """The end of a session: the encoder's digest, what each decoder's exchange took, and each party's seconds."""
    closed: Sequence[Closed] = await asyncio.gather(encoder.closed(), *(each.closed() for each in decoders))
    return closed[0].digest, [each.metered for each in closed if each.metered], [each.seconds for each in closed]


def compile_once(plan: Plan) -> None:
    """Fill the cache of compiled kernels, which the parties' processes then share, instead of compiling in each."""
    a, t = next(plan.frames())
    key, code, decoder = np.uint64(0), plan.code, plan.decoders[0](plan.code.terms())
    messages, _ = code.encode(key, 0, a[:1])
    data = code.pack(key, 0, messages)
    decoder.decode(key, 0, np.ascontiguousarray(t[:1, 0]), decoder.unpack(key, 0, 1, data), 0)


def bits_of(ended: Ended, samples: int, l_max: int) -> dict[str, Any]:
    """Bits per sample at every layer, towards each decoder, warm; and the way back and the set-up apart."""
    down = [each.rounds_down for each in ended.metered]
    setups = {"down": [each.setup_down.stream for each in ended.metered],
              "up": [each.setup_up.stream for each in ended.metered]}
    return {
        "bits_per_sample": {"information": math.log2(l_max)} | per_sample(down, samples, ended.on_network),
        "bits_per_sample_of_each_decoder": [per_sample([each], samples, ended.on_network) for each in down],
        "uplink_bits_per_sample": per_sample([each.rounds_up for each in ended.metered], samples, ended.on_network),
        "setup_bytes": setups if ended.on_network else {"down": None, "up": None},
        "indices_digest": ended.digest.hex(),
    }


def per_sample(traffic: Sequence[Traffic], samples: int, on_network: bool) -> dict[str, float | None]:
    """Bits per sample at each layer below the indices' information, the mean over the decoders given."""
    scale = 8 / (samples * len(traffic))
    ip = [each.ip for each in traffic if each.ip is not None]
    return {
        "packed": scale * sum(each.packed for each in traffic),
        "protobuf": scale * sum(each.protobuf for each in traffic),
        "stream": scale * sum(each.stream for each in traffic) if on_network else None,
        "ip": scale * sum(ip) if len(ip) == len(traffic) else None,
    }
