"""The rows of a file as users have it: how its bytes are understood, by its ending."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from lofit_lens.documents import check_size
from lofit_lens.errors import DataError, LofitLensError
from lofit_lens.files import whole
from lofit_lens.tasks import readers
from lofit_lens.tasks.readers import Problem, Row

FORMATS = (".csv", ".tsv", ".jsonl", ".json", ".txt", ".parquet")
"""The endings that can be read; behind each of them ".gz" may stand."""

_GZIP = ".gz"
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_SPREADSHEETS = {".csv": ",", ".tsv": "\t"}
_TEXTS = {".jsonl": readers.jsonl_rows, ".json": readers.json_rows, ".txt": readers.paired_lines}


@dataclass(frozen=True)
class Table:
    """The rows of one file, or of one object in memory.

    Attributes:
        name: What messages call it.
        rows: The rows that could be read.
        problems: What is wrong with those that could not.
        unit: What the number of a row counts: a "line" of a text, or a "row".
        notes: How the bytes were understood, where that is not a matter of course.
    """

    name: str
    rows: list[Row]
    problems: list[Problem]
    unit: str = "line"
    notes: tuple[str, ...] = ()


def stem(path: Path) -> str:
    """The name of a file without its endings."""
    return Path(_unzipped_name(path)).stem


def read_table(path: Path) -> Table:
    """Read a file by its ending.

    Raises:
        DataError: The file is missing, of an unknown format, or holds no rows.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    ending = Path(_unzipped_name(path)).suffix.lower()
    if ending not in FORMATS:
        raise DataError(
            f"{path.name} has none of the known endings {', '.join(FORMATS)} (also with .gz behind)."
        )
    content = _unzipped(path)
    if ending == ".parquet":
        return _table(path, readers.parquet_rows(path, content), "row", ())
    text, encoding = _decoded(path, content, ending)
    notes = () if encoding.startswith("utf-8") else (f"text in {encoding}",)
    if ending in _SPREADSHEETS:
        found, delimiter = readers.separated_rows(path, text, usual=_SPREADSHEETS[ending])
        if delimiter != _SPREADSHEETS[ending]:
            notes = (f"cells separated by {delimiter!r}", *notes)
    else:
        found = _TEXTS[ending](path, text)
    return _table(path, found, "line", notes)


def _table(path: Path, found: Iterable[Row | Problem], unit: str, notes: tuple[str, ...]) -> Table:
    both = list(found)
    if not both:
        raise DataError(f"{path} holds no rows.")
    if len({part.line for part in both}) < len(both):  # a JSON list with several rows on one line
        both = [replace(part, line=number) for number, part in enumerate(both, start=1)]
        unit = "row"
    rows = [row for row in both if isinstance(row, Row)]
    problems = [problem for problem in both if isinstance(problem, Problem)]
    return Table(path.name, rows, problems, unit, notes)


def _unzipped_name(path: Path) -> str:
    return path.name[: -len(_GZIP)] if path.name.lower().endswith(_GZIP) else path.name


def _unzipped(path: Path) -> bytes:
    try:
        content = whole(path)
        check_size(content)
    except (OSError, LofitLensError) as error:
        raise DataError(f"{path} cannot be read: {str(error).rstrip('.')}.") from error
    return content


def _decoded(path: Path, content: bytes, ending: str) -> tuple[str, str]:
    """The text and its encoding: UTF-8, UTF-16 with a mark, or what spreadsheets on Windows write."""
    encoding = next((e for mark, e in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding), encoding
    except UnicodeDecodeError as error:
        if ending not in (".json", ".jsonl"):
            with suppress(UnicodeDecodeError):
                return content.decode("cp1252"), "cp1252 (Windows)"
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} line {line}: not UTF-8 text: {error}. Save it as UTF-8."
        ) from error
