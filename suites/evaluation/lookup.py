"""Weights that a user names, as a file or in words: a file is scored first where the store lacks its scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.evidence import Evidence
from results.store import Store
from suites import degradation_file
from suites.network_file import NetworkFile
from suites.spec import BASELINES, PEER, Protocol, SpecError, Task, protocol_for

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Named:
    """What a user typed for weights: "MODEL FILE", "FILE", or words that no file is meant by. network: the class of
    models that the catalogue does not have."""

    text: str
    network: NetworkFile | None = None

    @property
    def parts(self) -> tuple[str, Path | None]:
        """Model and file; "" and None where they are not said."""
        model, _, file = ("", "", self.text) if Path(self.text).is_file() else self.text.partition(" ")
        path = Path(file.strip())
        return (model, path) if file.strip() and path.is_file() else (self.text.strip(), None)

    def network_of(self, model: str) -> NetworkFile | None:
        import models

        return None if model in (*models.names(), *BASELINES, PEER) else self.network


def words(
    side: Named,
    store: Store,
    task: str | None,
    sets: Sequence[str],
    *,
    device: str | None = None,
    data: Path | None = None,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> str:
    """The words by which its records are found: words as they are, "MODEL FILE" or "FILE" as the hash.

    Where nothing is stored or committed of a file's weights on one of `sets` by the official protocol (any seed), all
    of `sets` are scored. Raises SpecError where that needs a network, a task or sets that are not named, or when the
    store refuses a score; otherwise as `scoring.score`.
    """
    model, path = side.parts
    if path is None:
        return side.text
    import models

    digest = models.weights_hash(path)
    known = _scored_on(Evidence(store), model, digest, task and degradation_file.task(task).name)
    if known and known.issuperset(sets):
        return f"{model} {digest}".strip()
    if not (model and task and sets):
        raise SpecError(
            f"{path} has no scores yet{' on ' + ', '.join(sets) if sets else ''}: to score it, name its network "
            f"('mambairv2-light {path}'), --task and --sets"
        )
    from suites.environment import choose_device
    from suites.evaluation import scoring

    parsed = degradation_file.task(task)
    where = {"store": store, "device": choose_device(device), "data": data, "progress": progress}
    where |= {"weights": path, "network": side.network_of(model)}
    result = scoring.score(model, parsed, sets, protocol_for(model, parsed), **where)
    if result.stopped:
        raise result.stopped
    if result.refused:
        raise SpecError(f"{path}: {'; '.join(result.refused)}")
    return f"{model} {path.name} {digest}"


def write_crops(
    folder: Path,
    sides: Mapping[str, Named],
    images: Sequence[Mapping[str, Any]],
    protocols: Sequence[Mapping[str, Any]],
    task: Task,
    *,
    device: str,
    data: Path | None = None,
) -> list[Path]:
    """Restores `images` (dataset, image, and PSNR by side) by both sides, and writes of each the crop in which they
    differ most beside the truth: <folder>/<dataset>-<image>.png.

    protocols: of the sides, with seeds. Raises SpecError for a side that is no file, and as `load_model`.
    """
    from suites.data import find
    from suites.data.degradations import degrade
    from suites.evaluation import crops, evaluate

    loaded = [_loaded(side, task, how, device) for side, how in zip(sides.values(), protocols, strict=True)]
    written = []
    for one in images:
        picture = find(one["dataset"], data).load(one["image"])
        lq, truth = degrade(task, picture.pixels, loaded[0][1].lr_route)
        restored = [evaluate.restore(model, lq, how, one["image"], device=device) for model, how in loaded]
        told = [f"{name} {one[name.lower()]:.2f} dB" for name in sides]
        path = folder / f"{one['dataset']}-{one['image']}.png"
        evaluate.save_picture(crops.side_by_side(task, lq, restored, truth, told), path)
        written.append(path)
    return written


def _loaded(side: Named, task: Task, protocol: Mapping[str, Any], device: str) -> "tuple[nn.Module, Protocol]":
    from suites.evaluation import scoring

    model, path = side.parts
    if path is None or not model:
        raise SpecError(f"--crops restores pictures: name {side.text!r} as 'MODEL FILE'")
    asked = replace(Protocol.official(task), **{name: value for name, value in protocol.items() if value is not None})
    return scoring.load_model(model, task, path, asked, network=side.network_of(model), device=device)


def _scored_on(evidence: Evidence, model: str, digest: str, task: str | None) -> set[str]:
    """The sets on which the weights were scored in whole by the official protocol; what a network does not have is
    None in its own."""

    def fits(row: dict[str, Any]) -> bool:
        official = {**Protocol.official(Task.parse(row["task"])).to_dict(), "seed": row["protocol"]["seed"]}
        own = all(value in (None, official[name]) for name, value in row["protocol"].items())
        return (
            own and row["complete"] and row["task"] == (task or row["task"]) and row["model"] == (model or row["model"])
        )

    rows = evidence.evaluations[evidence.evaluations["weights"] == digest].to_dict("records")
    return {row["dataset"] for row in rows if fits(row)}
