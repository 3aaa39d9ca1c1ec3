"""Renderings as golden text, small enough to be read."""

import csv
import io

import pandas as pd
import pytest

from reports.tables import index, render
from reports.tables.blocks import blocks
from reports.tables.blocks.block import Cell
from reports.tables.blocks.wording import number
from reports.tables.rows import COLUMNS, TableError
from results.evidence import Evidence


def test_grid_is_padded_and_marks_best_and_second():
    rows = [[Cell("a"), Cell("38.26", "best"), Cell("x|y")], [Cell("bb"), Cell("38.23", "second"), Cell("")]]
    assert render.grid(("method", "Set5", "note"), rows, left=(0, 2)) == "\n".join(
        [
            "| method |      Set5 | note |",
            "| ------ | --------: | ---- |",
            r"| a      | **38.26** | x\|y |",
            "| bb     |   _38.23_ |      |",
        ]
    )


def test_numbers_read_as_the_field_writes_them():
    assert number(38.2577, "psnr") == "38.258" and number(-0.0023, "psnr", signed=True) == "-0.002"
    assert number(0.96151, "ssim") == "0.9615" and number(1e-5, "ssim", signed=True) == "0.0000"
    assert number(774_092, "params") == "774,092" and number(92, "params", signed=True) == "+92"
    assert number(286_298_557_280, "macs") == "286.30G" and number(None, "psnr") == ""


def test_ranks_go_by_what_is_printed(store, make):
    for name, psnr, ssim in (("base", 30.0, 0.9), ("a", 30.0004, 0.9), ("b", 29.9, 0.9), ("c", 29.8, 0.9)):
        make.train(store, make.cell(name, 0, num_tokens=len(name)), psnr, ssim)
    (block,) = blocks(index.table("smoke", Evidence(store)))
    marks = {row[0].text: (row[1].mark, row[2].mark) for row in block.rows}
    assert marks == {"base": ("best", ""), "a": ("best", ""), "b": ("second", ""), "c": ("", "")}


def smoke(store, make):
    for seed, (base, ase, sgn) in enumerate([(30.0, 31.00, 30.3), (30.4, 31.41, 30.2)]):
        make.train(store, make.cell("base", seed), base, 0.8)
        make.train(store, make.cell("ase-off", seed, ase="off"), ase, 0.9, size=1200)
        make.train(store, make.cell("sgn-off", seed, sgn="off"), sgn, 0.95)
    return index.table("smoke", Evidence(store))


def test_trained_table_in_markdown(store, make):
    text = render.render(smoke(store, make), "md", index.caption("smoke"))
    assert text == "\n".join(
        [
            "## smoke",
            "",
            "Trained here at the smoke budget: differences from the base, paired by seed; not paper scale, not",
            "comparable with published scores",
            "",
            "### sr-x2 on embedded, smoke budget",
            "",
            "| variant |       PSNR |       SSIM | vs base, 95 % |   MDE | verdict      |",
            "| ------- | ---------: | ---------: | ------------: | ----: | ------------ |",
            "| base    |     30.200 |     0.8000 |               |       | base         |",
            "| ase-off | **31.205** |   _0.9000_ | +1.005 ±0.887 | 1.652 | inconclusive |",
            "| sgn-off |   _30.250_ | **0.9500** | +0.050 ±0.887 | 1.652 | inconclusive |",
            "",
            "Parameters: base: 1,000; ase-off: 1,200; sgn-off: 1,000.  ",
            "ase-off: untrained routing.  ",
            "Smoke budget, 300 iterations, seeds 0, 1; a machine, commit abc.  ",
            "Protocol: tiling official, routing gumbel, samples 1, seed 0, prompt_order raster, lr_route matlab,",
            "luma float, channels y, border 2, precision fp32.  ",
            "95 %: paired by seed, the variance that the family shares, with 2 degrees of freedom; verdicts after",
            "Holm's correction for 2.  ",
            "MDE: the difference that these seeds would find with power 0.8 after that correction.  ",
            "Only the differences mean something: no score here is comparable with the paper's.",
            "",
        ]
    )


def test_equivalence_is_said_beside_the_verdict(store, make):
    """Interval within 0.02 dB of the base: said, whether the difference is certain or not; wider ones: nothing."""
    for seed in range(4):
        wobble = 0.001 * (-1) ** seed
        for name, psnr in (("base", 30.0), ("alike", 30.0 + wobble), ("less", 29.99 - wobble), ("far", 29.9)):
            make.train(store, make.cell(name, seed, num_tokens=len(name)), psnr + seed, 0.9)
    (block,) = blocks(index.table("smoke", Evidence(store)))
    column, verdict = block.header.index("±0.02"), block.header.index("verdict")
    found = {row[0].text: (row[column].text, row[verdict].text) for row in block.rows}
    assert found == {
        "base": ("", "base"),
        "alike": ("yes", "inconclusive"),
        "less": ("yes", "worse"),
        "far": ("", "worse"),
    }
    assert any(note.startswith("±0.02: equivalent to the base") for note in block.notes)


def test_trained_table_in_latex(store, make):
    text = render.render(smoke(store, make), "tex", "A & B")
    assert r"\caption{A \& B. sr-x2 on embedded, smoke budget. Parameters: base: 1,000; ase-off: 1,200; sgn-off" in text
    assert (
        "\n".join(
            [
                r"\begin{tabular}{lrrrrl}",
                r"\toprule",
                r"variant & PSNR & SSIM & vs base, 95 \% & MDE & verdict \\",
                r"\midrule",
                r"base & 30.200 & 0.8000 &  &  & base \\",
                r"ase-off & \textbf{31.205} & \underline{0.9000} & +1.005 $\pm$0.887 & 1.652 & inconclusive \\",
            ]
        )
        in text
    )
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1


def test_published_table_marks_ranks_as_in_print_and_reads_at_100_columns(store, make):
    make.evaluate(store, 38.2577, 0.96151)
    make.evaluate(store, 33.0, dataset="Urban100", images=12, of=100)
    text = render.render(index.table("table3", Evidence(store)), "md", index.caption("table3"))
    lines = text.splitlines()
    assert "| SRFormer-light  |   853K | 236.3G |   _38.23_ |     33.94 | **32.36** |   _32.91_ |   _39.28_ |" in lines
    assert "| MambaIRv2-light |   774K | 286.3G | **38.26** | **34.09** | **32.36** | **33.26** | **39.35** |" in lines
    assert "| Set5 PSNR     |     38.26 |   38.258 |     -0.002 |        1 seed | reproduced |" in lines
    assert "Weights 01234567, Gumbel seed 0; a machine, commit abc." in text
    assert "Not there: Urban100 (12 of 100 images)." in text
    assert "Not there: Set14, BSD100, Manga109 (not run: no score on this set)." in text
    for name in index.names(Evidence(store)):
        text = render.render(index.table(name, Evidence(store)), "md", index.caption(name))
        widest = max(len(line) for line in text.splitlines())
        assert widest <= (110 if name == "complexity" else 100), (name, widest)


def test_secondary_and_missing_sources_are_marked(store):
    text = render.render(index.table("table5", Evidence(store)), "md", "")
    assert "| MambaIRv2-B | 22.9M† |   445.8G† |" in text and "| MambaIRv2-L |  34.2M | not found |" in text
    assert "† a secondary source, not the paper itself." in text
    ablation = render.render(index.table("ablation-components", Evidence(store)), "md", "")
    assert "All: a secondary source, not the paper itself." in ablation and "†" not in ablation
    assert r"445.8G$^\dagger$" in render.render(index.table("table5", Evidence(store)), "tex", "")


def test_csv_is_the_whole_frame(store, make):
    make.evaluate(store, 38.2577)
    frame = index.table("table3", Evidence(store))
    rows = list(csv.DictReader(io.StringIO(render.render(frame, "csv", ""))))
    assert len(rows) == len(frame) and list(rows[0]) == list(COLUMNS)
    row = next(r for r in rows if (r["method"], r["dataset"], r["task"]) == ("MambaIRv2-light", "Set5", "sr-x2"))
    assert (row["published"], row["provenance"]) == ("38.26", "primary")
    assert float(row["measured"]) == pytest.approx(38.2577)


def test_an_unknown_format_is_refused(store):
    with pytest.raises(TableError, match="unknown format 'html': choose from md, csv, tex"):
        render.render(index.table("tableA2", Evidence(store)), "html", "")


def test_several_tables(store):
    """Several tables are one CSV under one header; as Markdown and LaTeX they follow each other after a blank line."""
    frames = [(index.table(name, Evidence(store)), index.caption(name)) for name in ("table5", "tableA2")]
    rows = list(csv.DictReader(io.StringIO(render.render_all(frames, "csv"))))
    assert len(rows) == sum(len(frame) for frame, _ in frames)
    assert list(dict.fromkeys(row["table"] for row in rows)) == ["table5", "tableA2"]
    for form in ("md", "tex"):
        assert render.render_all(frames, form) == "\n".join(render.render(frame, form, text) for frame, text in frames)
    with pytest.raises(TableError, match="different columns"):
        render.render_all([frames[0], (frames[1][0].drop(columns="study"), "")], "csv")


def test_a_plain_table_shows_what_its_rows_say():
    rows = [{"kind": "plain", "metric": "psnr", "model": "a", "measured": 30.12345}, {"kind": "plain", "note": "none"}]
    frame = pd.DataFrame([[row.get(name) for name in COLUMNS] for row in rows], columns=list(COLUMNS), dtype=object)
    lines = render.markdown(frame.assign(table="made"), "Made up.").splitlines()
    assert lines[:3] == ["## made", "", "Made up."]
    assert lines[4].strip("| ").split() == ["model", "|", "metric", "|", "measured", "|", "note"]
    assert [line.split("|")[1:5] for line in lines[6:8]] == [
        [" a     ", " psnr   ", "   30.123 ", "      "],
        ["       ", "        ", "          ", " none "],
    ]
