"""A drafter of speculative decoding as a sans-I/O session: frames in, frames out; no socket, clock or loop.

    DraftSession   a decoder with one stream or more: join() -> Join, agree(Terms) -> Ack; receive(frame) -> frames;
                   work() -> frame, of drafts ahead, while it is busy; done(Done) at a request's end

It is given its own model, the frames and the seed, and nothing else; the target's side is in `speculation`.

Where the request allows it, a drafter does not wait for the target's verdict on a block: it supposes that the drafts of
its first stream are accepted, all L, and which token the target adds, and drafts the next block from there, for all its
streams. All randomness is a function of key and position, so if that was right, these are the very drafts that it would
have made when told so, and a verdict that says just that gets no other answer. After any other verdict they are void.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from glsnet import bits, rows
from glsnet.coupling import draw_y
from glsnet.errors import CallerError, FrameError
from glsnet.frames import (
    PROTOCOL,
    Ack,
    Done,
    Frame,
    Join,
    Prompt,
    Row,
    Terms,
    Tokens,
    Wanted,
    checksum_of,
)
from glsnet.generation import MAX_AHEAD
from glsnet.joining import check_answer
from glsnet.language.models import LanguageModel
from glsnet.language.sampling import Sampling
from glsnet.race import FloatArray, IntArray
from glsnet.randomness import seed_digest, session_key
from glsnet.verification import (
    MAX_DRAFTS,
    MAX_LENGTH,
    RATIOS,
    SCHEMES,
    draft_token,
)

SESSION = "speculation"
Clock = Callable[[], float]  # seconds


def request_key(seed: bytes, request_seed: int) -> np.uint64:
    """The key of a request's shared randomness: of the seed that never crosses the wire, and the one that does."""
    return session_key(seed, f"speculation {request_seed}")


def block_length(length: int, max_tokens: int, made: int) -> int:
    """L of the next block: the last token is left to the target."""
    return min(length, max_tokens - made - 1)


def terms_of(model: LanguageModel, seed: bytes) -> Terms:
    """What target and drafters must have alike."""
    return Terms(protocol=PROTOCOL, seed_digest=seed_digest(seed), items=model.vocabulary,
                 width=bits.width_of(model.vocabulary), vocabulary=model.tokenizer.digest)


class DraftSession:
    """A draft server's side: its own model and streams, and the drafts of each request."""

    def __init__(self, model: LanguageModel, seed: bytes, streams: Sequence[int], clock: Clock, party: bytes = b""
                 ) -> None:
        """Without `streams` it has one, which the target assigns; `party` lets it join again, see `joining.new_party`.
        """
        self.session, self.next_round = SESSION, 0
        self._model, self._seed, self._clock = model, seed, clock
        self._streams = tuple(streams)
        # Without the width, which the vocabulary gives: a difference is then told in terms of that.
        self._join = Join(SESSION, None, replace(terms_of(model, seed), width=None), self._streams, party=party)
        self._drafting: dict[int, _Drafting] = {}
        self._agreed = False

    @property
    def stream(self) -> int:
        """By which the target knows this draft server: the first that it has, once it has agreed."""
        return self._streams[0]

    @property
    def requests(self) -> int:
        """How many are under way."""
        return len(self._drafting)

    def join(self) -> Join:
        """The frame to begin with, each time that it joins."""
        return self._join

    def agree(self, terms: Terms) -> Ack:
        """Take the target's terms; raises TermsError if they are not those expected.

        What was under way when the target was lost is forgotten: a Prompt comes of all that goes on.
        """
        check_answer(self._join, terms)
        if terms.stream is None:
            raise FrameError("terms: expected the stream of this draft server, got none")
        self._streams = self._join.streams or (terms.stream,)
        self._drafting.clear()
        self._agreed = True
        return Ack(0)

    def receive(self, *frames: Frame) -> Iterator[Tokens | Row]:
        """What the target says, in this order, and the answers to it.

        Of frames that are given together, only the last of a request is answered with drafts: a drafter that has
        fallen behind need not draft what is wanted no longer.

        Raises:
            FrameError: a frame is damaged, or not what can come now.
        """
        asked: dict[int, _Drafting] = {}
        for frame in frames:
            match frame:
                case Prompt(request):
                    if not self._agreed:
                        raise FrameError(f"prompt: expected terms before it, got request {request}")
                    self._drafting[request] = asked[request] = _Drafting(frame, self._model, self._seed, self._streams,
                                                                         self._clock)
                case Tokens("accepted", request) if request in self._drafting:
                    self._drafting[request].accept(frame)
                    asked[request] = self._drafting[request]
                case Wanted(request) if request in self._drafting:
                    if request in asked:
                        yield from asked.pop(request).answer()
                    yield self._drafting[request].row(frame)
                case _:
                    raise FrameError(f"frame: expected a prompt, or accepted or wanted of a request under way, got "
                                     f"{type(frame).__name__}")
        for drafting in asked.values():
            yield from drafting.answer()

    @property
    def busy(self) -> bool:
        """Whether there is something to draft ahead."""
        return any(drafting.busy for drafting in self._drafting.values())

    def work(self) -> Tokens | None:
        """Go on drafting ahead, while no frame waits: a forward pass, and drafts if it was the last of a block."""
        return min((each for each in self._drafting.values() if each.busy), key=lambda each: each.ahead).work()

    def done(self, done: Done) -> float:
        """A request is over; the seconds that drafting took, none for a request that is not under way."""
        drafting = self._drafting.pop(done.request, None)
        return 0.0 if drafting is None else drafting.seconds


@dataclass
class _Block:
    """Drafts that there is no verdict on: what a drafter supposes that it will be."""

    first: tuple[int, ...]  # drafts of the first stream
    added: tuple[int, ...] = ()  # the target's own token, once it is supposed, too

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.first + self.added


class _Drafting:
    """One request at a draft server."""

    def __init__(self, prompt: Prompt, model: LanguageModel, seed: bytes, streams: Sequence[int], clock: Clock) -> None:
        tokens = bits.unpack(prompt.checked(), prompt.count, bits.width_of(model.vocabulary))
        _check_prompt(prompt, tokens, model.vocabulary)
        self._prompt, self._model, self._clock = prompt, model, clock
        self._key = request_key(seed, prompt.seed)
        self._streams = [k for k in streams if k < prompt.drafts]
        if not self._streams:
            raise FrameError(f"prompt: expected one for some of the streams {list(streams)}, got K = {prompt.drafts}")
        self._sampling = [Sampling(prompt.temperatures[k], prompt.top_k, prompt.top_p) for k in self._streams]
        self._position, self._made = prompt.count, prompt.made  # of the trunk, which is certain
        self._blocks: deque[_Block] = deque()  # after the trunk; the first is that which the target waits for
        self._next: Iterator[Tokens | None] | None = None  # the block after those, if it is begun
        self._weights: dict[tuple[int, int], rows.Weights] = {}
        self.seconds = 0.0
        self._cache = model.begin()
        if self._fits(0):
            self._cache.advance(tokens.tolist())

    @property
    def ahead(self) -> int:
        """Blocks that there is no verdict on."""
        return len(self._blocks)

    @property
    def busy(self) -> bool:
        """Whether there is a block to draft ahead."""
        more = sum(len(block.first) + 1 for block in self._blocks)
        length = block_length(self._prompt.length, self._prompt.max_tokens, self._made + more)
        return self._next is not None or (
            0 < len(self._blocks) <= self._prompt.ahead and length > 0 and self._fits(more + length))

    def answer(self) -> Iterator[Tokens]:
        """The drafts of the block after the trunk, if the target waits for any that were not sent."""
        if self._blocks or block_length(self._prompt.length, self._prompt.max_tokens, self._made) <= 0:
            return
        while (drafts := self.work()) is None:
            pass
        yield drafts

    def work(self) -> Tokens | None:
        """A forward pass for the next block, and its drafts if that was the last."""
        since = self._clock()
        self._next = self._next or self._draft()
        if (drafts := next(self._next)) is not None:
            self._next = None
        self.seconds += self._clock() - since
        return drafts

    def accept(self, frame: Tokens) -> None:
        """The trunk grows by what the target has accepted; what was drafted on another supposition is void."""
        if frame.position != self._position:
            raise FrameError(f"accepted: expected position {self._position}, got {frame.position}")
        tokens = tuple(bits.unpack(frame.checked(), frame.count, bits.width_of(self._model.vocabulary)).tolist())
        if not tokens or max(tokens) >= self._model.vocabulary:
            raise FrameError(f"accepted: expected tokens from 0 to {self._model.vocabulary - 1}, got {list(tokens)}")
        if self._fits(len(tokens)):
            since = self._clock()
            self._cache.advance(tokens)
            self.seconds += self._clock() - since
        self._position += len(tokens)
        self._made += len(tokens)
        self._weights = {}
        while self._blocks and (block := self._blocks[0]).added and tokens[: len(block.tokens)] == block.tokens:
            tokens = tokens[len(block.tokens) :]
            self._blocks.popleft()
        if tokens:
            self._blocks.clear()
            self._next = None

    def row(self, wanted: Wanted) -> Row:
        """The distribution that a token of the block was drawn from."""
        weights = self._weights.get((wanted.stream, wanted.depth))
        if weights is None or wanted.position != self._position:
            raise FrameError(f"wanted: expected a token drafted at {self._position} in a scheme that tests ratios, "
                             f"got stream {wanted.stream}, depth {wanted.depth} at {wanted.position}")
        count, packed = rows.pack(weights)
        return Row(wanted.request, wanted.position, wanted.stream, wanted.depth, count, packed,
                   checksum_of(wanted.position, count, packed))

    def _draft(self) -> Iterator[Tokens | None]:
        """The next block: None after each forward pass, and at last the drafts.

        Verdicts may come meanwhile, as long as they agree: then blocks join the trunk, and what follows is the same.
        """
        prompt, ahead = self._prompt, len(self._blocks) > 0
        if ahead:
            last = self._blocks[-1]
            last.added = (self._supposed(self._position + len(self._suppositions())),)
            yield None
        trunk = len(self._suppositions())
        position = self._position + trunk
        length = block_length(prompt.length, prompt.max_tokens, self._made + trunk)
        if not self._fits(trunk + length):
            yield Tokens.of("drafts", prompt.request, position, 0, b"")
            return
        paths: list[tuple[int, ...]] = [()] * len(self._streams)
        singles = np.zeros((len(self._streams), length), "<f4")
        for depth in range(length):
            suppositions = self._suppositions()
            for at, logits in enumerate(self._cache.logits([suppositions + path for path in paths])):
                p = self._distribution(at, depth, logits)
                token = draft_token(prompt.scheme, self._key, position + depth, depth, p, self._streams[at])
                paths[at] += (token,)
                singles[at, depth] = p[token]
            if depth < length - 1:
                yield None
        tokens = [*(last.added if ahead else ()), *(token for path in paths for token in path)]
        self._blocks.append(_Block(paths[0]))
        yield Tokens.of("drafts", prompt.request, position, int(ahead),
                        bits.pack(np.array(tokens), bits.width_of(self._model.vocabulary)),
                        singles.tobytes() if prompt.scheme in RATIOS else b"")

    def _suppositions(self) -> tuple[int, ...]:
        """What is supposed to follow the trunk."""
        return tuple(token for block in self._blocks for token in block.tokens)

    def _supposed(self, position: int) -> int:
        """The token that the target is to add to the drafts of the first stream: its own draw, as far as one can tell.

        It races as the target will if no other draft is alive, with p for q.
        """
        prompt = self._prompt
        (logits,) = self._cache.logits([self._suppositions()])
        streams = range(prompt.drafts) if prompt.scheme == "gls-strong" else \
            [0] if prompt.scheme == "equality-check" else self._streams[:1]
        return int(draw_y(self._key, position, 1, self._sampling[0].probabilities(logits), streams)[0])

    def _distribution(self, at: int, depth: int, logits: FloatArray) -> FloatArray:
        """p; in schemes that test ratios, exactly what the target has when it asks for it."""
        p = self._sampling[at].probabilities(logits)
        if self._prompt.scheme not in RATIOS:
            return p
        self._weights[self._streams[at], depth] = weights = rows.rounded(p)
        return rows.shares(weights)

    def _fits(self, more: int) -> bool:
        return self._position + more <= self._model.context


def _check_prompt(prompt: Prompt, tokens: IntArray, vocabulary: int) -> None:
    if not tokens.size or tokens.max() >= vocabulary:
        raise FrameError(f"prompt: expected tokens from 0 to {vocabulary - 1}, got {tokens.tolist()[:10]}")
    if prompt.scheme not in SCHEMES:
        raise FrameError(f"prompt: expected a scheme of {', '.join(SCHEMES)}, got {prompt.scheme!r}")
    if not (1 <= prompt.drafts <= MAX_DRAFTS and prompt.length <= MAX_LENGTH):
        raise FrameError(f"prompt: expected 1 to {MAX_DRAFTS} drafts of up to {MAX_LENGTH} tokens, got {prompt.drafts} "
                         f"of {prompt.length}")
    if len(prompt.temperatures) != prompt.drafts:
        raise FrameError(f"prompt: expected {prompt.drafts} temperatures, one for each draft, got "
                         f"{len(prompt.temperatures)}")
    if not prompt.made < min(prompt.count, prompt.max_tokens):
        raise FrameError(f"prompt: expected fewer tokens made than its {prompt.count}, and than {prompt.max_tokens} to "
                         f"make, got {prompt.made}")
    if not prompt.ahead <= (0 if prompt.scheme in RATIOS else MAX_AHEAD):
        raise FrameError(f"prompt: expected to draft up to {MAX_AHEAD} blocks ahead, and none in schemes that test "
                         f"ratios, got {prompt.ahead}")
    try:
        for temperature in prompt.temperatures:
            Sampling(temperature, prompt.top_k, prompt.top_p)
    except CallerError as error:
        raise FrameError(f"prompt: {error}") from error
