"""The two papers, claim by claim. DMS: Daliri, Musco, Suresh; RPK: Rowan, Phan, Khisti."""

import itertools

import numpy as np
import pytest
from helpers import assert_at_least, assert_mean, assert_proportion
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare

from glsnet import bounds
from glsnet.coupling import (
    Candidate,
    Conversation,
    Dart,
    Message,
    Verdict,
    alice_low,
    alice_sends_all,
    bob_knows_all,
    bob_low,
    converse,
    draw_minhash,
    draw_x,
    draw_y,
    on_grid,
)
from glsnet.errors import CallerError, FrameError
from glsnet.race import FloatArray, IntArray
from glsnet.randomness import session_key

SHARED, ALICE, BOB = (session_key(bytes(32), f"test-papers-{name}") for name in ("shared", "alice", "bob"))
ROUNDS = 20_000
P, Q = np.array([1 / 2, 1 / 2, 0]), np.array([1 / 3, 1 / 3, 1 / 3])


def weights(size: int) -> st.SearchStrategy[FloatArray]:
    """Zeros, ties, one-item supports and subnormal numbers among them."""
    entry = st.one_of(st.just(0.0), st.just(1.0), st.sampled_from([5e-324, 1e-310, 1e-30, 1e-9]), st.floats(0, 1))
    return arrays(np.float64, size, elements=entry).filter(lambda w: w.sum() > 1e-3).map(lambda w: w / w.sum())


PAIRS = st.integers(1, 12).flatmap(lambda size: st.tuples(weights(size), weights(size)))


def pair(size: int, seed: int) -> tuple[FloatArray, FloatArray]:
    p, q = np.random.default_rng(seed).dirichlet(np.full(size, 0.6), 2)
    return p, q


def assert_drawn_from(samples: IntArray, p: FloatArray) -> None:
    """Chi-square, rare items in one class; none of probability zero."""
    counts = np.bincount(samples, minlength=p.size)
    assert counts[p == 0].sum() == 0
    common = p * samples.size > 5
    if common.sum() >= 2:
        expected = np.append(p[common], max(1 - p[common].sum(), 0)) * samples.size
        observed = np.append(counts[common], samples.size - counts[common].sum())
        keep = expected > 1e-6
        scaled = expected[keep] * observed[keep].sum() / expected[keep].sum()
        assert chisquare(observed[keep], scaled).pvalue > 1e-7
        assert observed[~keep].sum() == 0
    else:
        assert_proportion(int(counts[p.argmax()]), samples.size, min(float(p.max()), 1.0))


def low(p: FloatArray, q: FloatArray, epsilon: float, rounds: int) -> list[Conversation]:
    return [converse(alice_low(SHARED, ALICE, i, p, epsilon), bob_low(SHARED, BOB, i, q, epsilon))
            for i in range(rounds)]


def test_the_worked_example_of_dms() -> None:
    """P = (1/2, 1/2, 0), Q = (1/3, 1/3, 1/3): optimal 2/3, Gumbel 2/3, weighted MinHash 7/12, worst case 1/2."""
    assert bounds.optimal_match(P, Q) == pytest.approx(2 / 3)
    assert bounds.gumbel_match(P, Q) == pytest.approx(2 / 3)
    assert bounds.minhash_match(P, Q) == pytest.approx(7 / 12)
    assert bounds.worst_case(bounds.total_variation(P, Q)) == pytest.approx(1 / 2)


@given(PAIRS)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_gumbel_and_minhash_for_any_pair(both: tuple[FloatArray, FloatArray]) -> None:
    """DMS, Theorem 3, Claim 5, Fact 1: exact marginals, exact rates, Gumbel >= MinHash >= (1 - D) / (1 + D)."""
    p, q = both
    exact = {"gumbel": bounds.gumbel_match(p, q), "minhash": bounds.minhash_match(p, q)}
    assert exact["gumbel"] >= exact["minhash"] - 1e-12
    assert exact["minhash"] >= bounds.worst_case(min(bounds.total_variation(p, q), 1.0)) - 1e-12
    assert exact["gumbel"] <= bounds.optimal_match(p, q) + 1e-12
    drawn = {"gumbel": [draw_x(SHARED, 0, ROUNDS, w, 0) for w in (p, q)],
             "minhash": [draw_minhash(SHARED, 0, ROUNDS, w) for w in (p, q)]}
    for name, (a, b) in drawn.items():
        assert_drawn_from(a, p)
        assert_drawn_from(b, q)
        assert_proportion(int((a == b).sum()), ROUNDS, min(exact[name], 1.0))


@given(PAIRS, st.integers(1, 6))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_the_list_matching_lemma_for_any_pair(both: tuple[FloatArray, FloatArray], k: int) -> None:
    """RPK, list matching lemma and its strong form; no scheme beats the optimum over lists of independent drafts."""
    p, q = both
    strong = draw_y(SHARED, 0, ROUNDS, q, range(k))
    x = np.array([draw_x(SHARED, 0, ROUNDS, p, stream) for stream in range(k)])
    assert_drawn_from(strong, q)
    assert_at_least(int((x == strong).any(axis=0).sum()), ROUNDS, bounds.list_matching_lemma(p, q, k))
    alive = (k + 1) // 2
    assert_at_least(int((x[:alive] == strong).any(axis=0).sum()), ROUNDS, bounds.strong_list_matching(p, q, k, alive))
    conditional = draw_y(SHARED, 0, ROUNDS, q, range(alive))  # only the streams still alive
    assert_at_least(int((x[:alive] == conditional).any(axis=0).sum()), ROUNDS,
                    bounds.list_matching_lemma(p, q, alive))
    optimum = bounds.optimal_list_match(p, q, k)
    assert bounds.list_matching_lemma(p, q, k) <= optimum + 1e-9
    assert -((x == strong).any(axis=0).mean() - optimum) >= -5 / np.sqrt(4 * ROUNDS)


def test_the_conditional_lemma_with_decoders_of_their_own() -> None:
    """RPK, conditional lemma: each decoder has its p_k; given Y = j, the list matches as often as the lemma says."""
    p = np.random.default_rng(4).dirichlet(np.ones(6), 3)
    q = np.random.default_rng(5).dirichlet(np.ones(6))
    y = draw_y(SHARED, 0, 60_000, q, range(3))
    match = np.any([draw_x(SHARED, 0, 60_000, p[k], k) == y for k in range(3)], axis=0)
    bound = bounds.side_information_matching(p, q)
    for j in range(6):
        assert_at_least(int(match[y == j].sum()), int((y == j).sum()), float(bound[j]))
    same = bounds.side_information_matching(np.tile(p[0], (3, 1)), q)
    assert same == pytest.approx(bounds.conditional_list_matching(p[0], q, 3))


@pytest.mark.parametrize("d", [1, 2, 5, 20])
def test_the_worst_case_family_is_at_its_bound(d: int) -> None:
    """DMS, Theorem 2: any two of d + 1 distributions are 1/d apart, and both schemes are exactly at the bound."""
    family = bounds.worst_case_family(d)
    for p, q in itertools.islice(itertools.combinations(family, 2), 10):
        assert bounds.total_variation(p, q) == pytest.approx(1 / d)
        assert bounds.gumbel_match(p, q) >= bounds.worst_case(1 / d) - 1e-12
        assert bounds.minhash_match(p, q) == pytest.approx(bounds.worst_case(1 / d))


@pytest.mark.parametrize(("size", "seed"), [(2, 1), (10, 2), (40, 3)])
def test_protocol_1_reaches_the_optimum(size: int, seed: int) -> None:
    """DMS, Protocol 1: exact marginals, Pr[a = b] = 1 - D, one message with the whole distribution."""
    p, q = pair(size, seed)
    talks = [converse(alice_sends_all(ALICE, i, p), bob_knows_all(BOB, i, q)) for i in range(10_000)]
    a, b = (np.array(samples) for samples in zip(*((talk.a, talk.b) for talk in talks), strict=True))
    assert_drawn_from(a, p)
    assert_drawn_from(b, q)
    assert_proportion(int((a == b).sum()), a.size, bounds.optimal_match(p, q))
    assert {len(talk.messages) for talk in talks} == {1}
    assert talks[0].bits > 64 * size


@pytest.mark.parametrize("epsilon", [0.5, 0.01])
@pytest.mark.parametrize(("size", "seed"), [(2, 1), (10, 2), (40, 3)])
def test_protocol_4_is_within_epsilon_of_the_optimum(size: int, seed: int, epsilon: float) -> None:
    """DMS, Theorem 4 and Claim 7: exact marginals, Pr >= 1 - D - epsilon, two messages expected, O(log n/eps) bits."""
    p, q = pair(size, seed)
    talks = low(p, q, epsilon, 6_000)
    a, b = (np.array(samples) for samples in zip(*((talk.a, talk.b) for talk in talks), strict=True))
    assert_drawn_from(a, p)
    assert_drawn_from(b, q)
    assert_at_least(int((a == b).sum()), a.size, bounds.optimal_match(p, q) - epsilon)
    rounds = np.array([talk.rounds for talk in talks], dtype=np.float64)
    assert_mean(rounds, 2.0)  # Alice's, and on average one dart: exactly 2, for D' > 0
    assert np.mean([talk.bits for talk in talks]) <= 2 * (np.log2(size) + np.log2(4 * size / epsilon) + 6)


def test_protocol_4_for_equal_distributions_sends_one_message() -> None:
    talks = low(Q, Q, 0.1, 500)
    assert all(talk.a == talk.b and talk.rounds == 1 for talk in talks)


@given(PAIRS, st.sampled_from([1.0, 0.3, 1e-3]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_algorithm_1_and_lemma_8(both: tuple[FloatArray, FloatArray], epsilon: float) -> None:
    """DMS: whole steps that sum to the grid, within epsilon; and the two within 2 epsilon of what they were."""
    rounded = []
    for p in both:
        steps, grid = on_grid(p, epsilon)
        assert steps.sum() == grid
        assert steps.min() >= 0
        rounded.append(steps / grid)
        assert bounds.total_variation(p, rounded[-1]) <= epsilon + 1e-12
    assert bounds.total_variation(*rounded) <= bounds.total_variation(*both) + 2 * epsilon + 1e-12


@given(PAIRS, st.integers(1, 4))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_optimum_over_lists_is_that_over_all_subsets(both: tuple[FloatArray, FloatArray], k: int) -> None:
    """1 - max_S [p(S)^K - q(S)]: the sorted prefixes against every subset; K = 1 gives 1 - D."""
    p, q = (w[:9] / w[:9].sum() if w[:9].sum() > 0 else np.full(min(w.size, 9), 1 / min(w.size, 9)) for w in both)
    subsets = np.array(list(itertools.product([0, 1], repeat=p.size)))
    expected = 1 - ((subsets @ p) ** k - subsets @ q).max()
    assert bounds.optimal_list_match(p, q, k) == pytest.approx(expected, abs=1e-9)
    assert bounds.optimal_list_match(p, q, 1) == pytest.approx(bounds.optimal_match(p, q), abs=1e-9)
    for scheme in (bounds.specinfer_match, bounds.kseq_match):
        assert scheme(p, q, k) <= bounds.optimal_list_match(p, q, k) + 1e-9
        assert scheme(p, q, 1) == pytest.approx(bounds.optimal_match(p, q), abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_specinfer_and_kseq_accept_as_computed(k: int) -> None:
    """Against the schemes themselves, played out draft by draft."""
    p, q = pair(8, 9)
    rng, trials = np.random.default_rng(3), 20_000
    accepted = 0
    for drafts in rng.choice(8, (trials, k), p=p):
        target = q
        for x in drafts:
            if rng.random() * p[x] <= target[x]:
                accepted += 1
                break
            target = np.maximum(target - p, 0)
            target = target / target.sum()
    assert_proportion(accepted, trials, bounds.specinfer_match(p, q, k))
    # K-SEQ: rho by a fine search; each draft is accepted with probability min(1, q / (rho p)).
    rhos = np.linspace(1, k, 200_001)
    beta = np.minimum(p[:, None], q[:, None] / rhos).sum(axis=0)
    rho = rhos[np.argmax(1 - (1 - beta) ** k <= rhos * beta + 1e-12)]
    drafts = rng.choice(8, (trials, k), p=p)
    hit = (rng.random((trials, k)) * p[drafts] <= q[drafts] / rho).any(axis=1)
    assert_proportion(int(hit.sum()), trials, bounds.kseq_match(p, q, k))


def test_the_equality_check_is_the_control() -> None:
    """Independent draws: some of K equals Y with probability sum q_j (1 - (1 - p_j)^K)."""
    p, q, k = *pair(6, 12), 3
    y = draw_x(SHARED, 0, ROUNDS, q, k)
    match = np.any([draw_x(SHARED, 0, ROUNDS, p, stream) == y for stream in range(k)], axis=0)
    assert_proportion(int(match.sum()), ROUNDS, float((q * (1 - (1 - p) ** k)).sum()))


@pytest.mark.parametrize(("p", "text"), [
    ([0.5, -0.1, 0.6], r"p\[1\]: expected a finite probability of at least 0, got -0.1"),
    ([0.5, float("nan"), 0.5], r"p\[1\]: .*nan"), ([0.0, 0.0], "sum 0.0"), ([0.5, 0.6], "sum 1.1"), ([], "N >= 1"),
])
def test_distributions_that_are_none_are_refused_everywhere(p: list[float], text: str) -> None:
    for call in (lambda: draw_minhash(SHARED, 0, 1, p), lambda: on_grid(p, 0.1), lambda: bounds.minhash_match(p, p),
                 lambda: next(alice_low(SHARED, ALICE, 0, p, 0.1)), lambda: next(alice_sends_all(ALICE, 0, p))):
        with pytest.raises(CallerError, match=text):
            call()


@pytest.mark.parametrize(("message", "text"), [
    (Verdict(True), "turn: expected a sample and its probability, got Verdict"),
    (Dart(0, 1, 3, 120), "turn: expected a sample and its probability, got Dart"),
    (Candidate(3, 1, 3, 120), "index: expected 0 to 2, got 3"),
    (Candidate(0, 121, 3, 120), "probability: expected 0 to 120 steps of 1/120, got 121"),
    (Candidate(0, 0, 3, 120), "probability: expected a sample of positive probability"),
    (Candidate(0, 1, 3, 60), "grid: expected 3 items, steps of 1/120, got 3 and 1/60"),
])
def test_bob_refuses_what_breaks_protocol_4(message: Message, text: str) -> None:
    bob = bob_low(SHARED, BOB, 0, Q, 0.1)
    next(bob)
    with pytest.raises(FrameError, match=text):
        bob.send(message)


@pytest.mark.parametrize(("message", "text"), [
    (Verdict(False), "turn: expected approval or a dart"), (None, "got the end"),
    (Dart(1, 120, 3, 120), "above the sum of q"), (Dart(9, 0, 3, 120), "index: expected 0 to 2, got 9"),
    (Candidate(0, 1, 3, 120), "turn: expected approval or a dart, got Candidate"),
])
def test_alice_refuses_what_breaks_protocol_4(message: Message | None, text: str) -> None:
    alice = alice_low(SHARED, ALICE, 0, Q, 0.1)
    next(alice)
    with pytest.raises(FrameError, match=text):
        alice.send(message)
