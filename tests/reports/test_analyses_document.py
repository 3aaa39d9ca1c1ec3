"""docs/analyses.md and docs/classes.md say what the committed records say."""

from functools import cache
from pathlib import Path

import pandas as pd
import pytest

from reports.statistics.intervals import mean_interval
from reports.tables.analyses import classes, mechanisms
from results.analyses import Record, chosen, committed

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT, CLASSES = ((DOCS / name).read_text() for name in ("analyses.md", "classes.md"))


@cache
def records() -> list[Record]:
    return chosen(committed.load()[0])


def summed(name: str) -> pd.DataFrame:
    """Of the official x4 weights on Set14."""
    found = [one for one in records() if one.key["analysis"] == name and one.key["dataset"] == "Set14"]
    frame = mechanisms.summary(name, found)
    return frame[frame["network"] == "official x4"]


def told(row: pd.Series, name: str) -> str:
    return f"{row[name]:.3f} [{row[f'{name} low']:.3f}, {row[f'{name} high']:.3f}]"


@pytest.mark.parametrize("k", [1, 16, 64, 256, 1024])
def test_the_table_of_decay(k):
    rows = summed("decay").set_index(["order", "k"])
    own, raster = rows.loc[("network", k)], rows.loc[("raster", k)]
    cells = [f"{k}", f"{own['decay']:.3f}", told(own, "share"), told(raster, "share"), told(own, "of_output")]
    assert f"| {' | '.join(cells)} |" in TEXT


def test_the_table_of_similarities():
    for row in summed("redundancy").to_dict("records"):
        assert f"| `{row['way']}` | {told(pd.Series(row), 'similarity')} |" in TEXT


def test_the_table_of_squares():
    frame = summed("erf")
    for _, rows in frame[frame["share"] < 0.9].groupby("procedure"):
        cells = [
            f"{row.side:.0f}, {'area ' if number == 0 else ''}{row.area:.3f}"
            for number, row in enumerate(rows.itertuples())
        ]
        assert f"side {' | '.join(cells)} |" in TEXT


def test_the_part_of_the_output_that_is_the_states():
    """RMS of s over RMS of y, from what s(1) is of each."""
    (record,) = (one for one in records() if one.key["analysis"] == "decay" and one.key["dataset"] == "Set14")
    rows = record.rows[(record.rows["order"] == "network") & (record.rows["steps"] == 1)]
    part = rows["of_output"] / rows["of_state"]
    found, layers = mean_interval(part.groupby(rows["image"]).mean().tolist()), part.groupby(rows["layer"]).mean()
    told = f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}], mean over layers; "
    assert told + f"{layers.min():.2f} to {layers.max():.2f} by layer" in TEXT.replace("\n  ", " ")


@pytest.mark.parametrize(
    ("label", "analysis", "chosen", "digits"),
    [
        ("pixels that change class in another draw", "sgn-classes", {"quantity": "changed"}, 3),
        ("pixels in the class that they have without noise", "sgn-classes", {"quantity": "likeliest"}, 3),
        ("classes in use, exp(entropy), of 64", "prompts", {"quantity": "effective", "routing": "gumbel"}, 2),
        ("mutual information with SLIC", "prompts", {"quantity": "nmi_slic", "routing": "gumbel"}, 3),
        ("the same in raster order", "sgn-order", {"order": "raster", "scope": "tile", "steps": 1}, 3),
    ],
)
def test_rows_of_classes(label, analysis, chosen, digits):
    own = [one for one in records() if one.key["analysis"] == analysis and one.key["dataset"] == "Set5"]
    rows = pd.DataFrame(classes.SUMMARIES[analysis](own)).set_index("network")
    for name, value in chosen.items():
        rows = rows[rows[name] == value]
    cells = [
        f"{row['mean']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
        for row in (rows.loc["official x2"], rows.loc["official x4"])
    ]
    assert f"| {label} | {' | '.join(cells)} |" in CLASSES


def test_the_table_of_windows():
    """The official weights, whose SHA-256 begins with 2609912b, and the others."""
    found = [one for one in records() if one.key["analysis"] == "lam"]
    own, other = (
        one.rows.set_index("image") for one in sorted(found, key=lambda one: one.key["weights"][:8] != "2609912b")
    )
    for image in own.index:
        cells = [f"{rows.loc[image, 'di']:.1f}" for rows in (own, other)]
        cells += [f"{rows.loc[image, 'reach90']:.0f}" for rows in (own, other)]
        assert f"| {image} | {' | '.join(cells)} |" in TEXT


@pytest.mark.parametrize("steps", [1, 16])
def test_classes_without_noise_against_raster_order(steps):
    own = [one for one in records() if one.key["analysis"] == "sgn-order"]
    for record in own:
        if mechanisms.network_name(record) not in ("official x2", "official x4"):
            continue
        rows = record.rows[(record.rows["scope"] == "tile") & (record.rows["steps"] == steps)]
        images = rows.groupby(["order", "image"])["similarity"].mean()
        found = mean_interval((images["likeliest"] - images["raster"]).tolist())
        assert f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" in CLASSES
