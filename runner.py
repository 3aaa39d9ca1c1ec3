"""Measure MambaIRv2 the way the paper does: train, evaluate, compare with what was published.

Exit status: 0 done; 1 something that was asked for failed (a cell, a check); 2 a mistake in what was asked.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from typer import Option

from reports.pages import profile as profiled
from reports.pages import report as page
from reports.tables import index as drawn
from reports.tables import render
from results.archive import import_into
from results.evidence import Evidence
from results.store import Store
from suites import commandline as cli
from suites.execution import engine, verification
from suites.progress import ScoreBar
from suites.spec import Protocol, Task

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__)
out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(soft_wrap=True, highlight=False, markup=False, stderr=True)


def main() -> int:
    """Runs the command line; every mistake that was foreseen is one line on stderr."""
    try:
        return app(standalone_mode=False) or 0  # 130 after Ctrl-C
    except Exception as error:
        if (message := cli.explain(error)) is None:
            raise  # a bug, shown in full
    err.print(f"error: {message}")
    return 2


def show(lines: Iterable[str]) -> None:
    out.print(*lines, sep="\n")


@app.command("list")
def list_everything(data: cli.Data = cli.DATA, results: cli.Results = cli.STORE) -> None:
    """Suites, models, datasets found and missing, tables."""
    import models
    from suites.recipes import SUITES

    show(["suites:", *(f"  {name:16} {recipe.__doc__.splitlines()[0]}" for name, recipe in SUITES.items())])
    show([f"models: {', '.join(models.names())}; baselines bicubic, identity"])
    show(["datasets:", *cli.data_lines("list", data)[0], f"tables: {', '.join(drawn.names(Evidence(Store(results))))}"])


@app.command()
def run(
    suite: str,
    only: Annotated[str | None, Option(help="glob of cell names: variant/task/seed-N")] = None,
    changes: Annotated[list[str] | None, Option("--set", help="KEY=VALUE of budget, protocol or network")] = None,
    seeds: Annotated[str | None, Option(help="0,1,2")] = None,
    budget: Annotated[str | None, Option(help="smoke, reduced or paper")] = None,
    device: cli.Device = None,
    gpus: Annotated[int | None, Option(help="spread the cells over this many GPUs")] = None,
    deterministic: Annotated[bool, Option("--deterministic", help="the same bits on the same machine")] = False,
    launch: Annotated[str, Option(help="local or submitit")] = "local",
    jobs: Annotated[int | None, Option(help="cells at a time")] = None,
    backend: cli.Backend = "auto",
    dry_run: Annotated[bool, Option("--dry-run", help="the cells and their cost; nothing runs")] = False,
    data: cli.Data = cli.DATA,
    results: cli.Results = cli.STORE,
) -> int:
    """Trains, evaluates and stores every cell of a suite; finished cells are skipped."""
    from suites import environment, recipes
    from suites.execution import preflight

    chosen = recipes.choose(suite, only=only, changes=changes or [], seeds=seeds, budget=budget)
    store, device = Store(results), environment.choose_device(device)
    if dry_run:
        obstacles = preflight.obstacles(chosen.cells, backend, device, data)
        show(recipes.describe(chosen, store, device, obstacles))
        return 0
    options = {"backend": backend, "deterministic": deterministic, "jobs": jobs, "gpus": gpus, "launch": launch}
    outcome = engine.run(chosen, store, device=device, data=data, console=out, **options)
    show(outcome.lines())
    return 0 if outcome.ok else 1


@app.command()
def tables(
    names: Annotated[list[str] | None, typer.Argument(help="all when none is given; `list` names them")] = None,
    format_: Annotated[str, Option("--format", help="md, csv or tex")] = "md",
    results: cli.Results = cli.STORE,
) -> None:
    """Every table: published, measured, difference, interval, verdict."""
    evidence = Evidence(Store(results))
    frames = [(drawn.table(name, evidence), drawn.caption(name)) for name in names or drawn.names(evidence)]
    print(render.render_all(frames, format_))
    for problem in drawn.problems(evidence):
        err.print(f"left out: {problem}")


@app.command()
def evaluate(
    model: str,
    task: cli.TaskName,
    sets: Annotated[str, Option(help="Set5,Set14,...")],
    weights: Annotated[Path | None, Option(help=".pth or .safetensors")] = None,
    network: Annotated[Path | None, Option(help="official option file whose network_g to build")] = None,
    images: Annotated[str | None, Option(help="glob of stems")] = None,
    tiles: Annotated[str | None, Option(help="official, none, or a number in place of 200")] = None,
    routing: Annotated[str | None, Option(help="gumbel (as the official code) or argmax")] = None,
    samples: Annotated[int | None, Option(help="draws of the routing noise to average over; 1")] = None,
    prompt_order: Annotated[str | None, Option(help="raster (as the official code) or semantic (paper)")] = None,
    lr: Annotated[str | None, Option(help="how the LR image is made: matlab, once or pil")] = None,
    seed: Annotated[int | None, Option(help="of the routing noise; 0")] = None,
    precision: Annotated[str | None, Option(help="fp32, tf32, tf32x3 or bf16")] = None,
    device: cli.Device = None,
    backend: cli.Backend = "auto",
    save_images: Annotated[Path | None, Option(help="folder for the restored images")] = None,
    json: cli.Json = None,
    data: cli.Data = cli.DATA,
    results: cli.Results = cli.STORE,
) -> int:
    """Scores weights, or a baseline (bicubic, identity), by the official protocol or a stated other one."""
    from suites import environment
    from suites.evaluation import scoring

    parsed, route = Task.parse(task), {"routing": routing, "prompt_order": prompt_order, "lr_route": lr}
    choices = {"tiling": tiles, "samples": samples, "seed": seed, "precision": precision, **route}
    protocol = scoring.protocol_for(model, parsed, **choices)
    files = {"weights": weights, "network": network, "data": data, "images": images, "save": save_images}
    where = {"backend": backend, "device": environment.choose_device(device), "store": Store(results)}
    with ScoreBar(err) as progress:
        result = scoring.score(model, parsed, sets.split(","), protocol, progress=progress, **files, **where)
    show(result.lines())
    for reason in result.refused:
        err.print(f"not stored: {reason}")
    cli.save(json, result.to_json())
    if result.stopped:
        raise result.stopped
    return 1 if result.refused else 0


@app.command()
def complexity(
    model: str,
    task: cli.TaskName,
    output: Annotated[str, Option(help="HEIGHTxWIDTH of the restored image")] = "720x1280",
    json: cli.Json = None,
) -> None:
    """Parameters, MACs by the paper's convention and by a clean count, scan FLOPs, each by component."""
    from suites.benchmark import cost

    result = cost.complexity(model, Task.parse(task), cost.parse_size(output))
    cli.save(json, result)
    show(cost.lines(result))


@app.command()
def profile(
    models: Annotated[str | None, Option(help="A,B; overrides after a name: 'mambairv2-light scans=2'")] = None,
    sizes: Annotated[str | None, Option(help="HEIGHTxWIDTH of the input, several for a sweep; 64x64")] = None,
    mode: Annotated[str | None, Option(help="inference, training or both; inference")] = None,
    batch: Annotated[str | None, Option(help="such as 1,8; 1")] = None,
    precision: Annotated[str | None, Option(help="of fp32, tf32, tf32x3, bf16; fp32")] = None,
    backends: Annotated[str | None, Option(help="scan backends, auto, all that run here, mamba_ssm; auto")] = None,
    launch: Annotated[str | None, Option(help="of eager, compiled, graph (one CUDA graph); eager")] = None,
    task: Annotated[str | None, Option(help="sr-x2, denoise-15, jpeg-10, ...; sr-x2")] = None,
    routing: Annotated[str | None, Option(help="gumbel or argmax; gumbel")] = None,
    preset: Annotated[str | None, Option(help="goals: what docs/performance.md shows, in place of all lists")] = None,
    rounds: Annotated[int, Option(help="times that every candidate is timed")] = 20,
    device: cli.Device = None,
    json: cli.Json = None,
) -> int:
    """Time and memory of every combination of the lists given, taking turns; ratios are to the first."""
    from suites import environment
    from suites.benchmark import presets, profiling

    lists = {"sizes": sizes, "modes": mode, "batches": batch, "precisions": precision, "backends": backends}
    lists |= {"launches": launch, "routing": routing}
    plans = presets.choose(preset, models, task, **lists, rounds=rounds, device=environment.choose_device(device))
    with profiling.ProfileBar(err) as progress:
        result = profiling.run(plans, progress, lambda found: cli.save(json, found))
    show([profiled.markdown(result)])
    return int(profiling.is_wrong(result))


@app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="a picture, or a folder of pictures")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="a picture, or a folder")],
    model: Annotated[str, Option(help="a catalogue model")],
    weights: Annotated[Path, Option(help=".pth or .safetensors")],
    task: cli.TaskName = "sr-x2",
    tiles: cli.Tiles = "official",
    precision: cli.Precision = "fp32",
    device: cli.Device = None,
    backend: cli.Backend = "auto",
) -> int:
    """Restores your own pictures: each is taken as the degraded image itself."""
    from suites import environment
    from suites.evaluation import restoration

    protocol = Protocol.official(Task.parse(task), tiling=tiles, precision=precision)
    where = {"device": environment.choose_device(device), "backend": backend, "console": out}
    return int(restoration.restore(source, target, model, Task.parse(task), weights, protocol, **where) > 0)


@app.command("import")
def import_results(archive: Path, results: cli.Results = cli.STORE) -> int:
    """Merges results made on another machine (an archive or a folder) into the store."""
    merged = import_into(Store(results), archive)
    show(merged.lines())
    return 0 if merged.ok else 1


@app.command()
def verify(cell: str, device: cli.Device = None, data: cli.Data = cli.DATA, results: cli.Results = cli.STORE) -> int:
    """Runs a stored cell (its hash or name) again: the same bits?"""
    result = verification.verify(cell, Store(results), device=device, data=data, console=out)
    show(result.lines())
    return 0 if result.ok else 1


@app.command()
def report(open_: cli.Open = False, results: cli.Results = cli.STORE) -> None:
    """Writes what the store holds as one Markdown page, report.md in the store."""
    path = page.write(Store(results))
    out.print(f"written: {path}")
    if open_:
        typer.launch(str(path))


@app.command("data")
def inspect_data(action: cli.Action = "list", data: cli.Data = cli.DATA) -> int:
    """Datasets found and missing (list); whether they are the standard ones, by hash of decoded pixels (check)."""
    lines, ok = cli.data_lines(action, data)
    show(lines)
    return int(not ok)


@app.command()
def doctor() -> None:
    """Machine, versions, scan backends and why one is not available."""
    from suites import environment

    show(f"{name:24} {value}" for name, value in environment.examine().items())


if __name__ == "__main__":
    sys.exit(main())
