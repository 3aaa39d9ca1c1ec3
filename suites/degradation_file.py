"""A degradation of the user's: `--task custom:FILE.py:function`, stored by its name and the hash of the file.

The file may say SCALE, height of the ground truth over that of the degraded image (1). The function is called with a
picture, uint8 RGB [H, W, 3] with sides that are multiples of it, and a numpy Generator that belongs to the picture, and
returns uint8 [H / SCALE, W / SCALE, 3]. It is called once for each picture, for training too.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from suites import user_file
from suites.spec import SpecError, Task


def task(text: str) -> Task:
    """What `--task` says: `Task.parse`, and "custom:FILE.py:function", which runs the file.

    Raises SpecError for anything but these, and for a file that has no such function.
    """
    match = re.fullmatch(r"custom:(.+\.py):(\w+)", text)
    if match is None:
        return Task.parse(text)
    file, function = Path(match[1]), match[2]
    source = user_file.source_of(file)
    try:
        module = user_file.run(file, source)
        scale, made = getattr(module, "SCALE", 1), getattr(module, function)
    except Exception as error:  # whatever a user's code raises
        raise SpecError(f"{file}:{function} cannot be used: {type(error).__name__}: {error}") from error
    if not callable(made) or not (isinstance(scale, int) and scale >= 1):
        raise SpecError(f"{file}: {function} must be a function, and SCALE, which is {scale!r}, a whole number")
    return Task("custom", scale, function, source[:16], file)


def degraded(task: Task, image: np.ndarray) -> np.ndarray:
    """uint8 [H / s, W / s, 3] of `image`, uint8 RGB [H, W, 3].

    Raises SpecError where the file is not named, is another one or lacks the function, and DataError for what the
    function makes, or raises.
    """
    from models.ops.noise import noise_key
    from suites.data.pictures import DataError, pixel_hash

    if task.file is None:
        raise SpecError(
            f"{task.name} is a function in a file: name it again with --task custom:FILE.py:{task.function}"
        )
    function = _function(task.file, task.function, task.source)
    draw = np.random.default_rng(noise_key("custom", task.source, pixel_hash(image)))
    label = f"{task.file.name}:{task.function}"
    try:
        made = function(image.copy(), draw)
    except Exception as error:  # whatever a user's code raises
        raise DataError(f"{label}: {type(error).__name__}: {error}") from error
    wanted = image.shape[0] // task.scale, image.shape[1] // task.scale, 3
    found = (made.dtype, made.shape) if isinstance(made, np.ndarray) else type(made).__name__
    if found != (np.uint8, wanted):
        told = f"{found[0]} {found[1]}" if isinstance(found, tuple) else f"a {found}"
        raise DataError(
            f"{label} makes {told} of {image.shape}, and with SCALE = {task.scale} it must be uint8 {wanted}"
        )
    return np.ascontiguousarray(made)


@lru_cache
def _function(file: Path, name: str, source: str) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    try:
        return getattr(user_file.run(file, source), name)
    except SpecError:
        raise
    except Exception as error:
        raise SpecError(f"{file}:{name} cannot be used: {type(error).__name__}: {error}") from error
