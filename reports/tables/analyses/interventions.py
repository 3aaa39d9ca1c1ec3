"""What trained weights use: one thing changed in a loaded network, every picture scored with and without it.

The weights are fixed, so the unit is the picture: its difference is taken at the seeds of the routing noise that both
have, and averaged over them; a change after which nothing is drawn is compared with the mean over the seeds of the
unchanged network. The interval is Student's over the pictures of a set; Holm's correction runs over what answers one
question on one set. A set that is not whole has no mean and no interval.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from reports.statistics import verdicts
from reports.statistics.intervals import Interval, holm, mean_interval
from reports.tables.rows import interval_fields, machine_text, overrides_text, protocol_text
from reports.tables.steps import own_arguments
from results.analyses import Record
from results.evidence import Evidence
from results.sets import FULL_SETS

NAME, UNCHANGED = "interventions", "unchanged"
CAPTION = (
    "What trained weights use: differences in PSNR from the unchanged network after one change, paired over pictures "
    "and seeds of the routing noise"
)
NEEDS = "no trained network was changed (runner.py analyse interventions)"
COLUMNS = (
    *("model", "overrides", "weights", "file", "task", "protocol", "intervention", "question", "text", "dataset"),
    *("psnr", "difference", "low", "high", "p", "verdict", "images", "expected", "seeds", "machines"),
)
QUESTIONS = ("prompts", "routing", "order", "scan", "memory", "memory in raster order", "parts")  # as tables show them
BY = ["model", "overrides", "weights", "task", "protocol", "dataset"]


def rows(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """The rows of the table: PSNR and its difference, a row per network, intervention and set."""
    for row in compare(evidence.analyses).to_dict("records"):
        weights = f"weights {row['weights'][:8]}"
        origin = f"{weights} ({row['file']})" if row["file"] else weights
        made = {"kind": NAME, "metric": "psnr", "budget": "", "size": "", "method": row["intervention"]}
        made |= {name: row[name] for name in ("model", "task", "dataset", "p", "verdict")}
        made |= {"overrides": overrides_text(own_arguments(row["overrides"]))}
        made |= {"study": row["question"], "setting": weights, "measured": row["psnr"]}
        if row["low"] is not None:
            interval = Interval(row["difference"], row["low"], row["high"], row["images"], row["images"] - 1)
            made |= interval_fields(interval, "psnr", "image")
        seeds = f"Gumbel seeds {', '.join(map(str, row['seeds']))}" if row["seeds"] else "no noise"
        made |= {"note": row["text"], "protocol": _protocol(row)}
        yield made | {"evidence": f"{origin}, {seeds}; {row['machines']}"}


def known(evidence: Evidence) -> bool:
    """Whether there is anything to show."""
    return any(record.key["analysis"] == NAME for record in evidence.analyses)


def _protocol(row: dict[str, Any]) -> str:
    return protocol_text({name: value for name, value in row["protocol"].items() if name != "seed"})


def compare(records: Sequence[Record]) -> pd.DataFrame:
    """A row per network, intervention and set, with COLUMNS; the unchanged network first.

    psnr: mean over pictures and seeds, dB; difference, low, high: from the unchanged network with its 95 % interval,
    dB; p: Holm's, of no difference; images of expected; seeds: those that are compared; machines: of both sides of the
    difference. What has no number is None, and the verdict says why.
    """
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.key["analysis"] == NAME:
            groups.setdefault(str([record.key[name] for name in BY]), []).append(record)
    sets = sorted(groups.values(), key=lambda own: [str(own[0].key[name]) for name in BY[:-1]] + [_set(own[0])])
    rows = [row for own in sets for row in _of_set(own)]
    return pd.DataFrame([[row[name] for name in COLUMNS] for row in rows], columns=list(COLUMNS), dtype=object)


def _set(record: Record) -> str:
    """By which sets are in their usual order, others after them."""
    name = record.key["dataset"]
    return f"{list(FULL_SETS).index(name) if name in FULL_SETS else len(FULL_SETS):02} {name}"


def _of_set(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """The rows of one network on one set."""
    names = {record.key["parameters"]["intervention"]: record for record in sorted(records, key=_place)}
    scores = _scores(names)
    base = scores.get(UNCHANGED)
    intervals: dict[str, Interval] = {}
    questions: dict[str, dict[str, float]] = {}
    for name, record in names.items():
        if base is not None and name != UNCHANGED and record.complete and len(base) == record.expected:
            found = differences(scores[name], base)
            if len(found) == record.expected and found.notna().all():
                intervals[name] = mean_interval(found.tolist())
                if (p := intervals[name].p()) is not None:
                    questions.setdefault(record.key["parameters"]["question"], {})[name] = p
    corrected = {name: p for own in questions.values() for name, p in holm(own).items()}
    for name, record in names.items():
        own, interval = scores[name], intervals.get(name)
        row = dict.fromkeys(COLUMNS) | _about(record)
        row |= {"images": len(own), "expected": record.expected, "seeds": _seeds(own, base)}
        compared = [record] if interval is None else [record, names[UNCHANGED]]
        row["machines"] = machine_text([_last(one) for one in compared])
        whole = record.complete and own.notna().all(axis=None)
        row["psnr"] = float(own.mean(axis=1).mean()) if whole else None
        if interval is not None:
            row |= {"difference": interval.mean, "low": interval.low, "high": interval.high, "p": corrected.get(name)}
            row["verdict"] = verdicts.of_change(interval, corrected.get(name))
        elif not whole:
            row["verdict"] = f"{len(own)} of {record.expected} images"
        else:
            row["verdict"] = verdicts.BASE if name == UNCHANGED else verdicts.NO_BASE
        yield row


def _place(record: Record) -> tuple[Any, ...]:
    """The unchanged network, the questions of QUESTIONS, others, layers; numbers in names by their size."""
    name, question = (record.key["parameters"][each] for each in ("intervention", "question"))
    known = QUESTIONS.index(question) if question in QUESTIONS else len(QUESTIONS)
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    natural = [(float(part), "") if number % 2 else (0.0, part) for number, part in enumerate(parts)]
    return name != UNCHANGED, known + question.startswith("layers"), question, natural


def _about(record: Record) -> dict[str, Any]:
    row = {name: record.key[name] for name in BY} | {"text": record.question, "file": _last(record).get("file")}
    row |= {name: record.key["parameters"][name] for name in ("intervention", "question")}
    return row


def _last(record: Record) -> dict[str, Any]:
    """The environment that measured the last of its rows."""
    found = list(record.environments.values())[-1]
    return found | {name: found.get(name) for name in ("device", "commit")}


def _scores(records: Mapping[str, Record]) -> dict[str, pd.DataFrame]:
    """By intervention: PSNR by image and seed; one column, named -1, where nothing is drawn."""
    frame = pd.concat([record.rows for record in records.values()], ignore_index=True)
    frame["intervention"] = np.repeat(list(records), [len(record.rows) for record in records.values()])
    frame["seed"] = frame["seed"].fillna(-1).astype(int)
    wide = frame.pivot(index="image", columns=["intervention", "seed"], values="psnr")  # of all images at once
    return {name: wide.loc[np.unique(record.rows["image"]), name] for name, record in records.items()}


def differences(changed: pd.DataFrame, base: pd.DataFrame) -> pd.Series:
    """By image, dB: the mean over the seeds that both have, or with the mean of all where `changed` draws none.

    Images that lack a seed of another image have no difference (NaN).
    """
    seeds = [seed for seed in changed.columns if seed in base.columns]
    if list(changed.columns) == [-1]:
        return changed[-1] - base.mean(axis=1, skipna=False)
    return (changed[seeds] - base[seeds]).mean(axis=1, skipna=False) if seeds else changed.mean(axis=1) * float("nan")


def _seeds(changed: pd.DataFrame, base: pd.DataFrame | None) -> list[int]:
    return [int(seed) for seed in changed.columns if seed >= 0 and (base is None or seed in base.columns)]


def lines(found: pd.DataFrame) -> list[str]:
    """What `analyse interventions` prints: a line per intervention and set."""
    if found.empty:
        return []
    shown = []
    for row in found.to_dict("records"):
        half = "" if row["low"] is None else f"{row['difference']:+z.4f} [{row['low']:+z.4f}, {row['high']:+z.4f}]"
        psnr = "-" if row["psnr"] is None else f"{row['psnr']:.4f}"
        shown.append([row["dataset"], row["intervention"], psnr, half, row["verdict"]])
    header = ("set", "intervention", "PSNR, dB", "difference, 95 %", "verdict")
    return tabulate(shown, header, tablefmt="plain", disable_numparse=True).splitlines()


def to_json(found: pd.DataFrame, records: Sequence[Record]) -> dict[str, Any]:
    """`rows` and `images` of the JSON of `analyse interventions` (a number that is not there is null)."""
    keys = ("intervention", "question", "dataset", "psnr", "difference", "low", "high", "verdict", "images", "seeds")
    images = []
    for record in records:
        about = {"intervention": record.key["parameters"]["intervention"], "dataset": record.key["dataset"]}
        for row in record.rows.itertuples():
            psnr, seed = (None if pd.isna(value) else value for value in (row.psnr, row.seed))
            images.append({**about, "image": row.image, "seed": None if seed is None else int(seed), "psnr": psnr})
    rows = [{name: row[name] for name in keys} for row in found.to_dict("records")]
    return {"rows": rows, "images": images}
