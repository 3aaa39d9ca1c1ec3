"""Published PSNR against the milliseconds of one image, memory as area, with the Pareto front."""

from itertools import pairwise

import pandas as pd

from reports.charts.chart import PANEL, Axis, Chart, NothingToDraw, beside, panels
from reports.charts.cost import front
from reports.charts.resolution import MEASURES, inference
from reports.costs import frames
from results import published
from results.evidence import Evidence

WIDTH, HEIGHT = round(PANEL * 2.2), 330
CAPTION = "Published PSNR against measured time at a 720x1280 output, memory as area; Pareto fronts dashed"
DATASET = "Urban100"
FEWEST = 3  # networks of a machine, where another one has more
CELL = "PSNR on Urban100 x2 as printed in Table 3 or 4"


def chart(evidence: Evidence) -> Chart:
    """A point per network that has a time and a published score, a panel per machine, a front per precision.

    Raises NothingToDraw.
    """
    import altair as alt

    data = rows(frames.exact(inference(frames.timed())))
    if data.empty:
        raise NothingToDraw(f"no committed sweep has a network of the published tables at 360x640: {MEASURES}")
    networks = data.groupby("panel")["network"].transform("nunique")
    data = data[networks >= min(FEWEST, networks.max())].reset_index(drop=True)
    data["front"] = False
    for _, part in data.groupby(["panel", "precision"], sort=False):
        data.loc[front(part), "front"] = True
    axes = Axis.around(data["time"], WIDTH, 45), Axis.around(data["psnr"], HEIGHT, 25, log=False)
    data = pd.concat([named(part, *axes) for _, part in data.groupby("panel", sort=False)], ignore_index=True)
    tips = ["network", "how", "ms", "memory", "PSNR", "of"]
    base = alt.Chart().encode(
        x=alt.X("time:Q", title="ms an image of 360x640, logarithmic", scale=axes[0].scale()),
        y=alt.Y("psnr:Q", title=f"published PSNR on {DATASET} x2, dB", scale=axes[1].scale()),
        tooltip=[alt.Tooltip(f"{name}:N") for name in tips],
    )
    legend = alt.Legend(values=[0.5, 2, 8], format="~g")
    size = alt.Size("gib:Q", title="GiB", scale=alt.Scale(range=[20, 400]), legend=legend)
    hue = alt.Color("whose:N", title=None, sort=["this architecture", "others"])
    shapes = alt.Scale(domain=list(frames.EXACT), range=["circle", "square"])
    mark = alt.Shape("precision:N", title=None, scale=shapes)
    known, unknown = "isValid(datum.gib)", "!isValid(datum.gib)"
    fronts = base.transform_filter("datum.front").mark_line(style="front", interpolate="step-after")
    layers = alt.layer(
        fronts.encode(detail="precision:N"),
        base.transform_filter(known).mark_point(filled=True, opacity=0.6).encode(size=size, color=hue, shape=mark),
        base.transform_filter(unknown).mark_point(filled=False, size=50).encode(color=hue, shape=mark),
        base.mark_text(style="note", align="left", fontSize=10.5).encode(
            x="label_x:Q", y="label_y:Q", text="network:N"
        ),
    ).properties(width=WIDTH, height=HEIGHT)
    drawn = layers.facet(panels(data["panel"]), columns=2, data=data)
    text = (
        f"{len(data)} networks in float32's accuracy: in tf32x3 where that was measured, else in fp32, as the official "
        "code is; each precision has a front of its own. Scores are the authors' own, of their weights; times do not "
        "depend on weights, and networks were built without any. Open points: memory is not known. ~: the machine, or "
        "the host that a GPU waits for, was not quiet."
    )
    return Chart(drawn, text, data[["panel", *tips]])


def named(part: pd.DataFrame, x: Axis, y: Axis) -> pd.DataFrame:
    """A panel's rows with label_x, label_y: where the names of points stand free, off the fronts' steps as well."""
    across, up = x.pixels(part["time"]), y.pixels(part["psnr"])
    steps = []
    for precision in part["precision"].unique():
        own = (part["front"] & (part["precision"] == precision)).to_numpy()
        for (left, low), (right, high) in pairwise(sorted(zip(across[own], up[own], strict=True))):
            steps += [(left, low, right, low), (right, low, right, high)]
    places = beside(across, up, part["network"].tolist(), (WIDTH, HEIGHT), 12, steps)
    return part.assign(label_x=x.values(places[:, 0]), label_y=y.values(places[:, 1]))


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    height, width = frames.IMAGE
    made = []
    for row in frame[(frame["height"] == height) & (frame["width"] == width)].to_dict("records"):
        score = frames.printed(frames.METHODS.get(row["subject"], ""), row["task"], "psnr", DATASET)
        if score is None or score["value"] in ("", "-"):
            continue
        gib = None if row["mib"] is None or pd.isna(row["mib"]) else row["mib"] / 1024
        told = {"panel": row["machine"], "network": frames.name(row["subject"]) + frames.mark(row), "time": row["ms"]}
        told |= {"precision": row["precision"], "how": f"{row['precision']} {row['launch']}"}
        told |= {"ms": f"{row['ms']:,.4g}", "gib": gib}
        told |= {"memory": f"{gib:.2f} GiB" if gib else "not known", "psnr": published.number(score["value"])}
        told |= {"whose": frames.whose(row["subject"])}
        source = f"{score['table']}, {score['provenance']}: {score['source']}"
        made.append(told | {"PSNR": score["value"], "of": f"score: {source}; time: {row['source']}"})
    return pd.DataFrame(made)
