"""The book on paper: two chapters, printed and read back."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from pypdf import PdfReader

from tools.book import ROOT, chapters, read_book
from tools.paper import chromium, typeset

CHAPTERS = [
    chapter for chapter in chapters(written_only=True) if chapter.stem in {"01_latent_variables", "16_notation"}
]
# Markup that was not understood, and TeX that was not set
RAW = re.compile(r"\$|:::|```|\{[\w:-]+\}`|\\\(|\\frac|\\mathbb")


@pytest.fixture(scope="module")
def pdf(tmp_path_factory):
    output = tmp_path_factory.mktemp("paper") / "book.pdf"
    try:
        with chromium():
            pass
    except FileNotFoundError as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "tools.paper", "--output", str(output), *(chapter.stem for chapter in CHAPTERS)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr, result.stderr
    return PdfReader(output)


@pytest.fixture(scope="module")
def texts(pdf):
    return [page.extract_text() for page in pdf.pages]


def bookmarks(pdf, items, level=1):
    """All bookmarks as (level, title, page from 1)."""
    for item in items:
        if isinstance(item, list):
            yield from bookmarks(pdf, item, level + 1)
        else:
            yield level, item.title, pdf.get_destination_page_number(item) + 1


def squeeze(text):
    return re.sub(r"\s+", "", text)


def test_bookmarks_and_contents_lead_to_the_headings(pdf, texts):
    found = list(bookmarks(pdf, pdf.outline))
    titles = [title for _, title, _ in found]
    assert [f"{chapter.number}. {chapter.title}" for chapter in CHAPTERS] == [
        t for t in titles if re.match(r"\d+\. .*(ELBO|Notation)$", t)
    ]
    contents = squeeze("".join(texts[1 : found[0][2] - 1]))
    parts = {part["title"] for part in read_book()["parts"]} | {"Look up"}
    for _, title, page in found:
        assert title in parts or squeeze(title) in squeeze(texts[page - 1]), (title, page)
        assert title in parts or f"{squeeze(title)}{page}" in contents, (title, page)
    assert pdf.metadata.title.startswith(read_book()["title"])


def test_pages_are_a4_and_numbered(pdf, texts):
    assert len(texts) > 20
    for number, (page, text) in enumerate(zip(pdf.pages, texts, strict=True), start=1):
        assert abs(page.mediabox.width - 595) < 2 and abs(page.mediabox.height - 842) < 2
        assert number == 1 or re.search(rf"(^|\s){number}(\s|$)", text), number


def test_no_markup_is_left(texts):
    code = squeeze(
        "".join(cell.source for chapter in CHAPTERS for cell in read(chapter).cells if cell.cell_type == "code")
    )
    for number, text in enumerate(texts, start=1):
        left = [found[0] for found in RAW.finditer(text) if found[0] not in code]
        assert not left, (number, left)


def read(chapter):
    return nbformat.read(chapter.notebook, as_version=4)


def test_code_is_whole_and_drawing_left_out(texts):
    """Every line of code that is not folded stands on a page; what only draws does not."""
    shown = squeeze("".join(texts))
    for chapter in CHAPTERS:
        for cell in read(chapter).cells:
            if cell.cell_type == "code" and "hide-input" not in cell.metadata.get("tags", []):
                missing = [line for line in cell.source.splitlines() if squeeze(line) not in shown]
                assert not missing, missing
    assert "ax.imshow(" not in shown


def test_solutions_stand_at_the_chapter_s_end(texts):
    text = squeeze("".join(texts))
    places = [
        text.index(squeeze(what)) for what in ("8. Summary A latent", "Hint: Exercise 1.1", "Solution to Exercise 1.1")
    ]
    assert places == sorted(places)


def test_what_is_too_wide_is_refused(pdf, tmp_path: Path):
    (tmp_path / "wide.html").write_text(f"<main><p style='white-space: nowrap'>{'wide ' * 100}</p></main>")
    with chromium() as browser, pytest.raises(ValueError, match="wider than the paper: .'wide wide"):
        typeset(browser, tmp_path / "wide.html")
