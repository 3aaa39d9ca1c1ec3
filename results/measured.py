"""What was measured here once and is committed: `results/measured/`, a folder per machine, each with its environment.

`counted/complexity.csv` holds the parameters, MACs and scan FLOPs that `suites.cost` counted. They do not depend on the
machine; overrides are written as in the published tables, the task's own arguments left out.
"""

from pathlib import Path

import pandas as pd
from safetensors import SafetensorError, safe_open

from results.records import StoreError

FOLDER = Path(__file__).parent / "measured"
COMPLEXITY = FOLDER / "counted" / "complexity.csv"
COMPLEXITY_COLUMNS = (
    *("model", "overrides", "task", "size", "params", "macs_paper", "macs", "scan_flops", "counters"),
)


def complexity(path: Path = COMPLEXITY) -> pd.DataFrame:
    """A row per network, task and output size: counts as integers, what the two counters say of each other as text."""
    frame = pd.read_csv(path, dtype=dict.fromkeys(("overrides", "size", "counters"), str), keep_default_na=False)
    missing = [name for name in COMPLEXITY_COLUMNS if name not in frame.columns]
    if missing:
        raise StoreError(f"{path} lacks the column {', '.join(missing)}")
    return frame


def parameters(path: Path) -> int:
    """Number of parameters in a safetensors file, read from its head: every floating tensor, index buffers left out.

    Raises StoreError when it is missing or damaged.
    """
    try:
        with safe_open(path, "numpy") as file:
            slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118 - not a dict
            return sum(_size(part.get_shape()) for part in slices if part.get_dtype() in ("F64", "F32", "F16", "BF16"))
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} cannot be read as safetensors: {error}") from error


def _size(shape: list[int]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
