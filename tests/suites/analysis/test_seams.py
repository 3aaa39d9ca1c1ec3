"""Seams between tiles: a network whose error lies at seams alone, and one that has none there."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import models
from suites.analysis import seams
from suites.analysis.spec import Context, Pair
from suites.spec import Protocol, Task

TASK = Task("denoise", 15)


class Mean(torch.nn.Module):
    """A running mean of 7 columns: at a seam it needs 3 columns of the neighbour."""

    capabilities = models.Capabilities()

    def forward(self, x):
        return F.avg_pool2d(F.pad(x, (3, 3, 0, 0), "replicate"), (1, 7), stride=1)


def test_distances_are_those_from_the_places_where_tiles_meet():
    away = seams.distances(2, 9, 4)  # 9 columns in three parts, rows in one
    assert away[0].tolist() == [3, 2, 1, 1, 2, 1, 1, 2, 3] and (away[0] == away[1]).all()
    assert np.isinf(seams.distances(9, 9, "none")).all()


def test_bands_split_the_pixels():
    away = np.array([[1.0, 2.0, 3.0, 9.0, 40.0]])
    rows = seams.by_distance(np.array([[1.0, 3.0, 5.0, 7.0, 100.0]]), away)
    assert [(row["band"], row["mse"], row["share"]) for row in rows] == [
        (0, 23.2, 1.0),
        (2, 2.0, 0.4),
        (4, 5.0, 0.2),
        (16, 7.0, 0.2),
    ]


def test_overlap_takes_the_error_of_a_seam_away():
    draw = np.random.default_rng(0)
    lq = draw.random((8, 80, 3), dtype=np.float32)
    with torch.no_grad():
        whole = Mean()(torch.from_numpy(lq.transpose(2, 0, 1))[None])[0].numpy().transpose(1, 2, 0)
    pair = Pair("set", "image", "0" * 64, lq, np.rint(whole * 255).astype(np.uint8))
    protocol = Protocol.official(TASK, tiling=50, routing=None, prompt_order=None)
    measured = seams.measure(Mean(), pair, Context(TASK, protocol, torch.device("cpu"), (None,)))
    mse = measured.rows.set_index(["overlap", "band"])["mse"]
    assert mse[0, 2] > 10 and mse[0, 8] == 0  # tiles of 40: the mean is wrong up to 3 columns away
    assert mse[10, 0] == mse[20, 0] == 0 < mse[5, 2] < mse[0, 2]
    alone = Protocol.official(TASK, tiling="none", routing=None, prompt_order=None)
    assert seams.measure(Mean(), pair, Context(TASK, alone, torch.device("cpu"), (None,))).rows["overlap"].tolist() == [
        20
    ]


def test_distances_of_a_larger_output_are_in_input_pixels():
    scale = 2
    truth = np.zeros((8 * scale, 80 * scale, 3), np.uint8)
    pair = Pair("set", "image", "0" * 64, np.zeros((8, 80, 3), np.float32), truth)

    class Enlarge(Mean):
        def forward(self, x):
            return F.interpolate(x, scale_factor=scale)

    protocol = Protocol.official(Task("sr", scale), tiling=50, routing=None, prompt_order=None)
    rows = seams.measure(Enlarge(), pair, Context(Task("sr", scale), protocol, torch.device("cpu"), (None,))).rows
    compared = (8 * scale - 2 * scale) * (80 * scale - 2 * scale)
    near = rows[(rows["band"] == 2) & (rows["overlap"] == 0)]["share"].item() * compared
    assert near == pytest.approx(4 * scale * (8 * scale - 2 * scale))
