"""The report's figures, from summary rows: rate-distortion curves, match rates, bits. matplotlib draws them.

What figures of any source are made of is here, too: `draw`, `panels_of`, `draw_schemes`, `level`,
`with_legend`.
"""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from glsnet.lab.summary import Measured, Row, decibels, on_published_source, published

SCHEMES = {  # in order: label, colour, marker; the colours of a race and of quantisers can be told apart by all eyes
    "gls": ("GLS", "#0072B2", "o"),
    "baseline": ("baseline (one stream for all)", "#D55E00", "s"),
    "posterior-mean": ("GLS + posterior mean", "#009E73", "D"),
    "posterior-list": ("GLS + posterior mean of its list", "#56B4E9", "P"),
    "nested": ("nested quantiser", "#CC79A7", "^"),
    "trellis": ("trellis quantiser", "#882255", "<"),
    "split": ("split nested quantiser", "#E69F00", "v"),
    "split-trellis": ("split trellis quantiser", "#7F6000", ">"),
    "wyner-ziv": ("learned Wyner–Ziv", "#009E73", "D"),
    "wyner-ziv-list": ("learned Wyner–Ziv (list)", "#CC79A7", "P"),
    "vq": ("k-means (no side information)", "#E69F00", "^"),
}

_OTHERS = (("#6A3D9A", "X"), ("#999933", "p"), ("#444444", "h"))
_ADDED = (("protobuf", "#0072B2"), ("stream", "#56B4E9"), ("ip", "#E69F00"))  # layers below packed
_SPREAD = 0.3  # bits, over which the points of all schemes at one place are set apart
_STYLE: Any = {
    "svg.hashsalt": "glsnet", "font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 10,
    "axes.grid": True, "grid.color": "0.9", "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "lines.linewidth": 1.3,
}


class Point(Protocol):
    """What a row of any source has that says where it is drawn."""

    @property
    def scheme(self) -> str: ...

    @property
    def decoders(self) -> int: ...

    @property
    def l_max(self) -> int: ...


P = TypeVar("P", bound=Point)
Styles = Mapping[str, tuple[str, str, str]]  # as in SCHEMES, for those in a report: the same in every figure of it


class Picture(NamedTuple):
    """A figure as an SVG element to put into a page, and as a PNG file; the same rows give the same bytes."""

    svg: str
    png: bytes


def pictures(rows: Sequence[Row]) -> dict[str, Picture]:
    """Every figure of a report, by name, from at least one row."""
    styles = styles_of(rows)
    return draw({name: partial(figure, rows, styles) for name, figure in (
        ("distortion-mse", _distortion_mse), ("distortion-mean-db", _distortion_mean_db),
        ("distortion-decoder", _distortion_decoder), ("match-rate", _match_rate), ("bits", _bits)
    )})


def draw(figures: Mapping[str, Callable[[], Figure]]) -> dict[str, Picture]:
    """Each of these figures, in the style of all."""
    with matplotlib.rc_context(_STYLE):
        made = {name: figure() for name, figure in figures.items()}
        return {name: Picture(_svg(figure), _png(figure)) for name, figure in made.items()}


def in_order(schemes: Iterable[str]) -> list[str]:
    """Each scheme once: those that are known here first, in the order of `SCHEMES`."""
    there = set(schemes)
    return [scheme for scheme in SCHEMES if scheme in there] + sorted(there - SCHEMES.keys())


def label_of(scheme: str) -> str:
    """A scheme's name for people; one that is not known here is called what it is."""
    return SCHEMES[scheme][0] if scheme in SCHEMES else scheme


def _distortion_mse(rows: Sequence[Row], styles: Styles) -> Figure:
    figure, panels = _panels(rows, "MSE (dB), best of K")
    for axes, of in panels:
        draw_schemes(axes, of, styles, lambda row: row.mse.decibels)
        _side_information(axes, [decibels(row.side_information_mse) for row in of])
        _wyner_ziv(axes, of)
        _along(axes, {row.l_max: decibels(row.list_converse_mse) for row in of}, color="0.1", linestyle=":",
               label="list converse: limit of the best of K")
    return with_legend(figure, [axes for axes, _ in panels])


def _distortion_mean_db(rows: Sequence[Row], styles: Styles) -> Figure:
    figure, panels = _panels(rows, "mean dB, best of K")
    cells = published()
    for axes, of in panels:
        draw_schemes(axes, of, styles, lambda row: row.mean_db)
        _side_information(axes, [row.side_information_mean_db for row in of])
        beside = {row.l_max: cells[row.decoders, row.l_max].mean_db.value for row in of
                  if (row.decoders, row.l_max) in cells and on_published_source(row)}
        if beside:
            axes.plot([math.log2(l_max) for l_max in beside], list(beside.values()), "k+", markersize=12,
                      markeredgewidth=1.5, zorder=4, label="GLS as published")
    return with_legend(figure, [axes for axes, _ in panels])


def _distortion_decoder(rows: Sequence[Row], styles: Styles) -> Figure:
    figure, panels = _panels(rows, "MSE (dB), mean over the K")
    for axes, of in panels:
        draw_schemes(axes, of, styles, lambda row: row.decoder_mse.decibels)
        _side_information(axes, [decibels(row.side_information_decoder_mse) for row in of])
        _wyner_ziv(axes, of)
    return with_legend(figure, [axes for axes, _ in panels])


def _match_rate(rows: Sequence[Row], styles: Styles) -> Figure:
    figure, panels = _panels(rows, "Pr[some decoder matches]")
    for axes, of in panels:
        draw_schemes(axes, of, styles, lambda row: row.match_rate, joined=False)
        bounds = [(_place(row, styles), row.match_bound) for row in of if row.match_bound is not None]
        if bounds:
            axes.plot(*zip(*bounds, strict=True), "k_", markersize=10, zorder=1, label="coding bound: at least")
        axes.set_ylim(0, 1.03)
    return with_legend(figure, [axes for axes, _ in panels])


def _bits(rows: Sequence[Row], styles: Styles) -> Figure:
    """Bits per sample, a bar for each L_max and packing; and, apart, the little that each layer adds."""
    bars: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.transport != "grpc", row.packing != "fixed", row.l_max)):
        whose = "every scheme" if row.packing == "fixed" else label_of(row.scheme)  # fixed is the same for all
        bars.setdefault((f"L_max = {row.l_max}", row.transport, f"{row.packing} packing", whose,
                         f"frames of {row.frame:,}"), []).append(row)
    alike = [len(set(names)) == 1 for names in zip(*bars, strict=True)]
    figure = Figure(figsize=(9.6, 1.5 + 0.26 * len(bars)), layout="constrained")
    whole, added = figure.subplots(1, 2, sharey=True)
    for at, of in enumerate(bars.values()):
        bits = {layer: _mean_of([row.bits[layer] for row in of]) for layer in of[0].bits}
        packed = below = bits["packed"] or 0.0
        whole.barh(at, packed, color="0.75", label="packed indices")
        for layer, colour in _ADDED:
            if (total := bits[layer]) is not None:
                whole.barh(at, total - below, left=below, color=colour, label=layer)
                added.barh(at, total - below, left=below - packed, color=colour)
                below = total
        whole.annotate(f"  {below:.3f}", (max(below, bits["information"] or 0), at), va="center", fontsize=8)
        added.annotate(f"  +{below - packed:.3f}" + (f" ({100 * (below / packed - 1):.1f} %)" if packed else ""),
                       (below - packed, at), va="center", fontsize=8)
        whole.plot(bits["information"], at, "k|", markersize=12, label="information, log2 L_max")
        for scheme, (label, colour, marker) in styles.items():
            entropy = _mean_of([row.message_entropy for row in of if row.scheme == scheme])
            if entropy is not None:
                whole.plot(entropy, at, marker, color=colour, markersize=5, markerfacecolor="white",
                           label=f"H(M | shared randomness), {label}")
    whole.set_yticks(range(len(bars)), [_but(names, alike) for names in bars])
    whole.invert_yaxis()
    whole.set_title(_but(next(iter(bars)), [not same for same in alike]), loc="left")
    whole.set(xlabel="bits per sample, towards each decoder")
    added.set(xlabel="of these, what is added to the packed indices")
    for axes, room in ((whole, 0.15), (added, 0.45)):
        axes.margins(x=room)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
    return with_legend(figure, [whole])


def _but(names: Sequence[str], left_out: Sequence[bool]) -> str:
    return ", ".join(name for name, out in zip(names, left_out, strict=True) if not out)


def _panels(rows: Sequence[Row], quantity: str) -> tuple[Figure, list[tuple[Axes, list[Row]]]]:
    """A panel for each K, and for each quality of side information, if there are several."""
    of: dict[tuple[int, float], list[Row]] = {}
    for row in rows:
        of.setdefault((row.decoders, round(row.residual_variance, 6)), []).append(row)
    several = len({residual for _, residual in of}) > 1
    return panels_of({f"K = {decoders}" + (f", Var(A | T) = {residual:g} Var(A)" if several else ""): found
                      for (decoders, residual), found in of.items()}, quantity)


def panels_of(of: Mapping[str, list[P]], quantity: str, sample: str = "sample"
              ) -> tuple[Figure, list[tuple[Axes, list[P]]]]:
    """A panel for the rows under each title, of this quantity against bits; `sample` is what the source calls one."""
    columns = {1: 1, 2: 2, 4: 2}.get(len(of), 3)
    lines = -(-len(of) // columns)
    figure = Figure(figsize=(6.4 if columns == 1 else 9.6, 3.3 * lines + 0.8), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    bits = sorted({math.log2(row.l_max) for rows in of.values() for row in rows})
    for at, (axes, title) in enumerate(zip(grid, of, strict=False)):
        axes.set_title(title)
        axes.set_xticks(bits, [f"{number:.3g}" for number in bits])
        axes.tick_params(labelbottom=True)
        if at % columns == 0:
            axes.set_ylabel(quantity)
        if at + columns >= len(of):
            axes.set_xlabel(f"bits per {sample}, log2 L_max")
    for axes in grid[len(of):]:
        axes.remove()
    return figure, list(zip(grid, of.values(), strict=False))


def draw_schemes(axes: Axes, of: Sequence[P], styles: Styles, metric: Callable[[P], Measured], joined: bool = True
                 ) -> None:
    """Each scheme's points with two standard errors; the line, if any, joins the lowest at each L_max."""
    for scheme, (label, colour, marker) in styles.items():
        points = [(_place(row, styles), *metric(row)) for row in of if row.scheme == scheme]
        if not points:
            continue
        x, y, error = zip(*points, strict=True)
        axes.errorbar(x, y, [2 * each for each in error], fmt=marker, color=colour, markersize=4.5, capsize=2,
                      elinewidth=1, label=label)
        if joined:
            lowest = {at: min(level for place, level, _ in points if place == at) for at in sorted(x)}
            axes.plot(list(lowest), list(lowest.values()), color=colour)


def _place(row: Point, styles: Styles) -> float:
    """Where on the axis of bits a row's point is: those of different schemes slightly apart, so that none is hidden."""
    return math.log2(row.l_max) + _SPREAD * ((list(styles).index(row.scheme) + 0.5) / len(styles) - 0.5)


def styles_of(rows: Sequence[Point]) -> Styles:
    """How each scheme is drawn."""
    others = iter(_OTHERS * len(rows))
    return {scheme: SCHEMES.get(scheme) or (scheme, *next(others)) for scheme in in_order(row.scheme for row in rows)}


def _side_information(axes: Axes, levels: Sequence[float]) -> None:
    level(axes, levels, color="0.5", linestyle=(0, (6, 3)), label="side information alone")


def level(axes: Axes, levels: Sequence[float], **style: Any) -> None:
    """A line across at the mean of levels."""
    axes.axhline(sum(levels) / len(levels), linewidth=1.1, **style)


def _wyner_ziv(axes: Axes, of: Sequence[Row]) -> None:
    _along(axes, {row.l_max: decibels(row.wyner_ziv_mse) for row in of}, color="0.1", linestyle="-.",
           label="Wyner–Ziv: limit of one decoder")


def _along(axes: Axes, levels: Mapping[int, float], **style: Any) -> None:
    """A line through one level for each L_max; a single one as a level."""
    if len(levels) == 1:
        axes.axhline(*levels.values(), **style)
    else:
        axes.plot([math.log2(l_max) for l_max in levels], list(levels.values()), **style)


def _mean_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def with_legend(figure: Figure, panels: Sequence[Axes]) -> Figure:
    """One legend below all panels, schemes first."""
    found = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    labels = sorted(found, key=lambda label: not isinstance(found[label], ErrorbarContainer))
    figure.legend([found[label] for label in labels], labels, loc="outside lower center", fontsize=8.5,
                  ncols=3 if figure.get_figwidth() > 8 else 2)
    return figure


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return text.getvalue()[text.getvalue().index("<svg"):]


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150, metadata={"Software": None})
    return data.getvalue()
