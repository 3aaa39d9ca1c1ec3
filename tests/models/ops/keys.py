"""Keys of all kernels in Triton's cache, asked for in two orders: `python -m tests.models.ops.keys`.

In a process without Triton's interpreter. Prints how many kernels there are, and how many keys differ: by this Triton
with what checked_cache installs, and as Triton 3.6 merges constants, with that and without.
"""

import importlib
import json
import pkgutil
import sys

from triton.runtime import jit

import models.ops
from models.ops.common import checked_cache


def merged_as_by_triton_3_6(finder: jit.DependenciesFinder, function: jit.JITCallable) -> None:
    finder.used_global_vals.update(function.used_global_vals)
    finder.hasher.update(f"{function.cache_key}{getattr(function, 'noinline', False)}".encode())


def kernels() -> list[jit.JITFunction]:
    for module in pkgutil.walk_packages(models.ops.__path__, "models.ops."):
        if "triton" in module.name or ".common." in module.name:
            importlib.import_module(module.name)
    ours = [vars(module) for name, module in sorted(sys.modules.items()) if name.startswith("models.")]
    found = [value for names in ours for value in names.values() if isinstance(value, jit.JITFunction)]
    return list({id(one): one for one in found}.values())


def differing(every: list[jit.JITFunction]) -> int:
    keys = []
    for order in (every, every[::-1]):
        for one in every:
            one.hash, one.used_global_vals = None, {}
        keys.append({id(one): one.cache_key for one in order})
    return sum(keys[0][one] != keys[1][one] for one in keys[0])


if __name__ == "__main__":
    every = kernels()
    counts = [len(every), differing(every)]
    for merge in (checked_cache.called_first(merged_as_by_triton_3_6), merged_as_by_triton_3_6):
        jit.DependenciesFinder._update_hash = merge
        counts.append(differing(every))
    print(json.dumps(counts))
