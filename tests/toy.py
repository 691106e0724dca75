"""Language models of a few tokens, in numpy: what follows depends on the last two tokens, by a random table."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from glsnet.errors import CallerError
from glsnet.language.sampling import Sampling
from glsnet.race import FloatArray


@dataclass(frozen=True)
class ToyTokenizer:
    """Token i is the letter a + i; token 0 ends a text, if `ends`."""

    vocabulary: int
    ends: bool = False

    @property
    def end(self) -> frozenset[int]:
        return frozenset({0} if self.ends else ())

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.vocabulary} {self.ends}".encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        return [(ord(letter) - ord("a")) % self.vocabulary for letter in text] or [0]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token) for token in tokens if token not in self.end)


@dataclass
class Toy:
    """A model with a table of logits, shape [V, V, V], of the last token but one, the last, and the next."""

    vocabulary: int
    seed: int
    spread: float = 1.5
    like: "Toy | None" = None
    context: int = 64
    ends: bool = False
    calls: int = 0
    name: str = "toy"
    table: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        v = self.vocabulary
        noise = np.random.default_rng(self.seed).normal(0.0, self.spread, (v, v, v))
        self.table = noise if self.like is None else self.like.table + noise

    @property
    def tokenizer(self) -> ToyTokenizer:
        return ToyTokenizer(self.vocabulary, self.ends)

    def begin(self) -> "ToyCache":
        return ToyCache(self)

    def after(self, tokens: Sequence[int]) -> FloatArray:
        """The logits after a whole context, shape [V]."""
        logits: FloatArray = self.table[tokens[-2] if len(tokens) > 1 else 0, tokens[-1]]
        return logits

    def next(self, tokens: Sequence[int], sampling: Sampling | None = None) -> FloatArray:
        """The distribution after a whole context."""
        return (sampling or Sampling()).probabilities(self.after(tokens))


class ToyCache:
    """Nothing is cached; only what may be asked for is checked."""

    def __init__(self, model: Toy) -> None:
        self._model, self._trunk = model, list[int]()

    @property
    def length(self) -> int:
        return len(self._trunk)

    def logits(self, paths: Sequence[tuple[int, ...]]) -> FloatArray:
        self._model.calls += 1
        return np.array([self._after([*self._trunk, *path]) for path in paths])

    def advance(self, tokens: Sequence[int]) -> None:
        self._trunk.extend(tokens)
        if len(self._trunk) > self._model.context:
            raise CallerError(f"context: expected at most {self._model.context} tokens, got {len(self._trunk)}")

    def _after(self, tokens: list[int]) -> FloatArray:
        assert 0 < len(tokens) <= self._model.context
        return self._model.after(tokens)


class Wide(Toy):
    """A model of many tokens, whose row after a token is made when it is asked for, and the same for all models."""

    def __post_init__(self) -> None:
        self._rows = dict[int, FloatArray]()

    def after(self, tokens: Sequence[int]) -> FloatArray:
        token = tokens[-1]
        if token not in self._rows:
            self._rows[token] = 20 * np.random.default_rng(token).random(self.vocabulary)
        return self._rows[token]
