"""A Python file of the user's, run because it was named on the command line, never because a store names it."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from suites.spec import SpecError


def content(path: Path) -> bytes:
    """The file's bytes. Raises SpecError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error


def source_of(path: Path) -> str:
    """SHA-256 of the file alone; what it imports is not in it. Raises as `content`."""
    return hashlib.sha256(content(path)).hexdigest()


def run(path: Path, source: str | None = None) -> ModuleType:
    """The module that the file makes. source: the hash, or the start of it, that the file must have.

    Raises SpecError for another file, before it is run, and as `content`; whatever the file raises.
    """
    code = content(path)
    found = hashlib.sha256(code).hexdigest()
    if source is not None and not found.startswith(source):
        raise SpecError(f"{path} is another file (source {found[:8]}) than the one asked for ({source[:8]})")
    spec = importlib.util.spec_from_file_location(f"file_of_user_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for the module of their class
    exec(compile(code, str(path), "exec"), module.__dict__)
    return module
