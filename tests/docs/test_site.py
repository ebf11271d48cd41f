"""The site that `nox -s docs` built: all links work, and nothing is loaded from other sites."""

from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from prometheus_client import CollectorRegistry
from tables import on_page_markdown

import sark_cache
from pages import PAGES, ROOT
from report import page as benchmark_page
from report import saved
from sark_cache import RustPolicyCache
from sark_cache.instrumentation.prometheus import register
from sark_cache.settings import SETTINGS, variables_of
from telemetry import FixedRollouts, families

SITE = ROOT / "site"
REPOSITORY = "https://github.com/sark-cache/sark-cache/blob/main/"
OPENED = [page for page in sorted(SITE.rglob("*.html")) if page.name != "404.html"]

LOADED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}
"""Attributes whose URLs a browser fetches without a click."""


class Document(HTMLParser):
    """The links, fetched URLs and link targets of a page of the site."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loaded, self.anchors, self.text = set(), set(), set(), ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        given = {name: value or "" for name, value in attributes}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        canonical = given.get("rel", "") in {"canonical", "prev", "next"}
        if not canonical:
            self.loaded |= {v for n, v in given.items() if (tag, n) in LOADED and v}

    def handle_data(self, data):
        self.text += data


DOCUMENTS = {page: Document(page) for page in OPENED}


def leads_nowhere(page, link):
    """Returns the fault of a link; None if it is right or leads to another site."""
    parts = urlsplit(link)
    if link.startswith(REPOSITORY):
        return None if (ROOT / unquote(parts.path.split("/blob/main/")[1])).exists() else "no file"
    if parts.scheme or parts.netloc:
        return None
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "no file"
    anchored = parts.fragment and target in DOCUMENTS
    if anchored and unquote(parts.fragment) not in DOCUMENTS[target].anchors:
        return "no such anchor"
    return None


def test_the_site_is_newer_than_its_pages():
    built = SITE / "index.html"
    assert built.exists(), "nothing is built: run `mkdocs build`, or all of it with `nox -s docs`"
    newest = max(page.stat().st_mtime for page in PAGES if page.is_relative_to(ROOT / "docs"))
    assert built.stat().st_mtime >= newest, "pages have changed since: run `mkdocs build`"


@pytest.mark.parametrize("page", OPENED, ids=lambda page: page.relative_to(SITE).as_posix())
def test_every_link_works(page):
    wrong = {link: leads_nowhere(page, link) for link in DOCUMENTS[page].links}
    assert not {link: why for link, why in wrong.items() if why}


@pytest.mark.parametrize("page", OPENED, ids=lambda page: page.relative_to(SITE).as_posix())
def test_a_page_loads_nothing_from_other_sites(page):
    for source in DOCUMENTS[page].loaded:
        parts = urlsplit(source)
        assert not parts.netloc, source
        assert parts.scheme == "data" or (page.parent / unquote(parts.path)).exists(), source


def test_no_stylesheet_fetches_anything():
    for sheet in SITE.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert "@import" not in text, sheet
        assert "url(http" not in text.replace("'", "").replace('"', ""), sheet


@pytest.mark.parametrize("page", [path.name for path in ROOT.glob("*.md")])
def test_links_in_the_header_work(page):
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").parse((ROOT / page).read_text(encoding="utf-8"))
    children = [child for token in tokens for child in token.children or ()]
    links = [child.attrs["href"] for child in children if child.type == "link_open"]
    assert links
    for link in links:
        parts = urlsplit(link)
        assert parts.scheme or (ROOT / parts.path).exists(), link


def test_every_setting_is_in_the_table():
    text = DOCUMENTS[SITE / "operating.html"].text
    for setting in SETTINGS:
        for variable in variables_of(setting):
            assert variable in text


def test_every_metric_is_in_the_table():
    registry = CollectorRegistry()
    register(RustPolicyCache(), registry, flags=FixedRollouts(rust_cache=25))
    text = DOCUMENTS[SITE / "operating.html"].text
    for family in families(registry).values():
        assert family.name in text


def test_every_public_name_is_in_the_reference():
    reference = set().union(*(DOCUMENTS[page].anchors for page in (SITE / "api").glob("*.html")))
    for name in sark_cache.__all__:
        defined = f"sark_cache.settings.{name}" if name == "CacheSettings" else f"sark_cache.{name}"
        assert defined in reference, name
    for module in (sark_cache.cleanup, sark_cache.metrics, sark_cache.types):
        for name in set(module.__all__) - set(sark_cache.__all__):
            assert f"{module.__name__}.{name}" in reference, name
    for name in ("allow_all", "deny_all", "policy_cache", "no_policy_cache"):
        assert f"sark_cache.testing.{name}" in reference, name


def test_the_benchmark_page_has_every_chart():
    built = (SITE / "benchmarks/index.html").read_text(encoding="utf-8")
    _, pieces = benchmark_page.page(saved.load())
    assert len(pieces) > 50
    assert all(piece in built for piece in pieces.values())
    assert "benchmark-chart-" not in built


def test_diagrams_are_drawn_and_described():
    page = (SITE / "guarantee.html").read_text(encoding="utf-8")
    drawn = page.count('<div class="sequence"><svg')
    assert drawn == (ROOT / "docs/guarantee.md").read_text(encoding="utf-8").count("```mermaid")
    assert "sequenceDiagram" not in page
    assert page.count('role="img" aria-label="') == drawn


@pytest.mark.parametrize(
    "page", [path for path in PAGES if "<!-- table: " in path.read_text("utf-8")]
)
def test_the_tables_of_a_page_are_up_to_date(page):
    """A reader of the repository sees the tables that the site has."""
    text = page.read_text(encoding="utf-8")
    assert on_page_markdown(text) == text, "run python docs/hooks/tables.py"
