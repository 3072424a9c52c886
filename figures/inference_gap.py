"""Draw inference_gap.svg, what stands between the ELBO and log p(x): `python -m figures.inference_gap`.

Stacked bars on the scale of nats: the ELBO of the encoder, the amortization gap up to the best member of the family, the
approximation gap up to log p(x). Beside the first bar three others show which of the two gaps a remedy closes.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avb_core.plots import BLACK, BLUE, GREEN, GREY, ORANGE, style

TARGET = Path(__file__).with_suffix(".svg")
TOP, BEST, REACHED, FLOOR = 8.0, 6.2, 4.9, 0.0
WIDTH = 1.5


def bar(ax: Axes, x: float, reached: float, best: float, title: str) -> None:
    """One bar up to log p(x): ELBO, amortization gap, approximation gap."""
    for low, high, color in ((FLOOR, reached, BLUE), (reached, best, ORANGE), (best, TOP, GREEN)):
        if high > low:
            ax.bar(x, high - low, WIDTH, bottom=low, color=color + "55", edgecolor=color, linewidth=1.4)
    ax.text(x, -0.3, title, ha="center", va="top", fontsize=11, color=BLACK, linespacing=1.3)


def level(ax: Axes, y: float, text: str) -> None:
    """A dashed level with its formula at the left."""
    ax.plot([-0.3, 1.0], [y, y], color=GREY, linewidth=1.1, linestyle=(0, (4, 2)), zorder=0)
    ax.text(-0.4, y, text, ha="right", va="center", fontsize=12.5, color=BLACK)


def draw() -> Figure:
    """The figure with its four bars."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, ax = plt.subplots(figsize=(11, 4.3), layout="none")
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.99)
    ax.set(xlim=(-3.3, 12.0), ylim=(-1.75, 8.7))
    ax.set_axis_off()
    ax.plot([-0.3, 11.6], [TOP, TOP], color=GREY, linewidth=1.1, linestyle=(0, (4, 2)), zorder=0)

    level(ax, TOP, r"$\log\,p_\theta(x)$")
    level(ax, BEST, r"$\max_{q\in\mathcal{Q}}\;\mathcal{L}(q;\,x)$")
    level(ax, REACHED, r"$\mathcal{L}(q_\phi(\cdot\,|\,x);\,x)$")
    bar(ax, 1.7, REACHED, BEST, "family $\\mathcal{Q}$,\nencoder $q_\\phi$")
    bar(ax, 5.9, 5.9, BEST, "same family,\nbetter encoder")
    bar(ax, 8.4, BEST, BEST, "same family, each\nimage optimized")
    bar(ax, 10.9, 5.7, 7.5, "richer family,\nencoder")
    for low, high, text in ((BEST, TOP, "approximation gap"), (REACHED, BEST, "amortization gap")):
        ax.text(2.6, (low + high) / 2, text, va="center", fontsize=11.5, color=BLACK)
    ax.text(1.7, REACHED / 2, "ELBO", ha="center", va="center", fontsize=12, color=BLACK)
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
