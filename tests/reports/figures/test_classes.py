"""Figures of classes, sequences and prompts: what is computed for them, and that they are drawn from stored rows."""

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save

from reports.figures import classes, prompts, sequences
from results import records
from results.analyses import folder


def test_a_restructured_picture_lists_pixels_class_by_class():
    lq = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    found = classes.restructured(lq, np.array([[1, 0, 1], [0, 2, 0]]))
    assert found[..., 0].tolist() == [[1, 3, 5], [0, 2, 4]]


def test_maps_are_drawn_from_stored_arrays(tmp_path, make):
    rows = pd.DataFrame({"image": ["a", "b"], "layer": 0})
    generator = np.random.default_rng(0)
    arrays = {"lq": generator.integers(0, 255, (8, 12, 3), dtype=np.uint8)}
    arrays |= {name: generator.integers(0, 5, (6, 8, 12)).astype(np.int16) for name in ("likeliest", "seed-0")}
    folder.arrays_path(tmp_path, "b").parent.mkdir()
    records.write_bytes(folder.arrays_path(tmp_path, "b"), save(arrays))
    classes.draw(
        [make.analysis("sgn-classes", rows), make.analysis("sgn-classes", rows, tmp_path)], tmp_path / "maps.png"
    )
    assert (tmp_path / "maps.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="this store has none"):
        classes.draw([make.analysis("sgn-classes", rows)], tmp_path / "none.png")


def test_images_count_alike_whatever_the_seeds(tmp_path, make):
    rows = [
        {"image": image, "seed": seed, "layer": layer, "order": name, "scope": scope, "steps": 1}
        | {"similarity": value + layer, "distance": 10.0}
        for image, seed, value in (("a", 0, 0.0), ("a", 1, 0.2), ("b", 0, 0.5))
        for layer in (0, 1)
        for name in ("network", "raster", "nearest")
        for scope in ("tile", "window")
    ]
    own = make.analysis("sgn-order", pd.DataFrame(rows))
    found = sequences.means(own).set_index(["layer", "order", "scope"])["similarity"]
    assert found[0, "network", "tile"] == pytest.approx(0.3) and found[1, "raster", "window"] == pytest.approx(1.3)
    sequences.draw([own, own], tmp_path / "order.png")
    assert (tmp_path / "order.png").stat().st_size > 10_000


def test_prompts_are_drawn_of_the_set_with_most_images(tmp_path, make):
    def of(images, dataset):
        rows = [
            {"image": image, "seed": 0, "layer": layer, "routing": routing, "used": "x1", "ratio": 0.1, "growth": 2.0}
            | {"effective": 8.0 if routing == "gumbel" else 2.0, "nmi_slic": 0.2, "nmi_slic_at_random": 0.1}
            for image in images
            for layer in (0, 1, 2)
            for routing in ("gumbel", "argmax")
        ]
        return make.analysis("prompts", pd.DataFrame(rows), dataset=dataset)

    found = prompts.means(of("ab", "Set5"))
    assert len(found) == 6 and set(found["effective"]) == {8.0, 2.0} and "used" not in found
    prompts.draw([of("a", "Set5"), of("ab", "Set14")], tmp_path / "prompts.svg")
    text = (tmp_path / "prompts.svg").read_text()
    assert text.startswith("<?xml") and len(text) > 10_000
