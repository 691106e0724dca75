"""What every command does alike on the terminal: options, this process's certificate, Ctrl-C."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.progress import Progress

from glsnet.transport.security import Security

Assignments = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting; may be given "
                                                        "again. All are listed below.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]


def security(context: typer.Context) -> Security:
    """What the options before the command say, see `cli.glsnet`."""
    found = context.find_object(Security)
    assert found is not None
    return found


@contextmanager
def interruptible(bar: Progress, state: str) -> Iterator[None]:
    """Ctrl-C ends the program with one line that says in what state it left things."""
    try:
        yield
    except KeyboardInterrupt:
        bar.stop()
        print(f"glsnet: interrupted; {state}", file=sys.stderr)
        raise SystemExit(130) from None
