"""The network that `profile` times, with its input, and the check that its result is right.

Weights are random, since no time depends on their values. They are larger than initial ones, so that a wrong scan,
prompt or attention shows in the output. Only the routers keep their small initial weights: then the Gumbel noise
decides the classes, and rounding hardly ever changes one.

The reference is the plain network in float32 (matrix products and softmax, PyTorch's sort, prompts as products, the
scan in chunks) on the same input, noise and weights. Two correct networks may still choose different classes for a
pixel whose classes nearly tie, and that shifts the prompts of every pixel sorted after it. So there are two checks: a
strict one with the order given (`labels`), where such a pixel affects only itself, and a coarse one of the call that is
timed. A check passes when a large enough share of values is within a tolerance, in units of the tensor's root mean
square. In training the values are the gradients of all parameters.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import models
from models.ops.common.dispatch import without_kernels
from models.ops.noise import PhiloxGumbel, noise_key
from suites.benchmark.launch_modes import MeasuredGraph
from suites.data.pool import Batch
from suites.evaluation.evaluate import inference
from suites.evaluation.tile_graphs import RECURS, TileGraphs
from suites.network_file import NetworkFile
from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training.step import optimise

# Factors on initial weights (see above).
INIT_SCALE = 4.0  # of matrix products
BIAS_SCALE = 25.0  # of position bias tables, so that they matter next to attention scores of order one
PROMPT_SCALE = 8.0  # of both factors of the prompts
PART = 2**14  # pixels that the reference takes at a time; at least one image


@dataclass(frozen=True)
class Limits:
    """Tolerances of the check with the order given and of the free one, and the share of values that must be within."""

    given: float
    free: float
    given_share: float = 0.999
    free_share: float = 0.99

    def of(self, given: bool) -> tuple[float, float]:
        """(tolerance, share needed) with the order given or not."""
        return (self.given, self.given_share) if given else (self.free, self.free_share)


LIMITS = {
    ("inference", "fp32"): Limits(1e-4, 1e-2),
    ("inference", "tf32x3"): Limits(1e-4, 1e-2),
    ("inference", "tf32"): Limits(1e-2, 2e-2),
    ("inference", "bf16"): Limits(5e-2, 5e-2, 0.99),
    ("training", "fp32"): Limits(1e-3, 1e-1),
    ("training", "tf32x3"): Limits(1e-3, 1e-1),
    ("training", "tf32"): Limits(1e-1, 2e-1, 0.99, 0.95),
    ("training", "bf16"): Limits(5e-1, 5e-1, 0.99, 0.95),
}


class BenchmarkModel:
    """A catalogue model with an input of one size and batch, in one mode, on one device.

    name, overrides: as in `models.build`; own: the network in its place, with its own initial values.
    mode: "inference" (no gradients, evaluation mode) or "training" (steps of suites.training.step.optimise at learning
    rate 0: they cost as much as any other and leave the weights unchanged).
    size: (height, width) of the network's input. Raises ModelError or TypeError as `models.build` does, SpecError as
    `NetworkFile.build`.
    """

    def __init__(
        self,
        name: str,
        overrides: dict[str, Any],
        task: Task,
        mode: str,
        size: tuple[int, int],
        batch: int,
        device: torch.device,
        own: NetworkFile | None = None,
    ) -> None:
        self.mode, self.device, self.own = mode, device, own
        if own is None:
            self.network = models.build(name, **{**task.network, **overrides})
            scale_init(self.network)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # the reference may be another instance of it
                self.network = own.build()
        self.network.to(device).train(mode == "training")
        self.can = models.capabilities_of(self.network)
        self.graphs: dict[tuple, MeasuredGraph] = {}  # by precision, backend and whether the order is given
        self.tiles: dict[tuple, TileGraphs] = {}  # likewise
        self.take(task, size, batch)
        variant, budget = Variant("own", name, overrides), Budget("reduced", 1, batch=batch, patch=min(size))
        self.cell = Cell(variant, task, 0, budget, (), (), Protocol.official(task))
        self.optimizer = None
        self.initial = [p.detach().cpu().clone() for p in self.network.parameters()]
        if mode == "training":  # as suites.training.state.Run makes it
            on_gpu = device.type == "cuda"
            rate = torch.zeros((), device=device) if on_gpu else 0.0
            options = {"betas": budget.betas, "fused": True, "capturable": on_gpu}
            self.optimizer = torch.optim.Adam(self.network.parameters(), lr=rate, **options)

    def take(self, task: Task, size: tuple[int, int], batch: int) -> None:
        """Makes an input of another size and batch; what was recorded for the last one is forgotten."""
        self.graphs.clear()
        self.tiles.clear()
        self.batch = self.labels = None
        draw, device = torch.Generator().manual_seed(0), self.device
        shapes = [(batch, task.channels, *size)]
        if self.mode == "training":
            shapes.append((batch, task.channels, *(side * task.scale for side in size)))
        images = (torch.rand(shape, generator=draw).to(device) for shape in shapes)
        lq, *targets = (x.contiguous(memory_format=torch.channels_last) for x in images)
        keys = [noise_key("profile", index) for index in range(batch)]
        self.key = keys[0]
        keys = torch.tensor([(key + 2**63) % 2**64 - 2**63 for key in keys], dtype=torch.int64, device=device)
        self.batch = Batch(lq, targets[0] if targets else None, keys, None)
        if self.can.classes is not None:
            self.labels = torch.randint(self.can.classes, (batch, *size), generator=draw).to(device)

    @property
    def random_in_training(self) -> bool:
        """Whether it draws from PyTorch's own generator, whose numbers depend on the device (stochastic depth)."""
        return self.mode == "training" and self.can.stochastic_depth

    def call(self, precision: str, backend: str, launch: str, labels: Tensor | None = None, parts: int = 1) -> Tensor:
        """What is timed: the output, or the loss of a step. Raises what the network raises where it cannot run.

        launch: "eager", "compiled" (models.compilation), "graph" (recorded by the first call, then replayed) or
        "tiles": as `evaluate` and `restore` launch a tile of a size that recurs (suites.evaluation.tile_graphs).
        parts: how many equal parts of the batch are taken one after the other; the result is the same, the memory less.
        """
        if self.own is None:
            self.network.backend = backend
        if self.can.compiles:
            self.network.compiled = launch == "compiled"
        elif launch == "compiled":
            raise models.ModelError("this network has no layers to compile")
        batch = replace(self.batch, labels=labels)
        if launch == "tiles":
            return self.tile(batch, precision, backend)
        if launch != "graph":
            return self.work(batch, precision, parts)
        if self.random_in_training:
            raise models.ModelError("this network draws at random in training, which no CUDA graph can repeat")
        key = precision, backend, labels is not None
        if key not in self.graphs:
            self.graphs[key] = MeasuredGraph(
                lambda given: self.work(given, precision, parts), batch, self.bytes, list(self.network.parameters())
            )
        return self.graphs[key](batch)

    def tile(self, batch: Batch, precision: str, backend: str) -> Tensor:
        """The output of one image as one tile. The first call makes so many that the size has recurred."""
        if self.mode != "inference" or batch.lq.shape[0] != 1:
            raise models.ModelError("tiles are restored one at a time: inference with batch 1")
        key, calls = (precision, backend, batch.labels is not None), 1
        if key not in self.tiles:
            self.tiles[key], calls = TileGraphs(self.network, self.device), RECURS + 1
        with inference(self.network, self.device, precision):
            for _ in range(calls):
                output = self.tiles[key](batch.lq, batch.labels, self.key if self.can.routed else None)
        return output

    def work(self, batch: Batch, precision: str, parts: int) -> Tensor:
        """The output, or the loss of a step, by the backend that the network has now."""
        if self.mode == "training":
            budget = replace(self.cell.budget, precision=precision, accumulate=parts)
            return optimise(self.network, self.optimizer, batch, replace(self.cell, budget=budget), 1)
        with torch.no_grad(), models.precision(precision, self.device):
            outputs = [self.restored(part) for part in batch.parts(parts)]
        return torch.cat(outputs) if parts > 1 else outputs[0]

    def restored(self, batch: Batch) -> Tensor:
        if self.can.routed:
            self.network.noise = PhiloxGumbel(batch.keys)
        return self.network(batch.lq) if batch.labels is None else self.network(batch.lq, batch.labels)

    def result(self, precision: str, backend: str, launch: str, given: bool = False, parts: int = 1) -> list[Tensor]:
        """What is checked, as float32 tensors on the CPU: the output, or the gradient of every parameter."""
        labels = self.labels if given else None
        output = self.call(precision, backend, launch, labels, parts)
        key = precision, backend, labels is not None
        graph = self.graphs[key] if launch == "graph" else None
        if self.mode == "inference":
            found = [output.float().cpu()]
        else:
            gradients = graph.gradients if graph else [p.grad for p in self.network.parameters()]
            found = [x.float().cpu() for x in gradients if x is not None]
            self.reset_weights()
        if graph and labels is not None:
            del self.graphs[key]  # nobody times it
        return found

    @torch.no_grad()
    def reset_weights(self) -> None:
        """Puts the weights back after a step whose gradients were not finite: learning rate 0 times those is NaN."""
        if self.optimizer and not all(p.isfinite().all() for p in self.network.parameters()):
            for parameter, value in zip(self.network.parameters(), self.initial, strict=True):
                parameter.copy_(value)
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()  # in place: CUDA graphs read it at this address

    def reference(self, given: bool) -> list[Tensor]:
        """`result` of the plain network in float32, a few images at a time. Raises as that does, also for memory.

        The scan is in chunks, since step by step it takes minutes.
        """
        batch, _, height, width = self.batch.lq.shape
        fitting = (n for n in range(1, batch) if batch % n == 0 and batch * height * width <= n * PART)
        parts = 1 if self.random_in_training else next(fitting, batch)
        with without_kernels():
            return self.result("fp32", "chunked", "eager", given and self.labels is not None, parts)

    def bytes(self) -> int:
        """Bytes of all tensors that stay on the device between two calls."""
        kept = [
            *self.network.parameters(),
            *self.network.buffers(),
            *filter(torch.is_tensor, vars(self.batch).values()),
        ]
        kept += [p.grad for p in self.network.parameters() if p.grad is not None]
        kept += [] if self.labels is None else [self.labels]
        if self.optimizer:
            kept += [x for state in self.optimizer.state.values() for x in state.values() if torch.is_tensor(x)]
        return sum(x.untyped_storage().nbytes() for x in kept)


@torch.no_grad()
def scale_init(network: nn.Module) -> None:
    """Enlarges initial weights, so that every part of the network matters to its output (see the module)."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and ".route" not in name:
            module.weight.mul_(INIT_SCALE)
        elif isinstance(module, nn.Embedding):
            module.weight.mul_(PROMPT_SCALE)
    for name, parameter in network.named_parameters():
        if name.endswith("relative_position_bias_table"):
            parameter.mul_(BIAS_SCALE)


def agreement(found: list[Tensor], expected: list[Tensor], tolerance: float) -> float:
    """Share of all values of `found` within tolerance times the root mean square of their tensor of `expected`.

    0 where a value is not finite: then no other matters.
    """
    if not all(x.isfinite().all() for x in found):
        return 0.0
    within = total = 0
    for a, b in zip(found, expected, strict=True):
        within += int(((a - b).abs() <= tolerance * b.square().mean().sqrt()).sum())
        total += b.numel()
    return within / total
