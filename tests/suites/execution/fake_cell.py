"""A cell's process whose work is scripted: `python fake_cell.py CONFIG --results DIR ...` does as FAKE_<variant> says;
suites of such cells.

Everything around the work (lock, status, events, exit status) is the real worker's.
"""

import os
import signal
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import pandas as pd

from results import records
from suites.execution import worker
from suites.spec import Budget, Cell, Protocol, SpecError, Suite, Task, Variant

FAKE = (sys.executable, str(Path(__file__).resolve()))


def suite(*variants: str, seeds: tuple[int, ...] = (0,), iterations: int = 3) -> Suite:
    task, budget = Task.parse("sr-x2"), Budget("smoke", iterations)
    cells = [
        Cell(Variant(name, "mambairv2-tiny"), task, seed, budget, ("embedded",), ("embedded",), Protocol.official(task))
        for name in variants
        for seed in seeds
    ]
    return Suite("fake", "", tuple(cells))


def work(cells, options):
    for each in cells:
        try:
            each.finish(**run(each, options))
            each.end()
        except Exception as error:
            if len(cells) == 1:
                raise
            each.fail(error)


def run(each, options):
    cell, folder, store, report = each.cell, each.folder, each.store, each.tell
    steps = cell.budget.iterations
    behaviour = os.environ.get(f"FAKE_{cell.variant.name}", "")
    with open(folder / "runs.txt", "a") as log:  # how often this cell was started
        log.write(f"{os.getpid()}\n")
    starts = len((folder / "runs.txt").read_text().splitlines())
    print("noise on stdout that is no event")
    for step in range(1, steps + 1):
        report("train", step=step, iterations=steps, loss=1 / step)
        if step == 2:
            if behaviour == "crash" or (behaviour == "crash-once" and starts == 1):
                raise RuntimeError("broken pipe\nof thought")
            if behaviour == "refuse":
                raise SpecError("the loss is nan at step 2")
            if behaviour == "diverge":
                error = SpecError("the loss is nan")
                error.record = {"step": 2, "loss": "nan"}  # as a TrainingError has it
                raise error
            if behaviour == "warn":
                warnings.warn("it goes on\nanother way", stacklevel=1)
            if behaviour == "full":
                raise records.WriteError("cannot write x: no space is left there")
            if behaviour == "kill":
                sys.stderr.write("about to be killed\n")
                sys.stderr.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            if behaviour == "memory":
                raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")  # as PyTorch's is called
            if behaviour == "hang-once" and starts == 1:
                time.sleep(600)
            if behaviour == "hang":
                (folder / "train.jsonl").write_text('{"step": 2, "seconds": 1}\n')
                time.sleep(600)
        time.sleep(float(os.environ.get("FAKE_SLEEP", "0")))
    if behaviour != "nothing":
        pixels = "0" * 64
        row = {"dataset": "Set5", "image": "baby", "pixels": pixels, "psnr": 30.0 + cell.seed, "ssim": 0.9}
        rows = [row | {"psnr_single": row["psnr"], "seconds": 0.1}]
        if behaviour == "partial" and starts > 1:  # another image has turned up
            rows.append(rows[0] | {"image": "bird"})
        store.write_scores(folder, pd.DataFrame(rows))
    (folder / "weights.safetensors").write_bytes(b"weights")
    machine = {"device": "fake", "device_type": options.device, "threads": options.threads, "backend": options.backend}
    records.write_json(folder / "environment.json", machine | {"command": options.command, "data": str(options.data)})
    return {"weights": f"w{cell.seed}", "expected": {"Set5": 3 if behaviour == "partial" else 1}}


if __name__ == "__main__":
    sys.exit(worker.main(work=work))
