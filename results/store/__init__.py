"""The store: an append-only folder of training cells and evaluation records, readable without this project.

    <root>/<hash>/               a training cell: config.json, environment.json, status.json, scores.parquet,
                                 train.jsonl, weights.safetensors
    <root>/evaluations/<hash>/   scores of given weights: record.json (key, expected images, the weights' file, whether
                                 the user said that they are the official ones), environment.json, scores.parquet
    .../other_machines.parquet        beside a scores.parquet: what other machines scored otherwise (results.agreement)
    <root>/families/<hash>/      which variant is compared with which base: member.json (results.families)

<hash> names the canonical configuration or key (`records.key_of`). Score tables have a row per image: dataset, image
(stem), pixels (SHA-256 of the decoded ground truth), psnr, ssim, psnr_single, seconds. Tables and reports are pure
functions of these files. A results folder may be archived, moved and merged with another as it is (results.archive).
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from results import agreement, families, locks, records
from results.agreement import other_machines
from results.records import StoreError
from results.store.columns import (
    CELL_COLUMNS,
    EVALUATION_COLUMNS,
    MACHINE,
    MEAN_COLUMNS,
    OTHER_MACHINES_COLUMNS,
    SCORE_COLUMNS,
    SPENT,
    TOLD,
    flatten_config,
    frame_of,
    told_of,
)

__all__ = ["STATES", "Store", "StoreError"]

STATES = ("planned", "running", "done", "failed")
EVALUATIONS = "evaluations"
HASH_LENGTH = 16


class Merged(NamedTuple):
    """What became of rows that were merged into a record: all of its rows, contradictions in words, and how many rows
    of another machine joined `other_machines.parquet`."""

    rows: pd.DataFrame
    conflicts: list[str]
    kept: int


class Store:
    """The results under `root`, which need not exist yet: nothing is made before the first write.

    Raises StoreError when the path runs through a regular file. All frames list what cannot be read in a `problem`
    column instead of failing, and leave it out of scores and means.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        for part in (self.root, *self.root.parents):
            if part.is_dir():
                break
            if part.exists() or part.is_symlink():
                raise StoreError(f"{part} is a file, not a folder: choose another folder with --results")

    # Training cells

    def cell_folder(self, config: Mapping[str, Any]) -> Path:
        """Where the cell of this configuration lies, whether or not it is there yet."""
        return self.root / records.key_of(config)

    def open_cell(self, config: Mapping[str, Any]) -> Path:
        """The cell's folder, made where missing; a config.json that is missing or damaged is written anew (the
        folder's name proves what it held). Raises StoreError when that fails."""
        folder = self.cell_folder(config)
        try:
            self.read_config(folder)
        except StoreError:
            records.write_json(folder / "config.json", records.canonical(config))
            records.sync_folder(self.root)
        return folder

    def write_status(self, folder: Path, state: str, *, reason: str | None = None, step: int = 0, **more: Any) -> None:
        """Atomically replaces status.json. `more`: weights (hash), expected (images per dataset), ..."""
        if state not in STATES:
            raise ValueError(f"unknown state {state!r}: choose from {', '.join(STATES)}")
        records.write_json(folder / "status.json", {"state": state, "reason": reason, "step": step, **more})

    def status(self, folder: Path) -> dict[str, Any]:
        """status.json as things stand: `planned` where there is none, or where a run was cut off (its lock is dead).

        Raises StoreError when the file is damaged, or when a finished cell has lost its scores or weights.
        """
        if not (folder / "status.json").exists():
            return {"state": "planned", "reason": None, "step": 0}
        status = records.read_json(folder / "status.json")
        state = status.get("state")
        if state not in STATES:
            raise StoreError(f"{folder / 'status.json'} has the unknown state {state!r}")
        if state == "running" and locks.holder(folder) is None:
            status |= {"state": "planned", "reason": f"interrupted at step {status.get('step', 0)}; it will continue"}
        if state == "done":
            for name in ("scores.parquet", "weights.safetensors", "environment.json"):
                if not (folder / name).is_file():
                    raise StoreError(f"{folder / name} is missing, though the cell is marked done")
        return status

    def write_scores(self, folder: Path, rows: pd.DataFrame) -> pd.DataFrame:
        """Adds a cell's rows per image to its table. Raises StoreError when an image has another score there."""
        path = folder / "scores.parquet"
        rows = records.check_rows(rows, f"the scores of {folder.name}")
        merged = agreement.merge_rows(records.read_frame(path), rows, str(folder)) if path.exists() else rows
        records.write_frame(path, merged)
        return merged

    def resolve_cell(self, name: str) -> Path:
        """The folder of a stored cell, by its hash, the start of its hash, or its name (variant/task/seed-N).

        Raises StoreError when nothing, or more than one cell, fits.
        """
        cells = self.cells()
        fits = cells[cells["hash"].str.startswith(name) | (cells["name"] == name)] if name else cells.iloc[:0]
        if len(fits) == 1:
            return self.root / fits["hash"].iloc[0]
        if len(fits):
            raise StoreError(f"{name!r} fits {len(fits)} cells: give one hash of {', '.join(fits['hash'])}")
        raise StoreError(f"no cell {name!r} in {self.root}: `run` makes them, and prints their hashes")

    # Evaluation records

    @staticmethod
    def evaluation_key(
        model: str,
        *,
        weights: str,
        task: str,
        dataset: str,
        protocol: Mapping[str, Any],
        overrides: Mapping[str, Any] | None = None,
        labels: str = "learned",
    ) -> dict[str, Any]:
        """What names an evaluation record. weights: SHA-256 of the weights, or "none" for a baseline."""
        key = {"model": model, "overrides": dict(overrides or {}), "labels": labels, "weights": weights}
        return records.canonical({**key, "task": task, "dataset": dataset, "protocol": dict(protocol)})

    def evaluation_folder(self, key: Mapping[str, Any]) -> Path:
        return self.root / EVALUATIONS / records.key_of(key)

    def add_evaluation(
        self,
        key: Mapping[str, Any],
        rows: pd.DataFrame,
        environment: Mapping[str, Any],
        *,
        expected: int,
        file: str | None = None,
        as_official: bool = False,
    ) -> pd.DataFrame:
        """Merges rows per image into the record of `key` and returns all of its rows.

        expected: images of the whole dataset; a mean is given once they are all there. environment: what these rows
        were measured on (environment.json keeps one per merge, the rows' `environment` column names it). file,
        as_official: as of `describe_weights`. A score that another machine gave otherwise, within the limit between
        the two, is kept beside it (`results.agreement`). Raises StoreError, and changes nothing, when an image is there
        with other pixels or with a score that is further away.
        """
        rows = records.check_rows(rows, f"scores on {key['dataset']}")
        foreign = sorted(set(rows["dataset"]) - {key["dataset"]})
        if foreign:
            raise StoreError(f"a record of {key['dataset']} cannot hold rows of {', '.join(foreign)}")
        label = records.key_of(environment)[:8]
        folder = self.evaluation_folder(key)
        incoming = rows.assign(environment=label)
        told = {"file": file, "as_official": as_official}
        return self.merge_record(folder, key, incoming, {label: dict(environment)}, expected, told, strict=True).rows

    def describe_weights(self, key: Mapping[str, Any], *, file: str | None, as_official: bool) -> None:
        """Adds to the record of `key` what its key does not hold: the name of the weights' file, without its folder
        (the first one that was said stays), and whether the user said that the weights are the published ones, so that
        their scores may be compared with published scores (once said, it stays). Nothing where there is no record."""
        folder = self.evaluation_folder(key)
        if (folder / "record.json").exists():
            rows, record = self.read_evaluation(folder)
            told = {"file": file, "as_official": as_official}
            self.merge_record(folder, key, rows.iloc[:0], {}, record["expected"], told, strict=True)

    def merge_record(
        self,
        folder: Path,
        key: Mapping[str, Any],
        rows: pd.DataFrame,
        environments: Mapping[str, Any],
        expected: int,
        told: Mapping[str, Any],
        *,
        strict: bool,
        others: pd.DataFrame | None = None,
    ) -> Merged:
        """Union of a record's rows with `rows`, and of what both say of its weights (`told`, TOLD).

        others: what other machines scored otherwise (`other_machines.read`) of the same images. Contradictions: an
        error when strict, else our row stays and they are returned in words. Written so that a crash between two files
        leaves rows without means, never wrong ones.
        """
        with locks.exclusive(self.root / EVALUATIONS / ".lock"):
            old, known = rows.iloc[:0], {}
            if (folder / "record.json").exists():
                old, known = self.read_evaluation(folder)
                environments = {**known["environments"], **environments}
                expected = max(expected, known["expected"])
            told = {name: known.get(name) or told[name] for name in TOLD}
            ours, theirs = (other_machines.with_machine(part, environments) for part in (old, rows))
            found = other_machines.compare_in(folder, ours, theirs, key["protocol"], others)
            if strict and found.conflicts:
                raise StoreError(agreement.contradiction(str(folder), found.conflicts))
            fresh = found.fresh[list(rows.columns)]
            merged = pd.concat([old, fresh], ignore_index=True) if len(old) else fresh.reset_index(drop=True)
            if len(merged) > len(old) or any(told[name] != known.get(name) for name in TOLD):
                used = set(merged["environment"].dropna())
                records.write_json(
                    folder / "environment.json", {label: environments[label] for label in environments if label in used}
                )
                records.write_frame(folder / "scores.parquet", merged)
                content = {"key": records.canonical(key), "expected": int(expected)}
                records.write_json(
                    folder / "record.json", content | {name: value for name, value in told.items() if value}
                )
            other_machines.add(folder, found.differing)
            return Merged(merged, found.conflicts, len(found.differing))

    def read_evaluation(self, folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Rows per image, and {"key", "expected", "environments", "file", "as_official"}.

        Raises StoreError for a damaged record.
        """
        record = records.read_json(folder / "record.json")
        try:
            key, expected = record["key"], int(record["expected"])
            name = records.key_of(key)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"{folder / 'record.json'} lacks its key or its expected number of images") from error
        if name != folder.name:
            raise StoreError(f"{folder / 'record.json'} has a key that belongs to the folder {name}")
        rows = records.read_frame(folder / "scores.parquet")
        environments = records.read_json(folder / "environment.json")
        return rows, {"key": key, "expected": expected, "environments": environments, **told_of(record)}

    # Families

    def add_family(
        self, suite: str, family: str, base: Mapping[str, Any], members: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """Files which cells a family compares: configurations of its base and of its members with their labels, the
        base among them, in the order in which tables show them. Seeds are left out: a member is all of its seeds."""
        families.add(self.root, suite, family, base, members)

    def family_folders(self) -> list[Path]:
        return self._folders(self.root / families.FOLDER)

    def families(self) -> pd.DataFrame:
        """A row per family, member and stored cell of that member, finished or not (`families.COLUMNS`), in the order
        suite, family, task, comparison, order, seed:

        suite, family: names ("ablations", "tokens"). comparison: 8 hex digits that (suite, family, base) share: pool
        variances and apply Holm within one of these; the same family at another budget or on another task is another.
        task, budget: of the cells. order: place of the member in tables. label: what the family calls it ("T = 64"),
        where `variant` is the cell's own name ("base"). is_base: whether this member is the base.
        seed, hash: of the cell, to be joined with `cells()`, `means()`, `scores()`; None for a member of which no cell
        is stored. base: hash of the base's cell of the same seed, whether or not it is stored; equals `hash` for the
        base itself. A cell is in as many rows as families name it, and trained once.
        problem: what is wrong with a record that cannot be read; every other column of that row is None.
        """
        return families.frame(self.family_folders(), self.cells())

    # Frames

    def cell_folders(self) -> list[Path]:
        return self._folders(self.root)

    def evaluation_folders(self) -> list[Path]:
        return self._folders(self.root / EVALUATIONS)

    def _folders(self, parent: Path) -> list[Path]:
        try:
            return sorted(path for path in parent.iterdir() if is_hash(path.name) and path.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot read {parent}: {error.strerror}") from error

    def cells(self) -> pd.DataFrame:
        """A row per training cell, finished or not (`CELL_COLUMNS`). `state` is one of STATES, None when damaged."""
        return frame_of([self._cell_row(folder) for folder in self.cell_folders()], CELL_COLUMNS)

    def _cell_row(self, folder: Path) -> dict[str, Any]:
        row: dict[str, Any] = {"hash": folder.name}
        try:
            row |= flatten_config(self.read_config(folder))
            status = self.status(folder)
            row |= {name: status.get(name) for name in ("state", "reason", "step", "weights")}
            if (folder / "environment.json").exists():
                environment = records.read_json(folder / "environment.json")
                row |= {name: environment.get(name) for name in (*MACHINE, *SPENT)}
            if status["state"] == "done":
                records.read_frame(folder / "scores.parquet")
                other_machines.read(folder)
        except StoreError as error:
            row |= {"state": None, "problem": str(error)}
        return row

    def read_config(self, folder: Path) -> dict[str, Any]:
        """A cell's config.json. Raises StoreError when it is damaged or lies in the folder of another cell, and says
        what mends it."""
        remedy = "run the suite of this cell again, which writes the file anew and trains nothing that is done"
        try:
            config = records.read_json(folder / "config.json")
            name = records.key_of(config)
        except StoreError as error:
            raise StoreError(f"{error}; {remedy}") from error
        if name != folder.name:
            raise StoreError(f"{folder / 'config.json'} is the configuration of the cell {name}; {remedy}")
        return config

    def evaluations(self) -> pd.DataFrame:
        """A row per evaluation record (`EVALUATION_COLUMNS`); means are None unless every image is there."""
        rows = []
        for folder in self.evaluation_folders():
            row: dict[str, Any] = {"hash": folder.name}
            try:
                scores, record = self.read_evaluation(folder)
                environments = list(record["environments"].values())
                latest = max(environments, key=lambda item: str(item.get("finished")), default={})
                row |= record["key"] | {name: latest.get(name) for name in (*MACHINE, "finished")} | told_of(record)
                row |= self._record_means(scores, record)
                other_machines.read(folder)
            except StoreError as error:
                row["problem"] = str(error)
            rows.append(row)
        return frame_of(rows, EVALUATION_COLUMNS)

    @staticmethod
    def _record_means(scores: pd.DataFrame, record: Mapping[str, Any]) -> dict[str, Any]:
        expected = {record["key"]["dataset"]: record["expected"]}
        means = records.summarise(scores, expected)
        return means[0] if means else {"images": 0, "expected": record["expected"], "complete": False}

    def scores(self) -> pd.DataFrame:
        """A row per image of every finished cell (`source` "cell") and every evaluation record ("evaluation")."""
        parts = [rows.assign(source=source, hash=name) for source, name, rows, _ in self._score_tables()]
        if not parts:
            return frame_of([], SCORE_COLUMNS)
        frame = pd.concat(parts, ignore_index=True)
        first = [name for name in SCORE_COLUMNS if name in frame.columns]
        return frame[[*first, *(name for name in frame.columns if name not in first)]]

    def other_machines(self) -> pd.DataFrame:
        """A row per score that another machine gave otherwise (`OTHER_MACHINES_COLUMNS`), of what `scores` has."""
        parts = []
        for source, name, *_ in self._score_tables():
            folder = self.root / name if source == "cell" else self.root / EVALUATIONS / name
            with suppress(StoreError):  # `cells()` and `evaluations()` name it and say why
                parts.append(other_machines.read(folder).assign(source=source, hash=name))
        parts = [part for part in parts if len(part)]
        frame = pd.concat(parts, ignore_index=True) if parts else frame_of([], OTHER_MACHINES_COLUMNS)
        return frame[list(OTHER_MACHINES_COLUMNS)]

    def with_machine(self, source: str, name: str) -> pd.DataFrame:
        """The rows of a finished cell or of a record with where they were measured. Raises StoreError for what is
        damaged."""
        if source == "evaluation":
            rows, record = self.read_evaluation(self.root / EVALUATIONS / name)
            return other_machines.with_machine(rows, record["environments"])
        folder = self.root / name
        return other_machines.cell_with_machine(folder, records.read_frame(folder / "scores.parquet"))

    def means(self) -> pd.DataFrame:
        """A row per finished cell or record and dataset (`MEAN_COLUMNS`); means are None unless it is complete."""
        rows = [
            {"source": source, "hash": name, **entry}
            for source, name, scores, expected in self._score_tables()
            for entry in records.summarise(scores, expected)
        ]
        return frame_of(rows, MEAN_COLUMNS)

    def _score_tables(self) -> list[tuple[str, str, pd.DataFrame, dict[str, int]]]:
        tables = []
        for folder in self.cell_folders():
            try:
                status = self.status(folder)
                if status["state"] == "done":
                    self.read_config(folder)
                    rows = records.read_frame(folder / "scores.parquet")
                    tables.append(("cell", folder.name, rows, status.get("expected") or {}))
            except StoreError:
                continue  # `cells()` names it and says why
        for folder in self.evaluation_folders():
            try:
                rows, record = self.read_evaluation(folder)
            except StoreError:
                continue  # `evaluations()` names it and says why
            tables.append(("evaluation", folder.name, rows, {record["key"]["dataset"]: record["expected"]}))
        return tables


def is_hash(name: str) -> bool:
    return len(name) == HASH_LENGTH and not set(name) - set("0123456789abcdef")
