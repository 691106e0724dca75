"""Races against the dense forms they replace: ratios of times taken in one run. `make bench` prints them."""

import time
from collections.abc import Callable

import numpy as np
from dense import dense_trial

from glsnet.codes import Code
from glsnet.coupling import draw_y
from glsnet.race import FloatArray
from glsnet.randomness import session_key
from glsnet.sources.gaussian import Gaussian, noisy_observation

KEY = session_key(bytes(32), "bench")
K, L_MAX, SIGMA2 = 4, 8, 0.005


def seconds(call: Callable[[], object], repeats: int) -> float:
    """The median time of one call."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def test_one_gaussian_sample_encoded_and_decoded_four_times() -> None:
    """Against N = 2^15 candidates from the prior in numpy, drawn once a trial and shared by all parties for free."""
    rng, code = np.random.default_rng(0), Code(Gaussian(0.0, 1.0), "gls", K, L_MAX, SIGMA2)
    side = noisy_observation(code.source, 0.5)
    a, batch = 0.3, 20_000
    t = a + np.sqrt(0.5) * rng.standard_normal(K)
    sources = np.full(batch, a)
    observed = [np.full(batch, t_k) for t_k in t]

    def races() -> None:
        messages, _ = code.encode(KEY, 0, sources)
        for k in range(K):
            code.decode(side, KEY, 0, observed[k], messages, k)

    slow, fast = seconds(lambda: dense_trial(rng, K, L_MAX, SIGMA2), 200), seconds(races, 15) / batch
    print(f"\nGaussian sample, K={K}, L_max={L_MAX}, sigma2={SIGMA2}: dense N=2^15 {slow * 1e6:.0f} us, races "
          f"{fast * 1e6:.2f} us: {slow / fast:.0f} times faster (to reach: 200)")


def test_y_over_a_vocabulary() -> None:
    """Y over V = 151,936 tokens and K = 8 streams, against dense forms that draw all K V noises.

    The papers' poster lays the noise out as [V, K]; [K, V] suits the cache better, and is the fairer rival.
    """
    vocabulary, streams = 151_936, 8
    rng = np.random.default_rng(1)
    for name, spread in [("peaked", 3.0), ("flat", 0.3)]:
        q = np.exp(spread * rng.standard_normal(vocabulary))
        q /= q.sum()
        round_ = 0

        def poster(q: FloatArray = q) -> int:
            return int(np.argmin((-np.log(rng.random((vocabulary, streams)))).min(axis=1) / q))

        def dense(q: FloatArray = q) -> int:
            return int(np.argmin((-np.log(rng.random((streams, vocabulary)))).min(axis=0) / q))

        def race(q: FloatArray = q) -> int:
            nonlocal round_
            round_ += 1
            return int(draw_y(KEY, round_, 1, q, range(streams))[0])

        fast = seconds(race, 300)
        print(f"\nY over V=151,936, K=8, {name} q: race {fast * 1e3:.3f} ms")
        for form, call in [("the poster's form (to reach: 80)", poster), ("as [K, V]", dense)]:
            slow = seconds(call, 15)
            print(f"  dense, {form}: {slow * 1e3:.1f} ms, {slow / fast:.0f} times slower")
