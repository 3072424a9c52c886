"""Draw two_adversaries.svg, which laws each critic of the four games compares: `python -m figures.two_adversaries`.

A row for each game and a box for each critic. On a critic's left stands the pair of the data's side, on its right that of the
model's; an arrow inside a pair says which of the two was drawn from the other.
"""

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from avb_core.plots import BLACK, BLUE, GREEN, ORANGE, VERMILION, style

TARGET = Path(__file__).with_suffix(".svg")
ROW = 1.55

# For each game: its name, what it descends, and its critics as (data's side, its law, model's side, its law, what is wrong).
GAMES = (
    (
        "Joint",
        r"$-\mathcal{L}-H(X)$",
        ((r"$x\;\rightarrow\;z$", "$q(x,z)$", r"$z\;\rightarrow\;x$", "$p(x,z)$", ""),),
    ),
    (
        "Mended",
        r"$-\mathcal{L}-H(X)$",
        (
            (r"$z$", "$q(z)$", r"$z$", "$p(z)$", ""),
            (r"$x\;\rightarrow\;z$", "$q(x,z)$", r"$z\;\rightarrow\;x$", r"$q(z)\,p(x\,|\,z)$", ""),
        ),
    ),
    (
        "Printed,\njoint pairs",
        r"$-\mathcal{L}-H(X)+I$",
        (
            (r"$x\;\rightarrow\;z$", "$q(x,z)$", r"$x\quad z$", "$p_D(x)\\,p(z)$", "sees the image"),
            (r"$x\;\rightarrow\;z$", "$q(x,z)$", r"$z\;\rightarrow\;x$", r"$q(z)\,p(x\,|\,z)$", ""),
        ),
    ),
    (
        "Printed,\nindependent",
        "a blind decoder",
        (
            (r"$x\;\rightarrow\;z$", "$q(x,z)$", r"$x\quad z$", "$p_D(x)\\,p(z)$", "sees the image"),
            (r"$x\quad z$", "$p_D(x)\\,q(z)$", r"$z\;\rightarrow\;x$", r"$q(z)\,p(x\,|\,z)$", "another image"),
        ),
    ),
)


def side(ax: Axes, x: float, y: float, pair: str, law: str, color: str) -> None:
    """A pair and its law."""
    ax.text(x, y + 0.17, pair, ha="center", va="center", fontsize=14, color=color)
    ax.text(x, y - 0.25, law, ha="center", va="center", fontsize=11.5, color="#555555")


def critic(ax: Axes, x: float, y: float, laws: tuple[str, ...]) -> None:
    """A critic between the two laws that it tells apart."""
    left, of_left, right, of_right, wrong = laws
    color = VERMILION if wrong else ORANGE
    box = FancyBboxPatch((x - 0.42, y - 0.34), 0.84, 0.68, boxstyle="round,pad=0,rounding_size=0.14")
    box.set(facecolor=color + "22", edgecolor=color, linewidth=1.6)
    ax.add_patch(box)
    ax.text(x, y, "critic", ha="center", va="center_baseline", fontsize=11, color=BLACK)
    side(ax, x - 1.35, y, left, of_left, BLUE)
    side(ax, x + 1.4, y, right, of_right, GREEN)
    if wrong:
        ax.text(x, y + 0.5, wrong, ha="center", va="center", fontsize=10.5, color=VERMILION)


def draw() -> Figure:
    """The four rows."""
    style()
    plt.rcParams.update({"svg.fonttype": "path", "mathtext.fontset": "stix"})
    figure, ax = plt.subplots(figsize=(11.5, 6.2), layout="none")
    figure.subplots_adjust(left=0.004, right=0.996, bottom=0.01, top=0.99)
    ax.set(xlim=(0, 13.2), ylim=(-0.25, 4 * ROW + 0.75))
    ax.set_axis_off()
    for x, text in ((0.25, "game"), (10.75, "what it descends")):
        ax.text(x, 4 * ROW + 0.42, text, fontsize=11, color="#555555", va="center")
    for x, text in ((3.85, "critic of the codes"), (8.15, "critic of the images")):
        ax.text(x, 4 * ROW + 0.42, text, fontsize=11, color="#555555", va="center", ha="center")
    for row, (name, descends, critics) in enumerate(GAMES):
        y = (3 - row) * ROW + 0.75
        back = FancyBboxPatch((0.05, y - 0.68), 13.1, 1.36, boxstyle="round,pad=0,rounding_size=0.18")
        back.set(facecolor="#fafafa", edgecolor="#dddddd", linewidth=1)
        ax.add_patch(back)
        ax.text(0.25, y, name, fontsize=13, weight="bold", color=BLACK, va="center", linespacing=1.3)
        places = (6.0,) if len(critics) == 1 else (3.85, 8.15)
        for place, laws in zip(places, critics, strict=True):
            critic(ax, place, y, laws)
        ax.text(10.75, y, descends, fontsize=13, color=BLACK, va="center")
    return figure


if __name__ == "__main__":
    draw().savefig(TARGET, metadata={"Date": None})
