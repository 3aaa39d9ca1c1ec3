"""The recipe against closed forms, and what happens when training is interrupted, diverges or cannot write."""

import dataclasses
import errno
import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import models
from results.records import StoreError
from suites.data.pool import Batch, Pool
from suites.spec import Budget, Cell, Protocol, SpecError, Task, Variant
from suites.training import checkpoints, state
from suites.training.step import TrainingError, learning_rate, loss_of, optimise
from tests.suites.training.helpers import train

pytestmark = pytest.mark.usefixtures("one_thread")

BUDGET = Budget("smoke", 40, batch=4, patch=16, lr=1e-3, checkpoint_every=7, milestones=(20, 30))


def cell(seed: int = 0, task: str = "sr-x2", budget: Budget = BUDGET, **overrides) -> Cell:
    parsed = Task.parse(task)
    return Cell(
        Variant("small", "mambairv2-tiny", overrides),
        parsed,
        seed,
        budget,
        ("own",),
        ("own",),
        Protocol.official(parsed),
    )


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    y, x = np.mgrid[:60, :72]
    return [
        np.stack([127 + 100 * np.sin(y / a + c) * np.cos(x / (a + 1)) for c in range(3)], axis=-1).astype(np.uint8)
        for a in (2, 3, 5)
    ]


class Small(nn.Module):
    """Two convolutions in the catalogue's place where the network does not matter. spoil: {call: factor of output}."""

    def __init__(self, upscale: int, in_chans: int = 3, spoil: dict[int, float | str] | None = None, **_) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(in_chans, 8, 3, padding=1), nn.Conv2d(8, in_chans * upscale**2, 3, padding=1)
        self.upscale, self.spoil, self.calls = upscale, spoil or {}, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        residual = nn.functional.pixel_shuffle(self.last(self.first(x).relu()), self.upscale)
        output = nn.functional.interpolate(x, scale_factor=self.upscale) + residual
        return output * float(self.spoil.get(self.calls, 1.0))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(models, "build", lambda name, backend, **arguments: Small(**arguments))

    def initialise(model: nn.Module, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.05, generator=generator)

    monkeypatch.setattr(models, "initialise", initialise)


class Stopped(Exception):
    pass


def stop_at(last: int):
    def look(runs: list[state.Run]) -> None:
        if runs[0].step >= last:
            raise Stopped

    return look


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


# The recipe


def test_learning_rate_is_that_of_basicsr():
    """MultiStepLR stepped at the start of every iteration but the first, as `update_learning_rate` there does."""
    budget = Budget("paper", 60, milestones=(10, 25, 40, 41), lr=2e-4)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=budget.lr)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, budget.milestones, budget.gamma)
    for iteration in range(1, 61):
        if iteration > 1:
            optimizer.step()
            scheduler.step()
        assert learning_rate(budget, iteration) == optimizer.param_groups[0]["lr"]
    rates = [learning_rate(budget, iteration) for iteration in (1, 10, 11, 25, 26, 40, 41, 42, 60)]
    assert rates == [2e-4, 2e-4, 1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5, 1.25e-5, 1.25e-5]


def test_losses_by_hand():
    output, target = torch.tensor([0.0, 0.5, 1.0, 0.25]), torch.tensor([0.0, 0.25, 0.0, 0.5])
    assert loss_of(Budget("smoke", 1, loss="l1"), output, target).item() == pytest.approx(0.375)
    terms = [math.sqrt(d**2 + 1e-3) for d in (0, 0.25, 1, 0.25)]  # eps under the root as it is, not squared
    charbonnier = loss_of(Budget("smoke", 1, loss="charbonnier"), output, target)
    assert charbonnier.item() == pytest.approx(sum(terms) / 4)


def test_optimiser_is_the_official_one(small, images, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(state.Run, "finish", lambda run: made.append(run.optimizer) or Path())
    train(cell(budget=dataclasses.replace(BUDGET, iterations=21)), images, tmp_path)
    (group,) = made[0].param_groups
    assert type(made[0]) is torch.optim.Adam
    assert (group["betas"], group["eps"], group["weight_decay"], group["lr"]) == ((0.9, 0.99), 1e-8, 0, 5e-4)


@pytest.mark.parametrize("change", [{"loss": "l2"}, {"batch": 6, "accumulate": 4}, {"patch": 0}, {"accumulate": 0}])
def test_impossible_budgets_are_refused(change):
    with pytest.raises(SpecError):
        dataclasses.replace(BUDGET, **change)


@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulated_gradients_equal_the_full_batch(images, accumulate):
    """Loss and every gradient of the real network in float64, its Gumbel routing on, to 1e-6 of the largest entry."""

    def gradients(parts: int) -> tuple[float, dict[str, Tensor]]:
        spec = cell(budget=dataclasses.replace(BUDGET, accumulate=parts))
        model = models.build(spec.variant.model, **spec.task.network, backend="chunked").double().train()
        models.initialise(model, 0)
        pool = Pool(images, spec.task, 16, 4, 0, torch.device("cpu"))
        standstill = torch.optim.SGD(model.parameters(), lr=0.0)
        batch = pool.batch(pool.fetch(1))
        batch = dataclasses.replace(batch, lq=batch.lq.double(), gt=batch.gt.double())
        loss = optimise(model, standstill, batch, spec, 1)
        return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    loss, whole = gradients(1)
    loss_in_parts, in_parts = gradients(accumulate)
    assert loss_in_parts == pytest.approx(loss, rel=1e-6)
    assert whole.keys() == in_parts.keys() and len(whole) > 20
    for name, gradient in whole.items():
        assert gradient.abs().max() > 0
        assert (gradient - in_parts[name]).abs().max() <= 1e-6 * gradient.abs().max(), name


# Draws


def seen_by(spec: Cell, images: list[np.ndarray], folder: Path, monkeypatch) -> list[Batch]:
    batches = []

    def watch(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, *_) -> Tensor:
        batches.append(batch)
        return torch.zeros(())

    with monkeypatch.context() as patched:
        patched.setattr(state, "optimise", watch)
        train(spec, images, folder)
    return batches


def test_variants_share_their_draws_and_seeds_do_not(small, images, tmp_path, monkeypatch):
    fields = ("lq", "gt", "keys")
    base = seen_by(cell(0), images, tmp_path / "base", monkeypatch)
    variant = seen_by(cell(0, scans=2), images, tmp_path / "variant", monkeypatch)
    parts = dataclasses.replace(BUDGET, accumulate=2, loss="charbonnier")
    accumulated = seen_by(cell(0, budget=parts), images, tmp_path / "parts", monkeypatch)
    other = seen_by(cell(1), images, tmp_path / "other", monkeypatch)
    assert len(base) == 40
    for step in range(40):
        for name in fields:
            expected = getattr(base[step], name)
            assert torch.equal(expected, getattr(variant[step], name))
            assert torch.equal(expected, getattr(accumulated[step], name))
            assert not torch.equal(expected, getattr(other[step], name))


def test_stochastic_depth_is_keyed_by_step_and_part(small, images, tmp_path, monkeypatch):
    """What a network draws from torch's generator is the same after a resume, and another at every step and part."""
    budget = dataclasses.replace(BUDGET, accumulate=2, iterations=20)
    rolls = []
    forward = Small.forward
    monkeypatch.setattr(Small, "forward", lambda self, x: (rolls.append(torch.rand(1).item()), forward(self, x))[1])
    train(cell(budget=budget), images, tmp_path / "a")
    undisturbed, rolls[:] = list(rolls), []
    assert len(undisturbed) == 40 == len(set(undisturbed))
    with pytest.raises(Stopped):
        train(cell(budget=budget), images, tmp_path / "b", on_sync=stop_at(9))
    assert rolls == undisturbed[:18]
    rolls.clear()
    torch.rand(5)
    train(cell(budget=budget), images, tmp_path / "b")
    assert rolls == undisturbed[14:]  # from the checkpoint of step 7 on


# What a run leaves


def test_log_progress_and_weights(small, images, tmp_path):
    told = {}
    path = train(cell(), images, tmp_path, on_sync=lambda runs: told.update({runs[0].step: runs[0].loss}))
    assert path == tmp_path / "weights.safetensors"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.jsonl", "weights.safetensors"]
    lines = log_of(tmp_path)
    assert [line["step"] for line in lines] == list(range(2, 41, 2))  # every twentieth of a short run
    assert all(line.keys() == {"step", "lr", "loss", "seconds", "images_per_second", "peak_mib"} for line in lines)
    assert [line["lr"] for line in lines] == [1e-3] * 10 + [5e-4] * 5 + [2.5e-4] * 5
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(lines))
    assert all(line["peak_mib"] > 50 and line["images_per_second"] > 0 for line in lines)
    assert {line["step"]: line["loss"] for line in lines}.items() <= told.items()
    assert safetensors.torch.load_file(path).keys() == Small(2).state_dict().keys()


def test_log_interval():
    assert [state.log_every(Budget("smoke", n)) for n in (1, 19, 60, 1999, 500_000)] == [1, 1, 3, 99, 100]


def test_finished_cell_is_not_trained_again(small, images, tmp_path):
    before = train(cell(), images, tmp_path).stat().st_mtime_ns
    (tmp_path / "checkpoint.pt").write_bytes(b"left by a process killed after it wrote the weights")
    path = train(cell(), images, tmp_path, on_sync=stop_at(0))
    assert path.stat().st_mtime_ns == before
    assert not (tmp_path / "checkpoint.pt").exists()


def test_damaged_weights_are_kept_aside_and_made_again(small, images, tmp_path):
    path = train(cell(), images, tmp_path)
    expected = path.read_bytes()
    path.write_bytes(expected[:100])
    with pytest.warns(UserWarning, match=r"damaged .* kept as weights\.safetensors\.corrupt"):
        assert train(cell(), images, tmp_path).read_bytes() == expected
    assert (tmp_path / "weights.safetensors.corrupt").read_bytes() == expected[:100]


def test_foreign_weights_and_checkpoints_are_refused(small, images, tmp_path):
    with pytest.raises(Stopped):
        train(cell(), images, tmp_path, on_sync=stop_at(20))
    with pytest.raises(TrainingError, match="with other training images:"):
        train(cell(), images[:2], tmp_path)
    with pytest.raises(TrainingError, match="with another configuration:"):
        train(cell(seed=1), images, tmp_path)
    assert checkpoints.load(tmp_path)["step"] == 14
    train(cell(), images, tmp_path)
    with pytest.raises(TrainingError, match="with another configuration and other training images:"):
        train(cell(seed=1), images[::-1], tmp_path)


def test_scores_and_protocol_are_no_part_of_what_was_trained():
    spec = cell()
    rescored = dataclasses.replace(spec, test_sets=("Set5",), protocol=Protocol.official(spec.task, samples=8))
    assert state.identify(rescored, "pixels") == state.identify(spec, "pixels") != state.identify(cell(1), "pixels")


def test_no_image_fits(small, images, tmp_path):
    with (
        pytest.warns(UserWarning),
        pytest.raises(TrainingError, match=r"^small/sr-x2/seed-0: no training image"),
    ):
        train(cell(budget=dataclasses.replace(BUDGET, patch=48)), images, tmp_path)


def test_settings_of_the_process_are_put_back(small, images, tmp_path):
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    seen = []
    for deterministic in (True, False):

        def look(*_):
            seen.append((torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark))
            raise Stopped

        with pytest.raises(Stopped):
            folder = tmp_path / str(deterministic)
            train(cell(), images, folder, deterministic=deterministic, on_sync=look)
    assert seen == [(True, False), (False, True)]
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


# Interruptions


@pytest.fixture
def undisturbed(small, images, tmp_path) -> tuple[bytes, list[tuple]]:
    folder = tmp_path / "undisturbed"
    return train(cell(), images, folder).read_bytes(), [(x["step"], x["loss"]) for x in log_of(folder)]


def assert_same_run(folder: Path, undisturbed: tuple[bytes, list[tuple]]) -> None:
    weights, lines = undisturbed
    assert (folder / "weights.safetensors").read_bytes() == weights
    assert [(line["step"], line["loss"]) for line in log_of(folder)] == lines  # none doubled, none missing


@pytest.mark.parametrize("stops", [(3,), (7, 8), (15, 22, 39), (40,)])
def test_resumed_run_is_the_same_run(undisturbed, images, tmp_path, stops):
    """Log lines at multiples of 2, checkpoints at multiples of 7: intervals that a checkpoint cuts are covered."""
    folder = tmp_path / "run"
    for last in stops:
        with pytest.raises(Stopped):
            train(cell(), images, folder, on_sync=stop_at(last))
    train(cell(), images, folder)
    assert_same_run(folder, undisturbed)


def test_corrupted_checkpoint_costs_one_interval(undisturbed, images, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(Stopped):
        train(cell(), images, folder, on_sync=stop_at(30))
    content = bytearray((folder / "checkpoint.pt").read_bytes())
    content[len(content) // 3] ^= 255
    (folder / "checkpoint.pt").write_bytes(content)
    first = []
    with pytest.warns(UserWarning, match="is damaged"):
        train(cell(), images, folder, on_sync=lambda runs: first.append(runs[0].step))
    assert first[0] == 22  # 21 is the checkpoint before the damaged one of step 28
    assert_same_run(folder, undisturbed)
    assert (folder / "checkpoint.pt.corrupt").read_bytes() == content


def test_full_disk_at_a_checkpoint(undisturbed, images, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    replaced = []

    def full(source, target, original=os.replace):
        replaced.append(str(target))
        if sum("next" in name for name in replaced) == 3 and "next" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(StoreError, match=r"cannot write .*checkpoint.*no space is left there") as caught:
            train(cell(), images, folder)
    assert "\n" not in str(caught.value)
    assert checkpoints.load(folder)["step"] == 14
    train(cell(), images, folder)
    assert_same_run(folder, undisturbed)


def test_folder_that_is_a_file(small, images, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        train(cell(), images, tmp_path / "file" / "cell")


def test_other_thread_count_is_announced(small, images, tmp_path):
    with pytest.raises(Stopped):
        train(cell(), images, tmp_path, on_sync=stop_at(20))
    torch.set_num_threads(2)
    with pytest.warns(UserWarning, match="not bit for bit: threads 1 before, 2 now"):
        train(cell(), images, tmp_path)


# Losses that go wrong


@pytest.mark.parametrize("factor", ["nan", "inf"])
def test_loss_that_is_not_finite_stops_the_cell(small, images, tmp_path, factor):
    """The very step is named though losses are read in groups, and nothing of it reaches a checkpoint or the log."""
    budget = dataclasses.replace(BUDGET, iterations=200, checkpoint_every=25)  # losses are read every 10 steps
    with pytest.raises(TrainingError, match="at step 37") as caught:
        train(cell(budget=budget, spoil={37: factor}), images, tmp_path)
    assert caught.value.record == {"step": 37, "loss": factor}
    kept = checkpoints.load(tmp_path)
    assert kept["step"] == 25
    assert all(tensor.isfinite().all() for tensor in kept["model"].values())
    assert [line["step"] for line in log_of(tmp_path)] == [10, 20, 30]


def test_weights_spoilt_by_the_last_update_are_not_written(small, images, tmp_path, monkeypatch):
    def spoil(run: state.Run, batch: Batch, advance=state.Run.advance) -> None:
        advance(run, batch)
        if run.step == 40:
            run.model.last.bias.data[1] = math.nan

    monkeypatch.setattr(state.Run, "advance", spoil)
    with pytest.raises(TrainingError, match=r"last\.bias is not finite after step 40"):
        train(cell(), images, tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()


def test_divergence_is_ten_times_the_best_window():
    watch = state.LossMonitor()
    for step in range(1, 151):
        watch.add(step, 0.02)
    for step in range(151, 300):  # a window of these is at 9.9 times the best: tolerated
        watch.add(step, 0.198)
    with pytest.raises(TrainingError, match="diverges") as caught:
        for step in range(300, 500):
            watch.add(step, 0.3)
    # the mean passes 0.2 when (100 - n) * 0.198 + n * 0.3 > 20, n = 2
    assert caught.value.record == {"step": 301, "loss": 0.3}
    first = state.LossMonitor()
    for step in range(1, 100):
        first.add(step, 10.0**step)  # before a whole window there is nothing to compare
    assert state.LossMonitor.of(first.state()) == first


def test_diverging_run_stops(small, images, tmp_path):
    budget = dataclasses.replace(BUDGET, iterations=400, checkpoint_every=100)
    spoil = {call: 1.0 + 30 * (call > 150) for call in range(401)}
    with pytest.raises(TrainingError, match="diverges") as caught:
        train(cell(budget=budget, spoil=spoil), images, tmp_path)
    assert 150 < caught.value.record["step"] < 250
    assert checkpoints.load(tmp_path)["step"] == 100
