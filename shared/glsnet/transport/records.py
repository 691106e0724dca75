"""Outcomes and arrays of numbers as protobuf: in reports to the lab, and in journals."""

import numpy as np

from glsnet.compression import Outcomes, Samples
from glsnet.errors import FrameError
from glsnet.race import FloatArray, IntArray
from glsnet.v1 import control_pb2 as pb


def outcomes_to_proto(outcomes: Outcomes) -> pb.Outcomes:
    """Outcomes as protobuf."""
    return pb.Outcomes(
        first_round=outcomes.first_round, count=outcomes.node.size, message=outcomes.message.astype("<i8").tobytes(),
        stream=outcomes.stream.astype("<i8").tobytes(), node=outcomes.node.astype("<i8").tobytes(),
        packed=outcomes.packed, **_reconstruction(outcomes.reconstruction),
    )


def outcomes_from_proto(message: pb.Outcomes) -> Outcomes:
    """The inverse of `outcomes_to_proto`; raises FrameError if these are not `count` outcomes."""
    count = message.count
    reconstruction: Samples | None = None
    if message.reconstruction:
        reconstruction = floats(message.reconstruction, count)
    elif message.pixels:
        if not count or len(message.pixels) % (4 * count):
            raise FrameError(f"pixels: expected as many of 4 bytes for each of {count} images, got "
                             f"{len(message.pixels)} bytes")
        reconstruction = np.frombuffer(message.pixels, "<f4").reshape(count, -1)
    return Outcomes(message.first_round, integers(message.message, count), integers(message.stream, count),
                    integers(message.node, count), reconstruction, message.packed)


def integers(data: bytes, count: int) -> IntArray:
    """int64, shape [count]; raises FrameError if it is another number of them."""
    return np.frombuffer(_sized(data, count), "<i8").astype(np.int64)


def floats(data: bytes, count: int) -> FloatArray:
    """float64, shape [count]; raises FrameError if it is another number of them."""
    return np.frombuffer(_sized(data, count), "<f8").astype(np.float64)


def all_floats(data: bytes) -> FloatArray:
    """float64, as many as there are; raises FrameError if they are not whole."""
    return floats(data, len(data) // 8)


def _reconstruction(values: Samples | None) -> dict[str, bytes]:
    if values is None:
        return {}
    return {"pixels": values.astype("<f4").tobytes()} if values.ndim > 1 else {
        "reconstruction": values.astype("<f8").tobytes()}


def _sized(data: bytes, count: int) -> bytes:
    if len(data) != 8 * count:
        raise FrameError(f"array: expected {count} values of 8 bytes, got {len(data)} bytes")
    return data
