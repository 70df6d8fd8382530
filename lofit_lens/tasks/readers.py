"""Rows out of CSV, JSONL, a JSON list, paired lines or Parquet, each with its line or number."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lofit_lens.documents import MOST_BYTES, MOST_VALUES, TOO_DEEP, check_content, decoded
from lofit_lens.errors import DataError, LofitLensError

GOOD, BAD = "sentence_good", "sentence_bad"
"""The columns of BLiMP, and what the lines of a text of pairs are called."""

_DELIMITERS = ",;\t|"
_SNIFFED = 50
"""Rows looked at to find the delimiter."""


@dataclass(frozen=True)
class Row:
    """One row of a file: the line it starts on (or its number), and its values by column."""

    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row, as it goes on behind "line N", and the line it starts on."""

    line: int
    what: str


def separated_rows(path: Path, text: str, *, usual: str) -> tuple[Iterator[Row | Problem], str]:
    """The rows of a CSV or TSV file and the delimiter found.

    Args:
        path: For messages.
        text: The content; a first line `sep=;`, as Excel writes it, names the delimiter.
        usual: The delimiter that goes with the ending; taken where nothing speaks for another.
    """
    first, _, rest = text.partition("\n")
    if first.startswith("sep=") and len(first.rstrip("\r")) == 5:
        return _separated(path, rest, first[4], skipped=1), first[4]
    delimiter = _delimiter(text, usual)
    return _separated(path, text, delimiter, skipped=0), delimiter


def _delimiter(text: str, usual: str) -> str:
    """The delimiter under which most rows have as many cells as the header, two at least."""

    def agreement(delimiter: str) -> tuple[float, bool]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            header, *rows = islice((row for row in reader if row), _SNIFFED)
        except (ValueError, csv.Error):
            return 0.0, delimiter == usual
        alike = sum(len(row) == len(header) for row in rows) / max(1, len(rows))
        return (1 + alike if len(header) > 1 else 0.0), delimiter == usual

    return max(_DELIMITERS, key=agreement)


def _separated(path: Path, text: str, delimiter: str, *, skipped: int) -> Iterator[Row | Problem]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        named = [name for name in header if name]
        if len(set(named)) != len(named):
            raise DataError(f"{path}: column names repeat in the header {header}.")
        line = reader.line_num + 1 + skipped
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                pass  # an empty line, as spreadsheets write it
            elif len(cells) == len(header):
                yield Row(line, dict(zip(header, cells, strict=True)))
            else:
                what = f": {len(cells)} cells, expected {len(header)} ({', '.join(header)})"
                yield Problem(line, what)
            line = reader.line_num + 1 + skipped
    except csv.Error as error:
        line = reader.line_num + skipped
        raise DataError(f"{path} line {line}: not readable as CSV: {error}.") from error


def jsonl_rows(_path: Path, text: str) -> Iterator[Row | Problem]:
    """One JSON object a line; empty lines do not count."""
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                yield _object_row(line, decoded(content.encode()))
            except LofitLensError as error:
                yield Problem(line, f": {error}, expected one object")


def json_rows(path: Path, text: str) -> Iterator[Row | Problem]:
    """A JSON list of objects."""
    decoder = json.JSONDecoder()
    place = _skip_space(text, 0)
    if text[place : place + 1] != "[":
        raise DataError(
            f"{path} does not start with a list. Expected a JSON list of objects; for one object a "
            "line, name the file .jsonl."
        )
    place = _skip_space(text, place + 1)
    while text[place : place + 1] != "]":
        line = text.count("\n", 0, place) + 1
        try:
            value, place = decoder.raw_decode(text, place)
            check_content(value)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {error.lineno}: not JSON: {error.msg}.") from error
        except RecursionError as error:
            raise DataError(f"{path} line {line}: {TOO_DEEP}.") from error
        except (ValueError, LofitLensError) as error:
            raise DataError(f"{path} line {line}: {error}.") from error
        yield _object_row(line, value)
        place = _skip_space(text, place)
        if text[place : place + 1] == ",":
            place = _skip_space(text, place + 1)
        elif text[place : place + 1] != "]":
            line = text.count("\n", 0, place) + 1
            raise DataError(f"{path} line {line}: expected a comma or the end of the list.")
    after = _skip_space(text, place + 1)
    if after < len(text):
        line = text.count("\n", 0, after) + 1
        raise DataError(f"{path} line {line}: text after the end of the list.")


def paired_lines(_path: Path, text: str) -> Iterator[Row | Problem]:
    """Minimal pairs in alternating lines, the better sentence first; empty lines do not count."""
    lines = [(n, line.strip()) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    for (line, good), (_, bad) in zip(lines[::2], lines[1::2], strict=False):
        yield Row(line, {GOOD: good, BAD: bad})
    if len(lines) % 2:
        yield Problem(lines[-1][0], ": a sentence alone, expected its worse twin on the next line")


def parquet_rows(path: Path, content: bytes) -> Iterator[Row]:
    """The rows of a Parquet file, counted from 1."""
    import pandas as pd

    try:
        from pyarrow.parquet import read_metadata

        told = read_metadata(io.BytesIO(content))
        size = sum(told.row_group(i).total_byte_size for i in range(told.num_row_groups))
        if size > MOST_BYTES or told.num_rows * told.num_columns > MOST_VALUES:
            raise ValueError(f"{told.num_rows:,} rows of {size:,} bytes are too many")
        frame = pd.read_parquet(io.BytesIO(content), dtype_backend="numpy_nullable")
    except ImportError as error:
        raise DataError(
            f"Reading {path.name} needs the package pyarrow: pip install pyarrow."
        ) from error
    except (ValueError, OSError) as error:  # pyarrow's own errors are both
        raise DataError(f"{path} is not readable as Parquet: {error}.") from error
    return numbered_rows(frame_records(frame))


def frame_records(frame: Any) -> list[dict[Any, Any]]:
    """The rows of a pandas frame; what is missing is None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def numbered_rows(records: Any) -> Iterator[Row]:
    """Mappings in memory as rows, counted from 1."""
    for number, record in enumerate(records, start=1):
        yield Row(number, plain(record))


def plain(value: Any) -> Any:
    """A value as JSON would hold it: arrays and tuples as lists, NumPy's scalars as Python's."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def _object_row(line: int, value: Any) -> Row | Problem:
    if isinstance(value, dict):
        return Row(line, value)
    return Problem(line, f": {type(value).__name__}, expected an object with columns")


def _skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place
