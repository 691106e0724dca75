"""Services as processes: health, signals, the codec without a lab, and peers that break the protocol."""

import asyncio
import csv
import queue
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from helpers import assert_at_least
from processes import Service, at_once, service

from glsnet import bits, conversation
from glsnet.bits import pack
from glsnet.codes import Code
from glsnet.compression import terms_of
from glsnet.conversation import Draw
from glsnet.coupling import Scheme
from glsnet.errors import DamageError, FrameError, GlsnetError, TermsError, TransportError
from glsnet.frames import Ack, End, Frame, Indices, Join, Refusal, Terms, Turn, TurnKind, from_bytes, to_bytes
from glsnet.joining import PARTY_BYTES
from glsnet.randomness import seed_from_integer
from glsnet.sources.gaussian import Gaussian, SideInformation
from glsnet.transport import rpc
from glsnet.transport.control import DecoderOrder, Resume, Session, conducting
from glsnet.transport.exchange import CODEC, METHOD
from glsnet.transport.security import Security

SEED = seed_from_integer(7)
TERMS = terms_of(Code(Gaussian(0.0, 1.0), "gls", 2, 6, 0.01), SEED)
SERVING = health_pb2.HealthCheckResponse.SERVING


def health(address: str, name: str = "") -> int:
    with grpc.insecure_channel(address) as channel:
        status: int = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service=name), timeout=10
        ).status
        return status


@pytest.mark.parametrize(("module", "names"), [
    ("encoder_service", ["", "glsnet.v1.Exchange", "glsnet.v1.Control"]),
    ("decoder_service", ["", "glsnet.v1.Control"]),
])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_service_answers_health_checks_and_stops_cleanly(module: str, names: list[str], signum: int) -> None:
    with service(module) as party:
        assert [health(party.address, name) for name in names] == [SERVING] * len(names)
        code, log = party.stop(signum)
    assert code == 0
    assert log.splitlines()[-1].endswith("stopped")
    assert "Traceback" not in log


class Peer:
    """A decoder by hand: frames, or bytes that are none, to an encoder service."""

    def __init__(self, address: str) -> None:
        self._outgoing: queue.Queue[bytes | None] = queue.Queue()
        self._channel = grpc.insecure_channel(address)
        stub: Any = self._channel.stream_stream(METHOD, bytes, bytes)
        self._call = stub(iter(self._outgoing.get, None), timeout=60)

    def send(self, frame: Frame | bytes) -> None:
        self._outgoing.put(frame if isinstance(frame, bytes) else to_bytes(frame))

    def receive(self) -> Frame:
        return from_bytes(next(self._call))

    def status(self) -> tuple[grpc.StatusCode, str]:
        """How the encoder ended the stream, whatever came before."""
        for _ in iter(lambda: next(self._ignoring_errors(), None), None):
            pass
        return self._call.code(), self._call.details()

    def _ignoring_errors(self) -> Iterator[bytes]:
        try:
            yield from self._call
        except grpc.RpcError:
            return

    def leave(self) -> None:
        self._call.cancel()
        self._channel.close()


def joined(address: str, stream: int | None = None) -> Peer:
    peer = Peer(address)
    peer.send(Join(CODEC, stream, Terms()))
    assert isinstance(peer.receive(), Terms)
    peer.send(Ack(0))
    return peer


@pytest.fixture
def sample_files(tmp_path: Path) -> tuple[Path, list[Path]]:
    rng = np.random.default_rng(11)
    a = 5 + 2 * rng.standard_normal(3000)
    source, sides = tmp_path / "a.txt", [tmp_path / f"t{k}.txt" for k in range(2)]
    np.savetxt(source, a)
    for side in sides:
        np.savetxt(side, a + rng.standard_normal(a.size))
    return source, sides


def encoder_of(source: Path, *options: str) -> Service:
    return Service("encoder_service", "--source", str(source), "--seed", "7", "--decoders", "2", "--sigma2", "0.01",
                   "--l-max", "6", "--frame", "100", *options)


def decoder_of(address: str, side: Path, output: Path, *options: str) -> Service:
    return Service("decoder_service", "--encoder", address, "--side-information", str(side), "--output", str(output),
                   "--seed", "7", "--noise-variance", "1", *options)


def test_a_codec_needs_no_lab(sample_files: tuple[Path, list[Path]], tmp_path: Path) -> None:
    source, sides = sample_files
    encoder = encoder_of(source)
    decoders = [decoder_of(encoder.address, side, tmp_path / f"out{k}.csv") for k, side in enumerate(sides)]
    endings = [party.ended() for party in (encoder, *decoders)]
    assert [code for code, _ in endings] == [0, 0, 0], "\n".join(log for _, log in endings)
    a, errors = np.loadtxt(source), []
    for k in range(2):
        with (tmp_path / f"out{k}.csv").open() as handle:
            rows = list(csv.DictReader(handle))
        assert [int(row["round"]) for row in rows] == list(range(a.size))
        assert {int(row["index"]) for row in rows} == set(range(6))
        errors.append((np.array([float(row["reconstruction"]) for row in rows]) - a) ** 2)
    best = np.min(errors, axis=0) / a.var()
    assert (best < 0.05).mean() > 0.6
    for _, log in endings:  # events, not messages: there were 30 frames
        assert len(log.splitlines()) <= 6
        assert "seed_digest" in log and "stopped" in log


def test_decoders_that_mean_another_session_end_with_an_error(sample_files: tuple[Path, list[Path]], tmp_path: Path
                                                             ) -> None:
    source, sides = sample_files
    wrong = {"seed": "8", "decoders": "3", "l-max": "8", "sigma2": "0.02", "mean": "0", "variance": "1",
             "scheme": "baseline", "stream": "2"}
    with service("encoder_service", "--source", str(source), "--seed", "7", "--decoders", "2", "--l-max", "6"
                 ) as encoder:
        endings = at_once(*(decoder_of(encoder.address, sides[0], tmp_path / "out.csv", f"--{option}", value).ended
                            for option, value in wrong.items()))
        assert health(encoder.address) == SERVING
        _, refusals = encoder.stop()
    for option, (code, log) in zip(wrong, endings, strict=True):
        name = "seed_digest" if option == "seed" else option.replace("-", "_")
        assert code == 1 and f"{name}: " in log and f"refused: {name}: " in refusals
    assert [path.name for path in tmp_path.glob("*out*")] == []


@pytest.mark.parametrize("extra", [-1, 1])
def test_side_information_of_another_length_leaves_no_file(
        sample_files: tuple[Path, list[Path]], tmp_path: Path, extra: int) -> None:
    source, sides = sample_files
    wrong = tmp_path / "wrong.txt"
    np.savetxt(wrong, np.zeros(3000 + extra))
    encoder = encoder_of(source)
    right = decoder_of(encoder.address, sides[0], tmp_path / "right.csv")
    code, log = decoder_of(encoder.address, wrong, tmp_path / "out.csv").ended()
    assert code == 2
    assert f"got {3000 + extra}" in log
    assert [right.ended()[0], encoder.ended()[0]] == [0, 0]  # the list goes on
    assert [path.name for path in tmp_path.glob("*out*")] == []


def test_an_encoder_refuses_what_breaks_the_protocol_and_serves_the_others(
        sample_files: tuple[Path, list[Path]], tmp_path: Path) -> None:
    source, sides = sample_files
    encoder = encoder_of(source)
    firsts: list[tuple[Frame | bytes, str, str]] = [
        (b"\x0a\x7f", "ABORTED", "expected a whole frame"),
        (Ack(0), "DATA_LOSS", "expected join first, got Ack"),
        (Join("other", None, Terms()), "NOT_FOUND", "session: expected one that is open"),
        (Join(CODEC, 5, Terms()), "FAILED_PRECONDITION", "stream: expected one of 0 to 1, got 5"),
        (Join(CODEC, None, Terms(protocol=1)), "FAILED_PRECONDITION", "the encoder has 2, the decoder expects 1"),
        (Join(CODEC, None, Terms(width=4)), "FAILED_PRECONDITION", "width: the encoder has 3, the decoder expects 4"),
    ]
    for first, code, text in firsts:
        peer = Peer(encoder.address)
        peer.send(first)
        status, details = peer.status()
        assert (status.name, text in details) == (code, True), details
    seconds: list[tuple[Frame | bytes, str, str]] = [
        (Ack(10**6), "DATA_LOSS", "next_round from 0 to"), (b"\xff", "ABORTED", "whole frame"),
        (b"", "ABORTED", "expected"), (Refusal("why not"), "DATA_LOSS", "why not"),
        (End(0), "DATA_LOSS", "expected ack or refusal"),
    ]
    for second, code, text in seconds:
        peer = joined(encoder.address, stream=0)
        peer.send(second)
        status, details = peer.status()
        assert (status.name, text in details) == (code, True), details
        peer.leave()
    decoders = [decoder_of(encoder.address, side, tmp_path / f"out{k}.csv") for k, side in enumerate(sides)]
    endings = [party.ended() for party in (*decoders, encoder)]
    assert [code for code, _ in endings] == [0, 0, 0], "\n".join(log for _, log in endings)


def test_a_decoder_that_is_lost_stalls_nobody(sample_files: tuple[Path, list[Path]], tmp_path: Path) -> None:
    source, sides = sample_files
    encoder = encoder_of(source, "--patience", "0.5")
    peer = joined(encoder.address)
    decoder = decoder_of(encoder.address, sides[0], tmp_path / "out.csv")
    assert isinstance(peer.receive(), Indices)
    peer.leave()
    assert decoder.ended()[0] == 0
    code, log = encoder.ended()
    assert code == 0
    assert log.count("stream 0 lost") == 1
    assert "streams without all rounds: 0\n" in log
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 1 + 3000


@contextmanager
def encoder_that_sends(*scripts: Sequence[Frame | bytes | None]) -> Iterator[tuple[str, "queue.Queue[Frame]"]]:
    """An encoder by hand: it sends these to the first that joins, those to the next, and the last to all others.

    Gives what it was sent, the Joins among them.
    """
    answers: queue.Queue[Frame] = queue.Queue()
    left = list(scripts)

    def join(requests: Iterator[bytes], _: object) -> Iterator[bytes]:
        answers.put(from_bytes(next(requests)))
        for frame in left.pop(0) if len(left) > 1 else left[0]:
            if frame is None:  # the stream ends here, once the first Ack has come
                next(requests)
                return
            yield frame if isinstance(frame, bytes) else to_bytes(frame)
        for data in requests:
            answers.put(from_bytes(data))

    handler: Any = grpc.stream_stream_rpc_method_handler(join)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("glsnet.v1.Exchange", {"Join": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", answers
    finally:
        server.stop(0).wait()


GOOD = Indices.of(0, 4, bits.pack(np.array([1, 5, 0, 2]), 3))
NEXT = Indices.of(4, 2, bits.pack(np.array([3, 4]), 3))
RIGHT = replace(TERMS, stream=1)


def said(answers: "queue.Queue[Frame]", last: type[Frame]) -> list[Frame]:
    """What an encoder by hand was sent, up to a frame of this kind."""
    frames = [answers.get(timeout=10)]
    while not isinstance(frames[-1], last):
        frames.append(answers.get(timeout=10))
    return frames


def everything_in(answers: "queue.Queue[Frame]") -> list[Frame]:
    return [answers.get() for _ in range(answers.qsize())]


@pytest.fixture(scope="module")
def lasting() -> Iterator[Service]:
    """A decoder on which all that breaks the protocol is tried, one after the other."""
    with service("decoder_service") as decoder:
        yield decoder


@pytest.mark.parametrize(("frames", "error", "text"), [
    ([replace(RIGHT, seed_digest="0" * 16)], TermsError, "seed_digest"),
    ([replace(RIGHT, stream=0)], TermsError, "stream: expected 1, as asked for, got 0"),
    ([GOOD], FrameError, "expected terms first"),
    ([RIGHT, Indices.of(0, 0, b"")], FrameError, "count"),
    ([RIGHT, Indices.of(0, 2, bits.pack(np.array([1, 7]), 3))], FrameError, "index of round 1: expected 0 to 5"),
    ([RIGHT, Ack(0)], FrameError, "frame: expected indices or end, got Ack"),
    ([RIGHT, GOOD, Indices.of(2, 4, GOOD.packed)], FrameError, "first_round: expected 4, the next, got 2"),
    ([RIGHT, GOOD, End(3)], FrameError, "end: expected it after 4, the next, got 3"),
    ([RIGHT, End(0), Ack(0)], FrameError, "frame: expected nothing after end, got Ack"),
])
def test_a_decoder_refuses_what_breaks_the_protocol_and_stays_up(
        lasting: Service, frames: list[Frame | bytes], error: type[GlsnetError], text: str) -> None:
    async def conducted(address: str, encoder: str) -> None:
        order = DecoderOrder(encoder, 1, SideInformation(0.5, 0.0, 0.5))
        async with conducting(address, "decoder", Session("s", SEED), TERMS, order) as decoder:
            await decoder.opened()
            await decoder.send(np.zeros(8))
            while True:
                await decoder.outcomes()

    with encoder_that_sends(frames) as (encoder, answers):
        with pytest.raises(error, match=text) as caught:
            asyncio.run(conducted(lasting.address, encoder))
        assert caught.type is error
        *before, last = said(answers, Refusal)
        assert isinstance(last, Refusal) and text.split(":")[0] in last.reason
        assert sum(isinstance(each, Join) for each in before) == 1  # no retry can mend it
        assert health(lasting.address) == SERVING


DAMAGED = bytearray(to_bytes(NEXT))
DAMAGED[-1] ^= 1
LAST = Indices.of(6, 1, bits.pack(np.array([0]), 3))


@pytest.mark.parametrize(("damage", "error", "text"), [
    (to_bytes(NEXT)[:-3], DamageError, "whole frame"), (bytes(DAMAGED), DamageError, "checksum"),
    (to_bytes(End(4))[:-1], DamageError, "frame"), (LAST, DamageError, "first_round: expected 4, the next, got 6"),
    (End(6), DamageError, "end: expected it after 4, the next, got 6"),
    (None, TransportError, "ended the stream after 4 rounds, expected End first"),
])
def test_a_decoder_joins_again_after_damage_or_loss_and_goes_on_where_it_was(
        lasting: Service, damage: bytes | Frame | None, error: type[GlsnetError], text: str) -> None:
    """What goes wrong once costs nothing; what does so again and again is an error when its patience is over."""
    async def conducted(address: str, encoder: str, rounds: int, patience: float) -> list[tuple[int, list[int]]]:
        order = DecoderOrder(encoder, 1, SideInformation(0.5, 0.0, 0.5))
        came: list[tuple[int, list[int]]] = []
        async with conducting(address, "decoder", Session("s", SEED), TERMS, order,
                              Resume(patience=patience)) as decoder:
            await decoder.opened()
            await decoder.send(np.zeros(8))
            while sum(len(each) for _, each in came) < rounds:
                outcomes = await decoder.outcomes()
                came.append((outcomes.first_round, outcomes.message.tolist()))
            return came

    once: list[Frame | bytes | None] = [RIGHT, GOOD, damage]
    again: list[Frame | bytes | None] = [RIGHT, GOOD, NEXT, LAST, End(7)]
    with encoder_that_sends(once, once, again) as (encoder, answers):
        came = asyncio.run(conducted(lasting.address, encoder, 7, 5.0))
        assert came == [(0, [1, 5, 0, 2]), (4, [3, 4]), (6, [0])]
        joins = [each for each in everything_in(answers) if isinstance(each, Join)]
        assert [each.next_round for each in joins] == [0, 4, 4]
        assert len({each.party for each in joins}) == 1 and len(joins[0].party) == PARTY_BYTES
    with encoder_that_sends(once) as (encoder, answers):
        with pytest.raises(error, match=text) as caught:
            asyncio.run(conducted(lasting.address, encoder, 7, 0.3))
        assert caught.type is error
        left = everything_in(answers)
        assert sum(isinstance(each, Join) for each in left) >= 2
        assert not any(isinstance(each, Refusal) for each in left)
    assert health(lasting.address) == SERVING


P, Q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
LOW, WHOLE, GUMBEL = Scheme("low-communication", epsilon=0.1), Scheme("whole-distribution"), Scheme("gumbel")


def candidates(items: list[int], heights: list[int], first_round: int = 0, kind: TurnKind = "candidates") -> Turn:
    """Of three items and a grid of 120 steps, whether they are in range or not."""
    return Turn.of(kind, first_round, len(items), pack(np.array(items), 2) + pack(np.array(heights), 7))


def everything(item: int, p: list[float]) -> Turn:
    return Turn.of("everything", 0, 1, pack(np.array([item]), 2) + np.array(p).tobytes())


BREAKS_BOB: list[tuple[Scheme, Frame | bytes, str]] = [
    (LOW, Turn.of("verdicts", 0, 2, b"\xc0"), "turn: expected candidates, got verdicts"),
    (LOW, candidates([0, 0], [1, 1], kind="darts"), "turn: expected candidates, got darts"),
    (LOW, everything(0, [1.0, 0.0, 0.0]), "turn: expected candidates or verdicts or darts in scheme low"),
    (LOW, candidates([0, 3], [60, 60]), "index 1: expected 0 to 2, got 3"),
    (LOW, candidates([0, 1], [60, 121]), "probability 1: expected 0 to 120 steps of 1/120, got 121"),
    (LOW, candidates([0, 1], [60, 0]), "probability 1: expected a sample of positive probability"),
    (LOW, candidates([0], [60]), "rounds: expected 2 items and probabilities, got 1"),
    (LOW, candidates([0, 1], [60, 60], first_round=2), "first_round: expected 0, of the batch, got 2"),
    (LOW, Turn.of("candidates", 0, 2, b"\x00"), "packed: expected 3 bytes for 2 rounds, got 1"),
    (LOW, Turn.of("candidates", 0, 2, b"\x01\xff\xfc"), "expected zeros after 2 values of 2 bits"),
    (WHOLE, everything(0, [1.5, -0.5, 0.0]), "probability[1]: expected a finite probability of at least 0, got -0.5"),
    (WHOLE, everything(0, [0.5, np.nan, 0.5]), "probability[1]: expected a finite probability of at least 0, got nan"),
    (WHOLE, everything(0, [0.5, 0.2, 0.2]), "probability: expected probabilities that sum to 1"),
    (WHOLE, everything(3, [0.5, 0.2, 0.3]), "index: expected 0 to 2"),
    (WHOLE, everything(0, [0.5, 0.5]), "expected one round and 25 bytes"),
    (WHOLE, candidates([0, 1], [60, 60]), "turn: expected everything in scheme whole-distribution, got candidates"),
    (GUMBEL, candidates([0, 1], [60, 60]), "frame: expected ack or refusal after join, got Turn"),
    (LOW, GOOD, "frame: expected ack or refusal after join, got Indices"),
    (LOW, Turn.of("candidates", 0, 0, b""), "count: expected 1 to 65536"),
    (LOW, replace(candidates([0, 1], [60, 60]), checksum=5), "checksum"),
    (LOW, to_bytes(candidates([0, 1], [60, 60]))[:-2], "whole frame"),
]


def test_bob_ends_an_exchange_that_breaks_the_protocol_and_serves_the_next() -> None:
    async def broken(address: str, scheme: Scheme, frame: Frame | bytes, text: str) -> None:
        terms = conversation.terms_of(scheme, 3, SEED)
        async with conducting(address, "encoder", Session("s", SEED), terms, None) as his:
            await his.opened()
            peer = Peer(address)
            peer.send(Join("s", 0, Terms()))
            assert isinstance(await asyncio.to_thread(peer.receive), Terms)
            peer.send(Ack(0))
            peer.send(frame)
            await his.draw(Draw(2, Q))
            status, details = await asyncio.to_thread(peer.status)
            code = "ABORTED" if text in ("checksum", "whole frame") else "DATA_LOSS"
            assert (status.name, text in details) == (code, True), details
            peer.leave()
            await his.end()
            with pytest.raises((FrameError, TransportError)):  # what was said; or that nobody is left to talk to
                while True:
                    await his.drawn()

    with service("encoder_service") as encoder:
        for scheme, frame, text in BREAKS_BOB:
            asyncio.run(broken(encoder.address, scheme, frame, text))
        assert health(encoder.address) == SERVING
        with service("decoder_service") as decoder:
            asyncio.run(well(encoder.address, decoder.address))
        code, log = encoder.stop()
    assert code == 0
    assert "Traceback" not in log


async def well(encoder: str, decoder: str) -> None:
    """The same services, in order."""
    terms = conversation.terms_of(LOW, 3, SEED)
    async with conducting(encoder, "encoder", Session("s", SEED), terms, None) as his:
        await his.opened()
        async with conducting(decoder, "decoder", Session("s", SEED), terms, DecoderOrder(encoder, 0)) as hers:
            await hers.opened()
            await hers.draw(Draw(1000, P))
            await his.draw(Draw(1000, Q))
            a, b = (await hers.drawn()).items, (await his.drawn()).items
            assert_at_least(int((a == b).sum()), 1000, 0.5 - 0.1)
            await his.end()
            await hers.end()
            assert (await his.closed()).rounds == (await hers.closed()).rounds == 1000


LOW_TERMS = replace(conversation.terms_of(LOW, 3, SEED), stream=0)
REJECTED = Turn.of("verdicts", 0, 2, b"\x00")


@pytest.mark.parametrize(("frames", "error", "text"), [
    ([replace(LOW_TERMS, items=4)], TermsError, "items: the encoder has 4, the decoder expects 3"),
    ([replace(LOW_TERMS, epsilon=0.2)], TermsError, "epsilon: the encoder has 0.2"),
    ([RIGHT], FrameError, "got none for items"),
    ([LOW_TERMS, candidates([0, 0], [1, 1])], FrameError, "turn: expected verdicts, got candidates"),
    ([LOW_TERMS, Turn.of("verdicts", 0, 1, b"\x80")], FrameError, "rounds: expected 2 verdicts, got 1"),
    ([LOW_TERMS, REJECTED, REJECTED], FrameError, "turn: expected darts, got verdicts"),
    ([LOW_TERMS, REJECTED, candidates([3, 0], [0, 0], kind="darts")], FrameError, "index 0: expected 0 to 2, got 3"),
    ([LOW_TERMS, REJECTED, candidates([0, 0], [0, 120], kind="darts")], FrameError, "probability 1: expected the sum"),
    ([LOW_TERMS, REJECTED, candidates([0, 0], [0, 127], kind="darts")], FrameError, "probability 1: expected 0 to 120"),
    ([LOW_TERMS, GOOD], FrameError, "frame: expected a turn, got Indices"),
    ([LOW_TERMS, End(0)], FrameError, "frame: expected a turn, got End"),
    ([LOW_TERMS, to_bytes(REJECTED)[:-2]], DamageError, "whole frame"),
    ([LOW_TERMS, replace(REJECTED, checksum=1)], DamageError, "checksum"),
])
def test_alice_ends_an_exchange_that_breaks_the_protocol_and_stays_up(
        lasting: Service, frames: list[Frame | bytes], error: type[GlsnetError], text: str) -> None:
    async def conducted(address: str, encoder: str) -> None:
        terms = conversation.terms_of(LOW, 3, SEED)
        async with conducting(address, "decoder", Session("s", SEED), terms, DecoderOrder(encoder, 0)) as hers:
            await hers.opened()
            await hers.draw(Draw(2, P))
            await hers.drawn()

    with encoder_that_sends(frames) as (encoder, answers):
        with pytest.raises(error, match=text) as caught:
            asyncio.run(conducted(lasting.address, encoder))
        assert caught.type is error
        if error is not DamageError:  # for which she blames nobody; what is under way in a batch cannot be had again
            first, *_, last = said(answers, Refusal)
            assert isinstance(first, Join) and len(first.party) == PARTY_BYTES  # whose attempts are hers alone
            assert isinstance(last, Refusal) and text in last.reason
        assert health(lasting.address) == SERVING


def test_a_stream_that_stops_without_end_leaves_no_file(sample_files: tuple[Path, list[Path]], tmp_path: Path) -> None:
    _, sides = sample_files
    with encoder_that_sends([replace(RIGHT, stream=0), GOOD, None]) as (encoder, _answers):
        code, log = decoder_of(encoder, sides[0], tmp_path / "out.csv", "--patience", "0.3").ended()
    assert code == 1
    assert "ended the stream after 4 rounds, expected End first" in log
    assert [path.name for path in tmp_path.glob("*out*")] == []


@pytest.mark.parametrize("options", [
    ("--encoder", "nowhere"), ("--encoder", "h:99999"), ("--side-information", "/nowhere"), ("--listen", "nowhere"),
])
def test_options_that_cannot_be_used_are_clear_errors(options: tuple[str, ...]) -> None:
    done = subprocess.run([sys.executable, "-m", "decoder_service", *options], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "expected" in done.stderr


def test_an_address_that_cannot_be_listened_on_is_a_clear_error() -> None:
    with service("encoder_service") as taken:
        done = subprocess.run([sys.executable, "-m", "encoder_service", "--listen", taken.address],
                              capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr and "cannot be listened on" in done.stderr


def test_a_source_file_that_is_none_is_a_clear_error(tmp_path: Path) -> None:
    bad = tmp_path / "a.txt"
    bad.write_text("1\nx\n")
    done = subprocess.run([sys.executable, "-m", "encoder_service", "--source", str(bad)], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 2
    assert "line 2" in " ".join(done.stderr.replace("│", " ").split())


class NameServer(asyncio.DatagramProtocol):
    """Says that every name is 127.0.0.1, but only once eight sockets have asked in vain."""

    def __init__(self) -> None:
        self.asked: set[int] = set()  # from which ports

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.asked.add(addr[1])
        if len(self.asked) <= 8:
            return
        question = data[12 : data.index(0, 12) + 5]
        is_a = struct.unpack(">H", question[-4:-2]) == (1,)
        answer = b"\xc0\x0c" + struct.pack(">HHIH4s", 1, 1, 1, 4, socket.inet_aton("127.0.0.1")) if is_a else b""
        self.transport.sendto(data[:2] + struct.pack(">5H", 0x8180, 1, is_a, 0, 0) + question + answer, addr)


def test_a_name_server_that_does_not_answer_is_asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself gRPC would ask from so many sockets in minutes."""
    monkeypatch.setattr(rpc, "ATTEMPT_SECONDS", 0.2)

    async def dialled(at: str) -> None:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(NameServer, ("127.0.0.1", 0))
        names = transport.get_extra_info("sockname")[1]
        where = f"dns://127.0.0.1:{names}/encoder.example:{at.rpartition(':')[2]}"
        async with rpc.dial(where, METHOD, "encoder", Security(insecure=True)):
            transport.close()

    with service("encoder_service") as encoder:
        asyncio.run(dialled(encoder.address))
