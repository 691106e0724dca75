"""Each party's loop: its session on one side, its streams (`exchange`) on the other.

    run_encoder   waits for decoders, then: samples -> session -> journal -> one frame to each decoder
    run_decoder   joins, then: frame, own t -> session -> journal -> Ack; joins again when it is lost
    run_bob       waits for K Alices, then, for each distribution: turns -> session -> turns
    run_alice     joins, then, for each distribution: session -> turns; turns -> session -> turns

All of them run in any world that is a `pipes.Net`: over gRPC, or simulated.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from glsnet.compression import DecoderSession, EncoderSession, Outcomes, Samples
from glsnet.conversation import AliceSession, BobSession, Draw, Drawn
from glsnet.errors import FrameError, GlsnetError, TransportError
from glsnet.frames import End, Frame, Indices, Lost, Terms, Turn
from glsnet.joining import Host
from glsnet.journal import Entry, Journal
from glsnet.transport import metrics, traces
from glsnet.transport.exchange import Broadcast, Line, Metered, log, name_of, staying
from glsnet.transport.pipes import Net


async def run_encoder(net: Net, broadcast: Broadcast[EncoderSession], samples: AsyncIterable[Samples],
                      report: Callable[[Outcomes], Awaitable[None]], journal: Journal, wait_for: int, patience: float
                      ) -> None:
    """Code samples, one frame for each array, as soon as enough decoders have agreed; end with their last Ack.

    No decoder is waited for that another is ahead of. One that is lost may come back at any time, and is sent what it
    has missed.

    Args:
        net: the encoder's world.
        broadcast: of a new session, or of one that goes on after what is in the journal.
        samples: those to code now.
        report: takes the outcomes of each frame.
        journal: takes each frame before it is sent.
        wait_for: how many decoders have to agree before the first frame.
        patience: seconds without progress after which those that are lost, or silent, are not waited for any more.

    Raises:
        CallerError: a sample cannot be coded.
        TransportError: every decoder was lost, and none came back.
    """
    session = broadcast.session
    log.info("session %s: waiting for %d of %d decoders", session.session, wait_for, session.decoders)
    await broadcast.until(lambda: sum(at is not None for at in session.acknowledged.values()) >= wait_for)
    log.info("session %s: %d of %d decoders agreed: %s", session.session, wait_for, session.decoders, session.terms)
    async for a in samples:
        await _while_progress(net, broadcast, lambda: session.open, patience)
        if not session.open:
            raise _all_lost(session)
        with traces.frame("encode", session.session, session.next_round, len(a)):
            frame, outcomes = await net.compute(session.coded, a)
        journal.append(Entry(frame, outcomes))
        session.restore(frame, outcomes)
        metrics.ENCODER_ROUNDS.inc(frame.count)
        broadcast.announce()
        await report(outcomes)
    session.end()
    broadcast.announce()
    await _while_progress(net, broadcast, lambda: len(session.finished) == session.decoders, patience)
    if left := sorted({*range(session.decoders)} - session.finished):
        log.warning("session %s: streams without all rounds: %s", session.session, ", ".join(map(str, left)))
    broadcast.end()
    log.info("session %s: closed after %d rounds", session.session, session.next_round)


async def run_decoder(net: Net, session: DecoderSession, encoder: str, agreed: Callable[[], Awaitable[None]],
                      side_information: Callable[[int, int], Awaitable[Samples]],
                      report: Callable[[Outcomes], Awaitable[None]], journal: Journal, patience: float) -> Metered:
    """Join, decode every frame with this decoder's own t, and say what it took on the wire.

    Args:
        net: this decoder's world.
        session: a new session, or one that goes on after what is in the journal.
        encoder: the encoder's address.
        agreed: called once the terms are agreed on, before the first frame.
        side_information: gives t of rounds from one on, so many of them; rounds never go back.
        report: takes the outcomes of each frame.
        journal: takes them before they are reported or acknowledged.
        patience: seconds since the last rounds after which an encoder that was lost is given up.

    Raises:
        TermsError, FrameError: the encoder, or its frames, are not what this session expects.
        TransportError: the encoder cannot be reached, was lost, or gave up.
        CallerError: the side information is too short, or not finite.
    """
    async def talk(line: Line) -> None:
        while not isinstance(frame := await line.receive(), End):
            if isinstance(frame, Lost):
                session.skip(frame)
                line.progress = True
                continue
            if isinstance(frame, Terms):
                continue  # once more: a network may deliver twice
            if not isinstance(frame, Indices):
                raise _not(line, "indices or end", frame, session.next_round)
            if session.has(frame):
                continue
            session.check(frame)
            t = await side_information(frame.first_round, frame.count)
            with traces.frame("decode", session.session, frame.first_round, frame.count, session.stream):
                outcomes, ack = await net.compute(session.decode, frame, t)
            line.progress = True
            metrics.DECODER_ROUNDS.inc(frame.count)
            journal.append(Entry(frame, outcomes))
            await report(outcomes)
            if ack is not None:
                await line.send(ack)
        if (last := session.end(frame)) is not None:
            await line.send(last)
        await _ended(line)

    return await staying(net, session, encoder, agreed, talk, patience, lambda: session.ended)


async def _while_progress(net: Net, broadcast: Broadcast[EncoderSession], condition: Callable[[], bool],
                          patience: float) -> None:
    """Wait for a condition as long as, within `patience` seconds again and again, a decoder joins, or acknowledges."""
    session = broadcast.session
    while not condition():
        seen = dict(session.acknowledged)
        try:
            async with asyncio.timeout(net.local(patience)):
                await broadcast.until(lambda: condition() or session.acknowledged != seen)  # noqa: B023
        except TimeoutError:
            return


async def run_bob(net: Net, broadcast: Broadcast[BobSession], draws: AsyncIterable[Draw],
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
                async for said in _computed(net, exchange.take(turn)):
                    broadcast.send(said)
                if (drawn := exchange.drawn) is not None:
                    break
                await broadcast.until(lambda: bool(session.turns) or not session.acknowledged)
                if not session.turns:
                    raise _all_lost(session)
                turn = session.turns.popleft()
                broadcast.look()
            session.finish(drawn)
            metrics.ENCODER_ROUNDS.inc(draw.rounds)
            await report(drawn)
        broadcast.send(session.end())
    except GlsnetError as error:
        broadcast.end(error)
        raise
    await broadcast.until(lambda: session.all_acknowledged == session.next_round)
    broadcast.end()
    log.info("session %s: closed after %d rounds", session.session, session.next_round)


async def run_alice(net: Net, session: AliceSession, encoder: str, agreed: Callable[[], Awaitable[None]],
                    draws: AsyncIterable[Draw], report: Callable[[Drawn], Awaitable[None]]) -> Metered:
    """Join, draw from each distribution, talk with Bob if the scheme does, and say what it took on the wire.

    What is under way in a batch lives in both parties alone: a stream that is lost ends the session here.

    Args:
        net: this party's world.
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
    async def talk(line: Line) -> None:
        async for draw in draws:
            exchange = session.begin(draw)
            turn: Turn | None = None
            while True:
                async for said in _computed(net, exchange.take(turn)):
                    await line.send(said)
                if (drawn := exchange.drawn) is not None:
                    break
                if not isinstance(frame := await line.receive(), Turn):
                    raise _not(line, "a turn", frame, session.next_round)
                turn = frame
            session.finish(drawn)
            metrics.DECODER_ROUNDS.inc(draw.rounds)
            await report(drawn)
        if not isinstance(end := await line.receive(), End):
            raise _not(line, "end", end, session.next_round)
        await line.send(session.end(end))
        await _ended(line)

    return await staying(net, session, encoder, agreed, talk, patience=0)


async def _complete(broadcast: Broadcast[Any]) -> None:
    session = broadcast.session
    log.info("session %s: waiting for %d decoders", session.session, session.decoders)
    await broadcast.until(lambda: session.complete)
    log.info("session %s: all %d decoders agreed: %s", session.session, session.decoders, session.terms)


def _all_lost(session: Host) -> TransportError:
    return TransportError(f"decoders: expected at least one to code for, all {session.decoders} were lost")


async def _computed(net: Net, turns: Iterator[Turn]) -> AsyncIterator[Turn]:
    """Each turn as soon as it is made; the loop goes on meanwhile."""
    while (turn := await net.compute(next, turns, None)) is not None:
        yield turn


async def _ended(line: Line) -> None:
    """Wait for the encoder to end the stream."""
    while isinstance(frame := await line.receive(), End):
        pass  # once more: a network may deliver twice
    if frame is not None:
        raise FrameError(f"frame: expected nothing after end, got {name_of(frame)}")


def _not(line: Line, expected: str, frame: Frame | None, rounds: int) -> GlsnetError:
    if frame is None:
        return TransportError(f"{line.peer}: ended the stream after {rounds} rounds, expected End first")
    return FrameError(f"frame: expected {expected}, got {name_of(frame)}")


async def nothing(*_: object) -> None:
    """For callers that have nothing to do at an event."""
