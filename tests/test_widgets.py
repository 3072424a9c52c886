"""Sliders: live where there is a front end, a plain picture with its numbers where the book is built."""

import io

import ipywidgets
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from IPython.display import Image
from PIL import Image as Picture

from avb_core import plots, widgets

matplotlib.use("Agg")


@pytest.fixture
def shown(monkeypatch):
    displayed = []
    monkeypatch.setattr(widgets, "display", displayed.append)
    monkeypatch.setattr(widgets, "_shown", [])
    monkeypatch.delenv("AVB_BUILD", raising=False)
    with matplotlib.rc_context():
        plots.style()
        yield displayed
    plt.close("all")


def panel():
    return plots.panels(1, width=2, height=1)


def line(ax, height, width=1):
    _ = ax.plot([0, width], [0, height], label=f"height {height}")
    _ = ax.bar([0], [height], label="bar")
    _ = ax.legend()
    return f"slope {height / width:.2f}"


def sliders():
    return {
        "height": ipywidgets.FloatSlider(value=1.5, min=0, max=5, step=0.5, description="height h"),
        "width": ipywidgets.IntSlider(value=2, min=1, max=4),
    }


def pixels(png):
    return np.asarray(Picture.open(io.BytesIO(png)))


def test_build_shows_a_picture_and_its_numbers_and_no_widget(shown, monkeypatch, capsys):
    monkeypatch.setenv("AVB_BUILD", "1")
    widgets.explore(line, panel(), **sliders())
    (picture,) = shown
    assert isinstance(picture, Image)
    assert picture.data.startswith(b"\x89PNG")
    assert picture.alt == "At height h = 1.5, width = 2: slope 0.75."
    assert capsys.readouterr().out == f"{picture.alt} Run this cell for live sliders.\n"


def test_live_redraws_when_a_slider_moves(shown, capsys):
    controls = sliders()
    widgets.explore(line, panel(), **controls)
    (box,) = shown
    *above, image, words = box.children
    assert above == list(controls.values())
    before = bytes(image.value)
    assert before.startswith(b"\x89PNG")
    assert words.value == "slope 0.75"
    controls["height"].value = 4
    assert bytes(image.value) != before
    assert words.value == "slope 2.00"
    controls["height"].value = 1.5
    assert bytes(image.value) == before
    controls["width"].value = 3
    assert bytes(image.value) != before
    assert controls["width"].description == "width"
    assert capsys.readouterr().out == ""


def test_a_redrawn_figure_is_the_figure_drawn_anew(shown):
    """Nothing is left of what was drawn before: no curve, no entry of the legend, no colour passed over, no limit."""

    def fill(left, right, height):
        _ = line(left, height)
        _ = left.fill_between([0, 1], [height, 0], alpha=0.5)
        _ = left.set_title(f"title {height}" if height > 2 else "")
        _ = right.imshow([[0, height], [1, 0]])
        _ = right.text(0, 0, f"{height}")
        _ = left.figure.legend(loc="lower right")
        return "same limits"

    def panels():
        return plots.panels(2, layout="none")

    moved, fresh = ipywidgets.FloatSlider(5, min=1, max=5), ipywidgets.FloatSlider(1, min=1, max=5)
    widgets.explore(fill, panels(), height=moved)
    widgets.explore(fill, panels(), height=fresh)
    pictures = [pixels(box.children[1].value) for box in shown]
    assert (pictures[0] != pictures[1]).any()
    moved.value = 1
    assert (pixels(shown[0].children[1].value) == pictures[1]).all()


def test_the_frame_stands_still(shown):
    """A label that grows would shift the axes under the reader's eyes, and laying out takes as long as drawing."""

    def fill(ax, height):
        _ = ax.plot([0, height])
        _ = ax.set_ylabel("long\n" * int(height))
        return f"{ax.get_position().x0}"

    slider = ipywidgets.FloatSlider(1, min=1, max=5)
    widgets.explore(fill, panel(), height=slider)
    words = shown[0].children[-1]
    before = words.value
    slider.value = 5
    assert words.value == before != f"{panel()[1][0].get_position().x0}"


@pytest.mark.parametrize("build", ["", "1"])
def test_no_figure_stays_open(shown, monkeypatch, build):
    monkeypatch.setenv("AVB_BUILD", build)
    controls = sliders()
    widgets.explore(line, panel(), **controls)
    controls["height"].value = 3
    assert plt.get_fignums() == []


def test_bad_input(shown):
    with pytest.raises(ValueError, match="^sliders: "):
        widgets.explore(line, panel())
    with pytest.raises(ValueError, match="^height: .*got float"):
        widgets.explore(line, panel(), height=1.0)
    with pytest.raises(ValueError, match="^draw: .*NoneType"):
        widgets.explore(lambda ax, height: None, panel(), height=ipywidgets.FloatSlider())
    assert shown == []


def test_an_error_in_drawing_is_not_swallowed(shown):
    def broken(ax, height):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        widgets.explore(broken, panel(), height=ipywidgets.FloatSlider())


def test_the_ends_of_all_sliders_are_timed(shown, monkeypatch):
    """The slowest redraw counts, wherever it is; afterwards the sliders stand where they stood."""
    seen = []

    def fill(ax, height, decade, choice, which):
        seen.append((height, decade, choice, which))
        return "nothing"

    assert widgets.slowest_redraw() == 0
    monkeypatch.setenv("AVB_BUILD", "1")
    controls = {
        "height": ipywidgets.FloatSlider(1, min=-1, max=2),
        "decade": ipywidgets.FloatLogSlider(1, base=10, min=-2, max=1),
        "choice": ipywidgets.SelectionSlider(options=(5, 6, 7), value=6),
        "which": ipywidgets.ToggleButtons(options=[("off", False), ("on", True)], value=True),
    }
    widgets.explore(fill, panel(), **controls)
    assert shown[0].alt == "At height = 1, decade = 1, choice = 6, which = on: nothing."
    seen.clear()
    assert 0 < widgets.slowest_redraw() < 1000
    ends = {(h, d, c, w) for h in (-1, 2) for d in (0.01, 10) for c in (5, 7) for w in (False, True)}
    assert set(seen) == ends | {(1, 1, 6, True)}
    assert [slider.value for slider in controls.values()] == [1, 1, 6, True]


def test_a_slow_end_is_found(shown, monkeypatch):
    def fill(ax, height):
        return f"{sum(range(20_000 * height))}"

    monkeypatch.setenv("AVB_BUILD", "1")
    widgets.explore(fill, panel(), height=ipywidgets.IntSlider(0, min=0, max=1))
    quick = widgets.slowest_redraw()
    widgets.explore(fill, panel(), height=ipywidgets.IntSlider(0, min=0, max=100))
    assert widgets.slowest_redraw() > 2 * quick


def test_a_warning_at_an_end_is_an_error(shown, monkeypatch):
    monkeypatch.setenv("AVB_BUILD", "1")
    widgets.explore(
        lambda ax, x: f"{np.log(np.float64(x))}", panel(), x=ipywidgets.FloatSlider(1, min=0, max=2, description="x")
    )
    with pytest.raises(RuntimeWarning):
        widgets.slowest_redraw()
