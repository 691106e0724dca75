"""The bytes of frames: pinned, there and back, and refused when they are not whole."""

import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from glsnet import bits, codes
from glsnet.codes import Code
from glsnet.errors import FrameError, TermsError
from glsnet.frames import MAX_COUNT, Ack, End, Frame, Indices, Join, Refusal, Terms, from_bytes, to_bytes
from glsnet.sources.gaussian import Gaussian

TERMS = Terms(1, "00ff", "gls", 4, 8, 3, -0.5, 2.0, 0.001, 0.25, "fixed", 3)
CODE, KEY = Code(Gaussian(0.0, 1.0), "gls", 4, 8, 0.001), np.uint64(0)
INDICES = Indices.of(300, 4, bits.pack(np.array([1, 7, 0, 5]), 3))


@pytest.mark.parametrize("frame", [
    Join("s", 0, TERMS), Join("s", None, Terms()), TERMS, replace(TERMS, mean=0.0, stream=0), INDICES, Ack(0),
    Ack(2**40), End(0), End(7), Refusal("no"),
])
def test_a_frame_comes_back_from_its_bytes(frame: Frame) -> None:
    assert from_bytes(to_bytes(frame)) == frame


def test_the_bytes_of_indices_are_pinned() -> None:
    """Tag and length of the frame's kind, round 300, count 4, two packed bytes, CRC-32 as fixed 32 bits."""
    expected = "1a0e 08ac02 1004 1a023c50 25".replace(" ", "")
    assert to_bytes(INDICES).hex() == expected + INDICES.checksum.to_bytes(4, "little").hex()
    assert to_bytes(Ack(300)).hex() == "2a0308ac02"


@pytest.mark.parametrize("data", [b"", b"\x1a", to_bytes(INDICES)[:-1], b"\xff" * 20, b"\x7a\x00",
                                  to_bytes(Refusal("x" * 4096))])
def test_bytes_that_are_no_frame_are_refused(data: bytes) -> None:
    with pytest.raises(FrameError, match="frame: expected"):
        from_bytes(data)


@pytest.mark.parametrize("count", [0, MAX_COUNT + 1])
def test_a_count_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(FrameError, match=f"count: expected 1 to {MAX_COUNT} rounds in a frame, got {count}"):
        from_bytes(to_bytes(replace(INDICES, count=count)))


@pytest.mark.parametrize("damaged", [
    replace(INDICES, first_round=301), replace(INDICES, packed=b"\x3c\x60"), replace(INDICES, checksum=0),
    replace(INDICES, count=3),
])
def test_a_damaged_frame_is_refused_by_its_checksum(damaged: Indices) -> None:
    with pytest.raises(FrameError, match="checksum"):
        damaged.checked()


def test_an_index_that_is_no_message_is_refused() -> None:
    with pytest.raises(FrameError, match=r"index of round 301: expected 0 to 5 \(l_max 6\), got 7"):
        codes.unpack(replace(CODE, l_max=6), KEY, 300, 4, INDICES.packed)


def test_a_count_that_does_not_fit_the_bytes_is_refused() -> None:
    wrong = Indices.of(300, 9, INDICES.packed)  # as a faulty encoder would send it
    with pytest.raises(FrameError, match="expected 4 bytes for 9 values of 3 bits, got 2"):
        codes.unpack(CODE, KEY, 300, wrong.count, wrong.checked())


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
