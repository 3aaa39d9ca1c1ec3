"""A command line called within the test, and weights for it."""

import sys
from pathlib import Path

import pytest
import torch

import models
import runner
from tests.runner.helpers import Command


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
