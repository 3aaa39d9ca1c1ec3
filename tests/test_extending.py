"""The diffs of docs/extending.md: each applies to the tree as it is, and the command below it shows what it adds."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^## (.+?)\n.*?^```diff\n(.*?)^```\n.*?^```sh\nrunner\.py (.*?)^```$", re.DOTALL | re.MULTILINE)
SECTIONS = SECTION.findall((ROOT / "docs" / "extending.md").read_text())
SHOWN = {  # what the command prints only with the change
    "A switch of the network: two files": "no-position",
    "A peer network: two files": "1,227,340",
    "A dataset: one file": "DIV2K-valid",
    "A report table: two files": "butterfly",
    "A figure: two files": "tiles.png",
}
COUNTS = {"one": 1, "two": 2}


@pytest.mark.parametrize(("title", "diff", "command"), SECTIONS, ids=[title for title, *_ in SECTIONS])
def test_a_change_touches_what_it_says_and_works(title, diff, command, tmp_path):
    tree = tmp_path / "tree"
    for name in ("models", "suites", "results", "reports"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    for name in ("runner.py", "analyse.py", "score.py"):
        shutil.copy(ROOT / name, tree)
    (tree / "store").mkdir()
    subprocess.run(["git", "apply", "-"], cwd=tree, input=diff, text=True, check=True)
    assert len(re.findall(r"^diff ", diff, re.MULTILINE)) == COUNTS[title.partition(": ")[2].partition(" ")[0]]
    own = ["--results", "store"] if command.startswith(("run ", "tables ")) else []
    clean = {name: value for name, value in os.environ.items() if name != "MAMBAIR_BENCH_DATA"}
    line = [sys.executable, "runner.py", *shlex.split(command), *own]
    found = subprocess.run(line, cwd=tree, env=clean, capture_output=True, text=True)
    assert found.returncode == 0 and SHOWN[title] in found.stdout, found.stdout + found.stderr


def test_every_section_is_tried():
    assert [title for title, *_ in SECTIONS] == list(SHOWN)
