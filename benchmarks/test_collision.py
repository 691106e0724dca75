"""The collision experiment at the size of a real vocabulary, against the straightforward loop."""

import time

import numpy as np

from glsnet.lab import figures
from glsnet.lab.pairs import Pair
from glsnet.race import FloatArray

SEEDS = 20_000


def vocabulary_pairs(count: int, size: int) -> list[Pair]:
    """Softmax distributions from flat to peaked (normal logits of deviation 1 to 4), q a perturbation of p."""
    rng = np.random.default_rng(7)
    pairs = []
    for at in range(count):
        logits = (1 + 3 * at / max(count - 1, 1)) * rng.standard_normal(size)
        p, q = np.exp(logits), np.exp(logits + rng.uniform(0.2, 1.5) * rng.standard_normal(size))
        pairs.append(Pair(str(at), p / p.sum(), q / q.sum()))
    return pairs


def dense_gumbel(seed: int, weights: FloatArray) -> int:
    """One party's sample of one seed, all V uniforms made anew."""
    with np.errstate(divide="ignore"):
        return int(np.argmin(-np.log(np.random.default_rng(seed).random(weights.size)) / weights))


def dense_minhash(seed: int, bars: FloatArray) -> int:
    """One party's sample of one seed: darts, V at a time, until one falls below its bar."""
    rng = np.random.default_rng(seed)
    while True:
        items, heights = rng.integers(bars.size, size=bars.size), rng.random(bars.size)
        hits = np.flatnonzero(heights < bars[items])
        if hits.size:
            return int(items[hits[0]])


def dense_seconds(pairs: list[Pair], seeds: int) -> tuple[float, float]:
    """Seconds of one pair of draws by the straightforward loop, Gumbel and weighted MinHash."""
    taken = []
    for draw in (dense_gumbel, dense_minhash):
        start = time.perf_counter()
        for _, p, q in pairs:
            for seed in range(seeds):
                draw(seed, p), draw(seed, q)
        taken.append((time.perf_counter() - start) / (seeds * len(pairs)))
    return taken[0], taken[1]


def test_32_pairs_20000_seeds_over_a_real_vocabulary() -> None:
    pairs = vocabulary_pairs(32, 151_936)
    figures.collision(pairs[:1], 10, 1, lambda: None)  # compiles
    gumbel, minhash = dense_seconds(pairs, 10)
    dense = (gumbel + minhash) * SEEDS * len(pairs)
    start = time.perf_counter()
    rows = figures.collision(pairs, SEEDS, 1, lambda: None)
    races = time.perf_counter() - start
    for row in rows:
        for scheme in ("gumbel", "minhash"):
            assert abs(row[scheme] - row[f"{scheme}_exact"]) <= 5 * row[f"{scheme}_error"] + 1e-9
    print(f"\n32 pairs x 20,000 seeds, V=151,936, Gumbel and weighted MinHash, exact rates too: races {races:.0f} s; "
          f"dense loop {gumbel * 1e3:.1f} + {minhash * 1e3:.1f} ms a seed and pair, {dense / 3600:.1f} h in all: "
          f"{dense / races:.0f} times faster (to reach: 50)")
    print("growth with V, ms a seed and pair, both schemes:")
    for size in (1_000, 10_000, 100_000, 1_000_000):
        some = vocabulary_pairs(8, size)
        start = time.perf_counter()
        figures.collision(some, 1000, 1, lambda: None)
        taken = (time.perf_counter() - start) / (8 * 1000)
        slow = sum(dense_seconds(some, 3))
        print(f"  V={size:>9,}: races {taken * 1e3:.4f}, dense {slow * 1e3:.2f}: {slow / taken:.0f} times")
