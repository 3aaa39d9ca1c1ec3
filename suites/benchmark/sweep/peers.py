"""Other networks of the published tables, built by spandrel (an extra: `pip install spandrel spandrel-extra-arches`)
without weights, in the configurations of their papers.

`params` of a row is what is built here; the published figures are in `results/published/`.
"""

import importlib
from dataclasses import dataclass, field
from typing import Any

from torch import nn

import models
from suites import environment

PACKAGES = ("spandrel", "spandrel_extra_arches")  # their versions are kept with what is measured of them
SPANDREL, EXTRA = "spandrel.architectures", "spandrel_extra_arches.architectures"


def _six(groups: int) -> dict[str, Any]:
    """Groups of six layers with six heads each."""
    return {"depths": [6] * groups, "num_heads": [6] * groups}


@dataclass(frozen=True)
class Peer:
    """method: its name in the published tables, or as its paper has it. architecture: module and class of spandrel.

    window: what it pads its input to. scale: what it calls the factor. folded: parts of parameter names that are
    folded into others before inference, once, by its modules' `update_params`. in_place: it changes its input, and so
    is given a copy. It is built as `suites.network_file.NetworkFile` is.
    """

    method: str
    architecture: str
    arguments: dict[str, Any] = field(default_factory=dict, hash=False)
    window: int = 1
    scale: str = "upscale"
    package: str = SPANDREL
    folded: tuple[str, ...] = ()
    stochastic_depth: bool = False
    in_place: bool = False

    def build(self, upscale: int = 2) -> nn.Module:
        """[B, 3, H, W] in 0..1 -> [B, 3, sH, sW]. Raises ModelError where spandrel is not usable."""
        try:
            module = importlib.import_module(f"{self.package}.{self.architecture}")
        except (ImportError, RuntimeError) as error:  # torchvision raises RuntimeError beside another torch
            package = self.package.partition(".")[0]
            told = str(error).splitlines()[0]
            raise models.ModelError(f"{self.method} is built by {package}, which cannot be imported: {told}") from error
        network = getattr(module, self.architecture)(**self.arguments, **{self.scale: upscale})
        network.capabilities = models.Capabilities(
            multiple=self.window, upscale=upscale, channels=3, stochastic_depth=self.stochastic_depth
        )
        for part in network.modules() if self.folded else ():
            if hasattr(part, "update_params"):  # which would fold in every call
                part.update_params()
                part.update_params = _folded
        if self.in_place:
            network.register_forward_pre_hook(lambda _, inputs: (inputs[0].clone(), *inputs[1:]))
        return network

    def parameters(self, network: nn.Module) -> int:
        """Those of the network as it is used."""
        kept = (p for name, p in network.named_parameters() if not any(part in name for part in self.folded))
        return sum(parameter.numel() for parameter in kept)


def _folded() -> None:
    """In the place of what folds: it has."""


_LIGHT = {"embed_dim": 60, "mlp_ratio": 2, "upsampler": "pixelshuffledirect", **_six(4)}
_CLASSIC = {"embed_dim": 180, "mlp_ratio": 2, "upsampler": "pixelshuffle", **_six(6)}
_ATD = {"reducted_dim": 20, "num_tokens": 128, "category_size": 256, "convffn_kernel_size": 5, "window_size": 16}
_ATD_LIGHT = {"embed_dim": 48, "depths": [6] * 4, "num_heads": [4] * 4, "window_size": 16, "category_size": 128}
_ATD_LIGHT |= {"num_tokens": 64, "reducted_dim": 8, "convffn_kernel_size": 7, "mlp_ratio": 1}
_RGT = {"embed_dim": 180, "depth": [6] * 8, "num_heads": [6] * 8, "mlp_ratio": 2, "split_size": [8, 32]}
_DAT = {"embed_dim": 180, "depth": [6] * 6, "num_heads": [6] * 6, "expansion_factor": 4, "split_size": [8, 32]}
_CRAFT = {"embed_dim": 48, "depths": [2] * 4, "num_heads": [6] * 4, "split_size_0": 4, "split_size_1": 16}

PEERS = {
    "swinir-light": Peer("SwinIR-light", "SwinIR", {**_LIGHT, "window_size": 8}, 8, stochastic_depth=True),
    "srformer-light": Peer("SRFormer-light", "SRFormer", {**_LIGHT, "window_size": 16}, 16, package=EXTRA),
    "omnisr": Peer("OmniSR", "OmniSR", {"num_feat": 64, "res_num": 5, "block_num": 1}, 8, "up_scale"),
    "craft": Peer("CRAFT", "CRAFT", {**_CRAFT, "window_size": 16}, 16),
    "atd-light": Peer("ATD-light", "ATD", {**_ATD_LIGHT, "upsampler": "pixelshuffledirect"}, 16),
    "span": Peer("SPAN", "SPAN", {"num_in_ch": 3, "num_out_ch": 3, "norm": False}, folded=(".sk.", ".conv.")),
    "swinir": Peer("SwinIR", "SwinIR", {**_CLASSIC, "window_size": 8}, 8, stochastic_depth=True),
    "hat": Peer("HAT", "HAT", {**_CLASSIC, "window_size": 16}, 16, stochastic_depth=True),
    "dat": Peer("DAT", "DAT", _DAT, 32, stochastic_depth=True),
    "rcan": Peer("RCAN", "RCAN", scale="scale", in_place=True),
    "atd": Peer("ATD", "ATD", {**_CLASSIC, **_ATD, "embed_dim": 210}, 16),
    "rgt": Peer("RGT", "RGT", {**_RGT, "c_ratio": 0.5}, 32, stochastic_depth=True),
    "plksr": Peer("PLKSR", "PLKSR", {"dim": 64, "n_blocks": 28, "ccm_type": "DCCM"}, scale="upscaling_factor"),
}

# Parameters differ from the printed ones at x2 by more than rounding: at x4 DAT has the 14.8M printed for every factor.
DIFFERS = {"dat": 0.011}

# Methods of Tables 3 and 4 that have no network here.
_ABSENT = "spandrel does not have it"
MISSING = {
    **{name: _ABSENT for name in ("CARN", "LatticeNet", "ELAN", "EDSR", "SAN", "EDT", "CAT-A")},
    "IPT": "it takes patches of 48x48 only, so a picture is a batch of them: no cost against resolution",
}


def versions() -> dict[str, str | None]:
    return {package: environment.version(package) for package in PACKAGES}


@dataclass(frozen=True)
class PeerNetwork:
    """A peer for a factor, in the place of a `suites.network_file.NetworkFile`."""

    peer: Peer
    upscale: int

    def build(self) -> nn.Module:
        return self.peer.build(self.upscale)
