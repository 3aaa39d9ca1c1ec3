"""Documents whose tables are made from committed records: they hold what is committed, and one call fills them."""

import pytest

import runner
from reports.figures import curve
from reports.pages import documents
from results.agreement import limits

MADE = documents.tables()


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
    monkeypatch.setattr(documents, "FOLDER", tmp_path)
    monkeypatch.setattr(curve, "draw", lambda curves, path: drawn.append(path))
    drawn: list = []
    for name, text in old.items():
        emptied = documents.BLOCK.sub(r"\1old\n\3", text) if name != "pilot.md" else text
        (tmp_path / name).write_text(emptied)
    content = limits.FILE.read_bytes()
    monkeypatch.setattr(limits, "FILE", tmp_path / "agreement.json")
    runner.tables(documents=True)
    assert limits.FILE.read_bytes() == content
    assert {name: (tmp_path / name).read_text() for name in MADE} == old
    assert drawn == [tmp_path / "figures" / "curve.png"]
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith("agreement.json: written")
    assert [line.rpartition(": ")[2] for line in lines] == [
        "as before" if name == "pilot.md" else "written" for name in MADE
    ]


def test_a_table_that_nothing_makes_is_an_error():
    with pytest.raises(KeyError, match="unheard"):
        documents.filled("<!-- table: unheard -->\n<!-- end -->", {})
