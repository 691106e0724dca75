"""The parties as processes of this machine: started on ports the system chooses, and gone when the run is over.

    Process                             a party: it can be killed, paused and started again where it was
    local_parties, local_speculation    an encoder and decoders; a target and draft servers
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from glsnet.errors import TransportError

START_SECONDS = 60.0
STOP_SECONDS = 5.0
JOINED = "joined "  # what a draft server says once it has agreed with its target


class Process:
    """A party's process. It also stops by itself when this process ends, however it ends: its standard input closes.

    It has the options that it is given, and none of the environment: those are for this process.
    """

    def __init__(self, name: str, module: str, arguments: Sequence[str], folder: Path, then: str | None = None) -> None:
        """`then` is what it says, after that it listens, once it is ready; `folder` is for its log."""
        self.name, self.address = name, ""
        self._module, self._arguments, self._then = module, arguments, then
        self._log = folder / f"{name.replace(' ', '-')}.log"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> str:
        """Start it, where it was before if it was; gives its address, HOST:PORT, once it is ready.

        Raises:
            TransportError: it does not listen, or does not say `then` after that; the text has the end of its log.
        """
        listen = [] if not self.address else [f"--listen={self.address}"]
        with self._log.open("ab") as handle:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", self._module, *self._arguments, *listen, "--until-stdin-closes",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=handle, start_new_session=True,
                env={name: value for name, value in os.environ.items() if not name.startswith("GLSNET_")},
            )
        self.address = await self._said("listening on ")
        if self._then is not None:
            await self._said(self._then)
        return self.address

    @property
    def pid(self) -> int:
        """Of the process, once it was started."""
        assert self._process is not None
        return self._process.pid

    def reserve(self) -> str:
        """An address to start at later: a port that is free now."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{taken.getsockname()[1]}"
        return self.address

    async def kill(self) -> None:
        """kill -9."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Stop it as a user would, and wait until it has."""
        process = self._process
        if process is not None and process.returncode is None:
            self.resume()
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
                await process.wait()

    def _signal(self, signum: int) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signum)

    async def _said(self, beginning: str) -> str:
        """What follows this in the process's next line of output."""
        assert self._process is not None and self._process.stdout is not None
        with suppress(TimeoutError):
            line = (await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS)).decode()
            if line.startswith(beginning):
                return line.removeprefix(beginning).strip()
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
        raise TransportError(f"{self._module}: expected it to say {beginning!r} within {START_SECONDS:.0f} s, it did "
                             f"not; its log:\n{tail}")


@asynccontextmanager
async def local_parties(decoders: int, *options: str, late: frozenset[int] = frozenset(), journals: bool = False
                        ) -> AsyncIterator[tuple[Process, list[Process]]]:
    """Start one encoder and `decoders` decoder processes with these options, but for those that are to start late.

    With `journals` each keeps a journal, for as long as the run goes on.
    """
    with tempfile.TemporaryDirectory(prefix="glsnet-") as name:
        folder = Path(name)

        def party(name: str, module: str) -> Process:
            journal = [f"--journal={folder / name.replace(' ', '-')}"] if journals else []
            return Process(name, module, [*options, *journal], folder)

        encoder = party("encoder", "encoder_service")
        others = [party(f"decoder {k}", "decoder_service") for k in range(decoders)]
        for k in late:
            others[k].reserve()
        async with stopped([encoder, *others]):
            await asyncio.gather(encoder.start(), *(each.start() for k, each in enumerate(others) if k not in late))
            yield encoder, others


@asynccontextmanager
async def local_speculation(target: Sequence[str], drafters: Sequence[Sequence[str]]) -> AsyncIterator[str]:
    """Start a target server and its draft servers, each with these options; give the target's address.

    Raises:
        TransportError: one does not start, or a draft server does not join; the text has the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="glsnet-") as name:
        folder = Path(name)
        first = Process("target", "encoder_service", ["target", *target], folder)
        others: list[Process] = []
        async with stopped(others, first):
            address = await first.start()
            others += [Process(f"drafter {d}", "decoder_service", ["draft", "--target", address, *options], folder,
                               JOINED) for d, options in enumerate(drafters)]
            await asyncio.gather(*(each.start() for each in others))
            yield address


@asynccontextmanager
async def stopped(processes: list[Process], *more: Process) -> AsyncIterator[None]:
    """Those of these that run are stopped on leaving."""
    try:
        yield
    finally:
        await asyncio.shield(asyncio.gather(*(each.stop() for each in (*processes, *more))))
