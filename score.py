"""The commands of runner.py that score weights or use them on pictures: evaluate, compare, sweep, restore, perceptual.

`runner.py --help` loads this module, as it does runner.py: nothing heavy is imported before a command runs.
"""

import typer

from suites import commandline as cli
from suites.commandline import err, out, show

app = typer.Typer(rich_markup_mode=None, context_settings=cli.CONTEXT)


# Options stand several to a line, as in runner.py.
# fmt: off
@app.command()
def evaluate(
    model: str, task: cli.TaskName, sets: cli.Sets, weights: cli.OptionalWeights = None,
    network: cli.OwnNetwork = None, arguments: cli.Arguments = None,
    images: cli.Images = None, tiles: cli.Tiles = None, routing: cli.Routing = None, samples: cli.Samples = None,
    prompt_order: cli.PromptOrder = None, lr: cli.LrRoute = None, seed: cli.NoiseSeed = None,
    precision: cli.Precision = None, device: cli.Device = None, backend: cli.Backend = "auto",
    save_images: cli.SaveImages = None, as_official: cli.AsOfficial = False, again: cli.Again = False,
    json: cli.Json = None, data: cli.Data = cli.DATA, results: cli.Results = cli.STORE,
) -> int:
    """Scores weights, or a baseline (bicubic, identity), by the official protocol or a stated other one."""
    cli.check_model(model, network)
    from suites import degradation_file, network_file
    from suites.data import find_all
    from suites.spec import protocol_for
    parsed = degradation_file.task(task)
    choices = {"tiling": tiles, "samples": samples, "seed": seed, "precision": precision, "routing": routing}
    protocol = protocol_for(model, parsed, **choices, prompt_order=prompt_order, lr_route=lr)
    files = {"weights": weights, "network": network_file.given(network, arguments), "data": data}
    files |= {"images": images, "save": save_images}
    cli.check_readable(weights)
    cli.check_writable(json)
    names = [name.strip() for name in sets.split(",") if name.strip()]
    if data is not None:  # without it, what is wrong with the weights is told first
        find_all(names, data)
    where = {"backend": backend, "device": cli.device(device), "store": cli.store(results)}
    how = {**where, "again": again, "as_official": as_official}
    from suites.evaluation import scoring
    from suites.progress import ScoreBar
    with ScoreBar(err) as progress:
        result = scoring.score(model, parsed, names, protocol, progress=progress, **files, **how)
    show(result.lines())
    show((f"not stored: {reason}" for reason in result.refused), err)
    cli.save(json, result.to_json())
    if result.stopped:
        raise result.stopped
    return 1 if result.refused else 0


@app.command()
def compare(
    a: cli.Compared, b: cli.Compared, sets: cli.ComparedSets = None, task: cli.ComparedTask = None,
    network: cli.ClassFile = None, arguments: cli.Arguments = None, crops: cli.Crops = None,
    device: cli.Device = None, json: cli.Json = None, data: cli.Data = cli.DATA, results: cli.Results = cli.STORE,
) -> None:
    """Weights A against weights B, paired by image: differences, intervals, verdicts, and a sentence."""
    from suites import degradation_file, network_file
    parsed = task and degradation_file.task(task)
    cli.check_writable(json)
    from reports.tables import compare as comparing
    from results.evidence import Evidence
    from suites.evaluation import lookup
    from suites.progress import ScoreBar
    from suites.spec import Task
    store, names, own = cli.store(results), sets.split(",") if sets else [], network_file.only_class(network, arguments)
    sides = {name: lookup.Named(text, own) for name, text in (("A", a), ("B", b))}
    with ScoreBar(err) as progress:
        how = {"device": device, "data": data, "progress": progress}
        words = [lookup.words(side, store, task, names, **how) for side in sides.values()]
    found = comparing.compare(Evidence(store), *words, sets=names, task=parsed and parsed.name)
    if crops:
        what = found.most(), found.scored_by(), parsed or Task.parse(found.task)
        made = lookup.write_crops(crops, sides, *what, device=cli.device(device), data=data)
        show(f"written: {path}" for path in made)
    show(found.lines())
    cli.save(json, found.to_json())


@app.command()
def sweep(
    model: str, weights: cli.ScaledWeights, sets: cli.Sets, only: cli.Points = None, jobs: cli.Processes = 1,
    device: cli.Device = None, data: cli.Data = cli.DATA, results: cli.Results = cli.STORE,
) -> int:
    """Scores given weights under the official protocol and under variations of it, one change at a time."""
    from suites.evaluation import sweep as sweeping
    where = {"device": cli.device(device), "data": data, "results": results, "jobs": jobs}
    return int(sweeping.sweep(model, weights, sets.split(","), only, say=out.print, **where) > 0)


@app.command()
def restore(
    source: cli.Source, target: cli.Target, weights: cli.Weights, model: cli.Model = None,
    network: cli.OwnNetwork = None, arguments: cli.Arguments = None,
    task: cli.TaskName = "sr-x2", tiles: cli.Tiles = None, routing: cli.Routing = None, samples: cli.Samples = None,
    seed: cli.NoiseSeed = None, precision: cli.Precision = None, overwrite: cli.MayReplace = False,
    device: cli.Device = None, backend: cli.Backend = "auto", json: cli.Json = None,
) -> int:
    """Restores your own pictures: each is taken as the degraded image itself."""
    cli.check_model(model, network)
    from suites import degradation_file, network_file
    from suites.data import DataError
    from suites.evaluation import picture_files
    from suites.spec import protocol_for
    parsed = degradation_file.task(task)
    choices = {"tiling": tiles, "routing": routing, "samples": samples, "seed": seed, "precision": precision}
    protocol = protocol_for(model or "", parsed, **choices)
    cli.check_readable(weights)
    picture_files.plan(source, target, overwrite)
    if json and json.is_dir():
        raise DataError(f"{json} is a folder: --json names the file that is written")
    if json:
        picture_files.check_writable(json.parent, "--json FILE")
    where = {"device": cli.device(device), "backend": backend, "network": network_file.given(network, arguments)}
    import models
    from results.records import now
    from suites import environment
    from suites.evaluation import restoration
    from suites.progress import TileBar
    with TileBar(err) as bar:
        how = {**where, "overwrite": overwrite, "say": out.print, "progress": bar}
        if not json:
            return int(restoration.restore(source, target, model, parsed, weights, protocol, **how) > 0)
        rows, started = [], now()
        try:
            failed = restoration.restore(source, target, model, parsed, weights, protocol, **how, spent=rows.append)
        finally:  # what was restored before an error or Ctrl-C is filed as well
            if rows:
                named = {"model": model or str(network), "task": parsed.name, "tiling": protocol.tiling}
                named |= {"weights": models.weights_hash(weights)}
                told = environment.describe(where["device"], restoration.backends(rows))
                told |= {"command": environment.command(), "started": started}
                cli.save(json, {"rows": [named | row for row in rows], "environment": told})
        if not rows:
            show([f"{json} is not written: no picture was restored"], err)
    return int(failed > 0)


@app.command()
def perceptual(
    folder: cli.RestoredFolder, sets: cli.Sets, task: cli.TaskName, metrics: cli.Metrics = "lpips,dists",
    device: cli.Device = None, json: cli.Json = None, data: cli.Data = cli.DATA,
) -> None:
    """LPIPS and DISTS of the pictures that `evaluate --save-images` wrote; beside the protocol, in no table."""
    from suites import degradation_file
    from suites import perceptual as module
    from suites.progress import ScoreBar
    names = metrics.split(",")
    with ScoreBar(err) as bar:
        where = {"device": cli.device(device), "data": data, "progress": bar}
        rows = module.measure(folder, sets.split(","), degradation_file.task(task), names, **where)
    found = module.means(rows, names)
    show(cli.text_table([{**row, **{name: f"{row[name]:.4f}" for name in names}} for row in found]))
    cli.save(json, {"rows": found, "images": rows})
