"""Sweeps of a fake, instant measure through the real result directory, to be killed: forked, not started anew.

    SCENARIO DIR LIMIT   start one whose files may grow to LIMIT bytes; it says its process, each cell that it has kept,
                         and, unless it is killed, "stopped"
    reap                 wait until it is gone, and say "gone"
"""

import os
import resource
import sys
from pathlib import Path
from typing import Any

from glsnet.lab import results, scenarios
from glsnet.lab.scenarios import Cell


def fake(cell: Cell) -> dict[str, Any]:
    """A body as `cells.measure` gives it, of a length of its own; what it measures is its number."""
    return {"result": {"mse": cell.number / 4, "of_each": [0.5] * (cell.number % 7)}, "timing": {"seconds": 0.25}}


def main() -> None:
    for line in sys.stdin:
        scenario, directory, limit = line.split()
        if os.fork() == 0:
            try:
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
                say(os.getpid())
                sweep(scenario, Path(directory))
            finally:
                say("stopped")
                os._exit(0)
        assert sys.stdin.readline() == "reap\n"
        os.wait()
        say("gone")


def sweep(scenario: str, directory: Path) -> None:
    with results.opened(directory, scenarios.load(scenario)) as opened:
        for cell in opened.remaining:
            opened.append(cell, fake(cell))
            say(cell.number)


def say(what: object) -> None:
    os.write(1, f"{what}\n".encode())


if __name__ == "__main__":
    main()
