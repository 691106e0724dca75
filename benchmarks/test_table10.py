"""Cells of the published table as `glsnet tables gaussian` measures them, against the dense form; ratios of one run."""

import time

import numpy as np
from dense import dense_trial

from glsnet.lab.cells import measure
from glsnet.lab.scenarios import cells, load

DENSE_TRIALS = 30


def test_cells_of_the_published_table() -> None:
    wanted = {(1, 2), (2, 8), (4, 8), (4, 64)}
    chosen = [cell for cell in cells(load("table10")) if cell.repetition == 0 and cell.settings.scheme == "gls"
              and (cell.settings.decoders, cell.settings.l_max) in wanted]
    measure(chosen[0])  # compiles
    rng = np.random.default_rng(1)
    print(f"\nCells of table 10, one core: search of 7 x 10,000 trials and 100,000 trials; dense with N=2^15, "
          f"{DENSE_TRIALS} trials")
    totals = np.zeros(2)
    for cell in chosen:
        start = time.perf_counter()
        result = measure(cell)["result"]
        ours = (time.perf_counter() - start) / (result["samples"] + sum(10_000 for _ in result["searched"]))
        start = time.perf_counter()
        for _ in range(DENSE_TRIALS):
            dense_trial(rng, result["decoders"], result["l_max"], result["sigma2"])
        dense = (time.perf_counter() - start) / DENSE_TRIALS
        totals += (ours, dense)
        print(f"  K={result['decoders']} L_max={result['l_max']:2d}: {ours * 1e6:5.1f} us a trial, dense "
              f"{dense * 1e6:6.0f}: {dense / ours:.0f} times faster")
    print(f"  over these four: {totals[1] / totals[0]:.0f} times faster")
