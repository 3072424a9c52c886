"""Build the assignments' forms from one source each: `python -m tools.assignments [--out build/assignments] [NAME …]`.

`assignments/NAME/NAME.md` is the notebook with its solutions, `assignments/NAME/parts.py` says how its parts are judged. From
both are made

* `release/NAME/`: what students get. Solutions are replaced by stubs; the visible checks lie beside the notebook.
* `solution/NAME/`: the same with model answers, executed.
* `instructor/NAME/`: with model answers, rubrics, hidden checks and common mistakes.
* `nbgrader/`: a course folder for nbgrader, which makes its own release from `source/NAME/`.

In the source, a code cell with the tag `part-ID` is answered by students: what stands between `### BEGIN SOLUTION` and
`### END SOLUTION` is theirs to write. A text cell with the tag `written-ID` holds a model answer. Other cells are given; those
with the tag `slow` are left out when a submission is graded.
"""

import argparse
import copy
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from symtable import symtable
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from avb_core.coursework import Findings, Probe, Suspect, agrees, checks_as_text, findings_of
from tools.book import ROOT

ASSIGNMENTS = ROOT / "assignments"
SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION.*?^[ \t]*### END SOLUTION[^\n]*$", re.MULTILINE | re.DOTALL)
LEAST_MUTANTS, LEAST_ALTERNATIVES = 6, 3


class SourceError(ValueError):
    """An assignment's source is not as it must be; the message says where."""


@dataclass(frozen=True)
class Check:
    """A probe as its author writes it: what is expected follows from the model answer."""

    name: str
    code: str
    within: float = 1e-4
    hidden: bool = False


@dataclass(frozen=True)
class Mutant:
    """A common mistake: what to tell who made it, and the answer with the mistake."""

    message: str
    code: str


@dataclass(frozen=True, eq=False)
class Part:
    """A part that is answered by code. `alternatives` are right answers, written differently."""

    id: str
    title: str
    points: int
    checks: Sequence[Check]
    mutants: Sequence[Mutant]
    alternatives: Sequence[str]
    seconds: float = 20.0

    @property
    def visible_points(self) -> int:
        """What the visible checks are worth: half, or all where there are no others."""
        return (self.points + 1) // 2 if any(check.hidden for check in self.checks) else self.points


@dataclass(frozen=True)
class Written:
    """A part that is answered in words or formulas, and marked by a person: points and what they are for."""

    id: str
    title: str
    rubric: Sequence[tuple[int, str]]

    @property
    def points(self) -> int:
        """All of the rubric's points."""
        return sum(points for points, _ in self.rubric)


@dataclass(frozen=True, eq=False)
class Assignment:
    """An assignment's source."""

    name: str
    notebook: NotebookNode
    parts: Sequence[Part | Written]
    rules: str = "(?!)"  # a pattern of the dotted names that an answer should not use; they are shown to the teacher

    @property
    def coded(self) -> list[Part]:
        """The parts that are answered by code."""
        return [part for part in self.parts if isinstance(part, Part)]

    @property
    def title(self) -> str:
        """The first heading."""
        heading = re.search(r"^# (.+)$", self.notebook.cells[0].source, re.MULTILINE)
        return heading[1] if heading else self.name


def read(folder: Path) -> Assignment:
    """Read an assignment's source. Raises SourceError where notebook and parts do not fit each other."""
    name = folder.name
    notebook = jupytext.read(folder / f"{name}.md")
    spec = importlib.util.spec_from_file_location(f"parts_of_{name}", folder / "parts.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assignment = Assignment(name, notebook, module.PARTS, getattr(module, "RULES", Assignment.rules))
    asked = [role[1] for cell in notebook.cells if (role := role_of(cell))[0] in ("part", "written")]
    if asked != [part.id for part in assignment.parts]:
        raise SourceError(f"{name}: the notebook asks for {asked}, parts.py has {[p.id for p in assignment.parts]}")
    for cell in notebook.cells:
        if role_of(cell)[0] == "part" and not SOLUTION.search(cell.source):
            raise SourceError(
                f"{name}: {role_of(cell)[1]} has no region between ### BEGIN SOLUTION and ### END SOLUTION"
            )
    return assignment


def all_assignments(names: Sequence[str] = ()) -> list[Assignment]:
    """The named assignments, or all, in their order. Raises ValueError for a name that there is not."""
    folders = {path.parent.name: path.parent for path in sorted(ASSIGNMENTS.glob("*/parts.py"))}
    for name in names:
        if name not in folders:
            raise ValueError(f"NAME: expected one of {', '.join(folders)}, got {name}")
    return [read(folder) for name, folder in folders.items() if not names or name in names]


def role_of(cell: NotebookNode) -> tuple[str, str]:
    """("part", ID), ("written", ID), ("slow", ""), or ("given", "")."""
    for tag in cell.metadata.get("tags", []):
        if match := re.fullmatch(r"(part|written)-(\w+)", tag):
            return match[1], match[2]
        if tag == "slow":
            return "slow", ""
    return "given", ""


def namespace_before(assignment: Assignment, part: str) -> dict[str, Any]:
    """What a notebook with the model answers knows just before the part's own cell."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in assignment.notebook.cells:
        role, id = role_of(cell)
        if (role, id) == ("part", part):
            return namespace
        if cell.cell_type == "code" and role != "slow":
            exec(compile(cell.source, f"<{assignment.name}>", "exec"), namespace)
    raise KeyError(part)


def model_answer(assignment: Assignment, part: str) -> str:
    """The source of a part's cell, solution and all."""
    return next(cell.source for cell in assignment.notebook.cells if role_of(cell) == ("part", part))


def defined_by(code: str) -> list[str]:
    """The names of the functions, classes and variables that a cell defines."""
    return [each.get_name() for each in symtable(code, "<answer>", "exec").get_symbols() if each.is_assigned()]


def findings_with(namespace: dict[str, Any], answer: str, check: Check) -> Findings | str:
    """What a check finds with an answer."""
    own = dict(namespace)
    exec(compile(answer, "<answer>", "exec"), own)
    return findings_of(check.code, own)


@cache
def probes_of(assignment: Assignment, part: Part) -> Sequence[Probe]:
    """The part's checks with what is expected and what common mistakes give. Every answer is run, but only once.

    Raises SourceError where the model answer raises, or two mistakes with different messages cannot be told apart.
    """
    before = namespace_before(assignment, part.id)
    answer = model_answer(assignment, part.id)
    probes = []
    for check in part.checks:
        expected = findings_with(before, answer, check)
        if isinstance(expected, str):
            raise SourceError(f"{assignment.name}, {part.id}, {check.name}: the model answer raised {expected}")
        suspects: list[Suspect] = []
        for mutant in part.mutants:
            found = findings_with(before, mutant.code, check)
            if isinstance(found, str) or agrees(found, expected, check.within):
                continue
            for other in suspects:
                if agrees(found, other.findings, check.within) and other.message != mutant.message:
                    raise SourceError(
                        f"{assignment.name}, {part.id}, {check.name} cannot tell {mutant.message!r} from {other.message!r}"
                    )
            suspects.append(Suspect(mutant.message, found))
        probes.append(Probe(check.name, check.code, check.within, expected, suspects, defined_by(answer)))
    return tuple(probes)


def split_probes(assignment: Assignment) -> tuple[dict[str, list[Probe]], dict[str, list[Probe]]]:
    """The probes that students see, and those that they do not, of each part."""
    visible, hidden = (
        {
            part.id: [p for p, c in zip(probes_of(assignment, part), part.checks, strict=True) if c.hidden == wanted]
            for part in assignment.coded
        }
        for wanted in (False, True)
    )
    return visible, hidden


# --- the forms --------------------------------------------------------------------------------------------------------


def form(assignment: Assignment, kind: str) -> tuple[NotebookNode, dict[str, str]]:
    """The notebook of a kind (release, solution, instructor or nbgrader), and the files that lie beside it."""
    visible, hidden = split_probes(assignment)
    parts = {part.id: part for part in assignment.parts}
    notebook = new_notebook(metadata=copy.deepcopy(assignment.notebook.metadata))
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["avb"] = {"assignment": assignment.name}
    for index, source in enumerate(assignment.notebook.cells):
        role, id = role_of(source)
        cell = copy.deepcopy(source)
        cell.id = f"{role}-{id or index}"
        notebook.cells.append(cell)
        if role == "part":
            part = parts[id]
            assert isinstance(part, Part)
            if kind == "release":
                cell.source = SOLUTION.sub(partial(_stub, id=id), cell.source)
            _mark(cell, kind, id, solution=True)
            check = new_code_cell(f'verify("{id}", globals())', id=f"check-{id}")
            _mark(check, kind, f"{id}_checks", points=part.visible_points, grade=True)
            notebook.cells.append(check)
            if hidden[id] and kind in ("instructor", "nbgrader"):
                text = checks_as_text({id: hidden[id]})
                code = f'### BEGIN HIDDEN TESTS\nverify("{id}", globals(), r"""{text}""")\n### END HIDDEN TESTS'
                further = new_code_cell(code, id=f"hidden-{id}", metadata={"jupyter": {"source_hidden": True}})
                _mark(further, kind, f"{id}_hidden", points=part.points - part.visible_points, grade=True)
                notebook.cells.append(further)
            if kind == "instructor":
                notebook.cells.append(new_markdown_cell(_mistakes(part), id=f"mistakes-{id}"))
        elif role == "written":
            written = parts[id]
            assert isinstance(written, Written)
            if kind == "release":
                cell.source = "*Write your answer here.*"
            elif kind == "nbgrader":
                cell.source = f"### BEGIN SOLUTION\n{cell.source}\n### END SOLUTION"
            _mark(cell, kind, id, points=written.points, grade=True, solution=True)
            if kind == "instructor":
                notebook.cells.append(new_markdown_cell(_rubric(written), id=f"rubric-{id}"))
        elif source.cell_type == "code":
            _mark(cell, kind, f"given_{index}")
    return notebook, {"checks.json": checks_as_text(visible)}


def _stub(region: re.Match[str], id: str) -> str:
    indent = region[1]
    return (
        f"{indent}# Your answer takes the place of the next line.\n"
        f'{indent}raise NotImplementedError("{id}: write your answer in this cell, then run it and the check below")'
    )


def _mark(
    cell: NotebookNode, kind: str, id: str, points: int | None = None, grade: bool = False, solution: bool = False
) -> None:
    """nbgrader's mark, by which our own grader knows the cells too; students may change only what is theirs."""
    mark: dict[str, Any] = {"grade": grade, "solution": solution, "locked": not solution, "task": False}
    mark |= {"grade_id": id, "schema_version": 3, "cell_type": cell.cell_type}
    if grade:
        mark["points"] = points
    cell.metadata["nbgrader"] = mark
    if not solution:
        cell.metadata["editable"] = False


def _mistakes(part: Part) -> str:
    rows = "\n".join(f"* {mutant.message}" for mutant in part.mutants)
    return f"**{part.title}** ({part.points} points). Mistakes that are recognized:\n\n{rows}"


def _rubric(written: Written) -> str:
    rows = "\n".join(f"| {points} | {what} |" for points, what in written.rubric)
    return f"**{written.title}** ({written.points} points)\n\n| points | for |\n| --: | :-- |\n{rows}"


NBGRADER_CONFIG = '''"""The course folder of the book's assignments, for nbgrader."""

c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "avb"
c.ClearSolutions.code_stub = {
    "python": "# Your answer takes the place of the next line.\\nraise NotImplementedError('write your answer here')"
}
c.ClearSolutions.text_stub = "*Write your answer here.*"
c.ExecutePreprocessor.timeout = 120
'''


def write_form(assignment: Assignment, kind: str, out: Path) -> Path:
    """Write a form into its folder below `out`; the notebook's path. A solution is executed."""
    place = out / kind / ("source" if kind == "nbgrader" else "") / assignment.name
    place.mkdir(parents=True, exist_ok=True)
    notebook, files = form(assignment, kind)
    for name, text in files.items():
        (place / name).write_text(text, encoding="utf-8")
    if kind == "solution":
        quiet = ["--IPKernelApp.log_level=ERROR"]  # it warns of unencrypted TCP, within one machine
        where = {"metadata": {"path": str(place)}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where, extra_arguments=quiet).execute()
    if kind == "nbgrader":
        (out / kind / "nbgrader_config.py").write_text(NBGRADER_CONFIG, encoding="utf-8")
    nbformat.write(notebook, place / f"{assignment.name}.ipynb")
    return place / f"{assignment.name}.ipynb"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "assignments")
    arguments = parser.parse_args()
    try:
        assignments = all_assignments(arguments.names)
    except ValueError as error:
        parser.exit(2, f"Error: {error}\n")
    for assignment in assignments:
        for kind in ("release", "solution", "instructor", "nbgrader"):
            print(write_form(assignment, kind, arguments.out))


if __name__ == "__main__":
    # The module's classes exist twice now: those of `__main__` are not those that every parts.py imports.
    from tools.assignments import main as main_of_module

    main_of_module()
