"""docs/tutorial.md, as it stands: its files written, its commands run, and what they print held against what it shows.

Numbers differ from machine to machine and are not compared, hashes of configurations are; the report is of the store
alone, without what is committed (tests/reports/pages has that).
"""

import re
import shlex
import sys
from pathlib import Path

import pytest
import typer

import runner
from results import measured
from results.store import Store

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"(?<![\w])[+-]?\d[\d,]*(?:\.\d+)?")


def shown(line: str) -> str:
    """Without numbers, runs of spaces and what frames a table."""
    return " ".join(NUMBER.sub("#", re.sub(r"weights [0-9a-f]{8}", "weights #", line)).split())


def holds(printed: str, expected: str) -> None:
    """Every line of `expected` is one of `printed`, in order; `...` stands for whatever follows in a line."""
    lines = iter([shown(line) for line in printed.splitlines()])
    for line in filter(None, (shown(each) for each in expected.splitlines())):
        if line == "...":
            continue
        whole, begins = line.removesuffix("...").strip(), line.endswith("...")
        assert any(one.startswith(whole) if begins else one == whole for one in lines), (line, printed)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_every_command_and_its_output_is_true(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAMBAIR_BENCH_DATA", raising=False)
    store, ran = tmp_path / "results" / "runs", 0
    store.mkdir(parents=True)  # a store that is named must be there
    blocks = BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text())
    for number, (language, text) in enumerate(blocks):
        if language == "python":
            name = text.splitlines()[0].removeprefix("# ")
            Path(name).write_text(text)
            if f".venv/bin/python {name}" in blocks[number + 1][1]:
                exec(compile(text, name, "exec"), {})
        if language != "sh":
            continue
        name, *arguments = shlex.split(text.replace("\\\n", " ").removeprefix("runner.py "))
        if name == "report":
            (tmp_path / "nothing").mkdir()
            monkeypatch.setattr(measured, "FOLDER", tmp_path / "nothing")
        own = typer.main.get_command(runner.app).commands[name]
        where = ["--results", str(store)] if any("--results" in one.opts for one in own.params) else []
        monkeypatch.setattr(sys, "argv", ["runner.py", name, *arguments, *where])
        capsys.readouterr()
        assert runner.main() == 0, capsys.readouterr()
        language, expected = blocks[number + 1]
        assert language == "text", text
        holds(capsys.readouterr().out, expected)
        ran += 1
    assert ran >= 9 and (store / "report.html").stat().st_size > 10**5
    for path in re.findall(r"results/runs/([0-9a-f]{16})", "".join(text for _, text in blocks)):
        assert (Store(store).root / path).is_dir()
