"""What a rendered table shows of its frame: a list of blocks, by the kind of the frame."""

from collections.abc import Iterator

import pandas as pd

from reports.tables.blocks.block import Block
from reports.tables.blocks.interventions import changes
from reports.tables.blocks.paper import as_the_paper
from reports.tables.blocks.plain import plain
from reports.tables.blocks.protocol import settings
from reports.tables.blocks.trained import family


def blocks(frame: pd.DataFrame) -> Iterator[Block]:
    """The blocks of a frame of `reports.tables.index.table`, in order."""
    kind = next(iter(frame["kind"]), "paper")
    if kind == "sensitivity":
        for (origin, task), part in frame[frame["metric"] == "psnr"].groupby(["setting", "task"], sort=False):
            yield from settings(origin, task, part)
    elif kind == "interventions":
        for (origin, task), part in frame.groupby(["setting", "task"], sort=False):
            yield from changes(origin, task, part)
    elif kind == "trained":
        for (task, _, dataset), part in frame.groupby(["task", "study", "dataset"], sort=False):
            yield family(task, dataset, part)
    elif kind == "plain":
        yield plain(frame)
    else:
        yield from as_the_paper(frame)
