"""A cell of a sweep, measured: the search for its parameter, if any, then the run itself."""

import asyncio
import time
from typing import Any

from glsnet.lab import nature as natures
from glsnet.lab import runner
from glsnet.lab.scenarios import Cell, Search
from glsnet.lab.settings import GaussianRun

SEARCH_SEEDS = 1_000_000  # above the run's seed: a search must not see the samples that its choice is measured on


def measure(cell: Cell) -> dict[str, Any]:
    """Run a cell.

    Returns:
        result: as `glsnet run gaussian --json` prints it, but for the speed; and `searched`, a list of each value that
            was tried and what came of it. It depends on nothing but the cell; over gRPC, also on how the kernel cut
            its segments.
        timing: `seconds`, search included, and `samples_per_second` of the run itself.

    Raises:
        GlsnetError: as `runner.run`.
    """
    since = time.perf_counter()
    settings, searched = (cell.settings, []) if cell.search is None else _searched(cell.settings, cell.search)
    result = _result(settings)
    speed = result.pop("samples_per_second")
    return {
        "result": result | {"searched": searched},
        "timing": {"seconds": time.perf_counter() - since, "samples_per_second": speed},
    }


def _searched(settings: GaussianRun, search: Search) -> tuple[GaussianRun, list[dict[str, float]]]:
    """The settings with the best value, the first of equals; and what came of every value."""
    elsewhere = {"samples": search.samples, "seed": SEARCH_SEEDS + settings.seed}
    searched = []
    for value in search.values:
        tried = settings.model_copy(update=elsewhere | {search.parameter: value})
        searched.append({search.parameter: value, search.minimise: _result(tried)[search.minimise]})
    best = min(searched, key=lambda each: each[search.minimise])
    return settings.model_copy(update={search.parameter: best[search.parameter]}), searched


def _result(settings: GaussianRun) -> dict[str, Any]:
    return asyncio.run(runner.run(settings, natures.synthetic(settings), None, lambda _: None, lambda _: None))
