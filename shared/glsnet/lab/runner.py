"""A run: Nature's samples through an encoder and K decoders, in this process or over gRPC, to one result.

    run            frames of samples -> parties -> tally -> result
    _direct        the sessions in this process, frame bytes handed over
    _over_grpc     the sessions in services, conducted over the control plane
"""

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from glsnet import codes
from glsnet.codes import Code
from glsnet.compression import DecoderSession, EncoderSession, Outcomes, terms_of
from glsnet.errors import FrameError
from glsnet.frames import Terms, Traffic, carried
from glsnet.lab.nature import Nature
from glsnet.lab.processes import local_parties
from glsnet.lab.settings import GaussianRun
from glsnet.lab.tally import Tally
from glsnet.lab.tuning import code_of
from glsnet.race import FloatArray
from glsnet.randomness import seed_from_integer
from glsnet.sources.gaussian import SideInformation
from glsnet.transport.control import Closed, Conductor, DecoderOrder, conducting
from glsnet.transport.exchange import Metered

WINDOW = 8  # frames under way


@dataclass(frozen=True)
class Parties:
    """Addresses, HOST:PORT, of services that run already."""

    encoder: str
    decoders: list[str]


@dataclass(frozen=True)
class Drawn:
    """One frame's samples, shapes [R] and [R, K], and what the parties drew for them."""

    a: FloatArray
    t: FloatArray
    y: Outcomes
    x: list[Outcomes]


@dataclass(frozen=True)
class Ended:
    """The end of a run: the digest of all indices, and each decoder's bytes; those of the network only over gRPC."""

    digest: bytes
    metered: list[Metered]
    on_network: bool


async def run(settings: GaussianRun, nature: Nature, parties: Parties | None, progress: Callable[[Tally], None],
              sink: Callable[[Drawn], None]) -> dict[str, Any]:
    """Code all of Nature's samples and measure.

    Args:
        settings: the run's.
        nature: the samples and their model.
        parties: services to use over gRPC; None starts them on this machine and stops them again.
        progress: called after every frame.
        sink: takes every frame's outcomes.

    Returns:
        the result, ready for JSON.

    Raises:
        GlsnetError: a party cannot be reached, refuses, or is lost.
    """
    code = code_of(settings, nature.source, nature.sides)
    tally = Tally(nature, code)
    ended = None
    async with AsyncExitStack() as stack:
        if settings.transport == "direct":
            outcomes = _direct(settings, code, nature)
        else:
            if parties is None:
                compile_once(code, nature)
                parties = Parties(*await stack.enter_async_context(local_parties(len(nature.sides))))
            outcomes = _over_grpc(settings, code, nature, parties)
        since = math.nan
        async for item in await stack.enter_async_context(aclosing(outcomes)):
            match item:
                case None:
                    since = time.perf_counter()
                case Drawn():
                    tally.add(item.a, item.t, item.y, item.x)
                    sink(item)
                    progress(tally)
                    seconds = time.perf_counter() - since
                case Ended():
                    ended = item
    assert ended is not None
    speed = {"samples_per_second": tally.samples / seconds}
    return tally.result(settings) | speed | _bits(tally, ended, code)


async def _direct(settings: GaussianRun, code: Code, nature: Nature) -> AsyncGenerator[Drawn | Ended | None]:
    seed = seed_from_integer(settings.seed)
    encoder, terms = EncoderSession("direct", code, seed), terms_of(code, seed)

    def decoder_with(side: SideInformation, k: int) -> DecoderSession:
        return DecoderSession("direct", lambda _: side, seed, terms, k)

    decoders = [decoder_with(side, k) for k, side in enumerate(nature.sides)]
    packed = protobuf = 0
    acks = [0] * len(decoders)
    for k, decoder in enumerate(decoders):
        join, _ = carried(decoder.join())
        terms_given, _ = carried(encoder.join(join))
        agreed, acks[k] = carried(decoder.agree(terms_given))
        encoder.receive(k, agreed)
    yield None
    for a, t in nature.frames():
        frame, y = encoder.encode(a)
        arrived, size = carried(frame)
        packed, protobuf = packed + len(frame.packed), protobuf + size
        x = []
        for k, decoder in enumerate(decoders):
            drawn, ack = decoder.decode(arrived, np.ascontiguousarray(t[:, k]))
            if ack is not None:
                ack, size = carried(ack)
                acks[k] += size
                encoder.receive(k, ack)
            x.append(drawn)
        yield Drawn(a, t, y, x)
        await asyncio.sleep(0)  # lets Ctrl-C in
    end, size = carried(encoder.end())
    protobuf += size
    for k, decoder in enumerate(decoders):
        last, size = carried(decoder.end(end))
        acks[k] += size
        encoder.receive(k, last)
    none = Traffic(0, 0, 0, None)
    metered = [Metered(none, none, Traffic(packed, protobuf, 0, None), Traffic(0, up, 0, None)) for up in acks]
    yield Ended(encoder.digest, metered, on_network=False)


async def _over_grpc(settings: GaussianRun, code: Code, nature: Nature, parties: Parties
                     ) -> AsyncGenerator[Drawn | Ended | None]:
    seed = seed_from_integer(settings.seed)
    async with conducted(parties, os.urandom(8).hex(), seed, terms_of(code, seed), nature.sides) as (encoder, decoders):
        yield None
        under_way: deque[tuple[FloatArray, FloatArray]] = deque()

        async def collect() -> Drawn:
            y, *x = await asyncio.gather(encoder.outcomes(), *(decoder.outcomes() for decoder in decoders))
            for drawn in x:
                if not np.array_equal(drawn.message, y.message):
                    raise FrameError(f"round {y.first_round}: a decoder took other indices than the encoder sent")
            return Drawn(*under_way.popleft(), y, x)

        for a, t in nature.frames():
            if len(under_way) == WINDOW:
                yield await collect()
            under_way.append((a, t))
            await asyncio.gather(encoder.send(a), *(
                decoder.send(np.ascontiguousarray(t[:, k])) for k, decoder in enumerate(decoders)
            ))
        while under_way:
            yield await collect()
        await encoder.end()
        yield Ended(*await closings(encoder, decoders), on_network=True)


@asynccontextmanager
async def conducted(parties: Parties, session: str, seed: bytes, terms: Terms, sides: Sequence[SideInformation | None]
                    ) -> AsyncIterator[tuple[Conductor, list[Conductor]]]:
    """Open a session at an encoder and its decoders; give them once all have agreed."""
    async with AsyncExitStack() as stack:
        encoder = await stack.enter_async_context(
            conducting(parties.encoder, f"encoder {parties.encoder}", session, seed, terms, None)
        )
        await encoder.opened()
        decoders = [
            await stack.enter_async_context(conducting(
                address, f"decoder {k} at {address}", session, seed, terms, DecoderOrder(parties.encoder, k, side)
            ))
            for k, (address, side) in enumerate(zip(parties.decoders, sides, strict=True))
        ]
        await asyncio.gather(*(decoder.opened() for decoder in decoders))
        yield encoder, decoders


async def closings(encoder: Conductor, decoders: Sequence[Conductor]) -> tuple[bytes, list[Metered]]:
    """The end of a session: the encoder's digest, and what each decoder's exchange took."""
    closed: Sequence[Closed] = await asyncio.gather(encoder.closed(), *(each.closed() for each in decoders))
    return closed[0].digest, [each.metered for each in closed if each.metered]


def compile_once(code: Code, nature: Nature) -> None:
    """Fill the cache of compiled kernels, which the parties' processes then share, instead of compiling in each."""
    key, side = np.uint64(0), nature.sides[0]
    messages, _ = codes.encode(code, key, 0, np.array([nature.source.mean]))
    packed = codes.pack(code, key, 0, messages)
    codes.decode(code, side, key, 0, np.array([nature.source.mean]), codes.unpack(code, key, 0, 1, packed), 0)


def _bits(tally: Tally, ended: Ended, code: Code) -> dict[str, Any]:
    """Bits per sample at every layer, towards each decoder, warm; and the way back and the set-up apart."""
    down = [each.rounds_down for each in ended.metered]
    setups = {"down": [each.setup_down.stream for each in ended.metered],
              "up": [each.setup_up.stream for each in ended.metered]}
    return {
        "bits_per_sample": {"information": math.log2(code.l_max)} | per_sample(down, tally.samples, ended.on_network),
        "bits_per_sample_of_each_decoder": [per_sample([each], tally.samples, ended.on_network) for each in down],
        "uplink_bits_per_sample": per_sample([each.rounds_up for each in ended.metered], tally.samples,
                                             ended.on_network),
        "setup_bytes": setups if ended.on_network else {"down": None, "up": None},
        "indices_digest": ended.digest.hex(),
    }


def per_sample(traffic: Sequence[Traffic], samples: int, on_network: bool) -> dict[str, float | None]:
    """Bits per sample at each layer below the indices' information, the mean over the decoders given."""
    scale = 8 / (samples * len(traffic))
    ip = [each.ip for each in traffic if each.ip is not None]
    return {
        "packed": scale * sum(each.packed for each in traffic),
        "protobuf": scale * sum(each.protobuf for each in traffic),
        "stream": scale * sum(each.stream for each in traffic) if on_network else None,
        "ip": scale * sum(ip) if len(ip) == len(traffic) else None,
    }
