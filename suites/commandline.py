"""What commands share: options, where things are by default, and which errors are a user's."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from results import records
from suites.data import check, listing
from suites.spec import check_choice

STORE = Path(__file__).resolve().parent.parent / "results" / "runs"
DATA = Path("data").resolve() if Path("data").is_dir() else None
DATA_VARIABLE, DATA_HELP = "MAMBAIR_BENCH_DATA", "folder of <Dataset>/ folders, or ./data"

Data = Annotated[Path | None, Option(envvar=DATA_VARIABLE, help=DATA_HELP)]
Results = Annotated[Path, Option("--results", help="the result store")]
Device = Annotated[str | None, Option(help="cpu, cuda or cuda:N; a GPU when there is one")]
Backend = Annotated[str, Option(help="auto, or a scan backend that `doctor` lists")]
TaskName = Annotated[str, Option("--task", help="sr-x2, denoise-15, jpeg-10, ...")]
Tiles = Annotated[str, Option(help="official, none, or a number in place of 200")]
Precision = Annotated[str, Option(help="fp32, tf32, tf32x3 or bf16")]
Json = Annotated[Path | None, Option("--json", help="also write the result to this file")]
Open = Annotated[bool, Option("--open", help="show it when it is written")]
Action = Annotated[str, Argument(help="list or check")]


def add_data(parser: ArgumentParser) -> None:
    """The option --data of a module's command, as runner.py's commands have it."""
    named = os.environ.get(DATA_VARIABLE)
    parser.add_argument("--data", type=Path, default=Path(named) if named else DATA, help=DATA_HELP)


def explain(error: Exception) -> str | None:
    """One line for a mistake that was foreseen; None for a bug. What users can mend has an exception class of ours."""
    message = None
    if hasattr(error, "format_message"):  # typer's own
        message = f"{error.format_message()} (see runner.py --help)"
    elif isinstance(error, OSError) or type(error).__module__.partition(".")[0] in (
        *("models", "suites", "results", "reports"),
    ):
        message = str(error)
    return message and " ".join(message.split())


def guard(main: Callable[[], int | None]) -> int | None:
    """What a module's command returns; what `explain` can explain is one line and exit status 2, as in runner.py."""
    try:
        return main()
    except Exception as error:
        if (line := explain(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2) from None


def frame_lines(frame: Any) -> list[str]:
    """A DataFrame as it is printed, without its index."""
    return frame.to_string(index=False, na_rep="-").splitlines()


def data_lines(action: str, data: Path | None) -> tuple[list[str], bool]:
    """What `data list` or `data check` prints, and whether all is well. Raises SpecError for another action."""
    check_choice("action", action, ("list", "check"))
    if action == "list":
        return frame_lines(listing(data)), True
    images = check(data)
    odd = images[images["state"] != "ok"]
    counts = images["state"].eq("ok").groupby(images["dataset"], sort=False).agg(["sum", "count"])
    told = ", ".join(f"{name} {found} of {count}" for name, found, count in counts.itertuples())
    return [*(frame_lines(odd) if len(odd) else ()), f"standard images: {told}"], not len(odd)


def save(path: Path | None, value: Any) -> None:
    """Writes the JSON that was asked for with --json, in one step; nothing where it was not."""
    if path:
        records.write_json(path, value)
