"""Forest plots: every variant that was trained here against the base of its family."""

import pandas as pd

from reports.charts.chart import COLUMNS, PANEL, Chart, NothingToDraw, panels
from reports.statistics.verdicts import BASE, EQUIVALENCE, equivalent
from reports.tables import index
from reports.tables.blocks.wording import detectable, measured_source, published_source
from results.evidence import Evidence

CAPTION = "Ablations: difference from the base in PSNR, 95 % intervals, what could have been found, and equivalence"


def chart(evidence: Evidence) -> Chart:
    """A row per variant, a panel per family and dataset. Raises NothingToDraw where no variant is trained."""
    import altair as alt

    data = rows(evidence)
    if data.empty:
        raise NothingToDraw(
            "no variant is trained beside its base yet: runner.py run ablations --dry-run says the cost"
        )
    x = alt.X("value:Q", title="variant minus base, dB", axis=alt.Axis(format="+.2f", tickCount=5))
    tips = ["panel", "variant", "difference", "interval", "detectable", "published", "verdict", "equivalent", "of"]
    base = alt.Chart().encode(
        y=alt.Y("variant:N", sort=None, title=None), tooltip=[alt.Tooltip(f"{name}:N") for name in tips]
    )
    layers = alt.layer(
        alt.Chart()  # once a panel: as many as rows would darken each other
        .mark_rect(style="margin")
        .encode(x="min(margin_low):Q", x2="max(margin_high):Q", y=alt.value(0), y2=alt.value("height")),
        base.mark_rule(style="zero").encode(x="zero:Q", y=alt.value(0), y2=alt.value("height")),
        base.mark_rule(style="found").encode(x="mde_low:Q", x2="mde_high:Q"),
        base.mark_rule(style="line").encode(x="low:Q", x2="high:Q"),
        base.mark_point(style="published", shape="diamond", size=90).encode(x="paper:Q"),
        base.mark_point(style="ours").encode(x=x),
    ).properties(width=PANEL, height=alt.Step(30))
    drawn = layers.facet(panels(data["panel"]), columns=COLUMNS, data=data).resolve_scale(y="independent")
    words = data["verdict"].value_counts()
    counts = ", ".join(f"{count} {verdict}" for verdict, count in words.items())
    alike = int((data["equivalent"] == "yes").sum())
    summary = (
        f"{len(data)} differences: {counts}; {alike} equivalent to the base (95 % interval within "
        f"±{EQUIVALENCE} dB, shaded). Grey bars: the difference that these seeds would find with power 0.8, where none "
        "was found. Diamonds: the paper's difference, where it has the same two networks."
    )
    return Chart(drawn, summary, data[tips])


def rows(evidence: Evidence) -> pd.DataFrame:
    """Every variant whose difference from its base has an interval, at every budget."""
    made = []
    for frame in index.tables(evidence).values():
        scored = frame[(frame["kind"] == "trained") & (frame["metric"] == "psnr") & frame["difference"].notna()]
        for row in scored[scored["verdict"] != BASE].to_dict("records"):
            mde, low, high = row["mde"], row["low"], row["high"]
            if low is None:
                continue  # a single seed tells nothing; the table has it
            family = ", ".join(filter(None, (row["setting"], row["budget"])))
            panel = f"{row['dataset']}, {row['task']}: {family}"
            known = mde is not None and not pd.isna(mde) and mde < 1
            made.append(
                {
                    **{"panel": panel, "variant": row["method"], "difference": f"{row['difference']:+.3f}"},
                    **{"interval": row["interval"], "detectable": detectable(mde), "published": row["published"] or ""},
                    **{"verdict": row["verdict"], "equivalent": "yes" if equivalent((low, high)) else "not shown"},
                    **{"of": "; ".join(filter(None, (measured_source(row), published_source(row))))},
                    **{"value": row["difference"], "low": low, "high": high, "zero": 0},
                    **{"mde_low": -mde if known else None, "mde_high": mde if known else None},
                    **{"margin_low": -EQUIVALENCE, "margin_high": EQUIVALENCE},
                    **{"paper": float(row["published"]) if row["published"] else None},
                }
            )
    return pd.DataFrame(made)
