"""Who gets in: certificates, tokens, names; and what comes from those who do not leaves a service unharmed."""

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from processes import at_once, glsnet, result_of, security_in, service

from glsnet.codes import Code, decoding
from glsnet.compression import DecoderSession, EncoderSession, terms_of
from glsnet.errors import CallerError, GlsnetError, RefusedError, TransportError
from glsnet.frames import Frame, Join, Terms, from_bytes, to_bytes
from glsnet.joining import Door, proven
from glsnet.journal import NoJournal
from glsnet.lab import certificates
from glsnet.randomness import seed_from_integer
from glsnet.sources.gaussian import Gaussian, SideInformation
from glsnet.transport import control, exchange, health, parties, rpc
from glsnet.transport import service as services
from glsnet.transport.exchange import Broadcast
from glsnet.transport.rpc import GrpcNet
from glsnet.transport.security import LOCAL, Security, Tls, read_token

SEED = seed_from_integer(5)
CODE = Code(Gaussian(0.0, 1.0), "gls", 2, 8, 0.01)
SIDE = SideInformation(0.9, 0.0, 0.2)
TOKEN = b"t" * 32
NOW = certificates.today()
TRIES = 1.5  # seconds, instead of 30, that whoever is not let in tries


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of two authorities, and some that are over."""
    made = tmp_path_factory.mktemp("tls")
    certificates.write(made / "ours", certificates.PARTIES, {}, 365, NOW)
    certificates.write(made / "theirs", ["decoder-0"], {}, 365, NOW)
    certificates.write(made / "ours", ["late"], {}, 30, NOW - timedelta(days=60))
    return made


@asynccontextmanager
async def encoder(security: Security, host: str = "127.0.0.1") -> AsyncIterator[tuple[str, Broadcast[EncoderSession]]]:
    """An encoder of two decoders, which a lab could order about, too."""
    broadcast = Broadcast(EncoderSession("s", CODE, SEED), TOKEN)
    methods = {
        exchange.METHOD: partial(exchange.serve_join, broadcasts={"s": broadcast}),
        control.METHOD: partial(control.conduct_encoder, broadcasts={}, own=control.Own(security=security)),
    }
    async with services.serving(f"{host}:0", methods, security) as port:
        yield f"{host}:{port}", broadcast


async def codes(address: str, broadcast: Broadcast[EncoderSession], nets: list[GrpcNet]) -> bool:
    """Whether the encoder codes for two decoders as ever."""
    a = np.random.default_rng(1).normal(size=50)

    async def samples() -> AsyncIterator[np.ndarray]:
        yield a

    async def t(first: int, count: int) -> np.ndarray:
        return a[first : first + count]

    decoders = [DecoderSession("s", decoding(lambda _: SIDE), SEED, Terms(), k, party=bytes([k + 1] * 8))
                for k in range(2)]
    await asyncio.wait_for(asyncio.gather(
        parties.run_encoder(GrpcNet(exchange.METHOD), broadcast, samples(), parties.nothing, NoJournal(b""), 2, 5.0),
        *(parties.run_decoder(net, each, address, parties.nothing, t, parties.nothing, NoJournal(b""), 5.0)
          for net, each in zip(nets, decoders, strict=True)),
    ), 30)
    return all(each.next_round == 50 for each in decoders)


def net_of(security: Security, token: bytes = TOKEN) -> GrpcNet:
    return GrpcNet(exchange.METHOD, security, token=token)


async def answer(net: GrpcNet, address: str, join: Join) -> Frame | None:
    """What an encoder says to a Join, as it is."""
    async with net.dial(address, "encoder") as pipe:
        await pipe.write(to_bytes(join))
        data = await pipe.read()
        return None if data is None else from_bytes(data)


WHO: dict[str, tuple[Callable[[Path], Security], type[GlsnetError], str]] = {
    "an authority that it does not know": (lambda f: security_in(f / "ours/decoder-0", f / "theirs"), RefusedError,
                                           "--tls-ca has signed"),
    "a certificate of another authority": (lambda f: security_in(f / "theirs/decoder-0", f / "ours"), TransportError,
                                           "certificate's CA"),
    "a certificate that has expired": (lambda f: security_in(f / "ours/late"), TransportError, "certificate's CA"),
    "plain text": (lambda _: LOCAL, TransportError, "plain text"),
}


@pytest.mark.parametrize("who", WHO)
def test_who_has_no_good_certificate_does_not_get_in(folder: Path, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    monkeypatch.setattr(rpc, "CONNECT_SECONDS", TRIES)
    of, error, text = WHO[who]

    async def run() -> None:
        async with encoder(security_in(folder / "ours/encoder")) as (address, broadcast):
            with pytest.raises(error, match=text):
                await answer(net_of(of(folder)), address, Join("s", 0, Terms()))
            assert not broadcast.session.acknowledged
            decoders = [net_of(security_in(folder / f"ours/decoder-{k}")) for k in range(2)]
            assert await codes(address, broadcast, decoders)

    asyncio.run(run())


def test_a_host_that_its_certificate_does_not_name_and_one_without_tls_are_not_trusted(folder: Path) -> None:
    decoder = net_of(security_in(folder / "ours/decoder-0"))

    async def run() -> None:
        async with encoder(security_in(folder / "ours/encoder"), "127.0.0.2") as (address, _):
            with pytest.raises(RefusedError, match="for this host"):
                await answer(decoder, address, Join("s", 0, Terms()))
        async with encoder(LOCAL) as (address, _):
            with pytest.raises(RefusedError, match="expected TLS, got plain text"):
                await answer(decoder, address, Join("s", 0, Terms()))

    asyncio.run(run())


def test_only_who_knows_the_token_joins_and_only_once_by_the_same_words(folder: Path) -> None:
    decoder = [security_in(folder / f"ours/decoder-{k}") for k in range(2)]
    join = Join("s", 0, Terms(), party=b"12345678")

    async def run() -> None:
        async with encoder(security_in(folder / "ours/encoder")) as (address, broadcast):
            async def refused(text: str, said: Join) -> None:
                with pytest.raises(RefusedError, match=text):
                    await answer(net_of(decoder[0]), address, said)

            await refused("got none; give --token-file", join)
            await refused("one of another", proven(join, b"x" * 32, 1))
            await refused("one of another", replace(proven(join, TOKEN, 1), next_round=5))
            await refused("one of another", replace(proven(join, TOKEN, 1), stream=1))
            assert isinstance(await answer(net_of(decoder[0]), address, proven(join, TOKEN, 7)), Terms)
            await refused("made already", proven(join, TOKEN, 7))
            await refused("made already", proven(join, TOKEN, 6))
            assert isinstance(await answer(net_of(decoder[0]), address, proven(join, TOKEN, 8)), Terms)
            await broadcast.until(lambda: not broadcast.session.acknowledged)
            assert await codes(address, broadcast, [*map(net_of, decoder)])

    asyncio.run(run())


def test_a_stream_that_one_name_has_joined_is_not_anothers(folder: Path) -> None:
    async def run() -> None:
        async with encoder(security_in(folder / "ours/encoder")) as (address, broadcast):
            decoder = [net_of(security_in(folder / f"ours/decoder-{k}")) for k in range(2)]
            mine = Join("s", 0, Terms(), party=b"12345678")
            assert isinstance(await answer(decoder[0], address, decoder[0].proven(mine)), Terms)
            await broadcast.until(lambda: not broadcast.session.acknowledged)
            for stolen in (mine, replace(mine, stream=None), replace(mine, party=b"87654321")):
                with pytest.raises(RefusedError, match="not another party's"):
                    await answer(decoder[1], address, decoder[1].proven(stolen))
            terms = await answer(decoder[1], address, decoder[1].proven(Join("s", None, Terms(), party=b"another8")))
            assert isinstance(terms, Terms) and terms.stream == 1
            await broadcast.until(lambda: not broadcast.session.acknowledged)
            assert await codes(address, broadcast, decoder)

    asyncio.run(run())


def test_orders_are_a_labs_alone(folder: Path) -> None:
    session = control.Session("mine", SEED, TOKEN)

    async def run() -> None:
        async with encoder(security_in(folder / "ours/encoder")) as (address, _):
            async def opened(name: str) -> None:
                own = replace(session, security=security_in(folder / "ours" / name))
                async with control.conducting(address, "encoder", own, terms_of(CODE, SEED), None) as conductor:
                    await conductor.opened()

            for name in ("decoder-0", "client"):
                with pytest.raises(RefusedError, match=f"expected them from lab, .* got them from {name}"):
                    await opened(name)
            await opened("lab")

    asyncio.run(run())


def test_what_is_too_large_or_never_comes_harms_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames beyond any limit, connections that say nothing, or half of something, and many of them."""
    monkeypatch.setattr(exchange, "JOIN_SECONDS", 0.5)
    limits = [(name, 500 if name == "grpc.server_handshake_timeout_ms" else value) for name, value in services.LIMITS]
    monkeypatch.setattr(services, "LIMITS", limits)

    async def run() -> None:
        decoder = [net_of(security_in(folder / f"ours/decoder-{k}")) for k in range(2)]
        async with encoder(security_in(folder / "ours/encoder")) as (address, broadcast), AsyncExitStack() as stack:
            host, _, port = address.partition(":")
            idle = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
            for number, (_, writer) in enumerate(idle):
                stack.callback(writer.close)
                if number % 2:
                    writer.write(b"\x16\x03\x01")  # so begins a handshake
            async with decoder[0].dial(address, "encoder") as pipe:
                with pytest.raises(GlsnetError):
                    await pipe.write(bytes((1 << 22) + 1))
                    await pipe.read()
            async with decoder[0].dial(address, "encoder") as silent:
                with pytest.raises(GlsnetError, match="expected join within"):
                    await silent.read()
            assert await codes(address, broadcast, decoder)
            async with asyncio.timeout(30):
                for reader, _ in idle:
                    assert await reader.read() in (b"", b"\x15\x03\x01\x00\x02\x02\x46")  # it has hung up

    asyncio.run(run())


def test_plain_text_is_for_this_machine_alone() -> None:
    for address in ("127.0.0.1:0", "localhost:0", "[::1]:0", "127.9.9.9:1"):
        LOCAL.check(address, "listening on")
    for address in ("0.0.0.0:7000", "10.0.0.5:7000", "[::]:7000", "encoder:7000"):
        with pytest.raises(CallerError, match="--insecure goes without"):
            LOCAL.check(address, "listening on")
        Security(insecure=True).check(address, "listening on")
    done = subprocess.run([sys.executable, "-m", "encoder_service", "--listen", "0.0.0.0:0"], capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 2 and "--tls-cert" in done.stderr and "Traceback" not in done.stderr


def test_a_run_over_tls_is_the_same_and_tells_no_secrets(folder: Path) -> None:
    def options(name: str) -> list[str]:
        return security_in(folder / "ours" / name).options()

    settings = ["--set", "decoders=2", "--set", "samples=2000", "--set", "seed=987654321"]
    with ExitStack() as stack:
        first, *rest = at_once(*(
            partial(stack.enter_context, service(f"{name.partition('-')[0]}_service", *options(name)))
            for name in ("encoder", "decoder-0", "decoder-1")))
        named = ["--encoder", first.address, *(word for each in rest for word in ("--decoder", each.address))]
        over = json.loads(glsnet(*options("lab"), "run", "gaussian", "--json", *settings, *named).stdout)
        glsnet(*options("client"), "health", first.address)
        with pytest.raises(TransportError):
            health.check(first.address, LOCAL, 1.0)
        logs = [party.stop()[1] for party in (first, *rest)]
    direct = result_of(*settings, "--set", "transport=direct")
    assert over["indices_digest"] == direct["indices_digest"]
    assert over["bits_per_sample"]["packed"] == direct["bits_per_sample"]["packed"]
    assert over["bits_per_sample"]["protobuf"] == pytest.approx(direct["bits_per_sample"]["protobuf"])
    secrets = [seed_from_integer(987654321).hex(), "987654321", (folder / "ours/token").read_text().strip()]
    for log in logs:
        assert "agreed" in log and not any(each in log for each in secrets)


def test_a_health_check_in_plain_text_stays_on_this_machine() -> None:
    done = subprocess.run([sys.executable, "-m", "glsnet.transport.health", "192.0.2.1:1"], capture_output=True,
                          text=True, check=False, env={**os.environ, "GLSNET_INSECURE": "0"})
    assert done.returncode == 1 and "expected --tls-cert" in done.stderr


def test_certificates_are_made_once_and_again_when_they_end(tmp_path: Path) -> None:
    names = ["lab", "encoder"]
    assert certificates.write(tmp_path, names, {"encoder": ["10.0.0.5"]}, 30, NOW) == names
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pem")}
    assert certificates.write(tmp_path, names, {}, 30, NOW) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pem")} == before
    assert certificates.write(tmp_path, [*names, "decoder-7"], {}, 30, NOW) == ["decoder-7"]
    assert certificates.write(tmp_path, names, {}, 30, NOW + timedelta(days=30)) == names
    for path in tmp_path.rglob("*"):
        if path.name in ("ca-key.pem", "key.pem", "token"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert {path.name for path in (tmp_path / "decoder-7").iterdir()} == {"cert.pem", "key.pem", "ca.pem", "token"}
    assert not (tmp_path / "lab/token").exists()


@pytest.mark.parametrize(("parties", "hosts", "text"), [
    (["a/b"], {}, "letters, digits"), (["../x"], {}, "letters, digits"), ([""], {}, "letters, digits"),
    (["lab"], {"nobody": ["1.2.3.4"]}, "--host: expected one of lab"),
])
def test_names_that_are_none_make_nothing(tmp_path: Path, parties: list[str], hosts: dict[str, list[str]], text: str
                                          ) -> None:
    with pytest.raises(CallerError, match=text):
        certificates.write(tmp_path / "tls", parties, hosts, 30, NOW)
    assert not (tmp_path / "tls").exists()


def test_files_that_do_not_fit_are_clear_errors(folder: Path, tmp_path: Path) -> None:
    ours, token = folder / "ours", tmp_path / "token"
    cert, key, ca = (ours / "lab" / name for name in ("cert.pem", "key.pem", "ca.pem"))
    with pytest.raises(CallerError, match="all of them or none"):
        Tls.of(cert, key, None)
    with pytest.raises(CallerError, match="expected the key of"):
        Tls.of(cert, ours / "encoder/key.pem", ca)
    with pytest.raises(CallerError, match="expected a certificate in PEM"):
        Tls.of(key, key, ca)
    with pytest.raises(CallerError, match="can be read"):
        Tls.of(cert, tmp_path / "none", ca)
    token.write_bytes(b"short\n")
    with pytest.raises(CallerError, match="at least 16 bytes"):
        read_token(token)
    (tmp_path / "ca-key.pem").write_bytes(key.read_bytes())
    (tmp_path / "ca.pem").write_bytes(ca.read_bytes())
    with pytest.raises(CallerError, match="got another"):
        certificates.write(tmp_path, ["lab"], {}, 30, NOW)


def test_a_door_without_a_token_is_open_and_a_party_without_a_name_binds_nothing() -> None:
    door = Door()
    door.check(Join("s", 0, Terms()))
    door.bind([0, 1], None)
    assert door.closed_to("anyone") == frozenset()
    door.bind([0, 1], "me")
    assert door.closed_to("me") == frozenset() and door.closed_to("other") == door.closed_to(None) == {0, 1}
    assert proven(Join("s", 0, Terms()), b"", 5) == Join("s", 0, Terms())
