"""A process that serves: its listening port, health, log, signals and exit code."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import grpc
import grpc.aio
import typer
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from glsnet.errors import CallerError, GlsnetError, TransportError
from glsnet.images.model import Model, load
from glsnet.transport import metrics, traces
from glsnet.transport.mqtt import Login
from glsnet.transport.rpc import SILENCE_SECONDS, Handler, Served, log, options, status_of
from glsnet.transport.security import LOCAL, Security, Tls, place_of, read_token

STOP_SECONDS = 1.0
LIMITS = [  # of what anybody can make a service hold, whoever it is
    ("grpc.max_receive_message_length", 1 << 22),
    ("grpc.max_metadata_size", 1 << 13),
    ("grpc.max_concurrent_streams", 1 << 8),  # of a connection
    ("grpc.max_allowed_incoming_connections", 1 << 12),
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 60_000),  # without a call
]
MAX_CALLS = 1 << 12

Job = Callable[[], Awaitable[None]]
Listen = Annotated[str, typer.Option(help="HOST:PORT to serve on; port 0 lets the system choose, and it is printed.")]
UntilStdinCloses = Annotated[bool, typer.Option("--until-stdin-closes", help="Stop when standard input ends, as the "
                                                "lab does for the parties that it starts.")]
ModelName = Annotated[str, typer.Option(help="embedded-target or embedded-drafter, which come with glsnet; or a "
                                        "folder, or the Hugging Face name, of a causal language model.")]
ImageModel = Annotated[str | None, typer.Option("--image-model", help="Of images: a file of `glsnet train images`. "
                                                "Without it, those that come with glsnet are at hand.")]
Device = Annotated[str, typer.Option(help="Where the model runs, as torch calls it: cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help="The model's arithmetic: float64, float32, bfloat16 or float16.")]
Silence = Annotated[float, typer.Option(min=0.01, help="Seconds: a connection that is silent for so long is asked "
                                        "whether it lives, and given up after half as long again.")]
Patience = Annotated[float, typer.Option(min=0, help="Seconds without any progress after which a peer that was lost is "
                                         "not waited for, or tried, any longer.")]
Journal = Annotated[Path | None, typer.Option(help="Folder in which to record what was done, a file for each session: "
                                              "started with it again after a crash, a service goes on there.")]
Seed = Annotated[int, typer.Option(envvar="GLSNET_SEED", help="Seed that all parties share.")]
TlsCertificate = Annotated[Path | None, typer.Option("--tls-cert", envvar="GLSNET_TLS_CERT", help="This party's "
                                                     "certificate, PEM: then all connections are TLS, and both ends "
                                                     "have to have one.")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", envvar="GLSNET_TLS_KEY", help="Its private key, PEM.")]
TlsAuthority = Annotated[Path | None, typer.Option("--tls-ca", envvar="GLSNET_TLS_CA", help="The certificate, PEM, of "
                                                   "the authority that has signed those of all parties.")]
Insecure = Annotated[bool, typer.Option("--insecure", envvar="GLSNET_INSECURE", help="Without certificates, talk plain "
                                        "text beyond this machine, too.")]
Metrics = Annotated[str | None, typer.Option("--metrics", metavar="HOST:PORT", envvar="GLSNET_METRICS", help="Where to "
                                             "serve /metrics, numbers for Prometheus; over TLS as all else.")]
Traces = Annotated[str | None, typer.Option("--traces", metavar="URL", envvar="OTEL_EXPORTER_OTLP_ENDPOINT", help="An "
                                            "OpenTelemetry collector, http(s)://HOST:PORT, to be sent a span for each "
                                            "frame, OTLP over HTTP; it takes pip install 'glsnet[traces]'.")]
MqttUser = Annotated[str | None, typer.Option(envvar="GLSNET_MQTT_USER", help="Who this party is to an MQTT broker.")]
MqttPasswordFile = Annotated[Path | None, typer.Option(envvar="GLSNET_MQTT_PASSWORD_FILE", help="File of its password "
                                                       "there.")]
TokenFile = Annotated[Path | None, typer.Option(envvar="GLSNET_TOKEN_FILE", help="File of the session's token, which "
                                                "whoever joins has to know. A lab gives each session one of its own.")]


def command(main: Callable[..., None], **others: Callable[..., None]) -> None:
    """Run a service's `main`, or another command by its name, with the options of the command line.

    No traceback would show its seed.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown")
    app.callback(invoke_without_command=True)(main)
    for name, other in others.items():
        app.command(name)(other)
    app()


def image_model(name_or_path: str | None) -> Model | None:
    """The model that --image-model names; raises typer.BadParameter if it is none."""
    try:
        return None if name_or_path is None else load(name_or_path)
    except CallerError as error:
        raise typer.BadParameter(str(error)) from error


def security(certificate: Path | None, key: Path | None, authority: Path | None, insecure: bool, *addresses: str
             ) -> Security:
    """What the options of these names say.

    Raises:
        typer.BadParameter: the files do not fit, or an address is none, or not to be used in plain text.
    """
    try:
        found = Security(Tls.of(certificate, key, authority), insecure)
        for address in addresses:
            place_of(address)
            found.check(address, "using")
    except CallerError as error:
        raise typer.BadParameter(str(error)) from error
    return found


def token(path: Path | None) -> bytes:
    """The token that --token-file names; raises typer.BadParameter if it is none."""
    try:
        return read_token(path)
    except CallerError as error:
        raise typer.BadParameter(str(error)) from error


def login(user: str | None, password_file: Path | None) -> Login | None:
    """What --mqtt-user and --mqtt-password-file say; raises typer.BadParameter if that is not possible."""
    try:
        return Login.of(user, password_file)
    except CallerError as error:
        raise typer.BadParameter(str(error)) from error


def run(name: str, listen: str, methods: Mapping[str, Handler], job: Job | None, until_stdin_closes: bool,
        security: Security, silence: float, metrics_at: str | None, traces_to: str | None) -> None:
    """Serve until SIGTERM, SIGINT or the job's end, and exit: 0, or after an error 2 (the caller's) or 1.

    `metrics_at` and `traces_to` are as of `metrics.serving` and `traces.exporting`.
    """
    async def serve() -> None:
        with traces.exporting(traces_to, name, security):
            async with metrics.serving(metrics_at, security):
                await _serve(listen, methods, job, until_stdin_closes, security, silence)

    run_to_its_end(name, serve())


def run_to_its_end(name: str, work: Coroutine[Any, Any, None]) -> None:
    """Do a service's work, with its log on standard error, and exit as `run` does."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format=f"%(asctime)s {name} %(levelname)s %(message)s"
    )
    log.setLevel(logging.INFO)
    try:
        asyncio.run(work)
    except GlsnetError as error:
        log.error("%s", error)
        raise SystemExit(2 if isinstance(error, CallerError) else 1) from None
    log.info("stopped")


@asynccontextmanager
async def serving(listen: str, methods: Mapping[str, Handler], security: Security = LOCAL,
                  silence: float = SILENCE_SECONDS) -> AsyncIterator[int]:
    """Serve on HOST:PORT, with health checks; gives the port. Calls that are open on leaving have STOP_SECONDS.

    `silence` is as of `rpc.options`.

    Raises:
        CallerError: plain text is not allowed there.
        TransportError: the address cannot be listened on.
    """
    security.check(listen, "listening on")
    server = grpc.aio.server(options=[*options(silence), *LIMITS, ("grpc.so_reuseport", 0)],
                             maximum_concurrent_rpcs=MAX_CALLS)
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_generic_rpc_handlers((_Methods(methods),))
    try:
        port = (server.add_insecure_port(listen) if security.tls is None
                else server.add_secure_port(listen, security.tls.server()))
    except RuntimeError as error:
        raise TransportError(f"{listen}: cannot be listened on; is the port taken, is the host this one?") from error
    await server.start()
    try:
        for service in ("", *{path.split("/")[1] for path in methods}):
            await checks.set(service, health_pb2.HealthCheckResponse.SERVING)
        yield port
    finally:
        await checks.enter_graceful_shutdown()
        await server.stop(STOP_SECONDS)


async def _serve(listen: str, methods: Mapping[str, Handler], job: Job | None, until_stdin_closes: bool,
                 security: Security, silence: float) -> None:
    async with serving(listen, methods, security, silence) as port:
        print(f"listening on {listen.rpartition(':')[0]}:{port}", flush=True)
        await until_stopped(job, until_stdin_closes)


async def until_stopped(job: Job | None, until_stdin_closes: bool) -> None:
    """Wait for SIGTERM, SIGINT, the job's end, or, if asked, the end of standard input."""
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(stop.wait())]
    if job is not None:
        waits.append(asyncio.ensure_future(job()))
    if until_stdin_closes:
        waits.append(asyncio.ensure_future(_end_of_stdin()))
    try:
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in done:
            wait.result()
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


async def _end_of_stdin() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


class _Methods(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs alone
    """Handlers of raw messages by path; a GlsnetError that one raises ends its call with the status of its class."""

    def __init__(self, methods: Mapping[str, Handler]) -> None:
        self._methods = methods

    def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        handler = self._methods.get(details.method)
        if handler is None:
            return None

        async def run(_: object, context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
            try:
                await handler(Served(context))
            except GlsnetError as error:
                metrics.refused(error)
                with suppress(asyncio.InvalidStateError):
                    await context.abort(status_of(error), str(error))

        return grpc.stream_stream_rpc_method_handler(run)
