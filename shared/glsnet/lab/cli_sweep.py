"""`glsnet sweep`: every cell of a scenario, into a result directory."""

import os
from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from glsnet.errors import CallerError
from glsnet.lab import engines, results, scenarios
from glsnet.lab.scenarios import Cell
from glsnet.lab.settings import ImagesRun
from glsnet.lab.terminal import interruptible

DATA = "GLSNET_DATA"


class Engine(StrEnum):
    """Where cells are measured."""

    local = "local"
    dask = "dask"


EngineOption = Annotated[Engine, typer.Option(help="local: processes of this machine. dask: the workers of a Dask "
                                              "cluster.")]
SchedulerOption = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="The Dask scheduler, for dask.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="How many processes, for local. Default: one for each "
                                                   "core.")]
DataOption = Annotated[Path | None, typer.Option("--data", metavar="DIR", envvar=DATA, help="Of images: where "
                                                 "they lie, on every machine that measures.")]
OverridesOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="In place of what the "
                                                           "scenario says of this key; may be given again.")]


def sweep(
    scenario: Annotated[str, typer.Argument(help="A TOML file, or the name of a scenario that comes with glsnet: "
                                            "smoke, demo, table10, rivals, digits, table13 or table15.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results; made if it is not there.")],
    engine: EngineOption = Engine.local,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
    data: DataOption = None,
    overrides: OverridesOption = None,
) -> None:
    """Measure every cell of a scenario: a product of settings, each repeated with seeds of its own.

    DIR/manifest.json says what was run, where and with which versions; DIR/records.jsonl has a line for each finished
    cell. Kill it at any moment, even pull the plug: the same command goes on where it stopped, repeats no finished
    cell and loses none.

    - `glsnet sweep smoke --output results/smoke`: a few seconds
    - `glsnet sweep table10 --output results/table10 --workers 8`
    - `glsnet sweep mine.toml --output results/mine --engine dask --scheduler 10.0.0.5:8786`, with
      `dask worker 10.0.0.5:8786 --nthreads 1 --nworkers auto` on each machine
    - `glsnet sweep digits --output results/digits`: images, a few seconds
    - `glsnet sweep table15 --set model=cifar.safetensors --data DIR --output results/table15`

    A scenario is a TOML file. Any setting of `glsnet run gaussian` may stand in it, with source = "images" of `glsnet
    run images`, and a list of values is a sweep:

        title = "More bits, more decoders"
        source = "gaussian"
        decoders = [1, 2, 4]
        samples = 20_000
        repetitions = 5
        transport = "direct"

        [[runs]]      # one or more; each overrides the above
        l_max = [2, 8, 32]
        search = { sigma2 = [0.001, 0.003, 0.01], samples = 5000, minimise = "mse" }

    With `search`, each cell tries these values on samples of its own, and runs with the best. Images are searched over
    `candidates` and `beta`, on some of those held out when training, split = "validation".
    """
    if (scheduler is not None) != (engine is Engine.dask):
        raise CallerError(f"--scheduler: expected it with --engine dask and with no other, got {scheduler or 'none'} "
                          f"with {engine}")
    if workers is not None and engine is Engine.dask:
        raise CallerError("--workers: expected it with --engine local only, got it with dask; its cluster has workers")
    plan = scenarios.load(scenario, overrides or ())
    cells = scenarios.cells(plan)
    if data is not None and not any(map(_in_folder, cells)) and str(data) != os.environ.get(DATA):  # that may be set
        raise CallerError(f"--data: expected it for images that lie in a folder, got {data}, and {scenario} has none; "
                          "leave it out")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with (
        Progress(*columns, console=console, transient=True) as bar,
        interruptible(bar, "finished cells are kept, and the same command resumes"),
    ):
        with results.opened(output, plan) as opened:
            remaining = [replace(cell, settings=cell.settings.model_copy(update={"data": data}))
                         if _in_folder(cell) else cell for cell in opened.remaining]
            total = len(cells)
            done = total - len(remaining)
            if opened.torn:
                console.print(f"an unfinished record of {opened.torn:,} bytes was cut off; its cell is measured again")
            if done:
                console.print(f"resuming: {done:,} of {total:,} cells are there")
            task = bar.add_task("cells (the first compile)", total=total, completed=done)
            with closing(engines.local(remaining, workers) if scheduler is None else
                         engines.on_dask(remaining, scheduler)) as measured:
                for cell, body in measured:
                    opened.append(cell, body)
                    bar.update(task, advance=1, description="cells")
    print(f"{output / results.MANIFEST}\n{output / results.RECORDS}")


def folder_for(dataset: str, data: Path | None) -> Path | None:
    """Where a data set's images lie; digits lie in none, and what GLSNET_DATA says for good is not meant for them."""
    return None if dataset == "digits" and str(data) == os.environ.get(DATA) else data


def _in_folder(cell: Cell) -> bool:
    """Whether a cell's images lie in a folder; digits come with a package."""
    return isinstance(cell.settings, ImagesRun) and cell.settings.dataset != "digits"
