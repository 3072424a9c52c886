"""Draw notation_axes.svg, the axes of the book's tensors: `python -m figures.notation_axes`.

From a batch of images to one number: images go downwards, the entries of a vector to the right, importance samples backwards.
Every arrow is a function, in the colour of the axis that it makes or sums away. Sizes are those of the chapter's example.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from avb_core.plots import BLACK, BLUE, GREEN, ORANGE, VERMILION, style
from figures.avb_diagram import arrow

TARGET = Path(__file__).with_suffix(".svg")
CELL = 0.42
DEPTH = (0.17, 0.17)  # from one importance sample to the next
MIDDLE = 2.05


def block(ax: Axes, x: float, rows: int, columns: int, layers: int = 1, color: str = BLUE) -> tuple[float, float]:
    """A tensor from x on, centred in height: layers behind each other, of rows and columns. Its right edge and its top."""
    low = MIDDLE - 0.5 * (rows * CELL + (layers - 1) * DEPTH[1])
    for layer in reversed(range(layers)):
        for row in range(rows):
            for column in range(columns):
                corner = (x + column * CELL + layer * DEPTH[0], low + row * CELL + layer * DEPTH[1])
                ax.add_patch(
                    Rectangle(corner, CELL, CELL, facecolor="white", edgecolor="none", zorder=2 + layers - layer)
                )
                cell = Rectangle(corner, CELL, CELL, facecolor=color + "2e", edgecolor=color, linewidth=1)
                cell.set_zorder(2 + layers - layer)
                ax.add_patch(cell)
    return x + columns * CELL + (layers - 1) * DEPTH[0], low + rows * CELL + (layers - 1) * DEPTH[1]


def named(ax: Axes, x: float, name: str, shape: str) -> None:
    """What the tensor is called, and its axes."""
    ax.text(x, 0.62, name, ha="center", va="center", fontsize=12.5, color=BLACK)
    ax.text(x, 0.2, shape, ha="center", va="center", fontsize=10, color="#555555", family="monospace")


def step(ax: Axes, start: float, end: float, name: str, what: str, color: str) -> None:
    """A function as an arrow: its name above, what it does to the axes below."""
    arrow(ax, (start, MIDDLE), (end, MIDDLE), color=color)
    middle = 0.5 * (start + end)
    ax.text(middle, MIDDLE + 0.17, name, ha="center", va="bottom", fontsize=10, color=BLACK, linespacing=1.3)
    ax.text(middle, MIDDLE - 0.17, what, ha="center", va="top", fontsize=10, color=color, linespacing=1.3)


def draw(images: int = 3, pixels: int = 4, latents: int = 2, samples: int = 5) -> Figure:
    """The figure, one row."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, ax = plt.subplots(figsize=(12, 3.0), layout="none")
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
    ax.set(xlim=(0, 14.2), ylim=(0, 3.55), aspect="equal")
    ax.set_axis_off()

    right, top = block(ax, 0.75, images, pixels)
    named(ax, 1.6, "$x$", "batch, n")
    ax.text(0.6, MIDDLE, "images", rotation=90, ha="center", va="center", fontsize=10, color=BLUE)
    ax.text(1.6, top + 0.12, "pixels", ha="center", va="bottom", fontsize=10, color=GREEN)

    step(ax, right + 0.15, 4.35, "posterior\n.sample", "adds an axis\nin front", ORANGE)
    right, top = block(ax, 4.5, images, latents, samples)
    named(ax, 5.25, "$z$", "k, batch, d")
    ax.text(4.5 + 2 * CELL - 0.12, top + 0.12, "latent variables", ha="center", va="bottom", fontsize=10, color=GREEN)
    ax.text(5.62, 1.03, "samples", rotation=45, ha="center", va="center", fontsize=10, color=ORANGE)

    step(ax, right + 0.15, 8.2, "log_prob", "sums the\nlast axis", GREEN)
    right, top = block(ax, 8.35, images, 1, samples)
    named(ax, 8.9, "log_weights", "k, batch")

    step(ax, right + 0.15, 11.05, "elbo, iwlb", "reduces the\nfirst axis", ORANGE)
    right, top = block(ax, 11.2, images, 1)
    named(ax, 11.41, r"$\mathcal{L}(x),\ \mathcal{L}_k(x)$", "batch")

    step(ax, right + 0.15, 13.05, "mean", "averages\nthe images", BLUE)
    block(ax, 13.2, 1, 1, color=VERMILION)
    named(ax, 13.41, "loss", "()")
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
