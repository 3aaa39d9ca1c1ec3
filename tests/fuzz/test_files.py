"""Files from strangers: each is taken or refused in words; nothing of it runs, and nothing is written elsewhere."""

import io
import os
import pickle
import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from models.checkpoints import read_state
from models.errors import ModelError
from results import published, records
from results.archive import import_into
from results.published import PublishedError
from results.records import StoreError
from results.store import Store
from suites.data.pictures import DataError, load_picture
from suites.evaluation.scoring import read_network
from suites.recipes.options import suite_of
from suites.spec import SpecError
from tests.fuzz.explore import damaged, explore
from tests.results.test_archive import pack
from tests.results.test_store import MACHINE, cell, finish, key, rows


class Evil:
    """What a pickle runs when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def as_torch(content: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def test_weights(tmp_path):
    state = {"first.weight": torch.ones(2, 3), "last.bias": torch.zeros(4, dtype=torch.bfloat16)}
    marker, path = tmp_path / "ran", tmp_path / "weights"
    contents = (
        *(safetensors.torch.save(state), as_torch(state), as_torch({"params": state})),
        *(as_torch(state, _use_new_zipfile_serialization=False), as_torch({"params": Evil(marker)})),
        *(pickle.dumps(Evil(marker)), pickle.dumps({"params": {"a": Evil(marker)}}), b"\x80\x02cos\nsystem\n."),
    )

    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = read_state(path)
        except ModelError as error:
            assert str(path) in str(error)
        else:
            assert found and all(isinstance(tensor, torch.Tensor) for tensor in found.values())
        assert not marker.exists()

    explore("weights", damaged(*contents), check)


def test_weights_that_are_small_in_a_file_and_large_in_memory(tmp_path):
    path = tmp_path / "bomb.pth"
    path.write_bytes(as_torch({"a": torch.zeros(1).expand(10**9, 100)}))
    with pytest.raises(ModelError, match="would take 400000000000 bytes"):
        read_state(path)
    tied = torch.ones(4, 4)
    path.write_bytes(as_torch({"a": tied, "b": tied}))
    assert set(read_state(path)) == {"a", "b"}


def test_pictures(tmp_path):
    pixels, contents = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8), []
    for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, form)
        contents.append(buffer.getvalue())

    def check(content: bytes) -> None:
        (tmp_path / "picture.png").write_bytes(content)
        try:
            found = load_picture(tmp_path / "picture.png", alpha=True)
        except DataError as error:
            assert "\n" not in str(error)
        else:
            assert found.dtype == np.uint8 and found.ndim in (2, 3)

    explore("pictures", damaged(*contents), check)


def test_pictures_of_absurd_sizes_are_refused_by_a_limit_that_can_be_raised(tmp_path, monkeypatch):
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    told = [struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks]
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(told))
    with pytest.raises(DataError, match=r"30000 x 30000 pixels, and the limit is 268435456 .*MAX_PIXELS=N raises it"):
        load_picture(tmp_path / "bomb.png")
    Image.new("L", (64, 64)).save(tmp_path / "small.png")
    monkeypatch.setenv("MAMBAIR_BENCH_MAX_PIXELS", "4095")
    with pytest.raises(DataError, match="limit is 4095"):
        load_picture(tmp_path / "small.png")
    monkeypatch.setenv("MAMBAIR_BENCH_MAX_PIXELS", "4096")
    assert load_picture(tmp_path / "small.png").shape == (64, 64)


OFFICIAL = b"""
name: x
scale: 2
datasets: {train: {name: DIV2K, type: PairedImageDataset, dataroot_gt: a, gt_size: 128, batch_size_per_gpu: 4}}
network_g: {type: MambaIRv2Light, upscale: 2, embed_dim: 48, depths: [5, 5], img_range: 1.}
train: {total_iter: 10, optim_g: {type: Adam, lr: !!float 2e-4}, pixel_opt: {type: L1Loss}}
"""
ALIASES = b"a: &a [1,1]\n" + b"".join(b"%c: &%c {x: *%c, y: *%c}\n" % (i + 1, i + 1, i, i) for i in range(97, 117))


@pytest.mark.parametrize("reader", [read_network, lambda path: suite_of(path, None)], ids=["network", "options"])
def test_option_files(tmp_path, reader):
    tagged = b"network_g: !!python/object/apply:os.mkdir [ran]\n"

    def check(content: bytes) -> None:
        (tmp_path / "options.yml").write_bytes(content)
        try:
            reader(tmp_path / "options.yml")
        except (SpecError, ModelError, TypeError) as error:
            assert type(error) is not TypeError or reader is read_network
        assert not Path("ran").exists()

    explore("options", damaged(OFFICIAL, tagged, ALIASES, b"[" * 400), check)


def test_archives(tmp_path):
    theirs = Store(tmp_path / "theirs")
    finish(theirs, cell(), rows("baby"), {"Set5": 1})
    theirs.add_evaluation(key(), rows("head"), MACHINE, expected=5)
    contents = [pack(theirs.root, tmp_path / name).read_bytes() for name in ("a.zip", "a.tar", "a.tar.gz")]
    sly = io.BytesIO()
    with zipfile.ZipFile(sly, "w") as archive:
        for name in (f"../{'b' * 16}/config.json", f"/{'c' * 16}/config.json", f"..\\{'d' * 16}\\config.json"):
            archive.writestr(name, "{}")
    outside, number = {path.name for path in tmp_path.iterdir()} | {"incoming", "stores"}, 0

    def check(content: bytes) -> None:
        nonlocal number
        number += 1
        (tmp_path / "incoming").write_bytes(content)
        store = Store(tmp_path / "stores" / str(number))
        with suppress(StoreError):
            import_into(store, tmp_path / "incoming")
        store.cells(), store.evaluations(), store.means(), store.families()
        assert {path.name for path in tmp_path.iterdir()} <= outside

    explore("archives", damaged(*contents, sly.getvalue()), check)


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{'a' * 16}/weights.safetensors", bytes(50_000_000))
    monkeypatch.setattr("results.unpacking.LEAST", 1_000_000)
    with pytest.raises(StoreError, match=r"far more than results do.*MAMBAIR_BENCH_MAX_IMPORT=BYTES"):
        import_into(Store(tmp_path / "store"), tmp_path / "bomb.zip")
    assert not list((tmp_path / "store").iterdir())


def test_files_of_a_store(tmp_path):
    """JSON and tables that lie in a folder of results."""
    records.write_frame(tmp_path / "whole", rows("baby"))
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000

    def check(content: bytes) -> None:
        (tmp_path / "file").write_bytes(content)
        for read in (records.read_json, records.read_frame):
            try:
                read(tmp_path / "file")
            except StoreError as error:
                assert "file" in str(error)

    explore("stored files", damaged((tmp_path / "whole").read_bytes(), b'{"key": {"a": [1, 2.5]}}', deep), check)


def test_published_tables(tmp_path):
    whole = sorted(published.FOLDER.glob("*.csv"))[0].read_bytes()
    head = b"\n".join(whole.splitlines()[:6]) + b"\n"

    def check(content: bytes) -> None:
        (tmp_path / "table.csv").write_bytes(content)
        try:
            published.read(tmp_path / "table.csv")
        except PublishedError as error:
            assert "table.csv" in str(error)

    explore("published tables", damaged(head, head, b'table,"method\n'), check)
