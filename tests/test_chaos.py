"""Chaos: a few random runs here, hundreds by `glsnet chaos`; and the checkers, which must see what is wrong."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from processes import glsnet

from glsnet.faults import Fault, faults_of
from glsnet.lab import chaos, simulation
from glsnet.lab.chaos import Trial
from glsnet.lab.plan import Plan

TRIAL = Trial("compression", 4, peers=3, rounds=30, size=4, every=0.1, faults=())


@pytest.mark.parametrize("seed", range(12))
def test_nothing_is_lost_in_virtual_time(seed: int) -> None:
    assert chaos.simulated(chaos.trial_of(1000 + seed)).problems == []


@pytest.mark.parametrize("what", ["compression", "speculation"])
def test_nothing_is_lost_between_processes(what: str) -> None:
    """Killed, cut and corrupted for real."""
    trial = next(trial for seed in range(100) if (trial := chaos.trial_of(seed, real=True)).what == what
                 and {"kill"} <= {fault.kind for fault in trial.faults})
    trial = replace(trial, rounds=20)
    verdict = asyncio.run(chaos.real(trial))
    assert verdict.problems == []


def test_the_same_seed_gives_the_same_trace_in_any_process() -> None:
    program = ("from glsnet.lab import chaos; "
               "print(*(chaos.simulated(chaos.trial_of(seed)).digest for seed in (4, 5, 6)))")
    digests = {subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": hash_seed}, text=True,
                              capture_output=True, check=True).stdout for hash_seed in ("0", "1")}
    assert len(digests) == 1
    assert len(digests.pop().split()) == 3


def test_faults_of_a_trial_all_strike_somewhere() -> None:
    kinds = {fault.kind for seed in range(300) for fault in chaos.trial_of(seed).faults}
    assert kinds >= {"latency", "bandwidth", "slicer", "timeout", "reset_peer", "limit_data", "corrupt", "down", "loss",
                     "duplicate", "reorder", "skew", "kill", "pause"}


def played() -> tuple[Plan, simulation.Simulated]:
    plan = chaos.plan_of(TRIAL, "simulator")
    return plan, simulation.compression(plan, (), 1, patience=60.0, every=TRIAL.every)


def test_the_checker_sees_rounds_that_are_missing_twice_there_or_wrong() -> None:
    plan, run = played()
    assert chaos.problems_of_rounds(plan, run.encoder, run.decoders) == []
    journal = list(run.decoders[0].journal)

    def problems() -> str:
        return "; ".join(chaos.problems_of_rounds(plan, run.encoder, run.decoders))

    run.decoders[0].journal = journal[:-1]
    assert "decoder 0: journal: expected" in problems() and "received or lost and said so" in problems()
    run.decoders[0].lost = [(journal[-1].frame.first_round, journal[-1].frame.first_round + journal[-1].frame.count)]
    assert "decoder 0: journal" not in problems()  # it was said
    run.decoders[0].lost = []
    run.decoders[0].journal = [*journal, journal[0]]
    assert "some twice" in problems()
    wrong = replace(journal[0].outcomes, node=journal[0].outcomes.node + 1)
    run.decoders[0].journal = [replace(journal[0], outcomes=wrong), *journal[1:]]
    assert "something else" in problems()
    run.decoders[0].journal, run.decoders[0].ended = journal, False
    assert "expected an end" in problems()
    run.encoder.journal = run.encoder.journal[:-1]
    assert "encoder: expected the" in problems()


def test_a_failing_trial_is_made_small() -> None:
    """As one that fails if one certain fault is there, of seven."""
    culprit = Fault(on="decoder 0", kind="kill", at=1.0)
    others = faults_of([{"on": "decoder 0", "kind": "latency", "delay": 0.1, "at": at} for at in range(6)])
    trial = replace(TRIAL, faults=(*others[:3], culprit, *others[3:]))
    tried: list[Trial] = []

    def fails(each: Trial) -> bool:
        tried.append(each)
        return culprit in each.faults

    assert chaos.smallest(trial, fails).faults == (culprit,)
    assert len(tried) == 7


def test_a_decoder_that_stays_dead_is_reported_and_stalls_nobody() -> None:
    plan = chaos.plan_of(TRIAL, "simulator")
    dead = Fault(on="decoder 0", kind="kill", at=3 * TRIAL.every)
    run = simulation.compression(plan, [dead], 1, patience=5.0, every=TRIAL.every, silence=2.0)
    assert run.encoder.ended and all(each.ended for each in run.decoders[1:])
    assert 0 < run.decoders[0].next_round < run.encoder.next_round
    found = chaos.problems_of_rounds(plan, run.encoder, run.decoders)
    assert found and all(problem.startswith("decoder 0") for problem in found)


def test_the_clock_of_a_round_is_that_of_its_link() -> None:
    """One frame after another, over a link of 100 ms: each is there 100 ms after its samples."""
    plan = chaos.plan_of(TRIAL, "simulator")
    run = simulation.compression(plan, [Fault(on="decoder *", kind="latency", delay=0.1)], 1, patience=60.0, every=1.0)
    first, *delays = [time - run.offered[outcomes.first_round] for time, outcomes in run.decoders[0].reports]
    assert np.allclose(delays, 0.1)
    assert first == pytest.approx(0.8)  # two round trips of dialling, one of joining, the first Ack, the frame


def test_the_command_says_what_was_done_and_its_digest() -> None:
    results = [json.loads(glsnet("chaos", "--runs", "4", "--seed", "4", "--json").stdout) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0]["failed"] == [] and results[0]["runs"] == 4
    assert glsnet("chaos", "--runs", "2", "--seed", "4").stdout.startswith("2 runs from seed 4, simulator: 0 failed")
