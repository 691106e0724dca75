"""Language models as the rest of glsnet sees them, and how to get one by its name.

A `LanguageModel` begins a `Cache` for each request. A cache knows the request's trunk, the tokens that are certain, and
gives next-token logits after the trunk and any number of paths beyond it, each token through the model only once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from glsnet.errors import CallerError
from glsnet.race import FloatArray
from glsnet.vision import before_transformers

PAIR = {f"embedded-{role}": Path(__file__).parent / "pair" / role for role in ("target", "drafter")}
SYNTHETIC = {"synthetic-target": 0.0, "synthetic-drafter": 0.7}  # the noise of each


class Tokenizer(Protocol):
    """Text to tokens and back."""

    @property
    def end(self) -> frozenset[int]:
        """The tokens that end a text."""
        ...

    @property
    def digest(self) -> str:
        """16 hex digits of SHA-256 over the tokens' texts in the order of their numbers.

        Two models share a vocabulary if and only if theirs are equal.
        """
        ...

    def encode(self, text: str) -> list[int]:
        """At least one token: a text begins with a special token if the model's texts do, or if it is empty."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones left out."""
        ...


class Cache(Protocol):
    """One request's contexts at one model; for one thread at a time."""

    @property
    def length(self) -> int:
        """How many tokens the trunk has."""
        ...

    def logits(self, paths: Sequence[tuple[int, ...]]) -> FloatArray:
        """Unnormalised log-probabilities of the token after the trunk and each path.

        Paths may be empty, share a beginning or be there twice. Tokens that are not cached yet go through the model in
        one forward pass, all of them; equal paths have equal rows, until the trunk grows.

        Returns:
            shape [len(paths), V].

        Raises:
            CallerError: there is no token before the one asked for, there are more than the model's context, or one
                is not from 0 to V - 1. The cache is as before.
        """
        ...

    def advance(self, tokens: Sequence[int]) -> None:
        """The trunk grows by these tokens. What was computed of them is kept, of all other paths forgotten.

        Raises:
            CallerError: they are beyond the model's context, or one is not from 0 to V - 1. The cache is as before.
        """
        ...


class LanguageModel(Protocol):
    """A model that gives the distribution of the next token; threads may share it."""

    @property
    def name(self) -> str:
        """As it was loaded."""
        ...

    @property
    def vocabulary(self) -> int:
        """V, the tokens of the tokenizer; rows that pad the model beyond it are cut."""
        ...

    @property
    def context(self) -> int:
        """Most tokens of trunk and path."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own."""
        ...

    def begin(self) -> Cache:
        """A cache with an empty trunk."""
        ...


def load(name: str, device: str = "cpu", dtype: str = "float32") -> LanguageModel:
    """A model by its name.

    Args:
        name: synthetic-target or synthetic-drafter, of a few tokens and no cost, for tests of the network;
            embedded-target or embedded-drafter, which come with glsnet and need no torch on a CPU in float32; or a
            folder as transformers saves it; or the name of a model on Hugging Face.
        device: as torch calls it: cpu, cuda, cuda:1, ...
        dtype: float64, float32, bfloat16 or float16.

    Raises:
        CallerError: there is no such model, device or dtype; the model cannot be read, or is of a kind that a `Cache`
            would be wrong for; or torch and transformers are not installed.
    """
    if name in SYNTHETIC:
        from glsnet.language.synthetic import SyntheticModel  # as below

        return SyntheticModel(1, SYNTHETIC[name])
    if name in PAIR and (device, dtype) == ("cpu", "float32"):
        from glsnet.language.embedded import EmbeddedModel  # here, since models are built on what this module says

        return EmbeddedModel(name, PAIR[name])
    try:
        before_transformers()
        from glsnet.language import huggingface
    except ImportError as error:
        raise CallerError(f"language models: expected torch and transformers, got {error}; "
                          "pip install 'glsnet[language]'") from error
    return huggingface.load(name, str(PAIR.get(name, name)), device, dtype, begins=name in PAIR)


def prompt_of(question: str) -> str:
    """A word problem as the embedded pair knows it, up to where the answer begins."""
    return f"Question: {question.strip()}\nAnswer:"
