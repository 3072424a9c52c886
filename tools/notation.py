"""The rule that ties the tables of *Notation* to the code: names exist, parameters and shapes are those that are annotated.

A span in the column 'in code' or 'we write' is a name within avb_core: `f(a, b)` with all of its parameters, but those with a
default may be left out, or `f(…, b)` with one of them; a long name may be cut before a dot. The column 'shape' tells what the
first name gives: a result, one parameter or a field.
"""

import importlib
import inspect
import re
import typing
from types import NoneType
from typing import Any


def read_tables(text: str) -> list[dict[str, str]]:
    """Every row of every table outside of code, as a mapping from the table's columns to its cells."""
    rows: list[dict[str, str]] = []
    columns: list[str] = []
    for line in re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE).splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]] if line.startswith("|") else []
        if columns and cells and set(cells[0]) != {"-"}:
            rows.append(dict(zip(columns, cells, strict=True)))
        columns = (columns or cells) if cells else []
    return rows


def resolve(path: str) -> Any:
    """The object that a dotted name within avb_core stands for; of a class's or a module's annotated field, the annotation."""
    found: Any = importlib.import_module("avb_core")
    for part in path.split("."):
        if inspect.ismodule(found) and not hasattr(found, part):
            importlib.import_module(f"{found.__name__}.{part}")
        for owner in found.__mro__ if inspect.isclass(found) else [found]:
            annotated = vars(owner).get("__annotations__", {})
            if part in annotated or part in vars(owner):
                break
        found = annotated[part] if part in annotated else getattr(found, part)
    return found


def shapes(annotation: Any) -> list[str]:
    """The axes of an array, or of each array in a tuple; the name of any other type."""
    if hasattr(annotation, "dim_str"):
        return [annotation.dim_str.replace("#", "") or "()"]
    parts = [part for part in typing.get_args(annotation) if part is not NoneType]
    return [shape for part in parts for shape in shapes(part)] or [getattr(annotation, "__name__", str(annotation))]


def names(row: dict[str, str]) -> list[str]:
    """The code spans of a row that name something in avb_core, long ones joined again."""
    return re.findall(r"`([^`]+)`", (row.get("in code", "") + row.get("we write", "")).replace("` `.", "."))


def shapes_of(name: str) -> list[str]:
    """The shapes of what a code span names. Raises ValueError for other parameters, AttributeError for no such name."""
    path, called, inside = name.removesuffix(")").partition("(")
    found = resolve(path)
    if not called:
        return shapes(found)
    signature = inspect.signature(found)
    known = {key: parameter for key, parameter in signature.parameters.items() if key != "self"}
    given = inside.split(", ") if inside else []
    if given[:1] == ["…"] and len(given) == 2 and given[1] in known:
        return shapes(known[given[1]].annotation)
    needed = {key for key, parameter in known.items() if parameter.default is parameter.empty}
    if given != [key for key in known if key in given] or not needed <= set(given):
        raise ValueError(f"its parameters are ({', '.join(known)})")
    return shapes(signature.return_annotation)


def problems(rows: list[dict[str, str]]) -> list[str]:
    """Everything in which tables and code differ, with the row's first cell and the name; empty when they agree."""
    found = []
    for row in rows:
        stated = re.findall(r"`([^`]+)`", row.get("shape", ""))
        for index, name in enumerate(names(row)):
            try:
                actual = shapes_of(name)
            except (AttributeError, ImportError, ValueError) as error:
                found.append(f"{next(iter(row.values()))}: {name}: {error}")
                continue
            if stated and index == 0 and stated != actual:
                found.append(f"{next(iter(row.values()))}: {name}: its shape is {actual}, the table says {stated}")
    return found
