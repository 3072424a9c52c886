"""The three lists of packages agree, and the files that tell who may do what with the book are there."""

import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from avb_core.evaluation import mean_by_levels
from avb_core.experiments import bound_levels, paired, per_image_of
from tools.book import ROOT, chapters
from tools.build_chapters import reading_minutes

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
REQUIRED = {canonicalize_name(r.name): r.specifier for r in map(Requirement, PROJECT["dependencies"] + EXTRAS)}
LOCKED = [
    Requirement(line)
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
# Where conda-forge has another name for a package
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
CONDA_SPEC = re.compile(
    r"(?P<name>[a-z0-9]+(?:[-_.][a-z0-9]+)*)(?: (?P<version>(?:>=|<)\d+(?:\.\d+)*(?:,<\d+(?:\.\d+)*)?))?"
)
NOTEBOOK_PACKAGES = ["IPython", "ipywidgets", "ipykernel", "jupyterlab", "jupytext", "nbclient", "nbformat", "pytest"]


def test_lock_pins_every_requirement():
    pins = {}
    for requirement in LOCKED:
        (pin,) = requirement.specifier
        assert pin.operator == "==" and "+" not in pin.version and "*" not in pin.version, requirement
        pins[canonicalize_name(requirement.name)] = pin.version
    assert len(pins) == len(LOCKED), "a package is pinned twice"
    assert pins["torch"] == "2.13.0"
    assert not [name for name in pins if re.match(r"nvidia-|cuda-|triton", name)], "CUDA is pip's choice on each system"
    assert not [f"{name} {specifier}" for name, specifier in REQUIRED.items() if pins.get(name) not in specifier]


def test_conda_environment_has_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    *specs, with_pip = environment["dependencies"]
    found = {}
    for spec in specs:
        match = CONDA_SPEC.fullmatch(spec)
        assert match, f"not a plain conda spec: {spec!r}"
        name = canonicalize_name(CONDA_NAMES.get(match["name"], match["name"]))
        assert name not in found, f"{name} is listed twice"
        found[name] = SpecifierSet(match["version"] or "")
    assert found.pop("python") == SpecifierSet(PROJECT["requires-python"])
    assert found.pop("pip") == SpecifierSet()
    *from_pip, itself = with_pip["pip"]
    assert itself == "--editable ."
    found |= {canonicalize_name(r.name): r.specifier for r in map(Requirement, from_pip)}
    assert found == REQUIRED


@pytest.mark.parametrize(
    "spec", ["numpy>=2.0", "numpy >= 2", "numpy 2.0.*", "numpy >=2.0 ", "Numpy >=2", "numpy >=2.0,"]
)
def test_sloppy_conda_specs_are_refused(spec):
    assert not CONDA_SPEC.fullmatch(spec)


def test_training_needs_no_notebook_package():
    """`python -m avb_core` runs where only the core dependencies are installed."""
    code = f"import sys; sys.modules.update(dict.fromkeys({NOTEBOOK_PACKAGES!r}))\nimport avb_core.cli"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def run_install(python: str, venv: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(ROOT / "tools" / "install.sh"), python, str(venv)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("version", ["3.10", "3.14", "2.7"])
def test_a_python_that_does_not_fit_is_named(tmp_path, version):
    pretender = tmp_path / "python"
    pretender.write_text(f"#!/bin/sh\necho {version}\n")
    pretender.chmod(0o755)
    result = run_install(str(pretender), tmp_path / "venv")
    assert result.returncode == 1
    assert f"needs Python 3.11 to 3.13, and '{pretender}' is {version}" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_a_missing_python_is_named(tmp_path):
    result = run_install("python-nowhere", tmp_path / "venv")
    assert result.returncode == 1 and "there is no 'python-nowhere' here" in result.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")  # nothing can be made in it, not even by root
    result = run_install(sys.executable, tmp_path / "file" / "venv")
    assert result.returncode == 1 and f"the folder {ROOT} cannot be written" in result.stderr


def test_no_network_is_said(tmp_path):
    """pip, pointed at an address on this machine where nobody answers, fails; the message says what to do."""
    unreachable = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    result = run_install(sys.executable, tmp_path / "venv", **unreachable)
    assert result.returncode == 1 and "Is there a network? Then run make again." in result.stderr


def test_the_readme_reports_the_stored_runs():
    """A figure in the README is the median of the runs in figures/table1."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for game, quantity, label in (
        ("vae", "log_likelihood", "VAE: log-likelihood"),
        ("avb", "log_likelihood", "AVB: log-likelihood"),
        ("avb", "kl_knn", "AVB: KL(q(z), p(z)) by nearest neighbours"),
    ):
        runs = [json.loads(path.read_text()) for path in (ROOT / "figures" / "table1").glob(f"{game}-*/result.json")]
        assert sorted(run["seed"] for run in runs) == [0, 1, 2, 3, 4]
        median = statistics.median(run["measured"][quantity]["value"] for run in runs)
        row = next(line for line in readme.splitlines() if line.startswith(f"| {label} "))
        assert row.split("|")[3].strip() == f"{median:.3f}".replace("-", "−")


def test_the_readme_reports_the_stored_runs_on_mnist():
    """Log-likelihoods, and differences to the VAE's on the same images, from the values of each image."""

    def images_of(run):
        return per_image_of(ROOT / "figures" / run)

    folders = {
        "50,000 steps": "mnist_mlp",
        "150,000 steps": "mnist_long",
        "8 latent variables": "mnist_conv8",
        "32 latent variables": "mnist_conv32",
    }
    games = {
        "VAE": "vae",
        "AVB with adaptive contrast": "avb_ac",
        "the same, with a flow": "avb_ac_flow",
        "inverse autoregressive flow": "flow",
        "semi-implicit posterior": "semi_implicit",
        "auxiliary posterior": "auxiliary",
        "IWAE, k = 5, a fifth of the steps": "iwae",
        "adversarial autoencoder": "aae",
        "AVB, its critic against the prior": "avb",
    }
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (ROOT / "README.md").read_text().splitlines()]
    compared = 0
    for start in [number for number, cells in enumerate(lines) if "less the VAE's" in cells]:
        for cells in itertools.takewhile(len, lines[start + 2 :]):
            for column, folder in enumerate(map(folders.get, lines[start])):
                if folder is None:
                    continue
                run, of_vae = f"{folder}/{games[cells[0]]}-0", images_of(f"{folder}/vae-0")
                if not cells[column]:
                    assert not (ROOT / "figures" / run).exists(), run
                    continue
                images = images_of(run)
                gain = paired(images, of_vae)
                less = "" if cells[0] == "VAE" else f"{gain.value:+.2f} ± {gain.stderr:.2f}"
                expected = [f"{mean_by_levels(*bound_levels(images)).value:.1f}", less]
                assert cells[column : column + 2] == [each.replace("-", "−") for each in expected], run
                compared += 1
    assert compared >= 12


def test_the_readme_counts_the_hours():
    """What to read for which goal: the hours are those that its chapters say they take."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = readme.split("## Where to start\n")[1].split("\n## ")[0].strip().splitlines()[2:]
    listed = {chapter.stem: chapter for chapter in chapters(written_only=True)}
    paths = [row for row in rows if row.startswith("|")]
    assert len(paths) == 6
    for row in paths:
        minutes = [reading_minutes(listed[stem]) for stem in re.findall(r"\(chapters/(\w+)\.ipynb\)", row)]
        assert row.split("|")[3].strip() == f"{sum(minutes) / 60:.0f}", row


FLOORS = (
    {"_validate"},
    {"gaussian", "bounds", "divergences"},
    {"networks", "posteriors", "decoders", "critics", "testbeds"},
    {"flows"},
    {"games"},
    {"models"},
    # What plays the games is built up in this order.
    {"runs"},
    {"data", "evaluation", "annealing", "pictures"},
    {"celeba", "faces"},
    {"training"},
    {"experiments"},
    {"recipes"},
    {"check", "coursework", "plots", "widgets", "cli"},
    {"__main__"},
)


def test_a_module_imports_only_from_the_floors_below():
    floor_of = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
    core = ROOT / "avb_core"
    for path in core.rglob("*.py"):
        module = path.relative_to(core).with_suffix("").parts[0]
        if module == "__init__":  # the public names, from wherever they are
            continue
        source = path.read_text(encoding="utf-8")
        used = set(re.findall(r"^\s*from avb_core\.(\w+)", source, re.MULTILINE))
        for line in re.findall(r"^\s*from avb_core import (.+)$", source, re.MULTILINE):
            used |= {name.strip() for name in line.split(",")} & floor_of.keys()
        above = {name for name in used if floor_of[name] >= floor_of[module]} - {module}
        assert not above, f"{path.name} imports {above} from its own floor or above"
