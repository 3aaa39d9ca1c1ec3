"""The paper's own rows, by the official recipe, and smaller versions of them that are labelled as such."""

from dataclasses import replace

from suites.spec import Budget, Cell, Protocol, SpecError, Suite, Task, Variant

# The official options file of light x2: batch 2 GPUs x 16, Adam (0.9, 0.99) at 2e-4, L1, patches of 64 LR pixels.
PAPER = Budget(
    "paper",
    iterations=500_000,
    batch=32,
    patch=64,
    lr=2e-4,
    betas=(0.9, 0.99),
    milestones=(250_000, 400_000, 450_000, 475_000),
    gamma=0.5,
    loss="l1",
    checkpoint_every=5_000,
)
# About a hundredth of it, on small training sets; the rate falls at 50, 80, 90 and 95 % as in the full schedule. tf32x3
# is as exact as float32 in half the time (docs/performance.md); `--set precision=fp32` where it has no kernels.
REDUCED = Budget(
    "reduced",
    iterations=6_000,
    batch=16,
    patch=48,
    milestones=(3_000, 4_800, 5_400, 5_700),
    precision="tf32x3",
    checkpoint_every=500,
)
# The same in bfloat16, and ten times as long: the rate falls at the same parts of the way.
REDUCED_BF16 = replace(REDUCED, name="reduced-bf16", precision="bf16")
LONG_BF16 = replace(
    REDUCED_BF16,
    name="long-bf16",
    iterations=60_000,
    milestones=(30_000, 48_000, 54_000, 57_000),
    checkpoint_every=1_000,
)
SMOKE = Budget("smoke", iterations=20, batch=2, patch=32, milestones=(10, 16, 18, 19), checkpoint_every=10)

TEST_SETS = ("Set5", "Set14", "BSD100", "Urban100", "Manga109")
BUDGETS = {
    "paper": (PAPER, ("DIV2K",), TEST_SETS),
    "reduced": (REDUCED, ("BSDS500-train", "BSDS500-test", "T91"), ("Set5", "Set14", "BSD100")),
    "smoke": (SMOKE, ("embedded",), ("embedded",)),
}


def light_x2(budget: str | None = None, seeds: tuple[int, ...] | None = None) -> Suite:
    """MambaIRv2-light x2 by the official recipe: DIV2K, batch 32, LR patch 64, 500K iterations from scratch.

    Paper: Table 3, light x2. Expected (PSNR / SSIM): Set5 38.26 / 0.9615, Set14 34.09 / 0.9221, BSD100 32.36 / 0.9019,
    Urban100 33.26 / 0.9378, Manga109 39.35 / 0.9785; users of this batch report 0.1 to 0.2 dB less on the last two.
    Cost: 500K steps; the official code needs 280 ms each on an H200, 39 hours. `--dry-run` prints it for this machine.
    Budgets: paper; reduced (6K iterations of batch 16 and patch 48 on BSDS500 and T91: not paper scale); smoke (20
    iterations on the embedded pictures: it runs, no more).
    Command: python runner.py run paper-light-x2 --data DIR --device cuda
    """
    name = budget or "paper"
    if name not in BUDGETS:
        raise SpecError(f"the suite paper-light-x2 has no budget {name!r}: choose from {', '.join(BUDGETS)}")
    schedule, train_sets, test_sets = BUDGETS[name]
    task = Task.parse("sr-x2")
    variant = Variant("base", "mambairv2-light")
    cells = (
        Cell(variant, task, seed, schedule, train_sets, test_sets, Protocol.official(task)) for seed in seeds or (0,)
    )
    return Suite("paper-light-x2", light_x2.__doc__ or "", tuple(cells))
