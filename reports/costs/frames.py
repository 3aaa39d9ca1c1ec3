"""What networks cost, as frames: the committed sweeps joined with what was counted and what was published."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from results import measured, published, records
from results.costs import committed

Row = dict[str, Any]
OFFICIAL = {"mambairv2-light": "MambaIRv2-light", "mambairv2-small": "MambaIRv2-S", "mambairv2-base": "MambaIRv2-B"}
OFFICIAL |= {"mambairv2-large": "MambaIRv2-L", "mambair": "MambaIR", "mambair-light": "MambaIR-light"}
PEERS = {"swinir-light": "SwinIR-light", "srformer-light": "SRFormer-light", "omnisr": "OmniSR", "craft": "CRAFT"}
PEERS |= {"atd-light": "ATD-light", "span": "SPAN", "swinir": "SwinIR", "hat": "HAT", "dat": "DAT", "rcan": "RCAN"}
PEERS |= {"atd": "ATD", "rgt": "RGT", "plksr": "PLKSR"}
CODE = "official-"  # before the subject: the authors' own code
METHODS = {**OFFICIAL, **PEERS}  # names in the published tables, or as its paper has it, by subject
METHODS |= {f"{CODE}{subject}": method for subject, method in OFFICIAL.items()}
EXACT = ("tf32x3", "fp32")  # precisions of float32's accuracy, the faster one first
OPERATIONS = 2  # of a multiply-add
PRODUCTS = {"tf32x3": 3}  # of TF32 for one
MAY_LACK = ("p10_ms", "p90_ms", "mib", "bytes", "params")  # columns that are None where it is not known
STACK = ("torch", "triton")
MODELS = re.compile(r"--models ('[^']*'|\S+)")  # of a command
SOURCE = re.compile(r"results/measured/(\S+): .*, commit (\w{7,8})\w*, .*, ([\d-]+)")  # what `source` writes
LISTED = 100  # characters of it that are shown
IMAGE = (360, 640)  # the input behind a 720x1280 output at x2
LOAD = 0.3  # of others' processes per core, beyond which a host is busy
SLOW = ("reference", "chunked")  # scans in plain PyTorch, which nobody need wait for
SPREAD = 0.1  # (p90 - p10) / median, beyond which a time is not one of a quiet machine
KEEP = ("subject", "task", "mode", "batch", "precision", "backend", "launch", "height", "width", "pictures")
SERIES = ("machine", "subject", "task", "mode", "batch", "precision", "backend", "pictures")  # differ in size alone
ONE = {"pictures": ""}  # of a point that is no set of pictures


def timed(sweeps: Sequence[Row] | None = None, every: bool = False) -> pd.DataFrame:
    """A row per point that has a time, the latest of each machine: KEEP, pixels (of a call), machine, ms, p10_ms,
    p90_ms, mib, noise, clock, bytes, params, source, and the machine's rates. Of the committed sweeps, and of profiles
    where no sweep has the point. every: those of earlier sweeps too, whose kernels are others: for `of_one_sweep`.

    clock: "wall", or "processor" where one thread worked on a busy machine and its own time is known: `ms` is that.
    Of several threads it is their sum, which is no time of a call.
    """
    found = profiled() if sweeps is None else {}
    for sweep in committed.load() if sweeps is None else sweeps:
        machine, rates = machine_name(sweep["machine"]), (sweep["rates"] or [{}])[-1]
        host = busy_host(sweep)
        for row in (ONE | row for row in sweep["rows"] if row["status"] == "ok"):
            busy = bool(row["noise"]) and sweep["machine"].get("threads") == 1 and row.get("cpu_ms") is not None
            told = {name: row[name] for name in KEEP}
            told |= {"pixels": row["height"] * row["width"] * row["batch"], "machine": machine}
            told |= {"clock": "processor" if busy else "wall", "ms": row["cpu_ms"] if busy else row["median_ms"]}
            told |= {name: None if busy else row[name] for name in ("p10_ms", "p90_ms")}
            noise = [*row["noise"], *(host if row["launch"] == "eager" else ())]
            told |= {"mib": row["peak_mib"], "noise": noise, "rates": rates}
            told |= {"of_pictures": row.get("of_pictures", 1)}
            told |= {"bytes": None if row["backend"] == "mamba_ssm" else row.get("bytes")}  # not those of its operators
            told |= {"source": source(sweep), "params": row["params"], "on_cpu": _on_cpu(sweep["machine"])}
            found[machine, *(told[name] for name in KEEP), told["source"] if every else ""] = told
    columns = [*KEEP, "of_pictures", "pixels", "machine", "clock", "ms", "noise", "source", "rates", *MAY_LACK]
    gpus_first = sorted(found.values(), key=lambda row: row["on_cpu"])
    frame = pd.DataFrame(gpus_first, columns=columns)
    for name in MAY_LACK:
        frame[name] = frame[name].astype(object).where(frame[name].notna(), None)
    return frame


def busy_host(sweep: Row) -> list[str]:
    """Why times of a GPU that wait for the host's launches are not those of a quiet machine: its load as runs began."""
    loads = [(run["load"][0], run["cores"]) for run in sweep["runs"] if "load" in run]
    if sweep["machine"]["device_type"] == "cpu" or not loads or min(load / cores for load, cores in loads) <= LOAD:
        return []
    return ["load of {:.1f} on {} cores as it began".format(*min(loads))]


def profiled() -> dict[tuple, Row]:
    """The same of `profile --preset goals`, by machine and KEEP, without SLOW; rates are those of goals.json."""
    found: dict[tuple, Row] = {}
    machines, counts = measured.goals()["machines"], counted()
    for profile in measured.profiles():
        environment = profile["environment"]
        machine, rates = machine_name(environment), machines.get(environment["device"], {}).get("rates", {})
        told = {"machine": environment, "file": profile["file"], "runs": [environment]}
        timed_rows = (row for row in profile["rows"] if row["status"] == "ok" and not row.get("source"))
        for row in (ONE | row for row in timed_rows if row["backend"] not in SLOW):
            subject = " ".join([row["model"], *(f"{name}={value}" for name, value in row["overrides"].items())])
            spread = (row["p90_ms"] - row["p10_ms"]) / row["median_ms"]
            own = {"subject": subject, **{name: row[name] for name in KEEP if name != "subject"}}
            own |= {"pixels": row["height"] * row["width"] * row["batch"], "machine": machine, "clock": "wall"}
            own |= {"ms": row["median_ms"], "p10_ms": row["p10_ms"], "p90_ms": row["p90_ms"], "mib": row["peak_mib"]}
            own |= {"of_pictures": 1}
            own |= {"noise": [f"readings spread by {spread:.0%}"] if spread > SPREAD else [], "bytes": None}
            params = next((one["params"] for (name, *_), one in counts.items() if name == subject), None)
            own |= {"rates": rates, "params": params, "source": source(told), "on_cpu": _on_cpu(environment)}
            found[machine, *(own[name] for name in KEEP), ""] = own
    return found


def untimed(sweeps: Sequence[Row] | None = None) -> pd.DataFrame:
    """subject, machine, status, reason and the points of everything else."""
    rows = []
    for sweep in committed.load() if sweeps is None else sweeps:
        for row in (ONE | row for row in sweep["rows"] if row["status"] != "ok"):
            told = {name: row[name] for name in (*KEEP, "status", "reason")}
            rows.append(told | {"machine": machine_name(sweep["machine"]), "source": source(sweep)})
    return pd.DataFrame(rows, columns=[*KEEP, "status", "reason", "machine", "source"])


def machine_name(machine: Row) -> str:
    threads = machine["threads"]
    return f"{machine['device']}{f', {threads} thread' + 's' * (threads > 1) if _on_cpu(machine) else ''}"


def _on_cpu(machine: Row) -> bool:
    return machine["device_type"] == "cpu"


def shortened(command: str) -> str:
    """A command without a long list of points."""
    return MODELS.sub(lambda found: found[0] if len(found[0]) <= LISTED else "--models '...'", command)


def source(sweep: Row) -> str:
    """Where, by which command, of which commit and when. A long list of points is left to the file."""
    run, machine = sweep["runs"][-1], sweep["machine"]
    command = shortened(run["command"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name in STACK)
    told = f"results/measured/{sweep['file']}: {command}, commit {machine['commit'][:10]}"
    return f"{told}, {machine_name(machine)}, {versions}, {run['started'][:10]}"


def origin(text: str) -> tuple[str, str, str]:
    """File, commit and day of what `source` says: it is a column's text, which can hold nothing else."""
    return SOURCE.fullmatch(text).groups()


def files(sources: Iterable[str]) -> str:
    """A line that names the files of `source`s, with their commits and days; commands and versions are in the files."""
    told = dict.fromkeys("`{}` ({}, {})".format(*origin(text)) for text in sources)
    return f"- of results/measured: {', '.join(told)}"


def name(subject: str) -> str:
    """As the tables call it: "MambaIRv2-light scans=2"."""
    first, _, rest = subject.partition(" ")
    code = ", official code" if first.startswith(CODE) else ""
    return f"{METHODS.get(first, first)}{code} {rest}".strip()


def mark(row: Row) -> str:
    """After a figure that is not of a quiet machine, or of the processor's own time on a busy one."""
    return "~" if row["noise"] and row["clock"] == "wall" else ""


def whose(subject: str) -> str:
    return "this architecture" if subject.removeprefix(CODE).startswith("mambairv2") else "others"


def of_one_sweep(frame: pd.DataFrame, alike: Sequence[str] = SERIES, across: str = "pixels") -> pd.DataFrame:
    """Of what is `alike` the rows of one sweep, which can be compared: that with most values of `across`, the latest of
    several."""
    if frame.empty:
        return frame
    alike = list(alike)
    many = frame.groupby([*alike, "source"], sort=False)[across].transform("nunique")
    frame = frame[many == many.groupby([frame[name] for name in alike]).transform("max")]
    return frame[frame["source"] == frame.groupby(alike)["source"].transform("last")].reset_index(drop=True)


def fastest(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the launch modes of a point the faster one."""
    keys = [name for name in (*KEEP, "machine") if name != "launch"]
    return frame.loc[frame.groupby(keys, sort=False)["ms"].idxmin()].reset_index(drop=True) if len(frame) else frame


def exact(frame: pd.DataFrame) -> pd.DataFrame:
    """Of the precisions of float32's accuracy one for each subject and machine: `tf32x3` where it is there."""
    own = frame[frame["precision"].isin(EXACT) & (frame["backend"] != "mamba_ssm")]
    with_best = own.groupby(["machine", "subject", "mode", "task", "batch"])["precision"].transform("max")
    return fastest(own[own["precision"] == with_best])


# --- counted and published ------------------------------------------------------------------------------------------


def counted() -> dict[tuple[str, str, int, int], Row]:
    """What `complexity --swept` counted, and before it `complexity --all`, by subject, task, height and width of the
    input: params, macs, macs_paper."""
    found: dict[tuple[str, str, int, int], Row] = {}
    for row in measured.complexity().to_dict("records"):
        _, _, scale = row["task"].partition("-x")
        height, width = (int(side) // int(scale or 1) for side in row["size"].split("x"))
        found[f"{row['model']} {row['overrides']}".strip(), row["task"], height, width] = row
    if measured.NETWORKS.exists():
        rows = records.read_json(measured.NETWORKS)["rows"]
        found |= {(row["subject"], row["task"], row["height"], row["width"]): row for row in rows if "params" in row}
    return found


def multiply_adds(subject: str, task: str, pixels: int) -> float | None:
    """Of one image forward, by the clean count: the line through the sizes that were counted, in pixels. Padding, which
    is a few per cent at most, is that of the counted sizes."""
    own = [
        (h * w, row["macs"])
        for (name, its, h, w), row in counted().items()
        if (name, its) == (subject.removeprefix(CODE), task)
    ]
    if len(own) < 2:
        return next((macs for size, macs in own if size == pixels), None)
    (small, low), (large, high) = min(own), max(own)
    return low + (high - low) * (pixels - small) / (large - small)


def printed(method: str, task: str, metric: str, dataset: str = "") -> Row | None:
    """The published row of a method in Table 3 or 4 as printed; None where the tables have none."""
    tables = published.committed().tables
    for name in ("table3", "table4"):
        frame = tables[name]
        own = frame[(frame["method"] == method) & (frame["task"] == task) & (frame["metric"] == metric)]
        own = own[own["dataset"] == dataset]
        if len(own):
            return own.iloc[0].to_dict()
    return None
