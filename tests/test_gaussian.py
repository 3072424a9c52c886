"""Gaussians against torch.distributions, SciPy and NumPy: values, gradients, properties, extremes, shapes, bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, linalg, stats
from torch.autograd import gradcheck
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from avb_core.gaussian import (
    kl_diagonal,
    kl_full,
    kl_standard_normal,
    log_prob_diagonal,
    log_prob_full,
    log_prob_standard_normal,
    reparameterize,
    reparameterize_full,
    squared_wasserstein,
)

REPEATABLE = settings(derandomize=True, database=None, deadline=None, max_examples=100)
BATCHES = [(), (1,), (5,), (2, 1, 3)]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def diagonal(*shape, seed=0, dtype=torch.float64):
    generator = rng(seed)
    mean = torch.randn(*shape, dtype=torch.float64, generator=generator)
    std = torch.randn(*shape, dtype=torch.float64, generator=generator).exp()
    return mean.to(dtype), std.to(dtype)


def full(*shape, seed=0, dtype=torch.float64):
    """mean (*shape) and a lower-triangular scale (*shape, d) with a diagonal around 1."""
    generator = rng(seed)
    mean = torch.randn(*shape, dtype=torch.float64, generator=generator)
    lower = torch.randn(*shape, shape[-1], dtype=torch.float64, generator=generator).tril(-1)
    scales = torch.randn(*shape, dtype=torch.float64, generator=generator).mul(0.5).exp()
    return mean.to(dtype), (lower + torch.diag_embed(scales)).to(dtype)


def standard_full(d, dtype=torch.float64):
    return torch.zeros(d, dtype=dtype), torch.eye(d, dtype=dtype)


# --- reparameterization -----------------------------------------------------------------------------------------------


def test_reparameterize_is_affine_in_the_noise():
    mean, std = diagonal(5, 3)
    noise = torch.randn(7, 5, 3, dtype=torch.float64, generator=rng(1))
    np.testing.assert_allclose(reparameterize(mean, std, noise), mean.numpy() + std.numpy() * noise.numpy(), rtol=1e-15)
    mean, scale_tril = full(5, 3)
    expected = mean.numpy() + np.einsum("bij,kbj->kbi", scale_tril.numpy(), noise.numpy())
    np.testing.assert_allclose(reparameterize_full(mean, scale_tril, noise), expected, rtol=1e-12)


def test_reparameterize_draws_from_the_gaussian_itself():
    """The law and not only the moments (equal moments would not make it Gaussian): Kolmogorov–Smirnov on projections."""
    torch.manual_seed(0)
    mean, scale_tril = full(3, seed=3)
    z = reparameterize_full(mean.expand(20_000, 3), scale_tril)
    standard_error = scale_tril.square().sum(1).sqrt() / math.sqrt(len(z))
    assert ((z.mean(0) - mean).abs() < 5 * standard_error).all()
    covariance = scale_tril @ scale_tril.T
    variances = covariance.diagonal()
    noise_of_covariance = ((variances[:, None] * variances + covariance.square()) / len(z)).sqrt()
    assert ((torch.cov(z.T) - covariance).abs() < 5 * noise_of_covariance).all()
    direction = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)
    projected = (z - mean) @ direction / (direction @ covariance @ direction).sqrt()
    assert stats.kstest(projected.numpy(), "norm").pvalue > 1e-4
    mean, std = diagonal(1, seed=5)
    z = reparameterize(mean.expand(20_000, 1), std)[:, 0]
    assert stats.kstest(z.numpy(), "norm", (mean.item(), std.item())).pvalue > 1e-4


def test_reparameterize_pulls_the_gradient_inside_the_expectation():
    """d/dσ E f(μ + σε) = E[f'(z) ε], by Gauss–Hermite quadrature for f(z) = z³: 6 μ σ."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    noise, weights = torch.from_numpy(nodes)[:, None], torch.from_numpy(weights / math.sqrt(2 * math.pi))
    mean = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
    (weights @ reparameterize(mean, std, noise)[:, 0] ** 3).backward()
    assert mean.grad.item() == pytest.approx(3 * (0.7**2 + 1.3**2), rel=1e-12)
    assert std.grad.item() == pytest.approx(6 * 0.7 * 1.3, rel=1e-12)


def test_reparameterize_keeps_the_caller_in_charge_of_the_noise():
    mean, std = diagonal(4, 2)
    torch.manual_seed(1)
    first = reparameterize(mean, std)
    torch.manual_seed(1)
    assert torch.equal(first, reparameterize(mean, std, torch.randn(4, 2, dtype=torch.float64)))
    assert torch.equal(reparameterize(mean, std, torch.zeros(4, 2, dtype=torch.float64)), mean)


# --- log-densities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("d", [1, 2, 5])
def test_log_prob_diagonal(batch, d):
    mean, std = diagonal(*batch, d)
    z = torch.randn(*batch, d, dtype=torch.float64, generator=rng(1))
    ours = log_prob_diagonal(z, mean, std)
    assert ours.shape == batch
    torch.testing.assert_close(ours, Independent(Normal(mean, std), 1).log_prob(z), rtol=1e-12, atol=0)
    np.testing.assert_allclose(ours, stats.norm.logpdf(z, mean, std).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(log_prob_standard_normal(z), stats.norm.logpdf(z).sum(-1), rtol=1e-12)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("d", [1, 2, 5])
def test_log_prob_full(batch, d):
    mean, scale_tril = full(*batch, d)
    z = torch.randn(*batch, d, dtype=torch.float64, generator=rng(1))
    ours = log_prob_full(z, mean, scale_tril)
    assert ours.shape == batch
    torch.testing.assert_close(ours, MultivariateNormal(mean, scale_tril=scale_tril).log_prob(z), rtol=1e-10, atol=0)
    for index in np.ndindex(batch):
        covariance = scale_tril[index].numpy() @ scale_tril[index].numpy().T
        expected = stats.multivariate_normal(mean[index].numpy(), covariance).logpdf(z[index].numpy())
        assert ours[index].item() == pytest.approx(expected, rel=1e-9)


def plane_integral(function, radius=12.0, points=961):
    """∫ function(z) dz over the plane by SciPy's trapezoidal rule, exponentially accurate for smooth functions that vanish."""
    axis = np.linspace(-radius, radius, points)
    values = function(torch.from_numpy(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)))
    return integrate.trapezoid(integrate.trapezoid(values.numpy(), axis), axis)


def test_densities_integrate_to_one():
    mean, std = torch.tensor([0.3, -0.8], dtype=torch.float64), torch.tensor([0.6, 1.4], dtype=torch.float64)
    scale_tril = torch.tensor([[0.6, 0.0], [-0.9, 1.1]], dtype=torch.float64)
    for log_prob in (
        lambda z: log_prob_diagonal(z, mean, std),
        lambda z: log_prob_full(z, mean, scale_tril),
        log_prob_standard_normal,
    ):
        assert plane_integral(lambda z, log_prob=log_prob: log_prob(z).exp()) == pytest.approx(1, abs=1e-9)


def test_the_printed_normalizer_with_a_single_sigma_is_no_density():
    """Fickinger's eqs. 11–12 divide by (2π)^½ σ once for n pixels: right for n = 1, off by (n − 1) (log σ + ½ log 2π) after."""

    def printed(z, mean, std):
        return -0.5 * ((z - mean) / std).square().sum(-1) - math.log(std) - 0.5 * math.log(2 * math.pi)

    for n in (1, 2, 784):
        mean, z = torch.zeros(n, dtype=torch.float64), torch.full((n,), 0.1, dtype=torch.float64)
        ours = log_prob_diagonal(z, mean, torch.full((n,), 0.3, dtype=torch.float64))
        excess = (n - 1) * (math.log(0.3) + 0.5 * math.log(2 * math.pi))
        assert (printed(z, mean, 0.3) - ours).item() == pytest.approx(excess, rel=1e-9, abs=1e-12)
    mass = plane_integral(lambda z: printed(z, 0.0, 0.3).exp())
    assert mass == pytest.approx(math.sqrt(2 * math.pi) * 0.3, rel=1e-9)
    assert abs(mass - 1) > 0.2


def test_a_mean_over_dimensions_is_not_the_kl():
    mean, std = diagonal(6, seed=2)
    averaged = 0.5 * (mean.square() + std.square() - 1 - 2 * std.log()).mean()
    truth = kl_divergence(Independent(Normal(mean, std), 1), Independent(Normal(torch.zeros(6), torch.ones(6)), 1))
    assert kl_standard_normal(mean, std).item() == pytest.approx(truth.item(), rel=1e-12)
    assert averaged.item() == pytest.approx(truth.item() / 6, rel=1e-12)


# --- closed-form KLs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("d", [1, 2, 5])
def test_kls_of_diagonal_gaussians(batch, d):
    (mean_q, std_q), (mean_p, std_p) = diagonal(*batch, d), diagonal(*batch, d, seed=1)
    q, p = Independent(Normal(mean_q, std_q), 1), Independent(Normal(mean_p, std_p), 1)
    ours = kl_diagonal(mean_q, std_q, mean_p, std_p)
    assert ours.shape == batch
    torch.testing.assert_close(ours, kl_divergence(q, p), rtol=1e-10, atol=0)
    m, s, n, t = (tensor.numpy() for tensor in (mean_q, std_q, mean_p, std_p))
    np.testing.assert_allclose(ours, (0.5 * ((s**2 + (m - n) ** 2) / t**2 - 1) + np.log(t / s)).sum(-1), rtol=1e-10)
    np.testing.assert_allclose(
        kl_standard_normal(mean_q, std_q), 0.5 * (m**2 + s**2 - 1 - np.log(s**2)).sum(-1), rtol=1e-10
    )


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("d", [1, 2, 5])
def test_kl_full(batch, d):
    (mean_q, tril_q), (mean_p, tril_p) = full(*batch, d), full(*batch, d, seed=1)
    ours = kl_full(mean_q, tril_q, mean_p, tril_p)
    assert ours.shape == batch
    truth = kl_divergence(MultivariateNormal(mean_q, scale_tril=tril_q), MultivariateNormal(mean_p, scale_tril=tril_p))
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=0)
    for index in np.ndindex(batch):
        cov_q, cov_p = (tril[index].numpy() @ tril[index].numpy().T for tril in (tril_q, tril_p))
        shift = (mean_p - mean_q)[index].numpy()
        precision = np.linalg.inv(cov_p)
        log_determinants = np.linalg.slogdet(cov_p)[1] - np.linalg.slogdet(cov_q)[1]
        expected = 0.5 * (np.trace(precision @ cov_q) - d + shift @ precision @ shift + log_determinants)
        assert ours[index].item() == pytest.approx(expected, rel=1e-8)


def test_kls_by_quadrature():
    """∫ q log(q/p), with densities that SciPy writes."""
    q, p = stats.norm(0.4, 0.7), stats.norm(-1.0, 1.6)
    expected, _ = integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), -8, 8)
    arguments = [torch.tensor([value], dtype=torch.float64) for value in (0.4, 0.7, -1.0, 1.6)]
    assert kl_diagonal(*arguments).item() == pytest.approx(expected, rel=1e-9)
    tril_q, tril_p = np.array([[0.5, 0.0], [0.4, 0.8]]), np.array([[1.2, 0.0], [-0.6, 0.9]])
    mean_q, mean_p = np.array([0.2, -0.3]), np.array([0.5, 0.1])
    axis = np.linspace(-7, 7, 701)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)
    log_q = stats.multivariate_normal(mean_q, tril_q @ tril_q.T).logpdf(grid)
    log_p = stats.multivariate_normal(mean_p, tril_p @ tril_p.T).logpdf(grid)
    expected = integrate.trapezoid(integrate.trapezoid(np.exp(log_q) * (log_q - log_p), axis), axis)
    ours = kl_full(*(torch.from_numpy(array) for array in (mean_q, tril_q, mean_p, tril_p)))
    assert ours.item() == pytest.approx(expected, rel=1e-9)


def test_kls_agree_with_each_other():
    (mean_q, std_q), (mean_p, std_p) = diagonal(4, 3), diagonal(4, 3, seed=1)
    zeros, ones = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(kl_standard_normal(mean_q, std_q), kl_diagonal(mean_q, std_q, zeros, ones))
    torch.testing.assert_close(
        kl_diagonal(mean_q, std_q, mean_p, std_p),
        kl_full(mean_q, torch.diag_embed(std_q), mean_p, torch.diag_embed(std_p)),
    )


numbers = st.floats(-50, 50)
scales = st.floats(-15, 15).map(math.exp)
dtypes = st.sampled_from([torch.float32, torch.float64])


@REPEATABLE
@given(st.lists(st.tuples(numbers, scales, numbers, scales), min_size=1, max_size=4), dtypes)
def test_kl_is_never_negative(rows, dtype):
    mean_q, std_q, mean_p, std_p = torch.tensor(rows, dtype=torch.float64).to(dtype).T
    assert kl_diagonal(mean_q, std_q, mean_p, std_p).item() >= 0
    assert kl_standard_normal(mean_q, std_q).item() >= 0
    assert kl_full(mean_q, torch.diag_embed(std_q), mean_p, torch.diag_embed(std_p)).item() >= 0


@REPEATABLE
@given(st.lists(st.tuples(numbers, scales), min_size=1, max_size=4), dtypes)
def test_kl_is_zero_for_equals(rows, dtype):
    mean, std = torch.tensor(rows, dtype=torch.float64).to(dtype).T
    assert kl_diagonal(mean, std, mean, std).item() == 0
    # A triangular solve rounds; its error enters squared.
    lower = std[:, None] * torch.ones(len(rows), len(rows), dtype=dtype).tril()
    assert kl_full(mean, lower, mean, lower).item() <= (8 * torch.finfo(dtype).eps) ** 2
    assert kl_standard_normal(torch.zeros_like(mean), torch.ones_like(std)).item() == 0


@REPEATABLE
@given(numbers, st.floats(-5, 5), st.one_of(st.floats(1e-4, 5), st.floats(-5, -1e-4)), st.booleans())
def test_kl_is_positive_for_others(mean, log_std, change, of_mean):
    mean, log_std = torch.tensor([mean], dtype=torch.float64), torch.tensor([log_std], dtype=torch.float64)
    other_mean, other_log_std = (mean + change, log_std) if of_mean else (mean, log_std + change)
    kl = kl_diagonal(mean, log_std.exp(), other_mean, other_log_std.exp()).item()
    shift, log_ratio = (mean - other_mean).item(), (log_std - other_log_std).item()
    expected = 0.5 * (shift / other_log_std.exp().item()) ** 2 + (math.expm1(2 * log_ratio) - 2 * log_ratio) / 2
    assert kl > 0
    assert kl == pytest.approx(expected, rel=1e-6)


def test_kl_keeps_its_digits_close_to_zero():
    """σ = 1 + h costs h² to first order; ½ (σ² − 1 − log σ²), taken literally in single precision, is noise there."""
    h = 1e-3
    kl = kl_standard_normal(torch.zeros(1), torch.tensor([1 + h]))
    assert kl.item() == pytest.approx(0.5 * (math.expm1(2 * math.log1p(h))) - math.log1p(h), rel=2e-3)


# --- gradients --------------------------------------------------------------------------------------------------------


def tracked(*tensors):
    return tuple(tensor.clone().requires_grad_() for tensor in tensors)


def test_gradients():
    (mean, std), (mean_p, std_p) = diagonal(2, 3), diagonal(3, seed=1)
    z = torch.randn(2, 3, dtype=torch.float64, generator=rng(1))
    assert gradcheck(reparameterize, tracked(mean, std, z))
    assert gradcheck(log_prob_standard_normal, tracked(z))
    assert gradcheck(log_prob_diagonal, tracked(z, mean, std))
    assert gradcheck(kl_standard_normal, tracked(mean, std))
    assert gradcheck(kl_diagonal, tracked(mean, std, mean_p, std_p))


def test_gradients_of_full_covariances():
    # gradcheck moves every entry, those above the diagonal too, where a scale_tril has none to move: tril() is the parameter.
    (mean, tril), (mean_p, tril_p) = full(2, 3), full(3, seed=1)
    z = torch.randn(2, 3, dtype=torch.float64, generator=rng(1))
    assert gradcheck(lambda mean, full, noise: reparameterize_full(mean, full.tril(), noise), tracked(mean, tril, z))
    assert gradcheck(lambda z, mean, full: log_prob_full(z, mean, full.tril()), tracked(z, mean, tril))
    assert gradcheck(
        lambda mean_q, full_q, mean_p, full_p: kl_full(mean_q, full_q.tril(), mean_p, full_p.tril()),
        tracked(mean, tril, mean_p, tril_p),
    )


# --- extremes and precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("std", [1e-20, 1e20])
def test_extreme_widths(dtype, std):
    """Values from logarithms in NumPy's double precision; where the true value overflows single precision, infinity."""
    width = torch.tensor([std, std], dtype=dtype)
    zero, one = torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype)
    exact = width.double().numpy()
    kl = (0.5 * (exact**2 - 1) - np.log(exact)).sum()
    expected = np.inf if kl > torch.finfo(dtype).max else pytest.approx(kl, rel=1e-5)
    assert kl_standard_normal(zero, width).item() == expected
    assert kl_diagonal(zero, width, zero, one).item() == expected
    assert kl_full(zero, torch.diag(width), zero, torch.diag(one)).item() == expected
    assert kl_diagonal(width, width, zero, width).item() == pytest.approx(1, rel=1e-6)
    assert kl_full(width, torch.diag(width), zero, torch.diag(width)).item() == pytest.approx(1, rel=1e-6)
    z = 2 * width
    expected = stats.norm.logpdf(2) * 2 - 2 * np.log(exact[0])
    assert log_prob_diagonal(z, zero, width).item() == pytest.approx(expected, rel=1e-6)
    assert log_prob_full(z, zero, torch.diag(width)).item() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(reparameterize(zero, width, one), width)
    assert torch.equal(reparameterize_full(zero, torch.diag(width), one), width)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_an_infinite_width_costs_an_infinite_kl(dtype):
    """The limit of large ones, on either side, where ½ std² − log std would be ∞ − ∞."""
    zero, one, wide = torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype), torch.tensor([1, math.inf], dtype=dtype)
    assert kl_standard_normal(zero, wide).item() == math.inf
    assert kl_diagonal(zero, wide, zero, one).item() == math.inf
    assert kl_diagonal(zero, one, zero, wide).item() == math.inf


@pytest.mark.parametrize("std", [1e-20, 1e20])
def test_gradients_at_extreme_widths(std):
    width = torch.tensor([std], dtype=torch.float64, requires_grad=True)
    kl_standard_normal(torch.zeros(1, dtype=torch.float64), width).backward()
    assert width.grad.item() == pytest.approx(std - 1 / std, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_within_its_range(dtype):
    """Each formula in half precision against itself in double, to the few digits that half precision has."""
    digits = 8 * torch.finfo(dtype).eps
    mean, std = diagonal(8, 2, dtype=dtype)
    std = std.clamp(0.2, 4)
    _, tril = full(8, 2, dtype=dtype)
    z = torch.randn(8, 2, generator=rng(1)).to(dtype)
    for function, arguments in functions_of(mean, std, tril, z, torch.ones_like(std), torch.eye(2, dtype=dtype)):
        ours = function(*arguments)
        truth = function(*(argument.double() for argument in arguments))
        assert ours.dtype == dtype
        # A sum may cancel: its error is that of its largest term.
        assert ((ours.double() - truth).abs() <= digits * (truth.abs() + 4)).all(), function.__name__


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_every_function_broadcasts():
    mean, std = diagonal(4, 1, 3)
    z = torch.randn(7, 4, 6, 3, dtype=torch.float64, generator=rng(1))
    assert log_prob_diagonal(z, mean, std).shape == (7, 4, 6)
    torch.testing.assert_close(
        log_prob_diagonal(z, mean, std)[3, 2, 5], log_prob_diagonal(z[3, 2, 5], mean[2, 0], std[2, 0])
    )
    assert log_prob_diagonal(z, mean, std[..., :1]).shape == (7, 4, 6)
    assert kl_standard_normal(mean, std[0, 0, :1]).shape == (4, 1)
    torch.testing.assert_close(
        kl_standard_normal(mean, std[0, 0, :1]), kl_standard_normal(mean, std[0, 0, :1].expand(4, 1, 3))
    )
    assert kl_diagonal(mean, std, *diagonal(6, 3)).shape == (4, 6)
    assert reparameterize(mean, std[:, :, :1]).shape == (4, 1, 3)
    assert reparameterize(mean, std, torch.zeros(2, 7, 4, 1, 3)).shape == (2, 7, 4, 1, 3)
    mean, tril = full(4, 1, 3)
    one_mean, one_tril = full(3, seed=1)
    assert log_prob_full(z, mean, tril).shape == (7, 4, 6)
    torch.testing.assert_close(
        log_prob_full(z, mean, one_tril)[3, 2, 5], log_prob_full(z[3, 2, 5], mean[2, 0], one_tril)
    )
    assert kl_full(mean, one_tril, *full(6, 3)).shape == (4, 6)
    torch.testing.assert_close(
        kl_full(mean, tril, one_mean, one_tril)[2, 0], kl_full(mean[2, 0], tril[2, 0], one_mean, one_tril)
    )
    assert reparameterize_full(mean, one_tril).shape == reparameterize_full(one_mean, tril).shape == (4, 1, 3)
    assert log_prob_standard_normal(z).shape == (7, 4, 6)


def test_empty_batches():
    mean, std = diagonal(0, 3)
    assert kl_standard_normal(mean, std).shape == (0,)
    assert reparameterize(mean, std).shape == (0, 3)


def functions_of(mean, std, tril, z, other_std, other_tril):
    """Each function of means and scales, with its arguments; the other law is around z."""
    return [
        (reparameterize, (mean, std, z)),
        (reparameterize_full, (mean, tril, z)),
        (log_prob_standard_normal, (z,)),
        (log_prob_diagonal, (z, mean, std)),
        (log_prob_full, (z, mean, tril)),
        (kl_standard_normal, (mean, std)),
        (kl_diagonal, (mean, std, z, other_std)),
        (kl_full, (mean, tril, z, other_tril)),
    ]


def every_function():
    """Each with arguments of three entries on the leading axis."""
    (mean, std), (z, _), (_, tril) = diagonal(3, 2), diagonal(3, 2, seed=1), full(3, 2)
    return [
        *functions_of(mean, std, tril, z, std.flip(0), tril.flip(0)),
        (squared_wasserstein, (mean, tril @ tril.mT, z, tril.flip(0) @ tril.flip(0).mT)),
    ]


@pytest.mark.parametrize("function, arguments", every_function(), ids=lambda each: getattr(each, "__name__", ""))
def test_under_the_transforms_of_torch(function, arguments):
    """Entry by entry under vmap, there and in a compiled graph that nothing breaks, all is as it is; what is NaN is told."""
    truth = function(*arguments)
    torch.testing.assert_close(torch.vmap(function)(*arguments), truth)
    of_each = torch.vmap(torch.func.grad(lambda *each: function(*each).sum()))(*arguments)
    together = torch.func.grad(lambda *each: function(*each).sum())(*arguments)
    torch.testing.assert_close(of_each, together)
    with pytest.raises(ValueError, match="expected numbers, got 1 NaN"):
        torch.vmap(function)(spoiled(arguments[0], math.nan), *arguments[1:])
    torch.compiler.reset()
    compiled = torch.compile(function, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), truth)


# --- the Wasserstein distance -----------------------------------------------------------------------------------------


def covariance_of_rank(rank, d, seed):
    factor = torch.randn(d, rank, dtype=torch.float64, generator=rng(seed))
    return factor @ factor.T


def rotation(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=rng(seed)))[0]


@pytest.mark.parametrize("d", [1, 2, 7, 40])
def test_the_wasserstein_distance_by_scipy_s_matrix_root(d):
    (m, lower), (n, other) = full(d, seed=1), full(d, seed=2)
    s, t = lower @ lower.T, other @ other.T
    root = linalg.sqrtm(s.numpy())
    expected = (m - n).square().sum() + np.trace(s + t) - 2 * np.trace(linalg.sqrtm(root @ t.numpy() @ root)).real
    assert float(squared_wasserstein(m, s, n, t)) == pytest.approx(float(expected), rel=1e-9)
    # The root of the plain product has the same trace.
    of_product = np.trace(s + t) - 2 * np.trace(linalg.sqrtm((s @ t).numpy())).real
    assert float(squared_wasserstein(m, s, m, t)) == pytest.approx(of_product, rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("q, p", [((0.0, 1.0), (0.0, 3.0)), ((1.0, 0.5), (-2.0, 0.5)), ((0.3, 1e-3), (0.0, 2.0))])
def test_the_wasserstein_distance_on_a_line_by_quantiles(q, p):
    """On a line W₂² is the integral of the squared difference of the quantiles; here over the levels of a standard normal."""
    difference = (stats.norm(*each).ppf for each in (q, p))
    of_q, of_p = difference
    expected, _ = integrate.quad(
        lambda z: (of_q(stats.norm.cdf(z)) - of_p(stats.norm.cdf(z))) ** 2 * stats.norm.pdf(z), -7, 7
    )
    (m, s), (n, t) = (torch.tensor(each, dtype=torch.float64) for each in (q, p))
    found = squared_wasserstein(m[None], (s**2)[None, None], n[None], (t**2)[None, None])
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_the_wasserstein_distance_of_diagonal_covariances():
    (m, s), (n, t) = diagonal(5, 6), diagonal(5, 6, seed=1)
    found = squared_wasserstein(m, torch.diag_embed(s**2), n, torch.diag_embed(t**2))
    torch.testing.assert_close(found, ((m - n) ** 2 + (s - t) ** 2).sum(-1), rtol=1e-12, atol=0)


def test_a_single_point_is_as_far_as_the_trace_says():
    """From a law without width: the mean squared distance to its one point, for every covariance."""
    (m, lower), n = full(4), torch.zeros(4, dtype=torch.float64)
    s = lower @ lower.T
    found = squared_wasserstein(m, s, n, torch.zeros(4, 4, dtype=torch.float64))
    assert float(found) == pytest.approx(float(m.square().sum() + s.trace()), rel=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 3, 8])
def test_the_wasserstein_distance_is_a_distance(rank):
    """Symmetric, indifferent to rotation, 0 for equals, the triangle inequality; singular covariances included."""
    means = torch.randn(3, 8, dtype=torch.float64, generator=rng(4))
    covariances = torch.stack([covariance_of_rank(rank, 8, seed) for seed in range(2)] + [covariance_of_rank(8, 8, 9)])
    ab, bc, ca = (
        float(squared_wasserstein(means[i], covariances[i], means[j], covariances[j]))
        for i, j in ((0, 1), (1, 2), (2, 0))
    )
    assert ab**0.5 <= bc**0.5 + ca**0.5 and bc > 0
    back = squared_wasserstein(means[2], covariances[2], means[1], covariances[1])
    assert float(back) == pytest.approx(bc, rel=1e-6)
    turn = rotation(8)
    turned = squared_wasserstein(
        means[1] @ turn.T, turn @ covariances[1] @ turn.T, means[2] @ turn.T, turn @ covariances[2] @ turn.T
    )
    assert float(turned) == pytest.approx(bc, rel=1e-6)
    scale = max(1.0, float(covariances[0].trace()))
    for i in (0, 2):
        assert 0 <= squared_wasserstein(means[i], covariances[i], means[i], covariances[i]) < 1e-13 * 8 * scale


def test_a_singular_covariance_is_the_limit_of_full_ones():
    (m, n), s, t = torch.zeros(2, 6, dtype=torch.float64), covariance_of_rank(2, 6, 0), covariance_of_rank(3, 6, 1)
    exact = float(squared_wasserstein(m, s, n, t))
    # The roots move by up to the root of what is added.
    for width in (1e-2, 1e-4, 1e-6):
        near = squared_wasserstein(m, s + width**2 * torch.eye(6), n, t + width**2 * torch.eye(6))
        assert float(near) == pytest.approx(exact, abs=20 * width)
    # Planes at a right angle have nothing in common: the traces remain.
    plane = torch.diag(torch.tensor([1.0, 2.0, 0.0, 0.0], dtype=torch.float64))
    other = torch.diag(torch.tensor([0.0, 0.0, 3.0, 4.0], dtype=torch.float64))
    assert float(squared_wasserstein(m[:4], plane, n[:4], other)) == pytest.approx(10, rel=1e-12)


def test_the_wasserstein_distance_of_single_precision_is_of_double():
    """A squared distance of 2.5e-5 of the trace has most of its digits, of which single precision would leave two."""
    s = covariance_of_rank(5, 5, 0).float()
    found = squared_wasserstein(torch.zeros(5), s, torch.zeros(5), s * 1.01)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(float(s.trace()) * (math.sqrt(1.01) - 1) ** 2, rel=1e-4)


def test_the_wasserstein_distance_keeps_the_batch():
    mean, lower = full(4, 1, 3)
    other, one = full(6, 3, seed=1)
    s, t = lower @ lower.mT, one @ one.mT
    found = squared_wasserstein(mean, s, other, t)
    assert found.shape == (4, 6)
    torch.testing.assert_close(found[2, 5], squared_wasserstein(mean[2, 0], s[2, 0], other[5], t[5]))
    expanded = mean.expand(4, 6, 3), s[0, 0].expand(4, 6, 3, 3), other[0].expand(4, 6, 3), t.expand(4, 6, 3, 3)
    torch.testing.assert_close(squared_wasserstein(mean, s[0, 0], other[0], t), squared_wasserstein(*expanded))
    assert squared_wasserstein(mean[:0], s[:0], other[:1], t[:1]).shape == (0, 1)


# --- bad input --------------------------------------------------------------------------------------------------------

MEAN, STD, Z = torch.zeros(4, 3), torch.ones(4, 3), torch.zeros(4, 3)
TRIL = torch.eye(3).expand(4, 3, 3)
DIAGONAL_PAIR = {"mean_q": MEAN, "std_q": STD, "mean_p": MEAN, "std_p": STD}
COVARIANCE_PAIR = {"mean_q": MEAN, "covariance_q": TRIL, "mean_p": MEAN, "covariance_p": TRIL}
FULL_PAIR = {"mean_q": MEAN, "scale_tril_q": TRIL, "mean_p": MEAN, "scale_tril_p": TRIL}
GOOD_ARGUMENTS = [
    (reparameterize, {"mean": MEAN, "std": STD, "noise": Z}),
    (reparameterize_full, {"mean": MEAN, "scale_tril": TRIL, "noise": Z}),
    (log_prob_standard_normal, {"z": Z}),
    (log_prob_diagonal, {"z": Z, "mean": MEAN, "std": STD}),
    (log_prob_full, {"z": Z, "mean": MEAN, "scale_tril": TRIL}),
    (kl_standard_normal, {"mean": MEAN, "std": STD}),
    (kl_diagonal, DIAGONAL_PAIR),
    (kl_full, FULL_PAIR),
    (squared_wasserstein, COVARIANCE_PAIR),
]
EVERY_ARGUMENT = [
    pytest.param(function, arguments, name, id=f"{function.__name__}-{name}")
    for function, arguments in GOOD_ARGUMENTS
    for name in arguments
]


def spoiled(tensor, value):
    tensor = tensor.clone()
    tensor[(-1,) * tensor.ndim] = value
    return tensor


def raises_naming(function, arguments, name, bad):
    with pytest.raises(ValueError, match=rf"(^|, ){name}\b.*: "):
        function(**{**arguments, name: bad})


@pytest.mark.parametrize("function, arguments, name", EVERY_ARGUMENT)
def test_bad_input_is_named(function, arguments, name):
    function(**arguments)
    good = arguments[name]
    raises_naming(function, arguments, name, good.tolist())
    raises_naming(function, arguments, name, good.long())
    raises_naming(function, arguments, name, good.to(torch.complex64))
    raises_naming(function, arguments, name, torch.tensor(1.0))
    raises_naming(function, arguments, name, spoiled(good, math.nan))
    if len(arguments) > 1:
        raises_naming(function, arguments, name, torch.ones(4, 2) if good.ndim == 2 else torch.eye(2).expand(4, 2, 2))
        raises_naming(function, arguments, name, torch.ones(5, 3) if good.ndim == 2 else torch.eye(3).expand(5, 3, 3))
    if name.startswith(("std", "scale_tril")):
        for bad in (0.0, -1.0, -math.inf):
            raises_naming(function, arguments, name, spoiled(good, bad))
    if name.startswith("scale_tril"):
        raises_naming(function, arguments, name, spoiled(torch.eye(3).expand(4, 3, 3).flip(-1), 1.0).flip(-1).mT)
        raises_naming(function, arguments, name, torch.ones(4, 3, 3))
        raises_naming(function, arguments, name, torch.ones(4, 3, 2).tril())
    if name.startswith("covariance"):
        raises_naming(function, arguments, name, spoiled(good, math.inf))
        raises_naming(function, arguments, name, spoiled(good, -0.01))
        raises_naming(function, arguments, name, torch.ones(4, 3, 3).tril())
        raises_naming(function, arguments, name, torch.ones(4, 3, 3) - 0.1 * torch.eye(3))
        raises_naming(function, arguments, name, torch.ones(4, 3, 2))


def test_no_noise_is_drawn_too_small():
    with pytest.raises(ValueError, match=r"noise: expected shape \(\*samples, 4, 3\), got \(3,\)"):
        reparameterize(MEAN, STD, torch.zeros(3))
    with pytest.raises(ValueError, match="noise"):
        reparameterize(MEAN, STD, torch.zeros(1, 3))


def test_no_coordinate_is_repeated_in_a_full_gaussian():
    mean, scale_tril = torch.zeros(5, 3), torch.eye(3).expand(5, 3, 3)
    with pytest.raises(ValueError, match=r"last axis: z \(7, 5, 1\)"):
        log_prob_full(torch.randn(7, 5, 1), mean, scale_tril)
    with pytest.raises(ValueError, match=r"last axis: .*mean_p \(1,\)"):
        kl_full(mean, scale_tril, torch.zeros(1), torch.eye(1))
