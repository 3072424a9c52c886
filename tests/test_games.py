"""Games: what each loss means on models that are known exactly, and that each player moves itself and nobody else."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

import avb_core.games
from avb_core.critics import InnerProductCritic, PairCritic
from avb_core.data import Images, four_points
from avb_core.decoders import BernoulliDecoder, GaussianDecoder
from avb_core.divergences import forward_kl, kl, logistic, reverse_kl
from avb_core.games import AVB, VAE
from avb_core.games.game import Game
from avb_core.networks import MLP, ConcatenationMLP
from avb_core.posteriors import GaussianPosterior, ImplicitPosterior
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


BUILDERS = {"VAE": build_vae, "AVB": build_avb}
every_game = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())


def test_every_game_is_tested_here():
    assert set(BUILDERS) == set(avb_core.games.__all__) - {"Game"}


@pytest.fixture(autouse=True)
def fixed_weights():
    torch.manual_seed(0)


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


@pytest.mark.parametrize("build", [build_avb])
def test_the_critic_sees_no_gradient_of_the_encoder(build):
    game = build()
    game.critic_loss(four_points().batch(torch.arange(4))).backward()
    assert all(parameter.grad is None for parameter in [*game.posterior.parameters(), *game.decoder.parameters()])
    assert all(parameter.grad is not None for parameter in game.critic.parameters())


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
