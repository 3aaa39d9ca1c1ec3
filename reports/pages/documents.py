"""The documents of docs/ whose tables and figures are made from committed records: `runner.py tables --documents`, and
`runner.py figures --documents`, which draws every figure anew.

A table stands between two comments of its document, `<!-- table: NAME -->` and `<!-- end -->`; the text around it is
written by hand. A figure says in its metadata which records it was drawn from. Tests hold both to what is committed.
"""

import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from reports import claims
from reports.costs import tables as efficiency
from reports.figures import index, style
from reports.pages import analysed, machines, performance, pilot, report
from reports.statistics import coverage
from reports.tables import sensitivity
from reports.tables.analyses import changes
from reports.tables.render import text_grid
from results import measured, records
from results.agreement import pairs
from results.costs import whole
from results.evidence import Evidence
from results.store import Store

FOLDER = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Tables = Mapping[str, Callable[[], str]]

COSTS = ("*.costs.json", "profile-*.json", "counted/*")
CHANGES = ("*.interventions.csv.xz",)
FIGURES = {  # of docs/figures: the files under results/measured that each is drawn from
    "curve": ("curve-*.csv", "official-curve.csv"),
    "decay": ("*.decay.csv.xz", *CHANGES),
    "directions": COSTS,
    "erf": ("*.erf.csv.xz", "*.erf.arrays.xz"),
    "interventions": CHANGES,
    "lam": ("*.lam.csv.xz", "*.lam.arrays.xz"),
    "layers": CHANGES,
    "memory": CHANGES,
    "prompts": ("*.prompts.csv.xz",),
    "redundancy": ("*.redundancy.csv.xz",),
    "resolution": COSTS,
    "roofline": COSTS,
    "sgn-classes": ("*.sgn-classes.arrays.xz",),
    "sgn-order": ("*.sgn-order.csv.xz",),
    "tradeoff": COSTS,
    "way": ("ablations*.csv.xz", "pilot*.csv.xz", "families/*/member.json"),
}
PAGE = "report"  # the upper end of the report as a browser shows it
PAGE_SIZE = 1280, 860
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRAWN_FROM = "Records"  # the name in a figure's metadata


def tables() -> dict[str, Tables]:
    """What makes the tables of each document, by its file's name."""
    return {
        "analyses.md": analysed.tables(_committed),
        "classes.md": {"classes": lambda: analysed.class_table(_committed().analyses)},
        "findings.md": {name: partial(_claims, name) for name in claims.SECTIONS},
        "interventions.md": changes.tables(_committed),
        "efficiency.md": efficiency.tables(),
        "performance.md": performance.tables(),
        "trainer.md": performance.learning_tables(),
        "pilot.md": pilot.tables(pilot.load()),
        "scaling.md": {"machines": machines.table},
        "statistics.md": {"coverage": lambda: coverage_table(coverage.load())},
    }


@cache
def _committed() -> Evidence:
    """What is committed, without any store."""
    return Evidence(Store(FOLDER / "none"))


def _claims(section: str) -> str:
    return report.claims_table(claims.judge(_committed(), claims.load()[section]))


def filled(text: str, made: Tables) -> str:
    """The document with every table as it is made now. Raises KeyError for a table that nothing makes."""
    return BLOCK.sub(lambda match: f"{match[1]}\n{made[match[2]]()}\n\n{match[3]}", text)


def write() -> list[str]:
    """Puts the tables of now into the documents, and draws anew the figures whose records changed.

    Before that, what two machines scored is written into `limits.FILE`, which tables go by, and what whole pictures
    score into `whole.TILING`, which `restore` tells. Returns a line per file that could have changed.
    """
    lines = [pairs.write(), write_tiling()]
    for name, made in tables().items():
        path = FOLDER / name
        old = path.read_text()
        new = filled(old, made)
        if new != old:
            records.write_bytes(path, new.encode())
        lines.append(f"{path}: {'written' if new != old else 'as before'}")
    return lines + [f"{draw(name)}: written" for name in FIGURES if records_of(figure(name)) != digest(name)]


def write_tiling() -> str:
    """Puts what whole pictures score beside tiles into `whole.TILING`. Returns a line."""
    old = whole.TILING.read_bytes() if whole.TILING.exists() else b""
    records.write_json(whole.TILING, {"command": pairs.COMMAND, "rows": sensitivity.whole_pictures(_committed())})
    return f"{whole.TILING}: {'as before' if whole.TILING.read_bytes() == old else 'written'}"


# --- figures --------------------------------------------------------------------------------------------------------


def figure(name: str) -> Path:
    return FOLDER / "figures" / f"{name}.png"


def draw_all() -> Iterator[str]:
    """Draws every figure of docs/figures anew, and says of each what became of it."""
    for name in FIGURES:
        yield f"{draw(name)}: written"
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        yield f"{figure(PAGE)}: left: it needs a browser, one of {', '.join(BROWSERS)}"
    else:
        yield f"{photograph(browser)}: written"


def digest(name: str) -> str:
    """SHA-256 of the names and the content of the files that a figure is drawn from."""
    found = hashlib.sha256()
    for path in sorted({path for pattern in FIGURES[name] for path in measured.FOLDER.rglob(pattern)}):
        found.update(f"{path.relative_to(measured.FOLDER).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()


def records_of(path: Path) -> str | None:
    """The `digest` in a figure's metadata; None where there is no figure or it has none."""
    if not path.exists():
        return None
    with Image.open(path) as image:
        return image.info.get(DRAWN_FROM)


def draw(name: str) -> Path:
    """Writes docs/figures/name.png from what is committed. Raises FigureError, StoreError."""
    with tempfile.TemporaryDirectory() as folder:
        return _keep(index.draw(name, Path(folder), "png", _committed()), name, digest(name))


def photograph(browser: str) -> Path:
    """Writes the upper end of the report of what is committed as docs/figures/report.png. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        page, shot = report.write(Store(Path(folder))), Path(folder) / "report.png"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={PAGE_SIZE[0]},{PAGE_SIZE[1]}"]
        command = [browser, *options, f"--screenshot={shot}", page.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return _keep(shot, PAGE)


def _keep(drawn: Path, name: str, records_hash: str | None = None) -> Path:
    """The picture as docs/figures/name.png, in few colours."""
    info = PngInfo()
    if records_hash:
        info.add_text(DRAWN_FROM, records_hash)
    records.write_bytes(figure(name), style.few_colours(drawn, info, optimize=True))
    return figure(name)


# --- tables ---------------------------------------------------------------------------------------------------------


def coverage_table(frame: pd.DataFrame) -> str:
    """Coverage in per cent with its standard error, and the mean half width."""
    rows = []
    for row in frame.itertuples():
        covers = f"{100 * row.coverage:.1f} ± {100 * row.standard_error:.1f}"
        width = "" if np.isnan(row.half_width) else f"{row.half_width:.2f}"
        rows.append([row.interval, row.scatter, str(row.n), covers, width])
    return text_grid(("interval", "errors", "n", "covers, %", "half width"), rows, 2)
