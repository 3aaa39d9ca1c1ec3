"""What every test may use: the folder of reference material, when it is beside the checkout."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

# Without a GPU, kernels are tested in Triton's interpreter, which must be chosen before anything imports Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A shell starts what it runs in the background with Ctrl-C ignored, which the commands under test would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, so that none is left to one process at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference outputs, weights and standard images kept outside the repository; the test is skipped without them."""
    if not (SHARED / "parity").is_dir():
        pytest.skip(f"needs the reference material in {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture(autouse=True)
def no_check_that_reports_nothing():
    """Triton's interpreter computes of every sum and product whether it overflows, and would say so in debug mode only:
    a third of its time."""
    if interpreter := sys.modules.get("triton.runtime.interpreter"):
        builder = interpreter.interpreter_builder
        builder.options = replace(builder.options, sanitize_overflow=builder.options.debug)


@pytest.fixture(autouse=True)
def no_word_on_slow_machines(monkeypatch):
    """What a command says after two seconds of silence would come or not, by how busy the machine is."""
    monkeypatch.setattr("suites.commandline.PATIENCE_S", 600.0)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """Tables are fitted to a terminal's width; another test, or the machine, may have said one."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def one_thread():
    """Small tensors gain nothing from a second thread, and lose much when other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
