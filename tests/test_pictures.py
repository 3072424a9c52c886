"""Judging pictures: known damage to drawn faces is ordered, known attributes are read, and copies are found out."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from torch.nn.functional import interpolate

from avb_core import pictures
from avb_core.faces import ATTRIBUTES, attributes_of, draw, faces
from avb_core.pictures import (
    LinearReadout,
    nearest_neighbours,
    principal_components_error,
    sharpness,
    sliced_wasserstein,
)

SHAPE = (3, 64, 64)
N = 100


@pytest.fixture(scope="module")
def real():
    """Twice N faces of the test set."""
    return draw(attributes_of("test")[: 2 * N])


def distance(generated, reference):
    return float(np.mean(list(sliced_wasserstein(generated, reference, SHAPE, patches=8, projections=64).values())))


def blurred(images, sigma):
    return torch.from_numpy(ndimage.gaussian_filter(images.reshape(-1, *SHAPE).numpy(), (0, 0, sigma, sigma))).flatten(
        1
    )


def noisy(images, std):
    return images + std * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))


def with_modes_dropped(images, strength):
    """Faces whose skin and hair come from a part of what there is: 0 all of it, 1 a single colour each."""
    attributes = attributes_of("test")[: len(images)].clone()
    for name in ("skin", "hair_colour", "background"):
        attributes[:, ATTRIBUTES.index(name)] *= 1 - strength
    return draw(attributes)


@pytest.mark.parametrize(
    "degrade, strengths",
    [(blurred, (0.5, 1.0, 2.0)), (noisy, (0.02, 0.05, 0.1)), (with_modes_dropped, (0.4, 0.7, 1.0))],
)
def test_the_distance_orders_known_degradations(real, degrade, strengths):
    """From the noise floor, that of other faces of the same kind, upwards with the strength of the damage."""
    reference, others = real.split(N)
    floor = distance(others, reference)
    found = [distance(degrade(others, strength), reference) for strength in strengths]
    assert floor < found[0] and found == sorted(found)
    assert found[-1] > 1.5 * floor


def test_the_distance_sees_where_parts_of_a_face_are(real):
    """Faces upside down have the same patches where these are small against a face; the smallest scale notices."""
    reference, others = real.split(N)
    turned = others.reshape(-1, *SHAPE).flip(2).flatten(1)
    upright, flipped = (sliced_wasserstein(each, reference, SHAPE, 8, 64) for each in (others, turned))
    assert list(upright) == [64, 32, 16, 8]
    assert flipped[8] > 2 * upright[8]


def test_equal_sets_have_no_distance_and_the_seed_decides(real):
    few, others = real[:20], real[20:40]
    assert distance(few, few) == 0
    assert distance(few, others) == distance(few, others) > 0
    assert sliced_wasserstein(few, others, SHAPE, 4, 8, seed=1) != sliced_wasserstein(few, others, SHAPE, 4, 8)


def test_the_pyramid_loses_nothing(real):
    *details, smallest = pictures._pyramid(real[:3], SHAPE)
    assert [level.shape[-1] for level in (*details, smallest)] == [64, 32, 16, 8]
    for detail in reversed(details):
        smallest = detail + interpolate(smallest, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(smallest.flatten(1), real[:3])


def test_patches_are_pieces_of_their_pictures():
    level = torch.arange(2 * 3 * 9 * 10.0).reshape(2, 3, 9, 10)
    random = torch.Generator().manual_seed(0)
    taken = pictures._patches(level, pictures._places(level, 5, random)).reshape(2, 5, 3, 7, 7)
    places = set()
    for picture, patches in zip(level, taken, strict=True):
        for patch in patches:
            corner = (picture[0] == patch[0, 0, 0]).nonzero()
            top, left = corner[0].tolist()
            torch.testing.assert_close(patch, picture[:, top : top + 7, left : left + 7])
            places.add((top, left))
    assert len(places) > 3


def test_one_projection_is_scipy_s_distance():
    """Pictures of one patch only: the distance is SciPy's, in standard deviations of the reference."""
    ours, real = torch.rand(40, 49), torch.rand(40, 49) * 2
    found = sliced_wasserstein(ours, real, (1, 7, 7), patches=1, projections=1, seed=3)
    random = torch.Generator().manual_seed(3)
    torch.randint(1, (40, 1), generator=random), torch.randint(1, (40, 1), generator=random)  # where patches are taken
    direction = torch.randn(49, 1, generator=random)
    a, b = ((each - real.mean()) / real.std() @ direction / direction.norm() for each in (ours, real))
    assert found[7] == pytest.approx(stats.wasserstein_distance(a[:, 0], b[:, 0]), rel=1e-4)


def test_what_the_distance_cannot_compare_is_refused():
    x = torch.rand(4, 192)
    with pytest.raises(ValueError, match="^generated: expected 4 pictures of shape"):
        sliced_wasserstein(x[:3], x, (3, 8, 8))
    with pytest.raises(ValueError, match="^shape: .* got 4×4"):
        sliced_wasserstein(x[:, :48], x[:, :48], (3, 4, 4))
    with pytest.raises(ValueError, match="^generated: .*NaN"):
        sliced_wasserstein(x * float("nan"), x, (3, 8, 8))


def test_sharpness_by_scipy_and_falls_with_blur(real):
    laplacian = ndimage.laplace(real[0].reshape(SHAPE).double().numpy()[0])[1:-1, 1:-1]
    red = real[:1, : 64 * 64]
    assert float(sharpness(red, (1, 64, 64))) == pytest.approx(laplacian.var(ddof=1), rel=1e-4)
    found = [float(sharpness(blurred(real[:20], sigma), SHAPE).mean()) for sigma in (0.0, 0.5, 1.0, 2.0)]
    assert found == sorted(found, reverse=True) and found[-1] < 0.1 * found[0]


def test_memorized_pictures_are_found_out():
    """A copy has its original as neighbour, much closer than any held-out face has one; distances are those of brute force."""
    training, held_out = faces("train", 300).pixels, faces("test", 20).batch(torch.arange(20))
    chosen = torch.tensor([7, 120, 299])
    copies = noisy(training[chosen].float() / 255, 0.01)
    distances, index = nearest_neighbours(copies, training, at_a_time=64)
    assert torch.equal(index, chosen)
    of_held_out, nearest = nearest_neighbours(held_out, training, at_a_time=64)
    assert distances.max() < 0.3 * of_held_out.min()
    brute = (held_out[:, None] - training[None].float() / 255).square().mean(-1).sqrt()
    torch.testing.assert_close(of_held_out, brute.min(1).values, rtol=1e-3, atol=1e-4)
    assert torch.equal(nearest, brute.argmin(1))


def test_what_principal_components_leave_against_scikit_learn(real):
    small = interpolate(real.reshape(-1, *SHAPE), (8, 8), mode="area").flatten(1)
    training, held_out = small[:150], small[150:]
    for components in (3, 20):
        theirs = PCA(components, svd_solver="full").fit(training.numpy())
        left = theirs.inverse_transform(theirs.transform(held_out.numpy())) - held_out.numpy()
        ours = principal_components_error(held_out, training, components)
        np.testing.assert_allclose(ours, np.square(left).mean(1), rtol=1e-2)
    for components in (0, 151):
        with pytest.raises(ValueError, match=f"^components: expected 1 to 150, .* got {components}"):
            principal_components_error(held_out, training, components)


def test_a_linear_readout_against_scikit_learn():
    random = torch.Generator().manual_seed(0)
    codes = torch.randn(400, 5, generator=random)
    truth = torch.randn(5, 3, generator=random)
    attributes = codes @ truth + 0.5 * torch.randn(400, 3, generator=random) + 2
    ours, theirs = (
        LinearReadout.fit(codes[:300], attributes[:300]),
        LinearRegression().fit(codes[:300], attributes[:300]),
    )
    np.testing.assert_allclose(ours(codes), theirs.predict(codes), rtol=1e-3, atol=1e-4)
    r_squared = ours.r_squared(codes[300:], attributes[300:])
    for i in range(3):
        alone = LinearRegression().fit(codes[:300], attributes[:300, i])
        assert float(r_squared[i]) == pytest.approx(alone.score(codes[300:], attributes[300:, i]), abs=1e-4)
    # A step along an attribute's direction adds 1 to it and leaves the others.
    steps = ours(codes[:1] + ours.directions()) - ours(codes[:1])
    torch.testing.assert_close(steps, torch.eye(3), atol=1e-4, rtol=0)


def test_codes_that_know_nothing_explain_nothing():
    codes, attributes = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)), attributes_of("test")
    found = LinearReadout.fit(codes[:1000], attributes[:1000]).r_squared(codes[1000:], attributes[1000:])
    assert found.abs().max() < 0.03
    with pytest.raises(ValueError, match="^codes: expected more than 5"):
        LinearReadout.fit(codes[:5], attributes[:5])
    with pytest.raises(ValueError, match="^codes: .* 9 rows, got 10"):
        LinearReadout.fit(codes[:10], attributes[:9])
