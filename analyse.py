"""`runner.py analyse NAME MODEL ...`: a command per analysis, all with the same way to say network, sets and store.

`runner.py --help` loads this module, as it does runner.py: nothing heavy is imported before a command runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from suites import commandline as cli
from suites.commandline import err, show

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, context_settings=cli.CONTEXT)


# Options stand several to a line, as in runner.py.
# fmt: off
@app.command()
def interventions(
    model: cli.Analysed, task: cli.TaskName, weights: cli.Weights, sets: cli.Sets, only: cli.Asked = None,
    own: cli.OwnInterventions = None, seeds: cli.Draws = "0,1,2", network: cli.OwnNetwork = None,
    arguments: cli.Arguments = None, images: cli.Images = None, tiles: cli.Tiles = None,
    precision: cli.Precision = None, jobs: cli.Workers = 1, device: cli.Device = None,
    backend: cli.Backend = "auto", json: cli.Json = None, data: cli.Data = cli.DATA, results: cli.Results = cli.STORE,
) -> int:
    """What a network loses when one part of it is changed: prompts, routing, order, scan, attention, single layers."""
    where = {"network": network, "arguments": arguments, "images": images, "tiles": tiles, "precision": precision}
    where |= {"jobs": jobs, "json": json}
    where |= {"device": device, "backend": backend, "data": data, "results": results}
    answers = ask("interventions", {"only": only, "file": own}, model, task, weights, sets, seeds, **where)
    from reports.tables.analyses import interventions as table
    found = table.compare(answers.records)
    show(table.lines(found))
    return finish(answers, json, table.to_json(found, answers.records))


@app.command()
def sgn(
    model: cli.Analysed, task: cli.TaskName, sets: cli.Sets, weights: cli.OptionalWeights = None,
    untrained: cli.Untrained = False, seeds: cli.Draws = "0", network: cli.OwnNetwork = None,
    arguments: cli.Arguments = None, images: cli.Images = None, tiles: cli.Tiles = None,
    precision: cli.Precision = None, jobs: cli.Workers = 1, device: cli.Device = None,
    backend: cli.Backend = "auto", json: cli.Json = None, data: cli.Data = cli.DATA, results: cli.Results = cli.STORE,
) -> int:
    """Which class pixels have, whether they keep it in another draw, and who follows whom in the sequence."""
    where = {"network": network, "arguments": arguments, "images": images, "tiles": tiles, "precision": precision}
    where |= {"jobs": jobs, "json": json}
    where |= {"device": device, "backend": backend, "data": data, "results": results, "untrained": untrained}
    return summarise(ask("classes.sgn", {}, model, task, weights, sets, seeds, **where), json)


@app.command()
def prompts(
    model: cli.Analysed, task: cli.TaskName, sets: cli.Sets, weights: cli.OptionalWeights = None,
    untrained: cli.Untrained = False, human: cli.Human = None, seeds: cli.Draws = "0", network: cli.OwnNetwork = None,
    arguments: cli.Arguments = None, images: cli.Images = None, tiles: cli.Tiles = None,
    precision: cli.Precision = None, jobs: cli.Workers = 1, device: cli.Device = None,
    backend: cli.Backend = "auto", json: cli.Json = None, data: cli.Data = cli.DATA, results: cli.Results = cli.STORE,
) -> int:
    """How prompts are used, what their classes group, how large they are and how much they have grown."""
    where = {"network": network, "arguments": arguments, "images": images, "tiles": tiles, "precision": precision}
    where |= {"jobs": jobs, "json": json}
    where |= {"device": device, "backend": backend, "data": data, "results": results, "untrained": untrained}
    return summarise(ask("classes.prompts", {"human": human}, model, task, weights, sets, seeds, **where), json)


def mechanism(name: str, doc: str) -> None:
    """Adds the command of an analysis that `reports.tables.analyses.mechanisms` sums up."""

    @app.command(name, help=doc)
    def command(
        model: cli.Analysed, task: cli.TaskName, sets: cli.Sets, weights: cli.OptionalWeights = None,
        untrained: cli.Untrained = False, only: cli.Changed = None, seeds: cli.Draws = "0",
        network: cli.OwnNetwork = None, arguments: cli.Arguments = None, images: cli.Images = None,
        tiles: cli.Tiles = None, precision: cli.Precision = None, jobs: cli.Workers = 1, device: cli.Device = None,
        backend: cli.Backend = "auto", json: cli.Json = None, data: cli.Data = cli.DATA,
        results: cli.Results = cli.STORE,
    ) -> int:
        from suites.spec import SpecError
        if only and name != "lam":
            raise SpecError(f"--only chooses interventions, under which {name} is not measured: it is for lam")
        where = {"network": network, "arguments": arguments, "images": images, "tiles": tiles, "precision": precision}
        where |= {"jobs": jobs}
        where |= {"device": device, "backend": backend, "data": data, "results": results, "untrained": untrained}
        options = {"only": only} if only else {}
        answers = ask(name, options, model, task, weights, sets, seeds, json=json, **where)
        from reports.tables.analyses import mechanisms
        show(mechanisms.lines(name, answers.records))
        return finish(answers, json, mechanisms.to_json(name, answers.records))


mechanism("lam", "Which pixels a window of the output comes from: local attribution maps and their diffusion index.")
mechanism("erf", "How far around the centre of the output looks: effective receptive fields of two procedures.")
mechanism("redundancy", "How alike the directions of a scan are, for networks with several.")
mechanism("seams", "What the seams between tiles cost in dB, by overlap and distance.")
mechanism("decay", "How much of a scan's output comes from k or more steps ago, sorted and in raster order.")


# fmt: on
def summarise(answers: Any, json: Path | None) -> int:
    """Shows what `sgn` or `prompts` found, and `finish`es."""
    from reports.tables.analyses import classes as table

    show(table.lines(answers.records))
    return finish(answers, json, table.to_json(answers.records))


def ask(
    analysis: str, options: Mapping[str, Any], model: str, task: str, weights: Path | None, sets: str, seeds: str, *,
    results: Path, untrained: bool = False, device: str | None = None, tiles: str | None = None,
    precision: str | None = None, network: Path | None = None, arguments: list[str] | None = None,
    backend: str = "auto", images: str | None = None, data: Path | None = None, jobs: int = 1, json: Path | None = None,
) -> Any:  # fmt: skip
    """What every command does: `suites.analysis.run.run` of what was typed, with a bar. Returns its `Answers`.

    analysis: a module of `suites.analysis` whose `analyses(network, **options)` are asked. Raises SpecError for what
    was typed wrong before PyTorch is loaded, which takes seconds.
    """
    from suites import degradation_file
    from suites.data import find_all
    from suites.network_file import given
    from suites.spec import Protocol, SpecError

    cli.check_model(model.partition(" ")[0], network)
    numbers = seed_numbers(seeds)
    if jobs < 1:
        raise SpecError(f"--jobs {jobs}: at least one process is needed")
    if (weights is None) != untrained:
        raise SpecError("give --weights FILE, or --untrained for the initial values of seed 0")
    parsed = degradation_file.task(task)
    protocol = Protocol.official(parsed, tiling=tiles, precision=precision)
    cli.check_writable(json)
    own = given(network, arguments)
    cli.check_readable(weights)
    names = [name.strip() for name in sets.split(",") if name.strip()]
    find_all(names, data)
    chosen_device = cli.device(device)

    from functools import partial
    from importlib import import_module

    from suites.analysis.run import run
    from suites.analysis.spec import Subject
    from suites.progress import ScoreBar

    make = partial(import_module(f"suites.analysis.{analysis}").analyses, **options)
    subject = Subject(model, parsed, weights, own, backend, chosen_device)
    chosen = {"seeds": numbers, "images": images, "data": data, "jobs": jobs}
    with ScoreBar(err, "measurements") as bar:
        return run(make, subject, names, protocol, store=cli.store(results), progress=bar, **chosen)


def seed_numbers(text: str) -> list[int]:
    """Of --seeds, each once. Raises SpecError for what is no whole number, or has more than 18 digits."""
    from suites.spec import SpecError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) <= 18 for part in parts):
        raise SpecError(f"--seeds {text}: give whole numbers by commas, such as 0,1,2")
    return list(dict.fromkeys(map(int, parts)))


def finish(answers: Any, json: Path | None, content: dict[str, Any]) -> int:
    """Says what was measured and stored, writes --json FILE, and raises what ended the measuring early.

    content: rows and images; the environment is added. Returns the exit status.
    """
    from suites.evaluation.scoring import machine_line

    show(f"note: {note}" for note in answers.notes)
    show([f"{answers.new} measurements made now, {answers.stored} stored before"])
    if answers.new:
        show([f"measured on {machine_line(answers.environment)}"])
    cli.save(json, {**content, "environment": answers.environment})
    if answers.stopped is not None:
        raise answers.stopped
    return 0
