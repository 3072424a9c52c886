"""The importance weighted autoencoder: the VAE's player with a tighter bound."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avb_core.bounds import iwlb
from avb_core.decoders import Likelihood
from avb_core.games.game import LatentVariableGame
from avb_core.gaussian import log_prob_diagonal, log_prob_standard_normal, reparameterize
from avb_core.posteriors import ExplicitPosterior, GaussianPosterior


class IWAE(LatentVariableGame):
    """Maximize the importance weighted lower bound L_k (Burda, Grosse and Salakhutdinov, 2016) with an explicit posterior.

    The signal of the encoder's gradient sinks below its noise as k grows (Rainforth et al., 2018). With
    `doubly_reparameterized` the encoder gets the estimator of Tucker et al. (2019) instead, which has the same expectation:
    Σ_j ŵ_j² ∂log w_j/∂z_j · ∂z_j/∂φ with normalized weights ŵ, without φ's direct part in log q. The decoder's gradient stays.
    Where the KL has a weight β below 1, in a warm-up, log q counts β times, and β ŵ_j² + (1 − β) ŵ_j takes the place of ŵ_j².
    Any posterior that knows its density will do, and k = 1 is the ELBO; the doubly reparameterized estimator is for the
    Gaussian one. Raises ValueError for k < 1, and for another posterior with `doubly_reparameterized`.
    """

    posterior: ExplicitPosterior

    def __init__(
        self, posterior: ExplicitPosterior, decoder: Likelihood, k: int, doubly_reparameterized: bool = False
    ) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k: expected at least 1 importance sample, got {k}")
        if doubly_reparameterized and not isinstance(posterior, GaussianPosterior):
            raise ValueError(f"posterior: expected a GaussianPosterior, got {type(posterior).__name__}")
        self.posterior = posterior
        self.decoder = decoder
        self.k = k
        self.doubly_reparameterized = doubly_reparameterized

    def extra_repr(self) -> str:
        return f"k={self.k}, doubly_reparameterized={self.doubly_reparameterized}"

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"model": (self.posterior, self.decoder)}

    def model_loss(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """−L_k, a mean over the images, from k codes for each."""
        if not self.doubly_reparameterized:
            z, log_q = self.posterior.sample_with_log_prob(x, (self.k,))
            return -iwlb(self._log_weights(x, z, log_q)).mean()
        mean, std = self.posterior(x)
        z = reparameterize(mean, std, mean.new_empty(self.k, *mean.shape).normal_())
        log_q = log_prob_diagonal(z, mean.detach(), std.detach())
        log_weights = self._log_weights(x, z, log_q)
        if z.requires_grad:
            # L_k hands ŵ_j ∂log w_j/∂z_j to each code; on its way on to the encoder it is weighed once more.
            factor = torch.lerp(torch.ones_like(log_weights), log_weights.detach().softmax(0), self.kl_weight)[
                ..., None
            ]
            z.register_hook(lambda gradient: factor * gradient)
        return -iwlb(log_weights).mean()

    def _log_weights(self, x: Tensor, z: Tensor, log_q: Tensor) -> Float[Tensor, "k batch"]:
        return self.decoder.log_prob(x, z) + self.kl_weight * (log_prob_standard_normal(z) - log_q)
