"""Games: what each loss means on models that are known exactly, and that each player moves itself and nobody else."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import avb_core.games
from avb_core.critics import CodeCritic, InnerProductCritic, PairCritic
from avb_core.data import Images, Points, four_points
from avb_core.decoders import BernoulliDecoder, GaussianDecoder, ImplicitDecoder
from avb_core.divergences import forward_kl, kl, logistic, reverse_kl
from avb_core.flows import AutoregressiveSteps, InverseAutoregressiveFlow
from avb_core.games import AVB, GAN, IWAE, VAE, AdaptiveContrastAVB, JointAdversary, TwoAdversaries
from avb_core.games.game import Game
from avb_core.games.gan import GENERATOR_LOSSES
from avb_core.networks import MLP, ConcatenationMLP
from avb_core.posteriors import MINIMUM_STD, BasisNoisePosterior, GaussianPosterior, ImplicitPosterior
from avb_core.testbeds import LinearGaussian
from avb_core.training import TrainingConfig, train


def build_vae():
    return VAE(GaussianPosterior(MLP(4, [6], 4), 2), BernoulliDecoder(MLP(2, [6], 4)))


def build_avb():
    return AVB(
        ImplicitPosterior(ConcatenationMLP((4, 3), [6], 2), 2, 3),
        BernoulliDecoder(MLP(2, [6], 4)),
        InnerProductCritic(MLP(4, [6], 5), MLP(2, [6], 5)),
    )


def build_iwae():
    return IWAE(GaussianPosterior(MLP(4, [6], 4), 2), BernoulliDecoder(MLP(2, [6], 4)), k=3)


def build_implicit():
    """An encoder and a decoder of which neither has a density."""
    posterior = ImplicitPosterior(ConcatenationMLP((4, 3), [6], 2), 2, 3)
    return posterior, ImplicitDecoder(ConcatenationMLP((2, 3), [6], 4), 3)


def build_joint_adversary():
    return JointAdversary(*build_implicit(), PairCritic(ConcatenationMLP((4, 2), [6], 1)))


def build_two_adversaries():
    critics = CodeCritic(MLP(2, [6], 1)), PairCritic(ConcatenationMLP((4, 2), [6], 1))
    return TwoAdversaries(*build_implicit(), *critics)


def build_gan():
    return GAN(MLP(2, [6], 4), MLP(4, [6], 1), latent_dim=2)


def build_adaptive_contrast():
    return AdaptiveContrastAVB(
        BasisNoisePosterior(MLP(4, [6], 2 * 4), [MLP(2, [5], 2) for _ in range(3)], 2, 2),
        BernoulliDecoder(MLP(2, [6], 4)),
        InnerProductCritic(MLP(4, [6], 5), MLP(2, [6], 5)),
    )


BUILDERS = {
    "AdaptiveContrastAVB": build_adaptive_contrast,
    "VAE": build_vae,
    "IWAE": build_iwae,
    "AVB": build_avb,
    "GAN": build_gan,
    "JointAdversary": build_joint_adversary,
    "TwoAdversaries": build_two_adversaries,
}
every_game = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


def test_every_game_is_tested_here():
    assert set(BUILDERS) == set(avb_core.games.__all__) - {"Game", "LatentVariableGame"}


@pytest.fixture(autouse=True)
def fixed_weights():
    torch.manual_seed(0)


@every_game
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda game: pickle.loads(pickle.dumps(game))], ids=["deep", "pickle"]
)
def test_a_copy_of_a_game_is_the_same_game(build, copied):
    game = build()
    other = copied(game)
    x = torch.rand(8, 4).round()
    for player in game.players:
        losses = []
        for each in (game, other):
            torch.manual_seed(1)
            losses.append(each.loss(player, x).item())
        assert losses[0] == losses[1]
        assert not set(map(id, game.parameters_of(player))) & set(map(id, other.parameters_of(player)))
    if hasattr(game, "objective"):
        assert other.objective is game.objective


def mean_and_stderr(loss, repeats=40):
    with torch.no_grad():
        values = torch.stack([loss() for _ in range(repeats)]).double()
    return values.mean().item(), values.std().item() / math.sqrt(repeats)


# --- what the losses mean ---------------------------------------------------------------------------------------------


@pytest.fixture
def linear_decoder():
    """A linear decoder and the exact model that it is."""
    decoder = GaussianDecoder(nn.Linear(2, 3), std=0.6)
    return decoder, LinearGaussian(decoder.network.weight.detach(), decoder.network.bias.detach(), 0.6)


def test_vae_loss_is_the_negative_elbo(linear_decoder):
    decoder, model = linear_decoder
    posterior = GaussianPosterior(MLP(3, [8], 4), 2)
    x, _ = model.sample(5)
    with torch.no_grad():
        mean, std = posterior(x)
        truth = -model.elbo(x, mean, torch.diag_embed(std)).mean().item()
    game = VAE(posterior, decoder)
    value, stderr = mean_and_stderr(lambda: game.model_loss(x.repeat(400, 1)))
    assert abs(value - truth) < 4 * stderr
    assert stderr < 0.03 * abs(truth)
    assert truth > -model.log_marginal(x).mean().item()


def test_a_likelihood_averaged_over_pixels_is_not_the_elbo(linear_decoder):
    """The mistake of many an implementation: the KL then counts n times too much."""

    class Averaged(GaussianDecoder):
        def log_prob(self, x, z):
            return super().log_prob(x, z) / x.shape[-1]

    decoder, model = linear_decoder
    averaged = Averaged(decoder.network, std=0.6)
    posterior = GaussianPosterior(MLP(3, [8], 4), 2)
    x, _ = model.sample(5)
    with torch.no_grad():
        mean, std = posterior(x)
        truth = -model.elbo(x, mean, torch.diag_embed(std)).mean().item()
    value, stderr = mean_and_stderr(lambda: VAE(posterior, averaged).model_loss(x.repeat(400, 1)))
    assert abs(value - truth) > 100 * stderr


class AffineNoise(nn.Module):
    """z = A x + L ε, a black box whose law happens to be known: N(A x, L Lᵀ)."""

    def __init__(self):
        super().__init__()
        self.of_image = nn.Linear(3, 2, bias=False)
        self.scale_tril = nn.Parameter(torch.tensor([[0.5, 0.0], [0.4, 0.7]]))

    def forward(self, x, noise):
        return self.of_image(x) + noise @ self.scale_tril.mT


class ExactRatio(nn.Module):
    """log q(z|x) − log p(z) of that black box, in torch.distributions' hand, as the optimal critic of an objective."""

    def __init__(self, box, of_ratio):
        super().__init__()
        self.box, self.of_ratio = box, of_ratio

    def forward(self, x, z):
        q = MultivariateNormal(self.box.of_image(x), scale_tril=self.box.scale_tril)
        p = Independent(Normal(torch.zeros_like(z), 1.0), 1)
        return self.of_ratio(q.log_prob(z) - p.log_prob(z))[..., None]


@pytest.mark.parametrize(
    "objective, of_ratio",
    [(logistic, lambda r: r), (kl, lambda r: 1 + r), (forward_kl, lambda r: 1 + r), (reverse_kl, lambda r: -r)],
    ids=["logistic", "kl", "forward_kl", "reverse_kl"],
)
def test_avb_with_the_optimal_critic_has_the_negative_elbo_for_loss(linear_decoder, objective, of_ratio):
    decoder, model = linear_decoder
    box = AffineNoise()
    x, _ = model.sample(5)
    with torch.no_grad():
        truth = -model.elbo(x, box.of_image(x), box.scale_tril).mean().item()
    game = AVB(ImplicitPosterior(box, 2, 2), decoder, PairCritic(ExactRatio(box, of_ratio)), objective)
    value, stderr = mean_and_stderr(lambda: game.model_loss(x.repeat(100, 1)))
    assert abs(value - truth) < 4 * stderr
    assert stderr < 0.03 * abs(truth)


def test_proposition_2_by_the_gradient_of_the_optimal_critic(linear_decoder):
    """With the ratio held fixed as a function, the model's gradient in the encoder is that of the exact −ELBO."""
    decoder, model = linear_decoder
    box = AffineNoise()
    frozen = AffineNoise()
    frozen.load_state_dict(box.state_dict())
    x, _ = model.sample(5)
    (-model.elbo(x, box.of_image(x), box.scale_tril.tril()).mean()).backward()
    truth = box.scale_tril.grad.clone()
    game = AVB(ImplicitPosterior(box, 2, 2), decoder, PairCritic(ExactRatio(frozen, lambda ratio: ratio)))
    gradients = []
    for _ in range(40):
        box.scale_tril.grad = None
        game.model_loss(x.repeat(100, 1)).backward(inputs=[box.scale_tril])
        gradients.append(box.scale_tril.grad.clone())
    gradients = torch.stack(gradients)
    stderr = gradients.std(0) / math.sqrt(len(gradients))
    assert ((gradients.mean(0) - truth).tril().abs() < 4 * stderr.tril() + 1e-6).all()


def test_a_critic_cannot_beat_two_log_two_when_q_is_p():
    """Whatever the critic says, equal distributions cost it 2 log 2 at least; silence (T = 0) costs exactly that."""
    posterior = ImplicitPosterior(ConcatenationMLP((4, 2), [], 2), 2, 2)
    with torch.no_grad():
        posterior.network.mlp[0].weight.copy_(torch.tensor([[0, 0, 0, 0, 1.0, 0], [0, 0, 0, 0, 0, 1]]))
        posterior.network.mlp[0].bias.zero_()
    x = four_points().batch(torch.arange(4)).repeat(100, 1)
    decoder = BernoulliDecoder(MLP(2, [], 4))
    silent = InnerProductCritic(MLP(4, [6], 5), MLP(2, [6], 5))
    with torch.no_grad():
        silent.z_network[-1].weight.zero_()
        silent.z_network[-1].bias.zero_()
    assert AVB(posterior, decoder, silent).critic_loss(x).item() == pytest.approx(2 * math.log(2), rel=1e-6)
    for scale in (0.3, 1.0, 3.0):
        critic = InnerProductCritic(MLP(4, [6], 5), MLP(2, [6], 5))
        with torch.no_grad():
            critic.z_network[-1].weight.mul_(10 * scale)
        game = AVB(posterior, decoder, critic)
        value, stderr = mean_and_stderr(lambda game=game: game.critic_loss(x))
        assert value > 2 * math.log(2) - 4 * stderr


@pytest.mark.parametrize("seed", [0, 1])
def test_the_critic_s_loss_is_least_at_the_log_ratio(linear_decoder, seed):
    """Codes of q count as 1 and the prior's as 0: with the labels swapped, the negative of the log ratio would be best."""
    torch.manual_seed(seed)
    decoder, model = linear_decoder
    box = AffineNoise()
    x, _ = model.sample(5)

    def loss(of_ratio):
        game = AVB(ImplicitPosterior(box, 2, 2), decoder, PairCritic(ExactRatio(box, of_ratio)))
        return mean_and_stderr(lambda: game.critic_loss(x.repeat(400, 1)))

    least, stderr = loss(lambda ratio: ratio)
    assert least < 2 * math.log(2) - 4 * stderr
    for other in (lambda r: -r, lambda r: 0 * r, lambda r: r + 1, lambda r: 2 * r):
        value, error = loss(other)
        assert value > least + 4 * math.hypot(stderr, error)


# --- telescopes and penalties -----------------------------------------------------------------------------------------


class Narrow(nn.Module):
    """z = x + 0.1 ε with two coordinates: q(z|x) = N(x, 0.01), some 5 nats from the prior."""

    std = 0.1

    def forward(self, x, noise):
        return x + self.std * noise


class ExactLinks(nn.Module):
    """The log ratios between neighbours on the way from q(z|x) to p, by `scipy.stats`, one output for each link.

    They add up to log q − log p by construction; which codes a link compares, they do not know.
    """

    def __init__(self, stds, change=lambda ratios: ratios):
        super().__init__()
        self.stds, self.change = stds, change

    def forward(self, x, z):
        x, z = torch.broadcast_tensors(x, z)
        logs = [
            stats.norm.logpdf(z, math.sqrt(1 - s**2) * x, math.sqrt((1 - s**2) * Narrow.std**2 + s**2)).sum(-1)
            for s in self.stds
        ]
        return self.change(torch.from_numpy(-np.diff(np.stack(logs, -1), axis=-1)).float())


BRIDGE = (0.2, 0.4, 0.7)


def build_telescope(change=lambda ratios: ratios):
    critic = PairCritic(ExactLinks((0.0, *BRIDGE, 1.0), change))
    return AVB(ImplicitPosterior(Narrow(), 2, 2), BernoulliDecoder(MLP(2, [6], 4)), critic, bridge=BRIDGE)


def test_the_links_of_a_telescope_add_up_to_the_log_ratio():
    x = torch.randn(50, 2)
    z = x + Narrow.std * torch.randn(3, 50, 2)
    expected = Independent(Normal(x, Narrow.std), 1).log_prob(z) - Independent(Normal(0 * x, 1.0), 1).log_prob(z)
    torch.testing.assert_close(build_telescope().log_ratio(x, z), expected, rtol=1e-4, atol=1e-3)


def test_every_link_s_loss_is_least_at_its_own_log_ratio():
    """Codes on either side of the right step: one step too near to q, or two steps' links exchanged, would show here."""
    torch.manual_seed(0)
    x = 0.5 * torch.randn(2, 2)

    def loss(change=lambda ratios: ratios):
        return mean_and_stderr(lambda: build_telescope(change).critic_loss(x.repeat(400, 1)))

    least, stderr = loss()
    for k in range(len(BRIDGE) + 1):
        only = torch.eye(len(BRIDGE) + 1)[k]
        for change in (lambda r, k=only: r + k, lambda r, k=only: r - k, lambda r, k=only: r * (1 + k)):
            value, error = loss(change)
            assert value > least + 4 * math.hypot(stderr, error)
    value, error = loss(lambda ratios: ratios.flip(-1))
    assert value > least + 4 * math.hypot(stderr, error)


def test_a_telescope_of_one_link_is_the_game_without():
    x = four_points().batch(torch.arange(4))
    game = build_avb()
    torch.manual_seed(3)
    loss = game.critic_loss(x)
    torch.manual_seed(3)
    z = game.posterior.sample(x)
    on_q, on_p = game.critic(x, torch.stack([z, torch.randn_like(z)]))
    assert torch.equal(loss, logistic.critic_loss(on_q, on_p))


class Quadratic(nn.Module):
    """A logit for each link, linear in z² and a constant: right for centred Gaussians of any widths."""

    def __init__(self, stds, latent_dim):
        super().__init__()
        self.scales = torch.tensor(stds)[:-1].clamp_min(0.02)
        self.weight = nn.Parameter(torch.zeros(len(self.scales), latent_dim))
        self.bias = nn.Parameter(torch.zeros(len(self.scales)))

    def forward(self, x, z):
        return ((z[..., None, :] / self.scales[:, None]).square() * self.weight).sum(-1) + self.bias


def test_a_telescope_measures_a_divergence_that_one_critic_misses():
    """27 nats in eight coordinates: no code of the prior is where the posterior's are, and any steep critic separates them."""
    std, x = 0.02, torch.zeros(256, 4)
    truth = 8 * (-math.log(std) - 0.5 + std**2 / 2)
    box = ImplicitPosterior(ConcatenationMLP((4, 8), [], 8), 8, 8)
    with torch.no_grad():
        box.network.mlp[0].weight.copy_(torch.cat([torch.zeros(8, 4), std * torch.eye(8)], 1))
        box.network.mlp[0].bias.zero_()
    estimates = []
    for bridge in ((), tuple(float(s) for s in np.geomspace(std, 1, 9)[:-1])):
        torch.manual_seed(1)
        critic = PairCritic(Quadratic((0.0, *bridge, 1.0), 8))
        game = AVB(box, BernoulliDecoder(MLP(8, [6], 4)), critic, bridge=bridge)
        optimizer = torch.optim.Adam(critic.parameters(), 3e-2)
        for _ in range(800):
            optimizer.zero_grad()
            game.critic_loss(x).backward()
            optimizer.step()
        with torch.no_grad():
            estimates.append(game.log_ratio(x, box.sample(x)).mean().item())
    alone, telescoped = estimates
    assert abs(alone - truth) > 10
    assert abs(telescoped - truth) < 2


def test_a_bridge_is_of_numbers_that_rise_and_of_as_many_steps_as_links():
    parts = build_avb()
    for bridge in ((0.5, 0.2), (0.0,), (1.0,), (0.3, 0.3), (float("nan"),)):
        with pytest.raises(ValueError, match="^bridge: expected numbers that rise strictly between 0 and 1, got"):
            AVB(parts.posterior, parts.decoder, parts.critic, bridge=bridge)
    with pytest.raises(ValueError, match="^critic: expected 2 links for as many steps, got 1"):
        AVB(parts.posterior, parts.decoder, parts.critic, bridge=(0.5,)).critic_loss(torch.rand(3, 4))
    several = PairCritic(ConcatenationMLP((4, 2), [6], 2), subtract_log_prior=True)
    with pytest.raises(ValueError, match="^subtract_log_prior: expected a critic of one link, got 2"):
        several(torch.rand(3, 4), torch.randn(3, 2))


def test_the_gradient_penalty_by_hand():
    """T = ⟨w, z⟩ has the gradient w everywhere: ½ γ ‖w‖² from each of the two sides."""
    parts = build_avb()
    critic = PairCritic(ConcatenationMLP((4, 2), [], 1))
    weight = critic.network.mlp[0].weight
    losses = []
    for penalty in (0.0, 0.3):
        torch.manual_seed(5)
        game = AVB(parts.posterior, parts.decoder, critic, gradient_penalty=penalty)
        losses.append(game.critic_loss(torch.rand(7, 4)))
    slope = weight[0, 4:]
    assert (losses[1] - losses[0]).item() == pytest.approx(0.3 * slope.square().sum().item(), rel=1e-4)
    (moved,) = torch.autograd.grad(losses[1] - losses[0], weight)
    torch.testing.assert_close(moved[0, 4:], 2 * 0.3 * slope, rtol=1e-3, atol=1e-5)
    # On a bridge every link pays for itself: slopes of opposite signs at the codes between them do not cancel.
    opposite = PairCritic(ConcatenationMLP((4, 2), [], 2))
    with torch.no_grad():
        opposite.network.mlp[0].weight.copy_(torch.tensor([[0, 0, 0, 0, 1.0, 0], [0, 0, 0, 0, -1, 0]]))
    on_bridge = []
    for penalty in (0.0, 1.0):
        torch.manual_seed(5)
        game = AVB(parts.posterior, parts.decoder, opposite, bridge=(0.5,), gradient_penalty=penalty)
        on_bridge.append(game.critic_loss(torch.rand(7, 4)).item())
    assert on_bridge[1] - on_bridge[0] == pytest.approx(2, rel=1e-4)
    for penalty in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="^gradient_penalty: expected 0 or more, got"):
            AVB(parts.posterior, parts.decoder, critic, gradient_penalty=penalty)


@pytest.mark.parametrize("build", [build_avb, build_adaptive_contrast])
def test_the_critic_sees_no_gradient_of_the_encoder(build):
    game = build()
    game.critic_loss(four_points().batch(torch.arange(4))).backward()
    assert all(parameter.grad is None for parameter in [*game.posterior.parameters(), *game.decoder.parameters()])
    assert all(parameter.grad is not None for parameter in game.critic.parameters())


class LinearNoise(BasisNoisePosterior):
    """A basis-noise posterior whose noise enters linearly: a full-covariance Gaussian with moments known exactly."""

    def __init__(self, flow=None, context_dim=0):
        noises = [nn.Linear(2, 2, bias=False) for _ in range(2)]
        super().__init__(nn.Linear(3, 2 * 3 + context_dim), noises, 2, 2, draws=2, flow=flow)

    def exact(self, x, of_image=None):
        offset, _, scales, _ = of_image or self(x)
        factors = [scales[..., i, :, None] * network.weight for i, network in enumerate(self.noise_networks)]
        covariance = sum(factor @ factor.mT for factor in factors)
        return offset, covariance

    def moments(self, x, of_image=None):
        mean, covariance = self.exact(x, of_image)
        return mean, covariance.diagonal(dim1=-2, dim2=-1).sqrt()

    def moments_full(self, x, of_image=None):
        mean, covariance = self.exact(x, of_image)
        return mean, torch.linalg.cholesky(covariance)


class RatioToContrast(nn.Module):
    """log q̃ − log N(0, I) in the contrast's coordinates, q̃ a Gaussian of mean 0 with the correlations of a frozen q."""

    def __init__(self, posterior, full_covariance):
        super().__init__()
        self.frozen, self.full_covariance = [posterior], full_covariance

    def forward(self, x, u):
        if self.full_covariance:
            return torch.zeros_like(u[..., :1])
        mean, covariance = self.frozen[0].exact(x)
        std = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        correlation = covariance / std[..., :, None] / std[..., None, :]
        q = MultivariateNormal(torch.zeros_like(mean), correlation)
        return (q.log_prob(u) - Normal(0.0, 1.0).log_prob(u).sum(-1))[..., None]


def test_a_flow_bends_posterior_and_contrast_alike(linear_decoder):
    """Base codes are Gaussian, so that the contrast bent by the flow is the posterior, and the best critic is 0."""
    decoder, model = linear_decoder
    posterior = LinearNoise(AutoregressiveSteps(3, 2, 4, [16]), context_dim=4)
    x, _ = model.sample(6)
    game = AdaptiveContrastAVB(posterior, decoder, PairCritic(RatioToContrast(posterior, True)), full_covariance=True)
    of_image = posterior(x)
    z, log_ratio = game.sample_with_log_ratio(x)
    base = posterior.unbend(z, of_image)
    assert (z - base).abs().min() > 1e-3
    torch.testing.assert_close(posterior.bend(base, of_image)[0], z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(game.log_ratio(x, z), log_ratio, atol=1e-4, rtol=1e-4)
    mean, covariance = posterior.exact(x)
    for i in range(len(x)):  # the density of z by the change of variables, the volume by automatic differentiation
        volume = torch.autograd.functional.jacobian(
            lambda b, i=i: posterior.flow(b, of_image.context[i])[0], base[i]
        ).det()
        log_q = MultivariateNormal(mean[i], covariance[i]).log_prob(base[i]) - volume.abs().log()
        torch.testing.assert_close(log_ratio[i], log_q - Normal(0.0, 1.0).log_prob(z[i]).sum(), atol=1e-4, rtol=1e-4)


def test_the_critic_of_a_bent_posterior_sees_base_codes(linear_decoder):
    """Its loss is the same whatever the flow does to them."""
    decoder, model = linear_decoder
    posterior = LinearNoise(AutoregressiveSteps(2, 2, 4, [16]), context_dim=4)
    game = AdaptiveContrastAVB(posterior, decoder, PairCritic(ConcatenationMLP((3, 2), [8], 1)), full_covariance=True)
    x, _ = model.sample(50)
    losses = []
    for _ in range(2):
        torch.manual_seed(1)
        losses.append(game.critic_loss(x).item())
        for parameter in posterior.flow.parameters():
            torch.nn.init.normal_(parameter)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("full_covariance", [False, True], ids=["diagonal", "full"])
def test_adaptive_contrast_by_the_exact_elbo_and_its_gradient(linear_decoder, full_covariance):
    """With the optimal critic, held fixed as a function, loss and encoder's gradient are those of the exact −ELBO."""
    decoder, model = linear_decoder
    posterior, frozen = LinearNoise(), LinearNoise()
    frozen.load_state_dict(posterior.state_dict())
    frozen.requires_grad_(False)
    x, _ = model.sample(5)
    mean, covariance = posterior.exact(x)
    (truth := -model.elbo(x, mean, torch.linalg.cholesky(covariance)).mean()).backward()
    exact = torch.cat([parameter.grad.flatten() for parameter in posterior.parameters()])
    critic = PairCritic(RatioToContrast(frozen, full_covariance))
    game = AdaptiveContrastAVB(posterior, decoder, critic, full_covariance=full_covariance)
    value, stderr = mean_and_stderr(lambda: game.model_loss(x.repeat(100, 1)))
    assert abs(value - truth.item()) < 4 * stderr
    gradients = []
    for _ in range(60):
        game.zero_grad()
        game.model_loss(x.repeat(100, 1)).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in posterior.parameters()]))
    gradients = torch.stack(gradients)
    stderr = gradients.std(0) / math.sqrt(len(gradients))
    assert ((gradients.mean(0) - exact).abs() < 5 * stderr + 1e-5).all()
    assert (stderr < 0.1 * exact.abs().max()).all()


def test_adaptive_contrast_s_own_log_ratio(linear_decoder):
    posterior = LinearNoise()
    x = torch.randn(4, 3)
    with torch.no_grad():
        z = posterior.sample(x, (7,))
        mean, covariance = posterior.exact(x)
        truth = MultivariateNormal(mean, covariance).log_prob(z) - Normal(0.0, 1.0).log_prob(z).sum(-1)
        for full_covariance in (False, True):
            critic = PairCritic(RatioToContrast(posterior, full_covariance))
            game = AdaptiveContrastAVB(posterior, linear_decoder[0], critic, full_covariance=full_covariance)
            torch.testing.assert_close(game.log_ratio(x, z), truth, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("full_covariance", [False, True], ids=["diagonal", "full"])
def test_adaptive_contrast_asks_the_encoder_once(full_covariance):
    """Code, log ratio and gradients are those of two separate calls, which ask it twice."""
    game = build_adaptive_contrast()
    game.full_covariance = full_covariance
    x = four_points().batch(torch.arange(4))
    calls, found = [], []
    game.posterior.network.register_forward_hook(lambda *_: calls.append(1))
    for together in (True, False):
        torch.manual_seed(0)
        game.zero_grad()
        if together:
            z, log_ratio = game.sample_with_log_ratio(x)
            assert len(calls) == 1
        else:
            z = game.posterior.sample(x)
            log_ratio = game.log_ratio(x, z)
        (z.square().sum() + log_ratio.sum()).backward()
        found.append([z, log_ratio, *(parameter.grad.clone() for parameter in game.posterior.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def gaussian_encoder():
    """A posterior for x in R³, z in R², whose mean and width both depend on the image."""
    return GaussianPosterior(MLP(3, [8], 4), 2)


def test_more_codes_leave_the_vae_its_loss(linear_decoder):
    decoder, model = linear_decoder
    posterior = gaussian_encoder()
    x, _ = model.sample(5)
    with torch.no_grad():
        mean, std = posterior(x)
        truth = -model.elbo(x, mean, torch.diag_embed(std)).mean().item()
    value, stderr = mean_and_stderr(lambda: VAE(posterior, decoder, samples=50).model_loss(x.repeat(8, 1)))
    assert abs(value - truth) < 4 * stderr
    with pytest.raises(ValueError, match="^samples: expected at least 1"):
        VAE(posterior, decoder, samples=0)


def test_iwae_of_one_sample_is_the_vae(linear_decoder):
    decoder, model = linear_decoder
    posterior = gaussian_encoder()
    x, _ = model.sample(5)
    vae = mean_and_stderr(lambda: VAE(posterior, decoder).model_loss(x.repeat(400, 1)))
    for doubly in (False, True):
        iwae = mean_and_stderr(lambda doubly=doubly: IWAE(posterior, decoder, 1, doubly).model_loss(x.repeat(400, 1)))
        assert abs(iwae[0] - vae[0]) < 4 * math.hypot(iwae[1], vae[1])


@pytest.mark.parametrize("doubly", [False, True], ids=["standard", "doubly reparameterized"])
def test_iwae_loss_by_quadrature(doubly):
    """L_2 of a model with one latent variable: a double integral over both codes, in SciPy's hand."""
    decoder = GaussianDecoder(nn.Linear(1, 1), std=0.5)
    posterior = GaussianPosterior(nn.Linear(1, 2), 1)
    x = torch.tensor([[0.7]])
    with torch.no_grad():
        mean, std = (part.item() for part in posterior(x))
        slope, offset = decoder.network.weight.item(), decoder.network.bias.item()

    def weight(noise):
        z = mean + std * noise
        log_joint = stats.norm.logpdf(0.7, slope * z + offset, 0.5) + stats.norm.logpdf(z)
        return math.exp(log_joint - stats.norm.logpdf(z, mean, std))

    def integrand(first, second):
        average = 0.5 * (weight(first) + weight(second))
        return stats.norm.pdf(first) * stats.norm.pdf(second) * math.log(average)

    truth = -integrate.dblquad(integrand, -7, 7, -7, 7, epsabs=1e-6)[0]
    game = IWAE(posterior, decoder, 2, doubly)
    value, stderr = mean_and_stderr(lambda: game.model_loss(x.repeat(5000, 1)))
    assert abs(value - truth) < 4 * stderr
    assert stderr < 0.01


def gradients_of(game, x, repeats):
    """Gradients of the loss in encoder and decoder, one row per draw of the codes."""
    parts = {"encoder": list(game.posterior.parameters()), "decoder": list(game.decoder.network.parameters())}
    rows = {name: [] for name in parts}
    for _ in range(repeats):
        game.zero_grad()
        game.model_loss(x).backward()
        for name, parameters in parts.items():
            rows[name].append(torch.cat([parameter.grad.flatten() for parameter in parameters]).double())
    return {name: torch.stack(values) for name, values in rows.items()}


@pytest.mark.parametrize("k, kl_weight", [(2, 1.0), (16, 1.0), (5, 0.5), (5, 0.0)])
def test_doubly_reparameterized_gradients_have_the_same_mean(linear_decoder, k, kl_weight):
    """Also while a training warms up."""
    decoder, model = linear_decoder
    posterior = GaussianPosterior(nn.Linear(3, 4), 2)
    x = model.sample(4)[0].repeat(16, 1)
    games = [IWAE(posterior, decoder, k, doubly) for doubly in (False, True)]
    for game in games:
        game.kl_weight = kl_weight
    both = [gradients_of(game, x, 300) for game in games]
    for part in ("encoder", "decoder"):
        standard, doubly = (gradients[part] for gradients in both)
        stderr = ((standard.var(0) + doubly.var(0)) / len(standard)).sqrt()
        assert ((standard.mean(0) - doubly.mean(0)).abs() < 5 * stderr + 1e-7).all()


class Constant(nn.Module):
    """The same mean and std for every image, as an encoder's network puts them out."""

    def __init__(self, mean, std):
        super().__init__()
        self.raw = nn.Parameter(torch.cat([mean, torch.log(torch.expm1(std - MINIMUM_STD))]))

    def forward(self, x):
        return self.raw.expand(len(x), -1)


@pytest.fixture
def diagonal_model():
    """A linear decoder with orthogonal columns, for which the exact posterior is diagonal."""
    decoder = GaussianDecoder(nn.Linear(2, 3), std=0.6)
    with torch.no_grad():
        decoder.network.weight.copy_(torch.tensor([[1.0, 0.5], [0.5, -1.0], [0.0, 0.0]]))
    return decoder, LinearGaussian(decoder.network.weight.detach(), decoder.network.bias.detach(), 0.6)


def test_at_the_posterior_the_doubly_reparameterized_gradient_has_no_variance(diagonal_model):
    """All weights are equal there: φ's direct part in log q was nothing but noise."""
    decoder, model = diagonal_model
    x, _ = model.sample(1)
    mean, scale_tril = model.posterior(x)
    posterior = GaussianPosterior(Constant(mean[0], scale_tril.diagonal()), 2)
    doubly, standard = (gradients_of(IWAE(posterior, decoder, 5, way), x, 20)["encoder"] for way in (True, False))
    assert doubly.abs().max() < 1e-4
    assert standard.abs().max() > 0.1
    loss = IWAE(posterior, decoder, 5).model_loss(x).item()
    assert loss == pytest.approx(-model.log_marginal(x).item(), abs=1e-4)


def test_near_the_posterior_the_doubly_reparameterized_signal_rises_with_k_and_the_standard_one_sinks(diagonal_model):
    decoder, model = diagonal_model
    x, _ = model.sample(1)
    mean, scale_tril = model.posterior(x)
    posterior = GaussianPosterior(Constant(mean[0] + 0.1, 1.1 * scale_tril.diagonal()), 2)

    def signal_to_noise(k, doubly):
        gradient = gradients_of(IWAE(posterior, decoder, k, doubly), x.repeat(64, 1), 200)["encoder"][:, :2]
        return (gradient.mean(0).abs() / gradient.std(0)).mean().item()

    assert signal_to_noise(32, True) > 1.5 * signal_to_noise(2, True)
    assert signal_to_noise(32, False) < 0.67 * signal_to_noise(2, False)


def test_iwae_refuses_what_it_cannot_play():
    with pytest.raises(ValueError, match="^k: expected at least 1"):
        IWAE(gaussian_encoder(), GaussianDecoder(nn.Linear(2, 3)), k=0)
    flow = InverseAutoregressiveFlow(nn.Linear(3, 6), 2, 2, [8])
    with pytest.raises(ValueError, match="^posterior: expected a GaussianPosterior, got InverseAutoregressiveFlow"):
        IWAE(flow, GaussianDecoder(nn.Linear(2, 3)), k=2, doubly_reparameterized=True)


def test_a_flow_plays_for_the_elbo(linear_decoder):
    """With one sample the loss is −ELBO of any explicit posterior: trained, it falls towards −log p(x) and not below."""
    decoder, model = linear_decoder
    decoder.requires_grad_(False)
    x, _ = model.sample(64)
    game = IWAE(InverseAutoregressiveFlow(MLP(3, [16], 8), 2, 4, [16]), decoder, k=1)
    truth = -model.log_marginal(x).mean().item()
    before, _ = mean_and_stderr(lambda: game.model_loss(x))
    train(game, Points("x", x), TrainingConfig(600, 64, {"model": 1e-2}, schedule="cosine"))
    after, stderr = mean_and_stderr(lambda: game.model_loss(x), 200)
    assert truth - 4 * stderr < after < truth + 0.1 * (before - truth)


class Shift(nn.Module):
    """x = shift + z: a generator whose samples are N(shift, 1)."""

    def __init__(self, shift):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, z):
        return self.shift + z


class LogRatio(nn.Module):
    """log N(x; 0, 1) − log N(x; shift, 1): the optimal discriminator of data N(0, 1), held fixed at a given shift."""

    def __init__(self, shift):
        super().__init__()
        self.shift = shift

    def forward(self, x):
        return 0.5 * self.shift**2 - self.shift * x


SHIFT = 0.8


def divergences_of_shift(shift):
    """The divergences of N(0, 1), the data, and N(shift, 1), by SciPy's quadrature."""
    data, model = stats.norm(0, 1), stats.norm(shift, 1)

    def kl_of(a, b):
        return integrate.quad(lambda x: a.pdf(x) * (a.logpdf(x) - b(x)), -12, 12, epsabs=1e-12)[0]

    def middle(x):
        return np.logaddexp(data.logpdf(x), model.logpdf(x)) - math.log(2)

    forward, reverse = kl_of(data, model.logpdf), kl_of(model, data.logpdf)
    twice_jensen_shannon = kl_of(data, middle) + kl_of(model, middle)
    return {
        "minimax": twice_jensen_shannon,
        "non_saturating": reverse - twice_jensen_shannon,  # Arjovsky and Bottou (2017), theorem 2.5
        "maximum_likelihood": forward,
        "reverse_kl": reverse,
    }


def test_every_generator_objective_has_its_divergence():
    assert set(divergences_of_shift(0.5)) == set(GENERATOR_LOSSES)


@pytest.mark.parametrize("name", GENERATOR_LOSSES)
def test_a_generator_descends_its_divergence_when_the_discriminator_is_optimal(name):
    step = 1e-3
    above, below = divergences_of_shift(SHIFT + step)[name], divergences_of_shift(SHIFT - step)[name]
    truth = (above - below) / (2 * step)
    game = GAN(Shift(SHIFT), LogRatio(SHIFT), 1, name)
    gradients = []
    for _ in range(100):
        game.zero_grad()
        game.generator_loss(torch.zeros(4000, 1)).backward()
        gradients.append(game.generator.shift.grad.item())
    stderr = np.std(gradients, ddof=1) / math.sqrt(len(gradients))
    assert abs(np.mean(gradients) - truth) < 4 * stderr + 1e-6  # the reverse KL's has no noise here, only rounding
    assert stderr < 0.03 * abs(truth)


def test_the_discriminator_s_loss_at_its_optimum():
    """2 log 2 − 2 JSD, and worse for any other discriminator."""
    truth = 2 * math.log(2) - divergences_of_shift(SHIFT)["minimax"]
    game = GAN(Shift(SHIFT), LogRatio(SHIFT), 1)
    value, stderr = mean_and_stderr(lambda: game.discriminator_loss(torch.randn(20_000, 1)))
    assert abs(value - truth) < 4 * stderr
    for other in (-SHIFT, 0.0, 3 * SHIFT):
        worse, stderr = mean_and_stderr(
            lambda other=other: GAN(Shift(SHIFT), LogRatio(other), 1).discriminator_loss(torch.randn(20_000, 1))
        )
        assert worse > truth + 4 * stderr


def test_re_solved_the_maximum_likelihood_objective_is_constant():
    """Its value is −∫ p_data = −1 wherever the generator stands: only with the ratio held fixed does it have a gradient."""
    for shift in (-0.5, 0.2, 0.6):
        game = GAN(Shift(shift), LogRatio(shift), 1, "maximum_likelihood")
        value, stderr = mean_and_stderr(lambda game=game: game.generator_loss(torch.zeros(20_000, 1)))
        assert abs(value + 1) < 4 * stderr


def test_the_discriminator_sees_no_gradient_of_the_generator():
    game = build_gan()
    game.discriminator_loss(torch.randn(4, 4)).backward()
    assert all(parameter.grad is None for parameter in game.generator.parameters())
    assert all(parameter.grad is not None for parameter in game.discriminator.parameters())
    assert game.sample(7).shape == (7, 4) and game.sample(7).requires_grad


def test_an_unknown_generator_objective_is_named():
    with pytest.raises(ValueError, match="^generator objective: expected one of minimax, .*got 'wasserstein'"):
        GAN(MLP(2, [6], 4), MLP(4, [6], 1), 2, "wasserstein")


class AffineDecoder(nn.Module):
    """x = W z + b + 0.8 ε, a black box whose law happens to be known."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, z, noise):
        return self.linear(z) + 0.8 * noise


class GaussianWorld:
    """Data N(0, 0.7 I), the encoder `AffineNoise` and the decoder `AffineDecoder`: every joint law of (x, z) is a Gaussian."""

    def __init__(self, encoder, decoder):
        a, factor, w = encoder.of_image.weight, encoder.scale_tril, decoder.linear.weight
        data = 0.7 * torch.eye(3)
        of_code = a @ data @ a.T + factor @ factor.T
        shift = torch.cat([decoder.linear.bias, torch.zeros(2)])
        noise = 0.64 * torch.eye(3)
        nothing = torch.zeros(3, 2)
        self.q = self.law([[data, data @ a.T], [a @ data, of_code]])
        self.p = self.law([[w @ w.T + noise, w], [w.T, torch.eye(2)]], shift)
        self.q_of_code_and_decoder = self.law(
            [[w @ of_code @ w.T + noise, w @ of_code], [of_code @ w.T, of_code]], shift
        )
        self.data_and_prior = self.law([[data, nothing], [nothing.T, torch.eye(2)]])
        self.data_and_codes = self.law([[data, nothing], [nothing.T, of_code]])
        self.q_of_code = MultivariateNormal(torch.zeros(2), of_code)
        self.prior = MultivariateNormal(torch.zeros(2), torch.eye(2))

    @staticmethod
    def law(blocks, mean=None):
        covariance = torch.cat([torch.cat(row, 1) for row in blocks])
        return MultivariateNormal(torch.zeros(5) if mean is None else mean, covariance)


class PairRatio(nn.Module):
    """log of one joint law over another, as a critic of pairs."""

    def __init__(self, above, below):
        super().__init__()
        self.above, self.below = above, below

    def forward(self, x, z):
        pair = torch.cat([x.expand(*z.shape[:-1], -1), z], -1)
        return (self.above.log_prob(pair) - self.below.log_prob(pair))[..., None]


class CodeRatio(nn.Module):
    """log q(z) − log p(z)."""

    def __init__(self, world):
        super().__init__()
        self.world = world

    def forward(self, z):
        return (self.world.q_of_code.log_prob(z) - self.world.prior.log_prob(z))[..., None]


def gaussian_parts():
    """Encoder and decoder not far from each other's inverse, so that no weight exp(T) is extreme."""
    encoder, decoder = AffineNoise(), AffineDecoder()
    with torch.no_grad():
        encoder.of_image.weight.copy_(torch.tensor([[0.5, 0.1, 0.0], [0.0, 0.4, 0.2]]))
        decoder.linear.weight.copy_(torch.tensor([[0.4, 0.0], [0.1, 0.3], [0.0, 0.3]]))
        decoder.linear.bias.copy_(torch.tensor([0.1, 0.0, -0.1]))
    return encoder, decoder


def joint_game(posterior, decoder, world):
    return JointAdversary(posterior, decoder, PairCritic(PairRatio(world.q, world.p)))


def mended_game(posterior, decoder, world):
    image_critic = PairCritic(PairRatio(world.q, world.q_of_code_and_decoder))
    return TwoAdversaries(posterior, decoder, CodeCritic(CodeRatio(world)), image_critic)


def printed_game(posterior, decoder, world):
    """Its second critic: log p_D(x) − log p(x|z) for independent pairs."""
    code_critic = PairCritic(PairRatio(world.q, world.data_and_prior))
    image_critic = PairCritic(PairRatio(world.data_and_codes, world.q_of_code_and_decoder))
    return TwoAdversaries(posterior, decoder, code_critic, image_critic, independent_pairs=True)


def printed_game_on_joint_pairs(posterior, decoder, world):
    code_critic = PairCritic(PairRatio(world.q, world.data_and_prior))
    image_critic = PairCritic(PairRatio(world.q, world.q_of_code_and_decoder))
    return TwoAdversaries(posterior, decoder, code_critic, image_critic)


TWO_PLAYERS_GOALS = {
    "joint": (joint_game, lambda w: kl_divergence(w.q, w.p)),
    "mended": (mended_game, lambda w: kl_divergence(w.q, w.p)),
    "printed": (
        printed_game,
        lambda w: kl_divergence(w.q, w.data_and_prior) + kl_divergence(w.data_and_codes, w.q_of_code_and_decoder),
    ),
    "printed, joint pairs": (
        printed_game_on_joint_pairs,
        lambda w: kl_divergence(w.q, w.data_and_prior) + kl_divergence(w.q, w.q_of_code_and_decoder),
    ),
}


@pytest.mark.parametrize("build, goal", TWO_PLAYERS_GOALS.values(), ids=TWO_PLAYERS_GOALS.keys())
def test_what_implicit_encoder_and_decoder_descend_with_optimal_critics(build, goal):
    """Held fixed as functions, the optimal critics give the gradient of the divergence that each game stands for."""
    encoder, decoder = gaussian_parts()
    frozen = [copy.deepcopy(part).requires_grad_(False) for part in (encoder, decoder)]
    parameters = [*encoder.parameters(), *decoder.parameters()]
    goal(GaussianWorld(encoder, decoder)).backward()
    exact = torch.cat([parameter.grad.flatten() for parameter in parameters])
    game = build(ImplicitPosterior(encoder, 2, 2), ImplicitDecoder(decoder, 3), GaussianWorld(*frozen))
    rows = []
    for _ in range(200):
        game.zero_grad()
        game.model_loss(math.sqrt(0.7) * torch.randn(2000, 3)).backward()
        rows.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))
    rows = torch.stack(rows)
    stderr = rows.std(0) / math.sqrt(len(rows))
    assert ((rows.mean(0) - exact).abs() < 5 * stderr + 1e-4).all()
    assert stderr.max() < 0.03 * exact.abs().max()


def test_the_goals_of_two_adversaries_differ_by_the_mutual_information():
    world = GaussianWorld(*gaussian_parts())
    joint, mended, _, on_joint_pairs = (goal(world).item() for _, goal in TWO_PLAYERS_GOALS.values())
    information = kl_divergence(world.q, world.data_and_codes).item()
    assert joint == mended and information > 0.05
    assert on_joint_pairs == pytest.approx(joint + information, abs=1e-5)
    of_code = kl_divergence(world.q_of_code, world.prior) + kl_divergence(world.q, world.q_of_code_and_decoder)
    assert of_code.item() == pytest.approx(joint, abs=1e-5)


@pytest.mark.parametrize("build", [build_joint_adversary, build_two_adversaries])
def test_critics_of_two_adversaries_see_no_gradient_of_the_model(build):
    game = build()
    critics, model = game.players
    game.loss(critics, torch.randn(6, 4)).backward()
    assert all(parameter.grad is None for parameter in game.parameters_of(model))
    assert all(parameter.grad is not None for parameter in game.parameters_of(critics))


# --- who moves whom ---------------------------------------------------------------------------------------------------


@every_game
def test_players_share_no_parameter_and_leave_none_out(build):
    game = build()
    owned = [id(parameter) for player in game.players for parameter in game.parameters_of(player)]
    assert len(owned) == len(set(owned)), "a parameter has two owners"
    assert set(owned) == {id(parameter) for parameter in game.parameters() if parameter.requires_grad}


@every_game
def test_losses_are_scalars_in_finite_nats(build):
    game = build()
    for player in game.players:
        loss = game.loss(player, four_points().batch(torch.arange(4)))
        assert loss.shape == () and loss.isfinite()


@pytest.fixture
def moves(monkeypatch):
    """Record, for each step of an optimizer while a game is trained, which players' parameters it changed."""
    recorded = []

    def watch(game):
        step = torch.optim.Adam.step

        def recording_step(optimizer, *arguments, **options):
            before = {player: [p.detach().clone() for p in game.parameters_of(player)] for player in game.players}
            result = step(optimizer, *arguments, **options)
            recorded.append(
                {
                    player: [
                        not torch.equal(old, new) for old, new in zip(old_ones, game.parameters_of(player), strict=True)
                    ]
                    for player, old_ones in before.items()
                }
            )
            return result

        monkeypatch.setattr(torch.optim.Adam, "step", recording_step)
        return recorded

    return watch


@every_game
@pytest.mark.parametrize("simultaneous", [False, True], ids=["alternating", "simultaneous"])
def test_an_update_moves_the_players_own_parameters_and_no_others(build, simultaneous, moves):
    game = build()
    recorded = moves(game)
    updates = {} if simultaneous else {next(iter(game.players)): 2}
    rates = dict.fromkeys(game.players, 1e-2)
    train(game, four_points(), TrainingConfig(3, 8, rates, updates, simultaneous))
    expected = [player for player in game.players for _ in range(updates.get(player, 1))] * 3
    assert len(recorded) == len(expected)
    for moved, mover in zip(recorded, expected, strict=True):
        for player, changes in moved.items():
            if player == mover:
                assert all(changes), f"{mover} left some of its own parameters where they were"
            else:
                assert not any(changes), f"{mover} moved {player}"


def after_one_round(simultaneous, critic_rate):
    torch.manual_seed(0)
    game = build_avb()
    train(game, four_points(), TrainingConfig(1, 8, {"critic": critic_rate, "model": 1e-2}, simultaneous=simultaneous))
    return torch.cat([parameter.detach().flatten() for parameter in game.parameters_of("model")])


def test_simultaneous_players_differentiate_where_all_stood_before():
    """How far the critic goes in this round is nothing to the model when they move together, and matters when it waits."""
    assert torch.equal(after_one_round(True, 1e-4), after_one_round(True, 1.0))
    assert not torch.equal(after_one_round(False, 1e-4), after_one_round(False, 1.0))


def test_a_frozen_parameter_belongs_to_nobody():
    game = VAE(GaussianPosterior(MLP(4, [6], 4), 2), GaussianDecoder(MLP(2, [6], 4), std=0.5))
    assert len(game.parameters_of("model")) == len(list(game.parameters())) - 1
    train(game, four_points(), TrainingConfig(3, 4, {"model": 1e-2}))
    assert game.decoder.log_std.item() == pytest.approx(math.log(0.5))


def test_a_game_of_ones_own_is_a_few_lines():
    """Two players and a bilinear loss: simultaneous play spirals away from the rest point, as theory says."""

    class Bilinear(Game):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)

        @property
        def players(self):
            return {"a": (self.a,), "b": (self.b,)}

        def a_loss(self, x):
            return (self.a.weight * self.b.weight).sum()

        def b_loss(self, x):
            return -(self.a.weight * self.b.weight).sum()

    game = Bilinear()
    with torch.no_grad():
        game.a.weight.fill_(0.1)
        game.b.weight.fill_(0.1)
    images = Images("one", torch.zeros(1, 1, dtype=torch.uint8), (1, 1))
    metrics = train(game, images, TrainingConfig(50, 1, {"a": 0.05, "b": 0.05}, simultaneous=True))
    assert math.hypot(game.a.weight.item(), game.b.weight.item()) > math.hypot(0.1, 0.1)
    assert metrics[-1]["a_loss"] == pytest.approx(-metrics[-1]["b_loss"])
