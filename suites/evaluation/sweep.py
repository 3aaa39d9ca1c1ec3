"""Scores of given weights under the official protocol and what could stand in its place, one change at a time.

    runner.py sweep MODEL SCALE=WEIGHTS ... --sets set5,set14

Every point is one record of the store per set; what the store holds already is not scored again, so a run that was
stopped, or a set that was missing, is taken up by the same command. Points are shared out to `jobs` processes, which
share the GPU: single images leave most of it idle.
"""

import itertools
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
from results.store import Store, StoreError
from suites.data import find_all
from suites.evaluation.scoring import score
from suites.spec import Protocol, SpecError, Task, check_choice

SEEDS = range(5)
PRECISIONS = ("tf32x3", "tf32", "bf16")  # and fp32


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
    """Scores one point on one set into the store. Returns what to print. Raises StoreError where it is not stored."""
    store = Store(options["results"])
    where = {name: options[name] for name in ("weights", "data", "device")}
    found = score(name, task, [dataset], protocol, store=store, **where)
    if found.stopped is not None:
        raise found.stopped
    if found.refused:
        raise StoreError(f"not stored: {found.refused[0]}")
    return [*found.lines()[: len(found.rows)], *found.notes]


def held(store: Store, name: str, weights: str, task: Task, dataset: str, protocol: Protocol) -> bool:
    """Whether the store has every image of the set at this point, of weights of this hash."""
    frame = store.evaluations()
    frame = frame[frame["complete"].eq(True) & frame["problem"].isna()]
    wanted = {"model": name, "weights": weights, "task": task.name, "dataset": dataset}
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return any(found == protocol.to_dict() for found in frame["protocol"])


def sweep(
    model: str,
    weights: Sequence[str],
    sets: Sequence[str],
    only: str | None = None,
    *,
    data: Path | None,
    results: Path,
    device: str,
    jobs: int = 1,
    say: Callable[[str], None] = print,
) -> int:
    """Scores every point of every SCALE=WEIGHTS on every set, `jobs` at a time. Returns how many failed.

    only: names of points by commas; all. say: called with each line to print. Raises SpecError, DataError or ModelError
    for what is wrong before the first point.
    """
    check_choice("model", model, tuple(models.names()))
    if jobs < 1:
        raise SpecError(f"--jobs {jobs}: at least one point at a time is needed")
    store, tasks = Store(results), []
    impossible = () if only else tuple(name for name in PRECISIONS if models.unsupported(name, device))
    for name in impossible:
        say(f"left out: {name}, {models.unsupported(name, device)}")
    datasets = [dataset.name for dataset in find_all(sets, data)]
    for pair in weights:
        scale, _, path = pair.partition("=")
        if scale not in ("2", "3", "4") or not Path(path).is_file():
            raise SpecError(f"{pair!r} is not SCALE=WEIGHTS with a scale of 2, 3 or 4 and a file that exists")
        task, digest = Task("sr", int(scale)), models.weights_hash(Path(path))
        chosen = {name: protocol for name, protocol in points(task).items() if protocol.precision not in impossible}
        names = only.split(",") if only else list(chosen)
        for name in names:
            check_choice("point", name, tuple(chosen))
        for dataset, name in itertools.product(datasets, names):
            if not held(store, model, digest, task, dataset, chosen[name]):
                options = {"weights": Path(path), "data": data, "results": results, "device": device}
                tasks.append((name, (model, task, dataset, chosen[name], options)))
    failed = 0
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as workers:
        running = {workers.submit(run, *arguments): (name, arguments[1].name) for name, arguments in tasks}
        try:
            for count, future in enumerate(as_completed(running), 1):
                name, task_name = running[future]
                try:
                    lines = future.result()
                except Exception as error:  # the other points are not lost
                    lines, failed = [f"failed: {(str(error) or type(error).__name__).splitlines()[0]}"], failed + 1
                for line in lines:
                    say(f"[{count}/{len(tasks)}] {task_name} {name:22} {line}")
        except KeyboardInterrupt:
            workers.shutdown(cancel_futures=True)
            raise
    if failed:
        say(f"{failed} of {len(tasks)} points failed; the same command tries only those again")
    elif not tasks:
        say("every point is stored already")
    return failed
