"""Shared randomness against published answers, its golden vectors and plain Python."""

import math
from pathlib import Path

import numpy as np
import oracle
import pytest
from scipy.stats import norm

from glsnet import race
from glsnet.randomness import (
    exp,
    log,
    normal_cdf,
    normal_quantile,
    philox,
    seed_digest,
    seed_from_integer,
    session_key,
    uniform,
)

GOLDEN = [line.split() for line in Path(__file__).with_name("golden_randomness.txt").read_text().splitlines()
          if line and not line.startswith("#")]


@pytest.mark.parametrize(("counter", "key", "expected"), [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
])
def test_philox_gives_the_known_answers_of_random123(counter: tuple[int, ...], key: tuple[int, int],
                                                     expected: tuple[int, ...]) -> None:
    arguments = (counter[0] | counter[1] << 32, counter[2] & 0xFFFF, counter[2] >> 16, counter[3])
    words = (expected[0] | expected[1] << 32, expected[2] | expected[3] << 32)
    packed_key = key[0] | key[1] << 32
    assert tuple(map(int, philox(np.uint64(packed_key), np.uint64(arguments[0]), *arguments[1:]))) == words
    assert oracle.philox(packed_key, *arguments) == words


def words_of(key: int, n: int, block: int, stream: int, round_: int) -> tuple[np.uint64, np.uint64]:
    word01, word23 = philox(np.uint64(key), np.uint64(n), block, stream, round_)
    return np.uint64(word01), np.uint64(word23)


def test_the_golden_vectors_hold() -> None:
    kinds = set()
    for kind, *arguments, arrow, first, second in GOLDEN:
        assert arrow == "->"
        kinds.add(kind)
        match kind, arguments:
            case "key", [seed, purpose]:
                assert (f"{int(session_key(seed_from_integer(int(seed)), purpose)):016x}",
                        seed_digest(seed_from_integer(int(seed)))) == (first, second)
            case "philox", [key, n, block, stream, round_]:
                words = words_of(int(key, 16), int(n), int(block), int(stream), int(round_))
                assert tuple(f"{int(word):016x}" for word in words) == (first, second)
            case "log", [word]:
                u = uniform(np.uint64(int(word, 16)))
                assert (u.hex(), log(u).hex()) == (first, second)
            case "quantile", [p]:
                assert (normal_quantile(float.fromhex(p)).hex(), "0") == (first, second)
            case "exp", [x]:
                assert (exp(float.fromhex(x)).hex(), "0") == (first, second)
            case "cdf", [x]:
                assert (normal_cdf(float.fromhex(x)).hex(), "0") == (first, second)
            case "arrival", [key, round_, stream, block, mass, n]:
                t = 0.0
                for i in range(int(n) + 1):
                    word01, word23 = words_of(int(key, 16), i, int(block), int(stream), int(round_))
                    t -= log(uniform(word01))
                assert ((t / int(mass)).hex(), str(int(uniform(word23) * float(mass)))) == (first, second)
            case "node", [key, round_, stream, block, node]:
                t = 0.0
                for at in (int(node) >> up for up in range(int(node).bit_length() - 1, -1, -1)):
                    depth = at.bit_length() - 1
                    word01, word23 = words_of(int(key, 16), at, int(block), int(stream), int(round_))
                    t -= log(uniform(word01)) * 2.0**depth
                mark = race.mark_in(depth, at - (1 << depth), uniform(word23))
                assert (t.hex(), mark.hex()) == (first, second)
            case _:
                raise AssertionError(f"unknown line: {kind}")
    assert kinds == {"key", "philox", "log", "quantile", "exp", "cdf", "arrival", "node"}


def test_the_logarithm_is_within_two_ulp() -> None:
    values = np.concatenate((np.random.default_rng(1).random(50_000), 2.0 ** -np.arange(0, 60, 0.37), [2.0**-53]))
    for x in values:
        assert abs(log(x) - math.log(x)) <= 2 * math.ulp(math.log(x))


def test_the_normal_quantile_is_right_into_the_tail() -> None:
    for p in np.concatenate((np.linspace(1e-4, 0.5, 5000), 10.0 ** -np.arange(3, 18, 0.11))):
        assert normal_quantile(p) == pytest.approx(norm.ppf(p), rel=1e-14, abs=1e-15)


def test_the_exponential_is_within_two_ulp_and_ends_beyond_its_range() -> None:
    rng = np.random.default_rng(2)
    near_0 = rng.standard_normal(20_000) * 10.0 ** -rng.integers(0, 18, 20_000)
    for x in np.concatenate((rng.uniform(-708, 708, 30_000), near_0, np.arange(-708, 709), [-0.0, 5e-324, -5e-324])):
        assert abs(exp(x) - math.exp(x)) <= 2 * math.ulp(math.exp(x))
    for x in (math.nextafter(708, 800), 709.0, 1e300, math.inf):
        assert exp(x) == math.inf
        assert exp(-x) == 0.0


def test_the_normal_distribution_function_is_within_1e_15() -> None:
    rng = np.random.default_rng(3)
    switch = 7.07106781186547 + np.arange(-200, 200) * 1e-14  # from one formula to another
    values = np.concatenate((np.linspace(-40, 40, 30_000), rng.standard_normal(20_000), switch, -switch))
    found = np.array([normal_cdf(x) for x in values])
    assert np.abs(found - norm.cdf(values)).max() <= 1e-15
    tail = np.linspace(-37, -1, 5000)
    assert np.array([normal_cdf(x) for x in tail]) == pytest.approx(norm.cdf(tail), rel=1e-8, abs=0)
    assert [normal_cdf(x) for x in (-math.inf, -1e300, -37.1, 37.1, math.inf)] == [0, 0, 0, 1, 1]
    assert (np.diff([normal_cdf(x) for x in np.linspace(-38, 38, 20_001)]) >= 0).all()


def test_a_uniform_is_a_midpoint_and_never_0_or_1() -> None:
    assert uniform(np.uint64(0)) == 2.0**-53
    assert uniform(np.uint64(2**64 - 1)) == 1 - 2.0**-53


def test_seeds_and_purposes_give_different_keys() -> None:
    keys = {int(session_key(seed_from_integer(seed), purpose)) for seed in range(-5, 5) for purpose in ("a", "b")}
    assert len(keys) == 20
