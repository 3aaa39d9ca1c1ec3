"""Triton's cache of compiled kernels with a checksum beside each file.

Triton looks whether its files are there, not what is in them: it loads a kernel of which a crash, a full disk or a bit
turned over left something else. Here such a kernel is compiled anew. A folder without any checksum, as Triton by itself
leaves it, is taken as it is. And a kernel has the same key in every process. Modules of kernels that import no other
one install both.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from triton import knobs
from triton.runtime.cache import FileCacheManager
from triton.runtime.jit import DependenciesFinder

ENDING = ".sha256"


class CheckedCacheManager(FileCacheManager):
    """`FileCacheManager` that finds only files whose checksum is right. Raises OSError with the variable that names
    another folder where nothing can be written."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        try:
            super().__init__(key, override=override, dump=dump)
        except OSError as error:
            raise _advised(error) from error

    def get_file(self, filename: str) -> str | None:
        path = super().get_file(filename)
        return path if path is not None and is_whole(Path(path)) else None

    def get_group(self, filename: str) -> dict[str, str] | None:
        """The files of a kernel by name, or None where one is damaged or gone: Triton 3.6 left out those that are."""
        path = Path(self._make_path(f"__grp__{filename}"))
        try:
            found = json.loads(path.read_bytes())["child_paths"]
            whole = is_whole(path) and all(Path(child).is_file() and is_whole(Path(child)) for child in found.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return found if whole else None

    def put(self, data: bytes | str, filename: str, binary: bool = True) -> str:
        content = data if isinstance(data, bytes) else str(data).encode()
        try:
            # The checksum first: with the old file it says that it is damaged, which is only compiled once more.
            super().put(hashlib.sha256(content).hexdigest(), filename + ENDING)
            return super().put(data, filename)
        except OSError as error:
            raise _advised(error) from error


def is_whole(path: Path) -> bool:
    """Whether a file has the content that its checksum says; one without, whether nothing in its folder has one."""
    try:
        said = path.with_name(path.name + ENDING).read_text()
    except FileNotFoundError:
        return not any(path.parent.glob(f"*{ENDING}"))
    except (OSError, UnicodeDecodeError):
        return False
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == said
    except OSError:
        return False


def called_first(merge: Callable[[DependenciesFinder, Any], None]) -> Callable[[DependenciesFinder, Any], None]:
    """`merge`, which adds a called function to a kernel's key, after that function has its own.

    Triton 3.6 adds the constants that the function reads before it has looked for them: none, unless another kernel
    asked first. A kernel then had one key or another by what its process had launched before, and was compiled again.
    """

    def merged(finder: DependenciesFinder, function: Any) -> None:
        _ = function.cache_key  # worked out where it is asked for
        merge(finder, function)

    return merged


_NAME = "_update_hash"  # not of Triton's public interface
_MERGED = called_first(getattr(DependenciesFinder, _NAME)) if hasattr(DependenciesFinder, _NAME) else None


def install() -> None:
    """From now on keys of kernels depend on their sources alone, and Triton's cache is checked, unless
    TRITON_CACHE_MANAGER names one of the user's own. A Triton that merges keys by another name keeps its keys."""
    if _MERGED is not None:
        setattr(DependenciesFinder, _NAME, _MERGED)
    if "TRITON_CACHE_MANAGER" not in os.environ:
        knobs.cache.manager_class = CheckedCacheManager


def _advised(error: OSError) -> OSError:
    advice = f"Triton's cache cannot be written ({error.strerror}); TRITON_CACHE_DIR names another folder"
    return OSError(error.errno, advice, error.filename)
