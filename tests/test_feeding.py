"""The lab's end of a run, against real services: who is waited for, who is missing, and calls that are made again."""

import asyncio
import itertools
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from processes import Service, at_once, cutting, gaussian_plan, service

from glsnet.compression import Outcomes, terms_of
from glsnet.errors import TermsError
from glsnet.lab.feeding import WINDOW, Conduct, Feeding, Frame, absent
from glsnet.lab.plan import Gap, Plan
from glsnet.lab.processes import Process
from glsnet.lab.runner import play
from glsnet.transport.control import DecoderOrder, Session, conducting

Taken = tuple[Frame, Outcomes, list[Outcomes]]
NUMBERS = itertools.count()
PLAN = gaussian_plan(samples=2030, decoders=2, frame=50, patience=30.0)  # the last frame is not full


@pytest.fixture(scope="module")
def services() -> Iterator[list[Service]]:
    """An encoder and two decoders."""
    with ExitStack() as stack:
        yield at_once(*(partial(stack.enter_context, service(f"{name}_service"))
                        for name in ("encoder", "decoder", "decoder")))


def feeding_of(plan: Plan, addresses: list[str], links: str | None = None, late: frozenset[int] = frozenset()
               ) -> Feeding:
    """Of a run of `plan` by an encoder and decoders at these addresses; decoders dial the encoder at `links`."""
    encoder, *decoders = addresses
    session = Session(f"session {next(NUMBERS)}", plan.seed)
    make = partial(conducting, session=session, terms=terms_of(plan.code, plan.seed))

    def conduct(address: str, peer: str, order: DecoderOrder | None) -> Conduct:
        return lambda resume: make(address, peer, decoder=order, resume=resume)

    orders = [DecoderOrder(links or encoder, k, side) for k, side in enumerate(plan.sides)]
    return Feeding(plan.frames, [conduct(encoder, "encoder", None)] + [
        conduct(address, f"decoder {order.stream}", order) for address, order in zip(decoders, orders, strict=True)
    ], plan.patience, late)


async def fed(feeding: Feeding, at: Callable[[int, Taken], Awaitable[None]]) -> list[Taken]:
    """All that is taken; `at` is called after each frame."""
    taken: list[Taken] = []
    async for each in feeding.taken():
        taken.append(each)
        await at(len(taken), each)
    return taken


async def undisturbed(_: int, __: Taken) -> None:
    """Nothing happens."""


def missing(x: Outcomes) -> bool:
    assert x.reconstruction is not None
    return bool(np.isnan(x.reconstruction).all())


async def until(condition: Callable[[], bool]) -> None:
    """Let all parties go on meanwhile."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def expected() -> list[Taken]:
    """What a run in this process gives."""
    taken: list[Taken] = []
    asyncio.run(play(replace(PLAN, transport="direct"), None, lambda drawn: taken.append(
        (Frame(drawn.y.first_round, drawn.a, drawn.t), drawn.y, drawn.x))))
    return taken


def assert_same(taken: list[Taken], expected: list[Taken], gaps: list[Gap]) -> None:
    """Frame by frame what an undisturbed run gives, and nothing in the gaps."""
    absent = {(gap.decoder, at) for gap in gaps for at in range(gap.first_round, gap.first_round + gap.rounds)}
    assert [frame.first_round for frame, _, _ in taken] == [frame.first_round for frame, _, _ in expected]
    for (frame, y, x), (right, y_right, x_right) in zip(taken, expected, strict=True):
        assert np.array_equal(frame.a, right.a) and np.array_equal(frame.t, right.t)
        assert y.matches(y_right).all()
        for k in range(len(x)):
            assert missing(x[k]) == ((k, frame.first_round) in absent)
            if not missing(x[k]):
                assert x[k].matches(x_right[k]).all()
                assert np.array_equal(x[k].reconstruction, x_right[k].reconstruction)  # type: ignore[arg-type]


def test_every_frame_is_taken_once_and_in_order(services: list[Service], expected: list[Taken]) -> None:
    async def run() -> None:
        feeding = feeding_of(PLAN, [each.address for each in services])
        async with feeding.running():
            taken = await fed(feeding, undisturbed)
            encoder, decoders = await feeding.closings()
        assert_same(taken, expected, [])
        assert feeding.gaps == [] and encoder is not None
        assert [feed.calls for feed in (feeding.encoder, *feeding.decoders)] == [1, 1, 1]
        assert [each is not None and each.digest == encoder.digest for each in decoders] == [True, True]
        assert encoder.rounds == 2030
    asyncio.run(run())


@pytest.mark.parametrize("journals", [False, True])
def test_calls_that_are_lost_are_made_again_and_nothing_is_lost_or_taken_twice(
        services: list[Service], expected: list[Taken], tmp_path: Path, journals: bool) -> None:
    """The lab's calls alone. Without a journal a party forgets the session, and at its very end what it did last."""
    frames = len(expected)

    async def run(parties: list[Service]) -> None:
        with ExitStack() as stack:
            proxies = [stack.enter_context(cutting(each.address)) for each in parties]

            async def cut(n: int, _: Taken) -> None:
                if n % 5 == 0 and (journals or n < frames - 2 * WINDOW):
                    proxies[n // 5 % 3].cut()
                elif journals and n > frames - WINDOW:
                    proxies[n % 3].cut()

            plan = replace(PLAN, patience=5.0) if journals else PLAN
            feeding = feeding_of(plan, [each.address for each in proxies], parties[0].address)
            async with feeding.running():
                taken = await fed(feeding, cut)
                closings = await feeding.closings()
        assert feeding.gaps == [], [(feed.calls, feed.next_round, feed.trouble) for feed in feeding.decoders]
        assert_same(taken, expected, [])
        assert all(feed.calls >= 2 for feed in (feeding.encoder, *feeding.decoders))
        if not journals:
            assert [each is not None and each.rounds for each in (closings[0], *closings[1])] == [2030] * 3

    with ExitStack() as stack:
        asyncio.run(run(services if not journals else at_once(*(
            partial(stack.enter_context, service(f"{module}_service", "--journal", str(tmp_path / name)))
            for module, name in (("encoder", "encoder"), ("decoder", "one"), ("decoder", "two"))))))


def test_a_decoder_that_stands_still_has_a_gap_and_is_back_when_it_has_caught_up(
        services: list[Service], expected: list[Taken]) -> None:
    async def run() -> None:
        stopped = services[2].process
        feeding = feeding_of(replace(PLAN, patience=2.0), [each.address for each in services])
        feed = feeding.decoders[1]

        async def stop(n: int, taken: Taken) -> None:
            if n == 5:
                stopped.send_signal(signal.SIGSTOP)
            elif n == 25:
                assert feed.missing
                stopped.send_signal(signal.SIGCONT)
                feeding.patience = 30.0  # from here on nobody is to be missed
                await until(lambda: feed.next_round > feeding.next_round)
                assert not feed.missing

        async with feeding.running():
            taken = await fed(feeding, stop)
            _, decoders = await feeding.closings()
        (gap,) = feeding.gaps
        assert gap.decoder == 1 and 5 * 50 <= gap.first_round and gap.first_round + gap.rounds == 25 * 50
        assert_same(taken, expected, feeding.gaps)
        assert None not in decoders
    asyncio.run(run())


def test_nobody_waits_for_a_decoder_that_starts_late_and_it_gets_all_rounds(
        services: list[Service], expected: list[Taken], tmp_path: Path) -> None:
    """It decodes those before it came, too: the encoder still has them, and the lab makes its t again."""
    async def run(late: Process) -> None:
        addresses = [services[0].address, services[1].address, late.reserve()]
        feeding = feeding_of(PLAN, addresses, late=frozenset({1}))
        feed = feeding.decoders[1]
        loop = asyncio.get_running_loop()
        since = loop.time()

        async def start(n: int, _: Taken) -> None:
            if n == 20:
                assert feed.missing and not feed.opened
                assert loop.time() - since < PLAN.patience  # for which the lab would wait for others
                await late.start()
                await until(lambda: feed.next_round > feeding.next_round)
                assert not feed.missing

        try:
            async with feeding.running():
                taken = await fed(feeding, start)
                _, decoders = await feeding.closings()
        finally:
            await late.stop()
        assert feeding.gaps == [Gap(1, 0, 20 * 50)]
        assert_same(taken, expected, feeding.gaps)
        assert [each is not None and each.rounds for each in decoders] == [2030, 2030]
        assert decoders[0] is not None and decoders[1] is not None and decoders[1].digest == decoders[0].digest

    asyncio.run(run(Process("late", "decoder_service", [], tmp_path)))


def test_a_run_ends_without_a_decoder_that_never_starts(
        services: list[Service], expected: list[Taken], tmp_path: Path) -> None:
    async def run(never: Process) -> None:
        feeding = feeding_of(replace(PLAN, patience=2.0), [services[0].address, services[1].address, never.reserve()],
                             late=frozenset({1}))
        async with feeding.running():
            taken = await fed(feeding, undisturbed)
            encoder, decoders = await feeding.closings()
        assert feeding.gaps == [Gap(1, 0, 2030)]
        assert_same(taken, expected, feeding.gaps)
        assert encoder is not None and encoder.rounds == 2030 and decoders[0] is not None and decoders[1] is None
    asyncio.run(run(Process("never", "decoder_service", [], tmp_path)))


def test_what_no_retry_can_mend_ends_the_run(services: list[Service]) -> None:
    async def run() -> None:
        feeding = feeding_of(PLAN, [services[0].address, services[1].address, services[1].address])
        feeding.decoders[1].conduct = feeding.decoders[0].conduct  # for stream 0, which is taken
        async with feeding.running():
            raise AssertionError("it cannot be opened")

    with pytest.raises(TermsError, match="stream: expected one that is free, got 0, on which a decoder has joined"):
        asyncio.run(run())


def test_what_stands_for_a_missing_decoder_matches_nothing() -> None:
    for like in (np.zeros(3), np.zeros((3, 32), np.float32)):
        y = Outcomes(7, np.array([1, 2, 0]), np.array([0, 0, 1]), np.array([4, 5, 6]))
        x = absent(y, like)
        assert x.first_round == 7 and not x.matches(y).any() and missing(x)
        assert x.reconstruction is not None and (x.reconstruction.shape, x.reconstruction.dtype) == (
            like.shape, like.dtype)
