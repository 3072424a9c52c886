"""Judging pictures that a model made: what generated and real ones have in common, and what codes know.

All but the Fréchet inception distance do with nobody's weights. Pictures are flat intensities in [0, 1], one colour plane after
another, beside the shape (colours, height, width) of one.
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, interpolate

from avb_core._validate import require_floating, require_no_nan
from avb_core.gaussian import squared_wasserstein

PATCH = 7  # pixels across


@torch.no_grad()
def sliced_wasserstein(
    generated: Float[Tensor, "n pixels"],
    reference: Float[Tensor, "n pixels"],
    shape: tuple[int, int, int],
    patches: int = 32,
    projections: int = 128,
    seed: int = 0,
) -> dict[int, float]:
    """How far patches of generated pictures are from those of reference pictures, at every scale; keys are the scales' sides.

    Each picture is split into a Laplacian pyramid: what a half as large picture cannot show, again and again, down to 8×8. At
    each scale, `patches` patches of 7×7 are taken anywhere in every picture; the distance is the Wasserstein-1 distance of
    their projections on random directions, a mean over directions (Karras et al., 2018, section 5). Patches are measured in
    standard deviations of the reference's, colour by colour, where Karras et al. standardize both sides, which would forgive
    a loss of contrast, and with it blur; and they stop at 16×16, where no patch sees a whole face.

    It is 0 for the same law, but not for finite samples of it: hold it against that of as many other real pictures. Raises
    ValueError for sets of different sizes, a shape that does not fit, reference pictures that do not vary, or NaN.
    """
    for name, pictures in (("generated", generated), ("reference", reference)):
        require_no_nan(name, pictures)
        if pictures.shape != (len(reference), math.prod(shape)) or len(pictures) < 2:
            raise ValueError(
                f"{name}: expected {max(2, len(reference))} pictures of shape {shape}, got {tuple(pictures.shape)}"
            )
    random = torch.Generator().manual_seed(seed)
    distances: dict[int, float] = {}
    for ours, real in zip(_pyramid(generated, shape), _pyramid(reference, shape), strict=True):
        # From the same places of both, so that the places make no difference.
        places = _places(real, patches, random)
        ours, real = _patches(ours, places), _patches(real, places)
        mean, std = real.mean((0, 2), keepdim=True), real.std((0, 2), keepdim=True)
        if not (std > 0).all():
            raise ValueError(f"reference: expected pictures that vary in every colour and at every scale of {shape}")
        direction = torch.randn(real[0].numel(), projections, generator=random).to(real)
        direction /= direction.norm(dim=0)
        sorted_ours, sorted_real = (((each - mean) / std).flatten(1) @ direction for each in (ours, real))
        distance = (sorted_ours.sort(0).values - sorted_real.sort(0).values).abs().mean()
        distances[shape[1] >> len(distances)] = float(distance)
    return distances


def _pyramid(pictures: Tensor, shape: tuple[int, int, int]) -> list[Float[Tensor, "n c h w"]]:
    """What each scale adds to the next smaller one; the smallest as it is."""
    levels = [pictures.reshape(-1, *shape)]
    while min(levels[-1].shape[-2:]) >= 2 * (PATCH + 1) and not any(side % 2 for side in levels[-1].shape[-2:]):
        whole = levels.pop()
        half = avg_pool2d(whole, 2)
        levels += [whole - interpolate(half, scale_factor=2, mode="bilinear"), half]
    return levels


def _places(
    level: Float[Tensor, "n c h w"], patches: int, random: torch.Generator
) -> tuple[Int[Tensor, "n patches"], Int[Tensor, "n patches"]]:
    """The top left corners of so many patches in each picture."""
    n, _, height, width = level.shape
    if min(height, width) < PATCH:
        raise ValueError(f"shape: expected pictures of at least {PATCH}×{PATCH} pixels, got {height}×{width}")
    top = torch.randint(height - PATCH + 1, (n, patches), generator=random)
    left = torch.randint(width - PATCH + 1, (n, patches), generator=random)
    return top.to(level.device), left.to(level.device)


def _patches(
    level: Float[Tensor, "n c h w"], places: tuple[Int[Tensor, "n patches"], Int[Tensor, "n patches"]]
) -> Float[Tensor, "m c p"]:
    top, left = (each[..., None, None] for each in places)
    within = torch.arange(PATCH, device=level.device)
    picture = torch.arange(len(level), device=level.device)[:, None, None, None]
    # Indices on both sides of the colours put these last: (n, patches, rows, columns, c).
    taken = level[picture, :, top + within[:, None], left + within]
    return taken.flatten(0, 1).flatten(1, 2).transpose(1, 2)


def frechet_distance(generated_features: Float[Tensor, "n f"], reference_features: Float[Tensor, "m f"]) -> float:
    """The squared Wasserstein distance of two Gaussians with the mean and covariance of each set, one row for each picture.

    By features of an Inception network it is the Fréchet inception distance (Heusel et al., 2017). On average it is too large,
    and the more so the fewer pictures there are: by tr S/n at least, for each set of n with the covariance S. So it compares
    only where the numbers of pictures are the same; hold it against that of as many other real pictures. It is blind to
    everything but two moments. Raises ValueError for fewer than two rows, rows of different lengths, or entries not finite.
    """
    named = {"generated_features": generated_features, "reference_features": reference_features}
    for name, features in named.items():
        require_floating(name, features)
        require_no_nan(name, features)
        if features.ndim != 2 or len(features) < 2 or not features.isfinite().all():
            raise ValueError(f"{name}: expected 2 rows or more of finite features, got shape {tuple(features.shape)}")
    if generated_features.shape[1] != reference_features.shape[1]:
        shapes = tuple(generated_features.shape), tuple(reference_features.shape)
        raise ValueError(f"{', '.join(named)}: expected as many features of both, got {shapes[0]} and {shapes[1]}")
    moments = []
    for features in named.values():
        rows = features.double().cpu()
        moments += [rows.mean(0), torch.atleast_2d(rows.T.cov())]
    return float(squared_wasserstein(*moments))


def load_inception(weights: Path) -> nn.Module:
    """The Inception network of the package `torch-fidelity`, from pictures in levels to its 2048 features, frozen.

    Its weights are read from a file, that which torch-fidelity publishes as weights-inception-2015-12-05-6726825d.pth; nothing
    in it is executed. The global random state is left as it was. Raises ValueError where the package is not installed, or the
    file cannot be read, holds anything but tensors, or others than this network has.
    """
    try:
        from torch_fidelity import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # the latter by a torchvision that was built for another PyTorch
        raise ValueError(
            f"inception: needs another package, `pip install torch-fidelity`, and a torchvision for this PyTorch ({error})"
        ) from error
    try:
        content = Path(weights).read_bytes()
    except OSError as error:
        raise ValueError(f"inception: cannot read {weights} ({error.strerror})") from error
    try:
        tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may raise nearly anything
        raise ValueError(f"inception: {weights} is damaged, or holds something else than tensors") from error
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(each, Tensor) for name, each in tensors.items()
    ):
        raise ValueError(f"inception: expected tensors by their names in {weights}, got something else")
    # The package unpickles whatever stands in the file that it is given, and that can run any program. So it is not given the
    # file, but a copy in memory of the tensors alone, which was pickled here.
    vetted = io.BytesIO()
    torch.save(dict(tensors), vetted)
    vetted.seek(0)
    try:
        with torch.random.fork_rng(devices=[]):
            return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=vetted)
    except RuntimeError as error:
        raise ValueError(
            f"inception: {weights} holds other tensors than torch-fidelity's Inception network has"
        ) from error


@torch.no_grad()
def inception_features(
    network: nn.Module, pictures: Float[Tensor, "n pixels"], shape: tuple[int, int, int], at_a_time: int = 50
) -> Float[Tensor, "n f"]:
    """What the network of `load_inception` makes of the pictures, rounded to levels; of one colour, as three equal ones.

    Raises ValueError for a shape that does not fit, colours other than one or three, or NaN.
    """
    require_no_nan("pictures", pictures)
    if shape[0] not in (1, 3) or pictures.shape[1:] != (math.prod(shape),):
        raise ValueError(
            f"pictures: expected 1 or 3 colours, in the shape (n, {math.prod(shape)}) by {shape}, got {tuple(pictures.shape)}"
        )
    batches = to_levels(pictures).reshape(-1, *shape).expand(-1, 3, -1, -1).split(at_a_time)
    return torch.cat([network(few)[0].cpu() for few in batches])


def to_levels(pictures: Float[Tensor, "n pixels"]) -> UInt8[Tensor, "n pixels"]:
    """Intensities as levels from 0 to 255."""
    return (255 * pictures).round().clamp(0, 255).to(torch.uint8)


def sharpness(pictures: Float[Tensor, "n pixels"], shape: tuple[int, int, int]) -> Float[Tensor, "n"]:
    """The variance of each picture's Laplacian, a mean over colours: the less of it, the more blurred (Pech-Pacheco, 2000).

    Noise counts as sharpness too; only a mean of p(x|z), or a picture without noise, is judged by it.
    """
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).to(pictures)
    planes = pictures.reshape(-1, 1, *shape[1:])
    return conv2d(planes, kernel[None, None]).flatten(1).var(1).reshape(-1, shape[0]).mean(1)


def nearest_neighbours(
    pictures: Float[Tensor, "n pixels"], training: UInt8[Tensor, "m pixels"], at_a_time: int = 1000
) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """Root mean square distance to the nearest training picture, and which one that is.

    A model that has learned its training pictures by heart makes pictures closer to them than held-out ones are.
    """
    best = torch.full(pictures.shape[:1], math.inf, dtype=pictures.dtype, device=pictures.device)
    index = torch.zeros(len(pictures), dtype=torch.long, device=pictures.device)
    for start in range(0, len(training), at_a_time):
        few = training[start : start + at_a_time].to(pictures) / 255
        distance, nearest = torch.cdist(pictures, few).min(1)
        index = torch.where(distance < best, start + nearest, index)
        best = torch.minimum(distance, best)
    return best / math.sqrt(pictures.shape[1]), index


def nearest_is_held_out(
    pictures: Float[Tensor, "n pixels"], training: UInt8[Tensor, "m pixels"], held_out: UInt8[Tensor, "k pixels"]
) -> Float[Tensor, "n"]:
    """(m + k)/k for each picture to which a held-out one is nearer than all training pictures are, and 0 for the others.

    Pictures that owe nothing to the training pictures but their distribution have the mean 1, blurred or not: of m + k pictures
    of one law each is as likely to be the nearest. Pictures that were learned by heart have 0.
    """
    to_training, _ = nearest_neighbours(pictures, training)
    to_held_out, _ = nearest_neighbours(pictures, held_out)
    return (to_held_out < to_training).to(pictures) * (len(training) + len(held_out)) / len(held_out)


def principal_components_error(
    pictures: Float[Tensor, "n pixels"], training: Float[Tensor, "m pixels"], components: int
) -> Float[Tensor, "n"]:
    """The mean square error, per pixel and colour, that so many principal components of training pictures leave.

    What any code of as many numbers has to beat: no linear one does better on the training pictures. The components are those
    of a randomized decomposition with 20 more than are kept. Raises ValueError for fewer than one component, or more than there
    are training pictures.
    """
    if not 1 <= components <= len(training):
        raise ValueError(f"components: expected 1 to {len(training)}, as many as training pictures, got {components}")
    mean = training.mean(0)
    _, _, axes = torch.pca_lowrank(training, q=min(components + 20, *training.shape), niter=4)
    kept = (pictures - mean) @ axes[:, :components]
    return (mean + kept @ axes[:, :components].T - pictures).square().mean(-1)


@dataclass(frozen=True)
class LinearReadout:
    """What a linear function of the code tells of known attributes: attributes ≈ codes · weight + bias."""

    weight: Float[Tensor, "d attributes"]
    bias: Float[Tensor, "attributes"]

    @classmethod
    def fit(cls, codes: Float[Tensor, "n d"], attributes: Float[Tensor, "n attributes"]) -> "LinearReadout":
        """By least squares. Raises ValueError unless there are more codes than latent variables, one for each row."""
        n, d = codes.shape
        if n <= d + 1 or len(attributes) != n:
            raise ValueError(f"codes: expected more than {d + 1}, one for each of {len(attributes)} rows, got {n}")
        with_one = torch.cat([codes, codes.new_ones(n, 1)], dim=1).double().cpu()
        solution = torch.linalg.lstsq(with_one, attributes.double().cpu(), driver="gelsd").solution.to(codes)
        return cls(solution[:-1], solution[-1])

    def __call__(self, codes: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch attributes"]:
        return codes @ self.weight + self.bias

    def r_squared(
        self, codes: Float[Tensor, "n d"], attributes: Float[Tensor, "n attributes"]
    ) -> Float[Tensor, "attributes"]:
        """The share of each attribute's variance that is explained; on codes that were not fitted it may be negative."""
        residual = attributes - self(codes)
        return 1 - residual.square().mean(0) / attributes.var(0, correction=0)

    def directions(self) -> Float[Tensor, "attributes d"]:
        """For each attribute the shortest step of the code that adds 1 to it and nothing to the others."""
        return torch.linalg.pinv(self.weight)
