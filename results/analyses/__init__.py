"""What was asked of trained networks (`runner.py analyse`): a row per image and seed, and arrays that figures draw.

    <root>/analyses/<hash>/config.json        {"key", "expected", "question", "columns"}
    <root>/analyses/<hash>/environment.json   {label: machine, commit, command, started}
    <root>/analyses/<hash>/rows.parquet       image, pixels, seed, environment (label), then the analysis' own columns
    <root>/analyses/<hash>/arrays/<image>.safetensors    named arrays, where an analysis has some

<hash> names the key (`records.key_of`): analysis with its parameters, model, weights (SHA-256), task, dataset,
protocol. `folder.py` reads and writes one, `committed.py` those under results/measured, and `load` gives both.
"""

from collections.abc import Iterable
from pathlib import Path

from results.analyses import committed, folder
from results.analyses.folder import MEAN, Record, key
from results.records import StoreError

__all__ = ["MEAN", "Record", "chosen", "every", "key", "load"]


def load(root: Path, name: str | None = None, measured: Path | None = None) -> tuple[list[Record], list[str]]:
    """The records of a store at `root` and those that are committed, and a line for each that cannot be read.

    name: of the analysis; None for all. measured: in place of results/measured. A record that there is several times is
    taken as `chosen` says.
    """
    records, problems = every(root, measured)
    return chosen([record for record in records if name is None or record.key["analysis"] == name]), problems


def every(root: Path, measured: Path | None = None) -> tuple[list[Record], list[str]]:
    """All records, the store's first: what was asked twice, on two machines perhaps, is there twice."""
    records, problems = committed.load(measured)
    own = []
    for path in folder.folders(root):
        try:
            own.append(folder.read(path))
        except StoreError as error:
            problems.append(str(error))
    return own + records, problems


def chosen(records: Iterable[Record]) -> list[Record]:
    """Of records of one hash the one with most rows, the first of equals: rows of two machines are never mixed."""
    found: dict[str, Record] = {}
    for record in records:
        if record.hash not in found or len(record.rows) > len(found[record.hash].rows):
            found[record.hash] = record
    return sorted(found.values(), key=lambda record: record.hash)
