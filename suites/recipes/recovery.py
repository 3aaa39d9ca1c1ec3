"""Recovery: trained weights without one of their parts, trained on, against the same weights trained on with it.

What an intervention on trained weights costs at once mixes two things: what the part does, and that everything after
it was trained with it. Training on takes the second away, as far as so short a training can. What is left says what
these weights rely on; it does not say what training with the part from the start gains (`ablations`).
"""

from dataclasses import replace
from typing import Any, NamedTuple

from suites.recipes import ablations, paper
from suites.spec import Budget, Cell, Family, Initial, Protocol, Scoring, Suite, Task, Variant, check_choice

TASKS = ("sr-x2", "sr-x4")  # of the released light weights
POOL, ROUTER = ("*.embeddingA.weight", "*.embeddingB.weight"), ("*.route.*",)


class Change(NamedTuple):
    """label: in tables. overrides: of the network. without: tensors of the released weights that it does not have."""

    label: str
    overrides: dict[str, Any]
    without: tuple[str, ...] = ()


CHANGES = {  # by the variant's name, base first
    "base": Change("all of it", {}),
    "ase-off": Change("no prompts", {"ase": "off"}, POOL),  # nothing trains the router then: it stays as it is
    "sgn-off": Change("raster order", {"sgn": "off"}),
    "plain-scan": Change("plain scan", ablations.PLAIN, (*POOL, *ROUTER)),
    "memory-1": Change("no memory", {"memory": 1}),
    "semantic-order": Change("prompts follow their pixel", {"prompt_order": "semantic"}),
    "argmax": Change("argmax routing", {"routing": "argmax"}),
    "attention-only": Change("no scan", {"scans": 0}, ("*.assm.*", "*.norm3.*", "*.embeddingA.weight")),
}
BUDGET = Budget(
    *("recovery", 2_000, 16, 48, 1e-4),
    milestones=(1_000, 1_600, 1_800, 1_900),
    precision="bf16",
    checkpoint_every=500,
)
SMOKE = replace(paper.SMOKE, lr=1e-4)
SCORING = Scoring(at=(100, 500), sets=("Set14",))


def recovery(budget: str | None = None, seeds: tuple[int, ...] | None = None) -> Suite:
    """Recovery: light x2 or x4 from given weights (--init), trained on without prompts, sort, memory, scan, or whole.

    Paper: none. Ablation of trained networks with recovery training after it: Meyes et al. 2019 (arXiv 1901.08644).
    It tells what trained weights rely on, not what training with the part gains: a network that never had a part can
    end as good as one that lost it (Liu et al. 2019, arXiv 1810.05270, of pruned networks). Expected: less is lost
    than by the same intervention without training.
    Budgets: recovery (the default: 2,000 iterations of batch 16 and patch 48 on BSDS500 and T91 in bfloat16, Adam at
    1e-4, halved after 50, 80, 90 and 95 %; scored after 100 and 500 iterations too); smoke (a tiny network on the
    embedded pictures: it runs, no more). A seed draws other patches and noise; the weights to start from are the same.
    Cost: 8 cells a seed and task; `--dry-run` prints hours.
    Command: python runner.py run recovery --init mambairv2_lightSR_x2.pth --only '*/sr-x2/*' --data DIR --device cuda
    """
    name = budget or "recovery"
    check_choice("budget of the suite recovery", name, ("recovery", "smoke"))
    cells, families = [], []
    for task in map(Task.parse, TASKS):
        own = {change: _cell(change, task, name) for change in CHANGES}
        members = tuple((CHANGES[change].label, cell) for change, cell in own.items())
        families.append(
            Family("recovery", "what do trained weights lose for good without this part?", own["base"], members)
        )
        cells += [replace(cell, seed=seed) for seed in seeds or (0, 1, 2) for cell in own.values()]
    scoring = SCORING if name == "recovery" else Scoring()
    return Suite("recovery", recovery.__doc__ or "", tuple(cells), tuple(families), scoring=scoring)


def _cell(change: str, task: Task, budget: str) -> Cell:
    _, overrides, without = CHANGES[change]
    tested = {key: overrides[key] for key in ablations.OF_THE_PROTOCOL if key in overrides}
    protocol = Protocol.official(task, **tested)
    if budget == "smoke":
        model, schedule, train_sets, test_sets = "mambairv2-tiny", SMOKE, ("embedded",), ("embedded",)
    else:
        model, schedule, train_sets, test_sets = "mambairv2-light", BUDGET, ablations.SMALL_SETS, ablations.BF16_SETS
    variant = Variant(change, model, overrides)
    return Cell(variant, task, 0, schedule, train_sets, test_sets, protocol, Initial(without=without))
