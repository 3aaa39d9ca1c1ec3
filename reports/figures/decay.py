"""How far scans look: the decay of their states, how much of their output is older than k steps, and, where it was
measured, what a network loses whose states start anew every k steps (`analyse interventions`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reports.figures import style
from reports.statistics.intervals import skewed_interval
from reports.tables.analyses.interventions import differences, scores_of
from reports.tables.analyses.mechanisms import network_name
from results.analyses import Record

ORDERS = {"network": "sorted by class", "raster": "same inputs in raster order"}
CUTS = {"network": ("memory/sorted-", "unchanged"), "raster": ("memory/raster-", "order/raster")}  # and their base


def curves(record: Record) -> pd.DataFrame:
    """A row per layer, order and k: means over images (and seeds, directions) of decay, share and of_output."""
    values = ["decay", "share", "of_output"]
    return record.rows.groupby(["layer", "order", "steps"], as_index=False)[values].mean()


def costs(record: Record, interventions: Sequence[Record]) -> pd.DataFrame:
    """order, steps, cost, low, high: mean PSNR lost, dB, by states cut every so many steps, and its 95 % interval
    as tables of interventions have it.

    Over the images of interventions in the same network on the same set, paired by image and seed of the routing noise,
    means over seeds first. Raster order is compared with raster order.
    """
    same = ("model", "overrides", "weights", "task", "dataset")
    own = [one for one in interventions if all(one.key[name] == record.key[name] for name in same)]
    wanted = {name for pair in CUTS.values() for name in pair}
    named = {one.key["parameters"]["intervention"]: one for one in own}
    psnr = {name: scores_of(one.rows) for name, one in named.items() if name.startswith(tuple(wanted))}
    rows = []
    for order, (prefix, base) in CUTS.items():
        for name in psnr:
            if name.startswith(prefix) and base in psnr:
                found = skewed_interval((-differences(psnr[name], psnr[base])).dropna().to_list())
                steps = int(name.removeprefix(prefix))
                rows.append({"order": order, "steps": steps, "cost": found.mean, "low": found.low, "high": found.high})
    return pd.DataFrame(rows, columns=["order", "steps", "cost", "low", "high"]).sort_values(["order", "steps"])


def draw(records: list[Record], path: Path, interventions: Sequence[Record] = ()) -> None:
    """A row of panels per record: decay by layer, share of the state's output, change of the whole output, and what cut
    states cost if that is among the interventions."""
    style.check(records, "decay")
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    with matplotlib.rc_context(style.FONT):
        cuts = [costs(record, interventions) for record in records]
        panels = 4 if any(len(found) for found in cuts) else 3
        figure = style.blank(2.4 * panels, 2.3 * len(records) + 0.4)
        grid = figure.subplots(len(records), panels, squeeze=False, sharex=True, sharey="col")
        for row, (axes, record) in enumerate(zip(grid, records, strict=True)):
            found = curves(record)
            layers = found["layer"].nunique()
            shade = ScalarMappable(Normalize(0, layers - 1), style.SCALE)
            own = found[found["order"] == ("network" if (found["order"] == "network").any() else "raster")]
            for layer, part in own.groupby("layer"):
                axes[0].plot(part["steps"], part["decay"], color=shade.to_rgba(layer), linewidth=0.9)
            figure.colorbar(shade, ax=axes[0], label="layer, from 0", pad=0.02, aspect=30)
            for axis, name in zip(axes[1:3], ("share", "of_output"), strict=True):
                for order, colour, line in zip(ORDERS, style.COLOURS, style.LINES, strict=False):
                    part = found[found["order"] == order].pivot(index="steps", columns="layer", values=name)
                    if len(part):
                        axis.plot(part.index, part.mean(axis=1), line, color=colour, label=ORDERS[order])
                        for edge in (part.min(axis=1), part.max(axis=1)):
                            axis.plot(part.index, edge, line, color=colour, linewidth=0.5)
            for order, part in cuts[row].groupby("order"):
                number = list(ORDERS).index(order)
                bars = part["cost"] - part["low"], part["high"] - part["cost"]
                look = {"color": style.COLOURS[number], "linestyle": style.LINES[number], "marker": ".", "capsize": 2}
                axes[3].errorbar(part["steps"], part["cost"], bars, **look)
            told = f"{network_name(record)}, {record.key['dataset']}: {record.rows['image'].nunique()} images"
            axes[0].set_title(told, loc="left")
            axes[0].set(ylabel="mean decay over k steps", ylim=(0, 1))
            axes[1].set(ylabel="part of the state's output\nfrom k or more steps ago", ylim=(0, 1))
            axes[2].set(ylabel="RMS of that part over\nRMS of the whole output", ylim=(0, None))
            if panels == 4 and cuts[row].empty:
                axes[3].text(0.5, 0.5, "not measured", ha="center", transform=axes[3].transAxes)
            if panels == 4:
                axes[3].set(ylabel="PSNR lost by new states\nevery k steps, same order, dB")
            for axis in axes:
                _steps(axis, found["steps"].unique(), "k, steps of the scan" if row == len(records) - 1 else "")
        handles, names = grid[0, 1].get_legend_handles_labels()
        title = "thick: mean over layers, thin: lowest and highest layer"
        figure.legend(handles, names, loc="outside upper right", ncols=2, frameon=False, title=title, title_fontsize=8)
        figure.savefig(path, dpi=200)


def _steps(axis: Any, steps: Any, label: str) -> None:
    axis.set_xscale("log", base=4)
    axis.set_xticks(steps, [f"{step:g}" for step in steps], minor=False)
    axis.tick_params(axis="x", labelsize=7, rotation=45)
    axis.set_xlabel(label)
    axis.grid(alpha=0.3, linewidth=0.5)
