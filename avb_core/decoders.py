"""Decoders p(x | z): `log_prob(x, z)` is a log-density in nats, summed over the pixels (never averaged: a mean would weigh
the KL by the number of pixels); `mean(z)` and `sample(z)` generate. Images are flat vectors; a convolutional network reshapes
inside.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from avb_core.gaussian import log_prob_diagonal, log_prob_standard_normal


class Likelihood(nn.Module, ABC):
    """What every game needs of p(x | z)."""

    @abstractmethod
    def log_prob(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*#batch d"]) -> Float[Tensor, "*batch"]:
        """log p(x | z) in nats, summed over the pixels."""


class TargetLikelihood(Likelihood):
    """A posterior to infer, given by any log-density that is p(z | x) up to a factor: log p(x, z) of the one x there is.

    It stands for the likelihood that has this joint density with the prior N(0, I), so that every game can play on it: its
    ELBO is E_q[log_joint(z) − log q(z)], and the standard normal merely what a critic compares with. The x handed in is not
    looked at.
    """

    def __init__(self, log_joint: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.log_joint = log_joint

    def log_prob(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*#batch d"]) -> Float[Tensor, "*batch"]:
        return self.log_joint(z) - log_prob_standard_normal(z)


class Decoder(Likelihood):
    """A likelihood that generates as well."""

    @abstractmethod
    def mean(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """E[x | z]."""

    @abstractmethod
    def sample(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """x ~ p(x | z)."""


class BernoulliDecoder(Decoder):
    """p(x | z) = Π_i Bernoulli(x_i; σ(logit_i(z))): binary cross-entropy with its sign turned (Hajimiri, eq. 13)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def log_prob(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*#batch d"]) -> Float[Tensor, "*batch"]:
        # Σ x ℓ − log(1 + exp ℓ), from the logits ℓ: no probability is rounded to 0 or 1 on the way.
        logits = self.network(z)
        return (x * logits - softplus(logits)).sum(-1)

    def mean(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        return torch.sigmoid(self.network(z))

    def sample(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        return torch.bernoulli(self.mean(z))


class GaussianDecoder(Decoder):
    """p(x | z) = N(mean(z), std² I), with its full normalizer n log std + (n/2) log 2π.

    Fickinger's eqs. 11–12 print log std once instead of n times, which matters as soon as `std` is learned (`learn_std=True`).
    Raises ValueError for a std that is not positive.
    """

    def __init__(self, network: nn.Module, std: float = 1.0, learn_std: bool = False) -> None:
        super().__init__()
        if not std > 0:
            raise ValueError(f"std: expected a positive number, got {std}")
        self.network = network
        self.log_std = nn.Parameter(torch.tensor(std).log(), requires_grad=learn_std)

    def extra_repr(self) -> str:
        return "std learned" if self.log_std.requires_grad else f"std={self.log_std.exp().item():g}"

    def log_prob(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*#batch d"]) -> Float[Tensor, "*batch"]:
        mean = self.mean(z)
        return log_prob_diagonal(x, mean, self.log_std.exp().expand(mean.shape[-1]))

    def mean(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        return self.network(z)

    def sample(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        mean = self.mean(z)
        return mean + self.log_std.exp() * torch.randn_like(mean)


class ImplicitDecoder(nn.Module):
    """A black box x = network(z, ε) with ε ~ N(0, I): images without a density, as a generator makes them.

    Not a `Decoder`, for it has no `log_prob`; only adversaries can train it.
    """

    def __init__(self, network: nn.Module, noise_dim: int) -> None:
        super().__init__()
        self.network = network
        self.noise_dim = noise_dim

    def sample(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """x ~ p(x | z), through which gradients flow to the parameters and to z."""
        return self.network(z, torch.randn(*z.shape[:-1], self.noise_dim, dtype=z.dtype, device=z.device))
