"""What the protocol is worth: one network with fixed weights, scored under other protocols than the official one.

The weights are fixed, so the unit is the image: the difference of a setting from the official protocol is taken picture
by picture, and its interval over the pictures of a set is that of `interventions` (`skewed_interval`, for losses have a
long tail). Where the setting draws routing noise, the pairs are of equal Gumbel seeds; where it draws none, the
official score of a picture is its mean over the seeds. Where the pairs are of some of the official seeds only, the
official mean over those has a row of its own. Holm's correction runs over the settings of one set. A set that is not
whole has no mean and no interval.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from reports.statistics import verdicts
from reports.statistics.intervals import holm, skewed_interval
from reports.tables.rows import interval_fields, machine_text, made_by, protocol_text
from reports.tables.steps import network_key
from results.evidence import Evidence
from results.sets import FULL_SETS, official_protocol
from results.store.columns import rows_of

NAME = "sensitivity"
CAPTION = (
    "What the protocol is worth: differences in PSNR from the official protocol (Gumbel routing, one sample, tiles of "
    "about 200 pixels), the same weights, paired over the pictures of a set"
)
NEEDS = "no weights are scored by a protocol other than the official one (runner.py sweep)"
OFFICIAL = "Gumbel, tiles (official)"
WHOLE = "Gumbel, whole image"
IDENTICAL = "identical"  # as whole images and tiles are where no picture is larger than a tile
_ROUTING = {"gumbel": "Gumbel", "argmax": "argmax"}
_LEFT_OUT = "seed"


def rows(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """The rows of every network that was scored under the official protocol and under another one."""
    records = evidence.evaluations
    records = records[records["weights"].notna() & (records["weights"] != "none") & (records["labels"] == "learned")]
    if records.empty:
        return
    records = records.assign(
        network=[network_key(*pair) for pair in zip(records["model"], records["overrides"], strict=True)],
        setting=[setting(*pair) for pair in zip(records["task"], records["protocol"], strict=True)],
    )
    images = dict(list(evidence.scores[evidence.scores["source"] == "evaluation"].groupby("hash")))
    for (_, weights, task), own in records.groupby(["network", "weights", "task"], sort=True):
        if set(own["setting"]) > {OFFICIAL}:
            for dataset in sorted(own["dataset"].unique(), key=_natural):
                yield from _dataset(own[own["dataset"] == dataset], images, f"weights {weights[:8]}", task, dataset)


def whole_pictures(evidence: Evidence) -> list[dict[str, Any]]:
    """What whole pictures score beside tiles, classes drawn in both: the rows of `results.costs.whole.TILING`."""
    return [
        {name: row[name] for name in ("model", "task", "dataset")}
        | {"weights": row["setting"].removeprefix("weights "), "pictures": row["df"] + 1}
        | {name: round(row[of], 6) for name, of in (("psnr", "difference"), ("low", "low"), ("high", "high"))}
        for row in rows(evidence)
        if row["method"] == WHOLE and row["metric"] == "psnr" and row["verdict"] != IDENTICAL and row.get("df")
    ]


def known(evidence: Evidence) -> bool:
    """Whether there is anything to show."""
    return next(rows(evidence), None) is not None


def setting(task: str, protocol: Mapping[str, Any]) -> str:
    """A protocol's name: OFFICIAL, or routing and tiling where they differ, then what else does ("argmax, tiles")."""
    official = official_protocol(task)
    odd = {name: value for name, value in protocol.items() if name in official and value != official[name]}
    if not odd:
        return OFFICIAL
    parts = []
    if odd.keys() & {"routing", "samples", "tiling"}:
        routing, samples = protocol["routing"], protocol["samples"]
        parts.append(f"mean of {samples}" if samples != 1 else _ROUTING.get(routing, str(routing)))
        tiling = {"official": "tiles", "none": "whole image"}
        parts.append(tiling.get(str(protocol["tiling"]), f"tiles of {protocol['tiling']}"))
    parts += [_other(name, value) for name, value in odd.items() if name not in ("routing", "samples", "tiling")]
    return ", ".join(parts)


def _other(name: str, value: Any) -> str:
    makers = {"once": "LR rounded once", "pil": "LR by Pillow"}
    words = {
        "lr_route": makers.get(value, f"LR by {value}"),
        "prompt_order": f"{value} prompts",
        "precision": str(value),
    }
    return words.get(name, f"{name} {value}")


def _natural(dataset: str) -> tuple[int, str]:
    order = list(FULL_SETS)
    return (order.index(dataset) if dataset in order else len(order), dataset)


def _order(name: str, protocol: Mapping[str, Any]) -> tuple[Any, ...]:
    """The official protocol, then routing crossed with tiling, then the others one at a time."""
    others = name != OFFICIAL and not name.endswith(("tiles", "whole image"))
    routing = ("gumbel", "argmax").index(protocol["routing"]) if protocol["routing"] in _ROUTING else 2
    return (name != OFFICIAL, others, routing, protocol["samples"], str(protocol["tiling"]) != "official", name)


def _dataset(
    own: pd.DataFrame, images: Mapping[str, pd.DataFrame], origin: str, task: str, dataset: str
) -> Iterator[dict[str, Any]]:
    """The rows of one network on one set: every setting, PSNR and SSIM."""
    first = own.iloc[0]
    full = FULL_SETS.get(dataset, first["expected"])
    settings = {name: part for name, part in own.groupby("setting")}
    settings = dict(sorted(settings.items(), key=lambda item: _order(item[0], item[1]["protocol"].iloc[0])))
    for metric in ("psnr", "ssim"):
        whole = {name: _whole(part, images, metric, full) for name, part in settings.items()}
        base = whole.get(OFFICIAL, {})
        pairs = {name: _pairs(settings[name], seeds, base) for name, seeds in whole.items() if name != OFFICIAL}
        intervals = {
            name: skewed_interval((_mean(whole[name], seeds) - _mean(base, seeds)).tolist())
            for name, seeds in pairs.items()
            if seeds
        }
        alike = {name for name, interval in intervals.items() if interval.mean == interval.error == 0}
        p_values = holm({name: p for name in intervals if name not in alike and (p := intervals[name].p()) is not None})
        for name, part in settings.items():
            seeds = whole[name]
            row = _common(part, origin, task, dataset, metric)
            if not seeds:
                yield row | {"verdict": f"{max(part['images'])} of {full} images"}
                continue
            row |= _scored(part, seeds, origin)
            if part["protocol"].iloc[0]["samples"] != 1 and metric == "psnr":
                row["note"] = f"single samples {_single(part, images, full):.3f} dB"
            if name == OFFICIAL:
                spread = np.std([each.mean() for each in seeds.values()], ddof=1) if len(seeds) > 1 else None
                note = f"sd {spread:.4f} dB between the seeds" if spread is not None and metric == "psnr" else None
                yield row | {"verdict": verdicts.BASE, "note": note}
                for some, names in _bases(pairs, settings, base).items():
                    every = names == [each for each in pairs if pairs[each] and _draws(settings[each])]
                    note = f"the base of {'all settings that draw noise' if every else '; '.join(names)}"
                    own = row | {"method": f"{OFFICIAL}, {_seeds_text(some)}", "verdict": verdicts.BASE, "note": note}
                    yield own | _scored(part, {seed: base[seed] for seed in some}, origin)
            elif name in intervals:
                if _draws(part) and len(pairs[name]) < len(seeds):
                    row["note"] = "; ".join(filter(None, (row.get("note"), f"compared at {_seeds_text(pairs[name])}")))
                p, interval = p_values.get(name), intervals[name]
                verdict = IDENTICAL if name in alike else verdicts.of_difference(interval.mean, p)
                yield row | interval_fields(interval, metric, "image") | {"p": p, "verdict": verdict}
            elif base:
                yield row | {"verdict": f"no official score at Gumbel {_seeds_text(seeds)}"}
            else:
                yield row | {"verdict": "no whole set under the official protocol"}


def _common(part: pd.DataFrame, origin: str, task: str, dataset: str, metric: str) -> dict[str, Any]:
    """What the row of a setting says whether or not it has a score."""
    first = part.iloc[0]
    row = {"kind": NAME, "method": first["setting"], "model": first["model"], "overrides": "", "task": task}
    row |= {"budget": "", "study": "", "setting": origin, "dataset": dataset, "size": "", "metric": metric}
    return row | {"protocol": protocol_text({k: v for k, v in first["protocol"].items() if k != _LEFT_OUT})}


def _scored(part: pd.DataFrame, seeds: dict[int, pd.Series], origin: str) -> dict[str, Any]:
    """The mean over pictures and seeds, and where it was measured."""
    used = [one for one in rows_of(part) if one["protocol"]["seed"] in seeds]
    noise = f"Gumbel {_seeds_text(seeds)}" if _draws(part) else "no noise"
    mean = float(pd.concat(seeds.values()).mean())
    return {"measured": mean, "evidence": f"{origin}, {noise}; {machine_text(used)}", "made_by": made_by(used)}


def _bases(
    pairs: Mapping[str, list[int]], settings: Mapping[str, pd.DataFrame], base: Mapping[int, pd.Series]
) -> dict[tuple[int, ...], list[str]]:
    """Of which of the official seeds a mean is the base of which settings; without the mean of all."""
    found: dict[tuple[int, ...], list[str]] = {}
    for name, seeds in pairs.items():
        if seeds and _draws(settings[name]) and len(seeds) < len(base):
            found.setdefault(tuple(seeds), []).append(name)
    return found


def _draws(part: pd.DataFrame) -> bool:
    """Whether a setting draws routing noise."""
    return part["protocol"].iloc[0]["routing"] == "gumbel"


def _seeds_text(seeds: Collection[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))}"


def _whole(part: pd.DataFrame, images: Mapping[str, pd.DataFrame], metric: str, full: int) -> dict[int, pd.Series]:
    """Scores by image, per Gumbel seed whose set is whole and has no missing score."""
    found = {}
    for row in rows_of(part):
        scores = images.get(row["hash"])
        if row["complete"] and row["images"] == full and scores is not None and scores[metric].notna().all():
            found[row["protocol"]["seed"]] = scores.set_index("image")[metric].astype(float).sort_index()
    return found


def _single(part: pd.DataFrame, images: Mapping[str, pd.DataFrame], full: int) -> float:
    """Mean PSNR of the single samples behind a mean of samples."""
    return float(pd.concat(_whole(part, images, "psnr_single", full).values()).mean())


def _pairs(part: pd.DataFrame, ours: dict[int, pd.Series], base: dict[int, pd.Series]) -> list[int]:
    """The seeds that are compared: those that both have where the setting draws noise, else all; none for nothing."""
    seeds = ours.keys() & base.keys() if _draws(part) else ours.keys() | base.keys()
    return sorted(seeds) if ours and base else []


def _mean(scores: dict[int, pd.Series], seeds: list[int]) -> pd.Series:
    """By image, over those of `seeds` that are there."""
    return sum(chosen := [scores[seed] for seed in seeds if seed in scores]) / len(chosen)
