"""The data plane over gRPC: the encoder's and the decoder's session, each driven by one straight loop.

    run_encoder   waits for K decoders, then: samples -> session -> one frame to each decoder, a few frames ahead
    Broadcast     serves the decoders' streams of one encoder session
    run_decoder   joins through the metering proxy, then: frame, own t -> session -> Ack
"""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import grpc

from glsnet.compression import ACK_FRAMES, DecoderSession, EncoderSession, Outcomes
from glsnet.errors import FrameError, GlsnetError, TermsError, TransportError
from glsnet.frames import Ack, End, Indices, Join, Refusal, Terms, from_bytes, to_bytes
from glsnet.race import FloatArray
from glsnet.transport import rpc
from glsnet.transport.meter import Meter
from glsnet.transport.rpc import log

METHOD = "/glsnet.v1.Exchange/Join"
CODEC = "codec"  # the session of parties that run without a lab
WINDOW_FRAMES = 2 * ACK_FRAMES  # that a decoder may be behind with its Ack
JOIN_SECONDS = 10.0
REFUSE_SECONDS = 2.0


class Broadcast:
    """One encoder session towards the decoders that join it."""

    def __init__(self, session: EncoderSession) -> None:
        self.session = session
        self._outgoing: dict[int, asyncio.Queue[bytes | None]] = {}
        self._changed = asyncio.Event()

    async def serve(self, context: rpc.Context, join: Join) -> None:
        """Serve one decoder's stream to its end.

        Raises:
            PeerError: the decoder cannot join, or broke the protocol; it leaves the session.
        """
        terms = self.session.join(join)
        stream = terms.stream
        assert stream is not None
        log.info("session %s: stream %d joined from %s", self.session.session, stream, context.peer())
        outgoing: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._outgoing[stream] = outgoing
        reader = asyncio.create_task(self._read(context, stream))
        reader.add_done_callback(lambda _: outgoing.put_nowait(None))
        try:
            await context.write(to_bytes(terms))
            while (data := await outgoing.get()) is not None:
                await context.write(data)
            if reader.done():
                reader.result()
        except BaseException as error:
            reason = str(error) or "it went away"
            log.warning("session %s: stream %d lost: %s", self.session.session, stream, reason)
            raise
        finally:
            reader.cancel()
            del self._outgoing[stream]
            self.session.leave(stream)
            self._changed.set()

    async def _read(self, context: rpc.Context, stream: int) -> None:
        while (data := await rpc.read(context)) is not None:
            match from_bytes(data):
                case Ack() as ack:
                    self.session.acknowledge(stream, ack)
                    self._changed.set()
                case Refusal(reason):
                    raise FrameError(f"refused by the decoder: {reason!r}")
                case other:
                    raise FrameError(f"frame: expected ack or refusal after join, got {type(other).__name__}")
        raise FrameError("stream: expected the decoder to stay until the encoder ends it, it closed its side")

    def send(self, frame: Indices | End) -> None:
        """Queue one frame for every decoder."""
        data = to_bytes(frame)
        for outgoing in self._outgoing.values():
            outgoing.put_nowait(data)

    def end(self) -> None:
        """End every decoder's stream, after what is queued."""
        for outgoing in self._outgoing.values():
            outgoing.put_nowait(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the session holds; it is looked at after every Ack, join and loss."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()


async def serve_join(context: rpc.Context, broadcasts: dict[str, Broadcast]) -> None:
    """The encoder's handler of METHOD: find the session that a decoder asks for, and serve it.

    Raises:
        PeerError: the first frame is no Join within JOIN_SECONDS, there is no such session, or see `Broadcast.serve`.
    """
    try:
        data = await asyncio.wait_for(rpc.read(context), JOIN_SECONDS)
    except TimeoutError:
        raise FrameError(f"frame: expected join within {JOIN_SECONDS:.0f} s, got nothing") from None
    join = from_bytes(data or b"")
    if not isinstance(join, Join):
        raise FrameError(f"frame: expected join first, got {type(join).__name__}")
    if join.session not in broadcasts:
        raise TermsError(f"session: expected one that is open at this encoder, got {join.session!r}")
    try:
        await broadcasts[join.session].serve(context, join)
    except TermsError as error:
        log.warning("session %s: %s refused: %s", join.session, context.peer(), error)
        raise


async def run_encoder(broadcast: Broadcast, samples: AsyncIterable[FloatArray],
                      report: Callable[[Outcomes], Awaitable[None]]) -> None:
    """Code samples, one frame for each array, as soon as all K decoders have agreed; end with their last Ack.

    A decoder that is lost on the way is left out from there on.

    Raises:
        CallerError: a sample cannot be coded.
        TransportError: every decoder was lost.
    """
    session = broadcast.session
    log.info("session %s: waiting for %d decoders", session.session, session.decoders)
    await broadcast.until(lambda: session.complete)
    log.info("session %s: all %d decoders agreed: %s", session.session, session.decoders, session.terms)
    async for a in samples:
        await broadcast.until(lambda: session.frames_in_flight < WINDOW_FRAMES)
        if not session.acknowledged:
            raise TransportError(f"decoders: expected at least one to code for, all {session.decoders} were lost")
        frame, outcomes = await asyncio.to_thread(session.encode, a)
        broadcast.send(frame)
        await report(outcomes)
    broadcast.send(session.end())
    await broadcast.until(lambda: session.frames_in_flight == 0)
    broadcast.end()
    log.info("session %s: closed after %d rounds", session.session, session.next_round)


@dataclass(frozen=True)
class Traffic:
    """Bytes of one exchange in one direction; ip is None where the kernel does not count segments."""

    packed: int
    protobuf: int
    stream: int
    ip: int | None


@dataclass(frozen=True)
class Metered:
    """A decoder's exchange: set-up (connection, Join, Terms) apart from the rounds, towards it (down) and back (up)."""

    setup_down: Traffic
    setup_up: Traffic
    rounds_down: Traffic
    rounds_up: Traffic


async def run_decoder(session: DecoderSession, encoder: str, agreed: Callable[[], Awaitable[None]],
                      side_information: Callable[[int], Awaitable[FloatArray]],
                      report: Callable[[Outcomes], Awaitable[None]]) -> Metered:
    """Join at `encoder` (HOST:PORT), decode every frame with this decoder's own t, and say what it took on the wire.

    Args:
        session: a new session.
        encoder: the encoder's address.
        agreed: called once the terms are agreed on, before the first frame.
        side_information: gives t for the next `count` rounds.
        report: takes the outcomes of each frame.

    Raises:
        TermsError, FrameError: the encoder, or its frames, are not what this session expects.
        TransportError: the encoder cannot be reached, was lost, or gave up.
        CallerError: the side information is too short, or not finite.
    """
    peer = f"encoder {encoder}"
    packed = frames = acks = 0
    ended = False
    async with Meter(encoder) as meter, rpc.dial(meter.address, METHOD, peer) as call:
        joined = to_bytes(session.join())
        await rpc.send(call, peer, joined)
        try:
            first = await rpc.receive(call, peer) or b""
            terms = from_bytes(first)
            if not isinstance(terms, Terms):
                raise FrameError(f"frame: expected terms first, got {type(terms).__name__}")
            ack = to_bytes(session.agree(terms))
            setup = after_last = meter.read()
            log.info("session %s: agreed with %s: %s", session.session, peer, terms)
            setup_down, setup_up = len(first), len(joined)
            await agreed()
            await rpc.send(call, peer, ack)
            acks += len(ack)
            while (data := await rpc.receive(call, peer)) is not None:
                answer: Ack | None
                match from_bytes(data):
                    case Indices() as frame:
                        session.check(frame)
                        t = await side_information(frame.count)
                        outcomes, answer = await asyncio.to_thread(session.decode, frame, t)
                        packed += len(frame.packed)
                        await report(outcomes)
                    case End() as end:
                        answer, ended = session.end(end), True
                    case other:
                        raise FrameError(f"frame: expected indices or end, got {type(other).__name__}")
                frames += len(data)
                after_last = meter.read()
                if answer is not None:
                    ack = to_bytes(answer)
                    await rpc.send(call, peer, ack)
                    acks += len(ack)
            if not ended:
                raise TransportError(f"{peer}: ended the stream after {session.next_round} rounds, expected End first")
        except GlsnetError as error:
            log.warning("session %s: leaving %s: %s", session.session, peer, error)
            await _refuse(call, str(error))
            raise
        # The down side was read at the last frame, before the stream's end; the up side once all Acks have passed.
        down, up = after_last - setup, meter.read() - setup
    log.info("session %s: closed after %d rounds", session.session, session.next_round)
    return Metered(
        Traffic(0, setup_down, setup.down_stream, setup.down_ip),
        Traffic(0, setup_up, setup.up_stream, setup.up_ip),
        Traffic(packed, frames, down.down_stream, down.down_ip),
        Traffic(0, acks, up.up_stream, up.up_ip),
    )


async def nothing(*_: object) -> None:
    """For callers that have nothing to do at an event."""


async def _refuse(call: rpc.Call, reason: str) -> None:
    """Tell the encoder why, if it still listens, and let it end the stream."""
    with suppress(grpc.RpcError, asyncio.InvalidStateError, TimeoutError):
        await call.write(to_bytes(Refusal(reason[:1000])))
        await call.done_writing()
        await asyncio.wait_for(call.code(), REFUSE_SECONDS)
