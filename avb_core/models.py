"""Models from settings: every game of the recipes on the networks of one architecture and with the same decoder.

So that methods are compared and not networks: a builder takes an `Architecture`, which makes the networks that see an image,
and a function that makes the likelihood; what remains to choose is the posterior, the critic and the game.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from avb_core.critics import CodeCritic, Critic, InnerProductCritic, PairCritic
from avb_core.decoders import ImplicitDecoder, Likelihood
from avb_core.flows import AutoregressiveSteps, InverseAutoregressiveFlow
from avb_core.games import AVB, IWAE, VAE, AdaptiveContrastAVB, TwoAdversaries
from avb_core.networks import (
    MLP,
    ConcatenationMLP,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    InjectionMLP,
    SideBySide,
    he_initialization,
)
from avb_core.posteriors import (
    AuxiliaryPosterior,
    BasisNoisePosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    ImplicitPosterior,
    SemiImplicitPosterior,
)


class Architecture(Protocol):
    """Networks for images of one size. `outputs` is always a number of plain outputs."""

    @property
    def widths(self) -> Sequence[int]:
        """The hidden layers of the networks that see no image."""

    def of_image(self, outputs: int) -> nn.Module:
        """x → outputs."""

    def of_image_and(self, inputs: int, outputs: int) -> nn.Module:
        """(x, b) → outputs, for a vector b of so many inputs: noise, or a code."""

    def to_image(self, latent_dim: int, numbers: int = 1) -> nn.Module:
        """z → so many numbers for each pixel, the first of all pixels, then the second."""

    def critic(self, inputs: int, outputs: int = 1) -> nn.Module:
        """(x, b) → outputs, for a critic that is a single network."""


@dataclass(frozen=True)
class FullyConnected:
    """Multilayer perceptrons, all with the same hidden layers.

    A second argument is laid beside the image, as Mescheder et al. do for the four points, or with `inject` enters every
    hidden layer, as they do for MNIST.
    """

    pixels: int
    widths: Sequence[int]
    inject: bool = False

    def of_image(self, outputs: int) -> nn.Module:
        return MLP(self.pixels, self.widths, outputs)

    def of_image_and(self, inputs: int, outputs: int) -> nn.Module:
        return (InjectionMLP if self.inject else ConcatenationMLP)((self.pixels, inputs), self.widths, outputs)

    def to_image(self, latent_dim: int, numbers: int = 1) -> nn.Module:
        return MLP(latent_dim, self.widths, numbers * self.pixels)

    def critic(self, inputs: int, outputs: int = 1) -> nn.Module:
        return self.of_image_and(inputs, outputs)


@dataclass(frozen=True)
class Convolutional:
    """Convolutions of stride 2, into whose every hidden layer a second argument enters (Mescheder et al., section 4).

    For celebA, `colours` = 3 and the hidden layers of encoder and decoder have three residual `units` each; those of a critic
    have none. `recompute` saves memory at the price of time.
    """

    pixels: int
    widths: Sequence[int]
    channels: Sequence[int]
    colours: int = 1
    units: int = 0
    recompute: bool = False

    def of_image(self, outputs: int) -> nn.Module:
        return self._encoder(outputs, 0, self.units)

    def of_image_and(self, inputs: int, outputs: int) -> nn.Module:
        return self._encoder(outputs, inputs, self.units)

    def to_image(self, latent_dim: int, numbers: int = 1) -> nn.Module:
        return ConvolutionalDecoder(
            latent_dim, self.channels, self.pixels, self.colours, numbers, self.units, self.recompute
        )

    def critic(self, inputs: int, outputs: int = 1) -> nn.Module:
        return self._encoder(outputs, inputs, 0)

    def _encoder(self, outputs: int, injected: int, units: int) -> nn.Module:
        return ConvolutionalEncoder(self.pixels, self.channels, outputs, injected, self.colours, units, self.recompute)


@dataclass(frozen=True)
class NoImage:
    """For inference where there is one x only: of a constant, a linear map is a set of free parameters."""

    pixels: int
    widths: Sequence[int]

    def of_image(self, outputs: int) -> nn.Module:
        return nn.Linear(self.pixels, outputs)

    def of_image_and(self, inputs: int, outputs: int) -> nn.Module:
        return ConcatenationMLP((self.pixels, inputs), self.widths, outputs)

    def critic(self, inputs: int, outputs: int = 1) -> nn.Module:
        return self.of_image_and(inputs, outputs)

    def to_image(self, latent_dim: int, numbers: int = 1) -> nn.Module:
        raise TypeError("architecture: an experiment with a target to infer has no decoder")


ARCHITECTURES: Mapping[str, Callable[..., Architecture]] = {
    "fully_connected": FullyConnected,
    "convolutional": Convolutional,
    "no_image": NoImage,
}

MakeLikelihood = Callable[[], Likelihood]


def build_vae(networks: Architecture, likelihood: MakeLikelihood, latent_dim: int, samples: int = 1) -> VAE:
    """A diagonal Gaussian posterior, with the KL to the prior in closed form."""
    return VAE(_gaussian(networks, latent_dim), likelihood(), samples)


def build_iwae(
    networks: Architecture, likelihood: MakeLikelihood, latent_dim: int, k: int, doubly_reparameterized: bool = False
) -> IWAE:
    """The same posterior, trained on the importance weighted lower bound."""
    return IWAE(_gaussian(networks, latent_dim), likelihood(), k, doubly_reparameterized)


def build_full_gaussian(networks: Architecture, likelihood: MakeLikelihood, latent_dim: int, k: int = 1) -> IWAE:
    """A Gaussian posterior with correlations."""
    posterior = FullGaussianPosterior(networks.of_image(FullGaussianPosterior.outputs(latent_dim)), latent_dim)
    return IWAE(posterior, likelihood(), k)


def build_flow(
    networks: Architecture,
    likelihood: MakeLikelihood,
    latent_dim: int,
    flow_steps: int,
    flow_widths: Sequence[int],
    context_dim: int,
    k: int = 1,
) -> IWAE:
    """An inverse autoregressive flow of `flow_steps` steps, whose networks see a context of the image."""
    of_image = networks.of_image(2 * latent_dim + context_dim)
    posterior = InverseAutoregressiveFlow(of_image, latent_dim, context_dim, flow_widths, flow_steps)
    return IWAE(posterior, likelihood(), k)


def build_auxiliary(
    networks: Architecture, likelihood: MakeLikelihood, latent_dim: int, auxiliary_dim: int, k: int = 1
) -> IWAE:
    """A posterior with an auxiliary variable between image and code."""
    posterior = AuxiliaryPosterior(
        networks.of_image(2 * auxiliary_dim),
        networks.of_image_and(auxiliary_dim, 2 * latent_dim),
        networks.of_image_and(latent_dim, 2 * auxiliary_dim),
        latent_dim,
        auxiliary_dim,
    )
    return IWAE(posterior, likelihood(), k)


def build_semi_implicit(
    networks: Architecture, likelihood: MakeLikelihood, latent_dim: int, noise_dim: int, extra: int, k: int = 1
) -> IWAE:
    """A Gaussian posterior whose parameters depend on noise, averaged over `extra` more draws of it."""
    network = networks.of_image_and(noise_dim, 2 * latent_dim)
    return IWAE(SemiImplicitPosterior(network, latent_dim, noise_dim, extra), likelihood(), k)


def build_aae(networks: Architecture, likelihood: MakeLikelihood, latent_dim: int, noise_dim: int) -> AVB:
    """An adversarial autoencoder: AVB whose critic sees the code alone."""
    posterior = ImplicitPosterior(networks.of_image_and(noise_dim, latent_dim), latent_dim, noise_dim)
    return AVB(posterior, likelihood(), CodeCritic(MLP(latent_dim, networks.widths, 1)))


def build_avb(
    networks: Architecture,
    likelihood: MakeLikelihood,
    latent_dim: int,
    noise_dim: int,
    critic: str = "inner_product",
    bridge: Sequence[float] = (),
    gradient_penalty: float = 0.0,
    spectral: bool = False,
) -> AVB:
    """A black-box posterior and a critic of one of the `CRITICS`, with `spectral` each of its layers divided by its norm."""
    posterior = ImplicitPosterior(networks.of_image_and(noise_dim, latent_dim), latent_dim, noise_dim)
    judge = _critic(critic, networks, latent_dim, len(bridge) + 1, spectral)
    return AVB(posterior, likelihood(), judge, bridge=bridge, gradient_penalty=gradient_penalty)


def build_avb_ac(
    networks: Architecture,
    likelihood: MakeLikelihood,
    latent_dim: int,
    noise_dim: int,
    basis: int,
    noise_widths: Sequence[int],
    full_covariance: bool = False,
    gaussian: bool = False,
    draws: int = 256,
    critic: str = "inner_product",
    flow_steps: int = 0,
    flow_widths: Sequence[int] = (),
    context_dim: int = 0,
    bridge: Sequence[float] = (),
    gradient_penalty: float = 0.0,
    spectral: bool = False,
) -> AdaptiveContrastAVB:
    """AVB with adaptive contrast: a sum of `basis` noises that the image scales, coordinate by coordinate.

    With `gaussian` these noises, bounded, bend a Gaussian posterior that starts as the VAE's does. With `flow_steps` a flow
    such as that of `build_flow` bends it further, and its contrast with it.
    """
    noises: list[nn.Module] = [MLP(noise_dim, noise_widths, latent_dim) for _ in range(basis)]
    if gaussian:
        noises = [nn.Sequential(noise, nn.Tanh()) for noise in noises]
    flow = AutoregressiveSteps(flow_steps, latent_dim, context_dim, flow_widths) if flow_steps else None
    network = networks.of_image(BasisNoisePosterior.outputs(latent_dim, basis, gaussian, context_dim))
    posterior = BasisNoisePosterior(network, noises, latent_dim, noise_dim, draws, gaussian, flow)
    return AdaptiveContrastAVB(
        posterior,
        likelihood(),
        _critic(critic, networks, latent_dim, len(bridge) + 1, spectral),
        full_covariance=full_covariance,
        bridge=bridge,
        gradient_penalty=gradient_penalty,
    )


def build_two_adversaries(
    networks: Architecture,
    likelihood: MakeLikelihood,
    latent_dim: int,
    noise_dim: int,
    decoder_noise_dim: int,
    critic: str = "pair",
    decoder_objective: str = "non_saturating",
) -> TwoAdversaries:
    """No density at all: encoder and decoder are black boxes, with a critic of codes and one of images beside their codes.

    There is no likelihood, and none is made. The decoder's images lie between 0 and 1.
    """
    posterior = ImplicitPosterior(networks.of_image_and(noise_dim, latent_dim), latent_dim, noise_dim)
    image = nn.Sequential(networks.to_image(latent_dim + decoder_noise_dim), nn.Sigmoid())
    return TwoAdversaries(
        posterior,
        ImplicitDecoder(SideBySide(image), decoder_noise_dim),
        CodeCritic(MLP(latent_dim, networks.widths, 1)),
        _critic(critic, networks, latent_dim),
        decoder_objective=decoder_objective,
    )


def _gaussian(networks: Architecture, latent_dim: int) -> GaussianPosterior:
    return GaussianPosterior(networks.of_image(2 * latent_dim), latent_dim)


def _inner_product_critic(networks: Architecture, latent_dim: int, links: int) -> InnerProductCritic:
    width = links * networks.widths[-1]
    return InnerProductCritic(networks.of_image(width), MLP(latent_dim, networks.widths, width), links=links)


def _pair_critic(networks: Architecture, latent_dim: int, links: int) -> PairCritic:
    return PairCritic(networks.critic(latent_dim, links))


# Mescheder et al., section 4: the first for MNIST, the second for celebA.
CRITICS: Mapping[str, Callable[[Architecture, int, int], Critic]] = {
    "inner_product": _inner_product_critic,
    "pair": _pair_critic,
}


def _critic(name: str, networks: Architecture, latent_dim: int, links: int = 1, spectral: bool = False) -> Critic:
    if name not in CRITICS:
        raise ValueError(f"critic: expected one of {', '.join(CRITICS)}, got {name!r}")
    critic = CRITICS[name](networks, latent_dim, links)
    for module in list(critic.modules()) if spectral else []:
        if isinstance(module, nn.Linear | nn.Conv2d):
            spectral_norm(module)
    return critic


GAMES: Mapping[str, Callable[..., Any]] = {
    "vae": build_vae,
    "iwae": build_iwae,
    "full_gaussian": build_full_gaussian,
    "flow": build_flow,
    "auxiliary": build_auxiliary,
    "semi_implicit": build_semi_implicit,
    "aae": build_aae,
    "avb": build_avb,
    "avb_ac": build_avb_ac,
    "avb_ac_flow": build_avb_ac,
    "two_adversaries": build_two_adversaries,
}

# How a game's weights are drawn, once it is built: PyTorch's own way, or He's.
INITIALIZATIONS: Mapping[str, Callable[[nn.Module], None]] = {"pytorch": lambda game: None, "he": he_initialization}
