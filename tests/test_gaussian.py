"""The Gaussian source as published (Rowan, Phan, Khisti, appendix D.3, table 10), and its parts."""

import math

import numpy as np
import pytest
from helpers import assert_at_least, assert_mean
from scipy.stats import chisquare, norm

from glsnet.bounds import coding_bound
from glsnet.codes import Code
from glsnet.errors import CallerError
from glsnet.lab.nature import synthetic
from glsnet.lab.settings import GaussianRun
from glsnet.randomness import session_key
from glsnet.sources import gaussian
from glsnet.sources.gaussian import Gaussian, SideInformation, fit_side_information, noisy_observation

KEY = session_key(bytes(32), "test-gaussian")
# K, L_max, sigma2, mean dB, its standard error: cells of the published table 10.
TABLE_10 = [
    (1, 2, 0.008, -9.7032, 0.0193),
    (2, 8, 0.002, -21.7032, 0.0101),
    (4, 8, 0.001, -27.4313, 0.0106),
    (4, 64, 0.001, -34.1082, 0.0102),
]


@pytest.mark.parametrize(("k", "l_max", "sigma2", "published", "published_error"), TABLE_10)
def test_a_cell_of_table_10(k: int, l_max: int, sigma2: float, published: float, published_error: float) -> None:
    nature = synthetic(GaussianRun(decoders=k, samples=300_000, frame=50_000, seed=10))
    code = Code(nature.source, "gls", k, l_max, sigma2)
    decibels, matches, start = [], 0, 0
    for a, t in nature.frames():
        messages, y = code.encode(KEY, start, a)
        matched, error = np.zeros(a.size, bool), np.full(a.size, np.inf)
        for stream, side in enumerate(nature.sides):
            estimate, x = code.decode(side, KEY, start, t[:, stream], messages, stream)
            matched |= (x.node == y.node) & (y.stream == stream)
            error = np.minimum(error, (estimate - a) ** 2)
        decibels.append(10 * np.log10(error))
        matches += int(matched.sum())
        start += a.size
    values = np.concatenate(decibels)
    own_error = values.std() / math.sqrt(values.size)
    assert abs(values.mean() - published) <= 4 * math.hypot(own_error, published_error)
    assert_at_least(matches, values.size, coding_bound([1 / 3] * k, sigma2, l_max))


def test_both_marginals_are_the_models() -> None:
    source = Gaussian(mean=-2.0, variance=9.0)
    side = noisy_observation(source, 4.0)
    a, t = np.full(50_000, 1.0), np.full(50_000, 3.0)
    y = gaussian.encode(source.standard(a), 0.05, KEY, 0, 4, 8)
    messages = np.random.default_rng(2).integers(0, 8, a.size)  # not the encoder's: these depend on the same races
    x = gaussian.decode(side.mean(t), side.residual, 0.05, KEY, 0, messages, 2)
    residual = 4 / 13
    for marks, law in [
        (y.mark, norm(1.0, math.sqrt(0.05))),  # A' = (1 + 2) / 3
        (x.mark, norm((3.0 + 2.0) * 3 / 13, math.sqrt(residual + 0.05))),
    ]:
        quantiles = law.cdf(marks * math.sqrt(1.05))
        assert chisquare(np.bincount((quantiles * 40).astype(int), minlength=40)).pvalue > 1e-6
    assert chisquare(np.bincount(y.block, minlength=8)).pvalue > 1e-6


def test_the_reconstruction_is_the_published_estimate() -> None:
    """[1 1] Sigma^-1 [w t], Sigma = [[1 + s, 1], [1, 1.5]]."""
    s, rng = 0.01, np.random.default_rng(0)
    w, t = rng.standard_normal((2, 100))
    source = Gaussian(0.0, 1.0)
    expected = np.ones(2) @ np.linalg.inv([[1 + s, 1], [1, 1.5]]) @ np.array([w, t])
    side = noisy_observation(source, 0.5)
    assert gaussian.reconstruct(side.mean(t), side.residual, s, w / math.sqrt(1 + s)) == pytest.approx(expected)


def test_a_fitted_line_is_that_of_the_model() -> None:
    rng = np.random.default_rng(4)
    source = Gaussian(5.0, 4.0)
    a = 5 + 2 * rng.standard_normal(200_000)
    fitted = fit_side_information(source, a, a + rng.standard_normal(a.size))
    exact = noisy_observation(source, 1.0)
    for name in ("slope", "intercept", "residual"):
        assert getattr(fitted, name) == pytest.approx(getattr(exact, name), rel=0.02)


@pytest.mark.parametrize("residual", [0.0, 1.0])
def test_perfect_and_useless_side_information(residual: float) -> None:
    """With T = A the decoder needs no message; with T = noise it draws from the prior. Neither is a special case."""
    a = np.random.default_rng(1).standard_normal(20_000)
    side = SideInformation(slope=1.0 - residual, intercept=0.0, residual=residual)
    y = gaussian.encode(a, 0.01, KEY, 0, 1, 4)
    x = gaussian.decode(side.mean(a), residual, 0.01, KEY, 0, y.block, 0)
    if residual == 0:
        assert (x.node == y.node).all()
        assert gaussian.reconstruct(side.mean(a), residual, 0.01, x.mark) == pytest.approx(a)
    else:
        assert_mean(x.mark, 0.0)


def test_samples_do_not_depend_on_frames_nor_the_source_on_k() -> None:
    def all_samples(frame: int, decoders: int) -> tuple[np.ndarray, np.ndarray]:
        frames = list(synthetic(GaussianRun(samples=1000, frame=frame, decoders=decoders, seed=3)).frames())
        return np.concatenate([a for a, _ in frames]), np.concatenate([t for _, t in frames])

    (a, t), (a_small, t_small), (a_one, _) = all_samples(1000, 4), all_samples(7, 4), all_samples(64, 1)
    assert (a == a_small).all()
    assert (t == t_small).all()
    assert (a == a_one).all()


@pytest.mark.parametrize(("arguments", "text"), [
    ((math.nan, 1.0), "mean"), ((0.0, 0.0), "variance"), ((0.0, math.inf), "variance"),
])
def test_a_model_that_is_none_is_refused(arguments: tuple[float, float], text: str) -> None:
    with pytest.raises(CallerError, match=text):
        Gaussian(*arguments)
