"""AVB with adaptive contrast: the critic compares the posterior with a Gaussian of the same moments instead of the prior."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from avb_core.critics import Critic
from avb_core.decoders import Likelihood
from avb_core.divergences import CriticObjective, logistic
from avb_core.games.avb import AVB
from avb_core.gaussian import log_prob_standard_normal
from avb_core.posteriors import BasisNoisePosterior, OfImage


class AdaptiveContrastAVB(AVB):
    """ELBO = E_q[log p(x, z) − log r(z|x)] − KL(q ‖ r), the KL alone left to the critic (Mescheder et al., slides `ac`).

    r(z|x) is the Gaussian with the mean and the standard deviations of q(z|x), or with `full_covariance` its covariance. The
    critic sees codes in r's own coordinates, in which r is a standard normal for every image and q has mean 0 and variance 1:
    KL(q ‖ r) is the same there, and Proposition 2 then covers all of the gradient, that through r's moments included. So no
    critic, however wrong, can shift or rescale the posterior.

    Where the posterior bends base codes by a flow, r(z|x) is that Gaussian bent by the same flow, and the critic sees base
    codes: an invertible map changes no ratio of densities. So the flow's part of the KL is exact as well, and what is left to
    the critic is how a base code differs from a Gaussian.
    """

    posterior: BasisNoisePosterior

    def __init__(
        self,
        posterior: BasisNoisePosterior,
        decoder: Likelihood,
        critic: Critic,
        objective: CriticObjective = logistic,
        full_covariance: bool = False,
        bridge: Sequence[float] = (),
        gradient_penalty: float = 0.0,
    ) -> None:
        super().__init__(posterior, decoder, critic, objective, bridge, gradient_penalty)
        self.full_covariance = full_covariance

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, full_covariance={self.full_covariance}"

    def normalized(
        self, x: Float[Tensor, "*batch n"], base: Float[Tensor, "*shape_batch d"], of_image: OfImage | None = None
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        """Base codes (without a flow: codes) in r's coordinates, and log r there; `of_image` as for `sample_base`."""
        if self.full_covariance:
            mean, scale_tril = self.posterior.moments_full(x, of_image)
            u = torch.linalg.solve_triangular(scale_tril, (base - mean)[..., None], upper=False)[..., 0]
            log_volume = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        else:
            mean, std = self.posterior.moments(x, of_image)
            u, log_volume = (base - mean) / std, std.log().sum(-1)
        return u, log_prob_standard_normal(u) - log_volume

    def critic_loss(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """The critic's objective on q's codes against r's, both in r's coordinates."""
        with torch.no_grad():
            of_image = self.posterior(x)
            u, _ = self.normalized(x, self.posterior.sample_base(x, of_image=of_image), of_image)
        return self._critic_loss_between(x, u, torch.randn_like(u))

    def sample_with_log_ratio(
        self, x: Float[Tensor, "*batch n"]
    ) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "*batch"]]:
        of_image = self.posterior(x)
        return self._bent(x, self.posterior.sample_base(x, of_image=of_image), of_image)

    def log_ratio(
        self, x: Float[Tensor, "*batch n"], z: Float[Tensor, "*shape_batch d"]
    ) -> Float[Tensor, "*shape_batch"]:
        """log q(z|x) − log p(z), as critic and contrast see it."""
        of_image = self.posterior(x)
        return self._bent(x, self.posterior.unbend(z, of_image), of_image)[1]

    def _bent(
        self, x: Float[Tensor, "*batch n"], base: Float[Tensor, "*shape_batch d"], of_image: OfImage
    ) -> tuple[Float[Tensor, "*shape_batch d"], Float[Tensor, "*shape_batch"]]:
        u, log_r = self.normalized(x, base, of_image)
        z, log_volume = self.posterior.bend(base, of_image)
        return z, super().log_ratio(x, u) + log_r - log_volume - log_prob_standard_normal(z)
