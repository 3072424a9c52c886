"""What every run of pytest needs, from whichever folder it is started."""

import os
from pathlib import Path

import pytest

# Chapters are compared with the notebooks that tools/build_chapters.py made: the same profile, still pictures for sliders.
os.environ.update(AVB_PROFILE="quick", AVB_BUILD="1")
# Two processes with two threads each on two cores are several times slower than two processes with one.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    # Here and not among the options in pyproject.toml, where its path would count from the folder pytest is started in.
    if not config.option.nbval_sanitize_with:
        config.option.nbval_sanitize_with = str(Path(__file__).parent / "tests" / "nbval_sanitize.cfg")
