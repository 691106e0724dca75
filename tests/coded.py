"""Samples of the Gaussian source and what decoders make of them, for tests of codes."""

import math
from functools import partial

import numpy as np
from numpy.typing import NDArray

from glsnet import codes
from glsnet.codes import Code
from glsnet.randomness import session_key
from glsnet.sources.gaussian import Gaussian, noisy_observation

Floats = NDArray[np.float64]
KEY = session_key(bytes(32), "test-codes")
SOURCE = Gaussian(0.0, 1.0)
NOISE = 0.5
SIDE_OF = partial(noisy_observation, noise_variance=NOISE)
RESIDUAL = 1 / 3  # Var(A | T)


def code(scheme: str, decoders: int, l_max: int, resolution: float, packing: str = "fixed") -> Code:
    """A code of the standard source; `resolution` is sigma2 of a race and step of a quantiser."""
    sigma2, step = (resolution, None) if scheme in codes.RACES else (None, resolution)
    return Code(SOURCE, scheme, decoders, l_max, sigma2, step, packing)


def samples(count: int, decoders: int, seed: int) -> tuple[Floats, Floats]:
    """A, shape [R], and every decoder's T, shape [R, K]."""
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(count)
    return a, a[:, None] + math.sqrt(NOISE) * rng.standard_normal((count, decoders))


def estimates(of: Code, a: Floats, t: Floats, first_round: int = 0) -> Floats:
    """What each decoder takes each sample to be, shape [K, R], as one block."""
    messages, _ = of.encode(KEY, first_round, a)
    side = SIDE_OF(of.source)
    return np.array([of.decode(side, KEY, first_round, t[:, k], messages, k)[0] for k in range(t.shape[1])])
