"""From logits to the distribution that tokens are drawn from: temperature, then top-k, then top-p.

Tokens are masked before any noise is drawn, so that every party that samples alike races over the same tokens.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glsnet.errors import CallerError
from glsnet.race import FloatArray, IntArray

MAX_TEMPERATURE = 100.0
MAX_TOP_K = (1 << 31) - 1


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Args:
        temperature: 0 to MAX_TEMPERATURE; 0 is greedy.
        top_k: only so many of the likeliest tokens; 0 is all.
        top_p: only the fewest of the likeliest tokens that have at least this probability together, above 0 up to 1.

    Raises:
        CallerError: one is outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise CallerError(f"temperature: expected 0 (greedy) to {MAX_TEMPERATURE:g}, got {self.temperature}")
        if not 0 <= self.top_k <= MAX_TOP_K:
            raise CallerError(f"top_k: expected 0 (all) to {MAX_TOP_K}, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise CallerError(f"top_p: expected above 0 up to 1, got {self.top_p}")

    def probabilities(self, logits: FloatArray) -> FloatArray:
        """The distribution of each row; of equally likely tokens at the edge of top-k or top-p, the first stay.

        Args:
            logits: shape [..., V]; -inf is probability 0.

        Returns:
            shape [..., V], probabilities.

        Raises:
            CallerError: a logit is NaN or +inf, or all of a row are -inf.
        """
        vocabulary = logits.shape[-1]
        rows = logits.reshape(-1, vocabulary)
        peaks = rows.max(axis=-1, keepdims=True)
        if not np.isfinite(peaks).all():
            raise CallerError("logits: expected numbers or -inf, and one above -inf in each row, got a row whose "
                              f"largest is {peaks[~np.isfinite(peaks)][0]}")
        if self.temperature == 0:
            return _spread(np.ones((len(rows), 1)), rows.argmax(axis=-1)[:, None], logits.shape)
        tokens: IntArray | None = None
        if 0 < self.top_k < vocabulary:  # of what follows, nothing looks at more than k columns
            least = np.partition(rows, -self.top_k, axis=-1)[:, [-self.top_k]]
            kept = _largest(rows, np.full(len(rows), self.top_k), least)
            tokens = np.nonzero(kept)[1].reshape(len(rows), self.top_k)
            rows = np.take_along_axis(rows, tokens, axis=-1)
        with np.errstate(over="ignore"):  # -inf at temperatures next to nothing
            weights: FloatArray = rows - peaks
            weights /= self.temperature
            np.exp(weights, out=weights)
        if self.top_p < 1:
            weights *= _nucleus(weights, self.top_p)
        weights /= weights.sum(axis=-1, keepdims=True)
        return weights.reshape(logits.shape) if tokens is None else _spread(weights, tokens, logits.shape)


def _spread(weights: FloatArray, tokens: IntArray, shape: tuple[int, ...]) -> FloatArray:
    """Weights, shape [R, n], at their tokens; 0 elsewhere."""
    spread = np.zeros((len(weights), shape[-1]))
    np.put_along_axis(spread, tokens, weights, axis=-1)
    return spread.reshape(shape)


def _nucleus(weights: FloatArray, top_p: float) -> NDArray[np.bool_]:
    """Of each row, the fewest largest that have `top_p` of its sum."""
    counts, least = np.zeros(len(weights), np.int64), np.zeros((len(weights), 1))
    for row, total in enumerate(weights.sum(axis=-1)):
        # What is lighter than this comes to less than 1 - top_p, all of it, and need not be sorted.
        heavy = weights[row] >= (1 - top_p) * total / weights.shape[1]
        descending = np.sort(weights[row, heavy])[::-1]
        counts[row] = 1 + np.count_nonzero(np.cumsum(descending)[:-1] < top_p * total)
        least[row] = descending[counts[row] - 1]
    return _largest(weights, counts, least)


def _largest(values: FloatArray, counts: IntArray, least: FloatArray) -> NDArray[np.bool_]:
    """Exactly counts[r] largest of row r, the first of those that are equal; least[r, 0] is the smallest of them."""
    kept = values >= least
    for row in np.flatnonzero(np.count_nonzero(kept, axis=-1) > counts):
        equal = np.flatnonzero(values[row] == least[row])
        kept[row, equal[len(equal) - (np.count_nonzero(kept[row]) - counts[row]) :]] = False
    return kept
