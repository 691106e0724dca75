"""What a run has come to: running sums over frames, and the result they make."""

import math
from typing import Any

import numpy as np

from glsnet.bounds import coding_bound
from glsnet.compression import Outcomes
from glsnet.lab.nature import Nature
from glsnet.lab.settings import GaussianRun
from glsnet.race import FloatArray

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

    def __init__(self, nature: Nature) -> None:
        self._nature = nature
        self.samples = 0
        decoders = len(nature.sides)
        self.match, self.error, self.decibels = Mean(), Mean(), Mean()
        self.side_error, self.side_decibels = Mean(), Mean()
        self.match_of, self.error_of = [Mean() for _ in range(decoders)], [Mean() for _ in range(decoders)]

    def add(self, a: FloatArray, t: FloatArray, y: Outcomes, x: list[Outcomes]) -> None:
        """One frame: a, shape [R]; t, shape [R, K]; what the encoder and the K decoders drew."""
        source = self._nature.source
        matches, errors, side_errors = [], [], []
        for k, (drawn, side) in enumerate(zip(x, self._nature.sides, strict=True)):
            assert drawn.reconstruction is not None
            matches.append((drawn.stream == y.stream) & (drawn.node == y.node) & (drawn.message == y.message))
            errors.append((drawn.reconstruction - a) ** 2 / source.variance)
            side_errors.append((side.mean(t[:, k]) - (a - source.mean) / math.sqrt(source.variance)) ** 2)
            self.match_of[k].add(matches[k].astype(np.float64))
            self.error_of[k].add(errors[k])
        self.samples += a.size
        self.match.add(np.any(matches, axis=0).astype(np.float64))
        for values, error, decibels in (
            (errors, self.error, self.decibels), (side_errors, self.side_error, self.side_decibels)
        ):
            best: FloatArray = np.min(values, axis=0)
            error.add(best)
            decibels.add(10 * np.log10(np.maximum(best, _LEAST_ERROR)))

    def result(self, settings: GaussianRun) -> dict[str, Any]:
        """What was measured so far, beside what theory promises; numbers as `glsnet run --json` prints them."""
        source, residuals = self._nature.source, [side.residual for side in self._nature.sides]
        if settings.scheme == "gls":
            bound = coding_bound(residuals, source.sigma2, settings.l_max)
        else:  # one shared stream: the list matches at least as often as any one of its decoders
            bound = max(coding_bound([residual], source.sigma2, settings.l_max) for residual in residuals)
        return {
            "samples": self.samples,
            "decoders": len(residuals),
            "l_max": settings.l_max,
            "sigma2": source.sigma2,
            "seed": settings.seed,
            "scheme": settings.scheme,
            "transport": settings.transport,
            "frame": settings.frame,
            "source_mean": source.mean,
            "source_variance": source.variance,
            "match_rate": self.match.value,
            "match_rate_error": self.match.error,
            "match_bound": bound,
            "mse": self.error.value,
            "mse_error": self.error.error,
            "mse_db": _db(self.error.value),
            "mean_db": self.decibels.value,
            "mean_db_error": self.decibels.error,
            "side_information_mse": self.side_error.value,
            "side_information_mse_db": _db(self.side_error.value),
            "side_information_mean_db": self.side_decibels.value,
            "per_decoder": [
                {"stream": k, "match_rate": match.value, "mse_db": _db(error.value), "residual_variance": residual}
                for k, (match, error, residual) in enumerate(zip(self.match_of, self.error_of, residuals, strict=True))
            ],
        }


def _db(power: float) -> float:
    return 10 * math.log10(max(power, _LEAST_ERROR))
