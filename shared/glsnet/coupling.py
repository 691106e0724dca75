"""Each party's half of every coupling of the two papers, over a finite alphabet.

Nothing is sent: both halves are draws from shared randomness, R rounds at once.

    Gumbel                 a = draw_x(key, ..., p, 0), b = draw_x(key, ..., q, 0)           (DMS, Protocol 3)
    weighted MinHash       a = draw_minhash(key, ..., p), b = draw_minhash(key, ..., q)     (DMS, Protocol 2)
    GLS                    X(k) = draw_x(key, ..., p_k, k), Y = draw_y(key, ..., q, S)      (RPK, Algorithm 1)
                           S: all K streams (strong form), or those still alive (conditional form)
    equality check         X(k) as in GLS, Y = draw_x(key, ..., q, K): a stream of its own, the control

Messages are sent: a half is a generator, one round each, that yields what it sends, is given what it receives, and
returns its sample. `converse` lets two halves talk; the bits of a message are said by the message.

    whole distribution     alice_sends_all, bob_knows_all                                   (DMS, Protocol 1)
    low communication      alice_low, bob_low, on distributions rounded by `on_grid`        (DMS, Protocol 4, Theorem 4)

Any two halves share the key and these messages, and nothing else. DMS: Daliri, Musco, Suresh; RPK: Rowan, Phan, Khisti.
`bounds` says what each must reach. The halves over a Gaussian prior are in `sources.gaussian`.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from glsnet.bits import width_of
from glsnet.bounds import as_distribution
from glsnet.errors import CallerError, FrameError
from glsnet.race import FloatArray, IntArray, finite_race, minhash_race
from glsnet.randomness import philox, uniform


def draw_y(key: np.uint64, first_round: int, rounds: int, q: ArrayLike, streams: Sequence[int]) -> IntArray:
    """The encoder's half of GLS: Y = argmin_i min_{k in S} S_i(k) / q_i in each round (RPK, Algorithm 1).

    Args:
        key: session key, the same for every party.
        first_round: the number of the first round.
        rounds: how many rounds R.
        q: shape [N], the encoder's weights; they need not sum to 1.
        streams: S: all K streams, or those that are still alive.

    Returns:
        shape [R], items 0 to N - 1, each distributed as q.

    Raises:
        CallerError: an argument is outside its range (see `race.finite_race`).
    """
    return finite_race(key, first_round, rounds, streams, q).item


def draw_x(key: np.uint64, first_round: int, rounds: int, p: ArrayLike, stream: int) -> IntArray:
    """Decoder k's half of GLS: X(k) = argmin_i S_i(k) / p_i in each round (RPK, Algorithm 1).

    On one stream for both parties it is Gumbel coupling (DMS, Protocol 3).

    Args:
        key: session key, the same for every party.
        first_round: the number of the first round.
        rounds: how many rounds R.
        p: shape [N], this decoder's weights; they need not sum to 1, and decoders may differ.
        stream: this decoder's stream k, from 0.

    Returns:
        shape [R], items 0 to N - 1, each distributed as p; independent between streams.

    Raises:
        CallerError: an argument is outside its range (see `race.finite_race`).
    """
    return finite_race(key, first_round, rounds, [stream], p).item


def draw_minhash(key: np.uint64, first_round: int, rounds: int, p: ArrayLike) -> IntArray:
    """Either party's half of weighted MinHash: the item of the first dart below its bar p_i (DMS, Protocol 2).

    Args:
        key: session key, the same for both.
        first_round: the number of the first round.
        rounds: how many rounds R.
        p: shape [N], probabilities: here their sum matters, unlike in a race.

    Returns:
        shape [R], items 0 to N - 1, each distributed as p.

    Raises:
        CallerError: p is no probability vector, or the rounds are out of range.
    """
    return minhash_race(key, first_round, rounds, as_distribution("p", p))


@dataclass(frozen=True)
class Everything:
    """Alice's sample and her whole distribution, shape [N]."""

    item: int
    p: FloatArray

    @property
    def bits(self) -> int:
        """An index, and N probabilities of 64 bits."""
        return width_of(self.p.size) + 64 * self.p.size


@dataclass(frozen=True)
class Candidate:
    """Alice's sample and its probability, in steps of 1 / grid."""

    item: int
    height: int
    items: int
    grid: int

    @property
    def bits(self) -> int:
        """An index, and a multiple of 1 / grid from 0 to 1."""
        return width_of(self.items) + width_of(self.grid + 1)

    def check(self, items: int, grid: int) -> None:
        """Raise FrameError if this cannot be an item of `items` and a multiple of 1 / `grid` within [0, 1]."""
        if (self.items, self.grid) != (items, grid):
            raise FrameError(f"grid: expected {items} items, steps of 1/{grid}, got {self.items} and 1/{self.grid}")
        if not 0 <= self.item < items:
            raise FrameError(f"index: expected 0 to {items - 1}, got {self.item}")
        if not 0 <= self.height <= grid:
            raise FrameError(f"probability: expected 0 to {grid} steps of 1/{grid}, got {self.height}")


class Dart(Candidate):
    """Bob rejects, and offers the item that his next dart hit; height is the sum of q before it, in steps."""

    @property
    def bits(self) -> int:
        """As a candidate, and one bit to tell it from approval."""
        return 1 + super().bits


@dataclass(frozen=True)
class Verdict:
    """Whether a candidate is approved."""

    approve: bool

    @property
    def bits(self) -> int:
        """One."""
        return 1


Message = Everything | Candidate | Verdict
Half = Generator[Message | None, Message | None, int]


@dataclass(frozen=True)
class Conversation:
    """Both samples of one round, and every message in the order sent."""

    a: int
    b: int
    messages: list[Message]

    @property
    def bits(self) -> int:
        """Bits of all messages."""
        return sum(message.bits for message in self.messages)

    @property
    def rounds(self) -> int:
        """Messages with an index and a probability: those that Claim 7 of DMS counts; verdicts are not among them."""
        return sum(not isinstance(message, Verdict) for message in self.messages)


def converse(alice: Half, bob: Half) -> Conversation:
    """Let two halves talk, Alice first, until both have a sample.

    Raises:
        FrameError: one of them is sent what it does not expect.
    """
    messages: list[Message] = []
    samples: list[int | None] = [None, None]
    next(bob)  # it awaits the first message
    turn, message = 0, next(alice)
    while None in samples:
        if message is not None:
            messages.append(message)
        turn = 1 - turn
        try:
            message = (alice, bob)[turn].send(message)
        except StopIteration as end:
            samples[turn], message = end.value, None
    assert samples[0] is not None and samples[1] is not None
    return Conversation(samples[0], samples[1], messages)


def alice_sends_all(private: np.uint64, round_: int, p: ArrayLike) -> Half:
    """Alice in Protocol 1 of DMS: a ~ p from randomness of her own; a and p are sent."""
    distribution = as_distribution("p", p)
    a = int(draw_x(private, round_, 1, distribution, 0)[0])
    yield Everything(a, distribution)
    return a


def bob_knows_all(private: np.uint64, round_: int, q: ArrayLike) -> Half:
    """Bob in Protocol 1 of DMS: a with probability min(1, q_a / p_a), else a draw from (q - p)+."""
    distribution = as_distribution("q", q)
    message = yield None
    if not isinstance(message, Everything):
        raise _unexpected("a sample and its distribution", message)
    p = as_distribution("p", message.p)
    if p.size != distribution.size or not 0 <= message.item < p.size or p[message.item] == 0:
        raise FrameError(f"index: expected an item of positive p among {distribution.size}, got {message.item}")
    return _mapped(private, round_, message.item, p, distribution)


def on_grid(p: ArrayLike, epsilon: float) -> tuple[IntArray, int]:
    """Algorithm 1 of DMS: p rounded down to a grid, the remainder on the first item; D(p, p') <= epsilon (Lemma 8).

    Args:
        p: shape [N], probabilities.
        epsilon: the precision, above 0 and at most 1.

    Returns:
        shape [N], whole numbers that sum to the second value, the grid: ceil(N / epsilon), at most 2^52.

    Raises:
        CallerError: p is no probability vector, or epsilon is out of range.
    """
    distribution = as_distribution("p", p)
    if not (0 < epsilon <= 1 and distribution.size / epsilon <= 2**52):
        raise CallerError(f"epsilon: expected a number above N / 2^52 and at most 1, got {epsilon!r}")
    grid = math.ceil(distribution.size / epsilon)
    steps = np.floor(distribution * grid).astype(np.int64)
    short = grid - int(steps.sum())
    if short < 0:  # a sum of 1 and a few ulp more: take them off the largest
        steps[steps.argmax()] += short
    else:
        steps[0] += short
    return steps, grid


def alice_low(shared: np.uint64, private: np.uint64, round_: int, p: ArrayLike, epsilon: float) -> Half:
    """Alice in Protocol 4 of DMS, on p rounded with epsilon / 4, and mapped back to p (proof of Theorem 4).

    Args:
        shared: key of the darts, which both have.
        private: key of her own randomness.
        round_: the number of the round.
        p: shape [N], probabilities.
        epsilon: what may be lost of 1 - D, the same for both.
    """
    distribution = as_distribution("p", p)
    steps, grid = on_grid(distribution, epsilon / 4)
    a = int(draw_x(private, round_, 1, steps, 0)[0])
    answer = yield Candidate(a, int(steps[a]), steps.size, grid)
    darts = 0
    while isinstance(answer, Dart):
        darts += 1
        answer.check(steps.size, grid)
        above = _dart(shared, round_, darts) * grid - answer.height
        if above < 0:
            raise FrameError(f"probability: expected dart {darts} above the sum of q before its item, got {answer}")
        approve = bool(above > steps[answer.item])
        answer = yield Verdict(approve)
        if approve:
            break
    else:
        if answer != Verdict(True):
            raise _unexpected("approval or a dart", answer)
    return _mapped(private, round_, a, steps / grid, distribution)


def bob_low(shared: np.uint64, private: np.uint64, round_: int, q: ArrayLike, epsilon: float) -> Half:
    """Bob in Protocol 4 of DMS: approves Alice's sample, or throws darts until one is above her bar; as `alice_low`."""
    distribution = as_distribution("q", q)
    steps, grid = on_grid(distribution, epsilon / 4)
    first = yield None
    if not isinstance(first, Candidate) or isinstance(first, Dart):
        raise _unexpected("a sample and its probability", first)
    first.check(steps.size, grid)
    if first.height == 0:
        raise FrameError(f"probability: expected a sample of positive probability, got {first}")
    if _dart(shared, round_, 0) * first.height <= steps[first.item]:
        yield Verdict(True)
        return _mapped(private, round_, first.item, steps / grid, distribution)
    sums = np.cumsum(steps)
    darts = 0
    while True:
        darts += 1
        b = int(np.searchsorted(sums, _dart(shared, round_, darts) * grid, side="right"))
        verdict = yield Dart(b, int(sums[b] - steps[b]), steps.size, grid)
        if not isinstance(verdict, Verdict):
            raise _unexpected("a verdict", verdict)
        if verdict.approve:
            return _mapped(private, round_, b, steps / grid, distribution)


def _mapped(private: np.uint64, round_: int, item: int, p: FloatArray, q: FloatArray) -> int:
    """An item drawn from p made one drawn from q, the same with probability 1 - D: an optimal coupling."""
    word, _ = philox(private, 0, 0, 1, round_)
    residual = np.maximum(q - p, 0.0)
    if uniform(np.uint64(word)) * p[item] <= q[item] or not residual.any():
        return item
    return int(draw_x(private, round_, 1, residual, 2)[0])


def _dart(shared: np.uint64, round_: int, n: int) -> float:
    """u_n, uniform on (0, 1)."""
    word, _ = philox(shared, n, 0, 0, round_)
    return uniform(np.uint64(word))


def _unexpected(expected: str, message: Message | None) -> FrameError:
    return FrameError(f"turn: expected {expected}, got {message if message is not None else 'the end'}")
