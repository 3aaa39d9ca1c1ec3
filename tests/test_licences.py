"""docs/licences.md lists what constraints.txt pins, in those versions."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_every_pinned_package_is_listed():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {tuple(line.lower().split("==")) for line in lines if "==" in line and not line.startswith("#")}
    rows = [line.split("|") for line in (ROOT / "docs" / "licences.md").read_text().splitlines() if line[:2] == "| "]
    listed = {(row[1].strip().lower(), row[2].strip()): row[3].strip() for row in rows[1:]}
    assert listed.keys() == pins and all(listed.values())
