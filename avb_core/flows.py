"""Normalizing flows: posteriors bent by invertible maps whose change of volume is known, so that the log-density is too."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avb_core.gaussian import log_prob_diagonal, reparameterize
from avb_core.posteriors import ExplicitPosterior, mean_and_std


class MaskedLinear(nn.Linear):
    """A linear layer some of whose weights are held at zero: `mask` has shape (outputs, inputs)."""

    mask: Tensor

    def __init__(self, mask: Float[Tensor, "outputs inputs"]) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, input: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        return nn.functional.linear(input, self.mask * self.weight, self.bias)


class AutoregressiveMLP(nn.Module):
    """Two numbers for each coordinate of z, which see the coordinates before it and all of a context (Germain et al., 2015).

    Every hidden unit has a degree m, sees the coordinates up to the m-th and is seen by those behind it; so no path leads from
    a coordinate to itself or to an earlier one.
    """

    def __init__(self, latent_dim: int, context_dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        if not widths:
            raise ValueError("widths: expected at least one hidden layer, got none")
        coordinates = torch.arange(1, latent_dim + 1)
        before, layers = coordinates, []
        for width in widths:
            degrees = torch.arange(width) % max(1, latent_dim - 1) + min(1, latent_dim - 1)
            layers.append(MaskedLinear((degrees[:, None] >= before).float()))
            before = degrees
        self.layers = nn.ModuleList(layers)
        self.of_context = nn.Linear(context_dim, widths[0], bias=False)
        self.head = MaskedLinear((coordinates.repeat(2)[:, None] > before).float())

    def forward(
        self, z: Float[Tensor, "*batch d"], context: Float[Tensor, "*#batch c"]
    ) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"]]:
        first, *rest = self.layers
        hidden = torch.relu(first(z) + self.of_context(context))
        for layer in rest:
            hidden = torch.relu(layer(hidden))
        # In the precision of z, whatever autocast computes the layers in: what is made of them is a code and its density.
        one, other = self.head(hidden).to(z.dtype).chunk(2, dim=-1)
        return one, other


class AutoregressiveSteps(nn.ModuleList):
    """Invertible steps z ← σ ⊙ z + (1 − σ) ⊙ m that all see a context (Kingma et al., 2016, algorithm 1).

    m and σ of a coordinate depend on the coordinates before it, so a step's Jacobian is triangular and its log-determinant is
    Σ log σ. Before each step the coordinates are reversed. Raises ValueError for fewer than one step.
    """

    def __init__(self, steps: int, latent_dim: int, context_dim: int, widths: Sequence[int]) -> None:
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        super().__init__(AutoregressiveMLP(latent_dim, context_dim, widths) for _ in range(steps))

    def forward(
        self, z: Float[Tensor, "*batch d"], context: Float[Tensor, "*#batch c"]
    ) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch"]]:
        """What becomes of z, and the log-determinant of the Jacobian there."""
        log_volume = z.new_zeros(z.shape[:-1])
        for step in self:
            z = z.flip(-1)
            shift, gate = self._shift_and_gate(step, z, context)
            z = gate * z + (1 - gate) * shift
            log_volume = log_volume + gate.log().sum(-1)
        return z, log_volume

    def inverse(self, z: Float[Tensor, "*batch d"], context: Float[Tensor, "*#batch c"]) -> Float[Tensor, "*batch d"]:
        """What `forward` makes z of, one coordinate after another: d times as dear."""
        for step in reversed(self):
            before = torch.zeros_like(z)
            for i in range(z.shape[-1]):
                shift, gate = self._shift_and_gate(step, before, context)
                of_one = (z[..., i] - (1 - gate[..., i]) * shift[..., i]) / gate[..., i]
                before = torch.cat([before[..., :i], of_one[..., None], before[..., i + 1 :]], dim=-1)
            z = before.flip(-1)
        return z

    @staticmethod
    def _shift_and_gate(step: nn.Module, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw_gate = step(z, context)
        # Half open at the start: close to the identity, which trains well.
        return shift, torch.sigmoid(raw_gate + 1.5)


class InverseAutoregressiveFlow(ExplicitPosterior):
    """A Gaussian sample sent through `AutoregressiveSteps`, so that its log-density falls by their log-determinant.

    `network` maps an image to 2 · latent_dim + context_dim numbers: mean and raw standard deviation of the Gaussian, as in
    `GaussianPosterior`, and a context that every step sees. Raises ValueError for fewer than one step.
    """

    def __init__(
        self, network: nn.Module, latent_dim: int, context_dim: int, widths: Sequence[int], steps: int = 2
    ) -> None:
        super().__init__()
        self.network = network
        self.latent_dim = latent_dim
        self.steps = AutoregressiveSteps(steps, latent_dim, context_dim, widths)

    def forward(
        self, x: Float[Tensor, "*batch n"]
    ) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch d"], Float[Tensor, "*batch c"]]:
        """Mean and standard deviation of the Gaussian, and the context that the steps see."""
        output = self.network(x)
        mean, std = mean_and_std(output[..., : 2 * self.latent_dim])
        return mean, std, output[..., 2 * self.latent_dim :]

    def sample_with_log_prob(
        self, x: Float[Tensor, "*batch n"], shape: Sequence[int] = ()
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        mean, std, context = self(x)
        z = reparameterize(mean, std, mean.new_empty(*shape, *mean.shape).normal_())
        log_q = log_prob_diagonal(z, mean, std)
        z, log_volume = self.steps(z, context)
        return z, log_q - log_volume
