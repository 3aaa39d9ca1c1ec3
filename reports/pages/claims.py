"""What the paper claims, judged by the tables: a row per claim of `results/published/claims.yml`, all numbers computed.

A claim about published weights is judged by the verdicts of its rows, one about differences between trainings by those
at the paper's budget alone: what was trained for less leaves it open, whatever was found.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from reports.pages import performance
from reports.statistics import verdicts
from reports.statistics.intervals import LEVEL
from reports.statistics.verdicts import EQUIVALENCE
from reports.tables import index, sensitivity
from reports.tables.analyses import interventions
from reports.tables.blocks import Cell, detectable, measured_source, number, published_source
from results import measured, published
from results.evidence import Evidence
from results.sets import FULL_SETS

FILE = "claims.yml"
HOLDS, FAILS, OPEN, ABSENT = "holds", "fails", "open", "absent"  # how a verdict is shown
GIVEN, TRAINED, COUNTED, TIMED = "given weights", "trainings", "counts", "times"
JUDGED = (verdicts.REPRODUCED, verdicts.DIFFERS, verdicts.INCONCLUSIVE)
NOT_RUN = "not run"
Claim = dict[str, Any]
Frames = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Judged:
    """A claim with what the paper prints for it, what was found, and the verdict. level: of HOLDS, FAILS, OPEN, ABSENT.

    said, found: text in pieces, each with where its number comes from. evidence: of which kind it is. tables: names.
    key: the one number of it, and headline: what that number is, in words; for the top of a page.
    """

    claim: str
    where: str
    said: list[Cell]
    found: list[Cell]
    verdict: str
    level: str
    evidence: str
    tables: list[str] = field(default_factory=list)
    key: Cell = field(default_factory=Cell)
    headline: str = ""


def load(folder: Path | None = None) -> dict[str, list[Claim]]:
    """{"claims": ..., "beside": ...} as the file has them."""
    return yaml.safe_load(((published.FOLDER if folder is None else folder) / FILE).read_text())


def judge(evidence: Evidence, claims: Sequence[Claim]) -> list[Judged]:
    """Every claim by its rule. Raises KeyError for a rule that does not exist."""
    frames = index.tables(evidence)
    return [RULES[claim["rule"]](claim, frames) for claim in claims]


def _judged(
    claim: Claim,
    frames: Frames,
    said: list[Cell],
    found: list[Cell],
    verdict: str,
    level: str,
    evidence: str,
    key: Cell | None = None,
    **words: str,
) -> Judged:
    """key: the number for the claim's headline, into which `words` go; without it there is no headline."""
    tables = [name for name in claim["tables"] if name in frames]
    headline = claim.get("headline", "").format(**words) if key else ""
    told = (said, found, verdict, level, evidence if found else "", tables)
    return Judged(claim["claim"], claim["where"], *told, key=key or Cell(), headline=headline)


def _rows(claim: Claim, frames: Frames) -> list[dict[str, Any]]:
    parts = [frames[name] for name in claim["tables"] if name in frames]
    return [row for part in parts for row in part.to_dict("records") if not row["setting"]]


# --- rules -----------------------------------------------------------------------------------------------------------


def reproduced(claim: Claim, frames: Frames) -> Judged:
    """Every printed number of `models` and `metrics` against what was measured or counted for it."""
    rows = [
        row for row in _rows(claim, frames) if row["model"] in claim["models"] and row["metric"] in claim["metrics"]
    ]
    rows = [row for row in rows if published.number(row["published"] or "") is not None]
    keys = ("model", "overrides", "task", "dataset", "size", "metric", "published")
    rows = list({tuple(row[key] for key in keys): row for row in rows}.values())  # two tables may print one number
    judged = [row for row in rows if row["verdict"] in JUDGED]
    origins = Counter(row["provenance"] for row in rows)
    kinds = " and ".join(f"{count} {name}" for name, count in origins.items())
    said = [Cell(f"{len(rows)} printed numbers ({kinds})")]
    counts = Counter(row["verdict"] for row in judged)
    evidence = COUNTED if "macs" in claim["metrics"] else GIVEN
    if not judged:
        reasons = Counter(row["verdict"] for row in rows)
        return _judged(claim, frames, said, [], "; ".join(reasons), ABSENT, evidence)
    good, wrong = counts[verdicts.REPRODUCED], counts[verdicts.DIFFERS]
    found = [Cell(f"{good} of {len(judged)} reproduced")]
    scored = [row for row in judged if row["metric"] == "psnr"]
    if scored:
        worst = max(scored, key=lambda row: abs(row["difference"]))
        text = f"{number(worst['difference'], 'psnr', signed=True)} dB"
        place = f" ({worst['dataset']} {worst['task'].removeprefix('sr-')}, 95 % {worst['interval']})"
        found += [Cell("; largest difference "), Cell(text, source=measured_source(worst)), Cell(place)]
    if len(judged) < len(rows):
        found.append(Cell(f"; {len(rows) - len(judged)} not run"))
    for row in (row for row in judged if row["verdict"] == verdicts.DIFFERS):
        found.append(Cell(f"; {row['method']} {row['task'].removeprefix('sr-')} has "))
        found.append(Cell(number(row["measured"], row["metric"]), source=measured_source(row)))
        found += [Cell(" and not "), Cell(row["published"], source=published_source(row))]
    if wrong or counts[verdicts.INCONCLUSIVE]:
        return _judged(claim, frames, said, found, f"differs in {wrong} of {len(judged)}", FAILS, evidence)
    where = "" if len(judged) == len(rows) else " where run"
    words = {"largest": f"{abs(worst['difference']):.3f}" if scored else ""}
    key = Cell(f"{good} of {len(judged)}", source=measured_source(judged[0]))
    return _judged(claim, frames, said, found, f"reproduced{where}", HOLDS, evidence, key, **words)


def lead(claim: Claim, frames: Frames) -> Judged:
    """Our measured score less the printed one of another network, which is not run here."""
    ours, theirs = _pair(claim, frames, "psnr", claim["dataset"])
    printed = [published.number(row["published"]) for row in (ours, theirs)]
    said = [Cell(f"{printed[0] - printed[1]:+.2f} dB", source=f"{published_source(ours)}; {published_source(theirs)}")]
    said.append(Cell(f" on {claim['dataset']} {claim['task'].removeprefix('sr-')} ("))
    said += [Cell(ours["published"], source=published_source(ours)), Cell(" against ")]
    said += [Cell(theirs["published"], source=published_source(theirs)), Cell(")")]
    if ours["difference"] is None:
        return _judged(claim, frames, said, [], ours["verdict"], ABSENT, GIVEN)
    gain = ours["measured"] - printed[1]
    ends = [gain - ours["difference"] + end for end in (ours["low"], ours["high"]) if end is not None]
    bounds = f" [{ends[0]:+.3f}, {ends[1]:+.3f}]" if ends else ""
    found = [Cell(f"{gain:+.3f} dB{bounds}", source=measured_source(ours))]
    found.append(Cell(f" over the printed {theirs['published']}; {claim['theirs']} itself was not run"))
    if ends and ends[0] > 0:
        return _judged(claim, frames, said, found, "holds against the printed score", HOLDS, GIVEN)
    return _judged(
        claim, frames, said, found, "not told from it" if not ends or ends[1] >= 0 else "behind", FAILS, GIVEN
    )


def fewer(claim: Claim, frames: Frames) -> Judged:
    """Parameters against another network's printed ones; multiply-adds beside them, which the claim leaves out."""
    ours, theirs = _pair(claim, frames, "params")
    macs = _pair(claim, frames, "macs")
    printed = [published.number(row["published"]) for row in (ours, theirs)]
    said = [Cell(f"{100 * (1 - printed[0] / printed[1]):.1f} % fewer", source=published_source(ours))]
    said.append(Cell(f" ({ours['published']} against {theirs['published']})"))
    if ours["measured"] is None:
        return _judged(claim, frames, said, [], NOT_RUN, ABSENT, COUNTED)
    share = 100 * (1 - ours["measured"] / printed[1])
    found = [
        Cell(f"{share:.1f} % fewer", source=measured_source(ours)),
        Cell(f" ({number(ours['measured'], 'params')})"),
    ]
    more = published.number(macs[0]["published"]) / published.number(macs[1]["published"]) - 1
    text = f"{100 * abs(more):.0f} % {'more' if more > 0 else 'fewer'} multiply-adds"
    found += [Cell("; but " if more > 0 else "; and "), Cell(text, source=published_source(macs[0]))]
    found.append(Cell(f" ({macs[0]['published']} against {macs[1]['published']}, both printed)"))
    right = ours["verdict"] == verdicts.REPRODUCED and share > 0
    return _judged(claim, frames, said, found, "holds" if right else "differs", HOLDS if right else FAILS, COUNTED)


def ablation(claim: Claim, frames: Frames) -> Judged:
    """Variants that were trained here against their base; only the paper's budget decides."""
    steps = _published_steps(claim, frames)
    said = _listed(Cell(text, source=source) for text, source in steps) or [Cell("no number was found")]
    trained = [frame for frame in frames.values() if next(iter(frame["kind"]), "") == "trained"]
    rows = [row for frame in trained for row in frame.to_dict("records") if row["metric"] == "psnr"]
    rows = [row for row in rows if any(fnmatch(row["overrides"], pattern) for pattern in claim["variants"])]
    rows = [row for row in rows if row["difference"] is not None and row["verdict"] != verdicts.BASE]
    full = [row for row in rows if row["budget"] == "paper"]
    if not rows:
        return _judged(claim, frames, said, [], f"{NOT_RUN}: no such pair is trained", ABSENT, TRAINED)
    shown = _telling(full or rows)
    found = _listed(
        Cell(
            f"{row['method']} {number(row['difference'], 'psnr', signed=True)} {row['interval'] or ''}".strip(),
            source=source,
        )
        for row in shown
        for source in [measured_source(row)]
    )
    found.append(Cell(f" on {shown[0]['dataset']}"))
    sure = [row for row in full or rows if row["low"] is not None]
    if sure:
        found.append(Cell(f"; {sum(map(_equivalent, sure))} of {len(sure)} on all sets are within ±{EQUIVALENCE} dB"))
    known = [row["mde"] for row in full or rows if row["mde"] is not None]
    if known:
        found.append(Cell(f"; these seeds would find a difference of {detectable(max(known))} dB at the worst"))
    claim = claim | {"tables": [*claim["tables"], *dict.fromkeys(row["budget"] for row in full or rows)]}
    if not full:
        budgets = " and ".join(dict.fromkeys(row["budget"] for row in rows))
        seen = " and ".join(dict.fromkeys(row["budget"] for row in rows if row["mde"] is not None))
        key = Cell(f"±{detectable(max(known))} dB", source=measured_source(rows[0])) if known else None
        words = Counter(row["verdict"] for row in rows)
        told = ", ".join(f"{count} {word}" for word, count in words.items())
        told += f", {single} of them of single seeds" if (single := len(rows) - len(sure)) else ""
        return _judged(
            claim,
            frames,
            said,
            found,
            f"open: only at the budget {budgets} ({told})",
            OPEN,
            TRAINED,
            key,
            budgets=seen,
        )
    wrong = sum(row["verdict"] in (verdicts.CONTRADICTS, verdicts.DIFFERS) for row in full)
    sure = sum(row["verdict"] in (verdicts.CONFIRMS, verdicts.WORSE) for row in full)
    level = FAILS if wrong else HOLDS if sure == len(full) else OPEN
    return _judged(
        claim, frames, said, found, f"confirmed in {sure}, contradicted in {wrong} of {len(full)}", level, TRAINED
    )


def protocol(claim: Claim, frames: Frames) -> Judged:
    """Given weights under another protocol: equivalent where every interval is within EQUIVALENCE, else by Holm's p."""
    frame = frames.get(sensitivity.NAME, pd.DataFrame(columns=["method"]))
    rows = [row for row in frame.to_dict("records") if row["method"] in claim["settings"] and row["metric"] == "psnr"]
    rows = [row for row in rows if row["difference"] is not None]
    if not rows:
        return _judged(claim, frames, [], [], NOT_RUN, ABSENT, GIVEN)
    worst = min(rows, key=lambda row: -abs(row["difference"]))
    apart = [row for row in rows if row["p"] is not None and row["p"] < 1 - LEVEL]
    text = f"{number(worst['difference'], 'psnr', signed=True)} dB {worst['interval']}"
    found = [Cell("up to "), Cell(text, source=measured_source(worst))]
    found.append(
        Cell(f" on {worst['dataset']} {worst['task'].removeprefix('sr-')}; {len(apart)} of {len(rows)} sets differ")
    )
    if all(map(_equivalent, rows)):
        return _judged(claim, frames, [], found, f"equivalent: all within ±{EQUIVALENCE} dB", HOLDS, GIVEN)
    if apart:
        key = Cell(f"{number(worst['difference'], 'psnr', signed=True)} dB", source=measured_source(worst))
        words = {"where": f"{worst['dataset']} {worst['task'].removeprefix('sr-')}"}
        verdict = f"no: differs on {len(apart)} of {len(rows)}"
        return _judged(claim, frames, [], found, verdict, FAILS, GIVEN, key, **words)
    return _judged(claim, frames, [], found, "inconclusive", OPEN, GIVEN)


def intervention(claim: Claim, frames: Frames) -> Judged:
    """Given weights after `changes` that take away what the claim is about: it holds where a set loses by that."""
    frame = frames.get(interventions.NAME, pd.DataFrame(columns=["method"]))
    rows = [row for row in frame.to_dict("records") if row["method"] in claim["changes"]]
    rows = [row for row in rows if row["difference"] is not None and row["low"] is not None]
    if not rows:
        return _judged(claim, frames, [], [], NOT_RUN, ABSENT, GIVEN)
    found = _listed(
        Cell(f"{number(row['difference'], 'psnr', signed=True)} dB {row['interval']}", source=measured_source(row))
        for row in rows
    )
    places = [f"{row['dataset']} {row['task'].removeprefix('sr-')}" for row in rows]
    found = [Cell(f"{claim['without']}: "), *found, Cell(f" on {', '.join(places)}")]
    words = Counter(row["verdict"] for row in rows)
    told = ", ".join(f"{word} on {count} of {len(rows)} sets" for word, count in words.items())
    if words[verdicts.COSTS]:
        return _judged(claim, frames, [], found, f"used: {told}", HOLDS, GIVEN)
    if words[verdicts.INCONCLUSIVE]:
        return _judged(claim, frames, [], found, f"open: {told}", OPEN, GIVEN)
    return _judged(claim, frames, [], found, f"not used: {told}", FAILS, GIVEN)


def _listed(cells: Iterable[Cell]) -> list[Cell]:
    """The pieces with "; " between them."""
    pieces = [piece for cell in cells for piece in (Cell("; "), cell)]
    return pieces[1:]


def speed(claim: Claim, frames: Frames) -> Judged:
    """Time of what `what` names, in the precision and launch `how`, against the official code on the same machine."""
    goals = measured.goals()
    goal = next(goal for goal in goals["goals"] if goal["what"] == claim["what"])
    said, found, ratios = [], [], {}
    for device, figures in goals["machines"].items():
        theirs = figures["official"][claim["what"]]["ms"]
        here = [profile for profile in measured.profiles() if profile["environment"]["device"] == device]
        for profile, row in performance.matching(goal, here):
            if performance.how(row) == claim["how"] and row["status"] == "ok":
                source = performance.provenance(profile).removeprefix("- ")
                ratios[device] = theirs / row["median_ms"], source
                said.append(Cell(f"{theirs:.0f} ms on {device}", source=figures["source"]))
                text = f"{row['median_ms']:.1f} ms [{row['p10_ms']:.1f}, {row['p90_ms']:.1f}] on {device}"
                found.append(Cell(text, source=source))
    if not ratios:
        return _judged(claim, frames, [], [], NOT_RUN, ABSENT, TIMED)
    least, source = min(ratios.values())
    level, key = HOLDS if least > 1 else FAILS, Cell(f"{least:.1f} times", source=source)
    verdict = f"{' and '.join(f'{ratio:.1f}' for ratio, _ in ratios.values())} times as fast"
    found = [*_listed(found), Cell(" (10th and 90th percentile of rounds)")]
    return _judged(claim, frames, _listed(said), found, verdict, level, TIMED, key)


RULES: dict[str, Callable[[Claim, Frames], Judged]] = {
    **{"reproduced": reproduced, "lead": lead, "fewer": fewer, "ablation": ablation, "protocol": protocol},
    **{"intervention": intervention, "speed": speed},
}


def _pair(claim: Claim, frames: Frames, metric: str, dataset: str | None = None) -> list[dict[str, Any]]:
    """The printed rows of `ours` and `theirs`. Raises KeyError when the tables lack one."""
    found = {
        row["method"]: row
        for row in reversed(_rows(claim, frames))
        if (row["task"], row["metric"]) == (claim["task"], metric) and dataset in (None, row["dataset"])
    }
    return [found[claim["ours"]], found[claim["theirs"]]]


def _telling(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the last of their budgets on the set with the most pictures: a claim has no room for all.

    Those with an interval, where there are any: a single seed tells nothing.
    """
    rows = [row for row in rows if row["low"] is not None] or rows
    budget = max((row["budget"] for row in rows), key=index.BUDGETS.index)
    last = [row for row in rows if row["budget"] == budget]
    dataset = max((row["dataset"] for row in last), key=lambda name: FULL_SETS.get(name, 0))
    found = {row["overrides"]: row for row in reversed(last) if row["dataset"] == dataset}
    return list(reversed(found.values()))


def _equivalent(row: dict[str, Any]) -> bool:
    """Whether the 95 % interval of a difference lies within EQUIVALENCE."""
    return row["low"] is not None and row["low"] >= -EQUIVALENCE and row["high"] <= EQUIVALENCE


def _published_steps(claim: Claim, frames: Frames) -> list[tuple[str, str]]:
    """The paper's differences of the claim's variants from its base on its first set, with their sources."""
    rows = [row for row in _rows(claim, frames) if row["metric"] == "psnr" and row["model"]]
    values = {(row["overrides"], row["dataset"]): row for row in rows if published.number(row["published"] or "")}
    steps = []
    first = next((dataset for _, dataset in values), None)
    for (overrides, dataset), row in values.items():
        if dataset != first:
            continue  # the table has the others
        base = values.get(("", dataset))
        if base is not None and any(fnmatch(overrides, pattern) for pattern in claim["variants"]):
            step = published.number(row["published"]) - published.number(base["published"])
            steps.append((f"{row['method']} {step:+.2f} dB on {dataset}", published_source(row)))
    return steps
