"""Write requirements.lock: the versions installed now of everything that pyproject.toml asks for, extras included.

Follows the requirements from pyproject.toml through the installed packages, so that what happens to be installed besides is
left out. What only another system needs (CUDA on Linux, colorama on Windows) is left to pip, which adds it by itself.
"""

import re
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.book import ROOT

HEAD = """\
# Everything the book needs, pinned: `python -m tools.lock` writes this file from an environment that passes the tests.
# Install without --no-deps: on some systems torch has parts of its own (CUDA) that pip adds.
"""
GRAPHICS = re.compile(r"nvidia-|cuda-|triton$")


def closure(requirements: list[Requirement]) -> dict[str, Distribution]:
    """The installed packages that `requirements` need here, by canonical name."""
    found: dict[str, Distribution] = {}
    seen: set[str] = set()
    waiting = [(requirement, "") for requirement in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if str(requirement) + extra in seen or (
            requirement.marker and not requirement.marker.evaluate({"extra": extra})
        ):
            continue
        seen.add(str(requirement) + extra)
        name = canonicalize_name(requirement.name)
        if GRAPHICS.match(name):
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{requirement} is not installed: install it, run the tests, then lock") from None
        for needed in found[name].requires or []:
            waiting += [(Requirement(needed), wanted) for wanted in ["", *requirement.extras]]
    return found


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    # setuptools builds our own package, and Python 3.12 no longer brings it
    wanted = ["setuptools>=77", *project["dependencies"], *(line for extra in extras for line in extra)]
    packages = closure([Requirement(line) for line in wanted])
    lines = [f"{package.name}=={Version(package.version).public}" for _, package in sorted(packages.items())]
    (ROOT / "requirements.lock").write_text(HEAD + "\n".join(lines) + "\n")
    print(f"requirements.lock: {len(lines)} packages")


if __name__ == "__main__":
    main()
