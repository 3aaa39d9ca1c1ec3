"""Rows of what was trained here: every variant against the base of its study, paired by seed.

Cells form a study when their configurations differ in variant and seed only; how a variant routes and orders its
prompts belongs to it, though the protocol says it too. The base of a study is the variant of that name, else the one
with the fewest overrides. `better` and `worse`: the interval of the difference from the base excludes zero; else
`undecided`. Such rows carry their budget, and are never compared with published scores.
"""

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from reports.rows import interval_fields, protocol_text, seeds
from reports.statistics import mean_interval, paired_interval
from results import measured, records
from results.store import Store, StoreError

OF_THE_VARIANT = ("routing", "prompt_order")  # keys of the protocol


def rows(cells: pd.DataFrame, store: Store) -> Iterator[dict[str, Any]]:
    """The rows of `cells` (of `store.cells()`), study by study, dataset by dataset, the base first."""
    means = store.means()
    cells = cells.assign(study=cells["config"].map(_study), key=cells["config"].map(_variant))
    for _, study in sorted(cells.groupby("study"), key=lambda item: (item[1]["task"].iloc[0], item[0])):
        variants = [study[study["key"] == key] for key in sorted(study["key"].unique(), key=_base_first)]
        counts = [_parameters(variant, store) for variant in variants]
        for dataset in dict.fromkeys(name for sets in study["test_sets"] for name in sets):
            base = None
            for variant, count in zip(variants, counts, strict=True):
                here = variant.merge(means[means["dataset"] == dataset], on="hash", how="left")
                common = _common(variant, dataset)
                yield common | {"metric": "params"} | count
                scores = {metric: _by_seed(here, metric) for metric in ("psnr", "ssim")}
                for metric, values in scores.items():
                    row = common | {"metric": metric}
                    if values:
                        yield row | _score(values, base and base[metric], metric, variant)
                    else:
                        yield row | {"verdict": _absence(here)}
                base = base or scores


def _study(config: dict[str, Any]) -> str:
    protocol = {**config["protocol"], **dict.fromkeys(OF_THE_VARIANT)}
    shared = {name: value for name, value in config.items() if name not in ("variant", "seed")}
    return records.key_of({**shared, "protocol": protocol})[:8]


def _variant(config: dict[str, Any]) -> str:
    return json.dumps([config["variant"], *(config["protocol"][name] for name in OF_THE_VARIANT)], sort_keys=True)


def _base_first(key: str) -> tuple[Any, ...]:
    variant, *_ = json.loads(key)
    return (variant["name"] != "base", len(variant["overrides"]), variant["labels"] != "learned", variant["name"])


def _by_seed(here: pd.DataFrame, metric: str) -> dict[int, float]:
    return {row["seed"]: row[metric] for row in here.to_dict("records") if not pd.isna(row[metric])}


def _common(variant: pd.DataFrame, dataset: str) -> dict[str, Any]:
    first = variant.iloc[0]
    return {
        "method": first["variant"],
        "model": first["model"],
        "overrides": " ".join(
            f"{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in sorted(first["overrides"].items())
        ),
        "task": first["task"],
        "budget": first["budget"],
        "study": first["study"],
        "dataset": dataset,
        "protocol": protocol_text(first["protocol"]),
        "note": _missing(variant),
    }


def _parameters(variant: pd.DataFrame, store: Store) -> dict[str, Any]:
    for name in variant[variant["state"] == "done"]["hash"]:
        try:
            count = measured.parameters(store.root / name / "weights.safetensors")
        except StoreError:
            continue  # another seed has as many
        return {"measured": count, "interval": "exact", "evidence": "counted in the trained weights"}
    return {"verdict": _absence(variant)}


def _score(values: dict[int, float], base: dict[int, float] | None, metric: str, variant: pd.DataFrame) -> dict:
    """Mean over seeds, and the paired difference from the base; `base` None: this is the base."""
    iterations, budget = variant[["iterations", "budget"]].iloc[0]
    row: dict[str, Any] = {
        "measured": mean_interval(list(values.values())).mean,
        "interval": seeds(len(values)),
        "evidence": f"{budget} budget, {iterations} iterations, seeds {', '.join(map(str, sorted(values)))}",
    }
    if base is None:
        return row | {"verdict": "base"}
    difference = paired_interval(values, base)
    if difference is None:
        return row | {"verdict": "no seed in common with the base"}
    if difference.low is None or difference.covers_zero:
        verdict = "undecided"
    else:
        verdict = "better" if difference.mean > 0 else "worse"
    return row | interval_fields(difference, metric) | {"verdict": verdict}


def _absence(cells: pd.DataFrame) -> str:
    """Why there is no number of these cells, in a word or two; `note` has the reasons."""
    if "coverage" in cells and cells["coverage"].notna().any():
        return cells["coverage"].dropna().iloc[0]
    if (cells["state"] == "done").any():
        return "cannot be read"
    return "failed" if cells["state"].isin(("failed", None)).any() else "not run"


def _missing(variant: pd.DataFrame) -> str:
    """How many seeds are missing and why; empty when all are done."""
    missing = variant[variant["state"] != "done"]
    reasons = dict.fromkeys(
        f"{row['state'] or 'damaged'}: {row['reason'] or row['problem'] or 'not started'}"
        for row in missing.to_dict("records")
    )
    return f"{len(missing)} of {seeds(len(variant))} missing ({'; '.join(reasons)})" if reasons else ""
