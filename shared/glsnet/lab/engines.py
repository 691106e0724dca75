"""Engines: cells in, what was measured out, as each finishes; on this machine's cores or on a Dask cluster."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from glsnet.errors import CallerError, GlsnetError, TransportError
from glsnet.lab.cells import measure
from glsnet.lab.scenarios import Cell, described

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
            cell = futures[future]
            try:
                body = future.result()
            except BrokenProcessPool as error:
                raise TransportError("a process that measures cells was lost; was it killed, is memory short? The same "
                                     "command resumes") from error
            except Exception as error:
                raise _failed(cell, error) from error
            yield cell, body
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
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except OSError as error:
        raise TransportError(f"--scheduler: no Dask scheduler answered at {scheduler} within {CONNECT_SECONDS} s; is "
                             "it started, is the address right?") from error
    except ValueError as error:
        raise CallerError(f"--scheduler: expected HOST:PORT, got {scheduler!r}") from error
    with client:
        futures = {client.submit(measure, cell, pure=False): cell for cell in cells}
        for future in distributed.as_completed(futures):
            cell = futures.pop(future)
            try:
                body = future.result()
            except Exception as error:
                raise _failed(cell, error) from error
            yield cell, body


def _compile_once(cells: Sequence[Cell]) -> None:
    """Fill the cache of compiled kernels, which all processes share, instead of compiling in each.

    Which kernels a cell needs depends on what it chooses by name.
    """
    kinds = {tuple(value for _, value in cell.settings if isinstance(value, str)): cell for cell in cells}
    for cell in kinds.values():
        tiny = cell.settings.model_copy(update={"samples": 2, "transport": "direct"})
        try:
            measure(replace(cell, settings=tiny, search=None))
        except Exception as error:
            raise _failed(cell, error) from error


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
