"""Local attribution maps of the same windows for several networks, and their diffusion indices."""

from pathlib import Path
from textwrap import wrap

import numpy as np
import pandas as pd

from reports.figures import style
from reports.tables.analyses.mechanisms import network_name
from results.analyses import Record

WINDOWS = 4  # whose maps are drawn; the indices are of all
NAMED = 20  # windows that have room for their names


def indices(records: list[Record]) -> pd.DataFrame:
    """DI by image (rows) and network (columns), means over seeds, of images that all have.

    Raises ValueError where two networks looked at different windows of an image.
    """
    columns: dict[str, pd.Series] = {}
    places: dict[str, tuple[int, int]] = {}
    for record in records:
        by_image, name = record.rows.groupby("image"), network_name(record)
        columns[name] = pd.concat([columns.get(name), by_image["di"].mean()])
        for image, (top, left) in by_image[["top", "left"]].first().iterrows():
            if places.setdefault(image, (top, left)) != (top, left):
                raise ValueError(f"{image}: windows at {places[image]} and at {(top, left)} are not the same")
    return pd.DataFrame(columns).dropna()


def maps(records: list[Record], network: str, image: str) -> tuple[np.ndarray, np.ndarray]:
    """(map [H, W] of the first seed, window: top, left, size and scale). Raises ValueError where none is stored."""
    for record in records:
        if network_name(record) == network and (arrays := record.arrays(image)):
            return arrays[min(name for name in arrays if name.startswith("map/"))], arrays["window"]
    raise ValueError(f"{network}: no map of {image} is stored; run analyse lam")


def draw(records: list[Record], path: Path) -> None:
    """A row of maps per network, of the first WINDOWS images; below, every image's DI. Of the task that most are of: at
    another scale another window is the hardest."""
    import matplotlib
    from matplotlib.patches import Rectangle

    style.check(records, "lam")
    tasks = [record.key["task"] for record in records]
    records = [record for record in records if record.key["task"] == max(tasks, key=tasks.count)]
    found = indices(records)
    images, networks = list(found.index[:WINDOWS]), list(found.columns)
    with matplotlib.rc_context(style.FONT):
        figure = style.blank(7.2, 1.8 * len(networks) + 2.4)
        above, below = figure.subfigures(2, 1, height_ratios=[1.8 * len(networks), 2.4])
        grid = above.subplots(len(networks), len(images), squeeze=False)
        for axes, network in zip(grid, networks, strict=True):
            for axis, image in zip(axes, images, strict=True):
                values, (top, left, size, scale) = maps(records, network, image)
                shown = axis.imshow(values**0.5, cmap=style.SCALE, vmin=0, vmax=1)
                corner = left / scale - 0.5, top / scale - 0.5
                axis.add_patch(Rectangle(corner, size / scale, size / scale, fill=False, color="white", linewidth=1))
                axis.set(xticks=(), yticks=())
                axis.set_title(f"{image}: DI {found.loc[image, network]:.1f}", fontsize=8)
            axes[0].set_ylabel("\n".join(wrap(network.replace("_", " "), 18)), fontsize=8)
        above.colorbar(shown, ax=grid, label="(map / its maximum)^0.5", shrink=0.6)
        axis = below.subplots()
        many = len(found) > NAMED
        ordered = found.loc[found.mean(axis=1).sort_values().index] if many else found
        for name, colour, marker in zip(networks, style.COLOURS, "osD^v<>", strict=False):
            told, size = f"{name}: {ordered[name].mean():.1f}", 3 if many else 6
            axis.plot(ordered.index, ordered[name], marker, color=colour, markersize=size, fillstyle="none", label=told)
        axis.set(ylabel="diffusion index, 0 to 100", ylim=(0, None))
        axis.tick_params(axis="x", rotation=45, labelsize=8)
        if many:
            axis.set(xticks=(), xlabel="windows, by the mean of their indices")
        axis.grid(alpha=0.3, linewidth=0.5)
        title = f"mean of {len(found)} windows"
        below.legend(loc="outside upper center", frameon=False, title=title, ncols=2, title_fontsize=8)
        figure.savefig(path, dpi=200)
