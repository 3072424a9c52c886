"""Judging an answer to an assignment, and saying how it is wrong.

An answer is never compared line by line with a model answer. *Probes*, small pieces of code, are run beside it, and what they
find (values, shapes, gradients, statistics of samples) is held against what is known to be right, whatever the order of the
student's operations. Each probe also knows what it would find with common mistakes, its *suspects*: an answer that agrees with
one of them is told that it made it. Checks are plain JSON; nothing is unpickled.
"""

import builtins
import errno
import functools
import json
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

NO_RETURN = "No return: "
ANSWER = "<answer>"  # what a student's code is compiled as, so that tracebacks can name its lines

Findings = dict[str, Any]  # of a probe: name → number, or (nested) list of numbers, or True/False, or a string


class ChecksFailed(AssertionError):
    """An answer did not pass its checks. In a notebook it shows as one line, without the checker's own code."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True)
class Suspect:
    """A common mistake: what to tell who made it, and what the probe finds then."""

    message: str
    findings: Findings


@dataclass(frozen=True)
class Probe:
    """`code` is run where the answer is defined, after the seeds were set, and leaves its findings in a dictionary `found`.

    `within` is the largest difference that is let pass: for exact formulas some rounding, relative and absolute; for statistics
    what their standard error allows. `expected` are the findings for a right answer; those
    whose names begin with "shape" are sizes, not measurements.
    """

    name: str
    code: str
    within: float = 1e-4
    expected: Findings = field(default_factory=dict)
    suspects: Sequence[Suspect] = ()
    answers: Sequence[str] = ()  # what the answer's cell defines


@dataclass(frozen=True)
class Verdict:
    """Whether an answer passed a probe, and a sentence or two for the student."""

    passed: bool
    message: str


def findings_of(code: str, namespace: Mapping[str, Any]) -> Findings | str:
    """What the probe's code finds in a namespace that has the answer; a string with what was raised, where it raised.

    The namespace itself is left alone, and so is the global random state.
    """
    silent: list[str] = []  # functions of the answer that returned None
    watched = {
        name: _watched(value, silent)
        for name, value in namespace.items()
        if isinstance(value, FunctionType) and not _is_the_library_s(value)
    }
    own = {"torch": torch, "math": math, "__builtins__": builtins, **namespace, **watched}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            exec(compile(code, "<probe>", "exec"), own)
            return {name: _plain(value) for name, value in own["found"].items()}
        except (Exception, SystemExit) as error:
            said = describe(error)
            if silent and "NoneType" in said:
                return f"{NO_RETURN}{silent[-1]} returned None; is its return missing? ({said})"
            return said


def _is_the_library_s(value: object) -> bool:
    return isinstance(value, FunctionType | type) and str(value.__module__).startswith("avb_core.")


def _watched(function: FunctionType, silent: list[str]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if (result := function(*arguments, **options)) is None:
            silent.append(function.__name__)
        return result

    return call


def describe(error: BaseException) -> str:
    """One line on an exception: its kind, its text, and the line of the answer that it came from."""
    walked = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in walked if frame.f_code.co_filename.startswith(ANSWER)]
    where = f", at line {lines[-1]} of the cell" if lines else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}{where}" if text else f"{type(error).__name__}{where}"


def judge(probe: Probe, found: Findings | str) -> Verdict:
    """Hold what a probe found against what it should have found."""
    if isinstance(found, str):
        if found.startswith("NotImplementedError"):
            return Verdict(False, "There is no answer here yet.")
        if found.startswith(NO_RETURN):
            return Verdict(False, found.removeprefix(NO_RETURN))
        if found.startswith(f"OSError: [Errno {errno.EFBIG}]"):
            return Verdict(False, "It printed too much, or wrote too large a file.")
        return Verdict(False, f"It raised {found}.")
    if worst := _largest_difference(found, probe.expected, probe.within):
        for suspect in probe.suspects:
            if agrees(found, suspect.findings, probe.within):
                return Verdict(False, suspect.message)
        return Verdict(False, worst)
    largest = max((_distance(found[name], value) for name, value in probe.expected.items()), default=0.0)
    return Verdict(True, "Exact." if largest == 0 else f"Right, to {largest:.1g}.")


def verify(part: str, answers: Mapping[str, Any], checks: Path | str = "checks.json") -> None:
    """Judge the answers to a part of the assignment by the checks beside the notebook, and print a line for each probe.

    Call it with `globals()`. `checks` is a file of checks or its content. Raises ChecksFailed if a probe did not pass, so
    that a notebook stops where it is wrong, and KeyError for a part that is not there.
    """
    probes = read_checks(checks)[part]
    # A later cell may import what the answer was to define, and so take its place.
    if borrowed := {name for probe in probes for name in probe.answers if _is_the_library_s(answers.get(name))}:
        print(f"✗ {', '.join(borrowed)}: the library's, not yours. Run the cell of your answer, then this one.")
        raise ChecksFailed("this is not your answer")
    failed = 0
    for probe in probes:
        verdict = judge(probe, findings_of(probe.code, answers))
        failed += not verdict.passed
        print(f"{'✓' if verdict.passed else '✗'} {probe.name}: {verdict.message}")
    if failed:
        raise ChecksFailed(f"{failed} of {len(probes)} checks did not pass")


def checks_as_text(parts: Mapping[str, Sequence[Probe]]) -> str:
    """Probes as JSON, a list for each part; `read_checks` reads it."""
    content = {part: [asdict(probe) for probe in probes] for part, probes in parts.items()}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def read_checks(path: Path | str) -> dict[str, list[Probe]]:
    """Read what `checks_as_text` made, from the file or from its content.

    Raises FileNotFoundError or ValueError, with the path, where that is not possible.
    """
    text = str(path)
    if not text.startswith("{"):
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file; the notebook looks for its checks beside itself")
        text = Path(path).read_text(encoding="utf-8")
    try:
        content = json.loads(text)
        return {
            part: [Probe(**{**probe, "suspects": [Suspect(**each) for each in probe["suspects"]]}) for probe in probes]
            for part, probes in content.items()
        }
    except (json.JSONDecodeError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{str(path)[:80]}: not a file of checks ({error})") from error


# --- comparing --------------------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """A finding as JSON can hold it; numbers in double precision."""
    if isinstance(value, Tensor):
        return value.detach().double().tolist() if value.dtype != torch.bool else value.tolist()
    if isinstance(value, bool | str):
        return value
    if isinstance(value, list | tuple | torch.Size):
        return [_plain(each) for each in value]
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"expected a tensor or a number, got {type(value).__name__}") from None


def agrees(found: Findings, expected: Findings, within: float) -> bool:
    """Whether all that is expected was found, to within a difference."""
    return not _largest_difference(found, expected, within)


def _largest_difference(found: Findings, expected: Findings, within: float) -> str:
    """Empty if all findings agree; otherwise a sentence on the first that does not."""
    for name, value in expected.items():
        if name not in found:
            return f"{name}: nothing was found."
        if name.startswith("shape") and isinstance(value, list):
            if found[name] != value:  # sizes are no measurements: they agree or do not
                return f"{name}: expected {_sizes(value)}, got {_sizes(found[name])}."
        elif said := _difference(found[name], value, within):
            return f"{name}: {said}"
    return ""


def _difference(found: Any, expected: Any, within: float) -> str:
    if isinstance(expected, bool | str) or isinstance(found, bool | str):
        return "" if found == expected else f"expected {_said(expected)}, got {_said(found)}."
    have, want = _tensor(found), _tensor(expected)
    if have is None or want is None or have.shape != want.shape:
        return f"expected shape {_shape(expected)}, got {_shape(found)}."
    if _distance(found, expected) <= within:
        return ""
    have, want = have.flatten(), want.flatten()
    for name, odd in (("NaN", have.isnan() & ~want.isnan()), ("inf", have.isinf() & (have != want))):
        if odd.any():
            return f"{name} in {int(odd.sum())} of {len(have)} places."
    if (lost := have.isfinite() & ~want.isfinite()).any():
        return f"expected {_number(float(want[lost][0]))}, got {_number(float(have[lost][0]))}."
    finite = want.isfinite()
    return _how_it_differs(have[finite], want[finite], within)


def _how_it_differs(have: Tensor, want: Tensor, within: float) -> str:
    """A factor or a constant that is the same everywhere says more than the largest difference."""
    nonzero = want.abs() > within
    ratios = (have / want)[nonzero]
    several = len(ratios) > 1 or len(want) == 1
    if len(ratios) and several and bool((have[~nonzero].abs() <= within).all()) and _constant(ratios):
        ratio = float(ratios.mean())
        if abs(ratio + 1) < 1e-3:
            return "the sign is turned."
        if ratio == 0:
            return "it is 0, and should not be."
        if abs(ratio) > 1.002:
            return f"{_number(ratio)} times too large."
        if abs(ratio) < 0.998:
            return f"{_number(1 / ratio)} times too small."
    offsets = have - want
    if len(offsets) > 1 and _constant(offsets):
        return f"too {'large' if offsets[0] > 0 else 'small'} by {_number(float(offsets.mean().abs()))} everywhere."
    worst = int(offsets.abs().argmax())
    return (
        f"the largest difference is {_number(float(offsets[worst].abs()))}: "
        f"expected {_number(float(want[worst]))}, got {_number(float(have[worst]))}."
    )


def _constant(values: Tensor) -> bool:
    return bool(values.isfinite().all()) and bool((values - values.mean()).abs().max() <= 1e-3 * values.mean().abs())


def _distance(found: Any, expected: Any) -> float:
    """The largest difference, relative where the expected value is larger than 1; infinite where it cannot be taken."""
    if isinstance(expected, bool | str):
        return 0.0 if found == expected else math.inf
    have, want = _tensor(found), _tensor(expected)
    if have is None or want is None or have.shape != want.shape:
        return math.inf
    if have.numel() == 0:
        return 0.0
    same = (have == want) | (have.isnan() & want.isnan())
    distance = (have - want).abs() / want.abs().clamp(min=1)
    return float(distance.masked_fill(same, 0.0).nan_to_num(math.inf, math.inf).max())


def _tensor(value: Any) -> Tensor | None:
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (ValueError, TypeError):
        return None


def _shape(value: Any) -> str:
    tensor = _tensor(value)
    return "that of no array" if tensor is None else str(tuple(tensor.shape))


def _sizes(value: Any) -> str:
    """A shape as Python writes it, or several."""
    if not isinstance(value, list):
        return _said(value)
    if any(isinstance(each, list) for each in value):
        return " and ".join(map(_sizes, value))
    return str(tuple(map(int, value)))


def _said(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value, repr(value)) if isinstance(value, bool) else repr(value)


def _number(value: float) -> str:
    return f"{value:.4g}"
