"""A run on disk: configuration, raw metrics, checkpoint and provenance. Everything is written whole or not at all.

A run folder holds `config.json`, `metrics.jsonl` (a line for each log step), `checkpoint.safetensors`, and at its end
`result.json` with the provenance. Tensors are stored as safetensors with a digest of their content; nothing is unpickled.
"""

import hashlib
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

LIBRARIES = ("torch", "numpy", "scipy", "lightning-fabric", "safetensors")


class CorruptFile(ValueError):
    """A file exists but does not hold what it should: half-written, truncated, altered, or of another kind."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)` in the same folder, then rename: readers see the old file or the new one, never a part.

    Raises OSError, with the folder or the file named, where it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    except OSError as error:
        raise type(error)(f"cannot write into {path.parent}: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # the name may otherwise reach the disk before the content does
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise OSError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read JSON; raises CorruptFile, with the path, where it does not parse."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{path}: not a whole JSON file ({error})") from error


def read_json_lines(path: Path) -> list[Any]:
    """Read one JSON value from each line; raises CorruptFile, with the path, where one does not parse."""
    try:
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CorruptFile(f"{path}: not whole lines of JSON ({error})") from error


def save_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able description as one safetensors file, with a digest of both, atomically."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    description = json.dumps(about, sort_keys=True, allow_nan=False)
    metadata = {"about": description, "digest": _digest(stored, description)}
    write_atomically(path, lambda temporary: save_file(stored, temporary, metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: (tensors on the CPU, description).

    Raises FileNotFoundError where there is no file, and CorruptFile where it is truncated, altered or of another kind.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CorruptFile(f"{path}: not a whole safetensors file ({error})") from error
    if "about" not in metadata or metadata.get("digest") != _digest(tensors, metadata["about"]):
        raise CorruptFile(f"{path}: the content does not match its digest; the file was altered or is not one of ours")
    return tensors, json.loads(metadata["about"])


def digest_of(content: Any) -> str:
    """A short digest of JSON-able content, to tell configurations apart."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Where and with what a result was computed: commit, library versions, device, threads, time (UTC)."""
    device = torch.device(device)
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _digest(tensors: Mapping[str, Tensor], description: str) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _commit() -> str:
    """The commit of the checkout that this package runs from, marked when the tree differs from it."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
