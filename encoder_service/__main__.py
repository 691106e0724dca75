"""The encoder: the party that draws Y and broadcasts its message to K decoders."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from encoder_service.target import target
from glsnet.codes import DEFAULT_SIGMA2, RACES, SCHEMES, Code
from glsnet.compression import EncoderSession
from glsnet.errors import CallerError
from glsnet.frames import MAX_COUNT
from glsnet.race import FloatArray
from glsnet.randomness import seed_from_integer
from glsnet.sources.gaussian import Gaussian
from glsnet.sources.samples import read_column
from glsnet.transport import control, exchange, parties, rpc, service
from glsnet.transport.exchange import Broadcast, Broadcasts
from glsnet.transport.metrics import SESSIONS_OPEN
from glsnet.transport.rpc import GrpcNet


def main(
    context: typer.Context,
    listen: service.Listen = "127.0.0.1:0",
    source: Annotated[Path | None, typer.Option(help="File of the samples to code, one number per line. Without it, "
                                                "a lab orders what to code.")] = None,
    seed: service.Seed = 0,
    decoders: Annotated[int, typer.Option(min=1, help="K, the number of decoders to wait for.")] = 4,
    l_max: Annotated[int, typer.Option(min=1, help="Number of message values; an index is log2 of it in bits.")] = 8,
    sigma2: Annotated[float | None, typer.Option(help="Of races: variance of the codeword given the sample, as a share "
                                                 "of the source's variance; default 0.001.")] = None,
    step: Annotated[float | None, typer.Option(help="Of quantisers: width of a cell in standard deviations.")] = None,
    scheme: Annotated[str, typer.Option(help=f"One of {', '.join(SCHEMES)}.")] = "gls",
    packing: Annotated[str, typer.Option(help="fixed, or entropy (of races).")] = "fixed",
    mean: Annotated[float | None, typer.Option(help="Mean of the source; default: that of the file.")] = None,
    variance: Annotated[float | None, typer.Option(help="Variance of the source; default: that of the file.")] = None,
    frame: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="Samples in one frame.")] = 4096,
    image_model: service.ImageModel = None,
    journal: service.Journal = None,
    silence: service.Silence = rpc.SILENCE_SECONDS,
    patience: service.Patience = exchange.PATIENCE,
    certificate: service.TlsCertificate = None,
    key: service.TlsKey = None,
    authority: service.TlsAuthority = None,
    insecure: service.Insecure = False,
    token_file: service.TokenFile = None,
    mqtt_user: service.MqttUser = None,
    mqtt_password_file: service.MqttPasswordFile = None,
    metrics: service.Metrics = None,
    traces: service.Traces = None,
    until_stdin_closes: service.UntilStdinCloses = False,
) -> None:
    """Serve as the encoder.

    For a lab: `python -m encoder_service --listen 0.0.0.0:7000`, and `glsnet run gaussian --encoder HOST:7000 ...`.
    The options from --seed on are then the lab's to give.

    As a plain codec: `python -m encoder_service --listen 0.0.0.0:7000 --source a.txt --seed 7 --decoders 2` waits for
    two decoders, codes the file for them, and ends. Only indices leave this process.

    Beyond this machine every connection is TLS, with certificates at both ends: `glsnet certificates --help`.

    For speculative decoding: `python -m encoder_service target --help`.
    """
    if context.invoked_subcommand is not None:
        return
    broadcasts: Broadcasts = {}
    job = None
    security = service.security(certificate, key, authority, insecure, listen)
    own = control.Own(service.image_model(image_model), journal, security, silence, patience,
                      service.login(mqtt_user, mqtt_password_file))
    if source is not None:
        try:
            a = read_column(source)
            mean = float(a.mean()) if mean is None else mean
            model = Gaussian(mean, _variance(source, a) if variance is None else variance)
            sigma2 = DEFAULT_SIGMA2 if sigma2 is None and scheme in RACES else sigma2
            code = Code(model, scheme, decoders, l_max, sigma2, step, packing)
            session = EncoderSession(exchange.CODEC, code, seed_from_integer(seed))
        except CallerError as error:
            raise typer.BadParameter(str(error)) from error
        broadcasts[exchange.CODEC] = Broadcast(session, service.token(token_file))
        job = partial(_encode, broadcasts[exchange.CODEC], a, frame, seed_from_integer(seed), own)
    methods = {
        exchange.METHOD: partial(exchange.serve_join, broadcasts=broadcasts),
        control.METHOD: partial(control.conduct_encoder, broadcasts=broadcasts, own=own),
    }
    service.run("encoder", listen, methods, job, until_stdin_closes, security, silence, metrics, traces)


def _variance(source: Path, a: FloatArray) -> float:
    if not (value := float(a.var())) > 0:
        raise CallerError(f"{source}: expected samples that vary, got {a.size} of {float(a[0])!r}; give --variance")
    return value


async def _encode(broadcast: Broadcast[EncoderSession], a: FloatArray, frame: int, seed: bytes, own: control.Own
                  ) -> None:
    """Code the whole file, or what of it is not in the journal."""
    session = broadcast.session
    with SESSIONS_OPEN.track_inprogress(), control.journal_of(own, session.session, seed) as journal:
        for entry in journal:
            session.restore(entry.frame, entry.outcomes)
        left = _frames(a[session.next_round :], frame)
        await parties.run_encoder(GrpcNet(exchange.METHOD), broadcast, left, parties.nothing, journal,
                                  session.decoders, own.patience)


async def _frames(a: FloatArray, frame: int) -> AsyncIterator[FloatArray]:
    for start in range(0, a.size, frame):
        yield a[start : start + frame]


if __name__ == "__main__":
    service.command(main, target=target)
