"""What trained weights use: one thing changed in a loaded network, every picture scored with and without it.

The weights are fixed, so the unit is the picture: its difference is taken at the seeds of the routing noise that both
have, and averaged over them; a change after which nothing is drawn is compared with the mean over the seeds of the
unchanged network. Both sides are of one machine, since another's float32 differs in the last digits: where records of a
store and committed ones know both, those are taken that share one, with most seeds, and the same commit where they can.
The interval is of the mean over the pictures of a set, by Hall's transformation, because losses have a long tail: a few
pictures lose much, most little. Holm's correction runs over what answers one question on one set. A set that is not
whole has no mean and no interval.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from reports.statistics import verdicts
from reports.statistics.intervals import Interval, holm, skewed_interval
from reports.tables.rows import interval_fields, machine_text, overrides_text, protocol_text
from reports.tables.steps import own_arguments
from results.analyses import Record
from results.evidence import Evidence
from results.sets import FULL_SETS
from results.store.columns import rows_of

NAME, UNCHANGED = "interventions", "unchanged"
CAPTION = (
    "What trained weights use: differences in PSNR from the unchanged network after one change, paired over pictures "
    "and seeds of the routing noise"
)
NEEDS = "no trained network was changed (runner.py analyse interventions)"
COLUMNS = (
    *("model", "overrides", "weights", "file", "task", "protocol", "intervention", "question", "text", "dataset"),
    *("psnr", "difference", "low", "high", "p", "median", "worse", "verdict", "images", "expected", "seeds"),
    *("scatter", "noise", "machines"),
)
QUESTIONS = ("prompts", "routing", "order", "scan", "memory", "memory in raster order", "parts")  # as tables show them
BY = ["model", "overrides", "weights", "task", "protocol", "dataset"]


def rows(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """The rows of the table: PSNR and its difference, a row per network, intervention and set."""
    for row in rows_of(compared(evidence)):
        weights = f"weights {row['weights'][:8]}"
        origin = f"{weights} ({row['file']})" if row["file"] else weights
        made = {"kind": NAME, "metric": "psnr", "budget": "", "size": "", "method": row["intervention"]}
        made |= {name: row[name] for name in ("model", "task", "dataset", "p", "verdict")}
        made |= {"overrides": overrides_text(own_arguments(row["overrides"]))}
        made |= {"study": row["question"], "setting": weights, "measured": row["psnr"]}
        if row["low"] is not None:
            interval = Interval(row["difference"], row["low"], row["high"], row["images"], row["images"] - 1)
            made |= interval_fields(interval, "psnr", "image") | {"median": row["median"], "worse": row["worse"]}
            made["interval"] += f", median {row['median']:+z.3f}, {row['worse']} worse"
        seeds = f"Gumbel seeds {', '.join(map(str, row['seeds']))}" if row["seeds"] else "no noise"
        made |= {"note": row["text"], "protocol": _protocol(row)}
        yield made | {"evidence": f"{origin}, {seeds}; {row['machines']}"}


def known(evidence: Evidence) -> bool:
    """Whether there is anything to show."""
    return any(record.key["analysis"] == NAME for record in evidence.analyses)


def _protocol(row: dict[str, Any]) -> str:
    return protocol_text({name: value for name, value in row["protocol"].items() if name != "seed"})


@lru_cache(maxsize=4)
def compared(evidence: Evidence) -> pd.DataFrame:
    """`compare` of all that is stored and committed, made once."""
    return compare(evidence.copies)


def compare(records: Sequence[Record]) -> pd.DataFrame:
    """A row per network, intervention and set, with COLUMNS; the unchanged network first.

    psnr: mean over pictures and seeds, dB; difference, low, high: from the unchanged network with its 95 % interval,
    dB; p: Holm's, of no difference; median: of the pictures' differences, dB; worse: how many of them are below 0;
    images of expected; seeds: those that are compared; scatter: standard deviation of the pictures' differences; noise:
    that of a picture's difference between seeds, RMS over pictures; machines: of both sides of the difference. What has
    no number is None, and the verdict says why. records: copies of one hash, from several machines, may be among them.
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


@dataclass(frozen=True)
class Part:
    """What one machine measured of a record. scores: PSNR by image and seed; one column, named -1, where nothing is
    drawn."""

    record: Record
    machine: dict[str, Any]
    scores: pd.DataFrame

    @property
    def place(self) -> tuple[Any, Any]:
        return self.machine["device"], self.machine.get("backend")

    @property
    def name(self) -> str:
        return self.record.key["parameters"]["intervention"]

    @property
    def whole(self) -> bool:
        return len(self.scores) == self.record.expected and not np.isnan(self.scores.to_numpy()).any()


def _parts(record: Record) -> Iterator[Part]:
    machines = {label: {"device": None, "commit": None} | one for label, one in record.environments.items()}
    places = {label: (one["device"], one.get("backend")) for label, one in machines.items()}
    for place in dict.fromkeys(places.values()):
        labels = [label for label, own in places.items() if own == place]
        rows = record.rows
        if len(labels) < len(places):
            rows = rows[rows["environment"].isin(labels).to_numpy()]
        yield Part(record, machines[labels[-1]], scores_of(rows))


def scores_of(rows: pd.DataFrame) -> pd.DataFrame:
    """PSNR by image and seed, both ascending (`Part.scores`); NaN where there is none."""
    image, images = pd.factorize(rows["image"].to_numpy(), sort=True)
    seed, seeds = pd.factorize(rows["seed"].to_numpy(dtype=int, na_value=-1), sort=True)
    scores = np.full((len(images), len(seeds)), np.nan)
    scores[image, seed] = rows["psnr"].to_numpy(dtype=float, na_value=np.nan)
    return pd.DataFrame(scores, index=images, columns=seeds)


def _pair(parts: Sequence[Part], bases: Sequence[Part]) -> tuple[Part, Part | None]:
    """Of one intervention the part, and of the unchanged network that of the same machine, that have most in common:
    images first, then seeds, then the commit."""
    pairs = [(part, base) for part in parts for base in bases if part.place == base.place]
    if not pairs:
        return max(parts, key=lambda part: part.scores.size), None
    if len(pairs) == 1:
        return pairs[0]

    def common(pair: tuple[Part, Part]) -> tuple[Any, ...]:
        part, base = pair
        found = differences(part.scores, base.scores)
        seeds = len(_seeds(part.scores, base.scores)) or base.scores.shape[1]  # without noise all of the base's count
        return found.notna().sum(), seeds, part.machine["commit"] == base.machine["commit"]

    return max(pairs, key=common)


def _of_set(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """The rows of one network on one set."""
    parts: dict[str, list[Part]] = {}
    for record in sorted(records, key=_place):
        for part in _parts(record):
            parts.setdefault(part.name, []).append(part)
    bases = parts.get(UNCHANGED, [])
    pairs = {name: _pair(own, bases) for name, own in parts.items()}
    found = {name: _differences(*pair) for name, pair in pairs.items() if name != UNCHANGED}
    found = {name: own for name, own in found.items() if own is not None}
    intervals = {name: skewed_interval(own.tolist()) for name, own in found.items()}
    questions: dict[str, dict[str, float]] = {}
    for name, interval in intervals.items():
        if (p := interval.p()) is not None:
            questions.setdefault(pairs[name][0].record.key["parameters"]["question"], {})[name] = p
    corrected = {name: p for own in questions.values() for name, p in holm(own).items()}
    for name, (part, base) in pairs.items():
        own, interval = part.scores, intervals.get(name)
        row = dict.fromkeys(COLUMNS) | _about(part)
        row |= {"images": len(own), "expected": part.record.expected}
        row["seeds"] = _seeds(own, None if base is None else base.scores)
        row["machines"] = machine_text([part.machine] if interval is None else [part.machine, base.machine])
        row["psnr"] = float(own.to_numpy().mean()) if part.whole else None
        if interval is not None:
            row |= {"difference": interval.mean, "low": interval.low, "high": interval.high, "p": corrected.get(name)}
            values = found[name].to_numpy()
            row |= {"median": float(np.median(values)), "worse": int((values < 0).sum())}
            row |= {"scatter": float(values.std(ddof=1)) if len(values) > 1 else None, "noise": noise(own, base.scores)}
            row["verdict"] = verdicts.of_change(interval, corrected.get(name))
        elif not part.whole:
            row["verdict"] = f"{len(own)} of {part.record.expected} images"
        elif name == UNCHANGED:
            row["verdict"] = verdicts.BASE
        else:
            row["verdict"] = verdicts.APART if base is None and bases else verdicts.NO_BASE
        yield row


def _differences(part: Part, base: Part | None) -> pd.Series | None:
    """By image; None unless every image of the set has one."""
    if base is None or len(part.scores) != part.record.expected:
        return None
    found = differences(part.scores, base.scores)
    return found if found.notna().all() else None


def _place(record: Record) -> tuple[Any, ...]:
    """The unchanged network, the questions of QUESTIONS, others, layers; numbers in names by their size."""
    name, question = (record.key["parameters"][each] for each in ("intervention", "question"))
    known = QUESTIONS.index(question) if question in QUESTIONS else len(QUESTIONS)
    parts = re.split(r"(\d+(?:\.\d+)?)", name)
    natural = [(float(part), "") if number % 2 else (0.0, part) for number, part in enumerate(parts)]
    return name != UNCHANGED, known + question.startswith("layers"), question, natural


def _about(part: Part) -> dict[str, Any]:
    row = {name: part.record.key[name] for name in BY}
    row |= {"text": part.record.question, "file": part.machine.get("file")}
    return row | {name: part.record.key["parameters"][name] for name in ("intervention", "question")}


def differences(changed: pd.DataFrame, base: pd.DataFrame) -> pd.Series:
    """By image, dB: the mean over the seeds that both have, or with the mean of all where `changed` draws none.

    Images that lack a seed of another image have no difference (NaN).
    """
    if list(changed.columns) == [-1]:
        base = base if changed.index.equals(base.index) else base.reindex(changed.index)
        return pd.Series(changed[-1].to_numpy() - base.to_numpy().mean(axis=1), index=changed.index)
    values = _by_seed(changed, base)
    return pd.Series(values.mean(axis=1) if values.size else np.nan, index=changed.index)


def _by_seed(changed: pd.DataFrame, base: pd.DataFrame) -> np.ndarray:
    """The differences [images of `changed`, seeds that both have], dB; NaN where one of both is missing."""
    if not changed.index.equals(base.index):
        base = base.reindex(changed.index)
    places = base.columns.get_indexer(changed.columns)
    return changed.to_numpy()[:, places >= 0] - base.to_numpy()[:, places[places >= 0]]


def noise(changed: pd.DataFrame, base: pd.DataFrame) -> float | None:
    """dB: how much a picture's difference scatters between seeds, the root of the mean variance over pictures; None
    where fewer than two seeds are paired."""
    values = _by_seed(changed, base)
    return float(values.var(axis=1, ddof=1).mean() ** 0.5) if values.shape[1] > 1 else None


def _seeds(changed: pd.DataFrame, base: pd.DataFrame | None) -> list[int]:
    return [int(seed) for seed in changed.columns if seed >= 0 and (base is None or seed in base.columns)]


def lines(found: pd.DataFrame) -> list[str]:
    """What `analyse interventions` prints: a line per intervention and set."""
    if found.empty:
        return []
    shown = []
    for dataset, rows in found.groupby("dataset", sort=False):
        own = [
            [row["intervention"], *_numbers(row), "" if row["verdict"] == verdicts.BASE else row["verdict"]]
            for row in rows.to_dict("records")
        ]
        header = (dataset, "dB, 95 % over images", "median", "worse", "")
        shown += ["", *tabulate(own, header, tablefmt="plain", disable_numparse=True).splitlines()]
    return shown


def _numbers(row: dict[str, Any]) -> tuple[str, str, str]:
    """Difference with its interval, median and share of images that are worse; the unchanged network's PSNR."""
    if row["difference"] is None:
        return ("" if row["psnr"] is None else f"{row['psnr']:.4f}"), "", ""
    change = f"{row['difference']:+z.4f}"
    if row["low"] is not None:
        change += f" [{row['low']:+z.4f}, {row['high']:+z.4f}]"
    return change, f"{row['median']:+z.4f}", f"{row['worse']} of {row['images']}"


def to_json(found: pd.DataFrame, records: Sequence[Record]) -> dict[str, Any]:
    """`rows` and `images` of the JSON of `analyse interventions` (a number that is not there is null)."""
    keys = ("intervention", "question", "dataset", "psnr", "difference", "low", "high", "verdict", "images", "seeds")
    keys += ("median", "worse")
    images = []
    for record in records:
        about = {"intervention": record.key["parameters"]["intervention"], "dataset": record.key["dataset"]}
        for row in record.rows.itertuples():
            psnr, seed = (None if pd.isna(value) else value for value in (row.psnr, row.seed))
            images.append({**about, "image": row.image, "seed": None if seed is None else int(seed), "psnr": psnr})
    rows = [{name: row[name] for name in keys} for row in found.to_dict("records")]
    return {"rows": rows, "images": images}
