"""The broadcast of compression over MQTT 3.1.1, by any broker: one publish, K deliveries. A third way to carry `pipes`.

    Broker, Login    how a party is to dial a broker
    serving          the encoder's end: an Uplink, on which it says to all what is for all
    MqttNet          a decoder's end: `pipes.Net`, every stream a connection of its own, through a meter

Topics are below glsnet/SESSION. CALL is new each time that a decoder dials, so that nothing of a stream that is over is
taken for one of another:

    terms              the encoder's Terms, retained while the session is open; empty once it is not: its will, too
    indices            encoder -> all: each frame of indices, and End, once
    down/CALL/ROUND    encoder -> this decoder: its Terms, and all that it lacks of the rounds before ROUND; those from
                       there on are, or will be, `indices`, since it subscribed before it joined
    ended/CALL         encoder -> this decoder: the stream has ended, with a status of gRPC's and its text
    up/CALL            decoder -> encoder: Join, Ack, Refusal
    gone/CALL          decoder -> encoder: it has closed its side, or, as its will, was lost

Payloads are the frames' bytes and nothing else. Whatever a broker loses, there is one remedy, as anywhere: a decoder to
which a gap shows joins again. If it has heard nothing for a while it says its last words again, the encoder its own to
it alone; without an answer, the stream is lost. What is delivered twice is dropped, by its rounds.
"""

import asyncio
import hashlib
import logging
import math
import re
import secrets
import socket
import ssl
import sys
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aiomqtt import Client, MqttError, Will
from aiomqtt.exceptions import MqttConnectError

from glsnet.compression import WINDOW_FRAMES, EncoderSession
from glsnet.errors import CallerError, DamageError, GlsnetError, GoneError, RefusedError, TransportError
from glsnet.frames import NO_TRAFFIC, Ack, End, Frame, Indices, Join, Lost, Traffic, bytes_of, from_bytes, to_bytes
from glsnet.transport.exchange import FIRST_BACKOFF, LAST_BACKOFF, Broadcast, Metered, log, serve_join
from glsnet.transport.meter import Meter, Reading
from glsnet.transport.pipes import Dialled
from glsnet.transport.rpc import STATUS, Machine, check_address, status_of
from glsnet.transport.security import WRONG_CERTIFICATE, WRONG_HOST, Security, host_of, place_of

T = TypeVar("T")
ANSWER_SECONDS = 10.0  # that a broker has to answer
GRACE_SECONDS = 0.2  # for what a broker said before it hung up
FLUSH_SECONDS = 1.0  # for the last words to a broker
OPEN_SECONDS = 3.0  # that a session's retained terms are waited for
END_SECONDS = 1.0  # that streams have to end when their session has
QUEUE = 4 * WINDOW_FRAMES  # messages that have come and are not read yet, beyond which they are lost
HELD = 4 * WINDOW_FRAMES  # frames of a broadcast that a decoder holds while it is sent what was before them
MAX_CALLS = 1 << 12
FRAMES = 16  # of a call that are not read yet, Acks apart
CLOSED, LOST = b"closed", b"lost"
_REFUSED = (4, 5, 134, 135)  # user name or password, authorisation; as MQTT 3.1.1 has it, and as paho calls it
_MISTRUST = {  # by what OpenSSL says of a handshake that no other attempt would mend
    "mismatch": WRONG_HOST,
    "CERTIFICATE_VERIFY_FAILED": WRONG_CERTIFICATE,
    "WRONG_VERSION_NUMBER": "expected TLS, got plain text; have it listen with a certificate",
    "record layer failure": "expected TLS, got plain text; have it listen with a certificate",
}


@dataclass(frozen=True)
class Broker:
    """A broker, HOST:PORT as the party that is told has to dial it, and the quality of service of all messages: 0 to 2.
    """

    address: str
    qos: int

    def __post_init__(self) -> None:
        check_address(self.address)
        if self.qos not in (0, 1, 2):
            raise CallerError(f"qos: expected 0, 1 or 2, got {self.qos}")


@dataclass(frozen=True)
class Login:
    """Who a party is to a broker."""

    user: str
    password: str = field(repr=False)

    @classmethod
    def of(cls, user: str | None, password_file: Path | None) -> "Login | None":
        """What two options say, None without any; the password is what is in the file, but for white space around it.

        Raises:
            CallerError: one is there without the other, or the file cannot be read.
        """
        match user, password_file:
            case None, None:
                return None
            case str(), Path():
                try:
                    return cls(user, password_file.read_text("utf-8").strip())
                except (OSError, UnicodeDecodeError) as error:
                    raise CallerError(f"--mqtt-password-file: expected a file of text, got {password_file}: {error}"
                                      ) from None
        raise CallerError("--mqtt-user and --mqtt-password-file: expected both or none")


@asynccontextmanager
async def serving(broadcast: Broadcast[EncoderSession], broker: Broker, security: Security, login: Login | None,
                  silence: float) -> AsyncIterator["Uplink"]:
    """Meanwhile decoders may join a session by a broker; it is left in good order once the broadcast has ended.

    A broker that is lost is dialled again, as often as it takes; the decoders then join again.

    Args:
        broadcast: of a new session, or of one that goes on.
        broker: where, and how.
        security: this party's, as for any connection.
        login: this party's to the broker.
        silence: seconds after which a broker that says nothing is asked whether it lives.

    Raises:
        CallerError: plain text to it is not allowed.
        RefusedError: it does not trust this party, or this party not it.
        TransportError: nothing answers MQTT there.
    """
    uplink = Uplink(broadcast, broker, security, login, silence)
    staying = asyncio.create_task(uplink.stay())
    try:
        await uplink.opened
        yield uplink
    finally:
        await uplink.close()
        await asyncio.wait({staying}, timeout=END_SECONDS + FLUSH_SECONDS)
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)


class Uplink:
    """The encoder's end of all streams of a session, on one connection, counted.

    Attributes:
        opened: done once decoders may join, or with what has kept them from it.
    """

    def __init__(self, broadcast: Broadcast[EncoderSession], broker: Broker, security: Security, login: Login | None,
                 silence: float) -> None:
        session = broadcast.session
        self.opened = asyncio.get_running_loop().create_future()
        self.peer = f"broker {broker.address}"
        self._session, self._broadcasts = session, {session.session: broadcast}
        self._connecting = broker, security, login, silence
        self._next = session.next_round  # the first that has not been published to all; one more than all after End
        self._connection: _Connection | None = None
        self._calls: dict[str, _Served] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._begun = False  # whether frames have been published to all on this connection
        self._metered = Metered(NO_TRAFFIC, NO_TRAFFIC, NO_TRAFFIC, NO_TRAFFIC)
        self._said = self._heard = NO_TRAFFIC  # since the last lap; of the network's part, see `_lap`
        self._read = _NOTHING

    def metered(self) -> Metered:
        """What it took, up to the broker and down from it; set-up is all before the first frame to all.

        That is each time that the broker is dialled. What one decoder is sent alone is among it.
        """
        return self._metered

    async def stay(self) -> None:
        """Be there for decoders until `close`."""
        broker, security, login, silence = self._connecting
        identifier = hashlib.sha256(self._session.session.encode()).hexdigest()[:20]  # a broker then knows who is back
        backoff = FIRST_BACKOFF
        while not self._closing.is_set():
            try:
                async with _connected(broker, self._session.session, Will(_TERMS, b"", broker.qos, True), security,
                                      login, silence, identifier) as self._connection:
                    self._begun, self._read = False, _NOTHING
                    backoff = FIRST_BACKOFF
                    await self._listen(self._connection)
            except GlsnetError as error:
                if not self.opened.done():
                    self.opened.set_exception(error)
                    return
                log.warning("session %s: %s; dialling it again", self._session.session, error)
            finally:
                self._lost()
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff):
                    await self._closing.wait()
            backoff = min(2 * backoff, LAST_BACKOFF)

    async def close(self) -> None:
        """The session is over: all streams have END_SECONDS to end, then its terms are withdrawn."""
        if self._connection is not None:
            self._lap(self._connection)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=END_SECONDS)
        for task in self._tasks:
            task.cancel()
        self._closing.set()

    async def _listen(self, connection: "_Connection") -> None:
        await connection.subscribe("up/+", "gone/+", _TERMS)
        await self._open(connection)
        if not self.opened.done():
            self.opened.set_result(None)
        receiving, closing = asyncio.create_task(self._receive(connection)), asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({receiving, closing}, return_when=asyncio.FIRST_COMPLETED)
            if receiving.done():
                receiving.result()
        finally:
            receiving.cancel()
            closing.cancel()
            await asyncio.gather(receiving, closing, return_exceptions=True)
        await connection.publish(_TERMS, b"", retain=True)

    async def _open(self, connection: "_Connection") -> None:
        data = to_bytes(self._session.terms)
        self._said += bytes_of(self._session.terms, len(data))
        await connection.publish(_TERMS, data, retain=True)

    async def _receive(self, connection: "_Connection") -> None:
        while True:
            match await connection.receive():
                case ["terms"], b"":  # the will of an earlier connection, or of a process before this one
                    await self._open(connection)
                case ["up", call], data if _CALL.fullmatch(call):
                    self._take(connection, call, data)
                case ["gone", call], data:
                    if (pipe := self._calls.get(call)) is not None:
                        pipe.end(None if data == CLOSED else TransportError(f"{pipe.peer}: it was lost"))

    def _take(self, connection: "_Connection", call: str, data: bytes) -> None:
        """One message of a decoder's."""
        if (frame := _frame(data)) is not None:
            self._heard += bytes_of(frame, len(data))
        pipe = self._calls.get(call)
        if pipe is not None:
            pipe.take(frame, data)
        elif not isinstance(frame, Join):
            error = GoneError(f"{self.peer}: expected join first, this encoder knows nothing of this stream")
            self._spawn(self._ended(connection, call, error))
        elif len(self._calls) < MAX_CALLS:
            self._calls[call] = pipe = _Served(self, connection, call, self._next, frame.next_round)
            pipe.take(frame, data)
            self._spawn(self._serve(connection, call, pipe))

    async def _serve(self, connection: "_Connection", call: str, pipe: "_Served") -> None:
        error: GlsnetError | None = None
        try:
            await serve_join(pipe, self._broadcasts)
        except GlsnetError as why:
            error = why
        finally:
            del self._calls[call]
        if not pipe.over:
            await self._ended(connection, call, error)

    async def _ended(self, connection: "_Connection", call: str, error: GlsnetError | None) -> None:
        status = "OK" if error is None else f"{status_of(error).name} {error}"
        with suppress(TransportError):
            await connection.publish(f"ended/{call}", status.encode())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def say(self, frame: Frame, data: bytes, pipe: "_Served") -> None:
        """Have a decoder be told a frame: with all others, if none was; if it was before this one joined, alone."""
        first, below = _rounds(frame) or (-1, -1)
        if first >= self._next:
            if not self._begun:
                self._lap(pipe.connection)
                self._begun = True
            self._next = below
            self._said += bytes_of(frame, len(data))
            await pipe.connection.publish("indices", data)
        elif first < pipe.since:
            await self.say_alone(frame, data, pipe)

    async def say_alone(self, frame: Frame, data: bytes, pipe: "_Served") -> None:
        """Have a decoder be told a frame, and no other."""
        self._said += bytes_of(frame, len(data))
        await pipe.connection.publish(f"down/{pipe.call}/{pipe.since}", data)

    def say_again(self, frame: Frame, data: bytes, pipe: "_Served") -> None:
        """The same, for a decoder that has heard nothing for a while."""

        async def say() -> None:
            with suppress(TransportError):
                await self.say_alone(frame, data, pipe)

        self._spawn(say())

    def _lost(self) -> None:
        """The connection is over, and with it all streams on it."""
        if self._connection is not None and not self._closing.is_set():
            self._lap(self._connection)
        self._connection = None
        for pipe in self._calls.values():
            pipe.end(TransportError(f"{self.peer}: lost"))

    def _lap(self, connection: "_Connection") -> None:
        """What has passed since the last lap was set-up, or not, if frames have been published."""
        reading = connection.reading()
        passed, self._read = reading - self._read, reading
        down = self._heard + Traffic(0, 0, passed.down_stream, passed.down_ip)
        up = self._said + Traffic(0, 0, passed.up_stream, passed.up_ip)
        none = NO_TRAFFIC
        self._metered += Metered(none, none, down, up) if self._begun else Metered(down, up, none, none)
        self._said = self._heard = NO_TRAFFIC


class _Served:
    """A `Pipe` at the encoder's end.

    A decoder may have heard, and acknowledge, what went to all before the encoder's loop has come to it on this stream.
    So an Ack is read only as far as what was written, and the rest of it later.
    """

    name = None

    def __init__(self, uplink: Uplink, connection: "_Connection", call: str, since: int, next_round: int) -> None:
        """`since` is the first round that it gets with all others, `next_round` the first that it wants."""
        self.connection, self.call, self.since = connection, call, since
        self.peer = f"{uplink.peer}, stream {call}"
        self._uplink = uplink
        self._frames: deque[bytes] = deque()
        self._written, self._claimed, self._passed = next_round, -1, -1
        self._heard = b""
        self._said: tuple[Frame, bytes] | None = None
        self._over: tuple[GlsnetError | None] | None = None
        self._changed = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether the decoder has left."""
        return self._over is not None

    def take(self, frame: Frame | None, data: bytes) -> None:
        """A message has come, and the frame that it is, if it is one."""
        if data == self._heard:  # it asks whether anybody is there
            if self._said is not None:
                self._uplink.say_again(*self._said, self)
            return
        self._heard = data
        if isinstance(frame, Ack):
            self._claimed = max(self._claimed, frame.next_round)
        elif len(self._frames) < FRAMES:
            self._frames.append(data)
        self._changed.set()

    def end(self, error: GlsnetError | None) -> None:
        """The decoder has left."""
        self._over = self._over or (error,)
        self._changed.set()

    async def read(self) -> bytes | None:
        """See `Pipe`."""
        while True:
            self._changed.clear()
            if self._frames:
                return self._frames.popleft()
            if min(self._claimed, self._written) > self._passed:
                self._passed = min(self._claimed, self._written)
                return to_bytes(Ack(self._passed))
            if self._over is not None:
                if (error := self._over[0]) is not None:
                    raise error
                return None
            await self._changed.wait()

    async def write(self, data: bytes) -> None:
        """See `Pipe`."""
        if self._over is not None and (error := self._over[0]) is not None:
            raise error
        match frame := from_bytes(data):
            case Indices():
                self._written = frame.first_round + frame.count
            case Lost():
                self._written = frame.next_round
        self._said = frame, data
        self._changed.set()
        await self._uplink.say(frame, data, self)


class MqttNet(Machine):
    """`pipes.Net` over MQTT, for decoders of one session."""

    def __init__(self, session: str, qos: int, security: Security, login: Login | None, silence: float,
                 token: bytes = b"") -> None:
        """`silence` is that of the broker, or of the encoder, seconds; `token` as of any machine."""
        super().__init__(token)
        self._session, self._qos = session, qos
        self._security, self._login, self._silence = security, login, silence

    @asynccontextmanager
    async def dial(self, address: str, peer: str) -> AsyncIterator[Dialled]:
        """See `pipes.Net`; the address is the broker's.

        Raises:
            GoneError: the session is not open there.
        """
        call, broker = secrets.token_hex(8), Broker(address, self._qos)
        async with _connected(broker, self._session, Will(f"gone/{call}", LOST, self._qos), self._security, self._login,
                              self._silence, call) as connection:
            pipe = _Dialled(connection, call, f"encoder at {connection.peer}", self._silence)
            await connection.subscribe(_TERMS, "indices", f"down/{call}/+", f"ended/{call}")
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    await pipe.opened()
            except TimeoutError:
                raise GoneError(f"session: expected {self._session!r} to be open at {connection.peer}, it is not"
                                ) from None
            try:
                yield pipe
            finally:
                await pipe.leave()


class _Dialled:
    """A `Dialled`: what goes to all and what goes to it alone, in the order of rounds."""

    name = None

    def __init__(self, connection: "_Connection", call: str, peer: str, silence: float) -> None:
        self.peer = peer
        self._connection, self._call, self._silence = connection, call, silence
        self._next = 0  # the first round that has not been read
        self._since: int | None = None  # the first that is to come with all others'; known with Terms
        self._coming = 0  # the next of those
        self._held: deque[tuple[Frame, bytes]] = deque()  # of those, until all before them have been read
        self._said = b""
        self._left = False

    async def opened(self) -> None:
        """Wait for the session's terms; what comes to all before this stream has joined is not for it."""
        while True:
            match await self._connection.receive():
                case ["terms"], data if data:
                    return

    async def read(self) -> bytes | None:
        """See `Pipe`."""
        while True:
            if self._held and self._since is not None and self._next >= self._since:
                return self._reads(*self._held.popleft())
            match await self._receive():
                case ["terms"], b"":
                    raise GoneError(f"{self.peer}: it has closed the session, or was lost")
                case ["ended", _], data:
                    self._left = True
                    _raise_if(data, self.peer)
                    return None
                case ["indices"], data if self._since is not None:
                    self._hold(data)
                case ["down", _, since], data if since.isdecimal():
                    if self._since is None:
                        self._since = int(since)
                        self._coming = max(self._since, self._next)
                    return self._reads(from_bytes(data), data)

    def _hold(self, data: bytes) -> None:
        """What went to all, unless it has come before; raises DamageError if something before it has not."""
        frame = from_bytes(data)
        first, below = _rounds(frame) or (0, 0)
        if first > self._coming:
            raise DamageError(f"first_round: expected {self._coming}, the next, got {first}; a broker has lost some")
        if below > self._coming:
            self._coming = below
            self._held.append((frame, data))
        if len(self._held) > HELD:
            raise DamageError(f"first_round: expected {self._next}, the next, got {HELD} frames of others")

    def _reads(self, frame: Frame, data: bytes) -> bytes:
        first, below = _rounds(frame) or (0, frame.next_round if isinstance(frame, Lost) else 0)
        self._next = max(self._next, below)
        if first <= self._coming:
            self._coming = max(self._coming, below)  # all is right if these were, or will be, lost on their way to all
        return data

    async def _receive(self) -> tuple[list[str], bytes]:
        """The next message; an encoder that has said nothing for too long is asked once whether it is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._silence):
                return await self._connection.receive()
        try:
            async with asyncio.timeout(self._silence / 2):
                await self._connection.publish(f"up/{self._call}", self._said)
                return await self._connection.receive()
        except TimeoutError:
            raise TransportError(f"{self.peer}: expected an answer within {self._silence / 2:g} s, got none") from None

    async def write(self, data: bytes) -> None:
        """See `Pipe`."""
        if isinstance(join := _frame(data), Join):
            self._next = join.next_round
        self._said = data
        await self._connection.publish(f"up/{self._call}", data)

    async def close(self) -> None:
        """See `Dialled`."""
        if not self._left:
            self._left = True
            await self._connection.publish(f"gone/{self._call}", CLOSED)

    async def leave(self) -> None:
        """Whatever is left of the stream is cancelled."""
        if not self._left:
            with suppress(TransportError, TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._connection.publish(f"gone/{self._call}", LOST)

    def reading(self) -> Reading:
        """See `Dialled`."""
        return self._connection.reading()


class _Connection:
    """One connection to a broker, through a meter, with the topics of one session."""

    def __init__(self, client: Client, meter: Meter, base: str, qos: int, peer: str) -> None:
        self.peer = peer
        self._client, self._meter, self._base, self._qos = client, meter, base, qos
        self.hung_up = asyncio.ensure_future(meter.hung_up.wait())

    async def subscribe(self, *topics: str) -> None:
        """Have messages on these sent here."""
        levels = [(f"{self._base}/{topic}", self._qos) for topic in topics]
        codes = await self._confirmed(self._client.subscribe(levels))
        if any(getattr(code, "value", code) >= 0x80 for code in codes):
            raise RefusedError(f"{self.peer}: expected it to let this party subscribe below {self._base}, it does not")

    async def publish(self, topic: str, data: bytes, *, retain: bool = False) -> None:
        """Send a message; returns once the broker has it, as far as the quality of service tells."""
        await self._confirmed(self._client.publish(f"{self._base}/{topic}", data, self._qos, retain))

    async def receive(self) -> tuple[list[str], bytes]:
        """The next message: the levels of its topic, those below the session's, and the payload."""
        try:
            message = await anext(self._client.messages)
        except MqttError as error:
            raise TransportError(f"{self.peer}: {error}") from error
        return message.topic.value.removeprefix(f"{self._base}/").split("/"), bytes(message.payload)

    def reading(self) -> Reading:
        """The bytes that have passed so far."""
        return self._meter.read()

    async def _confirmed(self, work: Coroutine[Any, Any, T]) -> T:
        """What a broker confirms; the client by itself would wait for that when the connection is lost, too.

        Whoever waits may give up: it is done all the same.
        """
        doing = asyncio.ensure_future(work)
        doing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({doing, self.hung_up}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            doing.cancel()
            raise TransportError(f"{self.peer}: the connection was lost")
        try:
            return doing.result()
        except MqttError as error:
            raise TransportError(f"{self.peer}: {error}") from error


@asynccontextmanager
async def _connected(broker: Broker, session: str, will: Will, security: Security, login: Login | None, silence: float,
                     identifier: str) -> AsyncIterator[_Connection]:
    """A connection to a broker; the will's topic is below the session's. Raises as `serving` does."""
    security.check(broker.address, "dialling")
    if not session or set(session) & set("/+#\0"):
        raise CallerError(f"session: expected a name that can be a level of a topic, got {session!r}")
    base, peer = f"glsnet/{session}", f"broker {broker.address}"
    async with Meter(broker.address) as meter:
        client = Client(
            *place_of(meter.address),
            identifier=identifier, timeout=ANSWER_SECONDS,
            username=None if login is None else login.user, password=None if login is None else login.password,
            will=Will(f"{base}/{will.topic}", will.payload, will.qos, will.retain),
            keepalive=max(1, math.ceil(silence)), max_queued_incoming_messages=QUEUE,
            tls_context=None if security.tls is None else _context(security.tls.context(serve=False), broker.address),
            logger=_QUIET, socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )
        client.pending_calls_threshold = sys.maxsize
        await _enter(client, meter, peer)
        connection = _Connection(client, meter, base, broker.qos, peer)
        try:
            yield connection
        finally:
            with suppress(MqttError):
                await client.__aexit__(None, None, None)
            await asyncio.wait({connection.hung_up}, timeout=FLUSH_SECONDS)
            connection.hung_up.cancel()


async def _enter(client: Client, meter: Meter, peer: str) -> None:
    """Connect. The client by itself takes a meter that hangs up, as there is nobody behind it, for a slow broker."""
    entering, hung_up = asyncio.ensure_future(client.__aenter__()), asyncio.ensure_future(meter.hung_up.wait())
    try:
        await asyncio.wait({entering, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({entering}, timeout=GRACE_SECONDS)
        if not entering.done():
            raise TransportError(f"{peer}: no MQTT broker answered; is it started, is the address right, do both talk "
                                 "TLS, or neither?")
        entering.result()
    except MqttConnectError as error:
        if getattr(error.rc, "value", error.rc) in _REFUSED:
            raise RefusedError(f"{peer}: expected it to let this party in, got {error.rc}; give --mqtt-user and "
                               "--mqtt-password-file") from error
        raise TransportError(f"{peer}: {error}") from error
    except MqttError as error:
        if (sign := next((sign for sign in _MISTRUST if sign in str(error)), None)) is not None:
            raise RefusedError(f"{peer}: {_MISTRUST[sign]}") from error
        raise TransportError(f"{peer}: {error}") from error
    finally:
        entering.cancel()
        hung_up.cancel()


def _context(context: ssl.SSLContext, address: str) -> ssl.SSLContext:
    """The same, for a broker that is dialled by way of a meter: its own name is to be in its certificate."""
    wrap, host = context.wrap_socket, host_of(address)

    def wrap_socket(sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        return wrap(sock, **options | {"server_hostname": host})

    context.wrap_socket = wrap_socket  # type: ignore[method-assign, assignment]
    return context


def _frame(data: bytes) -> Frame | None:
    """The frame that these bytes are, None of none: who reads them says so."""
    try:
        return from_bytes(data)
    except GlsnetError:
        return None


def _rounds(frame: Frame) -> tuple[int, int] | None:
    """Of a frame that goes to all: its first round, and the next after it; End is one more round after all others."""
    match frame:
        case Indices():
            return frame.first_round, frame.first_round + frame.count
        case End():
            return frame.rounds, frame.rounds + 1
    return None


def _raise_if(ended: bytes, peer: str) -> None:
    """Raise what the encoder has ended a stream with, if it is an error."""
    name, _, text = ended.decode(errors="replace").partition(" ")
    if name != "OK":
        raise _ERROR.get(name, TransportError)(f"{peer}: {text}")


_QUIET = logging.getLogger("glsnet.mqtt")
_QUIET.setLevel(logging.ERROR)  # what is lost because too much has come shows as a gap
_CALL = re.compile("[0-9a-f]{16}")
_ERROR = {status.name: error for error, status in STATUS.items()}
_TERMS = "terms"
_NOTHING = Reading(0, 0, 0, 0)
