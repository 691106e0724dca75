"""An image model: its networks' weights, what images they are for, and the file that holds both.

A file is of safetensors, weights in float16, with a JSON description among its metadata. Its digest is a session term:
parties that have other weights, another architecture or another prior do not get as far as the first index.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from glsnet.errors import CallerError
from glsnet.images import networks
from glsnet.images.networks import Sizes
from glsnet.sources.samples import write_atomically

Floats = NDArray[np.float32]

BETAS = (0.15, 0.35, 0.55, 0.75, 0.95)
COUNTS = (1, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # K L_max for K to 4, L_max 4 to 64; 1 takes no message
EMBEDDED = ("digits", "mnist")
FORMAT = "glsnet-images-1"


@dataclass(frozen=True)
class Shape:
    """Of the images, in pixels: the right half is coded, a square crop of the left half is side information."""

    height: int
    width: int
    channels: int
    crop: int

    @property
    def half(self) -> int:
        """D, the numbers in a right half."""
        return self.height * (self.width // 2) * self.channels

    @property
    def side(self) -> int:
        """C, the numbers in a crop."""
        return self.crop * self.crop * self.channels


@dataclass(frozen=True)
class Model:
    """The networks of all schemes for one kind of image. `weights` maps `beta=B/...` and `cells/...` to arrays.

    Raises:
        CallerError: a weight is missing, of another shape, not finite, or not of the architecture.
    """

    shape: Shape
    sizes: Sizes
    betas: tuple[float, ...]
    counts: tuple[int, ...]
    trained_on: str
    weights: Mapping[str, Floats]

    def __post_init__(self) -> None:
        if 1 not in self.counts:
            raise CallerError(f"model: expected 1 among its numbers of cells, the crop alone, got {self.counts}")
        expected = shapes_of(self.sizes, self.betas, self.counts)
        if other := sorted(expected.keys() ^ self.weights.keys()):
            missing = other[0] in expected
            raise CallerError(f"model: expected the weights of its architecture, got {'none' if missing else 'more'}: "
                              f"{other[0]}; was it written by another version?")
        for name, array in self.weights.items():
            if array.shape != expected[name] or not np.isfinite(array).all():
                raise CallerError(f"model: expected {name} of shape {list(expected[name])}, all finite, got "
                                  f"{list(array.shape)}; its description and its weights do not belong together")

    @property
    def prior(self) -> str:
        """The law of a codeword that is shared: a standard normal one."""
        return f"standard normal, {self.sizes.latent} dimensions"

    @cached_property
    def digest(self) -> str:
        """16 hex digits of the SHA-256 over description and weights."""
        return hashlib.sha256(self.to_bytes()).hexdigest()[:16]

    def vae(self, beta: float) -> Mapping[str, Floats]:
        """Encoder, decoder, projection and estimator for one beta.

        Raises:
            CallerError: the model has none.
        """
        if beta not in self.betas:
            raise CallerError(f"beta: expected one of {', '.join(f'{each:g}' for each in self.betas)}, those of this "
                              f"model, got {beta:g}; train one with it")
        return self._of(f"beta={beta:g}")

    @cached_property
    def cells(self) -> Mapping[str, Floats]:
        """The quantisers, plain and learned."""
        return self._of("cells")

    def _of(self, prefix: str) -> dict[str, Floats]:
        return {name.removeprefix(f"{prefix}/"): array for name, array in self.weights.items()
                if name.startswith(f"{prefix}/")}

    def to_bytes(self) -> bytes:
        """The file's contents; the same model gives the same bytes."""
        description = {"format": FORMAT, "shape": asdict(self.shape), "sizes": asdict(self.sizes),
                       "betas": self.betas, "counts": self.counts, "trained_on": self.trained_on, "prior": self.prior}
        halves = {name: np.ascontiguousarray(self.weights[name], dtype=np.float16) for name in sorted(self.weights)}
        return save(halves, {"glsnet": json.dumps(description)})

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all; raises CallerError if it cannot be written."""
        with write_atomically(path) as handle:
            handle.buffer.write(self.to_bytes())


def shapes_of(sizes: Sizes, betas: tuple[float, ...], counts: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Of every weight of a model."""
    shapes = {f"cells/{name}": shape for name, shape in networks.cells_shapes(sizes, counts).items()}
    for beta in betas:
        of = networks.vae_shapes(sizes) | networks.ratio_shapes(sizes)
        shapes |= {f"beta={beta:g}/{name}": shape for name, shape in of.items()}
    return shapes


def with_digest(digest: str, own: Model | None) -> Model:
    """The model with this digest: a party's own, or one that comes with glsnet.

    Raises:
        CallerError: it has another digest, or none of them has it.
    """
    models = [load(name) for name in EMBEDDED] if own is None else [own]
    for model in models:
        if model.digest == digest:
            return model
    raise CallerError(f"model: expected the one with digest {digest}, as ordered, got {models[0].digest}; give all "
                      "parties the same with --image-model" if own else f"model: expected one with digest {digest}, as "
                      "ordered, none that comes with glsnet has it; start the party with --image-model FILE")


@cache
def load(name_or_path: str) -> Model:
    """A model that comes with glsnet, by name, or from a file.

    Raises:
        CallerError: there is no such file, or it is no model, damaged, or of another architecture or prior.
    """
    path = Path(str(files("glsnet.images") / f"models/{name_or_path}.safetensors")) if name_or_path in EMBEDDED else (
        Path(name_or_path))
    try:
        with safe_open(path, framework="numpy") as opened:
            description = json.loads((opened.metadata() or {})["glsnet"])
            weights = {name: opened.get_tensor(name).astype(np.float32) for name in opened.keys()}
        if description["format"] != FORMAT:
            raise KeyError("format")
        model = Model(Shape(**description["shape"]), Sizes(**description["sizes"]), tuple(description["betas"]),
                      tuple(description["counts"]), description["trained_on"], weights)
        prior = description["prior"]
    except OSError as error:
        raise CallerError(f"model: expected {' or '.join(EMBEDDED)}, which come with glsnet, or a file that `glsnet "
                          f"train images` has written, got {name_or_path!r}: {error.strerror or error}") from error
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CallerError(f"model: expected a file that `glsnet train images` has written, got {path}, which is "
                          f"another or damaged ({error}); train it again") from error
    if prior != model.prior:
        raise CallerError(f"{path}: prior: expected {model.prior!r}, which is all that this version races over, got "
                          f"{prior!r}")
    if (model.shape.half, model.shape.side) != (model.sizes.half, model.sizes.crop):
        raise CallerError(f"{path}: expected networks for {model.shape.half} and {model.shape.side} numbers, those of "
                          f"its images, got {model.sizes.half} and {model.sizes.crop}")
    return model
