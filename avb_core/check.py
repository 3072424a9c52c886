"""`check`: one line for each claim of the book that the machine has just verified.

The line's verdict is stable; the measured figures stand in brackets that the notebook tests strip before they compare.
"""

import math
from typing import Any, overload

import numpy as np

__all__ = ["CheckFailed", "check"]


class CheckFailed(AssertionError):
    """A claim of the book did not hold; the message carries every figure."""


@overload
def check(id: str, what: str, measured: Any, target: Any, within: float) -> None: ...
@overload
def check(id: str, what: str, measured: Any, *, at_least: Any = None, at_most: Any = None) -> None: ...
def check(
    id: str,
    what: str,
    measured: Any,
    target: Any = None,
    within: float | None = None,
    *,
    at_least: Any = None,
    at_most: Any = None,
) -> None:
    """Print `✓ id  what` and the figures if the claim holds everywhere; raise CheckFailed with the figures otherwise.

    A claim is either |measured − target| ≤ within, or at_least ≤ measured ≤ at_most with one of the two bounds or both. All are
    numbers, arrays or tensors that broadcast. `within`, and what a bound leaves of room, is a multiple of a standard error or a
    stated approximation, never fitted to what came out. NaN never passes. Raises ValueError for shapes that do not fit, nothing
    measured, or another combination of arguments.
    """
    value = _as_array("measured", measured)
    if value.size == 0:
        raise ValueError("measured: expected at least one number, got none")
    if (target is None) != (within is None) or (target is None) == (at_least is None and at_most is None):
        raise ValueError("check: expected either target and within, or at_least, at_most or both")
    figures = [f"measured {_show(value)}"]
    if target is not None and within is not None:
        if not (math.isfinite(within) and within >= 0):
            raise ValueError(f"within: expected a finite number ≥ 0, got {within}")
        goal = _as_array("target", target)
        worst = float(np.abs(np.subtract(*_broadcast("target", value, goal))).max())
        holds = worst <= within
        figures += [f"target {_show(goal)}", f"off by {worst:.3g}", f"within {within:.3g}"]
    else:
        holds = True
        for name, bound, within_it in (("at_least", at_least, np.greater_equal), ("at_most", at_most, np.less_equal)):
            if bound is not None:
                limit = _as_array(name, bound)
                holds &= bool(within_it(*_broadcast(name, value, limit)).all())
                figures.append(f"{name.replace('_', ' ')} {_show(limit)}")
    told = ", ".join(figures)
    if not holds:
        raise CheckFailed(f"✗ {id}  {what}\n  {told}")
    print(f"✓ {id}  {what}  [{told}]")


def _broadcast(name: str, value: np.ndarray, other: np.ndarray) -> list[np.ndarray]:
    try:
        return list(np.broadcast_arrays(value, other))
    except ValueError:
        raise ValueError(f"measured, {name}: shapes do not fit together: {value.shape}, {other.shape}") from None


def _as_array(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().double().cpu().numpy()
    array = np.asarray(value, dtype=float)
    if np.isnan(array).any():
        raise CheckFailed(f"{name}: {int(np.isnan(array).sum())} of {array.size} entries are NaN")
    return array


def _show(array: np.ndarray) -> str:
    if array.size == 1:
        return f"{array.item():.6g}"
    return f"{array.size} values in ({array.min():.4g}, {array.max():.4g})"
