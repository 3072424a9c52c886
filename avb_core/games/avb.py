"""Adversarial Variational Bayes: a critic stands in for the KL that an implicit posterior cannot compute."""

from collections.abc import Mapping, Sequence

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
    """

    def __init__(
        self,
        posterior: Posterior,
        decoder: Likelihood,
        critic: Critic,
        objective: CriticObjective = logistic,
    ) -> None:
        super().__init__()
        self.posterior = posterior
        self.decoder = decoder
        self.critic = critic
        self.objective = objective

    def extra_repr(self) -> str:
        return f"objective={self.objective}"

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"critic": (self.critic,), "model": (self.posterior, self.decoder)}

    def critic_loss(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """The critic's objective on (x, z ~ q(z|x)) against (x, z ~ p(z)): eq. 3.3 for `logistic`."""
        with torch.no_grad():
            z = self.posterior.sample(x)
        on_q, on_p = self.critic(x, torch.stack([z, torch.randn_like(z)]))
        return self.objective.critic_loss(on_q, on_p)

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
        """log q(z|x) − log p(z), as the critic sees it."""
        return self.objective.log_ratio(self.critic(x, z))
