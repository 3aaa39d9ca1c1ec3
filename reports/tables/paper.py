"""Rows of the paper's tables: every published cell beside what was measured here for it.

A score is matched with evaluation records by (model, task, dataset) under the official protocol, seed apart: Gumbel
seeds of the same weights are averaged. Cells trained here count only when they were trained at the paper's budget for
as many iterations as the published row. Parameters and MACs come from `results/measured/`.

The verdict on a score is `verdicts.of_score`. A count is `reproduced` when it has the printed digits, rounded or cut
off, or is within COUNTING of them. A number that is not there has its reason in place of the verdict.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.statistics import verdicts
from reports.statistics.intervals import draw_interval, mean_interval
from reports.tables.rows import COLUMNS, interval_fields, machine_text, protocol_text, units
from reports.tables.steps import network_key
from results import measured, published
from results.evidence import Evidence
from results.sets import FULL_SETS, official_protocol

COUNTING = 1e-4  # relative: MACs are counted at small sizes and extended


def rows(frame: pd.DataFrame, evidence: Evidence) -> Iterator[dict[str, Any]]:
    """The rows of a published table (`results.published`); a cell that several weights were scored for has several."""
    counts, found = measured.complexity(), _Found(evidence)
    for cell in frame.to_dict("records"):
        row = {name: value for name, value in cell.items() if name in COLUMNS}
        row |= {"kind": "paper", "published": cell["value"], "budget": "", "study": "", "setting": ""}
        if not cell["model"]:
            yield row | {"verdict": "published only"}
        elif cell["metric"] in ("params", "macs"):
            yield row | _count(cell, counts)
        else:
            for scores in found.scores(cell):
                yield row | _compare(cell, scores)


def _count(cell: dict[str, str], counts: pd.DataFrame) -> dict[str, Any]:
    wanted = ["model", "overrides", "task", *(["size"] if cell["metric"] == "macs" else [])]
    looked_for = [cell[name] for name in wanted]
    fits = counts.loc[[list(entry) == looked_for for entry in counts[wanted].itertuples(index=False, name=None)]]
    if fits.empty:
        return {"verdict": "not counted"}
    if cell["metric"] == "params":
        value, result = int(fits["params"].iloc[0]), {"interval": "exact", "evidence": "counted"}
    else:
        value = int(fits["macs_paper"].iloc[0])
        result = {"interval": "to 1e-4", "evidence": f"counted; {fits['counters'].iloc[0]}"}
    result["measured"] = value
    printed = published.number(cell["value"])
    if printed is None:
        return result | {"verdict": verdicts.NO_COUNTERPART}
    difference, place = value - printed, published.last_place(cell["value"])
    same_digits = -place / 2 <= difference < place  # rounded, or cut off (445.89G is printed as 445.8G)
    close = same_digits or abs(difference) <= COUNTING * printed
    return result | {"difference": difference, "verdict": verdicts.REPRODUCED if close else verdicts.DIFFERS}


@dataclass(frozen=True)
class Scores:
    """Scores of one network on one dataset by seed: of the noise, or of the training. `blank`: why there are none."""

    psnr: dict[int, float]
    ssim: dict[int, float]
    evidence: str
    budget: str
    protocol: str
    blank: str


def _compare(cell: dict[str, str], scores: Scores) -> dict[str, Any]:
    values = list((scores.psnr if cell["metric"] == "psnr" else scores.ssim).values())
    result: dict[str, Any] = {"budget": scores.budget, "protocol": scores.protocol}
    if not values:
        return result | {"verdict": scores.blank if cell["value"] else verdicts.NO_COUNTERPART}
    result |= {"evidence": scores.evidence, "measured": mean_interval(values).mean}
    printed = published.number(cell["value"])
    if printed is None:
        return result | {"interval": units(len(values)), "verdict": verdicts.NO_COUNTERPART}
    interval = draw_interval(values, printed)
    return result | interval_fields(interval, cell["metric"]) | {"verdict": verdicts.of_score(interval, cell["metric"])}


class _Found:
    """What a store holds for published scores."""

    def __init__(self, evidence: Evidence) -> None:
        cells = evidence.cells[evidence.cells["problem"].isna()]
        trained = evidence.means.query("source == 'cell'").merge(cells, on="hash").to_dict("records")
        self.evaluations = evidence.evaluations.to_dict("records")
        self.trained = [entry for entry in trained if entry["budget"] == "paper"]
        self.smaller = [entry for entry in trained if entry["budget"] != "paper"]
        self.reduced = set(cells[cells["budget"] != "paper"]["weights"].dropna())  # never held against the paper

    def scores(self, cell: dict[str, str]) -> list[Scores]:
        """What may stand beside a published score; one entry without values, saying why, when there is nothing."""
        records = [] if cell["weights"] else [entry for entry in self.evaluations if _fits(entry, cell)]
        given = [entry for entry in records if entry["weights"] not in self.reduced]
        trained = [e for e in self.trained if _fits(e, cell) and str(e["iterations"]) == cell["iterations"]]
        here = [entry for entry in given if entry["dataset"] == cell["dataset"]]
        result = [
            _gather([entry for entry in here if entry["weights"] == weights], weights)
            for weights in sorted({entry["weights"] for entry in here})
        ]
        own = [entry for entry in trained if entry["dataset"] == cell["dataset"]]
        if own:
            result.append(_gather(own, None))
        if result:
            return result
        return [Scores({}, {}, "", "", "", self._blank(cell, records, given))]

    def _blank(self, cell: dict[str, str], records: list[dict[str, Any]], given: list[dict[str, Any]]) -> str:
        """Why nothing stands beside a published score. records, given: of its network on any set; less reduced ones."""
        if records and not given:
            return "only weights of a smaller budget"
        if not cell["weights"]:
            return "not run: no score on this set" if given else "not run: no weights scored by this protocol"
        budgets = sorted({entry["budget"] for entry in self.smaller if _fits(entry, cell)})
        if budgets:
            return f"not comparable, trained at a smaller budget: its difference is in {' and '.join(budgets)}"
        return "no weights released, not trained here"


def _fits(entry: dict[str, Any], cell: dict[str, str]) -> bool:
    """Whether a record or trained cell is of the network and task of a published cell, under the official protocol."""
    if (entry["task"], entry["labels"]) != (cell["task"], "learned"):
        return False
    if network_key(entry["model"], entry["overrides"]) != network_key(
        cell["model"], published.parse_overrides(cell["overrides"])
    ):
        return False
    routes = cell["model"].startswith("mambairv2")  # in the first version nothing is routed or prompted
    official = official_protocol(cell["task"])
    ignored = {"seed"} if routes else {"seed", "routing", "prompt_order"}
    return all(value == official[name] for name, value in entry["protocol"].items() if name not in ignored)


def _gather(entries: list[dict[str, Any]], weights: str | None) -> Scores:
    """One network's scores on one dataset by seed. Seeds with a part of the set are left out; `blank` names the most.

    weights: hash of the weights that were scored, by Gumbel seed; None for cells trained here, by training seed.
    """
    full = FULL_SETS.get(entries[0]["dataset"], entries[0]["expected"])
    whole = [entry for entry in entries if entry["complete"] and entry["images"] == full]
    by_seed = {entry["protocol"]["seed"] if weights else entry["seed"]: entry for entry in whole}
    kind = "Gumbel" if weights else "training"
    origin = f"weights {weights[:8]}" if weights else "trained here"
    protocol = {name: value for name, value in entries[0]["protocol"].items() if name != "seed"}
    return Scores(
        {seed: entry["psnr"] for seed, entry in sorted(by_seed.items()) if entry["psnr"] is not None},
        {seed: entry["ssim"] for seed, entry in sorted(by_seed.items()) if entry["ssim"] is not None},
        f"{origin}, {kind} seed{'s' * (len(by_seed) > 1)} {', '.join(map(str, sorted(by_seed)))}; "
        + machine_text(by_seed.values()),
        "" if weights else "paper",
        protocol_text(protocol),
        "a picture was restored exactly" if whole else f"{max(e['images'] for e in entries)} of {full} images",
    )
