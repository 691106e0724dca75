"""Fixed-width bit packing: `count` values of `width` bits are ceil(count * width / 8) bytes, and not a bit more.

Values follow one another from the most significant bit of the first byte; the last byte is filled up with zeros.
"""

import numpy as np
from numpy.typing import NDArray

from glsnet.errors import FrameError


def width_of(size: int) -> int:
    """The bits that tell `size` values (at least 1) apart: ceil(log2 size), and 0 for a single value."""
    return (size - 1).bit_length()


def packed_size(count: int, width: int) -> int:
    """Bytes that `count` values of `width` bits take."""
    return (count * width + 7) // 8


def pack(values: NDArray[np.int64], width: int) -> bytes:
    """Pack values of shape [count], each in [0, 2^width), width up to 62."""
    places = np.arange(width - 1, -1, -1)
    return np.packbits((values[:, None] >> places & 1).astype(np.uint8)).tobytes()


def unpack(packed: bytes, count: int, width: int) -> NDArray[np.int64]:
    """The values that `pack` was given, shape [count].

    Raises:
        FrameError: the number of bytes does not fit count and width, or the filling is not zero.
    """
    if len(packed) != packed_size(count, width):
        raise FrameError(
            f"packed indices: expected {packed_size(count, width)} bytes for {count} values of {width} bits, "
            f"got {len(packed)}"
        )
    bits = np.unpackbits(np.frombuffer(packed, np.uint8))
    if bits[count * width:].any():
        raise FrameError(f"packed indices: expected zeros after {count} values of {width} bits, got other bits")
    return bits[: count * width].reshape(count, width) @ (np.int64(1) << np.arange(width - 1, -1, -1, dtype=np.int64))
