"""Each party's loop: its session on one side, its streams (`exchange`) on the other.

    run_encoder   waits for K decoders, then: samples -> session -> one frame to each decoder, a few frames ahead
    run_decoder   joins, then: frame, own t -> session -> Ack
    run_bob       waits for K Alices, then, for each distribution: turns -> session -> turns
    run_alice     joins, then, for each distribution: session -> turns; turns -> session -> turns
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from glsnet.compression import ACK_FRAMES, DecoderSession, EncoderSession, Outcomes, Samples
from glsnet.conversation import AliceSession, BobSession, Draw, Drawn
from glsnet.errors import FrameError, GlsnetError, TransportError
from glsnet.frames import End, Frame, Indices, Turn
from glsnet.joining import Host
from glsnet.transport.exchange import Broadcast, Line, Metered, joined, name_of
from glsnet.transport.rpc import log

WINDOW_FRAMES = 2 * ACK_FRAMES  # that a decoder may be behind with its Ack


async def run_encoder(broadcast: Broadcast[EncoderSession], samples: AsyncIterable[Samples],
                      report: Callable[[Outcomes], Awaitable[None]]) -> None:
    """Code samples, one frame for each array, as soon as all K decoders have agreed; end with their last Ack.

    A decoder that is lost on the way is left out from there on.

    Raises:
        CallerError: a sample cannot be coded.
        TransportError: every decoder was lost.
    """
    session = broadcast.session
    await _complete(broadcast)
    async for a in samples:
        await broadcast.until(lambda: session.frames_in_flight < WINDOW_FRAMES)
        if not session.acknowledged:
            raise _all_lost(session)
        frame, outcomes = await asyncio.to_thread(session.encode, a)
        broadcast.send(frame)
        await report(outcomes)
    broadcast.send(session.end())
    await broadcast.until(lambda: session.frames_in_flight == 0)
    broadcast.end()
    log.info("session %s: closed after %d rounds", session.session, session.next_round)


async def run_decoder(session: DecoderSession, encoder: str, agreed: Callable[[], Awaitable[None]],
                      side_information: Callable[[int], Awaitable[Samples]],
                      report: Callable[[Outcomes], Awaitable[None]]) -> Metered:
    """Join, decode every frame with this decoder's own t, and say what it took on the wire.

    Args:
        session: a new session.
        encoder: the encoder's address.
        agreed: called once the terms are agreed on, before the first frame.
        side_information: gives t for the next `count` rounds.
        report: takes the outcomes of each frame.

    Raises:
        TermsError, FrameError: the encoder, or its frames, are not what this session expects.
        TransportError: the encoder cannot be reached, was lost, or gave up.
        CallerError: the side information is too short, or not finite.
    """
    async with joined(session, encoder, agreed) as line:
        while not isinstance(frame := await line.receive(), End):
            if not isinstance(frame, Indices):
                raise _not(line, "indices or end", frame, session.next_round)
            session.check(frame)
            t = await side_information(frame.count)
            outcomes, ack = await asyncio.to_thread(session.decode, frame, t)
            await report(outcomes)
            if ack is not None:
                await line.send(ack)
        if (last := session.end(frame)) is not None:
            await line.send(last)
        await _ended(line)
        return line.metered()


async def run_bob(broadcast: Broadcast[BobSession], draws: AsyncIterable[Draw],
                  report: Callable[[Drawn], Awaitable[None]]) -> None:
    """Draw from each distribution, and talk if the scheme does, once all K Alices have agreed; end with their last Ack.

    A decoder that is lost on the way is left out from there on, if nothing has to come from it.

    Raises:
        CallerError: a distribution is none.
        FrameError: Alice has sent what breaks the protocol; her stream ends with it, too.
        TransportError: every decoder was lost.
    """
    session = broadcast.session
    await _complete(broadcast)
    try:
        async for draw in draws:
            if not session.acknowledged:
                raise _all_lost(session)
            exchange = session.begin(draw)
            turn: Turn | None = None
            while True:
                async for said in _in_thread(exchange.take(turn)):
                    broadcast.send(said)
                if (drawn := exchange.drawn) is not None:
                    break
                await broadcast.until(lambda: bool(session.turns) or not session.acknowledged)
                if not session.turns:
                    raise _all_lost(session)
                turn = session.turns.popleft()
                broadcast.look()
            session.finish(drawn)
            await report(drawn)
        broadcast.send(session.end())
    except GlsnetError as error:
        broadcast.end(error)
        raise
    await broadcast.until(lambda: session.all_acknowledged == session.next_round)
    broadcast.end()
    log.info("session %s: closed after %d rounds", session.session, session.next_round)


async def run_alice(session: AliceSession, encoder: str, agreed: Callable[[], Awaitable[None]],
                    draws: AsyncIterable[Draw], report: Callable[[Drawn], Awaitable[None]]) -> Metered:
    """Join, draw from each distribution, talk with Bob if the scheme does, and say what it took on the wire.

    Args:
        session: a new session.
        encoder: the encoder's address.
        agreed: called once the terms are agreed on, before the first turn.
        draws: the distributions, as many as Bob has.
        report: takes what was drawn from each.

    Raises:
        TermsError, FrameError: the encoder, or its frames, are not what this session expects.
        TransportError: the encoder cannot be reached, was lost, or gave up.
        CallerError: a distribution is none.
    """
    async with joined(session, encoder, agreed) as line:
        async for draw in draws:
            exchange = session.begin(draw)
            turn: Turn | None = None
            while True:
                async for said in _in_thread(exchange.take(turn)):
                    await line.send(said)
                if (drawn := exchange.drawn) is not None:
                    break
                if not isinstance(frame := await line.receive(), Turn):
                    raise _not(line, "a turn", frame, session.next_round)
                turn = frame
            session.finish(drawn)
            await report(drawn)
        if not isinstance(end := await line.receive(), End):
            raise _not(line, "end", end, session.next_round)
        await line.send(session.end(end))
        await _ended(line)
        return line.metered()


async def _complete(broadcast: Broadcast[Any]) -> None:
    session = broadcast.session
    log.info("session %s: waiting for %d decoders", session.session, session.decoders)
    await broadcast.until(lambda: session.complete)
    log.info("session %s: all %d decoders agreed: %s", session.session, session.decoders, session.terms)


def _all_lost(session: Host) -> TransportError:
    return TransportError(f"decoders: expected at least one to code for, all {session.decoders} were lost")


async def _in_thread(turns: Iterator[Turn]) -> AsyncIterator[Turn]:
    """Each turn as soon as it is made; the loop goes on meanwhile."""
    while (turn := await asyncio.to_thread(next, turns, None)) is not None:
        yield turn


async def _ended(line: Line) -> None:
    """Wait for the encoder to end the stream."""
    if (frame := await line.receive()) is not None:
        raise FrameError(f"frame: expected nothing after end, got {name_of(frame)}")


def _not(line: Line, expected: str, frame: Frame | None, rounds: int) -> GlsnetError:
    if frame is None:
        return TransportError(f"{line.peer}: ended the stream after {rounds} rounds, expected End first")
    return FrameError(f"frame: expected {expected}, got {name_of(frame)}")


async def nothing(*_: object) -> None:
    """For callers that have nothing to do at an event."""
