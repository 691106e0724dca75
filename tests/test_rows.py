"""Distributions on the wire: there and back, in the fewest bytes, and refused if they are none."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from glsnet import bits
from glsnet.errors import FrameError
from glsnet.race import FloatArray
from glsnet.rows import pack, rounded, shares, unpack

VOCABULARY = 151_936  # Qwen's, of 18 bits
NORMAL = float(np.finfo(np.float16).smallest_normal)


def kept_top(size: int, top: int, seed: int = 1) -> FloatArray:
    """Some distribution over `top` tokens of `size`."""
    rng = np.random.default_rng(seed)
    p = np.zeros(size)
    p[rng.permutation(size)[:top]] = rng.dirichlet(np.ones(top))
    return p


def halves(*values: float) -> bytes:
    return np.array(values, "<f2").tobytes()


@settings(max_examples=300, deadline=None)
@given(arrays(np.float64, st.integers(1, 70), elements=st.one_of(st.just(0.0), st.floats(1e-6, 1.0))))
def test_a_row_comes_back_as_the_drafter_has_it(values: FloatArray) -> None:
    """To the bit, in whichever form is shorter."""
    if values.sum() == 0:
        values[0] = 1.0
    weights = rounded(values / values.sum())
    count, packed = pack(weights)
    assert (unpack(packed, count, weights.size) == shares(weights)).all()
    support = int(np.count_nonzero(weights))
    sparse = math.ceil(support * bits.width_of(weights.size) / 8) + 2 * support
    assert len(packed) == min(sparse, 2 * weights.size)
    assert count == (support if sparse < 2 * weights.size else 0)


@settings(max_examples=300, deadline=None)
@given(arrays(np.float64, st.integers(1, 70), elements=st.one_of(st.just(0.0), st.floats(1e-3, 1.0))))
def test_what_is_sent_is_within_the_rounding_of_float16(values: FloatArray) -> None:
    """Of what is normal there, weights are within 2^-11 of p; so is the sum of the rest of them from 1 - p.

    Shares, to first order, are thus within 2^-10 p (1 - p), which is 2^-12 at most.
    """
    if values.sum() == 0:
        values[0] = 1.0
    p = values / values.sum()
    normal = p >= NORMAL
    weights = rounded(p)
    assert (np.abs(weights.astype(np.float64) - p)[normal] <= 2**-11 * p[normal]).all()
    q = shares(weights)
    assert q.sum() == pytest.approx(1, abs=1e-12)
    if normal[p > 0].all():
        assert (np.abs(q - p) <= 2**-10 * p * (1 - p) * (1 + 2**-9) + 1e-15).all()


def test_sizes() -> None:
    """All of a large vocabulary; the fifty tokens of a top-k; one."""
    for p, expected in ((np.full(VOCABULARY, 1 / VOCABULARY), (0, 303_872)),
                        (kept_top(VOCABULARY, 50), (50, math.ceil(50 * 18 / 8) + 2 * 50)),
                        (kept_top(VOCABULARY, 1), (1, 3 + 2)), (np.array([1.0]), (0, 2))):
        count, packed = pack(rounded(p))
        assert (count, len(packed)) == expected
    assert math.ceil(50 * 18 / 8) + 2 * 50 == 213


def test_the_bytes_are_as_documented() -> None:
    """Tokens 2 and 9 of 16, four bits each, then 3/4 and 1/4 as float16; of two tokens both float16."""
    p = np.zeros(16)
    p[[2, 9]] = 0.75, 0.25
    assert pack(rounded(p)) == (2, bytes.fromhex("29" "003a" "0034"))
    assert pack(rounded(np.array([0.75, 0.25]))) == (0, bytes.fromhex("003a" "0034"))
    assert unpack(bytes.fromhex("29" "003a" "0034"), 2, 16).tolist() == p.tolist()


def test_shares_are_of_what_is_sent() -> None:
    assert unpack(halves(0.75, 0.3), 0, 2).tolist() == shares(np.array([0.75, 0.3], np.float16)).tolist()
    assert unpack(halves(0.5, 0.5, -0.0), 0, 3).tolist() == [0.5, 0.5, 0]


def named(tokens: list[int], *values: float) -> bytes:
    """Of V = 5."""
    return bits.pack(np.array(tokens), 3) + halves(*values)


@pytest.mark.parametrize(("packed", "count", "text"), [
    (halves(*[0.2] * 4), 0, "row: expected 10 bytes for 5 probabilities, got 8"),
    (halves(*[0.2] * 6), 0, "row: expected 10 bytes for 5 probabilities, got 12"),
    (b"", 0, "row: expected 10 bytes for 5 probabilities, got 0"),
    (named([0, 1], 0.5), 2, "row: expected 5 bytes for 2 probabilities, got 3"),
    (named([0, 1], 0.5, 0.5), 1 << 31, "row: expected .* bytes for 2147483648 probabilities, got 5"),
    (named([1, 0], 0.5, 0.5), 2, r"row: expected rising tokens from 0 to 4, got \[1, 0\]"),
    (named([1, 1], 0.5, 0.5), 2, r"row: expected rising tokens from 0 to 4, got \[1, 1\]"),
    (named([1, 5], 0.5, 0.5), 2, r"row: expected rising tokens from 0 to 4, got \[1, 5\]"),
    (named([7], 1.0), 1, r"row: expected rising tokens from 0 to 4, got \[7\]"),
    (b"\x01" + halves(1.0), 1, "expected zeros after 1 values of 3 bits"),
    (halves(0, 0, 0, 0, 0), 0, r"row: expected probabilities that sum to about 1, got 0\.0"),
    (halves(0.4, 0.4, 0, 0, 0), 0, r"row: expected probabilities that sum to about 1, got 0\.7"),
    (halves(1, 0.2, 0, 0, 0), 0, r"row: expected probabilities that sum to about 1, got 1\.19"),
    (halves(1, 0.5, -0.5, 0, 0), 0, r"row: expected probabilities .* got 1\.0"),
    (halves(1, math.nan, 0, 0, 0), 0, "row: expected probabilities .* got nan"),
    (halves(1, math.inf, 0, 0, 0), 0, "row: expected probabilities .* got inf"),
    (named([0, 1], math.inf, -math.inf), 2, "row: expected probabilities .* got nan"),
])
def test_bytes_that_are_no_row_are_refused(packed: bytes, count: int, text: str) -> None:
    with pytest.raises(FrameError, match=text):
        unpack(packed, count, 5)
