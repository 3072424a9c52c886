"""Annealed importance sampling against linear-Gaussian models, whose log-likelihood is known in every dimension."""

import math

import pytest
import torch
from torch import nn

from avb_core._validate import require_no_nan
from avb_core.annealing import Annealing, ais_log_likelihood
from avb_core.decoders import BernoulliDecoder, GaussianDecoder
from avb_core.evaluation import log_likelihood_quadrature
from avb_core.networks import MLP
from avb_core.testbeds import LinearGaussian


def linear_model(d, seed=0):
    """A decoder, the exact model that it is, four images, and an exact posterior sample and Gaussian fit for each."""
    torch.manual_seed(seed)
    decoder = GaussianDecoder(nn.Linear(d, 2 * d), std=0.5)
    nn.init.normal_(decoder.network.weight, std=1.5 / math.sqrt(d))
    model = LinearGaussian(decoder.network.weight.detach(), decoder.network.bias.detach(), 0.5)
    x, z = model.sample(4)
    mean, scale_tril = model.posterior(x)
    marginal_std = (scale_tril @ scale_tril.T).diagonal().sqrt().expand(len(x), -1)
    return decoder, model, x, z, (mean, marginal_std)


def test_the_schedule_rises_from_the_start_to_the_end():
    betas = Annealing(temperatures=7).schedule()
    assert len(betas) == 8 and betas[0] == 0 and betas[-1] == 1
    assert (betas.diff() > 0).all()
    torch.testing.assert_close(betas, 1 - betas.flip(0))  # as slow at the end as at the start


@pytest.mark.parametrize("d, fitted", [(2, False), (6, False), (2, True), (16, True)])
def test_both_bounds_close_on_the_truth(d, fitted):
    decoder, model, x, z, fit = linear_model(d)
    annealing = Annealing(temperatures=200, leapfrog=8, chains=24)
    bounds = ais_log_likelihood(decoder, x, d, annealing, fit if fitted else None, posterior_sample=z)
    truth = model.log_marginal(x)
    # The error of log of the mean weight, by the spread of the weights.
    relative = (bounds.log_weights - bounds.log_weights.logsumexp(0) + math.log(annealing.chains)).exp()
    stderr = relative.std(0) / math.sqrt(annealing.chains)
    assert ((bounds.lower - truth).abs() < 5 * stderr + 0.02).all()
    assert (bounds.lower - truth).abs().mean() < 0.3
    assert (bounds.upper - truth).abs().mean() < 0.4
    assert 0.5 < bounds.acceptance < 0.8


def test_too_few_temperatures_leave_a_gap_between_the_bounds_and_the_truth_within():
    decoder, model, x, z, _ = linear_model(16)
    bounds = ais_log_likelihood(decoder, x, 16, Annealing(temperatures=20, leapfrog=10, chains=4), posterior_sample=z)
    truth = model.log_marginal(x).mean()
    assert bounds.lower.mean() < truth - 1 and bounds.upper.mean() > truth + 1


@pytest.mark.parametrize("backwards", [False, True])
def test_weights_are_unbiased_however_badly_the_chain_mixes(backwards):
    """E w = p(x) for two temperatures and one leapfrog step too, and E 1/w = 1/p(x) of chains led back from exact samples."""
    torch.manual_seed(0)
    decoder = GaussianDecoder(nn.Linear(1, 1), std=0.7)
    nn.init.constant_(decoder.network.weight, 1.5)
    model = LinearGaussian(decoder.network.weight.detach(), decoder.network.bias.detach(), 0.7)
    x = torch.full((50_000, 1), 0.3)
    mean, scale = model.posterior(x)
    z = mean + scale * torch.randn_like(x)
    # Averages exist where w is bounded, from the prior, or 1/w is, from a start that is narrower than the posterior.
    start = (mean + scale, (0.7 * scale).expand_as(x)) if backwards else None
    bounds = ais_log_likelihood(decoder, x, 1, Annealing(temperatures=2, leapfrog=1, chains=1), start, z)
    truth = model.log_marginal(x)
    ratio = (truth - bounds.upper if backwards else bounds.lower - truth).exp()
    assert ratio.std() > 0.5  # so the weights do vary
    assert abs(ratio.mean().item() - 1) < 4 * ratio.std().item() / math.sqrt(len(ratio))


def test_a_nonlinear_decoder_by_quadrature():
    torch.manual_seed(0)
    decoder = BernoulliDecoder(MLP(2, [16], 6))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(3)
    x = torch.bernoulli(torch.full((5, 6), 0.5))
    truth, error = log_likelihood_quadrature(decoder, x)
    bounds = ais_log_likelihood(decoder, x, 2, Annealing(temperatures=200, leapfrog=5, chains=32))
    assert error < 1e-3
    assert (bounds.lower - truth).abs().max() < 0.1


def test_a_trajectory_that_flies_off_is_refused():
    """Steep walls throw chains to infinity, where nobody asks the decoder; the bound stays one on log p(x)."""

    class Walled(GaussianDecoder):
        def log_prob(self, x, z):
            require_no_nan("z", z)
            return super().log_prob(x, z) - 1e30 * (z[..., 0].abs() - 1.5).relu().square()

    torch.manual_seed(0)
    decoder = Walled(nn.Linear(1, 1), std=1.0)
    nn.init.constant_(decoder.network.weight, 0.0)
    x = torch.randn(4, 1)
    bounds = ais_log_likelihood(decoder, x, 1, Annealing(temperatures=100, leapfrog=3, chains=64))
    # The image does not depend on z: p(x) is the Gaussian's, times the share of the prior between the walls.
    between = math.log(math.erf(1.5 / math.sqrt(2)))
    truth = decoder.log_prob(x, torch.zeros(4, 1)) + between
    torch.testing.assert_close(bounds.lower, truth.detach().double(), rtol=0, atol=0.15)


def test_the_decoder_is_left_as_it_was():
    decoder, _, x, _, _ = linear_model(2)
    decoder.network.bias.requires_grad_(False)
    ais_log_likelihood(decoder, x, 2, Annealing(temperatures=2, chains=2))
    assert decoder.network.weight.requires_grad and not decoder.network.bias.requires_grad
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_inference_mode_changes_nothing():
    """It takes no gradients, but the transitions need those of the density; tensors that were made in it are taken too."""
    decoder, _, *given, (mean, std) = linear_model(2)

    def bounds(x, z, mean, std):
        torch.manual_seed(0)
        return ais_log_likelihood(decoder, x, 2, Annealing(temperatures=3, chains=2), (mean, std), z)

    truth = bounds(*given, mean, std)
    with torch.inference_mode():
        found = bounds(*(each.clone() for each in (*given, mean, std)))
    assert torch.equal(found.lower, truth.lower) and torch.equal(found.upper, truth.upper)


def test_bad_input_is_named():
    decoder, _, x, z, fit = linear_model(2)
    for name in ("temperatures", "leapfrog", "chains"):
        with pytest.raises(ValueError, match=f"^{name}: expected a whole number, at least 1, got 0"):
            Annealing(**{name: 0})
        with pytest.raises(ValueError, match=f"^{name}: expected a whole number"):
            Annealing(**{name: 1.5})
        with pytest.raises(ValueError, match=f"^{name}: expected a whole number, at least 1, got True"):
            Annealing(**{name: True})
    with pytest.raises(ValueError, match=r"^x: expected shape \(batch, n\), got \(4,\)"):
        ais_log_likelihood(decoder, x[:, 0], 2)
    with pytest.raises(ValueError, match="^start mean: expected shape"):
        ais_log_likelihood(decoder, x, 2, start=(fit[0][:1], fit[1]))
    with pytest.raises(ValueError, match="^start std: expected positive entries, got 0"):
        ais_log_likelihood(decoder, x, 2, start=(fit[0], 0 * fit[1]))
    with pytest.raises(ValueError, match="^start mean: expected numbers, got 8 NaN"):
        ais_log_likelihood(decoder, x, 2, start=(math.nan * fit[0], fit[1]))
    with pytest.raises(ValueError, match="^posterior_sample: expected shape"):
        ais_log_likelihood(decoder, x, 2, posterior_sample=z[0])
