"""Divergences learned by a critic: objectives whose optimal critic is a known function of log q − log p, in nats.

A critic sees samples of q and samples of p and returns one real number for each. Trained to minimize `critic_loss`, it
approaches an optimum from which `log_ratio` reads off log q − log p; the mean of that over samples of q is KL(q ‖ p).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from avb_core._validate import require_floating, require_no_nan


@dataclass(frozen=True)
class CriticObjective:
    """A loss E_q[on_q(T)] + E_p[on_p(T)] for a critic T, and how to read log q − log p off its minimizer."""

    name: str
    source: str
    loss_on_q: Callable[[Tensor], Tensor]
    loss_on_p: Callable[[Tensor], Tensor]
    ratio_from_critic: Callable[[Tensor], Tensor]

    def critic_loss(self, on_q: Float[Tensor, "*n"], on_p: Float[Tensor, "*m"]) -> Float[Tensor, ""]:
        """The loss that the critic minimizes, from its outputs on samples of q and on samples of p.

        Raises ValueError for an empty sample or NaN.
        """
        _require_outputs("on_q", on_q)
        _require_outputs("on_p", on_p)
        return self.loss_on_q(on_q).mean() + self.loss_on_p(on_p).mean()

    def log_ratio(self, critic_output: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """log q − log p, exact where the critic is optimal."""
        require_floating("critic_output", critic_output, min_ndim=0)
        return self.ratio_from_critic(critic_output)

    def __repr__(self) -> str:
        return f"{self.name} ({self.source})"


# T* = log q − log p. Logits, never probabilities: log σ(T) = −softplus(−T) keeps its gradient where σ(T) rounds to 0 or 1.
logistic = CriticObjective(
    "logistic",
    "Mescheder et al., eq. 3.3",
    loss_on_q=lambda t: softplus(-t),
    loss_on_p=lambda t: softplus(t),
    ratio_from_critic=lambda t: t,
)

# T* = 1 + log q − log p: the variational form of KL(q ‖ p) with conjugate f*(t) = exp(t − 1).
kl = CriticObjective(
    "kl",
    "Mescheder et al., eq. 5.10",
    loss_on_q=lambda t: -t,
    loss_on_p=lambda t: torch.exp(t - 1),
    ratio_from_critic=lambda t: t - 1,
)

# D* = log p − log q. With T = 1 − D this is `kl`: the same bound, a critic of the opposite sign.
reverse_kl = CriticObjective(
    "reverse_kl",
    "Fickinger, eq. 6",
    loss_on_q=lambda d: d - 1,
    loss_on_p=lambda d: torch.exp(-d),
    ratio_from_critic=lambda d: -d,
)

# D* = 1 + log q − log p, for pairs (x, z) from the inference joint q and from the model p: `kl` again, in the role in which
# Fickinger uses it. 'Forward' there because q holds the data and p the decoder.
forward_kl = CriticObjective("forward_kl", "Fickinger, eq. 14", kl.loss_on_q, kl.loss_on_p, kl.ratio_from_critic)


def kl_from_critic(objective: CriticObjective, on_q: Float[Tensor, "*n"]) -> Float[Tensor, ""]:
    """KL(q ‖ p) = E_q[log q − log p] read off a critic's outputs on samples of q.

    An estimate and not a bound: a critic short of its optimum errs in either direction. Raises ValueError for an empty sample
    or NaN.
    """
    _require_outputs("on_q", on_q)
    return objective.log_ratio(on_q).mean()


def _require_outputs(name: str, output: Tensor) -> None:
    require_floating(name, output, min_ndim=0)
    if output.numel() == 0:
        raise ValueError(f"{name}: expected at least one critic output, got shape {tuple(output.shape)}")
    require_no_nan(name, output)
