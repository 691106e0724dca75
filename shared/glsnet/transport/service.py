"""A process that serves: its listening port, health, log, signals and exit code."""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import grpc
import grpc.aio
import typer
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from glsnet.errors import CallerError, GlsnetError, TransportError
from glsnet.images.model import Model, load
from glsnet.transport.rpc import SILENCE_SECONDS, Handler, Served, log, options, status_of

STOP_SECONDS = 1.0

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


def run(name: str, listen: str, methods: Mapping[str, Handler], job: Job | None, until_stdin_closes: bool,
        silence: float) -> None:
    """Serve until SIGTERM, SIGINT or the job's end, and exit: 0, or after an error 2 (the caller's) or 1."""
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format=f"%(asctime)s {name} %(levelname)s %(message)s"
    )
    log.setLevel(logging.INFO)
    try:
        asyncio.run(_serve(listen, methods, job, until_stdin_closes, silence))
    except GlsnetError as error:
        log.error("%s", error)
        raise SystemExit(2 if isinstance(error, CallerError) else 1) from None
    log.info("stopped")


@asynccontextmanager
async def serving(listen: str, methods: Mapping[str, Handler], silence: float = SILENCE_SECONDS) -> AsyncIterator[int]:
    """Serve on HOST:PORT, with health checks; gives the port. Calls that are open on leaving have STOP_SECONDS.

    `silence` is as of `rpc.options`.

    Raises:
        TransportError: the address cannot be listened on.
    """
    server = grpc.aio.server(options=[*options(silence), ("grpc.so_reuseport", 0)])
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in its stubs
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_generic_rpc_handlers((_Methods(methods),))
    try:
        port = server.add_insecure_port(listen)
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
                 silence: float) -> None:
    async with serving(listen, methods, silence) as port:
        print(f"listening on {listen.rpartition(':')[0]}:{port}", flush=True)
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
                with suppress(asyncio.InvalidStateError):
                    await context.abort(status_of(error), str(error))

        return grpc.stream_stream_rpc_method_handler(run)
