"""Claims about mechanisms, judged by trainings: the differences that a claim names, pair by pair.

A pair is two networks of one family, [one, other], by their arguments: the difference is the one less the other, paired
by seed, and the claim says that it is above zero (or, with `expects: nothing`, that it is not below). Only the paper's
budget decides; what was trained for less is said, and leaves the claim open.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from reports.claims.words import CONFIRMED, CONTRADICTED, NOT_RUN, OPEN, listed
from reports.statistics import verdicts
from reports.statistics.verdicts import EQUIVALENCE
from reports.tables import index, steps, trained
from reports.tables.blocks.block import Cell
from reports.tables.blocks.wording import detectable, measured_source, number, published_source
from results import published
from results.evidence import Evidence
from results.sets import FULL_SETS

Rows = Sequence[dict[str, Any]]
ABOVE, BELOW = (verdicts.CONFIRMS, verdicts.BETTER), (verdicts.CONTRADICTS, verdicts.WORSE)
FROM_WEIGHTS = ("recovery",)  # budgets that train on from given weights, which says nothing of what a part gains


def judged(claim: dict[str, Any], rows: Rows) -> tuple[list[Cell], str, list[str]]:
    """The differences of the claim's pairs, of `measured`, budget by budget; what they say of it; and the budgets."""
    if not rows:
        return [], NOT_RUN if "pairs" in claim else "", []
    full = [row for row in rows if row["budget"] == "paper"]
    wrong = sum(row["verdict"] in (*BELOW, verdicts.DIFFERS) for row in full)
    equal = equivalent if claim.get("expects") == "nothing" else lambda row: False
    sure = sum(row["verdict"] in ABOVE or equal(row) for row in full)
    word = CONTRADICTED if wrong else CONFIRMED if full and sure == len(full) else OPEN
    return listed(_parts(rows)), word, list(dict.fromkeys(row["budget"] for row in rows))


def measured(claim: dict[str, Any], evidence: Evidence) -> list[dict[str, Any]]:
    """A row of PSNR per pair, task and set, as in the table of its budget; the budgets that train from the start first,
    long before short. `against` is the name of the other one. Of a pair that two families have the first one counts."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    if "pairs" not in claim:
        return []
    budgets = [name for name in reversed(index.BUDGETS) if name in set(evidence.cells["budget"])]
    known = _steps(published.FOLDER)
    for budget in sorted(budgets, key=FROM_WEIGHTS.__contains__):
        for one, other in claim["pairs"]:
            for row in trained.pairs(budget, evidence, known, (one, other), claim.get("families", ("*",))):
                key = (budget, row["task"], row["dataset"], row["one"], row["other"])
                if any(fnmatch(row["task"], task) for task in claim.get("tasks", ("*",))):
                    found.setdefault(key, row | {"pair": (one, other)})
    return list(found.values())


@lru_cache(maxsize=4)
def _steps(folder: Path) -> dict[tuple[str, ...], steps.Step]:
    """The published differences, made once; folder: where they are published."""
    return steps.steps(published.load(folder).tables)


def _parts(rows: Rows) -> Iterator[list[Cell]]:
    """Of each budget and task the pairs, on the set with the most pictures, and on how many sets they differ."""
    several = len({row["task"] for row in rows}) > 1
    for budget, task in dict.fromkeys((row["budget"], row["task"]) for row in rows):
        own = [row for row in rows if (row["budget"], row["task"]) == (budget, task)]
        dataset = _largest(own)
        said = []
        for row in (row for row in own if row["dataset"] == dataset):
            same = [one for one in own if (one["one"], one["other"]) == (row["one"], row["other"])]
            said.append([Cell(f"{row['method']} less {row['against']} "), _difference(row), Cell(_counted(row, same))])
        yield [Cell(f"{budget}, {dataset}{f' {task}' if several else ''}: "), *listed(said)]


def _largest(rows: Rows) -> str:
    """The set with the most pictures, of those with intervals if there are any."""
    shown = [row for row in rows if row["low"] is not None] or rows
    return max((row["dataset"] for row in shown), key=lambda name: FULL_SETS.get(name, 0))


def _counted(row: dict[str, Any], sets: Rows) -> str:
    """On how many of the sets the pair is told apart or shown to be alike, and what `row` would have found."""
    sets = [one for one in sets if one["low"] is not None]
    counts = {
        "better": sum(one["verdict"] in ABOVE for one in sets),
        "worse": sum(one["verdict"] in BELOW for one in sets),
        f"within ±{EQUIVALENCE} dB": sum(map(equivalent, sets)),
    }
    told = [f"{word} on {count} of {len(sets)}" for word, count in counts.items() if count]
    told += [f"{detectable(row['mde'])} dB would be found"] if row["mde"] is not None else []
    return f" ({', '.join(told)})" if told else ""


def equivalent(row: dict[str, Any]) -> bool:
    """Whether the 95 % interval of a difference lies within EQUIVALENCE."""
    return verdicts.equivalent((row["low"], row["high"]))


def headline(claim: dict[str, Any], rows: Rows) -> tuple[Cell | None, dict[str, str]]:
    """Of the rows of `measured` that of the pair `headline_of`, trained from the start, on the largest set of its
    budget: the paper's budget, else the one with the narrowest interval, be it trained for less. And the words for the
    headline: where it is from, and what it is. None without one."""
    wanted = tuple(claim.get("headline_of", ()))
    rows = [row for row in rows if row["pair"] == wanted and row["low"] is not None]
    rows = [row for row in rows if row["budget"] not in FROM_WEIGHTS]
    if not rows:
        return None, {}
    budgets = [[row for row in rows if row["budget"] == name] for name in dict.fromkeys(row["budget"] for row in rows)]
    shown = [next(row for row in own if row["dataset"] == _largest(own)) for own in budgets]
    row = min(shown, key=lambda row: (row["budget"] != "paper", row["high"] - row["low"]))
    key = Cell(f"{number(row['difference'], 'psnr', signed=True)} dB", source=measured_source(row))
    return key, {"where": f"{row['dataset']}, {row['budget']} budget, 95 % {row['interval']}", "what": _word(row)}


def _word(row: dict[str, Any]) -> str:
    """What a difference is, by its verdict."""
    if row["verdict"] in (*ABOVE, *BELOW):
        return "better" if row["difference"] > 0 else "worse"
    told = f"alike within ±{EQUIVALENCE} dB" if equivalent(row) else row["verdict"]
    return f"{told}, {detectable(row['mde'])} dB would have been found" if row["mde"] is not None else told


def published_steps(claim: dict[str, Any], rows: Rows) -> list[Cell]:
    """The paper's differences of the claim's pairs, on its first set."""
    values = {
        (row["overrides"], row["dataset"]): row
        for row in rows
        if row["metric"] == "psnr" and row["model"] and published.number(row["published"] or "")
    }
    first = next((dataset for _, dataset in values), None)
    own = {overrides: row for (overrides, dataset), row in values.items() if dataset == first}
    found = []
    for one, other in claim.get("pairs", ()):
        for name, less in ((a, b) for a in own for b in own if a != b and fnmatch(a, one) and fnmatch(b, other)):
            step = published.number(own[name]["published"]) - published.number(own[less]["published"])
            named = [own[each]["method"].removeprefix("+ ") for each in (name, less)]
            text = f"{named[0]} less {named[1]} {step:+.2f} dB on {first}"
            found.append([Cell(text, source=f"{published_source(own[name])}; {published_source(own[less])}")])
    return listed(found)


def _difference(row: dict[str, Any]) -> Cell:
    text = f"{number(row['difference'], 'psnr', signed=True)} dB {row['interval'] or ''}".strip()
    return Cell(text, source=measured_source(row))
