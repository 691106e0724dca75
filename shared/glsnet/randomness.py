"""Shared randomness: what every party can compute from the session key alone, bit for bit, on any machine.

Philox4x32-10 (Salmon et al. 2011, Random123) is a pure function of a key and a 128-bit counter, so any arrival of
any round can be redone at any time by any party. The counter is laid out as

    word 0, 1   n       arrival number, or the address of a tree node (64 bits, low word first)
    word 2      k, b    stream in the upper 16 bits, block in the lower 16
    word 3      r       round

Four output words give two 52-bit uniforms: one for a time gap, one for a mark. The logarithm, the exponential, the
normal quantile and the normal distribution function use IEEE-754 basic operations and square root only, so that
arrivals, and the frequencies that messages are entropy-coded with, do not depend on a maths library.
`tests/golden_randomness.txt` pins all of this.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])

VERSION_TAG = b"glsnet/1"
SEED_BYTES = 32
MAX_STREAMS = 1 << 16
MAX_BLOCKS = 1 << 16
MAX_ROUNDS = 1 << 32


def seed_from_integer(seed: int) -> bytes:
    """The 32-byte session seed that the integer `seed` (any size, any sign) stands for."""
    return hashlib.sha256(VERSION_TAG + b"|integer seed|" + str(seed).encode()).digest()


def seed_digest(seed: bytes) -> str:
    """16 hex digits that tell seeds apart without giving them away; this is what crosses the wire."""
    return hashlib.sha256(VERSION_TAG + b"|seed digest|" + seed).hexdigest()[:16]


def session_key(seed: bytes, purpose: str) -> np.uint64:
    """The 64-bit Philox key for one purpose: the first 8 bytes, little-endian, of SHA-256(tag | seed | purpose)."""
    digest = hashlib.sha256(VERSION_TAG + b"|key|" + seed + b"|" + purpose.encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def kernel(function: F) -> F:
    """Compiled once and kept on disk; plain IEEE arithmetic (no fastmath), and the GIL is released while it runs."""
    return cast(F, njit(function, cache=True, nogil=True, error_model="numpy"))


def _bitcast(source: Any, target: Any, llvm_target: Any) -> Any:
    @intrinsic
    def cast_bits(typingctx: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], llvm_target)

        return target(source), generate

    return cast_bits


_float_bits = _bitcast(types.float64, types.uint64, ir.IntType(64))
_float_from_bits = _bitcast(types.uint64, types.float64, ir.DoubleType())

_LOW32 = np.uint64(0xFFFFFFFF)
_S32 = np.uint64(32)


@kernel
def philox(key: np.uint64, n: int | np.uint64, block: int, stream: int, round_: int) -> tuple[np.uint64, np.uint64]:
    """Philox4x32-10 at counter (n, block, stream, round): output words (0, 1) and (2, 3), each as one uint64."""
    c0, c1 = np.uint64(n) & _LOW32, np.uint64(n) >> _S32
    c2, c3 = (np.uint64(stream) << np.uint64(16)) | np.uint64(block), np.uint64(round_)
    k0, k1 = np.uint64(key) & _LOW32, np.uint64(key) >> _S32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> _S32) ^ c1 ^ k0, p1 & _LOW32, (p0 >> _S32) ^ c3 ^ k1, p0 & _LOW32
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _LOW32, (k1 + np.uint64(0xBB67AE85)) & _LOW32
    return c0 | (c1 << _S32), c2 | (c3 << _S32)


@kernel
def uniform(word: np.uint64) -> float:
    """The upper 52 bits of `word` as a midpoint (i + 1/2) / 2^52: exact, never 0 and never 1."""
    return (np.float64(np.int64(word >> np.uint64(12))) + 0.5) * 2.0**-52


@kernel
def log(x: float) -> float:
    """Natural logarithm of a positive normal float64, within 2 ulp, from + - * / alone.

    x = 2^e m with m in [sqrt(1/2), sqrt(2)); ln m = 2 artanh(s), s = (m - 1)/(m + 1), by its series up to s^23,
    even and odd terms summed apart.
    """
    bits = np.int64(_float_bits(x))
    # 0x3FE6A09E667F3BCD is sqrt(1/2): the exponent is counted from there.
    e = (bits - np.int64(0x3FE6A09E667F3BCD)) >> np.int64(52)
    m: float = _float_from_bits(np.uint64(bits - (e << np.int64(52))))
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    odd = 2.0 / 3 + w * (2.0 / 7 + w * (2.0 / 11 + w * (2.0 / 15 + w * (2.0 / 19 + w * (2.0 / 23)))))
    even = 2.0 / 5 + w * (2.0 / 9 + w * (2.0 / 13 + w * (2.0 / 17 + w * (2.0 / 21))))
    tail = z * odd + w * even
    exponent = float(e)
    # ln 2 in two parts: the first has trailing zeros, so that its product with the exponent is exact.
    return exponent * 6.93147180369123816490e-01 + (2.0 * s + (s * tail + exponent * 1.90821492927058770002e-10))


@kernel
def normal_quantile(p: float) -> float:
    """z with Phi(z) = p for p in (0, 1/2], within 1e-15 relative: Wichura, Algorithm AS 241 (PPND16), 1988."""
    q = p - 0.5
    if q >= -0.425:
        r = 0.180625 - q * q
        top = ((((((2.5090809287301226727e3 * r + 3.3430575583588128105e4) * r + 6.7265770927008700853e4) * r
                  + 4.5921953931549871457e4) * r + 1.3731693765509461125e4) * r + 1.9715909503065514427e3) * r
               + 1.3314166789178437745e2) * r + 3.3871328727963666080e0
        bottom = ((((((5.2264952788528545610e3 * r + 2.8729085735721942674e4) * r + 3.9307895800092710610e4) * r
                     + 2.1213794301586595867e4) * r + 5.3941960214247511077e3) * r + 6.8718700749205790830e2) * r
                  + 4.2313330701600911252e1) * r + 1.0
        return q * top / bottom
    r = math.sqrt(-log(p))
    if r <= 5.0:
        r -= 1.6
        top = ((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r + 2.41780725177450611770e-1) * r
                  + 1.27045825245236838258e0) * r + 3.64784832476320460504e0) * r + 5.76949722146069140550e0) * r
               + 4.63033784615654529590e0) * r + 1.42343711074968357734e0
        bottom = ((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r + 1.51986665636164571966e-2) * r
                     + 1.48103976427480074590e-1) * r + 6.89767334985100004550e-1) * r + 1.67638483018380384940e0) * r
                  + 2.05319162663775882187e0) * r + 1.0
    else:
        r -= 5.0
        top = ((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r + 1.24266094738807843860e-3) * r
                  + 2.65321895265761230930e-2) * r + 2.96560571828504891230e-1) * r + 1.78482653991729133580e0) * r
               + 5.46378491116411436990e0) * r + 6.65790464350110377720e0
        bottom = ((((((2.04426310338993978564e-15 * r + 1.42151175831644588870e-7) * r + 1.84631831751005468180e-5) * r
                     + 7.86869131145613259100e-4) * r + 1.48753612908506148525e-2) * r + 1.36929880922735805310e-1) * r
                  + 5.99832206555887937690e-1) * r + 1.0
    return -top / bottom


@kernel
def exp(x: float) -> float:
    """The exponential of x in [-708, 708], within 2 ulp, from + - * / alone; 0 below, infinite above.

    x = k ln 2 + r with |r| <= ln 2 / 2; e^r by its series up to r^13.
    """
    if not -708.0 <= x <= 708.0:
        return 0.0 if x < 0 else np.inf
    k = np.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10
    series = 1.0
    for n in range(13, 0, -1):
        series = 1.0 + series * r / n
    scale: float = _float_from_bits(np.uint64((np.int64(k) + np.int64(1023)) << np.int64(52)))
    return series * scale


@kernel
def normal_cdf(x: float) -> float:
    """The standard normal distribution function, within 1e-15 absolute: Hart (1968) as arranged by West (2005)."""
    a = abs(x)
    if a > 37.0:
        return 0.0 if x < 0 else 1.0
    density = exp(-0.5 * a * a)
    if a < 7.07106781186547:
        top = (((((3.52624965998911e-02 * a + 0.700383064443688) * a + 6.37396220353165) * a + 33.912866078383) * a
                + 112.079291497871) * a + 221.213596169931) * a + 220.206867912376
        bottom = ((((((8.83883476483184e-02 * a + 1.75566716318264) * a + 16.064177579207) * a + 86.7807322029461) * a
                    + 296.564248779674) * a + 637.333633378831) * a + 793.826512519948) * a + 440.413735824752
        tail = density * top / bottom
    else:
        tail = density / (a + 1.0 / (a + 2.0 / (a + 3.0 / (a + 4.0 / (a + 0.65))))) / 2.506628274631001
    return tail if x < 0 else 1.0 - tail
