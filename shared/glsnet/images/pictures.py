"""Images to code: data sets and the user's own, their halves and crops."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from glsnet.errors import CallerError
from glsnet.vision import torchvision

DATASETS = ("digits", "mnist", "cifar10", "folder")
SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of ImageFolder
EVERY = 5  # where nobody split the images, every fifth is for testing
HELD_OUT = 20
LAYOUT = "lay the images out as DIR/<class>/*.png, or as DIR/train/<class>/*.png and DIR/test/<class>/*.png"


@dataclass(frozen=True)
class Pictures:
    """Images of one size, uint8, each array of shape [n, height, width, channels]; channels is 1 or 3, width even."""

    name: str  # for people
    train: NDArray[np.uint8]
    test: NDArray[np.uint8]


def load(
    dataset: str, folder: Path | None, progress: Callable[[int, int], None] = lambda done, total: None
) -> Pictures:
    """Load the images of a data set.

    - digits: the 1,797 digits of 8 x 8 that come with scikit-learn, 0..16 scaled to 0..255; every fifth is for testing.
    - mnist, cifar10: as torchvision reads them from `folder`, by default ~/.cache/glsnet; downloaded if not there.
    - folder: your own, in the layout of torchvision's ImageFolder: DIR/<class>/*.png or another usual kind of image.
      With subfolders `train` and `test`, each is laid out so; otherwise every fifth image is for testing. The first
      training image decides on channels, 1 if it is greyscale and 3 if not, and the others are converted to them;
      transparency is dropped. Training images are sorted by class; those for testing are shuffled, always alike, so
      that the first n are a fair sample of all classes.

    Args:
        progress: for a folder, called now and then with the images read so far and their total.

    Raises:
        CallerError: no such data set; a folder where none belongs, or none where one does; data that cannot be
            downloaded, or are damaged; no images, or images of several sizes, of odd width, below 2 x 2 pixels, or of
            more than 8 bits a channel; torchvision is missing. The text names the file or the folder.
    """
    match dataset:
        case "digits":
            if folder is not None:
                raise CallerError(f"--data: expected no folder, for digits come with scikit-learn, got {folder}; "
                                  "leave it out, or choose mnist, cifar10 or folder")
            return _digits()
        case "mnist":
            return _downloaded("MNIST", "MNIST", folder)
        case "cifar10":
            return _downloaded("CIFAR-10", "CIFAR10", folder)
        case "folder":
            if folder is None:
                raise CallerError(f"--data: expected the folder of your images, got none; give --data DIR and {LAYOUT}")
            return _own(folder, progress)
    raise CallerError(f"data set: expected one of {', '.join(DATASETS)}, got {dataset!r}; choose one of them")


def held_out(images: int) -> NDArray[np.bool_]:
    """Which of so many training images are held out when networks are trained, shape [images]: one in twenty."""
    held: NDArray[np.bool_] = np.arange(images) % HELD_OUT == HELD_OUT - 1
    return held


def halves(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Left and right halves, views of shape [n, height, width / 2, channels] each; the width must be even."""
    middle = images.shape[2] // 2
    return images[:, :, :middle], images[:, :, middle:]


def unit(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels in [0, 1], of the same shape."""
    return pixels.astype(np.float32) / np.float32(255)


def crops(
    left: NDArray[np.uint8], side: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One square crop of each image, at a place uniform over all where it fits.

    Args:
        left: shape [n, height, width, channels].
        side: of the square, in pixels.

    Returns:
        pixels: shape [n, side * side * channels], row by row, each pixel's channels together.
        places: shape [n, 2], row and column of each crop's top left pixel.

    Raises:
        CallerError: no such square fits.
    """
    n, height, width, _ = left.shape
    if not 1 <= side <= min(height, width):
        raise CallerError(f"crop: expected a side of 1 to {min(height, width)} pixels, as the halves are "
                          f"{width} x {height}, got {side}; choose one that fits")
    places = rng.integers(0, [height - side + 1, width - side + 1], size=(n, 2))
    windows = sliding_window_view(left, (side, side), axis=(1, 2))
    cut = windows[np.arange(n), places[:, 0], places[:, 1]]
    return cut.transpose(0, 2, 3, 1).reshape(n, -1), places


def _digits() -> Pictures:
    from sklearn.datasets import load_digits  # slow to import: only for those who ask for it

    images = np.rint(load_digits().images * 255 / 16).astype(np.uint8)[..., None]
    test = _fifths(len(images))
    return Pictures("digits", images[~test], images[test])


def _fifths(n: int) -> NDArray[np.bool_]:
    fifths: NDArray[np.bool_] = np.arange(n) % EVERY == EVERY - 1
    return fifths


def _downloaded(name: str, kind: str, folder: Path | None) -> Pictures:
    root = Path.home() / ".cache" / "glsnet" if folder is None else folder
    dataset = getattr(_datasets(name), kind)
    try:
        train, test = (np.asarray(dataset(root, train=half, download=True).data) for half in (True, False))
    except Exception as error:  # over a network or damaged files torchvision raises nearly anything
        raise CallerError(
            f"{name}: expected its files in {root}, or to download them there, got: {_reason(error)}; "
            "name a folder where they lie with --data DIR, and remove damaged ones"
        ) from error
    shape = (*train.shape[1:3], -1)  # MNIST's have no axis of channels
    return Pictures(name, *(np.ascontiguousarray(images).reshape(len(images), *shape) for images in (train, test)))


def _datasets(name: str) -> Any:
    try:
        return torchvision().datasets
    except (ImportError, RuntimeError) as error:
        raise CallerError(f"{name}: expected torch and torchvision, got: {error}; pip install 'glsnet[images]'"
                          ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _own(folder: Path, progress: Callable[[int, int], None]) -> Pictures:
    train, test = _split(folder)
    first = _image(train[0], None)
    width, height = first.size
    if width % 2 or height < 2:
        raise CallerError(f"{train[0]}: expected an even width, of which the right half is coded, and at least 2 x 2 "
                          f"pixels, got {width} x {height}; crop or scale all images")
    files = [*train, *test]
    images = np.empty((len(files), height, width, len(first.getbands())), np.uint8)
    for i, file in enumerate(files):
        image = _image(file, first.mode)
        if image.size != first.size:
            raise CallerError(f"{file}: expected {width} x {height} pixels as in {train[0]}, got "
                              f"{image.width} x {image.height}; crop or scale all images to one size")
        images[i] = np.asarray(image).reshape(images.shape[1:])
        if (i + 1) % 500 == 0 or i + 1 == len(files):
            progress(i + 1, len(files))
    return Pictures(folder.resolve().name, images[: len(train)], images[len(train) :])


def _split(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files for training and for testing, none of them empty; the latter in their fixed random order."""
    train, test = folder / "train", folder / "test"
    if train.is_dir() and test.is_dir():
        trained, tested = _files(train), _files(test)
    else:
        files = _files(folder)
        if len(files) < EVERY:
            raise CallerError(f"{folder}: expected at least {EVERY} images, for every fifth is for testing, got "
                              f"{len(files)}; add images")
        fifths = _fifths(len(files))
        trained, tested = ([files[i] for i in np.flatnonzero(those)] for those in (~fifths, fifths))
    return trained, [tested[i] for i in np.random.default_rng(0).permutation(len(tested))]


def _files(folder: Path) -> list[Path]:
    """All images below the class folders of `folder`, in ImageFolder's order; at least one."""
    try:
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError as error:
        raise CallerError(f"{folder}: expected a folder of images, got: {error.strerror}; {LAYOUT}") from error
    files = [
        Path(place, name)
        for each in classes
        for place, _, names in sorted(os.walk(each, followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(SUFFIXES)
    ]
    if not files:
        got = f"no image in {len(classes)} folders" if classes else "no folder in it"
        raise CallerError(f"{folder}: expected a folder for each class with images in it, got {got}; {LAYOUT}")
    return files


def _image(file: Path, mode: str | None) -> Image.Image:
    """The image in a file, converted to `mode`, or if None to "L" (greyscale) or "RGB", whichever is nearer."""
    try:
        with Image.open(file) as image:
            if image.mode in ("I", "F") or image.mode.startswith("I;"):
                raise ValueError("more than 8 bits a channel")  # which Pillow clips to 255 rather than scale
            return image.convert(mode or ("L" if image.mode in ("1", "L") else "RGB"))
    except Exception as error:  # over a damaged file Pillow raises nearly anything
        raise CallerError(f"{file}: expected an image of 8 bits a channel, got: {_reason(error)}; "
                          "repair it or take it out") from error
