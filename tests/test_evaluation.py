"""Measures of a trained model, each against a truth in closed form and within its own standard error."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from avb_core import evaluation
from avb_core.decoders import BernoulliDecoder, Decoder, GaussianDecoder, TargetLikelihood
from avb_core.evaluation import (
    Estimate,
    FittedProposal,
    MomentMatchedProposal,
    active_units,
    coordinate_effects,
    iwlb_log_likelihood,
    kl_nearest_neighbour,
    kl_to_prior_histogram,
    kl_to_prior_moments,
    log_likelihood_quadrature,
    mean_by_levels,
)
from avb_core.flows import AutoregressiveSteps
from avb_core.gaussian import kl_diagonal, kl_full, kl_standard_normal
from avb_core.networks import MLP, ConcatenationMLP
from avb_core.posteriors import (
    BasisNoisePosterior,
    ExplicitPosterior,
    GaussianPosterior,
    ImplicitPosterior,
    Posterior,
)
from avb_core.testbeds import LinearGaussian


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


class ExactDecoder(Decoder):
    """The likelihood of a linear-Gaussian model, whose log p(x) is known, counting the codes it is asked about at a time."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.most_codes = 0

    def log_prob(self, x, z):
        value = self.model.log_prob(x, z)
        self.most_codes = max(self.most_codes, value.numel())
        return value

    def mean(self, z):
        return z @ self.model.weight.T + self.model.bias

    def sample(self, z):
        raise NotImplementedError


def linear_gaussian(n=3, d=2, std=0.5):
    return LinearGaussian(torch.randn(n, d, dtype=torch.float64), torch.randn(n, dtype=torch.float64), std)


class ExactProposal(ExplicitPosterior):
    """The exact posterior, moved and widened by as much as one likes."""

    def __init__(self, model, shift=0.0, widen=1.0):
        super().__init__()
        self.model, self.shift, self.widen = model, shift, widen
        self.latent_dim = model.weight.shape[1]

    def sample_with_log_prob(self, x, shape=()):
        mean, scale_tril = self.model.posterior(x)
        law = torch.distributions.MultivariateNormal(mean + self.shift, scale_tril=self.widen * scale_tril)
        z = law.sample(shape)
        return z, law.log_prob(z)


# --- quadrature -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("std", [0.3, 1.0, 5.0])
def test_quadrature_is_exact(d, std):
    model = linear_gaussian(d=d, std=std)
    x, _ = model.sample(6)
    values, error = log_likelihood_quadrature(ExactDecoder(model), x, latent_dim=d)
    torch.testing.assert_close(values, model.log_marginal(x), rtol=0, atol=1e-9)
    assert 0 <= error < 1e-6


def test_quadrature_tells_when_it_has_not_converged():
    """A posterior narrower than the grid: the value is wrong, and the reported error says so."""
    model = linear_gaussian(std=0.02)
    x, _ = model.sample(6)
    values, error = log_likelihood_quadrature(ExactDecoder(model), x, points=101)
    wrong = (values - model.log_marginal(x)).abs().max().item()
    assert wrong > 0.01 and error > 0.01


def test_quadrature_in_single_precision():
    decoder = GaussianDecoder(nn.Linear(2, 3), std=0.7)
    x = torch.randn(4, 3)
    weight, bias = decoder.network.weight.detach(), decoder.network.bias.detach()
    values, _ = log_likelihood_quadrature(decoder, x)
    truth = LinearGaussian(weight.double(), bias.double(), 0.7).log_marginal(x.double())
    torch.testing.assert_close(values, truth, rtol=0, atol=1e-5)


def test_quadrature_is_a_distribution_over_all_images():
    decoder = BernoulliDecoder(MLP(2, [8], 4))
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
    values, _ = log_likelihood_quadrature(decoder, images, points=201)
    assert values.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_quadrature_decodes_few_codes_at_a_time():
    model = linear_gaussian()
    decoder = ExactDecoder(model)
    log_likelihood_quadrature(decoder, model.sample(6)[0], points=401)
    assert decoder.most_codes <= evaluation.CHUNK


@pytest.mark.parametrize(
    "options, named",
    [
        ({"latent_dim": 3}, "latent_dim"),
        ({"points": 100}, "points"),
        ({"points": 103}, "points"),
        ({"points": 1}, "points"),
        ({"x": torch.zeros(0, 3)}, "x"),
        ({"x": torch.zeros(3)}, "x"),
    ],
)
def test_quadrature_refuses(options, named):
    model = linear_gaussian()
    with pytest.raises(ValueError, match=f"^{named}: "):
        log_likelihood_quadrature(ExactDecoder(model), **{"x": model.sample(2)[0], **options})


# --- importance weighting ---------------------------------------------------------------------------------------------


def test_iwlb_with_the_exact_posterior_is_exact():
    model = linear_gaussian()
    x, _ = model.sample(5)
    for k in (1, 7):
        torch.testing.assert_close(
            iwlb_log_likelihood(ExactDecoder(model), ExactProposal(model), x, k),
            model.log_marginal(x),
            rtol=0,
            atol=1e-9,
        )


def test_iwlb_stays_below_and_converges():
    model = linear_gaussian()
    x, _ = model.sample(500)
    truth, decoder, proposal = model.log_marginal(x), ExactDecoder(model), ExactProposal(model, shift=0.2, widen=1.5)
    gaps = []
    for k in (1, 10, 100, 1000):
        gap = Estimate.of_mean(truth - iwlb_log_likelihood(decoder, proposal, x, k))
        assert gap.value > -4 * gap.stderr
        gaps.append(gap)
    assert all(later.value < earlier.value for earlier, later in itertools.pairwise(gaps[:3]))
    assert gaps[0].value > 0.1
    assert abs(gaps[-1].value) < 4 * gaps[-1].stderr + 0.01
    mean, scale_tril = model.posterior(x)
    elbo_gap = kl_full(mean + 0.2, 1.5 * scale_tril, mean, scale_tril).mean().item()
    assert abs(gaps[0].value - elbo_gap) < 4 * gaps[0].stderr


@pytest.mark.parametrize("k, chunk", [(50, 7), (50, 50), (50, 120), (50, 10**6), (1, 1), (3, 1)])
def test_iwlb_in_chunks_is_the_same_within_its_bound_on_memory(k, chunk):
    """The same law whatever the chunk, smaller than k or larger: compared by mean within the standard error."""
    model = linear_gaussian()
    x, _ = model.sample(200)
    truth, proposal = model.log_marginal(x), ExactProposal(model, shift=0.2, widen=1.5)
    whole = Estimate.of_mean(truth - iwlb_log_likelihood(ExactDecoder(model), proposal, x, k))
    decoder = ExactDecoder(model)
    values = iwlb_log_likelihood(decoder, proposal, x, k, chunk)
    chunked = Estimate.of_mean(truth - values)
    assert values.shape == (200,)
    assert decoder.most_codes <= chunk
    assert abs(whole.value - chunked.value) < 4.5 * math.hypot(whole.stderr, chunked.stderr)


def test_iwlb_folds_chunks_into_the_very_same_sum():
    """One image and codes given beforehand: in chunks or at once, the value is the same."""
    model = linear_gaussian()
    x, _ = model.sample(1)
    codes, log_q = ExactProposal(model, shift=0.2, widen=1.5).sample_with_log_prob(x, (40,))

    class Given(ExplicitPosterior):
        def __init__(self):
            super().__init__()
            self.used = 0

        def sample_with_log_prob(self, x, shape=()):
            here = slice(self.used, self.used + shape[0])
            self.used += shape[0]
            return codes[here], log_q[here]

    whole = iwlb_log_likelihood(ExactDecoder(model), Given(), x, 40)
    for chunk in (1, 10, 39):
        torch.testing.assert_close(
            iwlb_log_likelihood(ExactDecoder(model), Given(), x, 40, chunk), whole, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("options, named", [({"k": 0}, "k"), ({"k": -1}, "k"), ({"k": 5, "chunk": 0}, "chunk")])
def test_iwlb_refuses(options, named):
    model = linear_gaussian()
    with pytest.raises(ValueError, match=f"^{named}: "):
        iwlb_log_likelihood(ExactDecoder(model), ExactProposal(model), model.sample(2)[0], **options)


# --- a proposal for posteriors without a density ----------------------------------------------------------------------


class KnownBox(Posterior):
    """Samples of a Gaussian whose density is kept secret."""

    latent_dim = 2

    def __init__(self, mean, scale_tril):
        super().__init__()
        self.mean, self.scale_tril = mean, scale_tril
        self.most_codes = 0

    def sample(self, x, shape=()):
        noise = torch.randn(*shape, *x.shape[:-1], 2)
        self.most_codes = max(self.most_codes, noise.numel() // 2)
        return self.mean + noise @ self.scale_tril.mT


def test_moments_are_matched():
    mean, scale_tril = torch.tensor([0.3, -2.0]), torch.tensor([[0.5, 0.0], [0.9, 0.2]])
    proposal = MomentMatchedProposal(KnownBox(mean, scale_tril), samples=20_000, widen=1.5)
    z, log_q = proposal.sample_with_log_prob(torch.zeros(1, 3), (20_000,))
    covariance = 1.5**2 * scale_tril @ scale_tril.T
    assert ((z[:, 0].mean(0) - mean).abs() < 5 * (2 * covariance.diagonal() / 20_000).sqrt()).all()
    variances = covariance.diagonal()
    noise = ((variances[:, None] * variances + covariance.square()) * 2 / 20_000).sqrt()
    assert ((torch.cov(z[:, 0].T) - covariance).abs() < 5 * noise).all()
    truth = torch.distributions.MultivariateNormal(mean, scale_tril=1.5 * scale_tril).log_prob(z)
    assert (log_q - truth).abs().mean() < 0.05  # moments of 20,000 samples are known to under a hundredth
    assert z.shape == (20_000, 1, 2) and log_q.shape == (20_000, 1)


def test_matched_moments_give_a_true_bound_that_converges():
    model = LinearGaussian(torch.randn(3, 2), torch.zeros(3), 0.5)
    x, _ = model.sample(1)
    mean, scale_tril = model.posterior(x)
    proposal = MomentMatchedProposal(KnownBox(mean, scale_tril))
    x = x.expand(300, -1)
    coarse, fine = (
        Estimate.of_mean(model.log_marginal(x) - iwlb_log_likelihood(ExactDecoder(model), proposal, x, k))
        for k in (1, 100)
    )
    assert coarse.value > 0.01 and fine.value > -4 * fine.stderr and fine.value < 0.01


def test_where_a_posterior_bends_base_codes_the_matched_gaussian_is_bent_with_them():
    """A flow of a Gaussian, twisted: the proposal's density is that of its law, and its bound on an evidence of 1 converges."""
    flow = AutoregressiveSteps(2, 2, 3, [8])
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    network = MLP(3, [8], BasisNoisePosterior.outputs(2, 1, gaussian=True, context_dim=3))
    posterior = (
        BasisNoisePosterior(network, [nn.Linear(1, 2)], 2, 1, gaussian=True, flow=flow).double().requires_grad_(False)
    )
    torch.nn.init.zeros_(posterior.noise_networks[0].weight)  # of the noise a constant is left: base codes are Gaussian
    x = torch.randn(3, dtype=torch.float64)
    of_image = posterior(x)
    base_law = torch.distributions.MultivariateNormal(posterior.moments(x)[0], scale_tril=of_image.std.diag())
    jacobians = torch.func.vmap(torch.func.jacrev(lambda base: posterior.bend(base, of_image)[0]))

    def log_density(z):
        """Change of variables, with the Jacobian by automatic differentiation."""
        base = posterior.unbend(z.reshape(-1, 2), of_image)
        return (base_law.log_prob(base) - jacobians(base).det().abs().log()).reshape(z.shape[:-1])

    proposal = MomentMatchedProposal(posterior, samples=20_000, widen=1.0)
    z, log_q = proposal.sample_with_log_prob(x, (200,))
    assert (log_q - log_density(z)).abs().mean() < 0.05
    # With p(z | x) = q(z | x) the evidence is 1; the bound of the proposal as it is used, widened, tends to its logarithm.
    target, proposal = TargetLikelihood(log_density), MomentMatchedProposal(posterior)
    coarse, fine = (
        Estimate.of_mean(iwlb_log_likelihood(target, proposal, x.expand(images, -1), k))
        for images, k in ((2000, 1), (20, 500))
    )
    assert coarse.value < -4 * coarse.stderr and abs(fine.value) < 4 * fine.stderr + 0.001


@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 3)])
@pytest.mark.parametrize("shape", [(), (4,), (2, 2)])
def test_matched_shapes(batch, shape):
    proposal = MomentMatchedProposal(ImplicitPosterior(ConcatenationMLP((4, 3), [8], 2), 2, 3))
    z, log_q = proposal.sample_with_log_prob(torch.randn(*batch, 4), shape)
    assert z.shape == (*shape, *batch, 2) and log_q.shape == (*shape, *batch)


def diagonal_model():
    """Orthogonal columns make the exact posterior a diagonal Gaussian, the family that is fitted."""
    return LinearGaussian(torch.tensor([[1.5, 0.0], [0.0, 0.7], [2.0, 0.0]]), torch.zeros(3), 0.5)


def test_a_fitted_proposal_finds_the_posterior_from_a_poor_encoder():
    model = diagonal_model()
    x, _ = model.sample(200)
    elsewhere = KnownBox(torch.tensor([1.0, -1.0]), 0.01 * torch.eye(2))
    mean, std = FittedProposal(elsewhere, ExactDecoder(model), steps=300).fit(x)
    exact_mean, exact_scale = model.posterior(x)
    assert ((mean - exact_mean) / exact_scale.diagonal()).abs().mean() < 0.1
    assert (std / exact_scale.diagonal() - 1).abs().mean() < 0.1


def test_a_fitted_proposal_gives_a_bound_better_than_the_encoder_s():
    model = diagonal_model()
    x, _ = model.sample(200)
    elsewhere = KnownBox(torch.tensor([1.0, -1.0]), 0.1 * torch.eye(2))
    decoder = ExactDecoder(model)
    fitted, moments = (
        Estimate.of_mean(model.log_marginal(x) - iwlb_log_likelihood(decoder, proposal, x, 100))
        for proposal in (FittedProposal(elsewhere, decoder, steps=300), MomentMatchedProposal(elsewhere))
    )
    assert -4 * fitted.stderr < fitted.value < 0.05 < moments.value


def test_fitting_leaves_the_decoder_alone_needs_a_step_and_is_widened():
    decoder = BernoulliDecoder(MLP(2, [8], 4))
    posterior = GaussianPosterior(MLP(4, [8], 4), 2)
    with torch.no_grad():
        z, log_q = FittedProposal(posterior, decoder, steps=3).sample_with_log_prob(torch.ones(5, 4), (7,))
    assert z.shape == (7, 5, 2) and log_q.shape == (7, 5)
    proposal, found = FittedProposal(posterior, decoder, steps=3), []
    for ask in (proposal.fit, lambda x: proposal.sample_with_log_prob(x, (7,))):
        torch.manual_seed(1)
        found.append(ask(torch.ones(5, 4)))
    (mean, std), (z, log_q) = found
    torch.testing.assert_close(log_q, torch.distributions.Normal(mean, 1.1 * std).log_prob(z).sum(-1))
    assert all(parameter.grad is None for parameter in (*decoder.parameters(), *posterior.parameters()))
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        FittedProposal(posterior, decoder, steps=0)


def test_fitting_in_inference_mode_is_fitting():
    decoder, posterior = BernoulliDecoder(MLP(2, [8], 4)), GaussianPosterior(MLP(4, [8], 4), 2)
    found = []
    for mode in (False, True):
        with torch.inference_mode(mode):
            torch.manual_seed(1)
            found.append(FittedProposal(posterior, decoder, steps=3).fit(torch.ones(5, 4)))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_matched_moments_keep_within_the_bound_on_memory(monkeypatch):
    """Many images with one importance sample each: the moments' own samples must not exceed the chunk."""
    monkeypatch.setattr(evaluation, "CHUNK", 1024)
    box = KnownBox(torch.zeros(2), torch.eye(2))
    MomentMatchedProposal(box, samples=256).sample_with_log_prob(torch.zeros(50, 3))
    assert box.most_codes <= 1024


def test_a_posterior_without_width_is_matched_too():
    proposal = MomentMatchedProposal(KnownBox(torch.zeros(2), torch.zeros(2, 2)))
    z, log_q = proposal.sample_with_log_prob(torch.zeros(5, 3))
    assert z.isfinite().all() and log_q.isfinite().all()


def test_matching_needs_enough_samples():
    with pytest.raises(ValueError, match="^samples: expected more than latent_dim = 2"):
        MomentMatchedProposal(KnownBox(torch.zeros(2), torch.eye(2)), samples=2)


# --- KL from samples --------------------------------------------------------------------------------------------------

PAIRS = [
    ([0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]),
    ([0.5, -0.5], [0.8, 1.2], [0.0, 0.0], [1.0, 1.0]),
    ([1.0], [0.5], [0.0], [1.0]),
]


@pytest.mark.parametrize("pair", PAIRS)
def test_nearest_neighbours_against_the_closed_form(pair):
    mean_q, std_q, mean_p, std_p = map(torch.tensor, pair)
    d = len(mean_q)
    estimates = [
        kl_nearest_neighbour(mean_q + std_q * torch.randn(4000, d), mean_p + std_p * torch.randn(4000, d))
        for _ in range(12)
    ]
    estimate = Estimate.of_mean(np.array(estimates))
    # The estimator's bias in d ≤ 2 dimensions at n = 4,000 is of order (k/n)^(2/d) times the curvature: below 0.01.
    assert abs(estimate.value - kl_diagonal(mean_q, std_q, mean_p, std_p).item()) < 4 * estimate.stderr + 0.01


def test_nearest_neighbours_by_brute_force():
    q, p, k = torch.randn(8, 2), torch.randn(6, 2), 2
    log_ratios = []
    for i, point in enumerate(q):
        others = torch.cat([q[:i], q[i + 1 :]])
        in_q, in_p = (sorted(float((point - each).norm()) for each in sample)[k - 1] for sample in (others, p))
        log_ratios.append(math.log(in_p / in_q))
    expected = 2 * sum(log_ratios) / 8 + math.log(6 / 7)
    assert kl_nearest_neighbour(q, p, k) == pytest.approx(expected, rel=1e-5)


def test_nearest_neighbours_with_samples_of_different_sizes():
    estimates = [kl_nearest_neighbour(torch.randn(3000, 1) * 0.5, torch.randn(9000, 1)) for _ in range(12)]
    estimate = Estimate.of_mean(np.array(estimates))
    truth = kl_standard_normal(torch.zeros(1), torch.tensor([0.5])).item()
    assert abs(estimate.value - truth) < 4 * estimate.stderr + 0.01


@pytest.mark.parametrize(
    "q, p, k, message",
    [
        (torch.randn(10, 2), torch.randn(10, 3), 5, "q_samples, p_samples"),
        (torch.randn(10), torch.randn(10), 5, "q_samples, p_samples"),
        (torch.randn(5, 2), torch.randn(10, 2), 5, "^k: "),
        (torch.randn(10, 2), torch.randn(4, 2), 5, "^k: "),
        (torch.randn(10, 2), torch.randn(10, 2), 0, "^k: "),
        (torch.zeros(10, 2), torch.randn(10, 2), 5, "coincide"),
        (torch.arange(3.0)[:, None].repeat(1, 2), torch.ones(9, 2), 1, "coincide"),
        (torch.full((10, 2), math.nan), torch.randn(10, 2), 5, "^q_samples: "),
        (torch.randn(10, 2), torch.full((10, 2), math.nan), 5, "^p_samples: "),
    ],
    ids=["dimensions", "no-axis", "few-q", "few-p", "k=0", "coincide", "q-in-p", "nan-q", "nan-p"],
)
def test_nearest_neighbours_refuse(q, p, k, message):
    with pytest.raises(ValueError, match=message):
        kl_nearest_neighbour(q, p, k)


def histogram_truth(mean, std):
    return kl_standard_normal(torch.tensor(mean), torch.tensor(std)).item()


@pytest.mark.parametrize("mean, std", [([0.0, 0.0], [1.0, 1.0]), ([0.3, 0.0], [1.0, 0.9]), ([0.0, 0.5], [1.1, 0.8])])
def test_histogram_against_the_closed_form(mean, std):
    """Within the reported standard error; cells of the prior's 1/40 quantiles lose little of a KL as smooth as this."""
    estimates = [
        kl_to_prior_histogram(torch.tensor(mean) + torch.tensor(std) * torch.randn(100_000, 2)) for _ in range(8)
    ]
    values = np.array([estimate.value for estimate in estimates])
    stderr = estimates[0].stderr / math.sqrt(8)
    truth = histogram_truth(mean, std)
    assert abs(values.mean() - truth) < 4 * stderr + 0.02 * truth


def test_the_histogram_s_standard_error_is_what_repeats_show():
    """Equal to the prior, close to it and far: 600 repeats tell a standard deviation to 3 percent."""
    for mean, std in ((0.0, 1.0), (0.05, 1.0), (0.5, 0.8)):
        estimates = [kl_to_prior_histogram(mean + std * torch.randn(4000, 2), bins=10) for _ in range(600)]
        repeated = float(np.std([estimate.value for estimate in estimates], ddof=1))
        reported = math.sqrt(np.mean([estimate.stderr**2 for estimate in estimates]))
        assert reported == pytest.approx(repeated, rel=0.15), (mean, std)


@pytest.mark.parametrize(
    "z",
    [torch.randn(2000, 3), torch.randn(2000), torch.randn(1599, 2), torch.full((2000, 2), math.nan)],
    ids=["dimensions", "no-axis", "few", "nan"],
)
def test_histogram_refuses(z):
    with pytest.raises(ValueError, match="^z: "):
        kl_to_prior_histogram(z)


@pytest.mark.parametrize("shift, widen", [(0.0, 1.0), (0.3, 1.0), (0.2, 1.4)])
def test_moments_against_the_closed_form(shift, widen):
    """For Gaussians with correlations the bound is the KL itself, to its reported standard error over repeats."""
    d, n, repeats = 6, 2000, 40
    scale_tril = widen * torch.eye(d, dtype=torch.float64)
    scale_tril[3, 1] = 0.0 if shift == 0 else 0.5
    mean = torch.full((d,), shift, dtype=torch.float64)
    estimates = [
        kl_to_prior_moments(mean + torch.randn(n, d, dtype=torch.float64) @ scale_tril.T) for _ in range(repeats)
    ]
    values = np.array([estimate.value for estimate in estimates])
    truth = float(kl_full(mean, scale_tril, torch.zeros_like(mean), torch.eye(d, dtype=torch.float64)))
    stderr = float(np.mean([estimate.stderr for estimate in estimates]))
    assert abs(values.mean() - truth) < 4 * stderr / math.sqrt(repeats)


@pytest.mark.parametrize("shift, widen", [(0.0, 1.0), (0.03, 1.0), (0.0, 0.95), (0.3, 1.0), (1.0, 2.0)])
def test_the_standard_error_of_moments_is_what_repeats_show(shift, widen):
    """Equal to the prior, close to it and far: 600 repeats tell a standard deviation to 3 percent."""
    d, n = 16, 500
    estimates = [kl_to_prior_moments(shift + widen * torch.randn(n, d)) for _ in range(600)]
    repeated = float(np.std([estimate.value for estimate in estimates], ddof=1))
    reported = math.sqrt(np.mean([estimate.stderr**2 for estimate in estimates]))
    assert reported == pytest.approx(repeated, rel=0.15)


def test_moments_of_few_codes_have_no_bias_left():
    """At q = p, where what is taken off is several standard errors of so many repeats."""
    d, n, repeats = 16, 500, 400
    values = np.array([kl_to_prior_moments(torch.randn(n, d)).value for _ in range(repeats)])
    stderr = values.std(ddof=1) / math.sqrt(repeats)
    assert stderr < d / (2 * n) / 10
    assert abs(values.mean()) < 4 * stderr


def test_moments_bound_what_is_not_gaussian():
    """Two clusters: the bound is that of the Gaussian with their moments, and the KL itself is above it."""
    mean, std = 2.0, 0.5
    z = torch.cat([torch.randn(20_000, 1) * std + mean, torch.randn(20_000, 1) * std - mean])
    grid = np.linspace(-8, 8, 20_001)
    density = 0.5 * (stats.norm.pdf(grid, mean, std) + stats.norm.pdf(grid, -mean, std))
    truth = np.trapezoid(density * (np.log(density) - stats.norm.logpdf(grid)), grid)
    bound = 0.5 * (mean**2 + std**2 - 1 - math.log(mean**2 + std**2))
    estimate = kl_to_prior_moments(z)
    assert abs(estimate.value - bound) < 5 * estimate.stderr
    assert estimate.value + 5 * estimate.stderr < truth


@pytest.mark.parametrize(
    "z",
    [torch.randn(5, 4), torch.randn(20), torch.zeros(20, 2), torch.full((20, 2), math.nan), torch.randn(20, 2) / 0],
    ids=["few", "no-axis", "no-variation", "nan", "infinite"],
)
def test_moments_refuse(z):
    message = "the samples do not vary" if not z.any() else "expected finite" if z.isinf().any() else "expected"
    with pytest.raises(ValueError, match=f"^z: {message}"):
        kl_to_prior_moments(z)


@pytest.mark.parametrize("batch", [2**15, 200])
def test_active_units(batch, monkeypatch):
    """Means that vary by 0, by too little and by enough, under widths that dwarf all of these: their own noise is taken off."""
    monkeypatch.setattr(evaluation, "CHUNK", batch)
    slopes = torch.tensor([0.0, 0.05, 0.2, 1.0])

    class Spread(Posterior):
        latent_dim = 4

        def sample(self, x, shape=()):
            assert not torch.is_grad_enabled()
            return x * slopes + torch.randn(*shape, len(x), 4)

    # 0.05² is below the threshold 0.01 and 0.2² above it; the noise of a mean of 64 alone would be 1/64 = 0.016.
    assert active_units(Spread(), torch.randn(5000, 1)) == 2
    with pytest.raises(ValueError, match="^x, samples: "):
        active_units(Spread(), torch.randn(1, 1))


def test_effects_of_coordinates():
    """A product of two coordinates moves with one of them as far as the other is wide; a third one does nothing."""

    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, z):
            return torch.stack([self.scale * z[..., 0], z[..., 0] * z[..., 1]], dim=-1)

    effects = coordinate_effects(GaussianDecoder(Product()), 3, codes=20_000)
    # (2 · 0.5)² and 4 E z₂², a mean over the two pixels; of the second coordinate the product alone
    torch.testing.assert_close(effects, torch.tensor([2.5, 2.0, 0.0]), rtol=0.05, atol=0)


def test_estimates():
    values = np.array([1.0, 2.0, 4.0])
    for given in (values, torch.from_numpy(values)):
        estimate = Estimate.of_mean(given)
        assert estimate.value == pytest.approx(7 / 3)
        assert estimate.stderr == pytest.approx(math.sqrt(np.var(values, ddof=1) / 3))
    assert Estimate.of_mean(torch.from_numpy(values).bfloat16()) == Estimate.of_mean(values)  # which NumPy has not
    with pytest.raises(ValueError, match="^values: "):
        Estimate.of_mean(np.array([1.0]))


def test_samples_in_half_precision_are_measured_in_double():
    q, p = torch.randn(2, 2000, 2).bfloat16()
    assert kl_nearest_neighbour(q, p, k=20) == kl_nearest_neighbour(q.double(), p.double(), k=20)
    for measure in (kl_to_prior_histogram, kl_to_prior_moments):
        assert measure(q) == measure(q.double())


def test_measuring_builds_no_graph():
    game_posterior = GaussianPosterior(MLP(4, [8], 4), 2)
    decoder = BernoulliDecoder(MLP(2, [8], 4))
    x = torch.bernoulli(torch.full((3, 4), 0.5))
    assert not iwlb_log_likelihood(decoder, game_posterior, x, 5).requires_grad
    assert not log_likelihood_quadrature(decoder, x, points=41)[0].requires_grad


def test_energy_distance_by_brute_force():
    a, b = torch.randn(7, 2), torch.randn(5, 2) + 1
    distance = lambda p, q: float((p - q).norm())  # noqa: E731
    across = sum(distance(p, q) for p in a for q in b) / 35
    within = sum(distance(p, q) for p in a for q in a) / 42 + sum(distance(p, q) for p in b for q in b) / 20
    assert evaluation.energy_distance(a, b) == pytest.approx(2 * across - within, rel=1e-5)


def test_energy_distance_of_known_laws():
    """In one dimension against SciPy's, which is its square root with each point's distance to itself counted."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 1, generator=generator)
    b = torch.randn(4000, 1, generator=generator)
    assert evaluation.energy_distance(a, b + 1) == pytest.approx(
        stats.energy_distance(a[:, 0], b[:, 0] + 1) ** 2, abs=2e-3
    )
    # Without them the estimate has no bias: it is negative as often as not where the laws agree.
    values = [evaluation.energy_distance(*torch.randn(2, 100, 3, generator=generator)) for _ in range(200)]
    mean, stderr = float(np.mean(values)), float(np.std(values) / math.sqrt(200))
    assert abs(mean) < 4 * stderr and min(values) < 0


def test_energy_distance_does_not_depend_on_the_origin():
    a, b = torch.randn(2, 200, 3, dtype=torch.float64) + torch.tensor([0.0, 0.5])[:, None, None]
    here = evaluation.energy_distance(a, b)
    assert evaluation.energy_distance(a + 1e8, b + 1e8) == pytest.approx(here, rel=1e-6)


@pytest.mark.parametrize("a, b, named", [((1, 2), (3, 2), "a"), ((3, 2), (3, 1), "b"), ((3,), (3,), "a")])
def test_energy_distance_refuses(a, b, named):
    with pytest.raises(ValueError, match=f"^{named}: "):
        evaluation.energy_distance(torch.zeros(a), torch.zeros(b))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="^a: expected finite entries"):
            evaluation.energy_distance(torch.full((3, 2), bad), torch.zeros(3, 2))


def test_a_single_image_is_no_batch():
    posterior, decoder = GaussianPosterior(MLP(4, [8], 4), 2), BernoulliDecoder(MLP(2, [8], 4))
    with pytest.raises(ValueError, match=r"^x: expected shape \(batch, n\), got \(4,\)"):
        iwlb_log_likelihood(decoder, posterior, torch.zeros(4), 5)


def test_a_mean_by_levels_has_the_value_and_the_error_that_it_says():
    """Three levels, of which each adds something that is correlated with the values before it."""
    torch.manual_seed(0)
    found, coarse_alone = [], []
    for _ in range(3000):
        first = 3 * torch.randn(200)
        second = first[:50] + 1 + 0.2 * first[:50] + 0.5 * torch.randn(50)
        third = second[:10] + 0.5 - 0.1 * first[:10] + 0.2 * torch.randn(10)
        found.append(mean_by_levels(first, second, third))
        coarse_alone.append(float(first.mean()))
    values = torch.tensor([estimate.value for estimate in found])
    assert abs(values.mean() - 1.5) < 4.5 * values.std() / math.sqrt(len(values))
    variance = torch.tensor([estimate.stderr**2 for estimate in found]).mean()
    assert variance.sqrt() == pytest.approx(float(values.std()), rel=0.05)
    assert variance.sqrt() > 1.2 * torch.tensor(coarse_alone).std()  # the later levels' part is felt


def test_one_level_is_a_plain_mean_and_two_are_the_first_and_what_the_second_adds():
    x = torch.tensor([1.0, 2.0, 4.0, 9.0])
    assert mean_by_levels(x) == Estimate.of_mean(x)
    assert mean_by_levels(x, x + 1).value == pytest.approx(5)
    assert mean_by_levels(x, x[:2] + 1).stderr == pytest.approx(Estimate.of_mean(x).stderr)
    # As many in each: what matters is the last alone.
    y = torch.tensor([0.5, 1.0, 7.0, 3.0])
    both = mean_by_levels(x, y)
    assert (both.value, both.stderr) == pytest.approx((Estimate.of_mean(y).value, Estimate.of_mean(y).stderr))
    # Of an infinite value nobody knows the error.
    lost = mean_by_levels(torch.tensor([0.0, 1.0, -math.inf]), torch.tensor([1.0, 2.0]))
    assert lost.value == -math.inf and math.isnan(lost.stderr)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([], "at least one, got none"),
        ([torch.ones(1)], r"two or more values.*got \[1\]"),
        ([torch.ones(3), torch.ones(4)], r"no more in a level than before it, got \[3, 4\]"),
        ([torch.ones(3), torch.tensor([0.0, math.nan])], r"levels\[1\]: expected numbers, got 1 NaN"),
    ],
)
def test_levels_that_make_no_mean_are_refused(levels, message):
    with pytest.raises(ValueError, match=message):
        mean_by_levels(*levels)


QUADRATURE = """
import resource, torch
from avb_core import data, models
from avb_core.decoders import BernoulliDecoder
from avb_core.evaluation import log_likelihood_quadrature
from avb_core.networks import MLP
resource.setrlimit(resource.RLIMIT_DATA, (5 * 2**30, 5 * 2**30))
torch.manual_seed(0)
x = data.digits("test").binarized().batch(torch.arange(297))
values, _ = log_likelihood_quadrature(BernoulliDecoder(MLP(2, [], 64)), x)
assert values.isfinite().all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the memory of a process so")
def test_quadrature_needs_no_more_memory_than_its_values():
    """297 images on 601 × 601 points are 0.8 GiB; results kept in pieces among large temporaries took 12 and more."""
    run = subprocess.run([sys.executable, "-c", QUADRATURE], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
