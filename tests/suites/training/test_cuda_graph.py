"""What a captured step does without a GPU to record it on: warm-up, replay, and what a training does when it cannot."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from suites.spec import Budget
from suites.training import cuda_graph, state
from suites.training.step import TrainingError


class Graph:
    """Stands in for a CUDA graph."""

    replays = 0

    def replay(self) -> None:
        self.replays += 1


@pytest.fixture
def recording(monkeypatch):
    """CUDA's recording without CUDA; setting `refusal` makes it fail."""
    state = SimpleNamespace(refusal=None)

    @contextlib.contextmanager
    def graph(made, pool, stream, **how):
        yield
        if state.refusal:
            raise RuntimeError(state.refusal)

    stream = SimpleNamespace(wait_stream=lambda other: None)
    replacements = {"Stream": lambda device: stream, "current_stream": lambda: stream}
    for name, replacement in (replacements | {"CUDAGraph": Graph, "graph": graph}).items():
        monkeypatch.setattr(cuda_graph.torch.cuda, name, replacement)
    monkeypatch.setattr(cuda_graph.torch.cuda, "stream", lambda chosen: contextlib.nullcontext())
    return state


def test_the_fourth_call_records_and_later_ones_replay_on_its_batch(recording):
    worked = []
    step = cuda_graph.GraphedStep(lambda batch: worked.append(batch) or "result")
    batches = [
        SimpleNamespace(lq=torch.full((2,), float(number)), labels=None) for number in range(cuda_graph.WARM + 3)
    ]
    assert [step(batch) for batch in batches] == ["result"] * len(batches)
    assert worked == batches[: cuda_graph.WARM + 1] and step.graph.replays == 3
    assert torch.equal(batches[cuda_graph.WARM].lq, batches[-1].lq)  # whose place the later batches took


def test_a_training_whose_step_cannot_be_recorded_ends_before_it_costs_hours(recording):
    recording.refusal = "operation not permitted\nwhen capturing"
    run = SimpleNamespace(
        step=0,
        cell=SimpleNamespace(name="base/sr-x2/seed-0"),
        budget=Budget("smoke", 10),
        optimizer=SimpleNamespace(param_groups=[{"lr": 0.0}]),
        on_device=torch.zeros(10),
        unread=0,
        work=cuda_graph.GraphedStep(float),
    )
    for batch in range(cuda_graph.WARM):
        state.Run.advance(run, batch)
    told = "^base/sr-x2/seed-0: .*CUDA graph: operation not permitted; .*--backend chunked"
    with pytest.raises(TrainingError, match=told):
        state.Run.advance(run, cuda_graph.WARM)
    assert run.on_device.tolist()[: run.unread] == list(range(cuda_graph.WARM))


def test_memory_that_runs_out_is_not_mistaken_for_it(recording, monkeypatch):
    def full(made, *_, **how):
        raise torch.OutOfMemoryError("out of memory")

    step = cuda_graph.GraphedStep(lambda batch: batch)
    monkeypatch.setattr(cuda_graph.torch.cuda, "graph", full)
    for number in range(cuda_graph.WARM):
        step(number)
    with pytest.raises(torch.OutOfMemoryError):
        step(cuda_graph.WARM)
