"""The target of speculative decoding as sans-I/O sessions: frames in, frames out; no socket, clock or loop.

    TargetSession   the encoder: join and receive as any host; begin(Request) -> Generation
    Generation      one request: outgoing frames; ready; step() -> Piece or nothing; finished
    introduce, generate    target and drafters in one process, frames handed over as bytes

The drafters' side is in `drafting`.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from glsnet import bits, rows
from glsnet.drafting import SESSION, Clock, DraftSession, block_length, request_key, terms_of
from glsnet.errors import CallerError, FrameError, PeerError, TermsError, TransportError
from glsnet.frames import (
    NO_TRAFFIC,
    Done,
    Frame,
    Join,
    OfRequest,
    Prompt,
    Row,
    Spent,
    Terms,
    Tokens,
    Wanted,
    bytes_of,
    carried,
    checksum_of,
    to_bytes,
)
from glsnet.generation import Finished, Piece, Request, Writer
from glsnet.joining import Host
from glsnet.language.models import LanguageModel
from glsnet.language.sampling import Sampling
from glsnet.race import FloatArray, IntArray
from glsnet.verification import (
    MAX_DRAFTS,
    RATIOS,
    Block,
    Verified,
    verify,
)


class TargetSession(Host):
    """The target's side: which draft servers have joined, and the requests under way.

    A draft server is known by the first of its streams.
    """

    def __init__(self, model: LanguageModel, seed: bytes, streams: int, clock: Clock) -> None:
        """`streams` is how many there are to draft on: K of a request at most."""
        if not 1 <= streams <= MAX_DRAFTS:
            raise CallerError(f"streams: expected 1 to {MAX_DRAFTS}, got {streams}")
        super().__init__(SESSION, replace(terms_of(model, seed), decoders=streams))
        self.model = model
        self._seed, self._clock = seed, clock
        self._streams: dict[int, tuple[int, ...]] = {}
        self._generations: dict[int, Generation] = {}

    @property
    def complete(self) -> bool:
        """Whether every stream has a draft server that has agreed."""
        return self.drafting == self.decoders

    @property
    def drafting(self) -> int:
        """Streams with a draft server that has agreed."""
        return sum(len(streams) for streams in self._agreed().values())

    def join(self, join: Join) -> Terms:
        """Admit a draft server; raises TermsError if it expects other terms, or a stream is taken or out of range."""
        taken = {k for streams in self._streams.values() for k in streams}
        streams = join.streams or tuple(k for k in range(self.decoders) if k not in taken)[:1]
        if not streams or not {*streams} <= {*range(self.decoders)} - taken or len({*streams}) < len(streams):
            raise TermsError(f"streams: expected some of {sorted({*range(self.decoders)} - taken)}, those of 0 to "
                             f"{self.decoders - 1} that are free, got {list(join.streams) or 'another draft server'}")
        terms = super().join(replace(join, stream=streams[0]))
        self._streams[streams[0]] = streams
        return terms

    def receive(self, stream: int, frame: Frame) -> None:
        """A frame of a draft server's; what is wrong with it is an error of its request, too.

        Raises:
            FrameError: it is none that this draft server can send now.
        """
        if not isinstance(frame, Tokens | Row | Spent):
            return super().receive(stream, frame)
        generation = self._generations.get(frame.request)
        if generation is None:
            raise FrameError(f"{type(frame).__name__.lower()}: expected a request under way, got {frame.request}")
        try:
            generation.receive(stream, frame)
        except PeerError as error:
            generation.failed = error
            raise
        self._free_numbers()

    def leave(self, stream: int) -> None:
        """Go on without a draft server."""
        super().leave(stream)
        self._streams.pop(stream, None)
        for generation in self._generations.values():
            generation.leave(stream)
        self._free_numbers()

    def begin(self, request: Request) -> "Generation":
        """Begin a request, with the draft servers that are there; `end` it whatever comes of it.

        Raises:
            CallerError: the target cannot do it.
        """
        if request.drafts > self.decoders:
            raise CallerError(f"drafts: expected K up to {self.decoders}, the target's streams, got {request.drafts}")
        number = next(n for n in range(len(self._generations) + 1) if n not in self._generations)  # small: few bytes
        key = request_key(self._seed, request.seed)
        servers = {} if request.scheme == "none" else self._agreed()
        self._generations[number] = Generation(number, request, self.model, key, servers, self._clock)
        return self._generations[number]

    def end(self, generation: "Generation") -> None:
        """A request is over; if it was not finished, it is stopped. Send what is outgoing, then."""
        if not generation.finished.reason:
            generation.stop("failed")
        generation.over = True
        self._free_numbers()

    def _free_numbers(self) -> None:
        """Of requests that are over, once no answer to them is under way any more."""
        for number in [n for n, each in self._generations.items() if each.over and each.settled]:
            del self._generations[number]

    def _agreed(self) -> dict[int, tuple[int, ...]]:
        return {first: streams for first, streams in self._streams.items()
                if self.acknowledged.get(first) is not None}


class Generation:
    """One request at the target: block after block, drafts in, accepted tokens out.

    Attributes:
        number: by which the request is known in frames.
        outgoing: (draft server, frame), in this order.
        finished: how it went so far; `reason` is set once no more tokens come.
        failed: why the request cannot go on.
        over: nobody waits for it any more.
    """

    def __init__(self, number: int, request: Request, model: LanguageModel, key: np.uint64,
                 servers: dict[int, tuple[int, ...]], clock: Clock) -> None:
        """Raises CallerError if the prompt does not leave room for a token in the target's context."""
        prompt = model.tokenizer.encode(request.prompt)
        if len(prompt) >= model.context:
            raise CallerError(f"prompt: expected at most {model.context - 1} tokens, which leaves one of the target's "
                              f"context, got {len(prompt)}; shorten it")
        self.number, self.finished = number, Finished()
        self.failed: PeerError | None = None
        self.over = False
        self.outgoing: deque[tuple[int, OfRequest]] = deque()
        self._request, self._model, self._key, self._clock = request, model, key, clock
        self._max_tokens = min(request.max_tokens, model.context - len(prompt))
        self._streams = {first: tuple(k for k in streams if k < request.drafts) for first, streams in servers.items()}
        self._streams = {first: streams for first, streams in self._streams.items() if streams}
        self._cache = model.begin()
        self._cache.advance(prompt)
        self._writer = Writer(model.tokenizer, request.stop)
        self._width = bits.width_of(model.vocabulary)
        self._position = len(prompt)
        self._block = _Block()
        self._unsettled = {*self._streams}  # draft servers that have yet to say what they spent
        self._waiting: set[int] = set()  # those whose answer `step` needs
        self._gone: set[int] = set()  # those that were lost
        self.finished.drafted, self.finished.accepted = [0] * request.length, [0] * request.length
        self._since = clock()
        self._asked: float | None = None
        self._begin(prompt)

    @property
    def draft_servers(self) -> int:
        """How many take part."""
        return len(self._streams)

    @property
    def ready(self) -> bool:
        """Whether `step` has what it needs: the drafts of all draft servers that are there, or the row it wanted."""
        return self.failed is not None or self._waiting <= self._gone

    @property
    def settled(self) -> bool:
        """Whether every draft server that is there has said what the request took."""
        return self._unsettled <= self._gone

    def receive(self, server: int, frame: Tokens | Row | Spent) -> None:
        """A draft server's answer; raises FrameError if it is not the one that is waited for, or damaged."""
        if self.finished.reason and not isinstance(frame, Spent):
            return  # it was under way when the request was stopped
        if server not in self._streams:
            raise FrameError(f"{type(frame).__name__.lower()}: expected nothing for request {frame.request} from the "
                             f"draft server of stream {server}")
        match frame:
            case Spent():
                self._spent(server, frame)
            case Tokens():
                self._drafts(server, frame)
            case Row():
                self._row(server, frame)
        self._answered()

    def leave(self, server: int) -> None:
        """Go on without a draft server, from the next block on that is not verified yet."""
        self._gone.add(server)
        self._answered()

    def to_send(self) -> Iterator[tuple[int, OfRequest]]:
        """What is outgoing, each frame once, but for those to draft servers that were lost."""
        while self.outgoing:
            server, frame = self.outgoing.popleft()
            if server not in self._gone:
                yield server, frame

    def step(self) -> Piece | None:
        """Verify the block; what came of it, or nothing if a row is wanted first, and asked for.

        Raises:
            CallerError: the scheme cannot have these drafts, or the model's logits are none.
            TransportError: a draft server was lost whose distribution is needed.
            PeerError: see `failed`.
        """
        if self.failed is not None:
            raise self.failed
        since = self._clock()
        if self._block.wanted is not None:  # then it will not come: to go on without its draft, because of what came
            k, _ = self._block.wanted  # of its test, would be no exact sample any more
            raise TransportError(f"draft server of stream {k}: lost when its distribution was needed, without which "
                                 f"scheme {self._request.scheme} cannot draw the next token; ask again")
        if self._block.q is None:
            for server in self._gone & {*self._streams}:
                for k in self._streams.pop(server):
                    self._block.drafts.pop(k, None)
        try:
            streams = sorted(self._block.drafts)
            verified = self._verified(streams)
        except _Missing as missing:
            self._want(streams[missing.draft], missing.depth)
            return None
        finally:
            self.finished.verify_seconds += self._clock() - since
        return self._accept(verified)

    def stop(self, reason: str) -> None:
        """No more tokens; draft servers are told."""
        self.finished.reason = reason
        self.finished.seconds = self._clock() - self._since
        self._waiting, self._asked = set(), None
        self.outgoing.extend((server, Done(self.number)) for server in self._streams)

    def _begin(self, prompt: Sequence[int]) -> None:
        request, packed = self._request, bits.pack(np.array(prompt, np.int64), self._width)
        sampling = request.draft_sampling
        frame = Prompt(self.number, request.seed, request.scheme, request.drafts, request.length, self._max_tokens,
                       tuple(each.temperature for each in sampling), sampling[0].top_k, sampling[0].top_p, len(prompt),
                       packed, checksum_of(0, len(prompt), packed))
        self.finished.context = len(to_bytes(frame)) * len(self._streams)
        self.outgoing.extend((server, frame) for server in self._streams)
        self._next_block()

    def _next_block(self) -> None:
        length = block_length(self._request.length, self._max_tokens, self.finished.tokens)
        self._block = _Block(length)
        self._ask({*self._streams} if length > 0 else set())

    def _ask(self, servers: set[int]) -> None:
        self._waiting = servers
        self._asked = self._clock() if servers else None
        self.finished.round_trips += bool(servers)

    def _answered(self) -> None:
        if self.ready and self._asked is not None:
            self.finished.wait_seconds += self._clock() - self._asked
            self._asked = None

    def _drafts(self, server: int, frame: Tokens) -> None:
        streams, length = self._streams[server], self._block.length
        if frame.kind != "drafts" or server not in self._waiting or self._block.wanted is not None:
            raise FrameError(f"{frame.kind}: expected none from the draft server of stream {server} now, got some of "
                             f"position {frame.position}")
        if frame.position != self._position:
            raise FrameError(f"drafts of stream {server}: expected position {self._position}, got {frame.position}")
        count = len(streams) * length if frame.packed else 0
        try:
            tokens = bits.unpack(frame.checked(), count, self._width)
        except FrameError as error:
            raise FrameError(f"drafts of stream {server}: expected {len(streams)} of {length} tokens; {error}"
                             ) from error
        if (tokens >= self._model.vocabulary).any():
            raise FrameError(f"drafts of stream {server}: expected tokens from 0 to {self._model.vocabulary - 1}, got "
                             f"{tokens.max()}")
        expected = 4 * count if self._request.scheme in RATIOS else 0
        if len(frame.probabilities) != expected:
            raise FrameError(f"drafts of stream {server}: expected {expected} bytes of p(x) for {count} tokens in "
                             f"scheme {self._request.scheme}, got {len(frame.probabilities)}")
        singles = np.frombuffer(frame.probabilities, "<f4").astype(np.float64)
        if not ((singles > 0) & (singles <= 1)).all():
            raise FrameError(f"drafts of stream {server}: expected p(x) above 0 and up to 1, got {singles.min()!r} to "
                             f"{singles.max()!r}")
        for at, k in enumerate(streams if count else ()):
            self._block.drafts[k] = tokens[at * length : (at + 1) * length]
            self._block.singles[k] = singles[at * length : (at + 1) * length]
        self._waiting.discard(server)
        self.finished.tokens_sent += tokens.size
        self.finished.probabilities_sent += singles.size
        self.finished.information_up += tokens.size * self._width + 8 * len(frame.probabilities)

    def _row(self, server: int, frame: Row) -> None:
        asked = (self._position, *(self._block.wanted or (-1, -1)))
        if server not in self._waiting or (frame.position, frame.stream, frame.depth) != asked:
            raise FrameError(f"row: expected that of {self._block.wanted or 'nothing'} at {self._position}, got "
                             f"{frame.stream, frame.depth} at {frame.position}")
        p = rows.unpack(frame.checked(), frame.count, self._model.vocabulary)
        self._block.rows[frame.stream, frame.depth] = p
        self._block.wanted = None
        self._waiting.discard(server)
        self.finished.rows_sent += 1
        self.finished.information_up += frame.count * self._width + 16 * (frame.count or self._model.vocabulary)

    def _spent(self, server: int, frame: Spent) -> None:
        if server not in self._unsettled or not self.finished.reason:
            raise FrameError(f"spent: expected it once, after done, from the draft server of stream {server}")
        self._unsettled.discard(server)
        finished = self.finished
        finished.draft_seconds = max(finished.draft_seconds, frame.seconds)
        finished.down += frame.down
        finished.up += frame.up
        finished.alone &= frame.alone

    def _verified(self, streams: list[int]) -> Verified:
        """The block through the model and the scheme; raises _Missing if a row of p is needed that is not there."""
        block, request = self._block, self._request
        tokens = np.array([block.drafts[k] for k in streams]) if streams else np.zeros((1, 0), np.int64)
        paths = [tuple(draft) for draft in tokens.tolist()]
        if block.q is None:
            prefixes = [*dict.fromkeys(path[:j] for path in paths for j in range(len(path) + 1))]
            block.q = _Processed(dict(zip(prefixes, self._cache.logits(prefixes), strict=True)), request.sampling)
        length = tokens.shape[1]
        return verify(request.scheme, self._key, Block(
            self._position, tokens,
            [_Lazy(length + 1, partial(block.q.along, path)) for path in paths],
            [_Lazy(length, partial(block.row, k, draft)) for draft, k in enumerate(streams or [0])],
            np.array([block.singles[k] for k in streams]) if streams and request.scheme in RATIOS else None,
            streams or [0], request.drafts,
        ))

    def _want(self, stream: int, depth: int) -> None:
        server = next(first for first, streams in self._streams.items() if stream in streams)
        self._block.wanted = stream, depth
        self.outgoing.append((server, Wanted(self.number, self._position, stream, depth)))
        self._ask({server})

    def _accept(self, verified: Verified) -> Piece:
        """Text, up to where it ends; the next block, or the end."""
        finished, end = self.finished, self._model.tokenizer.end
        agreed = [*map(len, verified.alive[1:]), 0]
        text, tokens, reason = "", list[int](), ""
        for token in verified.tokens:
            tokens.append(token)
            if token in end:
                reason = "end"
                break
            new, stopped = self._writer.write(token)
            text += new
            if stopped:
                reason = "stop"
                break
        finished.blocks += 1
        for depth in range(min(len(verified.tokens), self._block.length if self._block.drafts else 0)):
            finished.drafted[depth] += 1
            finished.accepted[depth] += depth < len(verified.tokens) - 1
        finished.tokens += len(tokens)
        if not reason and finished.tokens >= self._max_tokens:
            reason = "length"
        if reason:
            if reason != "stop":
                rest, stopped = self._writer.flush()
                text, reason = text + rest, "stop" if stopped else reason
            self.stop(reason)
        else:
            packed = bits.pack(np.array(tokens), self._width)
            frame = Tokens.of("accepted", self.number, self._position, len(tokens), packed)
            self.outgoing.extend((server, frame) for server in self._streams)
            finished.information_down += len(tokens) * self._width * len(self._streams)
            self._cache.advance(tokens)
            self._position += len(tokens)
            self._next_block()
        return Piece(text, tokens, agreed[: len(tokens)])


class _Block:
    """What is known of the block under way; drafts and p(x) by stream, rows by stream and depth."""

    def __init__(self, length: int = 0) -> None:
        self.length = length
        self.drafts: dict[int, IntArray] = {}
        self.singles: dict[int, FloatArray] = {}
        self.rows: dict[tuple[int, int], FloatArray] = {}
        self.wanted: tuple[int, int] | None = None
        self.q: _Processed | None = None

    def row(self, stream: int, draft: int, depth: int) -> FloatArray:
        """The row of a stream at a depth; raises _Missing if it has not come."""
        if (stream, depth) not in self.rows:
            raise _Missing(draft, depth)
        return self.rows[stream, depth]


class _Missing(Exception):
    """A row of p that verification reads, and that has not come."""

    def __init__(self, draft: int, depth: int) -> None:
        self.draft, self.depth = draft, depth


class _Lazy(Sequence[ArrayLike]):
    """Rows that are made when they are read."""

    def __init__(self, length: int, row: Callable[[int], ArrayLike]) -> None:
        self._length, self._row = length, row

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, at: Any) -> Any:
        return self._row(at)


class _Processed:
    """q after each prefix, made of the logits when it is read."""

    def __init__(self, logits: dict[tuple[int, ...], FloatArray], sampling: Sampling) -> None:
        self._logits, self._sampling = logits, sampling
        self._done: dict[tuple[int, ...], FloatArray] = {}

    def along(self, path: tuple[int, ...], depth: int) -> FloatArray:
        """q after the first `depth` tokens of a path."""
        prefix = path[:depth]
        if prefix not in self._done:
            self._done[prefix] = self._sampling.probabilities(self._logits[prefix])
        return self._done[prefix]


def introduce(target: TargetSession, drafter: DraftSession) -> None:
    """Have a drafter join a target in this process; raises TermsError if they do not go together."""
    agreed = drafter.agree(carried(target.join(carried(drafter.join())[0]))[0])
    target.receive(drafter.stream, carried(agreed)[0])


def generate(target: TargetSession, drafters: Sequence[DraftSession], request: Request) -> Iterator[Piece | Finished]:
    """Run a request in this process, with drafters that were introduced: pieces as they come, then how it went.

    Raises:
        CallerError: the target cannot do it.
    """
    generation = target.begin(request)
    at = {drafter.stream: drafter for drafter in drafters}
    counts = {stream: [NO_TRAFFIC] * 2 for stream in at}  # down, up
    try:
        while not generation.settled or not generation.finished.reason:
            for server, sent in generation.to_send():
                frame, size = carried(sent)
                if isinstance(frame, Done):
                    down, up = counts[server]
                    target.receive(server, Spent(frame.request, at[server].done(frame), down, up, True))
                    continue
                if not isinstance(frame, Prompt):
                    counts[server][0] += bytes_of(frame, size)
                for answer in at[server].receive(frame):
                    arrived, size = carried(answer)
                    counts[server][1] += bytes_of(arrived, size)
                    target.receive(server, arrived)
            if not generation.finished.reason and (piece := generation.step()) is not None:
                yield piece
        yield generation.finished
    finally:
        for drafter in drafters:
            drafter.done(Done(generation.number))
            generation.leave(drafter.stream)
        target.end(generation)
