"""Training on a GPU: the step loop never waits for the device, and its data are those of the host."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch

import models
from suites.data.pool import Pool
from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training import state
from suites.training.cuda_graph import WARM, GraphedStep
from tests.suites.training.helpers import train

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

CUDA = torch.device("cuda")
BUDGET = Budget("smoke", 40, batch=4, patch=32, lr=1e-3, milestones=(20,), checkpoint_every=10)


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in ((150, 131, 3), (97, 200, 3))]


def cell(task: str, budget: Budget = BUDGET) -> Cell:
    parsed = Task.parse(task)
    return Cell(Variant("tiny", "mambairv2-tiny"), parsed, 0, budget, ("own",), ("own",), Protocol.official(parsed))


@pytest.mark.parametrize("task", ["sr-x2", "denoise-25", "jpeg-10"])
def test_batches_equal_those_of_the_host(images, task):
    spec = cell(task)
    on_host, on_gpu = (Pool(images, spec.task, 32, 4, 0, device) for device in (torch.device("cpu"), CUDA))
    assert {plane.pixels.device.type for plane in on_gpu.planes.values()} == {"cuda"}
    for step in (1, 2, 3):
        expected, batch = (pool.batch(pool.fetch(step)) for pool in (on_host, on_gpu))
        for name in ("lq", "gt", "keys"):
            assert torch.equal(getattr(batch, name).cpu(), getattr(expected, name))


def test_images_that_would_crowd_the_gpu_stay_on_the_host(images, monkeypatch):
    monkeypatch.setattr("suites.data.pool.MEMORY_SHARE", 0.0)
    with pytest.warns(UserWarning, match="kept in host memory"):
        pool = Pool(images, Task("sr", 2), 32, 4, 0, CUDA)
    assert {plane.pixels.device.type for plane in pool.planes.values()} == {"cpu"}
    assert pool.batch(pool.fetch(1)).lq.device.type == "cuda"


@pytest.mark.parametrize("budget", [BUDGET, dataclasses.replace(BUDGET, accumulate=2, precision="bf16")])
def test_no_step_waits_for_the_device(images, tmp_path, budget):
    """Between two readings of the losses nothing synchronises: PyTorch raises where it would."""
    spec = cell("sr-x2", dataclasses.replace(budget, iterations=2000))
    model = models.build(spec.variant.model, **spec.task.network, backend="auto").to(CUDA).train()
    run = state.Run(spec, model, {}, tmp_path, CUDA, "triton")
    assert isinstance(run.work, GraphedStep)
    pool = Pool(images, spec.task, 32, 4, 0, CUDA)
    fetched = [pool.fetch(step) for step in range(1, 9)]
    for data in fetched[: WARM + 1]:  # kernels are compiled, buffers allocated, the step recorded
        run.advance(pool.batch(data))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for data in fetched[WARM + 1 :]:
            run.advance(pool.batch(data))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    run.read()
    assert len(run.unlogged) == 8 and np.isfinite(run.unlogged).all()


def test_resumed_run_is_the_same_run(images, tmp_path):
    class Stopped(Exception):
        pass

    def stop(runs) -> None:
        if runs[0].step >= 25:
            raise Stopped

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = train(cell("sr-x2"), images, tmp_path / "a", device="cuda").read_bytes()
        with pytest.raises(Stopped):
            train(cell("sr-x2"), images, tmp_path / "b", device="cuda", on_sync=stop)
        assert train(cell("sr-x2"), images, tmp_path / "b", device="cuda").read_bytes() == expected
