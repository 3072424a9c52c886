"""Grade a folder of submitted notebooks without nbgrader: `python -m tools.grade SUBMISSIONS [--out build/graded]`.

Every notebook below SUBMISSIONS is graded: `STUDENT.ipynb`, `STUDENT/NAME.ipynb` and nbgrader's `STUDENT/NAME/NAME.ipynb` are
all fine. For each assignment a table `grades_NAME.csv` is written, and for each notebook a page with feedback. What could not
be graded is listed in `not_graded.csv`, and so is whatever lies in SUBMISSIONS itself and neither is nor has a notebook.

Each part of each notebook runs in a process of its own, with limits (see `tools.grading_worker`), and is judged here, where no
submitted code runs. Submissions are only read. Answers in words are left for a person to mark.
"""

import argparse
import ast
import csv
import html
import json
import re
import subprocess
import sys
import time
import warnings
from ast import PyCF_ONLY_AST
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from avb_core.coursework import Verdict, checks_as_text, judge
from avb_core.runs import write_atomically
from tools.assignments import (
    ASSIGNMENTS,
    Assignment,
    Part,
    all_assignments,
    defined_by,
    model_answer,
    probes_of,
    role_of,
    split_probes,
)
from tools.book import ROOT

MEMORY = 3 * 2**30  # bytes that an answer may use beside what PyTorch takes
LARGEST_NOTEBOOK = 20 * 2**20  # bytes
NOT_GRADED = "not_graded.csv"
# What no answer may read: model answers, checks, other submissions (added when known), and how it is judged.
CLOSED = [ASSIGNMENTS, ROOT / "build", ROOT / "tools", ROOT / "tests", ROOT / ".git"]

Cells = list[tuple[str, str]]  # name and code

# What a notebook has beside Python. Nothing is shown, and of magics only `%time` runs something that matters.
IPYTHON = """
def display(*_, **__): pass

class _Shell:
    def run_line_magic(self, name, line, *_):
        if name != "time":
            return None
        try:
            code = compile(line, "<answer>", "eval")
        except SyntaxError:
            return exec(line, globals())
        return eval(code, globals())

    def __getattr__(self, name):
        return lambda *_, **__: None

def get_ipython(): return _Shell()
"""


class Worker:
    """The process that runs answers."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.grading_worker"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Nothing of the teacher's environment is handed on.
            env={
                "PATH": "/usr/bin:/bin",
                "OMP_NUM_THREADS": "1",
                "PYTHONDONTWRITEBYTECODE": "1",
                "HOME": "/nonexistent",
            },
        )

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """See `tools.grading_worker.run`."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise RuntimeError(f"the grading worker died with status {self.process.wait()}")
        return json.loads(line)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


@dataclass(frozen=True)
class Mark:
    """What a part of a submission is worth, and why."""

    part: str
    title: str
    points: int
    out_of: int
    remarks: Sequence[tuple[bool, str]]
    notes: Sequence[str] = ()  # what to know that costs nothing


@dataclass(frozen=True)
class Grade:
    """A graded submission."""

    student: str
    assignment: str
    marks: Sequence[Mark]
    by_hand: int
    problem: str = ""

    @property
    def points(self) -> int:
        """The sum over the parts that a program can judge."""
        return sum(mark.points for mark in self.marks)


class Grader:
    """Grades submissions of the given assignments; what is expected of each is computed once."""

    def __init__(self, worker: Worker, assignments: Sequence[Assignment], closed: Sequence[Path] = ()) -> None:
        self.worker = worker
        self.assignments = {assignment.name: assignment for assignment in assignments}
        self.closed = [str(path) for path in (*CLOSED, *closed)]

    def grade(self, path: Path, student: str) -> Grade:
        """Grade one notebook. What cannot be read, or is of no assignment known here, is a grade with a problem."""
        try:
            notebook = _read_notebook(path)
        except ValueError as error:
            return Grade(student, "", [], 0, str(error))
        mark = notebook.metadata.get("avb")
        known = ", ".join(self.assignments)
        if isinstance(mark, dict):
            name = str(mark.get("assignment", ""))
            problem = f"It is of the assignment {name!r}, and not of {known}."
        else:  # some editors drop the mark, and downloads are called `Copy of 01_elbo (1).ipynb`
            name = next((name for name in self.assignments if name in path.stem), "")
            problem = f"It does not say of which assignment it is. Put one of these into its name: {known}."
        if (assignment := self.assignments.get(name)) is None:
            return Grade(student, "", [], 0, problem)
        if not any(map(_id, notebook.cells)):
            problem = "Its cells have lost their marks. Copy the answers into the notebook that was handed out."
            return Grade(student, "", [], 0, problem)
        by_hand = sum(part.points for part in assignment.parts if part not in assignment.coded)
        return Grade(student, assignment.name, self.marks(assignment, notebook), by_hand)

    def marks(self, assignment: Assignment, notebook: NotebookNode) -> list[Mark]:
        """Run the submission up to each part and judge what the part's checks find.

        An answer that stopped its run, or gave nothing to judge, costs its own part only: later parts run with the model answer
        in its place. It may have been a cell of the student's own that stopped the run, so there is a second one without
        those cells that were never seen to end.
        """
        sections = _sections(assignment, notebook)
        marks: list[Mark] = []
        before: Cells = [("IPython", IPYTHON)]
        replaced: dict[str, str] = {}  # part → model answer
        proven: set[str] = set()  # cells of a run that came to its end
        took = 0.0  # seconds of the latest such run, which the next has to repeat
        for part in assignment.coded:
            own = f"part {part.id}"
            notes: list[str] = []
            cells = before + sections[part.id]
            start = time.monotonic()
            ran = self.run(assignment, part, cells, took)
            without = [cell for cell in cells if not cell[0].startswith("own") or cell[0] in proven]
            if (stopped := _stopped(ran)) and without != cells:
                start = time.monotonic()
                ran = self.run(assignment, part, without, took)
                if not _stopped(ran):
                    cells = without
                    notes.append(f"Cells of your own were left out. With them: {stopped}")
            if not _stopped(ran):
                took = time.monotonic() - start
                proven |= {name for name, _ in cells}
            written = [code for name, code in sections[part.id] if not name.startswith("given")]
            if against := [name for name in _names_in(written) if re.match(assignment.rules, name)]:
                notes.append(f"To be looked at, it may be against the rules: {', '.join(against)}.")
            later = "\n".join([*(code for _, code in cells), *(check.code for check in part.checks)])
            if used := [id for id, model in replaced.items() if _names_any(defined_by(model), later.split(model)[-1])]:
                notes.append(f"Yours failed, so this ran with the model answer to {', '.join(used)}.")
            mark, failed = self.judge(assignment, part, dict(cells)[own], ran, notes)
            marks.append(mark)
            if failed:
                replaced[part.id] = model_answer(assignment, part.id)
                cells = [(name, replaced[part.id] if name == own else code) for name, code in cells]
            before = cells
        return marks

    def run(self, assignment: Assignment, part: Part, cells: Cells, took: float) -> dict[str, Any]:
        """What the worker finds; `took` seconds are for the cells of earlier parts."""
        return self.worker.run(
            {
                "cells": cells,
                "probes": [probe.code for probe in probes_of(assignment, part)],
                "seconds": part.seconds + round(took),
                "bytes": MEMORY,
                "closed": self.closed,
                "files": {"checks.json": checks_as_text(split_probes(assignment)[0])},
            }
        )

    def judge(
        self, assignment: Assignment, part: Part, answer: str, ran: dict[str, Any], notes: Sequence[str]
    ) -> tuple[Mark, bool]:
        """The mark for a part, and whether its answer failed: gave nothing that could be judged."""
        stopped = _stopped(ran)
        # Without its cell, the answer may stand in one of the student's own.
        if not stopped and not answer and all(isinstance(found, str) for found in ran["found"]):
            stopped = "The cell for this answer is empty, or not in the notebook."
        if stopped:
            return Mark(part.id, part.title, 0, part.points, [(False, stopped)], notes), True
        probes = probes_of(assignment, part)
        if error := ran["errors"].get(f"part {part.id}"):
            ran["found"] = [error] * len(probes)
        verdicts = [judge(probe, found) for probe, found in zip(probes, ran["found"], strict=True)]
        passed = {
            hidden: all(v.passed for v, c in zip(verdicts, part.checks, strict=True) if c.hidden == hidden)
            for hidden in (False, True)
        }
        points = part.visible_points * passed[False]
        points += (part.points - part.visible_points) * (passed[False] and passed[True])
        failed = all(isinstance(found, str) for found in ran["found"])
        return Mark(part.id, part.title, points, part.points, _remarks(part, verdicts), notes), failed


def _stopped(ran: dict[str, Any]) -> str:
    """Why a run did not come to its end; empty if it did."""
    if ran["forbidden"]:
        return f"It tried {ran['forbidden'][0]}. That is not allowed."
    return ran["ended"]


def _names_in(cells: Sequence[str]) -> list[str]:
    """All dotted names that code uses, such as torch.nn.Linear, under the names by which it was imported."""
    names: set[str] = set()
    imported: dict[str, str] = {}
    for code in cells:
        try:
            nodes = list(ast.walk(ast.parse(code)))
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            continue
        for node in nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
                names |= {start + each.name for each in node.names}
                imported |= {each.asname or each.name: start + each.name for each in node.names}
        for node in nodes:
            attributes: list[str] = []
            while isinstance(node, ast.Attribute):
                attributes.insert(0, node.attr)
                node = node.value
            if attributes and isinstance(node, ast.Name):
                names.add(".".join([imported.get(node.id, node.id), *attributes]))
    return sorted(name for name in names if not any(other.startswith(f"{name}.") for other in names))


def _names_any(names: Sequence[str], code: str) -> bool:
    return any(re.search(rf"\b{name}\b", code) for name in names)


def _remarks(part: Part, verdicts: Sequence[Verdict]) -> list[tuple[bool, str]]:
    """A line for each check; one that says the same as an earlier one is dropped."""
    lines: dict[str, bool] = {}
    for check, verdict in zip(part.checks, verdicts, strict=True):
        if verdict.passed:
            lines[f"{check.name}: {verdict.message}"] = True
        elif not any(line.endswith(verdict.message) for line in lines):
            lines[f"{check.name}: {verdict.message}"] = False
    return [(passed, line) for line, passed in lines.items()]


def _read_notebook(path: Path) -> NotebookNode:
    """Raises ValueError with a sentence for what is no notebook."""
    if path.is_symlink():
        raise ValueError("It is a link to another file.")
    if path.stat().st_size > LARGEST_NOTEBOOK:
        raise ValueError(
            f"It has {path.stat().st_size / 2**20:.0f} MiB; a notebook may have {LARGEST_NOTEBOOK / 2**20:.0f}."
        )
    if path.is_dir():
        raise ValueError("There is no notebook in it.")
    try:
        with warnings.catch_warnings(action="ignore"):  # of ids that are missing or occur twice
            notebook = nbformat.read(path, as_version=4)
            nbformat.validate(notebook)
    except Exception as error:
        raise ValueError(f"It is not a notebook that can be read ({type(error).__name__}).") from error
    return notebook


def _sections(assignment: Assignment, notebook: NotebookNode) -> dict[str, Cells]:
    """The cells to run for each part, beyond those for the parts before it, in the order of the assignment.

    Given cells are taken from the assignment, whatever became of them in the submission. Answers come from the submission, and
    so do cells of the student's own: each follows the cell that it follows there. Our checks are not run again.
    """
    indices = range(len(assignment.notebook.cells))
    known = {f"given_{index}" for index in indices}
    known |= {f"{part.id}{tail}" for part in assignment.parts for tail in ("", "_checks", "_hidden")}
    answers: dict[str, Cells] = {part.id: [] for part in assignment.coded}
    own: defaultdict[str, Cells] = defaultdict(list)
    place = ""
    for index, cell in enumerate(notebook.cells):
        id = _id(cell)
        place = id if id in known else place
        if cell.cell_type == "code" and cell.source.strip():
            named = (f"own cell {index + 1}", _as_python(cell.source))
            if id in answers:
                answers[id].append(named)
            elif not id and "verify(" not in cell.source:
                own[place].append(named)
    sections, section = {}, own[""]
    for index, cell in enumerate(assignment.notebook.cells):
        role, id = role_of(cell)
        if role == "part":
            # A cell that was split or copied keeps its id: the last is the answer.
            *earlier, (_, answer) = answers[id] or [("", "")]
            sections[id] = [*section, *earlier, (f"part {id}", answer), *own[id]]
            section = own[f"{id}_checks"] + own[f"{id}_hidden"]
        else:
            if cell.cell_type == "code" and role == "given":
                section.append((f"given {index + 1}", cell.source))
            section += own[id or f"given_{index}"]
    return sections


def _id(cell: NotebookNode) -> str:
    """The name under which a cell was handed out; empty for a cell of the student's own.

    It stands in nbgrader's mark. Some editors drop a cell's metadata: then its own id, given by `form`, says the same.
    """
    mark = cell.metadata.get("nbgrader")
    if isinstance(mark, dict) and "grade_id" in mark:
        return str(mark["grade_id"])
    role, _, id = cell.get("id", "").partition("-")
    names = {"part": id, "written": id, "check": f"{id}_checks", "hidden": f"{id}_hidden"}
    return (names | dict.fromkeys(("given", "slow"), f"given_{id}")).get(role, "")


def _as_python(code: str) -> str:
    """A cell's code with what only IPython understands as calls of `get_ipython`, line by line; Python is left as it is."""
    try:
        compile(code, "<answer>", "exec", flags=PyCF_ONLY_AST)
    except (ValueError, MemoryError, RecursionError):
        return code
    except SyntaxError:
        code = re.sub(r"\A(\s*)%%(time|capture|prun)\b.*", r"\1", code)  # the cell below runs as any other
        empty = code[: len(code) - len(code.lstrip())].count("\n")  # IPython drops empty lines at the top
        with suppress(SyntaxError, RuntimeError, RecursionError):
            return "\n" * empty + TransformerManager().transform_cell(code)
    return code


# --- writing ----------------------------------------------------------------------------------------------------------

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h2{font-size:1.1rem;margin:1.5rem 0 .3rem}ul{margin:0;padding-left:1.2rem}.no{color:#a33000}.yes{color:#00624b}"
)


def feedback_page(grade: Grade) -> str:
    """A student's page of feedback, which needs no other file."""
    escape = html.escape
    lines = [
        f"<title>{escape(grade.student)}</title><style>{STYLE}</style>",
        f"<h1>{escape(grade.assignment or 'Not graded')}</h1>",
    ]
    if grade.problem:
        lines.append(f"<p class='no'>{escape(grade.problem)}</p>")
    else:
        out_of = sum(mark.out_of for mark in grade.marks)
        lines.append(
            f"<p>{escape(grade.student)}: <b>{grade.points} of {out_of} points</b>"
            + (f"; {grade.by_hand} more are marked by hand.</p>" if grade.by_hand else ".</p>")
        )
    for mark in grade.marks:
        lines.append(f"<h2>{escape(f'{mark.part}. {mark.title}')}: {mark.points} of {mark.out_of}</h2><ul>")
        lines += [
            f"<li class='{'yes' if passed else 'no'}'>{'✓' if passed else '✗'} {escape(remark)}</li>"
            for passed, remark in mark.remarks
        ]
        lines += [f"<li>{escape(note)}</li>" for note in mark.notes]
        lines.append("</ul>")
    return "<!doctype html><meta charset='utf-8'>" + "\n".join(lines) + "\n"


def write_table(path: Path, assignment: Assignment, grades: Mapping[Path, Grade]) -> None:
    """A row for each submission of an assignment."""
    header = ["student", "notebook", *(part.id for part in assignment.coded), "points", "out_of", "by_hand", "remarks"]
    rows = []
    for notebook, grade in grades.items():
        remarks = [
            f"{mark.part}: {line}"
            for mark in grade.marks
            for line in (*(line for passed, line in mark.remarks if not passed), *mark.notes)
        ]
        points = [mark.points for mark in grade.marks]
        out_of = sum(mark.out_of for mark in grade.marks)
        rows.append([grade.student, notebook, *points, grade.points, out_of, grade.by_hand, "; ".join(remarks)])
    _write_csv(path, [header, *rows])


def _write_csv(path: Path, rows: Sequence[Sequence[object]]) -> None:
    def write(temporary: Path) -> None:
        # Without the mark that `-sig` writes, Excel reads another encoding.
        with temporary.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows(
                [each if isinstance(each, int) else _safe(str(each)) for each in row] for row in rows
            )

    write_atomically(path, write)


def _safe(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def grade_all(submissions: Path, out: Path, names: Sequence[str] = ()) -> dict[Path, Grade]:
    """Grade every notebook below a folder and write tables and feedback; the grades by the notebooks' paths in the folder.

    Raises ValueError where there is no notebook, or no assignment of a name.
    """
    # What editors and systems keep for themselves begins with a dot: `.ipynb_checkpoints`, `._ada.ipynb`.
    places = [path.relative_to(submissions) for path in submissions.rglob("*.ipynb")]
    places = [place for place in places if not any(part.startswith(".") for part in place.parts)]
    if not places:
        raise ValueError(f"SUBMISSIONS: expected a folder with notebooks, got {submissions}")
    # Who handed in something else, such as a zip or a script, must not be missing from the tables.
    others = {path.name for path in submissions.glob("[!.]*")} - {place.parts[0] for place in places}
    assignments = all_assignments(names)
    grades: dict[Path, Grade] = {}
    with Worker() as worker:
        grader = Grader(worker, assignments, [submissions.resolve()])
        for place in sorted([*places, *map(Path, others)]):
            # The first part of the path: a student then has the same name in all tables.
            grade = grades[place] = grader.grade(submissions / place, place.parts[0].removesuffix(".ipynb"))
            page = out / "feedback" / place.with_name(f"{place.name.removesuffix('.ipynb')}.html")
            write_atomically(page, partial(Path.write_text, data=feedback_page(grade), encoding="utf-8"))
            print(f"{place}: {grade.problem or f'{grade.points} points'}", flush=True)
    for assignment in assignments:
        if of_it := {place: grade for place, grade in grades.items() if grade.assignment == assignment.name}:
            write_table(out / f"grades_{assignment.name}.csv", assignment, of_it)
    problems = [[grade.student, place, grade.problem] for place, grade in grades.items() if grade.problem]
    (out / NOT_GRADED).unlink(missing_ok=True)
    if problems:
        _write_csv(out / NOT_GRADED, [["student", "notebook", "problem"], *problems])
        print(f"Not graded, see {out / NOT_GRADED}:", *(place for _, place, _ in problems), sep="\n  ")
    return grades


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("submissions", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "graded")
    parser.add_argument("--assignment", action="append", default=[], help="only this one; may be given again")
    arguments = parser.parse_args()
    try:
        grade_all(arguments.submissions, arguments.out, arguments.assignment)
    except (ValueError, OSError) as error:
        parser.exit(2, f"Error: {error}\n")


if __name__ == "__main__":
    main()
