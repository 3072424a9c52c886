"""Gaussians: reparameterization, log-densities and closed-form KL divergences, in nats, and the Wasserstein distance.

Every function sums over the last axis (the dimension d of the variable), keeps all batch axes in front of it and broadcasts
them. A diagonal Gaussian is a `mean` and a `std`; a full-covariance one is a `mean` and a `scale_tril`, the lower-triangular
factor L of the covariance L Lᵀ. Only where the covariance may be singular, it is given itself.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from avb_core._validate import (
    require_broadcastable,
    require_covariance,
    require_floating,
    require_last_axis,
    require_no_nan,
    require_positive,
    require_scale_tril,
    rounding_of,
    values_of,
)

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def reparameterize(
    mean: Float[Tensor, "*#batch #d"], std: Float[Tensor, "*#batch #d"], noise: Float[Tensor, "*batch d"] | None = None
) -> Float[Tensor, "*batch d"]:
    """Sample z = mean + std · noise, which has law N(mean, diag(std²)) when noise is standard normal.

    The noise is drawn here unless given; given noise may carry extra axes in front, one sample for each of their entries.
    Gradients flow to `mean` and `std` because the randomness enters from outside (Scicluna 1a; Mescheder et al., eq. 3.9).

    Raises ValueError for shapes that do not broadcast, a std that is not positive, or NaN.
    """
    _require_diagonal("mean", mean, "std", std)
    shape = require_broadcastable(mean=mean, std=std)
    noise = _standard_normal_like(mean, shape) if noise is None else _checked_noise(noise, shape)
    return mean + std * noise


def reparameterize_full(
    mean: Float[Tensor, "*#batch d"],
    scale_tril: Float[Tensor, "*#batch d d"],
    noise: Float[Tensor, "*batch d"] | None = None,
) -> Float[Tensor, "*batch d"]:
    """Sample z = mean + L · noise, which has law N(mean, L Lᵀ) when noise is standard normal (Scicluna 1a).

    Raises ValueError for shapes that do not fit, a scale_tril that is not lower-triangular with a positive diagonal, or NaN.
    """
    _require_full("mean", mean, "scale_tril", scale_tril)
    shape = require_broadcastable(mean=mean, scale_tril=scale_tril[..., 0])
    noise = _standard_normal_like(mean, shape) if noise is None else _checked_noise(noise, shape)
    return mean + (scale_tril @ noise[..., None])[..., 0]


def log_prob_standard_normal(z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
    """log N(z; 0, I) = −½ Σ z² − (d/2) log 2π. Raises ValueError for NaN."""
    _require_point("z", z)
    return (-0.5 * z.square() - HALF_LOG_2PI).sum(-1)


def log_prob_diagonal(
    z: Float[Tensor, "*#batch #d"], mean: Float[Tensor, "*#batch #d"], std: Float[Tensor, "*#batch #d"]
) -> Float[Tensor, "*batch"]:
    """log N(z; mean, diag(std²)) = Σ [−½ ((z − mean)/std)² − log std] − (d/2) log 2π.

    The normalizer is the product of d factors (2π)^½ std (Fickinger's eq. 11 prints a single std).
    Raises ValueError for shapes that do not broadcast, a std that is not positive, or NaN.
    """
    _require_point("z", z)
    _require_diagonal("mean", mean, "std", std)
    require_broadcastable(z=z, mean=mean, std=std)
    return (-0.5 * ((z - mean) / std).square() - std.log() - HALF_LOG_2PI).sum(-1)


def log_prob_full(
    z: Float[Tensor, "*#batch d"], mean: Float[Tensor, "*#batch d"], scale_tril: Float[Tensor, "*#batch d d"]
) -> Float[Tensor, "*batch"]:
    """log N(z; mean, L Lᵀ) = −½ |L⁻¹(z − mean)|² − Σ log L_ii − (d/2) log 2π.

    Raises ValueError for shapes that do not fit, a scale_tril that is not lower-triangular with a positive diagonal, or NaN.
    """
    _require_point("z", z)
    _require_full("mean", mean, "scale_tril", scale_tril)
    require_last_axis(z=z, mean=mean, scale_tril=scale_tril)
    require_broadcastable(z=z, mean=mean, scale_tril=scale_tril[..., 0])
    whitened = _solve_tril(scale_tril, (z - mean)[..., None])[..., 0]
    log_diagonal = scale_tril.diagonal(dim1=-2, dim2=-1).log()
    return (-0.5 * whitened.square() - log_diagonal - HALF_LOG_2PI).sum(-1)


def kl_standard_normal(mean: Float[Tensor, "*#batch #d"], std: Float[Tensor, "*#batch #d"]) -> Float[Tensor, "*batch"]:
    """KL(N(mean, diag(std²)) ‖ N(0, I)) = ½ Σ (mean² + std² − 1 − log std²) (Hajimiri, eq. 18).

    Raises ValueError for shapes that do not broadcast, a std that is not positive, or NaN.
    """
    _require_diagonal("mean", mean, "std", std)
    require_broadcastable(mean=mean, std=std)
    return (0.5 * mean.square() + _kl_of_scales(std.log())).sum(-1)


def kl_diagonal(
    mean_q: Float[Tensor, "*#batch #d"],
    std_q: Float[Tensor, "*#batch #d"],
    mean_p: Float[Tensor, "*#batch #d"],
    std_p: Float[Tensor, "*#batch #d"],
) -> Float[Tensor, "*batch"]:
    """KL(N(mean_q, diag(std_q²)) ‖ N(mean_p, diag(std_p²))), the diagonal case of Hajimiri, eq. 16.

    Raises ValueError for shapes that do not broadcast, a std that is not positive, or NaN.
    """
    _require_diagonal("mean_q", mean_q, "std_q", std_q)
    _require_diagonal("mean_p", mean_p, "std_p", std_p)
    require_broadcastable(mean_q=mean_q, std_q=std_q, mean_p=mean_p, std_p=std_p)
    return (0.5 * ((mean_q - mean_p) / std_p).square() + _kl_of_scales(std_q.log() - std_p.log())).sum(-1)


def kl_full(
    mean_q: Float[Tensor, "*#batch d"],
    scale_tril_q: Float[Tensor, "*#batch d d"],
    mean_p: Float[Tensor, "*#batch d"],
    scale_tril_p: Float[Tensor, "*#batch d d"],
) -> Float[Tensor, "*batch"]:
    """KL(N(mean_q, L_q L_qᵀ) ‖ N(mean_p, L_p L_pᵀ)) (Hajimiri, eqs. 15–16).

    With M = L_p⁻¹ L_q and v = L_p⁻¹ (mean_q − mean_p) it is ½ (|M|² + |v|² − d) − Σ log M_ii. M is lower-triangular, so only
    its diagonal enters the determinant: the KL is that of the diagonal scales plus ½ |v|² plus ½ Σ_{i>j} M_ij².

    Raises ValueError for shapes that do not fit, a scale_tril that is not lower-triangular with a positive diagonal, or NaN.
    """
    _require_full("mean_q", mean_q, "scale_tril_q", scale_tril_q)
    _require_full("mean_p", mean_p, "scale_tril_p", scale_tril_p)
    require_last_axis(mean_q=mean_q, scale_tril_q=scale_tril_q, mean_p=mean_p, scale_tril_p=scale_tril_p)
    require_broadcastable(
        mean_q=mean_q, scale_tril_q=scale_tril_q[..., 0], mean_p=mean_p, scale_tril_p=scale_tril_p[..., 0]
    )
    shift = _solve_tril(scale_tril_p, (mean_q - mean_p)[..., None])[..., 0]
    off_diagonal = _solve_tril(scale_tril_p, scale_tril_q).tril(-1)
    log_scales = scale_tril_q.diagonal(dim1=-2, dim2=-1).log() - scale_tril_p.diagonal(dim1=-2, dim2=-1).log()
    return (0.5 * shift.square() + 0.5 * off_diagonal.square().sum(-1) + _kl_of_scales(log_scales)).sum(-1)


def squared_wasserstein(
    mean_q: Float[Tensor, "*#batch d"],
    covariance_q: Float[Tensor, "*#batch d d"],
    mean_p: Float[Tensor, "*#batch d"],
    covariance_p: Float[Tensor, "*#batch d d"],
) -> Float[Tensor, "*batch"]:
    """W₂²(N(mean_q, S_q), N(mean_p, S_p)), also called the Fréchet distance; in squared units of the variable, not in nats.

    It is |mean_q − mean_p|² + tr(S_q + S_p − 2 (S_q^½ S_p S_q^½)^½) (Dowson and Landau, 1982; Givens and Shortt, 1984).
    Covariances may be singular: the trace of the outer root is taken as the sum of the singular values of S_p^½ S_q^½, for
    the root of an eigenvalue that is 0 up to rounding would be far from 0. In double precision, since the traces nearly cancel.

    Raises ValueError for shapes that do not fit, a covariance that is not symmetric or has a negative eigenvalue, or NaN.
    """
    _require_covariance("mean_q", mean_q, "covariance_q", covariance_q)
    _require_covariance("mean_p", mean_p, "covariance_p", covariance_p)
    require_broadcastable(
        mean_q=mean_q, covariance_q=covariance_q[..., 0], mean_p=mean_p, covariance_p=covariance_p[..., 0]
    )
    scales_q, root_q = _symmetric_root("covariance_q", covariance_q)
    scales_p, root_p = _symmetric_root("covariance_p", covariance_p)
    common = torch.linalg.svdvals(root_p @ root_q).sum(-1)
    of_shapes = scales_q.square().sum(-1) + scales_p.square().sum(-1) - 2 * common
    return (mean_q.double() - mean_p.double()).square().sum(-1) + of_shapes.clamp(min=0)


def _symmetric_root(name: str, covariance: Tensor) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]]:
    """Its eigenvalues' roots, and the symmetric matrix whose square it is, in double precision."""
    values, vectors = torch.linalg.eigh(covariance.double())
    seen = values_of(values)
    if seen is not None and (seen < -rounding_of(covariance) * seen[..., -1:].abs()).any():
        raise ValueError(f"{name}: expected no negative eigenvalue, got {seen.min().item()}")
    scales = values.clamp(min=0).sqrt()
    return scales, vectors * scales[..., None, :] @ vectors.mT


def _kl_of_scales(log_ratio: Tensor) -> Tensor:
    """½ (r² − 1 − log r²) for r = exp(log_ratio): what differing scales cost, per dimension.

    Written with expm1 it stays ≥ 0 in floating point, is 0 only at r = 1, and keeps its digits close to it.
    """
    # Where r is infinite so is the cost, and not ∞ − ∞.
    return 0.5 * torch.expm1(2 * log_ratio) - log_ratio.clamp(max=torch.finfo(log_ratio.dtype).max)


def _solve_tril(tril: Tensor, right: Tensor) -> Tensor:
    """Solve tril · X = right. LAPACK has no half precision: half goes through single precision and back."""
    dtype = torch.promote_types(tril.dtype, right.dtype)
    working = torch.promote_types(dtype, torch.float32)
    return torch.linalg.solve_triangular(tril.to(working), right.to(working), upper=False).to(dtype)


def _standard_normal_like(mean: Tensor, shape: torch.Size) -> Tensor:
    return torch.randn(shape, dtype=mean.dtype, device=mean.device)


def _checked_noise(noise: Tensor, shape: torch.Size) -> Tensor:
    _require_point("noise", noise)
    if noise.shape[noise.ndim - len(shape) :] != shape or noise.ndim < len(shape):
        raise ValueError(f"noise: expected shape (*samples, {', '.join(map(str, shape))}), got {tuple(noise.shape)}")
    return noise


def _require_point(name: str, point: Tensor) -> None:
    require_floating(name, point)
    require_no_nan(name, point)


def _require_diagonal(mean_name: str, mean: Tensor, std_name: str, std: Tensor) -> None:
    _require_point(mean_name, mean)
    require_floating(std_name, std)
    require_positive(std_name, std)


def _require_full(mean_name: str, mean: Tensor, tril_name: str, tril: Tensor) -> None:
    _require_point(mean_name, mean)
    require_scale_tril(tril_name, tril)
    if tril.shape[-1] != mean.shape[-1]:
        raise ValueError(
            f"{mean_name}, {tril_name}: expected (..., d) and (..., d, d), got {tuple(mean.shape)} and {tuple(tril.shape)}"
        )


def _require_covariance(mean_name: str, mean: Tensor, covariance_name: str, covariance: Tensor) -> None:
    _require_point(mean_name, mean)
    require_covariance(covariance_name, covariance)
    if covariance.shape[-1] != mean.shape[-1]:
        raise ValueError(
            f"{mean_name}, {covariance_name}: expected (..., d) and (..., d, d), "
            f"got {tuple(mean.shape)} and {tuple(covariance.shape)}"
        )
