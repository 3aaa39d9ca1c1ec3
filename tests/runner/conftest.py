"""A command line called within the test, and weights and a picture for it."""

import sys
from pathlib import Path

import pytest
import torch

import models
import runner
from tests.runner.helpers import Command, data_set


@pytest.fixture
def command(monkeypatch, capsys, tmp_path) -> Command:
    """command("run", "smoke", ...) -> exit status, what went to stdout, what went to stderr."""
    monkeypatch.delenv("MAMBAIR_BENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["runner.py", *map(str, arguments)])
        status = runner.main()
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory) -> Path:
    """Weights of mambairv2-tiny for x2, as an official file would hold them."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"params": models.build("mambairv2-tiny").state_dict()}, path)
    return path


@pytest.fixture
def analyse(command, tmp_path):
    """analyse("sgn", ...) of mambairv2-tiny x2 on one picture, stored in store/ and written to found.json."""
    data_set(tmp_path / "data", side=40)
    what = ("mambairv2-tiny", "--task", "sr-x2", "--sets", "Set5", "--images", "baby")
    where = ("--data", tmp_path / "data", "--results", tmp_path / "store", "--json", tmp_path / "found.json")
    return lambda name, *options: command("analyse", name, *what, *where, *options)
