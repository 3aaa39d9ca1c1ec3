"""Results made elsewhere, merged into a store: the union, with every contradiction reported and ours kept.

`unpacking` takes the files out; what is merged is a store of its own by then."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from results import agreement, families, locks, records, unpacking
from results.agreement import other_machines
from results.agreement.pairs import SAME_AS
from results.analyses import folder as analyses
from results.records import StoreError, guarded
from results.store import EVALUATIONS, Store

SCRATCH = ".import-"


@dataclass
class ImportReport:
    """What became of each folder, by its hash; `conflicts` and `refused` are sentences, with the store unchanged.

    Records of families only say what is compared: they join without being counted.
    """

    added: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)  # new rows joined a folder that was here
    present: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    kept: int = 0  # scores of another machine, kept beside ours

    def count(self, name: str, *, new: bool, kept: int) -> None:
        """A folder that was here: whether anything joined it, and how many scores were kept beside its own."""
        (self.merged if new or kept else self.present).append(name)
        self.kept += kept

    @property
    def ok(self) -> bool:
        return not self.conflicts and not self.refused

    def lines(self) -> list[str]:
        counts = f"{len(self.added)} added, {len(self.merged)} merged, {len(self.present)} already here"
        scores = (
            "1 score of another machine differs" if self.kept == 1 else f"{self.kept} scores of other machines differ"
        )
        kept = f"{scores} within what is allowed: kept beside those that are here (docs/scaling.md, Two machines)"
        conflicts = [f"conflict: {text}" for text in self.conflicts]
        return [counts, *([kept] if self.kept else []), *conflicts, *(f"refused: {text}" for text in self.refused)]


def import_into(store: Store, path: str | Path) -> ImportReport:
    """Merges the archive or folder `path` into `store`.

    A finished cell replaces an unfinished one here; a cell that both have finished must agree in every score, and gets
    what is missing here of its other scores and weights. Rows of an evaluation record are joined image by image. What
    another machine scored otherwise is kept beside ours, within the limit between the two (`results.agreement`).
    Raises StoreError when `path` is missing, no archive, cut off, or holds no results, and when the store cannot be
    written.
    """
    path, report = Path(path), ImportReport()
    with guarded(store.root):
        store.root.mkdir(parents=True, exist_ok=True)
        _clear(store.root)
        me = locks.Holder.myself()
        prefix = f"{SCRATCH}{me.pid}-{me.host}-"
        scratch = tempfile.TemporaryDirectory(prefix=prefix, dir=store.root, ignore_cleanup_errors=True)
    with scratch as name:
        source = Store(name)
        found = unpacking.collect(path, source.root, report.refused)
        if not found:
            raise StoreError(f"{path} holds no results: no folder named by a hash with its config.json or record.json")
        for folder in source.cell_folders():
            _import(_import_cell, store, source, folder, report)
        for folder in source.evaluation_folders():
            _import(_import_record, store, source, folder, report)
        for folder in analyses.folders(source.root):
            _import(_import_analysis, store, source, folder, report)
        for folder in source.family_folders():
            _import(_import_member, store, source, folder, report)
    return report


def _clear(root: Path) -> None:
    """Removes the scratch folders of imports that were killed."""
    for left in root.glob(f"{SCRATCH}*"):
        whose = re.fullmatch(rf"{re.escape(SCRATCH)}(\d+)-(.+)-[^-]+", left.name)
        if whose and not locks.Holder(int(whose[1]), whose[2], None).alive(left.stat().st_mtime):
            shutil.rmtree(left, ignore_errors=True)


class _Skip(Exception):
    """One folder cannot be merged; the others can. Carries the report's list and the sentence for it."""


@contextmanager
def _skipping(outcome: list[str], prefix: str = "") -> Iterator[None]:
    """A StoreError of reading one folder skips that folder; one of writing the store (outside of this) ends all."""
    try:
        yield
    except StoreError as error:
        raise _Skip(outcome, prefix + str(error)) from error


def _import(
    step: Callable[[Store, Store, Path, ImportReport], None],
    store: Store,
    source: Store,
    folder: Path,
    report: ImportReport,
) -> None:
    try:
        step(store, source, folder, report)
    except _Skip as skip:
        outcome, sentence = skip.args
        outcome.append(sentence.replace(f"{source.root}/", ""))


# Merging


def _import_cell(store: Store, source: Store, folder: Path, report: ImportReport) -> None:
    with _skipping(report.refused):
        config = source.read_config(folder)
        theirs = source.status(folder)
        rows = records.read_frame(folder / "scores.parquet") if theirs["state"] == "done" else None
    target = store.root / folder.name
    if not (target / "config.json").is_file():
        _move(folder, target)
        report.added.append(folder.name)
        return
    with _skipping(report.conflicts, "damaged here, remove it and import again: "):
        store.read_config(target)
        ours = store.status(target)
        our_rows = records.read_frame(target / "scores.parquet") if ours["state"] == "done" else None
    if rows is None:
        report.present.append(folder.name)
    elif our_rows is None:
        try:
            with locks.hold(target):
                _replace_unfinished(folder, target)
        except locks.LockedError as error:  # an engine at work on it keeps it
            report.conflicts.append(str(error))
        else:
            report.added.append(folder.name)
    else:
        _merge_cell(store, config, (target, ours, our_rows), (folder, theirs, rows), report)


def _merge_cell(
    store: Store,
    config: Mapping[str, Any],
    ours: tuple[Path, Mapping[str, Any], pd.DataFrame],
    theirs: tuple[Path, Mapping[str, Any], pd.DataFrame],
    report: ImportReport,
) -> None:
    """A cell that both have finished: (folder, status, rows) of each. Only scores of the same weights may be apart."""
    (target, our_status, our_rows), (folder, their_status, rows) = ours, theirs
    name = f"{config['variant']['name']}/{config['task']}/seed-{config['seed']} ({folder.name})"
    if our_status.get("weights") != their_status.get("weights"):
        found = agreement.compare(our_rows, rows)
        if found.conflicts:
            report.conflicts.append(f"cell {name}, other weights: {_first_three(found.conflicts)}")
        elif len(found.fresh):
            further = f"its {len(found.fresh)} further images stay out"
            report.conflicts.append(f"cell {name}: other weights here, so {further}")
        else:
            report.present.append(folder.name)
        return
    with _skipping(report.refused):
        incoming, others = other_machines.cell_with_machine(folder, rows), other_machines.read(folder)
    with _skipping(report.conflicts, "damaged here, remove it and import again: "):
        known = other_machines.cell_with_machine(target, our_rows)
        found = other_machines.compare_in(target, known, incoming, config["protocol"], others)
    if found.conflicts:
        report.conflicts.append(f"cell {name}: {_first_three(found.conflicts)}")
        return
    if len(found.fresh):
        store.write_scores(target, found.fresh[list(rows.columns)])
    other_machines.add(target, found.differing)
    weights = _add_others(folder, target)
    report.count(folder.name, new=bool(len(found.fresh) or weights), kept=len(found.differing))


def _import_record(store: Store, source: Store, folder: Path, report: ImportReport) -> None:
    with _skipping(report.refused):
        rows, record = source.read_evaluation(folder)
        if "environment" not in rows.columns:
            raise StoreError(f"{folder / 'scores.parquet'} does not say where its rows were measured")
        others = other_machines.read(folder)
    target = store.root / EVALUATIONS / folder.name
    with _skipping(report.conflicts, "damaged here, remove it and import again: "):
        before = len(store.read_evaluation(target)[0]) if (target / "record.json").exists() else None
    about = {"environments": record["environments"], "expected": record["expected"], "told": record}
    merged = store.merge_record(target, record["key"], rows, **about, strict=False, others=others)
    if merged.conflicts:
        key = record["key"]
        name = f"{key['model']} on {key['dataset']}, {key['task']} ({folder.name})"
        report.conflicts.append(f"record {name}: {_first_three(merged.conflicts)}")
    if before is None:
        report.added.append(folder.name)
    elif not merged.conflicts or merged.kept or len(merged.rows) > before:
        report.count(folder.name, new=len(merged.rows) > before, kept=merged.kept)


def _import_analysis(store: Store, source: Store, folder: Path, report: ImportReport) -> None:
    """Joins images and seeds that are not here; what is here stays, and a PSNR that contradicts it is told."""
    with _skipping(report.refused):
        theirs = analyses.read(folder)
    target = analyses.place(store.root, theirs.key)
    with _skipping(report.conflicts, "damaged here, remove it and import again: "):
        ours = analyses.read(target) if (target / "config.json").exists() else None
    conflicts = _analysis_conflicts(ours, theirs) if ours is not None else []
    about = {"expected": theirs.expected, "question": theirs.question, "columns": theirs.columns}
    with _skipping(report.conflicts):
        for label, environment in theirs.environments.items():
            rows = theirs.rows[theirs.rows["environment"] == label]
            arrays = {image: found for image in rows["image"].unique() if (found := theirs.arrays(image))}
            analyses.add(store.root, theirs.key, rows, environment, arrays=arrays, **about)
    if conflicts:
        named = f"{theirs.key['analysis']} of {theirs.key['model']} on {theirs.key['dataset']} ({folder.name})"
        report.conflicts.append(f"analysis {named}: {_first_three(conflicts)}")
    if ours is None:
        report.added.append(folder.name)
    elif (more := len(analyses.read(target).rows) > len(ours.rows)) or not conflicts:
        (report.merged if more else report.present).append(folder.name)


def _analysis_conflicts(ours: analyses.Record, theirs: analyses.Record) -> list[str]:
    """A sentence for every image and seed whose PSNR the two contradict, where the analysis has one."""
    if "psnr" not in ours.columns or "psnr" not in theirs.columns:
        return []
    key, frames = ours.key, []
    for record in (ours, theirs):
        seeds = record.rows["seed"].map(lambda seed: "" if pd.isna(seed) else f" (seed {seed})")
        rows = record.rows.assign(dataset=key["dataset"], image=record.rows["image"] + seeds)
        frames.append(other_machines.with_machine(rows, record.environments).drop_duplicates(["image"]))
    return agreement.compare(
        *frames, {**key["protocol"], **SAME_AS.get(key["parameters"].get("intervention"), {})}
    ).conflicts


def _import_member(store: Store, source: Store, folder: Path, report: ImportReport) -> None:
    with _skipping(report.refused):
        families.read_member(folder)
    target = store.root / families.FOLDER / folder.name
    if not (target / families.FILE).exists():
        _move(folder, target)


def _first_three(conflicts: list[str]) -> str:
    """The first three, and how many more."""
    return "; ".join(conflicts[:3]) + (f" and {len(conflicts) - 3} more" if len(conflicts) > 3 else "")


def _move(folder: Path, target: Path) -> None:
    """The whole folder at once: the scratch copy lies on the store's own file system."""
    with guarded(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
    records.sync_folder(target.parent)


def _replace_unfinished(folder: Path, target: Path) -> None:
    """Their finished files over our unfinished ones, status.json last, so that a crash leaves an unfinished cell.

    What theirs does not bring (our log, checkpoints, scores on the way) is of a training that is over, and goes first.
    """
    theirs = {path.name for path in folder.iterdir()}
    for path in target.iterdir():
        if path.is_file() and path.name not in (*theirs, locks.NAME):
            with guarded(path):
                path.unlink()
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "status.json"):
        with guarded(target / path.name):
            os.replace(path, target / path.name)
    records.sync_folder(target)


def _add_others(folder: Path, target: Path) -> int:
    """Their other scores and weights of a cell that both have trained alike, where ours lacks them; how many."""
    missing = [
        path for path in folder.iterdir() if unpacking.OTHERS.fullmatch(path.name) and not (target / path.name).exists()
    ]
    for path in missing:
        with guarded(target / path.name):
            os.replace(path, target / path.name)
    records.sync_folder(target)
    return len(missing)
