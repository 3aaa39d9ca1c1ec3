"""Restores a user's own pictures, file by file: a bad file does not stop the others."""

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from models.ops import scan
from suites import environment
from suites.data import DataError
from suites.data.pictures import load_picture
from suites.evaluation import tiling
from suites.evaluation.evaluate import EvaluationError, restore_picture, save_picture
from suites.evaluation.picture_files import Plan, cannot_write, colour_profile, plan, size_of
from suites.evaluation.restoration.outlook import Outlook
from suites.evaluation.scoring import load_model
from suites.evaluation.tile_graphs import TileGraphs
from suites.network_file import NetworkFile
from suites.spec import Protocol, SpecError, Task

Progress = Callable[[str, int, int], None]  # (picture, tiles done, tiles in all; a tile counts once per sample)


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
    computing is told and checked first (`Outlook`): a picture that does not fit into the GPU's memory by what was
    measured is not begun. Raises DataError when there is nothing to restore, a picture would be replaced or the output
    cannot be written, SpecError without a network, ModelError for weights that do not fit.
    """
    todo = plan(source, target, overwrite)
    if network is None and model is None:
        raise SpecError("no network was named: give --model NAME, or --network FILE.yml")
    built, protocol = load_model(
        model or str(network), task, weights, protocol, network=network, backend=backend, device=device
    )
    outlook = Outlook(None if network else model, task, protocol, torch.device(device), scan_of(built, device))
    _look_ahead(todo, outlook, say)
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
            raise DataError(cannot_write(restored, error)) from error
        else:
            say(f"{picture} {_size(pixels)} -> {restored} {_size(output)}")
    return failed


def _look_ahead(todo: Plan, outlook: Outlook, say: Callable[[str], object]) -> None:
    """Tells how pictures will be taken; refuses those that do not fit."""
    sizes = {picture: size for picture, _ in todo.pairs if (size := size_of(picture)) is not None}
    lacking = {picture: reason for picture, size in sizes.items() if (reason := outlook.lacks(size)) is not None}
    for line in outlook.lines([size for picture, size in sizes.items() if picture not in lacking]):
        say(line)
    todo.refused += [f"{picture}: {reason}" for picture, reason in lacking.items()]
    todo.pairs = [pair for pair in todo.pairs if pair[0] not in lacking]


def scan_of(network: nn.Module, device: str | torch.device) -> str | None:
    """The scan that the network computes with there; None for one without."""
    own = getattr(network, "backend", None)
    return own and scan.resolve(own, torch.device(device))


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
        row |= {"backend": scan_of(network, self.device)}
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
