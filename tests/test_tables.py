"""`glsnet tables` and the scenarios behind them, and the steps that quantisers take without being told."""

import math
from pathlib import Path

import numpy as np
import pytest
from processes import glsnet
from rich.console import Console

from glsnet.codes import QUANTISERS, RACES, Code
from glsnet.errors import CallerError
from glsnet.lab import cli_tables, results, scenarios
from glsnet.lab.settings import GaussianRun
from glsnet.lab.summary import summarise
from glsnet.lab.tuning import code_of
from glsnet.race import FloatArray
from glsnet.sources.gaussian import Gaussian, noisy_observation

SOURCE = Gaussian(0.0, 1.0)
SIDE = noisy_observation(SOURCE, 0.5)


def test_table_10_is_the_published_experiment() -> None:
    cells = scenarios.cells(scenarios.load("table10"))
    assert len(cells) == 4 * 6 * 2 * 10
    trials = sum((cell.settings.samples or 0) + cell.search.samples * len(cell.search.tries(cell.settings.l_max))
                 for cell in cells if cell.search)
    assert trials == 81_600_000
    assert {cell.search.minimise for cell in cells if cell.search} == {"mean_db"}


def test_the_rivals_have_the_samples_of_table_10() -> None:
    table, rivals = ({(cell.settings.decoders, cell.settings.l_max, cell.settings.seed)
                      for cell in scenarios.cells(scenarios.load(name))} for name in ("table10", "rivals"))
    assert rivals <= table
    assert {cell.settings.scheme for cell in scenarios.cells(scenarios.load("rivals"))} == {
        *RACES, *QUANTISERS} - {"baseline"}


def test_the_tables_are_printed_beside_the_published_figures(tmp_path: Path) -> None:
    """From a sweep of two cells in place of the whole, which takes minutes."""
    (tmp_path / "two.toml").write_text("""title = "two"
source = "gaussian"
decoders = [1, 2]
l_max = 8
samples = 4000
repetitions = 2
transport = "direct"

[[runs]]
scheme = ["gls", "baseline"]
search = { sigma2 = [0.002, 0.01], samples = 1000, minimise = "mean_db" }

[[runs]]
scheme = ["nested", "split-trellis"]
""")
    glsnet("sweep", str(tmp_path / "two.toml"), "--output", str(tmp_path / "out"))
    _, records = results.read(tmp_path / "out")
    rows = summarise(records)
    with (console := Console(width=80)).capture() as shown:
        console.print(cli_tables.beside_published_table([row for row in rows if row.minimised]))
        console.print(cli_tables.rivals_table(rows, "best", cli_tables.BEST, best=True))
        console.print(cli_tables.rivals_table(rows, "own", cli_tables.OWN, best=False))
    text = shown.get()
    assert "-16.01" in text and "-21.70" in text  # published, K = 1 and 2
    for row in rows:
        if row.scheme in ("nested", "split-trellis"):
            assert f"{row.mse.decibels.value:.2f}" in text
    assert "-22.83" in text  # Wyner-Ziv at 3 bits


def own_and_best(code: Code, samples: int) -> tuple[FloatArray, FloatArray]:
    """Squared errors of each decoder, shape [samples, K], and of the best, by blocks of 4096."""
    rng, key = np.random.default_rng(5), np.uint64(1)
    errors = []
    for _ in range(samples // 4096):
        a = rng.standard_normal(4096)
        t = a[:, None] + math.sqrt(0.5) * rng.standard_normal((a.size, code.decoders))
        messages, _ = code.encode(key, 0, a)
        errors.append(np.stack([(code.decode(SIDE, key, 0, t[:, k], messages, k)[0] - a) ** 2
                                for k in range(code.decoders)], axis=1))
    each = np.concatenate(errors)
    return each, each.min(axis=1)


@pytest.mark.parametrize("scheme", QUANTISERS)
@pytest.mark.parametrize(("decoders", "l_max"), [(1, 4), (2, 8), (4, 8)])
def test_the_default_step_is_about_the_best(scheme: str, decoders: int, l_max: int) -> None:
    """Within 0.5 dB of the least mean squared error among steps from 0.6 to 1.5 times as wide."""
    settings = GaussianRun.parsed([f"scheme={scheme}", f"l_max={l_max}"])
    code = code_of(settings, SOURCE, [SIDE] * decoders)
    assert code.step is not None

    def error(step: float) -> float:
        each, best = own_and_best(Code(SOURCE, scheme, decoders, l_max, step=step), 40 * 4096 // decoders)
        return 10 * math.log10(float((best if code.parts > 1 else each).mean()))

    own = error(code.step)
    assert own <= min(error(code.step * factor) for factor in (0.6, 0.8, 1.2, 1.5)) + 0.5


def test_a_setting_of_another_scheme_is_refused() -> None:
    for assignments, text in [(["scheme=nested", "sigma2=0.1"], "sigma2: expected it for gls"),
                              (["scheme=gls", "step=0.1"], "step: expected none for scheme gls"),
                              (["scheme=trellis", "l_max=5"], "l_max: expected an even number"),
                              (["scheme=split", "packing=entropy"], "packing: expected fixed")]:
        with pytest.raises(CallerError, match=text):
            code_of(GaussianRun.parsed(assignments), SOURCE, [SIDE] * 4)
