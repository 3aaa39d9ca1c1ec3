"""How far scores of one picture may differ between two machines: by what was measured (`agreement.json`)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from results import records

FILE = Path(__file__).parents[1] / "measured" / "agreement.json"  # `pairs.write` makes it from what is committed
EXACT = 1e-6  # of a score, on one machine by one commit
MARGIN = 2.0  # times the largest difference that was measured
ENOUGH = 100  # pairs
SAME = ("device", "device_type", "processor", "backend", "torch", "triton", "commit")  # by what an environment says


@dataclass(frozen=True)
class Limit:
    """The largest difference that is no contradiction: of a PSNR in dB, of an SSIM. why: what it goes by, in words."""

    psnr: float
    ssim: float
    why: str

    def of(self, score: str) -> float:
        """The limit of one of `records.SCORES`."""
        return self.ssim if score == "ssim" else self.psnr


@dataclass(frozen=True)
class Measured:
    """How far scores of one picture by the same weights were apart: a row of `pairs.table`.

    kinds: of the two machines, as `kind` names them, in alphabetical order; devices: theirs. equal: pairs that are
    equal to EXACT; median, most (the 99 % quantile), psnr (the largest): of `pairs`, in dB. ssim: the largest of the
    `with_ssim` pairs that have one, None where none does. models, tasks, datasets: of which that was measured.
    """

    precision: str
    routing: str
    kinds: tuple[str, str]
    devices: tuple[str, str]
    pairs: int
    equal: int
    median: float
    most: float
    psnr: float
    with_ssim: int
    ssim: float | None
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    datasets: tuple[str, ...]


@cache
def measured() -> tuple[Measured, ...]:
    """The rows of FILE. Raises StoreError when it is missing or damaged."""
    remedy = "`runner.py tables --documents` writes it from what is committed"
    try:
        rows = records.read_json(FILE)["rows"]
        return tuple(Measured(**{name: tuple(v) if isinstance(v, list) else v for name, v in r.items()}) for r in rows)
    except (records.StoreError, KeyError, TypeError, AttributeError) as error:
        raise records.StoreError(f"{FILE} does not say how far scores may differ ({error}): {remedy}") from error


def kind(machine: Mapping[str, Any]) -> str:
    """Its backend and the kind of its device: "triton on cuda", "cpu on cpu" (this project's C++)."""
    return f"{machine.get('backend') or 'no backend'} on {machine.get('device_type') or 'an unknown device'}"


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether both make the same bits, as far as they say: one device, processor, backend, commit, and versions."""
    return all((a.get(name) or None) == (b.get(name) or None) for name in SAME)


def between(a: Mapping[str, Any], b: Mapping[str, Any], protocol: Mapping[str, Any]) -> Limit:
    """The limit between machines `a` and `b` (`other_machines.MACHINE`) under `protocol`: EXACT where `same`, else
    `of`."""
    if same(a, b):
        return Limit(EXACT, EXACT, "one machine, commit and versions of PyTorch and Triton")
    a, b = sorted((a, b), key=lambda one: (kind(one), str(one.get("device"))))
    one_model = a.get("device") == b.get("device")
    return of(protocol.get("precision"), protocol.get("routing"), (kind(a), kind(b)), one_model=one_model)


def of(precision: str | None, routing: str | None, kinds: tuple[str, ...], *, one_model: bool) -> Limit:
    """MARGIN times what was largest between two such kinds, at that precision and routing; where fewer than ENOUGH
    pairs were measured between just these, between any two. SSIM, of which less was measured, goes by any two.

    one_model: whether both have a device of one name: two commits on one model of GPU say nothing of two models. The
    network and the task are not asked for: `why` says of which it was measured. EXACT at a precision and routing of
    which fewer than ENOUGH pairs were measured in all.
    """
    alike = [one for one in measured() if (one.precision, one.routing) == (precision, routing)]
    at = f"at {precision}, routing {routing}"
    if (count := sum(one.pairs for one in alike)) < ENOUGH:
        return Limit(EXACT, EXACT, f"{count or 'no'} pairs of machines were measured {at}, too few for more")
    own = [one for one in alike if one.kinds == kinds and (one.devices[0] == one.devices[1]) == one_model]
    known = sum(one.pairs for one in own)
    used = own if known >= ENOUGH else alike
    devices = "one model of device" if one_model else "two devices"
    if used is own:
        which = f"{known} pairs measured between {' and '.join(kinds)}, {devices}, {at}"
    else:
        few = f"{known or 'none'} of them between {' and '.join(kinds)}, {devices}"
        which = f"{count} pairs measured between any two {at}, {few}"
    networks = " and ".join(sorted({name for one in used for name in one.models}))
    tasks = " and ".join(sorted({name for one in used for name in one.tasks}))
    why = f"{MARGIN:g} times the largest of {which}; all of {networks}, {tasks}"
    psnr, ssim = max(one.psnr for one in used), max(one.ssim or 0.0 for one in alike)
    return Limit(max(EXACT, MARGIN * rounded_up(psnr)), max(EXACT, MARGIN * rounded_up(ssim)), why)


def rounded_up(value: float) -> float:
    """To two digits, never down."""
    if not value > 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")
