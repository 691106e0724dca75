"""Pairs of next-token distributions: the user's own, or those of two n-gram language models fitted here in seconds.

The default needs no download: the models are fitted to the source text of Python's standard library, which is on any
machine that runs this. P is the bigram model's distribution after a context, Q the trigram model's.
"""

import csv
import re
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from glsnet.bounds import as_distribution
from glsnet.errors import CallerError
from glsnet.race import FloatArray, IntArray

_TOKEN = re.compile(r"[A-Za-z_]+|[0-9]+|\n *|[^\sA-Za-z_0-9]")
_TEXT_BYTES = 6_000_000
_SMOOTHING = 2.0  # how many observations the lower order counts for


class Pair(NamedTuple):
    """Alice's and Bob's distribution, shape [N] each, and what they are of."""

    name: str
    p: FloatArray
    q: FloatArray


def read_pairs(path: Path) -> list[Pair]:
    """Pairs from an .npz file (arrays p and q, shape [M, N]) or a CSV file (header pair,p,q; one row per item).

    Rows of one pair follow one another; `pair` is any name.

    Raises:
        CallerError: the file is neither, or an entry is no distribution; the text names the pair and the entry.
    """
    try:
        rows = _from_npz(path) if path.suffix == ".npz" else _from_csv(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CallerError(f"{path}: expected .npz of p and q, or CSV with the header pair,p,q, got: {error}") from error
    if not rows:
        raise CallerError(f"{path}: expected at least one pair, got none")
    pairs = []
    for name, p, q in rows:
        if p.shape != q.shape:
            raise CallerError(f"{path}: pair {name}: expected p and q of one length, got {p.size} and {q.size}")
        pairs.append(Pair(name, as_distribution(f"{path}: pair {name}: p", p),
                          as_distribution(f"{path}: pair {name}: q", q)))
    return pairs


def language_pairs(count: int, seed: int, vocabulary: int = 8192) -> list[Pair]:
    """Next-token distributions of a bigram and a trigram model after `count` contexts from text they did not see.

    Args:
        count: how many pairs, at least 1.
        seed: of the choice of contexts.
        vocabulary: how many of the most frequent tokens, N; the rest are one token more.
    """
    tokens, words = _tokens(vocabulary)
    fitted, unseen = tokens[: int(0.9 * tokens.size)], tokens[int(0.9 * tokens.size) :]
    counts = np.bincount(fitted, minlength=len(words)) + 1.0
    unigram = np.asarray(counts / counts.sum(), dtype=np.float64)
    pairs: list[Pair] = []
    contexts = np.random.default_rng(seed)
    while len(pairs) < count:
        at = contexts.integers(2, unseen.size)
        before, last = unseen[at - 2], unseen[at - 1]
        after_last = fitted[1:][fitted[:-1] == last]
        after_both = fitted[2:][(fitted[1:-1] == last) & (fitted[:-2] == before)]
        if after_both.size == 0:
            continue  # the trigram model knows no more than the bigram model here: P = Q
        p = _interpolated(after_last, unigram)
        pairs.append(Pair(f"{words[before]!r} {words[last]!r}", p, _interpolated(after_both, p)))
    return pairs


def _interpolated(following: IntArray, lower: FloatArray) -> FloatArray:
    """Counts of what followed, with the lower order's distribution as so many observations more."""
    counts = np.bincount(following, minlength=lower.size) + _SMOOTHING * lower
    return np.asarray(counts / counts.sum())


def _tokens(vocabulary: int) -> tuple[IntArray, list[str]]:
    """The library's text as token numbers, shape [tokens], and the tokens; the last stands for all rare ones."""
    folder, texts, size = Path(sysconfig.get_paths()["stdlib"]), [], 0
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("*/[a-z]*.py")):
        if "site-packages" in path.parts or size > _TEXT_BYTES:
            continue
        texts.append(path.read_text(encoding="utf-8", errors="replace"))
        size += len(texts[-1])
    if not texts:
        raise CallerError(f"text: expected the standard library's source in {folder}, got none; give --pairs")
    # Every tenth file last: what is held out is spread over the library.
    texts = [text for i, text in enumerate(texts) if i % 10] + texts[::10]
    words, numbers = np.unique(_TOKEN.findall("\n".join(texts)), return_inverse=True)
    frequent = np.argsort(-np.bincount(numbers), kind="stable")[:vocabulary]
    renumbered = np.full(words.size, frequent.size)
    renumbered[frequent] = np.arange(frequent.size)
    return renumbered[numbers], [*words[frequent].tolist(), "(rare)"]


def _from_npz(path: Path) -> list[Pair]:
    with np.load(path) as arrays:
        p, q = np.atleast_2d(arrays["p"]), np.atleast_2d(arrays["q"])
    if p.shape != q.shape or p.ndim != 2:
        raise ValueError(f"p of shape {list(p.shape)} and q of shape {list(q.shape)}, not both [M, N]")
    return [Pair(str(i), *both) for i, both in enumerate(zip(p, q, strict=True))]


def _from_csv(path: Path) -> list[Pair]:
    found: dict[str, list[tuple[float, float]]] = {}
    with path.open(newline="", encoding="utf-8-sig") as handle:
        rows = csv.reader(handle)
        if (header := next(rows, [])) != ["pair", "p", "q"]:
            raise ValueError(f"the header {','.join(header)!r}")
        for row in rows:
            try:
                name, p, q = row
                found.setdefault(name, []).append((float(p), float(q)))
            except ValueError:
                raise ValueError(f"line {rows.line_num}: {','.join(row)!r}, not a name and two numbers") from None
    return [Pair(name, *np.array(values).T) for name, values in found.items()]
