"""The variational autoencoder: a game with one player."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from avb_core.decoders import Likelihood
from avb_core.games.game import LatentVariableGame
from avb_core.gaussian import kl_standard_normal, reparameterize
from avb_core.posteriors import GaussianPosterior


class VAE(LatentVariableGame):
    """Maximize the ELBO with a Gaussian posterior, its KL to the prior in closed form (Hajimiri, eq. 12).

    `samples` codes for each image make the gradient steadier and a step as many times dearer. Raises ValueError for fewer
    than 1.
    """

    posterior: GaussianPosterior

    def __init__(self, posterior: GaussianPosterior, decoder: Likelihood, samples: int = 1) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"samples: expected at least 1 code for each image, got {samples}")
        self.posterior = posterior
        self.decoder = decoder
        self.samples = samples

    def extra_repr(self) -> str:
        return f"samples={self.samples}"

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"model": (self.posterior, self.decoder)}

    def model_loss(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """−ELBO = E[KL(q(z|x) ‖ p(z)) − log p(x|z)], a mean over images and codes."""
        mean, std = self.posterior(x)
        z = reparameterize(mean, std, mean.new_empty(self.samples, *mean.shape).normal_())
        return (self.kl_weight * kl_standard_normal(mean, std) - self.decoder.log_prob(x, z)).mean()
