"""Grade a folder of submitted notebooks without nbgrader: `python -m tools.grade SUBMISSIONS [--out build/graded]`.

Every notebook below SUBMISSIONS is graded: `STUDENT.ipynb`, `STUDENT/NAME.ipynb` and nbgrader's `STUDENT/NAME/NAME.ipynb` are
all fine. For each assignment a table `grades_NAME.csv` is written, and for each notebook a page with feedback.

Each part of each notebook runs in a process of its own, with limits (see `tools.grading_worker`), and is judged here, where no
submitted code runs. Submissions are only read. Answers in words are left for a person to mark.
"""

import argparse
import csv
import html
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from avb_core.coursework import Verdict, checks_as_text, judge
from avb_core.runs import write_atomically
from tools.assignments import ASSIGNMENTS, Assignment, Part, all_assignments, probes_of, role_of, split_probes
from tools.book import ROOT

MEMORY = 3 * 2**30  # bytes that an answer may use beside what PyTorch takes
LARGEST_NOTEBOOK = 20 * 2**20  # bytes
# What no answer may read: model answers, checks, other submissions (added when known), and how it is judged.
CLOSED = [ASSIGNMENTS, ROOT / "build", ROOT / "tools", ROOT / "tests", ROOT / ".git"]


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
        assignment = self.assignments.get(notebook.metadata.get("avb", {}).get("assignment", path.stem))
        if assignment is None:
            return Grade(student, "", [], 0, f"It is of none of the assignments {', '.join(self.assignments)}.")
        marks = [self.mark(assignment, part, notebook) for part in assignment.coded]
        by_hand = sum(part.points for part in assignment.parts if part not in assignment.coded)
        return Grade(student, assignment.name, marks, by_hand)

    def mark(self, assignment: Assignment, part: Part, notebook: NotebookNode) -> Mark:
        """Run the submission up to a part and judge what its checks find."""

        def nothing(why: str) -> Mark:
            return Mark(part.id, part.title, 0, part.points, [(False, why)])

        cells = _cells_up_to(assignment, part.id, notebook)
        own = f"part {part.id}"
        if own not in dict(cells):
            return nothing("The cell for this answer is not in the notebook.")
        probes = probes_of(assignment, part)
        ran = self.worker.run(
            {
                "cells": cells,
                "probes": [probe.code for probe in probes],
                "seconds": part.seconds,
                "bytes": MEMORY,
                "closed": self.closed,
                "files": {"checks.json": checks_as_text(split_probes(assignment)[0])},
            }
        )
        if ran["forbidden"]:
            return nothing(
                f"It tried {ran['forbidden'][0]}. That is not allowed, and there are no points for this part."
            )
        if ran["ended"]:
            return nothing(ran["ended"])
        if own in ran["errors"]:
            ran["found"] = [ran["errors"][own]] * len(probes)
        verdicts = [judge(probe, found) for probe, found in zip(probes, ran["found"], strict=True)]
        passed = {
            hidden: all(v.passed for v, c in zip(verdicts, part.checks, strict=True) if c.hidden == hidden)
            for hidden in (False, True)
        }
        points = part.visible_points * passed[False]
        points += (part.points - part.visible_points) * (passed[False] and passed[True])
        return Mark(part.id, part.title, points, part.points, _remarks(part, verdicts))


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
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:
        raise ValueError(f"It is not a notebook that can be read ({type(error).__name__}).") from error
    return notebook


def _cells_up_to(assignment: Assignment, part: str, notebook: NotebookNode) -> list[tuple[str, str]]:
    """Name and code of the cells to run for a part, in the order of the assignment.

    Given cells are taken from the assignment, whatever became of them in the submission. Answers come from the submission, each
    after the cells that its author put in front of it. Our checks are not run again.
    """
    answers: dict[str, list[tuple[str, str]]] = {}
    extra: list[tuple[str, str]] = []
    for index, cell in enumerate(notebook.cells):
        id = cell.metadata.get("nbgrader", {}).get("grade_id")
        if cell.cell_type != "code":
            continue
        if id is None and "verify(" not in cell.source:
            extra.append((f"extra cell {index + 1}", _without_magics(cell.source)))
        elif id in {each.id for each in assignment.coded}:
            answers[id] = [*extra, (f"part {id}", _without_magics(cell.source))]
            extra = []
    cells: list[tuple[str, str]] = []
    for index, cell in enumerate(assignment.notebook.cells):
        role, id = role_of(cell)
        if role == "part":
            cells += answers.get(id, [])
            if id == part:
                break
        elif cell.cell_type == "code" and role == "given":
            cells.append((f"given {index + 1}", _without_magics(cell.source)))
    return cells


def _without_magics(code: str) -> str:
    """A cell's code without lines that only IPython understands."""
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in code.splitlines())


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
        lines.append(f"<h2>{escape(mark.title)}: {mark.points} of {mark.out_of}</h2><ul>")
        lines += [
            f"<li class='{'yes' if passed else 'no'}'>{'✓' if passed else '✗'} {escape(remark)}</li>"
            for passed, remark in mark.remarks
        ]
        lines.append("</ul>")
    return "<!doctype html><meta charset='utf-8'>" + "\n".join(lines) + "\n"


def write_table(path: Path, assignment: Assignment, grades: Sequence[Grade]) -> None:
    """A row for each submission of an assignment."""
    parts = [part.id for part in assignment.coded]

    def write(temporary: Path) -> None:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["student", *parts, "points", "out_of", "by_hand", "remarks"])
            for grade in grades:
                remarks = "; ".join(
                    f"{m.part}: {line}" for m in grade.marks for passed, line in m.remarks if not passed
                )
                out_of = sum(mark.out_of for mark in grade.marks)
                row = [
                    _safe(grade.student),
                    *(mark.points for mark in grade.marks),
                    grade.points,
                    out_of,
                    grade.by_hand,
                ]
                table.writerow([*row, _safe(remarks)])

    write_atomically(path, write)


def _safe(text: str) -> str:
    """Text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def grade_all(submissions: Path, out: Path, names: Sequence[str] = ()) -> list[Grade]:
    """Grade every notebook below a folder and write tables and feedback. Raises ValueError where there is none."""
    paths = sorted(path for path in submissions.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    if not paths:
        raise ValueError(f"SUBMISSIONS: expected a folder with notebooks, got {submissions}")
    assignments = all_assignments(names)
    grades = []
    with Worker() as worker:
        grader = Grader(worker, assignments, [submissions.resolve()])
        for path in paths:
            student = "/".join(path.relative_to(submissions).with_suffix("").parts)
            grade = grader.grade(path, student)
            grades.append(grade)
            page = out / "feedback" / path.relative_to(submissions).with_suffix(".html")
            write_atomically(page, partial(Path.write_text, data=feedback_page(grade), encoding="utf-8"))
            print(f"{student}: {grade.problem or f'{grade.points} points'}", flush=True)
    for assignment in assignments:
        of_it = [grade for grade in grades if grade.assignment == assignment.name]
        if of_it:
            write_table(out / f"grades_{assignment.name}.csv", assignment, of_it)
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
        raise SystemExit(f"Error: {error}") from error


if __name__ == "__main__":
    main()
