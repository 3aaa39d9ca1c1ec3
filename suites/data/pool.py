"""The training images, decoded and degraded once, held in memory, and the batches cut from them.

On a GPU the images stay there as uint8 and patches are gathered there from 24 bytes of address each; else a background
thread cuts them ahead of time. Either way a step waits for no data, and both ways give the same batch.
"""

import copy
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from models.ops.noise import noise_key
from suites import degradation_file
from suites.data import degradations
from suites.data import sort_keys as semantics
from suites.data.sampling import draw_noise, draw_patches
from suites.spec import Task

MEMORY_SHARE = 0.5  # of the free GPU memory that images may take; if they need more they stay in host memory


@dataclass(frozen=True)
class Batch:
    """What one step reads, on the device of the network. P is the side of the LR patch, s the scale."""

    lq: Tensor  # float32 [B, C, P, P], channels last in memory; 0..1, beyond it by the noise of the denoising task
    gt: Tensor  # float32 [B, C, sP, sP], channels last in memory, 0..1
    keys: Tensor  # int64 [B], keys of the routing noise of every sample (64 bits, two's complement)
    labels: Tensor | None  # int64 [B, P, P], external semantics

    def parts(self, count: int) -> list["Batch"]:
        """`count` equal parts in order: what gradients are accumulated over."""
        fields = (self.lq, self.gt, self.keys, self.labels)
        split = ([None] * count if field is None else field.chunk(count) for field in fields)
        return [Batch(*part) for part in zip(*split, strict=True)]


@dataclass(frozen=True)
class Plane:
    """One kind of picture (LQ, GT or labels) of all images: their pixels as rows, image after image."""

    pixels: Tensor  # uint8 or int16 [n, C]
    factor: int  # its size over the LR size

    @classmethod
    def empty(cls, lr_pixels: int, factor: int, channels: int, dtype: torch.dtype, device: torch.device) -> "Plane":
        return cls(torch.empty((lr_pixels * factor**2, channels), dtype=dtype, device=device), factor)

    def put(self, lr_offset: int, image: np.ndarray) -> None:
        rows = torch.from_numpy(np.require(image, requirements=("C", "W")).reshape(-1, self.pixels.shape[1]))
        self.pixels[lr_offset * self.factor**2 :][: len(rows)] = rows

    def cut(self, views: np.ndarray, side: int) -> Tensor:
        """On the host: [B, side, side, C] from `views` int64 [B, 3], the result of `Patches.strides`."""
        rows = self.pixels.numpy()
        patches = np.empty((len(views), side, side, rows.shape[1]), rows.dtype)
        for patch, view in zip(patches, views * rows.strides[0], strict=True):
            base, down, right = map(int, view)
            patch[:] = np.ndarray(patch.shape, rows.dtype, rows, base, (down, right, rows.itemsize))
        return torch.from_numpy(patches)

    def gather(self, views: Tensor, side: int) -> Tensor:
        """The same on the device of the pixels, by one gather."""
        along = torch.arange(side, device=views.device)
        base, down, right = views[:, :, None, None].unbind(1)  # [B, 1, 1] each
        return self.pixels[base + along[:, None] * down + along * right]


def training_pair(task: Task, image: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """(lq, gt) uint8 [H, W, C] of a full image uint8 [H, W, 3]; lq is None for denoising, whose noise is always fresh.

    SR: the image cropped at the top left to a multiple of the scale, and its LR by the MATLAB route. JPEG: the rounded
    luma and its compression, made once for the whole image: patches cut the 8x8 grid anywhere, as in stored LQ files.
    A user's function: cropped as for SR, made once.
    """
    if task.kind == "sr":
        gt = degradations.modcrop(image, task.scale)
        return degradations.lr_matlab(gt, task.scale), gt
    if task.kind == "custom":
        gt = degradations.modcrop(image, task.scale)
        return degradation_file.degraded(task, gt), gt
    if task.kind == "jpeg":
        achromatic = (image == image[..., :1]).all()  # a gray file, whose three channels are copies
        gray = image[..., 0].copy() if achromatic else degradations.luma_uint8(image)
        return degradations.jpeg(gray, task.level)[..., None], gray[..., None]
    return None, image


class Pool:
    """Training images of one task and the batches of one seed: `batch(fetch(step))`.

    images: uint8 [H, W, 3] each. labels: "kmeans" or "slic" makes external semantics of at most `tokens` classes for
    every LR image; None makes none. Images whose LR is smaller than the patch are left out, and a warning says how
    many. Raises ValueError when none is left, or for labels of a denoising task (its LQ image changes at every step).
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        task: Task,
        patch: int,
        batch: int,
        seed: int,
        device: torch.device,
        labels: str | None = None,
        tokens: int | None = None,
    ) -> None:
        if labels and task.kind == "denoise":
            raise ValueError(f"labels by {labels} are made once per LQ image, and {task.name} has a new one each time")
        self.task, self.patch, self.size, self.seed, self.device = task, patch, batch, seed, device
        self.white = torch.tensor(255.0, device=device)  # CUDA multiplies by the reciprocal of a number, rounding twice
        fitting = [image for image in images if min(image.shape[:2]) // task.scale >= patch]
        if len(fitting) < len(images):
            count = f"{len(images) - len(fitting)} of {len(images)} training images"
            warnings.warn(f"{count} are smaller than the patch ({patch} LR pixels) and are left out", stacklevel=2)
        if not fitting:
            raise ValueError(f"no training image is as large as the patch ({patch} LR pixels, {task.name})")
        sizes = np.array([image.shape[:2] for image in fitting], dtype=np.int64) // task.scale  # LR, [n, (H, W)]
        self.heights, self.widths = sizes.T.copy()
        ends = sizes.prod(axis=1).cumsum()
        self.offsets = ends - sizes.prod(axis=1)
        self.planes = self._planes(int(ends[-1]), bool(labels))

        def degrade(image: np.ndarray) -> dict[str, np.ndarray]:
            lq, gt = training_pair(task, image)
            made = {"gt": gt} if lq is None else {"gt": gt, "lq": lq}
            if labels:
                made["labels"] = semantics.make(labels, lq.astype(np.float32) / 255, tokens).astype(np.int16)
            return made

        with ThreadPoolExecutor(os.cpu_count()) as workers:
            for offset, made in zip(self.offsets, workers.map(degrade, fitting), strict=True):
                for name, plane in self.planes.items():
                    plane.put(offset, made[name])

    def sharing(self, seed: int, batch: int) -> "Pool":
        """The batches of another seed and size, cut from the same pictures in the same memory."""
        other = copy.copy(self)
        other.seed, other.size = seed, batch
        return other

    def _planes(self, lr_pixels: int, labels: bool) -> dict[str, Plane]:
        kinds = {"gt": (self.task.scale, self.task.channels, torch.uint8)}
        if self.task.kind != "denoise":
            kinds["lq"] = (1, self.task.channels, torch.uint8)
        if labels:
            kinds["labels"] = (1, 1, torch.int16)
        need = sum(lr_pixels * factor**2 * channels * dtype.itemsize for factor, channels, dtype in kinds.values())
        device = self.device
        if device.type == "cuda" and need > MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
            size = f"{need / 2**30:.1f} GiB"
            warnings.warn(f"the training images ({size}) would crowd {device}: kept in host memory", stacklevel=3)
            device = torch.device("cpu")
        return {name: Plane.empty(lr_pixels, *kind, device) for name, kind in kinds.items()}

    def fetch(self, step: int) -> dict[str, Tensor]:
        """The host's part of a step's batch, for any thread: patches (or where they are on the GPU), noise, keys."""
        patches = draw_patches(self.seed, step, self.size, self.heights, self.widths, self.patch)
        made = {}
        for name, plane in self.planes.items():
            views = patches.strides(self.offsets, self.widths, self.patch, plane.factor)
            on_host = plane.pixels.device.type == "cpu"
            made[name] = plane.cut(views, self.patch * plane.factor) if on_host else torch.from_numpy(views)
        if self.task.kind == "denoise":
            made["noise"] = torch.from_numpy(draw_noise(self.seed, step, (self.size, self.patch, self.patch, 3)))
        keys = [noise_key(self.seed, step, sample) for sample in range(self.size)]
        made["keys"] = torch.from_numpy(np.array(keys, dtype=np.uint64).view(np.int64))
        return {name: tensor.pin_memory() for name, tensor in made.items()} if self.device.type == "cuda" else made

    def batch(self, fetched: dict[str, Tensor]) -> Batch:
        """The batch on the network's device. Nothing here waits for the device."""
        made = {name: tensor.to(self.device, non_blocking=True) for name, tensor in fetched.items()}
        for name, plane in self.planes.items():
            if plane.pixels.device.type != "cpu":
                made[name] = plane.gather(made[name], self.patch * plane.factor)
        gt = rearrange(made["gt"], "b h w c -> b c h w").float() / self.white
        if self.task.kind == "denoise":
            lq = gt + rearrange(made["noise"], "b h w c -> b c h w") * (self.task.level / 255)
        else:
            lq = rearrange(made["lq"], "b h w c -> b c h w").float() / self.white
        labels = rearrange(made["labels"], "b h w 1 -> b h w").long() if "labels" in made else None
        return Batch(lq, gt, made["keys"], labels)
