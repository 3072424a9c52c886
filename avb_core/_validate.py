"""Argument checks shared by the mathematics: every error names the argument, what came and what was expected.

Shapes and dtypes are always checked. Values are inspected on the CPU only: on an accelerator the look alone would make the
program wait for the device at every call, and there the training loop stops at the first loss that is not finite. Nor are they
inspected within `torch.compile`, whose graph a look would break.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


class NotANumber(ValueError):
    """An argument holds NaN: in a training run, the sign that it has diverged."""


def require_floating(name: str, tensor: Tensor, min_ndim: int = 1) -> None:
    """Raise ValueError unless `tensor` is a real floating-point tensor with at least `min_ndim` axes."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}: expected a torch.Tensor, got {type(tensor).__name__}")
    if not tensor.is_floating_point():
        raise ValueError(f"{name}: expected a floating-point tensor, got dtype {tensor.dtype}")
    if tensor.ndim < min_ndim:
        raise ValueError(f"{name}: expected at least {min_ndim} axes, got shape {tuple(tensor.shape)}")


def values_of(tensor: Tensor) -> Tensor | None:
    """The values where they may be inspected, without the wrappers of `torch.func`'s transforms, or None."""
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return None
    return torch.func.debug_unwrap(tensor)


def require_no_nan(name: str, tensor: Tensor) -> None:
    """Raise NotANumber, a ValueError, if `tensor` (on the CPU) holds a NaN."""
    if (values := values_of(tensor)) is not None and values.isnan().any():
        raise NotANumber(
            f"{name}: expected numbers, got {int(values.isnan().sum())} NaN in shape {tuple(values.shape)}"
        )


def require_positive(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless every entry of `tensor` (on the CPU) is greater than zero; NotANumber for NaN."""
    if (values := values_of(tensor)) is not None and not (values > 0).all():
        require_no_nan(name, values)
        raise ValueError(f"{name}: expected positive entries, got {values.min().item()}")


def require_broadcastable(**tensors: Tensor) -> torch.Size:
    """Return the common shape of the named tensors, or raise ValueError with all names and shapes."""
    shapes = {tensor.shape for tensor in tensors.values()}
    if len(shapes) == 1:  # the common case, which torch.broadcast_shapes takes its time over
        return shapes.pop()
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise _not_together("", tensors) from None


def require_last_axis(**tensors: Tensor) -> None:
    """Raise ValueError, with all names and shapes, unless the named tensors have equally many coordinates: none is repeated."""
    if len({tensor.shape[-1] for tensor in tensors.values()}) > 1:
        raise _not_together(" in the last axis", tensors)


def _not_together(where: str, tensors: Mapping[str, Tensor]) -> ValueError:
    listed = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    return ValueError(f"{', '.join(tensors)}: shapes do not fit together{where}: {listed}")


def is_number(value: object) -> bool:
    """Whether it is a real number: True is an int, but no number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object, least: int) -> bool:
    """Whether it is a whole number, and no less than `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def require_outputs(output: Tensor, expected: int) -> None:
    """Raise ValueError unless a network gave so many numbers for each of its inputs."""
    if output.shape[-1] != expected:
        raise ValueError(f"network: expected {expected} outputs, got {output.shape[-1]}")


def require_scale_tril(name: str, scale_tril: Tensor) -> None:
    """Raise ValueError unless `scale_tril` is (..., d, d), lower-triangular, with a positive diagonal."""
    require_floating(name, scale_tril, min_ndim=2)
    if scale_tril.shape[-1] != scale_tril.shape[-2]:
        raise ValueError(f"{name}: expected square matrices (..., d, d), got shape {tuple(scale_tril.shape)}")
    require_no_nan(name, scale_tril)
    require_positive(f"{name} (its diagonal)", scale_tril.diagonal(dim1=-2, dim2=-1))
    if (values := values_of(scale_tril)) is not None and values.triu(1).any():
        raise ValueError(f"{name}: expected a lower-triangular matrix, got non-zero entries above the diagonal")


def require_covariance(name: str, covariance: Tensor) -> None:
    """Raise ValueError unless `covariance` is (..., d, d), finite and, up to rounding, symmetric."""
    require_floating(name, covariance, min_ndim=2)
    if covariance.shape[-1] != covariance.shape[-2]:
        raise ValueError(f"{name}: expected square matrices (..., d, d), got shape {tuple(covariance.shape)}")
    require_no_nan(name, covariance)
    if (values := values_of(covariance)) is None or not values.numel():
        return
    largest = values.abs().max()
    if not largest.isfinite():
        raise ValueError(f"{name}: expected finite entries, got {largest.item()}")
    difference = (values - values.mT).abs().max()
    if difference > rounding_of(values) * largest:
        raise ValueError(f"{name}: expected symmetric matrices, got entries that differ by {difference.item()}")


def rounding_of(matrix: Tensor) -> float:
    """What rounding may leave in a sum of as many products as `matrix` (..., d, d) has rows, against the largest of them."""
    return 10 * matrix.shape[-1] * torch.finfo(matrix.dtype).eps
