"""Recipes and the command line: what is unknown is refused in one clear line, what is known runs, resumes and is measured."""

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.distributions import MultivariateNormal
from typer.testing import CliRunner

from avb_core import cli, data, evaluation, experiments, models, recipes
from avb_core.data import DataMissing
from avb_core.decoders import BernoulliDecoder, TargetLikelihood
from avb_core.experiments import per_image_of
from avb_core.games import AVB, IWAE, VAE, AdaptiveContrastAVB, TwoAdversaries
from avb_core.networks import MLP, ConvolutionalDecoder, ResidualUnit
from avb_core.posteriors import ExplicitPosterior
from avb_core.runs import CorruptFile, load_tensors, read_json, read_json_lines, save_tensors, write_json
from avb_core.testbeds import EightSchools
from avb_core.training import TrainingConfig, WrongCheckpoint, train

ROOT = Path(__file__).parents[1]

SMALL = """
[profiles.quick]
note = "small"
[profiles.quick.four_points.vae]
latent_dim = 2
widths = [8]
steps = 6
batch_size = 8
learning_rates = { model = 1e-3 }
log_every = 3
[profiles.quick.four_points.iwae]
k = 3
latent_dim = 2
widths = [8]
steps = 6
batch_size = 8
learning_rates = { model = 1e-3 }
log_every = 3
[profiles.quick.four_points.avb]
latent_dim = 2
noise_dim = 3
widths = [32]
steps = 6
batch_size = 8
learning_rates = { critic = 1e-3, model = 1e-3 }
[profiles.quick.mnist.vae]
latent_dim = 3
widths = [8]
steps = 2
batch_size = 8
learning_rates = { model = 1e-3 }
[profiles.quick.mnist.iwae]
k = 3
latent_dim = 3
widths = [8]
steps = 2
batch_size = 8
learning_rates = { model = 1e-3 }
[profiles.quick.mnist.avb]
latent_dim = 3
noise_dim = 4
inject = true
widths = [8]
steps = 2
batch_size = 8
learning_rates = { critic = 1e-3, model = 1e-3 }
[profiles.full]
note = "nothing"
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The book with settings that take no time, and measures with few samples; no MNIST."""
    book = tmp_path / "book.toml"
    book.write_text(SMALL)
    monkeypatch.setattr(recipes, "BOOK", book)
    for measure, few in (
        (experiments.measure_four_points, (2, 400)),
        (experiments.measure_images, (5, 20, 4, 3)),
        (experiments.measure_target, (200, 2)),
    ):
        monkeypatch.setattr(measure.__wrapped__, "__defaults__", few)  # within no_grad's wrapper
    monkeypatch.setattr(experiments, "kl_to_prior_histogram", lambda z: evaluation.kl_to_prior_histogram(z, bins=10))
    quadrature = evaluation.log_likelihood_quadrature
    monkeypatch.setattr(
        experiments, "log_likelihood_quadrature", lambda decoder, x, d, points: quadrature(decoder, x, d, points=41)
    )
    monkeypatch.setitem(experiments.EXPERIMENTS, "mnist", experiments.on_images(data.digits))


def invoke(*arguments):
    result = CliRunner().invoke(cli.app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments):
    """The one line on stderr with which a command ends that is wrong, exit status 2."""
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = (line for line in result.stderr.splitlines() if not line.startswith("Data: "))
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


# --- the book's own settings ------------------------------------------------------------------------------------------


def test_weights_are_drawn_as_the_recipe_says(small):
    by_default = recipes.recipe("four_points", "vae", "quick").build(seed=0)
    by_he = recipes.recipe("four_points", "vae", "quick", {"initialization": "he"}).build(seed=0)
    assert by_default.decoder.network[0].bias.any() and not by_he.decoder.network[0].bias.any()
    assert torch.equal(by_default.decoder.network[-1].weight, by_he.decoder.network[-1].weight)
    with pytest.raises(ValueError, match="^initialization: expected one of he, pytorch, got 'xavier'"):
        recipes.recipe("four_points", "vae", "quick", {"initialization": "xavier"})


def test_a_run_keeps_to_the_weights_that_it_began_with(small, tmp_path):
    """Its settings are stored and make it again; with the other way to draw weights its folder is refused."""
    he = ("--set", 'initialization="he"')
    assert invoke("train", "four_points", "--game", "vae", "--out", tmp_path / "he", *he).exit_code == 0
    assert recipes.recipe_of(tmp_path / "he").initialization == "he"
    folder = tmp_path / "he"
    assert "initialization: he there, None here" in refused("train", "four_points", "--game", "vae", "--out", folder)
    assert invoke("train", "four_points", "--game", "vae", "--out", tmp_path / "plain").exit_code == 0
    assert "initialization: None there, he here" in refused(
        "train", "four_points", "--game", "vae", "--out", tmp_path / "plain", *he
    )


def test_a_run_keeps_to_the_precision_that_it_began_in(small, tmp_path):
    """It stands in the provenance; bits of one precision are not continued in another."""
    start = ("train", "four_points", "--game", "vae", "--accelerator", "cpu", "--out")
    half = ("--precision", "bf16-mixed")
    for name, precision, options in (("half", "bf16-mixed", half), ("full", "32-true", ())):
        assert invoke(*start, tmp_path / name, *options).exit_code == 0
        assert read_json(tmp_path / name / "result.json")["provenance"]["precision"] == precision
    assert "precision: bf16-mixed there, None here" in refused(*start, tmp_path / "half")
    assert "precision: None there, bf16-mixed here" in refused(*start, tmp_path / "full", *half)


MAY_BE_MISSING = ("binarized_mnist", "celeba")


def every_recipe():
    for profile, settings in recipes._book()["profiles"].items():
        for experiment, games in settings.items():
            if isinstance(games, dict):
                yield from (recipes.recipe(experiment, game, profile) for game in games)


@pytest.mark.parametrize("of", list(every_recipe()), ids=lambda of: f"{of.profile}-{of.experiment}-{of.game}")
def test_every_recipe_of_the_book_can_be_played(of):
    try:
        game, config = of.build(), of.config(seed=3)
    except DataMissing as error:
        pytest.skip(str(error))
    kinds = {"vae": VAE, "avb": AVB, "aae": AVB, "two_adversaries": TwoAdversaries}
    kinds |= dict.fromkeys(("avb_ac", "avb_ac_flow"), AdaptiveContrastAVB)
    assert type(game) is kinds.get(of.game, IWAE)
    config.require_players(game)
    assert config.seed == 3 and config.steps == of.settings["steps"]


def test_building_depends_on_the_seed_alone(small):
    of = recipes.recipe("four_points", "avb", "quick")
    state = torch.random.get_rng_state()
    first = of.build(seed=1).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(99)
    assert all(torch.equal(tensor, first[name]) for name, tensor in of.build(seed=1).state_dict().items())
    assert any(not torch.equal(tensor, first[name]) for name, tensor in of.build(seed=2).state_dict().items())


def test_the_profile_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("AVB_PROFILE", "full")
    assert recipes.profile() == "full"
    monkeypatch.delenv("AVB_PROFILE")
    assert recipes.profile() == "quick"
    monkeypatch.setenv("AVB_PROFILE", "enormous")
    with pytest.raises(ValueError, match="^profile: expected one of .*full, long, quick, got 'enormous'"):
        recipes.profile()


@pytest.mark.parametrize(
    "arguments, named",
    [
        (("five_points", "vae", "quick"), "experiment: expected one of .*four_points, .*mnist, .*got 'five_points'"),
        (("four_points", "gan", "quick"), "game: expected one of aae, .*vae, got 'gan'"),
        (("four_points", "vae", "slow"), "profile: expected one of full, quick, got 'slow'"),
        (("mnist", "vae", "full"), "book.toml has no settings for mnist with vae under the profile full"),
    ],
    ids=["experiment", "game", "profile", "no-settings"],
)
def test_what_is_unknown_is_refused(arguments, named, small, tmp_path):
    with pytest.raises(ValueError, match=f"^{named}"):
        recipes.recipe(*arguments)
    experiment, game, profile = arguments
    line = refused("train", experiment, "--game", game, "--profile", profile, "--out", tmp_path / "run")
    assert re.match(named, line)
    assert not (tmp_path / "run").exists()


def test_settings_can_be_replaced(small):
    of = recipes.recipe("four_points", "vae", "quick", {"steps": 9, "average": 0.9})
    assert of.config() == TrainingConfig(9, 8, {"model": 1e-3}, average=0.9, log_every=3)
    with pytest.raises(ValueError, match=r"^setting: expected one of .*steps.*, got 'stepps'"):
        recipes.recipe("four_points", "vae", "quick", {"stepps": 9})


@pytest.mark.parametrize("game", ["avb", "avb_ac"])
def test_settings_of_a_critic_reach_it(game, small):
    """They are in no recipe of the book, and can be given to any of them."""
    shape = {"latent_dim": 3, "noise_dim": 2} | ({"basis": 2, "noise_widths": [8]} if game == "avb_ac" else {})
    networks = models.FullyConnected(16, [8, 8])
    x = (torch.rand(64, 16) < 0.5).float()
    for critic in models.CRITICS:
        built = models.GAMES[game](
            networks,
            lambda: BernoulliDecoder(MLP(3, [8], 16)),
            critic=critic,
            bridge=[0.2, 0.5],
            gradient_penalty=0.3,
            spectral=True,
            **shape,
        )
        assert built.stds == (0.0, 0.2, 0.5, 1.0) and built.gradient_penalty == 0.3
        for _ in range(100):  # in training mode each call is a step of the power method
            built.critic_loss(x)
        layers = [module for module in built.critic.modules() if isinstance(module, nn.Linear)]
        assert len(layers) >= 3
        for layer in layers:
            assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=0.02)
    of = recipes.recipe("four_points", "avb", "quick", {"bridge": [0.5], "gradient_penalty": 2.0})
    assert of.build().stds == (0.0, 0.5, 1.0) and of.build().gradient_penalty == 2
    with pytest.raises(ValueError, match="^setting: expected one of .*spectral.*, got 'networks'"):
        recipes.recipe("four_points", "avb", "quick", {"networks": 1})


OF_THE_GAME = {
    "vae": {"samples": 2},
    "iwae": {"k": 2},
    "full_gaussian": {},
    "flow": {"flow_steps": 2, "flow_widths": [8], "context_dim": 2},
    "auxiliary": {"auxiliary_dim": 2},
    "semi_implicit": {"noise_dim": 2, "extra": 3},
    "aae": {"noise_dim": 2},
    "avb": {"noise_dim": 2},
    "avb_ac": {"noise_dim": 2, "basis": 3, "noise_widths": [8]},
    "avb_ac_flow": {
        **{"noise_dim": 2, "basis": 3, "noise_widths": [8], "gaussian": True, "full_covariance": True},
        **{"flow_steps": 2, "flow_widths": [8], "context_dim": 2},
    },
    "two_adversaries": {"noise_dim": 2, "decoder_noise_dim": 2},
}


@pytest.mark.parametrize("game", models.GAMES)
def test_every_builder_s_game_can_be_played_on_every_architecture(game):
    x = (torch.rand(5, 16) < 0.5).float()
    for networks, likelihood in (
        (models.FullyConnected(16, [8, 8]), lambda: BernoulliDecoder(MLP(3, [8], 16))),
        (models.FullyConnected(16, [8, 8], inject=True), lambda: BernoulliDecoder(MLP(3, [8], 16))),
        (models.Convolutional(16, [8, 8], [2, 3]), lambda: BernoulliDecoder(ConvolutionalDecoder(3, [2, 3], 16))),
        (models.NoImage(16, [8]), lambda: TargetLikelihood(lambda z: -z.square().sum(-1))),
    ):
        if game == "two_adversaries" and isinstance(networks, models.NoImage):
            continue  # it has to generate, and there is nothing to
        built = models.GAMES[game](networks, likelihood, latent_dim=3, **OF_THE_GAME[game])
        assert built.posterior.sample(x, (4,)).shape == (4, 5, 3)
        for player in built.players:
            loss = built.loss(player, x)
            gradients = torch.autograd.grad(loss, built.parameters_of(player), allow_unused=True)
            assert loss.isfinite() and any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("game", sorted(models.GAMES.keys() - {"two_adversaries"}))  # its decoder has noise of its own
def test_codes_keep_their_precision_under_autocast(game):
    """bfloat16 would round them to 8 bits, and a posterior's density with them."""
    networks = models.FullyConnected(16, [8, 8])
    built = models.GAMES[game](
        networks, lambda: BernoulliDecoder(networks.to_image(3)), latent_dim=3, **OF_THE_GAME[game]
    )
    x = (torch.rand(5, 16) < 0.5).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.Linear(3, 2)(torch.randn(5, 3)).dtype == torch.bfloat16  # autocast is at work
        z = built.posterior.sample(x, (400,))
    assert z.dtype == torch.float32
    if isinstance(built.posterior, ExplicitPosterior):
        assert (z != z.to(torch.bfloat16).float()).float().mean() > 0.9  # more than the type alone


def test_half_precision_does_not_cost_log_likelihood():
    """Trained under bfloat16 autocast the digits' model is as good, to a tenth of what the training gained."""
    images, x = data.digits("train"), data.digits("test").binarized().batch(torch.arange(297))
    of = recipes.recipe("mnist", "vae", "quick", {"steps": 150})

    def bound(game):
        return float(evaluation.iwlb_log_likelihood(game.decoder, game.posterior, x, 50).mean())

    bounds = {}
    for precision in ("32-true", "bf16-mixed"):
        game = of.build(features=64)
        before = bound(game)
        train(game, images, of.config(), fabric=Fabric(accelerator="cpu", devices=1, precision=precision))
        bounds[precision] = bound(game)
    gained = bounds["32-true"] - before
    assert gained > 5
    assert bounds["bf16-mixed"] > bounds["32-true"] - 0.1 * gained


def test_methods_are_compared_on_the_same_decoder():
    """Whatever the game, the book's recipes for one experiment and profile have one decoder, if it has a density."""
    decoders = {}
    for of in every_recipe():
        generates = "no_image" not in of.settings.values() and of.game != "two_adversaries"
        if generates and of.experiment not in MAY_BE_MISSING:
            decoder = [(name, tensor.shape) for name, tensor in of.build().decoder.state_dict().items()]
            assert decoders.setdefault((of.profile, of.experiment), decoder) == decoder


def test_only_the_data_differ_where_binarizations_are_compared():
    profiles = tomllib.loads(recipes.BOOK.read_text())["profiles"]["full"]
    assert profiles["binarized_mnist"]
    for game, settings in profiles["binarized_mnist"].items():
        assert settings == profiles["mnist"][game]


# --- what is measured of an inferred posterior ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eight_schools", "ring"])
def test_a_target_s_evidence_is_that_of_its_joint_density(name):
    """By importance sampling from a Gaussian fitted to the truth, with heavier tails."""
    target = experiments.TARGETS[name]
    truth = target.truth(20_000, torch.Generator().manual_seed(0))
    codes = EightSchools().codes(truth) if name == "eight_schools" else truth
    torch.testing.assert_close(target.parameters(codes), truth)
    proposal = MultivariateNormal(codes.mean(0), 1.5**2 * torch.cov(codes.T))
    torch.manual_seed(1)
    z = proposal.sample((400_000,))
    weights = (target.log_joint(z) - proposal.log_prob(z) - target.log_evidence).exp()
    assert abs(weights.mean() - 1) < 4.5 * weights.std() / math.sqrt(len(z))
    assert weights.std() / math.sqrt(len(z)) < 0.05


@pytest.mark.parametrize("name", ["eight_schools", "eight_schools_centred"])
def test_the_schools_in_either_coordinates_are_one_model(name):
    """log p(y, codes) is log p(y, parameters) plus the log volume of the map from one to the other."""
    target = experiments.TARGETS[name]
    for z in torch.randn(5, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(target.parameters, z)
        expected = EightSchools().log_joint(target.parameters(z)) + torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(target.log_joint(z), expected)
    assert target.log_evidence == EightSchools().log_evidence()


def test_the_truth_has_no_distance_and_a_gaussian_its_known_kl():
    """A target that is itself a Gaussian: q = truth has KL 0; a narrower one has the closed form's."""
    scale = torch.tensor([[1.0, 0.0], [0.5, 0.8]])
    law = MultivariateNormal(torch.tensor([1.0, -1.0]), scale_tril=scale)
    target = experiments.Target(
        lambda z: law.log_prob(z) - 3.0,
        log_evidence=-3.0,
        parameters=lambda z: z,
        truth=lambda n, generator: (law.mean + torch.randn(n, 2, generator=generator) @ scale.T).double(),
    )
    game = models.build_full_gaussian(models.NoImage(1, [8]), lambda: TargetLikelihood(target.log_joint), 2)
    raw = torch.log(torch.expm1(torch.tensor([1.0, 0.8])))
    for shrink in (1.0, 0.5):
        with torch.no_grad():
            game.posterior.network.weight.zero_()
            raw = torch.log(torch.expm1(shrink * torch.tensor([1.0, 0.8])))
            game.posterior.network.bias.copy_(torch.cat([law.mean, raw, shrink * math.sqrt(2) * torch.tensor([0.5])]))
        torch.manual_seed(0)
        measured, _ = experiments.measure_target(game, target, samples=4000)
        exact = 2 * (-math.log(shrink) - 0.5 + 0.5 * shrink**2)
        assert measured["kl"]["value"] == pytest.approx(exact, abs=5 * measured["kl"]["stderr"] + 1e-3)
        assert (measured["energy_distance"]["value"] < 0.005) == (shrink == 1.0)
        assert "elbo_of_critic" not in measured


# --- running ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", ["four_points", "mnist"])
@pytest.mark.parametrize("game", ["vae", "iwae", "avb"])
def test_a_run_leaves_everything_in_its_folder(experiment, game, small, tmp_path):
    of = recipes.recipe(experiment, game, "quick")
    result = recipes.run(of, 1, tmp_path)
    assert read_json(tmp_path / "result.json") == result
    assert {path.name for path in tmp_path.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "checkpoint.safetensors",
        "model.safetensors",
    }
    assert result["seed"] == 1 and result["settings"] == of.settings and result["provenance"]["commit"]
    measured = result["measured"]
    assert ("elbo_of_critic" in measured) == (game == "avb")
    if experiment == "four_points":
        assert measured["log_likelihood"]["value"] < 0
        assert {"elbo", "kl_knn", "kl_histogram", "reconstruction"} <= measured.keys()
    else:
        assert result["data"]["name"] == "digits" and measured["iwlb"]["stderr"] > 0
        watched = read_json_lines(tmp_path / "metrics.jsonl")[-1]
        assert watched["test_iwlb"] < 0 and 0 <= watched["active_units"] <= of.settings["latent_dim"]
        per_image, about = load_tensors(tmp_path / "per_image.safetensors")
        assert about["seed"] == 1 and about["game"] == game
        of_the_whole = {"importance_samples", "images", "annealing", "log_likelihood", "ais_gap"}
        of_the_whole |= {"active_units", "kl_moments", "kl_knn"}
        assert measured.keys() == {*per_image, *of_the_whole} and ("elbo" in measured) == (game != "avb")
        for name, values in per_image.items():
            assert values.shape == ({"ais": 4, "iwlb_of_all": len(of.data("test"))}.get(name, 20),)
            assert values.mean().item() == pytest.approx(measured[name]["value"], rel=1e-5)
    model = recipes.load_model(of, tmp_path)
    torch.manual_seed(0)
    assert model.posterior.sample(torch.zeros(2, of.data("test").pixels.shape[1])).isfinite().all()


def test_the_bounds_on_images_are_ordered(small):
    """On average, that is: ELBO below L_k, and both below 0, the log of a probability of 1."""
    game = recipes.recipe("mnist", "vae", "quick").build()
    _, per_image = experiments.measure_images(game, data.digits, k=50, images=200, annealed=0)
    assert per_image["elbo"].mean() < per_image["iwlb"].mean() < 0
    assert all(values.shape == (200,) for values in per_image.values())


def test_the_log_likelihood_of_images_is_that_of_quadrature():
    """Two latent variables and a decoder with a narrow posterior, which the encoder knows nothing of."""
    torch.manual_seed(0)
    game = models.build_vae(models.FullyConnected(64, [16]), lambda: BernoulliDecoder(MLP(2, [], 64)), 2)
    with torch.no_grad():
        game.decoder.network[0].weight.mul_(6)
    test = data.digits("test")
    measured, per_image = experiments.measure_images(game, lambda split: test, k=200, images=60, annealed=10)
    of_all, error = evaluation.log_likelihood_quadrature(game.decoder, test.binarized().batch(torch.arange(len(test))))
    truth = of_all[:60]
    assert error < 1e-3
    # A lower bound that annealing closes, image by image
    assert (per_image["ais"] - truth[:10]).abs().max() < 0.1
    assert abs((per_image["ais"] - truth[:10]).mean()) < abs((per_image["iwlb_fitted"] - truth)[:10].mean()) + 0.02
    # That of all images. With their values known, what is left of the error is that of the means of what the levels add.
    found = measured["log_likelihood"]
    levels = experiments.bound_levels(per_image)
    added = [after - before[: len(after)] for before, after in itertools.pairwise(levels)]
    left = math.sqrt(sum(float(each.var()) / len(each) for each in added))
    assert found["value"] == pytest.approx(float(of_all.mean()), abs=4 * left)
    # With all images measured with care, and a fifth annealed, next to nothing but their own variation is left.
    found = experiments.measure_images(game, lambda split: test, k=200, images=len(test), annealed=60)[0][
        "log_likelihood"
    ]
    assert found["value"] == pytest.approx(float(of_all.mean()), abs=0.1)
    assert found["stderr"] == pytest.approx(float(of_all.std()) / math.sqrt(len(test)), rel=0.05)
    assert 0 <= measured["ais_gap"]["value"] + 4 * measured["ais_gap"]["stderr"] < 0.2


def test_differences_are_taken_image_by_image():
    torch.manual_seed(0)
    hardness = 30 * torch.randn(400).double()
    of_all = hardness - 100

    def measured(lead, noise):
        at = hardness[:100] - 95 + lead
        images = {"iwlb_of_all": of_all, "iwlb": at, "iwlb_fitted": at, "elbo": at - 5, "ais": at[:20] + 0.5}
        return {name: values + noise * torch.randn(len(values)).double() for name, values in images.items()}

    better, other = measured(2, 0.1), measured(0, 0.1)
    found = experiments.paired(better, other)
    assert found.value == pytest.approx(2, abs=4 * found.stderr) and 0.01 < found.stderr < 0.1
    # An exact case: the same lead everywhere, and a bound on all images that does not matter.
    found = experiments.paired(measured(2, 0), measured(0, 0) | {"iwlb_of_all": torch.zeros(400).double()})
    assert (found.value, found.stderr) == pytest.approx((2, 0), abs=1e-9)
    # The first hundred images are of another hardness than all: their mean is carried over to all of them.
    found = experiments.mean_of_all(measured(0, 0), "elbo")
    assert found.value == pytest.approx(float(hardness.mean()) - 100, abs=1e-9)
    assert found.value != pytest.approx(float(hardness[:100].mean()) - 100, abs=0.5)
    assert found.stderr == pytest.approx(float(hardness.std()) / 20, rel=1e-6)


def test_loaded_weights_are_the_trained_ones(small, tmp_path, monkeypatch):
    trained = {}
    measure = experiments.measure_four_points
    monkeypatch.setattr(
        experiments, "measure_four_points", lambda game: trained.update(game.decoder.state_dict()) or measure(game)
    )
    of = recipes.recipe("four_points", "vae", "quick")
    recipes.run(of, 0, tmp_path)
    for name, tensor in recipes.load_model(of, tmp_path).decoder.state_dict().items():
        assert torch.equal(tensor, trained[name])
    (tmp_path / "model.safetensors").write_bytes(b"half")
    with pytest.raises(CorruptFile):
        recipes.load_model(of, tmp_path)


def test_measuring_and_running_leave_the_random_state_alone(small, tmp_path):
    torch.manual_seed(4)
    state = torch.random.get_rng_state()
    recipes.run(recipes.recipe("four_points", "avb", "quick"), 0, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_result_left_by_another_run_is_not_passed_off(small, tmp_path):
    """Told that the folder holds another run, somebody removes its checkpoint only: the result must be the new run's."""
    recipes.run(recipes.recipe("four_points", "vae", "quick"), 0, tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    result = recipes.run(recipes.recipe("four_points", "vae", "quick"), 1, tmp_path)
    assert result["seed"] == 1 and read_json(tmp_path / "result.json")["seed"] == 1


def test_a_result_is_kept_for_its_own_weights_and_measure_only(small, tmp_path):
    """Not for another training of the same recipe, nor for another question."""
    of, model = recipes.recipe("four_points", "vae", "quick"), tmp_path / "model.safetensors"
    first = recipes.run(of, 0, tmp_path)
    assert recipes.run(of, 0, tmp_path) == first
    altered = {name: tensor + 1 for name, tensor in load_tensors(model)[0].items()}
    save_tensors(model, altered, {})
    again = recipes.run(of, 0, tmp_path)
    assert again["measured"] == first["measured"] and again["provenance"]["finished"]
    assert all(not torch.equal(tensor, altered[name]) for name, tensor in load_tensors(model)[0].items())

    of, folder = recipes.recipe("mnist", "vae", "quick"), tmp_path / "mnist"
    for images in (6, 9):
        result = recipes.run(of, 0, folder, measuring={"images": images, "annealed": 0})
        assert result["measured"]["images"] == images == read_json(folder / "result.json")["measuring"]["images"]
    assert recipes.run(of, 0, folder)["measured"]["images"] == 20


def test_one_experiment_does_not_go_on_with_another_s_run(small, tmp_path):
    """Two posteriors to infer have the same networks, data and settings; they are not the same."""
    of = recipes.Recipe(
        "eight_schools",
        "vae",
        "quick",
        {"architecture": "no_image", "widths": [4], "latent_dim": 10, "steps": 2, "batch_size": 4}
        | {"learning_rates": {"model": 1e-3}},
    )
    recipes.run(of, 0, tmp_path)
    with pytest.raises(WrongCheckpoint, match="experiment: eight_schools there, eight_schools_centred here"):
        recipes.run(replace(of, experiment="eight_schools_centred"), 0, tmp_path)


@pytest.mark.parametrize(
    "setting, told",
    [
        ("seed=3", "setting: expected one of "),
        ("steps=10.5", "steps: expected a whole number, at least 1, such as 6, got 10.5"),
        ("batch_size=64.0", "batch_size: expected a whole number, at least 1, such as 8, got 64.0"),
        ("learning_rates=0.1", "learning_rates: expected a table, such as {'critic': 0.001"),
        ("latent_dim=0", "latent_dim: expected a whole number, at least 1, such as 2, got 0"),
        ("latent_dim='a'", "latent_dim: expected a whole number, at least 1, such as 2, got 'a'"),
        ("widths=3", "widths: expected whole numbers, at least 1 each, such as [32], got 3"),
        ("widths=[]", "widths: expected whole numbers"),
        ("widths=[0]", "widths: expected whole numbers"),
        ("initialization=['a']", "initialization: expected text, such as 'pytorch', got ['a']"),
        ("initialization=he", "--set: expected NAME=VALUE, text in quotes (name='text'), got 'initialization=he' ("),
        ("steps", "--set: expected NAME=VALUE, text in quotes (name='text'), got 'steps' ("),
    ],
)
def test_a_setting_of_another_kind_is_refused_in_a_line(small, setting, told, tmp_path):
    line = refused("train", "four_points", "--accelerator", "cpu", "--set", setting, "--out", tmp_path / "run")
    assert line.startswith(told) and not (tmp_path / "run").exists()


def test_a_setting_given_twice_is_refused_and_parts_of_a_table_are_put_together(small, tmp_path):
    of = ("train", "four_points", "--accelerator", "cpu", "--out", tmp_path / "run")
    line = refused(*of, "--set", "steps=2", "--set", "steps=3")
    assert line == "--set: expected each setting once, got steps=2, steps=3"
    rates = ("--set", "learning_rates.critic=1e-3", "--set", "learning_rates.model=2e-3")
    assert invoke(*of, "--game", "avb", *rates, "--set", "steps=2").exit_code == 0
    stored = read_json(tmp_path / "run" / "result.json")["settings"]["learning_rates"]
    assert stored == {"critic": 1e-3, "model": 2e-3}


def test_no_more_processes_than_there_are_devices(tmp_path):
    line = refused("train", "four_points", "--accelerator", "cpu", "--devices", 999, "--out", tmp_path / "run")
    assert line == f"devices: expected at most {os.cpu_count()}, as many as there are here, got 999"


@pytest.mark.parametrize(
    "content, told",
    [
        ([], "not the result of a training, but a list"),
        ({"experiment": "five_points"}, "experiment: expected one of .*, got 'five_points'"),
        ({"game": "chess"}, "game: expected one of .*, got 'chess'"),
        ({"settings": {"steps": 3}}, "missing a required argument: 'latent_dim'"),
        ({"settings": None}, "'NoneType' object"),
    ],
)
def test_a_result_of_something_else_is_named(small, content, told, tmp_path):
    arguments = ("train", "four_points", "--game", "vae", "--accelerator", "cpu", "--out", tmp_path / "run")
    assert invoke(*arguments, "--set", "steps=2").exit_code == 0
    path = tmp_path / "run" / "result.json"
    write_json(path, read_json(path) | content if isinstance(content, dict) else content)
    line = refused("evaluate", tmp_path / "run", "--accelerator", "cpu")
    assert re.match(rf"{path}: not the result of a training", line) and re.search(told, line), line


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="^architecture: expected one of .*no_image, got 'transformer'"):
        recipes.recipe("celeba", "vae", "cpu", {"architecture": "transformer"})


def test_what_a_run_cannot_do_is_refused_before_it_begins(small, tmp_path):
    arguments = ("train", "mnist", "--accelerator", "cpu", "--out", tmp_path / "run")
    assert refused(*arguments, "--precision", "bf16-true").startswith("precision: expected one of 32-true, bf16-mixed")
    line = refused("train", "mnist", "--accelerator", "tpu", "--out", tmp_path / "run")
    assert line == "accelerator: expected auto, cpu or cuda, got 'tpu'"
    assert not (tmp_path / "run").exists()
    assert invoke(*arguments, "--annealed", 0).exit_code == 0
    assert refused("evaluate", tmp_path / "run", "--accelerator", "cpu", "--annealed", 1).startswith(
        "annealed: expected "
    )
    assert (
        invoke(
            "evaluate", tmp_path / "run", "--accelerator", "cpu", "--annealed", 0, "--out", tmp_path / "out"
        ).exit_code
        == 0
    )
    line = refused("evaluate", tmp_path / "out", "--accelerator", "cpu")
    assert line.endswith("not the result of a training, it has no settings")


def test_four_points_with_codes_on_a_line_are_measured_and_in_space_refused(small, tmp_path):
    of = ("train", "four_points", "--game", "vae", "--accelerator", "cpu", "--out")
    assert invoke(*of, tmp_path / "line", "--set", "latent_dim=1").exit_code == 0
    measured = read_json(tmp_path / "line" / "result.json")["measured"]
    assert "log_likelihood" in measured and "kl_histogram" not in measured
    line = refused(*of, tmp_path / "space", "--set", "latent_dim=3")
    assert line.startswith("latent_dim: quadrature is for 1 or 2 latent variables, got 3")


def test_a_seed_too_large_is_named(small, tmp_path):
    of = ("train", "four_points", "--game", "vae", "--accelerator", "cpu", "--out", tmp_path / "run")
    for seed in (2**63, 2**70):
        assert refused(*of, "--seed", seed) == f"seed: expected a whole number from 0 to 2^63 − 1, got {seed}"


@pytest.mark.parametrize("experiment", ["four_points", "mnist"])
def test_the_command_line_says_what_data_it_trains_on(experiment, small, tmp_path):
    shown = invoke("train", experiment, "--game", "vae", "--accelerator", "cpu", "--out", tmp_path / "run")
    source = experiments.EXPERIMENTS[experiment].data("train").source
    assert source and [line for line in shown.stderr.splitlines() if line.startswith("Data: ")] == [f"Data: {source}"]
    assert "Data: " not in shown.stdout


def test_a_folder_that_cannot_be_written_is_refused_in_a_line(small, tmp_path):
    (tmp_path / "file").write_text("in the way")
    there = tmp_path / "file" / "run"
    train = ("train", "four_points", "--game", "vae", "--accelerator", "cpu", "--out")
    assert refused(*train, there).startswith(f"cannot write into {there}: ")
    assert invoke(*train, tmp_path / "run").exit_code == 0
    assert str(there) in refused("evaluate", tmp_path / "run", "--accelerator", "cpu", "--out", there)


def test_the_command_line_trains_and_then_loads(small, tmp_path):
    arguments = ("train", "four_points", "--game", "vae", "--accelerator", "cpu", "--out", tmp_path / "run")
    first = invoke(*arguments)
    assert first.exit_code == 0, first.output
    assert f"Kept in {tmp_path / 'run'}" in first.stdout
    measured = json.loads(first.stdout[: first.stdout.rindex("}") + 1])
    assert measured == read_json(tmp_path / "run" / "result.json")["measured"]
    assert invoke(*arguments).stdout == first.stdout


def test_a_finished_run_can_be_measured_anew(small, tmp_path):
    """From its folder alone: other settings in the book since then do not matter."""
    folder = tmp_path / "run"
    assert invoke("train", "mnist", "--accelerator", "cpu", "--set", "widths=[9]", "--out", folder).exit_code == 0
    stored = read_json(folder / "result.json")["measured"]
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    again = recipes.evaluate(folder)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again == {name: value for name, value in stored.items() if name != "elbo_of_critic"}
    few = ("train", "mnist", "--accelerator", "cpu", "--images", 7, "--annealed", 0, "--out", tmp_path / "few")
    assert invoke(*few).exit_code == 0
    assert read_json(tmp_path / "few" / "result.json")["measured"]["images"] == 7
    more = recipes.evaluate(folder, images=30, annealed=0)
    assert more["images"] == 30 and "log_likelihood" not in more
    shown = invoke("evaluate", folder, "--accelerator", "cpu", "--temperatures", 4, "--annealed", 3)
    assert shown.exit_code == 0 and "elbo_of_critic" not in shown.stdout
    line = next(line for line in shown.stdout.splitlines() if line.startswith("iwlb_fitted "))
    assert line.endswith(f"stored: {stored['iwlb_fitted']['value']:.4f} ± {stored['iwlb_fitted']['stderr']:.4f}")
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("annealing "))
    now, then = (json.loads(each) for each in line.removeprefix("annealing ").split("   stored: "))
    assert now == then | {"temperatures": 4} and then["temperatures"] == 3


def test_a_run_can_be_measured_on_other_data_and_kept(small, tmp_path, monkeypatch):
    folder, out = tmp_path / "run", tmp_path / "on"
    assert invoke("train", "mnist", "--accelerator", "cpu", "--out", folder).exit_code == 0
    few = ("--accelerator", "cpu", "--images", 12, "--annealed", 0)
    # The same images under another name, so that the same numbers are due.
    monkeypatch.setitem(experiments.EXPERIMENTS, "mnist_conv8", experiments.EXPERIMENTS["mnist"])
    shown = invoke("evaluate", folder, *few, "--on", "mnist_conv8", "--out", out)
    assert shown.exit_code == 0, shown.output
    kept = read_json(out / "result.json")
    assert kept["measured"] == recipes.evaluate(folder, images=12, annealed=0)
    about = {"experiment": "mnist_conv8", "game": "avb", "run": f"{tmp_path.name}/run", "seed": 0}
    images = experiments.EXPERIMENTS["mnist"].data("test")
    about["data"] = {"name": images.name, "digest": images.digest}
    assert {key: kept[key] for key in about} == about and kept["provenance"]["device"]
    values, told = load_tensors(out / "per_image.safetensors")
    assert told.items() >= about.items()
    assert values["iwlb"].mean().item() == pytest.approx(kept["measured"]["iwlb"]["value"], abs=1e-5)

    before = (out / "result.json").read_bytes()
    assert refused("evaluate", folder, *few, "--out", out).startswith("out: expected a folder without a result, got ")
    assert (out / "result.json").read_bytes() == before
    assert refused("evaluate", folder, *few, "--on", "nothing").startswith("experiment: expected one of ")
    line = refused("evaluate", folder, *few[:2], "--on", "four_points")
    assert line.startswith("four_points: the stored weights are for data of another size")


def test_what_cannot_be_measured_anew_is_refused(small, tmp_path):
    assert "result.json" in refused("evaluate", tmp_path / "nothing", "--accelerator", "cpu")
    folder = tmp_path / "run"
    assert invoke("train", "four_points", "--accelerator", "cpu", "--out", folder).exit_code == 0
    line = refused("evaluate", folder, "--accelerator", "cpu", "--images", 5)
    assert line.startswith("images: not for the experiment four_points")
    other = ("train", "four_points", "--accelerator", "cpu", "--images", 5, "--out", tmp_path / "other")
    assert refused(*other).startswith("images: not for the experiment four_points")
    assert not (tmp_path / "other").exists()
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in refused("evaluate", folder, "--accelerator", "cpu")


def test_halved_weights_are_the_trained_ones_rounded(small, tmp_path):
    """Half the file, a bound that changed by what the result tells, and a run that is measured anew as before."""
    folder = tmp_path / "run"
    assert invoke("train", "mnist", "--accelerator", "cpu", "--set", "steps=30", "--out", folder).exit_code == 0
    before, _ = load_tensors(folder / "model.safetensors")
    size = (folder / "model.safetensors").stat().st_size
    bounds = [recipes.evaluate(folder, images=30, annealed=0)["iwlb"]["value"]]
    shown = invoke("halve", folder, "--accelerator", "cpu", "--images", 30)
    assert shown.exit_code == 0 and "16 bits; the bound on 30 images changed by " in shown.stdout
    bounds.append(recipes.evaluate(folder, images=30, annealed=0)["iwlb"]["value"])
    after, _ = load_tensors(folder / "model.safetensors")
    assert before.keys() == after.keys() and (folder / "model.safetensors").stat().st_size < 0.7 * size
    for name, tensor in after.items():
        assert tensor.dtype == torch.float16
        torch.testing.assert_close(tensor.float(), before[name], rtol=2**-11, atol=1e-7)
    told = read_json(folder / "result.json")["weights"]
    assert told["dtype"] == "float16" and told["images"] == 30
    assert told["iwlb_changed_by"]["value"] == pytest.approx(bounds[1] - bounds[0], abs=1e-4)
    assert 0 < abs(told["iwlb_changed_by"]["value"]) < 0.05
    assert all(
        tensor.dtype == torch.float32 for tensor in recipes.load_model(recipes.recipe_of(folder), folder).parameters()
    )
    # What 16 bits cannot hold is refused; so is a second call, and an experiment without a bound on each image. Files stay.
    too_large = {name: tensor.float() * 1e6 for name, tensor in before.items()}
    save_tensors(tmp_path / "large" / "model.safetensors", too_large, {})
    (tmp_path / "large" / "result.json").write_text((folder / "result.json").read_text())
    assert refused("halve", tmp_path / "large").startswith("folder: expected weights below 65504, ")
    assert load_tensors(tmp_path / "large" / "model.safetensors")[0].keys() == before.keys()
    assert refused("halve", folder).startswith("folder: expected weights of 32 bits, got some of 16 in ")
    of_four = tmp_path / "four"
    assert invoke("train", "four_points", "--accelerator", "cpu", "--out", of_four).exit_code == 0
    told = "folder: expected an experiment with a bound on each image, got four_points"
    assert refused("halve", of_four) == told
    with pytest.raises(ValueError, match="^folder: expected an experiment with a bound on each image, got four_points"):
        recipes.halve(of_four)
    assert "weights" not in read_json(of_four / "result.json")


def test_a_halving_that_was_interrupted_is_done_by_another_call(small, tmp_path, monkeypatch):
    """Between its two writes: the weights are whole, and the call made again leaves what an uninterrupted one does."""
    folder, other = tmp_path / "run", tmp_path / "other"
    assert invoke("train", "mnist", "--accelerator", "cpu", "--set", "steps=5", "--out", folder).exit_code == 0
    shutil.copytree(folder, other)
    recipes.halve(other, images=10, annealed=0)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recipes, "save_tensors", killed)
        recipes.halve(folder, images=10, annealed=0)
    assert all(tensor.dtype == torch.float32 for tensor in load_tensors(folder / "model.safetensors")[0].values())
    recipes.halve(folder, images=10, annealed=0)
    assert read_json(folder / "result.json") == read_json(other / "result.json")
    # Not byte for byte: safetensors writes a file's metadata in an order of its own each time.
    (tensors, about), (of_other, about_other) = (load_tensors(each / "model.safetensors") for each in (folder, other))
    assert about == about_other and tensors.keys() == of_other.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == of_other[name].dtype and torch.equal(tensor, of_other[name])


def test_a_run_borrows_the_level_that_its_result_names(tmp_path):
    lender, borrower = tmp_path / "long" / "vae-0", tmp_path / "short" / "avb-0"
    save_tensors(lender / "per_image.safetensors", {"iwlb_of_all": torch.arange(6.0), "iwlb": torch.zeros(2)}, {})
    save_tensors(borrower / "per_image.safetensors", {"iwlb": torch.ones(2)}, {})
    for folder, measured in ((lender, {}), (borrower, {"iwlb_of_all_is_that_of": "long/vae-0"})):
        (folder / "result.json").write_text(json.dumps({"measured": measured}))
        found = per_image_of(folder)
        assert found["iwlb_of_all"].tolist() == [0, 1, 2, 3, 4, 5] and found["iwlb_of_all"].dtype == torch.float64
        assert found["iwlb"].tolist() == [float(folder == borrower)] * 2
    (lender / "per_image.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="vae-0"):
        per_image_of(borrower)


def test_tensorboard_gets_every_row(small, tmp_path, monkeypatch):
    """With a writer that remembers; and where the package is missing, one line says so."""
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            assert folder == str(tmp_path / "run")

        def add_scalar(self, name, value, step):
            written.append((step, name, value))

        def flush(self):
            pass

    arguments = ("train", "four_points", "--game", "vae", "--accelerator", "cpu", "--tensorboard", "--out")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    assert invoke(*arguments, tmp_path / "run").exit_code == 0
    rows = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert len(rows) == 2
    assert sorted(written) == sorted((row["step"], name, row[name]) for row in rows for name in row if name != "step")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert "pip install tensorboard" in refused(*arguments, tmp_path / "other")


def test_the_command_line_refuses_a_folder_of_another_run(small, tmp_path):
    arguments = ("train", "four_points", "--accelerator", "cpu", "--out", tmp_path / "run")
    assert invoke(*arguments, "--game", "vae").exit_code == 0
    assert "config.seed: 0 there, 1 here" in refused(*arguments, "--game", "vae", "--seed", 1)
    assert "game: VAE there, AVB here" in refused(*arguments, "--game", "avb")
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    assert str(checkpoint) in refused(*arguments, "--game", "vae")


def test_the_command_line_refuses_what_it_cannot_do(small, tmp_path):
    (tmp_path / "file").write_text("in the way")
    arguments = ("train", "four_points", "--accelerator", "cpu", "--game", "vae")
    assert "cannot write into" in refused(*arguments, "--out", tmp_path / "file" / "run")
    assert "abacus" in refused("train", "four_points", "--accelerator", "abacus", "--out", tmp_path / "run")
    assert "64-bit" in refused(*arguments, "--precision", "64-bit", "--out", tmp_path / "run")
    assert refused("fetch", "imagenet").startswith("dataset: expected mnist or celeba")
    assert refused(*arguments, "--set", "steps", "--out", tmp_path / "run")
    assert refused(*arguments, "--set", "stepps=3", "--out", tmp_path / "run").startswith("setting: ")


def test_the_command_line_says_when_a_run_diverged(small, tmp_path):
    explosive = ("--set", "learning_rates={model=1e30}", "--set", "steps=50")
    line = refused(
        "train", "four_points", "--game", "vae", "--accelerator", "cpu", *explosive, "--out", tmp_path / "run"
    )
    assert "'model' at step" in line


def test_the_book_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setattr(recipes, "BOOK", tmp_path / "none.toml")
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        recipes.recipe("four_points", "vae", "quick")


def test_the_module_is_a_command():
    """Once through the front door: `python -m avb_core`, its status and its one line."""
    process = subprocess.run(
        [sys.executable, "-m", "avb_core", "train", "five_points"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("Error: experiment: expected one of ") and line.endswith(", got 'five_points'")


def test_overrides_replace_settings_and_merge_into_tables():
    plain = recipes.recipe("four_points", "avb", "quick")
    changed = recipes.recipe("four_points", "avb", "quick", {"steps": 7, "learning_rates": {"critic": 0.5}})
    assert changed.settings == {
        **plain.settings,
        "steps": 7,
        "learning_rates": {**plain.settings["learning_rates"], "critic": 0.5},
    }


def test_an_architecture_has_settings_that_its_recipe_leaves_out():
    plain, residual = (
        recipes.recipe("mnist_conv8", "vae", "cpu", {"units": units}).build(features=784) for units in (0, 1)
    )
    assert not any(isinstance(part, ResidualUnit) for part in plain.modules())
    # One for each of the three hidden layers of encoder and decoder.
    assert sum(isinstance(part, ResidualUnit) for part in residual.modules()) == 6
    with pytest.raises(ValueError, match="^units: expected a whole number, at least 0, such as 0, got -1"):
        recipes.recipe("mnist_conv8", "vae", "cpu", {"units": -1})
    for unknown in ("inject", "pixels"):  # a setting of fully connected networks, and the data's own
        with pytest.raises(ValueError, match=f"^setting: expected one of .*units.*, got '{unknown}'"):
            recipes.recipe("mnist_conv8", "vae", "cpu", {unknown: 1})


def test_an_unknown_override_is_named():
    with pytest.raises(ValueError, match="setting: expected one of .*steps.*, got 'stps'"):
        recipes.recipe("four_points", "avb", "quick", {"stps": 7})
