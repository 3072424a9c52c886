"""What strict nbval lets pass and what it does not, with the sanitizer of this book."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools.book import ROOT


def run_nbval(folder: Path, cells: list[tuple[str, list]]) -> subprocess.CompletedProcess[str]:
    """Run `pytest --nbval` from the repository's root on a notebook of (source, stored outputs)."""
    made = new_notebook(
        cells=[
            new_code_cell(source, outputs=outputs, execution_count=n) for n, (source, outputs) in enumerate(cells, 1)
        ],
        metadata={"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
    )
    nbformat.write(made, folder / "made.ipynb")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    # --rootdir and -c: the book's own configuration and conftest, for a notebook that lies elsewhere
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "-p", "no:cacheprovider", "-p", "conftest"]
    command += [f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml"), str(folder / "made.ipynb")]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def line(text: str, stream: str = "stdout") -> list:
    return [new_output("stream", name=stream, text=text + "\n")]


STORED = "✓ avb.2.1  a bound  [measured 1, target 1, off by 0, within 0.1]"


def test_measured_figures_and_addresses_may_differ(tmp_path):
    cells = [
        ("print('✓ avb.2.1  a bound  [measured 1.05, target 1, off by 0.05, within 0.1]')", line(STORED)),
        ("object()", [new_output("execute_result", {"text/plain": "<object at 0x7f00deadbeef>"}, execution_count=2)]),
        ("from avb_core import check\ncheck('avb.2.1', 'a bound', 1.05, 1, 0.1)", line(STORED)),
    ]
    result = run_nbval(tmp_path, cells)
    assert "3 passed" in result.stdout, result.stdout


CHANGED = {
    "id": ("print('✓ avb.2.2  a bound  [measured 1]')", line(STORED)),
    "statement": ("print('✓ avb.2.1  another bound  [measured 1]')", line(STORED)),
    "verdict": ("print('✗ avb.2.1  a bound  [measured 1]')", line(STORED)),
    "trailing": ("print('✓ avb.2.1  a bound  [measured 1]  almost')", line(STORED)),
    "silence": ("pass", line(STORED)),
    "number": ("print('1.05')", line("1.04")),
    "warning": ("import sys\nprint('w', file=sys.stderr)", []),
    "failed check": ("from avb_core import check\ncheck('avb.2.1', 'a bound', 1.2, 1, 0.1)", line(STORED)),
}


def test_anything_else_fails(tmp_path):
    result = run_nbval(tmp_path, list(CHANGED.values()))
    failed = set(re.findall(r"^FAILED .*Cell (\d+)", result.stdout, re.MULTILINE))
    assert [name for n, name in enumerate(CHANGED) if str(n) not in failed] == []
