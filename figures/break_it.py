"""Draw break_it.svg, the places of fourteen bugs in the data flow of AVB: `python -m figures.break_it`.

Black arrows carry values and gradients; the dashed one carries values alone, for the critic's loss must not move the encoder.
The numbers are those of the table in the chapter *Break it*.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from avb_core.plots import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, VERMILION, style
from figures.avb_diagram import arrow, box, variable

TARGET = Path(__file__).with_suffix(".svg")


def bug(ax: Axes, x: float, y: float, number: int) -> None:
    """A bug's number, in a disc."""
    ax.add_patch(Circle((x, y), 0.23, facecolor=VERMILION, edgecolor="white", linewidth=1, zorder=5))
    ax.text(x, y, str(number), ha="center", va="center_baseline", fontsize=10, color="white", weight="bold", zorder=6)


def dashed(ax: Axes, *points: tuple[float, float]) -> None:
    """An arrow that carries no gradient."""
    ax.plot(*zip(*points[:-1], strict=True), color=BLACK, linewidth=1.3, linestyle=(0, (3, 2)))
    props = {"arrowstyle": "-|>,head_width=0.22,head_length=0.42", "color": BLACK, "linewidth": 1.3}
    ax.annotate("", points[-1], points[-2], arrowprops={**props, "shrinkA": 0, "shrinkB": 0, "linestyle": (0, (3, 2))})


def draw() -> Figure:
    """The figure."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, ax = plt.subplots(figsize=(10.6, 5.15), layout="none")
    figure.subplots_adjust(left=0.005, right=0.995, bottom=0.01, top=0.99)
    ax.set(xlim=(0.2, 14.6), ylim=(0.1, 7.1), aspect="equal")
    ax.set_axis_off()

    variable(ax, 0.8, 3.6, "$x$")
    variable(ax, 2.9, 1.2, r"$\epsilon$", noise=True)
    box(ax, 2.9, 3.6, "encoder\n$z_\\phi(x,\\,\\epsilon)$", BLUE, width=2.0)
    arrow(ax, (1.16, 3.6), (1.9, 3.6))
    arrow(ax, (2.9, 1.56), (2.9, 3.12), color=GREY)
    variable(ax, 5.4, 3.6, "$z$")
    arrow(ax, (3.9, 3.6), (5.04, 3.6))

    box(ax, 8.0, 5.9, "critic\n$T_\\psi(x,\\,z)$", ORANGE, width=2.0)
    variable(ax, 5.4, 6.5, r"$z_p$", noise=True)
    ax.text(4.95, 6.5, "prior", ha="right", va="center", fontsize=10, color="#555555")
    arrow(ax, (5.76, 6.5), (7.0, 6.2), color=GREY)
    dashed(ax, (5.15, 3.88), (5.15, 5.65), (7.0, 5.65))
    box(
        ax,
        12.4,
        5.9,
        "critic's loss\n" + r"$\varsigma(-T)$ on $z$, $\varsigma(T)$ on $z_p$",
        GREY,
        width=3.9,
        height=1.1,
    )
    arrow(ax, (9.0, 5.9), (10.45, 5.9))

    box(ax, 8.0, 1.6, "decoder\n$p_\\theta(x\\,|\\,z)$", GREEN, width=2.0)
    arrow(ax, (5.65, 3.34), (5.65, 1.6), (7.0, 1.6))
    box(ax, 12.4, 2.5, "model's loss\n" + r"$T(x,z)-\log p_\theta(x\,|\,z)$", GREY, width=3.9, height=1.1)
    arrow(ax, (9.0, 1.6), (9.75, 1.6), (9.75, 2.3), (10.45, 2.3))
    arrow(ax, (5.76, 3.6), (7.75, 3.6), (7.75, 5.42))
    arrow(ax, (8.25, 5.42), (8.25, 2.95), (10.45, 2.95))
    box(ax, 12.4, 0.75, "bounds that are reported", PINK, width=3.9, height=0.8)
    arrow(ax, (12.4, 1.95), (12.4, 1.15), color=GREY)

    for x, y, number in (
        (9.75, 1.95, 1),
        (5.15, 4.8, 2),
        (8.25, 4.5, 3),
        (6.7, 3.6, 4),
        (11.2, 6.72, 5),
        (9.75, 5.9, 6),
        (7.2, 6.62, 7),
        (10.45, 1.08, 8),
        (8.8, 6.62, 9),
        (3.6, 4.32, 10),
        (2.9, 2.3, 11),
        (12.9, 1.15, 12),
        (13.6, 1.15, 13),
        (13.6, 3.32, 14),
    ):
        bug(ax, x, y, number)
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
