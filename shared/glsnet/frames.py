"""Frames of the data plane: what they hold, and their bytes (protobuf, proto/glsnet/v1/exchange.proto)."""

import zlib
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_args

from google.protobuf.message import DecodeError

from glsnet.errors import DamageError, FrameError, TermsError
from glsnet.randomness import MAX_ROUNDS
from glsnet.v1 import exchange_pb2 as pb

PROTOCOL = 2
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

    A draft server may have several `streams`, and names them instead of `stream`. `party` tells whoever joins again
    from others; it then goes on with `next_round`. `attempt` and `proof` show that it knows the session's token, see
    `joining.proven`.
    """

    session: str
    stream: int | None
    expected: Terms
    streams: tuple[int, ...] = ()
    next_round: int = 0
    party: bytes = b""
    attempt: int = 0
    proof: bytes = b""


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
        """What is packed; raises DamageError if the checksum is not that of it."""
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
        """With its checksum, which is over its kind, too."""
        return cls(kind, first_round, count, packed, _turn_checksum(kind, first_round, count, packed))

    def checked(self) -> bytes:
        """What is packed; raises DamageError if the checksum is not that of it."""
        if self.checksum != (computed := _turn_checksum(self.kind, self.first_round, self.count, self.packed)):
            raise DamageError(f"checksum: expected {computed:#010x} for these {self.kind}, got {self.checksum:#010x}")
        return self.packed


@dataclass(frozen=True)
class Prompt:
    """A request begins, or goes on: see exchange.proto, which has the same fields; tokens are packed as Indices are."""

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
    made: int = 0
    ahead: int = 0

    def checked(self) -> bytes:
        """The tokens, packed; raises DamageError if the checksum is not that of them."""
        return _checked("tokens of a prompt", self, 0, self.count)


TokensKind = Literal["drafts", "accepted"]


@dataclass(frozen=True)
class Tokens:
    """Tokens of one block of a request, packed, and of drafts in schemes that test ratios p(x) of each, float32.

    `count` is that of accepted tokens. Drafts are as many as both sides know, and `count` says how many tokens come
    before them: none, or the one that drafts ahead suppose.
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
        check = _check_of(request, position, count, packed, probabilities)
        return cls(kind, request, position, count, packed, check, probabilities)

    def checked(self) -> bytes:
        """What is packed; raises DamageError if the check is not that of it."""
        computed = _check_of(self.request, self.position, self.count, self.packed, self.probabilities)
        if self.check != computed:
            raise DamageError(f"checksum: expected {computed:#06x} for these {self.kind}, got {self.check:#06x}")
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
        """What is packed; raises DamageError if the checksum is not that of it."""
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
class Lost:
    """Rounds below next_round are not to be had any more."""

    next_round: int


@dataclass(frozen=True)
class Refusal:
    """The decoder leaves, because of what it received."""

    reason: str


OfRequest = Prompt | Tokens | Wanted | Row | Done | Spent
Frame = Join | Terms | Indices | Turn | End | Ack | Lost | Refusal | OfRequest
F = TypeVar("F", bound=Frame)
R = TypeVar("R", Indices, Turn)
_CHECK_BYTES = 2
_PACKED = ("indices", *_TURNS, *get_args(TokensKind), "row", "prompt")
_OWN_CHECK = ("indices", *_TURNS, *get_args(TokensKind))  # kinds whose own checksum is over all that matters
_CHECK_TAG = b"\xfd\x01"  # of Frame.check, which comes last


def to_bytes(frame: Frame) -> bytes:
    """The frame as it goes on the wire, before gRPC's own 5 bytes."""
    match frame:
        case Join(session, stream, expected):
            join = pb.Join(session=session, stream=stream, expected=terms_to_proto(expected), streams=frame.streams,
                           next_round=frame.next_round, party=frame.party, attempt=frame.attempt, proof=frame.proof)
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
        case Lost(next_round):
            message = pb.Frame(lost=pb.Lost(next_round=next_round))
        case Refusal(reason):
            message = pb.Frame(refusal=pb.Refusal(reason=reason))
    data = message.SerializeToString()
    return data if message.WhichOneof("frame") in _OWN_CHECK else data + _check(data)


def from_bytes(data: bytes) -> Frame:
    """The frame that these bytes are.

    Raises:
        DamageError: they are truncated, of no known kind, or not what their check is of.
        FrameError: a count is out of range.
    """
    message = pb.Frame()
    try:
        message.ParseFromString(data)
    except (DecodeError, RecursionError) as error:
        raise DamageError(f"frame: expected a whole frame, got {len(data)} bytes that end or break off early"
                          ) from error
    kind = message.WhichOneof("frame")
    if kind is None:
        raise DamageError(f"frame: expected one of the kinds of exchange.proto, got {len(data)} bytes of none")
    size = len(_CHECK_TAG) + 4
    if kind not in _OWN_CHECK and data[-size:] != (computed := _check(data[:-size])):
        raise DamageError(f"checksum: expected this {kind} to end with {computed.hex()}, got {data[-size:].hex()}")
    if kind not in _PACKED and len(data) > MAX_OTHER_BYTES:
        raise FrameError(f"frame: expected at most {MAX_OTHER_BYTES} bytes for {kind}, got {len(data)}")
    match kind:
        case "join":
            join = message.join
            stream = join.stream if join.HasField("stream") else None
            return Join(join.session, stream, terms_from_proto(join.expected), tuple(join.streams), join.next_round,
                        join.party, join.attempt, join.proof)
        case "terms":
            return terms_from_proto(message.terms)
        case "indices":
            indices = message.indices
            return _undamaged(Indices(indices.first_round, indices.count, indices.packed, indices.checksum))
        case "candidates" | "darts" | "verdicts" | "everything":
            turn: pb.Turn = getattr(message, kind)
            return _undamaged(Turn(kind, turn.first_round, turn.count, turn.packed, turn.checksum))
        case "drafts" | "accepted":
            tokens: pb.Tokens = getattr(message, kind)
            if (size := len(tokens.packed) - _CHECK_BYTES) < 0:
                raise DamageError(f"{kind}: expected at least {_CHECK_BYTES} bytes, those of the check, got "
                                  f"{len(tokens.packed)}")
            said = Tokens(kind, tokens.request, tokens.position, tokens.count, tokens.packed[:size],
                          int.from_bytes(tokens.packed[size:], "little"), tokens.probabilities)
            said.checked()
            return said
        case "prompt":
            prompt = message.prompt
            return Prompt(prompt.request, prompt.seed, prompt.scheme, prompt.drafts, prompt.length, prompt.max_tokens,
                          tuple(prompt.temperatures), prompt.top_k, prompt.top_p, prompt.count, prompt.packed,
                          prompt.checksum, prompt.made, prompt.ahead)
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
        case "lost":
            return Lost(message.lost.next_round)
        case "refusal":
            return Refusal(message.refusal.reason)
    raise AssertionError(f"{kind} is a kind of exchange.proto")


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


def _turn_checksum(kind: TurnKind, first_round: int, count: int, packed: bytes) -> int:
    return zlib.crc32(kind.encode(), checksum_of(first_round, count, packed))


def _check_of(request: int, position: int, count: int, packed: bytes, probabilities: bytes) -> int:
    return zlib.crc32(probabilities, checksum_of(position | request << 32, count, packed)) & 0xffff


def _check(data: bytes) -> bytes:
    """The field that ends a frame: CRC-32 of all bytes before it."""
    return _CHECK_TAG + zlib.crc32(data).to_bytes(4, "little")


def _fields(frame: Prompt | Wanted | Row | Traffic) -> dict[str, Any]:
    return {field.name: getattr(frame, field.name) for field in fields(frame)}


def _undamaged(frame: R) -> R:
    """The frame, if it is as it was sent (one flipped bit can make another kind of it), and of so many rounds."""
    frame.checked()
    if not 1 <= frame.count <= MAX_COUNT:
        raise FrameError(f"count: expected 1 to {MAX_COUNT} rounds in a frame, got {frame.count}")
    if frame.first_round + frame.count > MAX_ROUNDS:
        raise FrameError(f"first_round: expected rounds within 0 to {MAX_ROUNDS - 1}, got {frame.count} from "
                         f"{frame.first_round} on")
    return frame


def _checked(what: str, frame: Indices | Prompt | Row, first: int, count: int) -> bytes:
    if frame.checksum != (computed := checksum_of(first, count, frame.packed)):
        raise DamageError(f"checksum: expected {computed:#010x} for these {what}, got {frame.checksum:#010x}")
    return frame.packed
