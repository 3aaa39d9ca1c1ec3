"""The tile rule against geometry worked out by hand, and against networks that reveal which tile a pixel came from."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from suites.evaluation import tiling


def enlarge(scale):
    return lambda x, labels, tile: F.interpolate(x, scale_factor=scale, mode="nearest")


@pytest.mark.parametrize(
    ("length", "rule", "expected"),
    [
        (199, "official", [(0, 199, 0, 199)]),
        # 200 // 200 + 1 = 2 parts of 100, overlap 10
        (200, "official", [(0, 110, 0, 100), (90, 200, 100, 200)]),
        # 360 // 200 + 1 = 2 parts of 180, overlap 18
        (360, "official", [(0, 198, 0, 180), (162, 360, 180, 360)]),
        # 640 // 200 + 1 = 4 parts of 160, overlap 16
        (640, "official", [(0, 176, 0, 160), (144, 336, 160, 320), (304, 496, 320, 480), (464, 640, 480, 640)]),
        # 401 // 200 + 1 = 3 parts, padded to 402: 134 each, overlap 13
        (401, "official", [(0, 147, 0, 134), (121, 281, 134, 268), (255, 402, 268, 402)]),
        (1000, "none", [(0, 1000, 0, 1000)]),
        (1, "official", [(0, 1, 0, 1)]),
        # 33 // 16 + 1 = 3 parts of 11, overlap 1
        (33, 16, [(0, 12, 0, 11), (10, 23, 11, 22), (21, 33, 22, 33)]),
    ],
)
def test_spans_equal_geometry_by_hand(length, rule, expected):
    assert [(s.start, s.stop, s.keep_start, s.keep_stop) for s in tiling.spans(length, rule)] == expected


def test_360_by_640_is_cut_in_2_by_4_in_raster_order():
    cut = tiling.tiles(360, 640, "official")
    assert [tile.index for tile in cut] == list(range(8))
    assert [(tile.rows.keep_start, tile.columns.keep_start) for tile in cut] == [
        (y, x) for y in (0, 180) for x in (0, 160, 320, 480)
    ]


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (15, 16), (16, 31), (33, 50), (47, 16), (101, 67)])
@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("rule", [16, 23, "none", "official"])
def test_a_pointwise_network_gives_the_same_as_without_tiles(size, scale, rule):
    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tiling.run(enlarge(scale), x, None, rule), enlarge(scale)(x, None, None))


def test_each_centre_comes_from_its_own_tile():
    seen = []

    def network(x, labels, tile):
        seen.append(tuple(x.shape[-2:]))
        return torch.full((1, 1, 2 * x.shape[-2], 2 * x.shape[-1]), float(tile.index))

    out = tiling.run(network, torch.zeros(1, 3, 360, 640), None, "official")
    assert out.shape == (1, 1, 720, 1280)
    expected = np.kron(np.arange(8).reshape(2, 4), np.ones((360, 320)))
    np.testing.assert_array_equal(out[0, 0].numpy(), expected)
    assert seen == [(198, w) for _ in range(2) for w in (176, 192, 192, 176)]


def test_a_tile_sees_its_neighbours_for_a_tenth_of_its_length_and_no_further():
    """640 pixels make tiles of 160, overlap 16: a running mean of radius 16 is that of the whole row, of 17 is not."""
    x = torch.rand(1, 1, 40, 640, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def mean(radius):
        side = 2 * radius + 1
        return lambda x, labels, tile: F.avg_pool2d(F.pad(x, (radius, radius, 0, 0), "replicate"), (1, side), stride=1)

    def error(radius):
        whole = mean(radius)(x, None, None)
        return (tiling.run(mean(radius), x, None, "official") - whole).abs().amax(dim=(0, 1, 2))

    assert error(16).max() < 1e-12
    wrong = torch.nonzero(error(17) > 1e-12).flatten()
    assert set(wrong.tolist()) == {159, 160, 319, 320, 479, 480}


def test_padding_mirrors_without_repeating_the_edge():
    x = torch.arange(12).reshape(1, 3, 4)
    np.testing.assert_array_equal(
        tiling.reflect(x, 5, 6).numpy(), np.pad(x.numpy(), ((0, 0), (0, 2), (0, 2)), mode="reflect")
    )


def test_padded_tiles_hold_mirrored_pixels():
    parts = []

    def network(x, labels, tile):
        parts.append(x)
        return x

    x = torch.arange(401.0).reshape(1, 1, 1, 401)
    tiling.run(network, x, None, "official")
    assert parts[-1].flatten().tolist() == [*range(255, 401), 399.0]


def test_labels_are_cut_with_the_image():
    x = torch.rand(1, 1, 35, 52, generator=torch.Generator().manual_seed(0))
    labels = (x[:, 0] * 1e6).long()

    def network(part, part_labels, tile):
        assert torch.equal((part[:, 0] * 1e6).long(), part_labels)
        return part

    tiling.run(network, x, labels, 16)


def test_an_output_that_does_not_fit_is_refused():
    with pytest.raises(tiling.TilingError, match=r"\(17, 17\).*\(16, 16\)"):
        tiling.run(lambda x, labels, tile: x[..., 1:, 1:], torch.zeros(1, 3, 17, 17), None, "none")
