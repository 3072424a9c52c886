"""Networks that the book's players are built from. All act on the last axis and keep every batch axis.

Images are flat vectors; convolutional networks fold them into squares inside.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MLP(nn.Sequential):
    """Fully connected network inputs → widths[0] → … → outputs, with ReLU between the layers."""

    def __init__(self, inputs: int, widths: Sequence[int], outputs: int) -> None:
        sizes = [inputs, *widths]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-1], outputs))


class ConcatenationMLP(nn.Module):
    """An MLP on the pair (a, b) laid side by side: noise beside an image, or a code beside an image."""

    def __init__(self, inputs: tuple[int, int], widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.mlp = MLP(sum(inputs), widths, outputs)

    def forward(self, a: Float[Tensor, "*#batch m"], b: Float[Tensor, "*#batch n"]) -> Float[Tensor, "*batch o"]:
        batch = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
        return self.mlp(torch.cat([a.expand(*batch, -1), b.expand(*batch, -1)], dim=-1))


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
        return self.head(hidden)


class ConvolutionalEncoder(nn.Module):
    """x → outputs by convolutions of stride 2, as in a DCGAN's discriminator, but without batch normalization.

    A batch norm would make an answer depend on what else is in the batch: fatal in a critic, whose batches of the posterior
    and of the prior differ in just what it is to judge. With `injected` > 0 a second argument of so many numbers enters every
    hidden layer through a learned projection, one number for each channel (Mescheder et al., section 4). Raises ValueError for
    images that are not square, or no channels.
    """

    def __init__(self, pixels: int, channels: Sequence[int], outputs: int, injected: int = 0) -> None:
        super().__init__()
        self.side = _side(pixels, channels)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=5, stride=2, padding=2) for before, after in pairwise([1, *channels])
        )
        self.projections = nn.ModuleList(nn.Linear(injected, after, bias=False) for after in channels if injected)
        self.head = nn.Linear(channels[-1] * _shrunk(self.side, len(channels)) ** 2, outputs)

    def forward(
        self, a: Float[Tensor, "*#batch n"], b: Float[Tensor, "*#batch m"] | None = None
    ) -> Float[Tensor, "*batch o"]:
        batch = a.shape[:-1]
        # The first layer sees each image once, however many noises come with it.
        hidden = self.convolutions[0](a.reshape(-1, 1, self.side, self.side))
        if b is not None:
            maps = hidden.shape[1:]
            hidden = hidden.reshape(*batch, *maps)
            batch = torch.broadcast_shapes(batch, b.shape[:-1])
            hidden = hidden.expand(*batch, *maps).reshape(-1, *maps)
            b = b.expand(*batch, -1).reshape(-1, b.shape[-1])
        for i, convolution in enumerate(self.convolutions):
            hidden = convolution(hidden) if i else hidden
            hidden = torch.relu(hidden if b is None else hidden + self.projections[i](b)[:, :, None, None])
        return self.head(hidden.flatten(1)).reshape(*batch, -1)


class ConvolutionalDecoder(nn.Module):
    """z → pixels by transposed convolutions of stride 2, the mirror image of `ConvolutionalEncoder`, with no normalization."""

    def __init__(self, latent_dim: int, channels: Sequence[int], pixels: int) -> None:
        super().__init__()
        self.side = _side(pixels, channels)
        small = _shrunk(self.side, len(channels))
        self.first = nn.Linear(latent_dim, channels[-1] * small**2)
        self.folded = (channels[-1], small, small)
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(before, after, kernel_size=4, stride=2, padding=1)
            for before, after in pairwise([*reversed(channels), 1])
        )

    def forward(self, z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        hidden = self.first(z).reshape(-1, *self.folded)
        for convolution in self.convolutions:
            hidden = convolution(torch.relu(hidden))
        # Each layer doubles the side, where the encoder's rounded its half up: what is too much is cut off on both sides.
        cut = (hidden.shape[-1] - self.side) // 2
        hidden = hidden[..., cut : cut + self.side, cut : cut + self.side]
        return hidden.reshape(*z.shape[:-1], self.side**2)


def _side(pixels: int, channels: Sequence[int]) -> int:
    side = math.isqrt(pixels)
    if side**2 != pixels:
        raise ValueError(f"pixels: expected those of a square image, got {pixels}")
    if not channels:
        raise ValueError("channels: expected at least one hidden layer, got none")
    return side


def _shrunk(side: int, layers: int) -> int:
    """The side after so many convolutions of stride 2, each of which rounds the half up."""
    return math.ceil(side / 2**layers)
