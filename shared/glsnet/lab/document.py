"""The shell of a report: one HTML document that needs nothing else, with its style, tables and figures.

    rendered                      introduction and sections -> the document
    figure, table, bits_table     what sections are made of
"""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from glsnet.lab.curves import Picture, Point, in_order, label_of
from glsnet.lab.summary import Measured, Record


class Summarised(Point, Protocol):
    """What a row of any source has, beside what it measures."""

    @property
    def transport(self) -> str: ...

    @property
    def bits(self) -> Mapping[str, float | None]: ...  # by layer


class Report(NamedTuple):
    """What a report is made of."""

    rows: Sequence[Summarised]  # dataclasses
    drawn: Mapping[str, Picture]  # every figure, by the name of its file
    introduction: str  # HTML, as are the sections
    sections: Mapping[str, tuple[str, str]]  # id: heading, content


class Marked(NamedTuple):
    """The text of a table's cell, and whether it is near, off or far."""

    text: str
    kind: str


POINTS = ("Error bars are two standard errors, often smaller than the point. Points of different schemes are set "
          "slightly apart.")
LINES = " Where there are several points of a scheme at one place, the line joins the lowest."
CELL = ("scheme", "K", "L_max")
LAYERS = ("information", "packed", "protobuf", "stream", "ip")

_TRANSPORTS = {"grpc": "over gRPC", "direct": "in one process", "simulator": "in virtual time",
               **{f"mqtt, QoS {qos}": f"over MQTT at QoS {qos}" for qos in range(3)}}


def rendered(manifest: Mapping[str, Any], records: Sequence[Record], report: Report) -> str:
    """The whole document; the manifest is its last section."""
    sections = {**report.sections,
                "manifest": ("Manifest", f"<pre>{html.escape(json.dumps(manifest, indent=2))}</pre>")}
    contents = " · ".join(f'<a href="#{key}">{heading}</a>' for key, (heading, _) in sections.items())
    body = "\n".join(f'<section id="{key}">\n<h2>{heading}</h2>\n{content}\n</section>'
                     for key, (heading, content) in sections.items())
    title = html.escape(manifest["scenario"]["title"])
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n<h1>{title}</h1>\n{_unfinished(manifest, records)}{report.introduction}\n<nav>{contents}</nav>\n"
        f"{body}\n</body>\n</html>\n"
    )


def _unfinished(manifest: Mapping[str, Any], records: Sequence[Record]) -> str:
    expected = manifest["cells"]
    return "" if len(records) >= expected else (
        f'<p class="warning">Unfinished: {len(records):,} of {expected:,} cells are there. Settings with fewer '
        "repetitions than others have larger errors.</p>\n"
    )


def what_was_run(records: Sequence[Record], rows: Sequence[Summarised], samples: str = "samples") -> str:
    """A sentence on schemes, settings and how much of each; `samples` is what the source calls them."""
    schemes = listed(label_of(scheme) for scheme in in_order(row.scheme for row in rows))
    counts = {record["result"]["samples"] for record in records}
    each = " to ".join(f"{number:,}" for number in sorted({min(counts), max(counts)}))
    return (
        f"Run were: {html.escape(schemes)}; with K = {listed(sorted({row.decoders for row in rows}))} and "
        f"L_max = {listed(sorted({row.l_max for row in rows}))}; {len(records):,} cells, repetitions of "
        f"{len(rows):,} settings, of {each} {samples} each, "
        f"{listed(sorted({_TRANSPORTS.get(row.transport, row.transport) for row in rows}))}."
    )


def figure(picture: Picture, heading: str, caption: str) -> str:
    """A figure with what is to be read below it."""
    svg = picture.svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(heading)}"', 1)
    return f"<figure>\n{svg}<figcaption>{caption}</figcaption>\n</figure>"


def bits_table(rows: Sequence[Summarised], header: Sequence[str] = (), more: Sequence[Sequence[str]] = ()) -> str:
    """Bits per sample by layer, of rows over the network, if there are any; `more` are cells of each row, in front.

    Schemes of the same bits, as with fixed width, share a line.
    """
    on_network = [at for at, row in enumerate(rows) if row.transport != "direct"] or range(len(rows))
    schemes_of: dict[tuple[str, ...], set[str]] = {}
    for at in on_network:
        row = rows[at]
        _, *which = cell(row)
        bits = [number(row.bits[layer], 4) for layer in LAYERS]
        line = (*which, *(more[at] if more else ()), row.transport, *bits, _overhead(row))
        schemes_of.setdefault(line, set()).add(row.scheme)
    every = {rows[at].scheme for at in on_network}
    return table(
        (*CELL, *header, "transport", *LAYERS, "over packed"),
        [("every scheme" if schemes == every and len(every) > 1 else listed(map(label_of, in_order(schemes))), *line)
         for line, schemes in schemes_of.items()],
    )


def _overhead(row: Summarised) -> str:
    *_, last = (bits for bits in row.bits.values() if bits is not None)
    return f"{100 * (last / row.bits['packed'] - 1):+.2f} %" if row.bits["packed"] else ""


def cell(row: Point) -> tuple[str, str, str]:
    """What the first columns of a table are: see `CELL`."""
    return label_of(row.scheme), str(row.decoders), str(row.l_max)


def measured(measured: Measured, digits: int) -> str:
    return f"{measured.value:.{digits}f} ± {measured.error:.{digits}f}"


def number(value: float | None, digits: int) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def listed(items: Iterable[object]) -> str:
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


def table(header: Sequence[str], rows: Sequence[Sequence[str | Marked]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    lines = ["<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows]
    return ('<div class="scroll"><table>\n<thead><tr>' + head + "</tr></thead>\n<tbody>\n" + "\n".join(lines)
            + "\n</tbody></table></div>")


def _cell(text: str | Marked) -> str:
    if isinstance(text, Marked):
        return f'<td class="{text.kind}">{html.escape(text.text)}</td>'
    return f"<td>{html.escape(text)}</td>"


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
