"""Lists of heads as people write them: arrays, JSON, tables, and names such as L1H3."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from lofit_lens.arrays import npy_array
from lofit_lens.documents import MOST_BYTES, typed
from lofit_lens.errors import LofitLensError
from lofit_lens.files import read_json_gz, whole
from lofit_lens.grid import MOST

T = TypeVar("T")

ENDINGS = (".npy", ".json", ".csv", ".tsv", ".txt")

EXPECTED = (
    "Expected rows of (layer, head): .npy, JSON [[1, 3], [2, 7]], a table with the columns layer and "
    "head, or L1H3,L2H7."
)

_NAME = r"L(\d+)H(\d+)"
_NAMES = re.compile(rf"\s*{_NAME}(?:[\s,;]+{_NAME})*[\s,;]*", re.IGNORECASE)


def is_head_list(name: str | Path) -> bool:
    """Whether a name is that of a file with heads, or names the heads itself."""
    return Path(name).suffix.lower() in ENDINGS or _NAMES.fullmatch(str(name)) is not None


def read_head_list(
    source: str | Path, of_object: Callable[[Mapping[str, Any]], T] = dict
) -> T | list[tuple[int, int]]:
    """Read a head list.

    Args:
        source: A `.npy` with rows of layer and head, a `.json` with a list of them or written by
            `HeadSet.save`, a `.csv` or `.tsv` with the columns layer and head, a `.txt` with names
            such as `L1H3`; or those names themselves, separated by commas or white space.
        of_object: Makes something of the object of a JSON file, which has the shape of the model too.

    Returns:
        Rows of layer and head, or what was made of an object.

    Raises:
        LofitLensError: There is no such file, or a table lacks the columns.
        ValueError, TypeError, OverflowError: The content is none of these.
    """
    path = Path(source)
    if not path.is_file():
        if _NAMES.fullmatch(str(source)):
            return _named(str(source))
        raise LofitLensError(f"No head list at {path}. {EXPECTED}")
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv"):
        return _table(path)
    if ending == ".txt":
        return _named(whole(path).decode("utf-8-sig"))
    if ending != ".json":
        return _array(path)

    def build(content: Any) -> T | list[tuple[int, int]]:
        return of_object(content) if isinstance(content, Mapping) else _listed(content)

    return read_json_gz(path, build, what="a head list")


def _named(text: str) -> list[tuple[int, int]]:
    if not _NAMES.fullmatch(text):
        raise ValueError(f"{text.strip()[:40]!r} does not name heads")
    return [(int(layer), int(head)) for layer, head in re.findall(_NAME, text, re.IGNORECASE)]


def _array(path: Path) -> list[tuple[int, int]]:
    """The rows of a `.npy` file."""
    with path.open("rb") as file:
        found = npy_array(file.read(MOST_BYTES))
    if found.dtype.kind not in "iu" or found.shape != (len(found), 2) or len(found) > MOST**2:
        raise ValueError(f"it holds numbers of type {found.dtype} in the shape {found.shape}")
    return [(layer, head) for layer, head in found.tolist()]


def _listed(content: Any) -> list[tuple[int, int]]:
    """The heads of a JSON list."""
    parts = content if isinstance(content, list) else [content]
    try:
        return typed([_head(part) for part in parts], list[tuple[int, int]])
    except LofitLensError as error:
        raise LofitLensError(f"{error}. {EXPECTED}") from error


def _head(part: Any) -> Any:
    """A row of a JSON list: numbers, a name, or an object with both."""
    if isinstance(part, str):
        return _named(part)[0]
    return (part.get("layer"), part.get("head")) if isinstance(part, dict) else part


def _table(path: Path) -> list[tuple[int, int]]:
    from lofit_lens.tasks.tables import read_table

    table = read_table(path)
    columns = {name.strip().lower(): name for row in table.rows for name in row.values}
    if not {"layer", "head"} <= set(columns):
        raise LofitLensError(
            f"{path.name} has no columns layer and head; its columns: {', '.join(columns.values())}."
        )
    if table.problems:
        raise LofitLensError(f"{path.name} line {table.problems[0].line}{table.problems[0].what}.")
    return [(int(r.values[columns["layer"]]), int(r.values[columns["head"]])) for r in table.rows]
