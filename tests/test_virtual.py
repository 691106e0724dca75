"""Virtual time: order, jumps, ends."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import pytest

from glsnet.transport import virtual
from glsnet.transport.virtual import StuckError


def now() -> float:
    return asyncio.get_running_loop().time()


def test_time_begins_at_zero_and_passes_in_sleep_alone() -> None:
    async def main() -> list[float]:
        times = [now()]
        for seconds in (1.5, 0, 0.25):
            await asyncio.sleep(seconds)
            times.append(now())
        return times

    assert virtual.run(main()) == [0, 1.5, 1.5, 1.75]


def test_a_year_takes_a_moment() -> None:
    async def main() -> float:
        for _ in range(365):
            await asyncio.sleep(86_400)
        return now()

    since = time.monotonic()
    assert virtual.run(main()) == 365 * 86_400
    assert time.monotonic() - since < 60


async def order(wait: Callable[[int], Awaitable[object]]) -> list[int]:
    """In which tasks go on."""
    found: list[int] = []

    async def one(number: int) -> None:
        await wait(number)
        found.append(number)

    await asyncio.gather(*map(one, range(1000)))
    return found


def test_timers_of_one_time_go_in_the_order_they_were_set() -> None:
    assert virtual.run(order(lambda number: asyncio.sleep(1))) == list(range(1000))
    by_time = virtual.run(order(lambda number: asyncio.sleep(number % 10)))
    assert by_time == sorted(range(1000), key=lambda number: number % 10)


def test_what_is_ready_goes_before_time_does() -> None:
    async def main() -> list[str]:
        loop, found = asyncio.get_running_loop(), list[str]()
        loop.call_later(0, found.append, "timer of now")
        loop.call_later(1, found.append, "timer of later")
        for _ in range(3):
            loop.call_soon(found.append, "soon")
        await asyncio.sleep(1)
        return found

    assert virtual.run(main()) == ["soon", "soon", "soon", "timer of now", "timer of later"]


def test_a_time_that_is_past_is_now() -> None:
    async def main() -> float:
        loop, called = asyncio.get_running_loop(), asyncio.Event()
        await asyncio.sleep(5)
        loop.call_at(3, called.set)
        await called.wait()
        return now()

    assert virtual.run(main()) == 5


def test_a_deadlock_is_found_and_says_who_waits_where() -> None:
    async def inner(event: asyncio.Event) -> None:
        await event.wait()

    async def main() -> None:
        waits = asyncio.create_task(inner(asyncio.Event()), name="decoder 3")
        await asyncio.sleep(7)
        await waits

    for limit in (None, 1000.0):
        with pytest.raises(StuckError, match=r"nothing can; waiting: .*main \(test_virtual.py:\d+\); decoder 3 at "
                                             r"inner \(test_virtual.py:\d+\)$"):
            virtual.run(main(), limit=limit)


def test_the_limit_is_in_virtual_seconds_and_says_who_waits() -> None:
    async def main(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return now()

    assert virtual.run(main(10), limit=10) == 10
    with pytest.raises(TimeoutError, match=r"within 10 virtual seconds, got none; waiting: .* > main \(test_virtual"):
        virtual.run(main(10.1), limit=10)


def test_who_cleans_up_after_the_limit_may_take_time() -> None:
    async def main() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(100)
            cleaned.append(now())

    cleaned: list[float] = []
    with pytest.raises(TimeoutError):
        virtual.run(main(), limit=10)
    assert cleaned


def test_deadlines_and_queues_work_as_ever() -> None:
    async def main() -> list[object]:
        queue, found = asyncio.Queue[int](), list[object]()

        async def put() -> None:
            for number in range(3):
                await asyncio.sleep(2)
                queue.put_nowait(number)

        async with asyncio.TaskGroup() as group:
            group.create_task(put())
            for _ in range(6):
                try:
                    async with asyncio.timeout(1.5):
                        found.append(await queue.get())
                except TimeoutError:
                    found.append(now())
        return found

    assert virtual.run(main()) == [1.5, 0, 3.5, 1, 5.5, 2]


def test_deadlines_that_are_met_do_not_pile_up() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual.VirtualLoop)
        for _ in range(10_000):
            async with asyncio.timeout(1e6):
                await asyncio.sleep(0.001)
        return len(loop._timers)

    assert virtual.run(main()) < 1000


def test_what_is_left_at_the_end_is_cancelled_oldest_first() -> None:
    async def forever(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    async def main() -> str:
        for number in range(100):
            asyncio.create_task(forever(number))  # noqa: RUF006  # the loop keeps it
        await asyncio.sleep(0)
        return "done"

    ended: list[int] = []
    assert virtual.run(main()) == "done"
    assert ended == list(range(100))


def test_errors_come_out() -> None:
    async def main() -> None:
        await asyncio.sleep(1)
        raise KeyError("mine")

    def nobodys() -> None:
        raise KeyError("nobody's")

    async def by_callback() -> None:
        asyncio.get_running_loop().call_later(1, nobodys)
        await asyncio.sleep(2)

    with pytest.raises(KeyError, match="mine"):
        virtual.run(main())
    with pytest.raises(KeyError, match="nobody's"):
        virtual.run(by_callback())


def test_no_threads() -> None:
    async def main() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="expected no threads in virtual time"):
        virtual.run(main())


PROGRAM = """
import asyncio, random
from glsnet.transport import virtual

async def main():
    found, chance = [], random.Random(7)
    async def one(name, waits):
        for seconds in waits:
            await asyncio.sleep(seconds)
            found.append((asyncio.get_running_loop().time(), name))
    names = {f"party {number}" for number in range(50)}
    await asyncio.gather(*(one(name, [chance.choice((0, 1, 2)) for _ in range(20)]) for name in sorted(names)))
    return found

print(virtual.run(main()))
"""


def test_the_same_order_in_every_process() -> None:
    runs = {subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONHASHSEED": seed}, check=True,
                           capture_output=True, text=True).stdout for seed in ("0", "1", "2")}
    assert len(runs) == 1
