"""Verification of drafts: exact in distribution, invariant where it should be, and no more of p read than is reported.

The toy world is a Markov chain: the target's q and each draft's p after a prefix depend on its last token alone.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from helpers import assert_at_least, assert_at_most, assert_mean, assert_proportion, pvalue

from glsnet import bounds
from glsnet.coupling import draw_x, draw_y
from glsnet.errors import CallerError
from glsnet.race import FloatArray, IntArray
from glsnet.randomness import MAX_ROUNDS, session_key
from glsnet.verification import COUPLED, MAX_DRAFTS, SCHEMES, SINGLE, Block, draft_token, verify

KEY = session_key(bytes(32), "test-verification")
SPAN = 4  # tokens of a sequence
REACH = 9  # positions kept for a sequence: drafts reach beyond its end
ALIKE = ("kseq",)  # schemes whose drafts must all have the same p
RATIOS = ("leviathan", "specinfer", "kseq", "block-verification")
LOSSLESS = [scheme for scheme in SCHEMES if scheme != "none"]


class World(NamedTuple):
    """q: shape [V, V], the target's distribution after each last token; p: shape [K, V, V], that of each draft."""

    q: FloatArray
    p: FloatArray


def world(size: int, drafts: int, seed: int, alike: bool = False) -> World:
    """Rows far apart, zeros among them, so that tests fail often and in every way; the same q for any K."""
    rng = np.random.default_rng(seed)
    q, p = rng.dirichlet(np.ones(size), size), rng.dirichlet(np.ones(size), (drafts, size))
    q[0, 1], p[:, 1, 0], p[:, 2, 2] = 0, 0, 0
    q, p = (rows / rows.sum(-1, keepdims=True) for rows in (q, p))
    p[:, 0] = (p[:, 0] + q[0]) / 2
    return World(q, np.repeat(p[:1], drafts, axis=0) if alike else p)


def drafted(scheme: str, key: np.uint64, of: World, position: int, last: int, length: int) -> IntArray:
    """One block of drafts, shape [K, L], token by token."""
    tokens = np.zeros((len(of.p), length), np.int64)
    for k, row in enumerate(tokens):
        before = last
        for depth in range(length):
            row[depth] = before = draft_token(scheme, key, position + depth, depth, of.p[k, before], k)
    return tokens


def block_of(of: World, position: int, last: int, tokens: IntArray) -> Block:
    after = np.concatenate((np.full((len(tokens), 1), last), tokens), axis=1)
    return Block(position, tokens, of.q[after], of.p[np.arange(len(tokens))[:, None], after[:, :-1]])


def sequences(scheme: str, key: np.uint64, of: World, length: int, count: int) -> IntArray:
    """Shape [count, SPAN]: sequences made block by block, each from positions of its own.

    Drafts are `drafted`, but for all positions at once: the noise of a race depends on nothing but key, position and
    stream.
    """
    table = [[[_drafts_at_all_positions(scheme, key, p, k, depth, (count + 1) * REACH) for p in of.p[k]]
              for depth in range(length)] for k in range(len(of.p))]
    made = np.zeros((count, SPAN), np.int64)
    for i in range(count):
        text, start = [0], i * REACH
        while len(text) <= SPAN:
            position = start + len(text)
            tokens = np.zeros((len(of.p), length), np.int64)
            for k in range(len(of.p)):
                last = text[-1]
                for depth in range(length):
                    tokens[k, depth] = last = table[k][depth][last][position + depth]
            text += verify(scheme, key, block_of(of, position, text[-1], tokens)).tokens
        made[i] = text[1:SPAN + 1]
    return made


def _drafts_at_all_positions(scheme: str, key: np.uint64, p: FloatArray, k: int, depth: int, positions: int
                             ) -> list[int]:
    stream = k if scheme in COUPLED else MAX_DRAFTS * (1 + depth) + k
    return list(draw_x(key, 0, positions, p, stream).tolist())


def sequence_counts(made: IntArray, size: int) -> IntArray:
    return np.bincount(made @ size ** np.arange(made.shape[1]), minlength=size ** made.shape[1])


def sequence_law(q: FloatArray) -> FloatArray:
    """Shape [V^SPAN], the target's probability of each sequence after token 0, in the order of `sequence_counts`."""
    size = len(q)
    law = np.zeros(size**SPAN)
    for text in itertools.product(range(size), repeat=SPAN):
        chance = 1.0
        for before, token in itertools.pairwise((0, *text)):
            chance *= q[before, token]
        law[np.array(text) @ size ** np.arange(SPAN)] = chance
    return law


@pytest.mark.parametrize("scheme", LOSSLESS)
def test_sequences_are_distributed_as_the_targets(scheme: str) -> None:
    """Full sequences over repeated blocks, K = 1, 2, 4 and L = 1 to 4: each case by itself, and all together.

    In this world, drafts or tests on the noise of the target's own draws give p-values below 1e-10.
    """
    total, law = np.zeros(4**SPAN, np.int64), sequence_law(world(4, 1, 1).q)
    for k, length in itertools.product([1] if scheme in SINGLE else [1, 2, 4], [1, 2, 3, 4]):
        key = session_key(bytes(32), f"{scheme}, K = {k}, L = {length}")
        made = sequences(scheme, key, world(4, k, 1, scheme in ALIKE), length, 1500 if scheme in SINGLE else 500)
        counts = sequence_counts(made, 4)
        assert pvalue(counts, law) > 1e-5, (k, length)
        total += counts
    assert pvalue(total, law) > 1e-5


def test_blocks_that_overlap_do_not_share_noise() -> None:
    """Block verification looks at all of a draft before it drops a part, and so must not see the same noise again.

    With noise that is a function of key, stream and position alone, the p-value in this world is below 1e-10.
    """
    of = World(np.array([[0.1, 0.9], [0.9, 0.1]]), np.full((1, 2, 2), 0.5))
    counts = sequence_counts(sequences("block-verification", KEY, of, 4, 2000), 2)
    assert pvalue(counts, sequence_law(of.q)) > 1e-5


def test_drafts_at_all_positions_are_those_drawn_one_by_one() -> None:
    of = world(3, 2, 7)
    for scheme, k, depth, last in itertools.product(("gls", "specinfer"), range(2), range(2), range(3)):
        table = _drafts_at_all_positions(scheme, KEY, of.p[k, last], k, depth, 20)
        assert table == [draft_token(scheme, KEY, position, depth, of.p[k, last], k) for position in range(20)]


# What changes nothing.


def test_the_text_is_that_without_speculation() -> None:
    """Same key: `none`, daliri, GLS of one draft in both forms, and the equality check, for any drafter and any L."""
    alone = sequences("none", KEY, world(3, 1, 7), 0, 150)
    for length, seed in itertools.product([1, 2, 4], [1, 2]):
        for scheme in ("daliri", "gls", "gls-strong", "equality-check"):
            of = World(world(3, 1, 7).q, world(3, 1, seed).p)
            assert (sequences(scheme, KEY, of, length, 150) == alone).all()
        several = World(world(3, 1, 7).q, world(3, 3, seed).p)
        assert (sequences("equality-check", KEY, several, length, 150) == alone).all()


def test_strong_gls_gives_one_text_for_any_drafters() -> None:
    """K = 3, fixed: any p, any L, and in each block any of the drafts, or none, live."""
    q = world(3, 1, 7).q
    rng = np.random.default_rng(1)
    for start in range(0, 4000, 40):
        expected = [0]
        for position in range(start, start + 12):
            expected.append(int(draw_y(KEY, position, 1, q[expected[-1]], range(3))[0]))
        for seed in (1, 2):
            text = [0]
            while len(text) <= 12:
                live = rng.permutation(3)[:rng.integers(4)]
                position, length = start + len(text) - 1, int(rng.integers(5)) if live.size else 0
                of = World(q, world(3, 3, seed).p)
                tokens = drafted("gls-strong", KEY, of, position, text[-1], length)[live if live.size else [0]]
                after = np.concatenate((np.full((len(tokens), 1), text[-1]), tokens), axis=1)
                streams = live.tolist() if live.size else [0]
                text += verify("gls-strong", KEY, Block(position, tokens, q[after], streams=streams, of=3)).tokens
            assert text[:13] == expected


def test_gls_depends_on_drafts_by_who_is_alive_alone() -> None:
    """Each token races over the streams alive; the first over all that take part; a longer block begins as a shorter.

    Not invariant for K > 1: where a block begins, since there all streams race again.
    """
    of = world(3, 4, 7)
    for position in range(0, 1000, 5):
        last = position % 3
        tokens = drafted("gls", KEY, of, position, last, 4)
        whole = verify("gls", KEY, block_of(of, position, last, tokens))
        for at, (token, alive) in enumerate(zip(whole.tokens, whole.alive, strict=True)):
            before = [last, *whole.tokens][at]
            assert alive == [k for k in range(4) if tokens[k, :at].tolist() == whole.tokens[:at]]
            assert token == draw_y(KEY, position + at, 1, of.q[before], alive)[0]
        for length in range(4):
            shorter = verify("gls", KEY, block_of(of, position, last, tokens[:, :length])).tokens
            assert shorter == whole.tokens[:length + 1]


def test_coupled_drafts_do_not_know_where_blocks_begin_and_others_are_drawn_anew() -> None:
    p = np.full(1000, 1e-3)
    for scheme in SCHEMES:
        drawn = {draft_token(scheme, KEY, 7, depth, p, 1) for depth in range(4)}
        assert len(drawn) == (1 if scheme in COUPLED else 4)


# How many are accepted.


def pair(size: int, seed: int) -> tuple[FloatArray, FloatArray]:
    p, q = np.random.default_rng(seed).dirichlet(np.full(size, 0.6), 2)
    return p, q


def accepted_at_one_depth(scheme: str, p: FloatArray, q: FloatArray, rounds: int, live: int) -> int:
    """How often one of the drafts of p [K, V] is accepted, L = 1, the first `live` of K streams live."""
    stream = [k if scheme in COUPLED else MAX_DRAFTS + k for k in range(live)]
    x = np.array([draw_x(KEY, 0, rounds, p[k], stream[k]) for k in range(live)])
    rows, targets = p[:live, None], np.broadcast_to(q, (live, 2, q.size))
    return sum(
        len(verify(scheme, KEY, Block(i, x[:, i, None], targets, rows, of=len(p))).tokens) - 1 for i in range(rounds)
    )


@pytest.mark.parametrize("k", [1, 2, 5])
def test_acceptance_at_one_depth(k: int) -> None:
    """Exact rates of `bounds`, or its lower bounds, and never above the optimum over lists."""
    for seed in (9, 10):
        p, q = pair(8, seed)
        rows = np.tile(p, (k, 1))
        exact = {"specinfer": bounds.specinfer_match(p, q, k), "kseq": bounds.kseq_match(p, q, k),
                 "equality-check": bounds.equality_check_match(p, q, k)}
        if k == 1:
            exact |= {"leviathan": bounds.optimal_match(p, q), "block-verification": bounds.optimal_match(p, q),
                      "daliri": bounds.gumbel_match(p, q)}
        for scheme, rate in exact.items():
            assert_proportion(accepted_at_one_depth(scheme, rows, q, 1200, k), 1200, rate)
        for scheme in ("gls", "gls-strong"):
            hits = accepted_at_one_depth(scheme, rows, q, 1200, k)
            assert_at_least(hits, 1200, bounds.list_matching_lemma(p, q, k))
            assert_at_most(hits, 1200, bounds.optimal_list_match(p, q, k))
        live = (k + 1) // 2
        hits = accepted_at_one_depth("gls-strong", rows, q, 1200, live)
        assert_at_least(hits, 1200, bounds.strong_list_matching(p, q, k, live))


def test_acceptance_of_drafts_that_differ() -> None:
    """RPK, conditional lemma with a p_k for each draft, in the mean over Y."""
    p, q = np.random.default_rng(4).dirichlet(np.ones(6), 3), np.random.default_rng(5).dirichlet(np.ones(6))
    bound = float(q @ bounds.side_information_matching(p, q))
    assert_at_least(accepted_at_one_depth("gls", p, q, 3000, 3), 3000, bound)


@pytest.mark.parametrize("scheme", ["gls", "daliri", *RATIOS])
def test_a_drafter_that_is_the_target_is_always_accepted(scheme: str) -> None:
    k = 1 if scheme in SINGLE else 3
    q = world(4, 1, 7).q
    of = World(q, np.tile(q, (k, 1, 1)))
    for position in range(0, 500, 5):
        verified = verify(scheme, KEY, block_of(of, position, 0, drafted(scheme, KEY, of, position, 0, 3)))
        assert len(verified.tokens) == 4


@pytest.mark.parametrize("scheme", LOSSLESS)
def test_a_drafter_apart_from_the_target_is_never_accepted(scheme: str) -> None:
    k = 1 if scheme in SINGLE else 3
    of = World(np.tile([0.5, 0.5, 0, 0], (4, 1)), np.tile([0, 0, 0.5, 0.5], (k, 4, 1)))
    for position in range(0, 100, 5):
        verified = verify(scheme, KEY, block_of(of, position, 0, drafted(scheme, KEY, of, position, 0, 3)))
        assert len(verified.tokens) == 1
        assert verified.tokens[0] < 2


def accepted_in_theory(of: World, last: int, length: int) -> tuple[float, float]:
    """Expected accepted tokens of block verification and of Leviathan, over every draft that there is."""
    p, q = of.p[0], of.q
    by_block = one_by_one = 0.0
    for text in itertools.product(range(len(q)), repeat=length):
        chance, rho, h, passed = 1.0, [1.0], [1.0], [1.0]
        for before, x in itertools.pairwise((last, *text)):
            chance *= p[before, x]
            ratio = q[before, x] / p[before, x] if p[before, x] else 0.0
            rho.append(min(1.0, rho[-1] * ratio))
            passed.append(passed[-1] * min(1.0, ratio))
            z = np.maximum(rho[-1] * q[x] - p[x], 0).sum()
            h.append(1.0 if z + 1 == rho[-1] else z / (z + 1 - rho[-1]))
        h[length] = rho[length]
        by_block += chance * sum(1 - math.prod(1 - h[i] for i in range(least, length + 1))
                                 for least in range(1, length + 1))
        one_by_one += chance * sum(passed[1:])
    return by_block, one_by_one


def test_block_verification_accepts_as_computed_and_no_less_than_leviathan() -> None:
    """Sun et al. 2024, Theorem 2: against every outcome, enumerated."""
    gains = []
    for seed in range(30):
        by_block, one_by_one = accepted_in_theory(world(3, 1, seed), seed % 3, 1 + seed % 4)
        assert by_block >= one_by_one - 1e-12
        gains.append(by_block - one_by_one)
    assert max(gains) > 0.02
    of = world(3, 1, int(np.argmax(gains)))
    for scheme, expected in zip(("block-verification", "leviathan"), accepted_in_theory(of, 0, 3), strict=True):
        blocks = (block_of(of, at, 0, drafted(scheme, KEY, of, at, 0, 3)) for at in range(0, 20_000, 5))
        assert_mean([len(verify(scheme, KEY, block).tokens) - 1 for block in blocks], expected)


# What is read.


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_is_read_but_what_is_reported(scheme: str) -> None:
    """All else is not a number: the answer is the same. Without any one thing that is reported, there is none."""
    k = 1 if scheme in SINGLE else 3
    of = world(3, k, 7, scheme in ALIKE)
    for position in range(0, 400, 5):
        tokens = drafted(scheme, KEY, of, position, 0, 3)
        full = block_of(of, position, 0, tokens)
        verified = verify(scheme, KEY, full)
        assert isinstance(full.p, np.ndarray) and isinstance(full.q, np.ndarray)
        p, q = np.full_like(full.p, np.nan), np.full_like(full.q, np.nan)
        q[0, 0] = full.q[0, 0]
        for depth, alive in enumerate(verified.alive):
            q[alive[0], depth] = full.q[alive[0], depth]
        if scheme == "block-verification":  # reads all of q
            q[:] = full.q
        for row, depth in verified.singles:
            p[row, depth, tokens[row, depth]] = full.p[row, depth, tokens[row, depth]]
        for row, depth in verified.rows:
            p[row, depth] = full.p[row, depth]
        assert verify(scheme, KEY, Block(position, tokens, q, p)) == verified
        if scheme not in RATIOS:
            assert verify(scheme, KEY, Block(position, tokens, q)) == verified
        for row, depth in verified.singles + verified.rows:
            less = p.copy()
            less[row, depth] = np.nan
            with pytest.raises(CallerError, match=rf"p\[{row}\]\[{depth}\]\[[0-2]\]: expected .* got nan"):
                verify(scheme, KEY, Block(position, tokens, q, less))


def test_what_ratio_tests_need_of_p() -> None:
    """A row for each draft rejected; block verification needs none if it keeps all; K-SEQ one at each depth."""
    of = world(3, 1, 7)
    for position in range(0, 400, 5):
        block = block_of(of, position, 0, drafted("leviathan", KEY, of, position, 0, 3))
        one_by_one, by_block = verify("leviathan", KEY, block), verify("block-verification", KEY, block)
        kept = len(one_by_one.tokens) - 1
        assert one_by_one.rows == ([(0, kept)] if kept < 3 else [])
        assert one_by_one.singles == [(0, depth) for depth in range(min(kept + 1, 3))]
        assert by_block.rows == [(0, depth) for depth in reversed(range(len(by_block.tokens) - 1, 3))]
        assert verify("kseq", KEY, block).rows == one_by_one.singles


def test_rows_can_be_made_when_they_are_read() -> None:
    of = world(3, 3, 7)
    tokens = drafted("specinfer", KEY, of, 10, 0, 3)
    block = block_of(of, 10, 0, tokens)
    assert block.p is not None
    rows = Block(10, tokens, [list(each) for each in block.q], [list(each) for each in block.p])
    assert verify("specinfer", KEY, rows) == verify("specinfer", KEY, block)


# What is refused.


TOKENS, Q = np.zeros((2, 3), np.int64), np.full((2, 4, 5), 0.2)
P = Q[:, :3]


def with_row(rows: FloatArray, k: int, depth: int, row: list[float]) -> FloatArray:
    changed = rows.copy()
    changed[k, depth] = row
    return changed


@pytest.mark.parametrize(("made", "text"), [
    (lambda: Block(0, TOKENS[0], Q), r"tokens: expected integers of shape \[J, L\], got int64 of \[3\]"),
    (lambda: Block(0, Q[0].astype(object), Q), "tokens: expected integers .* got object"),
    (lambda: Block(0, TOKENS[:0], Q[:0]), "tokens: expected 1 to 256 drafts of 0 to 128 tokens, got 0 of 3"),
    (lambda: Block(0, np.zeros((257, 1), np.int64), np.ones((257, 2, 1))), "got 257 of 1"),
    (lambda: Block(0, np.zeros((1, 129), np.int64), np.ones((1, 130, 1))), "got 1 of 129"),
    (lambda: Block(-1, TOKENS, Q), "position: expected 0 to 4294967292, got -1"),
    (lambda: Block(MAX_ROUNDS - 3, TOKENS, Q), "position: expected .* got 4294967293"),
    (lambda: Block(0, TOKENS, Q[:, :3]), r"q: expected shape \[2, 4, V\], got \[2, 3, 5\]"),
    (lambda: Block(0, TOKENS, Q[0]), r"q: expected shape \[2, 4, V\], got \[4, 5\]"),
    (lambda: Block(0, TOKENS, [list(Q[0]), list(Q[1])[:2]]), r"q: expected shape .* got \[2, \[4, 2\]\]"),
    (lambda: Block(0, TOKENS, Q, Q), r"p: expected shape \[2, 3, V\], got \[2, 4, 5\]"),
    (lambda: Block(0, np.array([[0, 1, 5]]), Q[:1]), r"tokens\[0, 2\]: expected 0 to 4, got 5"),
    (lambda: Block(0, TOKENS - 1, Q), r"tokens\[0, 0\]: expected 0 to 4, got -1"),
    (lambda: Block(0, TOKENS, Q, of=1), "of: expected 2 .* to 256 streams, got 1"),
    (lambda: Block(0, TOKENS, Q, of=257), "of: .* got 257"),
    (lambda: Block(0, TOKENS, Q, streams=[0]), "streams: expected 2 different numbers from 0 to 1, got"),
    (lambda: Block(0, TOKENS, Q, streams=[1, 1], of=3), r"streams: .* got \[1, 1\]"),
    (lambda: Block(0, TOKENS, Q, streams=[0, 3], of=3), r"streams: .* 0 to 2, got \[0, 3\]"),
    (lambda: verify("best", KEY, Block(0, TOKENS, Q)), "scheme: expected one of gls, .* got 'best'"),
    (lambda: draft_token("best", KEY, 0, 0, [1.0], 0), "scheme: .* got 'best'"),
    (lambda: draft_token("gls", KEY, 0, 0, [1.0], 256), "stream and depth: .* got 256 and 0"),
    (lambda: draft_token("gls", KEY, 0, 128, [1.0], 0), "stream and depth: .* got 0 and 128"),
    (lambda: draft_token("gls", KEY, 0, 0, [1.0, -1.0], 0), r"weights\[1\]: .* got -1.0"),
    (lambda: draft_token("gls", KEY, MAX_ROUNDS, 0, [1.0], 0), "rounds: expected"),
    (lambda: verify("kseq", KEY, Block(0, TOKENS, Q, with_row(P, 1, 0, [0.6, 0.1, 0.1, 0.1, 0.1]))),
     r"p\[1\]\[0\]\[0\]: expected 0.2, as of draft 0, got 0.6; kseq needs drafts of one model"),
    (lambda: verify("specinfer", KEY, Block(0, TOKENS, Q, with_row(P, 0, 0, [0, 1.0, 0, 0, 0]))),
     r"p\[0\]\[0\]\[0\]: expected a probability above 0, since the token was drawn, got 0.0"),
    (lambda: verify("kseq", KEY, Block(0, TOKENS[:1], Q[:1], with_row(P[:1], 0, 0, [0, 1.0, 0, 0, 0]))),
     r"p\[0\]\[0\]\[0\]: expected a probability above 0, since the token was drawn, got 0.0"),
    (lambda: verify("kseq", KEY, Block(0, TOKENS, Q, with_row(P, 0, 0, [0, 0.5, 0, 0, 0]))), "the sum 0.5"),
    (lambda: verify("gls-strong", KEY, Block(0, TOKENS * 0, [[[1.0, 0.0]] + [[1.0]] * 3] * 2)),
     r"q\[0\]\[1\]: expected 2 probabilities, as in q\[0\]\[0\], got 1; cut padded vocabularies"),
])
def test_what_is_refused(made: Callable[[], object], text: str) -> None:
    with pytest.raises(CallerError, match=text):
        made()


def test_a_block_without_drafters_is_one_token_at_any_position() -> None:
    for scheme in SCHEMES:
        block = Block(MAX_ROUNDS - 1, np.zeros((1, 0), np.int64), Q[:1, :1], Q[:1, :0])
        assert len(verify(scheme, KEY, block).tokens) == 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_blocks_that_a_scheme_cannot_have(scheme: str) -> None:
    if scheme in SINGLE:
        with pytest.raises(CallerError, match=f"drafts: expected 1 for scheme {scheme}, got 2"):
            verify(scheme, KEY, Block(0, TOKENS, Q, P))
    if scheme in RATIOS:
        with pytest.raises(CallerError, match="p: expected the drafters' distributions, got none"):
            verify(scheme, KEY, Block(0, TOKENS[:1], Q[:1]))
    with pytest.raises(CallerError, match=r"q\[0\]\[0\]\[1\]: expected a finite probability .* got -0.2"):
        verify(scheme, KEY, Block(0, TOKENS[:1], with_row(Q[:1], 0, 0, [0.2, -0.2, 1, 0, 0]), P[:1]))
