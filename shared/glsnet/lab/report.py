"""A result as people read it in a terminal."""

import math
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from glsnet.lab.summary import transport_of


def show(result: dict[str, Any], console: Console) -> None:
    """Print one result of `runner.run`."""
    console.print(Group(_quality(result), _wire(result), Text(_notes(result), style="dim")))


def headline(result: dict[str, Any]) -> str:
    """What was run, in one line."""
    return (
        f"scheme {result['scheme']}, K = {result['decoders']} decoders, L_max = {result['l_max']}, "
        f"{_resolution(result)}, seed {result['seed']}, {transport_of(result)}"
    )


def _db(power: float) -> str:
    return f"{10 * math.log10(power):.2f}" if power > 0 else "-inf"


def _resolution(result: dict[str, Any]) -> str:
    return f"sigma2 = {result['sigma2']:g}" if result["step"] is None else f"step = {result['step']:.4g}"


def _quality(result: dict[str, Any]) -> Table:
    table = table_of(headline(result), ("", "<"), ("measured", ">"), ("std. error", ">"), ("beside it", "<"))
    table.add_row("samples", f"{result['samples']:,}", "", f"{result['samples_per_second']:,.0f} samples/s")
    table.add_row("match rate", f"{result['match_rate']:.4f}", f"{result['match_rate_error']:.4f}",
                  "" if result["match_bound"] is None else f"coding bound at least {result['match_bound']:.3f}")
    relative = result["mse_error"] / result["mse"] if result["mse"] else 0.0
    limits = result["limits"]
    table.add_row("distortion, MSE (dB)", f"{result['mse_db']:.2f}", f"{4.343 * relative:.2f}",
                  f"side information {result['side_information_mse_db']:.2f}, converse "
                  f"{_db(limits['list_converse_mse'])}")
    table.add_row("distortion, mean dB", f"{result['mean_db']:.2f}", f"{result['mean_db_error']:.2f}",
                  f"side information {result['side_information_mean_db']:.2f}")
    relative = result["decoder_mse_error"] / result["decoder_mse"] if result["decoder_mse"] else 0.0
    table.add_row("its own, MSE (dB)", f"{result['decoder_mse_db']:.2f}", f"{4.343 * relative:.2f}",
                  f"side information {_db(result['side_information_decoder_mse'])}, "
                  f"Wyner-Ziv {_db(limits['wyner_ziv_mse'])}")
    return table


def _wire(result: dict[str, Any], what: str = "sample") -> Table:
    layers, broadcast = result["bits_per_sample"], result.get("broadcast_bits_per_sample")
    once = [] if broadcast is None else [("encoder's, once", ">")]
    table = table_of(f"bits per {what} towards each decoder", ("layer", "<"), ("bits", ">"), ("over packed", ">"),
                     *once, ("what it counts", "<"))
    for layer, meaning in (("information", "log2 L_max"), *_LAYERS):
        bits = layers[layer]
        sent = [] if broadcast is None else ["" if broadcast.get(layer) is None else f"{broadcast[layer]:.4f}"]
        meaning = meaning if broadcast is None else meaning.replace("gRPC over HTTP/2", "MQTT")
        if bits is None:
            table.add_row(layer, "-", "", *sent, f"{meaning}: not on this transport or system")
        else:
            above = layer not in ("information", "packed") and layers["packed"]
            over = f"{100 * (bits / layers['packed'] - 1):+.2f} %" if above else ""
            table.add_row(layer, f"{bits:.4f}", over, *sent, meaning)
    if result.get("message_entropy") is not None:
        table.add_row("entropy", f"{result['message_entropy']:.4f}", "", *([""] * len(once)),
                      "H(M | shared randomness)")
    return table


def show_images(result: dict[str, Any], console: Console) -> None:
    """Print one result of `images.run`."""
    of = "" if result["candidates"] is None else f", N = {result['candidates']}, beta = {result['beta']:g}"
    table = table_of(f"scheme {result['scheme']}, K = {result['decoders']} decoders, L_max = {result['l_max']}{of}, "
                     f"{result['data']}, {result['split']} split, seed {result['seed']}, {transport_of(result)}",
                     ("", "<"), ("measured", ">"), ("std. error", ">"), ("without the message", "<"))
    table.add_row("images", f"{result['samples']:,}", "", f"{result['samples_per_second']:,.0f} images/s")
    table.add_row("match rate", f"{result['match_rate']:.4f}", f"{result['match_rate_error']:.4f}", "")
    table.add_row("squared error, best of K", f"{result['mse']:.4f}", f"{result['mse_error']:.4f}",
                  f"crops alone {result['side_information_mse']:.4f}, mean image {result['mean_mse']:.4f}")
    table.add_row("squared error, its own", f"{result['decoder_mse']:.4f}", f"{result['decoder_mse_error']:.4f}",
                  f"crop alone {result['side_information_decoder_mse']:.4f}")
    if result["vq_mse"] is not None:
        table.add_row("k-means, without crops", f"{result['vq_mse']:.4f}", "", "")
    spent = result["seconds"]
    all_in = spent["networks"] + spent["races"] + spent["wire"]
    console.print(Group(table, _wire(result, "image"), Text(
        "Squared error is the mean over the pixels of the right half, in [0, 1]; of the best of the K reconstructions, "
        "which takes an oracle, and of each decoder's own. Processor time of all parties: networks "
        f"{spent['networks'] / all_in:.0%}, races {spent['races'] / all_in:.0%}, the rest, which is to speak with each "
        f"other and the lab, {spent['wire'] / all_in:.0%}.\n{_setup(result)}".rstrip(), style="dim")))


def show_coupling(result: dict[str, Any], console: Console) -> None:
    """Print one result of `coupled.run_coupling`."""
    of = f", epsilon = {result['epsilon']:g}" if result["epsilon"] is not None else ""
    table = table_of(f"scheme {result['scheme']}, K = {result['decoders']}{of}, {result['pairs']} pairs over "
                   f"N = {result['items']:,} items, seed {result['seed']}, {result['transport']}",
                   ("", "<"), ("measured", ">"), ("std. error", ">"), ("beside it", "<"))
    low, high = result["match_at_least"], result["match_at_most"]
    theory = f"exactly {low:.4f}" if low == high else f"at least {low:.4f}, at most {high:.4f}"
    talks = result["frames_per_batch"] > 0
    table.add_row("samples", f"{result['samples']:,}", "", f"{result['samples_per_second']:,.0f} samples/s")
    table.add_row("total variation D", f"{result['total_variation']:.4f}", "", "mean over pairs")
    table.add_row("match rate", f"{result['match_rate']:.4f}", f"{result['match_rate_error']:.4f}", theory)
    table.add_row("messages per sample", f"{result['messages_per_sample']:.4f}",
                  f"{result['messages_per_sample_error']:.4f}" if talks else "", "those with an index")
    table.add_row("trips per sample", f"{result['trips_per_sample']:.4f}", "", "one way, until both have it")
    batch = min(result["frame"], result["samples"] // result["pairs"])
    table.add_row("frames per batch", f"{result['frames_per_batch']:.1f}", "",
                  f"of {batch:,} samples" if talks else "nothing is sent")
    down, up = (result["bits_per_sample"][way] for way in ("down", "up"))
    wire = table_of("bits per sample, of each decoder", ("layer", "<"), ("to Alice", ">"), ("to Bob", ">"),
                  ("what it counts", "<"))
    for layer, meaning in (("information", "log2 of a message's values"), *_LAYERS):
        if down[layer] is None:
            wire.add_row(layer, "-", "-", f"{meaning}: not on this transport or system")
        else:
            wire.add_row(layer, f"{down[layer]:,.4f}", f"{up[layer]:,.4f}", meaning)
    console.print(Group(table, wire, Text(_setup(result), style="dim")))


def table_of(title: str, *columns: tuple[str, str]) -> Table:
    """An empty table, its columns with their names and sides, < or >."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, side in columns:
        table.add_column(name, justify="left" if side == "<" else "right")
    return table


def _setup(result: dict[str, Any]) -> str:
    setup = result["setup_bytes"]
    if setup["down"] is None:
        return ""
    count = len(setup["down"])
    return (f"Set-up, once per decoder (connection, Join, Terms): {sum(setup['down']) / count:.0f} bytes down, "
            f"{sum(setup['up']) / count:.0f} up.")


_LAYERS = (
    ("packed", "indices as bytes"),
    ("protobuf", "frames: round, count, checksum"),
    ("stream", "gRPC over HTTP/2, counted on the socket"),
    ("ip", "TCP/IP, by the kernel's segment count"),
)


def _notes(result: dict[str, Any]) -> str:
    lines = [
        "Distortion is that of the best of the K reconstructions, which takes an oracle, and each decoder's own, "
        "relative to the source's variance. MSE (dB) is the "
        "dB of the mean squared error, which theory bounds; mean dB is the mean of each sample's dB, which the "
        "published tables give: it is lower, for it hardly sees the few large errors of samples without a match.",
    ]
    if setup := _setup(result):
        lines.append(f"{setup} Acknowledgements: {result['uplink_bits_per_sample']['stream']:.4f} bits per sample up.")
    return "\n".join(lines)
