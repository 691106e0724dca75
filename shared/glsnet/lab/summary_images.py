"""Records of images to rows: repetitions as means with standard errors, and the published figures.

    summarise        records -> rows, one for all repetitions of the same settings
    published_for    row -> the published table of its images
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from glsnet.lab.summary import Measured, Record, mean, measured, minimised, repeated, transport_of


@dataclass(frozen=True)
class Row:
    """What the repetitions of the same settings came to: means. Squared errors are of a pixel, from 0 to 1.

    What a scheme has not is None: candidates, beta, or a layer of bits. So is vq_mse, where the model has no quantiser
    of as many cells.
    """

    scheme: str
    decoders: int
    l_max: int
    candidates: int | None  # with beta; where they were searched, the most frequent choice
    beta: float | None
    minimised: str  # "mse" or "decoder_mse", where there was a search; else ""
    repetitions: int
    samples: float  # of one repetition
    seconds: float
    match_rate: Measured
    mse: Measured  # best of K
    decoder_mse: Measured  # each decoder's own, mean over the K
    vq_mse: float | None  # of k-means with as many values of the message
    mean_mse: float  # of the mean image, whatever the image
    side_information_mse: float  # best of K
    side_information_decoder_mse: float
    bits: dict[str, float | None]  # by layer, per sample, towards each decoder
    transport: str
    dataset: str
    trained_on: str


class Published(NamedTuple):
    """One cell of a published table of scheme gls: mean squared error, best of K."""

    candidates: int
    beta: float
    mse: float


def summarise(records: Sequence[Record]) -> list[Row]:
    """One row for all repetitions of the same settings, in the order of data set, K, L_max and scheme.

    Repetitions and errors are as in `summary.summarise`. They share their test images, so that the errors of two or
    more are those of crops and of the shared randomness only.
    """
    return sorted((_row(repetitions) for repetitions in repeated(records)), key=lambda row: (
        row.dataset, row.trained_on, row.decoders, row.l_max, row.scheme, row.transport, row.minimised,
        row.candidates or 0, row.beta or 0.0
    ))


def _row(records: list[Record]) -> Row:
    results = [record["result"] for record in records]
    first = results[0]
    candidates, beta = Counter((each["candidates"], each["beta"]) for each in results).most_common(1)[0][0]
    return Row(
        scheme=first["scheme"], decoders=first["decoders"], l_max=first["l_max"], candidates=candidates, beta=beta,
        minimised=minimised(first), repetitions=len(results),
        samples=float(np.mean([result["samples"] for result in results])),
        seconds=float(np.mean([record["timing"]["seconds"] for record in records])),
        match_rate=measured(results, "match_rate"), mse=measured(results, "mse"),
        decoder_mse=measured(results, "decoder_mse"),
        vq_mse=mean([result["vq_mse"] for result in results]),
        **{name: float(np.mean([result[name] for result in results])) for name in (
            "mean_mse", "side_information_mse", "side_information_decoder_mse"
        )},
        bits={layer: mean([result["bits_per_sample"][layer] for result in results])
              for layer in first["bits_per_sample"]},
        transport=transport_of(first), dataset=first["dataset"], trained_on=first["trained_on"],
    )


def published_for(row: Row) -> dict[tuple[int, int], Published]:
    """The published table of the row's images, by (K, L_max); empty, if there is none of them."""
    if row.dataset == "mnist":
        return published("table13")
    if row.dataset == "cifar10" or (row.dataset == "folder" and "cifar" in row.trained_on.lower()):
        return published("table15")
    return {}


def published(table: str) -> dict[tuple[int, int], Published]:
    """Table 13, of MNIST, or table 15, of CIFAR-10, by (K, L_max)."""
    text = (files("glsnet.lab") / "published" / f"images_{table}.csv").read_text("utf-8")
    return {(int(cell["K"]), int(cell["L_max"])): Published(int(cell["N"]), float(cell["beta"]), float(cell["mse"]))
            for cell in csv.DictReader(text.splitlines())}
