"""The contexts of a request as a tree of tokens in one key-value cache, whatever model computes it.

The cache is one sequence of slots: the trunk, then the tokens of all branches in the order in which they came. A token
is told where it is by its position, and by a mask what it may see: the trunk, its ancestors and itself.

    path                  (a)   (a, b)   (c)   (a, d)
    slot       0  1  2     3      4       5      6
    position   0  1  2     3      4       3      4
    sees       trunk      +3    +3 4     +5    +3 6

So new tokens of all branches are one forward pass of batch 1, and what branches share is computed once. The head, dear
for large vocabularies, is applied only to states that are asked for.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from glsnet.errors import CallerError
from glsnet.language.models import LanguageModel
from glsnet.race import FloatArray


class Slots(Protocol):
    """Keys and values of tokens that have been through the model, slot by slot."""

    def keep(self, trunk: int, slots: tuple[int, ...]) -> None:
        """Only the first `trunk` slots, and these of those after them, which then follow the trunk."""
        ...


class Decoder(LanguageModel, Protocol):
    """A model as a tree of contexts uses it."""

    def slots(self) -> Slots:
        """New ones, empty."""
        ...

    def states(self, tokens: list[int], slots: Any, positions: list[int] | None, unseen: NDArray[np.bool_] | None,
               since: int) -> Sequence[Any]:
        """The last layer's states at N new tokens, whose keys and values are added to the slots.

        Args:
            tokens: shape [N].
            slots: of M tokens, already computed.
            positions: shape [N]; by default M to M + N - 1.
            unseen: shape [N, M + N], which slots a token must not see; by default those after it.
            since: states of tokens from this one on are wanted.

        Returns:
            N - since states.
        """
        ...

    def head(self, states: list[Any]) -> NDArray[Any]:
        """Logits, shape [N, V], of N states."""
        ...


@dataclass(slots=True)
class _Node:
    """One path: the slots of its tokens; at its end the last layer's state, [H], and logits, [V], if asked for."""

    slots: tuple[int, ...]
    state: Any
    logits: NDArray[Any] | None = None


class TreeCache:
    """One request's contexts; see `models.Cache`."""

    def __init__(self, model: Decoder) -> None:
        self._model = model
        self._slots = model.slots()
        self._waiting: list[int] = []  # the end of the trunk, if it is yet to be computed; then there are no nodes
        self._nodes: dict[tuple[int, ...], _Node] = {}  # by path; () is the end of the trunk
        self._length = 0

    @property
    def length(self) -> int:
        return self._length

    def logits(self, paths: Sequence[tuple[int, ...]]) -> FloatArray:
        new = self._new(paths)
        if new or self._waiting:
            self._compute(new)
        asked = [node for path in dict.fromkeys(paths) if (node := self._nodes[path]).logits is None]
        if asked:
            for node, row in zip(asked, self._model.head([node.state for node in asked]), strict=True):
                node.logits = row
        logits = np.empty((len(paths), self._model.vocabulary))
        for at, path in enumerate(paths):
            logits[at] = self._nodes[path].logits
        return logits

    def advance(self, tokens: Sequence[int]) -> None:
        self._check_length(self._length + len(tokens))
        self._check_tokens(tokens)
        path = tuple(tokens)
        known = _known(path, self._nodes)
        node = self._nodes.get(path[:known])
        self._keep(node.slots if node else ())
        self._waiting += path[known:]
        self._nodes = {(): replace(node, slots=())} if node and not self._waiting else {}
        self._length += len(path)

    @property
    def _branches(self) -> int:
        """How many slots come after the trunk."""
        return len(self._nodes) - (() in self._nodes)

    def _new(self, paths: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
        """The paths to be computed, whose beginnings are cached or are there before them."""
        new: dict[tuple[int, ...], None] = {}
        for path in paths:
            if path in self._nodes or path in new:
                continue
            if not path and not self._length:
                raise CallerError("path: expected at least one token before the one asked for, got none; begin with "
                                  "the prompt's tokens")
            self._check_length(self._length + len(path))
            known = _known(path, self._nodes, new)
            new.update((path[:end], None) for end in range(known + 1, len(path) + 1))
        self._check_tokens(path[-1] for path in new)
        return list(new)

    def _compute(self, new: list[tuple[int, ...]]) -> None:
        """What waits of the trunk and the new paths through the model, in one pass."""
        trunk, waiting, cached = self._length, len(self._waiting), self._branches
        first = trunk + cached  # the slot of the first new node
        slots: dict[tuple[int, ...], tuple[int, ...]] = {}
        for slot, path in enumerate(new, first):
            above = slots.get(path[:-1])
            if above is None:
                above = self._nodes[path[:-1]].slots if len(path) > 1 else ()
            slots[path] = (*above, slot)
        tokens = [*self._waiting, *(path[-1] for path in new)]
        positions = unseen = None
        if new and len(new[-1]) < cached + len(new):  # else the last has all others above it: one chain, the default
            positions = [*range(trunk - waiting, trunk), *(trunk + len(path) - 1 for path in new)]
            unseen = np.ones((len(tokens), first + len(new)), np.bool_)
            unseen[:, :trunk] = False
            if waiting:
                unseen[:waiting, trunk - waiting : trunk] = np.triu(np.ones((waiting, waiting), np.bool_), 1)
            for row, seen in enumerate(slots.values(), waiting):
                unseen[row, seen] = False
        states = iter(self._model.states(tokens, self._slots, positions, unseen, max(waiting - 1, 0)))
        if waiting:
            self._nodes[()] = _Node((), next(states))
            self._waiting = []
        for (path, above), state in zip(slots.items(), states, strict=True):
            self._nodes[path] = _Node(above, state)

    def _keep(self, slots: tuple[int, ...]) -> None:
        """Only the computed trunk and these slots after it."""
        if self._branches:
            self._slots.keep(self._length - len(self._waiting), slots)

    def _check_tokens(self, tokens: Iterable[int]) -> None:
        """Raises CallerError if one is not of the vocabulary: on a GPU, that would be the end of the process."""
        vocabulary = self._model.vocabulary
        for token in tokens:
            if not 0 <= token < vocabulary:
                raise CallerError(f"token: expected 0 to {vocabulary - 1}, got {token}; drafter and target must share "
                                  "a tokenizer")

    def _check_length(self, length: int) -> None:
        """Raises CallerError if so many tokens are beyond the context."""
        if length > self._model.context:
            raise CallerError(f"context: expected at most {self._model.context} tokens for {self._model.name}, got "
                              f"{length}; shorten the prompt, or ask for fewer tokens")


def _known(path: tuple[int, ...], *where: Container[tuple[int, ...]]) -> int:
    """How much of a path's beginning is there: where a path is, all its beginnings are, but perhaps the empty one."""
    known = 0
    while known < len(path) and any(path[: known + 1] in there for there in where):
        known += 1
    return known
