"""Training of image models: reproducible, resumed to the bit, refused where it cannot work; and what a file may hold.

Networks are tiny and learn for two epochs, of digits.
"""

import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from processes import GLSNET, glsnet, until
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

from glsnet import images
from glsnet.errors import CallerError
from glsnet.images import networks
from glsnet.images.model import Model, load
from glsnet.images.networks import Sizes
from glsnet.images.pictures import Pictures
from glsnet.images.pictures import load as load_pictures
from glsnet.lab import cli_train

torch: Any = pytest.importorskip("torch")
training: Any = pytest.importorskip("glsnet.images.training")

DIGITS = load_pictures("digits", None)
TINY = training.Profile(hidden=16, features=8, batch=64, vae_epochs=2, ratio_epochs=2, cells_epochs=2)
STAGES = ["centroids", "beta=0.35", "beta=0.35, ratio", "cells"]
Report = Callable[[Any], None]
train: Callable[..., None] = cli_train.images


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Tiny models are faster on one, as OMP_NUM_THREADS has it for processes."""
    threads = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


def trained(checkpoint: Path, report: Report = lambda _: None, profile: Any = TINY, seed: int = 1, crop: int = 3,
            pictures: Pictures = DIGITS, **settings: Any) -> Model:
    settings = {"betas": (0.35,), "counts": (1, 4)} | settings
    model: Model = training.train(pictures, crop, profile, seed, checkpoint, report, **settings)
    return model


class Stopped(Exception):
    """In place of a kill."""


def after(reports: int, seen: list[Any]) -> Report:
    """A report that stops the run once it has been called so often."""
    def report(progress: Any) -> None:
        seen.append(progress)
        if len(seen) == reports:
            raise Stopped

    return report


def ended(reports: list[Any]) -> list[tuple[str, int, float, float]]:
    """The epochs that were trained, and what they said."""
    return [(each.stage, each.epoch, each.loss, each.held_out) for each in reports if not math.isnan(each.held_out)]


class Whole:
    """A run that nothing interrupts: the model, its reports, and the checkpoint as it was at each of them."""

    def __init__(self, folder: Path) -> None:
        self.reports: list[Any] = []
        self.checkpoints: list[bytes] = []
        self._path = folder / "checkpoint"
        self.model = trained(self._path, self._report)
        self.last = self._path.read_bytes()

    def _report(self, progress: Any) -> None:
        self.reports.append(progress)
        self.checkpoints.append(self._path.read_bytes())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


# What is learned


def test_every_stage_reports_its_epochs_and_its_losses_fall(whole: Whole) -> None:
    reports = whole.reports
    assert [(each.stage, each.number, each.epoch) for each in reports] == [
        (stage, number, epoch) for number, stage in enumerate(STAGES, 1) for epoch in range(3)]
    assert {(each.stages, each.epochs) for each in reports} == {(4, 2)}
    for stage in STAGES[1:]:
        begun, first, last = (each for each in reports if each.stage == stage)
        assert math.isnan(begun.held_out) and last.loss < first.loss and last.held_out < first.held_out < math.inf


def test_a_learned_quantiser_begins_as_the_plain_one() -> None:
    sizes = Sizes(half=32, crop=9, features=8, hidden=16)
    torch.manual_seed(1)
    a, t = torch.rand(50, 32), torch.rand(50, 9)
    weights = training._initial_cells(sizes, (1, 4)) | training._centroids(a, (1, 4), 1, lambda _: None)
    assert {name: tuple(value.shape) for name, value in weights.items()} == networks.cells_shapes(sizes, (1, 4))
    for count in (1, 4):
        centroids = weights[f"centroids.of{count}"]
        cell = networks.scores(weights, count, a).argmax(1)
        assert torch.equal(cell, torch.cdist(a, centroids).argmin(1))
        assert torch.equal(networks.cells(weights, count, cell, t), centroids[cell])
        assert not torch.equal(weights[f"cells.of{count}"], torch.zeros(count, 16))  # or none would ever be learned


def test_every_quantiser_is_trained_even_where_an_epoch_has_fewer_steps(tmp_path: Path) -> None:
    profile = training.Profile(16, 8, 400, 1, 1, 2)  # 3 steps an epoch
    model = trained(tmp_path / "checkpoint", profile=profile, counts=(1, 2, 3, 4, 5, 6))
    assert all(model.cells[f"scores.of{count}.weight"].any() for count in model.counts[1:])  # of one cell nothing is


def test_the_estimator_finds_the_ratio_of_a_law_that_is_known() -> None:
    """w and t jointly normal with correlation r, so that ln p(w|t)/p(w) is known, through an encoder made by hand.

    Its deviation is 0.65; the estimate is 0.05 off in the mean, and 0.1 is allowed.
    """
    s, noise = 0.8, 0.75  # w = s a + sqrt(1 - s^2) z, t = a + noise z'
    encoder = {
        "encoder.0.weight": torch.tensor([[1.0, -1.0]]), "encoder.1.weight": torch.eye(2),
        "encoder.2.weight": torch.tensor([[s, 0.0], [-s, 0.0]]), "encoder.0.bias": torch.zeros(2),
        "encoder.1.bias": torch.zeros(2), "encoder.2.bias": torch.tensor([0.0, math.log(1 - s * s)]),
    }
    torch.manual_seed(1)
    shapes = networks.ratio_shapes(Sizes(half=1, crop=1, latent=1, features=32, hidden=32))
    weights = {name: value.requires_grad_() for name, value in training._initial(shapes).items()}
    steps = 1500
    optimiser = torch.optim.Adam(weights.values(), 3e-3)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        a = torch.randn(512, 1)
        loss = training._ratio_loss(encoder | weights, a, a + noise * torch.randn_like(a), step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    a = torch.randn(20_000, 1)
    t, w = a + noise * torch.randn_like(a), s * a + math.sqrt(1 - s * s) * torch.randn_like(a)
    r = s / math.sqrt(1 + noise**2)
    scaled = t / math.sqrt(1 + noise**2)
    expected = (-0.5 * math.log(1 - r * r) - (w - r * scaled) ** 2 / (2 * (1 - r * r)) + w**2 / 2)[:, 0]
    with torch.no_grad():
        found = networks.ratio(weights, w, networks.ratio_features(weights, t))
    assert float(expected.std()) > 0.5
    assert float((found - expected).abs().mean()) < 0.1


def test_networks_are_the_same_in_numpy_and_in_torch() -> None:
    sizes = Sizes(half=12, crop=4, latent=3, features=8, hidden=10)
    rng = np.random.default_rng(1)
    shapes = networks.vae_shapes(sizes) | networks.ratio_shapes(sizes) | networks.cells_shapes(sizes, (1, 5))
    ours: dict[str, Any] = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    theirs = {name: torch.from_numpy(array) for name, array in ours.items()}
    a, t, w = (rng.normal(0, 1, (6, size)).astype(np.float32) for size in (12, 4, 3))
    many = rng.normal(0, 1, (6, 7, 3)).astype(np.float32)
    cell = rng.integers(5, size=(2, 6))
    called: list[Callable[[Any, Callable[[Any], Any]], Any]] = [
        lambda p, of: networks.encoder(p, of(a))[0], lambda p, of: networks.encoder(p, of(30 * a))[1],
        lambda p, of: networks.decoder(p, of(w), of(t)), lambda p, of: networks.nearness(p, 5, of(a)),
        lambda p, of: networks.ratio(p, of(many), networks.ratio_features(p, of(t))[:, None]),
        lambda p, of: networks.scores(p, 5, of(a)), lambda p, of: networks.cells(p, 5, of(cell), of(t)),
    ]
    for call in called:
        found, expected = call(ours, lambda array: array), call(theirs, torch.from_numpy).numpy()
        assert found.dtype == expected.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


# To the bit


def test_the_same_seed_gives_the_same_file_and_another_another(whole: Whole, tmp_path: Path) -> None:
    expected = whole.model.to_bytes()
    torch.manual_seed(5)  # nothing depends on what was drawn before
    assert trained(tmp_path / "again").to_bytes() == expected
    assert trained(tmp_path / "other", seed=2).to_bytes() != expected


def test_threads_change_nothing_from_run_to_run(tmp_path: Path) -> None:
    """With layers so wide that they share the work: sums of cells' gradients would depend on which comes first."""
    torch.set_num_threads(2)
    profile = training.Profile(64, 128, 128, 1, 1, 1)
    for name in ("one", "two"):
        trained(tmp_path / name, profile=profile, betas=(), counts=(1, 4, 8))
    torch.set_num_threads(1)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()  # in float32, as a model's file is not
    assert not torch.are_deterministic_algorithms_enabled()  # which is for others to say


def test_a_run_goes_on_from_wherever_it_was_stopped(whole: Whole, tmp_path: Path) -> None:
    for at, (last, checkpoint) in enumerate(zip(whole.reports, whole.checkpoints, strict=True)):
        path, rest = tmp_path / str(at), list[Any]()
        path.write_bytes(checkpoint)
        assert trained(path, rest.append).to_bytes() == whole.model.to_bytes()
        assert ended(whole.reports[: at + 1]) + ended(rest) == ended(whole.reports)  # no epoch is trained again
        if last.number > 1:
            assert (rest[0].stage, rest[0].epoch) == (last.stage, last.epoch) and math.isnan(rest[0].held_out)
    none: list[Any] = []
    (tmp_path / "last").write_bytes(whole.last)
    assert trained(tmp_path / "last", none.append).to_bytes() == whole.model.to_bytes() and not none


def test_what_a_run_leaves_when_its_report_raises_is_what_a_kill_would_leave(whole: Whole, tmp_path: Path) -> None:
    for stop in (2, 5, 9):
        with pytest.raises(Stopped):
            trained(tmp_path / "checkpoint", after(stop, []))
        assert (tmp_path / "checkpoint").read_bytes() == whole.checkpoints[stop - 1]
        (tmp_path / "checkpoint").unlink()


def ended_in(checkpoint: Path) -> list[str]:
    """The stages that a checkpoint has done."""
    done: list[str] = state_of(checkpoint)["done"]
    return done


def state_of(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="numpy") as opened:
        state: dict[str, Any] = json.loads(opened.metadata()["glsnet"])
    return state


def test_a_stage_that_stalls_ends_early_with_its_best_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "PATIENCE", 1)
    monkeypatch.setattr(training, "RATE", 0.1)  # far too fast, so that losses go up and down
    profile = training.Profile(16, 8, 64, 20, 20, 20)
    reports: list[Any] = []
    weights: dict[tuple[str, int], Any] = {}
    names = dict(zip(STAGES[1:], ["encoder.0.weight", "ratio.w.weight", "scores.0.weight"], strict=True))

    def report(progress: Any) -> None:
        reports.append(progress)
        if not math.isnan(progress.held_out):
            now = load_file(tmp_path / "checkpoint")[f"now/{names[progress.stage]}"]
            weights[progress.stage, progress.epoch] = now

    model = trained(tmp_path / "checkpoint", report, profile)
    early = []
    for stage, name in names.items():
        held = [each.held_out for each in reports if each.stage == stage][1:]
        best = int(np.argmin(held)) + 1
        if len(held) < 20:
            assert len(held) == best + 1
            early.append(stage)
        kept = model.weights[f"{stage.removesuffix(', ratio')}/{name}"]
        assert np.array_equal(kept, weights[stage, best])
        assert not np.array_equal(kept, weights[stage, len(held)]) or best == len(held)
    assert early
    # Stopped between the last epoch and the end of its stage, it goes on to the next stage.
    last = max(at for at, each in enumerate(reports, 1) if each.stage == early[0])
    seen, rest = list[Any](), list[Any]()
    with pytest.raises(Stopped):
        trained(tmp_path / "again", after(last, seen), profile)
    assert trained(tmp_path / "again", rest.append, profile).to_bytes() == model.to_bytes()
    assert ended(seen) + ended(rest) == ended(reports)


def test_a_process_that_is_killed_goes_on_to_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLSNET_DATA", str(tmp_path / "nowhere"))  # which is not for digits

    killed, checkpoint = tmp_path / "killed.safetensors", tmp_path / "killed.safetensors.checkpoint"
    command = ["train", "images", "--hidden=16", "--betas=0.15,0.35,0.75", "--cells=1,4", f"--output={killed}"]
    with subprocess.Popen([GLSNET, *command], stderr=subprocess.PIPE) as process:
        until(lambda: checkpoint.exists() and state_of(checkpoint)["epoch"] > 0)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert checkpoint.exists() and not killed.exists()
    done = glsnet(*command)
    assert done.stdout == f"{killed}\n"
    assert re.search(r"resuming after stage \d of 8 and epoch \d+ of ", done.stderr)
    train(tmp_path / "whole.safetensors", hidden=16, betas="0.15,0.35,0.75", cells="1,4")
    assert killed.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert load(str(killed)).shape.crop == 3
    assert not list(tmp_path.glob("*.checkpoint"))


# What is refused


@pytest.fixture
def begun(whole: Whole) -> bytes:
    """The checkpoint of a run that was stopped after an epoch of its second stage."""
    return whole.checkpoints[4]


@pytest.mark.parametrize(("settings", "text"), [
    ({"seed": 2}, "expected a checkpoint with seed 2, got 1; delete it"), ({"counts": (1, 5)}, "with counts [1, 5]"),
    ({"betas": (0.3,)}, "with betas [0.3], got [0.35]"), ({"latent": 3}, "with sizes"), ({"crop": 2}, "with shape"),
    ({"profile": training.Profile(16, 8, 64, 2, 2, 3)}, "with profile"),
    ({"pictures": Pictures("others", DIGITS.train, DIGITS.test)}, "with images others, got digits"),
    ({"pictures": Pictures("digits", DIGITS.train[:900], DIGITS.test)}, "with count 900, got 1438"),
])
def test_a_checkpoint_of_another_run_is_refused(begun: bytes, settings: dict[str, Any], text: str, tmp_path: Path
                                                ) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(begun)
    with pytest.raises(CallerError, match=re.escape(text)):
        trained(path, **settings)
    assert path.read_bytes() == begun


def test_a_damaged_checkpoint_is_refused(begun: bytes, tmp_path: Path) -> None:
    said = "expected a checkpoint of `glsnet train images`, got another file, or one that is damaged"
    header = 8 + int.from_bytes(begun[:8], "little")
    damaged = [b"", begun[:7], begun[:header], begun[:-1], b"\0" * 100, begun[:8] + b"x" + begun[9:]]
    for at, data in enumerate(damaged):
        (tmp_path / str(at)).write_bytes(data)
        with pytest.raises(CallerError, match=f"{tmp_path / str(at)}: {said}"):
            trained(tmp_path / str(at))
    states: list[Any] = [{}, [], {"order": ["a"]}, {"order": []}, {"order": [], "settings": 1},
                         {"order": [], "settings": {}, "done": ["cells"]}]
    for at, state in enumerate(states):
        save_file({"b": np.zeros(1)}, tmp_path / f"state{at}", {"glsnet": json.dumps(state)})
        with pytest.raises(CallerError, match=said):
            trained(tmp_path / f"state{at}")
    save_file({"b": np.zeros(1)}, tmp_path / "no state")
    (tmp_path / "folder").mkdir()
    for name in ("no state", "folder"):
        with pytest.raises(CallerError, match=said):
            trained(tmp_path / name)


@pytest.mark.parametrize(("settings", "text"), [
    ({"pictures": Pictures("few", DIGITS.train[:67], DIGITS.test)}, "images: expected at least 64 .* got 64"),
    ({"pictures": Pictures("few", DIGITS.train[:66], DIGITS.test)}, "images: expected at least 64 .* got 63; give"),
    ({"pictures": Pictures("few", DIGITS.train[:100], DIGITS.test), "counts": (1, 96)}, "expected at least 96 .* 95"),
    ({"pictures": Pictures("few", DIGITS.train[:19], DIGITS.test), "profile": training.Profile(4, 4, 8, 1, 1, 1)},
     "expected at least 20 .* got 19"),  # of which none would be held out
    ({"crop": 5}, "crop: expected a side of 1 to 4 pixels"), ({"crop": 0}, "crop: expected"),
    ({"seed": -1}, "seed: expected 0 to 4294967295, got -1"), ({"seed": 2**32}, "seed"), ({"latent": 0}, "latent"),
    ({"betas": (0.0,)}, "betas: expected finite numbers above 0"), ({"betas": (math.inf,)}, "got inf"),
    ({"betas": (math.nan,)}, "got nan"), ({"betas": (0.35, 0.35)}, "betas: .* differ"),
    ({"betas": (0.35, 0.35000001)}, "differ in their first six digits"), ({"counts": ()}, "cells: .* got none"),
    ({"counts": (0, 1)}, "cells: expected"), ({"counts": (1, 4, 4)}, "none twice, .* got 1, 4, 4"),
    ({"counts": (4, 8)}, "cells: .* 1 itself among them"),
    ({"betas": (1e38,)}, "training: expected a finite loss, got (inf|nan) after epoch 1; choose smaller betas"),
    *(({"device": device}, f"device: expected one that torch has here, such as cpu, got '{device}'")
      for device in ("gpu", "cuda:99", "meta")),
])
def test_what_cannot_be_trained_is_refused(settings: dict[str, Any], text: str, tmp_path: Path) -> None:
    if text.endswith("got 64"):  # just enough
        trained(tmp_path / "checkpoint", **settings)
        return
    with pytest.raises(CallerError, match=text):
        trained(tmp_path / "checkpoint", **settings)


# The command line


def test_a_checkpoint_that_cannot_be_written_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    reports: list[Any] = []
    with pytest.raises(CallerError, match="expected a file that can be written"):
        trained(tmp_path / "nowhere" / "checkpoint", reports.append)
    assert not reports


@pytest.mark.parametrize(("options", "text"), [
    ({"output": Path("model.bin")}, "--output: expected a .safetensors file to write, got model.bin"),
    ({"output": Path("folder.safetensors")}, "--output: expected a .safetensors file to write, got folder"),
    ({"output": Path("nowhere/model.safetensors")}, "nowhere/model.safetensors.checkpoint: expected a file that can"),
    ({"betas": "0.15,x"}, "--betas: expected numbers with commas between them, as in 0.15,0.35, got '0.15,x'"),
    ({"betas": ""}, "--betas: expected numbers"), ({"betas": "-1"}, "betas: expected finite numbers above 0"),
    ({"cells": "1,2.5"}, "--cells: expected numbers with commas between them, as in 1,4,8, got '1,2.5'"),
    ({"cells": "0"}, "cells: expected numbers of at least 1"), ({"device": "cuda:99"}, "device: expected one that"),
    ({"crop": 5}, "crop: expected a side of 1 to 4"), ({"data": Path(".")}, "--data: expected no folder, for digits"),
    ({"dataset": cli_train.Dataset.folder}, "--data: expected the folder of your images, got none"),
    ({"cells": "1,2000"}, "images: expected at least 2000"),
])
def test_mistakes_of_the_caller(options: dict[str, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                ) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLSNET_DATA", raising=False)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(CallerError, match=re.escape(text)):
        train(**{"output": Path("model.safetensors"), "hidden": 16} | options)
    assert [each.name for each in tmp_path.iterdir()] == ["folder.safetensors"]


def test_a_folder_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    (tmp_path / "images" / "all").mkdir(parents=True)
    for i in range(180):
        Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)).save(tmp_path / f"images/all/{i:03}.png")
    train(tmp_path / "mine.safetensors", cli_train.Dataset.folder, tmp_path / "images", hidden=8, latent=3,
                     betas="0.5, 1", cells="1,2")
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'mine.safetensors'}\n"
    for said in ("reading images", "180/180", "all stages", "6/6", "centroids", "beta=0.5, ratio", "beta=1", "cells"):
        assert said in captured.err
    assert "resuming" not in captured.err and sorted(each.name for each in tmp_path.iterdir()) == ["images",
                                                                                                "mine.safetensors"]
    model = load(str(tmp_path / "mine.safetensors"))
    assert (model.shape.crop, model.sizes.latent, model.betas, model.counts) == (2, 3, (0.5, 1.0), (1, 2))
    assert model.trained_on == "images" and model.sizes.half == 6 * 4 * 3


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
                                  ) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_vae_loss", interrupted)
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path / "mine.safetensors", hidden=16, cells="1")
    assert stopped.value.code == 130
    checkpoint = tmp_path / "mine.safetensors.checkpoint"
    assert f"glsnet: interrupted; the same command goes on from {checkpoint}\n" in capsys.readouterr().err
    assert ended_in(checkpoint) == ["centroids"] and list(tmp_path.iterdir()) == [checkpoint]


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(images, "training")
    monkeypatch.delitem(sys.modules, "glsnet.images.training")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(CallerError, match=r"training: expected torch, got .*; pip install 'glsnet\[images\]'"):
        train(tmp_path / "mine.safetensors")


# The file


@pytest.fixture(scope="module")
def file(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "model.safetensors"
    whole.model.write(path)
    return path


def test_a_model_is_read_as_it_was_written(whole: Whole, file: Path) -> None:
    model = load(str(file))
    assert model.digest == whole.model.digest and model.to_bytes() == file.read_bytes()
    assert re.fullmatch("[0-9a-f]{16}", model.digest)
    assert (model.shape, model.sizes, model.betas, model.counts) == (
        whole.model.shape, whole.model.sizes, whole.model.betas, whole.model.counts)
    for name, array in model.weights.items():
        assert np.array_equal(array, whole.model.weights[name].astype(np.float16).astype(np.float32))


def test_a_truncated_model_is_refused(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for at, size in enumerate([0, 7, 8, header - 1, header, len(data) // 2, len(data) - 1]):
        (tmp_path / f"{at}.safetensors").write_bytes(data[:size])
        with pytest.raises(CallerError, match="which is another or damaged"):
            load(str(tmp_path / f"{at}.safetensors"))


WEIGHT = "beta=0.35/ratio.w.weight"


@pytest.mark.parametrize(("changed", "description", "text"), [
    ({}, {"prior": "Laplace, 4 dimensions"}, "prior: expected 'standard normal, 4 dimensions', .* got 'Laplace, 4"),
    ({WEIGHT: None}, {}, f"got none: {WEIGHT}"), ({"beta=0.35/bias": np.zeros(1)}, {}, "got more: beta=0.35/bias"),
    ({WEIGHT: np.zeros((4, 5))}, {}, rf"expected {WEIGHT} of shape \[4, 4\], all finite, got \[4, 5\]"),
    ({WEIGHT: np.full((4, 4), np.nan)}, {}, f"expected {WEIGHT} of shape .*, all finite"),
    ({WEIGHT: np.full((4, 4), -np.inf)}, {}, "all finite"),
    ({}, {"format": "glsnet-images-9"}, "another or damaged"), ({}, {"sizes": None}, "another or damaged"),
    ({}, {"counts": [1, 4, 8]}, "got none: cells/"), ({}, {"betas": [0.25]}, "expected the weights of its arch"),
    ({}, {"shape": {"height": 8, "width": 8, "channels": 3, "crop": 3}}, "expected networks for 96 and 27 numbers"),
])
def test_a_model_that_was_changed_is_refused(file: Path, changed: dict[str, Any], description: dict[str, Any],
                                             text: str, tmp_path: Path) -> None:
    weights = load_file(file) | {name: array for name, array in changed.items() if array is not None}
    kept = {name: array.astype(np.float16) for name, array in weights.items() if changed.get(name, 0) is not None}
    path = tmp_path / "changed.safetensors"
    save_file(kept, path, {"glsnet": json.dumps(state_of(file) | description)})
    with pytest.raises(CallerError, match=text) as refused:
        load(str(path))
    assert str(path) in str(refused.value)
