"""Tables in a terminal narrower than they are written for: nothing longer than its lines, and nothing lost."""

import pytest

import runner
from reports.tables import terminal

GRID = """| set  | PSNR  | a note  | verdict    |
| ---- | ----: | ------- | ---------- |
| Set5 | 38.26 | a \\| b  | reproduced |"""


def cells(text: str) -> dict[str, list[str]]:
    """Columns by their header, of all grids."""
    found = {}
    for part in text.split("\n\n"):
        rows = [[cell.strip() for cell in terminal._BAR.split(line)[1:-1]] for line in part.splitlines()]
        found |= {name: list(column) for name, *column in zip(*rows, strict=True)}
    return found


def test_a_grid_is_cut_between_columns_and_repeats_its_first():
    text = terminal.fit(GRID, 26)
    assert text.splitlines()[0] == "| set  | PSNR  | a note  |" and "| set  | verdict    |" in text
    assert max(map(len, text.splitlines())) <= 26 and cells(text) == cells(GRID)


def test_paragraphs_are_filled_anew_with_their_breaks_and_items():
    text = "# Head\n\none two three\nfour five  \nsix\n\n- seven eight nine\n  ten\n- eleven\n"
    assert (
        terminal.fit(text, 12)
        == "# Head\n\none two\nthree four\nfive  \nsix\n\n- seven\n  eight nine\n  ten\n- eleven\n"
    )


@pytest.mark.parametrize("width", [0, 100])
def test_what_fits_or_goes_to_no_terminal_stays(width):
    assert terminal.fit(GRID, width) == GRID


def test_all_tables_keep_to_the_terminal_and_begin_with_an_index(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    runner.tables(["all"], results=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > (80 if line.startswith("#") else 60)] == []
    names = [line.removeprefix("## ") for line in lines if line.startswith("## ")][1:]
    assert lines[0] == "## Tables" and lines[2] == "- table3: Lightweight super-resolution"
    assert [line[2:].partition(":")[0] for line in lines if line.startswith("- ")][: len(names)] == names
    runner.tables(results=tmp_path)
    listed = capsys.readouterr().out.splitlines()
    assert listed[: len(names) + 2] == lines[: len(names) + 2] and max(map(len, listed)) <= 60 and len(listed) < 60
    runner.tables(["table3"], results=tmp_path)
    assert capsys.readouterr().out.startswith("## table3")
