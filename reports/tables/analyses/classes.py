"""What the analyses of classes found, in a row per network, set and question.

Every number is a mean over images of what is one number per image (means over seeds and layers taken first), with its
95 % interval over images: the weights are fixed, the images are a sample. `lowest` and `highest layer` are of the means
over images.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from reports.statistics.intervals import mean_interval
from reports.tables.analyses import text
from reports.tables.analyses.mechanisms import network_name
from results.analyses import Record

FIRMNESS = ("changed", "changed_at_random", "likeliest", "adjacent", "adjacent_at_random")
OF_THE_POOL = ("growth", "rank")  # the same whatever the image: without an interval
DIGITS = {"distance": 1}  # behind the point, as they are printed; others have 3
OF_PROMPTS = ("ratio", "growth", "rank", "effective", "dead", "within", "between", "silhouette")


def classes(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """By network and set: how many pixels change class between draws, and how often neighbours share one."""
    for record in records:
        for name in FIRMNESS:
            yield _named(record) | {"quantity": name} | _summary(record.rows, name)


def order(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """By network, set, scope, steps and order: similarity and distance of pixels that follow each other."""
    for record in records:
        for (scope, steps, name), rows in record.rows.groupby(["scope", "steps", "order"]):
            row = _named(record) | {"scope": scope, "steps": steps, "order": name}
            similarity, distance = _summary(rows, "similarity"), _summary(rows, "distance")
            yield (
                row
                | similarity
                | {"distance": distance["mean"], "distance low": distance["low"]}
                | {"distance high": distance["high"]}
            )


def prompts(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """By network, set, routing and quantity."""
    for record in records:
        agreement = [name for name in record.columns if name.startswith("nmi_")]
        for routing, rows in record.rows.groupby("routing", sort=False):
            for name in (*OF_PROMPTS, *agreement):
                if rows[name].notna().any():
                    yield _named(record) | {"routing": routing, "quantity": name} | _summary(rows, name)
            yield _named(record) | {"routing": routing, "quantity": "dead on the whole set"} | _dead(rows)


def _named(record: Record) -> dict[str, Any]:
    return {"network": network_name(record), "set": record.key["dataset"]}


def _summary(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    """Mean over images with its interval, and the layers between which it lies; images without a value are left out."""
    images, layers = rows.groupby("image")[name].mean().dropna(), rows.groupby("layer")[name].mean()
    found = mean_interval(images.tolist())
    row = {"mean": found.mean, "low": found.low, "high": found.high, "images": found.n}
    if name in OF_THE_POOL:
        row |= {"low": None, "high": None}
    return row | {"lowest layer": layers.min(), "highest layer": layers.max()}


def _dead(rows: pd.DataFrame) -> dict[str, Any]:
    """Classes that no pixel of any image has, mean over layers."""
    layers = rows.groupby("layer").apply(_never_used, include_groups=False)
    row = {"mean": layers.mean(), "low": None, "high": None, "images": rows["image"].nunique()}
    return row | {"lowest layer": layers.min(), "highest layer": layers.max()}


def _never_used(rows: pd.DataFrame) -> int:
    used, first = 0, rows.iloc[0]
    for bits in rows["used"]:
        used |= int(bits[1:], 16)
    tokens = int(first["dead"]) + int(first["used"][1:], 16).bit_count()
    return tokens - used.bit_count()


def lines(records: Sequence[Record]) -> list[str]:
    """What `analyse sgn` and `analyse prompts` print of one network: a table for each analysis and set."""
    found = []
    for name, summary in SUMMARIES.items():
        own = [record for record in records if record.key["analysis"] == name and len(record.rows)]
        if own:
            whole = pd.DataFrame(summary(own)).rename(columns={"low": "mean low", "high": "mean high"})
            means = [column for column in whole if f"{column} low" in whole]
            for _, frame in whole.groupby("set", sort=False):
                found += text.grid(f"{name}: {own[0].question}", frame, means, DIGITS)
    return found


def to_json(records: Sequence[Record]) -> dict[str, Any]:
    """`rows` (summaries) and `images` (what was measured) of the JSON of these commands; null where there is none."""
    rows = [
        {"analysis": name} | row
        for name, summary in SUMMARIES.items()
        for row in summary([record for record in records if record.key["analysis"] == name])
    ]
    images = [
        {"analysis": record.key["analysis"], "dataset": record.key["dataset"], **row}
        for record in records
        for row in record.rows.drop(columns=["pixels", "environment"]).to_dict("records")
    ]
    return {"rows": _plain(rows), "images": _plain(images)}


def _plain(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With numbers that JSON has: no NaN, none of numpy's."""
    return [
        {
            name: None if pd.isna(value) else getattr(value, "item", lambda own=value: own)()
            for name, value in row.items()
        }
        for row in rows
    ]


SUMMARIES: dict[str, Callable[[Sequence[Record]], Iterator[dict[str, Any]]]] = {
    "sgn-classes": classes,
    "sgn-order": order,
    "prompts": prompts,
}
