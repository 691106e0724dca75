"""Speculative decoding without models: how drafts are drawn, and which of them the target keeps.

K drafters continue one request by L tokens each; the target knows its own distribution after every prefix of every
draft, and turns one block of drafts into 1 to L + 1 tokens, in every scheme distributed as if it had drawn them alone.
`draft_token` is the drafter's half, `verify` the target's:

    scheme               drafts    kept                                     needs of p                   source
    gls                  coupled   equal to Y over the streams alive        nothing                      RPK, Alg. 2
    gls-strong           coupled   equal to Y over all K streams            nothing                      RPK
    daliri               coupled   equal to Y, K = 1                        nothing                      DMS
    equality-check       apart     equal to the target's own draw           nothing                      the control
    leviathan            apart     by ratio test, K = 1                     p(x); the row of a rejected  LKM 2023
    specinfer            apart     by ratio tests, one draft after another  p(x); rows of the rejected   Miao 2023
    kseq                 apart     by ratio tests against q / rho           a row at each depth, p(x)    Sun 2023
    block-verification   apart     by a test of each length, K = 1          p(x); rows from the end on   Sun 2024
    none                 unread    nothing: one token of the target         nothing

Noise is a function of the request's key and of absolute token positions, in streams that are told apart by purpose:

    0 to K - 1                     coupled drafts, and the target's races; stream 0 for what it draws by itself
    MAX_DRAFTS (1 + depth) + k     drafts apart: what a ratio test or a residual relies on must not be shared with the
                                   target, and blocks that cover one position (at different depths) must not share it
    the last                       uniforms of the target's tests

DMS: Daliri, Musco, Suresh; RPK: Rowan, Phan, Khisti; LKM: Leviathan, Kalman, Matias, arXiv 2211.17192; Miao et al.,
SpecInfer, arXiv 2305.09781; Sun et al., SpecTr, arXiv 2310.15141, and Block Verification, arXiv 2403.10444. What a
scheme must reach at one depth is in `bounds`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from glsnet.bounds import as_distribution, kseq_rho
from glsnet.coupling import draw_x, draw_y
from glsnet.errors import CallerError
from glsnet.race import FloatArray, IntArray
from glsnet.randomness import MAX_ROUNDS, MAX_STREAMS, kernel, philox, uniform

COUPLED = ("gls", "gls-strong", "daliri")
RATIOS = ("leviathan", "specinfer", "kseq", "block-verification")  # those that test ratios of q and p
APART = ("equality-check", *RATIOS)
SCHEMES = (*COUPLED, *APART, "none")
SINGLE = ("daliri", "leviathan", "block-verification")  # those that K > 1 drafts cannot play

MAX_DRAFTS = 256
MAX_LENGTH = 128
ALIKE = 1e-3  # by how much p(x) may differ between drafts alike: what is sent as fp16 is no more precise
_TESTS = MAX_STREAMS - 1

Rows = FloatArray | Sequence[Sequence[ArrayLike]]


@dataclass(frozen=True)
class Block:
    """The drafts of one request that the target verifies at once, and what it knows about them.

    Of `p` and `q` only the rows that a scheme reads are looked at; either is an array, or rows of rows [k][j], so that
    they can be made when they are read.

    Args:
        position: the absolute position of the first token drafted; shorter drafts are cut or left out.
        tokens: shape [J, L], J drafts of L tokens each. L = 0 (and J = 1) is a block without drafters.
        q: shape [J, L + 1, V]; q[k][j] is the target's distribution after the first j tokens of draft k, the same
            for drafts that share these.
        p: shape [J, L, V]; p[k][j] is the distribution that draft k drew token j from; None for schemes without p.
        singles: shape [J, L], p(x) of each token drafted, for those who know it without having the row; by default
            it is read from p.
        streams: shape [J], the stream of each draft; by default 0 to J - 1.
        of: K, how many streams the request has, drafting or not; by default J.

    Raises:
        CallerError: shapes do not fit, a token is not from 0 to V - 1, or a stream not from 0 to K - 1 or there twice.
    """

    position: int
    tokens: IntArray
    q: Rows
    p: Rows | None = None
    singles: FloatArray | None = None
    streams: Sequence[int] | None = None
    of: int | None = None

    def __post_init__(self) -> None:
        tokens = self.tokens
        if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
            raise CallerError(f"tokens: expected integers of shape [J, L], got {tokens.dtype} of {list(tokens.shape)}")
        if not (1 <= self.drafts <= MAX_DRAFTS and 0 <= self.length <= MAX_LENGTH):
            raise CallerError(f"tokens: expected 1 to {MAX_DRAFTS} drafts of 0 to {MAX_LENGTH} tokens, got "
                              f"{self.drafts} of {self.length}; a block without drafters is one draft of 0 tokens")
        if not 0 <= self.position < MAX_ROUNDS - self.length:
            raise CallerError(f"position: expected 0 to {MAX_ROUNDS - self.length - 1}, got {self.position}")
        if not self.drafts <= self.all_streams <= MAX_DRAFTS:
            raise CallerError(f"of: expected {self.drafts} (drafts) to {MAX_DRAFTS} streams, got {self.all_streams}")
        streams = list(range(self.drafts)) if self.streams is None else list(self.streams)
        if len(streams) != self.drafts or len({*streams} & {*range(self.all_streams)}) != self.drafts:
            raise CallerError(f"streams: expected {self.drafts} different numbers from 0 to {self.all_streams - 1}, "
                              f"got {streams}")
        _check_shape("q", self.q, self.drafts, self.length + 1)
        if self.p is not None:
            _check_shape("p", self.p, self.drafts, self.length)
        if self.singles is not None and self.singles.shape != tokens.shape:
            raise CallerError(f"singles: expected shape {list(tokens.shape)}, got {list(self.singles.shape)}")
        bad = (tokens < 0) | (tokens >= self.vocabulary)
        if bad.any():
            k, depth = np.argwhere(bad)[0].tolist()
            raise CallerError(f"tokens[{k}, {depth}]: expected 0 to {self.vocabulary - 1}, got {tokens[k, depth]}")

    @property
    def drafts(self) -> int:
        """J."""
        return len(self.tokens)

    @property
    def length(self) -> int:
        """L."""
        return int(self.tokens.shape[1])

    @cached_property
    def vocabulary(self) -> int:
        """V."""
        return int(np.size(self.q[0][0]))

    @property
    def all_streams(self) -> int:
        """K."""
        return self.drafts if self.of is None else self.of

    def stream(self, k: int) -> int:
        """The stream of draft k."""
        return k if self.streams is None else self.streams[k]


class Verified(NamedTuple):
    """What one call of the target produced.

    Attributes:
        tokens: 1 to L + 1 tokens. All but the last are tokens of drafts, which come to len(tokens) - 1 accepted.
        alive: of each token, the drafts (rows of the block) that have every token before it.
        singles: the (k, depth) of which only the probability p(x) of the drafted token was read.
        rows: the (k, depth) of which the whole distribution p was read, in the order of reading.
    """

    tokens: list[int]
    alive: list[list[int]]
    singles: list[tuple[int, int]]
    rows: list[tuple[int, int]]


def draft_token(scheme: str, key: np.uint64, position: int, depth: int, p: ArrayLike, stream: int) -> int:
    """One token of a draft: X = argmin_i S_i / p_i, from the noise that the target shares, or from noise apart.

    Args:
        scheme: one of SCHEMES.
        key: the request's key.
        position: the token's absolute position.
        depth: its place in the block, from 0; without influence on coupled drafts.
        p: shape [V], the drafter's weights after its own prefix; they need not sum to 1.
        stream: which of the request's K streams this draft is.

    Returns:
        a token from 0 to V - 1, distributed as p; independent between streams.

    Raises:
        CallerError: an argument is outside its range (see `race.finite_race` for p and position).
    """
    _check_scheme(scheme)
    if not (0 <= stream < MAX_DRAFTS and 0 <= depth < MAX_LENGTH):
        raise CallerError(f"stream and depth: expected 0 to {MAX_DRAFTS - 1} and 0 to {MAX_LENGTH - 1}, got {stream} "
                          f"and {depth}")
    noise = stream if scheme in COUPLED else MAX_DRAFTS * (1 + depth) + stream
    return int(draw_x(key, position, 1, p, noise)[0])


def verify(scheme: str, key: np.uint64, block: Block) -> Verified:
    """The target's half: the tokens of one block, each distributed as the target's q after those before it.

    Args:
        scheme: one of SCHEMES; the drafts must have come from `draft_token` for the same.
        key: the request's key.
        block: the drafts; p and q processed (temperature, top-k, ...) as they were when tokens were drawn.

    Raises:
        CallerError: the scheme cannot have this block, or a row that it reads is no probability vector.
    """
    _check_scheme(scheme)
    match scheme:
        case "gls":
            return gls(key, block)
        case "gls-strong":
            return gls_strong(key, block)
        case "daliri":
            return daliri(key, block)
        case "equality-check":
            return equality_check(key, block)
        case "leviathan":
            return leviathan(key, block)
        case "specinfer":
            return specinfer(key, block)
        case "kseq":
            return kseq(key, block)
        case "block-verification":
            return block_verification(key, block)
    return none(key, block)


# Accept if equal: shared noise is allowed, p is not needed.


def gls(key: np.uint64, block: Block) -> Verified:
    """Y_j races over the streams of the drafts that are alive; ends after L + 1, or when none is (RPK, Algorithm 2).

    Conditionally drafter invariant: p matters only by who is alive. A longer block begins with the tokens of a
    shorter one.
    """
    def choose(depth: int, q: FloatArray, alive: list[int]) -> int:
        return int(draw_y(key, block.position + depth, 1, q, [block.stream(k) for k in alive])[0])

    return _along_drafts(block, choose)


def gls_strong(key: np.uint64, block: Block) -> Verified:
    """Y_j races over all K streams, alive or not: the text is a function of key, positions, K and q alone (RPK)."""
    def choose(depth: int, q: FloatArray, alive: list[int]) -> int:
        return int(draw_y(key, block.position + depth, 1, q, range(block.all_streams))[0])

    return _along_drafts(block, choose)


def daliri(key: np.uint64, block: Block) -> Verified:
    """Gumbel coupling with one drafter: GLS with K = 1 (DMS, drafter-invariant speculative decoding)."""
    _check_one_draft("daliri", block)
    return gls_strong(key, block)


def equality_check(key: np.uint64, block: Block) -> Verified:
    """The target draws by itself, as `none` does, and goes on as long as some draft happens to be equal."""
    def choose(depth: int, q: FloatArray, alive: list[int]) -> int:
        return _draw(key, block.position + depth, q)

    return _along_drafts(block, choose)


def none(key: np.uint64, block: Block) -> Verified:
    """No speculation: one token, and the text is that of `daliri` with the same key."""
    return Verified([_draw(key, block.position, _target_row(block, 0, 0))], [list(range(block.drafts))], [], [])


# Ratio tests: drafts and tests from noise apart.


def leviathan(key: np.uint64, block: Block) -> Verified:
    """Accept x with probability min(1, q(x) / p(x)), else draw from (q - p)+ (LKM 2023): K = 1."""
    _check_one_draft("leviathan", block)
    return specinfer(key, block)


def specinfer(key: np.uint64, block: Block) -> Verified:
    """Multi-round rejection at each depth, over the drafts that are alive (Miao et al. 2023).

    With r = q at first: accept x of the next draft with probability min(1, r(x) / p(x)), else r becomes (r - p)+
    normalised; at last the token is drawn from r. Drafts may differ in p.
    """
    singles: list[tuple[int, int]] = []
    rows: list[tuple[int, int]] = []

    def choose(depth: int, q: FloatArray, alive: list[int]) -> int:
        target = q
        for k in alive if depth < block.length else []:
            x = int(block.tokens[k, depth])
            singles.append((k, depth))
            if _test(key, block.position + depth, depth, block.stream(k)) * _single(block, k, depth) <= target[x]:
                return x
            rows.append((k, depth))
            target = _left(target, _row(block, k, depth))
        return _draw(key, block.position + depth, target)

    return _along_drafts(block, choose)._replace(singles=singles, rows=rows)


def kseq(key: np.uint64, block: Block) -> Verified:
    """SpecTr's K-SEQ (Sun et al. 2023), K being the number of drafts alive, which must be alike in p.

    Accept the x of some draft with probability min(1, q(x) / (rho p(x))); if none is, with beta = sum min(p, q / rho)
    draw from q - min(p, q / rho) (1 - (1 - beta)^K) / beta.

    Raises:
        CallerError: drafts with the same prefix differ in p(x) by more than ALIKE.
    """
    singles: list[tuple[int, int]] = []
    rows: list[tuple[int, int]] = []

    def choose(depth: int, q: FloatArray, alive: list[int]) -> int:
        if depth == block.length:
            return _draw(key, block.position + depth, q)
        first, *others = alive
        rows.append((first, depth))
        p = _row(block, first, depth)
        for k in others:
            singles.append((k, depth))
            x, single = int(block.tokens[k, depth]), _single(block, k, depth)
            if abs(single - p[x]) > ALIKE:
                raise CallerError(f"p[{k}][{depth}][{x}]: expected {float(p[x])!r}, as of draft {first}, got "
                                  f"{single!r}; kseq needs drafts of one model and temperature")
        rho, beta = kseq_rho(p, q, len(alive))
        for k in alive:
            x = int(block.tokens[k, depth])
            if _test(key, block.position + depth, depth, block.stream(k)) * rho * _single(block, k, depth) <= q[x]:
                return x
        share = (1 - (1 - beta) ** len(alive)) / beta if beta > 0 else 0.0
        return _draw(key, block.position + depth, _left(q, share * np.minimum(p, q / rho)))

    return _along_drafts(block, choose)._replace(singles=singles, rows=rows)


def block_verification(key: np.uint64, block: Block) -> Verified:
    """Keep the longest part of the draft that passes its test (Sun et al. 2024, Algorithm 2): K = 1.

    With rho_i = min(1, rho_{i-1} q(x_i) / p(x_i)), rho_0 = 1, and Z_i = sum (rho_i q - p)+ at the token after i, keep
    the largest i with u_i <= h_i, where h_L = rho_L, h_i = Z_i / (Z_i + 1 - rho_i), and h_0 = 1; then draw from
    (rho_i q - p)+, or from q after all L. From the end on, so that rows of p are read only down to the one needed.
    """
    _check_one_draft("block-verification", block)
    q = [_target_row(block, 0, depth) for depth in range(block.length + 1)]
    rho = [1.0]
    for depth, x in enumerate(block.tokens[0].tolist()):
        rho.append(min(1.0, rho[-1] * float(q[depth][x]) / _single(block, 0, depth)))
    rows: list[tuple[int, int]] = []
    target, h = q[-1], rho[-1]
    for kept in reversed(range(block.length + 1)):
        if kept < block.length:
            rows.append((0, kept))
            scaled, p = rho[kept] * q[kept], _row(block, 0, kept)
            z = float(np.maximum(scaled - p, 0.0).sum())
            target, h = _left(scaled, p), z / (z + (1 - rho[kept])) if z > 0 else 0.0
        if kept == 0 or _test(key, block.position + kept - 1, kept - 1, block.stream(0)) <= h:
            break
    tokens = [*block.tokens[0, :kept].tolist(), _draw(key, block.position + kept, target)]
    return Verified(tokens, [[0]] * len(tokens), [(0, depth) for depth in range(block.length)], rows)


# What the schemes share.


def _along_drafts(block: Block, choose: Callable[[int, FloatArray, list[int]], int]) -> Verified:
    """Tokens chosen one after another, given (depth, q, drafts alive), as long as some draft has them all."""
    tokens: list[int] = []
    alive = [list(range(block.drafts))]
    for depth in range(block.length + 1):
        token = choose(depth, _target_row(block, alive[-1][0], depth), alive[-1])
        tokens.append(token)
        still = [k for k in alive[-1] if depth < block.length and block.tokens[k, depth] == token]
        if not still:
            break
        alive.append(still)
    return Verified(tokens, alive, [], [])


def _left(target: FloatArray, taken: FloatArray) -> FloatArray:
    """(target - taken)+ normalised; if nothing is left, only rounding has rejected a draft, and target will do."""
    residual = np.maximum(target - taken, 0.0)
    total = float(residual.sum())
    return residual / total if total > 0 else target


def _draw(key: np.uint64, position: int, weights: FloatArray) -> int:
    """The target's own draw."""
    return int(draw_x(key, position, 1, weights, 0)[0])


@kernel
def _test(key: np.uint64, position: int, depth: int, stream: int) -> float:
    """The uniform that the token at this position of the draft on this stream is tested with."""
    return uniform(philox(key, depth * MAX_DRAFTS + stream, 0, _TESTS, position)[0])


def _target_row(block: Block, k: int, depth: int) -> FloatArray:
    return _checked_row("q", block.q, k, depth, block.vocabulary)


def _row(block: Block, k: int, depth: int) -> FloatArray:
    return _checked_row("p", _p_of(block), k, depth, block.vocabulary)


def _single(block: Block, k: int, depth: int) -> float:
    """p(x) of the token drafted."""
    x = int(block.tokens[k, depth])
    value = float(np.asarray(_p_of(block)[k][depth])[x] if block.singles is None else block.singles[k, depth])
    if not 0 < value <= 1 + 1e-6:
        raise CallerError(f"p[{k}][{depth}][{x}]: expected a probability above 0, since the token was drawn, got "
                          f"{value!r}; give the p that drafts are drawn from")
    return value


def _checked_row(name: str, rows: Rows, k: int, depth: int, vocabulary: int) -> FloatArray:
    row = as_distribution(f"{name}[{k}][{depth}]", rows[k][depth])
    if row.size != vocabulary:
        raise CallerError(f"{name}[{k}][{depth}]: expected {vocabulary} probabilities, as in q[0][0], got {row.size}; "
                          "cut padded vocabularies to one size")
    return row


def _p_of(block: Block) -> Rows:
    if block.p is None:
        raise CallerError("p: expected the drafters' distributions, got none; this scheme tests ratios")
    return block.p


def _check_shape(name: str, rows: Rows, drafts: int, length: int) -> None:
    if isinstance(rows, np.ndarray):
        fits, found = rows.ndim == 3 and rows.shape[:2] == (drafts, length), str(list(rows.shape))
    else:
        fits = len(rows) == drafts and all(len(row) == length for row in rows)
        found = f"[{len(rows)}, {[len(row) for row in rows]}]"
    if not fits:
        raise CallerError(f"{name}: expected shape [{drafts}, {length}, V], got {found}")


def _check_one_draft(scheme: str, block: Block) -> None:
    if block.all_streams != 1:
        raise CallerError(f"drafts: expected 1 for scheme {scheme}, got {block.all_streams}")


def _check_scheme(scheme: str) -> None:
    if scheme not in SCHEMES:
        raise CallerError(f"scheme: expected one of {', '.join(SCHEMES)}, got {scheme!r}")
