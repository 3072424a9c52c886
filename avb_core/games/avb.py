"""Adversarial Variational Bayes: a critic stands in for the KL that an implicit posterior cannot compute."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avb_core.critics import Critic
from avb_core.decoders import Likelihood
from avb_core.divergences import CriticObjective, logistic
from avb_core.games.game import LatentVariableGame
from avb_core.posteriors import Posterior


class AVB(LatentVariableGame):
    """Encoder and decoder against a critic (Mescheder et al., algorithm 1 with its two misprints mended).

    The critic learns log q(z|x) − log p(z) from pairs (x, z); the model descends E[log ratio − log p(x|z)] with that ratio
    held fixed as a function, which Proposition 2 allows. The critic moves first: it should be near its optimum when the model
    uses it.

    With a `bridge` the ratio is telescoped (Rhodes, Xu and Gutmann, 2020). Codes √(1 − s²) z + s ε, for z ~ q(z|x), ε ~ p(z)
    and s = 0, each of the bridge, 1, lead from q to p. The critic has one link for each step, which compares its two ends; the
    log ratios of the steps add up to that of q and p.

    `gradient_penalty` is the weight γ of ½ γ E‖∇T‖² in the critic's loss, under both laws that a logit compares, in the
    coordinates in which the critic sees codes (Mescheder, Geiger and Nowozin, 2018, R₁ and R₂ together); for a bridge it is
    that of every link, summed.

    Raises ValueError for a bridge that does not rise strictly between 0 and 1, or a negative penalty.
    """

    def __init__(
        self,
        posterior: Posterior,
        decoder: Likelihood,
        critic: Critic,
        objective: CriticObjective = logistic,
        bridge: Sequence[float] = (),
        gradient_penalty: float = 0.0,
    ) -> None:
        super().__init__()
        stds = (0.0, *bridge, 1.0)
        if not all(one < other for one, other in pairwise(stds)):
            raise ValueError(f"bridge: expected numbers that rise strictly between 0 and 1, got {tuple(bridge)}")
        if not gradient_penalty >= 0:
            raise ValueError(f"gradient_penalty: expected 0 or more, got {gradient_penalty}")
        self.posterior = posterior
        self.decoder = decoder
        self.critic = critic
        self.objective = objective
        self.stds = stds
        self.gradient_penalty = gradient_penalty

    def extra_repr(self) -> str:
        return f"objective={self.objective}, bridge={self.stds[1:-1]}, gradient_penalty={self.gradient_penalty}"

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"critic": (self.critic,), "model": (self.posterior, self.decoder)}

    def critic_loss(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """The critic's objective on (x, z ~ q(z|x)) against (x, z ~ p(z)): eq. 3.3 for `logistic`."""
        with torch.no_grad():
            z = self.posterior.sample(x)
        return self._critic_loss_between(x, z, torch.randn_like(z))

    def _critic_loss_between(
        self, x: Float[Tensor, "batch n"], on_q: Float[Tensor, "batch d"], on_p: Float[Tensor, "batch d"]
    ) -> Float[Tensor, ""]:
        """The critic's objective on codes of q and of what they are compared with, over all steps between them.

        The critic is asked once, so that every link sees the codes of every step; two of them count. Raises ValueError where
        it has another number of links than there are steps.
        """
        codes = torch.stack([math.sqrt(1 - std**2) * on_q + std * on_p for std in self.stds])
        codes.requires_grad_(self.gradient_penalty > 0)
        logits = self.critic.links(x, codes)
        steps = len(self.stds) - 1
        if logits.shape[-1] != steps:
            raise ValueError(f"critic: expected {steps} links for as many steps, got {logits.shape[-1]}")
        # Link k compares the k-th codes with those after it.
        sides = [part.diagonal(dim1=0, dim2=-1) for part in (logits[:-1], logits[1:])]
        pairs = zip(*(side.unbind(-1) for side in sides), strict=True)
        loss = torch.stack([self.objective.critic_loss(nearer, farther) for nearer, farther in pairs]).sum()
        if self.gradient_penalty > 0:
            # On each side every set of codes belongs to one link, so that no two links' slopes are added before the square.
            for side in sides:
                (slope,) = torch.autograd.grad(side.sum(), codes, create_graph=True)
                loss = loss + 0.5 * self.gradient_penalty * slope.square().sum((0, -1)).mean()
        return loss

    def model_loss(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """E[T(x, z) − log p(x|z)], the negative of eq. 3.9 with the current critic for T*. Not a bound on −log p(x)."""
        z, log_ratio = self.sample_with_log_ratio(x)
        return (self.kl_weight * log_ratio - self.decoder.log_prob(x, z)).mean()

    def sample_with_log_ratio(
        self, x: Float[Tensor, "*batch n"]
    ) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch"]]:
        """A code for each image, and `log_ratio` at it."""
        z = self.posterior.sample(x)
        return z, self.log_ratio(x, z)

    def log_ratio(
        self, x: Float[Tensor, "*batch n"], z: Float[Tensor, "*shape_batch d"]
    ) -> Float[Tensor, "*shape_batch"]:
        """log q(z|x) − log p(z), as the critic sees it: the sum of its links' log ratios."""
        return self.objective.log_ratio(self.critic.links(x, z)).sum(-1)
