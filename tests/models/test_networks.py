"""The catalogue, its parameter counts, the parts of the networks, and inputs at the edge."""

import csv

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import models
from models import backbone, layers, mambair
from models.ops.fusion import Tokens, scaled
from models.ops.scan.permutation import permute_pixels


def on_meta(name: str, **overrides) -> torch.nn.Module:
    with torch.device("meta"):
        return models.build(name, **overrides)


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


# --- catalogue -------------------------------------------------------------------------------------------------------

PUBLISHED = {  # parameters of the official classes at x2, x3, x4
    "mambairv2-light": (774_092, 780_587, 789_680),
    "mambairv2-small": (9_621_935, 9_806_575, 9_769_647),
    "mambairv2-base": (22_903_001, 23_087_641, 23_050_713),
    "mambairv2-large": (34_090_523, 34_275_163, 34_238_235),
    "mambair": (20_421_863, 20_606_503, 20_569_575),
    "mambair-light": (905_016, 913_131, 924_492),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_official_networks(name):
    assert tuple(parameters(on_meta(name, upscale=scale)) for scale in (2, 3, 4)) == PUBLISHED[name]


def test_parameters_of_denoising_and_jpeg_networks_are_the_official_ones():
    assert parameters(on_meta("mambairv2-base", upscale=1, upsampler="", in_chans=3)) == 22_657_971
    assert parameters(on_meta("mambairv2-base", upscale=1, upsampler="", in_chans=1)) == 22_651_705


def test_parameters_are_those_of_the_table_of_computed_costs(shared):
    rows = csv.DictReader((shared / "paper" / "tables" / "computed_params_macs.csv").open())
    names = {"light": "mambairv2-light", "S": "mambairv2-small", "B": "mambairv2-base", "L": "mambairv2-large"}
    expected = {
        (names[row["variant"]], int(row["scale"])): int(row["params"]) for row in rows if row["variant"] in names
    }
    assert len(expected) == 12
    for (name, scale), count in expected.items():
        assert parameters(on_meta(name, upscale=scale)) == count


# Multiply-adds of the official light network at 720x1280, LayerNorm and scan left out, as measured with fvcore.
LIGHT_GMACS = {2: 286.298557280 - 6.896 - 16.505, 3: 126.705460480 - 3.036 - 7.266, 4: 75.642593760 - 1.799 - 4.306}


@pytest.mark.parametrize("scale", LIGHT_GMACS)
def test_multiply_adds_of_the_plain_path_are_the_official_networks(scale):
    network = on_meta("mambairv2-light", upscale=scale, routing="argmax", backend="reference").eval()
    image = torch.empty(1, 3, 720 // scale, 1280 // scale, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert network(image).shape[2:] == (720 // scale * scale, 1280 // scale * scale)
    counts = counter.get_flop_counts()["Global"]
    gmacs = sum(n for operator, n in counts.items() if "attentive_scan" not in str(operator)) / 2e9
    assert gmacs == pytest.approx(LIGHT_GMACS[scale], rel=1e-4)


def test_tiny_is_tiny():
    assert 2_000 < parameters(models.build("mambairv2-tiny")) < 10_000


def test_unknown_name_is_refused_with_the_catalogue_and_a_hint():
    with pytest.raises(models.ModelError, match=r"\(did you mean mambairv2-light\?\): .* mambair-light"):
        models.build("mambairv2-lite")


@pytest.mark.parametrize("name", ["mambairv2-tiny", "mambair-light"])
def test_unknown_argument_is_a_type_error_naming_it(name):
    with pytest.raises(TypeError, match=r"'embed_dims'.*embed_dim"):
        models.build(name, embed_dims=12)


# --- official configurations -----------------------------------------------------------------------------------------

LIGHT_BLOCK = {  # as in the official options for light x2
    "type": "MambaIRv2Light",
    "upscale": 2,
    "in_chans": 3,
    "img_size": 64,
    "img_range": 1.0,
    "embed_dim": 48,
    "d_state": 8,
    "depths": [5, 5, 5, 5],
    "num_heads": [4, 4, 4, 4],
    "window_size": 16,
    "inner_rank": 32,
    "num_tokens": 64,
    "convffn_kernel_size": 5,
    "mlp_ratio": 1.0,
    "upsampler": "pixelshuffledirect",
    "resi_connection": "1conv",
}


def test_official_block_and_catalogue_name_build_the_same_network():
    network, named = models.from_official(LIGHT_BLOCK), models.build("mambairv2-light")
    assert network.configuration == named.configuration
    assert models.weights_hash(network) == models.weights_hash(named)
    wide = models.from_official({**LIGHT_BLOCK, "type": "MambaIRv2"})
    assert parameters(wide) == 843_212  # the light options in the class with ConvFFN


def test_official_defaults_fill_what_a_block_leaves_out():
    network = models.from_official({"type": "MambaIRv2", "depths": [1], "num_heads": [1], "in_chans": 1})
    expected = {"embed_dim": 48, "d_state": 8, "mlp_ratio": 2.0, "upsampler": "", "upscale": 1, "ffn": "conv"}
    assert expected.items() <= network.configuration.items()
    v1 = models.from_official({"type": "MambaIR", "depths": [1], "upsampler": None})
    assert {"embed_dim": 96, "d_state": 16, "drop_path_rate": 0.1, "upscale": 1}.items() <= v1.configuration.items()


def test_keys_without_effect_are_accepted_and_overrides_win():
    block = {**LIGHT_BLOCK, "depths": [1], "num_heads": [4], "patch_size": 1, "use_checkpoint": True, "qkv_bias": True}
    network = models.from_official(block, num_tokens=16, scans=2, img_size=1)
    assert network.config.num_tokens == 16 and network.config.scans == 2
    v1 = {"type": "MambaIR", "depths": [1], "embed_dim": 60, "upscale": 2, "upsampler": "pixelshuffledirect"}
    assert models.weights_hash(models.from_official(v1, routing="argmax")) == models.weights_hash(
        models.from_official(v1)
    )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"type": "SwinIR"}, models.ModelError, "SwinIR"),
        ({"type": None}, models.ModelError, "MambaIRv2Light"),
        ({"ape": True}, models.ModelError, "ape must be False"),
        ({"qkv_bias": False}, models.ModelError, "qkv_bias must be True"),
        ({"window": 8}, TypeError, "'window'"),
        ({"type": "MambaIR"}, TypeError, "MambaIR has no argument"),
    ],
)
def test_other_official_blocks_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        models.from_official({**LIGHT_BLOCK, **changes})


# --- parts against their definitions ----------------------------------------------------------------------------------


def test_feed_forwards_compute_their_formulas():
    x = torch.randn(2, 5, 6, 8)
    norm = layers.LayerNorm(8)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    conv, gated = layers.ConvFFN(8, 16, 5), layers.GatedFFN(8, 16)

    def nchw(conv, t):
        y = F.conv2d(t.permute(0, 3, 1, 2).contiguous(), conv.weight, conv.bias, padding=2, groups=len(conv.bias))
        return y.permute(0, 2, 3, 1)

    def branch(ffn):
        tokens = Tokens(x)
        return (tokens + ffn(norm(tokens)) + scaled(Tokens(skip), scale)).read()

    u = F.gelu(conv.fc1(norm(x)))
    skip, scale = torch.randn_like(x), torch.randn(8)
    expected = x + conv.fc2(u + F.gelu(nchw(conv.dwconv["depthwise_conv"][0], u))) + skip * scale
    torch.testing.assert_close(branch(conv), expected, rtol=1e-4, atol=1e-5)
    u, v = F.gelu(gated.fc1(norm(x))).split(8, -1)
    expected = x + gated.fc2(u * nchw(gated.sg["conv"], gated.sg["norm"](v))) + skip * scale
    torch.testing.assert_close(branch(gated), expected, rtol=1e-4, atol=1e-5)


def test_permutation_and_its_gradient():
    x = torch.randn(2, 3, 7, 4, dtype=torch.float64, requires_grad=True)
    index = torch.rand(2, 3, 7).argsort(-1)
    back = index.argsort(-1)
    assert torch.equal(permute_pixels(x, index, back)[1, 2, 3], x[1, 2, index[1, 2, 3]])
    torch.autograd.gradcheck(lambda x: permute_pixels(x, index, back), x)


def test_flip_pad_mirrors_as_often_as_needed():
    x = torch.arange(3).view(1, 1, 1, 3).expand(1, 1, 2, 3)
    assert backbone.flip_pad(x, 4)[0, 0].tolist() == [[0, 1, 2, 2]] * 4
    assert backbone.flip_pad(x, 8)[0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert torch.equal(backbone.flip_pad(x, 1), x)


@pytest.mark.parametrize("upscale", [2, 3, 4, 8])
def test_pixelshuffle_head_enlarges_by_its_factor(upscale):
    network = models.build("mambairv2-tiny", upscale=upscale, upsampler="pixelshuffle", depths=(1,))
    with torch.no_grad():
        assert network(torch.rand(1, 3, 8, 9)).shape == (1, 3, 8 * upscale, 9 * upscale)


def test_three_convolutions_replace_one_in_groups_and_body():
    one, three = (models.build("mambairv2-tiny", resi_connection=kind) for kind in ("1conv", "3conv"))
    single = 12 * 12 * 9 + 12
    triple = (12 * 3 * 9 + 3) + (3 * 3 + 3) + (3 * 12 * 9 + 12)
    assert parameters(one) - parameters(three) == 2 * (single - triple)
    assert {f"conv_after_body.{i}.weight" for i in (0, 2, 4)} <= set(three.state_dict())


def test_restoring_at_the_same_size_adds_a_residual_to_the_input():
    for name in ("mambairv2-tiny", "mambair-light"):
        network = models.build(name, upscale=1, upsampler="", in_chans=1, depths=(1,), **heads(name)).eval()
        image = torch.rand(2, 1, 9, 10)
        with torch.no_grad():
            assert (network(image) - image).abs().max() > 1e-4
            network.conv_last.weight.zero_()
            network.conv_last.bias.zero_()
            torch.testing.assert_close(network(image), image)


def heads(name: str) -> dict[str, tuple[int, ...]]:
    return {"num_heads": (2,)} if name == "mambairv2-tiny" else {}


# --- MambaIR ---------------------------------------------------------------------------------------------------------


def test_mambair_takes_its_four_directions_in_the_official_order(monkeypatch):
    orders = []

    def record(u, delta, *args, order, **kwargs):
        orders.append(order)
        return torch.zeros_like(delta)

    network = models.build("mambair-light", depths=(1,))
    block = network.layers[0].residual_group["blocks"][0].self_attention
    monkeypatch.setattr(layers, "attentive_scan", lambda u, **kwargs: record(u, **kwargs))
    network(torch.rand(2, 3, 2, 3))
    raster, columns = [0, 1, 2, 3, 4, 5], [0, 3, 1, 4, 2, 5]
    assert orders[0].tolist() == [[raster, columns, raster[::-1], columns[::-1]]] * 2
    assert block.x_proj_weight.shape == (4, 4 + 2 * 10, 72)


def test_mambair_drops_paths_in_training_only_more_with_depth_and_keeps_the_mean():
    config = mambair.Config(depths=(2, 3), upscale=1, drop_path_rate=0.4)
    assert list(mambair.drop_rates(config)) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 1)
    dropped = mambair.drop_path(x, 0.4)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert torch.equal(dropped[:, 0], dropped[:, 1])  # whole samples
    assert dropped.mean().item() == pytest.approx(1, abs=0.05)
    network = models.build("mambair-light", depths=(2,), drop_path_rate=0.5)
    image = torch.rand(1, 3, 6, 6)
    with torch.no_grad():
        assert len({network(image).sum().item() for _ in range(20)}) == 2
        assert len({network.eval()(image).sum().item() for _ in range(4)}) == 1


def test_mambair_has_no_labels_and_refuses_impossible_arguments():
    with pytest.raises(models.ModelError, match="does not sort"):
        models.build("mambair-light", depths=(1,))(torch.rand(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long))
    with pytest.raises(models.ModelError, match="must be a finite number, and mlp_ratio is"):
        models.build("mambairv2-tiny", mlp_ratio=1.5e307)
    for overrides, message in (
        ({"embed_dim": 20}, "at least 30"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"mlp_ratio": 0.001}, "mlp_ratio"),
        ({"mlp_ratio": 1.5e307}, "embed_dim . mlp_ratio must be a finite number"),
    ):
        with pytest.raises(models.ModelError, match=message):
            models.build("mambair-light", **overrides)


def decisive(network: torch.nn.Module) -> torch.nn.Module:
    """The network with logits spread so far that rounding decides no class."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".route.2.weight" in name:
                parameter *= 1000
    return network


# --- inputs at the edge -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mambairv2-tiny", "mambair-light"])
@pytest.mark.parametrize("size", [(1, 1), (1, 17), (8, 8), (9, 23)])
def test_any_size_from_one_pixel_on_is_restored(name, size):
    network = models.build(name, depths=(2,), upscale=3, **heads(name)).eval()
    with torch.no_grad():
        output = network(torch.rand(2, 3, *size))
    assert output.shape == (2, 3, 3 * size[0], 3 * size[1])
    assert output.isfinite().all()


def test_one_pixel_with_labels():
    network = models.build("mambairv2-tiny").eval()
    with torch.no_grad():
        assert network(torch.rand(2, 3, 1, 1), torch.tensor([[[0]], [[7]]])).shape == (2, 3, 2, 2)


def test_an_image_does_not_depend_on_what_else_is_in_the_batch():
    network = decisive(models.build("mambairv2-tiny", routing="argmax").eval())
    images = torch.rand(3, 3, 13, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, alone = network(images), torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mambairv2-tiny", "mambair-light"])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(1, 1, 8, 8), "1 channels, this network reads 3"),
        (torch.rand(3, 8, 8), "batch, channels, height, width"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.rand(1, 3, 0, 8), "no pixel"),
        ([[0.5]], "list"),
    ],
    ids=["channels", "dimensions", "integers", "empty", "list"],
)
def test_inputs_that_do_not_fit_are_refused(name, image, message):
    with pytest.raises(models.ModelError, match=message):
        models.build(name, depths=(1,), **heads(name))(image)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mambairv2-tiny", "mambair-light"])
def test_float32_follows_float64(name):
    network = decisive(models.build(name, depths=(2,), **heads(name)).eval())
    network.routing = "argmax"
    image = torch.rand(1, 3, 10, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        single = network(image.float())
        double = network.double()(image)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("mambairv2-tiny", {}),
        ("mambairv2-tiny", {"scans": 4, "prompt_target": "B"}),
        ("mambairv2-tiny", {"backend": "reference", "prompt_order": "semantic"}),
        ("mambair-light", {"depths": (2,), "drop_path_rate": 0.0}),
    ],
)
def test_gradients_are_equal_bit_for_bit_and_only_by_deterministic_operators(name, overrides):
    network = models.build(name, **overrides)
    image = torch.rand(2, 3, 11, 14, requires_grad=True)
    gradients = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            network.zero_grad()
            image.grad = None
            network(image).square().mean().backward()
            gradients.append([p.grad.clone() for p in (*network.parameters(), image)])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(g.isfinite().all() for g in gradients[0])


def test_bf16_routes_in_float32_and_stays_close():
    network = models.build("mambairv2-tiny", depths=(1,)).eval()
    seen = []
    network.layers[0].residual_group["layers"][0].assm.route.register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        single = network(image)
        with models.precision("bf16", "cpu"):
            half = network(image)
    assert seen == [torch.float32, torch.float32]
    assert half.dtype == torch.float32
    assert 0 < (half - single).abs().max() < 0.05
    with models.precision("bf16", "cpu"):
        network(image).mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in network.parameters())


def test_precision_restores_what_it_found_and_refuses_what_the_device_cannot_do():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(KeyError), models.precision("fp32", "cpu"):
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            raise KeyError
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32 == before[1]
    finally:
        torch.set_float32_matmul_precision(before[0])
    for name, message in (("tf32", "CUDA"), ("tf32x3", "kernels"), ("fp16", "unknown precision")):
        with pytest.raises(models.ModelError, match=message), models.precision(name, "cpu"):
            pass


def test_tiny_learns():
    network = models.build("mambairv2-tiny").train()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    target = torch.rand(2, 3, 1, 1).expand(2, 3, 16, 16)
    losses = []
    for _ in range(30):
        loss = (network(target[..., ::2, ::2]) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
