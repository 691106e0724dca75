"""The published figures on couplings, as numbers: one row for each point, measured beside exact."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from glsnet import bounds
from glsnet.coupling import (
    Conversation,
    alice_low,
    alice_sends_all,
    bob_knows_all,
    bob_low,
    converse,
    draw_minhash,
    draw_x,
)
from glsnet.lab.pairs import Pair
from glsnet.randomness import seed_from_integer, session_key

Row = dict[str, Any]
EPSILONS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.001)


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

    From nothing sent (Gumbel, weighted MinHash), through Protocol 4, to the whole distribution (Protocol 1); `bits` and
    `messages` are per sample, `match` is Pr[a = b], with standard errors over pairs and rounds together.
    """
    shared, alice, bob = (session_key(seed_from_integer(seed), f"bits: {who}") for who in ("shared", "alice", "bob"))
    gumbel = [draw_x(shared, 0, rounds, pair.p, 0) == draw_x(shared, 0, rounds, pair.q, 0) for pair in pairs]
    progress()
    minhash = [draw_minhash(shared, 0, rounds, pair.p) == draw_minhash(shared, 0, rounds, pair.q) for pair in pairs]
    progress()
    rows = [_row("gumbel", None, gumbel, [], 0.0), _row("minhash", None, minhash, [], 0.0)]
    for epsilon in EPSILONS:
        talks = [converse(alice_low(shared, alice, i, pair.p, epsilon), bob_low(shared, bob, i, pair.q, epsilon))
                 for pair in pairs for i in range(rounds)]
        rows.append(_row("protocol 4", epsilon, [np.array([talk.a == talk.b for talk in talks])], talks,
                         float(np.mean([len(talk.messages) for talk in talks]))))
        progress()
    talks = [converse(alice_sends_all(alice, i, pair.p), bob_knows_all(bob, i, pair.q))
             for pair in pairs for i in range(rounds)]
    rows.append(_row("whole distribution", None, [np.array([talk.a == talk.b for talk in talks])], talks, 1.0))
    progress()
    optimum = float(np.mean([bounds.optimal_match(pair.p, pair.q) for pair in pairs]))
    return [row | {"optimal": optimum} for row in rows]


def _row(scheme: str, epsilon: float | None, matches: Sequence[Any], talks: Sequence[Conversation], messages: float
         ) -> Row:
    match = np.concatenate(matches).astype(np.float64)
    bits = np.array([talk.bits for talk in talks] or [0], dtype=np.float64)
    return {
        "scheme": scheme, "epsilon": epsilon, "bits": float(bits.mean()),
        "bits_error": float(bits.std() / math.sqrt(bits.size)), "messages": messages, "match": float(match.mean()),
        "match_error": _error(float(match.mean()), match.size),
    }


def _error(p: float, n: int) -> float:
    return math.sqrt(p * (1 - p) / n)
