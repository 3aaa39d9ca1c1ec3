"""Parameters and multiply-adds of every network of the sweep: `runner.py complexity --swept`.

Peers are counted where spandrel can be imported; elsewhere they have a row that says why not. Counts do not depend on
the machine, so one file serves the times of all: `results/measured/counted/networks.json`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from results import measured, records
from suites import environment
from suites.benchmark import cost
from suites.benchmark.sweep import points
from suites.benchmark.sweep.peers import MISSING, PEERS, versions
from suites.spec import SpecError, Task

SIZES = {"sr-x2": ((64, 64), points.FULL_HD), "sr-x4": (points.NTIRE,)}  # of inputs
SIDE = 32  # of the small image that a peer is traced with: a multiple of every window
WITHIN = 1e-3  # of each other: what the two counters say where a network's cost is affine in pixels
KEPT = ("params", "macs_paper", "macs", "scan_flops", "padded", "counters")


def count(variant: str | None, show: Callable[[list[str]], None]) -> None:
    """Writes the file; each row is shown and kept as soon as it is known, and the same command goes on with the rest.

    Raises SpecError for a network: all are counted.
    """
    if variant is not None:
        raise SpecError(f"--swept counts every network of the sweep: leave out {variant}")
    made = {"command": environment.command(), "started": records.now(), **environment.describe("cpu", "reference")}
    made["versions"] |= versions()
    rows = kept(made)
    done = {(row["subject"], row["task"]) for row in rows}
    chosen = {point.subject for point in points.of_preset("resolution", torch.device("cuda"))} - set(MISSING)
    for task, sizes in SIZES.items():
        for subject in (*PEERS, *sorted(chosen - set(PEERS))):
            if (subject, task) in done:
                continue
            for size, found in zip(sizes, of_subject(subject, Task.parse(task), sizes), strict=True):
                rows.append({"subject": subject, "task": task, "height": size[0], "width": size[1], **found})
                told = found.get("reason") or f"{found['params']:,} parameters, {found['macs'] / 1e9:,.2f} G"
                show([f"{subject}, {task}, input {size[0]}x{size[1]}: {told}"])
            records.write_json(measured.NETWORKS, {"environment": made | {"finished": records.now()}, "rows": rows})


def kept(made: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that the file has by the same code and versions, all of a network or none."""
    if not measured.NETWORKS.exists():
        return []
    before = records.read_json(measured.NETWORKS)
    same = all(before["environment"].get(name) == made[name] for name in ("commit", "versions"))
    return before["rows"] if same else []


def of_subject(subject: str, task: Task, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """KEPT of one network at each size of its input, or the reason why it could not be counted."""
    peer = PEERS.get(subject)
    try:
        if peer is None:
            point = points.Point(subject, *sizes[0], "fp32", "reference")
            network = cost.built(point.model, {**task.network, **point.overrides})
            how = cost.component, cost.side_of(network)
        else:
            network = peer.build(task.scale).eval().requires_grad_(False)
            how = cost.child, SIDE
        counts = [cost.counted(network, task.channels, size, *how) for size in sizes]
    except Exception as error:  # whatever another project's network does when it is built or traced
        return [{"reason": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}] * len(sizes)
    params = {"params": peer.parameters(network)} if peer else {}
    return [{name: found[name] for name in KEPT} | _affine(found) | params for found in counts]


def _affine(found: dict[str, Any]) -> dict[str, Any]:
    """The paper's convention is counted small and extended along a line: None where the cost does not follow it."""
    return {} if found["counters"]["difference"] <= WITHIN else {"macs_paper": None}
