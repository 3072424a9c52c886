"""Critics T(x, z): one unbounded real number, a logit, for each pair of an image and a code.

A critic may be a sum of several logits, the links of a telescope (`games.AVB`, `bridge`), all on the same pair.

Codes may carry axes in front of the images' own: a critic then judges several codes of each image, and looks at the image once.

With `subtract_log_prior` the network's output t is returned as t − log p(z). The optimum T* = log q(z | x) − log p(z) then
leaves only log q(z | x) to be learned, which helps where q is narrow and spares nothing where q looks like the prior.
"""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from avb_core.gaussian import log_prob_standard_normal


class Critic(nn.Module, ABC):
    """The part common to all critics: a score, from which the prior's log-density may be taken off."""

    def __init__(self, subtract_log_prior: bool = False) -> None:
        super().__init__()
        self.subtract_log_prior = subtract_log_prior

    def extra_repr(self) -> str:
        return f"subtract_log_prior={self.subtract_log_prior}"

    @abstractmethod
    def score(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch links"]:
        """The network's own outputs, one for each link."""

    def links(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch links"]:
        """The logits, one for each link; T is their sum. The ratio is the sum of their log ratios, which for a logit is itself.

        Raises ValueError where several of them should share one prior's log-density.
        """
        scores = self.score(x, z)
        if not self.subtract_log_prior:
            return scores
        if scores.shape[-1] != 1:
            raise ValueError(f"subtract_log_prior: expected a critic of one link, got {scores.shape[-1]}")
        return scores - log_prob_standard_normal(z)[..., None]

    def forward(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        return self.links(x, z).sum(-1)


class InnerProductCritic(Critic):
    """T(x, z) = ⟨f(x), g(z)⟩ of two networks with as many outputs (Mescheder et al., section 4).

    With several `links`, each has an equal share of the outputs.
    """

    def __init__(
        self, x_network: nn.Module, z_network: nn.Module, subtract_log_prior: bool = False, links: int = 1
    ) -> None:
        super().__init__(subtract_log_prior)
        self.x_network = x_network
        self.z_network = z_network
        self.number_of_links = links

    def score(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch links"]:
        return (self.x_network(x) * self.z_network(z)).unflatten(-1, (self.number_of_links, -1)).sum(-1)


class CodeCritic(Critic):
    """T(z) from one network of the code alone: it learns log q(z) − log p(z) of the aggregate, and AVB becomes an adversarial
    autoencoder (Makhzani et al., 2015; Mescheder et al., eqs. 5.1–5.5)."""

    def __init__(self, network: nn.Module, subtract_log_prior: bool = False) -> None:
        super().__init__(subtract_log_prior)
        self.network = network

    def score(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch links"]:
        return self.network(z)


class PairCritic(Critic):
    """T(x, z) from one network of two arguments, such as `ConcatenationMLP` or `InjectionMLP`, with an output for each link."""

    def __init__(self, network: nn.Module, subtract_log_prior: bool = False) -> None:
        super().__init__(subtract_log_prior)
        self.network = network

    def score(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch links"]:
        return self.network(x, z)
