"""What every command does alike on the terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress


@contextmanager
def interruptible(bar: Progress, state: str) -> Iterator[None]:
    """Ctrl-C ends the program with one line that says in what state it left things."""
    try:
        yield
    except KeyboardInterrupt:
        bar.stop()
        print(f"glsnet: interrupted; {state}", file=sys.stderr)
        raise SystemExit(130) from None
