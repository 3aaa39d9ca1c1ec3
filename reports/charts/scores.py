"""Measured minus published PSNR of given weights and of full trainings, with what a verdict tolerates."""

import pandas as pd

from reports.charts.chart import Chart, NothingToDraw
from reports.statistics.verdicts import TOLERANCE
from reports.tables import index
from reports.tables.blocks.wording import measured_source, published_source
from results.evidence import Evidence
from results.sets import place

CAPTION = "Measured minus published PSNR, with the 95 % interval of one more draw"


def chart(evidence: Evidence) -> Chart:
    """A row per score that has a published one. Raises NothingToDraw where there is none."""
    import altair as alt

    data = rows(evidence)
    if data.empty:
        raise NothingToDraw("no published weights are scored by the official protocol yet: runner.py evaluate")
    order = list(data["score"])
    y = alt.Y("score:N", sort=order, title=None, axis=alt.Axis(grid=True))
    tips = ["score", "published", "measured", "difference", "interval", "verdict", "of", "printed"]
    base = alt.Chart(data).encode(y=y, tooltip=[alt.Tooltip(f"{name}:N") for name in tips])
    reach = TOLERANCE["psnr"]
    band = alt.Chart(pd.DataFrame([{"from": -reach, "to": reach}])).mark_rect(style="margin")
    x = alt.X("value:Q", title="measured minus published, dB", axis=alt.Axis(format="+.3f", tickCount=6))
    drawn = alt.layer(
        band.encode(x=alt.X("from:Q"), x2="to:Q"),
        alt.Chart(pd.DataFrame([{"at": 0}])).mark_rule(style="zero").encode(x="at:Q"),
        base.mark_rule(style="line").encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(style="ours").encode(x=x),
    ).properties(width="container", height=alt.Step(24))
    inside = int((data["value"].abs() <= reach).sum())
    largest = data.loc[data["value"].abs().idxmax()]
    summary = (
        f"{inside} of {len(data)} scores lie within ±{reach} dB of the published one (shaded); the largest difference "
        f"is {largest['difference']} dB, {largest['score']}. Lines: 95 % interval of the difference, the published "
        "score counted as one draw."
    )
    return Chart(drawn, summary, data[tips])


def rows(evidence: Evidence) -> pd.DataFrame:
    """Every score of a published table that was measured here and printed there, largest sets last."""
    found = []
    for frame in index.tables(evidence).values():
        scored = frame[(frame["kind"] == "paper") & (frame["metric"] == "psnr") & frame["difference"].notna()]
        found += scored.to_dict("records")
    networks = {(row["model"], row["overrides"], row["evidence"].partition(",")[0], row["task"]) for row in found}
    several = len(networks) > len({row["task"] for row in found})
    made, seen = [], set()
    for row in sorted(found, key=_place):
        key = (row["model"], row["overrides"], row["task"], row["dataset"], row["evidence"])
        if key in seen:
            continue  # two tables print one score
        seen.add(key)
        label = f"{row['dataset']} {row['task'].removeprefix('sr-')}" + (f", {row['method']}" if several else "")
        made.append(
            {
                **{"score": label, "published": row["published"], "measured": f"{row['measured']:.3f}"},
                **{"difference": f"{row['difference']:+.3f}", "interval": row["interval"], "verdict": row["verdict"]},
                **{"of": measured_source(row), "printed": published_source(row)},
                **{"value": row["difference"], "low": row["low"], "high": row["high"]},
            }
        )
    return pd.DataFrame(made)


def _place(row: dict) -> tuple:
    return row["task"], place(row["dataset"]), row["method"]
