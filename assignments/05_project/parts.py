"""How the parts of this project are judged."""

from tools.assignments import Check, Mutant, Part, Written

# --- 1b: an exact log ratio ---------------------------------------------------------------------------------------------


def log_ratio(*lines: str) -> str:
    """An answer to 1b from its lines, which know w = L⁻¹(z − m), u, and the logarithms of both volumes."""
    return "\n    ".join(
        [
            "def gaussian_log_ratio(z, mean, scale_tril, contrast_mean, contrast_std):",
            "w = torch.linalg.solve_triangular(scale_tril, (z - mean)[..., None], upper=False)[..., 0]",
            "u = (z - contrast_mean) / contrast_std",
            "log_volume, log_std = scale_tril.diagonal(dim1=-2, dim2=-1).log(), contrast_std.log()",
            *lines,
        ]
    )


PART_1B = Part(
    "1b",
    "An exact log ratio",
    6,
    checks=[
        Check(
            "values",
            """
mean = torch.tensor([[0.3, -0.6], [1.2, 0.4]]).double()
scale_tril = torch.tensor([[[0.5, 0.0], [0.4, 0.8]], [[1.5, 0.0], [-0.7, 0.3]]]).double()
z = torch.tensor([[0.9, -0.1], [0.2, 1.3]]).double()
contrast_mean = torch.tensor([[0.1, -0.2], [0.7, 0.5]]).double()
contrast_std = torch.tensor([[0.7, 1.3], [1.1, 0.4]]).double()
found = {"log ratio": gaussian_log_ratio(z, mean, scale_tril, contrast_mean, contrast_std)}
""",
            within=1e-6,
        ),
        Check(
            "several codes for each image, against the prior, single precision",
            """
mean = torch.linspace(-1, 1, 18).reshape(2, 3, 3)
z = torch.linspace(-2, 1.5, 72).reshape(4, 2, 3, 3)
scale_tril = torch.tensor([[0.6, 0.0, 0.0], [0.2, 0.9, 0.0], [-0.4, 0.3, 0.5]]).expand(2, 3, 3, 3)
before = [mean.clone(), z.clone()]
value = gaussian_log_ratio(z, mean, scale_tril, torch.zeros(3), torch.ones(3))
found = {"shape": list(value.shape), "log ratio": value}
assert torch.equal(mean, before[0]) and torch.equal(z, before[1]), "the answer changes an argument in place"
""",
            within=1e-4,
        ),
        Check(
            "one code, and the gradient in it",
            """
z = torch.tensor([0.5, -0.8]).double().requires_grad_()
scale_tril = torch.tensor([[0.3, 0.0], [0.2, 0.4]]).double()
value = gaussian_log_ratio(z, torch.tensor([0.4, -1.0]).double(), scale_tril, torch.zeros(2).double(),
                           torch.tensor([0.9, 1.2]).double())
found = {"log ratio": value, "gradient in z": torch.autograd.grad(value, z)[0]}
""",
            hidden=True,
        ),
        Check(
            "a narrow posterior and a code far out",
            """
scale_tril = 1e-3 * torch.tensor([[1.0, 0.0], [0.8, 0.6]]).double()
z = torch.tensor([[1.0, 2.0], [1.001, 2.003], [1.6, -40.0]]).double()
value = gaussian_log_ratio(z, torch.tensor([1.0, 2.0]).double(), scale_tril, torch.zeros(2).double(),
                           torch.ones(2).double())
found = {"log ratio": value}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "The sign is turned: that is log of the contrast less log of the Gaussian.",
            log_ratio("return (0.5 * w**2 - 0.5 * u**2 - log_std + log_volume).sum(-1)"),
        ),
        Mutant(
            "You subtract log det of the covariance. A density has its square root: half of that, log det L.",
            log_ratio("return (0.5 * u**2 - 0.5 * w**2 + log_std - 2 * log_volume).sum(-1)"),
        ),
        Mutant(
            "The Gaussian's own volume, log det L, is missing: the narrower a density, the higher.",
            log_ratio("return (0.5 * u**2 - 0.5 * w**2 + log_std).sum(-1)"),
        ),
        Mutant(
            "The contrast's volume is missing: its log std belongs to its log-density.",
            log_ratio("return (0.5 * u**2 - 0.5 * w**2 - log_volume).sum(-1)"),
        ),
        Mutant(
            "Both factors ½ before the squares are missing.",
            log_ratio("return (u**2 - w**2 + log_std - log_volume).sum(-1)"),
        ),
        Mutant(
            "You take a mean over the latent variables. Log-densities add up over them.",
            log_ratio("return (0.5 * u**2 - 0.5 * w**2 + log_std - log_volume).mean(-1)"),
        ),
        Mutant(
            "Only L's diagonal enters your ratio. Off the diagonal L holds the correlations.",
            log_ratio(
                "w = (z - mean) / scale_tril.diagonal(dim1=-2, dim2=-1)",
                "return (0.5 * u**2 - 0.5 * w**2 + log_std - log_volume).sum(-1)",
            ),
        ),
        Mutant(
            "You solve with Lᵀ in the place of L. The covariance is L Lᵀ, so it is L that makes z out of white noise.",
            log_ratio(
                "w = torch.linalg.solve_triangular(scale_tril.mT, (z - mean)[..., None], upper=True)[..., 0]",
                "return (0.5 * u**2 - 0.5 * w**2 + log_std - log_volume).sum(-1)",
            ),
        ),
        Mutant(
            "You multiply by L. To make the codes white, L has to be undone.",
            log_ratio(
                "w = (scale_tril @ (z - mean)[..., None])[..., 0]",
                "return (0.5 * u**2 - 0.5 * w**2 + log_std - log_volume).sum(-1)",
            ),
        ),
        Mutant(
            "That is the Gaussian's log-density alone. The contrast's has to be taken off.",
            log_ratio("return (-0.5 * w**2 - log_volume - 0.5 * math.log(2 * math.pi)).sum(-1)"),
        ),
        Mutant(
            "You compute densities and take the logarithm of their ratio. Far out both are rounded to 0. Subtract "
            "log-densities instead.",
            log_ratio(
                "q = (-0.5 * w**2 - log_volume).sum(-1).exp()",
                "return (q / (-0.5 * u**2 - log_std).sum(-1).exp()).log()",
            ),
        ),
    ],
    alternatives=[
        "def gaussian_log_ratio(z, mean, scale_tril, contrast_mean, contrast_std):\n"
        "    a = torch.distributions.MultivariateNormal(mean, scale_tril=scale_tril)\n"
        "    b = torch.distributions.Normal(contrast_mean, contrast_std)\n"
        "    return a.log_prob(z) - b.log_prob(z).sum(-1)",
        "import math\n"
        "def gaussian_log_ratio(z, mean, scale_tril, contrast_mean, contrast_std):\n"
        "    precision = torch.linalg.inv(scale_tril @ scale_tril.transpose(-1, -2))\n"
        "    deviation = z - mean\n"
        "    square = torch.einsum('...i,...ij,...j->...', deviation, precision, deviation)\n"
        "    constant = 0.5 * z.shape[-1] * math.log(2 * math.pi)\n"
        "    log_q = -0.5 * square + 0.5 * torch.logdet(precision) - constant\n"
        "    log_r = -0.5 * ((z - contrast_mean) ** 2 / contrast_std**2 + 2 * contrast_std.log()).sum(-1) - constant\n"
        "    return log_q - log_r",
        "def gaussian_log_ratio(z, mean, scale_tril, contrast_mean, contrast_std):\n"
        "    white, total = [], 0.0\n"
        "    for i in range(z.shape[-1]):\n"
        "        left = z[..., i] - mean[..., i]\n"
        "        for j in range(i):\n"
        "            left = left - scale_tril[..., i, j] * white[j]\n"
        "        white.append(left / scale_tril[..., i, i])\n"
        "        u = (z[..., i] - contrast_mean[..., i]) / contrast_std[..., i]\n"
        "        total = total + 0.5 * (u - white[i]) * (u + white[i])\n"
        "        total = total + (contrast_std[..., i] / scale_tril[..., i, i]).log()\n"
        "    return total",
    ],
)

# --- 1c: a paired difference and its standard error ---------------------------------------------------------------------


def paired(*lines: str) -> str:
    """An answer to 1c."""
    return "\n    ".join(["def paired_difference(a, b):", *lines])


PART_1C = Part(
    "1c",
    "Seeds and error bars",
    5,
    checks=[
        Check(
            "values",
            """
a = torch.tensor([[1.0, 1.4, 0.9], [2.2, 2.0, 2.9], [0.4, 0.1, 0.3], [1.6, 1.1, 1.3]]).double()
b = torch.tensor([[0.2, 0.5, 0.1], [1.9, 1.1, 1.0], [0.0, 0.2, 0.4], [0.3, 0.9, 0.1]]).double()
before = [a.clone(), b.clone()]
mean, stderr = paired_difference(a, b)
found = {"mean": mean, "standard error": stderr}
assert torch.equal(a, before[0]) and torch.equal(b, before[1]), "the answer changes an argument in place"
""",
            within=1e-6,
        ),
        Check(
            "several settings",
            """
a = torch.linspace(0, 2, 60).reshape(2, 3, 5, 2).sin()
b = torch.linspace(-1, 1, 60).reshape(2, 3, 5, 2).square()
mean, stderr = paired_difference(a, b)
found = {"shape": list(mean.shape), "mean": mean, "standard error": stderr}
""",
        ),
        Check(
            "different numbers of codes",
            """
a = torch.tensor([[1.0, 0.0, 2.0, 4.0], [0.5, 0.5, 1.5, 0.0], [2.0, 3.0, 1.0, 1.0]])
b = torch.tensor([[1.0, 0.0], [0.3, 0.9], [2.0, 1.2]])
mean, stderr = paired_difference(a, b)
found = {"mean": mean, "standard error": stderr}
""",
            hidden=True,
        ),
        Check(
            "two seeds that agree",
            """
mean, stderr = paired_difference(torch.tensor([[1.0, 3.0], [0.0, 4.0]]), torch.tensor([[1.0], [1.0]]))
found = {"mean": mean, "standard error": stderr}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "Your standard error counts every code as a repetition. The codes of a seed share one training: average over "
            "them first, and let the seeds vote.",
            paired("d = a - b", "n = d.shape[-1] * d.shape[-2]", "return d.mean((-2, -1)), d.std((-2, -1)) / n**0.5"),
        ),
        Mutant(
            "You add up the two methods' variances as if their seeds were different. They are the same: take the spread of "
            "the differences, seed by seed.",
            paired(
                "a, b = a.mean(-1), b.mean(-1)",
                "return (a - b).mean(-1), ((a.var(-1) + b.var(-1)) / a.shape[-1]).sqrt()",
            ),
        ),
        Mutant(
            "That is the standard deviation between seeds. The standard error of their mean shrinks with the number of seeds.",
            paired("d = a.mean(-1) - b.mean(-1)", "return d.mean(-1), d.std(-1)"),
        ),
        Mutant(
            "You divide by the number of seeds. Variances shrink like 1/n, so standard deviations like 1/√n.",
            paired("d = a.mean(-1) - b.mean(-1)", "return d.mean(-1), d.std(-1) / d.shape[-1]"),
        ),
        Mutant(
            "Your variance has n in its denominator; with few seeds that makes the error bar too short.",
            paired("d = a.mean(-1) - b.mean(-1)", "return d.mean(-1), d.std(-1, correction=0) / d.shape[-1] ** 0.5"),
        ),
        Mutant(
            "That is b − a: the sign of the difference is turned.",
            paired("d = b.mean(-1) - a.mean(-1)", "return d.mean(-1), d.std(-1) / d.shape[-1] ** 0.5"),
        ),
        Mutant(
            "You return the variance of the mean; the standard error is its square root.",
            paired("d = a.mean(-1) - b.mean(-1)", "return d.mean(-1), d.var(-1) / d.shape[-1]"),
        ),
        Mutant(
            "You averaged over the seeds and took the spread between codes. The seeds are what is repeated.",
            paired(
                "d = (a - b).mean(-2)",
                "return d.mean(-1), d.std(-1) / d.shape[-1] ** 0.5",
            ),
        ),
        Mutant(
            "Your error bar divides by the root of the number of codes. It is the seeds that are counted.",
            paired("d = a.mean(-1) - b.mean(-1)", "return d.mean(-1), d.std(-1) / a.shape[-1] ** 0.5"),
        ),
    ],
    alternatives=[
        paired(
            "d = torch.einsum('...sn->...s', a) / a.shape[-1] - torch.einsum('...sn->...s', b) / b.shape[-1]",
            "n = d.shape[-1]",
            "centre = d.sum(-1) / n",
            "return centre, ((d - centre[..., None]).square().sum(-1) / (n * (n - 1))).sqrt()",
        ),
        paired(
            "d = torch.stack([x.mean(-1) - y.mean(-1) for x, y in zip(a.unbind(-2), b.unbind(-2))])",
            "var, mean = torch.var_mean(d, dim=0)",
            "return mean, (var / len(d)).sqrt()",
        ),
        paired(
            "a, b = a.mean(-1), b.mean(-1)",
            "n = a.shape[-1]",
            "cross = ((a - a.mean(-1, keepdim=True)) * (b - b.mean(-1, keepdim=True))).sum(-1) / (n - 1)",
            "variance = (a.var(-1) + b.var(-1) - 2 * cross).clamp(min=0)",
            "return a.mean(-1) - b.mean(-1), (variance / n).sqrt()",
        ),
    ],
)

# --- 2a: moments of the basis-noise posterior -----------------------------------------------------------------------------


def moments(*lines: str) -> str:
    """An answer to 2a, from lines that know the covariance of each v_i and may change what is returned."""
    return "\n    ".join(
        [
            "def basis_moments(offset, scales, noise):",
            "means = noise.mean(0)",
            "centred = noise - means",
            "of_noise = torch.einsum('nid,nie->ide', centred, centred) / (len(noise) - 1)",
            "mean = offset + (scales * means).sum(-2)",
            "covariance = torch.einsum('...id,ide,...ie->...de', scales, of_noise, scales)",
            "std = covariance.diagonal(dim1=-2, dim2=-1).sqrt()",
            *lines,
            "return mean, std, covariance",
        ]
    )


_MOMENTS = """
def draws(n, k, d, dtype=torch.float64):
    e = torch.linspace(-1.7, 1.9, n * k * d, dtype=dtype).reshape(n, k, d)
    return (3 * e).sin() + 0.4 * e.square() * torch.linspace(-1, 1, d, dtype=dtype) + 0.3 * (17 * e).cos().roll(1, -1)
"""

PART_2A = Part(
    "2a",
    "Moments of a black box",
    7,
    checks=[
        Check(
            "values",
            _MOMENTS
            + """
offset = torch.tensor([[0.4, -1.0], [2.0, 0.3], [0.0, 0.7]]).double()
scales = torch.tensor([[[0.5, -1.2], [0.8, 0.3]], [[-0.9, 1.1], [0.2, -0.6]], [[1.4, 0.7], [-0.4, 0.9]]]).double()
noise = draws(9, 2, 2)
before = [offset.clone(), scales.clone(), noise.clone()]
mean, std, covariance = basis_moments(offset, scales, noise)
found = {"mean": mean, "standard deviations": std, "covariance": covariance}
assert all(map(torch.equal, before, (offset, scales, noise))), "the answer changes an argument in place"
""",
            within=1e-6,
        ),
        Check(
            "gradients",
            _MOMENTS
            + """
offset, scales = torch.tensor([0.2, -0.5]).double(), torch.tensor([[0.5, -1.2], [0.8, 0.3]]).double()
arguments = [each.clone().requires_grad_() for each in (offset, scales, draws(5, 2, 2))]
mean, std, covariance = basis_moments(*arguments)
total = (mean * torch.tensor([1.0, 2.0])).sum() + std.sum() + 0.5 * covariance[0, 1]
names = ("offset", "scales", "noise")
found = {}
for name, argument in zip(names, arguments):
    gradient = torch.autograd.grad(total, argument, retain_graph=True, allow_unused=True)[0]
    found[f"gradient in {name}"] = torch.zeros_like(argument) if gradient is None else gradient
""",
            within=1e-6,
        ),
        Check(
            "one image; two batch axes; single precision",
            _MOMENTS
            + """
noise = draws(40, 3, 4, torch.float32)
offset, scales = torch.linspace(-1, 1, 24).reshape(2, 3, 4), torch.linspace(1, -0.8, 72).reshape(2, 3, 3, 4).cos()
mean, std, covariance = basis_moments(offset, scales, noise)
one = basis_moments(offset[0, 1], scales[0, 1], noise)
found = {"shapes": [list(mean.shape), list(std.shape)], "shape of the covariance": list(covariance.shape),
         "mean": mean, "covariance": covariance, "mean of one": one[0], "standard deviations of one": one[1]}
""",
            within=1e-4,
            hidden=True,
        ),
        Check(
            "noise with a large mean and a small spread, single precision",
            """
noise = torch.tensor([[[999.9, -500.0]], [[1000.0, -500.1]], [[1000.1, -499.9]], [[1000.0, -500.0]]])
mean, std, covariance = basis_moments(torch.tensor([1.0, 2.0]), torch.tensor([[10.0, -10.0]]), noise)
found = {"standard deviations": std.nan_to_num(-1), "covariance": covariance}
""",
            within=1e-2,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "The second thing that you return is the variances, not the standard deviations.",
            moments("std = std.square()"),
        ),
        Mutant(
            "You leave out the means of the v_i. Nothing forces a noise network to have mean 0.",
            moments("mean = offset + 0 * mean"),
        ),
        Mutant(
            "Your covariance is diagonal. The coordinates of one v_i are correlated, and so are those of z.",
            moments("covariance = torch.diag_embed(std.square())"),
        ),
        Mutant(
            "Your variances are in order, but the covariances are those of all draws together, with the products of "
            "different v_i. These are independent: what the draws show there is accident.",
            moments(
                "both = torch.einsum('nid,nje->idje', centred, centred) / (len(noise) - 1)",
                "whole = torch.einsum('...id,idje,...je->...de', scales, both, scales)",
                "diagonal = torch.diag_embed(covariance.diagonal(dim1=-2, dim2=-1))",
                "covariance = whole - torch.diag_embed(whole.diagonal(dim1=-2, dim2=-1)) + diagonal",
            ),
        ),
        Mutant(
            "You take moments of the whole sum z over the draws, in which different v_i are correlated by accident. That "
            "they are independent is known: add up the covariance of each.",
            moments(
                "z = (scales * noise.reshape(len(noise), *[1] * (scales.ndim - 2), *noise.shape[1:])).sum(-2)",
                "z = z - z.mean(0)",
                "covariance = torch.einsum('n...d,n...e->...de', z, z) / (len(noise) - 1)",
                "std = covariance.diagonal(dim1=-2, dim2=-1).sqrt()",
            ),
        ),
        Mutant(
            "You multiply the covariance of v_i by a_i once. It is bilinear: diag(a_i) belongs on both sides.",
            moments(
                "covariance = torch.einsum('...id,ide->...de', scales, of_noise)",
                "std = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()",
            ),
        ),
        Mutant(
            "You add up standard deviations. For independent terms it is the variances that add.",
            moments("std = (scales.abs() * noise.std(0)).sum(-2)"),
        ),
        Mutant(
            "You take second moments without subtracting the means: E[v vᵀ] is not the covariance.",
            moments(
                "of_noise = torch.einsum('nid,nie->ide', noise, noise) / (len(noise) - 1)",
                "covariance = torch.einsum('...id,ide,...ie->...de', scales, of_noise, scales)",
                "std = covariance.diagonal(dim1=-2, dim2=-1).sqrt()",
            ),
        ),
        Mutant(
            "You divide by n; the sample covariance has n − 1 in its denominator.",
            moments("covariance = covariance * (1 - 1 / len(noise))", "std = std * (1 - 1 / len(noise)) ** 0.5"),
        ),
        Mutant(
            "You average over the k terms. z is their sum.",
            moments(
                "k = scales.shape[-2]",
                "mean, std, covariance = offset + (mean - offset) / k, std / k, covariance / k**2",
            ),
        ),
        Mutant(
            "No gradient reaches the noise networks through the moments: they would be taken for constants.",
            moments(
                "of_noise, means = of_noise.detach(), means.detach()",
                "mean = offset + (scales * means).sum(-2)",
                "covariance = torch.einsum('...id,ide,...ie->...de', scales, of_noise, scales)",
                "std = covariance.diagonal(dim1=-2, dim2=-1).sqrt()",
            ),
        ),
        Mutant(
            "You compute E[v vᵀ] − E[v] E[v]ᵀ. In single precision two large numbers cancel there; subtract the means first.",
            moments(
                "n = len(noise)",
                "of_noise = torch.einsum('nid,nie->ide', noise, noise) / n - means[:, :, None] * means[:, None]",
                "of_noise = of_noise * n / (n - 1)",
                "covariance = torch.einsum('...id,ide,...ie->...de', scales, of_noise, scales)",
                "std = covariance.diagonal(dim1=-2, dim2=-1).sqrt()",
            ),
        ),
    ],
    alternatives=[
        "def basis_moments(offset, scales, noise):\n"
        "    mean, covariance = offset, 0.0\n"
        "    for i in range(noise.shape[1]):\n"
        "        a = torch.diag_embed(scales[..., i, :])\n"
        "        covariance = covariance + a @ torch.cov(noise[:, i].T).reshape(2 * noise.shape[-1:]) @ a\n"
        "        mean = mean + scales[..., i, :] * noise[:, i].mean(0)\n"
        "    return mean, torch.diagonal(covariance, dim1=-2, dim2=-1) ** 0.5, covariance",
        "def basis_moments(offset, scales, noise):\n"
        "    v = (noise - noise.mean(dim=0)) / (noise.shape[0] - 1) ** 0.5\n"
        "    factors = torch.einsum('...id,nid->...din', scales, v).flatten(-2)\n"
        "    std = (scales.square() * noise.var(0)).sum(-2).sqrt()\n"
        "    return offset + torch.einsum('...id,id->...d', scales, noise.mean(0)), std, factors @ factors.mT",
        "def basis_moments(offset, scales, noise):\n"
        "    n = noise.shape[0]\n"
        "    mean = (offset + torch.stack([(scales * noise[j]).sum(-2) for j in range(n)]).mean(0))\n"
        "    v = noise - noise.mean(0, keepdim=True)\n"
        "    of_noise = (v.permute(1, 2, 0) @ v.permute(1, 0, 2)) / (n - 1)\n"
        "    covariance = (scales[..., :, None] * of_noise * scales[..., None, :]).sum(-3)\n"
        "    return mean, torch.sqrt(torch.einsum('...dd->...d', covariance)), covariance",
    ],
)

# --- 2b: normalized codes ------------------------------------------------------------------------------------------------


def normalized(*lines: str) -> str:
    """An answer to 2b."""
    return "\n    ".join(["def normalize(z, mean, std):", *lines])


_U = "u = (z - mean) / std"

PART_2B = Part(
    "2b",
    "Normalized codes",
    6,
    checks=[
        Check(
            "values",
            """
z = torch.tensor([[0.9, -0.1], [0.2, 1.3], [-2.0, 0.6]]).double()
mean = torch.tensor([[0.3, -0.6], [1.2, 0.4], [-1.1, 0.9]]).double()
std = torch.tensor([[0.7, 1.3], [0.25, 0.4], [2.5, 0.6]]).double()
before = [z.clone(), mean.clone(), std.clone()]
u, log_r = normalize(z, mean, std)
found = {"u": u, "log r": log_r}
assert all(map(torch.equal, before, (z, mean, std))), "the answer changes an argument in place"
""",
            within=1e-6,
        ),
        Check(
            "several codes for each image, single precision",
            """
z, mean = torch.linspace(-2, 3, 72).reshape(4, 2, 3, 3), torch.linspace(1, -1, 18).reshape(2, 3, 3)
u, log_r = normalize(z, mean, torch.linspace(0.2, 1.5, 18).reshape(2, 3, 3))
found = {"shape of u": list(u.shape), "shape of log r": list(log_r.shape), "u": u, "log r": log_r}
""",
        ),
        Check(
            "gradients in all three arguments",
            """
arguments = [torch.tensor(v).double().requires_grad_() for v in ([0.9, -0.1], [0.3, -0.6], [0.7, 1.3])]
u, log_r = normalize(*arguments)
of_u, of_r = (torch.autograd.grad(v, arguments, retain_graph=True, allow_unused=True) for v in (u.sum(), log_r))
found = {}
for i, name in enumerate(("z", "the mean", "the standard deviations")):
    found[f"gradient of u in {name}"] = torch.zeros(2) if of_u[i] is None else of_u[i]
    found[f"gradient of log r in {name}"] = torch.zeros(2) if of_r[i] is None else of_r[i]
""",
            within=1e-6,
            hidden=True,
        ),
        Check(
            "a contrast of almost no width, and a code far out; single precision",
            """
std = torch.tensor([1e-25, 1.0, 0.5])
u, log_r = normalize(torch.tensor([[2e-25, 30.0, 0.0], [0.0, -0.5, 1.0]]), torch.zeros(3), std)
found = {"u": u, "log r": log_r}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "Your log r is the density of u. As a density of z it has the volume as well: where s is small, r is high.",
            normalized(_U, "return u, (-0.5 * u**2 - 0.5 * math.log(2 * math.pi)).sum(-1)"),
        ),
        Mutant(
            "The volume enters log r with the wrong sign: a narrower contrast has a higher density.",
            normalized(_U, "return u, (-0.5 * u**2 + std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)"),
        ),
        Mutant(
            "The constant ½ log 2π for each latent variable is missing in log r. Elsewhere it may cancel, but this is a "
            "log-density.",
            normalized(_U, "return u, (-0.5 * u**2 - std.log()).sum(-1)"),
        ),
        Mutant(
            "Your log r is a mean over the latent variables; it should be their sum.",
            normalized(_U, "return u, (-0.5 * u**2 - std.log() - 0.5 * math.log(2 * math.pi)).mean(-1)"),
        ),
        Mutant(
            "The factor ½ is missing before the square in log r.",
            normalized(_U, "return u, (-(u**2) - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)"),
        ),
        Mutant(
            "You divide by the variance. u has standard deviation 1 if it is divided by s.",
            normalized(
                "u = (z - mean) / std**2",
                "r = (z - mean) / std",
                "return u, (-0.5 * r**2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)",
            ),
        ),
        Mutant(
            "You go the wrong way: m + s z makes codes out of white noise, and here codes are to become white.",
            normalized(
                "u = mean + std * z",
                "r = (z - mean) / std",
                "return u, (-0.5 * r**2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)",
            ),
        ),
        Mutant(
            "Your log r subtracts log s² in full. Only half of the log-variance, log s, belongs there.",
            normalized(_U, "return u, (-0.5 * u**2 - 2 * std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)"),
        ),
        Mutant(
            "Your log r has the standard normal density at z in the place of that at u.",
            normalized(_U, "return u, (-0.5 * z**2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)"),
        ),
        Mutant(
            "The moments are detached. What may be held fixed is decided in the loss, not here; gradients should reach m "
            "and s.",
            normalized(
                "mean, std = mean.detach(), std.detach()",
                _U,
                "return u, (-0.5 * u**2 - std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)",
            ),
        ),
        Mutant(
            "You square s before you use it: 1e-25 squared is 0 in single precision. Divide first, and take log s.",
            normalized(_U, "r = (z - mean) ** 2 / std**2 + (2 * math.pi * std**2).log()", "return u, -0.5 * r.sum(-1)"),
        ),
    ],
    alternatives=[
        normalized(
            "u = (z - mean) / std",
            "normal = torch.distributions.Normal(torch.zeros_like(u), torch.ones_like(u))",
            "return u, (normal.log_prob(u) - std.log()).sum(-1)",
        ),
        normalized(
            "u = (z - mean) * std.reciprocal()",
            "log_volume = torch.log(std).sum(dim=-1)",
            "return u, -0.5 * torch.einsum('...d,...d->...', u, u) - log_volume - 0.9189385332046727 * z.shape[-1]",
        ),
        normalized(
            "u = torch.stack([(z[..., j] - mean[..., j]) / std[..., j] for j in range(z.shape[-1])], -1)",
            "log_r = 0.0",
            "for j in range(z.shape[-1]):",
            "    log_r = log_r - 0.5 * u[..., j] ** 2 - std[..., j].log() - 0.5 * math.log(2 * math.pi)",
            "return u, log_r",
        ),
    ],
)

# --- 2c: both players' losses --------------------------------------------------------------------------------------------

_CRITIC = (
    "u = normalize(z, mean, std)[0].detach()",
    "return softplus(-critic(x, u)).mean() + softplus(critic(x, torch.randn_like(u))).mean()",
)
_MODEL = (
    "u, log_r = normalize(z, mean, std)",
    "log_prior = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1)",
    "return (critic(x, u) + log_r - decoder.log_prob(x, z) - log_prior).mean()",
)


def losses(critic: tuple[str, ...] = _CRITIC, model: tuple[str, ...] = _MODEL) -> str:
    """An answer to 2c."""
    return (
        "\n    ".join(["def critic_loss(critic, x, z, mean, std):", *critic])
        + "\n\n"
        + "\n    ".join(["def model_loss(critic, decoder, x, z, mean, std):", *model])
    )


_GAME = """
class Decoder:
    def log_prob(self, x, z):
        return -(x - z[..., :1]).square().sum(-1) - 0.3 * z[..., 1].sin()

def critic(x, u):
    return 0.7 * u[..., 0] - 0.4 * u.square().sum(-1) + 0.5 * x[..., 0] * u[..., 1]

x = torch.tensor([[0.5], [-1.0], [2.0]]).double()
z = torch.tensor([[0.9, -0.1], [0.2, 1.3], [-2.0, 0.6]]).double().requires_grad_()
mean = torch.tensor([[0.3, -0.6], [1.2, 0.4], [-1.1, 0.9]]).double().requires_grad_()
std = torch.tensor([[0.7, 1.3], [0.25, 0.4], [2.5, 0.6]]).double().requires_grad_()

def gradients(value):
    found = {}
    for name, argument in (("z", z), ("the mean", mean), ("the standard deviations", std)):
        of = torch.autograd.grad(value, argument, retain_graph=True, allow_unused=True)[0] if value.requires_grad else None
        found[f"gradient in {name}"] = torch.zeros_like(argument) if of is None else of
    return found
"""

PART_2C = Part(
    "2c",
    "Both players' losses",
    9,
    checks=[
        Check(
            "the model's loss",
            _GAME
            + """
found = {"loss": model_loss(critic, Decoder(), x, z, mean, std)}
""",
            within=1e-6,
        ),
        Check(
            "the model's gradients",
            _GAME
            + """
found = gradients(model_loss(critic, Decoder(), x, z, mean, std))
""",
            within=1e-6,
        ),
        Check(
            "the critic's loss, on codes of q",
            _GAME
            + """
def only_q(x, u):  # of what the contrast draws, all is far below 50
    return torch.where(u[..., 0] > 50, u[..., 0] - 60 + u[..., 1], -200.0)
found = {"loss": critic_loss(only_q, x, mean + std * torch.tensor([[59.0, 0.5], [60.0, -1.0], [61.5, 2.0]]), mean, std)}
""",
            within=1e-6,
        ),
        Check(
            "the critic's loss, on codes of the contrast",
            """
n = 20_000
x = torch.zeros(n, 1)
mean, std = torch.tensor([2.0, -1.0]).expand(n, 2), torch.tensor([0.3, 1.6]).expand(n, 2)
e = torch.linspace(-8, 8, 4001)
weight = torch.softmax(-0.5 * e**2, 0)
found = {}
for name, sign, slope in (("first coordinate", 1, 3.0), ("second coordinate", -1, 2.0)):
    critic = lambda x, u: sign * slope * (u[..., 0] if slope == 3.0 else u[..., 1])
    value = critic_loss(critic, x, mean + 0 * std, mean, std)
    found[f"loss less its exact value, {name}"] = value - math.log(2) - (weight * softplus(slope * e)).sum()
again = critic_loss(critic, x, mean + 0 * std, mean, std)
found["fresh codes at each call"] = bool(value != again)
""",
            within=0.1,
        ),
        Check(
            "the critic's loss sends nothing to the encoder",
            _GAME
            + """
weight = torch.ones(1).double().requires_grad_()
value = critic_loss(lambda x, u: weight * critic(x, u), x, z, mean, std)
found = gradients(value)
found["a gradient reaches the critic"] = bool(torch.autograd.grad(value, weight)[0] != 0)
""",
            hidden=True,
        ),
        Check(
            "large outputs of the critic, single precision",
            """
x, z = torch.zeros(4, 1), torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
mean, std = torch.zeros(4, 1), torch.ones(4, 1)
value = critic_loss(lambda x, u: torch.where(u.abs() == 1, 200 * u, 0.0 * u)[..., 0], x, z, mean, std)
found = {"loss": value}
""",
            within=1e-5,
            hidden=True,
        ),
        Check(
            "a single image",
            """
class Flat:
    def log_prob(self, x, z):
        return -2.0 + 0 * z.sum(-1)
x, z, mean, std = torch.ones(1, 3), torch.tensor([[0.4, 1.0, -2.0]]), torch.zeros(1, 3), torch.full((1, 3), 0.5)
found = {"loss": model_loss(lambda x, u: u.sum(-1), Flat(), x, z, mean, std)}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "In your model's loss the critic is shown z itself. It was trained on normalized codes and knows no others.",
            losses(model=(*_MODEL[:2], "return (critic(x, z) + log_r - decoder.log_prob(x, z) - log_prior).mean()")),
        ),
        Mutant(
            "The prior is missing in the model's loss. The contrast replaces it before the critic, not in the ELBO.",
            losses(model=(_MODEL[0], "return (critic(x, u) + log_r - decoder.log_prob(x, z)).mean()")),
        ),
        Mutant(
            "log r has the wrong sign in the model's loss: T + log r stands for log q.",
            losses(model=(*_MODEL[:2], "return (critic(x, u) - log_r - decoder.log_prob(x, z) - log_prior).mean()")),
        ),
        Mutant(
            "log r is missing in the model's loss. The critic now tells log q − log r, and log r has to be put back.",
            losses(model=(*_MODEL[:2], "return (critic(x, u) - decoder.log_prob(x, z) - log_prior).mean()")),
        ),
        Mutant(
            "The critic has the wrong sign in the model's loss: an encoder that descends it would flee from its contrast.",
            losses(model=(*_MODEL[:2], "return (log_r - critic(x, u) - decoder.log_prob(x, z) - log_prior).mean()")),
        ),
        Mutant(
            "That is the ELBO, which is to be maximized. The model's loss is descended.",
            losses(model=(*_MODEL[:2], "return (decoder.log_prob(x, z) + log_prior - critic(x, u) - log_r).mean()")),
        ),
        Mutant(
            "Your model's loss is a sum over the batch; a mean is asked for.",
            losses(model=(*_MODEL[:2], "return (critic(x, u) + log_r - decoder.log_prob(x, z) - log_prior).sum()")),
        ),
        Mutant(
            "The moments are held fixed in your model's loss. With a perfect critic that would do, but none is: a wrong one "
            "then pushes the posterior's place and width around.",
            losses(
                model=(
                    "u, log_r = normalize(z, mean.detach(), std.detach())",
                    *_MODEL[1:],
                )
            ),
        ),
        Mutant(
            "The moments are held fixed in u but not in log r. Differentiated in one place only, the gradient is biased "
            "unless the moments are exact.",
            losses(
                model=(
                    "u = normalize(z, mean.detach(), std.detach())[0]",
                    "log_r = normalize(z, mean, std)[1]",
                    *_MODEL[1:],
                )
            ),
        ),
        Mutant(
            "No gradient reaches the encoder through the critic: u is detached, and the shape of the posterior is never "
            "learned.",
            losses(
                model=(
                    *_MODEL[:2],
                    "return (critic(x, u.detach()) + log_r - decoder.log_prob(x, z) - log_prior).mean()",
                )
            ),
        ),
        Mutant(
            "The roles are exchanged in the critic's loss: T should be large on codes of q.",
            losses(
                (_CRITIC[0], "return softplus(critic(x, u)).mean() + softplus(-critic(x, torch.randn_like(u))).mean()")
            ),
        ),
        Mutant(
            "The critic is shown codes of q as they are, not normalized.",
            losses(
                (
                    "z = z.detach()",
                    "return softplus(-critic(x, z)).mean() + softplus(critic(x, torch.randn_like(z))).mean()",
                )
            ),
        ),
        Mutant(
            "The contrast's codes are not normalized: you show m + s η. In u's coordinates the contrast is N(0, I).",
            losses(
                (
                    _CRITIC[0],
                    "r = (mean + std * torch.randn_like(z)).detach()",
                    "return softplus(-critic(x, u)).mean() + softplus(critic(x, r)).mean()",
                )
            ),
        ),
        Mutant(
            "You normalize codes of the prior. That contrast is still the prior, only seen from elsewhere.",
            losses(
                (
                    _CRITIC[0],
                    "r = normalize(torch.randn_like(z), mean, std)[0].detach()",
                    "return softplus(-critic(x, u)).mean() + softplus(critic(x, r)).mean()",
                )
            ),
        ),
        Mutant(
            "The critic's loss sends a gradient to the encoder. While the critic learns, codes and moments are data.",
            losses(("u = normalize(z, mean, std)[0]", _CRITIC[1])),
        ),
        Mutant(
            "You take the logarithm of a rounded sigmoid: at T = 200 the loss is infinite. Work with logits.",
            losses(
                (
                    _CRITIC[0],
                    "on_q, on_r = critic(x, u), critic(x, torch.randn_like(u))",
                    "return -on_q.sigmoid().log().mean() - (1 - on_r.sigmoid()).log().mean()",
                )
            ),
        ),
    ],
    alternatives=[
        losses(
            (
                "with torch.no_grad():",
                "    u, _ = normalize(z, mean, std)",
                "    noise = torch.randn(u.shape, dtype=u.dtype)",
                "logits = critic(torch.cat([x, x]), torch.cat([noise, u]))",
                "signs = torch.cat([torch.ones(len(u)), -torch.ones(len(u))]).to(logits.dtype)",
                "return 2 * softplus(signs * logits).mean()",
            ),
            (
                "u = (z - mean) / std",
                "kl = critic(x, u) - 0.5 * (u**2 - z**2).sum(-1) - std.log().sum(-1)",
                "return torch.mean(kl - decoder.log_prob(x, z))",
            ),
        ),
        losses(
            (
                "noise = torch.randn(len(z), z.shape[1], dtype=z.dtype)",
                "u = ((z - mean) / std).detach()",
                "total = 0.0",
                "for i in range(len(x)):",
                "    if len(x) > 100: break",
                "    q, r = critic(x[i:i + 1], u[i:i + 1]), critic(x[i:i + 1], noise[i:i + 1])",
                "    total = total - torch.nn.functional.logsigmoid(q) - torch.nn.functional.logsigmoid(-r)",
                "if len(x) > 100:",
                "    one = torch.ones_like(noise[:, 0])",
                "    bce = torch.nn.functional.binary_cross_entropy_with_logits",
                "    return bce(critic(x, u), one) + bce(critic(x, noise), 0 * one)",
                "return total.squeeze() / len(x)",
            ),
        ),
        losses(
            model=(
                "log_p = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1) + decoder.log_prob(x, z)",
                "u, log_r = normalize(z, mean, std)",
                "return -(log_p - log_r - critic(x, u)).mean(0)",
            )
        ),
    ],
)

# --- 3a: the experiment --------------------------------------------------------------------------------------------------


def experiment(
    *,
    seed: str = "seed",
    codes: str = "mean + torch.randn(n, 2) @ scale_tril.T",
    seen: str = "(z - mean) / width if adaptive else z",
    contrast: str = "torch.randn(n, 2)",
    drawn: str = "x, on_q, on_contrast",
    examined: str = "draw_codes(n)",
    estimate: str = "critic(x, u) + log_r - log_p if adaptive else critic(x, z)",
    truth: str = "gaussian_log_ratio(z, mean, scale_tril, zero, one)",
    after: str = "pass",
    steps: str = "steps",
) -> str:
    """An answer to 3a."""
    return f"""
def experiment(width, adaptive, seeds=4, steps=200, n=2000):
    zero, one = torch.zeros(2), torch.ones(2)

    def draw_codes(n):
        x = draw_images(n)
        mean, scale_tril = posterior(x, width)
        return x, mean, scale_tril, {codes}

    def draw(n):
        x, mean, scale_tril, z = draw_codes(n)
        on_q = {seen}
        on_contrast = {contrast}
        return {drawn}

    estimates, truths = [], []
    for seed in range(seeds):
        _ = torch.manual_seed({seed})
        critic = fresh_critic()
        train_critic(critic, draw, {steps})
        x, mean, scale_tril, z = {examined}
        u, log_r = normalize(z, mean, width * one)
        log_p = normalize(z, zero, one)[1]
        with torch.no_grad():
            estimates.append({estimate})
        truths.append({truth})
    estimates, truths = torch.stack(estimates), torch.stack(truths)
    {after}
    return estimates, truths
"""


_EXACT = """
def exact_kl(width):
    # The mean of |m|² is 1.5² for every image; both variances are width².
    return 0.5 * (1.5**2 + 2 * width**2 - 2) - 2 * math.log(width) - 0.5 * math.log(1 - 0.8**2)

def deviations(width, adaptive, seeds, steps):
    estimate, truth = experiment(width, adaptive, seeds=seeds, steps=steps, n=1500)
    return list(estimate.shape) + list(truth.shape), estimate, truth
"""

PART_3A = Part(
    "3a",
    "The experiment",
    10,
    checks=[
        Check(
            "adaptive contrast, a narrow posterior (standard deviations 0.05)",
            _EXACT
            + """
shapes, estimate, truth = deviations(0.05, True, 2, 50)
found = {
    "shapes": shapes,
    "the mean truth less KL(q, p)": truth.mean() - exact_kl(0.05),
    "mean of estimate − truth": (estimate - truth).mean(),
    "the mean error |estimate − truth|, beyond 0.3": ((estimate - truth).abs().mean() - 0.3).clamp(min=0),
    "two seeds, two critics": bool((estimate[0] - estimate[1]).abs().max() > 1e-3),
    "no gradients": not (estimate.requires_grad or truth.requires_grad),
}
""",
            within=0.15,
        ),
        Check(
            "against the prior, the same posterior",
            _EXACT
            + """
shapes, estimate, truth = deviations(0.05, False, 2, 25)
found = {
    "shapes": shapes,
    "the mean truth less KL(q, p)": truth.mean() - exact_kl(0.05),
    "the critic falls short by more than a nat": bool((truth - estimate).mean() > 1),
    "its claim is positive": bool(estimate.mean() > 0),
    "two seeds, two critics": bool((estimate[0] - estimate[1]).abs().max() > 1e-3),
}
""",
            within=0.15,
        ),
        Check(
            "adaptive contrast, narrower still",
            _EXACT
            + """
shapes, estimate, truth = deviations(0.002, True, 1, 60)
found = {
    "the mean truth less KL(q, p)": truth.mean() - exact_kl(0.002),
    "mean of estimate − truth": (estimate - truth).mean(),
    "the mean error |estimate − truth|, beyond 0.3": ((estimate - truth).abs().mean() - 0.3).clamp(min=0),
}
""",
            within=0.15,
            hidden=True,
        ),
        Check(
            "against the prior, a wide posterior: the critic can learn",
            _EXACT
            + """
shapes, estimate, truth = deviations(1.0, False, 1, 100)
share = estimate.mean() / exact_kl(1.0)
found = {"the mean truth is positive": bool(truth.mean() > 0),
         "the critic claims between 0.3 and 1.2 of the KL": bool(0.3 < share < 1.2)}
""",
            hidden=True,
        ),
        Check(
            "critics that are not trained at all",
            _EXACT
            + """
shapes, estimate, truth = deviations(0.05, False, 2, 0)
found = {"against the prior, mean estimate": estimate.mean()}
shapes, estimate, truth = deviations(0.05, True, 2, 0)
found["adaptive contrast, mean of estimate − truth (T* is missing)"] = (estimate - truth).mean()
""",
            within=0.3,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "With adaptive contrast you return T alone. It estimates log q − log r; what is asked for is log q − log p.",
            experiment(estimate="critic(x, u if adaptive else z)"),
        ),
        Mutant(
            "log r is missing in your estimate: T is log q − log r, so log r has to be added before log p is taken off.",
            experiment(estimate="critic(x, u) - log_p if adaptive else critic(x, z)"),
        ),
        Mutant(
            "log r and log p are exchanged in the estimate: log q − log p = (log q − log r) + log r − log p.",
            experiment(estimate="critic(x, u) - log_r + log_p if adaptive else critic(x, z)"),
        ),
        Mutant(
            "With adaptive contrast your critic is trained and examined on codes as they are. It is meant to see them "
            "normalized, and so narrow a pair of laws it cannot tell apart.",
            experiment(
                seen="z",
                contrast="mean + width * torch.randn(n, 2) if adaptive else torch.randn(n, 2)",
                estimate="critic(x, z) + log_r - log_p if adaptive else critic(x, z)",
            ),
        ),
        Mutant(
            "Your contrast's codes are not in u's coordinates: there r is a standard normal, and you show m + s η.",
            experiment(contrast="mean + width * torch.randn(n, 2) if adaptive else torch.randn(n, 2)"),
        ),
        Mutant(
            "With adaptive contrast you examine the critic on z, but it was trained on normalized codes.",
            experiment(estimate="critic(x, z) + log_r - log_p if adaptive else critic(x, z)"),
        ),
        Mutant(
            "The two laws are exchanged in training: `draw` returns what is shown of q first, then of the contrast.",
            experiment(drawn="x, on_contrast, on_q"),
        ),
        Mutant(
            "You examine on codes of the prior. The KL, and the error that matters to an encoder, are means over codes of q.",
            experiment(
                examined="(lambda x, m, s, _: (x, m, s, torch.randn(n, 2)))(*draw_codes(n))",
            ),
        ),
        Mutant(
            "Your codes have no correlation: multiply the noise by L, not by the width.",
            experiment(codes="mean + width * torch.randn(n, 2)"),
        ),
        Mutant(
            "You multiply the noise by Lᵀ: the covariance of your codes is Lᵀ L, not L Lᵀ.",
            experiment(codes="mean + torch.randn(n, 2) @ scale_tril"),
        ),
        Mutant(
            "All your seeds are the same seed: the spread between them will be 0, and so will the error bar.",
            experiment(seed="0"),
        ),
        Mutant(
            "With adaptive contrast your truth is log q − log r. Both rows of a comparison need the same truth, "
            "log q − log p.",
            experiment(
                truth="gaussian_log_ratio(z, mean, scale_tril, mean if adaptive else zero, width * one if adaptive else one)"
            ),
        ),
        Mutant(
            "You return means over the codes. One number per code is asked for; the means are taken later.",
            experiment(after="estimates, truths = estimates.mean(1), truths.mean(1)"),
        ),
        Mutant(
            "Your critics are trained for 200 steps whatever `steps` says.",
            experiment(steps="200"),
        ),
        Mutant(
            "`adaptive` makes no difference in your experiment: even without it, the critic gets the contrast's help.",
            experiment(seen="(z - mean) / width", estimate="critic(x, u) + log_r - log_p"),
        ),
    ],
    alternatives=[
        """
def experiment(width, adaptive, seeds=4, steps=200, n=2000):
    rows = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        critic = fresh_critic()
        def pairs(size):
            noise = torch.randn(size, 2)
            x = draw_images(size)
            mean, scale_tril = posterior(x, width)
            return x, mean, torch.einsum("ij,nj->ni", scale_tril, noise) + mean
        def draw(size):
            contrast = torch.randn(size, 2)
            x, mean, z = pairs(size)
            return x, ((z - mean) / width if adaptive else z), contrast
        train_critic(critic, draw, steps)
        x, mean, z = pairs(n)
        scale_tril = posterior(x, width)[1]
        truth = gaussian_log_ratio(z, mean, scale_tril, torch.zeros(2), torch.ones(2))
        if adaptive:
            u = (z - mean) / width
            told = critic(x, u) + 0.5 * (z**2 - u**2).sum(-1) - 2 * math.log(width)
        else:
            told = critic(x, z)
        rows.append(torch.stack([told.detach(), truth]))
    return tuple(torch.stack(rows, 1))
""",
        """
import math
def experiment(width, adaptive, seeds=4, steps=200, n=2000):
    def on_q(x):
        mean, scale_tril = posterior(x, width)
        u = torch.randn(len(x), 2) @ (scale_tril / width).T
        return mean + width * u, u
    def draw(m):
        x = draw_images(m)
        z, u = on_q(x)
        return x, u if adaptive else z, torch.randn_like(z)
    def one(seed):
        torch.manual_seed(seed)
        critic = fresh_critic()
        train_critic(critic, draw, steps)
        x = draw_images(n)
        z, u = on_q(x)
        log_p = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
        log_r = -0.5 * u.square().sum(-1) - math.log(2 * math.pi) - 2 * math.log(width)
        correlated = torch.stack([u[:, 0], (u[:, 1] - 0.8 * u[:, 0]) / 0.6], -1)
        log_q = -0.5 * correlated.square().sum(-1) - math.log(2 * math.pi) - 2 * math.log(width) - math.log(0.6)
        with torch.no_grad():
            return (critic(x, u) + log_r - log_p if adaptive else critic(x, z)), log_q - log_p
    estimates, truths = zip(*[one(seed) for seed in range(seeds)])
    return torch.stack(estimates), torch.stack(truths)
""",
        experiment(
            codes="torch.distributions.MultivariateNormal(mean, scale_tril=scale_tril).sample()",
            seen="normalize(z, mean, torch.full((2,), width))[0] if adaptive else z",
            contrast="torch.empty(n, 2).normal_()",
            after="estimates, truths = estimates.double(), truths.double()",
        ),
    ],
    seconds=60.0,
)

# --- 4a: tables ----------------------------------------------------------------------------------------------------------


def table_terms(**changed: str) -> str:
    """An answer to 4a, in which some of its expressions are changed."""
    lines = {
        "log": "torch.xlogy(a, a) - torch.xlogy(a, b)",
        "pairs": "p_data * q",
        "codes": "pairs.sum(-1, keepdim=True)",
        "goal": "kl(pairs, prior * likelihood)",
        "aggregate": "kl(codes, prior)",
        "images": "kl(pairs, codes * likelihood)",
        "rate": "kl(pairs, p_data * prior)",
        "information": "kl(pairs, p_data * codes)",
        "independent": "kl(p_data * codes, codes * likelihood)",
        "scale": "1.0",
    } | changed
    names = ("goal", "aggregate", "images", "rate", "information", "independent")
    entries = "\n".join(f'        "{name}": {lines["scale"]} * ({lines[name]}),' for name in names)
    return f"""
def terms(p_data, prior, likelihood, q):
    def kl(a, b):
        return ({lines["log"]}).sum((-2, -1))

    def entropy(a):
        return -torch.xlogy(a, a).sum((-2, -1))

    p_data, prior = p_data[..., None, :], prior[..., :, None]
    pairs = {lines["pairs"]}
    codes = {lines["codes"]}
    return {{
{entries}
    }}
"""


_TABLES = """
def table(*shape, axis, shift=0.0):
    logits = 1.5 * (torch.arange(math.prod(shape)).double() * 2.399 + shift).sin().reshape(shape)
    return logits.softmax(axis)

def rows(found):
    names = ("goal", "aggregate", "images", "rate", "information", "independent")
    return {name: found[name] for name in names}
"""

PART_4A = Part(
    "4a",
    "Tables",
    8,
    checks=[
        Check(
            "values",
            _TABLES
            + """
arguments = table(3, axis=0), table(4, axis=0, shift=1), table(4, 3, axis=1, shift=2), table(4, 3, axis=0, shift=3)
before = [each.clone() for each in arguments]
found = rows(terms(*arguments))
assert all(map(torch.equal, before, arguments)), "the answer changes an argument in place"
""",
            within=1e-6,
        ),
        Check(
            "zeros: an encoder that is certain, and a code that is never used",
            _TABLES
            + """
q = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.7], [0.0, 0.0, 0.0]]).double()
found = rows(terms(table(3, axis=0), table(4, axis=0, shift=1), table(4, 3, axis=1, shift=2), q))
""",
            within=1e-6,
        ),
        Check(
            "one model, several encoders and data laws",
            _TABLES
            + """
found = rows(terms(table(5, 3, axis=-1), table(4, axis=0, shift=1), table(4, 3, axis=1, shift=2),
                   table(2, 5, 4, 3, axis=-2, shift=3)))
""",
            within=1e-6,
            hidden=True,
        ),
        Check(
            "as many codes as images, an image that never occurs, single precision",
            _TABLES
            + """
p_data = torch.tensor([0.5, 0.0, 0.2, 0.3])
found = rows(terms(p_data, table(4, axis=0, shift=1).float(), table(4, 4, axis=1, shift=2).float(),
                   table(4, 4, axis=0, shift=3).float()))
""",
            within=1e-4,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "Your goal is −ELBO. The entropy of the data is to be taken off.",
            table_terms(goal="kl(pairs, prior * likelihood) + entropy(p_data)"),
        ),
        Mutant(
            "In your goal H(X) is added to −ELBO. It is to be taken off.",
            table_terms(goal="kl(pairs, prior * likelihood) + 2 * entropy(p_data)"),
        ),
        Mutant(
            "Your goal has the sign of the ELBO.",
            table_terms(goal="-kl(pairs, prior * likelihood)"),
        ),
        Mutant(
            "Your q(z) is an average over images that does not weight them by p_D(x).",
            table_terms(codes="q.mean(-1, keepdim=True)"),
        ),
        Mutant(
            "Your rate is an average over images that does not weight them by p_D(x).",
            table_terms(rate="(torch.xlogy(q, q) - torch.xlogy(q, prior)).sum(-2).mean(-1) + 0 * kl(codes, prior)"),
        ),
        Mutant(
            "For images you return minus the reconstruction. The conditional entropy of x given z is to be taken off.",
            table_terms(images="-torch.xlogy(pairs, likelihood).sum((-2, -1))"),
        ),
        Mutant(
            "For images you average the KLs over the prior's codes. The codes are those of q: weight by q(z).",
            table_terms(
                images="kl(prior * pairs / codes.clamp(min=1e-30), prior * likelihood)",
            ),
        ),
        Mutant(
            "Images and independent are exchanged: a KL from q(x|z) is for an image beside its own code.",
            table_terms(images="kl(p_data * codes, codes * likelihood)", independent="kl(pairs, codes * likelihood)"),
        ),
        Mutant(
            "Your information compares with p_D(x) p(z); that is the rate. Independence means p_D(x) q(z).",
            table_terms(information="kl(pairs, p_data * prior)"),
        ),
        Mutant(
            "Your aggregate is KL(p(z), q(z)). The first argument is the one whose codes are averaged over.",
            table_terms(aggregate="kl(prior, codes)"),
        ),
        Mutant(
            "Your numbers are in bits. A nat is a natural logarithm.",
            table_terms(scale="1 / math.log(2)"),
        ),
        Mutant(
            "For independent you weight the KLs by the prior. The codes are those of q.",
            table_terms(independent="kl(p_data * prior, prior * likelihood)"),
        ),
        Mutant(
            "Your goal has q(z) p(x|z) for the model's law. Its codes come from the prior: p(z) p(x|z).",
            table_terms(goal="kl(pairs, codes * likelihood)"),
        ),
        Mutant(
            "A zero in the encoder's table makes NaN of your numbers: 0 log 0 counts as 0.",
            table_terms(log="a * (a.log() - b.log())"),
        ),
        Mutant(
            "You add a small number inside the logarithms to be safe. Where a probability is 0, that is no longer exact; "
            "leave such terms out.",
            table_terms(log="a * ((a + 1e-3).log() - (b + 1e-3).log())"),
        ),
    ],
    alternatives=[
        """
def terms(p_data, prior, likelihood, q):
    p_data, prior = p_data.unsqueeze(-2), prior.unsqueeze(-1)
    joint = p_data * q
    q_z = joint.sum(-1, keepdim=True)
    def mean(weight, log):
        return torch.where(weight > 0, weight * log, torch.zeros_like(weight)).sum(-1).sum(-1)
    log_q, log_d = q.log(), p_data.log().expand_as(joint)
    rate = mean(joint, log_q - prior.log())
    reconstruction = mean(joint, likelihood.log())
    entropy = -mean(joint, log_d)
    information = mean(joint, log_q - q_z.log())
    return {
        "rate": rate,
        "goal": rate - reconstruction - entropy,
        "information": information,
        "aggregate": rate - information,
        "images": -reconstruction - entropy + information,
        "independent": mean(p_data * q_z, log_d - likelihood.log()),
    }
""",
        """
def terms(p_data, prior, likelihood, q):
    joint = torch.einsum("...x,...zx->...zx", p_data, q)
    model = torch.einsum("...z,...zx->...zx", prior, likelihood)
    q_z = joint.sum(-1)
    def kl(a, b):
        a, b = torch.broadcast_tensors(a, b)
        safe = torch.where(a > 0, a, torch.ones_like(a))
        other = torch.where(a > 0, b, torch.ones_like(b))
        return (a * (safe / other).log())
    def total(t): return t.sum(-1).sum(-1)
    product = q_z[..., :, None] * p_data[..., None, :]
    decoded = q_z[..., :, None] * likelihood
    return {"goal": total(kl(joint, model)), "aggregate": kl(q_z, prior).sum(-1),
            "images": total(kl(joint, decoded)),
            "rate": total(p_data[..., None, :] * kl(q, prior[..., :, None])),
            "information": total(kl(joint, product)), "independent": total(kl(product, decoded))}
""",
        """
def terms(p_data, prior, likelihood, q):
    def h(a, b):  # cross-entropy
        return -torch.special.xlogy(a, b).flatten(-2).sum(-1)
    d, p = p_data[..., None, :], prior[..., None]
    a = d * q
    z = a.sum(-1)[..., None]
    neg_elbo = h(a, likelihood) + h(a, p + 0 * a) - h(a, q)
    return {
        "goal": neg_elbo - h(a, d + 0 * a),
        "aggregate": h(z, p) - h(z, z),
        "images": h(a, z * likelihood) - h(a, a),
        "rate": h(a, p + 0 * a) - h(a, q),
        "information": h(z, z) + h(d, d) - h(a, a),
        "independent": h(d * z, likelihood) - h(d, d),
    }
""",
    ],
)

# --- 4c: a decoder against the best critic -------------------------------------------------------------------------------


def play(
    *,
    codes: str = "(p_data * q).sum(1, keepdim=True)",
    a: str = "p_data * q if paired else p_data * codes",
    log_b: str = "codes.log() + logits.log_softmax(1)",
    T: str = "(log_a - log_b).detach()",
    loss: str = "-(log_b.exp() * T.exp()).sum()",
    step: str = "logits - rate * gradient",
    rounds: str = "rounds",
    end: str = "logits.detach().softmax(1)",
    start: str = "logits",
) -> str:
    """An answer to 4c."""
    return f"""
def play_decoder(p_data, q, logits, paired, rounds, rate):
    codes = {codes}
    log_a = ({a}).log()
    logits = {start}
    for _ in range({rounds}):
        logits = logits.detach().requires_grad_()
        log_b = {log_b}
        T = {T}
        (gradient,) = torch.autograd.grad({loss}, logits)
        logits = {step}
    return {end}
"""


_PLAY = """
p_data = torch.tensor([0.2, 0.5, 0.3]).double()
q = torch.tensor([[0.7, 0.1, 0.2], [0.2, 0.3, 0.5], [0.05, 0.4, 0.2], [0.05, 0.2, 0.1]]).double()
logits = torch.tensor([[0.3, -1.0, 0.5], [1.2, 0.0, -0.4], [-0.7, 0.2, 0.9], [0.0, 0.8, -1.5]]).double()
"""

PART_4C = Part(
    "4c",
    "A decoder against the best critic",
    8,
    checks=[
        Check(
            "a few rounds",
            _PLAY
            + """
before = [p_data.clone(), q.clone(), logits.clone()]
found = {
    "its own image": play_decoder(p_data, q, logits, True, 3, 0.7),
    "any image": play_decoder(p_data, q, logits, False, 3, 0.7),
}
assert all(map(torch.equal, before, (p_data, q, logits))), "the answer changes an argument in place"
""",
            within=1e-6,
        ),
        Check(
            "many rounds: where it ends",
            _PLAY
            + """
found = {
    "its own image": play_decoder(p_data, q, logits, True, 500, 10.0),
    "any image": play_decoder(p_data, q, logits, False, 500, 10.0),
}
""",
            within=1e-3,
        ),
        Check(
            "no round, and one",
            _PLAY
            + """
found = {"no round": play_decoder(p_data, q, logits, True, 0, 1.0),
         "one round, its own image": play_decoder(p_data, q, logits, True, 1, 1.0),
         "one round, any image": play_decoder(p_data, q, logits, False, 1, 1.0)}
""",
            within=1e-6,
            hidden=True,
        ),
        Check(
            "an encoder that is certain, and logits far apart",
            """
q = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]).double()
logits = torch.tensor([[0.0, 1.0, -1.0], [100.0, 0.0, -100.0]]).double()
p_data = torch.tensor([0.25, 0.25, 0.5]).double()
found = {"its own image": play_decoder(p_data, q, logits, True, 20, 40.0),
         "any image": play_decoder(p_data, q, logits, False, 20, 40.0)}
""",
            within=1e-5,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "Your decoder does not move. If the critic is differentiated as well, b e^T is just a, whatever the decoder does: "
            "hold T fixed.",
            play(T="log_a - log_b"),
        ),
        Mutant(
            "Your decoder climbs: it makes its images ever less likely to be taken for real ones.",
            play(step="logits + rate * gradient"),
        ),
        Mutant(
            "Your loss is −E_b[T], without the exponential. Its gradient belongs to another divergence, KL(b, a).",
            play(loss="-(log_b.exp() * torch.where(T.isfinite(), T, torch.full_like(T, -1e3))).sum()"),
        ),
        Mutant(
            "Your critic is log b − log a, the wrong way round: T is large where there is more of a.",
            play(
                T="(log_b - torch.where(log_a.isfinite(), log_a, torch.full_like(log_a, -1e3))).detach().clamp(max=40)"
            ),
        ),
        Mutant(
            "`paired` makes no difference: your critic sees any image beside a code, even when it should see its own.",
            play(a="p_data * codes"),
        ),
        Mutant(
            "`paired` makes no difference: your critic sees each image beside its own code, even when any image is meant.",
            play(a="p_data * q"),
        ),
        Mutant(
            "The two cases of `paired` are exchanged.",
            play(a="p_data * codes if paired else p_data * q"),
        ),
        Mutant(
            "Your softmax runs over the codes. p(x|z) is a law of images: each row sums to 1.",
            play(log_b="codes.log() + logits.log_softmax(0)", end="logits.detach().softmax(0)"),
        ),
        Mutant(
            "Your expectation over b treats all codes alike. It contains q(z).",
            play(
                loss="-(logits.log_softmax(1).exp() * T.exp()).sum()",
            ),
        ),
        Mutant(
            "Your codes are not weighted by p_D(x): q(z) is a mean over the data, not over a list of images.",
            play(codes="q.mean(1, keepdim=True)"),
        ),
        Mutant(
            "The critic is computed once and then left behind. In every round it is at its optimum for the decoder as it "
            "has become.",
            play(
                start="logits.detach().clone(); first = (log_a - codes.log() - logits.log_softmax(1)).detach()",
                T="first",
            ),
        ),
        Mutant(
            "You take the mean over the table's entries. An expectation over b is the sum, weighted by b.",
            play(loss="-(log_b.exp() * T.exp()).mean()"),
        ),
        Mutant(
            "You return logits; the table of p(x|z) is asked for.",
            play(end="logits.detach()"),
        ),
        Mutant(
            "You make one round too many.",
            play(rounds="rounds + 1"),
        ),
    ],
    alternatives=[
        """
def play_decoder(p_data, q, logits, paired, rounds, rate):
    joint = p_data * q
    q_z = joint.sum(1, keepdim=True)
    a = joint if paired else q_z * p_data
    for _ in range(rounds):
        logits = logits - rate * (q_z * logits.softmax(-1) - a)
    return logits.softmax(-1)
""",
        """
def play_decoder(p_data, q, logits, paired, rounds, rate):
    theta = torch.nn.Parameter(logits.clone().detach())
    optimizer = torch.optim.SGD([theta], lr=rate)
    q_z = q @ p_data
    for _ in range(rounds):
        b = q_z[:, None] * theta.softmax(1)
        with torch.no_grad():
            ratio = (q * p_data if paired else torch.outer(q_z, p_data)) / b
        optimizer.zero_grad()
        (-(b * ratio).sum()).backward()
        optimizer.step()
    return torch.softmax(theta.detach(), 1)
""",
        """
def play_decoder(p_data, q, logits, paired, rounds, rate):
    out = []
    for z in range(len(q)):
        row, weight = logits[z].clone(), (p_data * q[z]).sum()
        target = p_data * q[z] / weight if paired else p_data
        for _ in range(rounds):
            p = torch.exp(row - row.logsumexp(0))
            w = target / p.clamp(min=1e-300)
            row = row + rate * weight * (w * p - p * (w * p).sum())
        out.append(row.softmax(0))
    return torch.stack(out)
""",
    ],
)

RULES = r"torch\.distributions|avb_core"

PARTS = [
    Written(
        "1a",
        "Any contrast, and the best one",
        rubric=[
            (2, "(i) proves the identity: adds and subtracts log r and takes the mean over q"),
            (1, "(i) names both laws of pairs, p_D q and p_D r, and says that p_D cancels in T*"),
            (
                3,
                "(ii) log r − log p is quadratic, so its means under q and under r agree (1 of 3: only splits the logarithm)",
            ),
            (2, "(iii) only z_j and z_j² occur; the saving is KL(r, p), written with m and s"),
            (2, "(iv) r = posterior: log p(x) and the gap; r = q: the ELBO and 0 (a point each)"),
        ],
    ),
    PART_1B,
    PART_1C,
    PART_2A,
    PART_2B,
    PART_2C,
    PART_3A,
    Written(
        "3b",
        "A critic that is always right",
        rubric=[
            (
                2,
                "(i) both terms of the loss tend to 0, with a reason for their means; the claim is λ times a positive mean",
            ),
            (2, "(ii) A infinite (no density), C zero; only B's claim may be used (1 of 2 if one KL is wrong)"),
            (
                3,
                "(iii) A: no overlap, C: by heart; curves on fresh codes tell; remedies are noise and fresh codes",
            ),
            (1, "(iv) no: A's covariance is already the identity"),
        ],
    ),
    PART_4A,
    Written(
        "4b",
        "What two critics add up to",
        rubric=[
            (3, "(i) goal is the KL of the joint laws (1), and the chain rule splits it (2)"),
            (3, "(ii) rate = information + aggregate with proof (2); the printed sum overcharges by I_q(X; Z) (1)"),
            (3, "(iii) goal: every joint law with both marginals (1); printed: goal + I ≥ 0, only the blind one (2)"),
            (2, "(iv) ≥ 0, and 0 iff p(x|z) = p_D(x) where q(z) > 0 (1); the encoder cannot move this optimum (1)"),
        ],
    ),
    PART_4C,
    Written(
        "5a",
        "The report",
        rubric=[
            (3, "design: width and contrast varied; network, steps, seeds held fixed; truth known since q is Gaussian"),
            (2, "repeats seeds, not codes; gives at least one paired difference with its standard error, and reads it"),
            (
                3,
                "the number is an estimate and no bound; loss near 0 with a growing claim; fresh codes; B against A and C",
            ),
            (
                2,
                "each image beside its own code, codes alone against the prior; the cost I_q, or a blind decoder, otherwise",
            ),
            (2, "says that tables need no error bar (1), and names limits that are real (1)"),
        ],
    ),
]
