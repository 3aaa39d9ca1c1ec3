"""Mistakes on the command line: one line that says what was wrong and where, and nothing is lost."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import models
import runner
from tests.runner.helpers import Command, data_set, files, photo, refused


def test_unknown_names_are_refused_with_the_known_ones(command: Command, tmp_path: Path) -> None:
    data = data_set(tmp_path / "data")
    refused(command("run", "smok"), "smok", "smoke", "paper-light-x2")
    refused(command("complexity", "mambairv3", "--task", "sr-x2"), "mambairv3", "mambairv2-light")
    refused(command("evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set6", "--data", data), "Set6", "Set5")
    refused(command("tables", "table99"), "table99", "table3")
    refused(command("frobnicate"), "frobnicate")
    refused(command("restore", "a.png", "b.png", "--model", "mambairv3", "--weights", "w.pth"), "mambairv3")
    refused(command("verify", "0123"), "0123")


def test_option_values_that_do_not_exist_are_refused(command: Command, tiny_weights: Path) -> None:
    score = ["evaluate", "mambairv2-tiny", "--sets", "embedded", "--weights", tiny_weights]
    refused(command(*score, "--task", "sr-x5"), "sr-x5", "sr-x4")
    refused(command(*score, "--task", "sr-x2", "--routing", "softmax"), "softmax", "gumbel", "argmax")
    refused(command(*score, "--task", "sr-x2", "--routing", "None"), "'None': choose from gumbel, argmax")
    assert "argmax, None" not in command(*score, "--task", "sr-x2", "--routing", "None")[2]
    refused(command(*score, "--task", "sr-x2", "--seed", "-1"), "seed is -1: at least 0 is needed")
    refused(command(*score, "--task", "sr-x2", "--tiles", "tiny"), "tiny", "official")
    refused(command(*score, "--task", "sr-x2", "--precision", "fp8"), "fp8", "bf16")
    refused(command(*score, "--task", "sr-x2", "--device", "tpu"), "tpu", "cuda")
    refused(command(*score, "--task", "sr-x2", "--backend", "magic"), "magic", "chunked")
    refused(command(*score, "--task", "sr-x2", "--samples", "0"), "samples")
    refused(command(*score, "--task", "denoise-15", "--lr", "pil"), "super-resolution")
    refused(command("run", "smoke", "--set", "iteration=3", "--dry-run"), "iteration", "iterations")
    refused(command("run", "smoke", "--seeds", "one", "--dry-run"), "one")
    for change in ("lr=-1", "gamma=2", "betas=2,3", "milestones=-5", "iterations=0", "test_sets="):
        refused(command("run", "smoke", "--set", change, "--dry-run"), change.split("=")[0])
    refused(command("tables", "table3", "--format", "docx"), "docx", "tex")
    refused(command("evaluate", "mambairv2-tiny", "--task", "sr-x2", "--sets", "embedded"), "--weights")


def test_a_network_without_a_router_refuses_to_route(command: Command, tiny_weights: Path) -> None:
    score = ["evaluate", "mambair-light", "--task", "sr-x2", "--sets", "embedded", "--weights", tiny_weights]
    refused(command(*score, "--routing", "argmax", "--samples", "2"), "mambair-light", "leave out --routing, --samples")
    refused(command(*score, "--seed", "3"), "no router and no prompts: leave out --seed")


def test_values_that_make_no_sense_are_said_as_they_are(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    score = ["evaluate", "mambairv2-tiny", "--task", "sr-x2", "--sets", "embedded", "--weights", tiny_weights]
    refused(command(*score, "--seed", "-1"), "seed is -1", "at least 0")
    result = command(*score, "--routing", "None")
    refused(result, "routing 'None'", "gumbel, argmax")
    assert result[2].count("None") == 1  # as typed, and no choice
    for option, value in (("--concurrent", "0"), ("--scorers", "-1"), ("--seconds", "0"), ("--seconds", "nan")):
        refused(command("run", "smoke", option, value, "--device", "cpu", "--results", tmp_path / "no"), option)
    assert not (tmp_path / "no").exists()


def test_every_missing_set_is_named_at_once(command: Command, tmp_path: Path) -> None:
    data = data_set(tmp_path / "data")
    refused(
        command("evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5,Set14,BSD100", "--data", data),
        "Set14",
        "BSD100",
    )


def test_errors_of_the_system_are_sentences(command: Command, tmp_path: Path) -> None:
    photo(tmp_path / "photo.png")
    asked = ["restore", tmp_path / "photo.png", tmp_path / "out.png", "--model", "mambairv2-tiny"]
    result = command(*asked, "--weights", tmp_path)
    refused(result, "cannot use", "is a directory", str(tmp_path))
    assert "Errno" not in result[2]


@pytest.mark.parametrize("printed", ["print(text)", "rich.console.Console().print(text)"])
def test_a_reader_that_closes_while_a_command_writes_is_no_error(printed: str) -> None:
    code = "import rich.console, sys, typer; from suites import commandline; app = typer.Typer()\n"
    code += "text = 'xxxxxxxxx\\n' * 2**14\n"
    code += f"@app.command()\ndef write(): {printed}\nsys.argv = ['x']; sys.exit(commandline.main(app))"
    program, output = [sys.executable, "-c", code], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program, cwd=Path(runner.__file__).parent, text=True, **output) as process:
        assert process.stdout.read(9) == "x" * 9  # the rest is more than a pipe holds
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    program = [sys.executable, runner.__file__, "list"]  # which says its first line before it looks for the others
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert "Broken pipe" not in process.stderr.read()
    assert process.returncode == 0


def test_missing_folder(command: Command, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    refused(command("evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--data", gone), str(gone))
    refused(command("data", "check", "--data", gone), str(gone))
    for asked in (("tables",), ("report", "--format", "md"), ("figures", "scores")):
        refused(command(*asked, "--results", gone), f"--results {gone} is not there")
    assert not gone.exists()


def test_damaged_pictures(command: Command, tmp_path: Path) -> None:
    folder = data_set(tmp_path / "data", side=64)
    picture = folder / "Set5" / "baby.png"
    score = ["evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--data", folder]
    picture.write_bytes(picture.read_bytes()[:2000])
    refused(command(*score), "baby.png", "damaged")
    picture.write_text("not a picture")
    refused(command(*score), "baby.png", "not a picture")


def test_weights_that_do_not_fit_or_are_no_weights(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    score = ["evaluate", "mambairv2-light", "--task", "sr-x2", "--sets", "embedded", "--weights"]
    refused(command(*score, tiny_weights), "tiny.pth")

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"params": Payload()}, tmp_path / "code.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload()))
    for name in ("code.pth", "plain.pth"):
        refused(command(*score, tmp_path / name), name)
    assert not (tmp_path / "ran").exists()

    torch.save(models.build("mambairv2-tiny", upscale=4).state_dict(), tmp_path / "x4.pth")
    photo(tmp_path / "photo.png")
    asked = ["restore", tmp_path / "photo.png", tmp_path / "out.png", "--model", "mambairv2-tiny"]
    refused(command(*asked, "--weights", tmp_path / "x4.pth"), "x4.pth looks like", ", x4, and sr-x2", "--task sr-x4")
    asked += ["--task", "jpeg-10", "--weights", tmp_path / "x4.pth"]
    refused(command(*asked), "jpeg-10 needs the same size, 1 channels: give --task sr-x4")

    cut = tmp_path / "cut.pth"
    cut.write_bytes(tiny_weights.read_bytes()[:3000])
    refused(command(*score, cut), "cut.pth")
    refused(command(*score, tmp_path / "nowhere.pth"), "nowhere.pth")


def test_weights_are_told_before_the_folder_of_sets_that_is_missing(command: Command, tiny_weights: Path) -> None:
    score = ["evaluate", "mambairv2-tiny", "--task", "sr-x4", "--sets", "Set5", "--weights", tiny_weights]
    refused(command(*score), "x2, and sr-x4 needs x4: give --task sr-x2")


def test_results_that_cannot_be_written(command: Command, tmp_path: Path, monkeypatch) -> None:
    data = data_set(tmp_path / "data")
    score = ["evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--data", data, "--results"]
    (tmp_path / "file").write_text("in the way")
    refused(command(*score, tmp_path / "file" / "results"), "is a file", "--results")

    for number in (errno.ENOSPC, errno.EROFS):
        store = tmp_path / f"store-{number}"
        assert command(*score, store)[0] == 0
        before = files(store)
        Image.fromarray(np.zeros((24, 24, 3), np.uint8)).save(
            data / "Set5" / ("bird.png" if number == errno.ENOSPC else "head.png")
        )

        def fails(*_, number=number):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", fails)
            status, out, err = command(*score, store)
        assert status == 1 and "not stored: cannot write" in err and "Set5" in out  # the scores are still printed
        assert files(store) == before
