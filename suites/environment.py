"""What a measurement ran on: stored and printed with it, never part of a cell's identity."""

import importlib.metadata
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suites.spec import SpecError

if TYPE_CHECKING:
    import torch  # which takes seconds, and `runner.py --version` must not wait for it

PACKAGES = ("torch", "triton", "numpy", "scipy", "pandas", "scikit-image", "fvcore", "einops")


@cache
def not_importable(package: str, extra: str, error: Exception) -> SpecError:
    """What is said where a package of an optional extra cannot be imported: it is missing, or torchvision beside it
    raises its RuntimeError with another PyTorch than its own."""
    return SpecError(
        f"{package} cannot be imported here ({type(error).__name__}: {error}): install the extra, pip install -e "
        f"'.[{extra}]', with the torchvision that belongs to this PyTorch"
    )


def commit() -> str | None:
    """The checkout's commit, `+` appended when tracked files differ from it; None outside a checkout.

    MAMBAIR_BENCH_COMMIT says it for a copy without a history of its own.
    """
    if given := os.environ.get("MAMBAIR_BENCH_COMMIT"):
        return given
    root = Path(__file__).resolve().parent.parent
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if dirty.strip() else "")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def version(package: str) -> str | None:
    """Of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Family, model and the vectors that PyTorch uses: in a virtual machine many processors share a name."""
    import torch

    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        first = ""
    found = dict(re.findall(r"^(cpu family|model)\s*: (\d+)$", first, re.MULTILINE))
    kind = [f"{name} {found[name]}" for name in ("cpu family", "model") if name in found]
    return ", ".join([*kind, torch.backends.cpu.get_cpu_capability()])


def choose_device(device: str | None) -> str:
    """`device`, or the GPU if there is one. Raises SpecError for a device that PyTorch does not have here."""
    if device == "cpu":
        return device
    match = re.fullmatch(r"cuda(?::(\d+))?", device or "cuda")
    if match is None:  # told before PyTorch is loaded, which takes seconds
        raise SpecError(f"unknown device {device!r}: choose cpu, cuda or cuda:N")
    import torch

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen != "cpu" and int(match[1] or 0) >= torch.cuda.device_count():
        raise SpecError(f"no device {chosen} here: PyTorch {torch.__version__} sees {torch.cuda.device_count()} GPUs")
    return chosen


def describe(device: "str | torch.device", backend: str) -> dict[str, Any]:
    """Device, backend, threads, versions and commit, JSON-able. `backend` is the resolved scan backend. processor: of a
    CPU, what its name may not tell apart; None on a GPU."""
    import torch

    device = torch.device(device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "device_type": device.type,
        "processor": _processor() if device.type == "cpu" else None,
        "backend": backend,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit(),
    }


def peak_memory() -> int:
    """Bytes: the most that this process has held of the host's memory since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def command() -> str:
    """The command line of this process, with the program's name but not its folder; a module of `suites` started as
    a program is `python -m` and its name."""
    program, root = Path(sys.argv[0]), Path(__file__).resolve().parents[1]
    ours = program.resolve().is_relative_to(root / "suites")
    module = ".".join(program.resolve().relative_to(root).with_suffix("").parts) if ours else ""
    own = ["python", "-m", module] if ours else [program.name]
    return shlex.join([*own, *sys.argv[1:]])


def examine() -> dict[str, str]:
    """What `doctor` prints: machine, versions, and every scan backend with the reason where one cannot be used."""
    import torch

    from models.ops.scan import available

    facts = {
        "system": platform.platform(),
        "processor": f"{_cpu_name()}, {len(os.sched_getaffinity(0))} cores for us",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "python": platform.python_version(),
        "commit": commit() or "not a checkout",
    }
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        facts[f"cuda:{number}"] = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, "
            f"capability {properties.major}.{properties.minor}, CUDA {torch.version.cuda}"
        )
    if not torch.cuda.is_available():
        facts["cuda"] = "no GPU that this PyTorch can use"
    facts |= {name: version(name) or "not installed" for name in PACKAGES}
    facts |= {f"scan backend {name}": reason or "usable" for name, reason in available().items()}
    return facts
