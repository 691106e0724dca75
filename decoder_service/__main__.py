"""A decoder: a party that draws X(k) from its own side information and the encoder's messages."""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from decoder_service.draft import draft
from glsnet.codes import decoding
from glsnet.compression import DecoderSession, Outcomes
from glsnet.errors import CallerError
from glsnet.frames import Terms
from glsnet.race import FloatArray
from glsnet.randomness import seed_from_integer
from glsnet.sources.gaussian import noisy_observation
from glsnet.sources.samples import read_column, write_atomically
from glsnet.transport import control, exchange, parties, rpc, service
from glsnet.transport.rpc import GrpcNet


def main(
    context: typer.Context,
    listen: service.Listen = "127.0.0.1:0",
    encoder: Annotated[str | None, typer.Option(help="HOST:PORT of the encoder; goes before what a lab says.")] = None,
    side_information: Annotated[Path | None, typer.Option(help="File of this decoder's own t, one number per line, as "
                                                          "many as the encoder codes. Without it, a lab gives them."
                                                          )] = None,
    output: Annotated[Path | None, typer.Option(help="File to write: round,index,reconstruction.")] = None,
    noise_variance: Annotated[float, typer.Option(help="Variance of t - a, in the sample's units squared.")] = 0.5,
    seed: service.Seed = 0,
    stream: Annotated[int | None, typer.Option(min=0, help="Stream k; default: what the encoder assigns.")] = None,
    decoders: Annotated[int | None, typer.Option(help="K to insist on. This and the rest: default, the encoder's."
                                                 )] = None,
    l_max: Annotated[int | None, typer.Option(help="Number of message values to insist on.")] = None,
    sigma2: Annotated[float | None, typer.Option(help="Variance of the codeword to insist on.")] = None,
    step: Annotated[float | None, typer.Option(help="Width of a quantiser's cell to insist on.")] = None,
    scheme: Annotated[str | None, typer.Option(help="Scheme to insist on.")] = None,
    mean: Annotated[float | None, typer.Option(help="Mean of the source to insist on.")] = None,
    variance: Annotated[float | None, typer.Option(help="Variance of the source to insist on.")] = None,
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
    """Serve as a decoder.

    For a lab: `python -m decoder_service --listen 0.0.0.0:7001`, and `glsnet run gaussian --decoder HOST:7001 ...`.
    The options from --noise-variance on are then the lab's to give.

    As a plain codec: `python -m decoder_service --encoder HOST:7000 --side-information t.txt --output out.csv --seed 7`
    joins the encoder, writes the reconstructions and ends. The side information never leaves this process.

    For speculative decoding: `python -m decoder_service draft --help`.
    """
    if context.invoked_subcommand is not None:
        return
    job = None
    security = service.security(certificate, key, authority, insecure, listen, *([] if encoder is None else [encoder]))
    own = control.Own(service.image_model(image_model), journal, security, silence, patience,
                      service.login(mqtt_user, mqtt_password_file))
    try:
        if encoder is not None:
            rpc.check_address(encoder)
        t = None if side_information is None else read_column(side_information)
    except CallerError as error:
        raise typer.BadParameter(str(error)) from error
    if t is not None:
        if encoder is None or output is None:
            raise typer.BadParameter("--side-information: expected --encoder and --output with it; give both")
        expected = Terms(decoders=decoders, l_max=l_max, sigma2=sigma2, step=step, scheme=scheme, mean=mean,
                         variance=variance)
        code_of = decoding(partial(noisy_observation, noise_variance=noise_variance))
        session = partial(DecoderSession, exchange.CODEC, code_of, seed_from_integer(seed), expected, stream, 0)
        job = partial(_decode, session, encoder, t, output, seed_from_integer(seed), service.token(token_file), own)
    methods = {control.METHOD: partial(control.conduct_decoder, encoder=encoder, own=own)}
    service.run("decoder", listen, methods, job, until_stdin_closes, security, silence, metrics, traces)


async def _decode(session_of: Callable[[bytes], DecoderSession], encoder: str, t: FloatArray, output: Path,
                  seed: bytes, token: bytes, own: control.Own) -> None:
    """Decode a whole stream of the encoder's and write the reconstructions, or nothing if anything fails."""
    with write_atomically(output) as handle, control.journal_of(own, exchange.CODEC, seed) as journal:
        session = session_of(journal.party)
        rows = csv.writer(handle, lineterminator="\n")
        rows.writerow(("round", "index", "reconstruction"))

        async def take(first_round: int, count: int) -> FloatArray:
            if first_round + count > t.size:
                raise CallerError(f"side information: expected at least {first_round + count} samples, as the encoder "
                                  f"has, got {t.size}; use files of equal length")
            return t[first_round : first_round + count]

        async def write(outcomes: Outcomes) -> None:
            assert outcomes.reconstruction is not None
            rounds = range(outcomes.first_round, outcomes.first_round + outcomes.message.size)
            rows.writerows(zip(rounds, outcomes.message.tolist(), outcomes.reconstruction.tolist(), strict=True))

        for entry in journal:
            session.restore(entry.outcomes)
            await write(entry.outcomes)
        net = GrpcNet(exchange.METHOD, own.security, own.silence, token)
        await parties.run_decoder(net, session, encoder, parties.nothing, take, write, journal, own.patience)
        for first, below in session.lost:
            rpc.log.warning("rounds %d to %d: lost; the encoder does not keep them any more", first, below - 1)
        if session.next_round < t.size:
            raise CallerError(f"side information: expected {session.next_round} samples, as the encoder had, "
                              f"got {t.size}; use files of equal length")


if __name__ == "__main__":
    service.command(main, draft=draft)
