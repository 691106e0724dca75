"""Scenarios of images, what --set does to a scenario, and cells of images measured."""

import json
from pathlib import Path

import pytest
from processes import glsnet

from glsnet.errors import CallerError
from glsnet.lab import results, scenarios
from glsnet.lab.cells import SEARCH_SEEDS, measure
from glsnet.lab.scenarios import Cell
from glsnet.lab.settings import GaussianRun, ImagesRun

HEAD = 'title = "t"\nsource = "images"\ntransport = "direct"\n'
SEARCH = "search = { candidates = [32, 48, 64], beta = [0.15, 0.95], samples = 40, minimise = 'mse' }\n"


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + text)
    return str(path)


def test_cells_have_the_settings_of_images(tmp_path: Path) -> None:
    path = written(tmp_path, "scheme = ['gls', 'vq']\ndecoders = [1, 4]\nrepetitions = 2\nseed = 3\nsamples = 50\n")
    cells = scenarios.cells(scenarios.load(path))
    assert [cell.settings for cell in cells] == [
        ImagesRun(scheme=scheme, decoders=k, seed=seed, samples=50, transport="direct")
        for scheme in ("gls", "vq") for k in (1, 4) for seed in (3, 4)]


def test_a_search_tries_every_combination_whose_bins_are_equal(tmp_path: Path) -> None:
    cells = scenarios.cells(scenarios.load(written(tmp_path, f"l_max = [16, 24, 64]\n{SEARCH}")))
    tries = [[tuple(each.values()) for each in cell.search.tries(cell.settings.l_max)] for cell in cells if cell.search]
    assert tries == [[(n, beta) for n in of for beta in (0.15, 0.95)] for of in ([32, 48, 64], [48], [64])]
    assert [(cell.settings.candidates, cell.settings.beta) for cell in cells if isinstance(cell.settings, ImagesRun)
            ] == [(32, 0.15), (48, 0.15), (64, 0.15)]


@pytest.mark.parametrize(("text", "error"), [
    ("sigma2 = 1", "sigma2: no such key; the keys are title, source, runs, scheme, decoders, l_max, candidates, beta,"),
    ("data = '.'", "data: no such key"),  # where images lie is a machine's own
    ("[[runs]]\ndata = '.'", "runs[0].data: no such key; the keys are scheme, decoders, l_max, candidates"),
    ("dataset = 'imagenet'", "dataset: expected 'digits', 'mnist', 'cifar10' or 'folder', got 'imagenet'"),
    ("search = { sigma2 = [1], samples = 9, minimise = 'mse' }",
     "search.sigma2: no such key; the keys are samples, minimise, candidates, beta"),
    ("search = { beta = [1], samples = 9, minimise = 'mean_db' }", "search.minimise: expected 'mse' or 'decoder_mse'"),
    ("search = { samples = 9, minimise = 'mse' }", "search: expected a list of values of candidates, of beta, or of"),
    (f"candidates = 64\n[[runs]]\n{SEARCH}", "candidates: expected it to be set or searched, got both; leave it out"),
    (f"l_max = [8, 128]\n{SEARCH}", "search.candidates: expected a multiple of l_max, which is 128, got [32, 48, 64]"),
    ("search = { beta = [0.15, -1], samples = 9, minimise = 'mse' }", "search.beta: expected greater than 0, got -1"),
    (f"split = 'validation'\n{SEARCH}", "split: expected test with a search, which looks at images of validation"),
])
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, error: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(CallerError) as raised:
        scenarios.load(path)
    assert error in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")


def test_keys_are_those_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("title = 't'\nsource = 'gaussian'\nbeta = 1")
    with pytest.raises(CallerError, match=r"beta: no such key; the keys are title, source, runs, scheme, .* sigma2, "):
        scenarios.load(str(tmp_path / "mine.toml"))


def test_overrides_take_the_place_of_what_the_file_says() -> None:
    plain, other = (scenarios.load("table15", each) for each in (
        (), ("model=cifar.safetensors", "scheme = ['vq']", "l_max=[4, 8]", "repetitions=1", "seed=2", "seed=3")))
    assert other.digest != plain.digest
    assert other.document == plain.document | {
        "model": "cifar.safetensors", "scheme": ["vq"], "l_max": [4, 8], "repetitions": 1, "seed": 3,
        "runs": [{"search": plain.document["runs"][0]["search"]}, {}]}
    cells = scenarios.cells(other)
    assert len(cells) == 16 and {cell.settings.scheme for cell in cells} == {"vq"}
    settings = scenarios.cells(scenarios.load("table10", ["samples=1_000"]))[0].settings
    assert isinstance(settings, GaussianRun) and settings.samples == 1000


@pytest.mark.parametrize(("overrides", "error"), [
    (["samples"], "--set: expected key=value, got 'samples'; the keys are those of the scenario"),
    (["samples=many"], "smoke.toml with --set: samples: expected a valid integer, got 'many'"),
    (["model=digits"], "smoke.toml with --set: model: no such key; the keys are title, source, runs, scheme"),
    (["runs=3"], "smoke.toml with --set: runs: expected"),
])
def test_overrides_that_cannot_be(overrides: list[str], error: str) -> None:
    with pytest.raises(CallerError) as raised:
        scenarios.load("smoke", overrides)
    assert str(raised.value).startswith(error)


def cells_of(tmp_path: Path, text: str) -> list[Cell]:
    return scenarios.cells(scenarios.load(written(tmp_path, text)))


def test_a_search_is_on_validation_images_and_the_run_on_test_images(tmp_path: Path) -> None:
    cell, = cells_of(tmp_path, f"decoders = 2\nl_max = 32\nsamples = 60\nshown = 3\n{SEARCH}")
    body = measure(cell)
    result, timing = body["result"], body["timing"]
    tried = [{"candidates": n, "beta": beta, "mse": measure(Cell(0, 0, cell.settings.model_copy(update={
        "candidates": n, "beta": beta, "samples": 40, "split": "validation", "seed": SEARCH_SEEDS + 1}), None))[
            "result"]["mse"]} for n in (32, 64) for beta in (0.15, 0.95)]
    assert result["searched"] == tried
    best = min(tried, key=lambda each: each["mse"])
    assert (result["candidates"], result["beta"]) == (best["candidates"], best["beta"])
    assert (result["split"], result["samples"], len(result["shown"]["images"])) == ("test", 60, 3)
    assert timing.keys() == {"seconds", "samples_per_second", "spent"} and not {"seconds", "spent"} & result.keys()
    json.dumps(body, allow_nan=False)


def test_only_the_first_repetition_shows_images(tmp_path: Path) -> None:
    first, second = (measure(cell)["result"] for cell in cells_of(tmp_path, "scheme = 'vq'\nrepetitions = 2\n"))
    assert len(first["shown"]["images"]) == 8 and second["shown"] is None


def test_a_sweep_of_images_and_its_resumption(tmp_path: Path) -> None:
    path = written(tmp_path, "scheme = ['gls', 'vq']\nrepetitions = 2\nsamples = 20\n")
    arguments = ("sweep", path, "--output", str(tmp_path / "out"), "--set", "samples=10", "--workers", "1")
    glsnet(*arguments)
    manifest, records = results.read(tmp_path / "out")
    assert manifest["scenario"]["samples"] == 10
    assert [(record["result"]["scheme"], record["result"]["samples"]) for record in records] == [
        ("gls", 10), ("gls", 10), ("vq", 10), ("vq", 10)]
    assert all("data" not in record["cell"]["settings"] for record in records)
    assert "resuming: 4 of 4 cells are there" in glsnet(*arguments).stderr
    assert "expected results of this scenario, got those of another" in glsnet(*arguments[:4], code=2).stderr


def test_images_of_ones_own_lie_where_data_says(tmp_path: Path) -> None:
    path = written(tmp_path, "scheme = 'vq'\ndataset = 'folder'\nmodel = 'digits'\nsamples = 10\n")
    for arguments, error in [((path, "--data", str(tmp_path / "none")), f"{tmp_path / 'none'}: expected a folder of"),
                             (("smoke", "--data", "."), "--data: expected it for images that lie in a folder, got .,"),
                             (("digits", "--data", "."), "and digits has none; leave it out")]:
        done = glsnet("sweep", *arguments, "--output", str(tmp_path / "out"), code=2)
        assert error in done.stderr
