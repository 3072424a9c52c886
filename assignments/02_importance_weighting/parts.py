"""How the parts of the assignment on importance weighting are judged."""

from tools.assignments import Check, Mutant, Part, Written


def changed(answer: str, *changes: tuple[str, str]) -> str:
    """The answer with each of the given pieces, which it must have, replaced."""
    for old, new in changes:
        assert old in answer, old
        answer = answer.replace(old, new)
    return answer


# --- 1b ---------------------------------------------------------------------------------------------------------------

MODEL = """
double = {"dtype": torch.float64}
weight = torch.tensor([[1.0, 0.3], [0.2, -0.9], [0.7, 0.5]], **double)
bias = torch.tensor([0.1, -0.2, 0.3], **double)
generator = torch.Generator().manual_seed(5)
def some(*shape):
    return torch.randn(*shape, generator=generator, **double)
"""

LOG_WEIGHTS = """\
def log_weights(x, z, weight, bias, noise_std, mean, std):
    n, d = weight.shape
    constant = -0.5 * math.log(2 * math.pi)
    residual = x - (z @ weight.T + bias)
    log_lik = (-0.5 * (residual / noise_std) ** 2).sum(-1) + n * (constant - math.log(noise_std))
    log_prior = (-0.5 * z ** 2).sum(-1) + d * constant
    log_q = (-0.5 * ((z - mean) / std) ** 2 - std.log()).sum(-1) + d * constant
    return log_lik + log_prior - log_q
"""

log_weights = Part(
    "1b",
    "Log-weights",
    6,
    checks=[
        Check(
            "one image, four codes",
            MODEL
            + """
x, z, mean, std = some(3), some(4, 2), some(2), some(2).exp()
before = [each.clone() for each in (x, z, mean, std)]
found = {"log-weights": log_weights(x, z, weight, bias, 0.8, mean, std)}
found["the arguments are left alone"] = all(map(torch.equal, before, (x, z, mean, std)))
""",
        ),
        Check(
            "a batch of five images",
            MODEL
            + """
x, z, mean, std = some(5, 3), some(4, 5, 2), some(5, 2), some(5, 2).exp()
found = {"log-weights": log_weights(x, z, weight, bias, 0.8, mean, std)}
""",
        ),
        Check(
            "from the exact posterior, every weight is p(x)",
            """
d = torch.float64
model = LinearGaussian(torch.tensor([[1.0], [0.5], [-0.8]], dtype=d), torch.tensor([0.2, 0.0, -0.1], dtype=d), 0.7)
x = torch.tensor([1.0, 0.2, -1.1], dtype=d)
mean, root = model.posterior(x)
z = torch.linspace(-3, 3, 7, dtype=d)[:, None]
log_w = log_weights(x, z, model.weight, model.bias, 0.7, mean, root[0])
found = {"log w − log p(x)": log_w - model.log_marginal(x)}
""",
        ),
        Check(
            "two batch axes, single precision, a proposal far away",
            MODEL
            + """
x, z, mean, std = some(2, 3, 3), 20 * some(6, 2, 3, 2), some(2, 3, 2), some(2, 3, 2).exp()
x, z, weight, bias, mean, std = (each.float() for each in (x, z, weight, bias, mean, std))
log_w = log_weights(x, z, weight, bias, 0.1, mean, std)
found = {"log-weights": log_w, "still in single precision": log_w.dtype == torch.float32}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "The prior is missing: p(x, z) is p(x|z) times p(z).",
            changed(LOG_WEIGHTS, ("log_lik + log_prior - log_q", "log_lik - log_q")),
        ),
        Mutant(
            "You multiply by the density of the proposal; a weight divides by it.",
            changed(LOG_WEIGHTS, ("log_prior - log_q", "log_prior + log_q")),
        ),
        Mutant(
            "You left the proposal out: that is log p(x, z), not a weight.",
            changed(LOG_WEIGHTS, ("log_prior - log_q", "log_prior")),
        ),
        Mutant(
            "You average over pixels and latent variables. Independent densities multiply, so their logarithms are "
            "summed.",
            changed(
                LOG_WEIGHTS,
                (".sum(-1)", ".mean(-1)"),
                ("n * (constant", "(constant"),
                ("d * constant", "constant"),
            ),
        ),
        Mutant(
            "Your Gaussians have no 1/std in front. It is not a constant here: decoder and proposal have different "
            "ones.",
            changed(LOG_WEIGHTS, ("- math.log(noise_std)", ""), (" - std.log()", "")),
        ),
        Mutant(
            "The ½ in the exponent of the Gaussian is missing.",
            changed(
                LOG_WEIGHTS, ("(-0.5 * ((", "(-1.0 * (("), ("-0.5 * (res", "-1.0 * (res"), ("-0.5 * z", "-1.0 * z")
            ),
        ),
        Mutant(
            "You divide squares by std where its square, the variance, belongs.",
            changed(
                LOG_WEIGHTS,
                ("(residual / noise_std) ** 2", "residual ** 2 / noise_std"),
                ("((z - mean) / std) ** 2", "(z - mean) ** 2 / std"),
            ),
        ),
        Mutant(
            "The 2π is missing in your Gaussians. For the codes it cancels between prior and proposal; for the pixels it "
            "does not.",
            changed(LOG_WEIGHTS, ("constant = -0.5 * math.log(2 * math.pi)", "constant = 0.0")),
        ),
        Mutant(
            "Your decoder's normalizer counts a single pixel. There is one factor for each of the n pixels.",
            changed(LOG_WEIGHTS, ("n * (constant", "(constant")),
        ),
        Mutant(
            "You forgot the bias of the decoder.",
            changed(LOG_WEIGHTS, ("(z @ weight.T + bias)", "(z @ weight.T)")),
        ),
        Mutant(
            "You changed an argument in place. Whoever uses those codes next finds others.",
            changed(LOG_WEIGHTS, ("return log_lik", "z -= mean\n    return log_lik")),
        ),
    ],
    alternatives=[
        LOG_WEIGHTS,
        """\
def log_weights(x, z, weight, bias, noise_std, mean, std):
    mean_image = torch.einsum("nd,...d->...n", weight, z) + bias
    total = -(x - mean_image).square().sum(-1) / (2 * noise_std ** 2)
    total = total - 0.5 * weight.shape[0] * math.log(2 * math.pi * noise_std ** 2)
    total = total - 0.5 * z.square().sum(-1)
    return total + (0.5 * ((z - mean) / std).square() + std.log()).sum(-1)
""",
        """\
def log_weights(x, z, weight, bias, noise_std, mean, std):
    def density(v, m, s):
        return torch.distributions.Independent(torch.distributions.Normal(m, s), 1).log_prob(v)
    rows = []
    for code in z:
        image = code @ weight.T + bias
        rows.append(density(x, image, noise_std * torch.ones_like(image))
                    + density(code, torch.zeros_like(code), torch.ones_like(code)) - density(code, mean, std))
    return torch.stack(rows)
""",
    ],
)

# --- 1c ---------------------------------------------------------------------------------------------------------------

IWLB = """\
def iwlb(log_weights):
    largest = log_weights.max(0).values.detach()
    largest = torch.where(largest.isinf(), torch.zeros_like(largest), largest)
    total = (log_weights - largest).exp().sum(0)
    return total.log() + largest - math.log(log_weights.shape[0])
"""
SPY = """
from contextlib import ExitStack
from unittest import mock
used = []
def watched(f):
    def call(*arguments, **options):
        used.append(f)
        return f(*arguments, **options)
    return call
with ExitStack() as stack:
    for name in ("logsumexp", "logaddexp", "softmax", "log_softmax"):
        for owner in (torch, torch.Tensor):
            if hasattr(owner, name):
                stack.enter_context(mock.patch.object(owner, name, watched(getattr(owner, name))))
    value = iwlb(log_w)
"""

iwlb = Part(
    "1c",
    "The mean weight, in log space",
    8,
    checks=[
        Check(
            "two images, three codes each",
            """
log_w = torch.tensor([[0.3, -1.0], [1.2, 0.5], [-0.7, 2.0]], dtype=torch.float64, requires_grad=True)
value = iwlb(log_w)
found = {"bound": value, "a gradient flows": value.requires_grad}
if value.requires_grad:
    found["gradient"] = torch.autograd.grad(value.sum(), log_w)[0]
""",
        ),
        Check(
            "by hand",
            """
log_w = torch.tensor([[0.3, -1.0], [1.2, 0.5], [-0.7, 2.0]], dtype=torch.float64)
before = log_w.clone()
"""
            + SPY
            + """
found = {"bound": value, "one of the four functions was called": bool(used), "log_weights is left alone":
         torch.equal(before, log_w)}
""",
        ),
        Check(
            "a photograph",
            """
log_w = torch.tensor([[-2000.0, 1000.0], [-2001.0, 999.0], [-2003.0, 1001.0]], dtype=torch.float64)
found = {"bound": iwlb(log_w)}
""",
        ),
        Check(
            "one weight has it all",
            "log_w = torch.tensor([-600.0, -600.0, -600.0, 500.0], dtype=torch.float64)\nfound = {'bound': iwlb(log_w)}",
        ),
        Check(
            "weights that are zero",
            """
inf = math.inf
log_w = torch.tensor([[-inf, 0.0, -inf], [-inf, -inf, 400.0], [-inf, 1.0, 401.0]], dtype=torch.float64)
found = {"bound": iwlb(log_w)}
""",
            hidden=True,
        ),
        Check(
            "two batch axes, single precision, k = 1 and k = 5",
            """
log_w = 50 * torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1))
found = {"k = 5": iwlb(log_w), "k = 1": iwlb(log_w[:1]), "still in single precision": iwlb(log_w).dtype == torch.float32}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "That is the mean of the log-weights, the ELBO. Here the mean comes first and the logarithm afterwards.",
            "def iwlb(log_weights):\n    return log_weights.mean(0)",
        ),
        Mutant(
            "That is the logarithm of a sum. The bound takes the mean weight, so a term in k is missing.",
            changed(IWLB, (" - math.log(log_weights.shape[0])", "")),
        ),
        Mutant(
            "You divide the sum by the number of all entries. Each image has k weights, however many images there are.",
            changed(IWLB, ("log_weights.shape[0]", "log_weights.numel()")),
        ),
        Mutant(
            "You reduced the last axis. The importance samples are on the first.",
            "def iwlb(log_weights):\n    return log_weights.exp().mean(-1).log()",
        ),
        Mutant(
            "You averaged over images too. Every image has a bound of its own.",
            "def iwlb(log_weights):\n    return log_weights.exp().mean().log()",
        ),
        Mutant(
            "What you subtracted before the exponential has to be added again after the logarithm.",
            changed(IWLB, (" + largest", "")),
        ),
        Mutant(
            "The value is right, but no gradient arrives at the log-weights: something cut it off on the way.",
            changed(IWLB, ("total.log()", "total.log().detach()")),
        ),
        Mutant(
            "A function was called that this part does not allow: the point is to know what it does.",
            "def iwlb(log_weights):\n    return log_weights.logsumexp(0) - math.log(len(log_weights))",
        ),
        Mutant(
            "The weights left log space as they were: those of real images are 0 or infinite as numbers.",
            "def iwlb(log_weights):\n    return log_weights.exp().mean(0).log()",
        ),
        Mutant(
            "You subtract the largest log-weight of the whole batch. An image far below another one then loses all its "
            "weights.",
            changed(IWLB, ("log_weights.max(0).values", "log_weights.max()")),
        ),
        Mutant(
            "You subtract the mean log-weight. A single weight far above the others still overflows, and it is the one "
            "that matters.",
            changed(IWLB, ("log_weights.max(0).values", "log_weights.mean(0)")),
        ),
        Mutant(
            "Where all weights are zero you subtract −∞ from −∞, which is not a number.",
            changed(IWLB, ("    largest = torch.where(largest.isinf(), torch.zeros_like(largest), largest)\n", "")),
        ),
    ],
    alternatives=[
        IWLB,
        """\
def iwlb(log_weights):
    largest, _ = torch.max(log_weights, dim=0, keepdim=True)
    largest = torch.clamp(largest, min=-1e30)
    return torch.log(torch.exp(log_weights - largest).mean(dim=0)) + largest.squeeze(0)
""",
        """\
def iwlb(log_weights):
    k = log_weights.shape[0]
    best, _ = log_weights.sort(0, descending=True)
    top = best[0]
    empty = top == -math.inf
    safe = top.masked_fill(empty, 0)
    return safe + torch.log(sum((row - safe).exp() for row in best) / k)
""",
    ],
)

# --- 2b ---------------------------------------------------------------------------------------------------------------

EXACT = """\
def iwlb_exact(joint, q, k):
    nz, nx = joint.shape
    result = torch.zeros(nx, dtype=joint.dtype)
    p_table, q_table = joint.tolist(), q.tolist()
    for draws in torch.cartesian_prod(*[torch.arange(nz)] * k).reshape(-1, k).tolist():
        for x in range(nx):
            p = math.prod(q_table[z][x] for z in draws)
            if p > 0:
                mean_w = sum(p_table[z][x] / q_table[z][x] for z in draws) / k
                result[x] += p * (math.log(mean_w) if mean_w > 0 else -math.inf)
    return result
"""
TABLES = """
generator = torch.Generator().manual_seed(3)
model, other = (DiscreteModel.random(4, 3, generator) for _ in range(2))
joint, q = model.joint(), other.posterior()
"""

iwlb_exact = Part(
    "2b",
    "The exact bound of a discrete model",
    9,
    checks=[
        Check(
            "k = 2",
            TABLES
            + """
before = joint.clone(), q.clone()
found = {"L_2": iwlb_exact(joint, q, 2)}
found["the tables are left alone"] = torch.equal(before[0], joint) and torch.equal(before[1], q)
""",
        ),
        Check(
            "k = 1 and k = 3",
            TABLES + "found = {'L_1': iwlb_exact(joint, q, 1), 'L_3': iwlb_exact(joint, q, 3)}",
        ),
        Check(
            "with the exact posterior, every rung is log p(x)",
            TABLES
            + """
found = {}
for k in (1, 2, 4):
    found[f"L_{k} − log p(x)"] = iwlb_exact(joint, model.posterior(), k) - model.marginal().log()
""",
        ),
        Check(
            "values that are never drawn",
            TABLES
            + """
q = q * torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 0], [1, 1, 1]])
q = q / q.sum(0)
found = {"L_1": iwlb_exact(joint, q, 1), "L_3": iwlb_exact(joint, q, 3)}
""",
        ),
        Check(
            "weights that are zero, and a value that is never drawn",
            TABLES
            + """
joint, q = joint.clone(), q.clone()
joint[0, 0], joint[1, 1], q[1, 1], q[2, 2] = 0, 0, 0, 0
q = q / q.sum(0)
found = {"L_2": iwlb_exact(joint, q, 2), "L_4": iwlb_exact(joint, q, 4)}
""",
            hidden=True,
        ),
        Check(
            "another size: two values, five images, k = 6",
            """
generator = torch.Generator().manual_seed(8)
model, other = (DiscreteModel.random(2, 5, generator) for _ in range(2))
found = {"L_6": iwlb_exact(model.joint(), other.posterior(), 6)}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "That is the ELBO for every k: the mean of the logarithm of one weight.",
            "def iwlb_exact(joint, q, k):\n    return torch.xlogy(q, torch.where(q > 0, joint / q, 1.0)).sum(0)",
        ),
        Mutant(
            "You count all outcomes alike. An outcome has the probability that q gives to its draws.",
            changed(EXACT, ("p = math.prod(q_table[z][x] for z in draws)", "p = nz ** -k")),
        ),
        Mutant(
            "You divide by p(x): with the posterior for the joint you get L_k − log p(x), minus the gap.",
            changed(EXACT, ("    nz, nx = joint.shape", "    nz, nx = joint.shape\n    joint = joint / joint.sum(0)")),
        ),
        Mutant(
            "You take the logarithm of the sum of the k weights. The bound has their mean.",
            changed(EXACT, (" for z in draws) / k\n", " for z in draws)\n")),
        ),
        Mutant(
            "Your draws are all different. They are independent, so the same value may come twice.",
            changed(
                EXACT,
                ("            if p > 0:", "            if p > 0 and len(set(draws)) == k:"),
            ),
        ),
        Mutant(
            "You counted each set of values once. The same values in another order are another outcome.",
            changed(EXACT, ("            if p > 0:", "            if p > 0 and draws == sorted(draws):")),
        ),
        Mutant(
            "You took the logarithm of the expected mean weight, which is log p(x). The logarithm belongs inside.",
            "def iwlb_exact(joint, q, k):\n    return torch.where(q > 0, joint, 0.0).sum(0).log()",
        ),
        Mutant(
            "Your draws come from the posterior. The bound draws from q.",
            changed(
                EXACT,
                ("q_table[z][x] for z in draws)\n", "p_table[z][x] / sum(row[x] for row in p_table) for z in draws)\n"),
            ),
        ),
        Mutant(
            "You multiply the k weights. The bound has the logarithm of their mean.",
            changed(
                EXACT,
                (
                    "sum(p_table[z][x] / q_table[z][x] for z in draws) / k",
                    "math.prod(p_table[z][x] / q_table[z][x] for z in draws)",
                ),
            ),
        ),
        Mutant(
            "Where q is zero, a probability of 0 meets an infinite weight, and 0 · ∞ is not a number. What is never drawn "
            "has to be left out before.",
            """\
def iwlb_exact(joint, q, k):
    probability, total = torch.ones_like(q[:1]), torch.zeros_like(q[:1])
    for _ in range(k):
        probability = (probability[:, None] * q).flatten(0, 1)
        total = (total[:, None] + joint / q).flatten(0, 1)
    return (probability * (total / k).log()).sum(0)
""",
        ),
        Mutant(
            "You skip draws whose weights are all zero. They happen, and their logarithm is −∞.",
            changed(EXACT, ("(math.log(mean_w) if mean_w > 0 else -math.inf)", "math.log(mean_w or 1.0)")),
        ),
    ],
    alternatives=[
        EXACT,
        """\
def iwlb_exact(joint, q, k):
    draws = torch.cartesian_prod(*[torch.arange(len(q))] * k).reshape(-1, k)
    safe_q = torch.where(q > 0, q, torch.ones_like(q))
    w = joint / safe_q
    chance = q[draws].prod(1)
    mean_w = w[draws].mean(1)
    terms = torch.where(chance > 0, chance * mean_w.log(), torch.zeros_like(chance))
    return terms.sum(0)
""",
        """\
from itertools import combinations_with_replacement as multisets
def iwlb_exact(joint, q, k):
    columns = []
    for p, law in zip(joint.T, q.T):
        value = torch.zeros((), dtype=joint.dtype)
        reachable = [z for z in range(len(law)) if law[z] > 0]
        for draws in multisets(reachable, k):
            orders = math.factorial(k)
            for z in set(draws):
                orders //= math.factorial(draws.count(z))
            index = torch.tensor(draws)
            value = value + orders * law[index].prod() * (p[index] / law[index]).mean().log()
        columns.append(value)
    return torch.stack(columns)
""",
    ],
)

# --- 3b ---------------------------------------------------------------------------------------------------------------

GAP = """\
def sampled_gap(log_r):
    k, runs = log_r.shape
    r_bar = log_r.exp().mean(0)
    gaps = r_bar - 1 - r_bar.log()
    error = gaps.std() / math.sqrt(runs)
    return gaps.mean(), error
"""
RUNS = "log_r = 0.7 * torch.randn(4, 500, dtype=torch.float64) - 0.2\nbefore = log_r.clone()\n"

sampled_gap = Part(
    "3b",
    "Measuring a small gap",
    7,
    checks=[
        Check(
            "500 runs of 4 codes",
            RUNS
            + """
gap, error = sampled_gap(log_r)
found = {"gap": gap, "100 standard errors": 100 * error, "log_r is left alone": torch.equal(before, log_r)}
""",
            within=2e-3,
        ),
        Check(
            "known weights",
            """
constant = torch.full((3, 50), 0.5, dtype=torch.float64)
found = {"gap if every r is 1": sampled_gap(0 * constant)[0], "its standard error": sampled_gap(0 * constant)[1],
         "gap if every r is e^½": sampled_gap(constant)[0]}
""",
        ),
        Check(
            "2,000 codes, where the logarithm alone drowns in its noise",
            """
noise = torch.randn(2000, 300, dtype=torch.float64)
gap, error = sampled_gap(0.4 * noise - 0.08)  # log-normal: chi-squared is exp(0.16) − 1
truth = math.expm1(0.16) / 4000
def beyond(value, target, free):
    return math.copysign(max(abs(value - target) - free, 0.0), value - target) + 0.0
found = {"gap over its true value, less 1 and what chance explains": beyond(float(gap) / truth, 1.0, 0.5),
         "log of the standard error over its true value, less what chance explains":
         beyond(math.log(float(error) / truth / 0.082), 0.0, 0.5)}
""",
            within=0.01,
            hidden=True,
        ),
        Check(
            "single precision, k = 1",
            """
log_r = 0.3 * torch.randn(1, 400, generator=torch.Generator().manual_seed(2))
gap, error = sampled_gap(log_r)
found = {"gap": gap, "100 standard errors": 100 * error, "shapes": [list(gap.shape), list(error.shape)] == [[], []]}
""",
            within=3e-3,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "You average −log r̄, without the control variate. The mean is the same in the long run, the noise is far "
            "larger.",
            changed(GAP, ("r_bar - 1 - r_bar.log()", "-r_bar.log()")),
        ),
        Mutant(
            "The control variate has the wrong sign: it doubles the noise instead of removing it.",
            changed(GAP, ("r_bar - 1 - r_bar.log()", "1 - r_bar - r_bar.log()")),
        ),
        Mutant(
            "Your gap is negative: the bound lies below log p(x), and the gap is how far.",
            changed(GAP, ("r_bar - 1 - r_bar.log()", "r_bar.log() - r_bar + 1")),
        ),
        Mutant(
            "You give the standard deviation of a single run, not that of the mean over the runs.",
            changed(GAP, (" / math.sqrt(runs)", "")),
        ),
        Mutant(
            "You give the square of the standard error, a variance.",
            changed(GAP, ("gaps.std() / math.sqrt(runs)", "gaps.var() / runs")),
        ),
        Mutant(
            "Your standard error counts every code. The k codes of a run make one estimate; only the runs are "
            "independent estimates.",
            changed(GAP, ("math.sqrt(runs)", "math.sqrt(k * runs)")),
        ),
        Mutant(
            "You treat every code as a run of its own, so this is the gap of the ELBO. The mean over the k codes comes "
            "before the logarithm.",
            changed(GAP, ("r_bar = log_r.exp().mean(0)", "r_bar = log_r.exp().flatten()")),
        ),
        Mutant(
            "You averaged over the runs first. The codes of one run are on the first axis.",
            changed(
                GAP,
                (".mean(0)", ".mean(1)"),
                ("gaps.std() / math.sqrt(runs)", "gaps.std(unbiased=False) / math.sqrt(k)"),
            ),
        ),
        Mutant(
            "The sum of the k weights was not divided by k.",
            changed(GAP, (".exp().mean(0)", ".exp().sum(0)")),
        ),
        Mutant(
            "The 1 is missing: r̄ has mean 1, so only r̄ − 1 may be added for free.",
            changed(GAP, ("r_bar - 1 -", "r_bar -")),
        ),
    ],
    alternatives=[
        GAP,
        """\
def sampled_gap(log_r):
    log_mean = torch.logsumexp(log_r - math.log(len(log_r)), dim=0)
    gaps = log_mean.exp() - 1 - log_mean
    return gaps.sum() / len(gaps), gaps.std(unbiased=False) / len(gaps) ** 0.5
""",
        """\
def sampled_gap(log_r):
    total, squares = 0.0, 0.0
    for run in log_r.unbind(1):
        r = run.exp().mean()
        gap = r - 1 - r.log()
        total, squares = total + gap, squares + gap ** 2
    n = log_r.shape[1]
    mean = total / n
    return mean, ((squares / n - mean ** 2).clamp(min=0) / (n - 1)).sqrt()
""",
    ],
)

# --- 3c ---------------------------------------------------------------------------------------------------------------

ONE_PASS = """\
def bound_and_ess(chunks):
    k, log_sum, log_squares = 0, None, None
    for chunk in chunks:
        first, second = torch.logsumexp(chunk, 0), torch.logsumexp(2 * chunk, 0)
        log_sum = first if log_sum is None else torch.logaddexp(log_sum, first)
        log_squares = second if log_squares is None else torch.logaddexp(log_squares, second)
        k = k + chunk.shape[0]
    bound = log_sum - math.log(k)
    ess = torch.exp(2 * log_sum - log_squares)
    return bound, ess
"""
CHUNKS = """
generator = torch.Generator().manual_seed(4)
log_w = torch.randn(12, 2, generator=generator, dtype=torch.float64)
"""

bound_and_ess = Part(
    "3c",
    "One pass over a million codes",
    9,
    checks=[
        Check(
            "chunks of 2, 7 and 3 codes, two images",
            CHUNKS + "bound, ess = bound_and_ess(log_w.split([2, 7, 3]))\nfound = {'bound': bound, 'ESS': ess}",
        ),
        Check(
            "chunks of 4 and 1, and equal weights",
            CHUNKS
            + """
bound, ess = bound_and_ess([log_w[:4], log_w[4:5]])
found = {"bound": bound, "ESS": ess, "ESS of equal weights": bound_and_ess([0 * log_w[:5], 0 * log_w[:3]])[1]}
""",
        ),
        Check(
            "a photograph",
            CHUNKS
            + """
log_w = 5 * log_w + torch.tensor([-3000.0, 2000.0], dtype=torch.float64)
bound, ess = bound_and_ess(list(log_w.split([4, 8])))
found = {"bound": bound, "ESS": ess}
""",
        ),
        Check(
            "chunks from a generator, one at a time",
            CHUNKS
            + """
import weakref
alive, most = [], [0]
def one_at_a_time():
    for _ in range(12):
        most[0] = max(most[0], sum(each() is not None for each in alive))
        chunk = torch.zeros(5 - 2 * (len(alive) % 2), 2, dtype=torch.float64) + 0.1 * len(alive)
        alive.append(weakref.ref(chunk))
        yield chunk
        del chunk
bound, ess = bound_and_ess(one_at_a_time())
found = {"bound": bound, "ESS": ess, "chunks are kept": most[0] > 4}
""",
        ),
        Check(
            "cut in any way, the result is the same",
            CHUNKS
            + """
log_w = 2 * log_w
found = {}
for sizes in ([12], [1] * 12, [11, 1], [1, 11]):
    bound, ess = bound_and_ess(log_w.split(sizes))
    found[f"bound, chunks of {sizes}"], found[f"ESS, chunks of {sizes}"] = bound, ess
""",
            hidden=True,
        ),
        Check(
            "no batch axis, and two of them in single precision",
            """
log_w = 3 * torch.randn(9, 2, 3, generator=torch.Generator().manual_seed(6))
one, two = bound_and_ess(log_w[:, 0, 0].split(4)), bound_and_ess(log_w.split(2))
found = {"bound of one image": one[0], "its ESS": one[1], "bounds": two[0], "ESS": two[1]}
""",
            within=1e-3,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "You average the bounds of the chunks. The mean weight comes first and the logarithm only at the end, over all "
            "codes.",
            """\
def bound_and_ess(chunks):
    chunks = list(chunks)
    log_w = torch.cat(chunks)
    bounds = [c.logsumexp(0) - math.log(len(c)) for c in chunks]
    return torch.stack(bounds).mean(0), 1 / log_w.softmax(0).square().sum(0)
""",
        ),
        Mutant(
            "All chunks count alike in your bound, whatever their size. A chunk with more codes has more weight.",
            """\
def bound_and_ess(chunks):
    chunks = list(chunks)
    log_w = torch.cat(chunks)
    bounds = torch.stack([c.logsumexp(0) - math.log(len(c)) for c in chunks])
    return bounds.logsumexp(0) - math.log(len(chunks)), 1 / log_w.softmax(0).square().sum(0)
""",
        ),
        Mutant(
            "You divide by the number of chunks. The mean weight divides by the number of codes in all of them.",
            changed(ONE_PASS, ("k = k + chunk.shape[0]", "k = k + 1")),
        ),
        Mutant(
            "You never divide by the number of codes: that is the logarithm of a sum of weights.",
            changed(ONE_PASS, ("log_sum - math.log(k)", "log_sum")),
        ),
        Mutant(
            "You add up the effective sizes of the chunks. Weights are normalized over all codes: one large weight in one "
            "chunk makes all others worthless.",
            """\
def bound_and_ess(chunks):
    chunks = list(chunks)
    log_w = torch.cat(chunks)
    ess = sum(1 / c.softmax(0).square().sum(0) for c in chunks)
    return log_w.logsumexp(0) - math.log(len(log_w)), ess
""",
        ),
        Mutant(
            "Your sums start with log Σ = 0. That is a sum of 1, so a weight of 1 has slipped in.",
            changed(
                ONE_PASS,
                ("log_sum, log_squares = 0, None, None", "log_sum, log_squares = 0, torch.zeros(()), torch.zeros(())"),
            ),
        ),
        Mutant(
            "In your ESS the sum of the weights is not squared.",
            changed(ONE_PASS, ("2 * log_sum - log_squares", "log_sum - log_squares")),
        ),
        Mutant(
            "You square the log-weights. The logarithm of a squared weight is twice its log-weight.",
            changed(ONE_PASS, ("torch.logsumexp(2 * chunk, 0)", "torch.logsumexp(chunk ** 2, 0)")),
        ),
        Mutant(
            "That is ESS/k, the share of the samples. The size itself is between 1 and k.",
            changed(ONE_PASS, ("    return", "    ess = ess / k\n    return")),
        ),
        Mutant(
            "Your ESS is upside down: it is the sum of the squared normalized weights.",
            changed(ONE_PASS, ("torch.exp(2 * log_sum - log_squares)", "torch.exp(log_squares - 2 * log_sum)")),
        ),
        Mutant(
            "You return the logarithm of the ESS.",
            changed(ONE_PASS, ("torch.exp(2 * log_sum - log_squares)", "2 * log_sum - log_squares")),
        ),
        Mutant(
            "You found the last chunk's figures only; the sums have to go on from chunk to chunk.",
            changed(
                ONE_PASS,
                ("first if log_sum is None", "first if True"),
                ("second if log_squares is None", "second if True"),
                ("k = k + chunk.shape[0]", "k = chunk.shape[0]"),
            ),
        ),
        Mutant(
            "Your running sums are not in log space. They are 0 or infinite for the weights of a real image.",
            """\
def bound_and_ess(chunks):
    k, total, squares = 0, 0.0, 0.0
    for chunk in chunks:
        k, total, squares = k + len(chunk), total + chunk.exp().sum(0), squares + chunk.exp().square().sum(0)
    return (total / k).log(), total ** 2 / squares
""",
        ),
        Mutant(
            "The figures are right, but you keep the chunks. A million codes do not fit; only a few numbers per image may "
            "stay.",
            """\
def bound_and_ess(chunks):
    log_w = torch.cat(list(chunks))
    return log_w.logsumexp(0) - math.log(len(log_w)), 1 / log_w.softmax(0).square().sum(0)
""",
        ),
    ],
    alternatives=[
        ONE_PASS,
        """\
def bound_and_ess(chunks):
    k, top, total, squares = 0, -math.inf, 0.0, 0.0
    for chunk in chunks:
        k += len(chunk)
        new = torch.maximum(chunk.amax(0), torch.as_tensor(top, dtype=chunk.dtype))
        shrink = (top - new).exp()
        total = total * shrink + (chunk - new).exp().sum(0)
        squares = squares * shrink ** 2 + (chunk - new).exp().square().sum(0)
        top = new
    return top + (total / k).log(), total ** 2 / squares
""",
        """\
def bound_and_ess(chunks):
    chunks = iter(chunks)
    first = next(chunks)
    state = [len(first), first.logsumexp(0), (first * 2).logsumexp(0)]
    for chunk in chunks:
        state[0] += len(chunk)
        state[1] = torch.cat([state[1][None], chunk]).logsumexp(0)
        state[2] = torch.cat([state[2][None], 2 * chunk]).logsumexp(0)
    k, first, second = state
    return first - math.log(k), ((first - second) + first).exp()
""",
    ],
)

# --- 3d ---------------------------------------------------------------------------------------------------------------

SELF_NORMALIZED = """\
def posterior_mean(log_weights, values):
    w = (log_weights - log_weights.max(0).values).exp()
    w = w / w.sum(0)
    return torch.einsum("k...,k...m->...m", w, values)
"""

posterior_mean = Part(
    "3d",
    "Expectations under the posterior",
    6,
    checks=[
        Check(
            "four codes of three images, two functions",
            """
generator = torch.Generator().manual_seed(7)
log_w = torch.randn(4, 3, generator=generator, dtype=torch.float64)
values = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64) + 1
before = values.clone(), log_w.clone()
found = {"means": posterior_mean(log_w, values)}
found["the arguments are left alone"] = torch.equal(before[0], values) and torch.equal(before[1], log_w)
""",
        ),
        Check(
            "a grid of codes: mean and mean square of N(1.5, 0.5²)",
            """
z = torch.linspace(-6, 9, 2001, dtype=torch.float64)
log_w = 700 - 2 * (z - 1.5) ** 2
found = {"mean and mean square": posterior_mean(log_w, torch.stack([z, z ** 2], -1)) - torch.tensor([1.5, 2.5])}
""",
        ),
        Check(
            "a constant that is known only up to ±5,000 nats",
            """
log_w = torch.tensor([[-0.3, 1.0], [0.4, 0.2], [1.1, -0.6]], dtype=torch.float64)
log_w = log_w + torch.tensor([-5000.0, 5000.0], dtype=torch.float64)
found = {"means": posterior_mean(log_w, torch.arange(6.0, dtype=torch.float64).reshape(3, 2, 1))}
""",
        ),
        Check(
            "two batch axes, single precision",
            """
generator = torch.Generator().manual_seed(9)
log_w, values = 9 * torch.randn(6, 2, 3, generator=generator), torch.randn(6, 2, 3, 4, generator=generator)
found = {"means": posterior_mean(log_w, values)}
""",
            hidden=True,
        ),
        Check(
            "k = 1, and no batch axis",
            "found = {'mean': posterior_mean(torch.tensor([-80.0]), torch.tensor([[2.0, -3.0, 0.5]]))}",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "That is the plain mean over the codes, an expectation under the proposal.",
            "def posterior_mean(log_weights, values):\n    return values.mean(0)",
        ),
        Mutant(
            "Your weights are not normalized: what you estimate is p(x) times the expectation.",
            "def posterior_mean(log_weights, values):\n    return (log_weights.exp()[..., None] * values).mean(0)",
        ),
        Mutant(
            "You normalize over the wrong axis. For each image the weights of its k codes sum to 1.",
            "def posterior_mean(log_weights, values):\n    return (log_weights.softmax(-1)[..., None] * values).sum(0)",
        ),
        Mutant(
            "You normalize over all codes of all images. For each image the weights of its own k codes sum to 1.",
            """\
def posterior_mean(log_weights, values):
    w = log_weights.flatten().softmax(0).reshape(log_weights.shape)
    return (w[..., None] * values).sum(0)
""",
        ),
        Mutant(
            "Normalized weights sum to 1 already. Their mean divides by k once more.",
            "def posterior_mean(log_weights, values):\n    return (log_weights.softmax(0)[..., None] * values).mean(0)",
        ),
        Mutant(
            "You weigh with log-weights. They have to become weights first.",
            """\
def posterior_mean(log_weights, values):
    return (log_weights[..., None] * values).sum(0)
""",
        ),
        Mutant(
            "Your weights are upside down: a code that the posterior likes better than the proposal should count more.",
            "def posterior_mean(log_weights, values):\n    return ((-log_weights).softmax(0)[..., None] * values).sum(0)",
        ),
        Mutant(
            "Your weights are squared.",
            "def posterior_mean(log_weights, values):\n    return ((2 * log_weights).softmax(0)[..., None] * values).sum(0)",
        ),
        Mutant(
            "You return the value at the best code. The others count, too, in proportion to their weights.",
            """\
def posterior_mean(log_weights, values):
    best = log_weights.argmax(0)[None, ..., None].expand(1, *values.shape[1:])
    return values.gather(0, best)[0]
""",
        ),
        Mutant(
            "The formula is right, but the weights overflow or vanish before they are normalized.",
            """\
def posterior_mean(log_weights, values):
    w = log_weights.exp()
    return (w[..., None] * values).sum(0) / w.sum(0)[..., None]
""",
        ),
    ],
    alternatives=[
        SELF_NORMALIZED,
        """\
def posterior_mean(log_weights, values):
    w = torch.exp(log_weights - torch.logsumexp(log_weights, dim=0, keepdim=True))
    return torch.stack([(w * values[..., i]).sum(0) for i in range(values.shape[-1])], -1)
""",
        """\
def posterior_mean(log_weights, values):
    w = (log_weights - log_weights.amax(0, keepdim=True)).exp().unsqueeze(-1)
    return (w * values).mean(0) / w.mean(0)
""",
    ],
)

# --- 4a ---------------------------------------------------------------------------------------------------------------

SURROGATE = """\
def iwae_surrogate(log_weights):
    w = torch.softmax(log_weights, 0).detach()
    return (w * log_weights).sum(0)
"""

iwae_surrogate = Part(
    "4a",
    "Weights that are constants",
    6,
    checks=[
        Check(
            "three codes of two images: value, and gradient in the log-weights",
            """
log_w = torch.tensor([[0.3, -1.0], [1.2, 0.5], [-0.7, 2.0]], dtype=torch.float64, requires_grad=True)
value = iwae_surrogate(log_w)
found = {"value": value, "a gradient flows": value.requires_grad}
if value.requires_grad:
    found["gradient"] = torch.autograd.grad(value.sum(), log_w)[0]
""",
        ),
        Check(
            "in a parameter, it is the gradient of the bound",
            """
theta = torch.tensor([0.4, -0.2], dtype=torch.float64, requires_grad=True)
z = torch.linspace(-2, 2, 10, dtype=torch.float64).reshape(5, 2)
def log_w():
    return -(z - theta[0]) ** 2 + theta[1] * z
bound = torch.autograd.grad(log_w().logsumexp(0).sum(), theta)[0]
found = {"surrogate's gradient − bound's gradient": torch.autograd.grad(iwae_surrogate(log_w()).sum(), theta)[0] - bound}
""",
        ),
        Check(
            "a photograph",
            """
log_w = torch.tensor([[-2000.0, 1000.0], [-2001.0, 999.0], [-2003.0, 1001.0]], dtype=torch.float64, requires_grad=True)
found = {"gradient": torch.autograd.grad(iwae_surrogate(log_w).sum(), log_w)[0]}
""",
        ),
        Check(
            "two batch axes, single precision, and k = 1",
            """
log_w = (9 * torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(3))).requires_grad_()
found = {"gradient": torch.autograd.grad(iwae_surrogate(log_w).sum(), log_w)[0]}
found["gradient at k = 1"] = torch.autograd.grad(iwae_surrogate(log_w[:1]).sum(), log_w)[0][0]
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "A gradient flows through the normalized weights as well, and the result is no longer that of the bound.",
            changed(SURROGATE, (".detach()", "")),
        ),
        Mutant(
            "No gradient arrives: you held the log-weights constant. Only the normalized weights in front of them are.",
            changed(SURROGATE, ("(w * log_weights)", "(w * log_weights.detach())")),
        ),
        Mutant(
            "You held the wrong factor constant: the log-weights are to be differentiated, the normalized weights not.",
            changed(SURROGATE, (".detach()", ""), ("(w * log_weights)", "(w * log_weights.detach())")),
        ),
        Mutant(
            "All samples vote alike: that is the ELBO's gradient.",
            "def iwae_surrogate(log_weights):\n    return log_weights.mean(0)",
        ),
        Mutant(
            "Your weights are not normalized. An image with large weights would drown all others.",
            changed(SURROGATE, ("torch.softmax(log_weights, 0)", "log_weights.exp()")),
        ),
        Mutant(
            "You normalize over the images. The weights of the k codes of one image sum to 1.",
            changed(SURROGATE, ("torch.softmax(log_weights, 0)", "torch.softmax(log_weights, -1)")),
        ),
        Mutant(
            "You squared the normalized weights. That belongs to another estimator, in the next part.",
            changed(SURROGATE, (".detach()", ".detach() ** 2")),
        ),
        Mutant(
            "You take a mean over the samples. The normalized weights already divide by k.",
            changed(SURROGATE, (".sum(0)", ".mean(0)")),
        ),
        Mutant(
            "That is the bound itself. Its gradient is right, but the surrogate is a weighted sum of log-weights; the next "
            "part needs its pieces.",
            "def iwae_surrogate(log_weights):\n    return log_weights.logsumexp(0) - math.log(len(log_weights))",
        ),
        Mutant(
            "The sign is turned: this surrogate is to be maximized, as the bound is.",
            changed(SURROGATE, ("return ", "return -")),
        ),
    ],
    alternatives=[
        SURROGATE,
        """\
def iwae_surrogate(log_weights):
    with torch.no_grad():
        w = torch.exp(log_weights - log_weights.logsumexp(0))
    return torch.einsum("k...,k...->...", w, log_weights)
""",
        """\
def iwae_surrogate(log_weights):
    constant = log_weights.detach()
    w = (constant - constant.max(0).values).exp()
    return sum(a * b for a, b in zip(w / w.sum(0), log_weights))
""",
    ],
)

# --- 4b ---------------------------------------------------------------------------------------------------------------

DREG = """\
def dreg_surrogate(log_joint, mean, std, noise):
    z = mean + std * noise
    m, s = mean.detach(), std.detach()
    log_q = (-0.5 * ((z - m) / s) ** 2 - s.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    log_w = log_joint(z) - log_q
    w = log_w.softmax(0).detach()
    return (w ** 2 * log_w).sum(0)
"""
PROPOSAL = """
generator = torch.Generator().manual_seed(11)
def some(*shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)
def log_joint(z):
    return -0.5 * ((z - 0.3) ** 2).sum(-1) - 0.2 * z[..., 0] ** 4 - 0.4 * z[..., 0] * z[..., 1]
def gradients(mean, std, noise, log_joint=log_joint):
    mean, std = mean.clone().requires_grad_(), std.clone().requires_grad_()
    surrogate = dreg_surrogate(log_joint, mean, std, noise)
    found = {"shape of the surrogate": surrogate.shape, "a gradient flows": surrogate.requires_grad}
    if surrogate.requires_grad:
        by_mean, by_std = torch.autograd.grad(surrogate.sum(), (mean, std), allow_unused=True)
        found["gradient in mean"] = torch.zeros_like(mean) if by_mean is None else by_mean
        found["gradient in std"] = torch.zeros_like(std) if by_std is None else by_std
    return found
"""

dreg_surrogate = Part(
    "4b",
    "Doubly reparameterized",
    10,
    checks=[
        Check("five codes of one image", PROPOSAL + "found = gradients(some(2), some(2).exp(), some(5, 2))"),
        Check(
            "a batch of three images",
            PROPOSAL + "found = gradients(some(3, 2), some(3, 2).exp(), some(4, 3, 2))",
        ),
        Check(
            "at the exact posterior there is no noise at all",
            PROPOSAL
            + """
mean, std = some(2), some(2).exp()
def exact(z):
    return (-0.5 * ((z - mean) / std) ** 2).sum(-1) - 100
found = gradients(mean, std, some(6, 2), exact)
""",
        ),
        Check(
            "in the mean, it is the gradient of the bound (k = 2, every pair of 40 quadrature nodes)",
            PROPOSAL
            + """
import numpy
nodes, chance = (torch.from_numpy(each) for each in numpy.polynomial.hermite_e.hermegauss(40))
chance = chance / chance.sum()
noise = torch.stack([nodes[:, None].expand(40, 40), nodes.expand(40, 40)])[..., None]
def bend(z):
    return -0.5 * ((z[..., 0] - 1) / 0.9) ** 2
def total(make):
    mean = torch.tensor([0.2], dtype=torch.float64, requires_grad=True)
    std = torch.tensor([0.8], dtype=torch.float64, requires_grad=True)
    on_pairs = mean.expand(40, 40, 1), std.expand(40, 40, 1)
    expectation = (chance[:, None] * chance * make(*on_pairs)).sum()
    return torch.stack(torch.autograd.grad(expectation, (mean, std)))
def bound(mean, std):
    z = mean + std * noise
    log_w = bend(z) + (0.5 * ((z - mean) / std) ** 2 + std.log())[..., 0]
    return log_w.logsumexp(0)
found = {"mean surrogate's gradient − the bound's": total(lambda m, s: dreg_surrogate(bend, m, s, noise)) - total(bound)}
""",
            hidden=True,
        ),
        Check(
            "two batch axes, log-weights of ±3,000, and k = 1",
            PROPOSAL
            + """
mean, std, noise = some(2, 3, 2), some(2, 3, 2).exp(), some(4, 2, 3, 2)
shift = 3000 * torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
found = gradients(mean, std, noise, lambda z: log_joint(z) + shift)
found |= {f"{name}, k = 1": value for name, value in gradients(mean, std, noise[:1]).items()}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "The parameters inside log q are still differentiated. That is the noisy second part, which squared weights "
            "already account for.",
            changed(DREG, ("m, s = mean.detach(), std.detach()", "m, s = mean, std")),
        ),
        Mutant(
            "The normalized weights are not squared. Dropping the second part without that makes the gradient biased for "
            "every k above 1.",
            changed(DREG, ("w ** 2 * log_w", "w * log_w")),
        ),
        Mutant(
            "A gradient flows through the squared weights. They have to be constants.",
            changed(DREG, (".softmax(0).detach()", ".softmax(0)")),
        ),
        Mutant(
            "No gradient reaches the proposal: the codes were cut off from its mean and std.",
            changed(DREG, ("z = mean + std * noise", "z = (mean + std * noise).detach()")),
        ),
        Mutant(
            "You cut the codes off and differentiate log q in its parameters: that is the other part, the one to be "
            "rid of.",
            changed(
                DREG,
                ("z = mean + std * noise", "z = (mean + std * noise).detach()"),
                ("m, s = mean.detach(), std.detach()", "m, s = mean, std"),
                ("w ** 2 * log_w", "w * log_w"),
            ),
        ),
        Mutant(
            "The sign is turned: the surrogate is to be maximized.",
            changed(DREG, ("return (w", "return -(w")),
        ),
        Mutant(
            "The proposal is missing from your weights: log w is log p(x, z) minus log q(z|x).",
            changed(DREG, ("log_joint(z) - log_q", "log_joint(z)")),
        ),
        Mutant(
            "You kept ŵ(1 − ŵ). That is what was subtracted; ŵ² is left.",
            changed(DREG, ("w ** 2 * log_w", "w * (1 - w) * log_w")),
        ),
        Mutant(
            "You take a mean over the samples where the formula has a sum.",
            changed(DREG, ("(w ** 2 * log_w).sum(0)", "(w ** 2 * log_w).mean(0)")),
        ),
        Mutant(
            "The ½ is missing in the exponent of q, so the slope of log q is twice what it should be.",
            changed(DREG, ("-0.5 * ((z", "-((z")),
        ),
        Mutant(
            "You divide by std where the variance belongs, in the exponent of q.",
            changed(DREG, ("((z - m) / s) ** 2", "(z - m) ** 2 / s")),
        ),
        Mutant(
            "You add log q. A weight divides by the proposal's density.",
            changed(DREG, ("log_joint(z) - log_q", "log_joint(z) + log_q")),
        ),
        Mutant(
            "log q has to keep the code's own path: it was computed from the noise, so nothing flows from it through z.",
            changed(DREG, ("-0.5 * ((z - m) / s) ** 2", "-0.5 * noise ** 2")),
        ),
    ],
    alternatives=[
        DREG,
        """\
def dreg_surrogate(log_joint, mean, std, noise):
    z = mean + std * noise
    free = z.detach().requires_grad_()
    log_w = log_joint(free) + (0.5 * ((free - mean.detach()) / std.detach()) ** 2 + std.detach().log()).sum(-1)
    (slope,) = torch.autograd.grad(log_w.sum(), free)
    w = log_w.detach().softmax(0)
    return (w[..., None] ** 2 * slope * z).sum((0, -1))
""",
        """\
def dreg_surrogate(log_joint, mean, std, noise):
    z = mean + std * noise
    q = torch.distributions.Independent(torch.distributions.Normal(mean.detach(), std.detach()), 1)
    log_w = log_joint(z) - q.log_prob(z)
    with torch.no_grad():
        squared = (2 * (log_w - log_w.logsumexp(0))).exp()
    return sum(a * b for a, b in zip(squared, log_w))
""",
    ],
)

# --- 5a ---------------------------------------------------------------------------------------------------------------

FIT = """\
def fit_proposal(log_joint, k, steps=100):
    mean = torch.tensor([1.0, -1.0], dtype=torch.float64).requires_grad_()
    log_std = torch.zeros(2, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([mean, log_std], lr=0.06)
    for _ in range(steps):
        std = log_std.exp()
        noise = torch.randn(k, 64, 2, dtype=torch.float64)
        loss = -dreg_surrogate(log_joint, mean.expand(64, 2), std.expand(64, 2), noise).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return mean.detach(), log_std.exp().detach()
"""
BEYOND = """
def beyond(value, target, free):
    difference = torch.as_tensor(value).double() - target
    return difference.sign() * (difference.abs() - free).clamp(min=0) + 0.0
"""

fit_proposal = Part(
    "5a",
    "Fit a proposal",
    8,
    checks=[
        Check(
            "k = 1: the best ELBO, std 0.6",
            BEYOND
            + """
mean, std = fit_proposal(log_joint_pair, 1)
found = {"std, less 0.6, and less what chance explains": beyond(std, 0.6, 0.1),
         "mean, less what chance explains": beyond(mean, 0.0, 0.2)}
""",
            within=0.03,
        ),
        Check(
            "k = 8: wider than the posterior, std 1.09",
            BEYOND
            + """
mean, std = fit_proposal(log_joint_pair, 8)
found = {"std, less 1.09, and less what chance explains": beyond(std, 1.0865, 0.15),
         "mean, less what chance explains": beyond(mean, 0.0, 0.2)}
""",
            within=0.03,
        ),
        Check(
            "another posterior: mean (0.5, 0.2), correlation −0.6, k = 2",
            BEYOND
            + """
def other(z):
    a, b = z[..., 0] - 0.5, z[..., 1] - 0.2
    return -0.5 * (a ** 2 + 1.2 * a * b + b ** 2) / 0.64
mean, std = fit_proposal(other, 2)
found = {"std, less what chance explains": beyond(std, 0.9334, 0.13),
         "mean, less what chance explains": beyond(mean, torch.tensor([0.5, 0.2]), 0.2)}
""",
            within=0.03,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "You go down where the bound goes up: a loss is minus the surrogate.",
            changed(FIT, ("loss = -dreg", "loss = dreg")),
        ),
        Mutant(
            "You return the logarithm of the standard deviations.",
            changed(FIT, ("log_std.exp().detach()", "log_std.detach()")),
        ),
        Mutant(
            "You return variances; standard deviations are meant.",
            changed(FIT, ("log_std.exp().detach()", "(2 * log_std).exp().detach()")),
        ),
        Mutant(
            "The standard deviations never moved: only the mean is learned.",
            changed(FIT, ("[mean, log_std]", "[mean]")),
        ),
        Mutant(
            "The mean never moved: only the standard deviations are learned.",
            changed(FIT, ("[mean, log_std]", "[log_std]")),
        ),
        Mutant(
            "The axes of your noise are exchanged: it makes 64 codes in each of k runs.",
            changed(FIT, ("torch.randn(k, 64, 2", "torch.randn(64, k, 2"), ("expand(64, 2)", "expand(k, 2)")),
        ),
        Mutant(
            "The proposal has not arrived: with this learning rate 100 steps are not enough.",
            changed(FIT, ("lr=0.06", "lr=0.001")),
        ),
        Mutant(
            "Your proposal does not depend on k: it has one code in each run, so what you climb is the ELBO.",
            changed(FIT, ("torch.randn(k, 64, 2", "torch.randn(1, 64, 2")),
        ),
    ],
    alternatives=[
        FIT,
        # The gradient of the bound itself, and a softplus.
        """\
def fit_proposal(log_joint, k, steps=100):
    mean = torch.nn.Parameter(torch.tensor([1.0, -1.0], dtype=torch.float64))
    raw = torch.nn.Parameter(torch.full((2,), math.log(math.e - 1), dtype=torch.float64))
    optimizer = torch.optim.Adam([mean, raw], lr=0.04)
    for _ in range(steps):
        std = torch.nn.functional.softplus(raw)
        z = mean + std * torch.randn(k, 64, 2, dtype=torch.float64)
        log_q = torch.distributions.Normal(mean, std).log_prob(z).sum(-1)
        loss = -(log_joint(z) - log_q).logsumexp(0).mean()
        optimizer.zero_grad(); loss.backward(); optimizer.step()
    return mean.detach(), torch.nn.functional.softplus(raw).detach()
""",
        # By hand: gradient steps that get smaller, and runs on a broadcast axis.
        """\
def fit_proposal(log_joint, k, steps=100):
    mean = torch.tensor([1.0, -1.0], dtype=torch.float64)
    log_std = torch.zeros(2, dtype=torch.float64)
    for step in range(steps):
        mean.requires_grad_(), log_std.requires_grad_()
        noise = torch.randn(64, k, 2, dtype=torch.float64).transpose(0, 1)
        value = dreg_surrogate(log_joint, mean[None], log_std.exp()[None], noise).mean()
        by_mean, by_std = torch.autograd.grad(value, (mean, log_std))
        rate = 0.3 / (1 + step / 25) * k ** 0.5
        limit = 0.15
        mean = mean.detach() + (rate * by_mean).clamp(-limit, limit)
        log_std = log_std.detach() + (rate * by_std).clamp(-limit, limit)
    return mean, log_std.exp()
""",
    ],
    seconds=60,
)

# --- all --------------------------------------------------------------------------------------------------------------

RULES = r"torch\.distributions|avb_core"

PARTS = [
    Written(
        "1a",
        "A lower bound",
        [
            (1, "the mean of one weight is p(x), and so is the mean of their mean"),
            (2, "Jensen's inequality, with the concavity of the logarithm named, gives the bound"),
            (1, "without coverage the mean weight is (1 − α) p(x)"),
            (1, "the bound is log p(x) + log(1 − α) for every k; more samples do not help beyond it"),
        ],
    ),
    log_weights,
    iwlb,
    Written(
        "2a",
        "A ladder",
        [
            (2, "the mean of k + 1 weights is the mean of the k + 1 leave-one-out means (or of all subsets of size k)"),
            (2, "concavity, sample by sample; expectations; each term has the expectation L_k"),
            (2, "equality, by strict concavity, if and only if the weight is constant for almost all z ~ q"),
            (1, "says where finiteness or independence is used"),
            (1, "with coverage, a constant weight means that q is the posterior"),
        ],
    ),
    iwlb_exact,
    Written(
        "3a",
        "Variance and bias",
        [
            (2, "Var(r̄_k) = V/k from independence, and V as the integral"),
            (2, "Taylor's theorem with a remainder; the first-order term has mean 0, the second gives V/(2k)"),
            (2, "the remainder is bounded with the help of a, and it is said that a is needed for that"),
            (2, "E δ⁴ = O(k⁻²) by counting terms, so E|δ|³ = O(k^(−3/2)) (any valid moment bound)"),
        ],
    ),
    sampled_gap,
    bound_and_ess,
    posterior_mean,
    Written(
        "3e",
        "Two proposals",
        [
            (
                1,
                "1/k for the wide one; far slower, a power between −¼ and −½ or so, for the narrow one, read off the plot",
            ),
            (2, "V is finite if and only if σ² > ½ (computed); infinite for 0.5, finite for 1.4"),
            (1, "the gap at k = 1 is an average over q, which does not see the tails that q leaves out"),
            (1, "a small ESS is an alarm, a large one no proof; widen the proposal when in doubt"),
        ],
    ),
    iwae_surrogate,
    dreg_surrogate,
    fit_proposal,
    Written(
        "5b",
        "Read the plots",
        [
            (1, "k = 1 minimizes KL(q ‖ posterior), which forgives what q leaves out: narrow"),
            (1, "large k minimizes χ²(posterior ‖ q), which does not: wide"),
            (2, "not failed: the trained bound is better; a good proposal, a poor posterior approximation"),
            (1, "the plain gradient's ratio falls like 1/√k, the doubly reparameterized one's grows like √k"),
        ],
    ),
]
