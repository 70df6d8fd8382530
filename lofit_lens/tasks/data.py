"""What a task can be made of: a file, files of ready splits, or rows in memory."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lofit_lens.errors import DataError, LofitLensError, RowErrors
from lofit_lens.tasks.readers import Row, frame_records, numbered_rows
from lofit_lens.tasks.sources import data_folder
from lofit_lens.tasks.tables import Table, read_table, stem
from lofit_lens.tasks.task import Split

MEMORY = "memory:"
"""How the source of a task begins that was made of rows in memory."""

SPLITS: Mapping[str, Split] = {
    "train": "train", "training": "train",
    "val": "val", "validation": "val", "valid": "val", "dev": "val",
    "test": "test",
}  # fmt: skip
"""What a split may be called."""


@dataclass(frozen=True)
class Data:
    """Tables to make a task of.

    Attributes:
        tables: One table to be split, under None, or one for each ready split, under its name.
        name: A name for the task.
        source: Where the data came from, in JSON values.
    """

    tables: Mapping[Any, Table]
    name: str
    source: str | Mapping[str, str]

    def only(self, kept: Callable[[Sequence[Row]], Sequence[Row]]) -> Data:
        """The same data with some of the rows of each table."""
        tables = {s: replace(t, rows=list(kept(t.rows))) for s, t in self.tables.items()}
        return replace(self, tables=tables)

    @property
    def rows(self) -> list[Row]:
        """The rows of all tables."""
        return [row for table in self.tables.values() for row in table.rows]

    @property
    def columns(self) -> list[str]:
        """The columns of all rows."""
        return list(dict.fromkeys(column for row in self.rows for column in row.values))

    @property
    def called(self) -> str:
        """What messages call it."""
        return ", ".join(table.name for table in self.tables.values())

    @property
    def notes(self) -> list[str]:
        """How the bytes were understood."""
        return list(dict.fromkeys(note for table in self.tables.values() for note in table.notes))

    def row_errors(self) -> RowErrors:
        """One error for all problems of the rows, in the order of their lines."""
        told = [
            f"{table.name} {table.unit} {problem.line}{problem.what}"
            for table in self.tables.values()
            for problem in sorted(table.problems, key=lambda problem: problem.line)
        ]
        return RowErrors(told)


def read_files(path: str | Path | Mapping[str, str | Path]) -> Data:
    """Read one file, or one for each of the splits "train", "val" (may lack) and "test".

    Raises:
        DataError: A file cannot be read.
        LofitLensError: The argument is no path, or names other splits.
    """
    if isinstance(path, Mapping):
        files = {split: find(file) for split, file in _by_split(path).items()}
        tables = {split: read_table(file) for split, file in files.items()}
        source = {split: str(file) for split, file in files.items()}
        return Data(tables, _shared_name(files["train"]), source)
    file = find(path)
    return Data({None: read_table(file)}, stem(file), str(file))


def rows_in_memory(rows: Any) -> Data:
    """Take rows out of a pandas frame, a `datasets.Dataset`, a list of dicts, or one for each split.

    Raises:
        DataError: There are no rows.
        LofitLensError: The argument holds no rows of columns, or names other splits.
    """
    if isinstance(rows, Mapping):
        tables = {
            split: _table(part, f"the {split} rows") for split, part in _by_split(rows).items()
        }
    else:
        tables = {None: _table(rows, "the data")}
    values = [[row.values for row in table.rows] for table in tables.values()]
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=str)
    return Data(tables, "rows", MEMORY + hashlib.sha256(text.encode()).hexdigest()[:16])


def find(path: Any) -> Path:
    """A file where it is named, or else in `$LOFIT_LENS_DATA`.

    Raises:
        LofitLensError: The argument is no path.
    """
    if not isinstance(path, str | Path):
        raise LofitLensError(
            f"from_file reads files, got a {type(path).__name__}. For rows in memory (a pandas frame, "
            "a datasets.Dataset, a list of dicts) use from_rows."
        )
    path = Path(path).expanduser()
    folder = data_folder()
    if not path.exists() and folder and (folder / path).is_file():
        return (folder / path).resolve()
    return path.resolve() if path.exists() else path


def _by_split(parts: Mapping[Any, Any]) -> dict[Split, Any]:
    """Parts under the names of their splits, in the order of training, validation and test."""
    known = {SPLITS[name]: part for name, part in parts.items() if name in SPLITS}
    if len(known) < len(parts) or not {"train", "test"} <= set(known):
        raise LofitLensError(
            f"Ready splits are named train, val (may lack) and test, each once; got "
            f"{', '.join(map(str, parts)) or 'none'}."
        )
    return {split: known[split] for split in ("train", "val", "test") if split in known}


def _shared_name(file: Path) -> str:
    """The name of a training file without "train", or that of its folder."""
    rest = re.sub(r"[-_. ]*train(ing)?(?![a-z])[-_. ]*", "", stem(file), flags=re.IGNORECASE)
    return rest or file.parent.name or stem(file)


def _table(rows: Any, name: str) -> Table:
    if hasattr(rows, "notna"):  # a pandas frame; pandas is slow to import
        rows = frame_records(rows)
    records = list(rows) if isinstance(rows, Iterable) else None
    odd = next((r for r in records or () if not isinstance(r, Mapping)), None)
    if records is None or odd is not None or isinstance(rows, str):
        raise LofitLensError(
            f"from_rows takes rows that map columns to values (a pandas frame, a datasets.Dataset, a "
            f"list of dicts), got a {type(rows).__name__}"
            f"{f' with a {type(odd).__name__} in it' if odd is not None else ''}. For a file use "
            "from_file."
        )
    if not records:
        raise DataError(f"{name} has no rows.")
    return Table(name, list(numbered_rows(records)), [], "row")
