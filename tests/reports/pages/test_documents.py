"""Documents whose tables and figures are made from committed records: they hold what is committed, and one call makes
them anew."""

import shutil
from functools import cache

import pytest

import runner
from reports.figures.index import FigureError
from reports.pages import documents
from results import measured
from results.agreement import limits
from results.costs import whole

MADE = {name: {one: cache(make) for one, make in made.items()} for name, made in documents.tables().items()}


@pytest.mark.parametrize("name", MADE)
def test_a_document_holds_the_tables_of_what_is_committed(name):
    text = (documents.FOLDER / name).read_text()
    assert sorted(match[2] for match in documents.BLOCK.finditer(text)) == sorted(MADE[name])
    assert documents.filled(text, MADE[name]) == text, "runner.py tables --documents writes the tables anew"


def test_other_documents_have_no_such_tables():
    found = {path.name for path in documents.FOLDER.glob("*.md") if documents.BLOCK.search(path.read_text())}
    assert found == set(MADE)


def test_the_command_fills_them_and_leaves_the_text(tmp_path, monkeypatch, capsys):
    old = {name: (documents.FOLDER / name).read_text() for name in MADE}
    figures = documents.FOLDER / "figures"
    monkeypatch.setattr(documents, "FOLDER", tmp_path)
    monkeypatch.setattr(documents, "tables", lambda: MADE)
    monkeypatch.setattr(documents, "draw", documents.figure)
    (tmp_path / "figures").mkdir()
    shutil.copy(figures / "erf.png", tmp_path / "figures")
    for name, text in old.items():
        emptied = documents.BLOCK.sub(r"\1old\n\3", text) if name != "pilot.md" else text
        (tmp_path / name).write_text(emptied)
    content, tiling = limits.FILE.read_bytes(), whole.TILING.read_bytes()
    monkeypatch.setattr(limits, "FILE", tmp_path / "agreement.json")
    monkeypatch.setattr(whole, "TILING", tmp_path / "tiling.json")
    runner.tables(documents=True)
    assert limits.FILE.read_bytes() == content and whole.TILING.read_bytes() == tiling
    assert {name: (tmp_path / name).read_text() for name in MADE} == old
    first, second, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith("agreement.json: written") and second.endswith("tiling.json: written")
    drawn = [f"{tmp_path}/figures/{name}.png: written" for name in documents.FIGURES if name != "erf"]
    assert lines[len(MADE) :] == drawn  # all that are not there
    lines = lines[: len(MADE)]
    assert [line.rpartition(": ")[2] for line in lines] == [
        "as before" if name == "pilot.md" else "written" for name in MADE
    ]


def test_a_table_that_nothing_makes_is_an_error():
    with pytest.raises(KeyError, match="unheard"):
        documents.filled("<!-- table: unheard -->\n<!-- end -->", {})


def test_every_figure_has_its_entry_and_its_place():
    folder = documents.FOLDER / "figures"
    assert {path.stem for path in folder.iterdir()} == {*documents.FIGURES, documents.PAGE}
    texts = [path.read_text() for path in (*documents.FOLDER.glob("*.md"), documents.FOLDER.parent / "README.md")]
    assert [path.name for path in folder.iterdir() if not any(f"figures/{path.name})" in text for text in texts)] == []


@pytest.mark.parametrize("name", documents.FIGURES)
def test_a_figure_is_drawn_from_what_is_committed(name):
    assert all(any(measured.FOLDER.rglob(pattern)) for pattern in documents.FIGURES[name])
    told = "runner.py figures --documents draws it anew"
    assert documents.records_of(documents.figure(name)) == documents.digest(name), told


def test_a_figure_is_of_others_once_a_record_changes_or_comes_or_goes(tmp_path, monkeypatch):
    for path in (*measured.FOLDER.rglob("curve-*"), *measured.FOLDER.rglob("official-curve.csv")):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    monkeypatch.setattr(documents, "FOLDER", tmp_path / "docs")
    (tmp_path / "docs" / "figures").mkdir(parents=True)
    path = documents.draw("curve")
    found = [documents.digest("curve")]
    assert path == tmp_path / "docs/figures/curve.png" and documents.records_of(path) == found[0]
    one = tmp_path / "curve-tf32x3.csv"
    one.write_bytes(one.read_bytes().replace(b"31.", b"32.", 1))
    found.append(documents.digest("curve"))
    one.rename(tmp_path / "curve-other.csv")
    found.append(documents.digest("curve"))
    (tmp_path / "curve-other.csv").unlink()
    assert len({*found, documents.digest("curve")}) == 4


def test_the_command_draws_all_and_says_what_it_cannot(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(documents, "FOLDER", tmp_path)
    monkeypatch.setattr(documents, "draw", documents.figure)
    monkeypatch.setattr(documents, "BROWSERS", ("no such browser",))
    runner.figures(documents=True)
    *drawn, page = capsys.readouterr().out.splitlines()
    assert drawn == [f"{tmp_path}/figures/{name}.png: written" for name in documents.FIGURES]
    assert "needs a browser" in page
    with pytest.raises(FigureError, match="which figure"):
        runner.figures()
