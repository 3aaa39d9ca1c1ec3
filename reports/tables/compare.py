"""Weights against other weights, paired by image: what `runner.py compare` prints.

The weights are fixed, so the unit is the picture, as in `reports.tables.analyses.interventions`: its difference is
taken at the seeds of the routing noise that both have and averaged over them, and a network that draws none is compared
with the mean over the other's seeds. Compared is by the official protocol, or by the only one that both were scored by;
a set that is not whole for both has no mean and no interval. Sets are nearly the same question: nothing is corrected
for their number.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
from tabulate import tabulate

from reports.statistics import verdicts
from reports.statistics.intervals import mean_interval
from reports.tables.analyses.interventions import differences
from reports.tables.paper import is_official
from reports.tables.rows import TableError, machine_text, overrides_text, protocol_text
from reports.tables.steps import network_key, own_arguments
from results.evidence import Evidence
from results.sets import FULL_SETS, place

SHOWN = 5  # images on which two weights differ most, of each set
SHORTEST = 4  # letters of a hash that name weights
OF_NOISE = ("routing", "prompt_order", "samples")  # of a protocol: without meaning for a network that routes nothing
ONLY_THESE = (
    "note: the intervals are over pictures; they hold for these weights, not for the same networks trained again "
    "(`run`, with several seeds)"
)


@dataclass(frozen=True)
class Side:
    """A network with its weights: rows of `Evidence.evaluations`, of every task, set, protocol and seed."""

    entries: list[dict[str, Any]]

    @property
    def label(self) -> str:
        first = self.entries[0]
        name = f"{first['model']} {overrides_text(own_arguments(first['overrides']))}".strip()
        return name if first["weights"] == "none" else f"{name} (weights {first['weights'][:8]})"

    def to_json(self) -> dict[str, Any]:
        first = self.entries[0]
        return {name: first[name] for name in ("model", "overrides", "weights", "file")}


@dataclass(frozen=True)
class Comparison:
    """a against b.

    rows: a dictionary per set: dataset, a, b (mean PSNR, dB), difference (a - b), low, high (95 %), p,
    verdict, images, expected, seeds. images: dataset, image, a, b, difference, the largest first within a set. What has
    no number is None, and the verdict says why. machines: what either was measured on.
    """

    a: Side
    b: Side
    task: str
    protocols: tuple[dict[str, Any], dict[str, Any]]
    rows: list[dict[str, Any]]
    images: list[dict[str, Any]]
    machines: tuple[str, str]

    def lines(self) -> list[str]:
        """What `compare` prints; the last line is the sentence."""
        sides = zip("AB", (self.a, self.b), self.protocols, self.machines, strict=True)
        told = [f"{name}: {side.label}, {how}; {where}" for name, side, how, where in _told(sides)]
        header = ("set", "A, dB", "B, dB", "A - B, 95 %", "images", "verdict")
        cells = [
            [row["dataset"], _number(row["a"]), _number(row["b"]), _interval(row), row["images"], row["verdict"]]
            for row in self.rows
        ]
        most = self.most()
        lines = [*told, "", *_grid(header, cells)]
        if most:
            shown = [[one["dataset"], one["image"], *(_number(one[n]) for n in "ab"), _signed(one)] for one in most]
            lines += ["", "where they differ most:", *_grid(("set", "image", "A, dB", "B, dB", "A - B"), shown)]
        return [*lines, "", ONLY_THESE, self.sentence]

    @property
    def sentence(self) -> str:
        """The result in one sentence: the sets by their verdicts."""
        parts: dict[str, list[str]] = {}
        for row in self.rows:
            known = row["difference"] is not None
            verdict, why = (row["verdict"], f"{_interval(row)} dB") if known else ("not known", row["verdict"])
            parts.setdefault(verdict, []).append(f"{row['dataset']} ({why})")
        said = "; ".join(f"{verdict} on {', '.join(own)}" for verdict, own in parts.items())
        return f"{self.a.label} against {self.b.label}, {self.task}: {said}."

    def to_json(self) -> dict[str, Any]:
        sides = {
            name: side.to_json() | {"protocol": protocol, "machine": machine}
            for name, side, protocol, machine in zip("ab", (self.a, self.b), self.protocols, self.machines, strict=True)
        }
        return {**sides, "task": self.task, "rows": self.rows, "images": self.images, "sentence": self.sentence}

    def most(self) -> list[dict[str, Any]]:
        """The images of each set on which they differ most."""
        sets = (row["dataset"] for row in self.rows)
        return [one for name in sets for one in [each for each in self.images if each["dataset"] == name][:SHOWN]]

    def scored_by(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The protocols with the first seed of the noise that both were scored with."""
        seed = min((seed for row in self.rows for seed in row["seeds"]), default=0)
        return tuple({**one, "seed": seed if one["routing"] == "gumbel" else 0} for one in self.protocols)


def find(evidence: Evidence, text: str, task: str | None = None) -> Side:
    """The weights that `text` names: a model, a file's name, the start of a hash, or several of these, as in tables.

    task: only what was scored on it. Raises TableError when no scored weights fit all words, or several do.
    """
    words = [word.removeprefix("source=") for word in text.replace(",", " ").split() if word != "weights"]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in evidence.evaluations.to_dict("records"):
        if row["labels"] == "learned" and row["task"] == (task or row["task"]):
            groups.setdefault((network_key(row["model"], row["overrides"]), row["weights"]), []).append(row)
    fits = [Side(own) for own in groups.values() if words and all(_fits(own, word) for word in words)]
    if len(fits) == 1:
        return fits[0]
    known = ", ".join(sorted(side.label for side in (fits or map(Side, groups.values())))) or "nothing"
    if fits:
        raise TableError(f"{text!r} fits several weights: add to it what tells them apart, of {known}")
    raise TableError(f"{text!r} is no file, and no scored weights are called so; there are {known}")


def _fits(entries: list[dict[str, Any]], word: str) -> bool:
    hashes = entries[0]["weights"], entries[0]["overrides"].get("source", "")
    return (
        (len(word) >= SHORTEST and any(each.startswith(word) for each in hashes))
        or word == entries[0]["model"]
        or any(word == entry["file"] for entry in entries)
    )


def compare(evidence: Evidence, a: str, b: str, *, sets: Sequence[str] = (), task: str | None = None) -> Comparison:
    """The weights `a` against `b`, named as of `find`. sets: those that both have; task: the only one that both have.

    Raises TableError for names that `find` refuses, for twice the same weights, where the task or the protocol is not
    decided by what both have, and where pictures of one name are not the same pixels.
    """
    ours, base = find(evidence, a, task), find(evidence, b, task)
    if ours == base:
        raise TableError(f"A and B are both {ours.label}: its protocols are compared by `tables sensitivity`")
    task = _task(ours, base, task)
    left, right = (_by_protocol(side, task) for side in (ours, base))
    protocols = _protocol(left, right, task)
    mine, others = left[json.dumps(protocols[0])], right[json.dumps(protocols[1])]
    both = {entry["dataset"] for entry in mine} & {entry["dataset"] for entry in others}
    chosen = list(dict.fromkeys(name.strip() for name in sets)) or sorted(both, key=lambda name: (place(name), name))
    rows, images = [], []
    for dataset in chosen:
        row, frame = _of_set(evidence, dataset, mine, others)
        rows.append(row)
        images += [{"dataset": dataset, "image": name, **own} for name, own in frame.to_dict("index").items()]
    used = [[entry for entry in side if entry["dataset"] in chosen] for side in (mine, others)]
    return Comparison(ours, base, task, protocols, rows, images, tuple(machine_text(each) for each in used))


def _task(ours: Side, base: Side, task: str | None) -> str:
    has = [{entry["task"] for entry in side.entries} for side in (ours, base)]
    both = sorted(has[0] & has[1])
    if task in both or (task is None and len(both) == 1):
        return task or both[0]
    if both:
        raise TableError(f"both were scored on {', '.join(both)}: choose one with --task")
    raise TableError(f"A was scored on {', '.join(sorted(has[0]))}, B on {', '.join(sorted(has[1]))}: no common task")


def _by_protocol(side: Side, task: str) -> dict[str, list[dict[str, Any]]]:
    """Its entries by their protocol without the seed, as JSON."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in side.entries:
        if entry["task"] == task:
            protocol = {name: value for name, value in entry["protocol"].items() if name != "seed"}
            groups.setdefault(json.dumps(protocol), []).append(entry)
    return groups


def _protocol(left: dict[str, Any], right: dict[str, Any], task: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The protocols, without seeds, by which both are compared."""
    pairs = [(json.loads(a), json.loads(b)) for a, b in product(left, right) if _alike(json.loads(a), json.loads(b))]
    names = left[next(iter(left))][0]["model"], right[next(iter(right))][0]["model"]
    official = [
        pair for pair in pairs if all(is_official(*each) for each in zip(pair, (task,) * 2, names, strict=True))
    ]
    found = official or pairs
    if len(found) == 1:
        return found[0]
    said = " and ".join(f"{{{protocol_text(a)}}}" for a, _ in found)
    if found:
        raise TableError(f"both were scored by {said}, and not by the official protocol: score both by it (`evaluate`)")
    raise TableError(
        f"A was scored by {'; '.join(protocol_text(json.loads(each)) for each in left)}; "
        f"B by {'; '.join(protocol_text(json.loads(each)) for each in right)}: no common protocol"
    )


def _alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether scores by both say the same of a network; what only one of the two networks has does not count."""
    apart = OF_NOISE if a["routing"] is None or b["routing"] is None else ()
    return all(a[name] == b[name] for name in a if name not in apart)


def _of_set(
    evidence: Evidence, dataset: str, mine: list[dict[str, Any]], others: list[dict[str, Any]]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The row of a set, and its images, the largest difference first: none where there is no interval."""
    sides = [[entry for entry in side if entry["dataset"] == dataset] for side in (mine, others)]
    full = FULL_SETS.get(dataset, max((entry["expected"] for side in sides for entry in side), default=0))
    row: dict[str, Any] = dict.fromkeys(("dataset", "a", "b", "difference", "low", "high", "p", "verdict", "images"))
    row |= {"dataset": dataset, "expected": full, "seeds": [], "images": 0}
    for name, side in zip("AB", sides, strict=True):
        if not any(entry["complete"] and entry["images"] == full for entry in side):
            most = max((entry["images"] for entry in side), default=0)
            return row | {"verdict": f"{name} has {most} of {full or 'its'} images"}, pd.DataFrame()
    frames, pixels = [], {}
    for side in sides:
        whole = {entry["hash"]: entry for entry in side if entry["complete"] and entry["images"] == full}
        scores = evidence.scores[evidence.scores["hash"].isin(whole)]
        for image, digest in scores[["image", "pixels"]].itertuples(index=False):
            if pixels.setdefault(image, digest) != digest:
                raise TableError(
                    f"{dataset}/{image} is another picture for A than for B, or for another seed: not paired"
                )
        seeds = {name: entry["protocol"]["seed"] if _draws(entry) else -1 for name, entry in whole.items()}
        frames.append(scores.assign(seed=scores["hash"].map(seeds)).pivot(index="image", columns="seed", values="psnr"))
    ours, base = frames
    shared = [seed for seed in ours.columns if seed in base.columns]
    if not shared and -1 not in (*ours.columns, *base.columns):
        return row | {"images": full, "verdict": "no seed of the noise in common"}, pd.DataFrame()
    if shared:
        ours, base = ours[shared], base[shared]
    found = -differences(base, ours) if list(base.columns) == [-1] else differences(ours, base)
    frame = pd.DataFrame({"a": ours.mean(axis=1), "b": base.mean(axis=1), "difference": found})
    row |= {"images": len(frame), "seeds": sorted({int(s) for s in (*ours.columns, *base.columns) if s >= 0})}
    if len(frame) != full or frame.isna().any(axis=None):
        return row | {"verdict": "a picture was restored exactly"}, pd.DataFrame()
    frame = frame.sort_values("difference", key=abs, ascending=False, kind="stable").astype(float)
    interval = mean_interval(frame["difference"].tolist())
    row |= {"a": float(frame["a"].mean()), "b": float(frame["b"].mean()), "difference": interval.mean}
    row |= {"low": interval.low, "high": interval.high, "p": interval.p()}
    return row | {"verdict": verdicts.of_pair(interval, row["p"])}, frame


def _draws(entry: dict[str, Any]) -> bool:
    return entry["protocol"]["routing"] == "gumbel"


def _told(sides: Any) -> Any:
    for name, side, protocol, machine in sides:
        file = next((entry["file"] for entry in side.entries if entry["file"]), None)
        yield name, side, f"{f'{file}, ' if file else ''}{protocol_text(protocol)}", machine


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _signed(row: dict[str, Any]) -> str:
    return f"{row['difference']:+z.3f}"


def _interval(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return "-"
    return _signed(row) if row["low"] is None else f"{_signed(row)} [{row['low']:+z.3f}, {row['high']:+z.3f}]"


def _grid(header: Sequence[str], cells: Sequence[Sequence[Any]]) -> list[str]:
    return tabulate(cells, header, tablefmt="plain", disable_numparse=True).splitlines()
