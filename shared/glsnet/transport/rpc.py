"""gRPC as every part of glsnet uses it: streams of raw messages, and errors as status codes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from glsnet.errors import CallerError, FrameError, GlsnetError, TermsError, TransportError

M = TypeVar("M", bound=Message)
log = logging.getLogger("glsnet")

CONNECT_SECONDS = 30.0
# No bandwidth probes: their PINGs come at random and would blur the count of bytes. One connection per channel.
OPTIONS = [
    ("grpc.http2.bdp_probe", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]

STATUS = {
    TermsError: grpc.StatusCode.FAILED_PRECONDITION,
    FrameError: grpc.StatusCode.DATA_LOSS,
    CallerError: grpc.StatusCode.INVALID_ARGUMENT,
    TransportError: grpc.StatusCode.UNAVAILABLE,
}
_ERROR = {status: error for error, status in STATUS.items()}

Context = grpc.aio.ServicerContext[bytes, bytes]
Call = grpc.aio.StreamStreamCall[bytes, bytes]
Handler = Callable[[Context], Awaitable[None]]


def check_address(address: str) -> str:
    """The address; raises CallerError if it is not HOST:PORT with a port to dial."""
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise CallerError(f"address: expected HOST:PORT, got {address!r}")
    return address


@asynccontextmanager
async def dial(address: str, method: str, peer: str) -> AsyncIterator[Call]:
    """Open a bidirectional stream of raw messages; on leaving, whatever is left of it is cancelled.

    Raises:
        TransportError: nothing answers gRPC at `address` within CONNECT_SECONDS.
    """
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), CONNECT_SECONDS)
        except TimeoutError:
            raise TransportError(
                f"{peer}: no gRPC service answered within {CONNECT_SECONDS:.0f} s; is it started, is the address right?"
            ) from None
        call: Call = channel.stream_stream(method, bytes, bytes)()  # type: ignore[call-arg]  # the stubs want all
        try:
            yield call
        finally:
            call.cancel()


async def receive(call: Call, peer: str) -> bytes | None:
    """The next message, or None at a good end.

    Raises:
        GlsnetError: the peer ended the stream with an error; its class says whose fault it was, its text what.
    """
    with translated(peer):
        data = await call.read()
        if isinstance(data, bytes):
            return data
        if (code := await call.code()) is not grpc.StatusCode.OK:
            raise _ERROR.get(code, TransportError)(f"{peer}: {await call.details()}")
        return None


async def send(call: Call, peer: str, message: bytes) -> None:
    """Put a message on the stream; raises GlsnetError as `receive` does."""
    with translated(peer):
        try:
            await call.write(message)
        except asyncio.InvalidStateError:  # the peer has ended the stream: say why
            raise _ERROR.get(await call.code(), TransportError)(f"{peer}: {await call.details()}") from None


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


def parsed(kind: type[M], data: bytes) -> M:
    """The message that these bytes are; raises FrameError if they end or break off early."""
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise FrameError(f"{kind.__name__.lower()}: expected a whole message, got {len(data)} bytes") from error
    return message


async def read(context: Context) -> bytes | None:
    """The next message of the client, or None when it has no more."""
    data = await context.read()
    return data if isinstance(data, bytes) else None


def status_of(error: GlsnetError) -> grpc.StatusCode:
    """The gRPC status that stands for an error of this class."""
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
