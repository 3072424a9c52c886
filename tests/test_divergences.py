"""Critic objectives: what a critic, trained with no knowledge of the formulas, ends up as."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, special, stats
from torch.autograd import gradcheck

from avb_core.divergences import F_DIVERGENCES, forward_kl, kl, kl_from_critic, logistic, reverse_kl

REPEATABLE = settings(derandomize=True, database=None, deadline=None, max_examples=25)
OF_F_DIVERGENCES = [divergence.objective for divergence in F_DIVERGENCES.values()]
OBJECTIVES = [logistic, kl, reverse_kl, forward_kl, *OF_F_DIVERGENCES]
every_f = pytest.mark.parametrize("f", F_DIVERGENCES.values(), ids=lambda divergence: divergence.name)
every_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)


LOG_RATIOS = torch.linspace(-3, 3, 13, dtype=torch.float64)

# Textbook forms of f, in u = q/p, and closed forms for q = N(m, 1), p = N(0, 1); JS has none.
GENERATORS = {
    "KL": lambda u: u * np.log(u),
    "reverse KL": lambda u: -np.log(u),
    "Jensen–Shannon": lambda u: 0.5 * (u * np.log(2 * u / (u + 1)) + np.log(2 / (u + 1))),
    "squared Hellinger": lambda u: (np.sqrt(u) - 1) ** 2,
    "Pearson χ²": lambda u: (u - 1) ** 2,
    "Neyman χ²": lambda u: (u - 1) ** 2 / u,
}
OF_SHIFTED_GAUSSIANS = {
    "KL": lambda m: m**2 / 2,
    "reverse KL": lambda m: m**2 / 2,
    "squared Hellinger": lambda m: 2 - 2 * math.exp(-(m**2) / 8),
    "Pearson χ²": lambda m: math.expm1(m**2),
    "Neyman χ²": lambda m: math.expm1(m**2),
}


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


def divergence_of(objective, q, p):
    """What the least loss is the negative of, by SciPy and the textbook forms of f."""
    if objective is logistic:
        middle = (q + p) / 2
        return stats.entropy(q, middle) + stats.entropy(p, middle) - 2 * math.log(2)
    if objective.name in GENERATORS:
        return float(p @ GENERATORS[objective.name](q / p))
    return stats.entropy(q, p)


@every_objective
def test_the_least_loss_is_the_divergence(objective):
    """−D_f for the variational forms; −2 JS + 2 log 2 for the logistic one, hence 2 log 2 at q = p."""
    for counts_q, counts_p in ([1, 2, 3], [3, 2, 1]), ([5, 1, 1], [1, 4, 2]), ([1, 2], [1, 2]):
        counts_q, counts_p = torch.tensor(counts_q), torch.tensor(counts_p)
        q, p = (counts.double().numpy() / counts.sum().item() for counts in (counts_q, counts_p))
        least = tabular_loss(objective, trained_table(objective, counts_q, counts_p), counts_q, counts_p).item()
        assert least == pytest.approx(-divergence_of(objective, q, p), abs=1e-8)


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


# --- f-divergences ----------------------------------------------------------------------------------------------------


@every_f
def test_generator(f):
    ratio = LOG_RATIOS.exp().numpy()
    np.testing.assert_allclose(f.generator(LOG_RATIOS), GENERATORS[f.name](ratio), rtol=1e-10, atol=1e-12)
    assert f.generator(torch.zeros(1)).item() == 0
    # In single precision it is finite wherever its value is, and right there.
    far = torch.linspace(-86, 86, 41, dtype=torch.float64)
    value = f.generator(far)
    fits = value.abs() < torch.finfo(torch.float32).max
    torch.testing.assert_close(f.generator(far.float())[fits].double(), value[fits], rtol=1e-4, atol=1e-5)
    # Where q or p vanishes, f(0) and f(∞) are the limits.
    ends = {"KL": (0, math.inf), "reverse KL": (math.inf, -math.inf), "Jensen–Shannon": (0.5 * math.log(2), math.inf)}
    ends |= {"squared Hellinger": (1, math.inf), "Pearson χ²": (1, math.inf), "Neyman χ²": (math.inf, math.inf)}
    assert f.generator(torch.tensor([-math.inf, math.inf])).tolist() == pytest.approx(ends[f.name])
    values = f.generator(torch.linspace(0.2, 5, 200, dtype=torch.float64).log())
    assert (values.diff().diff() > 0).all(), "not convex in the ratio"


@every_f
def test_the_conjugate_by_maximization(f):
    """sup_u (t u − f(u)) by SciPy's search over log u, with its maximizer, at the critic's values."""
    for r in LOG_RATIOS:
        t = f.critic(r)
        assert f.domain[0] < t < f.domain[1]

        def falls_short(log_u, t=float(t)):
            return GENERATORS[f.name](math.exp(log_u)) - t * math.exp(log_u)

        found = optimize.minimize_scalar(falls_short, bounds=(-12, 12), method="bounded", options={"xatol": 1e-10})
        assert f.conjugate(t).item() == pytest.approx(-found.fun, rel=1e-7, abs=1e-7)
        assert f.log_ratio(t).item() == pytest.approx(found.x, abs=1e-4)
        assert f.log_ratio(t).item() == pytest.approx(r.item(), abs=1e-9)
        assert f.penalty(r).item() == pytest.approx(f.conjugate(t).item(), rel=1e-9, abs=1e-12)


@every_f
def test_the_bound_is_tight_at_the_critic_and_below_elsewhere(f):
    """E_q T − E_p f*(T) by quadrature, for two Gaussians: D_f at T*, which has a closed form, and less for other critics."""
    shift = 0.7
    q, p = stats.norm(shift, 1), stats.norm(0, 1)

    def bound(push):
        def integrand(x):
            r = torch.tensor(q.logpdf(x) - p.logpdf(x) + push * math.sin(2 * x), dtype=torch.float64)
            return (q.pdf(x) * f.critic(r) - p.pdf(x) * f.penalty(r)).item()

        return integrate.quad(integrand, -12, 12, epsabs=1e-11)[0]

    direct = integrate.quad(
        lambda x: p.pdf(x) * GENERATORS[f.name](math.exp(q.logpdf(x) - p.logpdf(x))), -12, 12, epsabs=1e-11
    )[0]
    assert bound(0.0) == pytest.approx(direct, abs=1e-8)
    if f.name in OF_SHIFTED_GAUSSIANS:
        assert bound(0.0) == pytest.approx(OF_SHIFTED_GAUSSIANS[f.name](shift), abs=1e-8)
    assert bound(0.1) < bound(0.0) > bound(-0.1)


def test_relatives_in_the_table():
    on_q, on_p = torch.randn(50, generator=rng(1)).double(), torch.randn(30, generator=rng(2)).double()
    of_table = F_DIVERGENCES["KL"].objective.critic_loss(on_q, on_p)
    torch.testing.assert_close(of_table, kl.critic_loss(1 + on_q, 1 + on_p))
    of_table = F_DIVERGENCES["Jensen–Shannon"].objective.critic_loss(on_q, on_p)
    torch.testing.assert_close(of_table, 0.5 * logistic.critic_loss(on_q, on_p) - math.log(2))


def test_swapping_the_densities_swaps_the_divergences():
    """f°(u) = u f(1/u): reverse KL of KL, Neyman of Pearson, and the symmetric ones of themselves."""
    for name, swapped in {
        "KL": "reverse KL",
        "Pearson χ²": "Neyman χ²",
        "Jensen–Shannon": "Jensen–Shannon",
        "squared Hellinger": "squared Hellinger",
    }.items():
        of_swapped = LOG_RATIOS.exp() * F_DIVERGENCES[swapped].generator(-LOG_RATIOS)
        torch.testing.assert_close(F_DIVERGENCES[name].generator(LOG_RATIOS), of_swapped)
