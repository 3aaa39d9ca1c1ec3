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


def open_store(results: Path) -> Any:
    from results.store import Store

    return Store(results)


def frame_text(frame: Any) -> str:
    return frame.to_string(index=False, na_rep="-") if len(frame) else "nothing"


@app.command("list")
def list_everything(data: Data = None, results: Results = STORE) -> None:
    """Suites, models, datasets found and missing, tables."""
    import models
    from reports import tables
    from suites.data import listing
    from suites.recipes import SUITES

    out.print("suites (run NAME):")
    for name, recipe in SUITES.items():
        out.print(f"  {name:16} {recipe.__doc__.strip().splitlines()[0]}")
    out.print(f"models (evaluate, complexity, restore): {', '.join(models.names())}; baselines: bicubic, identity")
    out.print("datasets:")
    out.print(frame_text(listing(data)))
    out.print(f"tables: {', '.join(tables.names(open_store(results)))}")


@app.command()
def run(
    suite: str,
    only: Annotated[str | None, typer.Option(help="glob of cell names: variant/task/seed-N")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, of a budget, protocol or variant")] = None,
    seeds: Annotated[str | None, typer.Option(help="0,1,2")] = None,
    budget: Annotated[str | None, typer.Option(help="smoke, reduced or paper")] = None,
    device: Device = None,
    gpus: Annotated[int | None, typer.Option(help="spread cells over this many GPUs")] = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="the same bits on the same machine")] = False,
    launch: Annotated[str, typer.Option(help="local or submitit")] = "local",
    jobs: Annotated[int | None, typer.Option(help="cells at a time")] = None,
    backend: Backend = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="cells and their cost, nothing runs")] = False,
    data: Data = None,
    results: Results = STORE,
) -> int:
    """Trains, evaluates and stores every cell of a suite; finished cells are skipped."""
    from suites import engine, recipes

    chosen = recipes.choose(suite, only=only, changes=set_ or [], seeds=seeds, budget=budget)
    store, device = open_store(results), choose_device(device)
    if dry_run:
        for line in recipes.describe(chosen, store, device):
            out.print(line)
        return 0
    outcome = engine.run(
        chosen,
        store,
        device=device,
        data=data,
        backend=backend,
        deterministic=deterministic,
        jobs=jobs,
        gpus=gpus,
        launch=launch,
        console=out,
    )
    for line in outcome.lines():
        out.print(line)
    return 0 if outcome.ok else 1


@app.command()
def tables(
    names: Annotated[list[str] | None, typer.Argument(help="all when none is given; `list` names them")] = None,
    format_: Annotated[str, typer.Option("--format", help="md, csv or tex")] = "md",
    results: Results = STORE,
) -> None:
    """Every table: published, measured, difference, interval, verdict."""
    from reports import render
    from reports import tables as drawn

    store = open_store(results)
    for name in names or drawn.names(store):
        print(render.render(drawn.table(name, store), format_, drawn.caption(name)))
    for problem in drawn.problems():
        err.print(f"left out: {problem}")


@app.command()
def evaluate(
    model: str,
    sets: Annotated[str, typer.Option(help="Set5,Set14,...")],
    task: TaskName,
    weights: Annotated[Path | None, typer.Option(help=".pth or .safetensors")] = None,
    network: Annotated[Path | None, typer.Option(help="official option file whose network_g to build")] = None,
    images: Annotated[str | None, typer.Option(help="glob of stems")] = None,
    tiles: Annotated[str, typer.Option(help="official, none, or a number in place of 200")] = "official",
    routing: Annotated[str, typer.Option(help="gumbel or argmax")] = "gumbel",
    samples: Annotated[int, typer.Option(help="outputs averaged, of as many draws of the noise")] = 1,
    prompt_order: Annotated[str, typer.Option(help="raster (code) or semantic (paper)")] = "raster",
    lr: Annotated[str, typer.Option(help="how the LR image is made: matlab, once or pil")] = "matlab",
    seed: Annotated[int, typer.Option(help="of the routing noise")] = 0,
    precision: Annotated[str, typer.Option(help="fp32, tf32, tf32x3 or bf16")] = "fp32",
    device: Device = None,
    backend: Backend = "auto",
    save_images: Annotated[Path | None, typer.Option(help="folder for the restored images")] = None,
    json_: Json = None,
    data: Data = None,
    results: Results = STORE,
) -> int:
    """Scores weights, or a baseline (bicubic, identity), by the official protocol or a stated other one."""
    from suites import evaluation, scoring
    from suites.spec import Protocol, Task

    parsed = Task.parse(task)
    if model in evaluation.BASELINES:
        protocol = Protocol.baseline(parsed)
    else:
        choices = {"routing": routing, "samples": samples, "seed": seed, "prompt_order": prompt_order}
        protocol = Protocol.official(
            parsed,
            tiling=int(tiles) if tiles.isdigit() else tiles,
            precision=precision,
            **choices,
            **({"lr_route": lr} if parsed.kind == "sr" else {}),
        )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(dataset: str, done: int, total: int, image: str) -> None:
            tasks.setdefault(dataset, bar.add_task(dataset, total=total) if dataset not in tasks else None)
            bar.update(tasks[dataset], completed=done)

        result = scoring.score(
            model,
            parsed,
            [name.strip() for name in sets.split(",") if name.strip()],
            protocol,
            weights=weights,
            network=network,
            data=data,
            images=images,
            save=save_images,
            store=open_store(results),
            backend=backend,
            device=choose_device(device),
            progress=progress,
        )
    write_json(json_, result.to_json())
    for line in result.lines():
        out.print(line)
    for reason in result.refused:
        err.print(f"not stored: {reason}")
    return 1 if result.refused else 0


@app.command()
def complexity(
    model: str,
    task: TaskName,
    output: Annotated[str, typer.Option(help="HEIGHTxWIDTH of the restored image")] = "720x1280",
    json_: Json = None,
) -> None:
    """Parameters, MACs by the paper's convention and by a clean count, scan FLOPs, by component."""
    from suites import cost
    from suites.spec import Task

    result = cost.complexity(model, Task.parse(task), cost.parse_size(output))
    write_json(json_, result)
    for line in cost.lines(result):
        out.print(line)


@app.command()
def restore(
    input_: Annotated[Path, typer.Argument(metavar="INPUT", help="a picture, or a folder of pictures")],
    output: Annotated[Path, typer.Argument(help="a picture, or a folder")],
    model: Annotated[str, typer.Option(help="a catalogue model")],
    weights: Annotated[Path, typer.Option(help=".pth or .safetensors")],
    task: TaskName = "sr-x2",
    tiles: Annotated[str, typer.Option(help="official, none, or a number in place of 200")] = "official",
    precision: Annotated[str, typer.Option(help="fp32, tf32, tf32x3 or bf16")] = "fp32",
    device: Device = None,
    backend: Backend = "auto",
) -> int:
    """Restores your own pictures: the input is taken as the degraded image itself."""
    from suites import restoration
    from suites.spec import Protocol, Task

    parsed = Task.parse(task)
    protocol = Protocol.official(parsed, tiling=int(tiles) if tiles.isdigit() else tiles, precision=precision)
    failed = 0
    for line, ok in restoration.restore_files(
        input_, output, model, parsed, weights, protocol, device=choose_device(device), backend=backend
    ):
        (out if ok else err).print(line)
        failed += not ok
    return 1 if failed else 0


@app.command("import")
def import_results(archive: Path, results: Results = STORE) -> int:
    """Merges results made on another machine (an archive or a folder) into the store."""
    report = open_store(results).import_archive(archive)
    for line in report.lines():
        out.print(line)
    return 0 if report.ok else 1


@app.command()
def verify(cell: str, device: Device = None, data: Data = None, results: Results = STORE) -> int:
    """Runs a stored cell (its hash or name) again: the same bits?"""
    from suites import verification

    result = verification.verify(cell, open_store(results), device=device, data=data, console=out)
    for line in result.lines():
        out.print(line)
    return 0 if result.ok else 1


@app.command()
def report(
    open_: Annotated[bool, typer.Option("--open", help="show it when it is written")] = False,
    results: Results = STORE,
) -> None:
    """Writes what the store holds as one Markdown page, report.md in the store."""
    from reports import page

    path = page.write(open_store(results))
    out.print(f"written: {path}")
    if open_:
        typer.launch(str(path))


@data_app.command("list")
def data_list(data: Data = None) -> None:
    """Datasets found and missing."""
    from suites.data import listing

    out.print(frame_text(listing(data)))


@data_app.command("check")
def data_check(data: Data = None) -> int:
    """Compares every image with the standard sets, by the hash of its decoded pixels."""
    from suites.data import check

    frame = check(data)
    odd = frame[frame["state"] != "ok"]
    out.print(frame_text(odd) if len(odd) else "every image is that of the standard set")
    out.print(f"{len(frame) - len(odd)} of {len(frame)} images are as they should be")
    return 1 if len(odd) else 0


@app.command()
def doctor() -> None:
    """Machine, versions, scan backends and why one is not available."""
    from suites import environment

    for name, value in environment.examine().items():
        out.print(f"{name:24} {value}")


if __name__ == "__main__":
    sys.exit(main())
