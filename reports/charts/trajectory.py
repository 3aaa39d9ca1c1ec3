"""Trained cells on their way: scores of their weights at other iterations than the last, and logged losses.

A store keeps those scores beside a cell's own scores (`results.export.score_files`), what is committed in
`<machine>/<name>.csv.xz`. Averages of weights belong to no iteration and are left out.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from results import measured, records
from results.evidence import Evidence
from results.export import score_files

COLUMNS = ("hash", "iteration", "dataset", "psnr", "draws")
LOSSES = ("hash", "step", "loss")
SCORED = ("weights", "gumbel", "dataset", "psnr")  # what a file of scores has beside the hash


def load(evidence: Evidence, committed: Path | None = None) -> pd.DataFrame:
    """A row per cell, iteration and dataset: PSNR in dB, the mean over images and `draws` seeds of the routing noise.

    Cells with scores at a single iteration are left out. What is committed counts for cells that the store lacks.
    """
    rows = pd.concat([*_stored(evidence), *_committed(evidence, committed)] or [pd.DataFrame(columns=["hash"])])
    if rows.empty:
        return pd.DataFrame(columns=list(COLUMNS))
    keys = ["hash", "iteration", "dataset"]
    draws = rows.groupby([*keys, "gumbel"], as_index=False)["psnr"].mean()
    means = draws.groupby(keys, as_index=False).agg(psnr=("psnr", "mean"), draws=("gumbel", "nunique"))
    several = means.groupby("hash")["iteration"].transform("nunique") > 1
    return means[several].reset_index(drop=True)


def losses(evidence: Evidence, committed: Path | None = None, points: int = 200) -> pd.DataFrame:
    """A row per cell and logged step (LOSSES), at most about `points` of them a cell, evenly chosen.

    What is committed (`<machine>/<name>.training.csv.xz`) counts for cells that the store lacks.
    """
    found = [log[log["loss"].notna()] for log in (*_stored_logs(evidence), *_committed_logs(evidence, committed))]
    thinned = [log.iloc[:: max(1, len(log) // points)][list(LOSSES)] for log in found if len(log)]
    return pd.concat(thinned, ignore_index=True) if thinned else pd.DataFrame(columns=list(LOSSES))


def _stored_logs(evidence: Evidence) -> Iterator[pd.DataFrame]:
    for name in evidence.cells["hash"][~evidence.cells["committed"].astype(bool)]:
        try:
            lines = (evidence.store.root / name / "train.jsonl").read_text().splitlines()
        except OSError:
            continue  # not started yet
        yield pd.DataFrame(map(json.loads, lines)).assign(hash=name).reindex(columns=list(LOSSES))


def _committed_logs(evidence: Evidence, folder: Path | None) -> Iterator[pd.DataFrame]:
    names = evidence.cells["hash"][evidence.cells["committed"].astype(bool)]
    for path in sorted((measured.FOLDER if folder is None else folder).glob("*/*.training.csv.xz")):
        rows = pd.read_csv(path, usecols=list(LOSSES), dtype={"hash": str})
        for _, log in rows[rows["hash"].isin(names)].groupby("hash", sort=False):
            yield log


def _stored(evidence: Evidence) -> Iterator[pd.DataFrame]:
    for cell in evidence.cells[~evidence.cells["committed"].astype(bool)].to_dict("records"):
        for (weights, seed), path in score_files(evidence.store.root / cell["hash"], cell["protocol"]["seed"]).items():
            if (iteration := _iteration(weights, cell["iterations"])) is not None and path.exists():
                rows = records.read_frame(path)[["dataset", "psnr"]]
                yield rows.assign(hash=cell["hash"], iteration=iteration, gumbel=seed)


def _committed(evidence: Evidence, folder: Path | None) -> Iterator[pd.DataFrame]:
    cells = evidence.cells[evidence.cells["committed"].astype(bool)]
    lengths = dict(zip(cells["hash"], cells["iterations"], strict=True))
    for path in sorted((measured.FOLDER if folder is None else folder).glob("*/*.csv.xz")):
        if path.name.endswith(".scores.csv.xz"):
            continue
        if not {"hash", *SCORED} <= set(pd.read_csv(path, nrows=0).columns):
            continue  # other measurements, such as those of cells that are not finished
        wanted = {"usecols": ["hash", *SCORED], "dtype": {"hash": str, "weights": str, "dataset": str}}
        rows = pd.read_csv(path, keep_default_na=False, na_values={"psnr": [""]}, **wanted)
        rows = rows[rows["hash"].isin(lengths)]
        iterations = [_iteration(str(kind), lengths[name]) for kind, name in rows[["weights", "hash"]].to_numpy()]
        yield rows.assign(iteration=iterations).dropna(subset=["iteration"])[
            ["hash", "iteration", "gumbel", "dataset", "psnr"]
        ]


def _iteration(weights: str, length: int) -> int | None:
    """Of the weights called so, in a training of `length`; None for an average."""
    if weights.isdecimal():
        return int(weights)
    return {"last": length, "half": length // 2}.get(weights)
