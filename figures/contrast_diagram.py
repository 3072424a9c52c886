"""Draw contrast_diagram.svg, the same posterior before two contrasts: `python -m figures.contrast_diagram`.

On the left a narrow posterior with two bumps stands before the wide prior, with the Gaussian of its own moments around it. On
the right the same posterior in that Gaussian's coordinates, where the contrast is a standard normal and little is left to tell.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avb_core.plots import BLACK, BLUE, GREEN, GREY, ORANGE, style
from figures.iwlb_diagram import normal

TARGET = Path(__file__).with_suffix(".svg")
MEAN, STD, BUMP = 1.3, 0.2, 0.86


def two_bumps(u: np.ndarray) -> np.ndarray:
    """A density of mean 0 and variance 1."""
    width = np.sqrt(1 - BUMP**2)
    return 0.5 * (normal(u, -BUMP, width) + normal(u, BUMP, width))


def curve(ax: Axes, z: np.ndarray, density: np.ndarray, color: str, line: str = "-", fill: float = 0.2) -> None:
    ax.fill_between(z, 0, density, color=color, alpha=fill, lw=0)
    ax.plot(z, density, color=color, lw=1.8, ls=line)


def draw() -> Figure:
    """The figure with its two panels."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.9), layout="none")
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.1, top=0.99, wspace=0.22)

    z = np.concatenate([np.linspace(-3.5, 0.4, 60), np.linspace(0.42, 2.3, 200), np.linspace(2.35, 3.5, 20)])
    curve(left, z, normal(z), ORANGE)
    curve(left, z, normal(z, MEAN, STD), GREEN, "--", 0.0)
    curve(left, z, two_bumps((z - MEAN) / STD) / STD, BLUE)
    left.text(-1.35, 0.33, "prior $p(z)$", color=ORANGE, fontsize=13, ha="right")
    left.text(1.95, 1.9, r"contrast $r(z\,|\,x)$", color=GREEN, fontsize=13)
    left.text(1.95, 1.35, r"posterior $q_\phi(z\,|\,x)$", color=BLUE, fontsize=13)
    left.text(-3.4, 2.75, "In the code's own coordinates", fontsize=14, weight="bold", color=BLACK)
    left.text(-3.4, 2.5, "few samples of the prior fall where the posterior lies", fontsize=10.5, color="#555555")
    left.text(3.55, -0.2, "$z$", fontsize=13)
    left.set(xlim=(-3.6, 3.8), ylim=(-0.3, 3.0))

    u = np.linspace(-3.5, 3.5, 160)
    curve(right, u, normal(u), GREEN, "--", 0.0)
    curve(right, u, two_bumps(u), BLUE)
    right.text(1.75, 0.34, "the critic tells\nthese two apart", fontsize=11, color=BLACK)
    right.text(1.75, 0.24, r"$N(0, 1)$: $r$ for every $x$", color=GREEN, fontsize=12)
    right.text(1.75, 0.18, r"law of $u$: mean 0, std 1", color=BLUE, fontsize=12)
    right.text(-3.4, 0.605, "In the contrast's coordinates", fontsize=14, weight="bold", color=BLACK)
    right.text(-3.4, 0.55, "only the shape is left, whatever place and width", fontsize=10.5, color="#555555")
    right.text(3.75, -0.044, "$u$", fontsize=13)
    right.set(xlim=(-3.6, 5.6), ylim=(-0.066, 0.66))

    for ax in (left, right):
        ax.set_axis_off()
        ax.plot(ax.get_xlim(), (0, 0), color=GREY, lw=0.9)
    figure.text(0.5, 0.34, r"$u = \frac{z - m(x)}{s(x)}$", ha="center", fontsize=16, color=BLACK)
    figure.text(0.5, 0.22, "→", ha="center", fontsize=22, color=BLACK)
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
