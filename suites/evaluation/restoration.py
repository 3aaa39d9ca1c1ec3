"""Restores a user's own pictures, file by file: a bad file does not stop the others."""

import errno
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

import models
from models.ops import scan
from suites import environment
from suites.data import DataError
from suites.data.pictures import SUFFIXES, load_picture
from suites.evaluation import tiling
from suites.evaluation.evaluate import EvaluationError, restore_picture, save_picture
from suites.evaluation.scoring import load_model
from suites.evaluation.tile_graphs import TileGraphs
from suites.network_file import NetworkFile
from suites.spec import Protocol, SpecError, Task

Progress = Callable[[str, int, int], None]  # (picture, tiles done, tiles in all; a tile counts once per sample)
WRITING = {  # why a file cannot be written, and what to do
    errno.ENOSPC: "no space is left there: free some, or choose another OUTPUT",
    errno.EDQUOT: "the disk quota is used up: free some, or choose another OUTPUT",
    errno.EROFS: "the file system is read-only: choose another OUTPUT",
    errno.EACCES: "you may not write there: choose another OUTPUT",
    errno.EPERM: "you may not write there: choose another OUTPUT",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter OUTPUT",
}


@dataclass
class Plan:
    """pairs: (picture, restored picture) of everything to be done. kept: outputs that exist and are left alone.
    refused: why a picture is not restored, a line each."""

    pairs: list[tuple[Path, Path]]
    kept: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def restore(
    source: Path,
    target: Path,
    model: str | None,
    task: Task,
    weights: Path,
    protocol: Protocol,
    *,
    network: Path | NetworkFile | None = None,
    overwrite: bool = False,
    device: str = "cpu",
    backend: str = "auto",
    say: Callable[[str], object] = print,
    progress: Progress | None = None,
    spent: Callable[[dict[str, Any]], object] | None = None,
) -> int:
    """Restores the picture `source`, or every picture in and below the folder `source`, into `target`.

    Returns how many failed; a line about each picture goes to `say`. See `plan` for what is written where, and
    `restore_picture` for gray pictures and alpha. A colour profile is attached to the restored picture as it is.
    model: of the catalogue, built for `task`; or `network`, an official option file or a class in a user's file.
    overwrite: replace outputs that exist. spent: gets what each picture cost, as `Cost.row` has it, with its name and
    whether it is the first, in whose seconds kernels are compiled or loaded. Everything that can be known before
    computing is checked first: raises DataError when there is nothing to restore, a picture would be replaced or the
    output cannot be written, SpecError without a network, ModelError for weights that do not fit.
    """
    todo = plan(source, target, overwrite)
    if network is None and model is None:
        raise SpecError("no network was named: give --model NAME, or --network FILE.yml")
    built, protocol = load_model(
        model or str(network), task, weights, protocol, network=network, backend=backend, device=device
    )
    for reason in todo.refused:
        say(f"failed: {reason}")
    for path in todo.kept:
        say(f"kept: {path} exists already (--overwrite replaces it)")
    failed = len(todo.refused)
    how: dict[str, Any] = {"device": device, "graphs": TileGraphs(built, device)}
    first = True
    for picture, restored in todo.pairs:
        try:
            pixels = load_picture(picture, alpha=True)
            how["told"] = _telling(progress, picture, pixels.shape[:2], built, protocol)
            cost = Cost(torch.device(device)) if spent is not None else None
            output = restore_picture(built, pixels, task, protocol, stem=picture.stem, **how)
            row = cost and cost.row(pixels.shape[:2], output.shape[:2], built, protocol)
            save_picture(output, restored, colour_profile(picture))
            if row is not None:
                spent(row | {"picture": picture.name, "first": first})
            first = False
        except (DataError, EvaluationError) as error:
            failed += 1
            say(f"failed: {error}")
        except OSError as error:  # the disk has filled up since the check: the next pictures would fail as well
            raise DataError(_cannot_write(restored, error)) from error
        else:
            say(f"{picture} {_size(pixels)} -> {restored} {_size(output)}")
    return failed


class Cost:
    """What a picture costs, from when this is made: seconds, and the memory of the process and of its device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.start = device, time.perf_counter()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)

    def row(self, size: tuple[int, int], restored: tuple[int, int], network: nn.Module, protocol: Protocol) -> dict:
        """seconds; height, width, restored, tiles, tile (the largest, height and width), overlap (of a part, in per
        cent); params; device_mib: the most that PyTorch held of the device meanwhile, tensors_mib: what tensors took of
        it, device_used_mib: what is in use there now, by others too, all None on a CPU; host_mib: the most that the
        process held since it began; backend and precision."""
        seconds = time.perf_counter() - self.start
        cut = tiling.tiles(*size, protocol.tiling)
        tile = (max(t.rows.stop - t.rows.start for t in cut), max(t.columns.stop - t.columns.start for t in cut))
        row = {"seconds": seconds, "height": size[0], "width": size[1], "restored": list(restored)}
        row |= {"tiles": len(cut), "tile": list(tile), "overlap": tiling.OVERLAP if len(cut) > 1 else None}
        row |= {"params": sum(p.numel() for p in network.parameters()), "precision": protocol.precision}
        own = getattr(network, "backend", None)
        row |= {"backend": own and scan.resolve(own, self.device)}
        row |= dict.fromkeys(("device_mib", "tensors_mib", "device_used_mib"))
        row["host_mib"] = environment.peak_memory() / 2**20
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            most = torch.cuda.max_memory_reserved(self.device), torch.cuda.max_memory_allocated(self.device)
            row |= {"device_mib": most[0] / 2**20, "tensors_mib": most[1] / 2**20}
            row |= {"device_used_mib": (total - free) / 2**20}
        return row


def backends(rows: Sequence[dict[str, Any]]) -> str:
    """Of the scan, as `Cost.row` has them: "none" for a network without one."""
    return ", ".join(dict.fromkeys(row["backend"] or "none" for row in rows))


def plan(source: Path, target: Path, overwrite: bool = False) -> Plan:
    """Which picture is restored into which file; nothing is decoded or written.

    A single picture goes to `target`, a .png file or a folder. A folder's pictures, those of its sub-folders too, go to
    the same place in the folder `target`, as <stem>.png; `target` itself is left out where it lies inside `source`, and
    so are hidden files and folders. Without `overwrite` an output that exists is kept, and an error for a single
    picture. Raises DataError when there is no picture, OUTPUT is the picture itself, or OUTPUT cannot be written.
    """
    if source.is_dir():
        planned = _folder(source, target, overwrite)
    elif source.is_file():
        planned = _single(source, target, overwrite)
    else:
        raise DataError(f"{source} does not exist: give a picture or a folder of pictures")
    for folder in {restored.parent for _, restored in planned.pairs}:
        check_writable(folder)
    return planned


def _single(source: Path, target: Path, overwrite: bool) -> Plan:
    restored = target
    if target.is_dir() or not target.suffix:
        restored = target / f"{source.stem}.png"
    elif target.suffix.lower() != ".png":
        raise DataError(f"{target}: restored pictures are written as .png, which loses nothing")
    if _same_file(source, restored):
        raise DataError(f"{restored} is the picture itself: choose another OUTPUT, so that it is not replaced")
    if restored.is_dir():
        raise DataError(f"{restored} is a folder: choose another OUTPUT")
    if restored.exists() and not overwrite:
        raise DataError(f"{restored} exists already: choose another OUTPUT, or replace it with --overwrite")
    return Plan([(source, restored)])


def _folder(source: Path, target: Path, overwrite: bool) -> Plan:
    if target.is_file():
        raise DataError(f"{target} is a file: the pictures of a folder are restored into a folder")
    if _same_file(source, target):
        raise DataError(
            f"{target} is the folder of the pictures themselves: choose another, so that none of them is replaced"
        )
    found: dict[Path, list[Path]] = {}
    for folder, folders, names in os.walk(source):
        here = Path(folder)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not _same_file(here / name, target)
        )
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                picture = here / name
                found.setdefault(target / picture.relative_to(source).with_suffix(".png"), []).append(picture)
    if not found:
        raise DataError(f"{source} holds no picture: give a picture, or a folder with some")
    planned = Plan([])
    for restored, pictures in found.items():
        if len(pictures) > 1:
            names = " and ".join(path.name for path in pictures)
            planned.refused.append(f"{pictures[0].parent}: {names} would both become {restored}: rename one of them")
        elif _same_file(pictures[0], restored):
            planned.refused.append(f"{restored} is the picture itself, under another name: choose another OUTPUT")
        elif restored.exists() and not overwrite:
            planned.kept.append(restored)
        else:
            planned.pairs.append((pictures[0], restored))
    return planned


def colour_profile(picture: Path) -> bytes | None:
    """The ICC profile that the file holds, as it is."""
    with Image.open(picture) as image:
        return image.info.get("icc_profile")


def _same_file(one: Path, other: Path) -> bool:
    """Whether both are one file or folder, by whatever names and links."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))


def check_writable(folder: Path, name: str = "OUTPUT") -> None:
    """Raises DataError where a file in `folder`, which need not exist, could not be written; name: of what was given
    as it."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise DataError(f"cannot write into {folder}: {there} is a file, not a folder; choose another {name}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise DataError(f"cannot write into {folder}: {WRITING[errno.EACCES].replace('OUTPUT', name)}")


def _cannot_write(path: Path, error: OSError) -> str:
    reason = WRITING.get(error.errno or 0, f"{error.strerror or error}; choose another OUTPUT")
    return f"cannot write {path}: {reason}. The pictures listed above are written."


def _telling(
    progress: Progress | None, picture: Path, size: tuple[int, int], network: nn.Module, protocol: Protocol
) -> Callable[[], object]:
    """What is called after every tile of a picture of `size` (height, width); `progress` is told before the first."""
    if progress is None:
        return lambda: None
    sampled = protocol.routing == "gumbel" and models.capabilities_of(network).routed
    total = len(tiling.tiles(*size, protocol.tiling)) * (protocol.samples if sampled else 1)
    done = itertools.count(1)
    progress(picture.name, 0, total)
    return lambda: progress(picture.name, next(done), total)


def _size(pixels) -> str:
    return f"{pixels.shape[0]}x{pixels.shape[1]}"
