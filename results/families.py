"""Families: which variants are compared with which base, filed in the store apart from the cells.

    <root>/families/<hash>/member.json    {"key": {suite, family, base, cell}, "label", "order"}; <hash> is the key's

`cell` and `base` are configurations of cells without their seed. A family is a fact about a comparison, not about
weights: one trained cell is a member of as many families as name it (the base of most), and a seed trained later is a
member at once. A record never changes, so two stores merge by taking the records that one of them lacks.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from results import records
from results.records import StoreError

FOLDER, FILE = "families", "member.json"
COLUMNS = (
    *("suite", "family", "comparison", "task", "budget", "order", "label", "variant", "is_base"),
    *("seed", "hash", "base", "problem"),
)
KEY = {"suite", "family", "base", "cell"}


def add(root: Path, suite: str, family: str, base: Mapping[str, Any], members: Sequence[tuple[str, Mapping]]) -> None:
    """Files the members of a family, (label, configuration) each, in the order in which tables show them.

    `base` and the members are cells' configurations; their seeds are left out. What is filed already stays as it is.
    Raises StoreError when the root cannot be written.
    """
    for order, (label, config) in enumerate(members):
        key = records.canonical({"suite": suite, "family": family, "base": _seedless(base), "cell": _seedless(config)})
        path = root / FOLDER / records.key_of(key) / FILE
        if not path.exists():
            records.write_json(path, {"key": key, "label": label, "order": order})


def comparison(suite: str, family: str, base: Mapping[str, Any]) -> str:
    """What names a family with its base, in tables: the start of a hash."""
    return records.key_of({"suite": suite, "family": family, "base": _seedless(base)})[:8]


def read_member(folder: Path) -> dict[str, Any]:
    """{"key", "label", "order"} of one record. Raises StoreError when it is damaged or lies in a foreign folder."""
    record = records.read_json(folder / FILE)
    try:
        if set(record["key"]) != KEY or not isinstance(record["label"], str) or not isinstance(record["order"], int):
            raise TypeError
        name = records.key_of(record["key"])
    except (KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{folder / FILE} lacks a part of its key, its label or its order") from error
    if name != folder.name:
        raise StoreError(f"{folder / FILE} has a key that belongs to the folder {name}")
    return record


def frame(folders: Sequence[Path], cells: pd.DataFrame) -> pd.DataFrame:
    """What `Store.families` returns, from the records in `folders` and the store's `cells()`."""
    seeds: dict[str, list[tuple[int, str]]] = {}
    for row in cells.to_dict("records"):
        if row["config"] is not None:
            seeds.setdefault(records.key_of(_seedless(row["config"])), []).append((row["seed"], row["hash"]))
    rows = []
    for folder in folders:
        try:
            record = read_member(folder)
            rows += _rows(record, seeds)
        except (StoreError, KeyError, TypeError) as error:
            problem = str(error) if isinstance(error, StoreError) else f"{folder / FILE} holds no cell: {error!r}"
            rows.append({"problem": problem})
    rows.sort(
        key=lambda row: tuple(str(row.get(name)) for name in ("suite", "family", "task", "comparison")) + _place(row)
    )
    return pd.DataFrame([[row.get(name) for name in COLUMNS] for row in rows], columns=list(COLUMNS), dtype=object)


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    names = tuple(str(row.get(name)) for name in ("suite", "family", "task", "comparison"))
    return *names, row.get("order", 0), -1 if row.get("seed") is None else row["seed"]


def _rows(record: Mapping[str, Any], seeds: Mapping[str, list[tuple[int, str]]]) -> list[dict[str, Any]]:
    """A row per cell of a member, or one without seed and hash when none is stored."""
    key = record["key"]
    cell, base = key["cell"], key["base"]
    common = {
        "suite": key["suite"],
        "family": key["family"],
        "comparison": comparison(key["suite"], key["family"], base),
        "task": cell["task"],
        "budget": cell["budget"]["name"],
        "order": record["order"],
        "label": record["label"],
        "variant": cell["variant"]["name"],
        "is_base": cell == base,
    }
    found = sorted(seeds.get(records.key_of(cell), []))
    return [
        common | {"seed": seed, "hash": name, "base": records.key_of(base | {"seed": seed})} for seed, name in found
    ] or [common]


def _seedless(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name != "seed"}
