"""Files of ten rows, as tests write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lofit_lens.errors import RowErrors
from lofit_lens.tasks import Example, Task, from_file

Rows = list[dict[str, Any]]


def jsonl(folder: Path, rows: Rows, name: str = "own.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ten(make: Callable[[int], dict[str, Any]]) -> Rows:
    return [make(i) for i in range(10)]


def in_order(task: Task) -> list[Example]:
    every = task.train + task.val + task.test
    return sorted(every, key=lambda example: int(example.id.rpartition("-")[2]))


def read(folder: Path, make: Callable[[int], dict[str, Any]], **options: Any) -> Task:
    """The task of ten rows in a JSONL file."""
    task = from_file(jsonl(folder, ten(make)), **options)
    assert len(in_order(task)) == 10
    return task


def problem(folder: Path, rows: Rows, **options: Any) -> str:
    """What is wrong with the last of ten rows."""
    good = [rows[0]] * 9
    with pytest.raises(RowErrors) as error:
        from_file(jsonl(folder, [*good, rows[1]]), **options)
    (found,) = error.value.problems
    assert found.startswith("own.jsonl line 10")
    return found
