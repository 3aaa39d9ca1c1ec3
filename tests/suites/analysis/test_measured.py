"""What analyses of gradients and scans give of an image: rows as promised, the same every time, nothing left behind."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import models
from suites.analysis import decay, erf, lam, redundancy
from suites.analysis.spec import Analysis, Context, Measured, Pair
from suites.data.degradations import degrade
from suites.spec import Protocol, SpecError, Task

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {decay: {"POSITIONS": 20}, erf: {"SIDE": 24}, lam: {"FOLD": 2, "CROP": 48}, redundancy: {}}
BUILD = partial(models.build, "mambairv2-tiny", upscale=2)


@pytest.fixture
def pair() -> Pair:
    truth = np.random.default_rng(0).integers(0, 256, (70, 50, 3), np.uint8)
    return Pair("noise", "one", "", *degrade(Task("sr", 2), truth, "matlab"))


def context(*seeds: int | None) -> Context:
    task = Task("sr", 2)
    return Context(task, Protocol.official(task), torch.device("cpu"), seeds)


def asked(module, network: torch.nn.Module, pair: Pair, *seeds: int | None) -> tuple[Analysis, Measured]:
    (analysis,) = module.analyses(network)
    return analysis, analysis.measure(network, pair, context(*seeds))


@pytest.mark.parametrize("module", SMALL, ids=lambda module: module.__name__.split(".")[-1])
def test_rows_are_as_promised_and_repeat_seed_by_seed(module, pair, monkeypatch):
    for name, value in SMALL[module].items():
        monkeypatch.setattr(module, name, value)
    network = BUILD(scans=4 if module is redundancy else 1).eval()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    analysis, found = asked(module, network, pair, 0, 3)
    assert analysis.draws and {"seed", *analysis.columns} == set(found.rows.columns)
    assert set(found.rows["seed"]) == {0, 3}
    _, again = asked(module, network, pair, 3)
    rows = found.rows[found.rows["seed"] == 3].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, again.rows)
    if module is erf:  # whose rows are whole numbers of pixels
        assert not np.array_equal(found.arrays["mambair/0"], found.arrays["mambair/3"])
    else:
        values = rows.select_dtypes("number").drop(columns="seed")
        first = found.rows[found.rows["seed"] == 0].reset_index(drop=True)
        assert not values.equals(first[values.columns])  # another draw, other numbers
    assert network.noise is None and not network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())


def test_without_routing_nothing_is_drawn(pair, monkeypatch):
    monkeypatch.setattr(decay, "POSITIONS", 20)
    analysis, found = asked(decay, BUILD(ase="off", sgn="off").eval(), pair, None)
    assert not analysis.draws
    assert set(found.rows["order"]) == {"raster"}


def test_tiles_of_an_image_make_one_row(pair, monkeypatch):
    monkeypatch.setattr(decay, "STEPS", (4,))
    network = BUILD(ase="off", sgn="off").eval()
    where = context(None)
    tiles = Context(where.task, Protocol.official(where.task, tiling=16), where.device, where.seeds)
    whole = asked(decay, network, pair, None)[1].rows
    cut = decay.measure(network, pair, tiles).rows
    assert len(cut) == len(whole) == 2
    assert (cut["length"] < whole["length"]).all() and (cut["outputs"] > whole["outputs"]).all()


def test_arrays_of_a_map_and_a_field(pair, monkeypatch):
    for module in (erf, lam):
        for name, value in SMALL[module].items():
            monkeypatch.setattr(module, name, value)
    network = BUILD().eval()
    arrays = asked(lam, network, pair, 1)[1].arrays
    assert arrays["map/1"].shape == (24, 24) and arrays["map/1"].max() == 1
    assert tuple(arrays["window"][2:]) == (16, 2)
    fields = asked(erf, network, pair, 1)[1].arrays
    assert fields["replknet/1"].shape == fields["mambair/1"].shape == (24, 24)


def test_networks_and_tasks_that_cannot_be_asked(pair):
    with pytest.raises(SpecError, match="no selective scan"):
        decay.analyses(BUILD(scans=0))
    with pytest.raises(SpecError, match="memory 4"):
        decay.analyses(BUILD(memory=4))
    network, task = models.build("mambairv2-tiny", upscale=1, upsampler=""), Task("denoise", 15)
    where = Context(task, Protocol.official(task), torch.device("cpu"), (0,))
    with pytest.raises(SpecError, match="super-resolution"):
        lam.analyses(network)[0].measure(network, pair, where)


def test_maps_under_an_intervention_are_of_the_changed_network(pair, monkeypatch):
    for name, value in SMALL[lam].items():
        monkeypatch.setattr(lam, name, value)
    network = BUILD().eval()
    base, changed = lam.analyses(network, "parts/attention-off")
    assert [one.parameters["intervention"] for one in (base, changed)] == ["unchanged", "parts/attention-off"]
    before, after = (one.measure(network, pair, context(0)) for one in (base, changed))
    assert before.rows.loc[0, "di"] != after.rows.loc[0, "di"]
    assert (before.rows[["top", "left"]] == after.rows[["top", "left"]]).all(axis=None)
    again = base.measure(network, pair, context(0))
    np.testing.assert_array_equal(again.arrays["map/0"], before.arrays["map/0"])
