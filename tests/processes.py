"""Real services and the real command line, as processes of the test."""

import json
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from typer.testing import CliRunner

from glsnet.codes import decoding
from glsnet.lab.cli import app
from glsnet.lab.nature import synthetic
from glsnet.lab.plan import Plan
from glsnet.lab.settings import GaussianRun
from glsnet.lab.tuning import code_of
from glsnet.randomness import seed_from_integer
from glsnet.transport.security import Security, Tls

GLSNET = str(Path(sys.executable).with_name("glsnet"))
DEADLINE = 120.0
T = TypeVar("T")


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
    return printed("run", run, "--json", *arguments)


def printed(*arguments: str) -> dict[str, Any]:
    """The one JSON object that a command prints. It is run in this process, for a new one takes seconds to start."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"{done.stderr}{done.exception}"
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def gaussian_plan(samples: int, decoders: int, frame: int, patience: float, transport: str = "grpc") -> Plan:
    """What `glsnet run gaussian` would do with these settings, and with a patience."""
    settings = GaussianRun.parsed([f"samples={samples}", f"decoders={decoders}", f"frame={frame}",
                                   f"transport={transport}"])
    nature = synthetic(settings)
    code = code_of(settings, nature.source, nature.sides)
    decodings = [decoding(lambda _, side=side: side) for side in nature.sides]  # type: ignore[misc]
    return Plan(transport, seed_from_integer(settings.seed), code, decodings, nature.sides, nature.frames,
                patience=patience)


def security_in(folder: Path, authority: Path | None = None) -> Security:
    """The party whose certificate is in a folder of `glsnet certificates`; `authority` has another's ca.pem."""
    return Security(Tls.of(folder / "cert.pem", folder / "key.pem", (authority or folder) / "ca.pem"))


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


def at_once(*actions: Callable[[], T]) -> list[T]:
    """What each gives; processes take a while to start."""
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda action: action(), actions))


class Cutter(socketserver.ThreadingTCPServer):
    """A TCP proxy to `target` whose connections can be cut."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Relay)
        self.target = target
        self.open: list[socket.socket] = []
        self.served = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.socket.getsockname()[1]}"

    def cut(self) -> bool:
        """Whether there was anything to cut."""
        cut, self.open = self.open, []
        for each in cut:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        return bool(cut)


class Relay(socketserver.BaseRequestHandler):
    server: Cutter

    def handle(self) -> None:
        host, _, port = self.server.target.rpartition(":")
        far = socket.create_connection((host, int(port)))
        self.server.served += 1
        self.server.open += [far, self.request]
        back = threading.Thread(target=self.pump, args=(far, self.request), daemon=True)
        back.start()
        self.pump(self.request, far)
        back.join()
        far.close()

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(target: str) -> Iterator[Cutter]:
    with Cutter(target) as cutter:
        try:
            yield cutter
        finally:
            cutter.shutdown()
