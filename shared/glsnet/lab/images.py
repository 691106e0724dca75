"""A run over images: crops for every decoder, through an encoder and K decoders, to one result.

    prepared   data set, model -> what each party sees
    run        that -> plan -> what the parties drew -> tally -> result
    Tally      matches, squared errors, and those of what needs no network: k-means, a crop alone, the mean image
"""

import asyncio
import base64
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glsnet.compression import Samples
from glsnet.errors import CallerError
from glsnet.images import networks, pictures
from glsnet.images.code import RACES, ImageCode, Pixels
from glsnet.images.model import EMBEDDED, Model, load
from glsnet.images.pictures import crops, halves, held_out, unit
from glsnet.lab.nature import draws
from glsnet.lab.plan import Drawn, Ended, NamedBroker, Parties, Plan
from glsnet.lab.runner import Watch, bits_of, play, unwatched
from glsnet.lab.settings import ImagesRun
from glsnet.lab.tally import Mean
from glsnet.race import FloatArray, IntArray
from glsnet.randomness import seed_from_integer
from glsnet.sources.samples import write_atomically


def prepared(settings: ImagesRun, reading: Callable[[int, int], None] = lambda done, total: None) -> "Views":
    """Read the model and the images of a run, and cut them up.

    Args:
        settings: the run's.
        reading: called while a folder is read, with the images read so far and their total.

    Raises:
        CallerError: they cannot be read, or do not belong together, or the model has no networks for this code.
    """
    model = load(settings.model or _embedded(settings.dataset))
    code_of(settings, model)
    found = _pictures(settings.dataset, settings.data, reading)
    images = found.test if settings.split == "test" else found.train[held_out(len(found.train))]
    wanted = settings.samples or len(images)
    if wanted > len(images):
        raise CallerError(f"samples: expected at most {len(images)}, those of the {settings.split} split of "
                          f"{found.name}, got {wanted}; leave it out")
    _check(model, found.name, images)
    return Views(settings, model, found.name, images[:wanted])


async def run(settings: ImagesRun, views: "Views", parties: Parties | None, progress: Callable[["Tally"], None],
              sink: Callable[[Drawn], None], broker: NamedBroker | None = None, watch: Watch = unwatched
              ) -> dict[str, Any]:
    """Code images, and measure.

    Args:
        settings: the run's.
        views: what is `prepared` for it.
        parties: services to use over gRPC; None starts them on this machine and stops them again.
        progress: called after every frame.
        sink: takes every frame's outcomes.
        broker: of transport mqtt, one that runs already; None starts one on this machine.
        watch: see `runner.run`.

    Returns:
        the result, ready for JSON.

    Raises:
        GlsnetError: a party cannot be reached, refuses, or is lost.
    """
    code = code_of(settings, views.model)
    tally = Tally(views, code, settings.shown)

    def take(drawn: Drawn) -> None:
        tally.add(drawn)
        sink(drawn)
        progress(tally)

    options = () if settings.model in (None, *EMBEDDED) else ("--image-model", str(settings.model))
    plan = Plan(settings.transport, seed_from_integer(settings.seed), code, [lambda _: code] * settings.decoders,
                [None] * settings.decoders, views.frames, options, settings.patience, settings.every, settings.faults,
                settings.seed, broker, settings.qos)
    since = time.process_time()
    ended = await play(plan, parties, take, watch)
    if settings.transport == "direct":
        seconds = [code.seconds | {"process": time.process_time() - since}]
    else:
        seconds = ended.seconds
    return tally.result(settings) | {
        "data": views.name, "samples_per_second": tally.samples / ended.elapsed, "seconds": _shares(ended, seconds),
    } | bits_of(ended, tally.samples, code.l_max)


def measure(settings: ImagesRun) -> dict[str, Any]:
    """The result of a run that shows no progress."""
    return asyncio.run(run(settings, prepared(settings), None, lambda _: None, lambda _: None))


def code_of(settings: ImagesRun, model: Model) -> ImageCode:
    """The code of a run; raises CallerError if the model has no networks for it."""
    races = settings.scheme in RACES
    return ImageCode(model, settings.scheme, settings.decoders, settings.l_max,
                     settings.candidates if races else None, settings.beta if races else None, time.thread_time)


class Output:
    """All reconstructions of a run, kept in memory until they are written, whole or not at all."""

    def __init__(self, views: "Views") -> None:
        self._views = views
        self._rounds: list[dict[str, NDArray[Any]]] = []

    def add(self, drawn: Drawn) -> None:
        """One frame; a sink of `run`."""
        shape = self._views.model.shape
        halves_of = np.stack([of.reconstruction for of in drawn.x if of.reconstruction is not None], axis=1)
        pixels = np.rint(np.nan_to_num(halves_of) * 255).astype(np.uint8)  # black where a decoder was missing
        self._rounds.append({
            "index": drawn.y.message,
            "reconstruction": pixels.reshape(*pixels.shape[:2], shape.height, -1, shape.channels),
            "matched": np.stack([of.matches(drawn.y) for of in drawn.x], axis=1),
        })

    def write(self, path: Path) -> None:
        """As .npz: index [n], reconstruction [n, K, height, width / 2, channels] of right halves, matched [n, K], and
        place [n, K, 2], row and column of the crops. Raises CallerError if it cannot be written.
        """
        arrays = {name: np.concatenate([each[name] for each in self._rounds]) for name in self._rounds[0]}
        with write_atomically(path) as handle:
            np.savez(handle.buffer, allow_pickle=False, place=self._views.places, **arrays)


class Views:
    """What each party sees of a run's images: right halves, and for every decoder a crop of the left half.

    Crops come from the run's seed; they depend neither on the frame size nor, of one decoder, on how many others there
    are.
    """

    def __init__(self, settings: ImagesRun, model: Model, name: str, images: NDArray[np.uint8]) -> None:
        self.images, self.name, self.model, self._frame = images, name, model, settings.frame
        left, right = halves(images)
        self.a: Pixels = right.reshape(len(right), -1)
        seen = [crops(left, model.shape.crop, draws(settings.seed, f"nature: crops {k}"))
                for k in range(settings.decoders)]
        self.t: Pixels = np.stack([pixels for pixels, _ in seen], axis=1)  # [n, K, C]
        self.places: IntArray = np.stack([places for _, places in seen], axis=1)  # [n, K, 2]

    def frames(self) -> Iterator[tuple[Samples, Samples]]:
        """a, shape [R, D], and t, shape [R, K, C], frame by frame."""
        for start in range(0, len(self.a), self._frame):
            yield self.a[start : start + self._frame], self.t[start : start + self._frame]


class Tally:
    """Matches and squared errors, the mean over pixels in [0, 1], of a run that is going on."""

    def __init__(self, views: Views, code: ImageCode, shown: int) -> None:
        """`shown` is of how many images, from the first, the pixels are kept."""
        self._views, self._code, self._cells, self._show = views, code, code.model.cells, shown
        self.samples = self.packed = 0  # bytes of messages
        decoders = code.decoders
        self.match, self.error, self.own_error, self.side_error, self.own_side_error, self.mean_error = (
            Mean() for _ in range(6))
        self.vq_error = Mean() if code.l_max in code.model.counts else None
        self.match_of, self.error_of = ([Mean() for _ in range(decoders)] for _ in range(2))
        self._shown: list[dict[str, Any]] = []

    def add(self, drawn: Drawn) -> None:
        """One frame."""
        a = unit(drawn.a)
        x = [of.reconstruction for of in drawn.x if of.reconstruction is not None]
        matched = np.array([of.matches(drawn.y) for of in drawn.x])
        errors = np.array([_error(each, a) for each in x])
        nothing = np.zeros(len(a), np.int64)
        side = np.array([_error(networks.cells(self._cells, 1, nothing, unit(t)).clip(0, 1), a)
                         for t in drawn.t.swapaxes(0, 1)])
        self.match.add(np.any(matched, axis=0).astype(np.float64))
        self.error.add(np.nanmin(errors, axis=0))  # NaN of decoders that were missing
        self.own_error.add(np.nanmean(errors, axis=0))
        self.side_error.add(side.min(0))
        self.own_side_error.add(side.mean(0))
        self.mean_error.add(_error(self._cells["centroids.of1"], a))
        if self.vq_error is not None:
            l_max = self._code.l_max
            nearest = networks.nearness(self._cells, l_max, a).argmax(1)
            self.vq_error.add(_error(self._cells[f"centroids.of{l_max}"][nearest], a))
        for k in range(self._code.decoders):
            if not np.isnan(errors[k][0]):
                self.match_of[k].add(matched[k].astype(np.float64))
                self.error_of[k].add(errors[k])
        for at in range(max(0, min(self._show - self.samples, len(a)))):
            self._shown.append({
                "index": self.samples + at, "source": _text(self._views.images[self.samples + at]),
                "crops": self._views.places[self.samples + at].tolist(),
                "reconstructions": [_text(np.rint(np.nan_to_num(each[at]) * 255).astype(np.uint8)) for each in x],
                "matched": matched[:, at].tolist(), "mse": errors[:, at].tolist(),
            })
        self.samples += len(a)
        self.packed += drawn.y.packed

    def result(self, settings: ImagesRun) -> dict[str, Any]:
        """What was measured so far; numbers as `glsnet run images --json` prints them.

        mse is that of the best of the K reconstructions, which an oracle would have to choose, as published;
        decoder_mse that of each decoder by itself, the mean over decoders; side_information_... are of a network that
        is given a crop and no message.
        """
        code, shape = self._code, self._code.model.shape
        return {
            "source": "images", "dataset": settings.dataset, "split": settings.split, "samples": self.samples,
            "scheme": code.scheme, "decoders": code.decoders, "l_max": code.l_max, "candidates": code.listed,
            "beta": code.beta, "model": code.model.digest, "trained_on": code.model.trained_on,
            "seed": settings.seed, "transport": settings.transport,
            "qos": settings.qos if settings.transport == "mqtt" else None, "frame": settings.frame,
            **_measured("match_rate", self.match), **_measured("mse", self.error),
            **_measured("decoder_mse", self.own_error),
            "vq_mse": None if self.vq_error is None else self.vq_error.value,
            "mean_mse": self.mean_error.value, "side_information_mse": self.side_error.value,
            "side_information_decoder_mse": self.own_side_error.value,
            "per_decoder": [{"stream": k, "match_rate": match.value, "mse": error.value}
                            for k, (match, error) in enumerate(zip(self.match_of, self.error_of, strict=True))],
            "shown": {"shape": [shape.height, shape.width, shape.channels, shape.crop], "images": self._shown}
            if self._shown else None,
        }


def _embedded(dataset: str) -> str:
    if dataset not in EMBEDDED:
        raise CallerError(f"model: expected one, for none that comes with glsnet is for {dataset}; train it with "
                          "`glsnet train images`, and name it with --set model=FILE")
    return dataset


@cache
def _pictures(dataset: str, data: Path | None, reading: Callable[[int, int], None]) -> pictures.Pictures:
    """Read once in a process that measures many cells."""
    return pictures.load(dataset, data, reading)


def _check(model: Model, name: str, images: NDArray[np.uint8]) -> None:
    shape = model.shape
    if images.shape[1:] != (shape.height, shape.width, shape.channels):
        theirs, ours = ("x".join(map(str, each)) for each in (
            images.shape[1:], (shape.height, shape.width, shape.channels)))
        raise CallerError(f"model: expected one for images of {theirs}, those of {name}, got one for {ours}, trained "
                          f"on {model.trained_on}; name another with --set model=FILE")


def _shares(ended: Ended, seconds: list[dict[str, float]]) -> dict[str, float]:
    """Processor seconds of all parties: in networks, in races, and in all else, which is to speak with the others.

    In one process that is the lab's work, too.
    """
    networks, races, process = (sum(each.get(name, 0.0) for each in seconds) for name in (
        "networks", "races", "process"))
    return {"elapsed": ended.elapsed, "networks": networks, "races": races, "wire": process - networks - races}


def _error(x: NDArray[Any], a: NDArray[Any]) -> FloatArray:
    """Squared error, the mean over pixels, shape [R]."""
    difference = x - a
    error: FloatArray = np.einsum("rd,rd->r", difference, difference, dtype=np.float64) / a.shape[1]
    return error


def _measured(name: str, mean: Mean) -> dict[str, float]:
    return {name: mean.value, f"{name}_error": mean.error}


def _text(pixels: NDArray[np.uint8]) -> str:
    return base64.b64encode(pixels.tobytes()).decode()
