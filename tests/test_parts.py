"""Networks, posteriors, decoders and critics against torch.distributions, SciPy and quadrature, and what flows where."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal
from torch.nn.utils.parametrizations import spectral_norm

from avb_core.critics import CodeCritic, InnerProductCritic, PairCritic
from avb_core.decoders import (
    BernoulliDecoder,
    DequantizedGaussianDecoder,
    DiscretizedLogisticDecoder,
    GaussianDecoder,
    TargetLikelihood,
)
from avb_core.flows import AutoregressiveMLP, AutoregressiveSteps, InverseAutoregressiveFlow
from avb_core.networks import (
    MLP,
    ConcatenationMLP,
    ConvolutionalDecoder,
    ConvolutionalEncoder,
    InjectionMLP,
    ResidualUnit,
    he_initialization,
)
from avb_core.posteriors import (
    AuxiliaryPosterior,
    BasisNoisePosterior,
    ExplicitPosterior,
    FullGaussianPosterior,
    GaussianPosterior,
    ImplicitPosterior,
    SemiImplicitPosterior,
)

BATCHES = [(), (1,), (5,), (2, 3)]


@pytest.fixture(autouse=True)
def fixed_weights():
    torch.manual_seed(0)


def gradients_reach_every_parameter(module, loss):
    loss.backward()
    return all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [[], [7], [7, 8, 9]])
@pytest.mark.parametrize("batch", BATCHES)
def test_mlp_by_hand(widths, batch):
    network = MLP(4, widths, 3)
    x = torch.randn(*batch, 4)
    hidden = x.numpy()
    *inner, last = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in inner] == widths
    for layer in inner:
        hidden = np.maximum(hidden @ layer.weight.detach().numpy().T + layer.bias.detach().numpy(), 0)
    expected = hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    np.testing.assert_allclose(network(x).detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("network", [ConcatenationMLP, InjectionMLP])
@pytest.mark.parametrize("batch", BATCHES)
def test_networks_of_two_arguments(network, batch):
    module = network((4, 2), [16, 16], 3)
    a, b = torch.randn(*batch, 4), torch.randn(*batch, 2)
    output = module(a, b)
    assert output.shape == (*batch, 3)
    assert not torch.allclose(output, module(a, b + 1)), "the second argument does not matter"
    assert not torch.allclose(output, module(a + 1, b)), "the first argument does not matter"
    assert gradients_reach_every_parameter(module, output.square().sum())


@pytest.mark.parametrize("side, channels", [(4, [3]), (7, [2, 3]), (28, [2, 3, 4]), (8, [2, 3])])
@pytest.mark.parametrize("batch", BATCHES)
def test_convolutional_networks(side, channels, batch):
    x, b, z = torch.rand(*batch, side**2), torch.randn(*batch, 5), torch.randn(*batch, 6)
    plain, injected = (ConvolutionalEncoder(side**2, channels, 3, injected=size) for size in (0, 5))
    decoder = ConvolutionalDecoder(6, channels, side**2)
    for module, arguments, outputs in ((plain, (x,), 3), (injected, (x, b), 3), (decoder, (z,), side**2)):
        output = module(*arguments)
        assert output.shape == (*batch, outputs)
        for i in range(len(arguments)):
            moved = [each + 1 if j == i else each for j, each in enumerate(arguments)]
            assert not torch.allclose(output, module(*moved))
        # An answer does not depend on what else is in the batch.
        if batch and batch[0] > 1:
            torch.testing.assert_close(module(*(each[:1] for each in arguments)), output[:1])
        weights = torch.randn_like(output)
        assert gradients_reach_every_parameter(module, (weights * output).sum())


def test_a_convolutional_encoder_by_hand():
    """Against its layers laid out for one image; several noises beside an image are as good as the image repeated."""
    module = ConvolutionalEncoder(36, [2, 3], 4, injected=5)
    x, b = torch.rand(36), torch.randn(7, 5)
    for noise, output in zip(b, module(x, b), strict=True):
        hidden = x.reshape(1, 6, 6)
        for convolution, projection in zip(module.convolutions, module.projections, strict=True):
            hidden = torch.relu(convolution(hidden) + (projection.weight @ noise)[:, None, None])
        assert hidden.shape == (3, 2, 2)
        torch.testing.assert_close(output, module.head(hidden.flatten()))
    images = torch.rand(3, 36)
    several = module(images, torch.stack([b[:3], b[1:4]]))
    torch.testing.assert_close(several[1], module(images, b[1:4]))


def test_a_convolutional_decoder_fills_the_whole_image():
    """No pixel is out of reach of the code, and every pixel has a gradient of its own."""
    decoder = ConvolutionalDecoder(3, [4, 8, 8], 28**2)
    z = torch.randn(200, 3)
    assert (decoder(z).std(0) > 0).all()


@pytest.mark.parametrize("network", [ConvolutionalEncoder, lambda *a: ConvolutionalDecoder(a[2], a[1], a[0])])
def test_convolutions_refuse(network):
    with pytest.raises(ValueError, match="^pixels: .* got 12"):
        network(12, [2], 3)
    with pytest.raises(ValueError, match="^channels: "):
        network(16, [], 3)


def colour_networks(units, recompute=False):
    """A critic or black box, an encoder and a decoder of 3·8·8 pixels, with what each is called with."""
    x, b, z = torch.rand(5, 192), torch.randn(2, 5, 4), torch.randn(5, 6)
    options = {"colours": 3, "units": units, "recompute": recompute}
    torch.manual_seed(1)
    return [
        (ConvolutionalEncoder(192, [4, 6], 3, injected=4, **options), (x, b), (2, 5, 3)),
        (ConvolutionalEncoder(192, [4, 6], 3, **options), (x,), (5, 3)),
        (ConvolutionalDecoder(6, [4, 6], 192, numbers=2, **options), (z,), (5, 384)),
    ]


def test_a_residual_unit_by_hand():
    unit = ResidualUnit(3)
    x = torch.randn(2, 3, 5, 5)
    first = nn.functional.conv2d(x.clamp(min=0), unit.first.weight, unit.first.bias, padding=1)
    second = nn.functional.conv2d(first.clamp(min=0), unit.second.weight, unit.second.bias, padding=1)
    torch.testing.assert_close(unit(x), x + second)


@pytest.mark.parametrize("units", [0, 1, 3])
def test_every_parameter_of_a_network_in_colour_is_in_use(units):
    """Each parameter changes the output; so does each entry of each argument: every colour of every pixel."""
    for module, arguments, shape in colour_networks(units):
        assert sum(isinstance(each, ResidualUnit) for each in module.modules()) == 2 * units
        output = module(*arguments)
        assert output.shape == shape
        for name, parameter in module.named_parameters():
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter += 0.1
            assert not torch.allclose(module(*arguments), output), name
            with torch.no_grad():
                parameter.copy_(kept)
        leaves = [each.clone().requires_grad_() for each in arguments]
        for gradient in torch.autograd.grad((module(*leaves) * torch.randn(shape)).sum(), leaves):
            assert (gradient != 0).float().mean() > 0.99


def test_colours_are_planes_one_after_another():
    """As in data.Images: what a network sees in the red plane alone is what a network of one colour sees."""
    colour, grey = ConvolutionalEncoder(48, [5], 2, colours=3), ConvolutionalEncoder(16, [5], 2)
    grey.load_state_dict(colour.state_dict() | {"convolutions.0.weight": colour.convolutions[0].weight[:, :1]})
    red = torch.rand(7, 16)
    torch.testing.assert_close(colour(torch.cat([red, torch.zeros(7, 32)], dim=1)), grey(red))
    decoder = ConvolutionalDecoder(2, [5], 48, colours=3, numbers=2)
    with torch.no_grad():
        decoder.convolutions[-1].bias.copy_(torch.arange(6.0))
        decoder.convolutions[-1].weight.zero_()
    assert torch.equal(decoder(torch.randn(2)), torch.arange(6.0).repeat_interleave(16))


def test_layers_that_are_computed_again_have_the_same_gradients():
    kept, again = colour_networks(2), colour_networks(2, recompute=True)
    for (one, arguments, _), (other, _, _) in zip(kept, again, strict=True):
        other.load_state_dict(one.state_dict())
        for module in (one, other):
            module(*arguments).square().sum().backward()
        for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_outputs_have_the_precision_of_the_input_under_autocast():
    """A loss is summed over thousands of pixels: too many for bfloat16."""
    for module, arguments, _ in colour_networks(1):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = module(*arguments)
        assert output.dtype == torch.float32
        torch.testing.assert_close(output, module(*arguments), rtol=0.1, atol=0.02)


def test_colours_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="^pixels: .* in 3 colours, got 64"):
        ConvolutionalEncoder(64, [2], 1, colours=3)


def test_injection_reaches_every_hidden_layer():
    module = InjectionMLP((4, 2), [6, 5], 3)
    a, b = torch.randn(4), torch.randn(2)
    hidden = torch.relu(module.layers[0](a) + module.projections[0].weight @ b)
    hidden = torch.relu(module.layers[1](hidden) + module.projections[1].weight @ b)
    torch.testing.assert_close(module(a, b), module.head(hidden))
    with pytest.raises(ValueError, match="^widths: "):
        InjectionMLP((4, 2), [], 3)


def test_he_s_initialization_keeps_the_size_of_signals():
    """Ten hidden layers keep its second moment within a factor of two; else inputs differ by a millionth at their end."""
    torch.manual_seed(0)
    network, x = MLP(300, [300] * 10, 3), torch.randn(500, 300)
    as_drawn = nn.Sequential(*list(network)[:-1])(x).var(0).mean()
    he_initialization(network)
    assert 0.5 < nn.Sequential(*list(network)[:-1])(x).square().mean() < 2
    assert as_drawn < 1e-6
    injected = InjectionMLP((300, 2), [300] * 3, 3)
    kept = [injected.head.weight.clone(), injected.projections[0].weight.clone()]
    he_initialization(nn.Sequential(injected))
    assert torch.equal(kept[0], injected.head.weight) and torch.equal(kept[1], injected.projections[0].weight)
    for layer in injected.layers:
        assert layer.weight.var().item() == pytest.approx(2 / 300, rel=0.05) and not layer.bias.any()


@pytest.mark.parametrize("kind", ["fully connected", "residual"])
def test_he_s_initialization_under_spectral_normalization(kind):
    """What is divided by its norm is drawn anew, the norm is that of the new weights, and no layer is 0/0."""
    torch.manual_seed(0)
    network = MLP(50, [60] * 3, 3) if kind == "fully connected" else ConvolutionalEncoder(16**2, [8, 8], 3, units=1)
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for layer in layers:
        _ = spectral_norm(layer)
    before = [layer.parametrizations.weight.original.clone() for layer in layers]
    he_initialization(network)
    *hidden, head = layers
    for layer, old in zip(hidden, before, strict=False):
        drawn = layer.parametrizations.weight.original
        assert not torch.equal(drawn, old) and not layer.bias.any()
        assert drawn.std().item() == pytest.approx(math.sqrt(2 / old[0].numel()), rel=0.15)
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.1)
    assert torch.equal(head.parametrizations.weight.original, before[-1])
    assert network(torch.randn(4, 50 if kind == "fully connected" else 16**2)).isfinite().all()


@pytest.mark.parametrize("units", [0, 2])
def test_he_s_initialization_of_convolutions(units):
    """Strided layers keep the size of signals both ways, and residual units begin as the identity."""
    torch.manual_seed(0)
    encoder = ConvolutionalEncoder(32**2, [64, 64, 64], 3, units=units)
    decoder = ConvolutionalDecoder(40, [64, 64, 64], 32**2, units=units)
    final = [part for part in decoder.modules() if isinstance(part, nn.ConvTranspose2d)][-1]
    kept = [encoder.head.weight.clone(), final.weight.clone()]
    for network in (encoder, decoder):
        he_initialization(network)
    with torch.no_grad():
        hidden = [torch.randn(20, 1, 32, 32)]
        for convolution in encoder.convolutions:
            hidden.append(torch.relu(convolution(hidden[-1])))
        back = [torch.relu(decoder.first(torch.randn(100, 40))).unflatten(-1, (64, 4, 4))]
        for convolution in decoder.convolutions[:-1]:
            back.append(torch.relu(convolution(back[-1])))
    # Borders of the image see zeros for what lies outside, and the maps are small: hence no more than a factor of two.
    for signals in (hidden, back):
        for signal in signals[1:]:
            assert 0.5 < signal.square().mean() < 2
    assert torch.equal(kept[0], encoder.head.weight) and torch.equal(kept[1], final.weight)
    for module in [*encoder.modules(), *decoder.modules()]:
        if isinstance(module, ResidualUnit):
            x = torch.randn(2, 64, 8, 8)
            torch.testing.assert_close(module(x), x, rtol=0, atol=0)


# --- posteriors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
@pytest.mark.parametrize("batch", BATCHES)
def test_gaussian_posterior_knows_its_density(batch, shape):
    posterior = GaussianPosterior(MLP(4, [8], 6), latent_dim=3)
    x = torch.randn(*batch, 4)
    z, log_q = posterior.sample_with_log_prob(x, shape)
    mean, std = posterior(x)
    assert z.shape == (*shape, *batch, 3) and log_q.shape == (*shape, *batch)
    assert mean.shape == std.shape == (*batch, 3)
    torch.testing.assert_close(log_q, Independent(Normal(mean, std), 1).log_prob(z))
    expected = stats.norm.logpdf(z.detach().double(), mean.detach().double(), std.detach().double()).sum(-1)
    np.testing.assert_allclose(log_q.detach(), expected, rtol=1e-4, atol=1e-4)
    assert posterior.sample(x, shape).shape == z.shape


def test_gaussian_posterior_samples_its_own_law():
    posterior = GaussianPosterior(MLP(4, [8], 4), latent_dim=2)
    x = torch.randn(4)
    with torch.no_grad():
        mean, std = posterior(x)
        z = posterior.sample(x, (20_000,))
    for i in range(2):
        assert stats.kstest(z[:, i].numpy(), "norm", (mean[i].item(), std[i].item())).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
@pytest.mark.parametrize("batch", BATCHES)
def test_full_gaussian_posterior_knows_its_density(batch, shape):
    posterior = FullGaussianPosterior(MLP(4, [8], FullGaussianPosterior.outputs(3)), latent_dim=3)
    x = torch.randn(*batch, 4)
    mean, scale_tril = posterior(x)
    assert torch.equal(scale_tril, scale_tril.tril()) and (scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()
    assert scale_tril.tril(-1).abs().sum() > 0
    z, log_q = posterior.sample_with_log_prob(x, shape)
    assert z.shape == (*shape, *batch, 3) and log_q.shape == (*shape, *batch)
    torch.testing.assert_close(log_q, MultivariateNormal(mean, scale_tril=scale_tril).log_prob(z))
    assert gradients_reach_every_parameter(posterior, z.square().sum())


def test_full_gaussian_posterior_keeps_its_density_where_noises_mingle():
    """Entries beside the diagonal five times as large as on it: solving L u = z − mean in single precision loses u."""
    d = 32
    posterior = FullGaussianPosterior(nn.Linear(1, FullGaussianPosterior.outputs(d)), d)
    with torch.no_grad():
        posterior.network.weight.zero_()
        posterior.network.bias[d : 2 * d] = -2.0  # a standard deviation of 0.13
        posterior.network.bias[2 * d :] = 0.6 * torch.randn(d * (d - 1) // 2)
    z, log_q = posterior.sample_with_log_prob(torch.zeros(1000, 1))
    _, scale_tril = posterior(torch.zeros(1))
    # −½ |ε|² is −d/2 on average, with variance d/2
    expected = -0.5 * d * (1 + math.log(2 * math.pi)) - scale_tril.diagonal().log().sum()
    assert log_q.mean().item() == pytest.approx(expected.item(), abs=5 * math.sqrt(d / 2 / 1000))
    assert z.isfinite().all()


def test_full_gaussian_posterior_samples_its_own_law():
    posterior = FullGaussianPosterior(MLP(4, [8], FullGaussianPosterior.outputs(2)), latent_dim=2)
    x = torch.randn(4)
    with torch.no_grad():
        mean, scale_tril = posterior(x)
        z = torch.linalg.solve_triangular(scale_tril, (posterior.sample(x, (20_000,)) - mean).T, upper=False)
    for coordinate in (z[0], z[1], (z[0] + z[1]) / math.sqrt(2)):
        assert stats.kstest(coordinate.numpy(), "norm").pvalue > 1e-4


def test_gaussian_posterior_stays_finite_when_certain():
    posterior = GaussianPosterior(MLP(1, [], 2), latent_dim=1)
    with torch.no_grad():
        posterior.network[0].weight.zero_()
        posterior.network[0].bias.copy_(torch.tensor([0.0, -1e4]))
    z, log_q = posterior.sample_with_log_prob(torch.zeros(10, 1))
    assert (posterior(torch.zeros(1))[1] > 0).all() and log_q.isfinite().all() and z.isfinite().all()


@pytest.mark.parametrize("network", [ConcatenationMLP, InjectionMLP])
@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
@pytest.mark.parametrize("batch", BATCHES)
def test_implicit_posterior_shapes(network, batch, shape):
    posterior = ImplicitPosterior(network((4, 5), [8], 3), latent_dim=3, noise_dim=5)
    assert posterior.sample(torch.randn(*batch, 4), shape).shape == (*shape, *batch, 3)


@pytest.mark.parametrize("network", [ConcatenationMLP, InjectionMLP])
def test_implicit_posterior_uses_noise_and_image(network):
    posterior = ImplicitPosterior(network((4, 5), [16], 3), latent_dim=3, noise_dim=5)
    x = torch.randn(2, 4)
    z = posterior.sample(x, (4000,))
    assert (z.std(0) > 0.01).all(), "noise does not matter"
    assert len(z[:, 0].unique(dim=0)) == 4000, "noise is shared between samples"
    correlation = torch.corrcoef(torch.stack([z[:, 0, 0], z[:, 1, 0]]))[0, 1]
    assert abs(correlation) < 5 / math.sqrt(4000), "noise is shared between images"
    torch.manual_seed(5)
    first = posterior.sample(x)
    torch.manual_seed(5)
    assert not torch.allclose(first, posterior.sample(x + 1)), "the image does not matter"


@pytest.mark.parametrize(
    "posterior",
    [
        lambda: GaussianPosterior(MLP(4, [8], 6), 3),
        lambda: ImplicitPosterior(ConcatenationMLP((4, 5), [8], 3), 3, 5),
        lambda: ImplicitPosterior(InjectionMLP((4, 5), [8], 3), 3, 5),
    ],
)
def test_gradients_flow_through_samples(posterior):
    module = posterior()
    x = torch.randn(32, 4, requires_grad=True)
    assert gradients_reach_every_parameter(module, module.sample(x, (3,)).square().sum())
    assert x.grad.abs().sum() > 0


# --- decoders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES)
def test_bernoulli_decoder(batch):
    decoder = BernoulliDecoder(MLP(2, [8], 7))
    x, z = torch.bernoulli(torch.full((*batch, 7), 0.4)), 3 * torch.randn(6, *batch, 2)
    ours = decoder.log_prob(x, z)
    assert ours.shape == (6, *batch)
    torch.testing.assert_close(
        ours, Independent(Bernoulli(logits=decoder.network(z)), 1).log_prob(x.expand(6, *batch, 7))
    )
    probability = decoder.mean(z).detach().double().numpy()
    expected = stats.bernoulli.logpmf(x.numpy().astype(int), probability).sum(-1)
    np.testing.assert_allclose(ours.detach(), expected, rtol=1e-4)
    assert gradients_reach_every_parameter(decoder, ours.sum())


def test_bernoulli_decoder_sums_to_one_over_all_images():
    decoder = BernoulliDecoder(MLP(2, [8], 5))
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 5)
    total = decoder.log_prob(images[:, None], torch.randn(4, 2)).double().logsumexp(0)
    torch.testing.assert_close(total, torch.zeros(4, dtype=torch.float64), atol=1e-5, rtol=0)


def test_bernoulli_decoder_with_saturated_logits():
    decoder = BernoulliDecoder(nn.Identity())
    x, logits = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([1e4, -1e4, -1e4, 1e4], requires_grad=True)
    log_prob = decoder.log_prob(x, logits)
    assert log_prob.item() == -2e4
    log_prob.backward()
    assert logits.grad.tolist() == [0, 0, 1, -1]


def test_bernoulli_decoder_samples_its_mean():
    decoder = BernoulliDecoder(MLP(2, [8], 3))
    z = torch.randn(2)
    samples = decoder.sample(z.expand(20_000, 2))
    assert set(samples.unique().tolist()) <= {0.0, 1.0}
    assert ((samples.mean(0) - decoder.mean(z)).abs() < 5 * 0.5 / math.sqrt(20_000)).all()


@pytest.mark.parametrize("std", [0.1, 1.0, 1e-20, 1e20])
@pytest.mark.parametrize("batch", BATCHES)
def test_gaussian_decoder(batch, std):
    decoder = GaussianDecoder(MLP(2, [8], 7), std=std)
    z = torch.randn(6, *batch, 2)
    x = torch.randn(*batch, 7) * std + decoder.mean(z)[0].detach()
    if std == 1e-20:  # a shift that small is lost beside the mean, and one that is not overflows
        x = decoder.mean(z).detach()
    ours = decoder.log_prob(x, z)
    assert ours.shape == (6, *batch)
    # In double precision: torch.distributions squares the std, and 1e20² overflows single precision.
    truth = Independent(Normal(decoder.mean(z).double(), std), 1).log_prob(x.double().expand(6, *batch, 7))
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-4)
    expected = stats.norm.logpdf(x.double(), decoder.mean(z).detach().double(), std).sum(-1)
    np.testing.assert_allclose(ours.detach(), expected, rtol=1e-3)


def test_gaussian_decoder_integrates_to_one():
    decoder = GaussianDecoder(MLP(3, [8], 2), std=0.3)
    z = torch.randn(3)
    axis = np.linspace(-4, 4, 401)
    grid = torch.from_numpy(np.stack(np.meshgrid(axis, axis, indexing="ij"), -1)).float()
    density = decoder.log_prob(grid, z).detach().double().exp().numpy()
    total = integrate.trapezoid(integrate.trapezoid(density, axis), axis)
    assert total == pytest.approx(1, abs=1e-4)
    single_sigma = total * 0.3 * math.sqrt(2 * math.pi)  # what Fickinger's eqs. 11–12, as printed, would give
    assert abs(single_sigma - 1) > 0.2


def test_gaussian_decoder_learns_its_width():
    """With the full normalizer the maximum-likelihood std is the residuals' RMS; with a single log std it is not."""
    residuals = torch.randn(2000, 3) * 0.4
    decoder = GaussianDecoder(nn.Identity(), std=1.0, learn_std=True)
    optimizer = torch.optim.LBFGS([decoder.log_std], max_iter=50)

    def minimize(loss):
        def closure():
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
        return decoder.log_std.exp().item()

    learned = minimize(lambda: -decoder.log_prob(residuals, torch.zeros(3)).mean())
    assert learned == pytest.approx(residuals.square().mean().sqrt().item(), rel=1e-3)
    printed = minimize(
        lambda: (0.5 * residuals.square().sum(-1) / (2 * decoder.log_std).exp()).mean() + decoder.log_std.squeeze()
    )
    assert printed == pytest.approx(math.sqrt(3) * learned, rel=1e-3)
    assert not any(parameter.requires_grad for parameter in GaussianDecoder(nn.Identity(), std=0.5).parameters())


def test_gaussian_decoder_samples_its_law():
    decoder = GaussianDecoder(MLP(2, [8], 1), std=0.3)
    z = torch.randn(2)
    samples = decoder.sample(z.expand(20_000, 2)).detach()[:, 0]
    assert stats.kstest(samples.numpy(), "norm", (decoder.mean(z).item(), 0.3)).pvalue > 1e-4


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan])
def test_gaussian_decoder_needs_a_positive_std(std):
    with pytest.raises(ValueError, match="^std: "):
        GaussianDecoder(nn.Identity(), std=std)


LEVELS = torch.arange(256) / 255
every_intensity_decoder = pytest.mark.parametrize("kind", [DiscretizedLogisticDecoder, DequantizedGaussianDecoder])
# Centre and scale, from a fraction of a level to far wider than all of them, inside and outside of what there is.
PIXELS = [(0.5, 0.1), (0.301, 0.002), (0.0, 0.05), (1.0, 0.05), (-0.4, 0.02), (1.7, 0.3), (0.5, 30.0)]


def one_pixel(kind, centre, scale):
    """A decoder of a single pixel whose code is (centre, scale) in the network's own terms; and that code."""
    raw = math.log(scale - kind.MINIMUM) - kind.START
    return kind(nn.Identity()), torch.tensor([centre - 0.5, raw], dtype=torch.float64)


@pytest.mark.parametrize("centre, scale", PIXELS)
def test_discretized_logistic_against_scipy(centre, scale):
    """The probabilities of all 256 levels are differences of SciPy's distribution function, and sum to 1."""
    decoder, z = one_pixel(DiscretizedLogisticDecoder, centre, scale)
    ours = decoder.log_prob(LEVELS.double()[:, None], z)
    edges = np.concatenate([[-np.inf], (np.arange(255) + 0.5) / 255, [np.inf]])
    # The survival function keeps the digits where the distribution function is near 1.
    cells = np.where(
        edges[1:] < centre,
        np.diff(stats.logistic.cdf(edges, centre, scale)),
        -np.diff(stats.logistic.sf(edges, centre, scale)),
    )
    np.testing.assert_allclose(ours.exp(), cells, rtol=1e-8)
    assert float(ours.logsumexp(0)) == pytest.approx(0, abs=1e-12)
    single = decoder.log_prob(LEVELS[:, None], z.float())
    torch.testing.assert_close(single.double(), ours, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("centre, scale", PIXELS)
def test_dequantized_gaussian_against_quadrature(centre, scale):
    """The closed form is the mean of the log-density over a level's cell, at most the log of the cell's share."""
    decoder, z = one_pixel(DequantizedGaussianDecoder, centre, scale)
    ours = decoder.log_prob(LEVELS.double()[:, None], z)
    nodes, weights = np.polynomial.legendre.leggauss(20)
    y = (np.arange(256)[:, None] + (nodes + 1) / 2) / 256
    mean = stats.norm.logpdf(y, centre, scale) @ weights / 2 - math.log(256)
    np.testing.assert_allclose(ours, mean, rtol=1e-9)
    edges = np.arange(257) / 256
    cells = stats.norm.logcdf(edges, centre, scale)
    share = -np.expm1(cells[:-1] - cells[1:])
    seen = share > 0  # elsewhere the distribution function has no digits left
    log_cell = cells[1:][seen] + np.log(share[seen])
    assert seen.any() and (ours.numpy()[seen] <= log_cell + 1e-7 * abs(log_cell)).all()
    assert float(ours.logsumexp(0)) < 1e-12, "the levels' shares exceed 1"
    if (centre, scale) == (0.5, 0.1):
        assert float(ours.logsumexp(0)) > -1e-3, "a wide density within [0, 1] should lose next to nothing"


@every_intensity_decoder
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("scales", [None, 1, 3, 12])
def test_intensity_decoders(kind, batch, scales):
    """Sums over pixels, with broadcast codes; each scale serves its own pixels; gradients reach everything."""
    decoder = kind(MLP(2, [8], kind.numbers(scales) * 12), scales)
    if decoder.log_scale is not None:
        with torch.no_grad():
            decoder.log_scale.normal_()
    x, z = LEVELS[torch.randint(256, (*batch, 12))], torch.randn(4, *batch, 2)
    ours = decoder.log_prob(x, z)
    centre, scale = decoder.centre_and_scale(z)
    assert ours.shape == (4, *batch) and centre.shape == (*z.shape[:-1], 12)
    by_pixel = []
    for pixel in range(12):
        alone, code = one_pixel(kind, 0.5, 0.1)
        at = torch.stack(
            [centre[..., pixel] - 0.5, (scale.expand_as(centre)[..., pixel] - kind.MINIMUM).log() - kind.START], -1
        )
        assert code.shape == at.shape[-1:]
        by_pixel.append(alone.log_prob(x[..., pixel : pixel + 1], at))
    torch.testing.assert_close(ours, sum(by_pixel), rtol=1e-3, atol=1e-3)
    if scales is not None:
        assert len(set(scale.tolist())) == scales and scale.reshape(scales, -1).std(1, correction=0).max() < 1e-7
    mean, sample = decoder.mean(z), decoder.sample(z)
    assert mean.shape == sample.shape == centre.shape
    assert bool(((mean >= 0) & (mean <= 1) & (sample >= 0) & (sample <= 1)).all())
    torch.testing.assert_close(255 * sample, (255 * sample).round(), atol=1e-4, rtol=0)
    assert gradients_reach_every_parameter(decoder, ours.sum())


@every_intensity_decoder
def test_intensities_are_sampled_from_their_law(kind):
    """Frequencies of levels against the probabilities of the law: exact for the logistic one, of its cells for the Gaussian."""
    decoder, z = one_pixel(kind, 0.9, 0.1)
    n = 20_000
    levels = (255 * decoder.sample(z.expand(n, 2))).round().long().flatten()
    probability = decoder.log_prob(LEVELS.double()[:, None], z).exp()
    if kind is DequantizedGaussianDecoder:
        cdf = torch.from_numpy(stats.norm.cdf(np.arange(1, 256) / 256, 0.9, 0.1))
        probability = torch.diff(torch.cat([torch.zeros(1), cdf, torch.ones(1)]))
    blocks = torch.tensor([0, 160, 190, 210, 220, 230, 240, 250, 255])
    expected = n * torch.stack([part.sum() for part in probability.tensor_split(blocks[1:])])
    found = torch.stack([(torch.bucketize(levels, blocks[1:], right=True) == i).sum() for i in range(len(blocks))])
    assert stats.chisquare(found, expected * n / expected.sum()).pvalue > 1e-4


@pytest.mark.parametrize("centre, scale", PIXELS)
def test_the_mean_of_a_discretized_logistic(centre, scale):
    decoder, z = one_pixel(DiscretizedLogisticDecoder, centre, scale)
    exact = (decoder.log_prob(LEVELS.double()[:, None], z).exp() * LEVELS).sum()
    assert abs(float(decoder.mean(z)) - float(exact)) < 0.5 / 255
    if scale > 1 / 255:
        assert float(decoder.mean(z)) == pytest.approx(float(exact), abs=1e-4)


def test_scales_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="^scales: .* got 0"):
        DiscretizedLogisticDecoder(nn.Identity(), scales=0)
    with pytest.raises(ValueError, match="^scales: expected a divisor of the 4 pixels, got 3"):
        DiscretizedLogisticDecoder(nn.Identity(), scales=3).mean(torch.zeros(4))


@pytest.mark.parametrize(
    "decoder",
    [
        BernoulliDecoder(nn.Linear(2, 4)),
        GaussianDecoder(nn.Linear(2, 4)),
        DiscretizedLogisticDecoder(nn.Linear(2, 4), scales=1),
        DequantizedGaussianDecoder(nn.Linear(2, 4), scales=1),
    ],
    ids=lambda decoder: type(decoder).__name__,
)
def test_no_pixel_is_repeated(decoder):
    assert decoder.log_prob(torch.rand(6, 4), torch.randn(6, 2)).shape == (6,)
    with pytest.raises(ValueError, match=r"^x, \w+: shapes do not fit together in the last axis: x \(6, 1\)"):
        decoder.log_prob(torch.rand(6, 1), torch.randn(6, 2))


@pytest.mark.parametrize(
    "posterior, expected",
    [
        (GaussianPosterior(nn.Linear(4, 3), 2), "4 outputs, got 3"),
        (GaussianPosterior(nn.Linear(4, 6), 2), "4 outputs, got 6"),
        (FullGaussianPosterior(nn.Linear(4, 6), 2), "5 outputs, got 6"),
        (BasisNoisePosterior(nn.Linear(4, 8), [nn.Linear(1, 2)] * 2, 2, 1), "6 outputs, got 8"),
    ],
    ids=["few", "many", "full", "as if Gaussian"],
)
def test_a_posterior_needs_as_many_outputs_as_it_says(posterior, expected):
    with pytest.raises(ValueError, match=f"^network: expected {expected}$"):
        posterior.sample(torch.randn(3, 4))


def test_moments_need_noises_and_draws():
    with pytest.raises(ValueError, match="^noise_networks: expected at least one"):
        BasisNoisePosterior(nn.Linear(4, 2), [], 2, 1)
    with pytest.raises(ValueError, match="^draws: expected at least 2"):
        BasisNoisePosterior(nn.Linear(4, 4), [nn.Linear(1, 2)], 2, 1, draws=1)


def test_a_mean_over_pixels_is_not_the_log_density():
    decoder = BernoulliDecoder(MLP(2, [8], 784))
    x, z = torch.bernoulli(torch.full((784,), 0.3)), torch.randn(2)
    averaged = -nn.functional.binary_cross_entropy_with_logits(decoder.network(z), x)
    assert averaged.item() == pytest.approx(decoder.log_prob(x, z).item() / 784, rel=1e-4)


# --- critics ----------------------------------------------------------------------------------------------------------

CRITICS = {
    "inner product": lambda subtract: InnerProductCritic(MLP(4, [8], 5), MLP(2, [8], 5), subtract),
    "concatenation": lambda subtract: PairCritic(ConcatenationMLP((4, 2), [8], 1), subtract),
    "injection": lambda subtract: PairCritic(InjectionMLP((4, 2), [8], 1), subtract),
}
every_critic = pytest.mark.parametrize("build", CRITICS.values(), ids=CRITICS.keys())


@every_critic
@pytest.mark.parametrize("batch", BATCHES)
def test_critics_give_one_number_for_each_pair(build, batch):
    critic = build(False)
    x, z = torch.randn(*batch, 4), torch.randn(*batch, 2)
    assert critic(x, z).shape == batch
    outputs = critic(torch.randn(64, 4), torch.randn(64, 2))
    assert (outputs < 0).any() or (outputs > 1).any(), "a critic's output is no probability"
    assert gradients_reach_every_parameter(critic, critic(torch.randn(64, 4), torch.randn(64, 2)).square().sum())


def test_inner_product_by_hand():
    critic = CRITICS["inner product"](False)
    x, z = torch.randn(6, 4), torch.randn(6, 2)
    expected = [(critic.x_network(x[i]) @ critic.z_network(z[i])).item() for i in range(6)]
    torch.testing.assert_close(critic(x, z), torch.tensor(expected))
    assert critic(x, torch.randn(3, 6, 2)).shape == (3, 6)


@every_critic
@pytest.mark.parametrize("batch", BATCHES)
def test_subtracting_the_prior_shifts_the_critic_by_it(build, batch):
    """T = t − log p(z) exactly, so that the optimum t* = log q(z|x) − log p(z) + log p(z) leaves log q(z|x) to be learned."""
    critic = build(True)
    x, z = torch.randn(*batch, 4), torch.randn(*batch, 2)
    log_prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1).log_prob(z)
    torch.testing.assert_close(critic(x, z), critic.score(x, z)[..., 0] - log_prior)
    plain = build(False)
    plain.load_state_dict(critic.state_dict())
    torch.testing.assert_close(plain(x, z) - critic(x, z), log_prior)


def test_with_the_prior_taken_off_the_optimal_score_is_log_q():
    """A score that is log q(z|x) itself makes the critic log q − log p: Mescheder et al., eq. 3.8 shifted by the prior."""

    class LogQ(nn.Module):
        def forward(self, x, z):
            return Independent(Normal(x, 0.5), 1).log_prob(z)[..., None]

    x, z = torch.randn(6, 2), torch.randn(6, 2)
    log_q = stats.norm.logpdf(z.double(), x.double(), 0.5).sum(-1)
    log_p = stats.norm.logpdf(z.double()).sum(-1)
    np.testing.assert_allclose(PairCritic(LogQ(), subtract_log_prior=True)(x, z), log_q - log_p, rtol=1e-4, atol=1e-5)


# --- moments of a black box -------------------------------------------------------------------------------------------


def build_basis_noise(draws=256, gaussian=False):
    network = MLP(3, [8], BasisNoisePosterior.outputs(2, 4, gaussian))
    noises = [MLP(4, [16], 2) for _ in range(4)]
    with torch.no_grad():
        for each in (network, *noises):
            each[-1].weight.mul_(4)  # so that the noises tell beside the Gaussian
    return BasisNoisePosterior(network, noises, 2, 4, draws, gaussian)


with_and_without_gaussian = pytest.mark.parametrize("gaussian", [False, True])


@with_and_without_gaussian
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("shape", [(), (6,), (2, 1)])
def test_basis_noise_samples_have_the_right_shape(batch, shape, gaussian):
    posterior = build_basis_noise(gaussian=gaussian)
    x = torch.randn(*batch, 3)
    assert posterior.sample(x, shape).shape == (*shape, *batch, 2)
    mean, std = posterior.moments(x)
    assert mean.shape == std.shape == (*batch, 2) and (std > 0).all()
    mean, scale_tril = posterior.moments_full(x)
    assert mean.shape == (*batch, 2) and scale_tril.shape == (*batch, 2, 2)
    assert torch.equal(scale_tril, scale_tril.tril())


@with_and_without_gaussian
def test_basis_noise_moments_are_those_of_its_samples(gaussian):
    posterior = build_basis_noise(draws=50_000, gaussian=gaussian)
    x = torch.randn(3, 3)
    with torch.no_grad():
        z = posterior.sample(x, (50_000,))
        mean, std = posterior.moments(x)
        mean_again, scale_tril = posterior.moments_full(x)
    centred = z - z.mean(0)
    products = centred[..., :, None] * centred[..., None, :]
    root_2n = math.sqrt(2 / len(z))  # samples and draws are equally many, each with its error
    assert ((z.mean(0) - mean).abs() < 5 * z.std(0) * root_2n).all()
    assert ((z.mean(0) - mean_again).abs() < 5 * z.std(0) * root_2n).all()
    covariance, stderr = products.mean(0), products.std(0) * root_2n
    assert ((scale_tril @ scale_tril.mT - covariance).abs() < 5 * stderr).all()
    of_variance = stderr.diagonal(dim1=-2, dim2=-1)
    assert ((std.square() - z.var(0)).abs() < 5 * of_variance).all()
    assert (covariance[:, 0, 1].abs() > 10 * stderr[:, 0, 1]).any(), "uncorrelated codes would test the diagonal only"


def test_each_draw_of_basis_noise_is_its_own():
    """Two images, or two draws for one image, share no noise: their codes are uncorrelated."""
    posterior = build_basis_noise()
    x = torch.randn(1, 3).repeat(2, 1)
    with torch.no_grad():
        z = posterior.sample(x, (20_000, 2))
    flat = z.flatten(1, 2)[..., 0]
    correlations = torch.corrcoef(flat.T) - torch.eye(4)
    assert correlations.abs().max() < 4.5 / math.sqrt(len(flat))


def test_a_gaussian_noise_needs_no_draws():
    """Where the networks of noise are not used, the posterior is the Gaussian one, its moments exact."""
    network = MLP(3, [8], BasisNoisePosterior.outputs(2, 4, gaussian=True))
    with torch.no_grad():
        network[-1].weight[4:].zero_()
        network[-1].bias[4:].zero_()
    posterior = BasisNoisePosterior(network, [MLP(4, [16], 2) for _ in range(4)], 2, 4, draws=2, gaussian=True)
    gaussian = GaussianPosterior(nn.Sequential(network, Take(4)), 2)
    x = torch.randn(5, 3)
    for ours, theirs in zip(posterior.moments(x), gaussian(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)  # a floor is added to the widths
    mean, scale_tril = posterior.moments_full(x)
    torch.testing.assert_close(mean, gaussian(x)[0])
    torch.testing.assert_close(scale_tril, torch.diag_embed(gaussian(x)[1]), rtol=1e-4, atol=1e-5)
    torch.manual_seed(0)
    z = posterior.sample(x, (20_000,))
    assert ((z.std(0) - gaussian(x)[1]).abs() < 5 * gaussian(x)[1] / math.sqrt(40_000)).all()


class Take(nn.Module):
    """The first outputs of a network."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, x):
        return x[..., : self.outputs]


@pytest.mark.parametrize("full", [False, True], ids=["each coordinate's own", "full"])
def test_estimated_moments_cost_what_is_said(full):
    """For one Gaussian noise in d coordinates, the mean of −log r̂ at fresh codes is that under the truth less what is stated.

    A whitening by estimates makes codes look wider than they are; an ELBO whose critic says 0 is too high by the excess.
    """
    d, draws, repeats = 3, 40, 1000
    network = nn.Linear(1, 2 * d)
    with torch.no_grad():
        network.weight.zero_()
        network.bias.copy_(torch.tensor([0.0] * d + [1.0] * d))
    posterior = BasisNoisePosterior(network, [nn.Identity()], d, d, draws)
    x = torch.zeros(50, 1)
    excess = []
    with torch.no_grad():
        for _ in range(repeats):
            z = posterior.sample(x)
            if full:
                mean, scale_tril = posterior.moments_full(x)
            else:
                mean, std = posterior.moments(x)
                scale_tril = torch.diag_embed(std)
            log_r = MultivariateNormal(mean, scale_tril=scale_tril, validate_args=False).log_prob(z)
            log_q = Normal(0.0, 1.0).log_prob(z).sum(-1)
            excess.append((log_q - log_r).mean())
    value = torch.stack(excess)
    stated = d / draws * ((d + 3) / 4 if full else 1)
    # To first order in 1/draws: the next order is a few times d/draws of it.
    assert float(value.mean()) == pytest.approx(stated, rel=3 * d / draws)


def test_gradients_flow_through_samples_and_moments():
    posterior = build_basis_noise()
    x = torch.randn(5, 3)
    assert gradients_reach_every_parameter(posterior, posterior.sample(x).square().sum())
    for moments in (posterior.moments, posterior.moments_full):
        posterior.zero_grad()
        assert gradients_reach_every_parameter(posterior, sum(part.sum() for part in moments(x)))


# --- posteriors beyond the Gaussian, with a density or an honest stand-in ---------------------------------------------


def build_flow(d=2, steps=2):
    return InverseAutoregressiveFlow(MLP(3, [8], 2 * d + 5), d, context_dim=5, widths=[16, 16], steps=steps)


def build_auxiliary():
    pair = (ConcatenationMLP((3, 1), [8], 4), ConcatenationMLP((3, 2), [8], 2))
    return AuxiliaryPosterior(MLP(3, [8], 2), *pair, latent_dim=2, auxiliary_dim=1)


def build_semi_implicit(extra=4):
    return SemiImplicitPosterior(ConcatenationMLP((3, 2), [8], 4), 2, 2, extra)


EXPLICIT = {"flow": build_flow, "auxiliary": build_auxiliary, "semi-implicit": build_semi_implicit}
every_explicit = pytest.mark.parametrize("build", EXPLICIT.values(), ids=EXPLICIT.keys())


@every_explicit
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("shape", [(), (6,), (2, 1)])
def test_explicit_posteriors_have_the_right_shapes(build, batch, shape):
    posterior = build()
    z, log_q = posterior.sample_with_log_prob(torch.randn(*batch, 3), shape)
    assert isinstance(posterior, ExplicitPosterior)
    assert z.shape == (*shape, *batch, 2) and log_q.shape == (*shape, *batch)
    assert posterior.sample(torch.randn(*batch, 3), shape).shape == z.shape


@every_explicit
def test_gradients_reach_all_of_an_explicit_posterior(build):
    posterior = build()
    z, log_q = posterior.sample_with_log_prob(torch.randn(20, 3), (5,))
    assert gradients_reach_every_parameter(posterior, (z.square().sum(-1) + log_q).mean())


@every_explicit
def test_importance_weights_are_unbiased(build):
    """E[g(z)/q(z|x)] = ∫ g = 1 for a density g narrower than q: what makes every bound a bound, for a stand-in too."""
    posterior = build()
    x = torch.randn(1, 3)
    with torch.no_grad():
        centre, width = posterior.sample(x, (2000,)).mean(0), 0.5 * posterior.sample(x, (2000,)).std(0)
        z, log_q = posterior.sample_with_log_prob(x, (100_000,))
        weights = (Independent(Normal(centre, width), 1).log_prob(z) - log_q).exp().double()
    stderr = weights.std().item() / math.sqrt(len(weights))
    assert abs(weights.mean().item() - 1) < 4 * stderr
    assert stderr < 0.02


@pytest.mark.parametrize("d", [1, 2, 5])
def test_a_coordinate_of_an_autoregressive_network_sees_those_before_it_only(d):
    network = AutoregressiveMLP(d, 2, [16, 16])
    context = torch.randn(2)
    for output in (0, 1):
        jacobian = torch.autograd.functional.jacobian(lambda z, o=output: network(z, context)[o], torch.randn(d))
        assert torch.equal(jacobian, jacobian.tril(-1))
        assert d == 1 or (jacobian[range(1, d), range(d - 1)] != 0).any()
    assert torch.autograd.functional.jacobian(lambda c: network(torch.zeros(d), c)[0], context).abs().sum() > 0
    with pytest.raises(ValueError, match="^widths: "):
        AutoregressiveMLP(d, 2, [])


@pytest.mark.parametrize("d, steps", [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_a_flow_s_density_by_the_jacobian(d, steps):
    """log N(noise) − log |det ∂z/∂noise|, the determinant by automatic differentiation of the whole map."""
    flow = build_flow(d, steps).double()
    x = torch.randn(3, dtype=torch.float64)
    torch.manual_seed(5)
    z, log_q = flow.sample_with_log_prob(x)
    torch.manual_seed(5)
    noise = torch.empty(d, dtype=torch.float64).normal_()

    def of_noise(noise):
        output = flow.network(x)
        z = output[:d] + (nn.functional.softplus(output[d : 2 * d]) + 1e-5) * noise
        for step in flow.steps:
            z = z.flip(-1)
            shift, raw = step(z, output[2 * d :])
            z = torch.sigmoid(raw + 1.5) * z + torch.sigmoid(-raw - 1.5) * shift
        return z

    torch.testing.assert_close(of_noise(noise), z)
    jacobian = torch.autograd.functional.jacobian(of_noise, noise)
    truth = stats.norm.logpdf(noise.numpy()).sum() - np.linalg.slogdet(jacobian.numpy())[1]
    assert log_q.item() == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("d, steps", [(1, 1), (3, 2), (6, 4)])
def test_a_flow_s_inverse(d, steps):
    """There and back, many codes for each context; from either side."""
    flow = AutoregressiveSteps(steps, d, 3, [16, 16]).double()
    z, context = torch.randn(5, 4, d, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    bent, log_volume = flow(z, context)
    assert log_volume.shape == (5, 4) and (log_volume < 0).all()
    torch.testing.assert_close(flow.inverse(bent, context), z)
    torch.testing.assert_close(flow(flow.inverse(z, context), context)[0], z)


def test_a_flow_keeps_the_precision_of_a_code_under_autocast():
    """Thirty-two logarithms of 8 bits add up to a tenth of a nat."""
    flow = AutoregressiveSteps(4, 32, 8, [64])
    z, context = torch.randn(100, 32), torch.randn(100, 8)
    exact, volume = flow(z, context)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, log_volume = flow(z, context)
        assert rounded.dtype == log_volume.dtype == torch.float32
        # What the layers' rounding does to a code is not small; that the density is the one of the map that was taken, is.
        assert (rounded - exact).abs().max() > 1e-4
        again = flow.inverse(rounded, context)
    assert (again - z).abs().max() < 0.05
    assert (log_volume != log_volume.to(torch.bfloat16).float()).float().mean() > 0.9
    assert (log_volume - volume).abs().max() < 0.5


def test_more_noises_bring_a_semi_implicit_density_closer_from_above():
    """E log of the noises' average ≥ log q, and falls towards it: a linear network makes q a Gaussian, known exactly."""

    class Linear(nn.Module):
        def forward(self, x, noise):
            raw = math.log(math.expm1(0.5)) * torch.ones_like(noise)
            return torch.cat([x + 2 * noise, raw], -1)

    gaps = []
    for extra in (0, 4, 64):
        posterior = SemiImplicitPosterior(Linear(), 1, 1, extra)
        z, log_q = posterior.sample_with_log_prob(torch.tensor([0.3]), (20_000,))
        truth = Normal(0.3, math.sqrt(4.25)).log_prob(z[:, 0])
        gaps.append((log_q - truth).mean().item())
    assert gaps[0] > 1.0 and gaps[0] > 2 * gaps[1] > 0 and 0.2 * gaps[1] > gaps[2] > 0
    with pytest.raises(ValueError, match="^extra: "):
        SemiImplicitPosterior(Linear(), 1, 1, -1)


def test_an_auxiliary_posterior_with_the_exact_way_back_is_exact():
    """a ~ N(0, 1), z | a ~ N(a, 1): q(z) = N(0, 2) and r = q(a | z) = N(z/2, 1/2), with which the stand-in is log q itself."""

    class Constant(nn.Module):
        def __init__(self, mean_of_second, std):
            super().__init__()
            self.mean_of_second, self.raw = mean_of_second, math.log(math.expm1(std - 1e-5))

        def forward(self, x, second=None):
            mean = torch.zeros_like(x) if second is None else self.mean_of_second * second
            return torch.cat([mean, torch.full_like(mean, self.raw)], -1)

    exact = AuxiliaryPosterior(Constant(0, 1.0), Constant(1.0, 1.0), Constant(0.5, math.sqrt(0.5)), 1, 1)
    z, stand_in = exact.sample_with_log_prob(torch.zeros(1), (50,))
    torch.testing.assert_close(stand_in, Normal(0.0, math.sqrt(2)).log_prob(z[:, 0]), atol=1e-4, rtol=1e-4)


def test_a_code_critic_does_not_look_at_the_image():
    critic = CodeCritic(MLP(2, [8], 1))
    z = torch.randn(5, 4, 2)
    torch.testing.assert_close(critic(torch.randn(4, 3), z), critic(torch.zeros(4, 3), z))
    assert critic(torch.zeros(4, 3), z).shape == (5, 4)
    minus_prior = CodeCritic(critic.network, subtract_log_prior=True)
    expected = critic(torch.zeros(4, 3), z) - Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(minus_prior(torch.zeros(4, 3), z), expected)


def test_target_likelihood_leaves_the_joint_density():
    """With the prior added, as every game adds it, the density that was handed in is back."""
    joint = MultivariateNormal(torch.ones(3), 2 * torch.eye(3))
    target = TargetLikelihood(joint.log_prob)
    z = torch.randn(5, 4, 3)
    prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(target.log_prob(torch.zeros(4, 7), z) + prior, joint.log_prob(z))
    assert not list(target.parameters())
