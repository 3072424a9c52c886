"""Divergences learned by a critic: objectives whose optimal critic is a known function of log q − log p, in nats.

A critic sees samples of q and samples of p and returns one real number for each. Trained to minimize `critic_loss`, it
approaches an optimum from which `log_ratio` reads off log q − log p; the mean of that over samples of q is KL(q ‖ p).
Every f-divergence has such an objective; `F_DIVERGENCES` lists those whose critic tells the ratio.
"""

import math
from collections.abc import Callable, Mapping
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

    def __reduce__(self) -> str:
        # What cannot be pickled by its functions can be by its name, where it has one in this module.
        return self.name


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


@dataclass(frozen=True)
class FDivergence:
    """D_f(q ‖ p) = E_p f(q/p) for a convex f with f(1) = 0, as the supremum over critics T of E_q T − E_p f*(T).

    Nguyen, Wainwright and Jordan (2010); Mescheder et al., eqs. 5.6–5.8. Its functions take the log ratio r = log q − log p
    wherever a ratio is meant, so that none overflows before its value does. The supremum is attained at the `critic`
    T* = f′(e^r), which rises with r and therefore tells it: `log_ratio` is its inverse on the conjugate's domain.
    """

    name: str
    generator: Callable[[Tensor], Tensor]
    """r ↦ f(e^r)."""
    critic: Callable[[Tensor], Tensor]
    """r ↦ f′(e^r), the optimal critic."""
    conjugate: Callable[[Tensor], Tensor]
    """t ↦ f*(t) = sup_u (t u − f(u)), for t within `domain`."""
    log_ratio: Callable[[Tensor], Tensor]
    """t ↦ r, the inverse of `critic`."""
    penalty: Callable[[Tensor], Tensor]
    """r ↦ f*(f′(e^r)), written so that nothing cancels."""
    domain: tuple[float, float]
    """The open interval of t in which a critic's values lie."""

    @property
    def objective(self) -> CriticObjective:
        """The loss −E_q T + E_p f*(T) of T = f′(e^r) for a network that puts out the log ratio r itself.

        T stays in the conjugate's domain by itself, and all divergences have the same optimum r = log q − log p.
        """
        return CriticObjective(
            self.name,
            "Mescheder et al., eq. 5.7",
            loss_on_q=lambda r: -self.critic(r),
            loss_on_p=self.penalty,
            ratio_from_critic=lambda r: r,
        )


def _finite(r: Tensor) -> Tensor:
    """Infinite log ratios, where one of the densities is 0, as the largest numbers there are: 0 · ∞ and ∞ − ∞ have no value."""
    largest = torch.finfo(r.dtype).max
    return r.clamp(-largest, largest)


_F_DIVERGENCES = (
    FDivergence(
        "KL",
        generator=lambda r: _finite(r) * torch.exp(r),
        critic=lambda r: 1 + r,
        conjugate=lambda t: torch.exp(t - 1),
        log_ratio=lambda t: t - 1,
        penalty=torch.exp,
        domain=(-math.inf, math.inf),
    ),
    FDivergence(
        "reverse KL",
        generator=lambda r: -r,
        critic=lambda r: -torch.exp(-r),
        conjugate=lambda t: -1 - torch.log(-t),
        log_ratio=lambda t: -torch.log(-t),
        penalty=lambda r: r - 1,
        domain=(-math.inf, 0.0),
    ),
    FDivergence(
        "Jensen–Shannon",
        # ½ [u log u − (u + 1) log((u + 1)/2)]: the mean of the two KLs to the half-and-half mixture, at most log 2.
        generator=lambda r: (
            0.5 * (torch.exp(r) * (math.log(2) - softplus(-_finite(r))) - softplus(_finite(r)) + math.log(2))
        ),
        critic=lambda r: 0.5 * (math.log(2) - softplus(-r)),
        conjugate=lambda t: -0.5 * torch.log(2 - torch.exp(2 * t)),
        log_ratio=lambda t: 2 * t - torch.log(2 - torch.exp(2 * t)),
        penalty=lambda r: 0.5 * (softplus(r) - math.log(2)),
        domain=(-math.inf, 0.5 * math.log(2)),
    ),
    FDivergence(
        "squared Hellinger",
        generator=lambda r: torch.expm1(r / 2).square(),
        critic=lambda r: -torch.expm1(-r / 2),
        conjugate=lambda t: t / (1 - t),
        log_ratio=lambda t: -2 * torch.log1p(-t),
        penalty=lambda r: torch.expm1(r / 2),
        domain=(-math.inf, 1.0),
    ),
    FDivergence(
        "Pearson χ²",
        generator=lambda r: torch.expm1(r).square(),
        critic=lambda r: 2 * torch.expm1(r),
        # The conjugate of f on u ≥ 0; below t = −2 the supremum is at u = 0 and the ratio is lost.
        conjugate=lambda t: t + t.square() / 4,
        log_ratio=lambda t: torch.log1p(t / 2),
        penalty=lambda r: torch.expm1(2 * r),
        domain=(-2.0, math.inf),
    ),
    FDivergence(
        "Neyman χ²",
        generator=lambda r: (2 * torch.sinh(r / 2)).square(),
        critic=lambda r: -torch.expm1(-2 * r),
        conjugate=lambda t: 2 - 2 * torch.sqrt(1 - t),
        log_ratio=lambda t: -0.5 * torch.log1p(-t),
        penalty=lambda r: -2 * torch.expm1(-r),
        domain=(-math.inf, 1.0),
    ),
)

F_DIVERGENCES: Mapping[str, FDivergence] = {divergence.name: divergence for divergence in _F_DIVERGENCES}
"""The f-divergences whose critic tells the ratio, by name. KL's objective is that of `kl` with T = 1 + r, Jensen–Shannon's is
half of `logistic`'s less log 2."""


def _require_outputs(name: str, output: Tensor) -> None:
    require_floating(name, output, min_ndim=0)
    if output.numel() == 0:
        raise ValueError(f"{name}: expected at least one critic output, got shape {tuple(output.shape)}")
    require_no_nan(name, output)
