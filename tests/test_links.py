"""Links misbehave just as they were told: seen from outside, through their process, with plain sockets."""

import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from helpers import intervals

from glsnet.errors import CallerError, TransportError
from glsnet.faults import Fault, delay, faults_of
from glsnet.lab.faulty import Links, links
from glsnet.transport.service import serving

SEED = 7
SLACK = 1e-3  # clocks of two processes, and rounding
LATE = 0.5  # seconds by which two noisy cores may be late


class Bench:
    """Links with an echo behind them."""

    def __init__(self, made: Links) -> None:
        self.links = made

    async def dial(self, name: str = "decoder 0") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(*self.links.address[name].split(":"))

    async def add(self, **table: Any) -> int:
        return await self.links.add(fault(**table))


def fault(**table: Any) -> Fault:
    return faults_of([{"on": "decoder 0", **table}])[0]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


@asynccontextmanager
async def bench(journal: Path, *faults: Fault, names: tuple[str, ...] = ("decoder 0",)) -> AsyncIterator[Bench]:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with links(f"127.0.0.1:{port}", names, faults, SEED, journal) as made:
        yield Bench(made)
    server.close()


def through(path: Path, test: Callable[[Bench], Awaitable[None]], *faults: Fault,
            names: tuple[str, ...] = ("decoder 0",)) -> list[dict[str, Any]]:
    """What the journal says after a test through links with these faults."""
    async def run() -> None:
        async with bench(path / "links.jsonl", *faults, names=names) as made:
            await asyncio.wait_for(test(made), 30)

    asyncio.run(run())
    return [json.loads(line) for line in (path / "links.jsonl").read_text().splitlines()]


async def trip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"to and fro") -> bytes:
    writer.write(data)
    return await reader.readexactly(len(data))


def test_a_link_without_faults_passes_everything_on_and_half_closes(tmp_path: Path) -> None:
    async def test(made: Bench) -> None:
        await made.links.start()
        reader, writer = await made.dial()
        data = random.Random(1).randbytes(3_000_000)
        writer.write(data)
        writer.write_eof()
        assert await reader.read(-1) == data
        writer.close()
        down, up = await made.links.report()
        assert (down["bytes"], up["bytes"], up["connections"], up["resets"]) == (len(data), len(data), 1, 0)

    events = [each["event"] for each in through(tmp_path, test)]
    assert events == ["faults", "start", "connected", "closed", "report"]


def test_grpc_goes_through_a_link(tmp_path: Path) -> None:
    async def test() -> None:
        slow = fault(kind="latency", delay=0.02)
        async with (serving("127.0.0.1:0", {}) as port,
                    links(f"127.0.0.1:{port}", ["decoder 0"], [slow], SEED, tmp_path / "links.jsonl") as made,
                    grpc.aio.insecure_channel(made.address["decoder 0"]) as channel):
            await made.start()
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(test())


def test_each_chunk_is_as_late_as_its_draw(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("1\n5\n20\n")
    tables: list[dict[str, Any]] = [
        {"delay": 0.02},
        {"delay": 0.02, "jitter": 0.01, "distribution": "uniform"},
        {"delay": 0.02, "jitter": 0.005, "distribution": "normal"},
        {"delay": 0.01, "jitter": 0.01, "distribution": "pareto"},
        {"delay": 0.01, "distribution": "trace", "trace": str(tmp_path / "trace")},
    ]
    names = tuple(f"decoder {n}" for n in range(len(tables)))
    faults = [fault(on=name, kind="latency", direction="up", **each) for name, each in zip(names, tables, strict=True)]
    late = []

    async def test(made: Bench) -> None:
        dialled = [await made.dial(name) for name in names]
        for reader, writer in dialled:
            assert await trip(reader, writer) == b"to and fro"  # not yet in force
        await made.links.start()
        for number, (reader, writer) in enumerate(dialled):
            chance = random.Random(f"{SEED} {number} {names[number]} up")
            drawn = [delay(faults[number], 0.0, chance) for _ in range(20)]
            for each in drawn:
                since = time.monotonic()
                await trip(reader, writer)
                late.append(time.monotonic() - since - each)
            up = (await made.links.report())[2 * number + 1]
            assert (up["link"], up["direction"], up["chunks"]) == (names[number], "up", 21)
            assert up["p99_delay"] >= sorted(drawn)[-2] - SLACK

    through(tmp_path, test, *faults, names=names)
    assert min(late) > -SLACK
    assert statistics.median(late) < 0.1


def test_what_is_sent_later_never_arrives_before(tmp_path: Path) -> None:
    async def test(made: Bench) -> None:
        reader, writer = await made.dial()
        await made.links.start()
        data = random.Random(2).randbytes(100_000)
        for start in range(0, len(data), 1000):
            writer.write(data[start : start + 1000])
            await asyncio.sleep(0)
        assert await reader.readexactly(len(data)) == data

    through(tmp_path, test, fault(kind="latency", delay=0.02, jitter=0.02, distribution="uniform"))


def test_a_rate_is_kept_and_bytes_trickle(tmp_path: Path) -> None:
    async def test(made: Bench) -> None:
        reader, writer = await made.dial()
        await made.links.start()
        since = time.monotonic()
        writer.write(bytes(200_000))
        await reader.readexactly(20_000)
        first = time.monotonic() - since
        await reader.readexactly(180_000)
        took = time.monotonic() - since
        assert 0.5 - SLACK < took < 0.5 + LATE
        assert first < took / 2
        down, up = await made.links.report()
        assert down["rate"] is None
        assert 0.5 < up["rate"] / 400_000 < 2

    through(tmp_path, test, fault(kind="bandwidth", rate=400_000, direction="up"))


def test_a_rate_and_a_latency_add_up(tmp_path: Path) -> None:
    async def test(made: Bench) -> None:
        reader, writer = await made.dial()
        await made.links.start()
        since = time.monotonic()
        writer.write(bytes(100_000))
        await reader.read(1)
        assert time.monotonic() - since > 0.3 - SLACK
        await reader.readexactly(99_999)
        assert 0.8 - SLACK < time.monotonic() - since < 0.8 + LATE

    through(tmp_path, test, fault(kind="bandwidth", rate=200_000, direction="up"),
            fault(kind="latency", delay=0.3, direction="up"))


def test_a_slicer_cuts_chunks(tmp_path: Path) -> None:
    async def test(made: Bench) -> None:
        reader, writer = await made.dial()
        await made.links.start()
        since = time.monotonic()
        writer.write(bytes(1050))
        first = came = len(await reader.read(2000))
        while came < 1050:
            came += len(await reader.read(2000))
        assert first in range(100, 1050, 100)
        assert time.monotonic() - since > 10 * 0.03 - SLACK

    through(tmp_path, test, fault(kind="slicer", size=100, gap=0.03, direction="down"))


def test_a_slow_close_delays_the_end_alone(tmp_path: Path) -> None:
    async def test(made: Bench) -> None:
        reader, writer = await made.dial()
        await made.links.start()
        since = time.monotonic()
        await trip(reader, writer)
        writer.write_eof()
        prompt = time.monotonic() - since
        assert await reader.read() == b""
        assert time.monotonic() - since > 0.5 - SLACK
        assert prompt < 0.5

    through(tmp_path, test, fault(kind="slow_close", delay=0.5, direction="down"))


def test_a_black_hole_holds_what_comes(tmp_path: Path) -> None:
    async def test(made: Bench) -> None:
        reader, writer = await made.dial()
        await made.links.start()
        assert await trip(reader, writer) == b"to and fro"
        number = await made.add(kind="timeout")
        writer.write(b"held")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.3)
        other, _ = await made.dial()  # connects, and hears nothing
        assert [row["bytes"] for row in await made.links.report()] == [10, 10]
        await made.links.remove(number)
        assert await reader.readexactly(4) == b"held"
        since = time.monotonic()
        await made.add(**{"kind": "timeout", "direction": "down", "for": 0.3})
        writer.write(b"again")
        writer.write_eof()
        assert await reader.read() == b"again"
        assert time.monotonic() - since > 0.3 - SLACK
        del other

    through(tmp_path, test)


def test_a_black_hole_is_bounded(tmp_path: Path) -> None:
    async def test(made: Bench) -> None:
        reader, writer = await made.dial()
        await made.links.start()
        number = await made.add(kind="timeout", direction="up")
        writer.write(bytes(30_000_000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writer.drain(), 0.5)
        await made.links.remove(number)
        assert await reader.readexactly(30_000_000) == bytes(30_000_000)

    through(tmp_path, test)


def test_a_reset_is_seen_at_both_ends_and_by_whoever_dials_meanwhile(tmp_path: Path) -> None:
    async def test(made: Bench) -> None:
        reader, writer = await made.dial()
        await made.links.start()
        await trip(reader, writer)
        number = await made.add(kind="reset_peer")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        reader, writer = await made.dial()
        with pytest.raises(ConnectionResetError):
            await reader.read()
        await made.links.remove(number)
        reader, writer = await made.dial()
        await trip(reader, writer)
        assert [row["resets"] for row in await made.links.report()] == [1, 1]

    events = [each["event"] for each in through(tmp_path, test)]
    assert events[:8] == ["faults", "start", "connected", "onset", "reset", "refused", "lifted", "connected"]


def test_the_resets_of_peers_are_passed_on(tmp_path: Path) -> None:
    async def run() -> None:
        async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

        server = await asyncio.start_server(rude, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with links(f"127.0.0.1:{port}", ["decoder 0"], (), SEED, tmp_path / "links.jsonl") as made:
            reader, writer = await asyncio.open_connection(*made.address["decoder 0"].split(":"))
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read()
        server.close()

    asyncio.run(run())


def test_a_link_that_is_down_refuses_and_comes_back_where_it_was(tmp_path: Path) -> None:
    async def test(made: Bench) -> None:
        reader, writer = await made.dial()
        await made.links.start()
        await trip(reader, writer)
        number = await made.add(kind="down")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        with pytest.raises(ConnectionRefusedError):
            await made.dial()
        await trip(*await made.dial("decoder 1"))
        with socket.socket() as thief, pytest.raises(OSError):
            thief.bind(("127.0.0.1", int(made.links.address["decoder 0"].rpartition(":")[2])))
        await made.links.remove(number)
        await trip(*await made.dial())

    through(tmp_path, test, names=("decoder 0", "decoder 1"))


def test_a_limit_lets_exactly_so_many_bytes_through(tmp_path: Path) -> None:
    async def test(made: Bench) -> None:
        await made.links.start()
        for _ in range(2):  # each connection anew
            reader, writer = await made.dial()
            writer.write(bytes(200_000))
            assert len(await reader.read(-1)) == 123_457
            writer.close()

    through(tmp_path, test, fault(kind="limit_data", size=123_457, direction="down"))


def test_just_the_bits_that_are_journalled_are_flipped_and_again_for_the_same_seed(tmp_path: Path) -> None:
    def run(folder: Path) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        sent, came = random.Random(3).randbytes(2000), bytearray()

        async def test(made: Bench) -> None:
            reader, writer = await made.dial()
            await made.links.start()
            for start in range(0, len(sent), 50):
                came.extend(await trip(reader, writer, sent[start : start + 50]))

        folder.mkdir()
        events = through(folder, test, fault(kind="corrupt", chance=0.5, direction="up"))
        flipped = [(n, (a ^ b).bit_length() - 1) for n, (a, b) in enumerate(zip(sent, came, strict=True)) if a != b]
        assert events[-1]["ways"][1]["corrupted"] == len(flipped)
        return flipped, [(each["byte"], each["bit"]) for each in events if each["event"] == "corrupted"]

    flipped, journalled = run(tmp_path / "first")
    assert flipped == journalled
    assert 8 < len(flipped) < 32  # of 40, each with chance 1/2: 3.8 standard deviations
    assert run(tmp_path / "second") == (flipped, journalled)


def test_faults_come_and_go_when_they_should(tmp_path: Path) -> None:
    often = fault(kind="latency", delay=0.001, at=0.1, every=0.2, **{"for": 0.1})
    chancy = fault(on="decoder *", kind="limit_data", size=1000, mean_up=0.05, mean_down=0.05)

    async def test(made: Bench) -> None:
        await made.links.start()
        await made.add(kind="timeout", at=1.0)
        await trip(*await made.dial())
        with pytest.raises(CallerError, match="remove"):
            await made.links.remove(17)
        reader, _ = await made.dial()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(), 1.1)

    names = ("decoder 0", "decoder 1")
    events = through(tmp_path, test, often, fault(kind="loss", chance=0.5), chancy, names=names)

    def onsets(number: int, link: str) -> list[float]:
        return [each["t"] for each in events
                if each["event"] == "onset" and (each["fault"], each["link"]) == (number, link)]

    assert onsets(1, "decoder 0") == []  # the simulator's alone
    assert len(onsets(3, "decoder 0")) == 1
    for number, link, wanted in (
        (0, "decoder 0", [span[0] for span in intervals(often, 1.0, random.Random(0))]),
        *((2, name, [span[0] for span in intervals(chancy, 1.0, random.Random(f"{SEED} 2 {name}"))])
          for name in names),
    ):
        found = onsets(number, link)[: len(wanted)]
        assert len(found) == len(wanted) > 2
        assert all(-SLACK < is_ - asked < LATE for is_, asked in zip(found, wanted, strict=True))


def test_the_process_ends_with_its_standard_input_and_writes_no_payload(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        journal = tmp_path / "links.jsonl"
        process = subprocess.Popen(
            [sys.executable, "-m", "glsnet.transport.links", f"--to=127.0.0.1:{server.getsockname()[1]}",
             "--link=decoder 0", f"--journal={journal}"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None and process.stdin is not None
        host, _, port = json.loads(process.stdout.readline())["links"]["decoder 0"].rpartition(":")
        for order, key in (("nonsense", "error"), ('{"add": {"on": "decoder 0", "kind": "corrupt"}}', "error"),
                           ('{"start": true}', "start"),
                           ('{"add": {"on": "decoder 0", "kind": "corrupt", "chance": 1}}', "add")):
            process.stdin.write(order.encode() + b"\n")
            process.stdin.flush()
            assert key in json.loads(process.stdout.readline())
        with socket.create_connection((host, int(port))) as near:
            near.sendall(b"S3CRET" * 10)
            far, _ = server.accept()
            with far:
                assert far.recv(1)
                _, errors = process.communicate(timeout=30)  # closes its standard input
                assert (process.returncode, errors) == (0, b"")
        assert "S3CRET" not in journal.read_text()
        assert json.loads(journal.read_text().splitlines()[-1])["event"] == "report"


def test_the_process_ends_with_the_lab(tmp_path: Path) -> None:
    lab = ("import asyncio, pathlib, sys\n"
           "from glsnet.lab.faulty import links\n"
           "async def main():\n"
           "    async with links('127.0.0.1:1', ['decoder 0'], (), 0, pathlib.Path(sys.argv[1])) as made:\n"
           "        print(made.address['decoder 0'], flush=True)\n"
           "        await asyncio.sleep(60)\n"
           "asyncio.run(main())\n")
    process = subprocess.Popen([sys.executable, "-c", lab, str(tmp_path / "links.jsonl")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    host, _, port = process.stdout.readline().decode().rpartition(":")
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            return
    raise AssertionError("the links still listen")


def test_a_wrong_faults_file_is_the_callers_fault(tmp_path: Path) -> None:
    def ended(text: str) -> tuple[int, str]:
        (tmp_path / "faults.json").write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "glsnet.transport.links", "--to=127.0.0.1:1", "--link=decoder 0",
             f"--faults={tmp_path / 'faults.json'}", f"--journal={tmp_path / 'links.jsonl'}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stderr

    code, text = ended('[{"on": "decoder 0", "kind": "latency"}]')
    assert (code, "faults[0]: expected delay with kind latency" in text) == (2, True)
    code, text = ended("no")
    assert (code, "expected a JSON file" in text) == (2, True)


def test_links_that_do_not_start_say_why(tmp_path: Path) -> None:
    async def run() -> None:
        async with links("127.0.0.1:1", ["decoder 0"], (), SEED, tmp_path / "none" / "links.jsonl"):
            pass

    with pytest.raises(TransportError, match="No such file"):
        asyncio.run(run())
    assert os.listdir(tmp_path) == []
