"""The live page of a run: in a real browser, and as whoever asks for it gets it."""

import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Page, browsing
from PIL import Image
from processes import GLSNET, glsnet, until

from glsnet.errors import CallerError
from glsnet.lab.live import MOST_POINTS, Live, page
from glsnet.lab.tally import Mean
from glsnet.transport.security import LOCAL

SMALL = ("--set", "decoders=2", "--set", "sigma2=0.01", "--set", "frame=50")
FAULTS = """
[[faults]]
on = "decoder 0"
kind = "latency"
delay = 0.01

[[faults]]
on = "decoder 1"
kind = "kill"
at = 1
"""
LONG = ("--set", "transport=direct", "--set", "samples=100000000", "--set", "frame=1000")
needs_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="the page is looked at in headless Chromium, which is "
                                     "not installed")


class Run:
    """`glsnet run ... --live`, and where its page is."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("live page on "))
        self.url = line.removeprefix("live page on ").strip()

    def ended(self) -> str:
        """What it printed, once it ends well."""
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return out


@contextmanager
def running(*options: str, run: str = "gaussian") -> Iterator[Run]:
    """A run that goes on, and is gone after the block."""
    with subprocess.Popen([GLSNET, "run", run, "--live", "127.0.0.1:0", "--json", *options], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield Run(process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def states(url: str) -> Iterator[dict[str, Any]]:
    """What the page is told, one state after the other, to the end."""
    with urllib.request.urlopen(url + "events", timeout=60) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


@needs_a_browser
def test_a_run_under_faults_is_seen_to_its_end_in_a_browser(tmp_path: Path) -> None:
    (tmp_path / "faults.toml").write_text(FAULTS)
    options = (*SMALL, "--set", "samples=2500", "--set", "every=0.1", "--set", "patience=1.5", "--faults",
               str(tmp_path / "faults.toml"))
    with browsing(tmp_path / "profile") as shown, running(*options) as run:
        shown.open(run.url)
        until(lambda: shown.ask("document.readyState === 'complete' && state.textContent === 'running'"))
        shown.ask("window.kept = true")
        assert rows(shown, "parties")[0][:2] == ["encoder", "at work"]
        first = progress(shown)
        until(lambda: progress(shown) > first)
        assert "3.0400\npacked layer" in shown.ask("tiles.innerText")  # 50 samples of 3 bits in 19 bytes
        until(lambda: ["decoder 1", "kill"] in [row[:2] for row in rows(shown, "faults")])
        assert ["decoder 0", "latency, delay 0.01 s"] in [row[:2] for row in rows(shown, "faults")]
        until(lambda: rows(shown, "parties")[2][1] in ("lost", "missing"))
        assert ["decoder 1", "killed"] in [row[1:] for row in rows(shown, "events")]
        until(lambda: rows(shown, "parties")[2][:2] == ["decoder 1", "missing"])
        assert rows(shown, "parties")[1][:2] == ["decoder 0", "at work"]
        assert curve(shown, "match") and curve(shown, "rate")
        looked_at(shown, tmp_path)
        until(lambda: shown.ask("state.textContent") == "the run has ended")
        result = json.loads(run.ended())
        assert shown.ask("window.kept"), "the page was loaded again"
        assert progress(shown) == 2500 and shown.ask("document.title") == "done · glsnet run gaussian"
        tiles = shown.ask("tiles.innerText")
        for value in (f"{result['match_rate']:.4f}", f"{result['mse_db']:.2f}".replace("-", "\u2212")):
            assert value in tiles
        assert f"{result['match_rate']:.4f}" in shown.ask("report.innerText")
        assert rows(shown, "faults") == []


def progress(shown: Page) -> int:
    """How many samples are done."""
    return int(shown.ask("document.getElementById('progress').textContent").split()[0].replace(",", ""))


def rows(shown: Page, table: str) -> list[list[str]]:
    """The texts of a table's cells."""
    found: list[list[str]] = shown.ask(
        f"[...document.querySelectorAll('#{table} tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))")
    return found


def curve(shown: Page, plot: str) -> bool:
    """Whether a plot has a line of more than one point."""
    return bool(shown.ask(f"/L/.test(document.querySelector('#{plot} .curve').getAttribute('d'))"))


def looked_at(shown: Page, folder: Path) -> None:
    """On a screen and a phone, in the light and in the dark: nothing is cut off, and the plots have their colour."""
    for width, dark, curve, paper in ((1200, False, (0, 98, 163), 253), (390, True, (124, 192, 240), 23)):
        shown.screenshot(folder / "page.png", width, 2000, dark=dark)
        with Image.open(folder / "page.png") as image:
            pixels = np.asarray(image.convert("RGB"))
        assert shown.ask("document.documentElement.scrollWidth") == width
        assert (pixels == curve).all(axis=2).sum() > 500, "no curves"
        assert abs(int(pixels[0, 0, 0]) - paper) < 2


@needs_a_browser
def test_a_page_whose_lab_is_gone_says_so_and_comes_back(tmp_path: Path) -> None:
    with browsing(tmp_path / "profile") as shown:
        with running(*LONG) as run:
            shown.open(run.url)
            until(lambda: shown.ask("document.readyState === 'complete' && state.textContent === 'running'"))
            run.process.kill()
            until(lambda: shown.ask("state.textContent") == "not connected")
            assert "as it was at" in shown.ask("trouble.textContent") and progress(shown) > 0
        with page(run.url.removeprefix("http://").removesuffix("/"), LOCAL, "another", "", "samples") as live:
            live.advance(5, 10)
            until(lambda: shown.ask("title.textContent") == "another" and progress(shown) == 5)


@pytest.mark.parametrize(("run", "settings", "figure"), [
    ("images", ("samples=300", "frame=2", "decoders=2", "transport=direct"), "mse"),
    ("coupling", ("rounds=200000", "transport=direct"), "match"),
    ("speculation", ("schemes=gls", "drafts=2", "prompts=1", "max_tokens=8", "transport=direct"), None),
])
def test_every_run_has_a_page(run: str, settings: tuple[str, ...], figure: str | None, tmp_path: Path) -> None:
    np.savez(tmp_path / "pairs.npz", p=[[0.5, 0.3, 0.2]], q=[[0.2, 0.3, 0.5]])
    pairs = ("--pairs", str(tmp_path / "pairs.npz")) if run == "coupling" else ()
    with running(*(f"--set={setting}" for setting in settings), *pairs, run=run) as process:
        seen = [*states(process.url)]
        result = json.loads(process.ended())
    assert seen[-1]["state"] == "done" and seen[-1]["done"] == seen[-1]["of"] and seen[-1]["report"]
    assert seen[-1]["title"] == f"glsnet run {run}"
    if figure == "mse":
        assert seen[-1]["mse"][0] == pytest.approx(result["mse"])
    if figure is not None:
        assert seen[-1]["match"][0] == pytest.approx(result["match_rate"])
        assert seen[-1]["rate"] == result["samples_per_second"]


def test_the_page_needs_nothing_else_and_tells_no_seed() -> None:
    with running("--set", "transport=direct", "--set", "samples=100000", "--set", "seed=271828") as run:
        with urllib.request.urlopen(run.url, timeout=60) as answer:
            text, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
        seen = [*states(run.url)]
        assert json.loads(run.ended())["seed"] == 271828
    assert "default-src 'none'" in policy and "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert seen[-1]["report"] and "271828" not in json.dumps(seen)


def test_the_page_does_not_leave_this_machine_in_plain_text() -> None:
    done = glsnet("run", "gaussian", "--live", "0.0.0.0:0", code=2)
    assert "listening on 0.0.0.0:0: expected --tls-cert" in done.stderr and not done.stdout


def test_a_run_that_fails_says_why() -> None:
    seen: list[dict[str, Any]] = []
    for error, reason in ((CallerError("expected this, got that"), "expected this, got that"), (KeyboardInterrupt(),
                                                                                             "interrupted")):
        with pytest.raises(type(error)), page(None, LOCAL, "a run", "", "samples") as live:
            live.advance(5, 10)
            raise error
        seen.append(live.snapshot())
        assert (seen[-1]["state"], seen[-1]["reason"]) == ("failed", reason)


def test_the_plots_of_a_long_run_stay_small() -> None:
    live, match = Live("a run", "", "samples", 3.0), Mean()
    for done in range(1, 4 * MOST_POINTS):
        match.add(np.ones(1))
        live.advance(done, 10**6, match=match)
        live.look()
    points = live.snapshot()["points"]
    assert MOST_POINTS / 2 <= len(points) <= MOST_POINTS
    assert all(early[0] <= late[0] for early, late in pairwise(points))
