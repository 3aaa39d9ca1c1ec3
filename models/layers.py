"""What both networks are made of: layers of tokens, window attention, feed-forwards, the selective scan.

Tokens are [B, H, W, C] throughout; where layers are given `Tokens` (models.ops.fusion), they return such. Names of
parameters are the official ones, so that official state dicts load unchanged.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.ops.attention import window_attention
from models.ops.common.dispatch import kernels_allowed
from models.ops.depthwise import convolve
from models.ops.fusion import Convolved, Normed, Projected, Tokens, gelu, linear, recomputed
from models.ops.linear import linear as linear_layer
from models.ops.norm import layer_norm
from models.ops.scan import Prompt, attentive_scan
from models.ops.scan.prompts import prompts_of_pixels

# --- layers of tokens --------------------------------------------------------------------------------------------


class Linear(nn.Linear):
    """A linear layer, of tensors or of tokens."""

    def __call__(self, x: Tensor | Tokens) -> Tensor | Tokens:
        if not isinstance(x, Tokens):
            return super().__call__(x)
        return Projected(x, self.weight, self.bias) if x.waits else Tokens(super().__call__(x.read()), False)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution, which is a linear layer of tokens under the official name and shape of its weight."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)

    def __call__(self, x: Tokens) -> Tokens:
        return Projected(x, self.weight.flatten(1), self.bias) if x.waits else Tokens(super().__call__(x.read()), False)


class LayerNorm(nn.LayerNorm):
    """LayerNorm of the channels of tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(self, x)

    def __call__(self, x: Tensor | Tokens) -> Tensor | Tokens:
        if not isinstance(x, Tokens):
            return super().__call__(x)
        return Normed(x, self) if x.waits else Tokens(super().__call__(x.read()), False)


class Depthwise(nn.Conv2d):
    """A depthwise convolution of tokens that keeps height and width, and what follows it (see models.ops.depthwise)."""

    def __init__(self, channels: int, kernel: int, then: str) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.then = then

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """x, gate [B, H, W, C] -> [B, H, W, C]."""
        return convolve(self, x, self.then, gate)


def conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1)


def on_tokens(module: nn.Module, x: Tensor) -> Tensor:
    """Runs an NCHW module on tokens, [B, H, W, C] -> [B, H', W', C']: a channels-last view, which costs no copy."""
    return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def convolved(module: nn.Module, x: Tokens) -> Tokens:
    """The same of `Tokens`, whose 3x3 convolutions may run in kernels (models.ops.conv3x3)."""
    return Convolved(x, module) if x.waits else Tokens(on_tokens(module, x.read()), False)


# --- window attention --------------------------------------------------------------------------------------------


class WindowAttention(nn.Module):
    """Multi-head attention inside w x w windows; shifted ones start w // 2 pixels further down and right."""

    def __init__(self, dim: int, window: int, heads: int, shifted: bool) -> None:
        super().__init__()
        self.window, self.heads, self.shifted = window, heads, shifted
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.proj = Linear(dim, dim)

    def forward(self, qkv: Tokens, mask: Tensor) -> Tokens:
        """qkv [B, H, W, 3C], mask of `shift_mask`; H and W are multiples of the window. Returns [B, H, W, C]."""
        shape = {"window": self.window, "heads": self.heads, "shifted": self.shifted}
        values = window_attention(qkv.read(), self.relative_position_bias_table, mask, **shape)
        return self.proj(Tokens(values, qkv.waits))


# --- feed-forward networks ---------------------------------------------------------------------------------------


class ConvFFN(nn.Module):
    """fc2(u + GELU(depthwise(u))) with u = GELU(fc1 x): of every variant but light."""

    def __init__(self, dim: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(dim, hidden), Linear(hidden, dim)
        self.dwconv = nn.ModuleDict({"depthwise_conv": nn.Sequential(Depthwise(hidden, kernel, "gelu"), nn.GELU())})

    def forward(self, x: Tokens) -> Tokens:
        """[B, H, W, C] -> [B, H, W, C]. On a GPU u is kept for the backward pass, nothing after it."""
        return self.fc2(recomputed(self.dwconv["depthwise_conv"][0], gelu(self.fc1(x))))


class GatedFFN(nn.Module):
    """fc2(GELU(u) * depthwise 5x5(LayerNorm(GELU(v)))) with [u, v] = fc1 x: of the light variant."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(dim, hidden), Linear(hidden // 2, dim)
        self.sg = nn.ModuleDict({"norm": LayerNorm(hidden // 2), "conv": Depthwise(hidden // 2, 5, "gate")})

    def forward(self, x: Tokens) -> Tokens:
        """[B, H, W, C] -> [B, H, W, C]. On a GPU [u, v] is kept for the backward pass; in float32 nothing after it."""
        uv = self.fc1(x)
        if uv.read().dtype == torch.bfloat16:  # two tensors like u more: at most 9 % of a step's memory
            return self.fc2(Tokens(self.gate(uv.read()), uv.waits))
        return self.fc2(recomputed(self.gate, uv))

    def gate(self, uv: Tensor) -> Tensor:
        """[u, v] [B, H, W, hidden] -> [B, H, W, hidden / 2]."""
        u, v = uv.chunk(2, -1)
        return self.sg["conv"](layer_norm(self.sg["norm"], v, gelu=True), gate=u)


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
    ready: Callable[[], None] = lambda: None,
    target: str = "C",
    memory: int | None = None,
) -> Tensor:
    """Scans u [B, L, E] in every direction of `module` and sums the outputs at their pixels: [B, L, E].

    order int64 [B, K, L] or None (raster): the pixel visited at each step. target: what the prompt is added to, C, B,
    delta (before its bias and softplus) or y; to C inside the scan, where kernels are allowed. memory: steps after
    which the state starts anew, None for never.
    Projections are linear per token, so they are taken in pixel order. The scan takes u and what autocast makes of them
    as they are; its state is float32 (float64 for u in float64), its result, of every direction, has the type of u.
    """
    directions, d_inner, dt_rank = module.dt_projs_weight.shape
    d_state, added = module.A_logs.shape[1], None
    if prompt is not None and not (target == "C" and kernels_allowed()):
        ready()
        prompt, added = None, prompts_of_pixels(prompt, order)  # [B, K, L, d]
    u = Tokens(u)
    projected = linear(u, module.x_proj_weight.flatten(0, 1)).read()  # [B, L, K (R + 2N)]
    projected = projected.unflatten(-1, (directions, -1)).transpose(1, 2)  # [B, K, L, R + 2N]
    delta, B, C = projected.split([dt_rank, d_state, d_state], -1)
    if directions == 1:
        delta = linear_layer(delta, module.dt_projs_weight[0])  # [B, 1, L, E]
    else:
        delta = delta @ module.dt_projs_weight.transpose(1, 2)  # [B, K, L, E]
    inputs = {"delta": delta, "B": B, "C": C}
    ready()
    if added is not None and target in inputs:
        inputs[target] = inputs[target] + added
    y = attentive_scan(
        u.read(),
        A=-module.A_logs.exp().unflatten(0, (directions, d_inner)),
        D=module.Ds.unflatten(0, (directions, d_inner)),
        delta_bias=module.dt_projs_bias,
        order=order,
        prompt=prompt,
        backend=backend,
        memory=memory,
        **inputs,
    )  # [B, K, L, E]
    if added is not None and target == "y":
        y = y + added
    return y.sum(1) if directions > 1 else y.squeeze(1)
