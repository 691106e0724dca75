"""The Gaussian source with side information (Rowan, Phan, Khisti, appendix D.3): weights in, reconstructions out.

Everything below is in standard units of the source, A' = (A - mean) / sqrt(variance), until `reconstruct` goes back:

    A' ~ N(0, 1)                         the sample, seen by the encoder alone
    W | A' = a ~ N(a, s)                 the codeword distribution that the encoder aims at, s = sigma2
    A' | T = t ~ N(m, nu)                what one decoder knows: m = intercept + slope t, nu = residual
    W | T = t ~ N(m, nu + s)             the codeword distribution that this decoder aims at
    W ~ N(0, 1 + s)                      the prior, and base measure of the race: mark z = W / sqrt(1 + s)

Against the prior, N(m, v) is a parabola in z: precision (1 + s - v) / v around m sqrt(1 + s) / (1 + s - v).
"""

import math
from dataclasses import dataclass

import numpy as np

from glsnet.errors import CallerError
from glsnet.race import FloatArray, IntArray, NormalWinners, normal_race

_LEAST_RESIDUAL = 1e-12


@dataclass(frozen=True)
class Gaussian:
    """What every party knows of the source: a term of the session.

    mean and variance are those of A, in the sample's own units; sigma2 is the variance of W given A as a share of
    the variance of A, above 0.
    """

    mean: float
    variance: float
    sigma2: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise CallerError(f"mean: expected a finite number, got {self.mean!r}")
        for name in ("variance", "sigma2"):
            if not (math.isfinite(value := getattr(self, name)) and value > 0):
                raise CallerError(f"{name}: expected a finite number above 0, got {value!r}")


@dataclass(frozen=True)
class SideInformation:
    """What one decoder knows of A' from its own T = t: A' is N(intercept + slope t, residual), residual in [0, 1]."""

    slope: float
    intercept: float
    residual: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept) and 0 <= self.residual <= 1):
            raise CallerError(
                f"side information: expected a finite slope and intercept and a residual from 0 to 1, got {self}"
            )

    def mean(self, t: FloatArray) -> FloatArray:
        """E[A' | T = t], shape [R] from shape [R]."""
        return self.intercept + self.slope * t


def noisy_observation(source: Gaussian, noise_variance: float) -> SideInformation:
    """The side information T = A + N(0, noise_variance), noise variance in the sample's own units squared.

    Raises:
        CallerError: the noise variance is no finite number of at least 0.
    """
    if not (math.isfinite(noise_variance) and noise_variance >= 0):
        raise CallerError(f"noise_variance: expected a finite number of at least 0, got {noise_variance!r}")
    slope = math.sqrt(source.variance) / (source.variance + noise_variance)
    return SideInformation(slope, -slope * source.mean, noise_variance / (source.variance + noise_variance))


def fit_side_information(source: Gaussian, a: FloatArray, t: FloatArray) -> SideInformation:
    """The least-squares line of A' on T from joint samples a and t, each of shape [N], neither constant."""
    standard = (a - source.mean) / math.sqrt(source.variance)
    deviation = t - t.mean()
    slope = float(deviation @ (standard - standard.mean()) / (deviation @ deviation))
    intercept = float(standard.mean() - slope * t.mean())
    residual = float(np.mean((standard - intercept - slope * t) ** 2))
    return SideInformation(slope, intercept, min(max(residual, _LEAST_RESIDUAL), 1.0))


def encode(source: Gaussian, key: np.uint64, first_round: int, a: FloatArray, streams: int, l_max: int
           ) -> NormalWinners:
    """The encoder's half: draw Y = (W, message) given each sample of a, shape [R], over all streams and messages.

    The winners' `block` is the message, 0 to l_max - 1: all that the decoders are told.

    Raises:
        CallerError: a sample is not finite, or so far out that its weights underflow.
    """
    s = source.sigma2
    standard = (a - source.mean) / math.sqrt(source.variance)
    no_messages = np.zeros(a.size, np.int64)
    return normal_race(key, first_round, range(streams), no_messages, l_max, standard * math.sqrt(1 + s), 1 / s)


def decode(source: Gaussian, side: SideInformation, key: np.uint64, first_round: int, t: FloatArray,
           messages: IntArray, stream: int) -> NormalWinners:
    """Decoder k's half: draw X(k) given its own t and the message, each of shape [R], over its own stream.

    Raises:
        CallerError: a sample is not finite, or so far out that its weights underflow.
    """
    known = 1.0 - side.residual
    precision = known / (side.residual + source.sigma2)
    centres = side.mean(t) * math.sqrt(1 + source.sigma2) / known if known > 0 else np.zeros(t.size)
    return normal_race(key, first_round, [stream], messages, 1, centres, precision)


def reconstruct(source: Gaussian, side: SideInformation, t: FloatArray, marks: FloatArray) -> FloatArray:
    """E[A | W = w, T = t] for the codewords drawn, in the sample's own units, shape [R]; marks are in prior units."""
    s, nu = source.sigma2, side.residual
    codewords = marks * math.sqrt(1 + s)
    standard = (s * side.mean(t) + nu * codewords) / (nu + s)
    return source.mean + math.sqrt(source.variance) * standard
