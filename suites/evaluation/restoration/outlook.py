"""How pictures will be taken, told before the first of them, and whether they fit into a GPU's memory.

Official tiles are the default at any size: they score as the protocol does and bound the memory. Every figure is of a
committed measurement (`results.costs.whole`); where there is none, none is told.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from results.costs import whole
from suites.evaluation import tiling
from suites.spec import Protocol, Task

MIB = 2**20
FLOAT32 = "tf32x3"  # the precision with float32 tensors that is measured at most sizes; fp32 and tf32 take no less
UNKNOWN = "not measured for this network, task, precision and scan"
Size = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Outlook:
    """model: of the catalogue; None for a network of the user's, of which nothing was measured. backend: of the scan,
    None without one."""

    model: str | None
    task: Task
    protocol: Protocol
    device: torch.device
    backend: str | None

    def lines(self, sizes: Sequence[Size]) -> list[str]:
        """How the largest of the pictures is taken, what that is expected to hold of a GPU, and the alternative."""
        if not sizes:
            return []
        size = max(sizes, key=lambda each: each[0] * each[1])
        picture = f"{size[0]}x{size[1]}" if len(sizes) == 1 else f"the largest picture, {size[0]}x{size[1]}"
        on_gpu = self.device.type == "cuda"
        device = f"{self.device} ({torch.cuda.get_device_name(self.device)})" if on_gpu else "CPU"
        how = f"precision {self.protocol.precision}, scan {self.backend or 'none'}, {device}"
        lines = [f"{picture}: {self._cut(size)}; {how}"]
        if on_gpu:
            lines.append(f"memory: {self._memory(size)}; {self._free()}")
        if len(tiling.tiles(*size, "official")) > 1 and self.protocol.tiling in ("official", "none"):
            lines.append(self._alternative(size))
        return lines

    def lacks(self, size: Size) -> str | None:
        """Why a picture does not fit into the GPU's memory, by what is free there, and what to do; None where it fits
        or nothing is known."""
        needed = self._needed(size, self.protocol.tiling)
        if self.device.type != "cuda" or needed is None or needed * MIB <= free(self.device):
            return None
        return (
            f"{size[0]}x{size[1]}, {self._cut(size)}, needs {self._tensors(needed)}, and {self._free()} on "
            f"{self.device}: {self._instead()}"
        )

    @cached_property
    def _calls(self) -> list[whole.Memory]:
        known = self.model is not None and self.backend == whole.KERNELS
        return whole.calls(self.model, self.task.name, self._measured_in) if known else []

    @property
    def _measured_in(self) -> str:
        return "bf16" if self.protocol.precision == "bf16" else FLOAT32

    def _needed(self, size: Size, tiles: tiling.Tiling) -> float | None:
        """MiB of tensors for the largest of the tiles."""
        sides = ((t.rows.stop - t.rows.start, t.columns.stop - t.columns.start) for t in tiling.tiles(*size, tiles))
        return whole.needed(self._calls, max(height * width for height, width in sides))

    def _tensors(self, mib: float) -> str:
        largest, others = self._calls[-1], self.protocol.precision != self._measured_in
        of = f" in {self._measured_in}" if others else ""
        return f"about {_gib(mib)} (measured{of} up to {largest.height}x{largest.width} on {largest.where})"

    def _memory(self, size: Size) -> str:
        if self.protocol.tiling == "official" and self.model and self.backend == whole.KERNELS:
            most = whole.in_tiles(self.model, self.task.name, self.protocol.precision)
            if most is not None:
                size = f"{most.height}x{most.width}"
                return f"about {_gib(most.mib)} in use, at any size (measured at {size} on {most.where})"
        needed = self._needed(size, self.protocol.tiling)
        return UNKNOWN if needed is None else self._tensors(needed)

    def _free(self) -> str:
        return f"{_gib(free(self.device) / MIB)} of {_gib(torch.cuda.mem_get_info(self.device)[1] / MIB)} are free"

    def _cut(self, size: Size) -> str:
        number = len(tiling.tiles(*size, self.protocol.tiling))
        if number == 1:
            return "whole, in one call"
        kind = "official tiles" if self.protocol.tiling == "official" else f"tiles (--tiles {self.protocol.tiling})"
        return f"{number} {kind} that overlap by {tiling.OVERLAP} %"

    def _alternative(self, size: Size) -> str:
        """Of the whole picture in one call and official tiles the one that was not asked for."""
        tiles, told = self.protocol.tiling == "official", []
        if self.model and (time := whole.time(self.model, self.task.name, self.protocol.precision)) is not None:
            seconds = f"tiles took {time.tiles:.3g} s with joining, one call {time.call:.3g} s of the GPU"
            told.append(f"{seconds} (at {time.height}x{time.width} on {time.where})")
        if tiles and (needed := self._needed(size, "none")) is not None:
            told.append(self._tensors(needed))
        found = whole.changes(self.model or "", self.task.name) if self.protocol.routing == "gumbel" else []
        if found:
            each = (f"{one.dataset} {one.psnr:+z.3f} [{one.low:+z.3f}, {one.high:+z.3f}]" for one in found)
            told.append(f"PSNR of whole pictures less tiles: {', '.join(each)} dB (95 %, weights {found[0].weights})")
        name = "or whole, with --tiles none" if tiles else "or in official tiles, without --tiles"
        return f"{name}: {'; '.join(told) or UNKNOWN}; see docs/efficiency.md"

    def _instead(self) -> str:
        if self.protocol.tiling == "official":
            return "free some, or restore on another --device"
        if self.protocol.tiling != "none":
            return "leave out --tiles, or give a smaller number"
        most = whole.in_tiles(self.model or "", self.task.name, self.protocol.precision)
        took = "" if most is None else f", of which {_gib(most.mib)} were in use at {most.height}x{most.width}"
        return f"leave out --tiles for official tiles{took}"


def free(device: torch.device) -> int:
    """Bytes of a GPU that tensors can have: what is free there, and what PyTorch holds of it without using it."""
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"
