"""Entropy-coded messages: how few bytes they take, and that no bytes whatever bring a decoder down."""

from functools import cache

import numpy as np
import pytest
from coded import SIDE_OF, code, samples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from glsnet import entropy
from glsnet.codes import decoding
from glsnet.compression import DecoderSession, EncoderSession
from glsnet.errors import FrameError, TermsError
from glsnet.frames import Indices, Terms, from_bytes, to_bytes
from glsnet.randomness import seed_from_integer, session_key

SEED = seed_from_integer(7)
KEY = session_key(SEED, "gaussian-race")
TOTAL = 2**16
ROUNDS = 25


def spread(kind: str, messages: int) -> NDArray[np.float64]:
    """A few rows of chances."""
    match kind:
        case "one-hot":
            return np.eye(messages)[[0, messages // 2, messages - 1]]
        case "uniform":
            return np.full((3, messages), 1 / messages)
        case "uneven":
            return np.random.default_rng(1).dirichlet(np.full(messages, 0.02), 20)
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["one-hot", "uniform", "uneven"])
@pytest.mark.parametrize("messages", [2, 3, 64, 1000, 4096])
def test_frequencies_are_whole_at_least_1_and_sum_to_2_to_the_16(kind: str, messages: int) -> None:
    chances = spread(kind, messages)
    for factor in (1.0, 1 - 1e-12, 1 + 1e-12):  # rows sum to 1 up to rounding
        found = entropy.frequencies(chances * factor)
        assert (found == np.floor(found)).all()
        assert found.min() >= 1
        assert (found.sum(axis=1, dtype=np.float64) == TOTAL).all()
        # None is far from its share of what is left when each message has its 1, but the likeliest has the rest.
        off = np.abs(found - 1 - chances * (TOTAL - messages))
        likeliest = chances.argmax(axis=1)
        assert (off[np.arange(len(off)), likeliest] <= messages).all()
        off[np.arange(len(off)), likeliest] = 0.0
        assert off.max() <= 1


@pytest.mark.parametrize("kind", ["one-hot", "uniform", "uneven"])
@pytest.mark.parametrize("messages", [2, 3, 64, 4096])
def test_any_messages_come_back_even_those_thought_impossible(kind: str, messages: int) -> None:
    chances = np.tile(spread(kind, messages), (10, 1))
    coded = np.random.default_rng(2).integers(0, messages, len(chances))
    packed = entropy.encode(coded, [chances[:7], chances[7:]])
    assert (entropy.decode(packed, [chances[:7], chances[7:]]) == coded).all()


@given(st.integers(2, 70).flatmap(lambda messages: st.lists(
    st.tuples(st.integers(0, messages - 1),
              st.lists(st.floats(0, 1), min_size=messages, max_size=messages).filter(lambda row: sum(row) > 1e-3)),
    min_size=1, max_size=6)))
@settings(max_examples=60, deadline=None)
def test_any_messages_of_any_chances_come_back(rounds: list[tuple[int, list[float]]]) -> None:
    messages, chances = np.array([message for message, _ in rounds]), np.array([row for _, row in rounds])
    chances /= chances.sum(axis=1, keepdims=True)
    frequencies = entropy.frequencies(chances)
    assert frequencies.min() >= 1 and (frequencies.sum(axis=1) == TOTAL).all()
    assert (entropy.decode(entropy.encode(messages, [chances]), [chances]) == messages).all()


def joined(party: EncoderSession, packing: str | None = None) -> DecoderSession:
    decoder = DecoderSession("s", decoding(SIDE_OF), SEED, Terms(packing=packing))
    ack = decoder.agree(party.join(decoder.join()))
    party.receive(decoder.stream, ack)
    return decoder


@pytest.mark.parametrize("decoders", [1, 2])
def test_what_is_sent_is_what_the_frequencies_say_and_less_than_a_fixed_width(decoders: int) -> None:
    of = code("gls", decoders, 64, 0.001, "entropy")
    a, _ = samples(400, 1, 3)
    messages, _ = of.encode(KEY, 0, a)
    packed = of.pack(KEY, 0, messages)
    used = entropy.frequencies(of.message_probabilities(KEY, 0, a.size))[np.arange(a.size), messages]
    information = -np.log2(used / TOTAL).sum() / 8
    assert information - 8 <= len(packed) <= 1.02 * information + 8
    assert len(packed) < len(code("gls", decoders, 64, 0.001).pack(KEY, 0, messages)) == 6 * a.size // 8


@cache
def frame_and_its_messages() -> tuple[Indices, NDArray[np.int64]]:
    party = EncoderSession("s", code("gls", 1, 16, 0.01, "entropy"), SEED)
    joined(party)
    frame, outcomes = party.encode(samples(ROUNDS, 1, 4)[0])
    return frame, outcomes.message


def fresh_decoder() -> DecoderSession:
    return joined(EncoderSession("s", code("gls", 1, 16, 0.01, "entropy"), SEED))


def decoded_or_refused(packed: bytes) -> None:
    """With a right checksum: messages below l_max, or a FrameError that leaves the session able to go on."""
    frame, messages = frame_and_its_messages()
    data = from_bytes(to_bytes(Indices.of(0, ROUNDS, packed)))
    assert isinstance(data, Indices)
    decoder, t = fresh_decoder(), samples(ROUNDS, 1, 4)[1][:, 0]
    try:
        outcomes, _ = decoder.decode(data, t)
    except FrameError:
        outcomes, _ = decoder.decode(frame, t)
        assert (outcomes.message == messages).all()
    else:
        assert outcomes.message.min() >= 0 and outcomes.message.max() < 16
        assert outcomes.reconstruction is not None and np.isfinite(outcomes.reconstruction).all()


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=5), st.integers(0, 40),
       st.binary(max_size=12))
@settings(max_examples=100, deadline=None)
def test_a_damaged_frame_is_refused_or_other_messages(edits: list[tuple[int, int]], cut: int, more: bytes) -> None:
    packed = bytearray(frame_and_its_messages()[0].packed)
    for at, flip in edits:
        packed[at % len(packed)] ^= flip
    decoded_or_refused(bytes(packed[: len(packed) - cut]) + more)


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_refused_or_messages(packed: bytes) -> None:
    decoded_or_refused(packed)


@pytest.mark.parametrize("packed", [b"", bytes(4), bytes(400), b"\xff" * 4, b"\xff" * 400, b"\x00" * 3 + b"\xff"])
def test_extreme_bytes_are_refused_or_messages(packed: bytes) -> None:
    decoded_or_refused(packed)


def test_a_frame_that_is_cut_within_a_word_is_refused() -> None:
    frame, _ = frame_and_its_messages()
    t = samples(ROUNDS, 1, 4)[1][:, 0]
    with pytest.raises(FrameError, match="expected whole words of 4 bytes, got"):
        fresh_decoder().decode(Indices.of(0, ROUNDS, frame.packed[:-1]), t)
    damaged = Indices(0, ROUNDS, frame.packed[:-4], frame.checksum)
    with pytest.raises(FrameError, match="checksum"):
        fresh_decoder().decode(damaged, t)


@pytest.mark.parametrize(("packing", "other"), [("fixed", "entropy"), ("entropy", "fixed")])
def test_the_packing_is_a_term_that_a_decoder_may_insist_on(packing: str, other: str) -> None:
    party = EncoderSession("s", code("gls", 1, 16, 0.01, packing), SEED)
    with pytest.raises(TermsError, match="packing"):
        joined(party, other)
    assert joined(party, packing).stream == 0


def test_bytes_that_go_on_or_break_off_are_refused() -> None:
    chances = np.tile(spread("uneven", 64), (10, 1))
    packed = entropy.encode(np.random.default_rng(2).integers(0, 64, len(chances)), [chances])
    for wrong in (packed + bytes(4), packed + bytes(400), packed[:-4], b"", packed[:-1]):
        with pytest.raises(FrameError, match="packed indices: expected"):
            entropy.decode(wrong, [chances])
