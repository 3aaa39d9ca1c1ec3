"""What a scan direction costs: the light network with other numbers of scans, without the sort or without prompts, and
the four-scan network before it, all over the light network as published, size by size."""

from typing import Any

import pandas as pd

from reports.charts.chart import PANEL, Axis, Chart, NothingToDraw, panels, spread
from reports.charts.resolution import MEASURES, OPEN, TICKS, inference, rank
from reports.costs import frames
from results.evidence import Evidence

HEIGHT, PADDING, GAP = 270, 15, 13  # pixels
CAPTION = "What a scan direction costs: time over that of the light network with its one scan, by size"
LIGHT = "mambairv2-light"
OFFICIAL, BEFORE = f"{frames.CODE}mambair-light", "MambaIR-light, 4 scans"
SHOWN = {f"{LIGHT} scans=0": "no scan", f"{LIGHT} scans=2": "2 scans", f"{LIGHT} scans=4": "4 scans"}
SHOWN |= {f"{LIGHT} sgn=off": "no sort", f"{LIGHT} ase=off": "no prompts", "mambair-light": BEFORE, OFFICIAL: BEFORE}


def chart(evidence: Evidence) -> Chart:
    """A line per change over the pixels, a panel per machine. Raises NothingToDraw."""
    import altair as alt

    data = rows(inference(frames.timed(every=True)))
    if data.empty:
        raise NothingToDraw(f"no committed sweep has the light network with other numbers of scans: {MEASURES}")
    data = pd.concat([labelled(part) for _, part in data.groupby("panel", sort=False)], ignore_index=True)
    tips = [alt.Tooltip(f"{name}:N") for name in ("network", "size", "ms", "times", "noise", "of")]
    base = alt.Chart().encode(
        x=alt.X(
            **{"shorthand": "pixels:Q", "title": f"pixels of the input{OPEN if data['noise'].any() else ''}"},
            scale=alt.Scale(type="log", padding=20, nice=False),
            axis=alt.Axis(values=TICKS, format="~s"),
        ),
        y=alt.Y("ratio:Q", title="time over one scan's", scale=alt.Scale(zero=False, nice=False, padding=PADDING)),
        color=alt.Color("network:N", title=None, legend=None, sort=list(dict.fromkeys(SHOWN.values()))),
        tooltip=tips,
    )
    quiet = "datum.noise == ''"
    layers = alt.layer(
        alt.Chart().mark_rule(style="zero").encode(y=alt.datum(1.0)),
        base.mark_line(strokeWidth=1.5),
        base.transform_filter(quiet).mark_point(filled=True, size=30),
        base.transform_filter(f"!({quiet})").mark_point(filled=False, size=30),
        base.transform_filter("datum.label != ''")
        .mark_text(align="left", dx=6, fontSize=11)
        .encode(y="label_y:Q", text="label:N"),
    ).properties(width=round(PANEL * 1.8), height=HEIGHT)
    drawn = layers.facet(panels(data["panel"]), columns=2, data=data).resolve_scale(y="independent", x="independent")
    least, most = (data.loc[index] for index in (data["ratio"].idxmin(), data["ratio"].idxmax()))
    text = (
        "Time of one image over that of the light network with one scan in the same sweep. Open points: the machine "
        f"was not quiet. From {least['times']} times ({least['network']}, {least['size']}, {least['panel']}) to "
        f"{most['times']} ({most['network']}, {most['size']}, {most['panel']})."
    )
    return Chart(drawn, text, data[["panel", "network", "size", "ms", "times", "noise", "of"]])


def labelled(part: pd.DataFrame) -> pd.DataFrame:
    """A panel's rows with label and label_y: names of lines at their ends, apart from each other and from the rule."""
    ends = part["pixels"] == part.groupby("network")["pixels"].transform("max")
    axis = Axis.around([*part["ratio"], 1.0], HEIGHT, PADDING, log=False)
    places = axis.pixels([*part.loc[ends, "ratio"], 1.0])  # the rule keeps its place, so a name is half a gap from it
    apart = spread(places, GAP, PADDING, HEIGHT - PADDING)[:-1]
    part = part.assign(label=part["network"].where(ends, ""), label_y=part["ratio"])
    part.loc[ends, "label_y"] = axis.values(apart)
    return part


def rows(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per machine, change and size that the light network was timed at too, in the same sweep: another commit
    has other kernels."""
    made = []
    for _, sweep in frame.groupby("source", sort=False):
        made += _of(frames.exact(sweep))
    if not made:
        return pd.DataFrame()
    found = pd.DataFrame(made).rename(columns={"of": "source"})
    found = frames.of_one_sweep(found, ("panel", "network")).rename(columns={"source": "of"})
    return found.sort_values(["rank", "pixels"], kind="stable").drop(columns="rank")


def _of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Those of one sweep."""
    bases = frame[frame["subject"].isin((LIGHT, f"{frames.CODE}{LIGHT}"))].to_dict("records")
    one = {(row["backend"] == "official", row["pixels"]): row for row in bases}
    made = []
    for row in frame[frame["subject"].isin(SHOWN)].to_dict("records"):
        if (base := one.get((row["backend"] == "official", row["pixels"]))) is None:
            continue
        clock = ", processor's time" if row["clock"] == "processor" else ""
        clock = ", official code" if row["subject"] == OFFICIAL else clock
        told = {"panel": f"{row['machine']}, {row['precision']}{clock}", "network": SHOWN[row["subject"]]}
        told |= {"size": f"{row['height']}x{row['width']}", "pixels": row["pixels"], "ratio": row["ms"] / base["ms"]}
        told |= {"ms": f"{row['ms']:,.4g} and {base['ms']:,.4g}", "times": f"{row['ms'] / base['ms']:.2f}"}
        noise = dict.fromkeys((*row["noise"], *base["noise"]))
        made.append(told | {"noise": ", ".join(noise), "of": row["source"], "rank": (rank(row), bool(clock))})
    return made
