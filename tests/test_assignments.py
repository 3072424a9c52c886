"""Every assignment's forms are built and run, and its grader is tried on answers that are known to be right or wrong."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from avb_core.coursework import ANSWER, findings_of, judge
from tools.assignments import (
    LEAST_ALTERNATIVES,
    LEAST_MUTANTS,
    all_assignments,
    form,
    namespace_before,
    probes_of,
    write_form,
)
from tools.book import ROOT
from tools.grade import Grader, Worker

ALL = {assignment.name: assignment for assignment in all_assignments()}
PARTS = [(name, part.id) for name, assignment in ALL.items() for part in assignment.coded]


def part_of(name, id):
    return next(part for part in ALL[name].coded if part.id == id)


def test_there_are_assignments():
    assert ALL


@pytest.fixture(scope="module")
def probes():
    """The checks of a part, with what is expected: computed once."""
    known = {}

    def probes(name, id):
        if (name, id) not in known:
            known[name, id] = namespace_before(ALL[name], id), probes_of(ALL[name], part_of(name, id))
        return known[name, id]

    return probes


def verdicts(before, code, probes):
    own = dict(before)
    try:
        exec(compile(code, ANSWER, "exec"), own)
    except Exception as error:
        return [judge(probe, f"{type(error).__name__}: {error}") for probe in probes]
    return [judge(probe, findings_of(probe.code, own)) for probe in probes]


@pytest.mark.parametrize("name, id", PARTS)
def test_every_mistake_is_recognized_and_no_right_answer_is_rejected(name, id, probes):
    part = part_of(name, id)
    before, its_probes = probes(name, id)
    messages = [mutant.message for mutant in part.mutants]
    assert len(set(messages)) == len(messages) >= LEAST_MUTANTS
    assert len(set(part.alternatives)) == len(part.alternatives) >= LEAST_ALTERNATIVES
    for mutant in part.mutants:
        found = verdicts(before, mutant.code, its_probes)
        failed = [verdict.message for verdict in found if not verdict.passed]
        assert failed, f"passes: {mutant.message}"
        assert mutant.message in failed, f"{mutant.message!r} is told {failed}"
        # The first thing that a student reads is not another mistake's name.
        assert failed[0] == mutant.message or failed[0] not in messages
    for alternative in part.alternatives:
        wrong = [verdict.message for verdict in verdicts(before, alternative, its_probes) if not verdict.passed]
        assert not wrong, f"{wrong}: {alternative}"


@pytest.mark.parametrize("name", ALL)
def test_the_grader_agrees_on_whole_notebooks(name, tmp_path):
    """The model answers as a submission get all points, the release none; both through the grader's own processes."""
    with Worker() as worker:
        grader = Grader(worker, [ALL[name]])
        for kind, full in (("nbgrader", True), ("release", False)):
            notebook, _ = form(ALL[name], kind)
            nbformat.write(notebook, tmp_path / f"{kind}.ipynb")
            grade = grader.grade(tmp_path / f"{kind}.ipynb", "nobody")
            assert not grade.problem
            for mark in grade.marks:
                assert mark.points == (mark.out_of if full else 0), (mark, kind)
                assert full or any("no answer here yet" in line for _, line in mark.remarks)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder into which the wheel that students get is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("avb_core", "assignments", "tools", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["-q", "--no-deps", "--no-build-isolation", "--target", str(folder / "installed")]
    command = [sys.executable, "-m", "pip", "install", *options, "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=300)
    return folder / "installed"


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", ["solution", "instructor"])
def test_the_model_answers_run_with_what_students_install(name, kind, installed, tmp_path, monkeypatch):
    """The solution is executed as it is built, the instructor's form, which has the hidden checks too, is executed here."""
    monkeypatch.setenv("PYTHONPATH", str(installed))
    path = write_form(ALL[name], kind, tmp_path)
    notebook = nbformat.read(path, as_version=4)
    if kind == "instructor":
        where = {"metadata": {"path": str(path.parent)}}
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    printed = "".join(
        output.text for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "stream"
    )
    checks = sum(kind == "instructor" or not check.hidden for part in ALL[name].coded for check in part.checks)
    assert printed.count("✓ ") == checks and "✗" not in printed


@pytest.mark.parametrize("name", ALL)
def test_the_release_stops_at_the_first_answer_and_says_so(name, tmp_path):
    path = write_form(ALL[name], "release", tmp_path)
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(path.parent)}},
    )
    client.execute()
    raised = {
        output.ename for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "error"
    }
    assert raised <= {"NotImplementedError", "ChecksFailed", "NameError"}
    text = nbformat.writes(notebook)
    assert "There is no answer here yet." in text or "NotImplementedError" in raised
    assert "BEGIN SOLUTION" not in text and "HIDDEN TESTS" not in text


@pytest.mark.parametrize("name", ALL)
def test_students_are_told_what_each_part_is_worth(name):
    text = "\n".join(cell.source for cell in ALL[name].notebook.cells)
    told = re.findall(r"^(?:### |\*\*)(\d[a-z]?)\b.*?(\d+) points", text, re.MULTILINE)
    assert told == [(part.id, str(part.points)) for part in ALL[name].parts]


@pytest.mark.parametrize("name", ALL)
def test_the_instructor_s_form_has_rubrics_and_hidden_checks(name):
    notebook, _ = form(ALL[name], "instructor")
    text = nbformat.writes(notebook)
    written = [part for part in ALL[name].parts if part not in ALL[name].coded]
    assert text.count("| points | for |") == len(written) > 0
    assert text.count("BEGIN HIDDEN TESTS") == sum(any(c.hidden for c in part.checks) for part in ALL[name].coded) > 0
    assert all(
        mutant.message in text.replace("\\\\", "\\").replace('\\"', '"')
        for part in ALL[name].coded
        for mutant in part.mutants
    )


def test_what_students_install_has_no_answers(installed):
    """The wheel is the library and nothing else."""
    names = {path.name for path in installed.iterdir()}
    assert "avb_core" in names and all(name == "avb_core" or name.endswith(".dist-info") for name in names)


def test_nbgrader_takes_the_course_folder(tmp_path):
    """Its own release, collection and autograding, headless, with a right and an empty submission."""
    name = next(iter(ALL))
    write_form(ALL[name], "nbgrader", tmp_path)
    course = tmp_path / "nbgrader"

    def nbgrader(*arguments):
        result = subprocess.run(
            [sys.executable, "-m", "nbgrader", *arguments],
            cwd=course,
            # nbgrader starts programs that are installed beside it.
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert result.returncode == 0, result.stderr[-3000:]

    nbgrader("generate_assignment", name)
    released = course / "release" / name / f"{name}.ipynb"
    text = released.read_text()
    assert "BEGIN SOLUTION" not in text and "HIDDEN TESTS" not in text and "NotImplementedError" in text
    for student, source in (("ada", course / "source" / name / f"{name}.ipynb"), ("bob", released)):
        place = course / "submitted" / student / name
        place.mkdir(parents=True)
        (place / f"{name}.ipynb").write_text(source.read_text())
    nbgrader("autograde", name)
    nbgrader("export", "--to", "grades.csv")
    nbgrader("generate_feedback", name)
    with (course / "grades.csv").open(newline="") as file:
        scores = {row["student_id"]: float(row["raw_score"]) for row in csv.DictReader(file)}
    assert scores == {"ada": sum(part.points for part in ALL[name].coded), "bob": 0}
    assert (course / "feedback" / "bob" / name / f"{name}.html").exists()
