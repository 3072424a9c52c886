"""Data: read as they are, refused when they are damaged, and never half-fetched."""

import gzip
import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from avb_core import data
from avb_core.celeba import celeba
from avb_core.data import (
    MNIST_FILES,
    DataMissing,
    Images,
    Points,
    digits,
    fetch_mnist,
    four_points,
    mnist,
    mnist_or_digits,
    read_idx,
)
from avb_core.runs import CorruptFile

HERE = os.environ.get("AVB_DATA")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Neither data nor cache: what a fresh machine has. Returns the folder that is its cache."""
    monkeypatch.delenv("AVB_DATA", raising=False)
    monkeypatch.setattr(data.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    return tmp_path / "cache" / "avb_core"


def idx(array, magic=None, shape=None):
    """An idx file's content, or a false one."""
    shape = array.shape if shape is None else shape
    header = (0x0800 | array.ndim if magic is None else magic).to_bytes(4, "big")
    return header + b"".join(size.to_bytes(4, "big") for size in shape) + array.tobytes()


def tiny_mnist(folder, monkeypatch, n=12):
    """Files named and checked as MNIST's are, with other content and other checksums."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    checksums = {}
    for name in MNIST_FILES:
        shape = (n, 28, 28) if "images" in name else (n,)
        content = gzip.compress(idx(generator.integers(0, 10 if "labels" in name else 256, shape, dtype=np.uint8)))
        (folder / name).write_bytes(content)
        checksums[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(data, "MNIST_FILES", checksums)


# --- idx files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (0,), (3, 4, 2)])
def test_idx_round_trip(shape, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "file.gz").write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "file.gz", axes=len(shape)), array)


GOOD = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
WHOLE = gzip.compress(idx(GOOD), mtime=0)


@pytest.mark.parametrize(
    "content, message",
    [
        (WHOLE[:-9], "not a whole gzip file"),
        (WHOLE[: len(WHOLE) // 2], "not a whole gzip file"),
        (WHOLE[:20] + bytes([WHOLE[20] ^ 255]) + WHOLE[21:], "not a whole gzip file"),
        (WHOLE[:-8] + b"\0" * 8, "not a whole gzip file"),
        (idx(GOOD), "not a whole gzip file"),
        (b"<html>not found</html>", "not a whole gzip file"),
        (b"", "magic number|not a whole"),
        (gzip.compress(b""), "magic number 00000803, got nothing"),
        (gzip.compress(idx(GOOD, magic=0x0D03)), "magic number 00000803, got 00000d03"),
        (gzip.compress(idx(GOOD.reshape(-1))), "magic number 00000803, got 00000801"),
        (gzip.compress(idx(GOOD)[:10]), "magic number"),
        (gzip.compress(idx(GOOD)[:-1]), r"shape \(2, 3, 4\), but 23 bytes follow"),
        (gzip.compress(idx(GOOD) + b"\0"), r"shape \(2, 3, 4\), but 25 bytes follow"),
        (gzip.compress(idx(GOOD, shape=(2**31, 2**31, 4))), "but 24 bytes follow"),
    ],
    ids=[
        "truncated",
        "cut-in-half",
        "flipped",
        "wrong-crc",
        "not-zipped",
        "web-page",
        "empty",
        "empty-zip",
        "floats",
        "labels",
        "no-header",
        "short",
        "long",
        "overflow",
    ],
)
def test_a_damaged_idx_file_is_named(content, message, tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=message) as caught:
        read_idx(path, axes=3)
    assert str(path) in str(caught.value)


def test_a_missing_idx_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "none.gz", axes=3)


# --- finding MNIST ----------------------------------------------------------------------------------------------------


def test_mnist_is_missing(nowhere, tmp_path, monkeypatch):
    with pytest.raises(DataMissing, match="python -m avb_core fetch mnist") as caught:
        mnist("train")
    assert str(nowhere / "mnist") in str(caught.value)
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("AVB_DATA", str(tmp_path / "mine"))
    with pytest.raises(DataMissing) as caught:
        mnist("test")
    assert str(tmp_path / "mine" / "mnist") in str(caught.value)


@pytest.mark.parametrize("where", ["AVB_DATA", "cache"])
def test_mnist_is_found(where, nowhere, tmp_path, monkeypatch):
    tiny_mnist((tmp_path / "mine" if where == "AVB_DATA" else nowhere) / "mnist", monkeypatch)
    if where == "AVB_DATA":
        monkeypatch.setenv("AVB_DATA", str(tmp_path / "mine"))
    for split in ("train", "test"):
        images = mnist_or_digits(split)
        assert (images.name, images.shape, len(images), len(images.labels)) == ("mnist", (28, 28), 12, 12)
        assert images.labels.dtype == torch.int64 and images.source == "MNIST"


def test_a_wrong_checksum_is_not_passed_over(nowhere, monkeypatch):
    """Not even for the digits: a damaged file is an error, an absent one is not."""
    tiny_mnist(nowhere / "mnist", monkeypatch)
    path = nowhere / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(np.zeros((12, 28, 28), np.uint8))))
    assert len(mnist("train")) == 12
    for load in (mnist, mnist_or_digits):
        with pytest.raises(CorruptFile, match="SHA-256") as caught:
            load("test")
        assert str(path) in str(caught.value)


def test_digits_stand_in(nowhere):
    for split, n in (("train", 1500), ("test", 297)):
        images = mnist_or_digits(split)
        assert (images.name, images.shape, len(images)) == ("digits", (8, 8), n)
        assert "scikit-learn" in images.source and images.binarization == "dynamic"
        assert set(images.labels.tolist()) == set(range(10))
    from sklearn.datasets import load_digits

    intensities = digits("test").pixels.double() / 255
    np.testing.assert_allclose(intensities, load_digits().data[1500:] / 16, atol=0.5 / 255 + 1e-12)


@pytest.mark.parametrize("load", [mnist, mnist_or_digits, celeba])
def test_nothing_stands_in_for_a_folder_that_is_not_there(load, monkeypatch, tmp_path):
    monkeypatch.setenv("AVB_DATA", str(tmp_path / "none"))
    with pytest.raises(NotADirectoryError, match="^AVB_DATA: expected a folder with data, got .*none"):
        load("test")


@pytest.mark.parametrize("load", [mnist, digits, mnist_or_digits])
def test_an_unknown_split(load):
    with pytest.raises(ValueError, match="^split: expected 'train' or 'test', got 'valid'"):
        load("valid")


@pytest.mark.skipif(not HERE, reason="the true MNIST is tested where AVB_DATA is set")
def test_the_true_mnist():
    train, test = mnist("train"), mnist("test")
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert train.pixels.double().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert torch.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # What the chapter on MNIST says of coins whose biases are the grey values: their mean entropy in nats.
    grey = train.pixels.double() / 255
    of_coins = -(torch.xlogy(grey, grey) + torch.xlogy(1 - grey, 1 - grey)).sum(1)
    assert of_coins.mean() == pytest.approx(45.8, abs=0.05)


# --- fetching MNIST ---------------------------------------------------------------------------------------------------


def serving(content):
    """A downloader that writes what `content` says, given the file's name, as pooch's own would."""

    class Downloader:
        def __init__(self, **options):
            pass

        def __call__(self, url, output_file, _):
            served = content(url.rsplit("/", 1)[1])
            if isinstance(served, Exception):
                raise served
            with open(output_file, "wb") as file:
                file.write(served)

    return Downloader


def tiny_binarized(folder, monkeypatch, compressed):
    """Two images for training, one for validation and one for test, as if they were the true files."""
    folder.mkdir(parents=True)
    rows = {"train": ["1" + " 0" * 783, "0 1" + " 0" * 782], "valid": ["0" + " 1" * 783], "test": ["0" + " 0" * 783]}
    for name, lines in rows.items():
        content = "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setitem(data.BINARIZED_FILES, name, hashlib.sha256(content).hexdigest())
        path = folder / f"binarized_mnist_{name}.amat"
        if compressed:
            Path(f"{path}.gz").write_bytes(gzip.compress(content))
        else:
            path.write_bytes(content)


@pytest.mark.parametrize("compressed", [False, True])
def test_the_fixed_binarization_is_read(compressed, nowhere, monkeypatch):
    tiny_binarized(nowhere / "binarized_mnist", monkeypatch, compressed)
    train, test = data.binarized_mnist("train"), data.binarized_mnist("test")
    assert train.name == "binarized_mnist" and train.binarization == "none" and train.shape == (28, 28)
    x = train.batch(torch.arange(3))
    assert x[0, 0] == 1 and x[0, 1:].sum() == 0 and x[1].nonzero().tolist() == [[1]] and x[2].sum() == 783
    assert len(test) == 1 and test.batch(torch.arange(1)).sum() == 0
    # Binarized already: measuring changes nothing.
    assert torch.equal(train.binarized().batch(torch.arange(3)), x)


def test_the_fixed_binarization_is_missing_or_altered(nowhere, monkeypatch):
    with pytest.raises(DataMissing, match=r"binarized_mnist_train\.amat is in none of .*AVB_DATA/binarized_mnist"):
        data.binarized_mnist("train")
    tiny_binarized(nowhere / "binarized_mnist", monkeypatch, compressed=True)
    path = nowhere / "binarized_mnist" / "binarized_mnist_test.amat.gz"
    path.write_bytes(gzip.compress(b"0 1\n"))
    with pytest.raises(CorruptFile, match="SHA-256"):
        data.binarized_mnist("test")
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(CorruptFile, match="gzip"):
        data.binarized_mnist("test")


@pytest.mark.skipif(
    not HERE or not (Path(HERE) / "binarized_mnist").is_dir(), reason="Larochelle's files are tested where they are"
)
def test_the_true_fixed_binarization():
    assert len(data.binarized_mnist("train")) == 60_000
    test = data.binarized_mnist("test")
    assert test.pixels.float().mean() / 255 == pytest.approx(0.1325, abs=1e-4)
    # In the file come first the zeros, whose ring leaves the middle of the image white; of all digits most fill it.
    middle = (test.pixels.reshape(-1, 28, 28)[:, 13:15, 13:15] > 0).float().mean((1, 2))
    everywhere = middle.reshape(10, 1000).mean(1)
    assert (everywhere - everywhere.mean()).abs().max() < 0.05


def test_without_a_network_nothing_is_left_behind(nowhere, monkeypatch):
    monkeypatch.setattr(pooch, "HTTPDownloader", serving(lambda name: ConnectionError("no network")))
    with pytest.raises(DataMissing, match="could not be downloaded") as caught:
        fetch_mnist()
    for mirror in data.MNIST_MIRRORS:
        assert f"{mirror}train-images-idx3-ubyte.gz: ConnectionError: no network" in str(caught.value)
    assert "AVB_DATA" in str(caught.value) and "digits" in str(caught.value)
    assert [path for path in nowhere.rglob("*") if path.is_file()] == []


def test_a_download_that_is_not_mnist_is_thrown_away(nowhere, monkeypatch):
    monkeypatch.setattr(pooch, "HTTPDownloader", serving(lambda name: b"<html>sign in to the network</html>"))
    with pytest.raises(DataMissing, match="hash|SHA256"):
        fetch_mnist()
    assert [path for path in nowhere.rglob("*") if path.is_file()] == []


def test_a_download_that_breaks_off_leaves_nothing_behind(nowhere, monkeypatch):
    class BreaksOff(serving(None)):
        def __call__(self, url, output_file, _):
            with open(output_file, "wb") as file:
                file.write(b"the first half")
            raise ConnectionError("connection reset")

    monkeypatch.setattr(pooch, "HTTPDownloader", BreaksOff)
    with pytest.raises(DataMissing, match="connection reset"):
        fetch_mnist()
    assert [path for path in nowhere.rglob("*") if path.is_file()] == []


def test_fetching_goes_on_to_the_next_mirror_and_never_twice(nowhere, tmp_path, monkeypatch):
    tiny_mnist(tmp_path / "server", monkeypatch)
    served = []

    def content(name):
        served.append(name)
        return ConnectionError("first mirror down") if len(served) % 2 else (tmp_path / "server" / name).read_bytes()

    monkeypatch.setattr(pooch, "HTTPDownloader", serving(content))
    assert fetch_mnist() == nowhere / "mnist"
    assert len(served) == 8
    assert sorted(path.name for path in (nowhere / "mnist").iterdir()) == sorted(MNIST_FILES)
    assert fetch_mnist() == nowhere / "mnist"
    assert len(served) == 8
    assert len(mnist("train")) == 12


def test_a_damaged_file_in_the_cache_is_fetched_again(nowhere, tmp_path, monkeypatch):
    tiny_mnist(tmp_path / "server", monkeypatch)
    (nowhere / "mnist").mkdir(parents=True)
    (nowhere / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(b"damaged")
    monkeypatch.setattr(pooch, "HTTPDownloader", serving(lambda name: (tmp_path / "server" / name).read_bytes()))
    fetch_mnist()
    assert len(mnist("train")) == 12


def test_a_cache_that_cannot_be_written(nowhere, monkeypatch):
    nowhere.parent.mkdir(parents=True)
    nowhere.write_text("a file in the way of the folder")
    monkeypatch.setattr(pooch, "HTTPDownloader", serving(lambda name: b""))
    with pytest.raises(DataMissing, match="could not be downloaded into") as caught:
        fetch_mnist()
    assert str(nowhere) in str(caught.value)


# --- images -----------------------------------------------------------------------------------------------------------


def test_four_points():
    images = four_points()
    assert torch.equal(images.batch(torch.arange(4)), torch.eye(4))
    assert images.shape == (2, 2) and images.binarization == "none" and len(images) == 4


def grey(binarization="dynamic"):
    pixels = torch.arange(0, 256, dtype=torch.uint8).reshape(4, 64)
    return Images("grey", pixels, (8, 8), torch.arange(4), binarization)


def test_dynamic_binarization_draws_each_pixel_with_its_intensity():
    torch.manual_seed(0)
    images = grey()
    draws = torch.stack([images.batch(torch.arange(4)) for _ in range(2000)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    intensity = images.pixels.float() / 255
    stderr = (intensity * (1 - intensity) / 2000).sqrt()
    assert ((draws.mean(0) - intensity).abs() <= 5 * stderr).all()  # 0 and 255 are certain: their error must be 0
    assert not torch.equal(draws[0], draws[1])


def test_without_binarization_intensities_are_used_as_they_are():
    batch = grey("none").batch(torch.tensor([2, 2, 0]))
    np.testing.assert_allclose(batch, grey().pixels[[2, 2, 0]].numpy() / 255, rtol=1e-6)
    assert batch.dtype == torch.float32


def test_a_fixed_binarization_is_the_same_for_everybody():
    images = grey()
    state = torch.random.get_rng_state()
    fixed = images.binarized(seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert fixed.binarization == "none" and set(fixed.pixels.unique().tolist()) == {0, 255}
    assert torch.equal(fixed.pixels, images.binarized(seed=3).pixels)
    assert not torch.equal(fixed.pixels, images.binarized(seed=4).pixels)
    assert torch.equal(fixed.batch(torch.arange(4)), fixed.batch(torch.arange(4)))
    mean = torch.stack([images.binarized(seed).batch(torch.arange(4)) for seed in range(500)]).mean(0)
    intensity = images.pixels.float() / 255
    assert ((mean - intensity).abs() <= 5 * (intensity * (1 - intensity) / 500).sqrt()).all()


def test_digests_tell_data_apart():
    assert grey().digest == grey().digest != grey("none").digest
    assert grey().first(3).digest != grey().digest
    assert grey().to("cpu").digest == grey().digest


def test_first():
    few = grey().first(3)
    assert len(few) == len(few.labels) == 3 and torch.equal(few.pixels, grey().pixels[:3])
    assert len(grey().first(100)) == 4
    for n in (0, -1):
        with pytest.raises(ValueError, match=f"n: expected at least 1 image, got {n}"):
            grey().first(n)


@pytest.mark.parametrize(
    "arguments, named",
    [
        ((torch.zeros(3, 4), (2, 2)), "pixels"),
        ((torch.zeros(3, 2, 2, dtype=torch.uint8), (2, 2)), "pixels"),
        ((torch.zeros(0, 4, dtype=torch.uint8), (2, 2)), "pixels"),
        ((torch.zeros(3, 4, dtype=torch.uint8), (2, 3)), "shape"),
        ((torch.zeros(3, 4, dtype=torch.uint8), (2, 2), None, "static"), "binarization"),
    ],
)
def test_images_that_make_no_sense(arguments, named):
    with pytest.raises(ValueError, match=f"^{named}: "):
        Images("bad", *arguments)


def test_images_stay_bytes_in_memory():
    images = digits("train")
    assert images.pixels.dtype == torch.uint8
    assert images.pixels.untyped_storage().nbytes() == math.prod(images.pixels.shape)


# --- vectors ----------------------------------------------------------------------------------------------------------


def test_points_are_a_data_set():
    values = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    points = Points("sample", values)
    assert len(points) == 10 and points.name == "sample"
    assert torch.equal(points.batch(torch.tensor([4, 4, 1])), values[[4, 4, 1]])
    assert torch.equal(points.to("cpu").values, values)
    assert points.digest == Points("other", values.clone()).digest
    assert len({points.digest, Points("sample", values + 1).digest, Points("s", values.double()).digest}) == 3


@pytest.mark.parametrize(
    "bad", [torch.zeros(3), torch.zeros(0, 2), torch.zeros(3, 2, dtype=torch.long), torch.tensor([[math.nan]])]
)
def test_points_that_make_no_sense(bad):
    with pytest.raises(ValueError, match="^values: "):
        Points("sample", bad)
