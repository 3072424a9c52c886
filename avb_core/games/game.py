"""What a game is: players, and for each of them the modules that it moves and the loss that it descends."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from avb_core.decoders import Likelihood
from avb_core.posteriors import Posterior


class Game(nn.Module, ABC):
    """Base of all games.

    A subclass implements `players`, a mapping from a player's name to the modules that this player alone may change, in the
    order in which players move, and for each name a method `<name>_loss(x)`: a scalar in nats for a minibatch x. A loss may
    depend on every parameter of the game; the training loop differentiates it in the player's own only.
    """

    @property
    @abstractmethod
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """Each player's modules, by the player's name."""

    def loss(self, player: str, x: Float[Tensor, "batch n"]) -> Float[Tensor, ""]:
        """The loss of the named player at a minibatch of images."""
        return getattr(self, f"{player}_loss")(x)

    def parameters_of(self, player: str) -> list[nn.Parameter]:
        """The parameters that the named player may change."""
        return [
            parameter for module in self.players[player] for parameter in module.parameters() if parameter.requires_grad
        ]


class LatentVariableGame(Game):
    """A game whose model is a posterior and a likelihood, and whose model's loss is E[log q(z|x)/p(z) − log p(x|z)] or kin.

    `kl_weight` multiplies log q(z|x)/p(z) there. It is 1, the ELBO, but for a training that warms up
    (`training.TrainingConfig.warm_up`).
    """

    posterior: Posterior
    decoder: Likelihood
    kl_weight: float = 1.0
