"""How released weights are related: which are trainings of their own, and which go on from others."""

from pathlib import Path

import pytest
import torch

from models.checkpoints import read_state

OFFICIAL, CHALLENGE = "mambairv2_lightSR_x4.pth", "ntire2025_team40_mambairv2light_x4.pth"


def weights(path: Path) -> torch.Tensor:
    """The matrices of all layers in one vector: what starts at random, unlike norms, skips and decays."""
    state = read_state(path)
    names = [name for name in sorted(state) if name.startswith("layers.") and name.endswith(".weight")]
    return torch.cat([state[name].double().flatten() for name in names if state[name].ndim > 1])


@pytest.mark.parametrize(
    ("other", "cosine", "distance"),
    [
        (CHALLENGE, (0.998, 1.0), (0.02, 0.08)),  # it goes on from the official weights: no second training
        ("mambairv2_lightSR_x2.pth", (-0.2, 0.2), (1.2, 1.6)),  # two trainings: near 0 and sqrt 2
    ],
)
def test_weights_are_as_near_as_their_trainings(shared, other, cosine, distance):
    own, its = weights(shared / "weights" / OFFICIAL), weights(shared / "weights" / other)
    found = float(torch.cosine_similarity(own, its, 0)), float((own - its).norm() / own.norm())
    assert cosine[0] <= found[0] <= cosine[1] and distance[0] <= found[1] <= distance[1]


@pytest.mark.parametrize("name", [OFFICIAL, "mambairv2_lightSR_x2.pth"])
def test_routers_are_as_wide_as_they_began(shared, name):
    """Matrices begin with a standard deviation of 0.02; those of attention have grown to six times that and more."""
    state = read_state(shared / "weights" / name)
    spread = {key: float(state[key].std()) for key in state if key.startswith("layers.") and key.endswith(".weight")}
    routers = [value for key, value in spread.items() if ".route." in key]
    assert len(routers) == 40 and min(routers) > 0.0186 and max(routers) < 0.0210
    assert min(value for key, value in spread.items() if key.endswith("wqkv.weight")) > 0.12
