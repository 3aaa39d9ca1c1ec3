"""Pictures so small that what a cell costs is its process."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from suites.data import embedded

SETS = ("train_sets=Little-train", "test_sets=Little")  # settings of a recipe


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A --data folder with the sets of SETS: corners of embedded pictures."""
    root = tmp_path_factory.mktemp("data")
    for name, stems in (("Little-train", embedded.TRAIN[:2]), ("Little", embedded.TEST[:2])):
        (root / name).mkdir()
        for stem, path in embedded.files(stems).items():
            pixels = np.asarray(Image.open(path).convert("RGB"))
            Image.fromarray(pixels[100:140, 100:148]).save(root / name / f"{stem}.png")
    return root
