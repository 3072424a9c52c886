"""Every statement of the sources has a home in the book, and in a written chapter its check or its label."""

from collections import Counter

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.book import chapters
from tools.ledger import Row, problems, read_rows

ROWS = read_rows()
# How many statements each source makes: rows may be split (`avb.prop1a`) but none may go.
SOURCE_ROWS = {"avb": 28, "bavae": 9, "slides": 7, "vaenotes": 10, "assignment": 6}
# Rows that wait for their chapter to be written. Lower this number as chapters are finished; it never rises.
PENDING_AT_MOST = 0


def test_every_source_row_has_a_home():
    count = Counter(row.id.split(".")[0] for row in ROWS)
    assert {paper: count[paper] for paper in SOURCE_ROWS} == SOURCE_ROWS
    assert set(count) <= {*SOURCE_ROWS, "book"}
    assert len({row.id for row in ROWS}) == len(ROWS)
    assert {row.chapter for row in ROWS} <= {chapter.stem for chapter in chapters()}
    assert all(row.what for row in ROWS)
    assert all(bool(row.fault) == bool(row.corrected) for row in ROWS), "a fault needs its correction"


def test_pending_rows_only_shrink():
    unwritten = {chapter.stem for chapter in chapters() if not chapter.written}
    pending = [row.id for row in ROWS if row.chapter in unwritten and not row.id.startswith("book.")]
    assert len(pending) <= PENDING_AT_MOST, f"chapters not yet written owe {len(pending)} rows: {', '.join(pending)}"


def test_written_chapters_keep_the_ledger():
    written = {chapter.stem: nbformat.read(chapter.notebook, as_version=4) for chapter in chapters(written_only=True)}
    found = problems(ROWS, written)
    assert not found, "\n".join(found)


# The rule itself, on made-up ledgers and notebooks

THEOREM = Row("avb.2.1", "theorem", "01_a", "log p(x) >= ELBO")
DEFINITION = Row("avb.2.3", "definition", "01_a", "maximum likelihood")


def notebook(code: str = "", printed: str = "", text: str = "") -> nbformat.NotebookNode:
    output = new_output("stream", name="stdout", text=printed)
    return new_notebook(cells=[new_markdown_cell(text), new_code_cell(code, outputs=[output])])


def found(*rows: Row, **notebooks: nbformat.NotebookNode) -> list[str]:
    return problems(list(rows), {f"01_{name}": made for name, made in notebooks.items()})


@pytest.mark.parametrize("id", ["avb.2.1", "avb.2.1b"])
def test_a_passing_check_satisfies_its_row(id):
    assert not found(THEOREM, a=notebook(f'check("{id}", "w", 1, 1, 0)', f"✓ {id}  w  [measured 1]\n"))


def test_a_missing_check_fails():
    assert found(THEOREM, a=notebook()) == ["01_a: theorem avb.2.1 has no passing check"]


def test_an_unwritten_chapter_owes_nothing_yet():
    assert not found(THEOREM)


def test_a_verdict_without_its_check_fails():
    assert found(THEOREM, a=notebook('print("✓ avb.2.1  w")', "✓ avb.2.1  w\n"))


def test_a_check_that_printed_no_verdict_fails():
    made = notebook('if False:\n    check("avb.2.1", "w", 1, 1, 0)', "✗ avb.2.1  w\n")
    assert "01_a: check avb.2.1 has no verdict in the stored outputs" in found(THEOREM, a=made)
    assert "01_a: theorem avb.2.1 has no passing check" in found(THEOREM, a=made)


@pytest.mark.parametrize("id", ["avb.9.9", "avb.2.1ab", "avb.2.1-", "2.1"])
def test_an_unknown_check_fails(id):
    made = notebook(f'check("avb.2.1", "w", 1, 1, 0); check("{id}", "w", 1, 1, 0)', f"✓ avb.2.1  w\n✓ {id}  w\n")
    assert found(THEOREM, a=made) == [f"01_a: check {id} is in no row of the ledger"]


def test_a_check_in_the_wrong_chapter_fails():
    passing = notebook('check("avb.2.1", "w", 1, 1, 0)', "✓ avb.2.1  w\n")
    assert len(found(THEOREM, a=notebook(), b=passing)) == 2


def test_a_check_in_a_comment_or_in_text_does_not_count():
    call = 'check("avb.2.1", "w", 1, 1, 0)'
    assert found(THEOREM, a=notebook(f"# {call}", "✓ avb.2.1  w\n", text=call))


def test_a_check_s_id_is_written_out():
    with pytest.raises(ValueError, match="write a check's id out"):
        found(THEOREM, a=notebook('check(f"avb.{row}", "w", 1, 1, 0)'))


def test_magics_are_no_obstacle():
    assert not found(THEOREM, a=notebook('%matplotlib inline\ncheck("avb.2.1", "w", 1, 1, 0)', "✓ avb.2.1  w\n"))


def test_a_definition_needs_its_label():
    assert not found(DEFINITION, a=notebook(text="(avb.2.3)=\nThe *likelihood* is ..."))
    assert found(DEFINITION, a=notebook(text="see (avb.2.3)= there")) == [
        "01_a: definition avb.2.3 has no label (avb.2.3)="
    ]
    assert found(DEFINITION, a=notebook(text="(avb.2.4)=\n"))


def test_an_exact_row_comes_before_a_part():
    whole, part = Row("avb.1", "theorem", "01_a", "w"), Row("avb.1a", "theorem", "01_a", "w")
    made = notebook('check("avb.1a", "w", 1, 1, 0)', "✓ avb.1a  w\n")
    assert found(whole, part, a=made) == ["01_a: theorem avb.1 has no passing check"]


def test_an_unknown_kind_fails():
    assert found(Row("avb.1", "lemma", "09_z", "w")) == ["avb.1: unknown kind lemma"]
