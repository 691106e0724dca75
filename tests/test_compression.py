"""The sans-I/O sessions: who may join, what is refused, and what a decoder is given."""

import inspect
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from glsnet.codes import Code, decoding
from glsnet.compression import ACK_FRAMES, WINDOW_FRAMES, DecoderSession, EncoderSession, terms_of
from glsnet.errors import CallerError, DamageError, FrameError, TermsError
from glsnet.frames import PROTOCOL, Ack, End, Indices, Join, Terms
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
        (replace(terms, protocol=1), TermsError, f"protocol: the encoder has 1, the decoder expects {PROTOCOL}"),
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
    """What may have been lost or damaged on the way is DamageError, after which a decoder joins again."""
    party = encoder(decoders=1)
    decoder = joined(party)
    (a, t), frames = samples(30), []
    for part in np.split(a, 3):
        frames.append(party.encode(part)[0])
    assert [party.outgoing(0) for _ in range(4)] == [*frames, None]
    decoder.decode(frames[0], t[:10])
    for wrong, error, text in [
        (frames[2], DamageError, "expected 10, the next, got 20"), (frames[0], FrameError, "expected 10, .*, got 0"),
        (replace(frames[1], checksum=1), DamageError, "checksum"),
    ]:
        with pytest.raises(FrameError, match=text) as caught:
            decoder.decode(wrong, t[10:20])
        assert caught.type is error
    with pytest.raises(CallerError, match="expected 10 samples for this frame, got 9"):
        decoder.decode(frames[1], t[10:19])
    with pytest.raises(CallerError, match="centres"):
        decoder.decode(frames[1], np.full(10, np.nan))
    for rounds, error in [(30, DamageError), (5, FrameError)]:
        with pytest.raises(FrameError, match=f"end: expected it after 10, the next, got {rounds}") as caught:
            decoder.end(End(rounds))
        assert caught.type is error
    assert not decoder.ended
    decoder.decode(frames[1], t[10:20])
    decoder.decode(frames[2], t[20:])
    assert decoder.end(party.end()) == Ack(30)
    assert decoder.ended
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
        party.encode(a[i : i + 1])
        frame = party.outgoing(0)
        assert isinstance(frame, Indices)
        _, ack = decoder.decode(frame, t[i : i + 1])
        if ack is not None:
            acks.append(ack.next_round)
            party.receive(0, ack)
    assert acks == [ACK_FRAMES, 2 * ACK_FRAMES, 3 * ACK_FRAMES]
    assert not party.finished
    assert decoder.end(party.end()) is None  # the encoder, which waits for no more, may have closed the stream
    assert party.outgoing(0) == End(a.size)
    assert party.finished == {0}
    for wrong in (Ack(a.size + 1), Ack(a.size - 1)):
        with pytest.raises(FrameError, match=f"next_round from {a.size} to {a.size}, got {wrong.next_round}"):
            party.receive(0, wrong)


def test_a_decoder_is_sent_a_window_beyond_its_last_ack_and_acknowledges_no_more_than_it_was_sent() -> None:
    party = encoder(decoders=1)
    assert not party.open
    decoder = joined(party)
    a, t = samples(WINDOW_FRAMES + 1)
    for i in range(WINDOW_FRAMES):
        assert party.open
        party.encode(a[i : i + 1])
    assert not party.open
    with pytest.raises(FrameError, match="next_round from 0 to 0, got 1"):
        party.receive(0, Ack(1))
    party.encode(a[-1:])
    sent = [party.outgoing(0) for _ in range(a.size)]
    assert sent[-1] is None and None not in sent[:-1]
    for i, frame in enumerate(sent[:ACK_FRAMES]):
        assert isinstance(frame, Indices)
        _, ack = decoder.decode(frame, t[i : i + 1])
    assert ack == Ack(ACK_FRAMES)
    party.receive(0, ack)
    assert party.open
    assert isinstance(party.outgoing(0), Indices)


def test_a_decoder_may_join_a_session_under_way_and_gets_all_rounds() -> None:
    party = encoder(decoders=2)
    joined(party)
    a, t = samples(50)
    for part in np.split(a, 5):
        party.encode(part)
    party.leave(0)
    party.end()
    late = joined(party, stream=0)
    while not isinstance(frame := party.outgoing(0), End):
        assert isinstance(frame, Indices)
        late.decode(frame, t[late.next_round :][: frame.count])
    last = late.end(frame)
    assert last == Ack(50) and late.digest == party.digest
    party.receive(0, last)
    assert party.finished == {0}


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
    """Its methods take frames and its own t; and with the same frames, nothing else that Nature knows changes it.

    `restore` takes what it has itself recorded.
    """
    methods = [name for name, _ in inspect.getmembers(DecoderSession, inspect.isfunction) if not name.startswith("_")]
    taken = {name: set(inspect.signature(getattr(DecoderSession, name)).parameters) - {"self"} for name in methods}
    assert taken.pop("restore") == {"outcomes"}
    assert set.union(*taken.values()) == {"terms", "frame", "t", "end", "lost"}
    assert set(inspect.signature(DecoderSession).parameters) == {"session", "code_of", "seed", "expected", "stream",
                                                                 "next_round", "party"}
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
