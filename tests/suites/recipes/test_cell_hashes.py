"""Keys of what is stored: a cell or a record that changes its hash is lost to everyone who measured it before."""

import csv
from itertools import groupby
from pathlib import Path

import pytest

from results import records
from results.store import Store
from suites import recipes
from suites.spec import Protocol, Task

with open(Path(__file__).with_name("cell_hashes.csv"), newline="") as file:
    HASHES = {key: list(rows) for key, rows in groupby(csv.DictReader(file), lambda row: (row["suite"], row["budget"]))}


@pytest.mark.parametrize(("suite", "budget"), HASHES)
def test_cells_keep_their_hashes(suite, budget):
    found = {cell.name: records.key_of(cell.config()) for cell in recipes.choose(suite, budget=budget).cells}
    for row in HASHES[suite, budget]:
        assert found[row["cell"]] == row["hash"], row["cell"]


def test_an_evaluation_record_keeps_its_hash():
    protocol = Protocol.official(Task.parse("sr-x2")).to_dict()
    key = Store.evaluation_key(
        model="mambairv2-light",
        weights="83798e96",
        overrides={"upscale": 2},
        task="sr-x2",
        dataset="Set5",
        protocol=protocol,
    )
    assert records.key_of(key) == "198e75e06e468816"
