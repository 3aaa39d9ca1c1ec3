"""What the paper claims, judged by the tables: a row per claim of `results/published/claims.yml`, all numbers computed.

A claim about published weights is judged by the verdicts of its rows, one about differences between trainings by those
at the paper's budget alone: what was trained for less leaves it open, whatever was found.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from reports.claims import cost, mechanisms, trainings, words
from reports.pages import performance
from reports.statistics import verdicts
from reports.statistics.intervals import LEVEL
from reports.statistics.verdicts import EQUIVALENCE
from reports.tables import index, sensitivity
from reports.tables.analyses import interventions
from reports.tables.blocks.block import Cell
from reports.tables.blocks.wording import measured_source, number, published_source
from results import measured, published
from results.evidence import Evidence
from results.store.columns import rows_of

FILE = "claims.yml"
SECTIONS = {
    "claims": "What the paper claims",
    "beside": "What it leaves unsaid",
    "questions": "What it asks next",
}
HOLDS, FAILS, OPEN, ABSENT = "holds", "fails", "open", "absent"  # how a verdict is shown
GIVEN, TRAINED, COUNTED, TIMED = "given weights", "trainings", "counts", "times"
JUDGED = (verdicts.REPRODUCED, verdicts.DIFFERS, verdicts.INCONCLUSIVE)
MECHANISM = "mechanism"  # the rule of claims about differences between networks
NOT_RUN = words.NOT_RUN
Claim = dict[str, Any]
Frames = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Judged:
    """A claim with what the paper prints for it, what was found, and the verdict. level: of HOLDS, FAILS, OPEN, ABSENT.

    said, found: text in pieces, each with where its number comes from. evidence: of which kind it is. tables: names.
    key: the one number of it, and headline: what that number is, in words; for the top of a page. weights, trainings:
    the two halves of `found` of a claim about a mechanism. command: what measures it.
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
    weights: list[Cell] = field(default_factory=list)
    trainings: list[Cell] = field(default_factory=list)
    command: str = ""


def load(folder: Path | None = None) -> dict[str, list[Claim]]:
    """Claims by SECTIONS, as the file has them."""
    return yaml.safe_load(((published.FOLDER if folder is None else folder) / FILE).read_text())


def judge(evidence: Evidence, claims: Sequence[Claim]) -> list[Judged]:
    """Every claim by its rule. Raises KeyError for a rule that does not exist."""
    frames = index.tables(evidence)
    return [_judge(claim, frames, evidence) for claim in claims]


def _judge(claim: Claim, frames: Frames, evidence: Evidence) -> Judged:
    if "analysis" in claim:
        return analysed(claim, frames, evidence)
    if claim["rule"] == MECHANISM:
        return mechanism(claim, frames, evidence)
    return RULES[claim["rule"]](claim, frames)


def _judged(
    claim: Claim,
    frames: Frames,
    said: list[Cell],
    found: list[Cell],
    verdict: str,
    level: str,
    evidence: str,
    key: Cell | None = None,
    **told: str,
) -> Judged:
    """key: the number for the claim's headline, into which `told` goes; without it there is no headline."""
    tables = [name for name in claim["tables"] if name in frames]
    headline = claim.get("headline", "").format(**told) if key else ""
    parts = (said, found, verdict, level, evidence if found else "", tables)
    more = {"headline": headline, "command": claim["command"]}
    return Judged(claim["claim"], claim["where"], *parts, key=key or Cell(), **more)


def _rows(claim: Claim, frames: Frames) -> list[dict[str, Any]]:
    parts = [frames[name] for name in claim["tables"] if name in frames]
    return [row for part in parts for row in rows_of(part) if not row["setting"]]


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
    told = {"largest": f"{abs(worst['difference']):.3f}" if scored else ""}
    key = Cell(f"{good} of {len(judged)}", source=measured_source(judged[0]))
    return _judged(claim, frames, said, found, f"reproduced{where}", HOLDS, evidence, key, **told)


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


def mechanism(claim: Claim, frames: Frames, evidence: Evidence) -> Judged:
    """What trained weights lose without a part (`mechanisms`), and what trainings gain with it (`trainings`)."""
    said = trainings.published_steps(claim, _rows(claim, frames))
    weights, first = mechanisms.of_weights(claim, frames)
    rows = trainings.measured(claim, evidence)
    trained, second, budgets = trainings.judged(claim, rows)
    found = [*weights, *([Cell("; ")] if weights and trained else ()), *trained]
    verdict, level = _both(first, second)
    kinds = " and ".join(name for name, own in ((GIVEN, weights), (TRAINED, trained)) if own)
    claim = claim | {"tables": [*claim["tables"], *([interventions.NAME] if weights else ()), *budgets]}
    key, told = trainings.headline(claim, rows)
    judged = _judged(claim, frames, said, found, verdict, level, kinds, key, **told)
    return replace(judged, weights=weights, trainings=trained)


def _both(weights: str, trainings: str) -> tuple[str, str]:
    """The verdict in words, and its level: trainings at the paper's budget decide, else trained weights."""
    levels = {words.CONFIRMED: HOLDS, words.CONTRADICTED: FAILS, verdicts.NO_EFFECT: FAILS}
    if {weights, trainings} <= {NOT_RUN, ""}:
        return NOT_RUN, ABSENT
    decided = trainings if trainings in levels else weights
    told = [f"{name}: {word}" for name, word in (("weights", weights), ("trainings", trainings)) if word]
    return "; ".join(told), levels.get(decided, OPEN)


def analysed(claim: Claim, frames: Frames, evidence: Evidence) -> Judged:
    """What an analysis of trained weights says of a claim."""
    if claim["analysis"] == mechanisms.QUALITY:
        found, verdict = mechanisms.correlated(frames.get(mechanisms.QUALITY))
    elif claim["analysis"] == mechanisms.LAM:
        found, verdict = mechanisms.pixels(evidence.analyses, evidence.cells)
    else:
        found, verdict = mechanisms.ASKED[claim["analysis"]](evidence.analyses)
    levels = {words.CONFIRMED: HOLDS, words.CONTRADICTED: FAILS, NOT_RUN: ABSENT}
    judged = _judged(claim, frames, [], found, verdict, levels.get(verdict, OPEN), GIVEN)
    return replace(judged, weights=found)


def protocol(claim: Claim, frames: Frames) -> Judged:
    """Given weights under another protocol: equivalent where every interval is within EQUIVALENCE, else by Holm's p."""
    frame = frames.get(sensitivity.NAME, pd.DataFrame(columns=["method"]))
    rows = [row for row in rows_of(frame) if row["method"] in claim["settings"] and row["metric"] == "psnr"]
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
    if all(map(trainings.equivalent, rows)):
        return _judged(claim, frames, [], found, f"equivalent: all within ±{EQUIVALENCE} dB", HOLDS, GIVEN)
    if apart:
        key = Cell(f"{number(worst['difference'], 'psnr', signed=True)} dB", source=measured_source(worst))
        told = {"where": f"{worst['dataset']} {worst['task'].removeprefix('sr-')}"}
        verdict = f"no: differs on {len(apart)} of {len(rows)}"
        return _judged(claim, frames, [], found, verdict, FAILS, GIVEN, key, **told)
    return _judged(claim, frames, [], found, "inconclusive", OPEN, GIVEN)


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


def growth(claim: Claim, frames: Frames) -> Judged:
    """Time against pixels of `model` in `precision`: efficient where no machine's exponent is above 1."""
    found = cost.growths(claim["model"], claim["precision"])
    if not found:
        return _judged(claim, frames, [], [], NOT_RUN, ABSENT, TIMED)
    listed = _listed([one.text for one in found])
    if all(one.exponent.high <= 1 for one in found):
        return _judged(claim, frames, [], listed, "yes: at most in proportion to the pixels", HOLDS, TIMED)
    if any(one.exponent.low > 1 for one in found):
        return _judged(claim, frames, [], listed, "no: faster than the pixels", FAILS, TIMED)
    return _judged(claim, frames, [], listed, "inconclusive", OPEN, TIMED)


RULES: dict[str, Callable[[Claim, Frames], Judged]] = {
    **{"reproduced": reproduced, "lead": lead, "fewer": fewer, "protocol": protocol},
    **{"speed": speed, "growth": growth},
}


def _pair(claim: Claim, frames: Frames, metric: str, dataset: str | None = None) -> list[dict[str, Any]]:
    """The printed rows of `ours` and `theirs`. Raises KeyError when the tables lack one."""
    found = {
        row["method"]: row
        for row in reversed(_rows(claim, frames))
        if (row["task"], row["metric"]) == (claim["task"], metric) and dataset in (None, row["dataset"])
    }
    return [found[claim["ours"]], found[claim["theirs"]]]
