"""The command line, `glsnet`."""

import asyncio
import csv
import json
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from glsnet.errors import CallerError, GlsnetError
from glsnet.faults import faults_of
from glsnet.lab import (
    cli_chaos,
    cli_generate,
    cli_latency,
    cli_report,
    cli_speculation,
    cli_sweep,
    cli_tables,
    cli_train,
    coupled,
    figures,
    report,
    runner,
)
from glsnet.lab import nature as natures
from glsnet.lab.cli_sweep import DataOption, folder_for
from glsnet.lab.pairs import Pair, language_pairs, read_pairs
from glsnet.lab.plan import Drawn, Parties
from glsnet.lab.settings import CouplingRun, GaussianRun, ImagesRun, LatencyRun, Run, SpeculationRun
from glsnet.lab.terminal import AsJson, Assignments, interruptible
from glsnet.sources.samples import write_atomically
from glsnet.transport.rpc import check_address


def _settings(of: type[Run]) -> str:
    """The end of a run's help: every setting."""
    return "Settings for --set, with their defaults:\n\n" + "\n".join(
        f"- **{name}**{'' if field.default is None else f' = {field.default}'}: {field.description}"
        for name, field in of.model_fields.items()
    )


R = TypeVar("R", GaussianRun, ImagesRun)
app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False,
                  pretty_exceptions_enable=False, help="Coupling without communication, over a real network.")
run_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Run one experiment.")
app.add_typer(run_app, name="run")
run_app.command(epilog=_settings(SpeculationRun))(cli_speculation.speculation)
figure_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Compute and draw a published figure.")
app.add_typer(figure_app, name="figure")
app.command()(cli_sweep.sweep)
app.command()(cli_report.report)
app.add_typer(cli_tables.tables_app, name="tables")
app.command(epilog=_settings(LatencyRun))(cli_latency.latency)
app.command("chaos")(cli_chaos.run_chaos)
app.command("generate")(cli_generate.generate_text)
app.add_typer(cli_train.train_app, name="train")
PairsFile = Annotated[Path | None, typer.Option(help="Your pairs: .npz with arrays p and q, [M, N], or CSV with the "
                                                "header pair,p,q. Default: two n-gram language models.")]
PairCount = Annotated[int, typer.Option(min=1, help="How many pairs of the language models.")]
FigureFolder = Annotated[Path, typer.Option(help="Folder for the CSV and the PNG; made if it is not there.")]
FigureSeed = Annotated[int, typer.Option(help="Seed of the session, and of the choice of pairs.")]


EncoderAddress = Annotated[str | None, typer.Option("--encoder", metavar="HOST:PORT", help="An encoder service that "
                                                    "runs already. Default: one is started here.")]
FaultsFile = Annotated[Path | None, typer.Option("--faults", metavar="TOML", help="What goes wrong, and when: a file "
                                               "of [[faults]] tables, as in a scenario.")]
DecoderAddresses = Annotated[list[str] | None, typer.Option("--decoder", metavar="HOST:PORT", help="A decoder service "
                                                            "that runs already; once for each decoder.")]



@run_app.command(epilog=_settings(GaussianRun))
def gaussian(
    assignments: Assignments = None,
    samples: Annotated[Path | None, typer.Option(
        help="CSV file of your own samples, header a,t1,...,tK, one row per sample. Default: drawn from the model."
    )] = None,
    output: Annotated[Path | None, typer.Option(
        help="CSV file to write: each round's index, sample and reconstructions.")] = None,
    faults: FaultsFile = None,
    encoder: EncoderAddress = None,
    decoders: DecoderAddresses = None,
    as_json: AsJson = False,
) -> None:
    """Compress Gaussian samples for K decoders with side information of their own.

    An encoder and K decoders, each a process, exchange bit-packed indices over gRPC. Prints how often one of the
    decoders matched the encoder, the distortion, and the bits that crossed the wire, layer by layer.

    - `glsnet run gaussian`
    - `glsnet run gaussian --set decoders=2 --set l_max=16 --set sigma2=0.002 --json`
    - `glsnet run gaussian --samples mine.csv --output reconstructed.csv`
    """
    settings = _with_faults(GaussianRun.parsed(assignments or []), faults)
    nature = natures.synthetic(settings) if samples is None else natures.from_file(samples, settings)
    parties = _parties(settings.transport, len(nature.sides), encoder, decoders or [])
    with ExitStack() as stack:
        sink = _ignore if output is None else stack.enter_context(_Rows(output, len(nature.sides)))
        with _progress(settings.transport, len(nature.sides), parties, nature.samples) as advance:
            result = asyncio.run(runner.run(
                settings, nature, parties, lambda tally: advance(tally.samples, tally.match.value), sink
            ))
    _print(result, report.show, as_json)


@run_app.command(epilog=_settings(CouplingRun))
def coupling(
    assignments: Assignments = None,
    pairs: PairsFile = None,
    encoder: EncoderAddress = None,
    decoders: DecoderAddresses = None,
    as_json: AsJson = False,
) -> None:
    """Draw coupled samples: Alice, who has p, and Bob, who has q, are to draw the same as often as possible.

    Bob is an encoder service and Alice a decoder service (K of her in a list scheme), each a process; what they say to
    each other crosses the same gRPC stream as in compression. Prints how often they matched beside what theory
    promises, the messages, and the bits at every layer, both ways.

    - `glsnet run coupling --set scheme=gumbel`: nothing is sent
    - `glsnet run coupling --set scheme=low-communication --set epsilon=0.01`: Protocol 4, back and forth
    - `glsnet run coupling --set scheme=gls --set decoders=4 --pairs mine.npz --json`
    """
    settings = CouplingRun.parsed(assignments or [])
    k = coupled.scheme_of(settings).decoders
    parties = _parties(settings.transport, k, encoder, decoders or [])
    found = _few(read_pairs(pairs), settings) if pairs else language_pairs(settings.pairs, settings.seed)
    with _progress(settings.transport, k, parties, len(found) * settings.rounds) as advance:
        result = asyncio.run(coupled.run_coupling(settings, found, parties, advance))
    _print(result, report.show_coupling, as_json)


@run_app.command(epilog=_settings(ImagesRun))
def images(
    assignments: Assignments = None,
    data: DataOption = None,
    output: Annotated[Path | None, typer.Option(metavar="NPZ", help="NumPy file to write: every image's index, "
                                                "reconstructions and places of crops.")] = None,
    contact_sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Picture to write: sources, crops and "
                                                       "reconstructions of the first images.")] = None,
    faults: FaultsFile = None,
    encoder: EncoderAddress = None,
    decoders: DecoderAddresses = None,
    as_json: AsJson = False,
) -> None:
    """Compress the right halves of images for K decoders that each saw a crop of the left half.

    An encoder and K decoders, each a process, exchange bit-packed indices over gRPC; the candidates for what an index
    can mean come from the seed that they share. Prints the squared error on [0, 1], beside that of a k-means quantiser
    and of a crop without a message, the bits that crossed the wire, and what the time went into.

    - `glsnet run images`: digits that come with scikit-learn, and a model that comes with glsnet
    - `glsnet run images --set dataset=mnist --data DIR --set scheme=wyner-ziv-list --contact-sheet sheet.png`
    - `glsnet run images --set dataset=folder --data DIR --set model=mine.safetensors`, after `glsnet train images`
    """
    from glsnet.lab import images as lab  # for these alone: Pillow and the networks

    settings = _with_faults(ImagesRun.parsed(assignments or []), faults)
    settings = settings.model_copy(update={"data": folder_for(settings.dataset, data)})
    parties = _parties(settings.transport, settings.decoders, encoder, decoders or [])
    if contact_sheet is not None and not settings.shown:
        raise CallerError("--contact-sheet: expected some images to show, got shown=0; leave it out")
    views = lab.prepared(settings, _reading)
    with _progress(settings.transport, settings.decoders, parties, len(views.images)) as advance:
        written = lab.Output(views)
        result = asyncio.run(lab.run(settings, views, parties, lambda tally: advance(tally.samples, tally.match.value),
                                     _ignore if output is None else written.add))
    if output is not None:
        written.write(output)
    if contact_sheet is not None:
        from glsnet.lab.curves_images import write_contact_sheet  # matplotlib, as in `collision`

        write_contact_sheet(result, contact_sheet)
    _print(result, report.show_images, as_json)


def _with_faults(settings: R, path: Path | None) -> R:
    """The settings, and the faults of a file."""
    if path is None:
        return settings
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CallerError(f"--faults: expected a TOML file, got {path}: {error}") from error
    if tables.keys() != {"faults"} or not isinstance(tables["faults"], list):
        raise CallerError(f"--faults: expected [[faults]] tables and nothing else in {path}, got "
                          f"{', '.join(tables) or 'none'}")
    try:
        return settings.model_copy(update={"faults": faults_of(tables["faults"])})
    except CallerError as error:
        raise CallerError(f"{path}: {error}") from None


def _reading(done: int, total: int) -> None:
    """A folder of images takes a while to read."""
    print(f"\rreading images: {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _few(found: list[Pair], settings: CouplingRun) -> list[Pair]:
    """Of a file's pairs, as many as were asked for; by default all."""
    wanted = settings.pairs if "pairs" in settings.model_fields_set else len(found)
    if wanted > len(found):
        raise CallerError(f"pairs: expected at most {len(found)}, those of the file, got {wanted}; leave it out")
    return found[:wanted]


def _print(result: dict[str, Any], show: Callable[[dict[str, Any], Console], None], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
    else:
        show(result, Console())


@figure_app.command()
def collision(
    output: FigureFolder,
    pairs: PairsFile = None,
    count: PairCount = 32,
    rounds: Annotated[int, typer.Option(min=1, max=10**6, help="Seeds for each pair.")] = 20_000,
    seed: FigureSeed = 1,
) -> None:
    """Collision probability against total variation: Gumbel and weighted MinHash, measured and exact.

    Figure 2 of Daliri, Musco and Suresh. The pairs are next-token distributions: yours, or those of a bigram and a
    trigram model that are fitted, in seconds, to the source of Python's standard library.
    """
    from glsnet.lab import plots  # matplotlib takes a second to load: only for those who draw

    found = read_pairs(pairs) if pairs else language_pairs(count, seed)
    _figure("collision", output, len(found), partial(figures.collision, found, rounds, seed), plots.collision)


@figure_app.command()
def bits(
    output: FigureFolder,
    pairs: PairsFile = None,
    count: PairCount = 8,
    rounds: Annotated[int, typer.Option(min=1, max=10**6, help="Samples for each pair and scheme.")] = 4000,
    seed: FigureSeed = 1,
) -> None:
    """Match probability against bits: from nothing sent, through Protocol 4 as epsilon varies, to everything.

    Theorem 4 of Daliri, Musco and Suresh. Pairs as for `collision`.
    """
    from glsnet.lab import plots  # as in `collision`

    found = read_pairs(pairs) if pairs else language_pairs(count, seed)
    rows_of = partial(figures.bits_against_match, found, rounds, seed)
    _figure("bits", output, len(figures.BITS_SCHEMES), rows_of, plots.bits)


@figure_app.command()
def matching(
    output: FigureFolder,
    pairs: Annotated[Path | None, typer.Option(help="Your pairs, as for `collision`. Default: random ones.")] = None,
    count: Annotated[int, typer.Option(min=1, help="How many random pairs.")] = 100,
    items: Annotated[int, typer.Option(min=1, max=10**5, help="N, the number of items of a random pair.")] = 10,
    most: Annotated[int, typer.Option(min=1, max=1000, help="K goes from 1 to this.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, max=10**6, help="Drafts for each pair and K.")] = 500,
    seed: FigureSeed = 1,
) -> None:
    """Matching rate against K: GLS beside SpecInfer, K-SEQ, the optimum and the list matching lemma.

    The comparison of Rowan, Phan and Khisti on random pairs. With one token, all K streams race, and strong and
    conditional GLS are the same; so the second panel looks at the token after it, where only the streams that matched
    are alive: conditional GLS races over those, strong GLS over all K, which is what makes its output the same
    whatever the drafters do, and costs it matches.
    """
    from glsnet.lab import plots  # as in `collision`

    found = read_pairs(pairs) if pairs else figures.random_pairs(count, items, seed)
    _figure("matching", output, most, partial(figures.matching, found, most, rounds, seed), plots.matching)


def _figure(name: str, output: Path, steps: int, rows_of: Callable[[Callable[[], None]], list[dict[str, Any]]],
            draw: Callable[[list[dict[str, Any]], Path], None]) -> None:
    """Compute the rows with a progress display; write them and their picture."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CallerError(f"--output: expected a folder that can be made, got {output}: {error.strerror}") from error
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=steps)
        with interruptible(bar, "nothing was written"):
            rows = rows_of(lambda: bar.advance(task))
    with write_atomically(output / f"{name}.csv") as handle:
        writer = csv.DictWriter(handle, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, output / f"{name}.png")
    print(f"{output / name}.csv\n{output / name}.png")


@contextmanager
def _progress(transport: str, decoders: int, parties: Parties | None, samples: int
              ) -> Iterator[Callable[[int, float], None]]:
    """A progress display on standard error; gives what to call with the samples so far and their match rate."""
    what = "in this process" if transport == "direct" else "in virtual time" if transport == "simulator" else (
        f"1 encoder and {decoders} decoder{'s' if decoders > 1 else ''} "
        + ("as processes here" if parties is None else "at work")
    )
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=samples, state="starting (the first run compiles)")
        with interruptible(bar, "the parties started here are stopped"):
            yield lambda done, match: bar.update(task, completed=done, state=f"match rate {match:.4f}")


def _parties(transport: str, k: int, encoder: str | None, decoders: list[str]) -> Parties | None:
    if encoder is None and not decoders:
        return None
    if transport != "grpc":
        raise CallerError(f"transport: expected grpc with --encoder and --decoder, got {transport}; leave one "
                          "of them out")
    if encoder is None or len(decoders) != k:
        raise CallerError(
            f"--encoder and --decoder: expected one encoder and {k} decoders (K), "
            f"got {'none' if encoder is None else 'one'} and {len(decoders)}; name them all, or none to start them here"
        )
    for address in (encoder, *decoders):
        check_address(address)
    return Parties(encoder, decoders)


class _Rows:
    """A CSV file of outcomes, in place only once the run is complete."""

    def __init__(self, path: Path, decoders: int) -> None:
        self._file = write_atomically(path)
        self._header = ["round", "index", "a", *(f"reconstruction{k}" for k in range(1, decoders + 1))]

    def __enter__(self) -> Callable[[Drawn], None]:
        self._rows = csv.writer(self._file.__enter__(), lineterminator="\n")
        self._rows.writerow(self._header)
        return self._write

    def __exit__(self, *error: Any) -> None:
        self._file.__exit__(*error)

    def _write(self, drawn: Drawn) -> None:
        rounds = range(drawn.y.first_round, drawn.y.first_round + drawn.a.size)
        reconstructions = (x.reconstruction.tolist() for x in drawn.x if x.reconstruction is not None)
        self._rows.writerows(zip(rounds, drawn.y.message.tolist(), drawn.a.tolist(), *reconstructions, strict=True))


def _ignore(_: Drawn) -> None:
    """Without --output, outcomes are only counted."""


def main() -> None:
    """Exit 0; 2 after the caller's mistake; 1 after any other error; 130 when interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except GlsnetError as error:
        print(f"glsnet: error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, CallerError) else 1) from None
