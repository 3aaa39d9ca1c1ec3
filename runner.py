#!/usr/bin/env python3
"""Measure MambaIRv2 the way the paper does: train, evaluate, compare with what was published.

Exit status: 0 done; 1 something that was asked for failed (a cell, a check); 2 a mistake in what was asked.
"""

import math
import sys
from functools import partial
from pathlib import Path

import typer

import analyse
import score
from suites import commandline as cli
from suites.commandline import ended, err, out, show

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, context_settings=cli.CONTEXT, help=__doc__)
app.add_typer(analyse.app, name="analyse", help="What trained weights use: one thing changed, or a mechanism shown.")
app.add_typer(score.app)
main = partial(cli.main, app)


@app.callback(invoke_without_command=True)
def start(context: typer.Context, version: cli.Version = False) -> None:
    cli.start(context, version)


# Options stand several to a line, and what a command needs is imported when it is called: help must not wait for torch.
# fmt: off
@app.command("list")
def list_everything(data: cli.Data = cli.DATA) -> None:
    """Suites, models, datasets found and missing, tables."""
    show(cli.list_lines(data))


@app.command()
def run(
    suite: cli.SuiteName = None, options: cli.OptionFile = None, only: cli.Only = None, base: cli.WithBase = True,
    changes: cli.Changes = None, seeds: cli.Seeds = None, budget: cli.BudgetName = None, device: cli.Device = None,
    gpus: cli.Gpus = None, deterministic: cli.Deterministic = False, launch: cli.Launcher = "local",
    jobs: cli.Jobs = None, concurrent: cli.Concurrent = 1, scorers: cli.Scorers = 0, seconds: cli.Seconds = math.inf,
    warm: cli.Warm = 0, processes: cli.PerCell = 1, sums: cli.Sums = "in-order", hung_after: cli.HungAfter = 6 * 3600.0,
    backend: cli.Backend = "auto", init: cli.Init = None, init_new: cli.InitNew = None,
    init_without: cli.InitWithout = None, task: cli.OtherTask = None, network: cli.ClassFile = None,
    vary: cli.Vary = None, dry_run: cli.DryRun = False, data: cli.Data = cli.DATA, results: cli.Results = cli.STORE,
) -> int:
    """Trains, evaluates and stores every cell of a suite; finished cells are skipped. With --network: its bases, and a
    class of yours beside them."""
    from suites import degradation_file, recipes
    own, changes = recipes.own.separate(network, changes or [])
    cli.check_readable(init)
    which = {"only": only, "base": base, "changes": changes, "seeds": seeds, "budget": budget, "file": options}
    start = {"init": init, "new": init_new, "without": init_without, "task": task and degradation_file.task(task)}
    chosen = recipes.choose(suite, **which, **start, network=own, variations=vary or [])
    store, device, file = cli.store(results), cli.device(device), own and own.path
    if dry_run:
        from suites.planning import dryrun
        show(dryrun.check_and_describe(chosen, store, backend, device, data, init, file, gpus, concurrent))
        return 0
    from suites.execution import engine
    show(chosen.notes)
    how = {"backend": backend, "deterministic": deterministic, "jobs": jobs, "gpus": gpus, "launch": launch}
    how |= {"concurrent": concurrent, "scorers": scorers, "seconds": seconds, "warm": warm, "init": init}
    how |= {"processes": processes, "sums": sums, "hung": hung_after}
    status = ended(engine.run(chosen, store, device=device, data=data, own=file, console=out, **how))
    if own:
        from reports.tables import answer
        from results.evidence import Evidence
        show(answer.lines(Evidence(store), chosen.name, *recipes.own.pair(chosen)))
    return status


def of_one_suite(suite: str, at_a_time: int, scoring: int, doc: str) -> None:
    """Adds a command that runs one suite: several cells at a time on one GPU, scored meanwhile."""
    @app.command(suite, help=doc)
    def command(
        budget: cli.BudgetName = None, seeds: cli.Seeds = None, changes: cli.Changes = None,
        concurrent: cli.Concurrent = at_a_time, scorers: cli.Scorers = scoring, seconds: cli.Seconds = math.inf,
        device: cli.Device = None, dry_run: cli.DryRun = False, data: cli.Data = cli.DATA,
        results: cli.Results = cli.STORE,
    ) -> int:
        chosen = {"budget": budget, "seeds": seeds, "changes": changes, "device": device, "data": data}
        limits = {"concurrent": concurrent, "scorers": scorers, "seconds": seconds, "deterministic": True}
        return run(suite, **chosen, **limits, dry_run=dry_run, results=results)


of_one_suite("pilot", 4, 6, "`run pilot`, four cells at a time: what ablations cost, and how much scores scatter.")
of_one_suite("curve", 3, 3, "`run curve`, three seeds at a time: to compare with the official code's learning curve.")


@app.command()
def tables(
    names: cli.TableNames = None, format_: cli.Format = "md", documents: cli.Documents = False,
    results: cli.Results = cli.STORE,
) -> None:
    """Tables: published, measured, difference, interval, verdict. Without a name, which there are."""
    if documents:
        from reports.pages import documents as pages
        return show(pages.write())
    from reports.tables import index, render, terminal
    from results.evidence import Evidence
    from suites.progress import ScoreBar
    evidence = Evidence(cli.stored(results))
    if names == ["claims"]:
        from reports.pages import report as pages
        return show(pages.claims_text(evidence))
    if not names:
        listed = render.index([(name, index.caption(name)) for name in index.names(evidence)])
        told = "`runner.py tables NAME` prints one, `tables all` every one."
        return print(terminal.fit(f"{listed}\n{told}\n", terminal.columns()), end="")
    whole = names == [index.ALL]
    chosen = index.names(evidence) if whole else names
    frames = []
    with ScoreBar(err, "made") as bar:
        for done, name in enumerate(chosen):
            bar("tables", done, len(chosen), name)
            frames.append((index.table(name, evidence), index.caption(name)))
    text = render.render_all(frames, format_, contents=whole)
    print(terminal.fit(text, terminal.columns()) if format_ == "md" else text)
    show((f"left out: {problem}" for problem in index.problems(evidence)), err)


@app.command()
def complexity(
    model: cli.Variant = None, task: cli.OptionalTask = None, output: cli.OutputSize = "720x1280",
    network: cli.ClassFile = None, arguments: cli.Arguments = None, count_all: cli.CountAll = False,
    swept: cli.CountSwept = False, json: cli.Json = None,
) -> None:
    """Parameters, MACs by the paper's convention and by a clean count, scan FLOPs, each by component."""
    from suites import degradation_file, network_file
    from suites.benchmark import parse_size
    parsed, size = degradation_file.task(task or "sr-x2"), parse_size(output, "the restored image")
    cli.check_model(model and model.partition(" ")[0], None)
    cli.check_writable(json)
    from suites.benchmark import cost
    if count_all:
        return cost.count_published(model, show)
    if swept:
        from suites.benchmark.sweep import counting
        return counting.count(model, show)
    result = cost.of_variant(model, parsed, size, network_file.only_class(network, arguments))
    cli.save(json, result)
    show(cost.lines(result))


@app.command()
def profile(
    models: cli.Variants = None, sizes: cli.Sizes = None, mode: cli.Modes = None, batch: cli.Batches = None,
    precision: cli.Precisions = None, backends: cli.Backends = None, launch: cli.LaunchModes = None,
    task: cli.OptionalTask = None, routing: cli.Routing = None, network: cli.ClassFile = None,
    arguments: cli.Arguments = None, preset: cli.Preset = None, rounds: cli.Rounds = 20, gpus: cli.SweptGpus = None,
    seconds: cli.SweptSeconds = math.inf, limit: cli.PointLimit = None, device: cli.Device = None,
    json: cli.Json = None, results: cli.Results = cli.STORE,
) -> int:
    """Time and memory of every combination of the lists given, taking turns; ratios are to the first."""
    from suites import network_file
    from suites.benchmark import PRESETS, SWEEPS, parse_size
    from suites.spec import check_choice
    if preset is not None:
        check_choice("preset", preset, (*PRESETS, *SWEEPS))
    for name in models.split(",") if models and preset is None else ():
        cli.check_model(name.split()[0] if name.split() else None, None)
    for size in sizes.split(",") if sizes and preset is None else ():
        parse_size(size.strip(), "the network's input")
    device = cli.device(device)
    if preset in SWEEPS:
        from suites.benchmark.sweep import command as sweeping
        how = {"only": models, "gpus": gpus, "seconds": seconds, "limit": limit, "say": err.print}
        swept = sweeping.run(preset, results, device, **how)
        show(swept.lines())
        return int(not swept.ok)
    lists = {"sizes": sizes, "modes": mode, "batches": batch, "precisions": precision, "backends": backends}
    lists |= {"launches": launch, "routing": routing, "own": network_file.only_class(network, arguments)}
    from reports.pages import profile as page
    from reports.tables import terminal
    from suites.benchmark import presets, profiling, progress
    plans = presets.choose(preset, models, task, **lists, rounds=rounds, device=device)
    with progress.ProfileBar(err) as bar:
        result = profiling.run(plans, bar, lambda found: cli.save(json, found))
    show([terminal.fit(page.markdown(result), terminal.columns())])
    return int(profiling.is_wrong(result))


@app.command()
def breakdown(file: cli.JsonTarget, only: cli.OnlyNames = None, calls: cli.Calls = 5, device: cli.Device = None) -> int:
    """Where the time of a network goes: the GPU's kernels within one call, for what `profile --preset goals` times."""
    from suites.benchmark import breakdown
    return int(not breakdown.run(file, cli.device(device), only=only, calls=calls, say=out.print))


@app.command("import")
def import_results(archive: Path, results: cli.Results = cli.STORE) -> int:
    """Merges results made on another machine (an archive or a folder) into the store."""
    from results.archive import import_into
    return ended(import_into(cli.store(results), archive))


@app.command()
def export(
    store: cli.StoreFolder, name: cli.ExportName, command: cli.MadeBy = None, finished: cli.MadeWhen = None) -> None:
    """Commits what a store holds: scores, keys and environments as files under results/measured."""
    from results import export as exporting
    from suites import environment
    show(exporting.export(cli.store(store), name, environment.command(), {"command": command, "finished": finished}))


@app.command()
def verify(
    cell: str, network: cli.ClassFile = None, task: cli.CellTask = None, device: cli.Device = None,
    exact: cli.Exact = False, data: cli.Data = cli.DATA, results: cli.Results = cli.STORE,
) -> int:
    """Runs a stored cell (its hash or name) again: the same bits?"""
    from suites import degradation_file, network_file
    from suites.execution import verification
    own = network_file.only_class(network)
    where = {"device": device, "data": data, "own": own, "task": task and degradation_file.task(task)}
    return ended(verification.verify(cell, cli.store(results), **where, exact=exact, console=out))


@app.command()
def figures(
    name: cli.FigureName = "", format_: cli.FigureFormat = "png", documents: cli.DrawnDocuments = False,
    results: cli.Results = cli.STORE,
) -> None:
    """Draws a figure of what is committed and stored into the current folder."""
    if documents:
        from reports.pages import documents as pages
        return show(pages.draw_all())
    from reports.figures import index
    from results.evidence import Evidence
    cli.written(index.draw(name, Path.cwd(), format_, Evidence(cli.stored(results))))


@app.command()
def report(
    open_: cli.Open = False, format_: cli.ReportFormat = "html", results: cli.Results = cli.STORE) -> None:
    """Writes what is stored and committed as one page, report.html (or .md, .tex) in the store."""
    from reports.pages import report as page
    from suites.progress import ScoreBar
    with ScoreBar(err, "made") as bar:
        path = page.write(cli.stored(results), format_, bar)
    cli.written(path, open_)


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
