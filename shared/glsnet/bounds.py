"""What theory promises of each coupling, to hold measurements against: exact values, lower bounds, upper bounds.

Alice draws a ~ p and Bob b ~ q; or K decoders draw X_1, ..., X_K, each from p, and the encoder Y ~ q, and they match
when Y is in the list. The theorems on one sample are those of Daliri, Musco and Suresh (DMS); those on lists are those
of Rowan, Phan and Khisti (RPK), where, with S[k, i] independent Exp(1), Y = argmin_i min_k S[k, i] / q_i and
X_k = argmin_i S[k, i] / p_i.

    one sample, nothing sent   gumbel_match, minhash_match: exact; worst_case and worst_case_family
    one sample, any message    optimal_match: exact, 1 - total_variation
    lists, nothing sent        list_matching_lemma, strong_list_matching, conditional_list_matching,
                               side_information_matching
    lists, p and q known       optimal_list_match: no scheme does better; specinfer_match, kseq_match: exact
    lists, the control         equality_check_match: exact
    compression                coding_bound; of a source of variance 1, wyner_ziv and list_converse
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from glsnet.errors import CallerError
from glsnet.race import FloatArray

SUM_TOLERANCE = 1e-6
_AXIS = np.linspace(-9.0, 9.0, 145)  # step 1/8: the trapezoid rule is then good to 1e-8 (see coding_bound)
_WEIGHT = np.exp(-0.5 * _AXIS**2) / np.exp(-0.5 * _AXIS**2).sum()


def gumbel_match(p: ArrayLike, q: ArrayLike) -> float:
    """Pr[a = b] of Gumbel coupling, exactly (DMS, Theorem 3 and its proof).

        sum_j 1 / sum_i max(p_i / p_j, q_i / q_j)    over the j with p_j > 0 and q_j > 0

    It is never below `minhash_match`. p, q: shape [N]; raises CallerError if either is no probability vector.
    """
    return list_matching_lemma(p, q, 1)


def minhash_match(p: ArrayLike, q: ArrayLike) -> float:
    """Pr[a = b] of weighted MinHash, exactly (DMS, Claim 5), with D the total variation distance.

        (1 - D + sum_i |p_i - q_i| min(p_i, q_i)) / (1 + D)

    p, q: shape [N]; raises CallerError if either is no probability vector.
    """
    p, q = _distributions(p, q)
    distance = 0.5 * np.abs(p - q).sum()
    return float((1 - distance + (np.abs(p - q) * np.minimum(p, q)).sum()) / (1 + distance))


def optimal_match(p: ArrayLike, q: ArrayLike) -> float:
    """1 - D, the largest Pr[a = b] of any coupling: reached by Protocols 1 and 4 (DMS, Claim 7).

    p, q: shape [N]; raises CallerError if either is no probability vector.
    """
    return 1.0 - total_variation(p, q)


def worst_case(distance: float) -> float:
    """(1 - D) / (1 + D): what no scheme without messages beats for every pair at distance D (DMS, Theorem 2).

    Every pair does at least as well with weighted MinHash or Gumbel coupling (DMS, Fact 1).

    Raises:
        CallerError: the distance is outside [0, 1].
    """
    if not 0 <= distance <= 1:
        raise CallerError(f"distance: expected a total variation distance from 0 to 1, got {distance!r}")
    return (1 - distance) / (1 + distance)


def worst_case_family(d: int) -> FloatArray:
    """The d + 1 distributions, shape [d + 1, d + 1], any two of them 1 / d apart, that attain `worst_case`.

    Row i is uniform over all items but i (DMS, proof of Theorem 2): whatever a scheme does, the mean of Pr[a = b] over
    the pairs of rows is at most worst_case(1 / d).

    Raises:
        CallerError: d is below 1.
    """
    _check_count("d", d)
    return np.asarray((1 - np.eye(d + 1)) / d)


def list_matching_lemma(p: ArrayLike, q: ArrayLike, k: int) -> float:
    """List matching lemma: a lower bound on Pr[Y in {X_1, ..., X_K}].

        Pr >= sum_j K / sum_i [ max(q_i / q_j, p_i / p_j) + (K - 1) q_i / q_j ]

    over the j with p_j > 0 and q_j > 0. For K = 1 the bound is the exact probability. Takes O(N log N) time: the
    maximum is p_i / p_j just where p_i / q_i > p_j / q_j, so sums in the order of p / q give the inner sum.

    Args:
        p: shape [N], the decoders' probabilities.
        q: shape [N], the encoder's probabilities.
        k: the number of decoders K, at least 1.

    Raises:
        CallerError: p or q is no probability vector, their lengths differ, or k is below 1.
    """
    p, q = _distributions(p, q)
    _check_count("k", k)
    support = (p > 0) | (q > 0)
    p, q = p[support], q[support]
    with np.errstate(divide="ignore", over="ignore"):
        ratio = p / q
        order = np.argsort(ratio)
        upto = np.searchsorted(ratio[order], ratio, side="right")  # how many i have a ratio no greater than j's
        q_upto = np.concatenate(([0.0], np.cumsum(q[order])))[upto]
        p_beyond = np.concatenate((np.cumsum(p[order][::-1])[::-1], [0.0]))[upto]
        both = (p > 0) & (q > 0)
        inner = (q_upto[both] + (k - 1) * q.sum()) / q[both] + p_beyond[both] / p[both]
    return float((k / inner).sum())


def conditional_list_matching(p: ArrayLike, q: ArrayLike, k: int) -> FloatArray:
    """Conditional list matching lemma: for each j, a lower bound on Pr[Y in {X_1, ..., X_K} | Y = j].

        Pr >= (1 + q_j / (K p_j))^-1

    Its mean over Y ~ q is never above `list_matching_lemma`, for it replaces each maximum there by a sum.

    Args:
        p: shape [N], the decoders' probabilities.
        q: shape [N], the encoder's probabilities.
        k: the number of decoders K, at least 1.

    Returns:
        shape [N]: 0 where p_j = 0, else 1 where q_j = 0; never nan.

    Raises:
        CallerError: p or q is no probability vector, their lengths differ, or k is below 1.
    """
    p, q = _distributions(p, q)
    _check_count("k", k)
    return np.divide(k * p, k * p + q, out=np.zeros_like(p), where=p > 0)


def strong_list_matching(p: ArrayLike, q: ArrayLike, k: int, alive: int) -> float:
    """Strongly invariant GLS: a lower bound on Pr[Y in {X_j: j alive}] when Y races over all K streams (RPK).

        Pr >= sum_j J / sum_i [ max(q_i / q_j, p_i / p_j) + (K - 1) q_i / q_j ]    with J of K streams alive

    p, q: shape [N], as for `list_matching_lemma`, whose value this is for J = K.

    Raises:
        CallerError: as there, or `alive` is not from 0 to k.
    """
    if not 0 <= alive <= k:
        raise CallerError(f"alive: expected 0 to {k} streams (k), got {alive!r}")
    return alive / k * list_matching_lemma(p, q, k)


def side_information_matching(p: ArrayLike, q: ArrayLike) -> FloatArray:
    """Conditional lemma: for each j, a lower bound on Pr[Y in list | Y = j], decoders with a p_k of their own (RPK).

        Pr >= sum_k 1 / (K + q_j / p_{k j})

    Args:
        p: shape [K, N], row k the probabilities of decoder k given its side information.
        q: shape [N], the encoder's probabilities given the source.

    Returns:
        shape [N]; for equal rows the same as `conditional_list_matching`.

    Raises:
        CallerError: p is not of shape [K, N], or a row or q is no probability vector.
    """
    rows = np.asarray(p, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] == 0:
        raise CallerError(f"p: expected shape [K, N], a row for each decoder, got shape {list(rows.shape)}")
    pairs = [_distributions(row, q) for row in rows]
    return np.asarray(sum(
        np.divide(p_k, len(pairs) * p_k + q_k, out=np.zeros_like(p_k), where=p_k > 0) for p_k, q_k in pairs
    ))


def optimal_list_match(p: ArrayLike, q: ArrayLike, k: int) -> float:
    """The largest Pr[Y in list] for a list of K independent draws from p and Y ~ q, of any scheme: exactly.

        1 - max_S [ p(S)^K - q(S) ]

    The maximum is at a prefix S of the items in ascending order of q / p, so that it takes O(N log N).

    p, q: shape [N]; raises CallerError if either is no probability vector, or k is below 1.
    """
    p, q = _distributions(p, q)
    _check_count("k", k)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        order = np.argsort(np.where(p > 0, q / p, np.inf), kind="stable")
    inside = np.cumsum(p[order]) ** k - np.cumsum(q[order])
    return float(min(max(1.0 - max(float(inside.max()), 0.0), 0.0), 1.0))


def specinfer_match(p: ArrayLike, q: ArrayLike, k: int) -> float:
    """Pr[one of K independent drafts is accepted] by SpecInfer's multi-round rejection, exactly.

    Round by round, a draft x is accepted with probability min(1, r(x) / p(x)), which comes to sum min(p, r); else
    the target r, q at first, becomes (r - p)+ normalised.

    p, q: shape [N]; raises CallerError if either is no probability vector, or k is below 1.
    """
    p, target = _distributions(p, q)
    _check_count("k", k)
    missed = 1.0
    for _ in range(k):
        residual = np.maximum(target - p, 0.0)
        left = float(residual.sum())
        if left <= 0.0:
            return 1.0
        missed *= left
        target = residual / left
    return 1.0 - missed


def kseq_match(p: ArrayLike, q: ArrayLike, k: int) -> float:
    """Pr[one of K independent drafts is accepted] by SpecTr's K-SEQ, exactly: 1 - (1 - beta)^K with `kseq_rho`'s beta.

    p, q: shape [N]; raises CallerError if either is no probability vector, or k is below 1.
    """
    p, q = _distributions(p, q)
    _check_count("k", k)
    _, beta = kseq_rho(p, q, k)
    return float(1 - (1 - beta) ** k)


def kseq_rho(p: FloatArray, q: FloatArray, k: int) -> tuple[float, float]:
    """K-SEQ's rho in [1, K], the least with 1 - (1 - beta)^K <= rho beta, to 2^-60, and beta = sum min(p, q / rho).

    p, q: shape [N], probability vectors, which is not checked.
    """
    both = (p > 0) & (q > 0)
    p, q = p[both], q[both]
    low, high = 1.0, float(k)
    beta = min(float(np.minimum(p, q / high).sum()), 1.0)
    for _ in range(60 if k > 1 else 0):
        middle = 0.5 * (low + high)
        there = min(float(np.minimum(p, q / middle).sum()), 1.0)
        if 1 - (1 - there) ** k <= middle * there:
            high, beta = middle, there  # the upper end: below the root, the residual would be negative
        else:
            low = middle
    return high, beta


def equality_check_match(p: ArrayLike, q: ArrayLike, k: int) -> float:
    """Pr[Y in list] when Y is drawn apart from the K independent drafts, exactly: sum_j q_j (1 - (1 - p_j)^K).

    p, q: shape [N]; raises CallerError if either is no probability vector, or k is below 1.
    """
    p, q = _distributions(p, q)
    _check_count("k", k)
    return float((q * (1 - (1 - np.minimum(p, 1.0)) ** k)).sum())


def coding_bound(residual_variances: Sequence[float] | FloatArray, sigma2: float, l_max: int) -> float:
    """Coding bound: a lower bound on the match probability of compression with side information, Gaussian model.

    In units where Var A = 1: A given T_k is N(mu_k, nu_k), and W given A = a is N(a, sigma2), so that W given T_k is
    N(mu_k, nu_k + sigma2). With the information density i_k = log2 p(W | A) / p(W | T_k), the theorem is

        Pr[match] >= E sum_k 1 / (K + 2^i_k / L_max)

    With x = (W - A) / sigma and v = (W - mu_k) / sqrt(nu_k + sigma2), both standard normal and jointly Gaussian,
    i_k ln 2 = ln((nu_k + sigma2) / sigma2) / 2 + (v^2 - x^2) / 2. There v - x and v + x are independent, hence
    (v^2 - x^2) / 2 = r g h, with r^2 = nu_k / (nu_k + sigma2) and g, h independent standard normal. The expectation
    over (g, h) is a trapezoid sum of a function analytic within pi / (9 r) of the real axes: good to 1e-8.

    Args:
        residual_variances: shape [K], nu_k, each in [0, 1] (a share of Var A).
        sigma2: the variance of W given A, above 0 (in units of Var A).
        l_max: the number of messages, at least 1.

    Raises:
        CallerError: an argument is outside its range above, or there is no decoder.
    """
    nu = _residuals(residual_variances)
    if not (math.isfinite(sigma2) and sigma2 > 0):
        raise CallerError(f"sigma2: expected a finite number above 0, got {sigma2!r}; give the variance of W given A")
    _check_count("l_max", l_max)
    g_h = np.outer(_AXIS, _AXIS)
    total = 0.0
    for variance, count in zip(*np.unique(nu, return_counts=True), strict=True):
        log_density = 0.5 * (np.log(variance + sigma2) - np.log(sigma2)) + np.sqrt(variance / (variance + sigma2)) * g_h
        total += count * (_WEIGHT @ (1.0 / (nu.size + np.exp(log_density - math.log(l_max)))) @ _WEIGHT)
    return float(total)


def wyner_ziv(residual_variance: float, l_max: int) -> float:
    """The least mean squared error of one decoder, in units of Var A: Var(A | T) / L_max^2 (Wyner, Ziv 1976).

    No code of log2 L_max bits a sample does better, however long its blocks.

    Args:
        residual_variance: Var(A | T), in [0, 1] (a share of Var A).
        l_max: the number of messages, at least 1.

    Raises:
        CallerError: an argument is outside its range.
    """
    _check_count("l_max", l_max)
    return float(_residuals([residual_variance])[0]) / l_max**2


def list_converse(residual_variances: Sequence[float] | FloatArray, l_max: int) -> float:
    """A lower bound on the mean squared error of the best of K decoders, in units of Var A.

    Give every T_k to one decoder, and log2 K bits more to say which estimate is the best: with
    Var(A | T_1..T_K) = 1 / (1 + sum_k (1 / nu_k - 1)), the bound is Var(A | T_1..T_K) / (K L_max)^2.

    Args:
        residual_variances: shape [K], nu_k = Var(A | T_k), each in [0, 1].
        l_max: the number of messages, at least 1.

    Raises:
        CallerError: an argument is outside its range, or there is no decoder.
    """
    _check_count("l_max", l_max)
    nu = _residuals(residual_variances)
    with np.errstate(divide="ignore"):
        together = 1.0 / (1.0 + float((1.0 / nu - 1.0).sum()))
    return together / (nu.size * l_max) ** 2


def total_variation(p: ArrayLike, q: ArrayLike) -> float:
    """Total variation distance, half the sum of |p_i - q_i|: 0 for equal laws, 1 for laws of disjoint support.

    Args:
        p: shape [N], probabilities.
        q: shape [N], probabilities.

    Raises:
        CallerError: p or q is no probability vector, or their lengths differ.
    """
    p, q = _distributions(p, q)
    return float(0.5 * np.abs(p - q).sum())


def _residuals(residual_variances: Sequence[float] | FloatArray) -> FloatArray:
    """nu_k as an array, shape [K]; raises CallerError if one is outside [0, 1], or there is none."""
    nu = np.asarray(residual_variances, dtype=np.float64)
    if nu.ndim != 1 or nu.size == 0:
        raise CallerError(
            f"residual_variances: expected one number per decoder, shape [K] with K >= 1, got shape {list(nu.shape)}; "
            "give the list of nu_k"
        )
    bad = ~((nu >= 0) & (nu <= 1 + SUM_TOLERANCE))
    if bad.any():
        raise CallerError(
            f"residual_variances[{int(bad.argmax())}]: expected a number from 0 to 1, got {float(nu[bad][0])!r}; "
            "divide the residual variance by Var A"
        )
    return nu


def _distributions(p: ArrayLike, q: ArrayLike) -> tuple[FloatArray, FloatArray]:
    p, q = as_distribution("p", p), as_distribution("q", q)
    if p.size != q.size:
        raise CallerError(
            f"p and q: expected equal lengths, got {p.size} and {q.size}; give both over the same items, zeros included"
        )
    return p, q


def as_distribution(name: str, values: ArrayLike) -> FloatArray:
    """The values as an array of shape [N]; `name` is what an error calls them.

    Raises:
        CallerError: they are empty, negative, not finite, or sum to 1 only within more than SUM_TOLERANCE.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise CallerError(
            f"{name}: expected probabilities of shape [N] with N >= 1, got shape {list(array.shape)}; give one vector"
        )
    total = float(array.sum())
    if not (array.min() >= 0 and total < np.inf):  # not a number fails the first comparison
        bad = ~(np.isfinite(array) & (array >= 0))
        raise CallerError(
            f"{name}[{int(bad.argmax())}]: expected a finite probability of at least 0, got {float(array[bad][0])!r}; "
            "correct it"
        )
    if abs(total - 1) > SUM_TOLERANCE:
        raise CallerError(f"{name}: expected probabilities that sum to 1, got the sum {total!r}; divide by the sum")
    return array


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise CallerError(f"{name}: expected a whole number of at least 1, got {value!r}; raise it")
