"""Races against dense oracles that make every arrival, and against the distributions they must draw from."""

import math

import numpy as np
import oracle
import pytest
from scipy.stats import chisquare, norm

from glsnet.errors import CallerError
from glsnet.race import LEVELS, MAX_DEPTH, NormalWinners, finite_race, minhash_race, normal_race
from glsnet.randomness import session_key

KEY = session_key(bytes(32), "test-race")
P_LEAST = 1e-6  # a right answer fails a chi-square once in a million runs


def over(streams: range, centres: np.ndarray, precision: float, blocks: int, first: int = 0) -> NormalWinners:
    return normal_race(KEY, 0, streams, np.full(centres.size, first), blocks, centres, precision)


@pytest.mark.parametrize("size", [1, 10, 256, 300])
@pytest.mark.parametrize("streams", [[0], [0, 1, 2], [65535]])
def test_the_finite_race_equals_the_dense_oracle(size: int, streams: list[int]) -> None:
    rng = np.random.default_rng(size)
    weights = rng.random(size) ** 4 * (rng.random(size) < 0.8)
    weights[size // 2] = 1.0
    won = finite_race(KEY, 5, 6, streams, weights)
    for i in range(6):
        expected = oracle.dense_finite(int(KEY), 5 + i, streams, weights.tolist(), 1200)
        assert (won.item[i], won.stream[i]) == expected


@pytest.mark.parametrize(("size", "power"), [(1, 1), (2, 1), (10, 4), (256, 1), (700, 4), (700, 30)])
def test_weighted_minhash_equals_the_dense_oracle(size: int, power: int) -> None:
    rng = np.random.default_rng(size)
    bars = rng.random(size) ** power * (rng.random(size) < 0.8)
    bars[size // 2] = 1.0
    bars /= bars.sum()
    won = minhash_race(KEY, 5, 12, bars)
    assert won.tolist() == [oracle.dense_minhash(int(KEY), 5 + i, bars.tolist(), LEVELS, 1500) for i in range(12)]


@pytest.mark.parametrize(("centre", "precision"), [(0.0, 0.0), (0.3, 2.0), (-1.7, 60.0), (4.0, 15.0)])
def test_the_normal_race_equals_the_dense_oracle(centre: float, precision: float) -> None:
    rounds, depth = 5, 10
    won = normal_race(KEY, 9, [0, 3], np.full(rounds, 2), 2, np.full(rounds, centre), precision)
    for i in range(rounds):
        score, *expected = oracle.dense_normal(int(KEY), 9 + i, [0, 3], [2, 3], centre, precision, depth)
        if won.node[i] < 2 ** (depth + 1):
            assert [won.stream[i], won.block[i], won.node[i]] == expected[:3]
            assert won.mark[i] == pytest.approx(expected[3], abs=1e-12)
        else:  # deeper than the oracle looked: then it must be better than all that the oracle saw
            assert math.log(time_of(won, i, 9 + i)) + precision * (won.mark[i] - centre) ** 2 / 2 < score
    assert (won.node < 2 ** (depth + 1)).any()


def time_of(won: NormalWinners, i: int, round_: int) -> float:
    """The time of the winner's arrival, from the root down."""
    t = 0.0
    for up in range(int(won.node[i]).bit_length() - 1, -1, -1):
        node = int(won.node[i]) >> up
        word01, _ = oracle.philox(int(KEY), node, int(won.block[i]), int(won.stream[i]), round_)
        t -= math.log(oracle.uniform(word01)) * 2 ** (node.bit_length() - 1)
    return t


@pytest.mark.parametrize("streams", [1, 4])
def test_the_finite_race_draws_from_its_weights(streams: int) -> None:
    weights = np.array([5.0, 0.0, 1.0, 3.0, 0.5, 0.5] + [0.1] * 400)
    won = finite_race(KEY, 0, 100_000, range(streams), weights)
    counts = np.bincount(won.item, minlength=weights.size)
    assert counts[1] == 0
    used = weights > 0
    assert chisquare(counts[used], 100_000 * weights[used] / weights.sum()).pvalue > P_LEAST
    assert chisquare(np.bincount(won.stream, minlength=streams)).pvalue > P_LEAST or streams == 1


@pytest.mark.parametrize(("centre", "precision"), [(0.0, 0.0), (0.8, 1.0), (2.5, 500.0), (-6.0, 20.0)])
def test_the_normal_race_draws_from_its_density(centre: float, precision: float) -> None:
    won = over(range(3), np.full(60_000, centre), precision, blocks=5)
    # A parabola times the standard normal law is a normal law again.
    posterior = norm(centre * precision / (1 + precision), 1 / math.sqrt(1 + precision))
    quantiles = posterior.cdf(won.mark)
    assert chisquare(np.bincount((quantiles * 50).astype(int), minlength=50)).pvalue > P_LEAST
    assert chisquare(np.bincount(won.block, minlength=5)).pvalue > P_LEAST
    assert chisquare(np.bincount(won.stream, minlength=3)).pvalue > P_LEAST


def test_a_round_does_not_depend_on_the_rounds_beside_it() -> None:
    centres = np.linspace(-2, 2, 50)
    whole = over(range(2), centres, 30.0, blocks=4)
    parts = normal_race(KEY, 20, range(2), np.zeros(30, np.int64), 4, centres[20:], 30.0)
    for all_rounds, later in zip(whole, parts, strict=True):
        assert (all_rounds[20:] == later).all()
    weights = np.arange(1.0, 400.0)
    items = finite_race(KEY, 0, 50, [0, 1], weights).item
    assert (finite_race(KEY, 20, 30, [0, 1], weights).item == items[20:]).all()


def test_the_union_of_streams_takes_the_best_of_its_streams() -> None:
    """Y over all streams is the X of one of them for equal weights: the list then always matches."""
    weights = np.random.default_rng(3).random(1000)
    y = finite_race(KEY, 0, 200, range(4), weights)
    x = np.array([finite_race(KEY, 0, 200, [k], weights).item for k in range(4)])
    assert (x[y.stream, np.arange(200)] == y.item).all()


@pytest.mark.parametrize(("centre", "precision"), [(0.0, 1e14), (40.0, 1e3), (-40.0, 1e9), (1e6, 1.0), (0.0, 1e-9)])
def test_extreme_densities_end(centre: float, precision: float) -> None:
    won = over(range(2), np.full(20, centre), precision, blocks=3)
    assert np.isfinite(won.mark).all()
    assert (won.node < 2 ** (MAX_DEPTH + 1)).all()
    if abs(centre) < 1:
        assert np.abs(won.mark - centre).max() < 8 / math.sqrt(1 + precision)


@pytest.mark.parametrize("weights", [[1e-320, 0.0, 1e-310], [1e308, 1e-308, 0.0], [5e-324]])
def test_extreme_weights_end(weights: list[float]) -> None:
    won = finite_race(KEY, 0, 50, range(3), weights)
    assert set(won.item) == {int(np.argmax(weights))}


@pytest.mark.parametrize(("weights", "text"), [
    ([], r"shape \[N\] with N from 1"), ([[1.0]], "shape"), ([0.0, 0.0], "one of them positive, got 0.0"),
    ([1.0, -2.0], r"weights\[1\].*-2.0"), ([1.0, math.nan], r"weights\[1\].*nan"), ([math.inf], r"weights\[0\].*inf"),
])
def test_weights_that_are_none_are_refused(weights: list[float], text: str) -> None:
    with pytest.raises(CallerError, match=text):
        finite_race(KEY, 0, 1, [0], weights)


@pytest.mark.parametrize(("streams", "first_round", "text"), [
    ([], 0, "streams"), ([65536], 0, "streams"), ([-1], 0, "streams"), ([0], 2**32 - 1, "rounds"), ([0], -1, "rounds"),
])
def test_streams_and_rounds_out_of_range_are_refused(streams: list[int], first_round: int, text: str) -> None:
    with pytest.raises(CallerError, match=text):
        finite_race(KEY, first_round, 2, streams, [1.0])


@pytest.mark.parametrize(("first_block", "blocks", "centres", "precision", "text"), [
    ([0, 0], 65537, [0.0, 0.0], 1.0, "blocks"), ([0, -1], 1, [0.0, 0.0], 1.0, "blocks"),
    ([0, 0], 0, [0.0, 0.0], 1.0, "blocks"), ([0, 0], 1, [0.0, math.nan], 1.0, r"centres\[1\].*nan"),
    ([0, 0], 1, [0.0, 1e200], 1.0, r"centres\[1\].*1e\+200"), ([0, 0], 1, [0.0, 0.0], -1.0, "precision"),
    ([0, 0], 1, [0.0, 0.0], math.inf, "precision"), ([0], 1, [0.0, 0.0], 1.0, "shapes"),
])
def test_densities_out_of_range_are_refused(first_block: list[int], blocks: int, centres: list[float],
                                            precision: float, text: str) -> None:
    with pytest.raises(CallerError, match=text):
        normal_race(KEY, 0, [0], np.array(first_block), blocks, np.array(centres), precision)
