"""Figures by name, in every format."""

import re

import pytest

import runner
from reports.figures import index
from suites import commandline

MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.mark.parametrize("suffix", index.FORMATS)
def test_a_figure_is_a_file_of_its_format(suffix, tmp_path):
    path = index.draw("curve", tmp_path, suffix, None)
    assert path == tmp_path / f"curve.{suffix}" and path.read_bytes().startswith(MAGIC[suffix])


def test_what_there_is_not_is_named(tmp_path):
    with pytest.raises(index.FigureError, match=r"'curves' \(did you mean curve\?\)"):
        index.draw("curves", tmp_path, "png", None)
    with pytest.raises(index.FigureError, match="'gif': choose from png, pdf, svg"):
        index.draw("curve", tmp_path, "gif", None)


def test_help_names_every_figure():
    words = re.findall(r"[a-z-]+", commandline.FIGURE.replace("(training)", "").replace("of analyses", ""))
    assert sorted(words) == sorted(index.FIGURES)


def test_the_command_says_what_it_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["runner.py", "figures", "curve", "--format", "svg"])
    assert runner.main() == 0
    assert "curve.svg" in capsys.readouterr().out and (tmp_path / "curve.svg").exists()
