"""Engines: cells in, what was measured out, as each finishes; on this machine's cores or on a Dask cluster."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from glsnet.errors import CallerError, GlsnetError, TransportError
from glsnet.lab.cells import measure
from glsnet.lab.scenarios import Cell, described
from glsnet.lab.settings import ImagesRun

CONNECT_SECONDS = 5

Measured = Generator[tuple[Cell, dict[str, Any]]]


def local(cells: Sequence[Cell], workers: int | None = None) -> Measured:
    """Measure cells in processes of this machine; gives each with its body, in the order in which they finish.

    The first cell that fails ends it. Whenever it ends, by an interrupt too, its processes are gone; close it if you
    leave it early.

    Args:
        cells: what to measure, started in this order.
        workers: how many processes; default one for each core that this process may use.

    Raises:
        GlsnetError: a cell failed, and the text names it; of the class that its own error had.
        TransportError: a process was lost.
    """
    if not cells:
        return
    _compile_once(cells)
    # Not forked: gRPC, once loaded, does not survive it.
    spawn = multiprocessing.get_context("spawn")
    theirs, ours = spawn.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers or _usable_cores(), len(cells)), spawn, _end_with, (theirs,))
    try:
        with _interrupts_held():  # a process keeps the mask that it is started with: Ctrl-C is for this one alone
            futures = {pool.submit(measure, cell): cell for cell in cells}
        for future in as_completed(futures):
            cell = futures.pop(future)
            yield cell, _body(cell, future)
    finally:
        ours.close()  # ends the processes, whatever they are at
        pool.shutdown(cancel_futures=True)
        theirs.close()


def on_dask(cells: Sequence[Cell], scheduler: str) -> Measured:
    """Measure cells on the workers of a Dask cluster, where glsnet is installed, too; else as `local`.

    When it ends early, what its workers are at is finished by them, and forgotten.

    Args:
        cells: what to measure.
        scheduler: address of the Dask scheduler, HOST:PORT or as Dask writes it.

    Raises:
        CallerError: Dask is not installed here, or the address is none.
        GlsnetError: a cell failed, and the text names it; of the class that its own error had.
        TransportError: the scheduler cannot be reached within CONNECT_SECONDS, or was lost.
    """
    try:
        import distributed  # an extra: only those who ask for it need it
    except ImportError:
        raise CallerError("--engine: expected dask to be installed, it is not; pip install 'glsnet[dask]'") from None
    with _connected(distributed.Client, scheduler) as client:
        futures = {client.submit(measure, cell, pure=False): cell for cell in cells}
        for future in distributed.as_completed(futures, loop=client.loop):
            cell = futures.pop(future)
            yield cell, _body(cell, future)


def _body(cell: Cell, future: Any) -> dict[str, Any]:
    """What was measured; `future` is of this machine's or of Dask's class, which are alike."""
    try:
        body: dict[str, Any] = future.result()
    except (BrokenProcessPool, CancelledError) as error:
        raise TransportError("the sweep lost a process that measures cells, or the scheduler: was it killed, is memory "
                             "short? The same command resumes") from error
    except Exception as error:
        raise _failed(cell, error) from error
    return body


def _connected(client: Callable[..., Any], scheduler: str) -> Any:
    """A Dask client; from a thread of its own, for where something else listens, Dask would wait for ever."""
    answer: Future[Any] = Future()

    def connect() -> None:
        try:
            answer.set_result(client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        return answer.result(CONNECT_SECONDS + 1)
    except ValueError as error:
        raise CallerError(f"--scheduler: expected HOST:PORT, got {scheduler!r}") from error
    except Exception as error:  # of any class, where something else listens
        raise TransportError(f"--scheduler: no Dask scheduler answered at {scheduler} within {CONNECT_SECONDS} s; is "
                             "it started, is the address right?") from error


def _compile_once(cells: Sequence[Cell]) -> None:
    """Fill the cache of compiled kernels, which all processes share, instead of compiling in each.

    Which kernels a cell needs depends on what it chooses by name. Images are downloaded only once by it, too.
    """
    kinds = {tuple(value for _, value in cell.settings if isinstance(value, str)): cell for cell in reversed(cells)}
    for cell in kinds.values():
        tiny = cell.settings.model_copy(update={"samples": 2, "transport": "direct"} | (
            {"shown": 0} if isinstance(cell.settings, ImagesRun) else {}))
        with suppress(Exception):  # then the cell itself fails, too, and is named
            measure(replace(cell, settings=tiny, search=None))


def _end_with(pipe: Connection) -> None:
    """In a worker: end when the other end of the pipe is closed, by the engine or because its process is no more."""
    def wait() -> None:
        try:
            pipe.recv()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C waiting until the block is over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _failed(cell: Cell, error: Exception) -> GlsnetError:
    of = type(error) if isinstance(error, GlsnetError) else GlsnetError
    return of(f"cell {cell.number} ({described(cell.settings)}): {error if of is type(error) else repr(error)}")
