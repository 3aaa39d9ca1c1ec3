"""Claims about mechanisms, judged by what trained weights lose without them, and by what trainings lose without them.

The first tells what these weights rely on, the second what training with a part gains; neither tells the other. Of
trainings only the paper's budget decides: what was trained for less is said, and leaves them open.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from typing import Any

import pandas as pd

from reports.statistics import verdicts
from reports.statistics.intervals import LEVEL, Interval, mean_interval
from reports.statistics.verdicts import EQUIVALENCE
from reports.tables import index
from reports.tables.analyses import interventions, prompt_quality
from reports.tables.analyses.mechanisms import network_name
from reports.tables.blocks.block import Cell
from reports.tables.blocks.wording import detectable, measured_source, number, published_source
from results import published
from results.analyses import Record
from results.sets import FULL_SETS
from results.store.columns import rows_of

Rows = Sequence[dict[str, Any]]
CONFIRMED, CONTRADICTED, OPEN, NOT_RUN = "confirmed", "contradicted", "open", "not run"
NO_GAIN, UNTRAINED = "nothing gained, untrained", "these weights were not trained with it"
CLAIMED = (
    ("loss", verdicts.COSTS),
    ("gain", verdicts.GAINS),
)  # what a claim expects, and the verdict that bears it out
SMALL = 0.01  # of a cosine and of a share: less is as good as nothing
STEPS = 64  # back in a scan, at which sorted and raster order are compared
STEP_ORDERS = ("network", "raster")


def of_weights(claim: dict[str, Any], frames: dict[str, pd.DataFrame]) -> tuple[list[Cell], str]:
    """What the changes of a claim cost trained weights, on the largest set of each, and what that says of it; no word
    where it names no changes. Smaller sets are counted beside that: few pictures show no equivalence.
    """
    frame = frames.get(interventions.NAME, pd.DataFrame(columns=["method"]))
    rows = [row for row in rows_of(frame) if row["method"] in claim.get("changes", ())]
    rows = [row for row in rows if row["difference"] is not None and row["low"] is not None]
    if not rows:
        return [], NOT_RUN if "changes" in claim else ""
    sizes: dict[tuple[str, str, str], int] = {}
    for row in rows:
        sizes[_key(row)] = max(sizes.get(_key(row), 0), FULL_SETS.get(row["dataset"], 0))
    telling = [row for row in rows if FULL_SETS.get(row["dataset"], 0) == sizes[_key(row)]]
    found: list[list[Cell]] = []
    for (method, network), own in _grouped(telling).items():
        name = f"{method}, {network}" if len(claim["changes"]) > 1 else network
        sets = [[Cell(f"{row['dataset']} "), Cell(_change(row), source=measured_source(row))] for row in own]
        found.append([Cell(f"{name}: "), *_listed(sets, ", ")])
    words = Counter(row["verdict"] for row in rows)
    told = ", ".join(f"{word} on {count}" for word, count in words.most_common())
    word = _word(telling, claim.get("expects", "loss"))
    untrained = [Cell(f"; {UNTRAINED}")] if "expects" in claim else []
    return [*_listed(found), Cell(f"; of {len(rows)} sets: {told}"), *untrained], word


def _grouped(rows: Rows) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By change and network, official weights first; the rest as they come."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: not _weights(row).startswith("official")):
        found.setdefault((row["method"], _weights(row)), []).append(row)
    return found


def _change(row: dict[str, Any]) -> str:
    """A difference in dB with its interval; docs/interventions.md has the median and how many pictures are worse."""
    mean, low, high = (number(row[name], "psnr", signed=True) for name in ("difference", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["method"], row["task"], row["setting"]


def _word(rows: Rows, expects: str) -> str:
    """What rows of a change say: it loses, or gains, where each of the weights does on one of its sets and none does
    the other.

    expects: what a change does if the claim holds: a "loss", or of something put in the place of what these weights
    were trained with, a "gain" or "nothing" that would be better. That it gains nothing then decides neither way: they
    were not trained for it.
    """
    words = Counter(row["verdict"] for row in rows)
    costs, gains, none = (words[name] for name in (verdicts.COSTS, verdicts.GAINS, verdicts.NO_EFFECT))
    if gains or (costs and expects == "loss"):
        wanted = verdicts.GAINS if gains else verdicts.COSTS
        everywhere = {_weights(row) for row in rows if row["verdict"] == wanted} == {_weights(row) for row in rows}
        if not everywhere or (costs and gains):
            return OPEN
        return CONFIRMED if (expects, wanted) in CLAIMED else CONTRADICTED
    if expects == "loss":
        return verdicts.NO_EFFECT if none == len(rows) else OPEN
    return NO_GAIN if none + costs == len(rows) else OPEN


def _weights(row: dict[str, Any]) -> str:
    """Whose weights a row of interventions is of: "official x2", or the name of their file."""
    if known := published.weights_name(row["setting"].removeprefix("weights "), row["task"]):
        return known
    file = str(row["evidence"]).partition("(")[2].partition(")")[0]
    return file.rsplit(".", 1)[0] or row["setting"]


def of_trainings(claim: dict[str, Any], frames: dict[str, pd.DataFrame]) -> tuple[list[Cell], str, list[str]]:
    """What variants that were trained without a part have lost, budget by budget; what that says of the claim, which
    only the paper's budget decides; and the tables."""
    rows = _trained(claim, frames)
    if not rows:
        return [], NOT_RUN if {"variants", "labels"} & claim.keys() else "", []
    budgets = sorted(dict.fromkeys(row["budget"] for row in rows), key=index.BUDGETS.index, reverse=True)
    found = [_of_budget([row for row in rows if row["budget"] == name], name) for name in budgets]
    full = [row for row in rows if row["budget"] == "paper"]
    wrong = sum(row["verdict"] in (verdicts.CONTRADICTS, verdicts.DIFFERS) for row in full)
    sure = sum(row["verdict"] in (verdicts.CONFIRMS, verdicts.WORSE) for row in full)
    word = CONTRADICTED if wrong else CONFIRMED if full and sure == len(full) else OPEN
    return _listed(found), word, budgets


def _trained(claim: dict[str, Any], frames: dict[str, pd.DataFrame]) -> Rows:
    """Rows of PSNR of the claim's variants, in families whose base is the whole network."""
    rows = []
    for frame in frames.values():
        if next(iter(frame["kind"]), "") != "trained":
            continue
        own = [row for row in rows_of(frame) if row["metric"] == "psnr"]
        whole = {
            (row["study"], row["setting"]) for row in own if row["verdict"] == verdicts.BASE and not row["overrides"]
        }
        rows += [row for row in own if (row["study"], row["setting"]) in whole and row["difference"] is not None]
    wanted = [("overrides", pattern) for pattern in claim.get("variants", ())]
    wanted += [("method", label) for label in claim.get("labels", ())]
    rows = [row for row in rows if any(fnmatch(row[column], pattern) for column, pattern in wanted)]
    families = claim.get("families", ["*"])
    rows = [row for row in rows if not row["setting"] or any(fnmatch(row["setting"], f"*{name}*") for name in families)]
    tasks = claim.get("tasks", ["*"])
    return [row for row in rows if any(fnmatch(row["task"], task) for task in tasks)]


def largest_mde(claim: dict[str, Any], frames: dict[str, pd.DataFrame]) -> tuple[Cell, str]:
    """The difference that the trainings of a claim would have found at the worst, and their budgets; "" without one."""
    rows = [row for row in _trained(claim, frames) if row["mde"] is not None]
    if not rows:
        return Cell(), ""
    worst = max(rows, key=lambda row: row["mde"])
    budgets = " and ".join(dict.fromkeys(row["budget"] for row in rows))
    return Cell(f"±{detectable(worst['mde'])} dB", source=measured_source(worst)), budgets


def _of_budget(rows: Rows, budget: str) -> list[Cell]:
    """The variants on the set with the most pictures, and on how many sets they are equivalent to the whole network."""
    sure = [row for row in rows if row["low"] is not None]
    shown = sure or rows
    dataset = max((row["dataset"] for row in shown), key=lambda name: FULL_SETS.get(name, 0))
    last = list({row["overrides"]: row for row in reversed(shown) if row["dataset"] == dataset}.values())[::-1]
    said = [[Cell(f"{row['method']} "), _measured(row)] for row in last]
    found = [Cell(f"{budget}, {dataset}: "), *_listed(said)]
    if sure:
        equal = sum(equivalent(row) for row in sure)
        found.append(Cell(f"; within ±{EQUIVALENCE} dB on {equal} of {len(sure)}"))
        lost = sum(row["verdict"] in (verdicts.WORSE, verdicts.CONFIRMS) for row in sure)
        found.append(Cell(f", worse on {lost}" if lost else ""))
    known = [row["mde"] for row in rows if row["mde"] is not None]
    if known:
        found.append(Cell(f"; {detectable(max(known))} dB would be found"))
    return found


def equivalent(row: dict[str, Any]) -> bool:
    """Whether the 95 % interval of a difference lies within EQUIVALENCE."""
    return verdicts.equivalent((row["low"], row["high"]))


def published_steps(claim: dict[str, Any], rows: Rows) -> list[Cell]:
    """The paper's differences on its first set: of the claim's variants from the base, or of `steps` [one, from]."""
    rows = [row for row in rows if row["metric"] == "psnr" and row["model"]]
    values = {(row["overrides"], row["dataset"]): row for row in rows if published.number(row["published"] or "")}
    first, against = next((dataset for _, dataset in values), None), ""
    wanted = claim.get("variants", ())
    if "steps" in claim:
        against, wanted = claim["steps"][1], claim["steps"][:1]
    found = []
    for (overrides, dataset), row in values.items():
        base = values.get((against, dataset))
        if dataset == first and base is not None and any(fnmatch(overrides, pattern) for pattern in wanted):
            step = published.number(row["published"]) - published.number(base["published"])
            text = f"{row['method']} {step:+.2f} dB on {dataset}"
            found.append([Cell(text, source=published_source(row))])
    return _listed(found)


# Claims that an analysis answers: (records of it, ...) -> (found, word)


def reach(records: Sequence[Record]) -> tuple[list[Cell], str]:
    """Whether more of a scan's output is older than STEPS in sorted order than in raster order: of the state's part.

    Steps are no pixels: where the sorted sequence goes further on the image in a step, it brings far pixels together
    without looking further back.
    """

    def difference(rows: pd.DataFrame) -> pd.Series:
        share = rows[rows["steps"] == STEPS].groupby(["image", "order"])["share"].mean().unstack()
        return share["network"] - share["raster"]

    what = f"part of the state's output from {STEPS} or more steps ago, sorted less raster: "
    found, word = _asked("decay", what, records, difference)
    sorted_, raster = ([_step(record, order) for record in _largest(records, "sgn-order")] for order in STEP_ORDERS)
    if word != CONTRADICTED or not sorted_ or min(sorted_) <= max(raster):
        return found, word
    told = f"; a step goes {_range(sorted_)} pixels, in raster order {_range(raster)}"
    return [*found, Cell(told)], f"{OPEN}: no further back in steps, but steps are longer, as in any shuffle"


def _step(record: Record, order: str) -> float:
    """Mean distance on the image from a pixel to the next one of the sequence, in pixels."""
    rows = record.rows
    return float(rows[(rows["scope"] == "tile") & (rows["steps"] == 1) & (rows["order"] == order)]["distance"].mean())


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def neighbours(records: Sequence[Record]) -> tuple[list[Cell], str]:
    """Whether pixels that follow each other are more alike than in a sequence sorted by the same classes, shuffled."""

    def difference(rows: pd.DataFrame) -> pd.Series:
        own = rows[(rows["scope"] == "tile") & (rows["steps"] == 1)]
        similarity = own.groupby(["image", "order"])["similarity"].mean().unstack()
        return similarity["network"] - similarity["shuffled"]

    return _asked("sgn-order", "cosine of the next pixel, sorted less classes shuffled: ", records, difference)


def redundant(records: Sequence[Record]) -> tuple[list[Cell], str]:
    """How alike directions are with all of their output, and without the skip that they share."""
    found, untrained = [], 0
    for record in _largest(records, "redundancy"):
        untrained += "untrained" in network_name(record)
        whole, state = (mean_interval(record.rows.groupby("image")[way].mean().tolist()) for way in ("whole", "state"))
        text = f"{whole.mean:.3f}, without D u {_bounds(state, 3)}"
        name = f"{network_name(record)} ({record.key['model']}) {record.key['dataset']} "
        found.append([Cell(name), Cell(text, source=_source(record))])
    return _listed(found), f"alike, and so are {untrained} untrained networks" if found else NOT_RUN


def pixels(records: Sequence[Record]) -> tuple[list[Cell], str]:
    """Diffusion indices of local attribution maps, and the difference window by window between a MambaIR and networks
    that were trained like it: weights that neither the authors nor others have published.

    The claim is about published MambaIR. Trainings of our own leave it open.
    """
    asked = [one for one in _largest(records, "lam") if one.key["parameters"]["intervention"] == "unchanged"]
    found = []
    for record in asked:
        name = f"DI of {network_name(record)} on {record.key['dataset']} "
        found.append([Cell(name), Cell(_bounds(mean_interval(_di(record).tolist()), 1), source=_source(record))])
    own = [one for one in asked if published.weights_name(one.key["weights"], one.key["task"]) is None]
    others = [one for one in own if one.key["model"].startswith("mambair-")]
    for one, other in itertools.product([one for one in own if one not in others], others):
        difference = (_di(one) - _di(other)).dropna()
        if len(difference) and all(one.key[name] == other.key[name] for name in ("task", "dataset")):
            text = _bounds(mean_interval(difference.tolist()), 1, signed=True)
            name = f"{network_name(one)} less {network_name(other)} "
            found.append([Cell(name), Cell(text, source=_source(one))])
    why = "MambaIR was asked as trained here alone" if others else "no trained MambaIR was asked"
    return _listed(found), f"{OPEN}: {why}" if found else NOT_RUN


def _di(record: Record) -> pd.Series:
    """The diffusion index by image, the mean over seeds."""
    return record.rows.groupby("image")["di"].mean()


def correlated(frame: pd.DataFrame | None) -> tuple[list[Cell], str]:
    """Qualities of prompts that go with PSNR over trained cells after Holm's correction, or the one that does most."""
    rows = [] if frame is None else [row for row in rows_of(frame) if row["low"] is not None]
    if not rows:
        return [], NOT_RUN
    dataset = max((row["dataset"] for row in rows), key=lambda name: FULL_SETS.get(name, 0))
    rows = [row for row in rows if row["dataset"] == dataset]
    sure = [row for row in rows if row["p"] < 1 - LEVEL]
    shown = sure or sorted(rows, key=lambda row: -abs(row["measured"]))[:1]
    found = [
        [Cell(f"{row['metric']} "), Cell(f"r = {row['measured']:+.2f} {row['interval']}", source=measured_source(row))]
        for row in shown
    ]
    word = f"{OPEN}: {len(sure)} of {len(rows)} qualities go with PSNR on {dataset}"
    return _listed(found), word


QUALITY = prompt_quality.NAME
ASKED = {"decay": reach, "sgn-order": neighbours, "redundancy": redundant, "lam": pixels}


def _asked(name: str, what: str, records: Sequence[Record], difference: Any) -> tuple[list[Cell], str]:
    """`difference` (rows -> one number per image) of each network on its largest set. The claim is that it is above
    zero: confirmed where every interval is, contradicted where every interval ends below SMALL."""
    found, intervals = [], []
    for record in _largest(records, name):
        own = mean_interval(difference(record.rows).dropna().tolist())
        intervals.append(own)
        text = Cell(_bounds(own, 4, signed=True), source=_source(record))
        found.append([Cell(f"{network_name(record)} {record.key['dataset']} "), text])
    if not found:
        return [], NOT_RUN
    sure = [own for own in intervals if own.low is not None]
    above, below = (sum(test(own) for own in sure) for test in (lambda own: own.low > 0, lambda own: own.high < SMALL))
    word = CONTRADICTED if below == len(intervals) else CONFIRMED if above == len(intervals) else OPEN
    return [Cell(what), *_listed(found)], word


def _largest(records: Sequence[Record], name: str) -> list[Record]:
    """The whole records of an analysis, that of the largest set of each network (trained ones first)."""
    found: dict[tuple[str, ...], Record] = {}
    for record in records:
        if record.key["analysis"] == name and record.complete:
            key = record.key["model"], record.key["weights"], str(record.key["parameters"].get("intervention"))
            if key not in found or record.expected > found[key].expected:
                found[key] = record
    return sorted(found.values(), key=lambda one: ("untrained" in network_name(one), network_name(one)))


def _bounds(interval: Interval, digits: int, signed: bool = False) -> str:
    """Mean with its interval, as text."""
    sign = "+" if signed else ""

    def text(value: float) -> str:
        return f"{value:{sign}z.{digits}f}"

    if interval.low is None:
        return text(interval.mean)
    return f"{text(interval.mean)} [{text(interval.low)}, {text(interval.high)}] n={interval.n}"


def _source(record: Record) -> str:
    last = list(record.environments.values())[-1]
    return f"{last.get('device')}, commit {str(last.get('commit'))[:8]}; `{last.get('command')}`"


def _measured(row: dict[str, Any]) -> Cell:
    text = f"{number(row['difference'], 'psnr', signed=True)} dB {row['interval'] or ''}".strip()
    return Cell(text, source=measured_source(row))


def _listed(parts: Iterable[list[Cell]], between: str = "; ") -> list[Cell]:
    """The pieces of each part, with `between` in between."""
    pieces = [piece for part in parts for piece in (Cell(between), *part)]
    return pieces[1:]
