"""Codes for images: the listed race, both halves of every scheme, over the wire, and what is refused before it is used.

Networks are small ones with random weights: what a code has to do does not depend on what they have learned.
"""

import asyncio
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from helpers import assert_at_least, pvalue
from processes import glsnet, result_of, service
from scipy.stats import kstest

from glsnet import bounds
from glsnet.compression import DecoderSession, EncoderSession, terms_of
from glsnet.errors import CallerError, FrameError, TermsError
from glsnet.frames import Terms, carried
from glsnet.images import model as models
from glsnet.images import networks
from glsnet.images.code import SCHEMES, ImageCode, code_of
from glsnet.images.model import Model, Shape, load
from glsnet.images.networks import Sizes
from glsnet.images.pictures import crops, halves
from glsnet.lab import images as lab
from glsnet.lab.plan import Parties
from glsnet.lab.settings import ImagesRun
from glsnet.race import candidates, listed_race
from glsnet.randomness import MAX_STREAMS, seed_from_integer, session_key
from glsnet.transport.control import DecoderOrder, Session, conducting

SEED = seed_from_integer(3)
KEY = session_key(SEED, "image-race")
P_LEAST = 1e-6
SHAPE = Shape(height=4, width=6, channels=1, crop=2)
COUNTS = (1, 3, 4, 6)


def model_of(seed: int = 0, latent: int = 2, betas: tuple[float, ...] = (0.5,)) -> Model:
    sizes = Sizes(SHAPE.half, SHAPE.side, latent, features=6, hidden=5)
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(0, 0.7, shape).astype(np.float16).astype(np.float32)
               for name, shape in models.shapes_of(sizes, betas, COUNTS).items()}
    return Model(SHAPE, sizes, betas, COUNTS, "noise", weights)


MODEL = model_of()


def code(scheme: str, decoders: int = 2, l_max: int = 3, listed: int = 12, model: Model = MODEL) -> ImageCode:
    races = scheme in ("gls", "baseline")
    return ImageCode(model, scheme, decoders, l_max, listed if races else None, 0.5 if races else None, lambda: 0.0)


def views(rounds: int, seed: int = 1, decoders: int = 2) -> tuple[Any, list[Any]]:
    rng = np.random.default_rng(seed)
    left, right = halves(rng.integers(0, 256, (rounds, 4, 6, 1)).astype(np.uint8))
    return right.reshape(rounds, -1), [crops(left, 2, rng)[0] for _ in range(decoders)]


def times(round_: int, stream: int, items: range) -> list[float]:
    return [-math.log(oracle.uniform(oracle.philox(int(KEY), item, 0, stream, round_)[0])) for item in items]


@pytest.mark.parametrize("streams", [[0], [0, 1, 2]])
@pytest.mark.parametrize("spread", [0.0, 1.0, 40.0, 900.0])
def test_the_listed_race_equals_an_oracle_that_makes_every_arrival(streams: list[int], spread: float) -> None:
    weights = np.random.default_rng(2).normal(0, spread, (20, 9))
    weights[:, 4] = -np.inf
    first = np.arange(20) * 3
    won = listed_race(KEY, 100, streams, first, weights)
    for i in range(20):
        scored = [(math.log(t) - weights[i, at], first[i] + at, stream) for stream in streams
                  for at, t in enumerate(times(100 + i, stream, range(first[i], first[i] + 9)))]
        assert (won.item[i], won.stream[i]) == min(scored)[1:]


def test_what_a_listed_race_draws_has_the_law_of_its_weights() -> None:
    law = np.array([0.05, 0.4, 0.0, 0.25, 0.3])
    weights = np.log(np.where(law > 0, law, 1.0), out=np.full(5, -np.inf), where=law > 0)
    rounds = 40_000
    for streams in ([0], [0, 1, 2]):
        won = listed_race(KEY, 0, streams, np.zeros(rounds, np.int64), np.tile(weights, (rounds, 1)))
        assert pvalue(np.bincount(won.item, minlength=5), law) > P_LEAST
        assert len(streams) == 1 or pvalue(np.bincount(won.stream), np.full(3, 1 / 3)) > P_LEAST


@pytest.mark.parametrize("k", [1, 2, 8])
def test_some_decoder_matches_at_least_as_often_as_the_list_matching_lemma_says(k: int) -> None:
    rng, rounds = np.random.default_rng(k), 20_000
    p, q = (rng.dirichlet(np.full(6, 0.6)) for _ in range(2))
    first = np.zeros(rounds, np.int64)
    y = listed_race(KEY, 0, range(k), first, np.tile(np.log(q), (rounds, 1)))
    matched = np.zeros(rounds, np.bool_)
    for stream in range(k):
        x = listed_race(KEY, 0, [stream], first, np.tile(np.log(p), (rounds, 1)))
        matched |= x.item == y.item
    assert_at_least(int(matched.sum()), rounds, bounds.list_matching_lemma(p, q, k))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_none_are_refused(bad: float) -> None:
    weights = np.zeros((3, 4))
    weights[2, 1] = bad
    with pytest.raises(CallerError, match="log_weights of round 7"):
        listed_race(KEY, 5, [0], np.zeros(3, np.int64), weights)
    with pytest.raises(CallerError, match=r"log_weights of round 6.*one of them finite"):
        listed_race(KEY, 5, [0], np.zeros(2, np.int64), np.array([[0.0], [-np.inf]]))


@pytest.mark.parametrize("dimensions", [1, 4, 5])
def test_candidates_are_standard_normal_and_the_same_for_whoever_makes_them(dimensions: int) -> None:
    whole = candidates(KEY, 10, np.zeros(300, np.int64), 12, dimensions)
    assert whole.shape == (300, 12, dimensions)
    assert kstest(whole.ravel(), "norm").pvalue > P_LEAST
    assert np.abs(np.corrcoef(whole.reshape(300, -1).T) - np.eye(12 * dimensions)).max() < 0.4  # 5 deviations: 0.3
    first = np.arange(300) % 4 * 3
    for i, part in enumerate(candidates(KEY, 10, first, 3, dimensions)):
        assert (part == whole[i, first[i] : first[i] + 3]).all()


def test_the_published_code_equals_a_slow_one() -> None:
    """Every importance weight and arrival of GLS by itself, in float64, with the networks one image at a time."""
    k, l_max, listed, rounds = 3, 4, 12, 30
    of = code("gls", k, l_max, listed)
    a, t = views(rounds, decoders=k)
    messages, y = of.encode(KEY, 50, a)
    p = MODEL.vae(0.5)
    for i in range(rounds):
        w = candidates(KEY, 50 + i, np.zeros(1, np.int64), listed, 2)[0]
        mean, log_variance = (each[0].astype(np.float64) for each in networks.encoder(p, a[[i]] / np.float32(255)))
        weight = [sum(-0.5 * (x - m) ** 2 / math.exp(v) - 0.5 * v + 0.5 * x * x
                      for x, m, v in zip(each, mean, log_variance, strict=True)) for each in w]
        _, item, stream = min((math.log(s) - weight[at], at, stream) for stream in range(k)
                              for at, s in enumerate(times(50 + i, stream, range(listed))))
        assert (y.node[i], y.stream[i], messages[i]) == (item, stream, item // 3)
        for stream in range(k):
            crop = t[stream][[i]] / np.float32(255)
            features = networks.ratio_features(p, crop)
            inside = range(3 * messages[i], 3 * messages[i] + 3)
            ratio = [float(networks.ratio(p, w[[at]].astype(np.float32), features)[0]) for at in inside]
            arrivals = times(50 + i, stream, inside)
            _, item = min((math.log(s) - r, at) for s, r, at in zip(arrivals, ratio, inside, strict=True))
            estimate, x = of.decode(KEY, 50 + i, t[stream][[i]], messages[[i]], stream)
            assert (x.node[0], x.stream[0]) == (item, stream)
            expected = networks.decoder(p, w[[item]].astype(np.float32), crop).clip(0, 1)
            np.testing.assert_allclose(estimate, expected, atol=1e-5)


def test_in_the_baseline_all_decoders_race_on_one_stream() -> None:
    of = code("baseline", 3)
    a, (t, *_) = views(50)
    messages, y = of.encode(KEY, 0, a)
    drawn = [of.decode(KEY, 0, t, messages, k)[1] for k in range(3)]
    assert not y.stream.any() and all((x.node == drawn[0].node).all() and not x.stream.any() for x in drawn)


def test_k_means_sends_the_nearest_centroid() -> None:
    of = code("vq", l_max=4)
    a, (t, _) = views(40)
    messages, _ = of.encode(KEY, 0, a)
    centroids, halves_ = MODEL.cells["centroids.of4"], a / np.float32(255)
    assert messages.tolist() == [int(((centroids - half) ** 2).sum(1).argmin()) for half in halves_]
    estimate, _ = of.decode(KEY, 0, t, messages, 1)
    np.testing.assert_array_equal(estimate, centroids[messages].clip(0, 1))


def test_the_learned_quantisers_decode_the_cell_that_was_sent_or_each_its_own() -> None:
    a, t = views(60)
    alone, listed = code("wyner-ziv", 2, 3), code("wyner-ziv-list", 2, 3)
    messages, y = alone.encode(KEY, 0, a)
    assert (y.node == networks.scores(MODEL.cells, 3, a / np.float32(255)).argmax(1)).all()
    for k in range(2):
        estimate, x = alone.decode(KEY, 0, t[k], messages, k)
        assert (x.node == y.node).all()
        np.testing.assert_array_equal(
            estimate, networks.cells(MODEL.cells, 3, messages, t[k] / np.float32(255)).clip(0, 1))
    messages, y = listed.encode(KEY, 0, a)
    assert (y.node == networks.scores(MODEL.cells, 6, a / np.float32(255)).argmax(1)).all()
    found = np.array([listed.decode(KEY, 0, t[k], messages, k)[1].node == y.node for k in range(2)])
    assert (found.sum(0) == 1).all()  # just the decoder whose part it is


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_code_does_not_depend_on_how_rounds_are_cut_into_frames(scheme: str) -> None:
    of = code(scheme)
    a, t = views(33)
    messages, y = of.encode(KEY, 7, a)
    for part in (slice(0, 10), slice(10, 33)):
        again, chosen = of.encode(KEY, 7 + part.start, a[part])
        assert (again == messages[part]).all() and (chosen.node == y.node[part]).all()
        whole, parts = (of.decode(KEY, 7 + at.start, t[1][at], messages[at], 1)[0] for at in (slice(0, 33), part))
        np.testing.assert_allclose(whole[part], parts, atol=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_indices_go_to_a_decoder_and_a_crop_of_another_one_changes_nothing(scheme: str) -> None:
    of, terms = code(scheme), terms_of(code(scheme), SEED)
    encoder = EncoderSession("s", of, SEED)
    decoders = [DecoderSession("s", lambda given: code_of(given, MODEL, lambda: 0.0), SEED, terms, k) for k in range(2)]
    for k, decoder in enumerate(decoders):
        encoder.receive(k, decoder.agree(carried(encoder.join(carried(decoder.join())[0]))[0]))
    a, t = views(100)
    frame, y = encoder.encode(a)
    assert len(frame.packed) == math.ceil(100 * 2 / 8)  # L_max = 3: two bits
    x, _ = decoders[1].decode(carried(frame)[0], t[1])
    expected, chosen = of.decode(KEY, 0, t[1], y.message, 1)
    np.testing.assert_array_equal(x.reconstruction, expected)
    assert (x.node == chosen.node).all()


@pytest.mark.parametrize(("arguments", "text"), [
    (("gls", 2, 3, 12, 0.25), "beta: expected one of 0"), (("gls", 2, 3, 12, None), "beta: expected one"),
    (("gls", 2, 3, 13, 0.5), "candidates: expected a multiple of l_max, 3"), (("gls", 2, 3, 0, 0.5), "candidates"),
    (("gls", 2, 3, None, 0.5), "candidates"), (("vq", 2, 3, 12, None), "candidates and beta: expected none"),
    (("wyner-ziv", 2, 5, None, None), "l_max: expected one for which this model has a quantiser, of 1, 3, 4, 6 cells"),
    (("wyner-ziv-list", 3, 3, None, None), "one of 9 for wyner-ziv-list"), (("best", 2, 3, None, None), "scheme"),
    (("vq", 0, 3, None, None), "decoders"), (("vq", 1, 0, None, None), "l_max"),
    (("gls", MAX_STREAMS, 3, 12, 0.5), "decoders"),
])
def test_codes_out_of_range_are_refused(arguments: tuple[str, int, int, int | None, float | None], text: str) -> None:
    with pytest.raises(CallerError, match=text):
        ImageCode(MODEL, *arguments, lambda: 0.0)


@pytest.mark.parametrize("wrong", [np.zeros((3, 11), np.uint8), np.zeros((3, 12)), np.zeros(12, np.uint8)])
def test_pixels_of_another_kind_are_refused(wrong: Any) -> None:
    with pytest.raises(CallerError, match="image: expected 12 pixels of 8 bits"):
        code("vq").encode(KEY, 0, wrong)
    with pytest.raises(CallerError, match="crop: expected 4 pixels of 8 bits"):
        code("vq").decode(KEY, 0, wrong, np.zeros(3, np.int64), 0)


def joined(ours: ImageCode, theirs: Model) -> None:
    """A decoder with another model joins."""
    encoder = EncoderSession("s", ours, SEED)
    decoder = DecoderSession("s", lambda given: code_of(given, theirs, lambda: 0.0), SEED, Terms(), 0)
    decoder.agree(encoder.join(decoder.join()))


@pytest.mark.parametrize(("theirs", "term"), [(model_of(seed=1), "model"), (model_of(latent=3), "prior")])
def test_another_model_or_prior_is_found_before_the_first_index(theirs: Model, term: str) -> None:
    with pytest.raises(TermsError, match=f"^{term}: the encoder has"):
        joined(code("gls"), theirs)
    with pytest.raises(TermsError, match=r"beta: expected one of 0\.7"):
        joined(code("gls"), model_of(betas=(0.7,)))
    with pytest.raises(FrameError, match="got none for decoders"):
        code_of(Terms(scheme="gls", l_max=3, model=MODEL.digest), MODEL, lambda: 0.0)


def test_a_model_goes_through_its_file(tmp_path: Path) -> None:
    MODEL.write(tmp_path / "m.safetensors")
    again = load(str(tmp_path / "m.safetensors"))
    assert again.digest == MODEL.digest and again.shape == SHAPE and again.counts == COUNTS
    assert all((again.weights[name] == MODEL.weights[name]).all() for name in MODEL.weights)


@pytest.mark.parametrize("name", models.EMBEDDED)
def test_the_models_that_come_with_glsnet_are_small_and_have_all_networks(name: str) -> None:
    embedded = load(name)
    assert len(embedded.to_bytes()) < 6e6
    assert embedded.betas == models.BETAS and embedded.counts == models.COUNTS and embedded.sizes.latent == 4


def ignore(_: object) -> None:
    """For who needs no progress."""


def settings(*assignments: str) -> ImagesRun:
    return ImagesRun.parsed(["decoders=2", "l_max=4", "candidates=64", "samples=60", "frame=25", *assignments])


def test_a_session_whose_last_frame_is_acknowledged_by_itself_ends_well() -> None:
    assert lab.measure(settings("scheme=vq", "samples=8", "frame=1"))["samples"] == 8


@pytest.mark.parametrize("scheme", ["gls", "wyner-ziv-list"])
def test_services_and_one_process_give_the_same(scheme: str) -> None:
    grpc, direct = (lab.measure(settings(f"scheme={scheme}", f"transport={transport}"))
                    for transport in ("grpc", "direct"))
    for name in ("indices_digest", "mse", "decoder_mse", "match_rate", "shown", "side_information_mse", "vq_mse"):
        assert grpc[name] == direct[name], name
    for layer in ("packed", "protobuf"):
        assert grpc["bits_per_sample"][layer] == direct["bits_per_sample"][layer]
    assert grpc["bits_per_sample"]["packed"] == 8 * (7 + 7 + 3) / 60  # frames of 25, 25 and 10 images, 2 bits each
    assert grpc["bits_per_sample"]["stream"] > grpc["bits_per_sample"]["protobuf"]
    assert all(grpc["seconds"][part] > 0 for part in ("networks", "wire", "elapsed"))
    assert (grpc["seconds"]["races"] > 0) == (scheme == "gls")


def test_what_a_run_says_of_its_errors_is_what_a_plain_loop_finds(tmp_path: Path) -> None:
    given = settings("transport=direct", "shown=3")
    seen = lab.prepared(given)
    drawn: list[Any] = []
    kept = lab.Output(seen)
    result = asyncio.run(lab.run(given, seen, None, drawn.append, kept.add))
    of, key = lab.code_of(given, seen.model), session_key(seed_from_integer(1), "image-race")
    messages, y = of.encode(key, 0, seen.a)
    errors, matched = np.empty((2, 60)), np.empty((2, 60), np.bool_)
    for k in range(2):
        estimate, x = of.decode(key, 0, seen.t[:, k].copy(), messages, k)
        errors[k] = ((estimate.astype(np.float64) - seen.a / 255) ** 2).mean(1)
        matched[k] = (x.node == y.node) & (x.stream == y.stream)
    assert result["mse"] == pytest.approx(errors.min(0).mean(), rel=1e-5)
    assert result["decoder_mse"] == pytest.approx(errors.mean(), rel=1e-5)
    assert result["match_rate"] == matched.any(0).mean()
    mean = seen.model.cells["centroids.of1"]
    assert result["mean_mse"] == pytest.approx(((mean - seen.a / 255) ** 2).mean(), rel=1e-5)
    assert [image["index"] for image in result["shown"]["images"]] == [0, 1, 2]
    assert [image["matched"] for image in result["shown"]["images"]] == matched[:, :3].T.tolist()
    assert len(drawn) == 3
    kept.write(tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as arrays:
        assert (arrays["index"] == messages).all() and (arrays["matched"] == matched.T).all()
        assert (arrays["place"] == seen.places).all()
        off = arrays["reconstruction"].reshape(60, 2, -1).astype(np.float64) - seen.a[:, None]
    assert (off**2).mean() / 255**2 == pytest.approx(errors.mean(), rel=1e-2)  # to whole numbers


def test_crops_are_of_the_left_half_and_the_same_whoever_else_takes_part() -> None:
    few, many = (lab.prepared(settings(f"decoders={k}", "transport=direct")) for k in (1, 3))
    assert (few.t[:, 0] == many.t[:, 0]).all()
    for i, (row, column) in enumerate(many.places[:, 2]):
        assert column + 3 <= 4
        assert (many.images[i, row : row + 3, column : column + 3].ravel() == many.t[i, 2]).all()


@pytest.mark.parametrize(("assignments", "text"), [
    (["dataset=cifar10"], "model: expected one, for none that comes with glsnet is for cifar10"),
    (["model=mnist"], "model: expected one for images of 8x8x1, those of digits, got one for 28x28x1"),
    (["samples=360"], "samples: expected at most 359"), (["l_max=5"], "candidates: expected a multiple of l_max, 5"),
    (["beta=0.2"], "beta: expected one of 0.15"), (["model=nowhere.safetensors"], "model: expected digits or mnist"),
    (["dataset=folder", "model=digits"], "--data: expected the folder"),
])
def test_what_does_not_belong_together_is_refused_before_anything_is_started(assignments: list[str], text: str) -> None:
    with pytest.raises(CallerError, match=re.escape(text)):
        lab.prepared(settings(*assignments))


def test_a_service_with_another_model_says_so_before_anything_is_sent(tmp_path: Path) -> None:
    other = replace(load("digits"), trained_on="something else")
    other.write(tmp_path / "other.safetensors")
    given = settings()
    with service("encoder_service") as encoder, service("decoder_service") as one, service(
            "decoder_service", "--image-model", str(tmp_path / "other.safetensors")) as two:
        parties = Parties(encoder.address, [one.address, two.address])
        with pytest.raises(CallerError, match=f"model: expected the one with digest {load('digits').digest}, as "
                                              f"ordered, got {other.digest}"):
            asyncio.run(lab.run(given, lab.prepared(given), parties, ignore, ignore))
        again = Parties(encoder.address, [one.address, one.address])  # which both go on to serve
        assert asyncio.run(lab.run(given, lab.prepared(given), again, ignore, ignore))["samples"] == 60


def test_a_service_refuses_an_order_of_half_an_image() -> None:
    terms = terms_of(ImageCode(load("digits"), "vq", 1, 4, None, None, time.thread_time), SEED)

    async def order(address: str) -> None:
        async with conducting(address, "encoder", Session("s", SEED), terms, None) as encoder:
            await encoder.opened()
            order = DecoderOrder(address, 0)
            async with conducting(address_of_decoder, "decoder", Session("s", SEED), terms, order) as decoder:
                await decoder.opened()
                await encoder.send(np.zeros(33, np.uint8))
                await encoder.outcomes()

    with service("encoder_service") as encoder, service("decoder_service") as decoder:
        address_of_decoder = decoder.address
        with pytest.raises(FrameError, match="samples: expected 32 pixels for each image, got 33"):
            asyncio.run(order(encoder.address))


def test_the_command_line_prints_one_result() -> None:
    result = result_of("--set=samples=40", "--set=decoders=2", "--set=l_max=8", "--set=scheme=wyner-ziv", run="images")
    assert result["match_rate"] == 1.0 and result["samples"] == 40 and result["transport"] == "grpc"


@pytest.mark.parametrize(("options", "text"), [
    (["--data", "."], "--data: expected no folder, for digits come with scikit-learn"),
    (["--set", "scheme=best"], "scheme: expected"), (["--set", "image=3"], "image: no such setting; the keys are"),
    (["--contact-sheet", "x.png", "--set", "shown=0"], "--contact-sheet: expected some images to show"),
])
def test_mistakes_on_the_command_line_exit_with_2(options: list[str], text: str) -> None:
    done = glsnet("run", "images", *options, code=2)
    assert done.stderr.startswith(f"glsnet: error: {text}") and not done.stdout
