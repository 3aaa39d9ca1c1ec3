"""Scores of given weights under the official protocol and what could stand in its place, one change at a time.

    python -m suites.evaluation.sweep MODEL SCALE=WEIGHTS ... --data DATA --sets set5,set14 [--results R] [--only NAMES]
        [--jobs N]

Every point is one record of the store per set; what the store holds already is not scored again, so a run that was
stopped, or a set that was missing, is taken up by the same command. Points are shared out to `jobs` processes, which
share the GPU: single images leave most of it idle.
"""

import argparse
import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
from results.store import Store
from suites import environment
from suites.commandline import add_data, guard
from suites.data import DataError, find
from suites.evaluation.scoring import score
from suites.spec import Protocol, SpecError, Task

SEEDS = range(5)
PRECISIONS = ("tf32x3", "tf32", "bf16")  # beside fp32


def points(task: Task) -> dict[str, Protocol]:
    """Name -> protocol. seed-0 is the official point; every other differs from it in what its name says."""
    official = Protocol.official(task)
    made = {f"seed-{seed}": replace(official, seed=seed) for seed in SEEDS}
    routings = {"gumbel": {}, "mean-8": {"samples": 8}, "argmax": {"routing": "argmax"}}
    for (routing, changes), tiling in itertools.product(routings.items(), ("official", "none")):
        if (routing, tiling) != ("gumbel", "official"):
            made[f"{routing}/tiles-{tiling}"] = replace(official, tiling=tiling, **changes)
    made |= {f"lr-{route}": replace(official, lr_route=route) for route in ("once", "pil")}
    made["semantic"] = replace(official, prompt_order="semantic")
    return made | {name: replace(official, precision=name) for name in PRECISIONS}


def run(name: str, task: Task, dataset: str, protocol: Protocol, options: dict[str, Any]) -> list[str]:
    """Scores one point on one set into the store. Returns what to print."""
    store = Store(options["results"])
    found = score(
        name,
        task,
        [dataset],
        protocol,
        weights=options["weights"],
        data=options["data"],
        store=store,
        device=options["device"],
    )
    if found.stopped is not None:
        raise found.stopped
    return [*found.lines()[: len(found.rows)], *found.refused, *found.notes]


def held(store: Store, name: str, weights: str, task: Task, dataset: str, protocol: Protocol) -> bool:
    """Whether the store has every image of the set at this point, of weights of this hash."""
    frame = store.evaluations()
    frame = frame[frame["complete"].eq(True) & frame["problem"].isna()]
    wanted = {"model": name, "weights": weights, "task": task.name, "dataset": dataset}
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return any(found == protocol.to_dict() for found in frame["protocol"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m suites.evaluation.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("weights", nargs="+", metavar="SCALE=WEIGHTS")
    add_data(parser)
    parser.add_argument("--sets", required=True)
    parser.add_argument("--results", type=Path, default=Path("results/runs"))
    parser.add_argument("--only", help="names of points, by commas; all")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--device")
    options = parser.parse_args()
    device, store, jobs = environment.choose_device(options.device), Store(options.results), []
    impossible = () if options.only else tuple(name for name in PRECISIONS if models.unsupported(name, device))
    for name in impossible:
        print(f"left out: {name}, {models.unsupported(name, device)}", flush=True)
    for pair in options.weights:
        scale, _, path = pair.partition("=")
        if scale not in ("2", "3", "4") or not Path(path).is_file():
            parser.error(f"{pair!r} is not SCALE=WEIGHTS with a scale of 2, 3 or 4 and a file that exists")
        task = Task("sr", int(scale))
        chosen = {name: protocol for name, protocol in points(task).items() if protocol.precision not in impossible}
        names = options.only.split(",") if options.only else list(chosen)
        try:
            weights = models.weights_hash(Path(path))
            datasets = [find(name, options.data).name for name in options.sets.split(",")]
        except (models.ModelError, DataError, SpecError) as error:
            parser.error(str(error))
        if unknown := set(names) - set(chosen):
            parser.error(f"no point {', '.join(sorted(unknown))}: choose from {', '.join(chosen)}")
        for dataset, name in itertools.product(datasets, names):
            if not held(store, options.model, weights, task, dataset, chosen[name]):
                more = {"weights": Path(path), "data": options.data, "results": options.results, "device": device}
                jobs.append((name, (options.model, task, dataset, chosen[name], more)))
    context, failed = multiprocessing.get_context("spawn"), 0
    with ProcessPoolExecutor(options.jobs, mp_context=context) as workers:
        running = {workers.submit(run, *arguments): (name, arguments[1].name) for name, arguments in jobs}
        for count, future in enumerate(as_completed(running), 1):
            name, task_name = running[future]
            try:
                lines = future.result()
            except Exception as error:  # the other points are not lost
                lines, failed = [f"failed: {str(error).splitlines()[0]}"], failed + 1
            for line in lines:
                print(f"[{count}/{len(jobs)}] {task_name} {name:22} {line}", flush=True)
    if failed:
        raise SystemExit(f"error: {failed} of {len(jobs)} points failed; the same command tries only those again")


if __name__ == "__main__":
    guard(main)
