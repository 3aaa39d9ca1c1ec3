"""Whether networks with better prompts score better: over trained cells, each quality of prompts against PSNR.

A cell counts with the mean of a quality over layers and images (`analyse prompts` of its weights, with routing noise)
and its mean PSNR on one test set. The correlation is Pearson's, its 95 % interval Fisher's. Cells of one variant share
its network, so that fewer than all of them are independent; a correlation is no effect.
"""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from scipy import stats

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
        common |= {"evidence": f"{len(part)} cells; {machine_text(part.to_dict('records'))}"}
        for quality in QUALITIES:
            yield common | {"metric": quality} | correlation(part[quality], part["psnr"])


def known(evidence: Evidence) -> bool:
    return len(measured(evidence)) > 0


def measured(evidence: Evidence) -> pd.DataFrame:
    """A row per finished cell whose prompts were measured, and test set: its columns in `Evidence.cells`, `dataset`,
    `psnr` and QUALITIES."""
    finished = evidence.cells[evidence.cells["state"] == "done"]
    if finished.empty:  # then nothing else needs to be read
        return finished.assign(dataset=None, psnr=None)
    found = [record for record in evidence.analyses if record.key["analysis"] == "prompts"]
    columns = ["weights", *QUALITIES]
    qualities = []
    for record in found:
        drawn = record.rows[record.rows["routing"] == "gumbel"]
        means = drawn.groupby("image")[list(QUALITIES)].mean().mean()
        qualities.append({"weights": record.key["weights"], **means.to_dict()})
    table = pd.DataFrame(qualities, columns=columns).groupby("weights", as_index=False).mean()
    cells = finished.merge(table, on="weights")
    means = evidence.means[evidence.means["source"] == "cell"][["hash", "dataset", "psnr"]].dropna()
    return cells.merge(means, on="hash")


def correlation(quality: pd.Series, psnr: pd.Series) -> dict[str, Any]:
    """`measured`, `low`, `high`, `interval` and `verdict` of a correlation; "not run" where there are too few cells."""
    both = pd.DataFrame({"quality": quality, "psnr": psnr}, dtype=float).dropna()
    if len(both) < FEWEST:
        return {"verdict": f"not run: {len(both)} cells, of {FEWEST} that an interval needs"}
    if both["quality"].nunique() == 1 or both["psnr"].nunique() == 1:
        return {"verdict": "no spread: every cell has the same value"}
    found = stats.pearsonr(both["quality"], both["psnr"])
    low, high = found.confidence_interval(0.95)
    verdict = "no correlation shown" if low <= 0 <= high else "better with more" if low > 0 else "better with less"
    row = {"measured": float(found.statistic), "low": float(low), "high": float(high), "verdict": verdict}
    return row | {"interval": f"[{low:+z.2f}, {high:+z.2f}] n={len(both)}"}
