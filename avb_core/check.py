"""`check`: one line for each claim of the book that the machine has just verified.

The line's verdict is stable; the measured figures stand in brackets that the notebook tests strip before they compare.
"""

import math
from typing import Any

import numpy as np

__all__ = ["CheckFailed", "check"]


class CheckFailed(AssertionError):
    """A claim of the book did not hold; the message carries every figure."""


def check(id: str, what: str, measured: Any, target: Any, within: float) -> None:
    """Print `✓ id  what` if |measured − target| ≤ within everywhere; raise CheckFailed with all figures otherwise.

    `measured` and `target` are numbers, arrays or tensors that broadcast; an inequality is checked by its violation, such as
    `measured=(elbo - log_px).clamp(min=0)` against 0. `within` is a standard error's multiple or a stated approximation, never
    fitted to what came out. NaN never passes.
    """
    if not (math.isfinite(within) and within >= 0):
        raise ValueError(f"within: expected a finite number ≥ 0, got {within}")
    measured_array, target_array = _as_array("measured", measured), _as_array("target", target)
    try:
        error = np.abs(measured_array - target_array)
    except ValueError:
        raise ValueError(
            f"measured, target: shapes do not fit together: {measured_array.shape}, {target_array.shape}"
        ) from None
    if error.size == 0:
        raise ValueError("measured: expected at least one number, got none")
    worst = float(error.max())
    figures = f"measured {_show(measured_array)}, target {_show(target_array)}, off by {worst:.3g}, within {within:.3g}"
    if not worst <= within:
        raise CheckFailed(f"✗ {id}  {what}\n  {figures}")
    print(f"✓ {id}  {what}  [{figures}]")


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
