"""Images a second of one encoder and K decoders, against the same code done densely: ratios within one run.

    one by one    each image by itself: all N candidates through every network, all K N exponentials
    batched       the same, a whole frame at once
"""

import time

import numpy as np
from numpy.typing import NDArray

from glsnet.images import networks
from glsnet.images.code import ImageCode
from glsnet.images.model import Model, load
from glsnet.randomness import session_key

KEY = session_key(bytes(32), "image-race")
K, L_MAX, LISTED, BETA, FRAME = 4, 16, 512, 0.95, 64


def dense(model: Model, a: NDArray[np.float32], t: NDArray[np.float32], rng: np.random.Generator) -> None:
    """GLS as one would write it down, for halves [R, D] and crops [K, R, C]."""
    p, rounds = model.vae(BETA), len(a)
    w = rng.standard_normal((rounds, LISTED, 4)).astype(np.float32)
    bins = rng.integers(0, L_MAX, (rounds, LISTED))
    times = rng.exponential(size=(K, rounds, LISTED))
    mean, log_variance = networks.encoder(p, a)
    weights = 0.5 * (w**2 - (w - mean[:, None]) ** 2 * np.exp(-log_variance)[:, None] - log_variance[:, None]).sum(-1)
    y = (times / np.exp(weights)).min(0).argmin(1)
    sent = np.take_along_axis(bins, y[:, None], 1)
    for k in range(K):
        ratio = np.exp(networks.ratio(p, w, networks.ratio_features(p, t[k])[:, None])) * (bins == sent)
        x = (times[k] / np.maximum(ratio, 1e-300)).argmin(1)
        networks.decoder(p, w[np.arange(rounds), x], t[k])


def test_images_against_dense_code() -> None:
    model = load("mnist")
    code = ImageCode(model, "gls", K, L_MAX, LISTED, BETA, lambda: 0.0)
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (FRAME, model.shape.half)).astype(np.uint8)
    t = rng.integers(0, 256, (K, FRAME, model.shape.side)).astype(np.uint8)
    af, tf = (each.astype(np.float32) / np.float32(255) for each in (a, t))

    def ours() -> None:
        messages, _ = code.encode(KEY, 0, a)
        for k in range(K):
            code.decode(KEY, 0, t[k], messages, k)

    def one_by_one() -> None:
        for i in range(FRAME):
            dense(model, af[i : i + 1], tf[:, i : i + 1], rng)

    def batched() -> None:
        dense(model, af, tf, rng)

    ours()
    seconds = {}
    for run in (ours, one_by_one, batched):
        least = np.inf
        for _ in range(5):
            since = time.perf_counter()
            run()
            least = min(least, time.perf_counter() - since)
        seconds[run.__name__] = least / FRAME
    print(f"\nan image, K = {K}, N = {LISTED}, L_max = {L_MAX}: {seconds['ours'] * 1e6:.0f} us; " + ", ".join(
        f"{name} {seconds[name] * 1e3:.2f} ms ({seconds[name] / seconds['ours']:.0f} times)"
        for name in ("one_by_one", "batched")))
    assert seconds["one_by_one"] > 3 * seconds["ours"]
    assert seconds["batched"] > 2 * seconds["ours"]
