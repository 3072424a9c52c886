"""Critics T(x, z): one unbounded real number, a logit, for each pair of an image and a code.

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
    def score(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """The network's own output."""

    def forward(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        score = self.score(x, z)
        return score - log_prob_standard_normal(z) if self.subtract_log_prior else score


class InnerProductCritic(Critic):
    """T(x, z) = ⟨f(x), g(z)⟩ of two networks with as many outputs (Mescheder et al., section 4)."""

    def __init__(self, x_network: nn.Module, z_network: nn.Module, subtract_log_prior: bool = False) -> None:
        super().__init__(subtract_log_prior)
        self.x_network = x_network
        self.z_network = z_network

    def score(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        return (self.x_network(x) * self.z_network(z)).sum(-1)


class CodeCritic(Critic):
    """T(z) from one network of the code alone: it learns log q(z) − log p(z) of the aggregate, and AVB becomes an adversarial
    autoencoder (Makhzani et al., 2015; Mescheder et al., eqs. 5.1–5.5)."""

    def __init__(self, network: nn.Module, subtract_log_prior: bool = False) -> None:
        super().__init__(subtract_log_prior)
        self.network = network

    def score(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        return self.network(z).squeeze(-1)


class PairCritic(Critic):
    """T(x, z) from one network of two arguments, such as `ConcatenationMLP` or `InjectionMLP`, with a single output."""

    def __init__(self, network: nn.Module, subtract_log_prior: bool = False) -> None:
        super().__init__(subtract_log_prior)
        self.network = network

    def score(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        return self.network(x, z).squeeze(-1)
