"""Draw eight_schools_diagram.svg, one model in two sets of coordinates: `python -m figures.eight_schools_diagram`.

On the left the schools' effects hang on mean and spread, which makes a funnel of their posterior. On the right all randomness
sits in codes that are independent under the prior, and the parameters are computed from them.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from avb_core.plots import BLACK, BLUE, GREEN, GREY, ORANGE, style

TARGET = Path(__file__).with_suffix(".svg")
RADIUS = 0.36


def node(ax: Axes, x: float, y: float, label: str, kind: str) -> None:
    """A circle: random (orange), computed from others (dashed, green) or observed (filled, blue)."""
    color = {"random": ORANGE, "computed": GREEN, "observed": BLUE}[kind]
    fill = color + ("66" if kind == "observed" else "22")
    line = (0, (4, 2)) if kind == "computed" else "-"
    ax.add_patch(Circle((x, y), RADIUS, facecolor=fill, edgecolor=color, linewidth=1.8, linestyle=line, zorder=2))
    ax.text(x, y, label, ha="center", va="center", fontsize=14, color=BLACK, zorder=3)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow between the rims of two nodes."""
    shrink = RADIUS * 72 * 0.86
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=14, shrinkA=shrink, shrinkB=shrink, color=BLACK, linewidth=1.2
        )
    )


def plate(ax: Axes, x: float, bottom: float, width: float, height: float) -> None:
    """The box of what is repeated for every school."""
    ax.add_patch(
        FancyBboxPatch(
            (x, bottom), width, height, boxstyle="round,pad=0.02,rounding_size=0.12", fill=False, edgecolor=GREY
        )
    )
    ax.text(x + 0.1, bottom + 0.09, r"school $j = 1, \ldots, 8$", ha="left", fontsize=10.5, color="#555555")


def draw() -> Figure:
    """The figure with its two panels."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="none")
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.99, wspace=0.0)
    for ax in (left, right):
        ax.set(xlim=(-0.3, 6.1), ylim=(-0.35, 4.95), aspect="equal")
        ax.set_axis_off()

    left.text(-0.2, 4.65, "Centred: the parameters", fontsize=14, weight="bold", color=BLACK)
    node(left, 1.0, 3.7, r"$\mu$", "random")
    node(left, 3.0, 3.7, r"$\log\tau$", "random")
    node(left, 2.0, 2.1, r"$\theta_j$", "random")
    node(left, 2.0, 0.75, r"$y_j$", "observed")
    for start, end in (((1.0, 3.7), (2.0, 2.1)), ((3.0, 3.7), (2.0, 2.1)), ((2.0, 2.1), (2.0, 0.75))):
        arrow(left, start, end)
    plate(left, 0.9, -0.1, 4.6, 2.7)
    left.text(2.55, 2.1, r"$\theta_j \sim N(\mu, \tau^2)$", va="center", fontsize=12.5)
    left.text(2.55, 0.75, r"$y_j \sim N(\theta_j, \sigma_j^2)$", va="center", fontsize=12.5)

    right.text(-0.2, 4.65, "Non-centred: the codes", fontsize=14, weight="bold", color=BLACK)
    node(right, 0.4, 3.7, r"$z_1$", "random")
    node(right, 1.7, 3.7, r"$z_2$", "random")
    node(right, 5.2, 2.1, r"$z_{j+2}$", "random")
    node(right, 2.0, 2.1, r"$\theta_j$", "computed")
    node(right, 2.0, 0.75, r"$y_j$", "observed")
    for start in ((0.4, 3.7), (1.7, 3.7), (5.2, 2.1)):
        arrow(right, start, (2.0, 2.1))
    arrow(right, (2.0, 2.1), (2.0, 0.75))
    plate(right, 1.2, -0.1, 4.6, 2.7)
    right.text(2.35, 3.7, r"all codes $\sim N(0, 1)$", va="center", fontsize=12.5)
    right.text(2.35, 1.6, r"$\theta_j = 5 z_1 + 5 e^{z_2} z_{j+2}$", va="center", fontsize=12.5)
    right.text(2.55, 0.75, r"$y_j \sim N(\theta_j, \sigma_j^2)$", va="center", fontsize=12.5)
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
