"""Local attribution maps: which pixels of the input a 16 x 16 window of the output comes from (Gu and Dong, CVPR 2021).

    x_t          the input blurred by a Gaussian whose sigma falls from 1.2 to 0 in 50 steps, kernel 9 x 9
    F(x)         sum over the window of the magnitudes of the output's gradients, of every channel by itself
    attribution  sum over t of dF/dx at x_t, times x_t - x_{t-1}: integrated gradients along the path of blurs
    map          |sum of the attribution over channels| / its maximum
    DI           (1 - Gini coefficient of the map) x 100: 0 is one pixel alone, 100 all pixels alike

Parameters and details are those of the authors' published code (X-Lowlevel-Vision/LAM_Demo, SaliencyModel): derivatives
of the path are differences to the step before, images are mirrored without their edge, gradients of the output are
differences to the pixel below and to the one on the right, and the absolute value is taken after the sum over channels.
Where an output is flat the square root in F has no gradient; it is 0 here, where the published code gets NaN and drops
the step for every pixel that the NaN reaches.

By the fundamental theorem a sum of attributions is F(x) - F(x_0) up to the error of 50 steps, if dF/dx is the gradient
of F. In MambaIRv2 it is not quite: classes of pixels jump along the path, and their router has a straight-through
gradient. `Attribution.gap` says how far off the sum is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import Tensor, nn

from suites.analysis import interventions
from suites.analysis.gradients import differentiated
from suites.analysis.interventions import Intervention, applied
from suites.analysis.recording import draws
from suites.analysis.spec import Analysis, Context, Measured, Pair
from suites.data.degradations import bicubic_luma, lr_pil, luma_uint8
from suites.data.pictures import as_rgb
from suites.spec import SpecError

SIGMA, FOLD, KERNEL = 1.2, 50, 9
WINDOW = 16  # pixels of the output on a side
CROP = 256  # pixels of ground truth on a side that a window is looked at in
PIXELS = {"cpu": 1, "cuda": 2**15}  # of the input that are differentiated at once; on a CPU a step of the path alone
SIGMA_OFFSET = 1e-5  # added to every sigma, because the last is 0
MAP_OFFSET = 1e-7  # added to every value of which a Gini coefficient is taken
SHARES = (0.5, 0.9, 0.99)
COLUMNS = {
    "top": "first row of the window in the picture, pixels",
    "left": "first column of the window in the picture, pixels",
    "height": "of the low-resolution crop, pixels",
    "width": "of the low-resolution crop, pixels",
    "di": "diffusion index, 0..100",
    "reach50": "low-resolution pixels around the window within which half of the map lies",
    "reach90": "the same of 90 %",
    "reach99": "the same of 99 %",
    "start": "F of the blurred crop",
    "end": "F of the crop",
    "gap": "sum of attributions less end - start, over end",
}


def analyses(network: nn.Module, only: str | None = None) -> list[Analysis]:
    """The network as it is and, with `only`, under the interventions whose names match globs by commas.

    Raises SpecError for a glob that fits none, and for an intervention that gives the network a sort key.
    """
    path = {"window": WINDOW, "crop": CROP, "sigma": SIGMA, "fold": FOLD, "kernel": KERNEL, "lr_route": "pil"}
    question = "which pixels of the input does a window of the output come from?"
    found = []
    for one in interventions.chosen(network, only) if only else [interventions.BASE]:
        if one.labels != "learned":
            raise SpecError(f"{one.name} hands the network a sort key, which maps have no use for: leave it out")
        parameters, drawn = {**path, "intervention": one.name}, one.drawn or (one.draws and draws(network))
        found.append(Analysis("lam", question, partial(measure, one), COLUMNS, parameters, drawn))
    return found


def measure(intervention: Intervention, network: nn.Module, pair: Pair, context: Context) -> Measured:
    """The map of the hardest window of an image, in a crop around it, whole; the map is the array "map/<seed>".

    Raises SpecError for another task than super-resolution.
    """
    scale = context.task.scale
    if context.task.kind != "sr":
        raise SpecError(f"local attribution maps are of super-resolution, not of {context.task.name}")
    truth = as_rgb(pair.truth)
    gray = pair.truth if pair.truth.ndim == 2 else luma_uint8(truth)
    picked = hardest(gray, bicubic_luma(pair.truth, scale))
    rows, columns, window = around(picked, truth.shape[:2], scale, CROP)
    image = lr_pil(truth[rows, columns], scale).transpose(2, 0, 1) / 255
    common = {"top": picked.top, "left": picked.left, "height": image.shape[1], "width": image.shape[2]}
    found, arrays = [], {"window": np.array([window.top, window.left, window.size, scale])}
    for seed in context.seeds:
        with applied(intervention, network, seed), differentiated(network, context, seed, pair.stem) as function:
            path = {"sigma": SIGMA, "fold": FOLD, "size": KERNEL, "device": context.device}
            path["together"] = max(1, PIXELS[context.device.type] // image[0].size)
            one = attribute(function, image, lambda y: magnitudes(y, window), **path)
        arrays[f"map/{seed or 0}"] = one.map.astype(np.float32)
        reached = {f"reach{100 * share:.0f}": reach(one.map, window, scale, share) for share in SHARES}
        own = {"di": diffusion_index(one.map), **reached, "start": one.start, "end": one.end, "gap": one.gap}
        found.append({"seed": seed, **common, **own})
    return Measured(pd.DataFrame(found), arrays)


@dataclass(frozen=True)
class Window:
    """A square of the output: its first row and column, and its side, in pixels."""

    top: int
    left: int
    size: int = WINDOW


@dataclass(frozen=True)
class Attribution:
    """values float64 [C, H, W]: attribution of every input value. start, end: F of the blurred input and of it."""

    values: np.ndarray
    start: float
    end: float

    @property
    def map(self) -> np.ndarray:
        """float64 [H, W] in 0..1; all 0 where nothing has an attribution."""
        summed = np.abs(self.values.sum(0))
        return summed / summed.max() if summed.max() > 0 else summed

    @property
    def gap(self) -> float:
        """How far the attributions' sum is from F(x) - F(x_0), over F(x); NaN for F(x) = 0."""
        return float((self.values.sum() - (self.end - self.start)) / self.end) if self.end else float("nan")


def kernels(sigma: float, fold: int, size: int) -> np.ndarray:
    """float64 [fold + 1, size, size]: Gaussians of sum 1, sigma falling linearly to 0 (a single 1 in the middle)."""
    offset = np.arange(size) - size // 2
    squares = offset[:, None] ** 2 + offset**2
    widths = np.linspace(sigma, 0, fold + 1) + SIGMA_OFFSET
    found = np.exp(-squares / (2 * widths[:, None, None] ** 2))
    return found / found.sum((1, 2), keepdims=True)


def blurred(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """image [C, H, W] filtered channel by channel, mirrored without its edge, in float64."""
    return np.stack([ndimage.correlate(channel, kernel, mode="mirror") for channel in image.astype(np.float64)])


def magnitudes(output: Tensor, window: Window) -> Tensor:
    """F [B] of output [B, C, sH, sW]."""
    down = output[..., :-1, :-1] - output[..., 1:, :-1]
    right = output[..., :-1, :-1] - output[..., :-1, 1:]
    rows, columns = (slice(first, first + window.size) for first in (window.top, window.left))
    steps = torch.stack([down[..., rows, columns], right[..., rows, columns]])
    return torch.linalg.vector_norm(steps, dim=0).sum((1, 2, 3))  # its gradient at 0 is 0


def attribute(
    network: Callable[[Tensor], Tensor],
    image: np.ndarray,
    objective: Callable[[Tensor], Tensor],
    *,
    sigma: float = SIGMA,
    fold: int = FOLD,
    size: int = KERNEL,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    together: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Attributions of `image` float [C, H, W] for F = objective(network(input [B, C, H, W])), values [B].

    network: differentiable in its input, the same function at every call, and of every image by itself. together:
    steps of the path that go through it at once, B. progress: (steps done, steps in all).
    """
    path = np.stack([blurred(image, kernel) for kernel in kernels(sigma, fold, size)])  # [fold + 1, C, H, W]
    with torch.no_grad():
        start = objective(network(_input(path[:1], dtype, device))).item()
    values, end = np.zeros(image.shape), start
    for first in range(1, fold + 1, together):
        part = slice(first, min(first + together, fold + 1))
        x = _input(path[part], dtype, device).requires_grad_()
        reached = objective(network(x))
        (gradients,) = torch.autograd.grad(reached.sum(), x)
        steps = path[part] - path[first - 1 : part.stop - 1]
        for gradient, step in zip(gradients.double().cpu().numpy(), steps, strict=True):
            values += gradient * step
        end = reached[-1].item()
        if progress is not None:
            progress(part.stop - 1, fold)
    return Attribution(values, start, end)


def _input(images: np.ndarray, dtype: torch.dtype, device: str | torch.device) -> Tensor:
    return torch.from_numpy(images).to(device, dtype)


def gini(values: np.ndarray) -> float:
    """The Gini coefficient of values of at least 0, each plus MAP_OFFSET as in the authors' code, 0 of equal ones."""
    ordered = np.sort(values.astype(np.float64), axis=None) + MAP_OFFSET
    rank, count = np.arange(1, ordered.size + 1), ordered.size
    return float(((2 * rank - count - 1) * ordered).sum() / (count * ordered.sum()))


def diffusion_index(found: np.ndarray) -> float:
    """DI in 0..100 of a map [H, W]."""
    return (1 - gini(found)) * 100


def reach(found: np.ndarray, window: Window, scale: int, share: float) -> float:
    """Input pixels around the window's own within which the map [H, W] has `share` of its sum; NaN for an empty map.

    The distance to the nearest input pixel of the window (`scale` output pixels make one), along rows or columns,
    whichever is longer: 0 is the window itself.
    """
    if found.sum() == 0:
        return float("nan")

    def outside(first: int, count: int) -> np.ndarray:
        own, last = first // scale, (first + window.size - 1) // scale
        at = np.arange(count)
        return np.maximum(np.maximum(own - at, at - last), 0)

    height, width = found.shape
    distance = np.maximum(outside(window.top, height)[:, None], outside(window.left, width))
    held = np.cumsum(np.bincount(distance.ravel(), weights=found.ravel()))
    return float(np.searchsorted(held, share * held[-1] * (1 - 1e-12)))


def hardest(truth: np.ndarray, simple: np.ndarray, size: int = WINDOW) -> Window:
    """The window that is hardest to restore: where `simple` has the largest squared error, on a grid of `size` pixels.

    truth, simple: luma [H, W] of ground truth and of its bicubic restoration. The authors' code asks its user for one.
    """
    error = (truth.astype(np.float64) - simple) ** 2
    rows, columns = ((side - 1) // size for side in error.shape)  # one pixel is left below and on the right
    if min(rows, columns) < 1:
        raise ValueError(f"a picture of {error.shape} pixels has no window of {size}")
    blocks = error[: rows * size, : columns * size].reshape(rows, size, columns, size).sum((1, 3))
    row, column = np.unravel_index(blocks.argmax(), blocks.shape)
    return Window(int(row) * size, int(column) * size, size)


def around(window: Window, shape: tuple[int, int], scale: int, side: int) -> tuple[slice, slice, Window]:
    """Rows and columns of a crop of at most `side` pixels with the window in its middle, and the window within it.

    The crop lies inside `shape` (height, width) and begins and ends at multiples of `scale`.
    """
    slices, first = [], []
    for at, length in zip((window.top, window.left), shape, strict=True):
        whole = length - length % scale
        kept = min(side - side % scale, whole)
        start = min(max(at + window.size // 2 - kept // 2, 0), whole - kept)
        start -= start % scale
        slices.append(slice(start, start + kept))
        first.append(at - start)
    return slices[0], slices[1], Window(first[0], first[1], window.size)
