"""Speculative decoding over gRPC: each party's loop on its session and streams, and the client's call.

    run_draft        a draft server: joins the target, then answers its frames, to the end of the stream
    serve_generate   the target's handler of METHOD: one request, block after block
    generate         a client's call of it
    serve_status, status    which model the target has, and how many streams are drafted on
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from typing import Any

from google.protobuf.message import Message

from glsnet.drafting import DraftSession
from glsnet.frames import (
    NO_TRAFFIC,
    Done,
    Frame,
    OfRequest,
    Prompt,
    Spent,
    bytes_of,
    direction_from_proto,
    direction_to_proto,
)
from glsnet.generation import Asked, Finished, Piece
from glsnet.speculation import Generation, TargetSession
from glsnet.transport import rpc
from glsnet.transport.exchange import Broadcast, Line, joined
from glsnet.transport.meter import Reading
from glsnet.transport.rpc import log
from glsnet.v1 import exchange_pb2
from glsnet.v1 import generation_pb2 as pb

METHOD = "/glsnet.v1.Generation/Generate"
STATUS = "/glsnet.v1.Generation/Status"


async def run_draft(session: DraftSession, target: str, agreed: Callable[[], Awaitable[None]]) -> None:
    """Join, and draft for the target's requests until it ends the stream.

    Args:
        session: a new session.
        target: the target's address.
        agreed: called once the terms are agreed on.

    Raises:
        TermsError, FrameError: the target, or its frames, are not what this session expects.
        TransportError: the target cannot be reached, was lost, or gave up.
    """
    async with joined(session, target, agreed) as line:
        under_way: dict[int, _Count] = {}
        while (frame := await line.receive()) is not None:
            if isinstance(frame, Done):
                seconds = session.done(frame)
                if (count := under_way.pop(frame.request, None)) is not None:
                    await line.send(count.spent(frame.request, seconds, line))
                continue
            if isinstance(frame, Prompt):
                under_way[frame.request] = _Count(line.reading())
                if len(under_way) > 1:
                    for each in under_way.values():
                        each.alone = False
            else:  # a request's bytes begin after its Prompt
                _count(under_way, frame, line.size, 0)
            for answer in await asyncio.to_thread(list, session.receive(frame)):
                await line.send(answer)
                _count(under_way, answer, line.size, 1)


class _Count:
    """Bytes of one request at a draft server."""

    def __init__(self, since: Reading) -> None:
        self.since, self.alone = since, True
        self.traffic = [NO_TRAFFIC, NO_TRAFFIC]  # down, up

    def spent(self, request: int, seconds: float, line: Line) -> Spent:
        passed = line.reading() - self.since
        down, up = self.traffic
        return Spent(request, seconds, replace(down, stream=passed.down_stream, ip=passed.down_ip),
                     replace(up, stream=passed.up_stream, ip=passed.up_ip), self.alone)


def _count(under_way: dict[int, _Count], frame: Frame, size: int, way: int) -> None:
    if isinstance(frame, OfRequest) and frame.request in under_way:
        under_way[frame.request].traffic[way] += bytes_of(frame, size)


async def serve_generate(context: rpc.Context, broadcast: Broadcast[TargetSession]) -> None:
    """Do one request of a client, pieces of text as they come; whatever happens, draft servers are told of its end.

    Raises:
        CallerError: the request is not possible.
        PeerError: a draft server broke the protocol.
    """
    session = broadcast.session
    generation = session.begin(_asked(await rpc.read(context) or b"").request(session.decoders))
    log.info("request %d from %s: %d draft servers", generation.number, context.peer(), generation.draft_servers)
    try:
        _send(broadcast, generation)
        while not generation.finished.reason:
            await broadcast.until(lambda: generation.ready)
            piece = await asyncio.to_thread(generation.step)
            _send(broadcast, generation)
            if piece is not None:
                await context.write(_reply(piece))
        await broadcast.until(lambda: generation.settled)
        await context.write(_reply(generation.finished))
    finally:
        session.end(generation)
        _send(broadcast, generation)
        log.info("request %d: %s after %d tokens, %d blocks", generation.number, generation.finished.reason,
                 generation.finished.tokens, generation.finished.blocks)


def _send(broadcast: Broadcast[TargetSession], generation: Generation) -> None:
    for server, frame in generation.to_send():
        broadcast.send_to(server, frame)


async def generate(target: str, asked: Asked) -> AsyncIterator[Piece | Finished]:
    """Have the target at HOST:PORT generate; leaving the iteration early cancels the request.

    Raises:
        GlsnetError: the target cannot be reached, refuses, or fails.
    """
    async with aclosing(_replies(target, METHOD, _request(asked))) as replies:
        async for data in replies:
            yield _from_reply(data)


@dataclass(frozen=True)
class Status:
    """A target: its model, V, most tokens of a context, its streams, and how many of them are drafted on now."""

    model: str
    vocabulary: int
    context: int
    streams: int
    drafting: int


async def serve_status(context: rpc.Context, session: TargetSession) -> None:
    """The target's handler of STATUS."""
    await rpc.read(context)
    model = session.model
    await context.write(pb.StatusReply(model=model.name, vocabulary=model.vocabulary, context=model.context,
                                       streams=session.decoders, drafting=session.drafting).SerializeToString())


async def status(target: str) -> Status:
    """Ask the target at HOST:PORT; raises GlsnetError if it cannot be reached."""
    async with aclosing(_replies(target, STATUS, pb.StatusRequest())) as replies:
        reply = rpc.parsed(pb.StatusReply, await anext(replies, b""))
        return Status(reply.model, reply.vocabulary, reply.context, reply.streams, reply.drafting)


async def _replies(target: str, method: str, request: Message) -> AsyncGenerator[bytes]:
    """What a target answers to one message, to the end."""
    peer = f"target {target}"
    async with rpc.dial(target, method, peer) as call:
        await rpc.send(call, peer, request.SerializeToString())
        with rpc.translated(peer):
            await call.done_writing()
        while (data := await rpc.receive(call, peer)) is not None:
            yield data


def _request(asked: Asked) -> pb.GenerateRequest:
    return pb.GenerateRequest(**{field.name: getattr(asked, field.name) for field in fields(asked)})


def _asked(data: bytes) -> Asked:
    message = rpc.parsed(pb.GenerateRequest, data)
    given: dict[str, Any] = {field.name: tuple(value) if field.is_repeated else value
                             for field, value in message.ListFields()}
    return Asked(**{"prompt": "", **given})


_PLAIN = [field.name for field in fields(Finished) if field.name not in ("down", "up")]


def _reply(item: Piece | Finished) -> bytes:
    if isinstance(item, Piece):
        piece = pb.Piece(text=item.text, tokens=item.tokens, agreed=item.agreed)
        return pb.GenerateReply(piece=piece).SerializeToString()
    traffic = exchange_pb2.Traffic(down=direction_to_proto(item.down), up=direction_to_proto(item.up))
    finished = pb.Finished(**{name: getattr(item, name) for name in _PLAIN}, traffic=traffic)
    return pb.GenerateReply(finished=finished).SerializeToString()


def _from_reply(data: bytes) -> Piece | Finished:
    message = rpc.parsed(pb.GenerateReply, data)
    if message.WhichOneof("reply") == "piece":
        piece = message.piece
        return Piece(piece.text, list(piece.tokens), list(piece.agreed))
    finished = message.finished
    plain = {name: getattr(finished, name) for name in _PLAIN}
    plain |= {name: list(plain[name]) for name in ("drafted", "accepted")}
    return Finished(**plain, down=direction_from_proto(finished.traffic.down),
                    up=direction_from_proto(finished.traffic.up))
