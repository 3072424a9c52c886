"""`make read`, without a browser: the server that it starts, asked what a browser would ask."""

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
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
    with socket.create_server(("127.0.0.1", 0)) as taken, log.open("w") as printed:
        flags = f"--no-browser --ip 127.0.0.1 --port {taken.getsockname()[1]} --IdentityProvider.token=test"
        process = subprocess.Popen(
            ["make", "read", f"READ_FLAGS={flags}"], cwd=ROOT, stdout=printed, stderr=printed, start_new_session=True
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


def ask(server: tuple[str, str], path: str) -> dict:
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
