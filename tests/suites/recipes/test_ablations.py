"""The ablation suite: every family of the specification, every switch alive, at every budget."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from skimage import data

import models
from results import measured, records
from results.evidence import Evidence
from results.power import minimum_detectable_effect, power_of
from results.store import Store
from suites import recipes
from suites.evaluation import ways
from suites.evaluation.evaluate import samples
from suites.execution import engine
from suites.planning import scatter
from suites.planning.dryrun import describe, detectable
from suites.recipes import ablations
from suites.spec import Cell, Family, Suite, Task
from tests.results.test_store import finish, rows
from tests.suites.conftest import SETS
from tests.suites.execution.forked import forked_cells
from tests.suites.training.helpers import train

BUDGETS = ("smoke", "reduced", "paper")  # those with all variants


def suite(budget: str = "smoke", seeds: tuple[int, ...] = (0,), **options) -> Suite:
    return recipes.choose("ablations", budget=budget, seeds=seeds, **options)


def network(cell: Cell) -> dict:
    """Every argument of the cell's network, and who labels."""
    arguments = {"depths": (1,), "num_heads": (2,), "embed_dim": 12}  # of a small one: no family is about these
    if cell.variant.name == "mambair":
        arguments = {"depths": (1,), "embed_dim": 30}
    with torch.device("meta"):
        model = models.build(cell.variant.model, **cell.task.network | arguments | cell.variant.overrides)
    return model.configuration | {"labels": cell.variant.labels}


def families(budget: str) -> dict[tuple[str, str], Family]:
    return {(family.name, family.base.task.name): family for family in suite(budget).families}


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_family_changes_what_it_is_named_after_and_nothing_else(budget):
    """The families of the specification, by the arguments in which members differ; `labels` is who sorts."""
    other = 64 if budget == "paper" else 32  # of the 22.7M network, and of light
    rank = {"sr-x2": 32, "denoise-25": other, "jpeg-10": other}
    on_off = ["on", "off"]
    expected = {
        ("components", "sr-x2"): {"scans": [1, 0], "ase": on_off, "sgn": on_off, "memory": [None, 1]},
        ("memory", "sr-x2"): {"scans": [1, 0], "ase": ["off", "on"], "sgn": ["off", "on"], "memory": [1, None]},
        **{("attentive", task): {"ase": on_off, "sgn": on_off} for task in ("denoise-25", "jpeg-10")},
        ("scans", "sr-x2"): {"scans": [1, 0, 2, 4]},
        ("plain-scans", "sr-x2"): {"scans": [1, 0, 2, 4], "ase": ["off", "on"], "sgn": ["off", "on"]},
        ("one-for-many", "sr-x2"): {"scans": [1, 2, 4], "ase": on_off, "sgn": on_off},
        ("tokens", "sr-x2"): {"num_tokens": [16, 32, 64, 128, 256]},
        ("target", "sr-x2"): {"prompt_target": ["C", "B", "delta", "y"]},
        ("semantics", "sr-x2"): {"sgn": on_off, "labels": ["learned", "kmeans", "slic"]},
        ("code-or-paper", "sr-x2"): {
            "prompt_order": ["raster", "semantic"],
            "routing": ["gumbel", "argmax"],
            "prompt_sharing": ["none", "network"],
        },
    } | {("rank", task): {"inner_rank": [4, 8, 16, 32, 64, None]} for task in rank}
    found = families(budget)
    (v2, v1) = (network(cell) for _, cell in found.pop(("replaced", "sr-x2")).members)
    assert (v2["type"], v1["type"]) == ("MambaIRv2", "MambaIR")
    assert found.keys() == expected.keys()
    for key, family in found.items():
        networks = [network(cell) for _, cell in family.members]
        values = {name: list(dict.fromkeys(one[name] for one in networks)) for name in networks[0]}
        assert {name: own for name, own in values.items() if len(own) > 1} == expected[key]
        base, others = network(family.base), [one for one in networks if one != network(family.base)]
        assert len(others) == len(networks) - 1  # the base is a member, once
        if key[0] not in (
            "components",
            "memory",
            "plain-scans",
            "one-for-many",
            "attentive",
        ):  # there two switches may go together
            assert all(sum(one[name] != base[name] for name in base) == 1 for one in others)
        if key[0] == "rank":
            assert base["inner_rank"] == rank[key[1]]
    assert network(found["plain-scans", "sr-x2"].base)["ase"] == "off"


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_cell_is_trained_once_and_in_every_family_that_names_it(budget):
    chosen = suite(budget)
    assert len(chosen.cells) == 42 and len({records.key_of(cell.config()) for cell in chosen.cells}) == 42
    members = [cell for family in chosen.families for _, cell in family.members]
    assert len(members) == 61 and all(cell in chosen.cells for cell in members)
    assert all(cell in members for cell in chosen.cells) and {cell.budget.name for cell in chosen.cells} == {budget}
    assert sum(family.base.variant.name == "base" for family in chosen.families) == 13


@pytest.mark.parametrize("budget", BUDGETS)
def test_labels_tell_the_truth(budget):
    for family in suite(budget).families:
        for label, cell in family.members:
            name, _, value = label.partition(" = ")
            if value:
                assert network(cell)[{"T": "num_tokens", "r": "inner_rank"}[name]] == int(value)


def test_a_network_is_scored_as_it_was_trained():
    for cell in suite("reduced").cells:
        own = {"routing": "gumbel", "prompt_order": "raster"} | network(cell)  # MambaIR knows neither
        assert (cell.protocol.routing, cell.protocol.prompt_order) == (own["routing"], own["prompt_order"])
        assert cell.budget.loss == ("l1" if cell.task.kind == "sr" else "charbonnier")
        assert cell.protocol.channels == {"sr": "y", "denoise": "rgb", "jpeg": "gray"}[cell.task.kind]


def test_published_schedules():
    """Ablations: light x2 for 250K iterations, the official milestones of that length; denoising and JPEG: the official
    from-scratch option files."""
    by_task = {cell.task.name: cell for cell in suite("paper").cells}
    sr, denoise, jpeg = (by_task[task] for task in ("sr-x2", "denoise-25", "jpeg-10"))
    assert (sr.variant.model, sr.budget.iterations, sr.budget.batch, sr.budget.patch) == (
        "mambairv2-light",
        250_000,
        32,
        64,
    )
    assert sr.budget.milestones == (125_000, 200_000, 225_000, 237_500)
    for cell, patch in ((denoise, 128), (jpeg, 126)):
        assert cell.variant.model == "mambairv2-base" and (cell.budget.batch, cell.budget.patch) == (16, patch)
        assert cell.budget.iterations == 1_600_000
        assert cell.budget.milestones == (800_000, 1_200_000, 1_400_000, 1_500_000)
    reduced = {cell.variant.model for cell in suite("reduced").cells}
    assert reduced == {"mambairv2-light", "mambair-light"}  # at a reduced budget not the 22.7M network


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, np.ndarray]:
    """What every cell restores from one picture after two steps in its own task, by the cell's name."""
    picture, found = data.astronaut()[80:160, 180:260], {}
    for cell in suite(changes=("iterations=2", "batch=1", "patch=16", "milestones=1")).cells:
        weights = train(cell, [picture], tmp_path_factory.mktemp("cell"))
        model = ways.scored_network(cell, "auto")
        models.load_weights(model, weights)
        lq = picture[:24, :20, : cell.task.channels].astype(np.float32) / 255
        (restored,) = samples(model.eval(), lq, cell.protocol, "astronaut", device="cpu", labels=cell.variant.labels)
        assert np.isfinite(restored).all() and restored.shape[0] == 24 * cell.task.scale
        found[cell.name] = restored
        trained, fresh = (
            load_file(weights),
            models.build(cell.variant.model, **cell.task.network | cell.variant.overrides),
        )
        models.initialise(fresh, 0)
        changed = {name for name, value in fresh.named_parameters() if not torch.equal(trained[name], value)}
        frozen = {name for name, _ in fresh.named_parameters()} - changed
        untrained = cell.variant.overrides.get("ase") == "off" and cell.variant.overrides.get("sgn") != "off"
        dead = {"no-memory": "A_logs", "mambair": ".attention."}  # of two squeezed channels, after two steps
        still = ".route." if untrained else dead.get(cell.variant.name)
        assert all(still in name for name in frozen) if still else not frozen, (cell.name, frozen)
    return found


def test_every_switch_trains_and_restores_something_of_its_own(outputs):
    assert len(outputs) == 42
    for task in ("sr-x2", "denoise-25", "jpeg-10"):
        own = {name: value for name, value in outputs.items() if f"/{task}/" in name}
        for name, value in own.items():
            same = [other for other in own if other != name and np.array_equal(own[other], value)]
            assert not same, f"{name} restores just what {same} do"


def test_sampled_cells_run_from_the_engine_to_the_families_of_the_store(pictures, tmp_path):
    changes = (*SETS, "iterations=2", "batch=1", "patch=8", "milestones=1", "tiling=16")
    chosen = suite(only="*/sr-x2/*", changes=changes)
    chosen = replace(chosen, cells=tuple(cell for cell in chosen.cells if cell.variant.name in ("base", "kmeans")))
    store = Store(tmp_path)
    with forked_cells():
        outcome = engine.run(chosen, store, data=pictures, console=Console(file=io.StringIO()), concurrent=2)
    assert outcome.ok and len(outcome.done) == 2, outcome.lines()
    found = store.families()
    assert found["problem"].isna().all() and set(found["suite"]) == {"ablations"}
    assert set(found["family"]) == {"semantics"}  # no other compares anything here
    assert list(found["label"]) == ["learned", "off", "k-means", "SLIC"]
    learned, off, kmeans, slic = found.to_dict("records")
    assert kmeans["base"] == learned["base"] == learned["hash"] != kmeans["hash"]
    assert off["hash"] is slic["hash"] is None  # declared, so that a table can say: not run
    means = store.means().set_index("hash")["psnr"]
    assert math.isfinite(means[learned["hash"]]) and means[learned["hash"]] != means[kmeans["hash"]]


def test_budgets_in_bfloat16_train_the_same_networks_otherwise():
    """Other names and other keys; the long one falls at the same parts of ten times the way."""
    plain, bf16, long = (suite(budget).cells for budget in ("reduced", "reduced-bf16", "long-bf16"))
    networks = {cell.name: cell.variant for cell in plain}
    assert all(networks[cell.name] == cell.variant for cell in (*bf16, *long))
    expected = replace(plain[0].budget, name="reduced-bf16", precision="bf16")
    assert {cell.budget for cell in bf16 if cell.task.kind == "sr"} == {expected}
    (budget,) = {cell.budget for cell in long}
    assert (budget.name, budget.iterations, budget.precision) == ("long-bf16", 60_000, "bf16")
    assert [m / 60_000 for m in budget.milestones] == [m / 6_000 for m in expected.milestones]
    assert {cell.variant.name for cell in long} == {"base", "attention-only", "no-memory", "plain-scan"}
    elsewhere = {cell.name for cell in bf16 if cell.task.kind != "sr"}
    assert elsewhere == {f"{v}/{t}/seed-0" for v in ("base", "plain-scan", "rank-4") for t in ("denoise-25", "jpeg-10")}
    for chosen in (bf16, long):
        assert all(cell in chosen for family in suite(chosen[0].budget.name).families for _, cell in family.members)


def test_changes_reach_the_families_too():
    chosen = suite(only="tokens-16/*", changes=("scans=2", "iterations=7"))
    (family,) = chosen.compared()
    assert family.name == "tokens" and family.base.variant.name == "base,scans=2"
    assert {network(cell)["scans"] for _, cell in family.members} == {2}
    assert {cell.budget.iterations for _, cell in family.members} == {7}
    assert chosen.cells[0] in [cell for _, cell in family.members]
    assert not suite(only="base/*").compared()
    assert len(suite(only="base/*").families) == len(suite().families)


def test_dry_run_gives_the_effect_that_the_assumed_scatter_allows(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    text = "\n".join(describe(suite("reduced", (0, 1, 2, 3)), Store(tmp_path / "store")))
    prose = " ".join(text.split())  # lines are broken at 100 columns, anywhere in a sentence
    sd = math.sqrt(2) * 0.06
    one, holm = (minimum_detectable_effect(sd, 4, alpha, df=12) for alpha in (0.05, 0.0125))
    assert "tokens, sr-x2              4 against base, 4 seeds         Set5 " in text
    assert f"Set14 {one:.3f} ({holm:.3f})" in text and power_of(one, sd, 4, df=12) == pytest.approx(0.8)
    assert "3 against plain-scan, 4 seeds" in text and "rank, jpeg-10" in text
    assert "scatter not known yet: the first two seeds tell" in prose and "168 cells, 1,008,000 iterations" in prose
    assert "4 cells           base/sr-x2/seed-0,1,2,3          planned" in text
    assert "168 cells of unknown cost" in text.split("in all:")[1]  # no profile is committed there either
    assert "(2 degrees of freedom) [sqrt 2 times the sd of three seeds" in prose
    assert "NVIDIA H200" in text and not (tmp_path / "store").exists()
    assert "give two or more --seeds" in "\n".join(describe(suite(), Store(tmp_path / "store")))


def test_measured_scatter_is_that_of_paired_differences(tmp_path):
    """Seeds that move all scores alike leave no scatter; what is left is that of a two-way layout."""
    store, changes = Store(tmp_path), ("test_sets=Set5",)
    chosen = suite(seeds=(0, 1, 2), only="*/sr-x2/*", changes=changes)
    own = {"base": (0, 5, 10), "target-B": (0.1, 5.2, 10.3), "target-y": (1, 6.1, 10.8), "sgn-off": (7,)}
    for cell in chosen.cells:
        if cell.variant.name in own and cell.seed < len(own[cell.variant.name]):
            finish(store, cell, rows("baby", shift=own[cell.variant.name][cell.seed]), {"Set5": 1})
    for family in chosen.compared():
        members = [(label, cell.config()) for label, cell in family.members]
        store.add_family(chosen.name, family.name, family.base.config(), members)
    (found,) = scatter.measured(Evidence(store, tmp_path / "none"))
    assert (found.task, found.budget, found.dataset) == ("sr-x2", "smoke", "Set5")
    table = np.array([own["base"], own["target-B"], own["target-y"]])  # a single seed tells nothing
    residual = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    assert found.sd == pytest.approx(math.sqrt(2 * (residual**2).sum() / 4)) and found.df == 4
    effect = minimum_detectable_effect(found.sd, 3, df=3 * 2)
    lines = detectable(chosen, Evidence(store, tmp_path / "none"))
    assert any("target, sr-x2" in line and f"Set5 {effect:.3f} (" in line for line in lines)


def test_measured_scatter_of_two_variants_is_the_sd_of_their_difference(tmp_path):
    """And seeds of another schedule have effects of their own."""
    store, differences = Store(tmp_path), {100: (0.1, 0.3, -0.1), 7: (0.5, 0.8, 0.2)}
    for iterations, values in differences.items():
        chosen = suite(seeds=(0, 1, 2), changes=("test_sets=Set5", f"iterations={iterations}"))
        (family,) = [one for one in chosen.families if one.name == "code-or-paper"]
        pair = [family.base, *(cell for label, cell in family.members if label == "argmax routing")]
        store.add_family("s", "f", pair[0].config(), [(cell.variant.name, cell.config()) for cell in pair])
        for seed, value in enumerate(values):
            for cell, shift in zip(pair, (seed * iterations, seed * iterations + value), strict=True):
                finish(store, replace(cell, seed=seed), rows("baby", shift=shift), {"Set5": 1})
    (found,) = scatter.measured(Evidence(store, tmp_path / "none"))
    pooled = np.mean([np.var(values, ddof=1) for values in differences.values()])
    assert found.sd == pytest.approx(math.sqrt(pooled)) and found.df == 4


def test_the_best_known_scatter_is_taken():
    known = [
        scatter.Scatter("sr-x2", None, "Set14", 3.0, 2, "of any budget"),
        scatter.Scatter("sr-x2", "reduced", "Set14", 1.0, 2, "own"),
        scatter.Scatter("sr-x2", "smoke", "Set14", 2.0, 2, "another"),
    ]
    assert scatter.of("sr-x2", "reduced", "Set14", known).source == "own"
    told = scatter.of("sr-x2", "paper", "Set14", [*known, scatter.Scatter("sr-x2", "pilot", "Set14", 0.5, 9, "most")])
    assert told.sd == 0.5 and told.source == "most at the budget pilot, as if paper scattered alike"
    assert scatter.of("sr-x2", "paper", "Set14", known[:1]).source == "of any budget"
    assert scatter.of("jpeg-10", "reduced", "Set14", known) is None
    assert all(Task.parse(one.task) and one.sd > 0 and one.source for one in scatter.PUBLISHED)


def test_the_interval_of_a_standard_deviation_holds_it():
    """As often as it says, over samples of three and of nine."""
    rng = np.random.default_rng(0)
    for df in (2, 8):
        inside = 0
        for sd in rng.standard_normal((4000, df + 1)).std(axis=1, ddof=1):
            low, high = scatter.Scatter("sr-x2", None, "Set14", float(sd), df, "drawn").interval()
            inside += low < 1 < high
        assert inside / 4000 == pytest.approx(0.95, abs=0.015)


def test_seeds_of_the_recipe():
    assert {cell.seed for cell in ablations.ablations().cells} == {0, 1, 2, 3}
    assert {cell.budget.name for cell in ablations.ablations().cells} == {"reduced"}
    again = replace(suite().cells[0], seed=9)
    assert suite(seeds=(9,)).cells[0] == again


def test_cells_in_bfloat16_are_scored_on_the_way_on_sets_of_their_own():
    planned = ablations.ablations("reduced-bf16", (0,))
    assert planned.scoring.at == (1500, 3000, 4500)
    found = {cell.task.name: planned.scoring.sets_of(cell) for cell in planned.cells}
    own = {"denoise-25": ("Kodak24", "McMaster"), "jpeg-10": ("Classic5", "LIVE1")}
    assert found == {"sr-x2": ("Set14", "Urban12"), **own}


def test_dry_run_takes_hours_from_committed_profiles(tmp_path):
    text = "\n".join(describe(suite("reduced", (0,)), Store(tmp_path / "store")))
    assert "about" in text.split("in all:")[1] and "h on NVIDIA H" in text.split("in all:")[1]
    assert "as on sr-x2" in text
