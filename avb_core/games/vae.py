"""The variational autoencoder: a game with one player."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from avb_core.decoders import Decoder
from avb_core.games.game import Game
from avb_core.gaussian import kl_standard_normal, reparameterize
from avb_core.posteriors import GaussianPosterior


class VAE(Game):
    """Maximize the ELBO with a Gaussian posterior, its KL to the prior in closed form (Hajimiri, eq. 12)."""

    def __init__(self, posterior: GaussianPosterior, decoder: Decoder) -> None:
        super().__init__()
        self.posterior = posterior
        self.decoder = decoder

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"model": (self.posterior, self.decoder)}

    def model_loss(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """−ELBO = E[KL(q(z|x) ‖ p(z)) − log p(x|z)], one code per image."""
        mean, std = self.posterior(x)
        z = reparameterize(mean, std)
        return (kl_standard_normal(mean, std) - self.decoder.log_prob(x, z)).mean()
