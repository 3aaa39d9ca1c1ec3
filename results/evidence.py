"""A store and what is committed under `results/measured/`, read once, as one set of frames: what the tables go by.

What both have is taken from one of them: an evaluation record from the one with more images (the store, if they have as
many), a cell from where it is further (the store, if it is finished in both). Their rows are never mixed: another
machine's float32 differs in the last digits. Where it differs by more than is allowed between the two
(`results.agreement`), that is a problem.
"""

import math
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from results import agreement, families, measured, records
from results.agreement import other_machines
from results.agreement.limits import EXACT
from results.analyses import Record, chosen, every
from results.store import Store, StoreError
from results.store.columns import (
    CELL_COLUMNS,
    EVALUATION_COLUMNS,
    MEAN_COLUMNS,
    OTHER_MACHINES_COLUMNS,
    SCORE_COLUMNS,
    frame_of,
)

_IMAGE = ["hash", "dataset", "image"]


class Evidence:
    """Frames as `Store` gives them, of a store and the committed measurements. `committed`: None for FOLDER.

    Rows of `cells` and `evaluations` say in `committed` which of the two they come from, and in `other_machines`, in
    words, which scored otherwise.
    """

    def __init__(self, store: Store, committed: Path | None = None) -> None:
        self.store, self._folder = store, committed
        self._committed = measured.load(committed)

    @cached_property
    def problems(self) -> list[str]:
        """One line for everything that was left out: a damaged cell, record or family, a committed file."""
        lines = list(self._committed.problems)
        for kind, frame in (("cell", self._own_cells), ("evaluation", self._own_evaluations)):
            lines += [f"{kind} {row['hash']}: {row['problem']}" for row in frame if row["problem"]]
        lines += [f"family: {problem}" for problem in self.families["problem"].dropna()]
        lines += [f"analysis: {problem}" for problem in self._analyses[1]]
        lines += self._in_both[1]
        return [" ".join(line.replace(f"{self.store.root}/", "").split()) for line in lines]

    @cached_property
    def cells(self) -> pd.DataFrame:
        """`Store.cells`, without those whose configuration cannot be read."""
        own = [row for row in self._own_cells if row["config"] is not None and row["hash"] not in self._taken]
        return self._frame(own, self._committed.cells, CELL_COLUMNS)

    @cached_property
    def evaluations(self) -> pd.DataFrame:
        """`Store.evaluations`, without those that cannot be read."""
        own = [row for row in self._own_evaluations if not row["problem"] and row["hash"] not in self._taken]
        return self._frame(own, self._committed.evaluations, EVALUATION_COLUMNS)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """`Store.scores`: a row per image."""
        return pd.concat([self._own_scores, self._committed_scores], ignore_index=True)

    @cached_property
    def other_machines(self) -> pd.DataFrame:
        """`Store.other_machines`, of the store and of what is committed, and what one of them has of the
        other's records."""
        parts = [self.store.other_machines(), self._committed.other_machines, *self._in_both[0]]
        parts = [part.reindex(columns=list(OTHER_MACHINES_COLUMNS)) for part in parts if len(part)]
        if not parts:
            return frame_of([], OTHER_MACHINES_COLUMNS)
        frame = other_machines.distinct(pd.concat(parts, ignore_index=True))
        taken = (
            self.scores.drop_duplicates(_IMAGE)
            .set_index(_IMAGE)[["psnr", "ssim"]]
            .reindex(pd.MultiIndex.from_frame(frame[_IMAGE]))
        )
        away = (frame[["psnr", "ssim"]] - taken.to_numpy()).abs().max(axis=1)
        return frame[(away > EXACT) | away.isna()].reset_index(drop=True)  # what is taken may be one of them

    @cached_property
    def _in_both(self) -> tuple[list[pd.DataFrame], list[str]]:
        """Of records that the store and results/measured have, and of cells with the same weights in both: rows of the
        one that is not taken which differ, and a line for every one that contradicts the other."""
        differing, lines = [], []
        done = {(row["hash"], row["weights"]) for row in self._own_cells if row["state"] == "done"}
        both = [row for row in self._committed.cells if row["hash"] in self._committed.with_machine]
        known = {("cell", row["hash"]) for row in both if (row["hash"], row["weights"]) in done}
        own = {row["hash"] for row in self._own_evaluations if not row["problem"]}
        known |= {("evaluation", row["hash"]) for row in self._committed.evaluations if row["hash"] in own}
        for source, name in sorted(known):
            (committed, protocol), ours = self._committed.with_machine[name], self.store.with_machine(source, name)
            first, second = (committed, ours) if name in self._taken else (ours, committed)
            found = agreement.compare(first, second, protocol)
            differing.append(found.differing.assign(source=source, hash=name))
            if found.conflicts:
                told = f"the store and results/measured contradict each other: {'; '.join(found.conflicts[:3])}"
                lines.append(f"{source} {name}: {told}")
        return differing, lines

    @cached_property
    def means(self) -> pd.DataFrame:
        """`Store.means`: a row per finished cell or record and dataset."""
        rows = [row for row in self.store.means().to_dict("records") if row["hash"] not in self._taken]
        for (source, name), part in self._committed_scores.groupby(["source", "hash"], sort=False):
            expected = self._committed.expected[name]
            rows += [{"source": source, "hash": name, **entry} for entry in records.summarise(part, expected)]
        return frame_of(rows, MEAN_COLUMNS)

    @cached_property
    def families(self) -> pd.DataFrame:
        """`Store.families`, of all cells."""
        folders = {path.name: path for path in (*self._committed.families, *self.store.family_folders())}
        return families.frame(list(folders.values()), self.cells)

    @cached_property
    def analyses(self) -> list[Record]:
        """What was asked of trained networks, stored or committed: each once (`results.analyses.chosen`)."""
        return chosen(self.copies)

    @property
    def copies(self) -> list[Record]:
        """The same with all copies of what was asked more than once (`results.analyses.every`)."""
        return self._analyses[0]

    @cached_property
    def _analyses(self) -> tuple[list[Record], list[str]]:
        return every(self.store.root, self._folder)

    def parameters(self, name: str) -> int | None:
        """Number of parameters of the finished cell with this hash; None when its weights cannot be read."""
        if name in self._taken:
            return self._committed.parameters.get(name)
        try:
            return measured.parameters(self.store.root / name / "weights.safetensors")
        except StoreError:
            return None

    @cached_property
    def _own_cells(self) -> list[dict[str, Any]]:
        return self.store.cells().to_dict("records")

    @cached_property
    def _own_evaluations(self) -> list[dict[str, Any]]:
        return self.store.evaluations().to_dict("records")

    @cached_property
    def _taken(self) -> set[str]:
        """Hashes of what comes from the committed files."""
        own = {row["hash"]: row["images"] or 0 for row in self._own_evaluations}
        reached = {row["hash"]: _progress(row) for row in self._own_cells}
        taken = {row["hash"] for row in self._committed.evaluations if row["images"] > own.get(row["hash"], 0)}
        return taken | {row["hash"] for row in self._committed.cells if _progress(row) > reached.get(row["hash"], -1)}

    @cached_property
    def _own_scores(self) -> pd.DataFrame:
        frame = self.store.scores()
        return frame[~frame["hash"].isin(self._taken)]

    @cached_property
    def _committed_scores(self) -> pd.DataFrame:
        frame = self._committed.scores.reindex(columns=list(SCORE_COLUMNS))
        return frame[frame["hash"].isin(self._taken)]

    def _frame(
        self, own: list[dict[str, Any]], committed: list[dict[str, Any]], columns: tuple[str, ...]
    ) -> pd.DataFrame:
        rows = [row | {"committed": False} for row in own]
        rows += [row | {"committed": True} for row in committed if row["hash"] in self._taken]
        rows = [row | {"other_machines": self._other_machines_text.get(row["hash"], "")} for row in rows]
        return frame_of(rows, (*columns, "committed", "other_machines"))

    @cached_property
    def _other_machines_text(self) -> dict[str, str]:
        """By hash: "AMD EPYC, commit 0123abcd: 5 images at most 0.0001 dB away", one after the other."""
        if self.other_machines.empty:
            return {}
        both = self.other_machines.merge(self.scores[[*_IMAGE, "psnr"]], on=_IMAGE, suffixes=("", "_here"))
        both["away"] = (both["psnr"] - both["psnr_here"]).abs()
        told: dict[str, list[str]] = {}
        for (name, device, commit), part in both.groupby(["hash", "device", "commit"], dropna=False):
            images = "1 image" if len(part) == 1 else f"{len(part)} images"
            away = f"{images} at most {part['away'].max():.2g} dB away"
            told.setdefault(name, []).append(f"{device}, commit {str(commit)[:8]}: {away}")
        return {name: "; ".join(parts) for name, parts in told.items()}


def _progress(row: dict[str, Any]) -> float:
    """How far a cell is: its iterations, or inf once it is finished."""
    return math.inf if row["state"] == "done" else row["step"] or 0
