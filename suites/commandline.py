"""What the sub-commands of runner.py share: their options, where things are by default, which errors are a user's.

`runner.py --help` loads this module, so nothing heavy is imported before a function here needs it.
"""

import os
import shutil
import sys
import threading
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from typer import Argument, Context, Option, Typer, launch

from results.sets import BUDGETS
from suites.interruption import interruptible

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "results" / "runs"
DATA = Path("data").resolve() if Path("data").is_dir() else None
DATA_VARIABLE, DATA_HELP = "MAMBAIR_BENCH_DATA", "folder of <Dataset>/ folders, or ./data"
PATIENCE_S = 2.0  # before a command that shows nothing says what it is doing
INTERRUPTED = 130  # exit status after Ctrl-C
# Help is as wide as the terminal; 160 columns where it is piped into a file or a pager.
WIDTH = shutil.get_terminal_size((160, 24)).columns
CONTEXT = {"help_option_names": ["-h", "--help"], "terminal_width": WIDTH, "max_content_width": WIDTH}

# What Ctrl-C leaves behind, by command; the others only read, or write everything at their end.
KEPT = {
    "run": "finished cells are stored, and the same command continues the others from their last checkpoints",
    "pilot": "finished cells and scores are stored, and the same command continues the others",
    "curve": "finished cells and scores are stored, and the same command continues the others",
    "analyse": "what was measured so far is stored, and the same command goes on",
    "compare": "every image scored before that is stored, and the same command scores the others",
    "sweep": "the points scored so far are stored, and the same command scores the others",
    "evaluate": "every image scored before that is stored, and the same command scores the others",
    "restore": "the pictures listed above are written, and the same command goes on with the others of a folder",
    "profile": "--json FILE holds the sizes that were finished; a sweep goes on with the points that it lacks",
    "breakdown": "FILE holds the networks that were finished",
    "import": "what was merged before is in the store; import the archive again for the rest",
    "verify": "the store is as it was",
}
NOTHING_KEPT = "nothing was written"

# What a command does before it has something to show, said after PATIENCE_S seconds.
DOING = {
    "run": "checking the cells",
    "tables": "reading what is stored",
    "report": "reading what is stored",
    "figures": "reading what is stored",
    "evaluate": "loading the network",
    "compare": "reading what is stored",
    "restore": "loading the network",
    "perceptual": "loading the metrics",
    "analyse": "loading the network",
    "complexity": "counting",
    "profile": "loading the networks",
    "breakdown": "loading the networks",
    "verify": "reading the cell",
    "data": "reading the pictures",
    "import": "reading the archive",
    "export": "reading the store",
    "doctor": "loading PyTorch",
}


out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(soft_wrap=True, highlight=False, markup=False, stderr=True)


def tasks() -> list[str]:
    from suites.spec import Task

    return Task.names()


def suites() -> list[str]:
    from suites.recipes import SUITES

    return list(SUITES)


# Options of several commands.
Version = Annotated[bool, Option("--version", help="print the version and the commit")]
Data = Annotated[Path | None, Option(envvar=DATA_VARIABLE, help=DATA_HELP)]
Results = Annotated[Path, Option("--results", help="the result store", show_default="results/runs")]
Device = Annotated[str | None, Option(help="cpu, cuda or cuda:N", show_default="a GPU when there is one")]
Backend = Annotated[str, Option(help="auto, or a scan backend that `doctor` lists")]
TASK_HELP = "sr-x2, denoise-15, jpeg-10, ...; custom:FILE.py:function, a degradation of yours (FILE is run)"
TaskName = Annotated[str, Option("--task", help=TASK_HELP, autocompletion=tasks)]
Precision = Annotated[str | None, Option(help="fp32, tf32, tf32x3 or bf16")]
Tiles = Annotated[str | None, Option(help="official, none, or a number in place of 200")]
Routing = Annotated[str | None, Option(help="gumbel (as the official code) or argmax")]
Samples = Annotated[int | None, Option(help="samples of the routing noise to average over", show_default="1")]
NoiseSeed = Annotated[int | None, Option("--seed", help="of the routing noise", show_default="0")]
OwnNetwork = Annotated[
    Path | None, Option("--network", help="FILE.py:Class, a network of yours (FILE is run); or an official option file")
]
ClassFile = Annotated[Path | None, Option("--network", help="FILE.py:Class, a network of yours; FILE is run")]
Arguments = Annotated[list[str] | None, Option("--set", help="KEY=VALUE, an argument of --network FILE.py:Class")]
Json = Annotated[Path | None, Option("--json", help="also write the result to this file")]
MayReplace = Annotated[bool, Option("--overwrite", help="replace files that exist")]

# run
SuiteName = Annotated[str | None, Argument(metavar="SUITE", autocompletion=suites)]
OtherTask = Annotated[str | None, Option("--task", help=f"in place of the suite's: {TASK_HELP}")]
CellTask = Annotated[
    str | None, Option("--task", help="of a cell with a degradation of yours: custom:FILE.py:function")
]
Exact = Annotated[bool, Option("--exact", help="the same bits, by another commit or on another machine too")]
OptionFile = Annotated[Path | None, Option("--options", help="official option file (BasicSR) in place of SUITE")]
Only = Annotated[str | None, Option(help="globs of cell names, by commas: variant/task/seed-N")]
WithBase = Annotated[bool, Option("--base/--no-base", help="with --only: also what the cells are compared with")]
SET_HELP = "KEY=VALUE of budget, protocol or network; with --network of its class, where neither of the first has it"
Changes = Annotated[list[str] | None, Option("--set", help=SET_HELP)]
Vary = Annotated[list[str] | None, Option("--vary", help="KEY=VALUE ... of --network's class: once more, so changed")]
Seeds = Annotated[str | None, Option(help="0,1,2")]
BudgetName = Annotated[str | None, Option(help=f"{', '.join(BUDGETS[:-1])} or {BUDGETS[-1]}")]
Init = Annotated[Path | None, Option("--init", help="weights that every cell starts from; they must fit in whole")]
InitNew = Annotated[str | None, Option("--init-new", help="globs of tensors, by commas, that start new all the same")]
InitWithout = Annotated[str | None, Option("--init-without", help="globs of tensors that only the file has")]
Gpus = Annotated[int | None, Option(help="spread the cells over this many GPUs")]
PER_CELL_HELP = "train each cell in so many processes, on a GPU each; they share the batch's parts (accumulate)"
PerCell = Annotated[int, Option("--processes-per-cell", help=PER_CELL_HELP)]
Sums = Annotated[str, Option(help="of their gradients: in-order (the bits of one process) or all-reduce")]
Deterministic = Annotated[bool, Option("--deterministic", help="the same bits on the same machine")]
Launcher = Annotated[str, Option("--launch", help="local or submitit")]
Jobs = Annotated[int | None, Option(help="cells at a time, in a process of their own")]
Concurrent = Annotated[int, Option(help="cells that a process trains at a time")]
Scorers = Annotated[int, Option(help="processes that score while another trains")]
Warm = Annotated[int, Option(min=0, help="processes that compile the GPU's kernels first, into Triton's cache")]
Seconds = Annotated[float, Option(help="stop after so long; the same command continues", show_default="no limit")]
HUNG_HELP = "seconds without a step or an image after which a process is ended, and its cells tried again"
HungAfter = Annotated[float, Option(help=HUNG_HELP, show_default="6 hours")]
DryRun = Annotated[bool, Option("--dry-run", help="the cells and their cost; nothing runs")]

# evaluate, restore
Sets = Annotated[str, Option(help="Set5,Set14,...")]
Weights = Annotated[Path, Option(help=".pth or .safetensors")]
OptionalWeights = Annotated[Path | None, Option("--weights", help=".pth or .safetensors")]
Images = Annotated[str | None, Option(help="glob of stems")]
PromptOrder = Annotated[str | None, Option(help="raster (as the official code) or semantic (paper)")]
LrRoute = Annotated[str | None, Option("--lr", help="how the LR image is made: matlab, once or pil")]
AS_OFFICIAL_HELP = "these are the authors' weights in another file: `tables` compares them with published scores"
AsOfficial = Annotated[bool, Option("--as-official", help=AS_OFFICIAL_HELP)]
Again = Annotated[bool, Option("--again", help="score what is stored too, and compare")]
SaveImages = Annotated[Path | None, Option(help="folder for the restored images")]
Source = Annotated[Path, Argument(metavar="INPUT", help="a picture, or a folder of pictures")]
Target = Annotated[Path, Argument(metavar="OUTPUT", help="a picture (.png), or a folder")]
Model = Annotated[str | None, Option(help="a catalogue model; not needed with --network")]

# compare
COMPARED_HELP = (
    "weights as tables name them ('mambairv2-light 0123abcd'), or 'MODEL FILE', scored where they are not yet"
)
Compared = Annotated[str, Argument(help=COMPARED_HELP)]
ComparedSets = Annotated[str | None, Option("--sets", help="Set5,Set14,...", show_default="all that both have")]
Crops = Annotated[Path | None, Option(help="folder for crops of the images on which A and B differ most")]
ComparedTask = Annotated[str | None, Option("--task", help="sr-x2, ...", show_default="the only one that both have")]

# perceptual
RestoredFolder = Annotated[Path, Argument(metavar="FOLDER", help="of `evaluate --save-images`")]
Metrics = Annotated[str, Option(help="of lpips, dists; lower is better")]

# sweep
ScaledWeights = Annotated[list[str], Argument(metavar="SCALE=WEIGHTS...", help="such as 2=mambairv2_lightSR_x2.pth")]
Points = Annotated[str | None, Option("--only", help="names of points by commas, such as seed-0,argmax/tiles-none")]
Processes = Annotated[int, Option("--jobs", help="points scored at a time; they share the device")]

# analyse
Analysed = Annotated[str, Argument(metavar="MODEL", help="overrides after the name: 'mambairv2-light scans=2'")]
Asked = Annotated[str | None, Option("--only", help="globs of names by commas", show_default="all")]
Changed = Annotated[str | None, Option("--only", help="lam: also under the interventions of these globs")]
Untrained = Annotated[bool, Option("--untrained", help="initial values of seed 0 in place of --weights")]
Draws = Annotated[str, Option("--seeds", help="of the routing noise")]
Human = Annotated[Path | None, Option("--human", help="folder of BSDS500's segmentations by people (.mat)")]
Workers = Annotated[int, Option("--jobs", help="processes that measure at a time; they share the device")]
OwnInterventions = Annotated[
    Path | None, Option("--interventions", help="a Python file with INTERVENTIONS of yours (docs/extending.md)")
]

# complexity, profile, breakdown
Variant = Annotated[str | None, Argument(help="overrides after the name: 'mambairv2-light scans=2'")]
OptionalTask = Annotated[str | None, Option("--task", help="sr-x2, denoise-15, jpeg-10, ...", show_default="sr-x2")]
OutputSize = Annotated[str, Option("--output", help="HEIGHTxWIDTH of the restored image")]
CountSwept = Annotated[
    bool, Option("--swept", help="count every network again that `profile --preset resolution` measures")
]
CountAll = Annotated[bool, Option("--all", help="count every network and size of the published tables again")]
VARIANTS_HELP = "A,B; overrides after a name: 'mambairv2-light scans=2'; of a sweep points too: '*training*'"
Variants = Annotated[str | None, Option("--models", help=VARIANTS_HELP)]
Sizes = Annotated[str | None, Option(help="HEIGHTxWIDTH of the input, several for a sweep", show_default="64x64")]
Modes = Annotated[str | None, Option("--mode", help="inference, training or both", show_default="inference")]
Batches = Annotated[str | None, Option("--batch", help="such as 1,8", show_default="1")]
Precisions = Annotated[str | None, Option("--precision", help="of fp32, tf32, tf32x3, bf16", show_default="fp32")]
Backends = Annotated[str | None, Option(help="scan backends, auto, all that run here, mamba_ssm", show_default="auto")]
LaunchModes = Annotated[
    str | None,
    Option("--launch", help="of eager, compiled, graph (one CUDA graph), tiles (as evaluate)", show_default="eager"),
]
PRESET_HELP = (
    "in place of all lists: goals (docs/performance.md), scans (of these the scans alone), or a sweep that goes on "
    "where it stood: resolution (docs/efficiency.md), ntire (x4: 256x256, and a set's whole pictures)"
)
Preset = Annotated[str | None, Option(help=PRESET_HELP)]
SweptGpus = Annotated[int | None, Option("--gpus", help="of a sweep: GPUs used at a time", show_default="1")]
SweptSeconds = Annotated[float, Option("--seconds", help="of a sweep: stop after so long", show_default="no limit")]
PointLimit = Annotated[
    float | None, Option("--limit", help="of a sweep: seconds of one point", show_default="60, CPU 600")
]
Rounds = Annotated[int, Option(help="times that every candidate is timed")]
JsonTarget = Annotated[Path, Argument(metavar="FILE", help="gets a row per network as soon as it is known")]
OnlyNames = Annotated[str | None, Option("--only", help="MODEL/MODE/PRECISION, ...", show_default="all with a goal")]
Calls = Annotated[int, Option(help="calls that the times are a mean of")]

# export
StoreFolder = Annotated[Path, Argument(metavar="STORE", help="a result store")]
ExportName = Annotated[str, Argument(metavar="MACHINE/NAME", help="of the files under results/measured")]
MadeBy = Annotated[str | None, Option("--command", help="by which it was measured, where the records do not say it")]
MadeWhen = Annotated[str | None, Option("--finished", help="when it was measured, where the records do not say it")]

# tables, report, data
TableNames = Annotated[list[str] | None, Argument(help="one or more; all: every one; without a name, which there are")]
Format = Annotated[str, Option("--format", help="md, csv or tex")]
FIGURE = (
    "scores, forest, way, losses, curve (training), pareto, protocol, resolution, tradeoff, roofline, directions; of "
    "analyses: interventions, layers, memory, lam, erf, decay, redundancy, sgn-classes, sgn-order, prompts"
)
FigureName = Annotated[str, Argument(metavar="NAME", help=FIGURE)]
FigureFormat = Annotated[str, Option("--format", help="png, pdf or svg")]
Documents = Annotated[bool, Option("--documents", help="instead put the tables of committed records into docs/*.md")]
DrawnDocuments = Annotated[bool, Option("--documents", help="instead draw docs/figures/*.png of committed records")]
ReportFormat = Annotated[str, Option("--format", help="html (one file that loads nothing), md or tex")]
Open = Annotated[bool, Option("--open", help="show it when it is written")]
Action = Annotated[str, Argument(help="list or check")]


def main(app: Typer) -> int:
    """Runs `app` on the command line. A mistake that was foreseen is one line on stderr, and the exit status 2; a kill
    (SIGTERM) and a closed terminal end it as Ctrl-C does."""
    command = next(iter(sys.argv[1:]), "")
    try:
        with interruptible(), busy(command):
            status = app(standalone_mode=False) or 0
        if status == INTERRUPTED:
            err.print(interrupted(command))
        return status
    except (BrokenPipeError, SystemExit) as error:
        # Typer and rich answer a broken pipe themselves: by ending the program with status 1.
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever reads, such as `head`, has seen enough
        return 0
    except Exception as error:
        if (message := explain(error)) is None:
            raise  # a bug, shown in full
    err.print(f"error: {message}")
    return 2


def show(lines: Iterable[str], console: Console = out) -> None:
    for line in lines:
        console.print(line)


def ended(result: Any) -> int:
    """Shows the lines of a result; the exit status by whether it is `ok`."""
    show(result.lines())
    return 0 if result.ok else 1


def written(path: Path, open_it: bool = False) -> None:
    """Says where a file was written, and shows it by the system's own program if asked."""
    out.print(f"written: {path}")
    if open_it:
        launch(str(path))


def store(folder: Path) -> Any:
    """The `results.store.Store` in a folder."""
    from results.store import Store

    return Store(folder)


def stored(folder: Path) -> Any:
    """As `store`, to be read alone. Raises SpecError for a folder that was named and is not there."""
    from suites.spec import SpecError

    if folder != STORE and not folder.exists():
        raise SpecError(f"--results {folder} is not there: name a folder that `run` or `evaluate` has written to")
    return store(folder)


def check_model(name: str | None, network: Path | None) -> None:
    """Raises ModelError for a name that is neither a baseline nor of the catalogue, before anything waits for torch.

    With `network`, an option file, the name is the reader's own.
    """
    import models
    from suites.spec import BASELINES, PEER

    if name is not None and network is None and name not in (*BASELINES, PEER):
        models.check_name(name)


def check_readable(file: Path | None) -> None:
    """Raises OSError for a file that cannot be opened, before anything waits for torch."""
    if file is not None:
        file.open("rb").close()


def device(name: str | None) -> str:
    """As `suites.environment.choose_device`."""
    from suites import environment

    return environment.choose_device(name)


def version() -> str:
    """Name and version of pyproject.toml, and the commit of the checkout."""
    from suites import environment

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return f"{project['name']} {project['version']}, commit {environment.commit() or 'unknown: not a checkout'}"


def start(context: Context, print_version: bool) -> None:
    """Before a sub-command: prints the version that was asked for, or the help where no sub-command was given."""
    if print_version:
        print(version())
    elif context.invoked_subcommand is None:
        print(context.get_help())


@contextmanager
def busy(command: str) -> Iterator[None]:
    """Says on stderr what `command` is doing when it takes more than PATIENCE_S seconds."""
    doing = DOING.get(command, "")
    timer = threading.Timer(PATIENCE_S, lambda: doing and print(f"{doing} ...", file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def interrupted(command: str) -> str:
    """What Ctrl-C has left of `command`, in one line."""
    return f"stopped: {KEPT.get(command, NOTHING_KEPT)}"


def explain(error: Exception) -> str | None:
    """One line for a mistake that was foreseen; None for a bug. What users can mend has an exception class of ours."""
    message = None
    if hasattr(error, "format_message"):  # typer's own
        message = f"{error.format_message()} (see runner.py --help)"
    elif type(error).__module__.partition(".")[0] in ("models", "suites", "results", "reports"):
        message = str(error)
    elif isinstance(error, OSError):
        reason = (error.strerror or str(error)).lower()
        message = f"cannot use {error.filename}: {reason}" if error.filename else reason
    return message and " ".join(message.split())


def text_table(rows: Any) -> list[str]:
    """Dictionaries, or a DataFrame, as lines of aligned columns under their names."""
    from tabulate import tabulate

    return tabulate(rows, headers="keys", tablefmt="plain", showindex=False, disable_numparse=True).splitlines()


def data_lines(action: str, data: Path | None) -> tuple[list[str], bool]:
    """What `data list` or `data check` prints, and whether all is well. Raises SpecError for another action."""
    from suites.data import check, listing, unchecked
    from suites.spec import check_choice

    check_choice("action", action, ("list", "check"))
    if action == "list":
        return text_table(listing(data)), True
    images = check(data)
    odd = images[images["state"] != "ok"]
    counts = images["state"].eq("ok").groupby(images["dataset"], sort=False).agg(["sum", "count"])
    told = ", ".join(f"{name} {found} of {count}" for name, found, count in counts.itertuples())
    lines = [*(text_table(odd) if len(odd) else ()), f"standard images: {told or 'no set of them'}"]
    if own := unchecked(data):
        from suites.progress import counted

        named = ", ".join(f"{name} ({counted(count, 'picture')})" for name, count in own.items())
        lines.append(f"without a manifest, so taken as they are: {named}")
    return lines, not len(odd)


def list_lines(data: Path | None) -> Iterable[str]:
    """What `list` prints."""
    import models
    from results import published
    from suites.recipes import SUITES

    yield "suites:"
    yield from (f"  {name:16} {recipe.__doc__.splitlines()[0]}" for name, recipe in SUITES.items())
    yield f"models: {', '.join(models.names())}; baselines bicubic, identity"
    yield from ("datasets:", *data_lines("list", data)[0])
    yield f"tables: {', '.join(published.names())}"
    stored = ("claims", "sensitivity", "interventions", "prompt-quality", *BUDGETS)
    yield f"tables of what is stored, once it is: {', '.join(stored)}"


def check_writable(path: Path | None) -> None:
    """Raises SpecError for a --json FILE that `save` could not write, before anything is measured for it."""
    from suites.spec import SpecError

    if path is None:
        return
    if path.is_dir():
        raise SpecError(f"--json {path} is a folder: give a file")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SpecError(f"--json {path} cannot be written: {folder} is no folder that may be written to")


def save(path: Path | None, value: Any) -> None:
    """Writes the JSON that was asked for with --json, in one step; nothing where it was not."""
    from results import records

    if path:
        records.write_json(path, value)
