"""What a figure drawn by Vega-Lite is, its colours on light and dark paper, and how it becomes a file.

Marks name a style ("ours", "published", ...), never a colour: the page follows the reader's theme, a file is light.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

if TYPE_CHECKING:
    import altair as alt

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
COLUMNS = 3  # of small multiples, where the page is wide
LETTER = 6.0  # pixels of a letter of a note
OF_POINT = 4  # what covering a point's area counts, where a text's counts 1
PANEL = 215  # pixels of the width of one of them

# Told apart by readers of every colour vision (Okabe and Ito's, toned to the paper).
LIGHT = {
    **{"ink": "#1c2024", "soft": "#5b636b", "line": "#d9dcdf", "faint": "#eef0f1", "paper": "#ffffff"},
    **{"ours": "#1f5f99", "published": "#77808a", "apart": "#c2541b", "third": "#1b7f68", "fourth": "#8b5a9f"},
    "fifth": "#8f6f00",
}
DARK = {
    **{"ink": "#e6e8ea", "soft": "#a2abb3", "line": "#3a4046", "faint": "#24292e", "paper": "#16191c"},
    **{"ours": "#6fb1ea", "published": "#9aa3ac", "apart": "#f0935f", "third": "#57c2a6", "fourth": "#c39bd6"},
    "fifth": "#d8b74e",
}


class NothingToDraw(ValueError):
    """What a figure is made of is not there. The message says what is missing and which command makes it."""


@dataclass(frozen=True)
class Chart:
    """drawn: the Vega-Lite chart, with its data. summary: what it shows, in sentences made from the same numbers.

    data: those numbers, a column per thing they say, for readers without the picture.
    """

    drawn: "alt.TopLevelMixin"
    summary: str
    data: pd.DataFrame

    def spec(self) -> dict[str, Any]:
        """Vega-Lite as JSON, with its data and a description, without a theme."""
        spec = self.drawn.properties(description=self.summary).to_dict()
        spec.pop("config", None)
        spec.pop("$schema", None)
        return spec


def panels(names: pd.Series) -> "alt.Facet":
    """Small multiples, in the order in which they are first named."""
    import altair as alt

    return alt.Facet("panel:N", sort=list(dict.fromkeys(names)), title=None)


def spread(places: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """The places moved as little as can be (squares) so that neighbours are `gap` apart, within low..high as far as
    they all fit in there; in the order given."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    moved = isotonic_regression(np.asarray(places, float)[order] - steps).x
    found = np.empty(len(places))
    found[order] = np.clip(moved, low, max(low, high - gap * (len(places) - 1))) + steps
    return found


def beside(
    x: Sequence[float],
    y: Sequence[float],
    texts: Sequence[str],
    size: tuple[float, float],
    apart: float = 9,
    lines: Sequence[tuple[float, float, float, float]] = (),
) -> np.ndarray:
    """[N, 2]: where texts that begin there stand free beside their points, as far as that can be; all in pixels.

    x, y: of the points, upwards; size: (width, height) of the panel, beyond which a text may go to the right alone.
    apart: of a text from its point. It stands above to the right, else below or right, else left, else farther away.
    lines: (left, low, right, high) of level and upright lines that no text should cross.
    """
    points = np.stack([x, y], 1).astype(float)
    boxes = [(px - 6, py - 6, px + 6, py + 6) for px, py in points]
    boxes += [(left - 2, low - 2, right + 2, high + 2) for left, low, right, high in lines]
    found, texts_at = np.empty_like(points), []
    for i in np.argsort(-points[:, 1], kind="stable"):
        wide = LETTER * len(texts[i])
        ways = [(apart, dy) for dy in (8, -8, 0)] + [(-apart - wide, dy) for dy in (0, 8, -8)]
        ways += [(-wide / 2, dy) for dy in (14, -14, 25, -25)] + [(apart, dy) for dy in (18, -18, 28, -28, 38, -38)]
        best = None
        for dx, dy in ways:
            left, middle = points[i, 0] + dx, points[i, 1] + dy
            own = left - 2, middle - 6, left + wide, middle + 6
            covered = sum(_common(own, box) for box in texts_at) + OF_POINT * sum(_common(own, box) for box in boxes)
            covered += 1e3 * (left < 0 or not 0 < middle < size[1])
            if best is None or covered < best[0] - 1e-9:
                best = covered, left, middle, own
        found[i] = best[1:3]
        texts_at.append(best[3])
    return found


def _common(a: tuple, b: tuple) -> float:
    """Area that two boxes (left, low, right, high) share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


@dataclass(frozen=True)
class Axis:
    """A scale whose domain is known beforehand, so that labels can be placed: `pixels` of it from values, and back."""

    low: float
    high: float
    length: float
    log: bool = True

    @classmethod
    def around(cls, values: Sequence[float], length: float, padding: float, log: bool = True) -> "Axis":
        """All values, with so many pixels to spare at each end."""
        ends = np.array([min(values), max(values)], float)
        ends = np.log(ends) if log else ends
        room = (ends[1] - ends[0] or 1.0) * padding / (length - 2 * padding)
        ends += (-room, room)
        return cls(*(np.exp(ends) if log else ends), length, log)

    def pixels(self, values: Any) -> np.ndarray:
        low, high, given = (np.log(np.asarray(x, float)) if self.log else x for x in (self.low, self.high, values))
        return (np.asarray(given) - low) / (high - low) * self.length

    def values(self, pixels: Any) -> np.ndarray:
        share = np.asarray(pixels) / self.length
        return self.low * (self.high / self.low) ** share if self.log else self.low + (self.high - self.low) * share

    def scale(self) -> Any:
        import altair as alt

        return alt.Scale(type="log" if self.log else "linear", domain=[self.low, self.high], nice=False)


def theme(palette: dict[str, str]) -> dict[str, Any]:
    """The configuration of Vega-Lite for LIGHT or DARK."""
    text = {"labelColor": palette["soft"], "titleColor": palette["soft"], "labelFontSize": 12, "titleFontSize": 12}
    ours, soft = palette["ours"], palette["soft"]
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            **{"gridColor": palette["faint"], "domainColor": palette["line"], "tickColor": palette["line"]},
            **{"titleFontWeight": "normal", "labelLimit": 300, "titlePadding": 8, **text},
            "labelSeparation": 4,
        },
        "legend": {**text, "titleFontWeight": "normal", "symbolStrokeWidth": 2, "orient": "top", "labelLimit": 320},
        "header": {"labelColor": palette["ink"], "labelFontSize": 12.5, "labelFontWeight": 600, "title": None},
        "text": {"color": soft, "fontSize": 12},
        "point": {"size": 60, "filled": True, "opacity": 1},
        "range": {"category": [palette[name] for name in ("ours", "apart", "third", "fourth", "published", "fifth")]},
        "style": {
            "ours": {"color": ours},
            "published": {"color": palette["apart"]},
            "line": {"color": ours, "strokeWidth": 2},
            "zero": {"color": soft, "strokeWidth": 1},
            "margin": {"color": palette["published"], "opacity": 0.13},
            "found": {"color": palette["line"], "strokeWidth": 10},
            "front": {"color": palette["published"], "strokeWidth": 1.3, "strokeDash": [4, 3]},
            "note": {"color": soft, "fontSize": 11.5},
        },
    }


def save(chart: Chart, path: Path) -> None:
    """The chart as png, pdf or svg, as the suffix of `path` says, on white paper."""
    import vl_convert

    spec = chart.spec() | {"config": theme(LIGHT) | {"background": "white"}}
    spec = _with_widths(spec)
    made = {"svg": vl_convert.vegalite_to_svg, "pdf": vl_convert.vegalite_to_pdf, "png": vl_convert.vegalite_to_png}
    options = {"scale": 2} if path.suffix == ".png" else {}
    result = made[path.suffix[1:]](spec, **options)
    path.write_bytes(result.encode() if isinstance(result, str) else result)


def _with_widths(spec: dict[str, Any]) -> dict[str, Any]:
    """A file has no container whose width a chart could take."""
    return spec | {"width": 560} if spec.get("width") == "container" else spec
