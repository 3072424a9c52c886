"""Explorers: decoders of stored runs, exported so that a browser can run them. `chapters/explorers.toml` declares them.

Each becomes `<name>.json` (sliders, codes to start from) and `<name>.png` (the picture that stands still without JavaScript),
each run a small ONNX graph from codes to mean pixels. ONNX Runtime Web, which runs it, comes from the npm registry.
"""

import json
import math
import os
import tarfile
import tomllib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pooch
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from avb_core.data import DataMissing, cache_folder, retrieve
from avb_core.decoders import Decoder
from avb_core.evaluation import coordinate_effects
from avb_core.games import LatentVariableGame
from avb_core.plots import PALETTE
from avb_core.recipes import load_model, recipe_of
from avb_core.runs import load_tensors
from tools.book import CHAPTERS, ROOT, chapters

DECLARED = CHAPTERS / "explorers.toml"

# The runtime: what a page needs of it is one module and one WebAssembly file.
PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
CHECKSUM = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
# By the names that they get: a server that does not know .mjs would not let a page import it.
RUNTIME = {"ort.js": "ort.wasm.bundle.min.mjs", "ort.wasm": "ort-wasm-simd-threaded.wasm"}

PLANE_POINTS = 81  # along each side of the plane
STILL_HEIGHT = 224  # pixels


@dataclass(frozen=True)
class Explorer:
    """One entry of the declaration, whose comments say what each field means. Raises ValueError for one that cannot be."""

    name: str
    chapter: str
    section: str
    run: str
    shape: Sequence[int]
    caption: str
    alt: str
    start: str = ""
    walk: bool = False
    coordinates: int = 0
    directions: str = ""
    plane: bool = False
    reach: float = 3.0

    def __post_init__(self) -> None:
        if len(self.shape) != 2 and (len(self.shape) != 3 or self.shape[0] != 3):
            raise ValueError(f"{self.name}: shape: expected (height, width) or (3, height, width), got {self.shape}")
        if not (self.walk or self.coordinates or self.directions):
            raise ValueError(f"{self.name}: expected a walk, coordinates or directions to move, got none")
        if self.walk and not self.start:
            raise ValueError(f"{self.name}: walk: expected a start, with the images or codes to walk between")
        if self.plane and (self.coordinates != 2 or self.start or self.pixels > len(PALETTE)):
            raise ValueError(
                f"{self.name}: plane: expected two coordinates, no start, and at most {len(PALETTE)} pixels to colour"
            )

    @property
    def pixels(self) -> int:
        """How many numbers an image has."""
        return math.prod(self.shape)


def read_explorers(path: Path = DECLARED) -> list[Explorer]:
    """All explorers; raises ValueError, with the name, for a field that is unknown or missing, and a chapter that is."""
    stems = {chapter.stem for chapter in chapters()}
    explorers = []
    for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
        try:
            explorer = Explorer(name=name, **entry)
        except TypeError as error:
            raise ValueError(f"{path.name}: {name}: {error}") from None
        if explorer.chapter not in stems:
            raise ValueError(f"{path.name}: {name}: chapter: book.toml lists no {explorer.chapter}")
        explorers.append(explorer)
    return explorers


def export(explorers: Iterable[Explorer], folder: Path) -> None:
    """Write everything about `explorers` into `folder`: a graph for each run, and a JSON and a picture for each explorer.

    Raises FileNotFoundError or CorruptFile where a run or a file to start from is missing or altered, ValueError where they do
    not fit one another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for explorer in explorers:
        game = load_model(recipe_of(ROOT / explorer.run), ROOT / explorer.run, explorer.pixels).eval()
        model = folder / (explorer.run.replace("/", "-") + ".onnx")
        if not model.exists():
            export_decoder(cast(Decoder, game.decoder), game.posterior.latent_dim, model)
        content = describe(explorer, game)
        (folder / f"{explorer.name}.json").write_text(json.dumps({"model": model.name, **content}), encoding="utf-8")
        still(explorer, cast(Decoder, game.decoder), content).save(folder / f"{explorer.name}.png")


class MeanPixels(nn.Module):
    """A decoder's mean as a network, z → E[x | z]."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Float[Tensor, "n d"]) -> Float[Tensor, "n pixels"]:
        return self.decoder.mean(z)


def export_decoder(decoder: Decoder, latent_dim: int, path: Path) -> None:
    """Write a decoder's mean as an ONNX graph from `z`, (n, latent_dim), to `pixels`, with any n."""
    with warnings.catch_warnings():
        # The newer exporter needs a second package, half a minute, and room on stderr; for plain layers both write the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Traced is how many numbers a picture has, which no code changes.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        torch.onnx.export(
            MeanPixels(decoder).eval(),
            (torch.zeros(1, latent_dim),),
            str(path),
            input_names=["z"],
            output_names=["pixels"],
            dynamic_axes={"z": {0: "n"}, "pixels": {0: "n"}},
            dynamo=False,
        )


@torch.no_grad()
def describe(explorer: Explorer, game: LatentVariableGame) -> dict[str, Any]:
    """What a page has to know: the picture's shape, the codes to start from, and the sliders in their order.

    The code shown is (1 − t) a + t b + Σ v_k d_k: between the codes a and b chosen by the sliders `first` and `second`, at
    the `position` t, and moved by all other sliders' values v_k along their `direction` d_k.
    """
    latent_dim = game.posterior.latent_dim
    if explorer.plane and latent_dim != 2:
        raise ValueError(
            f"{explorer.name}: plane: expected a run with two latent variables, {explorer.run} has {latent_dim}"
        )
    codes, images = _start(explorer, game)
    sliders: list[dict[str, Any]] = []
    if len(codes) > 1:
        chosen = {"min": 0, "max": len(codes) - 1, "step": 1}
        sliders.append({"role": "first", "label": "first image" if explorer.walk else "image", "value": 0, **chosen})
    if explorer.walk:
        sliders.append({"role": "second", "label": "second image", "value": 1, **chosen})
        sliders.append({"role": "position", "label": "position", "value": 0.5, "min": -0.5, "max": 1.5, "step": 0.05})
    directions = {f"z{_subscript(k + 1)}": torch.eye(latent_dim)[k] for k in _lively(explorer, game)}
    if explorer.directions:
        named, _ = load_tensors(ROOT / explorer.directions)
        if wrong := [name for name, vector in named.items() if vector.shape != (latent_dim,)]:
            raise ValueError(f"{explorer.directions}: {', '.join(wrong)}: expected shape ({latent_dim},)")
        directions |= named
    reach = {"min": -explorer.reach, "max": explorer.reach, "step": explorer.reach / 30, "value": 0}
    for label, vector in directions.items():
        sliders.append({"role": "direction", "label": label, "direction": vector.tolist(), **reach})
    content: dict[str, Any] = {
        "shape": explorer.shape,
        "alt": explorer.alt,
        "codes": codes.tolist(),
        "sliders": sliders,
    }
    if images is not None:
        content["images"] = images.tolist()
    if explorer.plane:
        content["plane"] = {"points": PLANE_POINTS, "reach": explorer.reach, "colours": PALETTE[: explorer.pixels]}
    return content


def _start(
    explorer: Explorer, game: LatentVariableGame
) -> tuple[Float[Tensor, "n d"], UInt8[Tensor, "n pixels"] | None]:
    """The codes that an explorer starts from, and their images if it has them; an image's code is the mean of many draws."""
    latent_dim = game.posterior.latent_dim
    if not explorer.start:
        return torch.zeros(1, latent_dim), None
    tensors, _ = load_tensors(ROOT / explorer.start)
    name, width = ("images", explorer.pixels) if "images" in tensors else ("codes", latent_dim)
    if name not in tensors or tensors[name].ndim != 2 or tensors[name].shape[1] != width or len(tensors[name]) < 2:
        found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        raise ValueError(
            f"{explorer.start}: expected images (n, {explorer.pixels}) or codes (n, {latent_dim}), got {found}"
        )
    if name == "codes":
        return tensors[name], None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return game.posterior.sample(tensors[name] / 255, (256,)).mean(0), tensors[name]


def _lively(explorer: Explorer, game: LatentVariableGame) -> list[int]:
    """The coordinates that change the image most between −1 and 1, in their own order, the others drawn from the prior."""
    latent_dim = game.posterior.latent_dim
    if explorer.coordinates > latent_dim:
        raise ValueError(f"{explorer.name}: coordinates: {explorer.run} has {latent_dim}, got {explorer.coordinates}")
    effects = coordinate_effects(cast(Decoder, game.decoder), latent_dim)
    return sorted(effects.topk(explorer.coordinates).indices.tolist())


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


# --- the picture that stands still, painted as site/_static/explorers.js does it --------------------------------------------


def paint(values: np.ndarray, shape: Sequence[int], colours: Iterable[str] = ()) -> UInt8[np.ndarray, "h w 3"]:
    """An image of values in [0, 1] as the book shows it: grey is ink on white, and pixels may have colours."""
    ink = np.clip(values, 0, 1)
    if len(shape) == 3:
        rgb = ink.reshape(shape).transpose(1, 2, 0)
    else:
        full = np.array([_rgb(colour) for colour in colours] or np.zeros((1, 3)))
        rgb = (1 - ink[:, None] * (1 - full)).reshape(*shape, 3)
    return np.round(255 * rgb).astype(np.uint8)


def paint_plane(values: np.ndarray, colours: Iterable[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Images, one at each point of a square with z₁ to the right and z₂ upwards, as the mixture of their pixels' colours."""
    ink = np.clip(values, 0, 1)
    ink /= np.maximum(ink.sum(-1, keepdims=True), 1)
    rgb = 1 - ink @ (1 - np.array([_rgb(colour) for colour in colours]))
    side = math.isqrt(len(values))
    return np.round(255 * rgb).astype(np.uint8).reshape(side, side, 3)


def plane_codes(points: int, reach: float) -> Float[Tensor, "n 2"]:
    """The codes of the plane's points, line by line from the top."""
    axis = torch.linspace(-reach, reach, points)
    z2, z1 = torch.meshgrid(axis.flip(0), axis, indexing="ij")
    return torch.stack([z1, z2], dim=-1).reshape(-1, 2)


@torch.no_grad()
def still(explorer: Explorer, decoder: Decoder, content: dict[str, Any]) -> Image.Image:
    """What the explorer shows before a slider has moved."""
    first, second = 0, 1 if explorer.walk else 0
    position = 0.5 if explorer.walk else 0.0
    codes = torch.tensor(content["codes"])
    shown = decoder.mean(torch.lerp(codes[first], codes[second], position)[None])[0].numpy()
    colours = content["plane"]["colours"] if explorer.plane else ()
    tiles = [paint(shown, explorer.shape, colours)]
    if explorer.plane:
        plane = decoder.mean(plane_codes(PLANE_POINTS, explorer.reach)).numpy()
        tiles.insert(0, paint_plane(plane, colours))
    if "images" in content:
        originals = [paint(np.array(image) / 255, explorer.shape) for image in content["images"]]
        tiles.insert(0, originals[first])
        tiles += [originals[second]] if explorer.walk else []
    height, gap = STILL_HEIGHT, 16
    pictures = [Image.fromarray(tile).resize((height * tile.shape[1] // tile.shape[0], height), 0) for tile in tiles]
    whole = Image.new("RGB", (sum(each.width + gap for each in pictures) - gap, height), "white")
    left = 0
    for picture in pictures:
        whole.paste(picture, (left, 0))
        left += picture.width + gap
    return whole


def _rgb(colour: str) -> list[float]:
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


# --- the runtime ------------------------------------------------------------------------------------------------------


def fetch_runtime(folder: Path) -> None:
    """Put ONNX Runtime Web into `folder`, from the cache or else from the npm registry ($npm_config_registry, if set).

    Raises DataMissing, with what was tried, where it is in neither.
    """
    registry = os.environ.get("npm_config_registry") or "https://registry.npmjs.org/"  # noqa: SIM112 (npm's own spelling)
    archive = f"{PACKAGE}-{VERSION}.tgz"
    path = cache_folder() / "npm" / archive
    pooch.get_logger().setLevel("WARNING")
    failure = retrieve(f"{registry.rstrip('/')}/{PACKAGE}/-/{archive}", f"sha512:{CHECKSUM}", path)
    if failure:
        raise DataMissing(f"{archive} is not in {path.parent}, and {registry} did not give it ({failure})")
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path) as package:
        for name, member in RUNTIME.items():
            content = package.extractfile(f"package/dist/{member}")
            assert content is not None
            (folder / name).write_bytes(content.read())
