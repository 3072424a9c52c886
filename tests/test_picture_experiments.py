"""Measuring models of pictures: against a model that is the truth itself, and through a whole run of a recipe."""

import hashlib
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate
from typer.testing import CliRunner

from avb_core import cli, data, experiments, recipes
from avb_core.bounds import bits_per_dimension
from avb_core.celeba import celeba
from avb_core.critics import PairCritic
from avb_core.data import DataMissing
from avb_core.decoders import DequantizedGaussianDecoder, DiscretizedLogisticDecoder
from avb_core.faces import ATTRIBUTES, attributes_of, draw, faces
from avb_core.networks import ResidualUnit
from avb_core.posteriors import Posterior
from avb_core.runs import load_tensors

SHAPE = (3, 64, 64)
FEW = faces("train", 60), faces("test", 40)
TINY = """
[profiles.quick]
note = "tiny"
[profiles.quick.faces.GAME]
architecture = "convolutional"
colours = 3
channels = [2, 3]
units = 1
widths = [8]
latent_dim = 4
likelihood = "logistic"
scales = 3
steps = 2
batch_size = 4
"""
OF_THE_GAME = {
    "vae": "learning_rates = { model = 1e-3 }",
    "avb": 'learning_rates = { critic = 1e-3, model = 1e-3 }\nnoise_dim = 3\ncritic = "pair"',
    "two_adversaries": "learning_rates = { critics = 1e-3, model = 1e-3 }\nnoise_dim = 3\ndecoder_noise_dim = 2",
}


def few_faces(split):
    return FEW[split == "test"]


class KnownCodes(Posterior):
    """The code of a known face is its attributes, made normal."""

    latent_dim = len(ATTRIBUTES)

    def __init__(self):
        super().__init__()
        self.pictures = torch.cat([each.batch(torch.arange(len(each))) for each in FEW])
        attributes = torch.cat([attributes_of("train")[: len(FEW[0])], attributes_of("test")[: len(FEW[1])]])
        self.codes = torch.special.ndtri((attributes.double() + 1) / 2).float()

    def sample(self, x, shape=()):
        z = self.codes[torch.cdist(x, self.pictures).argmin(1)]
        return z.expand(*shape, *z.shape)


class Program(nn.Module):
    """What draws is the decoder; without noise, it has no density."""

    def sample(self, z):
        return draw((2 * torch.special.ndtr(z.double()) - 1).clamp(-1, 1).float())


class Truth(nn.Module):
    """A game with nothing left to learn."""

    def __init__(self):
        super().__init__()
        self.posterior, self.decoder, self.unused = KnownCodes(), Program(), nn.Linear(1, 1)


class Blurred(Truth):
    """The truth seen through blur: every picture has lost its finest scale."""

    class Decoder(Program):
        def sample(self, z):
            whole = super().sample(z).reshape(-1, *SHAPE)
            return interpolate(avg_pool2d(whole, 4), scale_factor=4, mode="bilinear").flatten(1)

    def __init__(self):
        super().__init__()
        self.decoder = self.Decoder()


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def measured():
    torch.manual_seed(0)
    return {
        kind: experiments.measure_pictures(kind(), few_faces, attributes_of, images=40) for kind in (Truth, Blurred)
    }


def test_the_truth_is_measured_as_such(measured):
    """Reconstructed but for rounding, as near held-out faces as other real ones are, as sharp, and readable."""
    of_truth, tensors = measured[Truth]
    assert of_truth["mse"]["value"] < 1e-4 and of_truth["mae"]["value"] < 0.5 / 255
    # Nine components of sixty faces against an exact singular value decomposition
    seen, held_out = (each.batch(torch.arange(len(each))).double() for each in FEW)
    mean, axes = seen.mean(0), torch.linalg.svd(seen - seen.mean(0), full_matrices=False).Vh[: len(ATTRIBUTES)]
    left = (held_out - mean) - (held_out - mean) @ axes.T @ axes
    assert of_truth["mse_linear"]["value"] == pytest.approx(left.square().mean().item(), rel=0.01)
    assert of_truth["feature_distance"]["value"] < 1.15 * of_truth["feature_distance_floor"]
    for name in ("sharpness", "sharpness_reconstructed"):
        assert of_truth[name]["value"] == pytest.approx(1, abs=4 * of_truth[name]["stderr"] + 1e-2)
    assert of_truth["nearest_is_held_out"]["value"] == pytest.approx(1, abs=0.6)
    assert of_truth["feature_distance_fitted"]["value"] < 1.15 * of_truth["feature_distance_floor"]
    # The codes are a monotone function of the attributes, and nearly a linear one.
    assert list(of_truth["attributes"]) == list(ATTRIBUTES) and min(of_truth["attributes"].values()) > 0.85
    assert of_truth["interpolation"]["value"] < 0.5 * of_truth["crossfade"]["value"]
    assert "bits_per_dimension" not in of_truth, "a decoder without a density has no likelihood"
    assert tensors["generated"].dtype == torch.uint8 and tensors["generated"].shape == (40, 3 * 64 * 64)
    torch.testing.assert_close(tensors["reconstructed"], FEW[1].pixels[:32], atol=1, rtol=0)


def test_blur_is_measured_as_such(measured):
    blurred, truth = measured[Blurred][0], measured[Truth][0]
    assert blurred["sharpness"]["value"] < 0.3
    assert blurred["feature_distance"]["value"] > 1.5 * truth["feature_distance"]["value"]
    by_scale = blurred["feature_distance_by_scale"]
    assert by_scale["64"]["generated"] > 1.5 * by_scale["64"]["floor"]
    assert blurred["mse"]["value"] > 10 * truth["mse"]["value"]


def test_the_frechet_inception_distance_beside_its_floor(measured, small_inception, tmp_path):
    """The truth's pictures are about as near as as many other real ones, blurred ones are not; nothing else is changed."""
    path = tmp_path / "weights.pth"
    small_inception["layer.weight"] -= small_inception["layer.weight"].mean(
        (2, 3), keepdim=True
    )  # details are its features
    torch.save(small_inception, path)
    found = {}
    for kind in (Truth, Blurred):
        torch.manual_seed(0)
        again, _ = experiments.measure_pictures(kind(), few_faces, attributes_of, images=40, inception=path)
        found[kind] = again.pop("frechet_inception_distance")
        assert kind is Blurred or again == measured[Truth][0], "other numbers come from the same draws as without it"
        assert list(found[kind]) == ["generated", "fitted", "floor", "pictures", "weights"]
        assert found[kind]["pictures"] == 40
        assert found[kind]["weights"] == hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert found[Truth]["floor"] == found[Blurred]["floor"] > 0
    for name in ("generated", "fitted"):
        assert found[Blurred][name] > 3 * found[Truth][name]
        assert found[Truth][name] < 3 * found[Truth]["floor"]
    # All sets have as many pictures as the smallest: there are 40 for testing, and of these the same number for training.
    few, _ = experiments.measure_pictures(Truth(), lambda split: few_faces(split).first(30), images=40, inception=path)
    assert few["frechet_inception_distance"]["pictures"] == 30


class Wide(Truth):
    """The truth in another unit: all codes lie ten times as far out, where the prior hardly ever draws one."""

    class Codes(KnownCodes):
        def sample(self, x, shape=()):
            return 10 * super().sample(x, shape)

    class Decoder(Program):
        def sample(self, z):
            return super().sample(z / 10)

    def __init__(self):
        super().__init__()
        self.posterior, self.decoder = self.Codes(), self.Decoder()


def test_codes_that_are_not_the_prior_s_are_measured_as_such(measured):
    """Their pictures are as good as ever where the codes are drawn from where they lie."""
    torch.manual_seed(0)
    wide, _ = experiments.measure_pictures(Wide(), few_faces, attributes_of, images=40)
    truth, _ = measured[Truth]
    assert wide["feature_distance"]["value"] > 1.3 * truth["feature_distance"]["value"]
    assert wide["feature_distance_fitted"]["value"] < 1.15 * truth["feature_distance_fitted"]["value"]
    # Nine standard deviations of ten instead of one
    assert wide["kl_moments"]["value"] - truth["kl_moments"]["value"] == pytest.approx(
        9 * (0.5 * (100 - 1) - np.log(10)), rel=0.35
    )


def test_pictures_of_the_way_between_two_faces():
    """The ends are the faces themselves; a step on the way is decoded from the code at that place."""
    game, (a, b) = Truth(), FEW[1].batch(torch.arange(6)).split(3)
    way = experiments.interpolated(game, a, b, steps=5)
    assert way.shape == (3, 5, 3 * 64 * 64)
    torch.testing.assert_close(way[:, 0], a, atol=0.003, rtol=0)
    torch.testing.assert_close(way[:, -1], b, atol=0.003, rtol=0)
    codes = game.posterior.sample(a), game.posterior.sample(b)
    torch.testing.assert_close(way[:, 1], game.decoder.sample(0.75 * codes[0] + 0.25 * codes[1]))


def test_photographs_are_not_stored():
    """Where attributes are not known, as of photographs, only what the model made up is kept."""
    _, tensors = experiments.measure_pictures(Truth(), few_faces, images=20)
    pictures = {name for name, tensor in tensors.items() if tensor.dtype == torch.uint8}
    assert pictures == {"generated"}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    book = tmp_path / "book.toml"
    text = "".join(TINY.replace("GAME", game) + more + "\n" for game, more in OF_THE_GAME.items())
    book.write_text(text.replace('[profiles.quick]\nnote = "tiny"\n', "") + '[profiles.quick]\nnote = "tiny"\n')
    monkeypatch.setattr(recipes, "BOOK", book)
    monkeypatch.setitem(experiments.EXPERIMENTS, "faces", experiments.on_pictures(few_faces, attributes_of))


MEASURING = {"k": 3, "images": 20, "bounded": 3, "annealed": 2, "temperatures": 3, "fitting": 4}


@pytest.mark.parametrize("game", ["vae", "avb"])
def test_a_run_on_pictures(game, tiny, tmp_path):
    result = recipes.run(recipes.recipe("faces", game, "quick"), 0, tmp_path / "run", measuring=MEASURING)
    found = result["measured"]
    likelihood, bits = found["log_likelihood"], found["bits_per_dimension"]
    assert bits["value"] == pytest.approx(bits_per_dimension(likelihood["value"], 3 * 64 * 64))
    assert bits["stderr"] > 0 and 4 < bits["value"] < 12, "an untrained model needs about as much as a uniform choice"
    assert found["iwlb_fitted"]["value"] > found["iwlb"]["value"] - 100
    assert ("elbo" in found) == (game == "vae") and ("elbo_of_critic" in found) == (game == "avb")
    tensors, _ = load_tensors(tmp_path / "run" / "per_image.safetensors")
    assert tensors["mse"].shape == (20,) and tensors["iwlb"].shape == (3,) and tensors["ais"].shape == (2,)
    torch.testing.assert_close(float(tensors["mse"].mean()), found["mse"]["value"])
    assert tensors["generated"].shape == (20, 3 * 64 * 64) and tensors["generated"].dtype == torch.uint8
    again = recipes.evaluate(tmp_path / "run", **MEASURING)
    assert again["mse"] == found["mse"] and again["feature_distance"] == found["feature_distance"]


def test_a_run_without_any_density(tiny, tmp_path):
    """What needs a likelihood is left out; everything else is measured."""
    result = recipes.run(recipes.recipe("faces", "two_adversaries", "quick"), 0, tmp_path / "run", measuring=MEASURING)
    found = result["measured"]
    assert not {"bits_per_dimension", "log_likelihood", "iwlb", "elbo_of_critic"} & set(found)
    assert {"mse", "mae", "feature_distance", "sharpness", "nearest_is_held_out", "attributes", "crossfade"} <= set(
        found
    )
    _, critics = recipes.recipe("faces", "two_adversaries", "quick").build().players.values()
    assert len(critics) == 2


def test_the_networks_of_celeba(tiny):
    """Residual units in encoder and decoder, none in the critic; a critic of one network, into whose layers the code enters."""
    game = recipes.recipe("faces", "avb", "quick").build()
    units = {
        name: sum(isinstance(module, ResidualUnit) for module in part.modules()) for name, part in game.named_children()
    }
    assert units == {"posterior": 2, "decoder": 2, "critic": 0}
    assert isinstance(game.critic, PairCritic) and len(game.critic.network.projections) == 2
    assert isinstance(game.decoder, DiscretizedLogisticDecoder) and game.decoder.log_scale.shape == (3,)
    gaussian = recipes.recipe("faces", "avb", "quick", {"likelihood": "gaussian"}).build()
    assert isinstance(gaussian.decoder, DequantizedGaussianDecoder)
    with pytest.raises(ValueError, match="^critic: expected one of inner_product, pair, got 'triple'"):
        recipes.recipe("faces", "avb", "quick", {"critic": "triple"}).build()
    with pytest.raises(ValueError, match="^likelihood: expected one of logistic, gaussian, got 'poisson'"):
        recipes.recipe("faces", "avb", "quick", {"likelihood": "poisson"}).build()


def test_celeba_that_is_not_there_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("AVB_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(DataMissing, match="celebA is in none of"):
        experiments.on_pictures(celeba).data("train")


def test_drawn_faces_are_drawn_once():
    experiment = experiments.drawn_faces(3, 2)
    assert len(experiment.data("train")) == 3 and len(experiment.data("test")) == 2
    assert experiment.data("train") is experiment.data("train")


def evaluated(folder, *options):
    return CliRunner().invoke(cli.app, ["evaluate", str(folder), "--accelerator", "cpu", *map(str, options)])


def test_the_command_line_takes_the_weights_of_inception(tiny, small_inception, tmp_path, monkeypatch):
    """The distance is shown beside what is stored; wrong weights, or none, end in one line before anything is measured."""
    recipes.run(recipes.recipe("faces", "vae", "quick"), 0, tmp_path / "run", measuring=MEASURING)
    path = tmp_path / "weights.pth"
    torch.save(small_inception, path)
    options = ("--images", 20, "--annealed", 0, "--inception")
    shown = evaluated(tmp_path / "run", *options, path)
    assert shown.exit_code == 0, shown.output
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("frechet_inception_distance ")]
    figures, stored = line.removeprefix("frechet_inception_distance ").split("   stored: ")
    figures = json.loads(figures)
    assert stored == "–" and figures["pictures"] == 20 and min(figures["generated"], figures["floor"]) > 0
    measuring = {**MEASURING, "inception": path}
    result = recipes.run(recipes.recipe("faces", "vae", "quick"), 0, tmp_path / "while training", measuring=measuring)
    assert result["measured"]["frechet_inception_distance"].keys() == figures.keys()
    assert (
        recipes.run(recipes.recipe("faces", "vae", "quick"), 0, tmp_path / "while training", measuring=measuring)
        == result
    )
    monkeypatch.setattr(experiments, "decoded", None)
    for weights, said in ((tmp_path / "none.pth", "cannot read"), (tmp_path / "run" / "result.json", "is damaged")):
        refused = evaluated(tmp_path / "run", *options, weights)
        assert refused.exit_code == 2 and refused.stdout == ""
        (line,) = refused.stderr.splitlines()
        assert line.startswith("Error: inception: ") and said in line
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    (line,) = evaluated(tmp_path / "run", *options, path).stderr.splitlines()
    assert line.startswith("Error: inception: needs another package, `pip install torch-fidelity`")


@pytest.mark.parametrize("experiment", ["mnist", "four_points", "eight_schools"])
def test_other_experiments_have_no_pictures_for_inception(experiment, tmp_path, monkeypatch):
    monkeypatch.setitem(experiments.EXPERIMENTS, "mnist", experiments.on_images(data.digits))
    with pytest.raises(ValueError, match=f"^inception: not for the experiment {experiment}, whose measure takes "):
        recipes.run(recipes.recipe(experiment, "avb"), 0, tmp_path, measuring={"inception": tmp_path / "weights.pth"})
