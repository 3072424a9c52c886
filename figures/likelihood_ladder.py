"""Draw likelihood_ladder.svg, estimates around log p(x) beside the annealing path: `python -m figures.likelihood_ladder`.

On the left a schematic scale (not measured): lower bounds below, the reversed chain above, a critic anywhere. On the right the
exact densities between a standard normal and a narrow posterior, at constant speed.
"""

from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avb_core.plots import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILION, style
from figures.iwlb_diagram import arrow, panel

TARGET = Path(__file__).with_suffix(".svg")


def ladder(ax: Axes) -> None:
    """Rungs below and above the truth; their heights are schematic."""
    truth = 4.7
    ax.plot((0.5, 7.55), (truth, truth), color=GREY, linestyle="--", linewidth=1.6)
    ax.text(0.5, truth + 0.27, r"$\log p_\theta(x)$", fontsize=13, va="center", color=BLACK)
    rungs = [
        (5.3, ORANGE, "reversed chains: upper bound"),
        (4.25, GREEN, "annealed importance sampling"),
        (3.3, BLUE, "importance weighted bound"),
        (2.2, SKY, "ELBO"),
        (0.8, PINK, "samples of the prior"),
    ]
    for y, color, name in rungs:
        ax.plot((2.1, 3.5), (y, y), color=color, linewidth=4, solid_capstyle="round")
        ax.text(3.75, y, name, fontsize=11.5, va="center", color=BLACK)
    arrow(ax, (8.35, 0.7), (8.35, 5.85), VERMILION, "<|-|>")
    ax.text(8.6, 3.3, "a critic's", fontsize=11.5, va="center", color=VERMILION)
    ax.text(8.6, 2.9, "number", fontsize=11.5, va="center", color=VERMILION)


def annealing(ax: Axes) -> None:
    """Densities stacked from the prior (top) to the posterior (bottom), with a chain each way."""
    rows, mean, std = 6, 1.1, 0.22
    z = np.linspace(-3, 3, 400)
    goal = std**-2
    chain, back = [], []
    noise = np.array([-1.3, 0.7, -0.6, 0.9, -0.5, 0.4])
    other = np.array([1.2, -1.1, 1.0, -0.9, 1.1, -0.8])
    for row in range(rows):
        precision = goal ** (row / (rows - 1))
        beta = (precision - 1) / (goal - 1)
        centre = beta * goal * mean / precision
        density = np.sqrt(precision) * np.exp(-0.5 * precision * (z - centre) ** 2)
        y = 5.2 - row * 0.95
        place = 5.3 + 1.0 * z
        ax.fill_between(place, y, y + 0.68 * density / density.max(), color=GREY, alpha=0.28, linewidth=0)
        ax.plot((place[0], place[-1]), (y, y), color="#bbbbbb", linewidth=0.8)
        ax.text(
            8.5,
            y + 0.12,
            rf"$\beta = {beta:.2f}$" if row not in (0, rows - 1) else (r"$\beta = 0$" if row == 0 else r"$\beta = 1$"),
            fontsize=11,
            color="#555555",
        )
        chain.append((5.3 + 1.0 * (centre + noise[row] / np.sqrt(precision)), y + 0.06))
        back.append((5.3 + 1.0 * (centre + other[row] / np.sqrt(precision)), y + 0.06))
    for points, color in ((chain, GREEN), (back[::-1], ORANGE)):
        for start, end in pairwise(points):
            arrow(ax, start, end, color)
        ax.plot(*zip(*points, strict=True), "o", color=color, markersize=5)
    ax.text(0.4, 5.35, "prior", fontsize=11.5, color=BLACK)
    ax.text(0.4, 0.55, "posterior", fontsize=11.5, color=BLACK)
    ax.text(0.4, 3.4, "forwards:\nlower bound", fontsize=11, color="#00704f", va="center")
    ax.text(0.4, 2.2, "backwards:\nupper bound", fontsize=11, color="#9a6a00", va="center")


def draw() -> Figure:
    """The figure with its two panels."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="none")
    figure.subplots_adjust(left=0.004, right=0.996, bottom=0.01, top=0.99, wspace=0.015)
    panel(left, "Around the truth", "Which side is promised, and which is not. Heights are schematic.")
    ladder(left)
    panel(right, "The annealing path", "From the prior to the posterior in small steps, and back.")
    annealing(right)
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
