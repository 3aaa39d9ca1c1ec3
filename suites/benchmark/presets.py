"""What `profile --preset goals` measures: what docs/performance.md compares with a goal, in order of importance; and
`--preset scans`: of that the scans alone, this project's and mamba_ssm's.

On a GPU: a training step of light x2 as it is trained, inference at 360x640, and the scan alone, ours and mamba_ssm's;
each in the precisions that have a goal, launched eagerly and as a graph. On a CPU: the scan alone, and light x2 at
64x64 against the plain network with the scan as a loop. The goals themselves are in `results/measured/goals.json`.
"""

import torch

from suites import degradation_file
from suites.benchmark import PRESETS, SWEEPS
from suites.benchmark.comparison import Candidate, Plan, Point
from suites.benchmark.kernels import ScanCandidate, ScanCase, ScanPlan
from suites.benchmark.plans import plan
from suites.network_file import NetworkFile
from suites.spec import SpecError, Task

SR2 = Task("sr", 2)
IMAGE = (360, 640)
EXACT = ("tf32x3", "bf16", "fp32")
SCANS = (
    ScanCase("forward", 1, 48, 8, 230400),
    ScanCase("forward+backward", 32, 48, 8, 4096),
    ScanCase("forward", 1, 348, 16, 230400),
    ScanCase("forward+backward", 1, 48, 8, 230400),
    ScanCase("forward", 32, 48, 8, 4096),
    ScanCase("forward+backward", 1, 348, 16, 230400),
)
CPU_SCANS = (ScanCase("forward+backward", 1, 48, 8, 4096), ScanCase("forward", 1, 48, 8, 4096))


def choose(
    preset: str | None,
    models: str | None,
    task: str | None,
    *,
    own: NetworkFile | None = None,
    rounds: int,
    device: str,
    **lists: str | None,
) -> list[Plan | ScanPlan]:
    """The plans of a preset, or one plan of the lists that were typed; None stands for the default of `plan`.

    Raises SpecError where a preset, which fixes all lists, comes with one of them, and as `plan` does.
    """
    named = {"models": models, "task": task, "network": own, **lists}
    typed = {name: value for name, value in named.items() if value is not None}
    if preset is not None:
        if typed:
            raise SpecError(f"--preset fixes {', '.join(typed)}: leave these out, or the preset")
        return plans(preset, device, rounds)
    chosen = {name: value for name, value in typed.items() if name in lists}
    parsed = degradation_file.task(task or "sr-x2")
    if models is None and own is None:
        models = "mambairv2-light"
    return [plan(models, parsed, own=own, rounds=rounds, device=device, **chosen)]


def plans(preset: str, device: str, rounds: int) -> list[Plan | ScanPlan]:
    """What is measured, in order. Raises SpecError for an unknown preset and for fewer rounds than one."""
    if preset not in PRESETS:
        raise SpecError(f"unknown preset {preset!r}: choose from {', '.join((*PRESETS, *SWEEPS))}")
    if rounds < 1:
        raise SpecError(f"--rounds is {rounds}: at least 1 is needed")
    where = torch.device(device)
    chosen = on_gpu(where, rounds) if where.type == "cuda" else on_cpu(where, rounds)
    return [plan for plan in chosen if preset == "goals" or isinstance(plan, ScanPlan)]


def network(model: str, hows: list[tuple[str, str, str]], point: Point, rounds: int, device: torch.device) -> Plan:
    """hows: (precision, backend, launch) of each candidate."""
    candidates = tuple(Candidate(model, *how) for how in hows)
    return Plan(candidates, (point,), SR2, "gumbel", rounds, device)


def on_gpu(device: torch.device, rounds: int) -> list[Plan | ScanPlan]:
    inference = [(precision, "triton", launch) for precision in EXACT for launch in ("graph", "eager")]
    training = [(precision, "triton", "graph") for precision in ("tf32x3", "bf16", "tf32")]
    training += [("tf32x3", "triton", "eager"), ("fp32", "triton", "graph")]
    scans = (ScanCandidate("triton", "graph"), ScanCandidate("triton", "eager"), ScanCandidate("mamba_ssm", "eager"))
    return [
        network("mambairv2-light", training, Point("training", (64, 64), 32), rounds, device),
        network("mambairv2-light", inference, Point("inference", IMAGE, 1), rounds, device),
        ScanPlan(SCANS, scans, rounds, device),
        network("mambairv2-base", inference, Point("inference", IMAGE, 1), rounds, device),
    ]


def on_cpu(device: torch.device, rounds: int) -> list[Plan | ScanPlan]:
    hows = [("fp32", backend, "eager") for backend in ("reference", "cpu")]
    return [
        ScanPlan(CPU_SCANS, (ScanCandidate("chunked", "eager"), ScanCandidate("cpu", "eager")), rounds, device),
        network("mambairv2-light", hows, Point("inference", (64, 64), 1), rounds, device),
    ]
