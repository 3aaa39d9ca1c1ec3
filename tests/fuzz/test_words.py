"""Words from strangers: settings are typed or refused in words, and a page shows text as text."""

import io
import re
from html.parser import HTMLParser

import pandas as pd
from hypothesis import strategies as st

import models
from reports.pages import html
from reports.tables import render
from suites import recipes
from suites.recipes import settings
from suites.spec import Cell, SpecError
from tests.fuzz.explore import explore

SUITE = recipes.choose("smoke", only="base/*", seeds="0")
KEYS = st.one_of(st.sampled_from(settings.keys()), st.text(max_size=12))
VALUES = st.one_of(
    st.text(max_size=20), st.integers().map(str), st.floats().map(str), st.just("1,2,3"), st.just("none")
)
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
HOSTILE = st.one_of(
    TEXT, st.builds(lambda a, b: f"{a}<script>{b}</script><img src=x onerror=alert(1)>-->]]>", TEXT, TEXT)
)


def test_settings():
    def check(pair: tuple[str, str]) -> None:
        key, value = pair
        try:
            changed = settings.apply(SUITE, [f"{key}={value}"])
        except SpecError as error:
            assert "--set" in str(error) or str(error)
        else:
            for cell in changed.cells:
                assert Cell.from_config(cell.config()).config() == cell.config()
                try:
                    models.configure(cell.variant.model, **cell.task.network | cell.variant.overrides)
                except (TypeError, ValueError, models.ModelError) as error:
                    assert str(error)

    explore("settings", st.tuples(KEYS, VALUES), check)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag, attrs) -> None:
        self.found.add(tag)


def test_pages_and_tables():
    """Prose has no tag but code, JSON of a page ends no element, Markdown's rows keep their number of columns, and
    LaTeX has no command that was not escaped."""

    def check(texts: list[str]) -> None:
        for text in texts:
            tags = Tags()
            tags.feed(str(html.prose(text)))
            assert tags.found <= {"code"}
        assert not re.search(r"[<>&\u2028\u2029]", str(html._json(texts)))
        plain = re.sub(r"\$(-|\\[a-zA-Z]+)\$|\\[a-zA-Z]+(\{\})?", "", render.escape(texts[0]))
        assert not re.search(r"(?<!\\)[#%&_$]", plain)
        frame = pd.DataFrame({"a": texts, "b": 1})
        assert pd.read_csv(io.StringIO(render.to_csv(frame)), keep_default_na=False).shape[1] == 2

    explore("pages", st.lists(HOSTILE, min_size=1, max_size=3), check)
