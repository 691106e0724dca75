"""The sans-I/O sessions: who may join, what is refused, and what a decoder is given."""

import inspect
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from glsnet.codes import Code, decoding
from glsnet.compression import ACK_FRAMES, DecoderSession, EncoderSession, terms_of
from glsnet.errors import CallerError, FrameError, TermsError
from glsnet.frames import Ack, End, Indices, Join, Terms
from glsnet.randomness import seed_digest, seed_from_integer
from glsnet.sources.gaussian import Gaussian, noisy_observation

SEED = seed_from_integer(7)
SOURCE = Gaussian(0.0, 1.0)
SIDE = partial(noisy_observation, noise_variance=0.5)


def encoder(decoders: int = 2, l_max: int = 8, scheme: str = "gls") -> EncoderSession:
    return EncoderSession("s", Code(SOURCE, scheme, decoders, l_max, sigma2=0.01), SEED)


def joined(party: EncoderSession, seed: bytes = SEED, stream: int | None = None) -> DecoderSession:
    decoder = DecoderSession("s", decoding(SIDE), seed, Terms(), stream)
    ack = decoder.agree(party.join(decoder.join()))
    party.receive(decoder.stream, ack)
    return decoder


def samples(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal(count)
    return a, a + 0.5**0.5 * rng.standard_normal(count)


def test_decoders_get_the_lowest_free_stream_or_the_one_they_ask_for() -> None:
    party = encoder(decoders=3)
    assert [joined(party, stream=stream).stream for stream in (1, None, None)] == [1, 0, 2]
    assert party.complete
    with pytest.raises(TermsError, match="all had joined"):
        joined(party)
    party.leave(1)
    assert not party.complete
    assert joined(party).stream == 1


@pytest.mark.parametrize(("stream", "text"), [(0, "got 0, on which a decoder has joined"), (2, "0 to 1, got 2")])
def test_a_stream_that_cannot_be_had_is_refused(stream: int, text: str) -> None:
    party = encoder()
    joined(party, stream=0)
    with pytest.raises(TermsError, match=text):
        joined(party, stream=stream)


def test_a_decoder_with_another_seed_is_refused_and_no_seed_crosses_the_wire() -> None:
    party = encoder()
    with pytest.raises(TermsError, match="seed_digest") as caught:
        joined(party, seed=seed_from_integer(8))
    assert seed_digest(SEED) in str(caught.value)
    assert SEED.hex() not in str(caught.value)


def test_a_decoder_checks_the_terms_too() -> None:
    terms = replace(terms_of(Code(SOURCE, "gls", 2, 8, sigma2=0.01), SEED), stream=0)
    for bad, error, text in [
        (replace(terms, l_max=16), TermsError, "width"),
        (replace(terms, l_max=0), TermsError, "not possible"),
        (replace(terms, sigma2=-1.0), TermsError, "not possible.*sigma2"),
        (replace(terms, protocol=2), TermsError, "protocol: the encoder has 2, the decoder expects 1"),
        (replace(terms, scheme=None), FrameError, "got none for scheme"),
        (replace(terms, stream=1), TermsError, "stream: expected 0"),
    ]:
        with pytest.raises(error, match=text):
            DecoderSession("s", decoding(SIDE), SEED, Terms(), stream=0).agree(bad)
    with pytest.raises(TermsError, match=r"sigma2: the encoder has 0\.01, the decoder expects 0\.02"):
        DecoderSession("s", decoding(SIDE), SEED, Terms(sigma2=0.02)).agree(terms)


def test_both_schemes_run_and_share_what_they_say_they_share() -> None:
    a, t = samples(400)
    for scheme in ("gls", "baseline"):
        party = encoder(scheme=scheme)
        decoders = [joined(party), joined(party)]
        frame, y = party.encode(a)
        drawn = [decoder.decode(frame, t)[0] for decoder in decoders]
        assert [set(x.stream) for x in drawn] == [{0}, {1} if scheme == "gls" else {0}]
        assert set(y.stream) == ({0, 1} if scheme == "gls" else {0})
        # With the same T, decoders on one stream draw the same; on streams of their own they do not.
        assert (drawn[0].node == drawn[1].node).all() == (scheme == "baseline")
        assert all((x.message == y.message).all() for x in drawn)
        assert party.digest == decoders[0].digest


def test_how_samples_are_cut_into_frames_changes_no_index() -> None:
    a, _ = samples(100)
    whole, parts = encoder(), encoder()
    whole.encode(a)
    for part in np.split(a, [1, 40, 41]):
        parts.encode(part)
    assert whole.digest == parts.digest


def test_a_frame_out_of_order_is_refused_and_the_session_goes_on() -> None:
    party = encoder(decoders=1)
    decoder = joined(party)
    (a, t), frames = samples(30), []
    for part in np.split(a, 3):
        frames.append(party.encode(part)[0])
    decoder.decode(frames[0], t[:10])
    for wrong, text in [(frames[2], "expected 10, the next, got 20"), (frames[0], "expected 10, the next, got 0"),
                        (replace(frames[1], checksum=1), "checksum")]:
        with pytest.raises(FrameError, match=text):
            decoder.decode(wrong, t[10:20])
    with pytest.raises(CallerError, match="expected 10 samples for this frame, got 9"):
        decoder.decode(frames[1], t[10:19])
    with pytest.raises(CallerError, match="centres"):
        decoder.decode(frames[1], np.full(10, np.nan))
    with pytest.raises(FrameError, match="end: expected it after 10 rounds, as they came, got 30"):
        decoder.end(End(30))
    decoder.decode(frames[1], t[10:20])
    decoder.decode(frames[2], t[20:])
    assert decoder.end(party.end()) == Ack(30)
    assert decoder.digest == party.digest


def test_frames_before_terms_are_refused() -> None:
    with pytest.raises(FrameError, match="expected terms before"):
        DecoderSession("s", decoding(SIDE), SEED, Terms()).decode(Indices.of(0, 1, bytes(1)), np.zeros(1))


def test_acks_come_every_few_frames_and_bound_what_is_in_flight() -> None:
    party = encoder(decoders=1)
    decoder = joined(party)
    a, t = samples(3 * ACK_FRAMES)
    acks = []
    for i in range(a.size):
        frame, _ = party.encode(a[i : i + 1])
        _, ack = decoder.decode(frame, t[i : i + 1])
        assert party.frames_in_flight == i % ACK_FRAMES + 1
        if ack is not None:
            acks.append(ack.next_round)
            party.receive(0, ack)
    assert acks == [ACK_FRAMES, 2 * ACK_FRAMES, 3 * ACK_FRAMES]
    assert decoder.end(party.end()) is None  # the encoder, which waits for no more, may have closed the stream
    assert party.frames_in_flight == 0
    for wrong in (Ack(a.size + 1), Ack(a.size - 1)):
        with pytest.raises(FrameError, match=f"next_round from {a.size} to {a.size}, got {wrong.next_round}"):
            party.receive(0, wrong)


def test_no_decoder_joins_a_session_under_way() -> None:
    party = encoder(decoders=1)
    joined(party)
    party.encode(np.zeros(5))
    party.leave(0)
    with pytest.raises(TermsError, match="before round 0"):
        joined(party)


def test_samples_that_cannot_be_coded_leave_the_session_as_it_was() -> None:
    party = encoder(decoders=1)
    for bad in (np.array([0.0, np.nan]), np.array([1e300]), np.empty(0)):
        with pytest.raises(CallerError):
            party.encode(bad)
    assert party.next_round == 0


@pytest.mark.parametrize(("arguments", "text"), [
    (("gls", 0, 8), "decoders"), (("gls", 65537, 8), "decoders"), (("gls", 1, 0), "l_max"),
    (("gls", 1, 65537), "l_max"), (("other", 1, 8), "scheme"), (("gls", 1, 8, -0.1), "sigma2"),
    (("gls", 1, 8, None), "sigma2"), (("gls", 1, 8, math.nan), "sigma2"), (("gls", 1, 8, 0.1, 0.1), "step"),
    (("nested", 1, 8, None, 1e4), "step: expected 1e-09 to 1000"), (("nested", 1, 8, None, 0.0), "step"),
    (("nested", 1, 8, 0.1, 0.1), "sigma2"),
    (("trellis", 1, 3, None, 0.1), "l_max: expected an even number"), (("gls", 1, 8, 0.1, None, "zip"), "packing"),
    (("nested", 1, 8, None, 0.1, "entropy"), "packing"), (("gls", 1, 8192, 0.1, None, "entropy"), "packing"),
    (("posterior-mean", 1, 8, 1e-9), "sigma2: expected at least 1e-06"),
])
def test_codes_out_of_range_are_refused(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(CallerError, match=text):
        Code(SOURCE, *arguments)


def test_a_decoder_is_given_nothing_but_its_t_the_frames_and_the_seed() -> None:
    """Its methods take frames and its own t; and with the same frames, nothing else that Nature knows changes it."""
    taken = {name for method in ("join", "agree", "decode", "end", "check")
             for name in inspect.signature(getattr(DecoderSession, method)).parameters} - {"self"}
    assert taken == {"terms", "frame", "t", "end"}
    assert set(inspect.signature(DecoderSession).parameters) == {"session", "code_of", "seed", "expected", "stream"}
    party = encoder(decoders=2)
    first, _ = joined(party), joined(party)
    a, t = samples(50)
    frame, _ = party.encode(a)
    alone = encoder(decoders=2)
    again = joined(alone, stream=0)  # another process, which has seen no sample at all
    assert (first.decode(frame, t)[0].node == again.decode(frame, t)[0].node).all()


def test_a_join_for_another_session_is_refused() -> None:
    with pytest.raises(TermsError, match="session: the encoder has 's', the decoder expects 'x'"):
        encoder().join(Join("x", None, Terms()))
