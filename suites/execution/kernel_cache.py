"""Files in Triton's cache that say which kernels were compiled into it; it serves other machines of the kind too."""

import hashlib
from pathlib import Path

import torch

import models


def mark(kind: str, compiled: str) -> Path:
    """The file, there or not, for what `compiled` names, with our sources, this Triton and the kind of GPU of now."""
    import triton
    from triton import knobs

    known = hashlib.sha256(compiled.encode())
    for path in sorted(Path(models.__file__).parent.rglob("*.py")):
        known.update(path.read_bytes())
    known.update(f"{triton.__version__} {torch.cuda.get_device_capability()}".encode())
    folder = Path(knobs.cache.dir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{kind}-{known.hexdigest()[:16]}.json"
