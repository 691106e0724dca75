"""The published figures on couplings, as numbers: one row for each point, measured beside exact."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glsnet import bounds
from glsnet.coupling import Scheme, alice, bob, converse, draw_minhash, draw_x, draw_y, keys_of
from glsnet.lab.pairs import Pair
from glsnet.race import FloatArray
from glsnet.randomness import seed_from_integer, session_key

Row = dict[str, Any]
BITS_SCHEMES = (
    Scheme("gumbel"), Scheme("minhash"), Scheme("equality-check"), *(Scheme("gls", k) for k in (2, 4, 8)),
    *(Scheme("low-communication", epsilon=epsilon) for epsilon in (1.0, 0.3, 0.1, 0.03, 0.01, 0.001)),
    Scheme("whole-distribution"),
)
BATCH = 50  # rounds whose bits are taken together, for their standard error


def collision(pairs: Sequence[Pair], rounds: int, seed: int, progress: Callable[[], None]) -> list[Row]:
    """Collision probability against total variation (DMS, Figure 2): a row for each pair.

    Args:
        pairs: the distributions.
        rounds: how many seeds for each pair and scheme; each round of a session is one.
        seed: the session's.
        progress: called after each pair.
    """
    key = session_key(seed_from_integer(seed), "collision")
    rows = []
    for at, (name, p, q) in enumerate(pairs):
        start = at * rounds
        gumbel = np.mean(draw_x(key, start, rounds, p, 0) == draw_x(key, start, rounds, q, 0))
        minhash = np.mean(draw_minhash(key, start, rounds, p) == draw_minhash(key, start, rounds, q))
        distance = min(bounds.total_variation(p, q), 1.0)
        rows.append({
            "pair": name, "items": p.size, "total_variation": distance,
            "gumbel": float(gumbel), "gumbel_error": _error(float(gumbel), rounds),
            "gumbel_exact": bounds.gumbel_match(p, q),
            "minhash": float(minhash), "minhash_error": _error(float(minhash), rounds),
            "minhash_exact": bounds.minhash_match(p, q),
            "optimal": bounds.optimal_match(p, q), "worst_case": bounds.worst_case(distance),
        })
        progress()
    return rows


def bits_against_match(pairs: Sequence[Pair], rounds: int, seed: int, progress: Callable[[], None]) -> list[Row]:
    """What a match costs: a row for each scheme (for Protocol 4, each epsilon), means over all pairs.

    From nothing sent (Gumbel, weighted MinHash, the equality check, and lists of K by GLS), through Protocol 4, to the
    whole distribution (Protocol 1). By sample, `bits` is what the messages' fields can hold, `messages` counts those
    with an index (DMS, Claim 7), and `match` is Pr[a = b], for a list that any a is b; with standard errors over pairs
    and rounds together. `optimal` is the most that any scheme reaches with as many decoders.
    """
    rows = []
    for scheme in BITS_SCHEMES:
        talks = [_talk(scheme, pair, at * rounds + start, min(BATCH, rounds - start), seed)
                 for at, pair in enumerate(pairs) for start in range(0, rounds, BATCH)]
        match = float(np.concatenate([talk.matched for talk in talks]).mean())
        bits = np.array([talk.bits / talk.matched.size for talk in talks])
        samples = rounds * len(pairs)
        rows.append({
            "scheme": scheme.name, "decoders": scheme.decoders, "epsilon": scheme.epsilon,
            "bits": sum(talk.bits for talk in talks) / samples, "bits_error": float(bits.std() / math.sqrt(bits.size)),
            "messages": sum(talk.messages for talk in talks) / samples, "match": match,
            "match_error": _error(match, samples),
            "optimal": float(np.mean([bounds.optimal_list_match(pair.p, pair.q, scheme.decoders) for pair in pairs])),
        })
        progress()
    return rows


class _Talk(NamedTuple):
    """A batch of rounds: whether any Alice matched Bob, shape [R]; bits and messages of them all."""

    matched: NDArray[np.bool_]
    bits: float
    messages: int


def _talk(scheme: Scheme, pair: Pair, first_round: int, rounds: int, seed: int) -> _Talk:
    """Every Alice with the same Bob: with more than one of them nobody says anything, so that he draws the same."""
    secret = seed_from_integer(seed)
    talks = [converse(alice(scheme, keys_of(secret, "alice"), first_round, rounds, pair.p, stream),
                      bob(scheme, keys_of(secret, "bob"), first_round, rounds, pair.q))
             for stream in range(scheme.decoders)]
    return _Talk(np.any([talk.a == talk.b for talk in talks], axis=0), sum(talk.bits for talk in talks),
                 sum(sum(talk.indices) for talk in talks))


def random_pairs(count: int, items: int, seed: int) -> list[Pair]:
    """Pairs drawn uniformly from all distributions over `items` items (Dirichlet with all ones)."""
    draws = np.random.default_rng(seed).dirichlet(np.ones(items), (count, 2))
    return [Pair(str(i), p, q) for i, (p, q) in enumerate(draws)]


def matching(pairs: Sequence[Pair], most: int, rounds: int, seed: int, progress: Callable[[], None]) -> list[Row]:
    """Matching rate against K (RPK, the comparison on random pairs): a row for each K, means over all pairs.

    `gls` is measured, beside the exact rates of SpecInfer and K-SEQ, the optimum over all schemes, and the list
    matching lemma. In a single round the strong and the conditional form of GLS are the same; they part at the second
    token, where only the streams that matched the first are alive. There `conditional` races over those alive,
    `strong` over all K, each beside its bound; rates are among the rounds with a stream alive.

    Args:
        pairs: the distributions; both rounds have the same.
        most: K goes from 1 to this.
        rounds: how many tokens' worth of pairs of rounds, for each pair and K.
        seed: the session's.
        progress: called after each K.
    """
    key = session_key(seed_from_integer(seed), "matching")
    rows = []
    for k in range(1, most + 1):
        first: list[FloatArray] = []
        second: list[FloatArray] = []  # a column each: conditional, its bound, strong, its bound
        for at, (_, p, q) in enumerate(pairs):
            start = at * 2 * rounds
            x = np.array([draw_x(key, start, 2 * rounds, p, stream) for stream in range(k)])
            y = draw_y(key, start, 2 * rounds, q, range(k))
            hits = x == y
            first.append(hits[:, :rounds].any(axis=0).astype(np.float64))
            lemma = np.array([math.nan, *(bounds.list_matching_lemma(p, q, j) for j in range(1, k + 1))])
            alive, matched = hits[:, :rounds], hits[:, rounds:]
            for i in np.flatnonzero(alive.any(axis=0)).tolist():
                streams = np.flatnonzero(alive[:, i]).tolist()
                conditional = draw_y(key, start + rounds + i, 1, q, streams)[0]
                second.append(np.array([(x[streams, rounds + i] == conditional).any(), lemma[len(streams)],
                                        matched[streams, i].any(), len(streams) / k * lemma[k]]))
        conditional_rate, conditional_bound, strong_rate, strong_bound = np.mean(second, axis=0).tolist()
        gls = float(np.mean(first))
        rows.append({
            "k": k, "gls": gls, "gls_error": _error(gls, rounds * len(pairs)),
            **{name: float(np.mean([bound(p, q, k) for _, p, q in pairs])) for name, bound in (
                ("lemma", bounds.list_matching_lemma), ("specinfer", bounds.specinfer_match),
                ("kseq", bounds.kseq_match), ("optimum", bounds.optimal_list_match),
                ("equality_check", bounds.equality_check_match),
            )},
            "second_rounds": len(second),
            "conditional": conditional_rate, "conditional_error": _error(conditional_rate, len(second)),
            "conditional_bound": conditional_bound,
            "strong": strong_rate, "strong_error": _error(strong_rate, len(second)), "strong_bound": strong_bound,
        })
        progress()
    return rows


def _error(p: float, n: int) -> float:
    return math.sqrt(p * (1 - p) / n)
