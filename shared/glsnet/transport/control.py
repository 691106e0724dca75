"""The control plane over gRPC (proto/glsnet/v1/control.proto): how the lab, as Nature, plays a session with a party.

    conduct_encoder, conduct_decoder   the services' handlers of METHOD: a session from Open to Closed
    Conductor                          the lab's end of one such call
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from glsnet.codes import code_of, decoding
from glsnet.compression import DecoderSession, EncoderSession, Outcomes, Samples
from glsnet.conversation import AliceSession, BobSession, Draw, Drawn
from glsnet.coupling import Scheme
from glsnet.errors import CallerError, FrameError
from glsnet.frames import Terms, Traffic, direction_from_proto, direction_to_proto, terms_from_proto, terms_to_proto
from glsnet.images import code as image_code
from glsnet.images import model as image_model
from glsnet.images.code import ImageCode
from glsnet.images.model import Model
from glsnet.race import FloatArray, IntArray
from glsnet.sources.gaussian import SideInformation
from glsnet.transport import rpc
from glsnet.transport.exchange import Broadcast, Broadcasts, Metered
from glsnet.transport.parties import run_alice, run_bob, run_decoder, run_encoder
from glsnet.transport.rpc import log
from glsnet.v1 import control_pb2 as pb
from glsnet.v1 import exchange_pb2

METHOD = "/glsnet.v1.Control/Conduct"
AHEAD = 16  # orders of samples, or to draw, that a party takes before it has done the first


@dataclass(frozen=True)
class DecoderOrder:
    """What only a decoder is told: where its encoder is, its stream, and, in compression, what its t tells of A."""

    encoder: str
    stream: int
    side: SideInformation | None = None


@dataclass(frozen=True)
class Closed:
    """A session's end at one party; `metered` is a decoder's, `digest` only of compression, `seconds` of images."""

    rounds: int
    digest: bytes
    metered: Metered | None
    seconds: dict[str, float]


async def conduct_encoder(context: rpc.Context, broadcasts: Broadcasts, images: Model | None) -> None:
    """Open a session for the lab, do what it orders, and close it when the lab has no more.

    Args:
        context: the lab's call.
        broadcasts: the sessions that are open.
        images: the model to code images with; None looks among those that come with glsnet.

    Raises:
        CallerError: an order is not possible.
        PeerError: a decoder broke the protocol, and the session cannot go on without it.
        TransportError: all decoders were lost.
    """
    order = await _opening(context)
    if order.session in broadcasts:
        raise CallerError(f"session: expected a new one, got {order.session!r}, which is open")
    coder, since = _image_code(order, images), time.process_time()
    reading = _Orders(context, "draw" if order.terms.HasField("finite") else "samples",
                      None if coder is None else coder.model.shape.half)
    broadcast: Broadcast[Any]
    try:
        if order.terms.HasField("finite"):
            broadcast = Broadcast(_bob_session(order))
            party = run_bob(broadcast, reading.draws(), lambda drawn: _report(context, _drawn(drawn)))
        else:
            code = coder or code_of(terms_from_proto(order.terms))
            broadcast = Broadcast(EncoderSession(order.session, code, order.seed))
            party = run_encoder(broadcast, reading.samples(), lambda outcomes: _report(context, _outcomes(outcomes)))
        broadcasts[order.session] = broadcast
        log.info("session %s: opened for %s", order.session, context.peer())
        try:
            await _report(context, pb.Report(opened=pb.Opened()))
            await party
        finally:
            party.close()
            broadcast.end()
            del broadcasts[order.session]
        digest = broadcast.session.digest if isinstance(broadcast.session, EncoderSession) else b""
        closed = pb.Closed(rounds=broadcast.session.next_round, digest=digest, seconds=_seconds(coder, since))
        await _report(context, pb.Report(closed=closed))
    finally:
        reading.stop()


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


async def conduct_decoder(context: rpc.Context, encoder: str | None, images: Model | None) -> None:
    """Join the session that the lab names, with what it orders for this decoder alone, until the encoder ends.

    Args:
        context: the lab's call.
        encoder: HOST:PORT that this decoder was started with; None takes the lab's.
        images: as for `conduct_encoder`.

    Raises:
        GlsnetError: see `parties.run_decoder` and `parties.run_alice`.
    """
    order = await _opening(context)
    address = rpc.check_address(encoder or order.decoder.encoder)
    terms, stream = terms_from_proto(order.terms), order.decoder.stream
    coder, since = _image_code(order, images), time.process_time()
    reading = _Orders(context, "draw" if order.terms.HasField("finite") else "samples",
                      None if coder is None else coder.model.shape.side)

    async def opened() -> None:
        await _report(context, pb.Report(opened=pb.Opened()))

    try:
        if order.terms.HasField("finite"):
            alice = AliceSession(order.session, order.seed, terms, stream)
            metered = await run_alice(alice, address, opened, reading.draws(),
                                      lambda drawn: _report(context, _drawn(drawn)))
            closed = pb.Closed(rounds=alice.next_round)
        else:
            side = SideInformation(order.decoder.slope, order.decoder.intercept, order.decoder.residual)
            of = decoding(lambda _: side) if coder is None else (lambda _: coder)
            session = DecoderSession(order.session, of, order.seed, terms, stream)
            metered = await run_decoder(session, address, opened, reading.take,
                                        lambda outcomes: _report(context, _outcomes(outcomes)))
            closed = pb.Closed(rounds=session.next_round, digest=session.digest, seconds=_seconds(coder, since))
        closed.meter.CopyFrom(pb.Meter(
            setup=_traffic(metered.setup_down, metered.setup_up),
            rounds=_traffic(metered.rounds_down, metered.rounds_up),
        ))
        await _report(context, pb.Report(closed=closed))
    finally:
        reading.stop()


class Conductor:
    """The lab's end of one party's session: orders out, reports in, in the same order."""

    def __init__(self, call: rpc.Call, peer: str) -> None:
        self._call, self._peer = call, peer

    async def send(self, values: Samples) -> None:
        """Order samples: a frame's worth of A, or of T_k, R of them."""
        pixels = values.dtype == np.uint8
        samples = pb.Samples(pixels=values.tobytes()) if pixels else pb.Samples(values=values.astype("<f8").tobytes())
        await rpc.send(self._call, self._peer, pb.Order(samples=samples).SerializeToString())

    async def draw(self, draw: Draw) -> None:
        """Order what to draw from, and how often."""
        message = pb.Draw(rounds=draw.rounds, probabilities=draw.probabilities.astype("<f8").tobytes())
        await rpc.send(self._call, self._peer, pb.Order(draw=message).SerializeToString())

    async def end(self) -> None:
        """No more orders."""
        with rpc.translated(self._peer):
            await self._call.done_writing()

    async def outcomes(self) -> Outcomes:
        """The next frame's outcomes."""
        report = await self._report("outcomes")
        return _outcomes_from(report.outcomes)

    async def drawn(self) -> Drawn:
        """What was drawn for the next `draw`."""
        drawn = (await self._report("drawn")).drawn
        return Drawn(drawn.first_round, _integers(drawn.items, drawn.count), list(drawn.indices), drawn.bits_sent)

    async def closed(self) -> Closed:
        """The session's end."""
        closed = (await self._report("closed")).closed
        metered = None
        if closed.HasField("meter"):
            setup, rounds = closed.meter.setup, closed.meter.rounds
            metered = Metered(*map(direction_from_proto, (setup.down, setup.up, rounds.down, rounds.up)))
        seconds = {field.name: value for field, value in closed.seconds.ListFields()}
        return Closed(closed.rounds, closed.digest, metered, seconds)

    async def opened(self) -> None:
        """The party has opened the session (encoder), or agreed to it (decoder)."""
        await self._report("opened")

    async def _report(self, kind: str) -> pb.Report:
        data = await rpc.receive(self._call, self._peer)
        report = rpc.parsed(pb.Report, data or b"")
        if report.WhichOneof("report") != kind:
            raise FrameError(f"{self._peer}: expected a report of kind {kind}, got {report.WhichOneof('report')}")
        return report


@asynccontextmanager
async def conducting(address: str, peer: str, session: str, seed: bytes, terms: Terms, decoder: DecoderOrder | None
                     ) -> AsyncIterator[Conductor]:
    """Order a party at `address` to open a session; on leaving, the session is over, however far it came.

    Raises:
        GlsnetError: the party cannot be reached, or refuses.
    """
    async with rpc.dial(address, METHOD, peer) as call:
        order = pb.Open(session=session, seed=seed, terms=terms_to_proto(terms))
        if decoder is not None:
            side = {} if decoder.side is None else asdict(decoder.side)
            order.decoder.CopyFrom(pb.Decoder(encoder=decoder.encoder, stream=decoder.stream, **side))
        await rpc.send(call, peer, pb.Order(open=order).SerializeToString())
        yield Conductor(call, peer)


class _Orders:
    """What the lab orders after Open, all of one kind, read ahead by AHEAD orders at most.

    `pixels` are in a sample of an image; None of others.
    """

    def __init__(self, context: rpc.Context, kind: str, pixels: int | None) -> None:
        self._queue: asyncio.Queue[pb.Order | Exception | None] = asyncio.Queue(AHEAD)
        self._task = asyncio.create_task(self._read(context, kind))
        self._pixels = pixels
        self._left: Samples = np.empty(0)

    def stop(self) -> None:
        self._task.cancel()

    async def samples(self) -> AsyncIterator[Samples]:
        """Each order's samples, to the end."""
        while (order := await self._next()) is not None:
            yield self._values(order.samples)

    async def take(self, count: int) -> Samples:
        """The next `count` samples, from as many orders as it takes."""
        while len(self._left) < count:
            if (order := await self._next()) is None:
                raise CallerError(f"side information: expected {count} more samples, the lab gave {len(self._left)}")
            values = self._values(order.samples)
            self._left = np.concatenate((self._left, values)) if len(self._left) else values
        taken, self._left = self._left[:count], self._left[count:]
        return taken

    def _values(self, samples: pb.Samples) -> Samples:
        if self._pixels is None:
            return _all_floats(samples.values)
        if len(samples.pixels) % self._pixels:
            raise FrameError(f"samples: expected {self._pixels} pixels for each image, got {len(samples.pixels)}")
        return np.frombuffer(samples.pixels, np.uint8).reshape(-1, self._pixels)

    async def draws(self) -> AsyncIterator[Draw]:
        """Each distribution to draw from, to the end."""
        while (order := await self._next()) is not None:
            yield Draw(order.draw.rounds, _all_floats(order.draw.probabilities))

    async def _next(self) -> pb.Order | None:
        """The next order, or None at the end; raises what went wrong in reading it."""
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return item

    async def _read(self, context: rpc.Context, kind: str) -> None:
        try:
            while (data := await rpc.read(context)) is not None:
                order = rpc.parsed(pb.Order, data)
                if order.WhichOneof("order") != kind:
                    raise FrameError(f"order: expected {kind} after open, got {order.WhichOneof('order')}")
                await self._queue.put(order)
            await self._queue.put(None)
        except Exception as error:
            await self._queue.put(error)


async def _opening(context: rpc.Context) -> pb.Open:
    order = rpc.parsed(pb.Order, await rpc.read(context) or b"")
    if order.WhichOneof("order") != "open":
        raise FrameError(f"order: expected open first, got {order.WhichOneof('order')}")
    return order.open


async def _report(context: rpc.Context, report: pb.Report) -> None:
    await context.write(report.SerializeToString())


def _outcomes(outcomes: Outcomes) -> pb.Report:
    return pb.Report(outcomes=pb.Outcomes(
        first_round=outcomes.first_round, count=outcomes.node.size, message=outcomes.message.astype("<i8").tobytes(),
        stream=outcomes.stream.astype("<i8").tobytes(), node=outcomes.node.astype("<i8").tobytes(),
        **_reconstruction(outcomes.reconstruction),
    ))


def _reconstruction(values: Samples | None) -> dict[str, bytes]:
    if values is None:
        return {}
    return {"pixels": values.astype("<f4").tobytes()} if values.ndim > 1 else {
        "reconstruction": values.astype("<f8").tobytes()}


def _drawn(drawn: Drawn) -> pb.Report:
    return pb.Report(drawn=pb.Drawn(
        first_round=drawn.first_round, count=drawn.items.size, items=drawn.items.astype("<i8").tobytes(),
        indices=drawn.indices, bits_sent=drawn.bits_sent,
    ))


def _outcomes_from(message: pb.Outcomes) -> Outcomes:
    count = message.count
    reconstruction: Samples | None = None
    if message.reconstruction:
        reconstruction = _floats(message.reconstruction, count)
    elif message.pixels:
        reconstruction = np.frombuffer(message.pixels, "<f4").reshape(count, -1)
    return Outcomes(message.first_round, _integers(message.message, count), _integers(message.stream, count),
                    _integers(message.node, count), reconstruction)


def _seconds(coder: ImageCode | None, since: float) -> pb.Seconds | None:
    return None if coder is None else pb.Seconds(**coder.seconds, process=time.process_time() - since)


def _integers(data: bytes, count: int) -> IntArray:
    return np.frombuffer(_sized(data, count), "<i8").astype(np.int64)


def _floats(data: bytes, count: int) -> FloatArray:
    return np.frombuffer(_sized(data, count), "<f8").astype(np.float64)


def _all_floats(data: bytes) -> FloatArray:
    return _floats(data, len(data) // 8)


def _sized(data: bytes, count: int) -> bytes:
    if len(data) != 8 * count:
        raise FrameError(f"array: expected {count} values of 8 bytes, got {len(data)} bytes")
    return data


def _traffic(down: Traffic, up: Traffic) -> exchange_pb2.Traffic:
    return exchange_pb2.Traffic(down=direction_to_proto(down), up=direction_to_proto(up))
