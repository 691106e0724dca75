"""The simulator: messages delivered a second of real time, as parties grow from one to a thousand.

An encoder sends M messages to each of n parties, each is acknowledged; 40 bytes each way. To reach: 50,000 a second.
"""

import asyncio
import time
from collections.abc import Sequence

from glsnet.faults import Fault
from glsnet.transport import virtual
from glsnet.transport.pipes import Pipe
from glsnet.transport.simulated import Network

MESSAGES = 100_000  # in all, without acknowledgements
LATE = Fault(on="decoder *", kind="latency", delay=0.04, jitter=0.01, distribution="normal")
FAULTS: dict[str, Sequence[Fault]] = {
    "no faults": [],
    "latency": [LATE],
    "latency, rate, loss": [LATE, Fault(on="decoder *", kind="bandwidth", rate=1e6),
                            Fault(on="decoder *", kind="loss", chance=0.01)],
}


def broadcast(parties: int, messages: int, every: float, faults: Sequence[Fault]) -> tuple[float, int]:
    """Virtual seconds, and how many messages were delivered."""
    async def handler(pipe: Pipe) -> None:
        await pipe.read()
        async with asyncio.TaskGroup() as group:
            group.create_task(acknowledged(pipe))
            for _ in range(messages):
                await pipe.write(bytes(40))
                await asyncio.sleep(every)

    async def acknowledged(pipe: Pipe) -> None:
        for _ in range(messages):
            await pipe.read()

    async def party(network: Network, name: str) -> None:
        async with network.net(name).dial("encoder", "encoder") as pipe:
            await pipe.write(b"join")
            while (data := await pipe.read()) is not None:
                await pipe.write(data)

    async def main() -> tuple[float, int]:
        network = Network(1, faults)
        network.listen("encoder", handler)
        names = [f"decoder {k}" for k in range(parties)]
        await asyncio.gather(*(network.spawn(name, party(network, name)) for name in names))
        return asyncio.get_running_loop().time(), sum(each.events["delivered"] for each in network.realised())

    return virtual.run(main())


def test_messages_a_second() -> None:
    print(f"\n{'parties':>7} {'messages each':>13} {'faults':>20} {'virtual s':>9} {'real s':>6} {'delivered/s':>11}")
    for parties in (1, 10, 100, 1000):
        for name, faults in FAULTS.items():
            messages = MESSAGES // parties
            since = time.perf_counter()
            seconds, delivered = broadcast(parties, messages, 0.01, faults)
            passed = time.perf_counter() - since
            print(f"{parties:7} {messages:13,} {name:>20} {seconds:9.1f} {passed:6.2f} {delivered / passed:11,.0f}")


def test_timers_a_second() -> None:
    """The loop alone: tasks that sleep, each a timer and a step."""
    async def main(tasks: int) -> None:
        async def one() -> None:
            for number in range(200_000 // tasks):
                await asyncio.sleep(1 + number % 7)

        await asyncio.gather(*(one() for _ in range(tasks)))

    print()
    for tasks in (1, 100, 10_000):
        since = time.perf_counter()
        virtual.run(main(tasks))
        print(f"{tasks:6} tasks: {200_000 / (time.perf_counter() - since):,.0f} sleeps/s")
