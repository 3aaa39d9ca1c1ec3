"""Weights that cells start from: whose hash names them, what is taken from them, and that a cell finds them again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import models
from results import records
from results.store import Store
from suites import recipes
from suites.execution import preflight
from suites.planning import dryrun
from suites.recipes import recovery
from suites.spec import Budget, Cell, Initial, Protocol, SpecError, Task, Variant
from suites.training import initial, state, trainer
from tests.suites.training.helpers import train

pytestmark = pytest.mark.usefixtures("one_thread")
TASK = Task.parse("sr-x2")
BUDGET = Budget("smoke", 4, batch=2, patch=16, lr=1e-4, checkpoint_every=2)
POOL = ("*.embeddingA.weight", "*.embeddingB.weight")


def cell(given: Initial | None, seed: int = 0, **overrides) -> Cell:
    variant = Variant("small", "mambairv2-tiny", overrides)
    return Cell(variant, TASK, seed, BUDGET, ("own",), ("own",), Protocol.official(TASK), given)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Weights of a tiny network for x2 with the initial values of seed 7, as an official file would hold them."""
    model = models.build("mambairv2-tiny")
    models.initialise(model, 7)
    path = tmp_path_factory.mktemp("given") / "tiny.pth"
    torch.save({"params": model.state_dict()}, path)
    return path


@pytest.fixture
def kept(file, tmp_path) -> str:
    """The hash of the weights, which the store in tmp_path keeps."""
    return initial.keep(tmp_path, file)


def started(one: Cell, store: Path) -> dict[str, torch.Tensor]:
    run = state.begin(one, {}, store / records.key_of(one.config()), torch.device("cpu"), "auto")
    return run.model.state_dict()


def test_the_store_keeps_the_same_tensors_under_their_hash(file, tmp_path, kept):
    assert kept == models.weights_hash(file) == models.weights_hash(initial.path(tmp_path, kept))
    assert initial.keep(tmp_path, file) == kept and len(list((tmp_path / "initial").iterdir())) == 1
    assert not len(Store(tmp_path).cells())  # no cell of the store


def test_a_cell_starts_from_every_tensor_of_the_file(file, tmp_path, kept):
    given = torch.load(file, weights_only=True)["params"]
    for seed in (0, 1):
        found = started(cell(Initial(kept), seed), tmp_path)
        assert found.keys() == given.keys() and all(torch.equal(found[name], given[name]) for name in given)


def test_what_is_new_has_the_initial_values_of_the_seed(file, tmp_path, kept):
    given, own = torch.load(file, weights_only=True)["params"], models.build("mambairv2-tiny", scans=2)
    models.initialise(own, 3)
    scan = "*.assm.selectiveScan.*"  # of another shape with two directions
    found = started(cell(Initial(kept, new=(scan,)), 3, scans=2), tmp_path)
    for name, tensor in own.state_dict().items():
        assert torch.equal(found[name], tensor if "selectiveScan" in name else given[name]), name
    with pytest.raises(models.ModelError, match="of another shape"):
        started(cell(Initial(kept), 3, scans=2), tmp_path)


def test_what_the_network_lacks_must_be_named(tmp_path, kept):
    names = started(cell(Initial(kept, without=POOL), ase="off"), tmp_path)
    assert not any("embedding" in name for name in names)
    with pytest.raises(models.ModelError, match=r"unexpected .*embeddingB"):
        started(cell(Initial(kept), ase="off"), tmp_path)
    for wrong, words in ((Initial(kept, new=("*.typo",)), "init-new"), (Initial(kept, without=("no.*",)), "the file")):
        with pytest.raises(SpecError, match=words):
            started(cell(wrong), tmp_path)


def test_missing_other_and_unnamed_weights_are_refused(tmp_path, kept):
    with pytest.raises(SpecError, match=r"does not have.*--init FILE"):
        started(cell(Initial("0" * 64)), tmp_path)
    with pytest.raises(SpecError, match=r"not named.*--init FILE"):
        started(cell(Initial()), tmp_path)
    other = models.build("mambairv2-tiny").state_dict()
    safetensors.torch.save_file(other, initial.path(tmp_path, kept))
    with pytest.raises(SpecError, match="holds the weights"):
        started(cell(Initial(kept)), tmp_path)


def test_training_goes_on_from_its_checkpoint_not_from_the_file(tmp_path, file):
    images = [np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)]
    folders = []
    for name in ("whole", "parts"):
        store = tmp_path / name
        one = cell(Initial(initial.keep(store, file)))
        folders.append(store / records.key_of(one.config()))
        if name == "parts":

            def stop(runs):
                if runs[0].step == 2:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                train(one, images, folders[-1], on_sync=stop)
            assert (folders[-1] / "checkpoint.pt").exists()
        train(one, images, folders[-1])
    whole, parts = ((folder / trainer.WEIGHTS).read_bytes() for folder in folders)
    assert whole == parts
    start, end = torch.load(file, weights_only=True)["params"], safetensors.torch.load(whole)
    moved = max(float((end[name] - start[name]).abs().max()) for name in end if end[name].is_floating_point())
    assert 0 < moved <= BUDGET.iterations * BUDGET.lr * 1.01  # Adam's steps are at most lr each


def test_a_suite_is_started_from_a_file(file):
    plain = recipes.choose("smoke", only="base/*")
    suite = recipes.choose("smoke", only="base/*", init=file)
    weights = models.weights_hash(file)
    assert all("initial" not in one.config() for one in plain.cells)
    assert all(one.config()["initial"] == {"weights": weights, "new": (), "without": ()} for one in suite.cells)
    assert {one.name for one in suite.cells} == {one.name for one in plain.cells}
    assert [Cell.from_config(records.canonical(one.config())) for one in suite.cells] == list(suite.cells)
    assert [replace(one, initial=None) for one in suite.cells] == list(plain.cells)
    assert suite.families[0].base in [replace(one, seed=suite.families[0].base.seed) for one in suite.cells]
    paper = recipes.choose("paper-light-x2", init=file).cells[0]
    assert paper.budget == replace(recipes.choose("paper-light-x2").cells[0].budget, name="reduced")
    with pytest.raises(SpecError, match="--init FILE names none"):
        recipes.choose("smoke", new="*.route.*")


def test_recovery_needs_weights_that_fit_and_the_dry_run_says_them(file, tmp_path):
    unnamed = recipes.choose("recovery", budget="smoke")
    with pytest.raises(SpecError, match=r"base/sr-x2/seed-0 starts from given weights.*--init FILE"):
        preflight.check_initial(unnamed.cells, None)
    with pytest.raises(SpecError, match=r"base/sr-x4/seed-0 cannot start.*of another shape.*--only"):
        preflight.check_initial(recipes.choose("recovery", budget="smoke", init=file).cells, file)
    suite = recipes.choose("recovery", budget="smoke", init=file, only="*/sr-x2/*")
    preflight.check_initial(suite.cells, file)
    assert {one.variant.name for one in suite.cells} == set(recovery.CHANGES) and len(suite.cells) == 24
    lines = " ".join(dryrun.check_and_describe(suite, Store(tmp_path), "auto", "cpu", None, file))
    weights = models.weights_hash(file)[:16]
    assert f"start from the weights {weights}: base, sgn-off, memory-1" in lines
    assert f"start from the weights {weights} (without *.embeddingA.weight, *.embeddingB.weight): ase-off" in lines


def test_recovery_compares_each_change_with_the_base_trained_on_alike():
    suite = recipes.choose("recovery")
    assert {(one.seed, one.task.name) for one in suite.cells} == {(s, f"sr-x{x}") for s in (0, 1, 2) for x in (2, 4)}
    for family in suite.families:
        for _, member in family.members:
            assert replace(member, variant=family.base.variant, protocol=family.base.protocol, initial=None) == replace(
                family.base, initial=None
            )
    budget = suite.cells[0].budget
    assert (budget.iterations, budget.batch, budget.patch, budget.lr, budget.precision) == (2000, 16, 48, 1e-4, "bf16")


def test_released_weights_fit_every_network_of_recovery(shared):
    for scale in (2, 4):
        file = shared / f"weights/mambairv2_lightSR_x{scale}.pth"
        suite = recipes.choose("recovery", init=file, only=f"*/sr-x{scale}/seed-0")
        preflight.check_initial(suite.cells, file)
        assert len(suite.cells) == len(recovery.CHANGES)
