"""Sweeps under `results/measured/<machine>/`: `<name>.costs.json`, which `runner.py export` writes of a store.

{"exported": ..., "sweeps": [{"machine", "runs", "rates", "compiled", "rows"}]}, a sweep for each file of the store.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results import measured, records
from results.costs import lines
from results.records import StoreError

ENDING = ".costs.json"
PROVENANCE = ("device", "commit", "versions")  # of the machine; runs say command and date
DROPPED = ("interrupted",)  # statuses of points that say nothing about a network


def export(root: Path, target: Path, exported: Mapping[str, Any]) -> list[str]:
    """Writes every sweep of the store at `root` to `<target>.costs.json`. Returns what was written, in words.

    Raises StoreError for a file that is damaged or does not say all of PROVENANCE, before anything is written.
    """
    sweeps = []
    for path in lines.files(root):
        costs = lines.read(path)
        if missing := [name for name in PROVENANCE if not costs.machine.get(name)]:
            raise StoreError(f"{path} does not say its {', '.join(missing)}: it is not committed")
        rows = [row for row in costs.rows.values() if row["status"] not in DROPPED]
        told = {"machine": costs.machine, "runs": costs.runs, "rates": costs.rates, "compiled": costs.compiled}
        sweeps.append({**told, "rows": rows})
    if not sweeps:
        return []
    path = target.with_name(f"{target.name}{ENDING}")
    records.write_json(path, {"exported": dict(exported), "sweeps": sweeps})
    return [f"{path}: {sum(len(sweep['rows']) for sweep in sweeps)} points of {len(sweeps)} sweeps"]


def load(folder: Path | None = None) -> list[dict[str, Any]]:
    """Every committed sweep, with its `file`; those that began earlier first. Raises StoreError for a damaged file."""
    folder, found = measured.FOLDER if folder is None else folder, []
    for path in sorted(folder.glob(f"*/*{ENDING}")):
        content = records.read_json(path)
        try:
            found += [{"file": str(path.relative_to(folder)), **sweep} for sweep in content["sweeps"]]
        except (KeyError, TypeError) as error:
            raise StoreError(f"{path} holds no sweeps: {error}") from error
    return sorted(found, key=lambda sweep: sweep["runs"][0]["started"])
