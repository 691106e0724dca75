"""Images and their halves and crops; torchvision's own readers and slow loops are the oracles."""

import hashlib
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers import pvalue
from numpy.typing import NDArray
from PIL import Image

from glsnet.errors import CallerError
from glsnet.images.pictures import crops, halves, load

DATA = Path(__file__).parent.parent.parent / "shared" / "data"

Images = NDArray[np.uint8]


def noise(*shape: int, seed: int = 0) -> Images:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, pixels: Images, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


def own(folder: Path, pixels: Images) -> Path:
    """Pictures in two classes, half of them each, named by their number."""
    for i, image in enumerate(pixels):
        save(folder / ("cat" if 2 * i < len(pixels) else "dog") / f"{i:03}.png", image)
    return folder


def fake_mnist(root: Path, train: Images, test: Images) -> Path:
    """Files as MNIST's, of other images."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, images in (("train", train), ("t10k", test)):
        for kind, values in (("images-idx3", images), ("labels-idx1", np.zeros(len(images), np.uint8))):
            header = [0x800 + values.ndim, *values.shape]
            (raw / f"{name}-{kind}-ubyte").write_bytes(np.array(header, ">i4").tobytes() + values.tobytes())
    return root


def fake_cifar(root: Path, train: Images, test: Images, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as CIFAR-10's, of other images, whose sums torchvision is given instead."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def written(name: str, content: object) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data, usedforsecurity=False).hexdigest()]

    def batch(name: str, images: Images) -> list[str]:
        planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        return written(name, {"data": planes, "labels": [0] * len(images)})

    kind = datasets().CIFAR10
    monkeypatch.setattr(kind, "train_list", [batch("one", train[:3]), batch("two", train[3:])])
    monkeypatch.setattr(kind, "test_list", [batch("three", test)])
    meta = dict(zip(("filename", "md5"), written("meta", {"label_names": ["cat"]}), strict=True))
    monkeypatch.setattr(kind, "meta", {"key": "label_names", **meta})
    return root


def datasets() -> ModuleType:
    """torchvision.datasets, where it is installed; imported as glsnet does it."""
    pytest.importorskip("torch")
    from glsnet.images.pictures import _datasets

    try:
        module: ModuleType = _datasets("tests")
    except CallerError as error:
        pytest.skip(str(error))
    return module


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(datasets().MNIST, "mirrors", ["http://127.0.0.1:9/"])  # where nobody listens
    monkeypatch.setattr(datasets().CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")


def test_digits() -> None:
    pictures, again = load("digits", None), load("digits", None)
    assert pictures.name == "digits"
    assert (pictures.train.shape, pictures.test.shape) == ((1438, 8, 8, 1), (359, 8, 8, 1))
    for images, same in ((pictures.train, again.train), (pictures.test, again.test)):
        assert images.dtype == np.uint8 and (images == same).all()
        assert set(np.unique(images)) == {round(v * 255 / 16) for v in range(17)}
    from sklearn.datasets import load_digits

    parts = {False: iter(pictures.train), True: iter(pictures.test)}
    for i, image in enumerate(load_digits().images):
        wanted = [[[round(v * 255 / 16)] for v in row] for row in image.tolist()]
        assert next(parts[i % 5 == 4]).tolist() == wanted
    assert not any(list(rest) for rest in parts.values())


def test_digits_need_no_torch(tmp_path: Path) -> None:
    own(tmp_path / "data", noise(5, 4, 4))
    code = ("import sys; from pathlib import Path; from glsnet.images.pictures import load; "
            "load('digits', None); load('folder', Path('data')); assert not {'torch', 'torchvision'} & {*sys.modules}")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.skipif(not (DATA / "MNIST" / "raw").is_dir(), reason="MNIST is not there")
def test_mnist() -> None:
    datasets()
    pictures = load("mnist", DATA)
    assert pictures.name == "MNIST"
    assert (pictures.train.shape, pictures.test.shape) == ((60_000, 28, 28, 1), (10_000, 28, 28, 1))
    for images, name in ((pictures.train, "train"), (pictures.test, "t10k")):
        assert images.dtype == np.uint8
        assert images.tobytes() == (DATA / "MNIST" / "raw" / f"{name}-images-idx3-ubyte").read_bytes()[16:]


@pytest.mark.usefixtures("no_network")
def test_data_that_are_there_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = noise(7, 6, 4), noise(3, 6, 4, seed=1)
    pictures = load("mnist", fake_mnist(tmp_path, train, test))
    assert (pictures.train == train[..., None]).all() and (pictures.test == test[..., None]).all()

    train, test = noise(7, 32, 32, 3), noise(3, 32, 32, 3, seed=1)
    pictures = load("cifar10", fake_cifar(tmp_path, train, test, monkeypatch))
    assert pictures.name == "CIFAR-10" and pictures.train.flags.c_contiguous
    assert (pictures.train == train).all() and (pictures.test == test).all()


@pytest.mark.usefixtures("no_network")
def test_without_a_folder_data_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / ".cache" / "glsnet"
    with pytest.raises(CallerError, match=re.escape(f"CIFAR-10: expected its files in {root}")):
        load("cifar10", None)
    assert root.is_dir()
    assert load("mnist", fake_mnist(root, noise(7, 6, 4), noise(3, 6, 4))).train.shape == (7, 6, 4, 1)
    assert (load("mnist", None).train == load("mnist", root).train).all()


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("dataset", "name"), [("mnist", "MNIST"), ("cifar10", "CIFAR-10")])
def test_no_data_and_no_network(tmp_path: Path, dataset: str, name: str) -> None:
    with pytest.raises(CallerError) as caught:
        load(dataset, tmp_path / "data")
    said = str(caught.value)
    assert said.startswith(f"{name}: expected its files in {tmp_path / 'data'}, ")
    assert "Connection refused" in said and "--data DIR" in said and "\n" not in said


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("half", ["train", "t10k"])
@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-5], lambda data: data[:10], lambda data: b"", lambda data: data + b"1", lambda data: b"x" * 99,
     lambda data: b"\0\0\7\3" + data[4:], lambda data: b"\0\0\x0a\3" + data[4:]],
)
def test_a_damaged_mnist(tmp_path: Path, half: str, damage: Callable[[bytes], bytes]) -> None:
    root = fake_mnist(tmp_path, noise(7, 6, 4), noise(3, 6, 4))
    file = root / "MNIST" / "raw" / f"{half}-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CallerError, match=re.escape(f"MNIST: expected its files in {root}")) as caught:
        load("mnist", root)
    assert re.search(r"got: \w[^;]+; .* --data DIR, and remove damaged ones", str(caught.value))


@pytest.mark.usefixtures("no_network")
def test_a_damaged_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake_cifar(tmp_path, noise(7, 32, 32, 3), noise(3, 32, 32, 3), monkeypatch)
    file = root / "cifar-10-batches-py" / "two"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CallerError, match=re.escape(f"CIFAR-10: expected its files in {root}")):
        load("cifar10", root)


IMPORT = """
import sys
from pathlib import Path
{before}
from glsnet import vision
from glsnet.images import pictures
print(pictures.load("mnist", Path(sys.argv[1])).train.shape, len(vision._declared))
"""
DECLARE = """
import torch
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def test_torchvision_whose_operators_are_there_gets_none_declared(tmp_path: Path) -> None:
    datasets()
    root = fake_mnist(tmp_path, noise(5, 6, 4), noise(2, 6, 4))
    command = [sys.executable, "-c", IMPORT.format(before=DECLARE), str(root)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "(5, 6, 4, 1) 0\n"


@pytest.mark.parametrize("missing", ["torch", "torchvision"])
def test_the_extra_is_missing(tmp_path: Path, missing: str) -> None:
    command = [sys.executable, "-c", IMPORT.format(before=f"sys.modules[{missing!r}] = None"), str(tmp_path)]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stderr.splitlines()[-1]
    assert "CallerError: MNIST: expected torch and torchvision, got: " in said and missing in said
    assert said.endswith("pip install 'glsnet[images]'")


def test_a_folder_in_one(tmp_path: Path) -> None:
    pixels = noise(23, 6, 4, 3)
    pictures = load("folder", own(tmp_path / "pets", pixels))
    assert pictures.name == "pets"
    assert pictures.train.dtype == pictures.test.dtype == np.uint8
    assert (pictures.train == [p for i, p in enumerate(pixels) if i % 5 != 4]).all()
    tested = [p.tobytes() for i, p in enumerate(pixels) if i % 5 == 4]
    assert sorted(p.tobytes() for p in pictures.test) == sorted(tested)
    assert (pictures.test == load("folder", tmp_path / "pets").test).all()


def test_a_folder_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = noise(8, 6, 4), noise(400, 6, 4, seed=1)
    own(tmp_path / "pets" / "train", train)
    own(tmp_path / "pets" / "test", test)
    (tmp_path / "pets" / "more").mkdir()
    (tmp_path / "pets" / "train" / "cat" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path / "pets")
    seen: list[tuple[int, int]] = []
    pictures = load("folder", Path("."), lambda done, total: seen.append((done, total)))
    assert pictures.name == "pets"
    assert (pictures.train == train[..., None]).all()
    assert sorted(p.tobytes() for p in pictures.test) == sorted(p.tobytes() for p in test)
    assert seen == [(408, 408)]

    cats = {p.tobytes() for p in test[:200]}
    assert 30 <= sum(p.tobytes() in cats for p in pictures.test[:100]) <= 70  # a fair sample of both classes


def test_progress(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    load("folder", own(tmp_path, noise(1203, 2, 2)), lambda done, total: seen.append((done, total)))
    assert seen == [(500, 1203), (1000, 1203), (1203, 1203)]


def test_a_folder_has_the_order_of_imagefolder(tmp_path: Path) -> None:
    pixels = noise(12, 2, 2, 3)
    for file, image in zip(["b/2.png", "b/10.png", "b/x/1.png", "b/x/y/1.png", "b/x-/1.png", "b/z.PNG", "B/1.png",
                            "a/3.bmp", "a/.h.png", "a b/4.tiff", "é/1.ppm", ".h/1.png"], pixels, strict=True):
        save(tmp_path / "train" / file, image)
    own(tmp_path / "test", pixels[:2])
    (tmp_path / "train" / "c").symlink_to(tmp_path / "test" / "cat")
    folder = datasets().ImageFolder(tmp_path / "train")
    assert len(folder) == 13
    assert (load("folder", tmp_path).train == [np.asarray(image) for image, _ in folder]).all()


@pytest.mark.parametrize(
    ("modes", "channels"),
    [(["L", "RGB"], 1), (["1", "L"], 1), (["RGB", "L"], 3), (["P", "RGB"], 3), (["RGBA", "LA"], 3), (["LA", "L"], 3)],
)
def test_the_first_image_decides_on_channels(tmp_path: Path, modes: list[str], channels: int) -> None:
    files = [save(tmp_path / "train" / "cat" / f"{i}.png", noise(6, 4, 3, seed=i), m) for i, m in enumerate(modes)]
    own(tmp_path / "test", noise(1, 6, 4))
    images = load("folder", tmp_path).train
    assert images.shape == (2, 6, 4, channels)
    for file, image in zip(files, images, strict=True):
        wanted = np.asarray(Image.open(file).convert("L" if channels == 1 else "RGB"))
        assert (image == wanted.reshape(image.shape)).all()


def test_other_sizes_are_refused(tmp_path: Path) -> None:
    own(tmp_path, noise(9, 6, 4))
    save(tmp_path / "dog" / "005.png", noise(4, 6))
    save(tmp_path / "dog" / "007.png", noise(6, 6))
    with pytest.raises(CallerError) as caught:
        load("folder", tmp_path)
    assert str(caught.value).startswith(
        f"{tmp_path}/dog/005.png: expected 4 x 6 pixels as in {tmp_path}/cat/000.png, got 6 x 4; "
    )


@pytest.mark.parametrize(("height", "width"), [(6, 5), (6, 1), (1, 6)])
def test_images_without_two_halves_are_refused(tmp_path: Path, height: int, width: int) -> None:
    own(tmp_path, noise(5, height, width))
    with pytest.raises(CallerError, match=re.escape(f"{tmp_path}/cat/000.png: expected an even width")) as caught:
        load("folder", tmp_path)
    assert f"got {width} x {height}; " in str(caught.value)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("place", ["cat/000", "dog/003", "dog/004"])  # the first, another, one for testing
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tiff", ".bmp", ".ppm", ".webp"])
def test_damaged_images_are_refused(tmp_path: Path, place: str, suffix: str) -> None:
    own(tmp_path, noise(5, 64, 64, 3))
    (tmp_path / f"{place}.png").unlink()
    file = save(tmp_path / f"{place}{suffix}", noise(64, 64, 3))
    data = file.read_bytes()
    load("folder", tmp_path)
    for damaged in (data[: len(data) // 2], data[:30], b"", b"no image"):
        file.write_bytes(damaged)
        with pytest.raises(CallerError, match=re.escape(f"{file}: expected an image of 8 bits a channel, got: ")):
            load("folder", tmp_path)


def test_deep_images_are_refused(tmp_path: Path) -> None:
    own(tmp_path, noise(5, 6, 4))
    Image.fromarray(noise(6, 4).astype(np.uint16) * 257).save(tmp_path / "dog" / "003.png")
    with pytest.raises(CallerError, match=re.escape("dog/003.png: expected an image of 8 bits a channel, got: more")):
        load("folder", tmp_path)


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    def refused(folder: Path, said: str) -> None:
        with pytest.raises(CallerError, match=re.escape(f"{folder}: expected {said}")) as caught:
            load("folder", folder)
        assert "DIR/<class>/*.png" in str(caught.value) or "at least 5" in said

    a_class = "a folder for each class with images in it, got "
    refused(tmp_path / "none", "a folder of images, got: No such file or directory")
    refused(save(tmp_path / "x.png", noise(6, 4)), "a folder of images, got: Not a directory")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", a_class + "no folder in it")
    save(tmp_path / "flat" / "x.png", noise(6, 4))
    refused(tmp_path / "flat", a_class + "no folder in it")
    (tmp_path / "bare" / "cat").mkdir(parents=True)
    refused(tmp_path / "bare", a_class + "no image in 1 folders")
    refused(own(tmp_path / "few", noise(4, 6, 4)), "at least 5 images")
    own(tmp_path / "half" / "train", noise(9, 6, 4))
    (tmp_path / "half" / "test").mkdir()
    with pytest.raises(CallerError, match=re.escape(f"{tmp_path / 'half' / 'test'}: expected {a_class}no folder")):
        load("folder", tmp_path / "half")


@pytest.mark.parametrize(
    ("dataset", "folder", "said"),
    [
        ("digits", Path("data"), "--data: expected no folder, for digits come with scikit-learn, got data; leave it"),
        ("folder", None, "--data: expected the folder of your images, got none; give --data DIR and lay"),
        ("cifar", None, "data set: expected one of digits, mnist, cifar10, folder, got 'cifar'; choose"),
    ],
)
def test_arguments_that_do_not_go_together(dataset: str, folder: Path | None, said: str) -> None:
    with pytest.raises(CallerError, match=re.escape(said)):
        load(dataset, folder)


@pytest.mark.parametrize("channels", [1, 3])
def test_halves(channels: int) -> None:
    images = noise(5, 6, 8, channels)
    left, right = halves(images)
    assert left.shape == right.shape == (5, 6, 4, channels)
    assert np.shares_memory(left, images) and np.shares_memory(right, images)
    for i in range(5):
        for row in range(6):
            for column in range(4):
                assert (left[i, row, column] == images[i, row, column]).all()
                assert (right[i, row, column] == images[i, row, 4 + column]).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [1, 3, 4])
def test_crops(channels: int, side: int) -> None:
    left, _ = halves(noise(50, 6, 8, channels))
    pixels, places = crops(left, side, np.random.default_rng(1))
    assert pixels.shape == (50, side * side * channels) and pixels.dtype == np.uint8
    assert places.shape == (50, 2) and places.dtype == np.int64
    for image, crop, (top, start) in zip(left, pixels, places, strict=True):
        assert 0 <= top <= 6 - side and 0 <= start <= 4 - side
        assert crop.tolist() == [int(image[top + i, start + j, c])
                                 for i in range(side) for j in range(side) for c in range(channels)]
    again = crops(left, side, np.random.default_rng(1))
    assert (again[0] == pixels).all() and (again[1] == places).all()


def test_places_of_crops_are_uniform() -> None:
    _, places = crops(np.zeros((20_000, 6, 4, 1), np.uint8), 3, np.random.default_rng(2))
    counts = np.bincount(places[:, 0] * 2 + places[:, 1], minlength=8)
    assert len(counts) == 8
    assert pvalue(counts, np.full(8, 1 / 8)) > 1e-6


@pytest.mark.parametrize("side", [-1, 0, 5])
def test_crops_that_do_not_fit(side: int) -> None:
    left, _ = halves(noise(2, 6, 8, 1))
    with pytest.raises(CallerError, match=f"expected a side of 1 to 4 pixels, as the halves are 4 x 6, got {side};"):
        crops(left, side, np.random.default_rng(0))
