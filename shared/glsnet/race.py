"""Races: which arrival of a shared Poisson process a party takes, found without making the others.

For one round and one stream the shared randomness is a Poisson process on time x marks, of intensity dt x mu. A party
whose distribution has density f against mu takes the arrival that minimises t / f(mark): its mark then has exactly
that distribution, and over several streams at once it is Gumbel-max list sampling (Rowan, Phan, Khisti, Algorithm 1).

Base measures mu:

    finite_race   the counting measure on N items, cut into blocks of 256. Arrivals of a block come at rate mass, the
                  number of its items: arrival n at (-ln u_0 - ... - ln u_n) / mass; each is marked by a uniform item.
    listed_race   items that differ from round to round, with one arrival each: for few items, looked at one by one.
    minhash_race  items x heights from 0 to 1: darts, of which a party takes the first below its bars.
    normal_race   the standard normal law x the message values, one block per value. Each block is a public dyadic
                  tree over the quantiles: node 2^d + j covers [j, j + 1) / 2^d and holds the first arrival there after
                  its parent's, 2^d (-ln u) later (A* sampling: Maddison, Tarlow, Minka 2014).

In all, an arrival is a function of (key, round, stream, block, n) alone, and a block is left as soon as nothing in it
can win. The tests hold finite_race and normal_race against dense implementations that make every arrival.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glsnet.errors import CallerError
from glsnet.randomness import MAX_BLOCKS, MAX_ROUNDS, MAX_STREAMS, kernel, log, normal_quantile, philox, uniform

BLOCK_ITEMS = 256
DART_ITEMS = 128  # of the smallest blocks of weighted MinHash
LEVELS = 24  # of heights in weighted MinHash: the darts below 2^-24 are one level
MAX_DEPTH = 62  # a node address has 63 bits; a leaf's later arrivals, 2^-62 of the mass, are left out
_TABLE_DEPTH = 10  # quantiles of multiples of 2^-10 are looked up, finer ones computed

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class FiniteWinners(NamedTuple):
    """Per round, shape [R]: the item taken and the stream it was taken from."""

    item: IntArray
    stream: IntArray


class NormalWinners(NamedTuple):
    """Per round, shape [R]: which arrival was taken, and its mark, a standard normal number before the choice."""

    stream: IntArray
    block: IntArray
    node: IntArray
    mark: FloatArray


def finite_race(key: np.uint64, first_round: int, rounds: int, streams: Sequence[int], weights: ArrayLike
                ) -> FiniteWinners:
    """Draw from `weights` in each of `rounds` rounds, over the union of `streams`.

    Args:
        key: session key.
        first_round: the number of the first round.
        rounds: how many rounds R.
        streams: the streams that race: all K for Y, one for X(k).
        weights: shape [N], finite, at least 0, one of them positive; they need not sum to 1. N up to 2^24.

    Equal times go to the lower item, then to the earlier stream.

    Raises:
        CallerError: an argument is outside the ranges above.
    """
    weight = np.ascontiguousarray(weights, dtype=np.float64)
    if weight.ndim != 1 or not 1 <= weight.size <= BLOCK_ITEMS * MAX_BLOCKS:
        raise CallerError(
            f"weights: expected shape [N] with N from 1 to {BLOCK_ITEMS * MAX_BLOCKS}, got {list(weight.shape)}"
        )
    heaviest = np.maximum.reduceat(weight, np.arange(0, weight.size, BLOCK_ITEMS))
    largest = float(heaviest.max())
    if not (0 < largest < np.inf and weight.min() >= 0):  # not a number fails the first comparison
        at = int(np.argmax(~(np.isfinite(weight) & (weight >= 0)))) if largest != 0 else 0
        raise CallerError(
            f"weights[{at}]: expected finite weights of at least 0, one of them positive, got {float(weight[at])!r}"
        )
    stream = _checked_streams(streams)
    _check_rounds(first_round, rounds)
    if not 1e-150 < largest < 1e150:  # keeps t / weight within the range of a float
        weight, heaviest = weight / largest, heaviest / largest
    winners = FiniteWinners(np.empty(rounds, np.int64), np.empty(rounds, np.int64))
    _finite_race(key, first_round, stream, heaviest, weight, 1.0 / (stream.size * float(weight.sum())), *winners)
    return winners


@kernel
def _finite_race(key: np.uint64, first_round: int, all_streams: IntArray, heaviest: FloatArray, weights: FloatArray,
                 expected: float, items_out: IntArray, streams_out: IntArray) -> None:
    size = all_streams.size * np.count_nonzero(heaviest)
    streams, blocks = np.empty(size, np.int64), np.empty(size, np.int64)
    latest = np.empty(size)  # an arrival later than best * latest cannot win: t / weight > best, with t times the mass
    at = 0
    for block in range(heaviest.size):
        if heaviest[block] > 0.0:
            mass = float(min(BLOCK_ITEMS, weights.size - block * BLOCK_ITEMS))
            for stream in all_streams:
                streams[at], blocks[at], latest[at] = stream, block, heaviest[block] * mass * (1.0 + 1e-9)
                at += 1
    first = np.empty(size)
    for i in range(items_out.size):
        _first_gaps(key, blocks, streams, first_round + i, first)
        items_out[i], streams_out[i] = _best_arrival(
            key, first_round + i, streams, blocks, latest, first, weights, expected
        )


@kernel
def _best_arrival(key: np.uint64, round_: int, streams: IntArray, blocks: IntArray, latest: FloatArray,
                  first: FloatArray, weights: FloatArray, expected: float) -> tuple[int, int]:
    """Item and stream of the least t / weight of one round.

    Looks at scores up to the one expected, and only if there is none, at more: so few arrivals are made in vain.
    """
    best, best_item, best_stream, horizon = expected, -1, -1, expected
    while best_item < 0:
        for at in range(blocks.size):
            limit = latest[at]
            if first[at] > best * limit:
                continue
            start = blocks[at] * BLOCK_ITEMS
            mass = float(min(BLOCK_ITEMS, weights.size - start))
            t = 0.0  # times the mass: the unit in which arrivals come at rate 1
            n = 0
            while True:
                word01, word23 = philox(key, n, blocks[at], streams[at], round_)
                u = uniform(word01)
                # -ln u >= 1 - u: most blocks are left without a logarithm.
                if t + (1.0 - u) > best * limit:
                    break
                t -= log(u)
                if t > best * limit:
                    break
                item = start + int(uniform(word23) * mass)
                if weights[item] > 0.0:
                    score = t / mass / weights[item]
                    if score < best or (score == best and item < best_item):
                        best, best_item, best_stream = score, item, streams[at]
                n += 1
        if best_item < 0:
            horizon = best = 2.0 * horizon
    return best_item, best_stream


@kernel
def _first_gaps(key: np.uint64, blocks: IntArray, streams: IntArray, round_: int, out: FloatArray) -> None:
    """1 - u of the first arrival of each block on its stream, which is at most its time, -ln u.

    A loop without branches, which the compiler makes eight at a time of: most blocks are left after this.
    """
    for at in range(blocks.size):
        out[at] = 1.0 - uniform(philox(key, 0, blocks[at], streams[at], round_)[0])


def candidates(key: np.uint64, first_round: int, first_item: IntArray, items: int, dimensions: int) -> FloatArray:
    """Independent standard normal vectors, the same at every party: item i of round r of the list that all share.

    Args:
        key: session key.
        first_round: the number of the first round.
        first_item: shape [R]; of round r, items first_item[r] to first_item[r] + items - 1 are made.
        items: how many.
        dimensions: of a vector.

    Returns:
        shape [R, items, dimensions].

    Raises:
        CallerError: the rounds are out of range.
    """
    _check_rounds(first_round, first_item.size)
    out = np.empty((first_item.size, items, dimensions))
    _candidates(key, first_round, first_item, out)
    return out


@kernel
def _candidates(key: np.uint64, first_round: int, first_item: IntArray, out: FloatArray) -> None:
    for i in range(out.shape[0]):
        for at in range(out.shape[1]):
            _candidate(key, first_round + i, first_item[i] + at, out[i, at])


@kernel
def _candidate(key: np.uint64, round_: int, item: int, out: FloatArray) -> None:
    pairs = (out.size + 1) // 2
    for pair in range(pairs):
        word01, word23 = philox(key, item * pairs + pair, 0, MAX_STREAMS - 1, round_)
        out[2 * pair] = mark_in(0, 0, uniform(word01))
        if 2 * pair + 1 < out.size:
            out[2 * pair + 1] = mark_in(0, 0, uniform(word23))


def normal_log_weights(key: np.uint64, first_round: int, items: int, mean: FloatArray, log_variance: FloatArray
                       ) -> FloatArray:
    """ln p(w)/p0(w) of the first `items` candidates w of each round, p normal, p0 the standard normal law they are of.

    Args:
        key: session key.
        first_round: the number of the first round.
        items: how many.
        mean: of p in each round, shape [R, dimensions].
        log_variance: of each coordinate, of the same shape; they are independent.

    Returns:
        shape [R, items].

    Raises:
        CallerError: the rounds are out of range.
    """
    _check_rounds(first_round, len(mean))
    out = np.empty((len(mean), items))
    _normal_log_weights(key, first_round, mean.astype(np.float64), log_variance.astype(np.float64), out)
    return out


@kernel
def _normal_log_weights(key: np.uint64, first_round: int, mean: FloatArray, log_variance: FloatArray, out: FloatArray
                        ) -> None:
    w = np.empty(mean.shape[1])
    for i in range(out.shape[0]):
        precision = np.exp(-log_variance[i])
        for at in range(out.shape[1]):
            _candidate(key, first_round + i, at, w)
            total = 0.0
            for j in range(w.size):
                total += w[j] * w[j] - (w[j] - mean[i, j]) ** 2 * precision[j] - log_variance[i, j]
            out[i, at] = 0.5 * total


def listed_race(key: np.uint64, first_round: int, streams: Sequence[int], first_item: IntArray,
                log_weights: FloatArray) -> FiniteWinners:
    """Draw an item in each round, with weights of that round, over the union of `streams`.

    Args:
        key: session key.
        first_round: the number of the first round.
        streams: the streams that race: all K for Y, one for X(k); below MAX_STREAMS - 1, which `candidates` has.
        first_item: shape [R]; round r races over items first_item[r] to first_item[r] + M - 1.
        log_weights: shape [R, M], natural logarithms; they need not sum to 1. Minus infinity is never drawn.

    Raises:
        CallerError: an argument is out of range, or no item of a round can be drawn.
    """
    stream = _checked_streams(streams)
    _check_rounds(first_round, first_item.size)
    weights = np.ascontiguousarray(log_weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[0] != first_item.size or not weights.shape[1]:
        raise CallerError(f"log_weights: expected shape [{first_item.size}, M], got {list(weights.shape)}")
    largest = weights.max(axis=1, initial=-np.inf)
    if not np.isfinite(largest).all() or np.isnan(weights).any():
        at = int(np.argmax(~np.isfinite(weights.sum(axis=1, where=weights > -np.inf)) | ~np.isfinite(largest)))
        raise CallerError(f"log_weights of round {first_round + at}: expected numbers below infinity, one of them "
                          f"finite, got at most {float(largest[at])!r}")
    winners = FiniteWinners(np.empty(first_item.size, np.int64), np.empty(first_item.size, np.int64))
    _listed_race(key, first_round, stream, first_item, weights, largest, *winners)
    return winners


@kernel
def _listed_race(key: np.uint64, first_round: int, streams: IntArray, first_item: IntArray, log_weights: FloatArray,
                 largest: FloatArray, items_out: IntArray, streams_out: IntArray) -> None:
    for i in range(first_item.size):
        best, least = np.inf, -np.inf  # of t / weight, weights being shares of the largest; ln weight that can be less
        for at in range(log_weights.shape[1]):
            if log_weights[i, at] - largest[i] < least:
                continue
            weight = np.exp(log_weights[i, at] - largest[i])
            for stream in streams:
                u = uniform(philox(key, first_item[i] + at, 0, stream, first_round + i)[0])
                if 1.0 - u < best * weight:  # -ln u >= 1 - u
                    score = -log(u) / weight
                    if score < best:
                        best, items_out[i], streams_out[i] = score, first_item[i] + at, stream
                        least = -36.8 - np.log(best)  # no time is below 2^-53 = e^-36.7


def minhash_race(key: np.uint64, first_round: int, rounds: int, probabilities: FloatArray) -> IntArray:
    """The item of the first dart that falls below its bar: weighted MinHash (Daliri, Musco, Suresh, Protocol 2).

    Darts come at uniform (item, height), heights from 0 to 1. They are made by height and by blocks of items: stream
    l < LEVELS holds the heights from 2^-(l+1) to 2^-l, stream LEVELS those below, in blocks of max(2^(l-2), 128)
    items. So a party makes only the darts that its bars could catch, and low heights cost few blocks. Equal times go
    to the lower item.

    Args:
        key: session key.
        first_round: the number of the first round.
        rounds: how many rounds R.
        probabilities: shape [N], from 0 to 1, one of them positive. Those below 2^-60 or so are never drawn.

    Returns:
        shape [R], items.

    Raises:
        CallerError: the rounds are out of range, or N is above 2^23.
    """
    _check_rounds(first_round, rounds)
    if probabilities.size > DART_ITEMS * MAX_BLOCKS:
        raise CallerError(f"probabilities: expected at most {DART_ITEMS * MAX_BLOCKS}, got {probabilities.size}")
    bars = np.ascontiguousarray(probabilities)
    levels: list[IntArray] = []
    blocks: list[IntArray] = []
    highest = np.maximum.reduceat(bars, np.arange(0, bars.size, DART_ITEMS))
    for level in range(LEVELS + 1):
        if level and _dart_items(level) > _dart_items(level - 1):
            highest = np.maximum.reduceat(highest, np.arange(0, highest.size, 2))
        reached = np.flatnonzero(highest > _bottom(level))
        levels.append(np.full(reached.size, level))
        blocks.append(reached)
    items = np.empty(rounds, np.int64)
    _minhash_race(key, first_round, np.concatenate(levels), np.concatenate(blocks), bars, items)
    return items


@kernel
def _minhash_race(key: np.uint64, first_round: int, levels: IntArray, blocks: IntArray, bars: FloatArray,
                  items_out: IntArray) -> None:
    first, rate = np.empty(blocks.size), np.empty(blocks.size)
    for at in range(blocks.size):
        rate[at] = _mass(levels[at], blocks[at], bars.size) * (2.0 ** -levels[at] - _bottom(levels[at]))
    for i in range(items_out.size):
        _first_gaps(key, blocks, levels, first_round + i, first)
        items_out[i] = _first_hit(key, first_round + i, levels, blocks, rate, first, bars)


@kernel
def _first_hit(key: np.uint64, round_: int, levels: IntArray, blocks: IntArray, rate: FloatArray, first: FloatArray,
               bars: FloatArray) -> int:
    """The item of the first dart below its bar; as in `_best_arrival`, by a horizon: darts hit at rate 1 or so."""
    best, best_item, horizon = 1.0, -1, 1.0
    while best_item < 0:
        for at in range(blocks.size):
            limit = best * rate[at] * (1.0 + 1e-9)  # times the rate, as t
            if first[at] > limit:
                continue
            level, start = levels[at], blocks[at] * _dart_items(levels[at])
            bottom, mass = _bottom(level), _mass(level, blocks[at], bars.size)
            thickness = 2.0**-level - bottom
            t = 0.0
            n = 0
            while True:
                word01, word23 = philox(key, n, blocks[at], level, round_)
                u = uniform(word01)
                if t + (1.0 - u) > limit:  # -ln u >= 1 - u
                    break
                t -= log(u)
                if t > limit:
                    break
                place = uniform(word23) * mass  # its whole part is the item, the rest the height
                item = start + int(place)
                if bottom + (place - float(int(place))) * thickness < bars[item]:
                    if t / rate[at] < best or (t / rate[at] == best and item < best_item):
                        best, best_item = t / rate[at], item
                    break
                n += 1
        if best_item < 0:
            horizon = best = 2.0 * horizon
    return best_item


@kernel
def _mass(level: int, block: int, size: int) -> float:
    """How many of `size` items are in a block of darts."""
    return float(min(_dart_items(level), size - block * _dart_items(level)))


@kernel
def _bottom(level: int) -> float:
    """The least height of a level of darts."""
    return 2.0 ** -(level + 1) if level < LEVELS else 0.0


@kernel
def _dart_items(level: int) -> int:
    """How many items a block of darts has at this level: so many that a dart comes now and then in a unit of time."""
    return max(1 << level >> 2, DART_ITEMS)


def normal_race(key: np.uint64, first_round: int, streams: Sequence[int], first_block: IntArray, blocks: int,
                centres: FloatArray, precision: float) -> NormalWinners:
    """Draw from exp(-precision (z - centre)^2 / 2) times the standard normal law, x uniform over some blocks.

    Args:
        key: session key.
        first_round: the number of the first round.
        streams: the streams that race: all K for Y, one for X(k).
        first_block: shape [R]; round r races over blocks first_block[r] to first_block[r] + blocks - 1.
        blocks: how many: L_max for Y, 1 (that of the message) for X(k).
        centres: shape [R], the centre of each round's density against the prior, in standard units of the prior.
        precision: the density's precision against the prior, at least 0, in the same units.

    Raises:
        CallerError: an argument is outside its range, or so large that the density underflows everywhere.
    """
    stream = _checked_streams(streams)
    centre = np.ascontiguousarray(centres, dtype=np.float64)
    first = np.ascontiguousarray(first_block, dtype=np.int64)
    if centre.ndim != 1 or first.shape != centre.shape:
        raise CallerError(f"centres and first_block: expected two equal shapes [R], got {centre.shape}, {first.shape}")
    _check_rounds(first_round, centre.size)
    if centre.size and not (blocks >= 1 and first.min() >= 0 and first.max() + blocks <= MAX_BLOCKS):
        raise CallerError(
            f"blocks: expected them within 0 to {MAX_BLOCKS - 1}, got {blocks} from {first.min()} or {first.max()} on"
        )
    with np.errstate(over="ignore"):
        depth = 0.5 * precision * (np.abs(centre) + 40.0) ** 2
    if not (precision >= 0 and np.isfinite(depth).all()):
        at = int(np.argmax(~np.isfinite(depth)))
        raise CallerError(
            f"centres[{at}] with this precision: expected finite numbers (precision at least 0) whose product of "
            f"precision and centre^2 is finite, got {float(centre[at])!r} and {precision!r}; check the sample's units"
        )
    winners = NormalWinners(
        np.empty(centre.size, np.int64), np.empty(centre.size, np.int64), np.empty(centre.size, np.int64),
        np.empty(centre.size),
    )
    _normal_race(key, first_round, stream, first, blocks, centre, float(precision), EDGES, *winners)
    return winners


@kernel
def _normal_race(key: np.uint64, first_round: int, streams: IntArray, first_block: IntArray, blocks: int,
                 centres: FloatArray, precision: float, edges: FloatArray, stream_out: IntArray, block_out: IntArray,
                 node_out: IntArray, mark_out: FloatArray) -> None:
    trees = streams.size * blocks
    earliest = np.empty(trees)
    waiting = np.empty((MAX_DEPTH + 2, 2), np.int64), np.empty((MAX_DEPTH + 2, 2))
    for i in range(centres.size):
        for tree in range(trees):
            word01, _ = philox(key, 1, first_block[i] + tree % blocks, streams[tree // blocks], first_round + i)
            earliest[tree] = 1.0 - uniform(word01)  # at most -ln u, the first arrival of the tree, and in its order
        best, best_time, node, mark = np.inf, np.inf, 1, 0.0
        # The earliest trees first: once these have set a low score, most of the others need not be entered.
        since, until = 0.0, 1.0 / trees
        while since < min(best_time, 1.0):
            for tree in range(trees):
                if since <= earliest[tree] < until and earliest[tree] < best_time:
                    stream, block = streams[tree // blocks], first_block[i] + tree % blocks
                    score, its_node, its_mark = _best_in_tree(
                        key, first_round + i, stream, block, centres[i], precision, edges, best, waiting
                    )
                    if score < best:
                        best, best_time, node, mark = score, np.exp(score) * (1.0 + 1e-9), its_node, its_mark
                        stream_out[i], block_out[i] = stream, block
            since, until = until, 2.0 * until
        node_out[i], mark_out[i] = node, mark


@kernel
def _best_in_tree(key: np.uint64, round_: int, stream: int, block: int, centre: float, precision: float,
                  edges: FloatArray, best: float, waiting: tuple[IntArray, FloatArray]
                  ) -> tuple[float, int, float]:
    """The least score below `best` in one tree, its node and its mark; (best, 0, 0.0) if there is none.

    The score of an arrival is ln(t / f(mark)) + const = ln t + precision (mark - centre)^2 / 2: in logarithms, no
    sample overflows. `waiting` is room for the nodes still to enter: (depth, j) and (parent's time, least score).
    """
    half = 0.5 * precision
    best_time = np.exp(best) * (1.0 + 1e-9)
    best_node, best_mark = 0, 0.0
    place, limit = waiting
    place[0, 0], place[0, 1], limit[0, 0], limit[0, 1] = 0, 0, 0.0, -np.inf
    count = 1
    while count > 0:
        count -= 1
        if limit[count, 1] >= best:
            continue
        depth, j, parent_time = place[count, 0], place[count, 1], limit[count, 0]
        node, size = (np.int64(1) << depth) + j, float(np.int64(1) << depth)
        word01, word23 = philox(key, node, block, stream, round_)
        u, v = uniform(word01), uniform(word23)
        if parent_time + (1.0 - u) * size >= best_time:  # -ln u >= 1 - u: often spares the logarithm
            continue
        t = parent_time - log(u) * size
        log_t = log(t)
        # No arrival in the node scores less than one at its first time, at the point nearest the centre.
        left, right = edge(depth, j, edges), edge(depth, j + 1, edges)
        gap = max(left - centre, centre - right, 0.0)
        if log_t + half * gap * gap >= best:
            continue
        cell = min(int((float(j) + v) / size * (edges.size - 1)), edges.size - 2)
        mark_gap = max(edges[cell] - centre - 1e-9, centre - edges[cell + 1] - 1e-9, 0.0)
        if log_t + half * mark_gap * mark_gap < best:
            mark = mark_in(depth, j, v)
            score = log_t + half * (mark - centre) * (mark - centre)
            if score < best:
                best, best_time = score, np.exp(score) * (1.0 + 1e-9)
                best_node, best_mark = node, mark
        if depth < MAX_DEPTH:
            # The child nearer the centre is entered next: put down last.
            middle = edge(depth + 1, 2 * j + 1, edges)
            near = 2 * j + 1 if centre >= middle else 2 * j
            far_gap = max(left - centre, centre - right, abs(centre - middle))
            place[count, 0], place[count, 1] = depth + 1, near ^ 1
            limit[count, 0], limit[count, 1] = t, log_t + half * far_gap * far_gap
            place[count + 1, 0], place[count + 1, 1] = depth + 1, near
            limit[count + 1, 0], limit[count + 1, 1] = t, log_t + half * gap * gap
            count += 2
    return best, best_node, best_mark


@kernel
def mark_in(depth: int, j: int, v: float) -> float:
    """The normal quantile of (j + v) / 2^depth, from whichever tail is nearer, so that none loses digits."""
    size = np.int64(1) << depth
    u = (float(j) + v) / float(size)
    if u <= 0.5:
        return normal_quantile(u)
    return -normal_quantile((float(size - 1 - j) + (1.0 - v)) / float(size))


@kernel
def edge(depth: int, j: int, edges: FloatArray) -> float:
    """The normal quantile of j / 2^depth: where node 2^depth + j begins."""
    if depth <= _TABLE_DEPTH:
        return float(edges[j << (_TABLE_DEPTH - depth)])
    size = np.int64(1) << depth
    if j == 0:
        return -np.inf
    if j == size:
        return np.inf
    if j <= size >> 1:
        return normal_quantile(float(j) / float(size))
    return -normal_quantile(float(size - j) / float(size))


def _table_of_edges() -> FloatArray:
    inner = np.array([mark_in(_TABLE_DEPTH, j, 0.0) for j in range(1, 1 << _TABLE_DEPTH)])
    return np.concatenate(([-np.inf], inner, [np.inf]))


EDGES = _table_of_edges()


def _checked_streams(streams: Sequence[int]) -> IntArray:
    if not len(streams) or min(streams) < 0 or max(streams) >= MAX_STREAMS:
        raise CallerError(f"streams: expected one or more numbers from 0 to {MAX_STREAMS - 1}, got {list(streams)}")
    return np.array(streams, dtype=np.int64)


def _check_rounds(first_round: int, rounds: int) -> None:
    if not (rounds >= 0 and 0 <= first_round <= MAX_ROUNDS - rounds):
        raise CallerError(
            f"rounds: expected them within 0 to {MAX_ROUNDS - 1}, got {rounds} from round {first_round} on; "
            "start a new session with another seed"
        )
