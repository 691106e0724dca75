"""The published Gaussian experiment in its dense form: N importance samples, all noise made anew."""

import numpy as np

CANDIDATES = 2**15  # importance samples N


def dense_trial(rng: np.random.Generator, k: int, l_max: int, s: float) -> float:
    """One trial of the published experiment, all noise drawn anew: squared error of the best of K decoders."""
    a = rng.standard_normal()
    w = np.sqrt(1 + s) * rng.standard_normal(CANDIDATES)
    message = rng.integers(0, l_max, CANDIDATES)
    noise = rng.standard_exponential((k, CANDIDATES))
    prior = w**2 / (2 * (1 + s))
    with np.errstate(divide="ignore", over="ignore"):  # far from a, weights are 0
        y = int(np.argmin(noise.min(axis=0) / np.exp(prior - (w - a) ** 2 / (2 * s))))
    errors = []
    for row in noise:
        t = a + np.sqrt(0.5) * rng.standard_normal()
        weight = np.exp(prior - (w - t / 1.5) ** 2 / (2 * (1 / 3 + s)))
        x = w[int(np.argmin(np.where(message == message[y], row / weight, np.inf)))]
        errors.append(((s * t / 1.5 + x / 3) / (s + 1 / 3) - a) ** 2)
    return float(min(errors))
