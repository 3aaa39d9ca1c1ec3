"""The whole chain in minutes on two CPU cores: a tiny MambaIRv2 and four ablations of it."""

from suites.spec import Budget, Cell, Family, Protocol, SpecError, Suite, Task, Variant

TASK = Task.parse("sr-x2")
# The paper's schedule at a thousandth of its length, with the rate and the batch that such a short run needs.
BUDGET = Budget(
    "smoke",
    iterations=500,
    batch=4,
    patch=24,
    lr=8e-3,
    milestones=(250, 400, 450, 475),
    checkpoint_every=100,
)
VARIANTS = (
    Variant("base", "mambairv2-tiny"),
    Variant("scans-2", "mambairv2-tiny", {"scans": 2}),
    Variant("sgn-off", "mambairv2-tiny", {"sgn": "off"}),
    Variant("ase-off", "mambairv2-tiny", {"ase": "off"}),
    Variant("tokens-16", "mambairv2-tiny", {"num_tokens": 16}),
)


def smoke(budget: str | None = None, seeds: tuple[int, ...] | None = None) -> Suite:
    """Smoke: MambaIRv2-tiny x2 and four ablations (two scans, SGN off, ASE off, T = 16) on the embedded pictures.

    Paper: none; a network this small, trained for seconds, says nothing about the paper's claims. It shows that
    training, evaluation, store, tables and report work here, and how long they take.
    Cost: ten cells of 20 s on a core: about two minutes on two CPU cores. No download.
    Command: python runner.py run smoke
    """
    if budget not in (None, "smoke"):
        raise SpecError(f"the suite smoke has no budget {budget!r}: choose from smoke")
    cells = tuple(
        Cell(variant, TASK, seed, BUDGET, ("embedded",), ("embedded",), Protocol.official(TASK))
        for variant in VARIANTS
        for seed in (seeds or (0, 1))
    )
    family = Family.of("smoke", "does the chain from training to tables work here?", cells)
    return Suite("smoke", smoke.__doc__ or "", cells, (family,))
