"""The pilot: two variants at a few seeds, small enough to tell what an ablation will cost before it is paid for."""

from suites.recipes import ablations, paper
from suites.spec import Cell, Family, Protocol, Scoring, Suite, Task, Variant, check_choice

TASK = Task.parse("sr-x2")
VARIANTS = {  # of the ablations, with what a family calls them
    "base": "attention + ASE + SGN",
    "plain-scan": "plain scan",
}
SETTINGS = {
    "reduced": ablations.Setting(
        "mambairv2-light", paper.REDUCED, ablations.SMALL_SETS, ("Set14", "BSD100", "Urban12")
    ),
    "smoke": ablations.SMOKE_SETTING,
}
SEEDS = {"reduced": (0, 1, 2, 3), "smoke": (0, 1)}
SCORING = Scoring(half=True, average=True, noise_seeds=(0, 1, 2, 3))


def pilot(budget: str | None = None, seeds: tuple[int, ...] | None = None) -> Suite:
    """Pilot: light x2 as a plain scan (no ASE, no SGN) against the base, to learn how much scores scatter.

    Paper: none; docs/pilot.md is what comes of it. Expected: differences of hundredths of a dB.
    Budgets: reduced (the default: 6K iterations of batch 16 and patch 48 on BSDS500 and T91, scored on Set14, BSD100
    and every eighth picture of Urban100); smoke (a tiny network on the embedded pictures: it runs, no more).
    Cost: 8 cells of 6K iterations; `--dry-run` prints hours.
    Scored besides: the weights of half the iterations and the average over the last tenth, each with four seeds of the
    routing noise.
    Command: python runner.py pilot --results STORE --data DIR (several cells at a time on one GPU, scored meanwhile)
    """
    name = budget or "reduced"
    check_choice("budget of the suite pilot", name, tuple(SETTINGS))
    setting, numbers = SETTINGS[name], seeds or SEEDS[name]
    cells = []
    for seed in numbers:  # seed by seed: what is cut off leaves whole pairs
        for variant in VARIANTS:
            overrides = {**setting.overrides, **ablations.SWITCHES[variant]}
            network = Variant(variant, setting.model, overrides)
            protocol = Protocol.official(TASK)
            cells.append(Cell(network, TASK, seed, setting.budget, setting.train_sets, setting.test_sets, protocol))
    members = tuple((VARIANTS[cell.variant.name], cell) for cell in cells[: len(VARIANTS)])
    family = Family("pilot", "how much do scores and paired differences scatter?", cells[0], members)
    return Suite("pilot", pilot.__doc__ or "", tuple(cells), (family,), scoring=SCORING)
