"""The data plane over gRPC: both ends of the streams between decoders and an encoder; `parties` has the loops on them.

    Broadcast, serve_join   the encoder's end: the streams of all decoders of a session
    Line, joined            a decoder's end of its own stream, through the metering proxy
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import grpc

from glsnet.compression import DecoderSession
from glsnet.conversation import AliceSession
from glsnet.drafting import DraftSession
from glsnet.errors import FrameError, GlsnetError, TermsError
from glsnet.frames import (
    NO_TRAFFIC,
    End,
    Frame,
    Indices,
    Join,
    Refusal,
    Terms,
    Traffic,
    Turn,
    bytes_of,
    from_bytes,
    to_bytes,
)
from glsnet.joining import Host
from glsnet.transport import rpc
from glsnet.transport.meter import Meter, Reading
from glsnet.transport.rpc import log

Session = TypeVar("Session", bound=Host)
METHOD = "/glsnet.v1.Exchange/Join"
CODEC = "codec"  # the session of parties that run without a lab
JOIN_SECONDS = 10.0
REFUSE_SECONDS = 2.0


class Broadcast(Generic[Session]):
    """One encoder session towards the decoders that join it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._outgoing: dict[int, asyncio.Queue[bytes | GlsnetError | None]] = {}
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
        outgoing: asyncio.Queue[bytes | GlsnetError | None] = asyncio.Queue()
        self._outgoing[stream] = outgoing
        reader = asyncio.create_task(self._read(context, stream))
        reader.add_done_callback(lambda _: outgoing.put_nowait(None))
        try:
            await context.write(to_bytes(terms))
            while (data := await outgoing.get()) is not None:
                if isinstance(data, GlsnetError):
                    raise data
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
            self.look()

    async def _read(self, context: rpc.Context, stream: int) -> None:
        while (data := await rpc.read(context)) is not None:
            self.session.receive(stream, from_bytes(data))
            self.look()
            await self.until(lambda: self.session.ready)
        raise FrameError("stream: expected the decoder to stay until the encoder ends it, it closed its side")

    def send(self, frame: Indices | Turn | End) -> None:
        """Queue one frame for every decoder."""
        data = to_bytes(frame)
        for outgoing in self._outgoing.values():
            outgoing.put_nowait(data)

    def send_to(self, stream: int, frame: Frame) -> None:
        """Queue one frame for the decoder on a stream, if it is there."""
        if stream in self._outgoing:
            self._outgoing[stream].put_nowait(to_bytes(frame))

    def end(self, error: GlsnetError | None = None) -> None:
        """End every decoder's stream, after what is queued, with an error or well."""
        for outgoing in self._outgoing.values():
            outgoing.put_nowait(error)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the session holds; it is looked at after every frame, join, loss and `look`."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def look(self) -> None:
        """The session has changed: have all that wait look at their conditions."""
        self._changed.set()


Broadcasts = dict[str, Broadcast[Any]]  # by session


async def serve_join(context: rpc.Context, broadcasts: Broadcasts) -> None:
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


@dataclass(frozen=True)
class Metered:
    """A decoder's exchange: set-up (connection, Join, Terms) apart from the rounds, towards it (down) and back (up)."""

    setup_down: Traffic
    setup_up: Traffic
    rounds_down: Traffic
    rounds_up: Traffic


class Line:
    """A decoder's end of its stream, all that passes counted."""

    def __init__(self, call: rpc.Call, peer: str, meter: Meter) -> None:
        self.peer = peer
        self._call, self._meter = call, meter
        self._down, self._up = NO_TRAFFIC, NO_TRAFFIC
        self._setup = self._last = meter.read()
        self.size = 0  # bytes of the last frame that was sent or received
        self._joined: tuple[Traffic, Traffic] | None = None

    async def send(self, frame: Frame) -> None:
        """Put a frame on the stream; raises GlsnetError if the encoder has ended it with an error."""
        data = to_bytes(frame)
        await rpc.send(self._call, self.peer, data)
        self.size = len(data)
        self._up += bytes_of(frame, len(data))

    async def receive(self) -> Frame | None:
        """The next frame, or None once the encoder has ended the stream well; raises GlsnetError as `send` does."""
        data = await rpc.receive(self._call, self.peer)
        if data is None:
            return None
        self._last = self._meter.read()
        frame = from_bytes(data)
        self.size = len(data)
        self._down += bytes_of(frame, len(data))
        return frame

    def reading(self) -> Reading:
        """What has passed the socket so far."""
        return self._meter.read()

    def set_up(self) -> None:
        """All that has passed until now is set-up."""
        self._setup = self._last
        self._joined = (replace(self._down, stream=self._setup.down_stream, ip=self._setup.down_ip),
                        replace(self._up, stream=self._setup.up_stream, ip=self._setup.up_ip))
        self._down, self._up = NO_TRAFFIC, NO_TRAFFIC

    def metered(self) -> Metered:
        """What has passed, once the stream has ended: down until the last frame, before the stream's end."""
        assert self._joined is not None
        down, up = self._last - self._setup, self._meter.read() - self._setup
        return Metered(*self._joined, replace(self._down, stream=down.down_stream, ip=down.down_ip),
                       replace(self._up, stream=up.up_stream, ip=up.up_ip))

    async def refuse(self, reason: str) -> None:
        """Tell the encoder why, if it still listens, and let it end the stream."""
        with suppress(grpc.RpcError, asyncio.InvalidStateError, TimeoutError):
            await self._call.write(to_bytes(Refusal(reason[:1000])))
            await self._call.done_writing()
            await asyncio.wait_for(self._call.code(), REFUSE_SECONDS)


@asynccontextmanager
async def joined(session: DecoderSession | AliceSession | DraftSession, encoder: str,
                 agreed: Callable[[], Awaitable[None]]) -> AsyncIterator[Line]:
    """Join at `encoder` (HOST:PORT), agree, call `agreed`, and give the stream; an error within is told the encoder.

    Raises:
        TermsError, FrameError: the encoder's terms are not what this session expects.
        TransportError: the encoder cannot be reached, was lost, or gave up.
    """
    peer = f"encoder {encoder}"
    async with Meter(encoder) as meter, rpc.dial(meter.address, METHOD, peer) as call:
        line = Line(call, peer, meter)
        await line.send(session.join())
        try:
            terms = await line.receive()
            if not isinstance(terms, Terms):
                raise FrameError(f"frame: expected terms first, got {name_of(terms)}")
            ack = session.agree(terms)
            line.set_up()
            log.info("session %s: agreed with %s: %s", session.session, peer, terms)
            await agreed()
            await line.send(ack)
            yield line
        except GlsnetError as error:
            log.warning("session %s: leaving %s: %s", session.session, peer, error)
            await line.refuse(str(error))
            raise
    log.info("session %s: closed after %d rounds", session.session, session.next_round)


def name_of(frame: Frame | None) -> str:
    """What an error calls a frame that came, or the stream's end."""
    return "the end" if frame is None else frame.kind if isinstance(frame, Turn) else type(frame).__name__
