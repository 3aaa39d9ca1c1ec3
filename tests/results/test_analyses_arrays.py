"""Analyses that are committed: which of two files, which arrays, how exactly, and that a damaged file is said."""

import numpy as np
import pandas as pd
import pytest

from reports.tables.analyses import fields
from results.analyses import chosen, committed, folder
from results.records import PROTOCOL_KEYS, StoreError

OWN = {"model": "m", "overrides": {}, "weights": "w", "task": "sr-x2", "dataset": "Set5"}
OWN["protocol"] = dict.fromkeys(PROTOCOL_KEYS)
MACHINE = {"command": "analyse", "started": "now", "commit": "0", "device": "cpu"}


@pytest.fixture
def stored(tmp_path):
    """A store with a map of an image by two analyses, of which one is in ARRAYS."""
    values = np.random.default_rng(0).lognormal(-8, 4, (30, 40)).astype(np.float32)
    arrays = {"one": {"map/0": values, "window": np.array([3, 4, 16, 2])}}
    for name in ("lam", "sgn"):
        rows = pd.DataFrame({"image": ["one"], "pixels": ["p"], "seed": [0], "di": [1.5]})
        about = {"expected": 5, "question": "?", "columns": {"di": "index"}}
        folder.add(tmp_path / "store", folder.key(name, {}, **OWN), rows, MACHINE, arrays=arrays, **about)
    return tmp_path / "store", arrays["one"]


def exported(store, tmp_path):
    (tmp_path / "measured" / "machine").mkdir(parents=True)
    lines = committed.export(store, tmp_path / "measured" / "machine" / "all", {})
    found, problems = committed.load(tmp_path / "measured")
    assert not problems
    return lines, {one.key["analysis"]: one for one in found}


def test_small_arrays_are_committed_with_three_digits(stored, tmp_path):
    store, arrays = stored
    lines, found = exported(store, tmp_path)
    assert any("2 arrays" in line for line in lines)
    kept = found["lam"].arrays("one")
    np.testing.assert_allclose(kept["map/0"], arrays["map/0"], rtol=2**-11)
    np.testing.assert_array_equal(kept["window"], arrays["window"])
    assert found["lam"].arrays("two") == {} and found["sgn"].arrays("one") == {}
    size = next((tmp_path / "measured" / "machine").glob("*.arrays.xz")).stat().st_size
    assert size < 0.8 * arrays["map/0"].nbytes


def test_maps_of_classes_are_committed_of_pictures_that_may_be_shown(tmp_path):
    """They hold the picture, and standard test pictures are not ours to give."""
    maps = {"lq": np.zeros((3, 4, 3), np.uint8), "seed-0": np.arange(24, dtype=np.int16).reshape(2, 3, 4)}
    for dataset in ("embedded", "Set5"):
        rows = pd.DataFrame({"image": ["one"], "pixels": ["p"], "seed": [0], "changed": [1.0]})
        key = folder.key("sgn-classes", {}, **(OWN | {"dataset": dataset}))
        folder.add(
            tmp_path / "store",
            key,
            rows,
            MACHINE,
            arrays={"one": maps},
            expected=1,
            question="?",
            columns={"changed": "1"},
        )
    exported(tmp_path / "store", tmp_path)
    found = {one.key["dataset"]: one.arrays("one") for one in committed.load(tmp_path / "measured")[0]}
    assert found["Set5"] == {} and found["embedded"].keys() == maps.keys()
    np.testing.assert_array_equal(found["embedded"]["seed-0"], maps["seed-0"])


def test_of_large_sets_fewer_arrays_are_committed(tmp_path, monkeypatch):
    """Three images where two are many: the first two of lam, the mean of all of erf, which fields then read."""
    monkeypatch.setattr(committed, "MANY", 2)
    maps = {image: np.full((4, 4), value, np.float32) for image, value in zip("abc", (1, 2, 6), strict=True)}
    for name, array in (("lam", "map/0"), ("erf", "mambair/0")):
        rows = pd.DataFrame({"image": list("abc"), "pixels": "p", "seed": 0, "di": 1.5})
        about = {"expected": 3, "question": "?", "columns": {"di": "index"}}
        arrays = {image: {array: values} for image, values in maps.items()}
        folder.add(tmp_path / "store", folder.key(name, {}, **OWN), rows, MACHINE, arrays=arrays, **about)
    found = exported(tmp_path / "store", tmp_path)[1]
    assert [bool(found["lam"].arrays(image)) for image in "abc"] == [True, True, False]
    assert not found["erf"].arrays("a")
    np.testing.assert_array_equal(fields.mean_field(found["erf"], "mambair"), np.full((4, 4), 3.0))


def test_rounded_numbers_stay_what_they_are(stored, tmp_path):
    _, arrays = stored
    once = committed._rounded(arrays["map/0"])
    np.testing.assert_array_equal(committed._rounded(once), once)
    whole = np.array([0, 1, 0.5, -2, 1024], np.float32)
    np.testing.assert_array_equal(committed._rounded(whole), whole)


def test_a_damaged_file_of_arrays_is_said(stored, tmp_path):
    _, found = exported(stored[0], tmp_path)
    path = next((tmp_path / "measured" / "machine").glob("*.arrays.xz"))
    path.write_bytes(path.read_bytes()[:-20])
    folder.read_archive.cache_clear()
    with pytest.raises(StoreError, match="cannot be read as compressed safetensors"):
        found["lam"].arrays("one")


def test_what_is_compared_is_of_one_machine_where_two_have_it(tmp_path):
    """`off` draws nothing, so every machine has one row of it; what it is compared with has three seeds on b alone."""
    for machine, seeds in (("a", [0]), ("b", [0, 1, 2]), ("c", [0])):
        for name, drawn in (("unchanged", seeds), ("off", [None])):
            rows = pd.DataFrame({"image": "one", "pixels": "p", "seed": drawn, "psnr": 30.0})
            about = {"expected": 1, "question": "?", "columns": {"psnr": "dB"}}
            folder.add(tmp_path / machine, folder.key(name, {}, **OWN), rows, {**MACHINE, "device": machine}, **about)
        (tmp_path / "measured" / machine).mkdir(parents=True)
        committed.export(tmp_path / machine, tmp_path / "measured" / machine / "all", {})
    found, problems = committed.load(tmp_path / "measured")
    found = chosen(found)
    assert not problems and {one.key["analysis"]: len(one.rows) for one in found} == {"unchanged": 3, "off": 1}
    assert {machine["device"] for one in found for machine in one.environments.values()} == {"b"}
