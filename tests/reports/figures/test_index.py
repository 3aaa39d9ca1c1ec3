"""Figures by name, in every format."""

import re
from collections import Counter

import pytest

import runner
from reports.figures import curve, index
from results import measured
from suites import commandline

MAGIC = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


@pytest.mark.parametrize("suffix", index.FORMATS)
def test_a_figure_is_a_file_of_its_format(suffix, tmp_path):
    path = index.draw("curve", tmp_path, suffix, None)
    assert path == tmp_path / f"curve.{suffix}" and path.read_bytes().startswith(MAGIC[suffix])


def test_a_figure_has_its_labels_and_a_line_per_seed(tmp_path):
    drawn = index.draw("curve", tmp_path, "svg", None).read_text()
    for label in ("Set5 x2", "Set14 x2", "iteration", "PSNR, dB", "official code, fp32"):
        assert f"<!-- {label} -->" in drawn
    curves = curve.load(measured.FOLDER).values()
    seeds = [len(found[["dataset", "seed"]].drop_duplicates()) for found in curves]
    colours = re.findall(r'<path d="[^"]*" clip-path="[^"]*" style="fill: none; stroke: (#\w+); stroke-linecap', drawn)
    assert list(Counter(colours).values()) == seeds and min(seeds) > 1


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
