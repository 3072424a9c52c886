"""Encoder and decoder both implicit: adversaries in place of both densities of the ELBO."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from avb_core.critics import Critic
from avb_core.decoders import ImplicitDecoder
from avb_core.divergences import CriticObjective, logistic
from avb_core.games.game import Game
from avb_core.games.gan import generator_loss_of
from avb_core.posteriors import Posterior


class JointAdversary(Game):
    """KL(q(x, z) ‖ p(x, z)) = −ELBO − H(X) by one critic on pairs (Hajimiri, eq. 19): the game of BiGAN and ALI, for a KL.

    The critic learns T* = log q(x, z) − log p(x, z) from pairs (x, z ~ q(z|x)) of the data and (x ~ p(x|z), z ~ p(z)) of the
    model. The encoder descends E_q T, which Proposition 2 allows. The decoder's samples stand on the other side of the KL, so
    it descends what a generator descends there: `decoder_objective`, one of `GENERATOR_LOSSES`, of which only
    "maximum_likelihood" has the gradient of this KL. The critic moves first. Raises ValueError for an unknown name.
    """

    def __init__(
        self,
        posterior: Posterior,
        decoder: ImplicitDecoder,
        critic: Critic,
        objective: CriticObjective = logistic,
        decoder_objective: str = "maximum_likelihood",
    ) -> None:
        super().__init__()
        self.posterior = posterior
        self.decoder = decoder
        self.critic = critic
        self.objective = objective
        self.decoder_loss_of = generator_loss_of(decoder_objective)
        self.decoder_objective = decoder_objective

    def extra_repr(self) -> str:
        return f"objective={self.objective}, decoder_objective={self.decoder_objective}"

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"critic": (self.critic,), "model": (self.posterior, self.decoder)}

    def critic_loss(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """The critic's objective on pairs of the data and their codes against pairs of the model."""
        with torch.no_grad():
            z = self.posterior.sample(x)
            prior = torch.randn_like(z)
            generated = self.decoder.sample(prior)
        return self.objective.critic_loss(self.critic(x, z), self.critic(generated, prior))

    def model_loss(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """The encoder's loss and the decoder's, which share no parameter."""
        z = self.posterior.sample(x)
        prior = torch.randn_like(z)
        of_encoder = self.objective.log_ratio(self.critic(x, z))
        of_decoder = self.decoder_loss_of(self.objective.log_ratio(self.critic(self.decoder.sample(prior), prior)))
        return of_encoder.mean() + of_decoder.mean()


class TwoAdversaries(Game):
    """A critic for the codes and one for the images given their codes (Fickinger, eqs. 6, 14 and 19, and what they should say).

    The code critic compares codes of q with codes of the prior. If it sees codes alone (`CodeCritic`), it learns
    log q(z) − log p(z), and the sum of both divergences is KL(q(z) ‖ p(z)) + E_{q(z)} KL(q(x|z) ‖ p(x|z)) = −ELBO − H(X)
    (Hajimiri, eq. 21). If it sees pairs, as printed, it learns log q(z|x) − log p(z), and the sum is larger by the mutual
    information I_q(X; Z). The image critic compares (x, z ~ q(z|x)) with (x ~ p(x|z), z ~ q(z)): it learns
    log q(x|z) − log p(x|z). With `independent_pairs` the image is drawn anew beside each code, as eqs. 13–14 print it, and the
    decoder's optimum is the data's density whatever the code. The critics move first.
    """

    def __init__(
        self,
        posterior: Posterior,
        decoder: ImplicitDecoder,
        code_critic: Critic,
        image_critic: Critic,
        objective: CriticObjective = logistic,
        decoder_objective: str = "maximum_likelihood",
        independent_pairs: bool = False,
    ) -> None:
        super().__init__()
        self.posterior = posterior
        self.decoder = decoder
        self.code_critic = code_critic
        self.image_critic = image_critic
        self.objective = objective
        self.decoder_loss_of = generator_loss_of(decoder_objective)
        self.decoder_objective = decoder_objective
        self.independent_pairs = independent_pairs

    def extra_repr(self) -> str:
        return (
            f"objective={self.objective}, decoder_objective={self.decoder_objective}, "
            f"independent_pairs={self.independent_pairs}"
        )

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"critics": (self.code_critic, self.image_critic), "model": (self.posterior, self.decoder)}

    def critics_loss(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """Both critics' objectives; they share no parameter."""
        with torch.no_grad():
            z = self.posterior.sample(x)
            generated = self.decoder.sample(z)
        of_codes = self.objective.critic_loss(*self.code_critic(x, torch.stack([z, torch.randn_like(z)])))
        on_data = self.image_critic(self._beside(x), z)
        return of_codes + self.objective.critic_loss(on_data, self.image_critic(generated, z))

    def model_loss(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """The encoder's loss, E_q of both log ratios, and the decoder's, which share no parameter.

        The codes beside the decoder's images come from q as well, but what the encoder could do there it does in vain:
        E_{p(x|z)} q(x|z)/p(x|z) = 1 for every z.
        """
        z = self.posterior.sample(x)
        codes = z.detach()
        of_encoder = self.objective.log_ratio(self.code_critic(x, z)) + self.objective.log_ratio(
            self.image_critic(self._beside(x), z)
        )
        ratio = self.objective.log_ratio(self.image_critic(self.decoder.sample(codes), codes))
        return of_encoder.mean() + self.decoder_loss_of(ratio).mean()

    def _beside(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
        """The image that stands beside each code: its own, or another one of the batch."""
        return x.roll(1, 0) if self.independent_pairs else x
