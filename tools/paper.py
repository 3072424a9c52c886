"""Print the book, as build/book.pdf: `python -m tools.paper [--output FILE] [STEM ...]`.

The pages of the static book, one after another in one document, printed by Chromium with the style in site/paper.css: equations
are set, hints and solutions gathered at each chapter's end, and code that only draws is left to the notebooks. The contents
need page numbers, so it is printed twice; they are the bookmarks, too.
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from importlib.metadata import distribution
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Browser, Error, Page, sync_playwright
from pypdf import PdfReader, PdfWriter

from tools import site
from tools.book import ROOT, Chapter, chapters, read_book

STYLE = ROOT / "site" / "paper.css"
BACK_MATTER = ("ledger", "references")
# What a page shows only on a screen
ON_SCREEN = "a.headerlink, summary, script, .toctree-wrapper"
PAPER_NOTE = "On paper, hints and solutions stand at the end of each chapter, and code that only draws is left out."
# MathJax with fonts, so that an equation is text; the site's own draws it. Its extensions load from beside it.
MATHJAX = distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static/mathjax/tex-chtml.js")
MATHJAX_OPTIONS = (
    '{chtml: {scale: 0.94}, options: {enableMenu: false, ignoreHtmlClass: "mathjax_ignore",'
    ' processHtmlClass: "math", renderActions: {assistiveMml: []}}}'
)
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FACES = (
    ("Book", "STIXGeneral.ttf", "normal", "normal"),
    ("Book", "STIXGeneralItalic.ttf", "normal", "italic"),
    ("Book", "STIXGeneralBol.ttf", "bold", "normal"),
    ("Book", "STIXGeneralBolIta.ttf", "bold", "italic"),
    ("Book code", "DejaVuSansMono.ttf", "normal", "normal"),
    ("Book code", "DejaVuSansMono-Bold.ttf", "bold", "normal"),
    ("Book signs", "DejaVuSans.ttf", "normal", "normal"),
)
# Makes what is wider than its column narrower, and returns what is cut off nevertheless.
FIT = """() => {
  for (const e of document.querySelectorAll('mjx-container[display="true"], table'))
    if (e.parentElement.scrollWidth > e.parentElement.clientWidth)
      e.style.zoom = e.parentElement.clientWidth / e.parentElement.scrollWidth
  return [...document.querySelectorAll('main pre, main p, main figure, main table, main div.math, main li')]
    .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.trim().slice(0, 80))
}"""
NUMBER_CONTENTS = """pages => document.querySelectorAll("nav li:has(a)").forEach(li =>
  li.lastElementChild.textContent = pages[li.querySelector("a").hash.slice(1)])"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, or Playwright's. Raises FileNotFoundError where there is none."""
    found = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    with sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            raise FileNotFoundError(
                "no Chromium was found. Install chromium or google-chrome, or: .venv/bin/playwright install chromium"
            )
        # The document and its fonts are files; the sandbox is not to be had in every container.
        flags = ["--no-sandbox", "--allow-file-access-from-files"]
        browser = playwright.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


def article(folder: Path, path: str, stems: list[str]) -> Tag:
    """The text of a site's page as a section whose places, links and pictures are good in one document of all pages."""
    soup = BeautifulSoup((folder / path).read_text(encoding="utf-8"), "html.parser")
    text = soup.select_one("article.bd-article")
    assert text is not None, path
    stem = Path(path).stem
    text.name, text.attrs = "section", {"class": "chapter", "id": stem}
    for tag in text.select(ON_SCREEN):
        tag.decompose()
    for tag in text.select("[id]"):
        tag["id"] = f"{stem}--{tag['id']}"
    for link in text.select("a[href]"):
        target, _, place = str(link["href"]).partition("#")
        page = Path(target).stem if target else stem
        if page in stems and "://" not in target:
            link["href"] = f"#{page}--{place}" if place else f"#{page}"
        elif "://" not in target:
            link.unwrap()
    for image in text.select("img"):
        image["src"] = (folder / path).parent.joinpath(str(image["src"])).resolve().as_uri()
    gather_answers(soup, text)
    for code in text.select("details.hide"):
        if code.find_parent("section", class_="answers"):
            code.unwrap()
        else:
            code.decompose()
    return text


def gather_answers(soup: BeautifulSoup, text: Tag) -> None:
    """Move a chapter's hints and solutions, the latter with the code that verifies them, to its end."""
    hints = text.select("div.dropdown.admonition:not(.solution)")
    solutions = text.select("div.solution.dropdown")
    for heading, answers in (("Hints", hints), ("Solutions", solutions)):
        if not answers:
            continue
        section = soup.new_tag("section", attrs={"class": "answers"})
        section.append(soup.new_tag("h2", string=heading, id=f"{text['id']}--{heading.lower()}"))
        for answer in answers:
            title = answer.select_one(".admonition-title")
            exercise = answer.find_previous("div", class_="exercise")
            if heading == "Hints" and title is not None and exercise is not None:
                name = exercise.select_one(".admonition-title")
                title.string = f"{title.get_text()}: {name.get_text(' ', strip=True) if name else ''}"
            cells = [answer]
            while heading == "Solutions" and isinstance(following := next_tag(cells[-1]), Tag):
                if "cell" not in following.get_attribute_list("class"):
                    break
                cells.append(following)
            section.extend(cell.extract() for cell in cells)
        text.append(section)


def next_tag(tag: Tag) -> Tag | None:
    """The element after another one, if it has one."""
    found = tag.find_next_sibling()
    return found if isinstance(found, Tag) else None


@dataclass(frozen=True)
class Entry:
    """A line of the contents: a heading, how deep it is, and where it stands. A part of the book has no place."""

    level: int
    title: str
    place: str = ""


def table_of_contents(texts: dict[str, Tag], shown: list[Chapter]) -> list[Entry]:
    """The contents' lines: parts (level 1), chapters (2) and their sections (3)."""
    entries = entries_of(texts["index"])[:1]
    for part, of_part in groupby(shown, key=lambda chapter: chapter.part):
        entries.append(Entry(1, part))
        entries += [entry for chapter in of_part for entry in entries_of(texts[chapter.stem])]
    entries.append(Entry(1, "Look up"))
    return entries + [entry for page in BACK_MATTER for entry in entries_of(texts[page])]


def entries_of(text: Tag) -> list[Entry]:
    """The chapter's own line and those of its sections."""
    found = []
    for heading in text.select("h1, h2"):
        place = heading.get("id") or (heading.parent["id"] if heading.parent is not None else "")
        title = " ".join(heading.get_text().split())
        found.append(Entry(2 if heading.name == "h1" else 3, title, str(place)))
    return found


def document(folder: Path, shown: list[Chapter]) -> tuple[str, list[Entry]]:
    """The whole book as one page of HTML, from the site in `folder`, and its contents."""
    book = read_book()
    paths = ["index.html", *(f"chapters/{chapter.stem}.html" for chapter in shown)]
    paths += [f"{page}.html" for page in BACK_MATTER]
    stems = [Path(path).stem for path in paths]
    texts = {Path(path).stem: article(folder, path, stems) for path in paths}
    preface = texts["index"]
    assert preface.h1 is not None
    preface.h1.string = "Preface"
    if (costs := preface.select_one("#index--chapters")) is not None:
        costs.decompose()  # what it takes to run a chapter
    preface.append(BeautifulSoup(f"<p>{PAPER_NOTE}</p>", "html.parser"))
    entries = table_of_contents(texts, shown)
    contents = [
        f'<li class="level-{entry.level}"><a href="#{entry.place}">{escape(entry.title)}</a><span></span></li>'
        if entry.place
        else f'<li class="level-1">{escape(entry.title)}</li>'
        for entry in entries
    ]
    heads = [
        f'@page p{n} {{ @top-right {{ content: "{entries_of(text)[0].title}" }} }}\n[id="{stem}"] {{ page: p{n} }}'
        for n, (stem, text) in enumerate(texts.items())
    ]
    faces = [
        f'@font-face {{ font-family: "{family}"; src: url("{(FONTS / file).as_uri()}"); '
        f"font-weight: {weight}; font-style: {slant} }}"
        for family, file, weight, slant in FACES
    ]
    colours = (folder / "_static" / "pygments.css").read_text(encoding="utf-8")
    style = "\n".join([colours, *faces, *heads, STYLE.read_text(encoding="utf-8")])
    licence = book["licence"]
    html = "\n".join(
        [
            f'<!DOCTYPE html><html lang="{book["language"]}" data-theme="light"><head><meta charset="utf-8">',
            f"<title>{title_of(book)}</title><style>{style}</style>",
            f'<script>window.MathJax = {MATHJAX_OPTIONS}</script><script src="{Path(str(MATHJAX)).as_uri()}"></script>',
            f'</head><body><header><p class="title">{book["title"]}</p><p class="subtitle">{book["subtitle"]}</p>',
            f"<p>{', '.join(book['authors'])}</p>",
            f'<p class="licence">Text {licence["text"]}, code {licence["code"]}</p></header>',
            f"<nav><h1>Contents</h1><ul>{''.join(contents)}</ul></nav><main>",
            *(str(text) for text in texts.values()),
            "</main></body></html>",
        ]
    )
    return html, entries


def title_of(book: dict[str, Any]) -> str:
    """The book's title with its subtitle."""
    return f"{book['title']}: {book['subtitle'].lower()}"


def print_book(output: Path, stems: list[str] | None = None) -> None:
    """Print the chapters `stems`, or all that are written, to the PDF file `output`.

    Raises FileNotFoundError where there is no Chromium, and ValueError where the site has warnings or something is cut off.
    """
    with chromium() as browser, TemporaryDirectory(prefix="paper-") as work:
        folder = Path(work) / "site"
        if site.build(folder, stems):
            raise ValueError("the site has warnings, or was not built; they stand above")
        html, entries = document(folder, site.shown(stems))
        (folder / "paper.html").write_text(html, encoding="utf-8")
        page, draft = typeset(browser, folder / "paper.html"), Path(work) / "draft.pdf"
        to_pdf(page, draft)
        page.evaluate(NUMBER_CONTENTS, page_numbers(draft))
        to_pdf(page, draft)
        output.parent.mkdir(parents=True, exist_ok=True)
        add_bookmarks(draft, entries, output)


def typeset(browser: Browser, path: Path) -> Page:
    """Open an HTML file as it will stand on paper, with its equations set; raise ValueError where something is cut off."""
    page = browser.new_page(viewport={"width": 643, "height": 900})  # as wide as the text on paper: 170 mm
    page.set_default_timeout(600_000)  # a whole book, on a small machine
    page.emulate_media(media="print", color_scheme="light")
    page.goto(path.as_uri())
    page.evaluate("() => Promise.all([window.MathJax?.startup.promise, document.fonts.ready])")
    if errors := page.locator("mjx-merror, [data-mjx-error]").all_text_contents():
        raise ValueError(f"equations that are not set: {errors}")
    if cut := page.evaluate(FIT):
        raise ValueError(f"wider than the paper: {cut}")
    return page


def to_pdf(page: Page, path: Path) -> None:
    """Print a page, tagged for those who have it read to them, on the paper that its style names."""
    page.pdf(path=path, prefer_css_page_size=True, print_background=True, tagged=True)


def page_numbers(path: Path) -> dict[str, int]:
    """The page of every place that a link leads to, by its id."""
    pdf = PdfReader(path)
    found = pdf.named_destinations
    return {name.removeprefix("/"): (pdf.get_destination_page_number(place) or 0) + 1 for name, place in found.items()}


def add_bookmarks(draft: Path, entries: list[Entry], output: Path) -> None:
    """Write `draft` to `output` with the contents as bookmarks and with title and authors."""
    book, pages = read_book(), page_numbers(draft)
    logging.getLogger("pypdf").setLevel(logging.ERROR)  # Chromium's own count of objects is a few short
    writer = PdfWriter(clone_from=draft)
    writer.add_metadata({"/Title": title_of(book), "/Author": ", ".join(book["authors"])})
    above: dict[int, Any] = {}
    for number, entry in enumerate(entries):
        place = next(other.place for other in entries[number:] if other.place)
        parent = next((above[level] for level in range(entry.level - 1, 0, -1) if level in above), None)
        item = writer.add_outline_item(title=entry.title, page_number=pages[place] - 1, parent=parent, is_open=False)
        above = {level: above[level] for level in above if level < entry.level} | {entry.level: item}
    partial = output.with_name(f"{output.name}.partial")
    writer.write(partial)
    partial.replace(output)


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the book as a PDF file.")
    parser.add_argument("stems", nargs="*", metavar="STEM", help="only these chapters, such as 07_avb")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "build" / "book.pdf", help="file (default: build/book.pdf)"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.stems) - {chapter.stem for chapter in chapters(written_only=True)}:
        parser.error(f"book.toml lists no written chapter {', '.join(sorted(unknown))}")
    try:
        print_book(arguments.output, arguments.stems or None)
    except (OSError, ValueError, Error) as error:
        sys.exit(f"Not printed: {error}")
    print(f"Open {arguments.output}")


if __name__ == "__main__":
    main()
