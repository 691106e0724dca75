"""The Gaussian source with side information (Rowan, Phan, Khisti, appendix D.3): weights in, estimates out.

Everything below is in standard units of the source, A' = (A - mean) / sqrt(variance), until `restored` goes back:

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

from glsnet import envelope
from glsnet.errors import CallerError
from glsnet.race import FloatArray, IntArray, NormalWinners, normal_race

_LEAST_RESIDUAL = 1e-12


@dataclass(frozen=True)
class Gaussian:
    """What every party knows of the source: its mean and variance, in the sample's own units."""

    mean: float
    variance: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise CallerError(f"mean: expected a finite number, got {self.mean!r}")
        if not (math.isfinite(self.variance) and self.variance > 0):
            raise CallerError(f"variance: expected a finite number above 0, got {self.variance!r}")

    def standard(self, a: FloatArray) -> FloatArray:
        """Samples, shape [R], in standard units."""
        return (a - self.mean) / math.sqrt(self.variance)

    def restored(self, standard: FloatArray) -> FloatArray:
        """The inverse of `standard`."""
        return self.mean + math.sqrt(self.variance) * standard


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
    standard = source.standard(a)
    deviation = t - t.mean()
    slope = float(deviation @ (standard - standard.mean()) / (deviation @ deviation))
    intercept = float(standard.mean() - slope * t.mean())
    residual = float(np.mean((standard - intercept - slope * t) ** 2))
    return SideInformation(slope, intercept, min(max(residual, _LEAST_RESIDUAL), 1.0))


def encode(a: FloatArray, sigma2: float, key: np.uint64, first_round: int, streams: int, l_max: int) -> NormalWinners:
    """The encoder's half of a race: Y = (W, message) given each standardised sample, shape [R], over all messages.

    The winners' `block` is the message, 0 to l_max - 1: all that the decoders are told.

    Raises:
        CallerError: a sample is not finite, or so far out that its weights underflow.
    """
    no_messages = np.zeros(a.size, np.int64)
    return normal_race(key, first_round, range(streams), no_messages, l_max, a * math.sqrt(1 + sigma2), 1 / sigma2)


def decode(mean: FloatArray, residual: float, sigma2: float, key: np.uint64, first_round: int, messages: IntArray,
           stream: int) -> NormalWinners:
    """Decoder k's half: X(k) given E[A' | t] and the message, shape [R] each, over its own stream.

    Raises:
        CallerError: a sample is not finite, or so far out that its weights underflow.
    """
    known = 1.0 - residual
    centres = mean * math.sqrt(1 + sigma2) / known if known > 0 else np.zeros(mean.size)
    return normal_race(key, first_round, [stream], messages, 1, centres, known / (residual + sigma2))


def reconstruct(mean: FloatArray, residual: float, sigma2: float, marks: FloatArray) -> FloatArray:
    """E[A' | W = w, T = t] for the codewords drawn, shape [R]; marks are in prior units."""
    codewords = marks * math.sqrt(1 + sigma2)
    return (sigma2 * mean + residual * codewords) / (residual + sigma2)


def posterior_mean(mean: FloatArray, residual: float, sigma2: float, key: np.uint64, first_round: int, streams: int,
                   l_max: int, messages: IntArray, stream: int) -> FloatArray:
    """E[A' | T = t, message, shared randomness], shape [R]: the mean over the samples that would be coded so.

    Args:
        mean: shape [R], E[A' | t].
        residual, sigma2, key, first_round, streams, l_max: as for the other halves.
        messages: shape [R].
        stream: the stream that the encoder's winner is supposed to be on; -1 for any.
    """
    scale, estimates = math.sqrt(1 + sigma2), np.empty(mean.size)
    if residual < _LEAST_RESIDUAL:
        return mean
    envelope.posterior_means(key, first_round, streams, l_max, 1 / sigma2, mean * scale, math.sqrt(residual) * scale,
                             messages, stream, estimates)
    return estimates / scale


def message_probabilities(sigma2: float, key: np.uint64, first_round: int, rounds: int, streams: int, l_max: int
                          ) -> FloatArray:
    """Pr[message | shared randomness] in each round, shape [R, l_max]."""
    probabilities = np.empty((rounds, l_max))
    envelope.message_probabilities(key, first_round, streams, l_max, 1 / sigma2, math.sqrt(1 + sigma2), probabilities)
    return probabilities
