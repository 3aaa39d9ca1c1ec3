"""The ablations: the paper's own, those it leaves open, and those that tell its text from its code.

A variant is one network whoever asks for it, trained once and a member of several families. `FAMILIES` are the
questions, `SWITCHES` the networks, `SETTINGS` what they are trained and scored on at each budget.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from suites.recipes import paper
from suites.spec import Budget, Cell, Family, Protocol, Scoring, Suite, Task, Variant, check_choice

TOKENS, RANKS, DEFAULT_TOKENS = (16, 32, 64, 128, 256), (4, 8, 16, 32, 64), 64
PLAIN = {"ase": "off", "sgn": "off"}

# Arguments of the network by the variant's name, base first: light, or what stands for it at the budget.
SWITCHES: dict[str, dict[str, Any]] = {
    "base": {},
    "attention-only": {"scans": 0},
    "no-memory": {"memory": 1, **PLAIN},
    "plain-scan": PLAIN,
    "sgn-off": {"sgn": "off"},
    "ase-off": {"ase": "off"},
    "scans-2": {"scans": 2},
    "scans-4": {"scans": 4},
    "plain-scans-2": {"scans": 2, **PLAIN},
    "plain-scans-4": {"scans": 4, **PLAIN},
    **{f"tokens-{tokens}": {"num_tokens": tokens} for tokens in TOKENS if tokens != DEFAULT_TOKENS},
    "target-B": {"prompt_target": "B"},
    "target-delta": {"prompt_target": "delta"},
    "target-y": {"prompt_target": "y"},
    "kmeans": {},
    "slic": {},
    "semantic-order": {"prompt_order": "semantic"},
    "argmax": {"routing": "argmax"},
    "shared-N": {"prompt_sharing": "network"},
    "mambair": {},
}
ELSEWHERE = ("base", "plain-scan")  # of the switches, on other tasks than super-resolution
REPLACED = "mambair"  # the variant that is another network than the setting's own
LABELS = {"kmeans": "kmeans", "slic": "slic"}  # who makes the sort key in place of the router
OF_THE_PROTOCOL = ("prompt_order", "routing")  # a network is scored as it was trained

# (name, question, base, members as (label, variant)).
FAMILIES: tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        *("components", "what do the scan, ASE and SGN add to window attention?", "base"),
        (
            ("attention + ASE + SGN", "base"),
            ("attention only", "attention-only"),
            ("no memory", "no-memory"),
            ("plain scan", "plain-scan"),
            ("ASE", "sgn-off"),
            ("SGN, untrained routing", "ase-off"),
        ),
    ),
    (
        *("memory", "does the scan without ASE and SGN use what it remembers, or is it a gate?", "no-memory"),
        (("no memory", "no-memory"), ("plain scan", "plain-scan"), ("attention only", "attention-only")),
    ),
    (
        *("replaced", "is MambaIRv2 better than the network that it replaces?", "base"),
        (("MambaIRv2", "base"), ("MambaIR", "mambair")),
    ),
    (
        *("scans", "how many directions does the attentive scan need?", "base"),
        (("1 scan", "base"), ("no scan", "attention-only"), ("2 scans", "scans-2"), ("4 scans", "scans-4")),
    ),
    (
        *("plain-scans", "how many directions does a scan without ASE and SGN need?", "plain-scan"),
        (
            ("1 plain scan", "plain-scan"),
            ("no scan", "attention-only"),
            ("2 plain scans", "plain-scans-2"),
            ("4 plain scans", "plain-scans-4"),
        ),
    ),
    (
        *("one-for-many", "does one attentive scan replace several plain ones?", "base"),
        (("1 attentive scan", "base"), ("2 plain scans", "plain-scans-2"), ("4 plain scans", "plain-scans-4")),
    ),
    (
        *("tokens", "how many prompts does the pool need?", "base"),
        tuple((f"T = {n}", "base" if n == DEFAULT_TOKENS else f"tokens-{n}") for n in TOKENS),
    ),
    (
        *("target", "what should the prompt be added to?", "base"),
        (("C", "base"), ("B", "target-B"), ("delta", "target-delta"), ("y", "target-y")),
    ),
    (
        *("semantics", "does the scan need a learned sort key?", "base"),
        (("learned", "base"), ("off", "sgn-off"), ("k-means", "kmeans"), ("SLIC", "slic")),
    ),
    (
        *("code-or-paper", "does it matter where the code departs from the text?", "base"),
        (
            ("code", "base"),
            ("prompts follow their pixel", "semantic-order"),
            ("argmax routing", "argmax"),
            ("one N for all layers", "shared-N"),
        ),
    ),
)

PLAIN_ELSEWHERE = (
    *("attentive", "are ASE and SGN worth more on another task?", "base"),
    (("attention + ASE + SGN", "base"), ("plain scan", "plain-scan")),
)


@dataclass(frozen=True)
class Setting:
    """What the variants of one task are trained and scored on.

    rank: the model's own r. only: names of the variants that are trained, all that the task has where it is empty.
    replaced: the network that MambaIRv2 replaces, with its arguments.
    """

    model: str
    budget: Budget
    train_sets: tuple[str, ...]
    test_sets: tuple[str, ...]
    overrides: dict[str, Any] = field(default_factory=dict)
    rank: int = 32
    only: tuple[str, ...] = ()
    replaced: tuple[str, dict[str, Any]] = field(default=("mambair-light", {}))


# The paper's ablations: light x2, 250K iterations (secondary source); milestones as in the official 250K schedules.
PAPER_SR = replace(paper.PAPER, iterations=250_000, milestones=(125_000, 200_000, 225_000, 237_500))
# The official from-scratch schedule of denoising (sigma 15) and JPEG (quality 40), taken for every level.
PAPER_CHARBONNIER = replace(
    paper.PAPER,
    iterations=1_600_000,
    batch=16,
    patch=128,
    milestones=(800_000, 1_200_000, 1_400_000, 1_500_000),
    loss="charbonnier",
)
DFWB = ("DIV2K", "Flickr2K", "BSDS500-train", "BSDS500-test", "WED")
SMALL_SETS = ("BSDS500-train", "BSDS500-test", "T91")
REDUCED_CHARBONNIER = replace(paper.REDUCED, loss="charbonnier")
BF16_CHARBONNIER = replace(paper.REDUCED_BF16, loss="charbonnier")

BF16_SETS = ("Set5", "Set14", "BSD100", "Urban12")
BF16_ELSEWHERE = ("base", "plain-scan", "rank-4")

SMOKE = Budget("smoke", iterations=100, batch=2, patch=24, lr=8e-3, milestones=(50, 80, 90, 95), checkpoint_every=50)
# Light's own T, r and d_state in the smallest network, so that every switch has its value at every budget.
SMOKE_NETWORK = {"d_state": 8, "num_tokens": DEFAULT_TOKENS, "inner_rank": 32, "pool_rank": 32}
SMOKE_REPLACED = "mambair-light", {"depths": (2,)}
SMOKE_SETTING = Setting(
    *("mambairv2-tiny", SMOKE, ("embedded",), ("embedded",), SMOKE_NETWORK), replaced=SMOKE_REPLACED
)
SMOKE_CHARBONNIER = replace(SMOKE_SETTING, budget=replace(SMOKE, loss="charbonnier"))

SETTINGS: dict[str, dict[str, Setting]] = {
    "smoke": {"sr-x2": SMOKE_SETTING, "denoise-25": SMOKE_CHARBONNIER, "jpeg-10": SMOKE_CHARBONNIER},
    "reduced": {
        "sr-x2": Setting("mambairv2-light", paper.REDUCED, SMALL_SETS, ("Set5", "Set14", "BSD100", "Urban100")),
        "denoise-25": Setting("mambairv2-light", REDUCED_CHARBONNIER, SMALL_SETS, ("Kodak24", "McMaster")),
        "jpeg-10": Setting("mambairv2-light", REDUCED_CHARBONNIER, SMALL_SETS, ("Classic5", "LIVE1")),
    },
    "reduced-bf16": {
        "sr-x2": Setting("mambairv2-light", paper.REDUCED_BF16, SMALL_SETS, BF16_SETS),
        "denoise-25": Setting(
            *("mambairv2-light", BF16_CHARBONNIER, SMALL_SETS, ("Kodak24", "McMaster")), only=BF16_ELSEWHERE
        ),
        "jpeg-10": Setting(
            *("mambairv2-light", BF16_CHARBONNIER, SMALL_SETS, ("Classic5", "LIVE1")), only=BF16_ELSEWHERE
        ),
    },
    "long-bf16": {
        "sr-x2": Setting(
            *("mambairv2-light", paper.LONG_BF16, SMALL_SETS, BF16_SETS),
            only=("base", "attention-only", "no-memory", "plain-scan"),
        ),
    },
    "paper": {
        "sr-x2": Setting("mambairv2-light", PAPER_SR, ("DIV2K",), paper.TEST_SETS),
        "denoise-25": Setting(
            *("mambairv2-base", PAPER_CHARBONNIER, DFWB, ("CBSD68", "Kodak24", "McMaster", "Urban100")), rank=64
        ),
        "jpeg-10": Setting(
            *("mambairv2-base", replace(PAPER_CHARBONNIER, patch=126), DFWB, ("Classic5", "LIVE1")), rank=64
        ),
    },
}
# On the way as well; BSD100 has over half of the pixels, and takes that much longer (docs/ablations.md).
SCORING = {
    "reduced-bf16": Scoring(at=(1_500, 3_000, 4_500), sets=("Set14", "Urban12")),
    "long-bf16": Scoring(at=tuple(range(5_000, 60_000, 5_000)), sets=("Set14", "Urban12")),
}
SEEDS = {
    "smoke": (0, 1),
    "reduced": (0, 1, 2, 3),
    "reduced-bf16": (0, 1, 2, 3),
    "long-bf16": (0, 1),
    "paper": (0, 1, 2, 3),
}


def ablations(budget: str | None = None, seeds: tuple[int, ...] | None = None) -> Suite:
    """Ablations: components, memory, scan count, T, r on three tasks, prompt target, sort key, code against text.

    Paper: the components and the prompt's target (light x2, 250K iterations: attention only 32.89 / 39.11, + ASE 32.94
    / 39.20, + SGN 32.97 / 39.24 dB on Urban100 / Manga109; C over B, delta and y by 0.01 to 0.05; secondary source,
    single runs). Of scan count, T and r no published values could be found. Expected: differences under 0.1 dB.
    Budgets: smoke (every switch in a tiny network on the embedded pictures, for minutes: it runs, no more); reduced
    (the default: light, 6K iterations on BSDS500 and T91); reduced-bf16 (the same in bfloat16,
    fewer variants on denoising and JPEG; scored on the way too); long-bf16 (ten times as long: base, plain scan, no
    memory, attention only); paper (light x2 by the 250K schedule on DIV2K; r on denoising and JPEG with the 22.7M
    network by the official from-scratch schedule, where these levels are fine-tuned).
    Cost: 42 cells a seed; `--dry-run` prints hours, and the effect that so many seeds can detect.
    Command: python runner.py run ablations --budget reduced --data DIR --device cuda
    """
    name = budget or "reduced"
    check_choice("budget of the suite ablations", name, tuple(SETTINGS))
    numbers = seeds or SEEDS[name]
    cells = {task: _cells(task, setting, numbers[0]) for task, setting in SETTINGS[name].items()}
    families = [_family(*family, cells["sr-x2"]) for family in FAMILIES]
    families += [_family(*PLAIN_ELSEWHERE, own) for task, own in cells.items() if task != "sr-x2"]
    families += [_ranks(SETTINGS[name][task], own) for task, own in cells.items()]
    families = [family for family in families if family is not None and len(family.members) > 1]
    every = (replace(cell, seed=seed) for own in cells.values() for cell in own.values() for seed in numbers)
    scoring = SCORING.get(name, Scoring())
    return Suite("ablations", ablations.__doc__ or "", tuple(every), tuple(families), scoring=scoring)


def _cells(task: str, setting: Setting, seed: int) -> dict[str, Cell]:
    """By variant name: every switch on super-resolution, the base alone on other tasks, and all ranks on each."""
    parsed = Task.parse(task)
    names = SWITCHES if parsed.kind == "sr" else ELSEWHERE
    switches = {name: SWITCHES[name] for name in names}
    switches |= {f"rank-{rank}": {"inner_rank": rank} for rank in RANKS if rank != setting.rank}
    switches["unfactored"] = {"inner_rank": None}
    cells = {}
    for name, switch in switches.items():
        if setting.only and name not in setting.only:
            continue
        model, overrides = setting.replaced if name == REPLACED else (setting.model, setting.overrides)
        variant = Variant(name, model, {**overrides, **switch}, LABELS.get(name, "learned"))
        protocol = Protocol.official(parsed, **{key: switch[key] for key in OF_THE_PROTOCOL if key in switch})
        cells[name] = Cell(variant, parsed, seed, setting.budget, setting.train_sets, setting.test_sets, protocol)
    return cells


def _family(
    title: str, question: str, base: str, members: tuple[tuple[str, str], ...], cells: dict[str, Cell]
) -> Family | None:
    """Of those members that are among the cells; None without the base."""
    if base not in cells:
        return None
    return Family(title, question, cells[base], tuple((label, cells[one]) for label, one in members if one in cells))


def _ranks(setting: Setting, cells: dict[str, Cell]) -> Family | None:
    """The family `rank` of one task."""
    members = tuple((f"r = {rank}", "base" if rank == setting.rank else f"rank-{rank}") for rank in RANKS)
    question = "which rank does the pool need, and is it the same on every task?"
    return _family("rank", question, "base", (*members, ("unfactored", "unfactored")), cells)
