"""The published numbers: every digit as in print, and one clear line for a file that cannot be used."""

import csv
from pathlib import Path

import pytest

from results import published
from results.published import COLUMNS, PublishedError

TABLES = published.load().tables


def value(table: str, method: str, task: str, metric: str, dataset: str = "", size: str = "") -> str:
    frame = TABLES[table]
    row = frame[
        (frame["method"] == method)
        & (frame["task"] == task)
        & (frame["metric"] == metric)
        & (frame["dataset"] == dataset)
        & (frame["size"] == size)
    ]
    assert len(row) == 1
    return row["value"].iloc[0]


def source(shared: Path, name: str) -> list[dict[str, str]]:
    path = shared / "paper" / "tables" / name
    if not path.is_file():
        pytest.skip(f"needs {name}")
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_loads_and_tables_come_in_natural_order():
    loaded = published.load()
    assert loaded.problems == []
    tables = [name for name in loaded.tables if name.startswith("table")]
    assert tables == ["table3", "table4", "table5", "table6", "table7", "tableA1", "tableA2"]
    assert all(loaded.captions[name] for name in loaded.tables)


def test_known_cells_keep_their_digits():
    assert value("table3", "MambaIRv2-light", "sr-x2", "psnr", "Set5") == "38.26"
    assert value("table3", "LatticeNet", "sr-x2", "psnr", "Set5") == "38.13"
    assert value("table4", "IPT", "sr-x2", "psnr", "Set14") == "34.43"
    assert value("table4", "IPT", "sr-x2", "ssim", "Set14") == "-"
    assert value("table6", "RDN", "jpeg-10", "psnr", "Classic5") == "30.00"  # the zeros are printed digits
    assert value("table7", "DnCNN", "denoise-15", "psnr", "CBSD68") == "33.90"
    assert value("table5", "MambaIRv2-L", "sr-x2", "macs", size="256x256") == ""
    assert value("complexity", "MambaIRv2-light", "sr-x2", "macs", size="720x1280") == "286.30G"


@pytest.mark.parametrize(
    ("table", "file", "level"),
    [
        ("table3", "table3_lightweight_sr.csv", "scale"),
        ("table4", "table4_classic_sr.csv", "scale"),
        ("table7", "table7_color_denoising_sigma15.csv", "sigma"),
    ],
)
def test_wide_tables_cell_by_cell(shared, table, file, level):
    compared = 0
    for row in source(shared, file):
        task = f"sr-x{row[level]}" if level == "scale" else f"denoise-{row[level]}"
        for column, printed in row.items():
            if column in ("method", level):
                continue
            if column in ("params", "macs"):
                size = "720x1280" if column == "macs" else ""
                found = value(table, row["method"], task, column, size=size)
            else:
                dataset, metric = column.rsplit("_", 1)
                found = value(table, row["method"], task, metric.lower(), dataset.replace("BSDS100", "BSD100"))
            assert found == printed, (row["method"], task, column)
            compared += 1
    assert compared == len(TABLES[table])  # and nothing beyond it


def test_jpeg_table_cell_by_cell(shared):
    compared = 0
    for row in source(shared, "table6_jpeg_car.csv"):
        for column, printed in list(row.items())[2:]:
            method, metric = column.rsplit("_", 1)
            assert value("table6", method, f"jpeg-{row['q']}", metric.lower(), row["dataset"]) == printed
            compared += 1
    assert compared == len(TABLES["table6"])


def test_complexity_tables_cell_by_cell(shared):
    for row in source(shared, "table5_efficiency_SECONDARY_PARTIAL.csv"):
        found = [
            value("table5", row["method"], "sr-x2", "params"),
            value("table5", row["method"], "sr-x2", "macs", size=row["output_size"]),
            value("table5", row["method"], "sr-x2", "psnr", "Urban100"),
            value("table5", row["method"], "sr-x2", "psnr", "Manga109"),
        ]
        printed = [row[name] for name in ("params", "MACs", "Urban100_PSNR", "Manga109_PSNR")]
        assert found == ["" if cell == "not found" else cell for cell in printed]
    for row in source(shared, "tableA1_complexity_vs_resolution_SECONDARY_PARTIAL.csv"):
        found = value("tableA1", row["method"], "sr-x4", "macs", size=row["output_size"])
        assert found == ("" if row["MACs"] == "not found" else row["MACs"])


def test_computed_grid_cell_by_cell(shared):
    frame = TABLES["complexity"]
    macs = frame[frame["metric"] == "macs"]
    grid = source(shared, "computed_params_macs.csv")
    assert len(macs) == len(grid)
    for (_, row), printed in zip(macs.iterrows(), grid, strict=True):
        assert (row["value"], row["size"]) == (f"{printed['MACs_G']}G", printed["output_HxW"])
        assert row["provenance"] == "computed"
        same = frame[(frame["method"] == row["method"]) & (frame["task"] == row["task"])]
        assert list(same[same["metric"] == "params"]["value"]) == [printed["params"]]


def test_ablations_cell_by_cell(shared):
    def column(table: str, dataset: str) -> list[str]:
        frame = TABLES[table]
        return list(frame[(frame["metric"] == "psnr") & (frame["dataset"] == dataset)]["value"])

    for table, file in (
        ("ablation-components", "ablation_components_SECONDARY.csv"),
        ("ablation-prompt", "ablation_prompt_position_SECONDARY.csv"),
        ("scan-directions", "scan_directions_SECONDARY_PARTIAL.csv"),
    ):
        rows = source(shared, file)
        for dataset in ("Urban100", "Manga109"):
            assert column(table, dataset) == [row[f"{dataset}_PSNR"] for row in rows], table
        assert set(TABLES[table]["provenance"]) <= {"secondary", "not found"}


def test_numbers_and_last_places():
    assert [published.number(text) for text in ("774K", "286.3G", "38.30", "-", "")] == [
        774e3,
        286.3e9,
        38.3,
        None,
        None,
    ]
    assert published.last_place("286.3G") == pytest.approx(1e8)
    assert published.last_place("38.30") == pytest.approx(0.01)
    assert published.last_place("774K") == 1000
    with pytest.raises(ValueError, match="no digits"):
        published.last_place("-")
    assert published.parse_overrides("scans=0 ffn=conv inner_rank=null") == {
        "scans": 0,
        "ffn": "conv",
        "inner_rank": None,
    }


GOOD = {
    **{"table": "mine", "method": "A", "model": "", "overrides": "", "task": "sr-x2", "iterations": "", "weights": ""},
    **{"dataset": "Set5", "size": "", "metric": "psnr", "value": "38.30", "provenance": "primary", "source": "p. 3"},
    "note": "",
}


def write(folder: Path, *rows: dict[str, str], name: str = "mine.csv", columns: tuple[str, ...] = COLUMNS) -> Path:
    path = folder / name
    with open(path, "w", newline="") as file:
        file.write("# My table\n")
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_table_is_added_by_a_file_alone(tmp_path):
    write(tmp_path, GOOD)
    write(tmp_path, {**GOOD, "method": "B"}, name="more.csv")
    loaded = published.load(tmp_path)
    assert list(loaded.tables["mine"]["method"]) == ["A", "B"] and loaded.captions["mine"] == "My table"
    assert loaded.tables["mine"]["value"].iloc[0] == "38.30"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "38,30"}, r"mine.csv, line 4, column value: '38,30' is not a number"),
        ({"value": "nan"}, r"column value: 'nan' is not a number"),
        ({"value": "3830"}, r"column value: 3830 is out of the range of psnr"),
        ({"metric": "ssim", "value": "9.615"}, r"out of the range of ssim"),
        ({"value": ""}, r"column value: '' is not a number"),
        ({"provenance": "not found"}, r"has the provenance 'not found'"),
        ({"provenance": "rumour"}, r"column provenance: 'rumour' is not one of primary"),
        ({"metric": "lpips"}, r"column metric: 'lpips'"),
        ({"task": "x2"}, r"column task: 'x2' is not a task"),
        ({"weights": "mine"}, r"column weights: 'mine' is not none or nothing"),
        ({"size": "720p"}, r"column size: '720p' is not HEIGHTxWIDTH"),
        ({"overrides": "scans 0"}, r"column overrides"),
        ({"method": ""}, r"column method: is empty"),
        ({"method": "A"}, r"mine.csv, line 4: repeats the cell of line 3"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_column(tmp_path, change, message):
    path = write(tmp_path, GOOD, {**GOOD, "method": "B", **change})
    with pytest.raises(PublishedError, match=message) as error:
        published.read(path)
    assert "\n" not in str(error.value)


def test_a_bad_file_leaves_the_others(tmp_path):
    write(tmp_path, GOOD, name="a.csv")
    write(tmp_path, GOOD, name="b.csv", columns=COLUMNS[:-1])
    write(tmp_path, GOOD, name="c.csv")
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe\x00binary")
    (tmp_path / "e.csv").write_text("# cut\n" + ",".join(COLUMNS) + "\nmine,A\n")
    loaded = published.load(tmp_path)
    assert len(loaded.tables["mine"]) == 1
    b, c, d, e = loaded.problems
    assert b == "b.csv, line 2: lacks the column 'note'"
    assert c == "c.csv, line 3: repeats the cell of a.csv, line 3"
    assert d.startswith("d.csv: cannot be read as text")
    assert e == "e.csv, line 3: has 2 columns instead of 14"


def test_names_are_those_of_the_tables_that_load():
    assert published.names() == list(published.load().tables)
