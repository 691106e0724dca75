"""Journals as files: what a service has done in each session, kept through kill -9.

A file begins with a header, and grows by a record for each frame: its length and CRC-32, then protobuf. A record is
handed to the system before anything is sent or acknowledged because of it; the end that a crash has torn is cut off.
"""

import fcntl
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from google.protobuf.message import DecodeError, Message

from glsnet.errors import CallerError, GlsnetError
from glsnet.frames import Indices
from glsnet.joining import new_party
from glsnet.journal import Entry
from glsnet.transport.records import outcomes_from_proto, outcomes_to_proto
from glsnet.v1 import control_pb2 as pb
from glsnet.v1 import exchange_pb2

_HEAD = struct.Struct("<II")  # length, CRC-32
M = TypeVar("M", bound=Message)


class FileJournal:
    """A `journal.Journal` in a file; `party` is whom it belongs to."""

    def __init__(self, file: BinaryIO, path: Path, party: bytes, first: int) -> None:
        self.party = party
        self._file, self._path, self._first = file, path, first

    def __iter__(self) -> Iterator[Entry]:
        """Every record so far, read from the file; raises CallerError or FrameError if one is not of a session."""
        with self._path.open("rb") as file:
            file.seek(self._first)
            for data in _whole(file):
                record = _parsed(pb.Recorded, data, self._path)
                indices = record.indices
                frame = Indices(indices.first_round, indices.count, indices.packed, indices.checksum)
                yield Entry(frame, outcomes_from_proto(record.outcomes))

    def append(self, entry: Entry) -> None:
        """One more; raises GlsnetError if the disk does not take it."""
        frame = entry.frame
        indices = exchange_pb2.Indices(first_round=frame.first_round, count=frame.count, packed=frame.packed,
                                       checksum=frame.checksum)
        _write(self._file, self._path, pb.Recorded(indices=indices, outcomes=outcomes_to_proto(entry.outcomes)))


@contextmanager
def recorded(folder: Path, session: str, seed_digest: str) -> Iterator[FileJournal]:
    """The journal of a session, as far as it goes; nobody else writes to it.

    Raises:
        CallerError: the file cannot be made or read, is in use, or is of another session or seed.
    """
    path = folder / f"{hashlib.sha256(session.encode()).hexdigest()[:16]}.journal"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
    except OSError as error:
        raise CallerError(f"--journal: expected a folder that can be made and written, got {path}: {error.strerror}"
                          ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CallerError(f"{path}: expected a journal that no other process writes to, got one in use; give each "
                              "service a folder of its own") from None
        records = _whole(file)
        header = next(records, None)
        first = file.tell() if header is not None else 0
        for _ in records:
            pass
        end = file.tell()
        file.truncate(end)
        if header is None:
            head = pb.Header(session=session, seed_digest=seed_digest, party=new_party())
            _write(file, path, head)
            first = file.tell()
        else:
            head = _parsed(pb.Header, header, path)
            if (head.session, head.seed_digest) != (session, seed_digest):
                raise CallerError(f"{path}: expected the journal of session {session!r} and seed {seed_digest}, got "
                                  f"{head.session!r} and {head.seed_digest}; name another folder")
        yield FileJournal(file, path, head.party, first)


def _parsed(kind: type[M], data: bytes, path: Path) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise CallerError(f"{path}: expected the journal of a session, got something else; name another folder"
                          ) from error


def _whole(file: BinaryIO) -> Iterator[bytes]:
    """Every record from here on that is whole; the file is then after the last of them."""
    while True:
        at = file.tell()
        head = file.read(_HEAD.size)
        if len(head) == _HEAD.size:
            length, check = _HEAD.unpack(head)
            left = os.fstat(file.fileno()).st_size - file.tell()
            data = file.read(min(length, left))  # a damaged length may be gigabytes, and reading makes room for all
            if len(data) == length and zlib.crc32(data) == check:
                yield data
                continue
        file.seek(at)
        return


def _write(file: BinaryIO, path: Path, message: Message) -> None:
    data = message.SerializeToString()
    record = _HEAD.pack(len(data), zlib.crc32(data)) + data
    try:
        taken = file.write(record)
    except OSError as error:
        raise GlsnetError(f"{path}: expected room for a record, got: {error.strerror}; what was recorded before is "
                          "kept") from error
    if taken < len(record):
        raise GlsnetError(f"{path}: expected room for {len(record)} bytes of a record, got it for {taken}; what was "
                          "recorded before is kept")
