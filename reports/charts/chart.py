"""What a figure drawn by Vega-Lite is, its colours on light and dark paper, and how it becomes a file.

Marks name a style ("ours", "published", ...), never a colour: the page follows the reader's theme, a file is light.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    import altair as alt

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
COLUMNS = 3  # of small multiples, where the page is wide
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
