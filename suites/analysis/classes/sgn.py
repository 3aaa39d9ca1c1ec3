"""Semantic guided neighbouring: which class pixels have, how firm that is, and who follows whom in the sequence.

`sgn-classes` answers a row per layer, `sgn-order` a row per layer, order, scope and number of steps.

Orders: `network` is the one that the layer scans, `likeliest` the one that it scans where the whole network routes
without noise; `shuffled` is sorted by the layer's classes shuffled over the pixels: what a stable sort of raster order
gives whatever the classes are. `raster`, `random` (a permutation); `luma`, `kmeans`, `slic`: sorted by what needs no
training, as `suites.data.sort_keys` makes it; `nearest`: greedily the most similar pixel next, in the layer's own
features. That one takes time by the square of the pixels, so it is found in a window at the centre of the first tile,
and the other orders, restricted to the window's pixels, are measured there too (scope `window`).
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from suites.analysis.classes import layers, orders
from suites.analysis.classes.layers import Layer
from suites.analysis.spec import Analysis, Context, Measured, Pair
from suites.data import sort_keys
from suites.data.degradations import luma

STEPS, SIDE = (1, 16, 256), 64
KEYS = ("luma", *sort_keys.KINDS)

CLASSES = {
    "layer": "of the network, from 0",
    "changed": "share of pixels whose class is another with the next seed of the noise, 0..1",
    "changed_at_random": "the same, had every pixel drawn anew from the layer's frequencies",
    "likeliest": "share of pixels in the class that a whole network without noise gives them, 0..1",
    "adjacent": "share of pairs of pixels side by side that have the same class, 0..1",
    "adjacent_at_random": "the same, were the classes shuffled over the pixels",
}
ORDER = {
    "layer": "of the network, from 0",
    "order": "of the pixels: network, likeliest, shuffled, raster, random, luma, kmeans, slic, nearest",
    "scope": "tile: all pixels of all tiles; window: those at the centre of the first tile",
    "steps": "between the two pixels of a pair in the sequence",
    "similarity": "mean cosine of their features, less the mean over pixels: -1..1, about 0 at random",
    "distance": "mean Euclidean distance on the image, in LR pixels",
    "pairs": "of pixels",
}


def analyses(network: nn.Module) -> Sequence[Analysis]:
    """`sgn-classes` and `sgn-order`. Raises SpecError for a network whose pixels have no classes."""
    layers.count(network)
    return (
        Analysis("sgn-classes", "which class do pixels have, and is it the same in another draw?", classes, CLASSES),
        Analysis(
            *("sgn-order", "are pixels that follow each other in the sequence alike, and how far apart?", order, ORDER),
            parameters={"steps": list(STEPS), "side": SIDE},
        ),
    )


def classes(network: nn.Module, pair: Pair, context: Context) -> Measured:
    """The rows of CLASSES; as arrays the picture (`lq` uint8 [H, W, C]) and its classes int16 [layers, H, W], those of
    a seed (`seed-<s>`) and those without noise (`likeliest`)."""
    likeliest = layers.class_maps(network, pair, context, None)
    drawn: dict[int, np.ndarray] = {}

    def draw(seed: int) -> np.ndarray:
        if seed not in drawn:
            drawn[seed] = layers.class_maps(network, pair, context, seed)
        return drawn[seed]

    kinds, rows = network.config.num_tokens, []
    for seed in context.seeds:
        for number, (one, other, sure) in enumerate(zip(draw(seed), draw(seed + 1), likeliest, strict=True)):
            rows.append(
                {"seed": seed, "layer": number, "likeliest": (one == sure).mean(), **firmness(one, other, kinds)}
            )
    arrays = {"lq": np.round(255 * pair.lq).astype(np.uint8)}
    arrays |= {"likeliest": likeliest, **{f"seed-{seed}": drawn[seed] for seed in context.seeds}}
    return Measured(pd.DataFrame(rows)[["seed", *CLASSES]], arrays)


def firmness(one: np.ndarray, other: np.ndarray, kinds: int) -> dict[str, float]:
    """`changed`, `adjacent` and what both are at random, of two draws [H, W] of one layer's classes."""
    p, q = (np.bincount(draw.ravel(), minlength=kinds) / draw.size for draw in (one, other))
    same = np.concatenate([(one[:, 1:] == one[:, :-1]).ravel(), (one[1:] == one[:-1]).ravel()])
    pairs, count = one.size, np.bincount(one.ravel(), minlength=kinds)
    shuffled = (count * (count - 1)).sum() / (pairs * (pairs - 1)) if pairs > 1 else np.nan
    values = {"changed": (one != other).mean(), "changed_at_random": 1 - (p * q).sum()}
    return values | {"adjacent": same.mean() if len(same) else np.nan, "adjacent_at_random": shuffled}


def order(network: nn.Module, pair: Pair, context: Context) -> Measured:
    """The rows of ORDER."""
    tokens = network.config.num_tokens
    colours = pair.lq if pair.lq.shape[2] == 3 else np.repeat(pair.lq, 3, axis=2)
    keys = [
        luma(255 * colours.astype(np.float64)),
        *(sort_keys.make(kind, pair.lq, tokens) for kind in sort_keys.KINDS),
    ]
    tiles = layers.of_tiles(np.stack(keys), network, context)
    fixed = [_sequences(own, number) for number, own in enumerate(tiles)]
    frames = []
    for seed in context.seeds:
        sums = _Sums()

        def add(layer: Layer, sums: "_Sums" = sums) -> None:
            own = fixed[layer.tile.index]
            other = orders.at_random(len(layer.classes), layer.tile.index, layer.number + 1)  # than that of `random`
            shuffled = layer.classes[other.to(layer.classes.device)]
            known = {"network": _order(layer), "shuffled": orders.by_key(shuffled), **own}
            sums.add(layer, known)
            if layer.tile.index == 0:
                sums.add_window(layer, known, best=True)

        def add_likeliest(layer: Layer, sums: "_Sums" = sums) -> None:
            known = {"likeliest": _order(layer)}
            sums.add(layer, known)
            if layer.tile.index == 0:
                sums.add_window(layer, known)

        layers.visit(network, pair, context, seed, add)
        layers.visit(network, pair, context, None, add_likeliest)
        frames.append(sums.frame().assign(seed=seed))
    return Measured(pd.concat(frames, ignore_index=True))


def _order(layer: Layer) -> Tensor:
    return torch.arange(len(layer.classes), device=layer.classes.device) if layer.order is None else layer.order


def _sequences(keys: Tensor, tile: int) -> dict[str, Tensor]:
    """The orders of a tile that are the same in every layer; keys [KEYS, L]."""
    length, device = keys.shape[1], keys.device
    found = {"raster": torch.arange(length, device=device), "random": orders.at_random(length, tile).to(device)}
    return found | {name: orders.by_key(key) for name, key in zip(KEYS, keys, strict=True)}


class _Sums:
    """Of cosines and distances, and pairs, by layer, order, scope and steps; those of tiles add up."""

    def __init__(self) -> None:
        self.found: dict[tuple[int, str, str, int], np.ndarray] = defaultdict(lambda: np.zeros(3))

    def add(self, layer: Layer, known: dict[str, Tensor]) -> None:
        rows = orders.unit(layer.features)
        for name, one in known.items():
            for steps in STEPS:
                sums = orders.neighbours(one, rows, layer.width, steps)
                self.found[layer.number, name, "tile", steps] += (*sums, max(0, len(one) - steps))

    def add_window(self, layer: Layer, known: dict[str, Tensor], best: bool = False) -> None:
        """best: also of the greedy order."""
        sequences = {name: orders.within(one, layer.height, layer.width, SIDE) for name, one in known.items()}
        pixels, _, width = next(iter(sequences.values()))  # the same of every order
        rows, found = orders.unit(layer.features[pixels]), {name: own for name, (_, own, _) in sequences.items()}
        if best:
            found["nearest"] = orders.by_nearest(rows)
        for name, one in found.items():
            self.found[layer.number, name, "window", 1] += (*orders.neighbours(one, rows, width, 1), len(one) - 1)

    def frame(self) -> pd.DataFrame:
        """The rows of ORDER; without a pair there is no mean."""
        rows = []
        for (layer, name, scope, steps), (cosine, distance, pairs) in sorted(self.found.items()):
            means = {"similarity": cosine / pairs, "distance": distance / pairs} if pairs else {}
            rows.append({"layer": layer, "order": name, "scope": scope, "steps": steps, "pairs": int(pairs), **means})
        return pd.DataFrame(rows, columns=list(ORDER))
