"""Draw reparameterization.svg, two ways for a gradient to pass a random node: `python -m figures.reparameterization`.

On the left the code is drawn inside: no derivative passes the draw, and only the value of f comes back, multiplied by the
score. On the right the draw has moved outside: the code is a smooth function of μ, σ and noise, and the chain rule applies.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avb_core.plots import BLACK, BLUE, GREEN, GREY, VERMILION, style
from figures.avb_diagram import arrow, box, panel, variable

TARGET = Path(__file__).with_suffix(".svg")


def gradient(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A step of the backward pass: a dashed arrow."""
    props = {"arrowstyle": "-|>,head_width=0.22,head_length=0.42", "color": VERMILION, "linewidth": 1.6}
    ax.annotate("", end, start, arrowprops={**props, "linestyle": (0, (3, 1.6)), "shrinkA": 0, "shrinkB": 0})


def parts(ax: Axes, node: str) -> None:
    """What both have in common: parameters, their node, the loss."""
    box(ax, 1.45, 3.6, "encoder\n$\\mu_\\phi,\\ \\sigma_\\phi$", BLUE)
    variable(ax, 5.0, 3.6, "$z$", noise=node == "random")
    box(ax, 8.35, 3.6, "loss\n$f(z)$", GREEN)
    arrow(ax, (2.3, 3.75), (4.62, 3.75))
    arrow(ax, (5.38, 3.75), (7.5, 3.75))


def draw() -> Figure:
    """The figure with its two panels."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="none")
    figure.subplots_adjust(left=0.004, right=0.996, bottom=0.01, top=0.99, wspace=0.015)

    panel(left, "Score function", "The draw happens inside the node z. No derivative passes it.")
    parts(left, "random")
    left.text(5.0, 4.35, r"$z \sim \mathcal{N}(\mu, \sigma^2)$", ha="center", fontsize=13, color=BLACK)
    gradient(left, (7.5, 3.4), (5.42, 3.4))
    left.plot([4.22, 4.42], [3.28, 3.52], color=VERMILION, linewidth=2.2)
    left.plot([4.22, 4.42], [3.52, 3.28], color=VERMILION, linewidth=2.2)
    arrow(left, (8.35, 3.12), (8.35, 1.75), (1.45, 1.75), (1.45, 3.12), color=GREY)
    left.text(4.9, 1.9, r"the value $f(z)$, a number", ha="center", fontsize=10.5, color="#555555")
    left.text(4.9, 1.3, "one sample's estimate", ha="center", fontsize=10.5, color="#555555")
    left.text(4.9, 0.85, r"$f(z)\ \nabla_\phi \log q_\phi(z)$", ha="center", va="center", fontsize=15, color=BLACK)

    panel(right, "Reparameterization", "The draw happens outside. z is a smooth function of μ and σ.")
    parts(right, "function")
    variable(right, 5.0, 5.5, r"$\epsilon$", noise=True)
    arrow(right, (5.0, 5.14), (5.0, 3.98), color=GREY)
    right.text(5.5, 5.5, r"$\epsilon \sim \mathcal{N}(0, 1)$", va="center", fontsize=13, color=BLACK)
    right.text(5.0, 2.95, r"$z = \mu + \sigma\,\epsilon$", ha="center", va="center", fontsize=13, color=BLACK)
    gradient(right, (7.5, 3.4), (5.42, 3.4))
    gradient(right, (4.58, 3.4), (2.34, 3.4))
    right.text(3.45, 2.95, r"$\partial z/\partial \phi$", ha="center", va="center", fontsize=12, color=VERMILION)
    right.text(6.5, 2.95, r"$\nabla f(z)$", ha="center", va="center", fontsize=12, color=VERMILION)
    right.text(4.9, 1.3, "one sample's estimate", ha="center", fontsize=10.5, color="#555555")
    right.text(
        4.9,
        0.85,
        r"$(\partial z / \partial \phi)^{\top}\, \nabla f(z)$",
        ha="center",
        va="center",
        fontsize=15,
        color=BLACK,
    )
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
