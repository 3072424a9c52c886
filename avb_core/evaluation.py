"""Measuring a trained model: exact where that is possible, with error bars where it is not. All results in nats.

Nothing here believes a critic: its own estimate is not a bound and is never reported as a log-likelihood.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from scipy.special import ndtr
from torch import Tensor

from avb_core._validate import require_floating, require_no_nan
from avb_core.decoders import Decoder, Likelihood
from avb_core.gaussian import (
    kl_standard_normal,
    log_prob_diagonal,
    log_prob_full,
    log_prob_standard_normal,
    reparameterize,
    reparameterize_full,
)
from avb_core.posteriors import ExplicitPosterior, Posterior

# Samples (of a code, with its decoded image) that are held at a time: bounds the memory of every estimate below.
CHUNK = 2**15


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, both in nats."""

    value: float
    stderr: float

    @classmethod
    def of_mean(cls, values: Tensor | np.ndarray) -> "Estimate":
        """The mean of independent values and its standard error."""
        array = _as_array(values) if isinstance(values, Tensor) else np.asarray(values, dtype=float)
        if array.size < 2:
            raise ValueError(f"values: expected at least two for a standard error, got {array.size}")
        return cls(float(array.mean()), float(array.std(ddof=1) / math.sqrt(array.size)))


def _as_array(values: Tensor) -> np.ndarray:
    """In double precision, which NumPy has of every floating-point type of PyTorch."""
    return values.detach().cpu().double().numpy()


def mean_by_levels(*levels: Float[Tensor, "_"]) -> Estimate:
    """The mean of the last level over all the images that the first one has: each level is better, dearer, and for fewer.

    Level l holds values of the first n_l images, n_0 ≥ n_1 ≥ …. What a level adds to the one before it varies less between
    images than the values do, so that few images tell its mean: the sum of these means is unbiased for images in random order
    (double sampling: Neyman, 1938), whatever the coarse levels are. An image counts in several means; with D_l for what level l
    adds the variance is Σ_l Var(D_l)/n_l + 2 Σ_{l<m} Cov(D_l, D_m)/n_l.

    Raises ValueError for no level, fewer than two values in one, more in a level than in the one before it, or NaN.
    """
    for i, level in enumerate(levels):
        require_no_nan(f"levels[{i}]", level)
        if len(level) < 2 or (i and len(level) > len(levels[i - 1])):
            raise ValueError(
                f"levels: expected two or more values, and no more in a level than before it, got {[*map(len, levels)]}"
            )
    if not levels:
        raise ValueError("levels: expected at least one, got none")
    first, *others = (level.detach().double() for level in levels)
    added = [first, *(after - before[: len(after)] for before, after in pairwise((first, *others)))]
    variance = sum(float(each.var()) / len(each) for each in added)
    for of_more, of_fewer in combinations(added, 2):
        covariance = torch.cov(torch.stack([of_more[: len(of_fewer)], of_fewer]))[0, 1]
        variance += 2 * float(covariance) / len(of_more)
    return Estimate(sum(float(each.mean()) for each in added), math.sqrt(max(variance, 0.0)))  # NaN stays NaN


@torch.no_grad()
def log_likelihood_quadrature(
    decoder: Likelihood, x: Float[Tensor, "batch n"], latent_dim: int = 2, points: int = 601, radius: float = 7.0
) -> tuple[Float[Tensor, "batch"], float]:
    """log p(x) = log ∫ p(x|z) N(z; 0, I) dz by the trapezoidal rule on [−radius, radius]^d, for d = 1 or 2.

    Returns the log-likelihoods and the largest change that every other grid point alone would have made: a bound on the
    quadrature's error wherever it has begun to converge. Beyond radius 7 the prior holds less than 1e-11.

    Raises ValueError for another dimension, points that are not 5, 9, 13, …, an x of other axes or no image.
    """
    if x.ndim != 2 or not len(x):
        raise ValueError(f"x: expected shape (batch, n) with at least one image, got {tuple(x.shape)}")
    if latent_dim not in (1, 2):
        raise ValueError(
            f"latent_dim: quadrature is for 1 or 2 latent variables, got {latent_dim}; use iwlb_log_likelihood"
        )
    if points < 3 or points % 4 != 1:
        raise ValueError(f"points: expected 5, 9, 13, …, so that every other point is a grid too, got {points}")
    axis = torch.linspace(-radius, radius, points, dtype=x.dtype, device=x.device)
    grid = torch.cartesian_prod(*[axis] * latent_dim).reshape(-1, latent_dim)
    # Written into one tensor: thousands of small results, kept among large temporaries, scatter the heap over gigabytes.
    log_joint = torch.empty(len(x), len(grid), dtype=torch.float64, device=x.device)
    few = max(1, CHUNK // len(x))
    for start, z in zip(range(0, len(grid), few), grid.split(few), strict=True):
        log_joint[:, start : start + len(z)] = decoder.log_prob(x[:, None], z) + log_prob_standard_normal(z)
    log_joint = log_joint.reshape(len(x), *[points] * latent_dim)
    coarse = log_joint[:, ::2] if latent_dim == 1 else log_joint[:, ::2, ::2]
    # The prior vanishes at the ends, so all trapezoidal weights may be taken as equal.
    spacing = 2 * radius / (points - 1)
    fine_value = log_joint.flatten(1).logsumexp(1) + latent_dim * math.log(spacing)
    coarse_value = coarse.flatten(1).logsumexp(1) + latent_dim * math.log(2 * spacing)
    return fine_value, float((fine_value - coarse_value).abs().max())


@torch.no_grad()
def iwlb_log_likelihood(
    decoder: Likelihood, proposal: ExplicitPosterior, x: Float[Tensor, "batch n"], k: int, chunk: int = CHUNK
) -> Float[Tensor, "batch"]:
    """One draw of the importance weighted lower bound L_k on log p(x) for each image, for any explicit proposal.

    At most `chunk` codes are held at a time: importance samples are folded into a running log-sum-exp, so that memory does
    not grow with k. Raises ValueError for an x of other axes, k < 1 or chunk < 1.
    """
    if x.ndim != 2:
        raise ValueError(f"x: expected shape (batch, n), got {tuple(x.shape)}")
    if k < 1:
        raise ValueError(f"k: expected at least 1 importance sample, got {k}")
    if chunk < 1:
        raise ValueError(f"chunk: expected at least 1 code, got {chunk}")
    per_pass = max(1, chunk // k)
    return torch.cat([_iwlb_of_few(decoder, proposal, few, k, chunk) for few in x.split(per_pass)])


def _iwlb_of_few(decoder: Likelihood, proposal: ExplicitPosterior, x: Tensor, k: int, chunk: int) -> Tensor:
    total = torch.full(x.shape[:1], -torch.inf, dtype=torch.float64, device=x.device)
    for done in range(0, k, chunk):
        z, log_q = proposal.sample_with_log_prob(x, (min(chunk, k - done),))
        log_weights = decoder.log_prob(x, z) + log_prob_standard_normal(z) - log_q
        total = torch.logaddexp(total, log_weights.double().logsumexp(0))
    return total - math.log(k)


class MomentMatchedProposal(ExplicitPosterior):
    """A full-covariance Gaussian with the mean and covariance of an implicit posterior's samples, widened a little.

    It gives an implicit posterior the density that importance weighting needs; the bound holds for every proposal, and is the
    looser the less Gaussian the posterior is. The moments are taken anew at every call, before the codes are drawn, so each
    weight is unbiased for p(x). `widen` multiplies the standard deviations: a proposal should have the heavier tails.

    Of a posterior that bends base codes (`posteriors.BasisNoisePosterior`) the moments are those of base codes, and the
    Gaussian is bent as they are: adaptive contrast's r(z|x), widened.
    """

    def __init__(self, posterior: Posterior, samples: int = 256, widen: float = 1.2) -> None:
        super().__init__()
        if samples <= posterior.latent_dim:
            raise ValueError(
                f"samples: expected more than latent_dim = {posterior.latent_dim} for a covariance, got {samples}"
            )
        self.posterior = posterior
        self.latent_dim = posterior.latent_dim
        self.samples = samples
        self.widen = widen

    def sample_with_log_prob(
        self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        few_at_a_time = x.reshape(-1, x.shape[-1]).split(max(1, CHUNK // self.samples))
        means, scale_trils = zip(*map(self._moments, few_at_a_time), strict=True)
        mean = torch.cat(means).reshape(*x.shape[:-1], self.latent_dim)
        scale_tril = torch.cat(scale_trils).reshape(*mean.shape, self.latent_dim)
        z = reparameterize_full(mean, scale_tril, torch.randn(*shape, *mean.shape, dtype=mean.dtype, device=x.device))
        log_prob = log_prob_full(z, mean, scale_tril)
        z, log_volume = self.posterior.bend_base(x, z)
        return z, log_prob - log_volume

    def _moments(self, x: Float[Tensor, "batch n"]) -> tuple[Float[Tensor, "batch d"], Float[Tensor, "batch d d"]]:
        """Mean and widened scale of the posterior's samples for each image."""
        fitted = self.posterior.sample_base(x, (self.samples,))
        mean = fitted.mean(0)
        centred = (fitted - mean).double()
        covariance = torch.einsum("kbi,kbj->bij", centred, centred) / (self.samples - 1)
        # A floor far below any posterior width keeps the factor defined where the encoder is all but deterministic.
        floor = 1e-6 * torch.eye(self.latent_dim, dtype=covariance.dtype, device=x.device)
        return mean, (self.widen * torch.linalg.cholesky(covariance + floor)).to(mean.dtype)


class FittedProposal(ExplicitPosterior):
    """A diagonal Gaussian of its own for every image: the best that the decoder alone asks for, whatever the encoder gives.

    From the posterior's mean, `steps` of Adam climb the image's ELBO in mean and log std; the codes are then drawn afresh, so
    the bound holds as for any proposal. It tells a poor model from a poor encoder, at the price of a fit at every call.
    """

    def __init__(
        self, posterior: Posterior, decoder: Likelihood, steps: int = 100, rate: float = 0.05, widen: float = 1.1
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        self.posterior = posterior
        self.latent_dim = posterior.latent_dim
        self.decoder = decoder
        self.steps = steps
        self.rate = rate
        self.widen = widen

    @torch.inference_mode(False)
    @torch.enable_grad()
    def fit(self, x: Float[Tensor, "*batch n"]) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"]]:
        """The fitted mean and std."""
        x = x.clone()  # of a tensor of inference mode autograd keeps nothing
        mean = self.posterior.sample(x, (64,)).mean(0).detach().requires_grad_()
        log_std = torch.full_like(mean, math.log(0.1), requires_grad=True)
        adam = torch.optim.Adam([mean, log_std], lr=self.rate)
        for step in range(self.steps):
            adam.param_groups[0]["lr"] = self.rate * (1 - step / self.steps)
            z = reparameterize(mean, log_std.exp(), torch.randn(4, *mean.shape, dtype=mean.dtype, device=x.device))
            loss = kl_standard_normal(mean, log_std.exp()) - self.decoder.log_prob(x, z).mean(0)
            # In these two alone: the decoder's parameters collect nothing.
            mean.grad, log_std.grad = torch.autograd.grad(loss.sum(), [mean, log_std])
            adam.step()
        return mean.detach(), log_std.detach().exp()

    def sample_with_log_prob(
        self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        mean, std = self.fit(x)
        std = self.widen * std
        z = reparameterize(mean, std, torch.randn(*shape, *mean.shape, dtype=mean.dtype, device=x.device))
        return z, log_prob_diagonal(z, mean, std)


def kl_nearest_neighbour(q_samples: Float[Tensor, "n d"], p_samples: Float[Tensor, "m d"], k: int = 5) -> float:
    """KL(q ‖ p) from samples of both, by distances to the k-th nearest neighbour (Wang, Kulkarni and Verdú, 2009, eq. 5).

    d · mean log(ν_k(i) / ρ_k(i)) + log(m / (n − 1)), where ρ_k is the distance from a sample of q to its k-th neighbour among
    the other samples of q, and ν_k among those of p. Consistent, with a bias that shrinks slowly in higher dimensions; it can
    be negative. Raises ValueError for fewer than k + 1 samples, different dimensions, a k-th neighbour at the same point, or
    NaN; fewer points that coincide, as rounding may have it, are let pass.
    """
    require_no_nan("q_samples", q_samples)
    require_no_nan("p_samples", p_samples)
    q, p = _as_array(q_samples), _as_array(p_samples)
    if q.ndim != 2 or p.ndim != 2 or q.shape[1] != p.shape[1]:
        raise ValueError(f"q_samples, p_samples: expected (n, d) and (m, d), got {q.shape} and {p.shape}")
    if k < 1 or len(q) <= k or len(p) < k:
        raise ValueError(f"k: expected 1 ≤ k < number of samples, got k = {k} for {len(q)} and {len(p)} samples")
    to_q = KDTree(q).query(q, k=[k + 1])[0][:, 0]  # the nearest is the point itself
    to_p = KDTree(p).query(q, k=[k])[0][:, 0]
    if not (to_q > 0).all() or not (to_p > 0).all():
        raise ValueError("q_samples, p_samples: some points coincide, so q has no density; its KL is infinite")
    return float(q.shape[1] * np.log(to_p / to_q).mean() + math.log(len(p) / (len(q) - 1)))


def kl_to_prior_histogram(z: Float[Tensor, "n 2"], bins: int = 40) -> Estimate:
    """KL(q ‖ N(0, I)) in two dimensions from samples of q, by counting them in cells that the prior makes equally likely.

    Each code is mapped to the unit square by the normal distribution function, under which the prior is uniform; the KL of
    the cells' frequencies to uniform is at most KL(q ‖ p), and close to it when q varies little within a cell. The plug-in
    estimate is too large by (cells − 1)/(2n) to first order (Miller, 1955), which is taken off; the standard error is that
    of the mean log frequency with what the counts' own fluctuation adds. Raises ValueError for another dimension, fewer than
    one sample per cell, or entries not finite.
    """
    require_no_nan("z", z)
    values = _as_array(z)
    if values.ndim != 2 or values.shape[1] != 2 or not np.isfinite(values).all():
        raise ValueError(f"z: expected finite entries of shape (n, 2), got {values.shape}")
    if len(values) < bins**2:
        raise ValueError(f"z: expected at least one sample for each of the {bins**2} cells, got {len(values)}")
    cells = np.minimum((ndtr(values) * bins).astype(int), bins - 1)
    counts = np.bincount(cells[:, 0] * bins + cells[:, 1], minlength=bins**2)
    frequency = counts[counts > 0] / len(values)
    log_ratio = np.log(frequency * bins**2)
    value = float(frequency @ log_ratio) - (bins**2 - 1) / (2 * len(values))
    of_log_ratio = float(frequency @ log_ratio**2 - (frequency @ log_ratio) ** 2) / len(values)
    # The counts' own fluctuation, at q = p all that there is, is twice as large in what was just taken from them.
    of_counts = (bins**2 - 1) / 2 / len(values) ** 2
    variance = max(of_log_ratio, 2 * of_counts) - of_counts
    return Estimate(value, math.sqrt(variance))


def kl_to_prior_moments(z: Float[Tensor, "n d"]) -> Estimate:
    """½ (E|z|² − d − log det Cov z): the least KL(q ‖ N(0, I)) that a q with the mean and covariance of these samples can have.

    It is that of the Gaussian g with q's moments, for KL(q ‖ p) = KL(q ‖ g) + KL(g ‖ p) where log g/p is quadratic: a lower
    bound in any dimension, blind only to what is not Gaussian. The plug-in value is too large by d (d + 3)/(4n) to first order,
    which is taken off; the standard error is that of the mean of ½ (|z|² − |z − mean|² in q's own scale). Raises ValueError for
    another shape, n ≤ d + 1, a direction in which the samples do not vary, or entries not finite.
    """
    require_no_nan("z", z)
    if z.ndim != 2 or len(z) <= z.shape[-1] + 1 or not z.isfinite().all():
        raise ValueError(f"z: expected finite entries of shape (n, d) with n > d + 1, got {tuple(z.shape)}")
    z = z.detach().double()
    n, d = z.shape
    centred = z - z.mean(0)
    scale_tril, failed = torch.linalg.cholesky_ex(centred.T @ centred / n)
    if failed:
        raise ValueError("z: the samples do not vary in some direction, so q has no density; its KL is infinite")
    log_det = 2 * scale_tril.diagonal().log().sum()
    value = float(0.5 * (z.square().sum(-1).mean() - d - log_det)) - d * (d + 3) / (4 * n)
    whitened = torch.linalg.solve_triangular(scale_tril, centred.T, upper=False)
    influence = 0.5 * (z.square().sum(-1) - whitened.square().sum(0))
    # The moments' own fluctuation, at q = p all that there is, gives the value half a χ² of d (d + 3)/2 degrees of freedom over
    # n, and the influence's variance twice what that varies by: it was taken at them.
    of_moments = d * (d + 3) / 4 / n**2
    return Estimate(value, math.sqrt(max(float(influence.var()) / n, 2 * of_moments) - of_moments))


@torch.no_grad()
def active_units(posterior: Posterior, x: Float[Tensor, "batch n"], samples: int = 64, threshold: float = 0.01) -> int:
    """How many latent variables tell images apart: those with Var_x E[z_j | x] above `threshold` (Burda et al., 2016).

    The means are of `samples` codes each, whose own variance, Var[z_j | x]/samples on average, is taken off. Raises ValueError
    for fewer than two images or samples.
    """
    if len(x) < 2 or samples < 2:
        raise ValueError(f"x, samples: expected at least two images and samples, got {len(x)} and {samples}")
    few_at_a_time = x.split(max(1, CHUNK // samples))
    of_each = [(z.mean(0), z.var(0)) for z in (posterior.sample(few, (samples,)) for few in few_at_a_time)]
    means, variances = (torch.cat(parts) for parts in zip(*of_each, strict=True))
    return int((means.var(0) - variances.mean(0) / samples > threshold).sum())


@torch.no_grad()
def coordinate_effects(decoder: Decoder, latent_dim: int, codes: int = 256, seed: int = 0) -> Float[Tensor, "d"]:
    """How much each latent variable moves the image: the mean square change of E[x | z] from z_j = −1 to 1, all else drawn."""
    z = torch.randn(codes, latent_dim, generator=torch.Generator().manual_seed(seed))
    z = z.to(next(decoder.parameters()))
    moved = z.repeat(2, latent_dim, 1, 1)
    for side, value in enumerate((-1, 1)):
        moved[side].diagonal(dim1=0, dim2=2).fill_(value)
    low, high = (torch.stack([decoder.mean(each) for each in half]) for half in moved)
    return (high - low).square().mean((1, 2))


def energy_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """2 E|A − B| − E|A − A′| − E|B − B′| from samples of both (Székely and Rizzo, 2013, eq. 4): 0 only where the laws agree.

    Unbiased, so near 0 it may be negative; in the units of the samples, and the price is n · m distances. Raises ValueError
    for fewer than two samples, different dimensions, or entries that are not finite.
    """
    for name, samples in (("a", a), ("b", b)):
        require_floating(name, samples, min_ndim=2)
        if samples.ndim != 2 or len(samples) < 2 or samples.shape[1] != a.shape[1] or not samples.isfinite().all():
            expected = f"finite entries of shape (2 or more, {a.shape[-1]})"
            raise ValueError(f"{name}: expected {expected}, got {tuple(samples.shape)}")
    origin = a.detach().double().mean(0)  # far from 0, distances by way of squares would lose their digits
    a, b = (each.detach().double() - origin for each in (a, b))
    across = 2 * torch.cdist(a, b).mean()
    # A sample's distance to itself is 0 and does not count.
    within = sum(torch.cdist(each, each).sum() / (len(each) * (len(each) - 1)) for each in (a, b))
    return float(across - within)
