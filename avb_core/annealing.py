"""Annealed importance sampling with Hamiltonian transitions: log p(x) for latent spaces where one importance sample never hits.

A chain starts at a Gaussian and is led to the posterior along densities f_β(z) ∝ N(z; mean, std²)^(1−β) p(x, z)^β by Markov
transitions that leave each of them as it is. What it collects on the way is an importance weight, whose expectation is p(x)
exactly, however badly the chain mixes (Neal, 2001): so its logarithm is a lower bound on log p(x) in expectation. Led backwards
from an exact sample of the posterior it gives an upper one (Grosse, Ghahramani and Adams, 2015). All figures in nats.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from avb_core._validate import is_whole, require_no_nan, require_positive
from avb_core.decoders import Likelihood
from avb_core.gaussian import log_prob_standard_normal

LogDensity = Callable[[Tensor], Tensor]

# Hamiltonian Monte Carlo is most efficient near this acceptance (Neal, 2011; Beskos et al., 2013).
TARGET_ACCEPTANCE = 0.65

# A trajectory that gets so many of the start's standard deviations away is refused: reversed, it would be refused as well.
FAR = 1e6


@dataclass(frozen=True)
class Annealing:
    """How chains are led: so many temperatures, `leapfrog` steps at each of them, `chains` for every image.

    The temperatures are crowded at both ends, as a sigmoid's values are, where the densities change fastest (Wu et al., 2017).
    On linear-Gaussian models, many temperatures with short trajectories beat few with long ones at equal cost. Raises
    ValueError for numbers that are not whole and positive.
    """

    temperatures: int = 500
    leapfrog: int = 3
    chains: int = 16

    def __post_init__(self) -> None:
        for name in ("temperatures", "leapfrog", "chains"):
            if not is_whole(value := getattr(self, name), least=1):
                raise ValueError(f"{name}: expected a whole number, at least 1, got {value!r}")

    def schedule(self) -> Float[Tensor, "temperatures_plus_1"]:
        """β_0 = 0 < β_1 < … < β_T = 1."""
        sigmoid = torch.sigmoid(torch.linspace(-4, 4, self.temperatures + 1, dtype=torch.float64))
        return (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])


@dataclass(frozen=True)
class AnnealedBounds:
    """What the chains say of each image: stochastic bounds on log p(x), and how the transitions fared."""

    lower: Float[Tensor, "batch"]
    """log of the mean weight of the chains led forwards; its expectation is at most log p(x)."""
    log_weights: Float[Tensor, "chains batch"]
    """The single chains' log weights, whose spread tells how good the bound is."""
    acceptance: float
    """The share of transitions that were accepted."""
    upper: Float[Tensor, "batch"] | None = None
    """The same from chains led backwards, where an exact posterior sample is known; its expectation is at least log p(x)."""


@torch.inference_mode(False)
def ais_log_likelihood(
    decoder: Likelihood,
    x: Float[Tensor, "batch n"],
    latent_dim: int,
    annealing: Annealing | None = None,
    start: tuple[Float[Tensor, "batch d"], Float[Tensor, "batch d"]] | None = None,
    posterior_sample: Float[Tensor, "batch d"] | None = None,
) -> AnnealedBounds:
    """Bounds on log p(x) for each image by annealed importance sampling from a Gaussian `start` (mean, std), or the prior.

    A first sweep finds the step sizes, one for each image and temperature, and is thrown away; in the sweep that counts they
    are fixed, without which the weights would not be exact. `posterior_sample` is one z ~ p(z | x) for each image, as is known
    for simulated data: chains led backwards from it give `upper`. Memory grows with chains × images; split x if it is too much.

    Raises ValueError for shapes that do not fit, a start with a standard deviation of 0 or less, or NaN in it.
    """
    if x.ndim != 2:
        raise ValueError(f"x: expected shape (batch, n), got {tuple(x.shape)}")
    annealing = annealing or Annealing()
    shape = (len(x), latent_dim)
    mean, std = (torch.zeros(shape), torch.ones(shape)) if start is None else start
    for name, tensor in (("start mean", mean), ("start std", std), ("posterior_sample", posterior_sample)):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name}: expected shape (batch, latent_dim) = {shape}, got {tuple(tensor.shape)}")
    require_no_nan("start mean", mean)
    require_positive("start std", std)
    x, mean, std = (
        each.clone() for each in (x, mean.to(x), std.to(x))
    )  # of tensors of inference mode autograd keeps nothing
    log_scale = std.log().sum(-1)

    # In the coordinates u = (z − mean)/std the start is a standard normal, and one step size suits all of them.
    def log_joint(u: Tensor) -> Tensor:
        z = mean + std * u
        return decoder.log_prob(x, z) + log_prob_standard_normal(z) + log_scale

    betas = annealing.schedule().tolist()
    chains = (annealing.chains, *shape)
    was_training = [parameter for parameter in decoder.parameters() if parameter.requires_grad]
    for parameter in was_training:
        parameter.requires_grad_(False)
    try:
        sizes = x.new_full((len(betas), len(x)), 0.5 / latent_dim**0.25)
        _sweep(log_joint, x.new_empty(chains).normal_(), betas, annealing.leapfrog, sizes, adapt=True)
        log_weights, acceptance = _sweep(log_joint, x.new_empty(chains).normal_(), betas, annealing.leapfrog, sizes)
        upper = None
        if posterior_sample is not None:
            u = ((posterior_sample.to(x) - mean) / std).expand(chains).clone()
            backwards, _ = _sweep(log_joint, u, betas[::-1], annealing.leapfrog, sizes.flip(0))
            upper = -(backwards.logsumexp(0) - math.log(annealing.chains))
    finally:
        for parameter in was_training:
            parameter.requires_grad_(True)
    return AnnealedBounds(log_weights.logsumexp(0) - math.log(annealing.chains), log_weights, acceptance, upper)


@torch.no_grad()
def _sweep(
    log_joint: LogDensity,
    u: Float[Tensor, "chains batch d"],
    betas: list[float],
    leapfrog: int,
    sizes: Float[Tensor, "temperatures batch"],
    adapt: bool = False,
) -> tuple[Float[Tensor, "chains batch"], float]:
    """Lead the chains along `betas`; returns Σ_t log f_{β_t}(u_{t−1}) − log f_{β_{t−1}}(u_{t−1}) and the mean acceptance.

    Forwards, a transition that keeps the new density follows each change of temperature; backwards, one that keeps the old
    density precedes it, so that the two are each other's time reversal. With `adapt`, `sizes` is overwritten by step sizes that
    seek the target acceptance.
    """
    log_weights = torch.zeros(u.shape[:-1], dtype=torch.float64, device=u.device)
    accepted = []
    forwards = betas[0] < betas[-1]
    size = sizes[0].clone()
    for index in range(1, len(betas)):
        if not forwards:
            u, rate = _transition(log_joint, u, betas[index - 1], leapfrog, sizes[index - 1])
            accepted.append(rate.mean())
        log_weights += (betas[index] - betas[index - 1]) * (log_joint(u) - log_prob_standard_normal(u)).double()
        if forwards:
            u, rate = _transition(log_joint, u, betas[index], leapfrog, size if adapt else sizes[index])
            accepted.append(rate.mean())
        if adapt:
            sizes[index] = size
            size = size * torch.exp(0.2 * (rate - TARGET_ACCEPTANCE))
    return log_weights, float(torch.stack(accepted).mean())


def _transition(
    log_joint: LogDensity, u: Float[Tensor, "chains batch d"], beta: float, leapfrog: int, size: Float[Tensor, "batch"]
) -> tuple[Float[Tensor, "chains batch d"], Float[Tensor, "batch"]]:
    """One Hamiltonian transition that leaves f_β as it is, and its probability of acceptance, a mean over an image's chains."""
    step = size[:, None]

    def value_and_gradient(u: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            value = beta * log_joint(u) + (1 - beta) * log_prob_standard_normal(u)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), gradient

    momentum = torch.randn_like(u)
    value, gradient = value_and_gradient(u)
    proposal, moving, at_proposal = u, momentum, value
    flew_off = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(leapfrog):
        moving = moving + 0.5 * step * gradient
        proposal = proposal + step * moving
        flew_off |= ~(proposal.abs() <= FAR).all(-1)  # NaN too
        # It goes on from where it began, for densities are not asked about infinity.
        proposal = torch.where(flew_off[..., None], u, proposal)
        at_proposal, gradient = value_and_gradient(proposal)
        moving = moving + 0.5 * step * gradient
    energy = value - 0.5 * momentum.square().sum(-1)
    log_acceptance = at_proposal - 0.5 * moving.square().sum(-1) - energy
    log_acceptance = log_acceptance.nan_to_num(nan=-math.inf).clamp(max=0).masked_fill(flew_off, -math.inf)
    accept = torch.rand_like(log_acceptance).log() < log_acceptance
    return torch.where(accept[..., None], proposal, u), log_acceptance.exp().mean(0)
