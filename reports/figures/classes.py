"""Maps of classes by layer, and the sequence that they make, laid out as a picture."""

import textwrap
from pathlib import Path

import numpy as np

from reports.figures import style
from reports.tables.analyses.mechanisms import network_name
from results.analyses import Record

SHOWN = 4  # layers, from the first to the last, numbered from 0
COLUMNS = ("class, likeliest", "class, as drawn", "sequence, as scanned")


def restructured(lq: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The pixels of lq [H, W, C] in the order of `classes` [H, W], ascending and stable, laid out row by row.

    Of a picture of one tile this is what the layer's scan reads, but for the pixels that the network pads.
    """
    flat = lq.reshape(-1, lq.shape[2])
    return flat[np.argsort(classes.ravel(), kind="stable")].reshape(lq.shape)


def draw(records: list[Record], path: Path, image: str | None = None) -> None:
    """Of the last record of `sgn-classes` whose arrays are stored, an image (the first): the picture, and for some of
    the layers the likeliest classes, those of a draw, and the sequence. Raises ValueError where no arrays are stored.
    """
    import matplotlib

    style.check(records, "sgn")
    record, image = _stored(records, image)
    arrays = record.arrays(image)
    lq, likeliest = arrays["lq"], arrays["likeliest"]
    drawn = arrays[min((name for name in arrays if name.startswith("seed-")), key=lambda name: int(name[5:]))]
    shown = np.unique(np.linspace(0, len(drawn) - 1, SHOWN).round().astype(int))
    high, wide = lq.shape[:2]
    with matplotlib.rc_context(style.FONT):
        width = 7.2
        figure = style.blank(width, 0.22 * width * high / wide * len(shown) + 0.5)
        grid = figure.subplots(len(shown), 4, squeeze=False)
        for axis in grid.flat:
            axis.set(xticks=[], yticks=[])
        for axis in grid[1:, 0]:
            axis.set_axis_off()
        picture = lq if lq.shape[2] == 3 else lq[..., 0]
        grid[0, 0].imshow(picture, cmap="gray")
        grid[0, 0].set_title(f"{record.key['dataset']}, {image}")
        told = f"{wide} x {high} pixels,\n{textwrap.fill(network_name(record), 24)}"
        grid[1, 0].text(
            0.5, 1, told, ha="center", va="top", transform=grid[1, 0].transAxes
        )  # no room below the picture
        kinds = int(max(drawn.max(), likeliest.max())) + 1
        for axes, layer in zip(grid[:, 1:], shown, strict=True):
            options = {"cmap": style.SCALE, "vmin": 0, "vmax": kinds - 1, "interpolation": "nearest"}
            shade = axes[0].imshow(likeliest[layer], **options)
            axes[1].imshow(drawn[layer], **options)
            sequence = restructured(lq, drawn[layer])
            axes[2].imshow(sequence if lq.shape[2] == 3 else sequence[..., 0], cmap="gray")
            axes[0].set_ylabel(f"layer {layer}")
        for axis, title in zip(grid[0, 1:], COLUMNS, strict=True):
            axis.set_title(title)
        bar = figure.colorbar(shade, ax=list(grid[1:, 0]), location="left", shrink=0.8)
        bar.set_label("class, in the order of the scan")
        figure.savefig(path, dpi=200)


def _stored(records: list[Record], image: str | None) -> tuple[Record, str]:
    for record in reversed(records):
        names = [image] if image else sorted(record.rows["image"].unique())
        for name in names:
            if record.arrays(name):
                return record, name
    raise ValueError(
        "no maps of these classes: they are committed of pictures that may be shown alone, and this store has none "
        "(`runner.py analyse sgn MODEL ...` measures them, --results names the store)"
    )
