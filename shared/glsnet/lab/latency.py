"""What a network does to speculation and to compression: experiments in virtual time, with the parties' own code.

    run            settings -> every experiment below -> one result
    speculated     time per token against round trip, jitter, bandwidth, L, K and how far drafters draft ahead
    crossovers     the round trip at which speculation is no faster any more than none
    capacity       tokens per second of a target with one processor, against its clients
    batches        bits per sample against delay, as frames grow
    timeline       who does what, when, in one request

Forward passes take so much virtual time, whatever the model; how often a drafter is right is a setting.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from glsnet.codes import decoding
from glsnet.faults import Fault
from glsnet.generation import Asked
from glsnet.lab import nature, simulation
from glsnet.lab.plan import Plan
from glsnet.lab.runner import given_side
from glsnet.lab.settings import GaussianRun, LatencyRun
from glsnet.lab.simulation import Costs, Requests, Spoken
from glsnet.lab.tuning import code_of
from glsnet.language.synthetic import SyntheticModel
from glsnet.randomness import seed_from_integer

Row = dict[str, Any]
Progress = Callable[[int, int, str], None]  # how much is done, of how much, and what it is
LIMIT = 1e6  # virtual seconds
PATIENCE = 1e4
JOINING = 0.5  # virtual seconds, and more than it takes decoders to join
QUANTILES = (0.5, 0.95, 0.99)
# Round trips, milliseconds, and their jitter: orders of magnitude, as operators of networks commonly state them.
PROFILES = {
    "same rack": (0.2, 0.05), "same zone": (0.7, 0.2), "same region": (2.0, 0.5), "neighbouring region": (20.0, 2.0),
    "across a continent": (60.0, 5.0), "across an ocean": (90.0, 8.0), "other side of the world": (220.0, 15.0),
}


def run(settings: LatencyRun, progress: Progress) -> Row:
    """All experiments; the result is ready for JSON."""
    points = [*_points(settings)]
    clients, frames = settings.clients, settings.frames
    steps = len(points) + 3 * len(clients) + len(frames) + 2
    done = 0

    def step(what: str) -> None:
        nonlocal done
        progress(done, steps, what)
        done += 1

    rows = []
    for point in points:
        step(f"speculation, {point['axis']} {point['value']}")
        rows.append(point | speculated(settings, point))
    served = []
    for count in clients:
        for where in ("elsewhere", "at the target", "nowhere"):
            step(f"capacity, {count} clients, drafting {where}")
            served.append(capacity(settings, count, where))
    coded = []
    for frame in frames:
        step(f"compression, frames of {frame}")
        coded.append(batches(settings, frame))
    lines = {}
    for ahead in (0, max(settings.aheads)):
        step("timeline")
        lines[str(ahead)] = timeline(settings, ahead)
    return {
        "settings": settings.model_dump(mode="json"), "speculation": rows, "crossover": crossovers(settings, rows),
        "none": {"mean": settings.verify, **{f"p{100 * q:g}": settings.verify for q in QUANTILES}},
        "capacity": served, "compression": coded, "timelines": lines,
    }


def _points(settings: LatencyRun) -> Iterator[Row]:
    """A base, and one axis of it at a time; round trips with every L and every `ahead`."""
    base = {"rtt": settings.rtt, "length": settings.length, "drafts": settings.drafts, "ahead": 0, "jitter": 0.0,
            "distribution": None, "rate": None}
    for ahead in settings.aheads:
        for rtt in settings.rtts:
            yield {"axis": "round trip", "value": rtt} | base | {"rtt": rtt, "ahead": ahead}
    for length in settings.lengths:
        for rtt in settings.rtts:
            if length != settings.length:
                yield {"axis": "L", "value": length} | base | {"rtt": rtt, "length": length}
    for drafts in settings.lists:
        for ahead in (0, max(settings.aheads)):
            yield {"axis": "K", "value": drafts} | base | {"drafts": drafts, "ahead": ahead}
    for distribution in ("uniform", "normal", "pareto"):
        for ahead in (0, max(settings.aheads)):
            yield {"axis": "jitter", "value": distribution} | base | {
                "jitter": settings.rtt / 4, "distribution": distribution, "ahead": ahead}
    for rate in settings.rates:
        for ahead in (0, max(settings.aheads)):
            yield {"axis": "bandwidth", "value": rate} | base | {"rate": rate, "ahead": ahead}
    for name, (milliseconds, jitter) in PROFILES.items():
        for ahead in (0, max(settings.aheads)):
            yield {"axis": "profile", "value": name} | base | {
                "rtt": milliseconds / 1000, "jitter": jitter / 2000, "distribution": "normal", "ahead": ahead}


def _faults(point: Row) -> list[Fault]:
    """A link as a point says: half of the round trip each way."""
    latency: Row = {"on": "drafter *", "kind": "latency", "delay": point["rtt"] / 2}
    if point["distribution"] is not None:
        latency |= {"jitter": point["jitter"], "distribution": point["distribution"]}
    bandwidth = [] if point["rate"] is None else [Fault(on="drafter *", kind="bandwidth", rate=point["rate"])]
    return [Fault.model_validate(latency), *bandwidth]


def _requests(settings: LatencyRun, point: Row, count: int) -> Requests:
    """So many requests, and a draft server for each stream."""
    asked = [Asked(f"latency {number}", settings.tokens, seed=number, scheme=settings.scheme, drafts=point["drafts"],
                   length=point["length"], ahead=point["ahead"]) for number in range(count)]
    target = SyntheticModel(settings.seed)
    drafters = [(SyntheticModel(settings.seed, settings.noise), [k]) for k in range(point["drafts"])]
    return Requests(asked, target, drafters, settings.verify, settings.draft, point["drafts"],
                    seed_from_integer(settings.seed), waits=None, warm_up=1 + 20 * point["rtt"])


def speculated(settings: LatencyRun, point: Row) -> Row:
    """Time per token, and what it went into, of requests one after another.

    mean is seconds per token; p50 to p99 are quantiles, over tokens, of a block's time by its tokens.
    """
    alone = [_played(settings, point, number) for number in range(settings.requests)]
    finished = [each.told[0].finished for each in alone]
    assert all(each is not None for each in finished)
    gaps = [gap for each in alone for gap in _gaps(each)]
    tokens = sum(each.tokens for each in finished if each)
    blocks = sum(each.blocks for each in finished if each)
    seconds = sum(each.seconds for each in finished if each)
    sent = sum(each.tokens_sent for each in finished if each)
    moved = sum(each.down.stream + each.up.stream for each in finished if each)
    return {
        "mean": seconds / tokens, **{f"p{100 * q:g}": float(np.quantile(gaps, q)) for q in QUANTILES},
        "block_efficiency": tokens / blocks, "seconds_per_block": seconds / blocks,
        "wasted_share": sum(each.wasted for each in finished if each) / max(1, sent),
        "target_waits_share": sum(each.wait_seconds for each in finished if each) / seconds,
        "trips_per_token": sum(each.round_trips for each in finished if each) / tokens,
        "bytes_per_token": moved / tokens,
        "gaps": sorted(gaps),
    }


def _played(settings: LatencyRun, point: Row, number: int) -> Spoken:
    requests = _requests(settings, point, settings.requests)
    return simulation.speculation(replace(requests, asked=[requests.asked[number]]), _faults(point), settings.seed,
                                  patience=PATIENCE, limit=LIMIT)


def _gaps(spoken: Spoken) -> list[float]:
    """Seconds of each token: its block's time by its tokens."""
    told = spoken.told[0]
    times, counts = np.unique(np.array(told.times), return_counts=True)
    starts = [told.began, *times[:-1].tolist()]
    return [(end - start) / count for start, end, count in zip(starts, times.tolist(), counts.tolist(), strict=True)
            for _ in range(count)]


def crossovers(settings: LatencyRun, rows: Sequence[Row]) -> list[Row]:
    """For each L and each `ahead`, the round trip at which a token takes as long as without speculation.

    By interpolation between the round trips that were run; None if it is faster, or slower, at all of them. Beside it
    what a block of verify + L draft + round trip seconds says, which holds without drafting ahead.
    """
    found = []
    for ahead, length in [*((ahead, settings.length) for ahead in settings.aheads),
                          *((0, length) for length in settings.lengths if length != settings.length)]:
        curve = [(row["rtt"], row["mean"], row["block_efficiency"]) for row in rows
                 if row["axis"] in ("round trip", "L") and (row["ahead"], row["length"]) == (ahead, length)]
        crossing = None
        for (low, faster, _), (high, slower, _) in pairwise(curve):
            if faster < settings.verify <= slower:
                crossing = low + (high - low) * (settings.verify - faster) / (slower - faster)
        efficiency = curve[0][2]
        predicted = (efficiency - 1) * settings.verify - length * settings.draft
        found.append({"ahead": ahead, "length": length, "rtt": crossing,
                      "predicted": predicted if ahead == 0 else None})
    return found


def capacity(settings: LatencyRun, clients: int, where: str) -> Row:
    """All clients at once, at a target that computes one pass after another.

    Drafting is elsewhere, `rtt` away and with a processor for each draft server; at the target, whose processor then
    does those passes, too; or there is none.
    """
    point = {"rtt": settings.rtt, "length": settings.length, "drafts": settings.drafts, "ahead": 0, "jitter": 0.0,
             "distribution": None, "rate": None}
    requests = replace(_requests(settings, point, clients), shared=True)
    faults = _faults(point)
    if where == "at the target":
        requests = replace(requests, verify=settings.verify + settings.length * settings.draft, draft=0.0)
        faults = []
    elif where == "nowhere":
        requests = replace(requests, asked=[replace(each, scheme="none", drafts=1, length=0)
                                            for each in requests.asked])
        faults = []
    spoken = simulation.speculation(requests, faults, settings.seed, patience=PATIENCE, limit=LIMIT)
    tokens = sum(len(each.tokens) for each in spoken.told)
    seconds = max(each.times[-1] for each in spoken.told) - min(each.began for each in spoken.told)
    gaps = np.concatenate([np.diff([each.began, *each.times]) for each in spoken.told])
    per_token = np.array([(each.times[-1] - each.began) / len(each.tokens) for each in spoken.told])
    return {"clients": clients, "drafting": where, "tokens_per_second": tokens / seconds,
            "mean": float(per_token.mean()), "slowest": float(per_token.max()),
            "p99_gap": float(np.quantile(gaps, 0.99))}


def batches(settings: LatencyRun, frame: int) -> Row:
    """Compression of samples that arrive at a steady rate, in frames of so many.

    delay is the mean over samples from when one is there to its last reconstruction: until its frame is full, on the
    network, in computing; p99 of frames' delays. bits are towards one decoder, per sample, by layer.
    """
    count = max(settings.samples // frame, 8, int(2 * JOINING * settings.arrivals / frame) + 1) * frame
    run = GaussianRun(decoders=settings.decoders, samples=count, frame=frame, sigma2=0.01, seed=settings.seed)
    samples = nature.synthetic(run)
    code = code_of(run, samples.source, samples.sides)
    plan = Plan("simulator", seed_from_integer(run.seed), code,
                [decoding(partial(given_side, side)) for side in samples.sides], samples.sides, samples.frames)
    faults = [Fault(on="decoder *", kind="latency", delay=settings.rtt / 2),
              Fault(on="decoder *", kind="bandwidth", rate=settings.link)]
    every = frame / settings.arrivals
    costs = Costs(frame * settings.encode, frame * settings.decode)
    played = simulation.compression(plan, faults, settings.seed, patience=PATIENCE, every=every, costs=costs,
                                    limit=LIMIT)
    last: dict[int, float] = {}
    for decoder in played.decoders:
        for at, outcomes in decoder.reports:
            first = outcomes.first_round
            last[first] = max(last.get(first, 0.0), at - played.offered[first])
    joined = [delay for first, delay in last.items() if played.offered[first] >= JOINING]  # the first wait for decoders
    delays = np.array(joined)
    filling = (frame - 1) / (2 * settings.arrivals)
    down = [each.rounds_down for each in played.metered if each is not None]
    scale = 8 / (count * len(down))
    return {
        "frame": frame, "delay": float(delays.mean()) + filling, "filling": filling,
        "p99": float(np.quantile(delays, 0.99)) + filling,
        "bits": {"packed": scale * sum(each.packed for each in down),
                 "protobuf": scale * sum(each.protobuf for each in down),
                 "stream": scale * sum(each.stream for each in down), "ip": scale * sum(each.ip or 0 for each in down)},
    }


def timeline(settings: LatencyRun, ahead: int) -> Row:
    """The first blocks of one request: what was asked and came, and who computed when, seconds since its beginning."""
    point = {"rtt": settings.rtt, "length": settings.length, "drafts": settings.drafts, "ahead": ahead, "jitter": 0.0,
             "distribution": None, "rate": None}
    played = _played(settings, point, 0)
    (all_marks,) = played.timelines
    marks = [mark for mark in all_marks if mark.block < settings.blocks]
    since, until = marks[0].seconds, marks[-1].seconds + settings.verify
    return {
        "marks": [{"block": mark.block, "what": mark.what, "server": mark.server, "seconds": mark.seconds - since}
                  for mark in marks],
        "busy": {name: [(start - since, end - since) for start, end in spans if start < until]
                 for name, spans in played.busy.items()},
        "seconds": until - since,
    }
