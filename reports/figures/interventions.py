"""What trained weights use, as figures: every change, every layer, and how far back the scan looks.

All show the difference in PSNR from the unchanged network with its 95 % interval over the pictures of a set
(`reports.tables.analyses.interventions`). The band is +-0.01 dB, within which a change is without effect; beyond it the
scale is logarithmic. A panel per network, a colour per set; five pictures are left out where a larger set was asked.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from reports.statistics.verdicts import MARGIN
from reports.tables.analyses.interventions import UNCHANGED, compared
from results.evidence import Evidence
from results.published import weights_name
from results.records import StoreError
from results.sets import place

# Okabe and Ito's colours, which the colour-blind can tell apart, and marks for print without colour.
STYLES = tuple(zip(("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"), "os^Dv", strict=True))
ALL = "all"
SMALLEST = "Set5"
DIFFERENCE = "PSNR less that of the\nunchanged network, dB"
BAND = f"±{MARGIN:g} dB, linear within, logarithmic beyond"


def draw_changes(path: Path, evidence: Evidence) -> None:
    """Every change of the whole network, a row each; questions one below the other."""
    found = _found(evidence, lambda frame: ~frame["question"].str.startswith(("layers", "memory")))
    names = list(dict.fromkeys(found["intervention"]))[::-1]
    networks = _networks(found)
    figure, axes = _figure(
        1, len(networks), width=1.6 + 3.4 * len(networks), height=1.2 + 0.19 * len(names), sharex=True
    )
    for axis, (network, part) in zip(axes[0], networks.items(), strict=True):
        for (number, dataset), own in part.groupby(["number", "dataset"]):
            places = [names.index(name) - 0.15 * number for name in own["intervention"]]
            _points(axis, own, dataset, number, y=places)
        axis.axvspan(-MARGIN, MARGIN, color="0.9", zorder=0)
        axis.set_xscale("symlog", linthresh=MARGIN)
        axis.tick_params(axis="x", labelsize=7)
        axis.set(xlabel=DIFFERENCE.replace("\n", " "), ylim=(-0.8, len(names) - 0.4))
        axis.set_title(network, fontsize=8)
        axis.grid(alpha=0.3)
    axes[0][0].set_yticks(range(len(names)), names, fontsize=8)
    _save(figure, path)


def draw_layers(path: Path, evidence: Evidence) -> None:
    """Which layer needs what: a row of panels per network, a panel per part that is off."""
    found = _found(evidence, lambda frame: frame["question"].str.startswith("layers"), "layer-*")
    parts = list(dict.fromkeys(found["question"]))
    networks = _networks(found)
    figure, axes = _figure(len(networks), len(parts), width=1 + 2.6 * len(parts), height=0.8 + 2.3 * len(networks))
    for row, (network, own) in zip(axes, networks.items(), strict=True):
        for axis, part in zip(row, parts, strict=True):
            chosen = own[own["question"] == part]
            for (number, dataset), points in chosen.groupby(["number", "dataset"]):
                layers = points["intervention"].str.extract(r"layer-(\d+)/")[0].astype(int)
                _points(axis, points, dataset, number, x=list(layers + 0.2 * number))
            axis.axhspan(-MARGIN, MARGIN, color="0.9", zorder=0)
            axis.set_yscale("symlog", linthresh=MARGIN)
            axis.set(title=f"{part.removeprefix('layers: ')}\n{network}", xlabel="layer, from 0")
            axis.title.set_fontsize(8)
            axis.grid(alpha=0.3)
        row[0].set_ylabel(DIFFERENCE)
    _save(figure, path)


def draw_memory(path: Path, evidence: Evidence) -> None:
    """How far back the scan looks: its state begins anew every k steps, in sorted and in raster order.

    Networks that were asked for one k alone are left out where others were asked for more.
    """
    found = _found(
        evidence,
        lambda frame: frame["question"].str.startswith("memory") | (frame["intervention"] == "order/raster"),
        only="memory/*",
    )
    networks = _networks(found)
    networks = {name: own for name, own in networks.items() if own["intervention"].nunique() > 1} or networks
    figure, axes = _figure(2, len(networks), width=1 + 3.2 * len(networks), height=5.4)
    for column, (network, own) in enumerate(networks.items()):
        for row, order in enumerate(("sorted", "raster")):
            axis = axes[row][column]
            for (number, dataset), points in own.groupby(["number", "dataset"]):
                chosen = points[points["intervention"].str.startswith(f"memory/{order}-")]
                if order == "raster":
                    chosen = pd.concat([chosen, points[points["intervention"] == "order/raster"]])
                steps = chosen["intervention"].str.extract(r"-(\d+)$")[0]
                places = [len(_STEPS) if pd.isna(k) else _STEPS.index(int(k)) for k in steps]
                _points(axis, chosen, dataset, number, x=[place + 0.12 * number for place in places], line="-")
            axis.axhspan(-MARGIN, MARGIN, color="0.9", zorder=0)
            axis.set_yscale("symlog", linthresh=MARGIN)
            axis.set_xticks(range(len(_STEPS) + 1), [*map(str, _STEPS), ALL], fontsize=8)
            axis.set(xlabel="steps between new states", xlim=(-0.5, len(_STEPS) + 0.7))
            axis.set_title(f"{network}\n{order} order", fontsize=8)
            axis.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel(DIFFERENCE)
    _save(figure, path)


_STEPS = (1, 4, 16, 64, 256, 1024, 4096)


def _found(evidence: Evidence, chosen: Callable[[pd.DataFrame], pd.Series], only: str = "*") -> pd.DataFrame:
    """Rows of `compared` with an interval, `network`, and the `number` of the set among those that there are.

    Raises StoreError where there are none, with how `only` makes them.
    """
    frame = compared(evidence)
    frame = frame[frame["low"].notna() & (frame["intervention"] != UNCHANGED)]
    frame = frame[chosen(frame)] if len(frame) else frame
    if frame.empty:
        needed = f"runner.py analyse interventions ... --only '{only}'"
        raise StoreError(f"no whole set with such changes is stored or committed: {needed}")
    frame = _without_smallest(frame)
    names = [f"{one['model']}, {one['task']}\n{_weights(one)}" for one in frame.to_dict("records")]
    sets = sorted(frame["dataset"].unique(), key=place)
    return frame.assign(network=names, number=frame["dataset"].map(sets.index))


def _without_smallest(frame: pd.DataFrame) -> pd.DataFrame:
    """Without rows of SMALLEST whose change was asked of the same weights on another set."""
    asked = frame.groupby(["model", "task", "weights", "intervention"])["dataset"].transform("nunique")
    return frame[(frame["dataset"] != SMALLEST) | (asked == 1)]


def _weights(row: dict[str, Any]) -> str:
    return weights_name(row["weights"], row["task"]) or row["file"] or row["weights"][:8]


def _networks(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """By network; official weights first."""
    return dict(sorted(found.groupby("network", sort=False), key=lambda pair: "official" not in pair[0]))


def _figure(rows: int, columns: int, width: float, height: float, sharex: bool = False) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=True)


def _save(figure: Any, path: Path) -> None:
    """With every set that an axis has, and the band, in the legend below."""
    from matplotlib.patches import Patch

    found = [pair for axis in figure.axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    handles = {label: handle for handle, label in reversed(found)}
    labels = sorted(handles, key=place)
    where = {"loc": "outside lower center", "ncols": 5, "frameon": False, "fontsize": 8}
    figure.legend([*(handles[label] for label in labels), Patch(color="0.9")], [*labels, BAND], **where)
    figure.savefig(path, dpi=150)


def _points(axis: Any, rows: pd.DataFrame, dataset: str, number: int, line: str = "", **places: list[float]) -> None:
    """Points with intervals, along x where y is given and along y where x is."""
    colour, mark = STYLES[number % len(STYLES)]
    values = rows["difference"].astype(float)
    error = [values - rows["low"].astype(float), rows["high"].astype(float) - values]
    horizontal = "y" in places
    x, y = (values, places["y"]) if horizontal else (places["x"], values)
    how = {"fmt": mark + line, "color": colour, "markersize": 3.5, "linewidth": 1, "elinewidth": 1, "label": dataset}
    axis.errorbar(x, y, **{"xerr" if horizontal else "yerr": error}, **how)
