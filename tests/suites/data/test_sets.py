"""Finding datasets in folders as people have them, and checking them picture by picture, on sets made here."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from suites import data
from suites.data import DataError, check, find, find_training, listing, manifest, unchecked
from suites.data.catalogue import DATASETS, stem_key
from suites.data.pictures import list_pictures, pixel_hash

STEMS = {"Set5": ("baby", "bird"), "BSD100": ("12084", "8023", "101085"), "Urban100": ("img_001", "img_002")}


def picture(number, height=24, width=36, gray=False):
    shape = (height, width) if gray else (height, width, 3)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder of three small sets and a gray one, with manifests of their own in place of those that ship."""
    root, manifests = tmp_path / "data", tmp_path / "manifests"
    manifests.mkdir()
    for name, stems in {**STEMS, "Classic5": ("lena",)}.items():
        (root / name).mkdir(parents=True)
        for number, stem in enumerate(stems):
            pixels = picture(number + len(name), gray=name == "Classic5")
            Image.fromarray(pixels).save(root / name / f"{stem}.png")
        manifest.write(manifest.make(list_pictures(root / name)), manifests / f"{name}.csv")
    bsd = list_pictures(root / "BSD100")
    manifest.write(manifest.make({stem: bsd[stem] for stem in ("12084", "8023")}), manifests / "CBSD68.csv")
    monkeypatch.setattr(manifest, "FOLDER", manifests)
    for cached in (manifest.read, manifest.test_pictures):
        cached.cache_clear()
    yield root
    for cached in (manifest.read, manifest.test_pictures):
        cached.cache_clear()


def frame(root):
    return pd.DataFrame(listing(root))


def states(root, dataset):
    frame = check(root)
    frame = frame[frame["dataset"] == dataset]
    return dict(zip(frame["image"], frame["state"], strict=True)), dict(
        zip(frame["image"], frame["detail"], strict=True)
    )


def test_a_manifest_holds_what_it_was_made_from(root):
    entry = manifest.read("Set5")["bird"]
    pixels = picture(1 + len("Set5"))
    assert (entry.height, entry.width, entry.channels, entry.sha256) == (24, 36, 3, pixel_hash(pixels))
    assert manifest.read("Classic5")["lena"].channels == 1
    assert manifest.read("Manga109") is None
    header = (manifest.FOLDER / "Set5.csv").read_text().splitlines()[0]
    assert header == "stem,height,width,channels,sha256"


def test_find_gives_pictures_with_their_hashes_in_the_order_of_stems(root):
    dataset = find("BSD100", root)
    assert dataset.stems() == ["101085", "12084", "8023"] == [p.stem for p in dataset.images()]
    assert len(dataset) == 3 and dataset.complete and dataset.source == "BSD100"
    first = next(dataset.images())
    assert np.array_equal(first.pixels, picture(2 + len("BSD100"))) and first.sha256 == pixel_hash(first.pixels)
    assert first.standard


@pytest.mark.parametrize("folder", ["B100", "b100", "bsds100", "BSD_100", "bsd100/HR", "B100/GTmod12", "train/BSD100"])
def test_other_names_and_inner_folders(root, folder):
    (root / "BSD100").rename(root / "away")
    (root / folder).parent.mkdir(exist_ok=True)
    (root / "away").rename(root / folder)
    assert find("BSD100", root).stems() == ["101085", "12084", "8023"]
    assert find("b100", root).name == "BSD100" and find("B100", root).source == folder


def test_the_exact_name_wins_over_another(root):
    (root / "B100").mkdir()
    Image.fromarray(picture(0)).save(root / "B100" / "12084.png")
    assert find("BSD100", root).source == "BSD100"


@pytest.mark.parametrize("stem", ["img001", "IMG_001", "img_001_HR", "img_001_SRF_4_HR", "img-001_GT"])
@pytest.mark.parametrize("suffix", [".bmp", ".webp"])
def test_stems_match_whatever_their_spelling_and_format(root, stem, suffix):
    path = root / "Urban100" / "img_001.png"
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.open(path).save(path.with_name(stem + suffix), **options)
    path.unlink()
    dataset = find("Urban100", root)
    assert dataset.stems() == ["img_001", "img_002"] and next(dataset.images()).standard


def test_two_spellings_of_one_picture_are_refused(root):
    path = root / "Urban100" / "img_001.png"
    path.with_name("img001.png").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"both img001.png and img_001.png"):
        find("Urban100", root)
    assert "both" in frame(root).set_index("dataset").loc["Urban100", "where"]


def test_what_is_not_of_the_set_is_not_used(root):
    Image.fromarray(picture(99)).save(root / "Set5" / "mine.png")
    dataset = find("Set5", root)
    assert dataset.stems() == ["baby", "bird"] and [path.name for path in dataset.others] == ["mine.png"]


def test_the_length_is_that_of_the_whole_set(root):
    (root / "BSD100" / "8023.png").unlink()
    dataset = find("BSD100", root)
    assert len(dataset) == 3 and not dataset.complete and len(dataset.stems()) == 2


def test_patterns(root):
    assert find("Set5", root).stems("b?b*") == ["baby"]
    with pytest.raises(DataError, match=r"no picture of Set5 matches 'x\*'.*baby, bird"):
        find("Set5", root).stems("x*")


def test_cbsd68_comes_from_bsd100_unless_it_has_a_folder(root):
    derived = find("CBSD68", root)
    assert derived.source == "2 pictures of BSD100" and derived.stems() == ["12084", "8023"] and derived.complete
    assert all(p.standard for p in derived.images())
    (root / "cbsd68").mkdir()
    Image.fromarray(picture(0)).save(root / "cbsd68" / "8023.png")
    own = find("CBSD68", root)
    assert own.source == "cbsd68" and own.stems() == ["8023"] and not own.complete and len(own) == 2
    assert not next(own.images()).standard


def test_gray_stored_as_rgb_is_the_gray_picture(root):
    path = root / "Classic5" / "lena.png"
    Image.open(path).convert("RGB").save(path)
    lena = next(find("Classic5", root).images())
    assert lena.pixels.ndim == 2 and lena.standard


def test_folders_of_ones_own_have_no_standard(root):
    (root / "holiday").mkdir()
    Image.fromarray(picture(5)).save(root / "holiday" / "beach.png")
    dataset = find("holiday", root)
    assert dataset.name == "holiday" and len(dataset) == 1 and next(dataset.images()).standard is None
    assert "holiday" in set(frame(root)["dataset"])


def test_div2k_is_its_training_half(root):
    for folder in ("DIV2K_train_HR", "DIV2K_valid_HR", "DIV2K_train_LR_bicubic"):
        (root / "DIV2K" / folder).mkdir(parents=True)
        Image.fromarray(picture(1)).save(root / "DIV2K" / folder / f"{folder}.png")
    assert find("DIV2K", root).stems() == ["DIV2K_train_HR"] and not find("DIV2K", root).complete


def test_missing_sets_are_said_in_one_line(root, tmp_path):
    with pytest.raises(DataError, match=r"no pictures of Set14 in .*BSD100, Classic5, Set5, Urban100"):
        find("Set14", root)
    with pytest.raises(DataError, match=r"unknown set 'Urbn100': did you mean Urban100\? choose from BSD100, "):
        find("Urbn100", root)
    with pytest.raises(DataError, match="does not exist"):
        find("Set5", tmp_path / "nowhere")
    with pytest.raises(DataError, match="--data DIR"):
        find("Set5", None)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="does not exist as a folder"):
        find("Set5", tmp_path / "file")
    for path in (root / "Set5").iterdir():
        path.rename(path.with_name(f"0{path.name}"))
    with pytest.raises(DataError, match=r"none of the 2 pictures .* has a name of Set5 \(baby, bird"):
        find("Set5", root)


def test_listing_counts_what_is_there(root):
    rows = frame(root).set_index("dataset")
    assert rows.loc["BSD100", ["found", "of", "where"]].tolist() == [3, 3, "BSD100"]
    assert rows.loc["Manga109", ["found", "of", "where"]].tolist() == [0, 109, "-"]
    assert rows.loc["embedded", "found"] == 3
    assert set(frame(None).query("found > 0")["dataset"]) == {"embedded", "embedded-train"}


def test_check_passes_the_standard_sets(root):
    frame = check(root)
    assert list(frame.columns) == ["dataset", "image", "state", "detail", "file"]
    assert len(frame) == 8 and (frame["state"] == "ok").all()


def test_check_tells_every_picture_that_is_not_standard(root):
    folder = root / "BSD100"
    (folder / "101085.png").unlink()
    Image.fromarray(picture(50)).save(folder / "12084.png")
    Image.fromarray(picture(51)[:20, :30]).save(folder / "8023.png")
    Image.fromarray(picture(52)).save(folder / "0001.png")
    Image.fromarray(picture(2 + len("BSD100"))).save(folder / "0002.png")
    Image.fromarray(picture(53, 12, 18)).save(folder / "8023x2.png")
    (folder / "0003.png").write_text("text")
    state, detail = states(root, "BSD100")
    assert state == {
        "101085": "missing",
        "12084": "other pixels",
        "8023": "other size",
        "0001": "extra",
        "0002": "extra",
        "0003": "extra",
        "8023x2": "already an LR",
    }
    assert "20x30, the standard picture is 24x36" in detail["8023"]
    assert detail["0002"] == "has the pixels of 101085: rename it"
    assert "unreadable" in detail["0003"] and "8023 at x2" in detail["8023x2"]
    assert set(states(root, "Set5")[0].values()) == {"ok"}


def test_check_knows_low_resolution_crops_and_colours(root):
    Image.fromarray(picture(1, 8, 12)).save(root / "Set5" / "baby.png")
    Image.fromarray(picture(1, 24, 36, gray=True)).save(root / "Set5" / "bird.png")
    Image.fromarray(picture(0)).save(root / "Classic5" / "lena.png")
    Image.fromarray(picture(1, 24, 32)).save(root / "Urban100" / "img_001.png")
    (root / "Urban100" / "img_002.png").write_bytes(b"\x89PNG")
    state, detail = states(root, "Set5")
    assert state == {"baby": "already an LR", "bird": "other pixels"}
    assert "x3" in detail["baby"] and "gray, the standard picture is in colour" in detail["bird"]
    assert "in colour, the standard picture is gray" in states(root, "Classic5")[1]["lena"]
    state, detail = states(root, "Urban100")
    assert state == {"img_001": "other size", "img_002": "unreadable"} and "multiple of 8" in detail["img_001"]


def test_check_of_a_set_that_cannot_be_used(root, tmp_path):
    path = root / "Set5" / "baby.png"
    path.with_name("baby.bmp").write_bytes(path.read_bytes())
    assert states(root, "Set5")[0] == {"": "unreadable"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no folder of pictures"):
        check(tmp_path / "empty")
    with pytest.raises(DataError, match="does not exist"):
        check(tmp_path / "nowhere")


def test_own_folders_are_told_and_are_nothing_wrong(tmp_path):
    (tmp_path / "Mine" / "HR").mkdir(parents=True)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "Mine" / "HR" / "a.png")
    assert check(tmp_path).empty and unchecked(tmp_path) == {"Mine": 1}


def test_training_refuses_pictures_that_are_tested_on(root):
    folder = root / "train" / "mine"
    folder.mkdir(parents=True)
    Image.fromarray(picture(60)).save(folder / "a.png")
    Image.fromarray(picture(61, gray=True)).save(folder / "b.png")
    images = data.load_training(("mine",), root)
    assert [image.shape for image in images] == [(24, 36, 3)] * 2
    assert np.array_equal(images[0], picture(60)) and np.array_equal(images[1][..., 2], picture(61, gray=True))
    Image.fromarray(picture(1 + len("Urban100"))).save(folder / "c.png")
    Image.open(root / "Classic5" / "lena.png").convert("RGB").save(folder / "d.png")  # a gray one, stored as RGB
    with pytest.raises(DataError, match=r"2 of 4 .*mine/c is Urban100/img_002, mine/d is Classic5/lena"):
        data.load_training(("mine",), root)


def test_training_needs_its_sets_and_whole_files(root):
    with pytest.raises(DataError, match="no training set"):
        data.load_training((), root)
    with pytest.raises(DataError, match="no pictures of DIV2K"):
        find_training("DIV2K", root)
    (root / "train" / "mine").mkdir(parents=True)
    (root / "train" / "mine" / "a.png").write_text("text")
    with pytest.raises(DataError, match=r"a.png is not a picture"):
        data.load_training(("mine",), root)


def test_training_sets_follow_each_other_in_the_order_of_their_stems(root):
    for name, stems in {"one": "ba", "two": "c"}.items():
        (root / "train" / name).mkdir(parents=True)
        for stem in stems:
            Image.fromarray(picture(ord(stem))).save(root / "train" / name / f"{stem}.png")
    images = data.load_training(("two", "one"), root)
    assert [np.array_equal(image, picture(ord(stem))) for image, stem in zip(images, "cab", strict=True)] == [True] * 3


def test_manifests_that_ship_are_whole_and_unambiguous():
    expected = {"Set5", "Set14", "BSD100", "Urban100", "CBSD68", "Kodak24", "McMaster", "Classic5", "LIVE1"}
    assert expected <= set(manifest.names()) <= set(DATASETS)
    for name in manifest.names():
        entries = manifest.read(name)
        assert len(entries) == DATASETS[name].count == len({entry.sha256 for entry in entries.values()}), name
        assert len({stem_key(stem) for stem in entries}) == len(entries), name
    bsd100 = manifest.read("BSD100")
    assert all(bsd100[stem] == entry for stem, entry in manifest.read("CBSD68").items())
    assert manifest.read("Urban12") == dict(list(manifest.read("Urban100").items())[7::8])
    assert [stem for stem, entry in manifest.read("Set14").items() if entry.channels == 1] == ["bridge"]


def test_the_standard_sets_pass(shared):
    frame = check(shared / "data")
    assert len(frame) == 5 + 14 + 100 + 100 + 24 + 18 + 5 + 29 and (frame["state"] == "ok").all()
    cbsd68 = find("CBSD68", shared / "data")
    assert cbsd68.stems() == sorted((shared / "data" / "CBSD68.txt").read_text().split())


def test_the_training_sets_load_and_hold_no_test_picture(shared):
    images = data.load_training(("T91", "BSDS500-train", "BSDS500-test"), shared / "data")
    assert len(images) == 91 + 200 + 200
    assert all(image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 for image in images)
    with pytest.raises(DataError, match="100 of 100 training pictures are tested on"):
        data.load_training(("BSD100",), shared / "data")
