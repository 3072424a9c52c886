"""The core of the textbook *Adversarial Variational Bayes*: a small library of exact, tested pieces.

Mathematics (`gaussian`, `bounds`, `divergences`), parts (`networks`, `posteriors`, `decoders`, `critics`, `testbeds`), games,
and what plays them (`training`, `evaluation`, `data`, `runs`). All log-densities, bounds and divergences are in nats.
"""

from avb_core.bounds import elbo, iwlb
from avb_core.check import check
from avb_core.divergences import forward_kl, kl, kl_from_critic, logistic, reverse_kl
from avb_core.gaussian import (
    kl_diagonal,
    kl_full,
    kl_standard_normal,
    log_prob_diagonal,
    log_prob_full,
    log_prob_standard_normal,
    reparameterize,
    reparameterize_full,
)

__all__ = [
    "check",
    "elbo",
    "forward_kl",
    "iwlb",
    "kl",
    "kl_diagonal",
    "kl_from_critic",
    "kl_full",
    "kl_standard_normal",
    "log_prob_diagonal",
    "log_prob_full",
    "log_prob_standard_normal",
    "logistic",
    "reparameterize",
    "reparameterize_full",
    "reverse_kl",
]
