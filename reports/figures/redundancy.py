"""How alike the directions of a scan are, layer by layer, in four ways of saying it."""

import math
from pathlib import Path

import pandas as pd

from reports.figures import style
from reports.tables.analyses.mechanisms import network_name
from results.analyses import Record

WAYS = {
    "pixel": "of a pixel, over channels",
    "whole": "of whole outputs",
    "centred": "without the means of channels",
    "state": "also without D u",
}
PAPER = 0.7
COLUMNS = 3  # panels side by side


def curves(record: Record) -> pd.DataFrame:
    """By layer, the mean over images (and seeds) and pairs of directions of every way."""
    return record.rows.groupby("layer")[list(WAYS)].mean()


def draw(records: list[Record], path: Path) -> None:
    """A panel per record; bands reach from the least to the most alike pair of directions."""
    style.check(records, "redundancy")
    import matplotlib

    with matplotlib.rc_context(style.FONT):
        columns = min(len(records), COLUMNS)
        rows = math.ceil(len(records) / columns)
        figure = style.blank(2.7 * columns + 0.4, 2.9 * rows + 0.4)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        axes = list(grid.flat)[: len(records)]
        for spare in list(grid.flat)[len(records) :]:
            spare.set_axis_off()
        by_pair = [record.rows.groupby(["layer", "first", "second"])[list(WAYS)].mean() for record in records]
        lowest = min(means.min(axis=None) for means in by_pair)
        for axis, record in zip(axes, records, strict=True):
            pairs = record.rows.groupby(["layer", "first", "second"], as_index=False)[list(WAYS)].mean()
            mean, low, high = (getattr(pairs.groupby("layer")[list(WAYS)], name)() for name in ("mean", "min", "max"))
            layer = mean.index
            for way, colour, line in zip(WAYS, style.COLOURS, style.LINES, strict=False):
                axis.plot(layer, mean[way], line, color=colour, label=WAYS[way], marker=".", markersize=3)
                axis.fill_between(layer, low[way], high[way], color=colour, alpha=0.12, linewidth=0)
            axis.axhline(PAPER, color="black", linewidth=0.7)
            white = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85}
            place = {"textcoords": "offset points", "ha": "right", "va": "top", "bbox": white}
            axis.annotate("the paper: above 0.7", (layer[-1], PAPER), (0, -3), fontsize=7, **place)
            images = record.rows["image"].nunique()
            name = f"{record.key['model']}, {network_name(record)}"
            four = record.key["parameters"].get("directions", "own")
            scans = "directions of its own" if four == "own" else four
            axis.set_title(f"{name}\n{scans}\n{record.key['dataset']}: {images} images", loc="left")
            axis.set(xlabel="layer, from 0", ylim=(lowest - 0.05, 1.05))
            axis.grid(alpha=0.3, linewidth=0.5)
        for axis in grid[:, 0]:
            axis.set_ylabel("cosine between two directions")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path, dpi=200)
