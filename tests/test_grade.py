"""The grader, tested on an assignment made up for it: right answers pass, wrong ones are told why, hostile ones harm nobody."""

import codecs
import csv
import hashlib
import runpy
import textwrap
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell

from tools import assignments, grade
from tools.assignments import SourceError, form, probes_of, read
from tools.grade import Grader, Worker

NOTEBOOK = """\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A small assignment

```{code-cell} ipython3
import torch

from avb_core.coursework import verify
```

```{code-cell} ipython3
:tags: [part-square]
def squares(x):
    \"\"\"The sum of squares over the last axis.\"\"\"
    ### BEGIN SOLUTION
    return x.square().sum(-1)
    ### END SOLUTION
```

+++ {"tags": ["written-why"]}

Because they are not negative.

```{code-cell} ipython3
:tags: [slow]
raise RuntimeError("slow cells are not run by the grader")
```

```{code-cell} ipython3
:tags: [part-noise]
def noise(n):
    \"\"\"n standard normal numbers.\"\"\"
    ### BEGIN SOLUTION
    return torch.randn(n)
    ### END SOLUTION
```
"""

PARTS = """
from tools.assignments import Check, Mutant, Part, Written

RULES = r"torch\\.(distributions|nn\\.functional\\.\\w*loss)|avb_core"

PARTS = [
    Part(
        "square", "Squares", 4,
        checks=[
            Check("values", "x = torch.tensor([[1.0, 2.0], [3.0, -1.0]])\\nfound = {'value': squares(x)}"),
            Check("shape", "found = {'shape': squares(torch.ones(2, 3, 4)).shape}", hidden=True),
        ],
        mutants=[
            Mutant("That is a mean; a sum is meant.", "def squares(x):\\n    return x.square().mean(-1)"),
            Mutant("The square is missing.", "def squares(x):\\n    return x.sum(-1)"),
            Mutant("That sums over all axes.", "def squares(x):\\n    return x.square().sum()"),
        ],
        alternatives=["import torch\\ndef squares(y):\\n    return torch.einsum('...i,...i->...', y, y)"],
        seconds=2,
    ),
    Written("why", "Why?", [(2, "says that squares are not negative")]),
    Part(
        "noise", "Noise", 3,
        checks=[Check("law", "z = noise(4000)\\nfound = {'mean': z.mean(), 'std': z.std()}", within=0.1)],
        mutants=[Mutant("That is uniform noise.", "def noise(n):\\n    return torch.rand(n)")],
        alternatives=["def noise(n):\\n    return torch.stack([torch.randn(()) for _ in range(n)]).flip(0)"],
        seconds=2,
    ),
]
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An assignment of two parts and a question."""
    folder = tmp_path_factory.mktemp("assignments") / "small"
    folder.mkdir()
    (folder / "small.md").write_text(NOTEBOOK)
    (folder / "parts.py").write_text(PARTS)
    return read(folder)


@pytest.fixture(scope="module")
def grader(small, tmp_path_factory):
    secret = tmp_path_factory.mktemp("closed")
    (secret / "solution.py").write_text("def squares(x): return x.square().sum(-1)")
    with Worker() as worker:
        yield Grader(worker, [small], [secret])


@pytest.fixture
def submit(small, grader, tmp_path):
    """Grade a submission whose cells hold the given code; an answer that is not given stays as it was handed out."""

    def submit(before: str = "", after: str = "", **answers: str):
        notebook, _ = form(small, "release")
        for index, cell in reversed(list(enumerate(notebook.cells))):
            id = cell.metadata.get("nbgrader", {}).get("grade_id")
            if id in answers:
                cell.source = textwrap.dedent(answers[id])
            if id == "square" and after:
                notebook.cells.insert(index + 1, new_code_cell(textwrap.dedent(after)))
        if before:
            notebook.cells.insert(1, new_code_cell(textwrap.dedent(before)))
        path = tmp_path / "ada.ipynb"
        nbformat.write(notebook, path)
        result = grader.grade(path, "ada")
        assert not result.problem
        return {mark.part: mark for mark in result.marks}

    return submit


RIGHT = "def squares(x):\n    return (x * x).sum(dim=-1)"
NOISE = "def noise(n):\n    return torch.randn(n)"


def said(mark) -> str:
    return " ".join([*(line for _, line in mark.remarks), *mark.notes])


# --- right and wrong --------------------------------------------------------------------------------------------------


def test_a_right_answer_gets_all_points(submit):
    marks = submit(square=RIGHT, noise=NOISE)
    assert [marks[part].points for part in ("square", "noise")] == [4, 3]


def test_every_mutant_is_told_what_it_did_and_every_alternative_passes(small, submit):
    for part in small.coded:
        for mutant in part.mutants:
            mark = submit(**{part.id: mutant.code})[part.id]
            assert mark.points < part.points and mutant.message in said(mark)
        for alternative in part.alternatives:
            assert submit(**{part.id: alternative})[part.id].points == part.points


def test_points_are_for_visible_and_for_hidden_checks(submit):
    """Right for matrices only: the visible half."""
    mark = submit(square="def squares(x):\n    return (x[:, 0] ** 2 + x[:, 1] ** 2)")["square"]
    assert mark.points == 2


def test_an_answer_that_was_not_given(submit):
    mark = submit()["square"]
    assert mark.points == 0 and "There is no answer here yet." in said(mark)


def test_another_order_of_draws_is_as_good(submit):
    assert submit(noise="def noise(n):\n    torch.randn(7)\n    return -torch.randn(2 * n)[::2]")["noise"].points == 3


def test_an_error_is_named_with_its_line(submit):
    mark = submit(square="def squares(x):\n    y = x\n    return y.squared()")["square"]
    assert mark.points == 0 and "AttributeError" in said(mark) and "line 3" in said(mark)
    assert "SyntaxError" in said(submit(square="def squares(x:\n")["square"])


@pytest.mark.parametrize(
    "failing",
    [
        "raise ValueError('oops')",
        RIGHT + "\nwhile True: pass",
        RIGHT + "\nimport os; os._exit(0)",
        RIGHT + "\nopen('/etc/a', 'w')",
        "def squares(x):\n    while True: pass",
        "",
    ],
)
def test_an_answer_that_fails_does_not_cost_another_part_its_points(failing, submit):
    """The later part runs with the model answer, and is told so if it uses it."""
    marks = submit(
        square=failing, noise="def noise(n):\n    return squares(torch.randn(n, 1)) ** 0.5 * (-1) ** torch.arange(n)"
    )
    assert (marks["square"].points, marks["noise"].points) == (0, 3)
    assert marks["noise"].notes == ["Yours failed, so this ran with the model answer to square."]
    assert submit(square=failing, noise=NOISE)["noise"].notes == []


def test_the_time_that_earlier_answers_take_is_not_a_later_part_s(submit):
    marks = submit(square=RIGHT + "\nimport time; time.sleep(1.4)", noise=NOISE + "\nimport time; time.sleep(1.2)")
    assert [marks[part].points for part in ("square", "noise")] == [4, 3]


def test_helpers_in_cells_of_one_s_own_are_found(submit):
    assert (
        submit(
            before="%matplotlib inline\nhelper = lambda x: x ** 2", square="def squares(x): return helper(x).sum(-1)"
        )["square"].points
        == 4
    )


def test_helpers_may_stand_between_an_answer_and_its_check(submit):
    square = "def squares(x): return helper(x).sum(-1)"
    assert submit(square=square, after="def helper(x): return x ** 2")["square"].points == 4


@pytest.mark.parametrize("failing", ["1 / 0", "while True: pass", "import os; os._exit(0)", "open('/etc/a', 'w')"])
def test_cells_of_one_s_own_cost_no_points(failing, submit):
    marks = submit(square=RIGHT, after=failing, noise=NOISE)
    assert [marks[part].points for part in ("square", "noise")] == [4, 3]
    assert failing == "1 / 0" or marks["square"].notes[0].startswith("Cells of your own were left out. With them: ")
    assert not marks["noise"].notes


def test_helpers_are_kept_beside_an_answer_that_never_ends(submit):
    noise = "def noise(n): return helper(n)"
    marks = submit(before="import torch\nhelper = torch.randn", square="while True: pass", noise=noise)
    assert (marks["square"].points, marks["noise"].points) == (0, 3)


@pytest.mark.parametrize(
    "halves",
    [("def helper(x): return x ** 2", "def squares(x): return helper(x).sum(-1)"), (RIGHT, ""), ("", RIGHT)],
)
def test_the_halves_of_a_cell_that_was_split_are_run_both(halves, small, grader, tmp_path):
    notebook, _ = form(small, "release")
    index = next(index for index, cell in enumerate(notebook.cells) if cell.id == "part-square")
    notebook.cells[index].source = halves[1]
    notebook.cells.insert(index, new_code_cell(halves[0], metadata=notebook.cells[index].metadata))
    nbformat.write(notebook, tmp_path / "ada.ipynb")
    assert grader.grade(tmp_path / "ada.ipynb", "ada").marks[0].points == 4


@pytest.mark.parametrize(
    "code",
    [
        RIGHT + "\ndisplay(squares(torch.ones(2)))",
        RIGHT + "\nfrom IPython.display import Markdown, display\ndisplay(Markdown('x'))",
        RIGHT + "\nsquares?",
        RIGHT + "\n_=%time 1+1",
        RIGHT + "\n%time last = squares(torch.ones(2))\nassert last == 2",
        RIGHT + "\nget_ipython().run_line_magic('matplotlib', 'inline')\n!ls\nfiles = !ls",
        "%%time\n%matplotlib inline\n" + RIGHT,
        "k = (5\n     % 3)\ndef squares(x): return (x ** k).sum(-1)",
    ],
)
def test_what_only_notebooks_know_does_no_harm(code, submit):
    assert submit(square=code)["square"].points == 4


@pytest.mark.parametrize(
    "code, named",
    [
        ("import torch.distributions as d\nnoise_of = d.Normal", "torch.distributions.Normal"),
        ("from torch import distributions", "torch.distributions"),
        ("from torch.nn import functional as F\nloss = F.mse_loss", "torch.nn.functional.mse_loss"),
        ("from avb_core.gaussian import kl_standard_normal", "avb_core.gaussian.kl_standard_normal"),
        ("torch.nn.Linear(1, 1)", ""),
    ],
)
def test_what_is_against_the_rules_is_shown_and_costs_nothing(code, named, submit):
    mark = submit(square=RIGHT + "\n" + code)["square"]
    assert mark.points == 4
    assert mark.notes == ([f"To be looked at, it may be against the rules: {named}."] if named else [])


@pytest.mark.parametrize("start", ["\n\n%matplotlib inline", "\n%%time\n", "%time 1\n\n", "\n\n"])
def test_errors_keep_their_lines_beside_magics(start, submit):
    mark = submit(square=start + "\ndef squares(x):\n    return x.squared()")["square"]
    assert "at line 5 of the cell" in said(mark)


@pytest.mark.parametrize("code", ["(" * 10000, "x = '\0'", "def squares(x:\n  %a", "-" * 100000 + "1"])
def test_what_is_no_python_at_all_is_told_so(code, submit):
    assert "It raised" in said(submit(square=code)["square"])


def test_a_cell_that_was_deleted(small, grader, tmp_path):
    """Its answer counts where it stands."""
    notebook, _ = form(small, "release")
    index = next(index for index, cell in enumerate(notebook.cells) if cell.id == "part-square")
    del notebook.cells[index]
    nbformat.write(notebook, tmp_path / "ada.ipynb")
    mark = grader.grade(tmp_path / "ada.ipynb", "ada").marks[0]
    assert mark.points == 0 and "not in the notebook" in said(mark)
    notebook.cells.insert(index, new_code_cell(RIGHT))
    nbformat.write(notebook, tmp_path / "ada.ipynb")
    assert grader.grade(tmp_path / "ada.ipynb", "ada").marks[0].points == 4


def test_marks_that_an_editor_drops(small, grader, tmp_path):
    """The assignment's may stand in the file's name; without those of the cells nobody could say what answers what."""
    notebook, _ = form(small, "release")
    del notebook.metadata["avb"]
    for name in ("ada.ipynb", "Copy of small (1).ipynb"):
        nbformat.write(notebook, tmp_path / name)
    assert grader.grade(tmp_path / "Copy of small (1).ipynb", "ada").assignment == "small"
    assert grader.grade(tmp_path / "ada.ipynb", "ada").problem.endswith("Put one of these into its name: small.")
    notebook.cells = [new_code_cell(cell.source) for cell in notebook.cells]
    nbformat.write(notebook, tmp_path / "small.ipynb")
    assert grader.grade(tmp_path / "small.ipynb", "ada").problem.startswith("Its cells have lost their marks.")


def test_a_cell_without_its_metadata_is_known_by_its_id(small, grader, tmp_path):
    """The release's check cells are no cells of the student's own either."""
    notebook, _ = form(small, "release")
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.id == "part-square":
            cell.source = RIGHT
    notebook.cells[1].source = "raise SystemExit"
    nbformat.write(notebook, tmp_path / "ada.ipynb")
    mark = grader.grade(tmp_path / "ada.ipynb", "ada").marks[0]
    assert mark.points == 4 and not mark.notes


def test_damaged_metadata_end_no_run(small, grader, tmp_path):
    notebook, _ = form(small, "release")
    for cell in notebook.cells:
        cell.metadata["nbgrader"] = "?"
    nbformat.write(notebook, tmp_path / "ada.ipynb")
    assert grader.grade(tmp_path / "ada.ipynb", "ada").points == 0
    notebook.metadata["avb"] = ["small"]
    nbformat.write(notebook, tmp_path / "small.ipynb")
    assert grader.grade(tmp_path / "small.ipynb", "ada").assignment == "small"


def test_given_cells_are_ours_whatever_became_of_them(small, grader, tmp_path):
    notebook, _ = form(small, "release")
    notebook.cells[1].source = "raise SystemExit"
    next(cell for cell in notebook.cells if cell.id == "part-square").source = RIGHT
    nbformat.write(notebook, tmp_path / "ada.ipynb")
    assert grader.grade(tmp_path / "ada.ipynb", "ada").marks[0].points == 4


# --- hostile ----------------------------------------------------------------------------------------------------------

HOSTILE = {
    "crashes": ("import os\nos.abort()", "died (SIGABRT)"),
    "leaves": ("import os\nos._exit(0)", "ended before the checks"),
    "exits": ("raise SystemExit", "SystemExit"),
    "hangs": ("while True: pass", "did not end within 2 seconds"),
    "hangs in a check": ("def squares(x):\n    while True: pass", "did not end within 2 seconds"),
    "prints a gigabyte": ("for _ in range(2**20): print('x' * 1024)", "It printed too much"),
    "takes all memory": ("everything = bytearray(2**36)", "MemoryError"),
    "reads a closed file": ("answer = open('{closed}/solution.py').read()", "tried to read"),
    "swallows the refusal": (
        "try:\n    open('{closed}/solution.py')\nexcept BaseException:\n    pass\n" + RIGHT,
        "tried to read",
    ),
    "looks around": ("import os\nos.listdir('{closed}')", "tried to look into"),
    "reads how it is judged": ("import tools.assignments", "tried to"),
    "overwrites the checks": ("open('{closed}/checks.json', 'w')", "tried to write"),
    "deletes": ("import os\nos.remove('{closed}/solution.py')", "tried remove of"),
    "deletes a folder": ("import shutil\nshutil.rmtree('{closed}')", "tried to"),
    "patches the checker": (
        "import avb_core.coursework as c\nc.judge = lambda *a: c.Verdict(True, '')",
        "change the checker",
    ),
    "starts a process": ("import subprocess\nsubprocess.run(['true'])", "start a process"),
    "forks": ("import os\nos.fork()", "start a process"),
    "kills its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", "signal a process"),
    "forges its findings": (
        'import os\nfor fd in range(3, 64):\n    try:\n        os.write(fd, b\'5\\n[]\\n{"found": 3}\\n'
        '{"found": [1, 2], "errors": {}}\\n{"found": [{}, {"x": {}}], "errors": []}\\nhalf a line\')\n'
        "    except OSError:\n        pass",
        "NameError",
    ),
    "closes the pipe": ("import os\nos.closerange(3, 64)", "ended before the checks"),
    "goes online": ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "leave its process"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_gets_nothing_and_a_clear_line(name, grader, submit):
    closed = grader.closed[-1]
    code, line = HOSTILE[name]
    before = {path: path.read_bytes() for path in Path(closed).iterdir()}
    marks = submit(square=code.replace("{closed}", closed), noise=NOISE)
    assert marks["square"].points == 0 and line in said(marks["square"])
    assert {path: path.read_bytes() for path in Path(closed).iterdir()} == before
    # And the run goes on.
    assert submit(square=RIGHT)["square"].points == 4


def test_what_an_answer_leaves_behind_does_not_reach_the_next(submit):
    submit(square="import torch\ntorch.Tensor.square = lambda self: self\ntorch.manual_seed = None\n" + RIGHT)
    assert submit(square="def squares(x):\n    return x.square().sum(-1)")["square"].points == 4


def test_patching_what_the_probes_use_gains_nothing(submit):
    code = """\
        import torch
        torch.allclose = lambda *a, **k: True
        torch.testing.assert_close = lambda *a, **k: None
        class Always:
            def __eq__(self, other): return True
        def squares(x): return Always()
    """
    assert submit(square=code)["square"].points == 0


# --- a folder of submissions ------------------------------------------------------------------------------------------


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a table, read as a spreadsheet does: as UTF-8 only where the file says so."""
    assert path.read_bytes().startswith(codecs.BOM_UTF8)
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def test_a_whole_folder(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grade, "all_assignments", lambda names=(): [small])
    submissions, out = tmp_path / "in", tmp_path / "out"
    release, _ = form(small, "release")
    for student, answer in (
        ("ada", RIGHT),
        ("bob", "def squares(x):\n    return x.square().mean(-1)"),
        ("=eve", "while 1: 0"),
    ):
        for cell in release.cells:
            if cell.id == "part-square":
                cell.source = answer
        (submissions / student / "small").mkdir(parents=True)
        nbformat.write(release, submissions / student / "small" / "small.ipynb")
    (submissions / "carl.ipynb").write_text("not a notebook")
    release.metadata["avb"]["assignment"] = "another"
    nbformat.write(release, submissions / "dora.ipynb")
    (submissions / "zoë.zip").write_bytes(b"PK")
    (submissions / "fred" / "small").mkdir(parents=True)
    (submissions / "ada" / "._small.ipynb").write_bytes(b"what macOS leaves beside a file")
    (submissions / "link.ipynb").symlink_to(submissions / "ada" / "small" / "small.ipynb")
    before = digest(submissions)
    grades = grade.grade_all(submissions, out)
    assert digest(submissions) == before
    rows = {row["student"]: row for row in table(out / "grades_small.csv")}
    assert rows["ada"]["remarks"].startswith("noise: law: There is no answer")
    assert rows["ada"]["points"] == "4" and rows["ada"]["by_hand"] == "2"
    assert rows["ada"]["notebook"] == "ada/small/small.ipynb"
    assert rows["bob"]["points"] == "0" and "That is a mean" in rows["bob"]["remarks"]
    assert "did not end" in rows["'=eve"]["remarks"]
    problems = {row["student"]: row["problem"] for row in table(out / "not_graded.csv")}
    assert problems == {each.student: each.problem for each in grades.values() if each.problem}
    assert (
        set(problems) == {"carl", "dora", "link", "fred", "zoë.zip"}
        and problems["fred"] == "There is no notebook in it."
        and problems["link"] == "It is a link to another file."
        and "not a notebook" in problems["carl"]
        and problems["dora"] == "It is of the assignment 'another', and not of small."
    )
    assert capsys.readouterr().out.endswith(":\n  carl.ipynb\n  dora.ipynb\n  fred\n  link.ipynb\n  zoë.zip\n")
    pages = {str(path.relative_to(out / "feedback")): path.read_text() for path in (out / "feedback").rglob("*.html")}
    assert len(pages) == 8 and "That is a mean; a sum is meant." in pages["bob/small/small.html"]
    assert "4 of 7 points" in pages["ada/small/small.html"] and "<script" not in "".join(pages.values())


def test_a_folder_without_notebooks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^SUBMISSIONS: "):
        grade.grade_all(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("program", ["grade", "assignments"])
def test_a_name_that_there_is_not_is_answered_with_those_that_there_are(program, tmp_path, monkeypatch, capsys):
    (tmp_path / "01_elbo.ipynb").write_text("{}")
    arguments = [str(tmp_path), "--assignment", "01_elb"] if program == "grade" else ["01_elb"]
    monkeypatch.setattr("sys.argv", [program, *arguments])
    with pytest.raises(SystemExit) as caught:
        {"grade": grade, "assignments": assignments}[program].main()
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    assert "expected one of 01_elbo, 02_importance_weighting" in error and error.endswith("got 01_elb\n")


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, said",
    [
        (("### BEGIN SOLUTION", "### START"), "square has no region"),
        (("part-noise", "part-noises"), "the notebook asks for"),
        (("x.square().sum(-1)", "x.squares()"), "the model answer raised AttributeError"),
    ],
)
def test_a_source_that_does_not_fit_is_refused(change, said, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "small.md").write_text(NOTEBOOK.replace(*change))
    (folder / "parts.py").write_text(PARTS)
    with pytest.raises(SourceError, match=said):
        made = read(folder)
        probes_of(made, made.coded[0])


def test_checks_know_what_the_answer_defines(small):
    assert [list(probe.answers) for probe in probes_of(small, small.coded[0])] == [["squares"]] * 2


def test_two_mistakes_that_cannot_be_told_apart_are_refused(small, tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "small.md").write_text(NOTEBOOK)
    (folder / "parts.py").write_text(PARTS.replace("x.sum(-1)", "x.square().mean(-1)"))
    made = read(folder)
    with pytest.raises(SourceError, match="cannot tell"):
        probes_of(made, made.coded[0])


def test_mistakes_are_run_once_for_all_forms(small, monkeypatch):
    form(small, "release")
    monkeypatch.setattr(assignments, "findings_with", None)
    form(small, "instructor")


def test_the_release_gives_nothing_away(small):
    notebook, files = form(small, "release")
    text = nbformat.writes(notebook) + "".join(files.values())
    for secret in ("x.square().sum(-1)", "torch.randn(n)", "not negative", "SOLUTION", "HIDDEN", "einsum"):
        assert secret not in text
    assert "squares(torch.ones(2, 3, 4))" not in text  # a hidden check
    assert assignments.checks_as_text({}) == "{}\n"


def test_the_forms_are_built_from_the_command_line(tmp_path, monkeypatch):
    """`parts.py` imports its classes from `tools.assignments`, which then runs as `__main__` too."""
    folder = tmp_path / "sources" / "small"
    folder.mkdir(parents=True)
    (folder / "small.md").write_text(NOTEBOOK.replace("raise RuntimeError", "_ ="))
    (folder / "parts.py").write_text(PARTS)
    monkeypatch.setattr(assignments, "ASSIGNMENTS", tmp_path / "sources")
    monkeypatch.setattr("sys.argv", ["assignments", "--out", str(tmp_path / "out")])
    with pytest.warns(RuntimeWarning, match="found in sys.modules"):
        runpy.run_module("tools.assignments", run_name="__main__")
    for kind in ("release", "solution", "instructor", "nbgrader/source"):
        assert (tmp_path / "out" / kind / "small" / "small.ipynb").is_file()
