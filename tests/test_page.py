"""The report of a sweep: looked at in a real browser, and its numbers held against the records."""

import csv
import math
import shutil
import statistics
import subprocess
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import CHROMIUM, HEADLESS
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image
from processes import glsnet

from glsnet.lab import page, results
from glsnet.lab.curves import SCHEMES
from glsnet.lab.summary import beside_published, published, summarise

LIGHT = "--blink-settings=preferredColorScheme=1"
SCENARIO = """
title = "A small sweep"
source = "gaussian"
scheme = ["gls", "baseline"]
samples = 2_000
repetitions = 2
transport = "direct"

[[runs]]
decoders = [1, 2]
l_max = [2, 8]

[[runs]]
scheme = "gls"
decoders = 2
l_max = 8
repetitions = 1
transport = "grpc"

[[runs]]
scheme = "gls"
decoders = 1
search = { sigma2 = [0.01, 0.1], samples = 1_000, minimise = "mse" }
"""
FILES = ("report.html", "summary.csv", *(f"figures/{name}.png" for name in page.FIGURES))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep and its report."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "small.toml").write_text(SCENARIO)
    glsnet("sweep", str(folder / "small.toml"), "--output", str(folder / "out"))
    assert page.write(folder / "out") == folder / "out" / "report.html"
    return folder / "out"


@pytest.mark.skipif(CHROMIUM is None, reason="the report is looked at in headless Chromium, which is not installed")
def test_every_figure_is_drawn_in_a_browser(swept: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    screenshot = tmp_path / "page.png"
    subprocess.run([CHROMIUM, *HEADLESS, LIGHT, f"--user-data-dir={tmp_path}", "--window-size=1200,9000",
                    f"--screenshot={screenshot}", (swept / "report.html").as_uri()],
                   check=True, capture_output=True, timeout=60)
    with Image.open(screenshot) as image:
        pixels = np.asarray(image.convert("RGB"))
    cards = white_cards(pixels)
    assert len(cards) == len(page.FIGURES), "a figure is missing"
    schemes = {record["result"]["scheme"] for record in results.read(swept)[1]}
    for name, card in zip(page.FIGURES, cards, strict=True):
        assert (card < 100).all(axis=2).sum() > 1000, f"{name}: no text"
        for scheme in schemes if name.startswith("distortion") else {"gls", "baseline"} if name == "match-rate" else ():
            assert count(card, SCHEMES[scheme][1]) > 100, f"{name}: no points of {scheme}"
        if name == "bits":
            assert count(card, "0.75") > 5000, "no bars"


def white_cards(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The figures in a light page, top to bottom: each is on a white card, on paper that is less than white."""
    white = (pixels == 255).all(axis=2)
    column = white[:, white.sum(axis=0).argmax()]  # the cards' left margin, where nothing is drawn
    edges = np.flatnonzero(np.diff(np.concatenate(([False], column, [False])).astype(int)))
    return [pixels[top:end] for top, end in edges.reshape(-1, 2) if end - top > 100]


def count(pixels: NDArray[np.uint8], colour: str) -> int:
    """How many pixels are of a colour, exactly: those inside of what is drawn in it."""
    return int((pixels == np.round(255 * np.array(to_rgb(colour)))).all(axis=2).sum())


def test_the_page_needs_nothing_else(swept: Path) -> None:
    targets = targets_of_a_whole_page(swept)
    assert targets and all(target.startswith("#") for target in targets)


def targets_of_a_whole_page(swept: Path) -> set[str]:
    """What a page refers to, which has all of its parts in itself."""
    found = Elements()
    text = (swept / "report.html").read_text()
    found.feed(text)
    assert {"svg", "table", "figure", "style"} <= found.tags
    assert not found.tags & {"script", "link", "img", "iframe", "object", "embed"}
    assert "@import" not in text and text.count("url(") == text.count("url(#")
    return found.targets


class Elements(HTMLParser):
    """What kinds of elements a page has, and what they refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.targets: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.targets |= {value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")}


def test_the_same_records_give_the_same_bytes(swept: Path) -> None:
    assert_same_bytes_again(swept, FILES)


def assert_same_bytes_again(swept: Path, files: tuple[str, ...]) -> None:
    """Assert that a second report on the same records is the same, and leaves nothing else."""
    before = [(swept / name).read_bytes() for name in files]
    (swept / "report.html").write_text("old")
    assert glsnet("report", str(swept)).stdout.strip() == str(swept / "report.html")
    assert [(swept / name).read_bytes() for name in files] == before
    assert not [*swept.rglob(".*.tmp")]


def test_the_numbers_are_those_of_the_records(swept: Path) -> None:
    text = (swept / "report.html").read_text()
    with (swept / "summary.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    _, records = results.read(swept)
    assert sum(int(row["repetitions"]) for row in rows) == len(records)
    for row in rows:
        of = [record["result"] for record in records if all(
            str(record["result"][name]) == row[name] for name in ("scheme", "decoders", "l_max", "transport", "packing")
        ) and bool(record["result"]["searched"]) == bool(row["minimised"])]
        assert len(of) == int(row["repetitions"])
        for name in ("mean_db", "mse", "decoder_mse"):
            values = [result[name] for result in of]
            error = (statistics.stdev(values) / math.sqrt(len(of)) if len(of) > 1 else of[0][f"{name}_error"])
            assert float(row[name]) == pytest.approx(statistics.fmean(values))
            assert float(row[f"{name}_error"]) == pytest.approx(error)
        mse_db = 10 * math.log10(statistics.fmean(result["mse"] for result in of))
        assert float(row["mse_db"]) == pytest.approx(mse_db)
        relative = float(row["mse_error"]) / float(row["mse"])
        assert float(row["mse_db_error"]) == pytest.approx(4.343 * relative, rel=1e-4)
        assert f"<td>{mse_db:.2f} ± {float(row['mse_db_error']):.2f}</td>" in text
        assert float(row["bits_packed"]) == pytest.approx(of[0]["bits_per_sample"]["packed"])


def test_beside_the_published_table(swept: Path) -> None:
    _, records = results.read(swept)
    cells = published()
    assert len(cells) == 24 and cells[4, 8] == (0.001, (-27.4313, 0.0106))
    beside = beside_published(summarise(records))
    assert {each.row.scheme for each in beside} == {"gls"}
    for row, of_table in beside:
        assert of_table == cells[row.decoders, row.l_max]
    first = beside[0]
    assert first.difference == pytest.approx(first.row.mean_db.value - first.published.mean_db.value)
    assert first.deviations == pytest.approx(
        first.difference / math.hypot(first.row.mean_db.error, first.published.mean_db.error)
    )
    text = (swept / "report.html").read_text()
    assert f'">{first.deviations:+z.1f}</td>' in text
    for record in records:  # on another source they are not compared
        for decoder in record["result"]["per_decoder"]:
            decoder["residual_variance"] = 0.25
    assert not beside_published(summarise(records))


def test_what_was_searched_is_one_row(swept: Path) -> None:
    _, records = results.read(swept)
    found = [deepcopy(next(record for record in records if record["result"]["searched"])) for _ in range(4)]
    for record, sigma2 in zip(found, (0.01, 0.1, 0.1, 0.1), strict=True):
        record["result"]["sigma2"] = sigma2
    found[3]["result"]["searched"] = [{"sigma2": 0.1, "mean_db": -10.0}]  # another search of the same settings
    rows = summarise(found)
    assert [(row.minimised, row.parameter, row.parameter_value, row.repetitions) for row in rows] == [
        ("mean_db", "sigma2", 0.1, 1), ("mse", "sigma2", 0.1, 3)
    ]
    assert "sigma2 0.1, by mse" in (swept / "report.html").read_text()


def test_each_quality_of_service_is_a_row(swept: Path) -> None:
    _, records = results.read(swept)
    found = [deepcopy(records[0]) for _ in range(3)]
    for record, qos in zip(found, (0, 2, 2), strict=True):
        record["cell"]["settings"] |= {"transport": "mqtt", "qos": qos}
        record["result"] |= {"transport": "mqtt", "qos": qos}
    rows = summarise(found)
    assert [(row.transport, row.repetitions) for row in rows] == [("mqtt, QoS 0", 1), ("mqtt, QoS 2", 2)]


def test_an_unfinished_sweep_is_reported_as_far_as_it_has_come(swept: Path, tmp_path: Path) -> None:
    unfinished = shutil.copytree(swept, tmp_path / "half")
    lines = (swept / "records.jsonl").read_text().splitlines(keepends=True)
    (unfinished / "records.jsonl").write_text("".join(lines[:3]))
    assert f"Unfinished: 3 of {len(lines)} cells" in page.write(unfinished).read_text()
    assert "Unfinished" not in (swept / "report.html").read_text()


@pytest.mark.parametrize("made", ["nothing", "no records"])
def test_a_directory_without_records_is_one_clear_error(swept: Path, tmp_path: Path, made: str) -> None:
    if made == "no records":
        shutil.copy(swept / "manifest.json", tmp_path)
        (tmp_path / "records.jsonl").touch()
    done = glsnet("report", str(tmp_path), code=2)
    assert str(tmp_path) in done.stderr and "expected" in done.stderr
    assert not (tmp_path / "report.html").exists()
