import numpy as np
import pytest

from glsnet.bits import pack, packed_size, unpack, width_of
from glsnet.errors import FrameError


@pytest.mark.parametrize("width", [0, 1, 3, 7, 8, 13, 16, 32])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 1000])
def test_packing_takes_just_its_bits_and_comes_back(width: int, count: int) -> None:
    values = np.random.default_rng(width).integers(0, 2**width, count)
    packed = pack(values, width)
    assert len(packed) == packed_size(count, width) == -(-count * width // 8)
    assert (unpack(packed, count, width) == values).all()


def test_the_bytes_are_as_documented() -> None:
    assert pack(np.array([1, 7, 0, 5]), 3) == bytes([0b00111100, 0b01010000])
    assert unpack(bytes([0b00111100, 0b01010000]), 4, 3).tolist() == [1, 7, 0, 5]


def test_other_lengths_and_filling_are_refused() -> None:
    with pytest.raises(FrameError, match="expected 2 bytes for 4 values of 3 bits, got 1"):
        unpack(b"\x00", 4, 3)
    with pytest.raises(FrameError, match="zeros"):
        unpack(bytes([0, 0b00000001]), 4, 3)


def test_widths() -> None:
    assert [width_of(n) for n in (1, 2, 3, 8, 9, 151_936)] == [0, 1, 2, 3, 4, 18]
