"""Scenarios: files that expand to cells, and what is wrong with those that do not."""

import subprocess
import sys
from pathlib import Path

import pytest

from glsnet.errors import CallerError
from glsnet.lab import scenarios
from glsnet.lab.settings import GaussianRun

HEAD = 'title = "t"\nsource = "gaussian"\n'


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + text)
    return str(path)


def test_cells_come_in_the_order_of_the_file_and_of_the_settings(tmp_path: Path) -> None:
    path = written(tmp_path, """
        l_max = [2, 4]                # after `decoders`, as in GaussianRun
        decoders = [1, 3]
        repetitions = 2
        seed = 10
        samples = 500
        [[runs]]
        scheme = "baseline"
        [[runs]]
        decoders = 4
        l_max = 8
        repetitions = 1
        sigma2 = [1, 0.5]             # a whole number will do
    """)
    cells = scenarios.cells(scenarios.load(path))
    assert [cell.number for cell in cells] == list(range(10))
    ran = [(cell.settings.decoders, cell.settings.l_max, cell.repetition, cell.settings.seed) for cell in cells[:8]]
    assert ran == [(k, l_max, r, 10 + r) for k in (1, 3) for l_max in (2, 4) for r in (0, 1)]
    assert {cell.settings.scheme for cell in cells[:8]} == {"baseline"}
    assert [cell.settings for cell in cells[8:]] == [
        GaussianRun(decoders=4, l_max=8, sigma2=sigma2, seed=10, samples=500) for sigma2 in (1.0, 0.5)
    ]
    assert all(cell.search is None for cell in cells)


def test_a_search_belongs_to_every_cell_below_it(tmp_path: Path) -> None:
    path = written(tmp_path, """
        decoders = [1, 2]
        search = { sigma2 = [0.01, 0.001], samples = 100, minimise = "mse" }
        [[runs]]
        [[runs]]
        search = { sigma2 = [0.1], samples = 200, minimise = "mean_db" }
    """)
    searches = [cell.search for cell in scenarios.cells(scenarios.load(path))]
    assert [(search.tries(8), search.samples, search.minimise) for search in searches if search] == [
        ([{"sigma2": 0.01}, {"sigma2": 0.001}], 100, "mse")] * 2 + [([{"sigma2": 0.1}], 200, "mean_db")] * 2


@pytest.mark.parametrize(("name", "count"), [
    ("table10", 480), ("smoke", 16), ("demo", 10), ("digits", 40), ("table13", 500), ("table15", 500)])
def test_the_scenarios_that_come_with_glsnet(tmp_path: Path, name: str, count: int) -> None:
    code = f"from glsnet.lab.scenarios import *; print(len(cells(load({name!r}))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert int(done.stdout) == count


def test_the_published_table_is_searched_for_on_samples_of_its_own() -> None:
    cells = scenarios.cells(scenarios.load("table10"))
    assert {cell.settings.seed for cell in cells} == set(range(10, 20))
    assert {cell.settings.samples for cell in cells} == {100_000}
    assert {(cell.settings.decoders, cell.settings.l_max) for cell in cells} == {
        (k, 2**bits) for k in (1, 2, 3, 4) for bits in (1, 2, 3, 4, 5, 6)}
    assert all(cell.search and (cell.search.samples, cell.search.minimise) == (10_000, "mean_db") for cell in cells)


def test_only_what_a_scenario_says_is_digested(tmp_path: Path) -> None:
    plain = scenarios.load(written(tmp_path, "decoders = 2\nl_max = 4\n")).digest
    assert scenarios.load(written(tmp_path, "# two\nl_max = 4\ndecoders=2\n")).digest == plain
    assert scenarios.load(written(tmp_path, "decoders = 2\nl_max = 8\n")).digest != plain


@pytest.mark.parametrize(("text", "error"), [
    ("[[runs]]\n[[runs]]\nl_max = 0", "mine.toml: runs[1].l_max: expected greater than or equal to 1, got 0"),
    ("[[runs]]\nl_max = [2, '4']", "mine.toml: runs[0].l_max: expected a valid integer, got '4'"),
    ("[[runs]]\nl_max = []", "mine.toml: runs[0].l_max: expected at least one value, got []"),
    ("l_max = 0\n[[runs]]", "mine.toml: l_max: expected greater than or equal to 1, got 0"),
    ("samples = 1.5", "mine.toml: samples: expected a valid integer"),
    ("sigma2 = nan", "mine.toml: sigma2: expected a finite number"),
    ("sigma2 = true", "mine.toml: sigma2: expected a valid number, got True"),
    ("scheme = ['gls', 'best']", "mine.toml: scheme: expected 'gls'"),
    ("decoder = 4", "mine.toml: decoder: no such key; the keys are title, source, runs, scheme, decoders, l_max"),
    ("[[runs]]\ntitle = 't'", "mine.toml: runs[0].title: no such key; the keys are scheme, decoders, l_max"),
    ("repetitions = 0", "mine.toml: repetitions: expected greater than or equal to 1, got 0"),
    ("[[runs]]\nrepetitions = [2]", "mine.toml: runs[0].repetitions: expected a valid integer, got [2]"),
    ("search = 3", "mine.toml: search: expected"),
    ("search = { samples = 100, minimise = 'mse' }", "search: expected a list of values of just one parameter"),
    ("search = { sigma2 = [1], step = [1], samples = 100, minimise = 'mse' }", "just one parameter, sigma2 or step"),
    ("search = { sigma2 = [1], minimise = 'mse' }", "mine.toml: search.samples: expected it, got none"),
    ("search = { sigma2 = [1], samples = 100, minimise = 'bits' }",
     "search.minimise: expected 'mean_db', 'mse' or 'decoder_mse'"),
    ("search = { sigma2 = [1, 'x'], samples = 100, minimise = 'mse' }", "search.sigma2[1]: expected a valid number"),
    ("[[runs]]\nsearch = { sigma2 = [1, 0], samples = 9, minimise = 'mse' }",
     "mine.toml: runs[0].search.sigma2: expected greater than or equal to 0.000000000001, got 0"),
    ("search = { sigma = [1], samples = 100, minimise = 'mse' }", "mine.toml: search.sigma: no such key; the keys are"),
    ("sigma2 = 1\n[[runs]]\nsearch = { sigma2 = [1], samples = 9, minimise = 'mse' }",
     "mine.toml: sigma2: expected it to be set or searched, got both"),
    ("runs = 3", "mine.toml: runs: expected"),
    ("runs = []", "mine.toml: expected 1 to 100,000 cells, got 0"),
    (f"l_max = {[2] * 400}\nsigma2 = {[0.1] * 400}", "expected 1 to 100,000 cells, got 160,000"),
    ("repetitions = 1000000000000", "expected 1 to 100,000 cells, got 1,000,000,000,000"),
    ("l_max = [2, 4, 2]", "mine.toml: expected cells that differ, got cells 0 and 2 with the same settings ("),
    ("seed = [1, 2]\nrepetitions = 2", "got cells 1 and 2 with the same settings"),
    ("l_max = = 3", "mine.toml: expected TOML, got: Invalid value (at line 3, column 9)"),
    ("mean = 1979-05-27", "mine.toml: mean: expected a valid number"),
])
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, error: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(CallerError) as raised:
        scenarios.load(path)
    assert error in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_scenario_needs_a_title_and_a_source(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("source = 'gaussian'")
    with pytest.raises(CallerError, match=r"mine\.toml: title: expected it, got none; add it to the file"):
        scenarios.load(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text("title = 't'\nsource = 'image'")
    with pytest.raises(CallerError, match=r"mine\.toml: source: expected 'gaussian' or 'images', got 'image'"):
        scenarios.load(str(tmp_path / "mine.toml"))


def test_a_scenario_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match=r"nowhere\.toml: expected a scenario that can be read, got: No such file"):
        scenarios.load(str(tmp_path / "nowhere.toml"))
    with pytest.raises(CallerError, match="one of demo, digits, rivals, smoke, table10, table13, table15; got 'tabl"):
        scenarios.load("table11")
    (tmp_path / "latin.toml").write_bytes(b"title = '\xe9'")
    with pytest.raises(CallerError, match=r"latin\.toml: expected UTF-8 text, got byte 0xe9"):
        scenarios.load(str(tmp_path / "latin.toml"))
