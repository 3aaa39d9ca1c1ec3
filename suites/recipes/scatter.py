"""How much scores scatter between seeds, with the source: what a plan's detectable effects are computed from.

The best source wins: differences from the base, paired by seed, of finished cells in this store or in results/measured;
then the official implementation's scatter between seeds. Nothing is guessed: without a source there is no effect.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from results.store import Store


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


def measured(stores: Sequence[Store]) -> list[Scatter]:
    """By task, budget and dataset: the pooled sd of paired differences from the base over all families, with its
    degrees of freedom in the source; none where no variant and its base share two seeds."""
    found = []
    for store in stores:
        members = store.families()
        members = members[(members["is_base"] == False) & members["hash"].notna()]  # noqa: E712 - None is neither
        pairs = members.drop_duplicates(["hash", "base"])  # of a comparison that two families make
        means = store.means().dropna(subset=["psnr"])
        ours, base = means[["hash", "dataset", "psnr"]], means[["hash", "dataset", "psnr"]]
        both = pairs.merge(ours, on="hash").merge(
            base.rename(columns={"hash": "base"}), on=["base", "dataset"], suffixes=("", "_base")
        )
        where = "here" if store is stores[0] else f"in results/measured/{store.root.name}"
        both["difference"] = (both["psnr"] - both["psnr_base"]).astype("float64")
        for (task, budget, dataset), part in both.groupby(["task", "budget", "dataset"]):
            groups = part.groupby(["comparison", "variant"])["difference"]
            df = int((groups.size() - 1).sum())
            squares = float((part["difference"] - groups.transform("mean")).pow(2).sum())
            if df and squares > 0:
                source = f"paired differences of finished cells {where}, {df} degrees of freedom"
                found.append(Scatter(task, budget, dataset, math.sqrt(squares / df), source))
    return found


def of(task: str, budget: str, dataset: str, known: Sequence[Scatter]) -> Scatter | None:
    """The first of `known` for this task, budget and dataset, else the first for any budget."""
    fitting = [one for one in known if (one.task, one.dataset) == (task, dataset) and one.budget in (budget, None)]
    return min(fitting, key=lambda one: one.budget is None, default=None)
