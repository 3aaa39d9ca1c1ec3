"""Rows of what was trained here: every variant against the base of its study, paired by seed.

Cells form a study when their configurations differ in variant and seed only; how a variant routes and orders its
prompts belongs to it, though the protocol says it too. The base of a study is the variant of that name; without it
nothing is compared, and the verdict is `no base`. `better` and `worse`: the interval of the difference from the base
excludes zero; else `undecided`. Such rows carry their budget, and are never compared with published scores.
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
BASE = "base"
UNTRAINED = "untrained routing"  # SGN sorts by what only ASE's prompts would train


def rows(cells: pd.DataFrame, store: Store) -> Iterator[dict[str, Any]]:
    """The rows of `cells` (of `store.cells()`), study by study, dataset by dataset, the base first."""
    means = store.means()
    cells = cells.assign(study=cells["config"].map(_study), key=cells["config"].map(_variant))
    settings = _settings(cells)
    for name, study in sorted(cells.groupby("study"), key=lambda item: (item[1]["task"].iloc[0], item[0])):
        variants = [study[study["key"] == key] for key in sorted(study["key"].unique(), key=_base_first)]
        counts = [_parameters(variant, store) for variant in variants]
        for dataset in dict.fromkeys(name for sets in study["test_sets"] for name in sets):
            base = None
            for variant, count in zip(variants, counts, strict=True):
                is_base = base is None and variant["variant"].iloc[0] == BASE
                here = variant.merge(means[means["dataset"] == dataset], on="hash", how="left")
                common = _common(variant, dataset) | {"setting": settings[name]}
                yield common | {"metric": "params"} | count
                scores = {metric: _by_seed(here, metric) for metric in ("psnr", "ssim")}
                for metric, values in scores.items():
                    row = common | {"metric": metric}
                    if values:
                        verdict = {"verdict": "base"} if is_base else _against(base and base[metric], values, metric)
                        yield row | _score(values, variant) | verdict
                    else:
                        yield row | {"verdict": _absence(here)}
                if is_base:
                    base = scores


def _study(config: dict[str, Any]) -> str:
    protocol = {**config["protocol"], **dict.fromkeys(OF_THE_VARIANT)}
    shared = {name: value for name, value in config.items() if name not in ("variant", "seed")}
    return records.key_of({**shared, "protocol": protocol})[:8]


def _settings(cells: pd.DataFrame) -> dict[str, str]:
    """By study: the fields in which the studies of its task differ, as in "batch 8, lr 0.001"; empty for only one."""
    fields: dict[str, dict[str, dict[str, Any]]] = {}
    for row in cells.to_dict("records"):
        config = row["config"]
        protocol = {key: value for key, value in config["protocol"].items() if key not in OF_THE_VARIANT}
        protocol = {f"protocol {key}": value for key, value in protocol.items()}
        sets = {"trained on": config["train_sets"], "scored on": config["test_sets"]}
        fields.setdefault(config["task"], {}).setdefault(row["study"], {**config["budget"], **sets, **protocol})
    result = {}
    for studies in fields.values():
        for name, own in studies.items():
            differ = [key for key in own if any(own[key] != other.get(key) for other in studies.values())]
            result[name] = ", ".join(f"{key} {_text(own[key])}" for key in differ)
    return result


def _text(value: Any) -> str:
    return ("+".join(map(_text, value)) or "none") if isinstance(value, list) else str(value)


def _variant(config: dict[str, Any]) -> str:
    return json.dumps([config["variant"], *(config["protocol"][name] for name in OF_THE_VARIANT)], sort_keys=True)


def _base_first(key: str) -> tuple[Any, ...]:
    variant, *_ = json.loads(key)
    return (variant["name"] != BASE, len(variant["overrides"]), variant["labels"] != "learned", variant["name"])


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
        "note": "; ".join(filter(None, (_untrained(first["overrides"]), _missing(variant)))),
    }


def _untrained(overrides: dict[str, Any]) -> str:
    """The label of a network with SGN but without ASE; empty for others."""
    return UNTRAINED if overrides.get("ase") == "off" and overrides.get("sgn") != "off" else ""


def _parameters(variant: pd.DataFrame, store: Store) -> dict[str, Any]:
    for name in variant[variant["state"] == "done"]["hash"]:
        try:
            count = measured.parameters(store.root / name / "weights.safetensors")
        except StoreError:
            continue  # another seed has as many
        return {"measured": count, "interval": "exact", "evidence": "counted in the trained weights"}
    return {"verdict": _absence(variant)}


def _score(values: dict[int, float], variant: pd.DataFrame) -> dict[str, Any]:
    """Mean over seeds."""
    iterations, budget = variant[["iterations", "budget"]].iloc[0]
    return {
        "measured": mean_interval(list(values.values())).mean,
        "interval": seeds(len(values)),
        "evidence": f"{budget} budget, {iterations} iterations, seeds {', '.join(map(str, sorted(values)))}",
    }


def _against(base: dict[int, float] | None, values: dict[int, float], metric: str) -> dict[str, Any]:
    """The paired difference from the base, and its verdict; `base` None: the study has none."""
    if base is None:
        return {"verdict": "no base"}
    difference = paired_interval(values, base)
    if difference is None:
        return {"verdict": "no seed in common with the base"}
    if difference.low is None or difference.covers_zero:
        verdict = "undecided"
    else:
        verdict = "better" if difference.mean > 0 else "worse"
    return interval_fields(difference, metric) | {"verdict": verdict}


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
