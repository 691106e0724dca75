"""`glsnet report`: what a sweep has measured, as one page."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A result directory of `glsnet sweep`.")],
) -> None:
    """Write DIR/report.html: rate-distortion curves, match rates, bits on the wire, and every number.

    One file that opens in any browser, offline, and prints. Beside it come DIR/figures/*.png and DIR/summary.csv, with
    a row for all repetitions of the same settings. All are made anew from the records each time, so the sweep may
    still be going on: the page says how many of its cells are there. Distortion is given as MSE (dB), which theory
    bounds, and as mean dB, which the published tables give; they are not comparable. Of images it is the mean squared
    error on [0, 1], as published, with the published curves, and contact sheets: sources, crops, reconstructions.

    - `glsnet sweep smoke --output results/smoke`, then `glsnet report results/smoke`
    - `glsnet sweep digits --output results/digits`, then `glsnet report results/digits`
    """
    from glsnet.lab import page  # matplotlib takes a second to load: only for those who draw

    print(page.write(directory))
