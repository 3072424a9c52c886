"""Exact testbeds: small models whose log-likelihood, posterior and ELBO are known, to hold every estimator against.

A discrete model (finite sums), a linear-Gaussian model (linear algebra), the four-point dataset, mixtures of Gaussians to
generate from, whose density is known, and two posteriors to infer, known by one integral each. All figures in nats.
"""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from avb_core._validate import require_floating, require_no_nan
from avb_core.gaussian import HALF_LOG_2PI, kl_full, log_prob_diagonal, log_prob_standard_normal

FOUR_POINTS: Float[Tensor, "4 4"] = torch.eye(4)
"""The four training images of Mescheder et al., Fig. 2, one per row: 2 × 2 pixels of which one is lit. H(X) = log 4."""


@dataclass(frozen=True, eq=False)
class DiscreteModel:
    """z takes nz values and x takes nx values: every expectation of the book is a finite sum.

    `prior` holds p(z), shape (nz,); `likelihood` holds p(x | z), shape (nz, nx), a distribution in each row. Tables of the
    model and of inference models q(z | x) have z on the first axis and x on the last, so conditionals on x have columns that
    sum to 1. Raises ValueError for tables that are no distributions, and for an x that the model cannot generate.
    """

    prior: Float[Tensor, "nz"]
    likelihood: Float[Tensor, "nz nx"]

    def __post_init__(self) -> None:
        _require_distribution("prior", self.prior, ndim=1, axis=0)
        _require_distribution("likelihood", self.likelihood, ndim=2, axis=1)
        if self.prior.shape[0] != self.likelihood.shape[0]:
            shapes = f"{tuple(self.prior.shape)} and {tuple(self.likelihood.shape)}"
            raise ValueError(f"prior, likelihood: expected (nz,) and (nz, nx), got {shapes}")
        impossible = (self.marginal() == 0).nonzero()[:, 0].tolist()
        if impossible:
            raise ValueError(
                f"likelihood: every x needs p(x) > 0 for a posterior to exist, not so in columns {impossible}"
            )

    @classmethod
    def random(cls, nz: int, nx: int, generator: torch.Generator | None = None) -> "DiscreteModel":
        """A model drawn uniformly from all of this size, in double precision (each distribution is Dirichlet(1, …, 1))."""
        prior = torch.empty(nz, dtype=torch.float64).exponential_(generator=generator)
        likelihood = torch.empty(nz, nx, dtype=torch.float64).exponential_(generator=generator)
        return cls(prior / prior.sum(), likelihood / likelihood.sum(1, keepdim=True))

    def joint(self) -> Float[Tensor, "nz nx"]:
        """p(x, z) = p(z) p(x | z)."""
        return self.prior[:, None] * self.likelihood

    def marginal(self) -> Float[Tensor, "nx"]:
        """p(x) = Σ_z p(x, z)."""
        return self.joint().sum(0)

    def posterior(self) -> Float[Tensor, "nz nx"]:
        """p(z | x) = p(x, z) / p(x); each column sums to 1."""
        return self.joint() / self.marginal()

    def elbo(self, q: Float[Tensor, "nz nx"]) -> Float[Tensor, "nx"]:
        """Σ_z q(z | x) [log p(x, z) − log q(z | x)] for each x, with 0 log 0 = 0; −inf where q > 0 = p(x, z).

        Raises ValueError unless the columns of q are distributions over z.
        """
        _require_distribution("q", q, ndim=2, axis=0)
        if q.shape != self.likelihood.shape:
            raise ValueError(f"q: expected shape (nz, nx) = {tuple(self.likelihood.shape)}, got {tuple(q.shape)}")
        return (torch.xlogy(q, self.joint()) - torch.xlogy(q, q)).sum(0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"]]:
        """n independent pairs from the model: values of x and of z, as indices."""
        z = torch.multinomial(self.prior, n, replacement=True, generator=generator)
        x = torch.multinomial(self.likelihood[z], 1, generator=generator)[:, 0]
        return x, z


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """z ~ N(0, I_d), x | z ~ N(W z + b, std² I_n): probabilistic principal component analysis, exact in closed form.

    The posterior precision is I + WᵀW/std². It is never formed: the QR factors of the stacked matrix (W/std, I) give its
    triangular root without squaring a condition number, so narrow posteriors keep their digits. Raises ValueError for shapes
    that do not fit, NaN, or a std that is not positive and finite.
    """

    weight: Float[Tensor, "n d"]
    bias: Float[Tensor, "n"]
    std: float

    def __post_init__(self) -> None:
        for name, tensor, ndim in (("weight", self.weight, 2), ("bias", self.bias, 1)):
            require_floating(name, tensor)
            require_no_nan(name, tensor)
            if tensor.ndim != ndim:
                raise ValueError(f"{name}: expected {ndim} axes, got shape {tuple(tensor.shape)}")
        if self.bias.shape[0] != self.weight.shape[0] or self.bias.dtype != self.weight.dtype:
            given = ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (self.weight, self.bias))
            raise ValueError(f"weight, bias: expected (n, d) and (n,) of one dtype, got {given}")
        if not (0 < self.std < math.inf):
            raise ValueError(f"std: expected a positive finite number, got {self.std}")

    def log_prob(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*#batch d"]) -> Float[Tensor, "*batch"]:
        """log p(x | z) = log N(x; W z + b, std² I)."""
        self._require("x", x, axis=0)
        self._require("z", z, axis=1)
        return log_prob_diagonal(x, z @ self.weight.T + self.bias, x.new_full((1,), self.std).expand(x.shape[-1]))

    def log_joint(self, x: Float[Tensor, "*#batch n"], z: Float[Tensor, "*#batch d"]) -> Float[Tensor, "*batch"]:
        """log p(x, z) = log p(x | z) + log p(z)."""
        return self.log_prob(x, z) + log_prob_standard_normal(z)

    def log_marginal(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """log p(x) = log N(x; b, W Wᵀ + std² I), as log p(x, z) − log p(z | x) at z = the posterior mean.

        Bayes' rule makes the difference the same at every z; at the mean, rounding in z matters least.
        """
        mean, scale_tril = self.posterior(x)
        log_posterior_at_mean = -scale_tril.diagonal().log().sum() - mean.shape[-1] * HALF_LOG_2PI
        return self.log_joint(x, mean) - log_posterior_at_mean

    def posterior(self, x: Float[Tensor, "*batch n"]) -> tuple[Float[Tensor, "*batch d"], Float[Tensor, "d d"]]:
        """Mean and lower-triangular scale of p(z | x) = N(mean(x), L Lᵀ) with L Lᵀ = (I + WᵀW/std²)⁻¹, the same for all x."""
        self._require("x", x, axis=0)
        n, d = self.weight.shape
        identity = torch.eye(d, dtype=self.weight.dtype, device=self.weight.device)
        # (W/std, I) = Q K with K lower-triangular: a QR factorization with its columns taken in reverse order.
        q, r = torch.linalg.qr(torch.cat([self.weight / self.std, identity]).flip(1))
        q, k = q.flip(1), r.flip((0, 1))
        signs = k.diagonal().sign()
        q, k = q * signs, k * signs[:, None]
        scale_tril = torch.linalg.solve_triangular(k, identity, upper=False).tril()
        mean = ((x - self.bias) / self.std) @ q[:n] @ scale_tril.T
        return mean, scale_tril

    def elbo(
        self, x: Float[Tensor, "*#batch n"], mean: Float[Tensor, "*#batch d"], scale_tril: Float[Tensor, "*#batch d d"]
    ) -> Float[Tensor, "*batch"]:
        """ELBO of q(z | x) = N(mean, L Lᵀ): E_q log p(x | z) = log p(x | mean) − |W L|²/(2 std²), less KL(q ‖ p(z))."""
        prior_scale = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)
        kl = kl_full(mean, scale_tril, torch.zeros_like(mean), prior_scale)
        spread = 0.5 * (self.weight @ scale_tril / self.std).square().sum((-2, -1))
        return self.log_prob(x, mean) - spread - kl

    def sample(
        self, n: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "n n_x"], Float[Tensor, "n d"]]:
        """n independent pairs (x, z) from the model."""
        dtype, device = self.weight.dtype, self.weight.device
        z = torch.randn(n, self.weight.shape[1], dtype=dtype, device=device, generator=generator)
        noise = torch.randn(n, self.weight.shape[0], dtype=dtype, device=device, generator=generator)
        return z @ self.weight.T + self.bias + self.std * noise, z

    def _require(self, name: str, tensor: Tensor, axis: int) -> None:
        require_floating(name, tensor)
        require_no_nan(name, tensor)
        if tensor.shape[-1] != self.weight.shape[axis] or tensor.dtype != self.weight.dtype:
            expected = f"(…, {self.weight.shape[axis]}) {self.weight.dtype}"
            raise ValueError(f"{name}: expected {expected}, got {tuple(tensor.shape)} {tensor.dtype}")


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Σ_j weights_j N(means_j, std² I): data for a generator, with a density and modes that are known.

    Raises ValueError for shapes that do not fit, weights that are no distribution, NaN, or a std that is not positive and
    finite.
    """

    means: Float[Tensor, "modes d"]
    std: float
    weights: Float[Tensor, "modes"]

    def __post_init__(self) -> None:
        require_floating("means", self.means)
        require_no_nan("means", self.means)
        if self.means.ndim != 2 or self.means.numel() == 0:
            raise ValueError(f"means: expected shape (modes, d), got {tuple(self.means.shape)}")
        _require_distribution("weights", self.weights, ndim=1, axis=0)
        if self.weights.shape[0] != self.means.shape[0] or self.weights.dtype != self.means.dtype:
            given = ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (self.means, self.weights))
            raise ValueError(f"means, weights: expected (modes, d) and (modes,) of one dtype, got {given}")
        if not (0 < self.std < math.inf):
            raise ValueError(f"std: expected a positive finite number, got {self.std}")

    @classmethod
    def ring(cls, modes: int = 8, radius: float = 2.0, std: float = 0.1) -> "GaussianMixture":
        """Equally likely modes, evenly spaced on a circle around the origin of the plane."""
        if modes < 1:
            raise ValueError(f"modes: expected at least 1, got {modes}")
        angle = torch.arange(modes) * (2 * math.pi / modes)
        return cls(radius * torch.stack([angle.cos(), angle.sin()], -1), std, torch.full((modes,), 1 / modes))

    def log_prob(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """log Σ_j weights_j N(x; means_j, std² I)."""
        return self._log_joint(x).logsumexp(-1)

    def responsibilities(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch modes"]:
        """The probability that x came from each mode, by Bayes' rule."""
        return self._log_joint(x).softmax(-1)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """n independent samples."""
        mode = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(
            n, self.means.shape[1], dtype=self.means.dtype, device=self.means.device, generator=generator
        )
        return self.means[mode] + self.std * noise

    def _log_joint(self, x: Tensor) -> Tensor:
        require_floating("x", x)
        require_no_nan("x", x)
        if x.shape[-1] != self.means.shape[1] or x.dtype != self.means.dtype:
            expected = f"(…, {self.means.shape[1]}) {self.means.dtype}"
            raise ValueError(f"x: expected {expected}, got {tuple(x.shape)} {x.dtype}")
        std = self.means.new_full((self.means.shape[1],), self.std)
        return log_prob_diagonal(x[..., None, :], self.means, std) + self.weights.log()


@dataclass(frozen=True, eq=False)
class EightSchools:
    """Coaching for a test in eight schools (Rubin, 1981), which saw y_j ~ N(θ_j, σ_j²) with θ_j ~ N(μ, τ²).

    With the priors μ ~ N(0, 5²) and log τ ~ N(log 5, 1), a posterior of ten dimensions with a funnel: the smaller τ, the closer
    the θ_j huddle around μ. Given τ all else is Gaussian, so one integral over log τ gives the evidence, every marginal and
    independent samples. `parameters` are (μ, log τ, θ_1, …, θ_8), in points of the test; `codes` z are the same in coordinates
    whose prior is N(0, I): μ = 5 z_1, log τ = log 5 + z_2, θ_j = μ + τ z_{j+2}. Raises ValueError for data that do not fit, or
    for stderrs or scales that are not positive.
    """

    effects: Float[Tensor, "schools"] = field(
        default_factory=lambda: torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=torch.float64)
    )
    stderrs: Float[Tensor, "schools"] = field(
        default_factory=lambda: torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=torch.float64)
    )
    std_of_mean: float = 5.0
    median_of_tau: float = 5.0
    std_of_log_tau: float = 1.0

    def __post_init__(self) -> None:
        for name, tensor in (("effects", self.effects), ("stderrs", self.stderrs)):
            require_floating(name, tensor)
            require_no_nan(name, tensor)
        if self.effects.ndim != 1 or self.effects.shape != self.stderrs.shape:
            shapes = f"{tuple(self.effects.shape)} and {tuple(self.stderrs.shape)}"
            raise ValueError(f"effects, stderrs: expected one number each for every school, got {shapes}")
        if not (self.stderrs > 0).all():
            raise ValueError(f"stderrs: expected positive numbers, got {self.stderrs.tolist()}")
        for name in ("std_of_mean", "median_of_tau", "std_of_log_tau"):
            if not (0 < getattr(self, name) < math.inf):
                raise ValueError(f"{name}: expected a positive finite number, got {getattr(self, name)}")

    @property
    def dim(self) -> int:
        """The number of parameters."""
        return 2 + len(self.effects)

    def log_joint(self, parameters: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """log p(y, μ, log τ, θ): a density in log τ, not in τ."""
        mean, log_tau, theta = parameters[..., :1], parameters[..., 1:2], parameters[..., 2:]
        given_hyperparameters = log_prob_diagonal(theta, mean.expand_as(theta), log_tau.exp().expand_as(theta))
        prior = self._log_prior_of_mean(mean[..., 0]) + self._log_prior_of_log_tau(log_tau[..., 0])
        return self.log_likelihood(theta) + given_hyperparameters + prior

    def log_likelihood(self, theta: Float[Tensor, "*batch schools"]) -> Float[Tensor, "*batch"]:
        """log p(y | θ)."""
        return log_prob_diagonal(self.effects.to(theta), theta, self.stderrs.to(theta))

    def log_joint_of_codes(self, codes: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """log p(y, z) = log p(y | θ(z)) + log N(z; 0, I)."""
        return self.log_likelihood(self.parameters(codes)[..., 2:]) + log_prob_standard_normal(codes)

    def parameters(self, codes: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """(μ, log τ, θ) at the codes z."""
        mean = self.std_of_mean * codes[..., :1]
        log_tau = math.log(self.median_of_tau) + self.std_of_log_tau * codes[..., 1:2]
        return torch.cat([mean, log_tau, mean + log_tau.exp() * codes[..., 2:]], dim=-1)

    def codes(self, parameters: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The codes z of the parameters (μ, log τ, θ): the inverse of `parameters`."""
        mean, log_tau = parameters[..., :1], parameters[..., 1:2]
        code_of_tau = (log_tau - math.log(self.median_of_tau)) / self.std_of_log_tau
        return torch.cat([mean / self.std_of_mean, code_of_tau, (parameters[..., 2:] - mean) / log_tau.exp()], dim=-1)

    def log_evidence(self) -> float:
        """log p(y), by quadrature over log τ."""
        grid, log_density = self._log_tau_and_data()
        return float(log_density.logsumexp(0) + (grid[1] - grid[0]).log())

    def marginal(self, index: int, values: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The exact posterior density of one of the parameters (μ, log τ, θ_1, …) at `values`."""
        if not 0 <= index < self.dim:
            raise ValueError(f"index: expected 0 to {self.dim - 1}, got {index}")
        values = values.double()
        if index == 1:
            return (self._log_of_data(values) + self._log_prior_of_log_tau(values) - self.log_evidence()).exp()
        grid, log_density = self._log_tau_and_data()
        mean, std = self._given_log_tau(grid)
        mean, std = mean[:, max(0, index - 1)], std[:, max(0, index - 1)]
        log_prob = log_prob_diagonal(values[:, None, None], mean[:, None], std[:, None])
        return (log_prob + log_density.log_softmax(0)).logsumexp(-1).exp()

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """n independent samples of the parameters from the posterior."""
        grid, log_density = self._log_tau_and_data()
        log_tau = _sample_on_grid(grid, log_density, n, generator)
        # The θ_j are independent given μ and τ; only their marginals given τ are in `_given_log_tau`.
        mean, std = (each[:, 0] for each in self._given_log_tau(log_tau))
        noise = torch.randn(n, self.dim - 1, dtype=torch.float64, generator=generator)
        mean = mean + std * noise[:, 0]
        share = self._share_of_data(log_tau)
        theta = share * self.effects.double() + (1 - share) * mean[:, None]
        theta = theta + share.sqrt() * self.stderrs.double() * noise[:, 1:]
        return torch.cat([mean[:, None], log_tau[:, None], theta], dim=-1)

    def _log_tau_and_data(self) -> tuple[Float[Tensor, "points"], Float[Tensor, "points"]]:
        """A grid of log τ, ten prior standard deviations to either side, and log p(y, log τ) on it."""
        grid = math.log(self.median_of_tau) + self.std_of_log_tau * torch.linspace(-10, 10, 4001, dtype=torch.float64)
        return grid, self._log_of_data(grid) + self._log_prior_of_log_tau(grid)

    def _share_of_data(self, log_tau: Float[Tensor, "n"]) -> Float[Tensor, "n schools"]:
        """τ²/(τ² + σ_j²): the weight of a school's own effect in the mean of its θ_j."""
        return torch.sigmoid(2 * (log_tau[:, None] - self.stderrs.double().log()))

    def _precision_of_mean(self, log_tau: Float[Tensor, "n"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """Mean and precision of μ given τ and the data."""
        precisions = 1 / (self.stderrs.double().square() + (2 * log_tau[:, None]).exp())
        precision = precisions.sum(-1) + self.std_of_mean**-2
        return (precisions * self.effects.double()).sum(-1) / precision, precision

    def _given_log_tau(self, log_tau: Float[Tensor, "n"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Means and standard deviations of μ and the θ_j given τ and the data."""
        mean, precision = self._precision_of_mean(log_tau)
        share = self._share_of_data(log_tau)
        theta = share * self.effects.double() + (1 - share) * mean[:, None]
        variance = share * self.stderrs.double().square() + (1 - share).square() / precision[:, None]
        return torch.cat([mean[:, None], theta], -1), torch.cat([1 / precision[:, None], variance], -1).sqrt()

    def _log_of_data(self, log_tau: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """log p(y | τ), μ and θ integrated out."""
        mean, precision = self._precision_of_mean(log_tau)
        std = (self.stderrs.double().square() + (2 * log_tau[:, None]).exp()).sqrt()
        at_zero = log_prob_diagonal(self.effects.double(), torch.zeros_like(std), std)
        return at_zero + 0.5 * precision * mean.square() - 0.5 * precision.log() - math.log(self.std_of_mean)

    def _log_prior_of_mean(self, mean: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return -0.5 * (mean / self.std_of_mean).square() - HALF_LOG_2PI - math.log(self.std_of_mean)

    def _log_prior_of_log_tau(self, log_tau: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        standardized = (log_tau - math.log(self.median_of_tau)) / self.std_of_log_tau
        return -0.5 * standardized.square() - HALF_LOG_2PI - math.log(self.std_of_log_tau)


@dataclass(frozen=True, eq=False)
class NoisyRadius:
    """z ~ N(0, I) in the plane, of which only the radius is seen, x = |z| + std · noise: the posterior is a ring.

    Only a steep map of the plane onto itself takes a Gaussian to it. Evidence and samples are exact by one integral over the
    radius. Raises ValueError for a radius or std that is not positive and finite.
    """

    radius: float = 2.0
    std: float = 0.2

    def __post_init__(self) -> None:
        for name in ("radius", "std"):
            if not (0 < getattr(self, name) < math.inf):
                raise ValueError(f"{name}: expected a positive finite number, got {getattr(self, name)}")

    def log_joint(self, z: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
        """log p(x = radius, z)."""
        return self._log_of_radius(torch.linalg.vector_norm(z, dim=-1)) + log_prob_standard_normal(z)

    def log_evidence(self) -> float:
        """log p(x = radius), by quadrature over |z|."""
        grid, log_density = self._radii()
        return float(log_density.logsumexp(0) + (grid[1] - grid[0]).log())

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 2"]:
        """n independent samples of the posterior."""
        r = _sample_on_grid(*self._radii(), n, generator)
        angle = 2 * math.pi * torch.rand(n, dtype=torch.float64, generator=generator)
        return torch.stack([r * angle.cos(), r * angle.sin()], dim=-1)

    def _radii(self) -> tuple[Float[Tensor, "points"], Float[Tensor, "points"]]:
        """A grid of |z| and log p(x, |z|) on it: |z| has the density r exp(−r²/2)."""
        # From the first step on, since the density vanishes at 0; beyond 13 the prior holds less than 1e-36.
        grid = torch.linspace(0, 13, 13001, dtype=torch.float64)[1:]
        return grid, self._log_of_radius(grid) + grid.log() - 0.5 * grid.square()

    def _log_of_radius(self, r: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return -0.5 * ((r - self.radius) / self.std).square() - HALF_LOG_2PI - math.log(self.std)


def _sample_on_grid(
    grid: Float[Tensor, "points"], log_density: Float[Tensor, "points"], n: int, generator: torch.Generator | None
) -> Float[Tensor, "n"]:
    """Samples of a density known on an even grid: a grid point's cell is drawn, then a place within it."""
    cell = torch.multinomial(log_density.softmax(0), n, replacement=True, generator=generator)
    within = torch.rand(n, dtype=grid.dtype, generator=generator) - 0.5
    return grid[cell] + within * (grid[1] - grid[0])


def _require_distribution(name: str, table: Tensor, ndim: int, axis: int) -> None:
    require_floating(name, table)
    if table.ndim != ndim or table.numel() == 0:
        raise ValueError(f"{name}: expected {ndim} non-empty axes, got shape {tuple(table.shape)}")
    require_no_nan(name, table)
    if (table < 0).any():
        raise ValueError(f"{name}: expected probabilities, got the negative entry {table.min().item()}")
    totals = table.sum(axis)
    rounding = 4 * table.shape[axis] * torch.finfo(table.dtype).eps
    if not ((totals - 1).abs() <= rounding).all():
        worst = totals.flatten()[(totals - 1).abs().argmax()].item()
        raise ValueError(f"{name}: expected probabilities that sum to 1 over axis {axis}, got a sum of {worst}")
