"""The bytes of frames: pinned, there and back, and refused when they are not whole."""

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from glsnet import bits
from glsnet.codes import Code
from glsnet.errors import DamageError, FrameError, TermsError
from glsnet.frames import (
    MAX_COUNT,
    Ack,
    Done,
    End,
    Frame,
    Indices,
    Join,
    Lost,
    Prompt,
    Refusal,
    Row,
    Spent,
    Terms,
    Tokens,
    Traffic,
    Turn,
    Wanted,
    checksum_of,
    from_bytes,
    to_bytes,
)
from glsnet.sources.gaussian import Gaussian

TERMS = Terms(1, "00ff", "gls", 4, 8, 3, -0.5, 2.0, 0.001, 0.25, "fixed", 3)
CODE, KEY = Code(Gaussian(0.0, 1.0), "gls", 4, 8, 0.001), np.uint64(0)
INDICES = Indices.of(300, 4, bits.pack(np.array([1, 7, 0, 5]), 3))


@pytest.mark.parametrize("frame", [
    Join("s", 0, TERMS), Join("s", None, Terms()), Join("s", 1, TERMS, (), 2**40, bytes(range(8))), TERMS,
    replace(TERMS, mean=0.0, stream=0), INDICES, Ack(0), Ack(2**40), End(0), End(7), Lost(0), Lost(300), Refusal("no"),
])
def test_a_frame_comes_back_from_its_bytes(frame: Frame) -> None:
    assert from_bytes(to_bytes(frame)) == frame


def test_the_bytes_of_indices_are_pinned() -> None:
    """Tag and length of the frame's kind, round 300, count 4, two packed bytes, CRC-32 as fixed 32 bits."""
    expected = "1a0e 08ac02 1004 1a023c50 25".replace(" ", "")
    assert to_bytes(INDICES).hex() == expected + INDICES.checksum.to_bytes(4, "little").hex()


def test_all_other_frames_end_with_a_check_of_all_bytes_before_it() -> None:
    """Field 31 as fixed 32 bits: the CRC-32 of what comes before."""
    frames: list[tuple[Frame, str]] = [(Ack(300), "2a0308ac02"), (End(0), "2200"), (Lost(300), "92010308ac02")]
    for frame, expected in frames:
        assert to_bytes(frame).hex() == expected + check_of(expected)


def check_of(data: str) -> str:
    """The last field of frames that have it."""
    return "fd01" + zlib.crc32(bytes.fromhex(data)).to_bytes(4, "little").hex()


@pytest.mark.parametrize("frame", [
    Join("session", 3, TERMS, (), 300, bytes(range(8))), TERMS, INDICES, Turn.of("darts", 300, 4, INDICES.packed),
    Ack(300), End(300), Lost(300), Refusal("no"),
], ids=lambda frame: type(frame).__name__)
def test_any_bit_that_is_flipped_is_noticed(frame: Frame) -> None:
    """Nothing else comes out, and never anything but DamageError: no party is blamed for what the way did."""
    data = to_bytes(frame)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamageError):
            from_bytes(bytes(flipped))


@pytest.mark.parametrize("frame", [Join("session", 3, TERMS, (), 300, bytes(range(8))), TERMS, INDICES, Ack(300)],
                         ids=lambda frame: type(frame).__name__)
def test_a_frame_that_is_cut_short_is_noticed(frame: Frame) -> None:
    data = to_bytes(frame)
    for size in range(len(data)):
        with pytest.raises(DamageError):
            from_bytes(data[:size])


@pytest.mark.parametrize("data", [b"", b"\x1a", to_bytes(INDICES)[:-1], b"\xff" * 20, b"\xaa\x06\x00",
                                  to_bytes(Refusal("x" * 4096))])
def test_bytes_that_are_no_frame_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError, match="frame: expected"):
        from_bytes(data)


@pytest.mark.parametrize("count", [0, MAX_COUNT + 1])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(FrameError, match=f"count: expected 1 to {MAX_COUNT} rounds in a frame, got {count}"):
        from_bytes(to_bytes(Indices.of(300, count, INDICES.packed)))


@pytest.mark.parametrize("damaged", [
    replace(INDICES, first_round=301), replace(INDICES, packed=b"\x3c\x60"), replace(INDICES, checksum=0),
    replace(INDICES, count=3),
])
def test_a_damaged_frame_is_refused_by_its_checksum(damaged: Indices) -> None:
    with pytest.raises(DamageError, match="checksum"):
        damaged.checked()
    with pytest.raises(DamageError, match="checksum"):
        from_bytes(to_bytes(damaged))


def test_an_index_that_is_no_message_is_refused() -> None:
    with pytest.raises(FrameError, match=r"index of round 301: expected 0 to 5 \(l_max 6\), got 7"):
        replace(CODE, l_max=6).unpack(KEY, 300, 4, INDICES.packed)


def test_a_count_that_does_not_fit_the_bytes_is_refused() -> None:
    wrong = Indices.of(300, 9, INDICES.packed)  # as a faulty encoder would send it
    with pytest.raises(FrameError, match="expected 4 bytes for 9 values of 3 bits, got 2"):
        CODE.unpack(KEY, 300, wrong.count, wrong.checked())


def test_the_checksum_is_of_round_count_and_bytes() -> None:
    header = (300).to_bytes(8, "little") + (4).to_bytes(4, "little")
    assert INDICES.checksum == zlib.crc32(header + INDICES.packed)


@pytest.mark.parametrize("name", ["protocol", "seed_digest", "scheme", "decoders", "l_max", "width", "mean",
                                  "variance", "sigma2", "step", "packing"])
def test_a_term_that_differs_is_named_with_both_values(name: str) -> None:
    changes: dict[str, Any] = {name: "another" if isinstance(getattr(TERMS, name), str) else 77}
    other, open_ = replace(TERMS, **changes), replace(TERMS, **dict.fromkeys(changes))
    with pytest.raises(TermsError, match=name) as caught:
        TERMS.check(other)
    assert repr(getattr(TERMS, name)) in str(caught.value)
    assert repr(getattr(other, name)) in str(caught.value)
    TERMS.check(open_)


# Of requests for text.


DRAFTS = Tokens.of("drafts", 0, 100, 0, bits.pack(np.array([1, 2, 1024, 2047]), 11))
ACCEPTED = Tokens.of("accepted", 3, 300, 2, bits.pack(np.array([6, 1]), 3))
SINGLES = np.array([0.5, 0.25, 1, 0.125], "<f4").tobytes()
RATIOS = Tokens.of("drafts", 1, 100, 0, DRAFTS.packed, SINGLES)
PROMPT = Prompt(1, (1 << 64) - 1, "gls", 2, 4, 128, (0.0, 1.5), 50, 0.9, 2, b"\x8c", checksum_of(0, 2, b"\x8c"))
ROW = Row(1, 100, 1, 3, 0, b"\x00\x3c\x00\x00", checksum_of(100, 0, b"\x00\x3c\x00\x00"))


@pytest.mark.parametrize("frame", [
    DRAFTS, ACCEPTED, RATIOS, Tokens.of("drafts", 0, 0, 0, b""), PROMPT, replace(PROMPT, temperatures=(), top_k=0),
    Wanted(1, 100, 1, 3), Wanted(0, 0, 0, 0), ROW, replace(ROW, packed=bytes(303_872)), Done(0), Done(7),
    Spent(1, 0.25, Traffic(1, 2, 3, 4), Traffic(5, 6, 7, None), True),
    Spent(0, 0.0, Traffic(0, 0, 0, 0), Traffic(0, 0, 0, 0), False),
    Join("s", None, Terms(vocabulary="00ff", items=5), (2, 0)), Terms(vocabulary="00ff", items=5, stream=2),
])
def test_a_frame_of_a_request_comes_back_from_its_bytes(frame: Frame) -> None:
    assert from_bytes(to_bytes(frame)) == frame


def test_the_bytes_of_drafts_are_pinned() -> None:
    """Four of 11 bits in 14 bytes: tag and length of the kind, position 100, six packed bytes and two of the check.

    00000000001 00000000010 10000000000 11111111111 and four zeros; request 0 and count 0 take nothing.
    """
    packed = bytes([0b00000000, 0b00100000, 0b00001010, 0b00000000, 0b01111111, 0b11110000])
    crc = zlib.crc32((100).to_bytes(8, "little") + bytes(4) + packed)
    check = crc.to_bytes(4, "little")[:2]
    assert to_bytes(DRAFTS).hex() == "5a0c" + "1064" + "2208" + packed.hex() + check.hex()


def test_the_bytes_of_accepted_and_of_drafts_with_probabilities_are_pinned() -> None:
    """Request 3, position 300, count 2, six bits; and p(x) after what is packed, which the check is of, too."""
    crc = zlib.crc32((300 | 3 << 32).to_bytes(8, "little") + (2).to_bytes(4, "little") + b"\xc4")
    check = crc.to_bytes(4, "little")[:2]
    assert to_bytes(ACCEPTED).hex() == "620c" + "0803" + "10ac02" + "1802" + "2203" + "c4" + check.hex()
    crc = zlib.crc32((100 | 1 << 32).to_bytes(8, "little") + bytes(4) + DRAFTS.packed + SINGLES)
    check = crc.to_bytes(4, "little")[:2]
    singles = "0000003f" "0000803e" "0000803f" "0000003e"
    assert to_bytes(RATIOS).hex() == ("5a20" + "0801" + "1064" + "2208" + DRAFTS.packed.hex() + check.hex() + "2a10"
                                      + singles)


def test_the_bytes_of_a_row_and_of_what_asks_for_it_are_pinned() -> None:
    wanted = "6a08" + "0801" + "1064" + "1801" + "2003"
    row = ("7213" + "0801" + "1064" + "1801" + "2003" + "3204" + "003c0000" + "3d"
           + ROW.checksum.to_bytes(4, "little").hex())
    frames: list[tuple[Frame, str]] = [(Wanted(1, 100, 1, 3), wanted), (ROW, row), (Done(0), "820100")]
    for frame, expected in frames:
        assert to_bytes(frame).hex() == expected + check_of(expected)


@pytest.mark.parametrize("frame", [DRAFTS, ACCEPTED, RATIOS])
def test_tokens_are_refused_if_one_bit_of_them_is_another(frame: Tokens) -> None:
    frame.checked()
    for name in ("packed", "probabilities"):
        whole = getattr(frame, name)
        for at in range(8 * len(whole)):
            changed = bytearray(whole)
            changed[at // 8] ^= 1 << at % 8
            damaged: dict[str, Any] = {name: bytes(changed)}
            with pytest.raises(FrameError, match=f"checksum: expected 0x.{{4}} for these {frame.kind}, got 0x.{{4}}"):
                replace(frame, **damaged).checked()
    for damaged in ({"request": 4}, {"position": 101}, {"count": 1}, {"check": frame.check ^ 1},
                    {"packed": frame.packed + b"\0"}, {"probabilities": b"\0"}):
        with pytest.raises(FrameError, match="checksum: expected"):
            replace(frame, **damaged).checked()


@pytest.mark.parametrize(("frame", "text"), [
    (replace(PROMPT, packed=b"\x8d"), "checksum: expected 0x.{8} for these tokens of a prompt, got 0x"),
    (replace(PROMPT, count=1), "checksum: expected"), (replace(PROMPT, checksum=0), "got 0x00000000"),
    (replace(ROW, packed=b"\x00\x3c\x00\x01"), "checksum: expected 0x.{8} for these row, got 0x"),
    (replace(ROW, position=101), "checksum: expected"), (replace(ROW, count=1), "checksum: expected"),
])
def test_a_damaged_prompt_or_row_is_refused_by_its_checksum(frame: Prompt | Row, text: str) -> None:
    with pytest.raises(FrameError, match=text):
        frame.checked()


def test_tokens_without_a_check_are_refused() -> None:
    for packed in ("", "2200", "220101"):
        data = bytes.fromhex(f"5a{len(packed) // 2:02x}" + packed)
        with pytest.raises(DamageError, match=r"drafts: expected at least 2 bytes, those of the check, got [01]"):
            from_bytes(data)


def test_frames_without_packed_values_are_short() -> None:
    long = Join("s" * 4096, None, Terms())
    with pytest.raises(FrameError, match="frame: expected at most 4096 bytes for join, got"):
        from_bytes(to_bytes(long))
