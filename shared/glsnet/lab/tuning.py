"""Which code a run's settings mean; for a quantiser without a step, the step that suits K, L_max and the residuals."""

import math
from collections.abc import Sequence

import numpy as np

from glsnet import codes
from glsnet.codes import QUANTISERS, RACES, Code
from glsnet.errors import CallerError
from glsnet.lab.settings import GaussianRun
from glsnet.sources.gaussian import Gaussian, SideInformation

_SAMPLES = 4096  # a block of a trellis
_PERIODS = np.geomspace(1.5, 14.0, 28)  # of a coset, in standard deviations of A given T


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
    step = settings.step if settings.step is not None else _tuned(settings.scheme, settings.l_max, sides)
    return Code(source, settings.scheme, k, settings.l_max, None, step, settings.packing)


def _tuned(scheme: str, l_max: int, sides: Sequence[SideInformation]) -> float:
    """The step of least mean squared error over samples of the model: of the best of K for split codes, else of each.

    Every period of a coset that could suit is tried; the samples are the same each time.
    """
    assert scheme in QUANTISERS
    residuals = np.array([side.residual for side in sides])
    rng = np.random.default_rng(0)
    a = rng.standard_normal(_SAMPLES)
    # A given T_k is N(m_k, nu_k): m_k is A (1 - nu_k) and noise of variance nu_k (1 - nu_k).
    noise = rng.standard_normal((a.size, len(sides)))
    means = np.outer(a, 1 - residuals) + np.sqrt(residuals * (1 - residuals)) * noise
    parts = len(sides) if scheme.startswith("split") else 1
    key, given = np.uint64(0), [SideInformation(1.0, 0.0, side.residual) for side in sides]
    best, best_step = math.inf, math.nan
    for period in _PERIODS:
        step = float(period * max(math.sqrt(residuals.mean()), 1e-6) / (l_max * parts))
        code = Code(Gaussian(0.0, 1.0), scheme, len(sides), l_max, step=step)
        messages, _ = codes.encode(code, key, 0, a)
        errors = np.array([(codes.decode(code, side, key, 0, means[:, k], messages, k)[0] - a) ** 2
                           for k, side in enumerate(given)])
        error = float(errors.min(axis=0).mean() if parts > 1 else errors.mean())
        if error < best:
            best, best_step = error, step
    return best_step
