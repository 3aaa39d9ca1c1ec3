"""The networks by name: their variants, and how one is built from a name or an official options block."""

from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any

from models.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

# Official keys that change nothing in these networks, and those of which only one value is supported.
WITHOUT_EFFECT = ("img_size", "patch_size", "use_checkpoint")
FIXED = {"qkv_bias": True, "ape": False, "patch_norm": True, "drop_rate": 0}

# By class: the module of models/ that has it, and its arguments as `Config`.
NETWORKS = {"MambaIRv2": "mambairv2", "MambaIR": "mambair"}

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

# By name: the network's class, and the arguments in which the variant differs from its defaults.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mambairv2-light": ("MambaIRv2", LIGHT),
    "mambairv2-small": ("MambaIRv2", SMALL),
    "mambairv2-base": ("MambaIRv2", BASE),
    "mambairv2-large": ("MambaIRv2", LARGE),
    "mambairv2-tiny": ("MambaIRv2", TINY),
    "mambair": ("MambaIR", MAMBAIR),
    "mambair-light": ("MambaIR", MAMBAIR_LIGHT),
}


def names() -> list[str]:
    """Names that `build` knows."""
    return list(VARIANTS)


def configure(name: str, **overrides: Any) -> Any:
    """The arguments of a catalogue network, checked: its `Config`. Raises as `build` does, and builds nothing."""
    return _configure(*_variant(name), overrides)


def build(name: str, backend: str = "auto", **overrides: Any) -> "nn.Module":
    """A network of the catalogue, for x2 unless `overrides` say otherwise; `backend` is that of the scan.

    Its arguments: `models.mambairv2.Config` and `models.mambair.Config`. Raises ModelError for an unknown name or a
    value that no network has, TypeError for an unknown argument.
    """
    network, arguments = _variant(name)
    return _build(network, arguments, backend, overrides)


def from_official(network_g: Mapping[str, Any], backend: str = "auto", **overrides: Any) -> "nn.Module":
    """The network of an official `network_g` block: `type` is MambaIRv2, MambaIRv2Light or MambaIR.

    Keys left out have the official class's defaults. The block and `overrides` may hold arguments of this suite too;
    official keys without effect are accepted. Raises ModelError for another type or a value that no network here has,
    TypeError for any other key.
    """
    network, given, overrides = _official(network_g, overrides)
    return _build(network, given, backend, overrides)


def official_config(network_g: Mapping[str, Any]) -> Any:
    """The arguments of that network, checked: its `Config`. Raises as `from_official`, and builds nothing."""
    network, given, _ = _official(network_g, {})
    return _configure(network, given, {})


def _official(network_g: Mapping[str, Any], overrides: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
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
    if kind == "MambaIRv2Light":
        given.setdefault("ffn", "gated")
    return "MambaIR" if kind == "MambaIR" else "MambaIRv2", given, overrides


def check_name(name: str) -> None:
    """Raises ModelError for a name that `build` does not know, without a wait for torch."""
    _variant(name)


def _variant(name: str) -> tuple[str, dict[str, Any]]:
    if name not in VARIANTS:
        close = get_close_matches(name, VARIANTS, 1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ModelError(f"unknown model {name!r}{hint}: the catalogue has {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _build(network: str, variant: Mapping[str, Any], backend: str, overrides: Mapping[str, Any]) -> "nn.Module":
    config = _configure(network, variant, overrides)
    return getattr(import_module(f"models.{NETWORKS[network]}"), network)(config, backend)


def _configure(network: str, variant: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    """The `Config` of a network with a variant's arguments, changed by `overrides`."""
    config, arguments = import_module(f"models.{NETWORKS[network]}").Config, {**variant, **overrides}
    if network == "MambaIRv2" and "pool_rank" not in arguments:
        # An unfactored pool starts with the spread of the variant's own rank.
        arguments["pool_rank"] = variant.get("inner_rank") or config.pool_rank
    known = [field.name for field in fields(config)]
    if "routing" not in known:
        arguments.pop("routing", None)  # accepted for every network, and without effect where nothing is routed
    for name in arguments:
        if name not in known:
            raise TypeError(f"{network} has no argument {name!r}: it knows backend, {', '.join(known)}")
    return config(**arguments)
