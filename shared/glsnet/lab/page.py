"""The report of a result directory: one HTML page that needs nothing else, its figures, and its summary as CSV.

    write        records -> report of their source -> files
    _gaussian    that of the Gaussian source; its sections, in the order in which they are read
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from glsnet.errors import CallerError
from glsnet.lab import page_images, results
from glsnet.lab.curves import Picture, pictures
from glsnet.lab.document import (
    CELL,
    LINES,
    POINTS,
    Marked,
    Report,
    Summarised,
    bits_table,
    cell,
    figure,
    measured,
    number,
    rendered,
    table,
    what_was_run,
)
from glsnet.lab.summary import Beside, Measured, Record, Row, beside_published, summarise
from glsnet.sources.samples import write_atomically

FIGURES = {  # name: heading, caption
    "distortion-mse": (
        "Distortion against bits: MSE",
        "Decibels of the mean squared error of the best of the K reconstructions. Which of them is best only an oracle "
        "knows. The list converse bounds it from below; the Wyner–Ziv line bounds a single decoder, and is the same as "
        "the list converse at K = 1. A scheme above “side information alone” does worse than sending nothing. "
        + POINTS + LINES,
    ),
    "distortion-mean-db": (
        "Distortion against bits: mean dB",
        "The mean over samples of each squared error's decibels, best of K: what the published tables give. No theorem "
        "here bounds it, and it is not to be compared with MSE. " + POINTS + LINES,
    ),
    "distortion-decoder": (
        "Each decoder's own distortion: MSE",
        "Decibels of the mean squared error, mean over the K decoders: what a decoder gets that is not told whether it "
        "is the best. Wyner–Ziv bounds it from below. " + POINTS + LINES,
    ),
    "match-rate": (
        "Match rate",
        "How often some decoder drew just what the encoder drew; of quantisers, how often one found its cell. The dash "
        "beside a point is the coding bound, which it may not be below. It depends on sigma2, which may differ from "
        "point to point, and so no line joins them. " + POINTS,
    ),
    "bits": (
        "Bits on the wire",
        "Bits per sample towards each decoder, connection set-up apart: packed indices, the protobuf frames around "
        "them, the gRPC stream as counted on the socket, and TCP/IP. The mean over K. Runs in one process (direct) "
        "have no stream. H(M | shared randomness) is what an ideal code of the same messages would take.",
    ),
}


def write(directory: Path) -> Path:
    """Write `report.html`, `summary.csv` and `figures/*.png` into a result directory, from its records alone.

    The same records give the same bytes. A sweep that is not finished is reported as far as it has come.

    Returns:
        the path of the page.

    Raises:
        CallerError: the directory is no result directory, has no records yet, or cannot be written.
    """
    manifest, records = results.read(directory)
    if not records:
        raise CallerError(f"{directory}: expected at least one record, got none; let the sweep finish a cell first")
    images = manifest["scenario"]["source"] == "images"
    report = page_images.report(records) if images else _gaussian(records)
    _write_figures(directory / "figures", report.drawn)
    with write_atomically(directory / "summary.csv") as handle:
        _write_summary(report.rows, csv.writer(handle, lineterminator="\n"))
    with write_atomically(directory / "report.html") as handle:
        handle.write(rendered(manifest, records, report))
    return directory / "report.html"


def _write_figures(folder: Path, drawn: Mapping[str, Picture]) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise CallerError(f"{folder}: expected a folder that can be made, got: {error.strerror}") from error
    for name, picture in drawn.items():
        with write_atomically(folder / f"{name}.png") as handle:
            handle.buffer.write(picture.png)


def _write_summary(rows: Sequence[Summarised], writer: Any) -> None:
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer.writerow(names)
    writer.writerows([row.get(name) for name in names] for row in flat)


def _flat(row: Summarised) -> dict[str, object]:
    """A row as columns: what was measured as two, and each layer of bits as one."""
    flat: dict[str, object] = {}
    for name, value in vars(row).items():
        if isinstance(value, Measured):
            flat |= {name: value.value, f"{name}_error": value.error}
            if name.endswith("mse"):
                flat |= {f"{name}_db": value.decibels.value, f"{name}_db_error": value.decibels.error}
        elif name == "bits":
            flat |= {f"bits_{layer}": bits for layer, bits in row.bits.items()}
        else:
            flat[name] = value
    return flat


def _gaussian(records: Sequence[Record]) -> Report:
    rows = summarise(records)
    drawn = pictures(rows)
    sections = {key: (heading, figure(drawn[key], heading, caption)) for key, (heading, caption) in FIGURES.items()}
    sections["bits"] = (sections["bits"][0], sections["bits"][1] + _bits(rows))
    if beside := beside_published(rows):
        sections["published"] = ("Beside the published table", _beside(beside))
    sections["summary"] = ("Summary", _summary(rows))
    return Report(rows, drawn, _introduction(records, rows), sections)


def _introduction(records: Sequence[Record], rows: Sequence[Row]) -> str:
    """What was run, and what the two metrics are."""
    return (
        "<p>One encoder sees samples of a Gaussian source and broadcasts an index of log2 L_max bits for each; K "
        f"decoders, each with noisy side information of its own, reconstruct it. {what_was_run(records, rows)} "
        "Distortion is squared error as a share of the source's variance, in one of two metrics that are not "
        "comparable. <strong>MSE (dB)</strong> is the decibels of the mean squared error; rate-distortion theory "
        "bounds it. <strong>Mean dB</strong> is the mean over samples of each error's decibels, as the published "
        "tables give it; it reads far lower, because the rare large errors of samples without a match hardly count in "
        "it.</p>"
    )


def _bits(rows: Sequence[Row]) -> str:
    return bits_table(rows, ("packing", "frame", "H(M | shared)"),
                      [(row.packing, f"{row.frame:,}", number(row.message_entropy, 4)) for row in rows])


def _beside(beside: Sequence[Beside]) -> str:
    """What was measured beside what was published; the colour is that of the difference in standard errors."""
    within = sum(abs(each.deviations) < 2 for each in beside)
    largest = max(beside, key=lambda each: abs(each.deviations))
    beside_it = table(
        ("K", "L_max", "sigma2", "published sigma2", "repetitions", "mean dB", "published mean dB", "difference, dB",
         "in standard errors"),
        [(str(each.row.decoders), str(each.row.l_max), _parameter(each.row), f"{each.published.sigma2:g}",
          str(each.row.repetitions), measured(each.row.mean_db, 3), measured(each.published.mean_db, 3),
          f"{each.difference:+z.3f}", Marked(f"{each.deviations:+z.1f}", _kind(each))) for each in beside],
    )
    return (
        f"<p>GLS, mean dB, best of K, beside Table 10 of arXiv 2506.05632: {within} of {len(beside)} differences are "
        f"below two combined standard errors; the largest is {largest.deviations:+.1f}, at K = {largest.row.decoders}, "
        f"L_max = {largest.row.l_max}. Of 20 differences by chance alone, one is beyond two; an error of few "
        "repetitions is itself uncertain. More is to be expected where sigma2 is another and was not searched for.</p>"
        + beside_it
    )


def _kind(beside: Beside) -> str:
    return "near" if abs(beside.deviations) < 2 else "off" if abs(beside.deviations) < 3 else "far"


def _summary(rows: Sequence[Row]) -> str:
    summary = table(
        (*CELL, "parameter", "packing", "transport", "n", "samples", "seconds", "match rate", "MSE (dB), best of K",
         "mean dB, best of K", "MSE (dB), each decoder", "mean dB, each decoder"),
        [(*cell(row), f"{row.parameter} {_parameter(row)}", row.packing, row.transport, str(row.repetitions),
          f"{row.samples:,.0f}", f"{row.seconds:.3g}", measured(row.match_rate, 4), measured(row.mse.decibels, 2),
          measured(row.mean_db, 2), measured(row.decoder_mse.decibels, 2), f"{row.decoder_mean_db:.2f}")
         for row in rows],
    )
    return ("<p>Means over n repetitions ± standard error; of a single one, that within the run. Samples and seconds "
            "are those of one repetition. A parameter “by” a metric was searched for, on other samples, to make that "
            "least, and is the most frequent choice. All digits, and more columns, are in <code>summary.csv</code>."
            "</p>\n" + summary)


def _parameter(row: Row) -> str:
    return f"{row.parameter_value:.4g}" + (f", by {row.minimised}" if row.minimised else "")
