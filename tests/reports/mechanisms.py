"""Records of the analyses of lam, erf, decay and redundancy, as small as can be, for tables and figures."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import save

from results.analyses import Record
from results.analyses.folder import arrays_path
from results.records import write_bytes

OFFICIAL = "2609912bc390c324873c55fea6426dbd741eb788d61131631cbf8dde125c3458"


def record(name: str, rows: pd.DataFrame, weights: str = OFFICIAL, folder: Path | None = None, **changes) -> Record:
    """Of `rows` with image and the analysis' own columns. changes: of `parameters`, and `file` for other weights."""
    machine = {"file": changes.pop("file")} if "file" in changes else {}
    key = {"analysis": name, "parameters": changes, "model": "mambairv2-light", "overrides": {}, "weights": weights}
    key |= {"task": "sr-x4", "dataset": "Set5", "protocol": {}}
    own = list(rows.columns.drop("image"))
    rows = rows.assign(pixels="", seed=0, environment="one")
    return Record(key, 2, "?", dict.fromkeys(own, ""), rows, {"one": machine}, folder)


def lam(di: dict[str, float], folder: Path | None = None, **options) -> Record:
    """One image each, with its DI; a map of 8 x 8 where there is a folder."""
    common = {"top": 16, "left": 16, "reach50": 1.0, "reach90": 2.0, "reach99": 3.0, "gap": -0.5}
    rows = pd.DataFrame([{"image": image, "di": value, **common} for image, value in di.items()])
    found = record("lam", rows, folder=folder, intervention=options.pop("intervention", "unchanged"), **options)
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    keep(found, {"map/0": values, "window": np.array([16, 16, 16, 4])})
    return found


def erf(field: np.ndarray, folder: Path, **options) -> Record:
    rows = [
        {"image": image, "procedure": "mambair", "share": share, "side": side, "area": area}
        for image, (share, side, area) in itertools.product("ab", [(0.2, 3.0, 0.1), (0.99, np.nan, np.nan)])
    ]
    found = record("erf", pd.DataFrame(rows), folder=folder, **options)
    keep(found, {"mambair/0": field.astype(np.float32), "replknet/0": field.astype(np.float32)})
    return found


def decay(**options) -> Record:
    """Two images, two layers, decay and share 0.9^k and of_output half of it, twice as far in raster order."""
    rows = []
    for image, layer, order, k in itertools.product("ab", range(2), ("network", "raster"), (1, 4, 16)):
        value = 0.9 ** (k / (1 if order == "network" else 2))
        row = {"image": image, "layer": layer, "direction": 0, "order": order, "steps": k}
        rows.append(row | {"decay": value, "share": value, "of_output": value / 2})
    return record("decay", pd.DataFrame(rows), **options)


def redundancy(**options) -> Record:
    """Two images, two layers, three pairs: `state` 0.6 in the first layer and 0.8 in the second, 1 for the others."""
    rows = []
    for image, layer, (first, second) in itertools.product("ab", range(2), itertools.combinations("xyz", 2)):
        row = {"image": image, "layer": layer, "first": first, "second": second}
        rows.append(row | {"pixel": 1.0, "whole": 1.0, "centred": 1.0, "state": (0.6, 0.8)[layer], "skip": 1.0})
    return record("redundancy", pd.DataFrame(rows), **options)


def scored(name: str, psnr: dict[str, float], **options) -> Record:
    """PSNR by image under the intervention `name`."""
    rows = pd.DataFrame({"image": list(psnr), "psnr": list(psnr.values())})
    return record("interventions", rows, intervention=name, **options)


def keep(found: Record, arrays: dict[str, np.ndarray]) -> None:
    if found.folder is not None:
        for image in found.rows["image"].unique():
            write_bytes(arrays_path(found.folder, image), save(arrays))
