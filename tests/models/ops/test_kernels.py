"""Kernels are made into machine code for a GPU, though there is none: an interpreter takes what compilers refuse."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs Triton")

ROOT = Path(__file__).resolve().parents[3]
COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from models.ops.common import sums
from models.ops.depthwise import triton as depthwise
from models.ops.linear import triton as linear
from models.ops.linear import triton_gradients as linear_gradients
from models.ops.linear import triton_narrow as linear_narrow
from models.ops.norm import triton as norm
from models.ops.routing import triton as routing
from models.ops.scan.triton import prompt_kernels

INTEGERS = {"rows", "columns", "other_rows", "other_columns", "height", "width", "tiles", "length", "directions"}
LONG = {"keys", "layer", "classes"}

def compiled(kernel, constants, types=(), **options):
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = dict.fromkeys(INTEGERS, "i32") | {"eps": "fp32"} | dict(types) | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "*i64" if name in LONG else "*fp32") for name in kernel.arg_names}
    triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32), options=options)
    print(kernel.__name__)

for kernel, size, tile in (
    (depthwise._depthwise, 3, depthwise.LARGE[1]),
    (depthwise._depthwise_outputs, 3, depthwise.SMALL),
    (depthwise._depthwise_inputs, 3, depthwise.LARGE_BACKWARD),
):
    sizes = {"S": 96, "GS": 96, "Y": 96, "C": 96, "K": size, "TH": tile.rows, "PX": tile.columns, "BC": 32}
    sizes["TW"] = tile.elements // 32
    compiled(kernel, sizes | {"KIND": "sigmoid", "DIRECT": True}, num_warps=tile.warps, maxnreg=tile.registers)
for products in ("tf32x3", "bf16"):
    wide = linear.WIDE[products][1]
    sizes = {"N": 174, "K": 348, "KP": 384, "S": 352, "KR": 352, "GELU": True, "PRODUCTS": products}
    sizes |= {"BM": wide.rows, "BN": wide.features, "BK": wide.step}
    narrow = dict.fromkeys(("x", "factors", "y"), "*bf16") if products == "bf16" else {}
    compiled(linear._linear_factors, sizes, narrow)
    compiled(linear._linear_wide, sizes, narrow, num_warps=wide.warps, num_stages=wide.stages)
sizes = {"N": 24, "K": 16, "S": 16, "GELU": True, "PRODUCTS": "tf32x3", "BM": 32, "BN": 16, "BK": 16}
more = {"N": 348, "K": 22, "BM": linear.MORE.rows, "BN": linear.MORE.features, "BK": 32}
compiled(linear._linear, sizes | more, num_warps=linear.MORE.warps)
for kernel in (linear._linear, linear_gradients._linear_inputs, linear_gradients._linear_weights):
    compiled(kernel, sizes)
compiled(linear_narrow._linear_gradients, sizes | {"BLOCKS": 2, "skip": None, "scale": None, "dskip": None})
sizes = {"C": 48, "S": 96, "Y": 48, "GELU": True, "R": 64, "BC": 64}
for kernel in (norm._norm, norm._norm_backward):
    compiled(kernel, sizes, num_warps=8)
sizes = {"R": 24, "T": 64, "KEYS": 2, "P": 64, "BR": 32, "BT": 64}
for kernel in (routing._routing, routing._routing_gradients):
    compiled(kernel, sizes)
sizes = {"N": 5, "T": 10, "P": prompt_kernels.PIXELS, "BN": 16, "BT": 16}
compiled(prompt_kernels._prompt_gradients, sizes, {"index": "*i64"})
compiled(sums._sum_rows, {"R": 64, "C": 64}, num_warps=8)
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu(tmp_path):
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILE], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(set(done.stdout.split())) == 15


def test_keys_do_not_depend_on_what_was_launched_before():
    command = [sys.executable, "-W", "ignore", "-m", "tests.models.ops.keys"]
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels, ours, ours_on_3_6, by_3_6 = json.loads(done.stdout)
    assert kernels > 50 and ours == ours_on_3_6 == 0 < by_3_6


def test_a_triton_that_merges_keys_by_another_name_keeps_its_keys(monkeypatch):
    from triton.runtime import jit

    from models.ops.common import checked_cache

    monkeypatch.delattr(jit.DependenciesFinder, "_update_hash")
    monkeypatch.setenv("TRITON_CACHE_MANAGER", "left as it is")
    runpy.run_path(checked_cache.__file__)["install"]()
    assert not hasattr(jit.DependenciesFinder, "_update_hash")
