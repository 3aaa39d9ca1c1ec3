"""A suite on a real SLURM: one array, and a node that is killed in the middle. `make slurm` starts one, runs this."""

import io
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from results import locks
from results.store import Store
from suites import recipes
from suites.execution import engine
from suites.spec import Suite
from tests.suites.conftest import SETS, pictures

__all__ = ["pictures"]

if "SLURM_CONF" not in os.environ or subprocess.run(["sinfo", "-h"], capture_output=True).returncode:
    pytest.skip("needs a SLURM of its own: make slurm", allow_module_level=True)

FOLDER = Path(os.environ["SLURM_CONF"]).parent
CHANGES = ("iterations=60", "batch=2", "patch=16", "milestones=20", "checkpoint_every=5", "tiling=16", *SETS)


@pytest.fixture(scope="module")
def suite() -> Suite:
    return recipes.choose("smoke", only="base/*", seeds="0,1", changes=CHANGES)


def go(suite: Suite, root: Path, data: Path, **options) -> tuple[engine.Outcome, str]:
    told = io.StringIO()
    return engine.run(suite, Store(root), data=data, console=Console(file=told, width=200), **options), told.getvalue()


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def kill_its_node(folder: Path, told: list[str]) -> None:
    """Once a checkpoint is there: -9 for the cell's process, what started it, and the node's slurmd. SLURM then finds
    the node gone, and starts its job again on the other one, without the delay that it usually leaves."""
    while not (folder / "checkpoint.pt").exists() or (holder := locks.holder(folder)) is None:
        time.sleep(0.05)
    job = holder.job
    node = asked("squeue", "-h", "-j", job, "-o", "%N").strip()
    told.append(f"job {job} runs on {node}")
    family = [holder.pid]
    while (parent := int(Path(f"/proc/{family[-1]}/stat").read_text().rpartition(")")[2].split()[1])) > 1:
        family.append(parent)
    slurmd = int((FOLDER / f"{node}.pid").read_text())
    for pid in (slurmd, *reversed([pid for pid in family if pid != slurmd])):
        os.kill(pid, signal.SIGKILL)
    told.append(f"killed {node}: slurmd and {len(family)} processes of the job")
    state = ""
    for _ in range(1200):
        now = asked("squeue", "-h", "-j", job, "-o", "%T %r %N").strip() if state != "gone" else ""
        if now != state:
            state = now or "gone"
            told.append(f"job {job}: {state}")
        if now.startswith("PENDING BeginTime"):
            asked("scontrol", "update", f"JobId={job}", "StartTime=now")
        if now.startswith("RUNNING") and node not in now:
            return
        time.sleep(0.1)


def test_a_suite_ends_in_the_same_bytes_though_a_node_is_killed(suite, pictures, tmp_path):
    local, _ = go(suite, tmp_path / "local", pictures, threads=1)
    assert local.ok
    facts: list[str] = []
    victim = Store(tmp_path / "cluster").cell_folder(suite.cells[0].config())
    killer = threading.Thread(target=kill_its_node, args=(victim, facts))
    killer.start()
    outcome, told = go(suite, tmp_path / "cluster", pictures, launch="submitit")
    killer.join()
    print("\n".join([*facts, told]))
    assert outcome.ok and len(outcome.done) == 2
    assert any("killed node" in fact for fact in facts) and any("RUNNING" in fact for fact in facts[2:])
    for cell in suite.cells:
        ours, theirs = (Store(tmp_path / where).cell_folder(cell.config()) for where in ("local", "cluster"))
        assert (ours / "weights.safetensors").read_bytes() == (theirs / "weights.safetensors").read_bytes()
    names = {path.name.partition("_")[0] for path in (tmp_path / "cluster" / ".launch").glob("*_submission.sh")}
    assert len(names) <= 1  # one array
    assert len(Store(tmp_path / "cluster").scores()) == len(Store(tmp_path / "local").scores())
