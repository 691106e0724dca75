"""The command line, `glsnet`."""

import asyncio
import csv
import json
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from glsnet.errors import CallerError, GlsnetError, TransportError
from glsnet.faults import read as read_faults
from glsnet.lab import (
    cli_chaos,
    cli_doors,
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
from glsnet.lab.kept import keeper
from glsnet.lab.live import Live, LiveAt, page
from glsnet.lab.pairs import Pair, language_pairs, read_pairs
from glsnet.lab.plan import Drawn, NamedBroker, Parties
from glsnet.lab.settings import CouplingRun, GaussianRun, ImagesRun, LatencyRun, Run, SpeculationRun
from glsnet.lab.tally import Mean
from glsnet.lab.terminal import AsJson, Assignments, interruptible, security
from glsnet.sources.samples import write_atomically
from glsnet.transport import service
from glsnet.transport.rpc import check_address


def _settings(of: type[Run]) -> str:
    """The end of a run's help: every setting."""
    return "Settings for --set, with their defaults:\n\n" + "\n".join(
        f"- **{name}**{'' if field.default is None else f' = {field.default}'}: {field.description}"
        for name, field in of.model_fields.items()
    )


R = TypeVar("R", GaussianRun, ImagesRun)
Advance = Callable[..., None]
app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", add_completion=False,
                  pretty_exceptions_enable=False)


@app.callback()
def glsnet(
    context: typer.Context,
    certificate: service.TlsCertificate = None,
    key: service.TlsKey = None,
    authority: service.TlsAuthority = None,
    insecure: service.Insecure = False,
) -> None:
    """Coupling without communication, over a real network.

    The options here are for services that run already, wherever they do: `glsnet --tls-cert lab/cert.pem --tls-key
    lab/key.pem --tls-ca lab/ca.pem run gaussian --encoder ...`. Parties that a command starts by itself talk on this
    machine alone, in plain text.
    """
    context.obj = service.security(certificate, key, authority, insecure)


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
app.command("certificates")(cli_doors.make_certificates)
app.command("health")(cli_doors.ask_health)
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
                                                            "that runs already; once for each decoder. HOST:PORT* is "
                                                            "one at each address that HOST has.")]
LinkAddresses = Annotated[list[str] | None, typer.Option("--link", metavar="HOST:PORT", help="By which a decoder "
                                                         "reaches the encoder, or broker, once for each: a link that "
                                                         "misbehaves, perhaps. Default: that's own address.")]
BrokerAddress = Annotated[str | None, typer.Option("--broker", metavar="HOST:PORT", help="Of transport mqtt: a broker "
                                                   "that runs already. Default: one is started here. Parties that are "
                                                   "started here have this command's certificate and login to it.")]
ResultsFolder = Annotated[Path | None, typer.Option("--results", metavar="DIR", help="Folder in which to leave a "
                                                    "result directory of this run, as of a sweep, and its report.")]



@run_app.command(epilog=_settings(GaussianRun))
def gaussian(
    context: typer.Context,
    assignments: Assignments = None,
    samples: Annotated[Path | None, typer.Option(
        help="CSV file of your own samples, header a,t1,...,tK, one row per sample. Default: drawn from the model."
    )] = None,
    output: Annotated[Path | None, typer.Option(
        help="CSV file to write: each round's index, sample and reconstructions.")] = None,
    results: ResultsFolder = None,
    faults: FaultsFile = None,
    encoder: EncoderAddress = None,
    decoders: DecoderAddresses = None,
    links: LinkAddresses = None,
    broker: BrokerAddress = None,
    mqtt_user: service.MqttUser = None,
    mqtt_password_file: service.MqttPasswordFile = None,
    live: LiveAt = None,
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
    parties = _parties(context, settings.transport, len(nature.sides), encoder, decoders, links)
    named = _named(context, settings.transport, broker, mqtt_user, mqtt_password_file)
    keep = keeper(results, settings, "One run" if samples is None else f"One run, on the samples of {samples}")
    with ExitStack() as stack:
        sink = _ignore if output is None else stack.enter_context(_Rows(output, len(nature.sides)))
        with _progress(context, settings, len(nature.sides), parties, nature.samples, live) as (advance, shown):
            result = asyncio.run(runner.run(
                settings, nature, parties, lambda tally: advance(tally.samples, tally.match, tally.error, tally.packed),
                sink, named, shown.watch,
            ))
            shown.end(result, report.show)
    keep(result)
    _print(result, report.show, as_json)


@run_app.command(epilog=_settings(CouplingRun))
def coupling(
    context: typer.Context,
    assignments: Assignments = None,
    pairs: PairsFile = None,
    encoder: EncoderAddress = None,
    decoders: DecoderAddresses = None,
    live: LiveAt = None,
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
    parties = _parties(context, settings.transport, k, encoder, decoders)
    found = _few(read_pairs(pairs), settings) if pairs else language_pairs(settings.pairs, settings.seed)
    with _progress(context, settings, k, parties, len(found) * settings.rounds, live) as (advance, shown):
        result = asyncio.run(coupled.run_coupling(settings, found, parties, advance))
        shown.end(result, report.show_coupling)
    _print(result, report.show_coupling, as_json)


@run_app.command(epilog=_settings(ImagesRun))
def images(
    context: typer.Context,
    assignments: Assignments = None,
    data: DataOption = None,
    output: Annotated[Path | None, typer.Option(metavar="NPZ", help="NumPy file to write: every image's index, "
                                                "reconstructions and places of crops.")] = None,
    contact_sheet: Annotated[Path | None, typer.Option(metavar="PNG", help="Picture to write: sources, crops and "
                                                       "reconstructions of the first images.")] = None,
    results: ResultsFolder = None,
    faults: FaultsFile = None,
    encoder: EncoderAddress = None,
    decoders: DecoderAddresses = None,
    links: LinkAddresses = None,
    broker: BrokerAddress = None,
    mqtt_user: service.MqttUser = None,
    mqtt_password_file: service.MqttPasswordFile = None,
    live: LiveAt = None,
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
    parties = _parties(context, settings.transport, settings.decoders, encoder, decoders, links)
    named = _named(context, settings.transport, broker, mqtt_user, mqtt_password_file)
    if contact_sheet is not None and not settings.shown:
        raise CallerError("--contact-sheet: expected some images to show, got shown=0; leave it out")
    keep = keeper(results, settings, "One run")
    views = lab.prepared(settings, _reading)
    with _progress(context, settings, settings.decoders, parties, len(views.images), live) as (advance, shown):
        written = lab.Output(views)
        result = asyncio.run(lab.run(
            settings, views, parties, lambda tally: advance(tally.samples, tally.match, tally.error, tally.packed),
            _ignore if output is None else written.add, named, shown.watch,
        ))
        shown.end(result, report.show_images)
    if output is not None:
        written.write(output)
    if contact_sheet is not None:
        from glsnet.lab.curves_images import write_contact_sheet  # matplotlib, as in `collision`

        write_contact_sheet(result, contact_sheet)
    keep(result)
    _print(result, report.show_images, as_json)


def _with_faults(settings: R, path: Path | None) -> R:
    """The settings, and the faults of a file."""
    return settings if path is None else settings.model_copy(update={"faults": read_faults(path)})


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
def _progress(context: typer.Context, settings: GaussianRun | ImagesRun | CouplingRun, decoders: int,
              parties: Parties | None, samples: int, live: str | None) -> Iterator[tuple[Advance, Live]]:
    """A progress display on standard error, and the live page if there is an address for it.

    Gives what to call with the samples so far, how often they matched and, if there are such things, the squared error
    of the best and the bytes of packed messages; and the page, for the end.
    """
    source = {GaussianRun: "gaussian", ImagesRun: "images", CouplingRun: "coupling"}[type(settings)]
    unit, transport = "images" if source == "images" else "samples", settings.transport
    information = None if isinstance(settings, CouplingRun) else math.log2(settings.l_max)
    what = "in this process" if transport == "direct" else "in virtual time" if transport == "simulator" else (
        f"1 encoder and {decoders} decoder{'s' if decoders > 1 else ''} "
        + ("as processes here" if parties is None else "at work")
    )
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    about = f"scheme {settings.scheme}, {what}, transport {transport}"
    with (page(live, security(context), f"glsnet run {source}", about, unit, information) as shown,
          Progress(*columns, console=Console(stderr=True), transient=True) as bar):
        task = bar.add_task(what, total=samples, state="starting (the first run compiles)")

        def advance(done: int, match: Mean, mse: Mean | None = None, packed: int | None = None) -> None:
            bar.update(task, completed=done, state=f"match rate {match.value:.4f}")
            shown.advance(done, samples, match=match, mse=mse, packed=packed)

        with interruptible(bar, "the parties started here are stopped"):
            yield advance, shown


def _parties(context: typer.Context, transport: str, k: int, encoder: str | None, decoders: list[str] | None,
             links: list[str] | None = None) -> Parties | None:
    if encoder is None and not decoders and not links:
        return None
    decoders = [place for address in decoders or [] for place in _places(address)]
    if transport not in ("grpc", "mqtt"):
        raise CallerError(f"transport: expected grpc or mqtt with --encoder and --decoder, got {transport}; leave one "
                          "of them out")
    if encoder is None or len(decoders) != k:
        raise CallerError(
            f"--encoder and --decoder: expected one encoder and {k} decoders (K), "
            f"got {'none' if encoder is None else 'one'} and {len(decoders)}; name them all, or none to start them here"
        )
    if links and len(links) != k:
        raise CallerError(f"--link: expected one for each of {k} decoders, or none, got {len(links)}")
    for address in (encoder, *decoders, *(links or [])):
        check_address(address)
    return Parties(encoder, decoders, links or None, security=security(context))


def _named(context: typer.Context, transport: str, address: str | None, user: str | None, password_file: Path | None
           ) -> NamedBroker | None:
    """What --broker names, and with what login parties that are started here dial it."""
    login = service.login(user, password_file)
    if address is None:
        return None
    if transport != "mqtt":
        raise CallerError(f"--broker: expected it with --set transport=mqtt, got {transport}; leave one of them out")
    options = () if login is None else (f"--mqtt-user={user}", f"--mqtt-password-file={password_file}")
    return NamedBroker(check_address(address), options, security(context))


def _places(address: str) -> list[str]:
    """What --decoder names: one address, or, of HOST:PORT*, HOST@IP:PORT for each that HOST has."""
    if not address.endswith("*"):
        return [address]
    host, _, port = check_address(address[:-1]).rpartition(":")
    try:
        found = {each[4][0] for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except OSError as error:
        raise TransportError(f"--decoder: {host} is no known name: {error.strerror}; are its services started?"
                             ) from error
    return [f"{host}@[{ip}]:{port}" if ":" in str(ip) else f"{host}@{ip}:{port}" for ip in sorted(map(str, found))]


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
