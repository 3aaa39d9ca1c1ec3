"""Training of one cell by the official recipe, killable at any moment.

Loss, optimiser, schedule and augmentation are those of the official configuration files (BasicSR): Adam without weight
decay, MultiStepLR counted in iterations, no warm-up, no EMA, no clipping. Every draw is a pure function of (seed, step,
sample) (`suites.data.sampling`), so a checkpoint needs no generator's state: patches, noise of the task, routing noise
and stochastic depth all follow from the step. On a CPU a run that was killed and started again ends in the same bits.

The host never waits for the device within a step: losses stay there and are read every `log_every(budget)` steps.
`optimise` is the whole of a step's work on the device.
"""

import hashlib
import json
import math
import os
import resource
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import models
from models.ops.common.precision import precision
from models.ops.noise import PhiloxGumbel, noise_key
from models.ops.scan import resolve
from results import records
from suites.data.pool import Batch, Pool
from suites.data.sampling import prefetch
from suites.spec import Budget, Cell
from suites.training import checkpoints
from suites.training.cuda_graph import Captured, CaptureError

WINDOW = 100  # steps over which losses are averaged to tell whether they diverge
DIVERGED = 10.0  # a window's mean over the best window's mean
Progress = Callable[[int, int, float, float, float], None]


class TrainingError(RuntimeError):
    """The cell cannot be trained, or its loss left the finite or diverged: then `record` says where, for JSON."""

    def __init__(self, message: str, step: int | None = None, loss: float | None = None) -> None:
        super().__init__(message)
        shown = loss if loss is None or math.isfinite(loss) else str(loss)
        self.record = {} if step is None else {"step": step, "loss": shown}


def learning_rate(budget: Budget, step: int) -> float:
    """The rate of iteration `step`, counted from 1: lr * gamma^(milestones below `step`).

    BasicSR steps its MultiStepLR at the start of every iteration but the first, so that iteration m is the last one
    at the old rate and m + 1 the first at the new one.
    """
    return budget.lr * budget.gamma ** sum(milestone < step for milestone in budget.milestones)


def loss_of(budget: Budget, output: Tensor, target: Tensor) -> Tensor:
    """Mean over all entries of |d|, or of sqrt(d^2 + eps): the official Charbonnier adds eps unsquared (losses.py)."""
    difference = output.to(target.dtype) - target
    if budget.loss == "l1":
        return difference.abs().mean()
    return (difference.square() + budget.charbonnier_eps).sqrt().mean()


def log_every(budget: Budget) -> int:
    """Steps between two lines of the log: 100, or a twentieth of a short run."""
    return max(1, min(100, budget.iterations // 20))


@contextmanager
def determinism(enabled: bool) -> Iterator[None]:
    """Deterministic algorithms (PyTorch raises where there is none) or cudnn's fastest, until the block ends."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    fill = torch.utils.deterministic.fill_uninitialized_memory
    if enabled:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first CUDA context is made
    torch.use_deterministic_algorithms(enabled)
    torch.backends.cudnn.benchmark = not enabled
    torch.utils.deterministic.fill_uninitialized_memory = False  # it costs time and changes no defined result
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        torch.utils.deterministic.fill_uninitialized_memory = fill


def optimise(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, cell: Cell, step: int) -> Tensor:
    """One iteration: gradients of the batch's mean loss, summed over equal parts, and an update. Returns that loss.

    Nothing is read back from the device. Stochastic depth (MambaIR) draws from torch's generator, keyed by step and
    part, so that alone differs between a batch and its parts; a step that is being captured has none.
    """
    budget = cell.budget
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=batch.gt.device)
    for number, part in enumerate(batch.parts(budget.accumulate)):
        if not (batch.gt.is_cuda and torch.cuda.is_current_stream_capturing()):
            torch.manual_seed(noise_key("depth", cell.seed, step, number))
        model.noise = PhiloxGumbel(part.keys)
        with precision(budget.precision, batch.gt.device):
            output = model(part.lq) if part.labels is None else model(part.lq, part.labels)
            loss = loss_of(budget, output, part.gt) / budget.accumulate
            with torch.autocast(batch.gt.device.type, enabled=False):  # gradients have the types of the forward pass
                loss.backward()
        total += loss.detach()
    optimizer.step()
    return total


@dataclass
class Watch:
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
    def of(cls, state: dict[str, Any]) -> "Watch":
        return cls(deque(state["recent"], maxlen=WINDOW), state["best"])


class Run:
    """The state of one cell's training in its folder: what a checkpoint holds, and the log."""

    def __init__(
        self, cell: Cell, model: nn.Module, identity: dict[str, str], folder: Path, device: torch.device, backend: str
    ) -> None:
        self.cell, self.budget, self.model, self.folder, self.device = cell, cell.budget, model, folder, device
        self.identity = identity
        can = models.capabilities_of(model)
        self.circumstances = {
            "device": device.type,
            "backend": backend,
            "compiled": can.compiles and model.compiled,
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
        }
        on_gpu = device.type == "cuda"
        captured = on_gpu and backend == "triton" and not can.stochastic_depth
        rate = torch.tensor(self.budget.lr, device=device) if on_gpu else self.budget.lr
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=rate, betas=self.budget.betas, fused=True, capturable=on_gpu
        )
        self.step, self.watch, self.unlogged = 0, Watch(), []
        self.seconds = self.logged_at = 0.0  # of the steps that count, over all processes that took them
        self.on_device = torch.zeros(log_every(self.budget), device=device)  # losses not read yet
        self.unread = 0
        self.beside: dict[str, Any] = {}  # what the caller keeps in the checkpoints: tensors, plain values
        self.log = folder / "train.jsonl"
        self.work: Callable[[Batch], Tensor] = Captured(self.optimise, device) if captured else self.optimise

    def optimise(self, batch: Batch) -> Tensor:
        return optimise(self.model, self.optimizer, batch, self.cell, self.step)

    def restore(self) -> None:
        """Takes up the newest whole checkpoint, if any; cuts the log to it. Raises TrainingError for a foreign one."""
        state = checkpoints.load(self.folder)
        if state:
            check_identity(state["identity"], self.identity, self.folder)
            changed = [k for k, v in self.circumstances.items() if state["circumstances"].get(k) != v]
            if changed:
                told = ", ".join(
                    f"{k} {state['circumstances'].get(k)} before, {self.circumstances[k]} now" for k in changed
                )
                warnings.warn(
                    f"{self.folder} goes on under other circumstances, so not bit for bit: {told}", stacklevel=2
                )
            self.model.load_state_dict(state["model"])
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
            self.step, self.watch, self.unlogged = state["step"], Watch.of(state["watch"]), state["unlogged"]
            self.seconds, self.logged_at = state["seconds"], state["logged_at"]
            self.beside = state.get("beside", {})
        checkpoints.cut_log(self.log, self.step)

    def save(self) -> None:
        """A complete checkpoint. The log's lines up to here are on disk before it."""
        if self.log.exists():
            with records.guarded(self.log), open(self.log, "rb") as log:
                os.fsync(log.fileno())
        state = {
            "identity": self.identity,
            "circumstances": self.circumstances,
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict()["state"],
            "watch": self.watch.state(),
            "beside": self.beside,
            "unlogged": self.unlogged,
            "seconds": self.seconds,
            "logged_at": self.logged_at,
        }
        checkpoints.save(self.folder, state)

    def advance(self, batch: Batch) -> None:
        """One step of training, without reading anything back."""
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
            warnings.warn(f"{error}; steps are launched kernel by kernel, slower", stacklevel=2)
            self.work = self.optimise
            loss = self.work(batch)
        self.on_device[self.unread] = loss
        self.unread += 1

    def read(self) -> None:
        """Waits for the device and takes over its losses. Raises TrainingError for the first that is wrong."""
        losses = self.on_device[: self.unread].tolist()
        first = self.step - self.unread + 1
        self.unread = 0
        for step, loss in enumerate(losses, first):
            self.watch.add(step, loss)
        self.unlogged += losses

    def write_line(self) -> tuple[float, float]:
        """Logs the steps since the last line. Returns their mean loss and images per second."""
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
        with records.guarded(self.log), open(self.log, "a") as log:
            log.write(json.dumps(line) + "\n")
        self.unlogged, self.logged_at = [], self.seconds
        return loss, rate

    def finish(self) -> Path:
        """Writes the final weights and drops the checkpoints. Raises TrainingError when a weight is not finite."""
        path = self.folder / "weights.safetensors"
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        spoilt = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if spoilt:  # by the last update, whose loss no step measures
            raise TrainingError(f"{spoilt[0]} is not finite after step {self.step}", self.step, math.nan)
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
        aside = checkpoints.set_aside(weights)
        warnings.warn(
            f"{weights} is damaged ({error}) and was kept as {aside.name}: the cell is trained again", stacklevel=3
        )
        return None


def peak_memory(device: torch.device) -> int:
    """Bytes: the most that tensors took on a GPU, the most that the process took on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def identify(cell: Cell, images: Sequence[np.ndarray]) -> dict[str, str]:
    """Hashes of all that decides the weights: the trained part of the configuration, and every pixel."""
    trained = {k: v for k, v in cell.config().items() if k not in ("test_sets", "protocol")}
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        digests = workers.map(lambda image: hashlib.sha256(np.ascontiguousarray(image)).digest(), images)
        shapes = [image.shape for image in images]
        total = hashlib.sha256(repr(shapes).encode() + b"".join(digests))
    return {"cell": records.key_of(trained), "images": total.hexdigest()[:16]}


def train(
    cell: Cell,
    images: Sequence[np.ndarray],
    folder: Path,
    *,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    deterministic: bool = True,
    compiled: bool = False,
    on_progress: Progress | None = None,
) -> Path:
    """Trains a cell on `images` (uint8 [H, W, 3]) and returns the path of its weights, `folder`/weights.safetensors.

    A folder where it was started before is taken up at its last checkpoint, and a finished one is returned as it is.
    In the folder besides: train.jsonl, a line every `log_every` steps (step, lr, loss: mean since the last line,
    seconds, images_per_second, peak_mib), and checkpoint.pt until the end.
    compiled: MambaIRv2's layers run as torch.compile makes them (models.compilation); the first step waits for it.
    On a GPU whose scan is in kernels a step is one CUDA graph (suites.training.cuda_graph), which changes no bit of it;
    not for networks that draw at random in training (MambaIR's stochastic depth). on_progress(step, iterations, loss,
    images per second, seconds left) is called with every line.

    Raises TrainingError (bad images, a foreign checkpoint, a loss that is not finite or diverges), ModelError for what
    the catalogue cannot build, StoreError when the folder cannot be written.
    """
    device = torch.device(device)
    identity = identify(cell, images)
    done = folder / "weights.safetensors"
    if done.exists() and (made := trained_as(done)) is not None:
        check_identity(made, identity, folder)
        checkpoints.discard(folder)
        return done
    with records.guarded(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with determinism(deterministic), torch.cuda.device(device if device.type == "cuda" else -1):
        run = begin(cell, identity, folder, device, backend, compiled)
        _train_steps(run, pool_of(run, images), on_progress)
        return run.finish()


def begin(
    cell: Cell, identity: dict[str, str], folder: Path, device: torch.device, backend: str, compiled: bool = False
) -> Run:
    """The cell's network and where its training stands in `folder`. Raises as `train`."""
    model = models.build(cell.variant.model, **cell.task.network | cell.variant.overrides, backend=backend)
    models.initialise(model, cell.seed)
    model.to(device).train()
    if compiled:
        if not models.capabilities_of(model).compiles:
            raise TrainingError(f"{cell.name}: {cell.variant.model} has no layers to compile; train it without")
        model.compiled = True
    run = Run(cell, model, identity, folder, device, resolve(backend, device))
    run.restore()
    return run


def semantics_of(run: Run) -> tuple[str | None, int | None]:
    """Who makes the labels of the pool's pictures and of how many classes; (None, None) where the network sorts by its
    own. Raises TrainingError for a network that sorts nothing."""
    variant = run.cell.variant
    if variant.labels == "learned":
        return None, None
    if (classes := models.capabilities_of(run.model).classes) is None:
        what = f"{variant.model} sorts nothing, so it has no use for labels by {variant.labels}"
        raise TrainingError(f"{run.cell.name}: {what}")
    return variant.labels, classes


def pool_of(run: Run, images: Sequence[np.ndarray]) -> Pool:
    """The pictures and batches of a run. Raises TrainingError when no image is as large as the patch."""
    cell, labels = run.cell, semantics_of(run)
    try:
        return Pool(images, cell.task, run.budget.patch, run.budget.batch, cell.seed, run.device, *labels)
    except ValueError as error:
        raise TrainingError(f"{cell.name}: {error}") from error


def _train_steps(run: Run, pool: Pool, on_progress: Progress | None) -> None:
    """From the step where `run` stands to the last."""
    total, every = run.budget.iterations, log_every(run.budget)
    start, begun, before = time.perf_counter(), run.step, run.seconds
    warm = None  # (step, time) of the first line: the first steps compile and allocate, and tell little of the rest
    with closing(prefetch(pool.fetch, range(run.step + 1, total + 1))) as steps:
        for fetched in steps:
            run.advance(pool.batch(fetched))
            log = run.step % every == 0 or run.step == total
            checkpoint = run.step % run.budget.checkpoint_every == 0
            if not (log or checkpoint):
                continue
            run.read()
            elapsed = time.perf_counter() - start
            run.seconds = before + elapsed
            if log:
                loss, rate = run.write_line()
                since = warm or (begun, 0.0)
                pace = (elapsed - since[1]) / (run.step - since[0])
                warm = warm or (run.step, elapsed)
                if on_progress:
                    on_progress(run.step, total, loss, rate, pace * (total - run.step))
            if checkpoint:
                run.save()
