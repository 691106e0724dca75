"""`glsnet tables`: the published experiments, and what beats them, computed and printed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from glsnet.errors import CallerError
from glsnet.lab import results, scenarios, summary_images
from glsnet.lab.cli_sweep import (
    DataOption,
    Engine,
    EngineOption,
    OverridesOption,
    SchedulerOption,
    WorkersOption,
    sweep,
)
from glsnet.lab.report import table_of
from glsnet.lab.summary import Measured, Record, Row, beside_published, decibels, summarise

tables_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown",
                         help="Compute and print a published table, and what beats it.")
OutputOption = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results; made if it is not there.")]


@tables_app.command()
def gaussian(
    output: OutputOption = Path("results/table10"),
    engine: EngineOption = Engine.local,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
) -> None:
    """The published table, every cell: K = 1 to 4, L_max = 2 to 64, GLS and the baseline, beside what was published.

    82 million trials, several minutes on two cores; kill it, and the same command goes on. It is the scenario
    `table10`, so `glsnet sweep table10 --output DIR` measures the same, and `glsnet report DIR` draws it.

    Given are both metrics: mean dB, as published, and MSE (dB), which theory bounds; for the best of K decoders, which
    takes an oracle to choose, and for each decoder by itself.
    """
    sweep("table10", output, engine, scheduler, workers)
    _, records = results.read(output)
    rows = summarise(records)
    console = Console()
    console.print(beside_published_table(rows))
    worst = max((abs(each.deviations) for each in beside_published(rows)), default=0.0)
    console.print(f"L: L_max. s.e.: ours less the published, in combined standard errors, at most {worst:.1f}. base: "
                  "mean dB of the baseline. match, bound: of the match rate. each: MSE of each decoder by itself. "
                  f"{_trials(records)}", style="dim")


@tables_app.command()
def rivals(
    output: OutputOption = Path("results/rivals"),
    engine: EngineOption = Engine.local,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
) -> None:
    """The lowest mean squared error at a given rate: GLS, what its decoders could know, simple codes, the limits.

    The cells of the published table, on the same samples; each scheme with the sigma2 or step that suits it. It is the
    scenario `rivals`: four minutes or so on two cores, most of them for the posterior means.
    """
    sweep("rivals", output, engine, scheduler, workers)
    _, records = results.read(output)
    rows = summarise(records)
    console = Console()
    console.print(rivals_table(rows, "best of K decoders, MSE (dB), chosen by an oracle", BEST, best=True))
    console.print(rivals_table(rows, "each decoder's own, MSE (dB)", OWN, best=False))
    console.print(_trials(records), style="dim")


@tables_app.command()
def images(
    scenario: Annotated[str, typer.Option(help="table13 (MNIST), table15 (CIFAR-10), or another scenario of one data "
                                          "set; also a TOML file.")] = "table13",
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the results; made if it is not there. "
                                                "Default: results/ and the scenario's name.")] = None,
    engine: EngineOption = Engine.local,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
    data: DataOption = None,
    overrides: OverridesOption = None,
) -> None:
    """The published tables of images: K = 1 to 4, L_max = 4 to 64, beside what was published and what beats it.

    Mean squared errors of right halves, pixels from 0 to 1: of the best of K decoders, as published, which takes an
    oracle to choose, and of each decoder by itself. Beside the schemes stand plain k-means (VQ), what decoders make of
    their crops without a message, and the mean image.

    - `glsnet tables images`: MNIST, with the model that comes with glsnet
    - `glsnet tables images --scenario table15 --set model=cifar.safetensors`: CIFAR-10, with your model
    - `glsnet tables images --scenario table15 --set model=cifar.safetensors --set dataset=folder --data DIR`: as images
      of your own
    """
    source = scenarios.load(scenario, overrides or ()).source
    if source != "images":
        raise CallerError(f"--scenario: expected one of source images, got {scenario} of source {source}; name another")
    folder = output or Path("results") / Path(scenario).stem
    sweep(scenario, folder, engine, scheduler, workers, data, overrides)
    _, records = results.read(folder)
    rows = summary_images.summarise(records)
    console = Console()
    console.print(images_table(rows, best=True))
    console.print(images_table(rows, best=False))
    console.print(f"{beside_published_images(rows)}L: L_max. publ.: GLS as published. N, beta: of gls. (3): a standard "
                  "error of 3 in the last place, over repetitions, which share their images. side inf.: crops alone. "
                  f"{_trials(records)}", style="dim")


BEST = ("gls", "posterior-list", "nested", "trellis", "split", "split-trellis")
OWN = ("gls", "posterior-mean", "nested", "trellis")
MARGIN = 0.7  # of what was published
LEARNED = ("gls", "baseline", "wyner-ziv", "wyner-ziv-list")  # of images; VQ is in every row


def beside_published_table(rows: Sequence[Row]) -> Table:
    """A line for each published cell among the rows."""
    table = table_of("mean dB of the best of K decoders, as published, and MSE (dB) of the best and of each",
                     *((name, ">") for name in ("K", "L", "sigma2", "publ.", "ours", "s.e.", "base", "match", "bound",
                                                "MSE", "each")))
    table.padding = (0, 0, 0, 1)  # fits 80 columns
    baseline = {(row.decoders, row.l_max): row for row in rows if row.scheme == "baseline"}
    for each in beside_published(rows):
        row, rival = each.row, baseline.get((each.row.decoders, each.row.l_max))
        table.add_row(
            str(row.decoders), str(row.l_max), f"{row.parameter_value:g}", f"{each.published.mean_db.value:.2f}",
            f"{row.mean_db.value:.2f}", f"{each.deviations:+.1f}",
            "" if rival is None else f"{rival.mean_db.value:.2f}", f"{row.match_rate.value:.3f}",
            "" if row.match_bound is None else f"{row.match_bound:.3f}", f"{row.mse.decibels.value:.2f}",
            f"{row.decoder_mse.decibels.value:.2f}",
        )
    return table


def rivals_table(rows: Sequence[Row], title: str, schemes: Sequence[str], best: bool) -> Table:
    """A line for each K and L_max: side information alone, every scheme, the limit; the least is bold."""
    limit = "list\nconverse" if best else "Wyner-\nZiv"
    table = table_of(title, ("K", ">"), ("L", ">"), ("no\nmessage", ">"),
                     *((scheme.replace("-", "-\n"), ">") for scheme in schemes), (limit, ">"))
    table.padding = (0, 0, 0, 1)
    for k, l_max in sorted({(row.decoders, row.l_max) for row in rows}):
        of = {row.scheme: row for row in rows if (row.decoders, row.l_max) == (k, l_max)}
        one = next(iter(of.values()))
        found = {scheme: (row.mse if best else row.decoder_mse).decibels.value for scheme, row in of.items()}
        least = min((found[scheme] for scheme in schemes if scheme in found), default=0.0)
        table.add_row(
            str(k), str(l_max), f"{decibels(one.side_information_mse if best else one.residual_variance):.2f}",
            *("" if scheme not in found else f"[bold]{found[scheme]:.2f}[/]" if found[scheme] == least
              else f"{found[scheme]:.2f}" for scheme in schemes),
            f"{decibels(one.list_converse_mse if best else one.wyner_ziv_mse):.2f}",
        )
    return table


def images_table(rows: Sequence[summary_images.Row], best: bool) -> Table:
    """A line for each K and L_max: what was published, every scheme, what needs no decoder; the least is bold."""
    title = "best of K decoders, MSE, chosen by an oracle" if best else "each decoder's own, MSE"
    names = ["K", "L", *(["publ.", "gls", "N", "beta"] if best else ["gls"]), "base-\nline", "wyner-\nziv",
             "wyner-\nziv-list", "VQ", "side\ninf.", "mean\nimage"]
    table = table_of(title, *((name, ">") for name in names))
    table.padding = 0  # fits 80 columns
    for cell, of in _cells_of_images(rows).items():
        one = next(iter(of.values()))
        known = summary_images.published_for(one).get(cell) if best else None
        side = one.side_information_mse if best else one.side_information_decoder_mse
        found = {scheme: row.mse if best else row.decoder_mse for scheme, row in of.items() if scheme in LEARNED}
        fixed = [None if value is None else Measured(value, 0.0) for value in (
            known and known.mse, one.vq_mse, side, one.mean_mse)]
        least = min(each.value for each in (*found.values(), *fixed) if each)
        published, *others = (_mse(each, least, False) for each in fixed)
        gls, *schemes = (_mse(found.get(scheme), least, True) for scheme in LEARNED)
        chosen = of.get("gls")
        parameters = [f"{chosen.candidates}", f"{chosen.beta:g}"] if chosen else ["", ""]
        table.add_row(*map(str, cell), *([published, gls, *parameters] if best else [gls]), *schemes, *others)
    return table


def beside_published_images(rows: Sequence[summary_images.Row]) -> str:
    """In how many of the published cells we are where; "" if none is among the rows."""
    level, beaten, cells = 0, 0, 0
    for cell, of in _cells_of_images(rows).items():
        one = next(iter(of.values()))
        known = summary_images.published_for(one).get(cell)
        if known is None or "gls" not in of:
            continue
        cells += 1
        level += of["gls"].mse.value <= known.mse
        least = min(row.mse.value for scheme, row in of.items() if scheme in LEARNED)
        beaten += least <= MARGIN * known.mse and all(
            each is None or least < each for each in (one.vq_mse, one.side_information_mse, one.mean_mse))
    if not cells:
        return ""
    return (f"Of {cells} published cells, GLS is at or below what was published in {level}; in {beaten} the best "
            f"scheme is {1 - MARGIN:.0%} or more below it, and below VQ, side information alone and the mean image.\n")


def _cells_of_images(rows: Sequence[summary_images.Row]) -> dict[tuple[int, int], dict[str, summary_images.Row]]:
    """The row of each scheme, by (K, L_max)."""
    cells = sorted({(row.decoders, row.l_max) for row in rows})
    return {cell: {row.scheme: row for row in rows if (row.decoders, row.l_max) == cell} for cell in cells}


def _mse(measured: Measured | None, least: float, with_error: bool) -> str:
    """As .0512(3), where 3 is the standard error in the last place; bold, if it is the least."""
    if measured is None:
        return ""
    text = f"{measured.value:.4f}".removeprefix("0") + (f"({measured.error * 1e4:.0f})" if with_error else "")
    return f"[bold]{text}[/]" if measured.value == least else text


def _trials(records: Sequence[Record]) -> str:
    """How many samples were measured, and how long they took."""
    seconds = sum(record["timing"]["seconds"] for record in records)
    measured = sum(record["result"]["samples"] for record in records)
    return f"{measured:,} samples measured, {seconds / 60:.1f} minutes of one process in all, searches included."
