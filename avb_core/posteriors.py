"""Approximate posteriors q(z | x): all of them sample; some also know their log-density.

`sample(x, shape)` returns codes of shape (*shape, *batch, d) for images x of shape (*batch, n), through which gradients flow
to the parameters. A posterior that can tell the log-density of its samples is explicit; one that cannot is implicit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from avb_core._validate import require_outputs
from avb_core.gaussian import log_prob_diagonal, log_prob_standard_normal, reparameterize, reparameterize_full

# Keeps log σ finite when an encoder becomes certain: far below any width that a decoder could resolve.
MINIMUM_STD = 1e-5


class Posterior(nn.Module, ABC):
    """What every game needs of an approximate posterior: the number of latent variables, and samples."""

    latent_dim: int

    @abstractmethod
    def sample(self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()) -> Float[Tensor, "*shape_batch d"]:
        """Codes z ~ q(z | x), as many for each image as `shape` says."""

    def sample_base(self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()) -> Float[Tensor, "*shape_batch d"]:
        """What codes are made of by `bend_base`: the codes themselves, unless a posterior bends."""
        return self.sample(x, shape)

    def bend_base(
        self, x: Float[Tensor, "*batch n"], base: Float[Tensor, "*shape_batch d"]
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        """Codes from base codes of x by an invertible map, here the identity, and the log-determinant of its Jacobian there."""
        return base, base.new_zeros(base.shape[:-1])


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
    """q(z | x) = N(mean(x), diag(std(x)²)), mean and std from one network with 2 d outputs (Fickinger, eq. 2).

    Raises ValueError, when it is asked, for a network with another number of outputs.
    """

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.network = network
        self.latent_dim = latent_dim

    def forward(self, x: Float[Tensor, "*batch n"]) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"]]:
        """mean(x) and std(x)."""
        output = self.network(x)
        require_outputs(output, 2 * self.latent_dim)
        return mean_and_std(output)

    def sample_with_log_prob(
        self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        mean, std = self(x)
        z = reparameterize(mean, std, torch.randn(*shape, *mean.shape, dtype=mean.dtype, device=mean.device))
        return z, log_prob_diagonal(z, mean, std)


class FullGaussianPosterior(ExplicitPosterior):
    """q(z | x) = N(mean(x), L(x) L(x)ᵀ) with a lower-triangular L: a Gaussian whose coordinates may be correlated.

    `network` has d outputs for the mean, d for the raw diagonal of L and d (d − 1)/2 for the rest of it, row by row. The rest
    is divided by √d: up to d of these add up in a coordinate, and all of them would outshout the mean in every gradient.
    """

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.network = network
        self.latent_dim = latent_dim

    @staticmethod
    def outputs(latent_dim: int) -> int:
        """How many outputs the network needs."""
        return latent_dim * (latent_dim + 3) // 2

    def forward(self, x: Float[Tensor, "*batch n"]) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]]:
        """mean(x) and L(x)."""
        d = self.latent_dim
        output = self.network(x)
        require_outputs(output, self.outputs(d))
        mean, raw_std, below = output.split([d, d, d * (d - 1) // 2], dim=-1)
        scale_tril = torch.diag_embed(softplus(raw_std) + MINIMUM_STD)
        rows, columns = torch.tril_indices(d, d, offset=-1)
        scale_tril[..., rows, columns] = below / math.sqrt(d)
        return mean, scale_tril

    def sample_with_log_prob(
        self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        mean, scale_tril = self(x)
        noise = mean.new_empty(*shape, *mean.shape).normal_()
        with in_full_precision(x):
            z = reparameterize_full(mean, scale_tril, noise)
        # From the noise that z was made of. L⁻¹(z − mean) is the same number, but where entries beside L's diagonal exceed it,
        # solving for it multiplies rounding errors row by row, until they are all that a gradient sees.
        log_volume = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return z, log_prob_standard_normal(noise) - log_volume


class AuxiliaryPosterior(ExplicitPosterior):
    """q(z | x) = ∫ q(z | x, a) q(a | x) da with Gaussians on the right: a mixture of endlessly many (Maaløe et al., 2016).

    Its density is not known, but log q(z, a | x) − log r(a | x, z) stands in for it: 1 over its exponential has the expectation
    1/q(z | x) over a ~ q(a | x, z), for any r. So weights remain unbiased and bounds remain bounds; r narrows the gap.
    `of_image` maps x to mean and raw std of a; `of_pair` maps (x, a) to those of z; `backwards` maps (x, z) to those of r.
    """

    def __init__(
        self, of_image: nn.Module, of_pair: nn.Module, backwards: nn.Module, latent_dim: int, auxiliary_dim: int
    ) -> None:
        super().__init__()
        self.of_image = GaussianPosterior(of_image, auxiliary_dim)
        self.of_pair = of_pair
        self.backwards = backwards
        self.latent_dim = latent_dim

    def sample_with_log_prob(
        self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        a, log_q_of_a = self.of_image.sample_with_log_prob(x, shape)
        mean, std = mean_and_std(self.of_pair(x, a))
        z = reparameterize(mean, std)
        return z, log_prob_diagonal(z, mean, std) + log_q_of_a - log_prob_diagonal(
            a, *mean_and_std(self.backwards(x, z))
        )


class SemiImplicitPosterior(ExplicitPosterior):
    """q(z | x) = E_ε N(z; mean(x, ε), std(x, ε)²): a Gaussian whose parameters come from a black box (Yin and Zhou, 2018).

    The density is averaged over the ε that made z and `extra` others. 1 over that average has the expectation 1/q(z | x), so
    weights remain unbiased and bounds remain bounds; the more `extra`, the narrower the gap, at as many times the price.
    `network` maps (x, ε) to mean and raw std. Raises ValueError for a negative `extra`.
    """

    def __init__(self, network: nn.Module, latent_dim: int, noise_dim: int, extra: int = 10) -> None:
        super().__init__()
        if extra < 0:
            raise ValueError(f"extra: expected 0 or more noises, got {extra}")
        self.network = network
        self.latent_dim = latent_dim
        self.noise_dim = noise_dim
        self.extra = extra

    def extra_repr(self) -> str:
        return f"extra={self.extra}"

    def sample_with_log_prob(
        self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        shape = (1 + self.extra, *shape, *x.shape[:-1], self.noise_dim)
        mean, std = mean_and_std(self.network(x, torch.randn(shape, dtype=x.dtype, device=x.device)))
        z = reparameterize(mean[0], std[0])
        return z, log_prob_diagonal(z, mean, std).logsumexp(0) - math.log(1 + self.extra)


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


class OfImage(NamedTuple):
    """What a basis-noise posterior's network makes of an image; std and context are None where it has none.

    z0, std, the noises' factors, and what the steps of a flow see of the image.
    """

    offset: Float[Tensor, "*batch d"]
    std: Float[Tensor, "*batch d"] | None
    scales: Float[Tensor, "*batch i d"]
    context: Float[Tensor, "*batch c"] | None = None


class Bend(Protocol):
    """An invertible map of codes for each context, as `flows.AutoregressiveSteps` is one."""

    def __call__(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """What becomes of z, and the log-determinant of the Jacobian there."""

    def inverse(self, z: Tensor, context: Tensor) -> Tensor:
        """What z was made of."""


class BasisNoisePosterior(Posterior):
    """A black box whose moments are known: z = z0(x) + Σ_i a_i(x) ⊙ v_i(ε_i) with independent noises ε_i ~ N(0, I).

    The noise networks v_i see no image, so their means and covariances serve all images at once, and those of z follow:
    E z = z0 + Σ a_i ⊙ E v_i and Cov z = Σ diag(a_i) Cov(v_i) diag(a_i). Adaptive contrast needs them (Mescheder et al., ICML
    version).

    With `gaussian` it is a Gaussian that the noises bend: z = z0 + std ⊙ (ε0 + Σ tanh(a_i) ⊙ v_i(ε_i)). It starts as the VAE's
    posterior does, and of ε0 the covariance is known without draws. For v_i that are bounded no code lies many standard
    deviations off the mean. Else rare ones would, where the draws do not see them and no critic has samples to learn from: to
    be far off lowers log r(z|x), for which a critic ought to charge and does not, so that an encoder flees there.

    With a `flow` all this is the law of a base code, which the flow then bends once more, by a context of the image. What the
    moments are of remains the base code.

    `network` maps an image to z0, with `gaussian` to the raw std, to the a_i, one after another, and with a flow to the
    context: `outputs` numbers. The v_i's moments are taken from `draws` draws. As they are estimates, adaptive contrast's ELBO
    is too high, by up to about 1/draws nat for each latent variable with `moments`, and (latent_dim + 3)/4 times as much with
    `moments_full`.

    Raises ValueError for no noise networks or fewer than two draws and, when it is asked, for a network with another number of
    outputs.
    """

    def __init__(
        self,
        network: nn.Module,
        noise_networks: Sequence[nn.Module],
        latent_dim: int,
        noise_dim: int,
        draws: int = 256,
        gaussian: bool = False,
        flow: Bend | None = None,
    ) -> None:
        super().__init__()
        if not noise_networks:
            raise ValueError("noise_networks: expected at least one, got none")
        if draws < 2:
            raise ValueError(f"draws: expected at least 2 for a variance, got {draws}")
        self.network = network
        self.noise_networks = nn.ModuleList(noise_networks)
        self.latent_dim = latent_dim
        self.noise_dim = noise_dim
        self.draws = draws
        self.gaussian = gaussian
        self.flow = flow

    def extra_repr(self) -> str:
        return f"draws={self.draws}, gaussian={self.gaussian}"

    @staticmethod
    def outputs(latent_dim: int, noise_networks: int, gaussian: bool = False, context_dim: int = 0) -> int:
        """How many outputs the network needs."""
        return (1 + int(gaussian) + noise_networks) * latent_dim + context_dim

    def forward(self, x: Float[Tensor, "*batch n"]) -> OfImage:
        """The network's word on x, which all below take in its place, so that it is asked once."""
        output = self.network(x)
        parts = [1, *[1] * self.gaussian, len(self.noise_networks)]
        of_base = self.latent_dim * sum(parts)
        context = None if self.flow is None else output[..., of_base:]
        if context is None:
            require_outputs(output, of_base)
        offset, *gaussian, scales = output[..., :of_base].unflatten(-1, (-1, self.latent_dim)).split(parts, dim=-2)
        if not gaussian:
            return OfImage(offset.squeeze(-2), None, scales, context)
        std = softplus(gaussian[0]) + MINIMUM_STD
        return OfImage(offset.squeeze(-2), std.squeeze(-2), std * scales.tanh(), context)

    def sample(self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()) -> Float[Tensor, "*shape_batch d"]:
        of_image = self(x)
        return self.bend(self.sample_base(x, shape, of_image), of_image)[0]

    def sample_base(
        self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = (), of_image: OfImage | None = None
    ) -> Float[Tensor, "*shape_batch d"]:
        """Base codes, as many for each image as `shape` says; `of_image` is what `forward` makes of x, if at hand."""
        of = of_image or self(x)
        noise = self._noise(x, (*shape, *x.shape[:-1]))
        base = of.offset + (of.scales * noise).sum(-2)
        return base if of.std is None else base + of.std * torch.randn_like(base)

    def bend_base(
        self, x: Float[Tensor, "*batch n"], base: Float[Tensor, "*shape_batch d"]
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        return self.bend(base, self(x))

    def bend(
        self, base: Float[Tensor, "*shape_batch d"], of_image: OfImage
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        """Codes from base codes, and the log-determinant of the Jacobian there: 0 without a flow."""
        if self.flow is None or of_image.context is None:
            return base, base.new_zeros(base.shape[:-1])
        return self.flow(base, of_image.context)

    def unbend(self, z: Float[Tensor, "*shape_batch d"], of_image: OfImage) -> Float[Tensor, "*shape_batch d"]:
        """The base codes that `bend` makes these codes of."""
        if self.flow is None or of_image.context is None:
            return z
        return self.flow.inverse(z, of_image.context)

    def moments(
        self, x: Float[Tensor, "*batch n"], of_image: OfImage | None = None
    ) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"]]:
        """Mean and standard deviation of base codes given x, each coordinate's own; `of_image` as for `sample_base`."""
        offset, std, scales, _ = of_image or self(x)
        noise = self._noise(x, (self.draws,))
        variance = (scales.square() * noise.var(0)).sum(-2)
        if std is not None:
            variance = variance + std.square()
        return offset + (scales * noise.mean(0)).sum(-2), variance.sqrt() + MINIMUM_STD

    def moments_full(
        self, x: Float[Tensor, "*batch n"], of_image: OfImage | None = None
    ) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d d"]]:
        """Mean of base codes given x, and the lower-triangular factor of their covariance; `of_image` as for `sample_base`."""
        offset, std, scales, _ = of_image or self(x)
        noise = self._noise(x, (self.draws,))
        centred = noise - noise.mean(0)
        with in_full_precision(x):
            of_noise = torch.einsum("nid,nie->ide", centred, centred) / (self.draws - 1)
        # Noise by noise: as one einsum over three tensors it takes several times as long.
        covariance = torch.zeros(*offset.shape, self.latent_dim, dtype=x.dtype, device=x.device)
        for scale, cov in zip(scales.unbind(-2), of_noise, strict=True):
            covariance = covariance + scale[..., :, None] * scale[..., None, :] * cov
        if std is not None:
            covariance = covariance + torch.diag_embed(std.square())
        # Rounding can leave a direction of no variance slightly below zero.
        floor = MINIMUM_STD**2 + 1e-6 * covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
        identity = torch.eye(self.latent_dim, dtype=x.dtype, device=x.device)
        scale_tril = torch.linalg.cholesky(covariance + floor[..., None, None] * identity)
        return offset + (scales * noise.mean(0)).sum(-2), scale_tril

    def _noise(self, x: Tensor, shape: tuple[int, ...]) -> Float[Tensor, "*shape i d"]:
        noise = torch.randn(len(self.noise_networks), *shape, self.noise_dim, dtype=x.dtype, device=x.device)
        return torch.stack([network(each) for network, each in zip(self.noise_networks, noise, strict=True)], dim=-2)


def in_full_precision(x: Tensor) -> torch.autocast:
    """For the products of matrices that are no network's: autocast would round them as well."""
    return torch.autocast(x.device.type, enabled=False)


def mean_and_std(output: Float[Tensor, "*batch 2d"]) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"]]:
    """The parameters of a diagonal Gaussian from a network's output."""
    mean, raw_std = output.chunk(2, dim=-1)
    return mean, softplus(raw_std) + MINIMUM_STD
