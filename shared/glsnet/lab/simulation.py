"""Runs in virtual time: the parties' own loops over a simulated network, with crashes, and what came of them.

    compression     an encoder and K decoders -> Simulated: each frame's outcomes, when each party had them
    speculation     a target, its draft servers and clients -> texts, and how they went
    Rounds          what a party has recorded, and what it has told: both outlive its crashes

Same seed, same faults, same settings: the same trace, byte for byte; its digest says so.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from glsnet.compression import DecoderSession, EncoderSession, Outcomes, Samples, terms_of
from glsnet.drafting import SESSION, DraftSession
from glsnet.errors import GlsnetError, TransportError
from glsnet.faults import Fault
from glsnet.generation import Asked, Finished, Mark, Piece
from glsnet.journal import Entry
from glsnet.lab.feeding import Frame
from glsnet.lab.plan import Plan
from glsnet.language.synthetic import SyntheticModel
from glsnet.speculation import Generation, TargetSession
from glsnet.transport import exchange, parties, speculating, virtual
from glsnet.transport.exchange import Broadcast, Metered
from glsnet.transport.pipes import Net
from glsnet.transport.rpc import SILENCE_SECONDS
from glsnet.transport.simulated import Network

T = TypeVar("T")
ENCODER, TARGET = "encoder", "target"
GENERATE = f"{TARGET}:generate"


@dataclass(frozen=True)
class Costs:
    """Seconds that computing takes in virtual time: one frame at the encoder, and at a decoder."""

    encode: float = 0.0
    decode: float = 0.0


@dataclass
class Rounds:
    """A party's disk, and what it has told the lab: when, in virtual seconds, and what."""

    journal: list[Entry] = field(default_factory=list)
    reports: list[tuple[float, Outcomes]] = field(default_factory=list)
    next_round: int = 0  # that the lab has not got
    lost: list[tuple[int, int]] = field(default_factory=list)
    ended: bool = False
    error: str = ""
    starts: int = 0

    async def report(self, outcomes: Outcomes) -> None:
        """Tell the lab, once, however often it is tried."""
        if outcomes.first_round >= self.next_round:
            self.reports.append((asyncio.get_running_loop().time(), outcomes))
            self.next_round = outcomes.first_round + outcomes.message.size


@dataclass
class Simulated:
    """A run that is over.

    Attributes:
        encoder, decoders: what each party has done.
        offered: when each frame's samples were there, virtual seconds, by first round.
        seconds: virtual, in all.
        network: as it was left: its digest, and what it has realised.
        metered: each decoder's bytes, None of one that has not come to its end.
    """

    encoder: Rounds
    decoders: list[Rounds]
    offered: dict[int, float]
    seconds: float
    network: Network
    metered: list[Metered | None]


def compression(plan: Plan, faults: Sequence[Fault], seed: int, *, patience: float, every: float = 0.0,
                costs: Costs = Costs(), limit: float | None = None, silence: float = SILENCE_SECONDS,
                record: Callable[[bytes], None] | None = None) -> Simulated:
    """Play a plan in virtual time.

    Args:
        plan: what is to be coded, by which halves of a code.
        faults: of links and parties; see `faults`.
        seed: of the network's chances, not of the shared randomness.
        patience: as of `parties.run_encoder` and `exchange.staying`, virtual seconds.
        every: virtual seconds between the samples of one frame and the next; 0: they are all there at once.
        costs: of computing.
        limit: virtual seconds after which the run has to be over.
        silence: virtual seconds after which a connection is found dead.
        record: takes each line of the trace.

    Raises:
        TimeoutError: it was not over by `limit`; the text says who waited for what.
        GlsnetError: the encoder has failed.
    """
    return virtual.run(_compression(plan, faults, seed, patience, every, costs, silence, record), limit=limit)


async def _compression(plan: Plan, faults: Sequence[Fault], seed: int, patience: float, every: float, costs: Costs,
                       silence: float, record: Callable[[bytes], None] | None) -> Simulated:
    loop = asyncio.get_running_loop()
    network = Network(seed, faults, silence=silence, record=record)
    frames: list[Frame] = []
    rounds = 0
    for a, t in plan.frames():
        frames.append(Frame(rounds, a, t))
        rounds += len(a)
    names = [f"decoder {k}" for k in range(len(plan.decoders))]
    done = {name: Rounds() for name in (ENCODER, *names)}
    metered: dict[str, Metered] = {}
    over = {name: asyncio.Event() for name in done}
    terms = terms_of(plan.code, plan.seed)
    late = sum(fault.kind == "late" for fault in faults)

    async def encoder() -> None:
        own = done[ENCODER]
        session = EncoderSession("simulated", plan.code, plan.seed)
        for entry in own.journal:
            session.restore(entry.frame, entry.outcomes)
            await own.report(entry.outcomes)
        broadcast = Broadcast(session)
        broadcasts = {session.session: broadcast}
        network.listen(ENCODER, partial(exchange.serve_join, broadcasts=broadcasts))
        wait_for = 1 if own.starts > 1 else len(names) - late

        async def samples() -> AsyncIterator[Samples]:
            for number, frame in enumerate(frames):
                if frame.first_round >= session.next_round:
                    await asyncio.sleep(number * every - loop.time())
                    yield frame.a

        net = network.net(ENCODER, lambda _: costs.encode)
        await parties.run_encoder(net, broadcast, samples(), own.report, own.journal, wait_for, patience)
        broadcasts.clear()

    async def decoder(k: int, name: str) -> None:
        own = done[name]
        session = DecoderSession("simulated", plan.decoders[k], plan.seed, terms, k, party=name.encode())
        session.lost = own.lost
        for entry in own.journal:
            session.restore(entry.outcomes)
            await own.report(entry.outcomes)
        starts = {frame.first_round: frame for frame in frames}

        async def side_information(first_round: int, count: int) -> Samples:
            return np.ascontiguousarray(starts[first_round].t[:count, k])

        net = network.net(name, lambda _: costs.decode)
        metered[name] = await parties.run_decoder(net, session, ENCODER, parties.nothing, side_information, own.report,
                                                  own.journal, patience)

    def party(name: str) -> Coroutine[Any, Any, None]:
        """A start, or another."""
        work = encoder() if name == ENCODER else decoder(names.index(name), name)

        async def run() -> None:
            done[name].starts += 1
            try:
                await work
                done[name].ended = True
            except GlsnetError as error:
                done[name].error = str(error)
            over[name].set()

        return run()

    network.play(party, list(done), over)
    await over[ENCODER].wait()
    if done[ENCODER].error:
        raise TransportError(f"encoder: {done[ENCODER].error}")
    for name in names:
        try:
            async with asyncio.timeout(patience):
                await over[name].wait()
        except TimeoutError:
            done[name].error = "missing"
    offered = {frame.first_round: number * every for number, frame in enumerate(frames)}
    return Simulated(done[ENCODER], [done[name] for name in names], offered, loop.time(), network,
                     [metered.get(name) for name in names])


@dataclass(frozen=True)
class Requests:
    """What is asked of a simulated target, and how fast its parties are.

    Attributes:
        asked: each client's request.
        target, drafters: models, and which streams each drafter has.
        verify, draft: virtual seconds of a forward pass at the target and at a drafter.
        streams: of the target.
        seed: that target and drafters share.
        waits: virtual seconds that a block waits for drafts.
        shared: whether all clients' passes go through one processor at the target, one after another.
        every: virtual seconds between one client's beginning and the next one's.
        local: whether drafters are on the target's machine: their passes go through its processor, too, if it is
            `shared`.
        warm_up: virtual seconds that drafters have to join before the first client asks.
    """

    asked: list[Asked]
    target: SyntheticModel
    drafters: list[tuple[SyntheticModel, list[int]]]
    verify: float
    draft: float
    streams: int
    seed: bytes
    waits: float | None = 5.0
    shared: bool = False
    every: float = 0.0
    local: bool = False
    warm_up: float = 1.0


@dataclass
class Told:
    """What came of one client's request: tokens and when each came, virtual seconds; how it went."""

    began: float
    tokens: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    finished: Finished | None = None
    error: str = ""


@dataclass
class Spoken:
    """A simulation of speculative decoding that is over; `busy` says when each party was computing, from and to."""

    told: list[Told]
    seconds: float
    network: Network
    busy: dict[str, list[tuple[float, float]]]
    timelines: list[list[Mark]]  # of each request, in the order of their ends


def speculation(requests: Requests, faults: Sequence[Fault], seed: int, *, patience: float,
                limit: float | None = None, silence: float = SILENCE_SECONDS,
                record: Callable[[bytes], None] | None = None) -> Spoken:
    """Have a simulated target generate for its clients; arguments and errors as of `compression`."""
    return virtual.run(_speculation(requests, faults, seed, patience, silence, record), limit=limit)


async def _speculation(requests: Requests, faults: Sequence[Fault], seed: int, patience: float, silence: float,
                       record: Callable[[bytes], None] | None) -> Spoken:
    loop = asyncio.get_running_loop()
    network = Network(seed, faults, silence=silence, record=record)
    drafters = [f"drafter {d}" for d in range(len(requests.drafters))]
    clients = [f"client {c}" for c in range(len(requests.asked))]
    told = {name: Told(c * requests.every) for c, name in enumerate(clients)}
    over = {name: asyncio.Event() for name in (TARGET, *drafters, *clients)}
    processor = asyncio.Lock()
    timelines: list[list[Mark]] = []
    busy: dict[str, list[tuple[float, float]]] = {name: [] for name in (TARGET, *drafters)}

    def computing(name: str, cost: Callable[[str], float]) -> Net:
        def spent(what: str) -> float:
            if seconds := cost(what):
                busy[name].append((loop.time(), loop.time() + seconds))
            return seconds

        net: Net = network.net(name, spent)
        return OneAtATime(net, processor) if requests.shared and (name == TARGET or requests.local) else net

    async def target() -> None:
        session = _Kept(requests.target, requests.seed, requests.streams, loop.time, requests.waits, True)
        session.timelines = timelines
        broadcast: Broadcast[TargetSession] = Broadcast(session)
        net = computing(TARGET, lambda what: requests.verify if what == "verify" else 0.0)
        network.listen(TARGET, partial(exchange.serve_join, broadcasts={SESSION: broadcast}))
        network.listen(GENERATE, partial(speculating.serve_generate, net=net, broadcast=broadcast))
        await over[TARGET].wait()

    async def drafter(d: int, name: str) -> None:
        model, streams = requests.drafters[d]
        session = DraftSession(model, requests.seed, streams, loop.time, name.encode())
        passes = model.passes

        def cost(_: str) -> float:
            nonlocal passes
            spent, passes = model.passes - passes, model.passes
            return requests.draft * spent

        await speculating.run_draft(computing(name, cost), session, TARGET, parties.nothing, patience)

    async def client(name: str) -> None:
        own = told[name]
        await asyncio.sleep(own.began + requests.warm_up - loop.time())
        own.began = loop.time()
        asked = requests.asked[clients.index(name)]
        replies = speculating.generate(GENERATE, asked, patience, network.net(name).dial)
        async with aclosing(replies):
            async for item in replies:
                if isinstance(item, Piece):
                    own.tokens += item.tokens
                    own.times += [loop.time()] * len(item.tokens)
                else:
                    own.finished = item

    def party(name: str) -> Coroutine[Any, Any, None]:
        if name == TARGET:
            work = target()
        else:
            work = client(name) if name in told else drafter(drafters.index(name), name)

        async def run() -> None:
            try:
                await work
            except GlsnetError as error:
                if name in told:
                    told[name].error = str(error)
            over[name].set()

        return run()

    network.play(party, list(over), over)
    for name in clients:
        await over[name].wait()
    return Spoken([told[name] for name in clients], loop.time(), network, busy, timelines)


class _Kept(TargetSession):
    """A target that keeps what happened when, in every request."""

    timelines: list[list[Mark]]

    def end(self, generation: Generation) -> None:
        """As any target."""
        self.timelines.append(generation.timeline or [])
        super().end(generation)


class OneAtATime:
    """A `Net` whose computing has one processor, however many ask for it."""

    def __init__(self, net: Net, processor: asyncio.Lock) -> None:
        self.random, self.dial, self.local, self.proven = net.random, net.dial, net.local, net.proven
        self._net, self._processor = net, processor

    async def compute(self, function: Callable[..., T], *arguments: Any) -> T:
        """In its turn."""
        async with self._processor:
            return await self._net.compute(function, *arguments)
