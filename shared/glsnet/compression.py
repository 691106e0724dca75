"""Compression with side information as two sans-I/O sessions: frames in, frames out; no socket, clock or loop.

    EncoderSession   join(Join) -> Terms, receive(Ack); encode(samples) -> Indices; end() -> End
    DecoderSession   join() -> Join, agree(Terms) -> Ack; decode(Indices, t) -> outcomes; end(End) -> Ack, if any

A DecoderSession is given its own side information, the frames and the seed, and nothing else.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from glsnet.codes import Chosen
from glsnet.errors import CallerError, FrameError, TermsError
from glsnet.frames import MAX_COUNT, PROTOCOL, Ack, End, Indices, Join, Terms
from glsnet.joining import Host, check_answer, missing
from glsnet.race import IntArray
from glsnet.randomness import SEED_BYTES, seed_digest, session_key

Samples = NDArray[Any]  # R of them: float64 [R] of a Gaussian source, uint8 [R, pixels] of images
ACK_FRAMES = 8  # a decoder acknowledges every so many frames, and the end


@dataclass(frozen=True)
class Outcomes:
    """What a party chose in a run of rounds, shape [R] each: the message, and `codes.Chosen`.

    A decoder adds its reconstructions, in the sample's own units, of images in [0, 1].
    """

    first_round: int
    message: IntArray
    stream: IntArray
    node: IntArray
    reconstruction: Samples | None = None

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
    """The encoder's side: who has joined and agreed, what has been sent, and the next frame."""

    def __init__(self, session: str, code: EncoderCode, seed: bytes) -> None:
        """Raises CallerError if the seed has not SEED_BYTES."""
        super().__init__(session, terms_of(code, seed))
        self._ends: deque[int] = deque()  # next_round after each frame in flight
        self._code, self._key = code, session_key(seed, code.purpose)
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> bytes:
        """SHA-256 over all messages so far, 2 bytes each, little-endian."""
        return self._digest.digest()

    @property
    def frames_in_flight(self) -> int:
        """Frames that some decoder in the session has yet to acknowledge."""
        while self._ends and self._ends[0] <= self.all_acknowledged:
            self._ends.popleft()
        return len(self._ends)

    def encode(self, a: Samples) -> tuple[Indices, Outcomes]:
        """Code the next samples, R >= 1 of them, and put their messages into one frame.

        Raises:
            CallerError: a sample is not finite or too far out, or there are too many for one frame.
        """
        if not 1 <= len(a) <= MAX_COUNT:
            raise CallerError(f"samples: expected 1 to {MAX_COUNT} for one frame, got {len(a)}")
        messages, y = self._code.encode(self._key, self.next_round, a)
        frame = Indices.of(self.next_round, len(a), self._code.pack(self._key, self.next_round, messages))
        outcomes = Outcomes(self.next_round, messages, y.stream, y.node)
        self._digest.update(messages.astype("<u2").tobytes())
        self.next_round += len(a)
        self._ends.append(self.next_round)
        return frame, outcomes

    def end(self) -> End:
        """The frame to end with."""
        return End(self.next_round)


class DecoderSession:
    """Decoder k's side: its own side information, the seed, and the frames; never A, never another decoder's T."""

    def __init__(self, session: str, code_of: Callable[[Terms], DecoderCode], seed: bytes, expected: Terms,
                 stream: int | None = None) -> None:
        """`code_of` makes this decoder's half from the agreed terms; `expected` may leave terms to the encoder.

        It raises FrameError if some are missing, CallerError if they are not possible.
        """
        self.session = session
        self._join = Join(session, stream, replace(expected, protocol=PROTOCOL, seed_digest=seed_digest(seed)))
        self._code_of, self._seed = code_of, seed
        self._digest = hashlib.sha256()
        self._agreed: _Agreed | None = None
        self._checked: tuple[Indices, IntArray] | None = None
        self.next_round = 0
        self._frames = 0

    @property
    def digest(self) -> bytes:
        """SHA-256 over all messages so far, 2 bytes each, little-endian."""
        return self._digest.digest()

    @property
    def stream(self) -> int:
        """The stream k that this decoder has, once it has agreed to the terms."""
        return self._terms().stream

    def join(self) -> Join:
        """The frame to begin with."""
        return self._join

    def agree(self, terms: Terms) -> Ack:
        """Take the encoder's terms; the Ack says so.

        Raises:
            TermsError: they are not those expected, or not possible.
            FrameError: some are missing.
        """
        agreed = _Agreed.of(terms, self._seed, self._code_of)
        check_answer(self._join, terms)
        self._agreed = agreed
        return Ack(self.next_round)

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
        self._digest.update(messages.astype("<u2").tobytes())
        self.next_round += frame.count
        self._frames += 1
        ack = Ack(self.next_round) if self._frames % ACK_FRAMES == 0 else None
        return Outcomes(frame.first_round, messages, x.stream, x.node, reconstruction), ack

    def end(self, end: End) -> Ack | None:
        """The encoder has no more; raises FrameError if not all of its rounds have come.

        Gives the last Ack, if there is one: an encoder whose rounds are all acknowledged waits for no more.
        """
        if end.rounds != self.next_round:
            raise FrameError(f"end: expected it after {self.next_round} rounds, as they came, got {end.rounds}")
        return None if self._frames % ACK_FRAMES == 0 else Ack(self.next_round)

    def check(self, frame: Indices) -> IntArray:
        """The messages of the next frame, shape [frame.count]; raises FrameError as `decode` does.

        A driver asks for t only of frames that are right; so this is asked twice, and the answer kept.
        """
        at = self._terms()
        if frame.first_round != self.next_round:
            raise FrameError(f"first_round: expected {self.next_round}, the next, got {frame.first_round}")
        if self._checked is None or self._checked[0] is not frame:
            self._checked = frame, at.code.unpack(at.key, frame.first_round, frame.count, frame.checked())
        return self._checked[1]

    def _terms(self) -> "_Agreed":
        if self._agreed is None:
            raise FrameError("frame: expected terms before anything else")
        return self._agreed


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
