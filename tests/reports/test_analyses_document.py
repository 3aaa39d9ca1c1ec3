"""docs/analyses.md and docs/classes.md say what the committed records say."""

from pathlib import Path

import pytest

from reports.pages import documents
from reports.statistics.intervals import mean_interval
from results.analyses import Record

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT, CLASSES = ((DOCS / name).read_text() for name in ("analyses.md", "classes.md"))


def asked(analysis: str, dataset: str, start: str) -> Record:
    """The record of an analysis of the weights whose SHA-256 begins so."""
    (found,) = (
        one
        for one in documents._committed().analyses
        if (one.key["analysis"], one.key["dataset"]) == (analysis, dataset) and one.key["weights"].startswith(start)
    )
    return found


def test_the_part_of_the_output_that_is_the_states():
    """RMS of s over RMS of y, from what s(1) is of each."""
    record = asked("decay", "Set14", "2609912b")
    rows = record.rows[(record.rows["order"] == "network") & (record.rows["steps"] == 1)]
    part = rows["of_output"] / rows["of_state"]
    found, layers = mean_interval(part.groupby(rows["image"]).mean().tolist()), part.groupby(rows["layer"]).mean()
    told = f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}], mean over layers; "
    assert told + f"{layers.min():.2f} to {layers.max():.2f} by layer" in TEXT.replace("\n  ", " ")


def test_sorting_does_not_make_a_scan_look_further_back():
    rows = asked("decay", "Set14", "2609912b").rows
    for steps in (64, 256):
        share = rows[rows["steps"] == steps].groupby(["image", "order"])["share"].mean().unstack()
        found = mean_interval((share["raster"] - share["network"]).tolist())
        assert f"{found.mean:.3f}\n  [{found.low:.3f}, {found.high:.3f}]" in TEXT or (
            f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]" in TEXT
        )


def test_windows_of_two_trainings():
    own, other = (asked("lam", "Set5", start).rows.set_index("image")["di"] for start in ("2609912b", "01c43e8d"))
    found = mean_interval((other - own).tolist())
    assert f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]" in TEXT


@pytest.mark.parametrize("steps", [1, 16, 256])
def test_classes_without_noise_against_raster_order(steps):
    for record in (asked("sgn-order", *of) for of in (("Set14", "83798e96"), ("BSD100", "2609912b"))):
        rows = record.rows[(record.rows["scope"] == "tile") & (record.rows["steps"] == steps)]
        images = rows.groupby(["order", "image"])["similarity"].mean()
        found = mean_interval((images["likeliest"] - images["raster"]).tolist())
        assert f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]" in CLASSES


def test_orders_beside_the_ideal():
    rows = asked("sgn-order", "BSD100", "2609912b").rows
    images = rows[(rows["scope"] == "window") & (rows["steps"] == 1)].groupby(["order", "image"])["similarity"].mean()
    for order in ("nearest", "raster", "kmeans", "slic", "likeliest", "luma", "network"):
        found = mean_interval(images[order].tolist())
        assert f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]" in CLASSES, order
