"""Reading rows from CSV, TSV, JSONL or a JSON list, each with the line it starts on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lofit_lens.errors import DataError

FORMATS = (".csv", ".tsv", ".jsonl", ".json")


@dataclass(frozen=True)
class Row:
    """One row of a file: the line it starts on, and its values by column."""

    line: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row, as it goes on behind "line N", and the line it starts on."""

    line: int
    what: str


def read_rows(path: Path) -> tuple[list[Row], list[Problem]]:
    """Read a file by its ending.

    Returns:
        The rows that could be read, and a problem for each that could not.

    Raises:
        DataError: The file is missing, of an unknown format, or holds no rows.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    kind = path.suffix.lower()
    if kind not in FORMATS:
        raise DataError(f"{path.name} has none of the known endings {', '.join(FORMATS)}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}. Save it as UTF-8.") from error
    if kind == ".jsonl":
        found = _jsonl_rows(text)
    elif kind == ".json":
        found = _json_rows(path, text)
    else:
        found = _csv_rows(path, text, "," if kind == ".csv" else "\t")
    both = list(found)
    rows = [row for row in both if isinstance(row, Row)]
    problems = [problem for problem in both if isinstance(problem, Problem)]
    if not rows and not problems:
        raise DataError(f"{path} holds no rows.")
    return rows, problems


def _csv_rows(path: Path, text: str, delimiter: str) -> Iterator[Row | Problem]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise DataError(f"{path}: column names repeat in the header {header}.")
        line = reader.line_num + 1
        for cells in reader:
            if len(cells) == len(header):
                yield Row(line, dict(zip(header, cells, strict=True)))
            elif cells:
                what = f": {len(cells)} cells, expected {len(header)} ({', '.join(header)})"
                yield Problem(line, what)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num}: not readable as CSV: {error}.") from error


def _jsonl_rows(text: str) -> Iterator[Row | Problem]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                yield _object_row(line, json.loads(content))
            except ValueError as error:
                yield Problem(line, f": not JSON ({error}), expected one object")


def _json_rows(path: Path, text: str) -> Iterator[Row | Problem]:
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
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {error.lineno}: not JSON: {error.msg}.") from error
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


def _object_row(line: int, value: Any) -> Row | Problem:
    if isinstance(value, dict):
        return Row(line, value)
    return Problem(line, f": {type(value).__name__}, expected an object with columns")


def _skip_space(text: str, place: int) -> int:
    while place < len(text) and text[place] in " \t\r\n":
        place += 1
    return place
