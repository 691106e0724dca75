"""The figures as pictures; matplotlib is imported only here, and only when a picture is asked for."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

Row = dict[str, Any]


def collision(rows: list[Row], path: Path) -> None:
    """Collision probability against total variation, with two standard errors."""
    figure, axes = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    distance = np.linspace(0, 1, 200)
    axes.plot(distance, 1 - distance, color="0.35", label="$1 - D$: any coupling")
    axes.plot(distance, (1 - distance) / (1 + distance), color="0.35", linestyle="--",
              label="$(1 - D)/(1 + D)$: worst case, nothing sent")
    for scheme, label, marker in (("gumbel", "Gumbel", "o"), ("minhash", "weighted MinHash", "s")):
        axes.errorbar([row["total_variation"] for row in rows], [row[scheme] for row in rows],
                      [2 * row[f"{scheme}_error"] for row in rows], fmt=marker, markersize=4, capsize=2, label=label)
    axes.set(xlabel="total variation distance $D$", ylabel="Pr[a = b]", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    save(figure, path)


def bits(rows: list[Row], path: Path) -> None:
    """Match probability against bits per sample, with two standard errors."""
    figure, axes = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    axes.axhline(rows[0]["optimal"], color="0.35", linewidth=1, label="$1 - D$: any coupling of two")
    lists = [str(row["decoders"]) for row in rows if row["scheme"] == "gls"]
    epsilons = [row["epsilon"] for row in rows if row["epsilon"] is not None]
    for scheme, label, marker in (
        ("gumbel", "Gumbel", "o"), ("minhash", "weighted MinHash", "s"), ("equality-check", "equality check", "x"),
        ("gls", f"GLS, list of K = {', '.join(lists)}", "P"),
        ("low-communication", f"Protocol 4, $\\epsilon$ = {epsilons[0]:g} to {epsilons[-1]:g}", "^"),
        ("whole-distribution", "whole distribution (Protocol 1)", "D"),
    ):
        of = [row for row in rows if row["scheme"] == scheme]
        axes.errorbar([row["bits"] for row in of], [row["match"] for row in of],
                      [2 * row["match_error"] for row in of], [2 * row["bits_error"] for row in of],
                      fmt=f"{marker}-" if len(of) > 1 else marker, markersize=5, capsize=2, label=label)
        if scheme == "low-communication":
            close = axes.inset_axes((0.46, 0.1, 0.5, 0.3), title="Protocol 4, close up")
            close.axhline(rows[0]["optimal"], color="0.35", linewidth=1)
            close.errorbar([row["bits"] for row in of], [row["match"] for row in of],
                           [2 * row["match_error"] for row in of], [2 * row["bits_error"] for row in of],
                           fmt="^-", color="C4", markersize=4, capsize=2)
    axes.set_xscale("symlog", linthresh=10)
    axes.set(xlabel="bits per sample", ylabel="Pr[a = b], mean over pairs", xlim=(-1, None))
    axes.legend(frameon=False, loc="upper right", fontsize=8)
    save(figure, path)


def matching(rows: list[Row], path: Path) -> None:
    """Matching rate against K, first and second token, with two standard errors."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained", sharey=True)
    k = [row["k"] for row in rows]

    def measured(axes: Any, name: str, label: str, **style: Any) -> None:
        axes.errorbar(k, [row[name] for row in rows], [2 * row[f"{name}_error"] for row in rows], markersize=4,
                      capsize=2, label=label, **style)

    for name, label, style in (
        ("optimum", "optimum over all schemes", "k-"), ("specinfer", "SpecInfer, exact", "C1--"),
        ("kseq", "K-SEQ, exact", "C2-."), ("lemma", "GLS, list matching lemma", "C0:"),
        ("equality_check", "equality check, exact", "C7--"),
    ):
        left.plot(k, [row[name] for row in rows], style, linewidth=1.2, label=label)
    measured(left, "gls", "GLS, measured (strong = conditional)", fmt="C0o")
    left.set(title="first token: all K streams alive", xlabel="K", ylabel="Pr[Y in list], mean over pairs")
    measured(right, "conditional", "GLS, conditional: S = streams alive", fmt="C0o")
    right.plot(k, [row["conditional_bound"] for row in rows], "C0:", label="its bound (lemma with J streams)")
    measured(right, "strong", "GLS, strong: S = all K streams", fmt="C3s")
    right.plot(k, [row["strong_bound"] for row in rows], "C3:", label="its bound (J of K streams)")
    right.set(title="second token: J streams matched the first", xlabel="K", ylim=(0, 1))
    for axes, corner in ((left, "lower right"), (right, "upper left")):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, loc=corner, fontsize=8)
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, and forget it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        figure.savefig(temporary, dpi=150, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        plt.close(figure)
