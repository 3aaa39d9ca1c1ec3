"""Results made elsewhere, merged into a store: the union, with every contradiction reported and ours kept.

A member of an archive is taken only when it is one of the store's own file names inside a folder named by a hash, and
is written to a path made here, never to the one the archive asks for; links, devices and everything else are left out.
"""

import math
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pandas as pd

from results import agreement, families, locks, records
from results.agreement import elsewhere
from results.analyses import folder as analyses
from results.records import StoreError, guarded
from results.store import EVALUATIONS, Store, is_hash

SCRATCH = ".import-"
LEAST, RATIO = 2**30, 200  # an archive may unpack to so many bytes, or to so many times its own
LIMIT_VARIABLE = "MAMBAIR_BENCH_MAX_IMPORT"
UNREADABLE = (  # what zipfile and tarfile raise: RuntimeError for encrypted members, UnicodeDecodeError for names
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error),
    *(EOFError, OSError, RuntimeError, UnicodeDecodeError),
)
CELL_FILES = (
    *("config.json", "environment.json", "status.json"),
    *("scores.parquet", elsewhere.NAME, "train.jsonl", "weights.safetensors"),
)
OTHERS = re.compile(  # of a cell: other weights than its last, and scores of other weights and seeds of the noise
    r"(half|average|weights-\d+)\.safetensors|scores-(half|average|last|\d+)(-\d+)?\.parquet"
)
RECORD_FILES = ("record.json", "environment.json", "scores.parquet", elsewhere.NAME)
ANALYSIS_FILES = ("config.json", "environment.json", "rows.parquet")
UNDER = {EVALUATIONS: RECORD_FILES, families.FOLDER: (families.FILE,), analyses.FOLDER: ANALYSIS_FILES}


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
    apart: int = 0  # scores of another machine, kept beside ours

    def count(self, name: str, *, new: bool, apart: int) -> None:
        """A folder that was here: whether anything joined it, and how many scores were kept beside its own."""
        (self.merged if new or apart else self.present).append(name)
        self.apart += apart

    @property
    def ok(self) -> bool:
        return not self.conflicts and not self.refused

    def lines(self) -> list[str]:
        counts = f"{len(self.added)} added, {len(self.merged)} merged, {len(self.present)} already here"
        kept = f"{self.apart} scores of another machine differ within its limit: kept beside those that are here"
        conflicts = [f"conflict: {text}" for text in self.conflicts]
        return [counts, *([kept] if self.apart else []), *conflicts, *(f"refused: {text}" for text in self.refused)]


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
        found = _collect(path, source.root, report)
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


# Taking the files out


def _collect(path: Path, scratch: Path, report: ImportReport) -> int:
    """Copies every known file under `path` to its place under `scratch`; returns how many."""
    if path.is_dir():
        members = _folder_members(path)
    elif not path.exists():
        raise StoreError(f"{path} is not there: give an archive (.zip, .tar.gz, .tgz, .tar) or a folder of results")
    elif zipfile.is_zipfile(path):
        members = _zip_members(path)
    elif _is_tar(path):
        members = _tar_members(path, report)
    else:
        raise StoreError(f"{path} is no archive that can be read: give a .zip, .tar.gz, .tgz, .tar, or a folder")
    count, room = 0, math.inf
    if not path.is_dir():
        room = records.limit(LIMIT_VARIABLE, max(LEAST, RATIO * path.stat().st_size))
    try:
        for name, opened in members:
            target = _place(name)
            if target is None:
                if ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
                    report.refused.append(f"{name}: a path that leads out of the archive")
                continue
            if (scratch / target).exists():
                report.refused.append(f"{name}: the archive holds {target} twice; the first is taken")
                continue
            room -= _copy(opened, scratch / target, room)
            count += 1
    except StoreError:
        raise
    except UNREADABLE as error:
        raise StoreError(f"{path} is cut off, damaged or encrypted: {error}") from error
    return count


def _is_tar(path: Path) -> bool:
    """Whether it begins as one. Raises StoreError when it is cut off within what its first member takes."""
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error, OSError) as error:
        raise StoreError(f"{path} is cut off, damaged or encrypted: {error}") from error


def _place(name: str) -> Path | None:
    """Where in a store a member of this name belongs; None for anything that is not part of one."""
    path = PurePosixPath(name.replace("\\", "/"))
    parts = path.parts
    if len(parts) < 2 or ".." in parts or path.is_absolute():
        return None
    if len(parts) > 3 and parts[-4] == analyses.FOLDER and is_hash(parts[-3]) and parts[-2] == analyses.ARRAYS:
        return Path(*parts[-4:]) if path.suffix == ".safetensors" else None
    if not is_hash(parts[-2]):
        return None
    if len(parts) > 2 and parts[-3] in UNDER:
        return Path(*parts[-3:]) if parts[-1] in UNDER[parts[-3]] else None
    return Path(parts[-2], parts[-1]) if parts[-1] in CELL_FILES or OTHERS.fullmatch(parts[-1]) else None


def _copy(source: IO[bytes], target: Path, room: float) -> int:
    """Bytes copied. Raises StoreError when they are more than `room`."""
    count = 0
    with source:
        with guarded(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = open(target, "wb")  # noqa: SIM115  (closed below: errors of reading and of writing are told apart)
        try:
            while chunk := source.read(1 << 20):
                count += len(chunk)
                if count > room:
                    raise StoreError(
                        "the archive unpacks to far more than results do: refused before it fills the disk; "
                        f"{LIMIT_VARIABLE}=BYTES in the environment raises the limit, for one that you trust"
                    )
                with guarded(target):
                    file.write(chunk)
            with guarded(target):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with guarded(target):
                file.close()  # which writes what a full disk has refused once more
    return count


def _folder_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path.parent if is_hash(path.name) else path).as_posix()
        if file.is_file() and not file.is_symlink() and _place(name):
            yield name, open(file, "rb")  # noqa: SIM115  (closed by _copy)


def _zip_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                yield member.filename, archive.open(member)


def _tar_members(path: Path, report: ImportReport) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(path) as archive:
        for member in archive:
            opened = archive.extractfile(member) if member.isfile() else None
            if opened is not None:
                yield member.name, opened
            elif not member.isdir():
                report.refused.append(f"{member.name}: a link or device, not a file")


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
            report.conflicts.append(f"cell {name}, other weights: {_three(found.conflicts)}")
        elif len(found.fresh):
            further = f"its {len(found.fresh)} further images stay out"
            report.conflicts.append(f"cell {name}: other weights here, so {further}")
        else:
            report.present.append(folder.name)
        return
    with _skipping(report.refused):
        placed, others = elsewhere.placed_cell(folder, rows), elsewhere.read(folder)
    with _skipping(report.conflicts, "damaged here, remove it and import again: "):
        known = elsewhere.placed_cell(target, our_rows)
        found = elsewhere.compare(target, known, placed, config["protocol"], others)
    if found.conflicts:
        report.conflicts.append(f"cell {name}: {_three(found.conflicts)}")
        return
    if len(found.fresh):
        store.write_scores(target, found.fresh[list(rows.columns)])
    elsewhere.add(target, found.apart)
    weights = _add_others(folder, target)
    report.count(folder.name, new=bool(len(found.fresh) or weights), apart=len(found.apart))


def _import_record(store: Store, source: Store, folder: Path, report: ImportReport) -> None:
    with _skipping(report.refused):
        rows, record = source.read_evaluation(folder)
        if "environment" not in rows.columns:
            raise StoreError(f"{folder / 'scores.parquet'} does not say where its rows were measured")
        others = elsewhere.read(folder)
    target = store.root / EVALUATIONS / folder.name
    with _skipping(report.conflicts, "damaged here, remove it and import again: "):
        before = len(store.read_evaluation(target)[0]) if (target / "record.json").exists() else None
    about = {"environments": record["environments"], "expected": record["expected"], "told": record}
    merged = store.merge_record(target, record["key"], rows, **about, strict=False, others=others)
    if merged.conflicts:
        key = record["key"]
        name = f"{key['model']} on {key['dataset']}, {key['task']} ({folder.name})"
        report.conflicts.append(f"record {name}: {_three(merged.conflicts)}")
    if before is None:
        report.added.append(folder.name)
    elif not merged.conflicts or merged.elsewhere or len(merged.rows) > before:
        report.count(folder.name, new=len(merged.rows) > before, apart=merged.elsewhere)


def _import_analysis(store: Store, source: Store, folder: Path, report: ImportReport) -> None:
    """Joins images and seeds that are not here; what is here stays."""
    with _skipping(report.refused):
        theirs = analyses.read(folder)
    target = analyses.place(store.root, theirs.key)
    with _skipping(report.conflicts, "damaged here, remove it and import again: "):
        before = len(analyses.read(target).rows) if (target / "config.json").exists() else None
    about = {"expected": theirs.expected, "question": theirs.question, "columns": theirs.columns}
    with _skipping(report.conflicts):
        for label, environment in theirs.environments.items():
            rows = theirs.rows[theirs.rows["environment"] == label]
            arrays = {image: found for image in rows["image"].unique() if (found := theirs.arrays(image))}
            analyses.add(store.root, theirs.key, rows, environment, arrays=arrays, **about)
    if before is None:
        report.added.append(folder.name)
    else:
        after = len(analyses.read(target).rows)
        (report.merged if after > before else report.present).append(folder.name)


def _import_member(store: Store, source: Store, folder: Path, report: ImportReport) -> None:
    with _skipping(report.refused):
        families.read_member(folder)
    target = store.root / families.FOLDER / folder.name
    if not (target / families.FILE).exists():
        _move(folder, target)


def _three(conflicts: list[str]) -> str:
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
    missing = [path for path in folder.iterdir() if OTHERS.fullmatch(path.name) and not (target / path.name).exists()]
    for path in missing:
        with guarded(target / path.name):
            os.replace(path, target / path.name)
    records.sync_folder(target)
    return len(missing)
