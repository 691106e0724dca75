"""The simulated network: what a message meets on a link, what a connection and a party go through, in virtual time."""

import asyncio
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from helpers import assert_mean, assert_proportion

from glsnet.codes import Code, decoding
from glsnet.compression import DecoderSession, EncoderSession, Outcomes, Samples, terms_of
from glsnet.errors import CallerError, FrameError, GlsnetError, PeerError, TransportError
from glsnet.faults import Fault
from glsnet.sources.gaussian import Gaussian, noisy_observation
from glsnet.transport import parties, virtual
from glsnet.transport.exchange import Broadcast, serve_join
from glsnet.transport.pipes import Dialled, Pipe
from glsnet.transport.rpc import CONNECT_SECONDS
from glsnet.transport.simulated import FRAMING, LEGS, ROOM, SEGMENT, Network, Realised

T = TypeVar("T")
NAME = "decoder 2"
OVERHEAD = FRAMING + SEGMENT


def fault(kind: str, on: str = NAME, **how: Any) -> Fault:
    return Fault.model_validate({"on": on, "kind": kind, **how})


def now() -> float:
    return asyncio.get_running_loop().time()


def run(program: Callable[[Network], Coroutine[Any, Any, T]], *faults: Fault, limit: float = 1e6, **how: Any) -> T:
    """A program of a network with faults."""
    async def main() -> T:
        return await program(Network(1, faults, **how))

    return virtual.run(main(), limit=limit)


async def echo(pipe: Pipe) -> None:
    """A handler."""
    while (data := await pipe.read()) is not None:
        await pipe.write(data)


class Sink:
    """A handler that keeps what comes, and when."""

    def __init__(self) -> None:
        self.got: list[tuple[float, bytes]] = []
        self.error: BaseException | None = None

    async def __call__(self, pipe: Pipe) -> None:
        try:
            while (data := await pipe.read()) is not None:
                self.got.append((now(), data))
        except BaseException as error:
            self.error = error
            raise


async def sent(network: Network, messages: list[bytes], every: float = 0.0, after: float = 0.0, dialled: float = 0.0
               ) -> Sink:
    """What has come of messages from NAME to the encoder, by the time the stream has ended well."""
    sink = Sink()
    network.listen("encoder", sink)
    await asyncio.sleep(dialled)
    async with network.net(NAME).dial("encoder", "encoder") as pipe:
        await asyncio.sleep(after)
        for message in messages:
            await pipe.write(message)
            await asyncio.sleep(every)
        await pipe.close()
        assert await pipe.read() is None
    return sink


def up_of(network: Network) -> Realised:
    """What NAME's link has done towards the encoder."""
    return next(each for each in network.realised() if (each.link, each.direction) == (NAME, "up"))


def numbered(count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") for number in range(count)]


# Streams


def test_messages_come_in_order_and_ends_after_them() -> None:
    async def program(network: Network) -> list[bytes | None]:
        network.listen("encoder", echo)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            for message in numbered(100):
                await pipe.write(message)
            await pipe.close()
            return [await pipe.read() for _ in range(102)]

    assert run(program, fault("latency", delay=0.1)) == [*numbered(100), None, None]


@pytest.mark.parametrize("error", [FrameError("f"), CallerError("c"), TransportError("t")], ids=lambda each: str(each))
def test_a_handlers_error_reaches_the_dialler_after_what_it_has_written(error: GlsnetError) -> None:
    async def handler(pipe: Pipe) -> None:
        assert pipe.peer == NAME
        await pipe.write(b"last")
        raise error

    async def program(network: Network) -> None:
        network.listen("encoder", handler)
        async with network.net(NAME).dial("encoder", "the encoder") as pipe:
            assert await pipe.read() == b"last"
            for doing in (pipe.read, lambda: pipe.write(b"")):
                with pytest.raises(type(error), match=f"^the encoder: {error}$"):
                    await doing()

    run(program)


def test_errors_without_a_class_of_their_own_are_the_transports_as_over_grpc() -> None:
    async def handler(pipe: Pipe) -> None:
        raise PeerError("p")

    async def program(network: Network) -> None:
        network.listen("encoder", handler)
        async with network.net(NAME).dial("encoder", "the encoder") as pipe:
            with pytest.raises(TransportError, match="the encoder: p"):
                await pipe.read()

    run(program)


def test_a_bug_in_a_handler_ends_the_run() -> None:
    async def handler(pipe: Pipe) -> None:
        raise ZeroDivisionError

    async def program(network: Network) -> None:
        network.listen("encoder", handler)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            await pipe.read()

    with pytest.raises(ZeroDivisionError):
        run(program)


def test_writing_to_a_handler_that_is_over_fails() -> None:
    async def handler(pipe: Pipe) -> None:
        await pipe.read()

    async def program(network: Network) -> None:
        network.listen("encoder", handler)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            await pipe.write(b"")
            assert await pipe.read() is None
            with pytest.raises(TransportError, match="ended the stream"):
                await pipe.write(b"")

    run(program)


def test_who_leaves_early_is_lost_to_its_peer() -> None:
    async def program(network: Network) -> BaseException | None:
        sink = Sink()
        network.listen("encoder", sink)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            await pipe.write(b"one")
            await asyncio.sleep(1)
        await asyncio.sleep(1)
        assert [data for _, data in sink.got] == [b"one"]
        return sink.error

    assert isinstance(run(program), TransportError)


def test_a_handler_that_neither_reads_nor_writes_is_cancelled_when_its_peer_is_lost() -> None:
    async def program(network: Network) -> list[str]:
        found: list[str] = []

        async def handler(pipe: Pipe) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                found.append("cancelled")
                raise

        network.listen("encoder", handler)
        async with network.net(NAME).dial("encoder", "encoder"):
            pass
        await asyncio.sleep(1)
        return found

    assert run(program) == ["cancelled"]


def test_nobody_listens() -> None:
    async def program(network: Network) -> float:
        network.listen("encoder", echo)
        network.hang_up("encoder")
        with pytest.raises(TransportError, match="the encoder: nobody listens"):
            async with network.net(NAME).dial("encoder", "the encoder"):
                pass
        return now()

    assert run(program, fault("latency", delay=0.1)) == pytest.approx(0.2)


def test_dialling_takes_two_round_trips() -> None:
    async def program(network: Network) -> tuple[float, float]:
        network.listen("encoder", echo)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            dialled = now()
            await pipe.write(b"")
            await pipe.read()
            return dialled, now()

    assert run(program, fault("latency", delay=0.1)) == pytest.approx((0.4, 0.6))


def test_a_writer_waits_while_more_than_a_mebibyte_is_not_read() -> None:
    async def program(network: Network) -> tuple[float, list[float]]:
        written: list[float] = []

        async def handler(pipe: Pipe) -> None:
            await asyncio.sleep(100)
            while await pipe.read() is not None:
                await asyncio.sleep(1)

        network.listen("encoder", handler)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            for _ in range(8):
                await pipe.write(bytes(ROOM // 4 + 1))
                written.append(now())
            await pipe.close()
            await pipe.read()
        return now(), written

    end, written = run(program)
    assert written == [0, 0, 0, 0, 100, 101, 102, 103]
    assert end == 108


def test_bytes_are_counted_as_the_diallers_socket_sees_them() -> None:
    async def program(network: Network) -> None:
        network.listen("encoder", echo)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            since = pipe.reading()
            assert (since.down_stream, since.up_stream) == (LEGS[1] + LEGS[3], LEGS[0] + LEGS[2])
            assert (since.down_ip, since.up_ip) == (LEGS[3] + 2 * SEGMENT, LEGS[2] + 2 * SEGMENT)
            await pipe.write(bytes(100))
            passed = pipe.reading() - since
            assert (passed.down_stream, passed.up_stream, passed.up_ip) == (0, 100 + FRAMING, 100 + OVERHEAD)
            await pipe.read()
            passed = pipe.reading() - since
            assert (passed.down_stream, passed.down_ip) == (100 + FRAMING, 100 + OVERHEAD)

    run(program)


# Faults of links


def test_a_link_without_faults_takes_no_time() -> None:
    async def program(network: Network) -> Sink:
        return await sent(network, numbered(10))

    assert run(program).got == [(0, message) for message in numbered(10)]


def test_a_fault_is_on_the_link_and_in_the_direction_it_names() -> None:
    async def program(network: Network) -> dict[str, float]:
        network.listen("encoder", echo)
        taken: dict[str, float] = {}
        for name in ("decoder 1", "decoder 2", "decoder 22", "drafter 2"):
            async with network.net(name).dial("encoder", "encoder") as pipe:
                since = now()
                await pipe.write(b"")
                await pipe.read()
                taken[name] = round(now() - since, 6)
        return taken

    one = run(program, fault("latency", delay=1, direction="down"))
    assert one == {"decoder 1": 0, "decoder 2": 1, "decoder 22": 0, "drafter 2": 0}
    every = run(program, fault("latency", "decoder *", delay=1, direction="up"),
                fault("latency", delay=0.5))
    assert every == {"decoder 1": 1, "decoder 2": 2, "decoder 22": 1, "drafter 2": 0}


@pytest.mark.parametrize(("distribution", "mean", "sd"), [
    ("uniform", 0.05, 0.01 / 3**0.5), ("normal", 0.05, 0.01), ("pareto", 0.06, 0.02 * 0.75**0.5)])
def test_delays_have_the_distribution_that_was_asked_for(distribution: str, mean: float, sd: float) -> None:
    async def program(network: Network) -> tuple[list[float], Realised]:
        sink = Sink()
        network.listen("encoder", sink)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            for number, message in enumerate(numbered(4000)):
                await asyncio.sleep(1 + number - now())
                await pipe.write(message)
            await asyncio.sleep(1)
        return [at - 1 - number for number, (at, _) in enumerate(sink.got)], up_of(network)

    delays, realised = run(program, fault("latency", delay=0.05, jitter=0.01, distribution=distribution))
    assert_mean(delays, mean)
    # 5 of its own deviations, about; that of Pareto's is not finite.
    assert statistics.pstdev(delays) == pytest.approx(sd, rel=0.25 if distribution == "pareto" else 0.08)
    assert realised.events == {"sent": 4000, "delivered": 4000}
    assert realised.mean == pytest.approx(statistics.mean(delays))
    assert realised.sd == pytest.approx(statistics.pstdev(delays))
    assert realised.p50 == pytest.approx(statistics.median(delays))
    assert realised.p99 == pytest.approx(sorted(delays)[3960], rel=0.05)


def test_delays_of_a_trace_are_those_in_the_file(tmp_path: Path) -> None:
    async def program(network: Network) -> Counter[float]:
        sink = await sent(network, numbered(1000), every=1, after=1)
        return Counter(round(at % 1, 6) for at, _ in sink.got)

    (tmp_path / "trace.txt").write_text("10\n20\n20\n500\n")
    path = str(tmp_path / "trace.txt")
    found = run(program, fault("latency", delay=0.1, distribution="trace", trace=path, direction="up", at=0.5))
    assert set(found) == {0.11, 0.12, 0.6}
    assert_proportion(found[0.12], 1000, 0.5)


def test_jitter_never_reorders() -> None:
    async def program(network: Network) -> Sink:
        return await sent(network, numbered(1000), every=0.001)

    sink = run(program, fault("latency", delay=0.05, jitter=0.05, distribution="uniform"))
    assert [data for _, data in sink.got] == numbered(1000)
    assert sink.got == sorted(sink.got)


def test_bandwidth_is_a_queue() -> None:
    """Byte for byte: each message leaves when those before it have, with all its overheads, then takes its latency."""
    async def program(network: Network) -> Sink:
        return await sent(network, [bytes(size) for size in sizes], after=10)

    sizes = [100, 1000, 0, 5000, 1]
    sink = run(program, fault("bandwidth", rate=1000), fault("latency", delay=0.25))
    start = 10 + 4 * 0.25 + (sum(LEGS) + 4 * SEGMENT) / 1000
    leaves = 0.0
    for (at, data), size in zip(sink.got, sizes, strict=True):
        leaves += (size + OVERHEAD) / 1000
        assert len(data) == size
        assert at == pytest.approx(start + leaves + 0.25, abs=1e-9)


def test_bandwidth_is_shared_by_a_links_connections_and_not_by_its_directions() -> None:
    async def program(network: Network) -> tuple[float, float]:
        network.listen("encoder", echo)

        async def one() -> None:
            async with network.net(NAME).dial("encoder", "encoder") as pipe:
                await asyncio.sleep(100 - now())
                await pipe.write(bytes(1000 - OVERHEAD))
                await pipe.read()

        await one()
        alone = now() - 100

        async def other() -> None:
            async with network.net(NAME).dial("encoder", "encoder") as pipe:
                await asyncio.sleep(200 - now())
                await pipe.write(bytes(1000 - OVERHEAD))
                await pipe.read()

        await asyncio.gather(other(), other())
        return alone, now() - 200

    assert run(program, fault("bandwidth", rate=1000)) == pytest.approx((2, 3))


def test_what_is_lost_is_sent_again_and_all_behind_it_waits() -> None:
    async def program(network: Network) -> tuple[Sink, Realised]:
        return await sent(network, numbered(2000), every=0.001), up_of(network)

    sink, realised = run(program, fault("loss", chance=0.1), silence=1e9)
    assert [data for _, data in sink.got] == numbered(2000)
    assert sink.got == sorted(sink.got)
    assert_proportion(realised.events["lost"], realised.events["lost"] + 2000, 0.1)
    assert realised.mean > 0.1  # though only a tenth was lost


def test_each_retransmission_takes_twice_as_long() -> None:
    async def program(network: Network) -> set[float]:
        sink = await sent(network, numbered(3000), every=60, after=60)
        return {round((at % 60), 6) for at, _ in sink.got}

    assert {0, 0.2, 0.6, 1.4} <= run(program, fault("loss", chance=0.2, at=1), silence=1e9)


def test_the_same_fault_twice_is_two() -> None:
    async def program(network: Network) -> list[float]:
        return [round(at % 1, 6) for at, _ in (await sent(network, numbered(3), every=1, after=0.5)).got]

    twice = [fault("latency", delay=0.2, direction="up", at=1, lasting=1)] * 2
    assert run(program, *twice) == [0.5, 0.9, 0.5]


def test_a_fault_may_begin_late() -> None:
    async def program(network: Network) -> list[float]:
        return [round(at % 1, 6) for at, _ in (await sent(network, numbered(2), every=100_000, after=1)).got]

    assert run(program, fault("latency", delay=0.25, at=50_000)) == [0, 0.25]


def test_a_link_that_loses_everything_loses_its_connections() -> None:
    async def program(network: Network) -> float:
        with pytest.raises(TransportError, match="too much was lost"):
            await sent(network, numbered(1), after=20)
        return now()

    assert run(program, fault("loss", chance=1.0, at=10)) == 30


def test_duplicated_messages_come_twice() -> None:
    async def program(network: Network) -> list[bytes]:
        return [data for _, data in (await sent(network, numbered(1000))).got]

    got = run(program, fault("duplicate", chance=0.3))
    assert got == sorted(got)
    assert sorted(set(got)) == numbered(1000)
    assert_proportion(len(got) - 1000, 1000, 0.3)


def test_reordered_messages_overtake() -> None:
    async def program(network: Network) -> list[bytes]:
        return [data for _, data in (await sent(network, numbered(1000), every=0.01)).got]

    got = run(program, fault("latency", delay=0.1), fault("reorder", chance=0.2))
    assert sorted(got) == numbered(1000)
    overtaking = sum(int.from_bytes(data, "big") > at for at, data in enumerate(got))
    assert 100 < overtaking < 400


def test_corrupt_messages_have_one_bit_flipped() -> None:
    async def program(network: Network) -> list[int]:
        sink = await sent(network, [bytes(20)] * 2000)
        return [int.from_bytes(data, "big") for _, data in sink.got]

    got = run(program, fault("corrupt", chance=0.25))
    flipped = [each for each in got if each]
    assert all(each.bit_count() == 1 for each in flipped)
    assert len(set(flipped)) > 100  # of 160
    assert_proportion(len(flipped), 2000, 0.25)


def test_a_black_hole_holds_and_then_lets_through() -> None:
    async def program(network: Network) -> list[float]:
        return [at for at, _ in (await sent(network, numbered(10), every=1)).got]

    assert run(program, fault("timeout", at=2.5, lasting=5)) == [0, 1, 2, *[7.5] * 5, 8, 9]


def test_a_black_hole_of_one_direction_lets_the_other_through() -> None:
    async def program(network: Network) -> list[float]:
        times: list[float] = []

        async def handler(pipe: Pipe) -> None:
            await pipe.read()
            times.append(now())
            await pipe.write(b"")

        network.listen("encoder", handler)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            await asyncio.sleep(3)
            await pipe.write(b"")
            await pipe.read()
            times.append(now())
        return times

    assert run(program, fault("timeout", direction="down", at=2, lasting=5)) == [3, 7]
    assert run(program, fault("timeout", direction="up", at=2, lasting=5)) == [7, 7]


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_a_connection_that_is_half_open_is_lost_at_both_ends_after_the_silence(direction: str) -> None:
    async def program(network: Network) -> tuple[float, float]:
        lost: list[float] = []

        async def handler(pipe: Pipe) -> None:
            with suppress(TransportError):
                await pipe.read()
            lost.append(now())

        network.listen("encoder", handler)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            with pytest.raises(TransportError, match="nothing came through"):
                await pipe.read()
            await asyncio.sleep(0)
            return now(), lost[0]

    assert run(program, fault("timeout", at=3, direction=direction), silence=7) == (10, 10)


def test_dialling_into_a_black_hole_takes_its_time() -> None:
    async def program(network: Network) -> float:
        network.listen("encoder", echo)
        await asyncio.sleep(100)
        with pytest.raises(TransportError, match="nothing answered"):
            async with network.net(NAME).dial("encoder", "encoder"):
                pass
        return now()

    assert run(program, fault("timeout")) == 100 + CONNECT_SECONDS


@pytest.mark.parametrize("kind", ["reset_peer", "down"])
def test_resets_and_refusals(kind: str) -> None:
    async def program(network: Network) -> None:
        sink = Sink()
        network.listen("encoder", sink)
        net = network.net(NAME)
        async with net.dial("encoder", "encoder") as pipe:
            await pipe.write(b"one")
            with pytest.raises(TransportError):
                await pipe.read()
            await asyncio.sleep(0)
            assert now() == 5 and isinstance(sink.error, TransportError)
            with pytest.raises(TransportError):
                await pipe.write(b"")
        await asyncio.sleep(1)
        with pytest.raises(TransportError, match="refused"):
            async with net.dial("encoder", "encoder"):
                pass
        await asyncio.sleep(2)
        async with net.dial("encoder", "encoder") as pipe:
            await pipe.write(b"two")
            await pipe.close()
            assert await pipe.read() is None
        assert [data for _, data in sink.got] == [b"one", b"two"]
        assert [each.broken for each in network.realised()] == [2, 2]  # the one refused, too

    run(program, fault(kind, at=5, lasting=2))


def test_limit_data_closes_after_so_many_bytes() -> None:
    async def program(network: Network) -> int:
        sink = Sink()
        network.listen("encoder", sink)
        with suppress(TransportError):
            async with network.net(NAME).dial("encoder", "encoder") as pipe:
                for _ in range(100):
                    await pipe.write(bytes(100))
                    await asyncio.sleep(1)
        assert isinstance(sink.error, TransportError)
        return len(sink.got)

    setup, each = LEGS[0] + LEGS[2], 100 + FRAMING
    assert run(program, fault("limit_data", direction="up", size=setup + 10 * each)) == 10
    assert run(program, fault("limit_data", direction="up", size=setup + 10 * each - 1)) == 9


def test_a_sliced_message_is_whole_when_its_last_slice_is_there() -> None:
    async def program(network: Network) -> list[float]:
        return [at for at, _ in (await sent(network, [bytes(1000 - OVERHEAD), b""], every=1, after=2)).got]

    start = 2.0
    got = run(program, fault("slicer", size=100, gap=0.01, at=1))
    assert got == pytest.approx([start + 9 * 0.01, start + 1])


def test_a_slow_close_delays_the_end_alone() -> None:
    async def program(network: Network) -> tuple[float, float]:
        sink = await sent(network, [b""])
        return sink.got[0][0], now()

    assert run(program, fault("slow_close", direction="up", delay=3)) == (0, 3)


def test_a_fault_comes_again() -> None:
    async def program(network: Network) -> list[float]:
        sink = await sent(network, numbered(40), every=1, after=0.5)
        return [at - 0.5 - number for number, (at, _) in enumerate(sink.got)]

    delays = run(program, fault("latency", delay=0.25, at=10, lasting=5, every=20))
    assert delays == pytest.approx([0.25 * (number >= 10 and (number - 10) % 20 < 5) for number in range(40)])


def test_a_fault_that_comes_and_goes_at_random_is_there_for_its_share_of_time() -> None:
    async def program(network: Network) -> list[bool]:
        sink = await sent(network, numbered(20_000), every=1)
        return [at % 1 > 0.1 for at, _ in sink.got]

    slow = run(program, fault("latency", delay=0.25, mean_up=3, mean_down=1))
    assert sum(slow) / len(slow) == pytest.approx(0.25, abs=0.03)


def test_a_ramp_grows_from_nothing() -> None:
    async def program(network: Network) -> list[float]:
        sink = await sent(network, numbered(20), every=1, after=5)
        return [at - 5 - number for number, (at, _) in enumerate(sink.got)]

    delays = run(program, fault("latency", delay=0.1, at=5, ramp=10))
    assert delays == pytest.approx([0.1 * min(1, number / 10) for number in range(20)])


# Parties


def test_computing_takes_its_cost_and_gives_the_result() -> None:
    async def program(network: Network) -> tuple[int, str, float]:
        net = network.net(NAME, {"max": 2.0, "join": 0.5}.__getitem__)
        return await net.compute(max, 1, 2), await net.compute(",".join, ["a", "b"]), now()

    assert run(program) == (2, "a,b", 2.5)


def test_a_skewed_clock() -> None:
    async def program(network: Network) -> list[float]:
        net, other = network.net(NAME), network.net("decoder 1")
        found = [net.local(10), other.local(10)]
        await asyncio.sleep(5)
        return [*found, net.local(10)]

    assert run(program, fault("skew", factor=2, at=0, lasting=5)) == [5, 10, 10]


def test_a_crash_ends_a_party_and_its_peers_lose_it() -> None:
    async def program(network: Network) -> list[str]:
        found: list[str] = []

        async def decoder() -> None:
            async with network.net(NAME).dial("encoder", "the encoder") as pipe:
                try:
                    await pipe.read()
                except TransportError as error:
                    found.append(f"{now()}: {error}")
            with pytest.raises(TransportError, match="nobody listens"):
                async with network.net(NAME).dial("encoder", "the encoder"):
                    pass

        async def forever() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                found.append(f"{now()}: cancelled")

        network.listen("encoder", echo)
        network.spawn("encoder", forever())
        work = network.spawn(NAME, decoder())
        await asyncio.sleep(3)
        network.crash("encoder")
        await work
        return found

    assert run(program) == ["3.0: cancelled", "3.0: the encoder: went away"]


def test_a_dialler_that_crashes_is_lost_to_the_handler() -> None:
    async def program(network: Network) -> None:
        sink = Sink()
        network.listen("encoder", sink)

        async def decoder() -> None:
            async with network.net(NAME).dial("encoder", "encoder") as pipe:
                await pipe.write(b"one")
                await pipe.read()

        network.spawn(NAME, decoder())
        await asyncio.sleep(3)
        assert sink.error is None
        network.crash(NAME)
        await asyncio.sleep(1)
        assert isinstance(sink.error, TransportError)
        async with network.net("decoder 1").dial("encoder", "encoder") as pipe:  # the encoder lives on
            await pipe.close()
            assert await pipe.read() is None

    run(program)


def test_a_paused_party_does_nothing_until_it_is_resumed() -> None:
    async def program(network: Network) -> dict[str, float]:
        found: dict[str, float] = {}
        network.listen("encoder", echo)
        net = network.net(NAME, {"max": 2.0}.__getitem__)

        async def computes() -> None:
            await net.compute(max, 1, 2)
            found["computed"] = now()

        async def reads(pipe: Dialled) -> None:
            await pipe.read()
            found["read"] = now()

        async with net.dial("encoder", "encoder") as pipe:
            await pipe.write(b"")
            network.spawn(NAME, computes())
            reading = network.spawn(NAME, reads(pipe))
            network.pause(NAME)
            await asyncio.sleep(5)
            assert not found
            network.resume(NAME)
            await reading
            network.pause(NAME)
            network.spawn(NAME, computes())
            writing = network.spawn(NAME, pipe.write(b""))
            await asyncio.sleep(4)
            assert not writing.done()
            network.resume(NAME)
            await writing
            found["written"] = now()
            return found

    assert run(program) == {"read": 5, "computed": 9, "written": 9}


def test_peers_of_a_party_that_stays_paused_lose_it_and_it_learns_of_it_when_it_goes_on() -> None:
    async def program(network: Network) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []

        async def reads(name: str, pipe: Pipe) -> None:
            with suppress(TransportError):
                await pipe.read()
            found.append((name, now()))

        async def handler(pipe: Pipe) -> None:
            await reads("encoder", pipe)

        network.listen("encoder", handler)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            reading = network.spawn(NAME, reads(NAME, pipe))
            network.pause(NAME)
            await asyncio.sleep(50)
            network.resume(NAME)
            await reading
        return found

    assert run(program, silence=10) == [("encoder", 10), (NAME, 50)]


def test_who_reads_during_its_pause_from_what_was_lost_before_learns_of_it() -> None:
    async def program(network: Network) -> float:
        async def reads(pipe: Pipe) -> None:
            with pytest.raises(TransportError):
                await pipe.read()

        network.listen("encoder", echo)
        async with network.net(NAME).dial("encoder", "encoder") as pipe:
            network.crash("encoder")
            await asyncio.sleep(1)
            network.pause(NAME)
            reading = network.spawn(NAME, reads(pipe))
            asyncio.get_running_loop().call_later(4, network.resume, NAME)
            await reading
            return now()

    assert run(program) == 5


def test_a_paused_party_answers_no_dial() -> None:
    async def program(network: Network) -> float:
        network.listen("encoder", echo)
        network.pause("encoder")
        asyncio.get_running_loop().call_later(4, network.resume, "encoder")
        async with network.net(NAME).dial("encoder", "encoder"):
            return now()

    assert run(program) == 4


def test_play_starts_kills_restarts_and_pauses() -> None:
    async def program(network: Network) -> tuple[list[tuple[str, float, str]], set[str]]:
        found: list[tuple[str, float, str]] = []
        names = ["encoder", "decoder 0", "decoder 1", "decoder 2"]
        over = {name: asyncio.Event() for name in names}

        async def work(name: str) -> None:
            found.append((name, now(), "start"))
            try:
                await network.net(name, lambda _: 20.0).compute(max, 1, 2)
            except asyncio.CancelledError:
                found.append((name, now(), "killed"))
                raise
            found.append((name, now(), "end"))
            over[name].set()

        network.play(work, names, over)
        await asyncio.sleep(100)
        return found, {name for name in names if over[name].is_set()}

    found, over = run(program, fault("late", "decoder 0", at=3), fault("kill", "decoder 1", at=10, lasting=5),
                      fault("kill", "decoder 2", at=12), fault("pause", "encoder", at=15, lasting=30),
                      fault("kill", "decoder 0", at=50, lasting=1))
    assert found == [("encoder", 0, "start"), ("decoder 1", 0, "start"), ("decoder 2", 0, "start"),
                     ("decoder 0", 3, "start"), ("decoder 1", 10, "killed"), ("decoder 2", 12, "killed"),
                     ("decoder 1", 15, "start"), ("decoder 0", 23, "end"), ("decoder 1", 35, "end"),
                     ("encoder", 45, "end")]
    assert over == {"encoder", "decoder 0", "decoder 1", "decoder 2"}


# The whole


def with_check(number: int) -> bytes:
    data = number.to_bytes(4, "big")
    return data + zlib.crc32(data).to_bytes(4, "big")


def checked(data: bytes | None) -> int:
    number = int.from_bytes((data or b"")[:4], "big")
    if data != with_check(number):
        raise FrameError("damaged")
    return number


async def broadcast(network: Network, parties: int, messages: int) -> int:
    """Each message to every party, each acknowledged; parties dial again when they are lost."""
    acknowledged = 0

    async def handler(pipe: Pipe) -> None:
        nonlocal acknowledged
        for number in range(checked(await pipe.read()), messages):
            await pipe.write(with_check(number))
        while (data := await pipe.read()) is not None:
            checked(data)
            acknowledged += 1

    async def party(name: str) -> None:
        net, next_one = network.net(name), 0
        while next_one < messages:
            with suppress(GlsnetError):
                async with net.dial("encoder", "encoder") as pipe:
                    await pipe.write(with_check(next_one))
                    while next_one < messages:
                        if checked(data := await pipe.read()) == next_one:
                            next_one += 1
                            await pipe.write(data or b"")
                    await pipe.close()
                    await pipe.read()
            await asyncio.sleep(net.random.uniform(0.1, 0.2))

    network.listen("encoder", handler)
    await asyncio.gather(*(network.spawn(f"decoder {k}", party(f"decoder {k}")) for k in range(parties)))
    return acknowledged


EVERYTHING = [
    fault("latency", "decoder *", delay=0.05, jitter=0.02, distribution="normal"),
    fault("bandwidth", "decoder *", rate=20_000),
    fault("loss", "decoder *", chance=0.02),
    fault("duplicate", "decoder *", chance=0.05),
    fault("corrupt", "decoder 3", chance=0.05),
    fault("reset_peer", "decoder 1", at=0.5, lasting=0.2, every=1.5),
    fault("timeout", "decoder 2", direction="down", mean_up=1, mean_down=0.5),
]


def traced(seed: int) -> tuple[str, list[bytes]]:
    lines: list[bytes] = []

    async def main() -> str:
        network = Network(seed, EVERYTHING, silence=2, record=lines.append)
        await broadcast(network, 8, 60)
        return network.digest

    return virtual.run(main(), limit=1000), lines


def test_a_broadcast_gets_through_everything() -> None:
    async def program(network: Network) -> tuple[int, int]:
        acknowledged = await broadcast(network, 8, 60)
        return acknowledged, max(each.broken for each in network.realised())

    acknowledged, broken = run(program, *EVERYTHING, silence=2)
    assert acknowledged >= 8 * 60 * 0.5
    assert broken >= 1


def test_the_same_seed_gives_the_same_trace_in_every_process() -> None:
    program = "import test_simulated; print(test_simulated.traced(7)[0])"
    digests = {subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True,
                              cwd=Path(__file__).parent, env={**os.environ, "PYTHONHASHSEED": seed}).stdout.strip()
               for seed in ("1", "2")}
    assert digests == {traced(7)[0]}
    assert traced(8)[0] not in digests


def test_the_trace_is_lines_of_json_and_its_digest_is_of_them() -> None:
    digest, lines = traced(7)
    assert hashlib.sha256(b"".join(lines)).hexdigest() == digest
    events = [json.loads(line) for line in lines]
    assert [each["t"] for each in events] == sorted(each["t"] for each in events)
    assert {"sent", "delivered", "corrupted", "duplicated", "onset", "lifted", "broken"} <= {
        each["event"] for each in events}


def test_a_thousand_parties_cost_no_more_for_each_message_than_ten() -> None:
    async def main(parties: int, messages: int) -> None:
        await broadcast(Network(1, [fault("latency", "decoder *", delay=0.05)]), parties,
                        messages)

    def seconds(parties: int, messages: int) -> float:
        since = os.times().user
        virtual.run(main(parties, messages))
        return os.times().user - since

    few = min(seconds(10, 1000) for _ in range(2))
    many = min(seconds(1000, 10) for _ in range(2))
    assert many < 6 * few + 1


def test_nothing_is_kept_of_connections_that_are_over() -> None:
    async def program(network: Network) -> None:
        network.listen("encoder", echo)
        chance = random.Random(1)
        for _ in range(200):
            async with network.net(NAME).dial("encoder", "encoder") as pipe:
                await pipe.write(b"")
                if chance.random() < 0.5:
                    await pipe.close()
                    await pipe.read()
        await asyncio.sleep(1)
        assert not network._link(NAME).connections
        assert not network._party(NAME).ends and not network._party("encoder").ends
        assert not network._party("encoder").tasks

    run(program)




async def compression(network: Network, frames: int, decoders: int = 3) -> tuple[list[Outcomes], list[list[Outcomes]]]:
    """What an encoder and its decoders draw, by the loops that are deployed."""
    rng, seed = np.random.default_rng(3), bytes(32)
    a = rng.standard_normal((frames, 64))
    t = a[..., None] + 0.5**0.5 * rng.standard_normal((frames, 64, decoders))
    of = Code(Gaussian(0.0, 1.0), "gls", decoders, 8, sigma2=0.01)
    side = decoding(partial(noisy_observation, noise_variance=0.5))
    y: list[Outcomes] = []
    x: list[list[Outcomes]] = [[] for _ in range(decoders)]

    async def samples() -> AsyncIterator[Samples]:
        for each in a:
            await asyncio.sleep(0.1)
            yield each

    async def keep(into: list[Outcomes], outcomes: Outcomes) -> None:
        into.append(outcomes)

    async def decoder(k: int) -> None:
        async def given(first_round: int, count: int) -> Samples:
            return np.ascontiguousarray(t[first_round // 64, :count, k])

        session = DecoderSession("s", side, seed, terms_of(of, seed), k)
        await parties.run_decoder(network.net(f"decoder {k}", lambda _: 0.01), session, "encoder", parties.nothing,
                                  given, partial(keep, x[k]), [], patience=60)

    async def encoder() -> None:
        broadcasts = {"s": Broadcast(EncoderSession("s", of, seed))}
        network.listen("encoder", partial(serve_join, broadcasts=broadcasts))
        await parties.run_encoder(network.net("encoder", lambda _: 0.01), broadcasts["s"], samples(), partial(keep, y),
                                  [], decoders, patience=60)
        del broadcasts["s"]

    await asyncio.gather(network.spawn("encoder", encoder()),
                         *(network.spawn(f"decoder {k}", decoder(k)) for k in range(decoders)))
    return y, x


def test_the_parties_own_loops_lose_nothing_on_bad_links() -> None:
    def nodes(result: tuple[list[Outcomes], list[list[Outcomes]]]) -> list[list[int]]:
        return [[int(node) for each in one for node in each.node] for one in (result[0], *result[1])]

    async def program(network: Network) -> tuple[list[list[int]], str, int]:
        found = nodes(await compression(network, 50))
        return found, network.digest, sum(each.broken for each in network.realised())

    bad = [each for each in EVERYTHING if each.kind != "duplicate"]  # which a stream cannot do
    well, *_ = run(program)
    assert [len(each) for each in well] == [50 * 64] * 4
    badly, digest, broken = run(program, *bad, silence=2)
    assert broken > 4
    assert badly == well
    assert run(program, *bad, silence=2)[1] == digest
