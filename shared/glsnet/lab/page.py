"""The report of a result directory: one HTML page that needs nothing else, its figures, and its summary as CSV.

    write     records -> summary rows -> pictures and tables -> files
    _page     the sections, in the order in which they are read
"""

import csv
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from glsnet.errors import CallerError
from glsnet.lab import results
from glsnet.lab.curves import Picture, in_order, label_of, pictures
from glsnet.lab.summary import Beside, Measured, Record, Row, beside_published, summarise
from glsnet.sources.samples import write_atomically

POINTS = ("Error bars are two standard errors, often smaller than the point. Points of different schemes are set "
          "slightly apart.")
LINES = " Where there are several points of a scheme at one place, the line joins the lowest."
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
    rows = summarise(records)
    drawn = pictures(rows)
    _write_figures(directory / "figures", drawn)
    with write_atomically(directory / "summary.csv") as handle:
        _write_summary(rows, csv.writer(handle, lineterminator="\n"))
    with write_atomically(directory / "report.html") as handle:
        handle.write(_page(manifest, records, rows, drawn))
    return directory / "report.html"


def _write_figures(folder: Path, drawn: Mapping[str, Picture]) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise CallerError(f"{folder}: expected a folder that can be made, got: {error.strerror}") from error
    for name, picture in drawn.items():
        with write_atomically(folder / f"{name}.png") as handle:
            handle.buffer.write(picture.png)


def _write_summary(rows: Sequence[Row], writer: Any) -> None:
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    writer.writerow(names)
    writer.writerows([row.get(name) for name in names] for row in flat)


def _flat(row: Row) -> dict[str, object]:
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


def _page(manifest: Mapping[str, Any], records: Sequence[Record], rows: Sequence[Row], drawn: Mapping[str, Picture]
          ) -> str:
    sections = {key: (heading, _figure(drawn[key], heading, caption)) for key, (heading, caption) in FIGURES.items()}
    sections["bits"] = (sections["bits"][0], sections["bits"][1] + _bits(rows))
    if beside := beside_published(rows):
        sections["published"] = ("Beside the published table", _beside(beside))
    sections["summary"] = ("Summary", _summary(rows))
    sections["manifest"] = ("Manifest", f"<pre>{html.escape(json.dumps(manifest, indent=2))}</pre>")
    contents = " · ".join(f'<a href="#{key}">{heading}</a>' for key, (heading, _) in sections.items())
    body = "\n".join(f'<section id="{key}">\n<h2>{heading}</h2>\n{content}\n</section>'
                     for key, (heading, content) in sections.items())
    title = html.escape(manifest["scenario"]["title"])
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<h1>{title}</h1>\n{_introduction(manifest, records, rows)}\n<nav>{contents}</nav>\n{body}\n"
        "</body>\n</html>\n"
    )


def _introduction(manifest: Mapping[str, Any], records: Sequence[Record], rows: Sequence[Row]) -> str:
    """What was run, and what the two metrics are."""
    schemes = _listed(label_of(scheme) for scheme in in_order(row.scheme for row in rows))
    samples = {record["result"]["samples"] for record in records}
    each = " to ".join(f"{number:,}" for number in sorted({min(samples), max(samples)}))
    expected = manifest["cells"]
    unfinished = "" if len(records) >= expected else (
        f'<p class="warning">Unfinished: {len(records):,} of {expected:,} cells are there. Settings with fewer '
        "repetitions than others have larger errors.</p>\n"
    )
    return (
        f"{unfinished}<p>One encoder sees samples of a Gaussian source and broadcasts an index of log2 L_max bits for "
        "each; K decoders, each with noisy side information of its own, reconstruct it. Run were: "
        f"{html.escape(schemes)}; with K = {_listed(sorted({row.decoders for row in rows}))} and "
        f"L_max = {_listed(sorted({row.l_max for row in rows}))}; {len(records):,} cells, repetitions of "
        f"{len(rows):,} settings, of {each} samples each, "
        f"{_listed(sorted({_TRANSPORTS.get(row.transport, row.transport) for row in rows}))}. "
        "Distortion is squared error as a share of the source's variance, in one of two metrics that are not "
        "comparable. <strong>MSE (dB)</strong> is the decibels of the mean squared error; rate-distortion theory "
        "bounds it. <strong>Mean dB</strong> is the mean over samples of each error's decibels, as the published "
        "tables give it; it reads far lower, because the rare large errors of samples without a match hardly count in "
        "it.</p>"
    )


def _figure(picture: Picture, heading: str, caption: str) -> str:
    svg = picture.svg.replace("<svg", f'<svg role="img" aria-label="{heading}"', 1)
    return f"<figure>\n{svg}<figcaption>{caption}</figcaption>\n</figure>"


def _bits(rows: Sequence[Row]) -> str:
    layers = ("information", "packed", "protobuf", "stream", "ip")
    on_network = [row for row in rows if row.transport != "direct"] or rows
    return _table(
        (*_CELL, "packing", "frame", "H(M | shared)", *layers, "over packed"),
        [(*_cell(row), row.packing, f"{row.frame:,}", _number(row.message_entropy, 4),
          *(_number(row.bits[layer], 4) for layer in layers), _overhead(row)) for row in on_network],
    )


def _overhead(row: Row) -> str:
    *_, last = (bits for bits in row.bits.values() if bits is not None)
    return f"{100 * (last / row.bits['packed'] - 1):+.2f} %" if row.bits["packed"] else ""


def _beside(beside: Sequence[Beside]) -> str:
    """What was measured beside what was published; the colour is that of the difference in standard errors."""
    within = sum(abs(each.deviations) < 2 for each in beside)
    largest = max(beside, key=lambda each: abs(each.deviations))
    table = _table(
        ("K", "L_max", "sigma2", "published sigma2", "repetitions", "mean dB", "published mean dB", "difference, dB",
         "in standard errors"),
        [(str(each.row.decoders), str(each.row.l_max), _parameter(each.row), f"{each.published.sigma2:g}",
          str(each.row.repetitions), _measured(each.row.mean_db, 3), _measured(each.published.mean_db, 3),
          f"{each.difference:+z.3f}", f"{each.deviations:+z.1f}") for each in beside],
        ["near" if abs(each.deviations) < 2 else "off" if abs(each.deviations) < 3 else "far" for each in beside],
    )
    return (
        f"<p>GLS, mean dB, best of K, beside Table 10 of arXiv 2506.05632: {within} of {len(beside)} differences are "
        f"below two combined standard errors; the largest is {largest.deviations:+.1f}, at K = {largest.row.decoders}, "
        f"L_max = {largest.row.l_max}. Of 20 differences by chance alone, one is beyond two; an error of few "
        "repetitions is itself uncertain. More is to be expected where sigma2 is another and was not searched for.</p>"
        + table
    )


def _summary(rows: Sequence[Row]) -> str:
    table = _table(
        (*_CELL, "parameter", "packing", "transport", "n", "samples", "seconds", "match rate", "MSE (dB), best of K",
         "mean dB, best of K", "MSE (dB), each decoder", "mean dB, each decoder"),
        [(*_cell(row), f"{row.parameter} {_parameter(row)}", row.packing, row.transport, str(row.repetitions),
          f"{row.samples:,.0f}", f"{row.seconds:.3g}", _measured(row.match_rate, 4), _measured(row.mse.decibels, 2),
          _measured(row.mean_db, 2), _measured(row.decoder_mse.decibels, 2), f"{row.decoder_mean_db:.2f}")
         for row in rows],
    )
    return ("<p>Means over n repetitions ± standard error; of a single one, that within the run. Samples and seconds "
            "are those of one repetition. A parameter “by” a metric was searched for, on other samples, to make that "
            "least, and is the most frequent choice. All digits, and more columns, are in <code>summary.csv</code>."
            "</p>\n" + table)


_CELL = ("scheme", "K", "L_max")
_TRANSPORTS = {"grpc": "over gRPC", "direct": "in one process"}


def _cell(row: Row) -> tuple[str, str, str]:
    return label_of(row.scheme), str(row.decoders), str(row.l_max)


def _parameter(row: Row) -> str:
    return f"{row.parameter_value:.4g}" + (f", by {row.minimised}" if row.minimised else "")


def _measured(measured: Measured, digits: int) -> str:
    return f"{measured.value:.{digits}f} ± {measured.error:.{digits}f}"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _listed(items: Iterable[object]) -> str:
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str] = ()) -> str:
    """A table of texts; `classes`, if any, has one for the last cell of each row."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    lines = []
    for at, row in enumerate(rows):
        *most, last = (html.escape(text) for text in row)
        marked = f'<td class="{classes[at]}">' if classes else "<td>"
        lines.append("<tr>" + "".join(f"<td>{text}</td>" for text in most) + f"{marked}{last}</td></tr>")
    return ('<div class="scroll"><table>\n<thead><tr>' + head + "</tr></thead>\n<tbody>\n" + "\n".join(lines)
            + "\n</tbody></table></div>")


STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --dim: #5a5a5a; --paper: #fdfdfc; --rule: #d8d8d4; --link: #0062a3;
        --near: #d9f0e3; --off: #fbeccb; --far: #f8d3c5; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e3; --dim: #a8a8a3; --paper: #17181a; --rule: #3a3b3e; --link: #7cc0f0;
          --near: #1d4030; --off: #4d3d12; --far: #5c2a1a; }
}
body { max-width: 76rem; margin: 2rem auto; padding: 0 1.2rem; color: var(--ink); background: var(--paper);
       font: 16px/1.5 system-ui, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
p, figcaption { max-width: 52rem; } a { color: var(--link); } nav { margin: 1.2rem 0; }
.warning { border-left: 4px solid #d55e00; padding-left: 0.8rem; }
figure { margin: 1rem 0; } figcaption { color: var(--dim); font-size: 0.9rem; margin-top: 0.5rem; }
figure svg { display: block; box-sizing: border-box; max-width: 100%; height: auto; padding: 0.8rem; background: white;
             border: 1px solid var(--rule); border-radius: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.77rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.4rem; text-align: right; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; }
.near { background: var(--near); } .off { background: var(--off); } .far { background: var(--far); }
pre { overflow: auto; max-height: 30rem; padding: 0.8rem; border: 1px solid var(--rule); font-size: 0.8rem; }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt; } nav { display: none; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
  pre { max-height: none; white-space: pre-wrap; } .scroll { overflow: visible; }
  table { font-size: 6.5pt; } th, td { padding: 0.1rem 0.25rem; }
  .near, .off, .far { print-color-adjust: exact; }
}
"""
