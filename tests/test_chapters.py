"""Every written chapter is executed, in step with its source, free of warnings, and within the book's budget."""

import re
from collections import Counter

import jupytext.compare
import nbformat
import pytest

from tools.book import ROOT, Chapter, chapters, read_book
from tools.build_chapters import BEGIN, END, README, megabytes, read_records, read_source, table

WRITTEN = chapters(written_only=True)
BUDGET = read_book()["budget"]


@pytest.fixture(params=WRITTEN, ids=lambda chapter: chapter.stem)
def chapter(request: pytest.FixtureRequest) -> Chapter:
    return request.param


@pytest.fixture
def notebook(chapter: Chapter) -> nbformat.NotebookNode:
    return nbformat.read(chapter.notebook, as_version=4)


def test_every_chapter_file_is_in_the_book():
    """A file that book.toml does not list as written would escape every other test."""
    files = {path.stem for suffix in ("md", "ipynb") for path in (ROOT / "chapters").glob(f"[0-9]*.{suffix}")}
    assert files == {chapter.stem for chapter in WRITTEN}
    assert [chapter.number for chapter in chapters()] == list(range(1, len(chapters()) + 1))


def test_labels_are_unique_in_the_book():
    """Two chapters that share a label would lead each other's references astray on the static site."""
    labels = Counter(
        label
        for chapter in WRITTEN
        for label in re.findall(
            r"^(?::label: |\(|\$\$ \()([\w.-]+)\)?=?$", chapter.source.read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    assert len(labels) > 50
    assert [label for label, count in labels.items() if count > 1] == []


def test_pair_is_in_step(chapter, notebook):
    source = read_source(chapter.source)
    del notebook.metadata["avb"]
    jupytext.compare.compare_notebooks(notebook, source, fmt="md:myst", compare_ids=True)
    assert notebook.metadata == source.metadata


def test_executed_from_first_to_last(notebook):
    """nbval passes a notebook without outputs: it would test nothing."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def test_no_error_and_no_warning(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_nothing_is_kept_from_comparison(notebook):
    """A check in a cell that nbval skips would never be verified again."""
    for cell in notebook.cells:
        hidden = {"nbval-skip", "nbval-ignore-output", "raises-exception"} & set(cell.metadata.get("tags", []))
        assert not (hidden and "check(" in cell.source), f"{hidden} on a cell that checks:\n{cell.source}"


def test_folded_code_is_folded_everywhere(notebook):
    """The static site folds by the tag, JupyterLab by metadata of its own."""
    for cell in notebook.cells:
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        assert hidden == ("hide-input" in cell.metadata.get("tags", [])), cell.source
        hidden = cell.metadata.get("jupyter", {}).get("outputs_hidden", False)
        assert hidden == ("hide-output" in cell.metadata.get("tags", [])), cell.source


def test_what_checks_a_solution_is_folded_with_it(notebook):
    """A check's line would give the answer away below the folded solution."""
    in_solution = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            # The last of these that a cell has decides what the code below it belongs to.
            parts = re.findall(r"^:::+\{(solution|exercise)\}|^#+ ", cell.source, re.MULTILINE)
            in_solution = parts[-1] == "solution" if parts else in_solution
        elif in_solution:
            assert {"hide-input", "hide-output"} <= set(cell.metadata.get("tags", [])), cell.source


def test_nothing_of_the_machine_is_stored(notebook):
    text = nbformat.writes(notebook)
    assert not [trace for trace in ("/home/", "/root/", "/tmp/", "/Users/", "site-packages") if trace in text]
    assert all("execution" not in cell.metadata for cell in notebook.cells)


def test_title_is_the_book_s(chapter):
    heading = next(line for line in chapter.source.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
    assert heading == f"# {chapter.title}"


def test_budget_holds(chapter):
    record = read_records()[chapter.stem]
    assert record["megabytes"] == megabytes(chapter), "the notebook is not the one that was measured: make chapters"
    assert record.keys() == BUDGET.keys() - {"book_seconds"}
    assert {key: value for key, value in record.items() if value > BUDGET[key]} == {}


def test_whole_book_within_ten_minutes():
    assert sum(record["seconds"] for record in read_records().values()) <= BUDGET["book_seconds"]


def test_readme_shows_the_records():
    shown = README.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]
    assert shown == table(read_records())
