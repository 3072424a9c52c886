"""Building a chapter's notebook: the same bytes each time, and all of it or nothing."""

import io
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from tools.book import Chapter
from tools.build_chapters import BuildError, build, is_current, packed, provenance_of

PROVENANCE = {"source": "s", "inputs": "i"}
# A figure under a slider from 0 to 2 that stands at 1; its words are to be filled in.
EXPLORER = """\
import ipywidgets
from avb_core import plots, widgets
widgets.explore(lambda ax, x: {}, plots.panels(1), x=ipywidgets.IntSlider(1, min=0, max=2))"""


def chapter_of(folder: Path, *cells: str) -> Chapter:
    """A chapter made of code cells."""
    blocks = "\n".join(f"```{{code-cell}} python\n{cell}\n```\n" for cell in cells)
    (folder / "01_made.md").write_text(f"# Made\n\n{blocks}", encoding="utf-8")
    return Chapter("01_made", "Made", "Part", True, folder)


def test_a_built_chapter_is_complete_and_the_same_each_time(tmp_path):
    chapter = chapter_of(
        tmp_path, "print('one')", "import os\nprint(os.getcwd() == os.path.abspath('.'), os.listdir('.'))", "40 + 2"
    )
    record = build(chapter, PROVENANCE)
    first = chapter.notebook.read_bytes()
    chapter.notebook.unlink()
    build(chapter, PROVENANCE)
    assert chapter.notebook.read_bytes() == first

    notebook = nbformat.read(chapter.notebook, as_version=4)
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, 1, 2, 3]
    assert notebook.cells[2].outputs[0].text == "True ['01_made.md']\n", "a chapter runs in its own folder"
    assert notebook.metadata.avb == PROVENANCE
    assert 0 < record["peak_gib"] < 1 and 0 < record["seconds"] < 60
    assert record["redraw_ms"] == 0


def test_redrawing_is_timed(tmp_path):
    record = build(chapter_of(tmp_path, EXPLORER.format("f'{x}'")), PROVENANCE)
    assert 0 < record["redraw_ms"] < 1000


@pytest.mark.parametrize(
    "cell, complaint",
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import warnings\nwarnings.warn('deprecated')", "deprecated"),
        ("from avb_core import check\ncheck('avb.2.1', 'a bound', 1.0, 2.0, 0.1)", "off by 1, within 0.1"),
        (EXPLORER.format("f'{1 / x}'"), "slowest_redraw.*\nZeroDivisionError"),
    ],
    ids=["error", "warning", "failed-check", "end-of-a-slider"],
)
def test_a_chapter_that_fails_leaves_the_old_notebook(tmp_path, cell, complaint):
    chapter = chapter_of(tmp_path, "print('one')", cell)
    chapter.notebook.write_text("the old one")
    with pytest.raises(BuildError, match=complaint):
        build(chapter, PROVENANCE)
    assert chapter.notebook.read_text() == "the old one"
    assert {path.name for path in tmp_path.iterdir()} == {"01_made.md", "01_made.ipynb"}


def test_a_change_of_the_text_makes_a_chapter_stale(tmp_path):
    chapter = chapter_of(tmp_path, "1")
    assert not is_current(chapter, provenance_of(chapter)), "nothing is built yet"
    build(chapter, provenance_of(chapter))
    assert is_current(chapter, provenance_of(chapter))
    assert not is_current(chapter_of(tmp_path, "2"), provenance_of(chapter))


@pytest.mark.parametrize("kind", ["few-colours", "many-colours", "transparent"])
def test_a_packed_picture_is_the_same_picture_in_fewer_bytes(kind):
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 4), dtype=np.uint8)
    if kind != "many-colours":
        values = values // 128 * 200
    if kind != "transparent":
        values[..., 3] = 255
    written = io.BytesIO()
    Image.fromarray(values, "RGBA").save(written, "PNG", compress_level=1)
    smaller = packed(written.getvalue())
    assert len(smaller) < len(written.getvalue())
    shown = Image.open(io.BytesIO(smaller))
    assert shown.mode == {"few-colours": "P", "many-colours": "RGB", "transparent": "RGBA"}[kind]
    assert np.array_equal(np.asarray(shown.convert("RGBA")), values)
