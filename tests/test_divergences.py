"""Critic objectives: what a critic, trained with no knowledge of the formulas, ends up as."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats
from torch.autograd import gradcheck

from avb_core.divergences import forward_kl, kl, kl_from_critic, logistic, reverse_kl

REPEATABLE = settings(derandomize=True, database=None, deadline=None, max_examples=25)
OBJECTIVES = [logistic, kl, reverse_kl, forward_kl]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def tabular_loss(objective, table, counts_q, counts_p):
    """critic_loss of a table with an entry for each value, on samples in which value i occurs counts[i] times."""
    return objective.critic_loss(table.repeat_interleave(counts_q), table.repeat_interleave(counts_p))


def trained_table(objective, counts_q, counts_p):
    """Minimize critic_loss over the table with SciPy's BFGS: nothing here knows what the optimum should be."""

    def loss_and_gradient(entries):
        table = torch.tensor(entries, requires_grad=True)
        loss = tabular_loss(objective, table, counts_q, counts_p)
        loss.backward()
        return loss.item(), table.grad.numpy()

    result = optimize.minimize(
        loss_and_gradient, np.zeros(len(counts_q)), jac=True, method="BFGS", options={"gtol": 1e-9}
    )
    return torch.from_numpy(result.x)


@every_objective
@pytest.mark.parametrize("counts_q, counts_p", [([1, 2, 3], [3, 2, 1]), ([5, 1, 1, 9], [2, 8, 4, 4]), ([3, 3], [3, 3])])
def test_a_trained_critic_tells_the_log_ratio_and_the_kl(objective, counts_q, counts_p):
    counts_q, counts_p = torch.tensor(counts_q), torch.tensor(counts_p)
    q, p = (counts.double().numpy() / counts.sum().item() for counts in (counts_q, counts_p))
    table = trained_table(objective, counts_q, counts_p)
    np.testing.assert_allclose(objective.log_ratio(table), np.log(q / p), atol=1e-6)
    read_off = kl_from_critic(objective, table.repeat_interleave(counts_q)).item()
    assert read_off == pytest.approx(stats.entropy(q, p), abs=1e-6)


@REPEATABLE
@given(
    st.sampled_from(OBJECTIVES),
    st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=2, max_size=6),
)
def test_any_pair_of_distributions(objective, counts):
    counts_q, counts_p = torch.tensor(counts).T
    q, p = (column.double().numpy() / column.sum().item() for column in (counts_q, counts_p))
    table = trained_table(objective, counts_q, counts_p)
    np.testing.assert_allclose(objective.log_ratio(table), np.log(q / p), atol=1e-5)


@every_objective
def test_the_least_loss_is_the_divergence(objective):
    """−KL for the variational forms; −2 JS + 2 log 2 for the logistic one, hence 2 log 2 at q = p."""
    counts_q, counts_p = torch.tensor([1, 2, 3]), torch.tensor([3, 2, 1])
    q, p = counts_q.numpy() / 6, counts_p.numpy() / 6
    least = tabular_loss(objective, trained_table(objective, counts_q, counts_p), counts_q, counts_p).item()
    middle = (q + p) / 2
    jensen_shannon = (stats.entropy(q, middle) + stats.entropy(p, middle)) / 2
    expected = 2 * math.log(2) - 2 * jensen_shannon if objective is logistic else -stats.entropy(q, p)
    assert least == pytest.approx(expected, abs=1e-8)
    equal = torch.tensor([1, 2])
    least = tabular_loss(objective, trained_table(objective, equal, equal), equal, equal).item()
    assert least == pytest.approx(2 * math.log(2) if objective is logistic else 0, abs=1e-9)


@every_objective
def test_gaussians_by_quadrature(objective):
    """At the true log ratio of two Gaussians the loss is stationary in every direction, by SciPy's quadrature."""
    q, p = stats.norm(0.5, 0.8), stats.norm(0, 1)
    sign = torch.tensor([0.0, 1.0], dtype=torch.float64)
    offset, slope = objective.log_ratio(torch.zeros(1)).item(), objective.log_ratio(sign).diff().item()

    def critic(z, push=0.0, direction=np.sin):
        ratio = q.logpdf(z) - p.logpdf(z)
        return (ratio - offset) / slope + push * direction(z)

    def loss(push, direction):
        def integrand(z):
            output = torch.tensor([critic(z, push, direction)])
            return (q.pdf(z) * objective.loss_on_q(output) + p.pdf(z) * objective.loss_on_p(output)).item()

        return integrate.quad(integrand, -9, 9, epsabs=1e-10, limit=200)[0]

    for direction in (np.sin, np.tanh):
        best, left, right = (loss(push, direction) for push in (0, -0.01, 0.01))
        assert left > best and right > best
        assert abs(right - left) < 0.05 * (right + left - 2 * best)


def test_logistic_is_binary_cross_entropy():
    on_q, on_p = torch.randn(50, generator=rng(1)).double(), torch.randn(30, generator=rng(2)).double()
    expected = -special.log_expit(on_q.numpy()).mean() - special.log_expit(-on_p.numpy()).mean()
    assert logistic.critic_loss(on_q, on_p).item() == pytest.approx(expected, rel=1e-12)
    bernoulli_q, bernoulli_p = (torch.distributions.Bernoulli(logits=output) for output in (on_q, on_p))
    expected = -(
        bernoulli_q.log_prob(torch.ones_like(on_q)).mean() + bernoulli_p.log_prob(torch.zeros_like(on_p)).mean()
    )
    assert logistic.critic_loss(on_q, on_p).item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_variational_forms_are_one():
    """reverse_kl is kl with T = 1 − D, and forward_kl is kl in another role."""
    on_q, on_p = torch.randn(50, generator=rng(1)).double(), torch.randn(30, generator=rng(2)).double()
    expected = -on_q.numpy().mean() + np.exp(on_p.numpy() - 1).mean()
    assert kl.critic_loss(on_q, on_p).item() == pytest.approx(expected, rel=1e-12)
    assert forward_kl.critic_loss(on_q, on_p).item() == pytest.approx(expected, rel=1e-12)
    assert reverse_kl.critic_loss(1 - on_q, 1 - on_p).item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(reverse_kl.log_ratio(1 - on_q), kl.log_ratio(on_q))
    poisson = torch.distributions.Poisson((on_p - 1).exp())  # its mean is the conjugate's value
    torch.testing.assert_close(kl.loss_on_p(on_p), poisson.mean)


@every_objective
def test_gradients(objective):
    on_q = torch.randn(5, dtype=torch.float64, generator=rng(1), requires_grad=True)
    on_p = torch.randn(2, 2, dtype=torch.float64, generator=rng(2), requires_grad=True)
    assert gradcheck(objective.critic_loss, (on_q, on_p))
    assert gradcheck(objective.log_ratio, on_q)
    assert gradcheck(lambda output: kl_from_critic(objective, output), on_q)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_saturated_logits_keep_their_gradient(dtype):
    """Where σ(T) rounds to 0 or 1, a loss on probabilities is infinite or flat; the loss on logits is neither."""
    wrong = torch.tensor([-1e4], dtype=dtype, requires_grad=True)
    loss = logistic.critic_loss(wrong, torch.tensor([1e4], dtype=dtype))
    assert loss.item() == pytest.approx(2e4, rel=torch.finfo(dtype).eps * 2)
    loss.backward()
    assert wrong.grad.item() == -1
    right = logistic.critic_loss(torch.tensor([1e4], dtype=dtype), torch.tensor([-1e4], dtype=dtype))
    assert right.item() == 0
    probabilities = torch.sigmoid(wrong.detach()).requires_grad_()
    assert -probabilities.log().mean().item() == math.inf


@every_objective
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_within_its_range(objective, dtype):
    on_q, on_p = torch.randn(64, generator=rng(1)).to(dtype), torch.randn(64, generator=rng(2)).to(dtype)
    ours, truth = objective.critic_loss(on_q, on_p), objective.critic_loss(on_q.double(), on_p.double())
    assert ours.dtype == dtype
    assert abs(ours.item() - truth.item()) <= 4 * torch.finfo(dtype).eps * (abs(truth.item()) + 1)


@every_objective
def test_shapes(objective):
    for shape in ((), (1,), (4,), (2, 3, 4)):
        outputs = torch.randn(shape, generator=rng())
        assert objective.critic_loss(outputs, torch.zeros(7)).shape == ()
        assert objective.log_ratio(outputs).shape == shape
        assert kl_from_critic(objective, outputs).shape == ()
    # A mean over each sample: the sizes of the two need not agree, and repeating one changes nothing.
    on_q, on_p = torch.randn(5, generator=rng(1)).double(), torch.randn(3, generator=rng(2)).double()
    torch.testing.assert_close(objective.critic_loss(on_q.repeat(4), on_p), objective.critic_loss(on_q, on_p))


@every_objective
@pytest.mark.parametrize(
    "bad",
    [torch.empty(0), torch.tensor([1.0, math.nan]), torch.tensor([1, 2]), [0.5], 0.5, None],
    ids=["empty", "nan", "integers", "list", "number", "none"],
)
def test_bad_input_is_named(objective, bad):
    good = torch.zeros(3)
    with pytest.raises(ValueError, match="^on_q: "):
        objective.critic_loss(bad, good)
    with pytest.raises(ValueError, match="^on_p: "):
        objective.critic_loss(good, bad)
    with pytest.raises(ValueError, match="^on_q: "):
        kl_from_critic(objective, bad)
    if not (isinstance(bad, torch.Tensor) and bad.is_floating_point()):
        with pytest.raises(ValueError, match="^critic_output: "):
            objective.log_ratio(bad)


@every_objective
def test_says_where_it_comes_from(objective):
    assert objective.name in repr(objective) and "eq." in repr(objective)
