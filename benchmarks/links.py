"""The truth about links: what was asked of them, and what comes of it, seen from outside by plain sockets.

Each fault has a link of its own, in one process; this process is at both ends, so that one clock tells. Delays are one
way, of single chunks, each sent once the one before has come; `late` is realised less what the seed draws. Rates are of
a saturated link, from the first bytes that come to the last. Exits with 1 if an error is beyond what is allowed: as a
busy machine is late now and then, of delays what is judged is half of all chunks' lateness, and that none is early.
"""

import asyncio
import random
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from glsnet.faults import Fault, delay, faults_of
from glsnet.lab.faulty import links

SEED = 7
CHUNKS = 500
SECONDS = 3.0  # of each rate
LAW = 200_000  # draws that stand for a distribution
ALLOWED = 0.05  # of a rate, a gap, or a mean delay,
ALLOWED_SECONDS = 0.002  # or so much of a delay, if that is more
EARLY = 0.0005  # seconds

LATENCIES: list[dict[str, Any]] = [
    {"delay": 0.0},
    {"delay": 0.02},
    {"delay": 0.02, "jitter": 0.01, "distribution": "uniform"},
    {"delay": 0.02, "jitter": 0.005, "distribution": "normal"},
    {"delay": 0.015, "jitter": 0.005, "distribution": "pareto"},
    {"delay": 0.01, "distribution": "trace"},
]
TRACE = "2\n3\n3\n5\n8\n13\n34\n"  # milliseconds
RATES = [100e3, 1e6, 10e6]  # bytes per second
SLICES = [(1000, 0.01), (4000, 0.025)]  # bytes, seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        trace = Path(folder, "trace")
        trace.write_text(TRACE)
        right = asyncio.run(_measured(server, trace, Path(folder, "links.jsonl")))
    sys.exit(0 if right else 1)


async def _measured(server: socket.socket, trace: Path, journal: Path) -> bool:
    tables = [{"kind": "latency", **each, **({"trace": str(trace)} if each.get("distribution") == "trace" else {})}
              for each in LATENCIES]
    tables += [{"kind": "bandwidth", "rate": rate} for rate in RATES]
    tables += [{"kind": "slicer", "size": size, "gap": gap} for size, gap in SLICES]
    names = [f"decoder {n}" for n in range(len(tables))]
    faults = faults_of([{"on": name, "direction": "up", **table} for name, table in zip(names, tables, strict=True)])
    right = True
    async with links(f"127.0.0.1:{server.getsockname()[1]}", names, faults, SEED, journal) as made:
        await made.start()
        print(f"{'latency, ms':24}{'mean':>20}{'sd':>18}{'p50':>18}{'p99':>18}{'late p50':>10}{'late p99':>9}")
        print(" " * 24 + f"{'asked  realised':>20}" + 3 * f"{'asked  realised':>18}")
        for number, fault in enumerate(faults):
            host, _, port = made.address[fault.on].rpartition(":")
            with socket.create_connection((host, int(port))) as near:
                near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with server.accept()[0] as far:
                    right &= {"latency": _latency, "bandwidth": _rate, "slicer": _slices}[fault.kind](
                        number, fault, near, far)
    return right


def _latency(number: int, fault: Fault, near: socket.socket, far: socket.socket) -> bool:
    chance = random.Random(f"{SEED} {number} {fault.on} up")
    drawn = np.array([delay(fault, 0.0, chance) for _ in range(CHUNKS)])
    realised = np.array([_one(near, far) for _ in drawn])
    law = np.array([delay(fault, 0.0, chance) for _ in range(LAW)])
    asked, got = ([1000 * float(x) for x in (each.mean(), each.std(), *np.quantile(each, (0.5, 0.99)))]
                  for each in (law, realised))
    late = 1000 * np.quantile(realised - drawn, (0.5, 0.99))
    print(f"{fault.distribution or 'constant':24}"
          + "  ".join(f"{x:8.2f} {y:8.2f}" for x, y in zip(asked, got, strict=True)) + f"{late[0]:11.2f}{late[1]:9.2f}")
    early, median = (realised - drawn).min(), np.median(realised - drawn)
    return _allowed(bool(early > -EARLY and median < max(ALLOWED * drawn.mean(), ALLOWED_SECONDS)))


def _one(near: socket.socket, far: socket.socket) -> float:
    since = time.monotonic()
    near.sendall(bytes(100))
    far.recv(1000)
    return time.monotonic() - since


def _rate(_: int, fault: Fault, near: socket.socket, far: socket.socket) -> bool:
    assert fault.rate is not None
    size = int(fault.rate * SECONDS)
    sender = threading.Thread(target=near.sendall, args=(bytes(size),))
    sender.start()
    first = len(far.recv(1 << 20))
    since, left = time.monotonic(), size - first
    while left:
        left -= len(far.recv(1 << 20))
    rate = (size - first) / (time.monotonic() - since)
    sender.join()
    print(f"{'bandwidth, kB/s':24}{fault.rate / 1000:8.1f} {rate / 1000:8.1f}  {100 * (rate / fault.rate - 1):+.2f} %")
    return _allowed(abs(rate / fault.rate - 1) < ALLOWED)


def _slices(_: int, fault: Fault, near: socket.socket, far: socket.socket) -> bool:
    assert fault.size is not None and fault.gap is not None
    count = 50000 // fault.size
    near.sendall(bytes(count * fault.size))
    sizes: list[int] = []
    times: list[float] = []
    while sum(sizes) < count * fault.size:
        sizes.append(len(far.recv(1 << 20)))
        times.append(time.monotonic())
    size, gap = float(np.median(sizes)), (times[-1] - times[0]) / (count - 1)
    print(f"{'slicer, B and ms':24}{fault.size:8d} {size:8.0f}  {1000 * fault.gap:8.2f} {1000 * gap:8.2f}  "
          f"{100 * (gap / fault.gap - 1):+.2f} %")
    return _allowed(size == fault.size and abs(gap / fault.gap - 1) < ALLOWED)


def _allowed(right: bool) -> bool:
    if not right:
        print("  ^ beyond what is allowed")
    return right


if __name__ == "__main__":
    main()
