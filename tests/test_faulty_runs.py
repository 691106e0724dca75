"""Runs with faults from a file or a scenario: over gRPC with links and processes, and in virtual time."""

import json
from pathlib import Path

import pytest
from processes import glsnet, result_of

SMALL = ("--set", "decoders=2", "--set", "samples=4000", "--set", "frame=100", "--set", "sigma2=0.01")
FAULTS = """
[[faults]]
on = "decoder 0"
kind = "latency"
delay = 0.005
jitter = 0.002
distribution = "uniform"

[[faults]]
on = "decoder 1"
kind = "reset_peer"
at = 0.3
for = 0.1

[[faults]]
on = "decoder 1"
kind = "kill"
at = 0.8
for = 0.2
"""


@pytest.fixture
def faults(tmp_path: Path) -> Path:
    path = tmp_path / "faults.toml"
    path.write_text(FAULTS)
    return path


def test_a_run_under_faults_gives_what_it_gives_without(faults: Path) -> None:
    calm = result_of(*SMALL, "--set", "transport=direct")
    real = result_of(*SMALL, "--faults", str(faults), "--set", "every=0.05")
    virtual = [result_of(*SMALL, "--faults", str(faults), "--set", "every=0.05", "--set", "transport=simulator")
               for _ in range(2)]
    for result in (real, *virtual):
        assert result["indices_digest"] == calm["indices_digest"]
        assert result["match_rate"] == calm["match_rate"]
        assert result["mse"] == pytest.approx(calm["mse"])
        assert result["missing"] == []
    assert [event["event"] for event in real["faults"]["parties"]] == ["killed", "started"]
    assert sum(link["resets"] for link in real["faults"]["links"] if link["link"] == "decoder 1") > 0
    assert real["faults"]["requested"][0]["delay"] == 0.005
    assert virtual[0]["faults"]["digest"] == virtual[1]["faults"]["digest"]


def test_a_decoder_that_dies_is_missing_and_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "dies.toml"
    path.write_text('[[faults]]\non = "decoder 1"\nkind = "kill"\nat = 0.5\n')
    for transport in ("grpc", "simulator"):
        result = result_of(*SMALL, "--faults", str(path), "--set", "every=0.05", "--set", "patience=2",
                           "--set", f"transport={transport}")
        (gap,) = result["missing"]
        assert gap["decoder"] == 1 and gap["first_round"] + gap["rounds"] == 4000
        assert result["samples"] == 4000


def test_a_late_decoder_is_there_from_some_round_on(tmp_path: Path) -> None:
    path = tmp_path / "late.toml"
    path.write_text('[[faults]]\non = "decoder 1"\nkind = "late"\nat = 0.5\n')
    late = result_of(*SMALL, "--faults", str(path), "--set", "every=0.2")
    (gap,) = late["missing"]
    assert (gap["decoder"], gap["first_round"]) == (1, 0) and 0 < gap["rounds"] < 4000
    assert late["per_decoder"][1]["match_rate"] > 0.3


def test_a_scenario_has_faults(tmp_path: Path) -> None:
    scenario = tmp_path / "faulty.toml"
    scenario.write_text('title = "Faulty"\nsource = "gaussian"\ntransport = "simulator"\ndecoders = [1, 2]\n'
                        'samples = 1000\nframe = 100\nsigma2 = 0.01\n' + FAULTS.replace('decoder 1', 'decoder 0'))
    glsnet("sweep", str(scenario), "--output", str(tmp_path / "out"))
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    assert [record["cell"]["settings"]["faults"][0]["delay"] for record in records] == [0.005, 0.005]
    assert all(record["result"]["faults"]["digest"] for record in records)


@pytest.mark.parametrize(("text", "options", "message"), [
    ('[[faults]]\non = "decoder 0"\nkind = "latency"\n', (), "faults[0]: expected delay with kind latency"),
    ('[[faults]]\non = "nobody"\nkind = "kill"\n', (), "faults[0].on: expected"),
    ('[[faults]]\non = "decoder 9"\nkind = "kill"\n', (), "faults[0].on: expected one of decoder 0, decoder 1"),
    ('[[faults]]\non = "decoder 0"\nkind = "loss"\nchance = 0.1\n', (), "expected a kind that TCP does not hide"),
    ('[[faults]]\non = "decoder 0"\nkind = "kill"\n', ("--set", "transport=direct"), "none with transport direct"),
    ("x = 1\n", (), "expected [[faults]] tables and nothing else"),
    ("[[faults]\n", (), "expected a TOML file"),
])
def test_faults_that_cannot_be_are_clear_errors(tmp_path: Path, text: str, options: tuple[str, ...], message: str
                                                ) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(text)
    done = glsnet("run", "gaussian", *SMALL, "--faults", str(path), *options, code=2)
    assert message in " ".join(done.stderr.split())
