"""Wrong bytes made of right ones: mutations of messages, seeded, that know protobuf's wire format.

    mutated       a message changed somewhere: bits, lengths, fields, numbers
    conversation  a list of messages of which some are changed, gone, twice, out of order, or of another conversation
    repaired      a frame whose checks are right again, so that a mutation gets past them
"""

import random
import zlib
from collections.abc import Callable, Sequence

from google.protobuf.message import DecodeError

from glsnet import frames
from glsnet.frames import checksum_of
from glsnet.v1 import exchange_pb2 as pb

NUMBERS = [0, 1, 2, 3, 7, 8, 64, 255, 256, 65535, 65536, 65537, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32,
           (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_DOUBLES = [b"\0" * 8, bytes.fromhex("000000000000f07f"), bytes.fromhex("000000000000f0ff"),
            bytes.fromhex("000000000000f87f"), bytes.fromhex("000000000000f0bf"), bytes.fromhex("0100000000000000"),
            bytes.fromhex("ffffffffffffef7f"), bytes.fromhex("000000000000f03f")]
Field = tuple[int, int, int | bytes]  # number, wire type, value
Repair = Callable[[bytes], bytes]


def conversation(rng: random.Random, valid: Sequence[bytes], others: Sequence[bytes], repair: Repair) -> list[bytes]:
    """A valid conversation with something wrong in it; `others` are messages of any."""
    said = list(valid)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(said)) if said else 0
        match rng.randrange(12) if said else 0:
            case 0:
                said.insert(at, rng.choice(others))
            case 1:
                said.insert(at, said[at])
            case 2:
                del said[at]
            case 3:
                said.insert(rng.randrange(len(said)), said.pop(at))
            case 4:
                said[at:] = said[:at]
            case _:
                changed = mutated(rng, said[at], others)
                said[at] = repair(changed) if rng.random() < 0.75 else changed
    return said


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """A message that is not quite this one."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = _field_changed(rng, data, 0) if rng.random() < 0.6 else _bytes_changed(rng, data, rng.choice(others))
    return data


def repaired(data: bytes) -> bytes:
    """A frame with its checks made right, by fields at the end that take the place of those before; else as it is."""
    frame = pb.Frame()
    try:
        frame.ParseFromString(data)
    except (DecodeError, RecursionError):
        return data
    match kind := frame.WhichOneof("frame"):
        case None:
            return data
        case "indices":
            said = frame.indices
            right = pb.Frame(indices=pb.Indices(checksum=checksum_of(said.first_round, said.count, said.packed)))
        case "candidates" | "darts" | "verdicts" | "everything":
            turn: pb.Turn = getattr(frame, kind)
            check = zlib.crc32(kind.encode(), checksum_of(turn.first_round, turn.count, turn.packed))
            right = pb.Frame()
            getattr(right, kind).checksum = check
        case "drafts" | "accepted":
            tokens: pb.Tokens = getattr(frame, kind)
            own = frames.Tokens.of(kind, tokens.request, tokens.position, tokens.count, tokens.packed[:-2],
                                   tokens.probabilities)
            right = pb.Frame()
            getattr(right, kind).packed = own.packed + own.check.to_bytes(2, "little")
        case "prompt":
            right = pb.Frame(prompt=pb.Prompt(checksum=checksum_of(0, frame.prompt.count, frame.prompt.packed)))
        case "row":
            row = frame.row
            right = pb.Frame(row=pb.Row(checksum=checksum_of(row.position, row.count, row.packed)))
        case _:
            right = pb.Frame()
    data = (data[:-6] if data[-6:-4] == b"\xfd\x01" else data) + right.SerializeToString()
    if kind in ("indices", "candidates", "darts", "verdicts", "everything", "drafts", "accepted"):
        return data
    return data + b"\xfd\x01" + zlib.crc32(data).to_bytes(4, "little")


def _bytes_changed(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    match rng.randrange(7):
        case 0:  # bits
            changed = bytearray(data or b"\0")
            for _ in range(rng.choice((1, 1, 2, 8))):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            return bytes(changed)
        case 1:
            return data[:at]
        case 2:
            return data[:at] + rng.randbytes(rng.choice((1, 2, 8, 40))) + data[at:]
        case 3:
            return data[:at] + other[rng.randrange(len(other) + 1):]
        case 4:
            return data + other
        case 5:
            return rng.randbytes(rng.choice((0, 1, 2, 3, 5, 8, 13, 40, 200)))
        case _:
            return data[:at] + data[at + rng.randrange(8):]


def _field_changed(rng: random.Random, data: bytes, depth: int) -> bytes:
    """One field, or one of a message in it, gone, twice, of another number, type or value."""
    fields = _fields(data)
    if not fields:
        return _bytes_changed(rng, data, data)
    at = rng.randrange(len(fields))
    number, wire, value = fields[at]
    if isinstance(value, bytes) and wire == _BYTES and depth < 4 and rng.random() < 0.7:
        fields[at] = number, wire, _field_changed(rng, value, depth + 1)
        return _joined(fields)
    match rng.randrange(10):
        case 0:
            del fields[at]
        case 1:
            fields.insert(at, fields[at])
        case 2:
            fields[at] = rng.choice((number + 1, number - 1, rng.randrange(1, 33))) or 1, wire, value
        case 3:
            fields.append((rng.randrange(1, 33), _VARINT, rng.choice(NUMBERS)))
        case 4:
            rng.shuffle(fields)
        case 5:
            fields[at] = number, _VARINT, rng.choice(NUMBERS)
        case _:
            fields[at] = number, wire, _other(rng, wire, value)
    return _joined(fields)


def _other(rng: random.Random, wire: int, value: int | bytes) -> int | bytes:
    if isinstance(value, int):
        return (rng.choice(NUMBERS) if rng.random() < 0.6 else value + rng.randrange(-3, 4)) % (1 << 64)
    if wire == _FIXED64:
        return rng.choice(_DOUBLES) if rng.random() < 0.8 else rng.randbytes(8)
    if wire == _FIXED32:
        return rng.randbytes(4)
    match rng.randrange(5):
        case 0:
            return b""
        case 1:
            return value * 2
        case 2:
            return rng.choice(_DOUBLES) * rng.randrange(1, 9)
        case 3:
            return bytes(rng.choice((1, 8, 100, 5000)))
    return rng.randbytes(len(value))


def _fields(data: bytes) -> list[Field]:
    """The fields of a message, as far as these bytes are one."""
    fields: list[Field] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        value: int | bytes = b""
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire == _BYTES or wire in _SIZES:
            size, at = _varint(data, at) if wire == _BYTES else (_SIZES[wire], at)
            value, at = data[at : at + size], at + size
        if at > len(data) or wire not in (_VARINT, _BYTES, *_SIZES) or not tag >> 3:
            break
        fields.append((tag >> 3, wire, value))
    return fields


def _joined(fields: Sequence[Field]) -> bytes:
    parts = bytearray()
    for number, wire, value in fields:
        parts += _as_varint(number << 3 | wire)
        if isinstance(value, int):
            parts += _as_varint(value)
        else:
            parts += (_as_varint(len(value)) if wire == _BYTES else b"") + value
    return bytes(parts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and where it ends: beyond the end if it does not."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at
    return 0, len(data) + 1


def _as_varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
