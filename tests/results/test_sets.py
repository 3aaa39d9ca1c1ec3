"""Sizes of the test sets and official protocols: against the manifests, and against facts of the official code."""

import pytest

from results import sets
from results.records import PROTOCOL_KEYS
from suites.data import manifest
from suites.data.catalogue import DATASETS
from suites.spec import Protocol, Task


def test_sizes_are_those_of_the_manifests():
    listed = sets.FULL_SETS.keys() & set(manifest.names())
    assert {"Set5", "Set14", "BSD100", "Urban100", "CBSD68", "LIVE1"} <= listed
    assert {name: len(manifest.read(name)) for name in listed} == {name: sets.FULL_SETS[name] for name in listed}
    assert all(DATASETS[name].count == size for name, size in sets.FULL_SETS.items())


@pytest.mark.parametrize("task", Task.names())
def test_a_networks_protocol_is_the_official_one_with_seed_0(task):
    protocol = Protocol.official(Task.parse(task)).to_dict()
    assert protocol == {**sets.official_protocol(task), "seed": 0} and tuple(protocol) == PROTOCOL_KEYS


@pytest.mark.parametrize(
    ("task", "scored", "border"), [("sr-x3", "y", 3), ("denoise-25", "rgb", 0), ("jpeg-40", "gray", 0)]
)
def test_what_the_official_code_scores(task, scored, border):
    official = sets.official_protocol(task)
    assert (official["channels"], official["border"], official["tiling"]) == (scored, border, "official")
    assert (official["lr_route"], official["luma"]) == (("matlab", "float") if task == "sr-x3" else (None, None))


def test_another_kind_of_task_has_none():
    with pytest.raises(KeyError):
        sets.official_protocol("blur-2")
