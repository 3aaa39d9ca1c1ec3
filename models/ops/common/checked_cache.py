"""Triton's cache of compiled kernels with a checksum beside each file.

Triton looks whether its files are there, not what is in them: it loads a kernel of which a crash, a full disk or a bit
turned over left something else. Here such a kernel is compiled anew. A file without a checksum, as Triton by itself
leaves it, is taken as it is. Modules of kernels that import no other one install it.
"""

import hashlib
import os
from pathlib import Path

from triton import knobs
from triton.runtime.cache import FileCacheManager

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
        found = super().get_group(filename)
        if found is None or not is_whole(Path(self._make_path(f"__grp__{filename}"))):
            return None
        return found if all(is_whole(Path(path)) for path in found.values()) else None

    def put(self, data: bytes | str, filename: str, binary: bool = True) -> str:
        content = data if isinstance(data, bytes) else str(data).encode()
        try:
            # The checksum first: with the old file it says that it is damaged, which is only compiled once more.
            super().put(hashlib.sha256(content).hexdigest(), filename + ENDING)
            return super().put(data, filename)
        except OSError as error:
            raise _advised(error) from error


def is_whole(path: Path) -> bool:
    """Whether a file has the content that its checksum says, or has none."""
    try:
        said = path.with_name(path.name + ENDING).read_text()
    except FileNotFoundError:
        return True
    except (OSError, UnicodeDecodeError):
        return False
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == said
    except OSError:
        return False


def install() -> None:
    """From now on Triton's cache is checked, unless TRITON_CACHE_MANAGER names one of the user's own."""
    if "TRITON_CACHE_MANAGER" not in os.environ:
        knobs.cache.manager_class = CheckedCacheManager


def _advised(error: OSError) -> OSError:
    advice = f"Triton's cache cannot be written ({error.strerror}); TRITON_CACHE_DIR names another folder"
    return OSError(error.errno, advice, error.filename)
