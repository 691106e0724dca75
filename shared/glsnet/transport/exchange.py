"""The data plane: both ends of the streams between decoders and an encoder; `parties` has the loops on them.

    Broadcast, serve_join   the encoder's end: the streams of all decoders of a session
    Line, staying           a decoder's end of its own stream, counted; joined again whenever it is lost
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from glsnet.errors import DamageError, FrameError, GlsnetError, GoneError, RefusedError, TermsError, TransportError
from glsnet.frames import (
    NO_TRAFFIC,
    Ack,
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
from glsnet.joining import Door, Host
from glsnet.transport import metrics
from glsnet.transport.meter import Reading
from glsnet.transport.pipes import Dialled, Net, Pipe

Session = TypeVar("Session", bound=Host)
METHOD = "/glsnet.v1.Exchange/Join"
CODEC = "codec"  # the session of parties that run without a lab
JOIN_SECONDS = 10.0
REFUSE_SECONDS = 2.0
PATIENCE = 30.0  # seconds without progress after which a peer is given up
FIRST_BACKOFF, LAST_BACKOFF = 0.05, 2.0  # seconds before joining again
log = logging.getLogger("glsnet")


class Broadcast(Generic[Session]):
    """One encoder session towards the decoders that join it."""

    def __init__(self, session: Session, token: bytes = b"") -> None:
        """`token` is the session's secret, of which decoders have to prove that they know it; empty asks for none."""
        self.session = session
        self._door = Door(token)
        self._sending: dict[int, asyncio.Event] = {}  # per joined stream: set when there may be something to send
        self._changed = asyncio.Event()
        self._ending: tuple[GlsnetError | None] | None = None
        self._encoded: tuple[Frame | None, bytes] = None, b""

    async def serve(self, pipe: Pipe, join: Join) -> None:
        """Serve one decoder's stream to its end.

        Raises:
            RefusedError: it may not join.
            PeerError: the decoder cannot join, or broke the protocol; it leaves the session.
            TransportError: it has joined again by another stream.
        """
        self._door.check(join)
        terms = self.session.join(join, self._door.closed_to(pipe.name))
        stream = terms.stream
        assert stream is not None
        self._door.bind(join.streams or (stream,), pipe.name)
        log.info("session %s: stream %d joined from %s", self.session.session, stream, pipe.peer)
        metrics.JOINS.inc()
        metrics.STREAMS_JOINED.inc()
        if stream in self._sending:
            self._sending[stream].set()  # of a stream that is over: see `_send`
        wake = self._sending[stream] = asyncio.Event()
        reader = asyncio.create_task(self._read(pipe, stream))
        reader.add_done_callback(lambda _: wake.set())
        try:
            await self._write(pipe, to_bytes(terms))
            await self._send(pipe, stream, wake, reader)
        except BaseException as error:
            reason = str(error) or "it went away"
            log.warning("session %s: stream %d lost: %s", self.session.session, stream, reason)
            metrics.DECODERS_LOST.inc()
            raise
        finally:
            metrics.STREAMS_JOINED.dec()
            reader.cancel()
            if self._sending.get(stream) is wake:
                del self._sending[stream]
                self.session.leave(stream)
                self.look()

    async def _send(self, pipe: Pipe, stream: int, wake: asyncio.Event, reader: "asyncio.Task[None]") -> None:
        while not reader.done():
            wake.clear()
            if self._sending.get(stream) is not wake:
                raise TransportError(f"stream {stream}: its decoder has joined again")
            frame = self.session.outgoing(stream)
            if frame is not None:
                await self._write(pipe, self._bytes(frame))
            elif self._ending is None:
                await wake.wait()
            else:
                (error,) = self._ending
                if error is not None:
                    raise error
                return
        reader.result()

    async def _write(self, pipe: Pipe, data: bytes) -> None:
        await pipe.write(data)
        metrics.ENCODER_DOWN.add(len(data))

    async def _read(self, pipe: Pipe, stream: int) -> None:
        wake = self._sending[stream]
        while (data := await pipe.read()) is not None:
            metrics.ENCODER_UP.add(len(data))
            if self._sending.get(stream) is not wake:
                return
            frame = from_bytes(data)
            if isinstance(frame, Join):
                continue  # once more: a network may deliver twice
            self.session.receive(stream, frame)
            wake.set()
            self.look()
            if not self.session.ready:
                await self.until(lambda: self.session.ready)
        raise FrameError("stream: expected the decoder to stay until the encoder ends it, it closed its side")

    def send(self, frame: Indices | Turn | End) -> None:
        """Have one frame sent to every decoder."""
        self.session.say(frame)
        self.announce()

    def send_to(self, stream: int, frame: Frame) -> None:
        """Have one frame sent to the decoder on a stream, if it is there."""
        self.session.say_to(stream, frame)
        if stream in self._sending:
            self._sending[stream].set()

    def announce(self) -> None:
        """The session may have something to send to any decoder."""
        for wake in self._sending.values():
            wake.set()

    def end(self, error: GlsnetError | None = None) -> None:
        """End every decoder's stream, after what the session has to send, with an error or well; only once."""
        self._ending = self._ending or (error,)
        self.announce()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the session holds; it is looked at after every frame, join, loss and `look`."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def look(self) -> None:
        """The session has changed: have all that wait look at their conditions."""
        self._changed.set()

    def _bytes(self, frame: Frame) -> bytes:
        """Of a frame that often goes to all decoders, made once."""
        if self._encoded[0] is not frame:
            self._encoded = frame, to_bytes(frame)
        return self._encoded[1]


Broadcasts = dict[str, Broadcast[Any]]  # by session


async def serve_join(pipe: Pipe, broadcasts: Broadcasts) -> None:
    """The encoder's handler of METHOD: find the session that a decoder asks for, and serve it.

    Raises:
        PeerError: the first frame is no Join within JOIN_SECONDS, or see `Broadcast.serve`.
        GoneError: there is no such session.
    """
    try:
        data = await asyncio.wait_for(pipe.read(), JOIN_SECONDS)
    except TimeoutError:
        raise FrameError(f"frame: expected join within {JOIN_SECONDS:.0f} s, got nothing") from None
    join = from_bytes(data or b"")
    metrics.ENCODER_UP.add(len(data or b""))
    if not isinstance(join, Join):
        raise FrameError(f"frame: expected join first, got {type(join).__name__}")
    if join.session not in broadcasts:
        raise GoneError(f"session: expected one that is open at this encoder, got {join.session!r}")
    try:
        await broadcasts[join.session].serve(pipe, join)
    except (RefusedError, TermsError) as error:
        log.warning("session %s: %s refused: %s", join.session, pipe.peer, error)
        raise


@dataclass(frozen=True)
class Metered:
    """A decoder's exchange: set-up (connection, Join, Terms) apart from the rounds, towards it (down) and back (up)."""

    setup_down: Traffic
    setup_up: Traffic
    rounds_down: Traffic
    rounds_up: Traffic

    def __add__(self, other: "Metered") -> "Metered":
        return Metered(self.setup_down + other.setup_down, self.setup_up + other.setup_up,
                       self.rounds_down + other.rounds_down, self.rounds_up + other.rounds_up)


class Line:
    """A decoder's end of its stream, all that passes counted."""

    def __init__(self, pipe: Dialled) -> None:
        self.peer = pipe.peer
        self._pipe = pipe
        self._down, self._up = NO_TRAFFIC, NO_TRAFFIC
        self._setup = self._last = pipe.reading()
        self.size = 0  # bytes of the last frame that was sent or received
        self.agreed = False
        self.progress = False  # whether what came has brought the session on: who talks says so
        self._joined = (NO_TRAFFIC, NO_TRAFFIC)

    async def send(self, frame: Frame) -> None:
        """Put a frame on the stream; raises GlsnetError if the encoder has ended it with an error."""
        data = to_bytes(frame)
        await self._pipe.write(data)
        self.size = len(data)
        self._up += bytes_of(frame, len(data))
        metrics.DECODER_UP.add(len(data))

    async def receive(self) -> Frame | None:
        """The next frame, or None once the encoder has ended the stream well; raises GlsnetError as `send` does."""
        data = await self._pipe.read()
        if data is None:
            return None
        self._last = self._pipe.reading()
        frame = from_bytes(data)
        self.size = len(data)
        self._down += bytes_of(frame, len(data))
        metrics.DECODER_DOWN.add(len(data))
        return frame

    def reading(self) -> Reading:
        """What has passed the socket so far."""
        return self._pipe.reading()

    def set_up(self) -> None:
        """All that has passed until now is set-up."""
        self.agreed, self._setup = True, self._last
        self._joined = (replace(self._down, stream=self._setup.down_stream, ip=self._setup.down_ip),
                        replace(self._up, stream=self._setup.up_stream, ip=self._setup.up_ip))
        self._down, self._up = NO_TRAFFIC, NO_TRAFFIC

    def metered(self) -> Metered:
        """What has passed, once the stream has ended: down until the last frame, before the stream's end."""
        if not self.agreed:
            self._last = self._pipe.reading()
            self.set_up()
        down, up = self._last - self._setup, self._pipe.reading() - self._setup
        return Metered(*self._joined, replace(self._down, stream=down.down_stream, ip=down.down_ip),
                       replace(self._up, stream=up.up_stream, ip=up.up_ip))

    async def refuse(self, reason: str) -> None:
        """Tell the encoder why, if it still listens, and let it end the stream."""
        with suppress(GlsnetError, TimeoutError):
            async with asyncio.timeout(REFUSE_SECONDS):
                await self._pipe.write(to_bytes(Refusal(reason[:1000])))
                await self._pipe.close()
                while await self._pipe.read() is not None:
                    pass


class Joining(Protocol):
    """A decoder's session as far as joining goes: of compression, couplings, drafts."""

    session: str
    next_round: int

    def join(self) -> Join:
        """The frame to begin with."""

    def agree(self, terms: Terms) -> Ack:
        """The encoder's terms; raises PeerError if they are not what it expects."""


async def staying(net: Net, session: Joining, encoder: str, agreed: Callable[[], Awaitable[None]],
                  talk: Callable[[Line], Awaitable[None]], patience: float, over: Callable[[], bool] = lambda: False
                  ) -> Metered:
    """Join at `encoder` (HOST:PORT), and talk to the end; where the stream is lost, join again, and go on.

    Args:
        net: this party's world.
        session: a new session, or one that goes on.
        encoder: where to join.
        agreed: called once the terms are agreed on for the first time.
        talk: called with each stream that was joined, and returns at a good end.
        patience: seconds since the last progress, but for those that it was joined, after which a lost stream is not
            joined again.
        over: whether all has come; an encoder that is gone then has only not said so.

    Raises:
        RefusedError: this party may not join.
        TermsError, FrameError: the encoder, or its frames, are not what this session expects.
        TransportError: the encoder cannot be reached, was lost, or gave up, and did not come back.
    """
    loop = asyncio.get_running_loop()
    metered: list[Metered] = []
    since, backoff = loop.time(), FIRST_BACKOFF
    first, up = True, since

    async def once() -> None:
        nonlocal first, up
        up = loop.time()
        if first:
            first = False
            await agreed()

    while True:
        lines: list[Line] = []
        try:
            async with joined(net, session, encoder, once, lines, metered) as line:
                await talk(line)
            break
        except (DamageError, TransportError) as error:
            now = loop.time()
            if any(line.progress for line in lines):
                since, backoff = now, FIRST_BACKOFF
            elif any(line.agreed for line in lines):
                since += now - up
            given_up = now - since + backoff > net.local(patience)
            if over() and (isinstance(error, GoneError) or (given_up and isinstance(error, TransportError))):
                break
            if given_up:
                raise
            log.warning("session %s: joining %s again: %s", session.session, encoder, error)
            metrics.JOINED_AGAIN.inc()
        await asyncio.sleep(net.local(backoff * net.random.uniform(0.5, 1.5)))
        backoff = min(2 * backoff, LAST_BACKOFF)
    log.info("session %s: closed after %d rounds", session.session, session.next_round)
    total = metered[0]
    for each in metered[1:]:
        total += each
    return total


@asynccontextmanager
async def joined(net: Net, session: Joining, encoder: str, agreed: Callable[[], Awaitable[None]], lines: list[Line],
                 metered: list[Metered]) -> AsyncIterator[Line]:
    """Join, agree, call `agreed`, and give the stream; the encoder is told of an error within that no retry can mend.

    The stream is appended to `lines` once it is there, what it took to `metered` when it is over.
    """
    peer = f"encoder {encoder}"
    async with net.dial(encoder, peer) as pipe:
        line = Line(pipe)
        lines.append(line)
        try:
            await line.send(net.proven(session.join()))
            terms = await line.receive()
            if not isinstance(terms, Terms):
                raise FrameError(f"frame: expected terms first, got {name_of(terms)}")
            ack = session.agree(terms)
            line.set_up()
            log.info("session %s: agreed with %s: %s", session.session, peer, terms)
            metrics.JOINS.inc()
            with metrics.STREAMS_JOINED.track_inprogress():
                await agreed()
                await line.send(ack)
                yield line
        except (DamageError, TransportError):
            raise
        except GlsnetError as error:
            log.warning("session %s: leaving %s: %s", session.session, peer, error)
            await line.refuse(str(error))
            raise
        finally:
            metered.append(line.metered())


def name_of(frame: Frame | None) -> str:
    """What an error calls a frame that came, or the stream's end."""
    return "the end" if frame is None else frame.kind if isinstance(frame, Turn) else type(frame).__name__
