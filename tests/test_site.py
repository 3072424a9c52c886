"""The static book: built once without a warning, whole in itself, and read in a browser that is offline."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from tools.book import ROOT, chapters
from tools.ledger import KINDS_CHECKED, read_rows
from tools.site import escape

WRITTEN = chapters(written_only=True)
# What a browser fetches by itself, by the attribute that names it
FETCHED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "embed": "src",
    "object": "data",
    "link": "href",
}
# What is no text to read, or is TeX until it is set
NO_TEXT = re.compile(r'<(script|style|pre|code)\b.*?</\1>|<(span|div) class="math.*?</\2>', re.DOTALL)
# Signs of markup that was not understood
RAW = re.compile(r"\$|:::|```|\{[\w:-]+\}`|\]\(|\|\s*:?-{2,}|Loading widget|Error displaying|\\begin\{")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole site, built anew."""
    folder = tmp_path_factory.mktemp("site") / "html"
    command = [sys.executable, "-m", "tools.site", "--output", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr, result.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, BeautifulSoup]:
    """Every page that a reader can come to, by its path."""
    paths = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]
    return {
        str(path.relative_to(site)): BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in paths
    }


def test_each_chapter_has_its_page_in_order(pages):
    titles = {chapter.stem: f"{chapter.number}. {chapter.title}" for chapter in chapters()}
    for stem, title in titles.items():
        page = pages[f"chapters/{stem}.html"]
        assert page.select_one("article h1").get_text().rstrip("#") == title
        assert page.title.get_text().startswith(title)
    links = pages["index.html"].select(".bd-links a.reference")
    contents = [" ".join(link.get_text().split()) for link in links]
    assert contents == [*titles.values(), "The ledger", "References"]


def test_a_written_chapter_is_there_with_its_outputs(pages):
    for chapter in WRITTEN:
        page = pages[f"chapters/{chapter.stem}.html"]
        assert page.select("div.cell_input") and page.select("div.cell_output"), chapter.stem


def test_the_index_tells_the_measured_seconds(pages):
    rows = [[cell.get_text() for cell in row.select("td")] for row in pages["index.html"].select("article table tr")]
    seconds = {cells[1]: cells[3] for cells in rows if len(cells) == 6}
    assert all(re.fullmatch(r"\d+ s", seconds[chapter.title]) for chapter in WRITTEN)


def test_every_page_has_a_title_and_every_picture_a_text(pages):
    for path, page in pages.items():
        assert page.title.get_text().strip() and page.select_one(".bd-main h1"), path
        assert all(image.get("alt", "").strip() for image in page.select("img")), path


def test_nothing_comes_from_outside(site, pages):
    fetched = []
    for path, page in pages.items():
        fetched += [(path, tag[key]) for name, key in FETCHED.items() for tag in page(name) if tag.get(key)]
    for sheet in site.rglob("*.css"):
        urls = re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", sheet.read_text(encoding="utf-8"))
        fetched += [(str(sheet.relative_to(site)), url) for url in urls]
    for path, url in fetched:
        parts = urlsplit(url)
        if parts.scheme != "data":
            assert not parts.scheme and not parts.netloc, f"{path}: {url}"
            assert not parts.path or (site / path).parent.joinpath(unquote(parts.path)).is_file(), f"{path}: {url}"


def test_links_lead_somewhere(site, pages):
    anchors = {(site / path).resolve(): {tag["id"] for tag in page(id=True)} for path, page in pages.items()}
    for path, page in pages.items():
        for link in page("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme:
                assert parts.scheme in {"https", "http"}, f"{path}: {link}"
                continue
            target = (
                (site / path).parent.joinpath(unquote(parts.path)).resolve() if parts.path else (site / path).resolve()
            )
            assert target in anchors, f"{path}: {link}"
            assert not parts.fragment or unquote(parts.fragment) in anchors[target], f"{path}: {link}"


def test_no_markup_is_left_in_the_text(site, pages):
    for path in pages:
        html = (site / path).read_text(encoding="utf-8")
        text = re.sub(r"<[^>]+>", "", re.sub(NO_TEXT, "", html))
        assert not (found := RAW.search(text)), f"{path}: …{text[found.start() - 60 : found.end() + 60]}…"


def test_numbers_follow_the_chapters(pages):
    for chapter in WRITTEN:
        page = pages[f"chapters/{chapter.stem}.html"]
        numbers = [re.findall(r"[\d.]+", tag.get_text())[0] for tag in page.select("figcaption .caption-number")]
        assert numbers == [f"{chapter.number}.{n}" for n in range(1, len(page.select("article img")) + 1)], chapter.stem
        titles = [
            tag.get_text() for tag in page.select("div.proof > .admonition-title, div.exercise > .admonition-title")
        ]
        assert all(re.search(rf" {chapter.number}\.\d+", title) for title in titles), chapter.stem


def test_the_ledger_leads_to_every_verdict(pages):
    table_rows = pages["ledger.html"].select("table.ledger tbody tr")
    ids = [row.td.get_text().split()[0] for row in table_rows]
    rows = read_rows()
    assert ids == [row.id for row in rows]
    written = {chapter.stem for chapter in WRITTEN}
    places = {path: {tag["id"]: tag for tag in page(id=True)} for path, page in pages.items()}
    for row, shown in zip(rows, table_rows, strict=True):
        links = shown.select("td:last-child a")
        assert bool(links) == (row.chapter in written), row.id
        assert not links or row.kind not in KINDS_CHECKED or any(link.get_text()[0] == "✓" for link in links), row.id
        for link in links:
            path, anchor = link["href"].split("#")
            assert path == f"chapters/{row.chapter}.html"
            if link.get_text().startswith("✓"):
                assert f"{link.get_text()}  " in places[path][anchor].find_next("pre").get_text(), row.id


def test_a_statement_is_shown_as_it_is_written():
    assert escape("E[log p(z|x)] <= *a_b* $c$") == r"E\[log p(z\|x)\] \<= \*a\_b\* \$c\$"


def test_a_folder_that_is_no_site_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("")
    command = [sys.executable, "-m", "tools.site", "--output", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode and "holds something else than a site" in result.stderr
    assert (tmp_path / "precious").exists()


# In a browser, without a network, from the folder on disk


@pytest.fixture
def visit(browser, site) -> Iterator:
    """A function that opens a page of the site; whatever a page asks for in vain, or says, fails the test at its end."""
    complaints: list[str] = []

    def complain(what: object) -> None:
        complaints.append(f"{page.url}: {what}")

    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.on("console", lambda message: complain(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", complain)
    page.on("requestfailed", lambda request: complain(f"{request.url} failed"))
    here = re.compile(rf"{re.escape(site.as_uri())}/|data:|http://127\.0\.0\.1:")
    page.on("request", lambda request: None if here.match(request.url) else complain(f"asks for {request.url}"))

    def open_page(path: str, base: str = site.as_uri()) -> Any:
        page.goto(f"{base}/{path}")
        page.evaluate("() => window.MathJax?.startup?.promise")
        return page

    yield open_page
    context.close()
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def server(site, serve) -> Iterator[str]:
    """The address of the site on this machine."""
    with serve(site) as address:
        yield address


def test_every_page_loads_and_fits_a_telephone(visit, pages):
    for path in pages:
        page = visit(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, f"{path} scrolls sideways"
        equations, errors = (page.locator(kind).count() for kind in (".math", "mjx-merror, [data-mjx-error]"))
        assert page.locator("mjx-container").count() >= equations and not errors, f"{path}: equations are not set"


def test_search_finds_a_word(visit, server):
    page = visit("search.html?q=reparameterization", base=server)
    page.locator("#search-results a", has_text="Gaussians and reparameterization").first.wait_for()
    page.wait_for_load_state("networkidle")


def test_dark_mode_keeps_plots_on_white(visit):
    page = visit(f"chapters/{WRITTEN[0].stem}.html")
    for mode in ("dark", "light"):
        page.locator(".theme-switch-button:visible").click()
        page.locator(f".theme-change-button[data-mode={mode}]").click()
        assert page.evaluate("document.documentElement.dataset.theme") == mode
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", colour)[:3])) < 64) == (mode == "dark")
        picture = page.locator("article figure img").first
        assert mode == "light" or picture.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"


def test_hints_and_code_unfold(visit):
    page = visit(f"chapters/{WRITTEN[0].stem}.html")
    hint = page.locator(".admonition.dropdown:not(.solution)").first
    assert not hint.locator("p").last.is_visible()
    hint.locator("button, .admonition-title").first.click()
    assert hint.locator("p").last.is_visible()
    code = page.locator("details.hide").first
    assert not code.locator("pre").first.is_visible()
    code.locator("summary").click()
    assert code.locator("pre").first.is_visible()


# Rules of axe-core that a reader with a screen reader, or with weak sight, depends on
RULES = ["button-name", "document-title", "heading-order", "html-has-lang", "image-alt", "label", "link-name", "list"]


@pytest.mark.parametrize(
    ("path", "rules"),
    [
        ("index.html", [*RULES, "color-contrast"]),
        (
            "chapters/16_notation.html",
            [*RULES, "color-contrast"],
        ),  # the shortest: on a long page contrast takes minutes
        ("chapters/01_latent_variables.html", RULES),
        ("ledger.html", RULES),
        ("references.html", RULES),
    ],
)
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_pages_bar_nobody(browser, site, path, rules, mode):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    page = browser.new_page(color_scheme=mode)
    page.goto(f"{site.as_uri()}/{path}")
    page.evaluate("() => window.MathJax?.startup?.promise")
    page.add_style_tag(content="* { transition: none !important }")  # or a colour is read half way to its own
    found = axe.run(page, options={"runOnly": rules, "resultTypes": ["violations"]}).response["violations"]
    page.close()
    assert [(each["id"], node["html"][:200]) for each in found for node in each["nodes"]] == []
