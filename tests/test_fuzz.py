"""Wrong inputs into every entry point: nothing but a GlsnetError comes out, and services serve on.

`make fuzz` does the same a million times over. Whatever it has found is here once more, in a test of its own.
"""

import asyncio
import logging
import random
import threading
import time
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fuzz import Input, input_of, play
from fuzz_services import fuzz
from fuzzed import CODES, OPEN, SEED, P, Scripted, entries, others
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated, repaired

from glsnet.compression import EncoderSession
from glsnet.conversation import AliceSession
from glsnet.drafting import DraftSession
from glsnet.errors import CallerError, DamageError, FrameError, GlsnetError, PeerError, TermsError
from glsnet.frames import (
    MAX_COUNT,
    MAX_OTHER_BYTES,
    NO_TRAFFIC,
    Ack,
    Indices,
    Join,
    Prompt,
    Row,
    Spent,
    Terms,
    Traffic,
    checksum_of,
    from_bytes,
    terms_to_proto,
    to_bytes,
)
from glsnet.generation import MAX_STOP, Request, Writer
from glsnet.images import code as image_code
from glsnet.images import model as image_model
from glsnet.language.synthetic import LettersTokenizer, SyntheticModel
from glsnet.randomness import MAX_ROUNDS, seed_digest
from glsnet.speculation import TargetSession
from glsnet.transport import control
from glsnet.transport.journal import recorded
from glsnet.transport.meter import Meter
from glsnet.transport.records import outcomes_from_proto
from glsnet.transport.rpc import GrpcNet
from glsnet.v1 import control_pb2

FRAMES = [said for (said,) in entries()["frame"].valid]
MODEL = SyntheticModel(1, 0.0, 32, 64)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What is refused is logged, a line each."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@contextmanager
def little_memory() -> Iterator[None]:
    """At most 16 MB more at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 24, f"{peak} bytes"


def still() -> float:
    return 0.0


def test_nothing_but_a_glsnet_error_comes_of_three_thousand_inputs() -> None:
    played = Counter[str]()
    outcomes = Counter[str]()
    for number in range(3000):
        wrong = input_of(1, number)
        played[wrong.entry] += 1
        outcomes[play(wrong)] += 1
    assert played.keys() == entries().keys()
    assert min(outcomes[kind] for kind in ("taken", "DamageError", "FrameError", "TermsError", "CallerError")) > 10


def test_what_inputs_are_made_of_is_right() -> None:
    """An encoder, and a target, wait for a decoder that leaves early, as those here do; and one of them refuses."""
    outcomes = {name: {play(Input(name, choice, said)) for choice, said in enumerate(entry.valid)}
                for name, entry in entries().items()}
    left = {"encoder": {"taken", "FrameError"}, "join": {"taken", "FrameError"}}
    assert outcomes == {name: left.get(name, {"taken"}) for name in entries()}


def test_an_input_is_the_same_again() -> None:
    assert [input_of(7, number) for number in range(50)] == [input_of(7, number) for number in range(50)]


@given(st.integers(0, 1 << 40), st.sampled_from(FRAMES))
@settings(max_examples=500, deadline=None)
def test_a_frame_that_is_taken_is_the_same_after_another_way(seed: int, data: bytes) -> None:
    """Whatever its bytes were; and with its checks right it is not taken for a damaged one."""
    wrong = repaired(mutated(random.Random(seed), data, others()))
    try:
        frame = from_bytes(wrong)
    except GlsnetError as error:
        assert "checksum" not in str(error)
    else:
        assert repr(from_bytes(to_bytes(frame))) == repr(frame)  # NaN is not equal to itself


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_bytes_are_a_frame_or_damaged(data: bytes) -> None:
    with pytest.raises(DamageError):
        from_bytes(data)


# Numbers that would take gigabytes are refused before they do.

HUGE = (1 << 31, (1 << 32) - 1)


@pytest.mark.parametrize("huge", HUGE)
def test_huge_terms_are_refused_by_decoders(huge: int) -> None:
    """Those of a code, of a coupling, of a vocabulary, and of images."""
    code = replace(CODES[0].terms(), protocol=2, seed_digest=seed_digest(SEED), stream=0)
    coupling = Terms(2, seed_digest(SEED), "gls", 1, items=P.size, stream=0)
    drafter = DraftSession(MODEL, SEED, [0], still)
    language = TargetSession(MODEL, SEED, 1, still).join(drafter.join())
    model = image_model.load("digits")
    beta = min(model.betas)
    images = Terms(scheme="gls", decoders=2, l_max=4, candidates=64, beta=beta)
    image_code.code_of(images, model, still)
    with little_memory():
        for terms in (replace(code, decoders=huge), replace(code, l_max=huge), replace(code, width=huge)):
            with pytest.raises(PeerError):
                entries()["decoder"].play(0, [to_bytes(terms)])
        for terms in (replace(coupling, decoders=huge), replace(coupling, items=huge)):
            with pytest.raises(PeerError):
                AliceSession(OPEN, SEED, Terms()).agree(terms)
        with pytest.raises(PeerError):
            drafter.agree(replace(language, items=huge))
        for terms in (replace(images, decoders=huge), replace(images, l_max=huge), replace(images, candidates=huge)):
            with pytest.raises(CallerError):
                image_code.code_of(terms, model, still)


@pytest.mark.parametrize("huge", HUGE)
def test_huge_counts_are_refused(huge: int) -> None:
    session = EncoderSession(OPEN, CODES[0], SEED)
    target, drafter = TargetSession(MODEL, SEED, 2, still), DraftSession(MODEL, SEED, [0], still)
    drafter.agree(target.join(drafter.join()))
    prompt = Prompt(0, 0, "gls", 1, 3, 12, (1.0,), 0, 1.0, 2, b"\0\0", checksum_of(0, 2, b"\0\0"))
    with little_memory():
        for frame in (Indices.of(0, huge, b"1"), Indices.of(huge, huge, b"")):
            with pytest.raises(FrameError):
                from_bytes(to_bytes(frame))
        for join in (Join(OPEN, huge, Terms()), Join(OPEN, None, Terms(decoders=huge))):
            with pytest.raises(PeerError):
                session.join(join)
        with pytest.raises(PeerError):
            target.join(Join("speculation", None, Terms(), (huge, huge - 1)))
        with pytest.raises(FrameError, match=str(MAX_OTHER_BYTES)):
            from_bytes(to_bytes(Join(OPEN, None, Terms(), tuple(range(5000)))))
        for wrong in (replace(prompt, drafts=huge), replace(prompt, length=huge), replace(prompt, made=huge),
                      replace(prompt, top_k=huge), replace(prompt, ahead=huge),
                      replace(prompt, count=huge, checksum=checksum_of(0, huge, b"\0\0"))):
            with pytest.raises(FrameError):
                list(drafter.receive(wrong))
        for row in (Row(0, 2, 0, 0, huge, b"", 0), Row(0, 2, huge, huge, 0, b"", 0)):
            generation = target.begin(Request("ab", 12, scheme="specinfer", drafts=2))
            with pytest.raises(FrameError):
                generation.receive(0, row)


@pytest.mark.parametrize("huge", HUGE)
def test_huge_orders_are_refused(huge: int) -> None:
    for terms in (replace(CODES[0].terms(), decoders=huge), replace(CODES[0].terms(), l_max=huge),
                  Terms(scheme="gls", decoders=huge, items=8), Terms(scheme="gumbel", decoders=1, items=huge)):
        with little_memory(), pytest.raises(GlsnetError):
            ordered(control_pb2.Open(session=OPEN, seed=SEED, terms=terms_to_proto(terms)))


def ordered(order: control_pb2.Open) -> None:
    """An encoder is ordered to open a session."""
    pipe = Scripted([control_pb2.Order(open=order).SerializeToString()])
    asyncio.run(control.conduct_encoder(pipe, {}, control.Own(patience=0.0)))


# What was found.


@pytest.mark.parametrize("entry", ["decoder", "alice", "drafter"])
def test_a_stream_that_is_none_is_the_encoders_fault_and_found_at_once(entry: str) -> None:
    """A decoder only found it with its first frame, and blamed its caller."""
    terms = from_bytes(entries()[entry].valid[0][0])
    assert isinstance(terms, Terms) and terms.decoders is not None
    with pytest.raises(TermsError, match=f"stream: expected one of 0 to {terms.decoders - 1}, got {terms.decoders}"):
        entries()[entry].play(0, [to_bytes(replace(terms, stream=terms.decoders))])


@pytest.mark.parametrize("patience", [float("nan"), float("inf"), -1.0])
def test_a_patience_that_is_no_time_is_refused(patience: float) -> None:
    """One that is not a number would put all that an event loop waits for out of order."""
    with pytest.raises(CallerError, match="patience: expected seconds"):
        ordered(control_pb2.Open(session=OPEN, seed=SEED, terms=terms_to_proto(CODES[0].terms()), patience=patience))


def test_no_round_is_beyond_32_bits() -> None:
    """A decoder that was told of a loss up to there asked for a round that no field holds."""
    last = Indices.of(MAX_ROUNDS - 5, 5, bytes(2))
    assert from_bytes(to_bytes(last)) == last
    with pytest.raises(FrameError, match="first_round: expected rounds within 0 to 4294967295"):
        from_bytes(to_bytes(Indices.of(MAX_ROUNDS - 4, 5, bytes(2))))
    for code in CODES:
        with pytest.raises(CallerError, match="start a new session"):
            EncoderSession(OPEN, code, SEED, MAX_ROUNDS - 4).encode(np.zeros(5))


@pytest.mark.parametrize("spent", [
    Spent(0, 0.5, Traffic(1, (1 << 64) - 1, 1, 1), NO_TRAFFIC, True),
    Spent(0, 0.5, NO_TRAFFIC, Traffic(1, 1, 1, (1 << 64) - 1), True),
    Spent(0, float("nan"), NO_TRAFFIC, NO_TRAFFIC, True),
    Spent(0, -1.0, NO_TRAFFIC, NO_TRAFFIC, True),
])
def test_what_a_draft_server_says_it_spent_can_be_summed(spent: Spent) -> None:
    """The client was sent no end of its request."""
    target = TargetSession(MODEL, SEED, 1, still)
    target.join(DraftSession(MODEL, SEED, [0], still).join())
    target.receive(0, Ack(0))
    generation = target.begin(Request("ab", 3))
    generation.stop("length")
    with pytest.raises(FrameError, match="spent: expected seconds"):
        target.receive(0, spent)


def test_a_long_stop_text_takes_no_longer_than_the_text() -> None:
    """Each of its beginnings was looked for after each token: for minutes, with a million of them."""
    writer, since = Writer(LettersTokenizer(32), ["!" * 1_000_000]), time.perf_counter()
    assert [writer.write(0) for _ in range(100)] == [("", False)] * 100
    assert writer.write(1) == ("!" * 100 + '"', False)
    assert time.perf_counter() - since < 10
    with pytest.raises(CallerError, match=f"stop: expected at most {MAX_STOP} texts, got {MAX_STOP + 1}"):
        Request("ab", stop=("stop",) * (MAX_STOP + 1))


def test_a_journal_whose_last_length_is_damaged_is_cut_there(tmp_path: Path) -> None:
    """Room was made for as much as the length said."""
    wrong = rewritten(tmp_path, lambda data: data + b"\xff\xff\xff\xff\1\2\3\4" + bytes(20))
    with little_memory(), recorded(tmp_path, OPEN, seed_digest(SEED)) as journal:
        assert list(journal) == []
    assert wrong.stat().st_size < 100


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    """Even if its checksums are right."""
    rewritten(tmp_path, lambda data: data + record(b"\xff"))
    with recorded(tmp_path, OPEN, seed_digest(SEED)) as journal, pytest.raises(CallerError, match="something else"):
        list(journal)
    rewritten(tmp_path, lambda _: record(b"\xff"))
    with pytest.raises(CallerError, match="something else"), recorded(tmp_path, OPEN, seed_digest(SEED)):
        pass


def rewritten(folder: Path, change: Callable[[bytes], bytes]) -> Path:
    """The file of an empty journal, changed."""
    for old in folder.iterdir():
        old.unlink()
    with recorded(folder, OPEN, seed_digest(SEED)):
        pass
    path, = folder.iterdir()
    path.write_bytes(change(path.read_bytes()))
    return path


def record(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + zlib.crc32(data).to_bytes(4, "little") + data


@pytest.mark.parametrize(("count", "pixels"), [(0, 8), (2, 7), (2, 12)])
def test_pixels_that_are_not_those_of_so_many_images_are_refused(count: int, pixels: int) -> None:
    with pytest.raises(FrameError, match="pixels: expected"):
        outcomes_from_proto(control_pb2.Outcomes(count=count, message=bytes(8 * count), stream=bytes(8 * count),
                                                 node=bytes(8 * count), pixels=bytes(pixels)))


def test_a_short_frame_of_many_rounds_is_soon_refused() -> None:
    """Entropy-coded rounds may take few bits, but each took a chance of every message before the first was decoded."""
    terms, *_ = next(said for said in entries()["decoder"].valid if b"entropy" in said[0])
    since = time.perf_counter()
    with pytest.raises(FrameError, match="go on, or break off"):
        entries()["decoder"].play(0, [terms, to_bytes(Indices.of(0, MAX_COUNT, bytes(8)))])
    assert time.perf_counter() - since < 10  # all chances take a minute


@pytest.mark.parametrize("host", ["a..b", "\0", "x" * 70])
def test_a_peer_whose_name_can_be_none_is_not_there(host: str) -> None:
    """Each try ended in a traceback."""
    unhandled: list[object] = []

    async def dialled() -> bytes:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        async with Meter(f"{host}:1") as meter:
            reader, writer = await asyncio.open_connection(*meter.address.split(":"))
            said = await reader.read()
            writer.close()
        return said

    assert asyncio.run(dialled()) == b""
    assert not unhandled


def test_computing_does_not_wait_for_the_names_of_peers() -> None:
    """They are looked up in threads of the loop's own, and as many orders can name peers that nobody knows."""
    async def computed() -> int:
        loop, known = asyncio.get_running_loop(), threading.Event()
        lookups = [loop.run_in_executor(None, known.wait) for _ in range(100)]
        try:
            return await asyncio.wait_for(GrpcNet("/").compute(sum, (1, 2)), 30)
        finally:
            known.set()
            await asyncio.gather(*lookups)

    assert asyncio.run(computed()) == 3


def test_services_serve_on_whatever_comes() -> None:
    """Wrong conversations in calls, and raw bytes: what comes of a run and of a request afterwards is the same."""
    for name, before, after in asyncio.run(fuzz(60, 1)):
        assert after.files <= before.files + 8, name
        assert after.threads <= before.threads + 8, name  # threads that compute are made when they are needed
        assert after.megabytes < before.megabytes + 100, name
