"""Data to train on: the four points, MNIST, handwritten digits that need no download, and plain vectors.

A data set stays in memory as uint8 on the training device and is indexed there; there is no loader to wait for. Files are
looked for in `$AVB_DATA`, then in the user's cache; `fetch_mnist` downloads them into the cache, with checksums.
"""

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import platformdirs
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from avb_core._validate import require_floating, require_no_nan
from avb_core.runs import CorruptFile

Split = Literal["train", "test"]

MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
# SHA-256 of the uncompressed text
BINARIZED_FILES = {
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
IDX_UINT8 = 0x08


class DataMissing(FileNotFoundError):
    """The data are neither in `$AVB_DATA` nor in the cache, or could not be downloaded; the message says what to do."""


class Dataset(Protocol):
    """What the training loop needs of data: a length, minibatches by index, and an identity for checkpoints."""

    @property
    def name(self) -> str:
        """What the data are called."""

    @property
    def digest(self) -> str:
        """What tells them from other data of the same name."""

    def __len__(self) -> int: ...

    def batch(self, indices: Int[Tensor, "batch"]) -> Float[Tensor, "batch pixels"]:
        """The data at `indices`, on the device of the data set."""

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on another device."""


@dataclass(frozen=True)
class Images:
    """Images as flat vectors of uint8, 0 to 255, read as intensities or probabilities in [0, 1].

    `shape` is (height, width) for grey images and (3, height, width) for colour, one colour after another.
    With `binarization="dynamic"` every use draws each pixel anew, 1 with its intensity as probability; with "none" the
    intensities themselves are used. `source` is a sentence that a page can print.
    """

    name: str
    pixels: UInt8[Tensor, "n pixels"]
    shape: tuple[int, ...]
    labels: Int[Tensor, "n"] | None = None
    binarization: Literal["none", "dynamic"] = "none"
    source: str = ""
    known_digest: str = ""  # where the pixels were digested when they were written, and are too many to do it again

    def __post_init__(self) -> None:
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 2:
            raise ValueError(
                f"pixels: expected uint8 of shape (n, pixels), got {self.pixels.dtype} {tuple(self.pixels.shape)}"
            )
        if not len(self.pixels):
            raise ValueError("pixels: expected at least one image, got none")
        if self.pixels.shape[1] != math.prod(self.shape):
            raise ValueError(f"shape: {self.shape} does not fit images of {self.pixels.shape[1]} pixels")
        if self.binarization not in ("none", "dynamic"):
            raise ValueError(f"binarization: expected 'none' or 'dynamic', got {self.binarization!r}")

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Int[Tensor, "batch"]) -> Float[Tensor, "batch pixels"]:
        """The images at `indices` as floats, binarized anew if the data set says so."""
        intensities = self.pixels[indices.to(self.pixels.device)].float() / 255
        return torch.bernoulli(intensities) if self.binarization == "dynamic" else intensities

    def to(self, device: torch.device | str) -> "Images":
        """The same images on another device."""
        return replace(self, pixels=self.pixels.to(device))

    def first(self, n: int) -> "Images":
        """The first n images, of those that there are. Raises ValueError for n < 1."""
        if n < 1:
            raise ValueError(f"n: expected at least 1 image, got {n}")
        labels = None if self.labels is None else self.labels[:n]
        return replace(self, pixels=self.pixels[:n], labels=labels, known_digest="")

    def binarized(self, seed: int = 0) -> "Images":
        """One fixed binarization of the images, for measuring: the same for everybody who uses the same seed."""
        noise = np.random.default_rng(seed).random(tuple(self.pixels.shape), dtype=np.float32)
        binary = self.pixels.cpu().float() / 255 > torch.from_numpy(noise)
        return replace(
            self, pixels=binary.to(torch.uint8).to(self.pixels.device) * 255, binarization="none", known_digest=""
        )

    @cached_property
    def digest(self) -> str:
        """A digest of the pixels and of how they are used, for provenance."""
        if self.known_digest:
            return self.known_digest
        content = hashlib.sha256(f"{self.shape} {self.binarization}".encode())
        content.update(self.pixels.cpu().numpy().tobytes())
        return content.hexdigest()[:16]


@dataclass(frozen=True)
class Points:
    """Real vectors, such as a sample of a mixture, as a data set: what has a density and is no image."""

    name: str
    values: Float[Tensor, "n d"]

    def __post_init__(self) -> None:
        require_floating("values", self.values)
        require_no_nan("values", self.values)
        if self.values.ndim != 2 or self.values.numel() == 0:
            raise ValueError(f"values: expected shape (n, d), got {tuple(self.values.shape)}")

    def __len__(self) -> int:
        return len(self.values)

    def batch(self, indices: Int[Tensor, "batch"]) -> Float[Tensor, "batch d"]:
        """The vectors at `indices`."""
        return self.values[indices.to(self.values.device)]

    def to(self, device: torch.device | str) -> "Points":
        """The same vectors on another device."""
        return replace(self, values=self.values.to(device))

    @cached_property
    def digest(self) -> str:
        """A digest of the values, for checkpoints and provenance."""
        content = hashlib.sha256(f"{tuple(self.values.shape)} {self.values.dtype}".encode())
        content.update(self.values.detach().cpu().numpy().tobytes())
        return content.hexdigest()[:16]


def four_points() -> Images:
    """The four 2×2 images with one lit pixel each, whose best log-likelihood is −log 4 (Mescheder et al., fig. 2)."""
    return Images("four_points", 255 * torch.eye(4, dtype=torch.uint8), (2, 2), torch.arange(4), source="four points")


def digits(split: Split) -> Images:
    """scikit-learn's handwritten digits, 8×8: 1,500 for training and 297 for test, binarized at every use."""
    from sklearn.datasets import load_digits

    require_split(split)
    values, labels = load_digits(return_X_y=True)
    part = slice(0, 1500) if split == "train" else slice(1500, None)
    pixels = torch.from_numpy(np.round(values[part] * (255 / 16)).astype(np.uint8))
    source = "the 8×8 handwritten digits that come with scikit-learn (MNIST was not found on this machine)"
    return Images("digits", pixels, (8, 8), torch.from_numpy(labels[part]).long(), "dynamic", source)


def mnist(split: Split) -> Images:
    """MNIST, 28×28: 60,000 training and 10,000 test images, binarized at every use.

    Raises DataMissing where the files are not found, CorruptFile where one is not what it should be.
    """
    require_split(split)
    stem = "train" if split == "train" else "t10k"
    images = read_idx(_find_mnist(f"{stem}-images-idx3-ubyte.gz"), axes=3)
    labels = read_idx(_find_mnist(f"{stem}-labels-idx1-ubyte.gz"), axes=1)
    pixels = torch.from_numpy(images.reshape(len(images), -1).copy())
    return Images("mnist", pixels, (28, 28), torch.from_numpy(labels.astype(np.int64)), "dynamic", "MNIST")


def binarized_mnist(split: Split) -> Images:
    """MNIST binarized once and for all (Larochelle's files): 60,000 training and 10,000 test images.

    The 10,000 validation images among the 60,000 are trained on as well, as is usual where nothing is chosen by them. The file
    of test images has all zeros first, then all ones, and so on; they are returned in a fixed random order, so that the first
    few are a sample of all. Raises DataMissing where the files are not found, CorruptFile where one is not what it should be.
    """
    require_split(split)
    if split == "train":
        pixels = torch.cat([_read_binarized("train"), _read_binarized("valid")])
    else:
        in_order_of_digits = _read_binarized("test")
        pixels = in_order_of_digits[binarized_test_order(len(in_order_of_digits))]
    return Images("binarized_mnist", pixels, (28, 28), source="MNIST in Larochelle's fixed binarization")


def binarized_test_order(n: int = 10_000) -> Int[Tensor, "n"]:
    """The place in Larochelle's file of each test image that `binarized_mnist` returns."""
    # RandomState's permutations are the same in every version of NumPy.
    return torch.from_numpy(np.random.RandomState(0).permutation(n))


def _read_binarized(name: str) -> UInt8[Tensor, "n 784"]:
    """One of the text files, compressed or not: a line of 784 zeros and ones for each image."""
    candidates = [
        folder / "binarized_mnist" / f"binarized_mnist_{name}.amat{suffix}"
        for folder in data_folders()
        for suffix in ("", ".gz")
    ]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        searched = ", ".join(sorted({str(each.parent) for each in candidates}))
        raise DataMissing(
            f"binarized_mnist_{name}.amat is in none of {searched}. Put Larochelle's three files into "
            "$AVB_DATA/binarized_mnist, as they are or compressed with gzip."
        )
    content = _gunzip(path) if path.suffix == ".gz" else path.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    if checksum != BINARIZED_FILES[name]:
        raise CorruptFile(f"{path}: its content has the SHA-256 {checksum[:12]}…, not {BINARIZED_FILES[name][:12]}…")
    # A digit, then a blank or a line's end
    digits = np.frombuffer(content, np.uint8).reshape(-1, 2 * 784)[:, ::2]
    return torch.from_numpy((digits - ord("0")) * np.uint8(255))


def mnist_or_digits(split: Split) -> Images:
    """MNIST where it is found, the digits of scikit-learn otherwise; `source` tells which. Never touches the network."""
    try:
        return mnist(split)
    except DataMissing:
        return digits(split)


def fetch_mnist() -> Path:
    """Download MNIST's four files into the cache, each checked by its SHA-256; what is there already is not fetched again.

    Returns the folder. Raises DataMissing, with what was tried, if no mirror answers or the cache cannot be written.
    """
    failures = []
    for name, checksum in MNIST_FILES.items():
        for mirror in MNIST_MIRRORS:
            failure = retrieve(mirror + name, f"sha256:{checksum}", cache_folder() / "mnist" / name)
            if not failure:
                break
            failures.append(f"  {mirror + name}: {failure}")
        else:
            raise DataMissing(
                f"MNIST could not be downloaded into {cache_folder() / 'mnist'}. Put its four files into $AVB_DATA/mnist "
                "yourself, or go on without: the chapters then use scikit-learn's digits. Tried:\n"
                + "\n".join(failures)
            )
    return cache_folder() / "mnist"


def retrieve(url: str, checksum: str, path: Path) -> str:
    """Download a file unless it is there already; empty if that succeeded, otherwise what went wrong."""
    import pooch

    try:
        # pooch writes to a temporary name, checks and renames: a download that breaks off leaves nothing behind.
        downloader = pooch.HTTPDownloader(timeout=20, progressbar=False)
        pooch.retrieve(url, checksum, fname=path.name, path=path.parent, downloader=downloader)
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes with the given number of axes.

    Raises CorruptFile, with the path, for a truncated gzip, a wrong magic number or a length that does not fit the header.
    """
    content = _gunzip(path)
    header = 4 + 4 * axes
    magic = (IDX_UINT8 << 8 | axes).to_bytes(4, "big")
    if content[:4] != magic or len(content) < header:
        raise CorruptFile(f"{path}: expected the idx magic number {magic.hex()}, got {content[:4].hex() or 'nothing'}")
    shape = tuple(int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(axes))
    if len(content) - header != math.prod(shape):
        raise CorruptFile(f"{path}: the header promises shape {shape}, but {len(content) - header} bytes follow")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _gunzip(path: Path) -> bytes:
    try:
        with gzip.open(path, "rb") as file:
            return file.read()
    except (EOFError, OSError, zlib.error) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise CorruptFile(f"{path}: not a whole gzip file ({error})") from error


def _find_mnist(name: str) -> Path:
    """The file in `$AVB_DATA/mnist` or in the cache, its checksum verified."""
    searched = []
    for folder in data_folders():
        path = folder / "mnist" / name
        searched.append(str(path.parent))
        if path.is_file():
            checksum = hashlib.sha256(path.read_bytes()).hexdigest()
            if checksum != MNIST_FILES[name]:
                raise CorruptFile(
                    f"{path}: SHA-256 {checksum[:12]}… is not that of MNIST's file ({MNIST_FILES[name][:12]}…); "
                    "remove it and fetch it again"
                )
            return path
    raise DataMissing(
        f"{name} is in none of {', '.join(searched)}. Set AVB_DATA to the folder that holds mnist/, or run "
        "`python -m avb_core fetch mnist`."
    )


def data_folders() -> Iterator[Path]:
    """Where data are looked for, in this order.

    Raises NotADirectoryError where `$AVB_DATA` names no folder: who set it does not want to get other data without a word.
    """
    if root := os.environ.get("AVB_DATA"):
        if not (folder := Path(root).expanduser()).is_dir():
            raise NotADirectoryError(f"AVB_DATA: expected a folder with data, got {root}, where there is none")
        yield folder
    yield cache_folder()


def cache_folder() -> Path:
    """Where data that were fetched or prepared are kept."""
    return Path(platformdirs.user_cache_dir("avb_core"))


def require_split(split: str) -> None:
    """Raise ValueError unless the split is train or test."""
    if split not in ("train", "test"):
        raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
