"""The target of speculative decoding as sans-I/O sessions: frames in, frames out; no socket, clock or loop.

    TargetSession   the encoder: join and receive as any host; begin(Request) -> Generation
    Generation      one request: outgoing frames; ready or overdue; verify() -> accept() -> Piece or nothing; finished
    introduce, generate    target and drafters in one process, frames handed over as bytes

The drafters' side is in `drafting`.

Draft servers may come, go and be slow as they like. One that joins while requests are under way gets the text of each
so far, and takes part; one that has left is forgotten; one whose answer does not come within `patience` is late: it is
told nothing more until it answers, then all at once, and is not waited for until an answer comes in time. So a block is
verified with the drafts of those that are in step. Which these are depends on time, and on text that is certain, never
on noise at positions still to come; so each scheme's law is what it is with as many drafters.
"""

import math
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from glsnet import bits, rows
from glsnet.drafting import SESSION, Clock, DraftSession, block_length, request_key, terms_of
from glsnet.errors import CallerError, FrameError, TermsError, TransportError
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
    Traffic,
    Wanted,
    bytes_of,
    carried,
    checksum_of,
    to_bytes,
)
from glsnet.generation import Finished, Mark, Piece, Request, Writer
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

MAX_SPENT = 1 << 48  # bytes that a draft server can say a request took: sums of them stay within 64 bits


class TargetSession(Host):
    """The target's side: which draft servers have joined, and the requests under way.

    A draft server is known by the first of its streams.
    """

    def __init__(self, model: LanguageModel, seed: bytes, streams: int, clock: Clock, patience: float | None = None,
                 timeline: bool = False) -> None:
        """A target that no draft server has joined.

        Args:
            model: the target's.
            seed: that all parties share.
            streams: how many there are to draft on: K of a request at most.
            clock: seconds.
            patience: seconds that a block waits for draft servers; None: as long as they are there.
            timeline: whether generations keep one.

        Raises:
            CallerError: `streams` is out of range.
        """
        if not 1 <= streams <= MAX_DRAFTS:
            raise CallerError(f"streams: expected 1 to {MAX_DRAFTS}, got {streams}")
        super().__init__(SESSION, replace(terms_of(model, seed), decoders=streams))
        self.model = model
        self._seed, self._clock, self._patience, self._timeline = seed, clock, patience, timeline
        self._streams: dict[int, tuple[int, ...]] = {}
        self._generations: dict[int, Generation] = {}

    @property
    def complete(self) -> bool:
        """Whether every stream has a draft server that has agreed."""
        return self.drafting == self.decoders

    @property
    def drafting(self) -> int:
        """Streams with a draft server that has agreed."""
        return sum(len(self._streams[first]) for first in self._agreed())

    def join(self, join: Join, closed: Container[int] = ()) -> Terms:
        """Admit a draft server; one that has joined before gets its streams back, and what it came by is over.

        Raises:
            TermsError: it expects other terms, or a stream is taken or out of range.
        """
        own = next((first for first, party in self._parties.items() if party and party == join.party), None)
        if own not in (join.streams[:1] or (own,)):
            own = None
        taken = {k for first, streams in self._streams.items() if first != own for k in streams}
        free = [k for k in range(self.decoders) if k not in taken and k not in closed]
        streams = join.streams or ((own,) if own in free and own is not None else tuple(free[:1]))
        if not streams or not {*streams} <= {*free} or len({*streams}) < len(streams):
            raise TermsError(f"streams: expected some of {free}, those of 0 to {self.decoders - 1} that are free, got "
                             f"{list(join.streams) or 'another draft server'}")
        terms = super().join(replace(join, stream=streams[0]), closed)
        self._forget(streams[0])
        self._streams[streams[0]] = streams
        return terms

    def receive(self, stream: int, frame: Frame) -> None:
        """A frame of a draft server's. One that has agreed, or is late no more, takes part in all requests under way.

        Raises:
            FrameError: it is none that this draft server can send now; requests go on once it has left.
        """
        if isinstance(frame, Tokens | Row | Spent):
            generation = self._generations.get(frame.request)
            if generation is None:
                raise FrameError(f"{type(frame).__name__.lower()}: expected a request under way, got {frame.request}")
            generation.receive(stream, frame)
            self._free_numbers()
        else:
            super().receive(stream, frame)
        if stream in self._in_time():
            for generation in self._generations.values():
                generation.admit(stream, self._streams[stream], self._parties[stream])

    def leave(self, stream: int) -> None:
        """Go on without a draft server."""
        super().leave(stream)
        self._forget(stream)

    def outgoing(self, stream: int) -> Frame | None:
        """As any host; requests have something to say, too."""
        for generation in self._generations.values():
            for server, frame in generation.to_send():
                self.say_to(server, frame)
        return super().outgoing(stream)

    def begin(self, request: Request) -> "Generation":
        """Begin a request, with the draft servers that are there and not late; `end` it whatever comes of it.

        Raises:
            CallerError: the target cannot do it.
        """
        if request.drafts > self.decoders:
            raise CallerError(f"drafts: expected K up to {self.decoders}, the target's streams, got {request.drafts}")
        number = next(n for n in range(len(self._generations) + 1) if n not in self._generations)  # small: few bytes
        key = request_key(self._seed, request.seed)
        servers = [(first, self._streams[first], self._parties[first]) for first in self._in_time()]
        generation = Generation(number, request, self.model, key, servers, self._clock, self._patience, self._timeline)
        self._generations[number] = generation
        return generation

    def end(self, generation: "Generation") -> None:
        """A request is over; if it was not finished, it is stopped. Send what is outgoing, then."""
        if not generation.finished.reason:
            generation.stop("failed")
        generation.over = True
        self._free_numbers()

    def _forget(self, server: int) -> None:
        self._streams.pop(server, None)
        for generation in self._generations.values():
            generation.leave(server)
        self._free_numbers()

    def _free_numbers(self) -> None:
        """Of requests that are over, once no answer to them is under way any more."""
        for number in [n for n, each in self._generations.items() if each.over and each.answered]:
            del self._generations[number]

    def _agreed(self) -> list[int]:
        return [first for first in self._streams if self.acknowledged.get(first) is not None]

    def _in_time(self) -> list[int]:
        """Those that no request has given up: what they have to answer must not pile up."""
        generations = self._generations.values()
        return [server for server in self._agreed() if not any(each.given_up(server) for each in generations)]


@dataclass
class _Server:
    """A draft server that takes part in a request.

    Attributes:
        streams: on which it drafts, J of them.
        party: whose it is.
        told: the position up to which it has been told the text.
        since: when it was told of the first block that it has not answered, or has last answered another.
        owes: whether it has yet to answer the last that it was told.
        late: it is not waited for.
        spent: it has said what the request took.
        ahead: its drafts by position, beyond the block under way, on suppositions that may still be right.
        root, supposed, first, next: of its last drafts: they go on from the text up to `root` and then `supposed`; the
            drafts on its first stream; and where drafts ahead of these begin.
    """

    streams: tuple[int, ...]
    party: bytes
    told: int
    since: float
    owes: bool
    late: bool = False
    spent: bool = False
    ahead: "dict[int, _Drafts]" = field(default_factory=dict)
    root: int = 0
    supposed: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    next: int | None = None


class _Drafts(NamedTuple):
    """One draft server's drafts of a block, shape [J, L] each; L = 0 if it cannot draft."""

    by: _Server
    tokens: IntArray
    singles: FloatArray  # p(x), in schemes that test ratios; else of size 0


class Missing(NamedTuple):
    """A row of p that verification reads, and that has not come."""

    stream: int
    depth: int


class Generation:
    """One request at the target: block after block, drafts in, accepted tokens out.

    Of drafts at a position, these two are drafted on the target's own text, and nothing else is verified: those that
    suppose nothing, since a draft server knows of no other text, and a text up to a position is one; and those ahead
    whose suppositions, one after another since its last drafts without any, are what the text has there. That the
    position is right is not enough: many texts are as long. It does not matter what the server has been told when it
    drafts, so frames that cross on the way do no harm.

    Attributes:
        number: by which the request is known in frames.
        outgoing: (draft server, frame), in this order.
        finished: how it went so far; `reason` is set once no more tokens come.
        timeline: if it is kept, what happened when.
        over: nobody waits for it any more.
    """

    def __init__(self, number: int, request: Request, model: LanguageModel, key: np.uint64,
                 servers: Sequence[tuple[int, tuple[int, ...], bytes]], clock: Clock, patience: float | None,
                 timeline: bool) -> None:
        """Raises CallerError if the text so far is none, or does not fit into the target's context."""
        prompt = model.tokenizer.encode(request.prompt)
        if len(prompt) >= model.context:
            raise CallerError(f"prompt: expected at most {model.context - 1} tokens, which leaves one of the target's "
                              f"context, got {len(prompt)}; shorten it")
        if not all(0 <= token < model.vocabulary for token in request.made):
            raise CallerError(f"made: expected tokens from 0 to {model.vocabulary - 1}, got {list(request.made)[:10]}")
        if len(prompt) + len(request.made) > model.context:
            raise CallerError(f"made: expected at most {model.context - len(prompt)} tokens, as many as the target's "
                              f"context has room for, got {len(request.made)}")
        self.number, self.finished = number, Finished()
        self.timeline: list[Mark] | None = [] if timeline else None
        self.over = False
        self.outgoing: deque[tuple[int, OfRequest]] = deque()
        self._request, self._model, self._key, self._clock, self._patience = request, model, key, clock, patience
        self._text, self._origin = list(prompt), len(prompt)
        self._max_tokens = min(request.max_tokens, model.context - len(prompt))
        self._servers: dict[int, _Server] = {}
        self._cache = model.begin()
        self._writer = Writer(model.tokenizer, request.stop)
        self._width = bits.width_of(model.vocabulary)
        self._block = _Block()
        self._waiting: set[int] = set()  # draft servers that are waited for: for drafts, a row, or what was spent
        self.finished.drafted, self.finished.accepted = [0] * request.length, [0] * request.length
        self._since = clock()
        self._asked: float | None = None  # when those waited for were asked
        _, reason = self._write(request.made)
        if reason:
            self.stop(reason)
            return
        for server, streams, party in servers:
            self._prompt(server, streams, party, late=False)
        self._next_block()

    @property
    def draft_servers(self) -> int:
        """How many take part."""
        return len(self._servers)

    @property
    def ready(self) -> bool:
        """Whether `verify` has what it needs: drafts of all draft servers that are in step, or the row it wanted.

        With drafts ahead there, those of one are enough: the others have supposed something else, and to wait for them
        would take the time that drafting ahead has saved.
        """
        return not self._waiting or (self._block.ahead and not self.finished.reason)

    @property
    def settled(self) -> bool:
        """Whether the request is finished, and every draft server that is there, and in time, has said what it took."""
        return bool(self.finished.reason) and not self._waiting

    @property
    def answered(self) -> bool:
        """Whether all of them have."""
        return all(server.spent for server in self._servers.values())

    def given_up(self, at: int) -> bool:
        """Whether a draft server takes part, but is late, and has not answered what it was last told."""
        server = self._servers.get(at)
        return server is not None and server.late and not server.spent and self._overdue(server)

    @property
    def deadline(self) -> float | None:
        """Until when to wait before `expire`, by the target's clock; None if there is no end to it, or no need."""
        return None if self._patience is None or self._asked is None else self._asked + self._patience

    def expire(self) -> None:
        """The deadline has passed: those waited for are late, and a row that was wanted will not come."""
        for server in self._waiting & {*self._servers}:
            self._servers[server].late = True
        self._waiting = set()
        self._look()

    def receive(self, server: int, frame: Tokens | Row | Spent) -> None:
        """A draft server's answer; raises FrameError if it is none that it can give, or damaged."""
        if server not in self._servers:
            raise FrameError(f"{type(frame).__name__.lower()}: expected nothing for request {frame.request} from the "
                             f"draft server of stream {server}")
        match frame:
            case Spent():
                self._spent(server, frame)
            case Tokens():
                self._drafts(server, frame)
            case Row():
                self._row(server, frame)
        self._look()

    def admit(self, server: int, streams: tuple[int, ...], party: bytes) -> None:
        """A draft server has joined, or joined again: it is told all, and takes part as soon as it has answered.

        One that takes part already has nothing to be told. If a row is wanted of one that was lost, it is asked once
        more: what it has drafted it drafts again.
        """
        if self.finished.reason or server in self._servers:
            return
        self._prompt(server, streams, party, late=True)
        if self._block.wanted is not None and self._block.owner == server:
            self._ask_for_row()

    def leave(self, server: int) -> None:
        """Go on without a draft server, from the next block on that is not verified yet."""
        gone = self._servers.pop(server, None)
        if gone is None:
            return
        self.outgoing = deque((to, frame) for to, frame in self.outgoing if to != server)
        self._waste(*gone.ahead.values())
        if self._block.drafts is None and server in self._block.answers:
            self._waste(self._block.answers.pop(server))
        if self._block.wanted is None or self._patience is None:  # else it may come back
            self._waiting.discard(server)
        self._look()

    def to_send(self) -> Iterator[tuple[int, OfRequest]]:
        """What is outgoing, each frame once."""
        while self.outgoing:
            yield self.outgoing.popleft()

    def step(self) -> Piece | None:
        """`verify`, then `accept`."""
        return self.accept(self.verify())

    def verify(self) -> "Verified | Missing":
        """The block through the model and the scheme, with the drafts that are there; or which row is missing.

        Frames may be received meanwhile; drafts are then too late for this block.

        Raises:
            CallerError: the scheme cannot have these drafts, or the model's logits are none.
            TransportError: a draft server was lost whose distribution is needed.
        """
        since, block = self._clock(), self._block
        if block.wanted is not None:  # then it will not come: to go on without its draft, because of what came of its
            raise TransportError(  # test, would be no exact sample any more
                f"draft server of stream {block.wanted.stream}: lost when its distribution was needed, without which "
                f"scheme {self._request.scheme} cannot draw the next token; ask again")
        self._mark("verify")
        try:
            return self._verified()
        except _NotThere as error:
            return error.missing
        finally:
            self._mark("verified")
            self.finished.verify_seconds += self._clock() - since

    def accept(self, verified: "Verified | Missing") -> Piece | None:
        """Text, up to where it ends, and the next block, or the end; nothing if a row has to be asked for first."""
        finished, block, before = self.finished, self._block, len(self._text)
        if isinstance(verified, Missing):
            block.wanted = verified
            self._wait({block.owner} if self._ask_for_row() or self._patience is not None else set())
            return None
        agreed = [*map(len, verified.alive[1:]), 0]
        text, reason = self._write(verified.tokens)
        tokens = self._text[before:]
        for depth in range(min(len(verified.tokens), block.length if block.drafts else 0)):
            finished.drafted[depth] += 1
            finished.accepted[depth] += depth < len(verified.tokens) - 1
        finished.blocks += 1
        finished.tokens += len(tokens)
        if reason:
            if reason != "stop":
                rest, stopped = self._writer.flush()
                text, reason = text + rest, "stop" if stopped else reason
            self.stop(reason)
        else:
            for server in self._servers:
                self._tell(server)
            self._next_block()
        return Piece(text, tokens, agreed[: len(tokens)])

    def stop(self, reason: str) -> None:
        """No more tokens; draft servers are told."""
        self.finished.reason = reason
        self.finished.seconds = self._clock() - self._since
        if self._block.drafts is None:
            self._waste(*self._block.answers.values())
        for at, server in self._servers.items():
            self._waste(*server.ahead.values())
            server.ahead.clear()
            self.outgoing.append((at, Done(self.number)))
        self._wait({at for at, server in self._servers.items() if not server.late})

    # What draft servers are told.

    def _prompt(self, server: int, streams: tuple[int, ...], party: bytes, late: bool) -> None:
        request, sampling = self._request, self._request.draft_sampling
        streams = tuple(k for k in streams if k < request.drafts)
        if not streams or request.scheme == "none":
            return
        told, packed = len(self._text), bits.pack(np.array(self._text, np.int64), self._width)
        frame = Prompt(self.number, request.seed, request.scheme, request.drafts, request.length, self._max_tokens,
                       tuple(each.temperature for each in sampling), sampling[0].top_k, sampling[0].top_p, told, packed,
                       checksum_of(0, told, packed), told - self._origin, request.ahead)
        self._servers[server] = _Server(streams, party, told, self._clock(), True, late)
        self.finished.context += len(to_bytes(frame))
        self.outgoing.append((server, frame))
        self._mark("asked", server)

    def _tell(self, at: int) -> None:
        """What was accepted since a draft server was last told; nothing while one that is late owes an answer."""
        server = self._servers[at]
        if server.owes and self._overdue(server):
            server.late = True
        if server.owes and server.late:
            return
        tokens = self._text[server.told :]
        frame = Tokens.of("accepted", self.number, server.told, len(tokens), bits.pack(np.array(tokens), self._width))
        self.outgoing.append((at, frame))
        self._mark("asked", at)
        self.finished.information_down += len(tokens) * self._width
        if not server.owes:
            server.since = self._clock()
        server.told, server.owes = len(self._text), True

    def _ask_for_row(self) -> bool:
        """Ask for the row that is wanted, if whoever has drafted from it is there, or there again: it can be told."""
        wanted, at = self._block.wanted, self._block.owner
        assert wanted is not None
        drafter, server = self._block.answers[at].by, self._servers.get(at)
        if server is None or not (server is drafter or (server.party and server.party == drafter.party)):
            return False
        self.outgoing.append((at, Wanted(self.number, len(self._text), wanted.stream, wanted.depth)))
        self._mark("wanted", at)
        return True

    # What is waited for.

    def _next_block(self) -> None:
        at = len(self._text)
        self._block = _Block(block_length(self._request.length, self._max_tokens, at - self._origin))
        for number, server in self._servers.items():
            if not self._agrees(server):
                self._waste(*server.ahead.values())
                server.ahead.clear()
            for position in [position for position in server.ahead if position <= at]:
                drafts = server.ahead.pop(position)
                if position < at:
                    self._waste(drafts)
                else:
                    self._block.answers[number] = drafts
                    self._block.ahead = True
                    server.owes = server.told != at
        asked = {number for number, server in self._servers.items() if server.owes and not server.late}
        self._wait(asked if self._block.length > 0 else set())

    def _wait(self, servers: set[int]) -> None:
        self._waiting = servers
        self._asked = None if self.ready else self._clock()
        self.finished.round_trips += not self.ready and not self.finished.reason

    def _look(self) -> None:
        """Whether the wait is over."""
        if self.ready and self._asked is not None:
            if not self.finished.reason:
                self.finished.wait_seconds += self._clock() - self._asked
            self._asked = None

    # What comes from them.

    def _drafts(self, at: int, frame: Tokens) -> None:
        server, ahead, now = self._servers[at], frame.count > 0, len(self._text)
        tokens, singles = self._checked(at, frame)
        drafts = _Drafts(server, tokens[frame.count :].reshape(len(server.streams), -1), singles)
        if ahead:
            server.supposed += [*server.first, *tokens[: frame.count].tolist()]
        else:
            self._waste(*server.ahead.values())
            server.ahead.clear()
            server.root, server.supposed = frame.position, []
        length = drafts.tokens.shape[1]
        server.first, server.next = drafts.tokens[0].tolist(), frame.position + length + 1 if length else None
        self.finished.tokens_sent += drafts.tokens.size
        self.finished.probabilities_sent += singles.size
        self.finished.information_up += tokens.size * self._width + 8 * len(frame.probabilities)
        if self.finished.reason or not self._agrees(server):
            self._waste(drafts)
            return
        verified = frame.position == now and self._block.drafts is None and at not in self._block.answers
        if frame.position > now:
            server.ahead[frame.position] = drafts
        elif verified:
            self._block.answers[at] = drafts
            self._block.ahead |= ahead
            self._waiting.discard(at)
        else:
            self.finished.late_drafts += 1
            self._waste(drafts)
        self._mark("ahead" if frame.position > now else "drafts" if verified else "late", at)
        if frame.position < server.told:
            server.since = self._clock()  # it is slow, but it is there
        elif server.owes and frame.position == server.told:
            server.owes = False
            server.late &= not verified and self._overdue(server)
            if server.told < now:
                self._tell(at)

    def _checked(self, at: int, frame: Tokens) -> tuple[IntArray, FloatArray]:
        """Tokens, the supposed one first if there is one, and p(x) of those drafted; raises FrameError."""
        server, request, ahead = self._servers[at], self._request, frame.count > 0
        if frame.kind != "drafts":
            raise FrameError(f"{frame.kind}: expected none from the draft server of stream {at}, got some of position "
                             f"{frame.position}")
        if frame.count > min(request.ahead, 1):
            raise FrameError(f"drafts of stream {at}: expected up to {min(request.ahead, 1)} supposed tokens, got "
                             f"{frame.count}")
        if ahead and frame.position != server.next:
            raise FrameError(f"drafts of stream {at}: expected {server.next or 'none'} as the position of any ahead, "
                             f"got {frame.position}")
        if not ahead and frame.position > server.told:
            raise FrameError(f"drafts of stream {at}: expected position {server.told}, got {frame.position}")
        if frame.position > len(self._text) and len(server.ahead) == request.ahead:
            raise FrameError(f"drafts of stream {at}: expected up to {request.ahead} blocks ahead, got more")
        length = max(block_length(request.length, self._max_tokens, frame.position - self._origin), 0)
        count = len(server.streams) * length if frame.packed or ahead else 0
        try:
            tokens = bits.unpack(frame.checked(), frame.count + count, self._width)
        except FrameError as error:
            raise FrameError(f"drafts of stream {at}: expected {len(server.streams)} of {length} tokens; {error}"
                             ) from error
        if (tokens >= self._model.vocabulary).any():
            raise FrameError(f"drafts of stream {at}: expected tokens from 0 to {self._model.vocabulary - 1}, got "
                             f"{tokens.max()}")
        expected = 4 * count if request.scheme in RATIOS else 0
        if len(frame.probabilities) != expected:
            raise FrameError(f"drafts of stream {at}: expected {expected} bytes of p(x) for {count} tokens in scheme "
                             f"{request.scheme}, got {len(frame.probabilities)}")
        singles = np.frombuffer(frame.probabilities, "<f4").astype(np.float64)
        if not ((singles > 0) & (singles <= 1)).all():
            raise FrameError(f"drafts of stream {at}: expected p(x) above 0 and up to 1, got {singles.min()!r} to "
                             f"{singles.max()!r}")
        return tokens, singles

    def _agrees(self, server: _Server) -> bool:
        """Whether what a draft server has supposed is what the text has there, as far as it goes."""
        there = self._text[server.root : server.root + len(server.supposed)]
        return there == server.supposed[: len(there)]

    def _overdue(self, server: _Server) -> bool:
        return self._patience is not None and self._clock() - server.since > self._patience

    def _waste(self, *drafts: _Drafts) -> None:
        self.finished.wasted += sum(each.tokens.size for each in drafts)

    def _row(self, at: int, frame: Row) -> None:
        if self.finished.reason:
            return
        wanted = self._block.wanted
        if wanted is None or (at, frame.position, frame.stream, frame.depth) != (self._block.owner, len(self._text),
                                                                                 *wanted):
            raise FrameError(f"row: expected that of {tuple(wanted) if wanted else 'nothing'} at {len(self._text)}, "
                             f"got {frame.stream, frame.depth} at {frame.position}")
        self._block.rows[wanted] = rows.unpack(frame.checked(), frame.count, self._model.vocabulary)
        self._block.wanted = None
        self._waiting.discard(at)
        self._mark("row", at)
        self.finished.rows_sent += 1
        self.finished.information_up += frame.count * self._width + 16 * (frame.count or self._model.vocabulary)

    def _spent(self, at: int, frame: Spent) -> None:
        if self._servers[at].spent or not self.finished.reason:
            raise FrameError(f"spent: expected it once, after done, from the draft server of stream {at}")
        if not 0 <= frame.seconds < math.inf or max(*_numbers(frame.down), *_numbers(frame.up)) > MAX_SPENT:
            raise FrameError(f"spent: expected seconds, and up to {MAX_SPENT} bytes of each kind, from the draft "
                             f"server of stream {at}, got {frame}")
        self._servers[at].spent = True
        self._waiting.discard(at)
        finished = self.finished
        finished.draft_seconds = max(finished.draft_seconds, frame.seconds)
        finished.down += frame.down
        finished.up += frame.up
        finished.alone &= frame.alone

    # What becomes of it.

    def _verified(self) -> Verified:
        """The block through the model and the scheme; raises _NotThere if a row of p is needed that has not come."""
        block, request, drafts = self._block, self._request, self._block.sealed()
        streams = sorted(drafts)
        tokens = np.array([drafts[k][0] for k in streams]) if streams else np.zeros((1, 0), np.int64)
        paths = [tuple(draft) for draft in tokens.tolist()]
        if block.q is None:
            if new := self._text[self._cache.length :]:
                self._cache.advance(new)
            prefixes = [*dict.fromkeys(path[:j] for path in paths for j in range(len(path) + 1))]
            block.q = _Processed(dict(zip(prefixes, self._cache.logits(prefixes), strict=True)), request.sampling)
        length = tokens.shape[1]
        return verify(request.scheme, self._key, Block(
            len(self._text), tokens,
            [_Lazy(length + 1, partial(block.q.along, path)) for path in paths],
            [_Lazy(length, partial(block.row, k)) for k in streams or [0]],
            np.array([drafts[k][1] for k in streams]) if streams and request.scheme in RATIOS else None,
            streams or [0], request.drafts,
        ))

    def _write(self, new: Sequence[int]) -> tuple[str, str]:
        """The text goes on with these tokens, up to where it ends: what is certain now, and why it ends if it does."""
        text = ""
        for token in new:
            self._text.append(token)
            if token in self._model.tokenizer.end:
                return text, "end"
            written, stopped = self._writer.write(token)
            text += written
            if stopped:
                return text, "stop"
        return text, "length" if len(self._text) - self._origin >= self._max_tokens else ""

    def _mark(self, what: str, server: int = -1) -> None:
        if self.timeline is not None:
            self.timeline.append(Mark(self.finished.blocks, what, server, self._clock()))


def _numbers(traffic: Traffic) -> tuple[int, int, int, int]:
    return traffic.packed, traffic.protobuf, traffic.stream, traffic.ip or 0


class _Block:
    """What is known of the block under way.

    Attributes:
        length: L.
        answers: drafts by draft server.
        ahead: whether some of them were drafted ahead.
        drafts: once verification has begun, those that it is of: tokens and p(x), by stream.
        rows: of p, as far as they have come.
        wanted: the row that is waited for.
        q: the target's rows.
    """

    def __init__(self, length: int = 0) -> None:
        self.length = length
        self.answers: dict[int, _Drafts] = {}
        self.ahead = False
        self.drafts: dict[int, tuple[IntArray, FloatArray]] | None = None
        self.rows: dict[Missing, FloatArray] = {}
        self.wanted: Missing | None = None
        self.q: _Processed | None = None

    def sealed(self) -> dict[int, tuple[IntArray, FloatArray]]:
        """The drafts to verify: those that are there at the first call."""
        if self.drafts is None:
            self.drafts = {k: (each.tokens[j], each.singles[j * each.tokens.shape[1] :][: each.tokens.shape[1]])
                           for each in list(self.answers.values()) if each.tokens.size
                           for j, k in enumerate(each.by.streams)}
        return self.drafts

    @property
    def owner(self) -> int:
        """The draft server whose row is wanted, or was."""
        assert self.wanted is not None
        return next(at for at, each in self.answers.items() if self.wanted.stream in each.by.streams)

    def row(self, stream: int, depth: int) -> FloatArray:
        """The row of a stream at a depth; raises _NotThere if it has not come."""
        missing = Missing(stream, depth)
        if missing not in self.rows:
            raise _NotThere(missing)
        return self.rows[missing]


class _NotThere(Exception):
    """Verification reads a row that has not come."""

    def __init__(self, missing: Missing) -> None:
        self.missing = missing


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

    Each frame arrives at once, and drafters draft as far ahead as they may before the target verifies a block.

    Raises:
        CallerError: the target cannot do it.
    """
    generation = target.begin(request)
    at = {drafter.stream: drafter for drafter in drafters}
    counts = {stream: [NO_TRAFFIC] * 2 for stream in at}  # down, up

    def arrive(server: int, answer: Frame) -> None:
        arrived, size = carried(answer)
        counts[server][1] += bytes_of(arrived, size)
        target.receive(server, arrived)

    try:
        while not generation.settled:
            for server, sent in generation.to_send():
                frame, size = carried(sent)
                if isinstance(frame, Done):
                    down, up = counts[server]
                    target.receive(server, Spent(frame.request, at[server].done(frame), down, up, True))
                    continue
                if not isinstance(frame, Prompt):
                    counts[server][0] += bytes_of(frame, size)
                for answer in at[server].receive(frame):
                    arrive(server, answer)
            for server in at.keys() & target.acknowledged.keys():
                while at[server].busy:
                    if (drafts := at[server].work()) is not None:
                        arrive(server, drafts)
            if not generation.finished.reason and (piece := generation.step()) is not None:
                yield piece
        yield generation.finished
    finally:
        for drafter in drafters:
            drafter.done(Done(generation.number))
            generation.leave(drafter.stream)
        target.end(generation)
