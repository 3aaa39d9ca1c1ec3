"""A user's own class through the commands that take one, called as a user would."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import models
from results import archive, measured
from results.store import Store
from tests.edsr import EDSR
from tests.runner.helpers import Command, data_set, photo, refused

pytestmark = pytest.mark.usefixtures("one_thread")
HALF = "SCALE = 2\n\n\ndef half(image, draw):\n    return image[::2, ::2]\n"  # a degradation
SOURCE = Path(__file__).resolve().parents[1] / "edsr.py"


@pytest.fixture
def where(tmp_path: Path, monkeypatch) -> list:
    """A store, sets, and weights `a.pth` and `b.pth` of an EDSR with four channels."""
    (tmp_path / "measured").mkdir()
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")  # nothing is committed there
    data_set(tmp_path / "data")
    for name, side in (("a", 20), ("b", 24), ("c", 28)):
        photo(tmp_path / "data" / "Three" / f"{name}.png", side)
        torch.manual_seed(side)
        torch.save(EDSR(dim=4).state_dict(), tmp_path / f"{name}.pth")
    return ["--data", tmp_path / "data", "--results", tmp_path / "store", "--device", "cpu"]


def score(name: str, weights: str, *more: str | Path, network: str | Path = f"{SOURCE}:EDSR", sets="Three") -> list:
    own = ["--network", network, "--weights", weights, "--task", "sr-x2", "--sets", sets]
    return ["evaluate", name, *own, *more]


def test_a_class_in_a_file_is_scored_stored_and_compared(command: Command, where, tmp_path: Path) -> None:
    target = tmp_path / "own.json"
    status, out, _ = command(*score("mine", "a.pth", "--set", "dim=4", "--json", target), *where)
    assert status == 0 and "Three" in out and "3 images" in out
    told = json.loads(target.read_text())
    assert told["rows"][0]["protocol"]["routing"] is None and told["environment"]["backend"] == "none"
    record = Store(tmp_path / "store").evaluations().iloc[0]
    source = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    assert record["overrides"] == {"class": "EDSR", "source": source, "arguments": {"dim": 4}}
    assert record["weights"] == models.weights_hash(Path("a.pth"))
    asked = ["--network", f"{SOURCE}:EDSR", "--set", "dim=4", "--task", "sr-x2", "--sets", "Three"]
    assert command("compare", "a.pth", "mine b.pth", *asked, *where)[0] == 0  # scored on the way
    status, out, _ = command("compare", "a.pth", "b.pth", "--json", target, *where)
    row, images = json.loads(target.read_text())["rows"][0], told["images"]
    assert status == 0 and row["a"] == pytest.approx(sum(image["psnr"] for image in images) / 3)
    assert out.strip().splitlines()[-1].startswith(f"mine class=EDSR source={source[:8]} dim=4 (weights ")


def test_other_code_with_the_same_weights_is_another_network(command: Command, where, tmp_path: Path) -> None:
    (tmp_path / "idea.py").write_text(SOURCE.read_text().replace("self.tail(x + skip)", "self.tail(x)"))
    assert command(*score("mine", "a.pth", "--set", "dim=4"), *where)[0] == 0
    idea = score("mine", "a.pth", "--set", "dim=4", network="idea.py:EDSR")
    assert command(*idea, *where)[0] == 0
    sources = [hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in (Path("idea.py"), SOURCE)]
    refused(command("compare", "mine", "a.pth", *where), "fits several", *sources)
    status, out, _ = command("compare", *sources, *where)
    assert status == 0 and f"source={sources[0]}" in out.splitlines()[0] and "where they differ most" in out


def test_it_stands_in_a_section_of_its_own_in_tables(command: Command, where, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert "mine" not in (before := command("tables", "table3", "--results", tmp_path / "store")[1])
    assert command(*score("mine", "a.pth", "--set", "dim=4", sets="Set5"), *where)[0] == 0
    after = command("tables", "table3", "--results", tmp_path / "store")[1]
    own = after.index("### a.pth, mine, sr-x2: weights ")
    section = after[own:].partition("\n### ")[0]
    assert ", source " in section and "--as-official" not in section
    rest = [line for line in after.splitlines() if line not in section.splitlines()]
    assert rest == [line for line in before.splitlines() if line not in section.splitlines()] and len(rest) > 10


def test_code_runs_only_when_it_is_named(command: Command, where, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(f"open('ran', 'a').write('x')\n{SOURCE.read_text()}")
    assert command(*score("mine", "a.pth", "--set", "dim=4", network="loud.py:EDSR"), *where)[0] == 0
    ran = Path("ran").read_text()
    archive.import_into(Store(tmp_path / "other"), tmp_path / "store")
    assert command("tables", "table3", "--results", tmp_path / "other")[0] == 0
    assert Path("ran").read_text() == ran == "x"
    assert not any("loud" in path.read_text() for path in (tmp_path / "store").rglob("record.json"))


def test_a_forward_may_view_its_input(command: Command, where, tmp_path: Path) -> None:
    """Pictures are channels last in memory, which `view` refuses."""
    line = "        b, c, h, w = x.shape\n        x = x.view(b, -1).view(b, c, h, w)\n"
    (tmp_path / "view.py").write_text(SOURCE.read_text().replace("        x = skip", line + "        x = skip"))
    own = score("mine", "a.pth", "--set", "dim=4", network="view.py:EDSR")
    assert command(*own, *where)[0] == 0


def test_own_pictures_are_restored(command: Command, where, tmp_path: Path) -> None:
    own = ["--network", f"{SOURCE}:EDSR", "--set", "dim=4", "--weights", "a.pth", "--device", "cpu"]
    status, out, _ = command("restore", tmp_path / "data" / "Three" / "a.png", tmp_path / "large.png", *own)
    assert status == 0 and "40x40" in out


def test_its_parameters_and_multiply_adds_are_counted(command: Command, tmp_path: Path) -> None:
    target = tmp_path / "cost.json"
    own = ["complexity", "--network", f"{SOURCE}:EDSR", "--set", "dim=4", "--json", target]
    status, out, _ = command(*own, "--task", "sr-x2", "--output", "128x256")
    made, pixels = json.loads(target.read_text()), 64 * 128
    weights = {"head": 9 * 3 * 4, "body": 4 * 9 * 4 * 4, "tail": 9 * 4 * 12}  # of 3x3 convolutions, by hand
    biases = {"head": 4, "body": 4 * 4, "tail": 12}
    assert made["breakdown"] == {
        name: {"macs": weights[name] * pixels, "params": weights[name] + biases[name]} for name in weights
    }
    assert made["macs"] == made["macs_paper"] == sum(weights.values()) * pixels and made["counters"]["agree"]
    assert status == 0 and "EDSR dim=4, sr-x2, output 128x256" in out
    assert made["source"] == hashlib.sha256(SOURCE.read_bytes()).hexdigest() and made["scan_flops"] == 0
    refused(command(*own, "mambairv2-light"), "two networks")
    refused(command("complexity", "--network", tmp_path / "own.yml"), "FILE.py:Class only")


def test_it_is_timed_beside_networks_of_the_catalogue(command: Command, tmp_path: Path) -> None:
    target = tmp_path / "times.json"
    own = ["profile", "--network", f"{SOURCE}:EDSR", "--set", "dim=4", "--json", target, "--device", "cpu"]
    asked = ["--models", "mambairv2-tiny", "--sizes", "16x24", "--rounds", "2", "--mode", "inference,training"]
    status, out, _ = command(*own, *asked, "--precision", "fp32,bf16")
    assert status == 0 and "EDSR dim=4" in out
    rows = [row for row in json.loads(target.read_text())["rows"] if row["model"] == "EDSR"]
    assert len(rows) == 4 and {row["status"] for row in rows} == {"ok"} and {row["backend"] for row in rows} == {"none"}
    assert all(row["median_ms"] > 0 and row["ratio"] > 0 and row["overrides"] == {"dim": 4} for row in rows)
    assert rows[0]["macs"] == (9 * 3 * 4 + 4 * 9 * 4 * 4 + 9 * 4 * 12) * 16 * 24
    refused(command(*own, "--preset", "goals"), "leave these out")
    status, out, _ = command(*own, "--sizes", "16x16", "--rounds", "1", "--launch", "compiled")
    assert status == 1 and [row["model"] for row in json.loads(target.read_text())["rows"]] == ["EDSR"]
    assert "no layers to compile" in json.loads(target.read_text())["rows"][0]["reason"]


def test_mistakes_are_one_line(command: Command, where, tmp_path: Path) -> None:
    refused(command(*score("mine", "a.pth", network=SOURCE), *where), "name the class", "edsr.py:Class")
    refused(command(*score("mine", "a.pth", network=f"{SOURCE}:Other"), *where), "AttributeError", "Other")
    refused(command(*score("mine", "a.pth", "--set", "width=4"), *where), "TypeError", "width")
    refused(command(*score("mine", "a.pth", "--set", "dim"), *where), "KEY=VALUE")
    refused(command(*score("mine", "a.pth", network="none.py:EDSR"), *where), "none.py", "cannot be read")
    refused(command(*score("mine", "a.pth", network=f"{SOURCE}:Tensor"), *where), "not a torch.nn.Module")
    refused(command(*score("mine", "a.pth"), *where), "a.pth", "of another shape")  # dim is 8 there
    refused(command(*score("mine", "a.pth", "--set", "dim=4", "--routing", "argmax"), *where), "no router")
    refused(command(*score("mine", "a.pth", "--set", "scale=4", "--set", "dim=4"), *where), "of another shape")
    refused(command(*score("mambairv2-light", "a.pth", "--set", "dim=4"), *where), "a name of its own")
    refused(command(*score("mine", "a.pth", "--set", "dim=4", "--as-official"), *where), "--as-official")
    plain = ["evaluate", "mambairv2-tiny", "--weights", "a.pth", "--task", "sr-x2", "--sets", "Three"]
    refused(command(*plain, "--set", "scans=4", *where), "--set scans=4", "FILE.py:Class")


def test_it_is_trained_beside_the_base_of_a_suite(command: Command, where, tmp_path: Path) -> None:
    shutil.copy(SOURCE, "mine.py")
    own = ["--network", "mine.py:EDSR"]
    asked = ["run", "smoke", *own, "--set", "dim=4", "--vary", "depth=1", "--seeds", "0", "--set", "iterations=4"]
    asked += ["--set", "train_sets=Three", "--set", "test_sets=Three", "--set", "patch=8", "--set", "batch=2"]
    Path("half.py").write_text(HALF)
    asked += ["--task", "custom:half.py:half"]
    task = f"custom-x2-half-{hashlib.sha256(HALF.encode()).hexdigest()[:16]}"
    status, out, _ = command(*asked, "--dry-run", *where)
    assert status == 0 and f"EDSR,depth=1/{task}/seed-0" in out
    status, out, _ = command(*asked, "--jobs", "1", "--concurrent", "3", *where)
    assert status == 0, out
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()
    named = f"EDSR dim=4 ({digest[:8]}) against mambairv2-tiny, {task}, budget smoke, on Three: "
    assert out.strip().splitlines()[-1].startswith(named) and "1 seed: inconclusive" in out
    store = Store(tmp_path / "store")
    cells = store.cells().set_index("variant")
    assert list(cells["name"]) == [f"{name}/{task}/seed-0" for name in cells.index] and len(cells) == 3
    assert cells.loc["EDSR", "overrides"] == {"class": "EDSR", "source": digest, "arguments": {"dim": 4}}
    assert cells.loc["EDSR,depth=1", "overrides"]["arguments"] == {"dim": 4, "depth": 1}
    assert cells.loc["EDSR", "config"]["protocol"]["routing"] is None and set(cells["state"]) == {"done"}
    weights = safetensors.torch.load_file(store.cell_folder(cells.loc["EDSR", "config"]) / "weights.safetensors")
    torch.manual_seed(0)
    begun = EDSR(dim=4).state_dict()
    moved = max((weights[name] - begun[name]).abs().max() for name in begun)
    assert weights.keys() == begun.keys() and 0 < moved < 4 * 8e-3 * 1.5  # Adam moves by about the rate a step
    tables = command("tables", "smoke", "--results", tmp_path / "store")[1]
    assert f"EDSR dim=4 depth=1 ({digest[:8]})" in tables and "own network, changed" in tables
    scores = store.scores()
    assert set(scores["image"]) == {"a", "b", "c"} and scores["psnr"].notna().all()
    cell = f"EDSR/{task}/seed-0"
    refused(command("verify", cell, *where), "holds no code", "--network FILE.py:EDSR")
    refused(command("verify", cell, *own, *where), "name it again with --task custom:FILE.py:half")
    Path("mine.py").write_text(SOURCE.read_text() + "\nopen('ran', 'w')\n")
    refused(command("verify", cell, *own, *where), digest[:8], "name the file as it was")
    assert not Path("ran").exists()


def test_analyses_of_gradients_take_it_and_others_say_what_is_missing(command: Command, where, tmp_path: Path) -> None:
    asked = ["mine", *score("", "a.pth", "--set", "dim=4")[2:], *where]
    target = tmp_path / "erf.json"
    assert command("analyse", "erf", *asked, "--json", target)[0] == 0
    sides = [row["side"] for row in json.loads(target.read_text())["images"]]
    assert sides and max(sides) <= 13  # six convolutions of 3x3 see no further
    for name, missing in (("sgn", "no classes"), ("decay", "no selective scan"), ("interventions", "no MambaIRv2")):
        refused(command("analyse", name, *asked), "EDSR", missing)


def test_what_cannot_be_trained_is_said_before(command: Command, where, tmp_path: Path) -> None:
    run = ["run", "smoke", "--network", f"{SOURCE}:EDSR", "--seeds", "0"]
    refused(command(*run, "--set", "scale=4", *where), "[1, 3, 96, 96]", "sr-x2 needs [1, 3, 48, 48]")
    refused(command(*run, "--set", "width=4", *where), "TypeError", "width")
    refused(command(*run, "--only", "sgn-off/*", *where), "smoke has no cell of the name 'base'")
    refused(command("run", "smoke", "--vary", "depth=1", *where), "--vary depth=1", "FILE.py:Class")
    refused(command("run", "recovery", *run[2:], "--budget", "smoke", *where), "starts from given weights")
