"""Parameters and multiply-adds of every network of the sweep: `runner.py complexity --swept`.

Peers are counted where spandrel can be imported; elsewhere they have a row that says why not. Counts do not depend on
the machine, so one file serves the times of all: `results/measured/counted/networks.json`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
KEY = ("subject", "task", "height", "width")  # of a row
SAME = ("commit", "versions")  # of environments that count alike
KEPT = ("params", "macs_paper", "macs", "scan_flops", "padded", "counters")


def count(variant: str | None, show: Callable[[list[str]], None]) -> None:
    """Writes the file; each row is shown and kept as soon as it is known, and the same command goes on with the rest.

    A row counted before, by another commit or other versions, stays until its network is counted again, and where that
    cannot be done here. Raises SpecError for a network: all are counted.
    """
    if variant is not None:
        raise SpecError(f"--swept counts every network of the sweep: leave out {variant}")
    made = {"command": environment.command(), "started": records.now(), **environment.describe("cpu", "reference")}
    made["versions"] |= versions()
    known, counted = Known.read(made), False
    chosen = {point.subject for point in points.of_preset("resolution", torch.device("cuda"))} - set(MISSING)
    for task, sizes in SIZES.items():
        for subject in (*PEERS, *sorted(chosen - set(PEERS))):
            if known.has(subject, task, sizes):
                continue
            for size, found in zip(sizes, of_subject(subject, Task.parse(task), sizes), strict=True):
                told = found.get("reason") or f"{found['params']:,} parameters, {found['macs'] / 1e9:,.2f} G"
                before = known.take({"subject": subject, "task": task, "height": size[0], "width": size[1], **found})
                kept = f"; kept as counted by commit {before['commit'][:10]}" if before else ""
                show([f"{subject}, {task}, input {size[0]}x{size[1]}: {told}{kept}"])
            known.write()
            counted = True
    if counted:
        known.environments[known.label]["finished"] = records.now()
        known.write()


@dataclass
class Known:
    """What the file holds. environments: by the label that rows name; label: of the one that counts now."""

    environments: dict[str, dict[str, Any]]
    rows: dict[tuple, dict[str, Any]]  # by KEY
    label: str

    @classmethod
    def read(cls, made: dict[str, Any]) -> "Known":
        """The file as it is, and what counts now: `made`, or what has begun to count by the same code and versions."""
        file = records.read_json(measured.NETWORKS) if measured.NETWORKS.exists() else {"environments": {}, "rows": []}
        environments, rows = file["environments"], {tuple(row[name] for name in KEY): row for row in file["rows"]}
        same = (label for label, told in environments.items() if all(told[name] == made[name] for name in SAME))
        label = next(same, None) or str(1 + max(map(int, environments), default=0))
        return cls({label: made, **environments}, rows, label)

    def has(self, subject: str, task: str, sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether the code and versions of now have counted a network at all its sizes."""
        rows = [self.rows.get((subject, task, *size)) for size in sizes]
        return all(row is not None and row["environment"] == self.label for row in rows)

    def take(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Keeps a row in place of the earlier one. Returns who made that, where it is a count and this is none: then
        it stays."""
        key = tuple(row[name] for name in KEY)
        before = self.rows.get(key)
        if before is not None and "reason" in row and "reason" not in before:
            return self.environments[before["environment"]]
        self.rows[key] = row | {"environment": self.label}
        return None

    def write(self) -> None:
        rows = list(self.rows.values())
        used = {row["environment"] for row in rows}
        environments = {label: told for label, told in self.environments.items() if label in used}
        records.write_json(measured.NETWORKS, {"environments": environments, "rows": rows})


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
