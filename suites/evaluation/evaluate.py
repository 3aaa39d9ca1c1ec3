"""Scores of a network, or of a baseline, on a set of images under a protocol: one row per image.

A score does not depend on the order of the images, nor on which others are scored with it: the routing noise is a
function of (seed, sample, image stem, tile), and nothing runs on from one image to the next.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

import models
from models.ops.common.precision import precision
from models.ops.noise import noise_key
from suites.data import DataError, Dataset, Picture
from suites.data import sort_keys as labelling
from suites.data.degradations import degrade
from suites.data.resize import imresize
from suites.evaluation import metrics, tiling
from suites.evaluation.crops import Kept
from suites.evaluation.tile_graphs import TileGraphs, forward
from suites.spec import BASELINES, Protocol, SpecError, Task, check_choice

LARGE = 2**24  # values of an input: 5.6 million pixels of colour, whose x4 result takes 1 GiB
COLUMNS = ("dataset", "image", "pixels", "psnr", "ssim", "psnr_single", "seconds")


class EvaluationError(RuntimeError):
    """A network that cannot be scored: it does not fit the task, or it gave no finite picture."""


def frame_of(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows of `score_images` as a frame with the columns of COLUMNS."""
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"psnr": float, "ssim": float, "psnr_single": float})


def score_images(
    model: nn.Module | str,
    task: Task,
    dataset: Dataset,
    protocol: Protocol,
    *,
    device: str | torch.device = "cpu",
    labels: str = "learned",
    pattern: str | None = None,
    save: Path | None = None,
    skip: Callable[[Picture], bool] = lambda picture: False,
    keep: Kept | None = None,
) -> Iterator[dict[str, Any]]:
    """Degrades, restores and scores every image of `dataset`: a row for each, as soon as it is scored.

    model: a network built for `task`, moved to `device`, or a baseline: "bicubic" (super-resolution) or "identity"
    (denoising, JPEG). labels: "learned", or who makes the sort key instead ("kmeans", "slic"). pattern: a glob that
    stems must fit. skip: says which images are left out. save: folder that gets `<dataset>/<stem>.png` for every
    restored image (a baseline's luma is a gray picture). keep: takes a crop of every picture.

    A row has the keys of COLUMNS: `pixels` is the SHA-256 of the ground truth's decoded pixels; `psnr` and `ssim` are
    of the mean of the samples, None where the images are identical or smaller than SSIM's window; `psnr_single` is the
    mean PSNR of the single samples, None when one of them is identical; `seconds` is the wall time of restoring, all
    samples together. Raises SpecError, DataError, MetricError, ModelError or EvaluationError.
    """
    graphs = None
    if isinstance(model, str):
        _check_baseline(model, task, protocol)
    else:
        graphs = TileGraphs(model, device)
    for picture in dataset.images(pattern):
        if skip(picture):
            continue
        name = f"{dataset.name}/{picture.stem}"
        try:
            lq, truth = degrade(task, picture.pixels, protocol.lr_route)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        start = time.perf_counter()
        if isinstance(model, str):
            outputs = [lq]
        else:
            how = {"device": device, "labels": labels, "graphs": graphs}
            outputs = list(samples(model, lq, protocol, picture.stem, **how))
            check_size(name, outputs[0], lq, task)
        seconds = time.perf_counter() - start
        output = mean(outputs)
        try:
            psnr, ssim = metrics.score(output, truth, protocol)
            single = [psnr] if len(outputs) == 1 else [metrics.score_psnr(one, truth, protocol) for one in outputs]
        except metrics.MetricError as error:
            raise metrics.MetricError(f"{name}: {error}") from None
        if save is not None:
            save_picture(metrics.quantise(output), Path(save) / dataset.name / f"{picture.stem}.png")
        if keep is not None:
            keep.keep(picture.stem, lq, output, truth, psnr)
        psnr_single = None if None in single else float(np.mean(single))
        values = dataset.name, picture.stem, picture.sha256, psnr, ssim, psnr_single, seconds
        yield dict(zip(COLUMNS, values, strict=True))


def samples(
    model: nn.Module,
    lq: np.ndarray,
    protocol: Protocol,
    stem: str,
    *,
    device: str | torch.device = "cpu",
    labels: str = "learned",
    graphs: TileGraphs | None = None,
    overlap: int = tiling.OVERLAP,
    told: Callable[[], object] = lambda: None,
) -> Iterator[np.ndarray]:
    """The restored image float32 [sH, sW, C], once per sample of the routing noise, of `lq` float32 [H, W, C] in 0..1.

    The noise of sample k and tile t has the key noise_key(protocol.seed, k, stem, t). Without noise (other routing than
    "gumbel", or a network that takes none) all samples would be equal, so there is one. The model's own noise source
    and mode are put back afterwards. graphs: of the model, for pictures that share tile sizes; overlap: of tiles, in
    percent; told: called after every tile. A device holds the picture and its result up to LARGE values of the input;
    of larger ones one tile. Raises SpecError when the model routes or prompts in another way than the protocol says, or
    has no use for labels; EvaluationError when memory runs out, or for an output that is not finite or does not fit.
    """
    _check_agreement(model, protocol)
    device = torch.device(device)
    home = device if lq.size <= LARGE else torch.device("cpu")
    x = rearrange(torch.from_numpy(np.ascontiguousarray(lq, dtype=np.float32)), "h w c -> 1 c h w").to(home)
    key = sort_key(model, lq, labels, home)
    run = graphs or partial(forward, model)
    sampled = protocol.routing == "gumbel" and models.capabilities_of(model).routed
    for sample in range(protocol.samples if sampled else 1):

        def network(part: Tensor, part_labels: Tensor | None, tile: tiling.Tile, sample: int = sample) -> Tensor:
            key = noise_key(protocol.seed, sample, stem, tile.index) if sampled else None
            y = run(part.to(device), None if part_labels is None else part_labels.to(device), key)
            told()
            return y.to(home)

        try:
            with inference(model, device, protocol.precision):
                output = tiling.run(network, x, key, protocol.tiling, overlap)
                output = rearrange(output, "1 c h w -> h w c").float().contiguous().cpu().numpy()
        except tiling.TilingError as error:
            raise EvaluationError(f"{stem}: {error}") from None
        except torch.OutOfMemoryError as error:
            asked = "; ".join(" ".join(str(error).split()).split(". ")[1:3])  # how much, and how much there is
            raise EvaluationError(
                f"{stem}: {lq.shape[0]}x{lq.shape[1]} pixels do not fit into the memory of {device} with tiling "
                f"{protocol.tiling}{asked and f' ({asked})'}: use official tiles, or smaller ones"
            ) from None
        if not np.isfinite(output).all():
            raise EvaluationError(f"{stem}: the network gave values that are not finite (in {protocol.precision})")
        yield np.ascontiguousarray(output)


def mean(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of float32 images, taken in float64; a single one comes back as it is."""
    if len(outputs) == 1:
        return outputs[0]
    return np.mean(outputs, axis=0, dtype=np.float64).astype(np.float32)


def restore(model: nn.Module, lq: np.ndarray, protocol: Protocol, stem: str, **how: Any) -> np.ndarray:
    """The mean of `samples`, to which `how` goes: float32 [sH, sW, C], neither clipped nor rounded."""
    return mean(list(samples(model, lq, protocol, stem, **how)))


def restore_picture(
    model: nn.Module,
    picture: np.ndarray,
    task: Task,
    protocol: Protocol,
    *,
    stem: str = "",
    **how: Any,
) -> np.ndarray:
    """A user's own picture, taken as the degraded image itself: uint8 in, uint8 of the same kind and sH x sW out.

    picture: gray [H, W], gray and alpha [H, W, 2], RGB [H, W, 3] or RGBA [H, W, 4]. A network of three channels gets a
    gray picture repeated, and the mean of its three channels is the gray result. Alpha never enters the network: it is
    enlarged by bicubic interpolation and attached again. how: as for `samples`. Raises DataError for colour given to a
    network of one channel, and for anything that is not such a picture; otherwise as `samples`.
    """
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.size == 0:
        raise DataError(f"a picture must be uint8 [H, W] or [H, W, channels], not {picture.dtype} {picture.shape}")
    pixels = picture[..., None] if picture.ndim == 2 else picture  # [H, W, 1..4]
    if pixels.shape[2] > 4:
        raise DataError(f"a picture has 1 to 4 channels (gray or RGB, with or without alpha), not {pixels.shape[2]}")
    colours = 1 if pixels.shape[2] < 3 else 3
    if colours > task.channels:
        raise DataError(f"{task.name} restores gray pictures and this one is in colour: convert it to gray first")
    lq = np.repeat(pixels[..., :colours], task.channels // colours, axis=2).astype(np.float32) / 255
    output = restore(model, lq, protocol, stem, **how)  # [sH, sW, task.channels]
    check_size(stem, output, lq, task)
    if colours < task.channels:
        output = output.mean(axis=2, keepdims=True)
    parts = [metrics.quantise(output)]
    if pixels.shape[2] > colours:
        alpha = pixels[..., -1:]
        parts.append(imresize(alpha, task.scale) if task.scale > 1 else alpha)
    restored = np.concatenate(parts, axis=2)
    return restored[..., 0] if picture.ndim == 2 else restored


def save_picture(picture: np.ndarray, path: Path, colour_profile: bytes | None = None) -> None:
    """Writes a uint8 picture [H, W] or [H, W, C] as PNG, atomically; its folder is made when missing.

    colour_profile: an ICC profile, stored with it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        Image.fromarray(picture).save(temporary, format="PNG", icc_profile=colour_profile)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sort_key(model: nn.Module, lq: np.ndarray, labels: str, device: torch.device) -> Tensor | None:
    """Labels int64 [1, H, W] of the whole LR image, or None where the network sorts by its own ("learned").

    Raises SpecError for labels given to a network that does not sort by class.
    """
    if labels == "learned":
        return None
    classes = models.capabilities_of(model).classes
    if classes is None:
        raise SpecError(f"labels by {labels} replace the sort key of MambaIRv2, which this network does not have")
    return torch.from_numpy(labelling.make(labels, lq, classes))[None].to(device)


@contextmanager
def inference(model: nn.Module, device: torch.device, name: str) -> Iterator[None]:
    """The model on `device`, in evaluation mode, without gradients, in a precision; mode and noise are put back.

    Not torch.inference_mode: what a network caches in it could not be used in training afterwards.
    """
    routed, training = models.capabilities_of(model).routed, model.training
    noise = model.noise if routed else None
    ready = _is_ready(model, device)
    if not ready:
        model.to(device).eval()
    try:
        current = torch.cuda.device(device if device.type == "cuda" else -1)  # where kernels run
        with current, torch.no_grad(), precision(name, device):
            yield
    finally:
        if not ready:
            model.train(training)
        if routed:
            model.noise = noise


def _is_ready(model: nn.Module, device: torch.device) -> bool:
    """Whether every part of the model is in evaluation mode and on `device`.

    `to`, `eval` and `train` take ten times as long to change nothing: 13 ms of every picture for the 728 modules of a
    light network, and `parameters` of each module three times as long as its dictionaries.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    for module in model.modules():
        tensors = (*module._parameters.values(), *module._buffers.values())
        if module.training or any(x is not None and x.device != device for x in tensors):
            return False
    return True


def check_size(name: str, output: np.ndarray, lq: np.ndarray, task: Task) -> None:
    """Raises EvaluationError when a network's output is not `task.scale` times as high and wide as its input."""
    expected = task.scale * lq.shape[0], task.scale * lq.shape[1]
    if output.shape[:2] != expected:
        raise EvaluationError(
            f"{name}: the network makes {output.shape[0]}x{output.shape[1]} pixels of {lq.shape[0]}x{lq.shape[1]}, "
            f"{task.name} needs {expected[0]}x{expected[1]}: build it for this task"
        )


def _check_agreement(model: nn.Module, protocol: Protocol) -> None:
    """Raises SpecError when the model would compute something else than the protocol states."""
    for name in models.capabilities_of(model).settings:
        own = getattr(model, name)
        if own != getattr(protocol, name):
            raise SpecError(
                f"the protocol says {name} {getattr(protocol, name)!r}, the model is set to {own!r}: give both the same"
            )


def _check_baseline(name: str, task: Task, protocol: Protocol) -> None:
    """Raises SpecError for a baseline that does not exist, does not fit the task, or another protocol than its own."""
    check_choice("baseline", name, BASELINES)
    if (name == "bicubic") != (task.kind == "sr") or (task.kind == "custom" and task.scale > 1):
        raise SpecError(
            f"{name} is no baseline of {task.name}: bicubic is for super-resolution, identity for the others"
        )
    if protocol != Protocol.baseline(task):
        raise SpecError(f"{name} is measured under its own protocol only: {Protocol.baseline(task).to_dict()}")
