"""The command `glsnet latency`."""

import csv
import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from glsnet.errors import CallerError
from glsnet.lab import latency as lab
from glsnet.lab.report import table_of
from glsnet.lab.settings import LatencyRun
from glsnet.lab.terminal import AsJson, Assignments, interruptible
from glsnet.sources.samples import write_atomically


def latency(
    assignments: Assignments = None,
    output: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for latency.json, .csv, .html and the "
                                                "pictures; made if it is not there.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a network does to speculation and to compression, in virtual time.

    The very code that runs between machines, over modelled links, with forward passes that take as long as you say:
    time per token against round trip, jitter, bandwidth, L and K, with drafters that go on by themselves while the
    verdict travels (`ahead`) and without; the round trip at which speculation loses; how many clients one target
    serves; bits per sample against delay. A minute and a half.

    - `glsnet latency`
    - `glsnet latency --output results/latency --set verify=0.03 --set draft=0.004`
    - `glsnet latency --set scheme=gls-strong --set drafts=2 --set noise=0.4 --json`
    """
    settings = LatencyRun.parsed(assignments or [])
    logging.getLogger("glsnet").setLevel(logging.ERROR)  # each simulated run ends with streams that are lost
    if output is not None:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CallerError(f"--output: expected a folder that can be made, got {output}: {error.strerror}"
                              ) from error
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("latency", total=None)
        with interruptible(bar, "nothing was written"):
            result = lab.run(settings, lambda done, total, what: bar.update(task, completed=done, total=total,
                                                                            description=what))
    if output is not None:
        write(result, output)
    if as_json:
        print(json.dumps(result))
    else:
        Console().print(Group(_trips(result), _crossovers(result), _capacity(result), _batches(result), Text(
            "Seconds are virtual. p99 is over tokens, of a block's time by its tokens. wasted: drafted and never "
            "verified. Without speculation a token takes a pass of the target.", style="dim")))


def write(result: dict[str, Any], folder: Path) -> None:
    """JSON, CSV, PNGs and HTML of a result."""
    from glsnet.lab import plots_latency  # matplotlib takes a second to load: only for those who draw

    with write_atomically(folder / "latency.json") as handle:
        json.dump(result, handle)
        handle.write("\n")
    rows = [{name: value for name, value in row.items() if name != "gaps"} for row in result["speculation"]]
    with write_atomically(folder / "latency.csv") as handle:
        writer = csv.DictWriter(handle, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for name, (_, _, draw) in plots_latency.PICTURES.items():
        draw(result, folder / f"{name}.png")
    with write_atomically(folder / "latency.html") as handle:
        handle.write(plots_latency.page(result, folder))


def _trips(result: dict[str, Any]) -> Table:
    settings = result["settings"]
    aheads = settings["aheads"]
    table = table_of(f"ms per token: {settings['scheme']}, K = {settings['drafts']}, L = {settings['length']}, a pass "
                     f"{1000 * settings['verify']:g} ms, drafting {1000 * settings['draft']:g} ms",
                     ("round trip, ms", ">"), *((f"ahead {ahead}", ">") for ahead in aheads), ("p99", ">"),
                     ("wasted", ">"), ("target waits", ">"))
    rows = [row for row in result["speculation"] if row["axis"] == "round trip"]
    for rtt in settings["rtts"]:
        of = {row["ahead"]: row for row in rows if row["rtt"] == rtt}
        last = of[aheads[-1]]
        table.add_row(f"{1000 * rtt:g}", *(f"{1000 * of[ahead]['mean']:.1f}" for ahead in aheads),
                      f"{1000 * last['p99']:.1f}", f"{last['wasted_share']:.0%}",
                      f"{of[aheads[0]]['target_waits_share']:.0%}")
    table.caption = f"p99 and wasted of ahead {aheads[-1]}, target waits of ahead {aheads[0]}"
    return table


def _crossovers(result: dict[str, Any]) -> Table:
    table = table_of("round trip beyond which no speculation is faster, ms", ("ahead", ">"), ("L", ">"),
                     ("measured", ">"), ("predicted", ">"))
    for row in result["crossover"]:
        table.add_row(str(row["ahead"]), str(row["length"]), *(
            "-" if row[name] is None else f"{1000 * row[name]:.1f}" for name in ("rtt", "predicted")))
    return table


def _capacity(result: dict[str, Any]) -> Table:
    table = table_of("one processor at the target: tokens/s in all, ms per token", ("clients", ">"),
                     *((f"drafting {where}", ">") for where in ("elsewhere", "at the target", "nowhere")))
    for clients in result["settings"]["clients"]:
        of = [row for row in result["capacity"] if row["clients"] == clients]
        table.add_row(str(clients), *(f"{row['tokens_per_second']:.0f}, {1000 * row['mean']:.0f}" for row in of))
    return table


def _batches(result: dict[str, Any]) -> Table:
    table = table_of("compression: bits per sample to a decoder, ms of delay", ("frame", ">"), ("packed", ">"),
                     ("stream", ">"), ("ip", ">"), ("delay", ">"), ("p99", ">"))
    for row in result["compression"]:
        table.add_row(str(row["frame"]), *(f"{row['bits'][layer]:.2f}" for layer in ("packed", "stream", "ip")),
                      f"{1000 * row['delay']:.1f}", f"{1000 * row['p99']:.1f}")
    return table
