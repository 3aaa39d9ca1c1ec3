"""The vocabulary: what is measured, and under which rules.

Everything here is a frozen value without behaviour beyond naming itself: a recipe returns a `Suite` of `Cell`s, the
engine runs them, the store files them under the hash of their canonical form. A new idea is a new `Variant`.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from results.sets import BUDGETS, official_protocol

RESTORATION_LEVELS = {"sr": (2, 3, 4), "denoise": (15, 25, 50), "jpeg": (10, 20, 30, 40)}
ROUTINGS = ("gumbel", "argmax")
PROMPT_ORDERS = ("raster", "semantic")
LR_ROUTES = ("matlab", "once", "pil", "luma")
BASELINES = ("bicubic", "identity")  # what is scored like a network and is none
PEER = "spandrel"  # a network of another paper, told from its checkpoint (`suites.peers`)
LOSSES = ("l1", "charbonnier")
PRECISIONS = ("fp32", "tf32", "tf32x3", "bf16")
SUMS = ("in-order", "all-reduce")  # of gradients, where several processes train a cell
# Of a protocol: None is that of a network without them, and elsewhere "not said".
MAY_BE_NONE = ("routing", "prompt_order")


class SpecError(ValueError):
    """A name or a value that the vocabulary does not hold. The message says which ones it does."""


def check_choice(what: str, value: object, choices: tuple) -> None:
    """Raises SpecError naming `what`, the value given and every value allowed."""
    if value not in choices:
        raise SpecError(f"unknown {what} {value!r}: choose from {', '.join(map(str, choices))}")


@dataclass(frozen=True)
class Task:
    """A degradation to undo: `sr-x2`, `denoise-15`, `jpeg-10`, ... (sigma on the 0..255 scale, JPEG quality), or a
    function of the user's (`suites.degradation_file`): then level is its scale.

    function, source: its name and the start of the hash of its file. file: where that is, if it was named; no part of
    what the task is.
    """

    kind: Literal["sr", "denoise", "jpeg", "custom"]
    level: int
    function: str = ""
    source: str = ""
    file: Path | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, name: str) -> "Task":
        """The task of a `name`, wherever that was stored: no file is run. Raises SpecError for any other text."""
        if match := re.fullmatch(r"custom-x(\d+)-(\w+)-([0-9a-f]{16})", name):
            return cls("custom", int(match[1]), match[2], match[3])
        match = re.fullmatch(r"(sr)-x(\d+)|(denoise|jpeg)-(\d+)", name)
        if match:
            kind, level = match[1] or match[3], int(match[2] or match[4])
            if level in RESTORATION_LEVELS[kind]:
                return cls(kind, level)
        raise SpecError(f"unknown task {name!r}: choose from {', '.join(cls.names())}, or custom:FILE.py:function")

    @classmethod
    def names(cls) -> list[str]:
        return [cls(kind, level).name for kind, levels in RESTORATION_LEVELS.items() for level in levels]

    @property
    def name(self) -> str:
        if self.kind == "custom":
            return f"custom-x{self.level}-{self.function}-{self.source}"
        return f"{self.kind}-{'x' if self.kind == 'sr' else ''}{self.level}"

    @property
    def scale(self) -> int:
        """Height of the restored image over height of the degraded one."""
        return self.level if self.kind in ("sr", "custom") else 1

    @property
    def channels(self) -> int:
        """Channels a network reads and writes: 1 for JPEG (gray), else 3."""
        return 1 if self.kind == "jpeg" else 3

    @property
    def network(self) -> dict[str, Any]:
        """Arguments that make any catalogue model a network for this task (official names)."""
        if self.scale > 1:
            return {"upscale": self.level}
        return {"upscale": 1, "upsampler": "", "in_chans": self.channels}


@dataclass(frozen=True)
class Protocol:
    """Everything a score depends on except the weights; stored, printed and hashed with every score in this order.

    tiling: "official" (the official rule, 200 pixels), "none", or the number that stands in for 200.
    routing, samples, seed: how the prompts are chosen, over how many noise samples outputs are averaged, its seed.
    lr_route: how the low-resolution image is made; None where there is none. luma: "float" (BT.601, not rounded),
    "uint8", or None where no luma is taken. channels: what is scored. border: pixels cropped on every side.
    """

    tiling: Literal["official", "none"] | int = "official"
    routing: str | None = "gumbel"
    samples: int = 1
    seed: int = 0
    prompt_order: str | None = "raster"
    lr_route: str | None = None
    luma: str | None = None
    channels: Literal["y", "rgb", "gray"] = "y"
    border: int = 0
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.tiling not in ("official", "none") and not (isinstance(self.tiling, int) and self.tiling >= 16):
            raise SpecError(f"unknown tiling {self.tiling!r}: official, none, or a tile size of at least 16 pixels")
        for what, value, choices in (
            ("routing", self.routing, ROUTINGS),
            ("prompt order", self.prompt_order, PROMPT_ORDERS),
            ("LR route", self.lr_route, LR_ROUTES),
        ):
            if value is not None:
                check_choice(what, value, choices)
        check_choice("precision", self.precision, PRECISIONS)
        for what, value, least in (("samples", self.samples, 1), ("seed", self.seed, 0), ("border", self.border, 0)):
            if value < least:
                raise SpecError(f"{what} is {value}: at least {least} is needed")

    @classmethod
    def official(cls, task: Task, **changes: Any) -> "Protocol":
        """The official test protocol of a network on `task`, with `changes`; None and "200" as typed are understood."""
        own = official_protocol(task.name)
        changes = {key: value for key, value in changes.items() if value is not None or key in MAY_BE_NONE}
        if isinstance(tiling := changes.get("tiling"), str) and tiling.isdecimal():
            changes["tiling"] = int(tiling)
        if task.kind != "sr" and changes.get("lr_route") is not None:
            raise SpecError(f"an LR route is for super-resolution, and {task.name} has none")
        return cls(**{**own, **changes})

    @classmethod
    def baseline(cls, task: Task) -> "Protocol":
        """The protocol of `bicubic` and `identity`: no network, so no routing; the literature's luma route for SR."""
        bare = {"tiling": "none", "routing": None, "prompt_order": None}
        if task.kind == "sr":
            bare |= {"lr_route": "luma", "luma": "uint8"}
        return cls.official(task, **bare)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def protocol_for(name: str, task: Task, **choices: Any) -> Protocol:
    """The official protocol with the choices that are not None. Raises SpecError for a choice of a baseline's."""
    given = {key: value for key, value in choices.items() if value is not None}
    if name not in BASELINES:
        return Protocol.official(task, **given)
    if given:
        raise SpecError(f"{name} is no network and has a protocol of its own: leave out {', '.join(given)}")
    return Protocol.baseline(task)


@dataclass(frozen=True)
class Variant:
    """A catalogue model with its overrides, or a class in a user's file with what stands for it (`NetworkFile.key`);
    `name` is how tables call it."""

    name: str
    model: str
    overrides: dict[str, Any] = field(default_factory=dict)
    labels: Literal["learned", "kmeans", "slic"] = "learned"  # who makes the sort key of SGN

    @property
    def source(self) -> str | None:
        """SHA-256 of the user's file that its class is in (`suites.network_file`); None for one of the catalogue."""
        return self.overrides.get("source")


@dataclass(frozen=True)
class Initial:
    """Weights that a cell starts from, in place of the initial values of its seed.

    weights: SHA-256 of the tensors (`models.weights_hash`); None where a recipe leaves the file to whoever runs it.
    new: globs of tensors that have their seed's initial values all the same. without: globs of tensors of the file that
    the network does not have. Every other tensor of the network comes from the file, and every other one of the file
    is used.
    """

    weights: str | None = None
    new: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Budget:
    """How long and how a cell trains. The defaults are the official light x2 recipe's.

    batch: effective batch, reached by `accumulate` equal parts. patch: side of the LR (input) patch in pixels.
    milestones: last iterations at a learning rate, multiplied by gamma after each. charbonnier_eps is added unsquared.
    """

    name: str  # of BUDGETS
    iterations: int
    batch: int = 32
    patch: int = 64
    lr: float = 2e-4
    betas: tuple[float, float] = (0.9, 0.99)
    milestones: tuple[int, ...] = ()
    gamma: float = 0.5
    loss: Literal["l1", "charbonnier"] = "l1"
    charbonnier_eps: float = 1e-3
    accumulate: int = 1
    precision: str = "fp32"
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        check_choice("budget", self.name, BUDGETS)
        check_choice("loss", self.loss, LOSSES)
        for name in ("iterations", "batch", "patch", "accumulate", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}: at least 1 is needed")
        for name, most in (("lr", None), ("gamma", 1), ("charbonnier_eps", None)):
            value = getattr(self, name)
            if not (0 < value < math.inf and (most is None or value <= most)):
                limit = "" if most is None else f", and at most {most}"
                raise SpecError(f"{name} is {value}: a number over 0 is needed{limit}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise SpecError(f"betas {self.betas}: two numbers from 0 to below 1")
        if any(milestone < 1 for milestone in self.milestones):
            raise SpecError(f"milestones {self.milestones}: iterations count from 1")
        if self.batch % self.accumulate:
            raise SpecError(f"a batch of {self.batch} does not split into {self.accumulate} equal parts")
        check_choice("precision", self.precision, PRECISIONS)


@dataclass(frozen=True)
class Cell:
    """The unit that trains, resumes and is stored; `train_sets` and `test_sets` name datasets.

    initial: the weights that it starts from. None: the initial values of its seed, and no part of the configuration.
    """

    variant: Variant
    task: Task
    seed: int
    budget: Budget
    train_sets: tuple[str, ...]
    test_sets: tuple[str, ...]
    protocol: Protocol
    initial: Initial | None = None

    @property
    def name(self) -> str:
        """What `--only` matches and progress shows: variant/task/seed-N."""
        return f"{self.variant.name}/{self.task.name}/seed-{self.seed}"

    def config(self) -> dict[str, Any]:
        """Canonical JSON-able form: the store's key is its hash."""
        return {
            "variant": asdict(self.variant),
            "task": self.task.name,
            "seed": self.seed,
            "budget": {
                **asdict(self.budget),
                "betas": list(self.budget.betas),
                "milestones": list(self.budget.milestones),
            },
            "train_sets": list(self.train_sets),
            "test_sets": list(self.test_sets),
            "protocol": self.protocol.to_dict(),
            **({} if self.initial is None else {"initial": asdict(self.initial)}),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Cell":
        """The inverse of `config()`. Raises SpecError for what no cell of this version could have."""
        try:
            return cls._from_config(config)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, SpecError):
                raise
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise SpecError(f"a cell's configuration that this version does not understand: {what}") from error

    @classmethod
    def _from_config(cls, config: dict[str, Any]) -> "Cell":
        budget = {**config["budget"]}
        budget |= {"betas": tuple(budget["betas"]), "milestones": tuple(budget["milestones"])}
        initial = config.get("initial")
        if initial is not None:
            initial = Initial(initial["weights"], tuple(initial["new"]), tuple(initial["without"]))
        return cls(
            Variant(**config["variant"]),
            Task.parse(config["task"]),
            config["seed"],
            Budget(**budget),
            tuple(config["train_sets"]),
            tuple(config["test_sets"]),
            Protocol(**config["protocol"]),
            initial,
        )


@dataclass(frozen=True)
class Family:
    """Variants that answer one question by their differences from one base, on one task at one budget.

    members: (label, cell), the base among them, in the order in which tables show them. The seed of these cells says
    nothing: a member is a cell at all of its seeds, and one cell may be a member of several families.
    """

    name: str
    question: str
    base: Cell
    members: tuple[tuple[str, Cell], ...]

    @classmethod
    def of(cls, name: str, question: str, cells: Iterable[Cell], base: str = "base") -> "Family":
        """All variants of `cells`, which share a task, under their own names. Raises SpecError without a `base`."""
        members = {cell.variant.name: cell for cell in cells}
        check_choice(f"base of the family {name}", base, tuple(members))
        return cls(name, question, members[base], tuple(members.items()))


@dataclass(frozen=True)
class Scoring:
    """What a suite scores of every cell in addition to its last weights under its protocol. No part of any cell's hash.

    half: the weights after half the iterations, the last at the first learning rate of most schedules. at: those after
    these iterations, as far as the cell has so many. average: the uniform average of weights over the last tenth.
    noise_seeds: seeds of the routing noise with which all weights are scored, in place of the protocol's alone.
    sets: those of a cell's test sets on which all but the last weights are scored; all of them where it has none.
    """

    half: bool = False
    at: tuple[int, ...] = ()
    average: bool = False
    noise_seeds: tuple[int, ...] = ()
    sets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(iteration < 1 for iteration in self.at) or any(seed < 0 for seed in self.noise_seeds):
            raise SpecError(f"scored at {self.at} with noise {self.noise_seeds}: at least 1, and seeds at least 0")

    def weights(self, budget: Budget) -> dict[str, int]:
        """Names of all weights but the last ("half", "average", an iteration) -> iteration when they are kept."""
        total = budget.iterations
        named = {"average": total} if self.average else {}
        if self.half and total > 1:
            named["half"] = total // 2
        return named | {str(iteration): iteration for iteration in sorted(self.at) if iteration < total}

    def sets_of(self, cell: Cell) -> tuple[str, ...]:
        """Test sets of the cell on which all but its last weights are scored."""
        return tuple(name for name in cell.test_sets if name in self.sets) or cell.test_sets


@dataclass(frozen=True)
class Suite:
    """A named list of cells, the comparisons that they are made for, and what is scored except the final weights.

    `doc` is what `list` prints, `notes` what a run or a dry run says first.
    """

    name: str
    doc: str
    cells: tuple[Cell, ...]
    families: tuple[Family, ...] = ()
    notes: tuple[str, ...] = ()
    scoring: Scoring = Scoring()

    def compared(self) -> list[Family]:
        """The families of which a member other than the base is among the cells, at whatever seed."""
        present = [replace(cell, seed=0) for cell in self.cells]

        def runs(family: Family) -> bool:
            members = (replace(cell, seed=0) for _, cell in family.members)
            return any(cell in present for cell in members if cell != replace(family.base, seed=0))

        return [family for family in self.families if runs(family)]
