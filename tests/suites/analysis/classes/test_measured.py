"""What the analyses of classes measure of a network, where the answer is known: by its router, or by construction."""

import math

import numpy as np
import pytest
import torch
from scipy.io import savemat

import models
from suites.analysis.classes import layers, prompts, segmentations, sgn
from suites.analysis.spec import Context, Pair
from suites.evaluation import tiling
from suites.spec import Protocol, SpecError, Task

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = Task.parse("sr-x2")
TOKENS, LAYERS = 8, 2  # of mambairv2-tiny
HEIGHT, WIDTH = 21, 30


def network(**overrides):
    """A tiny network whose router says something: its initial logits are nearly equal."""
    model = models.build("mambairv2-tiny", **overrides).eval()
    for module in model.modules():
        if hasattr(module, "route"):
            torch.nn.init.normal_(module.route[2].weight, generator=torch.Generator().manual_seed(module.index))
    return model


def settle(model, spread: float) -> None:
    """Every pixel gets class 5, by `spread` nats; 0 makes all classes as likely."""
    for module in model.modules():
        if hasattr(module, "route"):
            torch.nn.init.zeros_(module.route[2].weight)
            torch.nn.init.zeros_(module.route[2].bias)
            module.route[2].bias.data[5] = spread


@pytest.fixture(scope="module")
def pair() -> Pair:
    lq = np.random.default_rng(0).random((HEIGHT, WIDTH, 3), dtype=np.float32)
    return Pair("own", "picture", "0" * 64, lq, np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8))


def context(tiles="none", seeds=(0,)) -> Context:
    return Context(TASK, Protocol.official(TASK, tiling=tiles), torch.device("cpu"), seeds)


@pytest.mark.parametrize("tiles", ["none", 16])
def test_class_maps_are_the_routers_own_put_together_from_tiles(pair, tiles):
    model, told = network(), []
    for module in model.modules():
        if hasattr(module, "route"):
            module.route.register_forward_hook(lambda router, given, logits: told.append(logits[0].argmax(-1)))
    maps = layers.class_maps(model, pair, context(tiles), None)
    assert maps.shape == (LAYERS, HEIGHT, WIDTH) and len(np.unique(maps)) > 2
    cut = tiling.tiles(HEIGHT, WIDTH, tiles)
    assert len(told) == LAYERS * len(cut) and len(cut) == {"none": 1, 16: 4}[tiles]
    expected = np.full_like(maps, -1)
    for number, classes in enumerate(told):
        tile, layer = cut[number // LAYERS], number % LAYERS
        high, wide = (8 * math.ceil((span.stop - span.start) / 8) for span in (tile.rows, tile.columns))
        whole = classes.reshape(high, wide).numpy()
        for y in range(tile.rows.keep_start, min(HEIGHT, tile.rows.keep_stop)):
            for x in range(tile.columns.keep_start, min(WIDTH, tile.columns.keep_stop)):
                expected[layer, y, x] = whole[y - tile.rows.start, x - tile.columns.start]
    assert np.array_equal(maps, expected)


def test_a_layer_scans_its_classes_in_order_and_the_network_is_left_as_it_was(pair):
    model, seen = network(), []
    before = model.routing, model.noise, model.training
    layers.visit(model, pair, context(), 3, seen.append)
    assert [one.number for one in seen] == [0, 1] and (model.routing, model.noise, model.training) == before
    for one in seen:
        assert (one.height, one.width) == (24, 32) and len(one.classes) == 24 * 32
        assert torch.equal(one.order, one.classes.argsort(stable=True))
    other = []
    layers.visit(model, pair, context(), 4, other.append)
    assert not torch.equal(seen[0].classes, other[0].classes)
    assert torch.equal(seen[0].features, other[0].features)  # of the first layer: the noise comes after them


@pytest.mark.parametrize("tiles", ["none", 16])
def test_maps_are_cut_as_the_network_sees_a_picture(pair, tiles):
    model, seen = network(), []
    layers.visit(model, pair, context(tiles), None, seen.append)
    numbers = np.arange(HEIGHT * WIDTH, dtype=np.float64).reshape(1, HEIGHT, WIDTH)
    back = np.full((HEIGHT, WIDTH), -1.0)
    for layer, keys in zip(seen[::LAYERS], layers.of_tiles(numbers, model, context(tiles)), strict=True):
        rows, columns, part = layer.kept(keys[0], (HEIGHT, WIDTH))
        back[rows, columns] = part.numpy()
    assert np.array_equal(back, numbers[0])


def test_one_class_for_all_pixels(pair):
    model = network()
    settle(model, 1e4)
    rows = sgn.classes(model, pair, context()).rows
    assert (rows["changed"] == 0).all() and (rows["changed_at_random"] == 0).all()
    assert (rows[["likeliest", "adjacent", "adjacent_at_random"]] == 1).all(axis=None)
    order = sgn.order(model, pair, context()).rows.set_index(["layer", "order", "scope", "steps"])
    for layer in range(LAYERS):  # nothing to sort by
        for key in (("tile", 1), ("tile", 16), ("window", 1)):
            for name in ("network", "likeliest", "shuffled"):
                assert order.loc[(layer, name, *key)].equals(order.loc[(layer, "raster", *key)])
    found = prompts.prompts(model, pair, context()).rows
    assert (found["entropy"] == 0).all() and (found["effective"] == 1).all() and (found["dead"] == TOKENS - 1).all()
    assert (found["used"] == "x20").all() and found["silhouette"].isna().all() and found["between"].isna().all()


def test_classes_that_noise_alone_decides(pair):
    model = network()
    settle(model, 0.0)
    found = sgn.classes(model, pair, context(seeds=(0, 1)))
    rows, even = found.rows, 1 / TOKENS
    assert list(rows["seed"]) == [0, 0, 1, 1] and list(rows["layer"]) == [0, 1, 0, 1]
    assert rows["changed"].to_numpy() == pytest.approx(1 - even, abs=0.05)
    assert rows["changed_at_random"].to_numpy() == pytest.approx(1 - even, abs=0.01)
    assert rows["adjacent"].to_numpy() == pytest.approx(even, abs=0.05)
    assert set(found.arrays) == {"lq", "likeliest", "seed-0", "seed-1"}
    drawn = found.arrays["seed-0"], found.arrays["seed-1"]
    changed = [(one != other).mean() for one, other in zip(*drawn, strict=True)]
    assert list(rows[rows["seed"] == 0]["changed"]) == pytest.approx(changed)
    use = prompts.prompts(model, pair, context()).rows
    drawn = use[use["routing"] == "gumbel"]
    assert (drawn["entropy"] > 0.98).all() and (drawn["dead"] == 0).all() and (drawn["silhouette"].abs() < 0.1).all()
    assert drawn["nmi_slic"].to_numpy() == pytest.approx(drawn["nmi_slic_at_random"].to_numpy(), abs=0.03)


def test_orders_that_are_known(pair):
    model = network()
    rows = sgn.order(model, pair, context()).rows
    assert list(rows.columns) == [*sgn.ORDER, "seed"]
    known = rows.set_index(["layer", "order", "scope", "steps"])
    length, wide = 24 * 32, 32
    ends = 23
    raster = (24 * 31 + ends * np.hypot(1, 31)) / (length - 1)
    for layer in range(LAYERS):
        assert known.loc[(layer, "raster", "tile", 1), "distance"] == pytest.approx(raster, rel=1e-5)
        assert known.loc[(layer, "raster", "tile", 16), "pairs"] == length - 16
        assert abs(known.loc[(layer, "random", "tile", 1), "similarity"]) < 0.1
        window = known.loc[layer].xs("window", level="scope")["similarity"].droplevel("steps")
        assert window.idxmax() == "nearest"
    y, x = np.divmod(np.arange(length), wide)
    mean = np.hypot(y[:, None] - y, x[:, None] - x).sum() / (length * (length - 1))
    assert known.loc[(0, "random", "tile", 1), "distance"] == pytest.approx(mean, rel=0.05)


def test_prompts_have_the_size_and_rank_of_their_pool(pair):
    model = network()
    rows = prompts.prompts(model, pair, context()).rows
    assert rows["growth"].to_numpy() == pytest.approx(1.0, abs=0.35)  # 32 numbers of a layer's own draw
    assert (rows["rank_limit"] == 4).all() and rows["rank"].between(1, 4).all()
    for module in model.modules():
        if hasattr(module, "embeddingB"):
            module.embeddingB.weight.data *= 10
            module.embeddingB.weight.data[:, 1:] = 0  # one column of M: a pool of rank 1
    grown = prompts.prompts(model, pair, context()).rows
    assert grown["rank"].to_numpy() == pytest.approx(1.0, abs=1e-3) and (grown["growth"] > 2).all()
    assert np.allclose(grown["ratio"], grown["prompt_rms"] / grown["c_rms"])


def test_initial_pools_have_the_spread_that_growth_is_measured_by():
    for overrides in ({}, {"inner_rank": None, "pool_rank": 4}):
        config = models.configure("mambairv2-light", **overrides)
        model = models.build("mambairv2-light", **overrides)
        squares = []
        for layer in (module for module in model.modules() if hasattr(module, "assm")):
            factor = None if layer.embeddingA is None else layer.embeddingA.weight
            squares.append(float(layer.assm.table(factor).detach().square().mean()))
        assert np.mean(squares) ** 0.5 == pytest.approx(prompts.initial_rms(config), rel=0.05)


def test_peoples_segments_are_read_where_a_picture_has_them(pair, tmp_path):
    model = network()
    halves = np.ones((2 * HEIGHT, 2 * WIDTH), np.uint16)
    halves[:, WIDTH:] = 7
    entries = np.empty((1, 2), dtype=object)
    for number, segments in enumerate((halves, np.ones_like(halves))):
        entries[0, number] = {"Segmentation": segments, "Boundaries": np.zeros_like(segments)}
    savemat(tmp_path / "picture.mat", {"groundTruth": entries})
    half, whole = segmentations.people(tmp_path, pair, 2)
    assert half.shape == (HEIGHT, WIDTH) and (half == (np.arange(WIDTH) >= WIDTH // 2)).all() and (whole == 0).all()
    (analysis,) = prompts.analyses(model, human=tmp_path)
    rows = analysis.measure(model, pair, context()).rows
    assert set(analysis.columns) | {"seed"} == set(rows.columns) and rows["nmi_human"].between(0, 1).all()
    (tmp_path / "picture.mat").rename(tmp_path / "another.mat")
    segmentations._files.cache_clear()
    assert segmentations.people(tmp_path, pair, 2) == []
    assert analysis.measure(model, pair, context()).rows["nmi_human"].isna().all()
    with pytest.raises(SpecError, match=r"no \.mat file"):
        segmentations.people(tmp_path / "nowhere", pair, 2)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("mambairv2-tiny", {"ase": "off"}, "ase='off'"),
        ("mambairv2-tiny", {"prompt_target": "B"}, "prompt_target='B'"),
        ("mambairv2-tiny", {"memory": 4}, "memory=4"),
        ("mambair-light", {}, "has no classes"),
    ],
)
def test_networks_without_classes_are_refused(name, overrides, words):
    model = models.build(name, **overrides)
    for make in (sgn.analyses, prompts.analyses):
        with pytest.raises(SpecError, match=words):
            make(model)
