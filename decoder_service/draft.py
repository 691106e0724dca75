"""A draft server of speculative decoding: a decoder, which draws X(k) on each of its streams."""

import time
from functools import partial
from typing import Annotated

import typer

from glsnet.drafting import DraftSession
from glsnet.errors import CallerError
from glsnet.joining import new_party
from glsnet.language import models
from glsnet.randomness import seed_from_integer
from glsnet.transport import exchange, rpc, service, speculating


def draft(
    target: Annotated[str, typer.Option(help="HOST:PORT of the target server, to join there.")],
    listen: service.Listen = "127.0.0.1:0",
    model: service.ModelName = "embedded-drafter",
    streams: Annotated[str, typer.Option(help="Streams to draft on, for instance 0,1. Default: one, which the target "
                                         "assigns.")] = "",
    seed: service.Seed = 0,
    device: service.Device = "cpu",
    dtype: service.Dtype = "float32",
    silence: service.Silence = rpc.SILENCE_SECONDS,
    patience: service.Patience = exchange.PATIENCE,
    certificate: service.TlsCertificate = None,
    key: service.TlsKey = None,
    authority: service.TlsAuthority = None,
    insecure: service.Insecure = False,
    token_file: service.TokenFile = None,
    metrics: service.Metrics = None,
    until_stdin_closes: service.UntilStdinCloses = False,
) -> None:
    """Serve as a draft server: propose tokens for the target's requests, until the target ends.

    `python -m decoder_service draft --target HOST:7000 --streams 0,1 --seed 7`. The model must have the target's
    vocabulary; drafts of all streams go through it together. --listen answers health checks.
    """
    security = service.security(certificate, key, authority, insecure, listen, target)
    try:
        rpc.check_address(target)
        session = DraftSession(models.load(model, device, dtype), seed_from_integer(seed), _streams(streams),
                               time.perf_counter, new_party())
    except CallerError as error:
        raise typer.BadParameter(str(error)) from error

    async def agreed() -> None:
        print(f"joined {target}", flush=True)

    net = rpc.GrpcNet(exchange.METHOD, security, silence, service.token(token_file))
    job = partial(speculating.run_draft, net, session, target, agreed, patience)
    service.run("draft", listen, {}, job, until_stdin_closes, security, silence, metrics, None)


def _streams(text: str) -> list[int]:
    numbers = [number.strip() for number in text.split(",") if number.strip()]
    if not all(number.isdecimal() for number in numbers):
        raise CallerError(f"streams: expected numbers with commas between them, got {text!r}")
    return [int(number) for number in numbers]
