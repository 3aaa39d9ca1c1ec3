"""What README.md and docs/ tell the reader to type: every command is one that runner.py takes, and what needs neither a
GPU, nor data, nor minutes is run. The others are listed by name as skipped, with the reason."""

import re
import shlex
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import typer

import models
import runner

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^    (runner\.py .*)$", re.MULTILINE)
INLINE = re.compile(r"`runner\.py ([^`]+)`")
# The first pattern that fits a command says why it is not run; what fits none is.
NOT_RUN = {
    "data check": "needs the standard test images",
    "evaluate *": "needs test images and weights",
    "restore *": "needs pictures and weights",
    "perceptual *": "needs restored pictures and weights",
    "sweep *": "needs test images and weights",
    "analyse *": "needs test images and weights",
    "compare *": "needs stored records",
    "pilot*": "needs training images and a GPU",
    "curve*": "needs training images and a GPU",
    "breakdown *": "needs a GPU",
    "profile *": "takes minutes",
    "run --options *": "needs an option file",
    "run * --dry-run*": None,
    "run *": "trains for minutes",
    "verify *": "needs a stored cell",
    "import *": "needs an archive of results",
    "export *": "needs a store with results",
    "report*": "tests/reports/pages/test_report.py makes one",
    "tables": "tests/reports/tables/test_paper.py lists them",
    "tables smoke": "needs trained cells",
    "tables --documents": "writes into docs/, which tests/reports/pages/test_documents.py does elsewhere",
    "complexity * --all*": "takes minutes",
    "complexity --swept*": "takes minutes",
    "complexity *": "tests/runner/test_plans.py counts networks of a smaller output",
}


def commands() -> list[tuple[str, str]]:
    """(document, command without its program) of every runner.py line in a block."""
    found = {}
    for path in DOCUMENTS:
        if path.name in ("extending.md", "tutorial.md"):  # tests/test_extending.py and test_tutorial.py run theirs
            continue
        text = path.read_text()
        blocks = [block for language, block in FENCE.findall(text) if language in ("", "sh", "bash", "console")]
        lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
        for line in (*lines, *INDENTED.findall(text)):
            line = line.removeprefix("$ ").removeprefix(".venv/bin/python ")
            if line.startswith("runner.py "):
                typed = re.split(r"\s{2,}(?![\s-])|\s#", line.removeprefix("runner.py "))[
                    0
                ]  # what follows says what it does
                found.setdefault(" ".join(typed.split()), path.name)
    return [(document, command) for command, document in found.items()]


def mentions() -> list[tuple[str, str]]:
    """(document, command) of every one in backticks; it may lack arguments."""
    texts = {path.name: " ".join(path.read_text().split()) for path in DOCUMENTS}
    return sorted({(name, command) for name, text in texts.items() for command in INLINE.findall(text)})


def snippets() -> list[tuple[str, str]]:
    return [
        (path.name, block)
        for path in DOCUMENTS
        for language, block in FENCE.findall(path.read_text())
        if language == "python"
    ]


def reason(command: str) -> str | None:
    return next((why for pattern, why in NOT_RUN.items() if fnmatch(command, pattern)), None)


def run_or_skip(case: tuple[str, str]):
    why = reason(case[1])
    marks = [pytest.mark.skip(reason=f"not run: {why}")] if why else []
    return pytest.param(case[1], id=f"{case[0]}: {case[1]}", marks=marks)


COMMANDS = commands()


def test_documents_hold_commands_and_snippets():
    assert len(COMMANDS) > 20 and len(snippets()) >= 2
    assert sum(reason(command) is None for _, command in COMMANDS) >= 7


def parsed(command: str) -> tuple[typer.core.TyperCommand, str, list[str]]:
    """The command that is meant, of a group where it is in one; its name; what stands after it."""
    name, *arguments = shlex.split(command)
    own = typer.main.get_command(runner.app).commands[name]
    while arguments and arguments[0] in getattr(own, "commands", ()):
        name, *arguments = arguments
        own = own.commands[name]
    return own, name, arguments


@pytest.mark.parametrize("command", [pytest.param(command, id=f"{name}: {command}") for name, command in COMMANDS])
def test_every_documented_command_is_one_that_is_taken(command):
    """Sub-command, options and number of arguments; values are the command's own business."""
    own, name, arguments = parsed(command)
    own.make_context(name, arguments)


@pytest.mark.parametrize(("document", "command"), mentions())
def test_every_command_in_the_text_has_the_options_that_are_named(document, command):
    own, _, arguments = parsed(command)
    known = {option for parameter in own.params for option in parameter.opts}
    assert {each for each in arguments if each.startswith("--")} <= known, document


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A folder that looks like the checkout, so that nothing is written into the real one."""
    for path in ROOT.iterdir():
        if path.name in ("docs", "results", "reports", "suites", "models", "runner.py", "analyse.py", "score.py"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAMBAIR_BENCH_DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("command", [run_or_skip(case) for case in COMMANDS])
def test_documented_commands_run(command, checkout, monkeypatch, capsys):
    name, *arguments = shlex.split(command)
    own = typer.main.get_command(runner.app).commands[name]
    where = ["--results", checkout / "store"] if any("--results" in one.opts for one in own.params) else []
    monkeypatch.setattr(sys, "argv", ["runner.py", name, *arguments, *map(str, where)])
    assert runner.main() == 0
    printed = capsys.readouterr()
    assert printed.out and "error" not in printed.err


def official(folder: Path) -> dict[str, object]:
    """What README.md's snippet takes for given: an option file as a dict, weights, an image."""
    torch.save({"params": models.build("mambairv2-light").state_dict()}, folder / "mambairv2_lightSR_x2.pth")
    light = {
        "embed_dim": 48,
        "d_state": 8,
        "depths": [5] * 4,
        "num_heads": [4] * 4,
        "window_size": 16,
        "inner_rank": 32,
    }
    light |= {"num_tokens": 64, "convffn_kernel_size": 5, "mlp_ratio": 1.0, "upsampler": "pixelshuffledirect"}
    network = {"type": "MambaIRv2Light", "upscale": 2, **light}
    return {"options": {"network_g": network}, "image": torch.rand(1, 3, 16, 16)}


GIVEN = {"README.md": official}


@pytest.mark.parametrize(("name", "snippet"), snippets())
def test_documented_snippets_run(name, snippet, checkout, capsys):
    with torch.inference_mode():
        exec(compile(snippet, name, "exec"), GIVEN.get(name, lambda _: {})(checkout))


def test_files_that_documents_link_to_are_there():
    for path in DOCUMENTS:
        targets = re.findall(r"\]\(((?!https?:|#)[^)\s]+)\)", FENCE.sub("", path.read_text()))
        missing = [each for each in targets if not (path.parent / each.partition("#")[0]).exists()]
        assert not missing, path


def test_modules_and_files_that_documents_name_are_there():
    """`suites/…/file.py` and `docs/file.md` in backticks; `<machine>`, globs and what a command writes are no names."""
    for path in DOCUMENTS:
        named = re.findall(r"`((?:models|suites|results|reports|tests|docs)/[\w./-]+)`", path.read_text())
        missing = {each for each in named if not (ROOT / each).exists() and not each.startswith("results/runs")}
        assert not missing, path
