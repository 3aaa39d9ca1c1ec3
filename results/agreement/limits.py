"""How far scores of one picture may be apart on two machines: what was measured, by kinds of backend and precision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EXACT = 1e-6  # of a score, on one machine by one commit
MARGIN = 2.0  # times the largest difference that was measured
ENOUGH = 100  # pairs
SAME = ("device", "device_type", "processor", "backend", "commit")  # by what an environment says


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
    """The largest differences, rounded up to two digits, of scores of one picture by the same weights.

    kinds: of the two machines, as `kind` names them, in alphabetical order; twice the same for two devices of one kind,
    or for two commits on one. psnr: in dB, over `pairs`. ssim: over those that have one, None where none does.
    """

    precision: str
    routing: str
    kinds: tuple[str, str]
    pairs: int
    psnr: float
    ssim: float | None


# Of results/measured on 2026-11-30, as `pairs.table` finds them; a test holds these to it. All of mambairv2-light.
CPU, CHUNKED, REFERENCE, TRITON = "cpu on cpu", "chunked on cpu", "reference on cpu", "triton on cuda"
MEASURED = (
    Measured("bf16", "gumbel", (TRITON, TRITON), 100, 0.007, 0.00013),
    Measured("fp32", "argmax", (CHUNKED, CPU), 38, 0.00019, 7.9e-06),
    Measured("fp32", "argmax", (CHUNKED, TRITON), 33, 0.0012, 2.4e-05),
    Measured("fp32", "argmax", (CPU, CPU), 124, 0.00032, 8.2e-06),
    Measured("fp32", "argmax", (CPU, TRITON), 504, 0.0057, 3.1e-05),
    Measured("fp32", "argmax", (TRITON, TRITON), 128, 0.00012, None),
    Measured("fp32", "gumbel", (CHUNKED, CPU), 38, 1.6e-05, 9.5e-07),
    Measured("fp32", "gumbel", (CHUNKED, REFERENCE), 5, 4e-06, 4.6e-07),
    Measured("fp32", "gumbel", (CHUNKED, TRITON), 19, 1.1e-05, None),
    Measured("fp32", "gumbel", (CPU, CPU), 124, 0.00015, 1.5e-06),
    Measured("fp32", "gumbel", (CPU, REFERENCE), 10, 1.1e-05, 8.5e-07),
    Measured("fp32", "gumbel", (CPU, TRITON), 892, 0.00031, 2.4e-06),
    Measured("fp32", "gumbel", (REFERENCE, TRITON), 5, 4.8e-06, None),
    Measured("fp32", "gumbel", (TRITON, TRITON), 919, 7.7e-05, None),
    Measured("tf32", "gumbel", (TRITON, TRITON), 100, 0.00067, 1.1e-05),
    Measured("tf32x3", "gumbel", (TRITON, TRITON), 100, 1.3e-05, 2e-07),
)


def kind(machine: Mapping[str, Any]) -> str:
    """Its backend and the kind of its device: "triton on cuda", "cpu on cpu" (this project's C++)."""
    return f"{machine.get('backend') or 'no backend'} on {machine.get('device_type') or 'an unknown device'}"


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether both make the same bits, as far as they say: one device, processor, backend and commit."""
    return all((a.get(name) or None) == (b.get(name) or None) for name in SAME)


def between(a: Mapping[str, Any], b: Mapping[str, Any], protocol: Mapping[str, Any]) -> Limit:
    """The limit between machines `a` and `b` (SAME, device_type) under `protocol`: EXACT where `same`, else `of`."""
    if same(a, b):
        return Limit(EXACT, EXACT, "one machine and commit")
    kinds = tuple(sorted((kind(a), kind(b))))
    return of(protocol.get("precision"), protocol.get("routing"), kinds)


def of(precision: str | None, routing: str | None, kinds: tuple[str, ...]) -> Limit:
    """MARGIN times what was largest between two such kinds, at that precision and routing; where fewer than ENOUGH
    pairs were measured between just these, between any two. SSIM, of which less was measured, goes by any two.

    EXACT at a precision and routing of which fewer than ENOUGH pairs were measured in all.
    """
    alike = [one for one in MEASURED if (one.precision, one.routing) == (precision, routing)]
    said = f"{' and '.join(kinds)} at {precision}, routing {routing}"
    if (count := sum(one.pairs for one in alike)) < ENOUGH:
        return Limit(EXACT, EXACT, f"{count or 'no'} pairs were measured between {said}, too few for more")
    own = [one for one in alike if one.kinds == kinds and one.pairs >= ENOUGH]
    psnr, ssim = max(one.psnr for one in own or alike), max(one.ssim or 0.0 for one in alike)
    return Limit(max(EXACT, MARGIN * psnr), max(EXACT, MARGIN * ssim), f"measured between {said}")
