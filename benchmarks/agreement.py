"""Whether the simulator tells the truth: time per block of speculative decoding, real links beside simulated ones.

A target and two draft servers as processes, through links with latency, jitter and a bandwidth; then the same in
virtual time. What computing and the transport itself take on this machine is measured first, through links without
faults, and is what a block costs the simulated target. `python benchmarks/agreement.py`.
"""

import asyncio
import json
import logging
import tempfile
import time
from pathlib import Path

from glsnet.faults import Fault
from glsnet.generation import Asked, Finished
from glsnet.lab import simulation
from glsnet.lab.processes import JOINED, Process, stopped
from glsnet.lab.simulation import Requests
from glsnet.lab.trouble import troubled
from glsnet.language.synthetic import SyntheticModel
from glsnet.randomness import seed_from_integer
from glsnet.transport import speculating

TOKENS, DRAFTERS, LENGTH = 300, 2, 4
SCENARIOS = {
    "20 ms": [Fault(on="drafter *", kind="latency", delay=0.02)],
    "20 ms +- 10 ms": [Fault(on="drafter *", kind="latency", delay=0.02, jitter=0.01, distribution="uniform")],
    "30 ms, Pareto 10 ms": [Fault(on="drafter *", kind="latency", delay=0.03, jitter=0.01, distribution="pareto")],
    "10 ms, 20 kB/s": [Fault(on="drafter *", kind="latency", delay=0.01),
                       Fault(on="drafter *", kind="bandwidth", rate=20_000)],
}


async def real(asked: Asked, faults: list[Fault]) -> tuple[float, Finished]:
    """Seconds for the request, and how it went."""
    with tempfile.TemporaryDirectory(prefix="glsnet-agreement-") as name:
        target = Process("target", "encoder_service", [
            "target", "--model=synthetic-target", f"--streams={DRAFTERS}", "--seed=1"], Path(name))
        drafters: list[Process] = []
        async with stopped(drafters, target):
            address = await target.start()
            names = [f"drafter {d}" for d in range(DRAFTERS)]
            async with troubled(address, names, {}, faults, 1) as trouble:
                drafters += [Process(each, "decoder_service", [
                    "draft", "--model=synthetic-drafter", f"--target={trouble.address[each]}", f"--streams={d}",
                    "--seed=1"], Path(name), JOINED) for d, each in enumerate(names)]
                await asyncio.gather(*(each.start() for each in drafters))
                [_ async for _ in speculating.generate(address, asked)]  # kernels are compiled
                await trouble.start()
                since = time.perf_counter()
                items = [item async for item in speculating.generate(address, asked)]
                seconds = time.perf_counter() - since
    finished = items[-1]
    assert isinstance(finished, Finished)
    return seconds, finished


def simulated(asked: Asked, faults: list[Fault], cost: float) -> tuple[float, Finished]:
    """The same in virtual time, where a block takes so many seconds besides the links."""
    drafters = [(SyntheticModel(1, 0.7), [d]) for d in range(DRAFTERS)]
    requests = Requests([asked], SyntheticModel(1), drafters, cost, 0.0, DRAFTERS, seed_from_integer(1))
    told = simulation.speculation(requests, faults, 1, patience=30.0, limit=1e4).told[0]
    assert told.finished is not None
    return told.times[-1] - told.began, told.finished


def main() -> None:
    """Print a table, and JSON at the end."""
    logging.getLogger("glsnet").setLevel(logging.CRITICAL)
    asked = Asked("agreement", TOKENS, seed=5, scheme="gls-strong", drafts=DRAFTERS, length=LENGTH)
    seconds, finished = asyncio.run(real(asked, []))
    cost = seconds / finished.blocks
    print(f"seconds per block; without faults {cost:.4f}\n"
          f"{'one way':<22}{'real':>12}{'simulated':>12}{'difference':>12}")
    rows = []
    for name, faults in SCENARIOS.items():
        seconds, finished = asyncio.run(real(asked, faults))
        virtual, of = simulated(asked, faults, cost)
        one, other = seconds / finished.blocks, virtual / of.blocks
        rows.append({"one_way": name, "real": one, "simulated": other, "without_faults": cost})
        print(f"{name:<22}{one:>12.4f}{other:>12.4f}{other / one - 1:>+12.1%}", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
