"""Faults at work on parties that were started here: their links, and their processes killed, paused and late.

    troubled    the links, and what plays the schedule once the first round may begin
    Trouble     what was realised so far
"""

import asyncio
import math
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from glsnet.errors import CallerError
from glsnet.faults import OF_PARTIES, SIMULATED, Fault, concerns, schedule
from glsnet.lab.faulty import Links, links
from glsnet.lab.processes import Process


class Trouble:
    """The faults of a run.

    Attributes:
        address: by which each party reaches the encoder or target.
        events: what was done to processes: t, seconds since the start; party; event.
        since: when the start was, by the clock of event loops.
    """

    def __init__(self, made: Links, processes: Mapping[str, Process], faults: Sequence[Fault], seed: int) -> None:
        self.address = made.address
        self.events: list[dict[str, Any]] = []
        self._links, self._processes, self._faults, self._seed = made, processes, faults, seed
        self._tasks: list[asyncio.Task[None]] = []
        self.since = math.inf

    async def start(self) -> None:
        """Time is 0 now."""
        await self._links.start()
        self.since = asyncio.get_running_loop().time()
        for number, fault in enumerate(self._faults):
            for name, process in self._processes.items():
                if fault.kind in OF_PARTIES and concerns(fault, name):
                    times = schedule(fault, self._seed, number, name)
                    self._tasks.append(asyncio.create_task(self._play(name, process, fault, times)))

    async def realised(self) -> dict[str, Any]:
        """What was asked for, and what came of it: per link and direction, and of processes."""
        return {"requested": [fault.model_dump(exclude_defaults=True) for fault in self._faults],
                "links": await self._links.report(), "parties": self.events}

    def in_force(self) -> list[tuple[Fault, str, float]]:
        """What goes wrong now, with whom, and for how many seconds; from any thread."""
        now, found = time.monotonic() - self.since, []
        for number, fault in enumerate(self._faults):
            for name in (name for name in {*self.address, *self._processes} if concerns(fault, name)):
                times = (iter([(0.0, fault.at)]) if fault.kind == "late"
                         else schedule(fault, self._seed, number, name))
                found += [(fault, name, now - start) for start, end in takewhile(lambda span: span[0] <= now, times)
                          if now < end]
        return sorted(found, key=lambda each: (each[1], each[0].kind))

    async def stop(self) -> None:
        """No more faults of processes; one that was killed stays so."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _play(self, name: str, process: Process, fault: Fault, times: Iterator[tuple[float, float]]
                    ) -> None:
        for start, end in times:
            await self._until(start)
            match fault.kind:
                case "late":
                    await process.start()
                    self._note(name, "started")
                case "kill":
                    await process.kill()
                    self._note(name, "killed")
                    if end < math.inf:
                        await self._until(end)
                        await process.start()
                        self._note(name, "started")
                case "pause":
                    process.pause()
                    self._note(name, "paused")
                    if end < math.inf:
                        await self._until(end)
                        process.resume()
                        self._note(name, "resumed")

    async def _until(self, seconds: float) -> None:
        await asyncio.sleep(self.since + seconds - asyncio.get_running_loop().time())

    def _note(self, party: str, event: str) -> None:
        self.events.append({"t": asyncio.get_running_loop().time() - self.since, "party": party, "event": event})


@asynccontextmanager
async def troubled(to: str, names: Sequence[str], processes: Mapping[str, Process], faults: Sequence[Fault], seed: int
                   ) -> AsyncIterator[Trouble]:
    """Put a link between `to` and each party that dials it, and be ready to make trouble.

    Args:
        to: the encoder's or target's address, HOST:PORT.
        names: of the parties that dial.
        processes: of all parties by name, complete when the trouble starts.
        faults: what goes wrong, and when.
        seed: of all chance in it.

    Raises:
        CallerError: a fault is one that only the simulator knows, or on a party that is not there.
        TransportError: the links do not start.
    """
    for number, fault in enumerate(faults):
        if fault.kind in SIMULATED:
            raise CallerError(f"faults[{number}]: expected a kind that TCP does not hide, got {fault.kind}; run it "
                              "with transport=simulator")
        if not any(concerns(fault, name) for name in ("encoder", "target", *names)):
            raise CallerError(f"faults[{number}].on: expected one of {', '.join(names)}, or the encoder or target, got "
                              f"{fault.on!r}")
    with tempfile.TemporaryDirectory(prefix="glsnet-links-") as folder:
        async with links(to, names, faults, seed, Path(folder) / "links.jsonl") as made:
            trouble = Trouble(made, processes, faults, seed)
            try:
                yield trouble
            finally:
                await trouble.stop()
