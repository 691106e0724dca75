"""`glsnet tables images`, the scenarios behind it, and the rows of images."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import glsnet
from rich.console import Console

from glsnet.lab import cli_tables, results, scenarios
from glsnet.lab.scenarios import ImagesSearch
from glsnet.lab.settings import ImagesRun
from glsnet.lab.summary import Measured
from glsnet.lab.summary_images import Published, Row, published, published_for, summarise

SCENARIO = """title = "small"
source = "images"
decoders = [1, 2]
samples = 40
repetitions = 3
transport = "direct"
[[runs]]
scheme = ["gls", "baseline"]
search = { candidates = [32, 64], beta = [0.15, 0.95], samples = 20, minimise = "mse" }
[[runs]]
scheme = ["wyner-ziv", "wyner-ziv-list", "vq"]
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    """What `glsnet tables images` prints of a sweep of a few cells in place of the whole, and the records."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "small.toml").write_text(SCENARIO)
    done = glsnet("tables", "images", "--scenario", str(folder / "small.toml"), "--output", str(folder / "out"))
    return done.stdout, results.read(folder / "out")[1]


def row_of(**changed: Any) -> Row:
    row = Row(
        "gls", 2, 8, 512, 0.15, "mse", 5, 100.0, 1.0, Measured(0.9, 0.0), Measured(0.0792, 0.0003),
        Measured(0.1, 0.0012), 0.06, 0.07, 0.08, 0.09, {}, "direct", "mnist", "MNIST")
    return replace(row, **changed)


def printed(rows: list[Row], best: bool) -> str:
    with (console := Console(width=80)).capture() as shown:
        console.print(cli_tables.images_table(rows, best))
    return shown.get()


@pytest.mark.parametrize("name", ["table13", "table15"])
def test_the_scenarios_are_the_published_experiments(name: str) -> None:
    cells = scenarios.cells(scenarios.load(name))
    assert {(cell.settings.decoders, cell.settings.l_max) for cell in cells} == published(name).keys()
    for cell in cells:
        assert isinstance(cell.settings, ImagesRun)
        assert (cell.settings.split, cell.settings.samples) == ("test", None)
        if cell.settings.scheme in ("gls", "baseline"):
            search = cell.search
            assert isinstance(search, ImagesSearch) and search.samples == 500 and search.minimise == "mse"
            assert {(each.candidates, each.beta) for each in published(name).values()} <= {
                (each["candidates"], each["beta"]) for each in search.tries(cell.settings.l_max)}
        else:
            assert cell.search is None


def test_published_figures_are_those_of_the_same_images() -> None:
    assert published("table13")[2, 64] == Published(128, 0.35, 0.0636)
    assert published("table15")[4, 64] == Published(128, 0.15, 0.0579)
    for changed, table in [({}, "table13"), ({"dataset": "cifar10"}, "table15"), ({"dataset": "digits"}, None),
                           ({"dataset": "folder"}, None),
                           ({"dataset": "folder", "trained_on": "CIFAR-10 as JPEG"}, "table15")]:
        assert published_for(row_of(**changed)) == (published(table) if table else {})


def test_repetitions_are_one_row(swept: tuple[str, list[dict[str, Any]]]) -> None:
    _, records = swept
    rows = summarise(records)
    assert [(row.decoders, row.scheme) for row in rows] == [
        (k, scheme) for k in (1, 2) for scheme in ("baseline", "gls", "vq", "wyner-ziv", "wyner-ziv-list")]
    for row in rows:
        of = [record["result"] for record in records
              if (record["result"]["decoders"], record["result"]["scheme"]) == (row.decoders, row.scheme)]
        assert (row.repetitions, row.samples, row.dataset, row.l_max) == (3, 40, "digits", 16)
        assert row.mse.value == pytest.approx(sum(each["mse"] for each in of) / 3)
        assert row.side_information_mse == pytest.approx(sum(each["side_information_mse"] for each in of) / 3)
        assert (row.minimised, row.candidates is None, row.beta is None) == (
            ("mse", False, False) if row.scheme in ("gls", "baseline") else ("", True, True))
        assert row.bits["information"] == 4 and row.bits["ip"] is None


def test_the_most_frequent_choice_is_given_and_other_searches_are_other_rows(
        swept: tuple[str, list[dict[str, Any]]]) -> None:
    record = next(record for record in swept[1] if record["result"]["searched"])
    found = [deepcopy(record) for _ in range(4)]
    for each, chosen in zip(found, [(32, 0.15), (64, 0.95), (64, 0.95), (32, 0.95)], strict=True):
        each["result"] |= {"candidates": chosen[0], "beta": chosen[1]}
    row, = summarise(found)
    assert (row.candidates, row.beta, row.repetitions) == (64, 0.95, 4)
    found[3]["result"]["searched"] = found[3]["result"]["searched"][1:]
    assert sorted(row.repetitions for row in summarise(found)) == [1, 3]


def test_tables_of_a_sweep_are_printed(swept: tuple[str, list[dict[str, Any]]]) -> None:
    text, records = swept
    best, own = text.split("each decoder's own, MSE")
    for row in summarise(records):
        for measured, table in ((row.mse, best), (row.decoder_mse, own)):
            if row.scheme != "vq":
                assert f"{measured.value:.4f}({measured.error * 1e4:.0f})".removeprefix("0") in table
            assert f"{row.vq_mse:.4f}".removeprefix("0") in table
    assert "published cells" not in text  # of digits there are none
    assert max(map(len, text.splitlines()[2:])) <= 80


def test_a_row_stands_beside_what_was_published() -> None:
    rows = [row_of(), row_of(scheme="wyner-ziv", candidates=None, beta=None, mse=Measured(0.05, 0.001))]
    best, own = printed(rows, True), printed(rows, False)
    assert best.splitlines()[-2].split() == "2 8 .0792 .0792(3) 512 0.15 .0500(10) .0600 .0800 .0700".split()
    assert own.splitlines()[-2].split() == "2 8 .1000(12) .1000(12) .0600 .0900 .0700".split()
    with (console := Console(force_terminal=True, color_system="standard", width=80)).capture() as shown:
        console.print(cli_tables.images_table(rows, True))
    assert "\x1b[1m.0500(10)\x1b[0m" in shown.get()


def test_widest_rows_fit_80_columns() -> None:
    worst = Measured(0.0792, 0.0012)
    rows = [row_of(l_max=64, candidates=4096, scheme=scheme, mse=worst) for scheme in cli_tables.LEARNED]
    assert all(line.count("(12)") in (0, 4) and "…" not in line for line in printed(rows, True).splitlines())
    assert ".0792(12) 4096 0.15 .0792(12) .0792(12) .0792(12)" in printed(rows, True)


@pytest.mark.parametrize(("changed", "level", "beaten"), [
    ({}, 1, 0), ({"mse": Measured(0.0793, 0.0)}, 0, 0), ({"mse": Measured(0.0554, 0.0)}, 1, 1),
    ({"mse": Measured(0.0554, 0.0), "vq_mse": 0.05}, 1, 0), ({"mse": Measured(0.0554, 0.0), "vq_mse": None}, 1, 1),
    ({"mse": Measured(0.0554, 0.0), "mean_mse": 0.05}, 1, 0),
    ({"mse": Measured(0.0554, 0.0), "side_information_mse": 0.0553}, 1, 0),
])
def test_cells_are_counted_where_we_are_better(changed: dict[str, Any], level: int, beaten: int) -> None:
    text = cli_tables.beside_published_images([row_of(**changed), row_of(scheme="vq", mse=Measured(0.01, 0.0))])
    assert text.startswith(f"Of 1 published cells, GLS is at or below what was published in {level}; in {beaten} the")


def test_a_scenario_of_another_source_is_refused_before_it_runs(tmp_path: Path) -> None:
    done = glsnet("tables", "images", "--scenario", "smoke", "--output", str(tmp_path / "out"), code=2)
    assert "--scenario: expected one of source images, got smoke of source gaussian; name another" in done.stderr
    assert not (tmp_path / "out").exists()
