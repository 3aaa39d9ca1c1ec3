"""What prompts are: how the classes that choose them are used, what these group, and how large the pool has become.

A row per layer and routing: `gumbel`, as official networks choose with noise, and `argmax`, the likeliest class.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from suites.analysis.classes import layers, orders, quality, segmentations
from suites.analysis.classes.layers import Layer
from suites.analysis.spec import Analysis, Context, Measured, Pair

COLUMNS = {
    "layer": "of the network, from 0",
    "routing": "gumbel or argmax",
    "entropy": "of the use of classes over log T: 0 one class, 1 all alike",
    "effective": "exp of the entropy in nats: classes that are as good as used, 1..T",
    "dead": "classes of T that no pixel of this picture has",
    "used": "x and a hexadecimal number whose bit c says that a pixel has class c",
    "within": "mean cosine of the features of two pixels of one class, less the mean over pixels, -1..1",
    "between": "the same of two pixels of different classes",
    "silhouette": "of the classes, by 1 - cosine: 1 apart, 0 no groups, below 0 nearer to another class",
    "prompt_rms": "root mean square of the prompts that pixels get, in units of C",
    "c_rms": "root mean square of C without prompts",
    "ratio": "prompt_rms / c_rms",
    "growth": "root mean square of the pool over that of its initial values",
    "rank": "effective rank of the pool (exp of the entropy of its singular values)",
    "rank_limit": "the rank that it can have: min(T, r, d)",
}


def analyses(network: nn.Module, human: Path | None = None) -> Sequence[Analysis]:
    """`prompts`. human: a folder of BSDS500's segmentations (.mat). Raises SpecError for a network without prompts."""
    layers.count(network)
    names = (*segmentations.MADE, *([segmentations.HUMAN] if human else []))
    columns = dict(COLUMNS)
    for name in names:
        columns[f"nmi_{name}"] = f"normalised mutual information of classes and {segmentations.TOLD[name]}, 0..1"
        columns[f"nmi_{name}_at_random"] = "the same with the classes shuffled over the pixels"
    measure = partial(prompts, human=human)
    question = "how are prompts used, what do their classes group, and how large are they?"
    return (Analysis("prompts", question, measure, columns, parameters={"segmentations": list(names)}),)


def prompts(network: nn.Module, pair: Pair, context: Context, human: Path | None = None) -> Measured:
    """The rows of COLUMNS and of agreement with segmentations. Similarities and silhouettes are means over tiles, by
    their pixels; use and agreement are of the picture."""
    shape = pair.lq.shape[:2]
    known = segmentations.of(pair, network.config.num_tokens, context.task.scale, human)
    rows = []
    for seed in context.seeds:
        for routing, draw in (("gumbel", seed), ("argmax", None)):
            maps = np.zeros((layers.count(network), *shape), dtype=np.int64)
            found: dict[int, list[tuple[int, dict[str, float]]]] = {}

            def add(layer: Layer, maps: Any = maps, found: Any = found) -> None:
                at = layer.kept(layer.classes, shape)
                maps[(layer.number, *at[:2])] = at[2].cpu().numpy()
                found.setdefault(layer.number, []).append((len(layer.classes), of_tile(layer, network)))

            layers.visit(network, pair, context, draw, add)
            for number, parts in sorted(found.items()):
                row = {"seed": seed, "layer": number, "routing": routing, **_joined(parts)}
                row |= use(maps[number], network.config.num_tokens)
                for name, all_of_it in known.items():
                    row |= _agreement(name, maps[number], all_of_it, network.config.num_tokens)
                rows.append(row)
    return Measured(pd.DataFrame(rows))


def of_tile(layer: Layer, network: nn.Module) -> dict[str, float]:
    """What one tile says of a layer; `prompt_rms` and `c_rms` as mean squares, which add up over tiles."""
    rows, kinds = orders.unit(layer.features), len(layer.table)
    own, across = quality.similarities(rows, layer.classes, kinds)
    config = network.config
    values = {"within": own, "between": across, "silhouette": quality.silhouette(rows, layer.classes, kinds)}
    values |= {"prompt_rms": float(layer.table[layer.classes].square().mean()), "c_rms": float(layer.C.square().mean())}
    values |= {"growth": float(layer.table.square().mean().sqrt()) / initial_rms(config)}
    return values | {"rank": quality.effective_rank(layer.table), "rank_limit": min(*layer.table.shape, _rank(config))}


def initial_rms(config: Any) -> float:
    """Root of the mean square of a pool's initial values, in expectation: 1 / (3 T sqrt r).

    M is uniform in +-1/T and N in +-1/r, so their product of r terms has the variance r / (9 T^2 r^2). An unfactored
    pool starts with the same spread, r being `pool_rank` (models.initial).
    """
    return 1 / (3 * config.num_tokens * _rank(config) ** 0.5)


def _rank(config: Any) -> int:
    return config.inner_rank or config.pool_rank


def use(classes: np.ndarray, kinds: int) -> dict[str, Any]:
    """How the classes [H, W] of a picture are used."""
    counts = np.bincount(classes.ravel(), minlength=kinds)
    nats = quality.entropy(counts)
    used = sum(1 << number for number, count in enumerate(counts.tolist()) if count)
    values = {"entropy": nats / np.log(kinds) if kinds > 1 else np.nan, "effective": float(np.exp(nats))}
    return values | {"dead": int((counts == 0).sum()), "used": f"x{used:x}"}


def _joined(parts: list[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Means over tiles by their pixels; a tile without a value (one class only) is left out of that mean."""
    pixels = np.array([count for count, _ in parts], dtype=float)
    result = {}
    for name in parts[0][1]:
        values = np.array([part[name] for _, part in parts])
        there = ~np.isnan(values)
        result[name] = float(np.average(values[there], weights=pixels[there])) if there.any() else np.nan
    for name in ("prompt_rms", "c_rms"):
        result[name] **= 0.5
    return result | {"ratio": result["prompt_rms"] / result["c_rms"], "rank_limit": int(result["rank_limit"])}


def _agreement(name: str, classes: np.ndarray, maps: Sequence[np.ndarray], kinds: int) -> dict[str, float]:
    """Mean over the segmentations of one kind (people's are several) of the mutual information, and at random."""
    shuffled = np.random.default_rng(0).permutation(classes.ravel()).reshape(classes.shape)
    found = [
        [quality.mutual_information(quality.contingency(one, other, (kinds, int(other.max()) + 1))) for other in maps]
        for one in (classes, shuffled)
    ]
    own, chance = (float(np.mean(values)) if values else np.nan for values in found)
    return {f"nmi_{name}": own, f"nmi_{name}_at_random": chance}
