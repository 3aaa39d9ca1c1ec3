"""Several processes that train one cell, each on parts of every batch: one batch, one gradient, one update for all.

A batch is `Budget.accumulate` parts whatever the number of processes. Each part's gradient is computed alone; a process
gets a share of all entries of all parts (one all-to-all), adds the parts in their order, and hands the sums round (one
all-gather). These are the additions that one process does when it takes one part after the other, so that the weights
are the same bits for any number of processes that divides the number of parts. With as many parts as processes it
sends as much as a ring all-reduce, whose order of additions is the library's own and depends on their number.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from suites.data.pool import Batch
from suites.spec import SUMS, Cell, SpecError
from suites.training.cuda_graph import GraphedStep
from suites.training.step import backward

PATIENCE = timedelta(minutes=30)  # for another process: the first one reads and keeps what all of them need

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among `count` that train a cell together. The first one (rank 0) reads, keeps, logs and decides.

    sums: "in-order" or "all-reduce" (module docstring). control: what small messages of the host go through.
    """

    rank: int = 0
    count: int = 1
    sums: str = SUMS[0]
    control: Any = field(default=None, repr=False)

    @classmethod
    @contextmanager
    def joined(cls, count: int, device: torch.device, sums: str = SUMS[0]) -> Iterator["Processes"]:
        """Waits for `count` processes, as torchrun's variables (RANK, WORLD_SIZE, ...) name them; one waits for none.

        device: this process's own, a GPU of its own among them.
        """
        if count == 1:
            yield ALONE
            return
        if device.type == "cuda":
            dist.init_process_group("nccl", timeout=PATIENCE, device_id=device)
        else:
            dist.init_process_group("gloo", timeout=PATIENCE)
        try:
            yield cls(dist.get_rank(), count, sums, dist.new_group(backend="gloo", timeout=PATIENCE))
        finally:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agreed(self, make: Callable[[], T]) -> T:
        """What `make` returns in the first process, in all of them; what it raises there, all of them raise."""
        if self.count == 1:
            return make()
        told: list[Any] = [None, None]
        if self.first:
            try:
                told[0] = make()
            except Exception as error:
                told[1] = error
        dist.broadcast_object_list(told, 0, self.control)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def parts(self, count: int) -> range:
        """Which of `count` parts of a batch are this process's: neighbours. Raises SpecError for unequal shares."""
        if count % self.count:
            raise SpecError(
                f"a batch of {count} equal part{'s' * (count > 1)} cannot be shared by {self.count} processes: "
                f"--set accumulate={self.count} (or a multiple) makes it so many parts, which is another cell"
            )
        own = count // self.count
        return range(self.rank * own, (self.rank + 1) * own)

    def add_up(self, rows: Tensor) -> Tensor:
        """The sum of all processes' rows [own parts, n], n a multiple of `count`: [n], the same bits in every one."""
        if self.sums == "all-reduce":
            total = in_order(rows)
            dist.all_reduce(total)
            return total
        shares = rows.unflatten(1, (self.count, -1)).transpose(0, 1).contiguous()  # [to, own parts, n / count]
        received = torch.empty_like(shares)  # [from, own parts, n / count]: the parts of the batch in their order
        dist.all_to_all_single(received, shares)
        total = torch.empty_like(rows[0])
        dist.all_gather(list(total.chunk(self.count)), in_order(received.flatten(0, 1)))
        return total


ALONE = Processes()


def in_order(rows: Tensor) -> Tensor:
    """((row 0 + row 1) + row 2) + ..., entry by entry, as autograd adds one part's gradient to those before it."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


class SharedStep:
    """A step of training in one of several processes: `step(batch, number of the step)`, called in all of them.

    Only what this process computes alone can be a CUDA graph; the sums and the update are launched one by one.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, cell: Cell, processes: Processes, captured: bool
    ) -> None:
        self.model, self.optimizer, self.cell, self.processes = model, optimizer, cell, processes
        self.own = processes.parts(cell.budget.accumulate)
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        device = self.parameters[0].device
        self.rows = torch.empty(0, device=device)  # [own parts, n]: gradients of all parameters that have one, the loss
        self.step = 0
        self.gradients = GraphedStep(self._gradients, device) if captured else self._gradients

    def __call__(self, batch: Batch, step: int) -> Tensor:
        self.step = step
        self.gradients(batch)
        total = self.processes.add_up(self.rows)
        for parameter, entries in zip(self.trained, total[: self.entries].split(self.sizes), strict=True):
            gradient = entries.view_as(parameter)
            same = gradient.stride() == parameter.stride()
            parameter.grad = gradient if same else torch.empty_like(parameter).copy_(gradient)
        self.optimizer.step()
        return total[self.entries]

    def _gradients(self, batch: Batch) -> Tensor:
        """Fills `rows`."""
        parts = batch.parts(self.cell.budget.accumulate)
        for row, number in enumerate(self.own):
            for parameter in self.parameters:
                parameter.grad = None
            loss = backward(self.model, parts[number], number, self.cell, self.step)
            if not len(self.rows):
                self._lay_out()
            torch.cat([parameter.grad.flatten() for parameter in self.trained], out=self.rows[row, : self.entries])
            self.rows[row, self.entries] = loss
        return self.rows

    def _lay_out(self) -> None:
        """A place for every gradient that there is after the first backward pass: the same ones in every process."""
        self.trained = [parameter for parameter in self.parameters if parameter.grad is not None]
        self.sizes = [parameter.numel() for parameter in self.trained]
        self.entries = sum(self.sizes)
        count = self.processes.count
        self.rows = self.rows.new_zeros(len(self.own), -(-(self.entries + 1) // count) * count)
