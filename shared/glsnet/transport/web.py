"""A small HTTP server for what is to be seen of a process: GET of a few paths, and little that a stranger can take.

    Answer     what is at a path: whole, or piece by piece
    serving    serves them, over TLS if the process has certificates
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus

from glsnet.errors import TransportError
from glsnet.transport.security import LOCAL, Security, place_of

MAX_CONNECTIONS = 64
REQUEST_BYTES = 1 << 13
REQUEST_SECONDS = 5.0  # for the handshake, and again for the request
TAKE_SECONDS = 10.0  # whoever takes nothing of the answer for so long is left
HEADERS = (  # what is served refers to nothing elsewhere, and nothing elsewhere is to show it
    "Cache-Control: no-store\r\nConnection: close\r\nX-Content-Type-Options: nosniff\r\nContent-Security-Policy: "
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n\r\n"
)


@dataclass(frozen=True)
class Answer:
    """A body and its media type."""

    media: str
    body: bytes | AsyncGenerator[bytes]


Pages = Mapping[str, Callable[[], Answer]]


@asynccontextmanager
async def serving(address: str, pages: Pages, security: Security = LOCAL) -> AsyncIterator[int]:
    """Serve pages by their paths on HOST:PORT, port 0 for any that is free; gives the port.

    A connection is for one request. With certificates, who asks has to have one of the same authority.

    Raises:
        CallerError: the address is none, or plain text is not allowed there.
        TransportError: the address cannot be listened on.
    """
    host, port = place_of(address)
    security.check(address, "listening on")
    under_way: set[asyncio.Task[None] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(under_way) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        under_way.add(task := asyncio.current_task())
        try:
            # When the server stops, that is an end as any other; asyncio would log it as an error.
            with suppress(TimeoutError, EOFError, OSError, asyncio.LimitOverrunError, asyncio.CancelledError):
                async with asyncio.timeout(REQUEST_SECONDS):
                    request = await reader.readuntil(b"\r\n\r\n")
                await _answer(request, pages, writer)
                writer.close()
                async with asyncio.timeout(TAKE_SECONDS):
                    await writer.wait_closed()
        finally:
            writer.transport.abort()
            under_way.discard(task)

    tls = security.tls and security.tls.context(serve=True)
    seconds = {"ssl_handshake_timeout": REQUEST_SECONDS, "ssl_shutdown_timeout": REQUEST_SECONDS} if tls else {}
    try:
        server = await asyncio.start_server(connected, host, port, limit=REQUEST_BYTES, ssl=tls, **seconds)
    except OSError as error:
        raise TransportError(f"{address}: cannot be listened on; is the port taken, is the host this one?") from error
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in [task for task in under_way if task is not None]:
            task.cancel()
        await asyncio.gather(*(task for task in under_way if task is not None), return_exceptions=True)


async def _answer(request: bytes, pages: Pages, writer: asyncio.StreamWriter) -> None:
    method, _, rest = request.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    page = pages.get(rest.partition(" ")[0].partition("?")[0])
    status = HTTPStatus.METHOD_NOT_ALLOWED if method != "GET" else HTTPStatus.OK if page else HTTPStatus.NOT_FOUND
    answer = page() if page and method == "GET" else Answer("text/plain", f"{status.phrase}\n".encode())
    length = f"Content-Length: {len(answer.body)}\r\n" if isinstance(answer.body, bytes) else ""
    await _give(writer, f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {answer.media}\r\n{length}"
                        f"{HEADERS}".encode())
    if isinstance(answer.body, bytes):
        await _give(writer, answer.body)
        return
    async with aclosing(answer.body) as pieces:
        async for piece in pieces:
            await _give(writer, piece)


async def _give(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    async with asyncio.timeout(TAKE_SECONDS):
        await writer.drain()
