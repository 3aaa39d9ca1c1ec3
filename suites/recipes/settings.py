"""`--set KEY=VALUE`: typed changes to the cells of a suite, made before anything is hashed.

A key is a field of the budget, of the protocol, an argument of the network, `train_sets` or `test_sets`. A plain key
that several of them have (`precision`: budget and protocol; `routing`, `prompt_order`: protocol and network) is set in
all of them; `budget.KEY`, `protocol.KEY` or `network.KEY` sets one. A changed network is another variant, and its name
says so: with `scans=4`, `base` becomes `base,scans=4`.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from suites.spec import Budget, Cell, Protocol, SpecError, Suite, Task, Variant

# Fields that a published schedule may have otherwise and still be called "paper".
UNLABELLED = ("accumulate", "checkpoint_every")
DATASETS = ("train_sets", "test_sets")
FINITE = ConfigDict(allow_inf_nan=False)


def apply(suite: Suite, settings: Sequence[str]) -> Suite:
    """`suite` with every "KEY=VALUE" of `settings` applied to its cells and families, in order.

    A published budget with another length, batch, ... is no longer called "paper" but "reduced". Raises SpecError for
    an unknown key (naming all keys), a value of another type, and for a network argument in which the suite's variants
    differ.
    """
    changes, cells = [], suite.cells
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise SpecError(f"--set {setting}: give KEY=VALUE")
        part, _, name = key.strip().rpartition(".")
        _check(cells, part, name, key.strip(), text.strip())
        changes.append((part, name, text.strip()))
        cells = tuple(_change(cell, *changes[-1])[0] for cell in cells)

    def changed(cell: Cell) -> Cell:
        after = cell
        for change in changes:
            after, _ = _change(after, *change)
        return replace(after, variant=_named(after.variant, cell.variant))

    families = tuple(
        replace(
            family,
            base=changed(family.base),
            members=tuple((label, changed(cell)) for label, cell in family.members),
        )
        for family in suite.families
    )
    return replace(suite, cells=tuple(map(changed, suite.cells)), families=families)


def on_task(suite: Suite, task: Task) -> Suite:
    """The cells and families of the suite's first task, on `task` in its place. Raises SpecError for given weights."""
    first = suite.cells[0].task
    if any(cell.initial is not None for cell in suite.cells):
        raise SpecError(f"{suite.name} starts from given weights, which are of {first.name}: leave out --task")

    def moved(cell: Cell) -> Cell:
        own = {name: getattr(cell.protocol, name) for name in ("routing", "prompt_order", "precision")}
        return replace(cell, task=task, protocol=Protocol.official(task, **own))

    families = [
        replace(one, base=moved(one.base), members=tuple((label, moved(cell)) for label, cell in one.members))
        for one in suite.families
        if one.base.task == first
    ]
    cells = tuple(moved(cell) for cell in suite.cells if cell.task == first)
    return replace(suite, cells=cells, families=tuple(families))


def _named(variant: Variant, before: Variant) -> Variant:
    """`variant` with its name extended by the network arguments that differ from those of `before`."""
    old = before.overrides
    changed = [
        f"{name}={_text(value)}"
        for name, value in sorted(variant.overrides.items())
        if name not in old or old[name] != value
    ]
    return replace(variant, name=",".join([before.name, *changed]))


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return "none" if value is None else str(value)


def is_of_the_run(key: str) -> bool:
    """Whether a key of --set belongs to the budget, the protocol or the sets, whatever the network."""
    part, _, name = key.rpartition(".")
    if part:
        return part in ("budget", "protocol")
    return name in DATASETS or name in _hints("budget") or name in _hints("protocol")


def keys() -> list[str]:
    """Every plain key."""
    import models

    network = {name for model in models.names() for name in _hints(model)}
    return sorted({*_hints("budget"), *_hints("protocol"), *network, *DATASETS})


def _check(cells: Sequence[Cell], part: str, name: str, key: str, text: str) -> None:
    """Raises SpecError when no cell knows the key, or when the variants differ in it."""
    known = [_change(cell, part, name, text)[1] for cell in cells]
    if part not in ("", "budget", "protocol", "network") or not any(known):
        raise SpecError(f"unknown key {key!r} of --set: choose from {', '.join(keys())}")
    if part in ("", "network") and any(name in cell.variant.overrides for cell in cells):
        values = {str(cell.variant.overrides.get(name)) for cell in cells}
        if len(values) > 1:
            raise SpecError(f"--set {key}: the suite's variants differ in it; choose some with --only (and --no-base)")


def _change(cell: Cell, part: str, name: str, text: str) -> tuple[Cell, bool]:
    """The changed cell, and whether any part of it knows the key."""
    hit = False
    if part in ("", "budget") and name in _hints("budget"):
        value = convert(text, _hints("budget")[name], name)
        paper = cell.budget.name == "paper" and name not in UNLABELLED and value != getattr(cell.budget, name)
        label = "reduced" if paper else cell.budget.name
        cell, hit = replace(cell, budget=replace(cell.budget, **{name: value, "name": label})), True
    if part in ("", "protocol") and name in _hints("protocol"):
        value = convert(text, _hints("protocol")[name], name)
        cell, hit = replace(cell, protocol=replace(cell.protocol, **{name: value})), True
    network = _hints(cell.variant.model)
    if part in ("", "network") and name in network:
        overrides = {**cell.variant.overrides, name: convert(text, network[name], name)}
        cell, hit = replace(cell, variant=replace(cell.variant, overrides=overrides)), True
    if part == "" and name in DATASETS:
        cell, hit = replace(cell, **{name: tuple(filter(None, text.split(",")))}), True
    return cell, hit


@cache
def _hints(part: str) -> dict[str, Any]:
    """Settable names and types of "budget", "protocol", or of the network of a catalogue model."""
    import models

    kind = {"budget": Budget, "protocol": Protocol}.get(part) or type(models.configure(part))
    hints = get_type_hints(kind)
    task = ("upscale", "in_chans", "upsampler")  # these follow from the task
    return {field.name: hints[field.name] for field in fields(kind) if field.name not in ("name", *task)}


def convert(text: str, hint: Any, key: str) -> Any:
    """`text` as the type of an annotation: numbers, words, tuples (commas between), none. Raises SpecError."""
    if text.lower() == "none" and NoneType in get_args(hint):
        return None
    kinds = get_args(hint) if get_origin(hint) is tuple else ()
    value = [part.strip() for part in text.split(",") if part.strip()] if kinds else text
    try:
        return TypeAdapter(hint, config=FINITE).validate_python(value)
    except ValidationError as error:
        wrong = error.errors()[0]
        if kinds and wrong["loc"] and wrong["type"] not in ("missing", "too_long"):  # one of the numbers
            text, hint = wrong["input"], kinds[0]
        needed = "a finite number" if wrong["type"] == "finite_number" else describe(hint)
        raise SpecError(f"--set {key}={text}: {needed} is needed") from None


def describe(hint: Any) -> str:
    """An annotation in words."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return " or ".join(describe(choice) for choice in get_args(hint))
    if origin is Literal:
        return " or ".join(map(str, get_args(hint)))
    if origin is tuple:
        kinds = get_args(hint)
        count = "numbers with commas between" if kinds[-1] is Ellipsis else f"{len(kinds)} numbers with a comma between"
        return count
    return {int: "a whole number", float: "a number", str: "a word", NoneType: "none"}.get(hint, str(hint))
