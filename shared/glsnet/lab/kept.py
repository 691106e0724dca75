"""One run as a result directory of its own, with its report: what `glsnet run ... --results DIR` leaves.

    keeper    looks, before the run, whether there is room; gives what keeps its result
    keep      result -> DIR/<source>-<time>: manifest, record, report
"""

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from glsnet.errors import CallerError
from glsnet.lab import cells, results, scenarios
from glsnet.lab.scenarios import Scenario
from glsnet.lab.settings import GaussianRun, ImagesRun


def keeper(directory: Path | None, settings: GaussianRun | ImagesRun, title: str) -> Callable[[dict[str, Any]], None]:
    """What to call with a run's result, to keep it in a folder, if there is one; its report's path goes to stderr.

    Raises:
        CallerError: the folder cannot be made, or this process cannot write to it.
    """
    if directory is None:
        return lambda _: None
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallerError(f"--results: expected a folder that can be made, got {directory}: {error.strerror}"
                          ) from error
    if not os.access(directory, os.W_OK | os.X_OK):
        raise CallerError(f"--results: expected a folder that user {os.getuid()} can write to, got {directory}; change "
                          "its owner, or name another")
    since, now = time.perf_counter(), datetime.now(UTC)

    def kept(result: dict[str, Any]) -> None:
        print(keep(directory, settings, title, result, time.perf_counter() - since, now), file=sys.stderr)

    return kept


def keep(directory: Path, settings: GaussianRun | ImagesRun, title: str, result: dict[str, Any], seconds: float,
         now: datetime) -> Path:
    """Write a run that took so many `seconds` as a sweep of one cell, and its report.

    Returns:
        the path of the report's page.

    Raises:
        CallerError: it cannot be written.
    """
    from glsnet.lab import page  # matplotlib takes a second to load: only for those who draw

    source = "images" if isinstance(settings, ImagesRun) else "gaussian"
    own = settings.model_dump(mode="json", exclude_defaults=True, exclude_none=True, by_alias=True)
    scenario = Scenario("the command line", {"title": title, "source": source, **own})
    (cell,) = scenarios.cells(scenario)
    folder = directory / f"{source}-{now:%Y%m%dT%H%M%SZ}"
    with results.opened(folder, scenario) as opened:
        opened.append(cell, cells.body(result, seconds, []))
    return page.write(folder)
