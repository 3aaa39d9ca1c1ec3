"""The report is a pure function of the store, and leaves nothing out."""

import shutil
import subprocess

import pytest

from reports.pages import report
from reports.tables.rows import TableError
from results.store import Store, StoreError


def markdown(store) -> str:
    return report.markdown(report.gather(store))


def filled(store, make) -> Store:
    for seed in (0, 1):
        make.train(store, make.cell("base", seed), 30.0 + seed / 10)
        make.train(store, make.cell("sgn-off", seed, sgn="off"), 29.0 + seed / 9)
    make.evaluate(store, 38.2577, 0.96151)
    make.evaluate(store, 33.0, dataset="Urban100", images=12, of=100)
    failed = store.open_cell(make.cell("broken", 0, ase="off").config())
    store.write_status(failed, "failed", reason="the loss is not finite at step 17")
    return store


def test_empty_store_says_what_to_do(store):
    text = markdown(store)
    assert "python runner.py run smoke" in text and "## Cells" not in text
    (store.root / "analyses" / "0123456789abcdef").mkdir(parents=True)
    told = report.gather(store).origin
    assert told.startswith("Shown of this store: 1 analysis; beside it 0 records of scores")


def test_everything_is_there(store, make):
    text = markdown(filled(store, make))
    broken = store.cell_folder(make.cell("broken", 0, ase="off").config()).name
    for part in (
        "Trained cells: 4 done, 1 failed.",
        f"- cell broken/sr-x2/seed-0 ({broken}): the loss is not finite at step 17",
        "## table3",
        "| Set5 PSNR     |     38.26 |   38.258 |     -0.002 |        1 seed | reproduced |",
        "## smoke",
        "| base/sr-x2/seed-0    |",
        "| mambairv2-light | 01234567 | sr-x2 | Urban100 | 12 of 100 images |",
        "- P1: tiling official, routing gumbel",
        "- M1: a machine, backend chunked, 2 threads, Linux, Python 3.11.7, torch 2.13.0, commit abc",
    ):
        assert part in text, part
    assert "sr-x3, as published" not in text  # nothing was scored there
    assert "\n\n\n" not in text and text.endswith("\n")


def test_same_store_same_bytes_wherever_it_lies(store, make, tmp_path):
    first = markdown(filled(store, make))
    assert markdown(store) == first
    shutil.copytree(store.root, tmp_path / "moved")
    assert markdown(Store(tmp_path / "moved")) == first


def test_damaged_parts_are_named_and_the_rest_is_shown(store, make):
    filled(store, make)
    record = next((store.root / "evaluations").glob("*/record.json"))
    record.write_text("{")
    config = store.cell_folder(make.cell("base", 0).config()) / "config.json"
    config.write_text('{"variant": {}}')
    text = markdown(store)
    assert f"- evaluation {record.parent.name}: evaluations/{record.parent.name}/record.json cannot be read" in text
    assert f"- cell {config.parent.name}: " in text and f"| {config.parent.name} | damaged |" in text
    assert "## smoke" in text


def test_written_beside_the_results(store, make):
    filled(store, make)
    path = report.write(store, "md")
    assert path == store.root / "report.md" and path.read_text() == markdown(store)
    with pytest.raises(TableError, match="'pdf': choose from html, md, tex"):
        report.write(store, "pdf")


def test_a_report_that_cannot_be_written_is_one_line(store):
    (store.root / "report.md").mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot write"):
        report.write(store, "md")


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="pdflatex is not installed: apt install texlive-latex-extra"
)
def test_latex_compiles_whatever_names_are_in_it(store, make, tmp_path):
    filled(store, make)
    make.evaluate(store, 38.2, weights="f" * 64, file=r"100%_\input{x}^2 & #1 ~ <b>$")
    path = report.write(store, "tex")
    line = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"-output-directory={tmp_path}", path]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "report.pdf").stat().st_size > 10_000, done.stdout[-2000:]
    assert "Overfull" not in (tmp_path / "report.log").read_text()
