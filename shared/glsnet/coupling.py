"""Each party's half of Gumbel-max list sampling over a finite alphabet.

    encoder (Bob)           draws Y from q over all K streams      draw_y
    decoder k (Alice k)     draws X(k) from p_k over stream k      draw_x

The two halves share the key and nothing else, and send nothing. Y matches when it is one of X(1), ..., X(K):
`bounds.list_matching_lemma` says how often at least. The halves over a Gaussian prior are in `sources.gaussian`.
"""

import numpy as np
from numpy.typing import ArrayLike

from glsnet.race import IntArray, finite_race


def draw_y(key: np.uint64, first_round: int, rounds: int, q: ArrayLike, streams: int) -> IntArray:
    """The encoder's half: Y = argmin_i min_k S_i(k) / q_i in each round (Rowan, Phan, Khisti, Algorithm 1).

    Args:
        key: session key, the same for every party.
        first_round: the number of the first round.
        rounds: how many rounds R.
        q: shape [N], the encoder's weights; they need not sum to 1.
        streams: the number of streams K.

    Returns:
        shape [R], items 0 to N - 1, each distributed as q.

    Raises:
        CallerError: an argument is outside its range (see `race.finite_race`).
    """
    return finite_race(key, first_round, rounds, range(streams), q).item


def draw_x(key: np.uint64, first_round: int, rounds: int, p: ArrayLike, stream: int) -> IntArray:
    """Decoder k's half: X(k) = argmin_i S_i(k) / p_i in each round (Rowan, Phan, Khisti, Algorithm 1).

    Args:
        key: session key, the same for every party.
        first_round: the number of the first round.
        rounds: how many rounds R.
        p: shape [N], this decoder's weights; they need not sum to 1, and decoders may differ.
        stream: this decoder's stream k, from 0.

    Returns:
        shape [R], items 0 to N - 1, each distributed as p; independent between streams.

    Raises:
        CallerError: an argument is outside its range (see `race.finite_race`).
    """
    return finite_race(key, first_round, rounds, [stream], p).item
