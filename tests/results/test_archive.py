"""Results from elsewhere: their union with ours, nothing of ours touched, nothing written where an archive asks for."""

import io
import shutil
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results import analyses, locks, unpacking
from results.analyses import folder
from results.archive import import_into
from results.store import Store, StoreError
from tests.results.test_store import MACHINE, PROTOCOL, cell, finish, key, rows


def pack(folder: Path, to: Path, prefix: str = "runs") -> Path:
    if to.suffix == ".zip":
        with zipfile.ZipFile(to, "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, f"{prefix}/{file.relative_to(folder)}")
    else:
        with tarfile.open(to, "w:gz" if to.suffix in (".gz", ".tgz") else "w") as archive:
            archive.add(folder, prefix)
    return to


@pytest.fixture
def theirs(tmp_path) -> Store:
    """Three finished cells, one failed, two records: one whole, one a part."""
    store = Store(tmp_path / "theirs")
    for seed in range(3):
        finish(store, cell(seed=seed), rows("baby", "bird"), {"Set5": 2})
    store.write_status(store.open_cell(cell("other").config()), "failed", reason="diverged", step=3)
    store.add_evaluation(key(), rows("head", "woman"), MACHINE, expected=5)
    store.add_evaluation(key("Set14"), rows("man", dataset="Set14"), MACHINE, expected=1)
    return store


@pytest.mark.parametrize("form", ["folder", "runs.zip", "runs.tar.gz", "runs.tgz", "runs.tar", "one-cell"])
def test_archive_of_any_form_arrives_whole(tmp_path, theirs, form):
    if form == "folder":
        source = theirs.root
    elif form == "one-cell":
        source = theirs.cell_folder(cell(seed=1).config())
    else:
        source = pack(theirs.root, tmp_path / form)
    store = Store(tmp_path / "ours")
    report = import_into(store, source)
    assert report.ok and len(report.added) == (1 if form == "one-cell" else 6)
    if form == "one-cell":
        assert list(store.cells()["name"]) == ["base/sr-x2/seed-1"]
    else:
        assert store.cells().equals(theirs.cells()) and store.evaluations().equals(theirs.evaluations())
        assert store.scores().equals(theirs.scores())
    assert sorted(path.name for path in store.root.iterdir() if path.name.startswith(".")) == []
    again = import_into(store, source)
    assert again.ok and len(again.present) == len(report.added) and not again.added


def test_union_of_two_halves(tmp_path, theirs):
    store = Store(tmp_path / "ours")
    store.add_evaluation(key(), rows("baby", "bird", "butterfly", "head"), {**MACHINE, "threads": 8}, expected=5)
    report = import_into(store, theirs.root)
    row = store.evaluations().set_index("dataset").loc["Set5"]
    assert report.ok and row["complete"] and row["images"] == 5
    assert len(report.merged) == 1 and len(report.added) == 5
    measured = store.scores().query("dataset == 'Set5' and source == 'evaluation'")
    assert dict(measured["environment"].value_counts()) == {
        measured.set_index("image")["environment"]["baby"]: 4,
        measured.set_index("image")["environment"]["woman"]: 1,
    }


def test_finished_replaces_unfinished_but_not_what_runs(tmp_path, theirs):
    store = Store(tmp_path / "ours")
    started = store.open_cell(cell(seed=0).config())
    store.write_status(started, "failed", reason="killed", step=2)
    for name in ("checkpoint.pt", "weights-1500.safetensors", "scores-1500.parquet"):
        (started / name).write_bytes(b"ours")
    running = store.open_cell(cell(seed=1).config())
    with locks.hold(running):
        store.write_status(running, "running", step=2)
        report = import_into(store, theirs.root)
        states = store.cells().set_index("name")["state"]
        assert states["base/sr-x2/seed-0"] == "done" and states["base/sr-x2/seed-1"] == "running"
    assert len(report.conflicts) == 1 and "running already" in report.conflicts[0]
    assert len(report.added) == 5
    assert not [path for path in started.iterdir() if path.read_bytes() == b"ours"]  # of a training that is over


@pytest.mark.parametrize("ours", ["nothing", "unfinished", "finished", "other weights"])
def test_scores_on_the_way_and_other_weights_arrive_with_their_cell(tmp_path, theirs, ours):
    """With a new cell, over an unfinished one, and beside a finished one of the same weights; never twice."""
    others = ("scores-1500.parquet", "scores-last-2.parquet", "half.safetensors", "weights-1500.safetensors")
    source, store = theirs.cell_folder(cell(seed=1).config()), Store(tmp_path / "ours")
    for name in (*others, "scores-x.parquet", "checkpoint.pt"):
        (source / name).write_bytes(b"theirs")
    target = store.cell_folder(cell(seed=1).config())
    if ours == "unfinished":
        store.write_status(store.open_cell(cell(seed=1).config()), "failed", reason="killed", step=2)
    elif ours != "nothing":
        finish(store, cell(seed=1), rows("baby", "bird"), {"Set5": 2}, **({"weights": "x"} if "other" in ours else {}))
        (target / others[0]).write_bytes(b"ours")
    report = import_into(store, source)
    came = {"finished": others[1:], "other weights": ()}.get(ours, others)
    assert report.ok and {n for n in others if (target / n).exists()} >= set(came)
    assert all((target / name).read_bytes() == b"theirs" for name in came)
    assert ours not in ("finished", "other weights") or (target / others[0]).read_bytes() == b"ours"
    assert ours != "other weights" or not (target / others[1]).exists()
    assert not (target / "scores-x.parquet").exists() and not (target / "checkpoint.pt").exists()
    assert import_into(store, source).present == [source.name]


def test_unfinished_never_replaces_finished(tmp_path, theirs):
    store = Store(tmp_path / "ours")
    finish(store, cell("other"), rows("baby"), {"Set5": 1})
    assert import_into(store, theirs.root).ok
    assert store.cells().set_index("name").loc["other/sr-x2/seed-0", "state"] == "done"


def test_conflicts_are_reported_ours_kept_and_the_rest_merged(tmp_path, theirs):
    store = Store(tmp_path / "ours")
    finish(store, cell(seed=0), rows("baby", "bird", shift=0.5), {"Set5": 2})
    store.add_evaluation(key(), rows("head", shift=0.5), MACHINE, expected=5)
    report = import_into(store, theirs.root)
    assert not report.ok and len(report.conflicts) == 2
    text = "\n".join(report.lines())
    assert "base/sr-x2/seed-0" in text and "Set5/baby has psnr 34.5 here, not 34" in text
    assert "Set5/head" in text
    scores = store.scores().query("source == 'evaluation' and dataset == 'Set5'").set_index("image")["psnr"]
    assert dict(scores) == {"head": 34.5, "woman": 35.0}  # ours stays, the row in no dispute joins
    assert len(store.cells()) == 4 and store.cells()["problem"].isna().all()


def test_same_scores_from_other_weights_add_no_images(tmp_path, theirs):
    store = Store(tmp_path / "ours")
    finish(store, cell(seed=0), rows("baby"), {"Set5": 2}, weights="other")
    report = import_into(store, theirs.root)
    assert len(report.conflicts) == 1 and "other weights" in report.conflicts[0]
    assert len(store.means().query("hash == @store.cell_folder(@cell(seed=0).config()).name")) == 1


def test_damaged_members_are_refused_and_the_rest_arrives(tmp_path, theirs):
    folders = [theirs.cell_folder(cell(seed=seed).config()) for seed in range(3)]
    (folders[0] / "config.json").write_text("{")
    (folders[1] / "scores.parquet").write_bytes(b"nothing")
    folders[2].rename(theirs.root / ("a" * 16))
    report = import_into(Store(tmp_path / "ours"), pack(theirs.root, tmp_path / "runs.tar.gz"))
    assert len(report.refused) == 3 and len(report.added) == 3
    assert not any(".import-" in text for text in report.refused)


def test_damage_of_ours_is_named_and_the_rest_arrives(tmp_path, theirs):
    store = Store(tmp_path / "ours")
    import_into(store, theirs.root)
    (store.cell_folder(cell(seed=0).config()) / "status.json").write_text("{")
    shutil.rmtree(store.cell_folder(cell(seed=1).config()))
    report = import_into(store, theirs.root)
    assert len(report.conflicts) == 1 and "damaged here" in report.conflicts[0] and len(report.added) == 1


def test_paths_out_of_the_archive_and_links_are_refused(tmp_path, theirs):
    name = theirs.cell_folder(cell().config()).name
    config = theirs.root / name / "config.json"
    zipped = pack(theirs.root, tmp_path / "runs.zip")
    with zipfile.ZipFile(zipped, "a") as archive:
        archive.write(config, f"../{'b' * 16}/config.json")
        archive.write(config, f"/{'c' * 16}/config.json")
        archive.write(config, f"runs/{name}/../../../evil")
        archive.write(config, f"runs/{name}/sitecustomize.py")
    report = import_into(Store(tmp_path / "ours"), zipped)
    assert len(report.refused) == 3 and len(report.added) == 6
    assert not (tmp_path / "evil").exists() and not list(tmp_path.rglob("sitecustomize.py"))
    assert {path.name for path in tmp_path.iterdir()} == {"theirs", "ours", "runs.zip"}

    (theirs.root / name / "weights.safetensors").unlink()
    (theirs.root / name / "weights.safetensors").symlink_to("/etc/hostname")
    report = import_into(Store(tmp_path / "second"), pack(theirs.root, tmp_path / "runs.tgz"))
    assert any("link" in text for text in report.refused) and len(report.added) == 5


def test_what_is_no_archive_is_said(tmp_path, theirs):
    store = Store(tmp_path / "ours")
    (tmp_path / "text.zip").write_text("hello")
    (tmp_path / "empty").mkdir()
    whole = pack(theirs.root, tmp_path / "runs.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    for path, said in (("nothing.zip", "not there"), ("text.zip", "no archive"), ("empty", "no results")):
        with pytest.raises(StoreError, match=said):
            import_into(store, tmp_path / path)
    named = io.BytesIO()
    with zipfile.ZipFile(named, "w") as archive:
        archive.writestr(f"{'a' * 16}/config.json", "{}")
    header = bytearray(named.getvalue())
    header[6:8], header[30] = struct.pack("<H", 0x800), 0xFF  # its own header says UTF-8, and the name is none
    (tmp_path / "named.zip").write_bytes(header)
    for path in ("cut.tar.gz", "named.zip"):
        with pytest.raises(StoreError, match="cut off, damaged"):
            import_into(store, tmp_path / path)
    assert store.cells().empty and not [path for path in store.root.iterdir() if path.name.startswith(".")]


def test_analyses_join_by_image_and_seed(tmp_path):
    def asked(store, images, seeds, pixels="p"):
        where = {"model": "m", "overrides": {}, "weights": "w", "task": "sr-x2", "dataset": "Set5"}
        name = analyses.key("echo", {}, protocol=PROTOCOL, **where)
        rows = [{"image": image, "pixels": pixels, "seed": seed, "value": seed} for image in images for seed in seeds]
        about = {"expected": 5, "question": "?", "columns": {"value": "of the seed"}}
        arrays = {image: {f"a{seed}": np.full(2, seed) for seed in seeds} for image in images}
        folder.add(store.root, name, pd.DataFrame(rows), MACHINE, arrays=arrays, **about)
        return folder.place(store.root, name)

    ours, theirs = Store(tmp_path / "ours"), Store(tmp_path / "theirs")
    asked(theirs, ["baby", "bird"], [0, 1])
    place = asked(ours, ["baby"], [0])
    archive = pack(theirs.root, tmp_path / "runs.tar.gz")
    assert import_into(ours, archive).merged == [place.name]
    record = folder.read(place)
    assert len(record.rows) == 4 and sorted(record.arrays("baby")) == ["a0", "a1"]
    assert import_into(ours, archive).present == [place.name]
    other = Store(tmp_path / "other")
    asked(other, ["bird"], [2], pixels="q")
    report = import_into(ours, other.root)
    assert not report.ok and "bird is another picture here" in report.conflicts[0] and len(folder.read(place).rows) == 4


def test_a_limit_that_is_no_number_is_said(monkeypatch, tmp_path, theirs):
    monkeypatch.setenv(unpacking.LIMIT_VARIABLE, "1GB")
    packed = tmp_path / "their.zip"
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("config.json", "{}")
    with pytest.raises(StoreError, match="MAMBAIR_BENCH_MAX_IMPORT is '1GB'"):
        import_into(Store(tmp_path / "ours"), packed)
