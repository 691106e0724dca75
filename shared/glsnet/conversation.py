"""Couplings of single samples as two sans-I/O sessions: frames in, frames out; no socket, clock or loop.

    BobSession     the encoder: join and receive as any host; begin(q) -> Exchange, finish(Exchange); end() -> End
    AliceSession   a decoder: join() -> Join, agree(Terms) -> Ack; begin(p) -> Exchange, finish; end(End) -> Ack
    Exchange       one batch of rounds under way: a half of `coupling` whose messages are Turn frames

Each session is given its own distribution, the frames and the seed, and nothing else.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from glsnet import bits
from glsnet.coupling import (
    TALKING,
    Candidates,
    Darts,
    Everything,
    Half,
    Message,
    Scheme,
    Speaker,
    Verdicts,
    alice,
    bob,
    keys_of,
    steps_of,
)
from glsnet.errors import CallerError, FrameError, TermsError
from glsnet.frames import MAX_COUNT, PROTOCOL, Ack, End, Frame, Join, Terms, Turn
from glsnet.joining import Host, check_answer, missing
from glsnet.race import FloatArray, IntArray
from glsnet.randomness import SEED_BYTES, seed_digest

MAX_ITEMS = 1 << 18  # a whole distribution then fits one frame of gRPC's 4 MiB
TURNS_AHEAD = 4  # that Bob takes before he has answered the first


@dataclass(frozen=True)
class Draw:
    """What a party draws from in the next `rounds` rounds: p or q, shape [N]."""

    rounds: int
    probabilities: FloatArray


@dataclass(frozen=True)
class Drawn:
    """What a party drew, shape [R], and what was said for it.

    `indices` has for each message sent or received, in order, in how many rounds it held an index (DMS, Claim 7 counts
    those); `bits_sent` is log2 of the number of values that this party's messages can have, summed.
    """

    first_round: int
    items: IntArray
    indices: list[int]
    bits_sent: float


def terms_of(scheme: Scheme, items: int, seed: bytes) -> Terms:
    """The terms of a session, all but the stream.

    Raises:
        CallerError: one of them is out of range.
    """
    if len(seed) != SEED_BYTES:
        raise CallerError(f"seed: expected {SEED_BYTES} bytes, got {len(seed)}")
    if not 1 <= items <= MAX_ITEMS:
        raise CallerError(f"items: expected 1 to {MAX_ITEMS}, the size N of the alphabet, got {items}")
    _grid_of(scheme, items)
    return Terms(protocol=PROTOCOL, seed_digest=seed_digest(seed), scheme=scheme.name, decoders=scheme.decoders,
                 items=items, epsilon=scheme.epsilon)


class Exchange:
    """One batch of rounds at one party."""

    def __init__(self, half: Half, first_round: int, scheme: Scheme, items: int) -> None:
        self._speaker = Speaker(half)
        self._first_round, self._scheme, self._items = first_round, scheme.name, items
        self._grid = _grid_of(scheme, items)
        self._indices: list[int] = []
        self._bits_sent = 0.0

    @property
    def drawn(self) -> Drawn | None:
        """What this party drew; None while it waits for another turn."""
        items = self._speaker.items
        return None if items is None else Drawn(self._first_round, items, self._indices, self._bits_sent)

    def take(self, turn: Turn | None) -> Iterator[Turn]:
        """Go on with the other party's turn, None to begin; gives the turns to send, one by one as they are made.

        Raises:
            FrameError: the turn is damaged, or not what this party waits for.
            CallerError: the distribution of this batch is none.
        """
        heard = None if turn is None else self._message(turn)
        if heard is not None:
            self._indices.append(heard.indices)
        for said in self._speaker.hear(heard):
            self._indices.append(said.indices)
            self._bits_sent += said.bits
            yield self._turn(said)

    def _turn(self, message: Message) -> Turn:
        width, height = bits.width_of(self._items), bits.width_of(self._grid + 1)
        match message:
            case Candidates(items, heights):  # or Darts
                packed = bits.pack(items, width) + bits.pack(heights, height)
                return Turn.of("darts" if isinstance(message, Darts) else "candidates", self._first_round, items.size,
                               packed)
            case Verdicts(approved):
                return Turn.of("verdicts", self._first_round, approved.size, bits.pack(approved.astype(np.int64), 1))
            case Everything(item, p):
                packed = bits.pack(np.array([item]), width) + p.astype("<f8").tobytes()
                return Turn.of("everything", self._first_round, 1, packed)

    def _message(self, turn: Turn) -> Message:
        kinds = ("everything",) if self._scheme == "whole-distribution" else ("candidates", "verdicts", "darts")
        if self.drawn is not None or turn.kind not in kinds:
            expected = "no more of these rounds" if self.drawn else f"{' or '.join(kinds)} in scheme {self._scheme}"
            raise FrameError(f"turn: expected {expected}, got {turn.kind}")
        if turn.first_round != self._first_round:
            raise FrameError(f"first_round: expected {self._first_round}, of the batch, got {turn.first_round}")
        packed = turn.checked()
        if turn.kind == "verdicts":
            (approved,) = _columns(packed, turn.count, [1])
            return Verdicts(approved.astype(np.bool_))
        width = bits.width_of(self._items)
        if turn.kind == "everything":
            size = bits.packed_size(1, width)
            if turn.count != 1 or len(packed) != size + 8 * self._items:
                raise FrameError(f"everything: expected one round and {size + 8 * self._items} bytes, an item and "
                                 f"{self._items} probabilities, got {turn.count} and {len(packed)}")
            item = int(bits.unpack(packed[:size], 1, width)[0])
            return Everything(item, np.frombuffer(packed[size:], "<f8").astype(np.float64))
        items, heights = _columns(packed, turn.count, [width, bits.width_of(self._grid + 1)])
        return (Darts if turn.kind == "darts" else Candidates)(items, heights, self._items, self._grid)


class BobSession(Host):
    """Bob's side, the encoder's: who has joined, the turns that have come, and the next batch."""

    def __init__(self, session: str, seed: bytes, scheme: Scheme, items: int) -> None:
        """Raises CallerError if a term is out of range."""
        super().__init__(session, terms_of(scheme, items, seed))
        self.scheme, self.turns = scheme, deque[Turn]()
        self._items, self._keys = items, keys_of(seed, "bob")

    @property
    def ready(self) -> bool:
        """Whether another turn can be received before those that have come are taken."""
        return len(self.turns) < TURNS_AHEAD

    def receive(self, stream: int, frame: Frame) -> None:
        """As any host; in a scheme that talks, an Alice that has agreed may also send turns."""
        if isinstance(frame, Turn) and self.scheme.name in TALKING and self.acknowledged[stream] is not None:
            self.turns.append(frame)
        else:
            super().receive(stream, frame)

    def begin(self, draw: Draw) -> Exchange:
        """The next batch; raises CallerError if the number of rounds or of probabilities is out of range."""
        _check(draw, self._items)
        half = bob(self.scheme, self._keys, self.next_round, draw.rounds, draw.probabilities)
        return Exchange(half, self.next_round, self.scheme, self._items)

    def finish(self, drawn: Drawn) -> None:
        """A batch is done."""
        self.next_round += drawn.items.size

    def end(self) -> End:
        """The frame to end with; raises FrameError if Alice has said more than she was to."""
        if self.turns:
            raise FrameError(f"turn: expected no more after {self.next_round} rounds, got {self.turns[0].kind}")
        return End(self.next_round)


class AliceSession:
    """Alice's side, a decoder's: her own distributions, the seed, and the frames; never q."""

    def __init__(self, session: str, seed: bytes, expected: Terms, stream: int | None = None, party: bytes = b""
                 ) -> None:
        """`expected` may leave terms to the encoder; `party` tells her from others, see `joining.new_party`."""
        self.session = session
        self._join = Join(session, stream, replace(expected, protocol=PROTOCOL, seed_digest=seed_digest(seed)),
                          party=party)
        self._seed, self._keys = seed, keys_of(seed, "alice")
        self._agreed: tuple[Scheme, int, int] | None = None  # scheme, items, stream
        self.next_round = 0

    def join(self) -> Join:
        """The frame to begin with."""
        return self._join

    def agree(self, terms: Terms) -> Ack:
        """Take the encoder's terms; the Ack says so.

        Raises:
            TermsError: they are not those expected, or not possible.
            FrameError: some are missing.
        """
        match terms:
            case Terms(scheme=str(name), decoders=int(decoders), items=int(items), stream=int(stream)):
                pass
            case _:
                raise missing(terms, "scheme", "decoders", "items", "stream")
        try:
            scheme = Scheme(name, decoders, terms.epsilon)
            possible = replace(terms_of(scheme, items, self._seed), stream=stream)
        except CallerError as error:
            raise TermsError(f"the encoder's terms are not possible: {error}") from error
        terms.check(possible)
        check_answer(self._join, terms)
        self._agreed = scheme, items, stream
        return Ack(self.next_round)

    def begin(self, draw: Draw) -> Exchange:
        """The next batch; raises CallerError if the number of rounds or of probabilities is out of range."""
        if self._agreed is None:
            raise FrameError("frame: expected terms before anything else")
        scheme, items, stream = self._agreed
        _check(draw, items)
        half = alice(scheme, self._keys, self.next_round, draw.rounds, draw.probabilities, stream)
        return Exchange(half, self.next_round, scheme, items)

    def finish(self, drawn: Drawn) -> None:
        """A batch is done."""
        self.next_round += drawn.items.size

    def end(self, end: End) -> Ack:
        """Bob has no more; raises FrameError if he has not drawn as many rounds as she has."""
        if end.rounds != self.next_round:
            raise FrameError(f"end: expected it after {self.next_round} rounds, as drawn here, got {end.rounds}")
        return Ack(self.next_round)


def _check(draw: Draw, items: int) -> None:
    if not 1 <= draw.rounds <= MAX_COUNT:
        raise CallerError(f"rounds: expected 1 to {MAX_COUNT} in a batch, got {draw.rounds}")
    if draw.probabilities.shape != (items,):
        raise CallerError(f"distribution: expected {items} probabilities, as agreed on, got "
                          f"{list(draw.probabilities.shape)}")


def _grid_of(scheme: Scheme, items: int) -> int:
    """Steps from 0 to 1 of a probability in Protocol 4, whose parties round by a quarter of epsilon; else 1."""
    return 1 if scheme.epsilon is None else steps_of(items, scheme.epsilon / 4)


def _columns(packed: bytes, count: int, widths: Sequence[int]) -> list[IntArray]:
    """Columns of `count` values each, packed one after the other, each filled up to whole bytes."""
    sizes = [bits.packed_size(count, width) for width in widths]
    if len(packed) != sum(sizes):
        raise FrameError(f"packed: expected {sum(sizes)} bytes for {count} rounds, got {len(packed)}")
    starts = np.cumsum([0, *sizes]).tolist()
    return [bits.unpack(packed[start : start + size], count, width)
            for start, size, width in zip(starts, sizes, widths, strict=False)]
