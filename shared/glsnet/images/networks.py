"""The networks of image codes, each a function of its weights and its input: arrays of NumPy or tensors of torch alike.

    encoder     right half a -> mean and log variance of p(w|a), a normal law over the latent space (a beta-VAE's)
    decoder     codeword w and the crop's features -> right half
    ratio       codeword w, crop t -> ln p(w|t)/p(w), by a classifier that tells joint samples from product samples
    scores      right half a -> how well each cell of a learned quantiser suits it
    cells       cell c, crop t -> right half

So what is trained with torch is what services compute with NumPy. `Weights` maps names as in a checkpoint to arrays;
the names of one network share a prefix. A half has D pixels in [0, 1], flattened; a crop has C.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Array = Any  # an array of NumPy, or a tensor of torch
Weights = Mapping[str, Array]


@dataclass(frozen=True)
class Sizes:
    """The architecture: widths of all layers.

    half and crop are D and C, the numbers of pixels; latent the dimension of w; features the width of a crop's
    projection; hidden that of all other layers.
    """

    half: int
    crop: int
    latent: int = 4
    features: int = 128
    hidden: int = 256


def vae_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Of every weight of encoder, decoder and projection; [in, out] for matrices."""
    hidden = sizes.hidden
    return _dense({
        "encoder.0": (sizes.half, hidden), "encoder.1": (hidden, hidden), "encoder.2": (hidden, 2 * sizes.latent),
        "projection.0": (sizes.crop, hidden), "projection.1": (hidden, sizes.features),
        "decoder.w": (sizes.latent, hidden), "decoder.t": (sizes.features, hidden), "decoder.1": (hidden, hidden),
        "decoder.2": (hidden, sizes.half),
    })


def ratio_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Of every weight of the estimator; what is computed for each codeword is narrow, for there are many."""
    narrow = sizes.features // 2
    return _dense({
        "ratio.projection.0": (sizes.crop, sizes.hidden), "ratio.projection.1": (sizes.hidden, sizes.features),
        "ratio.t": (sizes.features, narrow), "ratio.w": (sizes.latent, narrow), "ratio.1": (narrow, narrow),
        "ratio.2": (narrow, 1),
    })


def cells_shapes(sizes: Sizes, counts: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Of every weight of the learned quantisers with so many cells each; they share all but a few."""
    hidden, features = sizes.hidden, sizes.features
    shapes = _dense({
        "scores.0": (sizes.half, hidden), "scores.1": (hidden, features), "cells.projection.0": (sizes.crop, hidden),
        "cells.projection.1": (hidden, hidden), "cells.1": (hidden, hidden), "cells.2": (hidden, sizes.half),
    })
    for count in counts:
        shapes |= _dense({f"scores.of{count}": (features, count)})
        shapes |= {f"centroids.of{count}": (count, sizes.half), f"cells.of{count}": (count, hidden)}
    return shapes




def encoder(p: Weights, a: Array) -> tuple[Array, Array]:
    """Mean and log variance, shape [R, latent] each, of right halves [R, D]."""
    out = _layer(p, "encoder.2", _relu(_layer(p, "encoder.1", _relu(_layer(p, "encoder.0", a)))))
    latent = out.shape[1] // 2
    return out[:, :latent], out[:, latent:].clip(-12.0, 4.0)


def decoder(p: Weights, w: Array, t: Array) -> Array:
    """Right halves [R, D], not clipped to [0, 1], from codewords [R, latent] and crops [R, C]."""
    features = _layer(p, "projection.1", _relu(_layer(p, "projection.0", t)))
    joint = _relu(_layer(p, "decoder.w", w) + _layer(p, "decoder.t", features))
    return _layer(p, "decoder.2", _relu(_layer(p, "decoder.1", joint)))


def ratio_features(p: Weights, t: Array) -> Array:
    """What `ratio` needs of crops [R, C], shape [R, features / 2]."""
    return _layer(p, "ratio.t", _relu(_layer(p, "ratio.projection.1", _relu(_layer(p, "ratio.projection.0", t)))))


def ratio(p: Weights, w: Array, features: Array) -> Array:
    """ln p(w|t)/p(w), shape [...], of codewords [..., latent] and crops' features, which broadcast with [..., F]."""
    joint = _relu(_layer(p, "ratio.w", w) + features)
    return _layer(p, "ratio.2", _relu(_layer(p, "ratio.1", joint)))[..., 0]


def scores(p: Weights, count: int, a: Array) -> Array:
    """How well each of `count` cells suits right halves [R, D], shape [R, count]: larger is better.

    How near its centroid is, and what is learned on top: what a decoder makes of the cell depends on its crop.
    """
    hidden = _relu(_layer(p, "scores.1", _relu(_layer(p, "scores.0", a))))
    return nearness(p, count, a) + _layer(p, f"scores.of{count}", hidden)


def nearness(p: Weights, count: int, a: Array) -> Array:
    """Less the squared distance of right halves [R, D] to each centroid, but for a term that all share: [R, count]."""
    centroids = p[f"centroids.of{count}"]
    return 2.0 * (a @ centroids.T) - (centroids * centroids).sum(1)


def cells(p: Weights, count: int, cell: Array, t: Array) -> Array:
    """Right halves [..., D], not clipped, of cells [..., of R], of the quantiser with `count`, and crops [R, C].

    The cell's centroid, and what the crop adds to it.
    """
    features = _layer(p, "cells.projection.1", _relu(_layer(p, "cells.projection.0", t)))
    joint = _relu(features + p[f"cells.of{count}"][cell])
    return p[f"centroids.of{count}"][cell] + _layer(p, "cells.2", _relu(_layer(p, "cells.1", joint)))




def _dense(layers: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (inputs, outputs) in layers.items():
        shapes |= {f"{name}.weight": (inputs, outputs), f"{name}.bias": (outputs,)}
    return shapes


def _layer(p: Weights, name: str, x: Array) -> Array:
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def _relu(x: Array) -> Array:
    return x.clip(0.0)
