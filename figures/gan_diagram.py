"""Draw gan_diagram.svg, the two players of a GAN: `python -m figures.gan_diagram`.

Solid arrows carry data and samples, dashed ones gradients. The generator's gradient goes through the discriminator without
moving it, and the discriminator's own stops there.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from avb_core.plots import BLUE, GREEN, GREY, ORANGE, VERMILION, style
from figures.avb_diagram import arrow, box, variable

TARGET = Path(__file__).with_suffix(".svg")


def gradient(ax: Axes, *points: tuple[float, float], color: str) -> None:
    """A dashed line through `points` with its head at the last."""
    ax.plot(*zip(*points, strict=True), color=color, linewidth=1.5, linestyle=(0, (4, 2.4)))
    props = {"arrowstyle": "-|>,head_width=0.22,head_length=0.42", "color": color, "linewidth": 1.5}
    (x0, y0), (x1, y1) = points[-2:]
    near = (x1 - 0.05 * (x1 - x0), y1 - 0.05 * (y1 - y0))
    ax.annotate("", points[-1], near, arrowprops={**props, "shrinkA": 0, "shrinkB": 0})


def draw() -> Figure:
    """The figure, one panel."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, ax = plt.subplots(figsize=(10, 4.05), layout="none")
    figure.subplots_adjust(left=0.004, right=0.996, bottom=0.01, top=0.99)
    ax.set(xlim=(0, 16.4), ylim=(0.4, 7), aspect="equal")
    ax.set_axis_off()
    back = FancyBboxPatch((0.05, 0.45), 16.3, 6.5, boxstyle="round,pad=0,rounding_size=0.25")
    back.set(facecolor="#fafafa", edgecolor="#dddddd", linewidth=1)
    ax.add_patch(back)

    box(ax, 3.6, 5.0, "data\n$p_D(x)$", GREY, width=2.0, height=1.1)
    variable(ax, 6.0, 5.0, "$x$")
    variable(ax, 1.1, 2.6, "$z$", noise=True)
    box(ax, 3.6, 2.6, "generator\n$G_\\theta(z)$", BLUE, width=2.0, height=1.1)
    variable(ax, 6.0, 2.6, "$x$")
    box(ax, 8.6, 3.8, "discriminator\n$T_\\psi(x)$", ORANGE, width=2.5, height=1.2)
    arrow(ax, (1.46, 2.6), (2.6, 2.6), color=GREY)
    arrow(ax, (4.6, 2.6), (5.64, 2.6))
    arrow(ax, (4.6, 5.0), (5.64, 5.0))
    arrow(ax, (6.36, 5.0), (7.1, 5.0), (7.1, 4.0), (7.35, 4.0))
    arrow(ax, (6.36, 2.6), (7.1, 2.6), (7.1, 3.6), (7.35, 3.6))
    ax.text(1.1, 1.98, "noise", ha="center", va="top", fontsize=10.5, color="#555555")
    ax.text(6.0, 5.55, "real", ha="center", fontsize=10.5, color="#555555")
    ax.text(6.0, 1.98, "sample", ha="center", va="top", fontsize=10.5, color="#555555")

    box(ax, 13.4, 5.0, "discriminator's objective $J$\n(climbed)", GREEN, width=4.7, height=1.1)
    box(ax, 13.4, 2.6, "generator's loss $\\ell(T)$\n(descended, on samples)", VERMILION, width=4.7, height=1.1)
    arrow(ax, (9.85, 4.0), (10.5, 4.0), (10.5, 5.0), (11.05, 5.0))
    arrow(ax, (9.85, 3.6), (10.5, 3.6), (10.5, 2.6), (11.05, 2.6))

    gradient(ax, (13.4, 5.55), (13.4, 6.3), (8.6, 6.3), (8.6, 4.4), color=GREEN)
    ax.text(8.85, 6.5, r"gradient in $\psi$: moves the discriminator only", fontsize=10.5, color=GREEN)
    gradient(ax, (13.4, 2.05), (13.4, 1.5), (9.0, 1.5), (9.0, 3.2), color=VERMILION)
    gradient(ax, (8.2, 3.2), (8.2, 1.5), (3.6, 1.5), (3.6, 2.05), color=VERMILION)
    ax.text(
        8.6,
        0.85,
        r"gradient in $\theta$: through the discriminator and the sample, moves the generator only",
        ha="center",
        fontsize=10.5,
        color=VERMILION,
    )
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
