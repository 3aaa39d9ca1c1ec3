"""Roofline: what networks reach of a machine's arithmetic and memory, at the input behind a 720x1280 output."""

from typing import Any

import numpy as np
import pandas as pd

from reports.charts.chart import PANEL, Axis, Chart, NothingToDraw, beside, panels
from reports.charts.resolution import MEASURES, inference
from reports.costs import frames
from results.evidence import Evidence

WIDTH, HEIGHT = round(PANEL * 3.2), 460
TICKS = [10**n for n in range(6)]
PIECE = 6  # pixels
CAPTION = "Roofline: operations per second against operations per byte, under the ceilings measured on the machine"


def chart(evidence: Evidence) -> Chart:
    """A point per network and precision, the faster launch of those whose bytes were counted, a panel per machine.

    Raises NothingToDraw.
    """
    import altair as alt

    frame = inference(frames.timed())
    frame = frames.fastest(frame[frame["subject"].isin(frames.METHODS) & frame["bytes"].notna()])
    data = rows(frame)
    if data.empty:
        raise NothingToDraw(f"no committed sweep has a network whose bytes and multiply-adds are counted: {MEASURES}")
    farthest = data["intensity"].max()
    lines = pd.concat([roof(part, farthest) for _, part in frame.groupby("machine") if part.iloc[0]["rates"]])
    data = pd.concat([data.assign(kind="point"), lines[lines["panel"].isin(data["panel"])].assign(kind="roof")])
    axes = Axis.around(data["intensity"], WIDTH, 20), Axis.around(data["rate"], HEIGHT, 45)
    data = pd.concat([named(part, *axes) for _, part in data.groupby("panel", sort=False)], ignore_index=True)
    title = "operations per byte, if each operator reads and writes once"
    x = alt.X("intensity:Q", title=title, scale=axes[0].scale(), axis=alt.Axis(values=TICKS, format="~s"))
    y = alt.Y("rate:Q", title="TFLOP/s", scale=axes[1].scale())
    tips = ["network", "how", "reached", "bytes moved", "of"]
    base = alt.Chart().encode(x=x, y=y)
    points = base.transform_filter("datum.kind == 'point'")
    roofs = base.transform_filter("datum.kind == 'roof'")
    hue = alt.Color("precision:N", title=None)
    layers = alt.layer(
        roofs.mark_line(strokeWidth=1, style="zero").encode(detail="roof:N"),
        roofs.mark_text(style="note", align="right", dy=-7).encode(text="label:N"),
        points.mark_line(style="zero", strokeOpacity=0.35).encode(detail="line:N", order="intensity:Q"),
        points.mark_point(filled=True, size=45).encode(color=hue, tooltip=[alt.Tooltip(f"{name}:N") for name in tips]),
        points.mark_text(style="note", align="left", fontSize=10).encode(x="label_x:Q", y="label_y:Q", text="name:N"),
    ).properties(width=WIDTH, height=HEIGHT)
    drawn = layers.facet(panels(data["panel"]), columns=1, data=data)
    own = data[data["kind"] == "point"]
    text = (
        f"{len(own)} calls at 360x640; a line joins those of a network in several precisions. The slanted line is the "
        "rate of a copy, the level ones matrix products in each precision (tf32x3: a third of TF32), all measured "
        "there. A point far below both lines waits for something else: launches, shuffles, exponentials, latency."
    )
    return Chart(drawn, text, own[["panel", *tips]])


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    made = []
    height, width = frames.IMAGE
    for row in frame[(frame["height"] == height) & (frame["width"] == width)].to_dict("records"):
        macs = frames.multiply_adds(row["subject"], row["task"], row["pixels"])
        if not macs:
            continue
        seconds, operations = row["ms"] / 1e3, frames.OPERATIONS * macs
        told = {
            "panel": row["machine"],
            "line": frames.name(row["subject"]),
            "network": f"{frames.name(row['subject'])}{frames.mark(row)}",
            "precision": row["precision"],
        }
        told |= {"how": f"{row['precision']} {row['launch']}, {row['ms']:,.4g} ms"}
        told |= {"intensity": operations / row["bytes"], "rate": operations / seconds / 1e12, "of": row["source"]}
        told |= {"reached": f"{operations / seconds / 1e12:.3g} TFLOP/s, {row['bytes'] / seconds / 1e12:.3g} TB/s"}
        made.append(told | {"bytes moved": f"{row['bytes'] / 1e9:.3g} GB"})
    return pd.DataFrame(made)


def named(part: pd.DataFrame, x: Axis, y: Axis) -> pd.DataFrame:
    """A panel's rows with label_x, label_y: where the names of networks stand free, at their fastest points."""
    own, given = part["kind"] == "point", part[part["kind"] == "point"]
    across, up = x.pixels(given["intensity"]), y.pixels(given["rate"])
    first = given.groupby("line")["rate"].transform("max") == given["rate"]
    texts = given["network"].where(first, "").tolist()
    places = beside(across, up, texts, (WIDTH, HEIGHT), lines=crossed(part[~own], x, y))
    part = part.assign(label_x=part["intensity"], label_y=part["rate"], name="")
    part.loc[own, "name"] = texts
    part.loc[own, "label_x"], part.loc[own, "label_y"] = x.values(places[:, 0]), y.values(places[:, 1])
    return part


def crossed(roofs: pd.DataFrame, x: Axis, y: Axis) -> list[tuple[float, float, float, float]]:
    """The ceilings as (left, low, right, high) in pixels; the slanted one in short level pieces."""
    lines = []
    for _, own in roofs.groupby("roof"):
        (start, knee, end), (low, high, _) = x.pixels(own["intensity"]), y.pixels(own["rate"])
        lines.append((knee, high, end, high))
        steps = np.linspace(0, 1, max(2, round((knee - start) / PIECE)))
        lines += [(start + (knee - start) * at, low + (high - low) * at) * 2 for at in steps]
    return lines


def roof(part: pd.DataFrame, farthest: float) -> pd.DataFrame:
    """The ceilings of a machine as lines: up the rate of a copy, then level at each precision's products, at least to
    `farthest` operations a byte."""
    rates: dict[str, Any] = part.iloc[0]["rates"]
    moved, made = rates["bytes_per_s"], []
    levels = {name: rates[name] for name in ("fp32", "tf32", "bf16") if name in rates}
    if "tf32" in levels:
        levels["tf32x3"] = levels["tf32"] / frames.PRODUCTS["tf32x3"]
    start, end = 4.0, max(farthest, 4 * max(levels.values()) / moved)
    for name, level in levels.items():
        for intensity, label in ((start, ""), (level / moved, ""), (end, name)):
            rate = min(moved * intensity, level) / 1e12
            made.append({"roof": name, "intensity": intensity, "rate": rate, "label": label})
    return pd.DataFrame(made).assign(panel=part.iloc[0]["machine"])
