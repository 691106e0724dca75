"""Fuzzing running services: wrong messages over gRPC, and raw bytes on their ports. They serve on as before.

`python benchmarks/fuzz_services.py --inputs 5000` starts an encoder, a decoder, a target and a draft server, asks them
for something, sends each of them so many wrong inputs, and asks again: the same must come of it, each must say that it
is healthy, and have logged no traceback; printed are its threads, open files and memory before and after.
"""

import argparse
import asyncio
import random
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grpc
import grpc.aio
from fuzzed import entries, others
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mutations import conversation

from glsnet.codes import decoding
from glsnet.generation import Asked, Piece
from glsnet.lab import nature
from glsnet.lab.plan import Drawn, Parties, Plan
from glsnet.lab.processes import JOINED, Process, stopped
from glsnet.lab.runner import given_side, play
from glsnet.lab.settings import GaussianRun
from glsnet.lab.tuning import code_of
from glsnet.randomness import seed_from_integer
from glsnet.transport import control, exchange, speculating

AT_ONCE = 16
CALL_SECONDS = 0.2  # that a call has before the client leaves: a good order to open a session waits for decoders
METHODS = {  # of each kind of service: the entries whose conversations its methods take
    "encoder": {exchange.METHOD: ["encoder", "bob"], control.METHOD: ["encoder's orders"]},
    "decoder": {control.METHOD: ["decoder's orders"]},
    "target": {exchange.METHOD: ["target"], speculating.METHOD: ["generate"], speculating.STATUS: ["generate"]},
    "drafter": {"/glsnet.v1.Exchange/Join": ["drafter"]},  # none of its own
}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Use(NamedTuple):
    """What a process has: threads, open files, megabytes."""

    threads: int
    files: int
    megabytes: int

    @classmethod
    def of(cls, pid: int) -> "Use":
        """Of a process that runs."""
        proc = Path(f"/proc/{pid}")
        pages = int((proc / "statm").read_text().split()[1])
        return cls(len([*(proc / "task").iterdir()]), len([*(proc / "fd").iterdir()]), pages * 4096 >> 20)


async def messages(service: str, address: str, inputs: int, seed: int) -> None:
    """So many wrong conversations with one service, each in a call of its own, some of them at once."""
    numbers = iter(range(inputs))

    async def some(channel: grpc.aio.Channel) -> None:
        for number in numbers:
            rng = random.Random(seed << 40 | number)
            method = rng.choice([*METHODS[service]])
            entry = entries()[rng.choice(METHODS[service][method])]
            said = conversation(rng, rng.choice(entry.valid), others(), entry.repair)
            call = channel.stream_stream(method, bytes, bytes)()  # type: ignore[call-arg]  # the stubs want all
            with suppress(grpc.RpcError, grpc.aio.BaseError, asyncio.InvalidStateError, TimeoutError):
                async with asyncio.timeout(CALL_SECONDS):
                    for data in said:
                        await call.write(data)
                    await call.done_writing()
                    while isinstance(await call.read(), bytes):
                        pass
            call.cancel()

    async with grpc.aio.insecure_channel(address) as channel:
        await asyncio.gather(*(some(channel) for _ in range(AT_ONCE)))


async def garbage(address: str, inputs: int, seed: int) -> None:
    """So many connections of raw bytes, half of them after HTTP/2's preface, closed at any moment."""
    host, _, port = address.rpartition(":")
    rng = random.Random(seed)
    for _ in range(inputs):
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(rng.choice((b"", PREFACE)) + rng.randbytes(rng.choice((0, 1, 9, 100, 5000))))
            await writer.drain()
            if rng.random() < 0.5:
                with suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(100), 0.05)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def asked(encoder: str, decoder: str, target: str) -> list[object]:
    """What comes of a run of 50 samples, and of a request."""
    settings = GaussianRun(decoders=1, samples=50, frame=10)
    samples = nature.synthetic(settings)
    code = code_of(settings, samples.source, samples.sides)
    plan = Plan("grpc", seed_from_integer(1), code, [decoding(partial(given_side, side)) for side in samples.sides],
                samples.sides, samples.frames)
    drawn: list[object] = []

    def take(each: Drawn) -> None:
        drawn.append(str(each))

    await play(plan, Parties(encoder, [decoder]), take)
    request = Asked("fuzz", 30, scheme="gls-strong", drafts=1)
    return drawn + [token async for item in speculating.generate(target, request) if isinstance(item, Piece)
                    for token in item.tokens]


async def healthy(address: str) -> bool:
    """Whether a service says that it serves."""
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def fuzz(inputs: int, seed: int) -> list[tuple[str, Use, Use]]:
    """All services: each one's use before and after. Raises AssertionError if one is not what it was."""
    with tempfile.TemporaryDirectory(prefix="glsnet-fuzz-") as name:
        folder = Path(name)
        party = [Process("encoder", "encoder_service", [], folder), Process("decoder", "decoder_service", [], folder),
                 Process("target", "encoder_service", ["target", "--model=synthetic-target", "--streams=3"], folder)]
        async with stopped(party):
            await asyncio.gather(*(each.start() for each in party))
            encoder, decoder, target = (each.address for each in party)
            party.append(Process("drafter", "decoder_service", [
                "draft", "--model=synthetic-drafter", f"--target={target}", "--streams=0"], folder, JOINED))
            await party[-1].start()
            expected = await asked(encoder, decoder, target)
            before = [Use.of(each.pid) for each in party]
            for each in party:
                await messages(each.name, each.address, inputs, seed)
                await garbage(each.address, inputs // 10, seed)
            found = await asked(encoder, decoder, target)
            assert found == expected, f"expected {expected}, got {found}"
            for each in party:
                assert await healthy(each.address), f"{each.name} does not serve any more"
                log = (folder / f"{each.name}.log").read_text(errors="replace")
                assert "Traceback" not in log, log[log.index("Traceback") - 500:][:3000]
            after = [Use.of(each.pid) for each in party]
    return [(each.name, was, now) for each, was, now in zip(party, before, after, strict=True)]


def main() -> None:
    """All services, and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000, help="to each service")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for name, before, after in asyncio.run(fuzz(options.inputs, options.seed)):
        print(f"{name:<10}" + "   ".join(f"{what} {was} to {now}" for what, was, now
                                         in zip(Use._fields, before, after, strict=True)))


if __name__ == "__main__":
    main()
