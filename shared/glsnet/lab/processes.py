"""The parties as processes of this machine: started on ports the system chooses, and gone when the run is over."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from glsnet.errors import TransportError

START_SECONDS = 60.0
STOP_SECONDS = 5.0


@asynccontextmanager
async def local_parties(decoders: int) -> AsyncIterator[tuple[str, list[str]]]:
    """Start one encoder and `decoders` decoder processes; give their addresses, HOST:PORT.

    A party also stops by itself when this process ends, however it ends: its standard input then closes.

    Raises:
        TransportError: a process did not start; the text has the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="glsnet-") as folder:
        modules = ["encoder_service", *["decoder_service"] * decoders]
        logs = [Path(folder, f"{module}-{i}.log") for i, module in enumerate(modules)]
        processes: list[asyncio.subprocess.Process] = []
        try:
            for module, log in zip(modules, logs, strict=True):
                with log.open("wb") as handle:
                    processes.append(await asyncio.create_subprocess_exec(
                        sys.executable, "-m", module, "--until-stdin-closes", stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE, stderr=handle, start_new_session=True,
                    ))
            addresses = await asyncio.gather(*map(_address, modules, processes, logs))
            yield addresses[0], list(addresses[1:])
        finally:
            await asyncio.shield(asyncio.gather(*map(_stop, processes)))


async def _address(module: str, process: asyncio.subprocess.Process, log: Path) -> str:
    assert process.stdout is not None
    with suppress(TimeoutError):
        line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
        if line.startswith("listening on "):
            return line.removeprefix("listening on ").strip()
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise TransportError(f"{module}: expected it to listen within {START_SECONDS:.0f} s, it did not; its log:\n{tail}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
