"""Which code a run's settings mean; for a quantiser without a step, the step that suits K, L_max and the residuals."""

import math
from collections.abc import Sequence

import numpy as np

from glsnet.codes import RACES, Code
from glsnet.errors import CallerError
from glsnet.lab.settings import GaussianRun
from glsnet.sources.gaussian import Gaussian, SideInformation


def code_of(settings: GaussianRun, source: Gaussian, sides: Sequence[SideInformation]) -> Code:
    """The code of a run.

    Raises:
        CallerError: a setting is not of its scheme.
    """
    k = len(sides)
    if settings.scheme in RACES:
        return Code(source, settings.scheme, k, settings.l_max, settings.sigma2, settings.step, settings.packing)
    if "sigma2" in settings.model_fields_set:
        raise CallerError(f"sigma2: expected it for {', '.join(RACES)} only, got it for {settings.scheme}; set step")
    residual = sum(side.residual for side in sides) / k
    step = settings.step if settings.step is not None else suitable_step(settings.scheme, k, settings.l_max, residual)
    return Code(source, settings.scheme, k, settings.l_max, None, step, settings.packing)


def suitable_step(scheme: str, decoders: int, l_max: int, residual: float) -> float:
    """The step of a quantiser of least mean squared error: of the best of K for split codes, else of each decoder.

    What matters is a coset's period in standard deviations of A given T: too short, and decoders take wrong cells; too
    long, and cells are wide. Tabulated is about what was found best in 2^18 to 2^21 samples of the published source.
    """
    split = scheme.startswith("split") and decoders > 1
    periods = _PERIODS[scheme if split else scheme.replace("split-", "").replace("split", "nested")]
    period = float(np.interp(math.log2(l_max), range(1, 7), periods[min(decoders, 4) - 2 if split else 0]))
    return period * math.sqrt(max(residual, _LEAST_RESIDUAL)) / (l_max * (decoders if split else 1))


_LEAST_RESIDUAL = 1e-9
_PERIODS = {  # for L_max = 2, 4, 8, 16, 32, 64; of split codes for K = 2, 3, and 4 or more
    "nested": [(7.3, 6.9, 7.5, 8.2, 8.7, 9.5)],
    "trellis": [(6.4, 5.4, 5.4, 5.9, 5.9, 6.4)],
    "split": [(5.0, 5.6, 6.4, 6.8, 7.4, 8.0), (4.7, 5.6, 5.9, 6.2, 6.7, 7.2), (5.0, 5.3, 5.6, 6.0, 6.3, 6.7)],
    "split-trellis": [(2.2, 5.0, 5.2, 5.4, 5.4, 5.4), (5.0, 5.0, 5.2, 5.3, 5.3, 5.3), (6.0, 5.4, 5.3, 5.3, 5.3, 5.3)],
}
