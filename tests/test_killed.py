"""Services that are killed, stopped and cut off in the middle of a run: what comes out is what always comes out.

The sessions themselves, in any order of faults, are in test_surviving.py.
"""

import asyncio
import csv
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import GLSNET, Service, at_once, cutting, gaussian_plan, result_of, service, until

from glsnet.codes import Code, decoding
from glsnet.compression import DecoderSession, EncoderSession
from glsnet.frames import Terms
from glsnet.lab.plan import Drawn, Ended, Gap, Parties, Plan
from glsnet.lab.runner import play
from glsnet.randomness import seed_from_integer
from glsnet.sources.gaussian import Gaussian, noisy_observation

SAME = ("indices_digest", "match_rate", "mse", "per_decoder", "missing")


class Again:
    """A service that can be killed, and started again where it was, with the same options."""

    def __init__(self, stack: ExitStack, module: str, *options: str, journal: Path | None) -> None:
        self._stack, self._module, self.journal = stack, module, journal
        self._options = options if journal is None else (*options, "--journal", str(journal))
        self._start()
        self.address = self.running.address

    def kill(self) -> None:
        assert self.running.process.poll() is None, "it ended before it could be killed"
        self.running.process.kill()
        self.running.process.wait()

    def restart(self) -> None:
        self._start("--listen", self.address)

    def recorded(self, size: int) -> bool:
        """Whether its journal has come so far."""
        assert self.journal is not None
        return sum(path.stat().st_size for path in self.journal.glob("*.journal")) > size

    def _start(self, *options: str) -> None:
        self.running = self._stack.enter_context(service(self._module, *self._options, *options))


# On a busy machine a service may take as long to start again as nobody would wait for it by default.
PATIENT = ("--patience", "120")
OPTIONS = ("--set", "samples=60000", "--set", "frame=200", "--set", "decoders=2", "--set", "patience=120")


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], bytes]:
    """What nothing has happened to: the result, and the output file."""
    output = tmp_path_factory.mktemp("direct") / "out.csv"
    return result_of(*OPTIONS, "--set", "transport=direct", "--output", str(output)), output.read_bytes()


@pytest.mark.parametrize("journals", [True, False])
def test_a_run_whose_parties_are_killed_and_started_again_gives_the_same(
        tmp_path: Path, direct: tuple[dict[str, Any], bytes], journals: bool) -> None:
    """kill -9 of a decoder, then of the encoder and the other one at once; the output shows how far the run is."""
    output = tmp_path / "out.csv"
    with ExitStack() as stack:
        encoder, *decoders = at_once(*(
            partial(Again, stack, module, journal=tmp_path / name if journals else None) for module, name in
            (("encoder_service", "encoder"), ("decoder_service", "one"), ("decoder_service", "two"))))
        parties = ("--encoder", encoder.address, *(text for each in decoders for text in ("--decoder", each.address)))
        run = stack.enter_context(subprocess.Popen(
            [GLSNET, "run", "gaussian", "--json", *OPTIONS, *parties, "--output", str(output)], stdout=subprocess.PIPE,
            text=True))
        for size, victims in ((50_000, [decoders[0]]), (200_000, [encoder, decoders[1]])):
            until(partial(grown, tmp_path, size))
            for victim in victims:
                victim.kill()
            assert run.poll() is None  # it goes no further without them
            at_once(*(victim.restart for victim in victims))
        out, _ = run.communicate(timeout=300)
        assert run.returncode == 0
        if journals:
            assert all(each.recorded(60_000 * 24) for each in (encoder, *decoders))
    result, expected = json.loads(out), direct[0]
    assert [result[name] for name in SAME] == [expected[name] for name in SAME]
    assert output.read_bytes() == direct[1]


def grown(folder: Path, size: int) -> bool:
    """Whether the file beside its output, which a run writes to until it is complete, is so large."""
    return any(path.stat().st_size > size for path in folder.glob(".*.tmp"))


def test_a_codec_whose_parties_are_killed_goes_on_from_their_journals(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    a = rng.standard_normal(100_000)
    t = a[:, None] + rng.standard_normal((a.size, 2))
    for name, values in (("a", a), ("t0", t[:, 0]), ("t1", t[:, 1])):
        np.savetxt(tmp_path / name, values)
    with ExitStack() as stack:
        encoder = Again(stack, "encoder_service", "--source", str(tmp_path / "a"), "--seed", "7", "--decoders", "2",
                        "--sigma2", "0.01", "--frame", "100", *PATIENT, journal=tmp_path / "encoder")
        decoders = at_once(*(partial(
            Again, stack, "decoder_service", "--encoder", encoder.address, "--side-information",
            str(tmp_path / f"t{k}"), "--output", str(tmp_path / f"out{k}"), "--seed", "7", "--noise-variance", "1",
            "--stream", str(k), *PATIENT, journal=tmp_path / f"decoder{k}") for k in range(2)))
        for size, victims in ((3000, [decoders[0]]), (200_000, [encoder, decoders[1]])):
            until(lambda size=size, victims=victims: all(each.recorded(size) for each in victims))  # type: ignore[misc]
            for victim in victims:
                victim.kill()
            at_once(*(victim.restart for victim in victims))
        assert [party.running.ended()[0] for party in (*decoders, encoder)] == [0, 0, 0]
    for k, expected in enumerate(undisturbed(a, t)):
        with (tmp_path / f"out{k}").open() as handle:
            rows = list(csv.DictReader(handle))
        assert [int(row["round"]) for row in rows] == list(range(a.size))
        assert np.array_equal([float(row["reconstruction"]) for row in rows], expected)


def undisturbed(a: np.ndarray, t: np.ndarray) -> list[np.ndarray]:
    """What each decoder of the codec is to make of it."""
    seed = seed_from_integer(7)
    code = Code(Gaussian(float(a.mean()), float(a.var())), "gls", 2, 8, sigma2=0.01)
    host = EncoderSession("codec", code, seed)
    came = []
    frames = [host.encode(a[start : start + 50_000])[0] for start in range(0, a.size, 50_000)]
    for k in range(2):
        own = DecoderSession("codec", decoding(partial(noisy_observation, noise_variance=1.0)), seed, Terms(), k)
        own.agree(host.join(own.join()))
        outcomes = [own.decode(frame, t[frame.first_round :][: frame.count, k])[0] for frame in frames]
        came.append(np.concatenate([each.reconstruction for each in outcomes if each.reconstruction is not None]))
    return came


def played(plan: Plan, parties: Parties | None, at: Callable[[Drawn], None]) -> tuple[Ended, list[Drawn]]:
    """A run, and what was drawn in each frame; `at` is called after each."""
    drawn: list[Drawn] = []

    def take(each: Drawn) -> None:
        drawn.append(each)
        at(each)

    return asyncio.run(play(plan, parties, take)), drawn


def nothing(_: Drawn) -> None:
    """Undisturbed."""


def assert_same(drawn: list[Drawn], expected: list[Drawn], gaps: list[Gap]) -> None:
    """Frame by frame what an undisturbed run draws, and nothing in the gaps."""
    absent = {(gap.decoder, first) for gap in gaps for first in range(gap.first_round, gap.first_round + gap.rounds)}
    assert [each.y.first_round for each in drawn] == [each.y.first_round for each in expected]
    for each, right in zip(drawn, expected, strict=True):
        assert each.y.matches(right.y).all() and np.array_equal(each.a, right.a)
        for k, (x, x_right) in enumerate(zip(each.x, right.x, strict=True)):
            if (k, each.y.first_round) in absent:
                assert x.reconstruction is not None and np.isnan(x.reconstruction).all()
            else:
                assert x.matches(x_right).all()
                assert np.array_equal(x.reconstruction, x_right.reconstruction)  # type: ignore[arg-type]  # not None


@pytest.fixture
def services() -> Iterator[tuple[Service, list[Service]]]:
    """An encoder and two decoders."""
    with ExitStack() as stack:
        encoder, *decoders = at_once(*(partial(stack.enter_context, service(f"{name}_service"))
                                       for name in ("encoder", "decoder", "decoder")))
        yield encoder, decoders


def test_a_connection_that_is_cut_again_and_again_loses_nothing(services: tuple[Service, list[Service]]) -> None:
    encoder, decoders = services
    plan = gaussian_plan(samples=12_000, decoders=2, frame=50, patience=30)
    cuts = [0, 0]
    with cutting(encoder.address) as one, cutting(encoder.address) as two:
        def cut(drawn: Drawn) -> None:
            frame = drawn.y.first_round // 50
            if frame % 10 == 0:
                k = frame // 10 % 2
                cuts[k] += (one, two)[k].cut()

        parties = Parties(encoder.address, [each.address for each in decoders], [one.address, two.address])
        ended, drawn = played(plan, parties, cut)
        assert sum(cuts) >= 20 and one.served >= 10 and two.served >= 10
    direct, expected = played(replace(plan, transport="direct"), None, nothing)
    assert ended.digest == direct.digest
    assert ended.missing == []
    assert_same(drawn, expected, [])
    assert all(metered is not None and metered.rounds_down.packed >= 240 * 19 for metered in ended.metered)


def test_a_decoder_that_stands_still_is_missed_and_may_come_back(services: tuple[Service, list[Service]]) -> None:
    """SIGSTOP for longer than the lab's patience; SIGCONT once it has been missed."""
    encoder, decoders = services
    plan = gaussian_plan(samples=40_000, decoders=2, frame=50, patience=2.0)
    stopped = decoders[1].process

    def stop(drawn: Drawn) -> None:
        reconstruction = drawn.x[1].reconstruction
        assert reconstruction is not None
        if drawn.y.first_round == 10 * 50:
            stopped.send_signal(signal.SIGSTOP)
        elif np.isnan(reconstruction).any():
            stopped.send_signal(signal.SIGCONT)

    parties = Parties(encoder.address, [each.address for each in decoders])
    try:
        ended, drawn = played(plan, parties, stop)
    finally:
        stopped.send_signal(signal.SIGCONT)
    direct, expected = played(replace(plan, transport="direct"), None, nothing)
    assert ended.digest == direct.digest
    assert ended.missing and {gap.decoder for gap in ended.missing} == {1}
    assert ended.missing[0].first_round > 10 * 50
    assert_same(drawn, expected, ended.missing)
    ended, drawn = played(replace(plan, patience=30.0), parties, nothing)  # nothing is left of it
    assert ended.missing == []
    assert_same(drawn, expected, [])


def test_a_decoder_that_is_killed_and_not_started_again_is_missing_to_the_end(
        services: tuple[Service, list[Service]]) -> None:
    encoder, decoders = services
    plan = gaussian_plan(samples=2000, decoders=2, frame=50, patience=2.0)

    def kill(drawn: Drawn) -> None:
        if drawn.y.first_round == 10 * 50:
            decoders[1].process.kill()

    ended, drawn = played(plan, Parties(encoder.address, [each.address for each in decoders]), kill)
    code, log = encoder.stop()
    direct, expected = played(replace(plan, transport="direct"), None, nothing)
    assert ended.digest == direct.digest
    (gap,) = ended.missing
    assert gap.decoder == 1 and 10 * 50 < gap.first_round and gap.first_round + gap.rounds == 2000
    assert_same(drawn, expected, ended.missing)
    assert ended.metered[0] is not None and ended.metered[1] is None
    assert code == 0 and "streams without all rounds: 1\n" in log
