"""Execute the chapters that changed and write their notebooks: `python -m tools.build_chapters [--force] [STEM ...]`.

A chapter's .md is the only file that anybody edits. Its .ipynb is built here, in a fresh kernel, without anything that
differs from run to run, and replaces the old one only when every cell has run without an error or a warning. Next to it go
the seconds, the memory, the size and the slowest redraw of a figure under sliders, which the tests hold against the book's
budget; the README's table shows them but the last.
"""

import argparse
import base64
import hashlib
import io
import os
import re
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from tools.book import ROOT, Chapter, chapters, read_book

RECORDS = ROOT / "figures" / "chapters.toml"
README = ROOT / "README.md"
BEGIN, END = "<!-- chapters: begin -->\n", "<!-- chapters: end -->\n"
SECONDS_PER_CELL = 600
# On Linux ru_maxrss would count what the parent held when it forked; elsewhere it is in bytes.
PEAK_GIB = (
    "int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 2**20"
    " if __import__('sys').platform == 'linux'"
    " else __import__('resource').getrusage(0).ru_maxrss / 2**30"
)
# None without sliders
SLOWEST_REDRAW = "getattr(__import__('sys').modules.get('avb_core.widgets'), 'slowest_redraw', float)()"

Record = dict[str, float]


class BuildError(Exception):
    """A chapter could not be built; the message says which cell and why."""


def read_source(path: Path) -> nbformat.NotebookNode:
    """The notebook that a MyST Markdown chapter describes, without outputs and with ids that depend on the text alone."""
    notebook = jupytext.read(path, fmt="md:myst")
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
        }
    )
    for index, cell in enumerate(notebook.cells):
        cell.id = digest(f"{index} {cell.source}".encode())[:8]
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path) -> Record:
    """Run every cell of `notebook` in place, in a fresh kernel started in `folder`, and return what it took.

    That is the seconds, the kernel's peak memory in GiB, and the CPU milliseconds of the slowest redraw under its sliders.
    """
    started = time.perf_counter()
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        timeout=SECONDS_PER_CELL,
        record_timing=False,
        coalesce_streams=True,
        store_widget_state=False,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # it warns of unencrypted TCP, within one machine
    )
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as error:
                raise BuildError(str(error)) from None
            for output in cell.get("outputs", []):
                if output.get("name") == "stderr":
                    raise BuildError(f"this cell writes to stderr:\n{cell.source}\n------\n{output.text}")
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = base64.b64encode(
                        packed(base64.b64decode(output.data["image/png"]))
                    ).decode()
        seconds = time.perf_counter() - started
        peak, redraw = (run_sync(evaluate)(client.kc, expression) for expression in (PEAK_GIB, SLOWEST_REDRAW))
    return {"seconds": round(seconds, 1), "peak_gib": round(peak, 2), "redraw_ms": round(redraw)}


def packed(png: bytes) -> bytes:
    """The same picture in fewer bytes: without an alpha channel that hides nothing, with a palette if 256 colours do."""
    image: Image.Image = Image.open(io.BytesIO(png))
    if image.mode == "RGBA" and image.getchannel("A").getextrema() == (255, 255):
        image = image.convert("RGB")
        if image.getcolors(256):
            image = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return min(png, written.getvalue(), key=len)


async def evaluate(kernel: Any, expression: str) -> float:
    """The number that an expression has in a running kernel, without a trace in the notebook."""
    reply = await kernel.execute("", silent=True, user_expressions={"value": expression}, reply=True, timeout=120)
    value = reply["content"]["user_expressions"]["value"]
    if value["status"] == "error":
        raise BuildError(f"{expression}\n{value['ename']}: {value['evalue']}")
    return float(value["data"]["text/plain"])


def build(chapter: Chapter, provenance: dict[str, str]) -> Record:
    """Execute one chapter, write its notebook at once or not at all, and return what it took."""
    notebook = read_source(chapter.source)
    record = execute(notebook, chapter.folder)
    notebook.metadata["avb"] = provenance
    nbformat.validate(notebook)
    half_written = chapter.notebook.with_suffix(".ipynb.part")
    half_written.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    half_written.replace(chapter.notebook)
    return record | {"megabytes": megabytes(chapter)}


def megabytes(chapter: Chapter) -> float:
    """Size of the built notebook."""
    return round(chapter.notebook.stat().st_size / 1e6, 2)


def provenance_of(chapter: Chapter) -> dict[str, str]:
    """Digests of what a chapter's outputs come from: its text; and the library, its settings and the stored results."""
    library = (ROOT / "avb_core").rglob("*.py")
    results = (path for path in (ROOT / "figures").rglob("*") if path.is_file() and path != RECORDS)
    results = (path for path in results if path.suffix not in {".py", ".pyc", ".svg"})
    inputs = (str(path.relative_to(ROOT)).encode() + path.read_bytes() for path in sorted([*library, *results]))
    settings = repr(read_book()["profiles"]).encode()
    return {"source": digest(chapter.source.read_bytes())[:16], "inputs": digest(b"".join([settings, *inputs]))[:16]}


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_current(chapter: Chapter, provenance: dict[str, str]) -> bool:
    """Whether the chapter's notebook was built from just these inputs."""
    if not chapter.notebook.exists():
        return False
    return bool(nbformat.read(chapter.notebook, as_version=4).metadata.get("avb") == provenance)


def read_records() -> dict[str, Record]:
    """What each built chapter took, by its stem."""
    return tomllib.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else {}


def write_records(records: dict[str, Record]) -> None:
    """Store the records and show them in the README's table."""
    lines = [
        "# What each chapter takes under the quick profile: `make chapters` writes this file and the README's table."
    ]
    for stem, record in sorted(records.items()):
        lines += ["", f"[{stem}]", *(f"{key} = {value}" for key, value in record.items())]
    RECORDS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    README.write_text(before + BEGIN + table(records) + END + rest.split(END)[1], encoding="utf-8")


def table(records: dict[str, Record]) -> str:
    """The README's table of chapters."""
    lines = ["| | chapter | to read | to run | memory | notebook |", "| --: | :-- | --: | --: | --: | --: |"]
    part = None
    for chapter in chapters():
        if chapter.part != part:
            part = chapter.part
            lines.append(f"| | **{part}** | | | | |")
        if chapter.written and chapter.stem in records:
            record = records[chapter.stem]
            title = f"[{chapter.title}](chapters/{chapter.notebook.name})"
            cost = f"{reading_minutes(chapter)} min | {record['seconds']:.0f} s"
            cost += f" | {record['peak_gib']:.1f} GiB | {record['megabytes']:.1f} MB"
        else:
            title, cost = chapter.title, "to come | | |"
        lines.append(f"| {chapter.number} | {title} | {cost} |")
    return "\n".join(lines) + "\n"


def reading_minutes(chapter: Chapter) -> int:
    """What a chapter's beginning says that it takes. Raises ValueError where it does not say so."""
    found = re.search(r"It\s+takes\s+about\s+(\d+)\s+minutes", chapter.source.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError(f"{chapter.source.name}: expected a sentence such as 'It takes about 75 minutes'")
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description="Execute the chapters that changed and write their notebooks.")
    parser.add_argument("stems", nargs="*", metavar="STEM", help="only these chapters, such as 07_avb")
    parser.add_argument("--force", action="store_true", help="also those that did not change")
    arguments = parser.parse_args()
    written = {chapter.stem: chapter for chapter in chapters(written_only=True)}
    if unknown := set(arguments.stems) - set(written):
        parser.error(f"book.toml lists no written chapter {', '.join(sorted(unknown))}; it lists {', '.join(written)}")

    # A chapter shows still pictures in place of its sliders when AVB_BUILD is set.
    os.environ.update(AVB_PROFILE="quick", AVB_BUILD="1")
    records = {stem: record for stem, record in read_records().items() if stem in written}
    for stem in arguments.stems or written:
        chapter = written[stem]
        provenance = provenance_of(chapter)
        if not arguments.force and stem in records and is_current(chapter, provenance):
            print(f"{stem}: unchanged")
            continue
        try:
            records[stem] = build(chapter, provenance)
        except BuildError as error:
            sys.exit(f"{stem}: not built\n{error}")
        write_records(records)
        print(f"{stem}: " + ", ".join(f"{value} {key}" for key, value in records[stem].items()))
    write_records(records)


if __name__ == "__main__":
    main()
