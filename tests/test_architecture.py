"""docs/architecture.md as a test: who imports whom, and how large a package may get."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "models": {"models"},
    "results": {"results"},
    "reports": {"reports", "results"},
    "suites": {"suites", "models", "results"},
}
STORES = Path("results/runs")  # of whoever measures: no part of the project
FILES = [path.relative_to(ROOT) for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]
SOURCES = [path for path in FILES if not path.is_relative_to(STORES)]


def imported(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_dependencies_point_one_way(package):
    ours = {*MAY_IMPORT, "runner", "analyse", "score", "tests"}
    upward = {str(p): imported(ROOT / p) & ours - MAY_IMPORT[package] for p in SOURCES if p.parts[0] == package}
    assert {path: names for path, names in upward.items() if names} == {}


def test_no_package_has_more_than_twelve_files():
    sizes = {str(folder): len(list((ROOT / folder).glob("*.py"))) for folder in {path.parent for path in SOURCES}}
    assert {folder: count for folder, count in sizes.items() if count > 12} == {}
