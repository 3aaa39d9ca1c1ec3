"""Bytes that are not those that were written: found where they are read, told with the file's name, never believed."""

import io

import numpy as np
import pandas as pd
import pytest

from results import records
from results.records import StoreError
from results.store import Store
from tests.faults.harness import COUNT, SEED, log
from tests.results.test_store import MACHINE, cell, finish, key, rows

RNG = np.random.default_rng(SEED)


def flips(content: bytes, count: int) -> list[bytes]:
    """The content with one bit turned over, at random places."""
    made = []
    for place in RNG.integers(0, 8 * len(content), count):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << (place % 8)
        made.append(bytes(changed))
    return made


def test_a_bit_turned_over_in_a_table_is_seen_or_changes_nothing(tmp_path):
    """A reader stumbles, or finds another checksum, or reads the same rows."""
    path = tmp_path / "scores.parquet"
    frame = rows(*(f"image-{number}" for number in range(50)))
    frame["psnr"] = np.linspace(20, 40, 50)
    records.write_frame(path, frame)
    whole, content, seen = records.read_frame(path), path.read_bytes(), 0
    turned = flips(content, 100 * COUNT)
    for changed in turned:
        path.write_bytes(changed)
        try:
            found = records.read_frame(path)
        except StoreError as error:
            assert str(path) in str(error)
            seen += 1
        else:
            pd.testing.assert_frame_equal(found[list(whole)], whole)
    log("bits of a table", tried=len(turned), refused=seen, harmless=len(turned) - seen)
    for length in range(0, len(content), max(1, len(content) // 20)):
        path.write_bytes(content[:length])
        with pytest.raises(StoreError, match="cannot be read as Parquet"):
            records.read_frame(path)


def test_tables_of_older_stores_without_checksums_are_read(tmp_path):
    frame, buffer = rows("baby", "bird"), io.BytesIO()
    frame.to_parquet(buffer, index=False)
    (tmp_path / "scores.parquet").write_bytes(buffer.getvalue())
    pd.testing.assert_frame_equal(records.read_frame(tmp_path / "scores.parquet"), records.check_rows(frame, ""))


@pytest.mark.parametrize("name", ["config.json", "record.json"])
def test_a_bit_turned_over_in_what_names_a_folder_is_seen(tmp_path, name):
    """The folder's name is the hash of what the file says."""
    store = Store(tmp_path)
    finish(store, cell(), rows("baby"), {"Set5": 1})
    store.add_evaluation(key(), rows("baby"), MACHINE, expected=5)
    folder = store.cell_folder(cell().config()) if name == "config.json" else store.evaluation_folder(key())
    whole, content = records.read_json(folder / name), (folder / name).read_bytes()
    for changed in flips(content, 50 * COUNT):
        (folder / name).write_bytes(changed)
        try:
            found = store.read_config(folder) if name == "config.json" else store.read_evaluation(folder)[1]["key"]
        except StoreError:
            continue
        assert found == (whole if name == "config.json" else whole["key"])  # a bit of white space, or of what is beside
