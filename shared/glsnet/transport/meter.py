"""The metering proxy: what a connection really costs, counted on its way.

A party dials its peer through a small TCP proxy in its own process, on loopback. Each byte that passes is counted, in
the direction from the peer (down) and to it (up); the kernel's TCP_INFO of the socket to the peer adds its segments,
whence the bytes of TCP/IP.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from glsnet.transport.security import place_of

_CHUNK = 1 << 16
_TCP_OPTION_TIMESTAMPS = 1
_SEGMENTS_OFFSET = 136  # of tcpi_segs_out and tcpi_segs_in in struct tcp_info, Linux 4.2 and later
_TCP_INFO_BYTES = 144


class Headers(NamedTuple):
    """Bytes of IP and TCP headers on one connection; retransmitted data is counted as headers only."""

    down: int
    up: int


@dataclass(frozen=True)
class Reading:
    """Bytes so far: HTTP/2 stream and TCP/IP, from the peer (down) and to it (up); ip is None where unknown."""

    down_stream: int
    up_stream: int
    down_ip: int | None
    up_ip: int | None

    def __sub__(self, earlier: "Reading") -> "Reading":
        return Reading(
            self.down_stream - earlier.down_stream,
            self.up_stream - earlier.up_stream,
            None if self.down_ip is None or earlier.down_ip is None else self.down_ip - earlier.down_ip,
            None if self.up_ip is None or earlier.up_ip is None else self.up_ip - earlier.up_ip,
        )


class Meter:
    """A counting TCP proxy to `target` (HOST:PORT): dial `address` instead, while the context is open."""

    def __init__(self, target: str) -> None:
        self._host, self._port = place_of(target)
        self._down = self._up = 0
        self._closed: list[Headers | None] = []
        self._open: set[socket.socket] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dialling: set[asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = set()
        self.hung_up = asyncio.Event()  # a connection is over, all that was sent before passed on, or was never made

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", 0)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        traceback: TracebackType | None) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()  # its reader then comes to an end, and with it the task
        for dialling in self._dialling:
            dialling.cancel()  # the system may try for minutes, and for longer to find out what a name means
        await asyncio.gather(*self._tasks)

    @property
    def address(self) -> str:
        """HOST:PORT to dial."""
        port: int = self._server.sockets[0].getsockname()[1]
        return f"127.0.0.1:{port}"

    def read(self) -> Reading:
        """The bytes so far, over all connections to the target."""
        down, up = self._down, self._up
        headers = [*self._closed, *(_headers(peer) for peer in self._open)]
        known = [each for each in headers if each is not None]
        if len(known) < len(headers):
            return Reading(down, up, None, None)
        return Reading(down, up, down + sum(each.down for each in known), up + sum(each.up for each in known))

    async def _forward(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(near_out)
        try:
            dialling = asyncio.ensure_future(asyncio.open_connection(self._host, self._port))
            self._dialling.add(dialling)
            try:
                far_in, far_out = await dialling
            finally:
                self._dialling.discard(dialling)
            peer: socket.socket = far_out.get_extra_info("socket")
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(peer)
            self._writers.add(far_out)
            pumps = [
                asyncio.create_task(self._pump(far_in, near_out, down=True)),
                asyncio.create_task(self._pump(near_in, far_out, down=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            self._closed.append(_headers(peer))
            self._open.discard(peer)
            self._writers.discard(far_out)
            far_out.close()
        except (OSError, ValueError, asyncio.CancelledError):
            pass  # the dialler sees a peer that is not there, if its name can be one, and tries again
        finally:
            near_out.close()
            self._writers.discard(near_out)
            self._tasks.discard(task)
            self.hung_up.set()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, down: bool) -> None:
        try:
            while data := await source.read(_CHUNK):
                if down:
                    self._down += len(data)
                else:
                    self._up += len(data)
                sink.write(data)
                await sink.drain()
        except OSError:
            pass  # either side hung up: so does the other


def _headers(peer: socket.socket) -> Headers | None:
    """From the kernel's count of segments on this socket; None where the kernel does not tell (Linux does)."""
    try:
        info = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        options, segments_out, segments_in = info[5], *struct.unpack_from("II", info, _SEGMENTS_OFFSET)
    except (AttributeError, OSError, struct.error):
        return None
    ip = 40 if peer.family == socket.AF_INET6 else 20
    header = ip + 20 + (12 if options & _TCP_OPTION_TIMESTAMPS else 0)
    return Headers(segments_in * header, segments_out * header)
