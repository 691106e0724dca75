"""How a session begins, on both sides, whatever is exchanged in it: Join, Terms, the first Ack."""

from dataclasses import replace

from glsnet.errors import FrameError, TermsError
from glsnet.frames import Ack, Frame, Join, Refusal, Terms


class Host:
    """The encoder's side: who has joined and agreed, and how far each has come."""

    def __init__(self, session: str, terms: Terms) -> None:
        assert terms.decoders is not None
        self.session, self.terms, self.decoders = session, terms, terms.decoders
        self.next_round = 0
        self.acknowledged: dict[int, int | None] = {}  # per joined stream: its next round, None until it has agreed

    @property
    def complete(self) -> bool:
        """Whether all K decoders have joined and agreed."""
        return len(self.acknowledged) == self.decoders and None not in self.acknowledged.values()

    @property
    def all_acknowledged(self) -> int:
        """Every round below this one has been acknowledged by every decoder that is still there."""
        return min((at or 0 for at in self.acknowledged.values()), default=self.next_round)

    def join(self, join: Join) -> Terms:
        """Admit a decoder and answer with the terms, its stream among them.

        Raises:
            TermsError: it expects other terms, its stream is taken or out of range, or no stream is free.
        """
        if join.session != self.session:
            raise TermsError(f"session: the encoder has {self.session!r}, the decoder expects {join.session!r}")
        self.terms.check(replace(join.expected, stream=None))
        free = (k for k in range(self.decoders) if k not in self.acknowledged)
        stream = join.stream if join.stream is not None else next(free, self.decoders)
        if stream >= self.decoders:
            raise TermsError(
                f"stream: expected one of 0 to {self.decoders - 1}, "
                + (f"got {stream}" if join.stream is not None else "got another decoder when all had joined")
            )
        if stream in self.acknowledged:
            raise TermsError(f"stream: expected one that is free, got {stream}, on which a decoder has joined")
        if self.next_round > 0:
            raise TermsError(f"stream: expected decoders to join before round 0, got {stream} at {self.next_round}")
        self.acknowledged[stream] = None
        return replace(self.terms, stream=stream)

    @property
    def ready(self) -> bool:
        """Whether another frame can be received now."""
        return True

    def receive(self, stream: int, frame: Frame) -> None:
        """Note what a decoder says after it has joined; its first Ack, of round 0, says that it agrees to the terms.

        Raises:
            FrameError: it leaves, is out of turn, acknowledges rounds that were not sent, or takes an Ack back.
        """
        match frame:
            case Ack(next_round):
                least = self.acknowledged[stream] or 0
                if not least <= next_round <= self.next_round:
                    raise FrameError(f"ack: expected next_round from {least} to {self.next_round}, got {next_round}")
                self.acknowledged[stream] = next_round
            case Refusal(reason):
                raise FrameError(f"refused by the decoder: {reason!r}")
            case other:
                raise FrameError(f"frame: expected ack or refusal after join, got {type(other).__name__}")

    def leave(self, stream: int) -> None:
        """Go on without a decoder."""
        self.acknowledged.pop(stream, None)


def check_answer(join: Join, terms: Terms) -> None:
    """The decoder's side: raise TermsError if the encoder's answer to `join` is not what it asked for."""
    terms.check(join.expected)
    if join.stream not in (None, terms.stream):
        raise TermsError(f"stream: expected {join.stream}, as asked for, got {terms.stream}")


def missing(terms: Terms, *names: str) -> FrameError:
    """The error of terms in which some of these names are None."""
    absent = [name for name in names if getattr(terms, name) is None]
    return FrameError(f"terms: expected all of them from the encoder, got none for {', '.join(absent)}")
