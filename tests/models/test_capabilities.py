"""What networks declare is what they do."""

import pytest
import torch
from torch import nn

import models
from models import Capabilities, ModelError, capabilities_of


@pytest.mark.parametrize("name", models.names())
def test_every_network_of_the_catalogue_declares_itself(name):
    with torch.device("meta"):
        network = models.build(name, upscale=4, in_chans=1)
    can = capabilities_of(network)
    attentive = name.startswith("mambairv2")
    assert (can.upscale, can.channels) == (4, 1)
    assert can.routed == can.compiles == hasattr(network, "noise") == hasattr(network, "compiled") == attentive
    assert all(hasattr(network, name) for name in can.settings) and bool(can.settings) == attentive
    assert can.stochastic_depth == (not attentive)
    assert can.multiple == (network.config.window_size if attentive else 1)


def classes_and_routed(**switches):
    can = capabilities_of(models.build("mambairv2-tiny", **switches))
    return can.classes, can.routed


def test_switches_decide_whether_a_network_sorts_and_routes():
    assert classes_and_routed() == (8, True)
    assert classes_and_routed(sgn="off") == (None, True)
    assert classes_and_routed(ase="off") == (8, True)
    assert classes_and_routed(ase="off", sgn="off") == (None, False)
    assert classes_and_routed(scans=0) == (None, False)
    assert not capabilities_of(models.build("mambair-light", drop_path_rate=0.0)).stochastic_depth


def test_a_plain_module_has_the_defaults():
    assert capabilities_of(nn.Identity()) == Capabilities()


def test_another_kind_of_declaration_is_refused():
    network = nn.Identity()
    network.capabilities = {"routed": True}
    with pytest.raises(ModelError, match=r"Identity.capabilities must be a models.Capabilities, not dict"):
        capabilities_of(network)
