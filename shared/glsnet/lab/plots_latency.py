"""What a network does to speculation and compression, as pictures, and one page with all of them.

    PICTURES    a name, a caption and a function for each
    page        HTML that needs nothing else
"""

import base64
import html
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from glsnet.lab.document import STYLE, table
from glsnet.lab.plots import save

Row = dict[str, Any]
_COLOURS = plt.rcParams["axes.prop_cycle"].by_key()["color"]
_LIMITS = (0.5, 0.95, 0.99)
_MARKS = {"asked": ("v", "0.25", "drafts asked for"), "drafts": ("o", _COLOURS[2], "drafts come"),
          "ahead": ("D", _COLOURS[1], "drafts ahead come"), "late": ("x", _COLOURS[3], "drafts too late")}


def round_trips(result: Row, path: Path) -> None:
    """Time per token against the round trip, by how far drafters draft ahead, and by L."""
    figure, both = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
    settings = result["settings"]
    for axes, name, key, of in ((both[0], "ahead", "ahead", [row for row in result["speculation"]
                                                            if row["axis"] == "round trip"]),
                                (both[1], "L", "length", [row for row in result["speculation"]
                                                          if row["axis"] in ("round trip", "L") and not row["ahead"]])):
        for value in sorted({row[key] for row in of}):
            rows = sorted((row for row in of if row[key] == value), key=lambda row: row["rtt"])
            axes.plot([1000 * row["rtt"] for row in rows], [1000 * row["mean"] for row in rows], "o-", markersize=4,
                      label=f"{name} = {value}")
        axes.axhline(1000 * settings["verify"], color="0.35", linestyle="--", label="no speculation")
        axes.set_xscale("symlog", linthresh=2)
        axes.set(xlabel="round trip to the drafter, ms")
        axes.legend(frameon=False, fontsize=8)
    both[0].set(ylabel="ms per token", title=f"L = {settings['length']}: drafting ahead")
    both[1].set(title="nothing drafted ahead: length of a draft")
    for axes in both:
        axes.set_xlim(-0.2, None)
    both[0].set_ylim(0, None)
    save(figure, path)


def conditions(result: Row, path: Path) -> None:
    """Time per token by K, jitter, bandwidth and profile, drafting ahead and not."""
    figure, grid = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained")
    verify = 1000 * result["settings"]["verify"]
    for axes, axis, label in zip(grid.flat, ("K", "jitter", "bandwidth", "profile"), (
            "K, a drafter for each", "jitter, a quarter of the round trip", "bytes per second", ""), strict=True):
        rows = [row for row in result["speculation"] if row["axis"] == axis]
        values = [*dict.fromkeys(row["value"] for row in rows)]
        for at, ahead in enumerate(sorted({row["ahead"] for row in rows})):
            of = [row for row in rows if row["ahead"] == ahead]
            places = np.arange(len(of)) + 0.36 * at - 0.18
            axes.bar(places, [1000 * row["mean"] for row in of], 0.34, color=_COLOURS[at], label=f"ahead = {ahead}")
            axes.plot(places, [1000 * row["p99"] for row in of], "_", color="0.15", markersize=10,
                      label="p99" if at == 0 else None)
        axes.axhline(verify, color="0.35", linestyle="--", label="no speculation")
        names = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
        slanted = {"rotation": 25, "ha": "right"} if axis == "profile" else {}
        axes.set_xticks(range(len(values)), names, fontsize=8, **slanted)
        axes.set(xlabel=label, ylabel="ms per token")
    handles = grid[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    save(figure, path)


def served(result: Row, path: Path) -> None:
    """What a target with one processor serves."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for where in ("elsewhere", "at the target", "nowhere"):
        rows = [row for row in result["capacity"] if row["drafting"] == where]
        clients = [row["clients"] for row in rows]
        left.plot(clients, [row["tokens_per_second"] for row in rows], "o-", markersize=4, label=f"drafting {where}")
        right.plot(clients, [1000 * row["mean"] for row in rows], "o-", markersize=4, label=f"drafting {where}")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="clients at once")
        axes.legend(frameon=False, fontsize=8)
    left.set(ylabel="tokens per second, all clients", ylim=(0, None))
    right.set(ylabel="ms per token, mean over clients", yscale="log")
    save(figure, path)


def batched(result: Row, path: Path) -> None:
    """Bits per sample against delay, as frames grow."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    rows = result["compression"]
    for layer, marker in (("ip", "o"), ("stream", "s"), ("protobuf", "^"), ("packed", "D")):
        axes.plot([1000 * row["delay"] for row in rows], [row["bits"][layer] for row in rows], f"{marker}-",
                  markersize=4, label=layer)
    for row in rows:
        axes.annotate(f"{row['frame']}", (1000 * row["delay"], row["bits"]["ip"]), xytext=(0, 6),
                      textcoords="offset points", fontsize=8, ha="center")
    axes.set(xlabel="mean delay of a sample, ms (numbers: samples in a frame)", ylabel="bits per sample, to a decoder",
             xscale="log", yscale="log")
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


def distributions(result: Row, path: Path) -> None:
    """How time per token is distributed, by the link's jitter."""
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    of = [row for row in result["speculation"] if row["ahead"] == 0 and (
        row["axis"] == "jitter" or (row["axis"] == "round trip" and row["rtt"] == result["settings"]["rtt"]))]
    for at, row in enumerate(of):
        gaps = 1000 * np.array(row["gaps"])
        axes.plot(gaps, np.arange(1, gaps.size + 1) / gaps.size, drawstyle="steps-post", color=_COLOURS[at],
                  label=row["distribution"] or "constant")
        for limit in _LIMITS:
            axes.plot(np.quantile(gaps, limit), limit, "o", color=_COLOURS[at], markersize=4)
    axes.axvline(1000 * result["settings"]["verify"], color="0.35", linestyle="--", label="no speculation")
    axes.set(xlabel="ms per token (points: p50, p95, p99)", ylabel="share of tokens", ylim=(0, 1))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    save(figure, path)


def timelines(result: Row, path: Path) -> None:
    """A round per party: when the target verifies and waits, and when drafts come."""
    figure, all_of = plt.subplots(len(result["timelines"]), 1, figsize=(10, 2 + 1.5 * len(result["timelines"])),
                                  layout="constrained", sharex=True, squeeze=False)
    for axes, (ahead, line) in zip(all_of[:, 0], result["timelines"].items(), strict=True):
        parties = list(line["busy"])
        for at, spans in enumerate(line["busy"].values()):
            axes.barh(at, 1000 * line["seconds"], height=0.5, color="0.92")
            for start, end in spans:
                axes.barh(at, 1000 * (end - start), left=1000 * start, height=0.5, color=_COLOURS[0 if at == 0 else 4])
        for mark in line["marks"]:
            if mark["what"] in _MARKS:
                marker, colour = _MARKS[mark["what"]][:2]
                axes.plot(1000 * mark["seconds"], 0.42, marker, color=colour, markersize=6)
        axes.set_yticks(range(len(parties)), parties)
        axes.set(title=f"ahead = {ahead}", ylim=(-0.5, len(parties) - 0.5), xlim=(0, 1000 * line["seconds"]))
    all_of[-1, 0].set(xlabel="ms since the request began")
    handles: list[Any] = [Rectangle((0, 0), 1, 1, color=colour) for colour in (_COLOURS[0], _COLOURS[4], "0.92")]
    handles += [Line2D([], [], marker=marker, color=colour, linestyle="") for marker, colour, _ in _MARKS.values()]
    names = ["target verifies", "drafter drafts", "waits", *(name for *_, name in _MARKS.values())]
    figure.legend(handles, names, loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    save(figure, path)


PICTURES = {
    "round_trips": ("Speculation against the round trip", "Mean time per token; a line that crosses the dashed one has "
                    "lost to no speculation at all.", round_trips),
    "conditions": ("What else a network does", "Mean time per token, and its 99th percentile over tokens.", conditions),
    "distributions": ("Time per token, distributed", "Of each token its block's time by its tokens.", distributions),
    "timelines": ("A request, party by party", "Its first blocks. Drafts of a block go out when the one before is "
                  "verified; ahead of that, drafters go on by themselves.", timelines),
    "capacity": ("What one target serves", "One processor at the target; drafting elsewhere costs it nothing but "
                 "waiting, and other clients' blocks fill that.", served),
    "compression": ("Bits against delay", "Larger frames share their overhead among more samples, which wait for each "
                    "other.", batched),
}


def page(result: Row, folder: Path) -> str:
    """All pictures in a folder, and the numbers, as one HTML document."""
    parts = []
    for name, (heading, caption, _) in PICTURES.items():
        data = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        parts.append(f'<section id="{name}"><h2>{heading}</h2><figure><img alt="{html.escape(heading)}" '
                     f'src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure></section>')
    contents = " · ".join(f'<a href="#{name}">{heading}</a>' for name, (heading, *_) in PICTURES.items())
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Latency</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{STYLE}\nimg {{ max-width: '
        "100%; background: white; border: 1px solid var(--rule); border-radius: 6px; }</style>\n</head>\n<body>\n"
        "<h1>What a network does to speculation and compression</h1>\n<p>In virtual time, by the code that runs "
        f"between real machines; forward passes take as long as the settings say.</p>\n<nav>{contents} · "
        f'<a href="#crossover">Crossovers</a> · <a href="#numbers">Numbers</a></nav>\n{"".join(parts)}\n'
        f'<section id="crossover"><h2>Crossovers</h2>{_crossovers(result)}</section>\n'
        f'<section id="numbers"><h2>Numbers</h2>{_numbers(result)}</section>\n'
        f'<section id="settings"><h2>Settings</h2><pre>{html.escape(json.dumps(result["settings"], indent=1))}</pre>'
        "</section>\n</body>\n</html>\n"
    )


def _crossovers(result: Row) -> str:
    def milliseconds(value: float | None) -> str:
        return "–" if value is None else f"{1000 * value:.1f}"

    return "<p>The round trip beyond which no speculation is faster, ms.</p>" + table(
        ("drafting", "ahead", "L", "measured", "predicted"),
        [("", str(row["ahead"]), str(row["length"]), milliseconds(row["rtt"]), milliseconds(row["predicted"]))
         for row in result["crossover"]])


def _numbers(result: Row) -> str:
    return table(
        ("axis", "value", "ahead", "L", "K", "round trip, ms", "ms per token", "p50", "p95", "p99", "block efficiency",
         "wasted", "target waits", "trips per token", "bytes per token"),
        [(row["axis"], str(row["value"]), str(row["ahead"]), str(row["length"]), str(row["drafts"]),
          f"{1000 * row['rtt']:g}", *(f"{1000 * row[name]:.1f}" for name in ("mean", "p50", "p95", "p99")),
          f"{row['block_efficiency']:.2f}", f"{row['wasted_share']:.0%}", f"{row['target_waits_share']:.0%}",
          f"{row['trips_per_token']:.2f}", f"{row['bytes_per_token']:.0f}") for row in result["speculation"]])
