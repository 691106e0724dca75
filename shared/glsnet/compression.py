"""Compression with side information as two sans-I/O sessions: frames in, frames out; no socket, clock or loop.

    EncoderSession   join(Join) -> Terms, receive(Ack); encode(samples) -> Indices; end() -> End
    DecoderSession   join() -> Join, agree(Terms) -> Ack; decode(Indices, t) -> outcomes; end(End) -> Ack

A DecoderSession is given its own side information, the frames and the seed, and nothing else.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from glsnet import codes
from glsnet.bits import width_of
from glsnet.codes import Code
from glsnet.errors import CallerError, FrameError, TermsError
from glsnet.frames import MAX_COUNT, PROTOCOL, Ack, End, Indices, Join, Terms
from glsnet.joining import Host, check_answer, missing
from glsnet.race import FloatArray, IntArray
from glsnet.randomness import SEED_BYTES, seed_digest, session_key
from glsnet.sources.gaussian import Gaussian, SideInformation

PURPOSE = "gaussian-race"
ACK_FRAMES = 8  # a decoder acknowledges every so many frames, and the end


@dataclass(frozen=True)
class Outcomes:
    """What a party chose in a run of rounds, shape [R] each: the message, and `codes.Chosen`.

    A decoder adds its reconstructions, in the sample's own units.
    """

    first_round: int
    message: IntArray
    stream: IntArray
    node: IntArray
    reconstruction: FloatArray | None = None


def terms_of(code: Code, seed: bytes) -> Terms:
    """The terms of a session, all but the stream.

    Raises:
        CallerError: the seed has not SEED_BYTES.
    """
    if len(seed) != SEED_BYTES:
        raise CallerError(f"seed: expected {SEED_BYTES} bytes, got {len(seed)}")
    return Terms(
        protocol=PROTOCOL, seed_digest=seed_digest(seed), scheme=code.scheme, decoders=code.decoders, l_max=code.l_max,
        width=width_of(code.l_max), mean=code.source.mean, variance=code.source.variance, sigma2=code.sigma2,
        step=code.step, packing=code.packing,
    )


def code_of(terms: Terms) -> Code:
    """The code that an encoder's terms, or a lab's order, describe; packing is fixed unless they say otherwise.

    Raises:
        FrameError: some of them are missing.
        CallerError: they are not possible.
    """
    match terms:
        case Terms(scheme=str(scheme), decoders=int(decoders), l_max=int(l_max), mean=float(mean),
                   variance=float(variance)):
            return Code(Gaussian(mean, variance), scheme, decoders, l_max, terms.sigma2, terms.step,
                        terms.packing or "fixed")
    raise missing(terms, "scheme", "decoders", "l_max", "mean", "variance")


class EncoderSession(Host):
    """The encoder's side: who has joined and agreed, what has been sent, and the next frame."""

    def __init__(self, session: str, code: Code, seed: bytes) -> None:
        """Raises CallerError if the seed has not SEED_BYTES."""
        super().__init__(session, terms_of(code, seed))
        self._ends: deque[int] = deque()  # next_round after each frame in flight
        self._code, self._key = code, session_key(seed, PURPOSE)
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

    def encode(self, a: FloatArray) -> tuple[Indices, Outcomes]:
        """Code the next samples, shape [R] with R >= 1, and put their messages into one frame.

        Raises:
            CallerError: a sample is not finite or too far out, or there are too many for one frame.
        """
        if not 1 <= a.size <= MAX_COUNT:
            raise CallerError(f"samples: expected 1 to {MAX_COUNT} for one frame, got {a.size}")
        messages, y = codes.encode(self._code, self._key, self.next_round, a)
        frame = Indices.of(self.next_round, a.size, codes.pack(self._code, self._key, self.next_round, messages))
        outcomes = Outcomes(self.next_round, messages, y.stream, y.node)
        self._digest.update(messages.astype("<u2").tobytes())
        self.next_round += a.size
        self._ends.append(self.next_round)
        return frame, outcomes

    def end(self) -> End:
        """The frame to end with."""
        return End(self.next_round)


class DecoderSession:
    """Decoder k's side: its own side information, the seed, and the frames; never A, never another decoder's T."""

    def __init__(self, session: str, side: Callable[[Gaussian], SideInformation], seed: bytes, expected: Terms,
                 stream: int | None = None) -> None:
        """`side` says what this decoder's t tells of the agreed source; `expected` may leave terms to the encoder."""
        self.session = session
        self._join = Join(session, stream, replace(expected, protocol=PROTOCOL, seed_digest=seed_digest(seed)))
        self._side_of, self._seed = side, seed
        self._key = session_key(seed, PURPOSE)
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
        agreed = _Agreed.of(terms, self._seed, self._side_of)
        check_answer(self._join, terms)
        self._agreed = agreed
        return Ack(self.next_round)

    def decode(self, frame: Indices, t: FloatArray) -> tuple[Outcomes, Ack | None]:
        """Decode the rounds of one frame, given t of these rounds, shape [frame.count]; an Ack if it is due.

        Raises:
            FrameError: the frame is damaged, or not the next one; the session is as before and can go on.
            CallerError: t has another length, or a sample that is not finite or too far out.
        """
        at = self._terms()
        messages = self.check(frame)
        if t.shape != (frame.count,):
            raise CallerError(f"side information: expected {frame.count} samples for this frame, got {t.size}")
        reconstruction, x = codes.decode(at.code, at.side, self._key, frame.first_round, t, messages, at.stream)
        self._digest.update(messages.astype("<u2").tobytes())
        self.next_round += frame.count
        self._frames += 1
        ack = Ack(self.next_round) if self._frames % ACK_FRAMES == 0 else None
        return Outcomes(frame.first_round, messages, x.stream, x.node, reconstruction), ack

    def end(self, end: End) -> Ack:
        """The encoder has no more; raises FrameError if not all of its rounds have come."""
        if end.rounds != self.next_round:
            raise FrameError(f"end: expected it after {self.next_round} rounds, as they came, got {end.rounds}")
        return Ack(self.next_round)

    def check(self, frame: Indices) -> IntArray:
        """The messages of the next frame, shape [frame.count]; raises FrameError as `decode` does.

        A driver asks for t only of frames that are right; so this is asked twice, and the answer kept.
        """
        at = self._terms()
        if frame.first_round != self.next_round:
            raise FrameError(f"first_round: expected {self.next_round}, the next, got {frame.first_round}")
        if self._checked is None or self._checked[0] is not frame:
            self._checked = frame, codes.unpack(at.code, self._key, frame.first_round, frame.count, frame.checked())
        return self._checked[1]

    def _terms(self) -> "_Agreed":
        if self._agreed is None:
            raise FrameError("frame: expected terms before anything else")
        return self._agreed


@dataclass(frozen=True)
class _Agreed:
    """An encoder's terms, found complete and possible."""

    code: Code
    side: SideInformation
    stream: int

    @classmethod
    def of(cls, terms: Terms, seed: bytes, side: Callable[[Gaussian], SideInformation]) -> Self:
        if terms.stream is None or terms.width is None:
            raise missing(terms, "stream", "width")
        try:
            code = code_of(terms)
            possible = replace(terms_of(code, seed), stream=terms.stream)
        except CallerError as error:
            raise TermsError(f"the encoder's terms are not possible: {error}") from error
        terms.check(possible)
        return cls(code, side(code.source), terms.stream)
