"""What parties' loops need of the world: streams of messages, time for computing, chance. Over gRPC, or simulated.

    Pipe    either end of one bidirectional stream of messages
    Net     how a party dials, computes, and counts seconds
"""

import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

from glsnet.frames import Join
from glsnet.transport.meter import Reading

T = TypeVar("T")


class Pipe(Protocol):
    """One end of a stream of messages, in order; at the listening end, the stream ends when its handler does.

    A handler that returns ends it well, one that raises a GlsnetError ends it with this error at the dialling end.
    """

    @property
    def peer(self) -> str:
        """Who is at the other end, for errors and logs."""

    @property
    def name(self) -> str | None:
        """Who its certificate says that it is; None without one, and at the dialling end, which knows whom it asked."""

    async def read(self) -> bytes | None:
        """The next message, or None at a good end.

        Raises:
            GlsnetError: the peer ended the stream with it, or was lost (TransportError).
        """

    async def write(self, data: bytes) -> None:
        """Put a message on the stream, as soon as there is room; raises as `read`."""


class Dialled(Pipe, Protocol):
    """The dialling end."""

    async def close(self) -> None:
        """No more messages from here; the peer reads None."""

    def reading(self) -> Reading:
        """The bytes that have passed so far."""


class Net(Protocol):
    """One party's world."""

    random: random.Random  # for backoff

    def dial(self, address: str, peer: str) -> AbstractAsyncContextManager[Dialled]:
        """Join's stream to an encoder or target at `address`; leaving cancels what is left of it.

        Raises:
            TransportError: nothing answers.
        """

    async def compute(self, function: Callable[..., T], *arguments: object) -> T:
        """The function's result, while others go on."""

    def proven(self, join: Join) -> Join:
        """With the proof that the session's token takes, if it has one."""

    def local(self, seconds: float) -> float:
        """What the event loop calls so many seconds of this party's clock."""
