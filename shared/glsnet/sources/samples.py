"""Samples in text files: read whole and checked cell by cell, written whole or not at all."""

import csv
import io
import math
import os
import secrets
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeVar

import numpy as np

from glsnet.errors import CallerError
from glsnet.race import FloatArray

Content = TypeVar("Content", str, list[str])

MAX_DECODERS = 65535
MIN_ROWS = 3  # a line through two points leaves no residual: no variance could be fitted


def read_samples(path: Path) -> tuple[FloatArray, FloatArray]:
    """Read joint samples of the source and of every decoder's side information.

    The file is UTF-8 CSV whose header is exactly `a,t1,...,tK`, 1 <= K <= 65535, with one sample a row.

    Returns:
        a: shape [N], the source, in the file's own units; N >= 3.
        t: shape [N, K], the side information; column k - 1 is the file's column `tk`.

    Raises:
        CallerError: the file cannot be read, or breaks the format; the text names the file, line and column. A cell
            that is no finite number, a row of another width, a blank line between rows, fewer than three rows, and
            a column that never varies are all refused.
    """
    rows = _rows(path, _read_text(path))
    _, header = next(rows, (0, []))
    names = _checked_names(path, header)
    cells = array("d")
    for line, row in rows:
        if len(row) != len(names):
            raise CallerError(
                f"{path}: line {line}: expected {len(names)} cells ({_span(names)}), got {len(row)}; "
                "give every row one number per column of the header"
            )
        cells.extend(_number(cell, path, line, name) for cell, name in zip(row, names, strict=True))
    values = np.array(cells, dtype=np.float64).reshape(-1, len(names))
    if len(values) < MIN_ROWS:
        raise CallerError(
            f"{path}: expected at least {MIN_ROWS} rows of numbers below the header, got {len(values)}; add samples"
        )
    constant = np.flatnonzero((values == values[0]).all(axis=0))
    if constant.size:
        name, value = names[constant[0]], float(values[0, constant[0]])
        raise CallerError(
            f"{path}: lines 2 to the end, column {name}: expected numbers that vary, got {value!r} in every row; "
            "remove the column or give samples in which it varies"
        )
    return values[:, 0].copy(), values[:, 1:].copy()


def read_column(path: Path) -> FloatArray:
    """Read a UTF-8 text file of one number per line, below at most one header line, a name.

    Returns:
        shape [N], N >= 1, in the file's own units; a column that never varies is allowed.

    Raises:
        CallerError: the file cannot be read, holds no number, or has a line that is no finite number (a blank line
            between numbers too); the text names the file and line.
    """
    lines = list(_nonblank(path, ((i, s.strip()) for i, s in enumerate(io.StringIO(_read_text(path), None), 1))))
    if lines and _is_name(lines[0][1]):
        del lines[0]
    if not lines:
        raise CallerError(f"{path}: expected one number per line, got no number; write at least one")
    return np.array([_number(text, path, line) for line, text in lines], dtype=np.float64)


@contextmanager
def write_atomically(path: Path) -> Iterator[TextIO]:
    """Yield a UTF-8 text handle whose text becomes the file `path` when the block ends well.

    The text goes to a temporary file beside `path`, which is renamed over it at the end. When the block raises, the
    temporary file is removed and `path` is left as it was. Line ends are written as given, as `csv` wants them.

    Raises:
        CallerError: `path` is a folder, or its folder is missing or may not be written.
        OSError: the disk failed during the write; `path` is left as it was.
    """
    if path.is_dir():
        raise CallerError(f"{path}: expected the path of a file to write, got a folder; name a file in it")
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        handle = open(temporary, "x", encoding="utf-8", newline="")
    except OSError as error:
        raise CallerError(
            f"{path}: expected a file that can be written, got: {error.strerror}; name a file in a folder that exists "
            "and may be written"
        ) from error
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CallerError(
            f"{path}: expected a file that can be read, got: {error.strerror}; check the path and its permissions"
        ) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CallerError(
            f"{path}: line {line}: expected UTF-8 text, got byte 0x{data[error.start]:02x}; save the file as UTF-8"
        ) from error


def _rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Each CSV row with its line number, its cells stripped; `[""]` and `[]` both stand for a blank line."""
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        yield from _nonblank(path, ((reader.line_num, [cell.strip() for cell in row]) for row in reader))
    except csv.Error as error:
        raise CallerError(
            f"{path}: line {reader.line_num}: expected comma-separated numbers, got: {error}; write plain CSV"
        ) from error


def _nonblank(path: Path, lines: Iterator[tuple[int, Content]]) -> Iterator[tuple[int, Content]]:
    """Drop the blank lines at the end; refuse any other, for it may be a number that was lost."""
    blank = 0
    for line, content in lines:
        if not content or content == [""]:
            blank = blank or line
        elif blank:
            raise CallerError(f"{path}: line {blank}: expected a number, got a blank line; fill it or delete it")
        else:
            yield line, content


def _checked_names(path: Path, header: list[str]) -> list[str]:
    if not header:
        raise CallerError(f"{path}: line 1: expected the header a,t1,...,tK, got an empty file; write header and rows")
    expected = ["a", *(f"t{k}" for k in range(1, max(len(header), 2)))]
    for i, name in enumerate(expected):
        came = repr(header[i]) if i < len(header) else "the end of the line"
        if came != repr(name):
            raise CallerError(
                f"{path}: line 1, column {i + 1}: expected the name {name!r}, got {came}; "
                "the header must be a,t1,...,tK with none left out"
            )
    if len(expected) > MAX_DECODERS + 1:
        raise CallerError(
            f"{path}: line 1: expected at most {MAX_DECODERS} columns of side information, got {len(header) - 1}; "
            "remove some"
        )
    return expected


def _span(names: list[str]) -> str:
    return ",".join(names) if len(names) <= 4 else f"{names[0]},{names[1]},...,{names[-1]}"


def _parsed(text: str) -> float | None:
    """The number a text stands for, if any; Python's `1_000` is no number in a file."""
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _is_name(text: str) -> bool:
    """Whether a first line is a header: `1,5` or `--` is a damaged number, not a name to skip."""
    return _parsed(text) is None and (text[0].isalpha() or text[0] in "_\"'#")


def _number(text: str, path: Path, line: int, column: str = "") -> float:
    value = _parsed(text)
    if value is not None and math.isfinite(value):
        return value
    place = f"{path}: line {line}, column {column}" if column else f"{path}: line {line}"
    kind = "a number" if value is None else "a finite number"
    raise CallerError(f"{place}: expected {kind}, got {_shortened(text)!r}; write a decimal number such as -0.25")


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
