"""Checkpoints that know when they are damaged, and a log that is cut to fit them.

A checkpoint is what torch.save writes followed by its SHA-256 (a zip reader ignores what trails an archive, so
`torch.load` reads the file as it is). Writes are atomic, and the last two checkpoints are kept, so a damaged one costs
one interval and not the run.
"""

import hashlib
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from results import records

NAMES = ("checkpoint.pt", "checkpoint.previous.pt")  # newest first
NEXT = "checkpoint.next.pt"  # exists only while a checkpoint is being written
DIGEST = hashlib.sha256().digest_size


def save(folder: Path, state: dict[str, Any]) -> None:
    """Makes `state` (tensors and plain values) the newest checkpoint, and the newest so far the previous one.

    Raises StoreError when it cannot be written (no space, read-only, ...); both files are as they were then.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    newest, previous, fresh = (folder / name for name in (*NAMES, NEXT))
    records.write_bytes(fresh, content + hashlib.sha256(content).digest())
    with records.guarded(newest):
        if newest.exists():
            os.replace(newest, previous)
        os.replace(fresh, newest)  # killed just before this, the previous checkpoint alone is there
    records.sync_folder(folder)


def load(folder: Path) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, or None. A damaged one is kept as `<name>.corrupt`, with a warning."""
    for leftover in (*folder.glob(".*.tmp"), folder / NEXT):
        leftover.unlink(missing_ok=True)  # of a process killed while it wrote
    for path in (folder / name for name in NAMES):
        if not path.exists():
            continue
        content = path.read_bytes()
        body, digest = content[:-DIGEST], content[-DIGEST:]
        if hashlib.sha256(body).digest() == digest:
            return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        aside = records.set_aside(path)
        warnings.warn(
            f"{path} is damaged (its checksum is another) and was kept as {aside.name}: "
            "training goes on from the checkpoint before it, or else from the start",
            stacklevel=2,
        )
    return None


def discard(folder: Path) -> None:
    """Removes the checkpoints of a finished run; those kept aside as damaged stay."""
    for name in (*NAMES, NEXT):
        (folder / name).unlink(missing_ok=True)


def cut_log(path: Path, step: int) -> None:
    """Keeps the lines of a JSON-lines log up to `step`; drops later ones and a last line that was half written."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                break
        except ValueError:
            break
        kept.append(line)
    records.write_bytes(path, b"".join(kept))
