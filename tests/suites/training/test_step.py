"""What a step sets around itself."""

import os

import torch

from suites.training.step import CUBLAS, determinism


def test_determinism_ends_with_all_that_it_has_set(monkeypatch):
    monkeypatch.delenv(CUBLAS, raising=False)
    with determinism(True):
        assert os.environ[CUBLAS] == ":4096:8" and torch.are_deterministic_algorithms_enabled()
    assert CUBLAS not in os.environ and not torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv(CUBLAS, ":16:8")  # somebody's own choice stays
    with determinism(True):
        assert os.environ[CUBLAS] == ":16:8"
    assert os.environ[CUBLAS] == ":16:8"
