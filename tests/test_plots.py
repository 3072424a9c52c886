"""The book's colours can be told apart by those who do not see red, green or blue as others do."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose

from avb_core import plots

# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency" (2009): complete
# deficiencies, acting on linear RGB
SIGHT = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# Linear sRGB to XYZ, IEC 61966-2-1; its rows' sums are the white point D65
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
# Some 2.3 is a just noticeable difference between large fields side by side; thin lines with a legend need several times that.
APART = 10


def lab(colour, sight="full"):
    """A colour as seen, in CIELAB under D65."""
    rgb = np.asarray(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(SIGHT[sight]) @ linear, 0, 1)
    ratio = TO_XYZ @ seen / TO_XYZ.sum(1)
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one, other, sight):
    return np.linalg.norm(lab(one, sight) - lab(other, sight))


def test_cielab_is_the_standard_s():
    """Values for sRGB's primaries as tabulated by Lindbloom."""
    assert_allclose(lab("#ffffff"), [100, 0, 0], atol=0.05)
    assert_allclose(lab("#ff0000"), [53.24, 80.09, 67.20], atol=0.05)
    assert_allclose(lab("#0000ff"), [32.30, 79.19, -107.86], atol=0.05)


def test_red_and_green_are_alike_to_those_who_mix_them_up():
    """The simulation sees what it should: two colours that are far apart to others and close to a deuteranope."""
    red, green = "#b35c00", "#6e7d00"
    assert distance(red, green, "full") > 40
    assert distance(red, green, "deuteranopia") < APART


@pytest.mark.parametrize("sight", SIGHT)
def test_the_palette_is_told_apart(sight):
    near = {pair: distance(*pair, sight) for pair in combinations((*plots.PALETTE, plots.BLACK), 2)}
    assert {pair: away for pair, away in near.items() if away < APART} == {}


@pytest.mark.parametrize("sight", SIGHT)
def test_every_colour_of_a_line_is_seen_on_white(sight):
    near = {colour: distance(colour, "white", sight) for colour in (*plots.PALETTE, plots.BLACK, plots.GREY)}
    assert {colour: away for colour, away in near.items() if away < 3 * APART} == {}
