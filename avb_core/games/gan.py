"""Generative adversarial networks: a generator of samples against a discriminator of samples and data."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from avb_core.divergences import CriticObjective, logistic
from avb_core.games.game import Game

# What the generator descends, as a function of r = log p_data − log p_generator at its samples, with r held fixed as a
# function. On logits, as ever: D = σ(r). By name, so that a game can be pickled.


def _minimax(r: Tensor) -> Tensor:
    """log(1 − D), the zero-sum game: the discriminator's own objective (Goodfellow et al., 2014, eq. 1)."""
    return -softplus(r)


def _non_saturating(r: Tensor) -> Tensor:
    """−log D: the same fixed point, and a gradient where the discriminator is sure."""
    return softplus(-r)


def _maximum_likelihood(r: Tensor) -> Tensor:
    """−D/(1 − D): the gradient of KL(data ‖ generator), if the discriminator is optimal (Scicluna, 3)."""
    return -torch.exp(r)


def _reverse_kl(r: Tensor) -> Tensor:
    """−r: the gradient of KL(generator ‖ data), if the discriminator is optimal."""
    return -r


GENERATOR_LOSSES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "minimax": _minimax,
    "non_saturating": _non_saturating,
    "maximum_likelihood": _maximum_likelihood,
    "reverse_kl": _reverse_kl,
}


def generator_loss_of(name: str) -> Callable[[Tensor], Tensor]:
    """The entry of `GENERATOR_LOSSES`; raises ValueError, with the known names, for an unknown one."""
    if name not in GENERATOR_LOSSES:
        raise ValueError(f"generator objective: expected one of {', '.join(GENERATOR_LOSSES)}, got {name!r}")
    return GENERATOR_LOSSES[name]


class GAN(Game):
    """A generator x = G(z), z ~ N(0, I), against a discriminator whose output tells log p_data − log p_generator.

    `generator` maps codes (batch, latent_dim) to data, `discriminator` maps data to one unbounded number each, of shape
    (batch, 1). `generator_objective` names one of `GENERATOR_LOSSES`. The discriminator moves first. Raises ValueError for an
    unknown name.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        latent_dim: int,
        generator_objective: str = "non_saturating",
        objective: CriticObjective = logistic,
    ) -> None:
        super().__init__()
        self.generator = generator
        self.discriminator = discriminator
        self.latent_dim = latent_dim
        self.generator_loss_of = generator_loss_of(generator_objective)
        self.generator_objective = generator_objective
        self.objective = objective

    def extra_repr(self) -> str:
        return f"generator_objective={self.generator_objective}, objective={self.objective}"

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"discriminator": (self.discriminator,), "generator": (self.generator,)}

    def sample(self, n: int) -> Float[Tensor, "n features"]:
        """n samples of the generator, through which gradients flow to its parameters."""
        weight = next(self.generator.parameters())
        return self.generator(torch.randn(n, self.latent_dim, dtype=weight.dtype, device=weight.device))

    def log_ratio(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch"]:
        """log p_data(x) − log p_generator(x), as the discriminator sees it."""
        return self.objective.log_ratio(self.discriminator(x).squeeze(-1))

    def discriminator_loss(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, ""]:
        """The discriminator's objective on data against as many samples of the generator."""
        with torch.no_grad():
            samples = self.sample(len(x))
        return self.objective.critic_loss(self.discriminator(x).squeeze(-1), self.discriminator(samples).squeeze(-1))

    def generator_loss(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, ""]:
        """The generator's objective on as many of its samples as there are data in x."""
        return self.generator_loss_of(self.log_ratio(self.sample(len(x)))).mean()
