"""What was compiled once and lies in a folder of the user: damaged, half built, in a folder that is read-only."""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.ops import native
from tests.faults.harness import COUNT, SEED, log, small_disk

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A part of the native library in a cache of its own; a build takes what the compiler made the first time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "SOURCES", [path for path in native.SOURCES if path.stem == "noise"])
    monkeypatch.setattr(native, "FLAGS", ("-std=c++17", "-fPIC"))
    try:
        path = native.build()
    except native.NativeError as error:
        pytest.skip(str(error))
    made = path.read_bytes()

    def run(command: list[str], folder: str) -> None:
        if "-o" in command:
            (Path(folder) / command[command.index("-o") + 1]).write_bytes(made)

    monkeypatch.setattr(native, "_run", run)
    return path


def test_damage_of_the_native_library_is_seen(library):
    """Cut short, emptied, turned at random bits, gone: what `build` names is what the compiler made."""
    whole, draw = library.read_bytes(), np.random.default_rng(SEED)
    for number in range(20 * COUNT):
        content = bytearray(whole)
        if number % 4 == 0:
            place = int(draw.integers(8 * len(whole)))
            content[place // 8] ^= 1 << place % 8
        cut = {0: len(whole), 1: int(draw.integers(len(whole))), 2: 0}.get(number % 4)
        library.unlink() if cut is None else library.write_bytes(content[:cut])
        assert native.build() == library and library.read_bytes() == whole
    log("native library damaged", tried=20 * COUNT, other=0)


def test_a_cache_that_turns_read_only(library, tmp_path, monkeypatch):
    """A whole library is used; a damaged one cannot be replaced, which is said in one line."""
    made = library.read_bytes()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "disk"))
    with small_disk(tmp_path / "disk", "64m") as remount:
        path = native.build()
        remount("ro")
        assert native.build() == path and isinstance(ctypes.CDLL(str(path)), ctypes.CDLL)
        remount("rw")
        path.write_bytes(made[:-1])
        remount("ro")
        native._load.cache_clear()
        with pytest.raises(native.NativeError, match=r"cannot be stored or loaded: .*Read-only file system"):
            native.load()
        native._load.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_damage_of_tritons_cache_is_seen(tmp_path):
    """A damaged kernel is compiled anew; without our checksums Triton hands it out as it is."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.faults.compiled", str(4 * COUNT), str(SEED)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found == {"tried": 4 * COUNT, "other bytes": 0, "other bytes without checksums": 1}
    log("Triton's cache damaged", **found)
