"""A committed sweep whose times follow laws that tests know: a fixed cost and so many nanoseconds a pixel."""

from pathlib import Path
from typing import Any

from results import records

SIZES = ((64, 64), (128, 128), (256, 256), (360, 640), (720, 1280), (1024, 1024))
NS = {"mambairv2-light": 150, "mambairv2-light scans=4": 190, "mambairv2-light scans=0": 130, "hat": 5000}
NS |= {"mambairv2-light scans=2": 165, "mambair-light": 170, "swinir-light": 300, "mambairv2-base": 1400}
NS |= {"mambairv2-light sgn=off": 148, "srformer-light": 420}
FIXED_MS = 4.0
RATES = {"bytes_per_s": 4e12, "fp32": 5e13, "tf32": 4e14, "bf16": 7.9e14}
MACHINE = {"device": "a GPU", "device_type": "cuda", "threads": 16, "commit": "0123456789abcdef"}
MACHINE |= {"versions": {"torch": "2.11", "triton": "3.6"}}


def row(subject: str, size: tuple[int, int], precision: str, **told: Any) -> dict[str, Any]:
    pixels = size[0] * size[1]
    ms = FIXED_MS + NS[subject] * pixels / 1e6 / (2 if precision == "bf16" else 1)
    params = 22_903_001 if subject in ("mambairv2-base", "hat") else 774_092
    found = {"key": f"{subject} {size} {precision}", "subject": subject, "task": "sr-x2", "mode": "inference"}
    found |= {"batch": 1, "precision": precision, "backend": "triton", "launch": "graph", "params": params}
    found |= {"height": size[0], "width": size[1], "status": "ok", "reason": None, "noise": [], "median_ms": ms}
    found |= {"p10_ms": 0.99 * ms, "p90_ms": 1.01 * ms, "peak_mib": 20 + pixels / 64, "bytes": 8000 * pixels}
    return found | told


def sweep() -> dict[str, Any]:
    rows = []
    for subject in NS:
        precisions = ("tf32x3", "bf16") if subject.startswith("mambair") else ("fp32",)
        rows += [row(subject, size, precision) for precision in precisions for size in SIZES]
    with_theirs = row("mambairv2-light", (360, 640), "fp32", key="m", backend="mamba_ssm", launch="eager")
    ours = row("mambairv2-light", (360, 640), "fp32", key="o", launch="eager")
    rows += [with_theirs | {"median_ms": 2 * ours["median_ms"]}, ours]
    rows.append(row("mambairv2-light", (360, 640), "fp32", key="g", bytes=None, median_ms=1.0))
    rows[3] |= {"noise": ["readings spread by 30%"]}
    rows.append(row("hat", (2160, 3840), "fp32", status="oom", reason="no memory"))
    rows.append(
        row("hat", (360, 640), "fp32", key="b", status="missing", reason="not in spandrel") | {"subject": "CARN"}
    )
    run = {"command": "runner.py profile --preset resolution", "started": "2026-01-01T00:00:00+00:00"}
    return {"machine": MACHINE, "runs": [run], "rates": [RATES], "compiled": [], "rows": rows}


def commit(folder: Path) -> None:
    """Writes it into a folder in the place of results/measured."""
    records.write_json(folder / "here" / "resolution.costs.json", {"exported": {}, "sweeps": [sweep()]})
