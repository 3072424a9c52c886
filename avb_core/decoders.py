"""Decoders p(x | z): `log_prob(x, z)` is a log-density in nats, summed over the pixels (never averaged: a mean would weigh
the KL by the number of pixels); `mean(z)` and `sample(z)` generate. Images are flat vectors; a convolutional network reshapes
inside.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from avb_core._validate import require_last_axis
from avb_core.gaussian import log_prob_diagonal, log_prob_standard_normal


class Likelihood(nn.Module, ABC):
    """What every game needs of p(x | z)."""

    @abstractmethod
    def log_prob(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*#batch d"]) -> Float[Tensor, "*batch"]:
        """log p(x | z) in nats, summed over the pixels. A decoder raises ValueError for an x of another number of pixels."""


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
        require_last_axis(x=x, logits=logits)
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
        require_last_axis(x=x, mean=mean)
        return log_prob_diagonal(x, mean, self.log_std.exp().expand(mean.shape[-1]))

    def mean(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        return self.network(z)

    def sample(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        mean = self.mean(z)
        return mean + self.log_std.exp() * torch.randn_like(mean)


class IntensityDecoder(Decoder):
    """A likelihood of images of 256 levels: x is level/255, and log_prob speaks of the level, a natural number from 0 to 255.

    Every pixel of every colour has a centre and a scale. The network gives the centres, as differences from 1/2, and then the
    scales' logarithms, as differences from `START`; or, with `scales`, the centres alone, while so many scales are learned that
    no code changes: 1 for all pixels, 3 for a colour each, as many as there are pixels for one each. As both subclasses speak
    of levels, in nats, their figures compare (`bounds.bits_per_dimension`). Raises ValueError for scales < 1.
    """

    START = math.log(0.1)
    MINIMUM = 1 / 2048  # an eighth of a level: no certainty beyond what levels can tell

    def __init__(self, network: nn.Module, scales: int | None = None) -> None:
        super().__init__()
        if scales is not None and scales < 1:
            raise ValueError(f"scales: expected at least 1, got {scales}")
        self.network = network
        self.log_scale = None if scales is None else nn.Parameter(torch.zeros(scales))

    def extra_repr(self) -> str:
        return "scales of the network" if self.log_scale is None else f"scales={len(self.log_scale)}"

    @staticmethod
    def numbers(scales: int | None) -> int:
        """How many numbers the network gives for each pixel."""
        return 2 if scales is None else 1

    def centre_and_scale(
        self, z: Float[Tensor, "*batch d"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*#batch n"]]:
        """The parameters of every pixel's distribution. Raises ValueError if the scales do not divide the pixels evenly."""
        output = self.network(z)
        if self.log_scale is None:
            centre, log_scale = output.chunk(2, dim=-1)
        else:
            pixels, scales = output.shape[-1], len(self.log_scale)
            if pixels % scales:
                raise ValueError(f"scales: expected a divisor of the {pixels} pixels, got {scales}")
            centre, log_scale = output, self.log_scale.repeat_interleave(pixels // scales)
        return centre + 0.5, (log_scale + self.START).exp() + self.MINIMUM


class DiscretizedLogisticDecoder(IntensityDecoder):
    """Each level has the probability that a logistic variable rounds to it, what lies beyond 0 and 255 counted to these.

    The 256 probabilities sum to 1 (Salimans et al., 2017, section 2.1, with one component).
    """

    def log_prob(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*#batch d"]) -> Float[Tensor, "*batch"]:
        centre, scale = self.centre_and_scale(z)
        require_last_axis(x=x, centre=centre)
        level = (255 * x).round()
        upper, lower = ((level + side) / 255 - centre for side in (0.5, -0.5))
        # σ(a) − σ(b) = σ(a) σ(−b) (1 − exp(b − a)): no two numbers that nearly agree are subtracted.
        below_upper = torch.where(level < 255, logsigmoid(upper / scale), 0.0)
        above_lower = torch.where(level > 0, logsigmoid(-lower / scale), 0.0)
        between = torch.where((level > 0) & (level < 255), (-torch.expm1(-1 / (255 * scale))).log(), 0.0)
        return (below_upper + above_lower + between).sum(-1)

    def mean(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """E[x | z], but that the sum over levels is taken as an integral: half a level off at most."""
        centre, scale = self.centre_and_scale(z)
        return scale * (softplus(centre / scale) - softplus((centre - 1) / scale))

    def sample(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        centre, scale = self.centre_and_scale(z)
        return (255 * (centre + scale * torch.rand_like(centre).logit(eps=1e-7))).round().clamp(0, 255) / 255


class DequantizedGaussianDecoder(IntensityDecoder):
    """N(centre, scale²) as a density of y = (level + u)/256, where u is uniform in [0, 1) (Theis et al., 2016, section 3.1).

    log_prob is E_u log N(y) − n log 256, which has a closed form: at most the logarithm of the probability that this density
    gives to the level's cell, so it is a lower bound wherever it stands for a log-probability; in bits per dimension, an upper.
    """

    def log_prob(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*#batch d"]) -> Float[Tensor, "*batch"]:
        centre, scale = self.centre_and_scale(z)
        require_last_axis(x=x, centre=centre)
        middle = ((255 * x).round() + 0.5) / 256
        # E (y − centre)² = (middle − centre)² + the variance of a uniform variable on the cell.
        square = (middle - centre).square() + 1 / (12 * 256**2)
        log_density = -square / (2 * scale.square()) - scale.log() - 0.5 * math.log(2 * math.pi)
        return (log_density - math.log(256)).sum(-1)

    def mean(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """The centre as an intensity."""
        centre, _ = self.centre_and_scale(z)
        return ((256 * centre - 0.5) / 255).clamp(0, 1)

    def sample(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        centre, scale = self.centre_and_scale(z)
        return (256 * (centre + scale * torch.randn_like(centre))).floor().clamp(0, 255) / 255


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
