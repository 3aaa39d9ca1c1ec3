"""How much scores scatter between seeds, with the source: what a plan's detectable effects are computed from.

The best source wins: differences from the base, paired by seed, of finished cells (of the store, or committed under
results/measured), then the official implementation's scatter between seeds. Nothing is guessed: without a source there
is no effect.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from results.evidence import Evidence


@dataclass(frozen=True)
class Scatter:
    """Standard deviation, in dB, of a difference of PSNR means between two variants at one seed."""

    task: str
    budget: str | None  # None: of whatever budget there is no other figure for
    dataset: str
    sd: float
    source: str


OFFICIAL = (
    "sqrt 2 times the sd of three seeds of the official code (csguoh/MambaIR 33d7b34, light, batch 32, iteration 3,000 "
    "at 2e-4, NVIDIA H200, 2026-11-23): as if pairing gained nothing"
)
PUBLISHED = tuple(
    Scatter("sr-x2", None, dataset, math.sqrt(2) * sd, OFFICIAL) for dataset, sd in (("Set14", 0.06), ("Set5", 0.20))
)


def measured(evidence: Evidence) -> list[Scatter]:
    """By task, budget and dataset: the pooled sd of paired differences from the base over all families, with its
    degrees of freedom in the source; none where no variant and its base share two seeds."""
    found, members = [], evidence.families
    pairs = members[(members["is_base"] == False) & members["hash"].notna()]  # noqa: E712 - None is neither
    pairs = pairs.drop_duplicates(["hash", "base"])  # of a comparison that two families make
    ours = evidence.means.dropna(subset=["psnr"])[["hash", "dataset", "psnr"]]
    base = ours.rename(columns={"hash": "base", "psnr": "psnr_base"})
    both = pairs.merge(ours, on="hash").merge(base, on=["base", "dataset"])
    both["difference"] = (both["psnr"] - both["psnr_base"]).astype("float64")
    for (task, budget, dataset), part in both.groupby(["task", "budget", "dataset"]):
        variants = part.groupby(["comparison", "variant"])["difference"]
        df = int((variants.size() - 1).sum())
        squares = float((part["difference"] - variants.transform("mean")).pow(2).sum())
        if df and squares > 0:
            source = f"paired differences of finished cells, {df} degrees of freedom"
            found.append(Scatter(task, budget, dataset, math.sqrt(squares / df), source))
    return found


def of(task: str, budget: str, dataset: str, known: Sequence[Scatter]) -> Scatter | None:
    """The first of `known` for this task, budget and dataset, else the first for any budget."""
    fitting = [one for one in known if (one.task, one.dataset) == (task, dataset) and one.budget in (budget, None)]
    return min(fitting, key=lambda one: one.budget is None, default=None)
