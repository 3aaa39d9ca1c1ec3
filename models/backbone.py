"""The backbone of both networks: image to tokens, groups of layers, tokens to the restored image; and its checks.

Functions rather than a base class: official state dicts want `conv_first`, `layers`, `upsample`, ... at the top level.
"""

import math

import torch
from torch import Tensor, nn

from models.errors import ModelError
from models.layers import LayerNorm, conv3x3, convolved
from models.ops.fusion import Tokens

RGB_MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K's training images
HEAD_FEATURES = 64  # channels of the pixelshuffle head


def flip_pad(x: Tensor, multiple: int) -> Tensor:
    """Mirrors [..., H, W] at the bottom and right up to multiples of `multiple`, as often as a small image needs."""
    for dim in (-2, -1):
        target = math.ceil(x.shape[dim] / multiple) * multiple
        while x.shape[dim] < target:
            x = torch.cat([x, x.flip(dim)], dim)
        x = x.narrow(dim, 0, target)
    return x


def residual_conv(dim: int, resi_connection: str) -> nn.Module:
    """The convolution at the end of a group and of the body: `1conv`, or the leaner `3conv`."""
    if resi_connection == "1conv":
        return conv3x3(dim, dim)
    return nn.Sequential(
        conv3x3(dim, dim // 4),
        nn.LeakyReLU(0.2),
        nn.Conv2d(dim // 4, dim // 4, 1),
        nn.LeakyReLU(0.2),
        conv3x3(dim // 4, dim),
    )


class Group(nn.Module):
    """Layers, then a convolution, plus the group's input. `kind` is the official name of the list: layers or blocks."""

    def __init__(self, layers: list[nn.Module], dim: int, resi_connection: str, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.residual_group = nn.ModuleDict({kind: nn.ModuleList(layers)})
        self.conv = residual_conv(dim, resi_connection)

    def forward(self, x: Tensor, context: object) -> Tensor:
        """x [B, H, W, C] -> [B, H, W, C]."""
        y = x
        for layer in self.residual_group[self.kind]:
            y = layer(y, context)
        return (Tokens(x) + convolved(self.conv, Tokens(y))).read()


def head(upsampler: str, dim: int, upscale: int, channels: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    """(conv_before_upsample, upsample, conv_last); what a head lacks is an Identity, which has no state."""
    if upsampler == "":
        return nn.Identity(), nn.Identity(), conv3x3(dim, channels)
    if upsampler == "pixelshuffledirect":
        up = nn.Sequential(conv3x3(dim, channels * upscale**2), nn.PixelShuffle(upscale))
        return nn.Identity(), up, nn.Identity()
    factors = [3] if upscale == 3 else [2] * (upscale.bit_length() - 1)
    steps = [m for f in factors for m in (conv3x3(HEAD_FEATURES, HEAD_FEATURES * f * f), nn.PixelShuffle(f))]
    before = nn.Sequential(conv3x3(dim, HEAD_FEATURES), nn.LeakyReLU())
    return before, nn.Sequential(*steps), conv3x3(HEAD_FEATURES, channels)


def add_backbone(network: nn.Module, config: object, groups: list[Group]) -> None:
    """Gives `network` the parts that `restore` runs; `config` holds the official arguments."""
    dim, channels = config.embed_dim, config.in_chans
    mean = torch.tensor(RGB_MEAN if channels == 3 else [0.0] * channels)
    network.register_buffer("mean", mean.view(-1, 1, 1), persistent=False)
    network.conv_first = conv3x3(channels, dim)
    network.patch_embed = nn.ModuleDict({"norm": LayerNorm(dim)})
    network.layers = nn.ModuleList(groups)
    network.norm = LayerNorm(dim)
    network.conv_after_body = residual_conv(dim, config.resi_connection)
    network.conv_before_upsample, network.upsample, network.conv_last = head(
        config.upsampler, dim, config.upscale, channels
    )


def restore(network: nn.Module, image: Tensor, context: object) -> Tensor:
    """image [B, C, H, W] in 0..1 -> [B, C, sH, sW]: the way through a network with the parts of `add_backbone`."""
    config = network.config
    x = (image.to(network.conv_first.weight.dtype) - network.mean) * config.img_range
    shallow = network.conv_first(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)  # [B, H, W, C]
    deep = network.patch_embed["norm"](shallow)
    for group in network.layers:
        deep = group(deep, context)
    y = Tokens(shallow) + convolved(network.conv_after_body, Tokens(network.norm(deep)))
    for module in (network.conv_before_upsample, network.upsample, network.conv_last):
        y = convolved(module, y)
    y = y.read().permute(0, 3, 1, 2)  # [B, C, sH, sW]
    if config.upsampler == "":
        y = y + x
    return y / config.img_range + network.mean


def check_image(image: Tensor, channels: int) -> None:
    """Raises ModelError unless `image` is a floating [B, channels, H, W] with at least one pixel."""
    if not (isinstance(image, Tensor) and image.dim() == 4 and image.is_floating_point()):
        what = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise ModelError(f"the input must be a floating-point tensor [batch, channels, height, width], not {what}")
    if image.shape[1] != channels:
        raise ModelError(f"the input has {image.shape[1]} channels, this network reads {channels}")
    if image.numel() == 0:
        raise ModelError(f"the input {list(image.shape)} holds no pixel")


def check_backbone(config: object) -> None:
    """Raises ModelError for arguments of the backbone that no network can be built with."""
    for name in ("upscale", "in_chans", "embed_dim", "d_state"):
        check_count(name, getattr(config, name))
    for name in ("mlp_ratio", "img_range"):
        value = getattr(config, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise ModelError(f"{name} must be a positive number, not {value!r}")
    if config.embed_dim * config.mlp_ratio == math.inf:
        raise ModelError(f"embed_dim * mlp_ratio must be a finite number, and mlp_ratio is {config.mlp_ratio!r}")
    check_choice("upsampler", config.upsampler, ("", "pixelshuffle", "pixelshuffledirect"))
    check_choice("resi_connection", config.resi_connection, ("1conv", "3conv"))
    if config.upsampler == "" and config.upscale != 1:
        raise ModelError(f"without an upsampler nothing is enlarged: upscale must be 1, not {config.upscale}")
    if config.upsampler == "pixelshuffle" and config.upscale != 3 and config.upscale & (config.upscale - 1):
        raise ModelError(f"the pixelshuffle head enlarges by 3 or a power of 2, not by {config.upscale}")


def check_count(name: str, value: object) -> None:
    """Raises ModelError unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"{name} must be a whole number of at least 1, not {value!r}")


def as_counts(name: str, value: object) -> tuple[int, ...]:
    """`value` as a tuple. Raises ModelError unless it is a list or tuple of at least one count, one for every group."""
    if not isinstance(value, list | tuple) or not value:
        raise ModelError(f"{name} must list a whole number for every group, not {value!r}")
    for entry in value:
        check_count(f"every entry of {name}", entry)
    return tuple(value)


def check_choice(name: str, value: object, choices: tuple) -> None:
    """Raises ModelError naming every value that `name` may have."""
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise ModelError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
