"""Statistical assertions: a right answer fails one at z = 5 about once in two million runs."""

import math
import random
from itertools import takewhile

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chisquare

from glsnet.faults import Fault, spans
from glsnet.race import FloatArray, IntArray


def intervals(fault: Fault, horizon: float, rng: random.Random) -> list[tuple[float, float]]:
    """When a fault is in force: all that begin before `horizon`."""
    return [*takewhile(lambda span: span[0] < horizon, spans(fault, rng))]


def assert_proportion(successes: int, n: int, p: float, z: float = 5.0) -> None:
    """Assert that `successes` out of `n` independent trials agree with the success probability `p`."""
    assert abs(successes / n - p) <= z * _deviation(p, n) + 1e-12, (
        f"{successes} of {n} is {successes / n:.6f}, expected {p:.6f}"
    )


def assert_at_least(successes: int, n: int, bound: float, z: float = 5.0) -> None:
    """Assert that `successes` out of `n` independent trials do not refute a success probability of at least `bound`."""
    assert successes / n >= bound - z * _deviation(bound, n) - 1e-12, (
        f"{successes} of {n} is {successes / n:.6f}, expected at least {bound:.6f}"
    )


def assert_at_most(successes: int, n: int, bound: float, z: float = 5.0) -> None:
    """Assert that `successes` out of `n` independent trials do not refute a success probability of at most `bound`."""
    assert_at_least(n - successes, n, 1 - bound, z)


def assert_mean(values: ArrayLike, expected: float, z: float = 5.0) -> None:
    """Assert that independent `values` agree with the expectation `expected`, by their own deviation."""
    array = np.asarray(values, dtype=np.float64)
    mean, error = float(array.mean()), float(array.std(ddof=1)) / math.sqrt(array.size)
    assert abs(mean - expected) <= z * error + 1e-12, f"mean {mean:.6g} +- {error:.2g}, expected {expected:.6g}"


def assert_mean_above(values: ArrayLike, bound: float, z: float = 5.0) -> None:
    """Assert that independent `values` show an expectation above `bound`, by their own deviation."""
    array = np.asarray(values, dtype=np.float64)
    mean, error = float(array.mean()), float(array.std(ddof=1)) / math.sqrt(array.size)
    assert mean - z * error > bound, f"mean {mean:.6g} +- {error:.2g}, expected above {bound:.6g}"


def _deviation(p: float, n: int) -> float:
    return math.sqrt(max(p * (1 - p), 0.0) / n)


def pvalue(counts: IntArray, law: FloatArray) -> float:
    """Chi-square of counts against a law, rare cells in one class; 0 if one that cannot be has come."""
    if counts[law == 0].any():
        return 0.0
    n = int(counts.sum())
    common = law * n >= 5
    observed, expected = [*counts[common], counts[~common].sum()], [*law[common], law[~common].sum()]
    keep = slice(None) if expected[-1] * n >= 1 else slice(-1)
    share = np.array(expected[keep])
    return float(chisquare(observed[keep], share / share.sum() * sum(observed[keep])).pvalue)
