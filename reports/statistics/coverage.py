"""How often the intervals of `reports.statistics.intervals` cover what they should, by simulation:
`results/measured/coverage/`.

Scores are variant + seed + error; errors are normal, heavy-tailed (Student's t with 3 degrees of freedom) or of unequal
variance (the base and three variants 1, the fourth 3; without pairs: 1 against 3), differences of images also skewed
(exponential), of a long tail (lognormal) or rare: of one image in fourteen much, of the others little. The functions
that the tables use are called on every sample.

`write` makes coverage.csv and environment.json there, `add` what they lack; docs/statistics.md shows them."""

import platform
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from reports.statistics.intervals import (
    LEVEL,
    Interval,
    against_base,
    draw_interval,
    holm,
    mean_interval,
    skewed_interval,
    welch_interval,
)
from results import records
from results.measured import FOLDER

TARGET = FOLDER / "coverage"
REPEATS, SEED = 20_000, 20_260
SEEDS, IMAGES, VARIANTS = (3, 4, 8), (5, 14, 100), 4
RARE = 1 / 14
UNEQUAL = (1.0, 1.0, 1.0, 1.0, 3.0)  # base, then the variants

MEAN, DRAW, WELCH = "mean of seeds", "seeds against one run", "two samples (Welch)"
OWN, POOLED, POOLED_NOISY = "paired, own variance", "paired, pooled variance", "paired, pooled: the variant with sd 3"
HOLM, OVER_IMAGES = "no false verdict in a family of 4 (Holm)", "paired over images"
UNSKEWED = "paired over images, skewness removed"
SCATTERS = ("normal", "unequal", "t3", "skewed", "long tail", "rare")
# half_width: mean over samples, in units of the error's scale
COLUMNS = ("interval", "scatter", "n", "coverage", "standard_error", "half_width")


class Point(NamedTuple):
    """A cell of the table; its random numbers depend on nothing else."""

    interval: str
    scatter: str
    n: int


class Sample(NamedTuple):
    """Whether an interval covered, and half its width (nan: not an interval)."""

    covered: bool
    half: float = float("nan")


def points() -> Iterator[Point]:
    """The cells in the order of the table."""
    for interval in _SAMPLERS:
        for scatter in SCATTERS:
            if scatter in _SCATTERS_OF[interval]:
                yield from (
                    Point(interval, scatter, n) for n in (IMAGES if interval in (OVER_IMAGES, UNSKEWED) else SEEDS)
                )


def simulate(point: Point, repeats: int = REPEATS, seed: int = SEED) -> tuple[float, float, float]:
    """(coverage, its Monte-Carlo standard error, mean half width) of one cell."""
    names = list(_SAMPLERS)
    rng = np.random.default_rng([seed, names.index(point.interval), SCATTERS.index(point.scatter), point.n])
    samples = [_SAMPLERS[point.interval](rng, point.scatter, point.n) for _ in range(repeats)]
    coverage = float(np.mean([sample.covered for sample in samples]))
    error = float(np.sqrt(coverage * (1 - coverage) / repeats))
    return coverage, error, float(np.mean([sample.half for sample in samples]))


def table(repeats: int = REPEATS, seed: int = SEED) -> pd.DataFrame:
    """A row per cell, with COLUMNS."""
    return _frame([[*point, *simulate(point, repeats, seed)] for point in points()])


def load() -> pd.DataFrame:
    """The committed table."""
    return pd.read_csv(TARGET / "coverage.csv")


def write() -> None:
    """Simulates the table and replaces the committed one; minutes."""
    _save(table())
    records.write_json(TARGET / "environment.json", _environment("coverage.write()"))


def add() -> None:
    """Simulates the cells that the committed table lacks. environment.json says in `added` when and by which commit."""
    known = {Point(*row[: len(Point._fields)]): row for row in load().values.tolist()}
    new = [point for point in points() if point not in known]
    known |= {point: [*point, *simulate(point)] for point in new}
    _save(_frame([known[point] for point in points()]))
    environment = records.read_json(TARGET / "environment.json")
    added = {"cells": len(new), **_environment("coverage.add()")}
    records.write_json(TARGET / "environment.json", {**environment, "added": [*environment.get("added", []), added]})


def _frame(rows: list[list]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS)).round({"coverage": 5, "standard_error": 5, "half_width": 4})


def _save(frame: pd.DataFrame) -> None:
    records.write_bytes(TARGET / "coverage.csv", frame.to_csv(index=False, lineterminator="\n").encode())


def _errors(rng: np.random.Generator, scatter: str, shape: tuple[int, ...] | int) -> np.ndarray:
    """Errors of mean 0, scale 1 (t3: of its own scale, sd sqrt(3)); unequal: the rows' scales are those of UNEQUAL."""
    if scatter == "t3":
        return rng.standard_t(3, shape)
    if scatter == "skewed":
        return rng.exponential(size=shape) - 1
    if scatter == "long tail":
        return rng.lognormal(size=shape) - np.exp(0.5)
    if scatter == "rare":
        return 0.1 * rng.normal(size=shape) + (rng.random(size=shape) < RARE) - RARE
    errors = rng.normal(size=shape)
    return errors * np.array(UNEQUAL)[:, None] if scatter == "unequal" else errors


def _sample(interval: Interval) -> Sample:
    return Sample(interval.covers_zero, (interval.high - interval.low) / 2)


def _mean(rng: np.random.Generator, scatter: str, n: int) -> Sample:
    return _sample(mean_interval(_errors(rng, scatter, n)))


def _unskewed(rng: np.random.Generator, scatter: str, n: int) -> Sample:
    return _sample(skewed_interval(_errors(rng, scatter, n)))


def _draw(rng: np.random.Generator, scatter: str, n: int) -> Sample:
    *values, draw = _errors(rng, scatter, n + 1).tolist()
    return _sample(draw_interval(values, draw))


def _welch(rng: np.random.Generator, scatter: str, n: int) -> Sample:
    errors = _errors(rng, scatter, (VARIANTS + 1, n))
    return _sample(welch_interval(errors[0], errors[-1]))


def _family(rng: np.random.Generator, scatter: str, n: int) -> dict[str, dict[int, float]]:
    """Scores of a family without any effect: a base and VARIANTS variants, whose seeds have an effect of their own."""
    scores = _errors(rng, scatter, (VARIANTS + 1, n)) + rng.normal(size=n)  # [variants, seeds]
    return {str(number): dict(enumerate(row)) for number, row in enumerate(scores.tolist())}


def _own(rng: np.random.Generator, scatter: str, n: int) -> Sample:
    return _sample(against_base(_family(rng, scatter, n), "0")[str(VARIANTS)].own)


def _pooled(rng: np.random.Generator, scatter: str, n: int) -> Sample:
    return _sample(against_base(_family(rng, scatter, n), "0")["1"].interval)


def _pooled_noisy(rng: np.random.Generator, scatter: str, n: int) -> Sample:
    return _sample(against_base(_family(rng, scatter, n), "0")[str(VARIANTS)].interval)


def _holm(rng: np.random.Generator, scatter: str, n: int) -> Sample:
    differences = against_base(_family(rng, scatter, n), "0")
    adjusted = holm({name: difference.interval.p() for name, difference in differences.items()})
    return Sample(min(adjusted.values()) >= 1 - LEVEL)


_SAMPLERS: dict[str, Callable[[np.random.Generator, str, int], Sample]] = {
    **{MEAN: _mean, DRAW: _draw, OWN: _own, POOLED: _pooled, POOLED_NOISY: _pooled_noisy},
    **{HOLM: _holm, WELCH: _welch, OVER_IMAGES: _mean, UNSKEWED: _unskewed},
}
_SCATTERS_OF = {
    **dict.fromkeys((MEAN, DRAW), ("normal", "t3")),
    **dict.fromkeys((OWN, POOLED, HOLM, WELCH), ("normal", "unequal", "t3")),
    **{POOLED_NOISY: ("unequal",)},
    **dict.fromkeys((OVER_IMAGES, UNSKEWED), ("normal", "t3", "skewed", "long tail", "rare")),
}


def _environment(call: str) -> dict[str, object]:
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    return {
        "command": f"reports.statistics.{call}",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": head.stdout.strip(),
        "seed": SEED,
        "repeats": REPEATS,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "scipy", "pandas")},
    }
