"""`make read`: the server that it starts, asked what a browser would ask, and a chapter read in Chromium where there is one."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen

import pytest

from tools.book import ROOT, chapters

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv" / "installed").exists(), reason="make has not set up its environment"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A running `make read` whose port was taken: its address and what it printed up to then."""
    log = tmp_path_factory.mktemp("read") / "log"
    environment = {
        name: value for name, value in os.environ.items() if name != "AVB_BUILD"
    }  # sliders, not still pictures
    with socket.create_server(("127.0.0.1", 0)) as taken, log.open("w") as printed:
        flags = f"--no-browser --ip 127.0.0.1 --port {taken.getsockname()[1]} --IdentityProvider.token=test"
        process = subprocess.Popen(
            ["make", "read", f"READ_FLAGS={flags}"],
            cwd=ROOT,
            env=environment,
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"(http://127\.0\.0\.1:\d+)/lab/tree/chapters\?", log.read_text())):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield found[1], log.read_text()
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def ask(server: tuple[str, str], path: str) -> Any:
    with urlopen(f"{server[0]}/{path}token=test", timeout=30) as answer:
        return json.load(answer)


def test_a_taken_port_is_said(server):
    assert "is already in use, trying another port" in server[1]


def test_markdown_opens_as_a_notebook(server):
    settings = ask(server, "lab/api/settings/@jupyterlab/docmanager-extension:plugin?")
    assert settings["schema"]["properties"]["defaultViewers"]["default"] == {"markdown": "Jupytext Notebook"}
    assert settings["schema"]["properties"]["autosave"]["default"] is False


@pytest.mark.parametrize("chapter", chapters(written_only=True), ids=lambda chapter: chapter.stem)
@pytest.mark.parametrize("suffix", ["md", "ipynb"])
def test_both_files_of_a_pair_open_with_outputs(server, chapter, suffix):
    """Whichever of the two is the newer: a clone sets both times at random."""
    notebook = ask(server, f"api/contents/chapters/{chapter.stem}.{suffix}?type=notebook&")["content"]
    assert [cell for cell in notebook["cells"] if cell.get("outputs")]


def connected(server: tuple[str, str]) -> bool:
    """Whether a page has a kernel; while one starts the server may not know how to answer, or not in time."""
    try:
        return any(kernel["connections"] for kernel in ask(server, "api/kernels?"))
    except OSError:
        return False


# Notes when a key went down and when the picture changed, in milliseconds
WATCH = """box => {
    window.keys = []; window.redraws = [];
    addEventListener('keydown', () => keys.push(performance.now()), true);
    const redrawn = () => redraws.push(performance.now());
    new MutationObserver(redrawn).observe(box.querySelector('img'), {attributeFilter: ['src']});
}"""


def test_a_slider_moves_the_first_chapter_s_figure(server, browser):
    """JupyterLab opens the chapter and runs it all; then arrow keys and the mouse move a slider, and the figure follows."""
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(300_000)  # on a busy machine the chapter takes a minute

    def until(holds):
        deadline = time.monotonic() + 300
        while not holds():
            assert time.monotonic() < deadline, page.locator("body").inner_text()[:2000]
            page.wait_for_timeout(50)

    page.goto(f"{server[0]}/lab/tree/{chapters(written_only=True)[0].source.relative_to(ROOT)}?token=test&reset")
    idle, busy = (page.locator(f".jp-Notebook-ExecutionIndicator[data-status={state}]") for state in ("idle", "busy"))
    # The indicator says idle before there is a kernel too, and to run cells then opens a dialog or is forgotten.
    until(lambda: connected(server))
    idle.wait_for(state="attached")
    page.locator(".jp-Notebook h1").first.click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    busy.wait_for(state="attached")
    idle.wait_for(state="attached")

    # Of a verdict that is too long for its line, no number is broken.
    verdict = page.locator(".jp-OutputArea-output pre", has_text="✓").first
    assert verdict.evaluate("pre => getComputedStyle(pre).wordBreak") == "normal"

    box = page.locator(".widget-vbox:has(img)").first
    box.scroll_into_view_if_needed()
    handle, picture, words = box.get_by_role("slider").first, box.locator("img"), box.locator(".widget-label").last
    box.evaluate(WATCH)

    def redrawn(move):
        """The seconds from a key to its picture, after `move` has changed picture and words."""
        before, said, drawn = picture.screenshot(), words.inner_text(), page.evaluate("redraws.length")
        move()
        page.wait_for_function("drawn => redraws.length > drawn", arg=drawn)
        until(lambda: words.inner_text() != said and picture.screenshot() != before)
        return page.evaluate("(redraws.at(-1) - keys.at(-1)) / 1000")

    handle.focus()
    waits = [redrawn(lambda: page.keyboard.press("ArrowRight")) for _ in range(5)]
    assert min(waits) < 0.5, waits

    # Thirty keys at once: those that come while the kernel draws are passed over, up to the last.
    value, said = float(handle.get_attribute("aria-valuenow")), words.inner_text()
    drawn = page.evaluate("redraws.length")
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(3000)
    assert float(handle.get_attribute("aria-valuenow")) < value
    until(lambda: words.inner_text() != said and page.evaluate("redraws.length") > drawn)
    assert 1 <= page.evaluate("redraws.length") - drawn <= 30

    def drag():
        place = handle.bounding_box()
        page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
        page.mouse.down()
        page.mouse.move(place["x"] + 60, place["y"] + place["height"] / 2, steps=5)
        page.mouse.up()

    value = handle.get_attribute("aria-valuenow")
    redrawn(drag)
    assert handle.get_attribute("aria-valuenow") != value
