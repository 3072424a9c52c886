"""How the parts of this assignment are judged."""

from tools.assignments import Check, Mutant, Part, Written

# --- 1b: the exact critic of a linear-Gaussian encoder ------------------------------------------------------------------

EXACT_CRITIC = "def exact_critic(x, z, weight, bias, log_std):\n"


def exact_critic(body: str) -> str:
    """An answer to 1b from its lines, which know `deviation` and `std`."""
    start = "    std = log_std.exp()\n    deviation = z - x @ weight.T - bias\n"
    return EXACT_CRITIC + start + body


PART_1B = Part(
    "1b",
    "The exact critic",
    7,
    checks=[
        Check(
            "values",
            """
weight = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
bias, log_std = torch.tensor([0.2, -0.4]).double(), torch.tensor([-0.6, 0.9]).double()
x = torch.tensor([[0.3, 1.1], [-0.7, 0.4], [1.5, -0.2]]).double()
z = torch.tensor([[0.1, 2.0], [-1.4, 0.6], [0.8, 3.1]]).double()
found = {"T*": exact_critic(x, z, weight, bias, log_std)}
""",
            within=1e-6,
        ),
        Check(
            "several codes for each image, single precision",
            """
x = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
z = torch.linspace(-2, 1.5, 90).reshape(5, 2, 3, 3).clone()
weight = torch.linspace(-0.5, 0.8, 12).reshape(3, 4)
before = [x.clone(), z.clone()]
value = exact_critic(x, z, weight, torch.tensor([0.1, 0.0, -0.3]), torch.tensor([-0.2, 0.4, -1.1]))
found = {"shape": list(value.shape), "T*": value, "dtype": str(value.dtype)}
assert torch.equal(x, before[0]) and torch.equal(z, before[1]), "the answer changes x or z in place"
""",
            within=1e-4,
        ),
        Check(
            "one image and a code far out",
            """
x, z = torch.tensor([1.0, -2.0]), torch.tensor([40.0, -35.0, 60.0], requires_grad=True)
value = exact_critic(x, z, torch.ones(3, 2), torch.zeros(3), torch.tensor([-1.0, 0.5, -0.5]))
(gradient,) = torch.autograd.grad(value, z)
found = {"T*": value, "gradient in z": gradient}
""",
            hidden=True,
        ),
        Check(
            "an encoder that is almost certain",
            """
x = torch.tensor([[0.5], [-1.0]])
value = exact_critic(x, 2 * x, torch.tensor([[2.0]]), torch.zeros(1), torch.tensor([-25.0]))
found = {"T* at the encoder's mean": value}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "That is log p(z) − log q(z|x): the critic's sign is turned. T* is large where the encoder puts more codes than "
            "the prior.",
            exact_critic("    return (0.5 * (deviation / std) ** 2 + log_std - 0.5 * z**2).sum(-1)"),
        ),
        Mutant(
            "You took log_std for the logarithm of the variance: the width that you use is its square root.",
            exact_critic(
                "    std = (0.5 * log_std).exp()\n"
                "    return (0.5 * z**2 - 0.5 * (deviation / std) ** 2 - 0.5 * log_std).sum(-1)"
            ),
        ),
        Mutant(
            "The encoder's normalizer is incomplete: a density that is narrower is higher, so log std enters T*.",
            exact_critic("    return (0.5 * z**2 - 0.5 * (deviation / std) ** 2).sum(-1)"),
        ),
        Mutant(
            "That is log q(z|x) alone. The critic learns a ratio: the prior's log-density has to be taken off.",
            exact_critic("    return (-0.5 * (deviation / std) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)"),
        ),
        Mutant(
            "Your T* is a mean over the latent variables. Log-densities of independent variables add up.",
            exact_critic("    return (0.5 * z**2 - 0.5 * (deviation / std) ** 2 - log_std).mean(-1)"),
        ),
        Mutant(
            "A term (d/2) log 2π is left over. Both densities have it, with the same sign, so the ratio has none.",
            exact_critic(
                "    return (0.5 * z**2 - 0.5 * (deviation / std) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)"
            ),
        ),
        Mutant(
            "The factor ½ is missing before the squares. A normal density has exp(−½ …²).",
            exact_critic("    return (z**2 - (deviation / std) ** 2 - log_std).sum(-1)"),
        ),
        Mutant(
            "You divide the squared deviation by std, not by its square.",
            exact_critic("    return (0.5 * z**2 - 0.5 * deviation**2 / std - log_std).sum(-1)"),
        ),
        Mutant(
            "The weight is applied the wrong way round: with weight of shape (d, n) the mean is Σ_j weight_ij x_j.",
            EXACT_CRITIC
            + "    deviation = (z - x @ weight - bias) / log_std.exp()\n"
            + "    return (0.5 * z**2 - 0.5 * deviation**2 - log_std).sum(-1)",
        ),
        Mutant(
            "You compute densities and take the logarithm of their ratio. Far out both are rounded to 0. Subtract "
            "log-densities instead.",
            exact_critic(
                "    q = ((-0.5 * (deviation / std) ** 2).exp() / std).prod(-1)\n"
                "    return (q / (-0.5 * z**2).exp().prod(-1)).log()"
            ),
        ),
    ],
    alternatives=[
        "import math\n"
        + exact_critic(
            "    log_q = -0.5 * (deviation / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)\n"
            "    log_p = -0.5 * z * z - 0.5 * math.log(2 * math.pi)\n"
            "    return log_q.sum(-1) - log_p.sum(-1)"
        ),
        EXACT_CRITIC
        + "    mean = torch.einsum('dn,...n->...d', weight, x) + bias\n"
        + "    u = (z - mean) * torch.exp(-log_std)\n"
        + "    return 0.5 * ((z - u) * (z + u)).sum(dim=-1) - log_std.sum()",
        EXACT_CRITIC
        + "    mean = torch.nn.functional.linear(x, weight, bias)\n"
        + "    total = 0.0\n"
        + "    for i in range(z.shape[-1]):\n"
        + "        u = (z[..., i] - mean[..., i]) / log_std[i].exp()\n"
        + "        total = total + 0.5 * z[..., i] ** 2 - 0.5 * u**2 - log_std[i]\n"
        + "    return total",
    ],
    seconds=20,
)

# --- 1c: the critic's loss ----------------------------------------------------------------------------------------------


def critic_loss(*lines: str) -> str:
    """An answer to 1c."""
    return "\n    ".join(["def critic_loss(on_q, on_p):", *lines])


PART_1C = Part(
    "1c",
    "The critic's loss",
    7,
    checks=[
        Check(
            "value",
            """
on_q, on_p = torch.tensor([1.3, -0.4, 0.2, 2.5]).double(), torch.tensor([0.9, -1.7, 0.6, -0.1]).double()
value = critic_loss(on_q, on_p)
found = {"loss": value}
""",
            within=1e-6,
        ),
        Check(
            "gradients",
            """
on_q = torch.tensor([[0.5, -1.2], [2.0, 0.3]], requires_grad=True)
on_p = torch.tensor([[-0.8, 1.1], [0.1, -2.2]], requires_grad=True)
of_q, of_p = torch.autograd.grad(critic_loss(on_q, on_p), (on_q, on_p))
found = {"gradient in T on codes of the encoder": of_q, "gradient in T on codes of the prior": of_p}
""",
            within=1e-5,
        ),
        Check(
            "numbers of codes that differ",
            """
on_q, on_p = torch.tensor([0.7, -0.3]), torch.tensor([[-1.0, 0.2, 1.4], [0.4, -0.6, 2.1]])
found = {"loss": critic_loss(on_q, on_p)}
""",
            within=1e-5,
            hidden=True,
        ),
        Check(
            "large outputs, single precision",
            """
on_q = torch.tensor([-200.0, 3.0], requires_grad=True)
on_p = torch.tensor([150.0, -1.0], requires_grad=True)
value = critic_loss(on_q, on_p)
of_q, of_p = torch.autograd.grad(value, (on_q, on_p))
found = {"loss": value, "gradient in T on codes of the encoder": of_q, "gradient in T on codes of the prior": of_p}
""",
            within=1e-5,
        ),
    ],
    mutants=[
        Mutant(
            "That is J itself. A loss is descended, and J is to be maximized.",
            critic_loss("return logsigmoid(on_q).mean() + logsigmoid(-on_p).mean()"),
        ),
        Mutant(
            "The roles are exchanged: T should be large on codes of the encoder and small on codes of the prior.",
            critic_loss("return softplus(on_q).mean() + softplus(-on_p).mean()"),
        ),
        Mutant(
            "You sum over the codes. An expectation is estimated by a mean; a sum changes with the batch.",
            critic_loss("return softplus(-on_q).sum() + softplus(on_p).sum()"),
        ),
        Mutant(
            "Your loss is half of −J: the two expectations are added, not averaged.",
            critic_loss("return 0.5 * (softplus(-on_q).mean() + softplus(on_p).mean())"),
        ),
        Mutant(
            "Both terms reward a large T. On codes of the prior the critic should say log(1 − σ(T)).",
            critic_loss("return softplus(-on_q).mean() + softplus(-on_p).mean()"),
        ),
        Mutant(
            "The sigmoid is applied twice: `softplus` and `logsigmoid` take the logit itself, not a probability.",
            critic_loss("return softplus(-on_q.sigmoid()).mean() + softplus(on_p.sigmoid()).mean()"),
        ),
        Mutant(
            "The codes of both kinds are averaged together. With as many of one kind as you like, each expectation "
            "needs a mean of its own.",
            critic_loss("return 2 * torch.cat([softplus(-on_q).flatten(), softplus(on_p).flatten()]).mean()"),
        ),
        Mutant(
            "You take the logarithm of a rounded sigmoid: at large |T| it is 0 or 1, and the loss infinite. Work with logits.",
            critic_loss("return -on_q.sigmoid().log().mean() - (1 - on_p.sigmoid()).log().mean()"),
        ),
        Mutant(
            "A small number inside the logarithm hides that σ(T) was rounded: the loss has a ceiling, and beyond it no "
            "gradient. Work with logits.",
            critic_loss("return -(on_q.sigmoid() + 1e-8).log().mean() - (1 - on_p.sigmoid() + 1e-8).log().mean()"),
        ),
    ],
    alternatives=[
        critic_loss("return -(logsigmoid(on_q).mean() + logsigmoid(-on_p).mean())"),
        critic_loss(
            "zero_q, zero_p = torch.zeros_like(on_q), torch.zeros_like(on_p)",
            "return torch.logaddexp(zero_q, -on_q).mean() + torch.logaddexp(zero_p, on_p).mean()",
        ),
        critic_loss(
            "def cost(t):",
            "    return sum(torch.relu(each) + torch.log1p(torch.exp(-each.abs())) for each in t.flatten()) / t.numel()",
            "return cost(-on_q) + cost(on_p)",
        ),
    ],
    seconds=20,
)

# --- 2a: a black-box encoder --------------------------------------------------------------------------------------------


def encoder(*lines: str) -> str:
    """An answer to 2a."""
    start = [
        "class ImplicitEncoder(nn.Module):",
        "    def __init__(self, network, noise_dim):",
        "        super().__init__()",
        "        self.network = network",
        "        self.noise_dim = noise_dim",
        "",
        "    def sample(self, x, shape=()):",
    ]
    return "\n".join([*start, *(f"        {line}" for line in lines)])


PART_2A = Part(
    "2a",
    "A black-box encoder",
    7,
    checks=[
        Check(
            "shapes",
            """
class Mixes(nn.Module):
    def forward(self, a, b):
        return torch.cat([a[..., :1] + 0 * b[..., :1], 0 * a[..., :1] + b.sum(-1, keepdim=True)], -1)
encoder = ImplicitEncoder(Mixes(), 3)
found = {
    "shape for an image": list(encoder.sample(torch.ones(4)).shape),
    "shape for a batch": list(encoder.sample(torch.ones(5, 4)).shape),
    "shape for two batch axes, seven codes each": list(encoder.sample(torch.ones(2, 5, 4), (7,)).shape),
    "the image's part": encoder.sample(torch.tensor([[1.5, 0.0], [-2.0, 0.0]]))[..., 0],
}
""",
        ),
        Check(
            "the noise",
            """
class Scales(nn.Module):
    def forward(self, a, b):
        return 0 * a[..., :1] + 3 * b
encoder = ImplicitEncoder(Scales(), 2)
z = encoder.sample(torch.zeros(300, 1), (300,))
again = encoder.sample(torch.zeros(300, 1), (300,))
quarter = (z.abs() < 3 * 0.6745).double().mean()
found = {
    "mean of the noise, times 3": z.mean(),
    "spread over images": z.std(1).mean(),
    "spread over the codes of an image": z.std(0).mean(),
    "spread over the noise's axes": z.std(-1).mean(),
    "spread of the difference of two calls": (z - again).std(),
    "share within 0.6745 of 0 (half of a normal law)": quarter,
}
""",
            within=0.05,
        ),
        Check(
            "gradients reach the network and the image",
            """
class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
    def forward(self, a, b):
        return self.weight * a.sum(-1, keepdim=True) + 0 * b
encoder, x = ImplicitEncoder(Linear(), 2), torch.tensor([[1.0, 2.0], [0.5, -0.5]], requires_grad=True)
z = encoder.sample(x, (3,))
if z.requires_grad:
    of = torch.autograd.grad(z.sum(), [encoder.network.weight, x], allow_unused=True)
else:
    of = (torch.zeros(1), torch.zeros(2, 2))
found = {"gradient in the network's weight": of[0], "gradient in x": of[1]}
""",
        ),
        Check(
            "double precision",
            """
seen = []
class Records(nn.Module):
    def forward(self, a, b):
        seen.append(str(b.dtype))
        return 0 * a[..., :1] + b.to(a.dtype)
z = ImplicitEncoder(Records(), 2).sample(torch.zeros(3, 1, dtype=torch.float64))
found = {"the noise's dtype": seen[0], "the noise's axes": z.shape[-1]}
""",
            hidden=True,
        ),
        Check(
            "the network of question 5",
            """
encoder = ImplicitEncoder(ConcatenationMLP((4, 6), [8], 2), 6)
with torch.no_grad():
    encoder.network.mlp[0].weight[:] = 0
    encoder.network.mlp[0].weight[0, 5] = 1
    encoder.network.mlp[0].weight[1, 5] = -1
    encoder.network.mlp[0].bias[:] = 0
    encoder.network.mlp[2].weight[:] = 0
    encoder.network.mlp[2].weight[0, :2] = torch.tensor([1.0, -1.0])
    encoder.network.mlp[2].bias[:] = torch.tensor([0.0, 5.0])
    z = encoder.sample(torch.eye(4), (100, 100))
found = {"shape": list(z.shape), "spread": z.std((0, 1, 2)), "mean": z.mean((0, 1, 2))}
""",
            within=0.05,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "All images of a batch share one noise. Their codes are then not independent; each image needs its own.",
            encoder(
                "noise = torch.randn(*shape, *[1] * (x.ndim - 1), self.noise_dim, dtype=x.dtype)",
                "return self.network(x, noise.expand(*shape, *x.shape[:-1], -1))",
            ),
        ),
        Mutant(
            "All codes of an image share one noise: `shape` asks for independent codes.",
            encoder(
                "noise = torch.randn(*x.shape[:-1], self.noise_dim, dtype=x.dtype)",
                "return self.network(x, noise.expand(*shape, *noise.shape))",
            ),
        ),
        Mutant(
            "Your noise is uniform on (0, 1); it should be standard normal.",
            encoder("return self.network(x, torch.rand(*shape, *x.shape[:-1], self.noise_dim, dtype=x.dtype))"),
        ),
        Mutant(
            "Two calls give the same codes: the noise is seeded or kept. Draw new noise each time.",
            encoder(
                "rng = torch.Generator().manual_seed(0)",
                "noise = torch.randn(*shape, *x.shape[:-1], self.noise_dim, dtype=x.dtype, generator=rng)",
                "return self.network(x, noise)",
            ),
        ),
        Mutant(
            "The noise is added to the network's output. Then q(z|x) is a Gaussian of fixed width around a mean; in a "
            "black box it goes through the network.",
            encoder(
                "z = self.network(x, torch.zeros(*shape, *x.shape[:-1], self.noise_dim, dtype=x.dtype))",
                "return z + torch.randn_like(z)",
            ),
        ),
        Mutant(
            "No gradient flows from the codes to the network: the encoder could never learn.",
            encoder(
                "with torch.no_grad():",
                "    return self.network(x, torch.randn(*shape, *x.shape[:-1], self.noise_dim, dtype=x.dtype))",
            ),
        ),
        Mutant(
            "There is no noise: each image gets one code, always the same.",
            encoder("return self.network(x, torch.zeros(*shape, *x.shape[:-1], self.noise_dim, dtype=x.dtype))"),
        ),
        Mutant(
            "One number of noise is copied to all of the noise's axes. They should be independent.",
            encoder(
                "noise = torch.randn(*shape, *x.shape[:-1], 1, dtype=x.dtype)",
                "return self.network(x, noise.expand(*noise.shape[:-1], self.noise_dim))",
            ),
        ),
        Mutant(
            "Your noise is always in single precision; it should have the dtype of x.",
            encoder("return self.network(x, torch.randn(*shape, *x.shape[:-1], self.noise_dim))"),
        ),
    ],
    alternatives=[
        encoder(
            "noise = x.new_empty(tuple(shape) + tuple(x.shape[:-1]) + (self.noise_dim,)).normal_()",
            "return self.network(x, noise)",
        ),
        encoder(
            "full = x.expand(*shape, *x.shape)",
            "size = (*full.shape[:-1], self.noise_dim)",
            "return self.network(full, torch.normal(torch.zeros(size, dtype=x.dtype), 1.0))",
        ),
        encoder(
            "axes = [torch.randn(*shape, *x.shape[:-1], 1, dtype=x.dtype) for _ in range(self.noise_dim)]",
            "return self.network(x, -torch.cat(axes, -1))",
        ),
    ],
    seconds=20,
)

# --- 2b: the model's loss -----------------------------------------------------------------------------------------------

# An encoder whose noise is always the same, a decoder and a critic, all of few parameters and with known gradients.
TINY = """
class TinyEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.5, -0.2], [0.1, 0.7]]))
        self.shift = nn.Parameter(torch.tensor([0.3, -0.4]))
    def sample(self, x, shape=()):
        size = (*shape, *x.shape[:-1], 2)
        noise = torch.linspace(-1.5, 1.2, math.prod(size)).to(x).reshape(size)
        return x @ self.weight.T.to(x) + self.shift.to(x) + noise
class TinyDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.9, -0.6]))
    def log_prob(self, x, z):
        return -0.5 * (x - self.weight.to(z) * z).square().sum(-1)
class TinyCritic(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
    def forward(self, x, z):
        return self.scale * (0.5 + (z * z).sum(-1) - 0.3 * (x * z).sum(-1))
def findings(x, scale=1.0):
    encoder, decoder, critic = TinyEncoder(), TinyDecoder(), TinyCritic(scale)
    loss = model_loss(encoder, decoder, critic, x)
    of = [*encoder.parameters(), *decoder.parameters()]
    gradients = torch.autograd.grad(loss.sum(), of, allow_unused=True)
    gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(of, gradients)]
    names = ["gradient in the encoder's weight", "gradient in the encoder's shift", "gradient in the decoder's weight"]
    return {"loss": loss} | dict(zip(names, gradients))
"""


def model_loss(*lines: str) -> str:
    """An answer to 2b."""
    return "\n    ".join(["def model_loss(encoder, decoder, critic, x):", *lines])


PART_2B = Part(
    "2b",
    "The model's loss",
    7,
    checks=[
        Check(
            "value and gradients",
            TINY
            + "found = findings(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, -1.0], [2.0, 0.3], [-1.0, 0.8]]).double())",
            within=1e-5,
        ),
        Check(
            "one image, another critic",
            TINY + "found = findings(torch.tensor([[1.2, -0.7]]), scale=-4.0)",
            hidden=True,
        ),
        Check(
            "a large batch in single precision",
            TINY + "found = findings(torch.linspace(-1, 1.5, 400).reshape(200, 2), scale=3.0)",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "The critic's sign is turned: T stands for log q(z|x) − log p(z), whose expectation is the KL, a cost.",
            model_loss("z = encoder.sample(x)", "return (-critic(x, z) - decoder.log_prob(x, z)).mean()"),
        ),
        Mutant(
            "The likelihood's sign is turned: log p(x|z) should become large, so it lowers the loss.",
            model_loss("z = encoder.sample(x)", "return (critic(x, z) + decoder.log_prob(x, z)).mean()"),
        ),
        Mutant(
            "That is the objective of the model, not its loss: both signs are turned.",
            model_loss("z = encoder.sample(x)", "return (decoder.log_prob(x, z) - critic(x, z)).mean()"),
        ),
        Mutant(
            "No gradient passes through T to the codes. T is held fixed as a function: its parameters are, not its value.",
            model_loss("z = encoder.sample(x)", "return (critic(x, z).detach() - decoder.log_prob(x, z)).mean()"),
        ),
        Mutant(
            "The codes are cut off from the encoder, which gets no gradient at all.",
            model_loss(
                "z = encoder.sample(x).detach()",
                "return (critic(x, z) - decoder.log_prob(x, z)).mean()",
            ),
        ),
        Mutant(
            "The encoder learns nothing from the decoder: the codes are cut off before log p(x|z).",
            model_loss("z = encoder.sample(x)", "return (critic(x, z) - decoder.log_prob(x, z.detach())).mean()"),
        ),
        Mutant(
            "Your loss is a sum over the batch; a mean was asked for.",
            model_loss("z = encoder.sample(x)", "return (critic(x, z) - decoder.log_prob(x, z)).sum()"),
        ),
        Mutant(
            "You use −log(1 − σ(T)), a GAN generator's loss. The ELBO needs the log ratio itself, which is T.",
            model_loss("z = encoder.sample(x)", "return (softplus(critic(x, z)) - decoder.log_prob(x, z)).mean()"),
        ),
        Mutant(
            "You feed σ(T) where T belongs: a probability is not the log ratio.",
            model_loss("z = encoder.sample(x)", "return (critic(x, z).sigmoid() - decoder.log_prob(x, z)).mean()"),
        ),
        Mutant(
            "The critic's term is missing: without it nothing holds the codes near the prior.",
            model_loss("z = encoder.sample(x)", "return -decoder.log_prob(x, z).mean()"),
        ),
    ],
    alternatives=[
        model_loss("z = encoder.sample(x, ())", "return critic(x, z).mean() - decoder.log_prob(x, z).mean()"),
        model_loss(
            "cost = critic(x, z := encoder.sample(x)) - decoder.log_prob(x, z)",
            "return torch.einsum('b->', cost) / len(x)",
        ),
        model_loss(
            "z = encoder.sample(x)",
            "needed = [p.requires_grad for p in critic.parameters()]",
            "critic.requires_grad_(False)",
            "log_ratio = critic(x, z)",
            "for p, each in zip(critic.parameters(), needed):",
            "    p.requires_grad_(each)",
            "return -(decoder.log_prob(x, z) - log_ratio).sum() / x.shape[0]",
        ),
    ],
    seconds=20,
)

# --- 3b: Proposition 2 by Monte Carlo -----------------------------------------------------------------------------------


def expected_gradient(*lines: str) -> str:
    """An answer to 3b; its lines know `vmap` and `grad`."""
    start = ["def expected_gradient(log_ratio, sample, phi, noise):", "vmap, grad = torch.func.vmap, torch.func.grad"]
    return "\n    ".join([*start, *lines])


CODES = "codes = vmap(sample, (None, 0))(phi, noise).detach()"
PER_CODE = "g = vmap(grad(log_ratio), (None, 0))(phi, codes)"

PART_3B = Part(
    "3b",
    "Proposition 2 by Monte Carlo",
    8,
    checks=[
        Check(
            "a Gaussian encoder, five codes",
            """
def log_ratio(phi, z):
    return (0.5 * z**2 - 0.5 * ((z - phi[0]) / phi[1].exp()) ** 2 - phi[1]).sum()
def sample(phi, e):
    return phi[0] + phi[1].exp() * e
phi, noise = torch.tensor([0.6, -0.3]).double(), torch.tensor([[-1.4], [0.2], [0.9], [-0.5], [1.9]]).double()
mean, stderr = expected_gradient(log_ratio, sample, phi, noise)
found = {"mean": mean, "standard error": stderr}
""",
            within=1e-6,
        ),
        Check(
            "the uniform encoder of 3a",
            """
def log_ratio(phi, z):
    return (0.5 * z**2 - phi.log()).sum()
mean, stderr = expected_gradient(log_ratio, lambda phi, e: phi * e, torch.tensor([1.6]), torch.rand(40, 1))
found = {"φ times the mean": 1.6 * mean, "standard error": stderr}
""",
        ),
        Check(
            "two latent variables, six parameters, three codes",
            """
def log_ratio(phi, z):
    scale = phi[2:].reshape(2, 2)
    residual = torch.linalg.solve(scale, z - phi[:2])
    return 0.5 * (z * z).sum() - 0.5 * (residual * residual).sum() - torch.linalg.slogdet(scale)[1]
def sample(phi, e):
    return phi[:2] + phi[2:].reshape(2, 2) @ e
phi = torch.tensor([0.3, -0.2, 1.1, 0.4, -0.3, 0.8])
mean, stderr = expected_gradient(log_ratio, sample, phi, torch.tensor([[0.5, -1.0], [1.3, 0.7], [-0.2, 0.4]]))
found = {"mean": mean, "standard error": stderr}
""",
            hidden=True,
        ),
        Check(
            "a thousand codes: zero in standard errors",
            """
def log_ratio(phi, z):
    return (0.5 * z**2 - 0.5 * ((z - phi[0]) / phi[1].exp()) ** 2 - phi[1]).sum()
def sample(phi, e):
    return phi[0] + phi[1].exp() * e
noise = torch.linspace(0.0005, 0.9995, 1000)[:, None].mul(2).sub(1).erfinv() * 2**0.5
mean, stderr = expected_gradient(log_ratio, sample, torch.tensor([1.0, 0.2]), noise)
found = {"mean": mean, "standard error times the root of n": stderr * 1000**0.5}
""",
            within=1e-2,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "You differentiate through the sample as well. The proposition is about the gradient at a fixed code: T*'s own "
            "dependence on φ alone.",
            expected_gradient(
                "g = vmap(grad(lambda phi, e: log_ratio(phi, sample(phi, e))), (None, 0))(phi, noise)",
                "return g.mean(0), g.std(0) / len(noise) ** 0.5",
            ),
        ),
        Mutant(
            "That is the gradient through the sample, with the critic held fixed: the part that AVB keeps. Asked for is the "
            "part that it leaves out.",
            expected_gradient(
                "fixed = phi.detach().clone()",
                "g = vmap(grad(lambda phi, e: log_ratio(fixed, sample(phi, e))), (None, 0))(phi, noise)",
                "return g.mean(0), g.std(0) / len(noise) ** 0.5",
            ),
        ),
        Mutant(
            "Your standard error is the spread of single gradients. That of their mean shrinks with the root of n.",
            expected_gradient(CODES, PER_CODE, "return g.mean(0), g.std(0)"),
        ),
        Mutant(
            "Your standard error shrinks with n; that of a mean of n independent values shrinks with the root of n.",
            expected_gradient(CODES, PER_CODE, "return g.mean(0), g.std(0) / len(noise)"),
        ),
        Mutant(
            "That is the square of the standard error: the root is missing.",
            expected_gradient(CODES, PER_CODE, "return g.mean(0), g.var(0) / len(noise)"),
        ),
        Mutant(
            "You divide the squared deviations by n. The variance of a sample whose mean was estimated from it has n − 1.",
            expected_gradient(CODES, PER_CODE, "return g.mean(0), g.std(0, correction=0) / len(noise) ** 0.5"),
        ),
        Mutant(
            "You add the gradients up; their mean was asked for.",
            expected_gradient(CODES, PER_CODE, "return g.sum(0), g.std(0) / len(noise) ** 0.5"),
        ),
        Mutant(
            "The sign of the gradient is turned.",
            expected_gradient(CODES, PER_CODE, "return -g.mean(0), g.std(0) / len(noise) ** 0.5"),
        ),
        Mutant(
            "That is the gradient in z, not in φ.",
            expected_gradient(
                CODES,
                "g = vmap(grad(log_ratio, 1), (None, 0))(phi, codes)",
                "return g.mean(0).expand_as(phi) if g.shape[-1] == 1 else g.mean(0), "
                "(g.std(0) / len(noise) ** 0.5).expand_as(phi) if g.shape[-1] == 1 else g.std(0)",
            ),
        ),
    ],
    alternatives=[
        "\n".join(
            [
                "def expected_gradient(log_ratio, sample, phi, noise):",
                "    gradients = []",
                "    for e in noise:",
                "        z = sample(phi, e).detach()",
                "        leaf = phi.detach().clone().requires_grad_()",
                "        gradients.append(torch.autograd.grad(log_ratio(leaf, z), leaf)[0])",
                "    g = torch.stack(gradients)",
                "    return g.mean(0), (g.var(0) / len(g)).sqrt()",
            ]
        ),
        expected_gradient(
            CODES,
            "g = torch.func.jacrev(lambda p: vmap(log_ratio, (None, 0))(p, codes))(phi)",
            "n = len(noise)",
            "mean = g.sum(0) / n",
            "return mean, ((g - mean).square().sum(0) / (n * (n - 1))).sqrt()",
        ),
        expected_gradient(
            "codes = torch.stack([sample(phi.detach(), e) for e in noise])",
            "g = torch.stack([torch.autograd.functional.jacobian(lambda p: log_ratio(p, z), phi) for z in codes])",
            "return torch.einsum('nm->m', g) / len(g), torch.std(g, 0) * len(g) ** -0.5",
        ),
    ],
    seconds=20,
)

# --- 4b: one round of the mended algorithm ------------------------------------------------------------------------------

# One latent variable, so many images that a mean over codes of the prior is near its expectation.
ROUND = """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift, self.calls = nn.Parameter(torch.tensor([1.0])), 0
    def sample(self, x, shape=()):
        self.calls += 1
        n = math.prod((*shape, *x.shape[:-1]))
        uniform = (torch.arange(n) + 0.5) / n
        return self.shift + 0.5 * 2**0.5 * (2 * uniform - 1).erfinv().reshape(*shape, *x.shape[:-1], 1)
class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.tensor([0.0]))
    def log_prob(self, x, z):
        return -0.5 * (x - z - self.offset).square().sum(-1)
class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope, self.curve = nn.Parameter(torch.tensor([0.0])), nn.Parameter(torch.tensor([0.0]))
    def forward(self, x, z):
        return (self.slope * z + self.curve * z * z).sum(-1)
def after(rounds=1, critic_steps=1, stale=0.0, critic_rate=1.0, model_rate=0.3):
    encoder, decoder, critic = Encoder(), Decoder(), Critic()
    model = [*encoder.parameters(), *decoder.parameters()]
    for parameter in [*model, *critic.parameters()]:
        parameter.grad = torch.full_like(parameter, stale) if stale else None
    optimizers = torch.optim.SGD(critic.parameters(), critic_rate), torch.optim.SGD(model, model_rate)
    x = torch.full((40_000, 1), 2.0)
    for _ in range(rounds):
        losses = avb_round(encoder, decoder, critic, *optimizers, x, critic_steps)
    return {
        "the critic": [critic.slope.item(), critic.curve.item()],
        "the encoder": encoder.shift.item(),
        "the decoder": decoder.offset.item(),
        "the losses": list(losses),
        "the losses are floats": all(isinstance(each, float) for each in losses),
    }, encoder.calls
"""


def avb_round(*lines: str) -> str:
    """An answer to 4b."""
    start = "def avb_round(encoder, decoder, critic, critic_optimizer, model_optimizer, x, critic_steps=2):"
    return "\n    ".join([start, *lines])


CRITIC_STEPS = [
    "for _ in range(critic_steps):",
    "    z = encoder.sample(x).detach()",
    "    c = critic_loss(critic(x, z), critic(x, torch.randn_like(z)))",
    "    critic_optimizer.zero_grad()",
    "    c.backward()",
    "    critic_optimizer.step()",
]
MODEL_STEP = [
    "m = model_loss(encoder, decoder, critic, x)",
    "model_optimizer.zero_grad()",
    "m.backward()",
    "model_optimizer.step()",
]
RETURN = ["return c.item(), m.item()"]


def indented(lines: list[str]) -> list[str]:
    """The lines of a block."""
    return [f"    {line}" for line in lines]


def without(word: str, lines: list[str]) -> list[str]:
    """The lines that do not have the word."""
    return [line for line in lines if word not in line]


def with_this(old: str, new: str, lines: list[str]) -> list[str]:
    """The lines with something replaced."""
    return [line.replace(old, new) for line in lines]


PART_4B = Part(
    "4b",
    "One round of AVB",
    11,
    checks=[
        Check(
            "one step of each player",
            ROUND + "found, _ = after()",
            within=0.05,
        ),
        Check(
            "gradients that lay around",
            ROUND + "found, _ = after(stale=3.0)",
            within=0.05,
        ),
        Check(
            "four steps of the critic",
            ROUND
            + "found, calls = after(critic_steps=4, critic_rate=0.5)\n"
            + "found['codes are drawn anew for every step'] = calls >= 5",
            within=0.05,
        ),
        Check(
            "three rounds, two steps of the critic in each",
            ROUND + "found, _ = after(rounds=3, critic_steps=2, critic_rate=0.5, model_rate=0.2)",
            within=0.1,
            hidden=True,
        ),
        Check(
            "the networks of the library",
            """
encoder = ImplicitEncoder(ConcatenationMLP((4, 3), [8], 2), 3)
decoder, critic = BernoulliDecoder(MLP(2, [8], 4)), PairCritic(ConcatenationMLP((4, 2), [8], 1))
players = {"encoder": encoder, "decoder": decoder, "critic": critic}
before = {name: [p.clone() for p in part.parameters()] for name, part in players.items()}
model = [*encoder.parameters(), *decoder.parameters()]
def moved():
    return [
        max(float((p - q).detach().abs().max()) for p, q in zip(part.parameters(), before[name])) > 0
        for name, part in players.items()
    ]
still, lively = torch.optim.SGD(critic.parameters(), 0.0), torch.optim.SGD(model, 0.1)
avb_round(encoder, decoder, critic, still, lively, FOUR_POINTS)
first = moved()
still, lively = torch.optim.SGD(model, 0.0), torch.optim.SGD(critic.parameters(), 0.1)
avb_round(encoder, decoder, critic, lively, still, FOUR_POINTS)
found = {
    "with a critic that cannot move, encoder, decoder and critic have moved": first,
    "and once it can": moved(),
}
""",
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "Your critic compares codes of the encoder with codes of the encoder, as line 8 is printed: it can learn nothing. "
            "Its second term belongs to codes of the prior.",
            avb_round(*with_this("torch.randn_like(z)", "z", CRITIC_STEPS), *MODEL_STEP, *RETURN),
        ),
        Mutant(
            "Your critic climbs its loss, as line 9 is printed: it learns to be wrong.",
            avb_round(
                *with_this("c.backward()", "(-c).backward()", CRITIC_STEPS),
                *MODEL_STEP,
                *RETURN,
            ),
        ),
        Mutant(
            "Old gradients are still in .grad when you call `backward`, which adds to them. Clear them before each step.",
            avb_round(*without("zero_grad", CRITIC_STEPS), *without("zero_grad", MODEL_STEP), *RETURN),
        ),
        Mutant(
            "The model's gradients are not cleared: what lay in its .grad before is added to its step.",
            avb_round(*CRITIC_STEPS, *without("zero_grad", MODEL_STEP), *RETURN),
        ),
        Mutant(
            "The critic's loss pushes the encoder too: its codes were not cut off, and their gradient is still there when the "
            "model moves.",
            avb_round(
                "model_optimizer.zero_grad()",
                *with_this(".detach()", "", CRITIC_STEPS),
                *without("zero_grad", MODEL_STEP),
                *RETURN,
            ),
        ),
        Mutant(
            "The model moves before the critic. It should meet the critic that has just moved.",
            avb_round(*MODEL_STEP, *CRITIC_STEPS, *RETURN),
        ),
        Mutant(
            "The model's gradient is taken before the critic moves, as in the paper's algorithm 1. Here the critic moves "
            "first.",
            avb_round(*MODEL_STEP[:3], *CRITIC_STEPS, MODEL_STEP[3], *RETURN),
        ),
        Mutant(
            "The critic also steps down the model's loss, and so learns to make T small. It may move by its own loss only.",
            avb_round(*CRITIC_STEPS, "critic_optimizer.zero_grad()", *MODEL_STEP, "critic_optimizer.step()", *RETURN),
        ),
        Mutant(
            "The codes to compare with are uniform on (0, 1); the prior is standard normal.",
            avb_round(*with_this("randn_like", "rand_like", CRITIC_STEPS), *MODEL_STEP, *RETURN),
        ),
        Mutant(
            "The critic makes one step, however many `critic_steps` asks for.",
            avb_round(*with_this("range(critic_steps)", "range(1)", CRITIC_STEPS), *MODEL_STEP, *RETURN),
        ),
        Mutant(
            "The model moves at every step of the critic. It moves once in a round, at the end.",
            avb_round(*CRITIC_STEPS, *indented(MODEL_STEP), *RETURN),
        ),
        Mutant(
            "The encoder's codes are drawn once for all steps of the critic. It then learns these codes by heart; draw fresh "
            "ones for each step.",
            avb_round("z = encoder.sample(x).detach()", *without("z = encoder", CRITIC_STEPS), *MODEL_STEP, *RETURN),
        ),
    ],
    alternatives=[
        avb_round(
            "for step in range(critic_steps):",
            "    critic_optimizer.zero_grad(set_to_none=False)",
            "    prior = torch.randn(len(x), *encoder.sample(x).shape[1:])",
            "    on_q, on_p = critic(x, encoder.sample(x).detach()), critic(x, prior)",
            "    c = critic_loss(on_q, on_p)",
            "    c.backward()",
            "    critic_optimizer.step()",
            "model_optimizer.zero_grad(set_to_none=False)",
            "m = model_loss(encoder, decoder, critic, x)",
            "m.backward()",
            "model_optimizer.step()",
            "return float(c.detach()), float(m.detach())",
        ),
        avb_round(
            "def descend(optimizer, loss):",
            "    parameters = [p for group in optimizer.param_groups for p in group['params']]",
            "    for p, g in zip(parameters, torch.autograd.grad(loss, parameters)):",
            "        p.grad = g",
            "    optimizer.step()",
            "    return loss.item()",
            "",
            "for _ in range(critic_steps):",
            "    z = encoder.sample(x)",
            "    c = descend(critic_optimizer, critic_loss(critic(x, z), critic(x, torch.randn(z.shape))))",
            "return c, descend(model_optimizer, model_loss(encoder, decoder, critic, x))",
        ),
        avb_round(
            "count = 0",
            "while count < critic_steps:",
            "    z_p = torch.randn_like(encoder.sample(x))",
            "    z_q = encoder.sample(x)",
            "    c = critic_loss(critic(x, z_q), critic(x, z_p))",
            "    critic_optimizer.zero_grad()",
            "    c.backward(inputs=list(critic.parameters()))",
            "    critic_optimizer.step()",
            "    count += 1",
            *MODEL_STEP,
            *RETURN,
        ),
        avb_round(
            "for _ in range(critic_steps):",
            "    z = encoder.sample(x)",
            "    c = critic_loss(critic(x, z), critic(x, torch.randn_like(z)))",
            "    critic_optimizer.zero_grad()",
            "    c.backward()",
            "    critic_optimizer.step()",
            *MODEL_STEP,
            "critic_optimizer.zero_grad()",
            *RETURN,
        ),
    ],
    seconds=30,
)

# --- 5a: the exact log-likelihood ---------------------------------------------------------------------------------------

LINEAR = """
class Linear:
    def __init__(self, weight, std, constant=0.0):
        self.weight, self.std, self.constant = torch.tensor(weight), std, constant
    def log_prob(self, x, z):
        weight = self.weight.to(z)
        n = weight.shape[0]
        squares = ((x - z @ weight.T) / self.std).square().sum(-1)
        return -0.5 * squares - n * math.log(self.std) - 0.5 * n * math.log(2 * math.pi) + self.constant
"""


def log_likelihood(*lines: str) -> str:
    """An answer to 5a; its lines know `axis`, `z`, `log_prior` and `log_area`, and end in what is returned."""
    start = [
        "@torch.no_grad()",
        "def log_likelihood(decoder, x, points=201, radius=6.0):",
        "    axis = torch.linspace(-radius, radius, points, dtype=x.dtype)",
        "    z = torch.cartesian_prod(axis, axis)",
        "    log_prior = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)",
        "    log_area = 2 * math.log(2 * radius / (points - 1))",
        "    log_p = decoder.log_prob(x[:, None], z)",
    ]
    return "\n".join([*start, *(f"    {line}" for line in lines)])


PART_5A = Part(
    "5a",
    "The exact log-likelihood",
    9,
    checks=[
        Check(
            "a linear decoder, whose log-likelihood is known",
            LINEAR
            + """
decoder = Linear([[0.8, 0.2], [-0.5, 0.9], [0.3, 0.3]], 0.9)
x = torch.tensor([[0.2, -0.4, 1.0], [1.5, 0.3, -0.6]]).double()
found = {"log p(x)": log_likelihood(decoder, x, 61)}
""",
            within=1e-4,
        ),
        Check(
            "four images and a Bernoulli decoder",
            """
decoder = BernoulliDecoder(MLP(2, [5], 4))
with torch.no_grad():
    for i, p in enumerate(decoder.parameters()):
        p.copy_((i + 1) * torch.sin(torch.arange(p.numel()) + i).reshape(p.shape))
value = log_likelihood(decoder, FOUR_POINTS, 81)
found = {"log p(x)": value, "dtype": str(value.dtype)}
""",
            within=1e-3,
        ),
        Check(
            "images of a thousand nats, single precision",
            LINEAR
            + """
decoder = Linear([[1.0, 0.0], [0.0, 0.7]], 0.8, constant=-1500.0)
found = {"log p(x) + 1500": log_likelihood(decoder, torch.tensor([[0.0, 1.0], [2.0, -0.5], [0.3, 0.1]]), 61) + 1500}
""",
            within=1e-2,
            hidden=True,
        ),
        Check(
            "another grid",
            LINEAR
            + "found = {'log p(x)': log_likelihood(Linear([[1.2, -0.4]], 1.1), torch.tensor([[0.5], [2.0]]), 41, 7.5)}",
            within=1e-3,
            hidden=True,
        ),
    ],
    mutants=[
        Mutant(
            "The area of a cell is missing: a sum over nodes becomes an integral when each counts for its cell.",
            log_likelihood("return (log_p + log_prior).logsumexp(1)"),
        ),
        Mutant(
            "The prior is missing: the integral is one over p(x|z) p(z).",
            log_likelihood("return log_p.logsumexp(1) + log_area"),
        ),
        Mutant(
            "You average over the nodes: right for codes drawn from the prior, but not for a grid.",
            log_likelihood("return (log_p + log_prior).logsumexp(1) - 2 * math.log(points)"),
        ),
        Mutant(
            "The spacing is off: `points` nodes with both ends have points − 1 gaps between them.",
            log_likelihood("return (log_p + log_prior).logsumexp(1) + 2 * math.log(2 * radius / points)"),
        ),
        Mutant(
            "You multiply by the spacing; in the plane a node counts for its square.",
            log_likelihood("return (log_p + log_prior).logsumexp(1) + 0.5 * log_area"),
        ),
        Mutant(
            "The prior's normalizer is missing: its density in the plane has the factor 1/(2π).",
            log_likelihood("return (log_p + log_prior + math.log(2 * math.pi)).logsumexp(1) + log_area"),
        ),
        Mutant(
            "The prior's normalizer is that of one variable; in the plane it is 1/(2π).",
            log_likelihood("return (log_p + log_prior + 0.5 * math.log(2 * math.pi)).logsumexp(1) + log_area"),
        ),
        Mutant(
            "That is the mean over the images; one number for each was asked for.",
            log_likelihood("return (log_p + log_prior).logsumexp(1).mean() + log_area"),
        ),
        Mutant(
            "That is the prior's mean of log p(x|z), which by Jensen is less. The logarithm comes after the integral.",
            log_likelihood("return (log_p * log_prior.exp()).sum(1) * math.exp(log_area)"),
        ),
        Mutant(
            "You add up probabilities and take the logarithm at the end. At e^−1500 all of them are 0; stay in log space.",
            log_likelihood("return ((log_p + log_prior).exp().sum(1) * math.exp(log_area)).log()"),
        ),
    ],
    alternatives=[
        "\n".join(
            [
                "def log_likelihood(decoder, x, points=201, radius=6.0):",
                "    values = []",
                "    first = torch.linspace(-radius, radius, points, dtype=x.dtype)",
                "    a, b = torch.meshgrid(first, first, indexing='xy')",
                "    z = torch.stack([a.flatten(), b.flatten()], 1)",
                "    step = first[1] - first[0]",
                "    with torch.no_grad():",
                "        for image in x:",
                "            terms = decoder.log_prob(image[None, None], z)[0] - 0.5 * (z**2).sum(1)",
                "            top = terms.max()",
                "            total = (terms - top).exp().sum() * step**2 / (2 * math.pi)",
                "            values.append(top + total.log())",
                "    return torch.stack(values)",
            ]
        ),
        log_likelihood(
            "square = (log_p + log_prior).reshape(len(x), points, points)",
            "return torch.logsumexp(torch.logsumexp(square, 2), 1) + log_area",
        ),
        log_likelihood(
            "weights = torch.full((points,), 2 * radius / (points - 1), dtype=x.dtype)",
            "weights[0] = weights[-1] = weights[0] / 2",
            "log_weights = (weights[:, None] * weights).flatten().log()",
            "return torch.logsumexp(log_p + log_prior + log_weights, -1)",
        ),
    ],
    seconds=20,
)

# --- 5b: training -------------------------------------------------------------------------------------------------------

# A game with gradients of constant size, in which Adam's steps are the learning rates themselves. The decoder's parameter is
# driven past a target, six rates away, so that its path shows the momentum.
RECIPE = """
log = {"batches": [], "offset": [], "slope": [], "rate": 1.0}
def note(name, value):
    if not log[name] or log[name][-1] != value:
        log[name].append(value)
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.0))
    def sample(self, x, shape=()):
        log["batches"].append(x.clone())
        return 20 + self.shift + torch.zeros(*shape, *x.shape[:-1], 1)
class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = nn.Parameter(torch.tensor(0.0))
    def log_prob(self, x, z):
        note("offset", self.offset.item())
        return z.sum(-1) - 5 * (self.offset - 6 * log["rate"]).abs()
class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.0))
    def forward(self, x, z):
        note("slope", self.slope.item())
        return 1e-3 * self.slope * z.sum(-1)
def play(steps, rate, rows=50, batch_size=16):
    encoder, decoder, critic = Encoder(), Decoder(), Critic()
    data = torch.arange(rows)[:, None].float()
    log["rate"] = rate
    losses = train_avb(encoder, decoder, critic, data, steps, batch_size, rate)
    note("offset", decoder.offset.item())
    note("slope", critic.slope.item())
    x = torch.cat(log["batches"]).flatten()
    total = rate * (steps + 1) / 2
    return {
        "shape of the losses": list(losses.shape),
        "rows in a batch": len(log["batches"][0]),
        "how far the encoder went": encoder.shift.item() / total,
        "how far the critic went": critic.slope.item() / total,
        "the critic's steps in a round": (len(log["slope"]) - 1) / steps,
        "rounds that see the batch of the round before": sum(
            bool((a == b).all()) for a, b in zip(log["batches"][:-3:3], log["batches"][3::3])) / steps,
        "all of the data is seen": len(x.unique()) > 0.9 * rows,
        "rows other than the first are seen": bool((x >= batch_size).any()),
        "the decoder's path, in units of `rate`": [each / rate for each in log["offset"]],
    }
"""


def train_avb(*, model: str = "[*encoder.parameters(), *decoder.parameters()]", **changes: str) -> str:
    """An answer to 5b, with pieces of it exchanged."""
    pieces = {
        "critic_adam": "torch.optim.Adam(critic.parameters(), lr=2 * rate, betas=(0.5, 0.999))",
        "model_adam": f"torch.optim.Adam({model}, lr=rate, betas=(0.5, 0.999))",
        "batch": "data[torch.randint(len(data), (batch_size,))]",
        "before": "pass",
        "again": "pass",
        "scheduled": "optimizers",
        "round": "avb_round(encoder, decoder, critic, *optimizers, x)",
    } | changes
    return """
def train_avb(encoder, decoder, critic, data, steps, batch_size=128, rate=2e-3):
    optimizers = ({critic_adam}, {model_adam})
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, steps) for each in {scheduled}]
    losses = []
    {before}
    for _ in range(steps):
        {again}
        x = {batch}
        losses.append({round})
        for schedule in schedules:
            schedule.step()
    return torch.tensor(losses)
""".format(**pieces)


PART_5B = Part(
    "5b",
    "Training",
    9,
    checks=[
        Check("the recipe", RECIPE + "found = play(steps=20, rate=0.05)", within=0.03),
        Check(
            "a short training on the four points",
            RECIPE
            + """
from avb_core.evaluation import log_likelihood_quadrature
seen = play(steps=20, rate=0.05)
if abs(seen["how far the critic went"] - 4) + abs(seen["how far the encoder went"] - 1) > 0.2 \\
        or abs(max(seen["the decoder's path, in units of `rate`"]) - 6.47) > 0.2 \\
        or seen["the critic's steps in a round"] != 2 or seen["rows in a batch"] != 16 \\
        or not seen["all of the data is seen"] \\
        or seen["rounds that see the batch of the round before"] > 0.1:
    raise RuntimeError("a training is only tried once the recipe is right")
encoder = ImplicitEncoder(ConcatenationMLP((4, 8), [64, 64], 2), 8)
decoder, critic = BernoulliDecoder(MLP(2, [64, 64], 4)), PairCritic(ConcatenationMLP((4, 2), [64, 64], 1))
threads = torch.get_num_threads()
torch.set_num_threads(1)
losses = train_avb(encoder, decoder, critic, FOUR_POINTS, 300, 64, 5e-3)
torch.set_num_threads(threads)
value = log_likelihood_quadrature(decoder, FOUR_POINTS, points=101, radius=5.0)[0].mean().item()
found = {
    "log-likelihood, by how much it stays below −2.1 nats": max(0.0, -2.1 - value),
    "log-likelihood, by how much it is above −log 4": max(0.0, value + math.log(4) - 1e-3),
    "all losses are finite": bool(losses.isfinite().all()),
}
""",
        ),
        Check("another length, another rate", RECIPE + "found = play(24, 0.02, rows=40, batch_size=24)", 0.03, True),
    ],
    mutants=[
        Mutant(
            "The learning rates stay constant. They should decay to zero along half a cosine, so that the game settles.",
            train_avb(scheduled="()"),
        ),
        Mutant(
            "Only the model's learning rate decays; the critic's should as well.",
            train_avb(scheduled="optimizers[1:]"),
        ),
        Mutant(
            "Only the critic's learning rate decays; the model's should as well.",
            train_avb(scheduled="optimizers[:1]"),
        ),
        Mutant(
            "Your Adam has its default momentum, 0.9. In this game betas start with 0.5.",
            train_avb(
                critic_adam="torch.optim.Adam(critic.parameters(), lr=2 * rate)",
                model_adam="torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=rate)",
            ),
        ),
        Mutant(
            "The learning rates are exchanged: the critic has to be the faster one.",
            train_avb(
                critic_adam="torch.optim.Adam(critic.parameters(), lr=rate, betas=(0.5, 0.999))",
                model_adam="torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2 * rate, betas=(0.5, 0.999))",
            ),
        ),
        Mutant(
            "Both players have the model's learning rate; the critic's is twice that.",
            train_avb(critic_adam="torch.optim.Adam(critic.parameters(), lr=rate, betas=(0.5, 0.999))"),
        ),
        Mutant(
            "The encoder never moves: its parameters are in no optimizer.",
            train_avb(model="decoder.parameters()"),
        ),
        Mutant(
            "The decoder never moves: its parameters are in no optimizer.",
            train_avb(model="encoder.parameters()"),
        ),
        Mutant(
            "Every round sees the same images: draw a minibatch in each.",
            train_avb(before="chosen = torch.randint(len(data), (batch_size,))", batch="data[chosen]"),
        ),
        Mutant(
            "You always take the first rows of the data; the others are never seen.",
            train_avb(batch="data[:batch_size]"),
        ),
        Mutant(
            "Each round sees all of the data, not a minibatch of `batch_size` rows.",
            train_avb(batch="data"),
        ),
        Mutant(
            "The optimizers are made anew in every round: Adam loses its averages, and the schedule its hold on them.",
            train_avb(
                scheduled="()",
                again="optimizers = (torch.optim.Adam(critic.parameters(), lr=2 * rate, betas=(0.5, 0.999)), torch.optim.Adam("
                "[*encoder.parameters(), *decoder.parameters()], lr=rate, betas=(0.5, 0.999)))",
            ),
        ),
        Mutant(
            "The critic makes one step in a round; it should make two.",
            train_avb(round="avb_round(encoder, decoder, critic, *optimizers, x, 1)"),
        ),
    ],
    alternatives=[
        """
def train_avb(encoder, decoder, critic, data, steps, batch_size=128, rate=2e-3):
    c = torch.optim.Adam(list(critic.parameters()), lr=2 * rate, betas=(0.5, 0.999))
    m = torch.optim.Adam(list(decoder.parameters()) + list(encoder.parameters()), lr=rate, betas=(0.5, 0.999))
    losses = torch.empty(steps, 2)
    for t in range(steps):
        decay = 0.5 * (1 + math.cos(math.pi * t / steps))
        c.param_groups[0]["lr"], m.param_groups[0]["lr"] = 2 * rate * decay, rate * decay
        rows = (torch.rand(batch_size) * len(data)).long()
        losses[t] = torch.tensor(avb_round(encoder, decoder, critic, c, m, data[rows]))
    return losses
""",
        """
def train_avb(encoder, decoder, critic, data, steps, batch_size=128, rate=2e-3):
    model = nn.ModuleList([encoder, decoder])
    c = torch.optim.Adam(critic.parameters(), lr=rate * 2, betas=(0.5, 0.999))
    m = torch.optim.Adam([{"params": encoder.parameters()}, {"params": decoder.parameters()}], rate, (0.5, 0.999))
    decay = lambda t: 0.5 * (1 + math.cos(math.pi * t / steps))
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, decay) for each in (c, m)]
    losses = []
    while len(losses) < steps:
        rows = torch.multinomial(torch.ones(len(data)), batch_size, replacement=True)
        pair = avb_round(encoder, decoder, critic, c, m, data.index_select(0, rows), critic_steps=2)
        losses.append(torch.tensor(pair))
        for schedule in schedules:
            schedule.step()
    return torch.stack(losses)
""",
        train_avb(batch="torch.stack([data[i] for i in torch.randint(0, len(data), (batch_size,)).flip(0).tolist()])"),
    ],
    seconds=60,
)

# --- all, in the notebook's order ---------------------------------------------------------------------------------------

RULES = r"torch\.distributions|avb_core"

PARTS = [
    Written(
        "1a",
        "Proposition 1",
        [
            (2, "writes J as one integral over (x, z) and says that T's value at one point binds it nowhere else"),
            (2, "finds the stationary point e^t = q/p of the integrand, and from it T* = log q − log p"),
            (1, "says why it is the maximum: the integrand is strictly concave (or g' changes its sign there, once)"),
            (2, "names where T* is determined, and the supremum at ±∞ with its right sign where one density vanishes"),
            (1, "T* = 0 and J = −2 log 2 for q = p"),
        ],
    ),
    PART_1B,
    PART_1C,
    PART_2A,
    PART_2B,
    Written(
        "3a",
        "Proposition 2 and its hypothesis",
        [
            (2, "uses that p has no φ and ∇ log q = ∇q / q, and arrives at the gradient of ∫ q dz = 1"),
            (1, "names the hypothesis: gradient and integral may be exchanged; the support does not move"),
            (2, "uniform encoder: the expectation is −1/φ, not 0"),
            (2, "says that the exchange fails, and that Leibniz' border term +1/φ is lost"),
            (2, "gradients −1/φ + φ/3 (true, to φ = √3) and φ/3 (through the sample, to φ = 0)"),
        ],
    ),
    PART_3B,
    Written(
        "4a",
        "Two misprints",
        [
            (1, "line 8: the second term belongs at the prior's code z; line 9: a plus"),
            (1, "line 8 as printed: T = 0 is the best critic wherever codes of the encoder fall, with a reason"),
            (
                2,
                "then only reconstruction is maximized: an autoencoder whose noise dies out and whose codes leave the prior",
            ),
            (1, "line 9 as printed: the critic descends J without end, T → −∞ on codes of q and +∞ on codes of p"),
            (1, "the encoder is rewarded for codes that are unlikely under the prior"),
        ],
    ),
    PART_4B,
    PART_5A,
    PART_5B,
    Written(
        "5c",
        "Reading Table 1",
        [
            (1, "−log 4 is minus the entropy of the data; a KL takes away from it (Gibbs)"),
            (
                2,
                "compares own numbers with the published: AVB within about 0.05 nat of the optimum, the VAE about 0.2 below",
            ),
            (1, "log S is (almost) all of the VAE's gap: the mean of log p(x) is at most log S − log 4"),
            (
                1,
                "the seams: one code for two images, independent pixels, half of the mass on images with two or no pixels lit",
            ),
            (1, "a Gaussian per image cannot tile the plane; AVB's codes fill pieces that meet at sharp borders"),
        ],
    ),
    Written(
        "5d",
        "A bound that is none",
        [
            (2, "the difference is E[T* − T], and nothing fixes its sign"),
            (1, "a critic that claims any number, such as T* − c"),
            (1, "a claim above 0 would be a probability of a discrete image above 1"),
            (2, "a lagging critic: the encoder seeks codes where T < T*, so the error grows upwards"),
        ],
    ),
]
