"""A cell of a sweep, measured: the search for its parameters, if any, then the run itself."""

import asyncio
import time
from typing import Any

from glsnet.lab import nature as natures
from glsnet.lab import runner
from glsnet.lab.scenarios import Cell, Search
from glsnet.lab.settings import GaussianRun, ImagesRun

SEARCH_SEEDS = 1_000_000  # above the run's seed: a search must not see the samples that its choice is measured on


def measure(cell: Cell) -> dict[str, Any]:
    """Run a cell.

    Returns:
        result: as `glsnet run` prints it with --json, but for what took how long; and `searched`, a list of each
            combination that was tried and what came of it. It depends on nothing but the cell; over gRPC, also on how
            the kernel cut its segments. Of images, only the first repetition has the pixels to show.
        timing: `seconds`, search included, and `samples_per_second` of the run itself; of images also `spent`, the
            seconds of its parts.

    Raises:
        GlsnetError: as `runner.run`, or as `images.run`.
    """
    since = time.perf_counter()
    settings, searched = (cell.settings, []) if cell.search is None else _searched(cell.settings, cell.search)
    if isinstance(settings, ImagesRun) and cell.repetition:
        settings = settings.model_copy(update={"shown": 0})  # one contact sheet will do, and records stay small
    return body(_result(settings), time.perf_counter() - since, searched)


def body(result: dict[str, Any], seconds: float, searched: list[dict[str, float]]) -> dict[str, Any]:
    """What `measure` gives of a result that took so many seconds."""
    result = dict(result)
    timing = {"samples_per_second": result.pop("samples_per_second")}
    if "seconds" in result:
        timing["spent"] = result.pop("seconds")
    return {"result": result | {"searched": searched}, "timing": {"seconds": seconds} | timing}


def _searched(settings: GaussianRun | ImagesRun, search: Search
              ) -> tuple[GaussianRun | ImagesRun, list[dict[str, float]]]:
    """The settings with the best combination, the first of equals; and what came of every one."""
    elsewhere: dict[str, Any] = {"samples": search.samples, "seed": SEARCH_SEEDS + settings.seed}
    if isinstance(settings, ImagesRun):
        elsewhere |= {"split": "validation", "shown": 0}
    tries = search.tries(settings.l_max)
    found = [_result(settings.model_copy(update=elsewhere | each))[search.minimise] for each in tries]
    best = min(range(len(tries)), key=found.__getitem__)
    return settings.model_copy(update=tries[best]), [
        each | {search.minimise: number} for each, number in zip(tries, found, strict=True)]


def _result(settings: GaussianRun | ImagesRun) -> dict[str, Any]:
    if isinstance(settings, ImagesRun):
        from glsnet.lab import images  # only for those who code images

        return images.measure(settings)
    return asyncio.run(runner.run(settings, natures.synthetic(settings), None, lambda _: None, lambda _: None))
