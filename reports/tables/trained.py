"""Rows of what was trained here: every variant against the base of its family, paired by seed.

A family is what the store says (`Store.families`): one base and its variants at one budget. Cells that no family names
stand together where their configurations differ in variant and seed only (how a variant routes and orders its prompts
belongs to it, though the protocol says it too), and the variant called `base` is their base.

Differences, pooled variance and Holm: `reports.statistics.intervals`; the verdict: `verdicts.of_difference`, on the
published difference where the paper has the same two networks on the same whole set. Scores themselves are never
compared with published ones."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import lru_cache
from typing import Any

import pandas as pd

from reports.statistics import verdicts
from reports.statistics.intervals import Difference, against_base, holm, mean_interval
from reports.tables.rows import COLUMNS, interval_fields, machine_text, made_by, overrides_text, protocol_text, units
from reports.tables.steps import Step, network_key
from results import records
from results.evidence import Evidence
from results.sets import FULL_SETS
from results.store.columns import rows_of

OF_THE_VARIANT = ("routing", "prompt_order")  # keys of the protocol
BASE, WHOLE = "base", "whole network"
OF_THE_NETWORK = ("model", "overrides", "protocol", "measured", "evidence", "made_by")  # columns, not of a difference
UNTRAINED = "untrained routing"  # SGN sorts by what only ASE's prompts would train
METRICS = ("psnr", "ssim")
NOISY = 1.5  # times the family's standard error: then the note gives the variant's own interval
OUTSIDE = "no family of this store names it"
Steps = Mapping[tuple[str, ...], Step]


def rows(budget: str, evidence: Evidence, published: Steps) -> Iterator[dict[str, Any]]:
    """The rows of all cells of `budget`, family by family, dataset by dataset, in the family's own order."""
    for group, setting in _groups(budget, evidence):
        for dataset in _sets(group):
            yield from _dataset(group, setting, dataset, evidence, published)


def pairs(
    budget: str, evidence: Evidence, published: Steps, pair: tuple[str, str], families: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Rows of PSNR of one network less another of its group.

    Whichever way round a pair is read, it is judged in one table: that of the group where its base is one of the two,
    with that table's p, else that of the group with the earlier of the two as the base.

    pair: patterns of their arguments as `overrides_text` writes them; "" is the network without any, and a sort key
    from elsewhere is `labels=kmeans`. families: parts of the names of those that are asked, and cells that no family
    names always are. A row has besides its own arguments (`one`), and those (`other`) and the name (`against`) of the
    network that it is less.
    """
    known = frozenset(published.items())
    for number, (group, _) in enumerate(_groups(budget, evidence)):
        if group.family and not any(fnmatch(group.family, f"*{name}*") for name in families):
            continue
        named = _finished(budget, evidence, number)
        ones, others = ([key for key, name in named.items() if fnmatch(name, pattern)] for pattern in pair)
        for other, one in ((other, one) for other in others for one in ones if one != other):
            base = group.base if group.base in (one, other) else next(key for key in named if key in (one, other))
            table = _against_one(budget, evidence, number, base, base == one, known)
            labels = [group.members[key] for key in (one, other)]
            told = {"one": named[one], "other": named[other], "against": _named(named[other], labels[1])}
            for ours, theirs in ([rows[label] for label in labels] for rows in table):
                row = ours if base == other else theirs | {name: ours.get(name) for name in OF_THE_NETWORK}
                if row.get("difference") is not None:
                    yield dict.fromkeys(COLUMNS) | row | told | {"method": _named(named[one], labels[0])}


@lru_cache(maxsize=64)
def _finished(budget: str, evidence: Evidence, number: int) -> dict[str, str]:
    """Of the group `number` the members that have a finished cell, by their arguments."""
    group, _ = _groups(budget, evidence)[number]
    first = group.cells[group.cells["state"] == "done"].drop_duplicates("member").set_index("member")
    return {key: _arguments(first.loc[key]) for key in group.members if key in first.index}


@lru_cache(maxsize=256)
def _against_one(
    budget: str,
    evidence: Evidence,
    number: int,
    base: str,
    turned: bool,
    published: frozenset[tuple[tuple[str, ...], Step]],
) -> list[dict[str, dict[str, Any]]]:
    """Per set the rows of PSNR of all finished members of the group `number` against `base`, by label, made once:
    several claims compare with the same network. turned: as in `Group`."""
    group, setting = _groups(budget, evidence)[number]
    members = {key: group.members[key] for key in _finished(budget, evidence, number)}
    group = replace(group, base=base, members=members, turned=turned)
    tables = (_dataset(group, setting, each, evidence, dict(published), ("psnr",)) for each in _sets(group))
    return [{row["method"]: row for row in rows if row["metric"] == "psnr"} for rows in tables]


def _named(arguments: str, label: str) -> str:
    """What a network of a pair is called; its label in the family, where it is not the whole one."""
    return label.replace(", ", " (") + ")" * label.count(", ") if arguments else WHOLE


def _arguments(cell: pd.Series) -> str:
    text = overrides_text(cell["overrides"])
    return text if cell["labels"] == "learned" else f"{text} labels={cell['labels']}".strip()


@lru_cache(maxsize=16)
def _groups(budget: str, evidence: Evidence) -> list[tuple["Group", str]]:
    """Every group of a budget, with its setting, made once."""
    groups = [*_families(budget, evidence), *_studies(budget, evidence)]
    return list(zip(groups, _settings(groups), strict=True))


def _sets(group: "Group") -> list[str]:
    return list(dict.fromkeys(name for row in rows_of(group.cells) for name in row["test_sets"]))


@dataclass(frozen=True)
class Group:
    """What is compared with one base. cells: of `Evidence.cells`, with `member`, its key here.

    members: what each is called, in order. base: key of the base, None without one. turned: whether differences are
    the base less the others.
    """

    name: str
    family: str
    cells: pd.DataFrame
    members: dict[str, str]
    base: str | None
    outside: bool = False
    turned: bool = False


def _families(budget: str, evidence: Evidence) -> Iterator[Group]:
    frame = evidence.families[evidence.families["budget"] == budget]
    for (suite, family, name), part in frame.groupby(["suite", "family", "comparison"], sort=True):
        part = part.assign(
            member=[f"{order} {label}" for order, label in zip(part["order"], part["label"], strict=True)]
        )
        cells = part[["hash", "member"]].dropna().merge(evidence.cells, on="hash")
        if cells.empty:
            continue
        base = part[part["is_base"].astype(bool)]["member"]
        title = family if family == suite else f"{suite}, {family}"
        yield Group(name, title, cells, dict(zip(part["member"], part["label"], strict=True)), next(iter(base), None))


def _studies(budget: str, evidence: Evidence) -> Iterator[Group]:
    cells = evidence.cells[evidence.cells["budget"] == budget]
    cells = cells.assign(study=cells["config"].map(_study), member=cells["config"].map(_variant))
    named = set(evidence.families["hash"].dropna())
    outside = ~cells["hash"].isin(named)
    known = cells["study"].isin(cells[~outside]["study"])
    for name, study in sorted(cells.groupby("study"), key=lambda item: (item[1]["task"].iloc[0], item[0])):
        if not outside[study.index].any():
            continue
        study = study[outside[study.index] | (study["variant"] == BASE)]
        keys = sorted(study["member"].unique(), key=_base_first)
        labels = {key: json.loads(key)[0]["name"] for key in keys}
        base = keys[0] if labels[keys[0]] == BASE else None
        yield Group(name, "", study, labels, base, bool(known[study.index].any()))


def _study(config: dict[str, Any]) -> str:
    protocol = {**config["protocol"], **dict.fromkeys(OF_THE_VARIANT)}
    shared = {name: value for name, value in config.items() if name not in ("variant", "seed", "initial")}
    if (weights := _started(config)) is not None:
        shared["initial"] = weights
    return records.key_of({**shared, "protocol": protocol})[:8]


def _started(config: dict[str, Any]) -> str | None:
    """Hash of the weights that a cell starts from, None where they are the initial values of its seed."""
    return (config.get("initial") or {}).get("weights")


def _variant(config: dict[str, Any]) -> str:
    return json.dumps([config["variant"], *(config["protocol"][name] for name in OF_THE_VARIANT)], sort_keys=True)


def _base_first(key: str) -> tuple[Any, ...]:
    variant, *_ = json.loads(key)
    return (variant["name"] != BASE, len(variant["overrides"]), variant["labels"] != "learned", variant["name"])


def _settings(groups: list[Group]) -> list[str]:
    """Per group its family, and the fields in which it differs from others of its family and task: "batch 8"."""
    fields = []
    for group in groups:
        config = group.cells["config"].iloc[0]
        protocol = {key: value for key, value in config["protocol"].items() if key not in OF_THE_VARIANT}
        protocol = {f"protocol {key}": value for key, value in protocol.items()}
        sets = {"trained on": config["train_sets"], "scored on": config["test_sets"]}
        weights = _started(config)
        started = {"started from": f"weights {weights[:8]}" if weights else "initial values"}
        fields.append({**config["budget"], **sets, **started, **protocol})
    kinds = [(group.family, group.cells["task"].iloc[0]) for group in groups]
    result = []
    for own, kind, group in zip(fields, kinds, groups, strict=True):
        others = [other for other, its in zip(fields, kinds, strict=True) if its == kind]
        differ = [key for key in own if any(own[key] != other.get(key) for other in others)]
        texts = [group.family, *(f"{key} {_text(own[key])}" for key in differ)]
        result.append(", ".join(filter(None, texts)))
    return result


def _text(value: Any) -> str:
    return ("+".join(map(_text, value)) or "none") if isinstance(value, list) else str(value)


def _dataset(
    group: Group, setting: str, dataset: str, evidence: Evidence, published: Steps, metrics: Sequence[str] = METRICS
) -> Iterator[dict[str, Any]]:
    """The rows of one group on one dataset: parameters and `metrics` of every member."""
    means = evidence.means
    joined = group.cells.merge(means[means["dataset"] == dataset], on="hash", how="left")
    parts = {key: joined[joined["member"] == key] for key in group.members}
    scores = {
        metric: {key: values for key, part in parts.items() if (values := _by_seed(part, metric))} for metric in metrics
    }
    verdicts_of = {metric: _against(group, dataset, metric, scores[metric], parts, published) for metric in scores}
    for key, part in parts.items():
        common = {"kind": "trained", "method": group.members[key], "study": group.name, "setting": setting}
        if part.empty:
            first = group.cells.iloc[0]
            common |= {"task": first["task"], "budget": first["budget"], "dataset": dataset, "model": ""}
            common |= {"overrides": "", "protocol": "", "note": "not one of its cells is stored"}
            yield from (common | {"metric": metric, "verdict": "not run"} for metric in ("params", *metrics))
            continue
        common |= _common(part, dataset, group.outside and part["variant"].iloc[0] != BASE)
        yield common | {"metric": "params"} | _parameters(part, evidence)
        for metric in metrics:
            row = common | {"metric": metric}
            if key not in scores[metric]:
                yield row | {"verdict": _absence(part)}
                continue
            values = verdicts_of[metric][key]
            note = "; ".join(filter(None, (common["note"], values.get("note"))))
            yield row | _score(scores[metric][key], part) | values | {"note": note}


def _by_seed(part: pd.DataFrame, metric: str) -> dict[int, float]:
    return {row["seed"]: row[metric] for row in rows_of(part) if not pd.isna(row[metric])}


def _common(part: pd.DataFrame, dataset: str, outside: bool) -> dict[str, Any]:
    first = part.iloc[0]
    notes = (OUTSIDE if outside else "", _untrained(first["overrides"]), _missing(part))
    return {
        "model": first["model"],
        "overrides": overrides_text(first["overrides"]),
        "task": first["task"],
        "budget": first["budget"],
        "dataset": dataset,
        "protocol": protocol_text(first["protocol"]),
        "note": "; ".join(filter(None, notes)),
    }


def _untrained(overrides: dict[str, Any]) -> str:
    """The label of a network with SGN but without ASE; empty for others."""
    return UNTRAINED if overrides.get("ase") == "off" and overrides.get("sgn") != "off" else ""


def _parameters(part: pd.DataFrame, evidence: Evidence) -> dict[str, Any]:
    for name in part[part["state"] == "done"]["hash"]:
        count = evidence.parameters(name)
        if count is not None:  # else another seed has as many
            return {"measured": count, "interval": "exact", "evidence": "counted in the trained weights"}
    return {"verdict": _absence(part)}


def _score(values: dict[int, float], part: pd.DataFrame) -> dict[str, Any]:
    """Mean over seeds."""
    iterations, budget = part[["iterations", "budget"]].iloc[0]
    scored = part.dropna(subset="dataset").iloc[0]
    images, full = scored["images"], FULL_SETS.get(scored["dataset"])
    partly = f", on {images} of its {full} images" if full not in (None, images) else ""
    used = rows_of(part[part["seed"].isin(values)])
    return {
        "made_by": made_by(used),
        "measured": mean_interval(list(values.values())).mean,
        "interval": units(len(values)),
        "evidence": f"{budget} budget, {iterations} iterations, seeds {', '.join(map(str, sorted(values)))}{partly}; "
        + machine_text(used),
    }


def _against(
    group: Group,
    dataset: str,
    metric: str,
    scores: dict[str, dict[int, float]],
    parts: dict[str, pd.DataFrame],
    published: Steps,
) -> dict[str, dict[str, Any]]:
    """For every member with scores: its difference from the base, its interval, p, MDE and verdict."""
    if group.base not in scores:
        return {key: {"verdict": "no base"} for key in scores}
    differences, steps = against_base(scores, group.base), {}
    for key, difference in differences.items():
        pair = (parts[key], parts[group.base])
        if group.turned:
            differences[key], pair = -difference, pair[::-1]
        if (step := _step(*pair, dataset, metric, published)) is not None:
            steps[key] = step
    p_zero = holm({key: p for key, difference in differences.items() if (p := difference.interval.p()) is not None})
    p_size = holm(
        {
            key: p
            for key, step in steps.items()
            if (p := differences[key].interval.p(step.value - step.resolution, step.value + step.resolution))
            is not None
        }
    )
    result = {group.base: {"verdict": verdicts.BASE}}
    for key in scores.keys() - {group.base}:
        if key in differences:
            step = steps.get(key)
            values = _difference(differences[key], metric, p_zero.get(key), p_size.get(key), step)
            if values["verdict"] == verdicts.INCONCLUSIVE:
                values["mde"] = differences[key].detectable(len(differences))
                if step is not None and (needed := differences[key].seeds_for(step.value, len(differences))):
                    needs = f"{units(needed)} would find the published {step.text}"
                    values["note"] = "; ".join(filter(None, (values.get("note"), needs)))
            result[key] = values
        else:
            result[key] = {"verdict": "no seed in common with the base"}
    return result


def _difference(
    difference: Difference, metric: str, p: float | None, p_size: float | None, step: Step | None
) -> dict[str, Any]:
    mean = difference.interval.mean
    verdict = verdicts.of_difference(mean, p, step and step.value, p_size)
    result = interval_fields(difference.interval, metric) | {"p": p, "verdict": verdict}
    own, shared = difference.own, difference.interval
    result |= {"own_low": own.low, "own_high": own.high}
    if own.error is not None and shared.error is not None and own.error > NOISY * shared.error:
        bounds = interval_fields(own, metric)["interval"]
        result["note"] = f"scatters over {NOISY} times as much as its family, by itself {bounds}"
    if step is not None:
        result |= {"published": step.text, "provenance": step.provenance, "source": step.source}
    return result


def _step(ours: pd.DataFrame, base: pd.DataFrame, dataset: str, metric: str, published: Steps) -> Step | None:
    """The published difference of the same two networks, tested alike, on the same whole set."""
    if set(ours["labels"]) | set(base["labels"]) != {"learned"}:
        return None
    if not (pd.concat([ours["images"], base["images"]]).dropna() == FULL_SETS.get(dataset)).all():
        return None
    tested = [[part["protocol"].iloc[0][name] for name in OF_THE_VARIANT] for part in (ours, base)]
    keys = [network_key(part["model"].iloc[0], part["overrides"].iloc[0]) for part in (ours, base)]
    if tested[0] != tested[1] or keys[0] == keys[1]:
        return None
    return published.get((*keys, ours["task"].iloc[0], dataset, metric))


def _absence(part: pd.DataFrame) -> str:
    """Why there is no number of these cells, in a word or two; `note` has the reasons."""
    if "coverage" in part and part["coverage"].notna().any():
        return part["coverage"].dropna().iloc[0]
    if (part["state"] == "done").any():
        return "cannot be read"
    if part["state"].isin(("failed", None)).any():
        return "failed"
    return "unfinished" if any(map(_begun, part.to_dict("records"))) else "not run"


def _missing(part: pd.DataFrame) -> str:
    """How many seeds are missing and why; empty when all are done."""
    missing = part[part["state"] != "done"]
    reasons = dict.fromkeys(map(_reason, rows_of(missing)))
    return f"{len(missing)} of {units(len(part))} missing ({'; '.join(reasons)})" if reasons else ""


def _begun(row: dict[str, Any]) -> bool:
    return row["state"] in ("planned", "running") and not pd.isna(row["step"]) and row["step"] > 0


def _reason(row: dict[str, Any]) -> str:
    """Why a cell has no scores."""
    if _begun(row):
        return f"unfinished: {int(row['step']):,} of {row['iterations']:,} iterations"
    return f"{row['state'] or 'damaged'}: {row['reason'] or row['problem'] or 'not started'}"
