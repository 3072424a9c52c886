"""Every fault in the ledger has its section in the errata, with a check of both forms, and every section has its fault."""

import re
from collections import defaultdict

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.book import CHAPTERS
from tools.build_chapters import read_source
from tools.ledger import Row, checks_called, labels, read_rows

STEM = "17_errata"
PREFIX = "erratum."


def check_of(id: str) -> str:
    """The id of the check of a row's corrected form: that of the printed form has a p appended."""
    return "book.erratum_" + re.sub(r"\W", "_", id)


def checks_by_section(notebook: nbformat.NotebookNode) -> dict[str, set[str]]:
    """The ids of the checks between a label `(erratum.<row>)=` and the next label or chapter heading, by row."""
    found: dict[str, set[str]] = defaultdict(set)
    section = None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if section:
                found[section] |= checks_called(new_notebook(cells=[cell]))
            continue
        for line in cell.source.splitlines():
            if match := re.fullmatch(rf"\({re.escape(PREFIX)}(\S+)\)=\s*", line):
                section = match[1]
                found[section] |= set()
            elif line.startswith("## "):
                section = None
    return dict(found)


def problems(rows: list[Row], notebook: nbformat.NotebookNode) -> list[str]:
    """Everything that keeps the errata from being those of the ledger; empty when they are."""
    faulty = [row.id for row in rows if row.fault]
    sections = checks_by_section(notebook)
    found = [f"{id}: no section ({PREFIX}{id})=" for id in faulty if id not in sections]
    found += [f"{id}: a section, but no fault in the ledger" for id in sections if id not in faulty]
    for id in faulty:
        for wanted, form in ((check_of(id), "corrected"), (check_of(id) + "p", "printed")):
            if id in sections and wanted not in sections[id]:
                found.append(f"{id}: no check {wanted} of the {form} form in its section")
    return found


def test_the_errata_are_those_of_the_ledger():
    rows = read_rows()
    notebook = read_source(CHAPTERS / f"{STEM}.md")
    assert problems(rows, notebook) == []
    assert len(checks_by_section(notebook)) == sum(label.startswith(PREFIX) for label in labels(notebook)) >= 14


def test_every_check_of_the_errata_has_a_row_of_its_own():
    """`check_of` must not fold two rows into one, and the checks' rows must say that they are the errata's."""
    rows = {row.id: row for row in read_rows()}
    expected = [check_of(id) for id, row in rows.items() if row.fault]
    assert len(set(expected)) == len(expected)
    assert [id for id in expected if id not in rows or rows[id].chapter != STEM] == []


# The rule itself, on a made-up ledger and chapter

FAULTY = Row("avb.2.1-2", "theorem", "01_a", "w", fault="a sign", corrected="the other sign")
SOUND = Row("avb.3", "theorem", "01_a", "w")
LABEL = new_markdown_cell("(erratum.avb.2.1-2)=\n### A sign")
BOTH = 'check("book.erratum_avb_2_1_2", "w", 1, 1, 0)\ncheck("book.erratum_avb_2_1_2p", "w", 1, 1, 0)'


def found(*cells: nbformat.NotebookNode) -> list[str]:
    return problems([FAULTY, SOUND], new_notebook(cells=list(cells)))


def test_a_section_with_both_checks_is_enough():
    assert found(LABEL, new_code_cell(BOTH)) == []


def test_a_missing_section_is_found():
    assert found(new_code_cell(BOTH)) == ["avb.2.1-2: no section (erratum.avb.2.1-2)="]


@pytest.mark.parametrize("kept, form", [(0, "printed"), (1, "corrected")])
def test_a_missing_check_is_found(kept, form):
    (message,) = found(LABEL, new_code_cell(BOTH.splitlines()[kept]))
    assert form in message


def test_a_check_in_another_section_does_not_count():
    assert len(found(LABEL, new_markdown_cell("## 9. Exercises"), new_code_cell(BOTH))) == 2


def test_a_check_in_text_does_not_count():
    assert len(found(LABEL, new_markdown_cell(BOTH))) == 2


@pytest.mark.parametrize("id", ["avb.3", "avb.9"])
def test_a_section_without_a_fault_is_found(id):
    stranger = new_markdown_cell(f"(erratum.{id})=\n### Nothing wrong")
    assert found(LABEL, new_code_cell(BOTH), stranger) == [f"{id}: a section, but no fault in the ledger"]
