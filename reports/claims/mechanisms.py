"""Claims about mechanisms, judged by what trained weights lose without them and by what these do (`analyse`).

It tells what these weights rely on; what training with a part gains is told by `reports.claims.trainings`. Weights that
go on from others are shown, and are no witness beside those.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from reports.claims.words import CONFIRMED, CONTRADICTED, NOT_RUN, OPEN, listed
from reports.statistics import verdicts
from reports.statistics.intervals import LEVEL, Interval, mean_interval
from reports.tables.analyses import interventions, prompt_quality
from reports.tables.analyses.mechanisms import PAPER_SIMILARITY, network_name
from reports.tables.blocks.block import Cell
from reports.tables.blocks.wording import measured_source, number
from results import measured, published
from results.analyses import Record
from results.sets import FULL_SETS
from results.store.columns import rows_of

Rows = Sequence[dict[str, Any]]
NOT_COUNTED = " (not counted)"
NO_GAIN, UNTRAINED = "nothing gained, untrained", "these weights were not trained with it"
CLAIMED = (
    ("loss", verdicts.COSTS),
    ("gain", verdicts.GAINS),
)  # what a claim expects, and the verdict that bears it out
KINDS = ("trained", "untrained")
PAPER = "paper"  # the budget
SMALL = 0.01  # of a cosine and of a share: less is as good as nothing
STEPS = 64  # back in a scan, at which sorted and raster order are compared
STEP_ORDERS = ("network", "shuffled", "raster")
SMALL_STEP = 1.0  # pixels: distances of steps that differ by less are alike


def of_weights(claim: dict[str, Any], frames: dict[str, pd.DataFrame]) -> tuple[list[Cell], str]:
    """What the changes of a claim cost trained weights, on the largest set of each, and what that says of it; no word
    where it names no changes. Smaller sets are counted beside that: few pictures show no equivalence. Weights that go
    on from others and such as were trained for less are shown, but neither counted nor judged by.
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
    witnesses = [row for row in rows if _witness(_start(row))]
    found: list[list[Cell]] = []
    for (method, network), own in _grouped(telling).items():
        name = f"{method}, {network}" if len(claim["changes"]) > 1 else network
        name += "" if own[0] in witnesses else NOT_COUNTED
        sets = [[Cell(f"{row['dataset']} "), Cell(_change(row), source=measured_source(row))] for row in own]
        found.append([Cell(f"{name}: "), *listed(sets, ", ")])
    words = Counter(row["verdict"] for row in witnesses)
    told = ", ".join(f"{word} on {count}" for word, count in words.most_common())
    word = _word([row for row in telling if row in witnesses], claim.get("expects", "loss"))
    untrained = [Cell(f"; {UNTRAINED}")] if "expects" in claim else []
    return [*listed(found), Cell(f"; of {len(witnesses)} sets: {told}"), *untrained], word


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
    if not rows:
        return OPEN
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


def _start(row: dict[str, Any]) -> str:
    """The start of the hash of the weights that a row of interventions is of."""
    return row["setting"].removeprefix("weights ")


def _witness(start: str) -> bool:
    """Whether the weights whose hash begins so speak for the paper: not those that go on from others', and none of a
    committed cell that was trained by another budget than the paper's."""
    less = any(name.startswith(start) and budget != PAPER for name, budget in measured.budgets().items())
    return published.goes_on(start) is None and not less


def _weights(row: dict[str, Any]) -> str:
    """Whose weights a row of interventions is of: "official x2", or the name of their file."""
    if known := published.weights_name(_start(row), row["task"]):
        return known
    file = str(row["evidence"]).partition("(")[2].partition(")")[0]
    return file.rsplit(".", 1)[0] or row["setting"]


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
    if word != CONTRADICTED:
        return found, word
    asked = {one.key["weights"] for one in _largest(records, "decay")}
    told, longer, shuffled = [], [], []
    for record in (one for one in _largest(records, "sgn-order") if one.key["weights"] in asked):
        steps = _steps(record)
        means = steps[list(STEP_ORDERS)].mean()
        away = mean_interval((steps["network"] - steps["shuffled"]).tolist())
        text = "{:.0f} pixels sorted, {:.0f} sorted by classes shuffled, {:.0f} in raster order".format(*means)
        told.append([Cell(_named(record)), Cell(text, source=_source(record))])
        if _witness(record.key["weights"]):
            longer.append(means["network"] > means["raster"])
            shuffled.append(away.low is not None and max(-away.low, away.high) <= SMALL_STEP)
    if not longer or not all(longer):
        return found, word
    why = "no further back in steps, but steps are longer"
    why += f", as long as with classes shuffled (within {SMALL_STEP:.0f} pixel)" if all(shuffled) else ""
    return [*found, Cell("; a step goes: "), *listed(told)], f"{OPEN}: {why}"


def _steps(record: Record) -> pd.DataFrame:
    """Mean distance on the image from a pixel to the next one of the sequence, in pixels: by image and order."""
    rows = record.rows[(record.rows["scope"] == "tile") & (record.rows["steps"] == 1)]
    return rows.groupby(["image", "order"])["distance"].mean().unstack()


def neighbours(records: Sequence[Record]) -> tuple[list[Cell], str]:
    """Whether pixels that follow each other are more alike than in a sequence sorted by the same classes, shuffled."""

    def difference(rows: pd.DataFrame) -> pd.Series:
        own = rows[(rows["scope"] == "tile") & (rows["steps"] == 1)]
        similarity = own.groupby(["image", "order"])["similarity"].mean().unstack()
        return similarity["network"] - similarity["shuffled"]

    return _asked("sgn-order", "cosine of the next pixel, sorted less classes shuffled: ", records, difference)


def redundant(records: Sequence[Record]) -> tuple[list[Cell], str]:
    """How alike directions are with all of their output, and without the skip that they share."""
    found, above = [], {False: [], True: []}
    for record in _largest(records, "redundancy"):
        whole, state = (mean_interval(record.rows.groupby("image")[way].mean().tolist()) for way in ("whole", "state"))
        text = f"{whole.mean:.3f}, without D u {_bounds(state, 3)}"
        name = f"{record.key['model']}, {_named(record)}"
        found.append([Cell(name), Cell(text, source=_source(record))])
        if _witness(record.key["weights"]):
            above["untrained" in network_name(record)].append(whole.mean > PAPER_SIMILARITY)
    told = [f"{sum(own)} of {len(own)} {word} networks" for own, word in zip(above.values(), KINDS, strict=True) if own]
    return listed(found), f"above {PAPER_SIMILARITY}: {', '.join(told)}" if found else NOT_RUN


def pixels(records: Sequence[Record], cells: pd.DataFrame) -> tuple[list[Cell], str]:
    """Diffusion indices of local attribution maps, and the difference window by window between a MambaIR and networks
    that were trained like it: cells (rows of `Evidence.cells`) of one budget, seed and training set.

    The claim is about published MambaIR. Trainings of our own leave it open.
    """
    asked = [one for one in _largest(records, "lam") if one.key["parameters"]["intervention"] == "unchanged"]
    found = []
    for record in asked:
        name = f"DI of {network_name(record)} on {record.key['dataset']} "
        found.append([Cell(name), Cell(_bounds(mean_interval(_di(record).tolist()), 1), source=_source(record))])
    trained = {row["weights"]: row for row in rows_of(cells) if row["state"] == "done"}
    own = [one for one in asked if one.key["weights"] in trained]
    others = [one for one in own if one.key["model"].startswith("mambair-")]
    pairs = 0
    for one, other in itertools.product([one for one in own if one not in others], others):
        difference = (_di(one) - _di(other)).dropna()
        if len(difference) and _how(one, trained) == _how(other, trained):
            text = _bounds(mean_interval(difference.tolist()), 1, signed=True)
            name = f"{network_name(one)} less {network_name(other)} "
            found.append([Cell(name), Cell(text, source=_source(one))])
            pairs += 1
    why = "no trained MambaIR was asked" if not others else "MambaIR was asked as trained here alone"
    why = why if pairs or not others else "no network that was trained like the MambaIR was asked"
    return listed(found), f"{OPEN}: {why}" if found else NOT_RUN


def _how(record: Record, trained: dict[str, dict[str, Any]]) -> tuple[Any, ...]:
    """What the cell of a record must share with another's to have been trained like it, and the pictures asked."""
    cell = trained[record.key["weights"]]
    return cell["config"]["budget"], cell["train_sets"], cell["seed"], record.key["task"], record.key["dataset"]


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
    return listed(found), word


QUALITY, LAM = prompt_quality.NAME, "lam"
ASKED = {"decay": reach, "sgn-order": neighbours, "redundancy": redundant}


def _asked(name: str, what: str, records: Sequence[Record], difference: Any) -> tuple[list[Cell], str]:
    """`difference` (rows -> one number per image) of each network on its largest set. The claim is that it is above
    zero: confirmed where every interval is, contradicted where every interval ends below SMALL; weights that are no
    witness are not asked for that."""
    found, intervals = [], []
    for record in _largest(records, name):
        own = mean_interval(difference(record.rows).dropna().tolist())
        intervals += [own] if _witness(record.key["weights"]) else []
        found.append([Cell(_named(record)), Cell(_bounds(own, 4, signed=True), source=_source(record))])
    if not intervals:
        return [Cell(what), *listed(found)] if found else [], OPEN if found else NOT_RUN
    sure = [own for own in intervals if own.low is not None]
    above, below = (sum(test(own) for own in sure) for test in (lambda own: own.low > 0, lambda own: own.high < SMALL))
    word = CONTRADICTED if below == len(intervals) else CONFIRMED if above == len(intervals) else OPEN
    return [Cell(what), *listed(found)], word


def _largest(records: Sequence[Record], name: str) -> list[Record]:
    """The whole records of an analysis, that of the largest set of each network (trained ones first)."""
    found: dict[tuple[str, ...], Record] = {}
    for record in records:
        if record.key["analysis"] == name and record.complete:
            key = record.key["model"], record.key["weights"], str(record.key["parameters"].get("intervention"))
            if key not in found or record.expected > found[key].expected:
                found[key] = record
    return sorted(found.values(), key=_place)


def _place(record: Record) -> tuple[bool, bool, str]:
    name = network_name(record)
    return "untrained" in name, not _witness(record.key["weights"]), name


def _named(record: Record) -> str:
    counted = "" if _witness(record.key["weights"]) else NOT_COUNTED
    return f"{network_name(record)}{counted} {record.key['dataset']} "


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
