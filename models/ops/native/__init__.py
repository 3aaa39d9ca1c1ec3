"""The C++ kernels: compiled on first use with the system's compiler into the user's cache, then loaded with ctypes.

The library is named by a hash of its sources, flags, processor and OpenMP runtime, so a new version, or another kind of
machine that shares the home folder, builds its own, and a machine without a compiler can use what another one built.
It is built beside its final place and moved there: processes starting together do not disturb each other.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
HEADERS = sorted(Path(__file__).parent.glob("*.h"))
# Not -ffast-math: it would reorder the sums and undo the rounding by addition in exp2.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno", "-fno-trapping-math")
FLAGS += ("-ffp-contract=fast",)
SECONDS = 300  # for the compiler


class NativeError(RuntimeError):
    """The native library cannot be built or loaded here; the message says why in one line."""


def load() -> ctypes.CDLL:
    """The loaded library; the first call on a machine compiles it. Raises NativeError, the same one at every call."""
    loaded = _load()
    if isinstance(loaded, NativeError):
        raise loaded
    return loaded


@functools.cache
def _load() -> ctypes.CDLL | NativeError:
    try:
        return ctypes.CDLL(str(build()))
    except NativeError as error:
        return error
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        return NativeError(f"the native library cannot be stored or loaded: {error}")


def cache_folder() -> Path:
    """Where libraries are kept: mambair-bench in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mambair-bench"


def build() -> Path:
    """Path of the library, compiled unless the cache has it. Raises NativeError when the compiler fails, OSError."""
    runtime = _openmp_runtime()
    name = f"native-{_fingerprint(runtime)}"
    for path in cache_folder().glob(f"{name}-*.so"):
        if path.stem == f"{name}-{_digest(path)}":
            return path
    command = _compiler()
    cache_folder().mkdir(parents=True, exist_ok=True)
    for left in cache_folder().glob("build-*"):  # by a process that was killed: none takes so long
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 2 * SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="build-") as folder:
        # Linked with PyTorch's own OpenMP runtime where it brings one: two pools of threads would fight for the cores.
        _run([*command, *FLAGS, "-c", *map(str, SOURCES)], folder)
        objects = [f"{source.stem}.o" for source in SOURCES]
        _run([*command, "-shared", *objects, str(runtime) if runtime else "-fopenmp", "-o", "library.so"], folder)
        built = Path(folder) / "library.so"
        path = cache_folder() / f"{name}-{_digest(built)}.so"
        os.replace(built, path)
    return path


def _digest(path: Path) -> str:
    """Of the contents, kept in the name: to load a file that a crash or a full disk cut short kills the process."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _compiler() -> list[str]:
    """CXX of the environment, or the first usual name that is installed."""
    if named := shlex.split(os.environ.get("CXX", "")):
        if shutil.which(named[0]) is None:
            raise NativeError(f"no C++ compiler: CXX is {named[0]!r}, which is not there")
        return named
    for name in ("c++", "g++", "clang++"):
        if shutil.which(name):
            return [name]
    raise NativeError("no C++ compiler (c++, g++, clang++) on the PATH: install one, or name it in CXX")


def _openmp_runtime() -> Path | None:
    return next(iter(sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))), None)


def _fingerprint(runtime: Path | None) -> str:
    digest = hashlib.sha256(repr([*FLAGS, runtime and runtime.name, _processor()]).encode())
    for file in (*HEADERS, *SOURCES):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """What -march=native looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    names = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU part")
    return "\n".join(line for line in lines if line.split(":")[0].strip() in names)


def _run(command: list[str], folder: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeError(f"the C++ compiler {command[0]!r} could not be run: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        cause = next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
        raise NativeError(f"the C++ compiler {command[0]!r} failed (exit status {done.returncode}): {cause}")
