"""The two papers, claim by claim. DMS: Daliri, Musco, Suresh; RPK: Rowan, Phan, Khisti."""

import itertools

import numpy as np
import pytest
from helpers import assert_at_least, assert_at_most, assert_mean, assert_proportion
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare

from glsnet import bounds
from glsnet.coupling import (
    SILENT,
    TALKING,
    Candidates,
    Conversation,
    Darts,
    Everything,
    Message,
    Scheme,
    Verdicts,
    alice,
    bob,
    converse,
    draw_minhash,
    draw_x,
    draw_y,
    keys_of,
    on_grid,
)
from glsnet.errors import CallerError, FrameError
from glsnet.race import FloatArray, IntArray
from glsnet.randomness import session_key

SHARED = session_key(bytes(32), "test-papers")
ALICE, BOB = (keys_of(bytes(32), party) for party in ("alice", "bob"))
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


def talk(scheme: Scheme, p: FloatArray, q: FloatArray, rounds: int) -> Conversation:
    return converse(alice(scheme, ALICE, 0, rounds, p), bob(scheme, BOB, 0, rounds, q))


def test_the_worked_example_of_dms() -> None:
    """P = (1/2, 1/2, 0), Q = (1/3, 1/3, 1/3): optimal 2/3, Gumbel 2/3, weighted MinHash 7/12, worst case 1/2."""
    for name, rate in (("gumbel", 2 / 3), ("minhash", 7 / 12), ("whole-distribution", 2 / 3)):
        drawn = talk(Scheme(name), P, Q, ROUNDS)
        assert_proportion(int((drawn.a == drawn.b).sum()), ROUNDS, rate)
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
    for name, rate in exact.items():
        drawn = talk(Scheme(name), p, q, ROUNDS)
        assert_drawn_from(drawn.a, p)
        assert_drawn_from(drawn.b, q)
        assert_proportion(int((drawn.a == drawn.b).sum()), ROUNDS, min(rate, 1.0))
        assert drawn.messages == []


@given(PAIRS, st.sampled_from([1.0, 0.1, 1e-4]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_schemes_that_talk_for_any_pair(both: tuple[FloatArray, FloatArray], epsilon: float) -> None:
    """DMS, Claim 7, Theorem 4: exact marginals; 1 - D, or within epsilon of it; two messages at most, on average."""
    p, q = both
    optimum = min(bounds.optimal_match(p, q), 1.0)
    for scheme, least, rounds in ((Scheme("low-communication", epsilon=epsilon), optimum - epsilon, ROUNDS),
                                  (Scheme("whole-distribution"), optimum, 2000)):
        drawn = talk(scheme, p, q, rounds)
        assert_drawn_from(drawn.a, p)
        assert_drawn_from(drawn.b, q)
        assert_at_least(int((drawn.a == drawn.b).sum()), rounds, max(least, 0.0))
        assert_at_most(int((drawn.a == drawn.b).sum()), rounds, optimum)
        if scheme.epsilon:  # of a round's darts, the first comes with probability D', and each next one with 1 - D'
            (p_steps, grid), (q_steps, _) = on_grid(p, epsilon / 4), on_grid(q, epsilon / 4)
            rejected = max(np.abs(p_steps - q_steps).sum() / (2 * grid), 1e-12)
            assert sum(drawn.indices) / rounds <= 2.0 + 8 * np.sqrt(2 / (rejected * rounds))
        else:
            assert drawn.indices == [1] * rounds


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
    assert_at_most(int((x == strong).any(axis=0).sum()), ROUNDS, optimum)


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
    for name in ("gumbel", "minhash"):  # the mean over all pairs cannot be above the bound; both schemes reach it
        rows = [draw_minhash(SHARED, 0, ROUNDS, p) if name == "minhash" else draw_x(SHARED, 0, ROUNDS, p, 0)
                for p in family[:6]]
        for a, b in itertools.combinations(rows, 2):
            assert_proportion(int((a == b).sum()), ROUNDS, bounds.worst_case(1 / d))


@pytest.mark.parametrize(("size", "seed"), [(2, 1), (10, 2), (40, 3)])
def test_protocol_1_reaches_the_optimum(size: int, seed: int) -> None:
    """DMS, Protocol 1: exact marginals, Pr[a = b] = 1 - D, one message with the whole distribution."""
    p, q = pair(size, seed)
    drawn = talk(Scheme("whole-distribution"), p, q, 10_000)
    assert_drawn_from(drawn.a, p)
    assert_drawn_from(drawn.b, q)
    assert_proportion(int((drawn.a == drawn.b).sum()), 10_000, bounds.optimal_match(p, q))
    assert drawn.indices == [1] * 10_000
    assert drawn.bits > 10_000 * 64 * size


@pytest.mark.parametrize("epsilon", [0.5, 0.01])
@pytest.mark.parametrize(("size", "seed"), [(2, 1), (10, 2), (40, 3)])
def test_protocol_4_is_within_epsilon_of_the_optimum(size: int, seed: int, epsilon: float) -> None:
    """DMS, Theorem 4 and Claim 7: exact marginals, Pr >= 1 - D - epsilon, two messages expected, O(log n/eps) bits."""
    p, q = pair(size, seed)
    rounds = 40_000
    drawn = talk(Scheme("low-communication", epsilon=epsilon), p, q, rounds)
    assert_drawn_from(drawn.a, p)
    assert_drawn_from(drawn.b, q)
    assert_at_least(int((drawn.a == drawn.b).sum()), rounds, bounds.optimal_match(p, q) - epsilon)
    offers, *darts = [count for count in drawn.indices if count]
    assert offers == rounds
    # Of a round: Alice's message, and on average one dart: exactly 2, for D' > 0. The n-th dart of a round is thrown in
    # darts[n] rounds, which gives the histogram of darts.
    thrown = np.repeat(np.arange(len(darts) + 1), -np.diff([rounds, *darts, 0])).astype(np.float64)
    assert_mean(1 + thrown, 2.0)
    assert drawn.bits / rounds <= 2 * (np.log2(size) + np.log2(4 * size / epsilon) + 6)


def test_protocol_4_for_equal_distributions_sends_one_message() -> None:
    drawn = talk(Scheme("low-communication", epsilon=0.1), Q, Q, 500)
    assert (drawn.a == drawn.b).all()
    assert drawn.indices == [500, 0]


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
    scheme = Scheme("equality-check", decoders=k)
    drawn = [converse(alice(scheme, ALICE, 0, ROUNDS, p, stream), bob(scheme, BOB, 0, ROUNDS, q))
             for stream in range(k)]
    match = np.any([each.a == each.b for each in drawn], axis=0)
    assert bounds.equality_check_match(p, q, k) == pytest.approx((q * (1 - (1 - p) ** k)).sum())
    assert_proportion(int(match.sum()), ROUNDS, bounds.equality_check_match(p, q, k))


def test_the_halves_of_gls_are_the_draws() -> None:
    p, q = pair(6, 12)
    scheme = Scheme("gls", decoders=3)
    for stream in range(3):
        drawn = converse(alice(scheme, ALICE, 5, 100, p, stream), bob(scheme, BOB, 5, 100, q))
        assert (drawn.a == draw_x(ALICE.shared, 5, 100, p, stream)).all()
        assert (drawn.b == draw_y(BOB.shared, 5, 100, q, range(3))).all()


NONE = [
    ([0.5, -0.1, 0.6], r"p\[1\]: expected a finite probability of at least 0, got -0.1"),
    ([0.5, float("nan"), 0.5], r"p\[1\]: .*nan"), ([0.0, 0.0], "sum 0.0"), ([0.5, 0.6], "sum 1.1"), ([], "N >= 1"),
    ([0.5, 0.5 + 2e-6], r"sum 1\.00000"),
]
SCHEMES = [Scheme(name, epsilon=0.1 if name == "low-communication" else None) for name in SILENT + TALKING]


@pytest.mark.parametrize(("p", "text"), NONE)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_distributions_that_are_none_are_refused_by_every_scheme(scheme: Scheme, p: list[float], text: str) -> None:
    with pytest.raises(CallerError, match=text):
        next(alice(scheme, ALICE, 0, 1, p))
    with pytest.raises(CallerError, match=text.replace("p", "q", 1) if text.startswith("p") else text):
        next(bob(scheme, BOB, 0, 1, p))


@pytest.mark.parametrize(("p", "text"), NONE)
def test_distributions_that_are_none_are_refused_by_every_bound(p: list[float], text: str) -> None:
    for bound in (bounds.total_variation, bounds.gumbel_match, bounds.minhash_match, bounds.optimal_match):
        with pytest.raises(CallerError, match=text):
            bound(p, [1.0])
    for list_bound in (bounds.list_matching_lemma, bounds.conditional_list_matching, bounds.optimal_list_match,
                       bounds.specinfer_match, bounds.kseq_match, bounds.equality_check_match):
        with pytest.raises(CallerError, match=text):
            list_bound(p, [1.0], 2)
        with pytest.raises(CallerError, match="p and q: expected equal lengths, got 2 and 1"):
            list_bound([0.5, 0.5], [1.0], 2)
    with pytest.raises(CallerError, match=text):
        on_grid(p, 0.1)


@pytest.mark.parametrize(("name", "decoders", "epsilon", "text"), [
    ("best", 1, None, "scheme: expected one of gumbel, .* got 'best'"),
    ("gumbel", 2, None, "decoders: expected 1 to 1 for scheme gumbel, got 2"),
    ("gls", 0, None, "decoders: expected 1 to 65535"), ("gls", 2, 0.1, "epsilon: .* for no other, got 0.1 for gls"),
    ("low-communication", 1, None, "epsilon: expected it for scheme low-communication"),
])
def test_schemes_that_are_none_are_refused(name: str, decoders: int, epsilon: float | None, text: str) -> None:
    with pytest.raises(CallerError, match=text):
        Scheme(name, decoders, epsilon)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 1.5, 1e-300, float("nan")])
def test_a_precision_that_is_none_is_refused(epsilon: float) -> None:
    with pytest.raises(CallerError, match="epsilon: expected a number above"):
        on_grid(Q, epsilon)


LOW, WHOLE = Scheme("low-communication", epsilon=0.1), Scheme("whole-distribution")
GRID = 120  # of LOW, over 3 items


def candidates(kind: type[Candidates], items: list[int], heights: list[int], size: int = 3, grid: int = GRID
               ) -> Candidates:
    return kind(np.array(items), np.array(heights), size, grid)


@pytest.mark.parametrize(("message", "text"), [
    (Verdicts(np.array([True, True])), "turn: expected candidates, got verdicts"),
    (candidates(Darts, [0, 0], [1, 1]), "turn: expected candidates, got darts"),
    (candidates(Candidates, [0, 3], [1, 1]), "index 1: expected 0 to 2, got 3"),
    (candidates(Candidates, [0, -1], [1, 1]), "index 1: expected 0 to 2, got -1"),
    (candidates(Candidates, [0, 0], [121, 1]), "probability 0: expected 0 to 120 steps of 1/120, got 121"),
    (candidates(Candidates, [0, 0], [-1, 1]), "probability 0: expected 0 to 120 steps of 1/120, got -1"),
    (candidates(Candidates, [0, 0], [1, 0]), "probability 1: expected a sample of positive probability"),
    (candidates(Candidates, [0, 0], [1, 1], grid=60), "grid: expected 3 items, steps of 1/120, got 3 and 1/60"),
    (candidates(Candidates, [0], [1]), "rounds: expected 2 items and probabilities, got 1 and 1"),
])
def test_bob_refuses_what_breaks_protocol_4(message: Message, text: str) -> None:
    his = bob(LOW, BOB, 0, 2, Q)
    next(his)
    with pytest.raises(FrameError, match=text):
        his.send(message)


@pytest.mark.parametrize(("messages", "text"), [
    ([candidates(Darts, [0, 0], [1, 1])], "turn: expected verdicts, got darts"),
    ([Verdicts(np.array([True]))], "rounds: expected 2 verdicts, got 1"),
    ([Verdicts(np.array([False, False])), Verdicts(np.array([True, True]))], "turn: expected darts, got verdicts"),
    ([Verdicts(np.array([False, False])), candidates(Darts, [1, 1], [0, 120])], "probability 1: expected the sum of q"),
    ([Verdicts(np.array([True, False])), candidates(Darts, [9], [0])], "index 0: expected 0 to 2, got 9"),
    ([Verdicts(np.array([True, False])), candidates(Candidates, [0], [0])], "turn: expected darts, got candidates"),
    ([Verdicts(np.array([True, False])), candidates(Darts, [0, 0], [0, 0])], "rounds: expected 1 items"),
])
def test_alice_refuses_what_breaks_protocol_4(messages: list[Message], text: str) -> None:
    hers = alice(LOW, ALICE, 0, 2, Q)
    assert isinstance(next(hers), Candidates)
    assert next(hers) is None
    with pytest.raises(FrameError, match=text):
        for message in messages:
            while hers.send(message) is not None:  # her verdicts
                next(hers)


@pytest.mark.parametrize(("message", "text"), [
    (Verdicts(np.array([True])), "turn: expected a sample and its distribution, got verdicts"),
    (Everything(0, np.array([1.5, -0.5, 0.0])), r"probability\[1\]: .* got -0.5"),
    (Everything(0, np.array([0.5, np.nan, 0.5])), r"probability\[1\]: .* got nan"),
    (Everything(0, np.array([0.5, 0.5])), "distribution: expected 3 probabilities, got 2"),
    (Everything(3, Q), "index: expected 0 to 2, an item of positive probability, got 3"),
    (Everything(2, P), "index: expected 0 to 2, an item of positive probability, got 2"),
])
def test_bob_refuses_what_breaks_protocol_1(message: Message, text: str) -> None:
    his = bob(WHOLE, BOB, 0, 2, Q)
    next(his)
    with pytest.raises(FrameError, match=text):
        his.send(message)


@pytest.mark.parametrize("name", TALKING)
def test_two_halves_of_different_schemes_end_with_an_error(name: str) -> None:
    scheme = LOW if name == LOW.name else WHOLE
    with pytest.raises(FrameError, match="turn: "):
        converse(alice(scheme, ALICE, 0, 2, Q), bob(Scheme("gumbel"), BOB, 0, 2, Q))
    with pytest.raises(FrameError, match="turn: expected one more message, got none"):
        converse(alice(Scheme("gumbel"), ALICE, 0, 2, Q), bob(scheme, BOB, 0, 2, Q))
