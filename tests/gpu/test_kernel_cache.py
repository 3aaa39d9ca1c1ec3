"""Kernels that a GPU launches come from Triton's cache with our checksums; a damaged one is compiled anew."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
LAUNCHES = """
import torch
from models.ops.common.dispatch import uses_kernels
from models.ops.norm import layer_norm
from models.ops.routing import by_class

classes = torch.randint(64, (3, 5000), device="cuda")
norm, x = torch.nn.LayerNorm(48, device="cuda"), torch.randn(700, 48, device="cuda")
assert uses_kernels(x)
assert torch.equal(by_class(classes, 64), classes.argsort(dim=-1, stable=True))
torch.testing.assert_close(layer_norm(norm, x).double(), norm.double()(x.double()), rtol=1e-5, atol=1e-5)
"""


def launch(folder: Path) -> dict[Path, tuple[str, int]]:
    """What a fresh process leaves in the cache after it computed what is right: each file's hash and time."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(folder)}
    command = [sys.executable, "-W", "ignore", "-c", LAUNCHES]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def test_a_damaged_kernel_is_compiled_anew(tmp_path):
    cold, warm = launch(tmp_path), launch(tmp_path)
    kernels = [path for path in cold if path.suffix == ".cubin"]
    assert len(kernels) >= 2 and all(path.with_name(path.name + ".sha256") in cold for path in kernels)
    assert warm == cold  # nothing was compiled a second time
    for path in kernels:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    mended = launch(tmp_path)
    assert all(mended[path][0] == cold[path][0] and mended[path][1] > cold[path][1] for path in kernels)
