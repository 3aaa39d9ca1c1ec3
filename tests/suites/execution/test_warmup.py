"""What would be launched is told to other processes so that they compile just that, without a GPU."""

import os
import subprocess
import sys

import pytest
import torch

from suites.execution import warmup
from suites.recipes import ablations
from suites.spec import SpecError

# Kernels on tensors of the CPU, which is harmless as long as none is launched; compiled for a GPU that is not there.
WALKED = """
import pickle
from dataclasses import replace
import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction
from models.ops import attention
from models.ops.common import dispatch
from models.ops.scan import backends, triton as scan_kernels
from suites.execution import warmup
from suites.recipes import ablations
from pathlib import Path

class Driver:
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0

driver.set_active(Driver())
dispatch.has_kernels = lambda x: x.dtype != torch.float64
attention.unavailable = scan_kernels.unavailable = lambda *device: None
scan_kernels.DEVICES = ("cuda", "cpu")
backends.PREFERRED = {"cpu": ("triton",)}
torch.cuda.get_device_properties = lambda *device: type("Properties", (), {"multi_processor_count": 132})()
torch.cuda.get_device_capability = lambda *device: (9, 0)

warmup.SIZES = ((16, 16),)
(cell,) = (c for c in ablations.ablations("reduced-bf16", (0,)).cells if c.name == "base/sr-x2/seed-0")
cell = replace(cell, budget=replace(cell.budget, batch=1, patch=16))
calls, launches, run = [], [], JITFunction.run
place = warmup.built(cell, "cpu")
with warmup.unlaunched(calls.append):
    noted = JITFunction.run
    def both(self, *arguments, **options):
        launches.append((self, arguments, dict(options)))
        return noted(self, *arguments, **options)
    JITFunction.run = both
    warmup.walk(cell, *place, "cpu")
    JITFunction.run = noted
assert JITFunction.run is run and torch.empty(2).shape == (2,)
names = {call.name for call in calls}
print(len(launches), "launches,", len(calls), "calls of", len(names), "kernels")
assert len(launches) > 10 * len(calls) and {"replay_kernel", "adjoint_kernel", "carry_kernel"} <= names

assert pickle.loads(pickle.dumps(calls)) == calls

few = [call for call in calls if call.name in ("carry_kernel", "collect_kernel")]
for call in few:
    call.compile()
folder = Path(knobs.cache.dir)
compiled = set(folder.glob("*/*.cubin"))
assert compiled
for function, arguments, options in launches:  # as they would have been
    if function.fn.__name__ in ("carry_kernel", "collect_kernel"):
        function.run(*arguments, **options | {"warmup": True})
assert set(folder.glob("*/*.cubin")) == compiled, "another kernel than was compiled"
"""


def test_seeds_budgets_and_labels_are_no_other_network():
    every = ablations.ablations("reduced-bf16", (0, 1)).cells
    names = [cell.name for cell in warmup.networks(every) if cell.task.name == "sr-x2"]
    assert len(names) == len(set(names)) == 26  # all but k-means and SLIC, at one seed
    assert not any(name.startswith(("kmeans", "slic")) or name.endswith("seed-1") for name in names)


@pytest.mark.slow
def test_what_is_told_is_what_would_be_launched(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", WALKED], env=environment, check=True)


def test_new_tensors_are_zeros_meanwhile_also_those_that_require_gradients():
    with warmup.unlaunched(lambda call: None):
        leaf = torch.empty(3, requires_grad=True)  # as PyTorch 2.11 makes one where a network recomputes
        assert leaf.requires_grad and torch.equal(leaf, torch.zeros(3))


def test_only_a_gpu_has_kernels_to_compile():
    with pytest.raises(SpecError, match="on cpu: leave it out"):
        warmup.warm(ablations.ablations("smoke", (0,)).cells[:1], 1, "cpu")
