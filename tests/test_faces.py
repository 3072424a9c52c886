"""Drawn faces: reproducible, in range, and changed by each attribute where it belongs and nowhere else."""

import pytest
import torch

from avb_core.faces import ATTRIBUTES, attributes_of, draw, faces


def drawn(**attributes):
    """One face, plain but for the attributes named; (3, 64, 64)."""
    values = torch.tensor([[attributes.get(name, -0.5 if name == "glasses" else 0.0) for name in ATTRIBUTES]])
    return draw(values).reshape(3, 64, 64)


def test_faces_are_a_data_set_and_the_same_at_every_call():
    images = faces("test", 30)
    assert len(images) == 30 and images.shape == (3, 64, 64) and images.pixels.shape == (30, 3 * 64 * 64)
    assert torch.equal(faces("test", 30).pixels, images.pixels)
    assert not torch.equal(faces("train", 30).pixels, images.pixels)
    expected = draw(attributes_of("test")[:30])
    assert (images.batch(torch.arange(30)) - expected).abs().max() <= 0.5 / 255 + 1e-6
    assert expected.min() >= 0 and expected.max() <= 1 and expected.std() > 0.15


def test_attributes_are_uniform_and_independent():
    values = attributes_of("train")
    assert values.shape == (20_000, len(ATTRIBUTES)) and len(attributes_of("test")) == 2_000
    assert values.abs().max() <= 1
    assert (values.mean(0).abs() < 4 * (1 / 3 / 20_000) ** 0.5).all()
    correlations = torch.corrcoef(values.T) - torch.eye(len(ATTRIBUTES))
    assert correlations.abs().max() < 4.5 / 20_000**0.5


# Where an attribute shows: rows and columns, from the top left.
REGIONS = {
    "smile": (slice(38, 54), slice(16, 48)),
    "eyes": (slice(22, 36), slice(16, 48)),
    "glasses": (slice(24, 40), slice(14, 50)),
    "hair_length": (slice(24, 64), slice(8, 56)),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_attribute_shows_where_it_belongs(name):
    low, high = drawn(**{name: -0.9}), drawn(**{name: 0.9})
    change = (high - low).abs().amax(0)
    assert change.max() > 0.15
    if name in REGIONS:
        outside = change.clone()
        outside[REGIONS[name]] = 0
        # Brows move a little with the smile.
        assert outside.max() < (0.7 if name == "smile" else 1e-6), name
        assert change[REGIONS[name]].sum() > 2 * outside.sum()


def test_attributes_mean_what_they_say():
    assert drawn(skin=-1)[:, 34:38, 28:36].mean() > drawn(skin=1)[:, 34:38, 28:36].mean() + 0.2
    assert drawn(hair_colour=1)[:, 8:12, 28:36].mean() > drawn(hair_colour=-1)[:, 8:12, 28:36].mean() + 0.2
    # Light from the right brightens the right cheek.
    bright = drawn(light=1) - drawn(light=-1)
    assert bright[:, 36:40, 40:44].mean() > 0.03 and bright[:, 36:40, 20:24].mean() < -0.03
    # A face that turns to the right has its mouth further right: the darkest line there, if skin and hair are fair.
    turned = [drawn(pose=pose, hair_length=-1.0, hair_colour=1.0, skin=-1.0)[:, 43:46, 18:46] for pose in (-1, 1)]
    darkness = [(0.6 - face.amax(0)).clamp(min=0).sum(0) for face in turned]
    left, right = ((weight * torch.arange(28.0)).sum() / weight.sum() for weight in darkness)
    assert right > left + 5
    # Glad mouths show teeth, which are nearly white.
    assert drawn(smile=1)[:, 42:48, 28:36].amin(0).max() > 0.85 > drawn(smile=-1)[:, 42:48, 28:36].amin(0).max()


def test_a_face_changes_smoothly_with_its_attributes():
    """But for glasses, which are there or not."""
    steps = torch.linspace(-1, 1, 41)
    for i, name in enumerate(ATTRIBUTES):
        if name == "glasses":
            continue
        values = torch.zeros(41, len(ATTRIBUTES))
        values[:, ATTRIBUTES.index("glasses")] = -0.5
        values[:, i] = steps
        path = draw(values)
        assert (path[1:] - path[:-1]).square().mean(1).sqrt().max() < 0.03, name


@pytest.mark.parametrize(
    "bad", [torch.zeros(9), torch.zeros(2, 8), torch.full((1, 9), 1.1), torch.full((1, 9), torch.nan)]
)
def test_attributes_that_make_no_sense(bad):
    with pytest.raises(ValueError, match="^attributes: "):
        draw(bad)


def test_what_is_asked_for_wrongly():
    for function in (faces, attributes_of):
        with pytest.raises(ValueError, match="^split: expected 'train' or 'test', got 'valid'"):
            function("valid")
    with pytest.raises(ValueError, match="^n: "):
        faces("test", 0)
