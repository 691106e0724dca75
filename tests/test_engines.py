"""Engines: the same records whoever measures the cells, and what happens when one fails or somebody is lost."""

import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import distributed
import pytest
from processes import alive

from glsnet.errors import CallerError, TransportError
from glsnet.lab import engines, scenarios
from glsnet.lab.cells import SEARCH_SEEDS, measure
from glsnet.lab.engines import Measured
from glsnet.lab.scenarios import Cell

SCENARIO = """
title = "small"
source = "gaussian"
transport = "direct"
samples = 500
[[runs]]
scheme = ["gls", "baseline"]
decoders = [1, 3]
repetitions = 2
[[runs]]
decoders = 2
search = { sigma2 = [0.1, 0.01, 0.001], samples = 300, minimise = "mse" }
[[runs]]
decoders = 1
transport = "grpc"
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Cell]:
    path = tmp_path_factory.mktemp("scenario") / "small.toml"
    path.write_text(SCENARIO)
    return scenarios.cells(scenarios.load(str(path)))


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    """The address of a Dask scheduler that has two workers, each a process."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
                                  silence_logs=logging.CRITICAL) as running:
        yield running.scheduler_address


def workers() -> set[int]:
    """The processes that measure cells, those of the Dask cluster among them."""
    return {process.pid for process in multiprocessing.active_children() if process.pid}


def broken(cell: Cell) -> Cell:
    return replace(cell, settings=cell.settings.model_copy(update={"sigma2": -1.0}))


def by_number(measured: Measured) -> dict[int, dict[str, Any]]:
    """Results as they are kept; without the layers that the network, not the cell, decides over."""
    found = {}
    for cell, body in measured:
        assert body.keys() == {"result", "timing"}
        assert body["timing"].keys() == {"seconds", "samples_per_second"}
        result = json.loads(json.dumps(body["result"]))
        for bits in (result["bits_per_sample"], *result["bits_per_sample_of_each_decoder"],
                     result["uplink_bits_per_sample"]):
            del bits["ip"]
        found[cell.number] = result
    return found


def test_every_engine_measures_the_same_to_the_bit(cells: list[Cell], scheduler: str) -> None:
    here = by_number((cell, measure(cell)) for cell in cells)
    assert list(here) == list(range(10))
    assert by_number(engines.local(cells)) == here
    assert by_number(engines.on_dask(cells, scheduler)) == here
    assert here[9]["bits_per_sample"]["stream"] > here[9]["bits_per_sample"]["packed"]  # it went over the network


def test_a_search_takes_the_best_of_what_it_tried_elsewhere(cells: list[Cell]) -> None:
    cell = cells[8]
    result = measure(cell)["result"]
    tried = [{"sigma2": sigma2, "mse": measure(replace(cell, search=None, settings=cell.settings.model_copy(
        update={"sigma2": sigma2, "samples": 300, "seed": SEARCH_SEEDS + cell.settings.seed}
    )))["result"]["mse"]} for sigma2 in (0.1, 0.01, 0.001)]
    assert result["searched"] == tried
    assert result["sigma2"] == min(tried, key=lambda each: each["mse"])["sigma2"]
    plain = replace(cell, search=None, settings=cell.settings.model_copy(update={"sigma2": result["sigma2"]}))
    assert measure(plain)["result"] == result | {"searched": []}


def test_a_cell_that_fails_is_named_and_what_was_finished_is_kept(cells: list[Cell], scheduler: str) -> None:
    some = [*cells[:4], broken(cells[4])]
    before = workers()
    for measured, least in ((engines.local(some, 1), 4), (engines.on_dask(some, scheduler), 0)):
        finished = []
        with pytest.raises(CallerError, match=r"cell 4 \(scheme=baseline decoders=1 .*: sigma2: expected a finite"):
            for cell, _ in measured:
                finished.append(cell.number)
        assert least <= len(finished) == len(set(finished) & {0, 1, 2, 3})
        assert workers() == before


def test_a_worker_that_is_lost_ends_the_sweep(cells: list[Cell]) -> None:
    before = workers()
    measured = engines.local([replace(cells[0], number=number) for number in range(9999)], 2)
    next(measured)
    os.kill(min(workers() - before), signal.SIGKILL)
    with pytest.raises(TransportError, match="lost a process that measures cells"):
        list(measured)
    assert workers() == before


def test_an_engine_that_is_closed_leaves_no_process(cells: list[Cell]) -> None:
    before = workers()
    measured = engines.local([replace(cells[0], number=number) for number in range(9999)], 2)
    next(measured)
    started = workers() - before
    measured.close()
    assert len(started) == 2 and not any(map(alive, started))


def test_no_cells_take_no_process() -> None:
    assert list(engines.local([])) == []


def test_a_scheduler_that_cannot_be_reached(cells: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        for port in (silent.getsockname()[1], unused.getsockname()[1]):
            with pytest.raises(TransportError, match=f"no Dask scheduler answered at 127.0.0.1:{port} within 1 s"):
                list(engines.on_dask(cells, f"127.0.0.1:{port}"))
    with pytest.raises(CallerError, match="--scheduler: expected HOST:PORT, got 'nonsense'"):
        list(engines.on_dask(cells, "nonsense"))


def test_without_dask_one_is_told_what_to_install(cells: list[Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CallerError, match=r"pip install 'glsnet\[dask\]'"):
        list(engines.on_dask(cells, "127.0.0.1:1"))
