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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from glsnet import bits, entropy
from glsnet.errors import CallerError, FrameError
from glsnet.frames import Terms
from glsnet.joining import missing
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
_AT_ONCE = 256  # rounds of which chances are worked out together
LEAST_SIGMA2 = 1e-6  # where all cells of a round are looked at: there are some 10,000 of them then


class Chosen(NamedTuple):
    """What a party chose, shape [R] each: of a race the arrival, of a quantiser the part (as stream) and the cell."""

    stream: IntArray
    node: IntArray


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
    def purpose(self) -> str:
        """Of the session key."""
        return "gaussian-race"

    def terms(self) -> Terms:
        """What a session has to agree on."""
        return Terms(scheme=self.scheme, decoders=self.decoders, l_max=self.l_max, width=bits.width_of(self.l_max),
                     mean=self.source.mean, variance=self.source.variance, sigma2=self.sigma2, step=self.step,
                     packing=self.packing)

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

    def encode(self, key: np.uint64, first_round: int, a: FloatArray) -> tuple[IntArray, Chosen]:
        """The encoder's half: the messages of samples a, shape [R], and what it chose.

        Raises:
            CallerError: a sample is not finite, or so far out that its weights underflow.
        """
        standard = self.source.standard(a)
        if self.sigma2 is not None:
            y = gaussian.encode(standard, self.sigma2, key, first_round, self.streams, self.l_max)
            return y.block, Chosen(y.stream, y.node)
        assert self.step is not None
        _check(standard, self.step)
        messages, at = quantiser.encode(standard, self.step, self.parts, self.l_max, self.trellis)
        return messages, Chosen(at.part, at.cell)

    def decode(self, side: SideInformation, key: np.uint64, first_round: int, t: FloatArray, messages: IntArray,
               k: int) -> tuple[FloatArray, Chosen]:
        """Decoder k's half: estimates of A in its own units, from t and messages, shape [R] each, and what it chose.

        Raises:
            CallerError: a sample is not finite, or so far out that its weights underflow.
        """
        mean = side.mean(t)
        if self.sigma2 is not None:
            stream = k if self.streams > 1 else 0
            x = gaussian.decode(mean, side.residual, self.sigma2, key, first_round, messages, stream)
            if self.scheme.startswith("posterior"):
                only = stream if self.scheme == "posterior-list" else -1
                estimate = gaussian.posterior_mean(mean, side.residual, self.sigma2, key, first_round, self.streams,
                                                   self.l_max, messages, only)
            else:
                estimate = gaussian.reconstruct(mean, side.residual, self.sigma2, x.mark)
            return self.source.restored(estimate), Chosen(x.stream, x.node)
        assert self.step is not None
        _check(mean, self.step)
        estimate, at = quantiser.decode(mean, side.residual, messages, self.step, self.parts, k % self.parts,
                                        self.l_max, self.trellis)
        return self.source.restored(estimate), Chosen(at.part, at.cell)

    def pack(self, key: np.uint64, first_round: int, messages: IntArray) -> bytes:
        """The bytes of messages, shape [R]."""
        if self.packing == "fixed":
            return packed(self.l_max, messages)
        return entropy.encode(messages, self._chances(key, first_round, messages.size))

    def unpack(self, key: np.uint64, first_round: int, count: int, data: bytes) -> IntArray:
        """The messages of `count` rounds, shape [R].

        Raises:
            FrameError: the bytes are not those of as many messages, or a message is none.
        """
        if self.packing == "entropy":
            return entropy.decode(data, self._chances(key, first_round, count))
        return unpacked(self.l_max, first_round, count, data)

    def _chances(self, key: np.uint64, first_round: int, rounds: int) -> Iterator[FloatArray]:
        """Pr[message | shared randomness], some rounds at a time, so that no frame takes much memory, and one that says
        it has many more rounds than it has is found out soon.
        """
        few = max(1, min(_AT_ONCE, (1 << 20) // self.l_max))
        for start in range(0, rounds, few):
            yield self.message_probabilities(key, first_round + start, min(few, rounds - start))

    def message_probabilities(self, key: np.uint64, first_round: int, rounds: int) -> FloatArray:
        """Pr[message | shared randomness] of a race, in each round, shape [R, l_max]."""
        assert self.sigma2 is not None
        return gaussian.message_probabilities(self.sigma2, key, first_round, rounds, self.streams, self.l_max)


@dataclass(frozen=True)
class Decoding:
    """A code at one decoder, whose t tells `side` of the source."""

    code: Code
    side: SideInformation

    @property
    def purpose(self) -> str:
        """Of the session key."""
        return self.code.purpose

    def terms(self) -> Terms:
        """As `Code.terms`."""
        return self.code.terms()

    def unpack(self, key: np.uint64, first_round: int, count: int, data: bytes) -> IntArray:
        """As `Code.unpack`."""
        return self.code.unpack(key, first_round, count, data)

    def decode(self, key: np.uint64, first_round: int, t: FloatArray, messages: IntArray, k: int
               ) -> tuple[FloatArray, Chosen]:
        """As `Code.decode`."""
        return self.code.decode(self.side, key, first_round, t, messages, k)


def code_of(terms: Terms) -> Code:
    """The code that an encoder's terms, or a lab's order, describe; packing is fixed unless they say otherwise.

    Raises:
        FrameError: some of them are missing.
        CallerError: they are not possible.
    """
    match terms:
        case Terms(scheme=str(scheme), decoders=int(decoders), l_max=int(l_max), mean=float(mean),
                   variance=float(variance)):
            return Code(Gaussian(mean, variance), scheme, decoders, l_max, terms.sigma2, terms.step,
                        terms.packing or "fixed")
    raise missing(terms, "scheme", "decoders", "l_max", "mean", "variance")


def decoding(side_of: Callable[[Gaussian], SideInformation]) -> Callable[[Terms], Decoding]:
    """How a decoder makes its half of the code that terms describe; `side_of` says what its t tells of the source."""
    def of(terms: Terms) -> Decoding:
        code = code_of(terms)
        return Decoding(code, side_of(code.source))

    return of


def packed(l_max: int, messages: IntArray) -> bytes:
    """The bytes of messages 0 to l_max - 1, shape [R], with a fixed width."""
    return bits.pack(messages, bits.width_of(l_max))


def unpacked(l_max: int, first_round: int, count: int, data: bytes) -> IntArray:
    """The inverse of `packed`, shape [count]; raises FrameError as `Code.unpack` does."""
    messages = bits.unpack(data, count, bits.width_of(l_max))
    if messages.max() >= l_max:
        at = int(messages.argmax())
        raise FrameError(f"index of round {first_round + at}: expected 0 to {l_max - 1} (l_max {l_max}), got "
                         f"{messages[at]}")
    return messages


def _check(values: FloatArray, step: float) -> None:
    bad = ~(np.abs(values) < 2.0**50 * min(step, 1.0))
    if bad.any():
        at = int(bad.argmax())
        raise CallerError(f"sample {at}: expected a finite number within 2^50 steps of {step:g} standard deviations, "
                          f"got {float(values[at])!r} of them; check the sample's units")
