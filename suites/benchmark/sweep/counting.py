"""Parameters and multiply-adds of every network of the sweep: `runner.py complexity --swept`.

Peers are counted where spandrel can be imported; elsewhere they have a row that says why not. Counts do not depend on
the machine, so one file serves the times of all: `results/measured/counted/networks.json`.
"""

from collections.abc import Callable
from typing import Any

import torch

from results import measured, records
from suites import environment
from suites.benchmark import cost
from suites.benchmark.sweep import points
from suites.benchmark.sweep.peers import MISSING, PEERS, versions
from suites.spec import SpecError, Task

SIZES = {"sr-x2": ((64, 64), points.FULL_HD), "sr-x4": (points.NTIRE,)}  # of inputs
SIDE = 64  # of the small image that a peer is traced with: a multiple of every window
KEPT = ("params", "macs_paper", "macs", "scan_flops", "padded", "counters")


def count(variant: str | None, show: Callable[[list[str]], None]) -> None:
    """Writes the file; each row is shown as soon as it is known. Raises SpecError for a network: all are counted."""
    if variant is not None:
        raise SpecError(f"--swept counts every network of the sweep: leave out {variant}")
    rows = []
    chosen = points.of_preset("resolution", torch.device("cuda"))
    for subject in dict.fromkeys(point.subject for point in chosen if point.subject not in MISSING):
        for task, sizes in SIZES.items():
            for size in sizes:
                rows.append({"subject": subject, "task": task, "height": size[0], "width": size[1]})
                rows[-1] |= of_subject(subject, Task.parse(task), size)
                told = rows[-1].get("reason") or f"{rows[-1]['params']:,} parameters, {rows[-1]['macs'] / 1e9:,.2f} G"
                show([f"{subject}, {task}, input {size[0]}x{size[1]}: {told}"])
    made = {"command": environment.command(), "finished": records.now(), **environment.describe("cpu", "reference")}
    made["versions"] |= versions()
    records.write_json(measured.NETWORKS, {"environment": made, "rows": rows})


def of_subject(subject: str, task: Task, size: tuple[int, int]) -> dict[str, Any]:
    """KEPT of one network, or the reason why it could not be counted."""
    peer = PEERS.get(subject)
    if peer is None:
        point = points.Point(subject, *size, "fp32", "reference")
        output = tuple(side * task.scale for side in size)
        found = cost.complexity(point.model, task, output, **point.overrides)
        return {name: found[name] for name in KEPT}
    try:
        network = peer.build(task.scale).eval().requires_grad_(False)
        found = cost.counted(network, task.channels, size, cost.child, SIDE)
    except Exception as error:  # whatever another project's network does when it is built or traced
        return {"reason": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return {name: found[name] for name in KEPT} | {"params": peer.parameters(network)}
