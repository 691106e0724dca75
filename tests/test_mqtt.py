"""Compression by an MQTT broker: one publish for all, and nothing lost, whatever the broker or a party does."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from aiomqtt import Client, MqttError
from processes import Service, at_once, cutting, gaussian_plan, glsnet, result_of, security_in, service
from rich.console import Console

from glsnet.codes import Code, decoding
from glsnet.compression import DecoderSession, EncoderSession, Outcomes, Samples, terms_of
from glsnet.errors import CallerError, FrameError, GoneError, RefusedError, TermsError, TransportError
from glsnet.frames import Ack, End, Indices, Join, Terms, from_bytes, to_bytes
from glsnet.joining import new_party
from glsnet.journal import NoJournal
from glsnet.lab import certificates, report
from glsnet.lab.plan import Drawn, NamedBroker, Parties
from glsnet.lab.runner import play
from glsnet.randomness import seed_from_integer
from glsnet.sources.gaussian import Gaussian, noisy_observation
from glsnet.transport import mqtt
from glsnet.transport.exchange import METHOD, Broadcast, Metered
from glsnet.transport.mqtt import Broker, Login, MqttNet, Uplink
from glsnet.transport.parties import nothing, run_decoder, run_encoder
from glsnet.transport.rpc import GrpcNet
from glsnet.transport.security import LOCAL, Security

SEED = seed_from_integer(7)
SIZE, FRAMES = 50, 30
RNG = np.random.default_rng(3)
A = RNG.standard_normal(SIZE * FRAMES)
PATIENCE = 60.0  # nobody is given up here


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with service("glsnet.lab.broker") as running:
        yield running.address


class Run:
    """One session of K decoders by a broker, all in this process, that can be interfered with between frames."""

    def __init__(self, address: str, decoders: int, qos: int = 1, encoder_dials: str | None = None,
                 silence: float = 10.0, token: bytes = b"") -> None:
        self.address, self.qos, self.silence, self.token = address, qos, silence, token
        self.code = Code(Gaussian(0.0, 1.0), "gls", decoders, 8, sigma2=0.01)
        self.name = new_party().hex()
        self.session = EncoderSession(self.name, self.code, SEED)
        self.t = A[:, None] + 0.5**0.5 * np.random.default_rng(4).standard_normal((A.size, decoders))
        self.decoders = [DecoderSession(self.name, decoding(partial(noisy_observation, noise_variance=0.5)), SEED,
                                        terms_of(self.code, SEED), k, 0, new_party()) for k in range(decoders)]
        self.frames = 0  # that any decoder has decoded
        self._encoder_dials = encoder_dials or address
        self._changed = asyncio.Event()

    async def encode(self, between: Callable[[int], Awaitable[None]] = nothing, wait_for: int | None = None) -> Metered:
        """Everything, `between` being called before each frame with its number; gives the uplink."""

        async def samples() -> AsyncIterator[Samples]:
            for n in range(FRAMES):
                await between(n)
                yield A[n * SIZE : (n + 1) * SIZE]

        async with self.uplink() as (uplink, broadcast):
            await run_encoder(GrpcNet(METHOD), broadcast, samples(), nothing, NoJournal(b""),
                              wait_for or len(self.decoders), PATIENCE)
        return uplink.metered()

    @asynccontextmanager
    async def uplink(self) -> AsyncIterator[tuple[Uplink, Broadcast[EncoderSession]]]:
        broadcast = Broadcast(self.session, self.token)
        to = Broker(self._encoder_dials, self.qos)
        async with mqtt.serving(broadcast, to, LOCAL, None, self.silence) as uplink:
            yield uplink, broadcast

    async def decode(self, k: int) -> Metered:
        async def take(first: int, count: int) -> Samples:
            t: Samples = self.t[first : first + count, k]
            return t

        async def report(outcomes: Outcomes) -> None:
            self.frames += 1
            self._changed.set()

        return await run_decoder(self.net(), self.decoders[k], self.address, nothing, take, report, NoJournal(b""),
                                 PATIENCE)

    def net(self) -> MqttNet:
        return MqttNet(self.name, self.qos, LOCAL, None, self.silence, self.token)

    async def decoded(self, frames: int) -> None:
        """Wait until so many frames were decoded, all decoders together."""
        while self.frames < frames:
            self._changed.clear()
            await self._changed.wait()

    def check(self) -> None:
        """Everybody has all rounds, each once, and the indices are those of any other transport."""
        plain = EncoderSession("plain", self.code, SEED)
        for n in range(FRAMES):
            plain.encode(A[n * SIZE : (n + 1) * SIZE])
        assert self.session.digest == plain.digest
        for each in self.decoders:
            assert (each.digest, each.next_round, each.lost) == (plain.digest, A.size, [])


class Spy:
    """What anybody who may subscribe sees of a session: topics below it, and payloads."""

    def __init__(self, client: Client, run: Run) -> None:
        self.client, self._run = client, run
        self.seen: list[tuple[str, bytes]] = []
        self._changed = asyncio.Event()

    async def listen(self) -> None:
        async for message in self.client.messages:
            self.seen.append((message.topic.value.removeprefix(f"glsnet/{self._run.name}/"), bytes(message.payload)))
            self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    def of(self, kind: str) -> list[bytes]:
        """The payloads on topics of a kind."""
        return [data for topic, data in self.seen if topic.partition("/")[0] == kind]

    async def say(self, topic: str, data: bytes) -> None:
        await self.client.publish(f"glsnet/{self._run.name}/{topic}", data, self._run.qos)


@asynccontextmanager
async def spying(run: Run) -> AsyncIterator[Spy]:
    host, _, port = run.address.rpartition(":")
    async with Client(host, int(port)) as client:
        await client.subscribe(f"glsnet/{run.name}/#", run.qos)
        spy = Spy(client, run)
        listening = asyncio.create_task(spy.listen())
        try:
            yield spy
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError, MqttError):
                await listening


async def limited(work: Awaitable[None]) -> None:
    async with asyncio.timeout(60):
        await work


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_frame_is_published_once_for_all_and_the_indices_are_those_of_any_transport(broker: str, qos: int) -> None:
    async def main() -> None:
        run = Run(broker, decoders=3, qos=qos, token=b"t" * 16)
        async with spying(run) as spy:
            up, *down = await asyncio.gather(run.encode(), *(run.decode(k) for k in range(3)))
            await spy.until(lambda: spy.of("terms")[-1:] == [b""])
        run.check()
        frames = [from_bytes(data) for data in spy.of("indices")]
        assert [frame.first_round for frame in frames if isinstance(frame, Indices)] == [*range(0, A.size, SIZE)]
        assert frames[-1] == End(A.size) and len(frames) == FRAMES + 1
        assert Counter(type(from_bytes(data)) for data in spy.of("up")) == {Join: 3, Ack: 3 * (1 + FRAMES // 8 + 1)}
        assert [type(from_bytes(data)) for data in spy.of("down")] == 3 * [Terms] and spy.of("ended") == 3 * [b"OK"]
        sizes = sum(map(len, spy.of("indices")))
        for traffic in (up.rounds_up, *(each.rounds_down for each in down)):
            assert (traffic.packed, traffic.protobuf) == (-(-SIZE * 3 // 8) * FRAMES, sizes)
            assert traffic.stream > sizes and (traffic.ip is None or traffic.ip > traffic.stream)
        publish = 2 + 2 + len(f"glsnet/{run.name}/indices") + (2 if qos else 0)  # around each frame
        assert down[0].rounds_down.stream >= sizes + publish * (FRAMES + 1)
        assert up.rounds_up.stream < 2 * down[0].rounds_down.stream  # whatever K

    asyncio.run(limited(main()))


def test_a_decoder_that_joins_late_is_told_alone_what_it_has_missed(broker: str) -> None:
    async def main() -> None:
        run = Run(broker, decoders=2)
        late: list[asyncio.Task[Metered]] = []

        async def between(n: int) -> None:
            await run.decoded(n)  # the other is not there yet, or what follows is after it has joined
            if n == FRAMES // 2:
                late.append(asyncio.create_task(run.decode(1)))
                await run.decoded(n + 1)

        async with spying(run) as spy:
            await asyncio.gather(run.encode(between, wait_for=1), run.decode(0))
            await late[0]
            await spy.until(lambda: spy.of("terms")[-1:] == [b""])
        run.check()
        assert len(spy.of("indices")) == FRAMES + 1
        alone = [frame for data in spy.of("down") if isinstance(frame := from_bytes(data), Indices)]
        assert [frame.first_round for frame in alone] == [*range(0, A.size // 2, SIZE)]

    asyncio.run(limited(main()))


def test_a_broker_that_is_killed_and_started_again_loses_nothing() -> None:
    async def main() -> None:
        first = Service("glsnet.lab.broker")
        running = [first]
        run = Run(first.address, decoders=2)

        async def between(n: int) -> None:
            if n == FRAMES // 2:
                await run.decoded(n)
                running.pop().process.kill()
                await asyncio.to_thread(first.process.communicate)
                running.append(await asyncio.to_thread(Service, "glsnet.lab.broker", f"--listen={first.address}"))

        try:
            await asyncio.gather(run.encode(between), run.decode(0), run.decode(1))
        finally:
            for each in running:
                each.stop()
        run.check()

    asyncio.run(limited(main()))


def test_an_encoder_that_is_cut_off_is_gone_and_comes_back(broker: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with cutting(broker) as cutter:
            run = Run(broker, decoders=2, encoder_dials=cutter.address)

            async def between(n: int) -> None:
                if n in (5, 20):
                    await run.decoded(n)
                    assert await asyncio.to_thread(cutter.cut)

            async with spying(run) as spy:
                await asyncio.gather(run.encode(between), run.decode(0), run.decode(1))
                await spy.until(lambda: spy.of("terms")[-1:] == [b""])
        run.check()
        terms = to_bytes(run.session.terms)
        assert [data for data in spy.of("terms") if data] == 3 * [terms]
        assert spy.of("terms").count(b"") == 3  # two wills, and the end

    caplog.set_level(logging.WARNING, "glsnet")
    asyncio.run(limited(main()))
    assert "it has closed the session, or was lost" in caplog.text


def test_a_gap_in_the_broadcast_has_a_decoder_join_again(broker: str, caplog: pytest.LogCaptureFixture) -> None:
    """One that a broker makes shows as the next frame does; here a frame of rounds to come shows it."""

    async def main() -> None:
        run = Run(broker, decoders=2)
        async with spying(run) as spy:

            async def between(n: int) -> None:
                if n == 10:
                    await run.decoded(n)
                    before = len([data for data in spy.of("up") if isinstance(from_bytes(data), Join)])
                    await spy.say("indices", to_bytes(Indices.of(A.size * 2, 1, b"\0")))
                    await spy.until(lambda: len([data for data in spy.of("up") if isinstance(from_bytes(data), Join)])
                                    == before + 2)

            await asyncio.gather(run.encode(between), run.decode(0), run.decode(1))
        run.check()

    caplog.set_level(logging.WARNING, "glsnet")
    asyncio.run(limited(main()))
    assert "the next, got 3000; a broker has lost some" in caplog.text


def test_damage_and_what_comes_twice_change_nothing(broker: str) -> None:
    async def main() -> None:
        run = Run(broker, decoders=1)
        async with spying(run) as spy:

            async def between(n: int) -> None:
                if n in (10, 20):
                    await run.decoded(n)
                    for topic, data in list(spy.seen):
                        if topic.startswith(("up/", "indices")):  # with Join, End, every Ack
                            await spy.say(topic, data)
                    damaged = bytearray(spy.of("indices")[n - 1])
                    damaged[-3] ^= 1
                    await spy.say("indices", bytes(damaged))

            await asyncio.gather(run.encode(between), run.decode(0))
        run.check()

    asyncio.run(limited(main()))


def test_whoever_hears_nothing_asks_and_is_answered(broker: str) -> None:
    async def main() -> None:
        run = Run(broker, decoders=2, silence=0.3)
        async with spying(run) as spy:
            encoding, first = asyncio.create_task(run.encode()), asyncio.create_task(run.decode(0))
            await spy.until(lambda: len(spy.of("up")) >= 5)  # Join, Ack, and that again and again
            assert len({topic for topic, _ in spy.seen if topic.startswith("up/")}) == 1, "it has joined again"
            await asyncio.gather(encoding, first, run.decode(1))
        run.check()

    asyncio.run(limited(main()))


def test_errors_arrive_as_what_they_are(broker: str) -> None:
    async def main() -> None:
        run = Run(broker, decoders=2, token=b"t" * 16)
        async with run.uplink() as (_, broadcast):
            other = terms_of(Code(Gaussian(0.0, 1.0), "gls", 3, 8, sigma2=0.01), SEED)
            for join, error in (
                (Join(run.name, None, Terms()), RefusedError),
                (run.net().proven(Join(run.name, None, other, party=new_party())), TermsError),
                (run.net().proven(Join("another", None, Terms(), party=new_party())), GoneError),
            ):
                async with run.net().dial(run.address, "encoder") as pipe:
                    await pipe.write(to_bytes(join))
                    with pytest.raises(error):
                        await pipe.read()
            async with run.net().dial(run.address, "encoder") as pipe:
                await pipe.write(to_bytes(Ack(0)))
                with pytest.raises(GoneError, match="expected join first"):
                    await pipe.read()
            async with run.net().dial(run.address, "encoder") as pipe:
                await pipe.write(to_bytes(run.net().proven(run.decoders[0].join())))
                assert isinstance(from_bytes(await pipe.read() or b""), Terms)
                await pipe.close()  # and the encoder does not like that
                await broadcast.until(lambda: not run.session.acknowledged)
            async with run.net().dial(run.address, "encoder") as pipe:
                await pipe.write(to_bytes(run.net().proven(run.decoders[0].join())))
                assert isinstance(from_bytes(await pipe.read() or b""), Terms)
                broadcast.end(FrameError("no more"))
                await pipe.write(to_bytes(Ack(0)))
                with pytest.raises(FrameError, match="no more"):
                    await pipe.read()

    asyncio.run(limited(main()))


def test_without_a_broker_a_session_or_a_name_it_is_clear_what_is_missing(broker: str,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "OPEN_SECONDS", 0.3)

    async def main() -> None:
        with pytest.raises(TransportError, match=r"broker 127\.0\.0\.1:1: no MQTT broker answered"):
            async with Run("127.0.0.1:1", 1).uplink():
                pass
        run = Run(broker, 1)
        with pytest.raises(GoneError, match="to be open at broker"):
            async with run.net().dial(run.address, "encoder"):
                pass
        with pytest.raises(CallerError, match="level of a topic"):
            async with MqttNet("a/#", 1, LOCAL, None, 10.0).dial(run.address, "encoder"):
                pass
        with pytest.raises(CallerError, match="expected --tls-cert"):
            async with run.net().dial("192.0.2.1:1883", "encoder"):
                pass
        with pytest.raises(CallerError, match="qos: expected 0, 1 or 2, got 3"):
            Broker(broker, 3)

    asyncio.run(limited(main()))


def test_who_gets_in(tmp_path: Path) -> None:
    password, wrong = tmp_path / "password", tmp_path / "wrong"
    password.write_text("secret\n")
    wrong.write_text("guess\n")
    certificates.write(tmp_path / "ours", ["broker", "encoder"], {}, 30, certificates.today())
    certificates.write(tmp_path / "theirs", ["encoder"], {}, 30, certificates.today())

    ours, theirs, broker = (security_in(tmp_path / name) for name in ("ours/encoder", "theirs/encoder", "ours/broker"))

    async def tries(address: str, own: Security, login: Login | None) -> None:
        run = Run(address, 1)
        async with (mqtt.serving(Broadcast(run.session), Broker(address, 1), own, login, 10.0),
                    MqttNet(run.name, 1, own, login, 10.0).dial(address, "encoder")):
            pass

    async def main(address: str, elsewhere: str) -> None:
        await tries(address, ours, Login.of("glsnet", password))
        for own, login, error, says in (
            (ours, Login.of("glsnet", wrong), RefusedError, "let this party in"),
            (ours, None, RefusedError, "let this party in"),
            (theirs, Login.of("glsnet", password), RefusedError, "that --tls-ca has signed"),
            (LOCAL, Login.of("glsnet", password), TransportError, "no MQTT broker answered"),
        ):
            with pytest.raises(error, match=says):
                await tries(address, own, login)
        with pytest.raises(RefusedError, match="a certificate for this host"):  # which is not the meter's, 127.0.0.1
            await tries(elsewhere, ours, Login.of("glsnet", password))

    options = ["--mqtt-user=glsnet", f"--mqtt-password-file={password}", *broker.options()]
    with (service("glsnet.lab.broker", *options) as here,
          service("glsnet.lab.broker", "--listen=127.0.0.2:0", *options) as there):
        asyncio.run(limited(main(here.address, there.address)))
    with pytest.raises(CallerError, match="expected both or none"):
        Login.of("glsnet", None)
    assert "secret" not in repr(Login.of("glsnet", password))


def test_a_decoder_that_is_killed_is_missed_and_goes_on_where_it_was(broker: str, tmp_path: Path) -> None:
    plan = gaussian_plan(20_000, 2, 500, 60.0, "mqtt")
    with ExitStack() as stack:
        encoder, other, killed = at_once(*(partial(lambda *options: stack.enter_context(service(*options)), *options)
                                           for options in (("encoder_service",), ("decoder_service",),
                                                           ("decoder_service", f"--journal={tmp_path}"))))
        again: list[Service] = []
        taken = 0

        def take(drawn: Drawn) -> None:
            nonlocal taken
            taken += 1
            if taken == 10:
                killed.process.kill()
                killed.process.wait()
                again.append(Service("decoder_service", f"--journal={tmp_path}", f"--listen={killed.address}"))

        parties = Parties(encoder.address, [other.address, killed.address])
        ended = asyncio.run(play(replace(plan, broker=NamedBroker(broker)), parties, take))
        again[0].stop()
        _, log = encoder.stop()
    assert "it was lost" in log and "stream 1 lost" in log
    assert ended.missing == [] and taken == 40
    plain = asyncio.run(play(replace(plan, transport="direct"), None, lambda _: None))
    assert ended.digest == plain.digest


def test_the_command_line_starts_a_broker_and_says_what_the_encoder_sent_once() -> None:
    result = result_of("--set", "transport=mqtt", "--set", "samples=2000", "--set", "decoders=1", "--set", "frame=100")
    plain = asyncio.run(play(gaussian_plan(2000, 1, 100, PATIENCE, "direct"), None, lambda _: None))
    assert result["indices_digest"] == plain.digest.hex()
    once = result["broadcast_bits_per_sample"]
    assert once["packed"] == result["bits_per_sample"]["packed"] and once["stream"] > once["protobuf"] > once["packed"]
    console = Console(record=True, width=120, file=StringIO())
    report.show(result, console)
    assert "encoder's, once" in (text := console.export_text()) and "mqtt, QoS 1" in text
    assert "--set transport=mqtt" in glsnet("run", "gaussian", "--broker", "127.0.0.1:1883", code=2).stderr
