"""The embedded pair in NumPy: small decoders of the Qwen2 kind, as decoders of `tree`, without torch.

For a model of a few layers the time goes into calls, not into arithmetic; so what can be multiplied into the weights
beforehand is: the gains of norms, the scale of attention, the three projections into one, gate and up into one. To
transformers the same folders are ordinary checkpoints, with the same logits to float32's rounding.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer as BytePairs

from glsnet.language.tree import TreeCache
from glsnet.threads import one_thread

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Layer:
    """Weights [in, out] of one layer: qkv has queries of all heads, then keys, then values."""

    qkv: Floats
    bias: Floats
    out: Floats
    gate_up: Floats
    down: Floats


class EmbeddedTokenizer:
    """A byte-level BPE whose token 0 begins and ends texts; see `models.Tokenizer`."""

    end = frozenset({0})

    def __init__(self, path: Path) -> None:
        self._pairs = BytePairs.from_file(str(path))
        texts = [self._pairs.id_to_token(token) for token in range(self._pairs.get_vocab_size())]
        self.digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        return [0, *self._pairs.encode(text, add_special_tokens=False).ids]

    def decode(self, tokens: Sequence[int]) -> str:
        return self._pairs.decode(list(tokens), skip_special_tokens=True)


class EmbeddedModel:
    """A decoder from a folder as transformers saves it; see `models.LanguageModel`.

    From the first one on, this process's NumPy multiplies in one thread: more would only get in each other's way, and
    in that of the other party, which is often on the same machine.
    """

    def __init__(self, name: str, folder: Path) -> None:
        one_thread()
        config = json.loads((folder / "config.json").read_text())
        weights = {key: value.astype(np.float32) for key, value in load_file(folder / "model.safetensors").items()}
        self.name, self.tokenizer = name, EmbeddedTokenizer(folder / "tokenizer.json")
        self.vocabulary, self.context = config["vocab_size"], config["max_position_embeddings"]
        self.heads, self.shared = config["num_attention_heads"], config["num_key_value_heads"]
        self.size = config["hidden_size"] // self.heads
        self._epsilon = np.float32(config["rms_norm_eps"])
        self._embedding = weights["model.embed_tokens.weight"]
        self._head = np.ascontiguousarray((self._embedding * weights["model.norm.weight"]).T)
        self.layers = [self._layer(weights, at) for at in range(config["num_hidden_layers"])]
        frequencies = config["rope_parameters"]["rope_theta"] ** (-np.arange(0, self.size, 2) / self.size)
        angles = np.outer(np.arange(self.context), frequencies)
        self._cos = np.tile(np.cos(angles), 2).astype(np.float32)[:, None]
        self._sin = np.concatenate((-np.sin(angles), np.sin(angles)), axis=1).astype(np.float32)[:, None]

    def _layer(self, weights: dict[str, Floats], at: int) -> _Layer:
        def of(name: str) -> Floats:
            return weights[f"model.layers.{at}.{name}"]

        scales = np.float32(self.size**-0.5), np.float32(1), np.float32(1)
        parts = [f"self_attn.{part}_proj" for part in "qkv"]
        qkv = np.concatenate([of(f"{part}.weight") * scale for part, scale in zip(parts, scales, strict=True)])
        bias = np.concatenate([of(f"{part}.bias") * scale for part, scale in zip(parts, scales, strict=True)])
        gate_up = np.concatenate((of("mlp.gate_proj.weight"), of("mlp.up_proj.weight")))
        return _Layer(
            np.ascontiguousarray((qkv * of("input_layernorm.weight")).T), bias,
            np.ascontiguousarray(of("self_attn.o_proj.weight").T),
            np.ascontiguousarray((gate_up * of("post_attention_layernorm.weight")).T),
            np.ascontiguousarray(of("mlp.down_proj.weight").T),
        )

    def begin(self) -> TreeCache:
        return TreeCache(self)

    def slots(self) -> "_Slots":
        return _Slots(self)

    def states(self, tokens: list[int], slots: Any, positions: list[int] | None, unseen: NDArray[np.bool_] | None,
               since: int) -> list[Floats]:
        new, first = len(tokens), slots.used
        end = first + new
        slots.reserve(new)
        at = np.arange(first, end) if positions is None else np.array(positions)
        cos, sin = self._cos[at], self._sin[at]
        if unseen is None and new > 1:
            unseen = np.arange(end) > np.arange(first, end)[:, None]
        x: Floats = self._embedding[tokens]
        for layer, keys, values in zip(self.layers, slots.keys, slots.values, strict=True):
            qkv = (self._norm(x) @ layer.qkv + layer.bias).reshape(new, -1, self.size)
            qk, v = qkv[:, : -self.shared], qkv[:, -self.shared :]
            qk = qk * cos + np.concatenate((qk[..., self.size // 2 :], qk[..., : self.size // 2]), axis=-1) * sin
            keys[:, first:end], values[:, first:end] = qk[:, self.heads :].swapaxes(0, 1), v.swapaxes(0, 1)
            x = x + self._attention(qk[:, : self.heads], keys[:, :end], values[:, :end], unseen) @ layer.out
            gate, up = np.split(self._norm(x) @ layer.gate_up, 2, axis=1)
            x = x + (gate / (1 + np.exp(-gate)) * up) @ layer.down
        return list(self._norm(x[since:]))

    def head(self, states: list[Floats]) -> NDArray[Any]:
        logits: Floats = np.array(states) @ self._head
        return logits

    def _attention(self, queries: Floats, keys: Floats, values: Floats, unseen: NDArray[np.bool_] | None) -> Floats:
        """Shape [N, heads D], of queries [N, heads, D] over keys and values [shared, M, D]; heads in a row share."""
        new = len(queries)
        grouped = queries.reshape(new, self.shared, -1, self.size).transpose(1, 2, 0, 3)  # [shared, each, N, D]
        scores: Floats = grouped.reshape(self.shared, -1, self.size) @ keys.swapaxes(1, 2)
        if unseen is not None:
            scores.reshape(-1, *unseen.shape)[:, unseen] = -np.inf
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed: Floats = (scores @ values).reshape(self.shared, -1, new, self.size).transpose(2, 0, 1, 3)
        return mixed.reshape(new, -1)

    def _norm(self, x: Floats) -> Floats:
        """Each row over its root mean square; gains are in the weights that follow."""
        mean = np.einsum("ij,ij->i", x, x)[:, None] / np.float32(x.shape[1])
        normed: Floats = x / np.sqrt(mean + self._epsilon)
        return normed


class _Slots:
    """See `tree.Slots`; keys and values of each layer have shape [shared heads, room, D]."""

    def __init__(self, model: EmbeddedModel) -> None:
        self.used = 0
        shape = (model.shared, 64, model.size)
        self.keys = [np.empty(shape, np.float32) for _ in model.layers]
        self.values = [np.empty(shape, np.float32) for _ in model.layers]

    def reserve(self, new: int) -> None:
        """Have room for `new` more, which are then used."""
        room = self.keys[0].shape[1]
        if self.used + new > room:
            more = np.empty((len(self.keys[0]), max(room, new), self.keys[0].shape[2]), np.float32)
            self.keys = [np.concatenate((each, more), axis=1) for each in self.keys]
            self.values = [np.concatenate((each, more), axis=1) for each in self.values]
        self.used += new

    def keep(self, trunk: int, slots: tuple[int, ...]) -> None:
        self.used = trunk + len(slots)
        if slots != tuple(range(trunk, self.used)):
            for each in (*self.keys, *self.values):
                each[:, trunk : self.used] = each[:, slots]
