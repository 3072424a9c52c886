"""Networks that the book's players are built from. All act on the last axis and keep every batch axis.

Images are flat vectors; convolutional networks fold them into squares inside. Whatever precision autocast computes the layers
in, a network answers in that of its first argument: the 8 bits of bfloat16 are coarser than many a posterior is wide.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint


class MLP(nn.Sequential):
    """Fully connected network inputs → widths[0] → … → outputs, with ReLU between the layers."""

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int) -> None:
        sizes = [inputs, *widths]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-1], outputs))

    def forward(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch o"]:
        return super().forward(x).to(x.dtype)


class ConcatenationMLP(nn.Module):
    """An MLP on the pair (a, b) laid side by side: noise beside an image, or a code beside an image."""

    def __init__(self, inputs: tuple[int, int], widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.mlp = MLP(sum(inputs), widths, outputs)

    def forward(self, a: Float[Tensor, "*#batch m"], b: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*batch o"]:
        batch = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
        return self.mlp(torch.cat([a.expand(*batch, -1), b.expand(*batch, -1)], dim=-1))


class SideBySide(nn.Module):
    """A network of one argument, for the pair (a, b) laid side by side: a code beside a decoder's noise."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, a: Float[Tensor, "*batch m"], b: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch o"]:
        return self.network(torch.cat([a, b], dim=-1))


class InjectionMLP(nn.Module):
    """An MLP on a whose every hidden layer also receives b through a learned projection (Mescheder et al., section 4)."""

    def __init__(self, inputs: tuple[int, int], widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths: expected at least one hidden layer to inject into, got none")
        sizes = [inputs[0], *widths]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        # The layer's own bias serves for both; a second one would be redundant.
        self.projections = nn.ModuleList(nn.Linear(inputs[1], width, bias=False) for width in widths)
        self.head = nn.Linear(sizes[-1], outputs)

    def forward(self, a: Float[Tensor, "*#batch m"], b: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*batch o"]:
        hidden = a
        for layer, projection in zip(self.layers, self.projections, strict=True):
            hidden = torch.relu(layer(hidden) + projection(b))
        return self.head(hidden).to(a.dtype)


class ResidualUnit(nn.Module):
    """x + convolution(relu(convolution(relu(x)))), as many channels out as in (He et al., 2016, with activation first)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.second = nn.Conv2d(channels, channels, kernel_size=3, padding=1)

    def forward(self, x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


class ConvolutionalEncoder(nn.Module):
    """x → outputs by convolutions of stride 2, as in a DCGAN's discriminator, but without batch normalization.

    A batch norm would make an answer depend on what else is in the batch: fatal in a critic, whose batches of the posterior
    and of the prior differ in just what it is to judge. With `injected` > 0 a second argument of so many numbers enters every
    hidden layer through a learned projection, one number for each channel (Mescheder et al., section 4). `units` residual units
    belong to each hidden layer. With `recompute`, hidden layers are computed again on the way back instead of being kept.
    Images have so many `colours`, one plane after another. Raises ValueError for images that are not square, or no channels.
    """

    def __init__(
        self,
        pixels: int,
        channels: Sequence[int],
        outputs: int,
        injected: int = 0,
        colours: int = 1,
        units: int = 0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.side = _side(pixels, colours, channels)
        self.colours = colours
        self.recompute = recompute
        self.convolutions = nn.ModuleList(
            _with_units(nn.Conv2d(before, after, kernel_size=5, stride=2, padding=2), after=_units(after, units))
            for before, after in pairwise([colours, *channels])
        )
        self.projections = nn.ModuleList(nn.Linear(injected, after, bias=False) for after in channels if injected)
        self.head = nn.Linear(channels[-1] * _shrunk(self.side, len(channels)) ** 2, outputs)

    def forward(
        self, a: Float[Tensor, "*#batch n"], b: Float[Tensor, "*#batch m"] | None = None
    ) -> Float[Tensor, "*batch o"]:
        batch = a.shape[:-1]
        # The first layer sees each image once, however many noises come with it.
        hidden = self._layer(0, a.reshape(-1, self.colours, self.side, self.side))
        if b is not None:
            maps = hidden.shape[1:]
            hidden = hidden.reshape(*batch, *maps)
            batch = torch.broadcast_shapes(batch, b.shape[:-1])
            hidden = hidden.expand(*batch, *maps).reshape(-1, *maps)
            b = b.expand(*batch, -1).reshape(-1, b.shape[-1])
        for i in range(len(self.convolutions)):
            hidden = self._layer(i, hidden) if i else hidden
            hidden = torch.relu(hidden if b is None else hidden + self.projections[i](b)[:, :, None, None])
        return self.head(hidden.flatten(1)).reshape(*batch, -1).to(a.dtype)

    def _layer(self, i: int, hidden: Tensor) -> Tensor:
        return _apply(self.convolutions[i], hidden, self.recompute)


class ConvolutionalDecoder(nn.Module):
    """z → outputs by transposed convolutions of stride 2, the mirror image of `ConvolutionalEncoder`, with no normalization.

    `numbers` for each pixel and colour come one plane after another: the first number of all of them, then the second.
    """

    def __init__(
        self,
        latent_dim: int,
        channels: Sequence[int],
        pixels: int,
        colours: int = 1,
        numbers: int = 1,
        units: int = 0,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.side = _side(pixels, colours, channels)
        self.recompute = recompute
        small = _shrunk(self.side, len(channels))
        self.first = nn.Linear(latent_dim, channels[-1] * small**2)
        self.folded = (channels[-1], small, small)
        self.convolutions = nn.ModuleList(
            _with_units(
                nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1), before=_units(before, units)
            )
            for before, after in pairwise([*reversed(channels), numbers * colours])
        )

    def forward(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        hidden = self.first(z).reshape(-1, *self.folded)
        for convolution in self.convolutions:
            hidden = _apply(convolution, torch.relu(hidden), self.recompute)
        # Each layer doubles the side, where the encoder's rounded its half up: what is too much is cut off on both sides.
        cut = (hidden.shape[-1] - self.side) // 2
        hidden = hidden[..., cut : cut + self.side, cut : cut + self.side]
        return hidden.reshape(*z.shape[:-1], -1).to(z.dtype)


Layer = nn.Linear | nn.Conv2d | nn.ConvTranspose2d


@torch.no_grad()
def he_initialization(module: nn.Module) -> None:
    """Draw the weights of all hidden layers of this file's networks in `module` anew: N(0, 2/fan-in), and biases of 0.

    A ReLU lets half of the second moment pass, which the 2 makes up for, so that signals keep their size through the layers (He
    et al., 2015). PyTorch draws a sixth of this variance for linear layers and convolutions, and each divides by √6. Residual
    units begin as the identity: their second convolution is 0. Projections of an injected argument and last layers stay as they
    are, and so do the steps of a flow, which are to begin near the identity. With spectral normalization the weights are drawn
    that are then divided by their norm, and residual units do not begin as the identity.
    """
    for part in module.modules():  # a network comes before the residual units within it
        for layer in _hidden_layers(part):
            _set_weight(layer, torch.empty_like(layer.weight).normal_(0.0, math.sqrt(2 / _fan_in(layer))))
            cast(Tensor, layer.bias).zero_()
        # A 0 cannot be divided by its norm.
        if isinstance(part, ResidualUnit) and not parametrize.is_parametrized(part.second, "weight"):
            part.second.weight.zero_()
            cast(Tensor, part.second.bias).zero_()


def _hidden_layers(network: nn.Module) -> list[Layer]:
    """The layers of a network, itself and not of networks within it, whose outputs pass through a ReLU."""
    match network:
        case MLP():
            return [layer for layer in network if isinstance(layer, Layer)][:-1]
        case InjectionMLP():
            return [layer for layer in network.layers if isinstance(layer, Layer)]
        case ConvolutionalEncoder():
            return [layer for layer in network.convolutions.modules() if isinstance(layer, Layer)]
        case ConvolutionalDecoder():
            layers = [layer for layer in network.convolutions.modules() if isinstance(layer, Layer)]
            return [network.first, *layers[:-1]]
        case _:
            return []


def _set_weight(layer: Layer, weight: Tensor) -> None:
    if not parametrize.is_parametrized(layer, "weight"):
        layer.weight.copy_(weight)
        return
    layer.weight = weight
    # Each look at a weight takes its estimated norm a step nearer; the old weights' had as many.
    for _ in range(15):
        _ = layer.weight


def _fan_in(layer: Layer) -> float:
    """How many inputs add up in an output, away from an image's border."""
    if isinstance(layer, nn.ConvTranspose2d):
        return layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
    return layer.weight[0].numel()


def _units(channels: int, units: int) -> list[nn.Module]:
    return [ResidualUnit(channels) for _ in range(units)]


def _with_units(convolution: nn.Module, before: Sequence[nn.Module] = (), after: Sequence[nn.Module] = ()) -> nn.Module:
    """The convolution with the residual units of the hidden layer on one side of it."""
    if before:
        return nn.Sequential(*before, nn.ReLU(), convolution)
    return nn.Sequential(convolution, *after) if after else convolution


def _apply(layer: nn.Module, hidden: Tensor, recompute: bool) -> Tensor:
    if recompute and torch.is_grad_enabled():
        return cast(Tensor, checkpoint(layer, hidden, use_reentrant=False, preserve_rng_state=False))
    return layer(hidden)


def _side(pixels: int, colours: int, channels: Sequence[int]) -> int:
    side = math.isqrt(pixels // colours)
    if colours * side**2 != pixels:
        raise ValueError(f"pixels: expected those of a square image in {colours} colours, got {pixels}")
    if not channels:
        raise ValueError("channels: expected at least one hidden layer, got none")
    return side


def _shrunk(side: int, layers: int) -> int:
    """The side after so many convolutions of stride 2, each of which rounds the half up."""
    return math.ceil(side / 2**layers)
