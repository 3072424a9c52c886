"""What tests share: a browser and a server of files for pages, and a small network in the place of Inception for pictures."""

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from playwright.sync_api import Browser
from torch import Tensor, nn

from tools.paper import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; a test is skipped where there is none."""
    with ExitStack() as stack:
        try:
            browser = stack.enter_context(chromium())
        except FileNotFoundError as error:
            pytest.skip(str(error))
        yield browser


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def serve() -> Callable[[Path], AbstractContextManager[str]]:
    """A context in which a folder is served on this machine, with its address."""

    @contextmanager
    def serving(folder: Path) -> Iterator[str]:
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    return serving


class SmallInception(nn.Module):
    """In the place of torch-fidelity's network, a small one that takes its weights as that does, and as little care."""

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: Path) -> None:
        super().__init__()
        assert isinstance(name, str) and features_list == ["2048"]
        self.layer = nn.Conv2d(3, 4, 3, stride=4)
        state = torch.load(feature_extractor_weights_path, weights_only=False)
        self.load_state_dict(state)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> tuple[Tensor]:
        assert x.dtype == torch.uint8 and x.ndim == 4 and x.shape[1] == 3
        return (self.layer((x.float() - 128) / 128).relu().mean((2, 3)),)


@pytest.fixture
def small_inception(monkeypatch: pytest.MonkeyPatch) -> OrderedDict[str, Tensor]:
    """In the place of the package torch-fidelity for a test; weights for its network."""
    monkeypatch.setitem(sys.modules, "torch_fidelity", SimpleNamespace(FeatureExtractorInceptionV3=SmallInception))
    torch.manual_seed(0)
    return OrderedDict(nn.ModuleDict({"layer": nn.Conv2d(3, 4, 3, stride=4)}).state_dict())
