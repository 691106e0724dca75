"""The target server of speculative decoding: the encoder, which draws Y."""

import time
from functools import partial
from typing import Annotated

import typer

from glsnet.errors import CallerError
from glsnet.language import models
from glsnet.randomness import seed_from_integer
from glsnet.speculation import TargetSession
from glsnet.transport import exchange, service, speculating
from glsnet.transport.exchange import Broadcast
from glsnet.transport.rpc import SILENCE_SECONDS, GrpcNet
from glsnet.verification import MAX_DRAFTS


def target(
    listen: service.Listen = "127.0.0.1:0",
    model: service.ModelName = "embedded-target",
    streams: Annotated[int, typer.Option(min=1, max=MAX_DRAFTS, help="How many streams draft servers may take: K of a "
                                         "request at most, and by default.")] = 1,
    seed: service.Seed = 0,
    device: service.Device = "cpu",
    dtype: service.Dtype = "float32",
    patience: Annotated[float, typer.Option(min=0.001, help="Seconds that a block waits for its draft servers before "
                                            "it is verified without those that are late.")] = speculating.DRAFT_SECONDS,
    silence: service.Silence = SILENCE_SECONDS,
    certificate: service.TlsCertificate = None,
    key: service.TlsKey = None,
    authority: service.TlsAuthority = None,
    insecure: service.Insecure = False,
    token_file: service.TokenFile = None,
    metrics: service.Metrics = None,
    until_stdin_closes: service.UntilStdinCloses = False,
) -> None:
    """Serve a language model as the target of speculative decoding.

    `python -m encoder_service target --listen 0.0.0.0:7000 --streams 2 --seed 7`, then a draft server for each stream,
    `python -m decoder_service draft --target HOST:7000 --seed 7`, and `glsnet generate --target HOST:7000 --prompt ...`
    from anywhere. Draft servers may come and go at any time; one that is lost stops no request but those that
    are waiting for its distribution.

    Any gRPC client can generate, too: proto/glsnet/v1/generation.proto.
    """
    security = service.security(certificate, key, authority, insecure, listen)
    try:
        session = TargetSession(models.load(model, device, dtype), seed_from_integer(seed), streams, time.monotonic,
                                patience)
    except CallerError as error:
        raise typer.BadParameter(str(error)) from error
    broadcast = Broadcast(session, service.token(token_file))
    methods = {
        exchange.METHOD: partial(exchange.serve_join, broadcasts={session.session: broadcast}),
        speculating.STATUS: partial(speculating.serve_status, session=session),
        speculating.METHOD: partial(speculating.serve_generate, net=GrpcNet(exchange.METHOD), broadcast=broadcast),
    }
    service.run("target", listen, methods, None, until_stdin_closes, security, silence, metrics, None)
