"""What a suite's cells still need: which are done, which are cut off, what of a finished one is not scored."""

from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from results.store import Store, StoreError
from suites.evaluation import ways
from suites.execution.cell import incomplete_sets, scored_images, training_cost
from suites.spec import Cell, Scoring, SpecError, Suite


class Planned(NamedTuple):
    """A cell and how it stands in a store: planned (also when cut off), running (elsewhere), done, or failed."""

    cell: Cell
    state: str
    reason: str | None


def plan(suite: Suite, store: Store) -> list[Planned]:
    """Every cell of the suite with its state. A folder that is damaged counts as failed, and will be made good.

    Raises SpecError when two cells have one name, since nobody could tell them apart.
    """
    names = [cell.name for cell in suite.cells]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise SpecError(f"the suite {suite.name} has two cells of the name {twice[0]}: give the variants other names")
    return [_look(cell, store) for cell in suite.cells]


def _look(cell: Cell, store: Store) -> Planned:
    folder = store.cell_folder(cell.config())
    try:
        status = stands(store, folder)
        reason = unscored_images(store, folder) if status["state"] == "done" else status.get("reason")
        return Planned(cell, status["state"], reason)
    except StoreError as error:
        return Planned(cell, "failed", str(error))


def stands(store: Store, folder: Path) -> dict[str, Any]:
    """The cell's status; of one that was cut off with the step that its log tells (status.json lags behind)."""
    status = store.status(folder)
    if status["state"] == "planned" and status["reason"]:
        step = max(status.get("step", 0), training_cost(folder).get("train_steps", 0))
        status |= {"step": step, "reason": f"interrupted at step {step}; it will continue"}
    return status


def unscored_images(store: Store, folder: Path) -> str | None:
    """What a finished cell has not scored, in words."""
    short = incomplete_sets(store, folder)
    parts = [f"{scored} of {count} images of {name}" for name, (scored, count) in short.items()]
    return f"scored on {', '.join(parts)}" if parts else None


def not_kept(cell: Cell, store: Store, scoring: Scoring) -> str | None:
    """What can never be scored of a finished cell: it was trained when nobody asked for these weights."""
    folder = store.cell_folder(cell.config())
    asked = {way.weights for way in ways.unscored_ways(folder, cell, scoring)}
    lost = sorted(name for name in asked if not ways.weights_path(folder, name).exists())
    return f"trained without keeping the weights {', '.join(lost)}, which are not scored" if lost else None


def unfinished(planned: Planned, store: Store, data: Path | None, scoring: Scoring) -> bool:
    """Whether a finished cell has something left to be scored."""
    more = planned.reason is not None and _more_to_score(planned.cell, store, data)
    return more or bool(ways.to_score(store.cell_folder(planned.cell.config()), planned.cell, scoring))


def _more_to_score(cell: Cell, store: Store, data: Path | None) -> bool:
    """Whether test images of a finished cell have turned up since."""
    from suites.data import DataError, find

    folder = store.cell_folder(cell.config())
    for name in incomplete_sets(store, folder):
        with suppress(DataError):
            if find(name, data).files.keys() - scored_images(folder, name):
                return True
    return False
