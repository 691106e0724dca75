"""Latency experiments: what can be said exactly of them is so."""

import json
from pathlib import Path
from typing import Any

import pytest
from processes import glsnet

from glsnet.lab import latency
from glsnet.lab.settings import LatencyRun

SMALL = ("rtts=0,0.02,0.2", "aheads=0,2", "lengths=4", "lists=1", "rates=32000", "tokens=30", "requests=2",
         "clients=1,4", "frames=1,64", "samples=256", "decoders=2")
SETTINGS = LatencyRun.parsed(SMALL)


def quiet(done: int, total: int, what: str) -> None:
    assert 0 <= done < total and what


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    return latency.run(SETTINGS, quiet)


def point(**how: Any) -> dict[str, Any]:
    return {"rtt": 0.0, "length": 4, "drafts": 1, "ahead": 0, "jitter": 0.0, "distribution": None, "rate": None} | how


def test_the_same_seed_gives_the_same_rows(result: dict[str, Any]) -> None:
    assert latency.run(SETTINGS, quiet) == result
    assert latency.speculated(SETTINGS.model_copy(update={"seed": 2}), point()) != latency.speculated(SETTINGS, point())


@pytest.mark.parametrize("rtt", [0.0, 0.04])
def test_a_block_takes_a_pass_the_drafts_and_the_round_trip(rtt: float) -> None:
    row = latency.speculated(SETTINGS.model_copy(update={"noise": 0.0, "tokens": 41}), point(rtt=rtt))
    block = SETTINGS.verify + 4 * SETTINGS.draft + rtt
    assert row["p50"] == pytest.approx(block / 5)  # a drafter that is always right: L + 1 tokens a block
    assert row["block_efficiency"] == pytest.approx(41 / 9)


def test_drafting_ahead_hides_the_round_trip_from_a_drafter_that_is_always_right() -> None:
    settings = SETTINGS.model_copy(update={"noise": 0.0, "tokens": 101})
    slow, fast = (latency.speculated(settings, point(rtt=0.1, ahead=ahead)) for ahead in (0, 4))
    assert slow["p50"] == pytest.approx((settings.verify + 4 * settings.draft + 0.1) / 5)
    assert fast["p50"] == pytest.approx(settings.verify / 5)  # the target never waits
    assert fast["target_waits_share"] < 0.2 < slow["target_waits_share"]


def test_time_per_token_grows_with_the_round_trip_and_crosses_where_theory_says(result: dict[str, Any]) -> None:
    for ahead in (0, 2):
        means = [row["mean"] for row in result["speculation"] if row["axis"] == "round trip" and row["ahead"] == ahead]
        assert means == sorted(means)
    crossing = next(row for row in result["crossover"] if row["ahead"] == 0)
    assert crossing["rtt"] == pytest.approx(crossing["predicted"], rel=0.15)


def test_more_clients_get_more_out_of_a_target_whose_drafts_are_made_elsewhere(result: dict[str, Any]) -> None:
    of = {(row["drafting"], row["clients"]): row["tokens_per_second"] for row in result["capacity"]}
    assert of["elsewhere", 4] > 1.5 * of["elsewhere", 1]
    assert of["elsewhere", 4] > of["at the target", 4] > of["nowhere", 4] == pytest.approx(1 / SETTINGS.verify, rel=0.1)


def test_larger_frames_cost_fewer_bits_and_more_delay(result: dict[str, Any]) -> None:
    small, large = result["compression"]
    assert small["bits"]["ip"] > 10 * large["bits"]["ip"]
    assert small["filling"] == 0 and large["filling"] == pytest.approx(63 / 2000)
    for row in (small, large):
        assert row["delay"] >= row["filling"] + SETTINGS.rtt / 2
        bits = row["bits"]
        assert 3 <= bits["packed"] <= bits["protobuf"] <= bits["stream"] <= bits["ip"]


def test_the_command_writes_everything(tmp_path: Path) -> None:
    options = [option for setting in SMALL for option in ("--set", setting)]
    done = glsnet("latency", *options, "--output", str(tmp_path / "out"))
    assert "ms per token" in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"latency.json", "latency.csv", "latency.html", "round_trips.png", "conditions.png", "capacity.png",
                     "compression.png", "distributions.png", "timelines.png"}
    assert json.loads((tmp_path / "out" / "latency.json").read_text())["settings"]["tokens"] == 30
    page = (tmp_path / "out" / "latency.html").read_text()
    assert page.count("data:image/png") == 6 and "://" not in page


def test_a_setting_out_of_range_is_a_clear_error() -> None:
    done = glsnet("latency", "--set", "scheme=leviathan", code=2)
    assert "scheme: expected 'gls'" in done.stderr
