"""The parties as processes of this machine: started on ports the system chooses, and gone when the run is over."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path

from glsnet.errors import TransportError

START_SECONDS = 60.0
STOP_SECONDS = 5.0
JOINED = "joined "  # what a draft server says once it has agreed with its target


@asynccontextmanager
async def local_parties(decoders: int, *options: str) -> AsyncIterator[tuple[str, list[str]]]:
    """Start one encoder and `decoders` decoder processes with these options; give their addresses, HOST:PORT."""
    async with _processes() as start:
        addresses = await asyncio.gather(start("encoder_service", *options),
                                         *(start("decoder_service", *options) for _ in range(decoders)))
        yield addresses[0], list(addresses[1:])


@asynccontextmanager
async def local_speculation(target: Sequence[str], drafters: Sequence[Sequence[str]]) -> AsyncIterator[str]:
    """Start a target server and its draft servers, each with these options; give the target's address.

    Raises:
        TransportError: one does not start, or a draft server does not join; the text has the end of its log.
    """
    async with _processes() as start:
        address = await start("encoder_service", "target", *target)
        await asyncio.gather(*(start("decoder_service", "draft", "--target", address, *each, then=JOINED)
                               for each in drafters))
        yield address


@asynccontextmanager
async def _processes() -> AsyncIterator[Callable[..., Awaitable[str]]]:
    """Gives what starts a module with arguments and gives its address; all that were started are stopped on leaving.

    A party also stops by itself when this process ends, however it ends: its standard input then closes. Starting one
    raises TransportError if it does not listen, or does not say `then` after that; the text has the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="glsnet-") as folder:
        processes: list[asyncio.subprocess.Process] = []
        numbers = count()

        async def start(module: str, *arguments: str, then: str | None = None) -> str:
            log = Path(folder, f"{module}-{next(numbers)}.log")
            with log.open("wb") as handle:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", module, *arguments, "--until-stdin-closes", stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE, stderr=handle, start_new_session=True,
                )
            processes.append(process)
            address = await _said(module, process, log, "listening on ")
            if then is not None:
                await _said(module, process, log, then)
            return address

        try:
            yield start
        finally:
            await asyncio.shield(asyncio.gather(*map(_stop, processes)))


async def _said(module: str, process: asyncio.subprocess.Process, log: Path, beginning: str) -> str:
    """What follows this in a process's next line of output."""
    assert process.stdout is not None
    with suppress(TimeoutError):
        line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
        if line.startswith(beginning):
            return line.removeprefix(beginning).strip()
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise TransportError(f"{module}: expected it to say {beginning!r} within {START_SECONDS:.0f} s, it did not; its "
                         f"log:\n{tail}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
