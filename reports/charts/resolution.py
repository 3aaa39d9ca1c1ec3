"""Time and memory against pixels, from the committed sweeps."""

from typing import Any

import pandas as pd

from reports.charts.chart import Axis, Chart, NothingToDraw, panels, spread
from reports.costs import frames
from results.evidence import Evidence

CAPTION = "Time and memory against resolution"
MEASURES = "runner.py profile --preset resolution measures a sweep, runner.py export commits it"
LIGHT = 2e6  # parameters up to which a network is called light
WIDTH, HEIGHT, PADDING, GAP = 340, 290, 10, 12.5  # pixels; of a panel, around its data, between labels
TICKS = [digit * 10**n for n in range(3, 8) for digit in (1, 3)]
THEIRS = "indexof(datum.line, 'official code') >= 0"  # dashed
OPEN = " (open: the machine was not quiet)"
QUANTITIES = {"ms": "milliseconds", "mib": "MiB"}


def chart(evidence: Evidence) -> Chart:
    """A line per network, in the precision of float32's accuracy, a panel per machine, quantity and class of networks.

    Raises NothingToDraw without a sweep of two sizes.
    """
    import altair as alt

    data = rows(frames.exact(inference(frames.of_one_sweep(frames.timed(every=True)))))
    if data.empty:
        raise NothingToDraw(f"no committed sweep has a network at two sizes: {MEASURES}")
    data = pd.concat([labelled(part) for _, part in data.groupby("panel", sort=False)], ignore_index=True)
    tips = [alt.Tooltip(f"{name}:N") for name in ("line", "size", "shown", "noise", "of")]
    scale = alt.Scale(type="log", nice=False, padding=PADDING)
    title = f"pixels of the input{OPEN if data['noise'].any() else ''}"
    x = alt.X("pixels:Q", title=title, scale=scale, axis=alt.Axis(values=TICKS, format="~s"))
    y = alt.Y("value:Q", scale=scale, title=None)
    color = alt.Color("whose:N", title=None, sort=["this architecture", "others"])
    base = alt.Chart().encode(x=x, y=y, detail="line:N", color=color, tooltip=tips)
    quiet, noisy = "datum.noise == ''", "datum.noise != ''"
    ends = base.transform_filter("datum.label != ''")
    layers = alt.layer(
        base.mark_line(strokeWidth=1.5).encode(strokeDash=alt.condition(THEIRS, alt.value([5, 3]), alt.value([1, 0]))),
        ends.mark_rule(strokeWidth=0.7, strokeOpacity=0.45).encode(x2="label_x:Q", y2="label_y:Q"),
        base.transform_filter(quiet).mark_point(filled=True, size=30),
        base.transform_filter(noisy).mark_point(filled=False, size=30),
        ends.mark_text(align="left", dx=3, fontSize=10.5).encode(x="label_x:Q", y="label_y:Q", text="label:N"),
    ).properties(width=WIDTH, height=HEIGHT)
    drawn = layers.facet(panels(data["panel"]), columns=2, data=data).resolve_scale(y="independent", x="independent")
    text = (
        f"{data['line'].nunique()} networks at {data['size'].nunique()} sizes of one image, both axes logarithmic: a "
        "cost in proportion to the pixels has slope 1. Each is in tf32x3 where that was measured, else in fp32, as the "
        "official code (dashed) is. Open points: the machine was not quiet."
    )
    return Chart(drawn, text, data[["panel", "line", "precision", "size", "shown", "noise", "of"]])


def labelled(part: pd.DataFrame) -> pd.DataFrame:
    """A panel's rows with label, label_x, label_y: names, with the precision where lines differ in it, stand in a
    column at the right, apart from each other."""
    first, last = part["pixels"].min(), part["pixels"].max()
    ends = part["pixels"] == part.groupby("line")["pixels"].transform("max")
    axis = Axis.around(part["value"], HEIGHT, PADDING)
    apart = spread(axis.pixels(part.loc[ends, "value"]), GAP, PADDING, HEIGHT - PADDING)
    names = part["line"].str.replace(", official code", ", official", regex=False)
    if part["precision"].nunique() > 1:
        names = names + ", " + part["precision"]
    part = part.assign(label=names.where(ends, ""), label_x=last * (last / first) ** 0.05, label_y=part["value"])
    part.loc[ends, "label_y"] = axis.values(apart)
    return part


def inference(frame: pd.DataFrame) -> pd.DataFrame:
    """Calls on one image, x2, with the scan of this project."""
    own = (frame["mode"] == "inference") & (frame["batch"] == 1) & (frame["task"] == "sr-x2")
    return frame[own & (frame["backend"] != "mamba_ssm")]


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """panel, line, precision, whose, pixels, size, value, shown, noise, of: a row per point and quantity."""
    made = []
    for (machine, subject), own in frame.groupby(["machine", "subject"], sort=False):
        if own["pixels"].nunique() < 2 or subject not in frames.METHODS:  # `directions` shows what is switched off
            continue
        for row in own.sort_values("pixels").to_dict("records"):
            kind = "light networks" if (row["params"] or 0) < LIGHT else "larger networks"
            clock = " of the processor" if row["clock"] == "processor" else ""
            told = {"line": frames.name(subject), "pixels": row["pixels"], "size": f"{row['height']}x{row['width']}"}
            told |= {"whose": frames.whose(subject), "precision": row["precision"]}
            told |= {"noise": ", ".join(row["noise"]), "of": f"{row['precision']} {row['launch']}; {row['source']}"}
            for name, quantity in QUANTITIES.items():
                if row[name] is not None and not pd.isna(row[name]):
                    panel = f"{quantity}{clock if name == 'ms' else ''}, {kind}, {machine}"
                    own = {"panel": panel, "value": row[name], "shown": f"{row[name]:,.4g} {quantity}"}
                    made.append(told | own | {"rank": (rank(row), machine, kind.startswith("larger"), name == "mib")})
    return pd.DataFrame(sorted(made, key=lambda row: row["rank"])).drop(columns="rank") if made else pd.DataFrame()


def rank(row: dict[str, Any]) -> int:
    """Of the panels of a row's machine: GPUs, then CPUs, and where only their own time is known last."""
    return 0 if row["mib"] is not None else 2 if row["clock"] == "processor" else 1
