"""The exact testbeds against torch.distributions, SciPy and brute force: what every later check relies on."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import MultivariateNormal, Normal

from avb_core.testbeds import FOUR_POINTS, DiscreteModel, EightSchools, GaussianMixture, LinearGaussian, NoisyRadius


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random_linear_gaussian(n, d, std, seed=0):
    generator = rng(seed)
    weight = torch.randn(n, d, dtype=torch.float64, generator=generator)
    bias = torch.randn(n, dtype=torch.float64, generator=generator)
    return LinearGaussian(weight, bias, std)


# --- discrete ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nz, nx", [(1, 1), (1, 5), (2, 3), (7, 4)])
def test_discrete_tables_by_brute_force(nz, nx):
    model = DiscreteModel.random(nz, nx, rng(nz * 10 + nx))
    prior, likelihood = model.prior.tolist(), model.likelihood.tolist()
    q = DiscreteModel.random(nz, nx, rng(99)).posterior()
    for x in range(nx):
        marginal = math.fsum(prior[z] * likelihood[z][x] for z in range(nz))
        assert model.marginal()[x].item() == pytest.approx(marginal, rel=1e-14)
        elbo = 0.0
        for z in range(nz):
            assert model.joint()[z, x].item() == pytest.approx(prior[z] * likelihood[z][x], rel=1e-14)
            assert model.posterior()[z, x].item() == pytest.approx(prior[z] * likelihood[z][x] / marginal, rel=1e-13)
            elbo += q[z, x].item() * math.log(prior[z] * likelihood[z][x] / q[z, x].item())
        assert model.elbo(q)[x].item() == pytest.approx(elbo, rel=1e-12, abs=1e-12)


def test_discrete_sums_to_one():
    for seed, (nz, nx) in enumerate(itertools.product([1, 3, 20], [1, 4, 30])):
        model = DiscreteModel.random(nz, nx, rng(seed))
        assert torch.allclose(model.posterior().sum(0), torch.ones(nx, dtype=torch.float64), atol=1e-13)
        assert model.joint().sum().item() == pytest.approx(1, abs=1e-13)


def test_discrete_elbo_is_a_bound_and_tight_at_the_posterior():
    for seed in range(20):
        model = DiscreteModel.random(4, 5, rng(seed))
        other = DiscreteModel.random(4, 5, rng(seed + 1000)).posterior()
        log_px = model.marginal().log()
        assert (model.elbo(other) < log_px).all()
        assert torch.allclose(model.elbo(model.posterior()), log_px, atol=1e-13)


def test_discrete_elbo_with_zeros():
    half = torch.tensor([0.5, 0.5], dtype=torch.float64)
    model = DiscreteModel(half, torch.eye(2, dtype=torch.float64))
    assert model.elbo(torch.eye(2, dtype=torch.float64)).tolist() == pytest.approx([math.log(0.5)] * 2)
    assert model.elbo(torch.full((2, 2), 0.5, dtype=torch.float64)).tolist() == [-math.inf, -math.inf]


def test_discrete_random_is_reproducible_and_uniform():
    assert torch.equal(DiscreteModel.random(3, 2, rng(5)).likelihood, DiscreteModel.random(3, 2, rng(5)).likelihood)
    first = np.array([DiscreteModel.random(3, 2, rng(seed)).prior[0].item() for seed in range(400)])
    # a coordinate of Dirichlet(1, 1, 1) has law Beta(1, 2)
    assert stats.kstest(first, stats.beta(1, 2).cdf).pvalue > 1e-3


def test_discrete_samples_have_the_joint_law():
    model = DiscreteModel.random(3, 4, rng(1))
    n = 20_000
    x, z = model.sample(n, rng(2))
    counts = np.histogram2d(z.numpy(), x.numpy(), bins=[np.arange(4), np.arange(5)])[0]
    assert stats.chisquare(counts.ravel(), n * model.joint().numpy().ravel()).pvalue > 1e-3


def test_discrete_float32():
    model = DiscreteModel(torch.softmax(torch.randn(300), 0), torch.softmax(torch.randn(300, 500), 1))
    assert model.posterior().dtype == torch.float32


GOOD = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)


@pytest.mark.parametrize(
    "prior, likelihood, message",
    [
        ([0.5, 0.6], GOOD, "^prior: .*sum"),
        ([-0.5, 1.5], GOOD, "^prior: .*negative"),
        ([math.nan, 1.0], GOOD, "^prior: .*NaN"),
        ([[0.5, 0.5]], GOOD, "^prior: .*axes"),
        ([], GOOD, "^prior: "),
        ([0.2, 0.3, 0.5], GOOD, "^prior, likelihood: "),
        ([0.5, 0.5], GOOD.T.clone(), "^likelihood: .*sum"),
        ([0.5, 0.5], GOOD[0], "^likelihood: .*axes"),
        ([0.5, 0.5], [[1.0, 0.0], [1.0, 0.0]], r"^likelihood: .*columns \[1\]"),
    ],
)
def test_discrete_bad_input(prior, likelihood, message):
    with pytest.raises(ValueError, match=message):
        DiscreteModel(torch.tensor(prior, dtype=torch.float64), torch.as_tensor(likelihood, dtype=torch.float64))


def test_discrete_bad_types_and_q():
    with pytest.raises(ValueError, match="^prior: "):
        DiscreteModel([0.5, 0.5], GOOD)
    with pytest.raises(ValueError, match="^prior: .*floating"):
        DiscreteModel(torch.tensor([0, 1]), GOOD)
    model = DiscreteModel(torch.tensor([0.5, 0.5], dtype=torch.float64), GOOD)
    with pytest.raises(ValueError, match="^q: .*sum"):
        model.elbo(GOOD)
    with pytest.raises(ValueError, match="^q: .*shape"):
        model.elbo(torch.full((2, 3), 0.5, dtype=torch.float64))


# --- linear-Gaussian --------------------------------------------------------------------------------------------------

SIZES = [(1, 1), (3, 2), (2, 5), (64, 8), (64, 64), (8, 64)]


@pytest.mark.parametrize("n, d", SIZES)
@pytest.mark.parametrize("std", [0.1, 1.0, 30.0])
def test_linear_gaussian_against_torch_distributions(n, d, std):
    model = random_linear_gaussian(n, d, std)
    x, z = model.sample(6, rng(1))
    covariance = model.weight @ model.weight.T + std**2 * torch.eye(n, dtype=torch.float64)
    marginal = MultivariateNormal(model.bias, covariance)
    assert torch.allclose(model.log_marginal(x), marginal.log_prob(x), rtol=1e-8, atol=1e-8)
    conditional = Normal(z @ model.weight.T + model.bias, std)
    assert torch.allclose(model.log_prob(x, z), conditional.log_prob(x).sum(-1), rtol=1e-12)
    mean, scale_tril = model.posterior(x)
    precision = torch.eye(d, dtype=torch.float64) + model.weight.T @ model.weight / std**2
    assert torch.allclose(scale_tril @ scale_tril.T @ precision, torch.eye(d, dtype=torch.float64), atol=1e-8)
    normal_equations = torch.linalg.solve(precision, model.weight.T @ (x - model.bias).T / std**2).T
    assert torch.allclose(mean, normal_equations, atol=1e-8)


@pytest.mark.parametrize("std", [0.2, 1.0, 3.0])
def test_linear_gaussian_against_quadrature(std):
    model = random_linear_gaussian(2, 1, std, seed=3)
    x = model.sample(1, rng(4))[0][0]
    (weight_0,), (weight_1,) = model.weight.tolist()

    (x_0, x_1), (bias_0, bias_1) = x.tolist(), model.bias.tolist()

    def joint(z):
        return (
            stats.norm.pdf(z)
            * stats.norm.pdf(x_0, weight_0 * z + bias_0, std)
            * stats.norm.pdf(x_1, weight_1 * z + bias_1, std)
        )

    marginal = integrate.quad(joint, -12, 12, points=[0], epsabs=1e-14, limit=200)[0]
    mean = integrate.quad(lambda z: z * joint(z), -12, 12, points=[0], epsabs=1e-14, limit=200)[0] / marginal
    square = integrate.quad(lambda z: z * z * joint(z), -12, 12, points=[0], epsabs=1e-14, limit=200)[0] / marginal
    assert model.log_marginal(x).item() == pytest.approx(math.log(marginal), abs=1e-8)
    assert model.posterior(x)[0].item() == pytest.approx(mean, abs=1e-8)
    assert model.posterior(x)[1].item() ** 2 == pytest.approx(square - mean**2, abs=1e-8)


def test_linear_gaussian_bayes_rule_holds_everywhere():
    model = random_linear_gaussian(64, 64, 0.5)
    x, _ = model.sample(3, rng(1))
    mean, scale_tril = model.posterior(x)
    posterior = MultivariateNormal(mean, scale_tril=scale_tril)
    z = posterior.sample((50,))
    difference = model.log_joint(x, z) - posterior.log_prob(z)
    assert difference.shape == (50, 3)
    assert torch.allclose(difference, model.log_marginal(x).expand(50, 3), atol=1e-8)


def test_linear_gaussian_keeps_digits_of_a_narrow_posterior():
    # Two latents seen through z_1 + z_2 = 0.5 (almost exactly) and z_2 = 1 ± 1. The posterior precision has condition number
    # about 1e14, so normal equations would lose z_2; in the limit it minimizes (0.5 − z_2)² + z_2² + (z_2 − 1)².
    weight = torch.tensor([[1.0, 1.0], [0.0, 1e-7]], dtype=torch.float64)
    model = LinearGaussian(weight, torch.zeros(2, dtype=torch.float64), 1e-7)
    x = torch.tensor([[0.5, 1e-7]], dtype=torch.float64)
    mean, scale_tril = model.posterior(x)
    assert mean[0].tolist() == pytest.approx([0.0, 0.5], abs=1e-6)
    assert (scale_tril @ scale_tril.T)[1, 1].item() == pytest.approx(1 / 3, rel=1e-6)
    assert torch.isfinite(model.log_marginal(x)).all()


def test_linear_gaussian_scale_is_lower_triangular_with_positive_diagonal():
    _, scale_tril = random_linear_gaussian(10, 7, 0.3).posterior(torch.zeros(10, dtype=torch.float64))
    assert not scale_tril.triu(1).any()
    assert (scale_tril.diagonal() > 0).all()


def test_linear_gaussian_elbo():
    model = random_linear_gaussian(5, 3, 0.7)
    x, _ = model.sample(4, rng(1))
    mean, scale_tril = model.posterior(x)
    assert torch.allclose(model.elbo(x, mean, scale_tril), model.log_marginal(x), atol=1e-10)
    off_mean, off_scale = mean + 0.3, scale_tril * 1.5
    q = MultivariateNormal(off_mean, scale_tril=off_scale)
    gap = torch.distributions.kl_divergence(q, MultivariateNormal(mean, scale_tril=scale_tril))
    assert torch.allclose(model.log_marginal(x) - model.elbo(x, off_mean, off_scale), gap, atol=1e-9)


def test_linear_gaussian_batches_broadcast():
    model = random_linear_gaussian(3, 2, 0.5)
    x, z = torch.zeros(4, 1, 3, dtype=torch.float64), torch.ones(7, 2, dtype=torch.float64)
    assert model.log_prob(x, z).shape == (4, 7)
    assert model.log_marginal(x).shape == (4, 1)
    assert model.posterior(x)[0].shape == (4, 1, 2)


def test_linear_gaussian_samples():
    model = random_linear_gaussian(2, 3, 0.5)
    x, z = model.sample(20_000, rng(1))
    assert x.shape == (20_000, 2) and z.shape == (20_000, 3)
    covariance = model.weight @ model.weight.T + 0.25 * torch.eye(2, dtype=torch.float64)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (x - model.bias).T, upper=False).T
    for column in whitened.T:
        assert stats.kstest(column.numpy(), stats.norm.cdf).pvalue > 1e-3
    residual = (x - model.bias - z @ model.weight.T) / model.std
    assert stats.kstest(residual.flatten().numpy(), stats.norm.cdf).pvalue > 1e-3


def test_linear_gaussian_gradients_reach_the_parameters():
    weight = torch.randn(3, 2, dtype=torch.float64, generator=rng(1), requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, generator=rng(2), requires_grad=True)
    x = torch.randn(2, 3, dtype=torch.float64, generator=rng(3), requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, b, x: LinearGaussian(w, b, 0.4).log_marginal(x), (weight, bias, x))


W, B = torch.ones(3, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)


@pytest.mark.parametrize(
    "weight, bias, std, message",
    [
        (W[0], B, 1.0, "^weight: .*2 axes"),
        (W, B[:, None], 1.0, "^bias: .*1 axes"),
        (W, B[:2], 1.0, "^weight, bias: "),
        (W, B.float(), 1.0, "^weight, bias: .*dtype"),
        (W * math.nan, B, 1.0, "^weight: .*NaN"),
        (W, B, 0.0, "^std: "),
        (W, B, -1.0, "^std: "),
        (W, B, math.nan, "^std: "),
        (W, B, math.inf, "^std: "),
        (W.long(), B, 1.0, "^weight: .*floating"),
    ],
)
def test_linear_gaussian_bad_parameters(weight, bias, std, message):
    with pytest.raises(ValueError, match=message):
        LinearGaussian(weight, bias, std)


def test_linear_gaussian_bad_arguments():
    model = LinearGaussian(W, B, 1.0)
    with pytest.raises(ValueError, match="^x: "):
        model.log_marginal(torch.zeros(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="^x: .*float64"):
        model.posterior(torch.zeros(3))
    with pytest.raises(ValueError, match="^x: .*NaN"):
        model.log_marginal(B * math.nan)
    with pytest.raises(ValueError, match="^z: "):
        model.log_prob(B, B)


# --- four points ------------------------------------------------------------------------------------------------------


def test_four_points():
    assert FOUR_POINTS.shape == (4, 4) and FOUR_POINTS.is_floating_point()
    assert FOUR_POINTS.sum(1).tolist() == FOUR_POINTS.sum(0).tolist() == [1, 1, 1, 1]
    assert set(FOUR_POINTS.flatten().tolist()) == {0.0, 1.0}


# --- mixtures ---------------------------------------------------------------------------------------------------------


def random_mixture(modes, d, seed=0):
    generator = rng(seed)
    weights = torch.empty(modes, dtype=torch.float64).exponential_(generator=generator)
    means = 2 * torch.randn(modes, d, dtype=torch.float64, generator=generator)
    return GaussianMixture(means, 0.4, weights / weights.sum())


@pytest.mark.parametrize("modes, d", [(1, 1), (3, 1), (5, 2), (2, 7)])
def test_mixture_density_by_torch_distributions(modes, d):
    mixture = random_mixture(modes, d)
    components = torch.distributions.Independent(Normal(mixture.means, 0.4), 1)
    theirs = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(mixture.weights), components)
    x = 3 * torch.randn(4, 6, d, dtype=torch.float64, generator=rng(1))
    torch.testing.assert_close(mixture.log_prob(x), theirs.log_prob(x))
    responsibilities = mixture.responsibilities(x)
    assert responsibilities.shape == (4, 6, modes)
    joint = mixture.weights * components.log_prob(x[..., None, :]).exp()
    torch.testing.assert_close(responsibilities, joint / joint.sum(-1, keepdim=True), rtol=1e-6, atol=1e-9)


def test_mixture_samples():
    mixture = random_mixture(3, 2)
    x = mixture.sample(100_000, rng(2))
    mean = mixture.weights @ mixture.means
    covariance = (mixture.weights[:, None] * mixture.means).T @ mixture.means - torch.outer(mean, mean)
    covariance += 0.4**2 * torch.eye(2)
    stderr = (x.var(0) / len(x)).sqrt()
    assert ((x.mean(0) - mean).abs() < 4 * stderr).all()
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    assert ((products.mean(0) - covariance).abs() < 4 * products.std(0) / math.sqrt(len(x))).all()
    torch.testing.assert_close(mixture.responsibilities(x).mean(0), mixture.weights, atol=0.01, rtol=0)


def test_ring():
    ring = GaussianMixture.ring(6, radius=3.0, std=0.2)
    torch.testing.assert_close(ring.means.norm(dim=1), torch.full((6,), 3.0))
    torch.testing.assert_close(ring.means.sum(0), torch.zeros(2), atol=1e-5, rtol=0)
    gaps = torch.cdist(ring.means, ring.means).sort(1).values[:, 1]
    torch.testing.assert_close(gaps, torch.full((6,), 3.0))  # a regular hexagon


@pytest.mark.parametrize(
    "arguments, named",
    [
        ((torch.zeros(3), 1.0, torch.ones(1)), "^means: expected shape"),
        ((torch.full((1, 2), math.nan), 1.0, torch.ones(1)), "^means: "),
        ((torch.zeros(2, 1), 1.0, torch.ones(1)), "^means, weights: "),
        ((torch.zeros(2, 1), 1.0, torch.tensor([0.5, 0.6])), "^weights: "),
        ((torch.zeros(2, 1), 0.0, torch.tensor([0.5, 0.5])), "^std: "),
        ((torch.zeros(2, 1), math.inf, torch.tensor([0.5, 0.5])), "^std: "),
    ],
)
def test_a_mixture_that_makes_no_sense(arguments, named):
    with pytest.raises(ValueError, match=named):
        GaussianMixture(*arguments)


def test_a_mixture_refuses_what_it_cannot_score():
    mixture = GaussianMixture.ring()
    for bad in (torch.zeros(3), torch.zeros(2, dtype=torch.float64), torch.tensor([0.0, math.nan])):
        with pytest.raises(ValueError, match="^x: "):
            mixture.log_prob(bad)
    with pytest.raises(ValueError, match="^modes: "):
        GaussianMixture.ring(0)


# Eight schools

SCHOOLS = EightSchools()


def test_schools_joint_density():
    parameters = torch.randn(20, 10, generator=rng(0), dtype=torch.float64) * 3
    mean, log_tau, theta = parameters[:, 0], parameters[:, 1], parameters[:, 2:]
    tau = log_tau.exp()
    expected = (
        stats.norm(0, 5).logpdf(mean)
        + stats.lognorm(s=1, scale=5).logpdf(tau)
        + log_tau.numpy()
        + stats.norm(mean[:, None], tau[:, None]).logpdf(theta).sum(1)
        + stats.norm(theta, SCHOOLS.stderrs).logpdf(SCHOOLS.effects).sum(1)
    )
    torch.testing.assert_close(SCHOOLS.log_joint(parameters), torch.as_tensor(expected))


def test_schools_evidence_by_another_road():
    """Integrated over τ by SciPy, with the effects' covariance diag(σ²) + τ² I + 5² in one piece."""

    def of_tau(tau):
        covariance = np.diag(SCHOOLS.stderrs.numpy() ** 2 + tau**2) + 25
        return stats.multivariate_normal(cov=covariance).pdf(SCHOOLS.effects) * stats.lognorm(s=1, scale=5).pdf(tau)

    value, error = integrate.quad(of_tau, 0, np.inf, epsabs=0, epsrel=1e-10)
    assert SCHOOLS.log_evidence() == pytest.approx(math.log(value), abs=max(1e-8, 2 * error / value))


def test_schools_codes_and_parameters_are_each_other_s_inverse():
    codes = 1.5 * torch.randn(200, 10, generator=rng(1), dtype=torch.float64)
    parameters = SCHOOLS.parameters(codes)
    again = SCHOOLS.codes(parameters)
    torch.testing.assert_close(again[:, :2], codes[:, :2], atol=1e-9, rtol=1e-9)
    # θ_j − μ is small where τ is, and loses digits there, which division by τ enlarges.
    lost = 1e-14 * (1 + parameters[:, 2:].abs()) / parameters[:, 1:2].exp()
    assert ((again - codes)[:, 2:].abs() < lost + 1e-9).all()
    expected = stats.lognorm(s=1, scale=5).ppf(stats.norm.cdf(codes[:, 1]))
    torch.testing.assert_close(parameters[:, 1].exp(), torch.as_tensor(expected), atol=0, rtol=1e-9)


def test_schools_codes_have_the_density_that_a_change_of_variables_gives():
    codes = torch.randn(5, 10, generator=rng(2), dtype=torch.float64)
    for z in codes:
        jacobian = torch.autograd.functional.jacobian(SCHOOLS.parameters, z)
        log_volume = torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(SCHOOLS.log_joint_of_codes(z), SCHOOLS.log_joint(SCHOOLS.parameters(z)) + log_volume)


def test_schools_samples_and_marginals():
    """Against importance sampling from the prior, which needs no formula of the posterior's."""
    samples = SCHOOLS.sample(100_000, rng(3))
    codes = torch.randn(400_000, 10, generator=rng(4), dtype=torch.float64)
    prior = SCHOOLS.parameters(codes)
    weights = SCHOOLS.log_likelihood(prior[:, 2:]).softmax(0)
    for index, low, high in ((0, -40, 50), (1, -8, 12), (2, -80, 100), (9, -80, 100)):
        weighted = weights @ prior[:, index]
        stderr = (weights.square() @ (prior[:, index] - weighted).square()).sqrt()
        stderr = (stderr**2 + samples[:, index].var() / len(samples)).sqrt()
        assert abs(samples[:, index].mean() - weighted) < 4.5 * stderr
        values = torch.linspace(low, high, 2001, dtype=torch.float64)
        density = SCHOOLS.marginal(index, values)
        assert torch.trapezoid(density, values) == pytest.approx(1, abs=1e-3)
        mean = torch.trapezoid(values * density, values)
        assert abs(samples[:, index].mean() - mean) < 4.5 * samples[:, index].std() / math.sqrt(len(samples)) + 1e-3
        # The whole law, by its distribution function
        cumulative = torch.cumulative_trapezoid(density, values).numpy()
        assert (
            stats.kstest(samples[::10, index], lambda v, c=cumulative, x=values: np.interp(v, x[1:], c)).pvalue > 1e-4
        )


def test_schools_samples_have_the_posterior_s_correlations():
    """E of the score of the joint density under the posterior is 0, in each coordinate, and with it the funnel's shape."""
    samples = SCHOOLS.sample(50_000, rng(5)).requires_grad_()
    (score,) = torch.autograd.grad(SCHOOLS.log_joint(samples).sum(), samples)
    # E ∂_i log p = 0 and E z_j ∂_i log p = −[i = j]; in log τ alone the tail is light enough for both.
    log_tau = samples.detach()[:, 1]
    for values, target in ((score[:, 1], 0.0), (score[:, 1] * log_tau, -1.0), (score[:, 0], 0.0), (score[:, 5], 0.0)):
        assert abs(values.mean() - target) < 4.5 * values.std() / math.sqrt(len(values))


@pytest.mark.parametrize(
    "arguments, named",
    [
        ({"effects": torch.zeros(3)}, "^effects, stderrs: "),
        ({"stderrs": torch.zeros(8)}, "^stderrs: "),
        ({"effects": torch.full((8,), math.nan)}, "^effects: "),
        ({"std_of_mean": 0.0}, "^std_of_mean: "),
        ({"median_of_tau": math.inf}, "^median_of_tau: "),
        ({"std_of_log_tau": -1.0}, "^std_of_log_tau: "),
    ],
)
def test_schools_that_make_no_sense(arguments, named):
    with pytest.raises(ValueError, match=named):
        EightSchools(**arguments)


def test_schools_have_no_eleventh_parameter():
    with pytest.raises(ValueError, match="^index: "):
        SCHOOLS.marginal(10, torch.zeros(1))


# The ring that a noisy radius leaves


def test_radius_evidence_by_another_road():
    """In the plane, by SciPy, in Cartesian coordinates."""
    ring = NoisyRadius(1.5, 0.3)
    joint = lambda b, a: float(ring.log_joint(torch.tensor([a, b], dtype=torch.float64)).exp())  # noqa: E731
    value = integrate.dblquad(joint, 0, 5, 0, 5, epsabs=1e-7, epsrel=1e-7)[0]
    assert ring.log_evidence() == pytest.approx(math.log(4 * value), abs=1e-5)


def test_radius_samples():
    ring = NoisyRadius(2.0, 0.2)
    z = ring.sample(100_000, rng(6))
    r = z.norm(dim=1)
    density = lambda r: r * np.exp(-0.5 * r**2 - 0.5 * ((r - 2.0) / 0.2) ** 2)  # noqa: E731
    total = integrate.quad(density, 0, 6, points=[2])[0]
    for power in (1, 2):
        exact = integrate.quad(lambda r, power=power: r**power * density(r), 0, 6, points=[2])[0] / total
        assert abs((r**power).mean() - exact) < 4.5 * (r**power).std() / math.sqrt(len(r))
    assert (z.mean(0).abs() < 4.5 * z.std(0) / math.sqrt(len(z))).all()


def test_a_radius_that_makes_no_sense():
    with pytest.raises(ValueError, match="^std: "):
        NoisyRadius(std=0.0)
    with pytest.raises(ValueError, match="^radius: "):
        NoisyRadius(radius=-1.0)
