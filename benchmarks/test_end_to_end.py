"""Encoder and four decoder processes over gRPC: samples per second, and the memory that ten million samples take."""

import asyncio
import os
from pathlib import Path

from processes import children

from glsnet.lab import runner
from glsnet.lab.nature import synthetic
from glsnet.lab.settings import GaussianRun
from glsnet.lab.tally import Tally

SAMPLES = 10_000_000


def resident_of_children() -> list[int]:
    """Resident memory of each process started here, kB."""
    found = []
    for child in children(os.getpid()):
        status = Path(f"/proc/{child}/status").read_text()
        found.append(next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")))
    return found


def test_rate_and_memory_over_ten_million_samples() -> None:
    settings = GaussianRun(samples=SAMPLES, sigma2=0.005)
    readings: dict[int, list[int]] = {}

    def progress(tally: Tally) -> None:
        mark = tally.samples // 1_000_000
        if mark not in readings and mark > 0:
            readings[mark] = resident_of_children()

    nature = synthetic(settings)
    result = asyncio.run(runner.run(settings, nature, None, progress, lambda _: None))
    print(f"\ngRPC, K=4, L_max=8, sigma2=0.005: {result['samples_per_second']:,.0f} samples/s over {SAMPLES:,} samples "
          f"(to reach: 100,000); match rate {result['match_rate']:.4f}, bound {result['match_bound']:.4f}")
    print("resident memory of the services, MB (encoder, decoders), after")
    for mark, kilobytes in sorted(readings.items()):
        print(f"  {mark:3d} million samples: " + " ".join(f"{kb / 1024:6.1f}" for kb in kilobytes))
