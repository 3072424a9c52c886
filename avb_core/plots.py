"""One visual style for the book: call `style()` once at a chapter's top, then draw with Matplotlib as usual."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart under every common colour blindness; in this order neighbours differ in lightness too.
BLUE, ORANGE, GREEN, PINK, SKY, VERMILION, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#222222",
)
PALETTE = (BLUE, ORANGE, GREEN, PINK, SKY, VERMILION)
SEQUENTIAL = "cividis"  # for densities and other fields
GREY = "#888888"  # for references: truths, bounds, published numbers


def style() -> None:
    """Set Matplotlib's defaults to the book's: colour-blind-safe cycle, light grid, fixed SVG hashes."""
    plt.rcParams.update(
        {
            "figure.figsize": (7.0, 3.2),
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "axes.prop_cycle": cycler(color=PALETTE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,  # below everything: a line through a cloud of points, or over a bar, is no part of it
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "grid.color": "#e6e6e6",
            "grid.linewidth": 0.8,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "image.cmap": "gray_r",
            "svg.hashsalt": "avb",
        }
    )


def image_grid(
    images: np.ndarray, shape: tuple[int, int], columns: int, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw flat images (n, pixels) as a grid of `columns`, each `shape` (height, width), values in [0, 1]."""
    images = np.asarray(images, dtype=float)
    height, width = shape
    if images.ndim != 2 or images.shape[1] != height * width:
        raise ValueError(f"images: expected shape (n, {height * width}), got {images.shape}")
    rows = -(-len(images) // columns)
    canvas = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), 0.15)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        canvas[top : top + height, left : left + width] = image.reshape(height, width)
    ax = plt.gca() if ax is None else ax
    ax.imshow(canvas, vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    if title:
        ax.set_title(title)
    return ax


def panels(
    columns: int, rows: int = 1, *, width: float = 7.0, height: float = 3.0, **subplots: Any
) -> tuple[Figure, Sequence[Axes]]:
    """A figure with a row-major sequence of axes in the book's width (inches)."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height * rows), squeeze=False, **subplots)
    return figure, list(axes.flat)
