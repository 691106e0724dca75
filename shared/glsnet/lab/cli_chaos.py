"""The command `glsnet chaos`: runs with random faults, and whether anything was lost."""

import asyncio
import hashlib
import json
import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from glsnet.errors import GlsnetError
from glsnet.faults import Fault
from glsnet.lab import chaos
from glsnet.lab.chaos import Trial, Verdict
from glsnet.lab.terminal import AsJson, interruptible

Transport = Literal["simulator", "grpc"]


def run_chaos(
    runs: Annotated[int, typer.Option(min=1, help="How many runs: the seeds from --seed on.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first run; all of a run follows from its seed.")] = 0,
    transport: Annotated[Transport, typer.Option(help="simulator: in virtual time, on all cores; or grpc: processes, "
                                                 "links and kill -9 on this machine, one run after another.")
                         ] = "simulator",
    as_json: AsJson = False,
) -> None:
    """Make trouble at random, and check that nothing is lost.

    Each run is compression for up to five decoders, or texts of speculative decoding in the strong scheme, under up to
    seven random faults: latencies, bandwidth, corruption, black holes, resets, connections cut, parties killed, paused
    and started again. Of each it is checked that every round is decoded exactly once and to the bit as without
    faults, or is said to be lost; that texts are to the bit as without faults; and that it ends.

    A run that fails is said with its seed and the fewest of its faults that still make it fail:

    - `glsnet chaos --runs 1000`
    - `glsnet chaos --transport grpc --runs 50`
    - `glsnet chaos --seed 188 --runs 1`: that run again
    """
    logging.getLogger("glsnet").setLevel(logging.CRITICAL)
    trials = [chaos.trial_of(n, transport == "grpc") for n in range(seed, seed + runs)]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    failed: list[tuple[Trial, Verdict]] = []
    events, digest, seconds = Counter[str](), hashlib.sha256(), 0.0
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"chaos, {transport}", total=runs)
        with interruptible(bar, "the parties started here are stopped"):
            for trial, verdict in zip(trials, _played(trials, transport), strict=True):
                events.update(verdict.events)
                digest.update(verdict.digest.encode())
                seconds += verdict.seconds
                if verdict.problems:
                    failed.append((trial, verdict))
                bar.update(task, advance=1, description=f"chaos, {transport}, {len(failed)} failed")
    result = {
        "transport": transport, "first_seed": seed, "runs": runs, "failed": [trial.seed for trial, _ in failed],
        "what": Counter(trial.what for trial in trials),
        "faults": Counter(fault.kind for trial in trials for fault in trial.faults),
        "seconds": seconds, "events": events, "digest": digest.hexdigest() if transport == "simulator" else None,
    }
    if as_json:
        print(json.dumps(result))
    else:
        _show(result)
    for trial, verdict in failed:
        _explain(trial, verdict, transport)
    if failed:
        raise GlsnetError(f"chaos: expected nothing lost in {runs} runs, got {len(failed)} that failed")


def _played(trials: list[Trial], transport: Transport) -> Iterator[Verdict]:
    if transport == "grpc":
        for trial in trials:
            yield asyncio.run(chaos.real(trial))
        return
    pool = ProcessPoolExecutor(min(os.cpu_count() or 1, len(trials)), initializer=_quiet)
    try:
        yield from pool.map(chaos.simulated, trials, chunksize=4 if len(trials) > 16 else 1)
    finally:
        pool.shutdown(cancel_futures=True)


def _quiet() -> None:
    """Ctrl-C is for the command itself; what parties say of faults is not of interest in hundreds of runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("glsnet").setLevel(logging.CRITICAL)


def _show(result: dict[str, Any]) -> None:
    def counted(of: str) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in sorted(result[of].items()))

    print(f"{result['runs']:,} runs from seed {result['first_seed']}, {result['transport']}: "
          f"{len(result['failed'])} failed\n"
          f"  runs    {counted('what')}\n  faults  {counted('faults')}\n  events  {counted('events')}\n"
          f"  {result['seconds']:,.0f} seconds of {'virtual ' if result['digest'] else ''}time"
          + (f"; trace digest {result['digest'][:16]}" if result["digest"] else ""))


def _explain(trial: Trial, verdict: Verdict, transport: Transport) -> None:
    """Which run, what is wrong, and with how few faults."""
    if transport == "simulator":
        trial = chaos.smallest(trial, lambda each: bool(chaos.simulated(each).problems))
    print(f"\nseed {trial.seed}: {trial.what}, {trial.peers} peers, {trial.rounds} rounds\n  "
          + "\n  ".join(verdict.problems) + "\n" + "\n".join(map(_toml, trial.faults)))


def _toml(fault: Fault) -> str:
    """A fault as a scenario has it."""
    given = fault.model_dump(exclude_defaults=True, by_alias=True)
    return "[[faults]]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in given.items())
