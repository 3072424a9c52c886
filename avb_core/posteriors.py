"""Approximate posteriors q(z | x): all of them sample; some also know their log-density.

`sample(x, shape)` returns codes of shape (*shape, *batch, d) for images x of shape (*batch, n), through which gradients flow
to the parameters. A posterior that can tell the log-density of its samples is explicit; one that cannot is implicit.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from avb_core.gaussian import log_prob_diagonal, reparameterize

# Keeps log σ finite when an encoder becomes certain: far below any width that a decoder could resolve.
MINIMUM_STD = 1e-5


class Posterior(nn.Module, ABC):
    """What every game needs of an approximate posterior: the number of latent variables, and samples."""

    latent_dim: int

    @abstractmethod
    def sample(self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()) -> Float[Tensor, "*shape_batch d"]:
        """Codes z ~ q(z | x), as many for each image as `shape` says."""


class ExplicitPosterior(Posterior):
    """A posterior that knows the log-density of the codes that it samples, as importance weighting needs."""

    @abstractmethod
    def sample_with_log_prob(
        self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        """Codes z ~ q(z | x), and log q(z | x) in nats at each of them."""

    def sample(self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()) -> Float[Tensor, "*shape_batch d"]:
        return self.sample_with_log_prob(x, shape)[0]


class GaussianPosterior(ExplicitPosterior):
    """q(z | x) = N(mean(x), diag(std(x)²)), mean and std from one network with 2 d outputs (Fickinger, eq. 2)."""

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.network = network
        self.latent_dim = latent_dim

    def forward(self, x: Float[Tensor, "*batch n"]) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"]]:
        """mean(x) and std(x)."""
        mean, raw_std = self.network(x).split(self.latent_dim, dim=-1)
        return mean, softplus(raw_std) + MINIMUM_STD

    def sample_with_log_prob(
        self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        mean, std = self(x)
        z = reparameterize(mean, std, torch.randn(*shape, *mean.shape, dtype=mean.dtype, device=mean.device))
        return z, log_prob_diagonal(z, mean, std)


class ImplicitPosterior(Posterior):
    """A black box z = network(x, ε) with ε ~ N(0, I): samples without a density (Mescheder et al., fig. 1b).

    How the noise enters is the network's business: beside the image (`ConcatenationMLP`) or into every hidden layer
    (`InjectionMLP`).
    """

    def __init__(self, network: nn.Module, latent_dim: int, noise_dim: int) -> None:
        super().__init__()
        self.network = network
        self.latent_dim = latent_dim
        self.noise_dim = noise_dim

    def sample(self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()) -> Float[Tensor, "*shape_batch d"]:
        # The network broadcasts x against the noise, so what depends on x alone is computed once, however many the samples.
        return self.network(x, torch.randn(*shape, *x.shape[:-1], self.noise_dim, dtype=x.dtype, device=x.device))
