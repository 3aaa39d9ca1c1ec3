"""What tests of the trainer share."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from suites.spec import Cell
from suites.training import trainer
from suites.training.state import Run


def train(
    cell: Cell,
    images: Sequence[np.ndarray],
    folder: Path,
    *,
    on_sync: Callable[[list[Run]], None] | None = None,
    **options,
) -> Path:
    """One cell on `images`, as `train_cells` does it: its weights."""
    trainer.train_cells([(cell, folder)], lambda names: images, hooks=trainer.Hooks(on_sync=on_sync), **options)
    return folder / trainer.WEIGHTS
