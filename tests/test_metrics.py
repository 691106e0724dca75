"""What services say of themselves at /metrics, held against what the run's own result says."""

import asyncio
import socket
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import pytest
from processes import Service, at_once, gaussian_plan, glsnet, service
from prometheus_client.parser import text_string_to_metric_families

from glsnet.compression import terms_of
from glsnet.errors import CallerError, GlsnetError, TransportError
from glsnet.frames import Traffic
from glsnet.generation import Asked, Finished, Piece
from glsnet.lab.plan import Drawn, Ended, Parties
from glsnet.lab.runner import play
from glsnet.transport import metrics, speculating, web
from glsnet.transport.control import DecoderOrder, Resume, Session, conducting
from glsnet.transport.security import Security

PLAN = gaussian_plan(samples=1030, decoders=2, frame=50, patience=30.0)
Numbers = dict[str, float]


@contextmanager
def counting(module: str, *options: str) -> Iterator[tuple[Service, str]]:
    """A service, and where its metrics are."""
    with service(*module.split(), *options, "--metrics=127.0.0.1:0") as started:
        assert started.process.stderr is not None
        line = next(line for line in started.process.stderr if "metrics on " in line)
        yield started, line.rpartition(" ")[2].strip()


def numbers(address: str) -> Numbers:
    """All that a service counts of glsnet, by name and values of labels, which are sorted by theirs."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
            for family in families if family.name.startswith("glsnet_") for sample in family.samples
            if not sample.name.endswith("_created")}


def frames(numbers: Numbers, role: str, way: str) -> tuple[float, float]:
    """How many, and their bytes."""
    return numbers[f"glsnet_frames_total {way} {role}"], numbers[f"glsnet_frame_bytes_total {way} {role}"]


def test_services_count_what_the_result_says() -> None:
    frames_of: list[Drawn] = []
    with ExitStack() as stack:
        (encoder, at), *decoders = at_once(*(partial(stack.enter_context, counting(f"{name}_service"))
                                             for name in ("encoder", "decoder", "decoder")))
        idle = numbers(at)
        assert idle["glsnet_rounds_total encoder"] == 0 and idle["glsnet_sessions_open"] == 0
        parties = Parties(encoder.address, [each.address for each, _ in decoders])
        ended: Ended = asyncio.run(play(PLAN, parties, frames_of.append))
        counted, counted_by = numbers(at), [numbers(address) for _, address in decoders]
    down, up = (sum(frames(each, "decoder", way)[1] for each in counted_by) for way in ("down", "up"))
    for each, metered in zip(counted_by, ended.metered, strict=True):
        assert metered is not None
        bytes_down = protobuf(metered.setup_down, metered.rounds_down)
        assert frames(each, "decoder", "down") == (len(frames_of) + 2, bytes_down)
        assert frames(each, "decoder", "up")[1] == protobuf(metered.setup_up, metered.rounds_up)
        assert each["glsnet_rounds_total decoder"] == 1030
        assert (each["glsnet_joins_total"], each["glsnet_streams_joined"]) == (1, 0)
        assert each["glsnet_joined_again_total"] == each["glsnet_rounds_total encoder"] == 0
    assert frames(counted, "encoder", "down") == (2 * (len(frames_of) + 2), down)
    assert frames(counted, "encoder", "up")[1] == up
    assert counted["glsnet_rounds_total encoder"] == 1030
    assert counted["glsnet_joins_total"] == 2
    for none in ("streams_joined", "sessions_open", "decoders_lost_total"):
        assert counted[f"glsnet_{none}"] == 0


def protobuf(*traffic: Traffic) -> int:
    return sum(each.protobuf for each in traffic)


def test_a_target_counts_what_its_client_gets() -> None:
    async def pieces(target: str) -> list[Piece | Finished]:
        asked = Asked("Two and two is", max_tokens=24, drafts=2)
        return [item async for item in speculating.generate(target, asked)]

    with counting("encoder_service target", "--streams=2", "--seed=7") as (target, at):
        options = (f"--target={target.address}", "--streams=0,1", "--seed=7")
        with counting("decoder_service draft", *options) as (draft, draft_at):
            assert draft.process.stdout is not None and draft.process.stdout.readline().startswith("joined ")
            *told, finished = asyncio.run(pieces(target.address))
            counted, drafted = numbers(at), numbers(draft_at)
    assert isinstance(finished, Finished)
    given = [piece for piece in told if isinstance(piece, Piece)]
    assert counted["glsnet_tokens_total"] == sum(len(piece.tokens) for piece in given) == finished.tokens
    assert counted["glsnet_blocks_total"] == counted["glsnet_block_seconds_count"] == len(given) == finished.blocks
    assert counted["glsnet_accepted_tokens_total"] == sum(agreed > 0 for piece in given for agreed in piece.agreed) > 0
    assert 0 < counted["glsnet_block_seconds_sum"] <= finished.seconds
    assert counted["glsnet_requests_open"] == counted["glsnet_drafts_late_total"] == 0
    assert counted["glsnet_streams_joined"] == drafted["glsnet_streams_joined"] == 1
    assert frames(counted, "encoder", "down") == frames(drafted, "decoder", "down")
    assert frames(counted, "encoder", "up") == frames(drafted, "decoder", "up")


def test_who_is_refused_and_who_is_lost_is_counted() -> None:
    async def run(encoder: str, decoder: str) -> None:
        terms = terms_of(PLAN.code, PLAN.seed)
        session = Session("known", PLAN.seed, b"a token of the session")
        async with conducting(encoder, "encoder", session, terms, None) as of_encoder:
            await of_encoder.opened()
            for name, token in (("unknown", session.token), ("known", b"the token of another")):
                order = DecoderOrder(encoder, 0, PLAN.sides[0])
                asked = replace(session, name=name, token=token)
                with pytest.raises(GlsnetError):
                    async with conducting(decoder, "decoder", asked, terms, order, Resume(patience=0.01)) as conductor:
                        await conductor.opened()

    with counting("encoder_service") as (encoder, at), service("decoder_service") as decoder:
        asyncio.run(run(encoder.address, decoder.address))
        counted = numbers(at)
    assert counted["glsnet_refused_total GoneError"] >= 1 and counted["glsnet_refused_total RefusedError"] == 1
    assert counted["glsnet_joins_total"] == 0


def test_numbers_are_for_those_with_a_certificate(tmp_path: Path) -> None:
    glsnet("certificates", str(tmp_path), "encoder", "prometheus")
    glsnet("certificates", str(tmp_path / "others"), "stranger")
    own = tmp_path / "encoder"
    options = (f"--tls-cert={own / 'cert.pem'}", f"--tls-key={own / 'key.pem'}", f"--tls-ca={own / 'ca.pem'}")

    def ask(folder: Path | None) -> bytes:
        context = ssl.create_default_context(cafile=str(own / "ca.pem"))
        if folder is not None:
            context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        with urllib.request.urlopen(f"https://{at}/metrics", timeout=30, context=context) as answer:
            body: bytes = answer.read()
            return body

    with counting("encoder_service", *options) as (_, at):
        for stranger in (None, tmp_path / "others" / "stranger"):
            with pytest.raises((OSError, URLError)):
                ask(stranger)
        with pytest.raises((OSError, URLError, HTTPException)):
            numbers(at)
        assert b"glsnet_rounds_total" in ask(tmp_path / "prometheus")


def test_numbers_do_not_leave_this_machine_in_plain_text() -> None:
    done = subprocess.run([sys.executable, "-m", "encoder_service", "--metrics=0.0.0.0:0"], capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 2 and "0.0.0.0:0: expected --tls-cert" in done.stderr


def raw(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def test_strangers_take_little_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that ask nothing, too much, or for what is not there: cut off, answered, and no harm to others."""
    async def endless() -> AsyncGenerator[bytes]:
        while True:
            yield bytes(1 << 16)

    async def run() -> None:
        pages = {"/metrics": lambda: web.Answer("text/plain", b"1\n"),
                 "/endless": lambda: web.Answer("text/plain", endless())}
        async with web.serving("127.0.0.1:0", pages) as port:
            at = f"127.0.0.1:{port}"
            assert await asyncio.to_thread(talk, at, b"POST /metrics HTTP/1.1\r\n\r\n") == 405
            assert await asyncio.to_thread(talk, at, b"GET /etc/passwd HTTP/1.1\r\n\r\n") == 404
            assert await asyncio.to_thread(talk, at, b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n") == 200
            assert await asyncio.to_thread(talk, at, b"GET /metrics HTTP/1.1\r\nX: " + bytes(1 << 16)) is None
            slow, deaf = raw(at), raw(at)  # one says too little, one hears nothing
            slow.sendall(b"GET /metrics HTTP/1.1\r\n")
            deaf.sendall(b"GET /endless HTTP/1.1\r\n\r\n")
            assert await asyncio.to_thread(slow.recv, 1) == b""
            crowd = [raw(at) for _ in range(web.MAX_CONNECTIONS)]
            assert await asyncio.to_thread(talk, at, b"GET /metrics HTTP/1.1\r\n\r\n") is None
            for each in (*crowd, slow, deaf):
                each.close()
            async with asyncio.timeout(30):
                while await asyncio.to_thread(talk, at, b"GET /metrics HTTP/1.1\r\n\r\n") != 200:
                    pass

    def talk(address: str, request: bytes) -> int | None:
        with raw(address) as connection, suppress(ConnectionError):
            connection.sendall(request)
            answer = connection.recv(1 << 16)
            return int(answer.split()[1]) if answer else None
        return None

    monkeypatch.setattr(web, "REQUEST_SECONDS", 0.5)
    asyncio.run(run())


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", ":9000"])
def test_an_address_that_is_none_is_a_clear_error(address: str) -> None:
    async def run() -> None:
        async with metrics.serving(address, Security(insecure=True)):
            pass

    with pytest.raises(CallerError, match="address: expected HOST:PORT, got"):
        asyncio.run(run())


def test_a_port_that_is_taken_is_a_clear_error() -> None:
    async def run() -> None:
        async with metrics.serving("127.0.0.1:0") as port, metrics.serving(f"127.0.0.1:{port}"):
            pass

    with pytest.raises(TransportError, match="cannot be listened on; is the port taken"):
        asyncio.run(run())
