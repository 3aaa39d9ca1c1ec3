"""How time grows with the picture, for claims about efficiency: from the committed sweeps on GPUs."""

from dataclasses import dataclass

import pandas as pd

from reports.costs import frames
from reports.costs.tables import LARGE
from reports.statistics.growth import Exponent, exponent
from reports.tables.blocks.block import Cell

SIZES = 4  # at least, from LARGE pixels on


@dataclass(frozen=True)
class Growth:
    """Of one network on one machine, from LARGE pixels on: the exponent, and in words what it was measured on."""

    machine: str
    exponent: Exponent
    text: Cell


def growths(subject: str, precision: str) -> list[Growth]:
    """One for each GPU on which it was swept at SIZES sizes or more."""
    frame = frames.fastest(frames.of_one_sweep(frames.timed(every=True)))
    frame = frame[(frame["subject"] == subject) & (frame["precision"] == precision) & (frame["pixels"] >= LARGE)]
    frame = frame[(frame["mode"] == "inference") & (frame["batch"] == 1) & (frame["task"] == "sr-x2")]
    frame = frame[(frame["backend"] == "triton") & (frame["clock"] == "wall")]
    return [_growth(machine, own) for machine, own in frame.groupby("machine", sort=False) if len(own) >= SIZES]


def _growth(machine: str, own: pd.DataFrame) -> Growth:
    own = own.sort_values("pixels")
    found = exponent(own["pixels"], own["ms"])
    first, last = (own.iloc[i] for i in (0, -1))
    sizes = " to ".join(f"{row['height']}x{row['width']} ({row['ms']:,.4g} ms)" for row in (first, last))
    text = f"time ~ pixels^{found.slope:.3f} [{found.low:.3f}, {found.high:.3f}] from {sizes} on {machine}"
    return Growth(machine, found, Cell(text, source=last["source"]))
