"""celebA, cropped and resized once to 64×64 colour images in a memory-mapped array.

The official files `img_align_celeba.zip` and `list_eval_partition.txt` are looked for in `$AVB_DATA/celeba`, then in the
cache's `celeba/`. `prepare` writes the array into the cache; it may be interrupted and started again. Images are of 178×218
pixels; the middle 128×128, where the aligned face is, are resized to 64×64. The zip is read and never unpacked.
"""

import hashlib
import io
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from PIL import Image

from avb_core.data import DataMissing, Images, Split, cache_folder, data_folders, require_split, retrieve
from avb_core.runs import CorruptFile, read_json, write_atomically, write_json

ZIP, PARTITION = "img_align_celeba.zip", "list_eval_partition.txt"
SPLITS = {"train": "0", "valid": "1", "test": "2"}  # as the partition file numbers them
INSIDE = "img_align_celeba/"  # the zip's one folder
ALIGNED, CROP, SIDE = (178, 218), 128, 64
PIXELS = 3 * SIDE * SIDE
LARGEST_JPEG = 2**20  # bytes; celebA's have about 7,000
# What Pillow and zipfile raise for a damaged file, one that is encrypted or compressed otherwise, or a bomb.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
    Image.DecompressionBombError,
)
BLOCK = 1024  # images that are decoded, and written, at a time
# The authors' own links; torchvision has the same checksums.
ON_GOOGLE_DRIVE = {
    PARTITION: ("0B7EVK8r0v71pY0NSMzRuSXJEVkk", "d32c9cbf5e040fd4025c592c306e6668"),
    ZIP: ("0B7EVK8r0v71pZjFTYXZWM3FlRnM", "00d2c5bc6d35e252742224ab0c1e8fcb"),
}
HOW_TO = (
    f"Download {ZIP} and {PARTITION} (celebA, 'Align&Cropped Images' and 'Train/Val/Test Partitions', from "
    "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; its licence is for research) and put both into $AVB_DATA/celeba"
)


@dataclass(frozen=True)
class Prepared:
    """An array of images on disk. Images that could not be read, or had another size than the official one, were left out."""

    path: Path
    images: int
    digest: str
    unreadable: int
    wrong_size: int


def celeba(split: Split) -> Images:
    """The images of a split, memory-mapped; they are prepared first if that has not been done.

    Raises DataMissing, saying which files to put where, and CorruptFile where a file is not what it should be.
    """
    require_split(split)
    prepared = prepare(split)
    pixels = np.memmap(prepared.path, dtype=np.uint8, mode="c", shape=(prepared.images, PIXELS))
    source = "celebA, the middle 128×128 pixels at 64×64"
    return Images("celeba", torch.from_numpy(pixels), (3, SIDE, SIDE), source=source, known_digest=prepared.digest)


def prepare(split: str, progress: Callable[[int, int], None] = lambda done, total: None) -> Prepared:
    """Crop and resize the images of a split into the cache, in parallel; an array that is there already is only checked.

    Interrupted, it goes on after the last whole block when it is called again. `progress` is told how many images of how many
    are done. Raises DataMissing where the official files are not found, and CorruptFile for a zip, a partition file or an array
    that is not what it should be.
    """
    source = _find()
    names = _names(source, split)
    array = cache_folder() / "celeba" / f"{split}_{SIDE}.uint8"
    about = array.with_suffix(".json")
    # What the array was made of: another zip, or other rows in the partition file, make another one.
    made_of = _digest_of([str((source / ZIP).stat().st_size), *names])
    if (prepared := _prepared_before(array, about, made_of)) is None:
        array.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(array.with_suffix(".lock")):
            # Whoever had the lock may have prepared them by now.
            if (prepared := _prepared_before(array, about, made_of)) is None:
                prepared = _write(source / ZIP, names, array, progress)
                stored = {name: value for name, value in asdict(prepared).items() if name != "path"}
                write_json(about, {"made_of": made_of, **stored})
    return prepared


def _prepared_before(array: Path, about: Path, made_of: str) -> Prepared | None:
    """What was prepared of these files, checked, if it was."""
    if not about.exists() or (stored := read_json(about)).pop("made_of") != made_of:
        return None
    prepared = Prepared(array, **stored)
    if not array.is_file() or _digest_of_file(array) != prepared.digest:
        raise CorruptFile(f"{array}: not the {prepared.images} images that were written; remove it and {about}")
    return prepared


def fetch_celeba() -> Path:
    """Download the two official files into the cache, each checked by its MD5; the host often refuses.

    Returns the folder. Raises DataMissing, saying which files to put where, if it does or the cache cannot be written.
    """
    folder = cache_folder() / "celeba"
    for name, (drive_id, checksum) in ON_GOOGLE_DRIVE.items():
        url = f"https://drive.google.com/uc?export=download&id={drive_id}"
        if failure := retrieve(url, f"md5:{checksum}", folder / name):
            raise DataMissing(f"{name} could not be downloaded ({failure}). {HOW_TO}.")
    return folder


def _write(archive: Path, names: list[str], array: Path, progress: Callable[[int, int], None]) -> Prepared:
    folder = array.with_suffix(".parts")
    blocks = [names[i : i + BLOCK] for i in range(0, len(names), BLOCK)]
    # A block is named by what is in it, so that a left-over of another run is not taken for it.
    parts = [folder / f"{_digest_of(block)}.npz" for block in blocks]
    # Threads: Pillow lets go of Python's lock while it decodes.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        waiting = [
            pool.submit(_decode_block, archive, block, part)
            for block, part in zip(blocks, parts, strict=True)
            if not part.exists()
        ]
        for done, future in enumerate(as_completed(waiting), start=len(blocks) - len(waiting) + 1):
            future.result()
            progress(min(len(names), done * BLOCK), len(names))
    images, unreadable, wrong_size = 0, 0, 0

    def join(temporary: Path) -> None:
        nonlocal images, unreadable, wrong_size
        with temporary.open("wb") as file:
            for part in parts:
                with np.load(part, allow_pickle=False) as block:
                    file.write(block["pixels"].tobytes())
                    images += len(block["pixels"])
                    unreadable += int(block["unreadable"])
                    wrong_size += int(block["wrong_size"])

    write_atomically(array, join)
    shutil.rmtree(folder, ignore_errors=True)
    return Prepared(array, images, _digest_of_file(array), unreadable, wrong_size)


def _decode_block(archive: Path, names: list[str], part: Path) -> None:
    pixels, unreadable, wrong_size = [np.empty((0, PIXELS), np.uint8)], 0, 0
    with zipfile.ZipFile(archive) as file:
        for name in names:
            try:
                if file.getinfo(name).file_size > LARGEST_JPEG:
                    raise ValueError(f"{name}: larger than any image of celebA")
                image = Image.open(io.BytesIO(file.read(name)))
                if image.size == ALIGNED:
                    pixels.append(to_square(image)[None])
                else:
                    wrong_size += 1
            except UNREADABLE:
                unreadable += 1

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, pixels=np.concatenate(pixels), unreadable=unreadable, wrong_size=wrong_size)

    write_atomically(part, write)


def to_square(image: Image.Image) -> np.ndarray:
    """The middle of an aligned image, as 3·64·64 bytes, colour by colour."""
    width, height = image.size
    left, top = (width - CROP) // 2, (height - CROP) // 2
    square = image.convert("RGB").crop((left, top, left + CROP, top + CROP))
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BOX)).transpose(2, 0, 1).reshape(-1)


def _find() -> Path:
    """The folder that holds both official files."""
    searched = [folder / "celeba" for folder in data_folders()]
    for folder in searched:
        if (folder / ZIP).is_file() and (folder / PARTITION).is_file():
            return folder
    raise DataMissing(f"celebA is in none of {', '.join(map(str, searched))}. {HOW_TO}.")


def _names(folder: Path, split: str) -> list[str]:
    """The names of a split's images within the zip, in their order."""
    partition = dict(_rows(folder / PARTITION))
    try:
        with zipfile.ZipFile(folder / ZIP) as file:
            entries = sorted(name for name in file.namelist() if not name.endswith("/"))
    except (zipfile.BadZipFile, OSError) as error:
        raise CorruptFile(f"{folder / ZIP}: not a whole zip file ({error})") from error
    for what, strange in (
        (f"not {INSIDE}NAME.jpg", [entry for entry in entries if not re.fullmatch(rf"{INSIDE}\w+\.jpg", entry)]),
        (f"without a row in {PARTITION}", [e for e in entries if e.removeprefix(INSIDE) not in partition]),
    ):
        if strange:
            raise CorruptFile(f"{folder / ZIP}: {len(strange)} entries are {what}, such as {strange[0]!r}")
    names = [entry for entry in entries if partition[entry.removeprefix(INSIDE)] == SPLITS[split]]
    if not names:
        raise CorruptFile(f"{folder / ZIP}: none of its {len(entries)} entries belongs to the {split} images")
    return names


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in SPLITS.values():
            raise CorruptFile(f"{path}, line {number}: expected a file's name and 0, 1 or 2, got {line!r}")
        yield fields[0], fields[1]


def _digest_of(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
