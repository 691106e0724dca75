"""A drafter of speculative decoding as a sans-I/O session: frames in, frames out; no socket, clock or loop.

    DraftSession   a decoder with one stream or more: join() -> Join, agree(Terms) -> Ack; receive(frame) -> frames;
                   done(Done) at a request's end

It is given its own model, the frames and the seed, and nothing else; the target's side is in `speculation`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from glsnet import bits, rows
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

    def __init__(self, model: LanguageModel, seed: bytes, streams: Sequence[int], clock: Clock) -> None:
        """Without `streams` it has one, which the target assigns."""
        self.session, self.next_round = SESSION, 0
        self._model, self._seed, self._clock = model, seed, clock
        self._streams = tuple(streams)
        # Without the width, which the vocabulary gives: a difference is then told in terms of that.
        self._join = Join(SESSION, None, replace(terms_of(model, seed), width=None), self._streams)
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
        """The frame to begin with."""
        return self._join

    def agree(self, terms: Terms) -> Ack:
        """Take the target's terms; raises TermsError if they are not those expected."""
        check_answer(self._join, terms)
        if terms.stream is None:
            raise FrameError("terms: expected the stream of this draft server, got none")
        self._streams = self._streams or (terms.stream,)
        self._agreed = True
        return Ack(0)

    def receive(self, frame: Frame) -> Iterator[Tokens | Row]:
        """What the target says, and the answers to it.

        Raises:
            FrameError: it is damaged, or not what can come now.
        """
        match frame:
            case Prompt(request):
                if request in self._drafting or not self._agreed:
                    raise FrameError(f"prompt: expected terms before it, and a request that is not under way, got "
                                     f"{request}")
                self._drafting[request] = _Drafting(frame, self._model, self._seed, self._streams, self._clock)
                yield from self._drafting[request].drafts()
            case Tokens("accepted", request) if request in self._drafting:
                self._drafting[request].accept(frame)
                yield from self._drafting[request].drafts()
            case Wanted(request) if request in self._drafting:
                yield self._drafting[request].row(frame)
            case _:
                raise FrameError(f"frame: expected a prompt, or accepted or wanted of a request under way, got "
                                 f"{type(frame).__name__}")

    def done(self, done: Done) -> float:
        """A request is over; the seconds that drafting took, none for a request that is not under way."""
        drafting = self._drafting.pop(done.request, None)
        return 0.0 if drafting is None else drafting.seconds


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
        self._position, self._made = prompt.count, 0
        self._weights: dict[tuple[int, int], rows.Weights] = {}
        self.seconds = 0.0
        self._cache = model.begin()
        if self._fits(0):
            self._cache.advance(tokens.tolist())

    def drafts(self) -> Iterator[Tokens]:
        """The drafts of the next block, if the target waits for any."""
        prompt = self._prompt
        length = block_length(prompt.length, prompt.max_tokens, self._made)
        if length <= 0:
            return
        if not self._fits(length):
            yield Tokens.of("drafts", prompt.request, self._position, 0, b"")
            return
        since = self._clock()
        paths: list[tuple[int, ...]] = [()] * len(self._streams)
        singles = np.zeros((len(self._streams), length), "<f4")
        for depth in range(length):
            for at, logits in enumerate(self._cache.logits(paths)):
                p = self._distribution(at, depth, logits)
                token = draft_token(prompt.scheme, self._key, self._position + depth, depth, p, self._streams[at])
                paths[at] += (token,)
                singles[at, depth] = p[token]
        tokens = np.array(paths)
        self.seconds += self._clock() - since
        yield Tokens.of("drafts", prompt.request, self._position, 0,
                        bits.pack(tokens.ravel(), bits.width_of(self._model.vocabulary)),
                        singles.tobytes() if prompt.scheme in RATIOS else b"")

    def accept(self, frame: Tokens) -> None:
        """The trunk grows by what the target has accepted."""
        if frame.position != self._position:
            raise FrameError(f"accepted: expected position {self._position}, got {frame.position}")
        tokens = bits.unpack(frame.checked(), frame.count, bits.width_of(self._model.vocabulary)).tolist()
        if not tokens or max(tokens) >= self._model.vocabulary:
            raise FrameError(f"accepted: expected tokens from 0 to {self._model.vocabulary - 1}, got {tokens}")
        if self._fits(len(tokens)):
            since = self._clock()
            self._cache.advance(tokens)
            self.seconds += self._clock() - since
        self._position += len(tokens)
        self._made += len(tokens)
        self._weights = {}

    def row(self, wanted: Wanted) -> Row:
        """The distribution that a token of the block was drawn from."""
        weights = self._weights.get((wanted.stream, wanted.depth))
        if weights is None or wanted.position != self._position:
            raise FrameError(f"wanted: expected a token drafted at {self._position} in a scheme that tests ratios, "
                             f"got stream {wanted.stream}, depth {wanted.depth} at {wanted.position}")
        count, packed = rows.pack(weights)
        return Row(wanted.request, wanted.position, wanted.stream, wanted.depth, count, packed,
                   checksum_of(wanted.position, count, packed))

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
    try:
        for temperature in prompt.temperatures:
            Sampling(temperature, prompt.top_k, prompt.top_p)
    except CallerError as error:
        raise FrameError(f"prompt: {error}") from error
