"""The catalogue: networks by name, official configurations, weights.

    names()                              what `build` knows
    build(name, **overrides)             a network with the initial values of seed 0
    from_official(network_g, **overrides)  the same from an official options block
    initialise(model, seed)              the initial values of another seed
    load_weights(model, path_or_state)   strict
    weights_hash(model_or_path)          SHA-256, equal for a network and its file
    precision(name, device)              the context to run it in
    capabilities_of(network)             what it declares that it can do

Networks are called with (image [B, C, H, W] in 0..1, labels=None); `model.configuration` is what rebuilds them.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import nn

from models import mambair, mambairv2
from models.capabilities import Capabilities, capabilities_of
from models.checkpoints import load_weights, weights_hash
from models.errors import ModelError
from models.initial import initialise
from models.ops.common.precision import precision, unsupported

__all__ = [
    "Capabilities",
    "ModelError",
    "build",
    "capabilities_of",
    "from_official",
    "initialise",
    "load_weights",
    "names",
    "precision",
    "unsupported",
    "weights_hash",
]

# Official keys that change nothing in these networks, and those of which only one value is supported.
WITHOUT_EFFECT = ("img_size", "patch_size", "use_checkpoint")
FIXED = {"qkv_bias": True, "ape": False, "patch_norm": True, "drop_rate": 0}


def _mambairv2(variant: Mapping[str, Any], backend: str = "auto", **overrides: Any) -> nn.Module:
    """MambaIRv2 of a variant's arguments, changed by `overrides`."""
    arguments = {**variant, **overrides}
    if "pool_rank" not in arguments:  # an unfactored pool starts with the spread of the variant's own rank
        arguments["pool_rank"] = variant.get("inner_rank") or mambairv2.Config.pool_rank
    _check_arguments("MambaIRv2", arguments, mambairv2.Config)
    return mambairv2.MambaIRv2(mambairv2.Config(**arguments), backend)


def _mambair(variant: Mapping[str, Any], backend: str = "auto", **overrides: Any) -> nn.Module:
    """MambaIR of a variant's arguments, changed by `overrides`; `routing` is accepted and has no effect."""
    arguments = {**variant, **overrides}
    arguments.pop("routing", None)
    _check_arguments("MambaIR", arguments, mambair.Config)
    return mambair.MambaIR(mambair.Config(**arguments), backend)


def _check_arguments(network: str, arguments: Mapping[str, Any], config: type) -> None:
    known = [field.name for field in fields(config)]
    for name in arguments:
        if name not in known:
            raise TypeError(f"{network} has no argument {name!r}: it knows backend, {', '.join(known)}")


LIGHT = {
    "embed_dim": 48,
    "d_state": 8,
    "depths": (5, 5, 5, 5),
    "num_heads": (4, 4, 4, 4),
    "inner_rank": 32,
    "num_tokens": 64,
    "mlp_ratio": 1.0,
    "ffn": "gated",
    "upsampler": "pixelshuffledirect",
}
BASE = {
    "embed_dim": 174,
    "d_state": 16,
    "depths": (6,) * 6,
    "num_heads": (6,) * 6,
    "inner_rank": 64,
    "num_tokens": 128,
    "mlp_ratio": 2.0,
    "upsampler": "pixelshuffle",
}
SMALL = {**BASE, "embed_dim": 132, "depths": (4,) * 6, "num_heads": (4,) * 6}
LARGE = {**BASE, "depths": (6,) * 9, "num_heads": (6,) * 9}
TINY = {  # of the smoke suite and of tests: every part of light, in a few seconds on a CPU
    **LIGHT,
    "embed_dim": 12,
    "d_state": 4,
    "depths": (2,),
    "num_heads": (2,),
    "window_size": 8,
    "inner_rank": 4,
    "num_tokens": 8,
}
MAMBAIR = {"embed_dim": 180, "d_state": 16, "depths": (6,) * 6, "mlp_ratio": 2.0, "upsampler": "pixelshuffle"}
MAMBAIR_LIGHT = {
    "embed_dim": 60,
    "d_state": 10,
    "depths": (6,) * 4,
    "mlp_ratio": 1.2,
    "upsampler": "pixelshuffledirect",
}

BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mambairv2-light": partial(_mambairv2, LIGHT),
    "mambairv2-small": partial(_mambairv2, SMALL),
    "mambairv2-base": partial(_mambairv2, BASE),
    "mambairv2-large": partial(_mambairv2, LARGE),
    "mambairv2-tiny": partial(_mambairv2, TINY),
    "mambair": partial(_mambair, MAMBAIR),
    "mambair-light": partial(_mambair, MAMBAIR_LIGHT),
}


def names() -> list[str]:
    """Names that `build` knows."""
    return list(BUILDERS)


def build(name: str, **overrides: Any) -> nn.Module:
    """A network of the catalogue, for x2 unless `overrides` say otherwise; `backend` is that of the scan.

    Its arguments: `models.mambairv2.Config` and `models.mambair.Config`. Raises ModelError for an unknown name or a
    value that no network has, TypeError for an unknown argument.
    """
    if name not in BUILDERS:
        close = get_close_matches(name, BUILDERS, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ModelError(f"unknown model {name!r}{hint}: the catalogue has {', '.join(BUILDERS)}")
    return BUILDERS[name](**overrides)


def from_official(network_g: Mapping[str, Any], **overrides: Any) -> nn.Module:
    """The network of an official `network_g` block: `type` is MambaIRv2, MambaIRv2Light or MambaIR.

    Keys left out have the official class's defaults. The block and `overrides` may hold arguments of this suite too;
    official keys without effect are accepted. Raises ModelError for another type or a value that no network here has,
    TypeError for any other key.
    """
    given = {k: v for k, v in network_g.items() if k not in WITHOUT_EFFECT}
    kind = given.pop("type", None)
    if kind not in ("MambaIRv2", "MambaIRv2Light", "MambaIR"):
        raise ModelError(f"network type {kind!r} is not known: type must be MambaIRv2, MambaIRv2Light or MambaIR")
    overrides = {k: v for k, v in overrides.items() if k not in WITHOUT_EFFECT}
    for key, value in FIXED.items():
        for source in (given, overrides):
            if source.pop(key, value) != value:
                raise ModelError(f"{key} must be {value}: no published network has another, and none is built here")
    if not {**given, **overrides}.get("upsampler"):
        given.setdefault("upscale", 1)  # officially 2, and without effect where nothing is enlarged
    if kind == "MambaIR":
        return _mambair(given, **overrides)
    if kind == "MambaIRv2Light":
        given.setdefault("ffn", "gated")
    return _mambairv2(given, **overrides)
