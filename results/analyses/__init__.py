"""What was asked of trained networks (`runner.py analyse`): a row per image and seed, and arrays that figures draw.

    <root>/analyses/<hash>/config.json        {"key", "expected", "question", "columns"}
    <root>/analyses/<hash>/environment.json   {label: machine, commit, command, started}
    <root>/analyses/<hash>/rows.parquet       image, pixels, seed, environment (label), then the analysis' own columns
    <root>/analyses/<hash>/arrays/<image>.safetensors    named arrays, where an analysis has some

<hash> names the key (`records.key_of`): analysis with its parameters, model, weights (SHA-256), task, dataset,
protocol. `folder.py` reads and writes one, `committed.py` those under results/measured, and `load` gives both.
"""

from pathlib import Path

from results.analyses import committed, folder
from results.analyses.folder import Record, key
from results.records import StoreError

__all__ = ["Record", "key", "load"]


def load(root: Path, name: str | None = None, measured: Path | None = None) -> tuple[list[Record], list[str]]:
    """The records of a store at `root` and those that are committed, and a line for each that cannot be read.

    name: of the analysis; None for all. measured: in place of results/measured. Of what both have, the one with more
    rows is taken, the store's where they have as many: rows of two machines are never mixed.
    """
    records, problems = committed.load(measured)
    found = {record.hash: record for record in records}
    for path in folder.folders(root):
        try:
            own = folder.read(path)
        except StoreError as error:
            problems.append(str(error))
            continue
        if own.hash not in found or len(own.rows) >= len(found[own.hash].rows):
            found[own.hash] = own
    chosen = [record for record in found.values() if name is None or record.key["analysis"] == name]
    return sorted(chosen, key=lambda record: record.hash), problems
