"""Window attention as it is defined, in plain PyTorch, with the bias and the mask that are added to its scores."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

# --- bias and mask -------------------------------------------------------------------------------------------------


def relative_position_index(window: int) -> Tensor:
    """int64 [w^2, w^2]: row of the bias table for (query, key), (dy + w - 1)(2w - 1) + dx + w - 1."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def relative_position_bias(table: Tensor, window: int) -> Tensor:
    """table[relative_position_index(window)]: [(2w - 1)^2, heads] -> [heads, w^2, w^2].

    Written without an index: the backward of one adds with atomics, that of padding and slicing in a fixed order.
    """
    reach = 2 * window - 1

    def spread(x: Tensor) -> Tensor:
        """One axis of offsets into two: y[query, key] = x[query - key + w - 1]; [..., 2w - 1] -> [..., w, w]."""
        rows = x.unsqueeze(-2).expand(*x.shape[:-1], window, reach).flatten(-2)  # every query's copy, end to end
        skewed = F.pad(rows, (0, window)).unflatten(-1, (window, reach + 1))  # row q is now x moved left by q
        return skewed[..., :window].flip(-1)

    offsets = table.t().unflatten(1, (reach, reach))  # [heads, dy, dx]
    columns = spread(offsets).permute(0, 2, 3, 1)  # [heads, query x, key x, dy]
    return rearrange(spread(columns), "heads qx kx qy ky -> heads (qy qx) (ky kx)")


def shift_mask(window: int) -> Tensor:
    """[2, 2, w^2, w^2]: what a shifted window adds to its scores, by (is in the last row, is in the last column).

    The roll that shifts the windows by w // 2 puts pixels of opposite borders side by side in the last row and column
    of windows; -100 (official, not -inf) keeps them apart. No other window is affected, so four masks serve any size.
    """
    far = (torch.arange(window) >= window - window // 2).long()  # came round from the other border
    mask = torch.empty(2, 2, window**2, window**2)
    for row in (0, 1):
        for column in (0, 1):
            region = (2 * row * far[:, None] + column * far[None, :]).flatten()  # [w^2]
            mask[row, column] = (region[:, None] != region[None, :]) * -100.0
    return mask


# --- attention ----------------------------------------------------------------------------------------------------


def window_attention(
    qkv: Tensor, table: Tensor, mask: Tensor, window: int, heads: int, shifted: bool, fused: bool
) -> Tensor:
    """qkv [B, H, W, 3C], table [(2w - 1)^2, heads], mask of `shift_mask` -> [B, H, W, C].

    fused: the same by PyTorch's scaled_dot_product_attention. If shifted, the image is rolled; windows of the last row
    and column have masks of their own and are therefore attended separately from the others.
    """
    bias = relative_position_bias(table, window)
    if not shifted:
        return attend_windows(qkv, bias, window, heads, fused)
    shift = window // 2
    qkv = qkv.roll((-shift, -shift), (1, 2))
    height, width = qkv.shape[1] - window, qkv.shape[2] - window  # start of the last row and column
    rows = []
    for row, band in enumerate(qkv.tensor_split([height], 1)):
        parts = [
            attend_windows(part, bias + mask[row, column], window, heads, fused)
            for column, part in enumerate(band.tensor_split([width], 2))
            if part.numel()
        ]
        rows += [torch.cat(parts, 2)] if parts else []
    return torch.cat(rows, 1).roll((shift, shift), (1, 2))


def attend_windows(qkv: Tensor, bias: Tensor, window: int, heads: int, fused: bool) -> Tensor:
    """Attention inside every window: qkv [B, H, W, 3C], bias [heads, w^2, w^2] -> [B, H, W, C]."""
    height, width = qkv.shape[1] // window, qkv.shape[2] // window
    pattern = "b (nh wh) (nw ww) (three heads d) -> three (b nh nw) heads (wh ww) d"
    q, k, v = rearrange(qkv, pattern, three=3, heads=heads, wh=window, ww=window)
    if fused:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
    else:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias  # [B nh nw, heads, w^2, w^2]
        out = scores.softmax(-1) @ v
    return rearrange(out, "(b nh nw) heads (wh ww) d -> b (nh wh) (nw ww) (heads d)", nh=height, nw=width, wh=window)
