"""Cells side by side: each is what `train` makes of it alone, whatever the others do and however often all stop."""

import json
import math
import time
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from suites.data.training import load_training
from suites.spec import Budget, Cell, Protocol, Task, Variant
from suites.training import trainer
from suites.training.concurrent import Abreast, Beside
from suites.training.trainer import TrainingError, determinism, train

BUDGET = Budget("smoke", 6, batch=2, patch=16, lr=1e-3, milestones=(3, 5), checkpoint_every=4)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cell(name: str, seed: int = 0, budget: Budget = BUDGET, labels: str = "learned", **overrides) -> Cell:
    task = Task("sr", 2)
    variant = Variant(name, "mambairv2-tiny", overrides, labels)
    return Cell(variant, task, seed, budget, ("embedded",), ("embedded",), Protocol.official(task))


CELLS = (  # two share their pictures, one has labels, one another length and batch
    cell("base"),
    cell("ase-off", 1, ase="off"),
    cell("kmeans", labels="kmeans"),
    cell("base", 2, replace(BUDGET, iterations=9, batch=3, milestones=())),
)


class Finishing(Abreast):
    """Notes its marks and steps, writes final weights."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.seen, self.counted, self.most = [], 0, 0

    def marks(self, which: Cell) -> tuple[int, ...]:
        return (2,)

    def stepped(self, run) -> None:
        run.beside["steps"] = run.beside.get("steps", 0) + 1
        self.counted += 1

    def watched(self) -> None:
        self.most = max(self.most, len(self.lanes))

    def marked(self, run) -> None:
        self.seen.append((run.cell.name, run.step))
        if run.step == run.budget.iterations:
            assert run.beside["steps"] == run.step
            run.finish()


def places(folder):
    return [(each, folder / f"{number}") for number, each in enumerate(CELLS)]


def test_abreast_is_one_by_one_bit_for_bit_stopped_or_not(tmp_path):
    whole, parts = Finishing(), []
    with determinism(True):
        assert whole.train(places(tmp_path / "whole"), 3, math.inf)
        shared = {id(pool.planes) for pool in whole._pools.values()}
        assert len(shared) == 2  # the labels of one need planes of their own
        done = False
        while not done:
            left = [place for place in places(tmp_path / "parts") if not (place[1] / "weights.safetensors").exists()]
            part = Finishing()  # the first takes one cell alone, so that the others stand at other iterations
            done = part.train(left if parts else left[:1], 2, time.monotonic())
            parts.append(part)
            assert len(parts) < 40
        images = load_training(("embedded",), None)
        for number, each in enumerate(CELLS):
            alone = safetensors.torch.load_file(train(each, images, tmp_path / "alone" / f"{number}"))
            for folder in ("whole", "parts"):
                found = safetensors.torch.load_file(tmp_path / folder / f"{number}" / "weights.safetensors")
                assert found.keys() == alone.keys()
                assert all(torch.equal(found[name], alone[name]) for name in alone), (folder, each.name)
            lines = [
                [json.loads(line) for line in (tmp_path / kind / f"{number}" / "train.jsonl").read_text().splitlines()]
                for kind in ("alone", "whole", "parts")
            ]
            told = [[(line["step"], line["loss"], line["lr"]) for line in log] for log in lines]
            assert told[0] == told[1] == told[2]
    assert whole.most == 3 and whole.counted == 6 + 6 + 6 + 9
    assert sorted(whole.seen) == sorted((each.name, i) for each in CELLS for i in (2, each.budget.iterations))
    assert len(parts) > 3 and sum(part.counted for part in parts) == whole.counted
    seconds = [json.loads(log.read_text().splitlines()[-1])["seconds"] for log in tmp_path.glob("whole/*/train.jsonl")]
    assert sum(seconds) == pytest.approx(whole.seconds, abs=0.01)  # the shares are the whole


def test_a_loss_that_goes_wrong_takes_no_other_cell_with_it(tmp_path):
    class Going(Finishing):
        def failed(self, run, error):
            self.error = run.cell.name, error.record["step"]

    wild = cell("wild", 3, replace(BUDGET, lr=1e30))
    going = Going()
    with determinism(True):
        assert going.train([(wild, tmp_path / "wild"), (CELLS[0], tmp_path / "base")], 2, math.inf)
        assert going.error[0] == wild.name and 2 <= going.error[1] <= 6
        assert (tmp_path / "base" / "weights.safetensors").exists() and not (
            tmp_path / "wild" / "weights.safetensors"
        ).exists()
        with pytest.raises(TrainingError):
            Finishing().train([(wild, tmp_path / "again")], 1, math.inf)


def test_a_loss_that_is_wrong_at_the_time_limit_loses_no_other_cell(tmp_path, monkeypatch):
    class Stopped(Finishing):
        lost = ()

        def failed(self, run, error):
            self.lost += (run.cell.name,)

    def read(run, whole=trainer.Run.read):
        if run.cell.name == CELLS[0].name:
            raise TrainingError("the loss is nan", run.step)
        whole(run)

    stopped = Stopped()
    lanes = [(each, tmp_path / str(number)) for number, each in enumerate(CELLS[:2])]
    with determinism(True):
        monkeypatch.setattr(stopped, "_attend", lambda lane: True)
        monkeypatch.setattr(trainer.Run, "read", read)
        assert not stopped.train(lanes, 2, -math.inf)
    assert stopped.lost == (CELLS[0].name,)
    assert (tmp_path / "1" / "checkpoint.pt").exists() and not (tmp_path / "0" / "checkpoint.pt").exists()


def test_calls_beside_come_back_by_name_and_those_not_begun_are_dropped():
    with Beside(1) as beside:
        beside.submit("root", math.sqrt, 16)
        beside.submit("root", math.sqrt, 25)  # pending already
        beside.submit("wrong", math.sqrt, -1)
        found = dict(beside.results(math.inf))
        assert found["root"].result() == 4 and isinstance(found["wrong"].exception(), ValueError)
        beside.submit("long", time.sleep, 0.3)
        while not beside._pending["long"].running():
            time.sleep(0.01)
        assert list(beside.results()) == [] and list(beside.results(time.monotonic())) == []
        for number in range(20):
            beside.submit(number, math.sqrt, number)
        names = [name for name, _ in beside.last()]
        assert names[0] == "long" and len(names) < 20 and list(beside.results(math.inf)) == []
