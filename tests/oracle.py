"""Slow and obvious: the same arrivals as `glsnet.race` consumes, every one of them made, in plain Python."""

import heapq
import itertools
import math
from collections.abc import Iterator, Sequence

from scipy.stats import norm

MASK = 0xFFFFFFFF


def philox(key: int, n: int, block: int, stream: int, round_: int) -> tuple[int, int]:
    """Philox4x32-10 (Salmon et al. 2011) at counter (n low, n high, stream << 16 | block, round)."""
    c = [n & MASK, n >> 32, stream << 16 | block, round_]
    k = [key & MASK, key >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [p1 >> 32 ^ c[1] ^ k[0], p1 & MASK, p0 >> 32 ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c[0] | c[1] << 32, c[2] | c[3] << 32


def uniform(word: int) -> float:
    return ((word >> 12) + 0.5) / 2**52


def finite_arrivals(key: int, round_: int, stream: int, block: int, mass: int, count: int
                    ) -> Iterator[tuple[float, int]]:
    """The first `count` arrivals of a block: time, and item within the block."""
    t = 0.0
    for n in range(count):
        word01, word23 = philox(key, n, block, stream, round_)
        t -= math.log(uniform(word01)) / mass
        yield t, int(uniform(word23) * mass)


def dense_finite(key: int, round_: int, streams: Sequence[int], weights: Sequence[float], count: int
                 ) -> tuple[int, int]:
    """Item and stream of the least t / weight among the first `count` arrivals of every block."""
    best = (math.inf, -1, -1)
    for start in range(0, len(weights), 256):
        mass = min(256, len(weights) - start)
        for stream in streams:
            for t, i in finite_arrivals(key, round_, stream, start // 256, mass, count):
                if weights[start + i] > 0:
                    best = min(best, (t / weights[start + i], start + i, stream))
            assert t / max(weights[start : start + mass], default=0.0) > best[0], "the oracle must make more arrivals"
    return best[1], best[2]


def tree_arrivals(key: int, round_: int, stream: int, block: int, depth: int) -> Iterator[tuple[int, float, float]]:
    """Node, time and quantile of every arrival of a tree down to `depth`."""
    times = {0: 0.0}
    for node in range(1, 2 ** (depth + 1)):
        size = 2 ** (node.bit_length() - 1)
        word01, word23 = philox(key, node, block, stream, round_)
        times[node] = times[node // 2] - math.log(uniform(word01)) * size
        yield node, times[node], (node - size + uniform(word23)) / size


def dense_normal(key: int, round_: int, streams: Sequence[int], blocks: Sequence[int], centre: float,
                 precision: float, depth: int) -> tuple[float, int, int, int, float]:
    """Score, stream, block, node and mark of the best arrival in all trees down to `depth`."""
    best = (math.inf, -1, -1, -1, 0.0)
    for stream in streams:
        for block in blocks:
            arrivals = list(tree_arrivals(key, round_, stream, block, depth))
            marks = norm.ppf([u for _, _, u in arrivals])
            for (node, t, _), mark in zip(arrivals, marks, strict=True):
                best = min(best, (math.log(t) + precision * (mark - centre) ** 2 / 2, stream, block, node, mark))
    return best


def dense_minhash(key: int, round_: int, probabilities: Sequence[float], levels: int, count: int) -> int:
    """The item of the first dart below its bar, of the first `count` darts of every block of every level of heights."""
    best, seen = (math.inf, -1), math.inf
    for level in range(levels + 1):
        bottom = 2.0 ** -(level + 1) if level < levels else 0.0
        size = max(2**level // 4, 128)
        for start in range(0, len(probabilities), size):
            mass, thickness = min(size, len(probabilities) - start), 2.0**-level - bottom
            t = 0.0
            for n in range(count):
                word01, word23 = philox(key, n, start // size, level, round_)
                t -= math.log(uniform(word01)) / (mass * thickness)
                item, height = divmod(uniform(word23) * mass, 1.0)
                if bottom + height * thickness < probabilities[start + int(item)]:
                    best = min(best, (t, start + int(item)))
                    break
            else:
                seen = min(seen, t)
    assert seen > best[0], "the oracle must make more darts"
    return best[1]


def part_moments(mean: float, deviation: float, step: float, parts: int, part: int, first: int, apart: int
                 ) -> tuple[float, float]:
    """Pr[A in part `part` of the cells first + n apart] of A ~ N(mean, deviation^2), and E[A; A there]."""
    mass = moment = 0.0
    nearest = round((mean / step - part) / parts)
    reach = math.ceil(9 * deviation / (step * parts)) + apart
    for cell in range(nearest - reach, nearest + reach + 1):
        if (cell - first) % apart == 0:
            left = (step * (parts * cell + part - 0.5) - mean) / deviation
            right = (step * (parts * cell + part + 0.5) - mean) / deviation
            share = norm.sf(left) - norm.sf(right) if left > 0 else norm.cdf(right) - norm.cdf(left)
            mass += share
            moment += mean * share + deviation * (norm.pdf(left) - norm.pdf(right))
    return mass, moment


def syndrome(pairs: Sequence[int], h0: int = 0o103, h1: int = 0o024) -> list[int]:
    """The coefficients of h0(D) c0(D) + h1(D) c1(D) over GF(2), c0 and c1 the low and the high bits of `pairs`."""
    return [
        sum((h0 >> d & 1) * (pairs[i - d] & 1) + (h1 >> d & 1) * (pairs[i - d] >> 1) for d in range(min(i, 6) + 1)) % 2
        for i in range(len(pairs))
    ]


def lightest_difference(h0: int = 0o103, h1: int = 0o024) -> tuple[int, list[int]]:
    """The least squared distance of two sequences of whole numbers with one syndrome, and the XOR of their low bits.

    Numbers whose two low bits differ by 1 or 3 (XOR) are at least 1 apart, by 2 at least 2 apart. Dijkstra over what
    the last six differences leave to be checked, from nothing to nothing.
    """
    weight = (0, 1, 4, 1)
    waiting: list[tuple[int, int, list[int]]] = [(0, 0, [])]
    seen = set()
    while True:
        distance, state, path = heapq.heappop(waiting)
        if path and state == 0:
            return distance, path
        if path and state in seen:
            continue
        seen.add(state)
        for pair in range(1 if not path else 0, 4):
            sums = state ^ (h0 * (pair & 1)) ^ (h1 * (pair >> 1))
            if sums & 1 == 0:
                heapq.heappush(waiting, (distance + weight[pair], sums >> 1, [*path, pair]))


def trellis_marginals(mean: Sequence[float], deviation: float, messages: Sequence[int], step: float, parts: int,
                      part: int, l_max: int) -> tuple[list[float], list[list[float]]]:
    """E[A_i | all messages], and the chance of each of the four cosets of sample i, over every sequence of cosets."""
    low = l_max // 2
    moments = [
        [part_moments(m, deviation, step, parts, part, message % low + low * pair, 4 * low) for pair in range(4)]
        for m, message in zip(mean, messages, strict=True)
    ]
    total, moment, chance = 0.0, [0.0] * len(mean), [[0.0] * 4 for _ in mean]
    for pairs in itertools.product(range(4), repeat=len(mean)):
        if syndrome(pairs) == [message // low for message in messages]:
            product = math.prod(moments[i][pair][0] for i, pair in enumerate(pairs))
            total += product
            for i, pair in enumerate(pairs):
                chance[i][pair] += product
                others = math.prod(moments[j][other][0] for j, other in enumerate(pairs) if j != i)
                moment[i] += others * moments[i][pair][1]
    return [m / total for m in moment], [[c / total for c in row] for row in chance]
