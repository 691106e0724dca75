"""Nature over the control plane: samples to each party, outcomes back, through as many calls as it takes.

    Feed        one party's samples and outcomes; a call that is lost is made again, from where its outcomes end
    Feeding     all of them: frame by frame, what the encoder and the decoders drew

A decoder that gives no outcomes for `patience` seconds is not waited for until it has caught up: its rounds are
missing, and the report says which.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice

import numpy as np

from glsnet.compression import Outcomes, Samples
from glsnet.errors import FrameError, GlsnetError, TransportError
from glsnet.lab.plan import Gap, add_gap
from glsnet.transport.control import Closed, Conductor, Resume

WINDOW = 8  # frames that a party is given beyond the last that all have drawn
FIRST_BACKOFF, LAST_BACKOFF = 0.1, 2.0  # seconds before calling a party again
Conduct = Callable[[Resume], AbstractAsyncContextManager[Conductor]]
Frames = Callable[[], Iterator[tuple[Samples, Samples]]]


@dataclass(frozen=True)
class Frame:
    """One frame's samples, R and [R, K] of them."""

    first_round: int
    a: Samples
    t: Samples


class Feed:
    """One party, as the lab sees it."""

    def __init__(self, feeding: "Feeding", conduct: Conduct, decoder: int | None) -> None:
        """`decoder` is k, None for the encoder."""
        self.decoder, self.conduct = decoder, conduct
        self._feeding = feeding
        self.outcomes: dict[int, Outcomes] = {}  # by first round, those that are not taken yet
        self.next_round = 0  # all outcomes before it have come
        self.progress = asyncio.get_running_loop().time()  # when the last came
        self.opened = False
        self.calls = 0
        self.repeated = 0  # rounds whose outcomes came again
        self.missing = feeding.late(decoder)
        self.trouble: TransportError | None = None  # since it opened the session, or gave outcomes
        self.error: GlsnetError | None = None
        self.closed: Closed | None = None

    async def run(self) -> None:
        """Feed the party to its end."""
        backoff = FIRST_BACKOFF
        while self.closed is None and self.error is None:
            before = self.next_round
            try:
                await self._call()
            except TransportError as error:
                await self._lost(error)
            except GlsnetError as error:
                self.error = error
            self._feeding.look()
            if self.closed is None and self.error is None:
                backoff = FIRST_BACKOFF if self.next_round > before else min(2 * backoff, LAST_BACKOFF)
                await asyncio.sleep(backoff)

    async def _lost(self, error: TransportError) -> None:
        """Of a party that never opened the session, or of an encoder that does not come back, the run must know."""
        self.trouble = error
        overdue = asyncio.get_running_loop().time() - self.progress > self._feeding.patience
        if self.decoder is None and (overdue or not self.opened):
            self.error = error
        elif not self.opened and not self._feeding.late(self.decoder):
            self.error = error

    async def _call(self) -> None:
        self.calls += 1
        async with self.conduct(self._feeding.resume(self)) as conductor:
            start = await conductor.opened()
            self.opened, self.trouble = True, None
            self._feeding.look()
            sending = asyncio.create_task(self._send(conductor, start))
            try:
                while not isinstance(report := await conductor.outcomes_or_closed(), Closed):
                    self._take(report)
                self.closed = report
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, conductor: Conductor, first_round: int) -> None:
        async for frame in self._feeding.frames_from(first_round):
            await conductor.send(frame.a if self.decoder is None else np.ascontiguousarray(frame.t[:, self.decoder]))
        await conductor.end()

    def _take(self, outcomes: Outcomes) -> None:
        end = outcomes.first_round + outcomes.message.size
        if end <= self.next_round:
            self.repeated += outcomes.message.size
            return
        self.next_round = end
        self.progress, self.trouble = asyncio.get_running_loop().time(), None
        if outcomes.first_round >= self._feeding.next_round:
            self.outcomes[outcomes.first_round] = outcomes
            self.missing = False
        self._feeding.look()


class Feeding:
    """All parties of one run."""

    def __init__(self, frames: Frames, conducts: list[Conduct], patience: float, late: frozenset[int],
                 every: float = 0.0) -> None:
        """`conducts` make the calls of the encoder and of each decoder; `late` are decoders that nobody waits for.

        `every` is the time from one frame to the next, seconds.
        """
        self.patience, self._late, self._every = patience, late, every
        self._since: float | None = None  # when the first frame was there
        self.encoder = Feed(self, conducts[0], None)
        self.decoders = [Feed(self, conduct, k) for k, conduct in enumerate(conducts[1:])]
        self.next_round = 0  # of the next frame to take
        self.gaps: list[Gap] = []
        self._frames, self._source = frames, frames()
        self._kept: deque[Frame] = deque()
        self._first = 0  # number of the first frame that is kept
        self._rounds = 0  # in all frames that were made
        self._taken = 0  # frames
        self._changed = asyncio.Event()

    def late(self, decoder: int | None) -> bool:
        """Whether a decoder is to start late."""
        return decoder in self._late

    def look(self) -> None:
        """Something has changed."""
        self._changed.set()

    def resume(self, feed: Feed) -> Resume:
        """How a party begins, or goes on. An encoder without a journal has to code what any decoder still lacks."""
        if feed.decoder is not None:
            return Resume(feed.next_round, self.patience)
        started = [each.next_round for each in self.decoders if not each.missing]
        wait_for = len(self.decoders) - len(self._late) if not feed.opened else 1
        return Resume(min([feed.next_round, *started]), self.patience, max(1, wait_for))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All parties are at work, or, if they are late, will be."""
        tasks = [asyncio.create_task(self.encoder.run())]
        try:
            await self._until(lambda: self.encoder.opened, self.encoder)
            tasks += [asyncio.create_task(feed.run()) for feed in self.decoders]
            for feed in self.decoders:
                if not self.late(feed.decoder):
                    await self._until(lambda: feed.opened, feed)  # noqa: B023
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def taken(self) -> AsyncIterator[tuple[Frame, Outcomes, list[Outcomes]]]:
        """Frame by frame: samples, what the encoder drew, and each decoder, or `absent` outcomes.

        Raises:
            GlsnetError: a party has failed, the encoder has not come back, or no decoder is left.
        """
        while (frame := self._frame(self._taken)) is not None:
            loop = asyncio.get_running_loop()
            y = await self._outcomes(self.encoder, frame.first_round, loop.time())
            assert y is not None
            since = loop.time()
            x = [await self._outcomes(feed, frame.first_round, since) for feed in self.decoders]
            present = [each for each in x if each is not None]
            if not present:
                raise TransportError(f"decoders: expected at least one to give outcomes of round {frame.first_round} "
                                     f"within {self.patience:g} s, none did{self._troubles()}")
            if any(not np.array_equal(each.message, y.message) for each in present):
                raise FrameError(f"round {y.first_round}: a decoder took other indices than the encoder sent")
            for k, each in enumerate(x):
                if each is None:
                    add_gap(self.gaps, k, y.first_round, y.message.size)
            self._taken += 1
            self.next_round += y.message.size
            while self._first < self._taken:
                self._kept.popleft()
                self._first += 1
            self.look()
            like = present[0].reconstruction
            yield frame, y, [each or absent(y, like) for each in x]

    async def closings(self) -> tuple[Closed | None, list[Closed | None]]:
        """The end of the session at each party, the encoder first.

        None of a decoder that is missing, or of a party whose call was lost after all its outcomes had come: the others
        have closed the session, and it cannot take part in it again.
        """
        since = asyncio.get_running_loop().time()
        with suppress(TransportError):
            while self.encoder.closed is None:  # which waits as long itself for decoders that are behind
                last = max(since, *(feed.progress for feed in self.decoders))
                await self._wait(self.encoder, last + self.patience)
        since = asyncio.get_running_loop().time()
        for feed in self.decoders:
            while feed.closed is None and not feed.missing and feed.error is None:
                if feed.next_round == self.next_round and feed.trouble is not None:
                    break
                await self._wait(feed, since)
        return self.encoder.closed, [feed.closed for feed in self.decoders]

    async def frames_from(self, first_round: int) -> AsyncIterator[Frame]:
        """Every frame from the one with a round on, WINDOW ahead of what is taken at most."""
        number = self._number_of(first_round)
        behind = islice(self._frames(), number, None) if number < self._first else None
        rounds = first_round
        while True:
            await self._until(lambda: number < self._taken + WINDOW, None)  # noqa: B023
            if behind is None:
                frame = self._frame(number)
            else:
                found = next(behind, None)
                frame = None if found is None else Frame(rounds, *found)
            if frame is None:
                return
            if self._every:
                self._since = asyncio.get_running_loop().time() if self._since is None else self._since
                await asyncio.sleep(self._since + number * self._every - asyncio.get_running_loop().time())
            yield frame
            number, rounds = number + 1, rounds + len(frame.a)
            if behind is None and number < self._first:  # all others have gone on without it
                behind = islice(self._frames(), number, None)

    def _number_of(self, first_round: int) -> int:
        """Of the frame that begins with a round."""
        if first_round >= (self._kept[0].first_round if self._kept else self._rounds):
            return self._first + sum(frame.first_round < first_round for frame in self._kept)
        rounds = 0
        for number, (a, _) in enumerate(self._frames()):
            if rounds >= first_round:
                return number
            rounds += len(a)
        raise AssertionError("frames that were taken once are there")

    def _frame(self, number: int) -> Frame | None:
        """A frame that is kept, or the next ones made."""
        while number >= self._first + len(self._kept):
            if (made := next(self._source, None)) is None:
                return None
            self._kept.append(Frame(self._rounds, *made))
            self._rounds += len(made[0])
        return self._kept[number - self._first]

    async def _outcomes(self, feed: Feed, first_round: int, since: float) -> Outcomes | None:
        """A party's outcomes of a frame; None if it is missing."""
        while first_round not in feed.outcomes:
            if feed.decoder is not None and (feed.missing or feed.next_round > first_round or feed.closed):
                return None
            await self._wait(feed, since)
        return feed.outcomes.pop(first_round)

    async def _until(self, condition: Callable[[], bool], feed: Feed | None) -> None:
        while not condition():
            if feed is not None and feed.error is not None:
                raise feed.error
            self._changed.clear()
            await self._changed.wait()

    async def _wait(self, feed: Feed, since: float) -> None:
        """Wait for a change; a party that has been waited for too long, `since` or longer, is missing, or an error."""
        if feed.error is not None:
            raise feed.error
        deadline = max(feed.progress, since) + self.patience
        try:
            async with asyncio.timeout_at(deadline):
                self._changed.clear()
                await self._changed.wait()
        except TimeoutError:
            if feed.decoder is None:
                raise TransportError(f"encoder: expected outcomes within {self.patience:g} s, got none"
                                     f"{self._troubles()}") from None
            feed.missing = True

    def _troubles(self) -> str:
        """What has gone wrong at each party that gives no outcomes."""
        return "".join(f"; {feed.trouble}" for feed in (self.encoder, *self.decoders) if feed.trouble is not None)


def absent(y: Outcomes, like: Samples | None) -> Outcomes:
    """In the place of outcomes that did not come: they match nothing, and reconstruct NaN."""
    nowhere = np.full(y.message.size, -1, np.int64)
    nothing = None if like is None else np.full(like.shape, np.nan, like.dtype)
    return Outcomes(y.first_round, y.message, nowhere, nowhere, nothing)
