"""The experiments on speculative decoding as pictures; as `plots`, imported only when a picture is asked for."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from glsnet.lab.plots import save
from glsnet.lab.speculated import CHANGED, STRATEGIES

Result = dict[str, Any]
Row = dict[str, Any]

LAYERS = ("information", "packed", "protobuf", "stream", "ip")


def schemes(result: Result, path: Path) -> None:
    """Block efficiency against K, with two standard errors; bits per token, each scheme at its largest K."""
    rows = result["rows"]
    figure = plt.figure(figsize=(10, 8.4), layout="constrained")
    parts = figure.subplot_mosaic([["efficiency", "efficiency"], ["up", "down"]])
    above, up, down = parts["efficiency"], parts["up"], parts["down"]
    names = list(dict.fromkeys(row["scheme"] for row in rows))
    for at, name in enumerate(names):
        of = [row for row in rows if row["scheme"] == name]
        aside = 1.05 ** (at - len(names) / 2)  # so that the bars of schemes with one K can be told apart
        above.errorbar([row["K"] * aside for row in of], [row["block_efficiency"] for row in of],
                       [2 * (row["block_efficiency_error"] or 0.0) for row in of], color=_colour(name),
                       marker=_MARKERS[name], linestyle="-" if len(of) > 1 else "", markersize=5, linewidth=1,
                       capsize=2, label=STRATEGIES[name])
    counts = sorted({row["K"] for row in rows})
    above.set_xscale("log", base=2)
    above.set_xticks(counts, [str(k) for k in counts])
    above.minorticks_off()
    above.set(xlabel="K drafts", ylabel="block efficiency (tokens per call of the target)",
              title=f"{result['target_model']}, {result['prompts']} prompts ({result['dataset']}), "
                    f"L = {result['length']}, temperature {result['temperature']:g}")
    above.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    largest = [max((row for row in rows if row["scheme"] == name), key=lambda row: int(row["K"]))
               for name in names if name != "none"]
    _bits(up, largest, "up", "bits per token towards the target")
    _bits(down, largest, "down", "bits per token towards the draft server")
    down.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    low, high = (edge(axes.get_ylim()[at] for axes in (up, down)) for at, edge in ((0, min), (1, max)))
    for axes in (up, down):
        axes.set_ylim(low, high)
    save(figure, path)


def diverse(result: Result, path: Path) -> None:
    """Block efficiency by the temperatures of the two drafts, with two standard errors."""
    rows = [row for row in result["rows"] if row["temperature_2"] is not None]
    single = next(row for row in result["rows"] if row["temperature_2"] is None)
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    axes.axhline(single["block_efficiency"], color="0.35", linestyle="--", linewidth=1,
                 label=f"{single['strategy']}, temperature {single['temperature_1']:g}")
    pairs = list(dict.fromkeys((row["temperature_1"], row["temperature_2"]) for row in rows))
    names = list(dict.fromkeys(row["scheme"] for row in rows))
    for at, name in enumerate(names):
        of = [row for row in rows if row["scheme"] == name]
        axes.errorbar([pairs.index((row["temperature_1"], row["temperature_2"])) + 0.12 * (at - (len(names) - 1) / 2)
                       for row in of], [row["block_efficiency"] for row in of],
                      [2 * (row["block_efficiency_error"] or 0.0) for row in of], color=_colour(name),
                      marker=_MARKERS[name], linestyle="", capsize=2, label=STRATEGIES[name])
    axes.set_xticks(range(len(pairs)), [f"{first:g} and {second:g}" for first, second in pairs])
    axes.set(xlabel="temperatures of the two drafts", ylabel="block efficiency (tokens per call of the target)",
             xlim=(-0.5, len(pairs) - 0.5), title=f"L = {result['length']}, target at {result['temperature']:g}")
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def matching(result: Result, path: Path) -> None:
    """Rates of the next token against K, GLS with two standard errors."""
    rows = result["rows"]
    figure, axes = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    k = [row["K"] for row in rows]
    for name, label, style in (
        ("optimum", "optimum over all schemes", "k-"), ("specinfer_empirical", "SpecInfer, exact", "C1--"),
        ("spectr_empirical", "K-SEQ (SpecTr), exact", "C2-."), ("lml_bound", "GLS, list matching lemma", "C0:"),
        ("equality_check", "equality check, exact", "C7--"),
    ):
        axes.plot(k, [row[name] for row in rows], style, linewidth=1.2, label=label)
    axes.errorbar(k, [row["gls_empirical"] for row in rows], [2 * (row["gls_error"] or 0.0) for row in rows], fmt="C0o",
                  markersize=4, capsize=2, label="GLS, measured")
    axes.set_xticks(k)
    axes.set(xlabel="K drafts", ylabel="one of K drafts is kept, mean over contexts",
             title=f"{result['contexts']} contexts, mean total variation {result['total_variation']:.2f}")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, path)


def consistency(result: Result, path: Path) -> None:
    """How alike texts are when the drafter's temperature changes, with two standard errors."""
    rows = result["rows"]
    figure, axes = plt.subplots(figsize=(6.4, 0.9 + 0.5 * len(rows)), layout="constrained")
    places = range(len(rows))
    for shift, name, label in ((-0.18, "rouge_l", "ROUGE-L, mean"), (0.18, "equal", "share of equal texts")):
        axes.barh([at + shift for at in places], [row[name] for row in rows], 0.34, label=label,
                  xerr=[2 * (row[f"{name}_error"] or 0.0) for row in rows], error_kw={"capsize": 2, "linewidth": 1})
    axes.set_yticks(places, [f"{row['strategy']}, K = {row['K']}" for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel=f"two texts of one prompt, drafter's temperature {CHANGED[0]:g} and {CHANGED[1]:g}", xlim=(0, 1.03))
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.5 / len(rows)), ncols=2)
    save(figure, path)


_MARKERS = dict(zip(STRATEGIES, "oPsDv^<Xx", strict=True))


def _colour(scheme: str) -> str:
    return f"C{list(STRATEGIES).index(scheme)}"


def _bits(axes: Any, rows: list[Row], way: str, title: str) -> None:
    """A group of bars for each scheme, a bar for each layer that was counted."""
    layers = [layer for layer in LAYERS if any(row["bits_per_token"][way][layer] is not None for row in rows)]
    width = 0.8 / len(layers)
    for at, layer in enumerate(layers):
        axes.bar([place + width * (at - (len(layers) - 1) / 2) for place in range(len(rows))],
                 [row["bits_per_token"][way][layer] or float("nan") for row in rows], width, label=layer,
                 color=plt.get_cmap("viridis")(0.9 - 0.8 * at / max(len(layers) - 1, 1)))
    axes.set_yscale("log")
    axes.set_xticks(range(len(rows)), [f"{row['strategy']}, K = {row['K']}" for row in rows], rotation=40, ha="right",
                    fontsize=8)
    axes.set_title(title, fontsize=10)
