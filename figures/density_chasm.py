"""Draw density_chasm.svg, a density chasm and a bridge across it: `python -m figures.density_chasm`.

On the left two densities without common samples, and three critics that separate them equally well. On the right a chain of
densities between the two, of which each overlaps with the next.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avb_core.plots import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, VERMILION, style

TARGET = Path(__file__).with_suffix(".svg")
DISTANCE = 8.0
LINKS = 4


def bell(ax: Axes, mean: float, color: str, name: str) -> None:
    """A density above the axis, and the samples' ticks below it."""
    z = np.linspace(mean - 3.4, mean + 3.4, 200)
    density = 1.6 * np.exp(-0.5 * (z - mean) ** 2)
    ax.fill_between(z, 0, density, color=color, alpha=0.25, lw=0)
    ax.plot(z, density, color=color, lw=1.8)
    ax.text(mean, 1.72, name, ha="center", fontsize=13, color=color)


def ticks(ax: Axes, mean: float, color: str, seed: int) -> None:
    """Samples as short strokes below the axis."""
    samples = mean + np.clip(np.random.default_rng(seed).standard_normal(40), -2.6, 2.6)
    ax.vlines(samples, -0.32, -0.1, color=color, lw=0.9)


def panel(ax: Axes, title: str, subtitle: str) -> None:
    ax.set(xlim=(-4, 12), ylim=(-1.15, 4.6))
    ax.set_axis_off()
    ax.text(-3.9, 4.25, title, fontsize=14, weight="bold", color=BLACK)
    ax.text(-3.9, 3.85, subtitle, fontsize=10.5, color="#555555")
    ax.axhline(0, color=GREY, lw=0.8)


def draw() -> Figure:
    """The figure with its two panels."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.0), layout="none")
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.99, wspace=0.03)

    panel(left, "A chasm", "Every steep critic separates the samples. Which one is right?")
    bell(left, 0, VERMILION, "$p$")
    bell(left, DISTANCE, BLUE, "$q$")
    ticks(left, 0, VERMILION, 1)
    ticks(left, DISTANCE, BLUE, 2)
    z = np.linspace(-3.6, 11.6, 200)
    for slope, place, line, color in ((0.28, 4.3, "-", GREEN), (0.75, 3.8, "--", PINK), (2.4, 4.6, "-.", ORANGE)):
        value = 1.9 + slope * (z - place)
        inside = (value > 0.15) & (value < 3.5)
        left.plot(z[inside], value[inside], ls=line, color=color, lw=1.6)
    left.text(4.0, -0.75, "no samples of either", ha="center", fontsize=10.5, color="#555555")
    left.annotate("", (2.7, -0.35), (5.3, -0.35), arrowprops={"arrowstyle": "<->", "color": GREY})
    left.text(6.05, 3.05, "critics", fontsize=11, color=BLACK)

    panel(right, "A bridge", "Neighbours overlap: each small log ratio can be learned, and they add up.")
    for k in range(LINKS + 1):
        share = k / LINKS
        color = VERMILION if k == 0 else BLUE if k == LINKS else GREY
        names = {0: "$p_0 = p$", LINKS: f"$p_{LINKS} = q$"}
        bell(right, share * DISTANCE, color, names.get(k, f"$p_{k}$"))
        if k:
            start, end = (k - 1) / LINKS * DISTANCE, share * DISTANCE
            right.annotate(
                "",
                (end, 2.12),
                (start, 2.12),
                arrowprops={"arrowstyle": "-|>", "connectionstyle": "arc3,rad=-0.45", "color": GREEN, "lw": 1.5},
            )
            right.text((start + end) / 2, 2.85, f"$T_{k}$", ha="center", fontsize=12, color=GREEN)
    right.text(DISTANCE / 2, -0.75, r"$\log\, q/p \;=\; T_1 + T_2 + T_3 + T_4$", ha="center", fontsize=14, color=BLACK)
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
