"""`profile --preset resolution`: the sweep of a preset on a device, filed in the store."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from results.costs import lines
from suites import environment
from suites.benchmark.sweep import peers
from suites.benchmark.sweep.driver import LIMIT_S, Sweep
from suites.benchmark.sweep.points import Point, of_preset
from suites.progress import counted
from suites.spec import SpecError

WRONG = ("differs", "failed")


@dataclass(frozen=True)
class Swept:
    """What a file holds of the points that were asked for. left: how many it lacks. short: what is said where the
    seconds were too few for any."""

    path: Path
    costs: lines.Costs
    statuses: Counter
    left: int
    short: str | None = None

    @property
    def ok(self) -> bool:
        """Whether something was timed, or would have been with more seconds, and nothing failed or computed something
        else."""
        timed = self.statuses["ok"] > 0 or self.short is not None
        return timed and not any(self.statuses[status] for status in WRONG)

    def lines(self) -> list[str]:
        told = ", ".join(f"{count} {status}" for status, count in self.statuses.most_common()) or "nothing"
        rows = [row for row in self.costs.rows.values() if row["status"] == "ok"]
        checked = sum(row["check"]["seconds"] for row in rows)
        measured = sum(row["measure_s"] for row in rows)
        noisy = sum(bool(row["noise"]) for row in rows)
        how = "with so many seconds the same command" if self.short else "the same command"
        left = [f"{counted(self.left, 'point')} left: {how} goes on with them"] if self.left else []
        left = [self.short, *left] if self.short else left
        noted = [f"{noisy} of {len(rows)} times are noisy; checking took {checked:,.0f} s, measuring {measured:,.0f} s"]
        more = ["runner.py export STORE MACHINE/NAME commits them; `report` and `figures resolution` show them"]
        return [f"{self.path}: {told}", *(noted if rows else []), *left, *(more if rows else [])]


def run(
    preset: str,
    root: Path,
    device: str,
    *,
    only: str | None = None,
    gpus: int | None = None,
    seconds: float = math.inf,
    limit: float | None = None,
    say: Callable[[str], object] = print,
) -> Swept:
    """Measures what the store at `root` lacks of a preset. Returns what is filed of it.

    only: see `named`, in place of all of the preset. gpus: how many are used at a time. seconds: no point is
    begun that is expected to end after them, and what runs then is ended. limit: seconds of a point. Raises SpecError
    for an unknown preset or subject, StoreError where the file cannot be written or another command writes it.
    """
    where = torch.device(device)
    if gpus and where.type != "cuda":
        raise SpecError(f"--gpus {gpus}: the device is {where.type}; leave it out")
    if gpus and gpus > torch.cuda.device_count():
        raise SpecError(f"--gpus {gpus}: PyTorch sees {torch.cuda.device_count()} here")
    chosen = of_preset(preset, where)
    if only is not None:
        chosen = named(chosen, only)
    backends = ", ".join(dict.fromkeys(point.backend for point in chosen if point.backend != "none"))
    machine = environment.describe(where, backends) | {"machine": environment.examine()}
    machine["versions"] |= peers.versions()
    path = lines.place(root, machine)
    writer = lines.Writer(path, machine)
    try:
        number = (gpus or 1) if where.type == "cuda" else 0
        sweep = Sweep(chosen, writer, where, number, seconds, limit or LIMIT_S[where.type], say)
        sweep.run()
    finally:
        writer.close()
    filed = [writer.costs.rows[point.key] for point in chosen if point.key in writer.costs.rows]
    done = sum(writer.costs.is_done(point.key) for point in chosen)
    statuses = Counter(row["status"] for row in filed)
    return Swept(path, writer.costs, statuses, len(chosen) - done, sweep.too_short())


def named(points: Sequence[Point], only: str) -> list[Point]:
    """Those of some subjects or names, or that match a pattern with * (`mambairv2-light *training*`), as the command
    asks for them: by commas, the most important first.

    Raises SpecError for a subject or pattern that none of `points` has.
    """
    found: dict[Point, None] = {}
    for name in (" ".join(part.split()) for part in only.split(",")):
        exact = [point for point in points if name in (point.subject, point.name)]
        chosen = exact or [point for point in points if "*" in name and fnmatchcase(point.name, name)]
        if not chosen:
            subjects = ", ".join(dict.fromkeys(point.subject for point in points))
            what = f"no point is called {name}" if "*" in name else f"unknown {name}"
            raise SpecError(f"{what}: --models takes of this preset {subjects}; or patterns such as '*training*'")
        found |= dict.fromkeys(chosen)
    return list(found)
