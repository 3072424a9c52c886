"""Draw avb_diagram.svg, the VAE beside AVB: `python -m figures.avb_diagram`.

On the left the encoder outputs the two parameters of a Gaussian, whose KL to the prior is a formula. On the right noise goes
through the encoder, so that the posterior may have any shape; its density is unknown, and a critic learns the log ratio.
"""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from avb_core.plots import BLACK, BLUE, GREEN, GREY, ORANGE, style

TARGET = Path(__file__).with_suffix(".svg")
POSTERIOR = LinearSegmentedColormap.from_list("posterior", ["#ffffff", "#cfe3f1", "#7fb5d9", BLUE])


def box(
    ax: Axes, x: float, y: float, text: str, color: str, width: float = 1.7, height: float = 0.95, size: float = 11
) -> None:
    """A network, or a loss: a rounded box around its name."""
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.16",
        facecolor=color + "22",
        edgecolor=color,
        linewidth=1.6,
    )
    ax.add_patch(shape)
    ax.text(x, y, text, ha="center", va="center_baseline", fontsize=size, color=BLACK, linespacing=1.35)


def variable(ax: Axes, x: float, y: float, text: str, noise: bool = False) -> None:
    """A random variable: a circle, dashed where it is noise."""
    edge, line = (GREY, (0, (2.5, 1.8))) if noise else (BLACK, "solid")
    ax.add_patch(Circle((x, y), 0.36, facecolor="white", edgecolor=edge, linewidth=1.4, linestyle=line))
    ax.text(x, y, text, ha="center", va="center_baseline", fontsize=13, color=BLACK)


def arrow(ax: Axes, *points: tuple[float, float], color: str = BLACK) -> None:
    """A line through `points` with its head at the last."""
    for start, end in itertools.pairwise(points[:-1]):
        ax.plot(*zip(start, end, strict=True), color=color, linewidth=1.3, solid_capstyle="round")
    props = {"arrowstyle": "-|>,head_width=0.22,head_length=0.42", "color": color, "linewidth": 1.3}
    ax.annotate("", points[-1], points[-2], arrowprops={**props, "shrinkA": 0, "shrinkB": 0})


def density(ax: Axes, x: float, y: float, log_density: np.ndarray, half: float = 0.85) -> None:
    """A small map of a posterior over a two-dimensional z."""
    levels = np.exp(-np.array([4.5, 3.2, 2.1, 1.2, 0.5, 0.0])) * np.exp(log_density.max())
    grid = np.linspace(-half, half, len(log_density))
    ax.contourf(grid + x, grid + y, np.exp(log_density), levels=levels, cmap=POSTERIOR, extend="max", zorder=1)
    frame = FancyBboxPatch((x - half, y - half), 2 * half, 2 * half, boxstyle="round,pad=0,rounding_size=0.12")
    frame.set(facecolor="none", edgecolor=GREY, linewidth=0.9)
    ax.add_patch(frame)
    ax.text(x, y - half - 0.1, r"$q_\phi(z\,|\,x)$", ha="center", va="top", fontsize=12, color=BLUE)


def gaussian_posterior(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return -0.5 * (((u - 0.1) / 0.58) ** 2 + ((v + 0.1) / 0.36) ** 2)


def curved_posterior(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A crescent and a separate mode, beyond any single Gaussian."""
    crescent = -0.5 * (((v + 1.05 - 0.95 * u**2) / 0.2) ** 2 + (u / 0.6) ** 2)
    mode = -0.5 * ((u / 0.24) ** 2 + ((v - 0.95) / 0.24) ** 2)
    return np.logaddexp(crescent, mode)


def panel(ax: Axes, title: str, subtitle: str) -> None:
    ax.set(xlim=(0, 10), ylim=(0, 7.4), aspect="equal")
    ax.set_axis_off()
    back = FancyBboxPatch((0.05, 0.05), 9.9, 7.3, boxstyle="round,pad=0,rounding_size=0.25")
    back.set(facecolor="#fafafa", edgecolor="#dddddd", linewidth=1)
    ax.add_patch(back)
    ax.text(0.45, 6.85, title, fontsize=14, weight="bold", color=BLACK, va="center")
    ax.text(0.45, 6.38, subtitle, fontsize=10.5, color="#555555", va="center")


def spine(ax: Axes, encoder: str) -> None:
    """What both have in common: image, encoder, posterior, decoder, image."""
    variable(ax, 0.85, 2.6, "$x$")
    box(ax, 2.6, 2.6, encoder, BLUE)
    box(ax, 7.35, 2.6, "decoder\n$p_\\theta(x\\,|\\,z)$", GREEN)
    variable(ax, 9.15, 2.6, r"$\hat x$")
    arrow(ax, (1.21, 2.6), (1.75, 2.6))
    arrow(ax, (3.45, 2.6), (4.15, 2.6))
    arrow(ax, (5.85, 2.6), (6.5, 2.6))
    arrow(ax, (8.2, 2.6), (8.79, 2.6))
    ax.text(6.04, 2.74, "$z$", ha="center", fontsize=12.5)
    variable(ax, 7.35, 0.8, r"$\epsilon_2$", noise=True)
    arrow(ax, (7.35, 1.16), (7.35, 2.12), color=GREY)


def draw() -> Figure:
    """The figure with its two panels."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="none")
    figure.subplots_adjust(left=0.004, right=0.996, bottom=0.01, top=0.99, wspace=0.015)
    u, v = np.meshgrid(np.linspace(-2, 2, 81), np.linspace(-2, 2, 81))

    panel(left, "Variational autoencoder", "The posterior is a Gaussian: its density is a formula, its shape is fixed.")
    spine(left, "encoder\n$\\mu_\\phi(x),\\ \\sigma_\\phi(x)$")
    density(left, 5.0, 2.6, gaussian_posterior(u, v))
    variable(left, 3.8, 0.8, r"$\epsilon_1$", noise=True)
    arrow(left, (3.8, 1.16), (3.8, 2.58), color=GREY)
    left.text(3.3, 0.8, r"$z=\mu+\sigma\,\epsilon_1$", ha="right", va="center", fontsize=12)
    box(left, 5.0, 5.0, r"$\mathrm{KL}(q_\phi(z\,|\,x)\;\|\;p(z))$" + "\nin closed form", GREY, width=3.6, height=1.1)
    arrow(left, (2.6, 3.08), (2.6, 5.0), (3.2, 5.0))

    panel(
        right,
        "Adversarial Variational Bayes",
        "The posterior is whatever noise and network produce; a critic judges it.",
    )
    spine(right, "encoder\n$z_\\phi(x,\\,\\epsilon_1)$")
    density(right, 5.0, 2.6, curved_posterior(u, v))
    variable(right, 2.6, 0.8, r"$\epsilon_1$", noise=True)
    arrow(right, (2.6, 1.16), (2.6, 2.12), color=GREY)
    box(right, 4.2, 5.0, "critic\n$T_\\psi(x,\\,z)$", ORANGE, height=1.1)
    arrow(right, (0.85, 2.96), (0.85, 5.0), (3.35, 5.0))
    arrow(right, (6.17, 2.6), (6.17, 4.05), (4.6, 4.05), (4.6, 4.45))
    variable(right, 2.6, 4.05, "$z$", noise=True)
    right.text(2.1, 4.05, "prior", ha="right", va="center", fontsize=10.5, color="#555555")
    arrow(right, (2.96, 4.05), (3.8, 4.05), (3.8, 4.45), color=GREY)
    arrow(right, (5.05, 5.0), (5.75, 5.0))
    right.text(5.9, 5.0, r"$\log q_\phi(z\,|\,x)-\log p(z)$", va="center", fontsize=13)
    right.text(5.9, 4.55, "at its optimum", va="center", fontsize=10, color="#555555")
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
