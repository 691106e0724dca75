"""Result directories: what a sweep has measured, safe from any crash.

    manifest.json    the scenario, and where and with what it was started; written whole before the first record
    records.jsonl    a line for each finished cell, only ever appended to

A record counts once its line, newline and all, is on the disk. Each has a checksum, so that what a crash has torn is
told from what somebody has damaged: a last line without its newline is cut off, and its cell measured again; any other
line that is not as it was written is an error.
"""

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from glsnet.errors import CallerError, GlsnetError
from glsnet.lab.scenarios import Cell, Scenario, cells
from glsnet.sources.samples import write_atomically

MANIFEST, RECORDS = "manifest.json", "records.jsonl"

_KEYS = {"number", "cell", "result", "timing", "checksum"}


@dataclass(frozen=True)
class Opened:
    """A result directory that nobody else writes to."""

    remaining: list[Cell]  # not finished when it was opened
    torn: int  # bytes of an unfinished record that were cut off
    append: Callable[[Cell, dict[str, Any]], None]  # a finished cell and what `cells.measure` gave; kept on return


@contextmanager
def opened(directory: Path, scenario: Scenario) -> Iterator[Opened]:
    """Make a result directory, or go on with one of the same scenario.

    Raises:
        CallerError: the directory cannot be made or written, holds something else or another scenario, is in use by
            another process, or has a record that is damaged; the text names the line. Nothing was changed in it.
        GlsnetError: from `append`: the disk did not take a record.
    """
    _check(directory, scenario)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / RECORDS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise CallerError(f"{directory}: expected a folder that can be made and written, got: {error.strerror}; name "
                          "another") from error
    try:
        _lock(descriptor, directory)
        _check(directory, scenario)  # again: another process may have been quicker
        wanted = cells(scenario)
        if not (directory / MANIFEST).exists():
            with write_atomically(directory / MANIFEST) as handle:
                handle.write(json.dumps(_manifest(scenario, wanted), indent=2) + "\n")
            _to_disk(directory)
        data = (directory / RECORDS).read_bytes()
        records = _records(directory / RECORDS, data, wanted)
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(descriptor, whole)
            os.fsync(descriptor)

        def append(cell: Cell, body: dict[str, Any]) -> None:
            _append(descriptor, directory / RECORDS, _line({"number": cell.number, "cell": _identity(cell)} | body))

        finished = {record["number"] for record in records}
        yield Opened([cell for cell in wanted if cell.number not in finished], len(data) - whole, append)
    finally:
        os.close(descriptor)  # and with it goes the lock


def read(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The manifest, and the records in the order of their cells' numbers; changes nothing, even while a sweep goes on.

    Raises:
        CallerError: there is no result directory, or a record is damaged; the text names the line.
    """
    manifest = _read_manifest(directory)
    if manifest is None:
        raise CallerError(f"{directory}: expected a folder that `glsnet sweep` has made, got no {MANIFEST} in it; "
                          "check the path")
    path = directory / RECORDS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CallerError(f"{path}: expected records that can be read, got: {error.strerror}") from error
    return manifest, sorted(_records(path, data), key=lambda record: int(record["number"]))


def _check(directory: Path, scenario: Scenario) -> None:
    """Refuse a directory that is not for this scenario, without touching it."""
    manifest = _read_manifest(directory)
    if manifest is not None:
        if manifest["digest"] != scenario.digest:
            raise CallerError(f"{directory}: expected results of this scenario, got those of another, "
                              f"{manifest['scenario']['title']!r}; name another folder")
    elif directory.exists() and (found := _foreign(directory)):
        raise CallerError(f"{directory}: expected a new folder, an empty one or one of this scenario, got one with "
                          f"{found} in it; name another")


def _foreign(directory: Path) -> str | None:
    """What stands in a folder without a manifest that was not left by a crash before the first record."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise CallerError(f"{directory}: expected a folder, got: {error.strerror}; name another") from error
    if RECORDS in names and not (directory / RECORDS).stat().st_size:
        names = [name for name in names if name != RECORDS and not (name.startswith(".") and name.endswith(".tmp"))]
    return names[0] if names else None


def _read_manifest(directory: Path) -> dict[str, Any] | None:
    path = directory / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        if not isinstance(manifest["scenario"]["title"], str) or not isinstance(manifest["digest"], str):
            raise TypeError
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CallerError(f"{path}: expected a manifest that can be read, got: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CallerError(f"{path}: expected the manifest of a sweep, got something else; name another "
                          "folder") from error
    return manifest


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CallerError(f"{directory}: expected a folder that no other process writes to, got one in use; wait for "
                          "the other sweep, or name another folder") from error
    except OSError as error:
        raise CallerError(f"{directory}: expected a disk that can lock files, got: {error.strerror}; name a folder on "
                          "another") from error


def _manifest(scenario: Scenario, wanted: Sequence[Cell]) -> dict[str, Any]:
    return {
        "scenario": scenario.document,
        "digest": scenario.digest,
        "cells": len(wanted),
        "seed": wanted[0].settings.seed,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("glsnet", "numpy", "numba")} | {
            "python": platform.python_version()},
        "machine": {"system": f"{platform.system()} {platform.release()}",
                    "processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
    }


def _identity(cell: Cell) -> dict[str, Any]:
    return {"settings": cell.settings.model_dump(mode="json"), "repetition": cell.repetition}


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record | {"checksum": _checksum(record)}, separators=(",", ":")).encode() + b"\n"


def _checksum(record: dict[str, Any]) -> str:
    """16 hex digits of the SHA-256 of the canonical JSON of a record without its checksum."""
    rest = {key: value for key, value in record.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _append(descriptor: int, path: Path, line: bytes) -> None:
    try:
        written = os.write(descriptor, line)
        os.fsync(descriptor)
    except OSError as error:
        raise GlsnetError(f"{path}: the disk did not take a record: {error.strerror}; the same command "
                          "resumes") from error
    if written < len(line):  # a full disk; what it did take is cut off when the sweep is resumed
        raise GlsnetError(f"{path}: the disk took {written} bytes of a record of {len(line)}; make room, and the same "
                          "command resumes")


def _to_disk(directory: Path) -> None:
    """A file is there after a crash only once its folder is written, too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _records(path: Path, data: bytes, wanted: Sequence[Cell] | None = None) -> list[dict[str, Any]]:
    """The records of all whole lines, checked; of a scenario's cells, if these are given."""
    records: list[dict[str, Any]] = []
    lines: dict[int, int] = {}
    for at, line in enumerate(data.split(b"\n")[:-1], 1):
        place = f"{path}: line {at}"
        try:
            record = json.loads(line)
            sound = record.keys() == _KEYS and record["checksum"] == _checksum(record)
        except (ValueError, AttributeError):
            sound = False
        if not sound:
            raise CallerError(f"{place}: expected a record as it was written, got one that is damaged; restore it, or "
                              "delete the line, and its cell is measured again")
        number = record["number"]
        if number in lines:
            raise CallerError(f"{place}: expected each cell once, got number {number} here and in line "
                              f"{lines[number]}; delete one of the two")
        if wanted is not None and not (0 <= number < len(wanted) and record["cell"] == _identity(wanted[number])):
            raise CallerError(f"{place}: expected a cell of the scenario, got number {number} with other settings than "
                              "it has there; was it measured by another version of glsnet? Name another folder")
        lines[number] = at
        records.append(record)
    return records
