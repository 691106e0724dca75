"""Who wins a normal race, as a function of the centre: what shared randomness alone tells of the encoder's choice.

The score of an arrival, ln t + precision (mark - centre)^2 / 2, is a line in the centre once the term that all arrivals
share is taken off. So the least score as a function of the centre is the lower envelope of lines: the centres fall into
cells, in the order of their winners' marks, each with a message. A party that knows the session key can tell the cells
of any round, and so what any sample would have been coded as.

    message_probabilities   Pr[message] of a normal centre, given the shared randomness: for H(M | shared randomness)
                            and to entropy-code with
    posterior_means         E[centre | message, shared randomness] of a normal centre

Which arrivals can matter: the least score at a centre is ln E - ln(trees Z), with E ~ Exp(1) and
Z = exp(-k centre^2 / 2) / sqrt(1 + precision), k = precision / (1 + precision), the chance that a mark is near. Where
E stays below a limit, only arrivals with ln t at most ln limit - ln trees + ln(1 + precision) / 2 + mark^2 / 2 can be
on the envelope: about limit of them for each cell, whatever the number of trees. They are collected, and if their
envelope shows that E was above the limit somewhere, once more with twice the limit. So the cells are exact.
"""

import math
from typing import Any

import numpy as np

from glsnet.race import EDGES, MAX_DEPTH, FloatArray, IntArray, edge, mark_in
from glsnet.randomness import exp, kernel, log, normal_cdf, philox, uniform

_REACH = 5.0  # standard deviations of the centre looked at to each side; 6e-7 of its mass is beyond
_FARTHEST = 8.0  # centres looked at: hardly an arrival is farther out, and none that a tree can tell apart
_LIMIT = 8.0  # of E at first; a cell has it larger once in 3,000


@kernel
def message_probabilities(key: np.uint64, first_round: int, streams: int, messages: int, precision: float,
                          deviation: float, out: FloatArray) -> None:
    """Pr[message | shared randomness] in each round, of a centre distributed as N(0, deviation^2).

    Args:
        key: session key.
        first_round: the number of the first round.
        streams: how many streams, from 0, the encoder races over.
        messages: their number L_max.
        precision: of the encoder's density against the prior, as for `race.normal_race`; above 0.
        deviation: of the centre, above 0, in standard units of the prior.
        out: shape [R, L_max], filled; rows sum to 1.
    """
    for i in range(out.shape[0]):
        tree, start = cells(key, first_round + i, streams, messages, precision, -_REACH * deviation,
                            _REACH * deviation, EDGES)
        out[i] = 0.0
        for cell in range(tree.size):
            left = start[cell] / deviation if cell > 0 else -np.inf
            right = start[cell + 1] / deviation if cell + 1 < tree.size else np.inf
            out[i, tree[cell] % messages] += normal_mass(left, right)


@kernel
def posterior_means(key: np.uint64, first_round: int, streams: int, messages: int, precision: float,
                    means: FloatArray, deviation: float, received: IntArray, stream: int, out: FloatArray) -> None:
    """E[centre | message, shared randomness] in each round, of a centre distributed as N(means, deviation^2).

    Args:
        key, first_round, streams, messages, precision: as for `message_probabilities`.
        means: shape [R], of the centre, in standard units of the prior.
        deviation: of the centre, above 0, in the same units.
        received: shape [R], each round's message.
        stream: the stream that the winner is supposed to be on; -1 for any.
        out: shape [R], filled; where no centre in reach would have been coded so, the mean itself.
    """
    for i in range(out.size):
        low, high = max(means[i] - _REACH * deviation, -_FARTHEST), min(means[i] + _REACH * deviation, _FARTHEST)
        out[i] = means[i]
        if low >= high:
            continue
        tree, start = cells(key, first_round + i, streams, messages, precision, low, high, EDGES)
        mass = moment = 0.0
        for cell in range(tree.size):
            if tree[cell] % messages == received[i] and stream in (-1, tree[cell] // messages):
                # What is beyond goes to the outermost cells.
                left = (start[cell] - means[i]) / deviation if cell > 0 else -np.inf
                right = (start[cell + 1] - means[i]) / deviation if cell + 1 < tree.size else np.inf
                mass += normal_mass(left, right)
                moment += normal_density(left) - normal_density(right)
        if mass > 0.0:
            out[i] += deviation * moment / mass


@kernel
def cells(key: np.uint64, round_: int, streams: int, messages: int, precision: float, low: float, high: float,
          edges: FloatArray) -> tuple[IntArray, FloatArray]:
    """The cells of the centres from `low` to `high`, in order: their trees, shape [C], and edges, shape [C + 1].

    Tree number stream x messages + message. `edges` is race.EDGES.
    """
    half, flat = 0.5 * precision, 0.5 * precision / (1.0 + precision)
    limit = _LIMIT
    while True:
        base = log(limit * math.sqrt(1.0 + precision) / (streams * messages))
        tree, mark, value = _candidates(key, round_, streams, messages, precision, low, high, base, edges)
        winner, start = _envelope(mark, value, precision, low, high)
        # In a cell, the score less its limit is convex in the centre: it is enough to look at the cells' edges.
        exact = winner.size > 0
        for cell in range(winner.size):
            for centre in (start[cell], start[cell + 1]):
                score = value[winner[cell]] - precision * centre * mark[winner[cell]] + half * centre * centre
                exact = exact and score <= base + flat * centre * centre
        if exact:
            return tree[winner], start
        limit *= 2.0


@kernel
def _candidates(key: np.uint64, round_: int, streams: int, messages: int, precision: float, low: float, high: float,
                base: float, edges: FloatArray) -> tuple[IntArray, FloatArray, FloatArray]:
    """Tree, mark and score at centre 0 of every arrival whose score is below base + k centre^2 / 2 somewhere.

    Tree number stream x messages + message.
    """
    half = 0.5 * precision
    tree_of, mark, value, count = np.empty(256, np.int64), np.empty(256), np.empty(256), 0
    # Nodes still to enter: depth, j; their ends and their parent's time.
    place, node = np.empty((MAX_DEPTH + 2, 2), np.int64), np.empty((MAX_DEPTH + 2, 3))
    for tree in range(streams * messages):
        place[0, 0], place[0, 1], node[0, 0], node[0, 1], node[0, 2] = 0, 0, -np.inf, np.inf, 0.0
        waiting = 1
        while waiting > 0:
            waiting -= 1
            depth, j, left, right = place[waiting, 0], place[waiting, 1], node[waiting, 0], node[waiting, 1]
            size = float(np.int64(1) << depth)
            word01, word23 = philox(key, (np.int64(1) << depth) + j, tree % messages, tree // messages, round_)
            t = node[waiting, 2] - log(uniform(word01)) * size
            log_t = log(t)
            if log_t > _latest_within(left, right, precision, low, high, base):
                continue
            its_mark = mark_in(depth, j, uniform(word23))
            if log_t <= _latest(its_mark, precision, low, high, base):
                if count == tree_of.size:
                    tree_of, mark, value = _longer(tree_of), _longer(mark), _longer(value)
                tree_of[count], mark[count], value[count] = tree, its_mark, log_t + half * its_mark * its_mark
                count += 1
            if depth < MAX_DEPTH:
                middle = edge(depth + 1, 2 * j + 1, edges)
                for child in range(2):
                    ends = (left, middle) if child == 0 else (middle, right)
                    # Its arrivals come after t: none can matter where that is late already.
                    if log_t <= _latest_within(ends[0], ends[1], precision, low, high, base):
                        place[waiting, 0], place[waiting, 1] = depth + 1, 2 * j + child
                        node[waiting, 0], node[waiting, 1], node[waiting, 2] = ends[0], ends[1], t
                        waiting += 1
    return tree_of[:count], mark[:count], value[:count]


@kernel
def _latest_within(left: float, right: float, precision: float, low: float, high: float, base: float) -> float:
    """The most that `_latest` is at marks from left to right: at one of the ends, or of those of the range."""
    if left > high:
        return _latest(left, precision, low, high, base)
    if right < low:
        return _latest(right, precision, low, high, base)
    return max(_latest(max(left, low), precision, low, high, base),
               _latest(min(right, high), precision, low, high, base))


@kernel
def _latest(mark: float, precision: float, low: float, high: float, base: float) -> float:
    """The largest ln t with which an arrival at this mark scores base + k centre^2 / 2 at some centre in range."""
    centre = min(max(mark * (1.0 + precision) / precision, low), high)
    return base + 0.5 * precision * (centre * centre / (1.0 + precision) - (mark - centre) * (mark - centre))


@kernel
def _envelope(mark: FloatArray, value: FloatArray, precision: float, low: float, high: float
              ) -> tuple[IntArray, FloatArray]:
    """Which of the lines value - precision mark centre are least, in order, shape [C], and where, shape [C + 1]."""
    winner, start, count = np.empty(mark.size, np.int64), np.empty(mark.size + 1), 0
    for line in np.argsort(mark):
        crossing = low
        while count > 0:
            last = winner[count - 1]
            crossing = (value[line] - value[last]) / (precision * (mark[line] - mark[last]))
            if crossing > start[count - 1]:
                break
            count -= 1
            crossing = low
        if crossing < high:
            winner[count], start[count] = line, crossing
            count += 1
    start[count] = high
    return winner[:count], start[: count + 1]


@kernel
def _longer(array: Any) -> Any:
    """With as much room again."""
    longer = np.empty(2 * array.size, array.dtype)
    longer[: array.size] = array
    return longer


@kernel
def normal_mass(left: float, right: float) -> float:
    """The standard normal mass from left to right; in the upper tail by symmetry, which loses no digits."""
    if left > 0.0:
        return normal_cdf(-left) - normal_cdf(-right)
    return normal_cdf(right) - normal_cdf(left)


@kernel
def normal_density(x: float) -> float:
    """The standard normal density."""
    return 0.3989422804014327 * exp(-0.5 * x * x)
