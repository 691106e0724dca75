"""Fuzzing: a million wrong inputs into every entry point of a service. Nothing but a GlsnetError may come out.

`python benchmarks/fuzz.py --inputs 1000000 --seed 1`. An input is a valid conversation with something wrong in it
(`mutations`), played to a new session (`fuzzed`); number N of a seed is always the same, and `--only N` plays it alone.
An input may take SECONDS, and this process MEMORY more than it has at first.

    input_of   number N
    play       one input: how it ended, or what broke
"""

import argparse
import logging
import random
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from fuzzed import entries, others
from mutations import conversation

from glsnet.errors import GlsnetError

SECONDS = 20
MEMORY = 1 << 31  # bytes of address space: what would allocate more is refused by the system


class Input(NamedTuple):
    """What is played where."""

    entry: str
    choice: int
    said: list[bytes]


class Hung(BaseException):
    """An input has taken too long; no handler of errors catches this."""


def input_of(seed: int, number: int) -> Input:
    """Input `number` of a seed."""
    all_entries = entries()
    rng = random.Random(seed << 40 | number)
    name, = rng.choices([*all_entries], [entry.share for entry in all_entries.values()])
    choice = rng.randrange(len(all_entries[name].valid))
    return Input(name, choice, conversation(rng, all_entries[name].valid[choice], others(), all_entries[name].repair))


def play(given: Input) -> str:
    """How it ended: "taken", or the class of a GlsnetError; raises whatever else comes."""
    signal.signal(signal.SIGALRM, _hung)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        entries()[given.entry].play(given.choice, given.said)
    except GlsnetError as error:
        return type(error).__name__
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "taken"


def _hung(_: int, __: FrameType | None) -> None:
    raise Hung(f"took more than {SECONDS} s")


def _played(given: Input, again: str) -> str:
    try:
        return play(given)
    except BaseException:
        said = "\n".join(data.hex() for data in given.said)
        raise SystemExit(f"{traceback.format_exc()}\n{given.entry} {given.choice}; again: {again}\n{said}") from None


def _pages(column: int) -> int:
    """Bytes of this process: its address space (0), or what of it is resident (1)."""
    return int(Path("/proc/self/statm").read_text().split()[column]) * resource.getpagesize()


def main() -> None:
    """All inputs, or one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="the number of one input, to play again")
    options = parser.parse_args()
    logging.getLogger("glsnet").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore", RuntimeWarning)  # numbers that overflow; what comes of them is looked at
    for name, entry in entries().items():  # compiles
        for choice, said in enumerate(entry.valid):
            _played(Input(name, choice, said), "as it is")
    resource.setrlimit(resource.RLIMIT_AS, (_pages(0) + MEMORY, resource.RLIM_INFINITY))
    numbers = range(options.inputs) if options.only is None else [options.only]
    outcomes, spent = Counter[tuple[str, str]](), dict.fromkeys(entries(), 0.0)
    since = time.perf_counter()
    for done, number in enumerate(numbers):
        given, began = input_of(options.seed, number), time.perf_counter()
        outcomes[given.entry, _played(given, f"--seed {options.seed} --only {number}")] += 1
        spent[given.entry] += time.perf_counter() - began
        if (done + 1) % max(1, len(numbers) // 10) == 0:
            print(f"{done + 1:>10,} inputs   {time.perf_counter() - since:7.1f} s   {_pages(1) >> 20} MB", flush=True)
    for name, seconds in spent.items():
        kinds = {kind: n for (entry, kind), n in sorted(outcomes.items()) if entry == name}
        print(f"{name:<18}{sum(kinds.values()):>9,}   {seconds:6.1f} s   "
              + ", ".join(f"{kind} {n:,}" for kind, n in kinds.items()))


if __name__ == "__main__":
    main()
