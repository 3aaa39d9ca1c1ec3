"""Committed weights of trained cells: they are those of the cells that they name, load strictly, and restore."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import models
from results import measured
from suites.data import embedded
from suites.data.degradations import degrade
from suites.data.resize import imresize
from suites.evaluation import ways
from suites.evaluation.evaluate import restore
from suites.spec import Cell

FOLDER = measured.FOLDER / "h200" / "weights"
SHORT, LONG = (json.loads((FOLDER / name).read_text())["files"] for name in ("weights.json", "long.json"))
ABOUT = SHORT | LONG
CELLS = {
    key: cell
    for name in ("ablations", "ablations-long")
    for key, cell in json.loads((measured.FOLDER / "h200" / f"{name}.scores.json").read_text())["cells"].items()
}


def psnr(image: np.ndarray, truth: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((image.clip(0, 1) - truth / 255) ** 2)))


@pytest.mark.parametrize("name", sorted(ABOUT))
def test_weights_are_of_their_cell_and_restore_better_than_bicubic(name):
    about, entry = ABOUT[name], CELLS[ABOUT[name]["cell"]]
    cell = Cell.from_config(entry["config"])
    assert name == f"{'long-' * (name in LONG)}{cell.variant.name}-seed-{cell.seed}.safetensors"
    assert entry["config"]["budget"]["iterations"] == (60_000 if name in LONG else 6_000)
    assert models.weights_hash(FOLDER / name) == about["weights"]
    assert about["weights_float32"] == entry["status"]["weights"]
    network = ways.scored_network(cell, "auto").eval()
    models.load_weights(network, FOLDER / name)  # strictly, and as float32
    assert models.weights_hash(network) == about["weights_loaded"]
    assert measured.budgets()[about["weights_loaded"]] == entry["config"]["budget"]["name"]
    assert sum(p.numel() for p in network.parameters()) == entry["parameters"]
    with Image.open(embedded.files(("coffee",))["coffee"]) as file:
        truth = np.asarray(file.convert("RGB"))[120:184, 200:264]
    lq, gt = degrade(cell.task, truth, cell.protocol.lr_route)
    ours = restore(network, lq, replace(cell.protocol, samples=1), "coffee")
    assert psnr(ours, gt) > psnr(imresize(lq, 2), gt) + 0.5


def test_rounding_to_float16_moves_no_set_by_more_than_two_thousandths():
    rows = pd.read_csv(FOLDER / "scores.csv.xz")
    assert set(rows["hash"]) == {about["cell"] for about in SHORT.values()} and len(rows) == 131 * len(SHORT)
    means = (rows["psnr"] - rows["psnr_float32"]).groupby([rows["variant"], rows["dataset"]]).mean()
    assert means.abs().max() < 0.002 and (rows["psnr"] != rows["psnr_float32"]).mean() > 0.9
