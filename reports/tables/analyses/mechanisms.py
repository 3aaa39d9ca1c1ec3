"""What the analyses of attribution, receptive fields, decay and redundancy found: a row per network, set and question.

Every number is a mean over images of what is one number per image (means over seeds, layers, pairs of directions taken
first), with its 95 % interval over images: the weights are fixed, the images are a sample.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.statistics.intervals import mean_interval
from reports.tables.analyses import fields, text
from results.analyses import Record
from results.published import weights_name

PAPER_SIMILARITY = 0.7  # what the paper says that directions exceed, of MambaIR
WAYS = ("pixel", "whole", "centred", "state")


def network_name(record: Record) -> str:
    """Whose weights a record is of, and their scale: "official x4", a file's name, or "untrained"."""
    if known := weights_name(record.key["weights"], record.key["task"]):
        return known
    scale = record.key["task"].removeprefix("sr-")
    files = sorted({str(machine["file"]) for machine in record.environments.values() if machine.get("file")})
    name = files[0].rsplit(".", 1)[0] if files else "untrained"
    return name if name.endswith(scale) else f"{name} {scale}"


def lam(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """DI and reach (input pixels) by network, set and intervention; `change` is that of DI, paired by image."""
    groups: dict[tuple[str, ...], dict[str, pd.DataFrame]] = {}
    values = ["di", "reach50", "reach90", "reach99", "gap"]
    for record in records:
        key = network_name(record), record.key["weights"], record.key["dataset"]
        made = record.key["parameters"]["intervention"]
        own = record.rows.assign(gap=record.rows["gap"].abs())
        groups.setdefault(key, {})[made] = own.groupby("image")[values].mean()
    for (network, _, dataset), found in groups.items():
        base = found.get("unchanged")
        for made, images in sorted(found.items(), key=lambda item: (item[0] != "unchanged", item[0])):
            row = {"network": network, "set": dataset, "change made": made, **_mean("DI", images["di"])}
            if base is not None and made != "unchanged":
                row |= _mean("change", (images["di"] - base["di"]).dropna())
            yield row | {name: images[name].mean() for name in values[1:]}


def erf(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Side (pixels) and area (over the image's) of the smallest centred square with a share of the set's mean map, and
    the area of single images'; `none` counts those of which no square has it."""
    for record in records:
        for (procedure, share), rows in record.rows.groupby(["procedure", "share"], sort=False):
            images = rows.groupby("image")["area"].mean()
            row = {"network": network_name(record), "set": record.key["dataset"], "procedure": procedure}
            side, area = fields.side_of(record, procedure, share)
            row |= {"share": share, "side": side, "area": area, **_mean("area of images", images.dropna())}
            yield row | {"none": int(images.isna().sum())}


def decay(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """By network, set, order and k: decay, share and of_output, means over layers."""
    for record in records:
        for (order, steps), rows in record.rows.groupby(["order", "steps"], sort=False):
            images = rows.groupby("image")[["decay", "share", "of_output"]].mean()
            row = {"network": network_name(record), "set": record.key["dataset"], "order": order, "k": steps}
            for name in images:
                row |= _mean(name, images[name].dropna())
            yield row


def redundancy(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """By network, set and way: the mean similarity, and of how many layers it exceeds the paper's 0.7."""
    for record in records:
        for way in WAYS:
            images = record.rows.groupby("image")[way].mean()
            layers = record.rows.groupby("layer")[way].mean()
            row = {"model": record.key["model"], "network": network_name(record), "set": record.key["dataset"]}
            row |= {"way": way, **_mean("similarity", images), "lowest layer": layers.min()}
            above = int((layers > PAPER_SIMILARITY).sum())
            yield row | {"highest layer": layers.max(), "layers": len(layers), "above 0.7": above}


def seams(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """By network, set, band (input pixels from a seam; 0: all) and overlap: PSNR less the widest overlap's, in dB."""
    for record in records:
        widest = record.rows["overlap"].max()
        errors = record.rows.groupby(["image", "band", "overlap"])["mse"].mean().unstack("overlap")
        change = -10 * np.log10(errors.div(errors[widest], axis=0))
        change = change.drop(columns=widest).stack().dropna()
        for (band, overlap), images in change.groupby(["band", "overlap"]):
            row = {"network": network_name(record), "set": record.key["dataset"], "band": band, "overlap": overlap}
            yield row | {"against": widest, **_mean("dB", images)}


SUMMARIES: dict[str, Callable[[Sequence[Record]], Iterator[dict[str, Any]]]] = {
    "lam": lam,
    "erf": erf,
    "decay": decay,
    "redundancy": redundancy,
    "seams": seams,
}


# Behind the point, as they are printed; others have 3.
DIGITS = {"lam": dict.fromkeys(("DI", "change", "reach50", "reach90", "reach99"), 1), "erf": {"share": 2, "side": 0}}


def summary(name: str, records: Sequence[Record]) -> pd.DataFrame:
    """A row per question of the analysis `name`. Columns `x`, `x low`, `x high`: a mean and its 95 % interval."""
    return pd.DataFrame(list(SUMMARIES[name](records)))


def lines(name: str, records: Sequence[Record]) -> list[str]:
    """`summary` for a terminal."""
    found = summary(name, records)
    if found.empty:
        return []
    means = [column for column in found if f"{column} low" in found]
    return text.grid(f"{name}: {records[0].question}", found, means, DIGITS.get(name))


def to_json(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """`rows` as `summary`, `images` as they are stored; what is missing is null."""
    images = [record.rows.assign(dataset=record.key["dataset"]) for record in records]
    frames = {"rows": summary(name, records), "images": pd.concat(images, ignore_index=True) if images else None}
    return {
        kind: [] if frame is None else frame.astype(object).where(frame.notna(), None).to_dict("records")
        for kind, frame in frames.items()
    }


def _mean(name: str, values: pd.Series) -> dict[str, float | int | None]:
    """The mean of an image's values with its interval, and their number."""
    if values.empty:
        return {name: None, f"{name} low": None, f"{name} high": None, "images": 0}
    found = mean_interval(values.to_list())
    return {name: found.mean, f"{name} low": found.low, f"{name} high": found.high, "images": found.n}
