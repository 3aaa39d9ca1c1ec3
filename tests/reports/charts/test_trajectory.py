"""Losses of trainings: of the store's cells from their logs, of committed ones from files that are committed."""

import json
import lzma
from types import SimpleNamespace

import pandas as pd
import pytest

from reports.charts import trajectory


@pytest.fixture
def evidence(tmp_path):
    """Two cells of a store, of which one has not started, and a committed one."""
    (tmp_path / "store" / "own").mkdir(parents=True)
    lines = [{"step": 0, "note": "started"}, *({"step": step, "loss": 1 / step} for step in range(1, 13))]
    (tmp_path / "store" / "own" / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    cells = pd.DataFrame({"hash": ["own", "waiting", "other"], "committed": [False, False, True]})
    return SimpleNamespace(cells=cells, store=SimpleNamespace(root=tmp_path / "store"))


def test_losses_are_of_the_store_and_of_what_is_committed_for_cells_that_it_lacks(evidence, tmp_path):
    (tmp_path / "measured" / "machine").mkdir(parents=True)
    text = "hash,step,lr,loss\nother,100,1,0.5\nother,200,1,\nown,100,1,9.0\nunknown,100,1,9.0\n"
    (tmp_path / "measured" / "machine" / "all.training.csv.xz").write_bytes(lzma.compress(text.encode()))
    found = trajectory.losses(evidence, tmp_path / "measured", points=4)
    own = [("own", step, 1 / step) for step in (1, 4, 7, 10)]
    assert list(found.itertuples(index=False, name=None)) == [*own, ("other", 100, 0.5)]


def test_without_any_log_there_is_no_loss(evidence, tmp_path):
    evidence.cells = evidence.cells[evidence.cells["hash"] != "own"]
    found = trajectory.losses(evidence, tmp_path)
    assert found.empty and list(found.columns) == list(trajectory.LOSSES)
