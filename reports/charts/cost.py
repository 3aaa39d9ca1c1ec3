"""What accuracy costs: PSNR against milliseconds with memory as area."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from reports.charts.chart import PANEL, Chart, NothingToDraw, panels
from reports.statistics.intervals import mean_interval
from reports.tables.paper import is_official
from reports.tables.rows import machine_text
from reports.tables.steps import network_key
from results import measured, published
from results.evidence import Evidence
from results.sets import FULL_SETS

CAPTION = "PSNR against the time of one image, memory as area; the Pareto front dashed"
DATASET = "Urban100"
EXACT = ("fp32", "tf32x3")  # precisions whose scores are those of float32
Row = dict[str, Any]


def pareto(evidence: Evidence) -> Chart:
    """A point per network, precision and launch that has a time and a score, a panel per machine.

    Raises NothingToDraw.
    """
    import altair as alt

    found = list(_points(evidence))
    if not found:
        raise NothingToDraw("no committed profile is of a network whose score is measured or published")
    data = pd.DataFrame(found)
    data["front"] = False
    for _, part in data.groupby("panel", sort=False):
        data.loc[front(part), "front"] = True
    tips = ["panel", "network", "how", "ms", "p10, p90", "memory", "PSNR", "score", "on front", "of", "time from"]
    data["on front"] = data["front"].map({True: "yes", False: "no"})
    quickest = data.groupby(["panel", "network"])["time"].idxmin()
    data["label"] = data["network"].str.removeprefix("mambairv2-").where(data.index.isin(quickest), "")
    scale = alt.Scale(type="log", padding=45, nice=False)
    x = alt.X("time:Q", title="ms an image, logarithmic", scale=scale, axis=alt.Axis(grid=False))
    y = alt.Y("psnr:Q", title=f"PSNR on {DATASET}, dB", scale=alt.Scale(zero=False, padding=30))
    legend = alt.Legend(values=[0.5, 1, 2], format="~g")
    size = alt.Size("gib:Q", title="GiB", scale=alt.Scale(range=[40, 700]), legend=legend)
    kinds = ["measured", "published"]
    hue = alt.Color("score:N", title="PSNR", scale=alt.Scale(domain=kinds))
    base = alt.Chart().encode(x=x, y=y, tooltip=[alt.Tooltip(f"{name}:N") for name in tips])
    known, unknown = "isValid(datum.gib)", "!isValid(datum.gib)"
    layers = alt.layer(
        base.transform_filter("datum.front").mark_line(style="front", interpolate="step-after"),
        base.transform_filter(known).mark_point(filled=True, opacity=0.6).encode(size=size, color=hue),
        base.transform_filter(unknown).mark_point(shape="cross", size=55, filled=True).encode(color=hue),
        base.transform_filter("datum.label != ''")
        .mark_text(style="note", align="right", dx=-16, dy=-4)
        .encode(text="label:N"),
    ).properties(width=round(PANEL * 1.45), height=250)
    drawn = layers.facet(panels(data["panel"]), columns=2, data=data)
    fastest = data.loc[data["time"].idxmin()]
    summary = (
        f"{len(data)} ways to compute a 360x640 image (x2) on {data['panel'].nunique()} machines; the fastest is "
        f"{fastest['network']}, {fastest['how']}, {fastest['ms']} ms on {fastest['panel']}. Orange: the score is the "
        "published one, because no such weights were scored here; crosses: the official code, whose memory was not "
        "measured. Times do not depend on the weights."
    )
    return Chart(drawn, summary, data[tips])


def front(points: pd.DataFrame) -> list[Any]:
    """Index of the points that no other one beats: faster at no lower score."""
    best, kept = float("-inf"), []
    for index, row in points.sort_values(["time", "psnr"], ascending=[True, False]).iterrows():
        if row["psnr"] > best:
            best = row["psnr"]
            kept.append(index)
    return kept


def _points(evidence: Evidence) -> Iterator[Row]:
    goals = measured.goals()
    scores = _Scores(evidence)
    latest: dict[tuple, tuple[Row, Row]] = {}
    for profile in measured.profiles():
        for row in profile["rows"]:
            if (row["mode"], row["height"], row["width"], row["batch"]) == ("inference", 360, 640, 1):
                key = profile["environment"]["device"], row["model"], str(row["overrides"]), row["precision"]
                latest[(*key, row["launch"], row["backend"])] = profile, row
    for (device, model, *_), (profile, row) in latest.items():
        score = scores.of(model, row["overrides"], row["task"], row["precision"])
        if row["status"] != "ok" or score is None:
            continue
        environment = profile["environment"]
        own = _point(device, model, f"{row['precision']} {row['launch']}", row["median_ms"], score)
        own |= {"p10, p90": f"{row['p10_ms']:.1f}, {row['p90_ms']:.1f}", "gib": (row["peak_mib"] or 0) / 1024 or None}
        own["memory"] = f"{own['gib']:.2f} GiB" if own["gib"] else "not measured"
        yield own | {
            "time from": f"results/measured/{profile['file']}: {environment['command']}, commit "
            f"{environment['commit'][:10]}, {environment['started'][:10]}"
        }
    for device, figures in goals["machines"].items():
        for goal in (goal for goal in goals["goals"] if (goal.get("height"), goal.get("mode")) == (360, "inference")):
            official = figures["official"][goal["what"]]
            score = scores.of(goal["model"], {}, goal["task"], "fp32")
            for name, words in (("ms", "official code"), ("compiled", "official code, compiled")):
                if name in official and score is not None:
                    point = _point(device, goal["model"], words, official[name], score)
                    yield (
                        point
                        | {"p10, p90": "", "gib": None, "memory": "not measured"}
                        | {"time from": figures["source"]}
                    )


def _point(device: str, model: str, how: str, ms: float, score: Row) -> Row:
    return {"panel": device, "network": model, "how": how, "ms": f"{ms:,.1f}", "time": ms, **score}


class _Scores:
    """PSNR on DATASET of the published weights of a network, in a precision: measured here, or else published."""

    def __init__(self, evidence: Evidence) -> None:
        rows = evidence.evaluations[evidence.evaluations["weights"].isin(published.official_weights())]
        self._rows = rows[rows["dataset"] == DATASET].to_dict("records")
        self._tables = published.committed().tables

    def of(self, model: str, overrides: Row, task: str, precision: str) -> Row | None:
        wanted = network_key(model, overrides)
        for name in (precision, *(("fp32",) if precision in EXACT else ())):
            entries = [
                row
                for row in self._rows
                if (row["task"], row["labels"], row["complete"]) == (task, "learned", True)
                and (network_key(row["model"], row["overrides"]), row["images"]) == (wanted, FULL_SETS[DATASET])
                and row["protocol"]["precision"] == name
                and is_official(row["protocol"] | {"precision": "fp32"}, task, model)
            ]
            if entries:
                mean = mean_interval([row["psnr"] for row in entries]).mean
                seeds = ", ".join(str(row["protocol"]["seed"]) for row in entries)
                origin = f"measured in {name}, Gumbel seeds {seeds}; {machine_text(entries)}"
                return {"psnr": mean, "PSNR": f"{mean:.3f}", "score": "measured", "of": origin}
        return self._published(wanted, task) if precision in EXACT else None

    def _published(self, wanted: str, task: str) -> Row | None:
        for name, frame in self._tables.items():
            for row in frame[(frame["metric"] == "psnr") & (frame["weights"] != "none")].to_dict("records"):
                same = row["model"] and network_key(row["model"], published.parse_overrides(row["overrides"])) == wanted
                if same and (row["task"], row["dataset"], row["provenance"]) == (task, DATASET, "primary"):
                    value = published.number(row["value"])
                    return {
                        **{"psnr": value, "PSNR": row["value"], "score": "published"},
                        "of": f"published in {name}, primary: {row['source']}",
                    }
        return None
