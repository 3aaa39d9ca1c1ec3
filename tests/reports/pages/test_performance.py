"""docs/performance.md: its tables are those of the committed measurements, and its floors those of the formulas."""

import json

import pytest

from reports.costs import floors, goals
from reports.pages import performance
from results import measured
from results.records import StoreError

RATES = measured.goals()["machines"]["NVIDIA H200"]["rates"]
ENVIRONMENT = {
    **{"command": "runner.py profile --preset goals", "commit": "0123456789abcdef", "device": "NVIDIA H200"},
    **{"device_type": "cuda", "threads": 2, "started": "2026-11-23T12:00:00+00:00", "versions": {"torch": "2.13.0"}},
}


def scan_row(**more):
    row = {"operator": "scan", "mode": "forward", "batch": 1, "channels": 48, "states": 8, "length": 230400}
    row |= {"precision": "fp32", "backend": "triton", "launch": "graph", "status": "ok", "reason": None, "ratio": 1.0}
    row |= {"median_ms": 0.09, "p10_ms": 0.08, "p90_ms": 0.1, "peak_mib": 200.0, "pool_mib": 60.0, "first_call_s": 2.0}
    return row | {"ratio_low": None, "ratio_high": None, "check": {"error": 3e-7, "tolerance": 2e-5}} | more


def network_row(**more):
    row = {"model": "mambairv2-light", "overrides": {}, "task": "sr-x2", "mode": "training", "batch": 32}
    row |= {"height": 64, "width": 64, "precision": "bf16", "backend": "triton", "launch": "graph", "status": "ok"}
    row |= {"median_ms": 50.0, "p10_ms": 49.0, "p90_ms": 51.0, "peak_mib": 12288.0, "pool_mib": 13312.0}
    row |= {"first_call_s": 9.0, "macs": None, "ratio": 1.0, "ratio_low": None, "ratio_high": None, "reason": None}
    return row | {"check": {"share_given": 0.9999, "limits": {"given": 0.5}}} | more


def profile(rows=(), operators=(), file="h200/profile-goals.json", **more):
    return {"file": file, "rows": rows, "operators": operators, "environment": ENVIRONMENT | more}


def test_committed_profiles_are_whole():
    for found in measured.profiles():
        assert found["rows"] or found["operators"]


def test_the_floor_of_a_scan_is_what_it_moves_or_its_exponentials():
    # 0.034 ms at 4.3 TB/s and 0.31 ms of exponentials: the official measurements' own figures for these two
    assert floors.scan_floor_ms(scan_row(), RATES) == pytest.approx(0.0343 * 4.3 / 4.1538, rel=0.01)
    wide = scan_row(channels=348, states=16)
    assert floors.scan_floor_ms(wide, RATES) == pytest.approx(0.31, rel=0.02)
    both = scan_row(mode="forward+backward", batch=32, length=4096)
    moved = 4 * 32 * 4096 * (8 * 48 + 6 * 8)
    assert floors.scan_floor_ms(both, RATES) == pytest.approx(1e3 * moved / RATES["bytes_per_s"])


def test_the_floor_of_a_network_is_its_products():
    assert floors.network_floor_ms(network_row(precision="fp32", mode="inference", batch=1), 286e9, RATES) == (
        pytest.approx(11.3, rel=0.01)
    )
    step = floors.network_floor_ms(network_row(precision="fp32"), 10**9, RATES)
    assert step == pytest.approx(3 * 32 * 2e9 / RATES["fp32"] * 1e3)
    assert floors.network_floor_ms(network_row(), 10**9, RATES) == pytest.approx(step * RATES["fp32"] / 7.97552e14)


def test_the_multiply_adds_of_the_goals_are_those_counted():
    counted = measured.complexity()
    for goal in (goal for goal in measured.goals()["goals"] if (goal.get("height"), goal.get("width")) == (360, 640)):
        found = counted[(counted["model"] == goal["model"]) & (counted["size"] == "720x1280")]
        found = found[(found["task"] == goal["task"]) & (found["overrides"] == "")]
        assert found["macs"].tolist() == [goal["macs"]]


def shown(blocks) -> str:
    return performance.markdown(blocks)


def cells(table: str, *words: str) -> list[str]:
    """The cells of the one line that holds all words."""
    (line,) = [line for line in table.splitlines() if line.startswith("|") and all(word in line for word in words)]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_times_stand_beside_their_goal():
    peer = scan_row(backend="mamba_ssm", launch="eager", median_ms=2.0)
    failed = scan_row(launch="eager", status="unavailable", reason="no GPU", median_ms=None)
    slow = network_row(precision="tf32x3", median_ms=99.0)
    table = shown(performance.times([profile([network_row(), slow], [scan_row(), peer, failed])]))
    assert cells(table, "fp32 graph", "L230400") == [
        *("scan forward, B1 D48 N8 L230400", "fp32 graph", "1.529", "0.1", "0.08", "0.09000"),
        *("0.0800, 0.100", "0.0355", "2.5", "goal", "2026-11-23, 01234567"),
    ]
    assert cells(table, "mamba_ssm")[-2] == "" and cells(table, "mamba_ssm")[3:5] == ["", ""]
    assert "cannot run" in cells(table, "fp32 eager")
    assert cells(table, "bf16 graph")[-2] == "goal" and cells(table, "bf16 graph")[2] == ""
    assert cells(table, "tf32x3 graph")[-2] == "no, 1.10 times it"
    assert "commit 0123456789, NVIDIA H200" in table
    assert performance.times([profile([network_row()], device="NVIDIA A100")]) == []


def test_every_machine_is_held_against_its_own_official_figures():
    there = profile([network_row(precision="tf32")], file="h100/profile-goals.json", device="NVIDIA H100 80GB HBM3")
    both = [profile([network_row(precision="tf32")]), there]
    first, second = shown(performance.times(both)).split("One NVIDIA H100")
    assert "which the goals are for" in first and "which the goals are for" not in second
    assert [cells(part, "tf32 graph")[2] for part in (first, second)] == ["250.1", "318.3"]
    assert "h100/profile-goals.json" in second and "h100/profile-goals.json" not in first


def test_every_goal_has_official_figures_on_every_machine():
    goals = measured.goals()
    assert goals["goals_for"] in goals["machines"]
    for machine in goals["machines"].values():
        assert set(machine["official"]) == {goal["what"] for goal in goals["goals"]}


def test_the_latest_measurement_counts():
    old, new = profile([network_row()]), profile([network_row(median_ms=30.0)], file="h200/profile-later.json")
    table = shown(performance.times([old, new]))
    assert cells(table, "bf16")[-2] == "stretch" and "profile-later" in table and "profile-goals" not in table


def test_the_latest_is_told_by_its_date_and_not_by_the_order_of_files(monkeypatch):
    later = profile([network_row(median_ms=30.0)], started="2026-11-24T12:00:00+00:00")
    monkeypatch.setattr(performance, "swept", list)
    for found in ([later, profile([network_row()])], [profile([network_row()]), later]):
        monkeypatch.setattr(performance.measured, "profiles", lambda found=found, **_: found)
        assert "30.00" in cells(shown(performance.blocks()["times"]()), "bf16 graph")


def test_goals_of_the_second_round_have_the_latest_time_and_a_ratio_of_one_profile(monkeypatch):
    at = {"mode": "inference", "batch": 1, "height": 360, "width": 640}
    graph = network_row(**at, median_ms=20.0, p10_ms=19.9, p90_ms=20.1)
    tiles = network_row(**at, launch="tiles", median_ms=22.0, ratio=1.1, ratio_low=1.08, ratio_high=1.2)
    other = network_row(**at, precision="tf32x3", launch="tiles", ratio=1.3)  # over the other precision's graph
    scans = [scan_row(median_ms=ms, p10_ms=ms, p90_ms=ms) for ms in (0.2, 0.08)]
    found = [profile([graph, tiles, other], [scans[0]]), profile([], [scans[1]], file="h200/profile-later.json")]
    monkeypatch.setattr(measured, "profiles", lambda *_: found)
    monkeypatch.setattr("results.costs.committed.load", list)
    table = "\n".join(" | ".join(cell.text for cell in row) for row in goals.table()[0].rows)
    (light,) = (line for line in table.splitlines() if line.startswith("light x2, 360x640 | bf16"))
    assert light.split(" | ")[3:] == ["20.00", "19.9, 20.1", "", "1.33", "no", "0.659", "30", "2026-11-23"]
    (ratio,) = (line for line in table.splitlines() if "| bf16 tiles" in line)
    assert ratio.split(" | ")[2:8] == ["1.15 times", "1.10", "", "1.08, 1.20", "0.96", "yes"]
    assert "tf32x3 tiles | 1.15 times | not measured" in table and "0.0800" in table and "0.2000" not in table


def test_memory_has_its_goal():
    assert cells(shown(performance.memory([profile([network_row()])])), "bf16") == [
        *("light x2, training step, batch 32", "bf16 graph", "28.54", "14", "9", "12.00", "13.00", "goal"),
        "2026-11-23, 01234567",
    ]


def test_a_cpu_is_held_against_the_plain_network():
    at = {"mode": "inference", "batch": 1, "precision": "fp32", "launch": "eager", "pool_mib": None}
    plain = network_row(**at, backend="reference", median_ms=700.0)
    fast = network_row(**at, backend="cpu", median_ms=100.0, ratio=0.125, ratio_low=0.1, ratio_high=0.2)
    scan = scan_row(mode="forward+backward", length=4096, backend="cpu", launch="eager", median_ms=7.0, ratio=0.1)
    table = shown(performance.cpu([profile([plain, fast], [scan], device="a processor", device_type="cpu")]))
    assert cells(table, "light", "cpu")[4:] == ["8.00", "5.00, 10.0", "6 times", "goal"]
    assert cells(table, "scan")[4:] == ["10.0", "", "8 ms", "goal"] and "2 threads" in table


def test_precisions_are_compared_under_one_protocol():
    protocol = {"tiling": "official", "routing": "gumbel", "precision": "fp32"}

    def row(psnr, **changes):
        made = {"model": "m", "overrides": {}, "weights": "ab" * 32, "task": "sr-x2", "dataset": "Set5", "ssim": 0.9}
        made |= {"command": "runner.py sweep", "commit": "abc", "device": "a machine", "finished": "2026-01-01"}
        return made | {"complete": True, "images": 5, "psnr": psnr, "protocol": protocol | changes}

    other = row(37.0, precision="tf32", routing="argmax")  # nothing to compare with
    rows = [row(38.25), row(38.2375, precision="bf16"), other]
    found = shown(performance.precision(measured.Committed(evaluations=rows)))
    assert cells(found, "bf16")[3] == "-0.0125" and "tf32" not in found and "argmax" not in found
    assert performance.precision(measured.Committed(evaluations=[other])) == []


def test_a_profile_without_its_provenance_is_refused(tmp_path):
    place = tmp_path / "h200" / "profile-goals.json"
    place.parent.mkdir()
    content = {"rows": [], "operators": [scan_row()], "environment": ENVIRONMENT}
    place.write_text(json.dumps(content))
    (found,) = measured.profiles(tmp_path)
    assert found["file"] == "h200/profile-goals.json" and found["operators"] == [scan_row()]
    place.write_text(json.dumps(content | {"environment": ENVIRONMENT | {"commit": None}}))
    with pytest.raises(StoreError, match="commit"):
        measured.profiles(tmp_path)


def test_the_longest_kernels_are_shown_as_far_as_nine_tenths_of_the_time():
    kernels = [
        {"kernel": name, "launches": 2.0, "ms": ms} for name, ms in (("_linear", 6.0), ("_norm", 3.5), ("x", 0.5))
    ]
    row = network_row(kernels=kernels)
    found = [profile([network_row(status="differs", kernels=None), row], file="h200/breakdown-training.json")]
    table = shown(performance.kernels(found))
    assert "10.0 ms in 6 launches" in table and "breakdown-training.json" in table
    assert cells(table, "_norm") == ["_norm", "2", "3.50", "35.0", "95.0"]
    assert "| x " not in table


def test_a_later_breakdown_replaces_an_earlier_one():
    rows = [network_row(kernels=[{"kernel": name, "launches": 1.0, "ms": 1.0}]) for name in ("early", "late")]
    table = shown(performance.kernels([profile([row]) for row in rows]))
    assert "late" in table and "early" not in table


def test_a_point_of_a_sweep_is_the_latest_of_a_network(monkeypatch):
    machine = {name: ENVIRONMENT[name] for name in ("commit", "device", "device_type", "threads", "versions")}
    runs = [{"command": "runner.py profile --preset resolution", "started": "2026-11-30T00:00:00+00:00"}]
    rows = [network_row(median_ms=41.0), network_row(median_ms=1.0, status="timeout"), {"status": "ok", "subject": "x"}]
    monkeypatch.setattr(
        performance.committed,
        "load",
        lambda: [{"file": "h200/a.costs.json", "machine": machine, "runs": runs, "rows": rows}],
    )
    (found,) = performance.swept()
    assert [row["median_ms"] for row in found["rows"]] == [41.0]
    table = shown(performance.times([profile([network_row()]), found]))
    assert cells(table, "bf16 graph")[-6:] == ["41.00", "49.0, 51.0", "1.10", "37", "goal", "2026-11-30, 01234567"]
    assert "h200/a.costs.json`: `runner.py profile --preset resolution`" in table
