"""Sliders over a figure, for the places where moving something teaches."""

import io
import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
from IPython.display import Image, display
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["explore", "slowest_redraw"]

Draw = Callable[..., str]


def explore(draw: Draw, panels: tuple[Figure, Iterable[Axes]], **sliders: ipywidgets.ValueWidget) -> None:
    """Show `panels`, filled by `draw(*axes, **values)`, and fill them anew whenever one of the sliders moves.

    `panels` is an empty figure with its axes, as `plots.panels` makes it. `draw` fills it and returns its numbers as words,
    which stand below. Each keyword names an argument of `draw` and gives the ipywidgets slider that sets it; a slider without
    a description takes that name. Where the book is built (the environment variable AVB_BUILD is set), and so in every stored
    notebook, the figure stands at the sliders' initial values and its words say so: a picture that needs no kernel. Raises
    ValueError for no sliders, for an argument that is no slider, and for a `draw` that does not return words.
    """
    if not sliders:
        raise ValueError("sliders: expected at least one, got none")
    for name, slider in sliders.items():
        if not isinstance(slider, ipywidgets.ValueWidget):
            raise ValueError(f"{name}: expected an ipywidgets slider, got {type(slider).__name__}")
        slider.description = slider.description or name

    explorer = _Explorer(draw, panels, sliders)
    picture, words = explorer.redraw()
    if os.environ.get("AVB_BUILD"):
        _shown.append(explorer)
        settings = ", ".join(f"{slider.description} = {_in_words(slider)}" for slider in sliders.values())
        caption = f"At {settings}: {words}."
        display(Image(picture, alt=caption))
        print(f"{caption} Run this cell for live sliders.")
        return

    # One image whose bytes change: unlike an output area that is cleared and refilled, it does not flicker or jump. While the
    # kernel draws, the front end holds back all but the last value of a slider, so that no queue of redraws builds up.
    image = ipywidgets.Image(value=picture, format="png")
    image.layout.max_width = "100%"
    below = ipywidgets.Label(words)

    def update(_: object) -> None:
        image.value, below.value = explorer.redraw()

    for slider in sliders.values():
        slider.style.description_width = "14em"
        slider.layout.width = "min(44em, 100%)"
        slider.observe(update, names="value")
    display(ipywidgets.VBox([*sliders.values(), image, below]))


def slowest_redraw() -> float:
    """CPU milliseconds of the slowest redraw of what `explore` has shown in this process, where AVB_BUILD is set.

    Every figure is drawn at its sliders' initial values and at all combinations of the ends of their ranges, where a warning
    counts as an error. The shortest of three times counts, in this thread alone: what else the machine does should not.
    """
    with warnings.catch_warnings():
        for shown in (UserWarning, RuntimeWarning):
            warnings.simplefilter("error", shown)
        return max((explorer.slowest_redraw() for explorer in _shown), default=0.0)


class _Explorer:
    """A figure that is made and laid out once, and filled again and again.

    Most of the time that a figure takes goes into its frame: axes, ticks and labels. So the frame is kept as an image, drawn
    anew only where it has changed, and what `draw` adds comes on top.
    """

    def __init__(
        self, draw: Draw, panels: tuple[Figure, Iterable[Axes]], sliders: dict[str, ipywidgets.ValueWidget]
    ) -> None:
        self.draw, self.sliders = draw, sliders
        self.figure, self.axes = panels[0], list(panels[1])
        plt.close(self.figure)  # or the inline backend would show it a second time
        self.canvas = FigureCanvasAgg(self.figure)
        self.frame = frozenset(self._artists())
        self._fill()
        self.canvas.draw()
        self.figure.set_layout_engine("none")
        self.look: list[Any] | None = None

    def redraw(self) -> tuple[bytes, str]:
        """The figure at the sliders' values as a PNG, and its numbers in words."""
        for artist in self._contents():
            artist.remove()
        for ax in self.axes:
            ax.containers.clear()
            ax.relim()
            ax.autoscale()
            ax.set_prop_cycle(None)
        words = self._fill()
        contents = self._contents()
        if (look := self._look()) != self.look:
            self.look, self.empty = look, self._draw_frame(contents)
        self.canvas.restore_region(self.empty)
        for artist in sorted(contents, key=lambda artist: artist.zorder):
            (artist.axes or self.figure).draw_artist(artist)
        buffer = io.BytesIO()
        pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]
        PIL.Image.fromarray(pixels).save(buffer, format="png", compress_level=1)
        return buffer.getvalue(), words

    def _draw_frame(self, contents: list[Artist]) -> Any:
        """An image of the frame alone."""
        visible = [artist for artist in contents if artist.get_visible()]
        for artist in visible:
            artist.set_visible(False)
        self.canvas.draw()
        for artist in visible:
            artist.set_visible(True)
        return self.canvas.copy_from_bbox(self.figure.bbox)

    def _look(self) -> list[Any]:
        """What the frame shows: titles, and each axis with its range, its label and its ticks."""
        look: list[Any] = [ax.get_title(loc) for ax in self.axes for loc in ("left", "center", "right")]
        for axis in (axis for ax in self.axes for axis in (ax.xaxis, ax.yaxis)):
            ticks = axis.get_ticklocs()
            labels = axis.get_major_formatter().format_ticks(list(ticks))
            look.append((*axis.get_view_interval(), axis.get_label_text(), *ticks, *labels))
        return look

    def _artists(self) -> list[Artist]:
        return [artist for owner in (self.figure, *self.axes) for artist in owner.get_children()]

    def _contents(self) -> list[Artist]:
        """What `draw` has added."""
        return [artist for artist in self._artists() if artist not in self.frame]

    def slowest_redraw(self) -> float:
        return max(min(self._milliseconds() for _ in range(3)) for _ in self._settings())

    def _fill(self) -> str:
        words = self.draw(*self.axes, **{name: slider.value for name, slider in self.sliders.items()})
        if not isinstance(words, str):
            raise ValueError(f"draw: expected it to return its numbers in words, got {type(words).__name__}")
        return words

    def _milliseconds(self) -> float:
        started = time.thread_time()
        self.redraw()
        return 1000 * (time.thread_time() - started)

    def _settings(self) -> Iterator[None]:
        """Move the sliders through the settings that are measured, and back."""
        initial = [slider.value for slider in self.sliders.values()]
        for values in [initial, *itertools.product(*map(_ends, self.sliders.values()))]:
            for slider, value in zip(self.sliders.values(), values, strict=True):
                slider.value = value
            yield
        for slider, value in zip(self.sliders.values(), initial, strict=True):
            slider.value = value


def _ends(slider: ipywidgets.ValueWidget) -> tuple[Any, Any]:
    """The first and the last value of a slider or of a choice."""
    if hasattr(slider, "options"):
        values = [option[1] if isinstance(option, tuple) else option for option in slider.options]
        return values[0], values[-1]
    if isinstance(slider, ipywidgets.FloatLogSlider):
        return slider.base**slider.min, slider.base**slider.max
    return slider.min, slider.max


def _in_words(slider: ipywidgets.ValueWidget) -> str:
    """The value of a slider, or the label of a choice."""
    return slider.label if hasattr(slider, "options") else f"{slider.value:.4g}"


# What a build has shown, for `slowest_redraw`
_shown: list[_Explorer] = []
