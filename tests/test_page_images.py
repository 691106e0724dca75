"""The report of a sweep of images: looked at in a real browser, and its numbers held against the records."""

import base64
import csv
import math
import shutil
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, HEADLESS
from numpy.typing import NDArray
from PIL import Image
from processes import glsnet
from test_page import LIGHT, assert_same_bytes_again, count, targets_of_a_whole_page, white_cards

from glsnet.errors import CallerError
from glsnet.lab import page, page_images, results
from glsnet.lab.curves import SCHEMES
from glsnet.lab.curves_images import sheets, write_contact_sheet
from glsnet.lab.scenarios import load
from glsnet.lab.summary_images import published

SCENARIO = """
title = "A small sweep of images"
source = "images"
dataset = "digits"
decoders = [1, 4]
l_max = [4, 8, 16]
samples = 40
repetitions = 2
transport = "direct"

[[runs]]
scheme = ["gls", "baseline"]
candidates = 64
beta = 0.95

[[runs]]
scheme = ["wyner-ziv", "wyner-ziv-list", "vq"]

[[runs]]
scheme = "gls"
decoders = 1
l_max = 4
search = { candidates = [16, 64], beta = [0.15], samples = 30, minimise = "mse" }
"""
FIGURES = (*page_images.FIGURES, "images-digits")
FILES = ("report.html", "summary.csv", *(f"figures/{name}.png" for name in FIGURES))

Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep and its report."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "small.toml").write_text(SCENARIO)
    glsnet("sweep", str(folder / "small.toml"), "--output", str(folder / "out"))
    assert page.write(folder / "out") == folder / "out" / "report.html"
    return folder / "out"


@pytest.fixture
def changed(swept: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """The same sweep, had it measured something else, and its report."""
    def made(change: Change) -> Path:
        (tmp_path / "small.toml").write_text(SCENARIO)
        _, records = results.read(swept)
        with results.opened(tmp_path / "out", load(str(tmp_path / "small.toml"))) as opened:
            for cell, record in zip(opened.remaining, records, strict=True):
                opened.append(cell, {"result": change(record["result"]), "timing": record["timing"]})
        page.write(tmp_path / "out")
        return tmp_path / "out"

    return made


@pytest.mark.skipif(CHROMIUM is None, reason="the report is looked at in headless Chromium, which is not installed")
def test_every_figure_is_drawn_in_a_browser(swept: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    screenshot = tmp_path / "page.png"
    subprocess.run([CHROMIUM, *HEADLESS, LIGHT, f"--user-data-dir={tmp_path}", "--window-size=1250,7000",
                    f"--screenshot={screenshot}", (swept / "report.html").as_uri()],
                   check=True, capture_output=True, timeout=60)
    with Image.open(screenshot) as image:
        pixels = np.asarray(image.convert("RGB"))
    cards = white_cards(pixels)
    assert len(cards) == len(FIGURES), "a figure is missing"
    for name, card in zip(FIGURES, cards, strict=True):
        assert (card < 100).all(axis=2).sum() > 1000, f"{name}: no text"
        for scheme in () if name == "images-digits" else ("gls", "baseline") if name == "match" else (
                "gls", "baseline", "wyner-ziv", "wyner-ziv-list", "vq"):
            assert count(card, SCHEMES[scheme][1]) > 50, f"{name}: no points of {scheme}"
    for colour, what in (("#009E73", "a match"), ("#E69F00", "no match")):
        assert count(cards[-1], colour) > 1000, f"no frame of {what}"


def test_the_page_needs_nothing_else(swept: Path) -> None:
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets_of_a_whole_page(swept))


def test_the_same_records_give_the_same_bytes(swept: Path) -> None:
    assert {path.name for path in (swept / "figures").iterdir()} == {f"{name}.png" for name in FIGURES}
    assert_same_bytes_again(swept, FILES)


def test_the_numbers_are_those_of_the_records(swept: Path) -> None:
    text = (swept / "report.html").read_text()
    with (swept / "summary.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    _, records = results.read(swept)
    assert sum(int(row["repetitions"]) for row in rows) == len(records)
    for row in rows:
        of = [record["result"] for record in records if all(
            str(record["result"][name]) == row[name] for name in ("scheme", "decoders", "l_max")
        ) and bool(record["result"]["searched"]) == bool(row["minimised"])]
        assert len(of) == int(row["repetitions"]) == 2
        for name, digits in (("mse", 5), ("decoder_mse", 5), ("match_rate", 4)):
            values = [result[name] for result in of]
            value, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(2)
            assert float(row[name]) == pytest.approx(value)
            assert float(row[f"{name}_error"]) == pytest.approx(error, abs=1e-12)
            assert f"<td>{value:.{digits}f} ± {error:.{digits}f}</td>" in text
        assert float(row["bits_packed"]) == pytest.approx(of[0]["bits_per_sample"]["packed"])
        assert f"<td>{of[0]['bits_per_sample']['protobuf']:.4f}</td>" in text
    assert "<td>0.15, by mse</td>" in text


def test_an_unfinished_sweep_is_reported_as_far_as_it_has_come(swept: Path, tmp_path: Path) -> None:
    unfinished = shutil.copytree(swept, tmp_path / "half")
    lines = (swept / "records.jsonl").read_text().splitlines(keepends=True)
    for done in (1, len(lines) // 2):
        (unfinished / "records.jsonl").write_text("".join(lines[:done]))
        assert f"Unfinished: {done} of {len(lines)} cells" in page.write(unfinished).read_text()
    assert "Unfinished" not in (swept / "report.html").read_text()


def test_without_pixels_there_is_no_contact_sheet(changed: Callable[[Change], Path]) -> None:
    out = changed(lambda result: result | {"shown": None})
    assert {path.stem for path in (out / "figures").iterdir()} == {*page_images.FIGURES}
    text = (out / "report.html").read_text()
    assert text.count("<figure>") == len(page_images.FIGURES) and "images-digits" not in text


def test_without_races_there_are_no_match_rates(changed: Callable[[Change], Path]) -> None:
    out = changed(lambda result: result | {"scheme": "vq", "shown": None})
    assert {path.stem for path in (out / "figures").iterdir()} == {"rate-distortion", "own"}


def test_beside_the_published_table(swept: Path, changed: Callable[[Change], Path]) -> None:
    assert "published MSE" not in (swept / "report.html").read_text()  # of digits, nothing was
    levels = {"gls": 1.0512, "baseline": 1.3, "wyner-ziv": 0.8, "wyner-ziv-list": 0.7, "vq": 0.9}
    table = published("table13")

    def as_mnist(result: dict[str, Any]) -> dict[str, Any]:
        cell = table[result["decoders"], result["l_max"]]
        return result | {"dataset": "mnist", "data": "MNIST", "mse": cell.mse * levels[result["scheme"]]}

    out = changed(as_mnist)
    text = (out / "report.html").read_text()
    for (decoders, l_max), cell in table.items():
        line = (f"<tr><td>{decoders}</td><td>{l_max}</td><td>{cell.candidates}</td><td>{cell.beta:g}</td>"
                f"<td>{cell.mse:.4f}</td>")
        assert (line in text) == (decoders in (1, 4) and l_max in (4, 8, 16))
    assert text.count('<td class="off">+5.1 %</td>') == 6
    assert text.count('<td>learned Wyner–Ziv (list)</td>') >= 6 and text.count('<td class="near">-30.0 %</td>') == 6
    assert "for GLS in 0 and the best scheme in 6" in text
    assert "GLS, published figures" in text  # in the figure
    assert (out / "figures" / "images-mnist.png").exists()


def test_a_contact_sheet_is_of_the_most_decoders_and_the_middle_l_max(swept: Path) -> None:
    _, records = results.read(swept)
    (chosen,) = sheets(records).values()
    assert [(each["scheme"], each["decoders"], each["l_max"]) for each in chosen] == [
        (scheme, 4, 8) for scheme in ("gls", "baseline", "wyner-ziv", "wyner-ziv-list", "vq")]
    assert all(each["seed"] == 1 for each in chosen)
    crops = [[image["crops"] for image in each["shown"]["images"]] for each in chosen]
    assert all(each == crops[0] for each in crops)
    (alone,) = sheets([record for record in records if record["result"]["decoders"] == 1]).values()
    assert {each["decoders"] for each in alone} == {1}


def test_a_contact_sheet_has_crops_where_they_were(tmp_path: Path) -> None:
    red, blue, cyan = (255, 0, 0), (0, 0, 255), (0, 255, 255)
    source = np.full((20, 20, 3), red, np.uint8)
    source[:, 10:] = blue
    source[4:10, 2:8] = (255, 0, 255)
    made = np.full((20, 10, 3), cyan, np.uint8)
    image = {"index": 0, "source": text_of(source), "crops": [[4, 2]] * 2, "reconstructions": [text_of(made)] * 2,
             "matched": [True, False], "mse": [0.5, 0.25]}
    result = {"scheme": "gls", "decoders": 2, "l_max": 4, "data": "colours",
              "shown": {"shape": [20, 20, 3, 6], "images": [image]}}
    write_contact_sheet(result, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))

    def area(colour: tuple[int, int, int]) -> int:
        return int((pixels == colour).all(axis=2).sum())

    half = area(blue)  # of the source alone
    assert area(cyan) == pytest.approx(2 * half, rel=0.1)
    assert area((255, 0, 255)) == pytest.approx(3 * half * 36 / 200, rel=0.15)  # in the source, and of each decoder
    assert area(red) == pytest.approx(half * 164 / 200, rel=0.1)  # in the source alone
    assert area((208, 214, 226)) == pytest.approx(2 * half * 164 / 200, rel=0.1)
    assert count(pixels, "#009E73") > count(pixels, "#E69F00") > 100
    with pytest.raises(CallerError, match="expected a file that can be written"):
        write_contact_sheet(result, tmp_path / "nowhere" / "sheet.png")


def text_of(pixels: NDArray[np.uint8]) -> str:
    return base64.b64encode(pixels.tobytes()).decode()
