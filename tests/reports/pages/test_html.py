"""The report as one HTML file: whole, escaped, loading nothing, and in a browser (Debian: apt install chromium).

axe-core is taken from node_modules (`npm install --no-save axe-core`). What is not there skips its tests, by name.
"""

import base64
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from reports.figures import index as figures
from reports.pages import assets, html, report
from reports.tables import index
from results import crops
from results.evidence import Evidence
from results.store import Store

ROOT = Path(__file__).resolve().parents[3]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
EVIL = '<img src=x onerror="document.title=1">'
WORSE = "</script><script>document.title=2</script>"
LIMIT = 8 * 2**20  # bytes


def crop(store: Store, name: str) -> None:
    """Files a crop of noise beside the first record of `store`."""
    draw = np.random.default_rng(0)
    sizes = {"degraded": 20, "bicubic": 40, "restored": 40, "truth": 40}
    views = {view: draw.integers(0, 256, (size, size, 3), dtype=np.uint8) for view, size in sizes.items()}
    facts = dict.fromkeys(crops.FACTS, name) | {"psnr": 30.0, "window": [0, 0, 40, 40], "task": "sr-x2", "protocol": {}}
    crops.write(store.evaluation_folders()[0], "picture", views, facts)


def absent(path: Path, evidence: Evidence) -> None:
    raise ValueError("nothing is stored: runner.py analyse")


@pytest.fixture(scope="module")
def made(make, tmp_path_factory) -> SimpleNamespace:
    """A page of hostile names beside everything that is committed: its path, text and what it was made of."""
    store = Store(tmp_path_factory.mktemp("store"))
    for seed in (0, 1, 2):
        make.train(store, make.cell("base", seed), 30.0 + seed / 10)
        make.train(store, make.cell(EVIL, seed, sgn="off"), 29.0 + seed / 9)
    make.evaluate(store, 38.0, file=WORSE, weights="f" * 64)
    make.evaluate(store, 33.0, model=EVIL, dataset="own pictures", images=4, of=4)
    crop(store, EVIL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(figures.FIGURES, "unasked", figures.Figure("A figure that has nothing to show", absent))
        path = report.write(store)
    return SimpleNamespace(path=path, text=path.read_text(), store=store)


class Elements(HTMLParser):
    """tags: (name, attributes) in order. scripts: contents of those that run. text: all that is shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._open = tag
        if tag == "script" and "type" not in dict(attributes):
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open == "script" and "type" not in self.tags[-1][1]:
            self.scripts[-1] += data
        elif self._open not in ("script", "style"):
            self.text += data

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.tags if name in attributes]


@pytest.fixture(scope="module")
def elements(made) -> Elements:
    return Elements(made.text)


def test_names_from_files_are_text(elements):
    assert EVIL in elements.text and WORSE in elements.text
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert all(source.startswith("data:image/") for source in elements.values("src"))
    data = [attributes for tag, attributes in elements.tags if tag == "script" and attributes.get("type")]
    assert [attributes["id"] for attributes in data] == ["data"] and len(elements.scripts) == 4


def test_data_for_scripts_cannot_end_their_element(made):
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', made.text, re.DOTALL)[1]
    read = json.loads(data)
    assert set(read) == {"sources", "charts", "theme"} and not set("<>&") & set(data)
    assert html._json({"a": WORSE + "\u2028"}) == (
        '{"a":"\\u003c/script\\u003e\\u003cscript\\u003edocument.title=2\\u003c/script\\u003e\\u2028"}'
    )


def test_nothing_is_loaded_from_anywhere(elements, made):
    for name in ("src", "href", "action", "data", "poster", "srcset"):
        assert all(value.startswith(("#", "data:")) for value in elements.values(name)), name
    style = re.search(r"<style>(.*?)</style>", made.text, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style


def test_the_policy_admits_these_scripts_and_no_others(elements):
    (policy,) = [a["content"] for t, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in elements.scripts]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert rules["img-src"] == "data:" and "connect-src" not in rules


def test_a_script_that_would_end_its_element_is_refused():
    with pytest.raises(ValueError, match="ends it early"):
        assets._inline("a = '</SCRIPT>'")


def test_size(made):
    assert len(made.text.encode()) < LIMIT


def test_every_table_has_a_fragment_that_is_linked(elements, made):
    ids = elements.values("id")
    assert len(ids) == len(set(ids))
    links = {link.removeprefix("#") for link in elements.values("href") if link.startswith("#")}
    assert links <= set(ids)
    names = index.names(Evidence(made.store))
    assert len(names) > 10 and {f"table-{name}" for name in names} <= links


def test_every_chart_has_its_text_and_its_numbers(elements, made):
    drawn = elements.values("data-chart")
    charts = json.loads(re.search(r'id="data">(.*?)</script>', made.text, re.DOTALL)[1])["charts"]
    assert set(drawn) == set(charts) and len(drawn) >= 6
    for name in drawn:
        assert charts[name]["description"] in elements.text and f"{name}-data" in elements.values("id")
    missing = dict(re.findall(r'<li id="(figure-[\w-]+)">[^<]*<span class="quiet">(.+?)</span></li>', made.text))
    assert missing == {"figure-unasked": "nothing is stored: runner.py analyse"}  # all others are of what is committed


def test_every_number_of_a_table_of_scores_says_where_it_comes_from(made):
    table = re.search(r'id="table-table3-1".*?</table>', made.text, re.DOTALL)[0]
    sources = json.loads(re.search(r'id="data">(.*?)</script>', made.text, re.DOTALL)[1])["sources"]
    row = re.search(r"<tr><td[^>]*>MambaIRv2-light, sr-x2</td><td[^>]*>Set5 PSNR</td>(.*?)</tr>", table)[1]
    published, measured = (sources[int(number)] for number in re.findall(r'data-s="(\d+)"', row)[:2])
    assert published == "published, primary: picture of Table 3 in the official repository"
    measured, _, _ = measured.partition("; other machines: ")  # another machine's copy, where one is committed
    assert "commit" in measured and "Gumbel seeds" in measured and measured.endswith("committed")


def test_a_store_and_what_is_committed_are_told_apart(made, elements):
    count = int(Evidence(made.store).evaluations["committed"].sum())
    assert count > 100
    assert f"Shown of this store: 2 records of scores and 6 cells; beside it {count} records" in elements.text
    assert "in this store" in made.text


def test_what_an_index_names_is_on_the_page(store, make, monkeypatch):
    """A table or figure is added to its index, and nowhere else."""

    def draw(path: Path, evidence: Evidence) -> None:
        path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")

    def rows(evidence):
        yield {"kind": "plain", "method": "a probe", "metric": "psnr", "measured": 31.25, "setting": ""}

    probe = SimpleNamespace(NAME="probe", CAPTION="What the probe found", NEEDS="", known=lambda _: True, rows=rows)
    monkeypatch.setitem(index.RECORDED, "probe", probe)
    monkeypatch.setitem(figures.FIGURES, "sketch", figures.Figure("A sketch", draw))
    make.evaluate(store, 38.0)
    text = report.write(store).read_text()
    analyses = text[text.index('id="analyses"') : text.index('id="environment"')]
    assert "What the probe found" in analyses and ">31.250</td>" in analyses and 'href="#table-probe"' in text
    assert 'alt="A sketch"' in analyses and "data:image/svg+xml;base64," in analyses
    assert report.write(store).read_text() == text


def test_other_peoples_files_are_those_that_are_named():
    named = re.findall(
        r"^\| `([^`]+)` \|.*\| ([0-9a-f]{64}) \|$", (assets.VENDOR / "README.md").read_text(), re.MULTILINE
    )
    there = {path.relative_to(assets.VENDOR).as_posix() for path in assets.VENDOR.rglob("*.js")}
    assert {path for path, _ in named} == there and len(there) == 2
    for path, digest in named:
        assert hashlib.sha256((assets.VENDOR / path).read_bytes()).hexdigest() == digest
        assert "MIT License" in (assets.VENDOR / path).with_name("LICENSE").read_text()


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def page(browser, made):
    """The page as opened from disk, with every chart drawn. `said`: console errors, uncaught errors, requests."""
    opened = browser.new_page(viewport={"width": 1300, "height": 900}, color_scheme="light")
    opened.said = []
    opened.on("console", lambda message: opened.said.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.on("request", lambda asked: opened.said.append(asked.url) if asked.url.startswith("http") else None)
    opened.goto(made.path.as_uri())
    count = opened.locator("[data-chart]").count()
    opened.wait_for_function(f"document.querySelectorAll('[data-chart] svg').length === {count}", timeout=60_000)
    yield opened
    opened.close()


def column(page, block: str, place: int) -> list[str]:
    return page.locator(f"#{block} .tabulator-row").evaluate_all(
        f"rows => rows.map(row => row.querySelectorAll('.tabulator-cell')[{place}].textContent)"
    )


def test_a_table_is_sorted_filtered_and_saved(page):
    block = "table-table4-1"
    page.locator(f"#{block} thead button", has_text="measured").click()
    page.wait_for_selector(f"#{block} .tabulator-row")
    counts = [int(text.replace(",", "")) for text in column(page, block, 3)]
    assert counts == sorted(counts) and len(counts) > 10
    page.locator(f"#{block} .tabulator-col", has_text="measured").click()
    counts = [int(text.replace(",", "")) for text in column(page, block, 3)]
    assert counts == sorted(counts, reverse=True)
    page.locator(f"#{block} input[type=search]").fill("mambairv2-s")
    page.wait_for_function(f"document.querySelectorAll('#{block} .tabulator-row').length === 3")
    assert all(text.startswith("MambaIRv2-S") for text in column(page, block, 0))
    with page.expect_download() as saved:
        page.locator(f"#{block} .bar button", has_text="CSV").click()
    lines = Path(saved.value.path()).read_text(encoding="utf-8-sig").splitlines()
    assert lines[0].startswith('"of","quantity","published","measured"') and len(lines) == 4
    assert saved.value.suggested_filename == f"{block}.csv" and '"-30,353"' in "".join(lines)


def test_a_number_tells_where_it_comes_from(page):
    number = page.locator("#table-table3-1 td.n", has_text="38.26").first
    number.hover()
    assert page.locator("#tip").inner_text().startswith("published, primary: picture of Table 3")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    number.focus()
    page.keyboard.press("ArrowRight")
    assert "Gumbel seeds" in page.locator("#tip").inner_text()
    assert page.evaluate("document.activeElement.textContent") == "38.255"


def test_the_slider_moves(page):
    slider = page.locator("img-comparison-slider").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, middle, steps=4)
    page.mouse.up()
    assert slider.evaluate("node => node.value") == pytest.approx(25, abs=3)
    assert slider.get_attribute("aria-valuenow") == str(round(slider.evaluate("node => node.value")))
    page.locator("[data-side=second]").first.select_option(label="error")
    assert page.locator("img-comparison-slider img[slot=second]").first.get_attribute("alt").endswith(": error")


def test_a_fragment_opens_what_is_folded(page):
    folded = page.evaluate("document.querySelector('details:not([open]) .block').id")
    page.evaluate(f"location.hash = '#{folded}'")
    page.wait_for_function(f"document.getElementById('{folded}').closest('details').open")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(page, scheme):
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: npm install --no-save axe-core")
    page.emulate_media(color_scheme=scheme)
    page.evaluate(AXE.read_text())  # past the page's own policy, which would not admit it as a script
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    serious = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []


def test_a_phone_shows_it_in_its_width(page):
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.set_viewport_size({"width": 1300, "height": 900})


def test_nothing_went_wrong_and_nothing_was_asked_for(page):
    assert page.said == [] and page.title() == "MambaIRv2: published and measured"
