"""Perceptual metrics of restored pictures, by piq (Apache-2.0): LPIPS and DISTS, both of VGG16's features.

They are beside the protocol: nothing here is stored, or stands in a table of the paper. piq needs torchvision, as
spandrel does (`suites.peers`), and weights that it downloads when a metric is made; both are the extra `perceptual`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from suites.data import find
from suites.data.degradations import luma_uint8, modcrop
from suites.data.pictures import as_rgb, list_pictures, load_picture
from suites.environment import not_importable
from suites.spec import SpecError, Task, check_choice

METRICS = ("lpips", "dists")  # 0 for equal pictures, and lower is better
Metric = Callable[[Tensor, Tensor], Tensor]


def make(name: str) -> Metric:
    """piq's metric of two RGB pictures [1, 3, H, W] in 0..1. Raises SpecError, with what is missing and from where."""
    check_choice("metric", name, METRICS)
    try:
        import piq
        from torchvision.models import VGG16_Weights
    except Exception as error:
        raise not_importable("piq", "perceptual", error) from error
    kind = {"lpips": piq.LPIPS, "dists": piq.DISTS}[name]
    try:
        return kind().eval()
    except OSError as error:  # of the download
        files = ", ".join([kind._weights_url, VGG16_Weights.IMAGENET1K_V1.url])
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise SpecError(f"the weights of {name} cannot be downloaded ({error}): put {files} into {folder}") from error


def measure(
    folder: Path,
    sets: Sequence[str],
    task: Task,
    names: Sequence[str],
    *,
    device: str = "cpu",
    data: Path | None = None,
    progress: Callable[[str, int, int, str], None] | None = None,
    make: Callable[[str], Metric] = make,
) -> list[dict[str, Any]]:
    """A row (dataset, image, and each metric by name) per picture in <folder>/<dataset>/, as `evaluate --save-images`
    writes them, against the ground truth in RGB; gray is repeated.

    Raises SpecError for a set of which nothing is there, a picture that is not of the set or has another size, and as
    `make`; DataError for a picture that cannot be read.
    """
    metrics = {name: make(name) for name in names}
    for metric in metrics.values():
        if isinstance(metric, torch.nn.Module):
            metric.to(device)
    rows = []
    for name in sets:
        dataset = find(name, data)
        place = folder / dataset.name
        restored = list_pictures(place) if place.is_dir() else {}
        if not restored:
            raise SpecError(f"{place} holds no restored pictures: evaluate --save-images {folder} writes them")
        for done, (stem, path) in enumerate(restored.items(), 1):
            if stem not in dataset.files:
                raise SpecError(f"{path} is no picture of {dataset.name}")
            pair = load_picture(path), _truth(task, dataset.load(stem).pixels)
            if pair[0].shape[:2] != pair[1].shape[:2]:
                raise SpecError(
                    f"{path} has {pair[0].shape[:2]} pixels, and the truth of {task.name} {pair[1].shape[:2]}"
                )
            x, y = (_tensor(one).to(device) for one in pair)
            with torch.no_grad():
                found = {metric: float(function(x, y)) for metric, function in metrics.items()}
            rows.append({"dataset": dataset.name, "image": stem, **found})
            if progress is not None:
                progress(dataset.name, done, len(restored), stem)
    return rows


def _truth(task: Task, pixels: np.ndarray) -> np.ndarray:
    if task.kind == "jpeg" and pixels.ndim == 3:
        return luma_uint8(pixels)
    return modcrop(pixels, task.scale)


def _tensor(pixels: np.ndarray) -> Tensor:
    return rearrange(torch.from_numpy(as_rgb(pixels).astype(np.float32) / 255), "h w c -> 1 c h w")


def means(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per set: how many pictures, and the mean of each metric."""
    sets = dict.fromkeys(row["dataset"] for row in rows)
    parts = {name: [row for row in rows if row["dataset"] == name] for name in sets}
    return [
        {"dataset": name, "images": len(own), **{key: float(np.mean([row[key] for row in own])) for key in names}}
        for name, own in parts.items()
    ]
