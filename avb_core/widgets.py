"""Sliders under a figure, for the places where moving something teaches."""

import io
import os
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import Image, display
from matplotlib.figure import Figure

__all__ = ["explore"]


def explore(draw: Callable[..., Figure], **sliders: ipywidgets.ValueWidget) -> None:
    """Show the figure that `draw(**values)` returns, redrawn whenever one of the sliders moves.

    Each keyword names an argument of `draw` and gives the ipywidgets slider that sets it; a slider without a description
    takes that name. Where the book is built (the environment variable AVB_BUILD is set), and so in every stored notebook, the
    figure stands alone at the sliders' initial values with a caption: a picture that needs no kernel. Raises ValueError for
    no sliders, for an argument that is no slider, and for a `draw` that does not return a figure.
    """
    if not sliders:
        raise ValueError("sliders: expected at least one, got none")
    for name, slider in sliders.items():
        if not isinstance(slider, ipywidgets.ValueWidget):
            raise ValueError(f"{name}: expected an ipywidgets slider, got {type(slider).__name__}")
        slider.description = slider.description or name

    def values() -> dict[str, Any]:
        return {name: slider.value for name, slider in sliders.items()}

    if os.environ.get("AVB_BUILD"):
        display(Image(_png(draw, values()), alt=_caption(sliders)))
        print(f"At {_caption(sliders)}. Run this cell for live sliders.")
        return

    # One image whose bytes change: unlike an output area that is cleared and refilled, it does not flicker or jump.
    image = ipywidgets.Image(value=_png(draw, values()), format="png")

    def redraw(_: object) -> None:
        image.value = _png(draw, values())

    for slider in sliders.values():
        slider.style.description_width = "14em"
        slider.layout.width = "min(44em, 100%)"
        slider.observe(redraw, names="value")
    image.layout.max_width = "100%"
    display(ipywidgets.VBox([*sliders.values(), image]))


def _png(draw: Callable[..., Figure], values: Mapping[str, Any]) -> bytes:
    figure = draw(**values)
    if not isinstance(figure, Figure):
        raise ValueError(f"draw: expected it to return a Matplotlib figure, got {type(figure).__name__}")
    try:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        return buffer.getvalue()
    finally:
        plt.close(figure)  # or the inline backend would show it a second time


def _caption(sliders: Mapping[str, ipywidgets.ValueWidget]) -> str:
    return ", ".join(f"{slider.description} = {slider.value}" for slider in sliders.values())
