"""The file of a sweep is whole after any kill, has one writer, and is committed with all that says where it is from."""

import json

import pytest

from results import export, measured
from results.costs import committed, lines
from results.records import StoreError
from results.store import Store

MACHINE = {"device": "a", "device_type": "cpu", "threads": 1, "versions": {"torch": "1"}, "commit": "c"}
RUN = {"run": {"command": "runner.py profile --preset resolution", "started": "2026-01-01T00:00:00+00:00"}}


def row(key: str, status: str = "ok") -> dict:
    return {"row": {"key": key, "status": status}}


def filed(root, *written) -> lines.Writer:
    writer = lines.Writer(lines.place(root, MACHINE), MACHINE)
    for line in written:
        writer.add(line)
    return writer


def test_a_torn_line_is_cut_off_and_the_last_row_of_a_point_counts(tmp_path):
    filed(tmp_path, RUN, row("1", "failed"), row("2"), row("1")).close()
    path = lines.place(tmp_path, MACHINE)
    whole = path.read_bytes()
    for torn in (b'{"row": {"key"', b'{"row"', b"{"):
        path.write_bytes(whole + torn)
        assert lines.read(path).rows.keys() == {"1", "2"}
        writer = filed(tmp_path, row("3"))
        assert writer.costs.is_done("1") and writer.costs.rows["1"]["status"] == "ok"
        writer.close()
        assert lines.read(path).rows.keys() == {"1", "2", "3"} and path.read_bytes().startswith(whole + b'{"row"')
    path.write_bytes(whole.replace(b'"2"', b'"2'))
    with pytest.raises(StoreError, match="line 4"):
        lines.read(path)


def test_what_may_end_otherwise_is_not_done(tmp_path):
    writer = filed(tmp_path, *(row(status, status) for status in ("ok", "oom", "timeout", "failed", "interrupted")))
    assert [key for key in writer.costs.rows if writer.costs.is_done(key)] == ["ok", "oom", "timeout"]
    writer.close()


def test_a_file_has_one_writer(tmp_path):
    writer = filed(tmp_path)
    with pytest.raises(StoreError, match="another command"):
        filed(tmp_path)
    writer.close()
    filed(tmp_path).close()


def test_other_code_is_another_file(tmp_path):
    assert lines.place(tmp_path, MACHINE) != lines.place(tmp_path, MACHINE | {"commit": "d"})


def test_a_sweep_is_committed_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "FOLDER", tmp_path / "measured")
    filed(tmp_path / "store", RUN, row("1"), row("2", "interrupted"), {"rates": {"fp32": 1.0}}).close()
    told = export.export(Store(tmp_path / "store"), "here/resolution", "runner.py export store here/resolution")
    assert told == [f"{tmp_path / 'measured/here/resolution.costs.json'}: 1 points of 1 sweeps"]
    (sweep,) = committed.load()
    assert sweep["file"] == "here/resolution.costs.json" and sweep["machine"] == MACHINE
    assert [one["key"] for one in sweep["rows"]] == ["1"] and sweep["rates"] == [{"fp32": 1.0}]
    path = lines.place(tmp_path / "store", MACHINE)
    path.write_text(json.dumps({"machine": {**MACHINE, "commit": None}}) + "\n")
    with pytest.raises(StoreError, match="commit"):
        committed.export(tmp_path / "store", tmp_path / "measured/here/other", {})
