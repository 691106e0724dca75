"""A result as people read it in a terminal."""

from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text


def show(result: dict[str, Any], console: Console) -> None:
    """Print one result of `runner.run`."""
    console.print(Group(_quality(result), _wire(result), Text(_notes(result), style="dim")))


def headline(result: dict[str, Any]) -> str:
    """What was run, in one line."""
    return (
        f"scheme {result['scheme']}, K = {result['decoders']} decoders, L_max = {result['l_max']}, "
        f"sigma2 = {result['sigma2']:g}, seed {result['seed']}, {result['transport']}"
    )


def _quality(result: dict[str, Any]) -> Table:
    table = Table(title=headline(result), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("", "measured", "std. error", "beside it"):
        table.add_column(name, justify="left" if name in ("", "beside it") else "right")
    table.add_row("samples", f"{result['samples']:,}", "", f"{result['samples_per_second']:,.0f} samples/s")
    table.add_row("match rate", f"{result['match_rate']:.4f}", f"{result['match_rate_error']:.4f}",
                  f"coding bound at least {result['match_bound']:.3f}")
    relative = result["mse_error"] / result["mse"] if result["mse"] else 0.0
    table.add_row("distortion, MSE (dB)", f"{result['mse_db']:.2f}", f"{4.343 * relative:.2f}",
                  f"side information alone {result['side_information_mse_db']:.2f}")
    table.add_row("distortion, mean dB", f"{result['mean_db']:.2f}", f"{result['mean_db_error']:.2f}",
                  f"side information alone {result['side_information_mean_db']:.2f}")
    return table


def _wire(result: dict[str, Any]) -> Table:
    table = Table(title="bits per sample towards each decoder", title_justify="left", title_style="bold",
                  box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("layer", "bits", "over packed", "what it counts"):
        table.add_column(name, justify="right" if name in ("bits", "over packed") else "left")
    layers = result["bits_per_sample"]
    for layer, meaning in (
        ("information", "log2 L_max"),
        ("packed", "fixed-width indices"),
        ("protobuf", "frames: round, count, checksum"),
        ("stream", "gRPC over HTTP/2, counted on the socket"),
        ("ip", "TCP/IP, by the kernel's segment count"),
    ):
        bits = layers[layer]
        if bits is None:
            table.add_row(layer, "-", "", f"{meaning}: not on this transport or system")
        else:
            above = layer not in ("information", "packed") and layers["packed"]
            over = f"{100 * (bits / layers['packed'] - 1):+.2f} %" if above else ""
            table.add_row(layer, f"{bits:.4f}", over, meaning)
    return table


def _notes(result: dict[str, Any]) -> str:
    lines = [
        "Distortion is that of the best of the K reconstructions, relative to the source's variance. MSE (dB) is the "
        "dB of the mean squared error, which theory bounds; mean dB is the mean of each sample's dB, which the "
        "published tables give: it is lower, for it hardly sees the few large errors of samples without a match.",
    ]
    setup = result["setup_bytes"]
    if setup["down"] is not None:
        count = len(setup["down"])
        lines.append(
            f"Set-up, once per decoder (connection, Join, Terms): {sum(setup['down']) / count:.0f} bytes down, "
            f"{sum(setup['up']) / count:.0f} up. Acknowledgements: "
            f"{result['uplink_bits_per_sample']['stream']:.4f} bits per sample up."
        )
    return "\n".join(lines)
