"""Trainings on their way: paired differences from the base against iterations, and losses."""

import pandas as pd

from reports.charts import trajectory
from reports.charts.chart import COLUMNS, PANEL, Chart, NothingToDraw, panels
from reports.statistics.intervals import against_base
from results.evidence import Evidence
from results.sets import place

ASKED = {  # what families are called in a panel; others by their own names
    "components": "What scan, ASE and SGN add",
    "memory": "Is what a scan remembers used?",
    "plain-scans": "How many plain scans?",
    "scans": "How many attentive scans?",
    "semantics": "Does sorting need learning?",
    "pilot": "Pilot: ASE and SGN",
    "recovery": "Trained on from the official weights",
}
ENOUGH = 3  # seeds whose intervals are drawn
LOOKS = 3  # at the networks of a panel, for a way to be seen
CAPTION = "Paired difference from the base against iterations, with 95 % intervals"
LOSS_CAPTION = "Training loss against iterations, cell by cell"


def chart(evidence: Evidence) -> Chart:
    """A line per variant with its interval, a panel per family and set, all to one scale. Raises NothingToDraw.

    Of two seeds each one's difference is drawn in place of an interval, which with one degree of freedom (t = 12.7)
    would leave every panel.
    """
    import altair as alt

    data = differences(evidence)
    if data.empty:
        raise NothingToDraw(
            f"no two variants are scored {LOOKS} times while they train (`Scoring` of a suite asks for it)"
        )
    x = alt.X("iteration:Q", title="iterations", axis=alt.Axis(format=",d", tickCount=4), scale=alt.Scale(padding=10))
    crossing = int(((data["low"] <= 0) & (data["high"] >= 0)).sum())
    few = data["seeds"] < ENOUGH
    data[["low", "high"]] = data[["low", "high"]].mask(few)
    data[["lowest", "highest"]] = data[["lowest", "highest"]].where(few)
    drawn = data[["low", "high", "lowest", "highest", "value"]]
    domain = [drawn.min().min(), drawn.max().max()]
    scale = alt.Scale(domain=domain, padding=5, nice=False)
    y = alt.Y("value:Q", title="difference, dB", axis=alt.Axis(format="+.2f", tickCount=5), scale=scale)
    hue = alt.Color("variant:N", title=None, legend=alt.Legend(symbolOpacity=1))
    tips = ["panel", "variant", "iteration", "difference", "interval", "seeds", "draws"]
    base = alt.Chart().encode(x=x, color=hue, tooltip=[alt.Tooltip(f"{name}:N") for name in tips])
    layers = alt.layer(
        alt.Chart().mark_rule(style="zero").encode(y="zero:Q"),
        base.mark_area(opacity=0.15, clip=True).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_rule(strokeWidth=1.5, clip=True).encode(y="low:Q", y2="high:Q"),
        base.mark_line(strokeWidth=1.8).encode(y=y),
        base.mark_point(filled=True, size=55).encode(y="value:Q"),
        *(
            base.mark_tick(orient="horizontal", thickness=1.5, width=9).encode(y=f"{end}:Q")
            for end in ("lowest", "highest")
        ),
    ).properties(width=PANEL, height=170)
    lines = alt.Header(labelExpr="split(datum.value, '; ')")
    drawn = layers.facet(panels(data["panel"]).header(lines), columns=COLUMNS, data=data)
    drawn = drawn.resolve_scale(x="independent")
    summary = (
        f"{len(data)} differences of variants from what each panel names, paired by seed; {crossing} of their 95 % "
        "intervals cover zero. Each point is the mean over the seeds of training that both have. Where "
        f"fewer than {ENOUGH} have, dashes are the seeds themselves, and the numbers of the chart have the interval."
    )
    return Chart(drawn, summary, data[tips])


def differences(evidence: Evidence) -> pd.DataFrame:
    """A row per family, dataset, variant and iteration with a scatter: two or more seeds.

    Only where there are LOOKS iterations. What two families compare alike is shown in the one that compares more.
    """
    scores = trajectory.load(evidence)
    named = evidence.families.dropna(subset=["hash"])
    if scores.empty or named.empty:
        return pd.DataFrame()
    joined = named.merge(scores, on="hash").merge(evidence.cells[["hash", "iterations"]], on="hash")
    made = []
    joined = joined.sort_values("dataset", key=lambda names: names.map(place), kind="stable")
    keys = ["suite", "family", "task", "budget", "comparison", "dataset", "iteration"]
    for (suite, family, task, budget, _, dataset, iteration), part in joined.groupby(keys, sort=False):
        base = part[part["is_base"].astype(bool)]["label"]
        values = {label: dict(zip(own["seed"], own["psnr"], strict=True)) for label, own in part.groupby("label")}
        if base.empty:
            continue
        asked = ASKED.get(family, family if family == suite else f"{suite}, {family}")
        where = f"{dataset} {task.removeprefix('sr-')}" + ("" if budget == family else f", {budget}")
        title = f"{asked}; {where}; minus {base.iloc[0]}"
        cells = {label: tuple(sorted(own["hash"])) for label, own in part.groupby("label")}
        for label, found in against_base(values, base.iloc[0]).items():
            interval = found.interval
            if interval.low is None:
                continue
            paired = [
                values[label][seed] - psnr for seed, psnr in values[base.iloc[0]].items() if seed in values[label]
            ]
            made.append(
                {
                    **{"panel": title, "variant": label},
                    **{"iteration": int(iteration), "difference": f"{interval.mean:+.3f}"},
                    **{"interval": f"[{interval.low:+.3f}, {interval.high:+.3f}]", "seeds": interval.n},
                    **{"draws": int(part["draws"].min()), "value": interval.mean, "zero": 0},
                    **{"low": interval.low, "high": interval.high, "lowest": min(paired), "highest": max(paired)},
                    "pair": (dataset, int(iteration), cells[base.iloc[0]], cells[label]),
                    **{"length": int(part["iterations"].max()), "family": family},
                }
            )
    if not made:
        return pd.DataFrame()
    data = pd.DataFrame(made)
    data = data[data.groupby("panel")["iteration"].transform("nunique") >= LOOKS]
    if data.empty:
        return data
    last = data.groupby("panel")["iteration"].transform("max")
    told = "; " + last.map("{:,}".format) + " of " + data["length"].map("{:,} iterations".format)
    data["panel"] += told.where(last < data["length"], "")  # of trainings that are not finished
    size = data.groupby("panel")["panel"].transform("size")
    chosen = data.assign(size=size).sort_values("size", ascending=False, kind="stable").drop_duplicates("pair").index
    data = data[data.index.isin(chosen)]
    order = data.assign(variants=-data.groupby(["family", "length"])["variant"].transform("nunique"))
    first = {family: number for number, family in enumerate(dict.fromkeys(data["family"]))}
    order = order.assign(first=data["family"].map(first), longest=-data["length"])
    order = order.sort_values(["longest", "variants", "first"], kind="stable")
    return data.loc[order.index].drop(columns=["pair", "length", "family"]).reset_index(drop=True)


def losses(evidence: Evidence) -> Chart:
    """A line per cell. Raises NothingToDraw where no training is logged."""
    import altair as alt

    logged = trajectory.losses(evidence)
    if logged.empty:
        raise NothingToDraw("no training is logged in the store or committed: runner.py run SUITE")
    data = logged.merge(evidence.cells[["hash", "variant", "task", "seed", "budget"]], on="hash")
    data["panel"] = data["task"] + ", " + data["budget"] + " budget"
    data["cell"] = data["variant"] + ", seed " + data["seed"].astype(str)
    drawn = (
        alt.Chart(data[["panel", "cell", "variant", "step", "loss"]])
        .mark_line(strokeWidth=1.2, opacity=0.8)
        .encode(
            x=alt.X("step:Q", title="iterations", axis=alt.Axis(format=",d", tickCount=4)),
            y=alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False)),
            color=alt.Color("variant:N", title=None),
            detail="cell:N",
            tooltip=["cell:N", "step:Q", "loss:Q"],
        )
        .properties(width=PANEL, height=170)
        .facet(panels(data["panel"]), columns=COLUMNS)
        .resolve_scale(x="independent", y="independent")
    )
    last = data.sort_values("step").groupby(["panel", "cell"], as_index=False).last()
    table = last[["panel", "cell", "step", "loss"]].rename(columns={"step": "last step logged", "loss": "its loss"})
    text = f"Losses of {last['cell'].nunique()} cells, to step {int(data['step'].max()):,}."
    return Chart(drawn, text, table)
