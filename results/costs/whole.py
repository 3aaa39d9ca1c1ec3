"""What a picture takes whole, in one call, and what that changes beside the official tiles: of what is committed.

Memory and times are of sweeps (`<machine>/*.costs.json`) and of restored pictures (`restore-*.json`), the scores those
of `measured/tiling.json`, which `runner.py tables --documents` makes of the committed evaluations.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from results import measured, records
from results.costs import committed

TILING = measured.FOLDER / "tiling.json"
KERNELS = "triton"  # the backend that memory was measured with


class Memory(NamedTuple):
    """MiB at a picture of height x width; where: the machine that it was measured on."""

    height: int
    width: int
    mib: float
    where: str


class Time(NamedTuple):
    """Seconds of a picture of height x width. tiles: of `restore` in official tiles, joined and rounded on the host.
    call: of the GPU in one call."""

    height: int
    width: int
    tiles: float
    call: float
    where: str


class Change(NamedTuple):
    """PSNR of whole pictures less that of tiles, mean over the pictures of a set with its 95 % interval, in dB.
    weights: the first digits of their hash."""

    weights: str
    dataset: str
    pictures: int
    psnr: float
    low: float
    high: float


def calls(model: str, task: str, precision: str) -> list[Memory]:
    """What tensors take in one call of a network of the catalogue, input and weights included, by pixels."""
    found: dict[int, Memory] = {}
    for device, row in _calls(model, task, precision):
        if row["peak_mib"] is None:
            continue
        one = Memory(row["height"], row["width"], row["peak_mib"], device)
        pixels = one.height * one.width
        if pixels not in found or one.mib < found[pixels].mib:
            found[pixels] = one
    return [found[pixels] for pixels in sorted(found)]


def needed(found: Sequence[Memory], pixels: int) -> float | None:
    """MiB of a call on so many pixels: on the lines between the sizes of `calls`, the last one drawn on.

    Below the smallest size what that takes, None beyond a single one.
    """
    sizes, mib = [one.height * one.width for one in found], [one.mib for one in found]
    if not found or pixels <= sizes[-1]:
        return float(np.interp(pixels, sizes, mib)) if found else None
    if len(found) == 1:
        return None
    return mib[-1] + (pixels - sizes[-1]) * (mib[-1] - mib[-2]) / (sizes[-1] - sizes[-2])


def in_tiles(model: str, task: str, precision: str) -> Memory | None:
    """The most that was in use of a GPU, CUDA's own memory included, as pictures were restored in official tiles."""
    restored = _restored(model, task, precision)
    rows = [Memory(row["height"], row["width"], row["device_used_mib"], device) for device, row in restored]
    return max(rows, key=lambda row: row.mib, default=None)


def time(model: str, task: str, precision: str) -> Time | None:
    """Of the largest picture that was both restored in tiles and measured in one call, the shortest of each."""
    calls: dict[tuple, float] = {}
    for device, row in _calls(model, task, precision):
        size = device, row["height"], row["width"]
        calls[size] = min(row["median_ms"] / 1e3, calls.get(size, math.inf))
    found: list[Time] = []
    for device, row in _restored(model, task, precision):
        size = row["height"], row["width"]
        if (device, *size) in calls:
            found.append(Time(*size, row["seconds"], calls[device, *size], device))
    return max(found, key=lambda one: (one.height * one.width, -one.tiles), default=None)


def _calls(model: str, task: str, precision: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(device, row) of every sweep's points of one picture, with the scan's kernels."""
    asked = {"subject": model, "task": task, "precision": precision, "backend": KERNELS, "mode": "inference"}
    asked |= {"batch": 1, "status": "ok"}
    for sweep in committed.load():
        for row in sweep["rows"]:
            if all(row[name] == value for name, value in asked.items()) and not row.get("pictures"):
                yield sweep["machine"]["device"], row


def _restored(model: str, task: str, precision: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(device, row) of every picture that was restored in official tiles with the scan's kernels."""
    asked = {"model": model, "task": task, "precision": precision, "tiling": "official", "backend": KERNELS}
    for record in measured.profiles(kind="restore"):
        for row in record["rows"]:
            if all(row[name] == value for name, value in asked.items()):
                yield record["environment"]["device"], row


def changes(model: str, task: str) -> list[Change]:
    """What whole pictures score, classes drawn as officially, by set; sets of which no picture is cut are not there."""
    rows: list[dict[str, Any]] = records.read_json(TILING)["rows"]
    own = [row for row in rows if (row["model"], row["task"]) == (model, task)]
    return [Change(*(row[name] for name in Change._fields)) for row in own]
