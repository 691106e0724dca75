"""Lower bounds on the probability that Gumbel-max list sampling matches, to hold measurements against.

The encoder draws Y ~ q, and each of K decoders draws X_k ~ p, from K shared races: with S[k, i] independent Exp(1),
Y = argmin_i min_k S[k, i] / q_i and X_k = argmin_i S[k, i] / p_i. They match when Y is in the list {X_1, ..., X_K}.
The theorems are those of Rowan, Phan and Khisti on list-level distribution coupling.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from glsnet.errors import CallerError

FloatArray = NDArray[np.float64]

SUM_TOLERANCE = 1e-6
_AXIS = np.linspace(-9.0, 9.0, 145)  # step 1/8: the trapezoid rule is then good to 1e-8 (see coding_bound)
_WEIGHT = np.exp(-0.5 * _AXIS**2) / np.exp(-0.5 * _AXIS**2).sum()


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
    if not (math.isfinite(sigma2) and sigma2 > 0):
        raise CallerError(f"sigma2: expected a finite number above 0, got {sigma2!r}; give the variance of W given A")
    _check_count("l_max", l_max)
    g_h = np.outer(_AXIS, _AXIS)
    total = 0.0
    for variance, count in zip(*np.unique(nu, return_counts=True), strict=True):
        log_density = 0.5 * (np.log(variance + sigma2) - np.log(sigma2)) + np.sqrt(variance / (variance + sigma2)) * g_h
        total += count * (_WEIGHT @ (1.0 / (nu.size + np.exp(log_density - math.log(l_max)))) @ _WEIGHT)
    return float(total)


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


def _distributions(p: ArrayLike, q: ArrayLike) -> tuple[FloatArray, FloatArray]:
    p, q = _distribution("p", p), _distribution("q", q)
    if p.size != q.size:
        raise CallerError(
            f"p and q: expected equal lengths, got {p.size} and {q.size}; give both over the same items, zeros included"
        )
    return p, q


def _distribution(name: str, values: ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise CallerError(
            f"{name}: expected probabilities of shape [N] with N >= 1, got shape {list(array.shape)}; give one vector"
        )
    bad = ~(np.isfinite(array) & (array >= 0))
    if bad.any():
        raise CallerError(
            f"{name}[{int(bad.argmax())}]: expected a finite probability of at least 0, got {float(array[bad][0])!r}; "
            "correct it"
        )
    total = float(array.sum())
    if abs(total - 1) > SUM_TOLERANCE:
        raise CallerError(f"{name}: expected probabilities that sum to 1, got the sum {total!r}; divide by the sum")
    return array


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise CallerError(f"{name}: expected a whole number of at least 1, got {value!r}; raise it")
