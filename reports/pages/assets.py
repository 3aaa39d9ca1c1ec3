"""Scripts and styles inside the report's page, other people's with their licences, and the policy that admits them."""

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "assets"
VENDOR = FOLDER / "vendor"
SLIDER, TABLES, CHARTS = "img-comparison-slider", "tabulator", "vega"
FILES = {SLIDER: "index.js", TABLES: "tabulator.min.js"}  # Vega comes from vl-convert
_MAP = re.compile(r"^//# sourceMappingURL=.*$", re.MULTILINE)


def style() -> str:
    return (FOLDER / "report.css").read_text()


def scripts(sliders: bool) -> list[str]:
    """The scripts of a page, in order: Vega, Tabulator, the slider where the page has one, and ours."""
    named = [CHARTS, TABLES, *([SLIDER] if sliders else [])]
    return [*map(_vendored, named), _inline((FOLDER / "report.js").read_text())]


def policy(inline: list[str]) -> str:
    """A Content-Security-Policy under which nothing is loaded from anywhere and only these scripts run.

    Styles are set by scripts cell by cell, so they are admitted; no value of a user's file becomes one.
    """
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in inline)
    parts = ("default-src 'none'", f"script-src {hashes}", "style-src 'unsafe-inline'", "img-src data:")
    return "; ".join((*parts, "base-uri 'none'", "form-action 'none'"))


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _vendored(name: str) -> str:
    licence = (VENDOR / name / "LICENSE").read_text().replace("*/", "* /")
    if name == CHARTS:
        import vl_convert

        code = vl_convert.javascript_bundle()
    else:
        code = _MAP.sub("", (VENDOR / name / FILES[name]).read_text())
    return _inline(f"/* {name}\n\n{licence}*/\n{code}")


def _inline(code: str) -> str:
    """A script as it may stand between its tags. Raises ValueError for one that would end there."""
    if re.search(r"</script|<!--", code, re.IGNORECASE):
        raise ValueError("a script for the page holds </script or <!--, which ends it early")
    return code.replace("\r\n", "\n").replace("\r", "\n")  # as a browser reads it, so that its hash fits
