"""Sliders: live where there is a front end, a plain picture where the book is built."""

import ipywidgets
import matplotlib
import matplotlib.pyplot as plt
import pytest
from IPython.display import Image

from avb_core import widgets

matplotlib.use("Agg")


@pytest.fixture
def shown(monkeypatch):
    displayed = []
    monkeypatch.setattr(widgets, "display", displayed.append)
    return displayed


def line(height, width=1):
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, width], [0, height])
    ax.set_ylim(0, 5)
    return figure


def sliders():
    return {
        "height": ipywidgets.FloatSlider(value=1.5, min=0, max=5, step=0.5, description="height h"),
        "width": ipywidgets.IntSlider(value=2, min=1, max=4),
    }


def test_build_shows_a_picture_and_a_caption_and_no_widget(shown, monkeypatch, capsys):
    monkeypatch.setenv("AVB_BUILD", "1")
    widgets.explore(line, **sliders())
    (picture,) = shown
    assert isinstance(picture, Image)
    assert picture.data.startswith(b"\x89PNG")
    assert capsys.readouterr().out == "At height h = 1.5, width = 2. Run this cell for live sliders.\n"
    assert picture.alt == "height h = 1.5, width = 2"


def test_live_redraws_when_a_slider_moves(shown, monkeypatch, capsys):
    monkeypatch.delenv("AVB_BUILD", raising=False)
    controls = sliders()
    widgets.explore(line, **controls)
    (box,) = shown
    *above, image = box.children
    assert above == list(controls.values())
    before = bytes(image.value)
    assert before.startswith(b"\x89PNG")
    controls["height"].value = 4
    assert bytes(image.value) != before
    controls["height"].value = 1.5
    assert bytes(image.value) == before
    controls["width"].value = 3
    assert bytes(image.value) != before
    assert controls["width"].description == "width"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("build", ["", "1"])
def test_no_figure_stays_open(shown, monkeypatch, build):
    monkeypatch.setenv("AVB_BUILD", build)
    controls = sliders()
    widgets.explore(line, **controls)
    controls["height"].value = 3
    assert plt.get_fignums() == []


def test_bad_input(shown, monkeypatch):
    with pytest.raises(ValueError, match="^sliders: "):
        widgets.explore(line)
    with pytest.raises(ValueError, match="^height: .*got float"):
        widgets.explore(line, height=1.0)
    with pytest.raises(ValueError, match="^draw: .*NoneType"):
        widgets.explore(lambda height: None, height=ipywidgets.FloatSlider())
    assert shown == []


def test_an_error_in_drawing_is_not_swallowed(shown):
    def broken(height):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        widgets.explore(broken, height=ipywidgets.FloatSlider())
