"""A user's own pictures, restored: file by file, so that one bad file costs only itself."""

from pathlib import Path

from rich.console import Console

from suites.data import DataError
from suites.data.pictures import list_pictures, load_picture
from suites.evaluation.evaluate import EvaluationError, restore_picture, save_picture
from suites.evaluation.scoring import load_model
from suites.spec import Protocol, Task


def restore(
    source: Path,
    target: Path,
    model: str,
    task: Task,
    weights: Path,
    protocol: Protocol,
    *,
    device: str = "cpu",
    backend: str = "auto",
    console: Console,
) -> int:
    """Restores the picture `source`, or every picture of the folder `source`, into `target`. Returns how many failed.

    A folder's pictures go to `target`/<stem>.png; a single picture to `target`, which is a folder, or a .png file.
    Each is the degraded image itself; gray stays gray, alpha is kept (see `restore_picture`). A line per picture.
    Raises DataError when there is nothing to restore or a picture would be replaced, ModelError for weights that do not
    fit.
    """
    pairs = plan(source, target)
    network, protocol = load_model(model, task, weights, protocol, backend=backend, device=device)
    failed = 0
    for picture, restored in pairs:
        try:
            pixels = load_picture(picture, alpha=True)
            output = restore_picture(network, pixels, task, protocol, stem=picture.stem, device=device)
            save_picture(output, restored)
        except (DataError, EvaluationError) as error:
            failed += 1
            console.print(f"failed: {error}")
            continue
        console.print(f"{picture} {_size(pixels)} -> {restored} {_size(output)}")
    return failed


def plan(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """(picture, restored picture) for everything that `restore` would do. Raises DataError as it does."""
    if source.is_dir():
        pictures = list(list_pictures(source).values())
        if not pictures:
            raise DataError(f"{source} holds no picture: give a picture, or a folder with some")
        if target.is_file():
            raise DataError(f"{target} is a file: the pictures of a folder are restored into a folder")
    elif source.is_file():
        if target.suffix and not target.is_dir():
            if target.suffix.lower() != ".png":
                raise DataError(f"{target}: restored pictures are written as .png, which loses nothing")
            return [(source, target)]
        pictures = [source]
    else:
        raise DataError(f"{source} does not exist: give a picture or a folder of pictures")
    pairs = [(picture, target / f"{picture.stem}.png") for picture in pictures]
    if any(picture.resolve() == restored.resolve() for picture, restored in pairs):
        raise DataError(f"{target} is the folder of the pictures themselves: choose another, so that none is replaced")
    return pairs


def _size(pixels) -> str:
    return f"{pixels.shape[0]}x{pixels.shape[1]}"
