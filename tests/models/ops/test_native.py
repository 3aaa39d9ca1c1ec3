"""The native library: building, sharing, failing, and its kernels on plainer instruction sets than this machine's."""

import ctypes
import os
import platform
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from models.ops import native, noise
from models.ops.noise import PhiloxGumbel
from models.ops.scan import BackendError, attentive_scan, available, cpu

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """An empty cache, and nothing loaded yet; afterwards the usual library is found again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("models.ops.scan.backends._announced", set())
    caches = native._load, cpu._kernels, noise._kernels
    for cache in caches:
        cache.cache_clear()
    yield tmp_path / "mambair-bench"
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def compiler():
    try:
        native._compiler()
    except native.NativeError as error:
        pytest.skip(str(error))


def inputs(length=150, channels=21, states=12):
    g = torch.Generator().manual_seed(0)
    x = [torch.randn(s, generator=g) for s in [(1, length, channels), (1, 1, length, channels), (1, channels, states)]]
    x += [torch.randn(s, generator=g) for s in [(1, 1, length, states)] * 2 + [(1, channels)] * 2]
    x[1] *= 8
    x[2] = -x[2].exp()
    return [t.requires_grad_() for t in x], torch.randperm(length, generator=g).view(1, 1, length)


def run(backend, dtype=torch.float32):
    x, order = inputs()
    x = [t.detach().to(dtype).requires_grad_() for t in x]
    y = attentive_scan(*x, order=order, backend=backend)
    weights = torch.linspace(-1, 1, y.numel(), dtype=dtype).view_as(y)
    return [y.detach(), *torch.autograd.grad(y, x, weights)]


def assert_same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert float((a - b).abs().max() / b.abs().max()) < 3e-6


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3"])
def test_plain_vectors_compute_the_same(own_cache, compiler, monkeypatch, target):
    """Where the processor has wider vectors, the code for narrow ones is otherwise never run."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("names x86 instruction sets")
    flags = tuple(f"-march={target}" if flag == "-march=native" else flag for flag in native.FLAGS)
    monkeypatch.setattr(native, "FLAGS", flags)
    assert_same(run("cpu"), run("reference", torch.float64))
    source = PhiloxGumbel([2**63 + 5])
    words = noise.integers(source.keys, 3, (1, 70, 33))
    assert torch.equal(source.integers(3, (1, 70, 33)), words)
    torch.testing.assert_close(source(3, (1, 70, 33)), noise.gumbel(words), rtol=1e-6, atol=1e-6)


def test_two_processes_build_at_once(own_cache, compiler):
    code = "from models.ops import native; native.load(); print(native.build())"
    command = [sys.executable, "-c", code]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert {str(file) for file in own_cache.iterdir()} == paths and len(paths) == 1


def test_a_broken_compiler_is_announced_and_chunked_takes_over(own_cache, monkeypatch):
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.warns(UserWarning, match=r"'cpu' is not used: the C\+\+ compiler '/bin/false' failed.*'chunked'"):
        assert_same(run("auto"), run("reference", torch.float64))
    assert "/bin/false" in available()["cpu"]
    with pytest.raises(BackendError, match="/bin/false"):
        run("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        run("auto")
    with pytest.warns(UserWarning, match="routing noise is made in plain PyTorch"):
        assert PhiloxGumbel([1])(0, (1, 3, 5)).shape == (1, 3, 5)
    assert not any(own_cache.iterdir())


def test_the_compilers_own_complaint_is_passed_on(own_cache, compiler, monkeypatch):
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-march=no-such-processor"))
    with pytest.raises(native.NativeError, match="no-such-processor"):
        native.load()
    assert "\n" not in available()["cpu"]


def test_a_missing_compiler_is_named(own_cache, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    with pytest.raises(native.NativeError, match="CXX is 'no-such-compiler'"):
        native.load()
    monkeypatch.delenv("CXX")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    native._load.cache_clear()
    with pytest.raises(native.NativeError, match=r"no C\+\+ compiler"):
        native.load()


def test_a_cache_that_cannot_be_written_is_a_reason(own_cache, compiler, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(native.NativeError, match="cannot be stored"):
        native.load()


def test_a_damaged_library_is_built_again_without_a_compiler_it_is_reused(own_cache, compiler, monkeypatch):
    path = native.build()
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert isinstance(native.load(), ctypes.CDLL)
    assert path.read_bytes() == whole
    native._load.cache_clear()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert isinstance(native.load(), ctypes.CDLL)


def test_one_openmp_runtime():
    """A second pool of threads beside PyTorch's would fight with it for the cores."""
    if available()["cpu"] is not None or not os.path.exists("/proc/self/maps"):
        pytest.skip(available()["cpu"] or "needs /proc/self/maps")
    maps = Path("/proc/self/maps").read_text()
    assert len({line.split()[-1] for line in maps.splitlines() if "libgomp" in line}) == 1
