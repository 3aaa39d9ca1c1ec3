"""A cell's training between two steps: what a checkpoint holds, the log, the loss that is watched, the final weights.

Every draw is a pure function of (seed, step, sample) (`suites.data.sampling`), so a checkpoint needs no generator's
state: patches, noise of the task, routing noise and stochastic depth all follow from the step.
"""

import hashlib
import json
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import models
from models.ops.scan import resolve
from results import records
from suites import environment, variant
from suites.data.pool import Batch, Pool
from suites.spec import Budget, Cell
from suites.training import checkpoints, initial
from suites.training.cuda_graph import CaptureError, GraphedStep
from suites.training.processes import ALONE, Processes, SharedStep
from suites.training.step import TrainingError, learning_rate, optimise

WINDOW = 100  # steps over which losses are averaged to tell whether they diverge
DIVERGED = 10.0  # a window's mean over the best window's mean


def log_every(budget: Budget) -> int:
    """Steps between two lines of the log: 100, or a twentieth of a short run."""
    return max(1, min(100, budget.iterations // 20))


@dataclass
class LossMonitor:
    """Tells a loss that has left the finite, or whose mean over 100 steps is over 10 times the best such mean."""

    recent: deque = field(default_factory=lambda: deque(maxlen=WINDOW))
    best: float = math.inf

    def add(self, step: int, loss: float) -> None:
        """Raises TrainingError at the step where the loss went wrong."""
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {step}: lower the learning rate or use fp32", step, loss)
        self.recent.append(loss)
        if len(self.recent) == WINDOW:
            mean = math.fsum(self.recent) / WINDOW
            self.best = min(self.best, mean)
            if mean > DIVERGED * self.best:
                raise TrainingError(
                    f"the loss diverges: {mean:.4g} on average over the {WINDOW} steps up to {step}, "
                    f"after {self.best:.4g}: lower the learning rate",
                    step,
                    loss,
                )

    def state(self) -> dict[str, Any]:
        return {"recent": list(self.recent), "best": self.best}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "LossMonitor":
        return cls(deque(state["recent"], maxlen=WINDOW), state["best"])


class Run:
    """One cell's training in its folder: the network, what a checkpoint holds beside it, and the log.

    Of several `processes` that train it, all hold the same state, and the first one alone writes.
    """

    def __init__(
        self,
        cell: Cell,
        model: nn.Module,
        identity: dict[str, str],
        folder: Path,
        device: torch.device,
        backend: str,
        processes: Processes = ALONE,
    ) -> None:
        self.cell, self.budget, self.model, self.folder, self.device = cell, cell.budget, model, folder, device
        self.identity, self.processes = identity, processes
        can = models.capabilities_of(model)
        self.circumstances = {
            "device": device.type,
            "backend": backend,
            "compiled": can.compiles and model.compiled,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "sums": processes.sums,
        }
        on_gpu = device.type == "cuda"
        captured = on_gpu and backend == "triton" and not can.stochastic_depth
        rate = torch.tensor(self.budget.lr, device=device) if on_gpu else self.budget.lr
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=rate, betas=self.budget.betas, fused=True, capturable=on_gpu
        )
        self.step, self.monitor, self.unlogged = 0, LossMonitor(), []
        self.loss: float | None = None  # mean over the last line of the log
        self.seconds = self.logged_at = 0.0  # of the steps that count, over all processes that took them
        self.on_device = torch.zeros(log_every(self.budget), device=device)  # losses not read yet
        self.unread = 0
        self.extra: dict[str, Any] = {}  # what hooks keep in the checkpoints: tensors, plain values
        self.log = folder / "train.jsonl"
        self.work: Callable[[Batch], Tensor] = self.stepper(captured)

    def stepper(self, captured: bool) -> Callable[[Batch], Tensor]:
        """What takes a step: as a CUDA graph, as far as it can be one, or kernel by kernel."""
        if self.processes.count > 1:
            shared = SharedStep(self.model, self.optimizer, self.cell, self.processes, captured)
            return lambda batch: shared(batch, self.step)

        def alone(batch: Batch) -> Tensor:
            return optimise(self.model, self.optimizer, batch, self.cell, self.step)

        return GraphedStep(alone, self.device) if captured else alone

    def restore(self) -> None:
        """Takes up the newest whole checkpoint, if any; cuts the log to it. Raises TrainingError for a foreign one."""
        state = self.processes.agreed(self._checkpoint)
        if state:
            before = {"sums": ALONE.sums} | state["circumstances"]  # which older checkpoints do not hold
            changed = [k for k, v in self.circumstances.items() if before.get(k) != v]
            if changed:
                told = ", ".join(f"{k} {before.get(k)} before, {self.circumstances[k]} now" for k in changed)
                warnings.warn(
                    f"{self.cell.name} goes on under other circumstances, so not bit for bit: {told}", stacklevel=2
                )
            self.model.load_state_dict(state["model"])
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
            self.step, self.monitor = state["step"], LossMonitor.of(state["watch"])
            self.unlogged = state["unlogged"]
            self.seconds, self.logged_at = state["seconds"], state["logged_at"]
            self.extra = state.get("extra", state.get("beside", {}))  # "beside": its name in older checkpoints

    def _checkpoint(self) -> dict[str, Any] | None:
        state = checkpoints.load(self.folder)
        if state:
            check_identity(state["identity"], self.identity, self.folder)
        checkpoints.cut_log(self.log, state["step"] if state else 0)
        return state

    def save(self) -> None:
        """A complete checkpoint. The log's lines up to here are on disk before it."""
        if not self.processes.first:
            return
        if self.log.exists():
            with records.guarded(self.log), open(self.log, "rb") as log:
                os.fsync(log.fileno())
        state = {
            "identity": self.identity,
            "circumstances": self.circumstances,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "watch": self.monitor.state(),
            "extra": self.extra,
            "unlogged": self.unlogged,
            "seconds": self.seconds,
            "logged_at": self.logged_at,
        }
        checkpoints.save(self.folder, state)

    def advance(self, batch: Batch) -> None:
        """One step of training, without reading anything back. Raises TrainingError for one that cannot be recorded."""
        self.step += 1
        rate = learning_rate(self.budget, self.step)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        try:
            loss = self.work(batch)
        except CaptureError as error:
            slow = "kernel by kernel it would take many times as long (--backend chunked trains so)"
            raise TrainingError(f"{self.cell.name}: {error}; {slow}") from error
        self.on_device[self.unread] = loss
        self.unread += 1

    def read(self) -> None:
        """Reads the losses from the device, which waits for it. Raises TrainingError for the first that is wrong."""
        losses = self.on_device[: self.unread].tolist()
        first = self.step - self.unread + 1
        self.unread = 0
        for step, loss in enumerate(losses, first):
            self.monitor.add(step, loss)
        self.unlogged += losses

    def write_line(self) -> None:
        """Logs the steps since the last line; `loss` is their mean from then on."""
        count = len(self.unlogged)
        loss = math.fsum(self.unlogged) / count
        rate = count * self.budget.batch / max(self.seconds - self.logged_at, 1e-9)
        line = {
            "step": self.step,
            "lr": learning_rate(self.budget, self.step),
            "loss": loss,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(rate, 3),
            "peak_mib": round(peak_memory(self.device) / 2**20, 1),
        }
        if self.processes.first:
            with records.guarded(self.log), open(self.log, "a") as log:
                log.write(json.dumps(line) + "\n")
        self.unlogged, self.logged_at, self.loss = [], self.seconds, loss

    def tensors(self) -> dict[str, Tensor]:
        """The network's tensors on the host."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}

    def keep(self, path: Path) -> None:
        """The weights as they are now, in a file of their own."""
        records.write_bytes(path, safetensors.torch.save(self.tensors()))

    def finish(self) -> Path:
        """Writes the final weights and drops the checkpoints. Raises TrainingError when a weight is not finite."""
        path = self.folder / "weights.safetensors"
        tensors = self.tensors()
        spoilt = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if spoilt:  # by the last update, whose loss no step measures
            raise TrainingError(f"{spoilt[0]} is not finite after step {self.step}", self.step, math.nan)
        if not self.processes.first:
            return path
        # One key of metadata only: safetensors writes several in an order of its own, another each time.
        records.write_bytes(path, safetensors.torch.save(tensors, {"training": json.dumps(self.identity)}))
        checkpoints.discard(self.folder)
        return path


def check_identity(found: dict[str, str], expected: dict[str, str], folder: Path) -> None:
    """Raises TrainingError when what lies in `folder` was trained by another configuration or on other images."""
    what = {"cell": "another configuration", "images": "other training images"}
    wrong = [text for key, text in what.items() if found.get(key) != expected[key]]
    if wrong:
        raise TrainingError(
            f"what {folder} holds was trained with {' and '.join(wrong)}: bring those back, or remove that folder"
        )


def trained_as(weights: Path) -> dict[str, str] | None:
    """The identity that `Run.finish` wrote into final weights; None for a damaged file, which is then set aside."""
    try:
        with safetensors.safe_open(weights, "pt") as file:
            return json.loads((file.metadata() or {}).get("training", "{}"))
    except safetensors.SafetensorError as error:
        aside = records.set_aside(weights)
        warnings.warn(
            f"{weights} is damaged ({error}) and was kept as {aside.name}: the cell is trained again", stacklevel=3
        )
        return None


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, the most that the process took on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return environment.peak_memory()


def hash_images(images: Sequence[np.ndarray]) -> str:
    """16 hex digits of all shapes and pixels, in order."""
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        digests = workers.map(lambda image: hashlib.sha256(np.ascontiguousarray(image)).digest(), images)
        shapes = [image.shape for image in images]
        return hashlib.sha256(repr(shapes).encode() + b"".join(digests)).hexdigest()[:16]


def identify(cell: Cell, images: str) -> dict[str, str]:
    """Hashes of all that decides the weights: the trained part of the configuration, and `hash_images`."""
    trained = {k: v for k, v in cell.config().items() if k not in ("test_sets", "protocol")}
    return {"cell": records.key_of(trained), "images": images}


def begin(
    cell: Cell,
    identity: dict[str, str],
    folder: Path,
    device: torch.device,
    backend: str,
    compiled: bool = False,
    own: Path | None = None,
    processes: Processes = ALONE,
) -> Run:
    """The cell's network, new or as the last checkpoint in `folder` holds it.

    Weights that it starts from lie in the store that `folder` is in. own: as of `suites.variant.build`. Raises
    TrainingError for a foreign checkpoint or what cannot be compiled, ModelError for what the catalogue cannot build,
    and both ModelError and SpecError for weights to start from that are not there or do not fit.
    """
    model = variant.build(cell.variant, cell.task, own=own, seed=cell.seed, backend=backend)
    if cell.variant.source is None:
        models.initialise(model, cell.seed)
    if cell.initial is not None:
        initial.load(model, initial.read(folder.parent, cell.initial), cell.initial)
    model.to(device).train()
    if compiled:
        if not models.capabilities_of(model).compiles:
            raise TrainingError(f"{cell.name}: {cell.variant.model} has no layers to compile; train it without")
        model.compiled = True
    used = resolve(backend, device) if cell.variant.source is None else "none"  # a class has no scan of ours
    run = Run(cell, model, identity, folder, device, used, processes)
    run.restore()
    return run


def semantics_of(run: Run) -> tuple[str | None, int | None]:
    """Who makes the labels of the pool's pictures and of how many classes; (None, None) where the network sorts by its
    own. Raises TrainingError for a network that sorts nothing."""
    trained = run.cell.variant
    if trained.labels == "learned":
        return None, None
    if (classes := models.capabilities_of(run.model).classes) is None:
        what = f"{trained.model} sorts nothing, so it has no use for labels by {trained.labels}"
        raise TrainingError(f"{run.cell.name}: {what}")
    return trained.labels, classes


def pool_of(run: Run, images: Sequence[np.ndarray]) -> Pool:
    """The pictures and batches of a run. Raises TrainingError when no image is as large as the patch."""
    cell, labels = run.cell, semantics_of(run)
    try:
        return Pool(images, cell.task, run.budget.patch, run.budget.batch, cell.seed, run.device, *labels)
    except ValueError as error:
        raise TrainingError(f"{cell.name}: {error}") from error
