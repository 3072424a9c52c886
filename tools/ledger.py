"""The rule that binds the book's ledger to its chapters: no claim without its check, no check without its claim."""

import ast
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from tools.book import CHAPTERS

KINDS_CHECKED = {"theorem", "identity", "algorithm", "experiment", "exercise"}
KINDS_LABELLED = {"definition", "figure"}
VERDICT = re.compile(r"^✓ (\S+)  ", re.MULTILINE)  # as avb_core.check prints it


@dataclass(frozen=True)
class Row:
    """One statement: `id` is <paper>.<row>, `chapter` the stem of the chapter that answers for it."""

    id: str
    kind: str
    chapter: str
    what: str
    fault: str = ""
    corrected: str = ""

    def answers_to(self, id: str) -> bool:
        """Whether `id` is this row's, or that of a part of it: one small letter appended."""
        return id == self.id or (id[:-1] == self.id and id[-1:].isascii() and id[-1:].islower())


def read_rows(path: Path = CHAPTERS / "ledger.toml") -> list[Row]:
    """Every row of the ledger, in its order."""
    papers = tomllib.loads(path.read_text(encoding="utf-8"))
    return [Row(id=f"{paper}.{row}", **fields) for paper, rows in papers.items() for row, fields in rows.items()]


def row_of(id: str, rows: Iterable[Row]) -> Row | None:
    """The row that a check's or a label's id belongs to; an exact match comes before a part's."""
    candidates = [row for row in rows if row.answers_to(id)]
    return min(candidates, key=lambda row: row.id != id, default=None)


def checks_called(notebook: nbformat.NotebookNode) -> set[str]:
    """The ids of all `check("...", ...)` calls in a notebook's code. An id that is not written out raises ValueError."""
    ids = set()
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == "check":
                first = node.args[0] if node.args else None
                if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
                    raise ValueError(f"write a check's id out, as its first argument: {ast.unparse(node)}")
                ids.add(first.value)
    return ids


def checks_passed(notebook: nbformat.NotebookNode) -> set[str]:
    """The ids whose verdict `✓ id  what` stands in a notebook's stored outputs."""
    printed = "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.get("name") == "stdout"
    )
    return set(VERDICT.findall(printed))


def labels(notebook: nbformat.NotebookNode) -> set[str]:
    """The ids of all MyST labels in a notebook's text: lines `(id)=`."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return set(re.findall(r"^\((\S+)\)=\s*$", text, re.MULTILINE))


def problems(rows: list[Row], notebooks: Mapping[str, nbformat.NotebookNode]) -> list[str]:
    """Everything that keeps the ledger and the written chapters, given by stem, from agreeing; empty when they do."""
    found = []
    called = {stem: checks_called(notebook) for stem, notebook in notebooks.items()}
    passed = {stem: checks_passed(notebook) for stem, notebook in notebooks.items()}

    for stem in notebooks:
        for id in sorted(called[stem]):
            row = row_of(id, rows)
            if row is None:
                found.append(f"{stem}: check {id} is in no row of the ledger")
            elif row.chapter != stem:
                found.append(
                    f"{stem}: check {id} belongs in {row.chapter}; claims of this chapter's own are book.<name>"
                )
            if id not in passed[stem]:
                found.append(f"{stem}: check {id} has no verdict in the stored outputs")

    for row in rows:
        if row.kind not in KINDS_CHECKED | KINDS_LABELLED:
            found.append(f"{row.id}: unknown kind {row.kind}")
        if row.chapter not in notebooks:
            continue
        if row.kind in KINDS_CHECKED and not any(
            row_of(id, rows) is row for id in called[row.chapter] & passed[row.chapter]
        ):
            found.append(f"{row.chapter}: {row.kind} {row.id} has no passing check")
        if row.kind in KINDS_LABELLED and not any(row_of(id, rows) is row for id in labels(notebooks[row.chapter])):
            found.append(f"{row.chapter}: {row.kind} {row.id} has no label ({row.id})=")
    return found
