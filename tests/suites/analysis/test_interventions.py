"""Interventions on tiny networks: what each changes against closed forms, and that nothing of it is left."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import models
from models.errors import ModelError
from models.ops.noise import PhiloxGumbel
from suites.analysis import interventions as module
from suites.analysis.interventions import catalogue
from suites.analysis.interventions.catalogue import layers
from suites.analysis.spec import Context, Pair
from suites.data import sort_keys
from suites.evaluation.evaluate import samples
from suites.spec import Protocol, SpecError, Task

TASK = Task.parse("sr-x2")
PROTOCOL = Protocol.official(TASK, tiling=16)
SIZE = (16, 24)


@pytest.fixture
def network():
    """Tiny, with every parameter drawn, so that nothing is zero or one by its initial value."""
    made = models.build("mambairv2-tiny", depths=(2,), num_heads=(2,))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            scale = 0.3 if "A_logs" in name or parameter.dim() == 1 else 0.5
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return made.eval()


@pytest.fixture
def image():
    return torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def named(network, name: str) -> module.Intervention:
    return next(one for one in catalogue.interventions(network) if one.name == name)


@torch.no_grad()
def output(network, image, *names: str, seed: int = 0, labels=None):
    network.noise = PhiloxGumbel([7])
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(module.applied(named(network, name), network, seed))
        return network(image, labels)


def plain_attributes(network) -> list[dict]:
    """Of every module, but for the noise, which `output` sets."""
    return [{k: v for k, v in m.__dict__.items() if k[0] != "_" and k != "noise"} for m in network.modules()]


def test_every_intervention_is_taken_back_bit_for_bit(network, image):
    plain = output(network, image)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    objects = {name: id(parameter) for name, parameter in network.named_parameters()}
    attributes, unseen = (
        plain_attributes(network),
        ("memory/sorted-1024", "memory/sorted-4096"),
    )  # longer than the image
    for one in catalogue.interventions(network):
        if one.labels == "learned":
            changed = output(network, image, one.name)
            assert changed.isfinite().all() and torch.equal(changed, plain) == (one.name in unseen), one.name
        after = network.state_dict()
        assert all(torch.equal(value, after[name]) for name, value in state.items()), one.name
        assert {name: id(parameter) for name, parameter in network.named_parameters()} == objects
        assert plain_attributes(network) == attributes
    assert torch.equal(output(network, image), plain)


def test_a_change_that_fails_half_way_is_taken_back(network):
    def change(network, changes):
        changes.scale(layers(network)[0].assm.embeddingB, "weight", 3)
        changes.set(network, "no such attribute", 1)

    before = network.state_dict()
    with pytest.raises(AttributeError), module.applied(module.Intervention("x", "x", "x", change), network):
        pass
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_zero_prompts_are_a_network_whose_pool_is_zero(network, image):
    other = models.from_official(network.configuration)
    other.load_state_dict(network.state_dict())
    for layer in layers(other):
        torch.nn.init.zeros_(layer.assm.embeddingB.weight)
    assert torch.equal(output(network, image, "prompts/zero"), output(other.eval(), image))


def test_equal_rows_neither_differ_by_permutation_nor_by_mean(network, image):
    for layer in layers(network):
        layer.assm.embeddingB.weight.data[:] = layer.assm.embeddingB.weight.data[:1]
    plain = output(network, image)
    assert torch.equal(output(network, image, "prompts/permuted", seed=3), plain)
    torch.testing.assert_close(output(network, image, "prompts/mean"), plain, atol=5e-4, rtol=0)


def test_prompts_of_one_layer_are_part_of_those_of_all(network, image):
    assert torch.equal(
        output(network, image, "layer-00/prompts-zero", "layer-01/prompts-zero"), output(network, image, "prompts/zero")
    )


def test_without_state_the_scan_gives_d_u(network):
    layer = layers(network)[0]
    u = torch.randn(2, 40, layer.assm.config.d_inner)
    with module.applied(named(network, "scan/off"), network), torch.no_grad():
        y = models.layers.selective_scan(layer.assm.selectiveScan, u, order=None, backend="auto")
    torch.testing.assert_close(y, u * layer.assm.selectiveScan.Ds)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_delta_is_scaled_after_softplus(network, factor):
    assm = layers(network)[0].assm
    module_, states = assm.selectiveScan, assm.config.d_state
    u = torch.randn(1, 30, assm.config.d_inner, dtype=torch.float64)
    rank = module_.dt_projs_weight.shape[-1]
    with torch.no_grad():
        delta, B, C = (u @ module_.x_proj_weight[0].double().T).split([rank, states, states], -1)
        raw = delta @ module_.dt_projs_weight[0].double().T + module_.dt_projs_bias[0].double()
        x, A, h, expected = factor * F.softplus(raw), -module_.A_logs.double().exp(), 0.0, []
        for i in range(30):
            h = (x[:, i, :, None] * A).exp() * h + x[:, i, :, None] * B[:, i, None] * u[:, i, :, None]
            expected.append((h * C[:, i, None]).sum(-1) + module_.Ds.double() * u[:, i])
        with module.applied(named(network, f"scan/delta-{factor:g}"), network):
            y = models.layers.selective_scan(module_, u.float(), order=None, backend="auto")
    torch.testing.assert_close(y.double(), torch.stack(expected, 1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("directions", [2, 4])
def test_directions_with_the_same_weights_are_averaged(network, image, directions):
    """Outputs are linear in C, P and D, so a sum with those divided by the number of directions is the mean."""
    other, own = models.from_official({**network.configuration, "scans": directions}), dict(network.named_parameters())
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            copies = 1 if parameter.shape == own[name].shape else directions
            parameter.copy_(own[name].repeat(copies, *[1] * (parameter.dim() - 1)))
        for layer in layers(other):
            scan, states = layer.assm.selectiveScan, layer.assm.config.d_state
            for part in (scan.x_proj_weight[:, -states:], scan.Ds, layer.assm.embeddingB.weight):
                part /= directions
    found = output(network, image, f"scan/directions-{directions}")
    torch.testing.assert_close(found, output(other.eval(), image), atol=1e-4, rtol=1e-4)


def test_a_memory_of_all_steps_changes_nothing(network, image):
    long = module.Intervention("memory", "", "", catalogue.everywhere(lambda layer, changes: catalogue.forgetting(
        layer, changes, steps=SIZE[0] * SIZE[1]
    )))  # fmt: skip
    plain = output(network, image)
    with module.applied(long, network), torch.no_grad():
        network.noise = PhiloxGumbel([7])
        assert torch.equal(network(image), plain)


def test_cold_noise_is_argmax_and_one_class_knows_no_order(network, image):
    cold = module.Intervention("", "", "", catalogue.everywhere(lambda layer, changes: catalogue.tempered(
        layer, changes, temperature=1e-4
    )))  # fmt: skip
    network.noise = PhiloxGumbel([7])
    with module.applied(cold, network), torch.no_grad():
        found = network(image)
    torch.testing.assert_close(found, output(network, image, "routing/argmax"))
    one, both = output(network, image, "routing/one-class"), output(network, image, "routing/one-class", "order/raster")
    torch.testing.assert_close(one, both)


def test_uniform_routing_does_not_read_the_image(network):
    assm, seen = layers(network)[0].assm, []
    network.experiment = models.Experiment(classes=lambda layer, classes: seen.append(classes) or classes)
    for image in (torch.zeros(1, 3, *SIZE), torch.ones(1, 3, *SIZE)):
        output(network, image, "routing/uniform")
    assert torch.equal(seen[0], seen[2]) and assm.config.num_tokens > len(seen[0].unique()) // 2 > 2


def test_shuffled_classes_are_as_many_of_each(network, image):
    seen = []
    with module.applied(named(network, "routing/shuffled"), network), torch.no_grad():
        source = network.experiment.classes
        network.experiment = models.Experiment(lambda layer, own: seen.append((own, source(layer, own))) or seen[-1][1])
        network.noise = PhiloxGumbel([7])
        network(image)
    for own, used in seen:
        assert torch.equal(own.sort()[0], used.sort()[0]) and not torch.equal(own, used)


def test_orders_by_their_definition(network, image):
    key = torch.tensor([[1, 0, 1, 0, 2, 0]])
    assert catalogue.backwards(network, 0, key, 2, 3).tolist() == [[4, 2, 0, 5, 3, 1]]
    assert catalogue.raster_backwards(network, 0, key, 2, 3).tolist() == [[5, 4, 3, 2, 1, 0]]
    assert catalogue.columns(network, 0, key, 2, 3).tolist() == [[0, 3, 1, 4, 2, 5]]
    assert sorted(catalogue.permutation(network, 0, key, 2, 3)[0].tolist()) == list(range(6))
    plain = output(network, image)
    network.experiment = models.Experiment(order=lambda layer, key, height, width: catalogue.by_class(key))
    assert torch.equal(output(network, image), plain)  # the sorted order by hand
    network.experiment = models.Experiment(order=lambda layer, key, height, width: catalogue.backwards(
        None, layer, key, height, width
    ).flip(-1))  # fmt: skip
    assert torch.equal(output(network, image), plain)  # reversed twice
    order = models.Experiment(order=lambda layer, key, height, width: torch.arange(key.shape[1]).expand_as(key))
    network.experiment = None
    raster = output(network, image, "order/raster")
    network.experiment = order
    assert torch.equal(output(network, image), raster)


def test_hilbert_curve_visits_neighbours():
    for side in (2, 8, 32):
        order = catalogue.hilbert_order(side, side)
        y, x = order // side, order % side
        assert sorted(order.tolist()) == list(range(side * side))
        assert ((y.diff().abs() + x.diff().abs()) == 1).all()
    assert sorted(catalogue.hilbert_order(5, 9).tolist()) == list(range(45))


def test_attention_off_leaves_the_residual(network):
    layer = layers(network)[0]
    with module.applied(named(network, "parts/attention-off"), network), torch.no_grad():
        attention = layer.win_mhsa(models.layers.Tokens(torch.randn(1, 8, 8, 36)), network.mask)
    assert not attention.read().any()


def test_an_experiment_that_a_network_cannot_take_is_refused(network, image):
    network.experiment = models.Experiment(order=lambda *_, **__: None)
    network.config = replace(network.config, scans=2)
    with pytest.raises(ModelError, match="2 scans"):
        network(image)
    network.compiled = True
    with pytest.raises(ModelError, match="compiled"):
        network(image)


def pair(stem: str = "picture") -> Pair:
    rng = np.random.default_rng(5)
    lq = rng.random((*SIZE, 3), dtype=np.float32)
    return Pair("Set", stem, "0", lq, rng.integers(0, 256, (2 * SIZE[0], 2 * SIZE[1], 3), dtype=np.uint8))


@pytest.mark.parametrize("pixels", [1, 10**6])
def test_tiles_and_seeds_together_give_what_evaluate_gives(network, monkeypatch, pixels):
    monkeypatch.setitem(module.PIXELS, "cpu", pixels)
    context = Context(TASK, PROTOCOL, torch.device("cpu"), (0, 2))
    found = module.restored(network, pair(), context, (0, 2))
    for seed, own in found.items():
        (expected,) = samples(network, pair().lq, replace(PROTOCOL, seed=seed), "picture")
        np.testing.assert_allclose(own, expected, atol=1e-5)
        assert pixels > 1 or np.array_equal(own, expected)


def test_luma_is_sorted_into_classes_of_equal_size():
    label = sort_keys.make("luma", pair().lq, 8)
    assert set(np.bincount(label.ravel())) == {SIZE[0] * SIZE[1] // 8} and label.shape == SIZE
    gray = pair().lq @ np.array([65.481, 128.553, 24.966])
    means = [gray[label == number].mean() for number in range(8)]
    assert means == sorted(means)


def test_a_file_of_ones_own_adds_interventions(network, tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from suites.analysis.interventions import Intervention\n"
        "from suites.analysis.interventions.catalogue import layers\n"
        "def halved(network, changes):\n"
        "    for layer in layers(network):\n"
        "        changes.scale(layer.assm.embeddingB, 'weight', 0.5)\n"
        "INTERVENTIONS = [Intervention('mine/half', 'mine', 'prompts times a half', halved)]\n"
    )
    base, own = module.analyses(network, "mine/*", file)
    assert base.parameters["intervention"] == "unchanged" and own.parameters["intervention"] == "mine/half"
    assert len(own.parameters["origin"]) == 64  # another file is another question
    context = Context(TASK, PROTOCOL, torch.device("cpu"), (0, 1))
    rows = [each.measure(network, pair(), context).rows for each in (base, own)]
    assert list(rows[0]["seed"]) == [0, 1] and not rows[0]["psnr"].equals(rows[1]["psnr"])
    with pytest.raises(
        SpecError, match=r"no intervention 'nothing' for this network: it has .*, layer-00/\* to layer-\d"
    ):
        module.analyses(network, "nothing", file)
    with pytest.raises(SpecError, match=r"'prompt/zero' .*did you mean prompts/zero\b"):
        module.analyses(network, "prompt/zero", file)
    file.write_text("INTERVENTIONS = 1")
    with pytest.raises(SpecError, match=r"mine\.py"):
        module.analyses(network, None, file)
    with pytest.raises(SpecError, match="no such file"):
        module.analyses(network, None, file.with_name("none.py"))


def test_networks_have_those_interventions_that_make_sense(network):
    def questions(made):
        return {one.question for one in catalogue.interventions(made)}

    bare = models.build("mambairv2-tiny", ase="off", sgn="off")
    single = {"layers: attention-off", "layers: assm-off", "layers: scan-off"}
    assert questions(bare) == {"scan", "memory in raster order", "parts"} | single
    both = output(bare.eval(), torch.rand(1, 3, *SIZE), "memory/raster-4", "scan/directions-2")
    assert both.isfinite().all()
    assert "order" not in questions(models.build("mambairv2-tiny", scans=2)) and "order" in questions(network)
    with pytest.raises(SpecError, match="no MambaIRv2"):
        catalogue.interventions(models.build("mambair-light", depths=(1,), embed_dim=30))
