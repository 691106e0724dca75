"""A target server and its draft servers over gRPC on port 0, in this process."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from glsnet.drafting import DraftSession
from glsnet.generation import Asked, Finished, Piece
from glsnet.language.models import LanguageModel
from glsnet.speculation import TargetSession
from glsnet.transport import exchange, service, speculating
from glsnet.transport.exchange import Broadcast
from glsnet.transport.parties import nothing
from glsnet.transport.rpc import GrpcNet

SEED = bytes(range(32))
CLOCK = time.perf_counter
NET = GrpcNet(exchange.METHOD)
PATIENCE = 5.0
Text = tuple[list[int], Finished]


@dataclass
class Network:
    """A target server, and the draft servers that have joined it."""

    address: str
    session: TargetSession
    drafters: list[DraftSession]
    tasks: list["asyncio.Task[None]"]

    async def text(self, asked: Asked) -> Text:
        """The tokens of a request, and how it went."""
        return text_of([reply async for reply in speculating.generate(self.address, asked)])


def text_of(replies: Sequence[Piece | Finished]) -> Text:
    finished = replies[-1]
    assert isinstance(finished, Finished)
    return [token for piece in replies if isinstance(piece, Piece) for token in piece.tokens], finished


@asynccontextmanager
async def network(target: LanguageModel, drafters: Sequence[DraftSession], streams: int = 4) -> AsyncIterator[Network]:
    """Everything served and joined."""
    session = TargetSession(target, SEED, streams, CLOCK)
    broadcast = Broadcast(session)
    methods = {
        exchange.METHOD: partial(exchange.serve_join, broadcasts={session.session: broadcast}),
        speculating.METHOD: partial(speculating.serve_generate, net=NET, broadcast=broadcast),
        speculating.STATUS: partial(speculating.serve_status, session=session),
    }
    async with service.serving("127.0.0.1:0", methods) as port:
        address = f"127.0.0.1:{port}"
        tasks = [asyncio.create_task(speculating.run_draft(NET, each, address, nothing, PATIENCE)) for each in drafters]
        joined = len(drafters)
        await broadcast.until(lambda: sum(at is not None for at in session.acknowledged.values()) == joined)
        try:
            yield Network(address, session, list(drafters), tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
