"""A request for text, and what comes of it: tokens and pieces of text, then how it went."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from glsnet.errors import CallerError
from glsnet.frames import NO_TRAFFIC, Traffic
from glsnet.language.models import Tokenizer
from glsnet.language.sampling import Sampling
from glsnet.verification import MAX_DRAFTS, MAX_LENGTH, RATIOS, SCHEMES, SINGLE

MAX_SEED = (1 << 64) - 1
MAX_AHEAD = 8
MAX_STOP = 64  # texts: each is looked for after every token


@dataclass(frozen=True)
class Request:
    """What to generate, and how.

    Args:
        prompt: the text to go on from.
        max_tokens: to generate at most; fewer where the target's context ends.
        seed: with the seed that all parties share, it gives the request's key.
        scheme: of `verification.SCHEMES`.
        drafts: K.
        length: L, the tokens of each draft in a block.
        sampling: how the target's logits become q, and, but for the temperature, a drafter's p.
        temperatures: of each draft, K of them; () if all are that of `sampling`.
        stop: texts to end before.
        made: tokens that an earlier attempt has given; the text goes on after them, and `max_tokens` counts them.
        ahead: how many blocks drafters draft ahead of what was accepted; see `drafting`.

    Raises:
        CallerError: one of them is out of range, or they do not go together.
    """

    prompt: str
    max_tokens: int = 128
    seed: int = 0
    scheme: str = "gls"
    drafts: int = 1
    length: int = 4
    sampling: Sampling = field(default_factory=Sampling)
    temperatures: tuple[float, ...] = ()
    stop: tuple[str, ...] = ()
    made: tuple[int, ...] = ()
    ahead: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise CallerError(f"max_tokens: expected at least 1, got {self.max_tokens}")
        if not 0 <= self.seed <= MAX_SEED:
            raise CallerError(f"seed: expected 0 to 2^64 - 1, got {self.seed}")
        if self.scheme not in SCHEMES:
            raise CallerError(f"scheme: expected one of {', '.join(SCHEMES)}, got {self.scheme!r}")
        if not 1 <= self.drafts <= MAX_DRAFTS:
            raise CallerError(f"drafts: expected K from 1 to {MAX_DRAFTS}, got {self.drafts}")
        if self.scheme in SINGLE and self.drafts > 1:
            raise CallerError(f"drafts: expected K = 1 for scheme {self.scheme}, got {self.drafts}")
        if not 0 <= self.length <= MAX_LENGTH:
            raise CallerError(f"length: expected L from 0 to {MAX_LENGTH}, got {self.length}")
        if self.temperatures and len(self.temperatures) != self.drafts:
            raise CallerError(f"temperatures: expected {self.drafts}, one for each draft, or none, got "
                              f"{len(self.temperatures)}")
        for temperature in self.temperatures:
            Sampling(temperature)
        if self.scheme == "kseq" and len({*self.temperatures}) > 1:
            raise CallerError(f"temperatures: expected one for all drafts of scheme kseq, whose test needs drafts "
                              f"alike, got {', '.join(map(str, self.temperatures))}")
        if "" in self.stop:
            raise CallerError("stop: expected texts, got an empty one")
        if len(self.stop) > MAX_STOP:
            raise CallerError(f"stop: expected at most {MAX_STOP} texts, got {len(self.stop)}")
        if len(self.made) > self.max_tokens:
            raise CallerError(f"made: expected at most max_tokens, {self.max_tokens} tokens, got {len(self.made)}")
        if not 0 <= self.ahead <= MAX_AHEAD:
            raise CallerError(f"ahead: expected 0 to {MAX_AHEAD} blocks, got {self.ahead}")
        if self.scheme in RATIOS and self.ahead:
            raise CallerError(f"ahead: expected 0 for scheme {self.scheme}, which asks for distributions of "
                              f"the block under way, got {self.ahead}")

    @property
    def draft_sampling(self) -> list[Sampling]:
        """How each draft's logits become p."""
        sampling = self.sampling
        return [Sampling(temperature, sampling.top_k, sampling.top_p)
                for temperature in self.temperatures or (sampling.temperature,) * self.drafts]


@dataclass(frozen=True)
class Asked:
    """A request as a client says it: what is None takes a default, K that of the target. See `Request`."""

    prompt: str
    max_tokens: int | None = None
    seed: int = 0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    scheme: str | None = None
    drafts: int | None = None
    length: int | None = None
    draft_temperatures: tuple[float, ...] = ()
    made: tuple[int, ...] = ()
    ahead: int = 0

    def request(self, streams: int) -> Request:
        """With the defaults of a target that has `streams`; raises CallerError as Request does."""
        given = {name: value for name in ("max_tokens", "scheme", "length")
                 if (value := getattr(self, name)) is not None}
        sampling = {name: value for name in ("temperature", "top_k", "top_p")
                    if (value := getattr(self, name)) is not None}
        if (drafts := self.drafts) is None:
            drafts = 1 if self.scheme in SINGLE else streams
        return Request(self.prompt, seed=self.seed, drafts=drafts, sampling=Sampling(**sampling),
                       temperatures=self.draft_temperatures, stop=self.stop, made=self.made, ahead=self.ahead,
                       **given)


@dataclass(frozen=True)
class Piece:
    """What one call of the target gave.

    Attributes:
        text: what is certain by now and was not before.
        tokens: 1 to L + 1.
        agreed: of each token, how many drafts had proposed it; 0 is a token of the target's own.
    """

    text: str
    tokens: list[int]
    agreed: list[int]


@dataclass
class Finished:
    """How a request went; sums over all its draft servers, unless said otherwise.

    Attributes:
        reason: "end" (of text), "stop" (a stop text), or "length".
        tokens: generated, in this attempt.
        blocks: calls of the target.
        drafted, accepted: at each depth, in how many blocks a draft alive had a token there, and one was accepted.
        tokens_sent, probabilities_sent, rows_sent: by draft servers: tokens, p(x) of them, whole distributions.
        round_trips: times that the target waited for draft servers.
        seconds: in all.
        draft_seconds: in models and races of the draft servers; of the one that took longest.
        verify_seconds: in the model and the races of the target.
        wait_seconds: at the target, from frames sent to the last answer.
        information_down, information_up: bits, before values are filled up to bytes.
        down, up: bytes on the wire after Prompt.
        alone: no other request shared the stream, so that its stream and ip bytes are this one's.
        context: bytes of the Prompt frames, protobuf.
        late_drafts: messages of drafts that came too late to be verified.
        wasted: tokens that were drafted, and never verified.
    """

    reason: str = ""
    tokens: int = 0
    blocks: int = 0
    drafted: list[int] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)
    tokens_sent: int = 0
    probabilities_sent: int = 0
    rows_sent: int = 0
    round_trips: int = 0
    seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    wait_seconds: float = 0.0
    information_down: int = 0
    information_up: int = 0
    down: Traffic = NO_TRAFFIC
    up: Traffic = NO_TRAFFIC
    alone: bool = True
    context: int = 0
    late_drafts: int = 0
    wasted: int = 0

    @property
    def block_efficiency(self) -> float:
        """Tokens per call of the target."""
        return self.tokens / self.blocks if self.blocks else 0.0


class Mark(NamedTuple):
    """A moment of a block at the target.

    Attributes:
        block: which, from 0.
        what: "asked" (draft servers, for drafts), "drafts" (have come), "ahead" (drafts for a later block have come),
            "late" (drafts have come too late), "wanted" (a row), "row" (has come), "verify" (begins), "verified".
        server: the draft server, or -1.
        seconds: by the target's clock.
    """

    block: int
    what: str
    server: int
    seconds: float


class Writer:
    """Tokens into text, as it becomes certain: whole characters, and nothing that may yet become a stop text."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._tokens: list[int] = []
        self._known = self._read = 0  # tokens before _known are text already; those up to _read, too, but give context
        self._held = ""

    def write(self, token: int) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop text has come, before which the text then ends."""
        self._tokens.append(token)
        before = self._tokenizer.decode(self._tokens[self._known : self._read])
        after = self._tokenizer.decode(self._tokens[self._known :])
        if after.endswith("\ufffd"):  # a character whose bytes are not all there
            return "", False
        self._known, self._read = self._read, len(self._tokens)
        return self._release(after[len(before) :])

    def flush(self) -> tuple[str, bool]:
        """What was held back, if the text ends here, and whether a stop text was in it."""
        said = self._tokenizer.decode(self._tokens[self._known : self._read])
        text, stopped = self._release(self._tokenizer.decode(self._tokens[self._known :])[len(said) :])
        return (text, True) if stopped else (text + self._held, False)

    def _release(self, new: str) -> tuple[str, bool]:
        text = self._held + new
        found = [at for at in map(text.find, self._stop) if at >= 0]
        if found:
            self._held = ""
            self._known = self._read = len(self._tokens)
            return text[: min(found)], True
        keep = max((n for stop in self._stop for n in range(1, min(len(stop), len(text) + 1))
                    if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], False
