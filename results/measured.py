"""What was measured here once and is committed: `results/measured/`, a folder per machine.

    counted/complexity.csv           parameters, MACs and scan FLOPs by `runner.py complexity --all`; overrides
                                     as in the published tables, without the task's own arguments
    counted/networks.json            the same of every network of the sweep, by `runner.py complexity --swept`
    <machine>/<name>.scores.json     {"exported": ..., "environments": {label: ...},
                                     "evaluations": {hash: {"key", "expected", "file", "as_official"}},
                                     "cells": {hash: {"config", "status", "environment", "parameters"}}}
    <machine>/<name>.scores.csv.xz   a row per image of each: hash, environment (label) and the store's score columns
    <machine>/<name>.other-machines.csv.xz    hash, then what other machines scored otherwise, if any
    <machine>/families/<hash>/       the store's own member.json
    <machine>/profile-<name>.json    what `runner.py profile --json` wrote, unchanged
    <machine>/breakdown-<name>.json  what `runner.py breakdown` wrote, unchanged
    <machine>/restore-<name>.json    what `runner.py restore --json` wrote, unchanged
    goals.json                       our goals, and for every machine on which the official implementation was measured
                                     its figures, the rates that floors follow from, and their sources

Records, configurations and hashes are the store's; weights are left out. Training logs (<name>.training.csv.xz) are
read by the chart of losses alone. `results.export` writes these files.
"""

import io
import lzma
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from safetensors import SafetensorError, safe_open

from results import agreement, families, records
from results.agreement import other_machines
from results.records import StoreError
from results.store.columns import MACHINE, OTHER_MACHINES_COLUMNS, SPENT, flatten_config, told_of

FOLDER = Path(__file__).parent / "measured"
GOALS = FOLDER / "goals.json"
COMPLEXITY = FOLDER / "counted" / "complexity.csv"
NETWORKS = FOLDER / "counted" / "networks.json"
COMPLEXITY_COLUMNS = (
    *("model", "overrides", "task", "size", "params", "macs_paper", "macs", "scan_flops", "counters"),
)
SCORE_COLUMNS = ("hash", "dataset", "image", "pixels", "psnr", "ssim", "psnr_single", "seconds", "environment")
_MISSING = {name: [""] for name in (*records.SCORES, "seconds")}  # an image may be called NA
PROVENANCE = ("command", "finished", "commit", "device")  # what every score must say of itself
PROFILED = ("command", "commit", "device", "started", "versions")  # and every time
PROFILES = {"profile": ("rows", "operators", "environment"), "breakdown": ("rows", "environment")}
PROFILES |= {"restore": ("rows", "environment")}


def complexity(path: Path = COMPLEXITY) -> pd.DataFrame:
    """A row per network, task and output size: counts as integers, what the two counters say of each other as text."""
    frame = pd.read_csv(path, dtype=dict.fromkeys(("overrides", "size", "counters"), str), keep_default_na=False)
    missing = [name for name in COMPLEXITY_COLUMNS if name not in frame.columns]
    if missing:
        raise StoreError(f"{path} lacks the column {', '.join(missing)}")
    return frame


def counted_by(path: Path = COMPLEXITY) -> dict[str, Any]:
    """By which command, of which commit, where and when the counts of `complexity` were made: a row's worth of it."""
    told = records.read_json(path.with_name("environment.json"))
    return {
        **{name: told[name] for name in ("command", "commit", "device")},
        "finished": told["date"],
        "committed": True,
    }


@cache
def budgets(folder: Path = FOLDER) -> dict[str, str]:
    """The budget of every committed cell by the hash of its weights, as trained and as loaded from a committed file."""
    cells = {}
    for path in sorted(folder.glob("*/*.scores.json")):
        cells |= records.read_json(path)["cells"]
    ended = [cell for cell in cells.values() if cell["status"].get("weights")]
    found = {cell["status"]["weights"]: cell["config"]["budget"]["name"] for cell in ended}
    for path in sorted(folder.glob("*/weights/*.json")):
        for about in records.read_json(path)["files"].values():
            found[about["weights_loaded"]] = cells[about["cell"]]["config"]["budget"]["name"]
    return found


def parameters(path: Path) -> int:
    """Number of parameters in a safetensors file, read from its head: every floating tensor, index buffers left out.

    Raises StoreError when it is missing or damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - not a dict
            return sum(_size(part.get_shape()) for part in slices if part.get_dtype() in ("F64", "F32", "F16", "BF16"))
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read as safetensors: {error}") from error


def _size(shape: list[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


@dataclass
class Committed:
    """cells, evaluations: rows as `Store.cells` and `Store.evaluations` give them; expected: images per hash and set;
    parameters: of the cells, by hash; scores: a row per image with SCORE_COLUMNS; with_machine: by hash, the same with
    where they were measured, and their protocol; other_machines: as `Store.other_machines`; families: folders of
    member.json; problems: a line for each part that was left out."""

    cells: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    expected: dict[str, dict[str, int]] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    scores: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SCORE_COLUMNS)))
    with_machine: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = field(default_factory=dict)
    other_machines: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(OTHER_MACHINES_COLUMNS)))
    families: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def load(folder: Path | None = None) -> Committed:
    """Everything under `folder` (FOLDER). What cannot be used is left out and named in `problems`.

    What two files have is taken from the one whose scores were measured first, whenever they were exported; scores that
    another machine gave otherwise in the other one are in `other_machines`.
    """
    folder = FOLDER if folder is None else folder
    found, tables, others, begun = Committed(), [], [], []
    found.families = sorted(path.parent for path in folder.glob(f"*/{families.FOLDER}/*/{families.FILE}"))
    for path, kind, name, entry, environments, rows, own in _entries(folder, found.problems):
        try:
            if kind == "cell" and entry["status"]["state"] != "done":
                begun.append(_cell_row(name, entry, rows, environments)[0])
                continue
            measured_rows = _with_machine(kind, entry, rows, environments)
            if name in found.with_machine:
                joined = other_machines.joined(measured_rows, own)
                others.append(_differing(path, kind, found.with_machine[name], joined))
                continue
            row, found.expected[name] = _ROW[kind](name, entry, rows, environments)
        except (StoreError, KeyError, TypeError, AttributeError) as error:
            text = str(error) if isinstance(error, StoreError) else f"{path}: {kind} {name} lacks {error}"
            found.problems.append(_line(text, folder))
            continue
        (found.cells if kind == "cell" else found.evaluations).append(row)
        if kind == "cell" and entry.get("parameters") is not None:
            found.parameters[name] = int(entry["parameters"])
        found.with_machine[name] = measured_rows, row["protocol"]
        tables.append(rows.assign(source=kind))
        others.append(own)
    if tables:
        found.scores = pd.concat(tables, ignore_index=True)
    furthest = {row["hash"]: row for row in sorted(begun, key=lambda row: row["step"])}
    found.cells += [row for name, row in furthest.items() if name not in found.with_machine]
    if others := [part for part in others if len(part)]:
        found.other_machines = other_machines.distinct(
            pd.concat(others, ignore_index=True)[list(OTHER_MACHINES_COLUMNS)]
        )
    return found


class _Entry(NamedTuple):
    """A record or a cell of a file: its rows, and `own`, what other machines scored otherwise by the same file."""

    path: Path
    kind: str
    name: str
    entry: dict[str, Any]
    environments: dict[str, Any]
    rows: pd.DataFrame
    own: pd.DataFrame

    @property
    def finished(self) -> str:
        """When the last of its rows was measured."""
        if self.kind == "cell":
            return str(self.entry.get("environment", {}).get("finished"))
        labels = self.rows["environment"].unique()
        return max((str(self.environments.get(label, {}).get("finished")) for label in labels), default="")


def _entries(folder: Path, problems: list[str]) -> list[_Entry]:
    """What all files hold, what was measured first before the rest."""
    entries = []
    for path in sorted(folder.glob("*/*.scores.json")):
        try:
            (record, scores), others = read(path), read_other_machines(path)
        except StoreError as error:
            problems.append(_line(error, folder))
            continue
        for kind, content in (("evaluation", record["evaluations"]), ("cell", record["cells"])):
            for name, entry in content.items():
                rows, own = scores[scores["hash"] == name], others[others["hash"] == name]
                entries.append(_Entry(path, kind, name, entry, record["environments"], rows, own))
    return sorted(entries, key=lambda entry: entry.finished)


def _with_machine(kind: str, entry: dict[str, Any], rows: pd.DataFrame, environments: dict[str, Any]) -> pd.DataFrame:
    """`rows` with where they were measured."""
    if kind == "cell":
        rows, environments = rows.assign(environment=""), {"": entry["environment"]}
    return other_machines.with_machine(rows, environments)


def _differing(path: Path, kind: str, taken: tuple[pd.DataFrame, dict[str, Any]], rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of what an earlier file has (taken: its rows and protocol), where another machine scored otherwise. Raises
    StoreError where the two contradict each other, or the earlier one lacks an image."""
    name, result = rows["hash"].iloc[0], agreement.compare(taken[0], rows, taken[1])
    if result.conflicts:
        raise StoreError(
            f"{path}: {kind} {name} is in another file with other scores: {'; '.join(result.conflicts[:3])}"
        )
    if len(result.fresh):
        lacking = f"{result.fresh['image'].iloc[0]} and {len(result.fresh) - 1} more images"
        raise StoreError(f"{path}: {kind} {name} is in another file that was measured earlier and lacks {lacking}")
    return result.differing.assign(source=kind)


def read(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The JSON and the rows of one pair of files. Raises StoreError for what is missing, damaged or lacks a part."""
    record = records.read_json(path)
    missing = [name for name in ("exported", "environments", "evaluations", "cells") if name not in record]
    if missing:
        raise StoreError(f"{path} lacks {', '.join(missing)}")
    table = path.with_name(path.name.removesuffix(".json") + ".csv.xz")
    try:
        text = lzma.decompress(table.read_bytes()).decode()
        scores = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_values=_MISSING)
    except FileNotFoundError as error:
        raise StoreError(f"{table} is missing") from error
    except (OSError, lzma.LZMAError, UnicodeDecodeError, ValueError) as error:
        raise StoreError(f"{table} cannot be read as compressed CSV: {str(error).splitlines()[0]}") from error
    missing = [name for name in SCORE_COLUMNS if name not in scores.columns]
    if missing:
        raise StoreError(f"{table} lacks the column {', '.join(missing)}")
    try:
        scores = records.check_rows(scores.astype({"seconds": float}), str(table))
    except ValueError as error:
        raise StoreError(f"{table}: a score is no number: {error}") from error
    strange = set(scores["hash"]) - set(record["evaluations"]) - set(record["cells"])
    if strange:
        raise StoreError(f"{table} has scores of {', '.join(sorted(strange)[:3])}, which {path.name} does not name")
    twice = scores[scores.duplicated(["hash", "dataset", "image"])]
    if len(twice):
        raise StoreError(f"{table} repeats {twice['dataset'].iloc[0]}/{twice['image'].iloc[0]}")
    return record, scores


def read_other_machines(path: Path) -> pd.DataFrame:
    """What other machines scored otherwise, of the files to which `path` (<name>.scores.json) belongs. Raises
    StoreError for a damaged file."""
    table = path.with_name(path.name.removesuffix(".scores.json") + ".other-machines.csv.xz")
    if not table.exists():
        return pd.DataFrame(columns=list(OTHER_MACHINES_COLUMNS))
    try:
        text = lzma.decompress(table.read_bytes()).decode()
        frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, na_values=_MISSING)
        frame = records.check_rows(frame[list(OTHER_MACHINES_COLUMNS)].astype({"seconds": float}), str(table))
    except (OSError, lzma.LZMAError, UnicodeDecodeError, ValueError, KeyError) as error:
        raise StoreError(f"{table} cannot be read as compressed CSV: {str(error).splitlines()[0]}") from error
    return frame


def _evaluation_row(
    name: str, entry: dict[str, Any], rows: pd.DataFrame, environments: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, int]]:
    key, expected = entry["key"], {entry["key"]["dataset"]: int(entry["expected"])}
    if records.key_of(key) != name:
        raise StoreError(f"the key of evaluation {name} belongs to {records.key_of(key)}")
    used = [environments[label] for label in rows["environment"].unique()]
    latest = max(used, key=lambda item: str(item.get("finished")), default={})
    means = records.summarise(rows, expected)
    row = {"hash": name, **key, **told_of(entry), **{column: latest.get(column) for column in (*MACHINE, "finished")}}
    return row | (means[0] if means else {"images": 0, "expected": entry["expected"], "complete": False}), expected


def _cell_row(
    name: str, entry: dict[str, Any], rows: pd.DataFrame, environments: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, int]]:
    if records.key_of(entry["config"]) != name:
        raise StoreError(f"the configuration of cell {name} belongs to {records.key_of(entry['config'])}")
    status, environment = entry["status"], entry["environment"]
    row = {"hash": name, **flatten_config(entry["config"])}
    row |= {column: status.get(column) for column in ("state", "reason", "step", "weights")}
    return row | {column: environment.get(column) for column in (*MACHINE, *SPENT)}, dict(status.get("expected") or {})


_ROW = {"evaluation": _evaluation_row, "cell": _cell_row}


def _line(error: object, folder: Path) -> str:
    return " ".join(str(error).replace(f"{folder}/", "").split())


# Time and memory


def profiles(folder: Path | None = None, kind: str = "profile") -> list[dict[str, Any]]:
    """Every committed profile or breakdown: {"file", "rows", "operators", "environment"}; earlier measurements first.

    kind: of PROFILES; only a profile has "operators". Raises StoreError for one that is damaged or does not say by what
    command, of which commit, where and when it was measured: such a number is not shown.
    """
    folder, found = FOLDER if folder is None else folder, []
    for path in sorted(folder.glob(f"*/{kind}-*.json")):
        profile = records.read_json(path)
        missing = [name for name in PROFILES[kind] if name not in profile]
        missing = missing or [name for name in PROFILED if not profile["environment"].get(name)]
        if missing:
            raise StoreError(f"{path} does not say its {', '.join(missing)}: such a measurement is not committed")
        found.append({"file": str(path.relative_to(folder)), **{name: profile[name] for name in PROFILES[kind]}})
    return sorted(found, key=lambda profile: profile["environment"]["started"])


def goals() -> dict[str, Any]:
    """goals.json. A goal names the fields of the rows that it is about, and by precision [goal, stretch] in ms.

    The official figures of a machine are named by what a goal is about: "ms" (float32), "tf32", "compiled"; "gib".
    "later" are those of the second round: by precision a time in ms of a launch, or its ratio "over" another one.
    """
    return records.read_json(GOALS)
