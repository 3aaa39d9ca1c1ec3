"""Values of the switches: those that no network has are refused, the others build the network again."""

import pytest
import torch

import models
from models.mambairv2 import Config
from tests.models.test_switches import run, tiny


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(2, 3, 11, 13, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"scans": 3}, "scans must be one of 0, 1, 2, 4, not 3"),
        ({"ase": True}, "ase"),
        ({"sgn": "no"}, "sgn"),
        ({"prompt_target": "A"}, "prompt_target"),
        ({"prompt_order": "sorted"}, "prompt_order"),
        ({"routing": "softmax"}, "routing"),
        ({"prompt_sharing": "layer"}, "prompt_sharing"),
        ({"ffn": "mlp"}, "ffn"),
        ({"inner_rank": None, "prompt_sharing": "network"}, "unfactored"),
        ({"inner_rank": 0}, "inner_rank"),
        ({"num_tokens": 0}, "num_tokens"),
        ({"num_tokens": 2.0}, "num_tokens"),
        ({"num_heads": (5,)}, "12 does not divide into 5 heads"),
        ({"num_heads": (2, 2)}, "same number of groups"),
        ({"depths": ()}, "depths must list"),
        ({"depths": 2}, "depths must list"),
        ({"depths": (0,)}, "every entry of depths"),
        ({"num_heads": (2.0,)}, "every entry of num_heads"),
        ({"scans": 1.0}, "scans"),
        ({"mlp_ratio": "1"}, "mlp_ratio"),
        ({"img_range": 0}, "img_range"),
        ({"embed_dim": 2, "num_heads": (1,)}, "at least 3"),
        ({"mlp_ratio": 0.01}, "mlp_ratio"),
        ({"embed_dim": 13, "num_heads": (1,)}, "even"),
        ({"convffn_kernel_size": 4}, "odd"),
        ({"upscale": 6, "upsampler": "pixelshuffle"}, "power of 2"),
        ({"upscale": 2, "upsampler": ""}, "upscale must be 1"),
        ({"upsampler": "nearest+conv"}, "upsampler"),
        ({"resi_connection": "2conv"}, "resi_connection"),
    ],
    ids=lambda v: ",".join(map(str, v)) if isinstance(v, dict) else None,
)
def test_values_that_no_network_has_are_refused(overrides, message):
    with pytest.raises(models.ModelError, match=message):
        models.build("mambairv2-tiny", **overrides)


@pytest.mark.parametrize("attribute", ["routing", "prompt_order"])
def test_attributes_set_to_nonsense_are_refused_in_the_forward_pass(picture, attribute):
    network = tiny()
    setattr(network, attribute, "nonsense")
    with pytest.raises(models.ModelError, match=attribute):
        network(picture)


def test_configuration_rebuilds_the_network(picture):
    network = tiny(scans=2, prompt_target="B", inner_rank=None, prompt_order="semantic")
    again = models.from_official(network.configuration).eval()
    again.load_state_dict(network.state_dict())
    assert again.configuration == network.configuration
    assert torch.equal(run(again, picture), run(network, picture))
    assert Config(**{k: v for k, v in network.configuration.items() if k != "type"}) == again.config
