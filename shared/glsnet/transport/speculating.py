"""Speculative decoding over gRPC: each party's loop on its session and streams, and the client's call.

    run_draft        a draft server: joins the target, then answers its frames, to the end of the stream
    serve_generate   the target's handler of METHOD: one request, block after block
    generate         a client's call of it
    serve_status, status    which model the target has, and how many streams are drafted on
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, fields, replace
from typing import Any

from google.protobuf.message import Message

from glsnet.drafting import DraftSession
from glsnet.errors import GlsnetError, TransportError
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
from glsnet.transport import metrics, rpc
from glsnet.transport.exchange import PATIENCE, Broadcast, Line, staying
from glsnet.transport.meter import Reading
from glsnet.transport.pipes import Dialled, Net, Pipe
from glsnet.transport.rpc import log
from glsnet.transport.security import LOCAL, Security
from glsnet.v1 import exchange_pb2
from glsnet.v1 import generation_pb2 as pb

METHOD = "/glsnet.v1.Generation/Generate"
STATUS = "/glsnet.v1.Generation/Status"
RETRY_SECONDS = 0.2  # before a target that was lost is asked again
DRAFT_SECONDS = 5.0  # that a block waits for its draft servers
Dial = Callable[[str, str], AbstractAsyncContextManager[Dialled]]


async def run_draft(net: Net, session: DraftSession, target: str, agreed: Callable[[], Awaitable[None]],
                    patience: float) -> None:
    """Join, and draft for the target's requests until it ends the stream; join again when it is lost.

    Args:
        net: this draft server's world.
        session: a new session.
        target: the target's address.
        agreed: called once the terms are agreed on for the first time.
        patience: seconds since the last frame after which a target that was lost is given up.

    Raises:
        TermsError, FrameError: the target, or its frames, are not what this session expects.
        TransportError: the target cannot be reached, was lost, or gave up.
    """
    async def talk(line: Line) -> None:
        under_way: dict[int, _Count] = {}
        inbox: asyncio.Queue[tuple[Frame | None, int] | Exception] = asyncio.Queue()
        reading = asyncio.create_task(_read(line, inbox))

        async def send(answers: Iterable[Frame]) -> None:
            for answer in answers:
                await line.send(answer)
                _count(under_way, answer, line.size, 1)

        try:
            while True:
                if session.busy and inbox.empty():
                    drafts = await net.compute(session.work)
                    await send([] if drafts is None else [drafts])
                    continue
                came = [await inbox.get()]
                while not inbox.empty():
                    came.append(inbox.get_nowait())
                told: list[Frame] = []
                for item in came:
                    if isinstance(item, Exception):
                        raise item
                    frame, size = item
                    if frame is None:
                        return
                    if isinstance(frame, Done):
                        told = [each for each in told if not _of(each, frame.request)]
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
                        _count(under_way, frame, size, 0)
                    told.append(frame)
                await send(await net.compute(_answers, session, told))
        finally:
            reading.cancel()

    await staying(net, session, target, agreed, talk, patience)


async def _read(line: Line, inbox: "asyncio.Queue[tuple[Frame | None, int] | Exception]") -> None:
    """All that comes, while drafts are made; at last None, or why no more comes."""
    try:
        frame: Frame | None = await line.receive()
        while frame is not None:
            inbox.put_nowait((frame, line.size))
            frame = await line.receive()
        inbox.put_nowait((None, 0))
    except GlsnetError as error:
        inbox.put_nowait(error)


def _answers(session: DraftSession, told: Sequence[Frame]) -> list[Frame]:
    return [*session.receive(*told)]


def _of(frame: Frame, request: int) -> bool:
    return isinstance(frame, OfRequest) and frame.request == request


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


async def serve_generate(pipe: Pipe, net: Net, broadcast: Broadcast[TargetSession]) -> None:
    """Do one request of a client, pieces of text as they come; whatever happens, draft servers are told of its end.

    Raises:
        CallerError: the request is not possible.
        PeerError: a draft server broke the protocol.
    """
    session = broadcast.session
    generation = session.begin(_asked(await pipe.read() or b"").request(session.decoders))
    log.info("request %d from %s: %d draft servers", generation.number, pipe.peer, generation.draft_servers)
    metrics.REQUESTS_OPEN.inc()
    loop = asyncio.get_running_loop()
    since = loop.time()
    try:
        _send(broadcast, generation)
        while not generation.finished.reason:
            await _until(broadcast, generation, lambda: generation.ready)
            piece = generation.accept(await net.compute(generation.verify))
            _send(broadcast, generation)
            if piece is not None:
                metrics.count_block(len(piece.tokens), sum(map(bool, piece.agreed)), loop.time() - since)
                since = loop.time()
                await pipe.write(_reply(piece))
        await _until(broadcast, generation, lambda: generation.settled)
        await pipe.write(_reply(generation.finished))
    finally:
        metrics.REQUESTS_OPEN.dec()
        session.end(generation)
        _send(broadcast, generation)
        log.info("request %d: %s after %d tokens, %d blocks", generation.number, generation.finished.reason,
                 generation.finished.tokens, generation.finished.blocks)


async def _until(broadcast: Broadcast[TargetSession], generation: Generation, condition: Callable[[], bool]) -> None:
    """Wait for draft servers, but not for ever."""
    while not condition():
        try:
            async with asyncio.timeout_at(generation.deadline):
                await broadcast.until(condition)
        except TimeoutError:
            log.info("request %d: draft servers are late", generation.number)
            metrics.DRAFTS_LATE.inc()
            generation.expire()


def _send(broadcast: Broadcast[TargetSession], generation: Generation) -> None:
    for server, frame in generation.to_send():
        broadcast.send_to(server, frame)
    broadcast.announce()


async def generate(target: str, asked: Asked, patience: float = PATIENCE, dial: Dial | None = None,
                   security: Security = LOCAL) -> AsyncGenerator[Piece | Finished]:
    """Have the target at HOST:PORT generate; leaving the iteration early cancels the request.

    A target that is lost, or started again, is asked to go on after the tokens that have come.

    Args:
        target: where it is.
        asked: the request.
        patience: seconds since the last tokens, or the beginning, after which a target that was lost is given up.
        dial: how to reach it; default: over gRPC.
        security: with which certificate.

    Raises:
        GlsnetError: the target cannot be reached, refuses, or fails.
    """
    loop, made = asyncio.get_running_loop(), list(asked.made)
    since = loop.time()
    while True:
        try:
            attempt = replace(asked, made=tuple(made))
            async with aclosing(_replies(target, METHOD, _request(attempt), dial, security)) as replies:
                async for data in replies:
                    item = _from_reply(data)
                    if isinstance(item, Piece):
                        made += item.tokens
                        since = loop.time()
                    else:
                        item.tokens = len(made) - len(asked.made)
                    yield item
            return
        except TransportError as error:
            if loop.time() - since + RETRY_SECONDS > patience:
                raise
            log.warning("%s; asking to go on after %d tokens", error, len(made))
        await asyncio.sleep(RETRY_SECONDS)


@dataclass(frozen=True)
class Status:
    """A target: its model, V, most tokens of a context, its streams, and how many of them are drafted on now."""

    model: str
    vocabulary: int
    context: int
    streams: int
    drafting: int


async def serve_status(pipe: Pipe, session: TargetSession) -> None:
    """The target's handler of STATUS."""
    await pipe.read()
    model = session.model
    await pipe.write(pb.StatusReply(model=model.name, vocabulary=model.vocabulary, context=model.context,
                                       streams=session.decoders, drafting=session.drafting).SerializeToString())


async def status(target: str, security: Security) -> Status:
    """Ask the target at HOST:PORT; raises GlsnetError if it cannot be reached."""
    async with aclosing(_replies(target, STATUS, pb.StatusRequest(), None, security)) as replies:
        reply = rpc.parsed(pb.StatusReply, await anext(replies, b""))
        return Status(reply.model, reply.vocabulary, reply.context, reply.streams, reply.drafting)


async def _replies(target: str, method: str, request: Message, dial: Dial | None, security: Security
                   ) -> AsyncGenerator[bytes]:
    """What a target answers to one message, to the end."""
    peer = f"target {target}"
    async with dial(target, peer) if dial is not None else rpc.dial(target, method, peer, security) as call:
        await call.write(request.SerializeToString())
        await call.close()
        while (data := await call.read()) is not None:
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
