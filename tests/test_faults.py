"""What a scenario may say goes wrong, when it does, and how late a latency makes things."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import assert_mean, assert_proportion, intervals

from glsnet.errors import CallerError
from glsnet.faults import Fault, concerns, delay, faults_of, read_trace, share

DRAWS = 40_000
LINK: dict[str, Any] = {"on": "decoder 0"}
SLOW: dict[str, Any] = {**LINK, "kind": "latency", "delay": 0.04}
LOSSY: dict[str, Any] = {**LINK, "kind": "loss", "chance": 0.1}


def fault(**table: Any) -> Fault:
    return faults_of([{**LINK, **table}])[0]


@pytest.mark.parametrize(("table", "key", "wanted"), [
    ({**LINK, "kind": "latency"}, "", "delay with kind latency"),
    ({**LINK, "kind": "slicer", "size": 10}, "", "gap with kind slicer"),
    ({**SLOW, "rate": 1000}, "", "no rate with kind latency"),
    ({**LINK, "kind": "timeout", "ramp": 1}, "", "no ramp with kind timeout"),
    ({**SLOW, "jitter": 0.01}, "", "jitter and its distribution"),
    ({**SLOW, "distribution": "pareto"}, "", "jitter and its distribution"),
    ({**SLOW, "distribution": "trace"}, "", "trace and distribution"),
    ({**LOSSY, "every": 1}, "", "with every a shorter for"),
    ({**LOSSY, "every": 1, "for": 1}, "", "with every a shorter for"),
    ({**LOSSY, "mean_up": 1}, "", "mean_up and mean_down together"),
    ({**LOSSY, "mean_up": 1, "mean_down": 1, "at": 1}, "", "no at, for or every"),
    ({**LOSSY, "on": "encoder"}, "", "the name of the party that dials"),
    ({**LINK, "kind": "late", "at": 1, "for": 1}, "", "just at with kind late"),
    ({**LOSSY, "chance": 1.5}, "chance", "less than or equal to 1"),
    ({**SLOW, "delay": -1}, "delay", "greater than or equal to 0"),
    ({**SLOW, "delay": math.nan}, "delay", "finite number"),
    ({**LINK, "kind": "bandwidth", "rate": 0}, "rate", "greater than 0"),
    ({**LOSSY, "on": "decoder"}, "on", "pattern"),
    ({**LINK, "kind": "fire"}, "kind", "'latency'"),
    ({**LOSSY, "direction": "left"}, "direction", "'down'"),
    ({**LOSSY, "chances": 1}, "chances", "not permitted"),
])
def test_what_cannot_be_is_refused_by_its_key(table: dict[str, Any], key: str, wanted: str) -> None:
    with pytest.raises(CallerError, match=wanted) as caught:
        faults_of([LOSSY, table])
    assert str(caught.value).startswith(f"faults[1].{key}: " if key else "faults[1]: ")
    assert str(table) in str(caught.value)


def test_a_fault_is_on_one_party_or_on_all_of_a_kind() -> None:
    one, all_ = fault(on="decoder 1", kind="down"), fault(on="decoder *", kind="down")
    assert [concerns(one, party) for party in ("decoder 1", "decoder 11", "drafter 1")] == [True, False, False]
    assert [concerns(all_, party) for party in ("decoder 1", "decoder 11", "drafter 1")] == [True, True, False]


def test_when_a_fault_is_in_force() -> None:
    chance = random.Random(0)
    assert intervals(fault(kind="down"), 10, chance) == [(0.0, math.inf)]
    assert intervals(fault(kind="down", at=2, **{"for": 3}), 10, chance) == [(2.0, 5.0)]
    assert intervals(fault(kind="down", at=10), 10, chance) == []
    assert intervals(fault(kind="down", at=1, every=4, **{"for": 3}), 10, chance) == [(1, 4), (5, 8), (9, 12)]
    assert fault(kind="down", lasting=3) == fault(kind="down", **{"for": 3})


def test_random_times_have_their_means_and_a_longer_horizon_only_adds() -> None:
    flapping = fault(kind="down", mean_up=3, mean_down=1)
    spans = np.array(intervals(flapping, 20_000, random.Random(1)))
    assert_mean(spans[:, 1] - spans[:, 0], 1)
    assert_mean(spans[1:, 0] - spans[:-1, 1], 3)
    again = intervals(flapping, 40_000, random.Random(1))
    assert again[: len(spans)] == [tuple(span) for span in spans.tolist()]
    assert all(start < 40_000 for start, _ in again)
    assert intervals(flapping, 100, random.Random(2)) != intervals(flapping, 100, random.Random(1))


def drawn(since_onset: float = 0.0, **table: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    slow, chance = fault(kind="latency", **table), random.Random(2)
    return np.array([delay(slow, since_onset, chance) for _ in range(DRAWS)])


def test_a_constant_delay() -> None:
    assert set(drawn(delay=0.04)) == {0.04}


def test_uniform_delays() -> None:
    draws = drawn(delay=0.04, jitter=0.01, distribution="uniform")
    assert 0.03 <= draws.min() and draws.max() <= 0.05
    assert_mean(draws, 0.04)
    assert_mean((draws - 0.04) ** 2, 0.01**2 / 3)


def test_normal_delays() -> None:
    draws = drawn(delay=0.04, jitter=0.005, distribution="normal")
    assert_mean(draws, 0.04)
    assert_mean((draws - 0.04) ** 2, 0.005**2)
    assert_proportion(int((draws < 0.045).sum()), DRAWS, 0.841345)


def test_normal_delays_below_0_are_0() -> None:
    draws = drawn(delay=0.01, jitter=0.01, distribution="normal")
    assert draws.min() == 0
    assert_proportion(int((draws == 0).sum()), DRAWS, 0.158655)


def test_pareto_delays() -> None:
    draws = drawn(delay=0.04, jitter=0.01, distribution="pareto")
    assert draws.min() >= 0.04
    assert_mean(draws, 0.05)
    for beyond in (0.01, 0.05, 0.2):  # P(X - 1 > x / (2 jitter)) of shape 3
        assert_proportion(int((draws > 0.04 + beyond).sum()), DRAWS, (1 + beyond / 0.02) ** -3)


def test_delays_of_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "delays"
    path.write_text("1\n2.5\n2.5\n40\n")
    draws = drawn(delay=0.01, distribution="trace", trace=str(path))
    for milliseconds, chance in ((1, 0.25), (2.5, 0.5), (40, 0.25)):
        assert_proportion(int(np.isclose(draws, 0.01 + milliseconds / 1000).sum()), DRAWS, chance)


@pytest.mark.parametrize("text", ["", "1\nsoon\n", "-1\n", "inf\n", None])
def test_a_trace_that_is_none(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "delays"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CallerError, match="trace: expected"):
        read_trace(str(path))


def test_a_ramp_grows_from_nothing_to_all() -> None:
    slow = fault(kind="latency", delay=0.04, ramp=10)
    assert [round(delay(slow, since, random.Random(0)), 9) for since in (0.0, 5.0, 10.0, 20.0)] == [0, 0.02, 0.04, 0.04]
    assert share(fault(kind="corrupt", chance=0.5), 0.0) == 1
