"""Families: facts about comparisons, apart from the cells that they compare."""

import hashlib
import json

import pytest

from results import families, records
from results.archive import import_into
from results.store import Store, StoreError
from tests.results.test_store import cell, finish, rows


def configs(*names: str, seed: int = 0, **budget) -> list[tuple[str, dict]]:
    return [(f"the {name}", cell(name, seed, **budget).config()) for name in names]


def file(store: Store, family: str, *names: str, suite: str = "s", **more) -> None:
    members = configs(*names, **more)
    store.add_family(suite, family, members[0][1], members)


def test_a_shared_base_is_one_cell_in_every_family_that_names_it(tmp_path):
    store = Store(tmp_path)
    assert len(store.families()) == 0
    for seed in (0, 1):
        for name in ("base", "a", "b"):
            store.open_cell(cell(name, seed).config())
    store.open_cell(cell("a", 7).config())
    file(store, "second", "base", "b")
    file(store, "first", "base", "a")
    found = store.families()
    assert tuple(found.columns) == families.COLUMNS and found["problem"].isna().all()
    keys = {
        (name, seed): records.key_of(cell(name, seed).config()) for name in ("base", "a", "b") for seed in (0, 1, 7)
    }
    assert found[["family", "order", "label", "variant", "is_base", "seed", "hash", "base"]].values.tolist() == [
        ["first", 0, "the base", "base", True, 0, keys["base", 0], keys["base", 0]],
        ["first", 0, "the base", "base", True, 1, keys["base", 1], keys["base", 1]],
        ["first", 1, "the a", "a", False, 0, keys["a", 0], keys["base", 0]],
        ["first", 1, "the a", "a", False, 1, keys["a", 1], keys["base", 1]],
        ["first", 1, "the a", "a", False, 7, keys["a", 7], keys["base", 7]],  # whose base was never trained
        ["second", 0, "the base", "base", True, 0, keys["base", 0], keys["base", 0]],
        ["second", 0, "the base", "base", True, 1, keys["base", 1], keys["base", 1]],
        ["second", 1, "the b", "b", False, 0, keys["b", 0], keys["base", 0]],
        ["second", 1, "the b", "b", False, 1, keys["b", 1], keys["base", 1]],
    ]
    assert len(store.cells()) == 7 and set(found["task"]) == {"sr-x2"} and set(found["budget"]) == {"smoke"}


def test_a_comparison_is_one_suite_family_and_base(tmp_path):
    store = Store(tmp_path)
    file(store, "f", "base", "a")
    file(store, "f", "base", "b", seed=5)  # seeds are no part of it
    file(store, "f", "base", "a", iterations=9)
    file(store, "f", "base", "a", suite="other")
    sizes = store.families().groupby(["suite", "comparison"]).size()
    assert sorted(sizes.loc["s"]) == [2, 3] and list(sizes.loc["other"]) == [2]
    assert store.families()["hash"].isna().all() and store.families()["seed"].isna().all()  # declared, not run


def test_records_never_change_and_are_readable_without_this_project(tmp_path):
    store = Store(tmp_path)
    file(store, "f", "base", "a")
    (folder, *_), before = store.family_folders(), {p: (p / "member.json").read_bytes() for p in store.family_folders()}
    store.add_family("s", "f", cell().config(), [("another label", cell(seed=3).config())])
    assert {p: (p / "member.json").read_bytes() for p in store.family_folders()} == before
    stored = json.loads((folder / "member.json").read_text())
    text = json.dumps(stored["key"], separators=(",", ":"))
    assert folder.name == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert "seed" not in stored["key"]["cell"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read as JSON"),
        (b'{"key": {"suite": "s"}, "label": "l", "order": 0}', "lacks a part"),
        (b'{"label": "l", "order": 0}', "lacks a part"),
        (b'{"key": {"suite": "s", "family": "f", "base": {}, "cell": {}}, "label": "l", "order": 0}', "belongs to"),
    ],
)
def test_a_damaged_record_is_named_and_the_others_are_read(tmp_path, content, said):
    store = Store(tmp_path)
    file(store, "f", "base", "a")
    damaged = store.family_folders()[0]
    (damaged / "member.json").write_bytes(content)
    found = store.families()
    assert len(found) == 2 and found["problem"].notna().sum() == 1
    assert said in found["problem"].dropna().iloc[0] and damaged.name in found["problem"].dropna().iloc[0]
    with pytest.raises(StoreError, match=said):
        families.read_member(damaged)


def test_a_record_that_holds_no_cell_is_named(tmp_path):
    store = Store(tmp_path)
    store.add_family("s", "f", {}, [("l", {"task": "sr-x2"})])
    assert "holds no cell" in store.families()["problem"].iloc[0]


def test_families_travel_with_the_cells(tmp_path):
    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    for store, other in ((ours, "a"), (theirs, "b")):
        for name in ("base", other):
            finish(store, cell(name), rows("baby"), {"Set5": 1})
        file(store, "f", "base", other)
    for _ in range(2):
        assert import_into(ours, theirs.root).ok
        found = ours.families()
        assert sorted(found["variant"]) == ["a", "b", "base"] and found["comparison"].nunique() == 1
        assert found["hash"].notna().all()
    (theirs.family_folders()[0] / "member.json").write_text("{}")
    report = import_into(Store(tmp_path / "third"), theirs.root)
    assert len(report.added) == 2 and len(report.refused) == 1 and "lacks a part" in report.refused[0]
