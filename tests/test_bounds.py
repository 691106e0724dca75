import math

import numpy as np
import pytest
from helpers import assert_at_least, assert_mean, assert_proportion
from numpy.typing import NDArray

from glsnet.bounds import (
    coding_bound,
    conditional_list_matching,
    list_converse,
    list_matching_lemma,
    total_variation,
    wyner_ziv,
)
from glsnet.errors import CallerError

Floats = NDArray[np.float64]


def random_laws(seed: int, n: int) -> tuple[Floats, Floats]:
    """Two laws on n items, each with some zeros."""
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.full(n, 0.5), size=2) * (rng.random((2, n)) < 0.8)
    p[0] += 0.1
    q[0] += 0.1
    return p / p.sum(), q / q.sum()


def lemma_as_written(p: Floats, q: Floats, k: int) -> float:
    both = [j for j in range(len(p)) if p[j] > 0 and q[j] > 0]
    terms = (k / sum(max(b / q[j], a / p[j]) + (k - 1) * b / q[j] for a, b in zip(p, q, strict=True)) for j in both)
    return float(sum(terms))


def races(p: Floats, q: Floats, k: int, n: int) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The encoder's item and whether it is in the list, in n independent rounds."""
    s = np.random.default_rng(7).exponential(size=(n, k, len(p)))
    with np.errstate(divide="ignore"):
        y = (s.min(axis=1) / q).argmin(axis=1)
        x = (s / p).argmin(axis=2)
    return y, (x == y[:, None]).any(axis=1)


def test_lemma_by_hand() -> None:
    third = [1 / 3, 1 / 3, 1 / 3]
    assert list_matching_lemma([0.5, 0.5, 0], third, 1) == pytest.approx(2 / 3)
    # K = 2: two items with 2 / (3 + 3) each.
    assert list_matching_lemma([0.5, 0.5, 0], third, 2) == pytest.approx(2 / 3)
    # The other way round, K = 2: two items with 2 / (2 + 1 + 2).
    assert list_matching_lemma(third, [0.5, 0.5, 0], 2) == pytest.approx(4 / 5)


@pytest.mark.parametrize("k", [1, 2, 20])
def test_lemma_where_it_is_exact(k: int) -> None:
    p, _ = random_laws(0, 30)
    assert list_matching_lemma(p, p, k) == pytest.approx(1)
    assert list_matching_lemma([0, 1, 0], [0.2, 0.3, 0.5], k) == pytest.approx(0.3)
    assert list_matching_lemma([0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], k) == 0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("k", [1, 3])
def test_lemma_is_the_formula(seed: int, k: int) -> None:
    p, q = random_laws(seed, 40)
    assert list_matching_lemma(p, q, k) == pytest.approx(lemma_as_written(p, q, k), rel=1e-12)


def test_lemma_survives_tiny_probabilities() -> None:
    with np.errstate(all="raise"):
        assert list_matching_lemma([1.0, 5e-324], [5e-324, 1.0], 2) == pytest.approx(0, abs=1e-300)


def test_lemma_against_races() -> None:
    n = 50_000
    p, q = random_laws(3, 8)
    _, single = races(p, q, 1, n)
    assert_proportion(int(single.sum()), n, list_matching_lemma(p, q, 1))
    for k in (2, 5):
        y, matched = races(p, q, k, n)
        assert_at_least(int(matched.sum()), n, list_matching_lemma(p, q, k))
        for j, bound in enumerate(conditional_list_matching(p, q, k)):
            if q[j] > 0.01:
                assert_at_least(int(matched[y == j].sum()), int((y == j).sum()), float(bound))


@pytest.mark.parametrize("k", [1, 4])
def test_conditional_lemma(k: int) -> None:
    got = conditional_list_matching([0.5, 0.5, 0, 0], [0.25, 0, 0.75, 0], k)
    assert got == pytest.approx([1 / (1 + 0.5 / k), 1, 0, 0])
    for seed in range(20):
        p, q = random_laws(seed, 25)
        assert q @ conditional_list_matching(p, q, k) <= list_matching_lemma(p, q, k) + 1e-12


def test_lemmas_grow_with_k() -> None:
    p, q = random_laws(1, 30)
    lemma = [list_matching_lemma(p, q, k) for k in range(1, 20)]
    assert np.all(np.diff(lemma) >= 0)
    assert np.all(conditional_list_matching(p, q, 3) >= conditional_list_matching(p, q, 2))


def test_total_variation() -> None:
    assert total_variation([0.5, 0.5, 0], [1 / 3, 1 / 3, 1 / 3]) == pytest.approx(1 / 3)
    assert total_variation([1, 0], [0, 1]) == 1
    assert total_variation([0.3, 0.7], [0.3, 0.7]) == 0


@pytest.mark.parametrize(
    ("nu", "sigma2", "l_max"),
    [([0.5], 0.1, 4), ([0.3, 0.3, 0.9], 0.01, 16), ([0.01, 1.0], 1e-4, 64), ([0.2] * 4, 2.0, 1), ([1.0], 1e-6, 1)],
)
def test_coding_bound_against_monte_carlo(nu: list[float], sigma2: float, l_max: int) -> None:
    rng = np.random.default_rng(11)
    n, total = 200_000, np.zeros(200_000)
    for variance in nu:
        a = math.sqrt(variance) * rng.standard_normal(n)  # relative to mu_k
        w = a + math.sqrt(sigma2) * rng.standard_normal(n)
        wide = variance + sigma2
        i = np.log2(wide / sigma2) / 2 + (w**2 / wide - (w - a) ** 2 / sigma2) / (2 * math.log(2))
        total += 1 / (len(nu) + 2**i / l_max)
    assert_mean(total, coding_bound(nu, sigma2, l_max))


@pytest.mark.parametrize(("nu", "sigma2", "l_max"), [(0.5, 0.1, 4), (1.0, 1e-8, 1), (1.0, 1e-8, 10**6), (0.9, 3.0, 2)])
def test_coding_bound_is_accurate(nu: float, sigma2: float, l_max: int) -> None:
    axis = np.linspace(-12, 12, 1921)
    weight = np.exp(-(axis**2) / 2) / math.sqrt(2 * math.pi) * (axis[1] - axis[0])
    x, y = axis[:, None], axis[None, :]
    offset = math.sqrt(sigma2) * x + math.sqrt(nu) * y
    log_ratio = 0.5 * math.log((nu + sigma2) / sigma2) - x**2 / 2 + offset**2 / (2 * (nu + sigma2))
    fine = float(weight @ (1 / (1 + np.exp(log_ratio) / l_max)) @ weight)
    assert coding_bound([nu], sigma2, l_max) == pytest.approx(fine, abs=1e-7)


def test_coding_bound_limits_and_order() -> None:
    # Side information that tells A: i = 0 always, so the bound is K / (K + 1 / L_max).
    assert coding_bound([0.0, 0.0], 0.1, 5) == pytest.approx(2 / 2.2)
    assert coding_bound([0.2, 0.7, 0.4], 0.1, 5) == pytest.approx(coding_bound(np.array([0.7, 0.4, 0.2]), 0.1, 5))
    assert np.all(np.diff([coding_bound([0.5], 0.1, l_max) for l_max in (1, 2, 4, 8, 1024)]) > 0)
    assert np.all(np.diff([coding_bound([0.5] * k, 0.1, 4) for k in (1, 2, 3, 8)]) > 0)
    assert np.all(np.diff([coding_bound([nu], 0.1, 4) for nu in (0.0, 0.1, 0.5, 1.0)]) < 0)
    assert coding_bound([0.5], 0.1, 10**12) == pytest.approx(1)


@pytest.mark.parametrize(
    ("p", "q", "said"),
    [
        ([0.5, 0.4], [0.5, 0.5], r"p: expected probabilities that sum to 1, got the sum 0\.9"),
        ([0.5, 0.5], [1.5, -0.5], r"q\[1\]: expected a finite probability"),
        ([0.5, math.nan], [0.5, 0.5], r"p\[1\]: expected a finite probability"),
        ([1.0], [0.5, 0.5], "equal lengths, got 1 and 2"),
        ([[1.0]], [1.0], r"p: expected .* got shape \[1, 1\]"),
        ([], [], r"p: expected .* got shape \[0\]"),
    ],
)
def test_laws_are_checked(p: list[float], q: list[float], said: str) -> None:
    with pytest.raises(CallerError, match=said):
        list_matching_lemma(p, q, 1)
    with pytest.raises(CallerError, match=said):
        conditional_list_matching(p, q, 1)
    with pytest.raises(CallerError, match=said):
        total_variation(p, q)


def test_numbers_are_checked() -> None:
    with pytest.raises(CallerError, match="k: expected"):
        list_matching_lemma([1.0], [1.0], 0)
    with pytest.raises(CallerError, match="k: expected"):
        conditional_list_matching([1.0], [1.0], 0)
    with pytest.raises(CallerError, match="l_max: expected"):
        coding_bound([0.5], 0.1, 0)
    for sigma2 in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(CallerError, match="sigma2: expected"):
            coding_bound([0.5], sigma2, 1)
    for nu in (-0.1, 1.1, math.nan):
        with pytest.raises(CallerError, match=r"residual_variances\[1\]: expected"):
            coding_bound([0.5, nu], 0.1, 1)
    with pytest.raises(CallerError, match=r"got shape \[0\]"):
        coding_bound([], 0.1, 1)


def test_limits_of_squared_error_by_hand() -> None:
    assert wyner_ziv(1 / 3, 1) == 1 / 3  # nothing sent
    assert wyner_ziv(1 / 3, 8) == pytest.approx(1 / 192)
    assert wyner_ziv(0.0, 8) == 0
    assert wyner_ziv(1.0, 2) == pytest.approx(0.25)  # the rate-distortion function: 6 dB a bit
    # T = A + noise of variance 1/2, twice: their mean has noise of variance 1/4, so that 1/5 of Var A is left.
    assert list_converse([1 / 3, 1 / 3], 1) == pytest.approx(1 / 5 / 4)
    assert list_converse([1 / 3, 1 / 3], 8) == pytest.approx(1 / 5 / 256)
    assert list_converse([0.5, 1.0, 1.0], 2) == pytest.approx(0.5 / 36)  # useless ones but lengthen the list
    assert list_converse([0.3, 0.0], 8) == 0


@pytest.mark.parametrize("residual", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("l_max", [1, 2, 64, 10**6])
def test_one_decoder_is_a_list_of_one(residual: float, l_max: int) -> None:
    assert list_converse([residual], l_max) == pytest.approx(wyner_ziv(residual, l_max))


def test_limits_fall_with_every_message_and_decoder() -> None:
    messages = (1, 2, 3, 8, 1024)
    assert np.all(np.diff([wyner_ziv(0.5, l_max) for l_max in messages]) < 0)
    assert np.all(np.diff([list_converse([0.5, 0.2], l_max) for l_max in messages]) < 0)
    assert np.all(np.diff([list_converse([0.5] * k, 4) for k in (1, 2, 3, 8)]) < 0)
    assert list_converse([0.2, 0.7], 5) == pytest.approx(list_converse(np.array([0.7, 0.2]), 5))


def test_limits_of_squared_error_take_at_least_one_message() -> None:
    for l_max in (0, -1):
        with pytest.raises(CallerError, match="l_max: expected"):
            wyner_ziv(0.5, l_max)
        with pytest.raises(CallerError, match="l_max: expected"):
            list_converse([0.5], l_max)


@pytest.mark.parametrize("residual", [-1.0, 2.0, math.nan])
def test_residual_variances_out_of_range_are_refused(residual: float) -> None:
    with pytest.raises(CallerError, match=r"residual_variances\[0\]"):
        wyner_ziv(residual, 8)
    with pytest.raises(CallerError, match=r"residual_variances\[0\]"):
        list_converse([residual], 8)
    with pytest.raises(CallerError, match="one number per decoder"):
        list_converse([], 8)
