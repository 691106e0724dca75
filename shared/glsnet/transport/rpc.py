"""gRPC as every part of glsnet uses it: streams of raw messages (`pipes`), and errors as status codes.

    Served     a stream at the listening end
    Call       at the dialling end: `dial`
    GrpcNet    `pipes.Net` over gRPC, every connection through a meter
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
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
    TermsError,
    TransportError,
)
from glsnet.transport.meter import Meter, Reading
from glsnet.transport.pipes import Dialled, Pipe

M = TypeVar("M", bound=Message)
T = TypeVar("T")
log = logging.getLogger("glsnet")

CONNECT_SECONDS = 30.0
SILENCE_SECONDS = 10.0  # a peer that is silent for so long is asked whether it is there, and has half as long to answer

STATUS: dict[type[GlsnetError], grpc.StatusCode] = {  # a class before those that it is one of
    TermsError: grpc.StatusCode.FAILED_PRECONDITION,
    DamageError: grpc.StatusCode.ABORTED,
    FrameError: grpc.StatusCode.DATA_LOSS,
    CallerError: grpc.StatusCode.INVALID_ARGUMENT,
    GoneError: grpc.StatusCode.NOT_FOUND,
    TransportError: grpc.StatusCode.UNAVAILABLE,
}
_ERROR = {status: error for error, status in STATUS.items()}

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
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", max(1, milliseconds // 2)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.http2.min_ping_interval_without_data_ms", max(1, milliseconds // 2)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", max(1, milliseconds // 2)),
    ]


def check_address(address: str) -> str:
    """The address; raises CallerError if it is not HOST:PORT with a port to dial."""
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise CallerError(f"address: expected HOST:PORT, got {address!r}")
    return address


class Served:
    """A `Pipe` at the listening end."""

    def __init__(self, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
        self._context = context

    @property
    def peer(self) -> str:
        """As gRPC calls it."""
        return str(self._context.peer())

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
async def dial(address: str, method: str, peer: str, silence: float = SILENCE_SECONDS, meter: Meter | None = None
               ) -> AsyncIterator[Call]:
    """Open a bidirectional stream of raw messages; on leaving, whatever is left of it is cancelled.

    Raises:
        TransportError: nothing answers gRPC at `address` within CONNECT_SECONDS.
    """
    async with grpc.aio.insecure_channel(address, options=options(silence)) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), CONNECT_SECONDS)
        except TimeoutError:
            raise TransportError(
                f"{peer}: no gRPC service answered within {CONNECT_SECONDS:.0f} s; is it started, is the address right?"
            ) from None
        call = channel.stream_stream(method, bytes, bytes)()  # type: ignore[call-arg]  # the stubs want all
        try:
            yield Call(call, peer, meter)
        finally:
            call.cancel()


class GrpcNet:
    """The world of a party that runs for real."""

    def __init__(self, method: str, silence: float = SILENCE_SECONDS) -> None:
        """`method` is the one that is dialled."""
        self.random = random.Random()
        self._method, self._silence = method, silence

    @asynccontextmanager
    async def dial(self, address: str, peer: str) -> AsyncIterator[Dialled]:
        """See `pipes.Net`."""
        async with Meter(address) as meter, dial(meter.address, self._method, peer, self._silence, meter) as call:
            yield call

    async def compute(self, function: Callable[..., T], *arguments: Any) -> T:
        """In a thread."""
        return await asyncio.get_running_loop().run_in_executor(_COMPUTING, function, *arguments)

    def local(self, seconds: float) -> float:
        """This machine has one clock."""
        return seconds


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
