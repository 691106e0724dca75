"""The control plane over gRPC (proto/glsnet/v1/control.proto): how the lab, as Nature, plays a session with a party.

    conduct_encoder, conduct_decoder   the services' handlers of METHOD: a session from Open to Closed
    Conductor                          the lab's end of one such call
"""

import asyncio
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from glsnet.codes import code_of, decoding
from glsnet.compression import DecoderSession, EncoderSession, Outcomes, Samples
from glsnet.conversation import AliceSession, BobSession, Draw, Drawn
from glsnet.coupling import Scheme
from glsnet.errors import CallerError, FrameError, GoneError, RefusedError
from glsnet.frames import Terms, Traffic, direction_from_proto, direction_to_proto, terms_from_proto, terms_to_proto
from glsnet.images import code as image_code
from glsnet.images import model as image_model
from glsnet.images.code import ImageCode
from glsnet.images.model import Model
from glsnet.joining import new_party
from glsnet.journal import Journal, NoJournal
from glsnet.randomness import seed_digest
from glsnet.sources.gaussian import SideInformation
from glsnet.transport import exchange, metrics, mqtt, rpc
from glsnet.transport.exchange import PATIENCE, Broadcast, Broadcasts, Metered
from glsnet.transport.journal import FileJournal, recorded
from glsnet.transport.parties import nothing, run_alice, run_bob, run_decoder, run_encoder
from glsnet.transport.pipes import Net, Pipe
from glsnet.transport.records import all_floats, integers, outcomes_from_proto, outcomes_to_proto
from glsnet.transport.rpc import SILENCE_SECONDS, GrpcNet, log
from glsnet.transport.security import LAB, LOCAL, Security
from glsnet.v1 import control_pb2 as pb
from glsnet.v1 import exchange_pb2

METHOD = "/glsnet.v1.Control/Conduct"
AHEAD = 16  # orders of samples, or to draw, that a party takes before it has done the first
OPEN_SECONDS = 10.0
MAX_SESSIONS = 64  # that are open at an encoder
TOKEN_BYTES = 32


@dataclass(frozen=True)
class DecoderOrder:
    """What only a decoder is told: where its encoder is, its stream, and, in compression, what its t tells of A."""

    encoder: str
    stream: int
    side: SideInformation | None = None


@dataclass(frozen=True)
class Session:
    """What a lab tells all parties of a session, and how it dials them; by a broker, each what it is to dial."""

    name: str
    seed: bytes
    token: bytes = b""
    security: Security = LOCAL
    broker: mqtt.Broker | None = None

    @classmethod
    def new(cls, seed: bytes, security: Security) -> Self:
        """One that never was before."""
        return cls(secrets.token_hex(8), seed, secrets.token_bytes(TOKEN_BYTES), security)


@dataclass(frozen=True)
class Resume:
    """How a party goes on, or begins: see Open in control.proto."""

    next_round: int = 0
    patience: float = 0.0
    wait_for: int = 0


@dataclass(frozen=True)
class Own:
    """What a service was started with: the model to code images with, None for those that come with glsnet; where to
    keep journals, None for nowhere; its certificate; seconds as of `rpc.options` and of `exchange.staying`; and who it
    is to brokers.
    """

    images: Model | None = None
    journal: Path | None = None
    security: Security = LOCAL
    silence: float = SILENCE_SECONDS
    patience: float = PATIENCE
    login: mqtt.Login | None = None


@dataclass(frozen=True)
class Closed:
    """A session's end at one party; `metered` is a decoder's, or an encoder's with a broker, `digest` only of
    compression, `seconds` of images.
    """

    rounds: int
    digest: bytes
    metered: Metered | None
    seconds: dict[str, float]


async def conduct_encoder(pipe: Pipe, broadcasts: Broadcasts, own: Own) -> None:
    """Open a session for the lab, do what it orders, and close it when the lab has no more.

    Args:
        pipe: the lab's call.
        broadcasts: the sessions that are open.
        own: what this service was started with.

    Raises:
        RefusedError: who calls is no lab.
        CallerError: an order is not possible.
        PeerError: a decoder broke the protocol, and the session cannot go on without it.
        TransportError: all decoders were lost.
    """
    order = await _opening(pipe)
    if order.session in broadcasts:
        raise GoneError(f"session: expected a new one, got {order.session!r}, which is open; try again when it is not")
    if len(broadcasts) >= MAX_SESSIONS:
        raise GoneError(f"session: expected at most {MAX_SESSIONS} to be open, got another; try again later")
    net, patience = GrpcNet(exchange.METHOD), order.patience or own.patience
    if order.terms.HasField("finite"):
        await _conduct_bob(net, pipe, order, broadcasts)
        return
    coder, since = _image_code(order, own.images), time.process_time()
    code = coder or code_of(terms_from_proto(order.terms))
    with journal_of(own, order.session, order.seed) as journal:
        session = EncoderSession(order.session, code, order.seed, _begin(journal, order))
        for entry in journal:
            session.restore(entry.frame, entry.outcomes)
        reading = _Orders(pipe, "samples", session.next_round, None if coder is None else coder.model.shape.half)
        broadcast = Broadcast(session, order.token)
        async with _by_broker(broadcast, order, own) as uplink:
            with _open(pipe, broadcasts, broadcast), reading:
                await _opened(pipe, session.next_round)
                await _report_again(pipe, order, journal)
                await run_encoder(net, broadcast, reading.samples(),
                                  lambda outcomes: _report(pipe, _outcomes(outcomes)), journal,
                                  order.wait_for or session.decoders, patience)
    closed = pb.Closed(rounds=session.next_round, digest=session.digest, seconds=_seconds(coder, since))
    if uplink is not None:
        closed.meter.CopyFrom(_meter(uplink.metered()))
    await _report(pipe, pb.Report(closed=closed))


async def _conduct_bob(net: Net, pipe: Pipe, order: pb.Open, broadcasts: Broadcasts) -> None:
    broadcast = Broadcast(_bob_session(order), order.token)
    reading = _Orders(pipe, "draw", 0, None)
    with _open(pipe, broadcasts, broadcast), reading:
        await _opened(pipe, 0)
        await run_bob(net, broadcast, reading.draws(), lambda drawn: _report(pipe, _drawn(drawn)))
    await _report(pipe, pb.Report(closed=pb.Closed(rounds=broadcast.session.next_round)))


def _by_broker(broadcast: Broadcast[EncoderSession], order: pb.Open, own: Own
               ) -> AbstractAsyncContextManager[mqtt.Uplink | None]:
    """Where decoders may join meanwhile besides here, if the lab orders it."""
    if not order.HasField("broker"):
        return nullcontext()
    broker = mqtt.Broker(order.broker.address, order.broker.qos)
    return mqtt.serving(broadcast, broker, own.security, own.login, own.silence)


@contextmanager
def _open(pipe: Pipe, broadcasts: Broadcasts, broadcast: Broadcast[Any]) -> Iterator[None]:
    """Decoders may join meanwhile."""
    session = broadcast.session.session
    broadcasts[session] = broadcast
    log.info("session %s: opened for %s", session, pipe.peer)
    try:
        with metrics.SESSIONS_OPEN.track_inprogress():
            yield
    finally:
        broadcast.end()
        del broadcasts[session]


def _bob_session(order: pb.Open) -> BobSession:
    terms = terms_from_proto(order.terms)
    match terms:
        case Terms(scheme=str(scheme), decoders=int(decoders), items=int(items), epsilon=epsilon):
            return BobSession(order.session, order.seed, Scheme(scheme, decoders, epsilon), items)
    raise CallerError(f"open: expected scheme, decoders and items, got {terms}")


def _image_code(order: pb.Open, own: Model | None) -> ImageCode | None:
    """The code for images, if they are what the lab orders."""
    if not order.terms.HasField("images"):
        return None
    terms = terms_from_proto(order.terms)
    if terms.model is None:
        raise CallerError("open: expected the model's digest with images, got none")
    return image_code.code_of(terms, image_model.with_digest(terms.model, own), time.thread_time)


def journal_of(own: Own, session: str, seed: bytes) -> AbstractContextManager[FileJournal | NoJournal]:
    """Where a service records a session; raises CallerError as `recorded`."""
    if own.journal is None:
        return nullcontext(NoJournal(new_party()))
    return recorded(own.journal, session, seed_digest(seed))


def _begin(journal: Journal, order: pb.Open) -> int:
    """The first round of a session: that which its journal begins with, or that which the lab orders."""
    first = next(iter(journal), None)
    return order.next_round if first is None else first.outcomes.first_round


async def _report_again(pipe: Pipe, order: pb.Open, journal: Journal) -> None:
    """What the lab has not of what is recorded: it was lost with this service, or with the lab's call."""
    for entry in journal:
        if entry.outcomes.first_round >= order.next_round:
            await _report(pipe, _outcomes(entry.outcomes))


async def conduct_decoder(pipe: Pipe, encoder: str | None, own: Own) -> None:
    """Join the session that the lab names, with what it orders for this decoder alone, until the encoder ends.

    Args:
        pipe: the lab's call.
        encoder: HOST:PORT that this decoder was started with; None takes the lab's.
        own: what this service was started with.

    Raises:
        RefusedError: who calls is no lab.
        GlsnetError: see `parties.run_decoder` and `parties.run_alice`.
    """
    order = await _opening(pipe)
    net, address = _net(order, encoder, own)
    terms, stream = terms_from_proto(order.terms), order.decoder.stream
    patience = order.patience or own.patience
    if order.terms.HasField("finite"):
        alice = AliceSession(order.session, order.seed, terms, stream, new_party())
        with _Orders(pipe, "draw", 0, None) as reading:
            metered = await run_alice(net, alice, address, partial(_opened, pipe, 0), reading.draws(),
                                      lambda drawn: _report(pipe, _drawn(drawn)))
        closed = pb.Closed(rounds=alice.next_round)
    else:
        coder, since = _image_code(order, own.images), time.process_time()
        side = SideInformation(order.decoder.slope, order.decoder.intercept, order.decoder.residual)
        of = decoding(lambda _: side) if coder is None else (lambda _: coder)
        with journal_of(own, order.session, order.seed) as journal:
            first_round = _begin(journal, order)
            session = DecoderSession(order.session, of, order.seed, terms, stream, first_round, journal.party)
            for entry in journal:
                session.restore(entry.outcomes)
            pixels = None if coder is None else coder.model.shape.side

            agreed: Callable[[], Awaitable[None]] = partial(_opened, pipe, session.next_round)
            if session.next_round > first_round:  # it has agreed before; the encoder may be done, and gone
                await agreed()
                await _report_again(pipe, order, journal)
                agreed = nothing
            with _Orders(pipe, "samples", session.next_round, pixels) as reading:
                metered = await run_decoder(net, session, address, agreed, reading.take,
                                            lambda outcomes: _report(pipe, _outcomes(outcomes)), journal, patience)
        closed = pb.Closed(rounds=session.next_round, digest=session.digest, seconds=_seconds(coder, since))
    closed.meter.CopyFrom(_meter(metered))
    await _report(pipe, pb.Report(closed=closed))


def _net(order: pb.Open, encoder: str | None, own: Own) -> tuple[Net, str]:
    """A decoder's world, and what it is to dial: a broker, if the lab orders it, or the encoder."""
    if order.HasField("broker"):
        by = mqtt.MqttNet(order.session, order.broker.qos, own.security, own.login, own.silence, order.token)
        return by, order.broker.address
    address = rpc.check_address(encoder or order.decoder.encoder)
    return GrpcNet(exchange.METHOD, own.security, own.silence, order.token), address


class Conductor:
    """The lab's end of one party's session: orders out, reports in, in the same order."""

    def __init__(self, call: rpc.Call) -> None:
        self._call = call

    async def send(self, values: Samples) -> None:
        """Order samples: a frame's worth of A, or of T_k, R of them."""
        pixels = values.dtype == np.uint8
        samples = pb.Samples(pixels=values.tobytes()) if pixels else pb.Samples(values=values.astype("<f8").tobytes())
        await self._call.write(pb.Order(samples=samples).SerializeToString())

    async def draw(self, draw: Draw) -> None:
        """Order what to draw from, and how often."""
        message = pb.Draw(rounds=draw.rounds, probabilities=draw.probabilities.astype("<f8").tobytes())
        await self._call.write(pb.Order(draw=message).SerializeToString())

    async def end(self) -> None:
        """No more orders."""
        await self._call.close()

    async def outcomes(self) -> Outcomes:
        """The next frame's outcomes."""
        report = await self._report("outcomes")
        return outcomes_from_proto(report.outcomes)

    async def drawn(self) -> Drawn:
        """What was drawn for the next `draw`."""
        drawn = (await self._report("drawn")).drawn
        return Drawn(drawn.first_round, integers(drawn.items, drawn.count), list(drawn.indices), drawn.bits_sent)

    async def outcomes_or_closed(self) -> Outcomes | Closed:
        """The next frame's outcomes, or the session's end."""
        report = await self._report("outcomes", "closed")
        return _closed(report.closed) if report.HasField("closed") else outcomes_from_proto(report.outcomes)

    async def closed(self) -> Closed:
        """The session's end."""
        return _closed((await self._report("closed")).closed)

    async def opened(self) -> int:
        """The party has opened the session (encoder), or agreed to it (decoder); the first round that it wants."""
        return (await self._report("opened")).opened.next_round

    async def _report(self, *kinds: str) -> pb.Report:
        data = await self._call.read()
        report = rpc.parsed(pb.Report, data or b"")
        if (kind := report.WhichOneof("report")) not in kinds:
            raise FrameError(f"{self._call.peer}: expected a report of kind {' or '.join(kinds)}, got {kind}")
        return report


def _closed(closed: pb.Closed) -> Closed:
    metered = None
    if closed.HasField("meter"):
        setup, rounds = closed.meter.setup, closed.meter.rounds
        metered = Metered(*map(direction_from_proto, (setup.down, setup.up, rounds.down, rounds.up)))
    seconds = {field.name: value for field, value in closed.seconds.ListFields()}
    return Closed(closed.rounds, closed.digest, metered, seconds)


@asynccontextmanager
async def conducting(address: str, peer: str, session: Session, terms: Terms, decoder: DecoderOrder | None,
                     resume: Resume = Resume()) -> AsyncIterator[Conductor]:
    """Order a party at `address` to open a session; on leaving, the session is over, however far it came.

    Raises:
        GlsnetError: the party cannot be reached, or refuses.
    """
    async with rpc.dial(address, METHOD, peer, session.security) as call:
        order = pb.Open(session=session.name, seed=session.seed, token=session.token, terms=terms_to_proto(terms),
                        **asdict(resume))
        if session.broker is not None:
            order.broker.CopyFrom(pb.Broker(**asdict(session.broker)))
        if decoder is not None:
            side = {} if decoder.side is None else asdict(decoder.side)
            order.decoder.CopyFrom(pb.Decoder(encoder=decoder.encoder, stream=decoder.stream, **side))
        await call.write(pb.Order(open=order).SerializeToString())
        yield Conductor(call)


class _Orders:
    """What the lab orders after Open, all of one kind, read ahead by AHEAD orders at most, from a round on.

    `pixels` are in a sample of an image; None of others.
    """

    def __init__(self, pipe: Pipe, kind: str, next_round: int, pixels: int | None) -> None:
        self._pipe, self._kind, self._pixels = pipe, kind, pixels
        self._queue: asyncio.Queue[pb.Order | Exception | None] = asyncio.Queue(AHEAD)
        self._next_round = next_round
        self._left: Samples = np.empty(0)

    def __enter__(self) -> Self:
        self._task = asyncio.create_task(self._read())
        return self

    def __exit__(self, *_: object) -> None:
        self._task.cancel()

    async def samples(self) -> AsyncIterator[Samples]:
        """Each order's samples, to the end."""
        while (order := await self._next()) is not None:
            yield self._values(order.samples)

    async def take(self, first_round: int, count: int) -> Samples:
        """The samples of `count` rounds, from as many orders as it takes; those of rounds before them are dropped."""
        await self._fill(first_round - self._next_round + count)
        taken = self._left[first_round - self._next_round :][:count]
        self._left = self._left[first_round - self._next_round + count :]
        self._next_round = first_round + count
        return taken

    async def _fill(self, count: int) -> None:
        while len(self._left) < count:
            if (order := await self._next()) is None:
                raise CallerError(f"side information: expected {count} more samples, the lab gave {len(self._left)}")
            values = self._values(order.samples)
            self._left = np.concatenate((self._left, values)) if len(self._left) else values

    def _values(self, samples: pb.Samples) -> Samples:
        if self._pixels is None:
            return all_floats(samples.values)
        if len(samples.pixels) % self._pixels:
            raise FrameError(f"samples: expected {self._pixels} pixels for each image, got {len(samples.pixels)}")
        return np.frombuffer(samples.pixels, np.uint8).reshape(-1, self._pixels)

    async def draws(self) -> AsyncIterator[Draw]:
        """Each distribution to draw from, to the end."""
        while (order := await self._next()) is not None:
            yield Draw(order.draw.rounds, all_floats(order.draw.probabilities))

    async def _next(self) -> pb.Order | None:
        """The next order, or None at the end; raises what went wrong in reading it."""
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def _read(self) -> None:
        try:
            while (data := await self._pipe.read()) is not None:
                order = rpc.parsed(pb.Order, data)
                if order.WhichOneof("order") != self._kind:
                    raise FrameError(f"order: expected {self._kind} after open, got {order.WhichOneof('order')}")
                await self._queue.put(order)
            await self._queue.put(None)
        except Exception as error:
            await self._queue.put(error)


async def _opening(pipe: Pipe) -> pb.Open:
    if pipe.name not in (None, LAB):
        log.warning("%s refused: only %s gives orders", pipe.peer, LAB)
        raise RefusedError(f"orders: expected them from {LAB}, as its certificate says, got them from {pipe.name}")
    try:
        data = await asyncio.wait_for(pipe.read(), OPEN_SECONDS)
    except TimeoutError:
        raise FrameError(f"order: expected open within {OPEN_SECONDS:.0f} s, got nothing") from None
    order = rpc.parsed(pb.Order, data or b"")
    if order.WhichOneof("order") != "open":
        raise FrameError(f"order: expected open first, got {order.WhichOneof('order')}")
    if not 0 <= order.open.patience < math.inf:
        raise CallerError(f"patience: expected seconds, 0 for the party's own, got {order.open.patience}")
    return order.open


async def _opened(pipe: Pipe, next_round: int) -> None:
    await _report(pipe, pb.Report(opened=pb.Opened(next_round=next_round)))


async def _report(pipe: Pipe, report: pb.Report) -> None:
    await pipe.write(report.SerializeToString())


def _outcomes(outcomes: Outcomes) -> pb.Report:
    return pb.Report(outcomes=outcomes_to_proto(outcomes))


def _drawn(drawn: Drawn) -> pb.Report:
    return pb.Report(drawn=pb.Drawn(
        first_round=drawn.first_round, count=drawn.items.size, items=drawn.items.astype("<i8").tobytes(),
        indices=drawn.indices, bits_sent=drawn.bits_sent,
    ))


def _seconds(coder: ImageCode | None, since: float) -> pb.Seconds | None:
    return None if coder is None else pb.Seconds(**coder.seconds, process=time.process_time() - since)


def _meter(metered: Metered) -> pb.Meter:
    return pb.Meter(setup=_traffic(metered.setup_down, metered.setup_up),
                    rounds=_traffic(metered.rounds_down, metered.rounds_up))


def _traffic(down: Traffic, up: Traffic) -> exchange_pb2.Traffic:
    return exchange_pb2.Traffic(down=direction_to_proto(down), up=direction_to_proto(up))
