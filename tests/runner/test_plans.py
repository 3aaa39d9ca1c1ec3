"""Dry runs, complexity, silence and interruption, doctor and data, called as a user would."""

import json
import time
from pathlib import Path

import pytest

from suites import commandline as cli
from tests.runner.helpers import Command, refused


def test_dry_run_says_what_it_would_cost(command: Command, tmp_path: Path) -> None:
    status, out, _ = command("run", "paper-light-x2", "--dry-run", "--results", tmp_path / "store")
    assert status == 0
    for word in ("iterations=500000", "batch=32", "patch=64", "milestones=250000,400000,450000,475000", "DIV2K"):
        assert word in out
    assert not (tmp_path / "store").exists()


def test_a_selection_brings_the_base_of_its_families(command: Command, tmp_path: Path) -> None:
    dry = ["run", "ablations", "--only", "tokens-*/seed-1", "--dry-run", "--results", tmp_path / "store"]
    status, out, _ = command(*dry)
    prose = " ".join(out.split())
    assert status == 0 and "ablations: 5 cells" in out and "base/sr-x2/seed-1" in out and "rank" not in prose
    assert "with the bases that the variants are compared with: base/sr-x2/seed-1 (--no-base leaves them out)" in prose
    assert "tokens, sr-x2 4 against base, 1 seed" in prose
    status, out, _ = command(*dry, "--no-base")
    assert status == 0 and "ablations: 4 cells" in out and "against base" not in out
    assert "compared with nothing, for their base is no part of this plan: tokens (sr-x2)" in " ".join(out.split())
    out = command("run", "ablations", "--only", "scans-2/*", "--dry-run", "--results", tmp_path / "store")[1]
    assert "scans, sr-x2 1 against base, 4 seeds" in " ".join(out.split())  # of the two that the family has


def test_complexity_takes_overrides_and_all(command: Command, tmp_path: Path, monkeypatch) -> None:
    def counted(model: str) -> dict:
        file = tmp_path / "counts.json"
        status, out, _ = command("complexity", model, "--output", "64x64", "--json", file)
        assert status == 0 and out.startswith(f"{model}, sr-x2, output 64x64")
        return json.loads(file.read_text())

    plain, twice = counted("mambairv2-tiny"), counted("mambairv2-tiny scans=2")
    assert twice["scan_flops"] == 2 * plain["scan_flops"] and twice["params"] > plain["params"]
    assert (plain["overrides"], twice["overrides"]) == ({}, {"scans": 2})
    refused(command("complexity", "mambairv2-tiny scan=2"), "has no argument 'scan'", "scans")
    refused(command("complexity", "mambairv2-tiny scans=3"), "scans must be one of")
    refused(command("complexity"), "no network was named", "--all")
    refused(command("complexity", "mambairv2-tiny", "--all"), "leave out mambairv2-tiny")
    refused(command("complexity", "mambairv2-tiny", "--output", "64"), "'64' is no size")
    folder = tmp_path / "counted"
    monkeypatch.setattr("results.measured.COMPLEXITY", folder / "complexity.csv")
    monkeypatch.setattr("suites.benchmark.cost.GRID", (("mambairv2-tiny scans=2", ("sr-x2",), ((64, 64),)),))
    status, out, _ = command("complexity", "--all")
    assert status == 0 and str(twice["macs"]) in out and str(twice["macs"]) in (folder / "complexity.csv").read_text()
    assert json.loads((folder / "environment.json").read_text())["command"] == "runner.py complexity --all"


def test_a_dry_run_builds_no_network(command: Command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("torch.nn.Module.__init__", lambda *_: pytest.fail("a network was built"))
    assert command("run", "ablations", "--dry-run", "--results", tmp_path / "store")[0] == 0


def test_work_that_takes_long_is_announced_on_stderr(monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli, "PATIENCE_S", 0.01)
    with cli.busy("complexity"):
        time.sleep(0.2)
    monkeypatch.setattr(cli, "PATIENCE_S", 10)
    with cli.busy("tables"):
        pass
    assert capsys.readouterr() == ("", "counting ...\n")


def test_ctrl_c_says_what_is_kept(command: Command, tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("suites.recipes.choose", interrupted)
    status, _, err = command("run", "smoke", "--results", tmp_path / "store")
    assert status == 130 and err.startswith("stopped: finished cells are stored") and len(err.splitlines()) == 1
    monkeypatch.setattr("suites.benchmark.cost.of_variant", interrupted)
    assert command("complexity", "mambairv2-tiny")[::2] == (130, "stopped: nothing was written\n")


def test_dry_run_plans_for_another_machine(command: Command, tmp_path: Path) -> None:
    status, out, _ = command("run", "pilot", "--dry-run", "--results", tmp_path / "store", "--device", "cpu")
    assert status == 0 and "8 cells, 48,000 iterations" in out
    prose = " ".join(out.split())
    assert "cannot run here: tf32x3 is a precision of Triton kernels" in prose and "(--set precision=NAME)" in prose
    assert "cannot run here: BSD100, BSDS500-test, BSDS500-train, Set14, T91, Urban12: no folder of datasets" in prose
    refused(command("run", "smoke", "--dry-run", "--backend", "no-such"), "no-such")


def test_a_dry_run_is_as_wide_as_the_terminal(command: Command, tmp_path: Path, monkeypatch) -> None:
    plan = "run", "pilot", "--dry-run", "--results", tmp_path / "store", "--device", "cpu"
    whole = command(*plan)[1]  # into a pipe
    monkeypatch.setenv("COLUMNS", "70")
    wrapped = command(*plan)[1]
    assert max(map(len, whole.splitlines())) > 100 and whole.split() == wrapped.split()
    assert all(len(line) <= 70 for line in wrapped.splitlines() if len(line.split()) > 1)


def test_doctor_names_every_backend(command: Command) -> None:
    status, out, _ = command("doctor")
    assert status == 0
    for backend in ("reference", "chunked", "cpu"):
        assert f"scan backend {backend}" in out


def test_data_check_counts_every_set(command: Command) -> None:
    status, out, _ = command("data", "check")
    assert status == 0
    assert out.splitlines() == ["standard images: embedded 3 of 3, embedded-train 8 of 8"]
