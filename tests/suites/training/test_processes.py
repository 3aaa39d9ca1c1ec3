"""Several processes that train one cell: the bits of one, in whatever number, stopped and taken up by others."""

import json
import multiprocessing
import socket
import warnings
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from suites.spec import Budget, Cell, Protocol, SpecError, Task, Variant
from suites.training import checkpoints, trainer
from suites.training.processes import Processes, in_order
from suites.training.state import Run

BUDGET = Budget("smoke", 6, batch=8, patch=16, lr=1e-3, milestones=(4,), accumulate=4, checkpoint_every=3)
CELL = Cell(
    Variant("tiny", "mambairv2-tiny", {"depths": (1, 1), "num_heads": (2, 2), "embed_dim": 16}),
    *(Task("sr", 2), 0, BUDGET, ("own",), ("own",), Protocol.official(Task("sr", 2))),
)
IMAGES = [np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8) for size in ((40, 48, 3), (36, 56, 3))]


class Stopped(Exception):
    pass


def stop(runs: list[Run]) -> None:
    """After the checkpoint of step 3, and a step that is lost."""
    if runs[0].step >= 4:
        raise Stopped


def work(rank: int, count: int, port: int, folder: Path, until: bool, sums: str) -> None:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patched:
        for name, value in {"RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            patched.setenv(name, str(value))
        hooks = trainer.Hooks(on_sync=stop if until else None)
        with suppress(Stopped), Processes.joined(count, torch.device("cpu"), sums) as processes:
            trainer.train_cells([(CELL, folder)], lambda names: IMAGES, hooks=hooks, processes=processes)


def begin(count: int, folder: Path, *, until: bool = False, sums: str = "in-order") -> list[BaseProcess]:
    """`count` processes that train the cell, forked from one that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context.Process(target=work, args=(rank, count, port, folder, until, sums)) for rank in range(count)]
    for process in started:
        process.start()
    return started


def train(count: int, folder: Path, **how: Any) -> Path:
    """The weights that `count` processes make (`begin`)."""
    started = begin(count, folder, **how)
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * count
    return folder / trainer.WEIGHTS


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The weights that one process makes, as it does without any of this."""
    folder, threads = tmp_path_factory.mktemp("alone"), torch.get_num_threads()
    torch.set_num_threads(1)
    trainer.train_cells([(CELL, folder)], lambda names: IMAGES)
    torch.set_num_threads(threads)
    return folder / trainer.WEIGHTS


def test_two_processes_make_the_bits_of_one(alone, tmp_path):
    assert train(2, tmp_path).read_bytes() == alone.read_bytes()
    assert losses(tmp_path) == losses(alone.parent)
    assert not list(tmp_path.glob("checkpoint*"))


def test_taken_up_by_another_number_of_processes(alone, tmp_path):
    """Four up to a step that is lost, two to the time limit, one to the end."""
    train(4, tmp_path, until=True)
    assert checkpoints.load(tmp_path)["step"] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of other circumstances
        trainer.train_cells([(CELL, tmp_path)], lambda names: IMAGES)
    assert (tmp_path / trainer.WEIGHTS).read_bytes() == alone.read_bytes()
    assert losses(tmp_path) == losses(alone.parent)


def test_all_reduce_is_another_sum_and_says_so(alone, tmp_path):
    """Its losses are close; with an order of the library's own their bits are its own as well."""
    train(2, tmp_path, until=True, sums="all-reduce")
    with pytest.warns(UserWarning, match="sums all-reduce before, in-order now"):
        trainer.train_cells([(CELL, tmp_path)], lambda names: IMAGES)
    assert losses(tmp_path) == pytest.approx(losses(alone.parent), rel=1e-4)


def test_shares_must_be_equal():
    assert [list(Processes(rank, 2).parts(4)) for rank in (0, 1)] == [[0, 1], [2, 3]]
    with pytest.raises(SpecError, match="1 equal part cannot be shared by 2 processes: --set accumulate=2"):
        Processes(0, 2).parts(1)


def test_parts_are_added_one_after_the_other():
    """As float32 does it by hand: 1 + 2^-24 is 1, and twice that is more."""
    rows = torch.tensor([[1.0], [2.0**-24], [2.0**-24]])
    assert in_order(rows).item() == 1.0 and in_order(rows.flip(0)).item() == 1.0 + 2.0**-23
