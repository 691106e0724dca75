"""The figures of a report on images: rate-distortion curves, match rates, and contact sheets.

    pictures               rows, sheets -> every figure
    sheets                 records -> the results that go on a contact sheet together
    write_contact_sheet    result of a run -> PNG
"""

import base64
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from glsnet.lab.curves import (
    Picture,
    Styles,
    draw,
    draw_schemes,
    in_order,
    label_of,
    level,
    panels_of,
    styles_of,
    with_legend,
)
from glsnet.lab.summary import Record
from glsnet.lab.summary_images import Row, published_for
from glsnet.sources.samples import write_atomically

RACES = ("gls", "baseline")  # of quantisers, some decoder always has the encoder's cell
ON_A_SHEET = 6  # images, in a report
MOST_DECODERS = 16  # on a sheet, so that it can be read

# A sheet is laid out in inches.
_WIDTH, _LABELS, _BETWEEN, _GAP, _TEXT, _NEAR = 11.6, 1.05, 0.2, 0.06, 0.16, 0.04
_MARGIN, _LEAST_TILE, _MOST_TILE = 0.1, 0.6, 1.0
_HEADING, _KEY, _KEY_WIDTH = 0.5, 0.42, 8.0
_UNSEEN = (208, 214, 226)  # a grey that no greyscale image has
_MATCHED: Any = {"edgecolor": "#009E73", "linewidth": 2.0}
_OTHER: Any = {"edgecolor": "#E69F00", "linewidth": 1.5, "linestyle": (0, (2.5, 1.5))}
_NEITHER: Any = {"edgecolor": "0.6", "linewidth": 0.6}
_CROP: Any = {"edgecolor": "#0072B2", "linewidth": 0.7, "zorder": 0.5}  # below the frame

Result = Mapping[str, Any]


def pictures(rows: Sequence[Row], sheets: Mapping[str, Sequence[Result]]) -> dict[str, Picture]:
    """Every figure of a report, by name, from at least one row; of match rates only if there are races."""
    styles = styles_of(rows)
    figures: dict[str, Callable[[], Figure]] = {
        "rate-distortion": partial(_rate_distortion, rows, styles), "own": partial(_own, rows, styles)}
    if races := [row for row in rows if row.scheme in RACES]:
        figures["match"] = partial(_match, races, styles)
    return draw(figures | {name: partial(_sheet, results, ON_A_SHEET) for name, results in sheets.items()})


def sheets(records: Sequence[Record]) -> dict[str, list[Result]]:
    """The results for a contact sheet of each data set, by the name of the figure.

    They are one of each scheme, for the most decoders, and for the middle one of the L_max: of several, that of the
    least MSE. Only records that have pixels count; there may be none.
    """
    found: dict[str, list[Result]] = {}
    for record in records:
        if record["result"]["shown"]:
            found.setdefault(f"images-{record['result']['dataset']}", []).append(record["result"])
    return {name: _chosen(results) for name, results in found.items()}


def _chosen(results: Sequence[Result]) -> list[Result]:
    decoders = max(result["decoders"] for result in results)
    values = sorted({result["l_max"] for result in results if result["decoders"] == decoders})
    of = [result for result in results if (result["decoders"], result["l_max"]) == (
        decoders, values[len(values) // 2])]
    return [min((result for result in of if result["scheme"] == scheme), key=lambda result: float(result["mse"]))
            for scheme in in_order(result["scheme"] for result in of)]


def write_contact_sheet(result: Result, path: Path) -> None:
    """Write sources, crops and reconstructions of a run's images as PNG, whole or not at all.

    Raises:
        CallerError: the file cannot be written.
    """
    (picture,) = draw({"sheet": partial(_sheet, [result], len(result["shown"]["images"]))}).values()
    with write_atomically(path) as handle:
        handle.buffer.write(picture.png)


def _rate_distortion(rows: Sequence[Row], styles: Styles) -> Figure:
    figure, panels = _panels(rows, "MSE of a pixel, best of K")
    for axes, of in panels:
        draw_schemes(axes, of, styles, lambda row: row.mse)
        _levels(axes, of, lambda row: row.side_information_mse)
        table = published_for(of[0])
        beside = {row.l_max: table[row.decoders, row.l_max].mse for row in of if (row.decoders, row.l_max) in table}
        if beside:
            axes.plot([math.log2(l_max) for l_max in beside], list(beside.values()), "k+", markersize=10,
                      markeredgewidth=1.5, zorder=4, label="GLS, published figures")
    return with_legend(figure, [axes for axes, _ in panels])


def _own(rows: Sequence[Row], styles: Styles) -> Figure:
    figure, panels = _panels(rows, "MSE of a pixel, mean over the K")
    for axes, of in panels:
        draw_schemes(axes, of, styles, lambda row: row.decoder_mse)
        _levels(axes, of, lambda row: row.side_information_decoder_mse)
    return with_legend(figure, [axes for axes, _ in panels])


def _match(rows: Sequence[Row], styles: Styles) -> Figure:
    figure, panels = _panels(rows, "Pr[some decoder matches]")
    for axes, of in panels:
        draw_schemes(axes, of, styles, lambda row: row.match_rate)
        axes.set_ylim(0, 1.03)
    return with_legend(figure, [axes for axes, _ in panels])


def _panels(rows: Sequence[Row], quantity: str) -> tuple[Figure, list[tuple[Axes, list[Row]]]]:
    """A panel for each K, and for each data set and model, if there are several."""
    several = len({(row.dataset, row.trained_on) for row in rows}) > 1
    found: dict[str, list[Row]] = {}
    for row in rows:
        of = f", {row.dataset}, trained on {row.trained_on}" if several else ""
        found.setdefault(f"K = {row.decoders}{of}", []).append(row)
    return panels_of(found, quantity, "image")


def _levels(axes: Axes, of: Sequence[Row], side_information: Callable[[Row], float]) -> None:
    """What is reached with no message."""
    for value, style, label in ((side_information, (0, (6, 3)), "side information alone"),
                                (lambda row: row.mean_mse, (0, (1, 2)), "mean image")):
        level(axes, [value(row) for row in of], color="0.45", linestyle=style, label=label)


def _sheet(results: Sequence[Result], most: int) -> Figure:
    """A block for each image: the source, and a line for each scheme with what every decoder saw and made of it."""
    first, images_of = results[0], [result["shown"]["images"][:most] for result in results]
    count, decoders = min(map(len, images_of)), min(first["decoders"], MOST_DECODERS)
    fit = int((_WIDTH - _LABELS) / ((decoders + 1) * (_LEAST_TILE + _GAP) + _BETWEEN))
    down = math.ceil(count / max(1, fit))
    across = math.ceil(count / down)  # not `fit`, so that no line of blocks is almost empty
    tile = min(_MOST_TILE, ((_WIDTH - _LABELS) / across - _BETWEEN) / (decoders + 1) - _GAP)
    step, block = tile + _GAP, (decoders + 1) * (tile + _GAP) + _BETWEEN
    deep = _deep(tile, first)
    line = deep + _TEXT + _GAP
    high = _TEXT + len(results) * line + _BETWEEN
    wide, total = max(_LABELS + across * block, _KEY_WIDTH), _HEADING + down * high + _KEY
    figure = Figure(figsize=(wide, total))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    _explain(axes, first, decoders, total)
    for at in range(count):
        left, top = _LABELS + at % across * block, _HEADING + at // across * high + _TEXT
        source = images_of[0][at]
        _put(axes, left, top, tile, _pixels(first, source["source"]), _NEITHER)
        axes.plot([left + tile / 2] * 2, [top, top + deep], color="0.6", linewidth=0.6)
        _write(axes, left + tile / 2, top + deep + _NEAR, f"image {source['index']}")
        for column, heading in enumerate(("source", *(f"decoder {k + 1}" for k in range(decoders)))):
            _write(axes, left + column * step + tile / 2, top - _NEAR, heading, va="bottom")
        for number, (result, images) in enumerate(zip(results, images_of, strict=True)):
            if at % across == 0:
                _write(axes, _MARGIN, top + number * line + deep / 2, textwrap.fill(label_of(result["scheme"]), 16),
                       ha="left", va="center", fontsize=8)
            for k in range(decoders):
                _tile(axes, left + (k + 1) * step, top + number * line, tile, result, images[at], k)
    axes.set(xlim=(0, wide), ylim=(total, 0))
    return figure


def _explain(axes: Axes, result: Result, decoders: int, total: float) -> None:
    """Which cell it is, above; what frames and numbers mean, below."""
    shown = f", of which the first {decoders} are shown" if decoders < result["decoders"] else ""
    _write(axes, _MARGIN, 0.1, f"{result['data']}, K = {result['decoders']}{shown}, L_max = {result['l_max']}",
           ha="left", fontsize=10)
    x, y = _MARGIN, total - _KEY / 2
    for style, text in ((_MATCHED, "decoder matches the encoder"), (_OTHER, "decoder does not match")):
        axes.add_patch(Rectangle((x, y - 0.08), 0.3, 0.16, fill=False, **style))
        _write(axes, x + 0.38, y, text, ha="left", va="center", fontsize=8.5)
        x += 2.4
    _write(axes, x, y, "number: MSE of the right half, bold: the best", ha="left", va="center", fontsize=8.5)


def _tile(axes: Axes, left: float, top: float, size: float, result: Result, image: Mapping[str, Any], k: int) -> None:
    """Left, the crop of decoder k where it was, the rest in grey; right, what the decoder made of it and a message."""
    _, width, _, crop = result["shown"]["shape"]
    source = _pixels(result, image["source"])
    row, column = image["crops"][k]
    pixels = np.full_like(source, _UNSEEN)
    window = slice(row, row + crop), slice(column, column + crop)
    pixels[window] = source[window]
    pixels[:, width // 2:] = _pixels(result, image["reconstructions"][k])
    _put(axes, left, top, size, pixels, _MATCHED if image["matched"][k] else _OTHER)
    pixel = size / width
    corner = left + column * pixel, top + row * pixel
    axes.add_patch(Rectangle(corner, crop * pixel, crop * pixel, fill=False, **_CROP))
    best = image["mse"][k] == min(image["mse"])
    _write(axes, left + size / 2, top + _deep(size, result) + _NEAR, f"{image['mse'][k]:.3f}",
           fontweight="bold" if best else "normal")


def _put(axes: Axes, left: float, top: float, size: float, pixels: NDArray[np.uint8], frame: Mapping[str, Any]) -> None:
    height = size * pixels.shape[0] / pixels.shape[1]
    axes.imshow(pixels, extent=(left, left + size, top + height, top), interpolation="none", aspect="auto")
    axes.add_patch(Rectangle((left, top), size, height, fill=False, **frame))


def _deep(size: float, result: Result) -> float:
    """How high an image is that is so wide."""
    height, width, _, _ = result["shown"]["shape"]
    return float(size * height / width)


def _write(axes: Axes, x: float, y: float, text: str, **style: Any) -> None:
    placed: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 7}
    axes.text(x, y, text, **(placed | style))


def _pixels(result: Result, text: str) -> NDArray[np.uint8]:
    """Pixels in three channels."""
    height, _, channels, _ = result["shown"]["shape"]
    pixels = np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, -1, channels)
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))
