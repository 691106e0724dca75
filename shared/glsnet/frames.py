"""Frames of the data plane: what they hold, and their bytes (protobuf, proto/glsnet/v1/exchange.proto)."""

import zlib
from dataclasses import dataclass, fields
from typing import Literal, get_args

from google.protobuf.message import DecodeError

from glsnet.errors import FrameError, TermsError
from glsnet.v1 import exchange_pb2 as pb

PROTOCOL = 1
MAX_COUNT = 1 << 16  # rounds in one frame
MAX_OTHER_BYTES = 4096  # of any frame but Indices and Turn: its text may come back in an error


@dataclass(frozen=True)
class Terms:
    """What both parties must mean alike. A decoder may leave open (None) what it will take from the encoder."""

    protocol: int | None = None
    seed_digest: str | None = None
    scheme: str | None = None
    decoders: int | None = None
    l_max: int | None = None
    width: int | None = None
    mean: float | None = None
    variance: float | None = None
    sigma2: float | None = None
    step: float | None = None
    packing: str | None = None
    stream: int | None = None
    items: int | None = None
    epsilon: float | None = None

    def __str__(self) -> str:
        present = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"{name}={value}" for name, value in present if value is not None)

    def check(self, expected: "Terms") -> None:
        """Raise TermsError at the first term in which these, the encoder's, are not those `expected` by a decoder."""
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(expected, field.name)
            if theirs is not None and theirs != ours:
                raise TermsError(
                    f"{field.name}: the encoder has {ours!r}, the decoder expects {theirs!r}; "
                    "give both parties the same, or leave it out at the decoder"
                )


@dataclass(frozen=True)
class Join:
    """A decoder asks to take part in a session, on a stream of its choice or of the encoder's."""

    session: str
    stream: int | None
    expected: Terms


@dataclass(frozen=True)
class Indices:
    """The messages of `count` consecutive rounds, packed as the code's terms say."""

    first_round: int
    count: int
    packed: bytes
    checksum: int

    @classmethod
    def of(cls, first_round: int, count: int, packed: bytes) -> "Indices":
        """With its checksum."""
        return cls(first_round, count, packed, _checksum(first_round, count, packed))

    def checked(self) -> bytes:
        """What is packed; raises FrameError if the checksum is not that of it."""
        return _checked("indices", self)


TurnKind = Literal["candidates", "darts", "verdicts", "everything"]
_TURNS = get_args(TurnKind)


@dataclass(frozen=True)
class Turn:
    """One party's message for `count` rounds of a batch, packed as `conversation` says."""

    kind: TurnKind
    first_round: int
    count: int
    packed: bytes
    checksum: int

    @classmethod
    def of(cls, kind: TurnKind, first_round: int, count: int, packed: bytes) -> "Turn":
        """With its checksum."""
        return cls(kind, first_round, count, packed, _checksum(first_round, count, packed))

    def checked(self) -> bytes:
        """What is packed; raises FrameError if the checksum is not that of it."""
        return _checked(self.kind, self)


@dataclass(frozen=True)
class End:
    """There are no more rounds than these."""

    rounds: int


@dataclass(frozen=True)
class Ack:
    """Every round below next_round has been decoded."""

    next_round: int


@dataclass(frozen=True)
class Refusal:
    """The decoder leaves, because of what it received."""

    reason: str


Frame = Join | Terms | Indices | Turn | End | Ack | Refusal


def to_bytes(frame: Frame) -> bytes:
    """The frame as it goes on the wire, before gRPC's own 5 bytes."""
    match frame:
        case Join(session, stream, expected):
            message = pb.Frame(join=pb.Join(session=session, stream=stream, expected=terms_to_proto(expected)))
        case Terms():
            message = pb.Frame(terms=terms_to_proto(frame))
        case Indices(first_round, count, packed, checksum):
            indices = pb.Indices(first_round=first_round, count=count, packed=packed, checksum=checksum)
            message = pb.Frame(indices=indices)
        case Turn(kind, first_round, count, packed, checksum):
            turn = pb.Turn(first_round=first_round, count=count, packed=packed, checksum=checksum)
            message = pb.Frame()
            getattr(message, kind).CopyFrom(turn)
        case End(rounds):
            message = pb.Frame(end=pb.End(rounds=rounds))
        case Ack(next_round):
            message = pb.Frame(ack=pb.Ack(next_round=next_round))
        case Refusal(reason):
            message = pb.Frame(refusal=pb.Refusal(reason=reason))
    return message.SerializeToString()


def from_bytes(data: bytes) -> Frame:
    """The frame that these bytes are.

    Raises:
        FrameError: they are truncated, of no known kind, or a count is out of range.
    """
    message = pb.Frame()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise FrameError(f"frame: expected a whole frame, got {len(data)} bytes that end or break off early") from error
    kind = message.WhichOneof("frame")
    if kind not in ("indices", *_TURNS) and len(data) > MAX_OTHER_BYTES:
        raise FrameError(f"frame: expected at most {MAX_OTHER_BYTES} bytes for {kind}, got {len(data)}")
    match kind:
        case "join":
            join = message.join
            stream = join.stream if join.HasField("stream") else None
            return Join(join.session, stream, terms_from_proto(join.expected))
        case "terms":
            return terms_from_proto(message.terms)
        case "indices":
            indices = message.indices
            return Indices(indices.first_round, _count(indices.count), indices.packed, indices.checksum)
        case "candidates" | "darts" | "verdicts" | "everything":
            turn: pb.Turn = getattr(message, kind)
            return Turn(kind, turn.first_round, _count(turn.count), turn.packed, turn.checksum)
        case "end":
            return End(message.end.rounds)
        case "ack":
            return Ack(message.ack.next_round)
        case "refusal":
            return Refusal(message.refusal.reason)
    raise FrameError(f"frame: expected one of the kinds of exchange.proto, got {len(data)} bytes of none")


def terms_to_proto(terms: Terms) -> pb.Terms:
    """Terms as protobuf, without those that are None; the control plane hands them over so, too."""
    present = {field.name: value for field in fields(terms) if (value := getattr(terms, field.name)) is not None}
    normal = {name: present.pop(name) for name in _NORMAL if name in present}
    finite = {name: present.pop(name) for name in _FINITE if name in present}
    return pb.Terms(**present, normal=pb.Normal(**normal) if normal else None,
                    finite=pb.Finite(**finite) if finite else None)


def terms_from_proto(message: pb.Terms) -> Terms:
    """The inverse of `terms_to_proto`."""
    parts = (message, message.normal, message.finite)
    present = {field.name: value for part in parts for field, value in part.ListFields()}
    return Terms(**{name: value for name, value in present.items() if name not in ("normal", "finite")})


_NORMAL = ("mean", "variance", "sigma2", "step")
_FINITE = ("items", "epsilon")


def _count(count: int) -> int:
    if not 1 <= count <= MAX_COUNT:
        raise FrameError(f"count: expected 1 to {MAX_COUNT} rounds in a frame, got {count}")
    return count


def _checksum(first_round: int, count: int, packed: bytes) -> int:
    return zlib.crc32(packed, zlib.crc32(first_round.to_bytes(8, "little") + count.to_bytes(4, "little")))


def _checked(what: str, frame: Indices | Turn) -> bytes:
    if frame.checksum != (computed := _checksum(frame.first_round, frame.count, frame.packed)):
        raise FrameError(f"checksum: expected {computed:#010x} for these {what}, got {frame.checksum:#010x}")
    return frame.packed
