"""ELBO and IWLB against exact models, brute-force enumeration, SciPy and torch.distributions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch.autograd import gradcheck
from torch.distributions import Independent, MultivariateNormal, Normal

from avb_core.bounds import bits_per_dimension, elbo, iwlb
from avb_core.testbeds import DiscreteModel, LinearGaussian

REPEATABLE = settings(derandomize=True, database=None, deadline=None, max_examples=100)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def expected_iwlb(model, q, k):
    """E[L_k] for each x, exactly: the sum over all nz^k tuples of samples from q(z | x)."""
    log_weights = model.joint().log() - q.log()  # (nz, nx)
    total = torch.zeros(q.shape[1], dtype=torch.float64)
    for samples in itertools.product(range(q.shape[0]), repeat=k):
        total += q[list(samples)].prod(0) * iwlb(log_weights[list(samples)])
    return total


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 7, 5000])
@pytest.mark.parametrize("batch", [(), (1,), (5,), (2, 1, 3)])
def test_against_scipy_and_torch(k, batch):
    log_weights = 5 * torch.randn(k, *batch, dtype=torch.float64, generator=rng(k))
    assert elbo(log_weights).shape == iwlb(log_weights).shape == batch
    np.testing.assert_allclose(elbo(log_weights), np.mean(log_weights.numpy(), axis=0), rtol=1e-12)
    uniform = np.full((k, *[1] * len(batch)), 1 / k)
    np.testing.assert_allclose(
        iwlb(log_weights), special.logsumexp(log_weights.numpy(), axis=0, b=uniform), rtol=1e-12, atol=1e-12
    )
    # A mixture's log-density is the same formula, in torch.distributions' own hand.
    mixture = torch.distributions.Categorical(logits=torch.zeros(k, dtype=torch.float64)).logits
    torch.testing.assert_close(iwlb(log_weights), (log_weights.movedim(0, -1) + mixture).logsumexp(-1))


def test_one_sample_makes_them_equal():
    log_weights = torch.randn(1, 4, generator=rng())
    assert torch.equal(elbo(log_weights), log_weights[0])
    assert torch.equal(iwlb(log_weights), log_weights[0])


def test_a_sum_in_place_of_the_mean_is_no_bound():
    """Leaving out 1/k overestimates log p(x) by log k, even with the exact posterior."""
    model = DiscreteModel.random(3, 4, rng())
    log_weights = (model.joint().log() - model.posterior().log())[[0, 1, 1, 2]]
    torch.testing.assert_close(iwlb(log_weights), model.marginal().log())
    torch.testing.assert_close(
        log_weights.logsumexp(0) - model.marginal().log(), torch.full((4,), math.log(4)).double()
    )


# --- as bounds --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_iwlb_climbs_towards_the_log_likelihood(seed):
    """E[L_1] = ELBO ≤ E[L_2] ≤ E[L_3] ≤ log p(x), enumerated: no sampling, so no standard error."""
    model = DiscreteModel.random(4, 5, rng(seed))
    q = DiscreteModel.random(4, 5, rng(seed + 100)).posterior()
    bounds = [expected_iwlb(model, q, k) for k in (1, 2, 3)]
    torch.testing.assert_close(bounds[0], model.elbo(q), rtol=1e-10, atol=1e-12)
    for lower, upper in itertools.pairwise([*bounds, model.marginal().log()]):
        assert (upper > lower).all()
    # The gap of L_k falls like Var(w)/(2 k p(x)²) for large k, and each step keeps part of it.
    assert ((model.marginal().log() - bounds[2]) < (model.marginal().log() - bounds[0])).all()


def test_iwlb_is_tight_at_the_posterior():
    model = DiscreteModel.random(4, 5, rng(1))
    for k in (1, 2, 3):
        torch.testing.assert_close(expected_iwlb(model, model.posterior(), k), model.marginal().log())


def test_linear_gaussian_by_sampling():
    """ELBO and IWLB on a continuous model, within four standard errors; weights from torch.distributions."""
    generator = rng(2)
    weight = torch.randn(3, 2, dtype=torch.float64, generator=generator)
    model = LinearGaussian(weight, torch.zeros(3, dtype=torch.float64), 0.5)
    x, _ = model.sample(1, generator)
    exact_mean, exact_tril = model.posterior(x[0])
    mean, std = exact_mean + 0.1, 1.3 * exact_tril.diagonal()
    noise = torch.randn(40_000, 2, dtype=torch.float64, generator=generator)
    z = mean + std * noise
    q = Independent(Normal(mean, std), 1)
    prior = MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    likelihood = Independent(Normal(z @ weight.T, 0.5), 1)
    log_weights = likelihood.log_prob(x[0]) + prior.log_prob(z) - q.log_prob(z)

    truth = model.elbo(x[0], mean, torch.diag(std))
    stderr = log_weights.std() / math.sqrt(len(log_weights))
    assert abs(elbo(log_weights) - truth) < 4 * stderr
    previous, previous_stderr = elbo(log_weights), stderr
    for k in (2, 10, 100):
        draws = iwlb(log_weights.reshape(k, -1))
        value, stderr = draws.mean(), draws.std() / math.sqrt(len(draws))
        assert value > previous - 4 * math.hypot(stderr, previous_stderr)
        assert value < model.log_marginal(x[0]) + 4 * stderr
        previous, previous_stderr = value, stderr
    assert abs(iwlb(log_weights) - model.log_marginal(x[0])) < 0.02
    assert truth < model.log_marginal(x[0]) - 0.02


@REPEATABLE
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8), st.floats(-1e4, 1e4))
def test_properties(values, shift):
    log_weights = torch.tensor(values, dtype=torch.float64)
    mean, bound = elbo(log_weights).item(), iwlb(log_weights).item()
    tolerance = 1e-9 + 1e-13 * max(map(abs, values))
    assert mean <= bound + tolerance  # Jensen, sample by sample
    assert max(values) - math.log(len(values)) - tolerance <= bound <= max(values) + tolerance
    assert iwlb(log_weights + shift).item() == pytest.approx(bound + shift, rel=1e-12, abs=1e-8)
    assert iwlb(log_weights.flip(0)).item() == pytest.approx(bound, rel=1e-12, abs=1e-9)
    assert iwlb(log_weights.repeat(3)).item() == pytest.approx(bound, rel=1e-12, abs=1e-9)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradients():
    log_weights = torch.randn(4, 2, dtype=torch.float64, generator=rng(), requires_grad=True)
    assert gradcheck(elbo, log_weights)
    assert gradcheck(iwlb, log_weights)
    iwlb(log_weights).sum().backward()
    np.testing.assert_allclose(log_weights.grad, special.softmax(log_weights.detach().numpy(), axis=0), rtol=1e-12)


def test_gradients_pass_by_a_sample_of_weight_zero():
    log_weights = torch.tensor([-math.inf, 0.0, 1e4], requires_grad=True)
    iwlb(log_weights).backward()
    assert log_weights.grad.tolist() == [0, 0, 1]


# --- extremes and precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_weights(dtype):
    eps = torch.finfo(dtype).eps
    for level in (-1e4, 1e4):
        log_weights = torch.full((8, 2), level, dtype=dtype)
        assert iwlb(log_weights).tolist() == pytest.approx([level] * 2, rel=2 * eps)
        assert elbo(log_weights).tolist() == pytest.approx([level] * 2, rel=2 * eps)
    spread = torch.tensor([-1e4, 1e4], dtype=dtype)
    assert iwlb(spread).item() == pytest.approx(1e4 - math.log(2), rel=2 * eps)
    assert elbo(spread).item() == 0
    zero = torch.tensor([-math.inf, 0.0], dtype=dtype)
    assert iwlb(zero).item() == pytest.approx(-math.log(2), rel=2 * eps)
    assert elbo(zero).item() == -math.inf
    assert iwlb(torch.full((3,), -math.inf, dtype=dtype)).item() == -math.inf
    assert iwlb(torch.tensor([math.inf, 0.0], dtype=dtype)).item() == math.inf
    assert iwlb(zero).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_many_samples(dtype):
    """5,000 weights lose no more than half precision's own rounding: sums are carried in single precision."""
    log_weights = torch.randn(5000, 3, generator=rng()).to(dtype)
    for bound in (elbo, iwlb):
        error = (bound(log_weights).double() - bound(log_weights.double())).abs()
        assert (error <= torch.finfo(dtype).eps * math.log(5000)).all()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [elbo, iwlb])
@pytest.mark.parametrize(
    "bad",
    [
        torch.empty(0),
        torch.empty(0, 3),
        torch.tensor(1.0),
        torch.tensor([0.0, math.nan]),
        torch.tensor([1, 2]),
        torch.tensor([True]),
        torch.tensor([1j]),
        [0.0, 1.0],
        np.zeros(3),
        None,
    ],
    ids=["k=0", "k=0-batch", "no-axis", "nan", "integers", "booleans", "complex", "list", "numpy", "none"],
)
def test_bad_input_is_named(bound, bad):
    with pytest.raises(ValueError, match="^log_weights: "):
        bound(bad)


def test_bits_per_dimension():
    """A uniform choice among 256 levels costs 8 bits; that among the four points half a bit for each pixel."""
    assert bits_per_dimension(12 * -math.log(256), 12) == pytest.approx(8)
    assert bits_per_dimension(-math.log(4), 4) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="^dimensions: .* got 0"):
        bits_per_dimension(-1.0, 0)
