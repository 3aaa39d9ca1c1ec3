"""docs/analyses.md says what the committed records say."""

from pathlib import Path

import pandas as pd
import pytest

from reports.tables.analyses import mechanisms
from results.analyses import committed

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "analyses.md").read_text()


def summed(name: str) -> pd.DataFrame:
    """Of the official x4 weights on Set14."""
    found = [one for one in committed.load()[0] if one.key["analysis"] == name and one.key["dataset"] == "Set14"]
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
