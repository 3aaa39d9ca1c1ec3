"""Whether networks with better prompts score better: over trained cells, each quality of prompts against PSNR.

A cell counts with the mean of a quality over layers and images (`analyse prompts` of its weights, with routing noise)
and its mean PSNR on one test set. The correlation is Pearson's, its 95 % interval Fisher's; verdicts are by its p after
Holm's correction over the qualities. Cells of one variant share its network, and cells of one seed their pictures, so
that fewer than all of them are independent; a correlation is no effect.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from scipy import stats

from reports.statistics.intervals import LEVEL, holm
from reports.tables.rows import machine_text
from results.evidence import Evidence

NAME = "prompt-quality"
CAPTION = "Qualities of prompts against PSNR over trained cells: correlation, with its 95 % interval"
NEEDS = (
    "not run: 0 cells. Train some (runner.py run ablations), then measure the prompts of each "
    "(runner.py analyse prompts MODEL --task T --weights STORE/HASH/weights.safetensors --sets Set14)"
)
QUALITIES = ("ratio", "growth", "rank", "entropy", "dead", "within", "silhouette", "nmi_slic", "nmi_felzenszwalb")
FEWEST = 4  # values of which Fisher's interval is finite


def rows(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """A row per task, budget, test set and quality."""
    cells = measured(evidence)
    for (task, budget, dataset), part in cells.groupby(["task", "budget", "dataset"], sort=True):
        common = {"kind": "plain", "task": task, "budget": budget, "dataset": dataset}
        asked = " and ".join(sorted({name for names in part["asked"] for name in names}))
        common |= {"evidence": f"{len(part)} cells, prompts on {asked}; {machine_text(part.to_dict('records'))}"}
        found = {quality: correlation(part[quality], part["psnr"]) for quality in QUALITIES}
        corrected = holm({quality: row["p"] for quality, row in found.items() if "p" in row})
        for quality, row in found.items():
            if quality in corrected:
                row |= {"p": corrected[quality], "verdict": _verdict(row["measured"], corrected[quality])}
            yield common | {"metric": quality} | row


def known(evidence: Evidence) -> bool:
    return len(measured(evidence)) > 0


def measured(evidence: Evidence) -> pd.DataFrame:
    """A row per finished cell whose prompts were measured, and test set: its columns in `Evidence.cells`, `dataset`,
    `psnr`, QUALITIES and `asked`, the sets on which its prompts were."""
    finished = evidence.cells[evidence.cells["state"] == "done"]
    if finished.empty:  # then nothing else needs to be read
        return finished.assign(dataset=None, psnr=None)
    found = [record for record in evidence.analyses if record.key["analysis"] == "prompts" and record.complete]
    columns = ["weights", *QUALITIES]
    qualities = []
    for record in found:
        drawn = record.rows[record.rows["routing"] == "gumbel"]
        means = drawn.groupby("image")[list(QUALITIES)].mean().mean()
        qualities.append({"weights": record.key["weights"], "asked": record.key["dataset"], **means.to_dict()})
    grouped = pd.DataFrame(qualities, columns=[*columns, "asked"]).groupby("weights")
    table = grouped[list(QUALITIES)].mean().assign(asked=grouped["asked"].agg(set)).reset_index()
    cells = finished.merge(table, on="weights")
    means = evidence.means[evidence.means["source"] == "cell"][["hash", "dataset", "psnr"]].dropna()
    return cells.merge(means, on="hash")


def correlation(quality: pd.Series, psnr: pd.Series) -> dict[str, Any]:
    """`measured`, `low`, `high`, `interval` and `p` of a correlation; where there are too few cells a `verdict`
    in their place.
    """
    both = pd.DataFrame({"quality": quality, "psnr": psnr}, dtype=float).dropna()
    if len(both) < FEWEST:
        return {"verdict": f"not run: {len(both)} cells, of {FEWEST} that an interval needs"}
    if both["quality"].nunique() == 1 or both["psnr"].nunique() == 1:
        return {"verdict": "no spread: every cell has the same value"}
    found = stats.pearsonr(both["quality"], both["psnr"])
    low, high = found.confidence_interval(0.95)
    row = {"measured": float(found.statistic), "low": float(low), "high": float(high), "p": float(found.pvalue)}
    return row | {"interval": f"[{low:+z.2f}, {high:+z.2f}] n={len(both)}"}


def _verdict(measured: float, p: float) -> str:
    if p >= 1 - LEVEL:
        return "no correlation shown"
    return "better with more" if measured > 0 else "better with less"
