"""Parameters of a network, and its multiply-adds (MACs) counted in two ways by two counters.

`macs_paper` is the convention behind the paper's printed digits: fvcore's rules (1 per multiply-add of convolutions and
matrix products, 5 per element of a LayerNorm, elementwise operations free) plus 9 B L D N + B D L for a selective scan,
D channels of all directions. It mixes units. `macs` is clean: multiply-adds only, of convolutions and matrix products;
the scan's floating-point operations stand apart in `scan_flops`.

Both are counted on the reference path: plain attention, and prompts as the product onehot @ (M N) that the official
code computes (a lookup would be free). fvcore traces a real forward pass, which at full size takes minutes, so it
counts two small padded sizes: every cost is affine in the number of padded pixels, and the line through both
is extended. PyTorch's FlopCounterMode counts the full size itself, on fake tensors that have shapes only.

`runner.py complexity --all` counts every network and size of the published tables again, for
`results/measured/counted/`."""

import csv
import functools
import io
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from fractions import Fraction
from math import prod
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import models
from models.mambairv2 import AttentiveStateSpace
from results import measured, published, records
from suites import environment
from suites.benchmark.plans import parse_variant
from suites.network_file import NetworkFile
from suites.spec import SpecError, Task

TOLERANCE = 1e-4  # relative: within it the two counters agree
UNIT = 4  # side of the small image that is traced, where the network has no windows
OWN_UNIT = 64  # and of a user's network, whose windows are its own business: a multiple of the usual ones
SCAN = "mambair_bench::attentive_scan"
NOT_MULTIPLY_ADDS = ("layer_norm", "adaptive_avg_pool2d", SCAN)  # also in fvcore's total

# What the published tables need: a model with overrides, tasks, output sizes.
SIZES = ((256, 256), (512, 512), (720, 1280), (1024, 1024))
SCALES = ("sr-x2", "sr-x3", "sr-x4")
GRID = (
    *((variant, SCALES, SIZES) for variant in ("mambairv2-light", "mambairv2-light ffn=conv")),
    *((variant, SCALES, SIZES) for variant in ("mambairv2-small", "mambairv2-base", "mambairv2-large")),
    ("mambairv2-base", ("denoise-15", "jpeg-40"), ((128, 128), (720, 1280))),
    *((variant, SCALES, ((720, 1280),)) for variant in ("mambair-light", "mambair")),
)

# Component of a module or parameter, by a part of its official name; the first that fits decides.
COMPONENTS = (
    ("norm", ("norm", "ln_1", "ln_2")),
    ("head", ("conv_before_upsample", "upsample", "conv_last")),
    ("window attention", ("wqkv", "win_mhsa")),
    ("feed-forward", ("convffn1", "convffn2")),
    ("prompt", ("route", "embeddingA", "embeddingB", "shared")),
    ("scan", ("A_logs", "Ds", "dt_projs_bias")),
    ("scan projections", ("assm", "self_attention")),
    ("scales", ("scale1", "scale2", "skip_scale", "skip_scale2")),
)
REST = "convolution"


def complexity(
    name: str, task: Task, output: tuple[int, int] = (720, 1280), own: NetworkFile | None = None, **overrides: Any
) -> dict[str, Any]:
    """Counts of the catalogue model `name`, changed by `overrides`, when it makes an image of `output` (height, width);
    with `own` of that network, which is only called so. Its components are its own parts, and `source` is the hash of
    its file.

    The input is output // scale, which the network pads to a multiple of its window (MambaIR does not pad).
    Integers: params, macs_paper, macs, scan_flops (by the operator's own formula: 7 per state update, 6 per channel and
    pixel). `breakdown`: component -> macs (clean; they sum to `macs`) and params (they sum to `params`).
    `counters`: multiply-adds by `fvcore` and by `flop_counter_mode`, their relative `difference`, and whether they
    `agree` (within 1e-4). `how` says in words what was done.

    Raises SpecError for an output without a pixel of input, ModelError or TypeError for what no catalogue model is.
    """
    height, width = (side // task.scale for side in output)
    if height < 1 or width < 1:
        raise SpecError(f"an output of {output[0]}x{output[1]} has no input pixel at {task.name}")
    network = own.build().eval().requires_grad_(False) if own else built(name, {**task.network, **overrides})
    part, unit = (child, OWN_UNIT) if own else (component, UNIT)
    return {
        "model": name,
        "overrides": dict(own.arguments) if own else overrides,
        **({"source": own.key()["source"]} if own else {}),
        "task": task.name,
        "output": list(output),
        **counted(network, task.channels, (height, width), part, side_of(network, unit)),
    }


def side_of(network: nn.Module, unit: int = UNIT) -> int:
    """Of the small image that is traced: the network's window, or `unit` where it has none."""
    window = models.capabilities_of(network).multiple
    return window if window > 1 else unit


def counted(
    network: nn.Module, channels: int, size: tuple[int, int], part: Callable[[str], str], side: int
) -> dict[str, Any]:
    """What `complexity` says of any network with an input of `size`, in evaluation mode and without gradients.

    part: the component of a module's name. side: of the small image that is traced, a multiple of its windows.
    """
    height, width = size
    window = models.capabilities_of(network).multiple
    padded = tuple(-(-side // window) * window for side in size)
    paper, by_fvcore, traced = _fvcore(network, channels, side, prod(padded))
    macs, scan_flops, by_component = _flop_counter_mode(network, channels, height, width, prod(padded), part)
    params = _parameters(network, part)
    difference = abs(by_fvcore - macs) / macs
    return {
        "input": [height, width],
        "padded": list(padded),
        "params": sum(params.values()),
        "macs_paper": paper,
        "macs": macs,
        "scan_flops": scan_flops,
        "breakdown": {
            component: {"macs": by_component.get(component, 0), "params": params.get(component, 0)}
            for component in dict.fromkeys((*[label for label, _ in COMPONENTS], REST, *params, *by_component))
            if component in params or component in by_component
        },
        "counters": {
            "fvcore": by_fvcore,
            "flop_counter_mode": macs,
            "difference": difference,
            "agree": difference <= TOLERANCE,
        },
        "how": (
            f"macs_paper: fvcore on inputs of {' and '.join(f'{h}x{w}' for h, w in traced)}, the line through both "
            f"extended to {padded[0]}x{padded[1]}; macs: FlopCounterMode at full size; both on the reference path"
        ),
    }


def of_variant(
    variant: str | None, task: Task, output: tuple[int, int], own: NetworkFile | None = None
) -> dict[str, Any]:
    """`complexity` of what was typed: "mambairv2-light scans=2", or a network `own`.

    Raises SpecError without a network or for two of them, and as `parse_variant`.
    """
    if own is not None:
        if variant is not None:
            raise SpecError(f"two networks were named: leave out {variant}, or --network")
        return complexity(own.name, task, output, own)
    if variant is None:
        raise SpecError("no network was named: give one that `list` names, --network FILE.py:Class, or --all")
    name, overrides = parse_variant(variant, task)
    return complexity(name, task, output, **overrides)


def lines(counted: dict[str, Any]) -> list[str]:
    """What `complexity` prints of its result."""
    counters = counted["counters"]
    verdict = "agree" if counters["agree"] else "DISAGREE"
    (height, width), padded = counted["output"], counted["padded"]
    name = " ".join([counted["model"], *(f"{key}={value}" for key, value in counted["overrides"].items())])
    return [
        f"{name}, {counted['task']}, output {height}x{width}, padded input {padded[0]}x{padded[1]}",
        f"parameters          {counted['params']:,}",
        f"MACs, as the paper  {_scaled(counted['macs_paper'])} (LayerNorm 5 per element, scan 9 per state update)",
        f"MACs, multiply-adds {_scaled(counted['macs'])}",
        f"scan                {_scaled(counted['scan_flops'])} FLOPs, not among the MACs",
        "",
        f"{'component':<18}{'MACs':>12}{'parameters':>14}",
        *(f"{name:<18}{_scaled(row['macs']):>12}{row['params']:>14,}" for name, row in counted["breakdown"].items()),
        "",
        f"fvcore {counters['fvcore']:,} and FlopCounterMode {counters['flop_counter_mode']:,} multiply-adds {verdict}"
        f" (relative difference {counters['difference']:.1e})",
        counted["how"],
    ]


def _scaled(count: int) -> str:
    return f"{count / 1e9:,.2f}G" if count >= 1e9 else f"{count / 1e6:,.2f}M"


def built(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The network with all weights zero: no count depends on them, and drawing them would take longer than counting.

    Routed by argmax, for whichever class a pixel has, it costs the same.
    """
    with torch.device("meta"):
        network = models.build(name, **{**arguments, "routing": "argmax", "backend": "reference"})
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.zero_()
    return network


def _fvcore(network: nn.Module, channels: int, side: int, pixels: int) -> tuple[int, int, list[tuple[int, int]]]:
    """(paper's MACs, multiply-adds, sizes traced): fvcore's counts at side x side and side x 2 side, extended."""
    sizes = [(side, side), (side, 2 * side)]
    small, large = (_trace(network, channels, size) for size in sizes)

    def at_full_size(operators: Iterable[str]) -> int:
        low, high = (sum(counts.get(name, 0) for name in operators) for counts in (small, large))
        return round(low + Fraction(high - low, side * side) * (pixels - side * side))

    everything = small.keys() | large.keys()
    return at_full_size(everything), at_full_size(everything - set(NOT_MULTIPLY_ADDS)), sizes


@functools.lru_cache(maxsize=2)
def _trace(network: nn.Module, channels: int, size: tuple[int, int]) -> dict[str, int]:
    """fvcore's count per operator, the scan by the paper's rule; kept for the network's next size."""
    image = torch.zeros(1, channels, *size)
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it lists every elementwise operation that it counts as free
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the tensors are small: on busy cores, waiting for each other takes longer than the work
    try:
        analysis = FlopCountAnalysis(network, image).set_op_handle(SCAN, _scan_by_the_paper)
        analysis.set_op_handle("aten::layer_norm", _layer_norm)
        analysis.tracer_warnings("none").uncalled_modules_warnings(False).unsupported_ops_warnings(False)
        return {operator: int(count) for operator, count in analysis.by_operator().items()}
    finally:
        logger.setLevel(level)
        torch.set_num_threads(threads)


def _scan_by_the_paper(inputs: list[Any], outputs: list[Any]) -> dict[str, int]:
    """9 B L D N + B D L of a traced scan; it has u [B, L, E], delta [B, K, L, E], A [K, E, N], ...; D = K E."""
    batch, directions, length, channels = inputs[1].type().sizes()
    states = inputs[2].type().sizes()[2]
    return {SCAN: batch * directions * length * channels * (9 * states + 1)}


def _layer_norm(inputs: list[Any], outputs: list[Any]) -> int:
    """fvcore's rule, which it has for up to 5 axes alone: 5 an element with weights, else 4."""
    return prod(get_shape(inputs[0])) * (4 if get_shape(inputs[2]) is None else 5)


def _flop_counter_mode(
    network: nn.Module, channels: int, height: int, width: int, pixels: int, part: Callable[[str], str]
) -> tuple[int, int, dict[str, int]]:
    """(multiply-adds, FLOPs of the scan, multiply-adds by component) of one image of height x width.

    part: the component of a module's name.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), counter:
        network(torch.empty(1, channels, height, width))
    inclusive = counter.get_flop_counts()  # a module's counts include those of the modules inside it
    scan_flops = sum(count for operator, count in inclusive["Global"].items() if _is_scan(operator))
    root = type(network).__name__
    by_module = {
        name.removeprefix(root).lstrip("."): sum(count for operator, count in counts.items() if not _is_scan(operator))
        for name, counts in inclusive.items()
        if name != "Global"
    }
    flops: dict[str, int] = defaultdict(int)
    for name, count in by_module.items():
        prompt = _prompt_flops(network.get_submodule(name), pixels)
        flops["prompt"] += prompt
        flops[part(name)] += count - prompt
        if (parent := _parent(name, by_module)) is not None:
            flops[part(parent)] -= count
    macs = {label: count // 2 for label, count in flops.items() if count}
    return sum(macs.values()), scan_flops, macs


def _is_scan(operator: Any) -> bool:
    return str(operator).replace(".", "::").startswith(SCAN)


def _parent(name: str, names: Iterable[str]) -> str | None:
    """The nearest enclosing module of `name` among `names`; "" is the network."""
    while name:
        name = name.rpartition(".")[0]
        if name in names:
            return name
    return None


def _prompt_flops(module: nn.Module, pixels: int) -> int:
    """FLOPs of onehot @ (M N), which an ASSM computes itself, outside any module of its own."""
    if not isinstance(module, AttentiveStateSpace) or module.config.ase == "off":
        return 0
    (classes, rank), dim = module.embeddingB.weight.shape, module.config.prompt_dim
    factored = module.config.inner_rank is not None
    return 2 * classes * dim * (pixels + (rank if factored else 0))


def _parameters(network: nn.Module, part: Callable[[str], str]) -> dict[str, int]:
    counts: dict[str, int] = defaultdict(int)
    for name, parameter in network.named_parameters():
        counts[part(name)] += parameter.numel()
    return dict(counts)


def child(name: str) -> str:
    """The part of a user's network that a module or parameter is in."""
    return name.partition(".")[0] or "the network itself"


def component(name: str) -> str:
    """The component that a module or parameter of this official name belongs to."""
    parts = name.split(".")
    for label, keys in COMPONENTS:
        if any(part in keys or (label == "norm" and part.startswith("norm")) for part in parts):
            return label
    return REST


def count_published(variant: str | None, show: Callable[[list[str]], None]) -> None:
    """Writes `results/measured/counted/`: a row per network, task and size of GRID, and what they were counted with.

    Each row is shown as soon as it is known. Raises SpecError for a network: all are counted.
    """
    if variant is not None:
        raise SpecError(f"--all counts every network of the published tables: leave out {variant}")
    rows = []
    for variant, tasks, sizes in GRID:
        name, _, overrides = variant.partition(" ")
        for task, size in ((task, size) for task in tasks for size in sizes):
            counted = complexity(name, Task.parse(task), size, **published.parse_overrides(overrides))
            counters = counted["counters"]
            verdict = "agree" if counters["agree"] else f"differ by {counters['difference']:.1e}"
            row = {"model": name, "overrides": overrides, "task": task, "size": f"{size[0]}x{size[1]}"}
            row |= {key: counted[key] for key in ("params", "macs_paper", "macs", "scan_flops")}
            rows.append(row | {"counters": f"the two counters {verdict}"})
            show([", ".join(map(str, rows[-1].values()))])
    text = io.StringIO()
    writer = csv.DictWriter(text, measured.COMPLEXITY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    records.write_bytes(measured.COMPLEXITY, text.getvalue().encode())
    record = {"command": environment.command(), "date": datetime.now(UTC).date().isoformat()}
    record |= environment.describe("cpu", "reference")
    records.write_json(measured.COMPLEXITY.with_name("environment.json"), record)
