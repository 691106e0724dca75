"""What a party has done in a session, frame by frame, so that it can go on after a crash; files: transport/journal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from glsnet.compression import Outcomes
from glsnet.frames import Indices


@dataclass(frozen=True)
class Entry:
    """One frame, and what was chosen in its rounds."""

    frame: Indices
    outcomes: Outcomes


class Journal(Protocol):
    """Records in order. A list of them is one that lasts as long as its process."""

    def __iter__(self) -> Iterator[Entry]:
        """Every record so far."""

    def append(self, entry: Entry, /) -> None:
        """One more; it is kept on return, come what may."""


@dataclass(frozen=True)
class NoJournal:
    """Of a party that keeps nothing."""

    party: bytes

    def __iter__(self) -> Iterator[Entry]:
        """Nothing."""
        return iter(())

    def append(self, entry: Entry, /) -> None:
        """It is not kept."""
