"""Explorers on the static pages: the exported graphs are the decoders, and in a browser their sliders move what they should."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from avb_core.data import DataMissing
from avb_core.decoders import BernoulliDecoder, DiscretizedLogisticDecoder, GaussianDecoder
from avb_core.networks import MLP, ConvolutionalDecoder
from avb_core.recipes import load_model, recipe_of
from avb_core.runs import load_tensors, save_tensors
from tools import explorers
from tools.book import ROOT
from tools.explorers import Explorer, describe, export_decoder, fetch_runtime, paint, paint_plane, plane_codes

DECLARED = {explorer.name: explorer for explorer in explorers.read_explorers()}
PLANE, WALK, CODE, FACE = (DECLARED[name] for name in ("four_points_avb", "mnist_walk", "mnist_code", "celeba_code"))
PAGES = [PLANE.chapter, WALK.chapter, FACE.chapter]
PATIENCE = 120_000  # milliseconds for a page on a machine that has other work


def entry(**changes: Any) -> Explorer:
    fields = {
        "name": "e",
        "chapter": "12_mnist",
        "section": "s",
        "run": "r",
        "shape": (2, 2),
        "caption": "c",
        "alt": "a",
    }
    return Explorer(**{**fields, "coordinates": 2, **changes})


def game_of(explorer: Explorer) -> Any:
    return load_model(recipe_of(ROOT / explorer.run), ROOT / explorer.run, explorer.pixels).eval()


def code_at(content: dict[str, Any], values: dict[str, float] | None = None) -> torch.Tensor:
    """The code that an explorer shows, with the sliders at their first values but for `values`, by label."""
    at = {slider["label"]: slider["value"] for slider in content["sliders"]} | (values or {})
    roles = {slider["role"]: at[slider["label"]] for slider in content["sliders"]}
    codes = torch.tensor(content["codes"])
    first, second = (codes[int(roles.get(role, 0))] for role in ("first", "second"))
    code = torch.lerp(first, second, float(roles.get("position", 0)))
    for slider in content["sliders"]:
        if slider["role"] == "direction":
            code = code + at[slider["label"]] * torch.tensor(slider["direction"])
    return code


# --- the declaration and the export


@pytest.mark.parametrize("explorer", DECLARED.values(), ids=DECLARED)
def test_a_declared_explorer_has_all_that_it_names(explorer):
    content = describe(explorer, game_of(explorer))
    assert [slider["label"] for slider in content["sliders"]], explorer.name
    assert len({slider["label"] for slider in content["sliders"]}) == len(content["sliders"])
    assert explorer.caption.endswith(".") and len(explorer.alt) > 20


@pytest.mark.parametrize("explorer", [WALK, CODE, FACE], ids=lambda explorer: explorer.name)
def test_an_explorer_starts_from_what_its_own_run_made(explorer):
    assert load_tensors(ROOT / explorer.start)[1]["run"] == explorer.run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (2, 2, 2)}, "shape: expected"),
        ({"coordinates": 0}, "expected a walk, coordinates or directions"),
        ({"walk": True}, "walk: expected a start"),
        ({"plane": True, "shape": (28, 28)}, "plane: expected two coordinates"),
    ],
)
def test_an_explorer_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^e: {message}"):
        entry(**changes)


def test_a_declaration_with_a_slip_is_refused(tmp_path):
    path = tmp_path / "explorers.toml"
    good = '[e]\nchapter = "12_mnist"\nsection = "s"\nrun = "r"\nshape = [2, 2]\ncoordinates = 2\ncaption = "c"\nalt = "a"\n'
    path.write_text(good)
    assert explorers.read_explorers(path)[0].shape == [2, 2]
    for wrong, message in [
        (good.replace("12_mnist", "12_mnits"), "chapter: book.toml lists no 12_mnits"),
        (good.replace("section", "sektion"), "unexpected keyword argument 'sektion'"),
    ]:
        path.write_text(wrong)
        with pytest.raises(ValueError, match=f"explorers.toml: e: .*{message}"):
            explorers.read_explorers(path)


def test_the_graph_is_the_decoder(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    for decoder, latent_dim in [
        (BernoulliDecoder(MLP(3, [20, 20], 16)), 3),
        (BernoulliDecoder(ConvolutionalDecoder(5, [4, 8], 784)), 5),
        (GaussianDecoder(MLP(2, [20], 12)), 2),
        (DiscretizedLogisticDecoder(ConvolutionalDecoder(4, [4, 6], 192, colours=3), 3), 4),
    ]:
        path = tmp_path / "decoder.onnx"
        export_decoder(decoder, latent_dim, path)
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for n in (1, 7):
            z = 2 * torch.randn(n, latent_dim)
            (pixels,) = session.run(["pixels"], {"z": z.numpy()})
            assert np.abs(pixels - decoder.mean(z).detach().numpy()).max() < 1e-5


def test_the_liveliest_coordinates_have_sliders():
    """Of five coordinates the decoder hardly heeds the first, third and fourth."""
    network = torch.nn.Linear(5, 4)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.1, 1, 0.2, 0.3, 0.8]).expand(4, 5))
    game: Any = SimpleNamespace(decoder=BernoulliDecoder(network), posterior=SimpleNamespace(latent_dim=5))
    assert [slider["label"] for slider in describe(entry(), game)["sliders"]] == ["z₂", "z₅"]
    assert len(describe(entry(coordinates=5), game)["sliders"]) == 5
    with pytest.raises(ValueError, match="coordinates: r has 5, got 6"):
        describe(entry(coordinates=6), game)
    with pytest.raises(ValueError, match="plane: expected a run with two latent variables, r has 5"):
        describe(entry(plane=True), game)


def test_named_directions_and_codes_of_a_file(tmp_path):
    """What chapters on faces need: codes to start from, and a slider for each attribute."""
    game = game_of(PLANE)
    codes, smile = torch.randn(3, 2), torch.tensor([0.6, 0.8])
    save_tensors(tmp_path / "codes.safetensors", {"codes": codes}, {})
    save_tensors(tmp_path / "directions.safetensors", {"smile": smile}, {})
    files = {"start": str(tmp_path / "codes.safetensors"), "directions": str(tmp_path / "directions.safetensors")}
    content = describe(entry(run=PLANE.run, coordinates=0, reach=2.0, **files), game)
    assert [slider["label"] for slider in content["sliders"]] == ["image", "smile"] and "images" not in content
    assert content["sliders"][1]["max"] == 2
    torch.testing.assert_close(code_at(content, {"image": 2, "smile": -1.5}), codes[2] - 1.5 * smile)

    for name, tensors in [("codes", {"codes": codes[:, :1]}), ("directions", {"smile": torch.ones(3)})]:
        save_tensors(tmp_path / f"{name}.safetensors", tensors, {})
        with pytest.raises(ValueError, match=f"{name}.safetensors: .*expected"):
            describe(entry(run=PLANE.run, coordinates=0, **files), game)
        save_tensors(tmp_path / f"{name}.safetensors", {"codes": codes} if name == "codes" else {"smile": smile}, {})


def test_a_code_of_an_image_is_where_the_encoder_puts_it():
    game = game_of(WALK)
    content = describe(WALK, game)
    images = torch.tensor(content["images"], dtype=torch.uint8)
    decoded = game.decoder.mean(torch.tensor(content["codes"]))
    distances = torch.cdist(decoded, images / 255)
    assert (distances.argmin(1) == torch.arange(len(images))).all(), "an image's code decodes to another image"


def test_grey_is_ink_on_white_and_colours_mix():
    assert paint(np.array([0.0, 1, 0.5, 2]), (2, 2))[..., 0].tolist() == [[255, 0], [128, 0]]
    assert paint(np.arange(12) / 11, (3, 2, 2))[0, 0].tolist() == [0, 93, 185]
    assert paint(np.ones(1), (1, 1), ["#0072B2"]).tolist() == [[[0, 0x72, 0xB2]]]
    plane = paint_plane(np.array([[0, 0], [1, 0], [0, 1], [1, 1.0]]), ["#FF0000", "#0000FF"])
    assert plane.reshape(4, 3).tolist() == [[255, 255, 255], [255, 0, 0], [0, 0, 255], [128, 0, 128]]
    assert plane_codes(2, 3).tolist() == [[-3, 3], [3, 3], [-3, -3], [3, -3]]


def test_a_registry_that_does_not_answer_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9/")
    monkeypatch.setattr(explorers, "cache_folder", lambda: tmp_path)
    with pytest.raises(DataMissing, match=r"onnxruntime-web-.*\.tgz is not in .*, and http://127\.0\.0\.1:9/ did not"):
        fetch_runtime(tmp_path / "site")


def test_the_site_is_built_without_the_runtime_too(tmp_path):
    """Static figures alone, said once on stdout, and no script that would look for what is not there."""
    environment = {"npm_config_registry": "http://127.0.0.1:9/", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    result = build_site(tmp_path / "html", [PLANE.chapter], environment)
    assert result.stdout.count("Without explorers") == 1
    page = (tmp_path / "html" / "chapters" / f"{PLANE.chapter}.html").read_text(encoding="utf-8")
    assert "explorer" not in page and "<figure" in page


# --- in a browser, from a plain server


def build_site(folder: Path, stems: list[str], environment: dict[str, str] | None = None) -> Any:
    command = [sys.executable, "-m", "tools.site", "--output", str(folder), *stems]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **(environment or {})}
    )
    assert result.returncode == 0 and not result.stderr, result.stderr
    return result


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site with the pages that have explorers; skipped where the runtime is neither in the cache nor to be fetched."""
    folder = tmp_path_factory.mktemp("site")
    try:
        fetch_runtime(folder / "runtime")
    except DataMissing as error:
        pytest.skip(str(error))
    build_site(folder / "html", PAGES)
    return folder / "html"


@pytest.fixture(scope="module")
def server(site, serve) -> Iterator[str]:
    """The address of the site on this machine."""
    with serve(site) as address:
        yield address


@pytest.fixture
def open_explorer(browser, server) -> Iterator:
    """A function that scrolls to an explorer; what a page says, or asks for elsewhere or in vain, fails the test at its end."""
    complaints: list[str] = []
    contexts = []

    def open_it(explorer: Explorer, live: bool = True, base: str = server, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": 390, "height": 844}, **options)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console",
            lambda message: complaints.append(message.text) if message.type in {"error", "warning"} else None,
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if options.get("java_script_enabled", True):  # or scripts that are preloaded would count as failed
            page.on("requestfailed", lambda request: complaints.append(f"{request.url} failed"))
        here = re.compile(rf"{re.escape(base)}/|data:|blob:")
        page.on(
            "request",
            lambda request: complaints.append(f"asks for {request.url}") if not here.match(request.url) else None,
        )
        page.goto(f"{base}/chapters/{explorer.chapter}.html")
        figure = page.locator(f"#explorer-{explorer.name}")
        figure.scroll_into_view_if_needed()
        if live:
            page.locator(f"#explorer-{explorer.name}.live[aria-busy=false]").wait_for()
        return figure

    yield open_it
    for context in contexts:
        context.close()
    assert not complaints, "\n".join(complaints)


PIXELS = """canvas => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    return Array.from(copy.getImageData(0, 0, canvas.width, canvas.height).data).filter((_, i) => i % 4 < 3);
}"""


def painted(canvas: Any) -> np.ndarray:
    return np.array(canvas.evaluate(PIXELS))


def settle(figure: Any) -> None:
    figure.page.locator(f"#{figure.get_attribute('id')}[aria-busy=false]").wait_for()


def content_of(site: Path, explorer: Explorer) -> dict[str, Any]:
    return json.loads((site / "explorers" / f"{explorer.name}.json").read_text())


@pytest.mark.parametrize("explorer", [PLANE, WALK, CODE, FACE], ids=lambda explorer: explorer.name)
def test_sliders_moved_by_the_keyboard_show_what_torch_decodes(open_explorer, site, explorer):
    figure, content, decoder = open_explorer(explorer), content_of(site, explorer), game_of(explorer).decoder
    colours = content["plane"]["colours"] if explorer.plane else ()
    canvas = figure.locator("canvas.decoded")
    values: dict[str, float] = {}

    def shown() -> np.ndarray:
        settle(figure)
        with torch.no_grad():
            expected = paint(decoder.mean(code_at(content, values)[None])[0].numpy(), explorer.shape, colours)
        pixels = painted(canvas)
        assert np.abs(pixels - expected.flatten()).max() <= 1, values
        return pixels

    first = before = shown()
    for k, slider in enumerate(content["sliders"]):
        handle = figure.get_by_role("slider", name=slider["label"], exact=True)
        handle.focus()
        changed = False
        # Each slider ends elsewhere, or a walk would lead from an image to the same.
        steps = [("Home", slider["min"]), ("End", slider["max"])]
        steps += [("ArrowLeft", slider["max"] - (i + 1) * slider["step"]) for i in range(k + 1)]
        for key, value in steps:
            handle.press(key)
            values[slider["label"]] = float(handle.input_value())
            assert values[slider["label"]] == pytest.approx(value)
            now = shown()
            changed |= bool((now != before).any())
            before = now
        assert changed, slider["label"]
    figure.get_by_role("button", name="Reset").click()
    settle(figure)
    assert (painted(canvas) == first).all()


def test_a_point_can_be_dragged_in_the_plane(open_explorer, site):
    figure, decoder = open_explorer(PLANE), game_of(PLANE).decoder
    plane = figure.locator("canvas.plane")
    with torch.no_grad():
        expected = paint_plane(
            decoder.mean(plane_codes(explorers.PLANE_POINTS, PLANE.reach)).numpy(),
            content_of(site, PLANE)["plane"]["colours"],
        )
    assert np.abs(painted(plane) - expected.flatten()).max() <= 1
    box = plane.bounding_box()
    figure.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    figure.page.mouse.down()
    figure.page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.9 * box["height"])
    figure.page.mouse.up()
    settle(figure)
    z = [float(figure.get_by_role("slider", name=label, exact=True).input_value()) for label in ("z₁", "z₂")]
    assert z == pytest.approx([1.5, -2.4], abs=0.1)
    assert figure.locator("output").first.text_content() == f"{z[0]:.1f}"


def test_a_redraw_takes_a_moment_only(open_explorer):
    """From the event to the new picture, ten times over: a drag stays smooth, on a busy machine as well."""
    figure = open_explorer(CODE)
    milliseconds = figure.evaluate(
        """async figure => {
            const slider = figure.querySelectorAll("input")[1];
            const taken = [];
            for (let i = 0; i < 10; i++) {
                slider.value = -1 + i / 5;
                const begun = performance.now();
                slider.dispatchEvent(new Event("input", { bubbles: true }));
                while (figure.getAttribute("aria-busy") === "true") await new Promise((done) => setTimeout(done));
                taken.push(performance.now() - begun);
            }
            return taken;
        }"""
    )
    assert sorted(milliseconds)[5] < 100, milliseconds


def test_an_explorer_fits_a_telephone_and_says_what_it_shows(open_explorer):
    for explorer in (PLANE, CODE, FACE):
        figure = open_explorer(explorer)
        assert figure.page.evaluate("document.documentElement.scrollWidth") <= 390
        for slider in figure.locator("input").all():
            assert figure.locator(f"label[for='{slider.get_attribute('id')}']").count() == 1
            assert slider.bounding_box()["height"] >= 24
        assert figure.locator("canvas.decoded").get_attribute("aria-label") == explorer.alt


def test_nothing_is_loaded_before_it_is_seen(browser, server):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server}/chapters/{PLANE.chapter}.html", wait_until="networkidle")
    assert not [url for url in asked if "/explorers/" in url]
    page.close()


def test_without_javascript_or_a_server_the_picture_stands(open_explorer, site):
    figure = open_explorer(WALK, live=False, java_script_enabled=False)
    image = figure.locator("img")
    assert image.is_visible() and image.get_attribute("alt") == WALK.alt and "stands still" in figure.inner_text()
    assert figure.locator("input").count() == 0
    figure = open_explorer(WALK, live=False, base=site.as_uri())
    assert figure.locator("img").is_visible() and "comes from a server" in figure.inner_text()


def test_without_webassembly_the_picture_stands(browser, server):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.add_init_script("delete window.WebAssembly")
    page.goto(f"{server}/chapters/{WALK.chapter}.html", wait_until="networkidle")
    figure = page.locator(f"#explorer-{WALK.name}")
    figure.scroll_into_view_if_needed()
    page.wait_for_timeout(300)
    assert figure.locator("img").is_visible() and figure.locator("input").count() == 0
    page.close()


def test_the_still_picture_is_what_the_explorer_begins_with(site, open_explorer):
    figure = open_explorer(WALK, live=False, java_script_enabled=False)
    name = figure.locator("img").get_attribute("src").split("/")[-1]
    picture = np.array(Image.open(site / "_images" / name))
    content = content_of(site, WALK)
    with torch.no_grad():
        shown = game_of(WALK).decoder.mean(code_at(content)[None])[0].numpy()
    middle = picture[4::8, 224 + 16 + 4 : 2 * 224 + 16 : 8]
    assert np.abs(middle.astype(int) - paint(shown, WALK.shape)).max() <= 1
