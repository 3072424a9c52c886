"""Draw iwlb_diagram.svg, the ladder of bounds beside resampling: `python -m figures.iwlb_diagram`.

On the left the gaps of L_k for a Gaussian proposal that is one standard deviation off, to scale. On the right six codes of a
proposal, with their weights as discs, and the law of the code that is picked in proportion to the weights.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avb_core.plots import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, style
from figures.avb_diagram import panel as framed_panel

TARGET = Path(__file__).with_suffix(".svg")
# Posterior N(0, 1), proposal N(1, 1): log p(x) − L_k, exact (the chapter's `gap_exact`).
GAPS = {1: 0.5, 2: 0.2905, 5: 0.1355, 10: 0.0737, 100: 0.0084}
CODES = np.array([-1.35, -0.5, 0.25, 0.85, 1.5, 2.45])
SHIFT = 1.3


def normal(z: np.ndarray, mean: float = 0.0, std: float = 1.0) -> np.ndarray:
    return np.exp(-0.5 * ((z - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str, style: str = "-|>") -> None:
    props = {"arrowstyle": f"{style},head_width=0.2,head_length=0.38", "color": color, "linewidth": 1.3}
    ax.annotate("", end, start, arrowprops={**props, "shrinkA": 0, "shrinkB": 0})


def panel(ax: Axes, title: str, subtitle: str) -> None:
    """The book's panel, stretched to its axes."""
    framed_panel(ax, title, subtitle)
    ax.set_aspect("auto")


def ladder(ax: Axes) -> None:
    """Rungs at their true heights: one unit of the axis is a tenth of a nat."""
    top = 5.65
    ax.plot((2.3, 7.2), (top, top), color=GREY, linestyle="--", linewidth=1.6)
    ax.text(7.35, top, r"$\log p_\theta(x)$", fontsize=13, va="center", color=BLACK)
    for x in (2.9, 6.6):
        ax.plot((x, x), (0.35, top), color="#cccccc", linewidth=3, solid_capstyle="round", zorder=1)
    names = {1: r"$\mathcal{L}_1$ = ELBO", 2: r"$\mathcal{L}_2$", 5: r"$\mathcal{L}_5$", 10: r"$\mathcal{L}_{10}$"}
    for k, gap in GAPS.items():
        y = top - 9.6 * gap
        color = ORANGE if k == 1 else BLUE
        ax.plot((2.75, 6.75), (y, y), color=color, linewidth=3.2, solid_capstyle="round", zorder=2)
        if k in names:
            ax.text(2.45, y, names[k], fontsize=12.5, va="center", ha="right", color=BLACK)
    ax.text(2.45, top - 0.12, r"$\mathcal{L}_{100}$", fontsize=12.5, va="center", ha="right", color=BLACK)
    arrow(ax, (4.0, top - 9.6 * GAPS[1]), (4.0, top), VERMILION, "<|-|>")
    ax.text(4.12, 1.95, r"$\mathrm{KL}(q\,\|\,$posterior$)$", fontsize=11, va="center", color=BLACK)
    arrow(ax, (7.6, top - 9.6 * GAPS[10]), (7.6, top - 0.28), VERMILION, "<|-|>")
    ax.text(7.8, top - 0.62, r"$\approx\chi^2/(2k)$", fontsize=11.5, va="center", color=BLACK)


def resampling(ax: Axes) -> None:
    """Densities on top; codes and weights below; one code picked."""
    z = np.linspace(-4, 5, 400)

    def place(value: Any) -> Any:  # a number or an array, as NumPy has it
        return 1.1 + 0.86 * (value + 4)

    base, height = 3.75, 4.6
    posterior, proposal = normal(z), normal(z, SHIFT, 1.15)
    picked = resampled_law(z)
    ax.fill_between(place(z), base, base + height * posterior, color=GREY, alpha=0.3, linewidth=0)
    ax.plot(place(z), base + height * proposal, color=BLUE, linewidth=1.8)
    ax.plot(place(z), base + height * picked, color=ORANGE, linewidth=1.8)
    ax.plot((place(z)[0], place(z)[-1]), (base, base), color=BLACK, linewidth=0.8)
    ax.text(place(-1.3), 5.25, "posterior", ha="right", fontsize=11, color="#555555")
    ax.text(place(2.3), 5.2, "proposal $q$", fontsize=11, color=BLUE)
    ax.annotate(
        "picked code: $q_6$",
        (place(1.02), base + height * np.interp(1.02, z, picked)),
        (place(1.9), 5.85),
        fontsize=11,
        color="#9a6a00",
        va="center",
        arrowprops={"arrowstyle": "-", "color": ORANGE, "linewidth": 1},
    )
    weights = normal(CODES) / normal(CODES, SHIFT, 1.15)
    weights /= weights.sum()
    ax.text(0.4, 2.95, "draw $k$", fontsize=11, va="center", color=BLUE)
    ax.text(0.4, 2.05, "weigh", fontsize=11, va="center", color=GREEN)
    ax.text(0.4, 0.75, "pick one", fontsize=11, va="center", color="#9a6a00")
    chosen = 1
    for index, (code, weight) in enumerate(zip(CODES, weights, strict=True)):
        x = place(code)
        ax.plot((x, x), (base, 3.05), color=BLUE, linewidth=1, linestyle=":")
        ax.plot(x, 2.95, "o", color=BLUE, markersize=5)
        ax.plot(x, 2.05, "o", color=GREEN, markersize=46 * np.sqrt(weight), alpha=0.85, markeredgewidth=0)
        if index == chosen:
            arrow(ax, (x, 1.45), (x, 0.98), ORANGE)
            ax.plot(x, 0.75, "o", color=ORANGE, markersize=8)
            ax.text(x + 0.3, 0.75, r"$z_J,\ P(J=j)\propto w_j$", fontsize=12, va="center", color=BLACK)


def resampled_law(z: np.ndarray, k: int = 6) -> np.ndarray:
    """The density of the code picked from k: posterior · k ∫ exp(−s r(z)) M(s)^(k−1) ds."""
    cells = z[1] - z[0]
    q, r = normal(z, SHIFT, 1.15), normal(z) / normal(z, SHIFT, 1.15)
    u = np.linspace(-30, 30, 600)
    decay = np.exp(-np.exp(u)[:, None] * r)
    transform = decay @ (q * cells)
    inverse = (k * np.exp(u) * (u[1] - u[0]) * transform ** (k - 1)) @ decay
    return q * r * inverse


def draw() -> Figure:
    """The figure with its two panels."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="none")
    figure.subplots_adjust(left=0.004, right=0.996, bottom=0.01, top=0.99, wspace=0.015)
    panel(left, "A ladder of lower bounds", "More samples inside the logarithm, a higher rung. To scale.")
    ladder(left)
    panel(
        right, "What the weights are good for", "Pick a code in proportion to its weight: its law nears the posterior."
    )
    resampling(right)
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
