"""Draw discretized_logistic.svg, how a density becomes probabilities of levels: `python -m figures.discretized_logistic`.

On the left a logistic density over 16 levels, cut into their cells; on the right the probabilities, exactly the cells' masses,
with what lies beyond the outermost edges counted to the lowest and the highest level.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from avb_core.plots import BLACK, BLUE, GREY, ORANGE, style

TARGET = Path(__file__).with_suffix(".svg")
LEVELS, CENTRE, SCALE = 16, 2.6, 1.7


def cumulative(t: np.ndarray) -> np.ndarray:
    """The logistic law's, in levels."""
    return 1 / (1 + np.exp(-(t - CENTRE) / SCALE))


def draw() -> Figure:
    """The figure with its two panels."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 3.6), layout="none")
    figure.subplots_adjust(left=0.03, right=0.98, bottom=0.16, top=0.97, wspace=0.1)

    edges = np.concatenate([[-7.0], np.arange(LEVELS - 1) + 0.5, [18.0]])
    probability = np.diff(np.concatenate([[0.0], cumulative(edges[1:-1]), [1.0]]))
    for level in range(LEVELS):
        t = np.linspace(edges[level], edges[level + 1], 60)
        share = cumulative(t)
        density = share * (1 - share) / SCALE
        outer = level in (0, LEVELS - 1)
        left.fill_between(t, 0, density, color=ORANGE if outer else BLUE, alpha=0.28 if level % 2 else 0.5, lw=0)
        left.plot(t, density, color=BLACK, lw=1.4)
        right.bar(level, probability[level], width=0.86, color=ORANGE if outer else BLUE)
    for edge in edges[1:-1]:
        left.plot((edge, edge), (0, cumulative(edge) * (1 - cumulative(edge)) / SCALE), color=GREY, lw=0.7)
    left.text(-6.8, 0.125, "all of this\nis level 0", fontsize=12, color=BLACK)
    left.text(9.2, 0.125, "a logistic density,\ncut at half levels", fontsize=12, color=BLACK)
    right.text(5.6, 0.2, r"$P(\ell) = F(\ell) - F(\ell - 1)$", fontsize=15, color=BLACK)
    right.text(5.6, 0.165, "16 probabilities that sum to 1", fontsize=12, color=BLACK)
    for ax in (left, right):
        ax.set(xticks=(0, 5, 10, 15), yticks=())
        ax.set_xlabel(r"level $\ell$", fontsize=12)
        ax.grid(visible=False)
        ax.spines["left"].set_visible(False)
    left.set(xlim=(-7.2, 18.2), ylim=(0, 0.165))
    right.set(xlim=(-1, 16))
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
