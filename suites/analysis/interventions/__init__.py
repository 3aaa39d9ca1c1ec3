"""Interventions: one thing changed in a loaded network, every image scored with and without it, and taken back.

Nothing is trained, so the answer is what these weights rely on, not what training with the part gains. A change is a
function (network, changes): through `Changes` it puts other values in the place of parameters and attributes, never
into them, so that taking back is exact. What has no parameter (classes and order of pixels) is a `models.Experiment`.
`catalogue.py` has the list; a file of yours with a list INTERVENTIONS adds to it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from torch import Tensor, nn

import models
from models.ops.noise import PhiloxGumbel, noise_key
from suites import user_file
from suites.analysis.spec import Analysis, Context, Measured, Pair
from suites.evaluation import metrics, tiling
from suites.evaluation.evaluate import EvaluationError, check_size, inference, sort_key
from suites.spec import SpecError

NAME = "interventions"
UNCHANGED = "unchanged"
COLUMNS = {"psnr": "PSNR by the protocol, dB; missing where the images are identical"}
# Pixels of the tiles that go through a network at once. On a CPU a tile alone, as `evaluate` does it, to the same bits.
PIXELS = {"cpu": 1, "cuda": 2**20}


class Changes:
    """Puts values in the place of others and remembers them. seed: of the routing noise, for a change that is drawn
    (`Intervention.drawn`)."""

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed
        self._before: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """owner.name = value, until `take_back`. A tensor in the place of a parameter becomes one. Raises
        AttributeError for a name that the owner does not have."""
        before = getattr(owner, name)
        if isinstance(before, nn.Parameter) and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value.detach().to(before), requires_grad=before.requires_grad)
        self._before.append((owner, name, before))
        setattr(owner, name, value)

    def scale(self, owner: nn.Module, name: str, factor: float) -> None:
        """The same with the parameter's values times `factor`."""
        self.set(owner, name, getattr(owner, name).detach() * factor)

    def take_back(self) -> None:
        """Every value that was there, the same objects, the last change first."""
        while self._before:
            owner, name, before = self._before.pop()
            setattr(owner, name, before)


@dataclass(frozen=True)
class Intervention:
    """One change of a network.

    name: "prompts/zero"; `--only` matches it. question: those that are compared together, under one Holm correction.
    text: what is changed, in a line. change: (network, changes) makes it. draws: whether scores depend on the routing
    noise then. drawn: whether the change itself is another one for every seed (`Changes.seed`). labels: who makes the
    sort key: "learned" (the router), "kmeans", "slic" or "luma".
    """

    name: str
    question: str
    text: str
    change: Callable[[nn.Module, Changes], None] = lambda network, changes: None
    draws: bool = True
    drawn: bool = False
    labels: str = "learned"


@contextmanager
def applied(intervention: Intervention, network: nn.Module, seed: int | None = None) -> Iterator[None]:
    """Within: the network is changed. Afterwards it is as it was, bit for bit, whatever happened in between."""
    changes = Changes(seed)
    try:
        with torch.no_grad():
            intervention.change(network, changes)
        yield
    finally:
        changes.take_back()


LAYER = "layer-"  # begins the names of what is changed in one layer alone
BASE = Intervention(UNCHANGED, UNCHANGED, "the network as it is")


def chosen(network: nn.Module, only: str | None = None, own: Sequence[Intervention] = ()) -> list[Intervention]:
    """BASE and every intervention that the network can have, `own` after the catalogue's.

    only: globs of names by commas. Raises SpecError for a network without interventions and a glob that fits none.
    """
    from suites.analysis.interventions import catalogue

    known = [*catalogue.interventions(network), *own]
    globs = [each.strip() for each in only.split(",")] if only else ["*"]
    for pattern in globs:
        if not any(fnmatchcase(one.name, pattern) for one in known):
            near = get_close_matches(pattern, [one.name for one in known], 3)
            meant = f"did you mean {' or '.join(near)}? It has" if near else "it has"
            raise SpecError(f"no intervention {pattern!r} for this network: {meant} {', '.join(_kinds(known))}")
    return [BASE, *(one for one in known if any(fnmatchcase(one.name, pattern) for pattern in globs))]


def _kinds(known: Sequence[Intervention]) -> list[str]:
    """Globs that name all of them; those of layers are one."""
    kinds = list(dict.fromkeys(one.name.partition("/")[0] for one in known))
    layers = [kind for kind in kinds if kind.startswith(LAYER)]
    globs = [f"{kind}/*" for kind in kinds if kind not in layers]
    return [*globs, f"{layers[0]}/* to {layers[-1]}/*"] if layers else globs


def analyses(network: nn.Module, only: str | None = None, file: Path | None = None) -> list[Analysis]:
    """An analysis of each that is `chosen`, those of a user's `file` too. Raises SpecError as both do."""
    own, origin = of_file(file) if file else ([], "")
    return [_analysis(one, origin if one in own else "catalogue") for one in chosen(network, only, own)]


def of_file(file: Path) -> tuple[list[Intervention], str]:
    """INTERVENTIONS of a user's Python file, which is run, and its SHA-256. Raises SpecError where it has none."""
    source = user_file.source_of(file)
    try:
        found = list(user_file.run(file, source).INTERVENTIONS)
    except Exception as error:  # whatever a user's code raises
        raise SpecError(f"{file} cannot be used: {type(error).__name__}: {error}") from error
    if not found or not all(isinstance(one, Intervention) for one in found):
        raise SpecError(f"{file}: INTERVENTIONS must be a list of suites.analysis.interventions.Intervention")
    return found, source


def _analysis(one: Intervention, origin: str) -> Analysis:
    """origin: "catalogue", or the SHA-256 of the file that the intervention is from."""
    parameters = {"intervention": one.name, "question": one.question, "origin": origin}
    return Analysis(NAME, one.text, partial(measure, one), COLUMNS, parameters, one.draws)


def measure(intervention: Intervention, network: nn.Module, pair: Pair, context: Context) -> Measured:
    """A row per seed with the PSNR of the changed network."""
    seeds, scores = context.seeds, {}
    for together in ([seed] for seed in seeds) if intervention.drawn else [list(seeds)]:
        with applied(intervention, network, together[0]):
            for seed, output in restored(network, pair, context, together, intervention.labels).items():
                check_size(f"{pair.dataset}/{pair.stem}", output, pair.lq, context.task)
                scores[seed] = metrics.score_psnr(output, pair.truth, context.protocol)
    rows = pd.DataFrame({"seed": list(scores), "psnr": [np.nan if one is None else one for one in scores.values()]})
    return Measured(rows)


def restored(
    network: nn.Module, pair: Pair, context: Context, seeds: Sequence[int | None], labels: str = "learned"
) -> dict[int | None, np.ndarray]:
    """The restored image float32 [sH, sW, C] by seed of the routing noise, as `evaluate` restores it.

    Tiles of one size, of all seeds, go through the network together where that is faster (PIXELS).
    """
    device, protocol = context.device, context.protocol
    x = rearrange(torch.from_numpy(pair.lq), "h w c -> 1 c h w").to(device)
    cut = tiling.parts(x, sort_key(network, pair.lq, labels, device), protocol.tiling)
    work = [(seed, *part) for seed in seeds for part in cut]
    by_size: dict[tuple[int, int], list] = {}
    for item in work:
        by_size.setdefault(tuple(item[2].shape[-2:]), []).append(item)
    outputs: dict[int | None, list] = {seed: [] for seed in seeds}
    routed = models.capabilities_of(network).routed
    with inference(network, device, protocol.precision):
        for (height, width), items in by_size.items():
            together = max(1, PIXELS[device.type] // (height * width))
            for start in range(0, len(items), together):
                batch = items[start : start + together]
                if routed:
                    keys = [noise_key(seed or 0, 0, pair.stem, tile.index) for seed, tile, *_ in batch]
                    network.noise = PhiloxGumbel(keys)
                try:
                    y = _call(network, [part for *_, part, _ in batch], [own for *_, own in batch])
                except torch.OutOfMemoryError:
                    raise EvaluationError(
                        f"{pair.stem}: {len(batch)} tiles of {height}x{width} pixels do not fit into the memory of "
                        f"{device}: use fewer --jobs, or smaller tiles"
                    ) from None
                for (seed, tile, *_), one in zip(batch, y.split(1), strict=True):
                    outputs[seed].append((tile, (height, width), one))
        whole = {seed: tiling.join(own, *x.shape[-2:]) for seed, own in outputs.items()}
        return {seed: rearrange(one, "1 c h w -> h w c").float().cpu().numpy() for seed, one in whole.items()}


def _call(network: nn.Module, parts: list[Tensor], labels: list[Tensor | None]) -> Tensor:
    image = torch.cat(parts)
    return network(image) if labels[0] is None else network(image, torch.cat(labels))
