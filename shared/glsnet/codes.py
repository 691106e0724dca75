"""The codes for a Gaussian source with side information at K decoders, by scheme: each party's half of each.

    scheme           the encoder                          decoder k's estimate
    gls              races over K streams, L_max blocks   E[A | t, its own winner] (Rowan, Phan, Khisti, D.3)
    baseline         the same over one stream             the same: all decoders race on stream 0
    posterior-mean   as gls                               E[A | t, message, shared randomness]: all that it knows
    posterior-list   as gls                               the same, supposing that the winner was on stream k
    nested           rounds, sends the coset              E[A | t, message]
    trellis          rounds, sends a trellis code's       E[A | all t, all messages of the frame]
    split            rounds to K parts of a cell          the likeliest cell, supposing that A is in its part k
    split-trellis    both                                 the same

For the first four see `sources.gaussian` and `envelope`, for the others `sources.quantiser`. Whatever the scheme, a
message is one of L_max values, and a decoder uses its own t, the messages and the seed only.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from glsnet import bits, entropy
from glsnet.errors import CallerError, FrameError
from glsnet.race import FloatArray, IntArray
from glsnet.randomness import MAX_BLOCKS, MAX_STREAMS
from glsnet.sources import gaussian, quantiser
from glsnet.sources.gaussian import Gaussian, SideInformation

RACES = ("gls", "baseline", "posterior-mean", "posterior-list")
QUANTISERS = ("nested", "trellis", "split", "split-trellis")
SCHEMES = RACES + QUANTISERS
DEFAULT_SIGMA2 = 0.001
LEAST_STEP, MOST_STEP = 1e-9, 1e3
PACKINGS = ("fixed", "entropy")
LEAST_SIGMA2 = 1e-6  # where all cells of a round are looked at: there are some 10,000 of them then


@dataclass(frozen=True)
class Code:
    """What every party knows of a code: the source, the scheme, K, L_max, and the resolution of its scheme.

    sigma2 is the variance of W given A as a share of the variance of A, for races; step the width of a quantiser's
    cell, or part of a cell, in standard deviations of A. packing is how messages become bytes: with a fixed width, or
    entropy-coded, which takes a race.

    Raises:
        CallerError: one of them is out of range, or not of this scheme.
    """

    source: Gaussian
    scheme: str
    decoders: int
    l_max: int
    sigma2: float | None = None
    step: float | None = None
    packing: str = "fixed"

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise CallerError(f"scheme: expected one of {', '.join(SCHEMES)}, got {self.scheme!r}")
        if not 1 <= self.decoders <= MAX_STREAMS:
            raise CallerError(f"decoders: expected 1 to {MAX_STREAMS}, got {self.decoders}")
        if not 1 <= self.l_max <= MAX_BLOCKS or (self.trellis and self.l_max % 2):
            kind = "an even number of" if self.trellis else "1 to"
            raise CallerError(f"l_max: expected {kind} {MAX_BLOCKS} messages for {self.scheme}, got {self.l_max}")
        if self.sigma2 is not None and self.sigma2 < LEAST_SIGMA2 and (
                self.scheme.startswith("posterior") or self.packing == "entropy"):
            raise CallerError(f"sigma2: expected at least {LEAST_SIGMA2:g} for {self.scheme} with {self.packing} "
                              f"packing, which look at every cell, got {self.sigma2!r}")
        given, other = ("sigma2", "step") if self.scheme in RACES else ("step", "sigma2")
        if not (isinstance(value := getattr(self, given), float) and math.isfinite(value) and value > 0):
            raise CallerError(f"{given}: expected a finite number above 0 for scheme {self.scheme}, got {value!r}")
        if self.step is not None and not LEAST_STEP <= self.step <= MOST_STEP:
            raise CallerError(f"step: expected {LEAST_STEP:g} to {MOST_STEP:g}, got {self.step!r}")
        if getattr(self, other) is not None:
            raise CallerError(f"{other}: expected none for scheme {self.scheme}, got {getattr(self, other)!r}")
        if self.packing not in PACKINGS or (self.packing == "entropy" and (
                self.scheme not in RACES or not 2 <= self.l_max <= entropy.MAX_MESSAGES)):
            raise CallerError(f"packing: expected fixed, or entropy for {', '.join(RACES)} with l_max from 2 to "
                              f"{entropy.MAX_MESSAGES}, got {self.packing!r} for {self.scheme} with {self.l_max}")

    @property
    def streams(self) -> int:
        """How many streams the encoder races over."""
        return 1 if self.scheme == "baseline" else self.decoders

    @property
    def parts(self) -> int:
        """How many parts a quantiser's cell is split into."""
        return self.decoders if self.scheme.startswith("split") else 1

    @property
    def trellis(self) -> bool:
        """Whether a trellis makes a quantiser's cosets."""
        return self.scheme.endswith("trellis")


class Chosen(NamedTuple):
    """What a party chose, shape [R] each: of a race the arrival, of a quantiser the part (as stream) and the cell."""

    stream: IntArray
    node: IntArray


def encode(code: Code, key: np.uint64, first_round: int, a: FloatArray) -> tuple[IntArray, Chosen]:
    """The encoder's half: the messages of samples a, shape [R], and what it chose.

    Raises:
        CallerError: a sample is not finite, or so far out that its weights underflow.
    """
    standard = code.source.standard(a)
    if code.sigma2 is not None:
        y = gaussian.encode(standard, code.sigma2, key, first_round, code.streams, code.l_max)
        return y.block, Chosen(y.stream, y.node)
    assert code.step is not None
    _check(standard, code.step)
    messages, at = quantiser.encode(standard, code.step, code.parts, code.l_max, code.trellis)
    return messages, Chosen(at.part, at.cell)


def decode(code: Code, side: SideInformation, key: np.uint64, first_round: int, t: FloatArray, messages: IntArray,
           k: int) -> tuple[FloatArray, Chosen]:
    """Decoder k's half: estimates of A in its own units, from t and messages, shape [R] each, and what it chose.

    Raises:
        CallerError: a sample is not finite, or so far out that its weights underflow.
    """
    mean = side.mean(t)
    if code.sigma2 is not None:
        stream = k if code.streams > 1 else 0
        x = gaussian.decode(mean, side.residual, code.sigma2, key, first_round, messages, stream)
        if code.scheme.startswith("posterior"):
            only = stream if code.scheme == "posterior-list" else -1
            estimate = gaussian.posterior_mean(mean, side.residual, code.sigma2, key, first_round, code.streams,
                                               code.l_max, messages, only)
        else:
            estimate = gaussian.reconstruct(mean, side.residual, code.sigma2, x.mark)
        return code.source.restored(estimate), Chosen(x.stream, x.node)
    assert code.step is not None
    _check(mean, code.step)
    estimate, at = quantiser.decode(mean, side.residual, messages, code.step, code.parts, k % code.parts, code.l_max,
                                    code.trellis)
    return code.source.restored(estimate), Chosen(at.part, at.cell)


def pack(code: Code, key: np.uint64, first_round: int, messages: IntArray) -> bytes:
    """The bytes of messages, shape [R]."""
    if code.packing == "fixed":
        return bits.pack(messages, bits.width_of(code.l_max))
    return entropy.encode(messages, _chances(code, key, first_round, messages.size))


def unpack(code: Code, key: np.uint64, first_round: int, count: int, packed: bytes) -> IntArray:
    """The messages of `count` rounds, shape [R].

    Raises:
        FrameError: the bytes are not those of as many messages, or a message is none.
    """
    if code.packing == "entropy":
        return entropy.decode(packed, _chances(code, key, first_round, count))
    messages = bits.unpack(packed, count, bits.width_of(code.l_max))
    if messages.max() >= code.l_max:
        at = int(messages.argmax())
        raise FrameError(f"index of round {first_round + at}: expected 0 to {code.l_max - 1} (l_max {code.l_max}), got "
                         f"{messages[at]}")
    return messages


def _chances(code: Code, key: np.uint64, first_round: int, rounds: int) -> Iterator[FloatArray]:
    """Pr[message | shared randomness], some rounds at a time, so that no frame takes much memory."""
    few = max(1, (1 << 20) // code.l_max)
    for start in range(0, rounds, few):
        yield message_probabilities(code, key, first_round + start, min(few, rounds - start))


def message_probabilities(code: Code, key: np.uint64, first_round: int, rounds: int) -> FloatArray:
    """Pr[message | shared randomness] of a race, in each round, shape [R, l_max]."""
    assert code.sigma2 is not None
    return gaussian.message_probabilities(code.sigma2, key, first_round, rounds, code.streams, code.l_max)


def _check(values: FloatArray, step: float) -> None:
    bad = ~(np.abs(values) < 2.0**50 * min(step, 1.0))
    if bad.any():
        at = int(bad.argmax())
        raise CallerError(f"sample {at}: expected a finite number within 2^50 steps of {step:g} standard deviations, "
                          f"got {float(values[at])!r} of them; check the sample's units")
