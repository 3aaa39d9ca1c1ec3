"""Before the first cell starts: can these cells run at all, and here?"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import models
from models.checkpoints import read_state
from models.ops.scan import BackendError, resolve
from suites import variant
from suites.data import DataError, find, find_training
from suites.data.degradations import degrade
from suites.spec import Cell, SpecError
from suites.training import initial
from suites.training.processes import Processes


def check_data(cells: Sequence[Cell], data: Path | None) -> None:
    """Looks for every dataset before the first cell starts. Raises DataError, a sentence for each that is missing."""
    wanted = {(find, name) for cell in cells for name in cell.test_sets}
    wanted |= {(find_training, name) for cell in cells for name in cell.train_sets}
    if data is None and (away := sorted({name for _, name in wanted} - {"embedded", "embedded-train"})):
        raise DataError(f"{', '.join(away)}: no folder of datasets was given: use --data DIR (or MAMBAIR_BENCH_DATA)")
    missing = []
    for look, name in sorted(wanted, key=lambda pair: (pair[0] is find_training, pair[1])):
        try:
            look(name, data)
        except DataError as error:
            missing.append(str(error))
    if missing:
        raise DataError("; ".join(dict.fromkeys(missing)))


def check_processes(cells: Sequence[Cell], processes: int) -> None:
    """Raises SpecError, naming the cell, where a batch's parts cannot be shared evenly by so many processes."""
    if processes < 1:
        raise SpecError(f"--processes-per-cell {processes}: at least one process is needed")
    for cell in cells:
        try:
            Processes(count=processes).parts(cell.budget.accumulate)
        except SpecError as error:
            raise SpecError(f"{cell.name}: {error}") from error


def check_initial(cells: Sequence[Cell], file: Path | None) -> None:
    """Loads the weights in `file` into every distinct network of those cells that start from given weights.

    Raises SpecError, naming the cell, when there is no file, when it holds other weights than the cells name, or when
    they do not fit; OSError and ModelError for a file that cannot be read.
    """
    starting = [cell for cell in cells if cell.initial is not None]
    if not starting:
        return
    if file is None or any(cell.initial.weights is None for cell in starting):
        raise SpecError(f"{starting[0].name} starts from given weights: name their file with --init FILE")
    state = read_state(file)
    found, seen = models.weights_hash(state), []
    for cell in starting:
        if cell.initial.weights != found:
            raise SpecError(f"{cell.name} starts from the weights {cell.initial.weights[:16]}; {file} holds others")
        if (network := (cell.variant, cell.task, cell.initial)) not in seen:
            seen.append(network)
            model = variant.build(cell.variant, cell.task)
            try:
                initial.load(model, state, cell.initial)
            except (models.ModelError, SpecError) as error:
                advice = "--only chooses cells, such as '*/sr-x2/*'; --init-new and --init-without name tensors"
                raise SpecError(f"{cell.name} cannot start from {file}: {error} ({advice})") from error


def check_cells(cells: Sequence[Cell], backend: str, device: str, own: Path | None = None) -> None:
    """Checks the arguments of every distinct network, and looks for the scan backend and the precisions on `device`
    ("meta": on none in particular). own: the file of variants that are a class in one.
    Raises ModelError, BackendError or SpecError for what no process could run."""
    for cell in cells:
        if not cell.train_sets or not cell.test_sets:
            raise SpecError(f"{cell.name}: train_sets or test_sets names no dataset, and a run needs both")
    for cell in {cell.task: cell for cell in cells if cell.task.kind == "custom"}.values():
        side = cell.task.scale * cell.budget.patch
        degrade(cell.task, np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8), None)
    with warnings.catch_warnings():  # the cells say it
        warnings.simplefilter("ignore")
        resolve(backend, torch.device(device))
    if device != "meta":
        for name in sorted({name for cell in cells for name in (cell.budget.precision, cell.protocol.precision)}):
            if (reason := models.unsupported(name, device)) is not None:
                raise models.ModelError(f"{reason} (--set precision=NAME)")
    seen = []
    for cell in cells:
        if (network := (cell.variant, cell.task, cell.protocol)) not in seen:
            seen.append(network)
            if cell.variant.source is None:
                _check_network(cell)
            else:
                _check_class(cell, own)


def _check_network(cell: Cell) -> None:
    """The arguments of the cell's network as it is trained, and as it is scored; no network is built."""
    arguments, routing = cell.task.network | cell.variant.overrides, cell.protocol.routing
    try:
        trained = models.configure(cell.variant.model, **arguments)
        if routing is not None:
            models.configure(cell.variant.model, **arguments | {"routing": routing})
    except TypeError as error:
        raise SpecError(f"{cell.name}: {error}") from error
    order = vars(trained).get("prompt_order", cell.protocol.prompt_order)
    if order != cell.protocol.prompt_order:
        told = f"the network has prompt_order {order!r}, its protocol {cell.protocol.prompt_order!r}"
        raise SpecError(f"{cell.name}: {told}")


def _check_class(cell: Cell, own: Path | None) -> None:
    """A class of the user's, on a patch of zeros: does it make a picture of the right size, and can it be trained?"""
    network = variant.build(cell.variant, cell.task, own=own)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise SpecError(f"{cell.name}: {cell.variant.model} has no parameter to train")
    shape = 1, cell.task.channels, cell.budget.patch, cell.budget.patch
    try:
        with torch.no_grad():
            made = network.eval()(torch.zeros(shape))
    except Exception as error:  # whatever a user's code raises
        raise SpecError(f"{cell.name}: of {list(shape)} it makes {type(error).__name__}: {error}") from error
    side = cell.task.scale * cell.budget.patch
    wanted = [1, cell.task.channels, side, side]
    if not isinstance(made, torch.Tensor) or list(made.shape) != wanted:
        found = list(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
        raise SpecError(f"{cell.name}: of {list(shape)} it makes {found}, and {cell.task.name} needs {wanted}")


def obstacles(
    cells: Sequence[Cell],
    backend: str,
    device: str,
    data: Path | None,
    init: Path | None = None,
    own: Path | None = None,
) -> list[str]:
    """Why these cells, which could be planned for another machine, cannot run here: lines, or none.

    init: file of the weights that cells start from. Raises what `check_cells` does for what could not run anywhere, and
    what `check_initial` does for a file.
    """
    check_cells(cells, backend, "meta", own)
    if init is not None:
        check_initial(cells, init)
    found = []
    for check in (
        lambda: check_cells(cells, backend, device, own),
        lambda: check_data(cells, data),
        lambda: check_initial(cells, init),
    ):
        try:
            check()
        except (models.ModelError, BackendError, DataError, SpecError) as error:
            found.append(f"cannot run here: {error}")
    return found
