"""What a picture takes whole, in one call, and what that changes beside the official tiles: of what is committed.

Memory is of sweeps (`<machine>/*.costs.json`) and of restored pictures (`restore-*.json`), times are of profiles, and
the scores those of `measured/tiling.json`, which `runner.py tables --documents` makes of the committed evaluations.
"""

from collections.abc import Sequence
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
    """Of a picture of height x width: `times` what one call takes, in tiles."""

    height: int
    width: int
    times: float
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
    asked = {"subject": model, "task": task, "precision": precision, "backend": KERNELS, "mode": "inference"}
    asked |= {"batch": 1, "status": "ok"}
    for sweep in committed.load():
        for row in sweep["rows"]:
            if any(row[name] != value for name, value in asked.items()) or row.get("pictures"):
                continue
            if row["peak_mib"] is None:
                continue
            one = Memory(row["height"], row["width"], row["peak_mib"], sweep["machine"]["device"])
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
    rows = [
        Memory(row["height"], row["width"], row["device_used_mib"], record["environment"]["device"])
        for record in measured.profiles(kind="restore")
        for row in record["rows"]
        if (row["model"], row["task"], row["precision"], row["tiling"]) == (model, task, precision, "official")
        and row["backend"] == KERNELS
    ]
    return max(rows, key=lambda row: row.mib, default=None)


def time(model: str, task: str, precision: str) -> Time | None:
    """How many times as long tiles take as one call, by the latest profile that has both."""
    found = None
    for profile in measured.profiles():
        own = [
            row
            for row in profile["rows"]
            if (row["model"], row["task"], row["precision"], row["status"]) == (model, task, precision, "ok")
            and row["mode"] == "inference"
            and not row["overrides"]
        ]
        by_launch = {(row["launch"], row["height"], row["width"]): row["median_ms"] for row in own}
        for (launch, height, width), ms in by_launch.items():
            if launch == "tiles" and ("graph", height, width) in by_launch:
                times = ms / by_launch["graph", height, width]
                found = Time(height, width, times, profile["environment"]["device"])
    return found


def changes(model: str, task: str) -> list[Change]:
    """What whole pictures score, classes drawn as officially, by set; sets of which no picture is cut are not there."""
    rows: list[dict[str, Any]] = records.read_json(TILING)["rows"]
    own = [row for row in rows if (row["model"], row["task"]) == (model, task)]
    return [Change(*(row[name] for name in Change._fields)) for row in own]
