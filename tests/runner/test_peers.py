"""`evaluate spandrel`: networks of other papers from their checkpoints; skipped, by name, where it is not installed."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
from results import measured
from suites import peers
from suites.data.degradations import degrade
from suites.spec import Protocol, SpecError, Task
from tests.runner.helpers import Command, photo, refused

X2 = Task.parse("sr-x2")


def spandrel() -> object:
    try:
        import spandrel
    except Exception as error:
        pytest.skip(f"spandrel cannot be imported: {error}")
    return spandrel


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of a small SwinIR x2 with a window of 8, that pads."""
    spandrel()
    from spandrel.architectures.SwinIR import SwinIR

    torch.manual_seed(0)
    size = {"img_size": 64, "window_size": 8, "depths": [2], "embed_dim": 12, "num_heads": [2], "mlp_ratio": 2}
    network = SwinIR(upscale=2, upsampler="pixelshuffledirect", **size)
    torch.save({"params_ema": network.state_dict()}, tmp_path / "swin.pth")
    return tmp_path / "swin.pth"


def test_scores_are_of_what_spandrel_restores(command: Command, weights: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "measured").mkdir()
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    file = photo(tmp_path / "data" / "One" / "a.png", 38)
    where = ["--data", tmp_path / "data", "--results", tmp_path / "store", "--device", "cpu"]
    asked = ["evaluate", "spandrel", "--weights", weights, "--task", "sr-x2", "--sets", "One"]
    status, _, err = command(*asked, "--save-images", "out", "--json", "found.json", *where)
    assert status == 0, err
    assert json.loads(Path("found.json").read_text())["environment"]["backend"] == "none"
    lq, _ = degrade(X2, np.asarray(Image.open(file)), Protocol.official(X2).lr_route)
    direct = spandrel().ModelLoader().load_from_file(weights)
    with torch.no_grad():
        restored = direct(torch.from_numpy(lq).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    saved = np.asarray(Image.open(next(Path("out").rglob("a.png"))))
    assert np.abs(saved - np.clip(np.round(restored * 255), 0, 255)).max() <= 1
    told = command("compare", "spandrel", weights, *where)
    assert told[0] == 2 and "SwinIR" in told[2] and models.weights_hash(weights)[:8] in told[2]  # both are the same
    refused(command(*asked[:4], "--task", "sr-x4", "--sets", "One", *where), "SwinIR", "sr-x4 needs x4")


def test_weights_of_an_unknown_network_are_refused(tmp_path: Path) -> None:
    spandrel()
    torch.save({"strange.weight": torch.zeros(3)}, tmp_path / "strange.pth")
    with pytest.raises(models.ModelError, match="knows no network"):
        peers.load(tmp_path / "strange.pth", X2)


def test_without_it_the_message_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(SpecError, match=r"pip install -e '\.\[peers\]'"):
        peers.load(tmp_path / "any.pth", X2)
