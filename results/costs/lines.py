"""The file of one machine and commit in a store: lines of JSON, appended whole or, after a kill, cut back to whole."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results import records
from results.records import StoreError, guarded

FOLDER = "costs"
ENDING = ".jsonl"
KEY = ("device", "device_type", "threads", "versions", "commit")
PASSING = ("interrupted", "failed", "unavailable")  # statuses after which a point is measured again when asked for


@dataclass
class Costs:
    """machine: what the file was measured on. rows: by the point's key, the last of each. runs: every start."""

    machine: dict[str, Any]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    rates: list[dict[str, Any]] = field(default_factory=list)
    compiled: list[dict[str, Any]] = field(default_factory=list)

    def add(self, line: Mapping[str, Any]) -> None:
        if "row" in line:
            self.rows[line["row"]["key"]] = line["row"]
        for name, kept in (("run", self.runs), ("rates", self.rates), ("compiled", self.compiled)):
            if name in line:
                kept.append(line[name])

    def is_done(self, key: str) -> bool:
        return key in self.rows and self.rows[key]["status"] not in PASSING


def place(root: Path, machine: Mapping[str, Any]) -> Path:
    """The file of a machine in the store at `root`; machine: of `suites.environment.describe`."""
    return root / FOLDER / f"{records.key_of({name: machine[name] for name in KEY})}{ENDING}"


def files(root: Path) -> list[Path]:
    return sorted((root / FOLDER).glob(f"*{ENDING}"))


def read(path: Path) -> Costs:
    """Everything in a file. Raises StoreError for one that is no such file; an unfinished last line is left out."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    costs = None
    for number, line in enumerate(text[: text.rfind(b"\n") + 1].splitlines(), 1):
        try:
            value = json.loads(line)
            if costs is None:
                costs = Costs(value["machine"])
            else:
                costs.add(value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(f"{path}, line {number}: not a line of a sweep: {error}") from error
    if costs is None:
        raise StoreError(f"{path} is empty")
    return costs


class Writer:
    """Appends lines to a file; each is on the disk when `add` returns. One writer at a time holds it."""

    def __init__(self, path: Path, machine: Mapping[str, Any]) -> None:
        with guarded(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(path, "a+b")  # noqa: SIM115 - closed by `close`
            self._lock()
            self.file.seek(0)
            text = self.file.read()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):  # killed while it wrote
                self.file.truncate(whole)
                self.file.seek(0, os.SEEK_END)
        self.path, self.costs = path, Costs(dict(machine))
        if whole:
            self.costs = read(path)
        else:
            self.add({"machine": self.costs.machine})

    def _lock(self) -> None:
        try:
            import fcntl

            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return
        except OSError as error:
            raise StoreError(f"{self.file.name} is being written by another command: wait for its end") from error

    def add(self, line: Mapping[str, Any]) -> None:
        with guarded(self.path):
            self.file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())
        self.costs.add(line)

    def close(self) -> None:
        self.file.close()
