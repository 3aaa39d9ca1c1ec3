"""Who follows whom in the sequence that a layer scans: similarity and distance of neighbours, by order."""

from pathlib import Path

import pandas as pd

from reports.figures import style
from reports.tables.analyses.mechanisms import network_name
from reports.tables.rows import units
from results.analyses import Record

ORDERS = {  # colour, line
    "network": ("sorted by class (the network)", style.COLOURS[1], "-"),
    "likeliest": ("sorted by class, without noise", style.COLOURS[1], "--"),
    "shuffled": ("sorted by shuffled classes", style.COLOURS[1], ":"),
    "raster": ("raster", style.COLOURS[0], "-"),
    "random": ("random", style.COLOURS[6], ":"),
    "luma": ("sorted by luma", style.COLOURS[4], "--"),
    "kmeans": ("sorted by k-means", style.COLOURS[2], "--"),
    "slic": ("sorted by SLIC", style.COLOURS[3], "-."),
    "nearest": ("nearest next (greedy)", style.COLOURS[5], "-"),
}
HATCHES = {"-": "", "--": "///", ":": "...", "-.": "\\\\\\"}


def means(record: Record) -> pd.DataFrame:
    """A row per layer, order, scope and steps: means over images, every image with the same weight."""
    values = ["similarity", "distance"]
    images = record.rows.groupby(["image", "layer", "order", "scope", "steps"], as_index=False)[values].mean()
    return images.groupby(["layer", "order", "scope", "steps"], as_index=False)[values].mean()


def draw(records: list[Record], path: Path) -> None:
    """A row per record of `sgn-order`: similarity of the next pixel by layer in the window, similarity against steps,
    and how far away the next pixel is."""
    import matplotlib

    style.check(records, "sgn")
    with matplotlib.rc_context(style.FONT):
        figure = style.blank(7.2, 2.4 * len(records) + 0.6)
        grid = figure.subplots(len(records), 3, squeeze=False, sharex="col", sharey="col", width_ratios=(5, 3, 3))
        for axes, record in zip(grid, records, strict=True):
            found = means(record)
            for name, (label, colour, line) in ORDERS.items():
                own = found[found["order"] == name]
                near = own[(own["scope"] == "window") & (own["steps"] == 1)]
                axes[0].plot(near["layer"], near["similarity"], line, color=colour, label=label, linewidth=1.2)
                tile = own[own["scope"] == "tile"].groupby("steps")[["similarity", "distance"]].mean()
                if len(tile):
                    axes[1].plot(tile.index, tile["similarity"], line, color=colour, marker=".", linewidth=1.2)
                    axes[2].barh(label, tile["distance"].iloc[0], color=colour, hatch=HATCHES[line], edgecolor="white")
                    axes[2].text(
                        tile["distance"].iloc[0], label, f" {tile['distance'].iloc[0]:.1f}", va="center", size=7
                    )
            told = f"{network_name(record)}, {record.key['dataset']}: {units(record.rows['image'].nunique(), 'image')}"
            axes[0].set_title(told, loc="left")
            axes[0].set(ylabel="similarity of the next pixel", ylim=(-0.1, 1))
            axes[1].set(xscale="log", ylabel="similarity, mean of layers")
            axes[1].set_xticks(found["steps"].unique(), [f"{step:g}" for step in found["steps"].unique()])
            axes[1].minorticks_off()
            axes[2].set_yticks([])
            axes[2].invert_yaxis()
            axes[2].margins(x=0.25)
            for axis in axes:
                axis.grid(alpha=0.3, linewidth=0.5)
                axis.set_axisbelow(True)
        grid[-1, 0].set_xlabel("layer, from 0 (in a window of 64 x 64 pixels)")
        grid[-1, 1].set_xlabel("steps apart (all pixels)")
        grid[-1, 2].set_xlabel("pixels to the next one")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path, dpi=200)
