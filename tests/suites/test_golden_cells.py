"""Hashes of cells never change: what was trained once would be looked for in vain."""

import json
from pathlib import Path

import pytest

from results import records
from suites.recipes import SUITES

GOLDEN = json.loads(Path(__file__).with_name("golden_cells.json").read_text())


@pytest.mark.parametrize("name", GOLDEN)
def test_cells_keep_their_hashes(name):
    """By suite and budget: every cell of seed 0, with the hash that it had when it first could be trained."""
    suite, budget = name.split()
    found = {cell.name: records.key_of(cell.config()) for cell in SUITES[suite](budget, (0,)).cells}
    assert {cell: found.get(cell) for cell in GOLDEN[name]} == GOLDEN[name]
