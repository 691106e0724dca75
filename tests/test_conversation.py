"""The sessions of Alice and Bob, frame by frame, without a network."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from glsnet.conversation import AliceSession, BobSession, Draw, Drawn, Exchange, terms_of
from glsnet.coupling import SILENT, TALKING, Scheme, alice, bob, converse, keys_of
from glsnet.errors import CallerError, FrameError, GlsnetError, TermsError
from glsnet.frames import Ack, End, Terms, Turn, from_bytes, to_bytes
from glsnet.randomness import seed_from_integer

SEED = seed_from_integer(3)
P, Q = np.random.default_rng(1).dirichlet(np.ones(10), 2)
LOW = Scheme("low-communication", epsilon=0.05)
SCHEMES = [LOW if name == LOW.name else Scheme(name) for name in SILENT + TALKING]


def joined(scheme: Scheme, items: int = 10) -> tuple[BobSession, AliceSession]:
    his, hers = BobSession("s", SEED, scheme, items), AliceSession("s", SEED, Terms())
    his.receive(0, hers.agree(his.join(hers.join())))
    assert his.complete
    return his, hers


def over_the_wire(turns: Iterator[Turn]) -> list[Turn]:
    arrived = [from_bytes(to_bytes(turn)) for turn in turns]
    assert all(isinstance(turn, Turn) for turn in arrived)
    return [turn for turn in arrived if isinstance(turn, Turn)]


def talk(his: Exchange, hers: Exchange) -> tuple[Drawn, Drawn]:
    assert over_the_wire(his.take(None)) == []
    to_bob = over_the_wire(hers.take(None))
    while to_bob:
        to_alice = [answer for turn in to_bob for answer in over_the_wire(his.take(turn))]
        to_bob = [answer for turn in to_alice for answer in over_the_wire(hers.take(turn))]
    assert his.drawn is not None and hers.drawn is not None
    return his.drawn, hers.drawn


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_frames_carry_what_the_halves_say(scheme: Scheme) -> None:
    his, hers = joined(scheme)
    for first_round, rounds, (p, q) in ((0, 300, (P, Q)), (300, 17, (Q, P)), (317, 1, (P, P))):
        his_drawn, her_drawn = talk(his.begin(Draw(rounds, q)), hers.begin(Draw(rounds, p)))
        expected = converse(alice(scheme, keys_of(SEED, "alice"), first_round, rounds, p),
                            bob(scheme, keys_of(SEED, "bob"), first_round, rounds, q))
        assert (his_drawn.items == expected.b).all() and (her_drawn.items == expected.a).all()
        assert his_drawn.indices == her_drawn.indices == expected.indices
        assert his_drawn.bits_sent + her_drawn.bits_sent == pytest.approx(expected.bits)
        his.finish(his_drawn)
        hers.finish(her_drawn)
    his.receive(0, hers.end(his.end()))
    assert his.all_acknowledged == 318


@pytest.mark.parametrize("items", [1, 2, 256, 257])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_any_size_of_alphabet_fits_its_fields(scheme: Scheme, items: int) -> None:
    p, q = np.random.default_rng(items).dirichlet(np.ones(items), 2)
    his, hers = joined(scheme, items)
    his_drawn, her_drawn = talk(his.begin(Draw(50, q)), hers.begin(Draw(50, p)))
    assert (his_drawn.items < items).all() and (her_drawn.items < items).all()


def test_the_bytes_of_turns_are_pinned() -> None:
    """One round of three items, grid 120: an index of 2 bits, a probability of 7 bits, each filled up to a byte."""
    his, hers = joined(Scheme("low-communication", epsilon=0.1), 3)
    (candidates,) = hers.begin(Draw(1, np.array([0.0, 1.0, 0.0]))).take(None)
    assert (candidates.kind, candidates.packed.hex()) == ("candidates", "40" + "f0")
    exchange = his.begin(Draw(1, np.array([0.0, 1.0, 0.0])))
    assert list(exchange.take(None)) == []
    (verdicts,) = exchange.take(candidates)
    assert (verdicts.kind, verdicts.packed.hex()) == ("verdicts", "80")
    assert to_bytes(verdicts).hex() == "4a0a" + "1001" + "1a0180" + "25" + verdicts.checksum.to_bytes(4, "little").hex()
    _, hers = joined(Scheme("whole-distribution"), 2)
    (everything,) = hers.begin(Draw(1, np.array([0.0, 1.0]))).take(None)
    assert everything.packed.hex() == "80" + "0000000000000000" + "000000000000f03f"


@pytest.mark.parametrize(("change", "error", "text"), [
    ({"scheme": "best"}, TermsError, "not possible: scheme"), ({"scheme": None}, FrameError, "got none for scheme"),
    ({"items": None}, FrameError, "got none for items"), ({"items": 2**20}, TermsError, "not possible: items"),
    ({"epsilon": None}, TermsError, "not possible: epsilon"), ({"epsilon": 1e-300}, TermsError, "not possible"),
    ({"decoders": 2}, TermsError, "not possible: decoders"), ({"seed_digest": "0" * 16}, TermsError, "seed_digest"),
    ({"items": 11}, TermsError, "items: the encoder has 11, the decoder expects 10"),
    ({"epsilon": 0.1}, TermsError, "epsilon: the encoder has 0.1, the decoder expects 0.05"),
    ({"protocol": 9}, TermsError, "protocol"), ({"stream": 1}, TermsError, "stream: expected 0, as asked for, got 1"),
])
def test_alice_refuses_terms_that_are_not_hers(change: dict[str, object], error: type[GlsnetError], text: str) -> None:
    terms = terms_of(LOW, 10, SEED)
    hers = AliceSession("s", SEED, terms, 0)
    with pytest.raises(error, match=text):
        hers.agree(replace(replace(terms, stream=0), **change))  # type: ignore[arg-type]


def test_batches_that_are_out_of_range_are_refused_and_leave_the_session_as_it_was() -> None:
    his, hers = joined(LOW)
    for session in (his, hers):
        for draw, text in ((Draw(0, P), "rounds"), (Draw(2**17, P), "rounds"), (Draw(1, P[:9]), "10 probabilities")):
            with pytest.raises(CallerError, match=text):
                session.begin(draw)
        with pytest.raises(CallerError, match=r"\[0\]: expected a finite probability of at least 0, got -1.0"):
            list(session.begin(Draw(1, np.full(10, -1.0))).take(None))
    talk(his.begin(Draw(5, Q)), hers.begin(Draw(5, P)))


def test_what_comes_out_of_order_is_refused() -> None:
    his, hers = joined(LOW)
    with pytest.raises(FrameError, match="end: expected it after 0 rounds, as drawn here, got 7"):
        hers.end(End(7))
    (offer,) = hers.begin(Draw(5, P)).take(None)
    his.receive(0, offer)
    with pytest.raises(FrameError, match="turn: expected no more after 0 rounds, got candidates"):
        his.end()
    exchange = his.begin(Draw(5, Q))
    assert list(exchange.take(None)) == []
    with pytest.raises(FrameError, match="first_round: expected 0, of the batch, got 1"):
        list(exchange.take(replace(offer, first_round=1)))
    with pytest.raises(FrameError, match="checksum"):
        list(exchange.take(replace(offer, checksum=1)))
    silent, _ = joined(Scheme("gumbel"))
    with pytest.raises(FrameError, match="expected ack or refusal after join, got Turn"):
        silent.receive(0, offer)
    with pytest.raises(FrameError, match="terms before anything else"):
        AliceSession("s", SEED, Terms()).begin(Draw(1, P))
    done = silent.begin(Draw(5, Q))
    assert list(done.take(None)) == []
    with pytest.raises(FrameError, match="turn: expected no more of these rounds, got candidates"):
        list(done.take(offer))


def test_bob_takes_only_a_few_turns_ahead() -> None:
    his, hers = joined(Scheme("whole-distribution"))
    turns = hers.begin(Draw(10, P)).take(None)
    taken = 0
    while his.ready:
        his.receive(0, next(turns))
        taken += 1
    assert taken == 4


def test_an_alice_that_has_not_agreed_cannot_speak() -> None:
    his = BobSession("s", SEED, LOW, 10)
    his.join(AliceSession("s", SEED, Terms()).join())
    with pytest.raises(FrameError, match="expected ack or refusal after join, got Turn"):
        his.receive(0, Turn.of("verdicts", 0, 1, b"\x80"))
    his.receive(0, Ack(0))
