"""Roofline: what networks reach of a machine's arithmetic and memory, at the input behind a 720x1280 output."""

from typing import Any

import pandas as pd

from reports.charts.chart import PANEL, Chart, NothingToDraw, panels
from reports.charts.resolution import MEASURES, inference
from reports.costs import frames
from results.evidence import Evidence

CAPTION = "Roofline: operations per second against operations per byte, under the ceilings measured on the machine"


def chart(evidence: Evidence) -> Chart:
    """A point per network and precision whose bytes were counted, a panel per machine. Raises NothingToDraw."""
    import altair as alt

    frame = frames.fastest(inference(frames.timed()))
    frame = frame[frame["subject"].isin(frames.METHODS)]
    data = rows(frame)
    if data.empty:
        raise NothingToDraw(f"no committed sweep has a network whose bytes and multiply-adds are counted: {MEASURES}")
    lines = pd.concat([roof(part) for _, part in frame.groupby("machine") if part.iloc[0]["rates"]])
    data = pd.concat([data.assign(kind="point"), lines[lines["panel"].isin(data["panel"])].assign(kind="roof")])
    scale = alt.Scale(type="log", padding=15, nice=False)
    x = alt.X("intensity:Q", title="operations per byte, if each operator reads and writes once", scale=scale)
    tips = ["network", "how", "reached", "bytes moved", "of"]
    base = alt.Chart().encode(x=x, y=alt.Y("rate:Q", title="TFLOP/s", scale=scale))
    points = base.transform_filter("datum.kind == 'point'")
    roofs = base.transform_filter("datum.kind == 'roof'")
    hue = alt.Color("precision:N", title=None)
    layers = alt.layer(
        roofs.mark_line(strokeWidth=1, style="zero").encode(detail="roof:N"),
        roofs.mark_text(style="note", align="right", dy=-6).encode(text="label:N"),
        points.mark_point(filled=True, size=45).encode(color=hue, tooltip=[alt.Tooltip(f"{name}:N") for name in tips]),
        points.mark_text(style="note", align="left", dx=6, fontSize=10).encode(text="network:N"),
    ).properties(width=round(PANEL * 2.2), height=330)
    drawn = layers.facet(panels(data["panel"]), columns=1, data=data)
    own = data[data["kind"] == "point"]
    text = (
        f"{len(own)} calls at 360x640. The slanted line is the rate of a copy, the level ones matrix products in each "
        "precision (tf32x3: a third of TF32), all measured on the same machine. A point far below both lines waits for "
        "something else: launches, shuffles, exponentials, latency."
    )
    return Chart(drawn, text, own[["panel", *tips]])


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    made = []
    height, width = frames.IMAGE
    for row in frame[(frame["height"] == height) & (frame["width"] == width)].to_dict("records"):
        macs = frames.multiply_adds(row["subject"], row["task"], row["pixels"])
        if not macs or not row["bytes"] or pd.isna(row["bytes"]):
            continue
        seconds, operations = row["ms"] / 1e3, frames.OPERATIONS * macs
        told = {"panel": row["machine"], "network": frames.name(row["subject"]), "precision": row["precision"]}
        told |= {"how": f"{row['precision']} {row['launch']}, {row['ms']:,.4g} ms"}
        told |= {"intensity": operations / row["bytes"], "rate": operations / seconds / 1e12, "of": row["source"]}
        told |= {"reached": f"{operations / seconds / 1e12:.3g} TFLOP/s, {row['bytes'] / seconds / 1e12:.3g} TB/s"}
        made.append(told | {"bytes moved": f"{row['bytes'] / 1e9:.3g} GB"})
    return pd.DataFrame(made)


def roof(part: pd.DataFrame) -> pd.DataFrame:
    """The ceilings of a machine as lines: up the rate of a copy, then level at each precision's products."""
    rates: dict[str, Any] = part.iloc[0]["rates"]
    moved, made = rates["bytes_per_s"], []
    levels = {name: rates[name] for name in ("fp32", "tf32", "bf16") if name in rates}
    if "tf32" in levels:
        levels["tf32x3"] = levels["tf32"] / frames.PRODUCTS["tf32x3"]
    start, end = 4.0, 4 * max(levels.values()) / moved
    for name, level in levels.items():
        for intensity, label in ((start, ""), (level / moved, ""), (end, name)):
            rate = min(moved * intensity, level) / 1e12
            made.append({"roof": name, "intensity": intensity, "rate": rate, "label": label})
    return pd.DataFrame(made).assign(panel=part.iloc[0]["machine"])
