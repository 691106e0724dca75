"""Links that misbehave, for the parties of a run: their process is started, told what to do, and gone afterwards."""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from glsnet.errors import CallerError, TransportError
from glsnet.faults import Fault
from glsnet.lab.processes import START_SECONDS, STOP_SECONDS


class Links:
    """The links of a run, in a process that also ends by itself when this one does.

    Attributes:
        address: what each party dials, HOST:PORT, by the party's name.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.address: dict[str, str] = {}
        self._process, self._log = process, log
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Begin the faults' time; before, none is in force."""
        await self._ask({"start": True})

    async def add(self, fault: Fault) -> int:
        """One more fault, whose times count from now, or from the start; gives its number."""
        number: int = await self._ask({"add": _table(fault)})
        return number

    async def remove(self, number: int) -> None:
        """End a fault; those given at first have numbers from 0 on. Raises CallerError if there is none."""
        await self._ask({"remove": number})

    async def report(self) -> list[dict[str, Any]]:
        """What each link has done so far in each direction: see `transport.links.Link.report`."""
        ways: list[dict[str, Any]] = await self._ask({"report": True})
        return ways

    async def said(self) -> dict[str, Any]:
        """The process's next line; raises TransportError if there is none."""
        assert self._process.stdout is not None
        with suppress(TimeoutError):
            if line := await asyncio.wait_for(self._process.stdout.readline(), START_SECONDS):
                answer: dict[str, Any] = json.loads(line)
                return answer
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-5:])
        raise TransportError(f"links: expected an answer within {START_SECONDS:.0f} s, got none; their log:\n{tail}")

    async def _ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        async with self._turn:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            answer = await self.said()
        if "error" in answer:
            raise CallerError(f"links: {answer['error']}")
        return answer[next(iter(order))]


@asynccontextmanager
async def links(to: str, names: Sequence[str], faults: Sequence[Fault], seed: int, journal: Path
                ) -> AsyncIterator[Links]:
    """Links to HOST:PORT, one for each of these parties.

    Args:
        to: where they lead.
        names: of the parties, as faults name them.
        faults: what goes wrong; faults of parties, and those that only the simulator knows, are passed over.
        seed: of all chance.
        journal: file for what happens, a JSON object on each line.

    Raises:
        TransportError: they do not start; the text says why.
    """
    with tempfile.TemporaryDirectory(prefix="glsnet-") as folder:
        tables = Path(folder, "faults.json")
        tables.write_text(json.dumps([_table(fault) for fault in faults]), "utf-8")
        log = Path(folder, "links.log")
        with log.open("wb") as handle:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "glsnet.transport.links", f"--to={to}", f"--faults={tables}", f"--seed={seed}",
                f"--journal={journal}", *(f"--link={name}" for name in names), stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE, stderr=handle, start_new_session=True, limit=1 << 24,
            )
        try:
            made = Links(process, log)
            made.address = (await made.said())["links"]
            yield made
        finally:
            await asyncio.shield(_stopped(process))


async def _stopped(process: asyncio.subprocess.Process) -> None:
    """Have it end, and wait until it has."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


def _table(fault: Fault) -> dict[str, Any]:
    return fault.model_dump(by_alias=True, exclude_none=True)
