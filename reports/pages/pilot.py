"""The tables of docs/pilot.md: how much scores scatter, what makes differences sharper, and the plan that follows.

`results/measured/<machine>/pilot*.csv.xz` have a row per image of every cell, kind of weights and seed of the routing
noise; the cells themselves are committed with them. Formulas: `reports.statistics.intervals` (paired differences by
least squares, variance pooled over the variants) and `results.power`."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from scipy.stats import chi2

from reports.statistics.intervals import LEVEL, Difference, against_base
from reports.tables.render import text_grid
from results import measured
from results.power import minimum_detectable_effect
from results.records import StoreError

NOTHING = "Not measured yet."
BASE = "base"
KINDS = {"last": "last weights", "average": "average of the last tenth", "half": "weights at half the iterations"}
HOURS, COMPARED = (2, 5, 20), (1, 2, 4, 8, 25)  # 25: every switch of the ablations on sr-x2
TARGET = 0.05  # dB, amid the published steps of 0.03 to 0.09
HOUR = 60  # minutes


class Way(NamedTuple):
    """How a score is made and compared: weights (KINDS), over how many seeds of the noise it is averaged, paired by
    training seed or not."""

    weights: str
    draws: int
    paired: bool = True


@dataclass(frozen=True)
class Spread:
    """sd: of the difference of one seed's scores of two variants, dB. df: of its estimate."""

    sd: float
    df: int

    @property
    def bounds(self) -> tuple[float, float]:
        """The 95 % interval of the true value over the estimate, for normal errors."""
        low, high = (math.sqrt(self.df / chi2.ppf(p, self.df)) for p in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
        return low, high


@dataclass(frozen=True)
class Pilot:
    """means: a row per variant, seed, weights, gumbel and dataset with its mean psnr. minutes: of GPU time to train a
    cell to the end; scoring: to score it once on all sets. iterations: of a cell. sources: provenance, in lines."""

    means: pd.DataFrame
    minutes: float
    scoring: float
    iterations: int
    sources: tuple[str, ...] = ()
    _spreads: dict[tuple[str, Way], Spread] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def datasets(self) -> list[str]:
        return list(self.means["dataset"].unique())

    @property
    def draws(self) -> int:
        return int(self.means["gumbel"].nunique())

    @property
    def counts(self) -> list[int]:
        """Numbers of draws to compare: 1, 2, 4 as far as there are so many."""
        return [count for count in (1, 2, 4) if count <= self.draws]

    def steps(self, way: Way) -> int:
        return self.iterations // 2 if way.weights == "half" else self.iterations

    def cost(self, way: Way) -> float:
        """GPU-minutes of one cell: training to that iteration, and scoring."""
        return self.minutes * self.steps(way) / self.iterations + way.draws * self.scoring

    def scores(self, dataset: str, way: Way) -> Iterator[dict[str, dict[int, float]]]:
        """Scores by variant and seed, averaged over `way.draws` draws: once for every choice of that many."""
        part = self.means[(self.means["dataset"] == dataset) & (self.means["weights"] == way.weights)]
        for chosen in combinations(sorted(part["gumbel"].unique()), way.draws):
            averaged = part[part["gumbel"].isin(chosen)].groupby(["variant", "seed"])["psnr"].mean()
            yield {name: rows.droplevel(0).to_dict() for name, rows in averaged.groupby(level=0)}

    def spread(self, dataset: str, way: Way) -> Spread:
        """Variances averaged over the choices of draws. Raises StoreError when no variance can be had."""
        if (dataset, way) not in self._spreads:
            found = [_paired(scores) if way.paired else _unpaired(scores) for scores in self.scores(dataset, way)]
            if not found or found[0].df < 1:
                raise StoreError(f"on {dataset} no two variants have two seeds with {KINDS[way.weights]}")
            sd = math.sqrt(sum(one.sd**2 for one in found) / len(found))
            self._spreads[dataset, way] = Spread(sd, found[0].df)
        return self._spreads[dataset, way]

    def noise(self, dataset: str, weights: str) -> Spread:
        """Between draws of the routing noise for the same weights: sd of one score, not of a difference.

        Scores that are all the same are one score, of a network that draws no noise: they do not count.
        """
        part = self.means[(self.means["dataset"] == dataset) & (self.means["weights"] == weights)]
        groups = part.groupby(["variant", "seed"])["psnr"].agg(["var", "size", "nunique"])
        groups = groups[groups["nunique"] > 1]
        df = int((groups["size"] - 1).sum())
        return Spread(math.sqrt(float((groups["var"] * (groups["size"] - 1)).sum()) / df) if df else math.nan, df)

    def differences(self, dataset: str, weights: str) -> dict[str, Difference]:
        """Every variant against the base, each score the mean over all draws."""
        return against_base(next(self.scores(dataset, Way(weights, self.draws))), BASE)

    def sharpness(self, weights: str) -> float:
        """How many standard errors an hour of GPU time on base and variant puts between them: root mean square over
        variants and sets of difference / sd of a pair, times the root of the pairs an hour pays for. Chance alone adds
        1 / n to the square of n pairs; that is taken off."""
        squares = []
        for dataset in self.datasets:
            sd = self.spread(dataset, Way(weights, self.draws)).sd
            found = [one.interval for one in self.differences(dataset, weights).values()]
            squares += [(interval.mean / sd) ** 2 - 1 / interval.n for interval in found]
        pairs = HOUR / (2 * self.cost(Way(weights, self.draws)))
        return math.sqrt(max(0.0, sum(squares) / len(squares)) * pairs)


def _paired(scores: dict[str, dict[int, float]]) -> Spread:
    found = next(iter(against_base(scores, BASE).values()), None)
    return Spread(0.0, 0) if found is None or found.sd is None else Spread(found.sd, int(found.interval.df))


def _unpaired(scores: dict[str, dict[int, float]]) -> Spread:
    """Of two scores of different seeds: sqrt 2 times the sd between the seeds of a variant, pooled over variants."""
    series = [pd.Series(values) for values in scores.values() if len(values) > 1]
    df = sum(len(values) - 1 for values in series)
    return (
        Spread(math.sqrt(2 * sum(values.var() * (len(values) - 1) for values in series) / df), df)
        if df
        else Spread(0.0, 0)
    )


def load(folder: Path | None = None) -> Pilot | None:
    """What is committed under `folder` (measured.FOLDER); None where no pilot is. Raises StoreError for scores of cells
    that are not committed, and for a cell that lacks its training time or a part of its scores."""
    folder = measured.FOLDER if folder is None else folder
    paths = sorted(path for path in folder.glob("*/pilot*.csv.xz") if not path.name.endswith(".scores.csv.xz"))
    if not paths:
        return None
    blank = {"psnr": [""], "ssim": [""]}
    files = {path: pd.read_csv(path, keep_default_na=False, na_values=blank) for path in paths}
    rows = pd.concat(files.values(), ignore_index=True)
    twice = rows["hash"][rows.duplicated(["hash", "weights", "gumbel", "dataset", "image"])]
    if len(twice):
        raise StoreError(f"{' and '.join(map(str, paths))} have scores of the cell {twice.iloc[0]} more than once")
    cells = {row["hash"]: row for row in measured.load(folder).cells}
    used = [cells[name] for name in rows["hash"].unique() if name in cells]
    if len(used) < rows["hash"].nunique() or not all(row["train_steps"] and row["train_seconds"] for row in used):
        raise StoreError(f"{paths[0]} has scores of cells that are not committed with it and with their training time")
    scored = rows.groupby("hash")[["weights", "gumbel", "dataset"]].value_counts().groupby("hash").size()
    if len(short := scored[scored < scored.max()]):
        name = cells[short.index[0]]["name"]
        raise StoreError(
            f"{paths[0]} lacks some scores of {name}: run the pilot until all is done, and export it again"
        )
    for column in ("variant", "seed"):
        rows[column] = rows["hash"].map({name: row[column] for name, row in cells.items()})
    keys = ["variant", "seed", "weights", "gumbel", "dataset"]
    means = rows.groupby(keys, sort=False, as_index=False)["psnr"].mean()
    scoring = rows.groupby(["hash", "weights", "gumbel"])["seconds"].sum().mean() / 60
    minutes = sum(row["train_seconds"] for row in used) / len(used) / 60
    return Pilot(means, minutes, float(scoring), int(used[0]["iterations"]), tuple(_sources(used, files, folder)))


def _sources(cells: list[dict], files: dict[Path, pd.DataFrame], folder: Path) -> Iterator[str]:
    for path, rows in files.items():
        yield f"- `results/measured/{path.relative_to(folder)}`: {rows['hash'].nunique()} cells"
    keys = ("command", "commit", "device")
    for (command, commit, device), part in pd.DataFrame(cells).groupby(list(keys)):
        dates = sorted({str(finished)[:10] for finished in part["finished"]})
        yield f"- finished by `{command}`: {len(part)}; commit {commit[:10]}, {device}, {' and '.join(dates)}"


# --- plans ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """`compared` variants against a base at `seeds` seeds; mde: by dataset, at Holm's first step."""

    hours: int
    compared: int
    way: Way
    seeds: int
    mde: dict[str, float]


def plan(pilot: Pilot, hours: int, compared: int, weights: tuple[str, ...]) -> Plan | None:
    """The way with one of `weights` that detects least on the mean over sets; None when not even two seeds fit."""
    plans = []
    for way in (Way(kind, draws) for kind in weights for draws in pilot.counts):
        seeds = int(hours * HOUR / ((compared + 1) * pilot.cost(way)))
        if seeds > 1:
            alpha, df = (1 - LEVEL) / compared, compared * (seeds - 1)
            sds = {dataset: pilot.spread(dataset, way).sd for dataset in pilot.datasets}
            mde = {dataset: minimum_detectable_effect(sd, seeds, alpha, df=df) for dataset, sd in sds.items()}
            plans.append(Plan(hours, compared, way, seeds, mde))
    return min(plans, key=lambda one: sum(one.mde.values()), default=None)


def chosen(pilot: Pilot, hours: int) -> Plan | None:
    """The rule: as many iterations as are sharper (`sharpness`); then the most variants of COMPARED that detect TARGET
    on every set, or one variant when none does."""
    full = max(("last", "average"), key=pilot.sharpness)
    weights = ("half",) if pilot.sharpness("half") > pilot.sharpness(full) else ("last", "average")
    plans = [found for k in COMPARED if (found := plan(pilot, hours, k, weights)) is not None]
    enough = [one for one in plans if max(one.mde.values()) <= TARGET]
    return enough[-1] if enough else next(iter(plans), None)


# --- tables --------------------------------------------------------------------------------------------------------


def scatter(pilot: Pilot) -> str:
    header = ("set", "weights", "sd between seeds", "between draws", "of a paired difference", "df", "95 % of the true")
    rows = []
    for dataset in pilot.datasets:
        for weights, words in KINDS.items():
            single = pilot.spread(dataset, Way(weights, 1, paired=False))
            paired = pilot.spread(dataset, Way(weights, 1))
            bounds = "{:.3f} to {:.3f}".format(*(paired.sd * factor for factor in paired.bounds))
            noise = pilot.noise(dataset, weights)
            own = (f"{single.sd / math.sqrt(2):.3f}", f"{noise.sd:.3f}" if noise.df else "none")
            rows.append([dataset, words, *own, f"{paired.sd:.3f}", str(paired.df), bounds])
    return text_grid(header, rows, 2)


def ways(pilot: Pilot) -> dict[str, Way]:
    named = {"one draw, other seeds for the variant": Way("last", 1, paired=False), "the same seeds": Way("last", 1)}
    named |= {f"the same, {count} draws": Way("last", count) for count in pilot.counts[1:]}
    for weights in ("average", "half"):
        named |= {f"{KINDS[weights]}, {count} draw{'s'[: count > 1]}": Way(weights, count) for count in pilot.counts}
    return named


def gains(pilot: Pilot) -> str:
    header = (
        "set",
        "how",
        "sd of a difference",
        "GPU-min a pair",
        "MDE, 4 seeds",
        "pairs in an hour",
        "MDE in an hour",
    )
    rows = []
    for dataset in pilot.datasets:
        for name, way in ways(pilot).items():
            sd, cost = pilot.spread(dataset, way).sd, 2 * pilot.cost(way)
            pairs = int(HOUR / cost)
            texts = [_mde(sd, seeds, way.paired) for seeds in (4, pairs)]
            rows.append([dataset, name, f"{sd:.3f}", f"{cost:.1f}", texts[0], str(pairs), texts[1]])
    return text_grid(header, rows, 2)


def _mde(sd: float, seeds: int, paired: bool) -> str:
    if seeds < 2:
        return "none"
    own = sd if paired else sd / math.sqrt(2)
    return f"{minimum_detectable_effect(own, seeds, paired=paired):.3f}"


def effects(pilot: Pilot) -> str:
    header = ("set", "weights", "variant", "difference", "95 % interval", "seeds")
    rows = []
    for dataset in pilot.datasets:
        for weights, words in KINDS.items():
            for variant, found in pilot.differences(dataset, weights).items():
                interval = found.interval
                bounds = "" if interval.low is None else f"[{interval.low:+z.3f}, {interval.high:+z.3f}]"
                rows.append([dataset, words, variant, f"{interval.mean:+z.3f}", bounds, str(interval.n)])
    table = text_grid(header, rows, 3)
    try:
        sharp = ", ".join(f"{words} {pilot.sharpness(weights):.1f}" for weights, words in KINDS.items())
    except StoreError as error:  # one pair has no scatter
        return f"{table}\n\nStandard errors: {NOTHING[0].lower()}{NOTHING[1:-1]}: {error}."
    return f"{table}\n\nStandard errors that an hour puts between base and variant: {sharp}."


def plans(pilot: Pilot) -> str:
    header = (
        "GPU-hours",
        "variants",
        "iterations",
        "seeds",
        "scores of",
        *(f"MDE {name}" for name in pilot.datasets),
        "",
    )
    rows = []
    for hours in HOURS:
        best = chosen(pilot, hours)
        for compared in COMPARED:
            for weights in (("last", "average"), ("half",)):
                if (found := plan(pilot, hours, compared, weights)) is None:
                    continue
                words = f"{KINDS[found.way.weights]}, {found.way.draws} draw{'s'[: found.way.draws > 1]}"
                numbers = [str(hours), str(compared), f"{pilot.steps(found.way):,}", str(found.seeds)]
                mde = [f"{value:.3f}" for value in found.mde.values()]
                rows.append([*numbers, words, *mde, "the plan" if found == best else ""])
    return text_grid(header, rows, 0)


def costs(pilot: Pilot) -> str:
    step = pilot.minutes * 60e3 / pilot.iterations
    return (
        f"A cell takes {pilot.minutes:.2f} GPU-minutes to train ({pilot.iterations:,} iterations; its share of "
        f"the time is {step:.1f} ms a step) and {pilot.scoring:.2f} to score once on all sets, beside the training."
    )


def tables(pilot: Pilot | None) -> dict[str, Callable[[], str]]:
    """What makes each table of the document, of this pilot; without one, or where it has too few seeds, they say so."""
    makers: dict[str, Callable[[Pilot], str]] = {
        **{"scatter": scatter, "gains": gains, "effects": effects, "plans": plans, "costs": costs},
        "sources": lambda found: "\n".join(found.sources),
    }

    def made(maker: Callable[[Pilot], str]) -> str:
        if pilot is None:
            return NOTHING
        try:
            return maker(pilot)
        except StoreError as error:
            return f"{NOTHING[:-1]}: {error}."

    return {name: partial(made, maker) for name, maker in makers.items()}
