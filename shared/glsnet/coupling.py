"""Each party's half of every coupling of the two papers, over a finite alphabet.

`alice` and `bob` are the halves: generators that draw R rounds at once, yield each message that they send, yield None
to wait for one, and return their items. `converse` lets two of them talk in one process; `conversation` has them talk
in frames. Two halves share a seed and the messages, and nothing else. Alice has p and speaks first, Bob has q; in a
list scheme there are K Alices, each on a stream of her own.

    scheme               Alice                   sent                           Bob                    source
    gumbel               draw_x(p), stream 0     nothing                        draw_x(q), stream 0    DMS, Protocol 3
    minhash              draw_minhash(p)         nothing                        draw_minhash(q)        DMS, Protocol 2
    gls                  draw_x(p_k), stream k   nothing                        draw_y(q), K streams   RPK, Algorithm 1
    equality-check       draw_x(p_k), stream k   nothing                        draw_x(q), stream K    the control
    low-communication    alice_offers            Candidates, Verdicts, Darts    bob_throws             DMS, Protocol 4
    whole-distribution   alice_sends_all         Everything, once a round       bob_knows_all          DMS, Protocol 1

For GLS in which some streams are no longer alive, `draw_y` takes S: those alive (conditional form) or all K (strong
form). DMS: Daliri, Musco, Suresh; RPK: Rowan, Phan, Khisti. `bounds` says what each must reach. The halves over a
Gaussian prior are in `sources.gaussian`.
"""

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glsnet.bounds import as_distribution
from glsnet.errors import CallerError, FrameError
from glsnet.race import FloatArray, IntArray, finite_race, minhash_race
from glsnet.randomness import MAX_STREAMS, kernel, philox, session_key, uniform

SILENT = ("gumbel", "minhash", "gls", "equality-check")
TALKING = ("low-communication", "whole-distribution")
LISTS = ("gls", "equality-check")  # those that K > 1 decoders can play


@dataclass(frozen=True)
class Scheme:
    """A coupling, its number of Alices K, and for Protocol 4 its epsilon: what may be lost of 1 - D.

    Raises:
        CallerError: there is no such scheme, or K or epsilon is not possible for it.
    """

    name: str
    decoders: int = 1
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.name not in SILENT + TALKING:
            raise CallerError(f"scheme: expected one of {', '.join(SILENT + TALKING)}, got {self.name!r}")
        most = MAX_STREAMS - 1 if self.name in LISTS else 1
        if not 1 <= self.decoders <= most:
            raise CallerError(f"decoders: expected 1 to {most} for scheme {self.name}, got {self.decoders}")
        if (self.name == "low-communication") != (self.epsilon is not None):
            raise CallerError(f"epsilon: expected it for scheme low-communication and for no other, got "
                              f"{self.epsilon!r} for {self.name}")


class Keys(NamedTuple):
    """Keys of the randomness that both have, and of a party's own."""

    shared: np.uint64
    private: np.uint64


def keys_of(seed: bytes, party: str) -> Keys:
    """The keys of "alice" or "bob". Her own randomness comes from the seed, too, so that a run can be repeated."""
    return Keys(session_key(seed, "coupling"), session_key(seed, f"coupling: {party}"))


# Silent halves: draws from shared randomness alone.


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


# Messages, each with its bits: log2 of the number of values that it can have.


@dataclass(frozen=True)
class Everything:
    """One round's sample, and the whole distribution that it was drawn from, shape [N]."""

    item: int
    p: FloatArray

    @property
    def indices(self) -> int:
        """One."""
        return 1

    @property
    def bits(self) -> float:
        """An index, and N probabilities of 64 bits."""
        return math.log2(self.p.size) + 64 * self.p.size


@dataclass(frozen=True)
class Candidates:
    """Alice's items and their probabilities, shape [R]; heights count steps of 1 / grid."""

    items: IntArray
    heights: IntArray
    size: int
    grid: int

    @property
    def indices(self) -> int:
        """In how many rounds this sends an index and a probability: what Claim 7 of DMS calls a message."""
        return self.items.size

    @property
    def bits(self) -> float:
        """An index, and a multiple of 1 / grid from 0 to 1, for each round."""
        return self.items.size * (math.log2(self.size) + math.log2(self.grid + 1))

    def check(self, rounds: int, size: int, grid: int) -> None:
        """Raise FrameError if these cannot be `rounds` of `size` items and multiples of 1 / `grid` within [0, 1]."""
        if (self.size, self.grid) != (size, grid):
            raise FrameError(f"grid: expected {size} items, steps of 1/{grid}, got {self.size} and 1/{self.grid}")
        if not self.items.shape == self.heights.shape == (rounds,):
            raise FrameError(f"rounds: expected {rounds} items and probabilities, got {self.items.size} and "
                             f"{self.heights.size}")
        for name, values, last, unit in (("index", self.items, size - 1, ""),
                                         ("probability", self.heights, grid, f" steps of 1/{grid}")):
            bad = (values < 0) | (values > last)
            if bad.any():
                at = int(bad.argmax())
                raise FrameError(f"{name} {at}: expected 0 to {last}{unit}, got {values[at]}")


class Darts(Candidates):
    """The items that Bob's darts hit in the rounds not yet settled; heights are the sums of q before them."""


@dataclass(frozen=True)
class Verdicts:
    """Whether each candidate, or dart, of the message before is approved, shape [R]."""

    approved: NDArray[np.bool_]

    @property
    def indices(self) -> int:
        """None: verdicts are not among what Claim 7 of DMS counts."""
        return 0

    @property
    def bits(self) -> float:
        """One for each round."""
        return self.approved.size

    def check(self, rounds: int) -> None:
        """Raise FrameError if these are not `rounds` verdicts."""
        if self.approved.shape != (rounds,):
            raise FrameError(f"rounds: expected {rounds} verdicts, got {self.approved.size}")


Message = Everything | Candidates | Verdicts
Half = Generator[Message | None, Message | None, IntArray]
Kind = TypeVar("Kind", Everything, Candidates, Darts, Verdicts)


# The two halves.


def alice(scheme: Scheme, keys: Keys, first_round: int, rounds: int, p: ArrayLike, stream: int = 0) -> Half:
    """Alice's half of any scheme.

    Args:
        scheme: the coupling.
        keys: hers.
        first_round: the number of the first round.
        rounds: how many rounds R.
        p: shape [N], probabilities.
        stream: which of K Alices she is, in a list scheme.

    Returns:
        shape [R], items, each distributed as p.

    Raises (at the first step, or once a message has come):
        CallerError: p is no probability vector, or another argument is out of range.
        FrameError: Bob's message is none that he could send.
    """
    distribution = as_distribution("p", p)
    match scheme:
        case Scheme("minhash"):
            return draw_minhash(keys.shared, first_round, rounds, distribution)
        case Scheme("low-communication", epsilon=float(epsilon)):
            return (yield from alice_offers(keys, first_round, rounds, distribution, epsilon))
        case Scheme("whole-distribution"):
            return (yield from alice_sends_all(keys, first_round, rounds, distribution))
    return draw_x(keys.shared, first_round, rounds, distribution, stream)


def bob(scheme: Scheme, keys: Keys, first_round: int, rounds: int, q: ArrayLike) -> Half:
    """Bob's half of any scheme, with q of shape [N]; as `alice`."""
    distribution = as_distribution("q", q)
    match scheme:
        case Scheme("minhash"):
            return draw_minhash(keys.shared, first_round, rounds, distribution)
        case Scheme("gls"):
            return draw_y(keys.shared, first_round, rounds, distribution, range(scheme.decoders))
        case Scheme("equality-check"):
            return draw_x(keys.shared, first_round, rounds, distribution, scheme.decoders)
        case Scheme("low-communication", epsilon=float(epsilon)):
            return (yield from bob_throws(keys, first_round, rounds, distribution, epsilon))
        case Scheme("whole-distribution"):
            return (yield from bob_knows_all(keys, first_round, rounds, distribution))
    return draw_x(keys.shared, first_round, rounds, distribution, 0)


def alice_sends_all(keys: Keys, first_round: int, rounds: int, p: FloatArray) -> Half:
    """Alice in Protocol 1 of DMS: in each round a ~ p from randomness of her own; a and p are sent."""
    a = draw_x(keys.private, first_round, rounds, p, 0)
    for item in a.tolist():
        yield Everything(item, p)
    return a


def bob_knows_all(keys: Keys, first_round: int, rounds: int, q: FloatArray) -> Half:
    """Bob in Protocol 1 of DMS: a with probability min(1, q_a / p_a), else a draw from (q - p)+."""
    b = np.empty(rounds, np.int64)
    for i in range(rounds):
        message = _the(Everything, (yield None), "a sample and its distribution")
        try:
            p = as_distribution("probability", message.p)
        except CallerError as error:
            raise FrameError(str(error)) from error
        if p.size != q.size:
            raise FrameError(f"distribution: expected {q.size} probabilities, got {p.size}")
        if not 0 <= message.item < p.size or p[message.item] == 0:
            raise FrameError(f"index: expected 0 to {p.size - 1}, an item of positive probability, got {message.item}")
        b[i] = _mapped(keys.private, first_round + i, np.array([message.item]), p, q)[0]
    return b


def on_grid(p: ArrayLike, epsilon: float) -> tuple[IntArray, int]:
    """Algorithm 1 of DMS: p rounded down to a grid, the remainder on the first item; D(p, p') <= epsilon (Lemma 8).

    Args:
        p: shape [N], probabilities.
        epsilon: the precision, as for `steps_of`.

    Returns:
        shape [N], whole numbers that sum to the second value, the grid.

    Raises:
        CallerError: p is no probability vector, or epsilon is out of range.
    """
    distribution = as_distribution("p", p)
    grid = steps_of(distribution.size, epsilon)
    steps = np.floor(distribution * grid).astype(np.int64)
    short = grid - int(steps.sum())
    if short < 0:  # a sum of 1 and a few ulp more: take them off the largest
        steps[steps.argmax()] += short
    else:
        steps[0] += short
    return steps, grid


def steps_of(size: int, epsilon: float) -> int:
    """The grid of Algorithm 1 of DMS: ceil(N / epsilon) steps, at most 2^52.

    Raises:
        CallerError: epsilon is not above 0 and at most 1, or too small for N items.
    """
    if not (0 < epsilon <= 1 and size / epsilon <= 2**52):
        raise CallerError(f"epsilon: expected a number above N / 2^52 and at most 1, got {epsilon!r}")
    return math.ceil(size / epsilon)


def alice_offers(keys: Keys, first_round: int, rounds: int, p: FloatArray, epsilon: float) -> Half:
    """Alice in Protocol 4 of DMS, on p rounded with epsilon / 4, and mapped back to p (proof of Theorem 4)."""
    steps, grid = on_grid(p, epsilon / 4)
    a = draw_x(keys.private, first_round, rounds, steps, 0)
    yield Candidates(a, steps[a], p.size, grid)
    verdicts = _the(Verdicts, (yield None), "verdicts")
    verdicts.check(rounds)
    pending, dart = np.flatnonzero(~verdicts.approved), 0
    while pending.size:
        dart += 1
        darts = _the(Darts, (yield None), "darts")
        darts.check(pending.size, p.size, grid)
        above = _uniforms(keys.shared, dart, 0, first_round + pending) * grid - darts.heights
        if above.min() < 0:
            at = int(above.argmin())
            raise FrameError(f"probability {at}: expected the sum of q before the item to be below dart {dart} at "
                             f"{darts.heights[at] + above[at]:.0f} steps of 1/{grid}, got {darts.heights[at]}")
        approved = above > steps[darts.items]
        yield Verdicts(approved)
        pending = pending[~approved]
    return _mapped(keys.private, first_round, a, steps / grid, p)


def bob_throws(keys: Keys, first_round: int, rounds: int, q: FloatArray, epsilon: float) -> Half:
    """Bob in Protocol 4 of DMS: approves Alice's items, or throws darts until one is above her bar; as `alice_offers`.

    Her item is approved if the round's dart 0, as a share of her bar, is below his own; his n-th dart of a round that
    is left hits the item of q that quantile u_n is in.
    """
    steps, grid = on_grid(q, epsilon / 4)
    offered = _the(Candidates, (yield None), "candidates")
    offered.check(rounds, q.size, grid)
    if offered.heights.min() == 0:
        raise FrameError(f"probability {int(offered.heights.argmin())}: expected a sample of positive probability, "
                         "got 0")
    b = offered.items.copy()
    approved = _uniforms(keys.shared, 0, 0, first_round + np.arange(rounds)) * offered.heights <= steps[b]
    yield Verdicts(approved)
    sums = np.cumsum(steps)
    pending, dart = np.flatnonzero(~approved), 0
    while pending.size:
        dart += 1
        hit = np.searchsorted(sums, _uniforms(keys.shared, dart, 0, first_round + pending) * grid, side="right")
        b[pending] = hit
        yield Darts(hit, sums[hit] - steps[hit], q.size, grid)
        verdicts = _the(Verdicts, (yield None), "verdicts")
        verdicts.check(pending.size)
        pending = pending[~verdicts.approved]
    return _mapped(keys.private, first_round, b, steps / grid, q)


def _mapped(private: np.uint64, first_round: int, items: IntArray, p: FloatArray, q: FloatArray) -> IntArray:
    """Items drawn from p made such drawn from q, the same with probability 1 - D: an optimal coupling."""
    rounds = first_round + np.arange(items.size)
    residual = np.maximum(q - p, 0.0)
    kept = (_uniforms(private, 0, 1, rounds) * p[items] <= q[items]) | (not residual.any())
    if kept.all():
        return items
    return np.where(kept, items, draw_x(private, first_round, items.size, residual, 2))


@kernel
def _uniforms(key: np.uint64, n: int, stream: int, rounds: IntArray) -> FloatArray:
    """u_n of each round on a stream, uniform on (0, 1)."""
    values = np.empty(rounds.size)
    for i in range(rounds.size):
        values[i] = uniform(philox(key, n, 0, stream, rounds[i])[0])
    return values


def _the(kind: type[Kind], message: Message | None, expected: str) -> Kind:
    """The message, if it is just of this kind."""
    if type(message) is not kind:
        raise FrameError(f"turn: expected {expected}, got {type(message).__name__.lower()}")
    return message


# Two halves in one process.


class Speaker:
    """One party's half under way: what it says, given what it hears, until it has its items, shape [R]."""

    def __init__(self, half: Half) -> None:
        self._half = half
        self.items: IntArray | None = None

    def hear(self, message: Message | None) -> Iterator[Message]:
        """Resume with a message, None to begin; gives all that is said before the half waits again, or is done.

        Raises:
            FrameError: the half does not expect this message, or is done.
        """
        if self.items is not None:
            raise FrameError(f"turn: expected no more of these rounds, got {type(message).__name__.lower()}")
        try:
            said = self._half.send(message)
            while said is not None:
                yield said
                said = next(self._half)
        except StopIteration as end:
            self.items = end.value


@dataclass(frozen=True)
class Conversation:
    """What both drew, shape [R] each, and every message in the order sent."""

    a: IntArray
    b: IntArray
    messages: list[Message]

    @property
    def bits(self) -> float:
        """Bits of all messages."""
        return sum(message.bits for message in self.messages)

    @property
    def indices(self) -> list[int]:
        """Of each message, in how many rounds it sent an index; their sum over R is the mean that Claim 7 bounds."""
        return [message.indices for message in self.messages]


def converse(of_alice: Half, of_bob: Half) -> Conversation:
    """Let two halves talk until both have their items.

    Raises:
        CallerError: see `alice` and `bob`.
        FrameError: one of them is sent what it does not expect, or waits for what is never sent.
    """
    parties = Speaker(of_alice), Speaker(of_bob)
    messages: list[Message] = []
    under_way: deque[tuple[int, Message]] = deque()
    for sender, party in enumerate(parties):
        under_way.extend((1 - sender, message) for message in party.hear(None))
    while under_way:
        receiver, message = under_way.popleft()
        messages.append(message)
        under_way.extend((1 - receiver, answer) for answer in parties[receiver].hear(message))
    a, b = (party.items for party in parties)
    if a is None or b is None:
        raise FrameError("turn: expected one more message, got none: both parties wait")
    return Conversation(a, b, messages)
