"""Build the static book in build/site: `python -m tools.site [--output FOLDER] [STEM ...]`.

Lays out what Sphinx reads (the executed notebooks, their pictures, and pages made from README.md, book.toml and the ledger)
and runs Sphinx on it with the configuration in site/, every warning an error. Nothing is executed.
"""

import argparse
import re
import shutil
import sys
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from sphinx.cmd.build import main as sphinx_build

from tools.book import ROOT, Chapter, chapters
from tools.build_chapters import README
from tools.ledger import Row, checks_called, checks_passed, labels, read_rows, row_of

# The ledger's sources, by the first part of its rows' ids, and their keys in references.bib
SOURCES = {
    "avb": ("The paper", "mescheder2017adversarial"),
    "bavae": ("BAVAE", "fickinger2024bavae"),
    "slides": ("The slides", "camara_adversarial"),
    "vaenotes": ("The review notes", "hajimiri2020vae"),
    "assignment": ("The assignment", "scicluna2018assignment"),
    "book": ("The book's own claims", None),
}
READING = """
Every page is a notebook with its stored outputs, and a line that starts with ✓ is a claim that the machine has verified.
{doc}`ledger` lists them all, and {doc}`references` the literature. Plots with
sliders stand still here and move in the notebook; trained decoders move on the page as well, where it comes from a server.
"""

REFERENCES = "# References\n\n```{bibliography}\n:all:\n```\n"
LEDGER = """\
# The ledger

Every statement that the book takes from its sources, and every claim of its own. *Theorems*, *identities*, *algorithms*,
*experiments* and *exercises* are verified by code in their chapter, *definitions* and *figures* are only restated there. A ✓
leads to the verdict as the machine printed it when the chapter was last run. Where a source errs, the corrected form is the one
that is proved and checked.
"""


def build(output: Path, stems: list[str] | None = None) -> int:
    """Build the site in `output`, with the chapters `stems` or all that are written; return Sphinx's exit status.

    An older site in `output` is replaced when the new one is complete. Raises ValueError where `output` holds anything else.
    """
    if output.exists() and any(output.iterdir()) and not (output / ".buildinfo").exists():
        raise ValueError(f"{output}: holds something else than a site; name an empty folder")
    with TemporaryDirectory(prefix="site-") as work:
        source, doctrees, html = (Path(work) / name for name in ("source", "doctrees", "html"))
        lay_out(source, stems)
        options = ["-q", "-W", "--keep-going", "-c", str(ROOT / "site"), "-d", str(doctrees), "-b", "html"]
        status = sphinx_build([*options, str(source), str(html)])
        if (html / "search.html").exists():
            shutil.rmtree(output, ignore_errors=True)
            shutil.copytree(html, output)
    return status


def lay_out(source: Path, stems: list[str] | None = None) -> None:
    """Write into `source` everything that Sphinx reads, in the places that the chapters' own links name."""
    (source / "chapters").mkdir(parents=True)
    (source / "figures").symlink_to(ROOT / "figures")
    for chapter in chapters():
        if chapter in shown(stems):
            shutil.copy2(chapter.notebook, source / "chapters")
        else:
            to_come = f"# {chapter.title}\n\nThis chapter is to come.\n"
            (source / "chapters" / f"{chapter.stem}.md").write_text(to_come, encoding="utf-8")
    pages = {"index": index_page(), "ledger": ledger_page(stems), "references": REFERENCES}
    for name, text in pages.items():
        (source / f"{name}.md").write_text(text, encoding="utf-8")


def shown(stems: list[str] | None) -> list[Chapter]:
    """The written chapters among `stems`, or all of them."""
    return [chapter for chapter in chapters(written_only=True) if stems is None or chapter.stem in stems]


def index_page() -> str:
    """The README's beginning and its tables of what to read, over the table of contents."""
    promise, *sections = README.read_text(encoding="utf-8").split("\n## ")
    tables = [f"## {section}" for section in sections if section.startswith(("Where to start\n", "Chapters\n"))]
    parts = [
        f"```{{toctree}}\n:caption: {part}\n:numbered: 1\n:hidden:\n\n"
        + "".join(f"chapters/{chapter.stem}\n" for chapter in of_part)
        + "```\n"
        for part, of_part in groupby(chapters(), key=lambda chapter: chapter.part)
    ]
    parts.append("```{toctree}\n:caption: Look up\n:hidden:\n\nledger\nreferences\n```\n")
    tables = [re.sub(r"\[([^]]*)\]\(chapters/(\w+)\.ipynb\)", r"{doc}`\1 <chapters/\2>`", table) for table in tables]
    return "\n".join([promise, READING, *tables, *parts])


def ledger_page(stems: list[str] | None = None) -> str:
    """All rows of the ledger, a table for each source, with links to the verdicts in the chapters' stored outputs."""
    rows = read_rows()
    found: dict[str, list[str]] = {row.id: [] for row in rows}
    for chapter in shown(stems):
        notebook = nbformat.read(chapter.notebook, as_version=4)
        links = {id: f"{{ref}}`✓ {id} <check-{id}>`" for id in checks_called(notebook) & checks_passed(notebook)}
        links |= {id: f"{{ref}}`stated <{id}>`" for id in labels(notebook)}
        for id, link in sorted(links.items()):
            if row := row_of(id, rows):
                found[row.id].append(link)

    titles = {chapter.stem: chapter.title for chapter in chapters()}
    page = [LEDGER]
    for paper, of_paper in groupby(rows, key=lambda row: row.id.split(".")[0]):
        heading, key = SOURCES[paper]
        page += [f"## {heading}\n", f"Source: {{cite:t}}`{key}`.\n" if key else ""]
        page += [":::{list-table}\n:header-rows: 1\n:widths: 16 42 22 20\n:class: ledger\n"]
        page += [list_row(["row", "statement", "chapter", "verdict"])]
        for row in of_paper:
            chapter_link = f"{{doc}}`{titles[row.chapter]} <chapters/{row.chapter}>`"
            page.append(
                list_row(
                    [f"{row.id} \\\n{row.kind}", statement(row), chapter_link, " \\\n".join(found[row.id]) or "to come"]
                )
            )
        page.append(":::\n")
    return "\n".join(page)


def statement(row: Row) -> str:
    """What a row states, and where its source errs."""
    if not row.fault:
        return escape(row.what)
    return f"{escape(row.what)}\n\n*As printed:* {escape(row.fault)}\n\n*Corrected:* {escape(row.corrected)}"


def escape(text: str) -> str:
    """Plain text as Markdown that shows it unchanged."""
    return re.sub(r"([\\`*_{}\[\]<>|$^~#&])", r"\\\1", text)


def list_row(cells: list[str]) -> str:
    """A row of a list-table."""
    indented = [cell.replace("\n", "\n    ") for cell in cells]
    return "* - " + "\n  - ".join(indented)


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the static book from the executed notebooks.")
    parser.add_argument("stems", nargs="*", metavar="STEM", help="only these chapters, such as 07_avb")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "site", help="folder (default: build/site)")
    arguments = parser.parse_args()
    if unknown := set(arguments.stems) - {chapter.stem for chapter in chapters(written_only=True)}:
        parser.error(f"book.toml lists no written chapter {', '.join(sorted(unknown))}")
    if missing := [chapter.stem for chapter in shown(arguments.stems or None) if not chapter.notebook.exists()]:
        parser.error(f"no notebook of {', '.join(missing)}: run make chapters first")
    try:
        status = build(arguments.output.resolve(), arguments.stems or None)
    except ValueError as error:
        parser.error(str(error))
    if status:
        sys.exit("The site has warnings, or was not built; they stand above.")
    print(f"Open {arguments.output / 'index.html'}")


if __name__ == "__main__":
    main()
