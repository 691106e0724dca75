"""How an image model is made: `glsnet train images`. Of this package, all that needs torch.

    centroids          k-means of the right halves, for each number of cells
    beta=B             encoder, projection and decoder: squared error + B x KL(p(w|a) || N(0, I)), a beta-VAE
    beta=B, ratio      estimator of p(w|t)/p(w): a classifier of (w ~ p(w|a), t) against (w ~ N(0, I), t)
    cells              the learned quantisers, in turn: expected squared error over the likeliest cells

One stage after the other, each epoch with crops drawn anew. After every epoch all that the rest depends on goes to a
checkpoint; so a run that is killed goes on from there, and ends with the same weights as one that is not, to the bit
on the same machine.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from sklearn.cluster import KMeans
from threadpoolctl import ThreadpoolController
from torch.nn.functional import softplus

from glsnet.errors import CallerError
from glsnet.images import networks
from glsnet.images.model import BETAS, COUNTS, Model, Shape
from glsnet.images.networks import Sizes
from glsnet.images.pictures import HELD_OUT, Pictures, crops, halves, held_out, unit
from glsnet.sources.samples import write_atomically

Tensors = dict[str, torch.Tensor]
Loss = Callable[[Tensors, torch.Tensor, torch.Tensor, int], torch.Tensor]  # of weights, a, t and the epoch's step
LIKELIEST = 8  # cells that a step looks at, of each image
RATE = 1e-3  # of Adam, at first; it falls to nothing as a cosine
PATIENCE = 5  # epochs without a lower loss on held-out images after which a stage ends


@dataclass(frozen=True)
class Profile:
    """How large the networks are, and how many epochs each stage lasts at most."""

    hidden: int
    features: int
    batch: int
    vae_epochs: int
    ratio_epochs: int
    cells_epochs: int


PROFILES = {
    "quick": Profile(256, 128, 128, 6, 2, 12), "full": Profile(1024, 128, 64, 30, 30, 120),
    # Of the models that come with glsnet:
    "digits": Profile(128, 64, 32, 60, 30, 120), "mnist": Profile(192, 128, 128, 20, 8, 40),
}


@dataclass(frozen=True)
class Progress:
    """A stage, `number` of `stages`, after an epoch, with the mean losses on all images and on those held out.

    Before its first epoch here, both are NaN, and `epoch` is how many a checkpoint had; for k-means, which has none, an
    epoch is one quantiser.
    """

    stage: str
    number: int
    stages: int
    epoch: int
    epochs: int
    loss: float = math.nan
    held_out: float = math.nan


def train(pictures: Pictures, crop: int, profile: Profile, seed: int, checkpoint: Path,
          report: Callable[[Progress], None], betas: Sequence[float] = BETAS, counts: Sequence[int] = COUNTS,
          latent: int = 4, device: str = "cpu") -> Model:
    """Train all networks of a model.

    Args:
        pictures: the images; one in twenty of those to train on is held out.
        crop: side of a crop, in pixels.
        profile: sizes and lengths.
        seed: of weights, crops, noise and the order of images.
        checkpoint: the file to go on from, if it is there, and to write after every epoch.
        report: called before every stage and after every epoch.
        betas: one VAE and one estimator for each.
        counts: numbers of cells, one learned quantiser for each.
        latent: dimension of w.
        device: as torch calls it.

    Raises:
        CallerError: the checkpoint is of other settings, damaged, or cannot be written; there are too few images; a
            setting is out of range; torch has no such device; losses are not finite, as with a huge beta.
    """
    _check(seed, betas, counts, latent, device)
    height, width, channels = pictures.train.shape[1:]
    shape = Shape(height, width, channels, crop)
    sizes = Sizes(shape.half, shape.side, latent, profile.features, profile.hidden)
    settings = {"profile": asdict(profile), "shape": asdict(shape), "sizes": asdict(sizes), "betas": list(betas),
                "counts": list(counts), "seed": seed, "images": pictures.name, "count": len(pictures.train)}
    images = int((~held_out(len(pictures.train))).sum())
    if images < (least := max(profile.batch, HELD_OUT, *counts)):
        raise CallerError(f"images: expected at least {least} to train on beside those held out, for batches of "
                          f"{profile.batch} and {max(counts)} cells, got {images}; give more, or fewer cells")
    data = _Data(pictures, crop, device)
    kept = _Kept.at(checkpoint, settings, device)
    kept.write()  # here, where nothing is lost if it cannot be written
    stages = ["centroids", *(f"beta={beta:g}{of}" for beta in betas for of in ("", ", ratio")), "cells"]

    def run(stage: str, begin: Callable[[], Tensors], epochs: int, loss: Loss, fixed: Mapping[str, Any],
            unseen: Loss | None = None) -> Tensors:
        if stage not in kept.done:
            at = stages.index(stage)
            torch.manual_seed(seed * 1000 + at)
            weights = {name: value.to(device) for name, value in begin().items()}
            told = partial(Progress, stage, at + 1, len(stages))
            report(told(kept.now.epoch, epochs))
            fit(data, kept, weights, (seed, at), profile.batch, epochs, lambda p, *of: loss({**fixed, **p}, *of),
                lambda p, *of: (unseen or loss)({**fixed, **p}, *of),
                lambda epoch, mean, held: report(told(epoch, epochs, mean, held)))
            kept.finish(stage)
        return kept.done[stage]

    if "centroids" not in kept.done:
        kept.now.best = _centroids(data.a, counts, seed, lambda done: report(
            Progress("centroids", 1, len(stages), done, len(counts))))
        kept.finish("centroids")
    for beta in betas:
        vae = run(f"beta={beta:g}", lambda: _initial(networks.vae_shapes(sizes)), profile.vae_epochs,
                  partial(_vae_loss, beta), {})
        run(f"beta={beta:g}, ratio", lambda: _initial(networks.ratio_shapes(sizes)), profile.ratio_epochs,
            _ratio_loss, vae)
    many = [count for count in counts if count > 1] or list(counts)
    steps = images // profile.batch

    def cells_loss(p: Tensors, a: torch.Tensor, t: torch.Tensor, step: int) -> torch.Tensor:
        # All quantisers in turn, each epoch from the first; where that is too short, from where the last one ended.
        turn = step if steps >= len(counts) else kept.now.epoch * steps + step
        return _cells_loss(p, counts[turn % len(counts)], a, t)

    run("cells", lambda: _initial_cells(sizes, counts), profile.cells_epochs, cells_loss, kept.done["centroids"],
        lambda p, a, t, _: torch.stack([_cells_loss(p, count, a, t) for count in many]).mean())
    weights = {f"{_prefix(stage)}/{name}": value.cpu().numpy() for stage in stages
               for name, value in kept.done[stage].items()}
    return Model(shape, sizes, tuple(betas), tuple(counts), pictures.name, weights)


@contextmanager
def _in_order() -> Iterator[None]:
    """Have torch add in an order that does not depend on which thread comes first; else gradients of cells do."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which CUDA wants for it
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@_in_order()
def fit(data: "_Data", kept: "_Kept", weights: Tensors, seed: tuple[int, int], batch: int, epochs: int, loss: Loss,
        unseen: Loss, report: Callable[[int, float, float], None]) -> None:
    """One stage: Adam, until held-out images show no progress for PATIENCE epochs; the best weights are kept.

    Args:
        data: the images.
        kept: the checkpoint, whose `now` says where to go on.
        weights: to begin with.
        seed: of the stage.
        batch: images in a step.
        epochs: at most.
        loss: of a step.
        unseen: of held-out images.
        report: called after each epoch with its number, from 1, and both losses.

    Raises:
        CallerError: the loss is not finite.
    """
    now = kept.now
    weights = {name: value.requires_grad_() for name, value in (now.weights or weights).items()}
    optimiser = torch.optim.Adam(weights.values(), RATE, betas=(0.9, 0.99))
    now.into(optimiser)
    for epoch in range(now.epoch, epochs):
        if now.idle >= PATIENCE:  # as a checkpoint may also say
            break
        rng = np.random.default_rng((*seed, epoch))
        torch.manual_seed(int(rng.integers(2**62)))
        t, order = data.crops(rng), torch.from_numpy(rng.permutation(len(data.a)))
        steps = len(order) // batch
        total = 0.0
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * (epoch + step / steps) / epochs))
            chosen = order[step * batch : (step + 1) * batch].to(data.a.device)
            value = loss(weights, data.a[chosen], t[chosen], step)
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += value.item()
        with torch.no_grad():
            torch.manual_seed(0)
            held = float(np.mean([unseen(weights, a, t, 0).item() for a, t in data.unseen(batch)]))
        if not math.isfinite(held):
            raise CallerError(f"training: expected a finite loss, got {held} after epoch {epoch + 1}; choose smaller "
                              "betas or another seed")
        now.after(epoch + 1, held, weights, optimiser)
        kept.write()
        report(epoch + 1, total / steps, held)


def _vae_loss(beta: float, p: Tensors, a: torch.Tensor, t: torch.Tensor, _: int) -> torch.Tensor:
    mean, log_variance = networks.encoder(p, a)
    w = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
    error = ((networks.decoder(p, w, t) - a) ** 2).sum(1)
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
    value: torch.Tensor = (error + beta * divergence).mean()
    return value


def _ratio_loss(p: Tensors, a: torch.Tensor, t: torch.Tensor, _: int) -> torch.Tensor:
    """Binary cross-entropy. What a classifier h finds is then p(w|t)/p(w) = h/(1 - h), p(w) that of the codewords."""
    with torch.no_grad():
        mean, log_variance = networks.encoder(p, a)
        joint = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        product = torch.randn_like(mean)
    features = networks.ratio_features(p, t)
    return (softplus(-networks.ratio(p, joint, features)) + softplus(networks.ratio(p, product, features))).mean()


def _cells_loss(p: Tensors, count: int, a: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The squared error when the cell is drawn by its score; in the end one cell has nearly all of the probability."""
    likeliest = networks.scores(p, count, a).topk(min(count, LIKELIEST), dim=1)
    errors = ((networks.cells(p, count, likeliest.indices.T, t) - a) ** 2).sum(-1).T
    value: torch.Tensor = (likeliest.values.softmax(1) * errors).sum(1).mean()
    return value


def _centroids(a: torch.Tensor, counts: Sequence[int], seed: int, report: Callable[[int], None]) -> Tensors:
    found = {}
    pool = ThreadpoolController().select(user_api="openmp")
    threads = min([2, *(each["num_threads"] for each in pool.info())])  # sums of more depend on who comes first
    report(0)
    for done, count in enumerate(counts, 1):
        with pool.limit(limits=threads):
            fitted = KMeans(count, n_init=1, max_iter=60, random_state=seed).fit(a.cpu().numpy())
        found[f"centroids.of{count}"] = torch.from_numpy(fitted.cluster_centers_.astype(np.float32)).to(a.device)
        report(done)
    return found


def _initial(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    return {name: torch.randn(shape) * math.sqrt(2 / shape[0]) if len(shape) == 2 else torch.zeros(shape)
            for name, shape in shapes.items()}


def _initial_cells(sizes: Sizes, counts: Sequence[int]) -> Tensors:
    """Such that every learned quantiser begins as the plain one."""
    initial = _initial(networks.cells_shapes(sizes, tuple(counts)))
    for count in counts:
        del initial[f"centroids.of{count}"]
        initial[f"scores.of{count}.weight"].zero_()
        initial[f"cells.of{count}"].normal_()
    initial["cells.2.weight"].zero_()
    return initial


def _check(seed: int, betas: Sequence[float], counts: Sequence[int], latent: int, device: str) -> None:
    if not 0 <= seed < 2**32:
        raise CallerError(f"seed: expected 0 to {2**32 - 1}, got {seed}")
    if not all(0 < beta < math.inf for beta in betas) or len({f"{beta:g}" for beta in betas}) < len(betas):
        raise CallerError("betas: expected finite numbers above 0 that differ in their first six digits, got "
                          f"{', '.join(map(str, betas))}")
    if 1 not in counts or min(counts) < 1 or len(set(counts)) < len(counts):
        raise CallerError("cells: expected numbers of at least 1, none twice, and 1 itself among them, which is a crop "
                          f"without a message, got {', '.join(map(str, counts)) or 'none'}")
    if latent < 1:
        raise CallerError(f"latent: expected at least 1 dimension, got {latent}")
    try:
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CallerError(f"device: expected one that torch has here, such as cpu, got {device!r} "
                          f"({(str(error).strip() or type(error).__name__).splitlines()[0]})") from error


def _prefix(stage: str) -> str:
    return "cells" if stage == "centroids" else stage.removesuffix(", ratio")


class _Data:
    """Right halves, shape [n, D], and left halves to crop; those held out with crops that stay the same."""

    def __init__(self, pictures: Pictures, crop: int, device: str) -> None:
        held = held_out(len(pictures.train))
        self._left, right = halves(pictures.train[~held])
        left, unseen = halves(pictures.train[held])
        self._crop, self._device = crop, device
        self.a = self._tensor(right.reshape(len(right), -1))
        self._unseen = (self._tensor(unseen.reshape(len(unseen), -1)),
                        self._tensor(crops(left, crop, np.random.default_rng(0))[0]))

    def crops(self, rng: np.random.Generator) -> torch.Tensor:
        """A new crop of each image, shape [n, C]."""
        return self._tensor(crops(self._left, self._crop, rng)[0])

    def unseen(self, batch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Held-out halves and crops, batch by batch."""
        a, t = (torch.split(each, 8 * batch) for each in self._unseen)
        return list(zip(a, t, strict=True))

    def _tensor(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(unit(pixels)).to(self._device)


@dataclass
class _Now:
    """A stage under way, after some epochs: the weights, the best so far, and Adam's state.

    That is of each weight by itself, for it steps only when a gradient reaches it: of one quantiser's, every so often.
    """

    epoch: int = 0
    idle: int = 0  # epochs since the best
    best_loss: float = math.inf
    weights: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    first: Tensors = field(default_factory=dict)
    second: Tensors = field(default_factory=dict)

    def after(self, epoch: int, held: float, weights: Tensors, optimiser: torch.optim.Adam) -> None:
        """Keep what an epoch has led to; the optimiser goes on to change the moments, but not the weights kept."""
        states = {name: optimiser.state[value] for name, value in weights.items() if value in optimiser.state}
        self.weights = {name: value.detach().clone() for name, value in weights.items()}
        self.first = {name: state["exp_avg"] for name, state in states.items()}
        self.second = {name: state["exp_avg_sq"] for name, state in states.items()}
        self.steps = {name: int(state["step"].item()) for name, state in states.items()}
        self.epoch, self.idle = epoch, self.idle + 1
        if held < self.best_loss:
            self.best_loss, self.best, self.idle = held, self.weights, 0

    def into(self, optimiser: torch.optim.Adam) -> None:
        """Have an optimiser of the same weights, in the same order, go on."""
        state = {at: {"step": torch.tensor(float(self.steps[name])), "exp_avg": self.first[name],
                      "exp_avg_sq": self.second[name]} for at, name in enumerate(self.weights) if name in self.steps}
        optimiser.load_state_dict(optimiser.state_dict() | {"state": state})


class _Kept:
    """The checkpoint: the weights of all stages that are done, the stage under way, and the settings of the run."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings
        self.done: dict[str, Tensors] = {}
        self.now = _Now()

    @classmethod
    def at(cls, path: Path, settings: dict[str, Any], device: str) -> "_Kept":
        """What the file holds, or a new checkpoint if there is none."""
        kept = cls(path, settings)
        if not path.exists():
            return kept
        groups: dict[str, Tensors] = {"now": {}, "best": {}, "first moments": {}, "second moments": {}}
        try:
            with safe_open(path, framework="pt", device=device) as opened:
                state = json.loads((opened.metadata() or {})["glsnet"])
                for name in state["order"]:
                    group, _, weight = name.partition("/")
                    # Where it lies in the file, arithmetic may round in another way: BLAS looks at alignment.
                    groups.setdefault(group, {})[weight] = opened.get_tensor(name).clone()
            theirs = dict(state["settings"])
            kept.done = {stage: groups[stage] for stage in state["done"]}
            kept.now = _Now(state["epoch"], state["idle"],
                            math.inf if state["best_loss"] is None else state["best_loss"], groups["now"],
                            groups["best"], state["steps"], groups["first moments"], groups["second moments"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise CallerError(f"{path}: expected a checkpoint of `glsnet train images`, got another file, or one that "
                              f"is damaged ({error}); delete it to begin again") from error
        for key in settings | theirs:
            if theirs.get(key) != settings.get(key):
                raise CallerError(f"{path}: expected a checkpoint with {key} {settings.get(key)}, got "
                                  f"{theirs.get(key)}; delete it to begin again, or give what it was begun with")
        return kept

    def finish(self, stage: str) -> None:
        """The stage under way is done: its best weights are kept."""
        self.done[stage] = self.now.best
        self.now = _Now()
        self.write()

    def write(self) -> None:
        """To the file, whole or not at all."""
        now = self.now
        groups = self.done | {"now": now.weights, "best": now.best, "first moments": now.first,
                              "second moments": now.second}
        tensors = {f"{group}/{name}": value.detach().cpu().clone() for group, of in groups.items()
                   for name, value in of.items()}
        state = {"settings": self._settings, "done": list(self.done), "epoch": now.epoch, "idle": now.idle,
                 "steps": now.steps, "best_loss": now.best_loss if math.isfinite(now.best_loss) else None,
                 "order": list(tensors)}
        with write_atomically(self._path) as handle:
            handle.buffer.write(save(tensors, {"glsnet": json.dumps(state)}))
