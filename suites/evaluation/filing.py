"""The one way from a network and a set to filed scores: what is filed already is not scored again.

`score_set` is what cells, their weights on the way, `evaluate` and the protocol sweep go by. Where the rows go is a
`Target`: a cell's table, an evaluation record, or nowhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from results import records
from results.store import Store, StoreError
from suites.data import Dataset, Picture
from suites.evaluation.crops import Kept
from suites.evaluation.evaluate import frame_of, score_images
from suites.spec import Protocol, Task


@dataclass(frozen=True)
class Target:
    """Where rows per image go. held: those of a dataset that are there. add: files rows and returns all of the target's
    rows; raises StoreError when an image has another score there, or when nothing can be written."""

    held: Callable[[str], pd.DataFrame]
    add: Callable[[pd.DataFrame], pd.DataFrame]


NOWHERE = Target(held=lambda dataset: frame_of([]), add=lambda rows: rows)


def cell_target(store: Store, folder: Path) -> Target:
    """The table of scores of the cell in `folder`: those of its last weights under its protocol."""

    def held(dataset: str) -> pd.DataFrame:
        path = folder / "scores.parquet"
        rows = records.read_frame(path) if path.exists() else frame_of([])
        return rows[rows["dataset"] == dataset]

    return Target(held, lambda rows: store.write_scores(folder, rows))


def record_target(store: Store, key: Mapping[str, Any], machine: Mapping[str, Any], expected: int) -> Target:
    """The evaluation record of `key`. machine: what new rows are measured on; expected: images of the whole set."""
    folder = store.evaluation_folder(key)

    def held(dataset: str) -> pd.DataFrame:
        return store.read_evaluation(folder)[0] if (folder / "record.json").exists() else frame_of([])

    def add(rows: pd.DataFrame) -> pd.DataFrame:
        return store.add_evaluation(key, rows, {**machine, "finished": records.now()}, expected=expected)

    return Target(held, add)


@dataclass(frozen=True)
class Scored:
    """What became of one set. asked: a row per image that was asked for and has a score, in the order of the set.

    new: images scored now. rows: all of the set that the target holds, or, where it refused them, `asked`. refused: why
    it did. stopped: what ended the scoring early; the images before it are here and filed.
    """

    asked: pd.DataFrame
    new: frozenset[str]
    rows: pd.DataFrame
    refused: StoreError | None = None
    stopped: BaseException | None = None

    def checked(self) -> pd.DataFrame:
        """`rows`. Raises what stopped the scoring, or why the rows were refused."""
        for error in (self.stopped, self.refused):
            if error is not None:
                raise error
        return self.rows


def score_set(
    model: nn.Module | str,
    task: Task,
    dataset: Dataset,
    protocol: Protocol,
    target: Target = NOWHERE,
    *,
    device: str = "cpu",
    labels: str = "learned",
    pattern: str | None = None,
    save: Path | None = None,
    again: bool = False,
    keep: Kept | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Scored:
    """Scores the images of `dataset` that `target` does not hold with the same pixels, and files their rows.

    model, labels, pattern, save, keep: as for `score_images`. again: scores what is held too, and the target then
    says whether it is the same; so does `save`, since a stored score has no picture. progress: called after each image,
    scored or held, with (done, total, stem). Nothing is raised for an image that cannot be scored, for Ctrl-C or for
    rows that were refused: see `Scored`.
    """
    stems = dataset.stems(pattern)
    known: dict[str, dict[str, Any]] = {}
    try:
        held = {row["image"]: row for row in target.held(dataset.name).to_dict("records")}
    except StoreError:
        held = {}  # damaged: `add` says so

    def skip(picture: Picture) -> bool:
        row = held.get(picture.stem)
        if again or save is not None or row is None or row["pixels"] != picture.sha256:
            return False
        known[picture.stem] = row
        tell(picture.stem)
        return True

    def tell(stem: str) -> None:
        if progress is not None:
            progress(len(known) + len(fresh), len(stems), stem)

    fresh: dict[str, dict[str, Any]] = {}
    stopped: BaseException | None = None
    options = {"device": device, "labels": labels, "pattern": pattern, "save": save, "keep": keep}
    try:
        for row in score_images(model, task, dataset, protocol, skip=skip, **options):
            fresh[row["image"]] = row
            tell(row["image"])
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        stopped = error
    asked = frame_of([row for stem in stems if (row := fresh.get(stem) or known.get(stem))])
    rows, refused = pd.DataFrame(list(held.values())) if held else asked, None
    if fresh:
        try:
            whole = target.add(frame_of(list(fresh.values())))
            rows = whole[whole["dataset"] == dataset.name]
        except StoreError as error:
            rows, refused = asked, error
    return Scored(asked, frozenset(fresh), rows, refused, stopped)
