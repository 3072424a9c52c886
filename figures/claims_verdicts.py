"""Draw claims_verdicts.svg, how a published number is judged: `python -m figures.claims_verdicts`.

On the left what goes into a verdict; on the right the margin around a published number, with four schematic sets of seeds.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avb_core.plots import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, style
from figures.avb_diagram import arrow, box

TARGET = Path(__file__).with_suffix(".svg")


def sources(ax: Axes) -> None:
    """From the number in the paper and the runs on disk to the row of claims.json."""
    box(ax, 2.0, 4.6, "published number\nclaims.toml", ORANGE, width=3.3, height=1.2)
    box(ax, 6.2, 4.6, "stored runs\nresult.json", BLUE, width=3.3, height=1.2)
    box(ax, 2.0, 2.6, "margin", GREY, width=2.6, height=0.9)
    box(ax, 6.2, 2.6, "median over seeds", GREY, width=3.3, height=0.9)
    box(ax, 4.1, 0.75, "verdict\nclaims.json", GREEN, width=3.3, height=1.2)
    arrow(ax, (2.0, 4.0), (2.0, 3.05))
    arrow(ax, (6.2, 4.0), (6.2, 3.05))
    arrow(ax, (5.4, 4.0), (5.4, 3.55), (2.7, 3.55), (2.7, 3.05))
    arrow(ax, (2.0, 2.15), (2.0, 0.75), (2.45, 0.75))
    arrow(ax, (6.2, 2.15), (6.2, 0.75), (5.75, 0.75))
    ax.text(4.05, 3.68, "their spread", ha="center", fontsize=10, color="#555555")
    ax.set(xlim=(0, 8.2), ylim=(0, 5.6))


def zones(ax: Axes) -> None:
    """Schematic, better is to the right: the published number with its margin, and seeds (dots) with their median (bar)."""
    rows = [
        (3.9, (5.0, 5.2, 5.35, 5.5, 5.1), "bettered", GREEN),
        (2.9, (3.0, 3.3, 3.45, 3.75, 4.2), "reproduced", BLUE),
        (1.9, (0.95, 1.1, 1.25, 1.4, 1.0), "not reached", VERMILION),
    ]
    ax.axvspan(2.2, 4.4, ymin=0.17, ymax=0.84, color=GREY, alpha=0.22, linewidth=0)
    ax.plot((3.3, 3.3), (0.95, 4.7), color=GREY, linewidth=1.8)
    ax.text(3.3, 4.86, "published ± margin", ha="center", fontsize=11.5, color=BLACK)
    for y, seeds, verdict, color in rows:
        ax.plot(seeds, [y] * len(seeds), "o", color=color, markersize=6, alpha=0.75)
        middle = sorted(seeds)[len(seeds) // 2]
        ax.plot((middle, middle), (y - 0.26, y + 0.26), color=color, linewidth=3)
        ax.text(6.35, y, verdict, va="center", fontsize=12, color=color)
    ax.text(6.35, 1.15, "not run", va="center", fontsize=12, color="#777777")
    ax.text(0.4, 1.15, "no run stored", va="center", fontsize=10.5, color="#777777")
    arrow(ax, (0.4, 0.5), (6.0, 0.5), color=GREY)
    ax.text(6.35, 0.5, "better", va="center", fontsize=11, color="#555555")
    ax.set(xlim=(0.2, 8.2), ylim=(0, 5.6))


def draw() -> Figure:
    """The figure with its two panels."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.9))
    for ax in (left, right):
        ax.set_axis_off()
    sources(left)
    zones(right)
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
