"""What figures of analyses share: sizes that print legibly, colours that a colour-blind reader can tell apart."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from results.analyses import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.PngImagePlugin import PngInfo

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
LINES = ("-", "--", ":", "-.")
SCALE = "cividis"  # a scale of colours that is one for everybody
KEPT = 256  # colours of a file: a fifth to a half of the bytes, and no difference to the eye
FONT = {"font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "legend.fontsize": 8, "svg.hashsalt": "figures"}


def check(records: Sequence[Record], analysis: str) -> None:
    """Raises ValueError where there is nothing to draw."""
    if not records:
        raise ValueError(f"nothing of this analysis is stored: `runner.py analyse {analysis} MODEL ...` measures it")


def blank(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, which lays itself out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def few_colours(drawn: Path, info: "PngInfo | None" = None, optimize: bool = False) -> bytes:
    """The picture at `drawn` as a PNG of KEPT colours. optimize: nearer and smaller, in five times the time."""
    from PIL import Image

    made = io.BytesIO()
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(
            KEPT, Image.Quantize.MEDIANCUT, kmeans=int(optimize), dither=Image.Dither.NONE
        )
        few.save(made, "png", optimize=optimize, pnginfo=info)
    return made.getvalue()
