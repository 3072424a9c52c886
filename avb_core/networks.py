"""Networks that the book's players are built from. All act on the last axis and keep every batch axis."""

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
