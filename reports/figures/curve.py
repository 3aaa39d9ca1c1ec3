"""Learning curves of this trainer and of the official code: a table, a figure, and the one test that decides.

In the folder's folders, `official-curve.csv` has a row per seed, iteration and set; `curve-<precision>.csv` are the
scores of `runner.py curve`, a row per image, whatever machine they come from. The unit is the seed. Fixed before
anything was measured: the trainer differs from the official one if the 95 % Welch interval of the difference of the
Set14 means over DECIDING excludes zero. Every other interval is shown and judges nothing."""

from pathlib import Path

import pandas as pd

from reports.charts.chart import PANEL, Chart
from reports.statistics.intervals import welch_interval

DECIDING = (1500, 2000, 2500, 3000)
DECIDING_SET = "Set14"
EXACT_FIRST = ("fp32", "tf32x3", "tf32", "bf16")  # precisions
KEYS = ["seed", "iteration", "dataset"]


def load(folder: Path) -> dict[str, pd.DataFrame]:
    """Name -> a row per seed, iteration and set with its mean PSNR; "official" first, then the more exact precisions.

    Raises FileNotFoundError without the official curve, ValueError for two curves of one precision.
    """
    found = {}
    for path in [*sorted(folder.rglob("official-curve.csv")), *files(folder, ".csv")]:
        name = "official" if path.stem == "official-curve" else path.stem.removeprefix("curve-")
        if name in found:
            raise ValueError(f"{path}: there is another curve called {name}; keep one")
        found[name] = pd.read_csv(path).groupby(KEYS, as_index=False, sort=False)["psnr"].mean()
    if "official" not in found:
        raise FileNotFoundError(f"{folder} holds no official-curve.csv to compare with")
    return found


def files(folder: Path, suffix: str) -> list[Path]:
    """The files of this trainer's curves, more exact precisions first."""

    def exactness(path: Path) -> tuple[int, str]:
        name = path.stem.removeprefix("curve-")
        return EXACT_FIRST.index(name) if name in EXACT_FIRST else len(EXACT_FIRST), name

    return sorted(folder.rglob(f"curve-*{suffix}"), key=exactness)


def interval(ours: pd.Series, theirs: pd.Series) -> tuple[float, float, float]:
    """Difference of means and its 95 % Welch interval; NaN bounds for fewer than two seeds on a side."""
    difference = float(ours.mean() - theirs.mean())
    if min(len(ours), len(theirs)) < 2:
        return difference, float("nan"), float("nan")
    found = welch_interval(ours, theirs)
    return found.mean, found.low, found.high


def points(curves: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row per set, iteration and curve: seeds, mean, standard deviation, difference from the official one."""
    official, rows = curves["official"], []
    for name, curve in curves.items():
        for (dataset, iteration), part in curve.groupby(["dataset", "iteration"], sort=False):
            theirs = official[(official["dataset"] == dataset) & (official["iteration"] == iteration)]["psnr"]
            row = {"dataset": dataset, "iteration": iteration, "curve": name, "seeds": len(part)}
            row |= {"mean": part["psnr"].mean(), "sd": part["psnr"].std()}
            if name != "official":
                row |= dict(zip(("difference", "low", "high"), interval(part["psnr"], theirs), strict=True))
            rows.append(row)
    return pd.DataFrame(rows).sort_values(["dataset", "iteration"], ascending=[False, True], kind="stable")


def decide(curve: pd.DataFrame, other: pd.DataFrame) -> dict[str, float | int] | None:
    """The deciding test, on the seeds that have every deciding iteration; None for fewer than two on a side."""

    def means(frame: pd.DataFrame) -> pd.Series:
        chosen = frame[(frame["dataset"] == DECIDING_SET) & frame["iteration"].isin(DECIDING)]
        whole = chosen.groupby("seed").filter(lambda part: len(part) == len(DECIDING))
        return whole.groupby("seed")["psnr"].mean()

    ours, theirs = means(curve), means(other)
    if min(len(ours), len(theirs)) < 2:
        return None
    difference, low, high = interval(ours, theirs)
    return {"seeds": len(ours), "others": len(theirs), "difference": difference, "low": low, "high": high}


def markdown(curves: dict[str, pd.DataFrame]) -> list[str]:
    """The table and the verdicts, a paragraph each."""
    lines = [
        "| set | iteration | curve | seeds | mean dB | sd | difference | 95 % interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in points(curves).itertuples():
        cells = [row.dataset, row.iteration, row.curve, row.seeds, f"{row.mean:.3f}", f"{row.sd:.3f}"]
        if row.curve == "official":
            cells += ["", ""]
        else:
            bounds = "one seed" if pd.isna(row.low) else f"[{row.low:+z.3f}, {row.high:+z.3f}]"
            cells += [f"{row.difference:+z.3f}", bounds]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines.append("")
    span = f"{DECIDING_SET} mean over iterations {', '.join(map(str, DECIDING))}"
    ours = {name: curve for name, curve in curves.items() if name != "official"}
    for name, curve in ours.items():
        found = decide(curve, curves["official"])
        if found is None:
            lines += [f"{name}: no verdict yet, fewer than two seeds have every deciding iteration ({span}).", ""]
            continue
        verdict = "no difference found" if found["low"] <= 0 <= found["high"] else "differs"
        seeds = f"{found['seeds']} seeds against {found['others']}"
        resolved = f"resolves {(found['high'] - found['low']) / 2:.2f} dB"
        lines += [f"{name}: {verdict}, {numbers(found)} ({span}; {seeds}; {resolved}).", ""]
    exact = next(iter(ours), None)
    for name, curve in ours.items():
        if name != exact and (found := decide(curve, ours[exact])) is not None:
            lines += [f"{name} against {exact}, the same way: {numbers(found)}; shown, judges nothing.", ""]
    return lines


def numbers(found: dict[str, float | int]) -> str:
    return f"{found['difference']:+z.3f} dB [{found['low']:+z.3f}, {found['high']:+z.3f}]"


def chart(curves: dict[str, pd.DataFrame]) -> Chart:
    """The same as `draw`, for the report: a line per seed, with what `points` says of each iteration."""
    import altair as alt

    lines = pd.concat([curve.assign(curve=_shown(name)) for name, curve in curves.items()], ignore_index=True)
    lines["line"] = lines["curve"] + ", seed " + lines["seed"].astype(str)
    x = alt.X("iteration:Q", title="iterations", axis=alt.Axis(format=",d", tickCount=4))
    y = alt.Y("psnr:Q", title="PSNR, dB", scale=alt.Scale(zero=False))
    hue = alt.Color("curve:N", title=None, sort=[_shown(name) for name in curves])
    drawn = (
        alt.Chart(lines[["dataset", "iteration", "psnr", "curve", "seed", "line"]])
        .mark_line(strokeWidth=1.2, opacity=0.8, point={"size": 14, "filled": True})
        .encode(x=x, y=y, color=hue, detail="line:N", tooltip=["curve:N", "seed:N", "iteration:Q", "psnr:Q"])
        .properties(width=round(PANEL * 1.45), height=220)
        .facet(alt.Facet("dataset:N", sort=["Set5", "Set14"], title=None), columns=2)
        .resolve_scale(y="independent")
    )
    texts = [
        f"{name} against the official code: {numbers(found)} ({found['seeds']} seeds against {found['others']})"
        for name, curve in curves.items()
        if name != "official" and (found := decide(curve, curves["official"])) is not None
    ]
    span = f"{DECIDING_SET} mean over iterations {', '.join(map(str, DECIDING))}, Welch's 95 % interval"
    table = points(curves).rename(columns={"mean": "mean dB"}).round(3)
    return Chart(drawn, f"{'; '.join(texts)}. {span[0].upper()}{span[1:]}.", table)


def _shown(name: str) -> str:
    return "official code, fp32" if name == "official" else f"this project, {name}"


def draw(curves: dict[str, pd.DataFrame], path: Path) -> None:
    """A line per seed, one panel per set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, dataset in zip(axes, ("Set5", "Set14"), strict=True):
        for colour, (name, curve) in enumerate(curves.items()):
            for number, (_, seed) in enumerate(curve[curve["dataset"] == dataset].groupby("seed")):
                label = None if number else _shown(name)
                axis.plot(seed["iteration"], seed["psnr"], ".-", color=f"C{colour}", linewidth=1, label=label)
        axis.set(title=f"{dataset} x2", xlabel="iteration", ylabel="PSNR, dB")
        axis.grid(alpha=0.3)
    axes[1].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
