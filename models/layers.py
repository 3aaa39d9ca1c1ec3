"""What both networks are made of: window attention, feed-forwards, the selective scan and its projections.

Tokens are [B, H, W, C] throughout. A convolution reads them through `on_tokens` as a channels-last NCHW view, which
costs no copy. Names of parameters are the official ones, so that official state dicts load unchanged.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from models.ops.attention import window_attention
from models.ops.common.dispatch import kernels_allowed, recomputed
from models.ops.conv3x3 import chosen_products, convolve3x3, in_kernels
from models.ops.depthwise import convolve
from models.ops.linear import forked_linear, linear
from models.ops.norm import layer_norm
from models.ops.scan import Prompt, attentive_scan


def conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def depthwise(channels: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    """A depthwise convolution that keeps height and width (odd kernels)."""
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2 * dilation, dilation=dilation, groups=channels)


def on_tokens(module: nn.Module, x: Tensor, residual: Tensor | None = None, *, fused: bool = False) -> Tensor:
    """Runs an NCHW module on tokens, [B, H, W, C] -> [B, H', W', C'], and adds the residual.

    fused: 3x3 convolutions, also those of a sequence, run in kernels where these are chosen (models.ops.conv3x3).
    """
    products = chosen_products(x) if fused else None
    if products is not None:
        if isinstance(module, nn.Sequential) and len(module):
            *before, module = module
            for step in before:
                x = on_tokens(step, x, fused=True)
        if in_kernels(module):
            return convolve3x3(module, x, residual, products)
    y = module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return y if residual is None else y + residual


def without_autocast(x: Tensor) -> AbstractContextManager:
    """The context in which operations on x's device keep their inputs' types (the meta device has no autocast)."""
    kind = x.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


# --- window attention --------------------------------------------------------------------------------------------


class WindowAttention(nn.Module):
    """Multi-head attention inside w x w windows; shifted ones start w // 2 pixels further down and right."""

    def __init__(self, dim: int, window: int, heads: int, shifted: bool) -> None:
        super().__init__()
        self.window, self.heads, self.shifted = window, heads, shifted
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.proj = nn.Linear(dim, dim)

    def forward(self, qkv: Tensor, mask: Tensor, fused: bool, residual: Tensor | None = None) -> Tensor:
        """qkv [B, H, W, 3C], mask of `shift_mask`; H and W are multiples of the window. [B, H, W, C], plus residual."""
        shape = {"window": self.window, "heads": self.heads, "shifted": self.shifted}
        table, backend = self.relative_position_bias_table, "auto" if fused else "plain"
        out = window_attention(qkv, table, mask, **shape, backend=backend)
        return linear(out, self.proj.weight, self.proj.bias, residual=residual, fused=fused)


# --- feed-forward networks ---------------------------------------------------------------------------------------


class FeedForward(nn.Module):
    """x + fc2(mix(fc1 norm(x))) + skip scale."""

    gelu = False  # whether GELU follows fc1 at once; else `mix` begins with it

    def __init__(self, dim: int, hidden: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(inner, dim)

    def forward(self, x: Tensor, norm: nn.LayerNorm, skip: Tensor, scale: Tensor, fused: bool) -> Tensor:
        """x, skip [B, H, W, C], scale [C] -> [B, H, W, C]. On a GPU x and what fc1 gives are kept for the backward."""
        u, x = forked_linear(x, self.fc1.weight, self.fc1.bias, 1, norm=norm, gelu=self.gelu, fused=fused)
        out = self.fc2.weight, self.fc2.bias
        after = {"residual": x, "skip": skip, "scale": scale, "fused": fused}
        return recomputed(lambda u: linear(self.mix(u, fused), *out, **after), u, fused=fused)


class ConvFFN(FeedForward):
    """mix(v) = u + GELU(depthwise(u)) with u = GELU(v): of every variant but light."""

    gelu = True  # every tap of the convolution reads u

    def __init__(self, dim: int, hidden: int, kernel: int) -> None:
        super().__init__(dim, hidden, hidden)
        self.dwconv = nn.ModuleDict({"depthwise_conv": nn.Sequential(depthwise(hidden, kernel), nn.GELU())})

    def mix(self, u: Tensor, fused: bool) -> Tensor:
        """u [B, H, W, hidden], after GELU -> the same shape."""
        return convolve(self.dwconv["depthwise_conv"][0], u, "gelu", fused=fused)


class GatedFFN(FeedForward):
    """mix([u, v]) = GELU(u) * depthwise 5x5(LayerNorm(GELU(v))): of the light variant."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(dim, hidden, hidden // 2)
        self.sg = nn.ModuleDict({"norm": nn.LayerNorm(hidden // 2), "conv": depthwise(hidden // 2, 5)})

    def mix(self, u: Tensor, fused: bool) -> Tensor:
        """[u, v] [B, H, W, hidden] -> [B, H, W, hidden / 2]."""
        u, v = u.chunk(2, -1)
        v = layer_norm(self.sg["norm"], v, gelu=True, fused=fused)
        return convolve(self.sg["conv"], v, "gate", u, fused=fused)


# --- selective scan ----------------------------------------------------------------------------------------------


def add_scan_parameters(module: nn.Module, directions: int, d_inner: int, d_state: int, dt_rank: int) -> None:
    """Gives `module` the parameters that `selective_scan` reads: every direction its own, official names and shapes."""
    module.x_proj_weight = nn.Parameter(torch.empty(directions, dt_rank + 2 * d_state, d_inner))
    module.dt_projs_weight = nn.Parameter(torch.empty(directions, d_inner, dt_rank))
    module.dt_projs_bias = nn.Parameter(torch.empty(directions, d_inner))
    module.A_logs = nn.Parameter(torch.empty(directions * d_inner, d_state))
    module.Ds = nn.Parameter(torch.empty(directions * d_inner))


def selective_scan(
    module: nn.Module,
    u: Tensor,
    *,
    order: Tensor | None,
    backend: str,
    prompt: Prompt | None = None,
    added: tuple[str, Tensor] | None = None,
    memory: int | None = None,
) -> Tensor:
    """Scans u [B, L, E] in every direction of `module` and sums the outputs at their pixels: [B, L, E].

    order int64 [B, K, L] or None (raster): the pixel visited at each step. `prompt` is added to C inside the scan;
    `added` names what a prompt given in pixel order [B, K, L, dim] is added to: B, C, delta or y. memory: steps after
    which the state starts anew, None for never.
    Projections are linear per token, so they are taken in pixel order. The scan takes u and what autocast makes of them
    as they are; its state is float32 (float64 for u in float64), its result, of every direction, has the type of u.
    """
    directions, d_inner, dt_rank = module.dt_projs_weight.shape
    d_state, fused = module.A_logs.shape[1], backend != "reference" and kernels_allowed()
    projected, u = forked_linear(u, module.x_proj_weight.flatten(0, 1), None, 1, fused=fused)  # [B, L, K (R + 2N)]
    projected = projected.unflatten(-1, (directions, -1)).transpose(1, 2)  # [B, K, L, R + 2N]
    delta, B, C = projected.split([dt_rank, d_state, d_state], -1)
    if directions == 1:
        delta = linear(delta, module.dt_projs_weight[0], fused=fused)  # [B, 1, L, E]
    else:
        delta = delta @ module.dt_projs_weight.transpose(1, 2)  # [B, K, L, E]
    inputs = {"delta": delta, "B": B, "C": C}
    target, value = added or (None, None)
    if target in inputs:
        inputs[target] = inputs[target] + value
    y = attentive_scan(
        u,
        A=-module.A_logs.exp().unflatten(0, (directions, d_inner)),
        D=module.Ds.unflatten(0, (directions, d_inner)),
        delta_bias=module.dt_projs_bias,
        order=order,
        prompt=prompt,
        backend=backend,
        memory=memory,
        **inputs,
    )  # [B, K, L, E]
    if target == "y":
        y = y + value
    return y.sum(1) if directions > 1 else y.squeeze(1)


def column_major(height: int, width: int, device: torch.device) -> Tensor:
    """int64 [H W]: pixels (raster numbers) in the order of columns, each from top to bottom."""
    return torch.arange(height * width, device=device).view(height, width).t().flatten()
