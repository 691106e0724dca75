"""Distributions on the wire: float16 of all V tokens, or, where that is shorter, of those that have any.

A drafter whose distribution may be asked for draws from what it would send, so that both parties test with the same p.
"""

import numpy as np
from numpy.typing import NDArray

from glsnet import bits
from glsnet.errors import FrameError
from glsnet.race import FloatArray

Weights = NDArray[np.float16]


def rounded(p: FloatArray) -> Weights:
    """Of probabilities, shape [V], what is sent of them: weights within 2^-11 of p, if they are not below 2^-14."""
    return p.astype(np.float16)


def shares(weights: Weights) -> FloatArray:
    """The distribution, shape [V], that weights stand for."""
    exact = weights.astype(np.float64)
    p: FloatArray = exact / exact.sum()
    return p


def pack(weights: Weights) -> tuple[int, bytes]:
    """How many tokens are named, 0 if all have their place, and the bytes."""
    support = np.flatnonzero(weights)
    width = bits.width_of(weights.size)
    if bits.packed_size(support.size, width) + 2 * support.size < 2 * weights.size:
        return support.size, bits.pack(support, width) + weights[support].astype("<f2").tobytes()
    return 0, weights.astype("<f2").tobytes()


def unpack(packed: bytes, count: int, vocabulary: int) -> FloatArray:
    """The distribution, shape [V].

    Raises:
        FrameError: there are more or fewer bytes, a token is out of range or there twice, or it is no distribution.
    """
    named = bits.packed_size(count, bits.width_of(vocabulary))
    expected = named + 2 * (count or vocabulary)
    if len(packed) != expected:
        raise FrameError(f"row: expected {expected} bytes for {count or vocabulary} probabilities, got {len(packed)}")
    weights = np.frombuffer(packed[named:], "<f2").astype(np.float16)
    if count:
        tokens = bits.unpack(packed[:named], count, bits.width_of(vocabulary))
        if (np.diff(tokens) <= 0).any() or tokens[-1] >= vocabulary:
            raise FrameError(f"row: expected rising tokens from 0 to {vocabulary - 1}, got {tokens.tolist()[:10]}")
        values, weights = weights, np.zeros(vocabulary, np.float16)
        weights[tokens] = values
    with np.errstate(invalid="ignore"):  # both infinities
        total = float(weights.sum(dtype=np.float64))
    if not (weights >= 0).all() or not 0.9 < total < 1.1:
        raise FrameError(f"row: expected probabilities that sum to about 1, got {total!r}")
    return shares(weights)
