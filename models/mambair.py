"""MambaIR (v1), the four-direction baseline: no window attention, no prompts, no sorting, and no padding.

Symbols as in mambairv2.py. E = int(mlp_ratio * C), R = ceil(C / 16), K = 4 directions in the official order raster,
columns, raster reversed, columns reversed.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbone import Group, add_backbone, as_counts, check_backbone, check_image, restore
from models.capabilities import Capabilities
from models.errors import ModelError
from models.initial import initialise
from models.layers import Depthwise, LayerNorm, add_scan_parameters, conv3x3, on_tokens, selective_scan
from models.ops.common.dispatch import without_kernels
from models.ops.scan.permutation import column_major

DIRECTIONS = 4
SQUEEZE = 30  # of the channel attention


@dataclass(frozen=True)
class Config:
    """Arguments of MambaIR: official names and defaults, meanings as in `models.mambairv2.Config`.

    drop_path_rate: rate of stochastic depth at the last block, growing linearly from 0 at the first; training only.
    Raises ModelError for values that no network has.
    """

    upscale: int = 2
    in_chans: int = 3
    embed_dim: int = 96
    d_state: int = 16
    depths: tuple[int, ...] = (6, 6, 6, 6)
    mlp_ratio: float = 2.0
    drop_path_rate: float = 0.1
    upsampler: str = ""
    resi_connection: str = "1conv"
    img_range: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", as_counts("depths", self.depths))
        object.__setattr__(self, "upsampler", self.upsampler or "")
        check_backbone(self)
        if self.embed_dim < SQUEEZE:
            raise ModelError(f"embed_dim must be at least {SQUEEZE} (the channel attention's), not {self.embed_dim}")
        if int(self.embed_dim * self.mlp_ratio) < 1:
            raise ModelError(f"mlp_ratio {self.mlp_ratio} leaves no channel to scan")
        if not 0 <= self.drop_path_rate < 1:
            raise ModelError(f"drop_path_rate must lie in [0, 1), not {self.drop_path_rate}")


@dataclass(frozen=True)
class Context:
    """What one forward pass hands to every block: orders int64 [4, L] of the directions, and the scan's backend."""

    directions: Tensor
    backend: str


class Scan2D(nn.Module):
    """SS2D: four scans of SiLU(depthwise(u)), summed at their pixels, gated by SiLU(z)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        dim, d_inner = config.embed_dim, int(config.mlp_ratio * config.embed_dim)
        self.in_proj = nn.Linear(dim, 2 * d_inner, bias=False)
        self.conv2d = Depthwise(d_inner, 3, "silu")
        add_scan_parameters(self, DIRECTIONS, d_inner, config.d_state, math.ceil(dim / 16))
        self.out_norm = LayerNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, dim, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x [B, H, W, C] -> [B, H, W, C]."""
        batch, height, width, _ = x.shape
        u, z = self.in_proj(x).chunk(2, -1)  # [B, H, W, E] each
        u = self.conv2d(u).reshape(batch, height * width, -1)  # [B, L, E]
        order = context.directions.expand(batch, -1, -1)  # [B, 4, L]
        y = selective_scan(self, u, order=order, backend=context.backend).unflatten(1, (height, width))
        return self.out_proj(self.out_norm(y) * F.silu(z))


def depthwise(channels: int, dilation: int = 1) -> nn.Conv2d:
    """A depthwise 3x3 convolution that keeps height and width."""
    return nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, groups=channels)


class ChannelAttention(nn.Module):
    """x times a weight per channel that its mean decides; NCHW."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        squeezed = dim // SQUEEZE
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(dim, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, dim, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class ConvBlock(nn.Module):
    """CAB: two 3x3 convolutions and channel attention; the light one has 1x1 and depthwise convolutions instead."""

    def __init__(self, dim: int, light: bool) -> None:
        super().__init__()
        if light:
            half = dim // 2
            convs = [nn.Conv2d(dim, half, 1), depthwise(half), nn.GELU()]
            convs += [nn.Conv2d(half, dim, 1), depthwise(dim, dilation=2)]
        else:
            convs = [conv3x3(dim, dim // 3), nn.GELU(), conv3x3(dim // 3, dim)]
        self.cab = nn.Sequential(*convs, ChannelAttention(dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, H, W, C] -> [B, H, W, C]."""
        return on_tokens(self.cab, x)


class Block(nn.Module):
    """The scan and the convolutions, each on its norm and with a scaled residual."""

    def __init__(self, config: Config, drop_rate: float) -> None:
        super().__init__()
        dim = config.embed_dim
        self.drop_rate = drop_rate
        self.ln_1, self.ln_2 = LayerNorm(dim), LayerNorm(dim)
        self.self_attention = Scan2D(config)
        self.conv_blk = ConvBlock(dim, light=config.upsampler == "pixelshuffledirect")
        self.skip_scale, self.skip_scale2 = nn.Parameter(torch.empty(dim)), nn.Parameter(torch.empty(dim))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x [B, H, W, C] -> [B, H, W, C]."""
        scanned = drop_path(self.self_attention(self.ln_1(x), context), self.drop_rate if self.training else 0.0)
        x = torch.addcmul(scanned, x, self.skip_scale)  # scanned + x scale
        return torch.addcmul(self.conv_blk(self.ln_2(x)), x, self.skip_scale2)


def drop_path(x: Tensor, rate: float) -> Tensor:
    """Drops whole samples of x [B, ...] with probability `rate` and scales the others so that the mean stays."""
    if rate == 0:
        return x
    kept = torch.rand(x.shape[0], *[1] * (x.dim() - 1), device=x.device) >= rate
    return x * kept / (1 - rate)


def drop_rates(config: Config) -> Iterator[float]:
    """Rate of every block, from 0 to drop_path_rate."""
    return iter(torch.linspace(0, config.drop_path_rate, sum(config.depths), device="cpu").tolist())


class MambaIR(nn.Module):
    """The network. A new one has the initial values of seed 0. `backend` (of the scan) may be changed at any time."""

    def __init__(self, config: Config, backend: str = "auto") -> None:
        super().__init__()
        self.config, self.backend = config, backend
        rates = drop_rates(config)
        groups = [
            Group([Block(config, next(rates)) for _ in range(n)], config.embed_dim, config.resi_connection, "blocks")
            for n in config.depths
        ]
        add_backbone(self, config, groups)
        initialise(self, 0)

    @property
    def configuration(self) -> dict[str, Any]:
        """Everything that `from_official` needs to build this network again, JSON-able."""
        return {"type": "MambaIR", **asdict(self.config)}

    @property
    def capabilities(self) -> Capabilities:
        config = self.config
        return Capabilities(
            recordable=True,
            stochastic_depth=config.drop_path_rate > 0,
            upscale=config.upscale,
            channels=config.in_chans,
        )

    def forward(self, x: Tensor, labels: None = None) -> Tensor:
        """x [B, C, H, W] in 0..1 -> [B, C, sH, sW]. Raises ModelError for labels or a misfit."""
        check_image(x, self.config.in_chans)
        if labels is not None:
            raise ModelError("labels are the sort key of MambaIRv2; MambaIR does not sort")
        height, width = x.shape[2:]
        raster, columns = torch.arange(height * width, device=x.device), column_major(height, width, x.device)
        directions = torch.stack([raster, columns, raster.flip(0), columns.flip(0)])
        with without_kernels(self.backend == "reference"):
            return restore(self, x, Context(directions, self.backend))
