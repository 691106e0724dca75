"""The metering proxy counts what passes, and stands aside otherwise."""

import asyncio
from pathlib import Path

from glsnet.transport.meter import Meter


async def echo_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data * 2)
    writer.close()


def test_every_byte_is_counted_both_ways() -> None:
    async def measure() -> None:
        server = await asyncio.start_server(echo_twice, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with Meter(f"127.0.0.1:{port}") as meter:
            host, _, near = meter.address.rpartition(":")
            for connection in (1, 2):
                reader, writer = await asyncio.open_connection(host, int(near))
                writer.write(bytes(5000))
                assert len(await reader.readexactly(10_000)) == 10_000
                reading = meter.read()
                assert (reading.up_stream, reading.down_stream) == (5000 * connection, 10_000 * connection)
                if Path("/proc/self").exists():  # Linux counts segments: headers of 52 bytes, or 40 without timestamps
                    assert reading.up_ip is not None
                    assert reading.up_ip - reading.up_stream in {n * size for n in range(2, 60) for size in (40, 52)}
                writer.close()
                await writer.wait_closed()
        server.close()

    asyncio.run(measure())


def test_a_target_that_is_not_there_ends_the_connection() -> None:
    async def dial() -> bytes:
        async with Meter("127.0.0.1:1") as meter:
            reader, writer = await asyncio.open_connection(*meter.address.split(":"))
            data = await reader.read()
            writer.close()
            return data

    assert asyncio.run(dial()) == b""
