"""Figures by name: what each shows, and what draws it into a file."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from reports.figures import curve
from results import measured

FORMATS = ("png", "pdf", "svg")


class FigureError(ValueError):
    """A figure or a format that there is not. The message says which ones there are."""


@dataclass(frozen=True)
class Figure:
    """caption: one line. draw: writes the figure to a path, in the format that its suffix names."""

    caption: str
    draw: Callable[[Path], None]


FIGURES = {
    "curve": Figure(
        "Learning curves of this trainer beside the official code's: PSNR of Set5 and Set14 x2 against iterations",
        lambda path: curve.draw(curve.load(measured.FOLDER), path),
    ),
}


def draw(name: str, folder: Path, suffix: str) -> Path:
    """Writes the figure `name` to folder/name.suffix and returns that path. Raises FigureError, and OSError."""
    if name not in FIGURES:
        close = get_close_matches(name, FIGURES, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise FigureError(f"unknown figure {name!r}{hint}: choose from {', '.join(FIGURES)}")
    if suffix not in FORMATS:
        raise FigureError(f"unknown format {suffix!r}: choose from {', '.join(FORMATS)}")
    path = folder / f"{name}.{suffix}"
    FIGURES[name].draw(path)
    return path
