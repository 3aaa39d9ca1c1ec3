"""Which datasets have a name here, under which other names people keep them, and how their folders are laid out."""

import re
from dataclasses import dataclass

from results.sets import FULL_SETS


@dataclass(frozen=True)
class DatasetInfo:
    """A known dataset: how many pictures it has, which kinds of task it serves ("train" too), its other names."""

    name: str
    count: int
    kinds: tuple[str, ...]
    aliases: tuple[str, ...] = ()


DATASETS = {
    info.name: info
    for info in (
        DatasetInfo("Set5", FULL_SETS["Set5"], ("sr",)),
        DatasetInfo("Set14", FULL_SETS["Set14"], ("sr",)),
        DatasetInfo("BSD100", FULL_SETS["BSD100"], ("sr",), ("B100", "BSDS100")),
        DatasetInfo("Urban100", FULL_SETS["Urban100"], ("sr", "denoise")),
        DatasetInfo("Urban12", 12, ("sr",)),
        DatasetInfo("Manga109", FULL_SETS["Manga109"], ("sr",)),
        DatasetInfo("CBSD68", FULL_SETS["CBSD68"], ("denoise",), ("CBSDS68",)),
        DatasetInfo("Kodak24", FULL_SETS["Kodak24"], ("denoise",)),
        DatasetInfo("McMaster", FULL_SETS["McMaster"], ("denoise",), ("McM",)),
        DatasetInfo("Classic5", FULL_SETS["Classic5"], ("jpeg",)),
        DatasetInfo("LIVE1", FULL_SETS["LIVE1"], ("jpeg",)),
        DatasetInfo("T91", 91, ("train",), ("91-images", "91-image")),
        DatasetInfo("BSDS500-train", 200, ("train",), ("BSD500-train",)),
        DatasetInfo("BSDS500-test", 200, ("train",), ("BSD500-test",)),
        DatasetInfo("DIV2K", 800, ("train",), ("DIV2K_train_HR",)),
        DatasetInfo("Flickr2K", 2650, ("train",), ("Flickr2K_HR",)),
        DatasetInfo("WED", 4744, ("train",), ("WaterlooED", "Waterloo Exploration Database")),
        DatasetInfo("embedded", 3, ("sr", "denoise", "jpeg"), ("embedded-test",)),
        DatasetInfo("embedded-train", 8, ("train",)),
    )
}

# Sets that are a part of another one, and are taken from its folder when they have none of their own.
PARTS = {"CBSD68": "BSD100", "Urban12": "Urban100"}

# Where ground truth lies inside the folder of a set, tried in this order after the folder itself. Pictures cropped to a
# multiple of something (GTmod12) come last: they are other pictures, and `check` says so.
INNER_FOLDERS = (
    *("HR", "GT", "HQ", "original", "original_png", "image_SRF_4", "image_SRF_2", "image_SRF_3"),
    *("GTmod4", "GTmod6", "GTmod8", "GTmod12", "GTmod24"),
)


def known(name: str) -> DatasetInfo | None:
    """The dataset meant by `name`, by its name or another one; case, dashes and underscores do not matter."""
    wanted = _plain(name)
    for info in DATASETS.values():
        if wanted in {_plain(each) for each in (info.name, *info.aliases)}:
            return info
    return None


def spellings(name: str) -> set[str]:
    """The plain forms of all names that a folder of this dataset may have."""
    info = known(name)
    return {_plain(name)} if info is None else {_plain(each) for each in (info.name, *info.aliases)}


def is_inner_folder(name: str, dataset: str) -> int | None:
    """Rank of a folder called `name` as the place of the ground truth inside that of `dataset`; None for another."""
    own = [f"{dataset}_train_HR", f"{dataset}_HR", *INNER_FOLDERS]
    ranks = {_plain(each): rank for rank, each in reversed(list(enumerate(own)))}
    return ranks.get(_plain(name))


def same_folder(name: str, spelled: set[str]) -> bool:
    return _plain(name) in spelled


def stem_key(stem: str) -> str:
    """What is compared of a file's stem: without case, punctuation and a trailing _HR, _GT or _SRF_4_HR.

    `img001`, `IMG_001` and `img_001_SRF_4_HR` are all `img_001` of Urban100. A number is compared as a number: `01` is
    `1`.
    """
    stem = re.sub(r"(_srf_\d)?[-_](hr|gt)$", "", stem.lower())
    key = re.sub(r"[^a-z0-9]", "", stem)
    return key.lstrip("0") if key.isdecimal() else key


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).casefold()
