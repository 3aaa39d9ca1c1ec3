"""Every ablation switch: shapes, parameters, and what it must and must not change."""

import itertools
import math

import pytest
import torch

import models
from models import layers, mambairv2
from models.ops import routing
from models.ops.noise import PhiloxGumbel
from models.ops.scan import attentive_scan

TINY_LAYERS, DIM, STATES, RANK, TOKENS = 2, 12, 4, 4, 8  # of mambairv2-tiny; d_inner is DIM there


def tiny(**overrides) -> torch.nn.Module:
    """mambairv2-tiny with argmax routing and weights spread so that every branch matters."""
    network = models.build("mambairv2-tiny", **{"routing": "argmax", **overrides}).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
            if "embedding" in name:
                parameter *= 10
            if "route.2.weight" in name:
                parameter *= 30
    return network


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def share_weights(source: torch.nn.Module, target: torch.nn.Module) -> None:
    """Gives `target` the parameters of `source` wherever names agree; all of the target's must be there."""
    state = source.state_dict()
    target.load_state_dict({name: state[name] for name in target.state_dict()})


@pytest.fixture
def picture() -> torch.Tensor:
    return torch.rand(2, 3, 11, 13, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def recorded(monkeypatch) -> list[dict]:
    """Arguments of every call of the scan."""
    calls = []

    def record(u, **kwargs):
        calls.append({"u": u, **kwargs})
        return attentive_scan(u, **kwargs)

    monkeypatch.setattr(layers, "attentive_scan", record)
    return calls


def run(network: torch.nn.Module, *args: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network(*args)


def unsorted_directions(height: int, width: int, scans: int) -> list[list[int]]:
    raster = list(range(height * width))
    columns = [y * width + x for x in range(width) for y in range(height)]
    return [raster, raster[::-1], columns, columns[::-1]][:scans]


# --- scans ----------------------------------------------------------------------------------------------------------


def test_scans_0_removes_exactly_norm3_assm_and_prompt_factors(picture):
    full, attention = tiny(), tiny(scans=0)
    gone = set(full.state_dict()) - set(attention.state_dict())
    assert gone == {n for n in full.state_dict() if any(part in n for part in (".norm3.", ".assm.", ".embeddingA."))}
    assert set(attention.state_dict()) < set(full.state_dict())
    assert any("convffn2" in name for name in attention.state_dict())
    # With an ASSM that returns nothing the full network is the attention-only one.
    share_weights(full, attention)
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            if ".assm.out_proj." in name:
                parameter.zero_()
    torch.testing.assert_close(run(full, picture), run(attention, picture), rtol=0, atol=0)


@pytest.mark.parametrize("scans", [2, 4])
def test_every_direction_has_its_own_projections_decay_and_skip(scans):
    R = math.ceil(DIM / 16)
    own = (R + 2 * STATES) * DIM + DIM * R + DIM + DIM * STATES + DIM
    assert parameters(tiny(scans=scans)) - parameters(tiny()) == TINY_LAYERS * (scans - 1) * own


def test_direction_2_is_the_exact_reverse_of_direction_1_and_3_runs_down_the_columns(picture, recorded):
    run(tiny(scans=4), picture)
    columns = torch.tensor(unsorted_directions(16, 16, 4)[2])
    raster = torch.arange(256)
    for call in recorded:
        order, classes, at = call["order"], call["prompt"].classes, call["prompt"].at
        assert torch.equal(order[:, 1], order[:, 0].flip(-1))
        assert torch.equal(order[:, 3], order[:, 2].flip(-1))
        assert torch.equal(at[0], torch.stack([raster, raster.flip(0), columns, columns.flip(0)]))
        for direction, unsorted in ((0, raster), (2, columns)):
            place = torch.empty(256, dtype=torch.long)
            place[unsorted] = raster  # of a pixel in the unsorted direction
            for b in range(2):
                steps = [(classes[b, p].item(), place[p].item()) for p in order[b, direction]]
                assert steps == sorted(steps)
        assert classes.unique().numel() > 2


def test_unsorted_scan_of_a_turned_image_is_the_turned_scan(recorded):
    network = tiny(scans=2, sgn="off", ase="off")
    layer = network.layers[0].residual_group["layers"][0].assm.selectiveScan
    with torch.no_grad():
        for parameter in layer.parameters():  # both directions alike
            first, second = parameter.chunk(2)
            second.copy_(first)
    u = torch.randn(1, 20, DIM)
    order = network.directions(4, 5, u.device)[None]
    forward = layers.selective_scan(layer, u, order=order, backend="chunked")
    backward = layers.selective_scan(layer, u.flip(1), order=order, backend="chunked")
    torch.testing.assert_close(backward.flip(1), forward)


# --- ase, sgn, labels ------------------------------------------------------------------------------------------------


def test_ase_off_is_a_pool_of_zeros_and_drops_its_parameters(picture):
    full, plain = tiny(), tiny(ase="off")
    gone = set(full.state_dict()) - set(plain.state_dict())
    assert gone == {name for name in full.state_dict() if "embedding" in name}
    assert parameters(full) - parameters(plain) == TINY_LAYERS * (TOKENS * RANK + RANK * STATES)
    share_weights(full, plain)
    assert (run(full, picture) - run(plain, picture)).abs().max() > 1e-4
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            if "embeddingB" in name:
                parameter.zero_()
    torch.testing.assert_close(run(full, picture), run(plain, picture), rtol=1e-5, atol=1e-6)


def test_sgn_off_scans_in_raster_order_and_keeps_the_router_for_the_prompts(picture, recorded):
    sorting, raster = tiny(), tiny(sgn="off")
    assert set(sorting.state_dict()) == set(raster.state_dict())
    share_weights(sorting, raster)
    output = run(raster, picture)
    assert all(call["order"] is None and call["prompt"] is not None for call in recorded)
    assert (run(sorting, picture) - output).abs().max() > 1e-4
    # One class for all pixels is a sort that moves nothing.
    torch.testing.assert_close(run(sorting, picture, torch.zeros(2, 11, 13, dtype=torch.long)), output)


def test_router_is_gone_only_where_neither_prompts_nor_sorting_need_it():
    def has_router(**overrides) -> bool:
        return any(".route." in name for name in tiny(**overrides).state_dict())

    assert has_router() and has_router(ase="off") and has_router(sgn="off")
    assert not has_router(ase="off", sgn="off")


def test_sorting_alone_does_not_train_the_router(picture):
    network = tiny(ase="off")
    network(picture).sum().backward()
    assert all(p.grad is None for name, p in network.named_parameters() if ".route." in name)


def test_labels_replace_the_sort_key_and_nothing_else(picture, recorded):
    network = tiny()
    learned = run(network, picture)
    labels = torch.randint(0, TOKENS, (2, 11, 13), generator=torch.Generator().manual_seed(0))
    labelled = run(network, picture, labels)
    first_learned, first_labelled = recorded[0], recorded[TINY_LAYERS]
    assert torch.equal(first_learned["prompt"].classes, first_labelled["prompt"].classes)
    padded = layers_padded(labels)
    assert torch.equal(first_labelled["order"][:, 0], padded.flatten(1).argsort(dim=-1, stable=True))
    assert (labelled - learned).abs().max() > 1e-4
    # Only the order of labels matters: names that keep it change nothing, a new order does.
    coarse = labels // 2
    torch.testing.assert_close(run(network, picture, coarse), run(network, picture, 2 * coarse), rtol=0, atol=0)
    assert (run(network, picture, TOKENS - 1 - labels) - labelled).abs().max() > 1e-5


def layers_padded(labels: torch.Tensor) -> torch.Tensor:
    """labels [B, 11, 13] mirrored at the bottom and right to 16 x 16."""
    rows = [*range(11), 10, 9, 8, 7, 6]
    columns = [*range(13), 12, 11, 10]
    return labels[:, rows][:, :, columns]


@pytest.mark.parametrize(
    ("overrides", "labels", "message"),
    [
        ({"sgn": "off"}, torch.zeros(2, 11, 13, dtype=torch.long), "does not sort"),
        ({"scans": 0}, torch.zeros(2, 11, 13, dtype=torch.long), "does not sort"),
        ({}, torch.zeros(2, 11, 13), "int64"),
        ({}, torch.zeros(2, 13, 11, dtype=torch.long), r"\[2, 11, 13\]"),
        ({}, torch.full((2, 11, 13), TOKENS), "0..7"),
        ({}, torch.full((2, 11, 13), -1), "0..7"),
    ],
)
def test_labels_that_do_not_fit_are_refused(picture, overrides, labels, message):
    with pytest.raises(models.ModelError, match=message):
        tiny(**overrides)(picture, labels)


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "width"), [("C", STATES), ("B", STATES), ("delta", DIM), ("y", DIM)])
def test_prompt_target_decides_the_width_of_n(target, width):
    network = tiny(prompt_target=target)
    assert {p.shape for name, p in network.named_parameters() if "embeddingA" in name} == {(RANK, width)}
    assert parameters(network) - parameters(tiny()) == TINY_LAYERS * RANK * (width - STATES)


@pytest.mark.parametrize("target", ["C", "B", "delta", "y"])
@pytest.mark.parametrize("routing", ["gumbel", "argmax"])
def test_router_learns_straight_through_whatever_the_prompt_is_added_to(picture, target, routing):
    network = tiny(prompt_target=target, routing=routing)
    network(picture).square().mean().backward()
    for name, parameter in network.named_parameters():
        if ".route.2." in name or "embedding" in name:
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("target", ["C", "B", "delta", "y"])
@pytest.mark.parametrize("scans", [1, 2])
def test_the_scan_takes_what_bf16_makes_as_it_is(picture, recorded, target, scans):
    """But for what a prompt of every pixel is added to: prompts are float32."""
    network = tiny(prompt_target=target, scans=scans)
    with models.precision("bf16", "cpu"):
        y = network(picture)
        y.mean().backward()
    assert y.dtype == torch.float32
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in network.parameters())
    assert len(recorded) == TINY_LAYERS
    for call, name in itertools.product(recorded, ("u", "delta", "B", "C")):
        assert call[name].dtype == (torch.float32 if name == target != "C" else torch.bfloat16), name


@pytest.mark.parametrize("order", ["raster", "semantic"])
@pytest.mark.parametrize("scans", [1, 2])
def test_fused_prompts_have_the_gradients_of_plain_ones(scans, order):
    picture = torch.rand(2, 3, 11, 13, dtype=torch.float64)
    network = tiny(scans=scans, prompt_order=order).double()
    gradients = []
    for backend in ("chunked", "reference"):
        network.backend = backend
        network.zero_grad()
        network(picture).square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in network.named_parameters()})
    for name, plain in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], plain, rtol=1e-7, atol=1e-7 * plain.abs().max().item(), msg=name)


def test_prompt_order_matters_only_to_a_sorted_sequence(picture, recorded):
    network = tiny()
    raster = run(network, picture)
    network.prompt_order = "semantic"
    semantic = run(network, picture)
    assert (raster - semantic).abs().max() > 1e-5
    assert all(call["prompt"].at is None for call in recorded[:TINY_LAYERS])
    assert all(torch.equal(call["prompt"].at, call["order"]) for call in recorded[TINY_LAYERS:])
    unsorted = tiny(sgn="off")
    before = run(unsorted, picture)
    unsorted.prompt_order = "semantic"
    assert torch.equal(run(unsorted, picture), before)
    assert set(tiny(prompt_order="semantic").state_dict()) == set(network.state_dict())


def test_prompt_sharing_keeps_one_n_for_the_network_and_an_m_for_every_layer(picture):
    own, shared = tiny(), tiny(prompt_sharing="network")
    assert [name for name, _ in shared.named_parameters() if "embeddingA" in name] == ["embeddingA.weight"]
    assert sum("embeddingB" in name for name, _ in shared.named_parameters()) == TINY_LAYERS
    assert parameters(own) - parameters(shared) == (TINY_LAYERS - 1) * RANK * STATES
    with torch.no_grad():
        state = own.state_dict()
        for name, parameter in shared.named_parameters():
            if name != "embeddingA.weight":
                parameter.copy_(state[name])
        for name, parameter in own.named_parameters():
            if "embeddingA" in name:
                parameter.copy_(shared.embeddingA.weight)
    torch.testing.assert_close(run(own, picture), run(shared, picture), rtol=0, atol=0)
    shared(picture).sum().backward()
    assert shared.embeddingA.weight.grad.abs().max() > 0
    assert not any("embeddingA" in name for name in tiny(prompt_sharing="network", ase="off").state_dict())


def test_unfactored_pool_is_the_product_in_one_piece(picture):
    factored, whole = tiny(), tiny(inner_rank=None)
    assert not any("embeddingA" in name for name in whole.state_dict())
    assert parameters(factored) - parameters(whole) == TINY_LAYERS * (TOKENS * RANK + RANK * STATES - TOKENS * STATES)
    state = factored.state_dict()
    for name in whole.state_dict():
        if "embeddingB" in name:
            n = name.replace("assm.embeddingB", "embeddingA")
            state[name] = state[name] @ state[n]
    whole.load_state_dict({name: state[name] for name in whole.state_dict()})
    torch.testing.assert_close(run(factored, picture), run(whole, picture), rtol=1e-5, atol=1e-6)


def test_unfactored_pool_starts_with_the_spread_of_the_variants_own_product():
    """Var of (M N) is r (1 / 3 T^2) (1 / 3 r^2) = 1 / (9 T^2 r), that of U(-a, a) is a^2 / 3."""
    whole = models.build("mambairv2-light", inner_rank=None)
    pool = torch.cat([p for name, p in whole.named_parameters() if "embeddingB" in name])
    T, r = 64, 32
    assert pool.shape[1] == 8
    assert pool.abs().max() <= 1 / (T * math.sqrt(3 * r))
    assert pool.std().item() == pytest.approx(1 / (3 * T * math.sqrt(r)), rel=0.03)
    factored = models.build("mambairv2-light")
    products = torch.cat(
        [layer.table(n.embeddingA.weight) for n in factored.modules() if (layer := getattr(n, "assm", None))]
    )
    assert products.std().item() == pytest.approx(pool.std().item(), rel=0.06)


def test_num_tokens_and_inner_rank_size_the_pool_and_the_router():
    network = tiny(num_tokens=5, inner_rank=3)
    shapes = {name.split("layers.0.")[-1]: tuple(p.shape) for name, p in network.named_parameters()}
    assert shapes["assm.embeddingB.weight"] == (5, 3)
    assert shapes["embeddingA.weight"] == (3, STATES)
    assert shapes["assm.route.2.weight"] == (5, DIM // 3)


# --- routing ---------------------------------------------------------------------------------------------------------


def test_noise_is_asked_for_once_a_layer_and_only_by_gumbel_routing(picture):
    asked = []

    def zero(layer, shape):
        asked.append((layer, shape))
        return torch.zeros(shape)

    network = tiny(routing="gumbel", depths=(2, 1), num_heads=(2, 2))
    network.noise = zero
    without = run(network, picture)
    assert asked == [(layer, (2, 256, TOKENS)) for layer in range(3)]
    network.routing = "argmax"
    assert torch.equal(run(network, picture), without)
    assert len(asked) == 3


def test_gumbel_noise_without_a_source_is_that_of_key_zero(picture, recorded):
    network = tiny(routing="gumbel")
    output = run(network, picture)
    assert torch.equal(run(network, picture), output)
    network.noise = PhiloxGumbel([0, 0])
    assert torch.equal(run(network, picture), output)
    classes = recorded[0]["prompt"].classes
    network.noise = PhiloxGumbel([1, 2])
    assert not torch.equal(run(network, picture), output)
    assert not torch.equal(recorded[3 * TINY_LAYERS]["prompt"].classes, classes)


def test_gumbel_routing_samples_classes_as_often_as_their_probabilities(recorded):
    network = models.build("mambairv2-tiny").eval()
    assm = network.layers[0].residual_group["layers"][0].assm
    with torch.no_grad():
        assm.route[2].weight.zero_()
        assm.route[2].bias.copy_(torch.tensor([0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.01, 0.01]).log())
    run(network, torch.rand(1, 3, 128, 128))
    shares = torch.bincount(recorded[0]["prompt"].classes.flatten(), minlength=TOKENS) / 128**2
    expected = assm.route[2].bias.detach().exp()
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected)).sqrt() / 128).all()


@pytest.mark.parametrize(
    "overrides, routed", [({}, True), ({"ase": "off", "sgn": "off"}, False), ({"scans": 0}, False)], ids=str
)
def test_a_network_without_a_router_takes_no_key_to_its_device(picture, monkeypatch, overrides, routed):
    """A CUDA graph cannot record a copy of the default key, which lies on the host."""
    taken = []
    monkeypatch.setattr(PhiloxGumbel, "on", lambda self, device, batch: taken.append(device) or self.keys)
    monkeypatch.setattr(routing, "uses_kernels", lambda x: True)
    monkeypatch.setattr(mambairv2, "restore", lambda network, x, context: x)  # whose kernels need a GPU
    tiny(routing="gumbel", **overrides)(picture)
    assert bool(taken) == routed


def test_noise_of_another_shape_is_refused(picture):
    network = tiny(routing="gumbel")
    network.noise = lambda layer, shape: torch.zeros(shape[0], shape[1], 1)
    with pytest.raises(models.ModelError, match="layer 0"):
        network(picture)


# --- feed-forward -----------------------------------------------------------------------------------------------------


def test_light_configuration_with_conv_feed_forwards_has_the_parameters_measured_for_it():
    for scale, expected in ((2, 843_212), (3, 849_707), (4, 858_800)):  # official class MambaIRv2 with light's options
        with torch.device("meta"):
            assert parameters(models.build("mambairv2-light", ffn="conv", upscale=scale)) == expected
