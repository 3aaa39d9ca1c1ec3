"""Rows of the paper's tables: every published cell with what was measured here for it.

A score is matched with evaluation records by (model, task, dataset) under the official protocol, seed apart: Gumbel
seeds of the same weights are averaged. Compared are published weights (`published.official_weights`, or what the user
said to be published: `evaluate --as-official`), and cells trained here at the paper's budget for as many iterations as
the published row. All other weights have rows of their own, which are compared with nothing. Parameters and MACs come
from `results/measured/`.

The verdict on a score is `verdicts.of_score`. A count is `reproduced` when it has the printed digits, rounded or cut
off, or is within COUNTING of them; where the number beside it is computed by this project, not printed by anyone, the
two counts only agree or differ. A number that is not there has its reason in place of the verdict.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from reports.statistics import verdicts
from reports.statistics.intervals import draw_interval, mean_interval
from reports.tables.rows import (
    COLUMNS,
    interval_fields,
    is_own,
    machine_text,
    made_by,
    overrides_text,
    protocol_text,
    units,
)
from reports.tables.steps import network_key, own_arguments
from results import measured, published
from results.evidence import Evidence
from results.sets import FULL_SETS, official_protocol
from results.store.columns import rows_of

OTHER_WEIGHTS = "other weights"
COUNTING = 1e-4  # relative: MACs are counted at small sizes and extended


def rows(frame: pd.DataFrame, evidence: Evidence, elsewhere: Collection[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows of a published table (`results.published`), then those of other weights (`_others`).

    A cell that several weights were scored for has several rows. elsewhere: models that other tables are about.
    """
    counts, found, counter = measured.complexity(), _Found(evidence), measured.counted_by()
    counted = f"{machine_text([counter])}; {made_by([counter])}"
    for cell in rows_of(frame):
        row = {name: value for name, value in cell.items() if name in COLUMNS}
        row |= {"kind": "paper", "published": cell["value"], "budget": "", "study": "", "setting": ""}
        if not cell["model"]:
            yield row | {"verdict": "published only"}
        elif cell["metric"] in ("params", "macs"):
            yield row | _count(cell, counts) | {"made_by": counted}
        else:
            for scores in found.scores(cell):
                yield row | _compare(cell, scores)
    yield from _others(frame, found, elsewhere)


def _others(frame: pd.DataFrame, found: "_Found", elsewhere: Collection[str]) -> Iterator[dict[str, Any]]:
    """Scores by the official protocol of weights that nobody published: on the sets of the table, of its networks or of
    networks that no published table is about. `setting` names the weights by their hash, `method` by their file."""
    scored = frame[(frame["model"] != "") & (frame["weights"] == "") & frame["metric"].isin(("psnr", "ssim"))]
    for task, part in scored.groupby("task", sort=False):
        sets = list(part["dataset"].unique())
        own = set(part["model"])
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for entry in found.others(task):
            if entry["dataset"] in sets and (entry["model"] in own or entry["model"] not in elsewhere):
                network = network_key(entry["model"], entry["overrides"])
                groups.setdefault((network, entry["weights"]), []).append(entry)
        for (_, weights), entries in sorted(groups.items(), key=lambda item: item[0]):
            for dataset in (name for name in sets if any(entry["dataset"] == name for entry in entries)):
                scores = _gather([entry for entry in entries if entry["dataset"] == dataset], weights)
                for metric in ("psnr", "ssim"):
                    yield _other(entries[0], dataset, metric, scores, found.trained_as.get(weights))


def _other(entry: dict[str, Any], dataset: str, metric: str, scores: "Scores", budget: str | None) -> dict[str, Any]:
    """The row of one set and metric of other weights; budget: at which they were trained here."""
    row = {"kind": "paper", "method": entry["file"] or "a file without a name", "model": entry["model"]}
    row |= {
        "overrides": overrides_text(own_arguments(entry["overrides"])),
        "task": entry["task"],
        "budget": "",
        "study": "",
    }
    source = f", source {entry['overrides']['source'][:8]}" if is_own(entry["overrides"]) else ""
    row |= {"setting": f"weights {entry['weights'][:8]}{source}", "dataset": dataset, "size": "", "metric": metric}
    row |= {"published": "", "protocol": scores.protocol, "verdict": OTHER_WEIGHTS}
    row["note"] = f"trained here at the {budget} budget" if budget else ""
    values = list((scores.psnr if metric == "psnr" else scores.ssim).values())
    if not values:
        return row | {"verdict": scores.blank}
    result = {"measured": mean_interval(values).mean, "interval": units(len(values)), "evidence": scores.evidence}
    return row | result | {"made_by": scores.made_by}


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
    words = (verdicts.REPRODUCED, verdicts.DIFFERS)
    if cell["provenance"] == "computed":
        words = (verdicts.AGREE, verdicts.DISAGREE)
    return result | {"difference": difference, "verdict": words[0] if close else words[1]}


@dataclass(frozen=True)
class Scores:
    """Scores of one network on one dataset by seed: of the noise, or of the training. `blank`: why there are none."""

    psnr: dict[int, float]
    ssim: dict[int, float]
    evidence: str
    budget: str
    protocol: str
    blank: str
    made_by: str = ""


def _compare(cell: dict[str, str], scores: Scores) -> dict[str, Any]:
    values = list((scores.psnr if cell["metric"] == "psnr" else scores.ssim).values())
    result: dict[str, Any] = {"budget": scores.budget, "protocol": scores.protocol}
    if not values:
        return result | {"verdict": scores.blank if cell["value"] else verdicts.NO_COUNTERPART}
    result |= {"evidence": scores.evidence, "made_by": scores.made_by, "measured": mean_interval(values).mean}
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
        scored = evidence.evaluations[~evidence.evaluations["weights"].isin((None, "none"))]
        self.evaluations = rows_of(scored)
        self.trained = [entry for entry in trained if entry["budget"] == "paper"]
        self.smaller = [entry for entry in trained if entry["budget"] != "paper"]
        self.trained_as = dict(cells.dropna(subset="weights")[["weights", "budget"]].itertuples(index=False))
        self.official = published.official_weights()

    def may_be_compared(self, entry: dict[str, Any]) -> bool:
        """Whether a record's weights are published ones, or were trained here at the paper's budget."""
        if is_own(entry["overrides"]):
            return False  # whatever its weights are, what it computes is its own
        budget = self.trained_as.get(entry["weights"])
        if budget is not None:
            return budget == "paper"  # whatever the user said: a smaller budget is never held against the paper
        return entry["weights"] in self.official or entry["as_official"]

    def others(self, task: str) -> list[dict[str, Any]]:
        """Records of the task, by the official protocol, of weights that are compared with nothing."""
        return [
            entry
            for entry in self.evaluations
            if (entry["task"], entry["labels"]) == (task, "learned")
            and is_official(entry["protocol"], task, entry["model"])
            and not self.may_be_compared(entry)
        ]

    def scores(self, cell: dict[str, str]) -> list[Scores]:
        """What is compared with a published score; one entry without values, saying why, when there is nothing."""
        records = [] if cell["weights"] else [entry for entry in self.evaluations if _fits(entry, cell)]
        given = [entry for entry in records if self.may_be_compared(entry)]
        trained = [e for e in self.trained if _fits(e, cell) and str(e["iterations"]) == cell["iterations"]]
        here = [entry for entry in given if entry["dataset"] == cell["dataset"]]
        result = [
            _gather([entry for entry in here if entry["weights"] == weights], weights, weights not in self.official)
            for weights in sorted({entry["weights"] for entry in here})
        ]
        own = [entry for entry in trained if entry["dataset"] == cell["dataset"]]
        if own:
            result.append(_gather(own, None))
        if result:
            return result
        return [Scores({}, {}, "", "", "", self._blank(cell, records, given))]

    def _blank(self, cell: dict[str, str], records: list[dict[str, Any]], given: list[dict[str, Any]]) -> str:
        """Why nothing is compared with a published score. records: of its network on any set; given: the comparable."""
        if records and not given:
            smaller = all(entry["weights"] in self.trained_as for entry in records)
            return "only weights of a smaller budget" if smaller else "only weights that are not the published ones"
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
    return is_official(entry["protocol"], cell["task"], cell["model"])


def is_official(protocol: dict[str, Any], task: str, model: str) -> bool:
    """Whether a score's protocol is the official one, whatever its seed."""
    routes = model.startswith("mambairv2")  # in the first version nothing is routed or prompted
    official = official_protocol(task)
    ignored = {"seed"} if routes else {"seed", "routing", "prompt_order"}
    return all(value == official[name] for name, value in protocol.items() if name not in ignored)


def _gather(entries: list[dict[str, Any]], weights: str | None, told: bool = False) -> Scores:
    """One network's scores on one dataset by seed. Seeds with a part of the set are left out; `blank` names the most.

    weights: hash of the weights that were scored, by Gumbel seed; None for cells trained here, by training seed.
    told: that they are published is known from the user alone.
    """
    full = FULL_SETS.get(entries[0]["dataset"], entries[0]["expected"])
    whole = [entry for entry in entries if entry["complete"] and entry["images"] == full]
    by_seed = {entry["protocol"]["seed"] if weights else entry["seed"]: entry for entry in whole}
    kind = "Gumbel" if weights else "training"
    origin = f"weights {weights[:8]}" if weights else "trained here"
    if told and entries[0]["as_official"]:
        origin += f" ({entries[0]['file'] or 'a file'}, scored as official)"
    protocol = {name: value for name, value in entries[0]["protocol"].items() if name != "seed"}
    return Scores(
        {seed: entry["psnr"] for seed, entry in sorted(by_seed.items()) if entry["psnr"] is not None},
        {seed: entry["ssim"] for seed, entry in sorted(by_seed.items()) if entry["ssim"] is not None},
        f"{origin}, {kind} seed{'s' * (len(by_seed) > 1)} {', '.join(map(str, sorted(by_seed)))}; "
        + machine_text(by_seed.values()),
        "" if weights else "paper",
        protocol_text(protocol),
        "a picture was restored exactly" if whole else f"{max(e['images'] for e in entries)} of {full} images",
        made_by(by_seed.values()),
    )
