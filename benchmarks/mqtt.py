"""What one publish with K deliveries costs beside K streams: bits per sample and delay, MQTT beside gRPC, in one run.

All parties are in this process, so that one clock says when a sample was there and when the last decoder had decoded
it, one frame at a time; what that takes without any network is in the first row. The broker is a process of its own:
Mosquitto if it is installed, or else the one that comes with glsnet. Delays are on loopback, and through links: 5 ms
from each party to the broker, 10 ms from decoder to encoder. `python benchmarks/mqtt.py [SAMPLES_IN_A_FRAME]`.
"""

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from glsnet.codes import Code, decoding
from glsnet.compression import DecoderSession, EncoderSession, Outcomes, Samples, terms_of
from glsnet.faults import Fault
from glsnet.frames import Traffic
from glsnet.joining import new_party
from glsnet.journal import NoJournal
from glsnet.lab.broker import local_broker
from glsnet.lab.report import table_of
from glsnet.lab.trouble import troubled
from glsnet.randomness import seed_from_integer
from glsnet.sources.gaussian import Gaussian, noisy_observation
from glsnet.transport import mqtt
from glsnet.transport.exchange import METHOD, Broadcast, Metered, serve_join
from glsnet.transport.parties import nothing, run_decoder, run_encoder
from glsnet.transport.pipes import Net
from glsnet.transport.rpc import GrpcNet
from glsnet.transport.security import LOCAL
from glsnet.transport.service import serving

FRAME = int(sys.argv[1]) if len(sys.argv) > 1 else 256
FRAMES = 300
SEED = seed_from_integer(1)
LISTS = 1, 4, 16
SILENCE = PATIENCE = 60.0


class Run:
    """A session of K decoders: samples, the parties' sessions, and the delay of each frame."""

    def __init__(self, decoders: int) -> None:
        rng = np.random.default_rng(1)
        self.a = rng.standard_normal(FRAME * FRAMES)
        self.t = self.a[:, None] + 0.5**0.5 * rng.standard_normal((self.a.size, decoders))
        code = Code(Gaussian(0.0, 1.0), "gls", decoders, 8, sigma2=0.01)
        self.encoder = EncoderSession("benchmark", code, SEED)
        side = decoding(partial(noisy_observation, noise_variance=0.5))
        self.decoders = [DecoderSession("benchmark", side, SEED, terms_of(code, SEED), k, 0, new_party())
                         for k in range(decoders)]
        self.delays: list[float] = []
        self._decoded = asyncio.Semaphore(0)

    async def samples(self) -> AsyncIterator[Samples]:
        for n in range(FRAMES):
            since = time.perf_counter()
            yield self.a[n * FRAME : (n + 1) * FRAME]
            for _ in self.decoders:
                await self._decoded.acquire()
            self.delays.append(time.perf_counter() - since)

    async def encode(self, broadcast: Broadcast[EncoderSession]) -> None:
        # so that the last frame's delay is known before the end is said
        await run_encoder(GrpcNet(METHOD), broadcast, self.samples(), nothing, NoJournal(b""), len(self.decoders),
                          PATIENCE)

    async def decode(self, k: int, net: Net, address: str) -> Metered:
        async def take(first: int, count: int) -> Samples:
            t: Samples = self.t[first : first + count, k]
            return t

        async def report(_: Outcomes) -> None:
            self._decoded.release()

        return await run_decoder(net, self.decoders[k], address, nothing, take, report, NoJournal(b""), PATIENCE)

    def alone(self) -> None:
        """The same without a network."""
        for k, each in enumerate(self.decoders):
            self.encoder.receive(k, each.agree(self.encoder.join(each.join())))
        for n in range(FRAMES):
            since = time.perf_counter()
            frame, _ = self.encoder.encode(self.a[n * FRAME : (n + 1) * FRAME])
            for k, each in enumerate(self.decoders):
                each.decode(frame, np.ascontiguousarray(self.t[n * FRAME : (n + 1) * FRAME, k]))
            self.delays.append(time.perf_counter() - since)

    def ms(self) -> str:
        middle, late = np.percentile(self.delays, (50, 95)) * 1000
        return f"{middle:.1f} ({late:.1f})"


async def by_grpc(run: Run, delay: float) -> tuple[list[Metered], Traffic]:
    """What each decoder's stream took, and the encoder's uplink, which is all of them."""
    broadcast = Broadcast(run.encoder)
    handler = partial(serve_join, broadcasts={run.encoder.session: broadcast})
    async with serving("127.0.0.1:0", {METHOD: handler}) as port, distant(
            f"127.0.0.1:{port}", len(run.decoders), 2 * delay) as addresses:
        decoding = [run.decode(k, GrpcNet(METHOD), address) for k, address in enumerate(addresses[1:])]
        encoding = asyncio.create_task(run.encode(broadcast))
        legs = await asyncio.gather(*decoding)
        await encoding
    up = legs[0].rounds_down
    for each in legs[1:]:
        up += each.rounds_down
    return legs, up


async def by_mqtt(broker: str, qos: int, run: Run, delay: float) -> tuple[list[Metered], Traffic]:
    """The same by a broker; the uplink is the encoder's own connection."""
    broadcast = Broadcast(run.encoder)
    async with distant(broker, len(run.decoders), delay) as addresses:
        async with mqtt.serving(broadcast, mqtt.Broker(addresses[0], qos), LOCAL, None, SILENCE) as uplink:
            net = mqtt.MqttNet(run.encoder.session, qos, LOCAL, None, SILENCE)
            decoding = [run.decode(k, net, address) for k, address in enumerate(addresses[1:])]
            tasks = [asyncio.create_task(each) for each in decoding]
            await run.encode(broadcast)
        return [await each for each in tasks], uplink.metered().rounds_up


@asynccontextmanager
async def distant(to: str, decoders: int, delay: float) -> AsyncIterator[list[str]]:
    """By which encoder and decoders reach an address, through links with so many seconds one way."""
    names = [f"decoder {k}" for k in range(1 + decoders)]  # the first is the encoder's: links are named after decoders
    if not delay:
        yield [to] * len(names)
        return
    async with troubled(to, names, {}, [Fault(on="decoder *", kind="latency", delay=delay)], 1) as trouble:
        await trouble.start()
        yield [trouble.address[name] for name in names]


@asynccontextmanager
async def a_broker() -> AsyncIterator[tuple[str, str]]:
    """Its name and address."""
    mosquitto = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin")
    if mosquitto is None:
        async with local_broker() as process:
            yield "amqtt, which comes with glsnet", process.address
        return
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    with tempfile.TemporaryDirectory(prefix="glsnet-") as folder:
        # Without the second line, Nagle's algorithm holds small messages back for 40 ms.
        (settings := Path(folder) / "mosquitto.conf").write_text(
            f"listener {port} 127.0.0.1\nset_tcp_nodelay true\nallow_anonymous true\nlog_type none\n")
        running = await asyncio.create_subprocess_exec(mosquitto, "-c", str(settings))
        try:
            yield "Mosquitto, with set_tcp_nodelay true", f"127.0.0.1:{port}"
        finally:
            running.terminate()
            await running.wait()


async def main() -> None:
    async with AsyncExitStack() as stack:
        name, broker = await stack.enter_async_context(a_broker())
        table = table_of(
            f"{FRAMES} frames of {FRAME} samples of 3 bits, one at a time; broker: {name}", ("", "<"), ("K", ">"),
            ("to a decoder: protobuf", ">"), ("stream", ">"), ("ip", ">"), ("from it: stream", ">"), ("ip", ">"),
            ("encoder sends: stream", ">"), ("ip", ">"), ("ms on loopback", ">"), ("ms, 10 ms away", ">"))
        ways: dict[str, Callable[[Run, float], Awaitable[tuple[list[Metered], Traffic]]]] = {
            "gRPC": by_grpc, **{f"MQTT, QoS {qos}": partial(by_mqtt, broker, qos) for qos in range(3)}}
        for k in LISTS:
            Run(k).alone()  # kernels are compiled
            (alone := Run(k)).alone()
            table.add_row("no network", str(k), *[""] * 7, alone.ms(), "")
            for way, carry in ways.items():
                near, far = Run(k), Run(k)
                legs, up = await carry(near, 0.0)
                await carry(far, 0.005)
                down, back = legs[0].rounds_down, legs[0].rounds_up
                for each in legs[1:]:
                    down, back = down + each.rounds_down, back + each.rounds_up
                of = 8 / near.a.size
                table.add_row(way, str(k), *(f"{of / k * each:.3f}" for each in (
                    down.protobuf, down.stream, down.ip or 0, back.stream, back.ip or 0)),
                    f"{of * up.stream:.3f}", f"{of * (up.ip or 0):.3f}", near.ms(), far.ms())
        Console(width=160).print(table)
        print("bits per sample; ms from a frame's samples to the last decoder's outcome: median (95th percentile)")


if __name__ == "__main__":
    asyncio.run(main())
