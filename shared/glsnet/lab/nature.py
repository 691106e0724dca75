"""Nature: the source of samples, which knows A and every T_k and hands each party its own."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glsnet.errors import CallerError
from glsnet.lab.settings import GaussianRun
from glsnet.race import FloatArray
from glsnet.randomness import seed_from_integer, session_key
from glsnet.sources.gaussian import Gaussian, SideInformation, fit_side_information, noisy_observation
from glsnet.sources.samples import read_samples

DEFAULT_VARIANCE = 1.0
DEFAULT_NOISE_VARIANCE = 0.5


@dataclass(frozen=True)
class Nature:
    """The model of a run, and its samples: `frames()` gives a, shape [R], and t, shape [R, K], frame by frame."""

    source: Gaussian
    sides: tuple[SideInformation, ...]
    samples: int
    frames: Callable[[], Iterator[tuple[FloatArray, FloatArray]]]


def synthetic(settings: GaussianRun) -> Nature:
    """A ~ N(mean, variance) and T_k = A + N(0, noise_variance), from the run's seed.

    The samples do not depend on the frame size, and A not on the number of decoders.
    """
    mean = settings.mean or 0.0
    source = Gaussian(mean, settings.variance or DEFAULT_VARIANCE)
    noise = DEFAULT_NOISE_VARIANCE if settings.noise_variance is None else settings.noise_variance

    def frames() -> Iterator[tuple[FloatArray, FloatArray]]:
        source_draws, noise_draws = (draws(settings.seed, of) for of in ("nature: source", "nature: noise"))
        for start in range(0, settings.samples, settings.frame):
            count = min(settings.frame, settings.samples - start)
            a = mean + math.sqrt(source.variance) * source_draws.standard_normal(count)
            yield a, a[:, None] + math.sqrt(noise) * noise_draws.standard_normal((count, settings.decoders))

    return Nature(source, (noisy_observation(source, noise),) * settings.decoders, settings.samples, frames)


def from_file(path: Path, settings: GaussianRun) -> Nature:
    """The user's own samples, header `a,t1,...,tK`; what of the model is not set is fitted to all of its rows.

    Raises:
        CallerError: the file is not as it should be, or has other numbers of columns or rows than were set.
    """
    a, t = read_samples(path)
    given = settings.model_fields_set
    if "decoders" in given and settings.decoders != t.shape[1]:
        raise CallerError(
            f"decoders: expected {t.shape[1]}, the columns t1 to t{t.shape[1]} of {path}, got {settings.decoders}; "
            "leave it out"
        )
    samples = settings.samples if "samples" in given else a.size
    if samples > a.size:
        raise CallerError(f"samples: expected at most {a.size}, the rows of {path}, got {samples}; leave it out")
    mean = float(a.mean()) if settings.mean is None else settings.mean
    source = Gaussian(mean, settings.variance or float(a.var()))
    if settings.noise_variance is None:
        sides = tuple(fit_side_information(source, a, t_k) for t_k in t.T)
    else:
        sides = (noisy_observation(source, settings.noise_variance),) * t.shape[1]

    def frames() -> Iterator[tuple[FloatArray, FloatArray]]:
        for start in range(0, samples, settings.frame):
            rows = slice(start, min(start + settings.frame, samples))
            yield a[rows], t[rows]

    return Nature(source, sides, samples, frames)


def draws(seed: int, purpose: str) -> np.random.Generator:
    """Nature's own randomness for one purpose."""
    return np.random.Generator(np.random.Philox(key=int(session_key(seed_from_integer(seed), purpose))))
