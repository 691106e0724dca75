"""Nested quantisers of a standardised source with side information: the simple codes that random ones are held against.

The encoder rounds A to cell J of width `step` and sends J's coset; the decoder, who knows that A is N(m, residual),
finds the cell in the coset. With L = l_max:

    scalar    message J mod L: cells L apart share it (Zamir, Shamai, Erez 2002, in one dimension)
    trellis   the cosets are those of a trellis code (Ungerboeck's 64 states; Pradhan and Ramchandran 2003): the low
              log2 (L / 2) bits of J as they are, and of the next two bits one of syndrome. Sequences that share a
              message are then 14 squared steps of L / 2 cells apart, not 4, for the same rate. Every frame is a block.
    split     (of either) each cell is cut into K parts, J = K j + k; j is coded, and decoder k supposes that A is in
              part k. It is right for one of the K: what GLS does with its streams, by rule instead of by chance. Good
              for the best of K, bad for each by itself.

Estimates: E[A | t, messages], exactly (for the trellis by the forward-backward algorithm), but for split codes the
centre of the likeliest cell: there a decoder that hedges is never the best.
"""

import math
from typing import NamedTuple

import numpy as np

from glsnet.envelope import normal_density, normal_mass
from glsnet.race import FloatArray, IntArray
from glsnet.randomness import kernel

# Parity checks of the code with 64 states for one-dimensional signals, free squared distance 14 (Ungerboeck 1982).
_H0, _H1, _STATES = 0o103, 0o024, 64
_LEAST = 1e-30
_REACH = 7.0  # standard deviations of A given T = t, looked at to each side


class Quantised(NamedTuple):
    """What a party takes each sample to be in, shape [R]: the cell j, and of a split code the part k, else 0."""

    cell: IntArray
    part: IntArray


def encode(a: FloatArray, step: float, parts: int, l_max: int, trellis: bool) -> tuple[IntArray, Quantised]:
    """The encoder's half: messages 0 to l_max - 1 of standardised samples a, shape [R] each, and their cells.

    Args:
        a: shape [R], in standard units.
        step: width of a cell, or of a part of it, in the same units.
        parts: how many parts a cell is split into: K, or 1.
        l_max: number of messages; even for a trellis.
        trellis: whether to code with the trellis; the block is these R samples.
    """
    number = np.floor(a / step + 0.5).astype(np.int64)
    cell, part = number // parts, number % parts
    if not trellis:
        return cell % l_max, Quantised(cell, part)
    low = l_max // 2
    return cell % low + low * _syndrome(cell // low % 4), Quantised(cell, part)


def decode(mean: FloatArray, residual: float, messages: IntArray, step: float, parts: int, part: int, l_max: int,
           trellis: bool) -> tuple[FloatArray, Quantised]:
    """A decoder's half: estimates of the standardised samples, shape [R], and the cells taken for likeliest.

    Args:
        mean: shape [R], E[A | T = t].
        residual: Var(A | T), at least 0.
        messages: shape [R], the whole block for a trellis.
        step, parts, l_max, trellis: as for `encode`.
        part: the part that this decoder supposes, 0 to parts - 1.
    """
    estimate: FloatArray = np.empty(mean.size)
    cell: IntArray = np.empty(mean.size, np.int64)
    deviation = math.sqrt(max(residual, 1e-18))
    if trellis:
        _decode_trellis(mean, deviation, messages, step, parts, part, l_max, estimate, cell)
    else:
        _decode_scalar(mean, deviation, messages, step, parts, part, l_max, estimate, cell)
    if parts > 1:
        estimate[:] = step * (parts * cell + part)
    return estimate, Quantised(cell, np.full(mean.size, part))


@kernel
def _syndrome(pairs: IntArray) -> IntArray:
    """One bit for each two bits of `pairs`, shape [R]: 0 throughout for sequences of the trellis code."""
    bits, state = np.empty_like(pairs), 0
    for i in range(pairs.size):
        sums = state ^ (_H0 * (pairs[i] & 1)) ^ (_H1 * (pairs[i] >> 1))
        bits[i], state = sums & 1, sums >> 1
    return bits


@kernel
def _decode_scalar(mean: FloatArray, deviation: float, messages: IntArray, step: float, parts: int, part: int,
                   l_max: int, estimate: FloatArray, cell: IntArray) -> None:
    for i in range(mean.size):
        mass, moment = _coset(mean[i], deviation, step, parts, part, messages[i], l_max)
        estimate[i] = moment / mass if mass > 0.0 else mean[i]
        cell[i] = _nearest(mean[i], step, parts, part, messages[i], l_max)


@kernel
def _decode_trellis(mean: FloatArray, deviation: float, messages: IntArray, step: float, parts: int, part: int,
                    l_max: int, estimate: FloatArray, cell: IntArray) -> None:
    """Forward and backward over the states of the syndrome former: at each sample the bits c0, by the syndrome, and c1.

    The chance of a sequence is the product of its cosets' masses; from `after`, that of all that may follow a state.
    """
    low = l_max // 2
    mass, moment = np.empty((mean.size, 4)), np.empty((mean.size, 4))
    before = np.zeros((mean.size + 1, _STATES))
    before[0, 0] = 1.0
    for i in range(mean.size):
        syndrome = messages[i] // low
        for pair in range(4):
            mass[i, pair], moment[i, pair] = _coset(mean[i], deviation, step, parts, part,
                                                    messages[i] % low + low * pair, 4 * low)
            # So much for what the model leaves out: a sample out of reach leaves every sequence possible.
            mass[i, pair], moment[i, pair] = mass[i, pair] + _LEAST, moment[i, pair] + _LEAST * mean[i]
        for state in range(_STATES):
            c0 = (state ^ syndrome) & 1
            for c1 in range(2):
                before[i + 1, (state ^ (_H0 * c0) ^ (_H1 * c1)) >> 1] += before[i, state] * mass[i, c0 + 2 * c1]
        _normalise(before[i + 1])
    after, weight = np.ones(_STATES), np.empty(4)
    for i in range(mean.size - 1, -1, -1):
        syndrome, earlier = messages[i] // low, np.zeros(_STATES)
        weight[:] = 0.0
        for state in range(_STATES):
            c0 = (state ^ syndrome) & 1
            for c1 in range(2):
                following = after[(state ^ (_H0 * c0) ^ (_H1 * c1)) >> 1]
                earlier[state] += following * mass[i, c0 + 2 * c1]
                weight[c0 + 2 * c1] += before[i, state] * following
        _normalise(earlier)
        after, total = earlier, (weight * mass[i]).sum()
        estimate[i] = (weight * moment[i]).sum() / total if total > 0.0 else mean[i]
        pair = int(np.argmax(weight * mass[i]))
        cell[i] = _nearest(mean[i], step, parts, part, messages[i] % low + low * pair, 4 * low)


@kernel
def _normalise(chances: FloatArray) -> None:
    """Make them sum to 1; where messages fit no sequence, all alike."""
    total = chances.sum()
    if total > 0.0:
        chances /= total
    else:
        chances[:] = 1.0 / chances.size


@kernel
def _coset(mean: float, deviation: float, step: float, parts: int, part: int, first: int, apart: int
           ) -> tuple[float, float]:
    """Pr[A in the part of a cell first, first + apart, ... or first - apart, ...], and E[A; A there]."""
    period, origin = step * parts * apart, step * (parts * first + part)
    if period < 0.02 * deviation:  # so fine that it tells nothing
        return 1.0 / (parts * apart), mean / (parts * apart)
    mass = moment = 0.0
    for n in range(math.floor((mean - _REACH * deviation - origin) / period),
                   math.ceil((mean + _REACH * deviation - origin) / period) + 1):
        left = (origin + n * period - 0.5 * step - mean) / deviation
        right = left + step / deviation
        share = normal_mass(left, right)
        mass += share
        moment += mean * share + deviation * (normal_density(left) - normal_density(right))
    return mass, moment


@kernel
def _nearest(mean: float, step: float, parts: int, part: int, first: int, apart: int) -> int:
    """The cell among first, first + apart, ... whose part is nearest to the mean."""
    return first + apart * math.floor((mean - step * (parts * first + part)) / (step * parts * apart) + 0.5)
