"""What a run has come to: running sums over frames, and the result they make."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from glsnet import bounds
from glsnet.codes import Code
from glsnet.compression import Outcomes
from glsnet.lab.nature import Nature
from glsnet.lab.settings import GaussianRun
from glsnet.race import FloatArray
from glsnet.randomness import seed_from_integer, session_key

_ENTROPY_ROUNDS = 200  # at most, for they differ little; and one for each 500 samples, so that it costs little
_ENTROPY_TREES = 1 << 17  # streams x messages x rounds, at most
_ENTROPY_SIGMA2 = 1e-4
_LEAST_ERROR = 1e-300  # of an exact reconstruction, whose dB would be infinite


class Mean:
    """The mean of numbers that come in arrays, and its standard error."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._squares = 0.0

    def add(self, values: FloatArray) -> None:
        self._count += values.size
        self._sum += float(values.sum())
        self._squares += float(values @ values)

    @property
    def value(self) -> float:
        return self._sum / self._count if self._count else math.nan

    @property
    def error(self) -> float:
        if self._count < 2:
            return math.nan
        variance = (self._squares - self._sum**2 / self._count) / (self._count - 1)
        return math.sqrt(max(variance, 0.0) / self._count)


class Tally:
    """Matches and squared errors, in units of the source's variance, of a run that is going on."""

    def __init__(self, nature: Nature, code: Code) -> None:
        self._nature, self._code = nature, code
        self.samples = self.packed = 0  # bytes of messages
        decoders = len(nature.sides)
        self.match, self.error, self.decibels = Mean(), Mean(), Mean()
        self.side_error, self.side_decibels = Mean(), Mean()
        self.match_of, self.error_of, self.decibels_of = ([Mean() for _ in range(decoders)] for _ in range(3))
        self.own_error = Mean()  # of each sample, over the decoders

    def add(self, a: FloatArray, t: FloatArray, y: Outcomes, x: list[Outcomes]) -> None:
        """One frame: a, shape [R]; t, shape [R, K]; what the encoder and the K decoders drew, NaN of missing ones."""
        source = self._nature.source
        matches, errors, side_errors = [], [], []
        for k, (drawn, side) in enumerate(zip(x, self._nature.sides, strict=True)):
            assert drawn.reconstruction is not None
            matches.append(drawn.matches(y))
            errors.append((drawn.reconstruction - a) ** 2 / source.variance)
            side_errors.append((side.mean(t[:, k]) - (a - source.mean) / math.sqrt(source.variance)) ** 2)
            if not np.isnan(errors[k][0]):
                self.match_of[k].add(matches[k].astype(np.float64))
                self.error_of[k].add(errors[k])
                self.decibels_of[k].add(_decibels(errors[k]))
        self.own_error.add(np.nanmean(errors, axis=0))
        self.samples += a.size
        self.packed += y.packed
        self.match.add(np.any(matches, axis=0).astype(np.float64))
        for values, error, decibels in (
            (errors, self.error, self.decibels), (side_errors, self.side_error, self.side_decibels)
        ):
            best: FloatArray = np.nanmin(values, axis=0)
            error.add(best)
            decibels.add(_decibels(best))

    def result(self, settings: GaussianRun) -> dict[str, Any]:
        """What was measured so far, beside what theory promises; numbers as `glsnet run --json` prints them.

        Of the best of the K reconstructions, which an oracle would have to choose, as published: mse and mean_db.
        Of each decoder by itself, the mean over decoders: decoder_mse and decoder_mean_db.
        """
        source, code, residuals = self._nature.source, self._code, [side.residual for side in self._nature.sides]
        entropy, entropy_error = self._message_entropy(settings.seed)
        return {
            "samples": self.samples,
            "decoders": code.decoders,
            "l_max": code.l_max,
            "sigma2": code.sigma2,
            "step": code.step,
            "packing": code.packing,
            "seed": settings.seed,
            "scheme": code.scheme,
            "transport": settings.transport,
            "qos": settings.qos if settings.transport == "mqtt" else None,
            "frame": settings.frame,
            "source_mean": source.mean,
            "source_variance": source.variance,
            "match_rate": self.match.value,
            "match_rate_error": self.match.error,
            "match_bound": _match_bound(code, residuals),
            "mse": self.error.value,
            "mse_error": self.error.error,
            "mse_db": _db(self.error.value),
            "mean_db": self.decibels.value,
            "mean_db_error": self.decibels.error,
            "decoder_mse": self.own_error.value,
            "decoder_mse_error": self.own_error.error,
            "decoder_mse_db": _db(self.own_error.value),
            "decoder_mean_db": float(np.mean([decibels.value for decibels in self.decibels_of])),
            "side_information_mse": self.side_error.value,
            "side_information_mse_db": _db(self.side_error.value),
            "side_information_mean_db": self.side_decibels.value,
            "side_information_decoder_mse": float(np.mean(residuals)),
            "limits": {
                "wyner_ziv_mse": float(np.mean([bounds.wyner_ziv(residual, code.l_max) for residual in residuals])),
                "list_converse_mse": bounds.list_converse(residuals, code.l_max),
            },
            "message_entropy": entropy,
            "message_entropy_error": entropy_error,
            "per_decoder": [
                {"stream": k, "match_rate": match.value, "mse_db": _db(error.value), "mean_db": decibels.value,
                 "residual_variance": residual}
                for k, (match, error, decibels, residual) in enumerate(
                    zip(self.match_of, self.error_of, self.decibels_of, residuals, strict=True))
            ],
        }

    def _message_entropy(self, seed: int) -> tuple[float | None, float | None]:
        """H(M | shared randomness) in bits, the mean over the first rounds, and its error; None for quantisers.

        None, too, where it would take long: cells too fine, or too many streams and messages.
        """
        code = self._code
        rounds = min(2 + self.samples // 500, _ENTROPY_ROUNDS, _ENTROPY_TREES // (code.streams * code.l_max))
        if code.sigma2 is None or code.sigma2 < _ENTROPY_SIGMA2 or rounds < 2:
            return None, None
        key = session_key(seed_from_integer(seed), code.purpose)
        chances = code.message_probabilities(key, 0, rounds)
        mean = Mean()
        mean.add(-(chances * np.log2(np.where(chances > 0, chances, 1.0))).sum(axis=1))
        return mean.value, mean.error


def _match_bound(code: Code, residuals: Sequence[float]) -> float | None:
    """What theory promises of the match rate, at least: of races only."""
    if code.sigma2 is None:
        return None
    if code.streams == code.decoders:
        return bounds.coding_bound(residuals, code.sigma2, code.l_max)
    # One shared stream: the list matches at least as often as any one of its decoders.
    return max(bounds.coding_bound([residual], code.sigma2, code.l_max) for residual in residuals)


def _decibels(errors: FloatArray) -> FloatArray:
    return np.asarray(10 * np.log10(np.maximum(errors, _LEAST_ERROR)))


def _db(power: float) -> float:
    return 10 * math.log10(max(power, _LEAST_ERROR))
