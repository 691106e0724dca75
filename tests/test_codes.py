"""Quantisers against brute force, and every scheme from samples to frames to bytes and back."""

import math
from collections.abc import Sequence

import numpy as np
import oracle
import pytest
from coded import KEY, RESIDUAL, SIDE_OF, SOURCE, code, estimates, samples
from helpers import assert_mean, assert_mean_above
from numpy.typing import NDArray
from scipy.integrate import quad
from scipy.stats import norm

from glsnet import codes
from glsnet.bounds import list_converse, wyner_ziv
from glsnet.codes import QUANTISERS, RACES, SCHEMES, Code, decoding
from glsnet.compression import DecoderSession, EncoderSession
from glsnet.errors import CallerError
from glsnet.frames import Ack, Indices, Join, Terms, from_bytes, to_bytes
from glsnet.randomness import seed_from_integer, session_key
from glsnet.sources import gaussian, quantiser
from glsnet.sources.gaussian import Gaussian, SideInformation

SEED = seed_from_integer(7)
SESSION_KEY = session_key(SEED, "gaussian-race")
Floats = NDArray[np.float64]


# --- scalar quantisers


@pytest.mark.parametrize(("step", "l_max"), [(0.53, 8), (0.088, 64), (1.7, 2), (0.3, 1), (4.0, 3), (0.05, 5)])
@pytest.mark.parametrize(("mean", "residual"), [(0.0, 1.0), (0.7, RESIDUAL), (-3.1, 0.01)])
def test_a_nested_estimate_is_the_integral_over_its_coset(step: float, l_max: int, mean: float, residual: float
                                                          ) -> None:
    law = norm(mean, math.sqrt(residual))
    for message in sorted({0, l_max // 2, l_max - 1}):
        cells = [cell for cell in range(math.floor((mean - 8 * law.std()) / step),
                                        math.ceil((mean + 8 * law.std()) / step) + 1) if cell % l_max == message]
        ends = [(step * (cell - 0.5), step * (cell + 0.5)) for cell in cells]
        mass = sum(quad(law.pdf, *end, epsabs=1e-14)[0] for end in ends)
        if mass > 1e-4:
            moment = sum(quad(lambda a: a * law.pdf(a), *end, epsabs=1e-14)[0] for end in ends)
            estimate, _ = quantiser.decode(np.array([mean]), residual, np.array([message]), step, 1, 0, l_max, False)
            assert estimate[0] == pytest.approx(moment / mass, abs=1e-8)


@pytest.mark.parametrize(("parts", "l_max"), [(1, 1), (1, 8), (2, 2), (4, 8), (3, 5), (4, 64)])
@pytest.mark.parametrize("step", [1e-3, 0.1, 1.0, 30.0])
def test_a_cell_and_its_part_are_where_the_sample_is(parts: int, l_max: int, step: float) -> None:
    a = np.random.default_rng(1).standard_normal(2000) * 3
    messages, at = quantiser.encode(a, step, parts, l_max, False)
    assert ((0 <= at.part) & (at.part < parts)).all()
    assert (messages == at.cell % l_max).all()
    assert np.abs(a - step * (parts * at.cell + at.part)).max() <= step / 2 * (1 + 1e-9)


@pytest.mark.parametrize(("parts", "l_max", "step"), [(2, 2, 0.3), (4, 8, 0.05), (4, 64, 0.01), (3, 1, 1.0)])
def test_a_split_estimate_is_the_nearest_centre_of_its_part_with_the_message(parts: int, l_max: int, step: float
                                                                             ) -> None:
    a, t = samples(2000, parts, 2)
    messages, _ = quantiser.encode(a, step, parts, l_max, False)
    for part in range(parts):
        mean = t[:, part] * 2 / 3
        estimate, at = quantiser.decode(mean, RESIDUAL, messages, step, parts, part, l_max, False)
        number = np.round(estimate / step).astype(np.int64)
        assert estimate == pytest.approx(step * number, abs=1e-12)
        assert (number % parts == part).all() and (at.part == part).all()
        assert (number // parts % l_max == messages).all() and (number // parts == at.cell).all()
        assert np.abs(estimate - mean).max() <= step * parts * l_max / 2 * (1 + 1e-9)


@pytest.mark.parametrize("scheme", QUANTISERS)
@pytest.mark.parametrize("decoders", [1, 2, 4])
@pytest.mark.parametrize("l_max", [2, 8, 64])
@pytest.mark.parametrize("step", [1e-4, 0.1, 3.0])
def test_perfect_side_information_recovers_every_cell(scheme: str, decoders: int, l_max: int, step: float) -> None:
    a, _ = samples(500, 1, 3)
    side, of = SideInformation(1.0, 0.0, 0.0), code(scheme, decoders, l_max, step)
    messages, y = of.encode(KEY, 0, a)
    assert ((0 <= messages) & (messages < l_max)).all()
    for k in range(decoders):
        estimate, x = of.decode(side, KEY, 0, a, messages, k)
        own = x.stream == y.stream  # all samples, unless cells are split
        assert own.all() or scheme.startswith("split")
        assert (x.node[own] == y.node[own]).all()
        assert (np.abs(estimate - a)[own] <= step / 2 * (1 + 1e-9)).all()
        if scheme == "split":
            assert np.abs(estimate - a).max() < decoders * step


@pytest.mark.parametrize("scheme", ["nested", "trellis"])
@pytest.mark.parametrize("decoders", [1, 2])
@pytest.mark.parametrize("l_max", [2, 64])
@pytest.mark.parametrize("step", [1e-9, 1e-7, 100.0, 1e3])
def test_steps_that_tell_nothing_leave_side_information_alone(scheme: str, decoders: int, l_max: int, step: float
                                                              ) -> None:
    a, t = samples(300, decoders, 4)
    found = estimates(code(scheme, decoders, l_max, step), a, t)
    assert found == pytest.approx(t.T * 2 / 3, abs=1e-3)


@pytest.mark.parametrize("scheme", QUANTISERS)
@pytest.mark.parametrize(("l_max", "step"), [(4, 1.2), (8, 0.6), (64, 0.1)])
def test_useless_side_information_leaves_the_messages(scheme: str, l_max: int, step: float) -> None:
    a, _ = samples(4000, 1, 5)
    side, of = SideInformation(0.0, 0.0, 1.0), code(scheme, 2, l_max, step)
    messages, _ = of.encode(KEY, 0, a)
    errors = []
    for k in range(2):
        estimate, _ = of.decode(side, KEY, 0, np.full(a.size, 1e6 * k), messages, k)  # whatever t is
        assert np.isfinite(estimate).all()
        errors.append((estimate - a) ** 2)
    if not scheme.startswith("split"):
        assert (errors[0] == errors[1]).all()
        assert_mean_above(1.0 - errors[0].reshape(20, -1).mean(axis=1), 0.0)


@pytest.mark.parametrize(("a", "step"), [(math.nan, 0.1), (math.inf, 0.1), (1e16, 1e3), (-1e7, 1e-9)])
@pytest.mark.parametrize("scheme", QUANTISERS)
def test_samples_too_far_out_for_a_cell_number_are_refused(scheme: str, a: float, step: float) -> None:
    of = code(scheme, 2, 8, step)
    with pytest.raises(CallerError, match=r"sample 1.*check the sample's units"):
        of.encode(KEY, 0, np.array([0.0, a]))
    with pytest.raises(CallerError, match="sample 1"):
        of.decode(SIDE_OF(SOURCE), KEY, 0, np.array([0.0, 3 * a]), np.zeros(2, np.int64), 0)


# --- the trellis


def syndrome_of(pairs: Sequence[int]) -> list[int]:
    """The encoder's, of numbers by their low two bits: with steps of 1 and two messages, messages are syndromes."""
    messages, _ = quantiser.encode(np.array(pairs, np.float64), 1.0, 1, 2, True)
    return [int(message) for message in messages]


def test_syndromes_are_the_parity_checks_and_linear() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        x, y = rng.integers(0, 4, (2, 40))
        assert syndrome_of(x.tolist()) == oracle.syndrome(x.tolist())
        both = np.array(syndrome_of(x.tolist())) ^ syndrome_of(y.tolist())
        assert syndrome_of((x ^ y).tolist()) == both.tolist()
        assert syndrome_of((x - 4 * y).tolist()) == syndrome_of(x.tolist())  # of the two low bits alone


def test_codewords_have_no_syndrome() -> None:
    """c0 = h1 u and c1 = h0 u over GF(2), whatever u is, satisfy h0 c0 + h1 c1 = 0."""
    rng = np.random.default_rng(7)
    h0, h1 = ([number >> d & 1 for d in range(7)] for number in (0o103, 0o024))
    for _ in range(50):
        u = rng.integers(0, 2, 30)
        pairs = np.convolve(h1, u) % 2 + 2 * (np.convolve(h0, u) % 2)
        assert not any(syndrome_of(pairs.tolist()))
        pairs[rng.integers(0, pairs.size)] ^= 1
        assert any(syndrome_of(pairs.tolist()))


def test_sequences_that_share_their_messages_are_14_squared_steps_apart() -> None:
    """Whole numbers that differ by 4 in one place are 16 apart; without a trellis, at the same rate, it is 4."""
    distance, path = oracle.lightest_difference()
    assert distance == 14
    # One such pair: with numbers 0 or 1 under it, a difference of 1 makes the XOR 1 or 3.
    x = np.array([1 if pair == 3 else 0 for pair in path])
    y = np.array([x_i ^ pair for x_i, pair in zip(x, path, strict=True)])
    assert ((x - y) ** 2).sum() == 14
    for l_max in (2, 8, 64):
        low = l_max // 2
        sent = [quantiser.encode(low * numbers.astype(np.float64), 1.0, 1, l_max, True)[0] for numbers in (x, y)]
        assert (sent[0] == sent[1]).all()


@pytest.mark.parametrize(("l_max", "step", "residual", "parts"), [
    (2, 1.1, RESIDUAL, 1), (4, 0.6, 1.0, 1), (8, 0.39, RESIDUAL, 1), (64, 0.055, RESIDUAL, 1), (8, 0.05, 0.01, 1),
    (2, 0.7, RESIDUAL, 2), (8, 0.2, RESIDUAL, 4), (8, 3.0, RESIDUAL, 1),
])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_a_trellis_is_decoded_as_if_every_sequence_were_looked_at(l_max: int, step: float, residual: float, parts: int,
                                                                  count: int) -> None:
    rng = np.random.default_rng(count)
    for part in range(parts):
        mean = math.sqrt(1 - residual) * rng.standard_normal(count)
        a = mean + math.sqrt(residual) * rng.standard_normal(count)
        messages, _ = quantiser.encode(a, step, parts, l_max, True)
        estimate, at = quantiser.decode(mean, residual, messages, step, parts, part, l_max, True)
        means, chances = oracle.trellis_marginals(mean.tolist(), math.sqrt(residual), messages.tolist(), step, parts,
                                                  part, l_max)
        if parts == 1:
            assert estimate == pytest.approx(means, abs=1e-9)
        else:
            assert estimate == pytest.approx(step * (parts * at.cell + part), abs=1e-12)
        for i, (message, chance) in enumerate(zip(messages, chances, strict=True)):
            pair, rest = divmod(int(at.cell[i] % (2 * l_max)), l_max // 2)
            assert rest == message % (l_max // 2)
            assert chance[pair] > max(chance) - 1e-9
            assert abs(step * (parts * at.cell[i] + part) - mean[i]) <= step * parts * l_max * (1 + 1e-9)


@pytest.mark.parametrize(("l_max", "trellis_step", "nested_step"), [(8, 0.39, 0.53), (64, 0.055, 0.088)])
def test_a_trellis_has_a_lower_error_than_a_nested_code_and_none_than_wyner_ziv(l_max: int, trellis_step: float,
                                                                                nested_step: float) -> None:
    trellis, nested = np.empty(30), np.empty(30)
    for block in range(30):
        a, t = samples(4096, 1, 100 + block)
        trellis[block] = ((estimates(code("trellis", 1, l_max, trellis_step), a, t)[0] - a) ** 2).mean()
        nested[block] = ((estimates(code("nested", 1, l_max, nested_step), a, t)[0] - a) ** 2).mean()
    assert_mean_above(nested - trellis, 0.0)
    bound = wyner_ziv(RESIDUAL, l_max)
    assert_mean_above(np.minimum(trellis, 10 * bound), bound)  # rare large errors cut off, which can only lower it


@pytest.mark.parametrize("scheme", ["nested", "trellis"])
def test_estimates_are_conditional_means(scheme: str) -> None:
    """Orthogonal to their error; by blocks, within which those of a trellis depend on one another."""
    blocks = []
    for block in range(40):
        a, t = samples(1000, 1, 200 + block)
        estimate = estimates(code(scheme, 1, 8, 0.3), a, t)[0]
        blocks.append([((a - estimate) * estimate).mean(), ((a - estimate) * t[:, 0]).mean(), (a - estimate).mean()])
    for column in np.array(blocks).T:
        assert_mean(column, 0.0)


# --- every scheme

RESOLUTION = {"gls": 0.01, "baseline": 0.01, "posterior-mean": 0.03, "posterior-list": 0.01, "nested": 0.53,
              "trellis": 0.39, "split": 0.25, "split-trellis": 0.2}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("decoders", "l_max"), [(1, 8), (2, 2), (4, 8)])
def test_no_scheme_does_better_than_theory_allows(scheme: str, decoders: int, l_max: int) -> None:
    """Each decoder's error is above Wyner and Ziv's bound, that of the best of K above the list converse."""
    own, best, size = np.empty(20), np.empty(20), 80 if scheme in RACES else 400
    for block in range(20):
        a, t = samples(size, decoders, 300 + block)
        errors = (estimates(code(scheme, decoders, l_max, RESOLUTION[scheme]), a, t, size * block) - a) ** 2
        own[block], best[block] = errors.mean(), errors.min(axis=0).mean()
    for error, bound in ((own, wyner_ziv(RESIDUAL, l_max)), (best, list_converse([RESIDUAL] * decoders, l_max))):
        assert_mean_above(np.minimum(error, 10 * bound), bound)  # rare large errors cut off, which can only lower it


def join(party: EncoderSession) -> DecoderSession:
    """A decoder that has joined and agreed; what they say to each other goes through bytes."""
    decoder = DecoderSession("s", decoding(SIDE_OF), SEED, Terms())
    asked = from_bytes(to_bytes(decoder.join()))
    assert isinstance(asked, Join)
    terms = from_bytes(to_bytes(party.join(asked)))
    assert isinstance(terms, Terms)
    agreed = from_bytes(to_bytes(decoder.agree(terms)))
    assert isinstance(agreed, Ack)
    party.receive(decoder.stream, agreed)
    return decoder


def sent(of: Code, a: Floats, frame: int) -> list[bytes]:
    """The frames of a session, as bytes."""
    party = EncoderSession("s", of, SEED)
    for _ in range(of.decoders):
        join(party)
    return [to_bytes(party.encode(a[start : start + frame])[0]) for start in range(0, a.size, frame)]


def heard(of: Code, frames: list[bytes], t: Floats, stream: int) -> tuple[NDArray[np.int64], Floats]:
    """What decoder `stream` makes of these frames: messages and reconstructions."""
    party = EncoderSession("s", of, SEED)
    decoder = [join(party) for _ in range(stream + 1)][stream]
    messages, reconstructions = [], []
    for data in frames:
        frame = from_bytes(data)
        assert isinstance(frame, Indices)
        outcomes, _ = decoder.decode(frame, t[frame.first_round : frame.first_round + frame.count])
        assert outcomes.reconstruction is not None
        messages.append(outcomes.message)
        reconstructions.append(outcomes.reconstruction)
    return np.concatenate(messages), np.concatenate(reconstructions)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("l_max", [2, 6, 64])
def test_what_two_decoders_hear_is_what_was_coded(scheme: str, l_max: int) -> None:
    of = code(scheme, 2, l_max, RESOLUTION[scheme])
    a, t = samples(120, 2, 8)
    frames = sent(of, a, 50)
    assert frames == sent(of, a, 50)  # the seed says it all
    for k in range(2):
        messages, reconstruction = heard(of, frames, t[:, k], k)
        assert messages.min() >= 0 and messages.max() < l_max
        for start in range(0, 120, 50):
            part = slice(start, min(start + 50, 120))
            expected, _ = of.encode(SESSION_KEY, start, a[part])
            assert (messages[part] == expected).all()
            again, _ = of.decode(SIDE_OF(SOURCE), SESSION_KEY, start, t[part, k], expected, k)
            assert (reconstruction[part] == again).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_a_decoder_makes_of_frames_is_up_to_them_its_t_and_the_seed_alone(scheme: str) -> None:
    """Whatever the other decoder has for its own t."""
    of = code(scheme, 2, 8, RESOLUTION[scheme])
    a, t = samples(60, 2, 11)
    frames = sent(of, a, 60)
    messages, reconstruction = heard(of, frames, t[:, 1], 1)
    party = EncoderSession("s", of, SEED)
    first, second = join(party), join(party)
    frame = from_bytes(frames[0])
    assert isinstance(frame, Indices)
    first.decode(frame, -t[:, 0])
    outcomes, _ = second.decode(frame, t[:, 1])
    assert (outcomes.message == messages).all()
    assert outcomes.reconstruction is not None and (outcomes.reconstruction == reconstruction).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scheme_is_the_same_in_other_units(scheme: str) -> None:
    """A source of another mean and variance: the messages are the same, and the estimates in its units."""
    a, t = samples(100, 2, 9)
    of = code(scheme, 2, 8, RESOLUTION[scheme])
    other = Code(Gaussian(-40.0, 64.0), scheme, 2, 8, of.sigma2, of.step)
    assert (other.encode(KEY, 0, 8 * a - 40)[0] == of.encode(KEY, 0, a)[0]).mean() > 0.98
    side = SideInformation(2 / 3, 0.0, RESIDUAL)  # of the standardised sample on the same t
    messages, _ = of.encode(KEY, 0, a)
    for k in range(2):
        ours, theirs = (c.decode(side, KEY, 0, t[:, k], messages, k)[0] for c in (of, other))
        assert theirs == pytest.approx(8 * ours - 40, abs=1e-9)


@pytest.mark.parametrize("scheme", RACES)
@pytest.mark.parametrize("l_max", [2, 8])
def test_entropy_coded_messages_are_heard_as_those_of_fixed_width(scheme: str, l_max: int) -> None:
    a, t = samples(120, 2, 10)
    fixed, coded = (code(scheme, 2, l_max, RESOLUTION[scheme], packing) for packing in codes.PACKINGS)
    for k in range(2):
        for ours, theirs in zip(heard(fixed, sent(fixed, a, 50), t[:, k], k),
                                heard(coded, sent(coded, a, 50), t[:, k], k), strict=True):
            assert (ours == theirs).all()


# --- what does not fit the model


@pytest.mark.parametrize("l_max", [2, 8])
def test_messages_that_do_not_fit_the_side_information_leave_numbers(l_max: int) -> None:
    messages = np.random.default_rng(0).integers(0, l_max, 300)
    estimate, _ = quantiser.decode(np.zeros(300), 1e-6, messages, 1.0, 1, 0, l_max, True)
    assert np.isfinite(estimate).all()


@pytest.mark.parametrize("trellis", [False, True])
def test_a_sample_out_of_reach_leaves_the_mean(trellis: bool) -> None:
    estimate, _ = quantiser.decode(np.array([5.0]), 1e-4, np.array([1]), 100.0, 1, 0, 8, trellis)
    assert estimate[0] == pytest.approx(5.0)


@pytest.mark.parametrize("mean", [0.0, 7.0, 7.9, 8.0, 9.0, -10.0, 40.0])
def test_a_single_message_leaves_the_mean_however_far_out(mean: float) -> None:
    found = gaussian.posterior_mean(np.array([mean]), 1 / 3, 0.03, KEY, 0, 1, 1, np.zeros(1, np.int64), -1)
    assert found[0] == pytest.approx(mean, abs=1e-5)


def test_side_information_far_out_ends() -> None:
    estimate, _ = code("posterior-mean", 1, 8, 0.03).decode(SIDE_OF(SOURCE), KEY, 0, np.array([12.0]),
                               np.array([0]), 0)
    assert np.isfinite(estimate).all()
