"""The book's table of contents, read from book.toml, and where its files lie."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ROOT / "chapters"


@dataclass(frozen=True)
class Chapter:
    """One chapter: `stem` is its file's name without suffix, such as 07_avb."""

    stem: str
    title: str
    part: str
    written: bool
    folder: Path = CHAPTERS

    @property
    def number(self) -> int:
        return int(self.stem.split("_")[0])

    @property
    def source(self) -> Path:
        """The MyST Markdown file: the only one that is edited."""
        return self.folder / f"{self.stem}.md"

    @property
    def notebook(self) -> Path:
        """The executed notebook that is built from the source."""
        return self.folder / f"{self.stem}.ipynb"


def read_book() -> dict[str, Any]:
    """All of book.toml."""
    return tomllib.loads((ROOT / "book.toml").read_text(encoding="utf-8"))


def chapters(written_only: bool = False) -> list[Chapter]:
    """All chapters in reading order, or those that are written."""
    listed = [
        Chapter(entry["file"], entry["title"], part["title"], entry.get("written", False))
        for part in read_book()["parts"]
        for entry in part["chapters"]
    ]
    return [chapter for chapter in listed if chapter.written or not written_only]
