"""Measure MambaIRv2 the way the paper does: train, evaluate, compare with what was published.

Exit status: 0 done; 1 something that was asked for failed (a cell, a check); 2 a mistake in what was asked.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ROOT = Path(__file__).resolve().parent
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__)
data_app = typer.Typer(rich_markup_mode=None, help="Which datasets are there, and whether they are the standard ones.")
app.add_typer(data_app, name="data")
out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(soft_wrap=True, highlight=False, markup=False, stderr=True)

Data = Annotated[Path | None, typer.Option("--data", envvar="MAMBAIR_BENCH_DATA", help="folder of <Dataset>/ folders")]
Results = Annotated[Path, typer.Option("--results", help="the result store")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:N; the GPU, if there is one, when not given")]
Backend = Annotated[str, typer.Option(help="auto, or a scan backend that `doctor` lists")]
TaskName = Annotated[str, typer.Option("--task", help="sr-x2, denoise-15, jpeg-10, ...")]
Json = Annotated[Path | None, typer.Option("--json", help="also write the result to this file")]
STORE = ROOT / "results" / "runs"


def main() -> int:
    """Runs the command line; every foreseen mistake is one line on stderr."""
    from models import ModelError
    from models.scan import BackendError
    from results.published import PublishedError
    from results.store import StoreError
    from suites.data import DataError
    from suites.engine import EngineError
    from suites.evaluation import EvaluationError
    from suites.metrics import MetricError
    from suites.spec import SpecError

    ours = (ModelError, BackendError, PublishedError, StoreError, DataError, EngineError, EvaluationError, MetricError)
    try:
        return app(standalone_mode=False) or 0
    except (*ours, SpecError, OSError) as error:
        err.print(f"error: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        err.print("stopped; everything finished so far is stored")
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own errors have it; anything else is a bug of ours
            raise
        err.print(f"error: {' '.join(error.format_message().split())} See runner.py --help.")
    return 2


def write_json(path: Path | None, value: Any) -> None:
    if path is not None:
        from results.records import write_json as write

        write(path, value)


def choose_device(device: str | None) -> str:
    import torch

    from suites.spec import SpecError

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        kind = torch.device(chosen).type
    except RuntimeError:
        kind = None
    if kind not in ("cpu", "cuda"):
        raise SpecError(f"unknown device {chosen!r}: choose cpu, cuda or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise SpecError(f"device {chosen!r} is not usable here: PyTorch {torch.__version__} sees no GPU")
    return chosen
