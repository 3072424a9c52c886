"""Judge the published numbers by the stored runs: `python -m tools.claims` writes figures/claims.json and trains nothing.

The numbers stand in chapters/claims.toml, the runs under figures/. Written from the same runs, the file is always the same.
"""

import json
import math
import shlex
import statistics
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from avb_core import recipes
from avb_core.runs import read_json, write_json
from avb_core.training import TrainingConfig
from tools.book import CHAPTERS, ROOT

TABLE = CHAPTERS / "claims.toml"
FIGURES = ROOT / "figures"
TARGET = FIGURES / "claims.json"
VERDICTS = ("reproduced", "bettered", "not reached", "not run")
# Numbers that are known without a run
EXACT = {"-log 4": -math.log(4)}
# What the result.json of any run holds, and what that of a recipe's run holds
ANY_RUN = ("experiment", "game", "seed", "settings", "measured", "provenance")
PARTS = (*ANY_RUN, "profile")
DIGITS = 6  # decimals that are stored: the last bits of a quantile differ from one SciPy to another


class BadClaim(ValueError):
    """A row of claims.toml, or a stored run that ought to answer it, is not as it should be; the message names the file."""


@dataclass(frozen=True)
class Claim:
    """One published number and what answers it; the fields are those of claims.toml."""

    id: str
    title: str
    what: str
    source: str
    where: str
    checked: str
    published: str
    unit: str
    better: str
    published_stderr: float | None = None
    tolerance: float | None = None
    runs: str = ""
    match: Mapping[str, Any] = field(default_factory=dict)
    quantity: str = ""
    exact: str = ""

    def __post_init__(self) -> None:
        if self.better not in ("higher", "lower", "equal"):
            raise BadClaim(f"{self.id}: better is higher, lower or equal, not {self.better!r}")
        if bool(self.exact) == bool(self.runs and self.quantity):
            raise BadClaim(f"{self.id}: expected runs and quantity, or exact")
        if self.exact and self.exact not in EXACT:
            raise BadClaim(f"{self.id}: exact is one of {', '.join(EXACT)}, not {self.exact!r}")

    @property
    def printed(self) -> Decimal:
        """The published value with its digits."""
        return Decimal(self.published.removeprefix("≈").strip())

    @property
    def allowed(self) -> float:
        """The tolerance, or half a unit of the last printed digit."""
        exponent = self.printed.as_tuple().exponent
        assert isinstance(exponent, int), f"{self.id}: {self.published} is not a number"
        return 0.5 * 10.0**exponent if self.tolerance is None else self.tolerance


def read_claims(path: Path = TABLE) -> list[Claim]:
    """Every claim of claims.toml, in its order."""
    claims = []
    for name, shared in _groups(tomllib.loads(path.read_text(encoding="utf-8"))):
        for line, own in shared["claims"].items():
            match = shared.get("match", {}) | own.get("match", {})
            fields = {key: value for key, value in shared.items() if key != "claims"} | own | {"match": match}
            claims.append(Claim(id=f"{name}.{line}", **fields))
    return claims


def _groups(tables: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, inner in tables.items():
        if "claims" in inner:
            yield before + name, inner
        else:
            yield from _groups(inner, f"{before}{name}.")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, relative to `figures`, and the content of its result.json."""

    folder: str
    result: Mapping[str, Any]

    @property
    def seed(self) -> int:
        return int(self.result["seed"])

    @property
    def commit(self) -> str:
        """The commit that it was trained at."""
        provenance = self.result["provenance"]
        return str(provenance.get("trained_at_commit", provenance["commit"]))

    def entry(self, path: str) -> Any:
        """The entry that a dotted path names, such as data.name; None where there is none."""
        value: Any = self.result
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def measured(self, quantity: str) -> tuple[float, float | None]:
        """Value and standard error, None for a bare number, of one quantity; raises BadClaim where it was not measured."""
        try:
            found = self.result["measured"][quantity]
            entry = {"value": found} if isinstance(found, float) else found  # a whole number is a count
            value, stderr = float(entry["value"]), entry.get("stderr")
        except (KeyError, TypeError) as error:
            known = ", ".join(key for key, value in self.result["measured"].items() if isinstance(value, Mapping))
            raise BadClaim(f"{self.folder}/result.json has no {quantity}; it has {known}") from error
        if not math.isfinite(value):
            raise BadClaim(f"{self.folder}/result.json: {quantity} is {value}")
        return value, stderr


def read_run(folder: Path, figures: Path) -> Run:
    """A stored run; raises CorruptFile for half a result.json and BadClaim for one without its parts, naming the file."""
    path = folder / "result.json"
    result = read_json(path)
    if missing := [key for key in PARTS if not isinstance(result, dict) or key not in result]:
        raise BadClaim(f"{path}: not the result of a run, it lacks {', '.join(missing)}")
    return Run(folder.relative_to(figures).as_posix(), result)


def runs_for(claim: Claim, figures: Path = FIGURES) -> tuple[list[Run], list[str]]:
    """The runs that answer a claim, by seed; and why others in the folders that it names do not."""
    runs, left_out = [], []
    for folder in sorted(path for path in figures.glob(claim.runs) if path.is_dir()):
        name = folder.relative_to(figures).as_posix()
        if not (folder / "result.json").exists():
            left_out.append(f"{name}: not finished")
            continue
        run = read_run(folder, figures)
        if other := [f"{key} {run.entry(key)!r}" for key, value in claim.match.items() if run.entry(key) != value]:
            left_out.append(f"{name}: {', '.join(other)}")
        else:
            runs.append(run)
    twice = [seed for seed, count in Counter(run.seed for run in runs).items() if count > 1]
    if twice:
        raise BadClaim(f"{claim.runs}: two runs have the seed {twice[0]}")
    return sorted(runs, key=lambda run: run.seed), left_out


def median_stderr(values: Sequence[float]) -> float:
    """The standard error of a median of independent normal values, sqrt(pi/2) s / sqrt(n); for two or more."""
    return math.sqrt(math.pi / 2) * statistics.stdev(values) / math.sqrt(len(values))


def margin(claim: Claim, values: Sequence[float], own_stderr: float) -> float:
    """What our number may differ from the published one and still agree with it.

    The tolerance, and in quadrature: Student's 97.5% quantile times the standard error over seeds, twice the error of a single
    measurement, twice the published error. One seed says nothing about the others, and adds nothing for them.
    """
    n = len(values)
    over_seeds = float(student.ppf(0.975, n - 1)) * median_stderr(values) if n > 1 else 0.0
    return claim.allowed + math.hypot(over_seeds, 2 * own_stderr, 2 * (claim.published_stderr or 0.0))


def judge(claim: Claim, ours: float, within: float) -> str:
    """`reproduced` within the margin; beyond it, `bettered` on the good side and `not reached` on the other."""
    gain = ours - float(claim.printed)
    if abs(gain) <= within:
        return "reproduced"
    good = {"higher": gain > 0, "lower": gain < 0, "equal": False}[claim.better]
    return "bettered" if good else "not reached"


def row(claim: Claim, figures: Path = FIGURES) -> dict[str, Any]:
    """One claim, judged: a row of claims.json."""
    runs, left_out = runs_for(claim, figures) if claim.runs else ([], [])
    about = {
        "claim": claim.id,
        "title": claim.title,
        "what": claim.what,
        "source": claim.source,
        "where": claim.where,
        "checked": claim.checked,
        "published": float(claim.printed),
        "printed": claim.published,
        "published_stderr": claim.published_stderr,
        "unit": claim.unit,
        "better": claim.better,
    }
    if claim.exact:
        ours, own, within, values = EXACT[claim.exact], 0.0, claim.allowed, []
        stderr: float | None = 0.0
    elif runs:
        measured = [run.measured(claim.quantity) for run in runs]
        values = [value for value, _ in measured]
        ours = statistics.median(values)
        own_errors = [error for _, error in measured if error is not None]
        own = statistics.median(own_errors) if own_errors else 0.0
        within = margin(claim, values, own)
        stderr = math.hypot(median_stderr(values) if len(values) > 1 else 0.0, own)
        if len(values) == 1 and not own_errors:
            stderr = None
    else:
        nothing: dict[str, Any] = {
            "ours": None,
            "stderr": None,
            "margin": None,
            "values": [],
            "seeds": [],
            "device": None,
        }
        return about | nothing | {"run": None, "runs": [], "commits": [], "left_out": left_out, "verdict": "not run"}
    return about | {
        "ours": round(ours, DIGITS),
        "stderr": None if stderr is None else round(stderr, DIGITS),
        "margin": round(within, DIGITS),
        "values": [round(value, DIGITS) for value in values],
        "seeds": [run.seed for run in runs],
        "device": ", ".join(sorted({run.result["provenance"]["device"] for run in runs})) or None,
        "run": f"figures/{Path(runs[0].folder).parent.as_posix()}" if runs else None,
        "runs": [f"figures/{run.folder}" for run in runs],
        "commits": sorted({run.commit for run in runs}),
        "left_out": left_out,
        "verdict": judge(claim, ours, within),
    }


def judged(figures: Path = FIGURES, table: Path = TABLE) -> list[dict[str, Any]]:
    """All of claims.json."""
    return [row(claim, figures) for claim in read_claims(table)]


def other_runs(figures: Path = FIGURES, table: Path = TABLE) -> dict[str, list[Run]]:
    """The stored runs that answer no published number, by folder and name without the seed; not all are of recipes."""
    taken = {run for entry in judged(figures, table) for run in entry["runs"]}
    found: dict[str, list[Run]] = {}
    for path in sorted(figures.glob("*/*/result.json")):
        if f"figures/{path.parent.relative_to(figures).as_posix()}" in taken:
            continue
        if set(ANY_RUN) <= set(result := read_json(path)):  # results of another form may be stored beside
            run = Run(path.parent.relative_to(figures).as_posix(), result)
            found.setdefault(run.folder.rsplit("-", 1)[0], []).append(run)
    return {name: sorted(runs, key=lambda run: run.seed) for name, runs in found.items()}


def command(run: Run) -> str:
    """The line that computes a run again: its settings as overrides of what book.toml has today.

    What no recipe has trained, a benchmark of that name has.
    """
    result = run.result
    if "profile" not in result:
        return f"python benchmarks/{result['game']}.py figures"
    today = recipes.recipe(result["experiment"], result["game"], result["profile"]).settings
    # A setting of training or of the first weights that book.toml has got since, this run had at its default.
    default = {each.name: each.default for each in fields(TrainingConfig) if each.name in today}
    default |= {"initialization": "pytorch"} if "initialization" in today else {}
    settings = {name: value for name, value in default.items() if value is not MISSING} | result["settings"]
    words = [
        f"python -m avb_core train {result['experiment']}",
        f"--game {result['game']} --profile {result['profile']} --seed {run.seed}",
        *(f"--set {shlex.quote(f'{key}={value}')}" for key, value in _differences(settings, today)),
    ]
    return " ".join(words)


def _differences(stored: Mapping[str, Any], today: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in stored.items():
        if isinstance(value, Mapping):
            yield from _differences(value, today.get(key, {}), f"{before}{key}.")
        elif value != today.get(key):
            yield before + key, json.dumps(value, separators=(",", ":"))


def main() -> None:
    rows = judged()
    write_json(TARGET, rows)
    count = Counter(entry["verdict"] for entry in rows)
    print(f"{TARGET.relative_to(ROOT)}: " + ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS))
    for entry in rows:
        for reason in entry["left_out"]:
            print(f"{entry['claim']}: left out {reason}")


if __name__ == "__main__":
    main()
