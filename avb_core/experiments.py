"""Experiments: each has its data, its likelihood, what is watched while a game trains on it, and what is measured then."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from avb_core import data, faces
from avb_core.annealing import Annealing, ais_log_likelihood
from avb_core.bounds import bits_per_dimension
from avb_core.celeba import celeba
from avb_core.decoders import (
    BernoulliDecoder,
    Decoder,
    DequantizedGaussianDecoder,
    DiscretizedLogisticDecoder,
    IntensityDecoder,
    Likelihood,
    TargetLikelihood,
)
from avb_core.evaluation import (
    Estimate,
    FittedProposal,
    MomentMatchedProposal,
    active_units,
    energy_distance,
    iwlb_log_likelihood,
    kl_nearest_neighbour,
    kl_to_prior_histogram,
    kl_to_prior_moments,
    log_likelihood_quadrature,
    mean_by_levels,
)
from avb_core.games import AVB, LatentVariableGame
from avb_core.gaussian import log_prob_standard_normal
from avb_core.models import Architecture
from avb_core.pictures import (
    LinearReadout,
    frechet_distance,
    inception_features,
    load_inception,
    nearest_is_held_out,
    principal_components_error,
    sharpness,
    sliced_wasserstein,
    to_levels,
)
from avb_core.posteriors import ExplicitPosterior
from avb_core.runs import load_tensors, read_json
from avb_core.testbeds import EightSchools, NoisyRadius

IMPORTANCE_SAMPLES = 500  # for each image, in the bounds that a run reports

Watch = Callable[[LatentVariableGame], dict[str, float]]
Measured = tuple[dict[str, Any], dict[str, Tensor]]  # of the whole, and of each test image


@dataclass(frozen=True)
class Experiment:
    """What a recipe plays its game on.

    `data` is called with "train" or "test", `likelihood` with an architecture and the number of latent variables, `measure`
    with a trained game, and for images with options of `measure_images`. `watch` gives what is called now and then during a
    training, and must be cheap.
    """

    data: Callable[[data.Split], data.Dataset]
    likelihood: Callable[[Architecture, int], Likelihood]
    watch: Callable[[], Watch]
    measure: Callable[..., Measured]


def bernoulli(networks: Architecture, latent_dim: int) -> Likelihood:
    """Independent pixels, black or white."""
    return BernoulliDecoder(networks.to_image(latent_dim))


def constant() -> data.Points:
    """The one x of an inference problem, which nobody looks at."""
    return data.Points("constant", torch.ones(1, 1))


# --- four points ------------------------------------------------------------------------------------------------------


def watch_four_points(game: LatentVariableGame) -> dict[str, float]:
    """The exact log-likelihood while training, on a grid coarse enough not to slow it."""
    x = _batch(data.four_points(), game, 4)
    values, _ = log_likelihood_quadrature(game.decoder, x, game.posterior.latent_dim, points=201)
    return {"log_likelihood": float(values.mean())}


@torch.no_grad()
def measure_four_points(game: LatentVariableGame, blocks: int = 5, per_image: int = 50_000) -> Measured:
    """The quantities of Mescheder et al., table 1, from `blocks` independent blocks of codes where they are estimated.

    `log_likelihood` is exact by quadrature. `elbo` takes each KL(q(z|x) ‖ p(z)) from nearest neighbours, since an implicit
    posterior has no density; at the sharp border of a posterior that estimate is too small by a term that falls with the
    square root of `per_image`. `elbo_of_critic` is what the critic believes, which bounds nothing. `kl_histogram` is for two
    latent variables; with more than two there is no quadrature, and ValueError is raised.
    """
    x = _batch(data.four_points(), game, 4)
    log_px, quadrature_error = log_likelihood_quadrature(game.decoder, x, game.posterior.latent_dim, points=2401)
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
    if game.posterior.latent_dim == 2:
        estimates["kl_histogram"] = kl_to_prior_histogram(torch.cat(codes))
    return {
        "log_likelihood": {"value": float(log_px.mean()), "quadrature_error": quadrature_error},
        **{name: asdict(estimate) for name, estimate in estimates.items()},
    }, {}


# --- images -----------------------------------------------------------------------------------------------------------


def watch_images(game: LatentVariableGame, test: data.Images, k: int = 50) -> dict[str, float]:
    """A true bound on the test log-likelihood while training, and the latent variables in use; cheap, so as not to slow it."""
    x = _batch(test, game, len(test))
    return {
        "test_iwlb": float(iwlb_log_likelihood(game.decoder, _proposal(game), x, k).mean()),
        "active_units": active_units(game.posterior, x, samples=16),
    }


@torch.no_grad()
def measure_images(
    game: LatentVariableGame,
    of: Callable[[data.Split], data.Images],
    k: int = IMPORTANCE_SAMPLES,
    images: int = 1000,
    annealed: int = 20,
    temperatures: int = 500,
) -> Measured:
    """The log-likelihood of test images, with bounds on it, their reconstruction, and their codes' width.

    `log_likelihood` is that of all test images, by `evaluation.mean_by_levels` from the three levels of `bound_levels`:
    `iwlb_of_all`, a bound from a tenth of the `k` importance samples that `iwlb` has; `iwlb` and `iwlb_fitted` together, on the
    first `images`; and annealed importance sampling, `ais`, on the first `annealed` of these. Without annealing there is none.
    `ais_gap` tells how far annealing may be from the truth: on as many images that the model itself drew, the mean of its upper
    bound less its lower one (bidirectional Monte Carlo).

    `iwlb` is from k importance samples of the encoder; an implicit posterior lends its moments to a Gaussian proposal, so that
    every method is measured by a true bound. `iwlb_fitted` is the bound with a proposal fitted to each image, which does not
    depend on how good the encoder is. `elbo` is that of a posterior with a density, from 64 codes; `elbo_of_critic` is what a
    critic believes, which bounds nothing. `code_std` is the width of the encoder's codes, a mean over latent variables, and
    `code_std_fitted` that of the fitted Gaussians. `active_units` are the latent variables that tell images apart. Of the codes
    of all test images together, `kl_moments` is a lower bound on KL(q(z) ‖ p(z)), and `kl_knn` an estimate from up to 5,000.
    """
    _require_annealed(annealed)
    test = of("test")
    x = _batch(test.binarized(), game, images)
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
    every = _batch(test.binarized(), game, len(test))
    codes = torch.cat([game.posterior.sample(few) for few in every.split(1000)])
    some = codes[:5000]
    measured: dict[str, Any] = {
        "importance_samples": k,
        "images": len(x),
        "active_units": active_units(game.posterior, x),
        "kl_moments": asdict(kl_to_prior_moments(codes)),
        "kl_knn": kl_nearest_neighbour(some, torch.randn_like(some)),
    }
    if annealed:
        annealing = Annealing(temperatures)
        values["ais"], _ = _anneal(game, x[:annealed], annealing)
        # Images of the model's own, and with them codes that are exact samples of the posterior.
        own_codes = torch.randn_like(z[:annealed])
        own_lower, own_upper = _anneal(game, cast(Decoder, game.decoder).sample(own_codes), annealing, own_codes)
        values["iwlb_of_all"] = iwlb_log_likelihood(game.decoder, _proposal(game), every, max(1, k // 10))
        measured |= {
            "annealing": asdict(annealing),
            "log_likelihood": asdict(mean_by_levels(*bound_levels(values))),
            "ais_gap": asdict(Estimate.of_mean(own_upper - own_lower)),
        }
    per_image = {name: value.float() for name, value in values.items()}
    return measured | {name: asdict(Estimate.of_mean(values)) for name, values in per_image.items()}, per_image


def _require_annealed(annealed: int) -> None:
    if annealed < 0 or annealed == 1:
        raise ValueError(f"annealed: expected 0 images, or 2 and more for a standard error, got {annealed}")


def bound_levels(per_image: Mapping[str, Float[Tensor, "_"]]) -> list[Float[Tensor, "_"]]:
    """Lower bounds on log p(x), each level better than the one before it and for fewer images, from what was measured on each.

    The middle one is log ½(e^a + e^b) of the bounds by encoder and fit, a bound too: where an encoder has been taught by a
    flexible posterior, no fitted Gaussian may suit the images' posteriors, and where it is poor the fitted one must do.
    """
    joint = torch.logaddexp(per_image["iwlb"], per_image["iwlb_fitted"]) - math.log(2)
    return [per_image["iwlb_of_all"], joint, per_image["ais"]]


def mean_of_all(per_image: Mapping[str, Float[Tensor, "_"]], name: str) -> Estimate:
    """The mean over all test images of what was measured on the first of them: nats, by `evaluation.mean_by_levels`."""
    return mean_by_levels(per_image["iwlb_of_all"], per_image[name])


def paired(one: Mapping[str, Float[Tensor, "_"]], other: Mapping[str, Float[Tensor, "_"]]) -> Estimate:
    """The paired difference of two log-likelihoods, in nats: from the same images, whose own variation cancels.

    A mean by levels of the differences of their `bound_levels`, without those on all images, which may be a third model's.
    """
    levels = zip(bound_levels(one)[1:], bound_levels(other)[1:], strict=True)
    return mean_by_levels(*(ours - theirs for ours, theirs in levels))


def per_image_of(folder: Path) -> dict[str, Float[Tensor, "_"]]:
    """What the finished run in `folder` measured of each image, in double precision.

    A run without a bound of its own on all test images borrows that of another, which its result names, as
    `iwlb_of_all_is_that_of`, by experiment and run: the first level of `evaluation.mean_by_levels` may be any. Raises
    FileNotFoundError or CorruptFile where a file is missing or altered.
    """
    folder = Path(folder)
    per_image, _ = load_tensors(folder / "per_image.safetensors")
    lender = read_json(folder / "result.json")["measured"].get("iwlb_of_all_is_that_of")
    if lender is not None:
        per_image["iwlb_of_all"] = load_tensors(folder.parents[1] / lender / "per_image.safetensors")[0]["iwlb_of_all"]
    return {name: values.double() for name, values in per_image.items()}


def _anneal(
    game: LatentVariableGame, x: Tensor, annealing: Annealing, codes: Tensor | None = None
) -> tuple[Float[Tensor, "images"], Float[Tensor, "images"]]:
    """Lower bounds on log p(x) by annealing from a Gaussian fitted to each image; upper ones where exact `codes` are known."""
    lower, upper = [], []
    for i in range(0, len(x), 64):
        few, exact = x[i : i + 64], None if codes is None else codes[i : i + 64]
        start = FittedProposal(game.posterior, game.decoder).fit(few)
        bounds = ais_log_likelihood(game.decoder, few, start[0].shape[-1], annealing, start, exact)
        lower.append(bounds.lower)
        upper.append(bounds.lower if bounds.upper is None else bounds.upper)
    return torch.cat(lower), torch.cat(upper)


def _proposal(game: LatentVariableGame) -> ExplicitPosterior:
    """The game's own posterior where it has a density; a Gaussian with its moments where it has none."""
    return game.posterior if isinstance(game.posterior, ExplicitPosterior) else MomentMatchedProposal(game.posterior)


def _batch(images: data.Images, game: LatentVariableGame, n: int) -> Tensor:
    device = next(game.parameters()).device
    return images.to(device).batch(torch.arange(min(n, len(images))))


# --- pictures in colour -----------------------------------------------------------------------------------------------

PICTURE_LIKELIHOODS: Mapping[str, type[IntensityDecoder]] = {
    "logistic": DiscretizedLogisticDecoder,
    "gaussian": DequantizedGaussianDecoder,
}
# Codes, with the pictures that they decode to, that are held at a time.
PICTURES_AT_A_TIME = 256


def intensities(
    networks: Architecture, latent_dim: int, likelihood: str = "logistic", scales: int | None = None
) -> Likelihood:
    """Pixels of 256 levels, with one of the `PICTURE_LIKELIHOODS`; `scales` as in `decoders.IntensityDecoder`."""
    if likelihood not in PICTURE_LIKELIHOODS:
        raise ValueError(f"likelihood: expected one of {', '.join(PICTURE_LIKELIHOODS)}, got {likelihood!r}")
    kind = PICTURE_LIKELIHOODS[likelihood]
    return kind(networks.to_image(latent_dim, kind.numbers(scales)), scales)


@torch.no_grad()
def watch_pictures(game: Any, test: data.Images) -> dict[str, float]:
    """How well test pictures are reconstructed while training, and how sharp the generated ones are beside them."""
    x = _batch(test, game, len(test))
    z = game.posterior.sample(x)
    generated = decoded(game.decoder, torch.randn_like(z))
    shape = _planes(test)
    watched = {
        "test_mse": float((decoded(game.decoder, z) - x).square().mean()),
        "sharpness": float(sharpness(generated, shape).mean() / sharpness(x, shape).mean()),
    }
    if isinstance(game.decoder, Likelihood):
        watched["test_reconstruction_bits"] = bits_per_dimension(float(game.decoder.log_prob(x, z).mean()), x.shape[-1])
    return watched


@torch.no_grad()
def measure_pictures(
    game: Any,
    of: Callable[[data.Split], data.Images],
    attributes_of: Callable[[data.Split], Tensor] | None = None,
    k: int = 50,
    images: int = 500,
    bounded: int = 32,
    annealed: int = 4,
    temperatures: int = 100,
    fitting: int = 100,
    inception: Path | None = None,
) -> Measured:
    """What a model of pictures is worth: likelihood, reconstruction, and its own pictures beside held-out ones.

    Of the first `bounded` test pictures: `bits_per_dimension`, from the best of the bounds that `measure_images` has, which are
    in nats: `iwlb`, `iwlb_fitted` (after so many steps of `fitting`), and for the first `annealed` of them `ais`. Of the first
    `images`: `mse` and `mae` of reconstructions, per pixel and colour, intensities from 0 to 1; `mse_linear` is what as many
    principal components as there are latent variables leave, from up to 4,000 training pictures. Pictures are means of p(x|z),
    without the noise of single pixels.

    `feature_distance` is `pictures.sliced_wasserstein` of as many generated pictures to them, a mean over scales and over three
    sets of pictures, whose spread gives the error; `feature_distance_floor` is that of as many training pictures. As codes of
    the prior may fall where no picture's code is, `feature_distance_fitted` is that of pictures from codes of a Gaussian with
    the moments of the encoder's codes of all test pictures: those of the same model after an affine map of its codes, which
    raises the mean ELBO by `kl_moments`, their lower bound on KL(q(z) ‖ p(z)), and changes nothing else. `sharpness` of
    generated pictures, and of reconstructions, is relative to the test pictures'. `nearest_is_held_out`, as in `pictures`,
    has the mean 1 where generated pictures were not learned by heart, and 0 where they were.

    With the weights of an Inception network in the file `inception`, see `pictures.load_inception`,
    `frechet_inception_distance` is that of the `generated` pictures to the test pictures, that of pictures from the `fitted`
    Gaussian, and for a `floor` that of training pictures. It is biased upwards, the more so the fewer `pictures` each of these
    sets has, so it compares only at equal numbers; papers take tens of thousands. `weights` tells the file by the first digits
    of its SHA-256.

    Where attributes are known, `attributes` tells what share of the variance of each a linear function of the code explains on
    held-out faces, `interpolation` how far pictures decoded half way between two faces' codes are from the true face half way
    (root mean square), and `crossfade` how far the mean of the two pictures is.

    The tensors are values of each picture, and pictures in levels from 0 to 255: `generated`, and of drawn faces alone
    `reconstructed`.
    """
    _require_annealed(annealed)
    of_inception = None if inception is None else _inception_of(inception)  # before anything takes its time
    test, train = of("test"), of("train")
    shape, x = _planes(test), _batch(test, game, images)
    z = torch.cat([game.posterior.sample(few) for few in x.split(PICTURES_AT_A_TIME)])
    reconstructed = decoded(game.decoder, z)
    error = reconstructed - x
    values = {"mse": error.square().mean(-1), "mae": error.abs().mean(-1)}
    values["mse_linear"] = principal_components_error(x, _batch(train, game, 4000), z.shape[-1])
    measured: dict[str, Any] = {"images": len(x), "bounded": min(bounded, len(x)), "importance_samples": k}
    if isinstance(game.decoder, Likelihood):
        bounds = _bounds_on_pictures(game, x[:bounded], k, annealed, Annealing(temperatures, 2, 4), fitting)
        if isinstance(game, AVB):
            bounds["elbo_of_critic"] = game.decoder.log_prob(x[:bounded], z[:bounded]) - game.log_ratio(
                x[:bounded], z[:bounded]
            )
        best = Estimate.of_mean(torch.maximum(bounds["iwlb"], bounds["iwlb_fitted"]))
        if annealed:
            best = mean_by_levels(torch.maximum(bounds["iwlb"], bounds["iwlb_fitted"]), bounds["ais"])
        in_bits = bits_per_dimension(1.0, x.shape[-1])
        measured["log_likelihood"] = asdict(best)
        measured["bits_per_dimension"] = asdict(Estimate(best.value * in_bits, -best.stderr * in_bits))
        values |= bounds

    codes = codes_of(game, test)
    measured["kl_moments"] = asdict(kl_to_prior_moments(codes))
    of_codes = gaussian_of(codes)
    from_fitted = [decoded(game.decoder, of_codes.sample((len(x),))) for _ in range(3)]
    sets = [decoded(game.decoder, torch.randn_like(z)) for _ in range(3)]
    others = _batch(train, game, len(x))
    values["sharpness"] = sharpness(sets[0], shape) / sharpness(x, shape).mean()
    values["sharpness_reconstructed"] = sharpness(reconstructed, shape) / sharpness(x, shape).mean()
    by_scale = [sliced_wasserstein(each, x, shape) for each in sets]
    floor = sliced_wasserstein(others, x[: len(others)], shape)
    measured["feature_distance"] = _mean_distance(by_scale)
    measured["feature_distance_fitted"] = _mean_distance([sliced_wasserstein(each, x, shape) for each in from_fitted])
    measured["feature_distance_floor"] = sum(floor.values()) / len(floor)
    measured["feature_distance_by_scale"] = {
        str(side): {"generated": sum(each[side] for each in by_scale) / 3, "floor": floor[side]} for side in floor
    }
    if of_inception is not None:
        network, weights = of_inception
        network.to(x.device)
        seen, *compared = (
            inception_features(network, each[: len(others)], shape) for each in (x, sets[0], from_fitted[0], others)
        )
        by_kind = zip(("generated", "fitted", "floor"), compared, strict=True)
        measured["frechet_inception_distance"] = {
            **{kind: frechet_distance(features, seen) for kind, features in by_kind},
            "pictures": len(seen),
            "weights": weights,
        }
    values["nearest_is_held_out"] = nearest_is_held_out(sets[0], train.pixels, test.pixels)

    tensors = {"generated": to_levels(sets[0][:64])}
    if attributes_of is not None:
        tensors["reconstructed"] = to_levels(reconstructed[:32])
        measured |= _known_attributes(game, train, test, attributes_of)
    per_image = {name: value.float() for name, value in values.items()}
    measured |= {name: asdict(Estimate.of_mean(value)) for name, value in per_image.items()}
    return measured, per_image | tensors


def _inception_of(file: Path) -> tuple[nn.Module, str]:
    """The network with the weights in the file, and what tells them from others."""
    return load_inception(file), hashlib.sha256(Path(file).read_bytes()).hexdigest()[:8]


def _mean_distance(by_scale: Sequence[Mapping[int, float]]) -> dict[str, float]:
    return asdict(Estimate.of_mean(torch.tensor([sum(each.values()) / len(each) for each in by_scale])))


def codes_of(game: Any, images: data.Images) -> Float[Tensor, "n d"]:
    """A code of the encoder for each of the pictures, few at a time."""
    return torch.cat(
        [game.posterior.sample(few) for few in _batch(images, game, len(images)).split(PICTURES_AT_A_TIME)]
    )


def gaussian_of(codes: Float[Tensor, "n d"]) -> MultivariateNormal:
    """The Gaussian with the codes' mean and covariance: what to decode from where the prior's codes are not the encoder's."""
    return MultivariateNormal(codes.mean(0), codes.T.cov())


def decoded(decoder: Any, z: Float[Tensor, "n d"]) -> Float[Tensor, "n pixels"]:
    """The pictures of codes: the mean of p(x|z), or what an implicit decoder draws; few at a time."""
    picture = decoder.mean if isinstance(decoder, Decoder) else decoder.sample
    return torch.cat([picture(few) for few in z.split(PICTURES_AT_A_TIME)])


def interpolated(
    game: Any, a: Float[Tensor, "n pixels"], b: Float[Tensor, "n pixels"], steps: int = 8
) -> Float[Tensor, "n steps pixels"]:
    """Pictures on the way from a to b: decoded from codes on the straight line between their codes, ends included."""
    from_, to = mean_codes(game, a), mean_codes(game, b)
    way = torch.linspace(0, 1, steps).to(from_)[:, None]
    codes = (1 - way) * from_[:, None] + way * to[:, None]
    return decoded(game.decoder, codes.flatten(0, 1)).unflatten(0, (len(a), steps))


def mean_codes(game: Any, x: Float[Tensor, "n pixels"], samples: int = 4) -> Float[Tensor, "n d"]:
    """The mean of the encoder's codes for each picture, from so many samples."""
    return torch.cat([game.posterior.sample(few, (samples,)).mean(0) for few in x.split(PICTURES_AT_A_TIME // samples)])


def _bounds_on_pictures(
    game: LatentVariableGame, x: Float[Tensor, "n pixels"], k: int, annealed: int, annealing: Annealing, fitting: int
) -> dict[str, Float[Tensor, "n"]]:
    """Lower bounds on log p(x), few pictures at a time, since each takes hundreds of times its own memory."""
    fitted, own = FittedProposal(game.posterior, game.decoder, fitting), _proposal(game)
    pieces = x.split(8)
    bounds = {
        name: torch.cat([iwlb_log_likelihood(game.decoder, proposal, few, k, PICTURES_AT_A_TIME) for few in pieces])
        for name, proposal in (("iwlb", own), ("iwlb_fitted", fitted))
    }
    if isinstance(game.posterior, ExplicitPosterior):
        draws = [iwlb_log_likelihood(game.decoder, game.posterior, x, 1, PICTURES_AT_A_TIME) for _ in range(16)]
        bounds["elbo"] = torch.stack(draws).mean(0)
    if annealed:
        bounds["ais"], _ = _anneal(game, x[:annealed], annealing)
    return bounds


def _known_attributes(
    game: Any, train: data.Images, test: data.Images, attributes_of: Callable[[data.Split], Tensor], pairs: int = 50
) -> dict[str, Any]:
    device = next(game.parameters()).device
    sets: tuple[tuple[data.Images, data.Split, int], ...] = (
        (train, "train", min(1000, len(train))),
        (test, "test", min(500, len(test))),
    )
    seen, held_out = (
        (mean_codes(game, _batch(images, game, n)), attributes_of(split)[:n].to(device)) for images, split, n in sets
    )
    explained = LinearReadout.fit(*seen).r_squared(*held_out)
    pairs = min(pairs, len(held_out[0]) // 2)
    a, b = (_batch(test, game, 2 * pairs)[half::2] for half in (0, 1))
    between = (held_out[1][0 : 2 * pairs : 2] + held_out[1][1 : 2 * pairs : 2]) / 2
    # Glasses are put on at 0, where a face half way may fall on either side; those pairs would not have one true answer.
    glasses = held_out[1][: 2 * pairs, faces.ATTRIBUTES.index("glasses")].reshape(-1, 2) > 0
    same = glasses[:, 0] == glasses[:, 1]
    truth = faces.draw(between.cpu()).to(device)
    middle = interpolated(game, a, b, steps=3)[:, 1]
    return {
        "attributes": dict(zip(faces.ATTRIBUTES, map(float, explained), strict=True)),
        "interpolation": _root_mean_square(middle[same] - truth[same]),
        "crossfade": _root_mean_square((a + b)[same] / 2 - truth[same]),
    }


def _root_mean_square(error: Tensor) -> dict[str, float]:
    return asdict(Estimate.of_mean(error.square().mean(-1).sqrt()))


def _planes(images: data.Images) -> tuple[int, int, int]:
    """Colours, height and width."""
    *colours, height, width = images.shape
    return (colours[0] if colours else 1), height, width


# --- one posterior to infer -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A posterior whose evidence and samples are known: log_joint(z) = log p(x, z) in nats, for the one x there is.

    Samples are compared as `parameters` of the codes z, each divided by its standard deviation under the truth.
    """

    log_joint: Callable[[Tensor], Tensor]
    log_evidence: float
    parameters: Callable[[Tensor], Tensor]
    truth: Callable[[int, torch.Generator], Tensor]

    def distance(self, z: Float[Tensor, "n d"]) -> float:
        """The energy distance of codes to as many independent samples of the truth, always the same ones."""
        truth = self.truth(len(z), torch.Generator().manual_seed(0))
        scale = truth.std(0)
        return energy_distance(self.parameters(z.cpu().double()) / scale, truth / scale)


def _schools(centred: bool) -> Target:
    model = EightSchools()
    if not centred:
        return Target(model.log_joint_of_codes, model.log_evidence(), model.parameters, model.sample)
    # In units of ten points all parameters are of the order of 1; the density takes on the map's Jacobian.
    unit = torch.full((model.dim,), 10.0)
    unit[1] = 1.0
    log_volume = float(unit.log().sum())
    return Target(
        lambda z: model.log_joint(z * unit.to(z)) + log_volume,
        model.log_evidence(),
        lambda z: z * unit.to(z),
        model.sample,
    )


def _ring() -> Target:
    model = NoisyRadius()
    return Target(model.log_joint, model.log_evidence(), lambda z: z, model.sample)


TARGETS: Mapping[str, Target] = {
    "eight_schools": _schools(centred=False),
    "eight_schools_centred": _schools(centred=True),
    "ring": _ring(),
}


def watch_target(game: LatentVariableGame, target: Target, samples: int = 2000) -> dict[str, float]:
    """The distance to the truth, and for a posterior with a density KL(q ‖ truth), from few samples."""
    measured, _ = measure_target(game, target, samples)
    return {name: measured[name]["value"] for name in ("energy_distance", "kl") if name in measured}


@torch.no_grad()
def measure_target(game: LatentVariableGame, target: Target, samples: int = 5000, blocks: int = 5) -> Measured:
    """`energy_distance` of the posterior's samples to the truth's; where there is a density, `kl` = log evidence − ELBO.

    `elbo_of_critic` is the ELBO as a critic believes it, to be held against `log_evidence`; it bounds nothing.
    """
    x = next(game.parameters()).new_ones(samples, 1)
    blocked: dict[str, list[float]] = {"energy_distance": [], "kl": [], "elbo_of_critic": []}
    for _ in range(blocks):
        if isinstance(game.posterior, ExplicitPosterior):
            z, log_q = game.posterior.sample_with_log_prob(x)
            blocked["kl"].append(target.log_evidence - float((target.log_joint(z) - log_q).double().mean()))
        else:
            z = game.posterior.sample(x)
        blocked["energy_distance"].append(target.distance(z))
        if isinstance(game, AVB):
            believed = game.log_ratio(x, z) + log_prob_standard_normal(z)
            blocked["elbo_of_critic"].append(float((target.log_joint(z) - believed).double().mean()))
    measured: dict[str, Any] = {"log_evidence": target.log_evidence, "samples": blocks * samples}
    return measured | {
        name: asdict(Estimate.of_mean(torch.tensor(values))) for name, values in blocked.items() if values
    }, {}


# --- all of them ------------------------------------------------------------------------------------------------------


def on_images(images: Callable[[data.Split], data.Images]) -> Experiment:
    """An experiment on images of black and white pixels."""
    return Experiment(
        images,
        bernoulli,
        lambda: partial(watch_images, test=images("test").first(200).binarized()),
        partial(measure_images, of=images),
    )


def on_pictures(
    images: Callable[[data.Split], data.Images], attributes_of: Callable[[data.Split], Tensor] | None = None
) -> Experiment:
    """An experiment on pictures in colour, whose attributes may be known."""
    images = cache(images)  # which may have to be drawn
    return Experiment(
        images,
        intensities,
        lambda: partial(watch_pictures, test=images("test").first(100)),
        partial(measure_pictures, of=images, attributes_of=attributes_of),
    )


def drawn_faces(training: int, test: int) -> Experiment:
    """An experiment on so many faces of the book's own."""
    numbers: Mapping[str, int] = {"train": training, "test": test}
    return on_pictures(lambda split: faces.faces(split, numbers[split]), faces.attributes_of)


def on_target(target: Target) -> Experiment:
    """An experiment that infers one posterior."""
    return Experiment(
        lambda split: constant(),
        lambda networks, latent_dim: TargetLikelihood(target.log_joint),
        lambda: partial(watch_target, target=target),
        partial(measure_target, target=target),
    )


EXPERIMENTS: dict[str, Experiment] = {
    "four_points": Experiment(
        lambda split: data.four_points(),
        bernoulli,
        lambda: watch_four_points,
        lambda game: measure_four_points(game),
    ),
    # The same images, each with networks of its own in book.toml.
    **{name: on_images(data.mnist_or_digits) for name in ("mnist", "mnist_conv8", "mnist_conv32")},
    "binarized_mnist": on_images(data.binarized_mnist),
    "celeba": on_pictures(celeba),
    "faces": drawn_faces(2000, 500),  # drawn within seconds
    "many_faces": drawn_faces(20_000, 1000),
    **{name: on_target(target) for name, target in TARGETS.items()},
}
