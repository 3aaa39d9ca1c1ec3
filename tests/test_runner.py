"""The command line, called as a user would: what it prints, its exit status, and that mistakes cost nothing."""

import errno
import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageCms

import models
import runner
from results.store import Store
from suites import commandline as cli
from suites import recipes
from suites.evaluation import filing, restoration
from suites.evaluation.evaluate import COLUMNS
from suites.spec import Protocol, SpecError, Task

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path) -> Command:
    """command("run", "smoke", ...) -> exit status, what went to stdout, what went to stderr."""
    monkeypatch.delenv("MAMBAIR_BENCH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["runner.py", *map(str, arguments)])
        status = runner.main()
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def tiny_weights(tmp_path_factory) -> Path:
    """Weights of mambairv2-tiny for x2, as an official file would hold them."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"params": models.build("mambairv2-tiny").state_dict()}, path)
    return path


def data_set(folder: Path, side: int = 24) -> Path:
    """A folder with a Set5 of one picture of noise."""
    (folder / "Set5").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "Set5" / "baby.png")
    return folder


def refused(result: tuple[int, str, str], *words: str) -> None:
    """One line that starts with "error:", holds every word, and a status of 2."""
    status, out, err = result
    assert status == 2, (out, err)
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    for word in words:
        assert word in lines[0]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    expected = "list run pilot curve sweep tables evaluate complexity profile breakdown restore export import verify"
    expected += " figures report data doctor"
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


def test_shell_completion_knows_commands_options_and_suites() -> None:
    def complete(line: str) -> list[str]:
        words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1)}
        return _processor_seconds(**{"_RUNNER.PY_COMPLETE": "complete_bash", **words})[1].split()

    assert complete("runner.py com") == ["complexity"]
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


def test_unknown_names_are_refused_with_the_known_ones(command: Command, tmp_path: Path) -> None:
    data = data_set(tmp_path / "data")
    refused(command("run", "smok"), "smok", "smoke", "paper-light-x2")
    refused(command("complexity", "mambairv3", "--task", "sr-x2"), "mambairv3", "mambairv2-light")
    refused(command("evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set6", "--data", data), "Set6", "Set5")
    refused(command("tables", "table99"), "table99", "table3")
    refused(command("frobnicate"), "frobnicate")
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


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    program = [sys.executable, runner.__file__, "tables", "--results", str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert "Broken pipe" not in process.stderr.read()
    assert process.returncode == 0


def test_missing_folder(command: Command, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    refused(command("evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--data", gone), str(gone))
    refused(command("data", "check", "--data", gone), str(gone))


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

    cut = tmp_path / "cut.pth"
    cut.write_bytes(tiny_weights.read_bytes()[:3000])
    refused(command(*score, cut), "cut.pth")
    refused(command(*score, tmp_path / "nowhere.pth"), "nowhere.pth")


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


def test_evaluate_prints_stores_and_writes_json(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    target = tmp_path / "scores.json"
    score = ["evaluate", "mambairv2-tiny", "--task", "sr-x2", "--sets", "Set5", "--weights", tiny_weights]
    data = data_set(tmp_path / "data")
    status, out, _ = command(*score, "--data", data, "--results", tmp_path / "store", "--json", target)
    assert status == 0
    assert "1 of 5 images" in out and "not those of the standard Set5 (baby)" in out
    assert "routing gumbel" in out and "backend" in out
    made = json.loads(target.read_text())
    row = made["rows"][0]
    assert row["psnr"] is None and row["images"] == 1  # a mean needs the whole set
    keys = "tiling routing samples seed prompt_order lr_route luma channels border precision"
    assert list(row["protocol"]) == keys.split()
    assert [image["image"] for image in made["images"]] == ["baby"] and 0 < made["images"][0]["psnr"] < 60
    assert made["environment"]["backend"] in ("cpu", "chunked", "triton")
    assert command(*score, "--data", data, "--results", tmp_path / "store")[0] == 0  # the same again is no conflict


def test_own_weights_stand_apart_in_tables_unless_they_are_said_to_be_published(
    command: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    data, store = data_set(tmp_path / "data"), tmp_path / "store"
    where = ["--data", data, "--results", store]
    score = ["evaluate", "mambairv2-tiny", "--task", "sr-x2", "--sets", "Set5", "--weights", tiny_weights, *where]
    assert command(*score)[0] == 0
    status, out, _ = command("tables", "table3", "--results", store)
    assert status == 0 and "### tiny.pth, mambairv2-tiny, sr-x2: weights " in out and "1 of 5 images" in out
    assert command(*score, "--as-official")[0] == 0  # nothing is scored again; the record says it
    assert list(Store(store).evaluations()["as_official"]) == [True]
    assert "tiny.pth" not in command("tables", "table3", "--results", store)[1]
    refused(command("evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--as-official", *where), "--as-offi")


def test_a_set_that_fails_half_way_keeps_what_was_scored(command: Command, tmp_path: Path, monkeypatch) -> None:
    data, store = data_set(tmp_path / "data"), tmp_path / "store"
    (data / "Set5" / "bird.png").write_text("not a picture")
    score = ["evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--data", data, "--results", store]
    status, out, err = command(*score)
    assert status == 2 and "bird.png" in err and "  baby " in out and "1 of 5 images" in out
    assert len(list(store.glob("evaluations/*/scores.parquet"))) == 1

    def interrupted(*_, **__):
        yield {**dict.fromkeys(COLUMNS, 1.0), "dataset": "Set5", "image": "baby", "pixels": "0"}
        raise KeyboardInterrupt

    monkeypatch.setattr(filing, "scored", interrupted)
    status, out, _ = command(*score[:-1], tmp_path / "other")
    assert status == 130 and "  baby " in out
    assert len(list(tmp_path.glob("other/evaluations/*/scores.parquet"))) == 1


def test_a_baseline_refuses_the_options_of_networks(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    data = data_set(tmp_path / "data")
    score = ["evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--data", data]
    for option, value in (("--tiles", "64"), ("--samples", "2"), ("--routing", "argmax"), ("--lr", "pil")):
        refused(command(*score, option, value), "protocol of its own")
    refused(command(*score, "--weights", tiny_weights), "--weights")
    refused(command(*score[:4], "--sets", ",", "--data", data), "--sets")


def test_identical_images_are_null_in_json(command: Command, tmp_path: Path) -> None:
    (tmp_path / "data" / "Set5").mkdir(parents=True)
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "data" / "Set5" / "bird.png")
    target = tmp_path / "flat.json"
    score = ["evaluate", "bicubic", "--task", "sr-x2", "--sets", "Set5", "--data", tmp_path / "data", "--json", target]
    assert command(*score, "--results", tmp_path / "store")[0] == 0
    assert json.loads(target.read_text())["images"][0]["psnr"] is None
    assert "Infinity" not in target.read_text()


def test_restore_own_pictures(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    source, target = tmp_path / "own", tmp_path / "restored"
    source.mkdir()
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8)).save(source / "colour.png")
    Image.fromarray(rng.integers(0, 256, (7, 5), dtype=np.uint8)).save(source / "gray.png")
    (source / "broken.png").write_text("no picture")
    command_line = ["restore", source, target, "--model", "mambairv2-tiny", "--weights", tiny_weights]
    status, out, _ = command(*command_line)
    assert status == 1 and "failed: " in out and "broken.png" in out  # and the others are done all the same
    assert np.asarray(Image.open(target / "colour.png")).shape == (18, 26, 3)
    assert np.asarray(Image.open(target / "gray.png")).shape == (14, 10)
    refused(command("restore", source, source, "--model", "mambairv2-tiny", "--weights", tiny_weights), "replaced")


def photo(path: Path, side: int = 9, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def test_restore_never_replaces_its_input_and_other_files_only_when_told(
    command: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    tiny = ["--model", "mambairv2-tiny", "--weights", tiny_weights]
    picture, link = photo(tmp_path / "photo.png"), tmp_path / "link.png"
    link.hardlink_to(picture)
    before = picture.read_bytes()
    for target in (picture, tmp_path / "x" / ".." / "photo.png", link, tmp_path):
        for more in ([], ["--overwrite"]):
            refused(command("restore", picture, target, *tiny, *more), "is the picture itself", "choose another OUTPUT")
    assert picture.read_bytes() == before
    other = photo(tmp_path / "other.png", side=5)
    refused(command("restore", picture, other, *tiny), "other.png exists already", "--overwrite")
    assert command("restore", picture, other, *tiny, "--overwrite")[0] == 0
    assert Image.open(other).size == (18, 18)


def test_restore_says_before_computing_that_it_cannot_write(
    command: Command, tmp_path: Path, tiny_weights: Path, monkeypatch
) -> None:
    tiny = ["--model", "mambairv2-tiny", "--weights", tiny_weights]
    picture = photo(tmp_path / "photo.png")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(restoration, "restore_picture", lambda *_, **__: pytest.fail("computed all the same"))
    refused(command("restore", picture, tmp_path / "file" / "out.png", *tiny), "is a file, not a folder")
    refused(command("restore", picture, tmp_path / "file" / "folder", *tiny), "is a file, not a folder")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    refused(command("restore", picture, tmp_path / "new" / "out.png", *tiny), "you may not write there")


def test_a_full_disk_is_a_sentence(command: Command, tmp_path: Path, tiny_weights: Path, monkeypatch) -> None:
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    picture = photo(tmp_path / "photo.png")
    monkeypatch.setattr(os, "replace", full)
    asked = ["restore", picture, tmp_path / "out.png", "--model", "mambairv2-tiny", "--weights", tiny_weights]
    result = command(*asked)
    refused(result, "no space is left there", "out.png")
    assert "Errno" not in result[2] and not (tmp_path / "out.png").exists()


def test_restore_walks_folders_and_keeps_what_is_there(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    source, target = tmp_path / "own", tmp_path / "own" / "restored"
    for name in ("a.png", "a.jpg", "b.png", "holiday/c.png", ".hidden/d.png"):
        photo(source / name)
    asked = ["restore", source, target, "--model", "mambairv2-tiny", "--weights", tiny_weights]
    status, out, _ = command(*asked)
    assert status == 1 and "a.jpg and a.png would both become" in out  # and costs no other picture
    assert sorted(files(target)) == ["b.png", "holiday/c.png"]
    (source / "a.jpg").unlink()
    first = files(target)
    status, out, _ = command(*asked)  # goes on with what is not there yet
    assert status == 0 and out.count("kept: ") == 2 and sorted(files(target)) == ["a.png", *sorted(first)]
    photo(source / "b.png", side=11)
    assert command(*asked, "--overwrite")[0] == 0 and Image.open(target / "b.png").size == (22, 22)


def test_restore_keeps_the_colour_profile(command: Command, tmp_path: Path, tiny_weights: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in ("with.png", "with.jpg"):
        source = photo(tmp_path / name, icc_profile=profile)
        asked = ["restore", source, tmp_path / "out.png", "--model", "mambairv2-tiny", "--weights", tiny_weights]
        assert command(*asked, "--overwrite")[0] == 0
        assert Image.open(tmp_path / "out.png").info["icc_profile"] == profile


def test_restore_takes_routing_samples_seed_and_an_option_file(
    command: Command, tmp_path: Path, tiny_weights: Path
) -> None:
    picture = photo(tmp_path / "photo.png", side=24)

    def restored(*more: str | Path) -> bytes:
        asked = ["restore", picture, tmp_path / "out.png", "--weights", tiny_weights, "--overwrite", *more]
        assert command(*asked)[0] == 0
        return (tmp_path / "out.png").read_bytes()

    tiny = ["--model", "mambairv2-tiny"]
    official = restored(*tiny)
    for other in (["--routing", "argmax"], ["--seed", "1"], ["--samples", "2"]):
        assert restored(*tiny, *other) != official
    block = models.build("mambairv2-tiny").configuration
    (tmp_path / "own.yml").write_text(yaml.safe_dump({"network_g": json.loads(json.dumps(block))}))
    assert restored("--network", tmp_path / "own.yml") == official
    refused(command("restore", picture, tmp_path / "new.png", "--weights", tiny_weights), "--model", "--network")


def test_restore_shows_progress_within_a_picture(tmp_path: Path, tiny_weights: Path) -> None:
    told, task = [], Task.parse("sr-x2")
    protocol = Protocol.official(task, tiling=16, samples=2)
    source, target = photo(tmp_path / "photo.png", side=24), tmp_path / "out.png"
    restoration.restore(
        *(source, target, "mambairv2-tiny", task, tiny_weights, protocol), progress=lambda *each: told.append(each)
    )
    assert told == [("photo.png", done, 8) for done in range(9)]  # 4 tiles, twice


def test_dry_run_says_what_it_would_cost(command: Command, tmp_path: Path) -> None:
    status, out, _ = command("run", "paper-light-x2", "--dry-run", "--results", tmp_path / "store")
    assert status == 0
    for word in ("iterations=500000", "batch=32", "patch=64", "milestones=250000,400000,450000,475000", "DIV2K"):
        assert word in out
    assert not (tmp_path / "store").exists()


def test_a_selection_brings_the_base_of_its_families(command: Command, tmp_path: Path) -> None:
    dry = ["run", "ablations", "--only", "tokens-*/seed-1", "--dry-run", "--results", tmp_path / "store"]
    status, out, _ = command(*dry)
    prose = " ".join(out.split())
    assert status == 0 and "ablations: 5 cells" in out and "base/sr-x2/seed-1" in out and "rank" not in prose
    assert "with the bases that the variants are compared with: base/sr-x2/seed-1 (--no-base leaves them out)" in prose
    assert "tokens, sr-x2 4 against base, 1 seed" in prose
    status, out, _ = command(*dry, "--no-base")
    assert status == 0 and "ablations: 4 cells" in out and "against base" not in out
    assert "compared with nothing, for their base is no part of this plan: tokens (sr-x2)" in " ".join(out.split())
    out = command("run", "ablations", "--only", "scans-2/*", "--dry-run", "--results", tmp_path / "store")[1]
    assert "scans, sr-x2 1 against base, 4 seeds" in " ".join(out.split())  # of the two that the family has


def test_complexity_takes_overrides_and_all(command: Command, tmp_path: Path, monkeypatch) -> None:
    def counted(model: str) -> dict:
        file = tmp_path / "counts.json"
        status, out, _ = command("complexity", model, "--output", "64x64", "--json", file)
        assert status == 0 and out.startswith(f"{model}, sr-x2, output 64x64")
        return json.loads(file.read_text())

    plain, twice = counted("mambairv2-tiny"), counted("mambairv2-tiny scans=2")
    assert twice["scan_flops"] == 2 * plain["scan_flops"] and twice["params"] > plain["params"]
    assert (plain["overrides"], twice["overrides"]) == ({}, {"scans": 2})
    refused(command("complexity", "mambairv2-tiny scan=2"), "has no argument 'scan'", "scans")
    refused(command("complexity", "mambairv2-tiny scans=3"), "scans must be one of")
    refused(command("complexity"), "no network was named", "--all")
    refused(command("complexity", "mambairv2-tiny", "--all"), "leave out mambairv2-tiny")
    refused(command("complexity", "mambairv2-tiny", "--output", "64"), "'64' is no size")
    folder = tmp_path / "counted"
    monkeypatch.setattr("results.measured.COMPLEXITY", folder / "complexity.csv")
    monkeypatch.setattr("suites.benchmark.cost.GRID", (("mambairv2-tiny scans=2", ("sr-x2",), ((64, 64),)),))
    status, out, _ = command("complexity", "--all")
    assert status == 0 and str(twice["macs"]) in out and str(twice["macs"]) in (folder / "complexity.csv").read_text()
    assert json.loads((folder / "environment.json").read_text())["command"] == "runner.py complexity --all"


def test_a_dry_run_builds_no_network(command: Command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("torch.nn.Module.__init__", lambda *_: pytest.fail("a network was built"))
    assert command("run", "ablations", "--dry-run", "--results", tmp_path / "store")[0] == 0


def test_work_that_takes_long_is_announced_on_stderr(monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli, "PATIENCE_S", 0.01)
    with cli.busy("complexity"):
        time.sleep(0.2)
    monkeypatch.setattr(cli, "PATIENCE_S", 10)
    with cli.busy("tables"):
        pass
    assert capsys.readouterr() == ("", "counting ...\n")


def test_ctrl_c_says_what_is_kept(command: Command, tmp_path: Path, monkeypatch) -> None:
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("suites.recipes.choose", interrupted)
    status, _, err = command("run", "smoke", "--results", tmp_path / "store")
    assert status == 130 and err.startswith("stopped: finished cells are stored") and len(err.splitlines()) == 1
    monkeypatch.setattr("suites.benchmark.cost.of_variant", interrupted)
    assert command("complexity", "mambairv2-tiny")[::2] == (130, "stopped: nothing was written\n")


def test_dry_run_plans_for_another_machine(command: Command, tmp_path: Path) -> None:
    status, out, _ = command("run", "pilot", "--dry-run", "--results", tmp_path / "store", "--device", "cpu")
    assert status == 0 and "8 cells, 48,000 iterations" in out
    prose = " ".join(out.split())
    assert "cannot run here: tf32x3 is a precision of Triton kernels" in prose and "(--set precision=NAME)" in prose
    assert "cannot run here: BSD100, BSDS500-test, BSDS500-train, Set14, T91, Urban12: no folder of datasets" in prose
    assert max(map(len, out.splitlines())) <= 100
    refused(command("run", "smoke", "--dry-run", "--backend", "no-such"), "no-such")


def test_doctor_names_every_backend(command: Command) -> None:
    status, out, _ = command("doctor")
    assert status == 0
    for backend in ("reference", "chunked", "cpu"):
        assert f"scan backend {backend}" in out


def test_data_check_counts_every_set(command: Command) -> None:
    status, out, _ = command("data", "check")
    assert status == 0
    assert out.splitlines() == ["standard images: embedded 3 of 3, embedded-train 8 of 8"]
