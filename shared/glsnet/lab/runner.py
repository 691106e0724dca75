"""A run: Nature's samples through an encoder and K decoders, in this process or over a network, to one result.

    run            frames of samples -> parties -> tally -> result
    play           the same for any code: what the parties drew, frame by frame
    _direct        the sessions in this process, frame bytes handed over
    _by_services   the sessions in services, conducted over the control plane, see `feeding`; by gRPC or MQTT
"""

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np

from glsnet.codes import decoding
from glsnet.compression import (
    DecoderSession,
    EncoderSession,
    terms_of,
)
from glsnet.errors import CallerError
from glsnet.faults import concerns
from glsnet.frames import Terms, Traffic, carried
from glsnet.lab import simulation
from glsnet.lab.feeding import Conduct, Feeding, absent
from glsnet.lab.nature import Nature
from glsnet.lab.plan import Drawn, Ended, Gap, NamedBroker, Parties, Plan, add_gap
from glsnet.lab.processes import local_parties
from glsnet.lab.settings import GaussianRun
from glsnet.lab.tally import Tally
from glsnet.lab.trouble import Trouble, troubled
from glsnet.lab.tuning import code_of
from glsnet.randomness import seed_from_integer
from glsnet.sources.gaussian import Gaussian, SideInformation
from glsnet.transport.control import Conductor, DecoderOrder, Session, conducting
from glsnet.transport.exchange import Metered
from glsnet.transport.mqtt import Broker
from glsnet.transport.rpc import SILENCE_SECONDS
from glsnet.transport.security import LOCAL, is_local

Watch = Callable[[Feeding | Trouble], None]


def unwatched(_: Feeding | Trouble) -> None:
    """Nobody looks on."""


async def run(settings: GaussianRun, nature: Nature, parties: Parties | None, progress: Callable[[Tally], None],
              sink: Callable[[Drawn], None], broker: NamedBroker | None = None, watch: Watch = unwatched
              ) -> dict[str, Any]:
    """Code all of Nature's samples and measure.

    Args:
        settings: the run's.
        nature: the samples and their model.
        parties: services to use over gRPC; None starts them on this machine and stops them again.
        progress: called after every frame.
        sink: takes every frame's outcomes.
        broker: of transport mqtt, one that runs already; None starts one on this machine.
        watch: given who is at work, and what goes wrong, where there are services.

    Returns:
        the result, ready for JSON.

    Raises:
        GlsnetError: a party cannot be reached, refuses, or is lost.
    """
    code = code_of(settings, nature.source, nature.sides)
    tally = Tally(nature, code)

    def take(drawn: Drawn) -> None:
        tally.add(drawn.a, drawn.t, drawn.y, drawn.x)
        sink(drawn)
        progress(tally)

    decodings = [decoding(partial(given_side, side)) for side in nature.sides]
    plan = Plan(settings.transport, seed_from_integer(settings.seed), code, decodings, nature.sides, nature.frames,
                patience=settings.patience, every=settings.every, faults=settings.faults, fault_seed=settings.seed,
                broker=broker, qos=settings.qos)
    ended = await play(plan, parties, take, watch)
    speed = {"samples_per_second": tally.samples / ended.elapsed}
    return tally.result(settings) | speed | bits_of(ended, tally.samples, code.l_max)


def given_side(side: SideInformation, source: Gaussian) -> SideInformation:
    """What Nature knows t to tell, whatever the source's model."""
    return side


async def play(plan: Plan, parties: Parties | None, take: Callable[[Drawn], None], watch: Watch = unwatched) -> Ended:
    """Have all samples coded, give every frame's outcomes to `take`, and the end; see `run`."""
    async with AsyncExitStack() as stack:
        trouble: Trouble | None = None
        if plan.transport == "direct":
            if plan.faults:
                raise CallerError("faults: expected none with transport direct, which has no network; set another")
            outcomes = _direct(plan)
        elif plan.transport == "simulator":
            outcomes = _simulated(plan)
        else:
            late = frozenset(k for k in range(len(plan.decoders)) for fault in plan.faults
                             if fault.kind == "late" and concerns(fault, f"decoder {k}"))
            broker = None if plan.transport != "mqtt" else await stack.enter_async_context(_broker(plan, parties))
            if parties is None:
                compile_once(plan)
                security = LOCAL if plan.broker is None else plan.broker.security
                options = [] if plan.broker is None else [*plan.broker.options, *security.options()]
                encoder, decoders = await stack.enter_async_context(
                    local_parties(len(plan.decoders), *plan.options, *options, late=late, journals=bool(plan.faults)))
                parties = Parties(encoder.address, [each.address for each in decoders], security=security)
                if plan.faults:
                    processes = {each.name: each for each in (encoder, *decoders)}
                    trouble = await stack.enter_async_context(troubled(
                        encoder.address if broker is None else broker.address, [each.name for each in decoders],
                        processes, plan.faults, plan.fault_seed))
                    parties = replace(parties, links=[trouble.address[each.name] for each in decoders])
                    watch(trouble)
            elif plan.faults:
                raise CallerError("faults: expected none with --encoder and --decoder, whose links and processes are "
                                  "not this lab's, got some; leave one out")
            outcomes = _by_services(plan, replace(parties, broker=broker), late, watch)
        since = elapsed = math.nan
        async for item in await stack.enter_async_context(aclosing(outcomes)):
            match item:
                case None:
                    since = time.perf_counter()
                    if trouble is not None:
                        await trouble.start()
                case Drawn():
                    take(item)
                    elapsed = time.perf_counter() - since
                case Ended():
                    faults = item.faults if trouble is None else await trouble.realised()
                    return replace(item, elapsed=elapsed, faults=faults)
    raise AssertionError("a run ends with Ended")


async def _simulated(plan: Plan) -> AsyncGenerator[Drawn | Ended | None]:
    """In virtual time, which another thread goes through; then frame by frame."""
    yield None
    run = await asyncio.to_thread(simulation.compression, plan, plan.faults, plan.fault_seed, patience=plan.patience,
                                  every=plan.every, silence=min(SILENCE_SECONDS, plan.patience / 2))
    of = [{each.first_round: each for _, each in decoder.reports} for decoder in run.decoders]
    digest, rounds, gaps = hashlib.sha256(), 0, list[Gap]()
    for (a, t), (_, y) in zip(plan.frames(), run.encoder.reports, strict=True):
        digest.update(y.message.astype("<u2").tobytes())
        x = [each.get(rounds) for each in of]
        for k, each in enumerate(x):
            if each is None:
                add_gap(gaps, k, rounds, len(a))
        like = next((each.reconstruction for each in x if each is not None), None)
        yield Drawn(a, t, y, [each or absent(y, like) for each in x])
        rounds += len(a)
    realised = {"requested": [fault.model_dump(exclude_defaults=True) for fault in plan.faults],
                "links": [way.as_row() for way in run.network.realised()], "digest": run.network.digest,
                "virtual_seconds": run.seconds}
    yield Ended(digest.digest(), run.metered, on_network=True, missing=gaps, faults=realised)


async def _direct(plan: Plan) -> AsyncGenerator[Drawn | Ended | None]:
    encoder, terms = EncoderSession("direct", plan.code, plan.seed), terms_of(plan.code, plan.seed)
    decoders = [DecoderSession("direct", code_of, plan.seed, terms, k) for k, code_of in enumerate(plan.decoders)]
    packed = protobuf = 0
    acks = [0] * len(decoders)
    for k, decoder in enumerate(decoders):
        join, _ = carried(decoder.join())
        terms_given, _ = carried(encoder.join(join))
        agreed, acks[k] = carried(decoder.agree(terms_given))
        encoder.receive(k, agreed)
    yield None
    for a, t in plan.frames():
        frame, y = encoder.encode(a)
        arrived, size = carried(frame)
        packed, protobuf = packed + len(frame.packed), protobuf + size
        x = []
        for k, decoder in enumerate(decoders):
            encoder.outgoing(k)  # this frame, whose way as bytes was that of all
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
        if (last := decoder.end(end)) is not None:
            last, size = carried(last)
            acks[k] += size
            encoder.receive(k, last)
    none = Traffic(0, 0, 0, None)
    metered = [Metered(none, none, Traffic(packed, protobuf, 0, None), Traffic(0, up, 0, None)) for up in acks]
    yield Ended(encoder.digest, metered, on_network=False)


@asynccontextmanager
async def _broker(plan: Plan, parties: Parties | None) -> AsyncIterator[Broker]:
    """The broker that was named, or one that is started here and gone when the run is over."""
    if plan.broker is not None:
        yield Broker(plan.broker.address, plan.qos)
        return
    tls = None
    if parties is not None:
        if any(not is_local(address) for address in (parties.encoder, *parties.decoders)):
            raise CallerError("--broker: expected one, HOST:PORT, that parties on other machines can reach, got none")
        tls = parties.security.tls
    from glsnet.lab.broker import local_broker  # amqtt is for these runs alone

    async with local_broker(*([] if tls is None else tls.options())) as process:
        yield Broker(process.address, plan.qos)


async def _by_services(plan: Plan, parties: Parties, late: frozenset[int], watch: Watch
                       ) -> AsyncGenerator[Drawn | Ended | None]:
    terms, session = terms_of(plan.code, plan.seed), Session.new(plan.seed, parties.security)
    session = replace(session, broker=parties.broker)
    conducts: list[Conduct] = [
        partial(conducting, parties.encoder, f"encoder {parties.encoder}", session, terms, None)]
    for k, (address, side) in enumerate(zip(parties.decoders, plan.sides, strict=True)):
        order = DecoderOrder(parties.encoder_for(k), k, side)
        conducts.append(partial(conducting, address, f"decoder {k} at {address}",
                                replace(session, broker=parties.broker_for(k)), terms, order))
    feeding = Feeding(plan.frames, conducts, plan.patience, late, plan.every)
    watch(feeding)
    digest = hashlib.sha256()
    async with feeding.running():
        yield None
        async for frame, y, x in feeding.taken():
            digest.update(y.message.astype("<u2").tobytes())
            yield Drawn(frame.a, frame.t, y, x)
        encoder, decoders = await feeding.closings()
        seconds = [each.seconds for each in (encoder, *decoders) if each is not None]
        yield Ended(digest.digest(), [None if each is None else each.metered for each in decoders], on_network=True,
                    seconds=seconds, missing=feeding.gaps, uplink=None if encoder is None else encoder.metered)


@asynccontextmanager
async def conducted(parties: Parties, seed: bytes, terms: Terms, sides: Sequence[SideInformation | None]
                    ) -> AsyncIterator[tuple[Conductor, list[Conductor]]]:
    """Open a new session at an encoder and its decoders; give them once all have agreed."""
    session = Session.new(seed, parties.security)
    async with AsyncExitStack() as stack:
        encoder = await stack.enter_async_context(
            conducting(parties.encoder, f"encoder {parties.encoder}", session, terms, None)
        )
        await encoder.opened()
        decoders = [
            await stack.enter_async_context(conducting(
                address, f"decoder {k} at {address}", session, terms, DecoderOrder(parties.encoder, k, side)
            ))
            for k, (address, side) in enumerate(zip(parties.decoders, sides, strict=True))
        ]
        await asyncio.gather(*(decoder.opened() for decoder in decoders))
        yield encoder, decoders


def compile_once(plan: Plan) -> None:
    """Fill the cache of compiled kernels, which the parties' processes then share, instead of compiling in each."""
    a, t = next(plan.frames())
    key, code, decoder = np.uint64(0), plan.code, plan.decoders[0](plan.code.terms())
    messages, _ = code.encode(key, 0, a[:1])
    data = code.pack(key, 0, messages)
    decoder.decode(key, 0, np.ascontiguousarray(t[:1, 0]), decoder.unpack(key, 0, 1, data), 0)


def bits_of(ended: Ended, samples: int, l_max: int) -> dict[str, Any]:
    """Bits per sample at every layer, towards each decoder, warm; and the way back and the set-up apart.

    With a broker, also of the broadcast: what the encoder sends once, on its own connection, for all decoders.
    """
    metered = [each for each in ended.metered if each is not None]
    down = [each.rounds_down for each in metered]
    setups = {"down": [each.setup_down.stream for each in metered], "up": [each.setup_up.stream for each in metered]}
    return {
        "bits_per_sample": {"information": math.log2(l_max)} | per_sample(down, samples, ended.on_network),
        "bits_per_sample_of_each_decoder": [per_sample([each], samples, ended.on_network) for each in down],
        "uplink_bits_per_sample": per_sample([each.rounds_up for each in metered], samples, ended.on_network),
        "setup_bytes": setups if ended.on_network else {"down": None, "up": None},
        "broadcast_bits_per_sample": None if ended.uplink is None else per_sample(
            [ended.uplink.rounds_up], samples, ended.on_network),
        "indices_digest": ended.digest.hex(),
        "missing": [asdict(gap) for gap in ended.missing],
        "faults": ended.faults,
    }


def per_sample(traffic: Sequence[Traffic], samples: int, on_network: bool) -> dict[str, float | None]:
    """Bits per sample at each layer below the indices' information, the mean over the decoders given, None of none."""
    if not traffic:
        return dict.fromkeys(("packed", "protobuf", "stream", "ip"))
    scale = 8 / (samples * len(traffic))
    ip = [each.ip for each in traffic if each.ip is not None]
    return {
        "packed": scale * sum(each.packed for each in traffic),
        "protobuf": scale * sum(each.protobuf for each in traffic),
        "stream": scale * sum(each.stream for each in traffic) if on_network else None,
        "ip": scale * sum(ip) if len(ip) == len(traffic) else None,
    }
