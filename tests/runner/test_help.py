"""What the command line says of itself: list, help, version, completion, without waiting for torch."""

import os
import re
import subprocess
import sys
from pathlib import Path

import runner
from suites import recipes
from suites.spec import SpecError
from tests.runner.helpers import Command


def test_list_names_what_there_is(command: Command) -> None:
    status, out, _ = command("list")
    assert status == 0
    for word in ("smoke", "paper-light-x2", "mambairv2-light", "Urban100", "WED", "embedded", "table3", "tableA1"):
        assert word in out


def test_list_names_every_dataset_that_a_suite_trains_or_scores_on(command: Command) -> None:
    known = {line.split()[0] for line in command("list")[1].splitlines() if line.split()}
    for name in recipes.SUITES:
        for budget in ("smoke", "reduced", "paper"):
            try:
                cells = recipes.choose(name, budget=budget).cells
            except SpecError:
                continue  # a suite without this budget
            assert {one for cell in cells for one in (*cell.train_sets, *cell.test_sets)} <= known


def test_help_holds_the_commands_of_this_version_and_no_other(command: Command) -> None:
    status, out, _ = command("--help")
    names = [line.split()[0] for line in out.split("Commands:")[1].strip().splitlines()]
    assert status == 0
    expected = "list run pilot curve sweep tables evaluate compare complexity profile breakdown restore export import"
    expected += " perceptual verify figures report data doctor analyse"
    assert sorted(names) == sorted(expected.split())
    assert command()[:2] == (0, out) and command("-h")[:2] == (0, out)  # nothing asked for: the help, and no error


def test_version_names_the_commit(command: Command) -> None:
    status, out, _ = command("--version")
    assert status == 0 and re.fullmatch(r"mambair-bench \d+\.\d+\.\d+, commit \S.*\n", out)


def test_help_is_as_wide_as_the_terminal(tmp_path: Path) -> None:
    def widths(**environment: str) -> list[int]:
        out = _processor_seconds("run", "--help", **environment)[1]
        return [len(line) for line in out.splitlines()]

    assert max(widths(COLUMNS="130")) > 80 and max(widths(COLUMNS="130")) <= 130
    assert max(widths()) > 80  # into a pipe
    assert "..." not in _processor_seconds("--help")[1].split("Commands:")[1]  # no sentence is cut short


def test_help_and_list_do_not_wait_for_torch() -> None:
    for arguments in (["--help"], ["run", "-h"], ["--version"], ["list"]):
        _, out, loaded = _processor_seconds(*arguments)
        assert out and not loaded & {"torch", "pandas", "scipy"}
        assert arguments == ["list"] or "numpy" not in loaded


def test_mistakes_are_told_before_torch_is_loaded() -> None:
    light = "mambairv2-light --task sr-x2"
    mistakes = (
        "evaluate mambairv3 --task sr-x2 --sets Set5",
        "evaluate mambairv2-light --task sr-x5 --sets Set5",
        f"evaluate {light} --sets Set5 --tiles offical",
        f"evaluate {light} --sets Set5 --precision fp8",
        f"evaluate {light} --sets Sett5 --data tests",
        f"evaluate {light} --sets Set5 --weights nowhere.pth",
        f"restore nowhere.png out.png --model {light} --weights README.md",
        f"restore runner.py README.jpg --model {light} --weights README.md",
        "complexity mambairv2-light --output 720",
        "compare a b --task sr-x5",
        "run smoke --init nowhere.pth",
        "profile --preset goal",
        "profile --models mambairv2-light --device gpu",
        "profile --sizes 64",
        f"analyse lam {light} --untrained --sets embedded,Set6",
    )
    program = (
        "import sys, runner\n"
        f"for mistake in {mistakes}:\n"
        "    sys.argv = ['runner.py', *mistake.split()]\n"
        "    assert runner.main() == 2 and 'torch' not in sys.modules, mistake\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(runner.__file__).parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == len(mistakes)


def test_shell_completion_knows_commands_options_and_suites() -> None:
    def complete(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        return _processor_seconds(**{"_RUNNER.PY_COMPLETE": "complete_bash", **words})[1].split()

    assert complete("runner.py compl") == ["complexity"]
    assert "--dry-run" in complete("runner.py run --d")
    assert complete("runner.py run abl") == ["ablations"]
    assert complete("runner.py evaluate x --task jpeg-1") == ["jpeg-10"]


def _processor_seconds(*arguments: str, **environment: str) -> tuple[float, str, set[str]]:
    """CPU time of runner.py in a process of its own, what it printed, and the packages that it loaded."""
    program = (
        "import atexit, resource, sys, runpy\n"
        "def tell():\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    print(used.ru_utime + used.ru_stime, *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)\n"
        "atexit.register(tell)\n"
        f"sys.argv[0] = {runner.__file__!r}\n"
        f"runpy.run_path({runner.__file__!r}, run_name='__main__')\n"
    )
    inherited = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=Path(runner.__file__).parent,
        env=inherited | environment,
        capture_output=True,
        text=True,
    )
    seconds, *loaded = done.stderr.splitlines()[-1].split()
    return float(seconds), done.stdout, set(loaded)
