"""Measurements of time and memory that are committed, and the goals they are held against.

measured/<machine>/profile-<name>.json     what `runner.py profile --json` wrote, unchanged
measured/<machine>/breakdown-<name>.json   what `runner.py breakdown` wrote, unchanged
measured/goals.json                        our goals, and for every machine on which the official implementation was
                                           measured its figures, the rates that floors follow from, and their sources
"""

from pathlib import Path
from typing import Any

from results import records
from results.measured import FOLDER
from results.records import StoreError

GOALS = FOLDER / "goals.json"
PROVENANCE = ("command", "commit", "device", "started", "versions")
PARTS = {"profile": ("rows", "operators", "environment"), "breakdown": ("rows", "environment")}


def load(folder: Path = FOLDER, kind: str = "profile") -> list[dict[str, Any]]:
    """Every committed profile or breakdown: {"file", "rows", "operators", "environment"}; earlier measurements first.

    kind: of PARTS; a breakdown has no "operators". Raises StoreError for one that is damaged or does not say by which
    command, of which commit, where and when it was measured: such a number is not shown.
    """
    found = []
    for path in sorted(folder.glob(f"*/{kind}-*.json")):
        profile = records.read_json(path)
        missing = [name for name in PARTS[kind] if name not in profile]
        missing = missing or [name for name in PROVENANCE if not profile["environment"].get(name)]
        if missing:
            raise StoreError(f"{path} does not say its {', '.join(missing)}: such a measurement is not committed")
        found.append({"file": str(path.relative_to(folder)), **{name: profile[name] for name in PARTS[kind]}})
    return sorted(found, key=lambda profile: profile["environment"]["started"])


def goals() -> dict[str, Any]:
    """goals.json. A goal names the fields of the rows that it is about, and by precision [goal, stretch] in ms.

    The official figures of a machine are named by what a goal is about: "ms" (float32), "tf32", "compiled"; "gib".
    """
    return records.read_json(GOALS)
