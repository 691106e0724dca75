"""Cells of normal races against the races themselves, sample by sample; and what decoders make of them."""

import numpy as np
import pytest
from coded import KEY, RESIDUAL, code, estimates, samples
from helpers import assert_mean, assert_mean_above, assert_proportion
from scipy.stats import norm

from glsnet import envelope
from glsnet.race import EDGES, normal_race
from glsnet.sources import gaussian


def tree_at(centre: float, round_: int, streams: int, messages: int, precision: float) -> int:
    """The tree, stream x messages + message, that the encoder's race takes."""
    won = normal_race(KEY, round_, range(streams), np.zeros(1, np.int64), messages, np.array([centre]), precision)
    return int(won.stream[0]) * messages + int(won.block[0])


@pytest.mark.parametrize(("streams", "messages", "precision", "low", "high"), [
    (1, 1, 1.0, -5.0, 5.0), (1, 1, 1000.0, -5.0, 5.0), (1, 8, 30.0, -5.0, 5.0), (4, 1, 10.0, -5.0, 5.0),
    (4, 8, 100.0, -5.0, 5.0), (1, 64, 1000.0, -2.0, 3.0), (4, 64, 1.0, -5.0, 5.0), (4, 64, 1000.0, -1.0, 1.0),
    (1, 8, 0.01, -5.0, 5.0), (4, 8, 300.0, 4.0, 8.0), (1, 64, 1.0, 4.0, 8.0), (4, 1, 1000.0, -8.0, -4.0),
    (2, 8, 300.0, 0.3, 0.3001), (4, 64, 50.0, -2.0, -1.999),
])
def test_every_centre_lies_in_the_cell_of_its_winner(streams: int, messages: int, precision: float, low: float,
                                                     high: float) -> None:
    rng, width = np.random.default_rng(0), high - low
    for round_ in range(7, 11):
        tree, edges = envelope.cells(KEY, round_, streams, messages, precision, low, high, EDGES)
        assert edges[0] == low and edges[-1] == high
        assert (np.diff(edges) > 0).all()
        assert edges.size == tree.size + 1
        beside = np.concatenate((edges[:-1] + 2e-7, edges[1:] - 2e-7))  # every cell is there, up to its very edges
        grid = low + width * (np.arange(200) + rng.random(200)) / 200
        for centre in np.concatenate((grid, beside)):
            if np.abs(edges - centre).min() > 1e-7 and low < centre < high:
                cell = np.searchsorted(edges, centre) - 1
                assert tree[cell] == tree_at(centre, round_, streams, messages, precision)


def test_cells_of_a_part_of_the_line_are_those_of_the_whole() -> None:
    for round_ in range(50):
        tree, edges = envelope.cells(KEY, round_, 2, 8, 100.0, -5.0, 5.0, EDGES)
        some, their_edges = envelope.cells(KEY, round_, 2, 8, 100.0, 0.5, 1.5, EDGES)
        first, last = np.searchsorted(edges, [0.5, 1.5]) - 1
        assert (some == tree[first : last + 1]).all()
        assert their_edges[1:-1] == pytest.approx(edges[first + 1 : last + 1], abs=1e-9)


@pytest.mark.parametrize("first_round", [0, 2**32 - 6])
@pytest.mark.parametrize(("sigma2", "streams", "l_max"), [
    (0.03, 1, 2), (0.003, 4, 64), (1e-6, 1, 2), (1.0, 2, 1), (1e6, 4, 8), (1e300, 1, 8),
])
def test_chances_of_messages_sum_to_1(sigma2: float, streams: int, l_max: int, first_round: int) -> None:
    chances = gaussian.message_probabilities(sigma2, KEY, first_round, 6, streams, l_max)
    assert chances.shape == (6, l_max)
    assert chances.min() >= 0
    assert chances.sum(axis=1) == pytest.approx(1, abs=1e-12)
    assert (gaussian.message_probabilities(sigma2, KEY, first_round + 3, 2, streams, l_max) == chances[3:5]).all()


@pytest.mark.parametrize(("sigma2", "streams", "l_max"), [(0.03, 1, 2), (0.01, 4, 8), (0.3, 2, 64)])
def test_no_message_is_likelier_than_another_over_many_rounds(sigma2: float, streams: int, l_max: int) -> None:
    chances = gaussian.message_probabilities(sigma2, KEY, 0, 800, streams, l_max)
    for message in range(l_max):
        assert_mean(chances[:, message], 1 / l_max)


@pytest.mark.parametrize(("sigma2", "streams", "l_max", "round_"), [(0.03, 1, 8, 3), (0.01, 4, 8, 4), (1.0, 2, 4, 5)])
def test_messages_of_one_round_come_as_often_as_they_should(sigma2: float, streams: int, l_max: int, round_: int
                                                            ) -> None:
    a = np.random.default_rng(5).standard_normal(10_000)
    messages = [int(gaussian.encode(a[i : i + 1], sigma2, KEY, round_, streams, l_max).block[0]) for i in range(a.size)]
    counts = np.bincount(messages, minlength=l_max)
    chances = gaussian.message_probabilities(sigma2, KEY, round_, 1, streams, l_max)[0]
    assert chances.max() - chances.min() > 0.05  # else any answer would do
    for count, chance in zip(counts, chances, strict=True):
        assert_proportion(int(count), a.size, float(chance))


@pytest.mark.parametrize(("sigma2", "streams", "l_max", "mean", "residual"), [
    (0.1, 1, 2, 0.3, RESIDUAL), (0.03, 2, 4, -1.2, RESIDUAL), (0.01, 4, 8, 0.0, 1.0), (0.003, 2, 8, 2.5, 0.01),
])
def test_the_posterior_mean_is_that_over_all_samples_with_the_message(sigma2: float, streams: int, l_max: int,
                                                                      mean: float, residual: float) -> None:
    """Against the mean over 6000 samples of equal chance: each end of a run of them may be one sample out."""
    count, deviation, checked = 6000, residual**0.5, 0
    a = mean + deviation * norm.ppf((np.arange(count) + 0.5) / count)
    for round_ in (11, 12):
        won = [gaussian.encode(a[i : i + 1], sigma2, KEY, round_, streams, l_max) for i in range(count)]
        message, stream = (np.array([int(column[0]) for column in columns]) for columns in
                           (tuple(w.block for w in won), tuple(w.stream for w in won)))
        for received in range(l_max):
            for only in range(-1, streams):
                inside = (message == received) & ((stream == only) | (only < 0))
                if inside.sum() > 0.02 * count:
                    ends = int(np.abs(np.diff(inside.astype(int))).sum()) + 2
                    found = gaussian.posterior_mean(np.array([mean]), residual, sigma2, KEY, round_, streams, l_max,
                                                    np.array([received]), only)
                    assert abs(found[0] - a[inside].mean()) < ends * 4 * deviation / inside.sum()
                    assert abs(found[0] - a[inside].mean()) < 0.05 * deviation
                    checked += 1
    assert checked >= 2 * l_max


def test_a_posterior_mean_lies_among_the_samples_of_its_message() -> None:
    """Over many rounds, for the sample itself: what it would have been coded as, it was."""
    a, t = samples(40, 1, 3)
    y = gaussian.encode(a, 1e-4, KEY, 0, 1, 4096)  # so many messages, that one hardly occurs twice in reach
    estimate = gaussian.posterior_mean(t[:, 0] * 2 / 3, RESIDUAL, 1e-4, KEY, 0, 1, 4096, y.block, -1)
    assert np.median(np.abs(estimate - a)) < 0.01
    known = gaussian.posterior_mean(t[:, 0] * 2 / 3, RESIDUAL, 1e-4, KEY, 0, 1, 4096, y.block, 0)
    assert (known == estimate).all()  # there is but one stream


def test_perfect_side_information_is_the_posterior_mean() -> None:
    a = np.array([0.3, -7.0, 1e6])
    assert (gaussian.posterior_mean(a, 0.0, 0.01, KEY, 0, 2, 8, np.zeros(3, np.int64), -1) == a).all()


def test_a_message_that_nothing_in_reach_is_coded_as_leaves_the_mean() -> None:
    mean = np.full(200, 0.2)
    message = np.arange(200) % 64
    estimate = gaussian.posterior_mean(mean, 1e-8, 0.1, KEY, 0, 1, 64, message, -1)
    assert np.abs(estimate - mean).max() < 5e-4
    assert (np.abs(estimate - mean) < 1e-15).mean() > 0.9


@pytest.mark.parametrize("sigma2", [0.003, 0.03])
@pytest.mark.parametrize("decoders", [1, 2, 4])
@pytest.mark.parametrize("l_max", [2, 8, 64])
def test_a_posterior_mean_beats_the_published_estimate_and_side_information_alone(sigma2: float, decoders: int,
                                                                                  l_max: int) -> None:
    a, t = samples(5000 if (l_max, sigma2) == (2, 0.003) else 1500, decoders, 1)
    t = t[:, :1]  # decoder 0 of so many
    posterior = estimates(code("posterior-mean", decoders, l_max, sigma2), a, t)[0]
    published = estimates(code("gls", decoders, l_max, sigma2), a, t)[0]
    mean = t[:, 0] * 2 / 3
    error = (a - posterior) ** 2
    assert_mean_above((a - published) ** 2 - error, 0.0)
    assert_mean_above((a - mean) ** 2 - error, 0.0)
    # A conditional mean is orthogonal to its error, and so is whatever else the decoder knows.
    assert_mean((a - posterior) * posterior, 0.0)
    assert_mean((a - posterior) * mean, 0.0)
    assert_mean(a - posterior, 0.0)


def test_a_decoder_that_supposes_the_winner_on_its_stream_does_better_for_the_best_of_k() -> None:
    a, t = samples(3000, 2, 2)
    published, supposing = (((estimates(code(scheme, 2, 8, 0.01), a, t) - a) ** 2).min(axis=0)
                            for scheme in ("gls", "posterior-list"))
    assert_mean_above(published - supposing, 0.0)


@pytest.mark.parametrize("sigma2", [1.0, 0.03, 1e-6])
@pytest.mark.parametrize("residual", [1.0, RESIDUAL, 1e-9])
def test_posterior_means_far_out_end(sigma2: float, residual: float) -> None:
    mean = np.array([7.0, -7.5, 7.9, 8.0, -8.5, 10.0, -12.0, 40.0, 1e6])
    estimate = gaussian.posterior_mean(mean, residual, sigma2, KEY, 0, 2, 4, np.zeros(9, np.int64), -1)
    assert np.isfinite(estimate).all()
    assert (np.abs(estimate - mean) <= 5 * residual**0.5).all()  # within reach
