"""Judging pictures: known damage to drawn faces is ordered, known attributes are read, and copies are found out."""

import os
import sys

import numpy as np
import pytest
import torch
from scipy import linalg, ndimage, stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from torch.nn.functional import interpolate

from avb_core import pictures
from avb_core.evaluation import Estimate
from avb_core.faces import ATTRIBUTES, attributes_of, draw, faces
from avb_core.pictures import (
    LinearReadout,
    frechet_distance,
    inception_features,
    load_inception,
    nearest_is_held_out,
    nearest_neighbours,
    principal_components_error,
    sharpness,
    sliced_wasserstein,
    to_levels,
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
    with pytest.raises(ValueError, match="^reference: expected pictures that vary"):
        sliced_wasserstein(x, torch.full_like(x, 0.5), (3, 8, 8))


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


def test_copies_have_no_held_out_neighbour_and_new_pictures_their_share_of_them():
    pixels = faces("train", 610).pixels
    training, held_out, new = pixels[:330], pixels[330:410], pixels[410:]
    copies = noisy(training[:50].float() / 255, 0.01)
    assert nearest_is_held_out(copies, training, held_out).sum() == 0
    half = nearest_is_held_out(torch.cat([copies, held_out[:50].float() / 255]), training, held_out)
    assert half.tolist() == pytest.approx([0] * 50 + [410 / 80] * 50)
    for sigma in (0.0, 2.0):
        found = Estimate.of_mean(nearest_is_held_out(blurred(new.float() / 255, sigma), training, held_out))
        assert found.value == pytest.approx(1, abs=4 * found.stderr) and found.stderr < 0.2
    # By brute force
    near, far = ((new[:30, None].float() - each[None].float()).square().mean(-1) for each in (training, held_out))
    expected = (far.min(1).values < near.min(1).values).float() * 410 / 80
    torch.testing.assert_close(nearest_is_held_out(new[:30].float() / 255, training, held_out), expected)


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


# --- Fréchet distances ------------------------------------------------------------------------------------------------


def test_the_frechet_distance_by_numpy_and_scipy():
    """As it is commonly calculated: by NumPy's covariance, and the trace of SciPy's root of the product."""
    random = np.random.default_rng(0)
    a, b = random.normal(size=(300, 6)) @ random.normal(size=(6, 6)), random.normal(size=(200, 6)) + 0.5
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s + t) - 2 * np.trace(linalg.sqrtm(s @ t)).real
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(torch.from_numpy(a).float(), torch.from_numpy(b).float()) == pytest.approx(
        expected, rel=1e-5
    )
    one = frechet_distance(torch.from_numpy(a[:, :1]), torch.from_numpy(b[:, :1]))
    assert one == pytest.approx(float((a[:, 0].mean() - b[:, 0].mean()) ** 2 + (s[0, 0] ** 0.5 - t[0, 0] ** 0.5) ** 2))


def test_the_frechet_distance_of_fewer_pictures_than_features():
    """Covariances are singular then. A set is at distance 0 from itself, and moved, as far as it was moved."""
    few = torch.randn(20, 100, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(few, few) < 1e-9
    assert frechet_distance(few + 2, few) == pytest.approx(400, rel=1e-6)


def test_the_frechet_distance_is_too_large_by_the_traces_at_least():
    """On average over samples of two laws: beyond the distance of the laws by tr S/n for each."""
    random = torch.Generator().manual_seed(0)
    n, m, width = 40, 60, torch.linspace(0.5, 2, 5, dtype=torch.float64)
    found = []
    for _ in range(300):
        a = torch.randn(n, 5, dtype=torch.float64, generator=random)
        b = width * torch.randn(m, 5, dtype=torch.float64, generator=random)
        found.append(frechet_distance(a, b))
    of_laws = float((1 - width).square().sum())
    least = of_laws + 5 / n + float(width.square().sum()) / m
    assert np.mean(found) - 4 * np.std(found) / np.sqrt(len(found)) > least


def test_the_frechet_distance_orders_known_degradations(real):
    """With every 8 × 8 pixels' mean for features: 192 of them, and 100 faces."""
    features = {
        "others": real[:N],
        "blurred": blurred(real[:N], 4.0),
        "few colours": with_modes_dropped(real[:N], 1.0),
    }
    small = {
        name: interpolate(each.reshape(-1, *SHAPE), (8, 8), mode="area").flatten(1) for name, each in features.items()
    }
    reference = interpolate(real[N:].reshape(-1, *SHAPE), (8, 8), mode="area").flatten(1)
    found = {name: frechet_distance(each, reference) for name, each in small.items()}
    assert found["others"] < min(found["blurred"], found["few colours"])


def test_features_that_cannot_be_compared_are_refused():
    x = torch.rand(5, 3)
    for bad in (x[:1], x[0], x.long(), x.tolist(), x * float("nan"), x / 0):
        with pytest.raises(ValueError, match="^generated_features: "):
            frechet_distance(bad, x)
        with pytest.raises(ValueError, match="^reference_features: "):
            frechet_distance(x, bad)
    with pytest.raises(ValueError, match=r"^generated_features, reference_features: .* \(5, 2\) and \(5, 3\)"):
        frechet_distance(x[:, :2], x)


def test_the_network_is_that_of_the_file(small_inception, real, tmp_path):
    """In both formats that PyTorch has had; the random state is left alone, and colours are told apart."""
    few, features = real[:7], []
    for name, zipped in (("new.pth", True), ("old.pth", False)):
        torch.save(small_inception, tmp_path / name, _use_new_zipfile_serialization=zipped)
        before = torch.get_rng_state()
        network = load_inception(tmp_path / name)
        assert torch.equal(torch.get_rng_state(), before)
        features.append(inception_features(network, few, SHAPE, at_a_time=3))
    assert features[0].shape == (7, 4) and torch.equal(*features)
    expected = network(to_levels(few).reshape(7, *SHAPE))[0]
    torch.testing.assert_close(features[0], expected)
    assert (inception_features(network, few.reshape(7, *SHAPE).flip(1).flatten(1), SHAPE) != expected).any()


def test_grey_pictures_are_three_equal_colours(small_inception, real, tmp_path):
    torch.save(small_inception, tmp_path / "weights.pth")
    network, grey = load_inception(tmp_path / "weights.pth"), real[:4, : 64 * 64]
    torch.testing.assert_close(
        inception_features(network, grey, (1, 64, 64)), inception_features(network, grey.repeat(1, 3), SHAPE)
    )
    with pytest.raises(ValueError, match="^pictures: expected 1 or 3 colours"):
        inception_features(network, real[:4, : 2 * 64 * 64], (2, 64, 64))
    with pytest.raises(ValueError, match="^pictures: .* got \\(4, 4096\\)"):
        inception_features(network, grey, SHAPE)
    with pytest.raises(ValueError, match="^pictures: .*NaN"):
        inception_features(network, grey * float("nan"), (1, 64, 64))


def test_intensities_are_rounded_to_levels():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_levels(levels.float() / 255), levels)
    assert to_levels(torch.tensor([-0.5, 0.0, 0.49 / 255, 0.51 / 255, 1.0, 1.7])).tolist() == [0, 0, 0, 1, 255, 255]


@pytest.mark.parametrize("fails", [None, RuntimeError("operator torchvision::nms does not exist")])
def test_a_missing_package_is_named(fails, monkeypatch, tmp_path):
    """Where there is none; and where its torchvision is of another PyTorch, which is no ImportError."""

    class Unfit:
        def __getattr__(self, name):
            raise fails

    monkeypatch.setitem(sys.modules, "torch_fidelity", fails and Unfit())
    with pytest.raises(ValueError, match="^inception: needs another package, `pip install torch-fidelity`"):
        load_inception(tmp_path / "weights.pth")


class Malicious:
    """Unpickled, it makes a folder: any program could stand there."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_file_of_weights_is_not_executed(small_inception, tmp_path):
    """The same file, given to the network itself, would be."""
    path, done = tmp_path / "weights.pth", tmp_path / "done"
    for zipped in (True, False):
        for content in (Malicious(done), small_inception | {"layer.bias": Malicious(done)}):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            with pytest.raises(ValueError, match="^inception: .*weights.pth is damaged, or holds something else"):
                load_inception(path)
            assert not done.exists()
    with pytest.raises(RuntimeError):
        sys.modules["torch_fidelity"].FeatureExtractorInceptionV3("inception", ["2048"], path)
    assert done.exists()


def test_a_file_without_the_weights_is_refused(small_inception, tmp_path):
    path = tmp_path / "weights.pth"
    for missing in (path, tmp_path):
        with pytest.raises(ValueError, match="^inception: cannot read "):
            load_inception(missing)
    torch.save(small_inception, path)
    whole = path.read_bytes()
    for damaged in (b"", whole[:10], whole[: len(whole) // 2], whole[:-30], b"no weights at all", b"\x80\x02}q\x00"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="^inception: .*weights.pth is damaged, or holds something else"):
            load_inception(path)
    for other in ([torch.zeros(2)], torch.zeros(2), {"layer.bias": 3}, {3: torch.zeros(4)}):
        torch.save(other, path)
        with pytest.raises(ValueError, match="^inception: expected tensors by their names in .*weights.pth"):
            load_inception(path)
    for other in ({}, {**small_inception, "more": torch.zeros(2)}, {**small_inception, "layer.bias": torch.zeros(5)}):
        torch.save(other, path)
        with pytest.raises(ValueError, match="^inception: .*weights.pth holds other tensors"):
            load_inception(path)


def test_the_true_network(real, tmp_path):
    """That of the package itself, where it is installed, with random weights in the format of the published ones."""
    fidelity = pytest.importorskip("torch_fidelity", exc_type=(ImportError, RuntimeError))
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    torch.manual_seed(0)
    kind = fidelity.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "load_state_dict", lambda *_: None)  # the weights that it was made with
        patch.setattr(torch, "load", lambda *_, **__: None)
        weights = kind("inception", ["2048"], feature_extractor_weights_path="nowhere").state_dict()
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    network = load_inception(path)
    features = inception_features(network, real[:8], SHAPE, at_a_time=4)
    assert features.shape == (8, 2048) and features.dtype == torch.float32
    torch.testing.assert_close(features[:2], network(to_levels(real[:2]).reshape(2, *SHAPE))[0])
    # As the package calculates it, from features few enough to take no time
    ours, theirs = (each[:, :40] for each in features.split(4))
    statistics = [fid_features_to_statistics(each.double()) for each in (ours, theirs)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    scale = sum(np.trace(each["sigma"]) for each in statistics)
    assert frechet_distance(ours, theirs) == pytest.approx(expected, abs=1e-6 * scale)
    del weights["fc.weight"]
    torch.save(weights, path)
    with pytest.raises(ValueError, match="^inception: .*weights.pth holds other tensors"):
        load_inception(path)
