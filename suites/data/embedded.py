"""The embedded pictures: natural photographs inside the scikit-image package, read from its folder, never fetched.

Photographs only: no microscopy, no drawings, no page of text. Both lists hold PNG files only, because the pixels of a
JPEG depend on its decoder. The two motorcycles are one scene seen twice, so they are on the same side.
"""

from importlib.util import find_spec
from pathlib import Path

from suites.data.pictures import DataError

TRAIN = ("astronaut", "brick", "coins", "grass", "gravel", "moon", "motorcycle_left", "motorcycle_right")
TEST = ("camera", "chelsea", "coffee")


def folder() -> Path:
    """Where scikit-image keeps its pictures. Nothing of it is imported: its data module would download what it lacks.

    Raises DataError without scikit-image.
    """
    package = find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        raise DataError("the embedded pictures are those of scikit-image, which is not installed: pip install it")
    return Path(package.submodule_search_locations[0]) / "data"


def files(stems: tuple[str, ...]) -> dict[str, Path]:
    """The file of every stem. Raises DataError for those that the installed scikit-image does not bring along."""
    found = {stem: folder() / f"{stem}.png" for stem in stems}
    lacking = [path.name for path in found.values() if not path.is_file()]
    if lacking:
        raise DataError(
            f"the installed scikit-image has no {', '.join(lacking)} in {folder()}: install the version of "
            "constraints.txt"
        )
    return found
