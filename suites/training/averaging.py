"""The uniform average of a network's weights over the last tenth of its training.

`torch.optim.swa_utils.AveragedModel` keeps a running mean, whose rounding differs from that of a sum divided once: the
averages that were measured and committed (docs/pilot.md) are of sums. It also copies the whole module, while a sum of
tensors fits into a checkpoint as it is.
"""

from pathlib import Path

import safetensors.torch

from results import records
from suites.spec import Budget
from suites.training.state import Run


def sampled(budget: Budget) -> range:
    """Iterations whose weights are averaged: 12 in the last tenth, every 50th of 6,000; fewer in a very short run."""
    total = budget.iterations
    return range(total, total - max(1, total // 10), -max(1, total // 120))


def add(run: Run) -> None:
    """Adds the weights of an iteration in `sampled` to the sums in `run.extra`, on the device; otherwise nothing."""
    if run.step not in sampled(run.budget):
        return
    sums = run.extra.setdefault("sums", {})
    for name, tensor in run.model.state_dict().items():
        if tensor.is_floating_point():
            sums[name] = tensor.clone() if name not in sums else sums[name].to(tensor.device) + tensor
    run.extra["samples"] = run.extra.get("samples", 0) + 1


def write(run: Run, path: Path) -> None:
    """The average of what was added, in a file of its own; integer buffers as they are."""
    mean = {name: (total / run.extra["samples"]).cpu() for name, total in run.extra["sums"].items()}
    records.write_bytes(path, safetensors.torch.save(run.tensors() | mean))
