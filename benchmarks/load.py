"""Load: 64 decoder streams against one encoder, then 32 generations at once against one target with 8 draft servers.

`python benchmarks/load.py --seconds 120`. Both are real processes over gRPC; prints throughput, the time of a frame or
a token, and each service's memory, in quarters of the time: flat is good.
"""

import argparse
import asyncio
import itertools
import json
import logging
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from glsnet.codes import decoding
from glsnet.compression import Samples
from glsnet.generation import Asked, Piece
from glsnet.lab import nature
from glsnet.lab.plan import Drawn, Parties, Plan
from glsnet.lab.processes import JOINED, Process, stopped
from glsnet.lab.runner import given_side, play
from glsnet.lab.settings import GaussianRun
from glsnet.lab.tuning import code_of
from glsnet.randomness import seed_from_integer
from glsnet.transport import speculating

STREAMS, SERVICES = 64, 4  # a decoder service takes many sessions: 16 streams each
GENERATIONS, DRAFTERS = 32, 8
Times = list[tuple[float, float]]  # when a frame or a token was there, and what it took, seconds


async def decoders(seconds: float) -> tuple[Times, dict[str, list[int]]]:
    """Frames through an encoder and 64 decoder streams for so long."""
    settings = GaussianRun(decoders=STREAMS, samples=10**7, frame=256, sigma2=0.01)
    samples = nature.synthetic(settings)
    code = code_of(settings, samples.source, samples.sides)
    loop = asyncio.get_running_loop()
    times: Times = []
    with tempfile.TemporaryDirectory(prefix="glsnet-load-") as name:
        encoder = Process("encoder", "encoder_service", [], Path(name))
        others = [Process(f"decoders {n}", "decoder_service", [], Path(name)) for n in range(SERVICES)]
        async with stopped([encoder, *others]):
            await asyncio.gather(encoder.start(), *(each.start() for each in others))
            end = loop.time() + seconds

            def frames() -> Iterator[tuple[Samples, Samples]]:
                for frame in samples.frames():
                    if loop.time() > end:
                        return
                    yield frame

            last = loop.time()

            def take(_: Drawn) -> None:
                nonlocal last
                times.append((loop.time(), loop.time() - last))
                last = loop.time()

            made = frames()
            decodings = [decoding(partial(given_side, side)) for side in samples.sides]
            plan = Plan("grpc", seed_from_integer(1), code, decodings, samples.sides, lambda: made)
            addresses = [others[k % SERVICES].address for k in range(STREAMS)]
            memory = await _watched([encoder, *others], play(plan, Parties(encoder.address, addresses), take))
    return times[20:], memory  # after the first frames, which compile


async def generations(seconds: float) -> tuple[Times, dict[str, list[int]]]:
    """32 clients, each with one request after another for so long."""
    loop = asyncio.get_running_loop()
    times: Times = []
    asked = Asked("load", 400, scheme="gls-strong", drafts=2, length=4)

    async def client(number: int, address: str, end: float) -> None:
        request = number
        while loop.time() < end:
            last = loop.time()
            async for item in speculating.generate(address, replace(asked, seed=request)):
                if isinstance(item, Piece):
                    now = loop.time()
                    times.extend([(now, (now - last) / len(item.tokens))] * len(item.tokens))
                    last = now
                if loop.time() > end:
                    break
            request += GENERATIONS

    with tempfile.TemporaryDirectory(prefix="glsnet-load-") as name:
        target = Process("target", "encoder_service", ["target", "--model=synthetic-target", f"--streams={DRAFTERS}"],
                         Path(name))
        others: list[Process] = []
        async with stopped(others, target):
            await target.start()
            others += [Process(f"drafter {d}", "decoder_service", [
                "draft", "--model=synthetic-drafter", f"--target={target.address}", f"--streams={d}"], Path(name),
                JOINED) for d in range(DRAFTERS)]
            await asyncio.gather(*(each.start() for each in others))
            end = loop.time() + seconds

            async def all_clients() -> None:
                await asyncio.gather(*(client(c, target.address, end) for c in range(GENERATIONS)))

            memory = await _watched([target, *others], all_clients())
    return times, memory


async def _watched(processes: list[Process], work: Awaitable[Any]) -> dict[str, list[int]]:
    """Kilobytes of memory of each process, every second, while something is done."""
    memory: dict[str, list[int]] = {each.name: [] for each in processes}

    async def watch() -> None:
        while True:
            for each in processes:
                memory[each.name].append(_kilobytes(each.pid))
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    try:
        await work
    finally:
        watching.cancel()
    return memory


def _kilobytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def summary(what: str, times: Times, memory: dict[str, list[int]], scale: float) -> dict[str, Any]:
    """Quarter by quarter: units per second, p50 and p99 of what one took; memory of each process at the end of each."""
    at, took = np.array([t for t, _ in times]), np.array([seconds for _, seconds in times])
    edges = np.linspace(at[0], at[-1], 5)
    quarters = []
    for q, (low, high) in enumerate(itertools.pairwise(edges)):
        inside = took[(at >= low) & (at <= high)]
        p50, p99 = np.quantile(inside, (0.5, 0.99))
        quarters.append({
            "per_second": float(inside.size * scale / (high - low)), "p50": float(p50), "p99": float(p99),
            "megabytes": {name: values[min(len(values) - 1, (q + 1) * len(values) // 4)] // 1024
                          for name, values in memory.items() if values},
        })
    return {"what": what, "units": times and len(times), "quarters": quarters}


def main() -> None:
    """Both, and a table of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="of each of the two")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    logging.getLogger("glsnet").setLevel(logging.CRITICAL)
    parts: list[tuple[str, Callable[[float], Any], float]] = [
        (f"{STREAMS} decoder streams, frames of 256 samples; samples/s", decoders, 256.0),
        (f"{GENERATIONS} generations, {DRAFTERS} draft servers; tokens/s", generations, 1.0),
    ]
    results = []
    for what, part, scale in parts:
        began = time.perf_counter()
        times, memory = asyncio.run(part(options.seconds))
        results.append(summary(what, times, memory, scale))
        print(f"\n{what}, {time.perf_counter() - began:.0f} s")
        for quarter in results[-1]["quarters"]:
            sizes = ", ".join(f"{name} {size}" for name, size in quarter["megabytes"].items())
            print(f"  {quarter['per_second']:>10,.0f}/s   p50 {1000 * quarter['p50']:7.1f} ms   "
                  f"p99 {1000 * quarter['p99']:7.1f} ms   MB: {sizes}")
    left = [pid for pid in os.listdir("/proc") if pid.isdecimal() and _child_of_this(int(pid))]
    print(f"\nprocesses left over: {len(left)}")
    if options.output:
        options.output.write_text(json.dumps(results, indent=1) + "\n")


def _child_of_this(pid: int) -> bool:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    except (OSError, IndexError):
        return False


if __name__ == "__main__":
    main()
