"""The official test rule that cuts an LR image into overlapping tiles, and the same rule with another size.

A side of `h` pixels is cut into n = h // 200 + 1 parts; the image is reflected at the bottom and right up to a multiple
of n; every part is extended by a tenth of its length on its inner sides, restored alone, and only its own centre is
kept. The scan and the sort see one tile at a time, so the rule is part of every score (official file:
basicsr/models/mambairv2_model.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

OFFICIAL = 200
OVERLAP = 10  # percent of a part that is added at each of its inner sides

Tiling = Literal["official", "none"] | int


class TilingError(ValueError):
    """A network whose outputs cannot be put together."""


@dataclass(frozen=True)
class Span:
    """One part of a side, in pixels of the padded LR image: `start:stop` is restored, `keep_start:keep_stop` kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True)
class Tile:
    """`index` counts the tiles in raster order: it is part of the key of the routing noise."""

    index: int
    rows: Span
    columns: Span


def spans(length: int, tiling: Tiling, overlap: int = OVERLAP) -> list[Span]:
    """The parts of a side of `length` pixels; the last one's `keep_stop` is the padded length.

    tiling: "official", "none" (one part), or the number that stands in for 200. overlap: in percent.
    """
    limit = {"official": OFFICIAL, "none": length + 1}.get(tiling, tiling)
    n = length // limit + 1
    part = -(-length // n)
    shave = part * overlap // 100
    return [
        Span(
            start=i * part - (shave if i > 0 else 0),
            stop=(i + 1) * part + (shave if i < n - 1 else 0),
            keep_start=i * part,
            keep_stop=(i + 1) * part,
        )
        for i in range(n)
    ]


def tiles(height: int, width: int, tiling: Tiling, overlap: int = OVERLAP) -> list[Tile]:
    """The tiles of an LR image in raster order."""
    rows, columns = (spans(side, tiling, overlap) for side in (height, width))
    pairs = [(row, column) for row in rows for column in columns]
    return [Tile(index, row, column) for index, (row, column) in enumerate(pairs)]


def reflect(x: Tensor, height: int, width: int) -> Tensor:
    """Extends x [..., H, W] of any dtype to [..., height, width] at the bottom and right, mirrored without its edge."""
    for axis, length in ((-2, height), (-1, width)):
        side = x.shape[axis]
        if length > side:
            index = torch.arange(length, device=x.device)
            x = x.index_select(axis, torch.where(index < side, index, 2 * (side - 1) - index))
    return x


Part = tuple[Tile, Tensor, Tensor | None]  # a tile, its pixels [B, C, h, w] and its labels [B, h, w]


def parts(x: Tensor, labels: Tensor | None, tiling: Tiling, overlap: int = OVERLAP) -> list[Part]:
    """The tiles of x [B, C, H, W] with their pixels, and their labels where there are some (int64 [B, H, W])."""
    cut = tiles(*x.shape[-2:], tiling, overlap)
    padded = cut[-1].rows.keep_stop, cut[-1].columns.keep_stop
    x = reflect(x, *padded)
    labels = None if labels is None else reflect(labels, *padded)

    def of(tile: Tile, image: Tensor) -> Tensor:
        return image[..., tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]

    return [(tile, of(tile, x), None if labels is None else of(tile, labels)) for tile in cut]


def join(outputs: Iterable[tuple[Tile, tuple[int, int], Tensor]], height: int, width: int) -> Tensor:
    """Puts restored tiles together: [B, C', s H, s W] of (tile, its size (h, w) as it was cut, [B, C', s h, s w]).

    The tiles are those of `tiles(height, width, ...)`, in any order; each is copied as it comes and not kept. The image
    is where the first tile is. Raises TilingError when an output is not a whole multiple of its tile, or s changes from
    one tile to the next.
    """
    canvas, scale = None, 0
    for tile, (high, wide), y in outputs:
        if canvas is None:
            scale = y.shape[-2] // high
            canvas = y.new_empty(*y.shape[:-2], scale * height, scale * width)
        if y.shape[-2:] != (scale * high, scale * wide) or scale < 1:
            raise TilingError(f"a tile of {(high, wide)} pixels came back as {tuple(y.shape[-2:])}")
        rows, inner_rows = _kept(tile.rows, height, scale)
        columns, inner_columns = _kept(tile.columns, width, scale)
        canvas[..., rows, columns] = y[..., inner_rows, inner_columns]
    return canvas


def _kept(span: Span, length: int, scale: int) -> tuple[slice, slice]:
    """Where a part's own centre lies in an output whose side is `scale` times `length`, and in the part's output."""
    stop = min(span.keep_stop, length)  # without what was added by reflection
    return (
        slice(scale * span.keep_start, scale * stop),
        slice(scale * (span.keep_start - span.start), scale * (stop - span.start)),
    )


def run(
    network: Callable[[Tensor, Tensor | None, Tile], Tensor],
    x: Tensor,
    labels: Tensor | None,
    tiling: Tiling,
    overlap: int = OVERLAP,
) -> Tensor:
    """Restores x tile by tile.

    network: (tile [B, C, h, w], its labels [B, h, w] or None, Tile) -> [B, C', s h, s w], s the same for every tile.
    x: [B, C, H, W]; labels: int64 [B, H, W] or None, cut like x. Returns [B, C', s H, s W], on the device of the tiles.
    Raises TilingError as `join`.
    """
    cut = parts(x, labels, tiling, overlap)
    outputs = ((tile, tuple(part.shape[-2:]), network(part, own, tile)) for tile, part, own in cut)
    return join(outputs, *x.shape[-2:])
