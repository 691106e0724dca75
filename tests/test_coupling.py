"""Gumbel-max list sampling holds what the papers promise (Rowan, Phan, Khisti: GLS, list matching lemma)."""

import numpy as np
import pytest
from helpers import assert_at_least, assert_proportion
from scipy.stats import chisquare

from glsnet.bounds import conditional_list_matching, list_matching_lemma
from glsnet.coupling import draw_x, draw_y
from glsnet.randomness import session_key

KEY = session_key(bytes(32), "test-coupling")
ROUNDS = 40_000


def distributions(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    p, q = np.random.default_rng(seed).dirichlet(np.full(size, 0.7), 2)
    return p, q


@pytest.mark.parametrize("k", [1, 2, 8])
@pytest.mark.parametrize("size", [2, 10, 600])
def test_both_marginals_are_exact_and_the_list_matches_as_the_lemma_says(size: int, k: int) -> None:
    p, q = distributions(size, seed=size)
    y = draw_y(KEY, 0, ROUNDS, q, range(k))
    x = np.array([draw_x(KEY, 0, ROUNDS, p, stream) for stream in range(k)])
    for drawn, weights in [(y, q), (x[0], p), (x[-1], p)]:
        common = weights * ROUNDS > 5  # the rest in one class
        counts = np.bincount(drawn, minlength=size)
        observed = [*counts[common], counts[~common].sum() + 1e-9]
        assert chisquare(observed, np.array([*weights[common], weights[~common].sum() + 1e-9 / ROUNDS])
                         * sum(observed) / (1 + 1e-9 / ROUNDS)).pvalue > 1e-6
    match = (x == y).any(axis=0)
    assert_at_least(int(match.sum()), ROUNDS, list_matching_lemma(p, q, k))
    if k == 1:  # the lemma is then an equality
        assert_proportion(int(match.sum()), ROUNDS, list_matching_lemma(p, q, 1))
    bound = conditional_list_matching(p, q, k)
    for j in np.argsort(-q)[:5]:
        drawn = y == j
        assert_at_least(int(match[drawn].sum()), int(drawn.sum()), float(bound[j]))


def test_the_worked_example_of_the_first_paper() -> None:
    """P = (1/2, 1/2, 0), Q = (1/3, 1/3, 1/3): Gumbel coupling matches with probability 2/3."""
    y = draw_y(KEY, 0, ROUNDS, [1, 1, 1], [0])
    x = draw_x(KEY, 0, ROUNDS, [1, 1, 0], 0)
    assert_proportion(int((x == y).sum()), ROUNDS, 2 / 3)


def test_equal_distributions_always_match_whatever_k() -> None:
    p, _ = distributions(50, seed=1)
    y = draw_y(KEY, 0, 500, p, range(5))
    x = np.array([draw_x(KEY, 0, 500, p, k) for k in range(5)])
    assert (x == y).any(axis=0).all()
