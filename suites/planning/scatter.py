"""How much scores scatter between seeds, with the source: what a plan's detectable effects are computed from.

The best source wins: finished cells (of the store, or committed under results/measured) with their seeds paired, of the
same budget, then of another one, then the official implementation's scatter between seeds. Nothing is guessed: without
a source there is no effect.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.stats import chi2

from results import records
from results.evidence import Evidence
from results.power import residual


@dataclass(frozen=True)
class Scatter:
    """Standard deviation, in dB, of a difference of PSNR means between two variants at one seed."""

    task: str
    budget: str | None  # None: of whatever budget there is no other figure for
    dataset: str
    sd: float
    df: int  # of the estimate sd
    source: str

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Ends, in dB, of the interval that holds the true standard deviation of normal scores (chi-square)."""
        outside = (1 - level) / 2
        low, high = (self.sd * math.sqrt(self.df / chi2.isf(tail, self.df)) for tail in (outside, 1 - outside))
        return low, high


OFFICIAL = (
    "sqrt 2 times the sd of three seeds of the official code (csguoh/MambaIR 33d7b34, light, batch 32, iteration 3,000 "
    "at 2e-4, NVIDIA H200, 2026-11-23): as if pairing gained nothing, and neither length nor batch mattered"
)
PUBLISHED = tuple(
    Scatter("sr-x2", None, dataset, math.sqrt(2) * sd, 2, OFFICIAL) for dataset, sd in (("Set14", 0.06), ("Set5", 0.20))
)


def measured(evidence: Evidence) -> list[Scatter]:
    """By task, budget and dataset: sqrt 2 times the residual sd of score = variant + seed + error over the members of
    all families (a cell of several counts once), with its degrees of freedom.

    Seeds have effects of their own wherever budget or training data differ. Nothing is known where no two variants
    share two seeds.
    """
    members = evidence.families.dropna(subset=["hash"]).drop_duplicates("hash")
    cells = evidence.cells.set_index("hash")["config"].reindex(members["hash"])
    members = members.assign(
        network=[records.key_of(_part(config, "variant", "protocol")) for config in cells],
        study=[records.key_of(_part(config, "budget", "train_sets")) for config in cells],
    )
    scores, found = members.merge(evidence.means.dropna(subset=["psnr"]), on="hash"), []
    for (task, budget, dataset), part in scores.groupby(["task", "budget", "dataset"]):
        rows = (study[["network", "seed", "psnr"]].itertuples(index=False) for _, study in part.groupby("study"))
        squares, df = map(sum, zip(*(residual(list(study)) for study in rows), strict=True))
        if df and squares > 0:
            sd, source = math.sqrt(2 * squares / df), "paired differences of finished cells"
            found.append(Scatter(task, budget, dataset, sd, df, source))
    return found


def _part(config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: config[name] for name in names}


def of(task: str, budget: str, dataset: str, known: Sequence[Scatter]) -> Scatter | None:
    """Of `known` for this task and dataset the one of this budget; else the one of another budget that has most degrees
    of freedom, which its source then says; else the first of no budget."""
    fitting = [one for one in known if (one.task, one.dataset) == (task, dataset)]
    found = min(fitting, key=lambda one: (one.budget != budget, one.budget is None, -one.df), default=None)
    if found is None or found.budget in (budget, None):
        return found
    return replace(found, source=f"{found.source} at the budget {found.budget}, as if {budget} scattered alike")
