"""Recipes: what they hold, how they may be changed, what they cost."""

import math
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch

import models
from results import measured, records
from results.evidence import Evidence
from results.store import Store
from suites import recipes
from suites.planning import dryrun, rates
from suites.recipes import paper, settings
from suites.spec import Budget, Cell, SpecError


def test_smoke_is_a_base_and_four_ablations_at_two_seeds():
    suite = recipes.choose("smoke")
    assert len(suite.cells) == 10 and len({cell.name for cell in suite.cells}) == 10
    assert {cell.seed for cell in suite.cells} == {0, 1}
    assert {cell.budget.name for cell in suite.cells} == {"smoke"}
    changes = {cell.variant.name: cell.variant.overrides for cell in suite.cells}
    assert changes.pop("base") == {}
    assert sorted(changes.values(), key=str) == [{"ase": "off"}, {"num_tokens": 16}, {"scans": 2}, {"sgn": "off"}]


@pytest.mark.parametrize("name", recipes.SUITES)
def test_every_variant_can_be_built_and_is_another_network(name):
    suite, networks = recipes.choose(name, budget="smoke", seeds=(0,)), []
    for cell in suite.cells:
        with torch.device("meta"):
            model = models.build(cell.variant.model, **cell.task.network | cell.variant.overrides)
        networks.append((cell.task, cell.variant.labels, str(model.configuration)))
        assert Cell.from_config(cell.config()) == cell
    assert len(set(networks)) == len(networks)
    for word in ("Paper:", "Cost:", "Command:"):
        assert word in suite.doc


def test_the_papers_recipe_is_the_official_options_file():
    (cell,) = recipes.choose("paper-light-x2").cells
    budget = cell.budget
    assert (budget.iterations, budget.batch, budget.patch, budget.lr) == (500_000, 32, 64, 2e-4)
    assert budget.milestones == (250_000, 400_000, 450_000, 475_000) and budget.gamma == 0.5
    assert (budget.betas, budget.loss, budget.precision, budget.name) == ((0.9, 0.99), "l1", "fp32", "paper")
    assert cell.train_sets == ("DIV2K",) and cell.variant.overrides == {}
    assert cell.test_sets == ("Set5", "Set14", "BSD100", "Urban100", "Manga109")
    assert cell.protocol.to_dict() == {
        **{"tiling": "official", "routing": "gumbel", "samples": 1, "seed": 0, "prompt_order": "raster"},
        **{"lr_route": "matlab", "luma": "float", "channels": "y", "border": 2, "precision": "fp32"},
    }


def test_budgets_seeds_and_globs():
    assert [cell.seed for cell in recipes.choose("smoke", seeds=(5,), only="base/*").cells] == [5]
    assert len(recipes.choose("smoke", only="*/seed-1").cells) == 5
    reduced = recipes.choose("paper-light-x2", budget="reduced", seeds=(0, 1, 2)).cells
    assert len(reduced) == 3 and {cell.budget.name for cell in reduced} == {"reduced"}
    assert recipes.parse_seeds("0, 1,1,2") == (0, 1, 2)
    for bad, said in (("1,,2", "whole numbers"), ("-1", "whole numbers"), ("a", "whole numbers")):
        with pytest.raises(SpecError, match=said):
            recipes.parse_seeds(bad)
    with pytest.raises(SpecError, match=r"unknown suite 'smok'.*smoke, ablations, paper-light-x2"):
        recipes.choose("smok")
    with pytest.raises(SpecError, match=r"no budget 'paper': choose from smoke"):
        recipes.choose("smoke", budget="paper")
    with pytest.raises(SpecError, match=r"no budget 'huge': choose from paper, reduced, smoke"):
        recipes.choose("paper-light-x2", budget="huge")
    with pytest.raises(SpecError, match=r"'nothing\*' fits no cell of smoke: they are base/sr-x2/seed-0"):
        recipes.choose("smoke", only="nothing*")


def change(*changes: str, suite: str = "smoke", **options) -> tuple[Cell, ...]:
    return recipes.choose(suite, changes=changes, base=False, **options).cells


def test_changes_are_typed_and_change_the_identity():
    cell = change("iterations=20", "lr=1e-3", "milestones=10,15", "samples=8", "tiling=64", "batch=4")[0]
    assert cell.budget == replace(
        recipes.choose("smoke").cells[0].budget, iterations=20, lr=1e-3, milestones=(10, 15), batch=4
    )
    assert (cell.protocol.samples, cell.protocol.tiling) == (8, 64)
    assert type(cell.budget.lr) is float and type(cell.budget.iterations) is int
    assert change("lr=1")[0].budget.lr == 1.0 and type(change("lr=1")[0].budget.lr) is float
    assert change("tiling=none")[0].protocol.tiling == "none"
    assert change("lr_route=none")[0].protocol.lr_route is None
    assert change("milestones=")[0].budget.milestones == ()
    assert change("iterations=20_000")[0].budget.iterations == 20_000
    assert change("test_sets=Set5,Set14")[0].test_sets == ("Set5", "Set14")
    keys = {records.key_of(cells[0].config()) for cells in (change(), change("samples=8"), change("iterations=20"))}
    assert len(keys) == 3


def test_a_plain_key_sets_every_part_that_has_it_and_a_dotted_one_its_own():
    both, budget, protocol = (change(f"{part}precision=bf16")[0] for part in ("", "budget.", "protocol."))
    assert (both.budget.precision, both.protocol.precision) == ("bf16", "bf16")
    assert (budget.budget.precision, budget.protocol.precision) == ("bf16", "fp32")
    assert (protocol.budget.precision, protocol.protocol.precision) == ("fp32", "bf16")
    cell = change("prompt_order=semantic", "routing=argmax")[0]
    assert cell.variant.overrides == {"prompt_order": "semantic", "routing": "argmax"}
    assert (cell.protocol.prompt_order, cell.protocol.routing) == ("semantic", "argmax")
    cell = change("network.depths=2,2", "num_heads=2,2", "inner_rank=none", "mlp_ratio=2")[0]
    assert cell.variant.overrides == {"depths": (2, 2), "num_heads": (2, 2), "inner_rank": None, "mlp_ratio": 2.0}
    models.build("mambairv2-tiny", **cell.variant.overrides)


def test_another_network_has_another_name():
    def name(*changes: str, only: str = "base/*") -> str:
        return change(*changes, only=only)[0].name

    assert name("scans=4") == "base,scans=4/sr-x2/seed-0" and name() == "base/sr-x2/seed-0"
    assert name("scans=4", only="scans-2/*") == "scans-2,scans=4/sr-x2/seed-0"
    assert name("scans=2", only="scans-2/*") == "scans-2/sr-x2/seed-0"  # it has two anyway
    assert name("scans=2", "iterations=9", "scans=4") == name("scans=4")
    assert name("routing=argmax") == name("network.routing=argmax") == "base,routing=argmax/sr-x2/seed-0"
    assert name("protocol.routing=argmax", "batch=2", "samples=8", "precision=bf16") == name()
    assert name("num_heads=2,2", "inner_rank=none", "depths=2,2").startswith(
        "base,depths=2,2,inner_rank=none,num_heads=2,2/"
    )
    assert name("sgn=off", "ase=off") == name("ase=off", "sgn=off") == "base,ase=off,sgn=off/sr-x2/seed-0"
    names = [cell.name for cell in (*change(), *change("mlp_ratio=2"))]
    assert len(set(names)) == len(names)


def test_a_changed_paper_schedule_is_no_longer_called_paper():
    assert change("iterations=1000", suite="paper-light-x2")[0].budget.name == "reduced"
    assert change("precision=bf16", suite="paper-light-x2")[0].budget.name == "reduced"
    assert change("iterations=500000", suite="paper-light-x2")[0].budget.name == "paper"
    assert change("checkpoint_every=10", "accumulate=4", suite="paper-light-x2")[0].budget.name == "paper"
    assert change("samples=8", suite="paper-light-x2")[0].budget.name == "paper"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("iteration=5", r"unknown key 'iteration' of --set: choose from .*iterations.*num_tokens.*tiling"),
        ("budget.samples=5", "unknown key 'budget.samples'"),
        ("other.lr=5", "unknown key 'other.lr'"),
        ("name=paper", "unknown key 'name'"),
        ("upscale=4", "unknown key 'upscale'"),
        ("iterations", "KEY=VALUE"),
        ("iterations=many", "iterations=many: a whole number is needed"),
        ("iterations=1.5", "a whole number is needed"),
        ("lr=nan", "lr=nan: a finite number is needed"),
        ("lr=inf", "lr=inf: a finite number is needed"),
        ("betas=0.9,nan", "betas=nan: a finite number is needed"),
        ("lr=-1", "lr is -1.0: a number over 0 is needed$"),
        ("gamma=1.5", "gamma is 1.5: a number over 0 is needed, and at most 1"),
        ("seed=-1", "seed is -1: at least 0 is needed"),
        ("inner_rank=", "inner_rank=: a whole number or none is needed"),
        ("lr=fast", "a number is needed"),
        ("betas=0.9", "2 numbers with a comma between is needed"),
        ("milestones=1,x", "milestones=x: a whole number is needed"),
        ("loss=l2", "l1 or charbonnier is needed"),
        ("budget.precision=fp64", "unknown precision 'fp64'"),
        ("protocol.routing=random", "unknown routing 'random'"),
        ("tiling=4", "unknown tiling 4"),
        ("accumulate=3", "does not split into 3"),
        ("iterations=0", "at least 1"),
        ("num_tokens=32", "variants differ in it"),
        ("network.scans=4", "variants differ in it"),
    ],
)
def test_changes_that_cannot_be_made(setting, said):
    with pytest.raises(SpecError, match=said):
        change(setting)


def test_no_budget_has_a_rate_that_is_no_number():
    with pytest.raises(SpecError, match="lr is nan"):
        replace(recipes.choose("smoke").cells[0].budget, lr=math.nan)


def test_every_key_is_one_that_can_be_set():
    assert {"iterations", "tiling", "num_tokens", "scans", "train_sets"} <= set(settings.keys())
    assert not {"name", "upscale", "in_chans", "upsampler"} & set(settings.keys())


def test_cost_of_the_papers_recipe_is_the_official_step_times_its_iterations(tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "profiled", list)  # whatever has been committed
    nothing = Evidence(Store(tmp_path), tmp_path)
    costs = rates.estimate(recipes.choose("paper-light-x2", seeds=(0, 1)).cells, nothing)
    row = costs.iloc[0]
    assert (row["cells"], row["iterations"], row["machine"]) == (2, 1_000_000, "NVIDIA H200")
    assert row["hours"] == pytest.approx(1e6 * 0.2803 / 3600) and "official code" in row["source"]
    assert rates.summary(costs) == "2 cells, 1,000,000 iterations, 77.9 h on NVIDIA H200"
    small = rates.estimate(change("batch=16", "patch=32", suite="paper-light-x2"), nothing).iloc[0]
    assert small["seconds_per_iteration"] == pytest.approx(0.2803 / 8) and "scaled by pixels" in small["note"]
    slow = rates.estimate(change("budget.precision=bf16", suite="paper-light-x2"), nothing).iloc[0]
    assert slow["hours"] is None and "never measured" in slow["source"]
    assert rates.summary(pd.DataFrame([slow])).endswith("1 cell of unknown cost")


def test_cost_prefers_a_committed_profile_to_the_official_code(tmp_path, monkeypatch):
    row = {"model": "mambairv2-light", "overrides": {}, "task": "sr-x2", "batch": 32, "height": 64, "width": 64}
    row |= {"mode": "training", "status": "ok", "precision": "fp32", "launch": "graph", "median_ms": 100.0}
    others = row | {"launch": "eager", "median_ms": 1.0}, row | {"status": "failed", "median_ms": None}
    machine = {"device": "NVIDIA H200", "device_type": "cuda", "threads": 2, "commit": "0123456789"}
    profile = {"file": "h200/profile-x.json", "rows": [row, *others], "environment": machine}
    monkeypatch.setattr(rates.committed, "profiles", lambda: [profile])
    cost = rates.estimate(recipes.choose("paper-light-x2").cells, Evidence(Store(tmp_path), tmp_path)).iloc[0]
    assert cost["seconds_per_iteration"] == pytest.approx(0.1) and cost["machine"] == "NVIDIA H200"
    assert cost["source"] == "this code's profile (h200/profile-x.json, commit 01234567)"


def test_cost_prefers_what_was_measured_here(tmp_path, monkeypatch):
    store, cells = Store(tmp_path), recipes.choose("smoke").cells
    monkeypatch.setattr(rates.environment, "describe", lambda *_: {"device": "Chip", "device_type": "cpu"})
    assert set(rates.estimate(cells, Evidence(store, tmp_path))["machine"]) == {rates.SMOKE.machine}

    def finish(cell: Cell, device: str, seconds: float) -> None:
        folder = store.open_cell(cell.config())
        pixels = "0" * 64
        store.write_scores(
            folder, pd.DataFrame([{"dataset": "a", "image": "b", "pixels": pixels, "psnr": 1, "ssim": 1}])
        )
        (folder / "weights.safetensors").touch()
        machine = {"device": device, "device_type": "cpu", "threads": 2, "commit": "abc"}
        records.write_json(folder / "environment.json", machine | {"train_steps": 100, "train_seconds": seconds})
        store.write_status(folder, "done")

    base, scans = cells[0], next(cell for cell in cells if cell.variant.name == "scans-2")
    finish(base, "Other", 30.0)
    finish(replace(base, seed=7), "Chip", 10.0)
    finish(scans, "Other", 50.0)
    costs = rates.estimate(cells, Evidence(store, tmp_path)).set_index("variant")
    assert costs.loc["base", "seconds_per_iteration"] == pytest.approx(0.1) and "Chip" in costs.loc["base", "machine"]
    assert costs.loc["sgn-off", "seconds_per_iteration"] == pytest.approx(0.1)
    assert "without its overrides" in costs.loc["sgn-off", "note"]
    assert costs.loc["scans-2", "machine"] == "Chip, 2 threads"  # this machine counts for more than the exact variant
    assert math.isclose(costs["hours"].sum(), sum(costs["seconds_per_iteration"] * costs["iterations"]) / 3600)
    finish(replace(base, seed=8), "Chip", 20.0)  # of two that are equally good the mean
    costs = rates.estimate(cells, Evidence(store, tmp_path)).set_index("variant")
    assert costs.loc["base", "seconds_per_iteration"] == pytest.approx(0.15)
    assert costs.loc["base", "source"].startswith("mean of a finished cell here (")
    assert costs.loc["base", "source"].endswith(" and 1 more")
    shutil.rmtree(store.cell_folder(replace(base, seed=8).config()))
    # The share of a cell that was trained beside others is nobody's time per iteration.
    path = store.cell_folder(replace(base, seed=7).config()) / "environment.json"
    records.write_json(path, records.read_json(path) | {"abreast": 4})
    costs = rates.estimate(cells, Evidence(store, tmp_path)).set_index("variant")
    assert costs.loc["base", "seconds_per_iteration"] == pytest.approx(0.3)


def test_budgets_of_one_recipe_differ_in_length_not_in_kind():
    for schedule, *_ in paper.BUDGETS.values():
        assert isinstance(schedule, Budget) and (schedule.lr, schedule.betas, schedule.loss) == (
            2e-4,
            (0.9, 0.99),
            "l1",
        )
        assert [milestone / schedule.iterations for milestone in schedule.milestones] == [0.5, 0.8, 0.9, 0.95]


def test_dry_run_says_state_schedule_and_cost(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path)  # whatever has been committed
    monkeypatch.setattr(rates, "profiled", list)
    text = "\n".join(dryrun.describe(recipes.choose("paper-light-x2"), Store(tmp_path)))
    assert "1 cell (1 planned)" in text and "milestones=250000,400000,450000,475000" in text
    assert "280 ms each, 38.9 h on NVIDIA H200 [official code" in text and "torch 2.11]" in text
    assert "trained on DIV2K" in text and "smallest difference" not in text  # one variant is compared with nothing
    assert not list(tmp_path.iterdir())
    text = "\n".join(dryrun.describe(recipes.choose("smoke", seeds="3"), Store(tmp_path)))
    assert "5 cells (5 planned)" in text and "base/sr-x2/seed-3" in text
