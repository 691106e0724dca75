"""Models of a few tokens, made up: for simulations, where what counts is how often a drafter is right, and how fast.

The next token's logits are a random table of the last two tokens; a drafter's are the target's and as much noise as it
is to be wrong.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from glsnet.race import FloatArray

SPREAD = 1.5  # standard deviation of a logit


class LettersTokenizer:
    """Token i is the character 33 + i; no text ends by itself."""

    end = frozenset[int]()

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self.digest = hashlib.sha256(f"letters {vocabulary}".encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """A token for each character, whatever it is."""
        return [ord(letter) % self._vocabulary for letter in text] or [0]

    def decode(self, tokens: Sequence[int]) -> str:
        """A character for each token."""
        return "".join(chr(33 + token) for token in tokens)


class SyntheticModel:
    """A `LanguageModel`; `passes` counts its forward passes."""

    name = "synthetic"

    def __init__(self, seed: int, noise: float = 0.0, vocabulary: int = 32, context: int = 4096) -> None:
        """Of one seed, the target is that without noise; `noise` is the standard deviation of what is added."""
        shape = (vocabulary, vocabulary, vocabulary)
        self.vocabulary, self.context = vocabulary, context
        self.table: FloatArray = np.random.default_rng(seed).normal(0.0, SPREAD, shape)
        if noise:
            self.table += np.random.default_rng((seed, 1)).normal(0.0, noise, shape)
        self.tokenizer = LettersTokenizer(vocabulary)
        self.passes = 0

    def begin(self) -> "SyntheticCache":
        """See `LanguageModel`."""
        return SyntheticCache(self)


class SyntheticCache:
    """A `Cache` that keeps no more than the tokens."""

    def __init__(self, model: SyntheticModel) -> None:
        self._model, self._trunk = model, list[int]()

    @property
    def length(self) -> int:
        """See `Cache`."""
        return len(self._trunk)

    def logits(self, paths: Sequence[tuple[int, ...]]) -> FloatArray:
        """See `Cache`."""
        self._model.passes += 1
        rows: FloatArray = np.array([self._after((*self._trunk[-2:], *path)) for path in paths])
        return rows

    def advance(self, tokens: Sequence[int]) -> None:
        """See `Cache`."""
        self._trunk.extend(tokens)

    def _after(self, tokens: Sequence[int]) -> FloatArray:
        row: FloatArray = self._model.table[tokens[-2] if len(tokens) > 1 else 0, tokens[-1]]
        return row
