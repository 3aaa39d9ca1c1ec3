"""Damages what Triton keeps of a compiled kernel, and compiles again: `python -m tests.faults.compiled COUNT SEED`.

Compiled for a GPU that is not there, in a process without Triton's interpreter, which compiles nothing. Prints JSON: of
COUNT damages how many were seen, and how often Triton's own manager, which looks at no content, returned other bytes.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import triton
import triton.language as tl
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.ops.common import checked_cache

WAYS = ("cut", "emptied", "turned", "gone")


@triton.jit
def add_one(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < n) + 1, mask=i < n)


def compiled() -> bytes:
    types = {"x": "*fp32", "y": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    source = ASTSource(add_one, signature=types, constexprs={(3,): 128})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


def damage(path: Path, way: str, place: float) -> None:
    content = bytearray(path.read_bytes())
    if way == "gone":
        path.unlink()
        return
    if way == "turned" and content:
        content[int(place * len(content))] ^= 1 << int(8 * place * len(content)) % 8
    path.write_bytes({"cut": content[: int(place * len(content))], "emptied": b"", "turned": content}[way])


def main(count: int, seed: int) -> None:
    draw, folder = np.random.default_rng(seed), Path(knobs.cache.dir)
    found = {"tried": 0, "other bytes": 0, "other bytes without checksums": 0}
    whole = compiled()
    shutil.rmtree(folder)
    checked_cache.install()
    assert compiled() == whole
    for number in range(count):
        files = sorted(path for path in folder.glob("*/*") if path.is_file())
        name = draw.choice([path.name for path in files])
        damage(next(path for path in files if path.name == name), WAYS[number % len(WAYS)], draw.uniform())
        found["tried"] += 1
        found["other bytes"] += compiled() != whole
    for kernel in folder.glob("*/*.cubin"):
        kernel.write_bytes(kernel.read_bytes()[:-8])
    assert compiled() == whole
    knobs.cache.manager_class = None
    for kernel in folder.glob("*/*.cubin"):
        kernel.write_bytes(kernel.read_bytes()[:-8])
    found["other bytes without checksums"] += compiled() != whole
    print(json.dumps(found))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
