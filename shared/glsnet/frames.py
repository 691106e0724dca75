"""Frames of the data plane: what they hold, and their bytes (protobuf, proto/glsnet/v1/exchange.proto)."""

import zlib
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args

from google.protobuf.message import DecodeError

from glsnet.errors import FrameError, TermsError
from glsnet.v1 import exchange_pb2 as pb

PROTOCOL = 1
MAX_COUNT = 1 << 16  # rounds in one frame
MAX_OTHER_BYTES = 4096  # of any frame that holds no packed values: its text may come back in an error


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
    vocabulary: str | None = None
    candidates: int | None = None
    beta: float | None = None
    prior: str | None = None
    model: str | None = None

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
    """A decoder asks to take part in a session, on a stream of its choice or of the encoder's.

    A draft server may have several `streams`, and names them instead of `stream`.
    """

    session: str
    stream: int | None
    expected: Terms
    streams: tuple[int, ...] = ()


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
        return cls(first_round, count, packed, checksum_of(first_round, count, packed))

    def checked(self) -> bytes:
        """What is packed; raises FrameError if the checksum is not that of it."""
        return _checked("indices", self, self.first_round, self.count)


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
        return cls(kind, first_round, count, packed, checksum_of(first_round, count, packed))

    def checked(self) -> bytes:
        """What is packed; raises FrameError if the checksum is not that of it."""
        return _checked(self.kind, self, self.first_round, self.count)


@dataclass(frozen=True)
class Prompt:
    """A request begins: see exchange.proto, which has the same fields; `tokens` are packed there as Indices are."""

    request: int
    seed: int
    scheme: str
    drafts: int
    length: int
    max_tokens: int
    temperatures: tuple[float, ...]
    top_k: int
    top_p: float
    count: int
    packed: bytes
    checksum: int

    def checked(self) -> bytes:
        """The tokens, packed; raises FrameError if the checksum is not that of them."""
        return _checked("tokens of a prompt", self, 0, self.count)


TokensKind = Literal["drafts", "accepted"]


@dataclass(frozen=True)
class Tokens:
    """Tokens of one block of a request, packed, and of drafts in schemes that test ratios p(x) of each, float32.

    `count` is that of accepted tokens, and 0 for drafts, whose number both sides know.
    """

    kind: TokensKind
    request: int
    position: int
    count: int
    packed: bytes
    check: int
    probabilities: bytes = b""

    @classmethod
    def of(cls, kind: TokensKind, request: int, position: int, count: int, packed: bytes, probabilities: bytes = b""
           ) -> "Tokens":
        """With its check."""
        return cls(kind, request, position, count, packed, _check_of(position, count, packed, probabilities),
                   probabilities)

    def checked(self) -> bytes:
        """What is packed; raises FrameError if the check is not that of it."""
        if self.check != (computed := _check_of(self.position, self.count, self.packed, self.probabilities)):
            raise FrameError(f"checksum: expected {computed:#06x} for these {self.kind}, got {self.check:#06x}")
        return self.packed


@dataclass(frozen=True)
class Wanted:
    """The target needs the distribution that a token of the block at `position` was drawn from."""

    request: int
    position: int
    stream: int
    depth: int


@dataclass(frozen=True)
class Row:
    """A distribution: float16 of all V tokens, or, if count is not 0, `count` tokens and their float16."""

    request: int
    position: int
    stream: int
    depth: int
    count: int
    packed: bytes
    checksum: int

    def checked(self) -> bytes:
        """What is packed; raises FrameError if the checksum is not that of it."""
        return _checked("row", self, self.position, self.count)


@dataclass(frozen=True)
class Done:
    """A request is over."""

    request: int


@dataclass(frozen=True)
class Traffic:
    """Bytes of an exchange in one direction; ip is None where the kernel does not count segments."""

    packed: int
    protobuf: int
    stream: int
    ip: int | None

    def __add__(self, other: "Traffic") -> "Traffic":
        ip = None if self.ip is None or other.ip is None else self.ip + other.ip
        return Traffic(self.packed + other.packed, self.protobuf + other.protobuf, self.stream + other.stream, ip)


NO_TRAFFIC = Traffic(0, 0, 0, 0)


@dataclass(frozen=True)
class Spent:
    """What a request took at a draft server: seconds in its model and races, and bytes on the wire after Prompt.

    `alone` says that no other request went on meanwhile; else stream and ip are those of all.
    """

    request: int
    seconds: float
    down: Traffic
    up: Traffic
    alone: bool


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


OfRequest = Prompt | Tokens | Wanted | Row | Done | Spent
Frame = Join | Terms | Indices | Turn | End | Ack | Refusal | OfRequest
F = TypeVar("F", bound=Frame)
_CHECK_BYTES = 2
_PACKED = ("indices", *_TURNS, *get_args(TokensKind), "row", "prompt")


def to_bytes(frame: Frame) -> bytes:
    """The frame as it goes on the wire, before gRPC's own 5 bytes."""
    match frame:
        case Join(session, stream, expected, streams):
            join = pb.Join(session=session, stream=stream, expected=terms_to_proto(expected), streams=streams)
            message = pb.Frame(join=join)
        case Terms():
            message = pb.Frame(terms=terms_to_proto(frame))
        case Indices(first_round, count, packed, checksum):
            indices = pb.Indices(first_round=first_round, count=count, packed=packed, checksum=checksum)
            message = pb.Frame(indices=indices)
        case Turn(kind, first_round, count, packed, checksum):
            turn = pb.Turn(first_round=first_round, count=count, packed=packed, checksum=checksum)
            message = pb.Frame()
            getattr(message, kind).CopyFrom(turn)
        case Tokens():
            message = pb.Frame()
            getattr(message, frame.kind).CopyFrom(pb.Tokens(
                request=frame.request, position=frame.position, count=frame.count,
                packed=frame.packed + frame.check.to_bytes(_CHECK_BYTES, "little"), probabilities=frame.probabilities,
            ))
        case Prompt():
            message = pb.Frame(prompt=pb.Prompt(**_fields(frame)))
        case Wanted():
            message = pb.Frame(wanted=pb.Wanted(**_fields(frame)))
        case Row():
            message = pb.Frame(row=pb.Row(**_fields(frame)))
        case Done(request):
            message = pb.Frame(done=pb.Done(request=request))
        case Spent(request, seconds, down, up, alone):
            traffic = pb.Traffic(down=direction_to_proto(down), up=direction_to_proto(up))
            message = pb.Frame(spent=pb.Spent(request=request, seconds=seconds, traffic=traffic, alone=alone))
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
    if kind not in _PACKED and len(data) > MAX_OTHER_BYTES:
        raise FrameError(f"frame: expected at most {MAX_OTHER_BYTES} bytes for {kind}, got {len(data)}")
    match kind:
        case "join":
            join = message.join
            stream = join.stream if join.HasField("stream") else None
            return Join(join.session, stream, terms_from_proto(join.expected), tuple(join.streams))
        case "terms":
            return terms_from_proto(message.terms)
        case "indices":
            indices = message.indices
            return Indices(indices.first_round, _count(indices.count), indices.packed, indices.checksum)
        case "candidates" | "darts" | "verdicts" | "everything":
            turn: pb.Turn = getattr(message, kind)
            return Turn(kind, turn.first_round, _count(turn.count), turn.packed, turn.checksum)
        case "drafts" | "accepted":
            tokens: pb.Tokens = getattr(message, kind)
            if (size := len(tokens.packed) - _CHECK_BYTES) < 0:
                raise FrameError(f"{kind}: expected at least {_CHECK_BYTES} bytes, those of the check, got "
                                 f"{len(tokens.packed)}")
            return Tokens(kind, tokens.request, tokens.position, tokens.count, tokens.packed[:size],
                          int.from_bytes(tokens.packed[size:], "little"), tokens.probabilities)
        case "prompt":
            prompt = message.prompt
            return Prompt(prompt.request, prompt.seed, prompt.scheme, prompt.drafts, prompt.length, prompt.max_tokens,
                          tuple(prompt.temperatures), prompt.top_k, prompt.top_p, prompt.count, prompt.packed,
                          prompt.checksum)
        case "wanted":
            wanted = message.wanted
            return Wanted(wanted.request, wanted.position, wanted.stream, wanted.depth)
        case "row":
            row = message.row
            return Row(row.request, row.position, row.stream, row.depth, row.count, row.packed, row.checksum)
        case "done":
            return Done(message.done.request)
        case "spent":
            spent = message.spent
            return Spent(spent.request, spent.seconds, direction_from_proto(spent.traffic.down),
                         direction_from_proto(spent.traffic.up), spent.alone)
        case "end":
            return End(message.end.rounds)
        case "ack":
            return Ack(message.ack.next_round)
        case "refusal":
            return Refusal(message.refusal.reason)
    raise FrameError(f"frame: expected one of the kinds of exchange.proto, got {len(data)} bytes of none")


def bytes_of(frame: Frame, size: int) -> Traffic:
    """What a frame of `size` bytes adds to the traffic in its direction, but for the network's part."""
    packed = len(frame.packed) if isinstance(frame, Indices | Turn | Prompt | Tokens | Row) else 0
    singles = len(frame.probabilities) if isinstance(frame, Tokens) else 0
    return Traffic(packed + singles, size, 0, 0)


def carried(frame: F) -> tuple[F, int]:
    """The frame after a way as bytes, and how many those were."""
    data = to_bytes(frame)
    arrived = from_bytes(data)
    assert isinstance(arrived, type(frame))
    return arrived, len(data)


def terms_to_proto(terms: Terms) -> pb.Terms:
    """Terms as protobuf, without those that are None; the control plane hands them over so, too."""
    present = {field.name: value for field in fields(terms) if (value := getattr(terms, field.name)) is not None}
    normal = {name: present.pop(name) for name in _NORMAL if name in present}
    finite = {name: present.pop(name) for name in _FINITE if name in present}
    images = {name: present.pop(name) for name in _IMAGES if name in present}
    return pb.Terms(**present, normal=pb.Normal(**normal) if normal else None,
                    finite=pb.Finite(**finite) if finite else None, images=pb.Images(**images) if images else None)


def terms_from_proto(message: pb.Terms) -> Terms:
    """The inverse of `terms_to_proto`."""
    parts = (message, message.normal, message.finite, message.images)
    present = {field.name: value for part in parts for field, value in part.ListFields()}
    return Terms(**{name: value for name, value in present.items() if name not in ("normal", "finite", "images")})


def direction_to_proto(traffic: Traffic) -> pb.Direction:
    """Bytes in one direction as protobuf."""
    return pb.Direction(**_fields(traffic))


def direction_from_proto(message: pb.Direction) -> Traffic:
    """The inverse of `direction_to_proto`."""
    ip = message.ip if message.HasField("ip") else None
    return Traffic(message.packed, message.protobuf, message.stream, ip)


_NORMAL = ("mean", "variance", "sigma2", "step")
_FINITE = ("items", "epsilon")
_IMAGES = ("candidates", "beta", "prior", "model")


def checksum_of(first: int, count: int, packed: bytes) -> int:
    """CRC-32 (zlib) of the first round or position (8 bytes), the count (4 bytes), both little-endian, and packed."""
    return zlib.crc32(packed, zlib.crc32(first.to_bytes(8, "little") + count.to_bytes(4, "little")))


def _check_of(position: int, count: int, packed: bytes, probabilities: bytes) -> int:
    return zlib.crc32(probabilities, checksum_of(position, count, packed)) & 0xffff


def _fields(frame: Prompt | Wanted | Row | Traffic) -> dict[str, Any]:
    return {field.name: getattr(frame, field.name) for field in fields(frame)}


def _count(count: int) -> int:
    if not 1 <= count <= MAX_COUNT:
        raise FrameError(f"count: expected 1 to {MAX_COUNT} rounds in a frame, got {count}")
    return count


def _checked(what: str, frame: Indices | Turn | Prompt | Row, first: int, count: int) -> bytes:
    if frame.checksum != (computed := checksum_of(first, count, frame.packed)):
        raise FrameError(f"checksum: expected {computed:#010x} for these {what}, got {frame.checksum:#010x}")
    return frame.packed
