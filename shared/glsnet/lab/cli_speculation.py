"""`glsnet run speculation`: experiments on speculative decoding over a file of prompts."""

import asyncio
import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from glsnet.errors import CallerError
from glsnet.lab import prompts as sources
from glsnet.lab import speculated
from glsnet.lab.live import Live, LiveAt, page
from glsnet.lab.prompts import Prompts
from glsnet.lab.report import table_of
from glsnet.lab.settings import SpeculationRun
from glsnet.lab.speculated import Pair, Row
from glsnet.lab.terminal import AsJson, Assignments, interruptible, security
from glsnet.language import models
from glsnet.sources.samples import write_atomically
from glsnet.transport.rpc import check_address
from glsnet.transport.security import Security

OWN = ("target_model", "draft_model", "seed")  # settings that parties which run already have of their own


def speculation(
    context: typer.Context,
    assignments: Assignments = None,
    prompts: Annotated[Path | None, typer.Option(
        metavar="FILE", help="Prompts: .jsonl or .jsonl.gz with a field question (GSM8K) or prompt (HumanEval) in each "
        "line, or .txt with a prompt on each line. Default: twelve word problems."
    )] = None,
    output: Annotated[Path | None, typer.Option(
        metavar="DIR", help="Folder for the result as JSON, CSV and PNG; made if it is not there."
    )] = None,
    target: Annotated[str | None, typer.Option(
        metavar="HOST:PORT", help="A target server that runs already, with draft servers on all its streams. Default: "
        "a target and a draft server are started here."
    )] = None,
    live: LiveAt = None,
    as_json: AsJson = False,
) -> None:
    """Speculative decoding: schemes side by side on the same prompts, in tokens per call, speed and bits.

    A target server and a draft server, each a process with a language model of its own, generate text for every
    prompt; what crosses between them is counted at every layer. Four experiments:

    - **schemes**: block efficiency with its standard error, tokens per second and the gain over a single draft,
      acceptance by depth, where the time goes, and bits per token both ways, for every scheme and K
    - **diverse**: two drafts whose temperatures differ, a target at temperature 2
    - **matching**: how often one of K drafts of one token is kept, beside the list matching lemma, the exact rates of
      other schemes and the optimum over all of them
    - **consistency**: what remains of a text when the drafter's temperature changes and nothing else

    They are the published comparisons, with their columns, on your models and prompts:

    - `glsnet run speculation`
    - `glsnet run speculation --prompts gsm8k_test.jsonl --set schemes=gls,specinfer --set drafts=8 --output results/s`
    - `glsnet run speculation --set experiment=matching --set contexts=300 --json`
    - `glsnet run speculation --set experiment=consistency --set prompts=5 --set transport=direct`
    - `glsnet run speculation --set target_model=Qwen/Qwen2.5-7B --set draft_model=Qwen/Qwen2.5-0.5B --set top_k=50`
    - `glsnet run speculation --target 10.0.0.5:7000 --set experiment=diverse`, after
      `python -m encoder_service target --listen 0.0.0.0:7000 --streams 2` there and
      `python -m decoder_service draft --target 10.0.0.5:7000` twice, anywhere
    """
    settings = SpeculationRun.parsed(assignments or [])
    speculated.plan_of(settings)  # before anything is loaded
    _check_target(settings, target)
    found = speculated.few(sources.built_in() if prompts is None else sources.read_prompts(prompts), settings)
    if output is not None:
        _make(output)
    about = f"experiment {settings.experiment}, {len(found.texts)} prompts ({found.name})"
    with (page(live, security(context), "glsnet run speculation", about, "steps") as shown,
          _progress("nothing was written, and parties started here are stopped", shown) as progress):
        if settings.experiment == "matching":
            result = speculated.matching(settings, found, _pair(settings), progress)
        else:
            result = _generated(settings, found, target, progress, security(context))
        shown.end(result, show)
    if output is not None:
        write(result, output)
    if as_json:
        print(json.dumps(result))
    else:
        show(result, Console())


def _check_target(settings: SpeculationRun, target: str | None) -> None:
    if target is None:
        return
    check_address(target)
    if settings.experiment == "matching" or settings.transport == "direct":
        raise CallerError("--target: expected none for matching or direct transport, which have the models in this "
                          "process, got one; leave it out")
    if set_here := settings.model_fields_set.intersection(OWN):
        raise CallerError(f"{', '.join(sorted(set_here))}: expected none with --target, whose servers have their own, "
                          "got some; leave them out")


def _pair(settings: SpeculationRun) -> Pair:
    return Pair(models.load(settings.target_model), models.load(settings.draft_model))


def _generated(settings: SpeculationRun, prompts: Prompts, target: str | None, progress: speculated.Progress,
               own: Security) -> Row:
    parties = _pair(settings) if settings.transport == "direct" else target
    return asyncio.run(speculated.run(settings, prompts, parties, progress, own))


@contextmanager
def _progress(state: str, shown: Live) -> Iterator[speculated.Progress]:
    """A progress display on standard error, and on the live page."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting (models are loaded)", total=None)
        with interruptible(bar, state):
            def advance(done: int, total: int, what: str) -> None:
                bar.update(task, completed=done, total=total, description=what)
                shown.advance(done, total, what)

            yield advance


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallerError(f"--output: expected a folder that can be made, got {folder}: {error.strerror}") from error


def write(result: Row, folder: Path) -> None:
    """JSON, CSV and PNG of a result, named after its experiment."""
    from glsnet.lab import plots_speculation  # matplotlib takes a second to load: only for those who draw

    name = result["experiment"]
    with write_atomically(folder / f"{name}.json") as handle:
        json.dump(result, handle, indent=1)
        handle.write("\n")
    rows = [speculated.flat(row) for row in result["rows"]]
    with write_atomically(folder / f"{name}.csv") as handle:
        writer = csv.DictWriter(handle, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    getattr(plots_speculation, name)(result, folder / f"{name}.png")


def show(result: Row, console: Console) -> None:
    """Print a result as tables."""
    tables = {"schemes": _schemes, "diverse": _diverse, "matching": _matching, "consistency": _consistency}
    console.print(Group(Text(headline(result), style="bold"), *tables[result["experiment"]](result)))


def headline(result: Row) -> str:
    """What was run, on what."""
    sampling = f"temperature {result['temperature']:g}"
    sampling += f", top-k {result['top_k']}" if result["top_k"] else ""
    sampling += f", top-p {result['top_p']:g}" if result["top_p"] < 1 else ""
    drafter = result["draft_model"] or "draft servers that ran already"
    return (f"{result['target_model']} and {drafter}, {result['prompts']} prompts ({result['dataset']}),\n"
            f"{sampling}, " + (f"L = {result['length']}, {result['transport']}" if "length" in result else
                               f"{result['contexts']} contexts, {result['rounds']} draws each"))


def _schemes(result: Row) -> list[Any]:
    rows = result["rows"]
    table = _table(" K", *_SPEED)
    for row in rows:
        table.add_row(row["scheme"], str(row["K"]), *_speed(row))
    return [table, *_acceptance(rows, " K"), *_bits(rows), Text(_notes(result), style="dim")]


def _diverse(result: Row) -> list[Any]:
    rows = [row | {"at": f"{row['temperature_1']:g}"} | (
        {} if row["temperature_2"] is None else {"at": f"{row['temperature_1']:g}, {row['temperature_2']:g}"})
        for row in result["rows"]]
    table = _table("drafts\nat", *_SPEED, "packed\nbits up")
    for row in rows:
        table.add_row(row["scheme"], row["at"], *_speed(row), _bit(row["bits_per_token"]["up"]["packed"]))
    return [table, *_acceptance(rows, "at"), Text(_notes(result), style="dim")]


_SPEED = ("block\neff.", "s.e.", "tokens\n/s", "gain\n%", "s.e.", "draft\n%", "verify\n%", "wait\n%")
_DEPTHS = 8  # whose acceptance is printed


def _speed(row: Row) -> list[str]:
    return [f"{row['block_efficiency']:.2f}", _number(row["block_efficiency_error"], 2),
            f"{row['tokens_per_second']:.0f}", f"{row['token_rate_gain_percent']:+.0f}",
            _number(row["token_rate_gain_percent_error"], 0),
            *(f"{100 * row[f'{part}_share']:.0f}" for part in ("draft", "verify", "wait"))]


def _acceptance(rows: list[Row], by: str) -> list[Any]:
    depths = min(len(rows[0]["acceptance"]), _DEPTHS)
    table = _table(by, "trips", *map(str, range(1, depths + 1)))
    for row in rows:
        if row["scheme"] != "none":
            table.add_row(row["scheme"], str(row[by.strip()]), f"{row['round_trips_per_token']:.2f}",
                          *(_number(share, 2) for share in row["acceptance"][:depths]))
    return [Text("round trips per token, and acceptance by depth", style="bold"), table]


def _bits(rows: list[Row]) -> list[Any]:
    up, down = ("information", "packed", "protobuf", "stream", "ip"), ("packed", "stream", "ip")
    table = _table(" K", "info", "packed", "proto", "stream", "ip", *(f"{layer}\ndown" for layer in down),
                   "per\ndraft")
    for row in rows:
        if row["scheme"] != "none":
            of = row["bits_per_token"]
            table.add_row(row["scheme"], str(row["K"]), *(_bit(of["up"][layer]) for layer in up),
                          *(_bit(of["down"][layer]) for layer in down), _bit(row["packed_bits_per_drafted_token"]))
    return [Text("bits per token generated: towards the target, and down to the draft server", style="bold"), table]


def _notes(result: Row) -> str:
    context = max(row["context_bytes_per_request"] for row in result["rows"])
    return (
        "block eff.: tokens per call of the target. gain: in tokens per second over leviathan, the single draft. s.e.: "
        "standard errors over prompts. wait: of the target for drafts, the time of drafting included. packed: tokens, "
        "probabilities and rows as bytes; per draft: packed bits per token drafted. proto: frames. stream: on the "
        f"socket. ip: by the kernel's segment count. Prompts, {context:.0f} bytes a request, are not in the bits."
    )


def _matching(result: Row) -> list[Any]:
    table = table_of("", *((name, ">") for name in (
        "K", "GLS", "s.e.", "lemma", "SpecInfer", "K-SEQ", "optimum", "equality\ncheck", "below\nlemma")))
    for row in result["rows"]:
        table.add_row(str(row["K"]), *(_number(row[name], 4) for name in (
            "gls_empirical", "gls_error", "lml_bound", "specinfer_empirical", "spectr_empirical", "optimum",
            "equality_check")), str(row["below_lemma"]))
    return [table, Text(
        "Chance that one of K drafts of the next token is kept, mean over contexts along the target's own texts; GLS "
        "measured, s.e. over contexts, all else exact for each context. below lemma: in how many contexts GLS refutes "
        f"the list matching lemma at 5 standard errors. Mean total variation {result['total_variation']:.3f}.",
        style="dim")]


def _consistency(result: Row) -> list[Any]:
    table = _table(" K", "equal\ntexts", "s.e.", "ROUGE-L", "s.e.", "published\nROUGE-L")
    for row in result["rows"]:
        table.add_row(row["scheme"], str(row["K"]), *(_number(row[name], 3) for name in (
            "equal", "equal_error", "rouge_l", "rouge_l_error", "rouge_l_published")))
    before, after = speculated.CHANGED
    return [table, Text(
        f"Two texts of each prompt with the same seed, the drafter at temperature {before:g} and at {after:g}; ROUGE-L "
        "of their words. Published: Qwen2.5 7B and 0.5B on GSM8K. It is 1 where the target's draw does not depend on "
        "what was drafted.", style="dim")]


def _table(*columns: str) -> Table:
    table = table_of("", ("scheme", "<"), *((name, ">") for name in columns))
    table.padding = 0  # fits 80 columns
    table.columns[0].no_wrap = True
    return table


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _bit(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}" if value < 1e4 else f"{value / 1000:.1f}k"
