"""What a report on images says: its sections, in the order in which they are read."""

import html
from collections.abc import Callable, Sequence

from glsnet.lab.curves import label_of
from glsnet.lab.curves_images import MOST_DECODERS, ON_A_SHEET, Result, pictures, sheets
from glsnet.lab.document import (
    CELL,
    LINES,
    POINTS,
    Marked,
    Report,
    bits_table,
    cell,
    figure,
    listed,
    measured,
    table,
    what_was_run,
)
from glsnet.lab.summary import Record
from glsnet.lab.summary_images import Published, Row, published_for, summarise

NEAR, OFF = 0.02, 0.1  # above what was published, at most, as a share of it; beyond is far

FIGURES = {  # name: heading, caption
    "rate-distortion": (
        "Distortion against bits",
        "Mean squared error of a pixel, best of K: of each image the best of the K reconstructions, which only an "
        "oracle knows. A scheme above “side information alone” does worse than its decoders would with no message at "
        "all, best of K as well; one above “mean image”, worse than the same picture for every image. "
        + POINTS + LINES,
    ),
    "own": (
        "Each decoder's own distortion",
        "Mean squared error of a pixel, mean over the K decoders: what a decoder gets that is not told whether it is "
        "the best. With a list, a message means one of the K decoders, and what the others make of it is far off. "
        + POINTS + LINES,
    ),
    "match": (
        "Match rate",
        "How often some decoder drew just the codeword that the encoder drew. N and β may differ from point to point. "
        "Of quantisers, some decoder always has the encoder's cell. " + POINTS + LINES,
    ),
}


def report(records: Sequence[Record]) -> Report:
    """A report on a sweep of images, from at least one record."""
    rows, shown = summarise(records), sheets(records)
    drawn = pictures(rows, shown)
    sections = {key: (heading, figure(drawn[key], heading, caption))
                for key, (heading, caption) in FIGURES.items() if key in drawn}
    for name, results in shown.items():
        heading = f"What decoders saw, and made of it: {results[0]['data']}"
        sections[name] = (html.escape(heading), figure(drawn[name], heading, _caption(results)))
    sections["bits"] = ("Bits on the wire", _bits(rows))
    if beside := _beside(rows):
        sections["published"] = ("Beside the published table", beside)
    sections["summary"] = ("Summary", _summary(rows))
    return Report(rows, drawn, _introduction(records, rows), sections)


def _introduction(records: Sequence[Record], rows: Sequence[Row]) -> str:
    """What was run, what the metric is, and which scheme does what."""
    of = listed(sorted({
        f"the {result['split']} split of {result['data']}, with networks trained on {result['trained_on']}"
        for result in (record["result"] for record in records)}))
    return (
        "<p>One encoder sees the right halves of images and broadcasts an index of log2 L_max bits for each; K "
        "decoders, each with a small crop of its own out of the left half, reconstruct the right half. "
        f"{what_was_run(records, rows, 'images')} The images are of {html.escape(of)}. Distortion is the mean squared "
        "error of the right half's pixels, on a scale from 0 to 1. <strong>Best of K</strong> takes the best of an "
        "image's K reconstructions, which only an oracle knows; the published tables give it. <strong>Each "
        "decoder's</strong> is the mean over the K, which needs no oracle.</p>\n"
        "<p>GLS is as published, and so is its baseline, all of whose decoders race on one stream. The quantisers are "
        "what to judge them by: learned Wyner–Ziv decodes the encoder's cell with the help of the crop; its list lets "
        "each message stand for K cells, one for each decoder; k-means has the centroid of the cell, and no crop.</p>"
    )


def _caption(results: Sequence[Result]) -> str:
    """What is on a contact sheet."""
    first = results[0]
    images = min(ON_A_SHEET, len(first["shown"]["images"]))
    schemes = {result["scheme"] for result in results}
    parts = [
        f"The first {images} images of the first repetition, for the largest K, {first['decoders']}, and the middle "
        f"L_max, {first['l_max']}, that there are images of. Of each decoder, the left half is what it saw: its crop, "
        "where it was, and all else in grey; the right half is what it made of that and of the message. A solid green "
        "frame: it matches the encoder; a dashed orange one: it does not. The number is the MSE of the right half, in "
        "bold that of the best."
    ]
    if schemes & {"wyner-ziv", "vq"}:
        names = listed(label_of(scheme) for scheme in ("wyner-ziv", "vq") if scheme in schemes)
        parts.append(f"With {names}, all decoders find the encoder's cell.")
    if "wyner-ziv-list" in schemes:
        parts.append("With a list, a message stands for K cells, and the decoder matches whose cell the encoder meant.")
    if first["decoders"] > MOST_DECODERS:
        parts.append(f"Only the first {MOST_DECODERS} decoders are shown.")
    return " ".join(parts)


def _bits(rows: Sequence[Row]) -> str:
    header, more = _more(rows)
    return ("<p>Bits per image towards each decoder, connection set-up apart: packed indices, the protobuf frames "
            "around them, the gRPC stream as counted on the socket, and TCP/IP. The mean over K. Runs in one process "
            "(direct) have no stream.</p>\n" + bits_table(rows, header, [more(row) for row in rows]))


def _beside(rows: Sequence[Row]) -> str:
    """GLS, and the best of all schemes, beside what was published; "" where nothing was."""
    of: dict[tuple[str, str, int, int], list[Row]] = {}
    for row in rows:
        if (row.decoders, row.l_max) in published_for(row):
            of.setdefault((row.dataset, row.trained_on, row.decoders, row.l_max), []).append(row)
    if not of:
        return ""
    header, more = _more(rows)
    lines: list[list[str | Marked]] = []
    below = {"GLS": 0, "the best scheme": 0}
    for found in of.values():
        cell_of = published_for(found[0])[found[0].decoders, found[0].l_max]
        best = min(found, key=_mse)
        gls = min((row for row in found if row.scheme == "gls"), key=_mse, default=None)
        below["GLS"] += gls is not None and _mse(gls) < cell_of.mse
        below["the best scheme"] += _mse(best) < cell_of.mse
        lines.append([
            str(best.decoders), str(best.l_max), *more(best), str(cell_of.candidates), f"{cell_of.beta:g}",
            f"{cell_of.mse:.4f}", *(_chosen(gls) if gls else ("–", "–")), *_compared(gls, cell_of),
            label_of(best.scheme), *_compared(best, cell_of)])
    in_words = listed(f"{who} in {count}" for who, count in below.items())
    return (
        "<p>MSE, best of K, beside that of scheme GLS in arXiv 2506.05632 (MNIST: Table 13, CIFAR-10: Table 15), each "
        f"with its N and β. Of {len(of)} cells, what was measured is below what was published for {in_words}. Green is "
        f"below it, or at most {100 * NEAR:.0f} % above; yellow is at most {100 * OFF:.0f} % above, red more. The "
        "networks are not those of the paper, which gives no errors.</p>\n"
        + table(("K", "L_max", *header, "published N", "published β", "published MSE", "N", "β", "GLS", "difference",
                 "best scheme", "its MSE", "difference"), lines)
    )


def _mse(row: Row) -> float:
    return row.mse.value


def _compared(row: Row | None, published: Published) -> tuple[str, str | Marked]:
    """The MSE of a row, and by how much it is above what was published."""
    if row is None:
        return "–", "–"
    above = _mse(row) / published.mse - 1
    kind = "near" if above <= NEAR else "off" if above <= OFF else "far"
    return measured(row.mse, 4), Marked(f"{100 * above:+z.1f} %", kind)


def _summary(rows: Sequence[Row]) -> str:
    header, more = _more(rows)
    summary = table(
        (*CELL, *header, "N", "β", "transport", "n", "images", "seconds", "match rate", "MSE, best of K",
         "MSE, each decoder"),
        [(*cell(row), *more(row), *_chosen(row), row.transport, str(row.repetitions), f"{row.samples:,.0f}",
          f"{row.seconds:.3g}", measured(row.match_rate, 4), measured(row.mse, 5), measured(row.decoder_mse, 5))
         for row in rows],
    )
    return ("<p>Means over n repetitions ± standard error; of a single one, that within the run. Repetitions share "
            "their images, and so the errors of two or more are those of crops and of the shared randomness. Images "
            "and seconds are those of one repetition. N and β, the number of candidates and the β-VAE, are of races; "
            "“by” a metric, they were searched for, on images held out when training, to make that least, and are the "
            "most frequent choice. All digits, and more columns, are in <code>summary.csv</code>.</p>\n" + summary)


def _chosen(row: Row) -> tuple[str, str]:
    """N and beta."""
    if row.candidates is None or row.beta is None:
        return "–", "–"
    return str(row.candidates), f"{row.beta:g}" + (f", by {row.minimised}" if row.minimised else "")


def _more(rows: Sequence[Row]) -> tuple[tuple[str, ...], Callable[[Row], tuple[str, ...]]]:
    """The columns that tell data sets and models apart, if there are several; and what a row has in them."""
    if len({(row.dataset, row.trained_on) for row in rows}) == 1:
        return (), lambda _: ()
    return ("data", "trained on"), lambda row: (row.dataset, row.trained_on)
