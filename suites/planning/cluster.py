"""When a suite would end on several GPUs: list scheduling with nodes that are slow and jobs that are preempted.

Assumed, and said with every number: cells are taken in their order by whichever GPU is free; a GPU is slow with a
probability, for the whole run; preemptions of a GPU are a Poisson process; one costs the work since the last checkpoint
and a wait until the cell goes on, on the same GPU. Kernels are compiled once a GPU, and scores come on top.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from suites.progress import counted

DRAWS = 200


@dataclass(frozen=True)
class Cluster:
    """GPUs and what goes wrong with them. Hours throughout.

    slow, slowness: share of GPUs that are slow, and their time over that of others. preemptions: of a GPU in an hour.
    checkpoint: between two checkpoints. wait: from a preemption until the cell trains again. start: before a cell
    trains (imports, pictures, the first steps).
    """

    gpus: int
    slow: float = 0.05
    slowness: float = 1.5
    preemptions: float = 1 / 24
    checkpoint: float = 1 / 12
    wait: float = 1 / 4
    start: float = 1 / 60


def ends(hours: Sequence[float], cluster: Cluster, seed: int = 0, draws: int = DRAWS) -> np.ndarray:
    """Hours [draws], sorted, until the last of the cells of these hours has ended."""
    return np.sort([_end(hours, cluster, np.random.default_rng([seed, draw])) for draw in range(draws)])


def _end(hours: Sequence[float], cluster: Cluster, rng: np.random.Generator) -> float:
    pace = np.where(rng.random(cluster.gpus) < cluster.slow, cluster.slowness, 1.0)
    free, last = [(0.0, gpu) for gpu in range(cluster.gpus)], 0.0
    for need in hours:
        now, gpu = heapq.heappop(free)
        now += cluster.start + _taken(need * pace[gpu], cluster, rng)
        heapq.heappush(free, (now, gpu))
        last = max(last, now)
    return last


def _taken(need: float, cluster: Cluster, rng: np.random.Generator) -> float:
    """Hours from a cell's first step to its last: at each preemption what came after the last checkpoint is lost."""
    kept = taken = 0.0
    while cluster.preemptions:
        until = rng.exponential(1 / cluster.preemptions)
        if kept + until >= need:
            break
        taken += until + cluster.wait
        kept = (kept + until) // cluster.checkpoint * cluster.checkpoint
    return taken + need - kept


def sentence(hours: Sequence[float], gpus: int) -> str:
    """When `hours` of cells would end on so many GPUs, in words, with the assumptions."""
    calm, cluster = ends(hours, Cluster(gpus, slow=0, preemptions=0), draws=1)[0], Cluster(gpus)
    text = f"on {counted(gpus, 'GPU')}: {calm:.3g} h if nothing goes wrong"
    found = ends(hours, cluster)
    low, middle, high = (found[int(len(found) * share)] for share in (0.05, 0.5, 0.95))
    return (
        f"{text}; simulated {len(found)} times with {cluster.slow:.0%} of GPUs {cluster.slowness:g} times slower, "
        f"each preempted every {1 / cluster.preemptions:.0f} h (checkpoints {60 * cluster.checkpoint:.0f} min apart, "
        f"{60 * cluster.wait:.0f} min of waiting): {middle:.3g} h, 90% of them between {low:.3g} and {high:.3g} h"
    )
