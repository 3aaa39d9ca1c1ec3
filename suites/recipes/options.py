"""`run --options train.yml`: an option file of the official code (BasicSR) as a cell.

What a key says is done, or is without effect here and listed in IGNORED, or is refused by the key's name: nothing in
the file is passed over. Weights to start from are named with --init, since a path in a file is another machine's.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from suites.data.catalogue import is_inner_folder, known
from suites.recipes import ablations, paper
from suites.spec import Budget, Cell, Protocol, SpecError, Suite, Task, Variant

# How the official code works, names its outputs and shows its progress; its LR pictures, which are made here.
IGNORED = (
    *("model_type", "num_worker*", "find_unused_parameters", "logger.print_freq", "logger.use_tb_logger"),
    *("logger.wandb*", "dist_params*", "val.val_freq", "val.save_img", "val.suffix", "val.pbar", "path.strict_load_g"),
    *("path.param_key_g", "datasets.*.io_backend.type", "datasets.*.name", "datasets.*.prefetch_mode"),
    *("datasets.*.num_worker_per_gpu", "datasets.*.dataset_enlarge_ratio", "datasets.*.pin_memory"),
    *("datasets.*.filename_tmpl", "datasets.*.dataroot_lq", "val.metrics.*.better"),
)
PUBLISHED = (paper.PAPER, ablations.PAPER_SR, ablations.PAPER_CHARBONNIER)  # schedules that are called "paper", with
PATCHES = {"sr": (64, 48), "denoise": (128,), "jpeg": (126,)}  # the official files' own patches, in LR pixels
GROUND_TRUTH = re.compile(r"[-_]?(HR|GT|HQ)$", re.IGNORECASE)  # CBSD68HQ, Classic5_HQ in the official files
UNREAD = ("interval", "num_heads", "window_size")  # of the official MambaIR's file, whose class takes any key
REQUIRED = object()


def suite_of(file: Path, seeds: tuple[int, ...] | None, sets: tuple[str, ...] = (), starts: bool = False) -> Suite:
    """The file's cell, for each of `seeds` (the file's manual_seed).

    sets: "train_sets", "test_sets" that are said elsewhere, so that the file need not name known ones. starts: whether
    weights to start from are named. Raises SpecError for a file that cannot be read, and for a key that cannot be
    honoured, by its name.
    """
    keys = _Keys(file)
    task = _task(keys)
    variant = _variant(keys, task)
    train_sets = _sets(keys, ["train"]) if "train_sets" not in sets else ("-",)
    tested = [name for name in keys.under("datasets") if name != "train"]
    test_sets = _sets(keys, tested) if "test_sets" not in sets else ("-",)
    budget, seed = _budget(keys, task), keys.take("manual_seed", 0)
    for name in tested:
        _check_phase(keys, name, task)
    _check_rest(keys, task, starts)
    cell = Cell(variant, task, seed, budget, train_sets, test_sets, Protocol.official(task))
    cells = tuple(replace(cell, seed=number) for number in seeds or (seed,))
    told = f"{file.name}: {task.name} on {', '.join(train_sets)}; degraded pictures are made here, as the protocol says"
    return Suite("options", suite_of.__doc__ or "", cells, notes=(told,))


class _Keys:
    """The values of a file by their dotted keys; each is taken once, and what is left was not honoured."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            tree = yaml.safe_load(file.read_text())
        # ValueError, IndexError: of a date and a number that are none.
        except (OSError, ValueError, IndexError, RecursionError, yaml.YAMLError) as error:
            raise SpecError(f"--options {file} cannot be read as YAML: {str(error).splitlines()[0]}") from None
        if not isinstance(tree, dict):
            raise SpecError(f"--options {file} holds no options of BasicSR (a file with datasets, network_g and train)")
        leaves = list(islice(_leaves(tree), LEAVES + 1))
        if len(leaves) > LEAVES:  # a few lines of aliases of aliases can say any number
            raise SpecError(f"--options {file} holds more than {LEAVES} values")
        self.left = dict(leaves)

    def take(self, key: str, default: Any = REQUIRED) -> Any:
        """The value of a key. Raises SpecError where it is missing and has no default."""
        if key not in self.left:
            if default is REQUIRED:
                raise self.error(key, "is missing")
            return default
        return self.left.pop(key)

    def number(self, key: str, default: Any = REQUIRED) -> Any:
        """As `take`, a number; one without a fraction is an int."""
        value = self.take(key, default)
        if isinstance(value, str):
            try:
                value = float(value)  # YAML reads 2e-4 as a word
            except ValueError:
                raise self.error(key, f"is {value!r}, not a number") from None
        if value is not default and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise self.error(key, f"is {value!r}, not a number")
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def must(self, key: str, *allowed: Any, default: Any = REQUIRED) -> None:
        """Raises SpecError for a value that is not one of `allowed`."""
        value = self.take(key, default)
        if value not in allowed:
            told = " or ".join("null" if one is None else str(one) for one in allowed)
            raise self.error(key, f"is {value!r}; here it is {told}")

    def under(self, key: str) -> list[str]:
        """The names that follow `key.`, in order."""
        parts = (name.split(".") for name in self.left if name.startswith(f"{key}."))
        return list(dict.fromkeys(part[key.count(".") + 1] for part in parts))

    def error(self, key: str, what: str) -> SpecError:
        return SpecError(f"--options {self.file.name}: {key} {what}")


LEAVES = 10_000  # of a file; official ones have about a hundred


def _leaves(tree: Mapping[Any, Any], before: str = "") -> Any:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _task(keys: _Keys) -> Task:
    kind, scale = keys.take("datasets.train.task", "SR"), keys.number("scale")
    if kind == "SR":
        return Task.parse(f"sr-x{scale}")
    if scale != 1:
        raise keys.error("scale", f"is {scale}, and the task {kind} enlarges nothing")
    if kind == "denoising_color":
        return Task.parse(f"denoise-{keys.number('datasets.train.noise')}")
    if kind == "CAR":
        folder = _paths(keys, "datasets.train.dataroot_lq")[0].name
        if not folder.isdecimal():
            raise keys.error("datasets.train.dataroot_lq", f"ends in {folder!r}, and not in the quality of JPEG (40)")
        return Task.parse(f"jpeg-{folder}")
    raise keys.error("datasets.train.task", f"is {kind!r}; here it is SR, denoising_color or CAR")


def _variant(keys: _Keys, task: Task) -> Variant:
    """The catalogue's network that has most of the block's arguments, and the others as overrides."""
    import models

    block = {name: keys.take(f"network_g.{name}") for name in keys.under("network_g")}
    if not block:
        raise keys.error("network_g", "is missing")
    if block.get("type") == "MambaIR":
        block = {name: value for name, value in block.items() if name not in UNREAD}
    try:
        wanted = models.official_config(block)
    except (models.ModelError, TypeError) as error:
        raise keys.error("network_g", f"{error}; a network of yours goes beside a suite with --network") from None
    found = []
    for name in models.names():
        config = models.configure(name, **task.network)
        if type(config) is type(wanted):
            found.append((name, {k: v for k, v in vars(wanted).items() if vars(config)[k] != v}))
    name, overrides = min(found, key=lambda pair: len(pair[1]))
    follows = {"upscale", "in_chans", "upsampler"} & task.network.keys()
    if wrong := sorted(follows & overrides.keys()):
        raise keys.error(f"network_g.{wrong[0]}", f"is {overrides[wrong[0]]!r}, and {task.name} needs another")
    return Variant("base", name, overrides)


def _paths(keys: _Keys, key: str) -> list[PurePosixPath]:
    value = keys.left.get(key)
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) and one for one in listed):
        raise keys.error(key, f"is {value!r}, not a folder")
    return [PurePosixPath(one.strip()) for one in listed]


def _sets(keys: _Keys, phases: list[str]) -> tuple[str, ...]:
    """The datasets of some phases, by the innermost folders of their paths that are not HR, GT, ...

    Folders are looked for under --data by these names, whatever their path on the machine of the file.
    """
    found = []
    for phase in phases:
        key = f"datasets.{phase}.dataroot_gt"
        for path in _paths(keys, key):
            try:
                found.append(_set_at(path, str(keys.left.get(f"datasets.{phase}.name"))))
            except SpecError as error:
                setting = "train_sets" if phase == "train" else "test_sets"
                raise keys.error(key, f"is {path}, {error}: say which set is meant with --set {setting}=NAME") from None
    if not found:
        raise keys.error("datasets", "names no set to score on: --set test_sets=NAME does")
    return tuple(dict.fromkeys(found))


def _set_at(path: PurePosixPath, called: str) -> str:
    """The set whose ground truth lies in a folder. called: its name in the file, for a path that names none.

    A known set further out counts where the folder is one of its own (Flickr2K/Flickr2K_HR): /d/DIV2K/crops/HR holds
    other pictures than DIV2K. Raises SpecError there, and without any name.
    """
    named = [part for part in path.parts if part not in ("/", "..", ".") and is_inner_folder(part, "") is None]
    *outer, folder = named or [called]
    found = known(folder) or known(GROUND_TRUTH.sub("", folder))
    if found is None and not named:
        raise SpecError("which names no dataset")
    around = next(filter(None, map(known, reversed(outer))), None)
    if found is None and around is not None:
        if is_inner_folder(folder, around.name) is None:
            raise SpecError(f"and {folder} is no folder that {around.name} is known to have")
        found = around
    return found.name if found else folder


def _budget(keys: _Keys, task: Task) -> Budget:
    train = "datasets.train"
    gt_size, gpus = keys.number(f"{train}.gt_size"), keys.number("num_gpu")
    if gt_size % task.scale:
        raise keys.error(f"{train}.gt_size", f"is {gt_size}, no multiple of {task.scale}")
    keys.must("train.optim_g.type", "Adam")
    keys.must("train.optim_g.weight_decay", 0, default=0)
    keys.must("train.scheduler.type", "MultiStepLR")
    keys.must("train.warmup_iter", -1, 0, default=-1)
    keys.must("train.ema_decay", 0, default=0)
    keys.must("train.pixel_opt.loss_weight", 1, default=1)
    keys.must("train.pixel_opt.reduction", "mean", default="mean")
    losses = {"L1Loss": "l1", "CharbonnierLoss": "charbonnier"}
    loss = keys.take("train.pixel_opt.type")
    if loss not in losses:
        raise keys.error("train.pixel_opt.type", f"is {loss!r}; here it is {' or '.join(losses)}")
    eps = {"charbonnier_eps": keys.number("train.pixel_opt.eps", 1e-3)} if losses[loss] == "charbonnier" else {}
    every = keys.number("logger.save_checkpoint_freq", 1000)
    try:
        budget = Budget(
            "reduced",
            iterations=keys.number("train.total_iter"),
            batch=gpus * keys.number(f"{train}.batch_size_per_gpu"),
            patch=gt_size // task.scale,
            lr=keys.number("train.optim_g.lr"),
            betas=tuple(keys.take("train.optim_g.betas", (0.9, 0.999))),
            milestones=tuple(keys.take("train.scheduler.milestones")),
            gamma=keys.number("train.scheduler.gamma", 0.1),
            loss=losses[loss],
            checkpoint_every=every,
            **eps,
        )
    except TypeError as error:
        raise keys.error("train", f"has a value of a wrong kind: {error}") from None
    alike = (replace(each, name="reduced", checkpoint_every=every, patch=budget.patch) for each in PUBLISHED)
    published = budget in alike and budget.patch in PATCHES[task.kind]
    return replace(budget, name="paper") if published else budget


def _check_phase(keys: _Keys, phase: str, task: Task) -> None:
    """A validation set is scored by the protocol of the task."""
    keys.must(f"datasets.{phase}.task", *_TASKS[task.kind], default=_TASKS[task.kind][0])
    if task.kind == "denoise":
        keys.must(f"datasets.{phase}.noise", task.level, default=task.level)


_TASKS = {"sr": ("SR",), "denoise": ("denoising_color",), "jpeg": ("CAR",)}


def _check_rest(keys: _Keys, task: Task, starts: bool) -> None:
    """What has one value here, then what is left: without effect, or refused."""
    for name in ("use_hflip", "use_rot", "use_shuffle"):
        keys.must(f"datasets.train.{name}", True, default=name == "use_shuffle")
    for phase in keys.under("datasets"):
        keys.must(f"datasets.{phase}.type", "PairedImageDataset", default="PairedImageDataset")
        keys.take(f"datasets.{phase}.dataroot_gt", None)  # `_sets` has read it
    official = Protocol.official(task)
    for metric in keys.under("val.metrics"):
        keys.must(f"val.metrics.{metric}.type", "calculate_psnr", "calculate_ssim")
        keys.must(f"val.metrics.{metric}.crop_border", official.border)
        keys.must(f"val.metrics.{metric}.test_y_channel", task.kind != "denoise", default=False)
    keys.must("path.resume_state", None, default=None)
    if keys.take("path.pretrain_network_g", None) is not None and not starts:
        raise keys.error("path.pretrain_network_g", "names weights to start from: name their file with --init FILE")
    keys.take("name", None)
    unknown = [key for key in keys.left if not any(fnmatchcase(key, glob) for glob in IGNORED)]
    if unknown:
        raise keys.error(unknown[0], f"is {keys.left[unknown[0]]!r}, which is not done here: leave it out to go on")
