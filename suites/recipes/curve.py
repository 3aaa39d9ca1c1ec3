"""Learning curves: seeds of the official light x2 recipe, scored on the way, as the official code was."""

from suites.recipes.ablations import SMOKE_SETTING
from suites.spec import Budget, Cell, Protocol, Scoring, Suite, Task, Variant, check_choice

TASK = Task.parse("sr-x2")
TRAIN_SETS, TEST_SETS = ("BSDS500-train", "BSDS500-test", "T91"), ("Set5", "Set14")
AT = (100, 250, 500, 1000, 1500, 2000, 2500, 3000)
BUDGET = Budget("reduced", AT[-1], checkpoint_every=AT[-1])  # marks are checkpoints too


def curve(budget: str | None = None, seeds: tuple[int, ...] | None = None) -> Suite:
    """Learning curves: light x2 at the official settings for 3K iterations, scored on the way on Set5 and Set14.

    Paper: none; docs/trainer.md holds what comes of it against the official code's curve on the same 484 pictures
    of BSDS500 and T91 (batch 32, LR patch 64, Adam 2e-4 constant, L1, flips and rotations). Expected: no difference.
    Budgets: reduced (the default); smoke (a tiny network on the embedded pictures: it runs, no more).
    Cost: three cells of 3K iterations; `--dry-run` prints hours.
    Command: python runner.py curve --results STORE --data DIR --set budget.precision=tf32x3 (all seeds at a time)
    """
    name = budget or "reduced"
    check_choice("budget of the suite curve", name, ("reduced", "smoke"))
    protocol = Protocol.official(TASK)
    cells = []
    for seed in seeds or (0, 1, 2):
        if name == "reduced":
            network = Variant("base", "mambairv2-light")
            cells.append(Cell(network, TASK, seed, BUDGET, TRAIN_SETS, TEST_SETS, protocol))
        else:
            network = Variant("base", SMOKE_SETTING.model, SMOKE_SETTING.overrides)
            cells.append(Cell(network, TASK, seed, SMOKE_SETTING.budget, ("embedded",), ("embedded",), protocol))
    last = cells[0].budget.iterations
    at = AT if name == "reduced" else (last // 4, last // 2)
    return Suite("curve", curve.__doc__ or "", tuple(cells), scoring=Scoring(at=at))
