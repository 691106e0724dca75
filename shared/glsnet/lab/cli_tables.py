"""`glsnet tables`: the published experiment on the Gaussian source, and what beats it, computed and printed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from glsnet.lab import results
from glsnet.lab.cli_sweep import Engine, EngineOption, SchedulerOption, WorkersOption, sweep
from glsnet.lab.report import table_of
from glsnet.lab.summary import Record, Row, beside_published, decibels, summarise

tables_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown",
                         help="Compute and print a table of the Gaussian source.")
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


BEST = ("gls", "posterior-list", "nested", "trellis", "split", "split-trellis")
OWN = ("gls", "posterior-mean", "nested", "trellis")


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


def _trials(records: Sequence[Record]) -> str:
    """How many samples were measured, and how long they took."""
    seconds = sum(record["timing"]["seconds"] for record in records)
    measured = sum(record["result"]["samples"] for record in records)
    return f"{measured:,} samples measured, {seconds / 60:.1f} minutes of one process in all, searches included."
