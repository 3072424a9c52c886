"""Draw relatives.svg, what each relative of AVB compares or must know: `python -m figures.relatives`.

Above, a box for each critic with the encoder's side on its left and the other side on its right; an arrow says which was drawn
from which. Below, the posteriors that need no critic, with what they know of their density.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from avb_core.plots import BLACK, BLUE, GREEN, GREY, ORANGE, style
from figures.two_adversaries import side

TARGET = Path(__file__).with_suffix(".svg")

# Name, the encoder's side and its law, the other side and its law, what the model then ascends.
CRITICS = (
    ("AAE", "$z$", "$q(z)$", "$z$", "$p(z)$", r"$\mathcal{L}+I_q(X;Z)$"),
    ("AVB", r"$x\;\rightarrow\;z$", "$p_D(x)\\,q(z\\,|\\,x)$", r"$x\quad\;z$", "$p_D(x)\\,p(z)$", r"$\mathcal{L}$"),
    (
        "BiGAN / ALI",
        r"$x\;\rightarrow\;z$",
        "$p_D(x)\\,q(z\\,|\\,x)$",
        r"$z\;\rightarrow\;x$",
        "$p(z)\\,p(x\\,|\\,z)$",
        r"$-$JSD of the two",
    ),
)
# Name, how a code is made, what is known of its density, what the model then ascends.
DENSITIES = (
    ("Gaussian, flow", r"$z=f_x(\epsilon)$", r"$\log q(z\,|\,x)$, exactly", r"$\mathcal{L}$"),
    (
        "auxiliary,\nsemi-implicit",
        r"$x\;\rightarrow\;a\;\rightarrow\;z$",
        r"$\hat q$ with E$\,[1/\hat q\,|\,z]=1/q(z\,|\,x)$",
        r"a bound below $\mathcal{L}$",
    ),
)


def box(ax: Axes, x: float, y: float, width: float, text: str, color: str) -> None:
    """A rounded box around its text."""
    shape = FancyBboxPatch((x - width / 2, y - 0.33), width, 0.66, boxstyle="round,pad=0,rounding_size=0.14")
    shape.set(facecolor=color + "22", edgecolor=color, linewidth=1.6)
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center_baseline", fontsize=12, color=BLACK)


def draw() -> Figure:
    """Three rows with a critic, two without."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, ax = plt.subplots(figsize=(11.5, 5.6), layout="none")
    figure.subplots_adjust(left=0.004, right=0.996, bottom=0.01, top=0.99)
    ax.set(xlim=(0, 12.6), ylim=(0.1, 6.3))
    ax.set_axis_off()
    for x, text in ((4.0, "from the encoder"), (8.0, "against"), (11.0, "the model ascends")):
        ax.text(x, 6.0, text, ha="center", va="center", fontsize=11.5, color=GREY)
    for row, (name, left, of_left, right, of_right, goal) in enumerate(CRITICS):
        y = 5.25 - 1.1 * row
        ax.text(0.2, y, name, va="center", fontsize=13, weight="bold", color=BLACK)
        side(ax, 4.0, y, left, of_left, BLUE)
        box(ax, 6.0, y, 1.1, "critic", ORANGE)
        side(ax, 8.0, y, right, of_right, GREEN)
        ax.text(11.0, y, goal, ha="center", va="center", fontsize=13, color=BLACK)
    ax.plot((0.2, 12.4), (2.35, 2.35), color="#dddddd", linewidth=1)
    ax.text(6.9, 2.12, "no critic: what is known of the density", ha="center", va="center", fontsize=11.5, color=GREY)
    for row, (name, made, known, goal) in enumerate(DENSITIES):
        y = 1.6 - 1.0 * row
        ax.text(0.2, y, name, va="center", fontsize=13, weight="bold", color=BLACK)
        ax.text(4.0, y, made, ha="center", va="center", fontsize=14, color=BLUE)
        box(ax, 7.0, y, 3.6, known, GREY)
        ax.text(11.0, y, goal, ha="center", va="center", fontsize=13, color=BLACK)
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
