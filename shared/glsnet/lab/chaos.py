"""Chaos: runs with random faults, each from one seed, and what must hold of them all.

    Trial          a run: its settings and faults; `trial_of` makes one from a seed
    simulated      plays a trial in virtual time -> Verdict
    real           plays one with processes over gRPC -> Verdict
    problems_of_rounds, problems_of_texts    the checkers: pure functions of what the parties recorded
    smallest       of a trial that fails, one with as few faults as still make it fail
"""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glsnet.codes import Code, decoding
from glsnet.compression import DecoderSession, EncoderSession, Outcomes, terms_of
from glsnet.errors import GlsnetError
from glsnet.faults import Fault, faults_of
from glsnet.generation import Asked, Piece
from glsnet.journal import Entry
from glsnet.lab import nature, simulation
from glsnet.lab.plan import Drawn, Plan
from glsnet.lab.processes import JOINED, Process, stopped
from glsnet.lab.runner import given_side, play
from glsnet.lab.settings import GaussianRun
from glsnet.lab.simulation import Requests, Rounds, Told
from glsnet.lab.trouble import troubled
from glsnet.lab.tuning import code_of
from glsnet.language.synthetic import SyntheticModel
from glsnet.randomness import seed_from_integer
from glsnet.speculation import TargetSession, generate
from glsnet.transport import speculating

What = Literal["compression", "speculation"]
PATIENCE = 60.0  # seconds; longer than any fault lasts
LIMIT = 600.0  # seconds that a run has, virtual ones: the liveness bound
SILENCE = 2.0
REAL_LIMIT = 240.0  # seconds


@dataclass(frozen=True)
class Trial:
    """A run: what, between how many, and what goes wrong.

    Attributes:
        what: compression, or speculation in the strong scheme.
        seed: from which all of it was made.
        peers: decoders, or drafters.
        rounds: frames, or tokens of each text.
        size: samples in a frame, or L.
        every: seconds between frames; 0 of texts.
        faults: what goes wrong.
    """

    what: What
    seed: int
    peers: int
    rounds: int
    size: int
    every: float
    faults: tuple[Fault, ...]


@dataclass(frozen=True)
class Verdict:
    """What came of a trial: nothing wrong, or what; and the trace's digest, virtual seconds, and messages."""

    problems: list[str]
    digest: str = ""
    seconds: float = 0.0
    messages: int = 0
    events: dict[str, int] = field(default_factory=dict)


def trial_of(seed: int, real: bool = False) -> Trial:
    """The trial of a seed; `real` has no faults that only the simulator knows, and is shorter."""
    chance = random.Random(f"chaos {seed} {real}")
    what: What = chance.choice(("compression", "compression", "speculation"))
    if what == "compression":
        peers, rounds, size = chance.randint(1, 5), chance.randint(20, 60), chance.choice((1, 4, 16))
        every = chance.uniform(0.02, 0.2)
        seconds = rounds * every
        names, host = [f"decoder {k}" for k in range(peers)], "encoder"
    else:
        peers, rounds, size, every = chance.randint(1, 3), chance.randint(20, 80), chance.randint(1, 5), 0.0
        seconds = 0.1 * rounds
        names, host = [f"drafter {d}" for d in range(peers)], "target"
    made = [_fault(chance, what, names, host, seconds, real) for _ in range(chance.randint(1, 7))]
    return Trial(what, seed, peers, rounds, size, every, faults_of(made))


def _fault(chance: random.Random, what: What, names: Sequence[str], host: str, seconds: float, real: bool
           ) -> dict[str, Any]:
    """A table of a scenario: one fault, at some time of a run that takes so many seconds."""
    kinds = ["latency", "bandwidth", "corrupt", "timeout", "reset_peer", "limit_data", "down", "slicer", "kill", "kill",
             "pause"]
    if not real:
        kinds += ["loss", "skew"] + (["duplicate", "reorder"] if what == "compression" else [])
    kind = chance.choice(kinds)
    on = chance.choice([*names, names[0].split()[0] + " *"])
    if kind in ("kill", "pause"):
        on = chance.choice([*names, host] if kind == "kill" else names)
    fault: dict[str, Any] = {"on": on, "kind": kind}
    match kind:
        case "latency":
            distribution = chance.choice(("constant", "uniform", "normal", "pareto"))
            fault |= {"delay": chance.uniform(0, 0.2), "distribution": distribution}
            fault |= {} if distribution == "constant" else {"jitter": chance.uniform(0, 0.1)}
        case "bandwidth":
            fault["rate"] = chance.uniform(2_000, 50_000)
        case "slicer":
            fault |= {"size": chance.randint(1, 200), "gap": chance.uniform(0, 0.01)}
        case "limit_data":
            fault["size"] = chance.randint(1_500, 20_000)
        case "corrupt" | "loss" | "duplicate" | "reorder":
            fault["chance"] = chance.uniform(0.01, 0.15)
        case "skew":
            fault["factor"] = chance.choice((0.5, 0.9, 1.1, 2.0))
    if kind not in ("kill", "pause", "skew", "reset_peer", "down", "limit_data"):
        fault["direction"] = chance.choice(("down", "up", "both"))
    fault["at"] = chance.uniform(0, seconds)
    if kind in ("latency", "bandwidth", "slicer", "skew"):
        if chance.random() < 0.5:
            fault["lasting"] = chance.uniform(0.5, 5)
    else:
        fault["lasting"] = chance.uniform(0.1, 4)
    if "lasting" in fault and chance.random() < 0.3 and kind not in ("kill", "pause"):
        fault["every"] = fault["lasting"] + chance.uniform(2, 6)
    return fault


def plan_of(trial: Trial, transport: str) -> Plan:
    """What a trial of compression codes."""
    settings = GaussianRun(decoders=trial.peers, samples=max(2, trial.rounds * trial.size), frame=trial.size,
                           sigma2=0.01, seed=trial.seed)
    samples = nature.synthetic(settings)
    code = code_of(settings, samples.source, samples.sides)
    decodings = [decoding(partial(given_side, side)) for side in samples.sides]
    return Plan(transport, seed_from_integer(trial.seed), code, decodings, samples.sides, samples.frames)


def undisturbed(plan: Plan) -> tuple[list[Entry], list[list[Outcomes]]]:
    """What the encoder, and each decoder, does where nothing goes wrong: the sessions in this process."""
    encoder, terms = EncoderSession("direct", plan.code, plan.seed), terms_of(plan.code, plan.seed)
    assert isinstance(plan.code, Code)
    decoders = [DecoderSession("direct", code_of, plan.seed, terms, k) for k, code_of in enumerate(plan.decoders)]
    for decoder in decoders:
        encoder.receive(decoder._join.stream or 0, decoder.agree(encoder.join(decoder.join())))
    entries: list[Entry] = []
    outcomes: list[list[Outcomes]] = [[] for _ in decoders]
    for a, t in plan.frames():
        entries.append(Entry(*encoder.encode(a)))
        for k, decoder in enumerate(decoders):
            outcomes[k].append(decoder.decode(entries[-1].frame, np.ascontiguousarray(t[:, k]))[0])
    return entries, outcomes


def problems_of_rounds(plan: Plan, encoder: Rounds, decoders: Sequence[Rounds]) -> list[str]:
    """What is wrong with the journals of a run: nothing, if

    - the encoder has made every frame once, to the bit that of the undisturbed run;
    - each decoder has every round exactly once, in its journal and at the lab, equal to the undisturbed run, or has
      said that it was lost: sent = received + lost-and-reported;
    - all have come to their end, but for a decoder that was killed when it had all and had only not been told so.
    """
    entries, outcomes = undisturbed(plan)
    found = []
    if [entry.frame for entry in encoder.journal] != [entry.frame for entry in entries]:
        found.append(f"encoder: expected the {len(entries)} frames of the undisturbed run, got "
                     f"{len(encoder.journal)}, or others")
    if not encoder.ended:
        found.append(f"encoder: expected an end, got {encoder.error or 'none'}")
    rounds = sum(entry.frame.count for entry in entries)
    for k, (of, expected) in enumerate(zip(decoders, outcomes, strict=True)):
        by_round = {each.first_round: each for each in expected}
        for where, got in (("journal", [entry.outcomes for entry in of.journal]),
                           ("lab", [each for _, each in of.reports])):
            found += [f"decoder {k}: {where}: {problem}" for problem in _compared(got, by_round, of.lost, rounds)]
        killed_at_the_end = of.starts > 1 and of.next_round == rounds  # before it was told that there is no more
        if not of.ended and not killed_at_the_end:
            found.append(f"decoder {k}: expected an end, got {of.error or 'none'}")
    return found


def _compared(got: Sequence[Outcomes], expected: dict[int, Outcomes], lost: Sequence[tuple[int, int]], rounds: int
              ) -> list[str]:
    firsts = [each.first_round for each in got]
    found = [] if len({*firsts}) == len(firsts) else ["expected each round once, got some twice"]
    if any(not _same(each, expected[each.first_round]) for each in got if each.first_round in expected):
        found.append("expected what an undisturbed run gives, got something else")
    have = sum(each.message.size for each in got) + sum(below - first for first, below in lost)
    if have != rounds:
        found.append(f"expected {rounds} rounds, received or lost and said so, got {have}")
    return found


def _same(one: Outcomes, other: Outcomes) -> bool:
    return bool(one.matches(other).all()) and np.array_equal(one.reconstruction, other.reconstruction)  # type: ignore[arg-type]


def requests_of(trial: Trial) -> Requests:
    """What the clients of a trial of speculation ask for: two texts in the strong scheme, one drafted ahead."""
    asked = [Asked(f"chaos {trial.seed}", trial.rounds, seed=client, scheme="gls-strong", drafts=trial.peers,
                   length=trial.size, ahead=ahead) for client, ahead in enumerate((0, 2))]
    drafters = [(SyntheticModel(trial.seed, 0.7), [d]) for d in range(trial.peers)]
    return Requests(asked, SyntheticModel(trial.seed), drafters, 0.03, 0.005, trial.peers,
                    seed_from_integer(trial.seed), waits=1.0)


def problems_of_texts(told: Sequence[Told], undisturbed: Sequence[Told]) -> list[str]:
    """What is wrong with texts of the strong scheme: nothing, if each is, to the bit, that of the undisturbed run."""
    found = []
    for client, (one, other) in enumerate(zip(told, undisturbed, strict=True)):
        if one.error or one.finished is None:
            found.append(f"client {client}: expected an end, got {one.error or 'none'}")
        elif one.tokens != other.tokens:
            found.append(f"client {client}: expected the text of the undisturbed run, got another")
    return found


def simulated(trial: Trial, record: Callable[[bytes], None] | None = None) -> Verdict:
    """Play a trial in virtual time, and judge it."""
    try:
        if trial.what == "compression":
            plan = plan_of(trial, "simulator")
            run = simulation.compression(plan, trial.faults, trial.seed, patience=PATIENCE, every=trial.every,
                                         limit=LIMIT, silence=SILENCE, record=record)
            found, network, seconds = problems_of_rounds(plan, run.encoder, run.decoders), run.network, run.seconds
        else:
            spoken = simulation.speculation(requests_of(trial), trial.faults, trial.seed, patience=PATIENCE,
                                            limit=LIMIT, silence=SILENCE, record=record)
            calm = simulation.speculation(requests_of(trial), (), trial.seed, patience=PATIENCE, limit=LIMIT)
            found, network, seconds = problems_of_texts(spoken.told, calm.told), spoken.network, spoken.seconds
    except (TimeoutError, GlsnetError) as error:
        return Verdict([f"{type(error).__name__}: {error}"])
    events: dict[str, int] = {}
    for way in network.realised():
        for name, count in way.events.items():
            events[name] = events.get(name, 0) + count
        events["broken"] = events.get("broken", 0) + way.broken
    return Verdict(found, network.digest, seconds, events.get("delivered", 0), events)


async def real(trial: Trial) -> Verdict:
    """Play a trial with processes over gRPC, through links that misbehave, and judge it."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    try:
        async with asyncio.timeout(REAL_LIMIT):
            found, faults = await (_real_rounds if trial.what == "compression" else _real_texts)(trial)
    except (TimeoutError, GlsnetError) as error:
        return Verdict([f"{type(error).__name__}: {error}"], seconds=loop.time() - since)
    return Verdict(found, seconds=loop.time() - since, events=_counted(faults))


async def _real_rounds(trial: Trial) -> tuple[list[str], dict[str, Any]]:
    plan = replace(plan_of(trial, "grpc"), options=("--silence=1", "--patience=30"), patience=PATIENCE,
                   every=trial.every, faults=trial.faults, fault_seed=trial.seed)
    drawn: list[Drawn] = []
    ended = await play(plan, None, drawn.append)
    entries, outcomes = undisturbed(plan)
    found = [f"decoder {gap.decoder}: expected all rounds, {gap.rounds} from {gap.first_round} on are missing"
             for gap in ended.missing]
    found += [f"frame {n}: expected what the undisturbed run gives, got something else"
              for n, (got, entry) in enumerate(zip(drawn, entries, strict=True))
              if not got.y.matches(entry.outcomes).all()
              or not all(_same(x, of[n]) for x, of in zip(got.x, outcomes, strict=True))]
    return found, ended.faults


async def _real_texts(trial: Trial) -> tuple[list[str], dict[str, Any]]:
    tokens = 40 * trial.rounds
    asked = Asked(f"chaos {trial.seed}", tokens, seed=trial.seed, scheme="gls-strong", drafts=trial.peers,
                  length=trial.size, ahead=trial.seed % 3)
    seed = seed_from_integer(trial.seed)
    calm = TargetSession(SyntheticModel(1), seed, trial.peers, time.monotonic)
    alone = replace(asked, ahead=0).request(trial.peers)
    expected = [token for piece in generate(calm, [], alone) if isinstance(piece, Piece) for token in piece.tokens]
    own = [f"--seed={trial.seed}", "--silence=1"]
    with tempfile.TemporaryDirectory(prefix="glsnet-chaos-") as name:
        target = Process("target", "encoder_service", ["target", "--model=synthetic-target", "--patience=1",
                                                       f"--streams={trial.peers}", *own], Path(name))
        drafters: list[Process] = []
        processes: dict[str, Process] = {"target": target}
        async with stopped(drafters, target):
            address = await target.start()
            names = [f"drafter {d}" for d in range(trial.peers)]
            async with troubled(address, names, processes, trial.faults, trial.seed) as trouble:
                drafters += [Process(each, "decoder_service", [
                    "draft", "--model=synthetic-drafter", f"--target={trouble.address[each]}", f"--streams={d}",
                    "--patience=30", *own], Path(name), JOINED) for d, each in enumerate(names)]
                processes |= {each.name: each for each in drafters}
                await asyncio.gather(*(each.start() for each in drafters))
                await trouble.start()
                got: list[int] = []
                async for item in speculating.generate(address, asked, PATIENCE):
                    got += item.tokens if isinstance(item, Piece) else []
                faults = await trouble.realised()
    wrong = f"expected the {len(expected)} tokens of the undisturbed run, got {len(got)}, or others"
    return [] if got == expected else [wrong], faults


def _counted(faults: dict[str, Any]) -> dict[str, int]:
    """How often what has happened, by its name."""
    count = Counter(event["event"] for event in faults.get("parties", ()))
    for link in faults.get("links", ()):
        count.update({name: link[name] for name in ("chunks", "connections", "resets", "corrupted")})
    return dict(count)


def smallest(trial: Trial, fails: Callable[[Trial], bool]) -> Trial:
    """The same trial with as few faults as still make it fail: none of them can be left out."""
    at = 0
    while at < len(trial.faults):
        fewer = replace(trial, faults=trial.faults[:at] + trial.faults[at + 1 :])
        if fails(fewer):
            trial = fewer
        else:
            at += 1
    return trial
