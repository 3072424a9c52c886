"""How the answers to the assignment on the ELBO, reparameterization and Gaussian KL are judged."""

from tools.assignments import Check, Mutant, Part, Written


def swap(code: str, *changes: tuple[str, str]) -> str:
    """The code with each old piece replaced by its new one."""
    for old, new in changes:
        assert old in code, old
        code = code.replace(old, new)
    return code


# --- 1b ---------------------------------------------------------------------------------------------------------------

REPARAMETERIZE = """\
def reparameterize(mean, std, noise=None):
    if noise is None:
        noise = torch.randn(torch.broadcast_shapes(mean.shape, std.shape), dtype=mean.dtype)
    return mean + std * noise
"""

GIVEN_NOISE = """\
mean = torch.tensor([[0.5, -1.0, 2.0], [3.0, 0.0, -2.0]], dtype=torch.float64)
std = torch.tensor([[0.3, 2.0, 1.5], [0.8, 0.6, 3.0]], dtype=torch.float64)
noise = torch.tensor([[1.0, -0.5, 2.0], [-1.5, 0.7, 0.2]], dtype=torch.float64)
before = mean.clone()
z = reparameterize(mean, std, noise)
same = bool((reparameterize(mean, std, noise) == z).all())
unchanged = bool((mean == before).all())
found = {"the same z for the same noise": same, "z": z if same else 0, "dtype": str(z.dtype)}
found["mean left as it was"] = unchanged
"""

GRADIENTS = """\
mean = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
std = torch.tensor([0.3, 2.0, 1.5], dtype=torch.float64, requires_grad=True)
noise = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
z = reparameterize(mean, std, noise)
slopes = [None, None]
if z.requires_grad:
    slopes = torch.autograd.grad(z.sum(), [mean, std], allow_unused=True)
found = {"z": z}
for name, slope in zip(("gradient in mean", "gradient in std"), slopes):
    found[name] = torch.zeros(3) if slope is None else slope
"""

LAW = """\
mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
std = torch.tensor([0.5, 2.0], dtype=torch.float64)
n = 20000
z = reparameterize(mean.expand(n, 2), std.expand(n, 2))
e = (z - mean) / std
rows, latents = bool((e[0] != e[1]).all()), bool((e[:, 0] != e[:, 1]).any())
found = {"noise of its own for each row": rows, "noise of its own for each latent": latents}
if rows and latents:
    found["mean of z"] = z.mean(0)
    found["standard deviation of z"] = z.std(0)
    found["correlation of the two latents"] = (e[:, 0] * e[:, 1]).mean()
    found["correlation of neighbouring rows"] = (e[1:] * e[:-1]).mean(0)
    found["fourth moment of the noise, over 3"] = e.pow(4).mean(0) / 3
"""

BROADCAST = """\
mean = torch.tensor([[[1.0, 0.0, 2.0]], [[-1.0, 3.0, 0.5]]])
std = torch.tensor([[0.3, 2.0, 1.5], [0.8, 0.6, 3.0], [1.0, 1.2, 0.1], [0.4, 0.5, 0.7]])
z = reparameterize(mean, std)
found = {"shape of z": z.shape, "dtype": str(z.dtype)}
e = ((z - mean) / std).expand(2, 4, 3)
found["noise of its own along the first axis"] = bool((e[0] - e[1]).abs().min() > 1e-4)
found["noise of its own along the second axis"] = bool((e[:, 0] - e[:, 1]).abs().min() > 1e-4)
noise = torch.linspace(-2, 2, 120).reshape(5, 2, 4, 3)
found["five samples for given noise"] = reparameterize(mean, std, noise)
"""

PART_1B = Part(
    "1b",
    "A sample that gradients pass through",
    6,
    checks=[
        Check("given noise", GIVEN_NOISE),
        Check("gradients", GRADIENTS),
        Check("law of the samples", LAW, within=0.12),
        Check("shapes that broadcast", BROADCAST, hidden=True),
    ],
    mutants=[
        Mutant(
            "You multiply the noise by the variance; its standard deviation must become σ, so it is multiplied by σ.",
            swap(REPARAMETERIZE, ("std *", "std**2 *")),
        ),
        Mutant(
            "You take the square root of std. It is a standard deviation already, not a variance.",
            swap(REPARAMETERIZE, ("std *", "std.sqrt() *")),
        ),
        Mutant(
            "You read std as a log-variance, as many encoders put it out. Here it is the standard deviation itself.",
            swap(REPARAMETERIZE, ("std *", "(0.5 * std).exp() *")),
        ),
        Mutant(
            "You read std as log σ, as many encoders put it out. Here it is the standard deviation itself.",
            swap(REPARAMETERIZE, ("std *", "std.exp() *")),
        ),
        Mutant(
            "Your z moves against the noise. The law is the same, but z = mean + std · noise was asked for.",
            swap(REPARAMETERIZE, ("mean + std", "mean - std")),
        ),
        Mutant(
            "You draw noise of your own even when noise is given, so no computation can be repeated with the same noise.",
            swap(REPARAMETERIZE, ("    if noise is None:\n        noise", "    noise")),
        ),
        Mutant(
            "You change the caller's mean in place. The next use of the same mean would start from the last sample.",
            swap(REPARAMETERIZE, ("return mean + std * noise", "mean += std * noise\n    return mean")),
        ),
        Mutant(
            "No gradient reaches mean or std. The sample has to be computed from them with autograd watching.",
            swap(REPARAMETERIZE, ("return mean + std * noise", "return (mean + std * noise).detach()")),
        ),
        Mutant(
            "No gradient reaches std: somewhere it is detached, and the encoder would never learn how sure to be.",
            swap(REPARAMETERIZE, ("std *", "std.detach() *")),
        ),
        Mutant(
            "Your noise is uniform on (0, 1). It must be standard normal: mean 0, variance 1, and Gaussian.",
            swap(REPARAMETERIZE, ("randn", "rand")),
        ),
        Mutant(
            "All rows of the batch share one draw of the noise. Their samples must be independent of each other.",
            swap(REPARAMETERIZE, ("torch.broadcast_shapes(mean.shape, std.shape)", "mean.shape[-1]")),
        ),
        Mutant(
            "All latent variables of a row share one number. A diagonal covariance needs independent noise in each.",
            swap(
                REPARAMETERIZE,
                (
                    "torch.broadcast_shapes(mean.shape, std.shape), dtype=mean.dtype)",
                    "(*torch.broadcast_shapes(mean.shape, std.shape)[:-1], 1), dtype=mean.dtype)",
                ),
            ),
        ),
        Mutant(
            "Your noise has the shape of mean alone. Where std has more rows than mean, several rows share their noise.",
            swap(REPARAMETERIZE, ("torch.broadcast_shapes(mean.shape, std.shape)", "mean.shape")),
        ),
    ],
    alternatives=[
        """\
def reparameterize(mean, std, noise=None):
    mean, std = torch.broadcast_tensors(mean, std)
    return torch.addcmul(mean, std, torch.randn_like(std) if noise is None else noise)
""",
        """\
def reparameterize(mean, std, noise=None):
    if noise is None:
        noise = torch.empty((mean + std).shape, dtype=mean.dtype).normal_()
    scaled = torch.einsum("...i,...i->...i", std.expand_as(noise), noise)
    return scaled + mean
""",
        """\
def reparameterize(mean, std, noise=None):
    if noise is None:
        _ = torch.randn(17)
        noise = -torch.randn((mean + std).shape).flip(-1).to(mean.dtype)
    return torch.stack([mean[..., i] + std[..., i] * noise[..., i] for i in range(noise.shape[-1])], -1)
""",
        """\
def reparameterize(mean, std, noise=None):
    if noise is None:
        return torch.distributions.Normal(mean, std).rsample()
    return mean + noise * std
""",
    ],
    seconds=10,
)

# --- 2a ---------------------------------------------------------------------------------------------------------------

LOG_PROB = """\
def log_prob_diagonal(z, mean, std):
    quadratic = -0.5 * ((z - mean) / std) ** 2
    return (quadratic - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
"""

POINTS = """\
z = torch.tensor([[0.7, -1.2, 0.1, 2.0], [1.5, 0.3, -0.8, 0.4], [-2.0, 1.0, 0.6, -0.5]], dtype=torch.float64)
mean = torch.tensor([[0.5, -1.0, 1.0, 0.0], [3.0, 0.0, -2.0, 0.3], [0.2, 0.4, 0.6, -0.8]], dtype=torch.float64)
std = torch.tensor([[0.3, 2.0, 1.5, 0.7], [0.8, 0.6, 3.0, 0.4], [1.3, 0.9, 0.5, 2.5]], dtype=torch.float64)
"""

PART_2A = Part(
    "2a",
    "The log-density of a diagonal Gaussian",
    7,
    checks=[
        Check(
            "three points",
            POINTS
            + """\
before = z.clone()
value = log_prob_diagonal(z, mean, std)
found = {"log-density": value, "dtype": str(value.dtype), "z left as it was": bool((z == before).all())}
""",
        ),
        Check(
            "a point without a batch",
            POINTS + 'found = {"log-density": log_prob_diagonal(z[1], mean[1], std[1])}',
        ),
        Check(
            "gradients",
            POINTS
            + """\
mean.requires_grad_(), std.requires_grad_()
slopes = torch.autograd.grad(log_prob_diagonal(z, mean, std).sum(), [mean, std], allow_unused=True)
found = {"gradient in mean": slopes[0], "gradient in std": slopes[1]}
""",
        ),
        Check(
            "60 standard deviations from the mean, single precision",
            """\
z = torch.linspace(-6, 6, 50).expand(2, 50)
found = {"log-density": log_prob_diagonal(z, torch.zeros(2, 50), torch.full((2, 50), 0.1))}
""",
            within=1e-5,
        ),
        Check(
            "two batch axes that broadcast",
            POINTS
            + """\
value = log_prob_diagonal(z[:, None].float(), mean.float(), std[0].float())
found = {"log-density": value, "dtype": str(value.dtype)}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "You take the mean over the coordinates. A product of densities has the sum of their logarithms.",
            swap(LOG_PROB, (".sum(-1)", ".mean(-1)")),
        ),
        Mutant(
            "The constant −½ log 2π is missing. Without it this is not the logarithm of a density.",
            swap(LOG_PROB, (" - 0.5 * math.log(2 * math.pi)", "")),
        ),
        Mutant(
            "The constant −½ log 2π comes once. There is one for every coordinate, since each has a normalizer.",
            swap(
                LOG_PROB,
                (" - 0.5 * math.log(2 * math.pi)).sum(-1)", ").sum(-1) - 0.5 * math.log(2 * math.pi)"),
            ),
        ),
        Mutant(
            "The term −log σ is missing. The wider a Gaussian, the lower its density must be.",
            swap(LOG_PROB, (" - std.log()", "")),
        ),
        Mutant(
            "Log σ has the wrong sign. The normalizer stands in the denominator: the wider, the lower.",
            swap(LOG_PROB, ("- std.log()", "+ std.log()")),
        ),
        Mutant(
            "You use std as a variance. It is the standard deviation.",
            swap(LOG_PROB, ("/ std) ** 2", "/ std.sqrt()) ** 2"), ("std.log()", "0.5 * std.log()")),
        ),
        Mutant(
            "Your squared distance is divided by σ once. The whole quotient (z − mean)/σ is squared.",
            swap(LOG_PROB, ("((z - mean) / std) ** 2", "(z - mean) ** 2 / std")),
        ),
        Mutant(
            "The factor ½ in front of the squared distance is missing.",
            swap(LOG_PROB, ("-0.5 * ((z", "-1.0 * ((z")),
        ),
        Mutant(
            "You sum over the batch too. Every point has a log-density of its own; only the last axis is summed.",
            swap(LOG_PROB, (".sum(-1)", ".sum()")),
        ),
        Mutant(
            "You return a number for every coordinate. The point has one log-density: the sum over the last axis.",
            swap(LOG_PROB, (".sum(-1)", "")),
        ),
        Mutant(
            "You return the density, not its logarithm.",
            swap(LOG_PROB, (".sum(-1)", ".sum(-1).exp()")),
        ),
        Mutant(
            "You take the logarithm of a density, and far from the mean the density is rounded to 0. Stay in logarithms.",
            swap(LOG_PROB, ("return (", "return ("), (".sum(-1)", ".exp().prod(-1).log()")),
        ),
    ],
    alternatives=[
        """\
def log_prob_diagonal(z, mean, std):
    return torch.distributions.Normal(mean, std).log_prob(z).sum(dim=-1)
""",
        """\
def log_prob_diagonal(z, mean, std):
    shape = torch.broadcast_shapes(z.shape, mean.shape, std.shape)
    e = ((z - mean) / std).expand(shape)
    log_volume = std.expand(shape).log().sum(-1)
    return -0.5 * torch.einsum("...i,...i->...", e, e) - log_volume - 0.5 * shape[-1] * math.log(2 * math.pi)
""",
        """\
def log_prob_diagonal(z, mean, std):
    total = 0
    for each_z, each_mean, each_std in zip(z.unbind(-1), mean.unbind(-1), std.unbind(-1)):
        variance = each_std.square()
        total = total - 0.5 * (each_z - each_mean).square() / variance - 0.5 * (2 * math.pi * variance).log()
    return total
""",
    ],
    seconds=10,
)

# --- 2c ---------------------------------------------------------------------------------------------------------------

KL = """\
def kl_standard_normal(mean, std):
    return 0.5 * (mean**2 + std**2 - 1 - 2 * std.log()).sum(-1)
"""

PART_2C = Part(
    "2c",
    "The KL to the prior, in code",
    7,
    checks=[
        Check(
            "three Gaussians",
            POINTS
            + """\
before = mean.clone()
value = kl_standard_normal(mean, std)
found = {"KL": value, "dtype": str(value.dtype), "mean left as it was": bool((mean == before).all())}
""",
        ),
        Check(
            "a Gaussian without a batch, and the prior itself",
            POINTS
            + """\
found = {"KL": kl_standard_normal(mean[1], std[1])}
found["KL of the prior"] = kl_standard_normal(torch.zeros(3), torch.ones(3))
""",
        ),
        Check(
            "gradients",
            POINTS
            + """\
mean.requires_grad_(), std.requires_grad_()
slopes = torch.autograd.grad(kl_standard_normal(mean, std).sum(), [mean, std], allow_unused=True)
found = {"gradient in mean": slopes[0], "gradient in std": slopes[1]}
""",
        ),
        Check(
            "σ = 1e-30 in single precision",
            """\
std = torch.tensor([[1e-30, 0.5, 2.0], [0.7, 0.5, 2.0]])
found = {"KL": kl_standard_normal(torch.tensor([0.5, 1.0, 0.3]).expand(2, 3), std)}
""",
        ),
        Check(
            "shapes that broadcast, from very wide to very narrow",
            POINTS
            + """\
value = kl_standard_normal(mean[:, None].float(), std.float())
found = {"KL": value, "dtype": str(value.dtype)}
wide = kl_standard_normal(torch.zeros(2), torch.tensor([1e15, 1e-25]))
found["KL of a wide Gaussian, over 1e30"] = wide.double() / 1e30
found["KL of a narrow one"] = kl_standard_normal(torch.tensor([2.0]), torch.tensor([1e-28]))
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "Your KL is a mean over the latent variables. The KL of independent variables is the sum of their KLs.",
            swap(KL, (".sum(-1)", ".mean(-1)")),
        ),
        Mutant("The factor ½ is missing.", swap(KL, ("0.5 * ", ""))),
        Mutant(
            "The −1 in each term is missing: the KL of the prior to itself would not be 0.",
            swap(KL, (" - 1", "")),
        ),
        Mutant(
            "Inside the bracket stands log σ², which is 2 log σ. You subtract log σ once.",
            swap(KL, ("2 * std.log()", "std.log()")),
        ),
        Mutant(
            "The sign is turned: that is −KL, as it stands in the ELBO. A KL is never negative.",
            swap(KL, ("0.5 *", "-0.5 *")),
        ),
        Mutant(
            "Log σ² has the wrong sign. A posterior much narrower than the prior must have a large KL.",
            swap(KL, ("- 2 *", "+ 2 *")),
        ),
        Mutant(
            "You use std as a variance. It is the standard deviation: its square stands in the formula.",
            swap(KL, ("std**2", "std"), ("2 * std.log()", "std.log()")),
        ),
        Mutant(
            "You read std as a log-variance. It is the standard deviation itself.",
            swap(KL, ("std**2", "std.exp()"), ("2 * std.log()", "std")),
        ),
        Mutant(
            "That is KL(p ‖ q), from the prior to q. The ELBO has KL(q ‖ p), with the expectation under q.",
            swap(KL, ("mean**2 + std**2 - 1 - 2 * std.log()", "(mean**2 + 1) / std**2 - 1 + 2 * std.log()")),
        ),
        Mutant(
            "The mean enters without its square. Only then is the KL the same for μ and −μ.",
            swap(KL, ("mean**2", "mean")),
        ),
        Mutant(
            "You sum over the batch too. Every Gaussian has a KL of its own; only the last axis is summed.",
            swap(KL, (".sum(-1)", ".sum()")),
        ),
        Mutant(
            "You return a number for every latent variable. Their sum, over the last axis, is the KL.",
            swap(KL, (".sum(-1)", "")),
        ),
        Mutant(
            "You take the logarithm of σ², and for a tiny σ the square is rounded to 0. Take the logarithm of σ itself.",
            swap(KL, ("2 * std.log()", "(std**2).log()")),
        ),
        Mutant(
            "You keep σ away from 0 by adding or clamping a small number. That changes the KL of a narrow posterior.",
            swap(KL, ("std.log()", "std.clamp(min=1e-8).log()")),
        ),
    ],
    alternatives=[
        """\
def kl_standard_normal(mean, std):
    q = torch.distributions.Normal(*torch.broadcast_tensors(mean, std))
    log_std = std.log()
    return (0.5 * torch.expm1(2 * log_std) - log_std + 0.5 * q.mean.square()).sum(-1)
""",
        """\
def kl_standard_normal(mean, std):
    mean, std = torch.broadcast_tensors(mean, std)
    squares = torch.einsum("...i,...i->...", mean, mean) + torch.einsum("...i,...i->...", std, std)
    return 0.5 * squares - 0.5 * mean.shape[-1] - std.log().sum(-1)
""",
        """\
def kl_standard_normal(mean, std):
    cross_entropy = 0.5 * (mean * mean + std * std) + 0.5 * math.log(2 * math.pi)
    entropy = std.log() + 0.5 * math.log(2 * math.pi * math.e)
    return (cross_entropy - entropy).sum(dim=-1)
""",
        """\
def kl_standard_normal(mean, std):
    total = 0
    for i in range(mean.shape[-1]):
        m, s = mean[..., i], std[..., i]
        total = total + (m * m + s * s - 1) / 2 - torch.log(s)
    return total
""",
    ],
    seconds=10,
)

# --- 2d ---------------------------------------------------------------------------------------------------------------

SAMPLED_KL = """\
def monte_carlo_kl(mean, std, k):
    z = mean + std * torch.randn(k, *mean.shape, dtype=mean.dtype)
    log_q = log_prob_diagonal(z, mean, std)
    log_p = log_prob_diagonal(z, torch.zeros_like(mean), torch.ones_like(std))
    terms = log_q - log_p
    return terms.mean(0), terms.std(0) / math.sqrt(k)
"""

# The terms have the exact variance Σ ½ (σ² − 1)² + μ² σ², here 0, about 1 and about 9.4.
GAUSSIANS = """\
mean = torch.tensor([[0.0, 0.0], [1.0, -0.5], [6.0, 0.3], [1.0, -0.5]], dtype=torch.float64)
std = torch.tensor([[1.0, 1.0], [0.6, 1.2], [0.5, 0.8], [0.6, 1.2]], dtype=torch.float64)
"""

PART_2D = Part(
    "2d",
    "A KL by sampling, with its error",
    8,
    checks=[
        Check(
            "estimate of four KLs, 20,000 samples",
            GAUSSIANS
            + """\
estimate, error = monte_carlo_kl(mean, std, 20000)
own = estimate.shape == (4,) and bool(estimate[1] != estimate[3])
found = {"shape": estimate.shape, "samples of its own for each row": own}
if own:
    found["estimate"] = estimate
""",
            within=0.06,
        ),
        Check(
            "standard error",
            GAUSSIANS
            + """\
error = monte_carlo_kl(mean, std, 20000)[1]
found = {"standard error, times √k": error * 20000**0.5, "its logarithm": error[1:].log()}
""",
            within=0.08,
        ),
        Check(
            "far from the prior",
            """\
mean = torch.full((1, 2), 40.0, dtype=torch.float64)
found = {"estimate": monte_carlo_kl(mean, mean / 4000, 1000)[0]}
""",
            within=1e-3,
        ),
        Check(
            "three samples only, averaged over 20,000 cases",
            """\
mean, std = torch.tensor([2.0, -0.5]).repeat(100, 200, 1), torch.tensor([0.6, 1.2]).repeat(100, 200, 1)
estimate, error = monte_carlo_kl(mean, std, 3)
found = {"shape": error.shape, "dtype": str(error.dtype), "average estimate": estimate.mean()}
found["average of k times the squared standard error"] = (3 * error.square()).mean()
""",
            within=0.08,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "The sign is turned: you average log p − log q.",
            swap(SAMPLED_KL, ("log_q - log_p", "log_p - log_q")),
        ),
        Mutant(
            "You sample from the prior. The expectation in KL(q ‖ p) is under q.",
            swap(SAMPLED_KL, ("z = mean + std * torch", "z = torch")),
        ),
        Mutant(
            "You average −log p only, which is a cross-entropy. The entropy of q, the term log q, is missing.",
            swap(SAMPLED_KL, ("terms = log_q - log_p", "terms = -log_p")),
        ),
        Mutant(
            "You divide by the number of latent variables. The log-density of z is a sum over its coordinates.",
            swap(SAMPLED_KL, ("log_q - log_p", "(log_q - log_p) / mean.shape[-1]")),
        ),
        Mutant(
            "You sum over the samples. The estimate of an expectation is their mean.",
            swap(SAMPLED_KL, ("terms.mean(0)", "terms.sum(0)")),
        ),
        Mutant(
            "All entries of the batch share their samples. Each must have samples of its own.",
            swap(SAMPLED_KL, ("torch.randn(k, *mean.shape,", "torch.randn(k, 1, mean.shape[-1],")),
        ),
        Mutant(
            "You average over the batch as well. There is one estimate, and one standard error, for each entry.",
            swap(SAMPLED_KL, ("terms.mean(0), terms.std(0)", "terms.mean(), terms.std()")),
        ),
        Mutant(
            "You return the standard deviation of a single term. An average of k terms strays √k times less.",
            swap(SAMPLED_KL, ("terms.std(0) / math.sqrt(k)", "terms.std(0)")),
        ),
        Mutant(
            "You divide the standard deviation by k. The variance of an average is divided by k, so its root by √k.",
            swap(SAMPLED_KL, ("math.sqrt(k)", "k")),
        ),
        Mutant(
            "Your error comes from the variance of the terms; its square root, the standard deviation, is meant.",
            swap(SAMPLED_KL, ("terms.std(0)", "terms.var(0)")),
        ),
        Mutant(
            "You return the variance of the average. The standard error is its square root, and is in nats.",
            swap(SAMPLED_KL, ("terms.std(0) / math.sqrt(k)", "terms.var(0) / k")),
        ),
        Mutant(
            "You compute densities and take the logarithm of their ratio. Far from the prior both are rounded to 0.",
            swap(SAMPLED_KL, ("log_q - log_p", "(log_q.exp() / log_p.exp()).log()")),
        ),
        Mutant(
            "Your standard deviation of the k terms divides by k. With k − 1 its square is right on average for small k.",
            swap(SAMPLED_KL, ("terms.std(0)", "terms.std(0, correction=0)")),
        ),
    ],
    alternatives=[
        """\
def monte_carlo_kl(mean, std, k):
    q = torch.distributions.Normal(mean, std)
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(std))
    z = q.sample((k,))
    terms = (q.log_prob(z) - p.log_prob(z)).sum(-1)
    centred = terms - terms.mean(0)
    return terms.mean(0), (centred.square().sum(0) / (k - 1) / k).sqrt()
""",
        """\
def monte_carlo_kl(mean, std, k):
    e = torch.randn(*mean.shape, k, dtype=mean.dtype)
    z = mean[..., None] + std[..., None] * e
    terms = (0.5 * z**2 - 0.5 * e**2 - std.log()[..., None]).sum(-2)
    variance, average = torch.var_mean(terms, -1)
    return average, (variance / k).sqrt()
""",
        """\
def monte_carlo_kl(mean, std, k):
    total, squares = 0, 0
    few = min(k, 50)
    for i in range(few):
        n = k // few + (i < k % few)
        z = reparameterize(mean, std, torch.randn(n, *mean.shape, dtype=mean.dtype))
        log_p = -0.5 * (z * z + math.log(2 * math.pi)).sum(-1)
        terms = log_prob_diagonal(z, mean, std) - log_p
        total, squares = total + terms.sum(0), squares + terms.square().sum(0)
    average = total / k
    return average, ((squares - k * average**2).clamp(min=0) / (k - 1) / k).sqrt()
""",
    ],
    seconds=15,
)

# --- 3b ---------------------------------------------------------------------------------------------------------------

BERNOULLI = """\
def bernoulli_log_likelihood(x, logits):
    return (x * logits - softplus(logits)).sum(-1)
"""

PIXELS = """\
x = torch.tensor([[1.0, 0.0, 1.0, 0.3, 0.0], [0.0, 1.0, 0.7, 0.0, 1.0]], dtype=torch.float64)
logits = torch.tensor([[2.0, -1.0, 0.5, 0.2, 1.5], [-0.4, 3.0, -2.0, -0.7, 0.1]], dtype=torch.float64)
"""

PART_3B = Part(
    "3b",
    "The decoder's log-likelihood",
    7,
    checks=[
        Check(
            "two images, some pixels grey, and one without a batch",
            PIXELS
            + """\
before = logits.clone()
value = bernoulli_log_likelihood(x, logits)
found = {"log-likelihood": value, "dtype": str(value.dtype)}
found["log-likelihood of one image"] = bernoulli_log_likelihood(x[1], logits[1])
found["logits left as they were"] = bool((logits == before).all())
""",
        ),
        Check(
            "gradient in the logits",
            PIXELS
            + """\
logits.requires_grad_()
found = {"gradient": torch.autograd.grad(bernoulli_log_likelihood(x, logits).sum(), logits)[0]}
""",
        ),
        Check(
            "logits of ±200",
            """\
x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
logits = torch.tensor([[200.0, -200.0, 0.5], [200.0, -200.0, 2.0]])
found = {"log-likelihood": bernoulli_log_likelihood(x, logits)}
""",
        ),
        Check(
            "logits of ±10,000 and batch axes that broadcast, single precision",
            PIXELS
            + """\
extreme = torch.tensor([[1e4, -1e4, 3.0, 90.0, -0.5], [0.1, 1.0, -2.0, -30.0, 1e4], [1.0, 0.0, 0.2, -1.0, 20.0]])
value = bernoulli_log_likelihood(x[:, None].float(), extreme)
found = {"log-likelihood": value, "dtype": str(value.dtype)}
extreme.requires_grad_()
found["gradient"] = torch.autograd.grad(bernoulli_log_likelihood(x[:1].float(), extreme).sum(), extreme)[0]
""",
            within=2e-3,  # sums of numbers near 10,000 in single precision
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "You take the mean over the pixels. Then a KL that is a sum weighs far too much against it: sum the pixels.",
            swap(BERNOULLI, (".sum(-1)", ".mean(-1)")),
        ),
        Mutant(
            "That is the cross-entropy, the negative log-likelihood: a loss. A log-likelihood of binary pixels is ≤ 0.",
            swap(BERNOULLI, ("(x * logits - softplus(logits))", "(softplus(logits) - x * logits)")),
        ),
        Mutant(
            "Only lit pixels count in your sum. Dark ones have a likelihood as well: the term with 1 − x is missing.",
            swap(BERNOULLI, ("x * logits - softplus(logits)", "-x * softplus(-logits)")),
        ),
        Mutant(
            "You have lit and dark exchanged: σ(ℓ) is the probability that the pixel is 1.",
            swap(BERNOULLI, ("x * logits", "(1 - x) * logits")),
        ),
        Mutant(
            "The sigmoid is applied twice: you hand probabilities to a formula that is meant for logits.",
            swap(BERNOULLI, ("    return", "    logits = logits.sigmoid()\n    return")),
        ),
        Mutant(
            "You round the pixels to 0 and 1. Grey pixels are allowed, and the formula is linear in x.",
            swap(BERNOULLI, ("x * logits", "x.round() * logits")),
        ),
        Mutant(
            "You sum over the batch too. Every image has a log-likelihood of its own; only the last axis is summed.",
            swap(BERNOULLI, (".sum(-1)", ".sum()")),
        ),
        Mutant(
            "You average over pixels and batch, which is what PyTorch's losses do unless told otherwise.",
            swap(BERNOULLI, (".sum(-1)", ".mean()")),
        ),
        Mutant(
            "You return a number for every pixel. The image has one log-likelihood: the sum over the last axis.",
            swap(BERNOULLI, (".sum(-1)", "")),
        ),
        Mutant(
            "The normalizer is missing: x ℓ alone grows without bound. log(1 + exp ℓ) has to be subtracted.",
            swap(BERNOULLI, (" - softplus(logits)", "")),
        ),
        Mutant(
            "You take the logarithm of a sigmoid. For large logits it is rounded to 0 or 1: infinities, or NaN.",
            """\
def bernoulli_log_likelihood(x, logits):
    p = logits.sigmoid()
    return (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)
""",
        ),
        Mutant(
            "You compute exp ℓ, which overflows for large logits. Use softplus, which does not form it.",
            swap(BERNOULLI, ("softplus(logits)", "(1 + logits.exp()).log()"), ("x * logits", "x * logits")),
        ),
        Mutant(
            "You keep probabilities away from 0 and 1 by a small number. That hides how wrong a pixel is, and its slope.",
            """\
def bernoulli_log_likelihood(x, logits):
    p = logits.sigmoid()
    return (x * (p + 1e-8).log() + (1 - x) * (1 - p + 1e-8).log()).sum(-1)
""",
        ),
    ],
    alternatives=[
        """\
def bernoulli_log_likelihood(x, logits):
    x, logits = torch.broadcast_tensors(x, logits)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    return -loss.sum(-1)
""",
        """\
def bernoulli_log_likelihood(x, logits):
    logsigmoid = torch.nn.functional.logsigmoid
    return (x * logsigmoid(logits) + (1 - x) * logsigmoid(-logits)).sum(dim=-1)
""",
        """\
def bernoulli_log_likelihood(x, logits):
    zero = torch.zeros((), dtype=logits.dtype)
    total = 0
    for i in range(logits.shape[-1]):
        total = total + x[..., i] * logits[..., i] - torch.logaddexp(zero, logits[..., i])
    return total
""",
        """\
def bernoulli_log_likelihood(x, logits):
    return torch.distributions.Bernoulli(logits=logits, validate_args=False).log_prob(x).sum(-1)
""",
    ],
    seconds=10,
)

# --- 4a ---------------------------------------------------------------------------------------------------------------

ELBO = """\
def elbo_estimate(x, mean, std, decoder, k):
    z = mean + std * torch.randn(k, *mean.shape, dtype=mean.dtype)
    log_likelihood = decoder.log_prob(x, z)
    return log_likelihood.mean(0) - kl_standard_normal(mean, std)
"""

LINEAR = """\
from avb_core.testbeds import LinearGaussian
weight = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.3, 0.8]], dtype=torch.float64)
model = LinearGaussian(weight, torch.tensor([0.2, 0.0, -0.4], dtype=torch.float64), std=0.8)
x = torch.tensor([[1.0, 0.5, -0.3], [-1.0, 2.0, 0.7]], dtype=torch.float64)
mean = torch.tensor([[0.9, -0.4], [-0.2, 1.6]], dtype=torch.float64)
std = torch.tensor([[0.6, 0.9], [1.1, 0.4]], dtype=torch.float64)
"""

PART_4A = Part(
    "4a",
    "The ELBO, estimated",
    8,
    checks=[
        Check(
            "the ELBO of a linear-Gaussian model, 20,000 samples",
            LINEAR
            + """\
before = mean.clone()
value = elbo_estimate(x, mean, std, model, 20000)
found = {"shape": value.shape, "estimate less the exact ELBO": value - model.elbo(x, mean, torch.diag_embed(std))}
found["mean left as it was"] = bool((mean == before).all())
""",
            within=0.1,
        ),
        Check(
            "its noise, for k = 1 and k = 16",
            LINEAR
            + """\
many = [x[:1].expand(2000, 3), mean[:1].expand(2000, 2), std[:1].expand(2000, 2)]
one, again, sixteen = (elbo_estimate(*many, model, k) for k in (1, 1, 16))
fresh, own = bool((one != again).all()), bool(one[0] != one[1])
found = {"another call gives another estimate": fresh, "samples of its own for each x": own}
if fresh and own:
    found["noise with 1 sample over noise with 16"] = one.std() / sixteen.std()
""",
            within=0.12,
        ),
        Check(
            "gradients",
            LINEAR
            + """\
mean.requires_grad_(), std.requires_grad_()
exact = torch.autograd.grad(model.elbo(x, mean, torch.diag_embed(std)).sum(), [mean, std])
value = elbo_estimate(x, mean, std, model, 20000)
slopes = torch.autograd.grad(value.sum(), [mean, std], allow_unused=True)
found = {}
for name, slope, truth in zip(("mean", "std"), slopes, exact):
    slope = torch.zeros_like(truth) if slope is None else slope
    found[f"gradient in {name}, less the exact one"] = slope - truth
found["estimate less the exact ELBO"] = value - model.elbo(x, mean, torch.diag_embed(std))
""",
            within=0.25,
        ),
        Check(
            "two batch axes, and none, in single precision",
            """\
class Distance:
    def log_prob(self, x, z):
        return -(x - z).square().sum(-1)

x, mean = torch.linspace(-1, 1, 12).reshape(2, 3, 2), torch.linspace(1, 0, 12).reshape(2, 3, 2)
std = torch.linspace(0.2, 1.2, 12).reshape(2, 3, 2)
exact = -((x - mean) ** 2 + std**2 + 0.5 * (mean**2 + std**2 - 1) - std.log()).sum(-1)
value = elbo_estimate(x, mean, std, Distance(), 20000)
found = {"dtype": str(value.dtype), "estimate less the exact ELBO": value - exact}
alone = elbo_estimate(x[1, 2], mean[1, 2], std[1, 2], Distance(), 20000)
found["the same for a single x"] = alone - exact[1, 2]
""",
            within=0.15,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "You add the KL. It is what q costs, and is subtracted.",
            swap(ELBO, ("- kl_", "+ kl_")),
        ),
        Mutant(
            "The KL is missing: that is the reconstruction term alone, and no bound on log p(x).",
            swap(ELBO, (" - kl_standard_normal(mean, std)", "")),
        ),
        Mutant(
            "You divide the KL by the number of latent variables. It is the sum over them.",
            swap(ELBO, ("std)\n", "std) / mean.shape[-1]\n")),
        ),
        Mutant(
            "You sum over the samples. The expectation is estimated by their mean.",
            swap(ELBO, (".mean(0)", ".sum(0)")),
        ),
        Mutant(
            "The sign is turned: that is the negative ELBO, a loss.",
            swap(ELBO, ("return log_likelihood.mean(0) - kl", "return -log_likelihood.mean(0) + kl")),
        ),
        Mutant(
            "You average the likelihoods and take the logarithm. The ELBO is the average of the logarithms.",
            swap(ELBO, ("log_likelihood.mean(0)", "(log_likelihood.logsumexp(0) - math.log(k))")),
        ),
        Mutant(
            "You put the mean of q for the sample. The expectation over z is more than its value at the mean.",
            swap(ELBO, ("mean + std * torch.randn", "mean + 0 * torch.randn")),
        ),
        Mutant(
            "Your z come from the prior. The expectation is under q.",
            swap(ELBO, ("mean + std * torch", "torch")),
        ),
        Mutant(
            "You average over the batch. Each x has an ELBO of its own; the mean is over the samples only.",
            swap(ELBO, ("return ", "value = "), ("std)\n", "std)\n    return value.mean()\n")),
        ),
        Mutant(
            "Your estimate does not get better with k: it uses one sample, however many are asked for.",
            swap(ELBO, ("torch.randn(k,", "torch.randn(1,")),
        ),
        Mutant(
            "All x share their samples of the noise. Each must have samples of its own.",
            swap(ELBO, ("*mean.shape,", "*(1 for _ in mean.shape[:-1]), mean.shape[-1],")),
        ),
        Mutant(
            "The gradient of the reconstruction term does not reach mean and std: the samples are detached.",
            swap(ELBO, ("dtype=mean.dtype)", "dtype=mean.dtype)\n    z = z.detach()")),
        ),
        Mutant(
            "The KL gives no gradient. It depends on mean and std, and they must feel what they cost.",
            swap(ELBO, ("kl_standard_normal(mean, std)", "kl_standard_normal(mean, std).detach()")),
        ),
    ],
    alternatives=[
        """\
def elbo_estimate(x, mean, std, decoder, k):
    total = sum(decoder.log_prob(x, reparameterize(mean, std)) for _ in range(min(k, 100)))
    if k > 100:
        noise = torch.randn(k - 100, *mean.shape, dtype=mean.dtype)
        total = total + decoder.log_prob(x, reparameterize(mean, std, noise)).sum(0)
    return total / k - kl_standard_normal(mean, std)
""",
        """\
def elbo_estimate(x, mean, std, decoder, k):
    e = torch.randn(k, *mean.shape, dtype=mean.dtype)
    z = mean + std * e
    log_weights = decoder.log_prob(x, z) - 0.5 * (z * z).sum(-1) + 0.5 * (e * e).sum(-1) + std.log().sum(-1)
    return log_weights.mean(0)
""",
        """\
def elbo_estimate(x, mean, std, decoder, k):
    z = torch.distributions.Normal(mean, std).rsample((k,))
    q, p = (torch.distributions.Normal(m, s) for m, s in ((mean, std), (0 * mean, 0 * std + 1)))
    kl = torch.distributions.kl_divergence(q, p).sum(-1)
    return (decoder.log_prob(x.expand(k, *x.shape), z) - kl).mean(0)
""",
    ],
    seconds=15,
)

# --- 4b ---------------------------------------------------------------------------------------------------------------

EVIDENCE = """\
def log_evidence(x, weight, bias, std):
    n = len(bias)
    covariance = weight @ weight.T + std**2 * torch.eye(n, dtype=weight.dtype)
    centred = (x - bias)[..., None]
    distance = (centred * torch.linalg.solve(covariance, centred)).sum((-2, -1))
    return -0.5 * (distance + torch.linalg.slogdet(covariance)[1] + n * math.log(2 * math.pi))
"""

MODEL = """\
weight = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.3, 0.8]], dtype=torch.float64)
bias = torch.tensor([0.2, 0.0, -0.4], dtype=torch.float64)
x = torch.tensor([[1.0, 0.5, -0.3], [-1.0, 2.0, 0.7], [0.0, -0.4, 3.0]], dtype=torch.float64)
"""

PART_4B = Part(
    "4b",
    "An evidence that is known",
    8,
    checks=[
        Check(
            "three x, of three pixels and two latents",
            MODEL
            + """\
before = x.clone()
value = log_evidence(x, weight, bias, 0.7)
found = {"log p(x)": value, "dtype": str(value.dtype), "x left as it was": bool((x == before).all())}
""",
        ),
        Check(
            "a single x, as many latents as pixels",
            MODEL + 'found = {"log p(x)": log_evidence(x[1, 1:], weight[1:], bias[1:], 0.7)}',
        ),
        Check(
            "300 pixels with little noise",
            """\
weight = torch.linspace(-1, 1, 600, dtype=torch.float64).reshape(300, 2)
x = weight @ torch.tensor([[1.0, -1.0], [0.3, 0.2]], dtype=torch.float64).T
x = x.T + 0.01 * torch.linspace(-2, 2, 300, dtype=torch.float64).sin()
found = {"log p(x)": log_evidence(x, weight, torch.zeros(300, dtype=torch.float64), 0.01)}
""",
        ),
        Check(
            "two batch axes, more latents than pixels, single precision",
            MODEL
            + """\
value = log_evidence(x[:, None, :2].float() + bias[:2].float(), weight.T.float(), bias[1:].float(), 1.3)
found = {"log p(x)": value, "dtype": str(value.dtype)}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "The noise enters the covariance with its standard deviation. Its variance belongs there.",
            swap(EVIDENCE, ("std**2", "std")),
        ),
        Mutant(
            "The noise is missing from the covariance, which is W Wᵀ alone. With n > d that is singular.",
            swap(EVIDENCE, ("std**2", "1e-9")),
        ),
        Mutant(
            "W Wᵀ is missing from the covariance. x varies with z too, not with the noise alone.",
            swap(EVIDENCE, ("weight @ weight.T", "0")),
        ),
        Mutant(
            "You have Wᵀ W, the covariance of nothing here. The covariance of W z is W Wᵀ.",
            swap(EVIDENCE, ("weight @ weight.T", "weight.T @ weight"), ("torch.eye(n,", "torch.eye(weight.shape[1],")),
        ),
        Mutant(
            "You keep only the diagonal of W Wᵀ. Pixels that depend on the same latent variable are correlated.",
            swap(
                EVIDENCE,
                ("weight @ weight.T", "weight.square().sum(1).diag()"),
            ),
        ),
        Mutant(
            "The bias is not subtracted: x has mean b.",
            swap(EVIDENCE, ("x - bias", "x + 0 * bias")),
        ),
        Mutant(
            "The constant ½ log 2π comes once. There is one for each of the n pixels.",
            swap(EVIDENCE, ("+ n * math", "+ math")),
        ),
        Mutant(
            "The constant ½ n log 2π is missing.",
            swap(EVIDENCE, (" + n * math.log(2 * math.pi)", "")),
        ),
        Mutant(
            "Your constant counts latents. The density is one of x, so n counts the pixels.",
            swap(EVIDENCE, ("+ n *", "+ weight.shape[1] *")),
        ),
        Mutant(
            "The log-determinant is missing. It is what a wide Gaussian loses in height.",
            swap(EVIDENCE, (" + torch.linalg.slogdet(covariance)[1]", "")),
        ),
        Mutant(
            "The log-determinant comes twice. In log p(x) it has the factor ½; if L is the Cholesky factor, "
            "½ log det = Σ log L_ii.",
            swap(EVIDENCE, ("torch.linalg.slogdet", "2 * torch.linalg.slogdet")),
        ),
        Mutant(
            "Half of the log-determinant is missing: log det Σ is twice the sum of the logarithms on L's diagonal.",
            swap(EVIDENCE, ("torch.linalg.slogdet", "0.5 * torch.linalg.slogdet")),
        ),
        Mutant(
            "The log-determinant has the wrong sign: the wider, the lower.",
            swap(EVIDENCE, ("distance + torch", "distance - torch")),
        ),
        Mutant(
            "You form the determinant itself. With many pixels it is rounded to 0, and its logarithm is infinite.",
            swap(EVIDENCE, ("torch.linalg.slogdet(covariance)[1]", "torch.linalg.det(covariance).log()")),
        ),
    ],
    alternatives=[
        """\
def log_evidence(x, weight, bias, std):
    n = weight.shape[0]
    covariance = weight @ weight.T + std**2 * torch.eye(n, dtype=weight.dtype)
    return torch.distributions.MultivariateNormal(bias, covariance).log_prob(x)
""",
        """\
def log_evidence(x, weight, bias, std):
    values, vectors = torch.linalg.eigh(weight @ weight.mT)
    variances = values.clamp(min=0) + std * std
    along = (x - bias) @ vectors
    return -0.5 * (along**2 / variances + variances.log() + math.log(2 * math.pi)).sum(-1)
""",
        """\
def log_evidence(x, weight, bias, std):
    n, d = weight.shape
    precision = torch.eye(d, dtype=weight.dtype) + weight.T @ weight / std**2
    centred = x - bias
    projected = centred @ weight / std**2
    inner = torch.einsum("...i,ij,...j->...", projected, torch.linalg.inv(precision), projected)
    log_det = torch.logdet(precision) + 2 * n * math.log(std)
    return -0.5 * ((centred / std).square().sum(-1) - inner + log_det + n * math.log(2 * math.pi))
""",
    ],
    seconds=15,
)

# --- 5a ---------------------------------------------------------------------------------------------------------------

TRAIN = """\
def train_vae(x, encoder, decoder, steps, learning_rate):
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=learning_rate)
    losses = []
    for _ in range(steps):
        mean, log_std = encoder(x).chunk(2, dim=-1)
        std = log_std.exp()
        noise = torch.randn_like(mean)
        z = mean + std * noise
        loss = (kl_standard_normal(mean, std) - decoder.log_prob(x, z)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
"""

# The first steps are known up to the noise of 8,000 images: with learning rate 0 nothing moves. Gradients that were never set
# back show as a multiple of the right one; an answer that clears them after its steps shows none.
NETWORKS = """\
x = torch.eye(4).repeat(2000, 1)
encoder, network = torch.nn.Linear(4, 4), torch.nn.Linear(2, 4)
with torch.no_grad():
    encoder.weight.copy_(torch.tensor([[1.0, 0, -1, 0.5], [0, 1, 0.5, -1], [0.3, 0, -0.4, 0], [0, -0.5, 0, 0.2]]))
    encoder.bias.copy_(torch.tensor([0.1, -0.2, -0.3, 0.1]))
    network.weight.copy_(torch.tensor([[1.5, 0.0], [0.0, 1.5], [-2.0, 0.3], [0.4, -1.0]]))
    network.bias.copy_(torch.tensor([-0.5, -1.0, -1.0, 0.2]))
decoder = BernoulliDecoder(network)
"""

FIRST_STEPS = (
    NETWORKS
    + """\
losses = train_vae(x, encoder, decoder, 5, 0.0)
found = {"number of losses": len(losses), "first loss": losses[0]}
found["fresh noise at each step"] = len(set(map(float, losses))) == len(losses)
left = [0.0 if p.grad is None else float(p.grad.norm()) for p in (encoder.weight, network.weight)]
encoder.zero_grad(), network.zero_grad()
mean, log_std = encoder(x).chunk(2, -1)
z = mean + log_std.exp() * torch.randn_like(mean)
(kl_standard_normal(mean, log_std.exp()) - decoder.log_prob(x, z)).mean().backward()
for name, before, p in zip(("encoder", "decoder"), left, (encoder.weight, network.weight)):
    found[f"gradients pile up in the {name}"] = before > 2.5 * float(p.grad.norm())
"""
)

# Adam's first step moves each parameter by the learning rate against its gradient's sign.
ONE_STEP = (
    NETWORKS
    + """\
before = [p.detach().clone() for p in (encoder.weight, encoder.bias, network.weight, network.bias)]
train_vae(x, encoder, decoder, 1, 0.01)
after = [p.detach() for p in (encoder.weight, encoder.bias, network.weight, network.bias)]
steps = [(b - a) / 0.01 for a, b in zip(before, after)]
found = {}
# Where the gradient is so small that its sign is uncertain, nothing is compared.
steps[0][2, 3] = steps[1][2] = steps[2][1, 0] = steps[2][2, 0] = 0
for name, step in zip(("encoder's weight", "encoder's bias", "decoder's weight", "decoder's bias"), steps):
    found[f"first step of the {name}, over the learning rate"] = step
"""
)

TRAINED = """\
def trained(lr, steps):
    torch.manual_seed(3)
    encoder, decoder = MLP(4, [48], 4), BernoulliDecoder(MLP(2, [48], 4))
    losses = train_vae(torch.eye(4).repeat(64, 1), encoder, decoder, steps, lr)
    with torch.no_grad():
        mean, log_std = encoder(torch.eye(4)).chunk(2, -1)
        z = mean + log_std.exp() * torch.randn(2000, 4, 2)
        elbo = (decoder.log_prob(torch.eye(4), z) - kl_standard_normal(mean, log_std.exp())).mean()
    return float(elbo), sum(losses[-20:]) / 20

elbo, last = trained(0.02, 200)
found = {"nats that the ELBO falls short of −2.15": max(0.0, -2.15 - elbo)}
found["against the negative ELBO, the last losses are"] = "the same"
if abs(last + elbo) > 0.3:
    found["against the negative ELBO, the last losses are"] = "higher" if last > -elbo else "lower"
"""

PART_5A_MUTANTS = [
    Mutant(
        "You raise the loss: its sign is turned. Adam goes downhill, so it needs the negative ELBO.",
        swap(
            TRAIN,
            (
                "(kl_standard_normal(mean, std) - decoder.log_prob(x, z))",
                "(decoder.log_prob(x, z) - kl_standard_normal(mean, std))",
            ),
        ),
    ),
    Mutant(
        "The KL is missing from the loss: that trains an autoencoder, not a variational one.",
        swap(TRAIN, ("kl_standard_normal(mean, std) -", "-")),
    ),
    Mutant(
        "The KL has the wrong sign in your loss: the codes are pushed away from the prior.",
        swap(TRAIN, ("kl_standard_normal(mean, std) -", "-kl_standard_normal(mean, std) -")),
    ),
    Mutant(
        "You average the log-likelihood over the pixels, against a KL that is a sum. The mean is over images only.",
        swap(TRAIN, ("decoder.log_prob(x, z))", "decoder.log_prob(x, z) / x.shape[-1])")),
    ),
    Mutant(
        "You sum the loss over the images. The mean is asked for, so that it is in nats per image.",
        swap(TRAIN, (".mean()", ".sum()")),
    ),
    Mutant(
        "You decode the mean of q instead of a sample. The encoder then never pays for being unsure.",
        swap(TRAIN, ("z = mean + std * noise", "z = mean")),
    ),
    Mutant(
        "You read the encoder's second half as log-variances. It holds the logarithms of the standard deviations.",
        swap(TRAIN, ("log_std.exp()", "(0.5 * log_std).exp()")),
    ),
    Mutant(
        "You have the encoder's halves exchanged: the means come first.",
        swap(TRAIN, ("mean, log_std =", "log_std, mean =")),
    ),
    Mutant(
        "You draw the noise once and use it at every step. The networks learn that noise by heart.",
        swap(
            TRAIN,
            ("        noise = torch.randn_like(mean)\n", ""),
            ("    losses = []\n", "    losses = []\n    noise = torch.randn_like(encoder(x).chunk(2, -1)[0])\n"),
        ),
    ),
    Mutant(
        "The gradients are never set back to 0, so each step follows the sum of all gradients so far.",
        swap(TRAIN, ("        optimizer.zero_grad()\n", "")),
    ),
    Mutant(
        "Adam does not know the encoder's parameters: only the decoder is trained.",
        swap(TRAIN, ("[*encoder.parameters(), *decoder.parameters()]", "decoder.parameters()")),
    ),
    Mutant(
        "Adam does not know the decoder's parameters: only the encoder is trained.",
        swap(TRAIN, ("[*encoder.parameters(), *decoder.parameters()]", "encoder.parameters()")),
    ),
    Mutant(
        "No gradient of the log-likelihood reaches the encoder: its samples are detached, so it learns the prior only.",
        swap(TRAIN, ("decoder.log_prob(x, z)", "decoder.log_prob(x, z.detach())")),
    ),
    Mutant(
        "No parameter moves. The gradients are there, but no optimizer takes a step.",
        swap(TRAIN, ("        optimizer.step()\n", "")),
    ),
    Mutant(
        "You cut the encoder's output at a fixed place. Half of it are means, whatever the number of latents.",
        swap(TRAIN, ("encoder(x).chunk(2, dim=-1)", "encoder(x)[:, :2], encoder(x)[:, 2:4]")),
    ),
]

PART_5A_ALTERNATIVES = [
    """\
def train_vae(x, encoder, decoder, steps, learning_rate):
    adam = torch.optim.Adam(torch.nn.ModuleList([encoder, decoder]).parameters(), lr=learning_rate, foreach=False)
    history = []
    for step in range(steps):
        out = encoder(x)
        d = out.shape[-1] // 2
        q = torch.distributions.Normal(out[:, :d], out[:, d:].exp())
        z = q.rsample()
        p = torch.distributions.Normal(torch.zeros_like(z), torch.ones_like(z))
        kl = torch.distributions.kl_divergence(q, p).sum(-1)
        loss = kl.mean() - decoder.log_prob(x, z).mean()
        loss.backward()
        adam.step()
        adam.zero_grad()
        history += [loss.item()]
    return history
""",
    """\
def train_vae(x, encoder, decoder, steps, learning_rate):
    parameters = list(decoder.parameters()) + list(encoder.parameters())
    optimizer = torch.optim.Adam(parameters, learning_rate)
    losses = []
    while len(losses) < steps:
        mean, log_std = torch.tensor_split(encoder(x), 2, dim=1)
        z = reparameterize(mean, log_std.exp())
        elbo = decoder.log_prob(x, z) - kl_standard_normal(mean, log_std.exp())
        for parameter, slope in zip(parameters, torch.autograd.grad(elbo.mean(), parameters)):
            parameter.grad = -slope
        optimizer.step()
        losses.append(-elbo.mean().item())
    return losses
""",
    """\
def train_vae(x, encoder, decoder, steps, learning_rate):
    encoder_adam = torch.optim.Adam(encoder.parameters(), lr=learning_rate)
    decoder_adam = torch.optim.Adam(decoder.parameters(), lr=learning_rate)
    losses = torch.zeros(steps)
    for step in range(steps):
        encoder_adam.zero_grad(), decoder_adam.zero_grad()
        mean, log_std = encoder(x).chunk(2, dim=-1)
        e = torch.randn(mean.shape, dtype=mean.dtype)
        z = mean + log_std.exp() * e
        log_q = (-0.5 * e**2 - log_std).sum(-1)
        loss = (log_q + 0.5 * z.square().sum(-1) - decoder.log_prob(x, z)).mean()
        loss.backward()
        encoder_adam.step(), decoder_adam.step()
        losses[step] = loss.detach()
    return losses.tolist()
""",
]

PART_5A = Part(
    "5a",
    "Train a VAE",
    8,
    checks=[
        Check("five steps with learning rate 0", FIRST_STEPS, within=0.05),
        Check("one step of Adam", ONE_STEP, within=0.02),
        Check(
            "200 steps on the four images",
            TRAINED,
            within=0.02,
        ),
        Check(
            "three latents, six pixels, double precision",
            """\
class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factors = torch.nn.Parameter(torch.linspace(-1.5, 1, 6, dtype=torch.float64))

    def log_prob(self, x, z):
        logits = self.factors * z.sum(-1, keepdim=True)
        return (x * logits - torch.nn.functional.softplus(logits)).sum(-1)

_ = torch.manual_seed(1)
encoder = torch.nn.Linear(6, 6).double()
x = (torch.arange(6) < torch.arange(1, 6)[:, None]).double().repeat(4000, 1)
with torch.no_grad():
    encoder.bias.copy_(torch.tensor([1.5, -0.5, 0.2, -1.2, 0.6, 0.4]))
losses = train_vae(x, encoder, Scale(), 2, 0.0)
found = {"number of losses": len(losses), "first loss": losses[0]}
""",
            within=0.015,
            hidden=True,
        ),
    ],
    mutants=PART_5A_MUTANTS,
    alternatives=PART_5A_ALTERNATIVES,
    seconds=60,
)

# --- 5b ---------------------------------------------------------------------------------------------------------------

FIT = """\
def fit_each(x, mean, std, decoder, steps=100, learning_rate=0.05, samples=8):
    mean = mean.detach().clone().requires_grad_()
    log_std = std.detach().log().requires_grad_()
    optimizer = torch.optim.Adam([mean, log_std], lr=learning_rate)
    for _ in range(steps):
        std = log_std.exp()
        z = mean + std * torch.randn(samples, *mean.shape, dtype=mean.dtype)
        loss = (kl_standard_normal(mean, std) - decoder.log_prob(x, z).mean(0)).mean()
        optimizer.zero_grad()
        loss.backward(inputs=[mean, log_std])
        optimizer.step()
    return mean.detach(), log_std.detach().exp()
"""

# For a linear-Gaussian model the best diagonal Gaussian is known: the posterior mean, and the precision's diagonal.
FITTED = """\
from avb_core.testbeds import LinearGaussian
def shortfall(x, start, std, model, **options):
    x, start, std = x.double(), start.double(), std.double()
    mean, std = fit_each(x, start, std, model, **options)
    positive = bool((std > 0).all())
    found = {"shape of the mean": mean.shape, "standard deviations are positive": positive}
    if positive:
        best_mean, tril = model.posterior(x)
        best_std = torch.linalg.inv(tril @ tril.T).diagonal().rsqrt().expand(best_mean.shape)
        best, own = (model.elbo(x, m, torch.diag_embed(s)) for m, s in ((best_mean, best_std), (mean, std)))
        found["nats below the best diagonal Gaussian"] = best - own
    return found
"""

UNTOUCHED = """\
_ = torch.manual_seed(2)
encoder, network = torch.nn.Linear(4, 4), MLP(2, [8], 4)
mean, log_std = encoder(torch.eye(4)).chunk(2, -1)
std = log_std.exp()
handed = [mean, std, network[0].weight, encoder.weight]
before = [each.detach().clone() for each in handed]
new_mean, new_std = fit_each(torch.eye(4), mean, std, BernoulliDecoder(network), steps=5)
names = ("the mean handed in", "the std handed in", "the decoder", "the encoder")
found = {f"{name} is as it was": bool((a == b).all()) for name, a, b in zip(names, handed, before)}
found["the result is without a graph"] = not (new_mean.requires_grad or new_std.requires_grad)
plain = [each.clone() for each in before[:2]]
fit_each(torch.eye(4), *plain, BernoulliDecoder(network), steps=5)
found["plain tensors handed in are as they were"] = all(bool((a == b).all()) for a, b in zip(plain, before))
"""

PART_5B = Part(
    "5b",
    "The best Gaussian for each image",
    8,
    checks=[
        Check(
            "a linear-Gaussian model, where the best is known",
            FITTED
            + """\
weight = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.3, 0.8]], dtype=torch.float64)
model = LinearGaussian(weight, torch.tensor([0.2, 0.0, -0.4], dtype=torch.float64), std=0.8)
x = torch.tensor([[1.0, 0.5, -0.3], [-1.0, 2.0, 0.7], [0.0, -3.0, -2.0]])
start = torch.tensor([[0.5, -1.5], [1.5, 2.0], [0.8, 0.0]])
found = shortfall(x, start, torch.full((3, 2), 0.05), model, steps=150)
""",
            within=0.12,
        ),
        Check("what must stay as it is", UNTOUCHED),
        Check(
            "five pixels and three latents",
            FITTED
            + """\
weight = torch.linspace(-1, 1, 15, dtype=torch.float64).sin().reshape(5, 3) + torch.eye(5, 3)
model = LinearGaussian(weight, torch.zeros(5, dtype=torch.float64), std=0.9)
x = torch.linspace(-2, 2, 60).reshape(12, 5)
found = shortfall(x, torch.ones(12, 3), torch.full((12, 3), 2.0), model, steps=130, samples=6)
""",
            within=0.2,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "You go downhill: Adam minimizes, so it must be given the negative ELBO.",
            swap(FIT, ("(kl_standard_normal(mean, std) -", "-(kl_standard_normal(mean, std) -")),
        ),
        Mutant(
            "The KL is missing from what you climb: the standard deviations shrink towards 0.",
            swap(FIT, ("kl_standard_normal(mean, std) -", "-")),
        ),
        Mutant(
            "You divide the log-likelihood by the number of pixels, and the KL outweighs it. Both are sums.",
            swap(FIT, (".mean(0))", ".mean(0) / x.shape[-1])")),
        ),
        Mutant(
            "You divide the KL by the number of latents. It is the sum over them.",
            swap(FIT, ("kl_standard_normal(mean, std) -", "kl_standard_normal(mean, std) / mean.shape[-1] -")),
        ),
        Mutant(
            "Only the means are fitted. The standard deviations of the start are returned.",
            swap(FIT, ("Adam([mean, log_std]", "Adam([mean]")),
        ),
        Mutant(
            "Only the standard deviations are fitted. The means of the start are returned.",
            swap(FIT, ("Adam([mean, log_std]", "Adam([log_std]")),
        ),
        Mutant(
            "All images share one mean. Each image is to have a Gaussian of its own.",
            swap(
                FIT,
                ("mean = mean.detach().clone()", "n = len(x)\n    mean = mean.detach().mean(0, keepdim=True)"),
                ("        std = log_std.exp()\n", "        std = log_std.exp()\n        mean = own.expand(n, -1)\n"),
                ("    optimizer = torch.optim.Adam([mean", "    own = mean\n    optimizer = torch.optim.Adam([own"),
                ("inputs=[mean", "inputs=[own"),
            ),
        ),
        Mutant(
            "You decode the means instead of samples, so nothing but the KL pulls at the standard deviations.",
            swap(FIT, ("z = mean + std *", "z = mean + 0 * std *")),
        ),
        Mutant(
            "The log-likelihood has no gradient in your Gaussians: the samples are detached. All of them go to the prior.",
            swap(FIT, ("dtype=mean.dtype)", "dtype=mean.dtype)\n        z = z.detach()")),
        ),
        Mutant(
            "You return where you started: no step is taken, or its result is lost.",
            swap(FIT, ("        optimizer.step()\n", "")),
        ),
        Mutant(
            "You return the logarithm of the standard deviations.",
            swap(FIT, ("log_std.detach().exp()", "log_std.detach()")),
        ),
        Mutant(
            "Your Adam moves the decoder as well. It is the Gaussians that are fitted; the decoder is given.",
            swap(
                FIT,
                (
                    "Adam([mean, log_std]",
                    "Adam([mean, log_std, *getattr(decoder, 'parameters', list)()]",
                ),
                ("backward(inputs=[mean, log_std])", "backward()"),
            ),
        ),
        Mutant(
            "Your mean shares its memory with the one you were handed, and Adam changes both. detach() makes no copy.",
            swap(FIT, ("mean.detach().clone()", "mean.detach()")),
        ),
        Mutant(
            "What you return still hangs on the graph. Detach it: the next computation should not lead back here.",
            swap(FIT, ("return mean.detach(), log_std.detach().exp()", "return mean, log_std.exp()")),
        ),
    ],
    alternatives=[
        """\
def fit_each(x, mean, std, decoder, steps=100, learning_rate=0.05, samples=8):
    mean = torch.nn.Parameter(mean.detach().clone())
    raw = torch.nn.Parameter((std.detach().expm1()).log())
    adam = torch.optim.Adam([{"params": [mean]}, {"params": [raw]}], lr=learning_rate)
    for step in range(steps):
        q = torch.distributions.Normal(mean, softplus(raw))
        z = q.rsample((samples,))
        log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        loss = -(decoder.log_prob(x, z) + log_prior + q.entropy().sum(-1)).mean(0).sum()
        mean.grad, raw.grad = torch.autograd.grad(loss, [mean, raw])
        adam.step()
    return mean.data, softplus(raw.data)
""",
        """\
def fit_each(x, mean, std, decoder, steps=100, learning_rate=0.05, samples=8):
    fitted = torch.cat([mean, std.log()], -1).detach().requires_grad_()
    optimizer = torch.optim.Adam([fitted], lr=learning_rate, maximize=True)
    for _ in range(steps):
        m, s = fitted.chunk(2, -1)
        s = s.exp()
        reconstruction = sum(decoder.log_prob(x, reparameterize(m, s)) for _ in range(samples)) / samples
        (fitted.grad,) = torch.autograd.grad((reconstruction - kl_standard_normal(m, s)).sum(), fitted)
        optimizer.step()
    m, s = fitted.detach().chunk(2, -1)
    return m, s.exp()
""",
        """\
def fit_each(x, mean, std, decoder, steps=100, learning_rate=0.05, samples=8):
    mean, log_std = mean.detach().clone(), std.detach().log()
    mean.requires_grad_(), log_std.requires_grad_()
    frozen = [p for p in getattr(decoder, "parameters", list)() if p.requires_grad]
    for p in frozen:
        p.requires_grad_(False)
    optimizer = torch.optim.Adam([log_std, mean], lr=learning_rate)
    for _ in range(steps):
        optimizer.zero_grad()
        e = torch.randn(samples, *mean.shape, dtype=mean.dtype)
        z = mean + log_std.exp() * e
        weights = decoder.log_prob(x, z) - 0.5 * z.square().sum(-1) + log_std.sum(-1)
        (-weights.mean()).backward()
        optimizer.step()
    for p in frozen:
        p.requires_grad_(True)
    return mean.detach(), log_std.exp().detach()
""",
    ],
    seconds=60,
)

RULES = r"torch\.distributions|avb_core|torch\.nn\.(functional\.)?\w*(loss|Loss|cross_entropy|kl_div)"

PARTS = [
    Written(
        "1a",
        "The law of an affine map",
        [
            (2, "writes the characteristic function of ε as a product, using that its coordinates are independent"),
            (2, "moves S to the other side, S^T t, and arrives at exp(i t·μ − ½ t^T S S^T t), with no inverse of S"),
            (
                2,
                "says that a characteristic function determines the law (a proof by densities for invertible S: 4 in all)",
            ),
            (2, "gives non-Gaussian noise with mean 0 and covariance I, and says why z is not Gaussian"),
        ],
    ),
    PART_1B,
    PART_2A,
    Written(
        "2b",
        "The KL to the prior",
        [
            (2, "reduces to one coordinate: log q/p is a sum, and each term depends on its own coordinate"),
            (2, "takes E(z − μ)² = σ² and Ez² = μ² + σ² under q"),
            (2, "collects logarithms and constants to the stated formula"),
            (2, "shows that it is not negative by log t ≤ t − 1, and that it is 0 only for μ = 0 and σ = 1"),
        ],
    ),
    PART_2C,
    PART_2D,
    Written(
        "3a",
        "The ELBO and its gap",
        [
            (2, "applies Jensen's inequality to E_q log w, in the right direction, for the concave logarithm"),
            (1, "says what E_q[w] is: p(x), or at most p(x) where q does not cover the support"),
            (2, "derives the identity log p(x) = ELBO + KL(q ‖ posterior) by Bayes' rule and an expectation under q"),
            (2, "concludes by Gibbs' inequality: tight iff q is the posterior (almost everywhere)"),
            (1, "moving φ only: log p(x) stays, so the gap shrinks by what the bound gains"),
            (1, "moving θ only: log p(x) moves too, so the gap may grow or shrink"),
        ],
    ),
    PART_3B,
    PART_4A,
    PART_4B,
    PART_5A,
    PART_5B,
    Written(
        "5c",
        "Read the plot",
        [
            (
                2,
                "the encoder's Gaussian is a member of the family over which the fit takes the best; for every encoder",
            ),
            (2, "held-out is the bill for new images and several times larger: the encoder is fitted to few images"),
            (2, "only the distance to the diagonal can be repaired by an encoder; the rest is decoder (or family)"),
            (
                2,
                "names the approximation gap, KL(best q ‖ posterior), and a remedy: a richer family, such as AVB or flows",
            ),
        ],
    ),
]
