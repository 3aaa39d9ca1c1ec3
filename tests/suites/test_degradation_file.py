"""A user's function as a task: what it makes is what is scored and trained on, and its file is what names it."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from results.sets import official_protocol
from suites import degradation_file
from suites.data import DataError
from suites.data.degradations import degrade
from suites.data.pool import training_pair
from suites.execution.preflight import check_cells
from suites.recipes import smoke
from suites.spec import Cell, Protocol, SpecError, Task

CODE = """
import numpy as np

SCALE = {scale}


def noisy(image, draw):
    made = image[::SCALE, ::SCALE].astype(int) + draw.integers(-9, 10, (image.shape[0] // SCALE, 1, 1))
    return np.clip(made, 0, 255).astype(np.uint8)


def grey(image, draw):
    return image.mean(2)


def wrong(image, draw):
    raise RuntimeError("no such luck")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(CODE.format(scale=2))
    return tmp_path / "own.py"


def picture(height: int = 21, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_it_makes_the_degraded_image_once_for_each_picture(file: Path) -> None:
    task = degradation_file.task(f"custom:{file}:noisy")
    lq, truth = degrade(task, picture(), None)
    pixels = np.rint(lq * 255).astype(int)
    assert np.array_equal(truth, picture()[:20, :30]) and pixels.shape == (10, 15, 3)
    drawn = pixels - truth[::2, ::2]
    inside = (pixels > 0) & (pixels < 255)
    assert np.abs(drawn).max() <= 9 and len(set(drawn[inside])) > 5  # of rows, by the picture's own generator
    assert np.array_equal(lq, degrade(task, picture(), None)[0])
    assert not np.array_equal(lq[:, :1], degrade(task, picture()[:, ::-1], None)[0][:, :1])
    trained, gt = training_pair(task, picture())
    assert np.array_equal(trained, pixels) and np.array_equal(gt, truth)


def test_its_name_holds_the_hash_and_no_path(file: Path) -> None:
    task, digest = degradation_file.task(f"custom:{file}:noisy"), hashlib.sha256(file.read_bytes()).hexdigest()
    assert task.name == f"custom-x2-noisy-{digest[:16]}" and task.network == {"upscale": 2}
    stored = Task.parse(task.name)
    assert stored == task and stored.file is None
    with pytest.raises(SpecError, match=r"name it again with --task custom:FILE\.py:noisy"):
        degrade(stored, picture(), None)
    protocol = Protocol.official(task)
    assert (protocol.channels, protocol.lr_route, protocol.border) == ("rgb", None, 0)
    assert official_protocol(task.name)["channels"] == "rgb"
    file.write_text(CODE.format(scale=2) + "\nopen('ran', 'w')\n")
    with pytest.raises(SpecError, match="another file"):
        degrade(replace(stored, file=file), picture(), None)
    assert not Path("ran").exists()


def test_what_is_stored_runs_no_file(file: Path) -> None:
    file.write_text(CODE.format(scale=2) + "\nopen('ran', 'w')\n")
    cell = smoke.smoke(seeds=(0,)).cells[0]
    for refused in (Task.parse, lambda text: Cell.from_config(cell.config() | {"task": text})):
        with pytest.raises(SpecError, match="unknown task"):
            refused(f"custom:{file}:noisy")
    assert not Path("ran").exists()


def test_mistakes_name_the_function(file: Path) -> None:
    for name, told in (("grey", r"makes float64 \(20, 30\)"), ("wrong", "RuntimeError: no such luck")):
        with pytest.raises(DataError, match=rf"own\.py:{name}.*{told}"):
            degrade(degradation_file.task(f"custom:{file}:{name}"), picture(), None)
    for text, told in ((f"custom:{file}:none", "AttributeError"), ("custom:none.py:f", "cannot be read")):
        with pytest.raises(SpecError, match=told):
            degradation_file.task(text)
    cell = replace(smoke.smoke(seeds=(0,)).cells[0], task=degradation_file.task(f"custom:{file}:grey"))
    with pytest.raises(DataError, match=r"own\.py:grey"):  # before anything is trained
        check_cells([cell], "auto", "cpu")
