"""Windows of scored pictures, for looking at: the degraded image, the restored one and the truth, as small PNG files.

    <evaluation record>/crops/<stem>/{degraded,bicubic,restored,truth}.png, crop.json
    results/measured/<machine>/crops/<record>/<stem>/...                      the same, committed

crop.json says what they are of: the record's key, the window, and what PROVENANCE names. Pictures of redistributed sets
are never stored: `suites.evaluation.crops` refuses them.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from results import measured, records
from results.records import StoreError
from results.store import EVALUATIONS, Store

FOLDER, FILE = "crops", "crop.json"
VIEWS = ("degraded", "bicubic", "restored", "truth")
FACTS = (
    "model",
    "file",
    "task",
    "dataset",
    "image",
    "psnr",
    "window",
    "protocol",
    "command",
    "commit",
    "device",
    "date",
)


@dataclass(frozen=True)
class Crop:
    """facts: FACTS; window is [top, left, height, width] in the truth. views: PNG by name of VIEWS; bicubic for sr."""

    facts: dict[str, Any]
    views: dict[str, bytes]
    committed: bool


def write(folder: Path, image: str, views: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
    """Files one crop beside the record in `folder`, in place of an earlier one. views: uint8 [h, w] or [h, w, 3].

    Raises StoreError.
    """
    target = folder / FOLDER / image
    for name, pixels in views.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
        records.write_bytes(target / f"{name}.png", buffer.getvalue())
    records.write_json(target / FILE, {name: facts[name] for name in FACTS})


def load(store: Store, committed: Path | None = None) -> list[Crop]:
    """The crops of a store, then what is committed for pictures that it has none of. What is damaged is left out."""
    own = list(_read(store.root.glob(f"{EVALUATIONS}/*/{FOLDER}/*/{FILE}"), False))
    known = {_of(crop) for crop in own}
    folder = measured.FOLDER if committed is None else committed
    others = _read(folder.glob(f"*/{FOLDER}/*/*/{FILE}"), True)
    return [*own, *(crop for crop in others if _of(crop) not in known)]


def _of(crop: Crop) -> tuple[Any, ...]:
    return tuple(str(crop.facts[name]) for name in ("model", "file", "task", "dataset", "image", "protocol"))


def _read(paths: Iterator[Path], committed: bool) -> Iterator[Crop]:
    for path in sorted(paths):
        try:
            facts = records.read_json(path)
            views = {name: path.with_name(f"{name}.png").read_bytes() for name in VIEWS if _there(path, name)}
        except (StoreError, OSError):
            continue
        if set(FACTS) <= set(facts) and {"restored", "truth"} <= set(views):
            yield Crop(facts, views, committed)


def _there(path: Path, name: str) -> bool:
    return path.with_name(f"{name}.png").is_file()
