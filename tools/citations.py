"""Citations in prose, such as "Neal (2001)" or "(Wu et al., 2017)", and the entries of references.bib that they mean.

They are written as they read. The static book makes links of them (`tools.site_nodes`), and a name and year without an entry is
an error. Works of the same authors and year are told apart by a letter: "2017b", in the entry as in the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from pybtex.database import Entry, parse_file

from tools.book import CHAPTERS

BIBLIOGRAPHY = CHAPTERS / "references.bib"
NAME = r"[^\W\d_a-z][\w-]*[^\W\d_]"
CITATION = re.compile(
    rf"(?<![\w-])(?P<names>{NAME}(?:(?:,\s+|\s+and\s+){NAME})*(?:\s+et\s+al\.)?)(?:['’]s)?"
    r"(?:,\s+(?P<year>(?:19|20)\d\d[a-z]?)\b(?=[);,])|\s+\((?P<bracketed>(?:19|20)\d\d[a-z]?)\b(?P<end>\)?))"
)


@dataclass(frozen=True)
class Citation:
    """A place in a text that cites: from `start` to `end`, and the entry that it means, None where there is none."""

    start: int
    end: int
    key: str | None


@cache
def forms() -> dict[tuple[str, str], str]:
    """The key of every entry by the ways to cite it, as (names, year). Raises ValueError where two share one."""
    found: dict[tuple[str, str], str] = {}
    for key, entry in parse_file(BIBLIOGRAPHY).entries.items():
        for names in ways_to_name(entry):
            form = (names, entry.fields.get("year", ""))
            if form in found:
                raise ValueError(f"references.bib: {form} may be {found[form]} or {key}; append a letter to a year")
            found[form] = key
    return found


def ways_to_name(entry: Entry) -> list[str]:
    """How a text may name a work's authors: all up to three, or the first alone."""
    names = [" ".join(map(str, [*person.rich_prelast_names, *person.rich_last_names])) for person in authors(entry)]
    ways = [" and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))] if len(names) <= 3 else []
    return ways + ([f"{names[0]} et al."] if len(names) >= 3 else [])


def authors(entry: Entry) -> list:
    """The persons who wrote a work."""
    return entry.persons["author"]


def citations(text: str) -> Iterator[Citation]:
    """All places of `text` that cite, in order. What stands before a comma may be no author: "of GANs, Neal (2001)"."""
    for found in CITATION.finditer(text):
        names, year = found["names"], found["year"] or found["bracketed"]
        starts = [0, *(comma.end() for comma in re.finditer(r",\s+", names))]
        known = ((start, forms().get((" ".join(names[start:].split()), year))) for start in starts)
        start, key = next(((start, key) for start, key in known if key), (0, None))
        yield Citation(found.start() + start, found.end(), key)
