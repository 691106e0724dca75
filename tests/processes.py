"""Real services and the real command line, as processes of the test."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

GLSNET = str(Path(sys.executable).with_name("glsnet"))
DEADLINE = 120.0


class Service:
    """An encoder or decoder service of its own process, at `address` once it listens."""

    def __init__(self, module: str, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line + self.process.communicate()[1]
        self.address = line.removeprefix("listening on ").strip()

    def stop(self, signum: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code and log, after a signal."""
        self.process.send_signal(signum)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Exit code and log, once it ends by itself."""
        _, log = self.process.communicate(timeout=DEADLINE)
        return self.process.returncode, log


@contextmanager
def service(module: str, *options: str) -> Iterator[Service]:
    """A service that is gone after the block."""
    running = Service(module, *options)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def glsnet(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    done = subprocess.run([GLSNET, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def result_of(*arguments: str, run: str = "gaussian") -> dict[str, Any]:
    """The one JSON object that a run prints."""
    done = glsnet("run", run, "--json", *arguments)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in task.read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Whether a process exists and is more than an entry that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], object]) -> None:
    """Look at a condition until it holds; fail after DEADLINE."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"
        time.sleep(0.01)
