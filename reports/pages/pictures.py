"""Before and after: the crops that a store holds or that are committed, with the error made visible."""

import base64
import io
import re
from typing import Any

import numpy as np
from PIL import Image

from reports.tables.rows import protocol_text
from results import crops
from results.crops import Crop
from results.evidence import Evidence

GAIN = 4  # the error map shows this many times the absolute difference
LABELS = {"degraded": "degraded", "bicubic": "bicubic", "restored": "restored", "truth": "truth", "error": "error"}


def load(evidence: Evidence) -> list[dict[str, Any]]:
    """A slider per crop: its views as data URIs in order, the two that it begins with, and notes."""
    return [_slider(number, crop) for number, crop in enumerate(crops.load(evidence.store), 1)]


def _slider(number: int, crop: Crop) -> dict[str, Any]:
    facts, views = crop.facts, {name: crop.views[name] for name in crops.VIEWS if name in crop.views}
    views["error"] = error_map(crop.views["restored"], crop.views["truth"])
    height, width = facts["window"][2:]
    labels = LABELS | ({"degraded": "low resolution"} if facts["task"].startswith("sr-") else {})
    psnr = "identical" if facts["psnr"] is None else f"{facts['psnr']:.3f} dB"
    place = "committed" if crop.committed else "in this store"
    return {
        "id": f"picture-{number}-{re.sub(r'[^A-Za-z0-9-]', '-', facts['image'])}",
        "title": f"{facts['image']} ({facts['dataset']}), {facts['task']}: {facts['model']}",
        "views": [{"name": name, "label": labels[name], "data": _uri(data)} for name, data in views.items()],
        "first": "bicubic" if "bicubic" in views else "degraded",
        "second": "restored",
        "width": width,
        "height": height,
        "notes": [
            f"{psnr} on the whole picture; {height}x{width} pixels from row {facts['window'][0]}, column "
            f"{facts['window'][1]}. Error: {GAIN} times the absolute difference, the mean of the channels.",
            f"Weights {facts['file']}; {protocol_text(facts['protocol'])}.",
            f"`{facts['command']}`, commit {str(facts['commit'])[:10]}, {facts['device']}, {facts['date'][:10]}, "
            f"{place}.",
        ],
    }


def error_map(restored: bytes, truth: bytes) -> bytes:
    """GAIN times the absolute difference of two PNG files, as a gray one: black where they agree."""
    ours, theirs = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float) for data in (restored, truth))
    error = np.abs(ours - theirs).mean(axis=2) * GAIN
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.rint(error), 0, 255).astype(np.uint8)).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
