"""An empty store per test, and the builders of `synthetic.py` and `mechanisms.py` as fixtures (test folders are no
packages)."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from reports.pages import documents
from results import measured, published
from results.evidence import Evidence
from results.store import Store


@pytest.fixture(scope="session")
def clone() -> Evidence:
    """What is committed, as a clone without a store has it: read and judged once for all that ask it."""
    return documents._committed()


@pytest.fixture
def nothing_committed(tmp_path, monkeypatch) -> Path:
    """No measurement but the test's own: an empty folder in place of `results/measured/`."""
    folder = tmp_path / "measured"
    folder.mkdir()
    monkeypatch.setattr(measured, "FOLDER", folder)
    return folder


@pytest.fixture
def store(tmp_path, nothing_committed, make, monkeypatch) -> Store:
    """An empty store; `make.WEIGHTS` are published weights."""
    monkeypatch.setattr(published, "official_weights", lambda: {make.WEIGHTS: {"file": "published.pth"}})
    return Store(tmp_path / "store")


@pytest.fixture(scope="session")
def make() -> ModuleType:
    return beside("synthetic")


@pytest.fixture(scope="session")
def made() -> ModuleType:
    return beside("mechanisms")


def beside(name: str) -> ModuleType:
    """The module `name` in this folder."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
