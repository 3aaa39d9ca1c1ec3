"""Window attention at the sizes that matter: which way of taking it is fastest, and how exact each is.

    python tests/benchmarks/attention_cases.py [--json FILE] [--cases GLOB] [--blocks]

A row is printed only for a result that was compared with float64 in the same run. On a GPU: medians of CUDA events with
the first and ninth decile, every call on data that the caches do not hold; on a CPU small cases, plain against fused.
`--blocks` tries cuts of the kernels' work (models/ops/attention/triton.py: FORWARD, QUERIES, KEYS) in place of the
chosen."""

import argparse
import fnmatch
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import models
from models.ops.attention import BACKENDS, shift_mask, unavailable, window_attention


@dataclass(frozen=True)
class Case:
    """One call on [batch, height, width] tokens; `trains`: forward and backward."""

    batch: int
    height: int
    width: int
    heads: int
    head_dim: int
    trains: bool = False
    window: int = 16


GPU_CASES = {  # sizes are padded to windows
    "light 360x640": Case(1, 368, 640, 4, 12),
    "small 360x640": Case(1, 368, 640, 4, 33),
    "base 360x640": Case(1, 368, 640, 6, 29),
    "light 64x64 x32 training": Case(32, 64, 64, 4, 12, trains=True),
    "base 64x64 x4 training": Case(4, 64, 64, 6, 29, trains=True),
}
CPU_CASES = {
    "light 64x64": Case(1, 64, 64, 4, 12),
    "tiny 24x24 x8 training": Case(8, 24, 24, 2, 6, trains=True, window=8),
}
# Largest error allowed, of output and gradients, by norm: above, the row says so in place of a time.
LIMITS = {"fp32": 1e-5, "tf32x3": 1e-5, "tf32": 1e-2, "bf16": 5e-2}


def problem(case: Case, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """qkv, table and the gradient of the output, float32."""
    g = torch.Generator(device).manual_seed(0)
    channels = case.heads * case.head_dim
    shape = (case.batch, case.height, case.width)
    qkv = torch.randn(*shape, 3 * channels, generator=g, device=device)
    table = torch.randn((2 * case.window - 1) ** 2, case.heads, generator=g, device=device)
    return qkv, table, torch.randn(*shape, channels, generator=g, device=device)


def call(case: Case, qkv: Tensor, table: Tensor, grad: Tensor, mask: Tensor, backend: str) -> list[Tensor]:
    """Output of shifted windows, and where it trains the gradients of qkv and the table."""
    form = {"window": case.window, "heads": case.heads, "shifted": True, "backend": backend}
    if not case.trains:
        with torch.no_grad():
            return [window_attention(qkv, table, mask, **form)]
    qkv, table = qkv.detach().requires_grad_(), table.detach().requires_grad_()
    out = window_attention(qkv, table, mask, **form)
    return [out.detach(), *torch.autograd.grad(out, (qkv, table), grad.to(out.dtype))]


def error(got: list[Tensor], exact: list[Tensor]) -> float:
    """The largest relative error by norm; NaN counts as infinite."""
    each = [float((a.double() - b).norm() / b.norm()) for a, b in zip(got, exact, strict=True)]
    return max(e if e == e else float("inf") for e in each)


def milliseconds(function: Callable[[], object], device: torch.device) -> tuple[float, float, float]:
    """(median, first decile, ninth decile)."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return tuple(do_bench(function, warmup=20, rep=100, quantiles=[0.5, 0.1, 0.9]))
    from torch.utils.benchmark import Timer

    times = Timer("f()", globals={"f": function}, num_threads=torch.get_num_threads()).blocked_autorange()
    quantiles = torch.tensor(times.times).quantile(torch.tensor([0.5, 0.1, 0.9])) * 1e3
    return tuple(quantiles.tolist())


def longest_kernel(function: Callable[[], object]) -> str:
    """Name of the GPU kernel that takes most of a call."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function()
        torch.cuda.synchronize()
    events = [event for event in profile.key_averages() if event.self_device_time_total]
    return max(events, key=lambda event: event.self_device_time_total).key[:60]


def floor(case: Case, bytes_each: int) -> int:
    """Bytes that must move: qkv in and the output out; backward, those and their gradients."""
    channels = case.heads * case.head_dim
    values = case.batch * case.height * case.width * channels * (4 + (8 if case.trains else 0))
    return values * bytes_each


def contenders(device: torch.device) -> Iterator[tuple[str, str]]:
    """(backend, precision) of every row."""
    precisions = ("fp32", "tf32x3", "tf32", "bf16") if device.type == "cuda" else ("fp32",)
    for backend, precision in itertools.product(BACKENDS, precisions):
        if backend == "triton" and unavailable(device) is not None:
            continue
        if backend != "triton" and precision == "tf32x3":
            continue
        yield backend, precision


def rows(cases: dict[str, Case], device: torch.device) -> Iterator[dict]:
    for name, case in cases.items():
        qkv, table, grad = problem(case, device)
        mask = shift_mask(case.window).to(device)
        exact = call(case, qkv.double(), table.double(), grad.double(), mask.double(), "plain")
        for backend, precision in contenders(device):
            with models.precision(precision, device):
                x = qkv.bfloat16() if precision == "bf16" else qkv
                arguments = (case, x, table, grad, mask, backend)
                row = {
                    "case": name,
                    "backend": backend,
                    "precision": precision,
                    "error": error(call(*arguments), exact),
                }
                if row["error"] < LIMITS[precision]:
                    function = partial(call, *arguments)
                    row["median_ms"], row["p10_ms"], row["p90_ms"] = milliseconds(function, device)
                    row["bytes"] = floor(case, x.element_size())
                    if device.type == "cuda" and backend == "fused":
                        row["kernel"] = longest_kernel(function)
            yield row


def block_rows(cases: dict[str, Case], device: torch.device) -> Iterator[dict]:
    """Every cut of the kernels' work, one kernel at a time, the others as chosen."""
    from models.ops.attention import triton as kernels

    steps = ((64, 32, 2), (64, 32, 4), (64, 64, 4), (128, 32, 4), (128, 32, 8), (128, 64, 8), (256, 32, 8))
    tries = [kernels.Blocks(*step, stages) for step in steps for stages in (1, 2)]
    for name, case in cases.items():
        qkv, table, grad = problem(case, device)
        for products in ("tf32x3", "tf32", "bf16", "ieee"):
            x = qkv.bfloat16() if products == "bf16" else qkv
            shape = (case.window, case.heads, case.window // 2, products)
            reference = kernels.forward(x, table, *shape, True)
            grads = kernels.backward(grad.to(x.dtype), x, table, *reference, *shape)
            for blocks in tries:
                kinds = {"forward": partial(kernels.forward, x, table, *shape, True, blocks)}
                if case.trains:
                    backward = partial(kernels.backward, grad.to(x.dtype), x, table, *reference, *shape)
                    kinds["queries"] = partial(backward, (blocks, None))
                    kinds["keys"] = partial(backward, (None, blocks))
                for kind, function in kinds.items():
                    row = {"case": name, "kernel": kind, "precision": products, "blocks": list(blocks)}
                    try:
                        expected = [y.double() for y in (reference[:1] if kind == "forward" else grads)]
                        row["error"] = error(function()[: len(expected)], expected)  # against the chosen cut
                        if row["error"] < LIMITS.get(products, 1e-5):
                            row["median_ms"], row["p10_ms"], row["p90_ms"] = milliseconds(function, device)
                    except Exception as refused:  # too much shared memory, say
                        row["error"], row["why"] = float("inf"), str(refused).splitlines()[0][:80]
                    yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cases", default="*", help="names, by a pattern")
    parser.add_argument("--blocks", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = GPU_CASES if device.type == "cuda" else CPU_CASES
    cases = {name: case for name, case in cases.items() if fnmatch.fnmatch(name, options.cases)}
    if options.blocks and unavailable(device) is not None:
        parser.error(f"--blocks needs the kernels: {unavailable(device)}")
    done = []
    for row in (block_rows if options.blocks else rows)(cases, device):
        done.append(row)
        labels = " ".join(str(row[key]) for key in row if key not in NUMBERS)
        time = (
            "no time: wrong"
            if "median_ms" not in row
            else "{median_ms:9.3f} ms [{p10_ms:.3f}, {p90_ms:.3f}]".format(**row)
        )
        print(f"{labels:<60} error {row['error']:.1e}  {time}", flush=True)
    if options.json:
        machine = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        options.json.write_text(json.dumps({"machine": machine, "torch": torch.__version__, "rows": done}, indent=1))


NUMBERS = ("error", "median_ms", "p10_ms", "p90_ms", "bytes")

if __name__ == "__main__":
    main()
