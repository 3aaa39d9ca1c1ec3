"""Figures by name: what each shows, and what draws it into a file."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from reports.charts import cost, directions, forest, protocol, resolution, roofline, scores, tradeoff, way
from reports.charts.chart import Chart, save
from reports.figures import attribution, classes, curve, decay, field, interventions, prompts, redundancy, sequences
from reports.tables.analyses.mechanisms import network_name
from results import measured
from results.analyses import Record
from results.evidence import Evidence
from results.sets import FULL_SETS

FORMATS = ("png", "pdf", "svg")


class FigureError(ValueError):
    """A figure or a format that there is not. The message says which ones there are."""


@dataclass(frozen=True)
class Figure:
    """caption: one line. draw: writes the figure of what is stored and committed to a path, in the format that its
    suffix names. chart: the same by Vega-Lite, which the report prefers. One of both is there. raster: whether it is
    of pixels or of so many lines that the report does not try it as SVG first."""

    caption: str
    draw: Callable[[Path, Evidence], None] | None = None
    chart: Callable[[Evidence], Chart] | None = None
    raster: bool = False


def of(evidence: Evidence, analysis: str, whole: bool = True) -> list[Record]:
    """What there is of an analysis, of networks without an intervention, by name.

    Of what is committed, cells that were trained here are left out, and if `whole` sets that are not: the store's are
    shown.
    """
    found = [one for one in evidence.analyses if one.key["analysis"] == analysis]
    found = [one for one in found if one.key["parameters"].get("intervention", "unchanged") == "unchanged"]
    trained = set(evidence.cells["weights"])
    found = [one for one in found if one.folder or (whole <= one.complete and one.key["weights"] not in trained)]
    return sorted(found, key=lambda one: (one.key["model"], network_name(one), one.key["dataset"]))


def shared(evidence: Evidence, analysis: str) -> list[Record]:
    """Those of the set on which most networks were asked, the largest of several: what they show can be compared.

    Official weights first, untrained ones last.
    """
    found = of(evidence, analysis)
    asked = Counter(one.key["dataset"] for one in found)
    shown = max(asked, key=lambda name: (asked[name], FULL_SETS.get(name, 0)), default="")
    ranks = {"official": 0, "untrained": 2}
    own = [one for one in found if one.key["dataset"] == shown]
    return sorted(own, key=lambda one: ranks.get(network_name(one).split()[0], 1))


FIGURES = {
    "curve": Figure(
        "Learning curves of this trainer beside the official code's: PSNR of Set5 and Set14 x2 against iterations",
        lambda path, evidence: curve.draw(curve.load(measured.FOLDER), path),
        lambda evidence: curve.chart(curve.load(measured.FOLDER)),
    ),
    "scores": Figure(scores.CAPTION, chart=scores.chart),
    "forest": Figure(forest.CAPTION, chart=forest.chart),
    "way": Figure(way.CAPTION, chart=way.chart),
    "losses": Figure(way.LOSS_CAPTION, chart=way.losses),
    "pareto": Figure(cost.CAPTION, chart=cost.pareto),
    "resolution": Figure(resolution.CAPTION, chart=resolution.chart),
    "tradeoff": Figure(tradeoff.CAPTION, chart=tradeoff.chart),
    "roofline": Figure(roofline.CAPTION, chart=roofline.chart),
    "directions": Figure(directions.CAPTION, chart=directions.chart),
    "protocol": Figure(protocol.CAPTION, chart=protocol.chart),
    "lam": Figure(
        "Local attribution maps of the same windows for several networks, and their diffusion indices",
        lambda path, evidence: attribution.draw(shared(evidence, "lam"), path),
        raster=True,
    ),
    "erf": Figure(
        "Effective receptive fields, and how much of them lies in squares around the centre",
        lambda path, evidence: field.draw(shared(evidence, "erf"), path),
        raster=True,
    ),
    "decay": Figure(
        "How the states of scans decay, and how much of a scan's output is older than k steps",
        lambda path, evidence: decay.draw(
            shared(evidence, "decay"),
            path,
            [one for one in evidence.analyses if one.key["analysis"] == "interventions"],
        ),
        raster=True,
    ),
    "redundancy": Figure(
        "How alike the directions of a scan are, layer by layer",
        lambda path, evidence: redundancy.draw(shared(evidence, "redundancy"), path),
    ),
    "interventions": Figure(
        "What trained weights lose by one change, with 95 % intervals", interventions.draw_changes, raster=True
    ),
    "layers": Figure("What trained weights lose by a part of one layer", interventions.draw_layers, raster=True),
    "sgn-classes": Figure(
        "Which class the pixels of a picture have, likeliest and as drawn, and the sequence that is scanned",
        lambda path, evidence: classes.draw(of(evidence, "sgn-classes", whole=False), path),
        raster=True,
    ),
    "sgn-order": Figure(
        "How alike and how near pixels are that follow each other in the sequence of a scan, by order",
        lambda path, evidence: sequences.draw(shared(evidence, "sgn-order"), path),
        raster=True,
    ),
    "prompts": Figure(
        "How large prompts are, how many classes are used, and whether these group anything, layer by layer",
        lambda path, evidence: prompts.draw(shared(evidence, "prompts"), path),
    ),
    "memory": Figure("How far back the scan looks: states that begin anew", interventions.draw_memory),
}


def draw(name: str, folder: Path, suffix: str, evidence: Evidence) -> Path:
    """Writes the figure `name` to folder/name.suffix and returns that path. Raises FigureError, OSError, and StoreError
    where `evidence` has nothing to draw."""
    if name not in FIGURES:
        close = get_close_matches(name, FIGURES, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        told = f"unknown figure {name!r}{hint}" if name else "which figure?"
        raise FigureError(f"{told}: choose from {', '.join(FIGURES)}")
    if suffix not in FORMATS:
        raise FigureError(f"unknown format {suffix!r}: choose from {', '.join(FORMATS)}")
    path, figure = folder / f"{name}.{suffix}", FIGURES[name]
    try:
        if figure.draw is not None:
            figure.draw(path, evidence)
        else:
            save(figure.chart(evidence), path)
    except ValueError as error:  # there is nothing that can be drawn
        raise FigureError(str(error)) from error
    return path
