"""Published differences between networks that were trained alike: what an ablation's variants are held against."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from results import published

TASK_ARGUMENTS = {"upscale", "upsampler", "in_chans"}  # they follow from the task


@dataclass(frozen=True)
class Step:
    """A published difference between two variants: as text, as a number, how exactly two printed scores give it."""

    text: str
    value: float
    resolution: float
    provenance: str
    source: str


def network_key(model: str, overrides: Mapping[str, Any]) -> str:
    """A network apart from its task, as a string."""
    return json.dumps([model, own_arguments(overrides)], sort_keys=True)


def own_arguments(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Those that the task does not say."""
    return {name: value for name, value in overrides.items() if name not in TASK_ARGUMENTS}


def steps(tables: Mapping[str, pd.DataFrame]) -> dict[tuple[str, ...], Step]:
    """The published differences between networks trained alike, of the tables whose weights were never released.

    Keys: (network_key of the variant, of the base, task, dataset, metric); the first table that has both counts.
    """
    found: dict[tuple[str, ...], Step] = {}
    for name, frame in tables.items():
        scored = frame[(frame["weights"] == "none") & (frame["model"] != "") & frame["metric"].isin(("psnr", "ssim"))]
        alike = scored.groupby(["task", "iterations", "dataset", "metric"], sort=False)
        for (task, _, dataset, metric), part in alike:
            known = [row for row in part.to_dict("records") if published.number(row["value"]) is not None]
            for ours in known:
                for base in known:
                    key = (_network(ours), _network(base), task, dataset, metric)
                    found.setdefault(key, _step(ours, base, name))
    return found


def _network(row: dict[str, str]) -> str:
    return network_key(row["model"], published.parse_overrides(row["overrides"]))


def _step(ours: dict[str, str], base: dict[str, str], table: str) -> Step:
    value = published.number(ours["value"]) - published.number(base["value"])
    resolution = max(published.last_place(row["value"]) for row in (ours, base))  # half a digit of either
    digits = max(len(row["value"].partition(".")[2]) for row in (ours, base))
    provenance = "primary" if {ours["provenance"], base["provenance"]} == {"primary"} else ours["provenance"]
    return Step(f"{value:+z.{digits}f}", value, resolution, provenance, f"{table}: {ours['value']} - {base['value']}")
