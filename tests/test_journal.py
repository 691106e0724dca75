"""Journals: what was recorded is there again after a crash, and what is not whole is not."""

import resource
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glsnet.bits import pack
from glsnet.compression import Outcomes
from glsnet.errors import CallerError, GlsnetError
from glsnet.frames import Indices
from glsnet.journal import Entry
from glsnet.transport.journal import FileJournal, recorded

SEED, OTHER = "0011223344556677", "8899aabbccddeeff"


def entry(first_round: int, count: int, decoder: bool = False, pixels: int = 0) -> Entry:
    """Of 3-bit messages; a decoder's has reconstructions."""
    rng = np.random.default_rng(first_round)
    message, stream, node = rng.integers(0, 8, (3, count))
    reconstruction = rng.random((count, pixels)).astype(np.float32) if pixels else rng.random(count)
    outcomes = Outcomes(first_round, message, stream, node, reconstruction if decoder else None)
    return Entry(Indices.of(first_round, count, pack(message, 3)), outcomes)


def same(a: Entry, b: Entry) -> bool:
    one, other = a.outcomes, b.outcomes
    if (a.frame, one.first_round) != (b.frame, other.first_round) or not one.matches(other).all():
        return False
    if one.reconstruction is None or other.reconstruction is None:
        return one.reconstruction is other.reconstruction
    return one.reconstruction.dtype == other.reconstruction.dtype and np.array_equal(one.reconstruction,
                                                                                     other.reconstruction)


def assert_same(journal: FileJournal, entries: list[Entry]) -> None:
    found = list(journal)
    assert len(found) == len(entries)
    assert all(map(same, found, entries))


def written(folder: Path, entries: list[Entry]) -> Path:
    """The file of a journal of these."""
    with recorded(folder, "s", SEED) as journal:
        for each in entries:
            journal.append(each)
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("entries", [
    [], [entry(0, 5)], [entry(0, 5, decoder=True), entry(5, 1, decoder=True), entry(6, 300, decoder=True)],
    [entry(2**40, 3, decoder=True, pixels=32), entry(2**40 + 3, 2, decoder=True, pixels=32)],
])
def test_what_was_recorded_is_there_again_and_goes_on(tmp_path: Path, entries: list[Entry]) -> None:
    with recorded(tmp_path, "s", SEED) as journal:
        for n, each in enumerate(entries):
            journal.append(each)
            assert_same(journal, entries[: n + 1])  # also while it is written
        party = journal.party
    assert len(party) == 8
    with recorded(tmp_path, "s", SEED) as journal:
        assert journal.party == party
        assert_same(journal, entries)
        journal.append(entry(9, 9))
    with recorded(tmp_path, "s", SEED) as journal:
        assert_same(journal, [*entries, entry(9, 9)])


def test_each_session_has_a_file_and_a_party_of_its_own(tmp_path: Path) -> None:
    with recorded(tmp_path, "s", SEED) as one, recorded(tmp_path, "t", OTHER) as two:
        one.append(entry(0, 5))
        two.append(entry(0, 7))
        assert one.party != two.party
        assert_same(one, [entry(0, 5)])
        assert_same(two, [entry(0, 7)])


def test_an_end_that_is_torn_at_any_byte_is_cut_off_and_the_journal_goes_on(tmp_path: Path) -> None:
    entries = [entry(0, 2, decoder=True), entry(2, 3, decoder=True), entry(5, 1, decoder=True)]
    ends = [written(tmp_path / f"of{n}", entries[:n]).stat().st_size for n in range(4)]
    path = written(tmp_path / "whole", entries)
    data = path.read_bytes()
    with recorded(path.parent, "s", SEED) as journal:
        party = journal.party
    for size in range(len(data)):
        path.write_bytes(data[:size])
        whole = entries[: sum(end <= size for end in ends[1:])]
        with recorded(path.parent, "s", SEED) as journal:
            assert (journal.party == party) == (size >= ends[0])
            assert_same(journal, whole)
            assert path.stat().st_size == max(end for end in ends if end <= max(size, ends[0]))
            journal.append(entry(7, 4))
        with recorded(path.parent, "s", SEED) as journal:
            assert_same(journal, [*whole, entry(7, 4)])


def test_a_record_that_is_damaged_ends_the_journal_before_it(tmp_path: Path) -> None:
    entries = [entry(0, 2), entry(2, 3), entry(5, 1)]
    first = written(tmp_path / "none", []).stat().st_size
    ends = [written(tmp_path / f"of{n}", entries[:n]).stat().st_size for n in range(1, 4)]
    path = written(tmp_path / "whole", entries)
    data = path.read_bytes()
    for at in range(first, len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with recorded(path.parent, "s", SEED) as journal:
            assert_same(journal, entries[: sum(end <= at for end in ends)])


@pytest.mark.parametrize("head", [b"", b"garbage", b"\xff" * 7])
def test_a_file_that_begins_with_something_else_is_left_as_it_is(tmp_path: Path, head: bytes) -> None:
    path = written(tmp_path, [])
    data = len(head).to_bytes(4, "little") + zlib.crc32(head).to_bytes(4, "little") + head
    path.write_bytes(data)
    with pytest.raises(CallerError, match="expected the journal of"), recorded(tmp_path, "s", SEED):
        pass
    assert path.read_bytes() == data


def test_a_journal_of_another_session_or_seed_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path, [entry(0, 5)])
    data = path.read_bytes()
    with pytest.raises(CallerError, match=f"expected the journal of session 's' and seed {OTHER}, got 's' and {SEED}; "
                                          "name another folder"), recorded(tmp_path, "s", OTHER):
        pass
    with recorded(tmp_path, "t", SEED):
        pass
    (other,) = {*tmp_path.iterdir()} - {path}
    other.write_bytes(data)
    with pytest.raises(CallerError, match=r"expected the journal of session 't' .*, got 's'"), recorded(
            tmp_path, "t", SEED):
        pass
    assert path.read_bytes() == other.read_bytes() == data


def test_only_one_at_a_time_writes(tmp_path: Path) -> None:
    with recorded(tmp_path, "s", SEED) as journal:
        journal.append(entry(0, 5))
        with pytest.raises(CallerError, match="one in use; give each service a folder of its own"), recorded(
                tmp_path, "s", SEED):
            pass
        journal.append(entry(5, 5))
        assert_same(journal, [entry(0, 5), entry(5, 5)])
    with recorded(tmp_path, "s", SEED):
        pass


def test_a_folder_that_cannot_be_had_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(CallerError, match="--journal: expected a folder that can be made and written, got"), recorded(
            tmp_path / "taken", "s", SEED):
        pass


def test_the_file_is_nobody_elses(tmp_path: Path) -> None:
    assert written(tmp_path, []).stat().st_mode & 0o777 == 0o600


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process may grow beyond this."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_an_error_and_what_was_recorded_is_kept(tmp_path: Path) -> None:
    size = written(tmp_path, [entry(0, 5)]).stat().st_size
    for room, text in [(0, "expected room for a record, got: File too large"),
                       (20, "expected room for [0-9]+ bytes of a record, got it for 20")]:
        with room_for(size + room), pytest.raises(GlsnetError, match=text), recorded(tmp_path, "s", SEED) as journal:
            journal.append(entry(5, 5))
    with recorded(tmp_path, "s", SEED) as journal:
        assert_same(journal, [entry(0, 5)])
        journal.append(entry(5, 5))
        assert_same(journal, [entry(0, 5), entry(5, 5)])


def test_an_entry_is_that_of_its_frame() -> None:
    """The helper above: another message, frame or reconstruction is another entry."""
    one = entry(0, 5, decoder=True)
    assert same(one, entry(0, 5, decoder=True))
    assert not same(one, entry(0, 5)) and not same(one, entry(1, 5, decoder=True))
    assert not same(one, replace(one, outcomes=replace(one.outcomes, reconstruction=np.zeros(5))))
