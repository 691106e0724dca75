"""Virtual time: an asyncio event loop whose clock jumps to the next timer as soon as nothing else is left to do.

    run            a coroutine to its end, within a bound of virtual seconds
    VirtualLoop    the loop

No threads, no sockets, no waiting, and the same order of everything in every process: first asked for, first called,
timers of the same time included.
"""

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, NoReturn, TypeVar, TypeVarTuple

from glsnet.errors import GlsnetError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
_NAMED = 10  # tasks, in an error


class StuckError(GlsnetError):
    """Nothing can happen any more, and the work is not done: a deadlock; the text says who waits where."""


def run(main: Coroutine[Any, Any, T], *, limit: float | None = None) -> T:
    """The coroutine's result; virtual time begins at 0, and what is left at its end is cancelled.

    Raises:
        TimeoutError: it had not ended by `limit`, virtual seconds; the text says who waited where.
        StuckError: it could not end at all.
        Exception: what `main` raised, or a callback: nobody else would see that one.
    """
    loop = VirtualLoop(math.inf if limit is None else limit)

    async def to_the_end() -> T:
        try:
            return await main
        finally:
            await loop.cancel_all()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(to_the_end())


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that nothing reaches from outside; `limit` is where its time ends."""

    # Of the base class: what is to be called now.
    _ready: deque[asyncio.Handle]

    def __init__(self, limit: float = math.inf) -> None:
        super().__init__()
        self._now, self._limit = 0.0, limit
        # Compared as tuples, in C, and by number where times are equal: asyncio's own heap leaves their order open.
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._number = 0  # of the last timer
        self._cancelled = 0  # timers that are in the heap still
        self._alive: dict[asyncio.Task[Any], None] = {}  # in order, unlike asyncio's own set
        self._error: BaseException | None = None
        self.set_exception_handler(_keep)

    def time(self) -> float:
        """Virtual seconds."""
        return self._now

    def call_at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
                ) -> asyncio.TimerHandle:
        """As any loop; a time that is past is now."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined]  # so that `cancel` tells `_timer_handle_cancelled`
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, timer))
        return timer

    def create_task(self, coro: Any, **how: Any) -> asyncio.Task[Any]:
        """As any loop; a task lives until it is done, whoever refers to it."""
        task = super().create_task(coro, **how)
        self._alive[task] = None
        task.add_done_callback(self._alive.pop)
        return task

    async def cancel_all(self) -> None:
        """End every task but the caller's, the oldest first."""
        for task in (others := self._others()):
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> NoReturn:  # type: ignore[override]
        """Raises RuntimeError: a thread's time cannot be told."""
        raise RuntimeError(f"{func}: expected no threads in virtual time; call it by Net.compute")

    def _run_once(self) -> None:
        """What is ready, or what is due next; the base class calls it again and again."""
        timers, ready = self._timers, self._ready
        if not ready:
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
                self._cancelled -= 1
            if not timers:
                raise StuckError(f"expected something to happen yet, nothing can; {self._waiting()}")
            if timers[0][0] > self._limit:
                text = f"expected an end within {self._limit:g} virtual seconds, got none; {self._waiting()}"
                self._limit = math.inf  # for those that clean up now
                raise TimeoutError(text)
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            timer._scheduled = False  # type: ignore[attr-defined]
            if timer.cancelled():
                self._cancelled -= 1
            else:
                ready.append(timer)
        for _ in range(len(ready)):  # what these ask for is for the next time
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """The base class's timers tell. Most deadlines are cancelled: the heap must not fill with them."""
        if handle._scheduled:  # type: ignore[attr-defined]
            self._cancelled += 1
        if self._cancelled > 100 and 2 * self._cancelled > len(self._timers):
            self._timers = [each for each in self._timers if not each[2].cancelled() and each[2] is not handle]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def _write_to_self(self) -> None:
        """There is no other thread to wake this one for; a signal is seen without."""

    def _others(self) -> list[asyncio.Task[Any]]:
        return [task for task in self._alive if task is not asyncio.current_task(self)]

    def _waiting(self) -> str:
        """Who waits, and where."""
        waiting = [f"{task.get_name()} at {_place(task)}" for task in self._others()]
        more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
        return f"waiting: {'; '.join(waiting[:_NAMED])}{more}"


def _place(task: asyncio.Task[Any]) -> str:
    """The functions that a task waits in, the innermost last, asyncio's own left out; and that one's line."""
    waits: Any = task.get_coro()
    names, line = [], ""
    while (frame := getattr(waits, "cr_frame", None) or getattr(waits, "ag_frame", None)) is not None:
        if frame.f_globals.get("__package__") != "asyncio":
            names.append(frame.f_code.co_name)
            line = f" ({frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno})"
        waits = getattr(waits, "cr_await", None) or getattr(waits, "ag_await", None)
    return f"{' > '.join(names)}{line}"


def _keep(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback that fails is a bug: the run ends with its error."""
    assert isinstance(loop, VirtualLoop)
    if "handle" in context and loop._error is None:
        loop._error = context["exception"]
    else:
        loop.default_exception_handler(context)
