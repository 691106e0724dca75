"""Compression with side information as two sans-I/O sessions: frames in, frames out; no socket, clock or loop.

    EncoderSession   join(Join) -> Terms, receive(Ack); encode(samples) -> Indices; end() -> End; outgoing(k) -> those
    DecoderSession   join() -> Join, agree(Terms) -> Ack; decode(Indices, t) -> outcomes; end(End) -> Ack, if any

Both go on after any interruption: a decoder joins again with the first round that it has not, and is sent that and all
that follows; with `restore` either goes on from what it has recorded.

A DecoderSession is given its own side information, the frames and the seed, and nothing else.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from glsnet.codes import Chosen
from glsnet.errors import CallerError, DamageError, FrameError, TermsError
from glsnet.frames import MAX_COUNT, PROTOCOL, Ack, End, Frame, Indices, Join, Lost, Terms
from glsnet.joining import Host, check_answer, missing
from glsnet.race import IntArray
from glsnet.randomness import MAX_ROUNDS, SEED_BYTES, seed_digest, session_key

Samples = NDArray[Any]  # R of them: float64 [R] of a Gaussian source, uint8 [R, pixels] of images
ACK_FRAMES = 8  # a decoder acknowledges every so many frames, and the end
WINDOW_FRAMES = 8 * ACK_FRAMES  # that a decoder is sent beyond its last Ack
HISTORY_BYTES = 1 << 24  # of frames that an encoder keeps for decoders that are behind
FRAME_BYTES = 512  # that a frame takes besides its indices


@dataclass(frozen=True)
class Outcomes:
    """What a party chose in a run of rounds, shape [R] each: the message, and `codes.Chosen`.

    A decoder adds its reconstructions, in the sample's own units, of images in [0, 1]; the encoder the number of bytes
    that the messages were packed into.
    """

    first_round: int
    message: IntArray
    stream: IntArray
    node: IntArray
    reconstruction: Samples | None = None
    packed: int = 0

    def matches(self, other: "Outcomes") -> NDArray[np.bool_]:
        """In which rounds another party has chosen the same, shape [R]."""
        same: NDArray[np.bool_] = (
            (self.stream == other.stream) & (self.node == other.node) & (self.message == other.message))
        return same


class EncoderCode(Protocol):
    """The encoder's half of a code: `codes.Code`, `images.code.ImageCode`."""

    @property
    def purpose(self) -> str:
        """Of the session key."""

    def terms(self) -> Terms:
        """What a session has to agree on."""

    def encode(self, key: np.uint64, first_round: int, a: Any) -> tuple[IntArray, Chosen]:
        """The messages of samples a, shape [R], and what was chosen; raises CallerError if one cannot be coded."""

    def pack(self, key: np.uint64, first_round: int, messages: IntArray) -> bytes:
        """The bytes of messages, shape [R]."""


class DecoderCode(Protocol):
    """A decoder's half of a code: `codes.Decoding`, `images.code.ImageCode`."""

    @property
    def purpose(self) -> str:
        """Of the session key."""

    def terms(self) -> Terms:
        """What a session has to agree on."""

    def unpack(self, key: np.uint64, first_round: int, count: int, data: bytes) -> IntArray:
        """The inverse of `pack`; raises FrameError if the bytes are not those of `count` messages."""

    def decode(self, key: np.uint64, first_round: int, t: Any, messages: IntArray, k: int
               ) -> tuple[Samples, Chosen]:
        """Decoder k's estimates, from t and messages of R rounds, and what it chose; raises CallerError as `encode`."""


def terms_of(code: EncoderCode | DecoderCode, seed: bytes) -> Terms:
    """The terms of a session, all but the stream.

    Raises:
        CallerError: the seed has not SEED_BYTES.
    """
    if len(seed) != SEED_BYTES:
        raise CallerError(f"seed: expected {SEED_BYTES} bytes, got {len(seed)}")
    return replace(code.terms(), protocol=PROTOCOL, seed_digest=seed_digest(seed))


class EncoderSession(Host):
    """The encoder's side: who has joined and agreed, what has been sent, and the next frame.

    Frames are kept, up to HISTORY_BYTES of them, for decoders that are slow or come back. Each is sent WINDOW_FRAMES
    ahead of its own last Ack and no further, so that none holds up another, and none has much waiting for it.
    """

    joins_late = True

    def __init__(self, session: str, code: EncoderCode, seed: bytes, next_round: int = 0) -> None:
        """`next_round` is the first to code. Raises CallerError if the seed has not SEED_BYTES."""
        super().__init__(session, terms_of(code, seed))
        self.next_round = next_round
        self._code, self._key = code, session_key(seed, code.purpose)
        self._digest = hashlib.sha256()
        self._frames: deque[Indices] = deque()
        self._bytes = 0
        self._first = 0  # number of the first frame that is kept
        self._numbers = {next_round: 0}  # of the frame that begins with a round, of those kept, and of the next one
        self._sent: dict[int, int] = {}  # per joined stream: the next round to send
        self._flying: dict[int, deque[int]] = {}  # and the rounds that what was sent and not acknowledged ends before
        self._ended: set[int] = set()  # streams that were sent End
        self._done: set[int] = set()  # streams that were finished when they left
        self._over = False

    @property
    def digest(self) -> bytes:
        """SHA-256 over all messages so far, 2 bytes each, little-endian."""
        return self._digest.digest()

    @property
    def open(self) -> bool:
        """Whether some decoder that is here would have room for another frame, had it been sent all before it."""
        return any(at is not None and self._behind(at) < WINDOW_FRAMES for at in self.acknowledged.values())

    @property
    def finished(self) -> set[int]:
        """Streams whose decoders, here or not, have nothing to come any more: all is acknowledged, or they refused."""
        done = {k for k, at in self.acknowledged.items() if k in self._ended and at == self.next_round}
        return self._done | done | self.refused

    def join(self, join: Join, closed: Container[int] = ()) -> Terms:
        """As any host; the decoder is then sent what it has not, as far as it is kept."""
        terms = super().join(join, closed)
        assert terms.stream is not None
        self._sent[terms.stream] = join.next_round
        self._flying[terms.stream] = deque()
        self._ended.discard(terms.stream)
        self._done.discard(terms.stream)
        return terms

    def receive(self, stream: int, frame: Frame) -> None:
        """As any host; an Ack makes room for more."""
        super().receive(stream, frame)
        flying, at = self._flying[stream], self.acknowledged[stream]
        while flying and at is not None and flying[0] <= at:
            flying.popleft()

    def leave(self, stream: int) -> None:
        """Go on without a decoder; it may come back."""
        if stream in self.finished:
            self._done.add(stream)
        super().leave(stream)

    def encode(self, a: Samples) -> tuple[Indices, Outcomes]:
        """Code the next samples, R >= 1 of them, and put their messages into one frame.

        Raises:
            CallerError: a sample is not finite or too far out, or there are too many for one frame or session.
        """
        frame, outcomes = self.coded(a)
        self.restore(frame, outcomes)
        return frame, outcomes

    def coded(self, a: Samples) -> tuple[Indices, Outcomes]:
        """What `encode` gives, and does, but for changing anything: for threads."""
        if not 1 <= len(a) <= MAX_COUNT:
            raise CallerError(f"samples: expected 1 to {MAX_COUNT} for one frame, got {len(a)}")
        if self.next_round + len(a) > MAX_ROUNDS:
            raise CallerError(f"samples: expected rounds within 0 to {MAX_ROUNDS - 1}, got {len(a)} samples from round "
                              f"{self.next_round} on; start a new session with another seed")
        messages, y = self._code.encode(self._key, self.next_round, a)
        frame = Indices.of(self.next_round, len(a), self._code.pack(self._key, self.next_round, messages))
        return frame, Outcomes(self.next_round, messages, y.stream, y.node, packed=len(frame.packed))

    def restore(self, frame: Indices, outcomes: Outcomes) -> None:
        """Take the next frame as it was made before; raises FrameError if it is not the next one."""
        if frame.first_round != self.next_round:
            raise FrameError(f"first_round: expected {self.next_round}, the next, got {frame.first_round}")
        self._digest.update(outcomes.message.astype("<u2").tobytes())
        self.next_round += frame.count
        self._frames.append(frame)
        self._numbers[self.next_round] = self._first + len(self._frames)
        self._bytes += len(frame.packed) + FRAME_BYTES
        while self._bytes > HISTORY_BYTES and len(self._frames) > WINDOW_FRAMES:
            oldest = self._frames.popleft()
            self._bytes -= len(oldest.packed) + FRAME_BYTES
            del self._numbers[oldest.first_round]
            self._first += 1

    def end(self) -> End:
        """There are no more samples; gives the frame that every decoder is sent at the end."""
        self._over = True
        return End(self.next_round)

    def outgoing(self, stream: int) -> Frame | None:
        """What the decoder on a stream is to be sent next; None while it has enough, or all."""
        at, flying = self._sent[stream], self._flying[stream]
        if self.acknowledged[stream] is None or len(flying) >= WINDOW_FRAMES:
            return None
        kept = self._frames[0].first_round if self._frames else self.next_round
        if at < kept:
            self._sent[stream] = kept
            flying.append(kept)
            return Lost(kept)
        if at < self.next_round:
            if at not in self._numbers:
                raise FrameError(f"next_round: expected the first round of a frame, got {at}")
            frame = self._frames[self._numbers[at] - self._first]
            self._sent[stream] += frame.count
            flying.append(self._sent[stream])
            return frame
        if self._over and at == self.next_round and stream not in self._ended:
            self._ended.add(stream)
            return End(self.next_round)
        return None

    def _behind(self, at: int) -> int:
        """Frames that are kept of rounds from one on; none if that is yet to come."""
        return 0 if at >= self.next_round else self._first + len(self._frames) - self._numbers.get(at, self._first)

    def _most(self, stream: int) -> int:
        return self._sent[stream]


class DecoderSession:
    """Decoder k's side: its own side information, the seed, and the frames; never A, never another decoder's T."""

    def __init__(self, session: str, code_of: Callable[[Terms], DecoderCode], seed: bytes, expected: Terms,
                 stream: int | None = None, next_round: int = 0, party: bytes = b"") -> None:
        """`code_of` makes this decoder's half from the agreed terms; `expected` may leave terms to the encoder.

        It raises FrameError if some are missing, CallerError if they are not possible. `next_round` is the first that
        it wants; `party` lets it join again and again, see `joining.new_party`.
        """
        self.session = session
        self._join = Join(session, stream, replace(expected, protocol=PROTOCOL, seed_digest=seed_digest(seed)),
                          party=party)
        self._code_of, self._seed = code_of, seed
        self._digest = hashlib.sha256()
        self._agreed: _Agreed | None = None
        self._checked: tuple[Indices, IntArray] | None = None
        self.next_round = next_round
        self.lost: list[tuple[int, int]] = []  # rounds that were not to be had: from, below
        self.ended = False
        self._frames = 0  # since the last Ack

    @property
    def digest(self) -> bytes:
        """SHA-256 over all messages so far, 2 bytes each, little-endian."""
        return self._digest.digest()

    @property
    def stream(self) -> int:
        """The stream k that this decoder has, once it has agreed to the terms."""
        return self._terms().stream

    def join(self) -> Join:
        """The frame to begin with, and to come back with, then on the stream that it had."""
        stream = self._join.stream if self._agreed is None else self._agreed.stream
        return replace(self._join, stream=stream, next_round=self.next_round)

    def agree(self, terms: Terms) -> Ack:
        """Take the encoder's terms; the Ack says so.

        Raises:
            TermsError: they are not those expected, or not possible.
            FrameError: some are missing.
        """
        agreed = _Agreed.of(terms, self._seed, self._code_of)
        check_answer(self.join(), terms)
        self._agreed, self._frames = agreed, 0
        return Ack(self.next_round)

    def has(self, frame: Indices) -> bool:
        """Whether it has all rounds of a frame, which is then to be dropped: it was sent twice."""
        return frame.first_round + frame.count <= self.next_round

    def decode(self, frame: Indices, t: Samples) -> tuple[Outcomes, Ack | None]:
        """Decode the rounds of one frame, given t of these rounds, frame.count of them; an Ack if it is due.

        Raises:
            FrameError: the frame is damaged, or not the next one; the session is as before and can go on.
            CallerError: t has another length, or a sample that is not finite or too far out.
        """
        at = self._terms()
        messages = self.check(frame)
        if len(t) != frame.count:
            raise CallerError(f"side information: expected {frame.count} samples for this frame, got {len(t)}")
        reconstruction, x = at.code.decode(at.key, frame.first_round, t, messages, at.stream)
        outcomes = Outcomes(frame.first_round, messages, x.stream, x.node, reconstruction)
        self.restore(outcomes)
        return outcomes, self._ack_if(self._frames == ACK_FRAMES)

    def restore(self, outcomes: Outcomes) -> None:
        """Take the next rounds as they were decoded before."""
        self._digest.update(outcomes.message.astype("<u2").tobytes())
        self.next_round = outcomes.first_round + outcomes.message.size
        self._frames += 1

    def skip(self, lost: Lost) -> None:
        """Go on after rounds that are not to be had any more."""
        if lost.next_round > self.next_round:
            self.lost.append((self.next_round, lost.next_round))
            self.next_round = lost.next_round

    def end(self, end: End) -> Ack | None:
        """The encoder has no more; raises FrameError if not all of its rounds have come.

        Gives the last Ack, if there is one: an encoder whose rounds are all acknowledged waits for no more.
        """
        if end.rounds != self.next_round:
            raise _not_next("end: expected it after", self.next_round, end.rounds)
        self.ended = True
        return self._ack_if(self._frames > 0)

    def check(self, frame: Indices) -> IntArray:
        """The messages of the next frame, shape [frame.count]; raises FrameError as `decode` does.

        A driver asks for t only of frames that are right; so this is asked twice, and the answer kept.
        """
        at = self._terms()
        data = frame.checked()
        if frame.first_round != self.next_round:
            raise _not_next("first_round: expected", self.next_round, frame.first_round)
        if self._checked is None or self._checked[0] is not frame:
            self._checked = frame, at.code.unpack(at.key, frame.first_round, frame.count, data)
        return self._checked[1]

    def _ack_if(self, due: bool) -> Ack | None:
        if not due:
            return None
        self._frames = 0
        return Ack(self.next_round)

    def _terms(self) -> "_Agreed":
        if self._agreed is None:
            raise FrameError("frame: expected terms before anything else")
        return self._agreed


def _not_next(what: str, expected: int, got: int) -> FrameError:
    """Of rounds to come, some were lost on the way; rounds that are over would be decoded twice."""
    kind = DamageError if got > expected else FrameError
    return kind(f"{what} {expected}, the next, got {got}")


@dataclass(frozen=True)
class _Agreed:
    """An encoder's terms, found complete and possible."""

    code: DecoderCode
    key: np.uint64
    stream: int

    @classmethod
    def of(cls, terms: Terms, seed: bytes, code_of: Callable[[Terms], DecoderCode]) -> Self:
        if terms.stream is None or terms.width is None:
            raise missing(terms, "stream", "width")
        try:
            code = code_of(terms)
            possible = replace(terms_of(code, seed), stream=terms.stream)
        except CallerError as error:
            raise TermsError(f"the encoder's terms are not possible: {error}") from error
        terms.check(possible)
        return cls(code, session_key(seed, code.purpose), terms.stream)
