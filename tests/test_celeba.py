"""celebA: the official files, made up small, are read once and in order; damaged ones are named or counted."""

import io
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from PIL import Image

from avb_core import celeba as module
from avb_core import data
from avb_core.celeba import celeba, fetch_celeba, prepare, to_square
from avb_core.data import DataMissing
from avb_core.runs import CorruptFile

HERE = os.environ.get("AVB_DATA")


def jpeg(value, size=(178, 218)):
    """A picture whose brightness tells which it is."""
    file = io.BytesIO()
    Image.new("RGB", size, (value, 255 - value, 100)).save(file, "jpeg", quality=95)
    return file.getvalue()


@pytest.fixture
def official(tmp_path, monkeypatch):
    """Write official files of n images, every fifth of them for test; returns what to change them with."""
    monkeypatch.setenv("AVB_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(data.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    monkeypatch.setattr(module, "BLOCK", 4)
    folder = tmp_path / "data" / "celeba"
    folder.mkdir(parents=True)

    def write(n=20, rows=None, **changed):
        entries = {f"img_align_celeba/{i:06}.jpg": jpeg(10 * i) for i in range(1, n + 1)} | changed
        with zipfile.ZipFile(folder / module.ZIP, "w") as file:
            for name, content in entries.items():
                file.writestr(name, content)
        rows = rows or [f"{i:06}.jpg {2 if i % 5 == 0 else 0}" for i in range(1, n + 1)]
        (folder / module.PARTITION).write_text("\n".join(rows) + "\n")
        return folder

    return write


def brightness(images):
    return (
        (images.batch(torch.arange(len(images))).reshape(-1, 3, 64, 64)[:, 0].mean((1, 2)) * 25.5)
        .round()
        .int()
        .tolist()
    )


def test_images_are_read_in_order_and_by_split(official):
    official()
    train, test = celeba("train"), celeba("test")
    assert brightness(train) == [i for i in range(1, 21) if i % 5] and brightness(test) == [5, 10, 15, 20]
    assert train.shape == (3, 64, 64) and train.pixels.shape == (16, 3 * 64 * 64) and train.pixels.dtype == torch.uint8
    again = celeba("train")
    assert torch.equal(again.pixels, train.pixels) and again.digest == train.digest != test.digest


def test_the_face_is_in_the_middle_and_colours_follow_one_another():
    image = np.zeros((218, 178, 3), np.uint8)
    image[45 : 45 + 128, 25 : 25 + 128] = (200, 100, 50)
    square = to_square(Image.fromarray(image)).reshape(3, 64, 64)
    assert [np.unique(colour).tolist() for colour in square] == [[200], [100], [50]]
    image[45, 25] = 0
    assert to_square(Image.fromarray(image)).reshape(3, 64, 64)[0, 0, 0] == 150  # the mean of four pixels


def test_an_interrupted_preparation_goes_on(official):
    official()
    seen = []

    class Interrupted(Exception):
        pass

    def progress(done, total):
        seen.append((done, total))
        if len(seen) == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        prepare("train", progress)
    assert not list((data.cache_folder() / "celeba").glob("*.uint8"))
    left = sorted((data.cache_folder() / "celeba" / "train_64.parts").glob("*.npz"))
    assert len(left) >= 2
    assert brightness(celeba("train")) == [i for i in range(1, 21) if i % 5]
    assert not (data.cache_folder() / "celeba" / "train_64.parts").exists()


def test_damaged_images_are_left_out_and_counted(official):
    official(
        **{
            "img_align_celeba/000001.jpg": jpeg(10)[:300],
            "img_align_celeba/000002.jpg": b"not an image",
            "img_align_celeba/000003.jpg": jpeg(30, size=(218, 178)),
            "img_align_celeba/000004.jpg": b"\xff" * (module.LARGEST_JPEG + 1),
        }
    )
    prepared = prepare("train")
    assert (prepared.images, prepared.unreadable, prepared.wrong_size) == (12, 3, 1)
    assert brightness(celeba("train"))[0] == 6


def test_an_entry_that_does_not_unpack_is_left_out(official):
    """A flipped byte in a compressed entry, and a header that promises more pixels than fit into memory."""
    huge = bytearray(jpeg(20))
    frame = huge.index(b"\xff\xc0")
    huge[frame + 5 : frame + 9] = (60_000).to_bytes(2) * 2
    folder = official(**{"img_align_celeba/000002.jpg": bytes(huge)})
    with zipfile.ZipFile(folder / module.ZIP) as file:
        contents = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(folder / module.ZIP, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)
        info = file.getinfo("img_align_celeba/000001.jpg")
    raw = bytearray((folder / module.ZIP).read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    raw[start : start + 40] = b"\xff" * 40
    (folder / module.ZIP).write_bytes(bytes(raw))
    assert (prepare("train").images, prepare("train").unreadable) == (14, 2)


@pytest.mark.parametrize(
    "entry", ["../../000001.jpg", "/etc/000001.jpg", "img_align_celeba/../000001.jpg", "other/000001.jpg", "readme.txt"]
)
def test_a_zip_with_other_entries_is_refused(entry, official, tmp_path):
    official(**{entry: jpeg(1)})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CorruptFile, match=r"1 entries are not img_align_celeba/NAME\.jpg"):
        celeba("train")
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_and_damaged_official_files_are_named(official):
    folder = official(rows=["000001.jpg 0"])
    with pytest.raises(CorruptFile, match="19 entries are without a row in .*such as 'img_align_celeba/000002.jpg'"):
        celeba("train")
    for line in ("000001.jpg", "000001.jpg 3", "000001.jpg 0 0"):
        official(rows=["000002.jpg 0", line])
        with pytest.raises(CorruptFile, match="line 2: expected a file's name and 0, 1 or 2"):
            celeba("train")
    official()
    (folder / module.ZIP).write_bytes((folder / module.ZIP).read_bytes()[:1000])
    with pytest.raises(CorruptFile, match="not a whole zip"):
        celeba("train")
    (folder / module.ZIP).unlink()
    with pytest.raises(DataMissing, match=r"img_align_celeba\.zip and list_eval_partition\.txt .*AVB_DATA/celeba"):
        celeba("train")
    with pytest.raises(ValueError, match="^split: "):
        celeba("all")


def test_an_altered_array_is_not_loaded(official):
    official()
    path = prepare("test").path
    content = path.read_bytes()
    for altered in (content[:-1], content[:-1] + b"\x00", b""):
        path.write_bytes(altered)
        with pytest.raises(CorruptFile, match=r"test_64\.uint8: not the 4 images"):
            celeba("test")


def test_another_zip_makes_another_array(official):
    official()
    first = prepare("train")
    official(n=10)
    assert prepare("train").images == 8 != first.images


def test_fetching_says_what_to_do_where_the_host_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(data.platformdirs, "user_cache_dir", lambda name: str(tmp_path))

    class Refusing:
        def __init__(self, **options):
            pass

        def __call__(self, url, output_file, _):
            assert url.startswith("https://drive.google.com/")
            Path(output_file).write_text("<html>Quota exceeded</html>")

    monkeypatch.setattr(pooch, "HTTPDownloader", Refusing)
    with pytest.raises(DataMissing, match=r"list_eval_partition\.txt could not be downloaded .*AVB_DATA/celeba"):
        fetch_celeba()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(not HERE or not (Path(HERE) / "celeba").is_dir(), reason="the true celebA is tested where it is")
def test_the_true_files(tmp_path, monkeypatch):
    """A few hundred of them: nothing is left out, and faces are of skin's colour in the middle."""
    monkeypatch.setattr(data.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    names = module._names(Path(HERE) / "celeba", "train")
    monkeypatch.setattr(module, "_names", lambda source, split: names[:300])
    prepared = prepare("train")
    assert (prepared.images, prepared.unreadable, prepared.wrong_size) == (300, 0, 0)
    middle = celeba("train").batch(torch.arange(300)).reshape(-1, 3, 64, 64)[:, :, 24:40, 24:40].mean((0, 2, 3))
    assert middle[0] > middle[1] > middle[2]


def test_a_zip_without_images_of_a_split_is_named(official):
    official(n=4)  # the fifth would be the first for test
    assert prepare("train").images == 4
    with pytest.raises(CorruptFile, match="none of its 4 entries belongs to the test images"):
        prepare("test")


def test_two_at_once_prepare_the_images_once(official, monkeypatch):
    official()
    decoded = []
    decode = module._decode_block
    monkeypatch.setattr(
        module, "_decode_block", lambda archive, names, part: (decoded.extend(names), decode(archive, names, part))
    )
    with ThreadPoolExecutor(4) as pool:
        prepared = list(pool.map(prepare, ["train"] * 4))
    assert len({each.digest for each in prepared}) == 1 and prepared[0].images == 16
    assert len(decoded) == 16
