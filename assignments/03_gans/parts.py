"""How the parts of *GANs and density ratios* are judged."""

from tools.assignments import Check, Mutant, Part, Written


def but(answer: str, old: str, new: str) -> str:
    """An answer with one of its pieces exchanged."""
    assert answer.count(old) == 1, (old, answer)
    return answer.replace(old, new)


# --- 1b ---------------------------------------------------------------------------------------------------------------

DISCRIMINATOR_LOSS = """
def discriminator_loss(on_data, on_samples):
    return softplus(-on_data).mean() + softplus(on_samples).mean()
"""

PART_1B = Part(
    "1b",
    "The discriminator's loss",
    5,
    checks=[
        Check(
            "three data, five samples",
            """
on_data = torch.tensor([0.3, 2.0, -1.2], dtype=torch.float64)
on_samples = torch.tensor([0.5, -0.8, -3.0, 1.7, -0.4], dtype=torch.float64)
found = {"loss": discriminator_loss(on_data, on_samples)}
""",
        ),
        Check(
            "a discriminator that is sure, and often wrong",
            """
on_data = torch.tensor([-300.0, 900.0, 2.0, -40.0], dtype=torch.float64, requires_grad=True)
on_samples = torch.tensor([200.0, -900.0, 50.0], dtype=torch.float64, requires_grad=True)
loss = discriminator_loss(on_data, on_samples)
loss.backward()
found = {"loss": loss, "gradient in the logits on data": on_data.grad,
         "gradient in the logits on samples": on_samples.grad}
""",
        ),
        Check(
            "logits with more axes, in single precision",
            """
on_data = torch.linspace(-3, 4, 12).reshape(3, 2, 2)
on_samples = torch.linspace(-2, 150, 5).reshape(5, 1)
before = on_data.clone(), on_samples.clone()
loss = discriminator_loss(on_data, on_samples)
found = {"loss": loss, "shape": loss.shape,
         "logits left as they were": torch.equal(on_data, before[0]) and torch.equal(on_samples, before[1])}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "Your discriminator takes the data for samples and the samples for data: its two terms have changed places.",
            but(but(DISCRIMINATOR_LOSS, "softplus(-on_data)", "softplus(on_data)"), "(on_samples)", "(-on_samples)"),
        ),
        Mutant(
            "That is the objective that the discriminator maximizes. Asked for is a loss, which it minimizes.",
            but(DISCRIMINATOR_LOSS, "return softplus(-on_data).mean() +", "return -softplus(-on_data).mean() -"),
        ),
        Mutant(
            "Your two means are averaged. They are to be added: without the factor a half the optimum of the loss is "
            "2 log 2 - 2 JSD.",
            """
def discriminator_loss(on_data, on_samples):
    return 0.5 * (softplus(-on_data).mean() + softplus(on_samples).mean())
""",
        ),
        Mutant(
            "You average over data and samples together. With more samples than data the samples then weigh more, and the "
            "optimal logit is off by a constant (1a). Each expectation has a mean of its own.",
            """
def discriminator_loss(on_data, on_samples):
    return torch.cat([softplus(-on_data).flatten(), softplus(on_samples).flatten()]).mean()
""",
        ),
        Mutant(
            "You sum over the batch where an expectation asks for a mean: your loss grows with the batch.",
            DISCRIMINATOR_LOSS.replace(".mean()", ".sum()"),
        ),
        Mutant(
            "Your discriminator is paid for calling the samples real as well. That is the generator's wish; the best answer "
            "to it is 'real', everywhere.",
            but(DISCRIMINATOR_LOSS, "softplus(on_samples)", "softplus(-on_samples)"),
        ),
        Mutant(
            "You apply a sigmoid twice: the function that you call expects logits, and you hand it probabilities.",
            """
def discriminator_loss(on_data, on_samples):
    return softplus(-on_data.sigmoid()).mean() + softplus(on_samples.sigmoid()).mean()
""",
        ),
        Mutant(
            "You take the logarithm of a probability. It is right for small logits, but a sure discriminator's probability "
            "rounds to 0 or 1, and the loss or its gradient becomes infinite or NaN.",
            """
def discriminator_loss(on_data, on_samples):
    return -on_data.sigmoid().log().mean() - (1 - on_samples.sigmoid()).log().mean()
""",
        ),
        Mutant(
            "You hand probabilities to a cross-entropy. A sure discriminator's probability rounds to 0 or 1, and PyTorch then "
            "stops at a loss of 100. Cross-entropies from logits do not.",
            """
def discriminator_loss(on_data, on_samples):
    bce = torch.nn.functional.binary_cross_entropy
    real, fake = torch.ones_like(on_data), torch.zeros_like(on_samples)
    return bce(on_data.sigmoid(), real) + bce(on_samples.sigmoid(), fake)
""",
        ),
        Mutant(
            "You keep the logarithm finite by clipping or shifting the probability. Where the discriminator is sure and "
            "wrong the loss then stops growing and its gradient vanishes, just where it is needed.",
            """
def discriminator_loss(on_data, on_samples):
    D_data, D_samples = (T.sigmoid().clamp(1e-7, 1 - 1e-7) for T in (on_data, on_samples))
    return -D_data.log().mean() - (1 - D_samples).log().mean()
""",
        ),
    ],
    alternatives=[
        """
def discriminator_loss(on_data, on_samples):
    return -logsigmoid(on_data).mean() - logsigmoid(-on_samples).mean()
""",
        """
def discriminator_loss(on_data, on_samples):
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    real, fake = torch.ones_like(on_data), torch.zeros_like(on_samples)
    return bce(on_data, real) + bce(on_samples, fake)
""",
        """
def discriminator_loss(on_data, on_samples):
    zero = torch.zeros((), dtype=on_data.dtype)
    a = torch.logaddexp(-on_data, zero)
    b = torch.logaddexp(on_samples, zero)
    return a.sum() / a.numel() + b.sum() / b.numel()
""",
        """
def discriminator_loss(on_data, on_samples):
    Bernoulli = torch.distributions.Bernoulli
    log_real = Bernoulli(logits=on_data, validate_args=False).log_prob(torch.ones_like(on_data))
    log_fake = Bernoulli(logits=on_samples, validate_args=False).log_prob(torch.zeros_like(on_samples))
    return -(log_real.mean() + log_fake.mean())
""",
    ],
)

# --- 1c ---------------------------------------------------------------------------------------------------------------

GENERATOR_LOSS = """
def generator_loss(name, logits):
    if name == "minimax":
        return -softplus(logits)
    if name == "non_saturating":
        return softplus(-logits)
    return -logits.exp()
"""

PART_1C = Part(
    "1c",
    "Three losses for the generator",
    5,
    checks=[
        Check(
            "values",
            """
logits = torch.tensor([[-2.0, -0.5, 0.1], [0.7, 1.5, 3.0]], dtype=torch.float64)
found = {name.replace("_", " "): generator_loss(name, logits)
         for name in ("minimax", "non_saturating", "maximum_likelihood")}
""",
        ),
        Check(
            "a discriminator that is sure",
            """
logits = torch.tensor([-300.0, -40.0, 50.0, 300.0], dtype=torch.float64)
found = {name.replace("_", " "): generator_loss(name, logits)
         for name in ("minimax", "non_saturating", "maximum_likelihood")}
""",
        ),
        Check(
            "gradients, faint ones multiplied by their size",
            """
def slope(name, logit):
    T = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(generator_loss(name, T).sum(), T)[0] * math.exp(abs(logit))
found = {"minimax": [slope("minimax", T) for T in (-50.0, -30.0, 0.5)],
         "non saturating": [slope("non_saturating", T) for T in (-3.0, 0.5)],
         "maximum likelihood": [slope("maximum_likelihood", T) for T in (-50.0, -1.0)]}
""",
            hidden=True,
        ),
        Check(
            "single precision, a single logit",
            """
logit = torch.tensor(30.0)
found = {"log of a loss": [generator_loss("minimax", logit).neg().log(),
                           generator_loss("non_saturating", logit).log(),
                           generator_loss("maximum_likelihood", logit).neg().log()],
         "precision kept": generator_loss("minimax", logit).dtype == torch.float32,
         "logit left as it was": float(logit) == 30}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "Minimax and non-saturating have changed places: minimax is log(1 - D), the other -log D.",
            but(
                but(GENERATOR_LOSS, "-softplus(logits)", "softplus(-logits) "),
                "n softplus(-logits)\n",
                "n -softplus(logits)\n",
            ),
        ),
        Mutant(
            "The sign of minimax is turned: the generator minimizes log(1 - D), and yours makes it pay for being taken for "
            "data.",
            but(GENERATOR_LOSS, "-softplus(logits)", "softplus(logits)"),
        ),
        Mutant(
            "The sign of the non-saturating loss is turned: log D is what the generator maximizes, and a loss is minimized.",
            but(GENERATOR_LOSS, "n softplus(-logits)", "n -softplus(-logits)"),
        ),
        Mutant(
            "The sign of the maximum-likelihood loss is turned: the ratio is what the generator maximizes.",
            but(GENERATOR_LOSS, "-logits.exp()", "logits.exp()"),
        ),
        Mutant(
            "Your maximum-likelihood loss is -D. The ratio of the densities is the odds D/(1 - D), not the probability.",
            but(GENERATOR_LOSS, "-logits.exp()", "-logits.sigmoid()"),
        ),
        Mutant(
            "Your maximum-likelihood loss is minus the log ratio. That loss follows KL(p_G || p_D), the other direction; "
            "maximum likelihood needs the ratio itself.",
            but(GENERATOR_LOSS, "-logits.exp()", "-logits"),
        ),
        Mutant(
            "You average over the batch. Asked for is the loss of each sample.",
            but(GENERATOR_LOSS, "-logits.exp()", "-logits.exp().mean()")
            .replace("n -softplus(logits)", "n -softplus(logits).mean()")
            .replace("n softplus(-logits)", "n softplus(-logits).mean()"),
        ),
        Mutant(
            "Your losses go through the probability D. Where D rounds to 0 or 1 its logarithm is infinite and its odds are "
            "lost; written in terms of the logit all three are finite here.",
            """
def generator_loss(name, logits):
    D = logits.sigmoid()
    if name == "minimax":
        return (1 - D).log()
    if name == "non_saturating":
        return -D.log()
    return -D / (1 - D)
""",
        ),
        Mutant(
            "You keep D away from 0 and 1 by clipping. The loss is then finite and its gradient zero, and for a sure "
            "discriminator the generator learns nothing.",
            """
def generator_loss(name, logits):
    D = logits.sigmoid().clamp(1e-7, 1 - 1e-7)
    if name == "minimax":
        return (1 - D).log()
    if name == "non_saturating":
        return -D.log()
    return -D / (1 - D)
""",
        ),
        Mutant(
            "Your maximum-likelihood loss divides by 1 - D, which rounds to 0 for a sure discriminator. In terms of the "
            "logit the odds need no division.",
            but(GENERATOR_LOSS, "-logits.exp()", "-logits.sigmoid() / (1 - logits.sigmoid())"),
        ),
    ],
    alternatives=[
        """
def generator_loss(name, logits):
    return {"minimax": lambda: logsigmoid(-logits), "non_saturating": lambda: -logsigmoid(logits),
            "maximum_likelihood": lambda: -torch.exp(logits)}[name]()
""",
        """
def generator_loss(name, logits):
    if name == "maximum_likelihood":
        return -torch.exp(logits)
    zero = torch.zeros_like(logits)
    if name == "minimax":
        return -torch.logaddexp(zero, logits)
    return torch.logaddexp(zero, -logits)
""",
        """
def generator_loss(name, logits):
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    if name == "minimax":
        return -bce(logits, torch.zeros_like(logits), reduction="none")
    if name == "non_saturating":
        return bce(logits, torch.ones_like(logits), reduction="none")
    return -(logits.exp())
""",
    ],
)

# --- 2b ---------------------------------------------------------------------------------------------------------------

GENERATOR_GRADIENT = """
def generator_gradient(theta, noise, loss, resolved):
    theta = theta.detach().clone().requires_grad_()
    x = theta[0] + theta[1].exp() * noise
    known = theta if resolved else theta.detach()
    T = log_p_data(x) - log_p_gen(x, known)
    return torch.autograd.grad(loss(T).mean(), theta)[0]
"""

PART_2B = Part(
    "2b",
    "Held fixed, or solved again",
    8,
    checks=[
        Check(
            "four samples",
            """
theta = torch.tensor([0.7, 0.4], dtype=torch.float64)
noise = torch.tensor([-1.2, 0.3, 0.9, -0.4], dtype=torch.float64)
try:
    generator_gradient(theta, noise, lambda T: -T.exp(), False)
    depends = True
except RuntimeError as error:
    depends = "grad" not in str(error)
    if depends:
        raise
if not depends:
    generator_gradient = lambda theta, noise, loss, resolved: torch.zeros(2)
found = {"held fixed, the loss still depends on theta": depends,
         "gradient, held fixed": generator_gradient(theta, noise, lambda T: -T.exp(), False),
         "gradient, solved again": generator_gradient(theta, noise, lambda T: -T.exp(), True),
         "theta left as it was": theta.tolist() == [0.7, 0.4] and not theta.requires_grad}
""",
        ),
        Check(
            "a loss that bends the other way, single precision",
            """
theta = torch.tensor([-1.0, -0.3])
noise = torch.linspace(-1.5, 2, 9)
loss = lambda T: torch.nn.functional.softplus(-T)
found = {"gradient, held fixed": generator_gradient(theta, noise, loss, False),
         "gradient, solved again": generator_gradient(theta, noise, loss, True)}
""",
        ),
        Check(
            "many samples: maximum likelihood",
            """
theta = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)
level = (torch.arange(20001, dtype=torch.float64) + 0.5) / 20001
noise = torch.special.ndtri(level)
variance, mean, second = math.exp(1.4), -0.4, 0.36 + 4
likelihood = torch.tensor([(mean - 0.3) / variance, (second - 0.6 * mean + 0.09) / variance - 1])
held = generator_gradient(theta, noise, lambda T: -T.exp(), False)
again = generator_gradient(theta, noise, lambda T: -T.exp(), True)
reverse = [generator_gradient(theta, noise, lambda T: -T, way) for way in (False, True)]
found = {"held fixed, plus the log-likelihood's gradient": held + likelihood, "solved again": again,
         "reverse KL, solved again less held fixed": reverse[1] - reverse[0]}
""",
            within=5e-3,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "Your discriminator is held fixed in both cases: with resolved=True T* has to follow theta.",
            but(GENERATOR_GRADIENT, "theta if resolved else theta.detach()", "theta.detach()"),
        ),
        Mutant(
            "Your discriminator is solved again in both cases: with resolved=False the theta inside T* must not be seen by "
            "the differentiation.",
            but(GENERATOR_GRADIENT, "theta if resolved else theta.detach()", "theta"),
        ),
        Mutant(
            "The two cases have changed places.",
            but(GENERATOR_GRADIENT, "if resolved", "if not resolved"),
        ),
        Mutant(
            "You hold log p_gen fixed as a number for each sample. T* is held fixed as a function: it still changes when the "
            "sample moves, in both of its terms.",
            but(
                GENERATOR_GRADIENT,
                "log_p_gen(x, known)",
                "(log_p_gen(x, theta) if resolved else log_p_gen(x, theta).detach())",
            ),
        ),
        Mutant(
            "You cut the whole logit off, and then nothing depends on theta. T* is held fixed as a function; the samples that "
            "are put into it still move.",
            but(
                GENERATOR_GRADIENT,
                "return torch.autograd.grad(loss(T)",
                "T = T if resolved else T.detach()\n    return torch.autograd.grad(loss(T)",
            ),
        ),
        Mutant(
            "No gradient flows through your sample when T* is held fixed, although the sample is what the generator moves.",
            """
def generator_gradient(theta, noise, loss, resolved):
    theta = theta.detach().clone().requires_grad_()
    x = theta[0] + theta[1].exp() * noise
    T = log_p_data(x if resolved else x.detach()) - log_p_gen(x if resolved else x.detach(), theta)
    return torch.autograd.grad(loss(T).mean(), theta)[0]
""",
        ),
        Mutant(
            "Your ratio is upside down: T* = log p_data - log p_gen.",
            but(GENERATOR_GRADIENT, "log_p_data(x) - log_p_gen(x, known)", "log_p_gen(x, known) - log_p_data(x)"),
        ),
        Mutant(
            "You sum over the samples where the loss is a mean over them.",
            but(GENERATOR_GRADIENT, ".mean()", ".sum()"),
        ),
        Mutant(
            "The second entry of theta is log s. Your samples use it as s.",
            but(GENERATOR_GRADIENT, "theta[1].exp() * noise", "theta[1] * noise"),
        ),
        Mutant(
            "Your gradient is that of a step: its sign is turned.",
            but(GENERATOR_GRADIENT, "return ", "return -"),
        ),
    ],
    alternatives=[
        """
def generator_gradient(theta, noise, loss, resolved):
    def value(at):
        x = at[0] + at[1].exp() * noise
        inside = at if resolved else theta.detach()
        return loss(log_p_data(x) - log_p_gen(x, inside)).mean()
    return torch.autograd.functional.jacobian(value, theta.detach())
""",
        """
def generator_gradient(theta, noise, loss, resolved):
    mu = theta.detach()[0].clone().requires_grad_()
    log_s = theta.detach()[1].clone().requires_grad_()
    x = mu + torch.exp(log_s) * noise
    if resolved:
        T = log_p_data(x) - log_p_gen(x, (mu, log_s))
    else:
        T = log_p_data(x) - log_p_gen(x, (mu.detach(), log_s.detach()))
    torch.mean(loss(T)).backward()
    return torch.stack([mu.grad, log_s.grad])
""",
        """
def generator_gradient(theta, noise, loss, resolved):
    # by hand: dx/dmu = 1, dx/dlog s = s noise, d/dtheta log p_gen
    mu, log_s = theta.detach()
    x = (mu + log_s.exp() * noise).requires_grad_()
    T = log_p_data(x) - log_p_gen(x, (mu, log_s))
    T_leaf = T.detach().requires_grad_()
    slope = torch.autograd.grad(loss(T_leaf).sum(), T_leaf)[0]
    dT_dx = torch.autograd.grad(T.sum(), x)[0]
    s = log_s.exp()
    path = torch.stack([dT_dx, dT_dx * s * noise])
    if resolved:
        path = path - torch.stack([noise / s, noise**2 - 1])
    return (slope * path).mean(1)
""",
    ],
)

# --- 3b ---------------------------------------------------------------------------------------------------------------

KL_ESTIMATES = """
def kl_estimates(on_q, on_p):
    mean = on_q.mean(0)
    log_mean_exp = on_p.logsumexp(0) - math.log(len(on_p))
    return mean - (on_p - 1).exp().mean(0), mean - log_mean_exp, mean - 1
"""

PART_3B = Part(
    "3b",
    "The KL from a critic",
    6,
    checks=[
        Check(
            "three samples of q, four of p",
            """
on_q = torch.tensor([1.5, 0.2, 2.4], dtype=torch.float64)
on_p = torch.tensor([-0.3, 0.9, 1.1, -2.0], dtype=torch.float64)
bound, donsker_varadhan, reading = kl_estimates(on_q, on_p)
found = {"V(T)": bound, "Donsker and Varadhan's": donsker_varadhan, "the reading": reading}
""",
        ),
        Check(
            "six problems at once",
            """
generator = torch.Generator().manual_seed(1)
on_q = torch.randn(5, 2, 3, generator=generator) + 1
on_p = torch.randn(5, 2, 3, generator=generator)
bound, donsker_varadhan, reading = kl_estimates(on_q, on_p)
found = {"V(T)": bound, "Donsker and Varadhan's": donsker_varadhan, "the reading": reading}
""",
        ),
        Check(
            "an untrained critic",
            """
on_q = torch.tensor([[900.0, -900.0], [850.0, -800.0]], dtype=torch.float64)
on_p = torch.tensor([[800.0, -900.0], [790.0, -910.0], [-50.0, -905.0]], dtype=torch.float64)
bound, donsker_varadhan, reading = kl_estimates(on_q, on_p)
found = {"Donsker and Varadhan's": donsker_varadhan, "V(T) of the second": bound[1], "the reading": reading}
""",
        ),
        Check(
            "a constant added to the critic, single precision",
            """
generator = torch.Generator().manual_seed(2)
on_q = torch.randn(50, 2, generator=generator) + 0.5
on_p = torch.randn(90, 2, generator=generator)
before, after = kl_estimates(on_q, on_p), kl_estimates(on_q + 0.75, on_p + 0.75)
found = {"V(T) moves by": after[0] - before[0], "V(T)": after[0],
         "Donsker and Varadhan's moves by": after[1] - before[1],
         "the reading moves by": after[2] - before[2], "the reading": after[2], "Donsker and Varadhan's": after[1]}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "In your V(T) the exponent is T; the penalty is exp(T - 1), or the optimum is no KL.",
            but(KL_ESTIMATES, "(on_p - 1).exp()", "on_p.exp()"),
        ),
        Mutant(
            "In your V(T) the 1 is taken off after the exponential: exp(T) - 1 is not exp(T - 1).",
            but(KL_ESTIMATES, "(on_p - 1).exp()", "on_p.expm1()"),
        ),
        Mutant(
            "You took the mean of the logarithms. Donsker and Varadhan's last term is the logarithm of a mean.",
            but(KL_ESTIMATES, "on_p.logsumexp(0) - math.log(len(on_p))", "on_p.mean(0)"),
        ),
        Mutant(
            "Donsker and Varadhan's last term has a mean inside the logarithm, and yours a sum: log m is missing.",
            but(KL_ESTIMATES, " - math.log(len(on_p))", ""),
        ),
        Mutant(
            "You divide by the number of samples of q inside the logarithm; the mean there is over samples of p.",
            but(KL_ESTIMATES, "len(on_p)", "len(on_q)"),
        ),
        Mutant(
            "Your reading takes T for the log ratio. The optimum of this critic is 1 + log q - log p.",
            but(KL_ESTIMATES, ", mean - 1", ", mean"),
        ),
        Mutant(
            "q and p have changed places: the KL averages T over the samples of q.",
            KL_ESTIMATES.replace("(on_q, on_p):", "(on_p, on_q):"),
        ),
        Mutant(
            "You average over all axes. Only the first belongs to the samples; each other entry is a problem of its own.",
            """
def kl_estimates(on_q, on_p):
    mean = on_q.mean()
    log_mean_exp = on_p.flatten().logsumexp(0) - math.log(on_p.numel())
    return mean - (on_p - 1).exp().mean(), mean - log_mean_exp, mean - 1
""",
        ),
        Mutant(
            "You reduce the last axis; the samples are on the first.",
            """
def kl_estimates(on_q, on_p):
    mean = on_q.mean(-1)
    log_mean_exp = on_p.logsumexp(-1) - math.log(on_p.shape[-1])
    return mean - (on_p - 1).exp().mean(-1), mean - log_mean_exp, mean - 1
""",
        ),
        Mutant(
            "Your exponential overflows before the logarithm brings it back. Work in log space: the answer is an ordinary "
            "number.",
            but(KL_ESTIMATES, "on_p.logsumexp(0) - math.log(len(on_p))", "on_p.exp().mean(0).log()"),
        ),
    ],
    alternatives=[
        """
def kl_estimates(on_q, on_p):
    n, m = on_q.shape[0], on_p.shape[0]
    top = on_p.amax(0)
    log_mean = top + (on_p - top).exp().sum(0).div(m).log()
    on_average = on_q.sum(0) / n
    return on_average - torch.exp(on_p - 1).sum(0) / m, on_average - log_mean, on_average - 1
""",
        """
def kl_estimates(on_q, on_p):
    log_mean = torch.logsumexp(on_p - math.log(on_p.shape[0]), dim=0)
    return [on_q.mean(0) - torch.exp(log_mean - 1), on_q.mean(0) - log_mean, (on_q - 1).mean(0)]
""",
        """
def kl_estimates(on_q, on_p):
    penalty, log_sum = 0, torch.full_like(on_p[0], -math.inf)
    for t in on_p:
        penalty = penalty + torch.exp(t - 1) / len(on_p)
        log_sum = torch.logaddexp(log_sum, t)
    mean = torch.einsum("n...->...", on_q) / len(on_q)
    return torch.stack([mean - penalty, mean - log_sum + math.log(len(on_p)), mean - 1])
""",
    ],
)

# --- 3c ---------------------------------------------------------------------------------------------------------------

CRITIC = """
def critic_and_penalty(name, log_ratio):
    r = log_ratio
    if name == "kl":
        return 1 + r, r.exp()
    if name == "reverse_kl":
        return -(-r).exp(), r - 1
    if name == "jensen_shannon":
        return 0.5 * (math.log(2) + logsigmoid(r)), 0.5 * (softplus(r) - math.log(2))
    return r + 1 - (-r).exp(), r + r.exp() - 1
"""

PART_3C = Part(
    "3c",
    "Critics of four divergences",
    8,
    checks=[
        Check(
            "critics and penalties",
            """
r = torch.tensor([[-2.0, -0.6, 0.0], [0.4, 1.1, 2.5]], dtype=torch.float64)
found = {}
for name in ("kl", "reverse_kl", "jensen_shannon", "jeffreys"):
    critic, penalty = critic_and_penalty(name, r)
    found |= {f"critic of {name}": critic, f"penalty of {name}": penalty}
""",
        ),
        Check(
            "log ratios in the thousands",
            """
r = torch.tensor([-3000.0, -60.0, 1.0, 60.0, 3000.0], dtype=torch.float64)
critic, penalty = critic_and_penalty("jensen_shannon", r)
found = {"critic of jensen_shannon": critic, "penalty of jensen_shannon": penalty,
         "penalty of reverse_kl": critic_and_penalty("reverse_kl", r)[1],
         "critic of kl": critic_and_penalty("kl", r)[0]}
""",
        ),
        Check(
            "the bound, on tables of q and p, in single precision",
            """
q = torch.tensor([0.1, 0.25, 0.05, 0.6])
p = torch.tensor([0.4, 0.2, 0.3, 0.1])
r = (q / p).log()
kept = r.clone()
def bound(name, r):
    critic, penalty = critic_and_penalty(name, r)
    return (q * critic).sum() - (p * penalty).sum()
found = {f"{kind} ratio, bound of {name}": bound(name, r + shift)
         for kind, shift in (("right", 0.0), ("wrong", torch.tensor([0.3, -0.2, 0.5, 0.1])))
         for name in ("kl", "reverse_kl", "jensen_shannon", "jeffreys")}
found["log ratio left as it was"] = torch.equal(r, kept)
""",
            hidden=True,
        ),
        Check(
            "gradients in the log ratio",
            """
found = {}
for name in ("kl", "reverse_kl", "jensen_shannon", "jeffreys"):
    r = torch.tensor([-20.0, 0.3, 20.0] + [200.0] * (name == "jensen_shannon"), requires_grad=True,
                     dtype=torch.float64)
    critic, penalty = critic_and_penalty(name, r)
    found |= {f"critic of {name}": torch.autograd.grad(critic.sum(), r, retain_graph=True)[0],
              f"penalty of {name}": torch.autograd.grad(penalty.sum(), r)[0]}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "The KL's critic is not the log ratio: the derivative of u log u is 1 + log u.",
            but(CRITIC, "return 1 + r, r.exp()", "return r, r.exp()"),
        ),
        Mutant(
            "The KL's penalty is f*(T*), and you inserted the log ratio for T*: exp(T* - 1) at T* = 1 + r.",
            but(CRITIC, 'r.exp()\n    if name == "reverse_kl"', '(r - 1).exp()\n    if name == "reverse_kl"'),
        ),
        Mutant(
            "The sign of the reverse KL's critic is turned: -log u falls, so its derivative is negative.",
            but(CRITIC, "return -(-r).exp(), r - 1", "return (-r).exp(), r - 1"),
        ),
        Mutant(
            "The reverse KL's critic is -1/u, and yours is -u.",
            but(CRITIC, "return -(-r).exp(), r - 1", "return -r.exp(), r - 1"),
        ),
        Mutant(
            "You differentiated in r = log u. The critic is the derivative of f in the ratio u, with u = exp(r) inserted "
            "afterwards.",
            but(CRITIC, "return -(-r).exp(), r - 1", "return -torch.ones_like(r), r - 1").replace(
                "return 1 + r, r.exp()", "return (1 + r) * r.exp(), r.exp()"
            ),
        ),
        Mutant(
            "The factor a half in front of Jensen-Shannon's f is lost.",
            but(CRITIC, "0.5 * (math.log(2) + logsigmoid(r)), 0.5 *", "(math.log(2) + logsigmoid(r)), "),
        ),
        Mutant(
            "Jensen-Shannon's critic is not the log ratio. The classifier's logit is; T* is half of log(2 D).",
            but(CRITIC, "0.5 * (math.log(2) + logsigmoid(r)), ", "r, "),
        ),
        Mutant(
            "A constant is missing in Jensen-Shannon: at u = 1 the critic and its penalty are 0, so log 2 must not be lost.",
            but(
                CRITIC,
                "0.5 * (math.log(2) + logsigmoid(r)), 0.5 * (softplus(r) - math.log(2))",
                "0.5 * logsigmoid(r), 0.5 * softplus(r)",
            ),
        ),
        Mutant(
            "In Jeffreys' divergence you differentiated only one factor of the product (u - 1) log u.",
            but(CRITIC, "return r + 1 - (-r).exp(), r + r.exp() - 1", "return r, r.exp() * r - (r.exp() - 1) * r"),
        ),
        Mutant(
            "The sign of your penalties is turned: f*(T*) = u f'(u) - f(u).",
            """
def critic_and_penalty(name, log_ratio):
    r = log_ratio
    if name == "kl":
        return 1 + r, -r.exp()
    if name == "reverse_kl":
        return -(-r).exp(), 1 - r
    if name == "jensen_shannon":
        return 0.5 * (math.log(2) + logsigmoid(r)), -0.5 * (softplus(r) - math.log(2))
    return r + 1 - (-r).exp(), -(r + r.exp() - 1)
""",
        ),
        Mutant(
            "Your Jensen-Shannon goes through u = exp(r), which overflows or rounds to zero although both of its functions "
            "are ordinary numbers. Simplify until no ratio is left.",
            but(
                CRITIC,
                "return 0.5 * (math.log(2) + logsigmoid(r)), 0.5 * (softplus(r) - math.log(2))",
                "u = r.exp()\n        return 0.5 * (2 * u / (1 + u)).log(), 0.5 * ((1 + u) / 2).log()",
            ),
        ),
    ],
    alternatives=[
        """
def critic_and_penalty(name, log_ratio):
    u, over_u = torch.exp(log_ratio), torch.exp(-log_ratio)
    zero = torch.zeros_like(log_ratio)
    softly = torch.logaddexp(zero, log_ratio)
    critics = {"kl": log_ratio + 1, "reverse_kl": -over_u, "jeffreys": log_ratio - torch.expm1(-log_ratio),
               "jensen_shannon": (math.log(2) + log_ratio - softly) / 2}
    penalties = {"kl": u, "reverse_kl": log_ratio - 1, "jeffreys": log_ratio + torch.expm1(log_ratio),
                 "jensen_shannon": (softly - math.log(2)) / 2}
    return critics[name], penalties[name]
""",
        """
def critic_and_penalty(name, log_ratio):
    def kl(r):
        return 1 + r, torch.exp(r)
    def reverse(r):
        return -torch.exp(-r), r - 1
    if name == "kl":
        return kl(log_ratio)
    if name == "reverse_kl":
        return reverse(log_ratio)
    if name == "jeffreys":  # the sum of the two
        return [a + b for a, b in zip(kl(log_ratio), reverse(log_ratio))]
    return 0.5 * math.log(2) - 0.5 * softplus(-log_ratio), -0.5 * logsigmoid(-log_ratio) - 0.5 * math.log(2)
""",
        """
def critic_and_penalty(name, log_ratio):
    r = log_ratio
    match name:
        case "kl":
            T = 1 + r
            return T, torch.exp(T - 1)
        case "reverse_kl":
            return -1 / torch.exp(r), -1 + r
        case "jensen_shannon":
            log_D = torch.nn.functional.logsigmoid(r)
            log_not_D = torch.nn.functional.logsigmoid(-r)
            return (log_D + math.log(2)) * 0.5, -(log_not_D + math.log(2)) * 0.5
        case _:
            return r - torch.exp(-r) + 1, torch.exp(r) - 1 + r
""",
    ],
)

# --- 4 ----------------------------------------------------------------------------------------------------------------

FIT = """
def fit_log_ratio(x_q, x_p):
    def features(x):
        return torch.stack([torch.ones_like(x), x, x**2], -1)
    def gradient_and_hessian(weights, f, sign):
        T = f @ weights
        D = torch.sigmoid(-sign * T)
        curvature = D * (1 - D)
        return -sign * (D[:, None] * f).mean(0), (f * curvature[:, None]).T @ f / len(f)
    q, p = features(x_q), features(x_p)
    weights = torch.zeros(3, dtype=x_q.dtype)
    for _ in range(10):
        g, H = gradient_and_hessian(weights, q, 1.0)
        g2, H2 = gradient_and_hessian(weights, p, -1.0)
        weights = weights - torch.linalg.solve(H + H2, g + g2)
    return weights
"""

DRAWS = """
def draws(n, m, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 1 + 0.7 * torch.randn(n, generator=generator, dtype=dtype), torch.randn(m, generator=generator, dtype=dtype)
"""

PART_4 = Part(
    "4",
    "Logistic regression",
    8,
    checks=[
        Check(
            "the loss is flat where you stop",
            DRAWS
            + """
x_q, x_p = draws(500, 500, 4)
weights = fit_log_ratio(x_q, x_p).detach().double().requires_grad_()
powers = torch.arange(3)
on_q, on_p = x_q[:, None] ** powers @ weights, x_p[:, None] ** powers @ weights
softplus_ = torch.nn.functional.softplus
loss = softplus_(-on_q).mean() + softplus_(on_p).mean()
found = {"gradient of the loss at your weights": torch.autograd.grad(loss, weights)[0]}
""",
            within=2e-3,
        ),
        Check(
            "as many samples of each",
            DRAWS
            + """
x_q, x_p = draws(800, 800, 1)
found = {"weights": fit_log_ratio(x_q, x_p)}
""",
            within=0.02,
        ),
        Check(
            "three times as many samples of p",
            DRAWS
            + """
x_q, x_p = draws(400, 1200, 2)
kept = x_q.clone()
found = {"weights": fit_log_ratio(x_q, x_p), "samples left as they were": torch.equal(x_q, kept)}
""",
            within=0.02,
        ),
        Check(
            "against the exact log ratio, many samples in single precision",
            DRAWS
            + """
x_q, x_p = draws(2000, 6000, 3, torch.float32)
w0, w1, w2 = fit_log_ratio(x_q, x_p)
x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0])
found = {"fitted less exact log ratio at five places": w0 + w1 * x + w2 * x**2 - exact_log_ratio(x),
         "weights": torch.stack([w0, w1, w2])}
""",
            within=0.03,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "Your logit is a straight line. The two Gaussians have different widths, and their log ratio is a parabola.",
            but(FIT, "x**2]", "0 * x]").replace(
                "H + H2,", "H + H2 + torch.diag(torch.tensor([0.0, 0, 1], dtype=H.dtype)),"
            ),
        ),
        Mutant(
            "Your fit has no constant: the logit must not be forced through 0 at x = 0.",
            but(FIT, "torch.ones_like(x), x", "0 * x, x").replace(
                "H + H2,", "H + H2 + torch.diag(torch.tensor([1.0, 0, 0], dtype=H.dtype)),"
            ),
        ),
        Mutant(
            "The sign is turned: your logit says log p - log q. It is the samples of q that play the data.",
            but(FIT, "    return weights\n", "    return -weights\n"),
        ),
        Mutant(
            "Your loss averages over all samples together. The constant then holds log n/m, the ratio of the numbers of "
            "samples, as well.",
            but(
                FIT,
                "g, H = gradient_and_hessian(weights, q, 1.0)",
                "g, H = gradient_and_hessian(weights, q, 1.0)\n"
                "        share = len(q) / len(p)\n        g, H = g * share, H * share",
            ),
        ),
        Mutant(
            "You correct the constant for the numbers of samples, but with a mean over each there is nothing to correct.",
            but(
                FIT,
                "    return weights\n",
                "    return weights - torch.tensor([math.log(len(q) / len(p)), 0, 0]).to(weights)\n",
            ),
        ),
        Mutant(
            "You stopped too early: the gradient of the loss is far from zero at your weights.",
            """
def fit_log_ratio(x_q, x_p):
    q, p = (torch.stack([x**0, x, x**2], -1) for x in (x_q, x_p))
    weights = torch.zeros(3, dtype=x_q.dtype)
    for _ in range(100):
        on_q, on_p = torch.sigmoid(-q @ weights), torch.sigmoid(p @ weights)
        weights = weights - 0.1 * (on_p @ p / len(p) - on_q @ q / len(q))
    return weights
""",
        ),
        Mutant(
            "Your weights are shrunk towards zero, as by a penalty on their size: without it the loss is smaller.",
            but(FIT, "g + g2)", "g + g2 + 0.02 * weights)").replace(
                "H + H2,", "H + H2 + 0.02 * torch.eye(3, dtype=H.dtype),"
            ),
        ),
        Mutant(
            "That is a least-squares fit of the labels. Its value is about a probability; the log ratio is the minimum of the "
            "logistic loss.",
            """
def fit_log_ratio(x_q, x_p):
    q, p = (torch.stack([x**0, x, x**2], -1) for x in (x_q, x_p))
    return torch.linalg.solve(q.T @ q / len(q) + p.T @ p / len(p), q.mean(0) - p.mean(0))
""",
        ),
        Mutant(
            "You fitted a Gaussian to each sample. That works only where one knows that they are Gaussians, and it is not the "
            "minimum of the logistic loss.",
            """
def fit_log_ratio(x_q, x_p):
    def parabola(x):
        mean, std = x.mean(), x.std()
        return torch.stack([-0.5 * (mean / std) ** 2 - std.log(), mean / std**2, -0.5 / std**2])
    return parabola(x_q) - parabola(x_p)
""",
        ),
    ],
    alternatives=[
        FIT,
        """
def fit_log_ratio(x_q, x_p):
    # plain gradient descent, by hand, with momentum
    q, p = (torch.stack([x**0, x, x**2], -1) for x in (x_q, x_p))
    weights, speed = torch.zeros(3, dtype=x_q.dtype), 0.0
    for _ in range(700):
        on_q, on_p = torch.sigmoid(-q @ weights), torch.sigmoid(p @ weights)
        speed = 0.95 * speed + on_p @ p / len(p) - on_q @ q / len(q)
        weights = weights - 0.1 * speed
    return weights
""",
        """
def fit_log_ratio(x_q, x_p):
    # Adam with a falling rate
    weights = torch.zeros(3, dtype=x_q.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([weights], 0.1)
    powers = torch.arange(3)
    q, p = x_q[:, None] ** powers, x_p[:, None] ** powers
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 400)
        loss = -logsigmoid(q @ weights).mean() - logsigmoid(-(p @ weights)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights
""",
        """
def fit_log_ratio(x_q, x_p):
    from scipy.optimize import minimize
    import numpy as np
    q, p = (np.stack([x**0, x, x**2], -1) for x in (x_q.double().numpy(), x_p.double().numpy()))
    def loss(w):
        on_q, on_p = q @ w, p @ w
        D_q, D_p = 1 / (1 + np.exp(-on_q)), 1 / (1 + np.exp(-on_p))
        value = np.logaddexp(0, -on_q).mean() + np.logaddexp(0, on_p).mean()
        return value, D_p @ p / len(p) - (1 - D_q) @ q / len(q)
    return torch.as_tensor(minimize(loss, np.zeros(3), jac=True, tol=1e-9).x).to(x_q.dtype)
""",
    ],
)

# --- 5a ---------------------------------------------------------------------------------------------------------------

STEPS = """
def discriminator_step(generator, discriminator, optimizer, x, noise):
    with torch.no_grad():
        samples = generator(noise)
    optimizer.zero_grad()
    discriminator_loss(discriminator(x), discriminator(samples)).backward()
    optimizer.step()


def generator_step(generator, discriminator, optimizer, noise, name):
    optimizer.zero_grad()
    generator_loss(name, discriminator(generator(noise))).mean().backward()
    optimizer.step()
"""

PLAYERS = """
def players(dtype=torch.float64):
    generator, discriminator = torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)
    with torch.no_grad():
        generator.weight.copy_(torch.tensor([[0.5, -0.3], [0.2, 0.8]]))
        generator.bias.copy_(torch.tensor([0.4, -1.0]))
        discriminator.weight.copy_(torch.tensor([[0.7, -0.6]]))
        discriminator.bias.copy_(torch.tensor([0.1]))
    generator, discriminator = generator.to(dtype), discriminator.to(dtype)
    optimizers = [torch.optim.SGD(player.parameters(), lr=0.5) for player in (discriminator, generator)]
    return generator, discriminator, *optimizers
def flat(player):
    return torch.cat([parameter.detach().flatten() for parameter in player.parameters()])
x = torch.tensor([[1.0, 0.5], [-0.4, 2.0], [0.3, -1.5]], dtype=torch.float64)
noise = torch.tensor([[0.2, -1.0], [1.3, 0.4], [-0.7, 0.6], [0.1, 0.9]], dtype=torch.float64)
"""

PART_5A = Part(
    "5a",
    "A step of each player",
    8,
    checks=[
        Check(
            "one step of the discriminator",
            PLAYERS
            + """
generator, discriminator, of_discriminator, of_generator = players()
before, other = flat(discriminator), flat(generator)
discriminator_step(generator, discriminator, of_discriminator, x, noise)
found = {"the discriminator's move": flat(discriminator) - before, "the generator's move": flat(generator) - other,
         "the generator's gradients left alone": all(p.grad is None for p in generator.parameters())}
""",
        ),
        Check(
            "one step of the generator",
            PLAYERS
            + """
found = {}
for name in ("minimax", "non_saturating", "maximum_likelihood"):
    generator, discriminator, of_discriminator, of_generator = players()
    before, other = flat(generator), flat(discriminator)
    generator_step(generator, discriminator, of_generator, noise, name)
    found |= {f"the generator's move, {name}": flat(generator) - before,
              f"the discriminator's move, {name}": flat(discriminator) - other}
""",
        ),
        Check(
            "two rounds, one after the other",
            PLAYERS
            + """
generator, discriminator, of_discriminator, of_generator = players()
for step in range(2):
    discriminator_step(generator, discriminator, of_discriminator, x, noise + step)
    generator_step(generator, discriminator, of_generator, noise - step, "non_saturating")
found = {"the discriminator": flat(discriminator), "the generator": flat(generator)}
""",
        ),
        Check(
            "other numbers of data and samples, old gradients lying about",
            PLAYERS
            + """
generator, discriminator, of_discriminator, of_generator = players()
for player in (generator, discriminator):
    for parameter in player.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
discriminator_step(generator, discriminator, of_discriminator, x[:2], noise)
after_one = flat(discriminator)
kept = all(bool((p.grad == 7).all()) for p in generator.parameters())
generator_step(generator, discriminator, of_generator, noise[:3], "minimax")
found = {"the discriminator": after_one, "the generator": flat(generator),
         "the generator's gradients left alone by the discriminator": kept,
         "both may still be trained": all(p.requires_grad for player in (generator, discriminator)
                                          for p in player.parameters())}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "Your discriminator's step sends gradients into the generator: its loss must not flow back through the samples.",
            but(
                STEPS, "    with torch.no_grad():\n        samples = generator(noise)", "    samples = generator(noise)"
            ),
        ),
        Mutant(
            "Your discriminator's step adds to the gradients that were there, those of the generator's last step among them.",
            but(STEPS, "    optimizer.zero_grad()\n    discriminator_loss", "    discriminator_loss"),
        ),
        Mutant(
            "Your generator's step adds to the gradients of its last step.",
            but(STEPS, "    optimizer.zero_grad()\n    generator_loss", "    generator_loss"),
        ),
        Mutant(
            "Your generator does not move: its samples are cut off from it before the discriminator sees them.",
            but(STEPS, "discriminator(generator(noise))", "discriminator(generator(noise).detach())"),
        ),
        Mutant(
            "Your generator's step moves the discriminator too, which then helps to be fooled.",
            but(
                STEPS,
                "    generator_loss(name, discriminator(generator(noise))).mean().backward()\n    optimizer.step()",
                "    discriminator.zero_grad()\n    generator_loss(name, discriminator(generator(noise))).mean().backward()\n"
                "    optimizer.step()\n    with torch.no_grad():\n        for p in discriminator.parameters():\n"
                "            p -= optimizer.param_groups[0]['lr'] * p.grad",
            ),
        ),
        Mutant(
            "Your discriminator's step moves the generator too: each player has a step of its own.",
            but(
                STEPS,
                "    with torch.no_grad():\n        samples = generator(noise)\n    optimizer.zero_grad()\n"
                "    discriminator_loss(discriminator(x), discriminator(samples)).backward()\n    optimizer.step()",
                "    samples = generator(noise)\n    optimizer.zero_grad()\n    generator.zero_grad()\n"
                "    discriminator_loss(discriminator(x), discriminator(samples)).backward()\n    optimizer.step()\n"
                "    with torch.no_grad():\n        for p in generator.parameters():\n"
                "            p -= optimizer.param_groups[0]['lr'] * p.grad\n            p.grad = None",
            ),
        ),
        Mutant(
            "Your discriminator climbs its loss instead of descending it.",
            but(
                STEPS,
                "    discriminator_loss(discriminator(x), discriminator(samples))",
                "    (-discriminator_loss(discriminator(x), discriminator(samples)))",
            ),
        ),
        Mutant(
            "Your generator climbs its loss instead of descending it.",
            but(
                STEPS,
                "    generator_loss(name, discriminator(generator(noise)))",
                "    (-generator_loss(name, discriminator(generator(noise))))",
            ),
        ),
        Mutant(
            "Data and samples have changed places in the discriminator's loss.",
            but(
                STEPS,
                "discriminator_loss(discriminator(x), discriminator(samples))",
                "discriminator_loss(discriminator(samples), discriminator(x))",
            ),
        ),
        Mutant(
            "Your generator's loss is a sum over the samples: its step grows with the batch.",
            but(STEPS, ".mean().backward()", ".sum().backward()"),
        ),
        Mutant(
            "Your generator always plays with the same loss: `name` is not used.",
            but(STEPS, "generator_loss(name,", 'generator_loss("non_saturating",'),
        ),
        Mutant(
            "You hand probabilities to losses that expect logits.",
            but(
                STEPS,
                "discriminator_loss(discriminator(x), discriminator(samples))",
                "discriminator_loss(discriminator(x).sigmoid(), discriminator(samples).sigmoid())",
            ).replace("discriminator(generator(noise))", "discriminator(generator(noise)).sigmoid()"),
        ),
    ],
    alternatives=[
        """
def discriminator_step(generator, discriminator, optimizer, x, noise):
    discriminator.zero_grad()
    fake = generator(noise).detach()
    loss = -logsigmoid(discriminator(x)).mean() - logsigmoid(-discriminator(fake)).mean()
    loss.backward()
    optimizer.step()

def generator_step(generator, discriminator, optimizer, noise, name):
    generator.zero_grad(set_to_none=False)
    loss = torch.mean(generator_loss(name, discriminator(generator(noise))))
    loss.backward()
    optimizer.step()
    discriminator.zero_grad()
""",
        """
def discriminator_step(generator, discriminator, optimizer, x, noise):
    parameters = list(discriminator.parameters())
    loss = discriminator_loss(discriminator(x), discriminator(generator(noise)))
    for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters)):
        parameter.grad = grad
    optimizer.step()

def generator_step(generator, discriminator, optimizer, noise, name):
    parameters = list(generator.parameters())
    loss = generator_loss(name, discriminator(generator(noise))).mean()
    for parameter, grad in zip(parameters, torch.autograd.grad(loss, parameters)):
        parameter.grad = grad
    optimizer.step()
""",
        """
def discriminator_step(generator, discriminator, optimizer, x, noise):
    optimizer.zero_grad()
    samples = generator(noise).detach()
    logits = discriminator(torch.cat([x, samples]))
    discriminator_loss(logits[:len(x)], logits[len(x):]).backward()
    optimizer.step()
    optimizer.zero_grad()

def generator_step(generator, discriminator, optimizer, noise, name):
    for parameter in discriminator.parameters():
        parameter.requires_grad_(False)
    optimizer.zero_grad()
    loss = generator_loss(name, discriminator(generator(noise)))
    (loss.sum() / loss.numel()).backward()
    optimizer.step()
    for parameter in discriminator.parameters():
        parameter.requires_grad_(True)
""",
    ],
)

# --- 5b ---------------------------------------------------------------------------------------------------------------

TRAIN = """
def train_gan(generator, discriminator, sample_data, name, rounds, k, rates, latent_dim, batch_size):
    of_discriminator = torch.optim.Adam(discriminator.parameters(), rates[0], betas=(0.5, 0.999))
    of_generator = torch.optim.Adam(generator.parameters(), rates[1], betas=(0.5, 0.999))
    for _ in range(rounds):
        for _ in range(k):
            x, noise = sample_data(batch_size), torch.randn(batch_size, latent_dim)
            discriminator_step(generator, discriminator, of_discriminator, x, noise)
        noise = torch.randn(batch_size, latent_dim)
        generator_step(generator, discriminator, of_generator, noise, name)
"""

# Players that write down what is done to them: how often each was moved, on which noise, and how far by the first step.
SPIES = """
class Spy(torch.nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((1, outputs), 0.3))
        self.seen, self.weights = [], []
    def forward(self, x):
        self.seen.append(x.detach().clone())
        self.weights.append(self.weight.detach().clone())
        return x.sum(-1, keepdim=True) * self.weight + 0.1 * self.weight**2
    def moves(self):
        every = [*self.weights, self.weight.detach()]
        sizes = [float((b - a).abs().max()) for a, b in zip(every, every[1:])]
        return [size for size in sizes if size > 0]
def play(rounds, k, rates, latent_dim, batch_size, name="non_saturating"):
    generator, discriminator, batches = Spy(2), Spy(1), []
    def sample_data(n):
        batches.append(2 + torch.randn(n, 2))
        return batches[-1]
    train_gan(generator, discriminator, sample_data, name, rounds, k, rates, latent_dim, batch_size)
    return generator, discriminator, batches
"""

PART_5B = Part(
    "5b",
    "The game",
    5,
    checks=[
        Check(
            "four rounds of three steps",
            SPIES
            + """
generator, discriminator, batches = play(4, 3, (0.02, 0.005), 5, 6)
codes = [code for code in generator.seen]
found = {"steps of the discriminator": len(discriminator.moves()), "steps of the generator": len(generator.moves()),
         "draws of data": len(batches), "data in each draw": [len(x) for x in batches],
         "first steps, as multiples of the rates": [discriminator.moves()[0] / 0.02, generator.moves()[0] / 0.005],
         "shape of the noise": codes[0].shape, "new noise for every step": len({tuple(c.flatten().tolist())
                                                                               for c in codes}) >= 16}
""",
            within=0.02,
        ),
        Check(
            "the optimizers' memory",
            SPIES
            + """
generator, discriminator, batches = play(30, 1, (0.02, 0.005), 5, 40, "minimax")
share = [sum(abs(size / rate - 1) < 1e-3 for size in player.moves()) / 30
         for player, rate in ((discriminator, 0.02), (generator, 0.005))]
found = {"steps of exactly one rate's length are rare": [s < 0.5 for s in share],
         "the noise's standard deviation": torch.cat([c.flatten() for c in generator.seen]).std(),
         "the noise's mean": torch.cat([c.flatten() for c in generator.seen]).mean()}
""",
            within=0.1,
        ),
        Check(
            "a game that should get there: samples N(0, 1) at the start, data N(2, 1)",
            """
class Affine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.log_std = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    def forward(self, z):
        return self.mean + self.log_std.exp() * z
class Quadratic(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(3))
    def forward(self, x):
        return self.weights[0] + self.weights[1] * x + self.weights[2] * x**2
generator = Affine()
train_gan(generator, Quadratic(), lambda n: 2 + torch.randn(n, 1), "non_saturating", 80, 1, (0.2, 0.05), 1, 128)
std = float(generator.log_std.detach().exp())
found = {"the samples' mean, less 2": generator.mean - 2, "their standard deviation lies in (0.4, 2.5)": 0.4 < std < 2.5}
""",
            within=0.6,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "k is ignored: your discriminator makes one step in a round.",
            but(TRAIN, "range(k)", "range(1)"),
        ),
        Mutant(
            "Your generator makes a step after each of the discriminator's; it should wait until all k are done.",
            but(
                TRAIN,
                "\n        noise = torch.randn(batch_size, latent_dim)\n        generator_step",
                "\n            noise = torch.randn(batch_size, latent_dim)\n            generator_step",
            ),
        ),
        Mutant(
            "The learning rates have changed places: the discriminator's comes first.",
            but(but(TRAIN, "rates[0]", "rates[-1]"), "rates[1]", "rates[0]"),
        ),
        Mutant(
            "You make new optimizers in every round. Adam's memory of earlier gradients is lost each time, and every step has "
            "the length of a first one.",
            """
def train_gan(generator, discriminator, sample_data, name, rounds, k, rates, latent_dim, batch_size):
    for _ in range(rounds):
        of_discriminator = torch.optim.Adam(discriminator.parameters(), rates[0], betas=(0.5, 0.999))
        of_generator = torch.optim.Adam(generator.parameters(), rates[1], betas=(0.5, 0.999))
        for _ in range(k):
            x, noise = sample_data(batch_size), torch.randn(batch_size, latent_dim)
            discriminator_step(generator, discriminator, of_discriminator, x, noise)
        generator_step(generator, discriminator, of_generator, torch.randn(batch_size, latent_dim), name)
""",
        ),
        Mutant(
            "You draw the data once for a round. Each of the k steps needs a new batch.",
            but(
                TRAIN,
                "        for _ in range(k):\n            x, noise = sample_data(batch_size), ",
                "        x = sample_data(batch_size)\n        for _ in range(k):\n            noise = ",
            ),
        ),
        Mutant(
            "You use the same noise in every step: the generator learns a handful of samples by heart.",
            but(
                TRAIN,
                "    for _ in range(rounds):",
                "    fixed = torch.randn(batch_size, latent_dim)\n    for _ in range(rounds):",
            )
            .replace("torch.randn(batch_size, latent_dim)\n            discr", "fixed\n            discr")
            .replace("noise = torch.randn(batch_size, latent_dim)\n        gen", "noise = fixed\n        gen"),
        ),
        Mutant(
            "Your noise is uniform; it should be standard normal.",
            TRAIN.replace("torch.randn", "torch.rand"),
        ),
        Mutant(
            "Your noise has one coordinate, or one for each of the data's; it should have latent_dim of them.",
            TRAIN.replace("torch.randn(batch_size, latent_dim)", "torch.randn(batch_size, 1)"),
        ),
        Mutant(
            "You play one round too few.",
            but(TRAIN, "range(rounds)", "range(1, rounds)"),
        ),
        Mutant(
            "k belongs to the discriminator: in your game it is the generator that makes k steps in a round.",
            """
def train_gan(generator, discriminator, sample_data, name, rounds, k, rates, latent_dim, batch_size):
    of_discriminator = torch.optim.Adam(discriminator.parameters(), rates[0], betas=(0.5, 0.999))
    of_generator = torch.optim.Adam(generator.parameters(), rates[1], betas=(0.5, 0.999))
    for _ in range(rounds):
        x, noise = sample_data(batch_size), torch.randn(batch_size, latent_dim)
        discriminator_step(generator, discriminator, of_discriminator, x, noise)
        for _ in range(k):
            generator_step(generator, discriminator, of_generator, torch.randn(batch_size, latent_dim), name)
""",
        ),
    ],
    alternatives=[
        """
def train_gan(generator, discriminator, sample_data, name, rounds, k, rates, latent_dim, batch_size):
    def noise():
        return torch.empty(batch_size, latent_dim).normal_()
    adam = lambda player, lr: torch.optim.Adam(player.parameters(), lr=lr, betas=(0.5, 0.999))
    first, second = adam(discriminator, rates[0]), adam(generator, rates[1])
    for step in range(rounds * k):
        codes = noise()
        discriminator_step(generator, discriminator, first, sample_data(batch_size), codes)
        if (step + 1) % k == 0:
            generator_step(generator, discriminator, second, noise(), name)
""",
        """
def train_gan(generator, discriminator, sample_data, name, rounds, k, rates, latent_dim, batch_size):
    # all noise of a round at once; fused Adam
    of_discriminator = torch.optim.Adam(discriminator.parameters(), rates[0], betas=(0.5, 0.999), fused=True)
    of_generator = torch.optim.Adam(generator.parameters(), rates[1], betas=(0.5, 0.999), fused=True)
    for _ in range(rounds):
        noise = torch.randn(k + 1, batch_size, latent_dim)
        for j in range(k):
            x = sample_data(batch_size)
            discriminator_step(generator, discriminator, of_discriminator, x, noise[j])
        generator_step(generator, discriminator, of_generator, noise[k], name)
""",
        """
def train_gan(generator, discriminator, sample_data, name, rounds, k, rates, latent_dim, batch_size):
    players = {"d": discriminator, "g": generator}
    optimizers = {key: torch.optim.Adam(player.parameters(), lr=rate, betas=(0.5, 0.999))
                  for (key, player), rate in zip(players.items(), rates)}
    law = torch.distributions.Normal(0.0, 1.0)
    turn = 0
    while turn < rounds * (k + 1):
        z = law.sample((batch_size, latent_dim))
        if turn % (k + 1) < k:
            discriminator_step(generator, discriminator, optimizers["d"], sample_data(batch_size), z)
        else:
            generator_step(generator, discriminator, optimizers["g"], z, name)
        turn += 1
""",
    ],
)

# --- 5c ---------------------------------------------------------------------------------------------------------------

COVERAGE = """
def coverage(samples, means, radius, least):
    distance, nearest = (samples[..., None, :] - means).norm(dim=-1).min(-1)
    good = distance <= radius
    modes = torch.arange(len(means))
    shares = ((nearest[..., None] == modes) & good[..., None]).double().mean(-2)
    return (shares >= least).double().sum(-1), good.double().mean(-1)
"""

PART_5C = Part(
    "5c",
    "Modes covered",
    5,
    checks=[
        Check(
            "twenty samples, four modes",
            """
means = torch.tensor([[2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
offsets = [(0, 0.0, 0.1), (0, 0.3, 0.3), (0, -0.45, 0.0), (0, 0.0, -0.45), (0, 0.1, 0.1), (0, 0.2, 0.0),
           (0, 0.0, 0.2), (0, -0.1, 0.1), (0, 0.0, 0.0), (1, 0.1, 0.0), (1, 0.0, 0.3), (1, -0.2, 0.2),
           (1, 0.0, -0.1), (2, 0.1, 0.1), (2, 0.7, 0.0), (3, 0.4, 0.4), (3, -0.4, 0.4), (3, 0.4, -0.4),
           (3, -0.4, -0.4), (3, 0.6, 0.6)]
samples = torch.stack([means[mode] + torch.tensor([a, b]) for mode, a, b in offsets])
modes, good = coverage(samples, means, 0.5, 0.1)
modes_all, _ = coverage(samples, means, 0.5, 0.22)
found = {"modes covered": modes, "share of good samples": good, "modes covered with a larger least share": modes_all}
""",
        ),
        Check(
            "modes closer than the radius",
            """
means = torch.tensor([[0.0], [0.4], [5.0]])
samples = torch.tensor([[-0.3], [-0.1], [0.0], [0.1], [0.05], [0.15], [0.3], [4.0], [3.0], [9.0]])
modes, good = coverage(samples, means, 1.0, 0.35)
found = {"modes covered": modes, "share of good samples": good}
""",
        ),
        Check(
            "three games at once, and two axes of games, in three dimensions",
            """
generator = torch.Generator().manual_seed(3)
means = torch.randn(5, 3, generator=generator, dtype=torch.float64) * 2
picks = torch.multinomial(torch.tensor([0.4, 0.3, 0.2, 0.05, 0.05]), 6 * 50, True, generator=generator)
noise = torch.randn(300, 3, generator=generator, dtype=torch.float64)
samples = (means[picks] + 0.5 * noise).reshape(2, 3, 50, 3)
samples[0, 0, :20] += 5
kept = samples.clone()
found = {}
for kind, given in (("three games", samples[0]), ("two axes", samples)):
    modes, good = coverage(given, means, 0.8, 0.09)
    found |= {f"modes covered, {kind}": modes, f"share of good samples, {kind}": good}
found["samples left as they were"] = torch.equal(samples, kept)
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "You compare the squared distance with the radius.",
            but(COVERAGE, ".norm(dim=-1)", ".square().sum(-1)"),
        ),
        Mutant(
            "Your shares are shares of the good samples. A mode needs its share of all samples.",
            but(COVERAGE, "    return ", "    shares = shares / good.double().mean(-1, keepdim=True)\n    return "),
        ),
        Mutant(
            "For you one good sample is enough to cover a mode; it takes the share `least`.",
            but(COVERAGE, "shares >= least", "shares > 0"),
        ),
        Mutant(
            "Your modes are covered by samples that are not good as well: a sample may have a mode as its nearest and be far "
            "from it.",
            but(COVERAGE, " & good[..., None]", ""),
        ),
        Mutant(
            "Your distances are largest or summed differences of coordinates. Asked for is the Euclidean distance.",
            but(COVERAGE, ".norm(dim=-1)", ".abs().amax(-1)"),
        ),
        Mutant(
            "A sample between two modes counts for both of yours. It counts for the nearer one only.",
            but(
                COVERAGE,
                "((nearest[..., None] == modes) & good[..., None])",
                "((samples[..., None, :] - means).norm(dim=-1) <= radius)",
            ),
        ),
        Mutant(
            "Your share of good samples counts those of covered modes only.",
            but(COVERAGE, "good.double().mean(-1)", "(shares * (shares >= least)).sum(-1)"),
        ),
        Mutant(
            "You return the share of the modes that are covered. Asked for is their number.",
            but(COVERAGE, ".double().sum(-1)", ".double().mean(-1)"),
        ),
        Mutant(
            "You average over the games: each has a result of its own.",
            but(
                COVERAGE,
                "    return (shares >= least).double().sum(-1), good.double().mean(-1)",
                "    return (shares >= least).double().sum(-1).mean(), good.double().mean()",
            ),
        ),
    ],
    alternatives=[
        """
def coverage(samples, means, radius, least):
    distances = torch.cdist(samples, means.expand(*samples.shape[:-2], *means.shape))
    nearest, good = distances.argmin(-1), distances.amin(-1) <= radius
    one_hot = torch.nn.functional.one_hot(nearest, len(means)) * good[..., None]
    shares = one_hot.sum(-2) / samples.shape[-2]
    return (shares >= least).sum(-1).float(), good.float().mean(-1)
""",
        """
def coverage(samples, means, radius, least):
    games = samples.shape[:-2]
    covered, good_share = [], []
    for game in samples.reshape(-1, *samples.shape[-2:]):
        counts, good = [0] * len(means), 0
        for point in game:
            distances = [float((point - mean).square().sum().sqrt()) for mean in means]
            mode = min(range(len(means)), key=distances.__getitem__)
            if distances[mode] <= radius:
                counts[mode] += 1
                good += 1
        covered.append(float(sum(count / len(game) >= least for count in counts)))
        good_share.append(good / len(game))
    return torch.tensor(covered).reshape(games), torch.tensor(good_share).reshape(games)
""",
        """
def coverage(samples, means, radius, least):
    squared = torch.stack([(samples - mean).pow(2).sum(-1) for mean in means])
    best, which = squared.min(0)
    good = best <= radius**2
    shares = torch.stack([(good & (which == j)).double().mean(-1) for j in range(len(means))])
    return torch.count_nonzero(shares >= least, dim=0).double(), good.double().mean(-1)
""",
    ],
)

# --- answers in words -------------------------------------------------------------------------------------------------

RULES = r"avb_core"

PARTS = [
    Written(
        "1a",
        "The optimal discriminator",
        [
            (2, "maximizes pointwise, and says why that is allowed (T is free at each x)"),
            (2, "T* = log p_D - log p_G + log(pi / (1 - pi)) and D*, from the derivative"),
            (2, "shows that it is the only maximum (strict concavity, or the sign of the derivative); pi = 1/2"),
            (2, "the value 2 JSD - 2 log 2 with m inserted correctly, and its minimum only at p_G = p_D"),
            (1, "too small by log 3 everywhere"),
        ],
    ),
    PART_1B,
    PART_1C,
    Written(
        "2a",
        "Maximum likelihood at the optimal discriminator",
        [
            (3, "the gradient with T* held fixed: only p_theta is differentiated, and p_theta cancels"),
            (
                3,
                "value 1 and gradient 0 when solved again; names the second term, or 'value and gradient differ'; the loss "
                "shows no progress",
            ),
            (2, "loss -T* (up to a constant); the further term is the integral of the gradient of p_theta, 0"),
            (2, "names the step with the cancellation; the gradient is that over the data where p_theta > 0"),
        ],
    ),
    PART_2B,
    Written(
        "2c",
        "A gradient that saturates",
        [
            (2, "factors D* and 1 - D*, and D* near 0 far away"),
            (1, "both factors are 1/2 at T* = 0, that of maximum likelihood is 1"),
            (3, "mean mu, standard deviation mu sqrt(exp(mu^2) - 1), and 8e5 samples"),
            (2, "Adam scales the noise with the signal; reads a ratio between 5 and 20 off the panel for minimax"),
        ],
    ),
    Written(
        "3a",
        "The KL as a supremum",
        [
            (3, "T* = 1 + log q/p by pointwise maximization, with concavity, and the value KL"),
            (1, "T = 1 - D, D* = log p - log q"),
            (3, "KL - (e^c - 1 - c), KL + c, KL; only the reading can exceed, so such an ELBO is no bound"),
            (2, "log y <= y/e at y = E_p[e^T]"),
        ],
    ),
    PART_3B,
    PART_3C,
    PART_4,
    PART_5A,
    PART_5B,
    PART_5C,
    Written(
        "5d",
        "What the games show",
        [
            (3, "numbers of both paces and both losses, with a spread; a conclusion that they support"),
            (
                3,
                "a reason that is derived above (a lagging discriminator, no samples at the mode, a noisy weight), and a test "
                "that could come out either way",
            ),
        ],
    ),
]
