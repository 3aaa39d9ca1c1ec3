"""What the protocol is worth: differences from the official protocol with their intervals, a panel per set."""

import pandas as pd

from reports.charts.chart import PANEL, Chart, NothingToDraw, panels
from reports.statistics.verdicts import BASE
from reports.tables import index, sensitivity
from reports.tables.blocks.wording import measured_source
from results.evidence import Evidence
from results.sets import place

CAPTION = "What routing, tiles, low-resolution images, prompt order and precision are worth in PSNR"


def chart(evidence: Evidence) -> Chart:
    """A row per setting, a panel per network, task and set. Raises NothingToDraw."""
    import altair as alt

    data = rows(evidence)
    if data.empty:
        raise NothingToDraw(sensitivity.NEEDS)
    tips = ["panel", "setting", "difference", "interval", "after Holm", "of"]
    order = list(dict.fromkeys(data["setting"]))
    x = alt.X("value:Q", title="dB", axis=alt.Axis(format="+.1f", tickCount=3))
    y = alt.Y("setting:N", sort=order, title=None)
    hue = alt.Color("after Holm:N", scale=alt.Scale(domain=["not told from zero", "differs from zero"]), title=None)
    base = alt.Chart().encode(y=y, tooltip=[alt.Tooltip(f"{name}:N") for name in tips])
    layers = alt.layer(
        base.mark_rule(style="zero").encode(x="zero:Q", y=alt.value(0), y2=alt.value("height")),
        base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", color=hue),
        base.mark_point(filled=True, size=50).encode(x=x, color=hue),
    ).properties(width=PANEL - 75, height=alt.Step(19))
    drawn = layers.facet(panels(data["panel"]), columns=4, data=data)
    worst = data.loc[data["value"].idxmin()]
    apart = data[data["after Holm"] == "differs from zero"]
    summary = (
        f"{len(apart)} of {len(data)} differences are told from zero after Holm's correction within their set. The "
        f"largest loss is {worst['difference']} dB {worst['interval']}, {worst['setting']} on {worst['panel']}."
    )
    return Chart(drawn, summary, data[tips])


def rows(evidence: Evidence) -> pd.DataFrame:
    frame = index.tables(evidence).get(sensitivity.NAME)
    if frame is None:
        return pd.DataFrame()
    frame = frame[(frame["metric"] == "psnr") & frame["difference"].notna() & (frame["verdict"] != BASE)]
    several = frame["model"].nunique() > 1
    frame = frame.sort_values("dataset", key=lambda names: names.map(place), kind="stable")
    made = []
    for row in frame.sort_values("task", kind="stable").to_dict("records"):
        panel = f"{row['dataset']} {row['task'].removeprefix('sr-')}" + (f", {row['model']}" if several else "")
        sure = row["p"] is not None and row["p"] < 0.05
        made.append(
            {
                **{"panel": panel, "setting": row["method"], "difference": f"{row['difference']:+.3f}"},
                **{"interval": row["interval"], "after Holm": "differs from zero" if sure else "not told from zero"},
                **{"of": measured_source(row), "value": row["difference"], "low": row["low"], "high": row["high"]},
                **{"zero": 0},
            }
        )
    return pd.DataFrame(made)
