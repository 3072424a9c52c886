"""Lower bounds on log p(x), in nats, from importance weights kept in log space.

`log_weights` has shape (k, …): log p(x, z_j) − log q(z_j | x) for z_1 … z_k drawn from q(z | x), the importance sample first.
"""

import math

from jaxtyping import Float
from torch import Tensor

from avb_core._validate import require_floating, require_no_nan


def elbo(log_weights: Float[Tensor, "k *batch"]) -> Float[Tensor, "*batch"]:
    """Evidence lower bound E_q[log p(x, z) − log q(z | x)], estimated by the mean over the k samples.

    Mescheder et al., eq. 2.1; Hajimiri, eq. 8. Raises ValueError for k = 0, a missing sample axis, or NaN.
    """
    _require_log_weights(log_weights)
    return log_weights.mean(0)


def iwlb(log_weights: Float[Tensor, "k *batch"]) -> Float[Tensor, "*batch"]:
    """Importance weighted lower bound L_k = E log (1/k) Σ_j p(x, z_j)/q(z_j | x), one draw of it.

    Equal to the ELBO at k = 1 and no smaller for k > 1 (Scicluna, 2a–2b). Raises ValueError for k = 0, a missing sample axis,
    or NaN.
    """
    _require_log_weights(log_weights)
    return log_weights.logsumexp(0) - math.log(log_weights.shape[0])


def bits_per_dimension(log_likelihood: float, dimensions: int) -> float:
    """−log₂ p(x) per dimension from a log-probability in nats, such as that of an image's levels over all pixels and colours.

    A lower bound on the log-likelihood gives an upper bound. Raises ValueError for dimensions < 1.
    """
    if dimensions < 1:
        raise ValueError(f"dimensions: expected at least 1, got {dimensions}")
    return -log_likelihood / (dimensions * math.log(2))


def _require_log_weights(log_weights: Tensor) -> None:
    require_floating("log_weights", log_weights)
    if log_weights.shape[0] == 0:
        raise ValueError(f"log_weights: expected k ≥ 1 importance samples, got shape {tuple(log_weights.shape)}")
    require_no_nan("log_weights", log_weights)
