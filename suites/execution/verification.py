"""A stored cell, run once more: the same bits?"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from results import records
from results.agreement import limits, other_machines
from results.store import Store, StoreError
from suites import variant
from suites.execution.engine import PROGRAM, EngineError, run
from suites.network_file import NetworkFile
from suites.spec import Cell, Suite, Task, check_choice
from suites.training import initial


@dataclass(frozen=True)
class Verification:
    """A stored cell against a fresh run of it. differences: largest score difference per dataset, in dB.

    machine: what differs between the two runs (device, threads, versions, ...), since other machines make other bits.
    limit: how far scores of the same weights may differ between the two (`results.agreement`). exact: whether they may
    not differ at all.
    """

    name: str
    hash: str
    same_weights: bool
    differences: dict[str, float]
    machine: list[str]
    limit: limits.Limit
    exact: bool = False

    @property
    def same(self) -> bool:
        return self.same_weights and not any(self.differences.values())

    @property
    def ok(self) -> bool:
        """Whether both say the same: the same bits, or (unless `exact`) on two machines, by two commits or versions
        the same weights, scored within their limit."""
        if self.same or self.exact:
            return self.same
        largest = max(self.differences.values(), default=0.0)
        return self.same_weights and self.limit.psnr > limits.EXACT and largest <= self.limit.psnr

    def lines(self) -> list[str]:
        within = f"the same weights, and scores within {self.limit.psnr:.2g} dB ({self.limit.why})"
        verdict = "the same bits" if self.same else within if self.ok else "other bits"
        weights = "equal" if self.same_weights else "different"
        scores = ", ".join(
            f"{name} {'equal' if not value else f'up to {value:.2g} dB apart'}"
            for name, value in self.differences.items()
        )
        machine = "; ".join(self.machine) or "no difference recorded"
        return [f"{self.name} ({self.hash}): {verdict}", f"weights {weights}; {scores}", f"machine: {machine}"]


def verify(
    name: str,
    store: Store,
    *,
    device: str | None = None,
    data: Path | None = None,
    own: NetworkFile | None = None,
    task: Task | None = None,
    exact: bool = False,
    console: Console | None = None,
    program: Sequence[str] = PROGRAM,
) -> Verification:
    """Runs a finished cell again in a scratch folder, as it was run (threads, backend, determinism), and compares.

    name: hash, start of it, or cell name. device: another device than the stored kind.
    own: the class of a cell whose network is one in a file; task: that of a cell with a user's degradation.
    exact: whether scores must have the same bits on another machine or by another commit, too. Raises StoreError when
    there is no such finished cell, SpecError where that file is missing or another, EngineError when it does not run.
    """
    folder = store.resolve_cell(name)
    status = store.status(folder)
    if status["state"] != "done":
        raise StoreError(f"{folder.name} is {status['state']}, not done: there is nothing to compare with")
    cell = Cell.from_config(store.read_config(folder))
    before = records.read_json(folder / "environment.json")
    backend = before.get("backend", "auto")
    if task is not None:
        check_choice("task of this cell", task.name, (cell.task.name,))
        cell = replace(cell, task=task)
    if cell.variant.source is not None:
        variant.check(cell.variant, own)
        backend = "auto"  # it has no scan of ours
    with tempfile.TemporaryDirectory(prefix="verify-") as scratch:
        again = Store(scratch)
        outcome = run(
            Suite("verify", "", (cell,)),
            again,
            device=device or before.get("device_type", "cpu"),
            data=data,
            backend=backend,
            deterministic=before.get("deterministic", False),
            threads=before.get("threads"),
            jobs=1,
            own=own and own.path,
            init=cell.initial and initial.path(store.root, cell.initial.weights),
            console=console,
            program=program,
        )
        if not outcome.ok:
            raise EngineError(f"{cell.name} did not run again: {outcome.failed[cell.name]}")
        fresh = again.cell_folder(cell.config())
        now = records.read_json(fresh / "environment.json")
        return Verification(
            cell.name,
            folder.name,
            same_weights=again.status(fresh).get("weights") == status.get("weights") is not None,
            differences=_differences(folder, fresh),
            machine=_machine(before, now),
            limit=limits.between(*map(other_machines.machine_of, (before, now)), cell.protocol.to_dict()),
            exact=exact,
        )


def _differences(folder: Path, fresh: Path) -> dict[str, float]:
    """Largest |PSNR difference| per dataset; an image of one run only, or null in one only, counts as infinite."""
    pair = [
        records.read_frame(path / "scores.parquet").set_index(["dataset", "image"])["psnr"] for path in (folder, fresh)
    ]
    one, other = pair[0].align(pair[1])
    gap = (one - other).abs().where(one.notna() | other.notna(), 0.0).fillna(float("inf"))
    return {str(name): float(value) for name, value in gap.groupby(level="dataset").max().items()}


def _machine(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    told = {"device", "backend", "threads", "system", "python", "commit", "deterministic", "processes", "sums"}
    pairs = [(name, before.get(name), now.get(name)) for name in sorted(told)]
    versions = [item.get("versions") or {} for item in (before, now)]
    pairs += [(name, *(item.get(name) for item in versions)) for name in sorted({*versions[0], *versions[1]})]
    return [f"{name} {a} then, {b} now" for name, a, b in pairs if a != b]
