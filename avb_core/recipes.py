"""Recipes: which data, game, networks and training make up a run of the book. The settings stand in `book.toml`."""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor

from avb_core import data
from avb_core.critics import InnerProductCritic
from avb_core.decoders import BernoulliDecoder
from avb_core.evaluation import (
    Estimate,
    FittedProposal,
    MomentMatchedProposal,
    iwlb_log_likelihood,
    kl_nearest_neighbour,
    kl_to_prior_histogram,
    log_likelihood_quadrature,
)
from avb_core.games import AVB, IWAE, VAE
from avb_core.networks import MLP, ConcatenationMLP, InjectionMLP
from avb_core.posteriors import ExplicitPosterior, GaussianPosterior, ImplicitPosterior
from avb_core.runs import load_tensors, provenance, read_json, save_tensors, write_json
from avb_core.training import TrainingConfig, train

BOOK = Path(__file__).parents[1] / "book.toml"
IMPORTANCE_SAMPLES = 500  # for each image, in the bounds that a run reports
TRAINING_FIELDS = {field.name for field in fields(TrainingConfig)}


LatentVariableGame = VAE | IWAE | AVB  # the games that a recipe can name: each has a posterior and a decoder


def build_vae(pixels: int, latent_dim: int, widths: list[int], samples: int = 1) -> VAE:
    """A VAE of fully connected networks with a diagonal Gaussian posterior."""
    return VAE(*_gaussian_parts(pixels, latent_dim, widths), samples)


def build_iwae(pixels: int, latent_dim: int, widths: list[int], k: int, doubly_reparameterized: bool = False) -> IWAE:
    """The same networks, trained on the importance weighted lower bound."""
    return IWAE(*_gaussian_parts(pixels, latent_dim, widths), k, doubly_reparameterized)


def _gaussian_parts(pixels: int, latent_dim: int, widths: list[int]) -> tuple[GaussianPosterior, BernoulliDecoder]:
    return (
        GaussianPosterior(MLP(pixels, widths, 2 * latent_dim), latent_dim),
        BernoulliDecoder(MLP(latent_dim, widths, pixels)),
    )


def build_avb(pixels: int, latent_dim: int, widths: list[int], noise_dim: int, inject: bool = False) -> AVB:
    """AVB of fully connected networks with an inner-product critic (Mescheder et al., section 4).

    Noise enters beside the image, as there for the four points, or with `inject` into every hidden layer, as there for MNIST.
    """
    encoder = (InjectionMLP if inject else ConcatenationMLP)((pixels, noise_dim), widths, latent_dim)
    return AVB(
        ImplicitPosterior(encoder, latent_dim, noise_dim),
        BernoulliDecoder(MLP(latent_dim, widths, pixels)),
        InnerProductCritic(MLP(pixels, widths, widths[-1]), MLP(latent_dim, widths, widths[-1])),
    )


GAMES: Mapping[str, Callable[..., LatentVariableGame]] = {"vae": build_vae, "iwae": build_iwae, "avb": build_avb}
EXPERIMENTS: Mapping[str, Callable[[data.Split], data.Images]] = {
    "four_points": lambda split: data.four_points(),
    "mnist": data.mnist_or_digits,
}


def profile() -> str:
    """The profile that chapters run under: `$AVB_PROFILE`, or quick. Raises ValueError for an unknown one."""
    return require_profile(os.environ.get("AVB_PROFILE") or "quick")


def require_profile(name: str) -> str:
    """The name itself; raises ValueError if book.toml has no such profile."""
    return _require("profile", name, _book()["profiles"])


@dataclass(frozen=True)
class Recipe:
    """One experiment with one game under one profile: everything but the seed."""

    experiment: str
    game: str
    profile: str
    settings: Mapping[str, Any]

    def images(self, split: data.Split) -> data.Images:
        """The experiment's images."""
        return EXPERIMENTS[self.experiment](split)

    def config(self, seed: int = 0) -> TrainingConfig:
        """How the game is trained."""
        return TrainingConfig(**{key: self.settings[key] for key in self.settings.keys() & TRAINING_FIELDS}, seed=seed)

    def build(self, seed: int = 0) -> LatentVariableGame:
        """The game with fresh weights; the global random state is left as it was."""
        networks = {key: self.settings[key] for key in self.settings.keys() - TRAINING_FIELDS}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return GAMES[self.game](pixels=self.images("test").pixels.shape[1], **networks)


def recipe(
    experiment: str, game: str, profile_name: str | None = None, overrides: Mapping[str, Any] | None = None
) -> Recipe:
    """Look a recipe up in book.toml; `overrides` replace some of its settings.

    Raises ValueError, with the known names, for an unknown experiment, game, profile or setting.
    """
    _require("experiment", experiment, EXPERIMENTS)
    _require("game", game, GAMES)
    name = profile() if profile_name is None else require_profile(profile_name)
    settings = _book()["profiles"][name].get(experiment, {}).get(game)
    if settings is None:
        raise ValueError(f"book.toml has no settings for {experiment} with {game} under the profile {name}")
    for key, value in (overrides or {}).items():
        _require("setting", key, dict.fromkeys(settings.keys() | TRAINING_FIELDS))
        # A table, such as learning_rates, keeps the entries that are not named.
        settings[key] = settings.get(key, {}) | value if isinstance(value, Mapping) else value
    return Recipe(experiment, game, name, settings)


def run(of: Recipe, seed: int, folder: Path, *, fabric: Fabric | None = None) -> dict[str, Any]:
    """Train and measure a recipe in `folder`, resuming what is there, and return the content of its `result.json`.

    The folder then also holds the weights of encoder and decoder (`model.safetensors`) beside configuration and raw metrics,
    and for images what was measured on each of them (`per_image.safetensors`), from which runs can be compared pair by pair.
    """
    fabric = fabric or Fabric(accelerator="cpu", devices=1)
    result_path = Path(folder) / "result.json"
    game, images, config = of.build(seed), of.images("train"), of.config(seed)
    watch = _watch_four_points(images) if of.experiment == "four_points" else _watch_images(of.images("test"))
    metrics = train(game, images, config, folder=folder, fabric=fabric, monitor=watch, progress=True)
    about = {
        "experiment": of.experiment,
        "game": of.game,
        "profile": of.profile,
        "seed": seed,
        "data": {"name": images.name, "digest": images.digest},
        "settings": dict(of.settings),
    }
    # The result of another run may be left where only that run's checkpoint was removed.
    if result_path.exists() and about.items() <= (finished := read_json(result_path)).items():
        return finished
    with torch.random.fork_rng([fabric.device] if fabric.device.type == "cuda" else []):
        torch.manual_seed(seed)
        if of.experiment == "four_points":
            per_image: dict[str, Tensor] = {}
            measured = measure_four_points(game)
        else:
            per_image = measure_images(game, of.images("test"))
            measured = {"importance_samples": IMPORTANCE_SAMPLES, "images": len(per_image["iwlb"])}
            measured |= {name: asdict(Estimate.of_mean(values)) for name, values in per_image.items()}
    result = {
        **about,
        "seconds": metrics[-1]["seconds"],
        "measured": measured,
        "provenance": provenance(fabric.device),
    }
    if fabric.is_global_zero:
        weights = {f"posterior/{name}": tensor for name, tensor in game.posterior.state_dict().items()}
        weights |= {f"decoder/{name}": tensor for name, tensor in game.decoder.state_dict().items()}
        save_tensors(Path(folder) / "model.safetensors", weights, {"experiment": of.experiment, "game": of.game})
        if per_image:
            save_tensors(Path(folder) / "per_image.safetensors", per_image, about)
        write_json(result_path, result)
    return result


def load_model(of: Recipe, folder: Path) -> LatentVariableGame:
    """The game of a finished run with its trained encoder and decoder (a critic, if any, stays untrained).

    Raises FileNotFoundError or CorruptFile where the weights are missing or altered.
    """
    tensors, _ = load_tensors(Path(folder) / "model.safetensors")
    game = of.build()
    for part in ("posterior", "decoder"):
        weights = {
            name.removeprefix(f"{part}/"): value for name, value in tensors.items() if name.startswith(f"{part}/")
        }
        getattr(game, part).load_state_dict(weights)
    return game


@torch.no_grad()
def measure_four_points(game: LatentVariableGame, blocks: int = 5, per_image: int = 50_000) -> dict[str, Any]:
    """The quantities of Mescheder et al., table 1, from `blocks` independent blocks of codes where they are estimated.

    `log_likelihood` is exact by quadrature. `elbo` takes each KL(q(z|x) ‖ p(z)) from nearest neighbours, since an implicit
    posterior has no density; at the sharp border of a posterior that estimate is too small by a term that falls with the
    square root of `per_image`. `elbo_of_critic` is what the critic believes, which bounds nothing.
    """
    device = next(game.parameters()).device
    x = data.four_points().to(device).batch(torch.arange(4))
    log_px, quadrature_error = log_likelihood_quadrature(game.decoder, x, points=2401)
    blocked: dict[str, list[float]] = {"reconstruction": [], "kl_knn": [], "elbo": [], "elbo_of_critic": []}
    codes = []
    for _ in range(blocks):
        z = game.posterior.sample(x, (per_image,))
        log_px_given_z = game.decoder.log_prob(x, z).mean()
        kl_to_prior = [kl_nearest_neighbour(z[:, i], torch.randn_like(z[:, i])) for i in range(len(x))]
        aggregate = z.flatten(0, 1)
        codes.append(aggregate)
        blocked["reconstruction"].append(float(-log_px_given_z) / x.shape[1])
        blocked["kl_knn"].append(kl_nearest_neighbour(aggregate, torch.randn_like(aggregate)))
        blocked["elbo"].append(float(log_px_given_z) - sum(kl_to_prior) / len(x))
        if isinstance(game, AVB):
            log_ratio = game.log_ratio(x, z)
            blocked["elbo_of_critic"].append(float(log_px_given_z - log_ratio.mean()))
    estimates = {name: Estimate.of_mean(torch.tensor(values)) for name, values in blocked.items() if values}
    estimates["kl_histogram"] = kl_to_prior_histogram(torch.cat(codes))
    return {
        "log_likelihood": {"value": float(log_px.mean()), "quadrature_error": quadrature_error},
        **{name: asdict(estimate) for name, estimate in estimates.items()},
    }


@torch.no_grad()
def measure_images(
    game: LatentVariableGame, test: data.Images, k: int = IMPORTANCE_SAMPLES, images: int = 1000
) -> dict[str, Float[Tensor, "images"]]:
    """Lower bounds on the log-likelihood of each test image by k importance samples, its reconstruction, and its code's width.

    An implicit posterior lends its moments to a Gaussian proposal, so every method is measured by a true bound, `iwlb`;
    `iwlb_fitted` is the bound with a proposal fitted to each image, which does not depend on how good the encoder is. `elbo` is
    that of a posterior with a density, from 64 codes; `elbo_of_critic` is what a critic believes, which bounds nothing.
    `code_std` is the width of the encoder's codes, a mean over latent variables, and `code_std_fitted` that of the fitted
    Gaussians.
    """
    device = next(game.parameters()).device
    test = test.binarized().to(device)
    x = test.batch(torch.arange(min(images, len(test))))
    fitted = FittedProposal(game.posterior, game.decoder)
    z = game.posterior.sample(x)
    log_px_given_z = game.decoder.log_prob(x, z)
    values = {
        "iwlb": iwlb_log_likelihood(game.decoder, _proposal(game), x, k),
        "iwlb_fitted": iwlb_log_likelihood(game.decoder, fitted, x, k),
        "reconstruction": -log_px_given_z,
        "code_std": game.posterior.sample(x, (64,)).std(0).mean(-1),
        "code_std_fitted": fitted.fit(x)[1].mean(-1),
    }
    if isinstance(game.posterior, ExplicitPosterior):
        one_sample = [iwlb_log_likelihood(game.decoder, game.posterior, x, k=1) for _ in range(64)]
        values["elbo"] = torch.stack(one_sample).mean(0)
    if isinstance(game, AVB):
        values["elbo_of_critic"] = log_px_given_z - game.log_ratio(x, z)
    return {name: value.float() for name, value in values.items()}


def _watch_four_points(images: data.Images) -> Callable[[LatentVariableGame], dict[str, float]]:
    """The exact log-likelihood while training, on a grid coarse enough not to slow it."""

    def watch(game: LatentVariableGame) -> dict[str, float]:
        device = next(game.parameters()).device
        x: Tensor = images.to(device).batch(torch.arange(4))
        return {"log_likelihood": float(log_likelihood_quadrature(game.decoder, x, points=201)[0].mean())}

    return watch


def _watch_images(
    test: data.Images, k: int = 50, images: int = 200
) -> Callable[[LatentVariableGame], dict[str, float]]:
    """A true bound on the test log-likelihood while training, from few images and samples so as not to slow it."""

    def watch(game: LatentVariableGame) -> dict[str, float]:
        device = next(game.parameters()).device
        fixed = test.first(images).binarized().to(device)
        x: Tensor = fixed.batch(torch.arange(len(fixed)))
        return {"test_iwlb": float(iwlb_log_likelihood(game.decoder, _proposal(game), x, k).mean())}

    return watch


def _proposal(game: LatentVariableGame) -> ExplicitPosterior:
    """The game's own posterior where it has a density; a Gaussian with its moments where it has none."""
    return game.posterior if isinstance(game.posterior, ExplicitPosterior) else MomentMatchedProposal(game.posterior)


def _book() -> dict[str, Any]:
    if not BOOK.is_file():
        raise FileNotFoundError(
            f"{BOOK}: the recipes stand in the book's checkout; install with `pip install -e .` there"
        )
    return tomllib.loads(BOOK.read_text(encoding="utf-8"))


def _require(kind: str, name: str, known: Mapping[str, Any]) -> str:
    if name not in known:
        raise ValueError(f"{kind}: expected one of {', '.join(sorted(known))}, got {name!r}")
    return name
