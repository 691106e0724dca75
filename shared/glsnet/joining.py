"""How a session begins, on both sides, whatever is exchanged in it, and how a decoder comes back: Join, Terms, Ack.

    proven, Door    a decoder shows that it knows the session's token, and the encoder lets in only those that do
    Host            the encoder's side of a session, on which each kind of session builds
    check_answer    the decoder's side
"""

import hmac
import secrets
import struct
from collections import deque
from collections.abc import Container, Iterable
from dataclasses import replace

from glsnet.errors import FrameError, RefusedError, TermsError
from glsnet.frames import Ack, Frame, Join, Refusal, Terms

PARTY_BYTES = 8


def new_party() -> bytes:
    """What tells a party from others that would have its stream; not secret, never the same twice."""
    return secrets.token_bytes(PARTY_BYTES)


def proven(join: Join, token: bytes, attempt: int) -> Join:
    """The same with the proof that its party knows the token; without a token, as it is.

    `attempt` has to be greater each time that the party joins.
    """
    if not token:
        return join
    numbered = replace(join, attempt=attempt)
    return replace(numbered, proof=_proof(numbered, token))


class Door:
    """Who may join a session: who proves to know its token, each time anew; and a stream is its certificate's alone."""

    def __init__(self, token: bytes = b"") -> None:
        self._token = token
        self._attempts: dict[bytes, int] = {}  # by party, of those that knew the token
        self._names: dict[int, str] = {}  # by stream

    def check(self, join: Join) -> None:
        """Raise RefusedError if it proves nothing, or was said before."""
        if not self._token:
            return
        if not join.proof:
            raise RefusedError("join: expected a proof of the session's token, got none; give --token-file")
        if not hmac.compare_digest(join.proof, _proof(join, self._token)):
            raise RefusedError("join: expected a proof of this session's token, got one of another")
        if join.attempt <= self._attempts.get(join.party, -1):
            raise RefusedError("join: expected a later attempt than those before, got one that was made already; is "
                               "this party's clock right?")
        self._attempts[join.party] = join.attempt

    def closed_to(self, name: str | None) -> frozenset[int]:
        """The streams that belong to others than the party whose certificate has this name."""
        return frozenset(stream for stream, of in self._names.items() if of != name)

    def bind(self, streams: Iterable[int], name: str | None) -> None:
        """From now on they belong to a name, if there is one."""
        if name is not None:
            self._names.update(dict.fromkeys(streams, name))


def _proof(join: Join, token: bytes) -> bytes:
    """See exchange.proto."""
    streams = join.streams if join.stream is None else (join.stream,)
    said = struct.pack(f"<QQI{len(join.party)}sI{len(streams)}I", join.attempt, join.next_round, len(join.party),
                       join.party, len(streams), *streams)
    return hmac.digest(token, said + join.session.encode(), "sha256")


class Host:
    """The encoder's side: who has joined and agreed, how far each has come, and what each is to be sent next."""

    joins_late = False  # whether a decoder may join, or come back, when rounds have been sent

    def __init__(self, session: str, terms: Terms) -> None:
        assert terms.decoders is not None
        self.session, self.terms, self.decoders = session, terms, terms.decoders
        self.next_round = 0
        self.acknowledged: dict[int, int | None] = {}  # per joined stream: its next round, None until it has agreed
        self.refused: set[int] = set()  # streams whose decoder has left on purpose
        self._parties: dict[int, bytes] = {}  # who has, or had, a stream
        self._queues: dict[int, deque[Frame]] = {}

    @property
    def complete(self) -> bool:
        """Whether all K decoders have joined and agreed."""
        return len(self.acknowledged) == self.decoders and None not in self.acknowledged.values()

    @property
    def agreed(self) -> bool:
        """Whether any decoder that is here has agreed."""
        return any(at is not None for at in self.acknowledged.values())

    @property
    def all_acknowledged(self) -> int:
        """Every round below this one has been acknowledged by every decoder that is still there."""
        return min((at or 0 for at in self.acknowledged.values()), default=self.next_round)

    def join(self, join: Join, closed: Container[int] = ()) -> Terms:
        """Admit a decoder and answer with the terms, its stream among them.

        A party that has joined before gets its stream back; if the stream it came by is still open, that one is over.
        None of the `closed` streams is for it, see `Door`.

        Raises:
            TermsError: it expects other terms, its stream is taken or out of range, or no stream is free.
        """
        if join.session != self.session:
            raise TermsError(f"session: the encoder has {self.session!r}, the decoder expects {join.session!r}")
        self.terms.check(replace(join.expected, stream=None))
        own = next((k for k, party in self._parties.items() if party and party == join.party), None)
        free = (k for k in range(self.decoders) if k not in self.acknowledged and k not in closed)
        stream = join.stream if join.stream is not None else next(free, self.decoders) if own is None else own
        if stream >= self.decoders:
            raise TermsError(
                f"stream: expected one of 0 to {self.decoders - 1}, "
                + (f"got {stream}" if join.stream is not None else "got another decoder when all had joined")
            )
        if stream in closed:
            raise RefusedError(f"stream: expected one that is not another party's, got {stream}")
        if stream in self.acknowledged and stream != own:
            raise TermsError(f"stream: expected one that is free, got {stream}, on which a decoder has joined")
        if self.next_round > 0 and not self.joins_late:
            raise TermsError(f"stream: expected decoders to join before round 0, got {stream} at {self.next_round}")
        self.acknowledged[stream] = None
        self.refused.discard(stream)
        self._parties[stream] = join.party
        self._queues[stream] = deque()
        return replace(self.terms, stream=stream)

    @property
    def ready(self) -> bool:
        """Whether another frame can be received now."""
        return True

    def receive(self, stream: int, frame: Frame) -> None:
        """Note what a decoder says after it has joined; its first Ack says that it agrees to the terms.

        Raises:
            FrameError: it leaves, is out of turn, acknowledges rounds that were not sent, or takes an Ack back.
        """
        match frame:
            case Ack(next_round):
                least, most = self.acknowledged[stream] or 0, self._most(stream)
                if not least <= next_round <= most:
                    raise FrameError(f"ack: expected next_round from {least} to {most}, got {next_round}")
                self.acknowledged[stream] = next_round
            case Refusal(reason):
                self.refused.add(stream)
                raise FrameError(f"refused by the decoder: {reason!r}")
            case other:
                raise FrameError(f"frame: expected ack or refusal after join, got {type(other).__name__}")

    def say(self, frame: Frame) -> None:
        """Have a frame sent to every decoder that is here."""
        for queue in self._queues.values():
            queue.append(frame)

    def say_to(self, stream: int, frame: Frame) -> None:
        """Have a frame sent to the decoder on a stream, if it is here."""
        if stream in self._queues:
            self._queues[stream].append(frame)

    def outgoing(self, stream: int) -> Frame | None:
        """What the decoder on a stream is to be sent next, each frame once; None if there is nothing now."""
        queue = self._queues[stream]
        return queue.popleft() if queue else None

    def leave(self, stream: int) -> None:
        """Go on without a decoder."""
        self.acknowledged.pop(stream, None)
        self._queues.pop(stream, None)

    def _most(self, stream: int) -> int:
        """The round up to which a decoder may have come."""
        return self.next_round


def check_answer(join: Join, terms: Terms) -> None:
    """The decoder's side: raise TermsError if the encoder's answer to `join` is not what it asked for."""
    terms.check(join.expected)
    if join.stream not in (None, terms.stream):
        raise TermsError(f"stream: expected {join.stream}, as asked for, got {terms.stream}")
    if terms.stream is not None and terms.decoders is not None and terms.stream >= terms.decoders:
        raise TermsError(f"stream: expected one of 0 to {terms.decoders - 1}, got {terms.stream}")


def missing(terms: Terms, *names: str) -> FrameError:
    """The error of terms in which some of these names are None."""
    absent = [name for name in names if getattr(terms, name) is None]
    return FrameError(f"terms: expected all of them from the encoder, got none for {', '.join(absent)}")
