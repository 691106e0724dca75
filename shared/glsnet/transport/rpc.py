"""gRPC as every part of glsnet uses it: streams of raw messages (`pipes`), and errors as status codes.

    Served     a stream at the listening end
    Call       at the dialling end: `dial`
    Machine    what of a `pipes.Net` is the same whatever carries streams
    GrpcNet    over gRPC, every connection through a meter
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from glsnet.errors import (
    CallerError,
    DamageError,
    FrameError,
    GlsnetError,
    GoneError,
    RefusedError,
    TermsError,
    TransportError,
)
from glsnet.frames import Join
from glsnet.joining import proven
from glsnet.transport.meter import Meter, Reading
from glsnet.transport.pipes import Dialled, Pipe
from glsnet.transport.security import LOCAL, WRONG_CERTIFICATE, WRONG_HOST, Security, host_of, place_of

M = TypeVar("M", bound=Message)
T = TypeVar("T")
log = logging.getLogger("glsnet")

CONNECT_SECONDS = 30.0
ATTEMPT_SECONDS = 5.0  # of these, after which all is begun anew: a name server may have lost what it was asked
SILENCE_SECONDS = 10.0  # a peer that is silent for so long is asked whether it is there, and has half as long to answer

STATUS: dict[type[GlsnetError], grpc.StatusCode] = {  # a class before those that it is one of
    RefusedError: grpc.StatusCode.PERMISSION_DENIED,
    TermsError: grpc.StatusCode.FAILED_PRECONDITION,
    DamageError: grpc.StatusCode.ABORTED,
    FrameError: grpc.StatusCode.DATA_LOSS,
    CallerError: grpc.StatusCode.INVALID_ARGUMENT,
    GoneError: grpc.StatusCode.NOT_FOUND,
    TransportError: grpc.StatusCode.UNAVAILABLE,
}
_ERROR = {status: error for error, status in STATUS.items()}

_MISTRUST = {  # by what gRPC says of a handshake that no other attempt would mend
    "Hostname Verification Check failed": WRONG_HOST,
    "CERTIFICATE_VERIFY_FAILED": WRONG_CERTIFICATE,
    "WRONG_VERSION_NUMBER": "expected TLS, got plain text; start it with --tls-cert, --tls-key and --tls-ca",
}

_COMPUTING = ThreadPoolExecutor()  # the loop's own may be busy with finding out what names mean, for minutes

Handler = Callable[[Pipe], Awaitable[None]]


def options(silence: float = SILENCE_SECONDS) -> list[tuple[str, int]]:
    """Of channels and servers.

    No bandwidth probes: their PINGs come at random and would blur the count of bytes; keepalive's come only when a
    connection has been silent. One connection per channel.
    """
    milliseconds = max(1, round(1000 * silence))
    return [
        ("grpc.http2.bdp_probe", 0),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2000),  # the time that an attempt to connect has
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.dns_min_time_between_resolutions_ms", 1000),  # a peer that is started again may have a new address
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", max(1, milliseconds // 2)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", max(1, milliseconds // 2)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", max(1, milliseconds // 2)),
    ]


def check_address(address: str) -> str:
    """The address; raises CallerError if it is not HOST:PORT with a port to dial."""
    if place_of(address)[1] == 0:
        raise CallerError(f"address: expected HOST:PORT, got {address!r}")
    return address


class Served:
    """A `Pipe` at the listening end."""

    def __init__(self, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        self._context = context
        names = context.auth_context().get("x509_common_name", ())
        self.name = next((name.decode(errors="replace") for name in names), None)
        self.peer = str(context.peer()) if self.name is None else f"{self.name} at {context.peer()}"

    async def read(self) -> bytes | None:
        """See `Pipe`."""
        with translated(self.peer):
            data = await self._context.read()
        return data if isinstance(data, bytes) else None

    async def write(self, data: bytes) -> None:
        """See `Pipe`."""
        with translated(self.peer):
            await self._context.write(data)


class Call:
    """A `Dialled`; it has a reading if it goes through a meter."""

    name = None

    def __init__(self, call: "grpc.aio.StreamStreamCall[bytes, bytes]", peer: str, meter: Meter | None) -> None:
        self._call, self.peer, self._meter = call, peer, meter

    async def read(self) -> bytes | None:
        """See `Pipe`; the class of an error says whose fault it was, its text what."""
        with translated(self.peer):
            data = await self._call.read()
            if isinstance(data, bytes):
                return data
            if (code := await self._call.code()) is not grpc.StatusCode.OK:
                raise _ERROR.get(code, TransportError)(f"{self.peer}: {await self._call.details()}")
            return None

    async def write(self, data: bytes) -> None:
        """See `Pipe`."""
        with translated(self.peer):
            try:
                await self._call.write(data)
            except asyncio.InvalidStateError:  # the peer has ended the stream: say why
                code, details = await self._call.code(), await self._call.details()
                raise _ERROR.get(code, TransportError)(f"{self.peer}: {details}") from None

    async def close(self) -> None:
        """See `Dialled`."""
        with translated(self.peer), suppress(asyncio.InvalidStateError):
            await self._call.done_writing()

    def reading(self) -> Reading:
        """See `Dialled`."""
        assert self._meter is not None
        return self._meter.read()


@asynccontextmanager
async def dial(address: str, method: str, peer: str, security: Security = LOCAL, silence: float = SILENCE_SECONDS,
               meter: Meter | None = None) -> AsyncIterator[Call]:
    """Open a bidirectional stream of raw messages; on leaving, whatever is left of it is cancelled.

    NAME@HOST:PORT is an address, too: its certificate has to be one for NAME, which has several.

    Raises:
        CallerError: plain text to this address is not allowed.
        RefusedError: one of the two does not trust the other's certificate, or one of them talks plain text.
        TransportError: nothing answers gRPC at `address` within CONNECT_SECONDS.
    """
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                channel = await _connected(stack, lambda: _channel(address, security, silence, meter), peer)
        except TimeoutError:
            hint = ", does it talk plain text too?" if security.tls is None else ", does it know this certificate's CA?"
            raise TransportError(f"{peer}: no gRPC service answered within {CONNECT_SECONDS:.0f} s; is it started, is "
                                 f"the address right{hint}") from None
        call = channel.stream_stream(method, bytes, bytes)()  # type: ignore[call-arg]  # the stubs want all
        try:
            yield Call(call, peer, meter)
        finally:
            call.cancel()


async def _connected(stack: AsyncExitStack, make: Callable[[], grpc.aio.Channel], peer: str) -> grpc.aio.Channel:
    """A channel that is, put on the stack, as many as it takes; raises as `_ready`."""
    while True:
        async with AsyncExitStack() as attempt:
            channel = await attempt.enter_async_context(make())
            with suppress(TimeoutError):
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    await _ready(channel, peer)
                stack.push_async_exit(attempt.pop_all())
                return channel


def _channel(address: str, security: Security, silence: float, meter: Meter | None) -> grpc.aio.Channel:
    name, _, place = address.rpartition("@")
    security.check(place, "dialling")
    to = place if meter is None else meter.address
    if security.tls is None:
        return grpc.aio.insecure_channel(to, options=options(silence))
    of_host: list[tuple[str, Any]] = [("grpc.ssl_target_name_override", name or host_of(place))]
    return grpc.aio.secure_channel(to, security.tls.client(), options=[*options(silence), *of_host])


async def _ready(channel: grpc.aio.Channel, peer: str) -> None:
    """Wait until it is connected; raises RefusedError once it is clear that it never will be."""
    while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            why = await channel.stream_stream("/", bytes, bytes)().details()  # type: ignore[call-arg]
            if (sign := next((sign for sign in _MISTRUST if sign in why), None)) is not None:
                raise RefusedError(f"{peer}: {_MISTRUST[sign]}")
        await channel.wait_for_state_change(state)


class Machine:
    """What the world of a party that runs for real has, whatever carries its streams."""

    def __init__(self, token: bytes = b"") -> None:
        """`token` is the secret of the session that is joined."""
        self.random = random.Random()
        self._token, self._attempt = token, 0

    async def compute(self, function: Callable[..., T], *arguments: Any) -> T:
        """In a thread."""
        return await asyncio.get_running_loop().run_in_executor(_COMPUTING, function, *arguments)

    def proven(self, join: Join) -> Join:
        """See `pipes.Net`; attempts go by the time of day, so that they do after a crash, too."""
        self._attempt = max(self._attempt + 1, time.time_ns())
        return proven(join, self._token, self._attempt)

    def local(self, seconds: float) -> float:
        """This machine has one clock."""
        return seconds


class GrpcNet(Machine):
    """`pipes.Net` over gRPC."""

    def __init__(self, method: str, security: Security = LOCAL, silence: float = SILENCE_SECONDS,
                 token: bytes = b"") -> None:
        """`method` is the one that is dialled, `token` as of any machine."""
        super().__init__(token)
        self._method, self._security, self._silence = method, security, silence

    @asynccontextmanager
    async def dial(self, address: str, peer: str) -> AsyncIterator[Dialled]:
        """See `pipes.Net`."""
        async with (Meter(address) as meter,
                    dial(address, self._method, peer, self._security, self._silence, meter) as call):
            yield call


@contextmanager
def translated(peer: str) -> Iterator[None]:
    """gRPC's errors as glsnet's."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        # gRPC's own word for a write that met the end of the stream; the status that came with it is then lost.
        lost = error.code() is grpc.StatusCode.INTERNAL and error.details() == "Internal error from Core"
        details = "ended the stream while it was being sent to" if lost else error.details()
        raise _ERROR.get(error.code(), TransportError)(f"{peer}: {details}") from error
    except grpc.aio.BaseError as error:
        raise TransportError(f"{peer}: {error}") from error


def parsed(kind: type[M], data: bytes) -> M:
    """The message that these bytes are; raises FrameError if they end or break off early."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise FrameError(f"{kind.__name__.lower()}: expected a whole message, got {len(data)} bytes") from error
    return message


def status_of(error: GlsnetError) -> grpc.StatusCode:
    """The gRPC status that stands for an error of this class."""
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
